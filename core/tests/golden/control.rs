//! Frames of the control contract.

use bib_core::api::care::{Collected, Hurt, Pinned, Rebuilt, Scrubbed, Space, Verified, Worker};
use bib_core::api::event::{
    BackupMade, ConfigValue, Fetched, KeysFigures, OpContext, Peer, Progress, ShareText, SplitFigures, Staged, Status,
    Warning,
};
use bib_core::api::request::{ContextFor, LocalFile, Paging, Secret};
use bib_core::api::{API_VERSION, ClientFrame, ErrorCode, Event, Failure, Request, ServerFrame, UploadPart};
use bib_core::catalog::record::Kept;
use bib_core::id::{ContentId, DatasetId, ManifestId, NodeId, OpId, TopicId, VersionId};
use bib_core::key::{Purpose, SecretKey};
use bib_core::model::manifest::{Entry, EntryKind, ManifestKind};
use bib_core::model::{DatasetPath, PathPatterns, Reference};
use bib_core::op::{Resource, Role};
use bib_core::port::ChunkStoreStats;
use bib_core::share::SetId;
use bib_core::wire::message::NodeMode;
use serde_bytes::ByteBuf;

use crate::stored::{dataset, snapshot, topic, version};
use crate::wire::{catalog_entry, find_query};
use crate::{Case, TIME, check, named, variants};

variants!(ClientFrame: Hello Auth Call Upload Cancel);
variants!(UploadPart: Entry Data End InPlace);
variants!(ServerFrame: Hello Ready Item End Failed);
variants!(Request: Ping Status WhoAmI OpContext OpSubmit OpGet OpLog TopicGet TopicList TopicMembers DatasetGet DatasetList
    Versions VersionGet Find Ingest Fetch Entries Read ReadAll Peers Connect Disconnect Config Shutdown
    MayReference IngestInPlace Referenced ReadAllOrOriginals Workers Verify Pin Unpin Pins KeysStatus KeysRotate KeysSplit Gc Scrub Rebuild Backup Backups BackupVerify);
variants!(Event: Status WhoAmI OpContext Submitted Operation Topic Members Dataset Version Found Total Progress Warning
    Staged Fetched Entry Data Peer ConfigValue Referenced Original Worker Hurt Verified Pinned Keys Share Collected Scrubbed Rebuilt BackupMade Snapshot SnapshotVerified);

fn requests() -> Vec<Request> {
    let reference = || "weather/daily/temps@1.2:a/b.csv".parse::<Reference>().unwrap();
    let topic_path = || "weather/daily".parse().unwrap();
    let (topic, paging) = (TopicId::from_bytes([1; 32]), Paging { limit: 50, offset: 300 });
    vec![
        Request::Ping,
        Request::Status,
        Request::WhoAmI,
        Request::OpContext(ContextFor::Access(topic)),
        Request::OpContext(ContextFor::Content(topic)),
        Request::OpContext(ContextFor::Removal(topic)),
        Request::OpSubmit { ops: vec![ByteBuf::from(vec![1, 2, 3])] },
        Request::OpGet(OpId::from_bytes([2; 32])),
        Request::OpLog { topic: topic_path(), paging },
        Request::TopicGet(topic_path()),
        Request::TopicList { under: Some(topic_path()), paging },
        Request::TopicMembers(topic_path()),
        Request::DatasetGet(reference()),
        Request::DatasetList { topic: Some(topic_path()), paging },
        Request::DatasetList { topic: None, paging },
        Request::Versions { reference: reference(), paging },
        Request::VersionGet(reference()),
        Request::Find(find_query()),
        Request::Ingest {
            dataset: Some(DatasetId::from_bytes([3; 32])),
            kind: ManifestKind::Tree,
            expected: Some(300),
        },
        Request::Ingest { dataset: None, kind: ManifestKind::File, expected: None },
        Request::Fetch { reference: reference() },
        Request::Entries { reference: reference() },
        Request::Read { reference: reference(), offset: 300, len: Some(7) },
        Request::ReadAll { reference: reference(), paths: PathPatterns::new(vec!["*.csv".to_owned()]).unwrap() },
        Request::Peers,
        Request::Connect { address: "/ip4/127.0.0.1/tcp/4001".to_owned() },
        Request::Disconnect { node: NodeId::from_bytes([4; 32]) },
        Request::Config,
        Request::Shutdown,
        Request::MayReference { files: vec![LocalFile { path: ByteBuf::from(b"/data/a.csv"), device: 7, inode: 300 }] },
        Request::IngestInPlace { dataset: None, kind: ManifestKind::File, expected: Some(300) },
        Request::Referenced { reference: reference() },
        Request::ReadAllOrOriginals { reference: reference(), paths: PathPatterns::default() },
        Request::Workers,
        Request::Verify { reference: reference(), repair: true },
        Request::Pin(reference()),
        Request::Unpin { what: "weather/daily/temps@1.2.0".to_owned() },
        Request::Pins(paging),
        Request::KeysStatus,
        Request::KeysRotate { kek: true, data: false },
        Request::KeysSplit { threshold: 3, total: 5, to: vec![SecretKey::from_seed([1; 32]).user_id()] },
        Request::Gc { dry_run: true, min_age_s: Some(3_600) },
        Request::Gc { dry_run: false, min_age_s: None },
        Request::Scrub,
        Request::Rebuild,
        Request::Backup {
            to: Some("/backup/bib".to_owned()),
            passphrase: Some(Secret("horse".to_owned())),
            users: vec![SecretKey::from_seed([1; 32]).user_id()],
        },
        Request::Backups { at: None, passphrase: None },
        Request::BackupVerify { at: None, passphrase: None, snapshot: Some(TIME) },
    ]
}

