//! Reconciliation between two nodes: its cost, its end, and peers that lie.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use std::time::Duration;

use bib_core::catalog::log;
use bib_core::command::OpOutcome;
use bib_core::encode::{decode, encode};
use bib_core::id::{NodeId, OpId, TopicId};
use bib_core::key::SecretKey;
use bib_core::limits;
use bib_core::machine::sync::{
    Initiator, Responder, SyncAnswer, SyncConfig, SyncEvent, SyncFailure, TopicSync, pushed,
};
use bib_core::model::Visibility;
use bib_core::op::operation::FieldChanges;
use bib_core::op::{Body, Class, Operation, Unsigned};
use bib_core::port::Catalog;
use bib_core::time::{Instant, Timestamp};
use bib_core::wire::message::{Envelope, Range, RangeState, Refusal, RefusalCode, SyncRequest, SyncResponse};
use bib_sim::memory::MemoryCatalog;
use bib_sim::rng::Rng;

fn op(topic: Option<TopicId>, parents: &[&Operation], body: Body) -> Operation {
    let key = SecretKey::from_seed([1; 32]);
    let mut ids: Vec<_> = parents.iter().map(|parent| parent.id()).collect();
    ids.sort_unstable();
    Unsigned {
        topic,
        author: key.user_id(),
        lamport: 1 + parents.iter().map(|parent| parent.lamport).max().unwrap_or(0),
        time: Timestamp(0),
        parents: ids,
        keeps: Vec::new(),
        body,
    }
    .sign(&key)
    .unwrap()
}

fn create(name: &str, parent: Option<&Operation>) -> Operation {
    let above: Vec<&Operation> = parent.into_iter().collect();
    let parent = parent.map(Operation::topic);
    let (name, visibility) = (name.parse().unwrap(), Visibility::Public);
    op(None, &above, Body::CreateTopic { parent, name, visibility, fields: FieldChanges::default() })
}

fn update(topic: TopicId, parents: &[&Operation], text: &str) -> Operation {
    op(topic.into(), parents, Body::UpdateTopic(FieldChanges { description: Some(text.into()), ..Default::default() }))
}

/// A chain of content operations, and others that each hang on one of them, so that any of those may be missing.
fn history(n_chain: usize, n_leaves: usize, seed: u64) -> (Operation, Vec<Operation>, Vec<Operation>) {
    let create = create("weather", None);
    let mut rng = Rng::new(seed);
    let mut chain = vec![update(create.topic(), &[&create], "0")];
    while chain.len() < n_chain {
        let last = chain.last().unwrap();
        chain.push(update(create.topic(), &[last], &chain.len().to_string()));
    }
    let leaf = |i: usize| update(create.topic(), &[&chain[rng.below(n_chain as u64) as usize]], &format!("leaf {i}"));
    let leaves = (0..n_leaves).map(leaf).collect();
    (create, chain, leaves)
}

fn large() -> &'static (Operation, Vec<Operation>, Vec<Operation>) {
    static LARGE: OnceLock<(Operation, Vec<Operation>, Vec<Operation>)> = OnceLock::new();
    LARGE.get_or_init(|| history(9_990, 10, 7))
}

/// A catalog that takes what has its parents; the rest waits.
#[derive(Default)]
struct Node {
    catalog: MemoryCatalog,
    parked: BTreeMap<OpId, Operation>,
    /// Operations that had to wait.
    n_parked: usize,
}

