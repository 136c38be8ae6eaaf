//! Verdicts on content operations: when they come, and anew when what they rest on changes.

use std::collections::{BTreeMap, BTreeSet};

use super::admit::{Checked, creation, entity_of, frontier, status_of};
use super::{Whose, Work};
use crate::catalog::log::OpStatus;
use crate::catalog::record::{corrupt, keys_after};
use crate::catalog::{keys, log};
use crate::id::{DatasetId, OpId, TopicId, UserId};
use crate::limits;
use crate::op::access::{AccessError, AccessLog, Deed, Denial, Subject, Verdict};
use crate::op::{Body, Class, Operation, Verb};
use crate::port::{CatalogRead, StoreError, Table};

/// Ids of kept operations that are remembered, over all removals.
const MAX_KEPT: usize = 65_536;

/// What was worked out and may be asked again. All of it follows from the catalog.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The operations of an author in a topic that a removal keeps.
    kept: BTreeMap<(TopicId, OpId, UserId), BTreeSet<OpId>>,
}

impl Memory {
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    pub(super) fn forget_kept(&mut self, topic: &TopicId) {
        self.kept.retain(|(of, _, _), _| of != topic);
    }

    /// Whether the `keeps` of a removal lead to an operation.
    fn is_kept(
        &mut self,
        read: &dyn CatalogRead,
        log: &AccessLog,
        removal: &Operation,
        op: &Operation,
    ) -> Result<bool, StoreError> {
        let key = (op.topic(), removal.id(), op.author);
        if let Some(kept) = self.kept.get(&key) {
            return Ok(kept.contains(&op.id()));
        }
        let kept = kept_by(read, log, removal, op)?;
        let is_kept = kept.contains(&op.id());
        let n_kept: usize = self.kept.values().map(|kept| 1 + kept.len()).sum();
        if n_kept + kept.len() > MAX_KEPT {
            self.kept.clear();
        }
        self.kept.insert(key, kept);
        Ok(is_kept)
    }
}

/// The operations by the author of `op`, in its topic, that the `keeps` of a removal lead to.
fn kept_by(
    read: &dyn CatalogRead,
    log: &AccessLog,
    removal: &Operation,
    op: &Operation,
) -> Result<BTreeSet<OpId>, StoreError> {
    let topic = op.topic();
    // Nothing before the author's first one is of interest.
    let first = keys_after(read, Table::OpIndex, &keys::ops_by_author(&topic, &op.author), None, 1)?;
    let first = first.first().and_then(|key| keys::position_of(key)).map_or(op.position(), |at| at.min(op.position()));
    let mut open: BTreeMap<(u64, OpId), Operation> = BTreeMap::new();
    let look = |id: &OpId, open: &mut BTreeMap<(u64, OpId), Operation>| -> Result<(), StoreError> {
        // What is not here keeps nothing here: its parents came before it.
        if !log.contains(id)
            && let Some((_, found)) = log::op(read, id)?
            && found.topic() == topic
            && found.class() == Class::Content
            && found.position() >= first
        {
            open.insert(found.position(), found);
        }
        Ok(())
    };
    for id in &removal.keeps {
        look(id, &mut open)?;
    }
    let mut kept = BTreeSet::new();
    // Highest first, so that each is looked at once.
    while let Some((_, found)) = open.pop_last() {
        if found.author == op.author {
            kept.insert(found.id());
        }
        for parent in &found.parents {
            look(parent, &mut open)?;
        }
    }
    Ok(kept)
}

/// What a content operation does, as the verb table knows it.
pub(super) const fn verb_of(body: &Body) -> Verb {
    match body {
        Body::UpdateTopic(_) => Verb::UpdateTopic,
        Body::CreateDataset { .. } => Verb::CreateDataset,
        Body::UpdateDataset { .. } => Verb::UpdateDataset,
        Body::ArchiveDataset { .. } => Verb::ArchiveDataset,
        Body::RestoreDataset { .. } => Verb::RestoreDataset,
        Body::DeleteDataset { .. } => Verb::DeleteDataset,
        Body::WithdrawVersion { .. } => Verb::WithdrawVersion,
        _ => Verb::PublishVersion,
    }
}

/// What a content operation does it to.
pub(super) fn subject_of<'a>(op: &Operation, checked: &'a Checked) -> Subject<'a> {
    match &checked.dataset {
        None => Subject::Topic(op.topic()),
        Some(creation) => Subject::Dataset {
            id: creation.id,
            topic: op.topic(),
            creator: creation.author,
            created_after: &creation.frontier,
        },
    }
}

fn deed<'a>(op: &Operation, checked: &'a Checked) -> Deed<'a> {
    Deed {
        author: op.author,
        verb: verb_of(&op.body),
        subject: subject_of(op, checked),
        heads: &checked.frontier,
        time: op.time,
    }
}

