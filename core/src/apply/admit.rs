//! Whether an operation may enter its log, and what follows when it does.
//!
//! Everything here follows from the operation and its past, so that every node answers the same.

use std::collections::BTreeSet;

use super::store::put;
use super::{Whose, Work};
use crate::catalog::log::OpStatus;
use crate::catalog::record::{Grants, corrupt, keys_after};
use crate::catalog::{keys, log};
use crate::command::Refused;
use crate::id::{DatasetId, OpId, TopicId, UserId, VersionId};
use crate::limits;
use crate::op::access::{AccessError, AccessLog, Denial, Verdict};
use crate::op::{Body, Class, Operation, Resource, Role};
use crate::port::{CatalogRead, StoreError, Table};
use crate::time::Timestamp;

/// What became of an operation that was looked at.
pub(super) type Admitted = Result<(), Refused>;

/// The refusal that a denial is.
pub(super) fn refusal(denial: &Denial) -> Refused {
    let why = denial.to_string();
    match denial {
        Denial::Archived(_) => Refused::Archived(why),
        Denial::LastOwner(_) => Refused::LastOwner(why),
        Denial::Deleted(_) | Denial::UnknownTopic(_) => Refused::NotFound(why),
        _ => Refused::Denied(why),
    }
}

/// Why an operation that may be in the log has no effect; `None` when it has.
fn no_effect(verdict: &Verdict) -> Option<Refused> {
    match verdict {
        Verdict::Valid => None,
        Verdict::Denied(denial) => Some(refusal(denial)),
        Verdict::Void { by } => Some(Refused::Denied(format!("the right to it was taken away by {}", by.short()))),
    }
}

/// The verdict as it is stored.
pub(super) const fn status_of(verdict: Verdict) -> OpStatus {
    if verdict.is_valid() { OpStatus::Valid } else { OpStatus::Void }
}

/// The topic or dataset that a content operation is about.
pub(super) fn entity_of(op: &Operation) -> OpId {
    match &op.body {
        Body::CreateDataset { .. } => op.id(),
        Body::UpdateDataset { dataset, .. }
        | Body::ArchiveDataset { dataset }
        | Body::RestoreDataset { dataset }
        | Body::DeleteDataset { dataset }
        | Body::WithdrawVersion { dataset, .. } => (*dataset).into(),
        Body::PublishVersion(version) => version.dataset.into(),
        _ => op.topic().into(),
    }
}

/// The access operations that a content operation in the catalog knows of, directly or through others.
pub(super) fn frontier(read: &dyn CatalogRead, log: &AccessLog, op: &Operation) -> Result<Vec<OpId>, StoreError> {
    match read.get(Table::OpIndex, &keys::op_frontier(&op.id()))? {
        Some(bytes) => {
            let ids = bytes.chunks(32).map(|id| OpId::from_slice(id).ok_or_else(|| corrupt("what an operation knows")));
            ids.collect()
        }
        None => Ok(op.parents.iter().filter(|id| log.contains(id)).copied().collect()),
    }
}

/// The creation of a dataset.
pub(super) struct Creation {
    pub(super) id: DatasetId,
    pub(super) author: UserId,
    pub(super) position: (u64, OpId),
    pub(super) frontier: Vec<OpId>,
}

/// The creation of a dataset in a topic; `None` when the id is that of something else.
pub(super) fn creation(
    read: &dyn CatalogRead,
    log: &AccessLog,
    topic: TopicId,
    id: DatasetId,
) -> Result<Option<Creation>, StoreError> {
    let Some((_, op)) = log::op(read, &id.into())? else { return Ok(None) };
    if op.topic() != topic || !matches!(op.body, Body::CreateDataset { .. }) {
        return Ok(None);
    }
    let frontier = frontier(read, log, &op)?;
    Ok(Some(Creation { id, author: op.author, position: op.position(), frontier }))
}

/// A content operation whose form was checked.
pub(super) struct Checked {
    /// The access operations that it knows of.
    pub(super) frontier: Vec<OpId>,
    /// The dataset that it is about, unless it makes one.
    pub(super) dataset: Option<Creation>,
}

macro_rules! require {
    ($holds:expr, $rule:literal) => {
        if !$holds {
            return Ok(Err(Refused::Invalid($rule)));
        }
    };
}

