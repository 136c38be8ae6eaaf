//! Who may do what: roles, inheritance, expiry and strong remove, as a function of a set of operations.
//!
//! An [`AccessLog`] holds the access operations of one topic tree: a root topic and all topics below it. The verdict
//! on each of them, and every role, depends on the set alone, never on the order of arrival.
//!
//! # The rules
//! 1. **Past.** The past of an operation is what its parents lead to. A removal has also *seen* the access operations
//!    that its `keeps` lead to: an operation in a topic cannot have one of a topic below as parent, so this is how a
//!    removal says what it knew of the topics below.
//! 2. **Rights.** `CreateTopic`, `Grant` and `TransferOwnership` (for `to`, and admin for its author unless they
//!    leave) give a right; so does creating a dataset. The highest unexpired one on a resource or above it counts.
//! 3. **Removals** are `Revoke`, `TransferOwnership` (of its author) and `ReplaceKey` (of its author). A removal ends
//!    every right of the user on its resource, and below unless `keep_below`, that was not given in knowledge of it. A
//!    revocation ends no more than its author could take: an admin ends contributors and readers. Rights on datasets
//!    below a topic count as a contributor's then. `ReplaceKey` passes the rights on its topic and below to the new
//!    key instead; of several concurrent ones the lowest (lamport, id) does.
//! 4. **Validity.** An operation is admitted when its author had the right by the valid operations of its past alone,
//!    at the operation's time; what is not admitted is in no log. It counts when the author has the right by those of
//!    its past that count, and has it still when every confirmed removal of the author (or of a key that theirs
//!    replaces) is added that it did not know and that had not seen it. So a removed user's concurrent and backdated operations are void exactly where the removal took
//!    the right, and who was authorised by them loses that authority.
//! 5. **Removals against each other.** A removal threatens another when confirming it would make the other not count.
//!    Removals are confirmed one by one, each after those in its past and those that threaten it. Where that is a
//!    ring, the one whose author's right is the oldest comes first, ties by (lamport, id), and what threatens it is
//!    void by it.
//! 6. **Last owner.** When no permanent owner of the root topic is left, the highest (lamport, id) of the removals that
//!    ended one is denied, and everything is judged anew. Every topic inherits the owners of the root, so that no
//!    topic can lose its last one otherwise.
//! 7. **Status.** After an archive (own or of a topic above) only looking, restoring, deleting and removals are
//!    allowed; of concurrent archives and restores the highest (lamport, id) counts. Nothing is allowed after a delete.
//!
//! An operation on the rights of a dataset is admitted from anyone who may create datasets there or holds a right on
//! it; whether it has an effect is judged with the dataset's creator at hand, see [`Subject::Dataset`]. So rights on
//! topics never depend on content.
//!
//! Deliberately absent: content operations (see [`AccessLog::judge_content`] for their verdicts), parking, signatures
//! (an [`Operation`] has been checked), the question whether a deleted topic still has active topics below (an
//! operation cannot know of them; whoever submits it asks [`AccessLog::children`]), and the clock.
//!
//! A node takes no more into a log than [`limits::MAX_ACCESS_LOG_BYTES`]. That is a bound of the node and no rule: at the
//! bound two nodes may hold different sets, and what is said above holds for each set. What a log costs follows from
//! its set alone ([`AccessLog::bytes`]), so that what was taken fits whenever it is loaded again. The last part,
//! [`limits::ACCESS_LOG_RESERVE`], is for those who set things right in a log that somebody filled: half of it for
//! removals by whoever is admin or owner there now and for owners of the root, the rest for these owners alone.

mod causal;
mod judge;
mod resolve;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use causal::{Idx, OpSet};
use judge::View;

use super::operation::{Body, Class, Operation, Resource, Role};
use super::rules::Verb;
use crate::id::{DatasetId, OpId, TopicId, UserId};
use crate::limits;
use crate::model::{Name, TopicStatus, Visibility};
use crate::time::Timestamp;

/// What the rules say of an operation in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It counts.
    Valid,
    /// Its author did not have the right, by the operations that count.
    Denied(Denial),
    /// A removal that its author did not know took the right.
    Void {
        /// The removal.
        by: OpId,
    },
}

impl Verdict {
    /// Whether the operation counts.
    pub const fn is_valid(&self) -> bool {
        matches!(self, Self::Valid)
    }
}

