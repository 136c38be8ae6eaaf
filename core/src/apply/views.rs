//! What the operations that count make of topics, datasets and versions.
//!
//! Invariant: the records depend on the set of operations that count alone. Each change is made so that its order does
//! not matter: a field has the value of the highest position, a count counts, a tombstone takes everything else away;
//! an operation comes after those it names. Where an operation stops to count (or begins to), what it is about is taken
//! away and made anew from its operations.

use std::collections::BTreeMap;

use super::grace;
use super::store::{add, put};
use crate::catalog::log::OpStatus;
use crate::catalog::record::{Charge, corrupt, keys_after};
use crate::catalog::{keys, log, record, resolve};
use crate::id::{DatasetId, OpId, TopicId, VersionId};
use crate::limits;
use crate::model::{Dataset, DatasetStatus, Topic, TopicStatus, Version, VersionStatus};
use crate::op::access::TopicState;
use crate::op::operation::{FieldChanges, NewVersion};
use crate::op::{Body, Operation};
use crate::port::{CatalogRead, CatalogTxn, StoreError, Table};
use crate::time::Timestamp;
use crate::wire::message::OpKey;

/// Numbers of the fields in `Fields`: part of the format.
const DESCRIPTION: u8 = 0;
const TAGS: u8 = 1;
const METADATA: u8 = 2;
const SCHEMA: u8 = 3;
const STATUS: u8 = 4;
const N_FIELDS: u8 = 5;

/// The writer of views; remembers which versions came and went.
#[derive(Debug)]
pub(super) struct Views {
    now: Timestamp,
    /// Versions that were put or removed, and whether they were there before.
    touched: BTreeMap<VersionId, bool>,
}

/// The fields that topics and datasets have in common.
macro_rules! merge_fields {
    ($txn:expr, $entity:expr, $op:expr, $fields:expr, $record:expr) => {{
        let (entity, at): (OpId, OpKey) = ($entity, $op.position());
        if let Some(description) = &$fields.description
            && wins($txn, &entity, DESCRIPTION, at)?
        {
            $record.description = description.clone();
        }
        if let Some(tags) = &$fields.tags
            && wins($txn, &entity, TAGS, at)?
        {
            $record.tags = tags.clone();
        }
        if let Some(metadata) = &$fields.metadata
            && wins($txn, &entity, METADATA, at)?
        {
            $record.metadata = metadata.clone();
        }
        if let Some(schema) = &$fields.schema
            && wins($txn, &entity, SCHEMA, at)?
        {
            $record.schema = schema.clone();
        }
        $record.updated_at = $record.updated_at.max($op.time);
    }};
}

/// Whether a position is the highest so far that sets a field; then it is noted. What creates a thing needs no note:
/// its position is below that of everything about the thing.
fn wins(txn: &mut dyn CatalogTxn, entity: &OpId, field: u8, (lamport, id): OpKey) -> Result<bool, StoreError> {
    let key = keys::field(entity, field);
    let mut value = lamport.to_be_bytes().to_vec();
    value.extend_from_slice(id.as_bytes());
    let is_higher = txn.get(Table::Fields, &key)?.is_none_or(|known| known < value);
    if is_higher {
        txn.put(Table::Fields, &key, &value)?;
    }
    Ok(is_higher)
}

fn clear_fields(txn: &mut dyn CatalogTxn, entity: &OpId) -> Result<(), StoreError> {
    (0..N_FIELDS).try_for_each(|field| txn.remove(Table::Fields, &keys::field(entity, field)))
}

/// The first two under a name or number, oldest first.
fn first_two(read: &dyn CatalogRead, table: Table, prefix: &[u8]) -> Result<Vec<OpId>, StoreError> {
    let keys = keys_after(read, table, prefix, None, 2)?;
    keys.iter().map(|key| Ok(keys::position_of(key).ok_or_else(|| corrupt("the key of a name"))?.1)).collect()
}

/// Marks who holds a name or number after one came or went: the first does, the second (which may have been the first)
/// does not, and nothing changes for the others.
macro_rules! settle {
    ($txn:expr, $index:expr, $prefix:expr, $table:expr, $record:ty, $flag:ident) => {
        for (i, id) in first_two(&*$txn, $index, $prefix)?.into_iter().enumerate() {
            let found: Option<$record> = record::get(&*$txn, $table, id.as_bytes())?;
            let mut found = found.ok_or_else(|| corrupt("what a name stands for"))?;
            if found.$flag != (i > 0) {
                found.$flag = i > 0;
                put($txn, $table, id.as_bytes(), &found)?;
            }
        }
    };
}

