//! What a catalog must do.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::atomic::{AtomicBool, Ordering};

use bib_core::limits::MAX_OP_LEN;
use bib_core::port::{Catalog, CatalogRead, KeyRange, Order, StoreError, TABLES, Table};

use super::Check;
use crate::rng::Rng;

/// How the checks get at an implementation.
pub trait CatalogBed {
    /// An empty catalog.
    fn make(&self) -> Box<dyn Catalog>;

    /// The catalog as after a restart.
    fn reopen(&self, catalog: Box<dyn Catalog>) -> Box<dyn Catalog>;

    /// Lets the next commit of a catalog fail for good; `false` where the bed cannot.
    fn fail_next_commit(&self, catalog: &dyn Catalog) -> bool;
}

/// All checks.
pub const CHECKS: [Check<dyn CatalogBed>; 12] = [
    ("new catalog is empty", new_catalog_is_empty),
    ("keys and values are any bytes", keys_and_values_are_any_bytes),
    ("the last put or remove of a key counts", last_change_of_a_key_counts),
    ("tables are separate", tables_are_separate),
    ("scan shows a range in order", scan_shows_a_range_in_order),
    ("transaction sees its own changes", transaction_sees_its_own_changes),
    ("failed work changes nothing", failed_work_changes_nothing),
    ("snapshot does not change", snapshot_does_not_change),
    ("readers see whole transactions", readers_see_whole_transactions),
    ("writers take turns", writers_take_turns),
    ("commits are there after a restart", commits_are_there_after_a_restart),
    ("failed commit ends writing", failed_commit_ends_writing),
];

const ALL: KeyRange<'static> = (Bound::Unbounded, Bound::Unbounded);

fn put(catalog: &dyn Catalog, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
    catalog.write(&mut |txn| txn.put(table, key, value))
}

fn get(catalog: &dyn Catalog, table: Table, key: &[u8]) -> Option<Vec<u8>> {
    read(catalog).get(table, key).expect("a whole catalog is read")
}

fn read(catalog: &dyn Catalog) -> Box<dyn CatalogRead + '_> {
    catalog.begin_read().expect("a whole catalog is read")
}

type Entries = Vec<(Vec<u8>, Vec<u8>)>;

fn entries(read: &(impl CatalogRead + ?Sized), table: Table, range: KeyRange<'_>, order: Order) -> Entries {
    let mut found = Vec::new();
    read.scan(table, range, order, &mut |key, value| {
        found.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    })
    .expect("a whole catalog is read");
    found
}

fn new_catalog_is_empty(bed: &dyn CatalogBed) {
    let catalog = bed.make();
    let read = read(catalog.as_ref());
    for (table, _) in TABLES {
        assert_eq!(read.len(table).expect("readable"), 0);
        assert_eq!(read.get(table, b"a").expect("readable"), None);
        assert!(entries(read.as_ref(), table, ALL, Order::Ascending).is_empty());
        assert!(entries(read.as_ref(), table, ALL, Order::Descending).is_empty());
    }
}

fn keys_and_values_are_any_bytes(bed: &dyn CatalogBed) {
    let catalog = bed.make();
    let keys: [&[u8]; 7] = [b"", b"\0", b"\0\0", b"key", b"\xff", b"\xff\xff", &[0x80; 2_048]];
    let values: [Vec<u8>; 4] = [Vec::new(), vec![0], (0..=255).collect(), vec![0xa5; MAX_OP_LEN]];
    for (i, key) in keys.iter().enumerate() {
        put(catalog.as_ref(), Table::Meta, key, &values[i % values.len()]).expect("a key of any bytes is taken");
    }
    let catalog = bed.reopen(catalog);
    for (i, key) in keys.iter().enumerate() {
        assert_eq!(get(catalog.as_ref(), Table::Meta, key).as_ref(), Some(&values[i % values.len()]));
    }
    assert_eq!(read(catalog.as_ref()).len(Table::Meta).expect("readable"), keys.len() as u64);
}

fn last_change_of_a_key_counts(bed: &dyn CatalogBed) {
    let catalog = bed.make();
    put(catalog.as_ref(), Table::Ops, b"a", b"1").expect("written");
    put(catalog.as_ref(), Table::Ops, b"a", b"22").expect("written");
    assert_eq!(get(catalog.as_ref(), Table::Ops, b"a").as_deref(), Some(b"22".as_slice()));
    catalog.write(&mut |txn| txn.remove(Table::Ops, b"a")).expect("written");
    catalog.write(&mut |txn| txn.remove(Table::Ops, b"a")).expect("an absent key is no error");
    assert_eq!(get(catalog.as_ref(), Table::Ops, b"a"), None);
    let change = &mut |txn: &mut dyn bib_core::port::CatalogTxn| {
        txn.remove(Table::Ops, b"a")?;
        txn.put(Table::Ops, b"a", b"3")?;
        txn.put(Table::Ops, b"b", b"4")?;
        txn.remove(Table::Ops, b"b")
    };
    catalog.write(change).expect("written");
    assert_eq!(
        entries(read(catalog.as_ref()).as_ref(), Table::Ops, ALL, Order::Ascending),
        [(b"a".to_vec(), b"3".to_vec())]
    );
}

