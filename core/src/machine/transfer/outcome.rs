//! What a fetch is told to do and what it says: its order, its requests to peers and to the store, its events.

use std::ops::Range;
use std::time::Duration;

use crate::id::{ChunkId, NodeId};
use crate::limits;
use crate::time::Instant;
use crate::wire::message::{ChunkData, DataRequest, Envelope, RefusalCode};

/// What of a version is to be here in the end. The pages of the manifest that lead there are fetched too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Everything: all pages and all chunks.
    All,
    /// The list of files only, without content.
    Entries,
    /// The chunks that cover these bytes of the version's stream; an [`Entry`](crate::model::manifest::Entry) says
    /// where a file is in it. Ranges need no order; what lies behind the end of the stream is nothing.
    Ranges(Vec<Range<u64>>),
}

/// In which order chunks are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AskOrder {
    /// Those that the fewest providers hold first, those of equal rarity as they stand in the stream.
    #[default]
    RarestFirst,
    /// As they stand in the stream: for a reader that waits for them.
    Sequential,
}

/// Capacities and patience of one fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchConfig {
    /// Providers used at the same time.
    pub providers: usize,
    /// Chunks asked of one provider and not arrived.
    pub chunks_per_provider: usize,
    /// Bytes in flight or in verification; one chunk of any size is fetched even if this is less.
    pub bytes_in_flight: usize,
    /// Chunks in view: looked up, missing, in flight or in verification.
    pub window: usize,
    /// Which chunks first.
    pub order: AskOrder,
    /// Without progress for so long, [`Event::Stalled`] says why.
    pub stall: Duration,
    /// The fetch fails then.
    pub deadline: Option<Instant>,
}

impl Default for FetchConfig {
    fn default() -> Self {
        Self {
            providers: limits::FETCH_PROVIDERS,
            chunks_per_provider: limits::FETCH_CHUNKS_PER_PROVIDER,
            bytes_in_flight: limits::FETCH_BYTES_IN_FLIGHT,
            window: limits::FETCH_WINDOW,
            order: AskOrder::RarestFirst,
            stall: limits::FETCH_STALL,
            deadline: None,
        }
    }
}

/// A frame for a provider, on the stream that this fetch has to it; the service opens one if there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// Which provider.
    pub to: NodeId,
    /// What to send.
    pub message: Envelope<DataRequest>,
}

/// What the chunk store is asked. Each comes back once, by its token, in any order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreRequest {
    /// Which of these does it hold? Answered by [`Fetch::handle_lookup`](super::fetch::Fetch::handle_lookup).
    Lookup {
        /// Comes back with the answer.
        token: u64,
        /// At most [`MAX_LOOKUP_IDS`](limits::MAX_LOOKUP_IDS).
        ids: Vec<ChunkId>,
    },
    /// The raw bytes of a page. Answered by [`Fetch::handle_page`](super::fetch::Fetch::handle_page).
    LoadPage {
        /// Comes back with the answer.
        token: u64,
        /// Which.
        id: ChunkId,
    },
    /// Verify what came (`Chunk::verify`) and add it. Answered by
    /// [`Fetch::handle_put`](super::fetch::Fetch::handle_put).
    Put {
        /// Comes back with the answer.
        token: u64,
        /// Who sent it.
        from: NodeId,
        /// What, unverified.
        data: ChunkData,
    },
    /// Make everything put before durable. Answered by [`Fetch::handle_flushed`](super::fetch::Fetch::handle_flushed).
    Flush {
        /// Comes back with the answer.
        token: u64,
    },
}

/// Why the store did not take what was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutError {
    /// The bytes are not the chunk.
    Bad,
    /// There is no room.
    Full,
    /// The store failed.
    Failed,
}

/// Why a provider is not used any more in a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BarReason {
    /// It sent bytes that are not what their name says.
    WrongBytes,
    /// It sent what was not asked of it.
    Unasked,
    /// It broke a rule of the protocol, such as a length beyond all bounds.
    Malformed,
    /// It said to hold what it then did not have, again and again.
    EmptyPromises,
    /// It sent more beside the questions than answers.
    Flood,
}

impl BarReason {
    /// Whether it is a proof of bad will or bad hardware, of which so many lead to a ban.
    pub const fn counts(self) -> bool {
        !matches!(self, Self::EmptyPromises)
    }
}

