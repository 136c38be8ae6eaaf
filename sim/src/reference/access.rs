//! The access rules on topics, as `bib_core::op::access` states them.
//!
//! Histories are small here: each question is answered from the whole set of operations.

use std::collections::{BTreeMap, BTreeSet};

use bib_core::id::{OpId, TopicId, UserId};
use bib_core::op::rules::allows;
use bib_core::op::{Body, Operation, Resource, Role, Verb};
use bib_core::time::Timestamp;

/// What the model says of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It counts.
    Valid,
    /// Its author had no right, by what counts.
    Denied,
    /// A removal that it did not know took the right.
    Void,
}

/// A set of operations that is closed under "and its parents".
#[derive(Debug, Clone, Default)]
pub struct History {
    ops: BTreeMap<OpId, Operation>,
}

/// What follows from a history.
#[derive(Debug, Clone, Default)]
pub struct Judgement {
    verdicts: BTreeMap<OpId, Verdict>,
    /// With the role of its author when it was confirmed.
    confirmed: BTreeMap<OpId, Option<Role>>,
    lost: BTreeSet<OpId>,
    vetoed: BTreeSet<OpId>,
}

/// A right on a topic.
#[derive(Debug, Clone, Copy)]
pub(super) struct Right {
    pub(super) topic: TopicId,
    pub(super) role: Role,
    pub(super) expires_at: Option<Timestamp>,
    given: OpId,
    link: OpId,
}

pub(super) type Seen = BTreeSet<OpId>;

impl Judgement {
    /// The verdict on an operation.
    pub fn verdict(&self, id: &OpId) -> Option<Verdict> {
        self.verdicts.get(id).copied()
    }

    pub(super) fn counts(&self, id: &OpId) -> bool {
        self.confirmed.contains_key(id) || self.verdicts.get(id) == Some(&Verdict::Valid)
    }
}

impl History {
    /// The history with one operation more, whose parents are in it.
    pub fn insert(&mut self, op: Operation) {
        self.ops.insert(op.id(), op);
    }

    /// Whether an operation may be in a history that holds its parents: by its own past alone.
    pub fn admits(&self, op: &Operation) -> bool {
        let mut alone = Self::default();
        for id in self.past(op) {
            alone.insert(self.ops[&id].clone());
        }
        alone.insert(op.clone());
        alone.judge().verdict(&op.id()) != Some(Verdict::Denied)
    }

    pub(super) fn past(&self, op: &Operation) -> Seen {
        self.reach(&op.parents)
    }

    /// The operations that these lead to, themselves included, as far as they are here.
    pub(super) fn reach(&self, ids: &[OpId]) -> Seen {
        let mut seen = Seen::new();
        let mut open = ids.to_vec();
        while let Some(id) = open.pop() {
            if let Some(op) = self.ops.get(&id)
                && seen.insert(id)
            {
                open.extend(&op.parents);
            }
        }
        seen
    }

    pub(super) fn by_position(&self) -> Vec<&Operation> {
        let mut ops: Vec<&Operation> = self.ops.values().collect();
        ops.sort_by_key(|op| op.position());
        ops
    }

    pub(super) fn removals(&self) -> Vec<&Operation> {
        self.by_position().into_iter().filter(|op| op.body.is_removal()).collect()
    }

    pub(super) fn chain(&self, topic: TopicId) -> Vec<TopicId> {
        let mut chain = vec![topic];
        while let Some(Body::CreateTopic { parent: Some(above), .. }) =
            self.ops.get(&chain[chain.len() - 1].into()).map(|op| &op.body)
        {
            chain.push(*above);
        }
        chain
    }

    /// Judges everything.
    pub fn judge(&self) -> Judgement {
        let mut vetoed = BTreeSet::new();
        loop {
            let judgement = self.confirm(&vetoed);
            if self.owners(&judgement).next().is_some() {
                return judgement;
            }
            let ended_owner = |op: &&Operation| {
                let mut without = judgement.clone();
                without.confirmed.remove(&op.id());
                without.verdicts.insert(op.id(), Verdict::Denied);
                judgement.counts(&op.id())
                    && !matches!(op.body, Body::ReplaceKey { .. })
                    && Some(op.topic()) == self.root()
                    && self.owners(&without).filter(|user| *user == removed_user(op)).count() > 0
            };
            match self.removals().into_iter().rev().find(ended_owner) {
                Some(op) => vetoed.insert(op.id()),
                None => return judgement,
            };
        }
    }

