//! What a node does with its peers: comparing catalogs, announcing, subscribing, and peers that lie.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::BTreeSet;
use std::time::Duration;

use bib_core::api::request::ContextFor;
use bib_core::command::OpOutcome;
use bib_core::encode::{decode, encode};
use bib_core::id::{NodeId, TopicId};
use bib_core::limits;
use bib_core::machine::discovery::{Discovery, DiscoveryEvent, NewsFrom};
use bib_core::machine::sync::{SyncEvent, SyncFailure};
use bib_core::model::{Name, Visibility};
use bib_core::op::operation::FieldChanges;
use bib_core::op::{Body, Operation};
use bib_core::time::{Instant, Timestamp};
use bib_core::wire::gossip::{GLOBAL, topic_name};
use bib_core::wire::message::{
    DiscoveryRequest, DiscoveryResponse, Envelope, FindQuery, NodeMode, PeerInfo, Refusal, RefusalCode, TopicSummary,
};
use bib_sim::node::{CatalogNode, PEER, nothing, sign};

const CLOCK: Timestamp = Timestamp(1_800_000_000_000_000);

fn create(name: &str, parent: Option<(&mut Node, TopicId)>) -> Operation {
    let (context, parent) = match parent {
        Some((node, id)) => (node.catalog.context(ContextFor::Access(id)).unwrap(), Some(id)),
        None => (nothing(), None),
    };
    let (name, fields) = (Name::new(name).unwrap(), FieldChanges::default());
    sign(1, None, context, CLOCK, Body::CreateTopic { parent, name, visibility: Visibility::Public, fields })
}

struct Node {
    id: NodeId,
    catalog: CatalogNode,
    discovery: Discovery,
    events: Vec<DiscoveryEvent>,
}

impl Node {
    fn new(n: u8) -> Self {
        Self::with_peers(n, &[])
    }

    fn with_peers(n: u8, peers: &[String]) -> Self {
        let id = NodeId::from_bytes([n; 32]);
        Self { id, catalog: CatalogNode::default(), discovery: Discovery::new(id, peers), events: Vec::new() }
    }

    fn take(&mut self, now: Instant, from: NewsFrom, op: &Operation) {
        let applied = self.catalog.take(std::slice::from_ref(op), PEER, CLOCK);
        assert_eq!(applied.outcomes, [OpOutcome::New]);
        self.discovery.handle_new_ops(now, &*self.catalog.read(), from, &applied.new).unwrap();
    }

    /// Something of a user of this node, that changes a topic.
    fn change(&mut self, now: Instant, from: NewsFrom, topic: TopicId, body: Body) -> Operation {
        let wanted = match body.class() {
            bib_core::op::Class::Content => ContextFor::Content(topic),
            bib_core::op::Class::Access => ContextFor::Access(topic),
        };
        let op = sign(1, Some(topic), self.catalog.context(wanted).unwrap(), CLOCK, body);
        self.take(now, from, &op);
        op
    }

    fn describe(&mut self, now: Instant, from: NewsFrom, topic: TopicId, text: &str) -> Operation {
        let fields = FieldChanges { description: Some(text.to_owned()), ..FieldChanges::default() };
        self.change(now, from, topic, Body::UpdateTopic(fields))
    }

    fn info(&self) -> PeerInfo {
        PeerInfo {
            node: self.id,
            addresses: vec!["/ip4/192.168.100.100/tcp/4001".to_owned(), "/ip6/fd00::1234/tcp/4001".to_owned()],
            mode: NodeMode::Full,
            version: "0.1.0".to_owned(),
            protocols: ["discovery", "sync", "data"].map(|name| format!("/bib/{name}/1.0.0")).to_vec(),
            free_bytes: 1 << 40,
            catalog: [0; 16],
        }
    }

    fn connect(&mut self, now: Instant, peer: NodeId) {
        self.discovery.handle_connected(now, CLOCK, &*self.catalog.read(), peer, None).unwrap();
    }

    fn events(&mut self) -> Vec<DiscoveryEvent> {
        self.events.extend(std::iter::from_fn(|| self.discovery.poll_event()));
        std::mem::take(&mut self.events)
    }

    /// Topics that it wants to reconcile now.
    fn wanted(&mut self) -> BTreeSet<TopicId> {
        let topic = |event| match event {
            DiscoveryEvent::Sync { topic, .. } => Some(topic),
            _ => None,
        };
        self.events().into_iter().filter_map(topic).collect()
    }

