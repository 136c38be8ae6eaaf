//! Messages of `/bib/discovery/1.0.0`, `/bib/sync/1.0.0` and `/bib/data/1.0.0`.
//!
//! A request carries a number that is unique on its stream; each answer repeats it. Data answers are several frames,
//! the last one says so. Lists are bounded by `limits`; a receiver checks them with `check` before use.
//!
//! Stability: version 1. A later version adds variants at the end.

use serde::{Deserialize, Serialize};

use crate::chunk::Codec;
use crate::encode::{DecodeError, Versioned};
use crate::id::{ChunkId, ContentId, DatasetId, ManifestId, NodeId, OpId, TopicId, VersionId};
use crate::limits;
use crate::model::{ContentFormat, Name};
use crate::op::Class;
use crate::time::Timestamp;

/// Protocol name of catalog search and announcements.
pub const DISCOVERY: &str = "/bib/discovery/1.0.0";
/// Protocol name of operation exchange.
pub const SYNC: &str = "/bib/sync/1.0.0";
/// Protocol name of manifests and chunks.
pub const DATA: &str = "/bib/data/1.0.0";

/// A message with the number of its request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope<B> {
    /// Chosen by the requester, unique among its requests in flight on the stream.
    pub req: u64,
    /// The message.
    pub body: B,
}

macro_rules! envelopes {
    ($($body:ty => $what:literal),* $(,)?) => {$(
        impl Versioned for Envelope<$body> {
            const WHAT: &'static str = $what;
            const MAX_LEN: usize = limits::MAX_PEER_FRAME;
        }
    )*};
}

envelopes!(
    DiscoveryRequest => "discovery request",
    DiscoveryResponse => "discovery response",
    SyncRequest => "sync request",
    SyncResponse => "sync response",
    DataRequest => "data request",
    DataResponse => "data response",
);

/// Why a peer did not do what it was asked. Stable numbers: append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusalCode {
    /// The request breaks a rule of the protocol.
    Invalid,
    /// The peer does not hold the thing.
    NotFound,
    /// The requester has no right to it.
    Denied,
    /// Too many requests; try later or elsewhere.
    RateLimited,
    /// The peer has no room for more work; try later or elsewhere.
    Busy,
    /// The peer failed for its own reasons.
    Internal,
    /// The peer does not know the request.
    Unsupported,
}

/// An answer that is not the one asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Why.
    pub code: RefusalCode,
    /// A sentence for people; shown shortened, never interpreted.
    pub message: String,
}

/// How a node takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum NodeMode {
    /// Keeps its own publications and passes requests on.
    #[default]
    Proxy,
    /// Keeps what matches its subscriptions.
    Selective,
    /// Keeps everything public.
    Full,
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerInfo {
    /// Its id; must be the one the channel authenticated.
    pub node: NodeId,
    /// Addresses it listens on, as multiaddr text.
    pub addresses: Vec<String>,
    /// How it takes part.
    pub mode: NodeMode,
    /// Program version, for people.
    pub version: String,
    /// Protocols it speaks.
    pub protocols: Vec<String>,
    /// Bytes it could still store.
    pub free_bytes: u64,
    /// As in [`RangeState::Fingerprint`], over all operations that it shows to the asker: where it equals one's own,
    /// there is nothing to list.
    pub catalog: [u8; 16],
}

/// A topic in a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicSummary {
    /// Its id.
    pub id: TopicId,
    /// The topic above.
    pub parent: Option<TopicId>,
    /// Its name.
    pub name: Name,
    /// Hash over its heads of both classes; equal when two nodes hold the same operations.
    pub heads_hash: [u8; 32],
}

/// What to look for; everything given must match.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FindQuery {
    /// Words that name, description or tags contain, ignoring case.
    pub text: Option<String>,
    /// Topic path prefix.
    pub topic: Option<String>,
    /// A tag.
    pub tag: Option<String>,
    /// Format of the latest version.
    pub format: Option<ContentFormat>,
    /// Most entries to return.
    pub limit: u32,
    /// Entries to skip.
    pub offset: u32,
}

