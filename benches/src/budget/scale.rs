//! What holds for a large store, for a large file, and while nothing happens.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use super::transfer::{MEMORY, Measured, Moved, NEW_ROW, address, move_from, text};
use super::{Bench, GIB, backup, footprint, others, per_gib, say};
use crate::failure::{During, Failure, Result};
use crate::fill;
use crate::generate;
use crate::lab::{self, Lab};
use crate::show::{bytes, time};

/// Chunks of a large store.
const CHUNKS: u64 = 1_000_000;
/// Bytes of a large file.
const LARGE: u64 = 10 * GIB;
/// The ceiling of [`MEMORY`], in bytes.
const CEILING: u64 = 32 << 20;
/// How long an idle node is watched: the comparison with a peer that comes each five minutes is in it.
const WATCHED: Duration = Duration::from_secs(330);
/// How long nodes are left alone before that.
const SETTLE: Duration = Duration::from_secs(30);
const DAY: Duration = Duration::from_secs(86_400);
/// Average chunks to choose from, in KiB.
const SIZES: [u64; 3] = [64, 128, 256];
/// Rounds of what costs CPU.
const ROUNDS: usize = 3;
/// Bytes that are moved for each of them.
const MOVED: u64 = GIB;
/// Days and MiB of the versions for each of them.
const DAYS: (u64, u64) = (365, 64);

/// A node whose store has a million chunks, beside an empty one.
pub(super) fn chunks(bench: &mut Bench) -> Result<()> {
    let lab = Lab::new(bench.programs.clone())?;
    footprint::measure(bench, &lab.home("empty")?, "empty node", footprint::GOALS)?;
    for (name, n_datasets, goals) in
        [("few", 1_000, footprint::GOALS), ("many", 100_000, ["≤ 150 ms", "≤ 14 MiB", "≤ 10 ms"])]
    {
        let home = lab.home(name)?;
        // It makes its key and its folders.
        home.start()?.stop()?;
        say(&format!("  making {CHUNKS} chunks and {n_datasets} datasets"));
        fill::chunks(&home.data_dir(), CHUNKS)?;
        fill::datasets(&home.data_dir(), n_datasets)?;
        let what = format!("1,000,000 chunks and {n_datasets} datasets");
        footprint::measure(bench, &home, &what, goals)?;
        let index = others::on_disk(&home.data_dir().join("segments/index.redb"))?;
        bench.row(&format!("index of {what}"), "", format!("{} ({} a chunk)", bytes(index), bytes(index / CHUNKS)));
    }
    Ok(())
}

/// A file of 10 GiB under the smallest ceiling; it is made while it is published, so that the disk holds it once.
pub(super) fn ingest(bench: &mut Bench) -> Result<()> {
    let lab = Lab::new(bench.programs.clone())?;
    let mut one = Measured::start(&lab, "one")?;
    one.home.bib(["key", "new"])?;
    one.home.bib(["topic", "create", "t"])?;
    one.spent()?;
    let mut command = one.home.bib_command(["publish", "-", "t/d", "--quiet"]);
    command.stdin(Stdio::piped());
    let ran = lab::feed(command, |pipe| generate::noise_to(pipe, LARGE, 31))?.ok()?;
    let spent = one.spent()?;
    bench.row(
        "peak memory, 10 GiB published with `limits.memory = \"32MiB\"`",
        "≤ 32 MiB",
        format!("bibd {}, bib {}", bytes(spent.peak_rss), bytes(ran.usage.peak_rss)),
    );
    bench.row(
        "CPU, 10 GiB published",
        "",
        format!(
            "{:.2} CPU-s/GiB (bibd {:.2}, bib {:.2}), {}",
            per_gib(spent.cpu + ran.usage.cpu(), LARGE),
            per_gib(spent.cpu, LARGE),
            per_gib(ran.usage.cpu(), LARGE),
            time(ran.elapsed)
        ),
    );
    bench.row("device bytes / payload, 10 GiB published", "≤ 1.05", ratio(spent.to_device, LARGE));
    bench.row("fsyncs, 10 GiB published", "≤ 1 per 16 MiB", each(LARGE, spent.figures.fsyncs));
    if spent.peak_rss > CEILING {
        return Err(Failure("the node took more memory than its limit allows".to_owned()));
    }
    Ok(())
}