/// Why somebody may not do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Denial {
    /// The role is missing or too low.
    #[error("{user} may not {verb}: {}", Roles { needed: *needed, has: *has })]
    RoleNeeded {
        /// Who.
        user: UserId,
        /// What they wanted.
        verb: Verb,
        /// The lowest role that may.
        needed: Role,
        /// The role they have there.
        has: Option<Role>,
    },
    /// The topic, or one above it, is archived.
    #[error("topic {0} is archived: restore it first")]
    Archived(TopicId),
    /// The topic, or one above it, is deleted.
    #[error("topic {0} is deleted")]
    Deleted(TopicId),
    /// The root topic would be left without an owner.
    #[error("it would leave topic {0} without an owner: make somebody else owner first")]
    LastOwner(TopicId),
    /// The topic does not count: the operation that created it does not.
    #[error("topic {0} is not known")]
    UnknownTopic(TopicId),
}

struct Roles {
    needed: Role,
    has: Option<Role>,
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "that needs the role {}, and they have ", self.needed)?;
        match self.has {
            Some(role) => write!(f, "{role}"),
            None => f.write_str("none"),
        }
    }
}

/// Why an operation is not in a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// These operations have to come first.
    #[error("{} operations that it builds on are not known", .0.len())]
    UnknownParents(Vec<OpId>),
    /// It is a content operation.
    #[error("a content operation is not part of the access log")]
    NotAccess,
    /// It belongs to another tree of topics.
    #[error("it belongs to another tree of topics")]
    OtherTree,
    /// It breaks a rule of form that takes its parents to check.
    #[error("the operation is invalid: {0}")]
    Malformed(&'static str),
    /// The log has no room for it on this node.
    #[error("the topic and those around it have more changes of rights than this node holds")]
    TooLarge,
    /// Its author did not have the right by its own past.
    #[error(transparent)]
    Denied(#[from] Denial),
}

/// What an insertion did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inserted {
    /// The verdict on the operation.
    pub verdict: Verdict,
    /// Other operations whose verdict is another now, in order of position.
    pub changed: Vec<OpId>,
    /// Whether the set of removals that count, or what they had seen, changed: content has to be judged anew.
    pub removals_changed: bool,
}

/// A right in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GrantInForce {
    /// On what.
    pub resource: Resource,
    /// Whose.
    pub user: UserId,
    /// Which.
    pub role: Role,
    /// Until when, by the time of the operations it allows.
    pub expires_at: Option<Timestamp>,
}

/// A topic as the access operations leave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicState {
    /// Its id.
    pub id: TopicId,
    /// The topic above.
    pub parent: Option<TopicId>,
    /// Its name.
    pub name: Name,
    /// Who may see it.
    pub visibility: Visibility,
    /// Its own status; that of the topics above also counts for what is allowed.
    pub status: TopicStatus,
    /// Whether the operation that created it counts.
    pub is_valid: bool,
    /// Time of the last valid access operation on its own fields.
    pub updated_at: Timestamp,
}

/// What a right is asked for.
#[derive(Debug, Clone, Copy)]
pub enum Subject<'a> {
    /// A topic.
    Topic(TopicId),
    /// A dataset. Whoever asks knows of its creation.
    Dataset {
        /// Its id.
        id: DatasetId,
        /// The topic it is in.
        topic: TopicId,
        /// Who created it.
        creator: UserId,
        /// The access operations that its creation names as parents.
        created_after: &'a [OpId],
    },
}

impl Subject<'_> {
    /// The topic, or the one that the dataset is in.
    pub const fn topic(&self) -> TopicId {
        match self {
            Self::Topic(topic) | Self::Dataset { topic, .. } => *topic,
        }
    }
}

/// What a content operation does, as far as rights are concerned.
#[derive(Debug, Clone, Copy)]
pub struct Deed<'a> {
    /// Who does it.
    pub author: UserId,
    /// What.
    pub verb: Verb,
    /// To what.
    pub subject: Subject<'a>,
    /// The access operations that the operation knows of, directly or through others.
    pub heads: &'a [OpId],
    /// When.
    pub time: Timestamp,
}

/// A right as an operation gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Given {
    /// The operation.
    op: Idx,
    user: UserId,
    resource: Resource,
    role: Role,
    expires_at: Option<Timestamp>,
}

/// A removal.
#[derive(Debug, Clone, Copy)]
struct Taking {
    user: UserId,
    resource: Resource,
    below: bool,
    /// The key that the rights pass to.
    moves_to: Option<UserId>,
}

impl Taking {
    fn of(op: &Operation) -> Option<Self> {
        Some(match &op.body {
            Body::Revoke { resource, user, keep_below } => {
                Self { user: *user, resource: *resource, below: !keep_below, moves_to: None }
            }
            Body::TransferOwnership { resource, .. } => {
                Self { user: op.author, resource: *resource, below: true, moves_to: None }
            }
            Body::ReplaceKey { new } => {
                Self { user: op.author, resource: Resource::Topic(op.topic()), below: true, moves_to: Some(*new) }
            }
            _ => return None,
        })
    }
}

