//! The side that asks: drives one peer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::ranges::{Log, Ranges, Span, fingerprint, is_behind};
use crate::catalog::{keys, log};
use crate::command::OpOutcome;
use crate::hash::hash;
use crate::id::{OpId, TopicId};
use crate::limits;
use crate::machine::bucket::TokenBucket;
use crate::op::{Class, Operation};
use crate::port::{CatalogRead, StoreError, Table};
use crate::time::Instant;
use crate::wire::message::{Bounded, Envelope, OpKey, Range, RangeState, RefusalCode, SyncRequest, SyncResponse};

/// Capacities of an [`Initiator`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncConfig {
    /// Whether to push what the peer lacks.
    pub push: bool,
    /// Topics compared at the same time.
    pub topics_at_once: usize,
    /// Topics that may wait; further ones are dropped, the next listing finds them.
    pub max_waiting: usize,
    /// Batches of operations asked for, or arrived and not applied.
    pub batches: usize,
    /// Requests a second.
    pub per_second: u32,
    /// Requests at once.
    pub burst: u32,
}

impl Default for SyncConfig {
    fn default() -> Self {
        Self {
            push: true,
            topics_at_once: limits::SYNC_TOPICS_AT_ONCE,
            max_waiting: limits::SYNC_MAX_WAITING,
            batches: limits::SYNC_BATCHES,
            per_second: limits::OWN_REQUESTS_PER_SECOND,
            burst: limits::OWN_REQUEST_BURST,
        }
    }
}

/// Names a batch of operations until it is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SyncToken(u64);

/// Why a reconciliation ended before its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SyncFailure {
    /// No answer in time.
    #[error("the peer did not answer within {} s", limits::SYNC_TIMEOUT.as_secs())]
    Timeout,
    /// The stream ended.
    #[error("the stream to the peer ended")]
    Closed,
    /// The peer does not do it, or not now.
    #[error("the peer refused: {0:?}")]
    Refused(RefusalCode),
    /// What arrived could not be applied here.
    #[error("the store of this node takes no operations")]
    NotApplied,
    /// Comparison upon comparison brought nothing.
    #[error("the peer's fingerprints never converge")]
    NotConverging,
    /// It lists operations, or parents of operations, that it does not send.
    #[error("the peer lists {0} operations that it does not send")]
    Undelivered(u64),
    /// It sent something else than it was asked for.
    #[error("the peer sent an operation that was not asked for")]
    Unrequested,
    /// What it sent is not a signed operation.
    #[error("the peer sent a forged operation: {0}")]
    Forged(String),
    /// Its answer does not keep the rules.
    #[error("the peer's answer breaks the protocol: {0}")]
    Disorder(&'static str),
}

impl SyncFailure {
    /// Whether an honest peer never causes it.
    pub const fn is_misbehaviour(&self) -> bool {
        matches!(
            self,
            Self::NotConverging | Self::Undelivered(_) | Self::Unrequested | Self::Forged(_) | Self::Disorder(_)
        )
    }
}

/// What the node has to know or do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyncEvent {
    /// Apply these operations as the peer's, and report with [`Initiator::handle_applied`].
    Take {
        /// For the report.
        token: SyncToken,
        /// Signed and asked for; parents before children as far as the peer's log has them so.
        ops: Vec<Operation>,
    },
    /// Both sides hold the same operations of a topic, but for those refused.
    Done {
        /// The topic.
        topic: TopicId,
        /// Operations new here.
        received: u64,
        /// Operations that the peer took.
        pushed: u64,
        /// Operations that were refused here.
        refused: u64,
    },
    /// The reconciliation of one topic ended before its end; the others go on.
    Failed {
        /// The topic.
        topic: TopicId,
        /// Why.
        failure: SyncFailure,
    },
    /// Everything with this peer ended; what was compared and what waited is dropped. After
    /// [misbehaviour](SyncFailure::is_misbehaviour) nothing more is begun with it.
    Stopped {
        /// Why.
        failure: SyncFailure,
    },
}

