//! What gossip is taken, and what this node tells.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::time::Duration;

use bib_core::catalog::log;
use bib_core::command::{OpOutcome, Refused};
use bib_core::encode::{decode, encode};
use bib_core::id::{NodeId, TopicId};
use bib_core::key::SecretKey;
use bib_core::limits;
use bib_core::machine::gossip::{Accepted, GossipGate, GossipRefusal, Verdict};
use bib_core::model::Visibility;
use bib_core::op::operation::FieldChanges;
use bib_core::op::{Body, Class, Operation, Unsigned};
use bib_core::port::Catalog;
use bib_core::time::{Instant, Timestamp};
use bib_core::wire::gossip::{GLOBAL, GossipBody, GossipMessage, topic_name};
use bib_sim::memory::MemoryCatalog;

const CLOCK: Timestamp = Timestamp(1_800_000_000_000_000);

fn op(topic: Option<TopicId>, parents: &[&Operation], body: Body) -> Operation {
    let key = SecretKey::from_seed([1; 32]);
    let parents: Vec<_> = parents.iter().map(|parent| parent.id()).collect();
    let lamport = 1 + parents.len() as u64;
    let author = key.user_id();
    Unsigned { topic, author, lamport, time: CLOCK, parents, keeps: Vec::new(), body }.sign(&key).unwrap()
}

fn create(name: &str, parent: Option<&Operation>) -> Operation {
    let above: Vec<&Operation> = parent.into_iter().collect();
    let (parent, name, visibility) = (parent.map(Operation::topic), name.parse().unwrap(), Visibility::Public);
    op(None, &above, Body::CreateTopic { parent, name, visibility, fields: FieldChanges::default() })
}

fn update(parent: &Operation, description: &str, schema_len: usize) -> Operation {
    let schema = (schema_len > 0).then(|| Some("x".repeat(schema_len)));
    let fields = FieldChanges { description: Some(description.to_owned()), schema, ..Default::default() };
    op(Some(parent.topic()), &[parent], Body::UpdateTopic(fields))
}

fn bytes_of(op: &Operation) -> serde_bytes::ByteBuf {
    serde_bytes::ByteBuf::from(op.bytes())
}

fn message(sent_at: Timestamp, body: GossipBody) -> Vec<u8> {
    encode(&GossipMessage { sent_at, body })
}

#[derive(Default)]
struct World {
    gate: GossipGate,
    catalog: MemoryCatalog,
    now: Instant,
}

impl World {
    fn hear(&mut self, topic: &str, bytes: &[u8]) -> Verdict {
        self.hear_at(CLOCK, topic, bytes)
    }

    fn hear_at(&mut self, clock: Timestamp, topic: &str, bytes: &[u8]) -> Verdict {
        let read = self.catalog.begin_read().unwrap();
        let author = NodeId::from_bytes([9; 32]);
        self.gate.handle_message(self.now, clock, &*read, author, (topic, bytes)).unwrap()
    }

    fn count(&self, word: &str) -> u64 {
        self.gate.refused().into_iter().find(|(reason, _)| reason == word).unwrap().1
    }
}

#[test]
fn good_message_is_taken_once() {
    let mut world = World::default();
    let root = create("weather", None);
    let told = message(CLOCK, GossipBody::NewRoot(bytes_of(&root)));
    let taken = Verdict::Accept(Accepted::Ops { topic: root.topic(), ops: vec![root.clone()] });
    assert_eq!(world.hear(GLOBAL, &told), taken);
    assert_eq!(world.hear(GLOBAL, &told), Verdict::Ignore(GossipRefusal::Replay));
    assert_eq!((world.gate.accepted(), world.count("replay")), (1, 1));
    // It can be told again in another message, and stays refused as long as it would be fresh.
    let again = message(Timestamp(CLOCK.0 + 1), GossipBody::NewRoot(bytes_of(&root)));
    assert_eq!(world.hear(GLOBAL, &again), taken);
    let later = CLOCK.saturating_add(limits::CLOCK_SKEW);
    assert_eq!(world.hear_at(later, GLOBAL, &told), Verdict::Ignore(GossipRefusal::Replay));
    let much_later = CLOCK.saturating_add(limits::REPLAY_MEMORY + Duration::from_secs(1));
    assert_eq!(world.hear_at(much_later, GLOBAL, &told), Verdict::Ignore(GossipRefusal::Replay));
    // What pushes it out of the memory comes when it is too old to be taken.
    world.hear_at(much_later, GLOBAL, &message(much_later, GossipBody::NewRoot(bytes_of(&root))));
    assert_eq!(world.hear_at(much_later, GLOBAL, &told), Verdict::Ignore(GossipRefusal::Stale));
}

