//! Power cuts, kills, failed syncs and full disks while garbage is collected, an index is made anew and damage is noted.
//! After each: the store opens by itself, what was acknowledged and not given up is there and is what it was, the rest is
//! whole or absent, and a collection that begins again does its work.
//!
//! `BIB_CUTS=<n>` sets how many survivors of each step are looked at.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests, which say how many cuts there were")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bib_core::chunk::Chunk;
use bib_core::port::{ChunkStore, Reclaim, StoreError, SweepRules};
use bib_core::time::Timestamp;
use bib_sim::disk::FaultyDisk;
use bib_sim::rng::Rng;
use bib_storage_redb::crypto::KeyBytes;
use bib_storage_redb::{Bounds, Disk, Keyring, SegmentStore};

/// Small enough that a short script fills segments and flushes by itself; large enough for holes in them.
const BOUNDS: Bounds = Bounds {
    segment_len: 48 << 10,
    unindexed_bytes: 100 << 10,
    unindexed_chunks: 30,
    recent_entries: 12,
    reclaim_records: 9,
};
const CACHE: usize = 256 << 10;
const RULES: SweepRules =
    SweepRules { number: 7, now: Timestamp(1), min_age: Duration::ZERO, dry_run: false, max_chunks: 16 };

fn survivors_of_each_step() -> u64 {
    std::env::var("BIB_CUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(6)
}

fn open(disk: &FaultyDisk, keyring: Option<&Arc<Keyring>>) -> Result<SegmentStore, StoreError> {
    SegmentStore::open_with(Box::new(disk.clone()), CACHE, [3; 16], BOUNDS, keyring.cloned())
}

/// Chunks that are acknowledged together and given up together.
struct Dataset(Vec<Chunk>);

fn datasets(seed: u64, n: usize) -> Vec<Dataset> {
    let mut rng = Rng::new(seed);
    let dataset = |_| {
        let chunk = |_| {
            let longest = if rng.chance(1, 3) { 12_000 } else { 900 };
            let mut bytes = vec![0; 1 + rng.below(longest) as usize];
            rng.fill(&mut bytes);
            Chunk::from_raw(bytes)
        };
        Dataset((0..7).map(chunk).collect())
    };
    (0..n).map(dataset).collect()
}

/// What a script had done, by the step of the disk after which it was so.
#[derive(Default)]
struct Done {
    /// By dataset: acknowledged at, given up at.
    acknowledged: Vec<Option<u64>>,
    given_up: Vec<Option<u64>>,
    actions: BTreeSet<&'static str>,
}

impl Done {
    fn new(n: usize) -> Self {
        Self { acknowledged: vec![None; n], given_up: vec![None; n], actions: BTreeSet::new() }
    }

    /// Datasets that must be there when so many steps have ended.
    fn kept_at(&self, ended: u64) -> BTreeSet<usize> {
        let kept = |i: &usize| {
            self.acknowledged[*i].is_some_and(|step| step <= ended) && self.given_up[*i].is_none_or(|step| step > ended)
        };
        (0..self.acknowledged.len()).filter(kept).collect()
    }
}

fn put(store: &SegmentStore, dataset: &Dataset) -> Result<(), StoreError> {
    dataset.0.iter().try_for_each(|chunk| store.put(chunk).map(drop))
}

/// Keeps `kept` and gives everything else up; `between` runs between the steps.
fn collect(
    store: &SegmentStore,
    datasets: &[Dataset],
    kept: &BTreeSet<usize>,
    done: &mut Done,
    between: &mut dyn FnMut(&SegmentStore, &mut Done) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    store.begin_gc(16 << 10, RULES.number)?;
    let mut work = || -> Result<(), StoreError> {
        kept.iter().flat_map(|i| &datasets[*i].0).for_each(|chunk| store.mark(&chunk.id()));
        let mut after = None;
        loop {
            after = store.sweep_step(&RULES, after)?.next;
            between(store, done)?;
            if after.is_none() {
                break;
            }
        }
        while let Some(reclaimed) = store.reclaim_step()? {
            done.actions.insert(match reclaimed.action {
                Reclaim::Unlinked => "unlinked",
                Reclaim::Punched => "punched",
                Reclaim::Rewritten => "rewritten",
            });
        }
        Ok(())
    };
    let result = work();
    store.end_gc();
    result
}

/// Puts datasets, gives some up, collects, makes the index anew; all with the store open or after a start.
fn script(
    disk: &FaultyDisk,
    datasets: &[Dataset],
    keyring: Option<&Arc<Keyring>>,
    done: &mut Done,
) -> Result<(), StoreError> {
    let mut store = open(disk, keyring)?;
    for round in 0..datasets.len() / 4 {
        let first = round * 4;
        for (i, dataset) in datasets.iter().enumerate().skip(first).take(3) {
            put(&store, dataset)?;
            store.flush()?;
            done.acknowledged[i] = Some(disk.steps());
        }
        // One of the last round and two of this one are not wanted any more.
        let some = [first.checked_sub(2), Some(first), Some(first + 2)].into_iter().flatten();
        // Now and then all that is older: whole segments are of no use then.
        let older = (0..first).filter(|_| round % 3 == 2);
        for i in some.chain(older) {
            done.given_up[i] = done.given_up[i].or(Some(disk.steps() + 1));
        }
        let kept = done.kept_at(u64::MAX);
        let late = first + 3;
        let mut is_late_put = false;
        collect(&store, datasets, &kept, done, &mut |store, done| {
            if !is_late_put {
                is_late_put = true;
                put(store, &datasets[late])?;
                store.flush()?;
                done.acknowledged[late] = Some(disk.steps());
            }
            Ok(())
        })?;
        if round % 2 == 1 {
            assert_eq!(store.rebuild(&mut |_, _| ())?.lost, 0);
        }
        if round % 3 == 2 {
            drop(store);
            store = open(disk, keyring)?;
        }
    }
    Ok(())
}

/// What is kept is there, the rest whole or absent.
fn check(store: &SegmentStore, datasets: &[Dataset], kept: &BTreeSet<usize>, what: &str) {
    for (i, dataset) in datasets.iter().enumerate() {
        for chunk in &dataset.0 {
            let found = store.get(&chunk.id()).unwrap_or_else(|error| panic!("{what}: dataset {i}: {error}"));
            assert!(found.is_some() || !kept.contains(&i), "{what}: a chunk of dataset {i} is lost");
            assert!(found.is_none_or(|found| found == *chunk), "{what}: dataset {i}");
        }
    }
    assert_eq!(store.stats().unwrap().n_damaged, 0, "{what}");
}

/// A collection after the accident leaves what is kept, counts it right, and everything can be put again.
fn goes_on(disk: &FaultyDisk, datasets: &[Dataset], keyring: Option<&Arc<Keyring>>, kept: &BTreeSet<usize>) {
    let store = open(disk, keyring).unwrap();
    collect(&store, datasets, kept, &mut Done::new(datasets.len()), &mut |_, _| Ok(())).unwrap();
    check(&store, datasets, kept, "after another collection");
    let n_kept: usize = kept.iter().map(|i| datasets[*i].0.len()).sum();
    assert_eq!(store.stats().unwrap().n_chunks, n_kept as u64);
    drop(store);
    let store = open(disk, keyring).unwrap();
    let all: BTreeSet<usize> = (0..datasets.len()).collect();
    datasets.iter().for_each(|dataset| put(&store, dataset).unwrap());
    store.flush().unwrap();
    check(&store, datasets, &all, "after all was put again");
    let rebuilt = store.rebuild(&mut |_, _| ()).unwrap();
    assert_eq!((rebuilt.chunks, rebuilt.lost), (7 * datasets.len() as u64, 0));
    drop(store);
    check(&open(&disk.survivors(1), keyring).unwrap(), datasets, &all, "after a new index and a cut");
}

fn keyring() -> Arc<Keyring> {
    let data_keys = [(1, KeyBytes::new([1; 32]))];
    Arc::new(Keyring::new(data_keys.into(), &[3; 32], &[4; 32]).unwrap())
}

/// Cuts the power at every step of the script; how many cuts there were.
fn cut_everywhere(seed: u64, n: usize, keyring: Option<&Arc<Keyring>>, prepare: fn(&FaultyDisk)) -> (u64, Done) {
    let datasets = datasets(seed, n);
    let disk = FaultyDisk::new();
    prepare(&disk);
    disk.record();
    let mut done = Done::new(n);
    script(&disk, &datasets, keyring, &mut done).unwrap();
    let (mut cuts, mut n_cuts) = (disk.cuts(), 0);
    while let Some(cut) = cuts.next_cut() {
        for seed in 0..survivors_of_each_step() {
            let disk = cut.survivors(cut.ended << 8 | seed);
            prepare(&disk);
            let kept = done.kept_at(cut.ended);
            let what = format!("cut {} seed {seed}", cut.ended);
            let store = open(&disk, keyring).unwrap_or_else(|error| panic!("{what}: {error}"));
            check(&store, &datasets, &kept, &what);
            drop(store);
            if (cut.ended + seed) % 16 == 0 {
                goes_on(&disk, &datasets, keyring, &kept);
            }
            n_cuts += 1;
        }
    }
    (n_cuts, done)
}

#[test]
fn power_cut_at_every_step_of_collections_and_new_indexes() {
    let (n_cuts, done) = cut_everywhere(1, 16, None, |_| ());
    println!("{n_cuts} cuts");
    assert!(n_cuts > 3_000, "{n_cuts} cuts");
    assert!(done.actions.is_superset(&BTreeSet::from(["unlinked", "punched"])), "{:?}", done.actions);
}

#[test]
fn power_cut_at_every_step_where_files_have_no_holes() {
    let (n_cuts, done) = cut_everywhere(2, 16, None, FaultyDisk::forbid_holes);
    println!("{n_cuts} cuts");
    assert!(n_cuts > 3_000, "{n_cuts} cuts");
    assert!(done.actions.contains("rewritten"), "{:?}", done.actions);
}

#[test]
fn power_cut_at_every_step_of_a_sealed_store() {
    let (n_cuts, done) = cut_everywhere(3, 12, Some(&keyring()), |_| ());
    println!("{n_cuts} cuts");
    assert!(n_cuts > 2_000, "{n_cuts} cuts");
    assert!(done.actions.contains("unlinked"), "{:?}", done.actions);
}

#[test]
fn killed_collection_is_begun_again() {
    let datasets = datasets(4, 12);
    let mut n_kills = 0;
    for step in 1.. {
        let disk = FaultyDisk::new();
        disk.cut_at(step);
        let mut done = Done::new(datasets.len());
        let result = script(&disk, &datasets, None, &mut done);
        if result.is_ok() && !disk.is_off() {
            break;
        }
        let killed = disk.after_kill();
        let kept = done.kept_at(step);
        check(&open(&killed, None).unwrap(), &datasets, &kept, &format!("kill at {step}"));
        if step % 8 == 0 {
            goes_on(&killed, &datasets, None, &kept);
        }
        n_kills += 1;
    }
    assert!(n_kills > 300, "{n_kills} kills");
}

#[test]
fn failed_sync_in_a_collection_loses_nothing() {
    let datasets = datasets(5, 12);
    let mut n_failures = 0;
    for sync in 1.. {
        let disk = FaultyDisk::new();
        disk.fail_sync(sync, sync);
        let mut done = Done::new(datasets.len());
        let result = script(&disk, &datasets, None, &mut done);
        if result.is_ok() && disk.syncs() < sync {
            break;
        }
        let kept = done.kept_at(disk.steps());
        for disk in [disk.after_kill(), disk.survivors(sync)] {
            check(&open(&disk, None).unwrap(), &datasets, &kept, &format!("sync {sync}"));
            goes_on(&disk, &datasets, None, &kept);
        }
        n_failures += 1;
    }
    assert!(n_failures > 60, "{n_failures} failures");
}

#[test]
fn full_disk_gives_space_back() {
    let datasets = datasets(6, 8);
    let mut n_full = 0;
    for free in 0..60 {
        let disk = FaultyDisk::new();
        let store = open(&disk, None).unwrap();
        datasets.iter().for_each(|dataset| put(&store, dataset).unwrap());
        store.flush().unwrap();
        let kept = BTreeSet::from([1, 6]);
        disk.set_free(Some(free * 4_096));
        let before = store.stats().unwrap();
        let collected = collect(&store, &datasets, &kept, &mut Done::new(8), &mut |_, _| Ok(()));
        check(&store, &datasets, &kept, &format!("{free} blocks"));
        match collected {
            Ok(()) => {
                let stats = store.stats().unwrap();
                assert!(stats.dead_bytes < before.stored_bytes / 2, "{free} blocks: {stats:?}");
                // There is room for what was not possible before.
                put(&store, &datasets[0]).unwrap();
                store.flush().unwrap();
            }
            Err(StoreError::Full(_)) => n_full += 1,
            Err(error) => panic!("{free} blocks: {error}"),
        }
        drop(store);
        disk.set_free(None);
        goes_on(&disk.survivors(free), &datasets, None, &kept);
    }
    assert!(n_full < 30, "{n_full} of 60 found no room for the commit");
}

#[test]
fn sector_that_cannot_be_read_hurts_one_chunk_and_nothing_else() {
    let datasets = datasets(8, 4);
    let disk = FaultyDisk::new();
    let store = open(&disk, None).unwrap();
    datasets.iter().for_each(|dataset| put(&store, dataset).unwrap());
    store.flush().unwrap();
    let victim = &datasets[0].0[3];
    let segment = disk.bytes("0000000000.seg").unwrap();
    let at = segment.windows(32).position(|bytes| bytes == &victim.encoded()[..32]).unwrap();
    disk.spoil("0000000000.seg", at as u64);
    let (mut damaged, mut chunks, mut after) = (0, 0, None);
    loop {
        let step = store.scrub_step(after, 5_000).unwrap();
        (damaged, chunks) = (damaged + step.damaged, chunks + step.chunks);
        after = step.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((damaged, chunks), (1, 28), "what lies behind it is read as well");
    assert!(store.is_damaged(&victim.id()).unwrap() && !store.has(&victim.id()).unwrap());
    assert!(store.put(victim).unwrap(), "it is written elsewhere");
    store.flush().unwrap();
    let all: BTreeSet<usize> = (0..datasets.len()).collect();
    check(&store, &datasets, &all, "healed");
    collect(&store, &datasets, &all, &mut Done::new(4), &mut |_, _| Ok(())).unwrap();
    check(&store, &datasets, &all, "collected");
}

#[test]
fn damage_is_noted_through_every_cut_and_healed_by_putting() {
    let datasets = datasets(7, 4);
    let disk = FaultyDisk::new();
    let store = open(&disk, None).unwrap();
    datasets.iter().for_each(|dataset| put(&store, dataset).unwrap());
    store.flush().unwrap();
    drop(store);
    // One byte in the middle of a record of the first segment.
    let victim = &datasets[0].0[3];
    let segment = disk.bytes("0000000000.seg").unwrap();
    let at = segment.windows(32).position(|bytes| bytes == &victim.encoded()[..32]).unwrap();
    let file = disk.open("0000000000.seg", false).unwrap();
    file.write_all_at(&[segment[at] ^ 1], at as u64).unwrap();
    file.sync().unwrap();
    disk.record();
    let store = open(&disk, None).unwrap();
    let mut damaged = 0;
    let mut after = None;
    loop {
        let step = store.scrub_step(after, 5_000).unwrap();
        damaged += step.damaged;
        after = step.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(damaged, 1);
    assert!(store.is_damaged(&victim.id()).unwrap() && !store.has(&victim.id()).unwrap());
    let noted = disk.steps();
    assert!(store.put(victim).unwrap());
    store.flush().unwrap();
    let healed = disk.steps();
    let all: BTreeSet<usize> = (0..datasets.len()).collect();
    check(&store, &datasets, &all, "healed");
    // The bad record is of no use now.
    collect(&store, &datasets, &all, &mut Done::new(4), &mut |_, _| Ok(())).unwrap();
    check(&store, &datasets, &all, "collected");
    drop(store);
    let mut cuts = disk.cuts();
    let mut n_cuts = 0;
    while let Some(cut) = cuts.next_cut() {
        for seed in 0..20 {
            let store = open(&cut.survivors(cut.ended << 8 | seed), None).unwrap();
            if cut.ended >= healed {
                check(&store, &datasets, &all, &format!("cut {} seed {seed}", cut.ended));
            } else {
                if cut.ended >= noted {
                    assert!(store.is_damaged(&victim.id()).unwrap() || store.has(&victim.id()).unwrap());
                }
                // Found out, not known yet, or healed: never other bytes.
                assert!(
                    store.get(&victim.id()).is_ok_and(|found| found.is_none_or(|found| found == *victim))
                        || store.is_damaged(&victim.id()).unwrap()
                );
                for chunk in datasets.iter().flat_map(|dataset| &dataset.0).filter(|chunk| *chunk != victim) {
                    assert_eq!(store.get(&chunk.id()).unwrap().as_ref(), Some(chunk));
                }
            }
            n_cuts += 1;
        }
    }
    assert!(n_cuts > 100, "{n_cuts} cuts");
}

#[test]
fn index_that_fails_at_any_sync_of_its_making_loses_nothing_that_is_acknowledged_afterwards() {
    let datasets = datasets(77, 4);
    let (mut n_failed, mut n_closed) = (0, 0);
    for sync in 1.. {
        let disk = FaultyDisk::new();
        let store = open(&disk, None).unwrap();
        datasets[..3].iter().for_each(|dataset| put(&store, dataset).unwrap());
        store.flush().unwrap();
        disk.fail_sync(disk.syncs() + sync, sync);
        if store.rebuild(&mut |_, _| ()).is_ok() {
            break;
        }
        n_failed += 1;
        let mut kept: BTreeSet<usize> = (0..3).collect();
        check(&store, &datasets, &kept, "after the failure");
        // Whatever is acknowledged now is in the index that the next start finds.
        let collected = collect(&store, &datasets, &[1, 2].into(), &mut Done::new(4), &mut |_, _| Ok(()));
        match collected.and_then(|()| put(&store, &datasets[3])).and_then(|()| store.flush()) {
            Ok(()) => kept = [1, 2, 3].into(),
            Err(StoreError::ReadOnly(_)) => n_closed += 1,
            Err(error) => panic!("sync {sync}: {error}"),
        }
        drop(store);
        let store = open(&disk.after_kill(), None).unwrap();
        check(&store, &datasets, &kept, "after a start");
        let n_kept: usize = kept.iter().map(|i| datasets[*i].0.len()).sum();
        assert_eq!(store.stats().unwrap().n_chunks, n_kept as u64, "sync {sync}");
    }
    assert!(n_failed > 3 && (1..n_failed).contains(&n_closed), "{n_failed} {n_closed}");
}
