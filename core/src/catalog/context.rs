//! What a new operation has to follow.
//!
//! It follows all operations that count and that no other one follows. With more of them than an operation may have
//! parents the highest come first, so that its lamport is above that of everything here.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use crate::api::event::OpContext;
use crate::api::request::ContextFor;
use crate::catalog::access::AccessCache;
use crate::catalog::log::OpStatus;
use crate::catalog::record::{self, corrupt};
use crate::catalog::{keys, log};
use crate::id::{OpId, TopicId};
use crate::limits;
use crate::op::Class;
use crate::port::{CatalogRead, Order, StoreError, Table};
use crate::time::Timestamp;

/// Why there is no context.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContextError {
    /// The topic is not in the catalog.
    #[error("topic {0} is not known here")]
    UnknownTopic(TopicId),
    /// The catalog cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Parents, lamport and earliest time of a new operation; for a removal also what it has to keep.
///
/// # Errors
/// [`ContextError`] when the topic is not known or the store cannot be read.
pub fn op_context(
    read: &dyn CatalogRead,
    access: &mut AccessCache,
    wanted: ContextFor,
) -> Result<OpContext, ContextError> {
    let (ContextFor::Access(topic) | ContextFor::Content(topic) | ContextFor::Removal(topic)) = wanted;
    let log = access.log_of(read, &topic)?.ok_or(ContextError::UnknownTopic(topic))?;
    let mut parents = log.heads_for(&topic);
    // All of them are of the log.
    let (mut lamport, mut not_before) = log.after(&parents).map_err(|_| corrupt("an access log"))?;
    let mut keeps = Vec::new();
    match wanted {
        ContextFor::Access(_) => {}
        ContextFor::Content(_) => {
            let room = limits::MAX_OP_PARENTS - parents.len();
            for (at, time) in highest(read, [topic], room)? {
                lamport = lamport.max(at.0.saturating_add(1));
                not_before = not_before.max(time);
                parents.push(at.1);
            }
            parents.sort_unstable();
        }
        ContextFor::Removal(_) => {
            keeps = log.heads_below(&topic);
            keeps.truncate(limits::MAX_OP_PARENTS / 2);
            let below: Vec<TopicId> = log.topics().filter(|id| log.chain(id).contains(&topic)).collect();
            let room = limits::MAX_OP_PARENTS - keeps.len();
            keeps.extend(highest(read, below, room)?.into_iter().map(|((_, id), _)| id));
            keeps.sort_unstable();
        }
    }
    Ok(OpContext { parents, keeps, lamport, not_before })
}

type Head = ((u64, OpId), Timestamp);

/// The valid content heads of topics, at most `room`, those with the highest positions.
fn highest(
    read: &dyn CatalogRead,
    topics: impl IntoIterator<Item = TopicId>,
    room: usize,
) -> Result<Vec<Head>, StoreError> {
    let mut best: BTreeMap<(u64, OpId), Timestamp> = BTreeMap::new();
    for topic in topics {
        valid_heads(read, &topic, &mut |at, time| {
            best.insert(at, time);
            if best.len() > room {
                best.pop_first();
            }
        })?;
    }
    Ok(best.into_iter().collect())
}

/// Shows the content heads of a topic that count. Behind a void head lie the ones that it followed.
fn valid_heads(
    read: &dyn CatalogRead,
    topic: &TopicId,
    show: &mut dyn FnMut((u64, OpId), Timestamp),
) -> Result<(), StoreError> {
    let mut void: BTreeSet<(u64, OpId)> = BTreeSet::new();
    let prefix = keys::log_prefix(topic, Class::Content);
    record::visit_prefix(read, Table::Heads, &prefix, Order::Ascending, &mut |key, _| {
        let id = key.get(prefix.len()..).and_then(OpId::from_slice).ok_or_else(|| corrupt("a head"))?;
        let (status, op) = log::op(read, &id)?.ok_or_else(|| corrupt("an operation"))?;
        match status {
            OpStatus::Valid => show(op.position(), op.time),
            OpStatus::Void if void.len() < limits::MAX_VOID_HEADS => {
                void.insert(op.position());
            }
            OpStatus::Void => {}
        }
        Ok(ControlFlow::Continue(()))
    })?;
    // Highest first, so that each is looked at once.
    let mut n_looked_at = 0;
    while let Some((_, id)) = void.pop_last() {
        if n_looked_at > limits::MAX_VOID_HEADS {
            break;
        }
        let (_, op) = log::op(read, &id)?.ok_or_else(|| corrupt("an operation"))?;
        n_looked_at += op.parents.len();
        for parent in &op.parents {
            let (status, parent) = log::op(read, parent)?.ok_or_else(|| corrupt("an operation"))?;
            match (parent.class(), status) {
                (Class::Access, _) => {}
                (Class::Content, OpStatus::Valid) => show(parent.position(), parent.time),
                (Class::Content, OpStatus::Void) => {
                    void.insert(parent.position());
                }
            }
        }
    }
    Ok(())
}
