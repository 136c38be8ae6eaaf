//! What the stores cost a medium, counted and not timed.

#![allow(clippy::unwrap_used, reason = "tests")]

use bib_core::chunk::Chunk;
use bib_core::port::{Catalog, CatalogTxn, ChunkStore, Table};
use bib_sim::disk::FaultyDisk;
use bib_sim::rng::Rng;
use bib_storage_redb::{Bounds, RedbCatalog, SegmentStore};

const CACHE: usize = 256 << 10;
const MIB: u64 = 1 << 20;

fn noise(rng: &mut Rng, len: usize) -> Chunk {
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    Chunk::from_raw(bytes)
}

fn open(disk: &FaultyDisk) -> SegmentStore {
    SegmentStore::open(Box::new(disk.clone()), CACHE, [1; 16]).unwrap()
}

#[test]
fn a_commit_is_two_syncs_however_much_is_in_it() {
    let disk = FaultyDisk::new();
    let catalog = RedbCatalog::open(&disk, CACHE).unwrap();
    // The growth of the file is a sync of its own; the first ones make it grow.
    for (i, n_keys) in [1_000_u32, 1_000, 1_000, 1, 100, 1_000].into_iter().enumerate() {
        let before = disk.syncs();
        let change = &mut |txn: &mut dyn CatalogTxn| {
            (0..n_keys).try_for_each(|i| txn.put(Table::Ops, &i.to_be_bytes(), &[7; 300]))
        };
        catalog.write(change).unwrap();
        assert!(i < 3 || disk.syncs() - before == 2);
    }
    let before = disk.syncs();
    catalog.write(&mut |_| Err(bib_core::port::StoreError::Full("undone".to_owned()))).unwrap_err();
    assert_eq!(disk.syncs() - before, 0, "what is undone is not synced");
}

#[test]
fn small_commits_in_a_group_are_cheap() {
    let disk = FaultyDisk::new();
    let catalog = RedbCatalog::open(&disk, CACHE).unwrap();
    let written = |n_keys: u32, seed: u32| {
        let before = disk.written_bytes();
        let change = &mut |txn: &mut dyn CatalogTxn| {
            (0..n_keys).try_for_each(|i| txn.put(Table::Ops, &(seed + i).to_be_bytes(), &[7; 1_000]))
        };
        catalog.write(change).unwrap();
        (disk.written_bytes() - before) / u64::from(n_keys)
    };
    let (alone, in_group) = (written(1, 0), written(100, 1_000));
    assert!(in_group < 4_000 && in_group * 8 < alone, "{alone} bytes alone, {in_group} each in a group");
}

#[test]
fn flush_is_three_syncs_a_full_segment_one_and_nothing_none() {
    let disk = FaultyDisk::new();
    let bounds = Bounds { segment_len: 64 << 10, ..Bounds::default() };
    let store = SegmentStore::open_bounded(Box::new(disk.clone()), CACHE, [1; 16], bounds).unwrap();
    let mut rng = Rng::new(1);
    let mut syncs = |store: &SegmentStore, n_chunks: u64| {
        let before = disk.syncs();
        for _ in 0..n_chunks {
            store.put(&noise(&mut rng, 10_000)).unwrap();
        }
        let put = disk.syncs() - before;
        store.flush().unwrap();
        (put, disk.syncs() - before - put)
    };
    assert_eq!(syncs(&store, 1).0, 0);
    // The index has grown to its size when it is new; growth is a sync of its own.
    syncs(&store, 1);
    assert_eq!(syncs(&store, 1), (0, 3));
    assert_eq!(syncs(&store, 0), (0, 0));
    assert_eq!(syncs(&store, 4), (1, 4), "the name of the first segment is durable already, that of the next is not");
    assert_eq!(syncs(&store, 60), (10, 4), "the names of ten full segments become durable together");
    assert_eq!(store.stats().unwrap().fsyncs, disk.syncs());
    assert_eq!(store.stats().unwrap().written_bytes, disk.written_bytes());
}

#[test]
fn large_content_is_written_hardly_more_than_once() {
    let disk = FaultyDisk::new();
    let bounds = Bounds { segment_len: 4 * MIB, unindexed_bytes: 8 * MIB, ..Bounds::default() };
    let store = SegmentStore::open_bounded(Box::new(disk.clone()), CACHE, [1; 16], bounds).unwrap();
    let mut rng = Rng::new(2);
    let (written, syncs) = (disk.written_bytes(), disk.syncs());
    for _ in 0..128 {
        store.put(&noise(&mut rng, 256 << 10)).unwrap();
    }
    store.flush().unwrap();
    let (written, syncs) = (disk.written_bytes() - written, disk.syncs() - syncs);
    assert!(written * 100 <= 32 * MIB * 105, "{written} bytes for 32 MiB");
    // Segments are a sixteenth of what they are outside of this test.
    assert!(syncs * 16 <= 32 * 16, "{syncs} syncs for 32 MiB in segments of 4 MiB");
}

/// Bytes that the index writes for each of 5,000 new chunks beside 60,000 others.
fn index_bytes_each(recent_entries: usize) -> u64 {
    let disk = FaultyDisk::new();
    let bounds = Bounds { recent_entries, ..Bounds::default() };
    let store = SegmentStore::open_bounded(Box::new(disk.clone()), 4 << 20, [1; 16], bounds).unwrap();
    let mut rng = Rng::new(3);
    let mut put = |n: u64| {
        for _ in 0..n {
            store.put(&noise(&mut rng, 100)).unwrap();
        }
        store.flush().unwrap();
    };
    put(60_000);
    let (before, stored) = (disk.written_bytes(), store.stats().unwrap().stored_bytes);
    (0..50).for_each(|_| put(100));
    let payload = store.stats().unwrap().stored_bytes - stored;
    (disk.written_bytes() - before - payload) / 5_000
}

#[test]
fn new_chunks_beside_many_others_are_indexed_together_and_not_a_page_for_each() {
    let (together, at_once) = (index_bytes_each(4_000), index_bytes_each(0));
    assert!(together * 2 < at_once, "{together} bytes an entry, {at_once} if each comes to its place at once");
}

/// Bytes that an open reads of a store with so many chunks, after a clean end and after a kill.
fn read_at_open(n_chunks: u32) -> [u64; 2] {
    let disk = FaultyDisk::new();
    let store = open(&disk);
    let catalog = RedbCatalog::open(&disk, CACHE).unwrap();
    for i in 0..n_chunks {
        store.put(&Chunk::from_raw(i.to_le_bytes().to_vec())).unwrap();
    }
    store.flush().unwrap();
    let fill = &mut |txn: &mut dyn CatalogTxn| {
        (0..n_chunks).try_for_each(|i| txn.put(Table::Ops, &i.to_be_bytes(), &[7; 100]))
    };
    catalog.write(fill).unwrap();
    let killed = disk.after_kill();
    drop((store, catalog));
    [disk.after_kill(), killed].map(|disk| {
        let store = open(&disk);
        assert_eq!(store.stats().unwrap().n_chunks, u64::from(n_chunks));
        RedbCatalog::open(&disk, CACHE).unwrap();
        disk.read_bytes()
    })
}

#[test]
fn an_open_reads_as_little_of_a_large_store_as_of_a_small_one() {
    let (small, large) = (read_at_open(500), read_at_open(30_000));
    for (small, large) in small.into_iter().zip(large) {
        assert!(large < small + (128 << 10), "{small} bytes of a small store, {large} of a large one");
    }
}
