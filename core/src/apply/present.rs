//! What a user of this node is told when the present state does not allow what they ask for, though their operation
//! could be in the log.

use super::Work;
use super::admit::{Checked, refusal};
use super::judge::{subject_of, verb_of};
use crate::catalog::record::{corrupt, keys_after};
use crate::catalog::{keys, record};
use crate::command::Refused;
use crate::id::{DatasetId, TopicId};
use crate::model::{Dataset, DatasetStatus, TopicStatus, VersionStatus};
use crate::op::access::Subject;
use crate::op::operation::NewVersion;
use crate::op::{Body, Operation, Resource, Verb};
use crate::port::{StoreError, Table};

type Allowed = Result<(), Refused>;

impl Work<'_> {
    /// Whether the present state allows a content operation.
    pub(super) fn check_present(&mut self, op: &Operation, checked: &Checked) -> Result<Allowed, StoreError> {
        let Some(root) = self.root_for(op)? else { return Err(corrupt("a topic")) };
        // A right that has run out by this node's clock is none, whatever time the operation carries.
        let time = self.now.max(op.time);
        let log = self.access.tree(&*self.txn, root)?;
        if let Err(denial) = log.may_now(&op.author, verb_of(&op.body), subject_of(op, checked), time) {
            return Ok(Err(refusal(&denial)));
        }
        match &op.body {
            Body::CreateDataset { name, .. } => {
                let prefix = keys::dataset_name_prefix(&op.topic(), name);
                if keys_after(&*self.txn, Table::DatasetNames, &prefix, None, 1)?.is_empty() {
                    return Ok(Ok(()));
                }
                Ok(Err(Refused::Exists(format!("there is a dataset `{name}` in the topic already"))))
            }
            Body::UpdateDataset { dataset, .. } => self.check_dataset(dataset, false),
            Body::ArchiveDataset { dataset } => self.check_dataset(dataset, false),
            Body::RestoreDataset { dataset } => match self.live_dataset(dataset)? {
                Ok(found) if found.status != DatasetStatus::Archived => {
                    Ok(Err(Refused::Precondition(format!("the dataset `{}` is not archived", found.name))))
                }
                found => Ok(found.map(drop)),
            },
            Body::DeleteDataset { dataset } => self.check_dataset(dataset, true),
            Body::PublishVersion(version) => self.check_version(version),
            Body::WithdrawVersion { dataset, version } => {
                if let Err(refused) = self.check_dataset(dataset, false)? {
                    return Ok(Err(refused));
                }
                match record::version(&*self.txn, version)? {
                    None => Ok(Err(Refused::NotFound(format!("there is no version {version}")))),
                    Some(found) if found.status == VersionStatus::Withdrawn => {
                        Ok(Err(Refused::Precondition(format!("version {} is withdrawn already", found.semver))))
                    }
                    Some(_) => Ok(Ok(())),
                }
            }
            _ => Ok(Ok(())),
        }
    }

    fn live_dataset(&self, id: &DatasetId) -> Result<Result<Dataset, Refused>, StoreError> {
        Ok(match record::dataset(&*self.txn, id)? {
            None => Err(Refused::NotFound(format!("there is no dataset {id}"))),
            Some(found) if found.status == DatasetStatus::Deleted => {
                Err(Refused::NotFound(format!("the dataset `{}` is deleted", found.name)))
            }
            Some(found) => Ok(found),
        })
    }

    fn check_dataset(&self, id: &DatasetId, also_archived: bool) -> Result<Allowed, StoreError> {
        Ok(self.live_dataset(id)?.and_then(|found| {
            if found.status == DatasetStatus::Archived && !also_archived {
                Err(Refused::Archived(format!("the dataset `{}` is archived: restore it first", found.name)))
            } else {
                Ok(())
            }
        }))
    }

    fn check_version(&self, version: &NewVersion) -> Result<Allowed, StoreError> {
        if let Err(refused) = self.check_dataset(&version.dataset, false)? {
            return Ok(Err(refused));
        }
        let prefix = keys::version_number_prefix(&version.dataset, &version.semver);
        if !keys_after(&*self.txn, Table::VersionNumbers, &prefix, None, 1)?.is_empty() {
            let why = format!("version {} is there already", version.semver);
            return Ok(Err(Refused::Exists(why)));
        }
        match &version.previous {
            Some(previous) if record::version(&*self.txn, previous)?.is_none() => {
                Ok(Err(Refused::NotFound(format!("there is no version {previous} to follow"))))
            }
            _ => Ok(Ok(())),
        }
    }

    /// Whether the present state allows an access operation. Removals are judged by what they do, once they are in
    /// the log.
    pub(super) fn check_present_access(&mut self, root: TopicId, op: &Operation) -> Result<Allowed, StoreError> {
        let topic = op.topic();
        let asked = match &op.body {
            Body::CreateTopic { parent: Some(parent), .. } => Some((Verb::CreateTopic, *parent)),
            Body::SetVisibility { .. } => Some((Verb::SetVisibility, topic)),
            Body::ArchiveTopic => Some((Verb::ArchiveTopic, topic)),
            Body::RestoreTopic => Some((Verb::RestoreTopic, topic)),
            Body::DeleteTopic { .. } => Some((Verb::DeleteTopic, topic)),
            Body::Grant { resource: Resource::Topic(_), role, .. } => Some((Verb::grant(*role), topic)),
            Body::TransferOwnership { resource: Resource::Topic(_), .. } => Some((Verb::TransferOwnership, topic)),
            _ => None,
        };
        let time = self.now.max(op.time);
        if let Some((verb, on)) = asked {
            let log = self.access.tree(&*self.txn, root)?;
            if let Err(denial) = log.may_now(&op.author, verb, Subject::Topic(on), time) {
                return Ok(Err(refusal(&denial)));
            }
        }
        match &op.body {
            Body::CreateTopic { parent, name, .. } => {
                let prefix = keys::topic_name_prefix(parent.as_ref(), name);
                let is_free = keys_after(&*self.txn, Table::TopicNames, &prefix, None, 1)?.is_empty();
                let taken = || Refused::Exists(format!("there is a topic `{name}` already"));
                Ok(if is_free { Ok(()) } else { Err(taken()) })
            }
            Body::RestoreTopic => {
                let is_archived =
                    record::topic(&*self.txn, &topic)?.is_some_and(|topic| topic.status == TopicStatus::Archived);
                let active = || Refused::Precondition("the topic is not archived".to_owned());
                Ok(if is_archived { Ok(()) } else { Err(active()) })
            }
            Body::DeleteTopic { force: false } => self.check_no_active_child(&topic),
            _ => Ok(Ok(())),
        }
    }

    fn check_no_active_child(&self, topic: &TopicId) -> Result<Allowed, StoreError> {
        let prefix = keys::topics_below(Some(topic));
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = keys_after(&*self.txn, Table::TopicNames, &prefix, after.as_deref(), 64)?;
            let Some(last) = page.last() else { return Ok(Ok(())) };
            for key in &page {
                let (_, id) = keys::position_of(key).ok_or_else(|| corrupt("the key of a name"))?;
                let child = record::topic(&*self.txn, &id.into())?.ok_or_else(|| corrupt("a topic"))?;
                if child.status == TopicStatus::Active {
                    let why = format!("the topic `{}` below it is active: delete that first, or use force", child.name);
                    return Ok(Err(Refused::Precondition(why)));
                }
            }
            after = Some(last.clone());
        }
    }
}
