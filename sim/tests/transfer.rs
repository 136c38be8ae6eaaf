//! Fetching and serving over a network and stores that misbehave, in virtual time.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::BTreeSet;
use std::time::Duration;

use bib_core::chunk::Chunk;
use bib_core::chunker::ChunkerParams;
use bib_core::encode::{decode, encode};
use bib_core::id::{ChunkId, ManifestId};
use bib_core::limits;
use bib_core::machine::transfer::outcome::{
    AskOrder, BarReason, Event, FetchConfig, FetchError, FetchStats, StallReason, Wanted,
};
use bib_core::model::manifest::{Page, PageList, Root};
use bib_core::port::ChunkStore;
use bib_core::wire::message::RefusalCode;
use bib_sim::net::Link;
use bib_sim::rng::Rng;
use bib_sim::swarm::{BAD_NATURES, End, Nature, SMALL_CHUNKS, Swarm, Version, node_id, noise, publish, some_files};

/// The publisher is node 0 in every story.
const SOURCE: usize = 0;
/// Chunks in flight at one provider: few, as the versions here have few.
const DEPTH: usize = 8;

fn world(seed: u64, n_nodes: usize, link: Link, n_bytes: usize) -> (Swarm, Version) {
    let swarm = Swarm::new(seed, n_nodes, link);
    let files = some_files(&mut Rng::new(seed), 7, n_bytes);
    let version = publish(swarm.store(SOURCE), SMALL_CHUNKS, files);
    (swarm, version)
}

/// A world in which every node but the last holds all, and the last fetches.
fn full_world(seed: u64, n_providers: usize, link: Link, n_bytes: usize) -> (Swarm, Version, usize) {
    let (mut swarm, version) = world(seed, n_providers + 1, link, n_bytes);
    for node in 1..n_providers {
        swarm.give(SOURCE, node, &version, |_| true);
    }
    (swarm, version, n_providers)
}

fn begin(swarm: &mut Swarm, version: &Version, node: usize, providers: impl IntoIterator<Item = usize>) {
    let config = FetchConfig { chunks_per_provider: DEPTH, ..FetchConfig::default() };
    swarm.fetch(node, version, Wanted::All, config);
    providers.into_iter().for_each(|provider| swarm.add_provider(node, provider));
}

fn done(end: End) -> FetchStats {
    match end {
        End::Done(stats) => stats,
        End::Failed(error, _) => panic!("{error}"),
    }
}

fn jittery() -> Link {
    Link { min_latency: Duration::from_millis(1), max_latency: Duration::from_millis(20), ..Link::default() }
}

