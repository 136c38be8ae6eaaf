//! What holds under load and after kills.

use std::time::Duration;

use super::transfer::{MEMORY, address, move_path, text};
use super::{Bench, GIB};
use crate::failure::{Failure, Result};
use crate::generate::{self, Rng};
use crate::lab::{Lab, until};
use crate::same;
use crate::show::{bytes, time};

/// The ceiling of [`MEMORY`], in bytes.
const CEILING: u64 = 32 << 20;
/// Bytes of the file whose fetch is killed again and again.
const KILLED_LEN: u64 = 512 << 20;
/// Nothing that is awaited takes longer.
const PATIENCE: Duration = Duration::from_secs(300);

/// A file of 2 GiB under the smallest ceiling.
pub(super) fn memory(bench: &mut Bench) -> Result<()> {
    let lab = Lab::new(bench.programs.clone())?;
    let path = lab.path("noise.bin");
    generate::noise(&path, 2 * GIB, 11)?;
    let (moved, _one, two) = move_path(&lab, &path, "t/d")?;
    same::file(&path, &two.home.work("out"))?;
    let receiver = moved.fetch.two.unwrap_or(moved.fetch.one).peak_rss;
    let peaks = [moved.publish.one.peak_rss, moved.fetch.one.peak_rss, receiver];
    bench.row(
        "peak memory with `limits.memory = \"32MiB\"`, 2 GiB file",
        "≤ 32 MiB",
        format!("publisher {}, sender {}, receiver {}", bytes(peaks[0]), bytes(peaks[1]), bytes(peaks[2])),
    );
    if peaks.iter().any(|peak| *peak > CEILING) {
        return Err(Failure("a node took more memory than its limit allows".to_owned()));
    }
    Ok(())
}

/// A fetch that is killed again and again at random bytes.
pub(super) fn resume(bench: &mut Bench) -> Result<()> {
    let lab = Lab::new(bench.programs.clone())?;
    let (a, b) = (lab.home("a")?, lab.home("b")?);
    let node_a = a.start()?;
    let path = lab.path("noise.bin");
    generate::noise(&path, KILLED_LEN, 12)?;
    a.bib(["key", "new"])?;
    a.bib(["topic", "create", "t"])?;
    a.bib(["publish", text(&path)?, "t/d", "--quiet"])?;
    b.configure(&format!("{MEMORY}\np2p.peers = [{:?}]", address(&a)?))?;

    let mut rng = Rng::new(13);
    let (mut kills, mut starts) = (0u64, Vec::new());
    let sent = || a.figure("wire_sent");
    let mut node_b = b.start()?;
    loop {
        // A full node fetches by itself; it is killed when so much more has left the other one.
        let next = sent()? + (4 << 20) + rng.below(28 << 20);
        let done = until("more is sent", PATIENCE, || {
            let here = b.json(["status"])?["raw_bytes"].as_u64().unwrap_or(0) >= KILLED_LEN;
            Ok(if here { Some(true) } else { (sent()? >= next).then_some(false) })
        })?;
        if done {
            break;
        }
        node_b.kill();
        kills += 1;
        node_b = b.start()?;
        starts.push(node_b.cold_start());
    }
    b.bib(["get", "t/d", "-o", "out", "--quiet"])?;
    same::file(&path, &b.work("out"))?;
    let again = sent()?.saturating_sub(KILLED_LEN);
    drop(node_a);
    bench.row(
        "sent again for each SIGKILL in the middle of a fetch",
        "≤ 1 MiB",
        format!(
            "{} ({kills} kills, {} in all, frames included); the longest start after one {}",
            bytes(again / kills.max(1)),
            bytes(again),
            time(starts.iter().max().copied().unwrap_or_default())
        ),
    );
    Ok(())
}
