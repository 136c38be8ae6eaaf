//! `cargo xtask size`: what ships, in bytes, and which crates it consists of.

use bib_benches::failure::During;
use bib_benches::{Result, show};

use crate::process::{cargo, step, target_dir};
use crate::rules;

/// Builds what ships and prints its sizes.
pub fn run() -> Result<()> {
    step(
        "release build",
        cargo().args(["build", "--locked", "--quiet", "--release", "-p", "bib-node", "-p", "bib-cli"]),
    )?;
    for name in ["bibd", "bib"] {
        let path = target_dir()?.join("release").join(name);
        let len = std::fs::metadata(&path).during(format!("look at {}", path.display()))?.len();
        println!("{name:<6} {len:>11} bytes  {}", show::bytes(len));
    }
    println!("{:<6} {:>11} in the default build", "crates", rules::n_crates()?);
    Ok(())
}
