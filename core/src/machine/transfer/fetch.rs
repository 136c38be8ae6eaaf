//! Gets one version, or a part of it, from any number of providers into the chunk store.
//!
//! Doors, in the order of the machine contract:
//! - [`Fetch::handle_provider_added`], [`Fetch::handle_provider_lost`], [`Fetch::handle_response`],
//!   [`Fetch::handle_stream_lost`], [`Fetch::handle_garbage`]; [`Fetch::handle_lookup`], [`Fetch::handle_page`], [`Fetch::handle_put`], [`Fetch::handle_flushed`] with the answers
//!   of the store; [`Fetch::cancel`];
//! - [`Fetch::poll_transmit`]: requests for providers;
//! - [`Fetch::poll_store`]: requests for the chunk store;
//! - [`Fetch::poll_event`]: progress, verdicts on providers, the end;
//! - [`Fetch::poll_timeout`], [`Fetch::handle_timeout`].
//!
//! A new fetch has work for the store at once. The walk over the manifest brings chunks into a window of bounded size;
//! those that the store does not hold go to the picker, from there to the providers, and what comes back goes to the
//! store for verification. What is held already is not asked, so a fetch that was interrupted is resumed by a new one
//! over the same store; nothing is remembered elsewhere and nothing is hashed again.
//!
//! Invariants: only what was asked of a provider is accepted from it; nothing is `Done` before the store has answered
//! `Flush`; what is in view is bounded by [`FetchConfig`], however large the version is. A version whose chunks are
//! all here costs one lookup for every 256 of them.
//!
//! The service opens one stream to a provider when the first request for it comes out, and hands in what it reads there
//! frame by frame; while it holds back (because the store is slow), the provider's credit runs out and it sends no more.
//! It closes the streams when the fetch has ended, and that of a provider that was barred at once.
//!
//! Deliberately absent: hashing, decoding, which nodes are providers, and bans beyond this fetch.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::StoreFailed;
use super::have::Have;
use super::outcome::{
    BarReason, Event, FetchConfig, FetchError, FetchStats, Load, Progress, PutError, StallReason, StoreRequest,
    Transmit, Wanted,
};
use super::picker::{Arrival, Kind, Picker};
use super::provider::{Match, Provider, State};
use super::walk::{Next, PageWant, Walk};
use crate::id::{ChunkId, ManifestId, NodeId, VersionId};
use crate::limits;
use crate::time::Instant;
use crate::wire::message::{ChunkData, DataRequest, DataResponse, Envelope, RefusalCode};

/// Ids that are worth a lookup of their own, and missing chunks that are enough until then.
const LOOKUP_BATCH: usize = limits::MAX_LOOKUP_IDS / 4;

/// A chunk of the window.
#[derive(Debug, Clone, Copy)]
struct InView {
    len: u32,
    index: u64,
    /// Its first place in the stream.
    offset: u64,
    /// Wanted bytes at all its places so far.
    wanted: u64,
}

#[derive(Debug)]
struct Put {
    id: ChunkId,
    kind: Kind,
    slot: usize,
    /// What the provider says its length is.
    len: u32,
    wire_bytes: u64,
}

#[derive(Debug)]
enum Phase {
    Running,
    /// Ends when the puts under way are done.
    Draining(FetchError),
    /// The last flush is under way; the error is why the fetch ends early.
    Flushing(u64, Option<FetchError>),
    Ended,
}

/// See the module.
#[derive(Debug)]
pub struct Fetch {
    version: VersionId,
    config: FetchConfig,
    phase: Phase,
    walk: Walk,
    picker: Picker,
    providers: Vec<Provider>,
    /// The window: chunks that the walk has found and that are not done.
    window: BTreeMap<ChunkId, InView>,
    /// The window by place in the stream.
    places: BTreeSet<(u64, ChunkId)>,
    /// Chunks and pages to be looked up, and those that are.
    to_look_up: Vec<ChunkId>,
    looked_up: Option<(u64, Vec<ChunkId>)>,
    loads: BTreeMap<u64, ChunkId>,
    puts: BTreeMap<u64, Put>,
    n_pages_asked: u64,
    next_token: u64,
    transmits: VecDeque<Transmit>,
    store: VecDeque<StoreRequest>,
    events: VecDeque<Event>,
    stats: FetchStats,
    here_bytes: u64,
    /// When something was last gained.
    moved_at: Instant,
    stalled: Option<StallReason>,
    /// When an idle provider may take over what others are slow with.
    take_over_at: Option<Instant>,
    reported_at: Option<Instant>,
    has_news: bool,
}