fn status() -> Status {
    Status {
        node: NodeId::from_bytes([1; 32]),
        name: "board".to_owned(),
        version: "0.1.0".to_owned(),
        mode: NodeMode::Full,
        uptime_s: 300,
        addresses: vec!["/ip4/127.0.0.1/tcp/4001".to_owned()],
        n_peers: 1,
        n_topics: 2,
        n_datasets: 3,
        n_versions: 4,
        n_ops: 5,
        n_parked: 6,
        chunks: ChunkStoreStats {
            n_chunks: 1,
            stored_bytes: 2,
            raw_bytes: 3,
            n_segments: 4,
            fsyncs: 5,
            written_bytes: 6,
            referenced_bytes: 7,
            n_damaged: 1,
            allocated_bytes: 250_000,
            dead_bytes: 40_000,
            index_bytes: 60_000,
        },
        data_dir: "/var/lib/bib".to_owned(),
        free_bytes: 1 << 40,
        memory_limit: 32 << 20,
        rss_bytes: 8 << 20,
        threads: vec!["main".to_owned()],
        wire_received: 7,
        wire_sent: 8,
        gossip_refused: vec![("stale".to_owned(), 9)],
        workers: vec![("expire".to_owned(), "idle".to_owned())],
        read_only: Some("a sync failed".to_owned()),
        keys: Some(keys_figures()),
        space: Space {
            counted_at: Some(TIME),
            live_bytes: 1,
            kept_bytes: 2,
            released_bytes: 3,
            unreferenced_bytes: 4,
            dead_bytes: 5,
            index_bytes: 6,
            catalog_bytes: 7,
            quota_bytes: 8,
            remaining_bytes: 9,
            damaged_chunks: 10,
        },
        degraded: vec!["the quota is used up".to_owned()],
    }
}

fn keys_figures() -> KeysFigures {
    KeysFigures {
        cipher: "AES-256-GCM".to_owned(),
        generation: 2,
        fingerprint: "00ff".to_owned(),
        data_keys: vec![(1, TIME), (300, TIME)],
        split: Some(SplitFigures { set: SetId([7; 8]), threshold: 3, total: 5, time: TIME, is_stale: true }),
        is_partly_plain: true,
    }
}

