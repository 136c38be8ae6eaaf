//! The gate: what must hold before a change lands.

use std::process::Command;

use bib_benches::Result;

use crate::dist::unit;
use crate::process::{cargo, root, step, target_dir};
use crate::{drift, rules};

/// Seconds that each fuzz target runs in the gate.
const FUZZ_SECONDS: u64 = 3;

/// The fast part; never writes to the sources.
pub fn run() -> Result<()> {
    step("format", cargo().args(["fmt", "--all", "--check"]))?;
    rules::check()?;
    drift::check()?;
    unit::check()?;
    step(
        "lints",
        cargo().args(["clippy", "--locked", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    )?;
    step(
        "docs",
        // Private items are documented too, so links to them lead somewhere.
        cargo().env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links").args([
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
pub fn tests() -> Result<()> {
    // The end-to-end tests start the binaries of other packages, which cargo does not build for them.
    step("binaries", cargo().args(["build", "--locked", "--quiet", "-p", "bib-node", "-p", "bib-cli"]))?;
    step("tests", cargo().args(["test", "--locked", "--workspace"]))
}

/// The figures of the README, on what ships.
pub fn budget(only: &[String]) -> Result<()> {
    step(
        "release build",
        cargo().args([
            "build",
            "--locked",
            "--quiet",
            "--release",
            "-p",
            "bib-node",
            "-p",
            "bib-cli",
            "-p",
            "bib-benches",
        ]),
    )?;
    let n_crates = rules::n_crates()?.to_string();
    let release = target_dir()?.join("release");
    let mut command = Command::new(release.join("bib-bench"));
    command.current_dir(root()).arg("--programs").arg(&release).arg("--tools").arg(target_dir()?.join("tools"));
    command.args(["--crates", &n_crates]).args(only);
    step("measurements", &mut command)
}

/// The simulation over many seeds, or one again.
pub fn sim(seeds: u64, seed: Option<u64>) -> Result<()> {
    let mut command = cargo();
    command.args(["run", "--locked", "--quiet", "-p", "bib-sim", "--bin", "bib-sim", "--"]);
    match seed {
        Some(seed) => command.args(["--seed", &seed.to_string()]),
        None => command.args(["--seeds", &seeds.to_string()]),
    };
    step("simulation", &mut command)
}

/// Power cuts under the stores, with so many survivors of each step.
pub fn cuts(survivors: u64) -> Result<()> {
    let mut command = cargo();
    command.env("BIB_CUTS", survivors.to_string());
    command.args(["test", "--locked", "-p", "bib-sim", "--test", "crash", "--test", "crash_collect"]);
    command.args(["--test", "crash_sealed", "--", "--nocapture"]);
    step("power cuts", &mut command)
}

/// The fuzz targets on their corpus.
pub fn fuzz(seconds: u64, target: Option<&str>) -> Result<()> {
    let seconds = seconds.to_string();
    let mut command = cargo();
    command.args(["run", "--locked", "--quiet", "-p", "bib-sim", "--features", "node", "--bin", "bib-fuzz", "--"]);
    command.args(["--seconds", &seconds]);
    if let Some(target) = target {
        command.args(["--target", target]);
    }
    step("fuzz targets", &mut command)
}

/// Mends what can be mended by a machine.
pub fn fix() -> Result<()> {
    step(
        "lints",
        cargo().args(["clippy", "--workspace", "--all-targets", "--fix", "--allow-dirty", "--allow-staged"]),
    )?;
    step("format", cargo().args(["fmt", "--all"]))
}
