//! Valid inputs for each target, from which the checked-in corpus is written; hostile ones that once failed are added
//! to its folders by hand.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use bib_core::api::event::{Progress, Staged};
use bib_core::api::request::{ContextFor, Paging};
use bib_core::api::{ClientFrame, ErrorCode, Event, Failure, Request, ServerFrame, UploadPart};
use bib_core::backup::{BackupHeader, Kdf, Snapshot, SnapshotFile};
use bib_core::chunk::Chunk;
use bib_core::chunker::ChunkerParams;
use bib_core::encode::encode;
use bib_core::id::{ChunkId, ContentId, DatasetId, ManifestId, NodeId, OpId, TopicId, VersionId};
use bib_core::key::{Purpose, SecretKey};
use bib_core::model::manifest::{ChunkRef, Entry, EntryKind, ManifestKind, Page, PageList, PageRef, Root};
use bib_core::model::{ContentFormat, DatasetPath, Name, Visibility};
use bib_core::op::operation::{FieldChanges, NewVersion};
use bib_core::op::{Body, Class, Operation, Resource, Role, Unsigned};
use bib_core::place::FilePlace;
use bib_core::port::ChunkStore;
use bib_core::time::Timestamp;
use bib_core::wire::gossip::{GossipBody, GossipMessage, topic_name};
use bib_core::wire::message::{
    CatalogEntry, ChunkData, DataRequest, DataResponse, DiscoveryRequest, DiscoveryResponse, EntryVersion, Envelope,
    FindQuery, NodeMode, PeerInfo, Range, RangeState, Refusal, RefusalCode, SyncRequest, SyncResponse, TopicSummary,
};
use bib_storage_redb::SegmentStore;
use bib_storage_redb::chunks::format::{Key, Location, RecordCodec, RecordHeader, SegmentHeader};
use bib_storage_redb::crypto::{Cipher, SegmentSeal};
use serde_bytes::ByteBuf;

use crate::disk::FaultyDisk;

const TIME: Timestamp = Timestamp(1_795_530_245_000_000);

/// Writes the valid inputs of all targets below `corpus`, one file each, and leaves other files alone.
///
/// # Errors
/// When a file cannot be written.
pub fn write(corpus: &Path) -> std::io::Result<()> {
    for (target, inputs) in inputs() {
        let folder = corpus.join(target);
        fs::create_dir_all(&folder)?;
        for (i, input) in inputs.iter().enumerate() {
            fs::write(folder.join(format!("valid-{i:02}")), input)?;
        }
    }
    Ok(())
}

/// The shares of the golden fixture: each alone, and all together.
fn shares() -> Vec<String> {
    let fixture = include_str!("../../../core/fixtures/shares.txt");
    let lines: Vec<String> = fixture.lines().filter_map(|line| Some(line.split_once(' ')?.1.to_owned())).collect();
    let together = lines.join("\n");
    lines.into_iter().chain([together]).collect()
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a valid name")
}

fn ops() -> Vec<Operation> {
    let (owner, other) = (SecretKey::from_seed([1; 32]), SecretKey::from_seed([2; 32]));
    let mut ops: Vec<Operation> = Vec::new();
    let tags = Some(BTreeSet::from(["noaa".to_owned(), "daily".to_owned()]));
    let fields = FieldChanges { description: Some("Station records".to_owned()), tags, ..FieldChanges::default() };
    let bodies = [
        Body::CreateTopic {
            parent: None,
            name: name("wetter"),
            visibility: Visibility::Public,
            fields: fields.clone(),
        },
        Body::CreateDataset { name: name("größe"), fields: fields.clone() },
        Body::PublishVersion(NewVersion {
            dataset: DatasetId::from_bytes([3; 32]),
            semver: semver::Version::new(1, 2, 3),
            previous: Some(VersionId::from_bytes([4; 32])),
            message: "first".to_owned(),
            manifest: ManifestId::from_bytes([5; 32]),
            content: ContentId::from_bytes([6; 32]),
            size: 121_417,
            n_files: 1,
            format: ContentFormat::Csv,
            schema: None,
            row_count: Some(2_922),
            license: Some("CC0-1.0".to_owned()),
            source_url: None,
        }),
        Body::Grant {
            resource: Resource::Topic(TopicId::from_bytes([7; 32])),
            user: other.user_id(),
            role: Role::Contributor,
            expires_at: Some(TIME),
        },
        Body::Revoke {
            resource: Resource::Dataset(DatasetId::from_bytes([3; 32])),
            user: other.user_id(),
            keep_below: true,
        },
        Body::UpdateTopic(fields),
        Body::DeleteTopic { force: false },
    ];
    for body in bodies {
        let (topic, parents, lamport) = match ops.first() {
            None => (None, Vec::new(), 1),
            Some(root) => (Some(root.topic()), vec![root.id()], 2),
        };
        let keeps = if body.is_removal() { vec![OpId::from_bytes([9; 32])] } else { Vec::new() };
        let unsigned = Unsigned { topic, author: owner.user_id(), lamport, time: TIME, parents, keeps, body };
        ops.push(unsigned.sign(&owner).expect("the example obeys the rules"));
    }
    ops
}