    fn root(&self) -> Option<TopicId> {
        self.ops.values().find(|op| matches!(op.body, Body::CreateTopic { parent: None, .. })).map(Operation::topic)
    }

    fn owners<'a>(&'a self, judgement: &'a Judgement) -> impl Iterator<Item = UserId> + 'a {
        let everything: Seen = self.ops.keys().copied().collect();
        let users: BTreeSet<UserId> = self.ops.values().flat_map(users_named).collect();
        users.into_iter().filter(move |user| {
            self.rights(judgement, &everything, user).iter().any(|right| {
                Some(right.topic) == self.root() && right.role == Role::Owner && right.expires_at.is_none()
            })
        })
    }

    fn confirm(&self, vetoed: &BTreeSet<OpId>) -> Judgement {
        let mut judgement = Judgement { vetoed: vetoed.clone(), ..Judgement::default() };
        loop {
            judgement = self.judge_under(judgement);
            let undecided: Vec<&Operation> = self
                .removals()
                .into_iter()
                .filter(|op| judgement.counts(&op.id()) && !judgement.confirmed.contains_key(&op.id()))
                .collect();
            if undecided.is_empty() {
                return judgement;
            }
            let mut threats: BTreeSet<(OpId, OpId)> = BTreeSet::new();
            for a in &undecided {
                let mut trial = judgement.clone();
                trial.confirmed.insert(a.id(), self.strength(&judgement, a));
                let trial = self.judge_under(trial);
                let hit = undecided.iter().filter(|b| !trial.counts(&b.id()));
                threats.extend(hit.map(|b| (a.id(), b.id())));
            }
            // a comes before b.
            let mut before = threats.clone();
            for b in &undecided {
                let past = self.past(b);
                before.extend(undecided.iter().filter(|a| past.contains(&a.id())).map(|a| (a.id(), b.id())));
            }
            loop {
                let longer: BTreeSet<(OpId, OpId)> = before
                    .iter()
                    .flat_map(|(a, b)| before.iter().filter(move |(c, _)| c == b).map(move |(_, d)| (*a, *d)))
                    .collect();
                let n = before.len();
                before.extend(longer);
                if before.len() == n {
                    break;
                }
            }
            let free = |b: &&&Operation| {
                let past = self.past(b);
                undecided.iter().all(|a| {
                    a.id() == b.id()
                        || (!past.contains(&a.id())
                            && (!before.contains(&(a.id(), b.id())) || before.contains(&(b.id(), a.id()))))
                })
            };
            let key = |b: &&&Operation| {
                let since = self.authorise(&judgement, &self.past(b), b);
                (since.unwrap_or_else(|| b.position()), b.position())
            };
            // In one connected conflict only: what is apart from the lowest waits for its turn.
            let chosen = undecided.iter().filter(free).min_by_key(key).expect("something comes first").id();
            judgement.confirmed.insert(chosen, self.strength(&judgement, &self.ops[&chosen]));
            let losers = threats.iter().filter(|(a, b)| *b == chosen && *a != chosen).map(|(a, _)| *a);
            judgement.lost.extend(losers);
        }
    }

    fn judge_under(&self, decided: Judgement) -> Judgement {
        let mut judgement = Judgement { verdicts: BTreeMap::new(), ..decided };
        for op in self.by_position() {
            let verdict = self.verdict(&judgement, op);
            judgement.verdicts.insert(op.id(), verdict);
        }
        judgement
    }

