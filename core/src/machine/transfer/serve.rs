//! Answers one `/bib/data` stream of one peer.
//!
//! Doors, in the order of the machine contract:
//! - [`Serve::handle_request`], [`Serve::handle_authorised`], [`Serve::handle_loaded`], [`Serve::handle_have`],
//!   [`Serve::handle_sent`];
//! - [`Serve::poll_transmit`]: frames for the peer; each is reported with [`Serve::handle_sent`] once it is written;
//! - [`Serve::poll_store`]: chunks to load, and manifests to look up;
//! - [`Serve::poll_event`]: a question to the catalog, or that the stream should be closed;
//! - [`Serve::poll_timeout`], [`Serve::handle_timeout`].
//!
//! Invariant: the chunks that are being loaded, wait for the writer or were given to it and are not written yet have at
//! most [`ServeConfig::bytes_in_flight`], a chunk being counted with the most it may have until it is here. So a peer that
//! does not read costs that much and no more: nothing is loaded for it until something was written. While
//! [`Serve::is_accepting`] says no, the reader of the stream waits; a driver that reads on anyway makes the machine
//! close the stream.
//!
//! **Rights.** The catalog is asked whether the peer may read the *version* a request names; whether the ids of the
//! request belong to that version is not checked. For public versions this leaks nothing: manifests and so the ids of
//! their chunks are open to everyone, and what is in the store but in no public version (an upload that is not
//! published yet) can only be asked for by who knows the hash of its bytes, 256 bits that nobody has without the bytes.
//! Both arguments fall with the first private topic, whose ids a former member may know: then either a chunk is served
//! only after it was found in the manifest, or the store keeps private chunks under keyed names that a public request
//! cannot spell.
//!
//! **Fairness.** One stream is answered in the order of its requests. Several streams of one peer, or of several, share
//! a node by what the service gives each: a smaller [`ServeConfig`], and its turn at [`Serve::poll_store`].
//!
//! Deliberately absent: decoding frames, deciding rights, and the choice of which stream is served first.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::StoreFailed;
use super::have::Have;
use crate::chunk::Chunk;
use crate::id::{ChunkId, ManifestId, VersionId};
use crate::limits;
use crate::machine::bucket::TokenBucket;
use crate::time::Instant;
use crate::wire::message::{Bounded, ChunkData, DataRequest, DataResponse, Envelope, Refusal, RefusalCode};

/// Capacities of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServeConfig {
    /// Requests in flight.
    pub requests: usize,
    /// Bytes loaded or being loaded and not written yet; a chunk of any size is served alone even if this is less.
    pub bytes_in_flight: usize,
    /// Requests a second, in the long run.
    pub requests_per_second: u32,
    /// Requests at once.
    pub request_burst: u32,
    /// A stream without traffic is closed after this.
    pub idle: Duration,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            requests: limits::MAX_REQUESTS_PER_STREAM,
            bytes_in_flight: limits::PEER_BYTES_IN_FLIGHT,
            requests_per_second: limits::PEER_REQUESTS_PER_SECOND,
            request_burst: limits::PEER_REQUEST_BURST,
            idle: limits::STREAM_IDLE,
        }
    }
}

/// What the catalog says of a peer and a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The peer may read it.
    Allowed {
        /// Its manifest.
        manifest: ManifestId,
        /// Whether all of its content is here, so that nothing needs to be looked up.
        complete: bool,
    },
    /// The peer may not read it.
    Denied,
    /// There is no such version, or it is deleted, or has no content.
    NotFound,
}

/// A frame for the peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// What to send.
    pub message: Envelope<DataResponse>,
    /// What to give to [`Serve::handle_sent`] when it is written, in bytes.
    pub cost: usize,
}

/// What the chunk store is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreRequest {
    /// Read a chunk or page; answered by [`Serve::handle_loaded`].
    LoadChunk {
        /// Comes back with the answer.
        token: u64,
        /// Which.
        id: ChunkId,
    },
    /// See [`have::lookup`](super::have::lookup); answered by [`Serve::handle_have`].
    LookupHave {
        /// Comes back with the answer.
        token: u64,
        /// Which manifest.
        manifest: ManifestId,
    },
}

/// What the service should know or do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// May the peer read this version? Answered by [`Serve::handle_authorised`].
    Authorise {
        /// Comes back with the answer.
        token: u64,
        /// Which version.
        version: VersionId,
    },
    /// Close the stream; the machine does nothing any more.
    Close(CloseReason),
}

/// Why a stream is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// Nothing was asked for a while.
    Idle,
    /// The peer does not read what it asked for.
    Stuck,
    /// More requests came than were accepted.
    Flood,
}

