//! Data directories that earlier formats left: each must open, and all of it must still be there.
//!
//! `fixtures/vN` holds the files of both stores as a version wrote them, each as a zstd frame because database files
//! are mostly zeroes: full segments, one that was being written, chunks of both codecs, and some that a killed process
//! had not indexed yet. A new version of a format gets a folder of its own, made by
//! `BIB_BLESS=1 cargo test -p bib-storage-redb --test golden`; the older ones stay as they are. In version 2 the index has
//! entries that wait for their places.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};

use bib_core::chunk::{Chunk, Codec};
use bib_core::hash::hash;
use bib_core::port::{Catalog, CatalogTxn, ChunkStore, Order, TABLES};
use bib_storage_redb::{Bounds, Folder, RedbCatalog, SegmentStore};

const CACHE: usize = 1 << 20;
const N_CHUNKS: u64 = 14;
const N_INDEXED: usize = 10;
/// Small segments, so that a few chunks fill some.
const BOUNDS: Bounds = Bounds {
    segment_len: 4_096,
    unindexed_bytes: 1 << 20,
    unindexed_chunks: 100,
    recent_entries: 8,
    reclaim_records: 100,
};

fn fixture(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/v{version}"))
}

fn chunks() -> Vec<Chunk> {
    let noise = |i: u64| (0..i * 3 + 1).flat_map(move |part| hash(&[i as u8, part as u8])).collect();
    let text = |i: u64| format!("2026-11-{i:02},berlin,{}\n", i * 3).repeat(40).into_bytes();
    (0..N_CHUNKS).map(|i| Chunk::from_raw(if i % 2 == 0 { noise(i) } else { text(i) })).collect()
}

/// A value for each table, of some length.
fn value(table: usize, i: u8) -> Vec<u8> {
    vec![table as u8 ^ i; 1 + usize::from(i) * 20]
}

fn open(path: &Path) -> (SegmentStore, RedbCatalog) {
    let folder = || Folder::new(path.to_owned()).unwrap();
    let chunks = SegmentStore::open_bounded(Box::new(folder()), CACHE, *b"golden store v1.", BOUNDS).unwrap();
    (chunks, RedbCatalog::open(&folder(), CACHE).unwrap())
}

fn make(path: &Path) {
    let (store, catalog) = open(path);
    for (i, chunk) in chunks().iter().enumerate() {
        store.put(chunk).unwrap();
        if i + 1 == N_INDEXED {
            store.flush().unwrap();
        }
    }
    let fill = &mut |txn: &mut dyn CatalogTxn| {
        TABLES.iter().enumerate().try_for_each(|(number, (table, _))| {
            (0..5).try_for_each(|i| txn.put(*table, &[b'k', i], &value(number, i)))
        })
    };
    catalog.write(fill).unwrap();
}

fn unpack(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let bytes = zstd::bulk::decompress(&fs::read(&path).unwrap(), 64 << 20).unwrap();
        fs::write(to.join(path.file_stem().unwrap()), bytes).unwrap();
    }
}

fn pack(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{}.zst", path.file_name().unwrap().to_str().unwrap());
        fs::write(to.join(name), zstd::bulk::compress(&fs::read(&path).unwrap(), 19).unwrap()).unwrap();
    }
}

#[test]
fn data_directory_of_version_1_opens_with_everything_in_it() {
    opens_with_everything_in_it(1);
}

#[test]
fn data_directory_of_version_2_opens_with_everything_in_it() {
    if std::env::var_os("BIB_BLESS").is_some() && !fixture(2).exists() {
        let made = tempfile::tempdir().unwrap();
        make(made.path());
        pack(made.path(), &fixture(2));
    }
    opens_with_everything_in_it(2);
}

fn opens_with_everything_in_it(version: u32) {
    let copy = tempfile::tempdir().unwrap();
    unpack(&fixture(version), copy.path());
    let chunks = chunks();
    assert!([Codec::None, Codec::Zstd].iter().all(|codec| chunks.iter().any(|chunk| chunk.codec() == *codec)));
    for _ in 0..2 {
        let (store, catalog) = open(copy.path());
        for chunk in &chunks {
            assert_eq!(store.get(&chunk.id()).unwrap().as_ref(), Some(chunk));
        }
        assert_eq!(store.stats().unwrap().n_chunks, N_CHUNKS);
        assert_eq!(store.stats().unwrap().raw_bytes, chunks.iter().map(|chunk| u64::from(chunk.len())).sum::<u64>());
        let read = catalog.begin_read().unwrap();
        for (number, (table, name)) in TABLES.iter().enumerate() {
            let mut expected = 0..5;
            // Tables that are newer than the fixture are there and empty.
            if read.len(*table).unwrap() == 0 {
                assert!(number >= 19, "{name} is empty");
                continue;
            }
            let all = (Bound::Unbounded, Bound::Unbounded);
            read.scan(*table, all, Order::Ascending, &mut |key, found| {
                let i = expected.next().unwrap();
                assert_eq!((key, found), ([b'k', i].as_slice(), value(number, i).as_slice()), "{name}");
                ControlFlow::Continue(())
            })
            .unwrap();
            assert!(expected.is_empty(), "{name}");
        }
    }
    let (store, catalog) = open(copy.path());
    let new = Chunk::from_raw(b"work goes on".to_vec());
    store.put(&new).unwrap();
    store.flush().unwrap();
    catalog.write(&mut |txn| txn.put(TABLES[0].0, b"new", b"")).unwrap();
    drop((store, catalog));
    let (store, catalog) = open(copy.path());
    assert_eq!(store.get(&new.id()).unwrap(), Some(new));
    assert!(catalog.begin_read().unwrap().get(TABLES[0].0, b"new").unwrap().is_some());
}