fn tables_are_separate(bed: &dyn CatalogBed) {
    let catalog = bed.make();
    let change = &mut |txn: &mut dyn bib_core::port::CatalogTxn| {
        TABLES.into_iter().try_for_each(|(table, name)| txn.put(table, b"key", name.as_bytes()))
    };
    catalog.write(change).expect("written");
    let catalog = bed.reopen(catalog);
    let read = read(catalog.as_ref());
    for (table, name) in TABLES {
        assert_eq!(read.get(table, b"key").expect("readable").as_deref(), Some(name.as_bytes()));
        assert_eq!(read.len(table).expect("readable"), 1);
    }
}

fn bound(key: &[u8], kind: u64) -> Bound<&[u8]> {
    match kind {
        0 => Bound::Unbounded,
        1 => Bound::Included(key),
        _ => Bound::Excluded(key),
    }
}

fn is_within(key: &[u8], (low, high): KeyRange<'_>) -> bool {
    let behind = match low {
        Bound::Unbounded => true,
        Bound::Included(low) => key >= low,
        Bound::Excluded(low) => key > low,
    };
    behind
        && match high {
            Bound::Unbounded => true,
            Bound::Included(high) => key <= high,
            Bound::Excluded(high) => key < high,
        }
}

fn scan_shows_a_range_in_order(bed: &dyn CatalogBed) {
    let catalog = bed.make();
    let mut rng = Rng::new(1);
    let key = |rng: &mut Rng| {
        let mut key = vec![0; rng.below(4) as usize];
        key.iter_mut().for_each(|byte| *byte = [0, 1, 0x7f, 0xff][rng.below(4) as usize]);
        key
    };
    let mut model = BTreeMap::new();
    for i in 0..60_u8 {
        model.insert(key(&mut rng), vec![i]);
    }
    let change = &mut |txn: &mut dyn bib_core::port::CatalogTxn| {
        model.iter().try_for_each(|(key, value)| txn.put(Table::OpOrder, key, value))
    };
    catalog.write(change).expect("written");
    let read = read(catalog.as_ref());
    for _ in 0..400 {
        let (low, high) = (key(&mut rng), key(&mut rng));
        let range = (bound(&low, rng.below(3)), bound(&high, rng.below(3)));
        let of_model = model.iter().filter(|(key, _)| is_within(key, range));
        let mut expected: Entries = of_model.map(|(key, value)| (key.clone(), value.clone())).collect();
        assert_eq!(entries(read.as_ref(), Table::OpOrder, range, Order::Ascending), expected, "{range:?}");
        expected.reverse();
        assert_eq!(entries(read.as_ref(), Table::OpOrder, range, Order::Descending), expected, "{range:?}");
        let mut n_shown = 0;
        let most = 1 + rng.below(5) as usize;
        read.scan(Table::OpOrder, range, Order::Descending, &mut |_, _| {
            n_shown += 1;
            if n_shown == most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .expect("readable");
        assert_eq!(n_shown, most.min(expected.len()));
    }
}

fn transaction_sees_its_own_changes(bed: &dyn CatalogBed) {
    let catalog = bed.make();
    put(catalog.as_ref(), Table::Ops, b"a", b"1").expect("written");
    let change = &mut |txn: &mut dyn bib_core::port::CatalogTxn| {
        txn.put(Table::Ops, b"b", b"2")?;
        txn.remove(Table::Ops, b"a")?;
        assert_eq!(txn.get(Table::Ops, b"a")?, None);
        assert_eq!(txn.get(Table::Ops, b"b")?.as_deref(), Some(b"2".as_slice()));
        assert_eq!(txn.len(Table::Ops)?, 1);
        let mut keys = Vec::new();
        txn.scan(Table::Ops, ALL, Order::Ascending, &mut |key, _| {
            keys.extend_from_slice(key);
            ControlFlow::Continue(())
        })?;
        assert_eq!(keys, b"b");
        Ok(())
    };
    catalog.write(change).expect("written");
}

fn failed_work_changes_nothing(bed: &dyn CatalogBed) {
    let catalog = bed.make();
    put(catalog.as_ref(), Table::Ops, b"a", b"1").expect("written");
    let refused = catalog.write(&mut |txn| {
        txn.put(Table::Ops, b"a", b"2")?;
        txn.put(Table::Ops, b"b", b"2")?;
        txn.put(Table::Heads, b"c", b"2")?;
        txn.remove(Table::Ops, b"a")?;
        Err(StoreError::Unsupported("this".to_owned()))
    });
    assert!(
        matches!(refused, Err(StoreError::Unsupported(what)) if what == "this"),
        "the error of the work comes back"
    );
    let expected = [(b"a".to_vec(), b"1".to_vec())];
    assert_eq!(entries(read(catalog.as_ref()).as_ref(), Table::Ops, ALL, Order::Ascending), expected);
    let catalog = bed.reopen(catalog);
    assert_eq!(entries(read(catalog.as_ref()).as_ref(), Table::Ops, ALL, Order::Ascending), expected);
    assert_eq!(read(catalog.as_ref()).len(Table::Heads).expect("readable"), 0);
    put(catalog.as_ref(), Table::Ops, b"d", b"4").expect("the next transaction works");
}

fn snapshot_does_not_change(bed: &dyn CatalogBed) {
    let catalog = bed.make();
    for i in 0..10_u8 {
        put(catalog.as_ref(), Table::Ops, &[i], &[i]).expect("written");
    }
    let before = read(catalog.as_ref());
    let shown = entries(before.as_ref(), Table::Ops, ALL, Order::Ascending);
    let mut later = Vec::new();
    for i in 0..10_u8 {
        let change = &mut |txn: &mut dyn bib_core::port::CatalogTxn| {
            txn.remove(Table::Ops, &[i])?;
            txn.put(Table::Ops, &[100 + i], &[0; 3_000])
        };
        catalog.write(change).expect("a reader stops no writer");
        later.push(read(catalog.as_ref()));
    }
    assert_eq!(entries(before.as_ref(), Table::Ops, ALL, Order::Ascending), shown);
    assert_eq!(before.len(Table::Ops).expect("readable"), 10);
    for (i, read) in later.iter().enumerate() {
        assert_eq!(read.get(Table::Ops, &[i as u8]).expect("readable"), None);
        assert_eq!(read.get(Table::Ops, &[101 + i as u8]).expect("readable"), None);
        assert!(read.get(Table::Ops, &[100 + i as u8]).expect("readable").is_some());
    }
}

fn number(bytes: Option<Vec<u8>>) -> u64 {
    bytes.map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes were written")))
}

fn readers_see_whole_transactions(bed: &dyn CatalogBed) {
    const ROUNDS: u64 = 60;
    let catalog = bed.make();
    let (catalog, finished) = (catalog.as_ref(), &AtomicBool::new(false));
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(move || {
                    let mut last = 0;
                    loop {
                        let ending = finished.load(Ordering::Acquire);
                        let read = read(catalog);
                        let first = number(read.get(Table::Topics, b"n").expect("readable"));
                        let second = number(read.get(Table::Datasets, b"n").expect("readable"));
                        assert_eq!(first, second, "both or none");
                        assert!(first >= last, "a later snapshot is no older");
                        last = first;
                        if ending {
                            return last;
                        }
                    }
                })
            })
            .collect();
        for i in 1..=ROUNDS {
            let change = &mut |txn: &mut dyn bib_core::port::CatalogTxn| {
                txn.put(Table::Topics, b"n", &i.to_le_bytes())?;
                txn.put(Table::Datasets, b"n", &i.to_le_bytes())
            };
            catalog.write(change).expect("written");
        }
        finished.store(true, Ordering::Release);
        for reader in readers {
            assert_eq!(reader.join().expect("a reader that saw nothing wrong"), ROUNDS);
        }
    });
}