fn envelopes<B>(bodies: Vec<B>) -> Vec<Vec<u8>>
where
    Envelope<B>: bib_core::encode::Versioned,
{
    bodies.into_iter().enumerate().map(|(i, body)| encode(&Envelope { req: i as u64 * 100, body })).collect()
}

fn pages() -> Vec<Vec<u8>> {
    let path = |text: &str| DatasetPath::new(text).expect("a valid path");
    let entry = |text: &str, offset| Entry {
        path: path(text),
        kind: EntryKind::File,
        size: 100,
        content: ContentId::from_bytes([1; 32]),
        offset,
    };
    let page = |depth_first: &str| PageRef {
        id: ChunkId::from_bytes([2; 32]),
        len: 4_000,
        count: 40,
        bytes: 0,
        first: depth_first.to_owned(),
    };
    let chunk = ChunkRef { id: ChunkId::from_bytes([3; 32]), len: 262_144 };
    let root = |entries, chunks| Root {
        kind: ManifestKind::Tree,
        chunker: ChunkerParams::with_average(256 << 10),
        n_entries: 2,
        n_chunks: 1,
        size: 200,
        entries,
        chunks,
        columns: None,
    };
    let entries = vec![entry("a/b c.csv", 0), entry("ü", 100)];
    [
        Page::Root(root(PageList::Inline(entries.clone()), PageList::Inline(vec![chunk]))),
        Page::Root(root(
            PageList::Pages { depth: 1, pages: vec![page("a"), page("b")] },
            PageList::Pages { depth: 0, pages: vec![page("")] },
        )),
        Page::Index(vec![page("a"), page("m")]),
        Page::Entries(entries),
        Page::Chunks(vec![chunk; 3]),
    ]
    .iter()
    .map(encode)
    .collect()
}

fn discovery() -> (Vec<DiscoveryRequest>, Vec<DiscoveryResponse>) {
    let topic = TopicId::from_bytes([1; 32]);
    let requests = vec![
        DiscoveryRequest::PeerInfo,
        DiscoveryRequest::ListTopics { after: Some(topic), limit: 50 },
        DiscoveryRequest::Find(FindQuery { text: Some("rain".to_owned()), limit: 50, ..FindQuery::default() }),
        DiscoveryRequest::Announce(vec![(topic, [2; 32])]),
    ];
    let version = EntryVersion {
        id: VersionId::from_bytes([3; 32]),
        semver: semver::Version::new(1, 0, 0),
        content: ContentId::from_bytes([4; 32]),
        manifest: ManifestId::from_bytes([5; 32]),
        size: 7,
        format: ContentFormat::Tree,
    };
    let dataset = DatasetId::from_bytes([6; 32]);
    let entry = CatalogEntry { topic, path: "a/b".to_owned(), dataset, version: Some(version), updated_at: TIME };
    let responses = vec![
        DiscoveryResponse::PeerInfo(PeerInfo {
            node: NodeId::from_bytes([7; 32]),
            addresses: vec!["/ip4/127.0.0.1/tcp/4001".to_owned()],
            mode: NodeMode::Full,
            version: "0.1.0".to_owned(),
            protocols: vec!["/bib/data/1.0.0".to_owned()],
            free_bytes: 1 << 40,
            catalog: [3; 16],
        }),
        DiscoveryResponse::Topics {
            topics: vec![TopicSummary { id: topic, parent: None, name: name("a"), heads_hash: [8; 32] }],
            more: true,
        },
        DiscoveryResponse::Entries { entries: vec![entry], total: 1 },
        DiscoveryResponse::Wanted(vec![topic]),
        DiscoveryResponse::Refused(Refusal { code: RefusalCode::RateLimited, message: "later".to_owned() }),
    ];
    (requests, responses)
}

