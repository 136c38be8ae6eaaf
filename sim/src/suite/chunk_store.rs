//! What a chunk store must do.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bib_core::chunk::{Chunk, Codec};
use bib_core::id::ChunkId;
use bib_core::limits::MAX_CHUNK_LEN;
use bib_core::port::{ChunkStore, StoreError, SweepRules, SweepStep};
use bib_core::time::Timestamp;

use super::Check;
use crate::rng::Rng;

/// How the checks get at an implementation.
pub trait ChunkStoreBed {
    /// An empty store.
    fn make(&self) -> Box<dyn ChunkStore>;

    /// The store as after a restart.
    fn reopen(&self, store: Box<dyn ChunkStore>) -> Box<dyn ChunkStore>;

    /// Lets the next flush of a store fail for good; `false` where the bed cannot.
    fn fail_next_flush(&self, store: &dyn ChunkStore) -> bool;
}

/// All checks.
pub const CHECKS: [Check<dyn ChunkStoreBed>; 14] = [
    ("new store is empty", new_store_is_empty),
    ("chunks of all sizes and codecs come back", chunks_of_all_sizes_and_codecs_come_back),
    ("a chunk is stored once", a_chunk_is_stored_once),
    ("flushed chunks are there after a restart", flushed_chunks_are_there_after_a_restart),
    ("many small chunks are all found", many_small_chunks_are_all_found),
    ("readers find what was put while others flush", readers_find_what_was_put_while_others_flush),
    ("writers of the same chunks store them once", writers_of_the_same_chunks_store_them_once),
    ("failed flush ends writing", failed_flush_ends_writing),
    ("a collection takes what nobody marked and nothing else", a_collection_takes_what_nobody_marked_and_nothing_else),
    ("what is young or only counted stays", what_is_young_or_only_counted_stays),
    ("what is put or found while a collection goes on stays", what_is_put_or_found_while_a_collection_goes_on_stays),
    ("what is found under a lease stays", what_is_found_under_a_lease_stays),
    ("collections disturb neither readers nor writers", collections_disturb_neither_readers_nor_writers),
    ("a scrub reads everything and a new index holds it", a_scrub_reads_everything_and_a_new_index_holds_it),
];

/// Chunks that do not compress.
fn noise(seed: u64, n: usize, longest: u64) -> Vec<Chunk> {
    let mut rng = Rng::new(seed);
    let chunk = |_| {
        let mut bytes = vec![0; 1 + rng.below(longest) as usize];
        rng.fill(&mut bytes);
        Chunk::from_raw(bytes)
    };
    (0..n).map(chunk).collect()
}

fn put_all(store: &dyn ChunkStore, chunks: &[Chunk]) {
    for chunk in chunks {
        store.put(chunk).expect("written");
    }
}

fn assert_held(store: &dyn ChunkStore, chunks: &[Chunk]) {
    for chunk in chunks {
        assert!(store.has(&chunk.id()).expect("readable"));
        assert_eq!(store.get(&chunk.id()).expect("readable").as_ref(), Some(chunk));
    }
}

fn new_store_is_empty(bed: &dyn ChunkStoreBed) {
    let store = bed.make();
    let id = ChunkId::from_bytes([0; 32]);
    assert!(!store.has(&id).expect("readable"));
    assert_eq!(store.get(&id).expect("readable"), None);
    store.flush().expect("nothing to flush is no error");
    let stats = store.stats().expect("readable");
    assert_eq!((stats.n_chunks, stats.stored_bytes, stats.raw_bytes), (0, 0, 0));
}

fn chunks_of_all_sizes_and_codecs_come_back(bed: &dyn ChunkStoreBed) {
    let store = bed.make();
    let mut rng = Rng::new(1);
    let mut chunks = Vec::new();
    for len in [1, 2, 127, 128, 4_095, 4_096, 16 << 10, (16 << 10) + 1, 100_000, MAX_CHUNK_LEN] {
        let mut bytes = vec![0; len];
        rng.fill(&mut bytes);
        chunks.push(Chunk::from_raw(bytes));
        chunks.push(Chunk::from_raw(b"date,rain\n".repeat(len / 10 + 1)[..len].to_vec()));
    }
    assert!([Codec::None, Codec::Zstd].iter().all(|codec| chunks.iter().any(|chunk| chunk.codec() == *codec)));
    put_all(store.as_ref(), &chunks);
    assert_held(store.as_ref(), &chunks);
    store.flush().expect("written");
    assert_held(store.as_ref(), &chunks);
    assert_held(bed.reopen(store).as_ref(), &chunks);
}