fn n_seeds(usual: u64) -> u64 {
    std::env::var("BIB_SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

fn barred(swarm: &Swarm, node: usize) -> Vec<(bib_core::id::NodeId, BarReason)> {
    let barred = |event: &Event| match event {
        Event::Barred { node, reason, .. } => Some((*node, *reason)),
        _ => None,
    };
    swarm.events(node).iter().filter_map(barred).collect()
}

#[test]
fn plain_fetch_is_byte_identical_and_asks_each_chunk_once() {
    let (mut swarm, version, node) = full_world(1, 1, jittery(), 1_500_000);
    begin(&mut swarm, &version, node, [SOURCE]);
    let stats = done(swarm.run(node));
    swarm.assert_identical(node, &version);
    let asked = swarm.asked_of(SOURCE);
    let all: BTreeSet<ChunkId> = version.distinct().union(&version.pages).copied().collect();
    assert!(asked.keys().eq(all.iter()) && asked.values().all(|n| *n == 1));
    assert!(all.len() > 300, "{}", all.len());
    assert_eq!(stats.wanted_bytes, version.size);
    assert_eq!(stats.received_bytes + stats.reused_bytes, version.size);
    assert!(stats.reused_bytes > 0, "the files repeat themselves");
    assert_eq!(stats.received_chunks, version.distinct().len() as u64);
    assert_eq!(stats.received_pages, version.pages.len() as u64);
    assert_eq!(stats.wasted_bytes, 0);
    assert!(stats.wire_bytes < stats.received_bytes + stats.page_bytes, "some of it was compressed");
    assert_eq!(swarm.store(node).ids(), swarm.store(node).durable_ids());
    assert_eq!(swarm.events(node).len(), 1, "{:?}", swarm.events(node));
}

#[test]
fn requests_carry_several_chunks_and_the_line_is_never_idle() {
    let link = Link { bytes_per_second: Some(10_000_000), ..Link::default() };
    let params = ChunkerParams { min: 16 << 10, avg: 32 << 10, max: 128 << 10, normalisation: 1 };
    let mut swarm = Swarm::new(1, 2, link);
    let version = publish(swarm.store(SOURCE), params, [("f".to_owned(), noise(&mut Rng::new(1), 20_000_000))]);
    let begun = swarm.now;
    begin(&mut swarm, &version, 1, [SOURCE]);
    done(swarm.run(1));
    let n_requests = swarm.net.stats().sent - version.chunks.len() as u64;
    assert!(n_requests < version.chunks.len() as u64, "{n_requests} frames that are no chunks");
    let took = swarm.now.saturating_duration_since(begun);
    assert!(took < Duration::from_millis(2_200), "20 MB at 10 MB/s took {took:?} of virtual time");
}

#[test]
fn fetch_completes_over_any_network_from_any_mixture_of_providers() {
    for seed in 0..n_seeds(200) {
        let mut rng = Rng::new(seed ^ 0xabcd);
        let n_providers = 1 + rng.below(5) as usize;
        let link = match rng.below(3) {
            0 => Link::bad(),
            1 => jittery(),
            _ => Link { bytes_per_second: Some(300_000), ..jittery() },
        };
        let (mut swarm, version) = world(seed, n_providers + 1, link, 100_000 + rng.below(300_000) as usize);
        let node = n_providers;
        let mut liars = BTreeSet::new();
        for provider in 1..n_providers {
            match rng.below(4) {
                0 => swarm.give(SOURCE, provider, &version, |_| true),
                1 => swarm.give(SOURCE, provider, &version, |at| at % 3 == provider % 3),
                _ => {
                    swarm.give(SOURCE, provider, &version, |_| true);
                    swarm.set_nature(provider, BAD_NATURES[rng.below(BAD_NATURES.len() as u64) as usize]);
                    liars.insert(node_id(provider));
                }
            }
        }
        let config = FetchConfig {
            bytes_in_flight: 1_000 << rng.below(10),
            window: 1 + rng.below(300) as usize,
            order: if rng.chance(1, 4) { AskOrder::Sequential } else { AskOrder::RarestFirst },
            ..FetchConfig::default()
        };
        swarm.fetch(node, &version, Wanted::All, config);
        let mut providers: Vec<usize> = (0..n_providers).collect();
        rng.shuffle(&mut providers);
        providers.iter().for_each(|provider| swarm.add_provider(node, *provider));
        if rng.chance(1, 2) {
            let until = swarm.steps() + rng.below(1_500);
            swarm.run_until(|swarm| swarm.steps() >= until || swarm.end(node).is_some());
            swarm.net.cut(SOURCE, node);
            let until = swarm.now + Duration::from_secs(rng.below(60));
            swarm.run_until(|swarm| swarm.now >= until || swarm.end(node).is_some());
            swarm.net.heal_all();
        }
        let end = swarm.run(node);
        assert!(matches!(end, End::Done(_)), "seed {seed}: {end:?}");
        swarm.assert_identical(node, &version);
        let innocent = barred(&swarm, node).into_iter().find(|(node, _)| !liars.contains(node));
        assert_eq!(innocent, None, "seed {seed}");
        assert!(swarm.puts_at(node).values().all(|n| *n == 1), "seed {seed}: stored twice");
    }
}

#[test]
fn a_seed_gives_the_same_run_twice() {
    let run = |seed| {
        let (mut swarm, version, node) = full_world(seed, 4, Link::bad(), 200_000);
        swarm.set_nature(2, Nature::WrongBytes);
        begin(&mut swarm, &version, node, 0..4);
        let end = swarm.run(node);
        (swarm.net.trace(), swarm.steps(), swarm.now, end)
    };
    for seed in 0..10 {
        assert_eq!(run(seed), run(seed));
    }
    assert_ne!(run(1).0, run(2).0);
}

#[test]
fn provider_that_dies_costs_no_more_than_what_it_had_in_flight() {
    for (seed, is_told) in (0..20).flat_map(|seed| [(seed, false), (seed, true)]) {
        let (mut swarm, version, node) = full_world(seed, 2, jittery(), 600_000);
        begin(&mut swarm, &version, node, [0, 1]);
        let half = version.distinct().len() / 2;
        swarm.run_until(|swarm| swarm.puts_at(node).len() >= half);
        swarm.crash(1);
        if is_told {
            swarm.lose_provider(node, 1);
        }
        let stats = done(swarm.run(node));
        swarm.assert_identical(node, &version);
        let twice: usize = {
            let (first, second) = (swarm.asked_of(0), swarm.asked_of(1));
            first.keys().filter(|id| second.contains_key(*id)).count()
        };
        assert!(twice <= DEPTH, "seed {seed}: {twice} asked of both");
        assert!(swarm.asked_of(0).values().all(|n| *n == 1));
        assert_eq!(stats.wasted_bytes, 0, "seed {seed}");
        assert_eq!(barred(&swarm, node), []);
    }
}

#[test]
fn dead_provider_is_noticed_within_a_second_once_its_speed_is_known() {
    let (mut swarm, version, node) = full_world(3, 2, jittery(), 600_000);
    begin(&mut swarm, &version, node, [0, 1]);
    swarm.run_until(|swarm| swarm.puts_at(node).len() >= 100);
    swarm.crash(1);
    let crashed = swarm.now;
    done(swarm.run(node));
    let alone = {
        let (mut swarm, version, node) = full_world(3, 1, jittery(), 600_000);
        begin(&mut swarm, &version, node, [0]);
        let begun = swarm.now;
        done(swarm.run(node));
        swarm.now.saturating_duration_since(begun)
    };
    let rest = swarm.now.saturating_duration_since(crashed);
    assert!(rest < alone + Duration::from_secs(1), "{rest:?} after the crash, {alone:?} from one provider in all");
}

#[test]
fn liar_is_barred_and_the_rest_completes() {
    for (n, nature) in BAD_NATURES.into_iter().enumerate() {
        for seed in 0..8 {
            let (mut swarm, version, node) = full_world(seed, 3, jittery(), 400_000);
            swarm.set_nature(1, nature);
            begin(&mut swarm, &version, node, 0..3);
            let stats = done(swarm.run(node));
            swarm.assert_identical(node, &version);
            if nature == Nature::Raving {
                continue;
            }
            let expected = match nature {
                Nature::WrongBytes | Nature::WrongLength => Some(BarReason::WrongBytes),
                Nature::WrongChunk | Nature::Unasked | Nature::Inventing => Some(BarReason::Unasked),
                Nature::Bomb => Some(BarReason::WrongBytes),
                Nature::Repeating => Some(BarReason::Flood),
                Nature::EmptyHanded => Some(BarReason::EmptyPromises),
                _ => None,
            };
            let reasons: BTreeSet<_> =
                barred(&swarm, node).into_iter().map(|(node, reason)| (node, reason as u8)).collect();
            let expected = expected.map(|reason| (node_id(1), reason as u8));
            assert!(reasons.iter().copied().eq(expected), "{n} {nature:?}, seed {seed}: {reasons:?}");
            let (_, liar) = stats.providers[1];
            let asked: u64 = swarm.asked_of(1).values().map(|n| u64::from(*n)).sum();
            if nature != Nature::NeverEnding && nature != Nature::Repeating {
                assert!(asked <= 70, "{nature:?} was asked {asked} chunks");
                assert!(liar.raw_bytes <= 4_096 * 4, "{nature:?}: {liar:?}");
            }
            assert!(swarm.refused_at(node) <= DEPTH as u32);
        }
    }
}

#[test]
fn provider_that_sent_three_bad_chunks_is_to_be_banned() {
    let (mut swarm, version, node) = full_world(5, 2, jittery(), 400_000);
    swarm.set_nature(1, Nature::WrongBytes);
    begin(&mut swarm, &version, node, [0, 1]);
    done(swarm.run(node));
    let counts: Vec<u32> = swarm
        .events(node)
        .iter()
        .filter_map(|event| match event {
            Event::Barred { bad_chunks, .. } => Some(*bad_chunks),
            _ => None,
        })
        .collect();
    assert!(counts.iter().copied().eq(1..=counts.len() as u32));
    let bans = swarm.events(node).iter().filter(|event| matches!(event, Event::Ban { .. })).count();
    assert_eq!(bans, usize::from(counts.len() >= 3), "{counts:?}");
    assert_eq!(counts.len() as u32, swarm.refused_at(node));
}

#[test]
fn only_liars_means_no_provider_and_the_fetch_waits_for_another() {
    let (mut swarm, version, node) = full_world(1, 3, jittery(), 200_000);
    swarm.set_nature(1, Nature::WrongBytes);
    swarm.set_nature(2, Nature::Inventing);
    begin(&mut swarm, &version, node, [1, 2]);
    let stalled = |swarm: &Swarm| swarm.events(node).contains(&Event::Stalled(StallReason::NoProvider));
    swarm.run_until(stalled);
    assert_eq!(barred(&swarm, node).iter().map(|(node, _)| *node).collect::<BTreeSet<_>>().len(), 2);
    swarm.add_provider(node, 1);
    swarm.add_provider(node, SOURCE);
    done(swarm.run(node));
    swarm.assert_identical(node, &version);
}

#[test]
fn fetch_after_a_crash_asks_only_for_what_was_not_flushed() {
    for seed in 0..n_seeds(40) {
        let mut rng = Rng::new(seed);
        let (mut swarm, version, node) = full_world(seed, 2, jittery(), 300_000);
        let mut n_crashes = 0;
        loop {
            swarm.forget_counts();
            let durable: BTreeSet<ChunkId> = swarm.store(node).ids().into_iter().collect();
            begin(&mut swarm, &version, node, [0, 1]);
            let n_puts = 1 + rng.below(version.distinct().len() as u64 * 2 / 3) as usize;
            let flush_at = rng.below(n_puts as u64) as usize;
            swarm.run_until(|swarm| swarm.end(node).is_some() || swarm.puts_at(node).len() >= flush_at);
            swarm.store(node).flush().unwrap();
            swarm.run_until(|swarm| swarm.end(node).is_some() || swarm.puts_at(node).len() >= n_puts);
            let asked: BTreeSet<ChunkId> = swarm.asked_of(0).into_keys().chain(swarm.asked_of(1).into_keys()).collect();
            assert!(asked.is_disjoint(&durable), "seed {seed}: asked for what was here");
            assert!(swarm.puts_at(node).keys().all(|id| !durable.contains(id)), "seed {seed}: hashed again");
            if swarm.end(node).is_some() {
                break;
            }
            swarm.crash(node);
            swarm.restart(node);
            n_crashes += 1;
        }
        swarm.assert_identical(node, &version);
        assert!(n_crashes > 0 || seed > 0, "the first seed crashes");
    }
}

#[test]
fn everything_here_is_found_without_asking_anybody() {
    let (mut swarm, version, node) = full_world(1, 1, jittery(), 400_000);
    swarm.give(SOURCE, node, &version, |_| true);
    swarm.fetch(node, &version, Wanted::All, FetchConfig::default());
    let stats = done(swarm.run(node));
    assert_eq!((stats.received_bytes, stats.reused_bytes, stats.wire_bytes), (0, version.size, 0));
    assert_eq!(swarm.net.stats().sent, 0);
}

#[test]
fn second_version_costs_its_difference() {
    let mut rng = Rng::new(9);
    let mut files = some_files(&mut rng, 5, 1_000_000);
    let mut swarm = Swarm::new(9, 2, jittery());
    let first = publish(swarm.store(SOURCE), SMALL_CHUNKS, files.clone());
    files[2].1.splice(50_000..50_010, noise(&mut rng, 40));
    let second = publish(swarm.store(SOURCE), SMALL_CHUNKS, files);
    begin(&mut swarm, &first, 1, [SOURCE]);
    done(swarm.run(1));
    begin(&mut swarm, &second, 1, [SOURCE]);
    let stats = done(swarm.run(1));
    swarm.assert_identical(1, &second);
    let fresh = second.distinct().difference(&first.distinct()).count() as u64;
    assert_eq!(stats.received_chunks, fresh);
    assert!(fresh < 10 && stats.reused_bytes > second.size * 9 / 10, "{fresh} {stats:?}");
}

#[test]
fn providers_share_the_work_by_what_they_can_carry() {
    for k in [2usize, 3, 4] {
        let (mut swarm, version, node) = full_world(k as u64, k, jittery(), 1_000_000);
        begin(&mut swarm, &version, node, 0..k);
        let stats = done(swarm.run(node));
        let all = stats.received_chunks + stats.received_pages;
        for (_, provider) in &stats.providers {
            assert!(provider.chunks * k as u64 * 10 > all * 7, "{k} providers: {:?}", stats.providers);
        }
        let asked: u64 = (0..k).flat_map(|k| swarm.asked_of(k).into_values()).map(u64::from).sum();
        assert!(asked <= all + 8, "{asked} asked for {all} chunks");
    }
    let (mut swarm, version, node) = full_world(7, 2, Link::default(), 1_000_000);
    for (provider, rate) in [(0, 1_000_000), (1, 250_000)] {
        swarm.net.set_link(provider, node, Link { bytes_per_second: Some(rate), ..Link::default() });
    }
    let begun = swarm.now;
    begin(&mut swarm, &version, node, 0..2);
    let stats = done(swarm.run(node));
    let [fast, slow] = [0, 1].map(|at: usize| stats.providers[at].1.wire_bytes);
    assert!((2 * slow..6 * slow).contains(&fast), "{fast} and {slow} bytes at rates of 4 to 1");
    let took = swarm.now.saturating_duration_since(begun).as_secs_f64();
    let ideal = stats.wire_bytes as f64 / 1_250_000.0;
    assert!(took < ideal * 1.2, "{took} of virtual time, {ideal} with both lines full");
}

#[test]
fn no_more_providers_are_used_than_allowed_and_the_reserve_steps_in() {
    let (mut swarm, version, node) = full_world(2, 7, jittery(), 600_000);
    begin(&mut swarm, &version, node, 0..7);
    swarm.run_until(|swarm| swarm.puts_at(node).len() > 100);
    assert_eq!(swarm.machine(node).unwrap().progress().providers, limits::FETCH_PROVIDERS);
    let used = |swarm: &Swarm| (0..7).filter(|provider| !swarm.asked_of(*provider).is_empty()).collect::<Vec<_>>();
    assert_eq!(used(&swarm), [0, 1, 2, 3]);
    swarm.crash(0);
    swarm.lose_provider(node, 0);
    done(swarm.run(node));
    assert_eq!(used(&swarm), [0, 1, 2, 3, 4]);
}

#[test]
fn parts_at_different_providers_make_a_whole() {
    for seed in 0..20 {
        let (mut swarm, version) = world(seed, 4, jittery(), 500_000);
        for provider in 1..3 {
            swarm.give(SOURCE, provider, &version, |at| at % 2 == provider % 2);
        }
        begin(&mut swarm, &version, 3, [1, 2]);
        let stats = done(swarm.run(3));
        swarm.assert_identical(3, &version);
        // A page may be asked of both before it is known what they hold.
        let missing: u64 = stats.providers.iter().map(|(_, provider)| provider.missing).sum();
        assert!(missing <= 16, "seed {seed}: {missing} questions in vain");
    }
}

#[test]
fn chunk_that_only_one_provider_holds_is_asked_first() {
    let mut swarm = Swarm::new(4, 5, jittery());
    let version = publish(swarm.store(SOURCE), SMALL_CHUNKS, [("f".to_owned(), noise(&mut Rng::new(4), 400_000))]);
    let rare = version.chunks.len() - 10;
    for provider in 1..4 {
        swarm.give(SOURCE, provider, &version, |at| at < rare || provider == 3);
    }
    begin(&mut swarm, &version, 4, [1, 2, 3]);
    let rarest: BTreeSet<ChunkId> = version.chunks[rare..].iter().map(|(id, _)| *id).collect();
    let common: BTreeSet<ChunkId> = version.chunks[..rare].iter().map(|(id, _)| *id).collect();
    assert!(rarest.len() == 10 && common.len() > 100);
    swarm.run_until(|swarm| rarest.iter().all(|id| swarm.store(4).has(id).unwrap()));
    let n_others = swarm.puts_at(4).keys().filter(|id| common.contains(*id)).count();
    assert!(n_others < common.len() / 2, "{n_others} of {} others came before", common.len());
    done(swarm.run(4));
}

#[test]
fn fetching_nodes_serve_each_other() {
    for seed in 0..5 {
        let (mut swarm, version) = world(seed, 4, Link { bytes_per_second: Some(200_000), ..jittery() }, 400_000);
        for node in 1..4 {
            begin(&mut swarm, &version, node, (0..4).filter(|provider| *provider != node));
        }
        for node in 1..4 {
            done(swarm.run(node));
            swarm.assert_identical(node, &version);
        }
        let served: u64 = swarm.asked_of(SOURCE).into_values().map(u64::from).sum();
        let among: u64 = (1..4).map(|node| swarm.asked_of(node).len() as u64).sum();
        assert!(among > 0, "seed {seed}: the source did everything: {served}");
    }
}

#[test]
fn many_small_files_come_in_bounded_memory() {
    let mut rng = Rng::new(11);
    let files = (0..20_000).map(|n| {
        let len = rng.below(60) as usize;
        (format!("dir{:04}/a file with a long name {n:08}.json", n / 50), noise(&mut rng, len))
    });
    let files: Vec<_> = files.collect();
    let mut swarm = Swarm::new(11, 3, jittery());
    let version = publish(swarm.store(SOURCE), ChunkerParams::with_average(16 << 10), files);
    swarm.give(SOURCE, 1, &version, |_| true);
    assert!(version.pages.len() > 15, "{}", version.pages.len());
    let config = FetchConfig { bytes_in_flight: 512 << 10, window: 16, ..FetchConfig::default() };
    swarm.fetch(2, &version, Wanted::All, config);
    swarm.add_provider(2, 0);
    swarm.add_provider(2, 1);
    let stats = done(swarm.run(2));
    swarm.assert_identical(2, &version);
    assert_eq!(stats.received_pages, version.pages.len() as u64);
    assert!(swarm.peak_bytes() <= 512 << 10);
}

#[test]
fn manifest_of_many_chunks_is_walked_in_a_window() {
    let mut swarm = Swarm::new(3, 2, Link::default());
    let version = publish(swarm.store(SOURCE), SMALL_CHUNKS, [("f".to_owned(), noise(&mut Rng::new(3), 12_000_000))]);
    assert!(version.chunks.len() > 4_000 && version.pages.len() > 5, "{}", version.chunks.len());
    let config = FetchConfig { window: 64, bytes_in_flight: 8_000, ..FetchConfig::default() };
    swarm.fetch(1, &version, Wanted::All, config);
    swarm.add_provider(1, SOURCE);
    done(swarm.run(1));
    swarm.assert_identical(1, &version);
}

#[test]
fn wanted_ranges_bring_only_the_chunks_that_cover_them() {
    for seed in 0..30 {
        let mut rng = Rng::new(seed);
        let (mut swarm, version, node) = full_world(seed, 2, jittery(), 600_000);
        let mut ranges = Vec::new();
        for _ in 0..rng.below(6) {
            let start = rng.below(version.size + 1_000);
            ranges.push(start..start + rng.below(20_000));
        }
        let mut expected = BTreeSet::new();
        let (mut offset, mut wanted) = (0u64, 0);
        for (id, len) in &version.chunks {
            let chunk = offset..offset + u64::from(*len);
            if ranges.iter().any(|range| range.start < range.end && range.start < chunk.end && chunk.start < range.end)
            {
                expected.insert(*id);
            }
            wanted += chunk.clone().filter(|byte| ranges.iter().any(|range| range.contains(byte))).count() as u64;
            offset = chunk.end;
        }
        let config = FetchConfig { order: AskOrder::Sequential, ..FetchConfig::default() };
        swarm.fetch(node, &version, Wanted::Ranges(ranges.clone()), config);
        swarm.add_provider(node, 0);
        swarm.add_provider(node, 1);
        let stats = done(swarm.run(node));
        let got: BTreeSet<ChunkId> =
            swarm.store(node).ids().into_iter().filter(|id| !version.pages.contains(id)).collect();
        assert_eq!(got, expected, "seed {seed}: {ranges:?}");
        assert_eq!(stats.wanted_bytes, wanted, "seed {seed}: {ranges:?}");
        assert_eq!(swarm.machine(node).unwrap().progress().here_bytes, wanted);
    }
}

#[test]
fn list_of_files_comes_without_content() {
    let mut swarm = Swarm::new(1, 2, jittery());
    let files = (0..6_000).map(|n| (format!("some folder/and a file {n:06}"), vec![n as u8; 40]));
    let version = publish(swarm.store(SOURCE), SMALL_CHUNKS, files);
    swarm.fetch(1, &version, Wanted::Entries, FetchConfig::default());
    swarm.add_provider(1, SOURCE);
    let stats = done(swarm.run(1));
    assert_eq!((stats.wanted_bytes, stats.received_bytes), (0, 0));
    assert!(stats.received_pages > 3 && swarm.store(1).ids().iter().all(|id| version.pages.contains(id)));
    begin(&mut swarm, &version, 1, [SOURCE]);
    done(swarm.run(1));
    swarm.assert_identical(1, &version);
}

#[test]
fn reader_in_order_may_read_what_is_said_to_be_ready() {
    let (mut swarm, version, node) = full_world(6, 3, jittery(), 300_000);
    let config = FetchConfig { order: AskOrder::Sequential, bytes_in_flight: 20_000, ..FetchConfig::default() };
    swarm.fetch(node, &version, Wanted::All, config);
    (0..3).for_each(|provider| swarm.add_provider(node, provider));
    let (mut n_ready, mut offset, mut n_early) = (0, 0u64, 0);
    while swarm.end(node).is_none() {
        assert!(swarm.step());
        let ready_to = swarm.machine(node).unwrap().progress().ready_to;
        while n_ready < version.chunks.len() && offset + u64::from(version.chunks[n_ready].1) <= ready_to {
            assert!(swarm.store(node).has(&version.chunks[n_ready].0).unwrap());
            offset += u64::from(version.chunks[n_ready].1);
            n_ready += 1;
            n_early += u32::from(swarm.puts_at(node).len() < version.distinct().len() / 2);
        }
    }
    assert_eq!(n_ready, version.chunks.len());
    assert!(n_early > 20, "a reader could begin long before the end: {n_early}");
}

#[test]
fn full_store_ends_the_fetch_clearly_and_nothing_is_lost() {
    for seed in 0..20 {
        let (mut swarm, version, node) = full_world(seed, 3, jittery(), 400_000);
        swarm.store(node).set_capacity(Some(100_000));
        begin(&mut swarm, &version, node, 0..3);
        let End::Failed(error, stats) = swarm.run(node) else { panic!("it cannot have fitted") };
        assert_eq!(error, FetchError::StoreFull);
        assert!(stats.received_bytes > 50_000, "{stats:?}");
        assert_eq!(swarm.store(node).durable_ids(), swarm.store(node).ids(), "what came was made durable");
        let held: BTreeSet<ChunkId> = swarm.store(node).ids().into_iter().collect();
        swarm.store(node).set_capacity(None);
        swarm.forget_counts();
        begin(&mut swarm, &version, node, 0..3);
        done(swarm.run(node));
        swarm.assert_identical(node, &version);
        assert!((0..3).all(|provider| swarm.asked_of(provider).keys().all(|id| !held.contains(id))));
    }
}

#[test]
fn store_that_fails_ends_the_fetch() {
    let (mut swarm, version, node) = full_world(1, 1, jittery(), 400_000);
    begin(&mut swarm, &version, node, [SOURCE]);
    swarm.run_until(|swarm| swarm.puts_at(node).len() > 50);
    swarm.store(node).fail();
    assert!(matches!(swarm.run(node), End::Failed(FetchError::StoreFailed, _)));
}

#[test]
fn cancelled_fetch_keeps_what_it_has_and_goes_quiet() {
    let (mut swarm, version, node) = full_world(1, 2, jittery(), 400_000);
    begin(&mut swarm, &version, node, [0, 1]);
    swarm.run_until(|swarm| swarm.puts_at(node).len() > 50);
    swarm.cancel(node);
    let End::Failed(error, stats) = swarm.run(node) else { panic!("it was cancelled") };
    assert_eq!(error, FetchError::Cancelled);
    assert!(stats.received_chunks >= 50);
    assert_eq!(swarm.store(node).durable_ids(), swarm.store(node).ids());
    let asked = swarm.asked_of(0).len() + swarm.asked_of(1).len();
    while swarm.step() {}
    assert!(swarm.asked_of(0).len() + swarm.asked_of(1).len() <= asked + 16);
    assert!(swarm.asked_of(0).len() < version.distinct().len() / 2);
}

#[test]
fn fetch_without_providers_says_so_and_waits_until_one_is_named_or_time_is_up() {
    let (mut swarm, version, node) = full_world(1, 1, jittery(), 100_000);
    begin(&mut swarm, &version, node, []);
    swarm.run_until(|swarm| swarm.events(node) == [Event::Stalled(StallReason::NoProvider)]);
    swarm.set_open(SOURCE, false);
    swarm.add_provider(node, SOURCE);
    let dropped = Event::Dropped { node: node_id(SOURCE), code: RefusalCode::Denied };
    swarm.run_until(|swarm| swarm.events(node).contains(&dropped));
    assert_eq!(swarm.events(node).last(), Some(&Event::Stalled(StallReason::NoProvider)));
    swarm.set_open(SOURCE, true);
    swarm.add_provider(node, SOURCE);
    done(swarm.run(node));
    let (mut swarm, version, node) = full_world(2, 1, jittery(), 100_000);
    let config = FetchConfig { deadline: Some(swarm.now + Duration::from_secs(60)), ..FetchConfig::default() };
    swarm.fetch(node, &version, Wanted::All, config);
    assert!(matches!(swarm.run(node), End::Failed(FetchError::Deadline, _)));
}

#[test]
fn silence_and_absence_are_told_apart() {
    let (mut swarm, version, node) = full_world(1, 1, jittery(), 100_000);
    swarm.set_nature(SOURCE, Nature::Silent);
    begin(&mut swarm, &version, node, [SOURCE]);
    swarm.run_until(|swarm| swarm.events(node) == [Event::Stalled(StallReason::Silence)]);
    swarm.set_nature(SOURCE, Nature::Honest);
    done(swarm.run(node));
    let (mut swarm, version) = world(2, 3, jittery(), 100_000);
    swarm.give(SOURCE, 1, &version, |at| at % 2 == 0);
    begin(&mut swarm, &version, 2, [1]);
    swarm.run_until(|swarm| swarm.events(2) == [Event::Stalled(StallReason::NobodyHas)]);
    swarm.give(SOURCE, 1, &version, |_| true);
    done(swarm.run(2));
    swarm.assert_identical(2, &version);
}

#[test]
fn provider_that_is_busy_is_asked_again_later() {
    let (mut swarm, version, node) = full_world(1, 1, jittery(), 300_000);
    swarm.serve_config.requests_per_second = 10;
    swarm.serve_config.request_burst = 30;
    begin(&mut swarm, &version, node, [SOURCE]);
    done(swarm.run(node));
    swarm.assert_identical(node, &version);
    assert_eq!(barred(&swarm, node), []);
}

#[test]
fn progress_is_reported_now_and_then_and_only_grows() {
    let (mut swarm, version, node) = full_world(1, 2, Link { bytes_per_second: Some(100_000), ..jittery() }, 300_000);
    begin(&mut swarm, &version, node, [0, 1]);
    let mut last = 0;
    while swarm.end(node).is_none() {
        assert!(swarm.step());
        let progress = swarm.machine(node).unwrap().progress();
        assert!(progress.here_bytes >= last && progress.here_bytes <= version.size);
        last = progress.here_bytes;
    }
    assert_eq!(last, version.size);
}

/// Publishes a version of noise and then says something else in its root page.
fn with_other_root(swarm: &Swarm, change: impl Fn(&mut Root)) -> Version {
    let mut version = publish(swarm.store(SOURCE), SMALL_CHUNKS, [("f".to_owned(), noise(&mut Rng::new(1), 60_000))]);
    let bytes = swarm.store(SOURCE).get(&version.manifest.into()).unwrap().unwrap().into_raw();
    let Page::Root(mut root) = decode(&bytes).unwrap() else { panic!("it is the root page") };
    change(&mut root);
    let page = Chunk::from_raw(encode(&Page::Root(root)));
    swarm.store(SOURCE).put(&page).unwrap();
    version.manifest = ManifestId::from(page.id());
    version
}

#[test]
fn manifest_that_lies_ends_the_fetch_and_no_provider_is_blamed() {
    let longer = |root: &mut Root| {
        let PageList::Inline(chunks) = &mut root.chunks else { panic!("it is short") };
        chunks[5].len += 1;
        root.size += 1;
    };
    let more = |root: &mut Root| root.n_chunks += 1;
    for change in [&longer as &dyn Fn(&mut Root), &more] {
        let mut swarm = Swarm::new(1, 2, jittery());
        let version = with_other_root(&swarm, change);
        begin(&mut swarm, &version, 1, [SOURCE]);
        let end = swarm.run(1);
        assert!(matches!(end, End::Failed(FetchError::BadManifest(_), _)), "{end:?}");
        assert_eq!(barred(&swarm, 1), []);
    }
}

#[test]
fn provider_that_comes_and_goes_comes_back_more_slowly_each_time() {
    let (mut swarm, version, node) = full_world(1, 1, jittery(), 100_000);
    swarm.set_open(SOURCE, false);
    begin(&mut swarm, &version, node, [SOURCE]);
    let until = swarm.now + Duration::from_secs(300);
    let mut n_refusals = 0;
    while swarm.now < until && swarm.step() {
        let refusals = swarm.events(node).iter().filter(|event| matches!(event, Event::Dropped { .. })).count();
        if refusals > n_refusals {
            n_refusals = refusals;
            swarm.add_provider(node, SOURCE);
        }
    }
    assert!((5..20).contains(&n_refusals), "refused {n_refusals} times in five minutes");
    swarm.set_open(SOURCE, true);
    done(swarm.run(node));
}

/// Virtual time that a fetch from these providers takes, one of them changed.
fn time_of(n_providers: usize, change: impl Fn(&mut Swarm, usize)) -> (Duration, FetchStats) {
    let (mut swarm, version, node) = full_world(3, n_providers, jittery(), 600_000);
    change(&mut swarm, node);
    let begun = swarm.now;
    begin(&mut swarm, &version, node, 0..n_providers);
    let stats = done(swarm.run(node));
    swarm.assert_identical(node, &version);
    (swarm.now.saturating_duration_since(begun), stats)
}

#[test]
fn provider_that_never_answers_costs_a_second() {
    let (alone, _) = time_of(1, |_, _| {});
    let (with_silent, _) = time_of(2, |swarm, _| swarm.set_nature(0, Nature::Silent));
    assert!(with_silent < alone + Duration::from_millis(1_100), "{with_silent:?}, {alone:?} without it");
}

#[test]
fn idle_provider_takes_over_what_a_slow_one_would_be_last_with() {
    let slow = Link { bytes_per_second: Some(300), ..jittery() };
    let (alone, _) = time_of(1, |_, _| {});
    let (with_slow, stats) = time_of(2, |swarm, node| swarm.net.set_link(1, node, slow));
    assert!(with_slow < alone * 2, "{with_slow:?}, {alone:?} without it");
    assert!(stats.providers[1].1.chunks < 10 && stats.wasted_bytes < 20_000, "{stats:?}");
}

#[test]
fn broken_stream_costs_what_was_on_it_and_is_opened_again() {
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        let (mut swarm, version, node) = full_world(seed, 2, jittery(), 600_000);
        begin(&mut swarm, &version, node, [0, 1]);
        let mut n_breaks = 0u32;
        while swarm.end(node).is_none() {
            assert!(swarm.step());
            if rng.chance(1, 150) {
                swarm.break_stream(node, rng.below(2) as usize);
                n_breaks += 1;
            }
        }
        done(swarm.end(node).cloned().unwrap());
        swarm.assert_identical(node, &version);
        assert!(swarm.events(node).len() == 1, "seed {seed}: {:?}", swarm.events(node));
        let asked: u32 = swarm.asked_of(0).values().chain(swarm.asked_of(1).values()).sum();
        let all = (version.distinct().len() + version.pages.len()) as u32;
        assert!(n_breaks > 0 && asked <= all + n_breaks * 8, "seed {seed}: {asked} of {all} after {n_breaks} breaks");
    }
}

#[test]
fn stream_that_breaks_at_every_question_is_opened_ever_more_slowly() {
    let (mut swarm, version, node) = full_world(1, 1, jittery(), 100_000);
    begin(&mut swarm, &version, node, [SOURCE]);
    let until = swarm.now + Duration::from_secs(120);
    let (mut sent, mut n_breaks) = (0, 0);
    while swarm.now < until {
        let is_new = swarm.net.stats().sent > sent;
        sent = swarm.net.stats().sent;
        if is_new {
            n_breaks += 1;
            swarm.break_stream(node, SOURCE);
        } else if !swarm.step() {
            break;
        }
    }
    assert!((5..20).contains(&n_breaks), "{n_breaks} streams in two minutes");
    done(swarm.run(node));
}

#[test]
fn garbage_bars_its_sender() {
    let (mut swarm, version, node) = full_world(1, 2, jittery(), 200_000);
    begin(&mut swarm, &version, node, [0, 1]);
    swarm.run_until(|swarm| swarm.puts_at(node).len() > 20);
    swarm.send_garbage(node, 1);
    done(swarm.run(node));
    assert_eq!(barred(&swarm, node), [(node_id(1), BarReason::Malformed)]);
}