fn ratio(part: u64, whole: u64) -> String {
    format!("{:.4}", part as f64 / whole.max(1) as f64)
}

fn each(size: u64, n: u64) -> String {
    format!("{n}, one per {}", bytes(size / n.max(1)))
}

/// What two connected nodes write while nobody asks anything.
pub(super) fn flash(bench: &mut Bench) -> Result<()> {
    let lab = Lab::new(bench.programs.clone())?;
    let (a, b) = (lab.home("a")?, lab.home("b")?);
    let node_a = a.start()?;
    a.bib(["key", "new"])?;
    a.bib(["topic", "create", "t"])?;
    a.run_with_stdin(["publish", "-", "t/d", "--quiet"], b"something\n")?.ok()?;
    b.configure(&format!("p2p.peers = [{:?}]", address(&a)?))?;
    let node_b = b.start()?;
    lab::until("the other node has it", Duration::from_secs(60), || {
        Ok((b.run(["cat", "t/d"])?.code == Some(0)).then_some(()))
    })?;
    // What it notes of its copy, and what a start leaves to do later, is not what it writes all day.
    std::thread::sleep(SETTLE);
    say(&format!("  watching two idle nodes for {} s", WATCHED.as_secs()));
    let before = (node_a.io()?, node_b.io()?);
    // Nothing shall happen, so there is no event to wait for.
    std::thread::sleep(WATCHED);
    for (name, node, before) in [("one that publishes", &node_a, before.0), ("one that copies", &node_b, before.1)] {
        let written = node.io()?.to_device.saturating_sub(before.to_device);
        let day = written * DAY.as_secs() / WATCHED.as_secs();
        bench.row(
            &format!("written by an idle node, {name}"),
            "≤ 1 MiB a day",
            format!("{} in {} s: {} a day if it goes on so", bytes(written), WATCHED.as_secs(), bytes(day)),
        );
    }
    Ok(())
}

/// What each average length of a chunk costs and brings.
pub(super) fn sizes(bench: &mut Bench) -> Result<()> {
    let inputs = Lab::new(bench.programs.clone())?;
    let noise = inputs.path("noise.bin");
    generate::noise(&noise, MOVED, 41)?;
    let (first, second) = (inputs.path("first.csv"), inputs.path("second.csv"));
    generate::csv(&first, MOVED, 42, None)?;
    generate::csv(&second, MOVED, 42, Some(NEW_ROW))?;
    moved(bench, &noise)?;
    for kib in SIZES {
        let config = config(kib);
        large(bench, &config, kib)?;
        one_row(bench, (&first, &second), &config, kib)?;
        let days = backup::days(bench, backup::Change::Edit, DAYS, &config, &[])?;
        bench.row(
            &format!("{kib} KiB: {} versions of {} MiB, clustered edits, stored / one copy", DAYS.0, DAYS.1),
            "≤ 1.6 ×",
            format!("{} ({})", ratio(days.ours.stored, days.last), bytes(days.ours.stored)),
        );
    }
    Ok(())
}

fn node(lab: &Lab, config: &str) -> Result<Measured> {
    let home = lab.home("one")?;
    home.configure(&format!("{MEMORY}\n{config}"))?;
    let node = Measured::over(home)?;
    node.home.bib(["key", "new"])?;
    node.home.bib(["topic", "create", "t"])?;
    Ok(node)
}