fn a_chunk_is_stored_once(bed: &dyn ChunkStoreBed) {
    let store = bed.make();
    let chunks = noise(2, 10, 3_000);
    for round in 0..3 {
        for chunk in &chunks {
            assert_eq!(store.put(chunk).expect("written"), round == 0);
        }
        if round == 1 {
            store.flush().expect("written");
        }
    }
    let stats = store.stats().expect("readable");
    assert_eq!(stats.n_chunks, 10);
    assert_eq!(stats.raw_bytes, chunks.iter().map(|chunk| u64::from(chunk.len())).sum::<u64>());
    assert!(stats.stored_bytes >= stats.raw_bytes && stats.stored_bytes < stats.raw_bytes + 10 * 100);
    assert!(stats.written_bytes >= stats.stored_bytes && stats.n_segments > 0);
}

fn flushed_chunks_are_there_after_a_restart(bed: &dyn ChunkStoreBed) {
    let mut store = bed.make();
    let chunks = noise(3, 40, 5_000);
    for (i, part) in chunks.chunks(8).enumerate() {
        put_all(store.as_ref(), part);
        store.flush().expect("written");
        assert_held(store.as_ref(), &chunks[..(i + 1) * 8]);
        store = bed.reopen(store);
        assert_held(store.as_ref(), &chunks[..(i + 1) * 8]);
        assert_eq!(store.stats().expect("readable").n_chunks, (i as u64 + 1) * 8);
    }
}

fn many_small_chunks_are_all_found(bed: &dyn ChunkStoreBed) {
    let store = bed.make();
    let chunks = noise(4, 3_000, 60);
    put_all(store.as_ref(), &chunks);
    store.flush().expect("written");
    let store = bed.reopen(store);
    assert_held(store.as_ref(), &chunks);
    for absent in noise(5, 200, 60).iter().filter(|absent| chunks.iter().all(|chunk| chunk.id() != absent.id())) {
        assert!(!store.has(&absent.id()).expect("readable"));
    }
}

fn readers_find_what_was_put_while_others_flush(bed: &dyn ChunkStoreBed) {
    let store = bed.make();
    let (store, chunks, n_put) = (store.as_ref(), &noise(6, 300, 4_000), &AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for seed in 0..2 {
            scope.spawn(move || {
                let mut rng = Rng::new(seed);
                loop {
                    let n = n_put.load(Ordering::Acquire);
                    if let Some(chunk) = chunks.get(rng.below(n as u64) as usize).filter(|_| n > 0) {
                        assert_held(store, std::slice::from_ref(chunk));
                    }
                    if n == chunks.len() {
                        return;
                    }
                }
            });
        }
        scope.spawn(move || {
            while n_put.load(Ordering::Acquire) < chunks.len() {
                store.flush().expect("written");
            }
        });
        for chunk in chunks {
            assert!(store.put(chunk).expect("written"));
            n_put.fetch_add(1, Ordering::Release);
        }
    });
    assert_held(store, chunks);
}

fn writers_of_the_same_chunks_store_them_once(bed: &dyn ChunkStoreBed) {
    let store = bed.make();
    let (store, chunks, n_new) = (store.as_ref(), &noise(7, 100, 2_000), &AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(move || {
                for (i, chunk) in chunks.iter().enumerate() {
                    n_new.fetch_add(usize::from(store.put(chunk).expect("written")), Ordering::Relaxed);
                    if i % 30 == 0 {
                        store.flush().expect("written");
                    }
                }
            });
        }
    });
    assert_eq!(n_new.load(Ordering::Relaxed), chunks.len());
    assert_eq!(store.stats().expect("readable").n_chunks, chunks.len() as u64);
}

fn failed_flush_ends_writing(bed: &dyn ChunkStoreBed) {
    let store = bed.make();
    let chunks = noise(8, 10, 2_000);
    put_all(store.as_ref(), &chunks[..5]);
    store.flush().expect("written");
    put_all(store.as_ref(), &chunks[5..9]);
    if !bed.fail_next_flush(store.as_ref()) {
        return;
    }
    store.flush().expect_err("the bed lets it fail");
    let refused = [store.put(&chunks[9]).map(drop), store.flush()];
    assert!(refused.iter().all(|refused| matches!(refused, Err(StoreError::ReadOnly(_)))), "{refused:?}");
    assert_held(store.as_ref(), &chunks[..9]);
    let store = bed.reopen(store);
    assert_held(store.as_ref(), &chunks[..5]);
    put_all(store.as_ref(), &chunks);
    store.flush().expect("written after the restart");
    assert_held(bed.reopen(store).as_ref(), &chunks);
}