#[derive(Debug, Clone)]
struct Node {
    op: Operation,
    past: OpSet,
    taking: Option<Taking>,
}

#[derive(Debug, Clone)]
struct TopicNode {
    create: Idx,
    /// Itself, the topic above it, ... the root.
    chain: Vec<TopicId>,
    children: Vec<TopicId>,
    /// Its access operations without one of the same topic after them.
    heads: Vec<Idx>,
    /// Archives, restores and deletes, by position.
    status_ops: Vec<Idx>,
    /// Those, and changes of visibility, by position.
    field_ops: Vec<Idx>,
}

/// The access operations of one tree of topics, and what follows from them.
#[derive(Debug, Clone, Default)]
pub struct AccessLog {
    nodes: Vec<Node>,
    by_id: BTreeMap<OpId, Idx>,
    /// By position.
    order: BTreeMap<(u64, OpId), Idx>,
    root: Option<TopicId>,
    topics: BTreeMap<TopicId, TopicNode>,
    /// Rights by the user they were given to, by position.
    given_to: BTreeMap<UserId, Vec<Given>>,
    /// Whom the root was ever given to.
    owners: BTreeSet<UserId>,
    /// Removals, and those of each user, by position.
    takings: Vec<Idx>,
    takings_of: BTreeMap<UserId, Vec<Idx>>,
    /// Key replacements by the new key, by position.
    moves_to: BTreeMap<UserId, Vec<Idx>>,
    /// Operations that a removal names in `keeps` and that are not in the log: content, or not yet here.
    awaited: BTreeSet<OpId>,
    /// [`AccessLog::weight`] of all.
    weight: usize,
    state: resolve::State,
    /// Whether these pasts are settled, and what counts by those alone that are not; the one asked for last is last.
    asked: Vec<(OpSet, Option<resolve::State>)>,
}

/// Pasts that are remembered: content operations of one time mostly know the same. Bytes of each are a sixteenth of
/// what [`AccessLog::weight`] counts for an operation or less.
const MAX_ASKED: usize = 4;
/// Bytes of an operation in the indexes of a log, and in what is decided and remembered of it.
const INDEXED: usize = 512;

/// What [`AccessLog::place`] did and cannot be told from the operation.
struct Placed {
    i: Idx,
    /// Operations of its topic that were the last ones before.
    heads: Vec<Idx>,
    was_awaited: bool,
    awaits: Vec<OpId>,
    owners: Vec<UserId>,
}

/// Memory of `n` operations of a weight and their pasts.
const fn cost(weight: usize, n: usize) -> usize {
    weight + causal::most_bytes(n)
}

/// Takes entries off a list of a map, and the list when nothing is left.
fn remove_from<K: Ord, V>(lists: &mut BTreeMap<K, Vec<V>>, key: &K, is_gone: impl Fn(&V) -> bool) {
    if let Some(list) = lists.get_mut(key) {
        list.retain(|entry| !is_gone(entry));
        if list.is_empty() {
            lists.remove(key);
        }
    }
}

impl AccessLog {
    /// An empty log; the first operation to insert is the root's `CreateTopic`.
    pub fn new() -> Self {
        Self::default()
    }

    /// A log of operations that were in one before, in any order in which parents come first, such as by position. It
    /// asks for no room: what was in a log fits.
    ///
    /// # Errors
    /// [`AccessError`] of the first operation whose form does not fit.
    pub fn restore(ops: impl IntoIterator<Item = Operation>) -> Result<Self, AccessError> {
        let mut log = Self::new();
        for op in ops {
            if !log.contains(&op.id()) {
                log.place(op)?;
            }
        }
        log.state = log.resolve();
        Ok(log)
    }