/// How a span has to be resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// Show own fingerprints.
    Compare,
    /// Ask what the peer has.
    List,
    /// The peer has nothing there: push all.
    Push,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    span: Span,
    how: How,
}

/// The reconciliation of one log.
#[derive(Debug)]
struct LogSync {
    log: Log,
    /// Not yet equal, ascending.
    open: VecDeque<Open>,
    /// A comparison is under way.
    asking: bool,
    /// To ask for, ascending.
    missing: VecDeque<OpId>,
    /// Asked for and not yet applied.
    n_fetching: usize,
    /// To push, ascending.
    lacking: VecDeque<OpId>,
    pushing: bool,
    /// Comparisons that may still be made, in quarters.
    credit: u32,
}

impl LogSync {
    fn new(log: Log) -> Self {
        Self {
            log,
            open: VecDeque::from([Open { span: (None, None), how: How::Compare }]),
            asking: false,
            missing: VecDeque::new(),
            n_fetching: 0,
            lacking: VecDeque::new(),
            pushing: false,
            credit: 4 * limits::SYNC_IDLE_ROUNDS,
        }
    }

    fn is_quiet(&self) -> bool {
        !self.asking && self.missing.is_empty() && self.n_fetching == 0 && self.lacking.is_empty() && !self.pushing
    }

    fn is_complete(&self) -> bool {
        self.open.is_empty() && self.is_quiet()
    }
}

/// The reconciliation of one topic.
#[derive(Debug)]
struct TopicRun {
    /// An answer to an earlier run of the same topic does not concern this one.
    number: u64,
    /// Access, content.
    logs: [LogSync; 2],
    /// Parents, anywhere in the catalog, that operations of this topic wait for.
    chase: VecDeque<OpId>,
    n_chasing: usize,
    /// What is not asked for again: parents asked for, and what was refused.
    settled: BTreeSet<OpId>,
    received: u64,
    pushed: u64,
    refused: u64,
}

impl TopicRun {
    fn new(topic: TopicId, number: u64) -> Self {
        let log = |class| LogSync::new(Log { topic, class });
        Self {
            number,
            logs: [log(Class::Access), log(Class::Content)],
            chase: VecDeque::new(),
            n_chasing: 0,
            settled: BTreeSet::new(),
            received: 0,
            pushed: 0,
            refused: 0,
        }
    }

    fn is_complete(&self) -> bool {
        self.logs.iter().all(LogSync::is_complete) && self.chase.is_empty() && self.n_chasing == 0
    }
}

/// A run: its topic and number.
type RunKey = (TopicId, u64);

/// An operation that is asked for.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    id: OpId,
    /// On whose behalf.
    run: RunKey,
    /// Index of the log that lists it; `None` for a parent that is chased.
    log: Option<usize>,
}

#[derive(Debug)]
enum Work {
    Compare { run: RunKey, log: usize },
    Get(Vec<Wanted>),
    Push { run: RunKey, log: usize, ids: Vec<OpId> },
}

#[derive(Debug)]
struct InFlight {
    deadline: Instant,
    work: Work,
}

/// See the [module](super).
#[derive(Debug)]
pub struct Initiator {
    config: SyncConfig,
    /// Topics to begin, with the topic above each.
    waiting: BTreeMap<TopicId, Option<TopicId>>,
    running: BTreeMap<TopicId, TopicRun>,
    in_flight: BTreeMap<u64, InFlight>,
    /// Handed out and not applied.
    taken: BTreeMap<SyncToken, Vec<Wanted>>,
    next: u64,
    pace: TokenBucket,
    /// No request before then.
    not_before: Option<Instant>,
    n_pauses: u32,
    barred: bool,
    transmits: VecDeque<Envelope<SyncRequest>>,
    events: VecDeque<SyncEvent>,
}

type Step = Result<Result<(), SyncFailure>, StoreError>;