const NOW: Timestamp = Timestamp(1_000_000_000_000_000);
const RULES: SweepRules = SweepRules { number: 1, now: NOW, min_age: Duration::ZERO, dry_run: false, max_chunks: 7 };

/// Sweeps and gives back; the sums over all steps.
fn sweep(store: &dyn ChunkStore, rules: SweepRules) -> SweepStep {
    let mut sum = SweepStep::default();
    loop {
        let step = store.sweep_step(&rules, sum.next).expect("writable");
        sum.seen += step.seen;
        sum.dead_chunks += step.dead_chunks;
        sum.dead_bytes += step.dead_bytes;
        sum.young_chunks += step.young_chunks;
        sum.young_bytes += step.young_bytes;
        sum.next = step.next;
        if sum.next.is_none() {
            break;
        }
    }
    while store.reclaim_step().expect("writable").is_some() {}
    sum
}

fn a_collection_takes_what_nobody_marked_and_nothing_else(bed: &dyn ChunkStoreBed) {
    let store = bed.make();
    let chunks = noise(20, 120, 6_000);
    put_all(&*store, &chunks);
    store.flush().expect("written");
    let (live, dead): (Vec<_>, Vec<_>) = chunks.into_iter().enumerate().partition(|(i, _)| i % 3 == 0);
    let only = |chunks: Vec<(usize, Chunk)>| -> Vec<Chunk> { chunks.into_iter().map(|(_, chunk)| chunk).collect() };
    let (live, dead) = (only(live), only(dead));
    assert!(store.sweep_step(&RULES, None).is_err(), "a sweep belongs to a collection");
    store.begin_gc(64 << 10, RULES.number).expect("none goes on");
    assert!(matches!(store.begin_gc(64 << 10, RULES.number), Err(StoreError::Locked(_))));
    live.iter().for_each(|chunk| store.mark(&chunk.id()));
    let of_another = SweepRules { number: RULES.number + 1, ..RULES };
    assert!(store.sweep_step(&of_another, None).is_err(), "a sweep of another collection comes too late");
    let swept = sweep(&*store, RULES);
    store.end_gc();
    assert_eq!((swept.seen, swept.dead_chunks), (120, 80));
    let check = |store: &dyn ChunkStore| {
        assert_held(store, &live);
        for chunk in &dead {
            assert!(!store.has(&chunk.id()).expect("readable"));
            assert_eq!(store.get(&chunk.id()).expect("readable"), None);
        }
        let stats = store.stats().expect("readable");
        assert_eq!(stats.n_chunks, live.len() as u64);
        assert_eq!(stats.raw_bytes, live.iter().map(|chunk| u64::from(chunk.len())).sum());
    };
    check(&*store);
    let store = bed.reopen(store);
    check(&*store);
    // What was given up can be had again.
    put_all(&*store, &dead);
    assert_held(&*store, &dead);
    assert_held(&*store, &live);
    store.flush().expect("written");
    // A second collection has nothing to do.
    store.begin_gc(64 << 10, RULES.number).expect("none goes on");
    live.iter().chain(&dead).for_each(|chunk| store.mark(&chunk.id()));
    assert_eq!(sweep(&*store, RULES).dead_chunks, 0);
    store.end_gc();
    assert_held(&*store, &dead);
}

fn what_is_young_or_only_counted_stays(bed: &dyn ChunkStoreBed) {
    let store = bed.make();
    let chunks = noise(21, 40, 3_000);
    put_all(&*store, &chunks);
    store.flush().expect("written");
    let day = Duration::from_secs(86_400);
    let collect = |rules| {
        store.begin_gc(64 << 10, RULES.number).expect("none goes on");
        let swept = sweep(&*store, rules);
        store.end_gc();
        (swept.dead_chunks, swept.young_chunks)
    };
    assert_eq!(collect(SweepRules { dry_run: true, ..RULES }), (40, 0));
    assert_held(&*store, &chunks);
    assert_eq!(collect(SweepRules { min_age: day, ..RULES }), (0, 40));
    let later = |days| SweepRules { now: NOW.saturating_add(day * days), min_age: day * 2, ..RULES };
    assert_eq!(collect(later(1)), (0, 40));
    // A clock that was put back must not let anything look older than it is.
    assert_eq!(collect(SweepRules { now: Timestamp(5), min_age: day * 2, ..RULES }), (0, 40));
    assert_held(&*store, &chunks);
    assert_eq!(collect(later(3)), (40, 0));
    assert_eq!(store.stats().expect("readable").n_chunks, 0);
}

