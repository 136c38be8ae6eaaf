use std::fs;
use std::path::Path;
use std::time::Duration;

use bib_core::chunk::Chunk;
use bib_core::hash::hash;
use bib_core::port::{ChunkStore, Reclaim, Reclaimed, SweepRules};
use bib_core::time::Timestamp;

use super::{Bounds, SegmentStore};
use crate::disk::Folder;

const RULES: SweepRules =
    SweepRules { number: 1, now: Timestamp(1), min_age: Duration::ZERO, dry_run: false, max_chunks: 1_000 };

fn open(path: &Path, bounds: Bounds) -> SegmentStore {
    SegmentStore::open_bounded(Box::new(Folder::new(path.to_owned()).unwrap()), 1 << 20, [7; 16], bounds).unwrap()
}

fn chunk(seed: u64, len: usize) -> Chunk {
    let noise: Vec<u8> = (0..len as u64 / 32 + 1).flat_map(|i| hash(&(seed << 32 | i).to_le_bytes())).collect();
    Chunk::from_raw(noise[..len].to_vec())
}

fn assert_held<'a>(store: &SegmentStore, chunks: impl IntoIterator<Item = &'a Chunk>) {
    for chunk in chunks {
        assert_eq!(store.get(&chunk.id()).unwrap().as_ref(), Some(chunk));
    }
}

/// Keeps every `n`-th chunk; what was given back.
fn collect(store: &SegmentStore, chunks: &[Chunk], n: usize) -> Vec<Reclaimed> {
    store.begin_gc(1 << 16, RULES.number).unwrap();
    chunks.iter().step_by(n).for_each(|chunk| store.mark(&chunk.id()));
    let mut after = None;
    loop {
        after = store.sweep_step(&RULES, after).unwrap().next;
        if after.is_none() {
            break;
        }
    }
    let mut all = Vec::new();
    while let Some(reclaimed) = store.reclaim_step().unwrap() {
        all.push(reclaimed);
    }
    store.end_gc();
    all
}

fn filled(path: &Path, bounds: Bounds, n: u64, len: usize) -> (SegmentStore, Vec<Chunk>) {
    let store = open(path, bounds);
    let chunks: Vec<Chunk> = (0..n).map(|i| chunk(i, len)).collect();
    chunks.iter().for_each(|chunk| assert!(store.put(chunk).unwrap()));
    store.flush().unwrap();
    (store, chunks)
}

#[test]
fn store_of_one_segment_gives_space_back_and_goes_on_in_another() {
    let folder = tempfile::tempdir().unwrap();
    let (store, chunks) = filled(folder.path(), Bounds::default(), 60, 100_000);
    assert_eq!(store.stats().unwrap().n_segments, 1);
    let given = collect(&store, &chunks, 4);
    assert!(given.iter().map(|given| given.freed_bytes).sum::<u64>() > 4_000_000, "{given:?}");
    assert_held(&store, chunks.iter().step_by(4));
    let more = chunk(1_000, 50_000);
    assert!(store.put(&more).unwrap());
    // What is of little use to end is not ended again.
    assert_eq!(collect(&store, &[chunks.clone(), vec![more.clone()]].concat(), 4), []);
    drop(store);
    let store = open(folder.path(), Bounds::default());
    assert_held(&store, chunks.iter().step_by(4));
    let stats = store.stats().unwrap();
    assert!(stats.n_segments == 2 && stats.dead_bytes < 500_000, "{stats:?}");
    // Nothing of it is alive: the file goes, and the store opens without it.
    let given = collect(&store, &[], 1);
    assert!(given.iter().any(|given| given.action == Reclaim::Unlinked), "{given:?}");
    drop(store);
    let store = open(folder.path(), Bounds::default());
    assert_eq!(store.stats().unwrap().n_chunks, 0);
    assert!(store.put(&chunks[0]).unwrap());
    store.flush().unwrap();
    drop(store);
    assert_held(&open(folder.path(), Bounds::default()), &chunks[..1]);
}

#[test]
fn folder_with_the_name_of_a_segment_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let bounds = Bounds { segment_len: 200_000, ..Bounds::default() };
    for name in ["0000000001.seg", "0000000009.seg"] {
        fs::create_dir_all(folder.path().join(name).join("inside")).unwrap();
    }
    let (store, chunks) = filled(folder.path(), bounds, 30, 20_000);
    collect(&store, &chunks, 2);
    assert_held(&store, chunks.iter().step_by(2));
    assert_eq!(store.rebuild(&mut |_, _| ()).unwrap().lost, 0);
    assert!(store.scrub_step(None, u64::MAX).unwrap().chunks >= 15);
    drop(store);
    for _ in 0..2 {
        assert_held(&open(folder.path(), bounds), chunks.iter().step_by(2));
        fs::remove_file(folder.path().join("index.redb")).unwrap();
    }
    for name in ["0000000001.seg", "0000000009.seg"] {
        assert!(folder.path().join(name).join("inside").exists());
    }
}

#[test]
fn segment_with_more_records_than_may_be_held_gives_back_the_same() {
    let mut freed = Vec::new();
    for reclaim_records in [7, 10_000] {
        let folder = tempfile::tempdir().unwrap();
        let bounds = Bounds { segment_len: 400_000, reclaim_records, ..Bounds::default() };
        let (store, chunks) = filled(folder.path(), bounds, 300, 10_000);
        let given = collect(&store, &chunks, 3);
        freed.push(given.iter().map(|given| given.freed_bytes).sum::<u64>());
        assert_held(&store, chunks.iter().step_by(3));
        drop(store);
        assert_held(&open(folder.path(), bounds), chunks.iter().step_by(3));
    }
    assert!(freed[0] > 500_000 && freed[0] == freed[1], "{freed:?}");
}

#[test]
fn small_records_are_copied_where_holes_would_free_nothing() {
    for (reclaim_records, n) in [(50, 8), (10_000, 8), (50, 3), (10_000, 3)] {
        let folder = tempfile::tempdir().unwrap();
        let bounds = Bounds { segment_len: 100_000, reclaim_records, ..Bounds::default() };
        let (store, chunks) = filled(folder.path(), bounds, 4_000, 60);
        let given = collect(&store, &chunks, n);
        assert!(given.iter().any(|given| given.action == Reclaim::Rewritten), "{given:?}");
        assert_held(&store, chunks.iter().step_by(n));
        let before = chunks.len() as u64 * (60 + 56);
        let taken: u64 = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.file_name().to_str().unwrap().ends_with(".seg"))
            .map(|entry| entry.metadata().unwrap().len())
            .sum();
        assert!(taken < before / 2, "{taken} of {before}");
        drop(store);
        assert_held(&open(folder.path(), bounds), chunks.iter().step_by(n));
    }
}