fn events() -> Vec<Event> {
    let user = SecretKey::from_seed([1; 32]).user_id();
    let (node, id) = (NodeId::from_bytes([2; 32]), OpId::from_bytes([3; 32]));
    vec![
        Event::Status(Box::new(status())),
        Event::WhoAmI { user: Some(user), uid: Some(1_000), operator: true },
        Event::OpContext(OpContext { parents: vec![id], keeps: vec![id], lamport: 300, not_before: TIME }),
        Event::Submitted { ids: vec![id] },
        Event::Operation(ByteBuf::from(vec![1, 2, 3])),
        Event::Topic { path: "weather/daily".to_owned(), topic: Box::new(topic()), n_datasets: 3 },
        Event::Members {
            topic: TopicId::from_bytes([1; 32]),
            grants: vec![
                (Resource::Topic(TopicId::from_bytes([1; 32])), user, Role::Owner, None),
                (Resource::Dataset(DatasetId::from_bytes([4; 32])), user, Role::Reader, Some(TIME)),
            ],
        },
        Event::Dataset {
            path: "weather/daily/temps".to_owned(),
            dataset: Box::new(dataset()),
            latest: Some(Box::new(version())),
            here: true,
        },
        Event::Version { path: "weather/daily/temps".to_owned(), version: Box::new(version()), here: false },
        Event::Found(catalog_entry()),
        Event::Total(300),
        Event::Progress(Progress { done: 1, total: Some(2), files: 3, reused: 4, providers: 5 }),
        Event::Warning(Warning { message: "a symlink is skipped".to_owned() }),
        Event::Staged(Staged {
            manifest: ManifestId::from_bytes([5; 32]),
            content: ContentId::from_bytes([6; 32]),
            size: 7,
            n_files: 8,
            n_chunks: 9,
            new_bytes: 10,
            stored_bytes: 11,
            referenced_bytes: 12,
        }),
        Event::Fetched(Box::new(Fetched {
            version: version(),
            size: 1,
            received: 2,
            wire_bytes: 3,
            reused: 4,
            providers: vec![(node, 5)],
        })),
        Event::Entry(Entry {
            path: DatasetPath::new("a/b c.csv").unwrap(),
            kind: EntryKind::Executable,
            size: 100,
            content: ContentId::from_bytes([1; 32]),
            offset: 300,
        }),
        Event::Data(ByteBuf::from(vec![1, 2, 3])),
        Event::Peer(Peer {
            node,
            addresses: vec!["/ip4/127.0.0.1/tcp/4001".to_owned()],
            connected: true,
            agent: Some("bib/0.1.0".to_owned()),
            mode: Some(NodeMode::Selective),
            rtt_us: Some(300),
            last_seen: Some(TIME),
        }),
        Event::ConfigValue(ConfigValue {
            key: "node.mode".to_owned(),
            value: "\"full\"".to_owned(),
            origin: "built-in".to_owned(),
        }),
        Event::Referenced { bytes: 300 },
        Event::Original { path: ByteBuf::from(b"/data/a.csv") },
        Event::Worker(Worker {
            name: "gc".to_owned(),
            state: "idle".to_owned(),
            last_run: Some(TIME),
            next_run: None,
            progress: Some((1, Some(2))),
            figures: vec![("live_bytes".to_owned(), 300)],
        }),
        Event::Hurt(Hurt { path: Some(DatasetPath::new("a/b.csv").unwrap()), damaged: 1, missing: 2 }),
        Event::Verified(Verified {
            reference: "a/b@1.0.0".to_owned(),
            bytes: 1,
            chunks: 2,
            hurt_files: 3,
            damaged: 4,
            missing: 5,
            fetched: 6,
        }),
        Event::Pinned(Pinned {
            manifest: ManifestId::from_bytes([5; 32]),
            kept: Kept {
                version: VersionId::from_bytes([1; 32]),
                reference: "a/b@1.0.0".to_owned(),
                size: 300,
                since: TIME,
            },
            here: true,
        }),
        Event::Keys(Box::new(keys_figures())),
        Event::Keys(Box::new(KeysFigures { split: None, ..keys_figures() })),
        Event::Share { index: 1, user: Some(user), text: ShareText::new("bibsealed1-abcde") },
        Event::Share { index: 2, user: None, text: ShareText::new("bibshare1-abcde") },
        Event::Collected(Collected {
            dry_run: true,
            live_chunks: 1,
            live_bytes: 2,
            young_chunks: 3,
            young_bytes: 4,
            dead_chunks: 5,
            dead_bytes: 6,
            unlinked_bytes: 7,
            punched_bytes: 8,
            rewritten_bytes: 9,
            written_bytes: 10,
            evicted: 11,
        }),
        Event::Scrubbed(Scrubbed { chunks: 1, bytes: 2, damaged: 3, hurt: vec!["a/b@1.0.0".to_owned()] }),
        Event::Rebuilt(Rebuilt { chunks: 1, bytes: 2, lost: 3 }),
        Event::BackupMade(Box::new(BackupMade {
            to: "/backup/bib".to_owned(),
            snapshot: snapshot(),
            new_bytes: 300,
            stored_bytes: 301,
            removed: 2,
            freed_bytes: 302,
        })),
        Event::Snapshot(Box::new(snapshot())),
        Event::SnapshotVerified { time: TIME, bytes: 300, fault: Some("a chunk is missing".to_owned()) },
    ]
}

