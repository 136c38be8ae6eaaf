//! What the tests need besides Rust and a C compiler: Debian's packages, installed where that may be done without asking.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::process::Command;

use bib_benches::{Failure, Result};

use crate::process::{is_there, step};

/// Sees to it that programs are there, each named with the package of Debian that has it.
pub fn programs(needed: &[(&str, &str)]) -> Result<()> {
    let missing: BTreeSet<&str> =
        needed.iter().filter(|(tool, _)| !is_there(tool)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let missing: Vec<&str> = missing.into_iter().collect();
    // Whoever is root on a machine with apt has one for builds; others are asked.
    if !rustix::process::geteuid().is_root() || !is_there("apt-get") {
        return Err(Failure(format!("programs are missing\nhint: `apt-get install {}`", missing.join(" "))));
    }
    step("list of packages", apt().args(["--quiet=2", "update"]))?;
    let install = ["--quiet=2", "install", "--yes", "--no-install-recommends"];
    step(&missing.join(" "), apt().args(install).args(&missing))
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    // Ctrl-C ends the tests, but no installation in its middle.
    command.env("DEBIAN_FRONTEND", "noninteractive").process_group(0);
    command
}