impl Fetch {
    /// A fetch of a version whose signed operation names this manifest.
    pub fn new(now: Instant, version: VersionId, manifest: ManifestId, wanted: Wanted, config: FetchConfig) -> Self {
        let mut fetch = Self {
            version,
            config,
            phase: Phase::Running,
            walk: Walk::new(manifest, wanted),
            picker: Picker::new(config.order, config.bytes_in_flight),
            providers: Vec::new(),
            window: BTreeMap::new(),
            places: BTreeSet::new(),
            to_look_up: Vec::new(),
            looked_up: None,
            loads: BTreeMap::new(),
            puts: BTreeMap::new(),
            n_pages_asked: 0,
            next_token: 0,
            transmits: VecDeque::new(),
            store: VecDeque::new(),
            events: VecDeque::new(),
            stats: FetchStats::default(),
            here_bytes: 0,
            moved_at: now,
            stalled: None,
            take_over_at: None,
            reported_at: None,
            has_news: false,
        };
        fetch.drive(now);
        fetch
    }

    /// A node is said to hold the version, wholly or partly, and can be reached. `bad_chunks` is what it is remembered
    /// for. One that was lost or has refused may be named again; one that was barred stays so. Beyond
    /// [`MAX_FETCH_PROVIDERS`](limits::MAX_FETCH_PROVIDERS) others are not taken.
    pub fn handle_provider_added(&mut self, now: Instant, node: NodeId, bad_chunks: u32) {
        if let Some(slot) = self.slot_of(&node) {
            if self.providers[slot].state == State::Gone {
                self.providers[slot].state = State::Reserve;
                self.picker.forget_lacks(slot);
                // Who comes and goes without ever giving anything comes back more slowly each time.
                if self.providers[slot].losses > 1 {
                    self.rest(now, slot);
                }
            }
        } else if self.providers.len() < limits::MAX_FETCH_PROVIDERS {
            self.providers.push(Provider::new(node, bad_chunks));
            self.picker.add_slot();
        }
        self.stalled = None;
        self.drive(now);
    }

    /// The stream to a provider has ended or broke, and the provider may still be there: what was asked is asked again,
    /// of others or over a new stream.
    pub fn handle_stream_lost(&mut self, now: Instant, node: &NodeId) {
        if let Some(slot) = self.slot_of(node)
            && !matches!(self.providers[slot].state, State::Gone | State::Barred)
        {
            self.take_back(slot);
            // One that breaks again and again before anything has come is opened more slowly each time.
            if self.providers[slot].losses > 1 {
                self.rest(now, slot);
            } else if !matches!(self.providers[slot].state, State::Resting(_)) {
                self.providers[slot].state = State::Reserve;
            }
        }
        self.drive(now);
    }

    /// A provider sent what is no answer at all.
    pub fn handle_garbage(&mut self, now: Instant, node: &NodeId) {
        if let Some(slot) = self.slot_of(node)
            && self.providers[slot].state != State::Barred
        {
            self.bar(slot, BarReason::Malformed);
        }
        self.drive(now);
    }

    /// A provider cannot be reached any more; what was asked of it is asked of others.
    pub fn handle_provider_lost(&mut self, now: Instant, node: &NodeId) {
        if let Some(slot) = self.slot_of(node)
            && self.providers[slot].state != State::Barred
        {
            self.part_with(slot, State::Gone);
        }
        self.drive(now);
    }

    /// A provider has answered.
    pub fn handle_response(&mut self, now: Instant, from: &NodeId, response: Envelope<DataResponse>) {
        let Some(slot) = self.slot_of(from) else { return };
        let is_heard = !matches!(self.providers[slot].state, State::Gone | State::Barred);
        if !is_heard || !matches!(self.phase, Phase::Running) {
            return;
        }
        let Envelope { req, body } = response;
        match body {
            DataResponse::Chunk(data) => self.on_chunk(now, slot, req, data),
            DataResponse::Missing(id) => self.on_missing(now, slot, req, &id),
            DataResponse::Have { complete, bitmap } => self.on_have(now, slot, req, Have::from_wire(complete, bitmap)),
            DataResponse::End => self.on_end(now, slot, req),
            DataResponse::Refused(refusal) => self.on_refused(now, slot, req, refusal.code),
        }
        self.drive(now);
    }