    fn misbehaviour(&mut self) -> Option<String> {
        self.events().into_iter().find_map(|event| match event {
            DiscoveryEvent::Misbehaved { reason, .. } => Some(reason),
            _ => None,
        })
    }

    fn ask(&mut self, now: Instant, from: NodeId, body: DiscoveryRequest) -> DiscoveryResponse {
        let info = self.info();
        let request = Envelope { req: 7, body };
        let read = self.catalog.catalog.restarted();
        let read = bib_core::port::Catalog::begin_read(&read).unwrap();
        self.discovery.handle_request(now, &*read, from, request, &info).unwrap().body
    }

    fn answer(&mut self, now: Instant, from: NodeId, response: Envelope<DiscoveryResponse>) {
        self.discovery.handle_response(now, &*self.catalog.read(), from, response).unwrap();
    }

    fn sync(&mut self, now: Instant, peer: NodeId, event: &SyncEvent) {
        self.discovery.handle_sync_event(now, CLOCK, &*self.catalog.read(), peer, event).unwrap();
    }

    fn timeout(&mut self, now: Instant) {
        self.discovery.handle_timeout(now, &*self.catalog.read()).unwrap();
    }
}

/// Two connected nodes in virtual time.
struct Pair {
    low: Node,
    high: Node,
    now: Instant,
    requests: Vec<DiscoveryRequest>,
    bytes: usize,
}

impl Pair {
    fn new(low: Node, high: Node) -> Self {
        let mut pair = Self { low, high, now: Instant(1), requests: Vec::new(), bytes: 0 };
        for node in [&mut pair.low, &mut pair.high] {
            node.discovery.handle_started(pair.now, &*node.catalog.read()).unwrap();
        }
        let (low, high) = (pair.low.id, pair.high.id);
        pair.low.connect(pair.now, high);
        pair.high.connect(pair.now, low);
        pair
    }

    /// Requests and answers at this moment.
    fn exchange(&mut self) {
        loop {
            let (from, to) = if let Some(out) = self.low.discovery.poll_transmit() {
                ((&mut self.low, &mut self.high), out)
            } else if let Some(out) = self.high.discovery.poll_transmit() {
                ((&mut self.high, &mut self.low), out)
            } else {
                return;
            };
            let ((asker, answerer), (peer, request)) = (from, to);
            assert_eq!(peer, answerer.id);
            let bytes = encode(&request);
            self.bytes += bytes.len() + 4;
            self.requests.push(request.body);
            let request: Envelope<DiscoveryRequest> = decode(&bytes).unwrap();
            let (req, body) = (request.req, answerer.ask(self.now, asker.id, request.body));
            let bytes = encode(&Envelope { req, body });
            self.bytes += bytes.len() + 4;
            asker.answer(self.now, answerer.id, decode(&bytes).unwrap());
        }
    }

    fn run_until(&mut self, end: Instant) {
        loop {
            self.exchange();
            let timers = [&self.low, &self.high].map(|node| node.discovery.poll_timeout());
            let Some((at, _)) = timers.into_iter().flatten().min().filter(|(at, _)| *at <= end) else { break };
            self.now = self.now.max(at);
            self.low.timeout(self.now);
            self.high.timeout(self.now);
        }
        self.now = end;
    }

    fn run_for(&mut self, duration: Duration) {
        self.run_until(self.now + duration);
    }
}

fn seconds(n: u64) -> Instant {
    Instant(n * 1_000_000)
}

/// Nodes 1 and 2 with so many topics each.
fn with_topics(n: usize) -> (Node, Node, Vec<TopicId>) {
    let (mut low, mut high) = (Node::new(1), Node::new(2));
    let ops: Vec<Operation> = (0..n).map(|n| create(&format!("topic{n}"), None)).collect();
    for node in [&mut low, &mut high] {
        node.catalog.take(&ops, PEER, CLOCK);
    }
    (low, high, ops.iter().map(Operation::topic).collect())
}

#[test]
fn equal_catalogs_cost_one_small_question_in_five_minutes() {
    let (low, high, _) = with_topics(300);
    let mut pair = Pair::new(low, high);
    pair.run_for(Duration::from_secs(3_600));
    assert!(pair.requests.iter().all(|request| matches!(request, DiscoveryRequest::PeerInfo)));
    assert!(pair.low.wanted().is_empty() && pair.high.wanted().is_empty());
    // Both directions, 20 peers, both ends of each: what a node sends and receives.
    let per_second = pair.bytes * 20 / 3_600;
    assert!(per_second < 100, "{per_second} bytes a second with 20 peers");
}