impl Initiator {
    /// An initiator for one connection to one peer.
    pub fn new(config: SyncConfig) -> Self {
        Self {
            config,
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            taken: BTreeMap::new(),
            next: 1,
            pace: TokenBucket::new(config.per_second, config.burst),
            not_before: None,
            n_pauses: 0,
            barred: false,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Begins with a topic now or when there is room; `parent` is the topic above, where known. One that runs or waits
    /// already is not begun twice.
    ///
    /// # Errors
    /// [`StoreError`] when the catalog cannot be read.
    pub fn handle_want(
        &mut self,
        now: Instant,
        read: &dyn CatalogRead,
        topic: TopicId,
        parent: Option<TopicId>,
    ) -> Result<(), StoreError> {
        let has_room = self.waiting.len() < self.config.max_waiting && !self.barred;
        if has_room && !self.running.contains_key(&topic) {
            self.waiting.insert(topic, parent);
        }
        self.advance(now, read)
    }

    /// Takes an answer of the peer.
    ///
    /// # Errors
    /// [`StoreError`] when the catalog cannot be read.
    pub fn handle_response(
        &mut self,
        now: Instant,
        read: &dyn CatalogRead,
        response: Envelope<SyncResponse>,
    ) -> Result<(), StoreError> {
        // One that came too late, or twice, finds nothing.
        let Some(InFlight { work, .. }) = self.in_flight.remove(&response.req) else { return Ok(()) };
        if response.body.check().is_err() {
            self.stop(SyncFailure::Disorder("a list is too long or not in order"));
            return Ok(());
        }
        if !matches!(response.body, SyncResponse::Refused(_)) {
            self.n_pauses = 0;
        }
        let step = match (work, response.body) {
            (Work::Compare { run, log }, SyncResponse::Ranges(ranges)) => self.take_ranges(read, run, log, &ranges)?,
            (Work::Get(wanted), SyncResponse::Ops(ops)) => self.take_ops(wanted, &ops),
            (Work::Push { run, log, ids }, SyncResponse::Pushed { accepted, .. }) => {
                if let Some(run) = self.run(run) {
                    run.logs[log].pushing = false;
                    run.pushed += u64::from(accepted).min(ids.len() as u64);
                }
                Ok(())
            }
            (work, SyncResponse::Refused(refusal)) => {
                self.take_refusal(now, work, refusal.code);
                Ok(())
            }
            _ => Err(SyncFailure::Disorder("an answer to another question")),
        };
        if let Err(failure) = step {
            self.stop(failure);
        }
        self.advance(now, read)
    }

    /// Takes the outcomes of a batch, in the order of its operations.
    ///
    /// # Errors
    /// [`StoreError`] when the catalog cannot be read.
    pub fn handle_applied(
        &mut self,
        now: Instant,
        read: &dyn CatalogRead,
        token: SyncToken,
        outcomes: &[OpOutcome],
    ) -> Result<(), StoreError> {
        for (wanted, outcome) in self.taken.remove(&token).unwrap_or_default().into_iter().zip(outcomes) {
            self.settle(read, wanted, outcome)?;
        }
        self.advance(now, read)
    }

    /// Takes notice that a batch could not be applied, such as by a full store.
    pub fn handle_not_applied(&mut self, token: SyncToken) {
        if self.taken.remove(&token).is_some() {
            self.stop(SyncFailure::NotApplied);
        }
    }

    /// Takes notice that the stream ended; the next request needs another one.
    pub fn handle_closed(&mut self) {
        if !self.is_idle() {
            self.stop(SyncFailure::Closed);
        }
    }

    /// The next request to send.
    pub fn poll_transmit(&mut self) -> Option<Envelope<SyncRequest>> {
        self.transmits.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<SyncEvent> {
        self.events.pop_front()
    }

    /// When to call [`Initiator::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let deadline = self.in_flight.values().map(|in_flight| (in_flight.deadline, "a request is unanswered"));
        deadline.chain(self.not_before.map(|at| (at, "pace of requests"))).min()
    }

    /// Ends what is late and goes on with what waited.
    ///
    /// # Errors
    /// [`StoreError`] when the catalog cannot be read.
    pub fn handle_timeout(&mut self, now: Instant, read: &dyn CatalogRead) -> Result<(), StoreError> {
        if self.in_flight.values().any(|in_flight| in_flight.deadline <= now) {
            self.stop(SyncFailure::Timeout);
        }
        self.advance(now, read)
    }

    /// Whether nothing runs and nothing waits: the stream may be closed.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty() && self.in_flight.is_empty() && self.taken.is_empty()
    }

    /// Whether a topic runs or waits.
    pub fn is_syncing(&self, topic: &TopicId) -> bool {
        self.running.contains_key(topic) || self.waiting.contains_key(topic)
    }

    fn stop(&mut self, failure: SyncFailure) {
        self.barred |= failure.is_misbehaviour();
        self.waiting.clear();
        self.running.clear();
        self.in_flight.clear();
        self.taken.clear();
        self.transmits.clear();
        self.not_before = None;
        self.n_pauses = 0;
        // What was handed out is not applied either, as far as the node has not begun.
        self.events.retain(|event| !matches!(event, SyncEvent::Take { .. }));
        self.events.push_back(SyncEvent::Stopped { failure });
    }

    fn fail(&mut self, run: RunKey, failure: SyncFailure) {
        let topic = run.0;
        if self.run(run).is_some() {
            self.running.remove(&topic);
            self.events.push_back(SyncEvent::Failed { topic, failure });
        }
    }

    // What arrives.

    fn take_ranges(&mut self, read: &dyn CatalogRead, run: RunKey, log_idx: usize, ranges: &[Range]) -> Step {
        let push = self.config.push;
        let Some(run) = self.run(run) else { return Ok(Ok(())) };
        let sync = &mut run.logs[log_idx];
        sync.asking = false;
        let Some(covered) = ranges.last().map(|range| range.upper) else {
            return Ok(Err(SyncFailure::Disorder("an answer without ranges")));
        };
        let first = sync.open.front().map(|open| open.span.0);
        if first.is_some_and(|first| !is_behind(covered, first)) {
            return Ok(Err(SyncFailure::Disorder("an answer that covers nothing")));
        }
        let asked = std::mem::take(&mut sync.open);
        let mut lower = None;
        for range in ranges {
            let span = (lower, range.upper);
            match &range.state {
                None => {}
                Some(RangeState::Fingerprint { count, sum }) => {
                    let own = sync.log.figures(read, span)?;
                    if own.count == *count && own.fingerprint() == *sum {
                        // Equal.
                    } else if *count > 0 {
                        sync.open.push_back(Open { span, how: how_to_resolve(own.count, *count) });
                    } else if push {
                        sync.open.push_back(Open { span, how: How::Push });
                    }
                }
                Some(RangeState::Ids { ids, .. }) => {
                    if let Err(failure) = take_ids(sync, &run.settled, push, read, (span, ids))? {
                        return Ok(Err(failure));
                    }
                }
            }
            lower = range.upper;
        }
        // What the answer did not reach is asked again.
        for open in asked {
            if covered.is_some() && is_behind(open.span.1, covered) {
                sync.open.push_back(Open { span: (open.span.0.max(covered), open.span.1), how: open.how });
            }
        }
        while sync.open.len() > limits::SYNC_MAX_PENDING {
            let last = sync.open.pop_back().map(|open| open.span.1);
            if let (Some(upper), Some(before)) = (last, sync.open.back_mut()) {
                *before = Open { span: (before.span.0, upper), how: How::Compare };
            }
        }
        Ok(Ok(()))
    }

    fn take_ops(&mut self, mut wanted: Vec<Wanted>, encoded: &[serde_bytes::ByteBuf]) -> Result<(), SyncFailure> {
        let (mut ops, mut taken) = (Vec::with_capacity(encoded.len()), Vec::with_capacity(encoded.len()));
        for bytes in encoded {
            let id = OpId::from_bytes(hash(bytes));
            let place = wanted.iter().position(|wanted| wanted.id == id).ok_or(SyncFailure::Unrequested)?;
            let one = wanted.remove(place);
            let op = Operation::decode(bytes).map_err(|error| SyncFailure::Forged(error.to_string()))?;
            let listed = one.log.map(|log| (one.run.0, [Class::Access, Class::Content][log]));
            if listed.is_some_and(|listed| listed != (op.topic(), op.class())) {
                return Err(SyncFailure::Disorder("an operation of another log"));
            }
            ops.push(op);
            taken.push(one);
        }
        if ops.is_empty() {
            return Err(SyncFailure::Undelivered(wanted.len() as u64));
        }
        // Those that did not fit are asked for again, before all others.
        self.put_back(Work::Get(wanted));
        let token = SyncToken(self.next);
        self.next += 1;
        self.taken.insert(token, taken);
        self.events.push_back(SyncEvent::Take { token, ops });
        Ok(())
    }

    fn take_refusal(&mut self, now: Instant, work: Work, code: RefusalCode) {
        if matches!(code, RefusalCode::RateLimited | RefusalCode::Busy) {
            self.n_pauses += 1;
            if self.n_pauses > limits::SYNC_MAX_PAUSES {
                return self.stop(SyncFailure::Refused(code));
            }
            let pause = limits::SYNC_PAUSE.saturating_mul(1 << (self.n_pauses - 1)).min(limits::STREAM_IDLE);
            self.not_before = self.not_before.max(Some(now + pause));
            return self.put_back(work);
        }
        match work {
            // A peer that takes no pushes may still answer; what it lacks it then has to fetch itself.
            Work::Push { run, log, .. } => {
                self.config.push = false;
                if let Some(run) = self.run(run) {
                    run.logs[log].pushing = false;
                }
                for sync in self.running.values_mut().flat_map(|run| &mut run.logs) {
                    sync.lacking.clear();
                    sync.open.retain(|open| open.how != How::Push);
                }
            }
            Work::Compare { run, .. } => self.fail(run, SyncFailure::Refused(code)),
            Work::Get(wanted) => {
                let runs: BTreeSet<RunKey> = wanted.iter().map(|wanted| wanted.run).collect();
                runs.into_iter().for_each(|run| self.fail(run, SyncFailure::Refused(code)));
            }
        }
    }

    fn run(&mut self, (topic, number): RunKey) -> Option<&mut TopicRun> {
        self.running.get_mut(&topic).filter(|run| run.number == number)
    }

    /// Work that the peer did not do.
    fn put_back(&mut self, work: Work) {
        match work {
            Work::Compare { run, log } => {
                if let Some(run) = self.run(run) {
                    run.logs[log].asking = false;
                    run.logs[log].credit += 4;
                }
            }
            Work::Push { run, log, ids } => {
                if let Some(run) = self.run(run) {
                    run.logs[log].pushing = false;
                    ids.into_iter().rev().for_each(|id| run.logs[log].lacking.push_front(id));
                }
            }
            Work::Get(wanted) => {
                for one in wanted.into_iter().rev() {
                    let Some(run) = self.run(one.run) else { continue };
                    match one.log {
                        Some(log) => {
                            run.logs[log].n_fetching -= 1;
                            run.logs[log].missing.push_front(one.id);
                        }
                        None => {
                            run.n_chasing -= 1;
                            run.chase.push_front(one.id);
                        }
                    }
                }
            }
        }
    }

    fn settle(&mut self, read: &dyn CatalogRead, wanted: Wanted, outcome: &OpOutcome) -> Result<(), StoreError> {
        let Some(run) = self.run(wanted.run) else { return Ok(()) };
        match wanted.log {
            Some(log) => {
                run.logs[log].n_fetching -= 1;
                run.logs[log].credit = run.logs[log].credit.saturating_add(1);
            }
            None => run.n_chasing -= 1,
        }
        match outcome {
            OpOutcome::New => run.received += 1,
            OpOutcome::Known | OpOutcome::Undone => {}
            OpOutcome::Refused(_) => {
                run.refused += 1;
                run.settled.insert(wanted.id);
            }
            OpOutcome::Parked { missing } => {
                for id in missing {
                    let expected = run.logs.iter().any(|sync| sync.missing.contains(id));
                    if !expected && !is_here(read, &wanted.run.0, id)? && run.settled.insert(*id) {
                        run.chase.push_back(*id);
                    }
                }
            }
        }
        if run.settled.len() > limits::MAX_PARKED_OPS {
            self.fail(wanted.run, SyncFailure::NotConverging);
        }
        Ok(())
    }

    // What goes out.

    fn advance(&mut self, now: Instant, read: &dyn CatalogRead) -> Result<(), StoreError> {
        self.begin_waiting();
        loop {
            self.finish();
            self.begin_waiting();
            if self.not_before.is_some_and(|at| at > now) || self.in_flight.len() >= limits::MAX_REQUESTS_PER_STREAM {
                return Ok(());
            }
            let ready = self.pace.ready_at(now, 1);
            self.not_before = ready.filter(|at| *at > now && !self.running.is_empty());
            if self.not_before.is_some() {
                return Ok(());
            }
            let Some((work, body)) = self.next_request(read)? else { break };
            self.pace.take(now, 1);
            let req = self.next;
            self.next += 1;
            self.in_flight.insert(req, InFlight { deadline: now + limits::SYNC_TIMEOUT, work });
            self.transmits.push_back(Envelope { req, body });
        }
        self.finish();
        Ok(())
    }

    fn begin_waiting(&mut self) {
        while self.running.len() < self.config.topics_at_once {
            let is_ahead = |topic: &TopicId| self.waiting.contains_key(topic) || self.running.contains_key(topic);
            let next = self.waiting.iter().find(|(_, parent)| !parent.is_some_and(|parent| is_ahead(&parent)));
            // Only a peer that lies about parents makes a ring of them; any order does then.
            let Some(topic) = next.or_else(|| self.waiting.iter().next().filter(|_| self.running.is_empty())) else {
                return;
            };
            let topic = *topic.0;
            self.waiting.remove(&topic);
            self.running.insert(topic, TopicRun::new(topic, self.next));
            self.next += 1;
        }
    }

    fn finish(&mut self) {
        let done: Vec<TopicId> =
            self.running.iter().filter(|(_, run)| run.is_complete()).map(|(topic, _)| *topic).collect();
        for topic in done {
            if let Some(TopicRun { received, pushed, refused, .. }) = self.running.remove(&topic) {
                self.events.push_back(SyncEvent::Done { topic, received, pushed, refused });
            }
        }
    }

    fn next_request(&mut self, read: &dyn CatalogRead) -> Result<Option<(Work, SyncRequest)>, StoreError> {
        if let Some(next) = self.next_get(read)? {
            return Ok(Some(next));
        }
        if let Some(next) = self.next_push(read)? {
            return Ok(Some(next));
        }
        self.next_comparison(read)
    }

    /// Operations that are missing here, of all topics together; content once its access log is complete.
    fn next_get(&mut self, read: &dyn CatalogRead) -> Result<Option<(Work, SyncRequest)>, StoreError> {
        let gets = self.in_flight.values().filter(|in_flight| matches!(in_flight.work, Work::Get(_))).count();
        if gets + self.taken.len() >= self.config.batches {
            return Ok(None);
        }
        let mut wanted: Vec<Wanted> = Vec::new();
        'full: for (topic, run) in &mut self.running {
            while let Some(id) = run.chase.pop_front() {
                if !is_here(read, topic, &id)? {
                    run.n_chasing += 1;
                    wanted.push(Wanted { id, run: (*topic, run.number), log: None });
                }
                if wanted.len() == limits::SYNC_OPS_PER_REQUEST {
                    break 'full;
                }
            }
            for log in 0..2 {
                if log == 1 && !run.logs[0].is_complete() {
                    break;
                }
                while let Some(id) = run.logs[log].missing.pop_front() {
                    // Gossip may have brought it meanwhile.
                    if !is_here(read, topic, &id)? {
                        run.logs[log].n_fetching += 1;
                        wanted.push(Wanted { id, run: (*topic, run.number), log: Some(log) });
                    }
                    if wanted.len() == limits::SYNC_OPS_PER_REQUEST {
                        break 'full;
                    }
                }
            }
        }
        if wanted.is_empty() {
            return Ok(None);
        }
        let ids = wanted.iter().map(|wanted| wanted.id).collect();
        Ok(Some((Work::Get(wanted), SyncRequest::GetOps { ids })))
    }

