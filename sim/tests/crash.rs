//! Power cuts, kills, failed syncs and full disks under both stores, which share one folder here so that a cut falls
//! between them as well. After each: both open by themselves, what was acknowledged is there and is what it was, the
//! rest is whole or absent, and the work goes on.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests, which say how many cuts there were")]

use std::collections::BTreeSet;
use std::ops::{Bound, ControlFlow};

use bib_core::chunk::Chunk;
use bib_core::id::ChunkId;
use bib_core::port::{Catalog, ChunkStore, Order, StoreError, Table};
use bib_sim::disk::FaultyDisk;
use bib_sim::rng::Rng;
use bib_storage_redb::{Bounds, RedbCatalog, SegmentStore};

/// Small enough that a short script fills segments and flushes by itself.
const BOUNDS: Bounds = Bounds {
    segment_len: 5 << 10,
    unindexed_bytes: 24 << 10,
    unindexed_chunks: 10,
    recent_entries: 6,
    reclaim_records: 100,
};
const CACHE: usize = 256 << 10;

/// `BIB_CUTS=<n>` sets how many survivors of each step are looked at.
fn survivors_of_each_step() -> u64 {
    std::env::var("BIB_CUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(5)
}

struct Node {
    catalog: RedbCatalog,
    chunks: SegmentStore,
}

fn open(disk: &FaultyDisk) -> Result<Node, StoreError> {
    let chunks = SegmentStore::open_bounded(Box::new(disk.clone()), CACHE, [3; 16], BOUNDS)?;
    Ok(Node { catalog: RedbCatalog::open(disk, CACHE)?, chunks })
}

/// A dataset: some chunks, put, made durable, and then named in the catalog by two keys.
struct Dataset {
    name: Vec<u8>,
    chunks: Vec<Chunk>,
}

fn datasets(seed: u64, n: u64) -> Vec<Dataset> {
    let mut rng = Rng::new(seed);
    let dataset = |i: u64| {
        let n_chunks = 1 + rng.below(8);
        let chunk = |_| {
            let longest = if rng.chance(1, 8) { 20_000 } else { 2_000 };
            let mut bytes = vec![0; 1 + rng.below(longest) as usize];
            rng.fill(&mut bytes);
            Chunk::from_raw(bytes)
        };
        Dataset { name: format!("dataset {seed} {i}").into_bytes(), chunks: (0..n_chunks).map(chunk).collect() }
    };
    (0..n).map(dataset).collect()
}

fn ids(dataset: &Dataset) -> Vec<u8> {
    dataset.chunks.iter().flat_map(|chunk| *chunk.id().as_bytes()).collect()
}

fn publish(node: &Node, dataset: &Dataset) -> Result<(), StoreError> {
    for chunk in &dataset.chunks {
        node.chunks.put(chunk)?;
    }
    node.chunks.flush()?;
    node.catalog.write(&mut |txn| {
        txn.put(Table::Versions, &dataset.name, &ids(dataset))?;
        txn.put(Table::DatasetNames, &dataset.name, b"")
    })
}

/// What a script had achieved when it ended or failed.
#[derive(Default)]
struct Done {
    /// The step after which each dataset was acknowledged.
    acknowledged: Vec<u64>,
    /// Chunks of which `put` came back.
    put: BTreeSet<ChunkId>,
    node: Option<Node>,
}

/// Publishes datasets, with some work between them that is not asked to be durable.
fn script(disk: &FaultyDisk, datasets: &[Dataset], extra: &[Chunk], done: &mut Done) -> Result<(), StoreError> {
    for (i, dataset) in datasets.iter().enumerate() {
        let node = match done.node.take().filter(|_| i % 4 != 0) {
            Some(node) => node,
            None => open(disk)?,
        };
        let node = done.node.insert(node);
        for chunk in extra.get(i).iter().copied().chain(&dataset.chunks) {
            node.chunks.put(chunk)?;
            done.put.insert(chunk.id());
        }
        publish(node, dataset)?;
        done.acknowledged.push(disk.steps());
        if i % 3 == 1 {
            let undone = node.catalog.write(&mut |txn| {
                txn.put(Table::Versions, b"never", b"")?;
                Err(StoreError::Corrupt("undone".to_owned()))
            });
            assert!(matches!(undone, Err(StoreError::Corrupt(_))));
        }
    }
    Ok(())
}

fn named(node: &Node) -> BTreeSet<Vec<u8>> {
    let read = node.catalog.begin_read().unwrap();
    let keys = |table| {
        let mut keys = BTreeSet::new();
        let all = (Bound::Unbounded, Bound::Unbounded);
        read.scan(table, all, Order::Ascending, &mut |key, _| {
            keys.insert(key.to_vec());
            ControlFlow::Continue(())
        })
        .unwrap();
        keys
    };
    let versions = keys(Table::Versions);
    assert_eq!(versions, keys(Table::DatasetNames), "a transaction is whole or absent");
    versions
}

/// Checks what a node finds; the first `n_acknowledged` datasets must be there.
fn check(node: &Node, datasets: &[Dataset], extra: &[Chunk], n_acknowledged: usize) {
    let named = named(node);
    assert!(!named.contains(b"never".as_slice()));
    for (i, dataset) in datasets.iter().enumerate() {
        let is_named = named.contains(&dataset.name);
        assert!(is_named || i >= n_acknowledged, "acknowledged dataset {i} is lost");
        if is_named {
            let found = node.catalog.begin_read().unwrap().get(Table::Versions, &dataset.name).unwrap();
            assert_eq!(found, Some(ids(dataset)));
        }
        for chunk in &dataset.chunks {
            let found = node.chunks.get(&chunk.id()).unwrap();
            assert!(found.is_some() || !is_named, "dataset {i} is named and lacks a chunk");
            assert!(found.is_none_or(|found| found == *chunk));
        }
    }
    for chunk in extra {
        assert!(node.chunks.get(&chunk.id()).unwrap().is_none_or(|found| found == *chunk));
    }
}

/// What a node has shown after a start survives the next power cut.
fn assert_shown_is_durable(node: &Node, disk: &FaultyDisk, datasets: &[Dataset], seed: u64) {
    let shown = named(node);
    let held = |node: &Node, chunk: &Chunk| node.chunks.has(&chunk.id()).unwrap();
    let later = open(&disk.survivors(seed)).unwrap();
    assert!(shown.is_subset(&named(&later)));
    for chunk in datasets.iter().flat_map(|dataset| &dataset.chunks) {
        assert!(held(&later, chunk) || !held(node, chunk));
    }
}

fn assert_complete(node: &Node, datasets: &[Dataset]) {
    check(node, datasets, &[], datasets.len());
    let ids: BTreeSet<ChunkId> = datasets.iter().flat_map(|dataset| &dataset.chunks).map(Chunk::id).collect();
    assert!(node.chunks.stats().unwrap().n_chunks >= ids.len() as u64);
}

fn extra(seed: u64, n: u64) -> Vec<Chunk> {
    datasets(seed ^ 0xe7, n).into_iter().flat_map(|dataset| dataset.chunks).take(n as usize).collect()
}

#[test]
fn power_cut_at_every_single_step_of_a_short_script() {
    let (datasets, extra) = (datasets(1, 9), extra(1, 5));
    let disk = FaultyDisk::new();
    disk.record();
    let mut done = Done::default();
    script(&disk, &datasets, &extra, &mut done).unwrap();
    let mut cuts = disk.cuts();
    let mut n_cuts = 0;
    while let Some(cut) = cuts.next_cut() {
        let n_acknowledged = done.acknowledged.iter().filter(|step| **step <= cut.ended).count();
        for seed in 0..survivors_of_each_step() {
            let disk = cut.survivors(cut.ended << 8 | seed);
            let node = open(&disk).unwrap_or_else(|error| panic!("cut {} seed {seed}: {error}", cut.ended));
            check(&node, &datasets, &extra, n_acknowledged);
            if cut.ended % 8 == 0 {
                datasets.iter().for_each(|dataset| publish(&node, dataset).unwrap());
                drop(node);
                assert_complete(&open(&disk).unwrap(), &datasets);
            }
            n_cuts += 1;
        }
    }
    println!("{n_cuts} cuts");
    assert!(n_cuts > 2_000, "{n_cuts} cuts");
    assert!(disk.bytes("0000000003.seg").is_some(), "the script fills several segments");
}

#[test]
fn work_goes_on_through_many_cuts_in_a_row() {
    let mut n_cuts = 0;
    for seed in 0..40 {
        let (datasets, extra) = (datasets(seed, 24), extra(seed, 24));
        let mut rng = Rng::new(seed);
        let mut disk = FaultyDisk::new();
        let mut n_acknowledged = 0;
        while n_acknowledged < datasets.len() {
            disk.cut_at(1 + rng.below(90));
            let mut work = || -> Result<(), StoreError> {
                let node = open(&disk)?;
                check(&node, &datasets, &extra, n_acknowledged);
                while let Some(dataset) = datasets.get(n_acknowledged) {
                    node.chunks.put(&extra[n_acknowledged])?;
                    publish(&node, dataset)?;
                    n_acknowledged += 1;
                }
                Ok(())
            };
            let result = work();
            assert!(result.is_ok() || disk.is_off(), "seed {seed}: {result:?}");
            disk = disk.survivors(rng.next_u64());
            n_cuts += 1;
        }
        assert_complete(&open(&disk).unwrap(), &datasets);
    }
    println!("{n_cuts} cuts");
    assert!(n_cuts > 200, "{n_cuts} cuts");
}

#[test]
fn killed_process_loses_nothing_that_was_put() {
    let (datasets, extra) = (datasets(2, 9), extra(2, 9));
    let mut n_kills = 0;
    for step in 1.. {
        let disk = FaultyDisk::new();
        disk.cut_at(step);
        let mut done = Done::default();
        let result = script(&disk, &datasets, &extra, &mut done);
        let killed = disk.after_kill();
        let node = open(&killed).unwrap_or_else(|error| panic!("kill at {step}: {error}"));
        check(&node, &datasets, &extra, done.acknowledged.len());
        for id in &done.put {
            assert!(node.chunks.has(id).unwrap(), "kill at {step}");
        }
        assert_shown_is_durable(&node, &killed, &datasets, step);
        if step % 4 == 0 {
            datasets.iter().for_each(|dataset| publish(&node, dataset).unwrap());
            assert_complete(&open(&killed.survivors(step)).unwrap(), &datasets);
        }
        n_kills += 1;
        if result.is_ok() && !disk.is_off() {
            break;
        }
    }
    assert!(n_kills > 300, "{n_kills} kills");
}

#[test]
fn after_a_failed_sync_everything_is_readable_and_nothing_is_lost_at_the_next_start() {
    let (datasets, extra) = (datasets(3, 8), extra(3, 8));
    let (mut n_failures, mut n_read_only) = (0, 0);
    for sync in 1.. {
        for seed in 0..3 {
            let disk = FaultyDisk::new();
            disk.fail_sync(sync, seed);
            let mut done = Done::default();
            let result = script(&disk, &datasets, &extra, &mut done);
            let n_acknowledged = done.acknowledged.len();
            if result.is_ok() && disk.syncs() < sync {
                assert!(n_failures > 150, "{n_failures} failures");
                assert!(n_read_only > 80, "{n_read_only} of them while the stores were open");
                return;
            }
            n_failures += 1;
            if let Some(node) = done.node.take().filter(|_| result.is_err()) {
                check(&node, &datasets, &extra, n_acknowledged);
                for id in &done.put {
                    assert!(node.chunks.get(id).unwrap().is_some());
                }
                let refused = publish(&node, &datasets[n_acknowledged]);
                assert!(matches!(refused, Err(StoreError::ReadOnly(_))), "sync {sync}: {result:?}, then {refused:?}");
                n_read_only += 1;
            }
            drop(done);
            // The system still shows bytes that it will never write.
            let disk = disk.after_kill();
            let node = open(&disk).unwrap_or_else(|error| panic!("sync {sync} seed {seed}: {error}"));
            check(&node, &datasets, &extra, n_acknowledged);
            assert_shown_is_durable(&node, &disk, &datasets, seed);
            datasets.iter().for_each(|dataset| publish(&node, dataset).unwrap());
            for seed in 0..2 {
                assert_complete(&open(&disk.survivors(seed)).unwrap(), &datasets);
            }
        }
    }
}

#[test]
fn full_disk_keeps_what_is_acknowledged_and_the_work_goes_on_when_there_is_space() {
    let (datasets, extra) = (datasets(4, 10), extra(4, 10));
    let (mut n_full, mut n_restarts) = (0, 0);
    for free in 0.. {
        let disk = FaultyDisk::new();
        disk.set_free(Some(free * 4_096));
        let mut done = Done::default();
        let result = script(&disk, &datasets, &extra, &mut done);
        let n_acknowledged = done.acknowledged.len();
        if result.is_ok() {
            break;
        }
        assert!(matches!(result, Err(StoreError::Full(_))), "{free} blocks: {result:?}");
        n_full += 1;
        if let Some(node) = done.node.take() {
            check(&node, &datasets, &extra, n_acknowledged);
            let again = publish(&node, &datasets[n_acknowledged]);
            assert!(matches!(again, Ok(()) | Err(StoreError::Full(_))), "{free} blocks: {again:?}");
            // A node that starts on the full disk shows what it has.
            let killed = disk.after_kill();
            killed.set_free(Some(0));
            match open(&killed) {
                Ok(node) => {
                    check(&node, &datasets, &extra, n_acknowledged);
                    n_restarts += 1;
                }
                Err(error) => panic!("{free} blocks: {error}"),
            }
            disk.set_free(None);
            datasets.iter().for_each(|dataset| publish(&node, dataset).unwrap());
            assert_complete(&node, &datasets);
        } else {
            disk.set_free(None);
            datasets.iter().for_each(|dataset| publish(&open(&disk).unwrap(), dataset).unwrap());
        }
        assert_complete(&open(&disk.survivors(free)).unwrap(), &datasets);
    }
    assert!(n_full > 30 && n_restarts > 10, "{n_full} full, {n_restarts} restarts");
}

#[test]
fn read_that_fails_once_is_an_error_once() {
    let (datasets, disk) = (datasets(5, 4), FaultyDisk::new());
    let node = open(&disk).unwrap();
    datasets.iter().for_each(|dataset| publish(&node, dataset).unwrap());
    drop(node);
    let node = open(&disk).unwrap();
    disk.fail_reads(true);
    let failed = datasets.iter().flat_map(|dataset| &dataset.chunks).all(|chunk| node.chunks.get(&chunk.id()).is_err());
    assert!(failed);
    disk.fail_reads(false);
    assert_complete(&node, &datasets);
    publish(&node, &self::datasets(6, 1)[0]).unwrap();
}

#[test]
fn same_seed_leaves_the_same_bytes() {
    let run = || {
        let disk = FaultyDisk::new();
        disk.cut_at(200);
        let done = script(&disk, &datasets(7, 9), &extra(7, 9), &mut Done::default());
        assert!(done.is_err());
        disk.survivors(7).fingerprint()
    };
    assert_eq!(run(), run());
}