#[test]
fn topics_that_differ_are_reconciled_and_unlisted_ones_announced() {
    let (mut low, mut high, topics) = with_topics(600);
    let at_low = create("low", None);
    let at_high = create("high", None);
    low.catalog.take(std::slice::from_ref(&at_low), PEER, CLOCK);
    high.catalog.take(std::slice::from_ref(&at_high), PEER, CLOCK);
    let fields = FieldChanges { description: Some("news".to_owned()), ..FieldChanges::default() };
    let context = high.catalog.context(ContextFor::Content(topics[5])).unwrap();
    let news = sign(1, Some(topics[5]), context, CLOCK, Body::UpdateTopic(fields));
    high.catalog.take(&[news], PEER, CLOCK);
    let mut pair = Pair::new(low, high);
    pair.exchange();
    // The lower one lists and reconciles; the higher one only takes what was announced.
    assert_eq!(pair.low.wanted(), BTreeSet::from([topics[5], at_high.topic()]));
    assert_eq!(pair.high.wanted(), BTreeSet::from([at_low.topic()]));
    let n_pages = pair.requests.iter().filter(|request| matches!(request, DiscoveryRequest::ListTopics { .. })).count();
    assert_eq!(n_pages, 3);
    // What is outstanding is not asked for twice.
    pair.run_for(limits::COMPARE_GRACE * 2);
    assert_eq!(pair.low.wanted(), BTreeSet::new());
}

#[test]
fn deleted_topics_are_not_shown_and_their_deletion_arrives_nevertheless() {
    let (low, high, topics) = with_topics(3);
    let mut pair = Pair::new(low, high);
    pair.run_for(Duration::from_secs(60));
    pair.low.change(pair.now, NewsFrom::Gossip, topics[1], Body::DeleteTopic { force: true });
    let asker = pair.high.id;
    let shown = pair.low.ask(pair.now, asker, DiscoveryRequest::ListTopics { after: None, limit: 10 });
    let DiscoveryResponse::Topics { topics: shown, more: false } = shown else { panic!("{shown:?}") };
    assert_eq!(shown.len(), 2);
    assert!(!shown.iter().any(|topic| topic.id == topics[1]));
    let query = FindQuery { limit: 10, ..FindQuery::default() };
    let found = pair.low.ask(pair.now, asker, DiscoveryRequest::Find(query));
    assert_eq!(found, DiscoveryResponse::Entries { entries: Vec::new(), total: 0 });
    let unsubscribed = DiscoveryEvent::Unsubscribe(topic_name(&topics[1]));
    assert!(pair.low.events().contains(&unsubscribed));
    pair.run_for(limits::SYNC_INTERVAL);
    // Either by its own listing, in which the topic differs, or by the other's announcement.
    let mut wanted = pair.low.wanted();
    wanted.extend(pair.high.wanted());
    assert_eq!(wanted, BTreeSet::from([topics[1]]));
}

