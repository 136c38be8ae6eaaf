//! The same content by us and by the programs that others use for backups: once, and as versions of many days.

use std::path::Path;
use std::process::Command;

use super::others::{self, Cost, Tool};
use super::transfer::{MEMORY, Measured, text};
use super::{Bench, GIB, per_gib, say};
use crate::failure::{During, Failure, Result};
use crate::generate::{self, CLUSTER_ROWS, Table};
use crate::lab::Lab;
use crate::show::{bytes, time};

/// Days, where the environment variable `BIB_DAYS` does not say another number.
const DAYS: u64 = 365;
/// MiB of the first version, where `BIB_DAYS_MIB` does not.
const DAYS_MIB: u64 = 16;
/// Files of the tree of small files.
const SMALL_FILES: u64 = 100_000;

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|n| n.parse().ok()).unwrap_or(otherwise)
}

/// How a table changes from one day to the next.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    /// A thousandth of its bytes is added at the end.
    Append,
    /// A thousandth of its rows is written anew, in clusters.
    Edit,
}

impl Change {
    fn next(self, table: &mut Table) {
        match self {
            Self::Append => table.grow(table.bytes().len() / 1_000),
            Self::Edit => table.edit(1.0),
        }
    }

    fn text(self) -> String {
        match self {
            Self::Append => "0.1 % appended a day".to_owned(),
            Self::Edit => format!("0.1 % of the rows edited a day, in clusters of {CLUSTER_ROWS} rows"),
        }
    }
}

/// What one program took for all versions.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Kept {
    pub(super) stored: u64,
    pub(super) cost: Cost,
}

/// What the versions of some days took.
pub(super) struct Days {
    /// Bytes of the last version.
    pub(super) last: u64,
    pub(super) ours: Kept,
    pub(super) theirs: Vec<(Tool, Kept)>,
}

/// Publishes a table every day; the same by `tools` beside.
pub(super) fn days(
    bench: &Bench,
    change: Change,
    (n_days, mib): (u64, u64),
    config: &str,
    tools: &[Tool],
) -> Result<Days> {
    let lab = Lab::new(bench.programs.clone())?;
    let home = lab.home("one")?;
    home.configure(&format!("{MEMORY}\n{config}"))?;
    let mut one = Measured::over(home)?;
    one.home.bib(["key", "new"])?;
    one.home.bib(["topic", "create", "t"])?;
    let mut theirs: Vec<(Tool, Kept)> = tools.iter().map(|tool| (*tool, Kept::default())).collect();
    for tool in tools {
        tool.init(&one.home)?;
    }
    one.spent()?;
    let file = lab.path("table.csv");
    let mut table = Table::new(usize::try_from(mib << 20).during("the size of a table")?, 3);
    let mut ours = Kept::default();
    let mut hashes = Vec::new();
    for day in 0..n_days {
        if day > 0 {
            change.next(&mut table);
        }
        // A day without a cluster makes no version.
        let hash = blake3::hash(table.bytes());
        if hashes.last() != Some(&hash) {
            hashes.push(hash);
        }
        std::fs::write(&file, table.bytes()).during("write the table")?;
        let (cost, _) = others::cost_of(|| one.home.bib(["publish", text(&file)?, "t/d", "--quiet"]))?;
        ours.cost.add(cost);
        for (tool, kept) in &mut theirs {
            kept.cost.add(tool.store(&one.home, &file, day)?);
        }
        if day % 73 == 72 {
            say(&format!("  {} of {n_days} days", day + 1));
        }
    }
    let spent = one.spent()?;
    ours.cost.cpu += spent.cpu;
    ours.cost.to_device += spent.to_device;
    // What is small is not worth much if it is not all there.
    for version in [0, hashes.len() / 2, hashes.len() - 1] {
        let ran = one.home.bib(["cat", &format!("t/d@1.0.{version}")])?;
        if blake3::hash(&ran.out) != hashes[version] {
            return Err(Failure(format!("version 1.0.{version} is not what was published")));
        }
    }
    let Measured { home, node, .. } = one;
    node.stop()?;
    ours.stored = others::on_disk(&home.data_dir())?;
    for (tool, kept) in &mut theirs {
        kept.stored = others::on_disk(&tool.repository(&home))?;
    }
    Ok(Days { last: table.bytes().len() as u64, ours, theirs })
}

/// A year of daily versions that only grow.
pub(super) fn versions_append(bench: &mut Bench) -> Result<()> {
    versions(bench, Change::Append)
}

/// A year of daily versions with edits.
pub(super) fn versions_edit(bench: &mut Bench) -> Result<()> {
    versions(bench, Change::Edit)
}

