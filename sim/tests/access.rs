//! The access rules: what follows from a set of operations is the same in every order of arrival, and what a naive
//! model says.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::{BTreeMap, BTreeSet};

use bib_core::hash::hash;
use bib_core::id::{OpId, TopicId, UserId};
use bib_core::key::SecretKey;
use bib_core::limits::{ACCESS_LOG_RESERVE, MAX_ACCESS_LOG_BYTES, MAX_OP_PARENTS};
use bib_core::model::{Name, Visibility};
use bib_core::op::access::{AccessError, AccessLog, Deed, Denial, Subject, Verdict};
use bib_core::op::operation::FieldChanges;
use bib_core::op::{Body, Operation, Resource, Role, Unsigned, Verb};
use bib_core::time::Timestamp;
use bib_sim::reference::access::{self as reference, History};
use bib_sim::rng::Rng;

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed([n; 32])
}

fn user(n: u8) -> UserId {
    key(n).user_id()
}

/// A node of the story: what it knows.
#[derive(Clone, Default)]
struct Replica {
    log: AccessLog,
    ops: BTreeMap<OpId, Operation>,
}

impl Replica {
    /// Signs an operation on what this replica knows (or on these parents).
    fn make(&self, by: u8, topic: Option<TopicId>, parents: Option<Vec<OpId>>, body: Body) -> Operation {
        let above = match &body {
            Body::CreateTopic { parent, .. } => *parent,
            _ => topic,
        };
        let parents = parents.unwrap_or_else(|| above.map_or(Vec::new(), |topic| self.log.heads_for(&topic)));
        let (lamport, time) = self.log.after(&parents).unwrap();
        let mut keeps = match topic {
            Some(topic) if body.is_removal() => self.log.heads_below(&topic),
            _ => Vec::new(),
        };
        keeps.truncate(MAX_OP_PARENTS);
        let time = Timestamp(time.0 + 1);
        let unsigned = Unsigned { topic, author: user(by), lamport, time, parents, keeps, body };
        unsigned.sign(&key(by)).unwrap()
    }

    fn add(&mut self, op: &Operation) -> Result<Verdict, AccessError> {
        let inserted = self.log.insert(op.clone())?;
        self.ops.insert(op.id(), op.clone());
        Ok(inserted.verdict)
    }

    fn act(&mut self, by: u8, topic: TopicId, body: Body) -> Operation {
        let op = self.make(by, Some(topic), None, body);
        self.add(&op).unwrap();
        op
    }

    fn sub_topic(&mut self, by: u8, above: TopicId) -> TopicId {
        let op = self.make(by, None, None, create("sub", Some(above)));
        self.add(&op).unwrap();
        op.topic()
    }

    fn learn(&mut self, other: &Self) {
        let mut ops: Vec<&Operation> = other.ops.values().collect();
        ops.sort_by_key(|op| op.position());
        for op in ops {
            self.add(op).unwrap();
        }
    }

    fn role(&self, of: u8, topic: TopicId) -> Option<Role> {
        self.log.role_now(&user(of), Subject::Topic(topic), Timestamp(1_000_000))
    }
}

fn create(name: &str, parent: Option<TopicId>) -> Body {
    let name = Name::new(name).unwrap();
    Body::CreateTopic { parent, name, visibility: Visibility::Public, fields: FieldChanges::default() }
}

fn grant(topic: TopicId, to: u8, role: Role) -> Body {
    Body::Grant { resource: Resource::Topic(topic), user: user(to), role, expires_at: None }
}

fn revoke(topic: TopicId, from: u8) -> Body {
    Body::Revoke { resource: Resource::Topic(topic), user: user(from), keep_below: false }
}

/// A root topic owned by user 1.
fn root() -> (Replica, TopicId) {
    let mut replica = Replica::default();
    let op = replica.make(1, None, None, create("root", None));
    replica.add(&op).unwrap();
    (replica, op.topic())
}