/// A dataset in a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogEntry {
    /// Its topic.
    pub topic: TopicId,
    /// Path of topic and dataset, `topic/sub/dataset`.
    pub path: String,
    /// Its id.
    pub dataset: DatasetId,
    /// Its latest version, if any.
    pub version: Option<EntryVersion>,
    /// Time of its last change.
    pub updated_at: Timestamp,
}

/// The version part of a [`CatalogEntry`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryVersion {
    /// Its id.
    pub id: VersionId,
    /// Its number.
    pub semver: semver::Version,
    /// Hash of its content.
    pub content: ContentId,
    /// Its manifest.
    pub manifest: ManifestId,
    /// Bytes of its files.
    pub size: u64,
    /// What the bytes are.
    pub format: ContentFormat,
}

/// A request on [`DISCOVERY`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiscoveryRequest {
    /// Who are you?
    PeerInfo,
    /// Which topics do you hold, after this id?
    ListTopics {
        /// Continue after this one.
        after: Option<TopicId>,
        /// Most topics to return.
        limit: u32,
    },
    /// Search your catalog.
    Find(FindQuery),
    /// These are the heads of topics I hold; which do you want?
    Announce(Vec<(TopicId, [u8; 32])>),
}

/// An answer on [`DISCOVERY`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiscoveryResponse {
    /// About the node.
    PeerInfo(PeerInfo),
    /// Topics in ascending order of id.
    Topics {
        /// One page of them.
        topics: Vec<TopicSummary>,
        /// Whether there are others after these.
        more: bool,
    },
    /// Entries found.
    Entries {
        /// One page of them.
        entries: Vec<CatalogEntry>,
        /// How many match in all.
        total: u64,
    },
    /// Topics of an announcement whose heads differ here.
    Wanted(Vec<TopicId>),
    /// No.
    Refused(Refusal),
}

/// Position of an operation in the order that reconciliation works on.
pub type OpKey = (u64, OpId);

/// What one side knows of a range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RangeState {
    /// Number of operations and the sum of their ids, to compare.
    Fingerprint {
        /// How many.
        count: u64,
        /// Sum of the ids as 256-bit little-endian integers, modulo 2^256, hashed with the count.
        sum: [u8; 16],
    },
    /// All ids in the range. `answer` asks the other side for those it has in turn.
    Ids {
        /// The operations, ascending.
        ids: Vec<OpKey>,
        /// Whether the sender wants to know what it lacks.
        answer: bool,
    },
}

/// A range of keys from the upper bound of the range before it (or the beginning) up to and without `upper`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// First key after the range; `None` = the end. Need not be the key of an operation: the zero bytes at its end are
    /// not sent, so that a bound between two operations of different lamport numbers takes three bytes.
    #[serde(with = "short_key")]
    pub upper: Option<OpKey>,
    /// What the sender knows of it; `None` = nothing to say, already equal.
    pub state: Option<RangeState>,
}

mod short_key {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    use super::OpKey;
    use crate::id::OpId;

