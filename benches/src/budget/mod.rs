//! The numbers of the README, each measured and printed with its goal.
//!
//! Wall times on shared machines mean little: a rate stands beside that of another program in the same run. CPU
//! seconds, bytes, counts of fsync, memory and sizes stand alone.

mod backup;
mod endurance;
mod footprint;
mod kills;
mod others;
mod scale;
mod transfer;
mod trees;

use std::path::PathBuf;
use std::time::Duration;

use crate::failure::{Failure, Result};
use crate::lab::{Lab, Programs};

/// One measurement.
type Measure = fn(&mut Bench) -> Result<()>;

/// All measurements: name, what it measures, how.
pub const ALL: [(&str, &str, Measure); 16] = [
    ("size", "release binaries and crates", footprint::size),
    ("idle", "memory, threads, cold start and `bib status` of an idle node", footprint::idle),
    ("file", "a file of 1 GiB, beside sendme and raw TCP", transfer::file),
    ("row", "one row more in the middle of a CSV of 1 GiB", transfer::row),
    ("memory", "a file of 2 GiB under the smallest ceiling of memory", endurance::memory),
    ("resume", "a fetch that is killed again and again", endurance::resume),
    ("kills", "two nodes that are killed again and again in the middle of everything", kills::kills),
    ("small", "100,000 files of 1 to 4 KiB", trees::small_files),
    ("docs", "the tree of the toolchain's HTML documentation", trees::documentation),
    ("backup-tools", "files stored once, beside restic and borg", backup::tools),
    ("versions-append", "a year of daily versions that grow, beside restic and borg", backup::versions_append),
    ("versions-edit", "a year of daily versions with clustered edits, beside restic and borg", backup::versions_edit),
    ("chunks", "a node with 1,000,000 chunks and 100,000 datasets", scale::chunks),
    ("ingest10", "a file of 10 GiB under the smallest ceiling of memory", scale::ingest),
    ("flash", "what idle nodes write; takes six minutes", scale::flash),
    ("chunk-size", "what average chunks of 64, 128 and 256 KiB cost and bring", scale::sizes),
];

/// A run of measurements.
#[derive(Debug)]
pub struct Bench {
    programs: Programs,
    tools: PathBuf,
    crates: Option<u64>,
    rows: Vec<[String; 3]>,
    /// Folders that are removed in the end.
    kept: Vec<Lab>,
}

impl Bench {
    /// One for these programs; others for comparison are installed below `tools`.
    pub const fn new(programs: Programs, tools: PathBuf, crates: Option<u64>) -> Self {
        Self { programs, tools, crates, rows: Vec::new(), kept: Vec::new() }
    }

    /// Measures all, or those with the given names, and prints a table in the end.
    ///
    /// # Errors
    /// When a name is unknown or a measurement fails.
    pub fn run(&mut self, only: &[String]) -> Result<()> {
        if let Some(unknown) = only.iter().find(|name| ALL.iter().all(|(known, ..)| known != name)) {
            return Err(Failure(format!("there is no measurement `{unknown}`; `list` names all")));
        }
        for (name, about, measure) in ALL {
            if only.is_empty() || only.iter().any(|wanted| wanted == name) {
                say(&format!("\n▸ {name}: {about}"));
                measure(self)?;
            }
        }
        say("\n| what | goal | measured |\n|---|---|---|");
        for [what, goal, measured] in &self.rows {
            say(&format!("| {what} | {goal} | {measured} |"));
        }
        self.kept.clear();
        Ok(())
    }

    /// A figure of the table.
    fn row(&mut self, what: &str, goal: &str, measured: String) {
        let stated = if goal.is_empty() { String::new() } else { format!("   (goal {goal})") };
        say(&format!("  {what}: {measured}{stated}"));
        self.rows.push([what.to_owned(), goal.to_owned(), measured]);
    }
}

#[allow(clippy::print_stdout, reason = "a developer's program: this is its output")]
fn say(text: &str) {
    println!("{text}");
}

/// The middle one of some times.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Bytes in one GiB.
const GIB: u64 = 1 << 30;

/// CPU seconds for each GiB.
fn per_gib(cpu: Duration, bytes: u64) -> f64 {
    cpu.as_secs_f64() * GIB as f64 / bytes.max(1) as f64
}

/// MiB in each second.
fn rate(bytes: u64, elapsed: Duration) -> f64 {
    bytes as f64 / (1 << 20) as f64 / elapsed.as_secs_f64().max(1e-9)
}