    /// Adds an operation and judges it. One that is there already changes nothing.
    ///
    /// # Errors
    /// [`AccessError`] when it is not for this log; [`AccessError::UnknownParents`] when it has to wait for others.
    pub fn insert(&mut self, op: Operation) -> Result<Inserted, AccessError> {
        if let Some(i) = self.by_id.get(&op.id()) {
            let verdict = self.state.verdicts[*i];
            return Ok(Inserted { verdict, changed: Vec::new(), removals_changed: false });
        }
        self.check_form(&op)?;
        self.check_room(&op)?;
        let past = self.closure(&op.parents)?;
        let knows_all = past.len() == self.nodes.len();
        let is_removal = op.body.is_removal();
        // Then what counts by its past is what counts by everything.
        let is_settled = knows_all || (!is_removal && self.is_settled(&past));
        if is_settled {
            self.authorise(&self.state, &View::of(&past), &op)?;
        }
        let placed = self.place(op)?;
        let (i, was_awaited) = (placed.i, placed.was_awaited);
        if is_removal && knows_all {
            // It changes the verdict on nothing, unless it leaves the root without an owner.
            let strength = self.strength(&self.state, i);
            self.state.confirmed.insert(i, strength);
            if self.has_owner(&self.state) {
                let verdict = Verdict::Valid;
                return Ok(Inserted { verdict, changed: Vec::new(), removals_changed: true });
            }
            self.state.confirmed.remove(&i);
        }
        if is_removal || !is_settled {
            let mut with_it = past;
            with_it.set(i, true);
            if let Verdict::Denied(denial) = self.resolve_in(Some(with_it)).verdicts[i] {
                self.unplace(placed);
                return Err(denial.into());
            }
        }
        // Nothing has the new operation in its past; so only a removal, or the completion of what one had seen, can
        // change the verdict on another.
        if !was_awaited && !is_removal {
            let verdict = self.judge(&self.state, i);
            self.state.set(i, verdict);
            return Ok(Inserted { verdict, changed: Vec::new(), removals_changed: false });
        }
        let before = std::mem::take(&mut self.state);
        self.state = self.resolve();
        let is_changed = |other: &Idx| *other != i && before.verdicts[*other] != self.state.verdicts[*other];
        let changed = self.order.values().filter(|other| is_changed(other)).map(|other| self.nodes[*other].op.id());
        Ok(Inserted { verdict: self.state.verdicts[i], changed: changed.collect(), removals_changed: true })
    }

    /// Whether there is room for an operation.
    fn check_room(&self, op: &Operation) -> Result<(), AccessError> {
        let bytes = cost(self.weight + Self::weight(op), self.nodes.len() + 1);
        let free = limits::MAX_ACCESS_LOG_BYTES.saturating_sub(bytes);
        if free >= limits::ACCESS_LOG_RESERVE {
            return Ok(());
        }
        let is_now =
            |role: Role, topic: TopicId| self.role_now(&op.author, Subject::Topic(topic), op.time) >= Some(role);
        let may_use = match &op.body {
            _ if bytes > limits::MAX_ACCESS_LOG_BYTES => false,
            _ if self.root.is_some_and(|root| is_now(Role::Owner, root)) => true,
            // A key that replaces itself takes nothing away, and everybody has one.
            Body::Revoke { .. } | Body::TransferOwnership { .. } => {
                free >= limits::ACCESS_LOG_RESERVE / 2 && is_now(Role::Admin, op.topic())
            }
            _ => false,
        };
        if may_use { Ok(()) } else { Err(AccessError::TooLarge) }
    }

    /// Checks what can be checked of an operation when its parents are at hand.
    fn check_form(&self, op: &Operation) -> Result<(), AccessError> {
        let topic = op.topic();
        let require = |holds: bool, rule| if holds { Ok(()) } else { Err(AccessError::Malformed(rule)) };
        if op.class() != Class::Access {
            return Err(AccessError::NotAccess);
        }
        let above = match &op.body {
            Body::CreateTopic { parent, .. } => *parent,
            _ => Some(topic),
        };
        let unknown = op.parents.iter().copied().chain(above.map(OpId::from)).filter(|id| !self.contains(id));
        let unknown: BTreeSet<OpId> = unknown.collect();
        if !unknown.is_empty() {
            return Err(AccessError::UnknownParents(unknown.into_iter().collect()));
        }
        let Some(above) = above else {
            return if self.root.is_some() { Err(AccessError::OtherTree) } else { Ok(()) };
        };
        let node = self.topics.get(&above).ok_or(AccessError::Malformed("what it names as its topic is none"))?;
        let parents: Vec<&Node> = op.parents.iter().map(|id| &self.nodes[self.by_id[id]]).collect();
        let knows = parents.iter().any(|parent| parent.op.id() == above.into() || parent.past.has(node.create));
        require(knows, "its topic is not in its past")?;
        let inside = parents.iter().all(|parent| node.chain.contains(&parent.op.topic()));
        require(inside, "a parent is of another topic than its own and those above")?;
        let lamport = parents.iter().map(|parent| parent.op.lamport).max().unwrap_or(0);
        require(lamport.checked_add(1) == Some(op.lamport), "its lamport is not one more than its parents'")?;
        require(parents.iter().all(|parent| parent.op.time <= op.time), "its time is before its parents'")?;
        require(above == topic || node.chain.len() < limits::MAX_TOPIC_DEPTH, "it is more than 8 topics deep")?;
        let named = match &op.body {
            Body::Grant { resource, .. } | Body::Revoke { resource, .. } | Body::TransferOwnership { resource, .. } => {
                Some(*resource)
            }
            _ => None,
        };
        match named {
            Some(Resource::Topic(named)) => require(named == topic, "it names another topic than its own"),
            _ => Ok(()),
        }
    }

