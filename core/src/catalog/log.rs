//! The logs of operations: two for each topic, one of each [`Class`], as `OpOrder`, `Heads` and figures over `Ops`.
//!
//! Invariant: the figures of a log are the number and the sum of exactly the operations in its `OpOrder`, and its
//! heads those that no other operation of the same log names as parent. An operation enters after its parents.
//!
//! Absent on purpose: whether an operation may enter, and what waits for its parents. That is the business of `apply`.

use std::ops::{Bound, ControlFlow};

use crate::catalog::keys;
use crate::hash::hash_in_context;
use crate::id::{OpId, TopicId};
use crate::op::{Class, Operation};
use crate::port::{CatalogRead, CatalogTxn, Order, StoreError, Table};
use crate::wire::message::OpKey;

/// Whether an operation has an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpStatus {
    /// It has.
    Valid,
    /// It is in the log, since others rest on it, but a removal took its effect.
    Void,
}

impl OpStatus {
    const fn byte(self) -> u8 {
        match self {
            Self::Valid => 0,
            Self::Void => 1,
        }
    }

    pub(crate) const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Valid),
            1 => Some(Self::Void),
            _ => None,
        }
    }
}

/// Number of operations and the sum of their ids: what two nodes compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// How many.
    pub count: u64,
    /// Sum of the ids as 256-bit little-endian integers, modulo 2^256.
    pub sum: [u8; 32],
}

impl Figures {
    /// Adds an operation.
    pub fn add(&mut self, id: &OpId) {
        self.join(&Self { count: 1, sum: *id.as_bytes() });
    }

    /// Adds the operations of another set, which has none in common with this one.
    pub fn join(&mut self, other: &Self) {
        self.count += other.count;
        let mut carry = 0;
        for (sum, byte) in self.sum.iter_mut().zip(&other.sum) {
            let total = u16::from(*sum) + u16::from(*byte) + carry;
            *sum = total.to_le_bytes()[0];
            carry = total >> 8;
        }
    }

    /// What is sent instead of the sum: short, and bound to the count.
    pub fn fingerprint(&self) -> [u8; 16] {
        let hash = hash_in_context("bib 2026 sync range fingerprint 1", &self.to_bytes());
        std::array::from_fn(|i| hash[i])
    }

    /// The stored form: the count, big endian, and the sum.
    pub fn to_bytes(&self) -> [u8; 40] {
        let mut bytes = [0; 40];
        bytes[..8].copy_from_slice(&self.count.to_be_bytes());
        bytes[8..].copy_from_slice(&self.sum);
        bytes
    }

    /// Reads the stored form.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (count, sum) = bytes.split_first_chunk::<8>()?;
        Some(Self { count: u64::from_be_bytes(*count), sum: sum.try_into().ok()? })
    }
}

fn corrupt(what: &str) -> StoreError {
    StoreError::Corrupt(format!("{what} in the catalog does not read back"))
}

/// Adds an operation to its log, with the status [`OpStatus::Valid`]; returns whether it was new.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or written.
pub fn insert(txn: &mut dyn CatalogTxn, op: &Operation) -> Result<bool, StoreError> {
    let (topic, class, id) = (op.topic(), op.class(), op.id());
    if contains(&*txn, &id)? {
        return Ok(false);
    }
    let mut value = Vec::with_capacity(1 + op.bytes().len());
    value.push(OpStatus::Valid.byte());
    value.extend_from_slice(op.bytes());
    txn.put(Table::Ops, id.as_bytes(), &value)?;
    txn.put(Table::OpOrder, &keys::op_order(&topic, class, op.position()), &[])?;
    for parent in &op.parents {
        // Parents in other logs have no head under this prefix, so that nothing happens for them.
        txn.remove(Table::Heads, &keys::head(&topic, class, parent))?;
    }
    txn.put(Table::Heads, &keys::head(&topic, class, &id), &[])?;
    let mut figures = figures(&*txn, &topic, class)?;
    figures.add(&id);
    txn.put(Table::Meta, &keys::log_figures(&topic, class), &figures.to_bytes())?;
    Ok(true)
}

/// Sets the status of an operation that is in its log.
///
/// # Errors
/// [`StoreError::Corrupt`] when it is not there; other [`StoreError`]s when the store cannot be read or written.
pub fn set_status(txn: &mut dyn CatalogTxn, id: &OpId, status: OpStatus) -> Result<(), StoreError> {
    let mut value = txn.get(Table::Ops, id.as_bytes())?.ok_or_else(|| corrupt("an operation"))?;
    let byte = value.first_mut().ok_or_else(|| corrupt("an operation"))?;
    *byte = status.byte();
    txn.put(Table::Ops, id.as_bytes(), &value)
}

/// Whether an operation is in its log.
///
/// # Errors
/// [`StoreError`] when the store cannot be read.
pub fn contains(read: &dyn CatalogRead, id: &OpId) -> Result<bool, StoreError> {
    Ok(read.get(Table::Ops, id.as_bytes())?.is_some())
}

