//! The verdict on one operation, and the role of one user, as one set of operations shows them.

use std::collections::BTreeSet;

use super::causal::OpSet;
use super::resolve::State;
use super::{AccessLog, Denial, Given, Idx, Node, Subject, Taking, Verdict};
use crate::id::{OpId, TopicId, UserId};
use crate::model::TopicStatus;
use crate::op::operation::{Body, Operation, Resource, Role};
use crate::op::rules::{Verb, allows};
use crate::time::Timestamp;

/// Rights on a dataset that come from rights on it: so many steps back are followed.
const MAX_DATASET_STEPS: usize = 8;

/// Operations that are looked at: a past, and some removals besides. Only those that count are seen.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) past: &'a OpSet,
    pub(super) extra: &'a [Idx],
}

impl<'a> View<'a> {
    pub(super) const fn of(past: &'a OpSet) -> Self {
        Self { past, extra: &[] }
    }

    fn sees(&self, state: &State, i: Idx) -> bool {
        state.is_valid(i) && (self.past.has(i) || self.extra.contains(&i))
    }
}

/// A right that somebody holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) resource: Resource,
    /// The topic of the resource.
    topic: TopicId,
    pub(super) role: Role,
    pub(super) expires_at: Option<Timestamp>,
    /// The operation that gave it first.
    pub(super) given: Idx,
    /// The operation by which its holder came to it: that, or the last key replacement.
    link: Idx,
}

/// The role of somebody, and since when.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeldRole {
    pub(super) role: Role,
    pub(super) since: (u64, OpId),
}

impl AccessLog {
    /// The verdict on an operation, given the verdicts on those in its past.
    pub(super) fn judge(&self, state: &State, i: Idx) -> Verdict {
        if state.confirmed.contains_key(&i) {
            return Verdict::Valid;
        }
        if let Some(by) = state.lost.get(&i) {
            return Verdict::Void { by: self.nodes[*by].op.id() };
        }
        let Node { op, past, .. } = &self.nodes[i];
        if state.vetoed.contains(&i) {
            return Verdict::Denied(Denial::LastOwner(self.root.unwrap_or_else(|| op.topic())));
        }
        if let Err(denial) = self.authorise(state, &View::of(past), op) {
            return Verdict::Denied(denial);
        }
        let unaware: Vec<Idx> = self
            .removals_of(state, &op.author)
            .into_iter()
            .filter(|r| state.confirmed.contains_key(r) && !past.has(*r))
            .filter(|r| !self.nodes[*r].past.has(i) && !self.has_seen(state, *r, i))
            .collect();
        match unaware.first() {
            Some(first) if self.authorise(state, &View { past, extra: &unaware }, op).is_err() => {
                Verdict::Void { by: self.nodes[*first].op.id() }
            }
            _ => Verdict::Valid,
        }
    }

    /// Whether the `keeps` of a removal lead to an operation.
    pub(super) fn has_seen(&self, state: &State, removal: Idx, i: Idx) -> bool {
        let kept = self.nodes[removal].op.keeps.iter().filter_map(|id| self.by_id.get(id)).copied();
        kept.filter(|k| state.is_in_scope(*k)).any(|k| k == i || self.nodes[k].past.has(i))
    }

    /// The removals of a user, and of the keys whose rights they may hold, by position.
    pub(super) fn removals_of(&self, state: &State, user: &UserId) -> Vec<Idx> {
        let mut keys = BTreeSet::from([*user]);
        let mut open = vec![*user];
        while let Some(key) = open.pop() {
            for i in self.moves_to.get(&key).into_iter().flatten().filter(|i| state.is_in_scope(**i)) {
                let author = self.nodes[*i].op.author;
                if keys.insert(author) {
                    open.push(author);
                }
            }
        }
        let mut removals: Vec<Idx> =
            keys.iter().filter_map(|key| self.takings_of.get(key)).flatten().copied().collect();
        removals.sort_unstable_by_key(|i| self.nodes[*i].op.position());
        removals
    }