fn versions(bench: &mut Bench, change: Change) -> Result<()> {
    others::install_all()?;
    let (n_days, mib) = (number("BIB_DAYS", DAYS), number("BIB_DAYS_MIB", DAYS_MIB));
    let Days { last, ours, theirs } = days(bench, change, (n_days, mib), "", &Tool::ALL)?;
    let what = format!("{n_days} versions of a CSV of {mib} MiB, {}", change.text());
    let all: Vec<(&str, Kept)> =
        [("bib", ours)].into_iter().chain(theirs.iter().map(|(tool, kept)| (tool.name(), *kept))).collect();
    let line = |of: &dyn Fn(&Kept) -> String| {
        all.iter().map(|(name, kept)| format!("{name} {}", of(kept))).collect::<Vec<_>>().join(", ")
    };
    let share = |part: u64| format!("{:.2} ×", part as f64 / last as f64);
    bench.row(
        &format!("stored / one copy of the last version: {what}"),
        "≤ 1.6 ×, and no more than restic",
        line(&|kept| format!("{} ({})", share(kept.stored), bytes(kept.stored))),
    );
    bench.row(&format!("CPU of all: {what}"), "", line(&|kept| format!("{:.1} s", kept.cost.cpu.as_secs_f64())));
    bench.row(
        &format!("written to the device / stored: {what}"),
        "",
        line(&|kept| format!("{:.2}", kept.cost.to_device as f64 / kept.stored.max(1) as f64)),
    );
    let restic = theirs.iter().find(|(tool, _)| *tool == Tool::Restic).map_or(u64::MAX, |(_, kept)| kept.stored);
    if ours.stored > restic {
        return Err(Failure("restic stores less".to_owned()));
    }
    Ok(())
}

/// One file or tree, stored once by each.
pub(super) fn tools(bench: &mut Bench) -> Result<()> {
    others::install_all()?;
    let inputs = Lab::new(bench.programs.clone())?;
    let noise = inputs.path("noise.bin");
    generate::noise(&noise, GIB, 1)?;
    once(bench, &noise, GIB, "1 GiB incompressible")?;
    std::fs::remove_file(&noise).during("remove a file")?;
    let csv = inputs.path("data.csv");
    let len = generate::csv(&csv, GIB, 1, None)?;
    once(bench, &csv, len, "1 GiB CSV")?;
    std::fs::remove_file(&csv).during("remove a file")?;
    let small = inputs.path("small");
    let len = generate::small_files(&small, SMALL_FILES, 1)?;
    once(bench, &small, len, "100,000 files of 1 to 4 KiB")?;
    bench.kept.push(inputs);
    Ok(())
}

fn once(bench: &mut Bench, path: &Path, len: u64, what: &str) -> Result<()> {
    let lab = Lab::new(bench.programs.clone())?;
    let mut one = Measured::start(&lab, "one")?;
    one.home.bib(["key", "new"])?;
    one.home.bib(["topic", "create", "t"])?;
    one.spent()?;
    let (mut ours, _) = others::cost_of(|| one.home.bib(["publish", text(path)?, "t/d", "--quiet"]))?;
    let spent = one.spent()?;
    ours.cpu += spent.cpu;
    ours.to_device += spent.to_device;
    let mut all = vec![("bib", ours, others::on_disk(&one.home.data_dir())?)];
    for tool in Tool::ALL {
        tool.init(&one.home)?;
        let cost = tool.store(&one.home, path, 0)?;
        all.push((tool.name(), cost, others::on_disk(&tool.repository(&one.home))?));
    }
    let line = |of: &dyn Fn(&Cost, u64) -> String| {
        all.iter().map(|(name, cost, stored)| format!("{name} {}", of(cost, *stored))).collect::<Vec<_>>().join(", ")
    };
    let cpu = |cost: &Cost| format!("{:.2} CPU-s/GiB", per_gib(cost.cpu, len));
    let share = |part: u64| format!("{:.3}", part as f64 / len as f64);
    bench.row(
        &format!("stored once, {what}: CPU"),
        "",
        line(&|cost, _| format!("{}, {}", cpu(cost), time(cost.elapsed))),
    );
    bench.row(
        &format!("stored once, {what}: bytes kept; written to the device / payload"),
        "≤ 1.05 written",
        line(&|cost, stored| format!("{}; {}", share(stored), share(cost.to_device))),
    );
    let peak = spent.peak_rss;
    bench.row(
        &format!("stored once, {what}: peak memory"),
        "≤ 32 MiB",
        line(&|cost, _| bytes(cost.peak_rss)) + &format!(" (bibd {})", bytes(peak)),
    );

    let copy = lab.path("copy");
    let script = |text: &str| {
        let mut command = Command::new("sh");
        command.args(["-ec", text, "sh"]).arg(path).arg(&copy);
        others::cost(command)
    };
    let copied = script(r#"cp -r "$1" "$2"; sync -f "$2""#)?;
    let sha256 = script(r#"find "$1" -type f -exec sha256sum {} + > /dev/null"#)?;
    let blake3 = script(r#"find "$1" -type f -exec b3sum --num-threads 1 {} + > /dev/null"#)?;
    bench.row(
        &format!("yardsticks in the same run, {what}"),
        "",
        format!("cp and sync {}, sha256sum {}, b3sum with one thread {}", cpu(&copied), cpu(&sha256), cpu(&blake3)),
    );
    if path.is_dir() {
        // As with other trees: inodes that were just given up would be paid for by what comes next.
        bench.kept.push(lab);
    }
    Ok(())
}