#[test]
fn roles_are_inherited_and_end_with_their_time() {
    let (mut world, root) = root();
    world.act(1, root, grant(root, 2, Role::Admin));
    let sub = world.sub_topic(2, root);
    assert_eq!(world.role(1, sub), Some(Role::Owner));
    assert_eq!(world.role(2, sub), Some(Role::Owner), "who creates a topic owns it");
    assert_eq!(world.role(2, root), Some(Role::Admin));
    let (resource, expires_at) = (Resource::Topic(sub), Some(Timestamp(500)));
    world.act(2, sub, Body::Grant { resource, user: user(3), role: Role::Contributor, expires_at });
    let role = |time| world.log.role_now(&user(3), Subject::Topic(sub), Timestamp(time));
    assert_eq!((role(499), role(500)), (Some(Role::Contributor), None));
    assert_eq!(world.role(3, root), None);
}

#[test]
fn branches_that_are_merged_again_and_again_end_at_the_bound_of_a_node() {
    let (mut world, root) = root();
    let start = world.log.heads_for(&root);
    let give = |n: i64| Body::Grant {
        resource: Resource::Topic(root),
        user: user(2),
        role: Role::Reader,
        expires_at: Some(Timestamp(1_000_000 + n)),
    };
    let mut trunk = start[0];
    let refused = (0..5_000).find_map(|n| {
        let branch = world.make(1, Some(root), Some(start.clone()), give(2 * n));
        if let Err(error) = world.add(&branch) {
            return Some((n, error));
        }
        let mut parents = vec![trunk, branch.id()];
        parents.sort_unstable();
        let merge = world.make(1, Some(root), Some(parents), give(2 * n + 1));
        trunk = merge.id();
        world.add(&merge).err().map(|error| (n, error))
    });
    let (n, error) = refused.unwrap();
    assert_eq!(error, AccessError::TooLarge);
    assert!(n > 500, "an honest topic has room: {n}");
    assert!(world.log.bytes() <= MAX_ACCESS_LOG_BYTES, "{}", world.log.bytes());
    assert_eq!(world.role(1, root), Some(Role::Owner), "what was taken before stays");
}

#[test]
fn what_a_log_costs_is_the_same_in_every_order_and_what_was_taken_is_loaded_again() {
    // From each of a line of operations a branch leads off. Whether line or branch comes first makes no difference.
    let (mut world, root) = root();
    let give = |n: i64| Body::Grant {
        resource: Resource::Topic(root),
        user: user(2),
        role: Role::Reader,
        expires_at: Some(Timestamp(1_000_000 + n)),
    };
    let (mut line, mut branches) = (Vec::new(), Vec::new());
    let mut last: OpId = root.into();
    for n in 0..200 {
        let branch = world.make(1, Some(root), Some(vec![last]), give(2 * n));
        let next = world.make(1, Some(root), Some(vec![last]), give(2 * n + 1));
        last = next.id();
        world.add(&next).unwrap();
        line.push(next);
        branches.push(branch);
    }
    let branches_last = branches.iter().fold(world.clone(), |mut world, branch| {
        world.add(branch).unwrap();
        world
    });
    let mut branches_first = self::root().0;
    for (branch, next) in branches.iter().zip(&line) {
        branches_first.add(branch).unwrap();
        branches_first.add(next).unwrap();
    }
    assert_eq!(branches_first.log.bytes(), branches_last.log.bytes());
    let mut ordered: Vec<Operation> = branches_first.ops.values().cloned().collect();
    ordered.sort_by_key(Operation::position);
    assert_eq!(AccessLog::restore(ordered).unwrap().bytes(), branches_last.log.bytes());
}

#[test]
fn whoever_fills_a_log_can_still_be_removed() {
    let (mut world, root) = root();
    world.act(1, root, grant(root, 2, Role::Admin));
    world.act(1, root, grant(root, 3, Role::Admin));
    let known = vec![world.log.heads_for(&root)[0]];
    // From here on user 2 fills it with what they may do, and then with removals of nobody.
    let resource = Resource::Topic(root);
    let nobody = |n: usize| UserId::from_bytes(hash(&n.to_be_bytes()));
    let fill = |world: &mut Replica, body: &dyn Fn(usize) -> Body| {
        let refused = (0..10_000).find_map(|n| {
            let op = world.make(2, Some(root), None, body(n));
            world.add(&op).err()
        });
        assert_eq!(refused, Some(AccessError::TooLarge));
    };
    fill(&mut world, &|n| Body::Grant { resource, user: nobody(n), role: Role::Reader, expires_at: None });
    assert!(world.log.bytes() <= MAX_ACCESS_LOG_BYTES - ACCESS_LOG_RESERVE);
    let blocked = world.make(3, Some(root), Some(known.clone()), grant(root, 4, Role::Reader));
    assert_eq!(world.add(&blocked), Err(AccessError::TooLarge));
    let removal = world.make(1, Some(root), Some(known.clone()), revoke(root, 2));
    world.add(&removal).unwrap();
    assert_eq!(world.role(2, root), None);
    let spam = world.make(2, Some(root), Some(known.clone()), revoke(root, 5));
    assert_eq!(world.add(&spam), Err(AccessError::TooLarge), "who was removed has no part in the reserve");
    world.act(1, root, grant(root, 4, Role::Reader));
    assert_eq!(world.role(4, root), Some(Role::Reader));
    let mut ordered: Vec<Operation> = world.ops.values().cloned().collect();
    ordered.sort_by_key(Operation::position);
    assert_eq!(AccessLog::restore(ordered).unwrap().bytes(), world.log.bytes());
}

