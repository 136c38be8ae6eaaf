//! Looks whether the catalog can be believed before something is given up that it does not name.
//!
//! The signed operations prove themselves by their hashes, and the figures of their logs that none is gone. So each is
//! hashed and counted, and what it made is looked at: the topic, the dataset or the version that should be there is there,
//! and the other way round; a version names the manifest that was signed, and that manifest is kept; what is deleted was
//! deleted by somebody. What becomes of topics follows from their access logs, which are weighed anew for that.
//!
//! Everything that a step compares is of one state of the catalog, so that the catalog may change between two steps.
//!
//! Deliberately absent: whether an operation counts, beyond that its effect is there when it does and is not when it does
//! not; what does not decide about content, such as names, numbers and descriptions; content that somebody staged and did
//! not name yet.

use std::ops::{Bound, ControlFlow};

use crate::catalog::access::{AccessCache, root_of};
use crate::catalog::log::{self, Figures, OpStatus};
use crate::catalog::record::{self, Pin, corrupt, keys_after};
use crate::catalog::{access, keys};
use crate::id::{DatasetId, ManifestId, OpId, TopicId, VersionId};
use crate::limits::COLLECT_STEP;
use crate::machine::collect::hidden::each_pin;
use crate::model::{DatasetStatus, TopicStatus, VersionStatus};
use crate::op::operation::NewVersion;
use crate::op::{Body, Operation};
use crate::port::{CatalogRead, Order, StoreError, Table};

/// Records that one step looks at.
const STEP: usize = 512;
/// Operations about a dataset that are looked at together.
const ABOUT: usize = 64;

#[derive(Debug, Clone)]
enum Pass {
    Ops(Option<OpId>),
    Trees(Option<TopicId>),
    Pins(Option<ManifestId>),
    Kept(Option<Vec<u8>>),
    Figures,
}

/// See the module.
#[derive(Debug)]
pub struct Check {
    pass: Pass,
    /// What the logs said of themselves when the operations began to be counted, and what was counted.
    before: Option<Figures>,
    seen: Figures,
}

impl Default for Check {
    fn default() -> Self {
        Self { pass: Pass::Ops(None), before: None, seen: Figures::default() }
    }
}

fn damaged(what: &str) -> StoreError {
    StoreError::Corrupt(format!("the catalog is damaged: {what}"))
}

fn require(holds: bool, what: &str) -> Result<(), StoreError> {
    if holds { Ok(()) } else { Err(damaged(what)) }
}