fn sync(op: &Operation) -> (Vec<SyncRequest>, Vec<SyncResponse>) {
    let (topic, class) = (op.topic(), Class::Content);
    let ranges = vec![
        Range { upper: Some((9, op.id())), state: Some(RangeState::Fingerprint { count: 3, sum: [1; 16] }) },
        Range { upper: None, state: Some(RangeState::Ids { ids: vec![op.position()], answer: true }) },
    ];
    let bytes = ByteBuf::from(op.bytes().to_vec());
    let requests = vec![
        SyncRequest::Summary { topic, class: Class::Access },
        SyncRequest::Reconcile { topic, class, ranges: ranges.clone() },
        SyncRequest::GetOps { ids: vec![op.id()] },
        SyncRequest::PushOps { ops: vec![bytes.clone()] },
        SyncRequest::Status { topic },
    ];
    let responses = vec![
        SyncResponse::Summary { heads: vec![op.id()], count: 1, sum: [2; 16] },
        SyncResponse::Ranges(ranges),
        SyncResponse::Ops(vec![bytes]),
        SyncResponse::Pushed { accepted: 1, rejected: vec![(op.id(), "denied".to_owned())] },
        SyncResponse::Status { in_progress: true, last_sync: Some(TIME), last_error: None, pending: 1, synced: 2 },
    ];
    (requests, responses)
}

fn data(chunk: &Chunk) -> (Vec<DataRequest>, Vec<DataResponse>) {
    let version = VersionId::from_bytes([1; 32]);
    let requests = vec![
        DataRequest::GetManifest { version, pages: Vec::new() },
        DataRequest::Have { version },
        DataRequest::GetChunks { version, ids: vec![chunk.id(); 3] },
        DataRequest::Cancel { req: 3 },
    ];
    let bytes = chunk.encoded().to_vec();
    let responses = vec![
        DataResponse::Chunk(ChunkData { id: chunk.id(), len: chunk.len(), codec: chunk.codec(), bytes }),
        DataResponse::Missing(chunk.id()),
        DataResponse::Have { complete: false, bitmap: vec![0xff, 3] },
        DataResponse::End,
    ];
    (requests, responses)
}

fn frames(op: &Operation) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let key = SecretKey::from_seed([1; 32]);
    let call = |request| ClientFrame::Call { id: 1, request_id: 2, deadline_ms: 30_000, request: Box::new(request) };
    let reference = "a/b@1.2:c".parse().expect("a valid reference");
    let client = [
        ClientFrame::Hello { api: 1 },
        ClientFrame::Auth(Some((key.user_id(), key.sign(Purpose::Auth, b"nonce")))),
        call(Request::OpContext(ContextFor::Content(op.topic()))),
        call(Request::OpSubmit { ops: vec![ByteBuf::from(op.bytes().to_vec())] }),
        call(Request::Versions { reference, paging: Paging { limit: 50, offset: 0 } }),
        ClientFrame::Upload { id: 1, part: UploadPart::Entry { path: "x/y".to_owned(), kind: EntryKind::File } },
        ClientFrame::Upload { id: 1, part: UploadPart::Data(ByteBuf::from(vec![1, 2, 3])) },
        ClientFrame::Upload { id: 1, part: UploadPart::InPlace(ByteBuf::from(b"/data/a.csv")) },
        ClientFrame::Cancel { id: 1 },
    ];
    let item = |event| ServerFrame::Item { id: 1, event: Box::new(event) };
    let server = [
        ServerFrame::Hello { api: 1, version: "0.1.0".to_owned(), node: NodeId::from_bytes([1; 32]), nonce: [2; 32] },
        ServerFrame::Ready,
        item(Event::Progress(Progress { done: 1, total: Some(2), ..Progress::default() })),
        item(Event::Staged(Staged {
            manifest: ManifestId::from_bytes([3; 32]),
            content: ContentId::from_bytes([4; 32]),
            size: 5,
            n_files: 1,
            n_chunks: 1,
            new_bytes: 5,
            stored_bytes: 5,
            referenced_bytes: 5,
        })),
        ServerFrame::End { id: 1 },
        ServerFrame::Failed {
            id: 1,
            failure: Failure::new(ErrorCode::NotFound, "no such topic").hinted("bib topic list"),
        },
    ];
    (client.iter().map(encode).collect(), server.iter().map(encode).collect())
}