#[test]
fn what_nobody_had_the_right_to_is_in_no_log() {
    let (mut world, root) = root();
    world.act(1, root, grant(root, 2, Role::Contributor));
    for (by, body) in [
        (2, grant(root, 3, Role::Reader)),
        (2, Body::ArchiveTopic),
        (3, revoke(root, 1)),
        (2, revoke(root, 1)),
        (3, Body::ReplaceKey { new: user(4) }),
    ] {
        let op = world.make(by, Some(root), None, body);
        assert!(matches!(world.add(&op), Err(AccessError::Denied(Denial::RoleNeeded { .. }))), "{:?}", op.body);
    }
    let op = world.make(1, Some(root), None, revoke(root, 1));
    assert_eq!(world.add(&op), Err(AccessError::Denied(Denial::LastOwner(root))));
}

#[test]
fn concurrent_and_backdated_operations_of_a_removed_user_are_void() {
    let (mut world, root) = root();
    world.act(1, root, grant(root, 2, Role::Admin));
    let old_heads = world.log.heads_for(&root);
    let mut other = world.clone();
    let seen = world.act(2, root, grant(root, 3, Role::Contributor));
    world.act(1, root, revoke(root, 2));
    // Elsewhere, and later but dated back.
    let unseen = other.act(2, root, grant(root, 4, Role::Contributor));
    let backdated = world.make(2, Some(root), Some(old_heads), grant(root, 5, Role::Contributor));
    world.learn(&other);
    world.add(&backdated).unwrap();
    assert_eq!(world.log.verdict(&seen.id()), Some(Verdict::Valid));
    assert!(matches!(world.log.verdict(&unseen.id()), Some(Verdict::Void { .. })));
    assert!(matches!(world.log.verdict(&backdated.id()), Some(Verdict::Void { .. })));
    let roles = [3, 4, 5].map(|n| world.role(n, root));
    assert_eq!(roles, [Some(Role::Contributor), None, None]);
}

#[test]
fn what_rests_on_a_void_operation_is_void_too() {
    let (mut world, root) = root();
    world.act(1, root, grant(root, 2, Role::Owner));
    let mut other = world.clone();
    world.act(1, root, revoke(root, 2));
    other.act(2, root, grant(root, 3, Role::Admin));
    let fruit = other.act(3, root, grant(root, 4, Role::Reader));
    world.learn(&other);
    assert!(!world.log.verdict(&fruit.id()).unwrap().is_valid());
    assert_eq!((world.role(3, root), world.role(4, root)), (None, None));
}

#[test]
fn what_a_removal_had_seen_below_is_kept() {
    let (mut world, root) = root();
    world.act(1, root, grant(root, 2, Role::Admin));
    let sub = world.sub_topic(2, root);
    world.act(2, sub, grant(sub, 3, Role::Reader));
    let mut other = world.clone();
    world.act(1, root, revoke(root, 2));
    other.act(2, sub, grant(sub, 4, Role::Reader));
    world.learn(&other);
    assert_eq!([2, 3, 4].map(|n| world.role(n, sub)), [None, Some(Role::Reader), None]);
}