/// Checks what of a content operation takes its parents to check. All it builds on is in the logs.
fn check_content(
    read: &dyn CatalogRead,
    log: &AccessLog,
    op: &Operation,
) -> Result<Result<Checked, Refused>, StoreError> {
    let topic = op.topic();
    let chain = log.chain(&topic);
    let (mut access, mut lamport, mut time) = (Vec::new(), 0, Timestamp::default());
    let mut known: BTreeSet<OpId> = BTreeSet::new();
    for id in &op.parents {
        if log.contains(id) {
            access.push(*id);
        }
    }
    for id in &op.parents {
        let (_, parent) = log::op(read, id)?.ok_or_else(|| corrupt("an operation"))?;
        lamport = lamport.max(parent.lamport);
        time = time.max(parent.time);
        match parent.class() {
            Class::Access => require!(
                log.contains(id) && chain.contains(&parent.topic()),
                "a parent is of another topic than its own and those above"
            ),
            Class::Content => {
                require!(parent.topic() == topic, "a content operation among its parents is of another topic");
                let of_parent = frontier(read, log, &parent)?;
                if !covers(log, &access, &of_parent)? {
                    known.extend(of_parent);
                }
            }
        }
    }
    require!(lamport.checked_add(1) == Some(op.lamport), "its lamport is not one more than its parents'");
    require!(time <= op.time, "its time is before its parents'");
    known.extend(access);
    require!(known.len() <= limits::MAX_FRONTIER, "it knows of too many access operations that do not know each other");
    let frontier: Vec<OpId> = known.into_iter().collect();
    require!(covers(log, &frontier, &[topic.into()])?, "its topic is not in its past");

    let (dataset, versions): (_, Vec<VersionId>) = match &op.body {
        Body::UpdateDataset { dataset, .. }
        | Body::ArchiveDataset { dataset }
        | Body::RestoreDataset { dataset }
        | Body::DeleteDataset { dataset } => (Some(*dataset), Vec::new()),
        Body::PublishVersion(version) => (Some(version.dataset), version.previous.into_iter().collect()),
        Body::WithdrawVersion { dataset, version } => (Some(*dataset), vec![*version]),
        _ => (None, Vec::new()),
    };
    let Some(dataset) = dataset else { return Ok(Ok(Checked { frontier, dataset: None })) };
    let creation = creation(read, log, topic, dataset)?;
    let Some(creation) = creation else {
        return Ok(Err(Refused::Invalid("what it names as its dataset is none of its topic")));
    };
    let comes_after = creation.position.0 < op.lamport && covers(log, &frontier, &creation.frontier)?;
    require!(comes_after, "its dataset is not in its past");
    for id in versions {
        let (_, version) = log::op(read, &id.into())?.ok_or_else(|| corrupt("an operation"))?;
        let is_of_dataset = matches!(&version.body, Body::PublishVersion(of) if of.dataset == dataset);
        require!(is_of_dataset, "what it names as a version is none of its dataset");
        require!(version.lamport < op.lamport, "a version that it names is not in its past");
    }
    Ok(Ok(Checked { frontier, dataset: Some(creation) }))
}

/// Whether what is known by `new` includes `old`. Both are in the log.
fn covers(log: &AccessLog, new: &[OpId], old: &[OpId]) -> Result<bool, StoreError> {
    log.covers(new, old).map_err(|_| corrupt("an access log"))
}

