//! Power cuts, kills and full disks under sealed stores, and while plain ones become sealed: after each both open by
//! themselves with the keys, what was acknowledged is there, and the work goes on to its end.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests, which say how many cuts there were")]

use std::collections::BTreeSet;
use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, OnceLock};

use bib_core::chunk::Chunk;
use bib_core::hash::hash;
use bib_core::port::{Catalog, ChunkStore, Order, StoreError, Table};
use bib_sim::disk::FaultyDisk;
use bib_sim::rng::Rng;
use bib_storage_redb::crypto::KeyBytes;
use bib_storage_redb::{Bounds, Disk, Keyring, RedbCatalog, SegmentStore};

/// Small enough that a short script fills segments and flushes by itself.
const BOUNDS: Bounds = Bounds {
    segment_len: 5 << 10,
    unindexed_bytes: 24 << 10,
    unindexed_chunks: 10,
    recent_entries: 6,
    reclaim_records: 64,
};
const CACHE: usize = 256 << 10;

/// `BIB_CUTS=<n>` sets how many survivors of each step are looked at.
fn survivors_of_each_step() -> u64 {
    std::env::var("BIB_CUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(3)
}

fn keyring(n_keys: u8) -> Arc<Keyring> {
    static MADE: [OnceLock<Arc<Keyring>>; 4] = [const { OnceLock::new() }; 4];
    let make = || {
        let data_keys = (1..=n_keys).map(|id| (u32::from(id), KeyBytes::new([id; 32]))).collect();
        Arc::new(Keyring::new(data_keys, &[3; 32], &[4; 32]).unwrap())
    };
    MADE[usize::from(n_keys)].get_or_init(make).clone()
}

struct Node {
    catalog: RedbCatalog,
    chunks: SegmentStore,
}

fn open(disk: &FaultyDisk, keyring: Option<Arc<Keyring>>) -> Result<Node, StoreError> {
    let chunks = SegmentStore::open_with(Box::new(disk.clone()), CACHE, [3; 16], BOUNDS, keyring.clone())?;
    Ok(Node { catalog: RedbCatalog::open_with(disk, CACHE, keyring)?, chunks })
}

/// Some chunks that are put, made durable, and then named in the catalog.
struct Dataset {
    name: Vec<u8>,
    chunks: Vec<Chunk>,
}

fn datasets(seed: u64, n: u64) -> Vec<Dataset> {
    let mut rng = Rng::new(seed);
    let mut chunk = || {
        let mut bytes = vec![0; 1 + rng.below(2_000) as usize];
        rng.fill(&mut bytes);
        Chunk::from_raw(bytes)
    };
    (0..n)
        .map(|i| Dataset { name: format!("secret {seed} {i}").into_bytes(), chunks: (0..4).map(|_| chunk()).collect() })
        .collect()
}

fn ids(dataset: &Dataset) -> Vec<u8> {
    dataset.chunks.iter().flat_map(|chunk| *chunk.id().as_bytes()).collect()
}

/// A key of names: what is above, the name, a position.
fn name_key(dataset: &Dataset) -> Vec<u8> {
    [[5; 32].as_slice(), &dataset.name, &[0], &[6; 40]].concat()
}

fn publish(node: &Node, dataset: &Dataset) -> Result<(), StoreError> {
    for chunk in &dataset.chunks {
        node.chunks.put(chunk)?;
    }
    node.chunks.flush()?;
    node.catalog.write(&mut |txn| {
        txn.put(Table::Versions, &hash(&dataset.name), &ids(dataset))?;
        txn.put(Table::DatasetNames, &name_key(dataset), b"")
    })
}

fn names(node: &Node) -> Vec<Vec<u8>> {
    let mut names = Vec::new();
    let all = (Bound::Unbounded, Bound::Unbounded);
    let read = node.catalog.begin_read().unwrap();
    read.scan(Table::DatasetNames, all, Order::Ascending, &mut |key, _| {
        names.push(key.to_vec());
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(names.is_sorted());
    names
}

/// Checks what a node finds; the first `n_acknowledged` datasets must be there.
fn check(node: &Node, datasets: &[Dataset], n_acknowledged: usize) {
    let names = names(node);
    let read = node.catalog.begin_read().unwrap();
    for (i, dataset) in datasets.iter().enumerate() {
        let is_named = names.contains(&name_key(dataset));
        assert!(is_named || i >= n_acknowledged, "acknowledged dataset {i} is lost");
        let found = read.get(Table::Versions, &hash(&dataset.name)).unwrap();
        assert_eq!(found, is_named.then(|| ids(dataset)), "a transaction is whole or absent");
        for chunk in &dataset.chunks {
            let found = node.chunks.get(&chunk.id()).unwrap();
            assert!(found.is_some() || !is_named, "dataset {i} is named and lacks a chunk");
            assert!(found.is_none_or(|found| found == *chunk));
        }
    }
}

fn seal_all(node: &Node) -> Result<u64, StoreError> {
    let mut n = 0;
    while node.chunks.reseal_step()?.is_some() {
        n += 1;
    }
    Ok(n)
}

/// No name, id or content is in any file.
fn assert_hidden(disk: &FaultyDisk, datasets: &[Dataset]) {
    const LEN: usize = 8;
    let chunks = datasets.iter().flat_map(|dataset| &dataset.chunks);
    let parts = chunks.flat_map(|chunk| {
        [&chunk.id().as_bytes()[..], chunk.encoded()].map(|bytes| bytes.get(..LEN).map(<[u8]>::to_vec))
    });
    let mut wanted: BTreeSet<Vec<u8>> = parts.flatten().collect();
    wanted.insert(datasets[0].name[..LEN].to_vec());
    // Most places are passed over by their first byte alone.
    let mut begins = [false; 1 << 16];
    wanted.iter().for_each(|part| begins[usize::from(u16::from_le_bytes([part[0], part[1]]))] = true);
    for file in disk.list().unwrap() {
        let bytes = disk.bytes(&file).unwrap();
        let found = bytes
            .windows(LEN)
            .find(|window| begins[usize::from(u16::from_le_bytes([window[0], window[1]]))] && wanted.contains(*window));
        assert_eq!(found, None, "{file}");
    }
}

/// Publishes with one data key, then with a newer one, and opens the stores again between.
fn ingest(disk: &FaultyDisk, datasets: &[Dataset], acknowledged: &mut Vec<u64>) -> Result<(), StoreError> {
    for (i, part) in datasets.chunks(3).enumerate() {
        let node = open(disk, Some(keyring(1 + i as u8)))?;
        for dataset in part {
            publish(&node, dataset)?;
            acknowledged.push(disk.steps());
        }
    }
    Ok(())
}

const N_PLAIN: usize = 6;

/// A disk with plain stores.
fn plain(datasets: &[Dataset]) -> FaultyDisk {
    let disk = FaultyDisk::new();
    let node = open(&disk, None).unwrap();
    datasets[..N_PLAIN].iter().for_each(|dataset| publish(&node, dataset).unwrap());
    drop(node);
    disk
}

/// Seals plain stores while more is published.
fn rekey(disk: &FaultyDisk, datasets: &[Dataset], acknowledged: &mut Vec<u64>) -> Result<(), StoreError> {
    let node = open(disk, Some(keyring(1)))?;
    for dataset in &datasets[N_PLAIN..] {
        node.chunks.reseal_step()?;
        publish(&node, dataset)?;
        acknowledged.push(disk.steps());
    }
    drop(node);
    seal_all(&open(disk, Some(keyring(2)))?).map(drop)
}

#[test]
fn power_cut_at_every_step_of_a_sealed_ingest() {
    let datasets = datasets(1, 7);
    let disk = FaultyDisk::new();
    disk.record();
    let mut acknowledged = Vec::new();
    ingest(&disk, &datasets, &mut acknowledged).unwrap();
    assert_hidden(&disk, &datasets);
    let (mut cuts, mut n_cuts) = (disk.cuts(), 0);
    while let Some(cut) = cuts.next_cut() {
        let n_acknowledged = acknowledged.iter().filter(|step| **step <= cut.ended).count();
        for seed in 0..survivors_of_each_step() {
            let disk = cut.survivors(cut.ended << 8 | seed);
            let node =
                open(&disk, Some(keyring(3))).unwrap_or_else(|error| panic!("cut {} {seed}: {error}", cut.ended));
            check(&node, &datasets, n_acknowledged);
            if cut.ended % 8 == 0 {
                datasets.iter().for_each(|dataset| publish(&node, dataset).unwrap());
                drop(node);
                check(&open(&disk, Some(keyring(3))).unwrap(), &datasets, datasets.len());
            }
            n_cuts += 1;
        }
    }
    println!("{n_cuts} cuts");
    assert!(n_cuts > 800, "{n_cuts} cuts");
}

#[test]
fn power_cut_and_kill_at_every_step_while_plain_stores_become_sealed() {
    let datasets = datasets(2, 9);
    let disk = plain(&datasets);
    disk.record();
    let mut acknowledged = Vec::new();
    rekey(&disk, &datasets, &mut acknowledged).unwrap();
    assert_hidden(&disk, &datasets);
    let (mut cuts, mut n_cuts, mut n_plain) = (disk.cuts(), 0, 0);
    while let Some(cut) = cuts.next_cut() {
        let n_acknowledged = N_PLAIN + acknowledged.iter().filter(|step| **step <= cut.ended).count();
        for seed in 0..survivors_of_each_step() {
            let disk = cut.survivors(cut.ended << 8 | seed);
            // Without keys it is refused, or nothing was sealed yet.
            match open(&disk, None) {
                Ok(node) => {
                    check(&node, &datasets, n_acknowledged);
                    n_plain += 1;
                }
                Err(error) => assert!(matches!(error, StoreError::Sealed(_)), "cut {} {seed}: {error}", cut.ended),
            }
            let node =
                open(&disk, Some(keyring(2))).unwrap_or_else(|error| panic!("cut {} {seed}: {error}", cut.ended));
            check(&node, &datasets, n_acknowledged);
            if cut.ended % 4 == 0 {
                seal_all(&node).unwrap();
                check(&node, &datasets, n_acknowledged);
                datasets.iter().for_each(|dataset| publish(&node, dataset).unwrap());
                drop(node);
                check(&open(&disk, Some(keyring(2))).unwrap(), &datasets, datasets.len());
                if seed == 0 {
                    assert_hidden(&disk, &datasets);
                }
            }
            n_cuts += 1;
        }
    }
    println!("{n_cuts} cuts");
    assert!(n_cuts > 700, "{n_cuts} cuts");
    assert!(n_plain > 20 && n_plain < n_cuts / 2, "{n_plain} before anything was sealed");
}

#[test]
fn kill_at_every_step_while_plain_stores_become_sealed() {
    let datasets = datasets(3, 8);
    let mut n_kills = 0;
    for step in 1.. {
        let disk = plain(&datasets);
        disk.cut_at(disk.steps() + step);
        let mut acknowledged = Vec::new();
        let result = rekey(&disk, &datasets, &mut acknowledged);
        let killed = disk.after_kill();
        let node = open(&killed, Some(keyring(2))).unwrap_or_else(|error| panic!("kill at {step}: {error}"));
        check(&node, &datasets, N_PLAIN + acknowledged.len());
        if step % 4 == 0 {
            seal_all(&node).unwrap();
            drop(node);
            check(&open(&killed.survivors(step), Some(keyring(2))).unwrap(), &datasets, N_PLAIN + acknowledged.len());
        }
        n_kills += 1;
        if result.is_ok() && !disk.is_off() {
            break;
        }
    }
    assert!(n_kills > 150, "{n_kills} kills");
}

#[test]
fn sealing_goes_on_through_many_cuts_in_a_row() {
    let mut n_cuts = 0;
    for seed in 0..30 {
        let datasets = datasets(seed, 9);
        let mut rng = Rng::new(seed);
        let mut disk = plain(&datasets);
        let mut n_acknowledged = N_PLAIN;
        loop {
            disk.cut_at(disk.steps() + 1 + rng.below(60));
            let mut work = || -> Result<(), StoreError> {
                let node = open(&disk, Some(keyring(1)))?;
                if !disk.is_off() {
                    check(&node, &datasets, n_acknowledged);
                }
                while let Some(dataset) = datasets.get(n_acknowledged) {
                    node.chunks.reseal_step()?;
                    publish(&node, dataset)?;
                    n_acknowledged += 1;
                }
                seal_all(&node).map(drop)
            };
            let result = work();
            assert!(result.is_ok() || disk.is_off(), "seed {seed}: {result:?}");
            if result.is_ok() && !disk.is_off() {
                break;
            }
            disk = disk.survivors(rng.next_u64());
            n_cuts += 1;
        }
        let disk = disk.survivors(seed);
        let node = open(&disk, Some(keyring(1))).unwrap();
        assert!(!node.chunks.has_plain_segments());
        check(&node, &datasets, datasets.len());
        drop(node);
        assert_hidden(&disk, &datasets);
    }
    println!("{n_cuts} cuts");
    assert!(n_cuts > 60, "{n_cuts} cuts");
}

#[test]
fn full_disk_stops_the_sealing_and_it_goes_on_when_there_is_space() {
    let datasets = datasets(4, 9);
    let mut n_full = 0;
    for free in 0.. {
        let disk = plain(&datasets);
        disk.set_free(Some(free * 4_096));
        let mut acknowledged = Vec::new();
        let result = rekey(&disk, &datasets, &mut acknowledged);
        if result.is_ok() {
            break;
        }
        assert!(matches!(result, Err(StoreError::Full(_))), "{free} blocks: {result:?}");
        n_full += 1;
        disk.set_free(None);
        let node = open(&disk, Some(keyring(2))).unwrap();
        check(&node, &datasets, N_PLAIN + acknowledged.len());
        datasets.iter().for_each(|dataset| publish(&node, dataset).unwrap());
        seal_all(&node).unwrap();
        drop(node);
        check(&open(&disk.survivors(free), Some(keyring(2))).unwrap(), &datasets, datasets.len());
        assert_hidden(&disk, &datasets);
    }
    assert!(n_full > 10, "{n_full} full");
}
