//! `cargo xtask size`: what ships, in bytes, and which crates it consists of.

use bib_benches::failure::During;
use bib_benches::{Result, show};

use crate::process::{cargo, step, target_dir};
use crate::{rules, symbols};

/// Crates that are named.
const LARGEST: usize = 10;

/// Builds what ships and prints its sizes; with `crates`, builds it again with its symbols.
pub fn run(crates: bool) -> Result<()> {
    let build = ["build", "--locked", "--quiet", "--release", "-p", "bib-node", "-p", "bib-cli"];
    step("release build", cargo().args(build))?;
    for name in ["bibd", "bib"] {
        let path = target_dir()?.join("release").join(name);
        let len = std::fs::metadata(&path).during(format!("look at {}", path.display()))?.len();
        println!("{name:<6} {len:>11} bytes  {}", show::bytes(len));
    }
    println!("{:<6} {:>11} in the default build", "crates", rules::n_crates()?);
    if !crates {
        return Ok(());
    }
    let dir = target_dir()?.join("symbols");
    let mut command = cargo();
    command.args(build).arg("--target-dir").arg(&dir).env("CARGO_PROFILE_RELEASE_STRIP", "false");
    step("release build with symbols", &mut command)?;
    for name in ["bibd", "bib"] {
        let path = dir.join("release").join(name);
        let elf = std::fs::read(&path).during(format!("read {}", path.display()))?;
        let sizes = symbols::by_crate(&elf)?;
        let total: u64 = sizes.iter().map(|(_, size)| size).sum();
        println!("\n{name}: {} of code and data with a name", show::bytes(total));
        for (name, size) in sizes.iter().take(LARGEST) {
            println!("  {name:<28} {:>10}  {}", show::bytes(*size), show::percent(*size, total));
        }
    }
    Ok(())
}