impl Node {
    fn with<'a>(ops: impl IntoIterator<Item = &'a Operation>) -> Self {
        let mut node = Self::default();
        node.add(ops);
        node
    }

    fn add<'a>(&mut self, ops: impl IntoIterator<Item = &'a Operation>) {
        let ops: Vec<&Operation> = ops.into_iter().collect();
        self.catalog.write(&mut |txn| ops.iter().try_for_each(|op| log::insert(txn, op).map(drop))).unwrap();
    }

    fn take(&mut self, op: &Operation) -> OpOutcome {
        let read = self.catalog.begin_read().unwrap();
        if log::contains(&*read, &op.id()).unwrap() {
            return OpOutcome::Known;
        }
        let missing: Vec<OpId> =
            op.parents.iter().copied().filter(|parent| !log::contains(&*read, parent).unwrap()).collect();
        drop(read);
        if !missing.is_empty() {
            self.parked.insert(op.id(), op.clone());
            self.n_parked += 1;
            return OpOutcome::Parked { missing };
        }
        self.add([op]);
        let ready: Vec<Operation> =
            self.parked.values().filter(|one| one.parents.contains(&op.id())).cloned().collect();
        for one in ready {
            self.parked.remove(&one.id());
            self.take(&one);
        }
        OpOutcome::New
    }

    fn hash(&self, topic: TopicId) -> [u8; 32] {
        log::heads_hash(&*self.catalog.begin_read().unwrap(), &topic).unwrap()
    }

    fn count(&self, topic: TopicId) -> u64 {
        let read = self.catalog.begin_read().unwrap();
        let count = |class| log::figures(&*read, &topic, class).unwrap().count;
        count(Class::Access) + count(Class::Content)
    }
}

/// What a reconciliation cost.
#[derive(Debug, Default)]
struct Cost {
    round_trips: u32,
    requests: u32,
    /// Without the operations themselves.
    bytes: usize,
    op_bytes: usize,
    events: Vec<SyncEvent>,
}

impl Cost {
    fn done(&self) -> Vec<(TopicId, u64, u64)> {
        let done = |event: &SyncEvent| match event {
            SyncEvent::Done { topic, received, pushed, refused: 0 } => Some((*topic, *received, *pushed)),
            _ => None,
        };
        self.events.iter().map(|event| done(event).unwrap_or_else(|| panic!("{event:?}"))).collect()
    }

    fn stopped(&self) -> &SyncFailure {
        match self.events.last() {
            Some(SyncEvent::Stopped { failure }) => failure,
            other => panic!("{other:?}"),
        }
    }
}

/// Two nodes: one asks, the other answers, each round trip at once.
struct Pair {
    here: Node,
    there: Node,
    initiator: Initiator,
    responder: Responder,
    now: Instant,
}

/// Changes or replaces an answer.
type Lie<'a> = &'a mut dyn FnMut(&SyncRequest, SyncResponse) -> SyncResponse;

impl Pair {
    fn new(here: Node, there: Node) -> Self {
        let now = Instant(1);
        let initiator = Initiator::new(SyncConfig::default());
        Self { here, there, initiator, responder: Responder::new(), now }
    }

    fn want(&mut self, topic: TopicId, parent: Option<TopicId>) {
        self.initiator.handle_want(self.now, &*self.here.catalog.begin_read().unwrap(), topic, parent).unwrap();
    }

    fn answer(&mut self, request: Envelope<SyncRequest>) -> SyncResponse {
        let peer = NodeId::from_bytes([1; 32]);
        let read = self.there.catalog.begin_read().unwrap();
        let status = |_: &TopicId| TopicSync::default();
        match self.responder.handle_request(self.now, &*read, peer, request, &status).unwrap() {
            SyncAnswer::Respond(response) => response.body,
            SyncAnswer::Apply { req, ops, rejected } => {
                drop(read);
                let outcomes: Vec<OpOutcome> = ops.iter().map(|op| self.there.take(op)).collect();
                let ids: Vec<OpId> = ops.iter().map(Operation::id).collect();
                pushed(req, &ids, &outcomes, rejected).body
            }
        }
    }

    fn run(&mut self) -> Cost {
        self.run_with(&mut |_, response| response)
    }