impl Work<'_> {
    /// Takes an operation into its log if it may be there. All it builds on is in the logs, and its time has come.
    pub(super) fn admit(&mut self, op: &Operation) -> Result<Admitted, StoreError> {
        match op.class() {
            Class::Access => self.admit_access(op),
            Class::Content => self.admit_content(op),
        }
    }

    /// The root of the tree that an operation belongs to.
    pub(super) fn root_for(&self, op: &Operation) -> Result<Option<TopicId>, StoreError> {
        match &op.body {
            Body::CreateTopic { parent: None, .. } => Ok(Some(op.topic())),
            Body::CreateTopic { parent: Some(parent), .. } => self.access.root_of(&*self.txn, parent),
            _ => self.access.root_of(&*self.txn, &op.topic()),
        }
    }

    fn admit_access(&mut self, op: &Operation) -> Result<Admitted, StoreError> {
        let Some(root) = self.root_for(op)? else {
            return Ok(Err(Refused::Invalid("what it names as its topic is none")));
        };
        if self.is_for_user
            && let Err(refused) = self.check_present_access(root, op)?
        {
            return Ok(Err(refused));
        }
        let log = self.access.tree(&*self.txn, root)?;
        self.roots.insert(root);
        let inserted = match log.insert(op.clone()) {
            Ok(inserted) => inserted,
            Err(AccessError::Denied(denial)) => return Ok(Err(refusal(&denial))),
            Err(AccessError::Malformed(rule)) => return Ok(Err(Refused::Invalid(rule))),
            Err(AccessError::TooLarge) => return Ok(Err(Refused::TooLarge)),
            Err(_) => return Ok(Err(Refused::Invalid("a parent is no access operation of its topic or those above"))),
        };
        if let Some(refused) = no_effect(&inserted.verdict).filter(|_| self.is_for_user) {
            return Ok(Err(refused));
        }
        let revision = log.len() as u64;
        let mut statuses = vec![(op.id(), status_of(inserted.verdict))];
        let mut changed_topics = BTreeSet::new();
        for id in &inserted.changed {
            let verdict = log.verdict(id).ok_or_else(|| corrupt("an access log"))?;
            statuses.push((*id, status_of(verdict)));
        }
        if !inserted.changed.is_empty() {
            let changed: BTreeSet<&OpId> = inserted.changed.iter().collect();
            changed_topics.extend(log.ops().filter(|(op, _)| changed.contains(&op.id())).map(|(op, _)| op.topic()));
        }
        let removed = log.removed_by(&op.id());
        log::insert(self.txn, op)?;
        self.txn.put(Table::Meta, &keys::tree_revision(&root), &revision.to_be_bytes())?;
        if matches!(op.body, Body::CreateTopic { .. }) {
            self.txn.put(Table::Meta, &keys::tree_member(&root, &op.topic()), &[])?;
            self.access.note_topic(root, op.topic());
        }
        for (id, status) in statuses.into_iter().filter(|(id, status)| *id != op.id() || *status == OpStatus::Void) {
            log::set_status(self.txn, &id, status)?;
        }
        self.new.push(op.clone());
        if changed_topics.is_empty() {
            self.show_access(root, op)?;
        } else {
            changed_topics.insert(op.topic());
            self.show_tree(root, &changed_topics)?;
        }
        if inserted.removals_changed || !inserted.changed.is_empty() {
            let whose = if inserted.changed.is_empty() { Whose::Of(removed) } else { Whose::Everyones };
            changed_topics.insert(op.topic());
            self.doubt(root, &changed_topics, &whose)?;
        }
        Ok(Ok(()))
    }

    /// Brings topics and grants up to date after an access operation that changed nothing about others.
    fn show_access(&mut self, root: TopicId, op: &Operation) -> Result<(), StoreError> {
        let topic = op.topic();
        let log = self.access.tree(&*self.txn, root)?;
        let is_about_topic = matches!(
            op.body,
            Body::CreateTopic { .. }
                | Body::SetVisibility { .. }
                | Body::ArchiveTopic
                | Body::RestoreTopic
                | Body::DeleteTopic { .. }
        );
        if is_about_topic {
            let state = log.topic_state(&topic).ok_or_else(|| corrupt("an access log"))?;
            self.views.rebuild_topic(self.txn, &state)?;
        }
        let log = self.access.tree(&*self.txn, root)?;
        let users = match &op.body {
            Body::CreateTopic { .. } | Body::ReplaceKey { .. } => vec![op.author],
            Body::Grant { user, .. } | Body::Revoke { user, .. } => vec![*user],
            Body::TransferOwnership { to, .. } => vec![op.author, *to],
            _ => return Ok(()),
        };
        let users: BTreeSet<UserId> = users.iter().flat_map(|user| log.heirs_of(user)).collect();
        let topics: Vec<TopicId> = if op.body.is_removal() {
            log.topics().filter(|below| log.chain(below).contains(&topic)).collect()
        } else {
            vec![topic]
        };
        let mut grants = Vec::new();
        for user in users {
            let held = log.grants_of(&user);
            grants.extend(topics.iter().map(|topic| {
                let resource = Resource::Topic(*topic);
                let on_it = held.iter().filter(|held| held.resource == resource);
                (resource, user, on_it.map(|held| (held.role, held.expires_at)).collect::<Vec<_>>())
            }));
        }
        grants.into_iter().try_for_each(|(resource, user, held)| self.set_grants(&resource, &user, held))
    }

    fn set_grants(
        &mut self,
        resource: &Resource,
        user: &UserId,
        held: Vec<(Role, Option<Timestamp>)>,
    ) -> Result<(), StoreError> {
        let key = keys::grant(resource, user);
        if held.is_empty() {
            self.txn.remove(Table::Grants, &key)
        } else {
            put(self.txn, Table::Grants, &key, &Grants(held))
        }
    }

    /// Makes the topics at and below some, and all grants of their tree, anew.
    fn show_tree(&mut self, root: TopicId, changed: &BTreeSet<TopicId>) -> Result<(), StoreError> {
        let log = self.access.tree(&*self.txn, root)?;
        let is_below = |topic: &TopicId| log.chain(topic).iter().any(|above| changed.contains(above));
        let states: Vec<_> = log.topics().filter(is_below).filter_map(|topic| log.topic_state(&topic)).collect();
        let topics: Vec<TopicId> = log.topics().collect();
        let grants = log.grants_in_force();
        for state in &states {
            self.views.rebuild_topic(self.txn, state)?;
        }
        for topic in topics {
            let prefix = keys::grants_on(&Resource::Topic(topic));
            loop {
                let page = keys_after(&*self.txn, Table::Grants, &prefix, None, limits::MAX_SCANNED)?;
                if page.is_empty() {
                    break;
                }
                page.iter().try_for_each(|key| self.txn.remove(Table::Grants, key))?;
            }
        }
        // They are in the order of resources and users.
        for held in grants.chunk_by(|a, b| (a.resource, a.user) == (b.resource, b.user)) {
            let (resource, user) = (held[0].resource, held[0].user);
            if matches!(resource, Resource::Topic(_)) {
                let held = held.iter().map(|held| (held.role, held.expires_at)).collect();
                self.set_grants(&resource, &user, held)?;
            }
        }
        Ok(())
    }

    fn admit_content(&mut self, op: &Operation) -> Result<Admitted, StoreError> {
        let Some(root) = self.root_for(op)? else {
            return Ok(Err(Refused::Invalid("what it names as its topic is none")));
        };
        let log = self.access.tree(&*self.txn, root)?;
        let checked = match check_content(&*self.txn, log, op)? {
            Ok(checked) => checked,
            Err(refused) => return Ok(Err(refused)),
        };
        if self.is_for_user
            && let Err(refused) = self.check_present(op, &checked)?
        {
            return Ok(Err(refused));
        }
        let verdict = match self.judge_new(root, op, &checked)? {
            Ok(verdict) => verdict,
            Err(denial) => return Ok(Err(refusal(&denial))),
        };
        if let Some(refused) = no_effect(&verdict).filter(|_| self.is_for_user) {
            return Ok(Err(refused));
        }
        let (topic, at) = (op.topic(), op.position());
        log::insert(self.txn, op)?;
        self.txn.put(Table::OpIndex, &keys::op_by_author(&topic, &op.author, at), &[])?;
        self.txn.put(Table::OpIndex, &keys::op_about(&entity_of(op), at), &[])?;
        let log = self.access.tree(&*self.txn, root)?;
        let mut own = op.parents.iter().filter(|id| log.contains(id));
        if !own.by_ref().eq(checked.frontier.iter()) {
            let bytes: Vec<u8> = checked.frontier.iter().flat_map(|id| *id.as_bytes()).collect();
            self.txn.put(Table::OpIndex, &keys::op_frontier(&op.id()), &bytes)?;
        }
        let kept = log.removed_by_keepers_of(&op.id());
        if !kept.is_empty() {
            self.memory.forget_kept(&topic);
            self.doubt_one(topic, &Whose::Of(kept));
        }
        self.new.push(op.clone());
        if verdict.is_valid() {
            self.views.apply(self.txn, op)
        } else {
            log::set_status(self.txn, &op.id(), OpStatus::Void)
        }
        .map(Ok)
    }
}