#[test]
fn of_owners_who_revoke_each_other_the_older_stands_in_every_order() {
    let (mut world, root) = root();
    world.act(1, root, grant(root, 2, Role::Owner));
    world.act(1, root, grant(root, 3, Role::Owner));
    let (mut a, mut b) = (world.clone(), world.clone());
    a.act(3, root, revoke(root, 2));
    b.act(2, root, revoke(root, 3));
    let (before_a, before_b) = (a.clone(), b.clone());
    a.learn(&before_b);
    b.learn(&before_a);
    for replica in [&a, &b] {
        assert_eq!((replica.role(2, root), replica.role(3, root)), (Some(Role::Owner), None));
    }
}

#[test]
fn a_removed_owner_gains_nothing_by_a_helper_of_their_own_making() {
    let (mut world, root) = root();
    world.act(1, root, grant(root, 2, Role::Owner));
    let mut other = world.clone();
    world.act(1, root, revoke(root, 2));
    other.act(2, root, grant(root, 3, Role::Owner));
    other.act(3, root, revoke(root, 1));
    world.learn(&other);
    assert_eq!([1, 2, 3].map(|n| world.role(n, root)), [Some(Role::Owner), None, None]);
}

#[test]
fn a_topic_never_loses_its_last_owner() {
    let (mut world, root) = root();
    world.act(1, root, grant(root, 2, Role::Owner));
    let (mut a, mut b) = (world.clone(), world.clone());
    let first = a.act(1, root, revoke(root, 1));
    let second = b.act(2, root, revoke(root, 2));
    let (before_a, before_b) = (a.clone(), b.clone());
    a.learn(&before_b);
    b.learn(&before_a);
    let last = if first.position() > second.position() { 1 } else { 2 };
    for replica in [&a, &b] {
        assert_eq!(replica.role(last, root), Some(Role::Owner));
        assert_eq!(replica.role(3 - last, root), None);
    }
}

#[test]
fn a_replaced_key_passes_everything_on_and_is_removed() {
    let (mut world, root) = root();
    world.act(1, root, grant(root, 2, Role::Admin));
    let mut other = world.clone();
    world.act(2, root, Body::ReplaceKey { new: user(6) });
    assert_eq!((world.role(2, root), world.role(6, root)), (None, Some(Role::Admin)));
    let unseen = other.act(2, root, grant(root, 4, Role::Reader));
    world.learn(&other);
    assert!(matches!(world.log.verdict(&unseen.id()), Some(Verdict::Void { .. })), "the old key may be stolen");
    world.act(1, root, revoke(root, 6));
    assert_eq!((world.role(2, root), world.role(6, root)), (None, None));
    world.act(1, root, grant(root, 2, Role::Reader));
    assert_eq!(world.role(2, root), Some(Role::Reader), "a grant that knew of it is a new one");
}

/// The removal keeps, by an operation further below alone, what it did not know itself.
#[test]
fn what_is_admitted_does_not_depend_on_what_lies_outside_of_its_past() {
    let (mut world, root) = root();
    world.act(1, root, grant(root, 2, Role::Admin));
    let sub = world.sub_topic(1, root);
    let mut other = world.clone();
    let unseen = other.act(2, sub, grant(sub, 3, Role::Contributor));
    let further = other.make(1, None, None, create("further", Some(sub)));
    let parents = world.log.heads_for(&root);
    let (lamport, time) = world.log.after(&parents).unwrap();
    let keeps = vec![further.id()];
    let unsigned =
        Unsigned { topic: Some(root), author: user(1), lamport, time, parents, keeps, body: revoke(root, 2) };
    let removal = unsigned.sign(&key(1)).unwrap();
    world.learn(&other);
    world.add(&removal).unwrap();
    let mut heads = vec![unseen.id(), removal.id()];
    heads.sort_unstable();
    let deed = Deed {
        author: user(3),
        verb: Verb::CreateDataset,
        subject: Subject::Topic(sub),
        heads: &heads,
        time: Timestamp(1_000),
    };
    let before = world.log.admits_content(&deed);
    assert!(matches!(before, Err(AccessError::Denied(_))));
    world.add(&further).unwrap();
    assert_eq!(world.log.verdict(&unseen.id()), Some(Verdict::Valid));
    assert_eq!(world.log.admits_content(&deed), before);
    assert_eq!(world.log.clone().admits_content(&deed), before);
}