    fn run_with(&mut self, lie: Lie<'_>) -> Cost {
        let mut cost = Cost::default();
        loop {
            while let Some(event) = self.initiator.poll_event() {
                if let SyncEvent::Take { token, ops } = &event {
                    let outcomes: Vec<OpOutcome> = ops.iter().map(|op| self.here.take(op)).collect();
                    let read = self.here.catalog.begin_read().unwrap();
                    self.initiator.handle_applied(self.now, &*read, *token, &outcomes).unwrap();
                } else {
                    cost.events.push(event);
                }
            }
            let requests: Vec<_> = std::iter::from_fn(|| self.initiator.poll_transmit()).collect();
            if requests.is_empty() {
                let Some((at, _)) = self.initiator.poll_timeout() else { return cost };
                self.now = at;
                self.initiator.handle_timeout(at, &*self.here.catalog.begin_read().unwrap()).unwrap();
                continue;
            }
            assert!(cost.round_trips < 100_000, "the reconciliation does not end");
            cost.round_trips += 1;
            self.now = self.now + Duration::from_millis(50);
            for request in requests {
                cost.requests += 1;
                let encoded = encode(&request);
                let request: Envelope<SyncRequest> = decode(&encoded).unwrap();
                let (req, asked) = (request.req, request.body.clone());
                let response = Envelope { req, body: lie(&asked, self.answer(request)) };
                let answered = encode(&response);
                let op_bytes = |ops: &[serde_bytes::ByteBuf]| ops.iter().map(|op| op.len()).sum::<usize>();
                let moved = match (&asked, &response.body) {
                    (SyncRequest::PushOps { ops }, _) | (_, SyncResponse::Ops(ops)) => op_bytes(ops),
                    _ => 0,
                };
                cost.op_bytes += moved;
                cost.bytes += encoded.len() + answered.len() + 8 - moved;
                let read = self.here.catalog.begin_read().unwrap();
                self.initiator.handle_response(self.now, &*read, decode(&answered).unwrap()).unwrap();
            }
        }
    }
}

#[test]
fn ten_differing_of_ten_thousand_cost_few_round_trips_and_bytes() {
    let (create, chain, leaves) = large();
    let both = || [create].into_iter().chain(chain);
    let topic = create.topic();
    for (split, name) in [(10, "all missing here"), (5, "half and half"), (0, "all missing there")] {
        let here = Node::with(both().chain(&leaves[split..]));
        let there = Node::with(both().chain(&leaves[..split]));
        let mut pair = Pair::new(here, there);
        pair.want(topic, None);
        let cost = pair.run();
        assert_eq!(cost.done(), [(topic, split as u64, 10 - split as u64)], "{name}");
        assert_eq!(pair.here.hash(topic), pair.there.hash(topic), "{name}");
        assert!(cost.round_trips <= 3, "{name}: {} round trips", cost.round_trips);
        assert!(cost.bytes <= 7 << 10, "{name}: {} bytes", cost.bytes);
        assert!(cost.bytes + cost.op_bytes <= 9 << 10, "{name}: {} + {}", cost.bytes, cost.op_bytes);
    }
}

#[test]
fn equal_logs_cost_one_round_trip() {
    let (create, chain, _) = large();
    let all = || Node::with([create].into_iter().chain(chain));
    let mut pair = Pair::new(all(), all());
    pair.want(create.topic(), None);
    let cost = pair.run();
    assert_eq!(cost.done(), [(create.topic(), 0, 0)]);
    assert_eq!(cost.round_trips, 1);
    assert!(cost.bytes < 2 << 10, "{} bytes", cost.bytes);
}

#[test]
fn a_whole_log_comes_over_in_pages_and_order() {
    let (create, chain, leaves) = large();
    let topic = create.topic();
    let everything = || Node::with([create].into_iter().chain(chain).chain(leaves));
    let mut pair = Pair::new(Node::default(), everything());
    pair.want(topic, None);
    assert_eq!(pair.run().done(), [(topic, 10_001, 0)]);
    assert_eq!(pair.here.hash(topic), pair.there.hash(topic));
    assert_eq!(pair.here.parked.len(), 0);

    let mut pair = Pair::new(everything(), Node::default());
    pair.want(topic, None);
    assert_eq!(pair.run().done(), [(topic, 0, 10_001)]);
    assert_eq!(pair.there.count(topic), 10_001);
}