    /// Whether the author has the right to an operation, and since when.
    pub(super) fn authorise(&self, state: &State, view: &View<'_>, op: &Operation) -> Result<(u64, OpId), Denial> {
        let may = |verb, topic| self.may_in(state, view, &op.author, verb, Subject::Topic(topic), op.time);
        let topic = op.topic();
        match &op.body {
            Body::CreateTopic { parent: None, .. } => Ok(op.position()),
            Body::CreateTopic { parent: Some(parent), .. } => may(Verb::CreateTopic, *parent),
            Body::SetVisibility { .. } => may(Verb::SetVisibility, topic),
            Body::ArchiveTopic => may(Verb::ArchiveTopic, topic),
            Body::RestoreTopic => may(Verb::RestoreTopic, topic),
            Body::DeleteTopic { .. } => may(Verb::DeleteTopic, topic),
            Body::Grant { resource: Resource::Topic(_), role, .. } => may(Verb::grant(*role), topic),
            Body::Revoke { resource: Resource::Topic(_), user, .. } => {
                let taking = Taking::of(op).expect("it is a removal");
                let taken = self.rights(state, view, user).into_iter();
                let taken = taken.filter(|held| self.reaches(&taking, held.resource, held.topic));
                let highest = taken.map(|held| weight(&taking, &held)).max();
                may(Verb::revoke(highest.unwrap_or(Role::Reader)), topic)
            }
            Body::TransferOwnership { resource: Resource::Topic(_), .. } => may(Verb::TransferOwnership, topic),
            Body::ReplaceKey { .. } => {
                self.check_status(state, view, topic, Verb::ReplaceKey)?;
                let taking = Taking::of(op).expect("it is a removal");
                let held = self.rights(state, view, &op.author).into_iter();
                let held = held.filter(|held| self.reaches(&taking, held.resource, held.topic));
                held.map(|held| self.nodes[held.given].op.position())
                    .min()
                    .ok_or_else(|| denied(&op.author, Verb::ReplaceKey, None))
            }
            // Its effect is judged where the dataset is known.
            Body::Grant { resource: resource @ Resource::Dataset(_), .. }
            | Body::Revoke { resource: resource @ Resource::Dataset(_), .. }
            | Body::TransferOwnership { resource: resource @ Resource::Dataset(_), .. } => {
                may(Verb::CreateDataset, topic).or_else(|denial| {
                    let held = self.rights(state, view, &op.author).into_iter();
                    let held = held.filter(|held| held.resource == *resource);
                    held.map(|held| self.nodes[held.given].op.position()).min().ok_or(denial)
                })
            }
            _ => Err(Denial::UnknownTopic(topic)),
        }
    }

    pub(super) fn may_in(
        &self,
        state: &State,
        view: &View<'_>,
        user: &UserId,
        verb: Verb,
        subject: Subject<'_>,
        time: Timestamp,
    ) -> Result<(u64, OpId), Denial> {
        self.check_status(state, view, subject.topic(), verb)?;
        match self.role_in(state, view, user, subject, time) {
            Some(held) if allows(verb, Some(held.role), false) => Ok(held.since),
            // A right that everyone has is as old as the world.
            None if allows(verb, None, false) => Ok((0, OpId::from_bytes([0; 32]))),
            held => Err(denied(user, verb, held.map(|held| held.role))),
        }
    }

