//! `cargo xtask emulate`: programs for ARM boards, built here and run under an emulator of user programs.
//!
//! Unit tests of the rooms whose sizes, alignment and atomics depend on the machine run whole; nodes on different kinds
//! of machines play the story of the demo together, with a kill in the middle.
//!
//! Deliberately absent: time. An emulator is slow in its own ways; what is counted is bytes and results.

mod count;
mod set_up;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use argh::FromArgs;
use bib_benches::Result;
use bib_benches::failure::During;
use bib_benches::lab::Programs;

use crate::demo::{self, Cast};
use crate::dist::build::{self, Profile};
use crate::dist::target::Target;
use crate::dist::toolchain::Versions;
use crate::dist::toolchain::{self, Purpose, Toolchain};
use crate::dist::{self, Binaries, Kinds, check};
use crate::process::{cargo, step, target_dir};

/// Rooms whose tests run whole on the other machine.
const TESTED: [&str; 2] = ["bib-core", "bib-storage-redb"];

/// What bib is for, and what machines of developers are not.
pub const BOARDS: [Target; 2] = [Target::Arm64, Target::Armhf];

/// An emulated node may be as slow as it likes, but not for ever.
const DISCOVERED_WITHIN: Duration = Duration::from_secs(60);

/// Tests programs for ARM boards under emulation: unit tests, and nodes that work together with one of this machine.
#[derive(FromArgs)]
#[argh(subcommand, name = "emulate")]
pub struct Emulate {
    /// only this target; may be repeated (default: arm64 and armhf)
    #[argh(option)]
    target: Vec<Target>,
    /// play with the programs in `<folder>/<triple>/`, such as those that ship, instead of building some; no unit tests then
    #[argh(option)]
    binaries: Option<PathBuf>,
    /// count instructions of release builds instead, also of amd64 for comparison
    #[argh(switch)]
    count: bool,
}

/// Runs what was asked for.
pub fn run(args: &Emulate) -> Result<()> {
    let every = if args.count { Target::ALL.to_vec() } else { BOARDS.to_vec() };
    let targets = if args.target.is_empty() { every } else { args.target.clone() };
    if args.count {
        let toolchain = Toolchain::find(&targets, Purpose::Ships)?;
        return count::run(&targets, &native()?, |target| match &args.binaries {
            Some(folder) => Ok(Binaries::in_folder(&folder.join(target.triple()))),
            None => build::binaries(&toolchain, target, Profile::Release),
        });
    }
    match &args.binaries {
        Some(folder) => {
            set_up::programs(&emulators(&targets))?;
            let built: Vec<_> =
                targets.iter().map(|target| (*target, Binaries::in_folder(&folder.join(target.triple())))).collect();
            play(&built)
        }
        None => all(&targets),
    }
}

/// Builds and runs everything for some targets, and looks at their packages.
pub fn all(targets: &[Target]) -> Result<()> {
    set_up::programs(&emulators(targets))?;
    let toolchain = match Toolchain::find(targets, Purpose::Tests) {
        Ok(toolchain) => toolchain,
        Err(_) => {
            set_up::programs(&[("pip3", "python3-pip")])?;
            toolchain::set_up(Versions::LockedOrCurrent, None)?;
            Toolchain::find(targets, Purpose::Tests)?
        }
    };
    for target in targets {
        unit_tests(&toolchain, *target)?;
    }
    let build = |target: &Target| Ok((*target, build::binaries(&toolchain, *target, Profile::Emulated)?));
    let built = targets.iter().map(build).collect::<Result<Vec<_>>>()?;
    play(&built)?;
    packages(&built)
}

/// Packages of these programs, installed into a tree of Debian. What ships differs in optimisation only.
fn packages(built: &[(Target, Binaries)]) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("── packages: not looked at, since installing them into a tree of Debian takes root");
        return Ok(());
    }
    let kinds = Kinds::only("deb");
    set_up::programs(&check::needed(&kinds))?;
    let dir = toolchain::dir()?.join("packages");
    dist::pack(&dir, built, &kinds)?;
    let targets: Vec<Target> = built.iter().map(|(target, _)| *target).collect();
    check::run(&dir, &targets, &kinds)
}

fn emulators(targets: &[Target]) -> Vec<(&'static str, &'static str)> {
    targets.iter().map(|target| (target.qemu(), "qemu-user-static")).collect()
}

fn unit_tests(toolchain: &Toolchain, target: Target) -> Result<()> {
    let mut command = build::cargo(toolchain, "test", target, Profile::Emulated, &build::build_dir()?)?;
    // The examples in the documentation would be compiled by the rustdoc of this machine.
    command.args(["--quiet", "--lib", "--tests"]).args(TESTED.iter().flat_map(|package| ["-p", package]));
    let runner = format!("CARGO_TARGET_{}_RUNNER", target.triple().replace('-', "_").to_uppercase());
    command.env(runner, target.qemu());
    step(&format!("unit tests of {} on {target}", TESTED.join(" and ")), &mut command)
}

/// Plays the story with each target as the one that publishes and as the one that fetches, is killed and goes on.
fn play(built: &[(Target, Binaries)]) -> Result<()> {
    let native = native()?;
    let mut emulated = Vec::new();
    for (target, binaries) in built {
        emulated.push((*target, wrapped(*target, binaries)?));
    }
    let next = |n: usize| &emulated[(n + 1) % emulated.len()];
    for (n, (target, programs)) in emulated.iter().enumerate() {
        let (other, others) = next(n);
        println!("\n══ {target} publishes, this machine looks on, {other} fetches");
        one(Cast { programs: [programs.clone(), native.clone(), others.clone()], ..cast(&native) })?;
        println!("\n══ this machine publishes, {other} looks on, {target} fetches");
        one(Cast { programs: [native.clone(), others.clone(), programs.clone()], ..cast(&native) })?;
    }
    Ok(())
}

/// Programs of this machine.
fn native() -> Result<Programs> {
    step("binaries", cargo().args(["build", "--locked", "--quiet", "-p", "bib-node", "-p", "bib-cli"]))?;
    Programs::in_dir(&target_dir()?.join("debug"))
}

fn cast(programs: &Programs) -> Cast {
    Cast {
        programs: [programs.clone(), programs.clone(), programs.clone()],
        csv_len: 4 << 20,
        noise_len: 48 << 20,
        discovered_within: DISCOVERED_WITHIN,
    }
}

fn one(cast: Cast) -> Result<()> {
    let start = Instant::now();
    demo::tell(&cast)?;
    println!("\n   told in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Programs for another machine as programs of this one: scripts that become the emulator.
fn wrapped(target: Target, binaries: &Binaries) -> Result<Programs> {
    let dir = toolchain::dir()?.join("emulated").join(target.triple());
    std::fs::create_dir_all(&dir).during(format!("make {}", dir.display()))?;
    for (name, program) in binaries.named() {
        let program = program.canonicalize().during(program.display())?;
        write_script(&dir.join(name), &format!("exec {} {} \"$@\"", target.qemu(), quoted(&program)))?;
    }
    Programs::in_dir(&dir)
}

fn write_script(path: &Path, line: &str) -> Result<()> {
    std::fs::write(path, format!("#!/bin/sh\n{line}\n")).during(path.display())?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).during(path.display())
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}