fn is_first(read: &dyn CatalogRead, table: Table, prefix: &[u8], id: &OpId) -> Result<bool, StoreError> {
    Ok(first_two(read, table, prefix)?.first().is_none_or(|first| first == id))
}

impl Views {
    pub(super) const fn new(now: Timestamp) -> Self {
        Self { now, touched: BTreeMap::new() }
    }

    /// The versions that are there and were not, ascending.
    pub(super) fn new_versions(&self, read: &dyn CatalogRead) -> Result<Vec<VersionId>, StoreError> {
        let mut new = Vec::new();
        for (id, _) in self.touched.iter().filter(|(_, was_there)| !**was_there) {
            if read.get(Table::Versions, id.as_bytes())?.is_some() {
                new.push(*id);
            }
        }
        Ok(new)
    }

    /// Takes a content operation that counts and is not in the views.
    pub(super) fn apply(&mut self, txn: &mut dyn CatalogTxn, op: &Operation) -> Result<(), StoreError> {
        match &op.body {
            Body::UpdateTopic(fields) => update_topic(txn, op, fields),
            Body::CreateDataset { name: _, fields } => create_dataset(txn, op, fields),
            Body::UpdateDataset { dataset, .. }
            | Body::ArchiveDataset { dataset }
            | Body::RestoreDataset { dataset }
            | Body::DeleteDataset { dataset }
            | Body::WithdrawVersion { dataset, .. } => self.change_dataset(txn, dataset, op),
            Body::PublishVersion(version) => self.change_dataset(txn, &version.dataset, op),
            _ => Ok(()),
        }
    }

    fn change_dataset(&mut self, txn: &mut dyn CatalogTxn, id: &DatasetId, op: &Operation) -> Result<(), StoreError> {
        // Without a record its creation does not count.
        let Some(mut dataset) = record::dataset(&*txn, id)? else { return Ok(()) };
        if dataset.status == DatasetStatus::Deleted {
            if matches!(op.body, Body::DeleteDataset { .. }) {
                dataset.updated_at = dataset.updated_at.max(op.time);
                put(txn, Table::Datasets, id.as_bytes(), &dataset)?;
            }
            return Ok(());
        }
        match &op.body {
            Body::UpdateDataset { fields, .. } => merge_fields!(txn, (*id).into(), op, fields, dataset),
            Body::ArchiveDataset { .. } if wins(txn, &(*id).into(), STATUS, op.position())? => {
                dataset.status = DatasetStatus::Archived;
            }
            Body::RestoreDataset { .. } if wins(txn, &(*id).into(), STATUS, op.position())? => {
                let is_draft = dataset.version_count == 0;
                dataset.status = if is_draft { DatasetStatus::Draft } else { DatasetStatus::Active };
            }
            Body::DeleteDataset { .. } => return self.delete_dataset(txn, dataset, op),
            Body::PublishVersion(version) => self.publish(txn, &mut dataset, version, op)?,
            Body::WithdrawVersion { version, .. } if !withdraw(txn, version)? => return Ok(()),
            _ => {}
        }
        if matches!(op.body, Body::PublishVersion(_) | Body::WithdrawVersion { .. }) {
            dataset.latest = latest(&*txn, id)?;
        }
        dataset.updated_at = dataset.updated_at.max(op.time);
        put(txn, Table::Datasets, id.as_bytes(), &dataset)
    }

    fn publish(
        &mut self,
        txn: &mut dyn CatalogTxn,
        dataset: &mut Dataset,
        new: &NewVersion,
        op: &Operation,
    ) -> Result<(), StoreError> {
        let id = VersionId::from(op.id());
        self.touched.entry(id).or_insert(false);
        txn.put(Table::VersionNumbers, &keys::version_number(&dataset.id, &new.semver, op.position()), &[0])?;
        let number = keys::version_number_prefix(&dataset.id, &new.semver);
        let version = Version {
            id,
            dataset: dataset.id,
            topic: dataset.topic,
            semver: new.semver.clone(),
            semver_taken: !is_first(&*txn, Table::VersionNumbers, &number, &op.id())?,
            previous: new.previous,
            message: new.message.clone(),
            manifest: new.manifest,
            content: new.content,
            size: new.size,
            n_files: new.n_files,
            format: new.format,
            schema: new.schema.clone(),
            row_count: new.row_count,
            license: new.license.clone(),
            source_url: new.source_url.clone(),
            status: VersionStatus::Active,
            created_by: op.author,
            created_at: op.time,
        };
        put(txn, Table::Versions, id.as_bytes(), &version)?;
        settle!(txn, Table::VersionNumbers, &number, Table::Versions, Version, semver_taken);
        let order = keys::version_order(&dataset.id, op.position());
        txn.put(Table::VersionOrder, &order, new.semver.to_string().as_bytes())?;
        grace::name(txn, &new.manifest, Charge::of(dataset.topic, op.author, new.size))?;
        dataset.version_count = dataset.version_count.saturating_add(1);
        if dataset.status == DatasetStatus::Draft {
            dataset.status = DatasetStatus::Active;
        }
        Ok(())
    }