/// Status and bytes of an operation; `None` if it is in no log here.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn op_bytes(read: &dyn CatalogRead, id: &OpId) -> Result<Option<(OpStatus, Vec<u8>)>, StoreError> {
    let Some(mut value) = read.get(Table::Ops, id.as_bytes())? else { return Ok(None) };
    let status = value.first().and_then(|byte| OpStatus::from_byte(*byte)).ok_or_else(|| corrupt("an operation"))?;
    value.remove(0);
    Ok(Some((status, value)))
}

/// An operation with its status; `None` if it is in no log here.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn op(read: &dyn CatalogRead, id: &OpId) -> Result<Option<(OpStatus, Operation)>, StoreError> {
    let Some((status, bytes)) = op_bytes(read, id)? else { return Ok(None) };
    let op = Operation::decode_trusted(&bytes).map_err(|_| corrupt("an operation"))?;
    Ok(Some((status, op)))
}

/// The bytes of operations in the order of `ids`, until the next one would exceed `max_bytes`; the first one always
/// fits. Those that are in no log here are left out.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn load(read: &dyn CatalogRead, ids: &[OpId], max_bytes: usize) -> Result<Vec<Vec<u8>>, StoreError> {
    let (mut ops, mut total) = (Vec::new(), 0);
    for id in ids {
        let Some((_, bytes)) = op_bytes(read, id)? else { continue };
        total += bytes.len();
        if total > max_bytes && !ops.is_empty() {
            break;
        }
        ops.push(bytes);
    }
    Ok(ops)
}

/// Number and sum of the operations of a log.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn figures(read: &dyn CatalogRead, topic: &TopicId, class: Class) -> Result<Figures, StoreError> {
    match read.get(Table::Meta, &keys::log_figures(topic, class))? {
        Some(bytes) => Figures::from_bytes(&bytes).ok_or_else(|| corrupt("the figures of a log")),
        None => Ok(Figures::default()),
    }
}

/// The heads of a log, ascending, at most `limit`.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn heads(read: &dyn CatalogRead, topic: &TopicId, class: Class, limit: usize) -> Result<Vec<OpId>, StoreError> {
    let mut heads = Vec::new();
    visit_heads(read, topic, class, &mut |id| {
        if heads.len() == limit {
            return ControlFlow::Break(());
        }
        heads.push(id);
        ControlFlow::Continue(())
    })?;
    Ok(heads)
}

fn visit_heads(
    read: &dyn CatalogRead,
    topic: &TopicId,
    class: Class,
    visit: &mut dyn FnMut(OpId) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    let prefix = keys::log_prefix(topic, class);
    let mut damaged = false;
    visit_prefix(read, Table::Heads, &prefix, &mut |key| match key.get(prefix.len()..).and_then(OpId::from_slice) {
        Some(id) => visit(id),
        None => {
            damaged = true;
            ControlFlow::Break(())
        }
    })?;
    if damaged { Err(corrupt("a head")) } else { Ok(()) }
}

fn visit_prefix(
    read: &dyn CatalogRead,
    table: Table,
    prefix: &[u8],
    visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    let end = keys::after_prefix(prefix);
    let upper = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    read.scan(table, (Bound::Included(prefix), upper), Order::Ascending, &mut |key, _| visit(key))
}

/// A hash over the heads of both logs of a topic: equal on two nodes exactly when they hold the same operations of it.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn heads_hash(read: &dyn CatalogRead, topic: &TopicId) -> Result<[u8; 32], StoreError> {
    // Many heads are summed by the hasher as they come; a log with a million of them takes no memory.
    let mut hasher = crate::hash::Hasher::new();
    hasher.update(b"bib 2026 heads of a topic 1\0").update(topic.as_bytes());
    for class in [Class::Access, Class::Content] {
        let mut count = 0_u64;
        visit_heads(read, topic, class, &mut |id| {
            hasher.update(id.as_bytes());
            count += 1;
            ControlFlow::Continue(())
        })?;
        hasher.update(&count.to_be_bytes());
    }
    Ok(hasher.finish())
}

/// Shows the positions of a log from `lower` up to and without `upper`, ascending, until `visit` breaks.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn visit_range(
    read: &dyn CatalogRead,
    topic: &TopicId,
    class: Class,
    (lower, upper): (Option<OpKey>, Option<OpKey>),
    visit: &mut dyn FnMut(OpKey) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    let prefix = keys::log_prefix(topic, class);
    let from = lower.map_or_else(|| prefix.clone(), |at| keys::op_order(topic, class, at));
    let to = upper.map_or_else(|| keys::after_prefix(&prefix), |at| Some(keys::op_order(topic, class, at)));
    if to.as_ref().is_some_and(|to| *to <= from) {
        return Ok(());
    }
    let to = to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    let mut damaged = false;
    read.scan(
        Table::OpOrder,
        (Bound::Included(&from), to),
        Order::Ascending,
        &mut |key, _| match keys::position_of(key) {
            Some(at) => visit(at),
            None => {
                damaged = true;
                ControlFlow::Break(())
            }
        },
    )?;
    if damaged { Err(corrupt("a position")) } else { Ok(()) }
}