    fn verdict(&self, judgement: &Judgement, op: &Operation) -> Verdict {
        let id = op.id();
        if judgement.confirmed.contains_key(&id) {
            return Verdict::Valid;
        }
        if judgement.lost.contains(&id) {
            return Verdict::Void;
        }
        if judgement.vetoed.contains(&id) {
            return Verdict::Denied;
        }
        let past = self.past(op);
        if self.authorise(judgement, &past, op).is_none() {
            return Verdict::Denied;
        }
        // The author, and all keys that were ever replaced by theirs.
        let mut keys = BTreeSet::from([op.author]);
        for _ in 0..self.ops.len() {
            let replaced =
                self.ops.values().filter(|op| matches!(op.body, Body::ReplaceKey { new } if keys.contains(&new)));
            let replaced: Vec<UserId> = replaced.map(|op| op.author).collect();
            keys.extend(replaced);
        }
        let mut view = past.clone();
        for removal in judgement.confirmed.keys().map(|id| &self.ops[id]) {
            let knows = self.past(removal).contains(&id) || self.reach(&removal.keeps).contains(&id);
            if !knows && removal.id() != id && keys.contains(&removed_user(removal)) {
                view.insert(removal.id());
            }
        }
        if self.authorise(judgement, &view, op).is_some() { Verdict::Valid } else { Verdict::Void }
    }

    fn authorise(&self, judgement: &Judgement, view: &Seen, op: &Operation) -> Option<(u64, OpId)> {
        let may = |verb: Verb, topic: TopicId| {
            if !self.status_allows(judgement, view, topic, verb) {
                return None;
            }
            let (role, since) = self.role(judgement, view, &op.author, topic, op.time)?;
            allows(verb, Some(role), false).then_some(since)
        };
        let topic = op.topic();
        match &op.body {
            Body::CreateTopic { parent: None, .. } => Some(op.position()),
            Body::CreateTopic { parent: Some(parent), .. } => may(Verb::CreateTopic, *parent),
            Body::SetVisibility { .. } => may(Verb::SetVisibility, topic),
            Body::ArchiveTopic => may(Verb::ArchiveTopic, topic),
            Body::RestoreTopic => may(Verb::RestoreTopic, topic),
            Body::DeleteTopic { .. } => may(Verb::DeleteTopic, topic),
            Body::Grant { role, .. } => may(Verb::grant(*role), topic),
            Body::Revoke { user, .. } => {
                let taken = self.rights(judgement, view, user).into_iter().filter(|right| self.reaches(op, right));
                may(Verb::revoke(taken.map(|right| right.role).max().unwrap_or(Role::Reader)), topic)
            }
            Body::TransferOwnership { .. } => may(Verb::TransferOwnership, topic),
            Body::ReplaceKey { .. } => {
                if !self.status_allows(judgement, view, topic, Verb::ReplaceKey) {
                    return None;
                }
                let held = self.rights(judgement, view, &op.author).into_iter().filter(|right| self.reaches(op, right));
                held.map(|right| self.ops[&right.given].position()).min()
            }
            _ => None,
        }
    }

    pub(super) fn status_allows(&self, judgement: &Judgement, view: &Seen, topic: TopicId, verb: Verb) -> bool {
        self.chain(topic).into_iter().all(|above| {
            let seen = |op: &&&Operation| view.contains(&op.id()) && judgement.counts(&op.id()) && op.topic() == above;
            let ops = self.by_position();
            let is_there =
                ops.iter().filter(seen).any(|op| op.topic() == OpId::from(above).into() && op.id() == above.into());
            let is_deleted = ops.iter().filter(seen).any(|op| matches!(op.body, Body::DeleteTopic { .. }));
            let last = ops.iter().filter(seen).rfind(|op| matches!(op.body, Body::ArchiveTopic | Body::RestoreTopic));
            let is_archived = last.is_some_and(|op| matches!(op.body, Body::ArchiveTopic));
            is_there && !is_deleted && (!is_archived || verb.allowed_when_archived())
        })
    }

    pub(super) fn role(
        &self,
        judgement: &Judgement,
        view: &Seen,
        user: &UserId,
        topic: TopicId,
        time: Timestamp,
    ) -> Option<(Role, (u64, OpId))> {
        let chain = self.chain(topic);
        let rights = self.rights(judgement, view, user).into_iter();
        let rights = rights.filter(|right| chain.contains(&right.topic));
        let rights = rights.filter(|right| right.expires_at.is_none_or(|end| time < end));
        let rights: Vec<Right> = rights.collect();
        let best = rights.iter().map(|right| right.role).max()?;
        let since = rights.iter().filter(|right| right.role == best).map(|right| self.ops[&right.given].position());
        Some((best, since.min()?))
    }

