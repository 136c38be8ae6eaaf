//! The sealed form of keys and values, and scans over it.
//!
//! Invariant: a scan shows what it would show of a plain catalog, in the same order. A key with a hidden part is stored
//! with a keyed hash in place of that part, and the part itself lies in front of the value, sealed with it. So the keys
//! that have the same bytes before the hidden part lie together, in an order that means nothing; a scan reads all of
//! them, holds the first [`MAX_SORTED_NAMES`] of its range and shows these, and reads them again if there are more.
//! Where a range is of one hidden part only, which is how things are found by name, nothing else is read.
//!
//! Deliberately absent: what the hidden parts mean, [`hidden`] says where they are.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use bib_core::catalog::keys::{after_prefix, hidden};
use bib_core::limits::MAX_SORTED_NAMES;
use bib_core::port::{KeyRange, Order, StoreError, Table, Visit};
use redb::ReadableTable;

use super::{Bytes, NAME, is_empty, scan};
use crate::crypto::Keyring;

/// Bytes that stand for a hidden part.
const HASH_LEN: usize = 16;
/// Bytes of the length of a hidden part, in front of it.
const LEN_LEN: usize = 2;

/// How one table is sealed.
pub(super) struct Sealing<'a> {
    pub(super) keyring: &'a Keyring,
    pub(super) table: Table,
    /// Its number in the format.
    pub(super) number: u8,
}

type Entry = (Vec<u8>, Vec<u8>);
type KeyBound = Bound<Vec<u8>>;

fn holds((low, high): &KeyRange<'_>, key: &[u8]) -> bool {
    let above = match low {
        Bound::Included(low) => key >= *low,
        Bound::Excluded(low) => key > *low,
        Bound::Unbounded => true,
    };
    above
        && match high {
            Bound::Included(high) => key <= *high,
            Bound::Excluded(high) => key < *high,
            Bound::Unbounded => true,
        }
}

fn key_of<'k>(bound: &Bound<&'k [u8]>) -> Option<&'k [u8]> {
    match bound {
        Bound::Included(key) | Bound::Excluded(key) => Some(key),
        Bound::Unbounded => None,
    }
}

/// Continues or ends a walk, by what came of the last step.
fn flow(step: Result<ControlFlow<()>, StoreError>, failed: &mut Option<StoreError>) -> ControlFlow<()> {
    step.unwrap_or_else(|error| {
        *failed = Some(error);
        ControlFlow::Break(())
    })
}