fn segment_format(chunk: &Chunk) -> Vec<Vec<u8>> {
    let payload = chunk.encoded();
    let (raw_len, stored_len) = (chunk.len(), payload.len() as u32);
    let (key, codec) = (Key::plain(&chunk.id()), RecordCodec::Chunk(chunk.codec()));
    let record = RecordHeader { key, raw_len, stored_len, codec, cipher: None };
    let place = file_places().remove(0);
    let (stored_len_of_place, of_place) = (place.len() as u32, RecordCodec::Reference);
    let reference = RecordHeader { key, raw_len, stored_len: stored_len_of_place, codec: of_place, cipher: None };
    let cipher = Some(Cipher::ChaCha20Poly1305);
    let sealed = RecordHeader { cipher, ..record };
    let seal = SegmentSeal { salt: [2; 16], key_id: 3, check: [4; 8] };
    let location = Location { segment: 7, offset: 64, raw_len, stored_len, codec, cipher: None };
    vec![
        SegmentHeader { number: 7, store: [1; 16], seal: None }.encode().to_vec(),
        [&record.encode(payload), payload].concat(),
        location.encode().to_vec(),
        [&reference.encode(&place), place.as_slice()].concat(),
        SegmentHeader { number: 7, store: [1; 16], seal: Some(seal) }.encode().to_vec(),
        [&sealed.encode(payload), payload].concat(),
        Location { cipher, ..location }.encode().to_vec(),
    ]
}

fn backup_header() -> Vec<u8> {
    let key = zeroize::Zeroizing::new([7; 32]);
    let owner = SecretKey::from_seed([1; 32]);
    let kdf = Kdf { memory_kib: 19 << 10, passes: 3, lanes: 1, salt: serde_bytes::ByteArray::new([1; 16]) };
    let mut header = BackupHeader { id: [3; 16], created: TIME, slots: Vec::new() };
    header.add_passphrase(&key, kdf, &[9; 32], [2; 12]);
    header.add_user(&key, owner.user_id(), zeroize::Zeroizing::new([4; 32])).expect("a real key");
    header.add_node(&key, owner.node_id(), zeroize::Zeroizing::new([5; 32])).expect("a real key");
    encode(&header)
}

fn snapshot_files() -> Vec<Vec<u8>> {
    let snapshot = Snapshot {
        node: NodeId::from_bytes([1; 32]),
        time: TIME,
        manifest: ManifestId::from_bytes([2; 32]),
        size: 300,
        n_ops: 4,
        n_manifests: 5,
        content_bytes: 600,
        n_incomplete: 7,
        is_encrypted: false,
    };
    let sealed = ByteBuf::from(vec![8; 40]);
    vec![encode(&SnapshotFile { backup: [3; 16], time: TIME, sealed }), encode(&snapshot)]
}

fn catalog_entries() -> Vec<Vec<u8>> {
    let entry = |key: &[u8], value: &[u8]| bib_core::backup::entry(key, value).expect("short ones");
    vec![[entry(b"a", b""), entry(b"key", b"value"), entry(b"", &[7; 300])].concat()]
}

fn file_places() -> Vec<Vec<u8>> {
    let place = |path: &[u8], offset| FilePlace::new(path.to_vec(), offset).expect("a plain path");
    vec![encode(&place(b"/data/temps.csv", 0)), encode(&place(b"/media/usb\xff/a b", 1 << 40))]
}