    fn next_push(&mut self, read: &dyn CatalogRead) -> Result<Option<(Work, SyncRequest)>, StoreError> {
        for (topic, run) in &mut self.running {
            for log in 0..2 {
                if log == 1 && !run.logs[0].is_complete() {
                    break;
                }
                let sync = &mut run.logs[log];
                if sync.lacking.is_empty() && !sync.asking {
                    page_of_push(sync, read)?;
                }
                if sync.pushing || sync.lacking.is_empty() {
                    continue;
                }
                let (mut ids, mut ops, mut total) = (Vec::new(), Vec::new(), 0);
                while let Some(id) = sync.lacking.front() {
                    if let Some((_, bytes)) = log::op_bytes(read, id)? {
                        total += bytes.len();
                        if !ops.is_empty() && total > limits::SYNC_OPS_BYTES
                            || ops.len() == limits::SYNC_OPS_PER_REQUEST
                        {
                            break;
                        }
                        ids.push(*id);
                        ops.push(serde_bytes::ByteBuf::from(bytes));
                    }
                    sync.lacking.pop_front();
                }
                if !ops.is_empty() {
                    sync.pushing = true;
                    let run = (*topic, run.number);
                    return Ok(Some((Work::Push { run, log, ids }, SyncRequest::PushOps { ops })));
                }
            }
        }
        Ok(None)
    }