    pub(super) fn rights(&self, judgement: &Judgement, view: &Seen, user: &UserId) -> Vec<Right> {
        let mut rights = self.passed_on(judgement, view, user, None);
        rights.retain(|right| {
            let takes = |op: &&&Operation| self.takes(judgement, view, op, user, right);
            !self.removals().iter().any(|op| takes(&op))
        });
        rights
    }

    /// Whether a removal, of any kind, ends a right at this holder.
    fn takes(&self, judgement: &Judgement, view: &Seen, op: &Operation, holder: &UserId, right: &Right) -> bool {
        let is_aware = op.id() == right.link || self.past(&self.ops[&right.link]).contains(&op.id());
        removed_user(op) == *holder
            && view.contains(&op.id())
            && judgement.counts(&op.id())
            && !is_aware
            && self.reaches(op, right)
            && (op.author == *holder || right.role <= Role::Contributor || {
                let confirmed = judgement.confirmed.get(&op.id()).copied();
                let role = confirmed.unwrap_or_else(|| self.strength(judgement, op));
                role.is_some_and(|role| allows(Verb::revoke(right.role), Some(role), false))
            })
    }

    fn strength(&self, judgement: &Judgement, op: &Operation) -> Option<Role> {
        self.role(judgement, &self.past(op), &op.author, op.topic(), op.time).map(|(role, _)| role)
    }

    fn passed_on(&self, judgement: &Judgement, view: &Seen, user: &UserId, before: Option<(u64, OpId)>) -> Vec<Right> {
        let mut rights = Vec::new();
        for op in self.by_position() {
            if !view.contains(&op.id()) || !judgement.counts(&op.id()) {
                continue;
            }
            let right = |role, expires_at| Right { topic: op.topic(), role, expires_at, given: op.id(), link: op.id() };
            match &op.body {
                Body::CreateTopic { .. } if op.author == *user => rights.push(right(Role::Owner, None)),
                Body::Grant { user: to, role, expires_at, .. } if to == user => rights.push(right(*role, *expires_at)),
                Body::TransferOwnership { to, leave, .. } => {
                    if to == user {
                        rights.push(right(Role::Owner, None));
                    }
                    if op.author == *user && !leave {
                        rights.push(right(Role::Admin, None));
                    }
                }
                Body::ReplaceKey { new } if new == user && before.is_none_or(|before| op.position() < before) => {
                    for passed in self.passed_on(judgement, view, &op.author, Some(op.position())) {
                        let takers: Vec<&Operation> = self
                            .removals()
                            .into_iter()
                            .filter(|taker| self.takes(judgement, view, taker, &op.author, &passed))
                            .collect();
                        let is_move = |taker: &&&Operation| matches!(taker.body, Body::ReplaceKey { .. });
                        let first = takers.iter().find(is_move).map(|taker| taker.id());
                        if first == Some(op.id()) && takers.iter().all(|taker| is_move(&taker)) {
                            rights.push(Right { link: op.id(), ..passed });
                        }
                    }
                }
                _ => {}
            }
        }
        rights
    }

    fn reaches(&self, removal: &Operation, right: &Right) -> bool {
        let below = !matches!(removal.body, Body::Revoke { keep_below: true, .. });
        right.topic == removal.topic() || (below && self.chain(right.topic).contains(&removal.topic()))
    }
}

pub(super) fn removed_user(op: &Operation) -> UserId {
    match &op.body {
        Body::Revoke { user, .. } => *user,
        _ => op.author,
    }
}

fn users_named(op: &Operation) -> Vec<UserId> {
    let mut users = vec![op.author];
    match &op.body {
        Body::Grant { user, resource: Resource::Topic(_), .. } => users.push(*user),
        Body::TransferOwnership { to, .. } => users.push(*to),
        Body::ReplaceKey { new } => users.push(*new),
        _ => {}
    }
    users
}