    /// Puts an operation into the indexes, without judging it.
    fn place(&mut self, op: Operation) -> Result<Placed, AccessError> {
        self.check_form(&op)?;
        let (taking, topic) = (Taking::of(&op), op.topic());
        let past = self.closure(&op.parents)?;
        self.weight += Self::weight(&op);
        let i = self.nodes.len();
        if let Body::CreateTopic { parent, .. } = &op.body {
            let mut chain = vec![topic];
            match parent {
                None => self.root = Some(topic),
                Some(parent) => {
                    let above = self.topics.get_mut(parent).expect("checked above");
                    above.children.push(topic);
                    chain.extend(&above.chain);
                }
            }
            let node = TopicNode {
                create: i,
                chain,
                children: Vec::new(),
                heads: Vec::new(),
                status_ops: Vec::new(),
                field_ops: Vec::new(),
            };
            self.topics.insert(topic, node);
        }
        self.by_id.insert(op.id(), i);
        self.order.insert(op.position(), i);
        let was_awaited = self.awaited.remove(&op.id());
        let is_new = |id: &&OpId| !self.by_id.contains_key(*id) && !self.awaited.contains(*id);
        let awaits: Vec<OpId> = op.keeps.iter().filter(is_new).copied().collect();
        self.awaited.extend(&awaits);
        let node = self.topics.get_mut(&topic).expect("checked above");
        let heads = node.heads.clone();
        node.heads.retain(|head| !past.has(*head));
        node.heads.push(i);
        self.nodes.push(Node { op, past, taking });
        let owners = self.index(i);
        self.state.verdicts.push(Verdict::Valid);
        self.state.valid.set(i, true);
        // What is settled may be so no longer; what counts by a past alone stays.
        self.asked.retain(|(_, state)| state.is_some());
        Ok(Placed { i, heads, was_awaited, awaits, owners })
    }

    /// Takes the last operation out again, which nothing knows.
    fn unplace(&mut self, placed: Placed) {
        let Placed { i, heads, was_awaited, awaits, owners } = placed;
        self.state.verdicts.pop();
        self.state.valid.set(i, false);
        for given in self.rights_by(i) {
            remove_from(&mut self.given_to, &given.user, |given| given.op == i);
        }
        let Node { op, taking, .. } = self.nodes.pop().expect("it was the last");
        if let Some(taking) = taking {
            self.takings.retain(|other| *other != i);
            remove_from(&mut self.takings_of, &taking.user, |other| *other == i);
            if let Some(new) = taking.moves_to {
                remove_from(&mut self.moves_to, &new, |other| *other == i);
            }
        }
        owners.iter().for_each(|owner| {
            self.owners.remove(owner);
        });
        awaits.iter().for_each(|id| {
            self.awaited.remove(id);
        });
        if was_awaited {
            self.awaited.insert(op.id());
        }
        self.by_id.remove(&op.id());
        self.order.remove(&op.position());
        self.weight -= Self::weight(&op);
        let topic = op.topic();
        match &op.body {
            Body::CreateTopic { parent, .. } => {
                self.topics.remove(&topic);
                match parent {
                    None => self.root = None,
                    Some(parent) => {
                        let above = self.topics.get_mut(parent).expect("it was there when this was placed");
                        above.children.retain(|child| *child != topic);
                    }
                }
            }
            _ => {
                let node = self.topics.get_mut(&topic).expect("it was there when this was placed");
                node.heads = heads;
                node.status_ops.retain(|other| *other != i);
                node.field_ops.retain(|other| *other != i);
            }
        }
    }

    /// The rights that an operation gives.
    fn rights_by(&self, i: Idx) -> Vec<Given> {
        let op = &self.nodes[i].op;
        let given = |user, resource, role, expires_at| Given { op: i, user, resource, role, expires_at };
        match &op.body {
            Body::CreateTopic { .. } => vec![given(op.author, Resource::Topic(op.topic()), Role::Owner, None)],
            Body::Grant { resource, user, role, expires_at } => vec![given(*user, *resource, *role, *expires_at)],
            Body::TransferOwnership { resource, to, leave } => {
                let mut rights = vec![given(*to, *resource, Role::Owner, None)];
                if !leave {
                    rights.push(given(op.author, *resource, Role::Admin, None));
                }
                rights
            }
            _ => Vec::new(),
        }
    }

