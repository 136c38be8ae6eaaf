//! The gate: what must hold before a change lands.

use crate::process::{Failure, cargo, step};
use crate::rules;

/// Seconds that each fuzz target runs in the gate.
const FUZZ_SECONDS: u64 = 3;

/// The fast part; never writes to the sources.
pub fn run() -> Result<(), Failure> {
    step("format", cargo().args(["fmt", "--all", "--check"]))?;
    rules::check()?;
    step(
        "lints",
        cargo().args(["clippy", "--locked", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    )?;
    step(
        "docs",
        cargo().env("RUSTDOCFLAGS", "-D warnings").args([
            "doc",
            "--locked",
            "--quiet",
            "--workspace",
            "--no-deps",
            "--document-private-items",
        ]),
    )?;
    fuzz(FUZZ_SECONDS, None)
}

/// The test suites and the simulation.
pub fn tests() -> Result<(), Failure> {
    // The end-to-end tests start the binaries of other packages, which cargo does not build for them.
    step("binaries", cargo().args(["build", "--locked", "--quiet", "-p", "bib-node", "-p", "bib-cli"]))?;
    step("tests", cargo().args(["test", "--locked", "--workspace"]))
}

/// The fuzz targets on their corpus.
pub fn fuzz(seconds: u64, target: Option<&str>) -> Result<(), Failure> {
    let seconds = seconds.to_string();
    let mut command = cargo();
    command.args(["run", "--locked", "--quiet", "-p", "bib-sim", "--bin", "bib-fuzz", "--"]);
    command.args(["--seconds", &seconds]);
    if let Some(target) = target {
        command.args(["--target", target]);
    }
    step("fuzz targets", &mut command)
}

/// Mends what can be mended by a machine.
pub fn fix() -> Result<(), Failure> {
    step(
        "lints",
        cargo().args(["clippy", "--workspace", "--all-targets", "--fix", "--allow-dirty", "--allow-staged"]),
    )?;
    step("format", cargo().args(["fmt", "--all"]))
}