/// Figures of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServeStats {
    /// Requests, refused ones included.
    pub requests: u64,
    /// Requests refused.
    pub refused: u64,
    /// Chunks and pages handed to the writer.
    pub chunks: u64,
    /// Bytes these stand for.
    pub raw_bytes: u64,
    /// Bytes of these as they travel.
    pub encoded_bytes: u64,
    /// Chunks and pages asked for and not held.
    pub missing: u64,
}

/// What a frame costs beside the bytes it carries, in bytes; keeps floods of small frames inside the same bound.
const FRAME_COST: usize = 64;

#[derive(Debug)]
enum Work {
    /// Ids not asked of the store yet, and how many are.
    Chunks { left: VecDeque<ChunkId>, loading: usize },
    /// The root page; its id comes with the right to read it.
    Root,
    /// The bits; whether the store is looking.
    Have { looking: bool },
}

#[derive(Debug)]
struct Open {
    req: u64,
    version: VersionId,
    work: Work,
    /// The manifest, once the peer is known to have the right to it.
    manifest: Option<ManifestId>,
    moved_bytes: usize,
}

#[derive(Debug)]
enum Known {
    Asked { token: u64 },
    Answered { access: Access, at: Instant },
}

#[derive(Debug)]
struct Load {
    /// `None` once the request was cancelled.
    req: Option<u64>,
    id: ChunkId,
}

/// See the module.
#[derive(Debug)]
pub struct Serve {
    config: ServeConfig,
    bucket: TokenBucket,
    /// In the order they came.
    open: Vec<Open>,
    known: BTreeMap<VersionId, Known>,
    loads: BTreeMap<u64, Load>,
    lookups: BTreeMap<u64, Option<u64>>,
    waiting: VecDeque<Transmit>,
    waiting_bytes: usize,
    unsent_bytes: usize,
    questions: VecDeque<(u64, VersionId)>,
    next_token: u64,
    last_traffic: Instant,
    close: Option<CloseReason>,
    is_closed: bool,
    stats: ServeStats,
}

impl Serve {
    /// A stream that was opened at `now`.
    pub fn new(now: Instant, config: ServeConfig) -> Self {
        Self {
            config,
            bucket: TokenBucket::new(config.requests_per_second, config.request_burst),
            open: Vec::new(),
            known: BTreeMap::new(),
            loads: BTreeMap::new(),
            lookups: BTreeMap::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            unsent_bytes: 0,
            questions: VecDeque::new(),
            next_token: 0,
            last_traffic: now,
            close: None,
            is_closed: false,
            stats: ServeStats::default(),
        }
    }

    /// A request came.
    pub fn handle_request(&mut self, now: Instant, request: Envelope<DataRequest>) {
        if self.is_closed {
            return;
        }
        self.last_traffic = now;
        let Envelope { req, body } = request;
        let (version, work) = match body {
            DataRequest::Cancel { req } => return self.cancel(req),
            _ if body.check().is_err() => return self.refuse(req, RefusalCode::Invalid, "too many ids"),
            DataRequest::Have { version } => (version, Work::Have { looking: false }),
            DataRequest::GetManifest { version, pages } if pages.is_empty() => (version, Work::Root),
            DataRequest::GetManifest { version, pages: ids } | DataRequest::GetChunks { version, ids } => {
                (version, Work::Chunks { left: ids.into(), loading: 0 })
            }
        };
        // A repeated frame is answered once.
        if self.open.iter().any(|open| open.req == req) {
            return;
        }
        self.stats.requests += 1;
        if self.open.len() >= self.config.requests {
            return self.refuse(req, RefusalCode::Busy, "too many requests in flight");
        }
        if !self.bucket.take(now, 1) {
            return self.refuse(req, RefusalCode::RateLimited, "too many requests a second");
        }
        self.open.push(Open { req, version, work, manifest: None, moved_bytes: 0 });
        self.ask_catalog(now, version);
    }

    fn ask_catalog(&mut self, now: Instant, version: VersionId) {
        match self.known.get(&version) {
            Some(Known::Asked { .. }) => return,
            Some(&Known::Answered { access, at }) if now < at + limits::ACCESS_MEMORY => {
                return self.settle(now, version, access);
            }
            _ => {}
        }
        if self.known.len() >= limits::MAX_ACCESS_ENTRIES {
            // Open questions are fewer than requests in flight, hence there is an answer to forget.
            let oldest = self.known.iter().filter_map(|(version, known)| match known {
                Known::Answered { at, .. } => Some((*at, *version)),
                Known::Asked { .. } => None,
            });
            if let Some((_, version)) = oldest.min() {
                self.known.remove(&version);
            }
        }
        let token = self.token();
        self.known.insert(version, Known::Asked { token });
        self.questions.push_back((token, version));
    }