    fn next_comparison(&mut self, read: &dyn CatalogRead) -> Result<Option<(Work, SyncRequest)>, StoreError> {
        for run in self.running.values_mut() {
            for (log, sync) in run.logs.iter_mut().enumerate() {
                let has_question = sync.open.front().is_some_and(|open| open.how != How::Push);
                if !has_question || !sync.is_quiet() {
                    continue;
                }
                let Log { topic, class } = sync.log;
                let Some(credit) = sync.credit.checked_sub(4) else {
                    self.stop(SyncFailure::NotConverging);
                    return Ok(None);
                };
                sync.credit = credit;
                sync.asking = true;
                let ranges = question(sync, read)?;
                let run = (topic, run.number);
                return Ok(Some((Work::Compare { run, log }, SyncRequest::Reconcile { topic, class, ranges })));
            }
        }
        Ok(None)
    }
}

/// Whether an operation is in a log here, or waits here for others.
fn is_here(read: &dyn CatalogRead, topic: &TopicId, id: &OpId) -> Result<bool, StoreError> {
    Ok(log::contains(read, id)? || read.get(Table::Parked, &keys::parked(topic, id))?.is_some())
}

/// Operations that are not cut any more: a fingerprint takes almost as many bytes as the id of one.
const FEW: u64 = 3;

