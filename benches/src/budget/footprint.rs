//! What a node takes while it does nothing.

use std::time::Duration;

use super::{Bench, median, say};
use crate::failure::{During, Result};
use crate::lab::{self, Home, Lab};
use crate::show::{bytes, time};

/// Starts that the middle one is taken of.
const STARTS: usize = 11;
/// Datasets of the larger catalog.
const DATASETS: usize = 1_000;
/// How long a node is left alone before it counts as idle.
const SETTLE: Duration = Duration::from_secs(5);

/// Sizes of what ships.
pub(super) fn size(bench: &mut Bench) -> Result<()> {
    for (path, goal) in [(bench.programs.bibd.clone(), "≤ 9 MiB"), (bench.programs.bib.clone(), "≤ 4 MiB")] {
        let len = std::fs::metadata(&path).during(format!("look at {}", path.display()))?.len();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        bench.row(&format!("`{name}`, release, stripped"), goal, format!("{} ({len} B)", bytes(len)));
    }
    if let Some(crates) = bench.crates {
        bench.row("crates in the default build, without tokio", "≤ 330", crates.to_string());
    }
    Ok(())
}

/// An idle node, empty and with a thousand datasets.
pub(super) fn idle(bench: &mut Bench) -> Result<()> {
    let lab = Lab::new(bench.programs.clone())?;
    let home = lab.home("a")?;
    measure(bench, &home, "empty node", GOALS)?;

    let node = home.start()?;
    home.bib(["key", "new"])?;
    home.bib(["topic", "create", "t"])?;
    say(&format!("  publishing {DATASETS} datasets"));
    for n in 0..DATASETS {
        home.run_with_stdin(["publish", "-", &format!("t/d{n}"), "--quiet"], format!("{n}\n").as_bytes())?.ok()?;
    }
    node.stop()?;
    measure(bench, &home, "1,000 datasets", GOALS)
}

/// Goals of a cold start, of idle memory, of `bib status`.
pub(super) const GOALS: [&str; 3] = ["≤ 30 ms", "≤ 10 MiB", "≤ 10 ms"];

pub(super) fn measure(bench: &mut Bench, home: &Home, what: &str, goals: [&str; 3]) -> Result<()> {
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        let node = home.start()?;
        starts.push(node.cold_start());
        node.stop()?;
    }
    bench.row(&format!("cold start, exec to answering, {what}"), goals[0], time(median(starts)));

    let node = home.start()?;
    // Idle is what a node is when nobody asks anything for a while; there is no event to wait for.
    std::thread::sleep(SETTLE);
    let usage = node.usage()?;
    let threads = lab::threads(node.pid())?;
    bench.row(
        &format!("idle memory, {what}"),
        goals[1],
        format!("{} resident, of which {} anonymous", bytes(usage.rss), bytes(usage.anonymous_rss)),
    );
    bench.row(&format!("threads, {what}"), "", format!("{} ({})", threads.len(), threads.join(", ")));
    let mut asked = Vec::new();
    for _ in 0..STARTS {
        asked.push(home.bib(["status"])?.elapsed);
    }
    bench.row(&format!("`bib status`, exec to end, {what}"), goals[2], time(median(asked)));
    node.stop()?;
    Ok(())
}