    pub(super) fn serialize<S: Serializer>(key: &Option<OpKey>, serializer: S) -> Result<S::Ok, S::Error> {
        let short = key.as_ref().map(|(lamport, id)| {
            let len = id.as_bytes().iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            (*lamport, serde_bytes::Bytes::new(&id.as_bytes()[..len]))
        });
        short.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<OpKey>, D::Error> {
        let Some((lamport, short)) = Option::<(u64, &serde_bytes::Bytes)>::deserialize(deserializer)? else {
            return Ok(None);
        };
        let mut id = [0; 32];
        let prefix = id.get_mut(..short.len()).filter(|_| short.last() != Some(&0));
        prefix.ok_or_else(|| de::Error::custom("a bound is too long or ends with zeros"))?.copy_from_slice(short);
        Ok(Some((lamport, OpId::from_bytes(id))))
    }
}

/// A request on [`SYNC`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SyncRequest {
    /// How does your log of this topic look?
    Summary {
        /// The topic.
        topic: TopicId,
        /// Which of its two logs.
        class: Class,
    },
    /// Compare these ranges with yours.
    Reconcile {
        /// The topic.
        topic: TopicId,
        /// Which of its two logs.
        class: Class,
        /// Ranges that cover everything, in order.
        ranges: Vec<Range>,
    },
    /// Send these operations.
    GetOps {
        /// Which.
        ids: Vec<OpId>,
    },
    /// Take these operations.
    PushOps {
        /// Encoded.
        ops: Vec<serde_bytes::ByteBuf>,
    },
    /// How does synchronisation stand at your side?
    Status {
        /// Of which topic.
        topic: TopicId,
    },
}

/// An answer on [`SYNC`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SyncResponse {
    /// Figures of a log.
    Summary {
        /// Last operations.
        heads: Vec<OpId>,
        /// Operations in it.
        count: u64,
        /// As in [`RangeState::Fingerprint`], over the whole log.
        sum: [u8; 16],
    },
    /// What this side knows of the ranges.
    Ranges(Vec<Range>),
    /// Operations, encoded; those it does not hold, or that no longer fit into the frame, are left out.
    Ops(Vec<serde_bytes::ByteBuf>),
    /// What became of pushed operations.
    Pushed {
        /// Taken, parked or known before.
        accepted: u32,
        /// Refused, each with a stable word.
        rejected: Vec<(OpId, String)>,
    },
    /// How synchronisation stands.
    Status {
        /// Whether one is running.
        in_progress: bool,
        /// When the last one ended.
        last_sync: Option<Timestamp>,
        /// Why the last one failed, if it did.
        last_error: Option<String>,
        /// Operations that wait for their parents.
        pending: u64,
        /// Operations held.
        synced: u64,
    },
    /// No.
    Refused(Refusal),
}

/// A request on [`DATA`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataRequest {
    /// Send pages of a manifest that a known version names.
    GetManifest {
        /// The version.
        version: VersionId,
        /// Which pages; empty = the root.
        pages: Vec<ChunkId>,
    },
    /// Which chunks of this version do you hold?
    Have {
        /// The version.
        version: VersionId,
    },
    /// Send chunks of this version.
    GetChunks {
        /// The version.
        version: VersionId,
        /// Which.
        ids: Vec<ChunkId>,
    },
    /// Stop answering an earlier request of this stream.
    Cancel {
        /// Its number.
        req: u64,
    },
}

/// A chunk on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkData {
    /// Which.
    pub id: ChunkId,
    /// Its raw bytes.
    pub len: u32,
    /// How `bytes` is encoded.
    pub codec: Codec,
    /// The encoded bytes.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

/// An answer on [`DATA`]. `GetManifest` and `GetChunks` are answered by one `Chunk` or `Missing` for each id in any
/// order, then `End`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataResponse {
    /// A chunk or manifest page.
    Chunk(ChunkData),
    /// A chunk or page that this node does not hold.
    Missing(ChunkId),
    /// Which chunks of a version this node holds.
    Have {
        /// All of them.
        complete: bool,
        /// One bit for each chunk in manifest order, lowest bit first; empty when complete or when the manifest is
        /// not held.
        #[serde(with = "serde_bytes")]
        bitmap: Vec<u8>,
    },
    /// No more frames for this request.
    End,
    /// No.
    Refused(Refusal),
}

/// Bounds that the encoding itself does not carry.
pub trait Bounded {
    /// Checks the bounds of lists and texts.
    ///
    /// # Errors
    /// [`DecodeError::Malformed`] naming the bound.
    fn check(&self) -> Result<(), DecodeError>;
}