/// Why a fetch does not get on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StallReason {
    /// There is no provider: none was named, or all are gone, barred or have refused.
    NoProvider,
    /// The providers there are do not hold what is missing.
    NobodyHas,
    /// The providers do not answer.
    Silence,
}

/// Why a fetch failed. What was received until then is in the store, and a new fetch goes on from there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// [`Fetch::cancel`](super::fetch::Fetch::cancel) was called.
    #[error("the fetch was cancelled")]
    Cancelled,
    /// [`FetchConfig::deadline`] has passed.
    #[error("the fetch did not end in time")]
    Deadline,
    /// The store has no room.
    #[error("the chunk store is full")]
    StoreFull,
    /// The store failed.
    #[error("the chunk store failed")]
    StoreFailed,
    /// The manifest is what its publisher signed, and it makes no sense.
    #[error("the manifest of the version is wrong: {0}")]
    BadManifest(String),
}

/// How far a fetch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes of content that are wanted; `None` until the root page is here.
    pub wanted_bytes: Option<u64>,
    /// Bytes of these that are in the store.
    pub here_bytes: u64,
    /// Bytes received and verified, pages included.
    pub received_bytes: u64,
    /// All that is wanted of the stream before this offset is in the store: a reader may read up to here.
    pub ready_to: u64,
    /// Providers in use.
    pub providers: usize,
}

/// What one provider did in a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProviderStats {
    /// Chunks and pages that it sent and that were stored.
    pub chunks: u64,
    /// Bytes these stand for.
    pub raw_bytes: u64,
    /// Bytes of chunk data that came from it, of whatever worth.
    pub wire_bytes: u64,
    /// Chunks that were refused after verification, or were not asked.
    pub bad: u32,
    /// Answers that it does not have something.
    pub missing: u64,
    /// Chunks that did not come in time.
    pub late: u64,
}

/// Figures of a fetch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FetchStats {
    /// Bytes of content that were wanted.
    pub wanted_bytes: u64,
    /// Bytes of content that were received, verified and stored.
    pub received_bytes: u64,
    /// Bytes of content that were in the store already, or came once for several places.
    pub reused_bytes: u64,
    /// Bytes of manifest pages that were received.
    pub page_bytes: u64,
    /// Bytes of chunk data that came over the wire, as encoded.
    pub wire_bytes: u64,
    /// Bytes of these that were of no use: bad, doubled, late.
    pub wasted_bytes: u64,
    /// Chunks of content received.
    pub received_chunks: u64,
    /// Pages received.
    pub received_pages: u64,
    /// Who sent it, in the order they were named.
    pub providers: Vec<(NodeId, ProviderStats)>,
}

/// What the service should know or do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// How far it is; at most one in [`PROGRESS_INTERVAL`](limits::PROGRESS_INTERVAL).
    Progress(Progress),
    /// A provider lied or is useless; its stream should be closed. It is not used again in this fetch.
    Barred {
        /// Who.
        node: NodeId,
        /// Why.
        reason: BarReason,
        /// Bad chunks known of it, those of earlier fetches included: to be remembered.
        bad_chunks: u32,
    },
    /// A provider has sent [`BAD_CHUNKS_TO_BAN`](limits::BAD_CHUNKS_TO_BAN) bad chunks and should be banned.
    Ban {
        /// Who.
        node: NodeId,
        /// For how long.
        duration: Duration,
    },
    /// A provider has refused; its stream may be closed. It can be named again.
    Dropped {
        /// Who.
        node: NodeId,
        /// Why.
        code: RefusalCode,
    },
    /// Nothing moves. The fetch goes on waiting; who does not want to wait cancels it. Said once for each reason until
    /// there is progress.
    Stalled(StallReason),
    /// Everything wanted is durably in the store.
    Done(FetchStats),
    /// The fetch has ended without everything.
    Failed(FetchError, FetchStats),
}

/// What a fetch holds at the moment, for tests of its bounds and for reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Chunks and pages in view.
    pub pieces: usize,
    /// Manifest pages in view or loaded.
    pub pages: usize,
    /// Bytes in flight (asked in time) or in verification.
    pub bytes: usize,
    /// Requests in flight, over all providers.
    pub requests: usize,
}
