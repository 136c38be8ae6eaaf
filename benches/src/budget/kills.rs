//! Real processes, killed again and again while they publish, fetch, delete and collect garbage.
//!
//! Two nodes: people publish at one, the other is a full node that copies. One of the two is killed at a random moment,
//! started again, and asked for what was acknowledged before.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::transfer::{MEMORY, address, text};
use super::{Bench, say};
use crate::failure::{Failure, Result};
use crate::generate::{self, Rng};
use crate::lab::{Home, Lab, Node, until};
use crate::same;
use crate::show::time;

/// Kills, where the environment variable `BIB_KILLS` does not say another number.
const KILLS: u64 = 200;
/// A node is killed so long after the work began at the latest: most publications are under way by then.
const LATEST: u64 = 400;
/// Datasets that are read again after each kill, beside the last one.
const SAMPLE: u64 = 3;
/// Nothing that is awaited takes longer.
const PATIENCE: Duration = Duration::from_secs(300);

/// A dataset that was acknowledged.
struct Known {
    name: String,
    len: u64,
    seed: u64,
}

/// What people did between two kills.
#[derive(Default)]
struct Round {
    published: Vec<Known>,
    /// Asked to be deleted: whether it still is there nobody can say.
    deleted: Vec<usize>,
    collected: u64,
}

/// See the module.
pub(super) fn kills(bench: &mut Bench) -> Result<()> {
    let n_kills = std::env::var("BIB_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(KILLS);
    let lab = Lab::new(bench.programs.clone())?;
    let (a, b) = (lab.home("a")?, lab.home("b")?);
    a.configure(MEMORY)?;
    let mut node_a = a.start()?;
    a.bib(["key", "new"])?;
    a.bib(["topic", "create", "t"])?;
    // The publisher keeps its address, so that the other one finds it again.
    let port = address(&a)?.split('/').nth(4).and_then(|port| port.parse().ok()).ok_or("an address without a port")?;
    node_a.kill();
    a.configure_port(port, MEMORY)?;
    node_a = a.start()?;
    b.configure(&format!("{MEMORY}\np2p.peers = [{:?}]", address(&a)?))?;
    let mut node_b = b.start()?;

    let mut rng = Rng::new(21);
    let (mut known, mut starts): (Vec<Known>, Vec<Duration>) = (Vec::new(), Vec::new());
    let (mut n_published, mut n_deleted, mut n_collected) = (0, 0, 0);
    for kill in 0..n_kills {
        let publisher_dies = rng.below(10) < 7;
        let pause = Duration::from_millis(rng.below(LATEST));
        let stop = AtomicBool::new(false);
        let (kept, seed) = (&known, rng.next_u64());
        let (round, killed) = std::thread::scope(|scope| {
            let people = scope.spawn(|| people(&lab, &a, kept, seed, kill, &stop));
            // The moment is chance, not an event.
            std::thread::sleep(pause);
            let killed = if publisher_dies { restart(&a, &mut node_a) } else { restart(&b, &mut node_b) };
            stop.store(true, Ordering::Relaxed);
            (people.join(), killed)
        });
        starts.push(killed?);
        let round = round.map_err(|_| "the people panicked")??;
        n_published += round.published.len();
        n_deleted += round.deleted.len();
        n_collected += round.collected;
        for at in round.deleted {
            known.swap_remove(at);
        }
        known.extend(round.published);
        let checked =
            (0..SAMPLE).map(|_| rng.below(known.len().max(1) as u64) as usize).chain([known.len().max(1) - 1]);
        for at in checked {
            if let Some(dataset) = known.get(at) {
                check(&lab, &a, dataset, kill)?;
            }
        }
        if kill % 20 == 19 {
            say(&format!("  {} kills, {} datasets kept, nothing lost", kill + 1, known.len()));
        }
    }
    for dataset in &known {
        check(&lab, &a, dataset, n_kills)?;
        until("the other node has the dataset", PATIENCE, || {
            // Without a connection, for which it may have to wait a little, it says so at once.
            Ok((b.run(["cat", &format!("t/{}", dataset.name), "--range", "0-0"])?.code == Some(0)).then_some(()))
        })?;
        check(&lab, &b, dataset, n_kills)?;
    }
    drop((node_a, node_b));
    bench.row(
        "SIGKILL while publishing, fetching, deleting and collecting",
        "0 losses in 200 kills",
        format!(
            "{n_kills} kills, {n_published} publications acknowledged, {n_deleted} deletions, {n_collected} collections, 0 \
             losses, all files the same byte by byte on both nodes; the longest start after a kill {}",
            time(starts.iter().max().copied().unwrap_or_default())
        ),
    );
    Ok(())
}

/// Kills a node and starts it again; how long the start took.
fn restart(home: &Home, node: &mut Node) -> Result<Duration> {
    node.kill_now();
    *node = home.start()?;
    Ok(node.cold_start())
}

/// Publishes, deletes and collects until told to stop; what fails then was not acknowledged.
fn people(lab: &Lab, home: &Home, known: &[Known], seed: u64, kill: u64, stop: &AtomicBool) -> Result<Round> {
    let mut rng = Rng::new(seed);
    let mut round = Round::default();
    let path = lab.path("source");
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        match rng.below(8) {
            0 if known.len() > 20 && round.deleted.is_empty() => {
                let at = rng.below(known.len() as u64) as usize;
                home.run(["dataset", "delete", &format!("t/{}", known[at].name), "--yes", "--quiet"])?;
                round.deleted.push(at);
            }
            1 | 2 => {
                let ran = home.run(["admin", "gc", "--min-age", "0s", "--yes", "--quiet"])?;
                round.collected += u64::from(ran.code == Some(0));
            }
            _ => {
                let longest = if rng.below(4) == 0 { 8 << 20 } else { 256 << 10 };
                let (len, seed) = (1 + rng.below(longest), rng.next_u64());
                generate::noise(&path, len, seed)?;
                let name = format!("d{kill}-{n}");
                let ran = home.run(["publish", text(&path)?, &format!("t/{name}"), "--quiet"])?;
                if ran.code == Some(0) {
                    round.published.push(Known { name, len, seed });
                }
            }
        }
    }
    Ok(round)
}

/// Whether what was acknowledged is there, byte by byte.
fn check(lab: &Lab, home: &Home, dataset: &Known, kill: u64) -> Result<()> {
    let (source, out) = (lab.path("expected"), home.work("checked"));
    generate::noise(&source, dataset.len, dataset.seed)?;
    let got = home.run(["get", &format!("t/{}", dataset.name), "-o", "checked", "--quiet"])?;
    if got.code != Some(0) {
        return Err(Failure(format!("after kill {kill}, {} is lost: {got:#?}", dataset.name)));
    }
    same::file(&source, &out)?;
    std::fs::remove_file(&out).map_err(|error| Failure(error.to_string()))
}