impl Sealing<'_> {
    /// A key with its hidden part replaced, and that part.
    fn split<'k>(&self, key: &'k [u8]) -> (Vec<u8>, Option<&'k [u8]>) {
        let Some((begin, end)) = hidden(self.table, key) else { return (key.to_vec(), None) };
        let (head, rest) = key.split_at(begin);
        let (part, tail) = rest.split_at(end.map_or(rest.len(), |end| end - begin));
        let hash = self.keyring.name_hash(self.number, head, part);
        ([head, hash.as_slice(), tail].concat(), Some(part))
    }

    /// The key under which an entry is stored.
    pub(super) fn stored_key(&self, key: &[u8]) -> Vec<u8> {
        self.split(key).0
    }

    /// An entry as it is stored.
    pub(super) fn seal(&self, key: &[u8], value: &[u8]) -> Result<Entry, StoreError> {
        let (stored, part) = self.split(key);
        let sealed = match part {
            None => self.keyring.seal_value(self.number, &stored, &[value])?,
            Some(part) => {
                let too_long = |_| StoreError::Unsupported(format!("a key of {} bytes", key.len()));
                let len = u16::try_from(part.len()).map_err(too_long)?;
                self.keyring.seal_value(self.number, &stored, &[&len.to_le_bytes(), part, value])?
            }
        };
        Ok((stored, sealed))
    }

    /// The entry that is stored so; no key if it is as stored.
    pub(super) fn open(&self, stored: &[u8], sealed: &[u8]) -> Result<(Option<Vec<u8>>, Vec<u8>), StoreError> {
        let bad = || StoreError::Corrupt(format!("{NAME}: a value in table {:?} is not what was sealed", self.table));
        let value = self.keyring.open_value(self.number, stored, sealed).ok_or_else(bad)?;
        let Some((begin, _)) = hidden(self.table, stored) else { return Ok((None, value)) };
        let (len, rest) = value.split_first_chunk::<LEN_LEN>().ok_or_else(bad)?;
        let (part, value) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len))).ok_or_else(bad)?;
        let tail = stored.get(begin + HASH_LEN..).ok_or_else(bad)?;
        Ok((Some([&stored[..begin], part, tail].concat()), value.to_vec()))
    }

    /// The range of stored keys with one hidden part, if the range is of such keys only.
    fn of_one(&self, (low, high): &KeyRange<'_>) -> Option<(KeyBound, KeyBound)> {
        let (from, to) = (key_of(low)?, key_of(high)?);
        let prefix = &from[..hidden(self.table, from)?.1?];
        let is_behind = matches!(high, Bound::Excluded(_)) && after_prefix(prefix).as_deref() == Some(to);
        let high = if is_behind {
            after_prefix(&self.stored_key(prefix)).map_or(Bound::Unbounded, Bound::Excluded)
        } else if to.starts_with(prefix) {
            high.map(|key| self.stored_key(key))
        } else {
            return None;
        };
        Some((low.map(|key| self.stored_key(key)), high))
    }

    /// The range of stored keys in which all those of a range lie.
    fn around<'k>(&self, (low, high): &KeyRange<'k>) -> (Bound<&'k [u8]>, KeyBound) {
        let low = match key_of(low).map(|key| (key, hidden(self.table, key))) {
            Some((key, Some((begin, _)))) => Bound::Included(&key[..begin]),
            _ => *low,
        };
        let high = match key_of(high).map(|key| (key, hidden(self.table, key))) {
            Some((key, Some((begin, _)))) => after_prefix(&key[..begin]).map_or(Bound::Unbounded, Bound::Excluded),
            _ => high.map(<[u8]>::to_vec),
        };
        (low, high)
    }

    /// As the scan of the port.
    pub(super) fn scan(
        &self,
        table: &impl ReadableTable<Bytes, Bytes>,
        range: KeyRange<'_>,
        order: Order,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        if is_empty(&range) {
            return Ok(());
        }
        if let Some((low, high)) = self.of_one(&range) {
            let stored = (low.as_ref().map(Vec::as_slice), high.as_ref().map(Vec::as_slice));
            let mut failed = None;
            scan(table, stored, order, &mut |stored, sealed| {
                let opened = self.open(stored, sealed);
                flow(opened.map(|(key, value)| visit(key.as_deref().unwrap_or(stored), &value)), &mut failed)
            })?;
            return failed.map_or(Ok(()), Err);
        }
        let (low, high) = self.around(&range);
        let mut group = Group { head: None, held: BTreeMap::new(), has_more: false };
        let mut failed = None;
        let mut is_over = false;
        scan(table, (low, high.as_ref().map(Vec::as_slice)), order, &mut |stored, sealed| {
            let step = (|| {
                let head = hidden(self.table, stored).map(|(begin, _)| &stored[..begin]);
                if group.head.is_some() && group.head.as_deref() != head {
                    is_over = self.show(table, range, order, &mut group, visit)?.is_break();
                    if is_over {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                let (key, value) = self.open(stored, sealed)?;
                match (head, key) {
                    (Some(head), Some(key)) => {
                        group.head.get_or_insert_with(|| head.to_vec());
                        if holds(&range, &key) {
                            group.add(key, value, order);
                        }
                        Ok(ControlFlow::Continue(()))
                    }
                    _ if !holds(&range, stored) => Ok(ControlFlow::Continue(())),
                    _ => {
                        let step = visit(stored, &value);
                        is_over = step.is_break();
                        Ok(step)
                    }
                }
            })();
            flow(step, &mut failed)
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        if !is_over {
            let _ = self.show(table, range, order, &mut group, visit)?;
        }
        Ok(())
    }

    /// Shows what a group has in a range, and empties it.
    fn show(
        &self,
        table: &impl ReadableTable<Bytes, Bytes>,
        (low, high): KeyRange<'_>,
        order: Order,
        group: &mut Group,
        visit: &mut Visit<'_>,
    ) -> Result<ControlFlow<()>, StoreError> {
        let Some(head) = group.head.take() else { return Ok(ControlFlow::Continue(())) };
        let after = after_prefix(&head);
        let stored = (Bound::Included(head.as_slice()), after.as_deref().map_or(Bound::Unbounded, Bound::Excluded));
        let (mut low, mut high) = (low.map(<[u8]>::to_vec), high.map(<[u8]>::to_vec));
        loop {
            let held = std::mem::take(&mut group.held);
            let mut entries = held.iter();
            while let Some((key, value)) = match order {
                Order::Ascending => entries.next(),
                Order::Descending => entries.next_back(),
            } {
                if visit(key, value).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            if !std::mem::take(&mut group.has_more) {
                return Ok(ControlFlow::Continue(()));
            }
            let last = match order {
                Order::Ascending => held.into_iter().next_back(),
                Order::Descending => held.into_iter().next(),
            };
            let (last, _) = last.expect("more than a full group were seen");
            match order {
                Order::Ascending => low = Bound::Excluded(last),
                Order::Descending => high = Bound::Excluded(last),
            }
            let left = (low.as_ref().map(Vec::as_slice), high.as_ref().map(Vec::as_slice));
            let mut failed = None;
            scan(table, stored, order, &mut |stored, sealed| {
                let opened = self.open(stored, sealed).map(|(key, value)| {
                    if let Some(key) = key.filter(|key| holds(&left, key)) {
                        group.add(key, value, order);
                    }
                    ControlFlow::Continue(())
                });
                flow(opened, &mut failed)
            })?;
            if let Some(error) = failed {
                return Err(error);
            }
        }
    }
}

/// Entries with the same bytes before their hidden part.
struct Group {
    head: Option<Vec<u8>>,
    /// The first ones in the order of the scan.
    held: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Whether others were let go for want of room.
    has_more: bool,
}

impl Group {
    fn add(&mut self, key: Vec<u8>, value: Vec<u8>, order: Order) {
        self.held.insert(key, value);
        if self.held.len() > MAX_SORTED_NAMES {
            match order {
                Order::Ascending => self.held.pop_last(),
                Order::Descending => self.held.pop_first(),
            };
            self.has_more = true;
        }
    }
}