#[test]
fn messages_not_of_now_are_ignored() {
    let mut world = World::default();
    let root = create("weather", None);
    let skew = i64::try_from(limits::CLOCK_SKEW.as_micros()).unwrap();
    for (offset, fresh) in [(-skew - 1, false), (-skew, true), (skew, true), (skew + 1, false)] {
        let told = message(Timestamp(CLOCK.0 + offset), GossipBody::NewRoot(bytes_of(&root)));
        let verdict = world.hear(GLOBAL, &told);
        assert_eq!(matches!(verdict, Verdict::Accept(_)), fresh, "{offset} {verdict:?}");
    }
    assert_eq!(world.count("stale"), 2);
}

#[test]
fn what_an_honest_node_would_not_pass_on_is_rejected() {
    let mut world = World::default();
    let (root, other) = (create("weather", None), create("traffic", None));
    let sub = create("daily", Some(&root));
    let news = update(&root, "news", 0);
    let mut forged = news.bytes().to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let ops = |ops: &[&Operation]| message(CLOCK, GossipBody::Ops(ops.iter().map(|op| bytes_of(op)).collect()));
    let on = topic_name(&root.topic());
    for (topic, bytes, refusal) in [
        (on.as_str(), vec![7; limits::MAX_GOSSIP_LEN + 1], GossipRefusal::TooLarge),
        (&on, vec![1, 2, 3], GossipRefusal::Malformed),
        (&on, vec![], GossipRefusal::Malformed),
        (&on, ops(&[]), GossipRefusal::Malformed),
        (&on, message(CLOCK, GossipBody::Ops(vec![vec![1, 5].into()])), GossipRefusal::Malformed),
        (&on, message(CLOCK, GossipBody::Heads(vec![])), GossipRefusal::Malformed),
        (&on, message(CLOCK, GossipBody::Ops(vec![forged.clone().into()])), GossipRefusal::Forged),
        (&on, ops(&[&news, &other]), GossipRefusal::Misplaced),
        (GLOBAL, ops(&[&news]), GossipRefusal::Misplaced),
        (GLOBAL, message(CLOCK, GossipBody::NewRoot(bytes_of(&sub))), GossipRefusal::Misplaced),
        (&on, message(CLOCK, GossipBody::NewRoot(bytes_of(&root))), GossipRefusal::Misplaced),
        ("/bib/else", ops(&[&news, &news]), GossipRefusal::Misplaced),
    ] {
        assert_eq!(world.hear(topic, &bytes), Verdict::Reject(refusal), "{refusal:?}");
    }
    // A newer node may well say what this one does not understand.
    assert_eq!(world.hear(&on, &[200, 1]), Verdict::Ignore(GossipRefusal::Unsupported));
    assert_eq!(world.gate.accepted(), 0);
    assert_eq!(world.gate.refused().iter().map(|(_, n)| n).sum::<u64>(), 13);
    // A new sub-topic is told on the topic above.
    assert!(matches!(world.hear(&on, &ops(&[&sub, &news])), Verdict::Accept(_)));
}

#[test]
fn operations_without_a_right_are_counted_once_apply_says_so() {
    let mut world = World::default();
    let root = create("weather", None);
    world.hear(GLOBAL, &message(CLOCK, GossipBody::NewRoot(bytes_of(&root))));
    assert_eq!(world.gate.handle_applied(&[OpOutcome::New, OpOutcome::Parked { missing: Vec::new() }]), Ok(()));
    let denied = OpOutcome::Refused(Refused::Denied("no".to_owned()));
    assert_eq!(world.gate.handle_applied(&[OpOutcome::New, denied]), Err(GossipRefusal::Unauthorised));
    assert_eq!((world.gate.accepted(), world.count("unauthorised")), (0, 1));
}

#[test]
fn author_who_floods_is_ignored_until_time_passes() {
    let mut world = World::default();
    let root = create("weather", None);
    let tell = |world: &mut World, n: usize| {
        let body = GossipBody::Heads(vec![(Class::Content, root.id()); 1 + n % 2]);
        world.hear(&topic_name(&root.topic()), &message(Timestamp(CLOCK.0 + n as i64), body))
    };
    let n_taken = (0..500).filter(|n| matches!(tell(&mut world, *n), Verdict::Accept(_))).count();
    assert_eq!(n_taken, limits::GOSSIP_BURST as usize);
    world.now = Instant(1_000_000);
    assert!(matches!(tell(&mut world, 501), Verdict::Accept(_)));
}