fn what_is_put_or_found_while_a_collection_goes_on_stays(bed: &dyn ChunkStoreBed) {
    let store = bed.make();
    let chunks = noise(22, 30, 3_000);
    put_all(&*store, &chunks);
    store.flush().expect("written");
    let late = noise(23, 10, 3_000);
    store.begin_gc(64 << 10, RULES.number).expect("none goes on");
    for chunk in &chunks[..10] {
        assert!(store.has(&chunk.id()).expect("readable"));
    }
    for chunk in &chunks[10..20] {
        assert!(!store.put(chunk).expect("writable"));
    }
    put_all(&*store, &late);
    let swept = sweep(&*store, RULES);
    store.end_gc();
    assert_eq!(swept.dead_chunks, 10);
    store.flush().expect("written");
    let store = bed.reopen(store);
    assert_held(&*store, &chunks[..20]);
    assert_held(&*store, &late);
}

fn what_is_found_under_a_lease_stays(bed: &dyn ChunkStoreBed) {
    let store = bed.make();
    let chunks = noise(24, 30, 3_000);
    put_all(&*store, &chunks);
    store.flush().expect("written");
    let lease = store.lease();
    for chunk in &chunks[..10] {
        assert!(store.has(&chunk.id()).expect("readable"));
    }
    store.begin_gc(64 << 10, RULES.number).expect("none goes on");
    // It was out when the collection began.
    drop(lease);
    assert_eq!(sweep(&*store, RULES).dead_chunks, 20);
    store.end_gc();
    assert_held(&*store, &chunks[..10]);
    // What was held for it is not held for others.
    let lease = store.lease();
    store.begin_gc(64 << 10, RULES.number).expect("none goes on");
    assert_eq!(sweep(&*store, RULES).dead_chunks, 10);
    store.end_gc();
    drop(lease);
}

fn collections_disturb_neither_readers_nor_writers(bed: &dyn ChunkStoreBed) {
    let store = bed.make();
    let (kept, passing) = (noise(27, 60, 5_000), noise(28, 60, 5_000));
    put_all(&*store, &kept);
    store.flush().expect("written");
    let n_ended = AtomicUsize::new(0);
    let collect = || {
        store.begin_gc(64 << 10, RULES.number).expect("none goes on");
        kept.iter().for_each(|chunk| store.mark(&chunk.id()));
        sweep(&*store, RULES);
        store.end_gc();
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..10 {
                    assert_held(&*store, &kept);
                }
                n_ended.fetch_add(1, Ordering::Relaxed);
            });
        }
        for half in passing.chunks(30) {
            let (store, n_ended) = (&*store, &n_ended);
            scope.spawn(move || {
                for _ in 0..10 {
                    // Each round the last one's are garbage, as if they had been swept or not.
                    let lease = store.lease();
                    put_all(store, half);
                    store.flush().expect("written");
                    assert_held(store, half);
                    drop(lease);
                }
                n_ended.fetch_add(1, Ordering::Relaxed);
            });
        }
        while n_ended.load(Ordering::Relaxed) < 4 {
            collect();
        }
    });
    collect();
    assert_held(&*store, &kept);
    assert_eq!(store.stats().expect("readable").n_chunks, kept.len() as u64);
}

fn a_scrub_reads_everything_and_a_new_index_holds_it(bed: &dyn ChunkStoreBed) {
    let store = bed.make();
    let chunks = noise(25, 80, 4_000);
    put_all(&*store, &chunks);
    store.flush().expect("written");
    let (mut after, mut n_read, mut damaged) = (None, 0, 0);
    loop {
        let step = store.scrub_step(after, 10_000).expect("readable");
        n_read += step.chunks;
        damaged += step.damaged;
        after = step.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((n_read, damaged), (80, 0));
    let before = store.stats().expect("readable");
    let mut told = (0, 0);
    let rebuilt = store.rebuild(&mut |done, total| told = (done, total)).expect("writable");
    assert_eq!((rebuilt.chunks, rebuilt.lost), (80, 0));
    assert!(told.0 == told.1 && told.1 > 0, "{told:?}");
    let stats = store.stats().expect("readable");
    assert_eq!((stats.n_chunks, stats.stored_bytes, stats.raw_bytes), (80, before.stored_bytes, before.raw_bytes));
    assert_held(&*store, &chunks);
    let more = noise(26, 20, 4_000);
    put_all(&*store, &more);
    store.flush().expect("written");
    let store = bed.reopen(store);
    assert_held(&*store, &chunks);
    assert_held(&*store, &more);
}
