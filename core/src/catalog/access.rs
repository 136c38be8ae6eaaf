//! The access logs of the trees of topics, loaded from the catalog and kept for the next question.
//!
//! Invariant: what is kept of a tree is used only while the catalog that is read holds as many access operations of
//! the tree. Logs only grow, so that the number names the set; after a failed commit [`AccessCache::forget`] is due.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use crate::catalog::record::{corrupt, first_keys, keys_after, number};
use crate::catalog::{keys, log, record};
use crate::id::TopicId;
use crate::limits::MAX_OPS_PER_REQUEST;
use crate::op::access::AccessLog;
use crate::op::{Class, Operation};
use crate::port::{CatalogRead, StoreError, Table};

/// Access logs by root topic. The longest unused ones go first when they take more memory than it may hold, those that
/// grew as well as new ones; one tree may exceed the bound, for as long as it is in use and nothing else is.
#[derive(Debug)]
pub struct AccessCache {
    max_bytes: usize,
    trees: BTreeMap<TopicId, Tree>,
    /// What the trees were counted for.
    bytes: usize,
    /// The tree that was given out last: it may have grown since it was counted.
    last: Option<TopicId>,
    roots: BTreeMap<TopicId, TopicId>,
    uses: u64,
}

#[derive(Debug)]
struct Tree {
    log: AccessLog,
    bytes: usize,
    used: u64,
}

impl AccessCache {
    /// An empty cache that holds about `max_bytes`, by what [`AccessLog::bytes`] says of each.
    pub const fn new(max_bytes: usize) -> Self {
        Self { max_bytes, trees: BTreeMap::new(), bytes: 0, last: None, roots: BTreeMap::new(), uses: 0 }
    }

    /// What the logs in it take now, in bytes.
    pub fn bytes(&self) -> usize {
        self.trees.values().map(|tree| tree.log.bytes()).sum()
    }

    /// Empties the cache.
    pub fn forget(&mut self) {
        self.trees.clear();
        self.roots.clear();
        (self.bytes, self.last) = (0, None);
    }

    /// The root of the tree that a topic is in; `None` when its creation is not in the catalog.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read or holds something else.
    pub fn root_of(&self, read: &dyn CatalogRead, topic: &TopicId) -> Result<Option<TopicId>, StoreError> {
        if let Some(root) = self.roots.get(topic) {
            // It may come from a newer state of the catalog than the one that is read.
            return Ok(record::topic(read, topic)?.map(|_| *root));
        }
        root_of(read, topic)
    }

    /// The access log of the tree that a topic is in; `None` when the topic's creation is not in the catalog.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read or holds something else.
    pub fn log_of(&mut self, read: &dyn CatalogRead, topic: &TopicId) -> Result<Option<&AccessLog>, StoreError> {
        let Some(root) = self.root_of(read, topic)? else { return Ok(None) };
        self.tree(read, root).map(|log| Some(&*log))
    }

    /// The access log of a tree; an empty one when nothing of it is in the catalog.
    pub(crate) fn tree(&mut self, read: &dyn CatalogRead, root: TopicId) -> Result<&mut AccessLog, StoreError> {
        self.uses += 1;
        self.count_last();
        let len = number(read, Table::Meta, &keys::tree_revision(&root))?;
        let is_current = self.trees.get(&root).is_some_and(|tree| tree.log.len() as u64 == len);
        if !is_current {
            self.forget_tree(&root);
            let log = load(read, &root)?;
            if log.len() as u64 != len {
                return Err(corrupt("an access log"));
            }
            self.roots.extend(log.topics().map(|topic| (topic, root)));
            let bytes = log.bytes();
            self.trees.insert(root, Tree { log, bytes, used: 0 });
            self.bytes += bytes;
        }
        self.last = Some(root);
        self.make_room();
        let tree = self.trees.get_mut(&root).expect("it was there or was just loaded, and the last one stays");
        tree.used = self.uses;
        Ok(&mut tree.log)
    }

