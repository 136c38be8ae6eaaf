//! Messages between nodes.

use bib_core::chunk::Codec;
use bib_core::encode::Versioned;
use bib_core::id::{ChunkId, ContentId, DatasetId, ManifestId, NodeId, OpId, TopicId, VersionId};
use bib_core::model::ContentFormat;
use bib_core::op::Class;
use bib_core::wire::gossip::{GossipBody, GossipMessage};
use bib_core::wire::message::{
    CatalogEntry, ChunkData, DataRequest, DataResponse, DiscoveryRequest, DiscoveryResponse, EntryVersion, Envelope,
    FindQuery, NodeMode, PeerInfo, Range, RangeState, Refusal, RefusalCode, SyncRequest, SyncResponse, TopicSummary,
};
use serde_bytes::ByteBuf;

use crate::vocabulary::name;
use crate::{Case, TIME, Variants, check, named, variants};

variants!(DiscoveryRequest: PeerInfo ListTopics Find Announce);
variants!(DiscoveryResponse: PeerInfo Topics Entries Wanted Refused);
variants!(SyncRequest: Summary Reconcile GetOps PushOps Status);
variants!(SyncResponse: Summary Ranges Ops Pushed Status Refused);
variants!(DataRequest: GetManifest Have GetChunks Cancel);
variants!(DataResponse: Chunk Missing Have End Refused);
variants!(GossipBody: NewRoot Ops Heads);
variants!(RefusalCode: Invalid NotFound Denied RateLimited Busy Internal Unsupported);

fn envelopes<B>(of: &str, bodies: Vec<B>) -> Vec<Case>
where
    B: Variants + PartialEq + std::fmt::Debug + 'static,
    Envelope<B>: Versioned,
{
    named(of, bodies).into_iter().map(|(name, body)| Case::versioned(name, Envelope { req: 300, body })).collect()
}

pub(crate) fn find_query() -> FindQuery {
    FindQuery {
        text: Some("rain".to_owned()),
        topic: Some("weather".to_owned()),
        tag: Some("daily".to_owned()),
        format: Some(ContentFormat::Csv),
        limit: 50,
        offset: 100,
    }
}

pub(crate) fn catalog_entry() -> CatalogEntry {
    let version = EntryVersion {
        id: VersionId::from_bytes([3; 32]),
        semver: semver::Version::new(1, 0, 0),
        content: ContentId::from_bytes([4; 32]),
        manifest: ManifestId::from_bytes([5; 32]),
        size: 7,
        format: ContentFormat::Tree,
    };
    CatalogEntry {
        topic: TopicId::from_bytes([1; 32]),
        path: "a/b".to_owned(),
        dataset: DatasetId::from_bytes([6; 32]),
        version: Some(version),
        updated_at: TIME,
    }
}

/// A refusal of each kind.
fn refusals() -> Vec<Refusal> {
    let codes = [
        RefusalCode::Invalid,
        RefusalCode::NotFound,
        RefusalCode::Denied,
        RefusalCode::RateLimited,
        RefusalCode::Busy,
        RefusalCode::Internal,
        RefusalCode::Unsupported,
    ];
    let refusal = |(_, code)| Refusal { code, message: "later".to_owned() };
    named("code", codes.to_vec()).into_iter().map(refusal).collect()
}

#[test]
fn discovery_messages() {
    let topic = TopicId::from_bytes([1; 32]);
    let requests = vec![
        DiscoveryRequest::PeerInfo,
        DiscoveryRequest::ListTopics { after: Some(topic), limit: 50 },
        DiscoveryRequest::ListTopics { after: None, limit: 1 },
        DiscoveryRequest::Find(find_query()),
        DiscoveryRequest::Find(FindQuery::default()),
        DiscoveryRequest::Announce(vec![(topic, [2; 32])]),
    ];
    let info = |mode| PeerInfo {
        node: NodeId::from_bytes([7; 32]),
        addresses: vec!["/ip4/127.0.0.1/tcp/4001".to_owned()],
        mode,
        version: "0.1.0".to_owned(),
        protocols: vec!["/bib/data/1.0.0".to_owned()],
        free_bytes: 1 << 40,
        catalog: [9; 16],
    };
    let mut responses: Vec<DiscoveryResponse> = [NodeMode::Proxy, NodeMode::Selective, NodeMode::Full]
        .map(|mode| DiscoveryResponse::PeerInfo(info(mode)))
        .into();
    responses.extend([
        DiscoveryResponse::Topics {
            topics: vec![TopicSummary { id: topic, parent: Some(topic), name: name("a"), heads_hash: [8; 32] }],
            more: true,
        },
        DiscoveryResponse::Entries {
            entries: vec![catalog_entry(), CatalogEntry { version: None, ..catalog_entry() }],
            total: 2,
        },
        DiscoveryResponse::Wanted(vec![topic]),
    ]);
    responses.extend(refusals().into_iter().map(DiscoveryResponse::Refused));
    let mut cases = envelopes("discovery.request", requests);
    cases.extend(envelopes("discovery.response", responses));
    check("discovery", &cases);
}

