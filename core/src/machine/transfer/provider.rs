//! One provider of a fetch: what was asked of it, how fast it answers, and how far it is trusted.
//!
//! Invariant: an id is waited for in at most one request, and a request is remembered until everything in it was
//! answered and its end has come, or its time is up. Only what was asked is accepted: an answer to a number that was
//! never given out, or about an id that was not in that request, is a lie; a second answer to the same question, or
//! one to a request that is forgotten, is a stray, of which so many are borne.
//!
//! Deliberately absent: which pieces are asked; see `picker`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::outcome::ProviderStats;
use super::picker::Kind;
use crate::id::{ChunkId, NodeId};
use crate::limits;
use crate::time::Instant;

/// How a provider stands to a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Could be used.
    Reserve,
    /// In use.
    Active,
    /// Has not answered in time; nothing more is asked until it does.
    Late,
    /// Not asked before then.
    Resting(Instant),
    /// Has refused or is not connected.
    Gone,
    /// Has lied.
    Barred,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Waiting,
    /// Not waited for any more, but welcome.
    LetGo,
    Answered,
}

#[derive(Debug)]
struct Request {
    /// `None`: the question what it holds.
    kind: Option<Kind>,
    ids: BTreeMap<ChunkId, Answer>,
    n_waiting: usize,
    asked_at: Instant,
    is_late: bool,
    has_ended: bool,
}

impl Request {
    fn is_over(&self) -> bool {
        self.has_ended && !self.ids.values().any(|answer| *answer == Answer::LetGo) && self.n_waiting == 0
    }

    /// Whether the time at which others are asked is still to come.
    fn can_be_late(&self) -> bool {
        self.kind.is_some() && !self.is_late && self.n_waiting > 0
    }

    fn waiting(&self) -> impl Iterator<Item = ChunkId> {
        self.ids.iter().filter(|(_, answer)| **answer == Answer::Waiting).map(|(id, _)| *id)
    }
}

/// How an answer belongs to what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Match {
    /// It is the answer.
    Answer {
        /// What was asked.
        kind: Kind,
        /// Whether it was still waited for.
        in_time: bool,
    },
    /// Answered before, or forgotten.
    Stray,
    /// Never asked.
    Lie,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Provider {
    pub(super) node: NodeId,
    pub(super) state: State,
    pub(super) stats: ProviderStats,
    /// Bad chunks, those of earlier fetches included.
    pub(super) bad_chunks: u32,
    /// Answers in a row that it does not have something.
    pub(super) misses: u32,
    /// Those in a row that it had said to have.
    pub(super) broken_promises: u32,
    /// Times in a row that it did not answer at all.
    pub(super) silences: u32,
    /// Times in a row that it went away while it was asked, or refused.
    pub(super) losses: u32,
    /// The next rest.
    pub(super) rest: Duration,
    /// When it may be asked again what it holds.
    pub(super) have_due: Option<Instant>,
    /// When it may be asked again for what it did not have, and how long after that.
    pub(super) lacks_due: Option<Instant>,
    pub(super) retry: Duration,
    requests: BTreeMap<u64, Request>,
    next_req: u64,
    strays: u32,
    /// From asking a chunk to its arrival, on average.
    latency: Option<Duration>,
    /// From one chunk to the next, on average, while some are waited for.
    gap: Option<Duration>,
    last_arrival: Instant,
}

fn average(old: Option<Duration>, new: Duration) -> Duration {
    old.map_or(new, |old| (old * 7 + new) / 8)
}

/// How much work in flight is worth having at one provider: a slow one gets fewer chunks.
const FULL_PIPE: Duration = Duration::from_secs(2);

impl Provider {
    pub(super) const fn new(node: NodeId, bad_chunks: u32) -> Self {
        Self {
            node,
            state: State::Reserve,
            stats: ProviderStats { chunks: 0, raw_bytes: 0, wire_bytes: 0, bad: 0, missing: 0, late: 0 },
            bad_chunks,
            misses: 0,
            broken_promises: 0,
            silences: 0,
            losses: 0,
            rest: limits::FETCH_RETRY,
            have_due: None,
            lacks_due: None,
            retry: limits::FETCH_RETRY,
            requests: BTreeMap::new(),
            next_req: 0,
            strays: 0,
            latency: None,
            gap: None,
            last_arrival: Instant(0),
        }
    }

