//! Changes on top of a transaction that are written into it together, or dropped.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use crate::port::{CatalogRead, CatalogTxn, KeyRange, Order, StoreError, Table, Visit};

type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;
type Change<'a> = (&'a Vec<u8>, &'a Option<Vec<u8>>);

/// A transaction within a transaction. Its changes are held in memory: for what a user asks for at once.
pub(super) struct Overlay<'a> {
    below: &'a mut dyn CatalogTxn,
    changes: BTreeMap<Table, Changes>,
    /// Keys that there are more than below, by table.
    grown: BTreeMap<Table, i64>,
}

impl<'a> Overlay<'a> {
    pub(super) fn new(below: &'a mut dyn CatalogTxn) -> Self {
        Self { below, changes: BTreeMap::new(), grown: BTreeMap::new() }
    }

    /// Writes the changes.
    pub(super) fn commit(self) -> Result<(), StoreError> {
        for (table, changes) in self.changes {
            for (key, value) in changes {
                match value {
                    Some(value) => self.below.put(table, &key, &value)?,
                    None => self.below.remove(table, &key)?,
                }
            }
        }
        Ok(())
    }

    fn set(&mut self, table: Table, key: &[u8], value: Option<Vec<u8>>) -> Result<(), StoreError> {
        let was_there = self.get(table, key)?.is_some();
        *self.grown.entry(table).or_default() += i64::from(value.is_some()) - i64::from(was_there);
        self.changes.entry(table).or_default().insert(key.to_vec(), value);
        Ok(())
    }
}

impl CatalogRead for Overlay<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.changes.get(&table).and_then(|changes| changes.get(key)) {
            Some(value) => Ok(value.clone()),
            None => self.below.get(table, key),
        }
    }

    fn scan(&self, table: Table, range: KeyRange<'_>, order: Order, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let Some(changes) = self.changes.get(&table).filter(|_| !is_empty(range)) else {
            return self.below.scan(table, range, order, visit);
        };
        let mut changed: Box<dyn Iterator<Item = Change<'_>>> = match order {
            Order::Ascending => Box::new(changes.range::<[u8], _>(range)),
            Order::Descending => Box::new(changes.range::<[u8], _>(range).rev()),
        };
        let mut next = changed.next();
        let comes_before = |a: &[u8], b: &[u8]| match order {
            Order::Ascending => a < b,
            Order::Descending => a > b,
        };
        let mut is_over = false;
        self.below.scan(table, range, order, &mut |key, value| {
            while let Some((new_key, new_value)) = next.filter(|(new_key, _)| comes_before(new_key, key)) {
                next = changed.next();
                if new_value.as_ref().is_some_and(|value| visit(new_key, value).is_break()) {
                    is_over = true;
                    return ControlFlow::Break(());
                }
            }
            let flow = match next.filter(|(new_key, _)| new_key.as_slice() == key) {
                Some((_, new_value)) => {
                    next = changed.next();
                    new_value.as_ref().map_or(ControlFlow::Continue(()), |value| visit(key, value))
                }
                None => visit(key, value),
            };
            is_over = flow.is_break();
            flow
        })?;
        let rest = next.into_iter().chain(changed).filter(|_| !is_over);
        for (key, value) in rest {
            if value.as_ref().is_some_and(|value| visit(key, value).is_break()) {
                break;
            }
        }
        Ok(())
    }

    fn len(&self, table: Table) -> Result<u64, StoreError> {
        let grown = self.grown.get(&table).copied().unwrap_or(0);
        Ok(self.below.len(table)?.saturating_add_signed(grown))
    }
}

/// A map panics when a range ends before it begins; a catalog shows nothing.
fn is_empty((lower, upper): KeyRange<'_>) -> bool {
    match (lower, upper) {
        (Bound::Included(lower), Bound::Included(upper)) => lower > upper,
        (Bound::Included(lower) | Bound::Excluded(lower), Bound::Included(upper) | Bound::Excluded(upper)) => {
            lower >= upper
        }
        _ => false,
    }
}

impl CatalogTxn for Overlay<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.set(table, key, Some(value.to_vec()))
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        self.set(table, key, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One table in memory.
    #[derive(Default)]
    struct Plain(BTreeMap<Vec<u8>, Vec<u8>>);

    impl CatalogRead for Plain {
        fn get(&self, _: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
            Ok(self.0.get(key).cloned())
        }

        fn scan(&self, _: Table, range: KeyRange<'_>, order: Order, visit: &mut Visit<'_>) -> Result<(), StoreError> {
            if is_empty(range) {
                return Ok(());
            }
            let mut found: Vec<_> = self.0.range::<[u8], _>(range).collect();
            if order == Order::Descending {
                found.reverse();
            }
            let _ = found.into_iter().try_for_each(|(key, value)| visit(key, value));
            Ok(())
        }

        fn len(&self, _: Table) -> Result<u64, StoreError> {
            Ok(self.0.len() as u64)
        }
    }

    impl CatalogTxn for Plain {
        fn put(&mut self, _: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
            self.0.insert(key.to_vec(), value.to_vec());
            Ok(())
        }

        fn remove(&mut self, _: Table, key: &[u8]) -> Result<(), StoreError> {
            self.0.remove(key);
            Ok(())
        }
    }

    fn seen(read: &dyn CatalogRead, range: KeyRange<'_>, order: Order, limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut found = Vec::new();
        read.scan(Table::Meta, range, order, &mut |key, value| {
            found.push((key.to_vec(), value.to_vec()));
            if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })
        .unwrap();
        found
    }

    proptest::proptest! {
        #[test]
        fn changes_look_as_if_they_were_below_and_are_after_the_commit(
            before in proptest::collection::vec(0_u8..24, 0..12),
            changes in proptest::collection::vec((0_u8..24, proptest::option::of(0_u8..9)), 0..16),
            (low, high, limit) in (0_u8..26, 0_u8..26, 1_usize..8),
        ) {
            let (mut below, mut expected) = (Plain::default(), Plain::default());
            for key in before {
                below.put(Table::Meta, &[key], b"old").unwrap();
                expected.put(Table::Meta, &[key], b"old").unwrap();
            }
            let mut overlay = Overlay::new(&mut below);
            for (key, value) in changes {
                for txn in [&mut overlay as &mut dyn CatalogTxn, &mut expected] {
                    match value {
                        Some(value) => txn.put(Table::Meta, &[key], &[value]).unwrap(),
                        None => txn.remove(Table::Meta, &[key]).unwrap(),
                    }
                }
            }
            let (low, high) = ([low], [high]);
            for range in [
                (Bound::Included(low.as_slice()), Bound::Excluded(high.as_slice())),
                (Bound::Excluded(low.as_slice()), Bound::Included(high.as_slice())),
                (Bound::Unbounded, Bound::Unbounded),
            ] {
                for order in [Order::Ascending, Order::Descending] {
                    assert_eq!(seen(&overlay, range, order, limit), seen(&expected, range, order, limit));
                }
            }
            assert_eq!(overlay.get(Table::Meta, &low).unwrap(), expected.get(Table::Meta, &low).unwrap());
            assert_eq!(overlay.len(Table::Meta).unwrap(), expected.len(Table::Meta).unwrap());
            overlay.commit().unwrap();
            assert_eq!(below.0, expected.0);
        }
    }
}