    const fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    /// The catalog has answered [`Event::Authorise`].
    pub fn handle_authorised(&mut self, now: Instant, token: u64, access: Access) {
        let asked = |known: &Known| matches!(known, Known::Asked { token: asked } if *asked == token);
        let Some(version) = self.known.iter().find(|(_, known)| asked(known)).map(|(version, _)| *version) else {
            return;
        };
        // What is refused now may be allowed in a moment, when the operation that says so arrives.
        match access {
            Access::Allowed { .. } => self.known.insert(version, Known::Answered { access, at: now }),
            Access::Denied | Access::NotFound => self.known.remove(&version),
        };
        self.settle(now, version, access);
    }

    /// Lets the requests of a version begin, or refuses them.
    fn settle(&mut self, now: Instant, version: VersionId, access: Access) {
        let (mut settled, mut refused) = (Vec::new(), Vec::new());
        for open in self.open.iter_mut().filter(|open| open.version == version && open.manifest.is_none()) {
            match access {
                Access::Allowed { manifest, complete } => {
                    open.manifest = Some(manifest);
                    match open.work {
                        Work::Root => {
                            open.work = Work::Chunks { left: VecDeque::from([manifest.into()]), loading: 0 };
                        }
                        Work::Have { .. } if complete => settled.push(open.req),
                        Work::Have { .. } if !self.bucket.take(now, limits::HAVE_COST) => {
                            refused.push((open.req, RefusalCode::RateLimited, "too many searches"));
                        }
                        _ => {}
                    }
                }
                Access::Denied => refused.push((open.req, RefusalCode::Denied, "no right to read this version")),
                Access::NotFound => refused.push((open.req, RefusalCode::NotFound, "no such version here")),
            }
        }
        for req in settled {
            self.answer_have(req, Have::All);
        }
        for (req, code, message) in refused {
            self.close_request(req);
            self.refuse(req, code, message);
        }
        self.end_empty();
    }

    /// A request without ids is answered by its end.
    fn end_empty(&mut self) {
        let is_done = |open: &Open| {
            open.manifest.is_some() && matches!(&open.work, Work::Chunks { left, loading: 0 } if left.is_empty())
        };
        while let Some(req) = self.open.iter().find(|open| is_done(open)).map(|open| open.req) {
            self.finish(req);
        }
    }

    /// The store has answered [`StoreRequest::LoadChunk`]; `None` when it does not hold the chunk, or not unharmed.
    pub fn handle_loaded(&mut self, now: Instant, token: u64, loaded: Result<Option<Chunk>, StoreFailed>) {
        let Some(Load { req, id }) = self.loads.remove(&token) else { return };
        // While the store works for the peer, the stream is not idle.
        self.last_traffic = self.last_traffic.max(now);
        let Some(req) = req.filter(|_| !self.is_closed) else { return };
        let Some(open) = self.open.iter_mut().find(|open| open.req == req) else { return };
        let Work::Chunks { left, loading } = &mut open.work else { return };
        *loading -= 1;
        let is_last = left.is_empty() && *loading == 0;
        match loaded {
            Ok(Some(chunk)) => {
                let (len, codec) = (chunk.len(), chunk.codec());
                let bytes = chunk.into_encoded();
                open.moved_bytes += bytes.len();
                self.stats.chunks += 1;
                self.stats.raw_bytes += u64::from(len);
                self.stats.encoded_bytes += bytes.len() as u64;
                self.put_out(req, DataResponse::Chunk(ChunkData { id, len, codec, bytes }));
            }
            Ok(None) => {
                self.stats.missing += 1;
                self.put_out(req, DataResponse::Missing(id));
            }
            Err(StoreFailed) => {
                self.close_request(req);
                return self.refuse(req, RefusalCode::Internal, "the chunk store cannot be read");
            }
        }
        if is_last {
            self.finish(req);
        }
    }

    /// The store has answered [`StoreRequest::LookupHave`].
    pub fn handle_have(&mut self, now: Instant, token: u64, have: Result<Have, StoreFailed>) {
        let Some(req) = self.lookups.remove(&token) else { return };
        self.last_traffic = self.last_traffic.max(now);
        let Some(req) = req.filter(|_| !self.is_closed) else { return };
        match have {
            Ok(have) => self.answer_have(req, have),
            Err(StoreFailed) => {
                self.close_request(req);
                self.refuse(req, RefusalCode::Internal, "the chunk store cannot be read");
            }
        }
    }

    fn answer_have(&mut self, req: u64, have: Have) {
        let (complete, bitmap) = have.into_wire();
        self.put_out(req, DataResponse::Have { complete, bitmap });
        self.finish(req);
    }