    /// Requests not over.
    pub(super) fn n_requests(&self) -> usize {
        self.requests.len()
    }

    /// Pieces waited for.
    pub(super) fn n_waiting(&self) -> usize {
        self.requests.values().filter(|request| request.kind.is_some()).map(|request| request.n_waiting).sum()
    }

    /// How many chunks should be in flight here, at most `max`.
    pub(super) fn depth(&self, max: usize) -> usize {
        let depth = match self.gap {
            // One is enough to see whether it is there again.
            _ if self.silences > 0 => 1,
            None => max / 2,
            Some(gap) => usize::try_from(FULL_PIPE.as_micros() / gap.as_micros().max(1)).unwrap_or(max),
        };
        depth.clamp(1, max.max(1))
    }

    /// From asking to arrival, on average.
    pub(super) const fn latency(&self) -> Option<Duration> {
        self.latency
    }

    /// How long to wait before others are asked.
    fn patience(&self) -> Duration {
        self.latency.map_or(limits::CHUNK_TIMEOUT, |latency| {
            (latency * 4).clamp(limits::MIN_CHUNK_TIMEOUT, limits::CHUNK_TIMEOUT * 4)
        })
    }

    /// How long to wait before an answer is given up.
    fn last_patience(&self) -> Duration {
        self.patience().max(limits::CHUNK_TIMEOUT)
    }

    /// Takes a number for a request. `None` when as many are open as a stream may have.
    pub(super) fn open(&mut self, now: Instant, kind: Option<Kind>, ids: &[ChunkId]) -> Option<u64> {
        if self.requests.len() >= limits::MAX_REQUESTS_PER_STREAM {
            let over = self.requests.iter().find(|(_, request)| request.n_waiting == 0 && request.kind.is_some());
            let over = over.map(|(req, _)| *req)?;
            let over = self.requests.remove(&over);
            self.strays += u32::from(over.is_some_and(|over| !over.has_ended));
        }
        let req = self.next_req;
        self.next_req += 1;
        let ids: BTreeMap<ChunkId, Answer> = ids.iter().map(|id| (*id, Answer::Waiting)).collect();
        let n_waiting = if kind.is_some() { ids.len() } else { 1 };
        let request = Request { kind, ids, n_waiting, asked_at: now, is_late: false, has_ended: false };
        self.requests.insert(req, request);
        Some(req)
    }

    /// A number for a message that is not answered.
    pub(super) const fn number(&mut self) -> u64 {
        self.next_req += 1;
        self.next_req - 1
    }

    /// Whether a request can be made.
    pub(super) fn has_room(&self) -> bool {
        self.requests.len() < limits::MAX_REQUESTS_PER_STREAM
            || self.requests.values().any(|request| request.n_waiting == 0 && request.kind.is_some())
    }

    fn close_if_over(&mut self, req: u64) {
        if self.requests.get(&req).is_some_and(Request::is_over) {
            self.requests.remove(&req);
        }
    }

    /// Something was said about an id; it is taken as answered.
    pub(super) fn answer(&mut self, req: u64, id: &ChunkId) -> Match {
        let Some(request) = self.requests.get_mut(&req) else {
            return if req < self.next_req { Match::Stray } else { Match::Lie };
        };
        let (Some(kind), Some(answer)) = (request.kind, request.ids.get_mut(id)) else { return Match::Lie };
        let in_time = *answer == Answer::Waiting;
        if *answer == Answer::Answered {
            return Match::Stray;
        }
        *answer = Answer::Answered;
        request.n_waiting -= usize::from(in_time);
        Match::Answer { kind, in_time }
    }

    /// A chunk arrived as the answer to a request: learns how fast the provider is.
    pub(super) fn observe(&mut self, now: Instant, req: u64) {
        if let Some(request) = self.requests.get(&req) {
            let since = |then| now.saturating_duration_since(then);
            self.latency = Some(average(self.latency, since(request.asked_at)));
            self.gap = Some(average(self.gap, since(request.asked_at.max(self.last_arrival))));
        }
        self.last_arrival = now;
        self.close_if_over(req);
    }

    /// An answer without bytes came: closes the request if it was the last.
    pub(super) fn settle(&mut self, req: u64) {
        self.close_if_over(req);
    }