/// A segment with several records, and the same one torn in the middle.
fn segment_files() -> Vec<Vec<u8>> {
    let disk = FaultyDisk::new();
    let store = SegmentStore::open(Box::new(disk.clone()), 64 << 10, [1; 16]).expect("a disk without faults");
    filled(&disk, &store)
}

/// The same sealed.
fn sealed_segments() -> Vec<Vec<u8>> {
    let disk = FaultyDisk::new();
    let store = super::sealed_store(&disk).expect("a disk without faults");
    filled(&disk, &store)
}

fn sealed_values() -> Vec<Vec<u8>> {
    let (table, key) = super::SEALED_AT;
    vec![super::keyring().seal_value(table, key, &[super::SEALED_VALUE]).expect("the system has random bytes")]
}

fn filled(disk: &FaultyDisk, store: &SegmentStore) -> Vec<Vec<u8>> {
    for i in 0..6_u8 {
        store.put(&Chunk::from_raw(vec![i; 40 * usize::from(i) + 1])).expect("a disk without faults");
    }
    let whole = disk.bytes("0000000000.seg").expect("the first segment");
    let mut torn = whole.clone();
    torn[200..220].fill(0);
    vec![whole, torn]
}

fn inputs() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let ops = ops();
    let chunk = Chunk::from_raw(b"station,date,tmax\n".repeat(100));
    let mut chunk_input = vec![chunk.codec() as u8];
    chunk_input.extend(chunk.len().to_le_bytes());
    chunk_input.extend(chunk.encoded());
    let text = ["weather/daily/temps@1.2.0:a/b.csv", "a~tabc/b~dabc@vabcdefgh", "ü/é@latest"];
    let ids = [SecretKey::from_seed([1; 32]).user_id().to_string(), NodeId::from_bytes([1; 32]).to_string()];
    let gossip = |body| encode(&GossipMessage { sent_at: TIME, body });
    let encoded = |op: &Operation| ByteBuf::from(op.bytes().to_vec());
    let (discovery_requests, discovery_responses) = discovery();
    let (sync_requests, sync_responses) = sync(&ops[1]);
    let (data_requests, data_responses) = data(&chunk);
    let (client, server) = frames(&ops[1]);
    vec![
        ("operation", ops.iter().map(|op| op.bytes().to_vec()).collect()),
        ("manifest_page", pages()),
        ("chunk", vec![chunk_input]),
        ("text", text.iter().map(|text| text.as_bytes().to_vec()).chain(ids.map(String::into_bytes)).collect()),
        ("share", shares().into_iter().map(String::into_bytes).collect()),
        (
            "gossip",
            vec![
                gossip(GossipBody::NewRoot(encoded(&ops[0]))),
                gossip(GossipBody::Ops(ops[1..3].iter().map(encoded).collect())),
                gossip(GossipBody::Heads(vec![(Class::Access, ops[0].id())])),
                topic_name(&ops[0].topic()).into_bytes(),
            ],
        ),
        ("discovery_request", envelopes(discovery_requests)),
        ("discovery_response", envelopes(discovery_responses)),
        ("sync_request", envelopes(sync_requests)),
        ("sync_response", envelopes(sync_responses)),
        ("data_request", envelopes(data_requests)),
        ("data_response", envelopes(data_responses)),
        ("client_frame", client),
        ("server_frame", server),
        ("segment_format", segment_format(&chunk)),
        ("segment_file", segment_files()),
        ("sealed_segment", sealed_segments()),
        ("sealed_value", sealed_values()),
        ("file_place", file_places()),
        ("backup_header", vec![backup_header()]),
        ("snapshot_file", snapshot_files()),
        ("catalog_entries", catalog_entries()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::TARGETS;

    #[test]
    fn every_target_takes_its_valid_inputs() {
        let inputs = inputs();
        for target in TARGETS {
            let (_, inputs) = inputs.iter().find(|(name, _)| *name == target.name).expect("each target has inputs");
            inputs.iter().for_each(|input| (target.run)(input));
        }
    }
}