    /// The store has said which of the ids of a lookup it holds, in their order.
    pub fn handle_lookup(&mut self, now: Instant, token: u64, held: Result<Vec<bool>, StoreFailed>) {
        let Some((_, ids)) = self.looked_up.take_if(|(asked, _)| *asked == token) else { return };
        let Ok(held) = held else { return self.fail_store(now) };
        for (at, id) in ids.into_iter().enumerate() {
            let is_here = held.get(at).copied().unwrap_or(false);
            self.walk.page_looked_up(id, is_here);
            if is_here {
                self.leave_window(now, &id, false);
            } else if let Some(InView { index, len, .. }) = self.window.get(&id) {
                self.picker.want(id, Kind::Chunk, *index, *len as usize);
            }
        }
        self.drive(now);
    }

    /// The store has loaded a page: its raw bytes, or `None` when it does not hold it.
    pub fn handle_page(&mut self, now: Instant, token: u64, page: Result<Option<Vec<u8>>, StoreFailed>) {
        let Some(id) = self.loads.remove(&token) else { return };
        let Ok(page) = page else { return self.fail_store(now) };
        self.moved_at = now;
        self.walk.page_loaded(id, page);
        self.drive(now);
    }

    /// The store has verified a chunk and taken it, or not.
    pub fn handle_put(&mut self, now: Instant, token: u64, put: Result<(), PutError>) {
        let Some(put_was) = self.puts.remove(&token).filter(|_| !self.has_ended()) else { return };
        match put {
            Ok(()) => self.on_stored(now, &put_was),
            Err(PutError::Bad) => {
                self.stats.wasted_bytes += put_was.wire_bytes;
                self.picker.refused(&put_was.id);
                self.bar(put_was.slot, BarReason::WrongBytes);
            }
            Err(PutError::Full) => {
                self.picker.refused(&put_was.id);
                self.end_early(FetchError::StoreFull);
            }
            Err(PutError::Failed) => return self.fail_store(now),
        }
        self.drive(now);
    }

    /// The store has made durable what was put before.
    pub fn handle_flushed(&mut self, now: Instant, token: u64, flushed: Result<(), StoreFailed>) {
        let Phase::Flushing(asked, error) = &mut self.phase else { return };
        if *asked != token {
            return;
        }
        let error = error.take();
        let Ok(()) = flushed else { return self.fail_store(now) };
        self.finish(error);
    }

    /// Ends the fetch; what has arrived is made durable first.
    pub fn cancel(&mut self, now: Instant) {
        self.end_early(FetchError::Cancelled);
        self.drive(now);
    }