    /// Returns who is an owner of the root for the first time.
    fn index(&mut self, i: Idx) -> Vec<UserId> {
        let Node { op, taking, .. } = &self.nodes[i];
        let (topic, taking) = (op.topic(), *taking);
        let rights = self.rights_by(i);
        let root = self.root.map(Resource::Topic);
        let nodes = &self.nodes;
        let position = |i: &Idx| nodes[*i].op.position();
        let sorted = |list: &mut Vec<Idx>| {
            let at = list.partition_point(|other| position(other) < position(&i));
            list.insert(at, i);
        };
        let is_status = matches!(nodes[i].op.body, Body::ArchiveTopic | Body::RestoreTopic | Body::DeleteTopic { .. });
        if is_status || matches!(nodes[i].op.body, Body::SetVisibility { .. }) {
            let node = self.topics.get_mut(&topic).expect("placed with its topic");
            sorted(&mut node.field_ops);
            if is_status {
                sorted(&mut node.status_ops);
            }
        }
        let is_ownership = |given: &Given| given.role == Role::Owner && Some(given.resource) == root;
        let owners: BTreeSet<UserId> =
            rights.iter().filter(|given| is_ownership(given)).map(|given| given.user).collect();
        let owners: Vec<UserId> = owners.difference(&self.owners).copied().collect();
        self.owners.extend(&owners);
        for given in rights {
            let list = self.given_to.entry(given.user).or_default();
            let at = list.partition_point(|other| position(&other.op) <= position(&i));
            list.insert(at, given);
        }
        if let Some(taking) = taking {
            sorted(&mut self.takings);
            sorted(self.takings_of.entry(taking.user).or_default());
            if let Some(new) = taking.moves_to {
                sorted(self.moves_to.entry(new).or_default());
            }
        }
        owners
    }

    fn closure(&self, heads: &[OpId]) -> Result<OpSet, AccessError> {
        let unknown: Vec<OpId> = heads.iter().filter(|id| !self.contains(id)).copied().collect();
        if !unknown.is_empty() {
            return Err(AccessError::UnknownParents(unknown));
        }
        let heads = heads.iter().map(|id| self.by_id[id]);
        Ok(OpSet::closure(heads.map(|i| (i, &self.nodes[i].past))))
    }

    /// Whether an operation is in the log.
    pub fn contains(&self, id: &OpId) -> bool {
        self.by_id.contains_key(id)
    }

    /// Memory of an operation without its past, roughly, in bytes: decoded, encoded, in the indexes and decided.
    fn weight(op: &Operation) -> usize {
        2 * op.bytes().len() + size_of::<Node>() + INDEXED
    }

    /// Memory that the operations take, roughly, in bytes. It follows from the set of them alone.
    pub const fn bytes(&self) -> usize {
        cost(self.weight, self.nodes.len())
    }

    fn all(&self) -> OpSet {
        OpSet::first(self.nodes.len())
    }

    /// Operations in the log.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The verdict on an operation; `None` when it is not in the log.
    pub fn verdict(&self, id: &OpId) -> Option<Verdict> {
        Some(self.state.verdicts[*self.by_id.get(id)?])
    }

    /// The operations and their verdicts, by position.
    pub fn ops(&self) -> impl Iterator<Item = (&Operation, Verdict)> {
        self.order.values().map(|i| (&self.nodes[*i].op, self.state.verdicts[*i]))
    }