fn judge(
    read: &dyn CatalogRead,
    memory: &mut Memory,
    log: &AccessLog,
    op: &Operation,
    checked: &Checked,
) -> Result<Verdict, StoreError> {
    let mut failed = None;
    let verdict = log.judge_content(&deed(op, checked), |removal| {
        memory.is_kept(read, log, removal, op).unwrap_or_else(|error| {
            failed = Some(error);
            false
        })
    });
    match failed {
        Some(error) => Err(error),
        None => verdict.map_err(|_| corrupt("an access log")),
    }
}

impl Work<'_> {
    /// Whether a content operation is admitted by its past, and the verdict by everything that is known.
    pub(super) fn judge_new(
        &mut self,
        root: TopicId,
        op: &Operation,
        checked: &Checked,
    ) -> Result<Result<Verdict, Denial>, StoreError> {
        let log = self.access.tree(&*self.txn, root)?;
        match log.admits_content(&deed(op, checked)) {
            Ok(()) => {}
            Err(AccessError::Denied(denial)) => return Ok(Err(denial)),
            Err(_) => return Err(corrupt("an access log")),
        }
        judge(&*self.txn, self.memory, log, op, checked).map(Ok)
    }

    /// Notes that content of topics, and of those below them, has to be judged anew.
    pub(super) fn doubt(&mut self, root: TopicId, topics: &BTreeSet<TopicId>, whose: &Whose) -> Result<(), StoreError> {
        let log = self.access.tree(&*self.txn, root)?;
        let is_below = |topic: &TopicId| log.chain(topic).iter().any(|above| topics.contains(above));
        let below: Vec<TopicId> = log.topics().filter(is_below).collect();
        below.into_iter().for_each(|topic| self.doubt_one(topic, whose));
        Ok(())
    }

    /// Notes that content of a topic has to be judged anew.
    pub(super) fn doubt_one(&mut self, topic: TopicId, whose: &Whose) {
        let doubted = self.doubtful.entry(topic).or_insert_with(|| Whose::Of(BTreeSet::new()));
        match (&mut *doubted, whose) {
            (Whose::Everyones, _) => {}
            (_, Whose::Everyones) => *doubted = Whose::Everyones,
            (Whose::Of(users), Whose::Of(more)) => users.extend(more),
        }
    }

    /// Judges doubtful content anew, and makes what changed by that.
    pub(super) fn judge_anew(&mut self) -> Result<(), StoreError> {
        while let Some((topic, whose)) = self.doubtful.pop_first() {
            let mut changed = BTreeSet::new();
            match whose {
                Whose::Everyones => {
                    self.judge_log(topic, Table::OpOrder, &keys::log_prefix(&topic, Class::Content), &mut changed)?
                }
                Whose::Of(users) => {
                    for user in users {
                        self.judge_log(topic, Table::OpIndex, &keys::ops_by_author(&topic, &user), &mut changed)?;
                    }
                }
            }
            for entity in changed {
                if entity == OpId::from(topic) {
                    let root = self.access.root_of(&*self.txn, &topic)?.ok_or_else(|| corrupt("a topic"))?;
                    let state = self.access.tree(&*self.txn, root)?.topic_state(&topic);
                    self.views.rebuild_topic(self.txn, &state.ok_or_else(|| corrupt("an access log"))?)?;
                } else {
                    self.views.rebuild_dataset(self.txn, &DatasetId::from(entity))?;
                }
            }
        }
        Ok(())
    }

    /// Judges the operations under a prefix; adds what those are about whose verdict is another now.
    fn judge_log(
        &mut self,
        topic: TopicId,
        table: Table,
        prefix: &[u8],
        changed: &mut BTreeSet<OpId>,
    ) -> Result<(), StoreError> {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = keys_after(&*self.txn, table, prefix, after.as_deref(), limits::MAX_SCANNED)?;
            let Some(last) = page.last() else { return Ok(()) };
            let root = self.access.root_of(&*self.txn, &topic)?.ok_or_else(|| corrupt("a topic"))?;
            for key in &page {
                let (_, id) = keys::position_of(key).ok_or_else(|| corrupt("a position"))?;
                let log = &*self.access.tree(&*self.txn, root)?;
                let (before, op) = log::op(&*self.txn, &id)?.ok_or_else(|| corrupt("an operation"))?;
                let checked = checked_before(&*self.txn, log, &op)?;
                let status: OpStatus = status_of(judge(&*self.txn, self.memory, log, &op, &checked)?);
                if status != before {
                    log::set_status(self.txn, &id, status)?;
                    changed.insert(entity_of(&op));
                }
            }
            after = Some(last.clone());
        }
    }
}

/// What was found when an operation of the catalog was checked.
fn checked_before(read: &dyn CatalogRead, log: &AccessLog, op: &Operation) -> Result<Checked, StoreError> {
    let entity = entity_of(op);
    let is_about_dataset = entity != op.id() && entity != OpId::from(op.topic());
    let dataset = match is_about_dataset {
        true => Some(creation(read, log, op.topic(), entity.into())?.ok_or_else(|| corrupt("a dataset's creation"))?),
        false => None,
    };
    Ok(Checked { frontier: frontier(read, log, op)?, dataset })
}
