//! Instructions that bib's work costs on each kind of machine: what can be compared where an emulator makes time
//! meaningless. A plugin of the emulator, compiled from `cross/count.c`, counts them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bib_benches::failure::During;
use bib_benches::lab::{Home, Lab, Programs, until};
use bib_benches::{Failure, Result, generate, same};

use super::{quoted, write_script};
use crate::demo::{address, listed};
use crate::dist::Binaries;
use crate::dist::target::Target;
use crate::process::{is_there, root, step};

/// Bytes of the file that is moved.
const LEN: u64 = 32 << 20;
/// No emulated step takes longer.
const PATIENCE: Duration = Duration::from_secs(300);

/// Counts for each target and prints a table.
pub fn run(targets: &[Target], native: &Programs, binaries: impl Fn(Target) -> Result<Binaries>) -> Result<()> {
    let mut rows = Vec::new();
    for target in targets {
        eprintln!("── instructions of {target}");
        rows.push((*target, one(*target, native, &binaries(*target)?)?));
    }
    println!(
        "\n{:<34} {}",
        "instructions",
        rows.iter().map(|(target, _)| format!("{:>15}", target.debian())).collect::<String>()
    );
    for (n, (what, _)) in rows[0].1.iter().enumerate() {
        let cells: String = rows.iter().map(|(_, figures)| format!("{:>15}", figures[n].1)).collect();
        println!("{what:<34} {cells}");
    }
    Ok(())
}

/// What is counted, in words and as a figure.
type Figures = Vec<(&'static str, String)>;

fn one(target: Target, native: &Programs, binaries: &Binaries) -> Result<Figures> {
    let lab = Lab::new(native.clone())?;
    let counted = Counted::new(&lab, target, binaries)?;
    let home = lab.home_with("counted", counted.programs.clone())?;
    let other = lab.home("other")?;
    let millions = |n: u64| format!("{:.1} M", ratio(n, 1_000_000));
    let a_byte = |n: u64| format!("{:.1} a byte", ratio(n, LEN));

    // The first start makes the store; the second is the usual one.
    home.start()?.stop()?;
    counted.take()?;
    let mut node = home.start()?;
    node.stop()?;
    let start = counted.take()?.0;

    node = home.start()?;
    home.bib(["status"])?;
    node.stop()?;
    let status = counted.take()?.1;

    node = home.start()?;
    home.bib(["key", "new"])?;
    home.bib(["topic", "create", "noise", "--description", "Nothing that could be compressed"])?;
    generate::noise(&home.work("noise"), LEN, 1)?;
    home.bib(["publish", "noise", "noise/own"])?;
    node.stop()?;
    let publish = counted.sum()?.saturating_sub(start);

    node = home.start()?;
    home.bib(["get", "noise/own", "-o", "back"])?;
    node.stop()?;
    let get = counted.sum()?.saturating_sub(start);
    same::file(&home.work("back"), &home.work("noise"))?;

    let publisher = other.start()?;
    publish_elsewhere(&other)?;
    node = home.start()?;
    home.bib(["peer", "connect", &address(&other)?])?;
    until("the other's dataset is listed", PATIENCE, || listed(&home, "other/noise@1.0.0"))?;
    home.bib(["get", "other/noise", "-o", "fetched"])?;
    node.stop()?;
    publisher.stop()?;
    let fetch = counted.sum()?.saturating_sub(start);
    same::file(&home.work("fetched"), &other.work("noise"))?;

    Ok(vec![
        ("bibd: start and stop", millions(start)),
        ("bib status, the command alone", millions(status)),
        ("publish 32 MiB, both programs", a_byte(publish)),
        ("get it again, both programs", a_byte(get)),
        ("fetch 32 MiB from a peer and get it", a_byte(fetch)),
    ])
}

fn publish_elsewhere(other: &Home) -> Result<()> {
    other.bib(["key", "new"])?;
    other.bib(["topic", "create", "other", "--description", "What a peer has"])?;
    generate::noise(&other.work("noise"), LEN, 2)?;
    other.bib(["publish", "noise", "other/noise"]).map(drop)
}

/// Programs whose instructions are counted.
struct Counted {
    programs: Programs,
    counts: PathBuf,
}

impl Counted {
    fn new(lab: &Lab, target: Target, binaries: &Binaries) -> Result<Self> {
        // Only the dynamic build of the emulator takes plugins.
        let emulator = target.qemu().trim_end_matches("-static");
        if !is_there(emulator) {
            return Err(Failure(format!("{emulator} is not there\nhint: `apt-get install qemu-user`")));
        }
        let dir = lab.path(target.debian());
        let counts = dir.join("counts");
        std::fs::create_dir_all(&counts).during(format!("make {}", counts.display()))?;
        let plugin = dir.join("count.so");
        let mut compiler = Command::new("cc");
        compiler.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&plugin).arg(root().join("cross/count.c"));
        step("plugin", &mut compiler)?;
        for (name, program) in binaries.named() {
            let program = program.canonicalize().during(program.display())?;
            let out = format!("{}/{name}.$$", counts.display());
            let line = format!("exec {emulator} -plugin {},out=\"{out}\" {} \"$@\"", quoted(&plugin), quoted(&program));
            write_script(&dir.join(name), &line)?;
        }
        Ok(Self { programs: Programs::in_dir(&dir)?, counts })
    }

    /// What the daemon and the command line executed since the last time.
    fn take(&self) -> Result<(u64, u64)> {
        let (mut daemon, mut command) = (0, 0);
        for entry in std::fs::read_dir(&self.counts).during("read the counts")? {
            let path = entry.during("read the counts")?.path();
            let count: u64 = number(&path)?;
            let is_daemon = path.file_stem().is_some_and(|name| name == "bibd");
            *(if is_daemon { &mut daemon } else { &mut command }) += count;
            std::fs::remove_file(&path).during("forget a count")?;
        }
        Ok((daemon, command))
    }

    fn sum(&self) -> Result<u64> {
        self.take().map(|(daemon, command)| daemon + command)
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

fn number(path: &Path) -> Result<u64> {
    let text = std::fs::read_to_string(path).during(path.display())?;
    text.trim().parse().during(path.display())
}