#[test]
fn ownership_is_handed_over() {
    let (mut world, root) = root();
    let transfer = |to, leave| Body::TransferOwnership { resource: Resource::Topic(root), to: user(to), leave };
    world.act(1, root, transfer(2, false));
    assert_eq!((world.role(1, root), world.role(2, root)), (Some(Role::Admin), Some(Role::Owner)));
    world.act(2, root, transfer(3, true));
    assert_eq!((world.role(2, root), world.role(3, root)), (None, Some(Role::Owner)));
}

#[test]
fn archived_topics_are_read_only_below_as_well() {
    let (mut world, root) = root();
    let sub = world.sub_topic(1, root);
    world.act(1, root, Body::ArchiveTopic);
    let op = world.make(1, Some(sub), None, grant(sub, 2, Role::Reader));
    assert_eq!(world.add(&op), Err(AccessError::Denied(Denial::Archived(root))));
    let may = |world: &Replica| world.log.may_now(&user(1), Verb::CreateDataset, Subject::Topic(sub), Timestamp(9));
    assert_eq!(may(&world), Err(Denial::Archived(root)));
    world.act(1, root, Body::RestoreTopic);
    assert_eq!(may(&world), Ok(()));
    world.act(1, root, Body::DeleteTopic { force: true });
    assert_eq!(may(&world), Err(Denial::Deleted(root)));
}

#[test]
fn rights_on_a_dataset_are_its_creators_and_whom_they_let_in() {
    let (mut world, root) = root();
    world.act(1, root, grant(root, 2, Role::Contributor));
    let created_after = world.log.heads_for(&root);
    let dataset = OpId::from_bytes([7; 32]).into();
    let subject = Subject::Dataset { id: dataset, topic: root, creator: user(2), created_after: &created_after };
    let resource = Resource::Dataset(dataset);
    let grant_on = |to, role| Body::Grant { resource, user: user(to), role, expires_at: None };
    world.act(2, root, grant_on(3, Role::Admin));
    world.act(1, root, grant(root, 4, Role::Contributor));
    // Admitted, but without effect: user 4 has no right to give there.
    world.act(4, root, grant_on(5, Role::Owner));
    let role = |world: &Replica, n| world.log.role_now(&user(n), subject, Timestamp(1_000));
    assert_eq!(
        [1, 2, 3, 4, 5].map(|n| role(&world, n)),
        [Some(Role::Owner), Some(Role::Owner), Some(Role::Admin), Some(Role::Contributor), None]
    );
    assert_eq!(world.role(3, root), None);
    world.act(1, root, revoke(root, 2));
    assert_eq!(role(&world, 2), None, "a revocation on the topic ends what is below");
    world.act(1, root, grant(root, 2, Role::Reader));
    assert_eq!(role(&world, 2), Some(Role::Reader));
}