impl Check {
    /// Goes on by some hundred records; `true` at the end.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when something is not what was signed; others when the catalog cannot be read.
    pub fn step(&mut self, read: &dyn CatalogRead) -> Result<bool, StoreError> {
        match &self.pass {
            Pass::Ops(after) => {
                let next = self.ops(read, *after)?;
                self.pass = next.map_or(Pass::Trees(None), |next| Pass::Ops(Some(next)));
            }
            Pass::Trees(after) => {
                let next = trees(read, *after)?;
                self.pass = next.map_or(Pass::Pins(None), |next| Pass::Trees(Some(next)));
            }
            Pass::Pins(after) => {
                let next = pins(read, *after)?;
                self.pass = next.map_or(Pass::Kept(None), |next| Pass::Pins(Some(next)));
            }
            Pass::Kept(after) => {
                let next = kept(read, after.as_deref())?;
                self.pass = next.map_or(Pass::Figures, |next| Pass::Kept(Some(next)));
            }
            Pass::Figures => {
                let now = all_figures(read)?;
                // What came meanwhile was counted in part; then all are counted in one state of the catalog.
                let seen = if self.before == Some(now) { self.seen } else { count(read)? };
                require(seen == now, "operations are gone")?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn ops(&mut self, read: &dyn CatalogRead, after: Option<OpId>) -> Result<Option<OpId>, StoreError> {
        if self.before.is_none() {
            self.before = Some(all_figures(read)?);
        }
        let mut found: Vec<(OpId, Vec<u8>)> = Vec::new();
        let mut bad_key = false;
        let from = after.as_ref().map_or(Bound::Unbounded, |after| Bound::Excluded(after.as_bytes().as_slice()));
        read.scan(Table::Ops, (from, Bound::Unbounded), Order::Ascending, &mut |key, value| {
            match OpId::from_slice(key) {
                Some(id) => found.push((id, value.to_vec())),
                None => bad_key = true,
            }
            if found.len() < STEP && !bad_key { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        require(!bad_key, "an operation has no id")?;
        for (id, value) in &found {
            self.seen.add(id);
            op(read, id, value)?;
        }
        Ok(found.last().filter(|_| found.len() >= STEP).map(|(id, _)| *id))
    }
}

/// What all logs say of themselves, together.
fn all_figures(read: &dyn CatalogRead) -> Result<Figures, StoreError> {
    let mut all = Figures::default();
    log::visit_logs(read, None, &mut |_, figures| {
        all.join(&figures);
        ControlFlow::Continue(())
    })?;
    Ok(all)
}

/// All operations that are there.
fn count(read: &dyn CatalogRead) -> Result<Figures, StoreError> {
    let mut all = Figures::default();
    read.scan(Table::Ops, (Bound::Unbounded, Bound::Unbounded), Order::Ascending, &mut |key, _| {
        if let Some(id) = OpId::from_slice(key) {
            all.add(&id);
        }
        ControlFlow::Continue(())
    })?;
    Ok(all)
}

/// Whether an operation is what was signed, and what the catalog made of it.
fn op(read: &dyn CatalogRead, id: &OpId, value: &[u8]) -> Result<(), StoreError> {
    let (status, bytes) = value.split_first().ok_or_else(|| damaged("an operation is empty"))?;
    let status = OpStatus::from_byte(*status).ok_or_else(|| damaged("an operation counts neither nor does not"))?;
    let op = Operation::decode_trusted(bytes).map_err(|_| damaged("an operation does not read back"))?;
    require(op.id() == *id, "an operation is not the one that was signed")?;
    let counts = status == OpStatus::Valid;
    match &op.body {
        Body::CreateTopic { .. } => topic(read, &op.topic()),
        Body::CreateDataset { .. } => dataset(read, &DatasetId::from(*id), counts),
        Body::DeleteDataset { dataset } if counts => {
            let found = record::dataset(read, dataset)?;
            require(found.is_none_or(|found| found.status == DatasetStatus::Deleted), "a deleted dataset is there")
        }
        Body::PublishVersion(new) => version(read, &VersionId::from(*id), new, op.topic(), counts),
        _ => Ok(()),
    }
}

fn topic(read: &dyn CatalogRead, id: &TopicId) -> Result<(), StoreError> {
    let root = root_of(read, id)?.ok_or_else(|| damaged("a topic is gone"))?;
    let is_member = read.get(Table::Meta, &keys::tree_member(&root, id))?.is_some();
    require(is_member, "a topic is in no tree of topics")
}

fn dataset(read: &dyn CatalogRead, id: &DatasetId, counts: bool) -> Result<(), StoreError> {
    match record::dataset(read, id)? {
        None => require(!counts, "a dataset is gone"),
        Some(_) if !counts => Err(damaged("a dataset is there that nothing created")),
        Some(found) if found.status == DatasetStatus::Deleted => {
            require(was_deleted(read, id)?, "a dataset is deleted, and nothing deleted it")
        }
        Some(_) => Ok(()),
    }
}

/// Whether an operation that counts deleted a dataset; it is often the last one about it.
fn was_deleted(read: &dyn CatalogRead, id: &DatasetId) -> Result<bool, StoreError> {
    let prefix = keys::ops_about(&(*id).into());
    let Some(mut end) = keys::after_prefix(&prefix) else { return Ok(false) };
    loop {
        let mut page: Vec<Vec<u8>> = Vec::new();
        let range = (Bound::Included(prefix.as_slice()), Bound::Excluded(end.as_slice()));
        read.scan(Table::OpIndex, range, Order::Descending, &mut |key, _| {
            page.push(key.to_vec());
            if page.len() < ABOUT { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        let Some(last) = page.last() else { return Ok(false) };
        for key in &page {
            let (_, id) = keys::position_of(key).ok_or_else(|| corrupt("a position"))?;
            let (status, op) = log::op(read, &id)?.ok_or_else(|| damaged("an operation is gone"))?;
            if status == OpStatus::Valid && matches!(op.body, Body::DeleteDataset { .. }) {
                return Ok(true);
            }
        }
        end.clone_from(last);
    }
}

fn version(
    read: &dyn CatalogRead,
    id: &VersionId,
    new: &NewVersion,
    topic: TopicId,
    counts: bool,
) -> Result<(), StoreError> {
    let Some(version) = record::version(read, id)? else {
        let is_live = match record::dataset(read, &new.dataset)? {
            Some(dataset) => dataset.status != DatasetStatus::Deleted,
            None => false,
        };
        return require(!(counts && is_live), "a version is gone");
    };
    require(counts, "a version is there that nothing published")?;
    require(version.manifest == new.manifest, "a version names another manifest than was signed")?;
    require(version.dataset == new.dataset && version.topic == topic, "a version is not where it was published")?;
    let pin = record::pin(read, &version.manifest)?;
    require(pin.n_versions > 0, "the manifest of a version is not kept")?;
    let is_withdrawn = version.status == VersionStatus::Withdrawn;
    require(is_withdrawn || pin.n_withdrawn < pin.n_versions, "a version counts as withdrawn, and is not")
}

/// Looks at the topics of the next trees behind `after`.
fn trees(read: &dyn CatalogRead, after: Option<TopicId>) -> Result<Option<TopicId>, StoreError> {
    let (mut n_topics, mut after) = (0, after);
    while n_topics < STEP {
        let Some(root) = access::next_tree(read, after.as_ref())? else { return Ok(None) };
        // One at a time: trees that are at work are held elsewhere.
        let mut cache = AccessCache::new(0);
        let tree = cache.tree(read, root)?;
        for id in tree.topics() {
            n_topics += 1;
            let state = tree.topic_state(&id).ok_or_else(|| damaged("an access log"))?;
            let found = record::topic(read, &id)?.ok_or_else(|| damaged("a topic is gone"))?;
            let status = if state.is_valid { state.status } else { TopicStatus::Deleted };
            require(found.status == status, "a topic is not in the state that was signed")?;
            require(found.parent == state.parent, "a topic is not where it was created")?;
        }
        after = Some(root);
    }
    Ok(after)
}

/// Looks at the next pins behind `after`.
fn pins(read: &dyn CatalogRead, after: Option<ManifestId>) -> Result<Option<ManifestId>, StoreError> {
    let (mut n, mut last, mut is_sound) = (0, None, true);
    each_pin(read, after, &mut |manifest, pin: Pin| {
        n += 1;
        last = Some(manifest);
        // Content that was given up and is here again is not given up any more.
        is_sound &= !(pin.is_evicted && pin.is_here) && pin.n_withdrawn <= pin.n_versions;
    })?;
    require(is_sound, "what is known of some content contradicts itself")?;
    Ok(last.filter(|_| n >= COLLECT_STEP))
}

/// Looks at the next contents that users keep, behind the key `after`.
fn kept(read: &dyn CatalogRead, after: Option<&[u8]>) -> Result<Option<Vec<u8>>, StoreError> {
    let page = keys_after(read, Table::Meta, keys::KEPT, after, STEP)?;
    for key in &page {
        let manifest = key.get(keys::KEPT.len()..).and_then(ManifestId::from_slice);
        let manifest = manifest.ok_or_else(|| corrupt("the key of kept content"))?;
        require(record::pin(read, &manifest)?.is_kept, "content that users keep is not kept")?;
    }
    Ok(page.last().filter(|_| page.len() >= STEP).cloned())
}