#[test]
fn frames_of_a_client() {
    let key = SecretKey::from_seed([1; 32]);
    let call =
        |(_, request)| ClientFrame::Call { id: 1, request_id: 2, deadline_ms: 30_000, request: Box::new(request) };
    let calls: Vec<(String, Request)> = named("request", requests());
    let mut cases: Vec<Case> =
        calls.into_iter().map(|(name, request)| Case::versioned(name.clone(), call((name, request)))).collect();
    let parts = vec![
        UploadPart::Entry { path: "x/y".to_owned(), kind: EntryKind::EmptyDir },
        UploadPart::Data(ByteBuf::from(vec![1, 2, 3])),
        UploadPart::End,
        UploadPart::InPlace(ByteBuf::from(b"/data/a.csv")),
    ];
    let uploads = named("upload", parts);
    cases.extend(uploads.into_iter().map(|(name, part)| Case::versioned(name, ClientFrame::Upload { id: 1, part })));
    let frames = vec![
        ClientFrame::Hello { api: API_VERSION },
        ClientFrame::Auth(Some((key.user_id(), key.sign(Purpose::Auth, b"nonce")))),
        ClientFrame::Auth(None),
        call((String::new(), Request::Ping)),
        ClientFrame::Upload { id: 1, part: UploadPart::End },
        ClientFrame::Cancel { id: 1 },
    ];
    cases.extend(named("client", frames).into_iter().map(|(name, frame)| Case::versioned(name, frame)));
    check("client", &cases);
}

/// All codes, in the order of their numbers. The enum may grow, so that nothing but the fixture says when one is missing
/// here; the test of numbers below does.
const CODES: [ErrorCode; 20] = [
    ErrorCode::Exists,
    ErrorCode::Conflict,
    ErrorCode::Precondition,
    ErrorCode::Archived,
    ErrorCode::LastOwner,
    ErrorCode::Quota,
    ErrorCode::RateLimited,
    ErrorCode::LimitExceeded,
    ErrorCode::Cancelled,
    ErrorCode::NoProvider,
    ErrorCode::Busy,
    ErrorCode::Invalid,
    ErrorCode::Unsupported,
    ErrorCode::NotFound,
    ErrorCode::Unreachable,
    ErrorCode::Unauthenticated,
    ErrorCode::Denied,
    ErrorCode::Integrity,
    ErrorCode::Timeout,
    ErrorCode::Internal,
];

#[test]
fn frames_of_a_node() {
    let item = |event| ServerFrame::Item { id: 1, event: Box::new(event) };
    let events = named("event", events());
    let mut cases: Vec<Case> = events.into_iter().map(|(name, event)| Case::versioned(name, item(event))).collect();
    for code in CODES {
        let failure = Failure::new(code, "no such topic").hinted("bib topic list");
        cases.push(Case::versioned(format!("failure.{code}"), ServerFrame::Failed { id: 1, failure }));
    }
    let frames = vec![
        ServerFrame::Hello {
            api: API_VERSION,
            version: "0.1.0".to_owned(),
            node: NodeId::from_bytes([1; 32]),
            nonce: [2; 32],
        },
        ServerFrame::Ready,
        item(Event::Total(1)),
        ServerFrame::End { id: 1 },
        ServerFrame::Failed { id: 0, failure: Failure::new(ErrorCode::Busy, "too many sessions") },
    ];
    cases.extend(named("server", frames).into_iter().map(|(name, frame)| Case::versioned(name, frame)));
    check("server", &cases);
}

#[test]
fn every_error_code_has_an_example() {
    let failure = |code| ServerFrame::Failed { id: 1, failure: Failure { code, message: String::new(), hint: None } };
    let number = CODES.len() as u8;
    let last = bib_core::encode::encode(&failure(CODES[CODES.len() - 1]));
    let at = last.iter().position(|byte| *byte == number - 1).unwrap();
    let mut next = last.clone();
    next[at] = number;
    assert!(bib_core::encode::decode::<ServerFrame>(&last).is_ok());
    assert!(bib_core::encode::decode::<ServerFrame>(&next).is_err(), "a code has no example in the fixtures");
}
