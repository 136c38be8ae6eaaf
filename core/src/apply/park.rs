//! Operations that wait for others, or for their time.
//!
//! Each waits for the lowest id among those it builds on that are not here: one watch, moved on when that one comes, so
//! that the work for an operation is bounded by what it names however its parents arrive. What is here never goes
//! away, so that everything below the watched id is here.

use std::ops::Bound;

use super::Work;
use super::store::put;
use crate::catalog::record::{Parked, ParkedFigures, UNKNOWN_TOPICS, corrupt, first_keys, keys_after};
use crate::catalog::{keys, log, record};
use crate::command::{OpOutcome, Refused};
use crate::id::{OpId, TopicId};
use crate::limits;
use crate::op::{Body, Operation};
use crate::port::{CatalogTxn, StoreError, Table};

/// What an operation builds on, ascending: it can be judged when all of these are in their logs.
pub(super) fn needs(op: &Operation) -> Vec<OpId> {
    let mut ids = op.parents.clone();
    match &op.body {
        Body::CreateTopic { parent, .. } => ids.extend(parent.map(OpId::from)),
        _ => ids.push(op.topic().into()),
    }
    match &op.body {
        Body::UpdateDataset { dataset, .. }
        | Body::ArchiveDataset { dataset }
        | Body::RestoreDataset { dataset }
        | Body::DeleteDataset { dataset } => ids.push((*dataset).into()),
        Body::PublishVersion(version) => {
            ids.push(version.dataset.into());
            ids.extend(version.previous.map(OpId::from));
        }
        Body::WithdrawVersion { dataset, version } => ids.extend([OpId::from(*dataset), OpId::from(*version)]),
        _ => {}
    }
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn figures(work: &Work<'_>, counted_in: &TopicId) -> Result<ParkedFigures, StoreError> {
    Ok(record::get(&*work.txn, Table::Parked, &keys::parked_figures(counted_in))?.unwrap_or_default())
}

fn set_figures(txn: &mut dyn CatalogTxn, key: &[u8], figures: ParkedFigures) -> Result<(), StoreError> {
    if figures == ParkedFigures::default() {
        txn.remove(Table::Parked, key)
    } else {
        put(txn, Table::Parked, key, &figures)
    }
}

fn read_op(bytes: &[u8]) -> Result<Operation, StoreError> {
    Operation::decode_trusted(bytes).map_err(|_| corrupt("a waiting operation"))
}

impl Work<'_> {
    /// What an operation builds on and is not here, ascending.
    pub(super) fn missing(&self, op: &Operation) -> Result<Vec<OpId>, StoreError> {
        let mut missing = Vec::new();
        for id in needs(op) {
            if !log::contains(&*self.txn, &id)? {
                missing.push(id);
            }
        }
        Ok(missing)
    }

    /// Parks an operation; one that waits already goes on waiting.
    pub(super) fn park(&mut self, op: &Operation, missing: Vec<OpId>) -> Result<OpOutcome, StoreError> {
        let (topic, id, len) = (op.topic(), op.id(), op.bytes().len() as u64);
        if self.txn.get(Table::Parked, &keys::parked(&topic, &id))?.is_some() {
            return Ok(OpOutcome::Parked { missing });
        }
        let is_known = record::topic(&*self.txn, &topic)?.is_some();
        let counted_in = if is_known { topic } else { UNKNOWN_TOPICS };
        let known = figures(self, &counted_in)?;
        if known.count >= limits::MAX_PARKED_OPS as u64 || known.bytes + len > limits::MAX_PARKED_BYTES as u64 {
            return Ok(OpOutcome::Refused(Refused::TooManyParked));
        }
        let parked = Parked { since: self.now, counted_in, op: serde_bytes::ByteBuf::from(op.bytes()) };
        put(self.txn, Table::Parked, &keys::parked(&topic, &id), &parked)?;
        self.txn.put(Table::Parked, &keys::parked_since(self.now, &id), topic.as_bytes())?;
        self.watch(op, missing.first())?;
        self.count(&counted_in, 1, len.cast_signed())?;
        Ok(OpOutcome::Parked { missing })
    }

    /// Waits for one of those that are missing, or for the time.
    fn watch(&mut self, op: &Operation, missing: Option<&OpId>) -> Result<(), StoreError> {
        let key = match missing {
            Some(missing) => keys::waits_for(missing, &op.id()),
            None => keys::parked_until(op.time, &op.id()),
        };
        self.txn.put(Table::Parked, &key, op.topic().as_bytes())
    }

    fn count(&mut self, counted_in: &TopicId, count: i64, bytes: i64) -> Result<(), StoreError> {
        for key in [keys::parked_figures(counted_in), keys::PARKED_TOTAL.to_vec()] {
            let mut figures: ParkedFigures = record::get(&*self.txn, Table::Parked, &key)?.unwrap_or_default();
            figures.count = figures.count.saturating_add_signed(count);
            figures.bytes = figures.bytes.saturating_add_signed(bytes);
            set_figures(self.txn, &key, figures)?;
        }
        Ok(())
    }

    /// Forgets an operation that waits, except for its watch.
    fn unpark(&mut self, op: &Operation, parked: &Parked) -> Result<(), StoreError> {
        self.txn.remove(Table::Parked, &keys::parked(&op.topic(), &op.id()))?;
        self.txn.remove(Table::Parked, &keys::parked_since(parked.since, &op.id()))?;
        self.count(&parked.counted_in, -1, -(op.bytes().len() as i64))
    }

    /// Looks at everything that waits for the operations that entered their logs, and for those that enter by that.
    pub(super) fn release_waiting(&mut self) -> Result<(), StoreError> {
        // `new` is the queue as well: what is taken is added at its end.
        while let Some(id) = self.new.get(self.n_released).map(Operation::id) {
            let page =
                keys_after(&*self.txn, Table::Parked, &keys::waits_prefix(&id), None, limits::MAX_OPS_PER_REQUEST)?;
            if page.is_empty() {
                self.n_released += 1;
            }
            for key in page {
                self.look_at(&key, Some(&id))?;
            }
        }
        Ok(())
    }

    /// Looks at what waited for a time that has come.
    pub(super) fn release_due(&mut self) -> Result<(), StoreError> {
        let end = keys::parked_after(self.now.saturating_add(limits::CLOCK_SKEW));
        let range = (Bound::Included(b"t".as_slice()), Bound::Excluded(end.as_slice()));
        for key in first_keys(&*self.txn, Table::Parked, range, limits::MAX_DUE_PER_COMMAND)? {
            self.look_at(&key, None)?;
        }
        self.release_waiting()
    }

    /// Looks again at an operation whose watch, under `key`, is over. `came` is what it waited for.
    fn look_at(&mut self, key: &[u8], came: Option<&OpId>) -> Result<(), StoreError> {
        let bad = || corrupt("what an operation waits for");
        let id = keys::parked_id(key).ok_or_else(bad)?;
        let topic = self.txn.get(Table::Parked, key)?.as_deref().and_then(TopicId::from_slice).ok_or_else(bad)?;
        self.txn.remove(Table::Parked, key)?;
        let parked: Parked = record::get(&*self.txn, Table::Parked, &keys::parked(&topic, &id))?.ok_or_else(bad)?;
        let op = read_op(&parked.op)?;
        if log::contains(&*self.txn, &id)? {
            return self.unpark(&op, &parked);
        }
        for needed in needs(&op).into_iter().filter(|needed| came.is_none_or(|came| needed > came)) {
            if !log::contains(&*self.txn, &needed)? {
                return self.watch(&op, Some(&needed));
            }
        }
        if op.time > self.now.saturating_add(limits::CLOCK_SKEW) {
            return self.watch(&op, None);
        }
        self.unpark(&op, &parked)?;
        // It came from a peer, whoever's operation it waited for.
        let is_for_user = std::mem::replace(&mut self.is_for_user, false);
        // One that is refused now would always have been.
        let admitted = self.admit(&op).map(drop);
        self.is_for_user = is_for_user;
        admitted
    }

    /// Forgets what waited too long.
    pub(super) fn expire_parked(&mut self) -> Result<(), StoreError> {
        let end = keys::parked_since(self.now.saturating_sub(limits::PARKED_FOR), &OpId::from_bytes([0; 32]));
        let range = (Bound::Included(b"e".as_slice()), Bound::Excluded(end.as_slice()));
        for key in first_keys(&*self.txn, Table::Parked, range, limits::MAX_EXPIRED_PER_COMMAND)? {
            self.forget_parked(&key)?;
        }
        Ok(())
    }

    fn forget_parked(&mut self, key: &[u8]) -> Result<(), StoreError> {
        let bad = || corrupt("a waiting operation");
        let id = keys::parked_id(key).ok_or_else(bad)?;
        let topic = self.txn.get(Table::Parked, key)?.as_deref().and_then(TopicId::from_slice).ok_or_else(bad)?;
        let parked: Parked = record::get(&*self.txn, Table::Parked, &keys::parked(&topic, &id))?.ok_or_else(bad)?;
        let op = read_op(&parked.op)?;
        let watch = match self.missing(&op)?.first() {
            Some(missing) => keys::waits_for(missing, &id),
            None => keys::parked_until(op.time, &id),
        };
        self.txn.remove(Table::Parked, &watch)?;
        self.unpark(&op, &parked)
    }
}