fn writers_take_turns(bed: &dyn CatalogBed) {
    let catalog = bed.make();
    let shared = catalog.as_ref();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(move || {
                for _ in 0..20 {
                    let add = &mut |txn: &mut dyn bib_core::port::CatalogTxn| {
                        let sum = number(txn.get(Table::Meta, b"sum")?) + 1;
                        txn.put(Table::Meta, b"sum", &sum.to_le_bytes())
                    };
                    shared.write(add).expect("written");
                }
            });
        }
    });
    assert_eq!(number(get(shared, Table::Meta, b"sum")), 60);
}

fn commits_are_there_after_a_restart(bed: &dyn CatalogBed) {
    let mut catalog = bed.make();
    for i in 0..20_u64 {
        put(catalog.as_ref(), Table::Ops, &i.to_be_bytes(), &vec![i as u8; 200 * i as usize]).expect("written");
        if i % 5 == 0 {
            catalog = bed.reopen(catalog);
        }
    }
    let catalog = bed.reopen(catalog);
    for i in 0..20_u64 {
        assert_eq!(get(catalog.as_ref(), Table::Ops, &i.to_be_bytes()), Some(vec![i as u8; 200 * i as usize]));
    }
}

fn failed_commit_ends_writing(bed: &dyn CatalogBed) {
    let catalog = bed.make();
    put(catalog.as_ref(), Table::Ops, b"a", b"1").expect("written");
    if !bed.fail_next_commit(catalog.as_ref()) {
        return;
    }
    put(catalog.as_ref(), Table::Ops, b"a", b"2").expect_err("the bed lets it fail");
    let refused = put(catalog.as_ref(), Table::Ops, b"b", b"1");
    assert!(matches!(refused, Err(StoreError::ReadOnly(_))), "{refused:?}");
    assert_eq!(get(catalog.as_ref(), Table::Ops, b"a").as_deref(), Some(b"1".as_slice()), "reads go on");
    let catalog = bed.reopen(catalog);
    assert_eq!(get(catalog.as_ref(), Table::Ops, b"a").as_deref(), Some(b"1".as_slice()));
    put(catalog.as_ref(), Table::Ops, b"b", b"1").expect("written after the restart");
}