    /// Frames of this cost in all have been written.
    pub fn handle_sent(&mut self, now: Instant, cost: usize) {
        self.unsent_bytes = self.unsent_bytes.saturating_sub(cost);
        self.last_traffic = self.last_traffic.max(now);
    }

    fn cancel(&mut self, req: u64) {
        if self.close_request(req).is_none() {
            return;
        }
        let (before, cost) = (self.waiting.len(), self.waiting.iter().map(|transmit| transmit.cost).sum::<usize>());
        self.waiting.retain(|transmit| transmit.message.req != req);
        if self.waiting.len() < before {
            self.waiting_bytes -= cost - self.waiting.iter().map(|transmit| transmit.cost).sum::<usize>();
        }
        self.put_out(req, DataResponse::End);
    }

    /// Ends a request that was answered whole.
    fn finish(&mut self, req: u64) {
        if let Some(open) = self.close_request(req)
            && open.moved_bytes >= limits::FREE_REQUEST_BYTES
        {
            self.bucket.give_back(1);
        }
        self.put_out(req, DataResponse::End);
    }

    fn close_request(&mut self, req: u64) -> Option<Open> {
        let at = self.open.iter().position(|open| open.req == req)?;
        self.loads.values_mut().filter(|load| load.req == Some(req)).for_each(|load| load.req = None);
        self.lookups.values_mut().filter(|asked| **asked == Some(req)).for_each(|asked| *asked = None);
        Some(self.open.remove(at))
    }

    fn refuse(&mut self, req: u64, code: RefusalCode, message: &str) {
        self.stats.refused += 1;
        self.put_out(req, DataResponse::Refused(Refusal { code, message: message.to_owned() }));
    }

    fn put_out(&mut self, req: u64, body: DataResponse) {
        let carried = match &body {
            DataResponse::Chunk(chunk) => chunk.bytes.len(),
            DataResponse::Have { bitmap, .. } => bitmap.len(),
            _ => 0,
        };
        let cost = FRAME_COST + carried;
        self.waiting_bytes += cost;
        self.waiting.push_back(Transmit { message: Envelope { req, body }, cost });
        // What the requests in flight may still produce fits into as many again; refusals of others do not.
        if self.waiting.len() > limits::MAX_WAITING_FRAMES + self.most_frames() {
            self.shut(CloseReason::Flood);
        }
    }

    const fn most_frames(&self) -> usize {
        self.config.requests * (limits::MAX_CHUNKS_PER_REQUEST + 2)
    }

    fn shut(&mut self, reason: CloseReason) {
        if !self.is_closed {
            self.is_closed = true;
            self.close = Some(reason);
            self.open.clear();
            self.waiting.clear();
            self.waiting_bytes = 0;
            self.questions.clear();
        }
    }

    /// Whether the reader of the stream may hand in another request; else it waits until frames were written.
    pub fn is_accepting(&self) -> bool {
        !self.is_closed && self.waiting.len() < limits::MAX_WAITING_FRAMES
    }

    /// Bytes being loaded, waiting, or given to the writer and not written.
    pub fn bytes_in_flight(&self) -> usize {
        self.loads.len() * (limits::MAX_CHUNK_LEN + FRAME_COST) + self.waiting_bytes + self.unsent_bytes
    }

    /// Figures.
    pub const fn stats(&self) -> ServeStats {
        self.stats
    }