    /// Forgets one tree.
    pub(crate) fn forget_tree(&mut self, root: &TopicId) {
        if let Some(tree) = self.trees.remove(root) {
            self.bytes -= tree.bytes;
        }
        self.roots.retain(|_, of| of != root);
    }

    fn count_last(&mut self) {
        if let Some(tree) = self.last.and_then(|root| self.trees.get_mut(&root)) {
            self.bytes = self.bytes - tree.bytes + tree.log.bytes();
            tree.bytes = tree.log.bytes();
        }
    }

    /// Notes that a tree has a topic more.
    pub(crate) fn note_topic(&mut self, root: TopicId, topic: TopicId) {
        self.roots.insert(topic, root);
    }

    fn make_room(&mut self) {
        while self.bytes > self.max_bytes {
            let others = self.trees.iter().filter(|(root, _)| Some(**root) != self.last);
            let Some(root) = others.min_by_key(|(_, tree)| tree.used).map(|(root, _)| *root) else { break };
            self.forget_tree(&root);
        }
    }
}

/// The root of the next tree behind one, by id; `None` when there is none.
pub(crate) fn next_tree(read: &dyn CatalogRead, after: Option<&TopicId>) -> Result<Option<TopicId>, StoreError> {
    let (all, end) = (keys::trees_prefix(), keys::after_prefix(&keys::trees_prefix()));
    let lower = after.map_or_else(|| Some(all.clone()), |root| keys::after_prefix(&keys::tree_prefix(root)));
    let (Some(lower), Some(end)) = (lower, end) else { return Ok(None) };
    if lower >= end {
        return Ok(None);
    }
    let range = (Bound::Included(lower.as_slice()), Bound::Excluded(end.as_slice()));
    let found = first_keys(read, Table::Meta, range, 1)?;
    let root = |key: &Vec<u8>| key.get(all.len()..all.len() + 32).and_then(TopicId::from_slice);
    found.first().map(|key| root(key).ok_or_else(|| corrupt("a tree of topics"))).transpose()
}

pub(crate) fn root_of(read: &dyn CatalogRead, topic: &TopicId) -> Result<Option<TopicId>, StoreError> {
    let mut at = *topic;
    for _ in 0..=crate::limits::MAX_TOPIC_DEPTH {
        match record::topic(read, &at)? {
            None if at == *topic => return Ok(None),
            None => return Err(corrupt("the topic above another")),
            Some(found) => match found.parent {
                None => return Ok(Some(at)),
                Some(above) => at = above,
            },
        }
    }
    Err(corrupt("a topic"))
}

fn load(read: &dyn CatalogRead, root: &TopicId) -> Result<AccessLog, StoreError> {
    let prefix = keys::tree_prefix(root);
    let (mut ops, mut after): (Vec<Operation>, Option<Vec<u8>>) = (Vec::new(), None);
    loop {
        let page = keys_after(read, Table::Meta, &prefix, after.as_deref(), MAX_OPS_PER_REQUEST)?;
        let Some(last) = page.last() else { break };
        for key in &page {
            let topic = key.get(prefix.len()..).and_then(TopicId::from_slice);
            load_topic(read, &topic.ok_or_else(|| corrupt("a topic of a tree"))?, &mut ops)?;
        }
        after = Some(last.clone());
    }
    ops.sort_by_key(Operation::position);
    AccessLog::restore(ops).map_err(|_| corrupt("an access log"))
}

fn load_topic(read: &dyn CatalogRead, topic: &TopicId, ops: &mut Vec<Operation>) -> Result<(), StoreError> {
    let mut ids = Vec::new();
    log::visit_range(read, topic, Class::Access, (None, None), &mut |(_, id)| {
        ids.push(id);
        ControlFlow::Continue(())
    })?;
    for id in ids {
        let (_, op) = log::op(read, &id)?.ok_or_else(|| corrupt("an operation"))?;
        ops.push(op);
    }
    Ok(())
}