    fn delete_dataset(&mut self, txn: &mut dyn CatalogTxn, dataset: Dataset, op: &Operation) -> Result<(), StoreError> {
        self.clear_dataset(txn, &dataset)?;
        let tombstone = Dataset {
            name_taken: false,
            description: String::new(),
            status: DatasetStatus::Deleted,
            tags: Default::default(),
            metadata: Default::default(),
            schema: None,
            updated_at: op.time,
            latest: None,
            version_count: 0,
            ..dataset
        };
        put(txn, Table::Datasets, tombstone.id.as_bytes(), &tombstone)
    }

    /// Removes everything of a dataset but its record.
    fn clear_dataset(&mut self, txn: &mut dyn CatalogTxn, dataset: &Dataset) -> Result<(), StoreError> {
        let prefix = keys::versions_of(&dataset.id);
        loop {
            let page = keys_after(&*txn, Table::VersionOrder, &prefix, None, limits::MAX_SCANNED)?;
            for key in &page {
                let at = keys::position_of(key).ok_or_else(|| corrupt("the key of a version"))?;
                let id = VersionId::from(at.1);
                let version = record::version(&*txn, &id)?.ok_or_else(|| corrupt("a version"))?;
                self.touched.entry(id).or_insert(true);
                txn.remove(Table::VersionOrder, key)?;
                txn.remove(Table::VersionNumbers, &keys::version_number(&dataset.id, &version.semver, at))?;
                txn.remove(Table::Versions, id.as_bytes())?;
                let was_withdrawn = version.status == VersionStatus::Withdrawn;
                grace::unname(txn, &version.manifest, was_withdrawn, self.now)?;
            }
            if page.len() < limits::MAX_SCANNED {
                break;
            }
        }
        clear_fields(txn, &dataset.id.into())?;
        if dataset.status != DatasetStatus::Deleted {
            let prefix = keys::dataset_name_prefix(&dataset.topic, &dataset.name);
            let at = position_of_op(&*txn, &dataset.id.into())?;
            txn.remove(Table::DatasetNames, &keys::dataset_name(&dataset.topic, &dataset.name, at))?;
            settle!(txn, Table::DatasetNames, &prefix, Table::Datasets, Dataset, name_taken);
            add(txn, Table::Meta, &keys::dataset_count(&dataset.topic), -1)?;
        }
        Ok(())
    }

    /// Makes a dataset anew from the operations about it that count.
    pub(super) fn rebuild_dataset(&mut self, txn: &mut dyn CatalogTxn, id: &DatasetId) -> Result<(), StoreError> {
        if let Some(dataset) = record::dataset(&*txn, id)? {
            self.clear_dataset(txn, &dataset)?;
            txn.remove(Table::Datasets, id.as_bytes())?;
        }
        self.replay(txn, &(*id).into())
    }