#[test]
fn cost_of_a_large_difference_follows_the_difference() {
    let (create, chain, leaves) = history(1_000, 2_000, 11);
    let topic = create.topic();
    let mut rng = Rng::new(1);
    for (per_mille_here, per_mille_there) in [(500, 500), (950, 1_000), (30, 970)] {
        let mut some = |per_mille: u64| {
            let leaves: Vec<&Operation> = leaves.iter().filter(|_| rng.chance(per_mille, 1_000)).collect();
            Node::with([&create].into_iter().chain(&chain).chain(leaves))
        };
        let mut pair = Pair::new(some(per_mille_here), some(per_mille_there));
        let before = pair.here.count(topic) + pair.there.count(topic);
        pair.want(topic, None);
        let cost = pair.run();
        assert_eq!(pair.here.hash(topic), pair.there.hash(topic));
        let n_moved = 2 * pair.here.count(topic) - before;
        let per_op = cost.bytes as u64 / n_moved;
        assert!(per_op < 400, "{per_op} bytes for each of {n_moved} operations");
        assert!(u64::from(cost.requests) < n_moved / 4, "{} requests for {n_moved} operations", cost.requests);
    }
}

/// Two nodes of which each holds some operations that the other lacks.
fn differing() -> (Pair, TopicId) {
    static SMALL: OnceLock<(Operation, Vec<Operation>, Vec<Operation>)> = OnceLock::new();
    let (create, chain, leaves) = SMALL.get_or_init(|| history(300, 40, 3));
    let both = || [create].into_iter().chain(chain);
    let pair = Pair::new(Node::with(both().chain(&leaves[..10])), Node::with(both().chain(&leaves[10..])));
    (pair, create.topic())
}

#[test]
fn fingerprints_that_never_agree_end_in_bounded_rounds() {
    let (mut pair, topic) = differing();
    let before = pair.here.count(topic);
    pair.want(topic, None);
    let mut rng = Rng::new(5);
    let cost = pair.run_with(&mut |asked, _| match asked {
        SyncRequest::Reconcile { .. } => {
            // Ever smaller ranges, each said to hold a lot.
            let uppers: BTreeSet<u64> = (0..20).map(|_| rng.next_u64()).collect();
            let state = Some(RangeState::Fingerprint { count: 1 << 40, sum: [9; 16] });
            let ranges = uppers.into_iter().map(|upper| (upper, OpId::from_bytes([7; 32])));
            SyncResponse::Ranges(ranges.map(|upper| Range { upper: Some(upper), state: state.clone() }).collect())
        }
        _ => SyncResponse::Ops(Vec::new()),
    });
    assert!(cost.stopped().is_misbehaviour(), "{cost:?}");
    assert!(cost.requests < 200, "{} requests", cost.requests);
    assert_eq!(pair.here.count(topic), before);
}

#[test]
fn ids_that_are_not_delivered_end_it() {
    let (mut pair, topic) = differing();
    pair.want(topic, None);
    let cost = pair.run_with(&mut |asked, response| match asked {
        SyncRequest::GetOps { .. } => SyncResponse::Ops(Vec::new()),
        _ => response,
    });
    assert_eq!(cost.stopped(), &SyncFailure::Undelivered(30));
    // Nothing more is begun with such a peer.
    pair.want(topic, None);
    assert_eq!(pair.run().requests, 0);
}

#[test]
fn forged_and_unrequested_operations_are_not_handed_out() {
    let (mut pair, topic) = differing();
    let before = pair.here.count(topic);
    pair.want(topic, None);
    let cost = pair.run_with(&mut |asked, response| match (asked, response) {
        (SyncRequest::GetOps { .. }, SyncResponse::Ops(mut ops)) => {
            let last = ops[0].len() - 1;
            ops[0][last] ^= 1;
            SyncResponse::Ops(ops)
        }
        (_, response) => response,
    });
    // The id is the hash of all bytes, so that a forged one was never asked for.
    assert_eq!(cost.stopped(), &SyncFailure::Unrequested);
    assert_eq!(pair.here.count(topic), before);
}