/// Makes a random history on several replicas that hear of each other now and then. Returns all operations that some
/// replica took.
fn story(seed: u64, n_steps: usize) -> BTreeMap<OpId, Operation> {
    let mut rng = Rng::new(seed);
    let (mut first, root) = root();
    for (to, role) in [(2, Role::Owner), (3, Role::Owner), (4, Role::Admin)] {
        first.act(1, root, grant(root, to, role));
    }
    let mut replicas = vec![first; 3];
    let mut topics = vec![root];
    let mut history = History::default();
    let mut all: BTreeMap<OpId, Operation> = replicas[0].ops.clone();
    for op in all.values() {
        history.insert(op.clone());
    }
    for _ in 0..n_steps {
        let at = rng.below(3) as usize;
        if rng.chance(1, 5) {
            let other = replicas[rng.below(3) as usize].clone();
            replicas[at].learn(&other);
            continue;
        }
        let by = 1 + rng.below(5) as u8;
        let other = 1 + rng.below(6) as u8;
        let topic = topics[rng.below(topics.len() as u64) as usize];
        let replica = &mut replicas[at];
        if replica.log.chain(&topic).is_empty() {
            continue;
        }
        let resource = Resource::Topic(topic);
        let role = [Role::Owner, Role::Owner, Role::Admin, Role::Contributor, Role::Reader][rng.below(5) as usize];
        let body = match rng.below(13) {
            0..=4 => grant(topic, other, role),
            5..=7 => Body::Revoke { resource, user: user(other), keep_below: rng.chance(1, 3) },
            8 if by != other => Body::TransferOwnership { resource, to: user(other), leave: rng.chance(1, 2) },
            9 if by != other => Body::ReplaceKey { new: user(other) },
            10 if topics.len() < 4 => create("sub", Some(topic)),
            11 => Body::ArchiveTopic,
            12 => Body::RestoreTopic,
            _ => Body::SetVisibility { visibility: Visibility::Public },
        };
        // Sometimes dated back: on a part of what is known.
        let parents = rng.chance(1, 4).then(|| {
            let chain = replica.log.chain(&topic);
            let known: Vec<&Operation> = replica.ops.values().filter(|op| chain.contains(&op.topic())).collect();
            let one = known[rng.below(known.len() as u64) as usize].id();
            BTreeSet::from([one, topic.into()]).into_iter().collect()
        });
        let in_topic = (!matches!(body, Body::CreateTopic { .. })).then_some(topic);
        let op = replica.make(by, in_topic, parents, body);
        let expected = history.admits(&op);
        let before = seed.is_multiple_of(16).then(|| format!("{:?}", replica.log));
        match replica.add(&op) {
            Ok(_) => assert!(expected, "seed {seed}: taken, and should not be: {:?}", op.body),
            Err(AccessError::Denied(denial)) => {
                assert!(!expected, "seed {seed}: denied, and should not be: {denial} {:?}", op.body);
                assert!(before.is_none_or(|before| before == format!("{:?}", replica.log)), "seed {seed}: no trace");
                continue;
            }
            Err(AccessError::Malformed(_)) => continue,
            Err(other) => panic!("seed {seed}: {other}"),
        }
        if matches!(op.body, Body::CreateTopic { .. }) {
            topics.push(op.topic());
        }
        history.insert(op.clone());
        all.insert(op.id(), op);
    }
    all
}

/// Delivers in a random order, duplicates some, and keeps what comes too early.
fn deliver(all: &BTreeMap<OpId, Operation>, rng: &mut Rng) -> AccessLog {
    let mut queue: Vec<&Operation> = all.values().chain(all.values().take(3)).collect();
    rng.shuffle(&mut queue);
    let mut log = AccessLog::new();
    while !queue.is_empty() {
        let n = queue.len();
        queue.retain(|op| match log.insert((*op).clone()) {
            Ok(_) => false,
            Err(AccessError::UnknownParents(_)) => true,
            Err(other) => panic!("{other}: {:?}", op.body),
        });
        assert!(queue.len() < n, "nothing fits any more");
    }
    log
}

fn check(seed: u64, n_steps: usize) -> usize {
    let all = story(seed, n_steps);
    let mut history = History::default();
    all.values().for_each(|op| history.insert(op.clone()));
    let expected = history.judge();
    let mut rng = Rng::new(!seed);
    let mut ordered: Vec<Operation> = all.values().cloned().collect();
    ordered.sort_by_key(Operation::position);
    let logs = [deliver(&all, &mut rng), deliver(&all, &mut rng), AccessLog::restore(ordered).unwrap()];
    for (i, log) in logs.iter().enumerate() {
        assert_eq!(log.bytes(), logs[0].bytes(), "seed {seed}, order {i}");
        for (id, op) in &all {
            let found = match log.verdict(id).unwrap() {
                Verdict::Valid => reference::Verdict::Valid,
                Verdict::Denied(_) => reference::Verdict::Denied,
                Verdict::Void { .. } => reference::Verdict::Void,
            };
            let expected = expected.verdict(id).unwrap();
            assert_eq!(found, expected, "seed {seed}, order {i}, {} {:?}", op.position().0, op.body);
        }
        assert_eq!(log.grants_in_force(), logs[0].grants_in_force(), "seed {seed}");
    }
    all.len()
}

#[test]
fn random_histories_agree_with_the_model_in_every_order() {
    let n_seeds = std::env::var("BIB_SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2_000);
    // Side by side: it is by far the longest test here.
    let n_ops: usize = std::thread::scope(|scope| {
        let part = |first| move || (first..n_seeds).step_by(4).map(|seed| check(seed, 6 + (seed as usize % 18))).sum();
        let parts: Vec<_> = (0..4).map(|first| scope.spawn::<_, usize>(part(first))).collect();
        parts.into_iter().map(|part| part.join().unwrap()).sum()
    });
    assert!(n_ops as u64 > n_seeds, "the histories hold {n_ops} operations only");
}