/// Number and sum of the operations from `lower` up to and without `upper`; the whole log costs one read.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn range_figures(
    read: &dyn CatalogRead,
    topic: &TopicId,
    class: Class,
    range: (Option<OpKey>, Option<OpKey>),
) -> Result<Figures, StoreError> {
    if range == (None, None) {
        return figures(read, topic, class);
    }
    let mut figures = Figures::default();
    visit_range(read, topic, class, range, &mut |(_, id)| {
        figures.add(&id);
        ControlFlow::Continue(())
    })?;
    Ok(figures)
}

/// The first `limit` positions of a range.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn range_keys(
    read: &dyn CatalogRead,
    topic: &TopicId,
    class: Class,
    range: (Option<OpKey>, Option<OpKey>),
    limit: usize,
) -> Result<Vec<OpKey>, StoreError> {
    let mut found = Vec::new();
    visit_range(read, topic, class, range, &mut |at| {
        if found.len() == limit {
            return ControlFlow::Break(());
        }
        found.push(at);
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// Topics in the catalog after an id, ascending, at most `limit`.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn topics(read: &dyn CatalogRead, after: Option<&TopicId>, limit: usize) -> Result<Vec<TopicId>, StoreError> {
    let lower = after.map_or(Bound::Unbounded, |id| Bound::Excluded(id.as_bytes().as_slice()));
    let (mut found, mut damaged) = (Vec::new(), false);
    read.scan(Table::Topics, (lower, Bound::Unbounded), Order::Ascending, &mut |key, _| {
        if found.len() == limit {
            return ControlFlow::Break(());
        }
        match TopicId::from_slice(key) {
            Some(id) => found.push(id),
            None => damaged = true,
        }
        if damaged { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if damaged { Err(corrupt("the key of a topic")) } else { Ok(found) }
}

/// Shows the topics that have operations, ascending, from behind `after`, with the number and sum of those of both
/// classes, until `visit` breaks. Unlike [`topics`], deleted and void ones are among them.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn visit_logs(
    read: &dyn CatalogRead,
    after: Option<&TopicId>,
    visit: &mut dyn FnMut(TopicId, Figures) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    let all = keys::logs_prefix();
    let lower = after.map_or_else(|| Some(all.clone()), |topic| keys::after_prefix(&keys::logs_of(topic)));
    let (Some(lower), Some(upper)) = (lower, keys::after_prefix(&all)) else { return Ok(()) };
    let range = (Bound::Included(lower.as_slice()), Bound::Excluded(upper.as_slice()));
    let (mut open, mut damaged, mut stopped) = (None::<(TopicId, Figures)>, false, false);
    read.scan(Table::Meta, range, Order::Ascending, &mut |key, value| {
        let topic = key.get(all.len()..all.len() + 32).and_then(TopicId::from_slice);
        let (Some(topic), Some(figures)) = (topic, Figures::from_bytes(value)) else {
            damaged = true;
            return ControlFlow::Break(());
        };
        match &mut open {
            Some((last, sum)) if *last == topic => sum.join(&figures),
            _ => {
                if let Some((last, sum)) = open.replace((topic, figures)) {
                    stopped = visit(last, sum).is_break();
                }
            }
        }
        if stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if damaged {
        return Err(corrupt("the figures of a log"));
    }
    if let Some((last, sum)) = open.filter(|_| !stopped) {
        let _ = visit(last, sum);
    }
    Ok(())
}

/// How many operations of a topic wait for their parents; counts to [`crate::limits::MAX_PARKED_OPS`].
///
/// # Errors
/// [`StoreError`] when the store cannot be read.
pub fn parked(read: &dyn CatalogRead, topic: &TopicId) -> Result<u64, StoreError> {
    let mut count = 0;
    visit_prefix(read, Table::Parked, &keys::parked_prefix(topic), &mut |_| {
        count += 1;
        if count < crate::limits::MAX_PARKED_OPS as u64 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sum_carries_and_wraps() {
        let mut figures = Figures::default();
        figures.add(&OpId::from_bytes([255; 32]));
        figures.add(&OpId::from_bytes(std::array::from_fn(|i| u8::from(i == 0))));
        assert_eq!(figures, Figures { count: 2, sum: [0; 32] });
        assert_eq!(Figures::from_bytes(&figures.to_bytes()), Some(figures));
        assert_eq!(Figures::from_bytes(&[0; 39]), None);
    }

    #[test]
    fn equal_sums_of_different_counts_have_different_fingerprints() {
        let one = Figures { count: 1, sum: [0; 32] };
        assert_ne!(one.fingerprint(), Figures::default().fingerprint());
    }
}