#[test]
fn listed_bytes_without_a_signature_are_forged() {
    let (mut pair, topic) = differing();
    let real = pair.answer(Envelope { req: 1, body: SyncRequest::GetOps { ids: vec![topic.into()] } });
    let SyncResponse::Ops(ops) = real else { panic!("{real:?}") };
    let mut forged = ops[0].to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let id = OpId::from_bytes(bib_core::hash::hash(&forged));
    pair.want(topic, None);
    let cost = pair.run_with(&mut |asked, _| match asked {
        SyncRequest::Reconcile { .. } => {
            let state = Some(RangeState::Ids { ids: vec![(9, id)], answer: false });
            SyncResponse::Ranges(vec![Range { upper: None, state }])
        }
        SyncRequest::GetOps { .. } => SyncResponse::Ops(vec![forged.clone().into()]),
        _ => SyncResponse::Pushed { accepted: 0, rejected: Vec::new() },
    });
    assert!(matches!(cost.stopped(), SyncFailure::Forged(_)), "{cost:?}");
}

#[test]
fn ids_out_of_order_or_outside_their_range_end_it() {
    let id = |n: u8| (u64::from(n), OpId::from_bytes([n; 32]));
    for (ids, upper) in [(vec![id(2), id(1)], None), (vec![id(3)], Some(id(3))), (vec![id(1), id(1)], None)] {
        let (mut pair, topic) = differing();
        pair.want(topic, None);
        let cost = pair.run_with(&mut |asked, response| match asked {
            SyncRequest::Reconcile { .. } => {
                let state = Some(RangeState::Ids { ids: ids.clone(), answer: false });
                SyncResponse::Ranges(vec![Range { upper, state }])
            }
            _ => response,
        });
        assert!(matches!(cost.stopped(), SyncFailure::Disorder(_)), "{cost:?}");
    }
}

#[test]
fn busy_peer_is_asked_again_and_a_refusing_one_left_alone() {
    let (mut pair, topic) = differing();
    let begun = pair.now;
    pair.want(topic, None);
    let mut n_asked = 0;
    let busy = |code| SyncResponse::Refused(Refusal { code, message: String::new() });
    let cost = pair.run_with(&mut |_, response| {
        n_asked += 1;
        if n_asked % 3 == 0 { response } else { busy(RefusalCode::Busy) }
    });
    assert_eq!(cost.done(), [(topic, 30, 10)]);
    assert!(pair.now.saturating_duration_since(begun) > limits::SYNC_PAUSE);
    assert_eq!(pair.here.hash(topic), pair.there.hash(topic));

    let (mut pair, topic) = differing();
    pair.want(topic, None);
    let cost = pair.run_with(&mut |_, _| busy(RefusalCode::Denied));
    assert_eq!(cost.events, [SyncEvent::Failed { topic, failure: SyncFailure::Refused(RefusalCode::Denied) }]);
}

#[test]
fn silent_peer_is_given_up_and_the_topic_may_be_wanted_again() {
    let (mut pair, topic) = differing();
    pair.want(topic, None);
    while pair.initiator.poll_transmit().is_some() {}
    let (at, _) = pair.initiator.poll_timeout().unwrap();
    let read = pair.here.catalog.begin_read().unwrap();
    pair.initiator.handle_timeout(at, &*read).unwrap();
    drop(read);
    assert_eq!(pair.initiator.poll_event(), Some(SyncEvent::Stopped { failure: SyncFailure::Timeout }));
    assert!(pair.initiator.is_idle());
    pair.now = at;
    pair.want(topic, None);
    assert_eq!(pair.run().done(), [(topic, 30, 10)]);
}

#[test]
fn peer_that_takes_no_pushes_still_answers() {
    let (mut pair, topic) = differing();
    pair.want(topic, None);
    let cost = pair.run_with(&mut |asked, response| match asked {
        SyncRequest::PushOps { .. } => {
            SyncResponse::Refused(Refusal { code: RefusalCode::Denied, message: String::new() })
        }
        _ => response,
    });
    assert_eq!(cost.done(), [(topic, 30, 0)]);
}

#[test]
fn access_operations_come_before_the_content_that_follows_them() {
    // The access logs are compared in two rounds, while the content is listed in the first.
    let mut access = vec![create("weather", None)];
    let topic = access[0].topic();
    while access.len() < 200 {
        let last = access.last().unwrap();
        access.push(op(Some(topic), &[last], Body::SetVisibility { visibility: Visibility::Public }));
    }
    let content = update(topic, &[access.last().unwrap()], "content");
    let there = Node::with(access.iter().chain([&content]));
    let mut pair = Pair::new(Node::with(&access[..190]), there);
    pair.want(topic, None);
    assert_eq!(pair.run().done(), [(topic, 11, 0)]);
    assert_eq!(pair.here.n_parked, 0);
}

