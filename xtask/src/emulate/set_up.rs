//! The emulators: Debian's packages, installed where that may be done without asking.

use std::process::Command;

use bib_benches::Result;

use super::{is_there, needs};
use crate::dist::target::Target;
use crate::process::step;

/// What brings the emulators.
const PACKAGE: &str = "qemu-user-static";

/// Sees to it that the emulators of these targets are there.
pub fn emulators(targets: &[Target]) -> Result<()> {
    if targets.iter().all(|target| is_there(target.qemu())) {
        return Ok(());
    }
    // Whoever is root on a machine with apt has one for builds; others are asked.
    if !rustix::process::geteuid().is_root() || !is_there("apt-get") {
        return Err(needs(PACKAGE));
    }
    step("list of packages", apt().args(["--quiet=2", "update"]))?;
    step(PACKAGE, apt().args(["--quiet=2", "install", "--yes", "--no-install-recommends", PACKAGE]))
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}