/// Into how many pieces a range of so many operations is best cut, when the one piece that differs is listed then.
const fn pieces_of(count: u64) -> usize {
    (count * 3 / 2).isqrt() as usize
}

/// How to resolve a range that differs and of which the peer holds something. Where one side holds less than half of
/// what the other does, a comparison of pieces finds nothing equal.
const fn how_to_resolve(own: u64, theirs: u64) -> How {
    let (less, more) = if own < theirs { (own, theirs) } else { (theirs, own) };
    if more <= FEW || less * 2 <= more { How::List } else { How::Compare }
}

/// The next page of what the peer has nothing of, if that comes next.
fn page_of_push(sync: &mut LogSync, read: &dyn CatalogRead) -> Result<(), StoreError> {
    while let Some(Open { span, how: How::Push }) = sync.open.front().copied().filter(|_| sync.lacking.is_empty()) {
        let (keys, upper) = sync.log.keys(read, span, limits::SYNC_OPS_PER_REQUEST)?;
        sync.open.pop_front();
        if upper != span.1 {
            sync.open.push_front(Open { span: (upper, span.1), how: How::Push });
        }
        sync.lacking.extend(keys.into_iter().map(|(_, id)| id));
    }
    Ok(())
}

/// Takes a list of all that the peer has in a span: what is missing here, and what it lacks.
fn take_ids(
    sync: &mut LogSync,
    settled: &BTreeSet<OpId>,
    push: bool,
    read: &dyn CatalogRead,
    (span, ids): (Span, &[OpKey]),
) -> Step {
    let inside = |key: &OpKey| span.0.is_none_or(|lower| lower <= *key) && span.1.is_none_or(|upper| *key < upper);
    if !ids.windows(2).all(|pair| pair[0] < pair[1]) || !ids.iter().all(inside) {
        return Ok(Err(SyncFailure::Disorder("ids are not in order or not in their range")));
    }
    for (_, id) in ids {
        if !settled.contains(id) && !is_here(read, &sync.log.topic, id)? {
            sync.missing.push_back(*id);
        }
    }
    if !push {
        return Ok(Ok(()));
    }
    let room = limits::MAX_RANGE_IDS.saturating_sub(sync.lacking.len()).max(1);
    let (own, upper) = sync.log.keys(read, span, ids.len() + room)?;
    let theirs: BTreeSet<&OpKey> = ids.iter().collect();
    let before = sync.lacking.len();
    sync.lacking.extend(own.iter().filter(|key| !theirs.contains(key)).map(|(_, id)| *id));
    let n_lacking = u32::try_from(sync.lacking.len() - before).unwrap_or(u32::MAX);
    sync.credit = sync.credit.saturating_add(n_lacking);
    if upper != span.1 {
        sync.open.push_back(Open { span: (upper, span.1), how: How::Compare });
    }
    Ok(Ok(()))
}