    /// The answer to what it holds came; whether it was asked.
    pub(super) fn answer_have(&mut self, req: u64) -> Match {
        match self.requests.get_mut(&req) {
            Some(request) if request.kind.is_none() && request.n_waiting == 1 => {
                request.n_waiting = 0;
                Match::Answer { kind: Kind::Chunk, in_time: true }
            }
            Some(request) if request.kind.is_none() => Match::Stray,
            Some(_) => Match::Lie,
            None if req < self.next_req => Match::Stray,
            None => Match::Lie,
        }
    }

    /// The end of a request came. Returns what it leaves unanswered; `None` when there is no such request.
    pub(super) fn end(&mut self, req: u64) -> Option<Vec<ChunkId>> {
        let request = self.requests.get_mut(&req)?;
        request.has_ended = true;
        let left = Self::let_go(request);
        self.close_if_over(req);
        Some(left)
    }

    fn let_go(request: &mut Request) -> Vec<ChunkId> {
        let waiting: Vec<ChunkId> = request.waiting().collect();
        for answer in request.ids.values_mut().filter(|answer| **answer == Answer::Waiting) {
            *answer = Answer::LetGo;
        }
        request.n_waiting = 0;
        waiting
    }

    /// A request was refused as a whole. Returns what it leaves unanswered; `None` when there is no such request.
    pub(super) fn refused(&mut self, req: u64) -> Option<Vec<ChunkId>> {
        Some(self.requests.remove(&req)?.waiting().collect())
    }

    /// The request that waits for an id.
    pub(super) fn request_of(&self, id: &ChunkId) -> Option<u64> {
        let waits = |request: &Request| request.ids.get(id) == Some(&Answer::Waiting);
        self.requests.iter().find(|(_, request)| waits(request)).map(|(req, _)| *req)
    }

    /// What a request waits for.
    pub(super) fn waiting_in(&self, req: u64) -> Vec<ChunkId> {
        self.requests.get(&req).map_or_else(Vec::new, |request| request.waiting().collect())
    }

    /// Waits no more for anything in a request; what comes is welcome until its end.
    pub(super) fn abandon(&mut self, req: u64) {
        if let Some(request) = self.requests.get_mut(&req) {
            Self::let_go(request);
        }
    }

    /// Forgets all requests. Returns the numbers of those that were waited for, and for what.
    pub(super) fn clear(&mut self) -> (Vec<u64>, Vec<ChunkId>) {
        let requests = std::mem::take(&mut self.requests);
        let waiting = requests.values().flat_map(Request::waiting).collect();
        let open = requests.iter().filter(|(_, request)| request.n_waiting > 0).map(|(req, _)| *req);
        (open.collect(), waiting)
    }

    /// One more answer beside the question; whether that is too many.
    pub(super) fn stray(&mut self) -> bool {
        self.strays += 1;
        u64::from(self.strays) > u64::from(limits::MAX_STRAYS) + self.stats.chunks
    }

    /// When something asked here becomes late, or is given up.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let deadline = |request: &Request| {
            request.asked_at + if request.can_be_late() { self.patience() } else { self.last_patience() }
        };
        self.requests.values().map(deadline).min()
    }

    /// What has become late since the last time.
    pub(super) fn late(&mut self, now: Instant) -> Vec<ChunkId> {
        let patience = self.patience();
        let mut late = Vec::new();
        for request in self.requests.values_mut().filter(|request| request.can_be_late()) {
            if now >= request.asked_at + patience {
                request.is_late = true;
                late.extend(request.waiting());
            }
        }
        late
    }

    /// Whether something is late.
    pub(super) fn is_late(&self) -> bool {
        self.requests.values().any(|request| request.is_late && request.n_waiting > 0)
    }

    /// Forgets the requests whose time is up. Returns what was still waited for.
    pub(super) fn give_up(&mut self, now: Instant) -> Vec<ChunkId> {
        let patience = self.last_patience();
        let mut left = Vec::new();
        let mut unended = 0;
        self.requests.retain(|_, request| {
            let is_up = now >= request.asked_at + patience;
            if is_up {
                left.extend(request.waiting());
                unended += u32::from(request.n_waiting == 0 && !request.has_ended);
            }
            !is_up
        });
        self.strays += unended;
        left
    }
}
