//! SIGKILL at any moment: what was acknowledged is there after the next start, and a fetch goes on.
//!
//! `BIB_E2E_ROUNDS` and `BIB_E2E_SEED` make more and other moments; a failure names its seed and round.

use std::process::Stdio;
use std::time::Duration;

use bib_benches::failure::During;
use bib_benches::generate::{self, Rng};
use bib_benches::lab::{Running, until};
use bib_benches::{Failure, Result, same};

use crate::world::{One, PATIENCE, Two, address, ensure, get, publish, sees, write};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn rounds() -> u64 {
    number("BIB_E2E_ROUNDS", 8)
}

fn seed() -> u64 {
    number("BIB_E2E_SEED", 1)
}

/// Says in which round of which seed something failed.
fn in_round<T>(seed: u64, round: u64, result: Result<T>) -> Result<T> {
    result.map_err(|Failure(text)| Failure(format!("BIB_E2E_SEED={seed}, round {round}: {text}")))
}

#[test]
fn publisher_killed_at_any_moment_keeps_what_it_acknowledged() -> Result<()> {
    let seed = seed();
    let mut rng = Rng::new(seed);
    let mut one = One::start()?;
    let mut acknowledged = Vec::new();
    for round in 0..rounds() {
        let file = one.home.work(format!("{round}.bin"));
        generate::noise(&file, 1 + rng.below(12 << 20), rng.next_u64())?;
        let reference = format!("t/d{round}");
        let mut command = one.home.bib_command(["publish", &format!("{round}.bin"), &reference, "--quiet"]);
        let mut publisher = Running::start(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
        // The moment itself is what varies: sometimes before, sometimes after the acknowledgement.
        let moment = Duration::from_micros(rng.below(400_000));
        let ended = publisher.ended(moment)?;
        one.node.kill();
        let ended = match ended {
            Some(ended) => Some(ended),
            None => publisher.ended(PATIENCE)?,
        };
        let (status, _) = ended.ok_or("bib publish hangs after its node died")?;
        if status.success() {
            acknowledged.push((reference, file));
        }
        one.node = in_round(seed, round, one.home.start())?;
        let status = one.home.json(["status"])?;
        ensure(status["read_only"].is_null(), || format!("read-only after round {round}: {status}"))?;
        for (reference, file) in &acknowledged {
            let out = in_round(seed, round, get(&one.home, reference, "out.bin"))?;
            in_round(seed, round, same::file(file, &out))?;
        }
    }
    // The interrupted ones can be published now; nothing that was left behind is in the way.
    for round in 0..rounds() {
        let file = one.home.work(format!("{round}.bin"));
        publish(&one.home, &file, &format!("t/d{round}"))?;
        same::file(&file, &get(&one.home, &format!("t/d{round}"), "out.bin")?)?;
    }
    Ok(())
}

#[test]
fn fetcher_killed_at_any_moment_goes_on_from_what_it_has() -> Result<()> {
    const LEN: u64 = 48 << 20;
    /// What one kill may cost: chunks that were on their way, and their frames.
    const LOST_BY_A_KILL: u64 = 9 << 20;
    let seed = seed();
    let mut rng = Rng::new(seed ^ 0xfe7c);
    let mut two = Two::start()?;
    let file = two.a.work("noise.bin");
    generate::noise(&file, LEN, seed)?;
    publish(&two.a, &file, "t/noise")?;
    two.b.configure(&format!("p2p.peers = [{:?}]", address(&two.a)?))?;
    let mut kills = 0;
    loop {
        let moment = Duration::from_micros(rng.below(600_000));
        let mut command = two.b.bib_command(["get", "t/noise", "-o", "out.bin", "--quiet"]);
        let mut fetcher = Running::start(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
        let ended = fetcher.ended(moment)?;
        if ended.is_some_and(|(status, _)| status.success()) || kills == rounds() {
            break;
        }
        two.node_b.kill();
        fetcher.kill();
        kills += 1;
        two.node_b = in_round(seed, kills, two.b.start())?;
        in_round(seed, kills, sees(&two.b, "t/noise@1.0.0").map(|_| ()))?;
    }
    same::file(&file, &get(&two.b, "t/noise", "out.bin")?)?;
    let sent = two.a.figure("wire_sent")?;
    let allowed = LEN + LEN / 50 + kills * LOST_BY_A_KILL;
    ensure(sent <= allowed, || format!("seed {seed}: {sent} bytes were sent for {LEN} with {kills} kills"))
}

#[test]
fn provider_killed_in_the_middle_of_a_fetch_serves_the_rest_when_it_is_back() -> Result<()> {
    let mut two = Two::start()?;
    let file = two.a.work("noise.bin");
    generate::noise(&file, 64 << 20, 3)?;
    publish(&two.a, &file, "t/noise")?;
    sees(&two.b, "t/noise@1.0.0")?;
    let mut command = two.b.bib_command(["get", "t/noise", "-o", "out.bin", "--quiet"]);
    let fetcher = Running::start(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
    until("something has arrived", PATIENCE, || Ok((two.b.figure("wire_received")? > 1 << 20).then_some(())))?;
    two.node_a.kill();
    two.node_a = two.a.start()?;
    drop(fetcher);
    two.b.bib(["peer", "connect", &address(&two.a)?])?;
    same::file(&file, &get(&two.b, "t/noise", "out.bin")?)
}

#[test]
fn catalog_writes_that_were_acknowledged_survive_a_kill_right_after() -> Result<()> {
    let mut one = One::start()?;
    for round in 0..rounds() {
        one.home.bib(["topic", "create", &format!("t/sub{round}")])?;
        let file = write(&one.home, "f", format!("{round}"))?;
        publish(&one.home, &file, &format!("t/sub{round}/d"))?;
        one.node.kill();
        one.node = one.home.start()?;
        let topics = one.home.bib(["topic", "list", "--json", "--limit", "1000"])?.json_lines()?;
        ensure(topics.len() as u64 == round + 2, || format!("round {round}: {topics:?}"))?;
        let cat = one.home.bib(["cat", &format!("t/sub{round}/d")])?;
        ensure(cat.out == round.to_string().as_bytes(), || cat.stdout.clone())?;
    }
    let log = std::fs::read_to_string(one.home.log()).during("read the log")?;
    ensure(!log.contains("panicked"), || log)
}
