//! Data directories that earlier formats left: each must open, and all of it must still be there.
//!
//! `fixtures/vN` holds the files of both stores as a version wrote them, each as a zstd frame because database files
//! are mostly zeroes: full segments, one that was being written, chunks of both codecs, and some that a killed process
//! had not indexed yet. A new version of a format gets a folder of its own, made by
//! `BIB_BLESS=1 cargo test -p bib-storage-redb --test golden`; the older ones stay as they are. In version 2 the index has
//! entries that wait for their places. `sealed-vN` holds sealed ones, with two data keys and both ciphers; their keys are
//! [`keyring`].

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bib_core::chunk::{Chunk, Codec};
use bib_core::hash::hash;
use bib_core::port::{Catalog, CatalogTxn, ChunkStore, Order, StoreError, TABLES};
use bib_storage_redb::crypto::KeyBytes;
use bib_storage_redb::{Bounds, Cipher, Folder, Keyring, RedbCatalog, SegmentStore};

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

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// The keys of the sealed fixtures, of which the first `n` data keys are there.
fn keyring(n: u8, cipher: Cipher) -> Arc<Keyring> {
    let data_keys = (1..=n).map(|id| (u32::from(id), KeyBytes::new([id; 32]))).collect();
    Arc::new(Keyring::new(data_keys, &[0xaa; 32], &[0xbb; 32]).unwrap().with_cipher(cipher))
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

/// A key of any table. In a sealed one it is long enough to have a hidden part.
fn key(i: u8, is_sealed: bool) -> Vec<u8> {
    if is_sealed { [[b'k'; 33].as_slice(), &[i, 0], &[9; 40]].concat() } else { vec![b'k', i] }
}

fn try_open(path: &Path, keyring: Option<Arc<Keyring>>) -> Result<(SegmentStore, RedbCatalog), StoreError> {
    let folder = || Folder::new(path.to_owned()).unwrap();
    let store = *b"golden store v1.";
    let chunks = SegmentStore::open_with(Box::new(folder()), CACHE, store, BOUNDS, keyring.clone())?;
    Ok((chunks, RedbCatalog::open_with(&folder(), CACHE, keyring)?))
}

fn open(path: &Path, keyring: Option<Arc<Keyring>>) -> (SegmentStore, RedbCatalog) {
    try_open(path, keyring).unwrap()
}

/// Puts chunks, and entries of each table.
fn fill(
    (store, catalog): (SegmentStore, RedbCatalog),
    chunks: &[Chunk],
    entries: std::ops::Range<u8>,
    is_sealed: bool,
) {
    for (i, chunk) in chunks.iter().enumerate() {
        store.put(chunk).unwrap();
        if i + 1 == N_INDEXED {
            store.flush().unwrap();
        }
    }
    let fill = &mut |txn: &mut dyn CatalogTxn| {
        TABLES.iter().enumerate().try_for_each(|(number, (table, _))| {
            entries.clone().try_for_each(|i| txn.put(*table, &key(i, is_sealed), &value(number, i)))
        })
    };
    catalog.write(fill).unwrap();
}

fn bless(name: &str, make: impl FnOnce(&Path)) {
    if std::env::var_os("BIB_BLESS").is_some() && !fixture(name).exists() {
        let made = tempfile::tempdir().unwrap();
        make(made.path());
        pack(made.path(), &fixture(name));
    }
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
    opens_with_everything_in_it("v1", None, false);
}

#[test]
fn data_directory_of_version_2_opens_with_everything_in_it() {
    bless("v2", |path| fill(open(path, None), &chunks(), 0..5, false));
    opens_with_everything_in_it("v2", None, false);
}

#[test]
fn plain_data_directories_can_be_sealed() {
    for name in ["v1", "v2"] {
        opens_with_everything_in_it(name, Some(keyring(1, Cipher::Aes256Gcm)), false);
    }
}

#[test]
fn sealed_data_directory_opens_with_its_keys_and_everything_in_it() {
    const NAME: &str = "sealed-v1";
    bless(NAME, |path| {
        let (aes, chacha) = (keyring(1, Cipher::Aes256Gcm), keyring(2, Cipher::ChaCha20Poly1305));
        fill(open(path, Some(aes)), &chunks()[..N_INDEXED], 0..3, true);
        fill(open(path, Some(chacha)), &chunks()[N_INDEXED..], 3..5, true);
    });
    for cipher in Cipher::ALL {
        opens_with_everything_in_it(NAME, Some(keyring(2, cipher)), true);
    }
    let copy = tempfile::tempdir().unwrap();
    unpack(&fixture(NAME), copy.path());
    for wrong in [None, Some(keyring(1, Cipher::Aes256Gcm))] {
        let refused = try_open(copy.path(), wrong);
        assert!(matches!(refused, Err(StoreError::Sealed(_))), "{refused:?}");
    }
}

fn opens_with_everything_in_it(name: &str, keyring: Option<Arc<Keyring>>, is_sealed: bool) {
    let open = |path: &Path| open(path, keyring.clone());
    let copy = tempfile::tempdir().unwrap();
    unpack(&fixture(name), copy.path());
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
                assert_eq!((key, found), (self::key(i, is_sealed).as_slice(), value(number, i).as_slice()), "{name}");
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