    /// The next request for a provider.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next request for the store.
    pub fn poll_store(&mut self) -> Option<StoreRequest> {
        self.store.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Fetch::handle_timeout`], and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if !matches!(self.phase, Phase::Running) {
            return None;
        }
        let report = self.reported_at.filter(|_| self.has_news).map(|at| at + limits::PROGRESS_INTERVAL);
        let stall = self.is_idle_without_reason().then(|| self.moved_at + self.config.stall);
        let providers = self.providers.iter().flat_map(|provider| {
            let rested = match provider.state {
                State::Resting(until) => Some((until, "provider has rested")),
                _ => None,
            };
            let have = provider.have_due.map(|at| (at, "what a provider holds"));
            let again = provider.lacks_due.map(|at| (at, "what a provider lacked"));
            let late = provider.next_deadline().map(|at| (at, "late chunk"));
            [rested, have, again, late]
        });
        [
            self.config.deadline.map(|at| (at, "deadline")),
            report.map(|at| (at, "progress report")),
            stall.map(|at| (at, "stalled")),
            self.take_over_at.map(|at| (at, "slow provider")),
        ]
        .into_iter()
        .chain(providers)
        .flatten()
        .min()
    }

    /// Whether a stall would be news.
    fn is_idle_without_reason(&self) -> bool {
        self.stalled.is_none() && self.picker.len() > 0 && self.puts.is_empty()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if !matches!(self.phase, Phase::Running) {
            return;
        }
        if self.config.deadline.is_some_and(|deadline| now >= deadline) {
            self.end_early(FetchError::Deadline);
            return self.drive(now);
        }
        for slot in 0..self.providers.len() {
            self.watch(now, slot);
        }
        self.drive(now);
    }

    /// What is held at the moment.
    pub fn load(&self) -> Load {
        Load {
            pieces: self.window.len(),
            pages: self.walk.n_pages(),
            bytes: self.picker.bytes(),
            requests: self.providers.iter().map(Provider::n_requests).sum(),
        }
    }

    /// Whether [`Event::Done`] or [`Event::Failed`] was given.
    pub const fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        Progress {
            wanted_bytes: self.walk.wanted_bytes(),
            here_bytes: self.here_bytes,
            received_bytes: self.stats.received_bytes + self.stats.page_bytes,
            ready_to: self.places.first().map_or_else(|| self.walk.offset(), |(offset, _)| *offset),
            providers: self.providers.iter().filter(|provider| provider.state == State::Active).count(),
        }
    }

    fn slot_of(&self, node: &NodeId) -> Option<usize> {
        self.providers.iter().position(|provider| provider.node == *node)
    }

    const fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    // What providers say.

    fn on_chunk(&mut self, now: Instant, slot: usize, req: u64, data: ChunkData) {
        let (id, wire_bytes) = (data.id, data.bytes.len() as u64);
        let provider = &mut self.providers[slot];
        provider.stats.wire_bytes += wire_bytes;
        self.stats.wire_bytes += wire_bytes;
        let kind = match provider.answer(req, &id) {
            Match::Answer { kind, .. } => kind,
            Match::Stray => {
                self.stats.wasted_bytes += wire_bytes;
                return self.on_stray(slot);
            }
            Match::Lie => {
                self.stats.wasted_bytes += wire_bytes;
                return self.bar(slot, BarReason::Unasked);
            }
        };
        let max = if kind == Kind::Page { limits::MAX_PAGE_LEN } else { limits::MAX_CHUNK_LEN };
        if data.len as usize > max || data.bytes.len() > data.len as usize {
            self.stats.wasted_bytes += wire_bytes;
            self.picker.release(&id, slot);
            return self.bar(slot, BarReason::Malformed);
        }
        provider.observe(now, req);
        provider.misses = 0;
        provider.broken_promises = 0;
        provider.silences = 0;
        provider.losses = 0;
        provider.rest = limits::FETCH_RETRY;
        provider.retry = limits::FETCH_RETRY;
        // One that was slow is used again as soon as it shows itself.
        if provider.state == State::Late && !provider.is_late() {
            provider.state = State::Reserve;
        }
        if self.picker.arrived(&id, slot) == Arrival::Surplus {
            self.stats.wasted_bytes += wire_bytes;
            return;
        }
        let token = self.token();
        let from = self.providers[slot].node;
        self.puts.insert(token, Put { id, kind, slot, len: data.len, wire_bytes });
        self.store.push_back(StoreRequest::Put { token, from, data });
    }

    fn on_missing(&mut self, now: Instant, slot: usize, req: u64, id: &ChunkId) {
        match self.providers[slot].answer(req, id) {
            Match::Answer { .. } => {
                self.providers[slot].settle(req);
                let is_promised = self.picker.has_promised(id, slot);
                self.on_miss(now, slot, id);
                self.on_broken_promises(slot, u32::from(is_promised));
            }
            Match::Stray => self.on_stray(slot),
            Match::Lie => self.bar(slot, BarReason::Unasked),
        }
    }

    /// A provider does not have what it was asked for.
    fn on_miss(&mut self, now: Instant, slot: usize, id: &ChunkId) {
        self.picker.lacks(id, slot);
        let provider = &mut self.providers[slot];
        provider.stats.missing += 1;
        provider.misses += 1;
        provider.lacks_due.get_or_insert(now + provider.retry);
        if provider.misses >= limits::MAX_MISSES {
            provider.misses = 0;
            self.rest(now, slot);
        }
    }

    fn on_broken_promises(&mut self, slot: usize, n: u32) {
        let provider = &mut self.providers[slot];
        provider.broken_promises += n;
        if provider.broken_promises >= limits::MAX_MISSES {
            self.bar(slot, BarReason::EmptyPromises);
        }
    }

    fn on_have(&mut self, now: Instant, slot: usize, req: u64, have: Have) {
        match self.providers[slot].answer_have(req) {
            Match::Answer { .. } => {
                let have = match self.walk.n_chunks() {
                    Some(n_chunks) => have.checked(n_chunks),
                    None => have,
                };
                let is_partial = matches!(have, Have::Some(_));
                self.providers[slot].have_due = is_partial.then(|| now + limits::HAVE_INTERVAL);
                self.picker.set_have(slot, have);
                self.picker.forget_lacks(slot);
            }
            Match::Stray => self.on_stray(slot),
            Match::Lie => self.bar(slot, BarReason::Unasked),
        }
    }

    fn on_end(&mut self, now: Instant, slot: usize, req: u64) {
        let Some(left) = self.providers[slot].end(req) else { return self.on_stray(slot) };
        // One for the whole request: its chunks may only have been overtaken.
        let n_broken = u32::from(left.iter().any(|id| self.picker.has_promised(id, slot)));
        for id in left {
            self.on_miss(now, slot, &id);
        }
        self.on_broken_promises(slot, n_broken);
    }

    fn on_refused(&mut self, now: Instant, slot: usize, req: u64, code: RefusalCode) {
        let Some(left) = self.providers[slot].refused(req) else { return self.on_stray(slot) };
        for id in left {
            self.picker.release(&id, slot);
        }
        match code {
            RefusalCode::RateLimited | RefusalCode::Busy | RefusalCode::Internal => self.rest(now, slot),
            RefusalCode::NotFound | RefusalCode::Denied | RefusalCode::Invalid | RefusalCode::Unsupported => {
                self.part_with(slot, State::Gone);
                self.providers[slot].losses += 1;
                self.events.push_back(Event::Dropped { node: self.providers[slot].node, code });
            }
        }
    }

    fn on_stray(&mut self, slot: usize) {
        if self.providers[slot].stray() {
            self.bar(slot, BarReason::Flood);
        }
    }

    // How providers are treated.

    /// Not asked again for a while; what it was asked before is still waited for.
    fn rest(&mut self, now: Instant, slot: usize) {
        let provider = &mut self.providers[slot];
        if !matches!(provider.state, State::Gone | State::Barred) {
            provider.state = State::Resting(now + provider.rest);
            provider.rest = (provider.rest * 2).min(limits::MAX_FETCH_RETRY);
            self.picker.set_active(slot, false);
        }
    }

    /// Takes back all that was asked of a provider.
    fn take_back(&mut self, slot: usize) {
        self.picker.set_active(slot, false);
        let provider = &mut self.providers[slot];
        provider.have_due = None;
        let (open, waiting) = provider.clear();
        provider.losses += u32::from(!open.is_empty());
        for id in waiting {
            self.picker.release(&id, slot);
        }
    }

    fn part_with(&mut self, slot: usize, state: State) {
        self.take_back(slot);
        self.providers[slot].state = state;
        self.providers[slot].lacks_due = None;
    }

    fn bar(&mut self, slot: usize, reason: BarReason) {
        self.part_with(slot, State::Barred);
        let provider = &mut self.providers[slot];
        let node = provider.node;
        if reason.counts() {
            provider.stats.bad += 1;
            provider.bad_chunks += 1;
        }
        let bad_chunks = provider.bad_chunks;
        self.events.push_back(Event::Barred { node, reason, bad_chunks });
        if reason.counts() && bad_chunks == limits::BAD_CHUNKS_TO_BAN {
            self.events.push_back(Event::Ban { node, duration: limits::BAN_DURATION });
        }
    }

    /// Looks for what has not come in time.
    fn watch(&mut self, now: Instant, slot: usize) {
        let provider = &mut self.providers[slot];
        if let State::Resting(until) = provider.state
            && now >= until
        {
            provider.state = State::Reserve;
        }
        for id in provider.late(now) {
            provider.stats.late += 1;
            self.picker.overdue(&id, slot);
        }
        if provider.state == State::Active && provider.is_late() {
            provider.state = State::Late;
            self.picker.set_active(slot, false);
        }
        let given_up = provider.give_up(now);
        for id in &given_up {
            self.picker.release(id, slot);
        }
        if !given_up.is_empty() {
            self.providers[slot].silences += 1;
            self.rest(now, slot);
        } else if self.providers[slot].state == State::Late && !self.providers[slot].is_late() {
            self.providers[slot].state = State::Reserve;
        }
        let provider = &mut self.providers[slot];
        // It may have got since what it lacked, or the answer was lost.
        if provider.lacks_due.take_if(|due| now >= *due).is_some() {
            provider.retry = (provider.retry * 2).min(limits::MAX_FETCH_RETRY);
            self.picker.forget_lacks(slot);
        }
        if self.providers[slot].have_due.take_if(|due| now >= *due).is_some()
            && self.providers[slot].state == State::Active
        {
            self.ask_have(now, slot);
        }
    }

    fn ask_have(&mut self, now: Instant, slot: usize) {
        self.providers[slot].have_due = None;
        if self.walk.wants_chunks() && !matches!(self.picker.have(slot), Have::All) {
            let version = self.version;
            self.request(now, slot, None, &[], DataRequest::Have { version });
        }
    }

    fn request(&mut self, now: Instant, slot: usize, kind: Option<Kind>, ids: &[ChunkId], body: DataRequest) {
        let provider = &mut self.providers[slot];
        match provider.open(now, kind, ids) {
            Some(req) => {
                self.transmits.push_back(Transmit { to: provider.node, message: Envelope { req, body } });
            }
            None => ids.iter().for_each(|id| self.picker.release(id, slot)),
        }
    }

    // What the store says.

    fn on_stored(&mut self, now: Instant, put: &Put) {
        let provider = &mut self.providers[put.slot].stats;
        provider.chunks += 1;
        provider.raw_bytes += u64::from(put.len);
        if put.kind == Kind::Page {
            self.stats.received_pages += 1;
            self.stats.page_bytes += u64::from(put.len);
        }
        self.moved(now);
        for slot in self.picker.stored(&put.id) {
            self.call_off(slot, &put.id);
        }
        self.walk.page_stored(&put.id);
        let expected = self.window.get(&put.id).map(|chunk| chunk.len);
        self.leave_window(now, &put.id, true);
        // It verified with the length that the provider gave, so it is the manifest that lies.
        if expected.is_some_and(|expected| expected != put.len) {
            let reason = format!("chunk {} has {} bytes", put.id, put.len);
            self.end_early(FetchError::BadManifest(reason));
        }
    }

    /// Another provider was faster: a request that brings nothing else any more is cancelled.
    fn call_off(&mut self, slot: usize, id: &ChunkId) {
        let provider = &mut self.providers[slot];
        let Some(req) = provider.request_of(id) else { return };
        let is_useless = provider.waiting_in(req).iter().all(|id| !self.picker.is_asked(id, slot));
        if is_useless {
            provider.abandon(req);
            let message = Envelope { req: provider.number(), body: DataRequest::Cancel { req } };
            self.transmits.push_back(Transmit { to: provider.node, message });
        }
    }

    /// A chunk is in the store, received or found there.
    fn leave_window(&mut self, now: Instant, id: &ChunkId, was_received: bool) {
        let Some(chunk) = self.window.remove(id) else { return };
        self.places.remove(&(chunk.offset, *id));
        self.here_bytes += chunk.wanted;
        if was_received {
            self.stats.received_chunks += 1;
            self.stats.received_bytes += u64::from(chunk.len);
            self.stats.reused_bytes += chunk.wanted.saturating_sub(u64::from(chunk.len));
        } else {
            self.stats.reused_bytes += chunk.wanted;
        }
        self.moved(now);
    }

    fn moved(&mut self, now: Instant) {
        self.moved_at = now;
        self.stalled = None;
        self.has_news = true;
    }

    fn fail_store(&mut self, now: Instant) {
        if !matches!(self.phase, Phase::Ended) {
            self.call_off_all();
            self.finish(Some(FetchError::StoreFailed));
        }
        self.drive(now);
    }

    // The engine.

    /// Does all that can be done now.
    fn drive(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Running) {
            self.advance();
            self.look_up();
            self.choose_providers(now);
            self.ask(now);
            self.mind_stalls(now);
            self.report(now);
        }
        self.wind_up();
    }

    /// Lets the walk go on while there is room in the window.
    fn advance(&mut self) {
        let had_root = self.walk.n_chunks().is_some();
        let mut result = self.walk.advance();
        if !had_root && let Some(n_chunks) = self.walk.n_chunks() {
            self.picker.check_haves(n_chunks);
            self.has_news = true;
        }
        while result.is_ok() && self.window.len() < self.config.window && self.to_look_up.len() < limits::MAX_LOOKUP_IDS
        {
            match self.walk.next_chunk() {
                Ok(Next::Chunk(found)) => match self.window.get_mut(&found.chunk.id) {
                    Some(chunk) => chunk.wanted += found.wanted,
                    None => {
                        let (id, len) = (found.chunk.id, found.chunk.len);
                        let (index, offset, wanted) = (found.index, found.offset, found.wanted);
                        self.window.insert(id, InView { len, index, offset, wanted });
                        self.places.insert((offset, id));
                        self.to_look_up.push(id);
                    }
                },
                Ok(Next::Wait | Next::End) => break,
                Err(error) => result = Err(error),
            }
        }
        while let Some(want) = self.walk.poll_want() {
            match want {
                PageWant::LookUp(id) => self.to_look_up.push(id),
                PageWant::Load(id) => {
                    let token = self.token();
                    self.loads.insert(token, id);
                    self.store.push_back(StoreRequest::LoadPage { token, id });
                }
                PageWant::Fetch(id, len) => {
                    let len = len.map_or(limits::MAX_PAGE_LEN, |len| len as usize);
                    self.picker.want(id, Kind::Page, self.n_pages_asked, len);
                    self.n_pages_asked += 1;
                }
            }
        }
        if let Err(error) = result {
            self.end_early(FetchError::BadManifest(error));
        }
    }

    fn look_up(&mut self) {
        // While there is enough to ask for, questions to the store wait until they are worth a trip.
        let can_wait = self.picker.n_free() >= LOOKUP_BATCH && self.to_look_up.len() < LOOKUP_BATCH;
        if self.looked_up.is_some() || self.to_look_up.is_empty() || can_wait {
            return;
        }
        let n = self.to_look_up.len().min(limits::MAX_LOOKUP_IDS);
        let ids: Vec<ChunkId> = self.to_look_up.drain(..n).collect();
        let token = self.token();
        self.looked_up = Some((token, ids.clone()));
        self.store.push_back(StoreRequest::Lookup { token, ids });
    }

    fn choose_providers(&mut self, now: Instant) {
        let mut n_active = self.providers.iter().filter(|provider| provider.state == State::Active).count();
        for slot in self.by_silence() {
            if n_active >= self.config.providers.max(1) {
                return;
            }
            if self.providers[slot].state == State::Reserve {
                self.providers[slot].state = State::Active;
                self.picker.set_active(slot, true);
                self.ask_have(now, slot);
                n_active += 1;
            }
        }
    }

    /// All providers, those that did not answer lately behind the others.
    fn by_silence(&self) -> Vec<usize> {
        let mut slots: Vec<usize> = (0..self.providers.len()).collect();
        slots.sort_by_key(|slot| self.providers[*slot].silences);
        slots
    }

    /// Gives work to the providers in use, in turn, until nobody takes more.
    fn ask(&mut self, now: Instant) {
        self.take_over_at = None;
        let mut active = self.by_silence();
        active.retain(|slot| self.providers[*slot].state == State::Active);
        loop {
            let mut has_asked = false;
            for &slot in &active {
                has_asked |= self.ask_one(now, slot);
            }
            if !has_asked {
                return;
            }
        }
    }

    fn ask_one(&mut self, now: Instant, slot: usize) -> bool {
        let provider = &self.providers[slot];
        let (depth, n_waiting) = (provider.depth(self.config.chunks_per_provider), provider.n_waiting());
        // Requests of several chunks, the next one well before the last has been answered.
        if n_waiting > depth / 2 || !provider.has_room() {
            return false;
        }
        let max = (depth - n_waiting).min(limits::MAX_CHUNKS_PER_REQUEST);
        let mut picked = self.picker.pick(now, slot, max);
        if picked.is_none() && n_waiting == 0 {
            let latency = self.providers[slot].latency().unwrap_or(limits::MIN_CHUNK_TIMEOUT);
            let take_over = self.picker.take_over(now, slot, latency * 2, max);
            picked = take_over.picked;
            self.take_over_at = [self.take_over_at, take_over.next].into_iter().flatten().min();
        }
        let Some((kind, mut ids)) = picked else { return false };
        let version = self.version;
        if kind == Kind::Page {
            for id in ids.drain(limits::MAX_PAGES_PER_REQUEST.min(ids.len())..) {
                self.picker.release(&id, slot);
            }
        }
        let body = match kind {
            Kind::Page => DataRequest::GetManifest { version, pages: ids.clone() },
            Kind::Chunk => DataRequest::GetChunks { version, ids: ids.clone() },
        };
        self.request(now, slot, Some(kind), &ids, body);
        true
    }

    /// Notices when nothing can be had, and says so.
    fn mind_stalls(&mut self, now: Instant) {
        if self.picker.len() == 0 {
            self.moved_at = now;
            return;
        }
        let usable = |provider: &&Provider| !matches!(provider.state, State::Gone | State::Barred);
        let is_waiting = self.providers.iter().filter(usable).any(|provider| provider.n_waiting() > 0);
        let n_active = self.providers.iter().filter(|provider| provider.state == State::Active).count();
        let is_dry = n_active > 0 && !is_waiting && self.puts.is_empty() && self.picker.n_free() > 0;
        let reason = if self.providers.iter().filter(usable).count() == 0 {
            StallReason::NoProvider
        } else if now < self.moved_at + self.config.stall {
            return;
        } else if is_dry {
            StallReason::NobodyHas
        } else {
            StallReason::Silence
        };
        if self.puts.is_empty() && self.stalled != Some(reason) {
            self.stalled = Some(reason);
            self.events.push_back(Event::Stalled(reason));
        }
    }

    fn report(&mut self, now: Instant) {
        let is_due = self.reported_at.is_none_or(|at| now >= at + limits::PROGRESS_INTERVAL);
        if self.has_news && is_due {
            self.has_news = false;
            self.reported_at = Some(now);
            self.events.retain(|event| !matches!(event, Event::Progress(_)));
            self.events.push_back(Event::Progress(self.progress()));
        }
    }

    // The end.

    /// Begins to end without everything.
    fn end_early(&mut self, error: FetchError) {
        if matches!(self.phase, Phase::Running) {
            self.phase = Phase::Draining(error);
            self.call_off_all();
        }
    }

    fn call_off_all(&mut self) {
        // What was not handed out yet does not need to be cancelled.
        self.transmits.clear();
        for slot in 0..self.providers.len() {
            let (requests, waiting) = self.providers[slot].clear();
            for id in waiting {
                self.picker.release(&id, slot);
            }
            let provider = &mut self.providers[slot];
            if matches!(provider.state, State::Gone | State::Barred) {
                continue;
            }
            for req in requests {
                let message = Envelope { req: provider.number(), body: DataRequest::Cancel { req } };
                self.transmits.push_back(Transmit { to: provider.node, message });
            }
        }
    }

    /// Goes on towards the end when nothing is under way.
    fn wind_up(&mut self) {
        let is_complete = self.walk.is_finished()
            && self.window.is_empty()
            && self.picker.len() == 0
            && self.looked_up.is_none()
            && self.to_look_up.is_empty();
        let error = match &self.phase {
            Phase::Running if is_complete => None,
            Phase::Draining(error) => Some(error.clone()),
            _ => return,
        };
        if self.puts.is_empty() {
            if error.is_none() {
                self.call_off_all();
            }
            let token = self.token();
            self.phase = Phase::Flushing(token, error);
            self.store.push_back(StoreRequest::Flush { token });
        }
    }

    fn finish(&mut self, error: Option<FetchError>) {
        self.phase = Phase::Ended;
        let mut stats = std::mem::take(&mut self.stats);
        stats.wanted_bytes = self.walk.wanted_bytes().unwrap_or(0);
        stats.providers = self.providers.iter().map(|provider| (provider.node, provider.stats)).collect();
        self.events.retain(|event| !matches!(event, Event::Progress(_)));
        self.events.push_back(match error {
            None => Event::Done(stats),
            Some(error) => Event::Failed(error, stats),
        });
    }
}
