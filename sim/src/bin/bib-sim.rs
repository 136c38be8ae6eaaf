//! Runs worlds of whole nodes, each twice: `bib-sim --seeds 200 [--from N]`, or one again: `bib-sim --seed N`.

use std::panic::catch_unwind;
use std::process::ExitCode;

use bib_sim::world::{Report, WorldConfig, run};

/// Runs simulated worlds.
#[derive(argh::FromArgs)]
struct Args {
    /// how many worlds
    #[argh(option, default = "200")]
    seeds: u64,
    /// the first seed
    #[argh(option, default = "1")]
    from: u64,
    /// only this seed
    #[argh(option)]
    seed: Option<u64>,
}

/// A run, and whether another one is equal.
fn twice(seed: u64) -> Result<Report, String> {
    let once = || match catch_unwind(|| run(WorldConfig::of_seed(seed))) {
        Ok(result) => result,
        Err(_) => Err("it panicked, see above".to_owned()),
    };
    let report = once()?;
    if once()? != report {
        return Err("two runs of the same seed differ".to_owned());
    }
    Ok(report)
}

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "a developer's program: this is its output")]
fn main() -> ExitCode {
    let args: Args = argh::from_env();
    let seeds = match args.seed {
        Some(seed) => seed..seed + 1,
        None => args.from..args.from + args.seeds,
    };
    let (mut n_failed, mut latencies, mut longest, mut n_ops) = (0, Vec::new(), (0, 0), 0);
    for seed in seeds.clone() {
        match twice(seed) {
            Ok(report) => {
                if args.seed.is_some() {
                    println!("{:?}\n{report:#?}", WorldConfig::of_seed(seed));
                }
                n_ops += report.n_ops;
                longest = longest.max((report.settled_after.as_secs(), seed));
                latencies.extend(report.latencies);
            }
            Err(error) => {
                n_failed += 1;
                eprintln!("seed {seed}: {error}");
                eprintln!("   {:?}", WorldConfig::of_seed(seed));
                println!("cargo xtask sim --seed {seed}");
            }
        }
    }
    latencies.sort_unstable();
    let at = |percent: usize| latencies.get(latencies.len() * percent / 100).copied().unwrap_or_default();
    println!("   {} worlds, {n_failed} failed, {n_ops} operations", seeds.end - seeds.start);
    println!("   an operation is at another node after {:.2?} (half), {:.2?} (90 %)", at(50), at(90));
    println!("   longest time to settle after the last fault: {} s (seed {})", longest.0, longest.1);
    if n_failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
