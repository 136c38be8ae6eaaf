use std::fs;
use std::path::Path;

use bib_core::port::{Catalog, Order, StoreError, Table};

use super::{FORMAT, NAME, RedbCatalog, VERSION};
use crate::database::Store;
use crate::disk::Folder;

const CACHE: usize = 1 << 20;

fn folder(path: &Path) -> Folder {
    Folder::new(path.to_owned()).unwrap()
}

fn open(path: &Path) -> Result<RedbCatalog, StoreError> {
    RedbCatalog::open(&folder(path), CACHE)
}

fn put(catalog: &RedbCatalog, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
    catalog.write(&mut |txn| txn.put(Table::Ops, key, value))
}

#[test]
fn what_was_committed_is_there_after_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path()).unwrap();
    put(&catalog, b"a", b"1").unwrap();
    drop(catalog);
    let catalog = open(dir.path()).unwrap();
    assert_eq!(catalog.begin_read().unwrap().get(Table::Ops, b"a").unwrap(), Some(b"1".to_vec()));
}

#[test]
fn visitor_may_look_into_other_tables_of_its_transaction() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path()).unwrap();
    put(&catalog, b"a", b"1").unwrap();
    let mut n = 0;
    let all = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
    let work = &mut |txn: &mut dyn bib_core::port::CatalogTxn| {
        txn.put(Table::Heads, b"a", b"")?;
        txn.scan(Table::Ops, all, Order::Ascending, &mut |key, _| {
            n += u32::from(txn.get(Table::Heads, key).unwrap().is_some());
            n += u32::from(txn.get(Table::Bans, key).unwrap().is_none());
            std::ops::ControlFlow::Continue(())
        })
    };
    catalog.write(work).unwrap();
    assert_eq!(n, 2);
}

#[test]
fn second_handle_is_refused_until_the_first_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).unwrap();
    let refused = open(dir.path()).unwrap_err();
    assert!(matches!(refused, StoreError::Locked(_)), "{refused}");
    drop(first);
    open(dir.path()).unwrap();
}

#[test]
fn newer_format_is_refused_and_not_changed() {
    let dir = tempfile::tempdir().unwrap();
    let newer = Store::make(&folder(dir.path()), NAME, CACHE, |txn| {
        txn.open_table(FORMAT).unwrap().insert("version", VERSION + 1).unwrap();
        Ok(())
    });
    drop(newer.unwrap());
    let refused = open(dir.path()).unwrap_err();
    assert!(matches!(&refused, StoreError::Unsupported(why) if why.contains("version 3")), "{refused}");
    let newer = Store::open(&folder(dir.path()), NAME, CACHE, |_| Ok(())).unwrap();
    let tables: Vec<String> = {
        let read = newer.read().unwrap();
        read.list_tables().unwrap().map(|table| redb::TableHandle::name(&table).to_owned()).collect()
    };
    assert_eq!(tables, ["format"], "a refused catalog gets no tables");
}

#[test]
fn garbage_is_refused_with_what_to_do() {
    let garbage: [Vec<u8>; 4] =
        [Vec::new(), vec![0x5a], b"SQLite format 3\0".repeat(4_000), bib_core::hash::hash(b"noise").repeat(2_000)];
    for bytes in garbage {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(NAME), &bytes).unwrap();
        let refused = open(dir.path()).unwrap_err();
        assert!(matches!(&refused, StoreError::Corrupt(why) if why.contains("backup")), "{refused}");
        assert_eq!(fs::read(dir.path().join(NAME)).unwrap(), bytes, "a refused file is left as it was");
    }
}

#[test]
fn damage_anywhere_in_the_file_never_ends_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path()).unwrap();
    for i in 0..200_u32 {
        put(&catalog, &i.to_be_bytes(), &bib_core::hash::hash(&i.to_be_bytes())).unwrap();
    }
    drop(catalog);
    let whole = fs::read(dir.path().join(NAME)).unwrap();
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let mut refused = 0;
    for seed in 0..60_u64 {
        let noise = bib_core::hash::hash(&seed.to_le_bytes());
        // Half of the damage goes to the header and the first pages, which the open reads.
        let reach = if seed % 2 == 0 { used } else { 4_096 };
        let at = u32::from_le_bytes(noise[..4].try_into().unwrap()) as usize % reach;
        let mut bytes = whole.clone();
        for (byte, noise) in bytes[at..].iter_mut().zip(&noise[..1 + seed as usize % 32]) {
            *byte ^= noise | 1;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(NAME), &bytes).unwrap();
        let all = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
        let read = open(dir.path()).and_then(|catalog| {
            let read = catalog.begin_read()?;
            read.scan(Table::Ops, all, Order::Ascending, &mut |_, _| std::ops::ControlFlow::Continue(()))
        });
        refused += u32::from(read.is_err());
    }
    assert!(refused > 0, "none of the damage was found");
}

#[test]
fn unfinished_new_catalog_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("catalog.redb.new"), b"half of a database").unwrap();
    put(&open(dir.path()).unwrap(), b"a", b"1").unwrap();
    assert!(!dir.path().join("catalog.redb.new").exists());
}