    /// Applies the content operations about a thing that count, in their order.
    fn replay(&mut self, txn: &mut dyn CatalogTxn, entity: &OpId) -> Result<(), StoreError> {
        let prefix = keys::ops_about(entity);
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = keys_after(&*txn, Table::OpIndex, &prefix, after.as_deref(), limits::MAX_SCANNED)?;
            let Some(last) = page.last() else { return Ok(()) };
            for key in &page {
                let (_, id) = keys::position_of(key).ok_or_else(|| corrupt("a position"))?;
                let (status, op) = log::op(&*txn, &id)?.ok_or_else(|| corrupt("an operation"))?;
                if status == OpStatus::Valid {
                    self.apply(txn, &op)?;
                }
            }
            after = Some(last.clone());
        }
    }

    /// Makes a topic anew, from what the access operations say of it and from the content operations that count. One
    /// that was deleted, or whose creation does not count, is a tombstone: it has no name, but its log goes on.
    pub(super) fn rebuild_topic(&mut self, txn: &mut dyn CatalogTxn, state: &TopicState) -> Result<(), StoreError> {
        let (_, create) = log::op(&*txn, &state.id.into())?.ok_or_else(|| corrupt("an operation"))?;
        let Body::CreateTopic { fields, .. } = &create.body else { return Err(corrupt("the creation of a topic")) };
        let prefix = keys::topic_name_prefix(state.parent.as_ref(), &state.name);
        let name_key = keys::topic_name(state.parent.as_ref(), &state.name, create.position());
        let status = if state.is_valid { state.status } else { TopicStatus::Deleted };
        let is_tombstone = status == TopicStatus::Deleted;
        clear_fields(txn, &create.id())?;
        if is_tombstone {
            txn.remove(Table::TopicNames, &name_key)?;
        } else {
            txn.put(Table::TopicNames, &name_key, &[])?;
        }
        let name_taken = !is_tombstone && !is_first(&*txn, Table::TopicNames, &prefix, &create.id())?;
        let fields = if is_tombstone { FieldChanges::default() } else { fields.clone() };
        let topic = Topic {
            id: state.id,
            parent: state.parent,
            name: state.name.clone(),
            name_taken,
            description: fields.description.unwrap_or_default(),
            schema: fields.schema.flatten(),
            visibility: state.visibility,
            status,
            tags: fields.tags.unwrap_or_default(),
            metadata: fields.metadata.unwrap_or_default(),
            created_by: create.author,
            created_at: create.time,
            updated_at: state.updated_at,
        };
        put(txn, Table::Topics, state.id.as_bytes(), &topic)?;
        settle!(txn, Table::TopicNames, &prefix, Table::Topics, Topic, name_taken);
        if is_tombstone { Ok(()) } else { self.replay(txn, &create.id()) }
    }
}

fn position_of_op(read: &dyn CatalogRead, id: &OpId) -> Result<OpKey, StoreError> {
    Ok(log::op(read, id)?.ok_or_else(|| corrupt("an operation"))?.1.position())
}

fn update_topic(txn: &mut dyn CatalogTxn, op: &Operation, fields: &FieldChanges) -> Result<(), StoreError> {
    let id: TopicId = op.topic();
    let mut topic = record::topic(&*txn, &id)?.ok_or_else(|| corrupt("a topic"))?;
    if topic.status == TopicStatus::Deleted {
        return Ok(());
    }
    merge_fields!(txn, id.into(), op, fields, topic);
    put(txn, Table::Topics, id.as_bytes(), &topic)
}

fn create_dataset(txn: &mut dyn CatalogTxn, op: &Operation, fields: &FieldChanges) -> Result<(), StoreError> {
    let Body::CreateDataset { name, .. } = &op.body else { return Ok(()) };
    let (id, topic) = (DatasetId::from(op.id()), op.topic());
    txn.put(Table::DatasetNames, &keys::dataset_name(&topic, name, op.position()), &[])?;
    let prefix = keys::dataset_name_prefix(&topic, name);
    let fields = fields.clone();
    let dataset = Dataset {
        id,
        topic,
        name: name.clone(),
        name_taken: !is_first(&*txn, Table::DatasetNames, &prefix, &op.id())?,
        description: fields.description.unwrap_or_default(),
        status: DatasetStatus::Draft,
        tags: fields.tags.unwrap_or_default(),
        metadata: fields.metadata.unwrap_or_default(),
        schema: fields.schema.flatten(),
        created_by: op.author,
        created_at: op.time,
        updated_at: op.time,
        latest: None,
        version_count: 0,
    };
    put(txn, Table::Datasets, id.as_bytes(), &dataset)?;
    settle!(txn, Table::DatasetNames, &prefix, Table::Datasets, Dataset, name_taken);
    add(txn, Table::Meta, &keys::dataset_count(&topic), 1)
}

/// Returns whether the version is there.
fn withdraw(txn: &mut dyn CatalogTxn, id: &VersionId) -> Result<bool, StoreError> {
    let Some(mut version) = record::version(&*txn, id)? else { return Ok(false) };
    if version.status == VersionStatus::Active {
        grace::withdraw(txn, &version.manifest)?;
    }
    version.status = VersionStatus::Withdrawn;
    put(txn, Table::Versions, id.as_bytes(), &version)?;
    let at = position_of_op(&*txn, &(*id).into())?;
    txn.put(Table::VersionNumbers, &keys::version_number(&version.dataset, &version.semver, at), &[1])?;
    Ok(true)
}

/// The highest active release of a dataset, else its highest active version.
fn latest(read: &dyn CatalogRead, dataset: &DatasetId) -> Result<Option<VersionId>, StoreError> {
    match resolve::highest_active(read, &keys::numbers_of(dataset, true))? {
        None => resolve::highest_active(read, &keys::numbers_of(dataset, false)),
        found => Ok(found),
    }
}