/// The ranges to compare next, from the lowest.
fn question(sync: &LogSync, read: &dyn CatalogRead) -> Result<Vec<Range>, StoreError> {
    let mut asked: Vec<(Open, u64)> = Vec::new();
    for open in sync.open.iter().take(limits::MAX_RANGES_PER_MESSAGE / 4) {
        let count = if open.how == How::Compare { sync.log.figures(read, open.span)?.count } else { 0 };
        asked.push((*open, count));
    }
    let to_cut = asked.iter().filter(|(open, count)| open.how == How::Compare && *count > 0).count();
    let is_first = sync.open.len() == 1 && sync.open.front().is_some_and(|open| open.span == (None, None));
    let most = if is_first { limits::SYNC_FIRST_SPLIT } else { limits::SYNC_SPLIT };
    let most = (limits::MAX_RANGES_PER_MESSAGE / 2 / to_cut.max(1)).clamp(2, most);
    let mut ranges = Ranges::default();
    let mut lower = None;
    for (Open { span, how }, count) in asked {
        let pieces = pieces_of(count).clamp(2, most);
        if ranges.room() < pieces + 1 {
            break;
        }
        if span.0 != lower {
            ranges.skip(span.0);
        }
        match how {
            How::Compare if count > FEW => {
                sync.log.cut(read, span, count, pieces)?.into_iter().for_each(|piece| ranges.push(piece));
            }
            How::Compare if count > 0 => ranges.push(fingerprint(span.1, &sync.log.figures(read, span)?)),
            // Resolved without a question.
            How::Push => break,
            How::Compare | How::List => {
                let state = Some(RangeState::Ids { ids: Vec::new(), answer: true });
                ranges.push(Range { upper: span.1, state });
            }
        }
        lower = span.1;
    }
    Ok(ranges.finish())
}
