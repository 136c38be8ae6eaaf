//! Many files.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::transfer::{Moved, move_path, report};
use super::{Bench, say};
use crate::failure::{During, Result};
use crate::lab::Lab;
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
    bench.row(
        "fetch them, both ends, written out",
        "",
        format!("{:.1} CPU-s, {}", moved.fetch.cpu().as_secs_f64(), time(moved.fetch.elapsed)),
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
    // For minutes, ext4 looks at each inode that was just given up before it takes another one: removed now, this tree
    // would be paid for by the next one.
    bench.kept.push(lab);
    Ok(moved)
}
