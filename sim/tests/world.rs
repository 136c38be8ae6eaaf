//! Worlds of whole nodes: they come to hold the same, soon, whatever goes wrong; and a seed replays.

use std::time::Duration;

use bib_sim::world::{Report, WorldConfig, run};

fn world(config: WorldConfig) -> Report {
    match run(config) {
        Ok(report) => report,
        Err(error) => panic!("{error}\n{config:?}\ncargo xtask sim --seed {}", config.seed),
    }
}

#[test]
fn nodes_become_equal_after_cuts_crashes_and_lost_gossip() {
    let reports: Vec<Report> = (1..=10).map(|seed| world(WorldConfig::of_seed(seed))).collect();
    // A world in which nothing happens shows nothing.
    assert!(reports.iter().map(|report| report.n_ops).sum::<usize>() > 200);
    assert!(reports.iter().map(|report| report.n_fetches).sum::<u64>() > 100);
    assert!(reports.iter().all(|report| report.settled_after < Duration::from_secs(900)), "{reports:?}");
}

#[test]
fn a_seed_replays_to_the_byte_and_another_one_does_not() {
    let busy =
        |seed| WorldConfig { n_cuts: 2, n_crashes: 2, gossip_lost_per_mille: 100, ..WorldConfig::calm(seed, 4, 30) };
    let first = world(busy(7));
    assert_eq!(world(busy(7)), first);
    assert_ne!(world(busy(8)).trace, first.trace);
}

#[test]
fn without_faults_fifty_nodes_see_a_change_within_two_seconds() {
    let report = world(WorldConfig::calm(3, 50, 20));
    assert!(report.n_ops > 10);
    assert_eq!(report.latencies.len(), report.n_ops * 49);
    assert!(report.latency(99) <= Duration::from_secs(2), "{:?}", report.latency(99));
    assert!(report.latency(50) <= Duration::from_secs(1), "{:?}", report.latency(50));
    assert!(report.gossip_refused.values().all(|n| *n == 0), "{:?}", report.gossip_refused);
}

#[test]
fn without_gossip_changes_travel_by_announcements() {
    let report = world(WorldConfig { gossip_lost_per_mille: 1_000, ..WorldConfig::calm(5, 8, 40) });
    assert!(report.n_ops > 15);
    assert!(report.latency(99) <= Duration::from_secs(5), "{:?}", report.latency(99));
}
