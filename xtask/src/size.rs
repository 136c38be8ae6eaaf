//! `cargo xtask size`: what ships, in bytes, and which crates it consists of.

use bib_benches::failure::During;
use bib_benches::{Result, show};

use crate::dist::Binaries;
use crate::dist::build::{self, Profile};
use crate::dist::target::Target;
use crate::dist::toolchain::{self, Purpose, Toolchain};
use crate::process::{cargo, step, target_dir};
use crate::{rules, symbols};

/// Crates that are named.
const LARGEST: usize = 10;
/// What makes a release build keep its table of symbols.
const KEEP_SYMBOLS: (&str, &str) = ("CARGO_PROFILE_RELEASE_STRIP", "false");

/// Builds what ships and prints its sizes; with `crates`, builds it again with its symbols.
pub fn run(crates: bool, targets: &[Target]) -> Result<()> {
    if targets.is_empty() {
        let build = ["build", "--locked", "--quiet", "--release", "-p", "bib-node", "-p", "bib-cli"];
        step("release build", cargo().args(build))?;
        sizes("", &Binaries::in_folder(&target_dir()?.join("release")))?;
        if crates {
            let dir = target_dir()?.join("symbols");
            let mut command = cargo();
            command.args(build).arg("--target-dir").arg(&dir).env(KEEP_SYMBOLS.0, KEEP_SYMBOLS.1);
            step("release build with symbols", &mut command)?;
            largest("", &Binaries::in_folder(&dir.join("release")))?;
        }
    }
    for target in targets {
        let toolchain = Toolchain::find(&[*target], Purpose::Ships)?;
        sizes(target.debian(), &build::binaries(&toolchain, *target, Profile::Release)?)?;
        if crates {
            let dir = toolchain::dir()?.join("symbols");
            let mut command = build::programs(&toolchain, *target, Profile::Release, &dir)?;
            step("release build with symbols", command.env(KEEP_SYMBOLS.0, KEEP_SYMBOLS.1))?;
            largest(target.debian(), &Binaries::in_folder(&dir.join(target.triple()).join("release")))?;
        }
    }
    println!("{:<6} {:>11} in the default build", "crates", rules::n_crates()?);
    Ok(())
}

fn sizes(target: &str, binaries: &Binaries) -> Result<()> {
    for (name, path) in binaries.named() {
        let len = std::fs::metadata(path).during(format!("look at {}", path.display()))?.len();
        println!("{name:<6} {len:>11} bytes  {} {target}", show::bytes(len));
    }
    Ok(())
}

fn largest(target: &str, binaries: &Binaries) -> Result<()> {
    for (name, path) in binaries.named() {
        let elf = std::fs::read(path).during(format!("read {}", path.display()))?;
        let sizes = symbols::by_crate(&elf)?;
        let total: u64 = sizes.iter().map(|(_, size)| size).sum();
        println!("\n{name} {target}: {} of code and data with a name", show::bytes(total));
        for (name, size) in sizes.iter().take(LARGEST) {
            println!("  {name:<28} {:>10}  {}", show::bytes(*size), show::percent(*size, total));
        }
    }
    Ok(())
}