    /// The topics, by id.
    pub fn topics(&self) -> impl Iterator<Item = TopicId> + '_ {
        self.topics.keys().copied()
    }

    /// The topics directly below one.
    pub fn children(&self, topic: &TopicId) -> &[TopicId] {
        self.topics.get(topic).map_or(&[], |node| &node.children)
    }

    /// The topic itself, the one above it, and so on to the root; empty when it is not known.
    pub fn chain(&self, topic: &TopicId) -> &[TopicId] {
        self.topics.get(topic).map_or(&[], |node| &node.chain)
    }

    /// Whether everything before `old` and they themselves are also before `new` or among them.
    ///
    /// # Errors
    /// [`AccessError::UnknownParents`].
    pub fn covers(&self, new: &[OpId], old: &[OpId]) -> Result<bool, AccessError> {
        let past = self.closure(new)?;
        self.closure(old)?;
        Ok(old.iter().all(|id| past.has(self.by_id[id])))
    }

    /// The access parents of a new operation in a topic, ascending: the operations that count, of the topic and those
    /// above, that no other such one knows. With more of them than an operation may have parents, the highest.
    pub fn heads_for(&self, topic: &TopicId) -> Vec<OpId> {
        let mut kept = self.valid_heads(topic);
        kept.truncate(limits::MAX_OP_PARENTS / 2);
        let mut ids: Vec<OpId> = kept.into_iter().map(|i| self.nodes[i].op.id()).collect();
        ids.sort_unstable();
        ids
    }

    /// By position, highest first.
    fn valid_heads(&self, topic: &TopicId) -> Vec<Idx> {
        let Some(node) = self.topics.get(topic) else { return Vec::new() };
        let of_chain = || node.chain.iter().flat_map(|topic| &self.topics[topic].heads).copied();
        // Usually every head counts; else what lies behind the ones that do not has to be looked at.
        let mut candidates: Vec<Idx> = if of_chain().all(|i| self.state.is_valid(i)) {
            of_chain().collect()
        } else {
            let inside = |i: &Idx| node.chain.contains(&self.nodes[*i].op.topic()) && self.state.is_valid(*i);
            self.order.values().copied().filter(inside).collect()
        };
        candidates.sort_unstable_by_key(|i| std::cmp::Reverse(self.nodes[*i].op.position()));
        let mut kept: Vec<Idx> = Vec::new();
        for i in candidates {
            if !kept.iter().any(|head| self.nodes[*head].past.has(i)) {
                kept.push(i);
            }
        }
        kept
    }

    /// The access operations of the topics below a topic that count and that no other such one of their topic knows,
    /// ascending: what a removal on the topic has to name in its `keeps`, besides content, so as not to undo what is
    /// there.
    pub fn heads_below(&self, topic: &TopicId) -> Vec<OpId> {
        let below = self.topics.iter().filter(|(id, node)| *id != topic && node.chain.contains(topic));
        let heads: BTreeSet<Idx> = below.flat_map(|(id, _)| self.valid_heads(id)).collect();
        let outside = |i: &Idx| self.topics[&self.nodes[*i].op.topic()].chain[1..].contains(topic);
        let mut ids: Vec<OpId> = heads.into_iter().filter(outside).map(|i| self.nodes[i].op.id()).collect();
        ids.sort_unstable();
        ids
    }

    /// The lamport number and the earliest time of a new operation with these access parents.
    ///
    /// # Errors
    /// [`AccessError::UnknownParents`].
    pub fn after(&self, parents: &[OpId]) -> Result<(u64, Timestamp), AccessError> {
        self.closure(parents)?;
        let ops = || parents.iter().map(|id| &self.nodes[self.by_id[id]].op);
        let lamport = ops().map(|op| op.lamport).max().unwrap_or(0).saturating_add(1);
        Ok((lamport, ops().map(|op| op.time).max().unwrap_or_default()))
    }

    /// Whether a user may do something by everything that is known.
    ///
    /// # Errors
    /// The [`Denial`].
    pub fn may_now(&self, user: &UserId, verb: Verb, subject: Subject<'_>, time: Timestamp) -> Result<(), Denial> {
        let all = self.all();
        self.may_in(&self.state, &View::of(&all), user, verb, subject, time).map(|_| ())
    }

    /// The role of a user by everything that is known.
    pub fn role_now(&self, user: &UserId, subject: Subject<'_>, time: Timestamp) -> Option<Role> {
        let all = self.all();
        self.role_in(&self.state, &View::of(&all), user, subject, time).map(|held| held.role)
    }

    /// Whether nothing outside of a past bears on the verdicts in it, so that they are those of everything.
    fn is_settled(&self, past: &OpSet) -> bool {
        if self.takings.is_empty() {
            return true;
        }
        let is_inside = |i: &Idx| past.has(*i);
        if !self.takings.iter().all(is_inside) {
            return false;
        }
        // What a removal keeps outside of the past may lead to what is in it and was void without.
        let keeps_inside = |r: &Idx| {
            let removal = &self.nodes[*r];
            let kept = removal.op.keeps.iter().filter_map(|id| self.by_id.get(id)).filter(|k| !is_inside(k));
            kept.map(|k| &self.nodes[*k].past).any(|kept| kept.meets_beyond(past, &removal.past))
        };
        // Without an owner in the past, one of its removals would be denied by it alone.
        !self.takings.iter().any(keeps_inside) && self.has_owner_in(&self.state, &View::of(past))
    }

    /// Whether the author of a content operation had the right by what it names alone; else it can be in no log.
    ///
    /// # Errors
    /// [`AccessError::UnknownParents`] when a head is not known, [`AccessError::Denied`].
    pub fn admits_content(&mut self, deed: &Deed<'_>) -> Result<(), AccessError> {
        let past = self.closure(deed.heads)?;
        let found = match self.asked.iter().position(|(known, _)| *known == past) {
            Some(at) => self.asked.remove(at),
            None => {
                let state = (!self.is_settled(&past)).then(|| self.resolve_in(Some(past.clone())).without_reasons());
                (past, state)
            }
        };
        if self.asked.len() == MAX_ASKED {
            self.asked.remove(0);
        }
        self.asked.push(found);
        let (past, state) = self.asked.last().expect("just put there");
        let state = state.as_ref().unwrap_or(&self.state);
        self.may_in(state, &View::of(past), &deed.author, deed.verb, deed.subject, deed.time)?;
        Ok(())
    }

    /// The verdict on a content operation that was admitted. `is_kept` says whether it can be reached from the `keeps`
    /// of a removal.
    ///
    /// # Errors
    /// [`AccessError::UnknownParents`] when a head is not known.
    pub fn judge_content(
        &self,
        deed: &Deed<'_>,
        mut is_kept: impl FnMut(&Operation) -> bool,
    ) -> Result<Verdict, AccessError> {
        let Deed { author, verb, subject, heads, time } = *deed;
        let past = self.closure(heads)?;
        let may = |view: &View<'_>| self.may_in(&self.state, view, &author, verb, subject, time);
        if let Err(denial) = may(&View::of(&past)) {
            return Ok(Verdict::Denied(denial));
        }
        let unaware: Vec<Idx> = self
            .removals_of(&self.state, &author)
            .into_iter()
            .filter(|i| self.state.is_valid(*i) && !past.has(*i) && !is_kept(&self.nodes[*i].op))
            .collect();
        match unaware.first() {
            Some(first) if may(&View { past: &past, extra: &unaware }).is_err() => {
                Ok(Verdict::Void { by: self.nodes[*first].op.id() })
            }
            _ => Ok(Verdict::Valid),
        }
    }

    /// Whether a removal names an operation in its `keeps` that is not in this log: content, or not yet here.
    pub fn is_awaited(&self, id: &OpId) -> bool {
        self.awaited.contains(id)
    }

    /// Who lost rights by the removals that name an operation in their `keeps`, heirs included.
    pub fn removed_by_keepers_of(&self, id: &OpId) -> BTreeSet<UserId> {
        if !self.is_awaited(id) {
            return BTreeSet::new();
        }
        let keepers = self.takings.iter().filter(|i| self.nodes[**i].op.keeps.binary_search(id).is_ok());
        keepers.flat_map(|i| self.removed_by(&self.nodes[*i].op.id())).collect()
    }

    /// A user and everyone to whom their rights may have passed by replaced keys.
    pub fn heirs_of(&self, user: &UserId) -> BTreeSet<UserId> {
        let mut heirs = BTreeSet::from([*user]);
        let mut open = vec![*user];
        while let Some(key) = open.pop() {
            let takings = self.takings_of.get(&key).into_iter().flatten();
            for new in takings.filter_map(|i| self.nodes[*i].taking.and_then(|taking| taking.moves_to)) {
                if heirs.insert(new) {
                    open.push(new);
                }
            }
        }
        heirs
    }

    /// Who loses rights by a removal in this log, heirs included; nobody for another operation.
    pub fn removed_by(&self, id: &OpId) -> BTreeSet<UserId> {
        let taking = self.by_id.get(id).and_then(|i| self.nodes[*i].taking);
        taking.map_or_else(BTreeSet::new, |taking| self.heirs_of(&taking.user))
    }

    /// The rights in force of one user, as in [`AccessLog::grants_in_force`].
    pub fn grants_of(&self, user: &UserId) -> Vec<GrantInForce> {
        let all = self.all();
        let held = self.rights(&self.state, &View::of(&all), user).into_iter().map(|held| GrantInForce {
            resource: held.resource,
            user: *user,
            role: held.role,
            expires_at: held.expires_at,
        });
        let set: BTreeSet<GrantInForce> = held.collect();
        set.into_iter().collect()
    }

    /// The rights in force on topics by everything that is known, expired ones included, ordered.
    pub fn grants_in_force(&self) -> Vec<GrantInForce> {
        let users: BTreeSet<UserId> = self.given_to.keys().chain(self.moves_to.keys()).copied().collect();
        let held: BTreeSet<GrantInForce> = users.iter().flat_map(|user| self.grants_of(user)).collect();
        held.into_iter().collect()
    }

    /// A topic; `None` when its creation is not known.
    pub fn topic_state(&self, topic: &TopicId) -> Option<TopicState> {
        let node = self.topics.get(topic)?;
        let create = &self.nodes[node.create].op;
        let Body::CreateTopic { parent, name, visibility, .. } = &create.body else {
            return None;
        };
        let past = self.all();
        let mut state = TopicState {
            id: *topic,
            parent: *parent,
            name: name.clone(),
            visibility: *visibility,
            status: self.status_in(&self.state, &View::of(&past), topic),
            is_valid: node.chain.iter().all(|topic| self.state.is_valid(self.topics[topic].create)),
            updated_at: create.time,
        };
        for i in node.field_ops.iter().filter(|i| self.state.is_valid(**i)) {
            let op = &self.nodes[*i].op;
            if let Body::SetVisibility { visibility } = &op.body {
                state.visibility = *visibility;
            }
            state.updated_at = state.updated_at.max(op.time);
        }
        Some(state)
    }
}