fn at_most(what: &'static str, len: usize, max: usize) -> Result<(), DecodeError> {
    if len <= max { Ok(()) } else { Err(DecodeError::TooLarge { what, len, max }) }
}

impl Bounded for DiscoveryRequest {
    fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::PeerInfo | Self::ListTopics { .. } => Ok(()),
            Self::Find(query) => [&query.text, &query.topic, &query.tag]
                .into_iter()
                .flatten()
                .try_for_each(|text| at_most("search text", text.len(), limits::MAX_REFERENCE_LEN)),
            Self::Announce(topics) => at_most("announcement", topics.len(), limits::MAX_ITEMS_PER_MESSAGE),
        }
    }
}

impl Bounded for DiscoveryResponse {
    fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::PeerInfo(info) => {
                at_most("addresses", info.addresses.len(), 64)?;
                at_most("protocols", info.protocols.len(), 64)?;
                at_most("version", info.version.len(), 128)
            }
            Self::Topics { topics, .. } => at_most("topics", topics.len(), limits::MAX_ITEMS_PER_MESSAGE),
            Self::Entries { entries, .. } => at_most("entries", entries.len(), limits::MAX_ITEMS_PER_MESSAGE),
            Self::Wanted(topics) => at_most("topics", topics.len(), limits::MAX_ITEMS_PER_MESSAGE),
            Self::Refused(_) => Ok(()),
        }
    }
}

fn check_ranges(ranges: &[Range]) -> Result<(), DecodeError> {
    at_most("ranges", ranges.len(), limits::MAX_RANGES_PER_MESSAGE)?;
    let ids = ranges.iter().map(|range| match &range.state {
        Some(RangeState::Ids { ids, .. }) => ids.len(),
        _ => 0,
    });
    at_most("ids of ranges", ids.sum(), limits::MAX_RANGE_IDS)?;
    let ordered = ranges.windows(2).all(|pair| match (&pair[0].upper, &pair[1].upper) {
        (Some(lower), Some(upper)) => lower < upper,
        (Some(_), None) => true,
        (None, _) => false,
    });
    if ordered { Ok(()) } else { Err(DecodeError::malformed("ranges", "bounds are not ascending")) }
}

impl Bounded for SyncRequest {
    fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Summary { .. } | Self::Status { .. } => Ok(()),
            Self::Reconcile { ranges, .. } => check_ranges(ranges),
            Self::GetOps { ids } => at_most("operation ids", ids.len(), limits::MAX_OPS_PER_REQUEST),
            Self::PushOps { ops } => at_most("operations", ops.len(), limits::MAX_OPS_PER_REQUEST),
        }
    }
}

impl Bounded for SyncResponse {
    fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Summary { heads, .. } => at_most("heads", heads.len(), limits::MAX_PARKED_OPS),
            Self::Ranges(ranges) => check_ranges(ranges),
            Self::Ops(ops) => at_most("operations", ops.len(), limits::MAX_OPS_PER_REQUEST),
            Self::Pushed { rejected, .. } => at_most("refusals", rejected.len(), limits::MAX_OPS_PER_REQUEST),
            Self::Status { .. } | Self::Refused(_) => Ok(()),
        }
    }
}

impl Bounded for DataRequest {
    fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::GetManifest { pages, .. } => at_most("page ids", pages.len(), limits::MAX_PAGES_PER_REQUEST),
            Self::GetChunks { ids, .. } => at_most("chunk ids", ids.len(), limits::MAX_CHUNKS_PER_REQUEST),
            Self::Have { .. } | Self::Cancel { .. } => Ok(()),
        }
    }
}

impl Bounded for DataResponse {
    fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Chunk(chunk) => at_most("chunk", chunk.bytes.len().max(chunk.len as usize), limits::MAX_CHUNK_LEN),
            _ => Ok(()),
        }
    }
}