    fn check_status(&self, state: &State, view: &View<'_>, topic: TopicId, verb: Verb) -> Result<(), Denial> {
        let node = self.topics.get(&topic).ok_or(Denial::UnknownTopic(topic))?;
        for above in &node.chain {
            if !view.sees(state, self.topics[above].create) {
                return Err(Denial::UnknownTopic(*above));
            }
            match self.status_in(state, view, above) {
                TopicStatus::Deleted if verb != Verb::See => return Err(Denial::Deleted(*above)),
                TopicStatus::Archived if !verb.allowed_when_archived() => return Err(Denial::Archived(*above)),
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn status_in(&self, state: &State, view: &View<'_>, topic: &TopicId) -> TopicStatus {
        let mut status = TopicStatus::Active;
        for i in self.topics.get(topic).map_or(&[][..], |node| &node.status_ops) {
            if !view.sees(state, *i) {
                continue;
            }
            match &self.nodes[*i].op.body {
                Body::DeleteTopic { .. } => return TopicStatus::Deleted,
                Body::ArchiveTopic => status = TopicStatus::Archived,
                _ => status = TopicStatus::Active,
            }
        }
        status
    }

    /// The role of a user.
    pub(super) fn role_in(
        &self,
        state: &State,
        view: &View<'_>,
        user: &UserId,
        subject: Subject<'_>,
        time: Timestamp,
    ) -> Option<HeldRole> {
        self.role_by(state, view, user, subject, time, MAX_DATASET_STEPS)
    }

    fn role_by(
        &self,
        state: &State,
        view: &View<'_>,
        user: &UserId,
        subject: Subject<'_>,
        time: Timestamp,
        steps: usize,
    ) -> Option<HeldRole> {
        let chain = self.chain(&subject.topic());
        let mut best: Option<HeldRole> = None;
        let mut offer = |role: Role, since: (u64, OpId)| {
            if best.is_none_or(|best| role > best.role || (role == best.role && since < best.since)) {
                best = Some(HeldRole { role, since });
            }
        };
        for held in self.rights(state, view, user) {
            if held.expires_at.is_some_and(|end| time >= end) {
                continue;
            }
            let counts = match (held.resource, subject) {
                (Resource::Topic(topic), _) => chain.contains(&topic),
                (Resource::Dataset(on), Subject::Dataset { id, topic, .. }) => {
                    on == id && held.topic == topic && steps > 0 && self.was_entitled(state, held.given, subject, steps)
                }
                (Resource::Dataset(_), Subject::Topic(_)) => false,
            };
            if counts {
                offer(held.role, self.nodes[held.given].op.position());
            }
        }
        if let Subject::Dataset { id, created_after, .. } = subject
            && self.holds_creation(state, view, user, subject)
        {
            let lamport = self.closure_in(state, created_after).and_then(|_| self.after(created_after).ok());
            let lamport = lamport.map_or(1, |(lamport, _)| lamport);
            offer(Role::Owner, (lamport, id.into()));
        }
        best
    }

    /// What these operations and everything before them are; `None` when one of them is not looked at.
    fn closure_in(&self, state: &State, heads: &[OpId]) -> Option<OpSet> {
        let is_there = |id: &OpId| self.by_id.get(id).is_some_and(|i| state.is_in_scope(*i));
        heads.iter().all(is_there).then(|| self.closure(heads).ok()).flatten()
    }

    /// Whether the author of a grant on a dataset had the right to give it.
    fn was_entitled(&self, state: &State, i: Idx, subject: Subject<'_>, steps: usize) -> bool {
        let Node { op, past, .. } = &self.nodes[i];
        let verb = match &op.body {
            Body::Grant { role, .. } => Verb::grant(*role),
            _ => Verb::TransferOwnership,
        };
        let role = self.role_by(state, &View::of(past), &op.author, subject, op.time, steps - 1);
        role.is_some_and(|held| allows(verb, Some(held.role), false))
    }

    /// Whether a user holds the ownership that comes from having created a dataset.
    fn holds_creation(&self, state: &State, view: &View<'_>, user: &UserId, subject: Subject<'_>) -> bool {
        let Subject::Dataset { id, topic, creator, created_after } = subject else { return false };
        let resource = Resource::Dataset(id);
        let known = self.closure_in(state, created_after);
        let knew = |i: Idx| known.as_ref().is_some_and(|past| past.has(i));
        let mut holder = creator;
        let mut last: Option<Idx> = None;
        loop {
            let is_aware = |r: Idx| match last {
                None => knew(r),
                Some(link) => r == link || self.nodes[link].past.has(r),
            };
            let mut moved = None;
            for r in self.takings_of.get(&holder).into_iter().flatten() {
                let taking = self.nodes[*r].taking.expect("only removals are listed");
                if !view.sees(state, *r) || !self.reaches(&taking, resource, topic) || is_aware(*r) {
                    continue;
                }
                match taking.moves_to {
                    Some(new) => moved = moved.or(Some((*r, new))),
                    None if taking.resource == resource => {
                        let removal = &self.nodes[*r];
                        let view = View::of(&removal.past);
                        let author = removal.op.author;
                        let role = self.rights(state, &view, &author).into_iter();
                        let on_topic = role.filter(|held| matches!(held.resource, Resource::Topic(_)));
                        let chain = self.chain(&topic);
                        let is_owner = on_topic
                            .filter(|held| matches!(held.resource, Resource::Topic(on) if chain.contains(&on)))
                            .any(|held| held.role == Role::Owner);
                        if is_owner || author == holder {
                            return false;
                        }
                    }
                    None => return false,
                }
            }
            match moved {
                // Each replacement moves on once, so that a ring of them ends.
                Some((r, new))
                    if last.is_none_or(|last| self.nodes[last].op.position() < self.nodes[r].op.position()) =>
                {
                    (holder, last) = (new, Some(r));
                }
                _ => return holder == *user,
            }
        }
    }

    /// What a user holds, directly or by replaced keys.
    pub(super) fn rights(&self, state: &State, view: &View<'_>, user: &UserId) -> Vec<Held> {
        self.rights_before(state, view, user, None)
    }

    /// `before`: only key replacements below this position pass anything on, so that a ring of them ends.
    fn rights_before(&self, state: &State, view: &View<'_>, user: &UserId, before: Option<(u64, OpId)>) -> Vec<Held> {
        let direct = self.given_to.get(user).into_iter().flatten().map(|given| self.held(given));
        let mut rights: Vec<Held> = direct.filter(|held| view.sees(state, held.given)).collect();
        for k in self.moves_to.get(user).into_iter().flatten() {
            let Node { op, taking, .. } = &self.nodes[*k];
            let is_before = before.is_none_or(|before| op.position() < before);
            if !is_before || !view.sees(state, *k) {
                continue;
            }
            let taking = taking.expect("a key replacement is a removal");
            for held in self.rights_before(state, view, &op.author, Some(op.position())) {
                let link = &self.nodes[held.link];
                let aware = held.link == *k || link.past.has(*k);
                if aware || !self.reaches(&taking, held.resource, held.topic) {
                    continue;
                }
                let first = self.takings_of[&op.author].iter().copied().find(|other| {
                    let taking = self.nodes[*other].taking.expect("only removals are listed");
                    taking.moves_to.is_some()
                        && view.sees(state, *other)
                        && self.reaches(&taking, held.resource, held.topic)
                        && !link.past.has(*other)
                });
                if first == Some(*k) && !self.is_ended(state, view, &op.author, &held) {
                    rights.push(Held { link: *k, ..held });
                }
            }
        }
        match before {
            // Whoever asks for what is passed on looks at the ends itself.
            Some(_) => rights,
            None => {
                rights
                    .retain(|held| !self.is_ended(state, view, user, held) && !self.is_moved(state, view, user, held));
                rights
            }
        }
    }

    fn held(&self, given: &Given) -> Held {
        let topic = self.nodes[given.op].op.topic();
        Held {
            resource: given.resource,
            topic,
            role: given.role,
            expires_at: given.expires_at,
            given: given.op,
            link: given.op,
        }
    }

    /// Whether a removal other than a key replacement took a right from its holder.
    fn is_ended(&self, state: &State, view: &View<'_>, holder: &UserId, held: &Held) -> bool {
        let link = &self.nodes[held.link];
        self.takings_of.get(holder).into_iter().flatten().any(|r| {
            let taking = self.nodes[*r].taking.expect("only removals are listed");
            taking.moves_to.is_none()
                && *r != held.link
                && view.sees(state, *r)
                && self.reaches(&taking, held.resource, held.topic)
                && !link.past.has(*r)
                && self.is_strong_enough(state, *r, &taking, held)
        })
    }

    fn is_moved(&self, state: &State, view: &View<'_>, holder: &UserId, held: &Held) -> bool {
        let link = &self.nodes[held.link];
        self.takings_of.get(holder).into_iter().flatten().any(|k| {
            let taking = self.nodes[*k].taking.expect("only removals are listed");
            taking.moves_to.is_some()
                && *k != held.link
                && view.sees(state, *k)
                && self.reaches(&taking, held.resource, held.topic)
                && !link.past.has(*k)
        })
    }

    /// Whether the author of a removal could take a right of this weight.
    fn is_strong_enough(&self, state: &State, r: Idx, taking: &Taking, held: &Held) -> bool {
        let weight = weight(taking, held);
        if self.nodes[r].op.author == taking.user || weight <= Role::Contributor {
            return true;
        }
        let author = state.confirmed.get(&r).copied().unwrap_or_else(|| self.strength(state, r));
        author.is_some_and(|author| allows(Verb::revoke(weight), Some(author), false))
    }

    /// The role with which a removal was made.
    pub(super) fn strength(&self, state: &State, r: Idx) -> Option<Role> {
        let Node { op, past, .. } = &self.nodes[r];
        match self.nodes[r].taking?.resource {
            Resource::Topic(topic) => {
                let view = View::of(past);
                self.role_in(state, &view, &op.author, Subject::Topic(topic), op.time).map(|held| held.role)
            }
            // A right on a dataset alone is taken by whoever was entitled to act on it.
            Resource::Dataset(_) => Some(Role::Owner),
        }
    }

    /// Whether a removal reaches a resource.
    pub(super) fn reaches(&self, taking: &Taking, resource: Resource, topic: TopicId) -> bool {
        match taking.resource {
            on if on == resource => true,
            Resource::Topic(on) => taking.below && self.chain(&topic).contains(&on),
            Resource::Dataset(_) => false,
        }
    }
}

/// The role that a right counts as when it is taken.
fn weight(taking: &Taking, held: &Held) -> Role {
    match (taking.resource, held.resource) {
        (Resource::Topic(_), Resource::Dataset(_)) => held.role.min(Role::Contributor),
        _ => held.role,
    }
}

fn denied(user: &UserId, verb: Verb, has: Option<Role>) -> Denial {
    Denial::RoleNeeded { user: *user, verb, needed: verb.needed().unwrap_or(Role::Reader), has }
}