/// Published in an empty store and fetched: each length in turn, and of the rounds the cheapest, because neighbours on the
/// machine only add.
fn moved(bench: &mut Bench, path: &Path) -> Result<()> {
    let mut cheapest: Vec<Option<Moved>> = SIZES.map(|_| None).into();
    for _ in 0..ROUNDS {
        for (kib, cheapest) in SIZES.iter().zip(&mut cheapest) {
            let lab = Lab::new(bench.programs.clone())?;
            let mut one = node(&lab, &config(*kib))?;
            let (moved, two) = move_from(&lab, &mut one, path, "t/d")?;
            drop((one, two));
            let cpu = |moved: &Moved| moved.publish.cpu() + moved.fetch.cpu();
            if cheapest.as_ref().is_none_or(|cheapest| cpu(&moved) < cpu(cheapest)) {
                *cheapest = Some(moved);
            }
        }
    }
    for (kib, moved) in SIZES.into_iter().zip(cheapest) {
        let Some(Moved { publish, fetch, .. }) = moved else { continue };
        bench.row(
            &format!("{kib} KiB: publish and fetch of 1 GiB incompressible, the cheapest of {ROUNDS} rounds"),
            "fetch ≤ 2 CPU-s/GiB",
            format!("{:.2} and {:.2} CPU-s/GiB", per_gib(publish.cpu(), MOVED), per_gib(fetch.cpu(), MOVED)),
        );
        bench.row(
            &format!("{kib} KiB: device bytes / payload, empty store"),
            "≤ 1.05",
            format!(
                "{}; kept beside the payload {}",
                ratio(publish.one.to_device, MOVED),
                bytes(publish.one.figures.stored.saturating_sub(MOVED))
            ),
        );
        let fsyncs = each(MOVED, publish.one.figures.fsyncs);
        bench.row(&format!("{kib} KiB: fsyncs of a publication"), "≤ 1 per 16 MiB", fsyncs);
    }
    Ok(())
}

fn config(kib: u64) -> String {
    format!("storage.chunk_avg = \"{kib}KiB\"")
}

/// Three times as much published beside a million other chunks.
fn large(bench: &mut Bench, config: &str, kib: u64) -> Result<()> {
    let lab = Lab::new(bench.programs.clone())?;
    let home = lab.home("one")?;
    home.configure(&format!("{MEMORY}\n{config}"))?;
    home.start()?.stop()?;
    fill::chunks(&home.data_dir(), CHUNKS)?;
    // Else the kernel counts a write of 4 KiB into what it read ahead as much more.
    let index = home.data_dir().join("segments/index.redb");
    let index = std::fs::File::open(&index).during("open the index")?;
    rustix::fs::fadvise(&index, 0, None, rustix::fs::Advice::DontNeed).during("forget the index")?;
    let mut one = Measured::over(home)?;
    one.home.bib(["key", "new"])?;
    one.home.bib(["topic", "create", "t"])?;
    one.spent()?;
    let len = 3 * MOVED;
    let mut command = one.home.bib_command(["publish", "-", "t/d", "--quiet"]);
    command.stdin(Stdio::piped());
    lab::feed(command, |pipe| generate::noise_to(pipe, len, 43))?.ok()?;
    let spent = one.spent()?;
    bench.row(
        &format!("{kib} KiB: device bytes / payload, 3 GiB beside 1,000,000 chunks"),
        "≤ 1.05",
        ratio(spent.to_device, len),
    );
    bench.row(&format!("{kib} KiB: fsyncs beside 1,000,000 chunks"), "≤ 1 per 16 MiB", each(len, spent.figures.fsyncs));
    Ok(())
}

/// One row more in the middle.
fn one_row(bench: &mut Bench, files: (&Path, &Path), config: &str, kib: u64) -> Result<()> {
    let lab = Lab::new(bench.programs.clone())?;
    let one = node(&lab, config)?;
    let publish = |path| one.home.json(["publish", text(path)?, "t/d"]);
    publish(files.0)?;
    let version = publish(files.1)?;
    bench.row(
        &format!("{kib} KiB: one row more in 1 GiB of CSV"),
        &format!("≤ {} KiB new", 3 * kib),
        format!(
            "{} new, {} stored",
            bytes(version["new_bytes"].as_u64().unwrap_or(0)),
            bytes(version["stored_bytes"].as_u64().unwrap_or(0))
        ),
    );
    Ok(())
}