#[test]
fn sync_messages() {
    let (topic, id) = (TopicId::from_bytes([1; 32]), OpId::from_bytes([2; 32]));
    let mut short = [0; 32];
    short[0] = 5;
    let ranges = vec![
        Range {
            upper: Some((9, OpId::from_bytes(short))),
            state: Some(RangeState::Fingerprint { count: 3, sum: [1; 16] }),
        },
        Range { upper: Some((300, id)), state: None },
        Range { upper: None, state: Some(RangeState::Ids { ids: vec![(301, id)], answer: true }) },
    ];
    let requests = vec![
        SyncRequest::Summary { topic, class: Class::Access },
        SyncRequest::Reconcile { topic, class: Class::Content, ranges: ranges.clone() },
        SyncRequest::GetOps { ids: vec![id] },
        SyncRequest::PushOps { ops: vec![ByteBuf::from(vec![1, 2, 3])] },
        SyncRequest::Status { topic },
    ];
    let mut responses = vec![
        SyncResponse::Summary { heads: vec![id], count: 1, sum: [2; 16] },
        SyncResponse::Ranges(ranges),
        SyncResponse::Ops(vec![ByteBuf::from(vec![1, 2, 3])]),
        SyncResponse::Pushed { accepted: 1, rejected: vec![(id, "denied".to_owned())] },
        SyncResponse::Status {
            in_progress: true,
            last_sync: Some(TIME),
            last_error: Some("no answer".to_owned()),
            pending: 1,
            synced: 2,
        },
    ];
    responses.extend(refusals().into_iter().map(SyncResponse::Refused));
    let mut cases = envelopes("sync.request", requests);
    cases.extend(envelopes("sync.response", responses));
    check("sync", &cases);
}

#[test]
fn data_messages() {
    let (version, chunk) = (VersionId::from_bytes([1; 32]), ChunkId::from_bytes([2; 32]));
    let requests = vec![
        DataRequest::GetManifest { version, pages: vec![chunk] },
        DataRequest::Have { version },
        DataRequest::GetChunks { version, ids: vec![chunk; 2] },
        DataRequest::Cancel { req: 3 },
    ];
    let data = |codec| ChunkData { id: chunk, len: 262_144, codec, bytes: vec![1, 2, 3] };
    let mut responses = vec![
        DataResponse::Chunk(data(Codec::None)),
        DataResponse::Chunk(data(Codec::Zstd)),
        DataResponse::Missing(chunk),
        DataResponse::Have { complete: false, bitmap: vec![0xff, 3] },
        DataResponse::End,
    ];
    responses.extend(refusals().into_iter().map(DataResponse::Refused));
    let mut cases = envelopes("data.request", requests);
    cases.extend(envelopes("data.response", responses));
    check("data", &cases);
}

#[test]
fn gossip_messages() {
    let bytes = ByteBuf::from(vec![1, 2, 3]);
    let bodies = vec![
        GossipBody::NewRoot(bytes.clone()),
        GossipBody::Ops(vec![bytes; 2]),
        GossipBody::Heads(vec![
            (Class::Access, OpId::from_bytes([1; 32])),
            (Class::Content, OpId::from_bytes([2; 32])),
        ]),
    ];
    let message = |(name, body)| Case::versioned(name, GossipMessage { sent_at: TIME, body });
    let cases: Vec<Case> = named("gossip", bodies).into_iter().map(message).collect();
    check("gossip", &cases);
}