#[test]
fn heads_say_which_are_unknown_here() {
    let mut world = World::default();
    let root = create("weather", None);
    let news = update(&root, "news", 0);
    world.catalog.write(&mut |txn| log::insert(txn, &root).map(drop)).unwrap();
    let heads = vec![(Class::Access, root.id()), (Class::Content, news.id())];
    let verdict = world.hear(&topic_name(&root.topic()), &message(CLOCK, GossipBody::Heads(heads)));
    assert_eq!(verdict, Verdict::Accept(Accepted::Heads { topic: root.topic(), unknown: vec![news.id()] }));
}

#[test]
fn memory_against_replay_is_bounded() {
    let mut world = World { gate: GossipGate::new(10), ..World::default() };
    let root = create("weather", None);
    let told = |n: i64| message(Timestamp(CLOCK.0 + n), GossipBody::NewRoot(bytes_of(&root)));
    for n in 0..20 {
        assert!(matches!(world.hear(GLOBAL, &told(n)), Verdict::Accept(_)));
    }
    assert_eq!(world.hear(GLOBAL, &told(19)), Verdict::Ignore(GossipRefusal::Replay));
    assert!(matches!(world.hear(GLOBAL, &told(0)), Verdict::Accept(_)), "the oldest is forgotten first");
}

#[test]
fn what_is_told_is_taken_elsewhere_in_order_and_in_few_messages() {
    let root = create("weather", None);
    let sub = create("daily", Some(&root));
    let mut ops = vec![root.clone(), sub.clone()];
    ops.extend((0..500).map(|n| update(&sub, &n.to_string(), 100)));
    // Too large for a message beside its envelope.
    let long = update(&sub, &"y".repeat(4_000), limits::MAX_SCHEMA_LEN);
    ops.push(long.clone());
    let mut teller = GossipGate::default();
    let told = teller.tell(Instant(0), CLOCK, &ops);
    assert!(told.len() <= 6, "{} messages", told.len());
    let mut world = World::default();
    let (mut taken, mut heads) = (Vec::new(), Vec::new());
    for (topic, bytes) in &told {
        assert!(bytes.len() <= limits::MAX_GOSSIP_LEN);
        match world.hear(topic, bytes) {
            Verdict::Accept(Accepted::Ops { ops, .. }) => taken.extend(ops),
            Verdict::Accept(Accepted::Heads { unknown, .. }) => heads.extend(unknown),
            refused => panic!("{refused:?}"),
        }
    }
    let all = taken.len() + heads.len();
    assert_eq!(all, ops.len());
    let place = |op: &Operation| taken.iter().position(|one| one == op);
    assert!(place(&root) < place(&sub));
    assert!(place(&sub).is_some());
    // Its own message, come back, is a replay; and the rate is bounded.
    let read = MemoryCatalog::new();
    let verdict = teller.handle_message(
        Instant(0),
        CLOCK,
        &*read.begin_read().unwrap(),
        NodeId::from_bytes([3; 32]),
        (&told[0].0, &told[0].1),
    );
    assert_eq!(verdict.unwrap(), Verdict::Ignore(GossipRefusal::Replay));
    let n_told: usize = (0..500).map(|n| teller.tell(Instant(0), Timestamp(n), &ops[..1]).len()).sum();
    assert!(n_told < limits::OWN_GOSSIP_BURST as usize);
}

#[test]
fn operation_that_fits_into_no_message_is_told_by_its_id() {
    let root = create("weather", None);
    let told = |len: usize| {
        let fields = FieldChanges {
            schema: Some(Some("x".repeat(limits::MAX_SCHEMA_LEN))),
            metadata: Some([("key".to_owned(), "y".repeat(len))].into()),
            ..Default::default()
        };
        let op = op(Some(root.topic()), &[&root], Body::UpdateTopic(fields));
        let told = GossipGate::default().tell(Instant(0), CLOCK, std::slice::from_ref(&op));
        assert_eq!(told.len(), 1);
        assert!(told[0].1.len() <= limits::MAX_GOSSIP_LEN);
        let message: GossipMessage = decode(&told[0].1).unwrap();
        match message.body {
            GossipBody::Ops(ops) => ops == [bytes_of(&op)],
            GossipBody::Heads(heads) => {
                assert_eq!(heads, [(Class::Content, op.id())]);
                false
            }
            GossipBody::NewRoot(_) => panic!("it is no topic"),
        }
    };
    let rest = limits::MAX_OP_LEN - limits::MAX_SCHEMA_LEN - 300;
    assert!(told(rest - 200));
    assert!((rest..rest + 100).any(|len| !told(len)));
}