#[test]
fn answer_to_an_earlier_run_does_not_concern_the_next_one() {
    let (mut pair, topic) = differing();
    // Only the content log is missing here, so that its operations are asked for at once.
    pair.here = Node::with([&create("weather", None)]);
    pair.want(topic, None);
    let mut held = None;
    for _ in 0..2 {
        for request in std::iter::from_fn(|| pair.initiator.poll_transmit()).collect::<Vec<_>>() {
            let req = request.req;
            let is_get = matches!(request.body, SyncRequest::GetOps { .. });
            let response = Envelope { req, body: pair.answer(request) };
            if is_get {
                held = Some(response);
                continue;
            }
            let read = pair.here.catalog.begin_read().unwrap();
            pair.initiator.handle_response(pair.now, &*read, response).unwrap();
        }
    }
    let held = held.unwrap();
    let SyncResponse::Ops(ops) = &held.body else { panic!("{held:?}") };
    assert!(!ops.is_empty());
    // One of several requests for operations is refused: the run ends, and another one begins.
    let refusal = Refusal { code: RefusalCode::Denied, message: String::new() };
    let read = pair.here.catalog.begin_read().unwrap();
    let others: Vec<u64> = (1..held.req).filter(|req| *req != held.req).collect();
    for req in others {
        let body = SyncResponse::Refused(refusal.clone());
        pair.initiator.handle_response(pair.now, &*read, Envelope { req, body }).unwrap();
    }
    assert_eq!(
        pair.initiator.poll_event(),
        Some(SyncEvent::Failed { topic, failure: SyncFailure::Refused(RefusalCode::Denied) })
    );
    while pair.initiator.poll_transmit().is_some() {}
    pair.initiator.handle_want(pair.now, &*read, topic, None).unwrap();
    pair.initiator.handle_response(pair.now, &*read, held).unwrap();
    drop(read);
    let cost = pair.run();
    assert_eq!(cost.done().len(), 1);
    assert_eq!(pair.here.hash(topic), pair.there.hash(topic));
}

#[test]
fn topics_come_before_those_below_them_and_unknown_parents_are_chased() {
    let root = create("weather", None);
    let sub = create("daily", Some(&root));
    let below = create("north", Some(&sub));
    let content = update(below.topic(), &[&below], "content");
    let all = [&root, &sub, &below, &content];
    // With the parents known, in order.
    let mut pair = Pair::new(Node::default(), Node::with(all));
    for (topic, parent) in [(&below, Some(&sub)), (&sub, Some(&root)), (&root, None)] {
        pair.want(topic.topic(), parent.map(Operation::topic));
    }
    let done: Vec<TopicId> = pair.run().done().into_iter().map(|(topic, ..)| topic).collect();
    assert_eq!(pair.here.count(below.topic()), 2);
    assert!(done.contains(&root.topic()) && done.contains(&sub.topic()), "{done:?}");
    // With none known, the operations above are asked for by their ids.
    let mut pair = Pair::new(Node::default(), Node::with(all));
    pair.want(below.topic(), None);
    assert_eq!(pair.run().done().len(), 1);
    assert_eq!(pair.here.count(below.topic()), 2);
    assert_eq!(pair.here.parked.len(), 0);
}

#[test]
fn greedy_peer_is_told_to_slow_down() {
    let (mut pair, topic) = differing();
    let request = || SyncRequest::Summary { topic, class: Class::Content };
    let n_refused = (0..300)
        .filter(|req| matches!(pair.answer(Envelope { req: *req, body: request() }), SyncResponse::Refused(_)))
        .count();
    assert_eq!(n_refused, 300 - limits::PEER_REQUEST_BURST as usize);
    pair.now = pair.now + Duration::from_secs(1);
    assert!(matches!(pair.answer(Envelope { req: 1, body: request() }), SyncResponse::Summary { count: 330, .. }));
}