#[test]
fn topics_come_in_pages_in_order() {
    let (mut low, _, mut topics) = with_topics(20);
    topics.sort_unstable();
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        match low.ask(Instant(1), NodeId::from_bytes([9; 32]), DiscoveryRequest::ListTopics { after, limit: 7 }) {
            DiscoveryResponse::Topics { topics, more } => {
                listed.extend(topics.iter().map(|topic| topic.id));
                after = listed.last().copied();
                if !more {
                    break;
                }
                assert_eq!(topics.len(), 7);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(listed, topics);
}

#[test]
fn changes_of_users_and_of_reconciliation_are_announced_and_those_of_gossip_not() {
    let (low, high, topics) = with_topics(3);
    let mut pair = Pair::new(low, high);
    pair.run_for(Duration::from_secs(60));
    pair.requests.clear();
    let begun = pair.now;
    pair.low.describe(begun, NewsFrom::Local, topics[0], "one");
    pair.low.describe(begun, NewsFrom::Local, topics[0], "two");
    pair.low.describe(begun, NewsFrom::Local, topics[1], "three");
    pair.exchange();
    assert_eq!(pair.requests, [], "gossip is given a moment");
    pair.run_for(limits::ANNOUNCE_DELAY);
    assert_eq!(pair.high.wanted(), BTreeSet::from([topics[0], topics[1]]));
    assert_eq!(pair.requests.len(), 1, "they are told together");

    let (peer, now) = (pair.high.id, pair.now);
    pair.low.describe(now, NewsFrom::Gossip, topics[2], "by gossip");
    pair.low.describe(now, NewsFrom::Sync(peer), topics[2], "from that peer");
    pair.run_for(limits::ANNOUNCE_DELAY * 2);
    assert_eq!(pair.requests.len(), 1);
    let third = NodeId::from_bytes([3; 32]);
    pair.low.describe(pair.now, NewsFrom::Sync(third), topics[2], "from another peer");
    pair.run_for(limits::ANNOUNCE_DELAY * 2);
    assert_eq!(pair.high.wanted(), BTreeSet::from([topics[2]]));
}

#[test]
fn what_is_announced_while_it_is_reconciled_is_reconciled_again_unless_it_came() {
    let (low, high, topics) = with_topics(1);
    let (mut pair, topic) = (Pair::new(low, high), topics[0]);
    pair.run_for(Duration::from_secs(60));
    let (low, done) = (pair.low.id, SyncEvent::Done { topic, received: 1, pushed: 0, refused: 0 });
    let ops: Vec<Operation> = ["one", "two"]
        .into_iter()
        .map(|text| {
            let op = pair.low.describe(pair.now, NewsFrom::Local, topic, text);
            pair.run_for(limits::ANNOUNCE_DELAY);
            op
        })
        .collect();
    assert_eq!(pair.high.wanted(), BTreeSet::from([topic]));
    pair.high.take(pair.now, NewsFrom::Sync(low), &ops[0]);
    pair.high.sync(pair.now, low, &done);
    assert_eq!(pair.high.wanted(), BTreeSet::from([topic]), "the second one was announced after it had begun");
    pair.high.take(pair.now, NewsFrom::Sync(low), &ops[1]);
    pair.high.sync(pair.now, low, &done);
    assert_eq!(pair.high.wanted(), BTreeSet::new());
    assert_eq!(pair.high.discovery.n_syncing(), 0);
    assert_eq!(pair.high.discovery.topic_sync(&topic).last_sync, Some(CLOCK));
}

/// A node that has asked its peer something.
fn asking() -> (Node, NodeId, Envelope<DiscoveryRequest>) {
    let (mut node, peer) = (Node::new(1), NodeId::from_bytes([2; 32]));
    node.discovery.handle_started(Instant(1), &*node.catalog.read()).unwrap();
    node.connect(Instant(1), peer);
    let (to, request) = node.discovery.poll_transmit().unwrap();
    assert_eq!((to, &request.body), (peer, &DiscoveryRequest::PeerInfo));
    node.events();
    (node, peer, request)
}

/// The same, that has asked for the peer's topics.
fn listing() -> (Node, NodeId, Envelope<DiscoveryRequest>) {
    let (mut node, peer, request) = asking();
    let info = PeerInfo { node: peer, catalog: [1; 16], ..node.info() };
    node.answer(Instant(2), peer, Envelope { req: request.req, body: DiscoveryResponse::PeerInfo(info) });
    let (_, request) = node.discovery.poll_transmit().unwrap();
    assert!(matches!(request.body, DiscoveryRequest::ListTopics { after: None, .. }));
    (node, peer, request)
}

fn summaries(numbers: impl IntoIterator<Item = u32>) -> Vec<TopicSummary> {
    let summary = |n: u32| {
        let id = TopicId::from_bytes(std::array::from_fn(|i| if i < 4 { n.to_be_bytes()[i] } else { 0 }));
        TopicSummary { id, parent: None, name: Name::new("topic").unwrap(), heads_hash: [7; 32] }
    };
    numbers.into_iter().map(summary).collect()
}

#[test]
fn peer_that_claims_to_be_another_is_reported() {
    let (mut node, peer, request) = asking();
    let info = PeerInfo { node: NodeId::from_bytes([3; 32]), ..node.info() };
    node.answer(Instant(2), peer, Envelope { req: request.req, body: DiscoveryResponse::PeerInfo(info) });
    assert!(node.misbehaviour().is_some());
    assert_eq!(node.discovery.poll_transmit(), None);
    assert_eq!(node.discovery.poll_timeout(), None, "nothing more is asked of it");
}

#[test]
fn lists_out_of_order_and_without_end_are_reported() {
    for (topics, more) in [(summaries([2, 1]), false), (summaries([1, 1]), false), (Vec::new(), true)] {
        let (mut node, peer, request) = listing();
        node.answer(Instant(3), peer, Envelope { req: request.req, body: DiscoveryResponse::Topics { topics, more } });
        assert!(node.misbehaviour().is_some());
    }
    let (mut node, peer, request) = listing();
    let page = |numbers: std::ops::Range<u32>| DiscoveryResponse::Topics { topics: summaries(numbers), more: true };
    node.answer(Instant(3), peer, Envelope { req: request.req, body: page(5..8) });
    let (_, request) = node.discovery.poll_transmit().unwrap();
    node.answer(Instant(4), peer, Envelope { req: request.req, body: page(7..9) });
    assert!(node.misbehaviour().is_some(), "the second page begins before the end of the first");
}

#[test]
fn peer_that_lists_what_it_does_not_hold_is_reported() {
    let (mut node, peer, request) = listing();
    let topics = summaries(0..3);
    let listed = topics[1].id;
    let body = DiscoveryResponse::Topics { topics, more: false };
    node.answer(Instant(3), peer, Envelope { req: request.req, body });
    assert_eq!(node.wanted().len(), 3);
    node.sync(Instant(4), peer, &SyncEvent::Done { topic: listed, received: 0, pushed: 0, refused: 0 });
    assert!(node.misbehaviour().unwrap().contains("does not hold"));
}

#[test]
fn news_told_twice_or_not_at_all_do_no_harm() {
    let (low, high, topics) = with_topics(2);
    let mut pair = Pair::new(low, high);
    pair.run_for(Duration::from_secs(60));
    let op = pair.low.describe(pair.now, NewsFrom::Gossip, topics[0], "news");
    let read = pair.low.catalog.read();
    pair.low.discovery.handle_new_ops(pair.now, &*read, NewsFrom::Gossip, std::slice::from_ref(&op)).unwrap();
    drop(read);
    pair.high.take(pair.now, NewsFrom::Gossip, &op);
    pair.requests.clear();
    pair.run_for(limits::SYNC_INTERVAL);
    assert!(
        pair.requests.iter().all(|request| matches!(request, DiscoveryRequest::PeerInfo)),
        "the catalogs are equal"
    );
    // Taken and not told: found soon after the node says so.
    let fields = FieldChanges { description: Some("more".to_owned()), ..FieldChanges::default() };
    let context = pair.low.catalog.context(ContextFor::Content(topics[1])).unwrap();
    let op = sign(1, Some(topics[1]), context, CLOCK, Body::UpdateTopic(fields));
    pair.low.catalog.take(&[op], PEER, CLOCK);
    pair.low.discovery.handle_started(pair.now, &*pair.low.catalog.read()).unwrap();
    pair.run_for(Duration::from_secs(1));
    assert_eq!(pair.low.wanted(), BTreeSet::from([topics[1]]));
}

#[test]
fn topic_that_waits_here_for_its_time_is_not_held_against_who_lists_it() {
    let (mut node, peer, request) = listing();
    let ahead = CLOCK.saturating_add(limits::CLOCK_SKEW * 2);
    let body = create("topic", None).body.clone();
    let op = sign(1, None, nothing(), ahead, body);
    let listed = TopicSummary { id: op.topic(), ..summaries([1]).remove(0) };
    let body = DiscoveryResponse::Topics { topics: vec![listed], more: false };
    node.answer(Instant(3), peer, Envelope { req: request.req, body });
    let taken = node.catalog.take(std::slice::from_ref(&op), PEER, CLOCK);
    assert_eq!(taken.outcomes, [OpOutcome::Parked { missing: Vec::new() }]);
    node.sync(Instant(4), peer, &SyncEvent::Done { topic: op.topic(), received: 0, pushed: 0, refused: 0 });
    assert_eq!(node.misbehaviour(), None);
}

#[test]
fn endless_list_is_read_only_as_fast_as_its_topics_are_reconciled() {
    let (mut node, peer, mut request) = listing();
    let mut n_pages = 0_u32;
    loop {
        let body = DiscoveryResponse::Topics { topics: summaries(256 * n_pages..256 * (n_pages + 1)), more: true };
        node.answer(Instant(3), peer, Envelope { req: request.req, body });
        n_pages += 1;
        match node.discovery.poll_transmit() {
            Some((_, next)) => request = next,
            None => break,
        }
    }
    assert_eq!(n_pages as usize * 256, limits::MAX_TOPICS_OUTSTANDING);
    let wanted = node.wanted();
    assert_eq!(wanted.len(), limits::MAX_TOPICS_OUTSTANDING);
    let failed =
        SyncEvent::Failed { topic: *wanted.first().unwrap(), failure: SyncFailure::Refused(RefusalCode::NotFound) };
    node.sync(Instant(4), peer, &failed);
    assert!(node.discovery.poll_transmit().is_some(), "there is room for another page");
    // What others announce is held to the bound as well.
    let heads: Vec<_> = summaries(1_000_000..1_000_200).into_iter().map(|topic| (topic.id, topic.heads_hash)).collect();
    let DiscoveryResponse::Wanted(wanted) = node.ask(Instant(4), peer, DiscoveryRequest::Announce(heads)) else {
        panic!("it is not answered")
    };
    assert_eq!(wanted.len(), 1);
}

#[test]
fn silent_peer_is_asked_again_after_pauses_that_double() {
    let (mut node, _, _) = asking();
    let (mut now, mut pauses) = (Instant(1), Vec::new());
    for _ in 0..9 {
        let (late, _) = node.discovery.poll_timeout().unwrap();
        assert_eq!(late, now + limits::SYNC_TIMEOUT);
        node.timeout(late);
        assert_eq!(node.discovery.poll_transmit(), None);
        let (again, _) = node.discovery.poll_timeout().unwrap();
        pauses.push(again.saturating_duration_since(late).as_secs());
        node.timeout(again);
        assert!(node.discovery.poll_transmit().is_some());
        now = again;
    }
    assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
}

#[test]
fn busy_peer_is_asked_the_same_again() {
    let (mut node, peer, request) = listing();
    let busy = DiscoveryResponse::Refused(Refusal { code: RefusalCode::RateLimited, message: String::new() });
    node.answer(seconds(1), peer, Envelope { req: request.req, body: busy });
    assert_eq!(node.discovery.poll_transmit(), None);
    assert_eq!(node.discovery.poll_timeout().map(|(at, _)| at), Some(seconds(1) + limits::SYNC_PAUSE));
    node.timeout(seconds(2));
    assert_eq!(node.discovery.poll_transmit().unwrap().1.body, request.body);
}

#[test]
fn lost_stream_forgets_no_announcement() {
    let (low, high, topics) = with_topics(1);
    let mut pair = Pair::new(low, high);
    pair.run_for(Duration::from_secs(60));
    pair.low.describe(pair.now, NewsFrom::Local, topics[0], "news");
    let at = pair.now + limits::ANNOUNCE_DELAY;
    pair.low.timeout(at);
    assert!(matches!(pair.low.discovery.poll_transmit().unwrap().1.body, DiscoveryRequest::Announce(_)));
    pair.low.discovery.handle_closed(at, pair.high.id);
    pair.run_for(limits::RETRY_MIN * 2);
    assert_eq!(pair.high.wanted(), BTreeSet::from([topics[0]]));
}

#[test]
fn gossip_topics_are_those_held_and_bounded() {
    let n = limits::MAX_GOSSIP_TOPICS + 20;
    let (low, mut high, topics) = with_topics(n);
    let mut pair = Pair::new(low, Node::new(2));
    let subscribed = |events: &[DiscoveryEvent]| {
        let mut names: BTreeSet<String> = BTreeSet::new();
        for event in events {
            match event {
                DiscoveryEvent::Subscribe(name) => drop(names.insert(name.clone())),
                DiscoveryEvent::Unsubscribe(name) => drop(names.remove(name)),
                _ => {}
            }
        }
        names
    };
    let mut events = pair.low.events();
    let names = subscribed(&events);
    assert_eq!(names.len(), 1 + limits::MAX_GOSSIP_TOPICS);
    assert!(names.contains(GLOBAL));
    let absent = *topics.iter().find(|topic| !names.contains(&topic_name(topic))).unwrap();
    pair.low.describe(pair.now, NewsFrom::Gossip, absent, "news");
    events.extend(pair.low.events());
    let names = subscribed(&events);
    assert!(names.contains(&topic_name(&absent)), "a topic that changes comes before quiet ones");
    assert_eq!(names.len(), 1 + limits::MAX_GOSSIP_TOPICS);
    // A sub-topic is heard of on the topic above and has one of its own from then on.
    let sub = create("sub", Some((&mut high, topics[0])));
    pair.low.take(pair.now, NewsFrom::Gossip, &sub);
    events.extend(pair.low.events());
    let names = subscribed(&events);
    assert!(names.contains(&topic_name(&sub.topic())) && names.contains(&topic_name(&topics[0])));
}

#[test]
fn unknown_heads_are_asked_of_who_knows_them() {
    let (mut node, peer, _) = asking();
    let (author, topic) = (NodeId::from_bytes([8; 32]), TopicId::from_bytes([5; 32]));
    let wants = |node: &mut Node| {
        node.events().into_iter().find_map(|event| match event {
            DiscoveryEvent::Sync { peer, topic: wanted, .. } if wanted == topic => Some(peer),
            _ => None,
        })
    };
    node.discovery.handle_heads(topic, &[author, peer]);
    assert_eq!(wants(&mut node), Some(peer), "the author is not connected");
    node.connect(Instant(2), author);
    node.discovery.handle_heads(topic, &[author, peer]);
    assert_eq!(wants(&mut node), Some(author));
    node.discovery.handle_disconnected(Instant(3), CLOCK, author);
    node.discovery.handle_disconnected(Instant(3), CLOCK, peer);
    node.discovery.handle_heads(topic, &[author]);
    assert_eq!(wants(&mut node), None);
}

#[test]
fn misbehaviour_in_a_reconciliation_is_passed_on_and_bars_the_peer() {
    let (mut node, peer, request) = listing();
    let body = DiscoveryResponse::Topics { topics: summaries(0..3), more: false };
    node.answer(Instant(3), peer, Envelope { req: request.req, body });
    let topic = *node.wanted().first().unwrap();
    node.sync(Instant(4), peer, &SyncEvent::Stopped { failure: SyncFailure::Undelivered(3) });
    assert!(node.misbehaviour().is_some());
    assert_eq!(node.discovery.n_syncing(), 0);
    assert!(node.discovery.topic_sync(&topic).last_error.is_some());
    node.discovery.handle_heads(topic, &[peer]);
    assert_eq!(node.wanted(), BTreeSet::new());
}

#[test]
fn configured_peers_are_dialled_and_what_they_say_is_remembered() {
    let address = "/ip4/10.0.0.7/tcp/4001".to_owned();
    let mut node = Node::with_peers(1, std::slice::from_ref(&address));
    node.discovery.handle_started(Instant(0), &*node.catalog.read()).unwrap();
    assert!(node.events().contains(&DiscoveryEvent::Dial { address: address.clone() }));
    node.discovery.handle_dial_failed(Instant(0), &address);
    let (at, why) = node.discovery.poll_timeout().unwrap();
    assert_eq!((at, why), (seconds(5), "dialling a configured peer"));
    node.timeout(at);
    assert!(node.events().contains(&DiscoveryEvent::Dial { address: address.clone() }));
    let peer = NodeId::from_bytes([2; 32]);
    node.discovery.handle_connected(at, CLOCK, &*node.catalog.read(), peer, Some(&address)).unwrap();
    node.discovery.handle_identified(peer, &["/ip4/10.0.0.7/tcp/9".to_owned()], "bib/0.1.0");
    node.discovery.handle_rtt(CLOCK, peer, Duration::from_millis(3));
    let listed = node.discovery.peers().remove(0);
    assert_eq!(listed.node, peer);
    assert_eq!(listed.addresses[0], address);
    assert_eq!((listed.connected, listed.rtt_us, listed.agent.as_deref()), (true, Some(3_000), Some("bib/0.1.0")));
}

#[test]
fn greedy_peer_is_told_to_slow_down() {
    let mut node = Node::new(1);
    let peer = NodeId::from_bytes([2; 32]);
    let mut refused = |body: fn() -> DiscoveryRequest, n| {
        (0..n).filter(|_| matches!(node.ask(Instant(1), peer, body()), DiscoveryResponse::Refused(_))).count()
    };
    assert_eq!(refused(|| DiscoveryRequest::PeerInfo, 100), 0);
    // A search costs as much as ten others.
    assert_eq!(refused(|| DiscoveryRequest::Find(FindQuery::default()), 100), 90);
}