    /// The next frame for the peer.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        let transmit = self.waiting.pop_front()?;
        self.waiting_bytes -= transmit.cost;
        self.unsent_bytes += transmit.cost;
        Some(transmit)
    }

    /// The next request to the chunk store.
    pub fn poll_store(&mut self) -> Option<StoreRequest> {
        for at in 0..self.open.len() {
            let Open { req, manifest: Some(manifest), .. } = self.open[at] else { continue };
            match &mut self.open[at].work {
                Work::Have { looking } if !*looking => {
                    *looking = true;
                    let token = self.token();
                    self.lookups.insert(token, Some(req));
                    return Some(StoreRequest::LookupHave { token, manifest });
                }
                Work::Chunks { left, .. } if !left.is_empty() => {
                    let next = self.bytes_in_flight() + limits::MAX_CHUNK_LEN + FRAME_COST;
                    if next > self.config.bytes_in_flight && self.bytes_in_flight() > 0 {
                        return None;
                    }
                    let token = self.token();
                    let Work::Chunks { left, loading } = &mut self.open[at].work else { return None };
                    let id = left.pop_front()?;
                    *loading += 1;
                    self.loads.insert(token, Load { req: Some(req), id });
                    return Some(StoreRequest::LoadChunk { token, id });
                }
                _ => {}
            }
        }
        None
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        if let Some((token, version)) = self.questions.pop_front() {
            return Some(Event::Authorise { token, version });
        }
        self.close.take().map(Event::Close)
    }

    /// When to call [`Serve::handle_timeout`], and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        (!self.is_closed && self.waits_for_peer()).then(|| (self.last_traffic + self.config.idle, "idle stream"))
    }

    /// Whether it is the peer's turn: it has asked for nothing, or does not read what it gets.
    const fn waits_for_peer(&self) -> bool {
        self.open.is_empty() || self.unsent_bytes > 0
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if !self.is_closed && self.waits_for_peer() && now >= self.last_traffic + self.config.idle {
            self.shut(if self.unsent_bytes > 0 { CloseReason::Stuck } else { CloseReason::Idle });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: VersionId = VersionId::from_bytes([7; 32]);
    const MANIFEST: ManifestId = ManifestId::from_bytes([8; 32]);
    const T0: Instant = Instant(0);

    fn chunk(n: u32, len: usize) -> Chunk {
        let noise =
            (0..len.div_ceil(32) as u32).flat_map(|i| crate::hash::hash(&[n.to_le_bytes(), i.to_le_bytes()].concat()));
        Chunk::from_raw(noise.take(len).collect())
    }

    fn get(req: u64, ids: Vec<ChunkId>) -> Envelope<DataRequest> {
        Envelope { req, body: DataRequest::GetChunks { version: VERSION, ids } }
    }

    fn allow(serve: &mut Serve) {
        while let Some(event) = serve.poll_event() {
            let Event::Authorise { token, version } = event else { panic!("{event:?}") };
            assert_eq!(version, VERSION);
            serve.handle_authorised(T0, token, Access::Allowed { manifest: MANIFEST, complete: true });
        }
    }

    /// Answers all that the machine asks of the store; returns how many chunks it asked.
    fn load(serve: &mut Serve, chunks: &[Chunk]) -> usize {
        let mut n = 0;
        while let Some(request) = serve.poll_store() {
            let StoreRequest::LoadChunk { token, id } = request else { panic!("{request:?}") };
            serve.handle_loaded(T0, token, Ok(chunks.iter().find(|chunk| chunk.id() == id).cloned()));
            n += 1;
        }
        n
    }

    fn sent(serve: &mut Serve) -> Vec<(u64, DataResponse)> {
        std::iter::from_fn(|| serve.poll_transmit())
            .map(|transmit| (transmit.message.req, transmit.message.body))
            .collect()
    }

    fn code(response: &DataResponse) -> RefusalCode {
        let DataResponse::Refused(refusal) = response else { panic!("{response:?}") };
        refusal.code
    }

    #[test]
    fn chunks_come_in_order_and_then_the_end() {
        let chunks: Vec<Chunk> = (0..3).map(|n| chunk(n, 5_000)).collect();
        let missing = ChunkId::from_bytes([1; 32]);
        let mut serve = Serve::new(T0, ServeConfig::default());
        let mut ids: Vec<ChunkId> = chunks.iter().map(Chunk::id).collect();
        ids.insert(1, missing);
        serve.handle_request(T0, get(5, ids));
        assert_eq!(serve.poll_store(), None, "nothing is read before the catalog has answered");
        allow(&mut serve);
        assert_eq!(load(&mut serve, &chunks), 4);
        let frames = sent(&mut serve);
        assert!(frames.iter().all(|(req, _)| *req == 5));
        let is_chunk =
            |at: usize, n: usize| matches!(&frames[at].1, DataResponse::Chunk(data) if data.id == chunks[n].id());
        assert!(is_chunk(0, 0) && is_chunk(2, 1) && is_chunk(3, 2));
        assert_eq!(frames[1].1, DataResponse::Missing(missing));
        assert_eq!((frames.len(), &frames[4].1), (5, &DataResponse::End));
    }

    #[test]
    fn peer_that_does_not_read_gets_no_more_than_its_credit() {
        let chunks: Vec<Chunk> = (0..40).map(|n| chunk(n, 200_000)).collect();
        let config = ServeConfig::default();
        let mut serve = Serve::new(T0, config);
        serve.handle_request(T0, get(1, chunks.iter().map(Chunk::id).collect()));
        allow(&mut serve);
        let (mut n_loaded, mut unsent, mut n_frames) = (0, VecDeque::new(), 0);
        loop {
            n_loaded += load(&mut serve, &chunks);
            while let Some(transmit) = serve.poll_transmit() {
                unsent.push_back(transmit.cost);
                n_frames += 1;
            }
            assert!(serve.bytes_in_flight() <= config.bytes_in_flight + FRAME_COST);
            assert_eq!(serve.bytes_in_flight(), unsent.iter().sum::<usize>());
            let Some(cost) = unsent.pop_front() else { break };
            assert!(n_loaded == 40 || unsent.len() >= 14, "{} frames keep the writer busy", unsent.len());
            serve.handle_sent(T0, cost);
        }
        assert_eq!((n_loaded, n_frames), (40, 41));
        assert_eq!(serve.bytes_in_flight(), 0);
    }

    #[test]
    fn little_credit_still_serves_one_chunk_at_a_time() {
        let chunks: Vec<Chunk> = (0..3).map(|n| chunk(n, 100_000)).collect();
        let mut serve = Serve::new(T0, ServeConfig { bytes_in_flight: 1, ..ServeConfig::default() });
        serve.handle_request(T0, get(1, chunks.iter().map(Chunk::id).collect()));
        allow(&mut serve);
        for _ in 0..3 {
            assert_eq!(load(&mut serve, &chunks), 1);
            while let Some(transmit) = serve.poll_transmit() {
                serve.handle_sent(T0, transmit.cost);
            }
        }
        assert_eq!(serve.stats().chunks, 3);
    }

    #[test]
    fn cancelled_request_ends_at_once_and_its_chunks_are_dropped() {
        let chunks: Vec<Chunk> = (0..10).map(|n| chunk(n, 100_000)).collect();
        let mut serve = Serve::new(T0, ServeConfig::default());
        serve.handle_request(T0, get(1, chunks.iter().map(Chunk::id).collect()));
        allow(&mut serve);
        let Some(StoreRequest::LoadChunk { token, .. }) = serve.poll_store() else { panic!("no load") };
        serve.handle_request(T0, Envelope { req: 2, body: DataRequest::Cancel { req: 1 } });
        assert_eq!(serve.poll_store(), None);
        serve.handle_loaded(T0, token, Ok(Some(chunks[0].clone())));
        assert_eq!(sent(&mut serve), [(1, DataResponse::End)]);
        serve.handle_request(T0, Envelope { req: 3, body: DataRequest::Cancel { req: 1 } });
        assert_eq!(sent(&mut serve), []);
    }

    #[test]
    fn peer_without_the_right_and_unknown_versions_are_refused_and_asked_again_later() {
        let mut serve = Serve::new(T0, ServeConfig::default());
        for (access, refusal) in [(Access::Denied, RefusalCode::Denied), (Access::NotFound, RefusalCode::NotFound)] {
            serve.handle_request(T0, get(1, vec![MANIFEST.into()]));
            serve.handle_request(T0, Envelope { req: 2, body: DataRequest::Have { version: VERSION } });
            let Some(Event::Authorise { token, .. }) = serve.poll_event() else { panic!("no question") };
            assert_eq!(serve.poll_event(), None, "one question for both");
            serve.handle_authorised(T0, token, access);
            let frames = sent(&mut serve);
            assert_eq!(frames.iter().map(|(_, body)| code(body)).collect::<Vec<_>>(), [refusal; 2]);
            assert_eq!(serve.poll_store(), None);
        }
    }

    #[test]
    fn root_and_have_are_answered_from_what_the_catalog_says() {
        let mut serve = Serve::new(T0, ServeConfig::default());
        serve.handle_request(
            T0,
            Envelope { req: 1, body: DataRequest::GetManifest { version: VERSION, pages: Vec::new() } },
        );
        serve.handle_request(T0, Envelope { req: 2, body: DataRequest::Have { version: VERSION } });
        serve.handle_request(T0, get(3, Vec::new()));
        allow(&mut serve);
        assert_eq!(serve.poll_store(), Some(StoreRequest::LoadChunk { token: 2, id: MANIFEST.into() }));
        let frames = sent(&mut serve);
        assert_eq!(frames[0], (2, DataResponse::Have { complete: true, bitmap: Vec::new() }));
        assert_eq!(frames[1..], [(2, DataResponse::End), (3, DataResponse::End)]);
    }

    #[test]
    fn incomplete_version_is_looked_up_and_the_search_has_its_price() {
        let mut serve = Serve::new(T0, ServeConfig::default());
        let (mut looked, mut refused) = (0, 0);
        for req in 0..15 {
            serve.handle_request(T0, Envelope { req, body: DataRequest::Have { version: VERSION } });
            while let Some(Event::Authorise { token, .. }) = serve.poll_event() {
                serve.handle_authorised(T0, token, Access::Allowed { manifest: MANIFEST, complete: false });
            }
            if let Some(request) = serve.poll_store() {
                let StoreRequest::LookupHave { token, manifest } = request else { panic!("{request:?}") };
                assert_eq!(manifest, MANIFEST);
                serve.handle_have(T0, token, Ok(Have::Some(vec![0b11])));
                assert_eq!(sent(&mut serve)[0].1, DataResponse::Have { complete: false, bitmap: vec![0b11] });
                looked += 1;
            } else {
                assert_eq!(code(&sent(&mut serve)[0].1), RefusalCode::RateLimited);
                refused += 1;
            }
        }
        assert_eq!((looked, refused), (9, 6));
    }

    #[test]
    fn small_requests_are_limited_by_their_rate_and_large_ones_by_the_line() {
        let (small, large) = (chunk(0, 100), chunk(1, 50_000));
        let burst = u64::from(limits::PEER_REQUEST_BURST);
        for (served, expected) in [(&small, burst), (&large, 3 * burst)] {
            let mut serve = Serve::new(T0, ServeConfig::default());
            for req in 0..3 * burst {
                serve.handle_request(T0, get(req, vec![served.id()]));
                allow(&mut serve);
                load(&mut serve, std::slice::from_ref(served));
                while let Some(transmit) = serve.poll_transmit() {
                    serve.handle_sent(T0, transmit.cost);
                }
            }
            assert_eq!(serve.stats().chunks, expected);
        }
    }

    #[test]
    fn too_many_requests_at_once_are_refused_and_a_repeated_one_is_answered_once() {
        let mut serve = Serve::new(T0, ServeConfig::default());
        for req in 0..18 {
            serve.handle_request(T0, get(req, vec![MANIFEST.into()]));
            serve.handle_request(T0, get(0, vec![MANIFEST.into()]));
        }
        let frames = sent(&mut serve);
        assert_eq!(
            frames.iter().map(|(req, body)| (*req, code(body))).collect::<Vec<_>>(),
            [(16, RefusalCode::Busy), (17, RefusalCode::Busy)]
        );
        let ids = vec![MANIFEST.into(); limits::MAX_CHUNKS_PER_REQUEST + 1];
        serve.handle_request(T0, get(99, ids));
        assert_eq!(code(&sent(&mut serve)[0].1), RefusalCode::Invalid);
    }

    #[test]
    fn driver_that_reads_on_while_nothing_is_written_ends_the_stream() {
        let mut serve = Serve::new(T0, ServeConfig::default());
        let mut n_accepted = 0;
        for req in 0..10_000 {
            n_accepted += u32::from(serve.is_accepting());
            serve.handle_request(T0, get(req, vec![MANIFEST.into()]));
        }
        assert_eq!(n_accepted, 80, "16 in flight and 64 refusals that wait");
        let events: Vec<Event> = std::iter::from_fn(|| serve.poll_event()).collect();
        assert_eq!(events, [Event::Close(CloseReason::Flood)]);
        assert_eq!((sent(&mut serve).len(), serve.poll_store()), (0, None));
    }

    #[test]
    fn stream_without_traffic_is_closed_but_not_while_the_store_works() {
        let stored = chunk(1, 1_000);
        let mut serve = Serve::new(T0, ServeConfig::default());
        let (idle, _) = serve.poll_timeout().unwrap();
        assert_eq!(idle, T0 + limits::STREAM_IDLE);
        serve.handle_request(T0, get(1, vec![stored.id()]));
        allow(&mut serve);
        let Some(StoreRequest::LoadChunk { token, .. }) = serve.poll_store() else { panic!("no load") };
        assert_eq!(serve.poll_timeout(), None);
        serve.handle_timeout(Instant(u64::MAX / 2));
        let later = Instant(1_000_000_000);
        serve.handle_loaded(later, token, Ok(Some(stored)));
        assert_eq!(sent(&mut serve).len(), 2);
        let (stuck, _) = serve.poll_timeout().unwrap();
        assert_eq!(stuck, later + limits::STREAM_IDLE);
        serve.handle_timeout(stuck);
        assert_eq!(serve.poll_event(), Some(Event::Close(CloseReason::Stuck)));
        let mut quiet = Serve::new(T0, ServeConfig::default());
        quiet.handle_timeout(idle);
        assert_eq!(quiet.poll_event(), Some(Event::Close(CloseReason::Idle)));
    }

    #[test]
    fn store_that_cannot_be_read_ends_the_request_with_a_refusal() {
        let mut serve = Serve::new(T0, ServeConfig::default());
        serve.handle_request(T0, get(1, vec![MANIFEST.into(), ChunkId::from_bytes([1; 32])]));
        allow(&mut serve);
        let Some(StoreRequest::LoadChunk { token, .. }) = serve.poll_store() else { panic!("no load") };
        let Some(StoreRequest::LoadChunk { token: second, .. }) = serve.poll_store() else { panic!("no load") };
        serve.handle_loaded(T0, token, Err(StoreFailed));
        serve.handle_loaded(T0, second, Err(StoreFailed));
        let frames = sent(&mut serve);
        assert_eq!((frames.len(), code(&frames[0].1)), (1, RefusalCode::Internal));
        assert_eq!(serve.bytes_in_flight(), FRAME_COST);
    }

    #[test]
    fn any_sequence_of_inputs_keeps_the_bounds_and_every_request_gets_its_end() {
        let mut state = 7u64;
        let mut below = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        let chunks: Vec<Chunk> = (0..6).map(|n| chunk(n, 30_000 * (n as usize + 1))).collect();
        for _ in 0..30 {
            let bytes_in_flight = 1 << (14 + below(9));
            let config = ServeConfig { bytes_in_flight, requests_per_second: 2_000, ..ServeConfig::default() };
            let mut serve = Serve::new(T0, config);
            let (mut questions, mut store, mut unsent) = (Vec::new(), Vec::new(), Vec::new());
            let (mut asked, mut ended) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
            let take = |list: &mut Vec<usize>, pick: u64| {
                (!list.is_empty()).then(|| list.swap_remove(pick as usize % list.len()))
            };
            for step in 0..4_000u64 {
                let now = Instant(step * 1_000);
                let is_over = step > 1_500;
                match if is_over { 3 + below(3) } else { below(6) } {
                    0 | 1 if serve.is_accepting() => {
                        let version = VersionId::from_bytes([below(3) as u8; 32]);
                        let n_ids = below(limits::MAX_PAGES_PER_REQUEST as u64 + 1);
                        let ids: Vec<ChunkId> = (0..n_ids)
                            .map(|_| match below(8) as usize {
                                n @ 0..6 => chunks[n].id(),
                                _ => MANIFEST.into(),
                            })
                            .collect();
                        let body = match below(3) {
                            0 => DataRequest::Have { version },
                            1 => DataRequest::GetManifest { version, pages: ids },
                            _ => DataRequest::GetChunks { version, ids },
                        };
                        asked.insert(step);
                        serve.handle_request(now, Envelope { req: step, body });
                    }
                    2 => {
                        let req = below(step + 1);
                        serve.handle_request(now, Envelope { req: step, body: DataRequest::Cancel { req } });
                    }
                    3 => {
                        if let Some(token) = take(&mut questions, below(99)) {
                            let allowed = Access::Allowed { manifest: MANIFEST, complete: below(2) == 0 };
                            let access = [allowed, allowed, Access::Denied, Access::NotFound][below(4) as usize];
                            serve.handle_authorised(now, token as u64, access);
                        }
                    }
                    4 => {
                        if !store.is_empty() {
                            match store.swap_remove(below(99) as usize % store.len()) {
                                StoreRequest::LoadChunk { token, id } => {
                                    let found = chunks.iter().find(|chunk| chunk.id() == id).cloned();
                                    let loaded = if below(30) == 0 { Err(StoreFailed) } else { Ok(found) };
                                    serve.handle_loaded(now, token, loaded);
                                }
                                StoreRequest::LookupHave { token, .. } => {
                                    serve.handle_have(now, token, Ok(Have::Some(vec![1])));
                                }
                            }
                        }
                    }
                    _ => {
                        if let Some(cost) = take(&mut unsent, below(99)) {
                            serve.handle_sent(now, cost);
                        }
                    }
                }
                while let Some(event) = serve.poll_event() {
                    let Event::Authorise { token, .. } = event else { panic!("{event:?}") };
                    questions.push(token as usize);
                }
                store.extend(std::iter::from_fn(|| serve.poll_store()));
                while let Some(transmit) = serve.poll_transmit() {
                    unsent.push(transmit.cost);
                    let req = transmit.message.req;
                    assert!(asked.contains(&req) && !ended.contains(&req), "{req} was answered after its end");
                    if matches!(transmit.message.body, DataResponse::End | DataResponse::Refused(_)) {
                        ended.insert(req);
                    }
                }
                let small_frames = FRAME_COST * (unsent.len() + 2);
                let bound = config.bytes_in_flight.max(limits::MAX_CHUNK_LEN) + small_frames;
                assert!(serve.bytes_in_flight() <= bound, "{} of {bound}", serve.bytes_in_flight());
            }
            assert!(questions.is_empty() && store.is_empty() && unsent.is_empty());
            assert_eq!(asked, ended);
            assert_eq!(serve.bytes_in_flight(), 0);
        }
    }
}
