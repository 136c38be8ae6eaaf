//! Many files.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::transfer::{Moved, move_path, report};
use super::{Bench, say};
use crate::failure::{During, Result};
use crate::lab::{self, Lab};
use crate::show::time;
use crate::{generate, same};

/// Files of the tree of small files.
const SMALL_FILES: u64 = 100_000;

/// A hundred thousand small files.
pub(super) fn small_files(bench: &mut Bench) -> Result<()> {
    let inputs = Lab::new(bench.programs.clone())?;
    let dir = inputs.path("small");
    generate::small_files(&dir, SMALL_FILES, 1)?;
    let moved = tree(bench, &dir, "100,000 files of 1 to 4 KiB")?;
    bench.kept.push(inputs);
    bench.row(
        "add 100,000 files of 1 to 4 KiB",
        "≤ 10 CPU-s",
        format!("{:.1} CPU-s, {}", moved.publish.cpu().as_secs_f64(), time(moved.publish.elapsed)),
    );
    Ok(())
}

/// The HTML documentation of the toolchain: what every machine of a developer has.
pub(super) fn documentation(bench: &mut Bench) -> Result<()> {
    let out = Command::new("rustc").args(["--print", "sysroot"]).output().during("rustc --print sysroot")?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&out.stdout).trim());
    let dir = sysroot.join("share/doc/rust/html");
    if !dir.is_dir() {
        say(&format!("  left out: {} is not installed (`rustup component add rust-docs`)", dir.display()));
        return Ok(());
    }
    let moved = tree(bench, &dir, "the HTML documentation of Rust")?;
    bench.row("files of the HTML documentation of Rust", "", moved.files.to_string());
    Ok(())
}

fn tree(bench: &mut Bench, dir: &Path, what: &str) -> Result<Moved> {
    let lab = Lab::new(bench.programs.clone())?;
    let (moved, one, two) = move_path(&lab, dir, "t/d")?;
    same::tree(dir, &two.home.work("out"))?;
    drop((one, two));
    report(bench, what, &moved);
    let before = lab::usage(std::process::id())?;
    let start = Instant::now();
    copy(dir, &lab.path("copy"))?;
    let cpu = lab::usage(std::process::id())?.cpu().saturating_sub(before.cpu());
    bench.row(
        &format!("{what}, copied plainly and not synced, same run"),
        "",
        format!(
            "{:.1} CPU-s, {}; the fetch as a whole {:.1} CPU-s",
            cpu.as_secs_f64(),
            time(start.elapsed()),
            moved.fetch.cpu().as_secs_f64()
        ),
    );
    // For minutes, ext4 looks at each inode that was just given up before it takes another one: removed now, this tree
    // would be paid for by the next one.
    bench.kept.push(lab);
    Ok(moved)
}

/// Copies a tree file by file: what the file system itself takes for so many files.
fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir(to).during(format!("make {}", to.display()))?;
    for entry in std::fs::read_dir(from).during(format!("read {}", from.display()))? {
        let entry = entry.during(format!("read {}", from.display()))?;
        let (path, copied) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().during("look at a file")?;
        if kind.is_dir() {
            copy(&path, &copied)?;
        } else if kind.is_file() {
            std::fs::copy(&path, &copied).during(format!("copy {}", path.display()))?;
        }
    }
    Ok(())
}
