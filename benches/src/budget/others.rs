//! Programs that others use for backups, from Debian, and the physical yardsticks.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::say;
use crate::failure::{During, Failure, Result};
use crate::lab::{self, Home, Ran};

/// A program with a repository in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tool {
    Restic,
    Borg,
}

/// What a run of a command took, with all it started.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cost {
    pub(super) cpu: Duration,
    pub(super) elapsed: Duration,
    pub(super) to_device: u64,
    pub(super) peak_rss: u64,
}

impl Cost {
    pub(super) fn add(&mut self, other: Self) {
        self.cpu += other.cpu;
        self.elapsed += other.elapsed;
        self.to_device += other.to_device;
        self.peak_rss = self.peak_rss.max(other.peak_rss);
    }
}

/// Runs a command, which must end well, and counts what it and its children took.
pub(super) fn cost(command: Command) -> Result<Cost> {
    cost_of(|| lab::finish(command, b"")?.ok()).map(|(cost, _)| cost)
}

/// The same for a command that something else starts.
pub(super) fn cost_of(run: impl FnOnce() -> Result<Ran>) -> Result<(Cost, Ran)> {
    let (before, start) = (lab::children_cpu()?, Instant::now());
    let ran = run()?;
    let cost = Cost {
        cpu: lab::children_cpu()?.saturating_sub(before),
        elapsed: start.elapsed(),
        to_device: ran.io.to_device,
        peak_rss: ran.usage.peak_rss,
    };
    Ok((cost, ran))
}

impl Tool {
    pub(super) const ALL: [Self; 2] = [Self::Restic, Self::Borg];

    /// As people read it, with what it was told.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Restic => "restic",
            Self::Borg => "borg",
        }
    }

    /// Where it keeps what it stores.
    pub(super) fn repository(self, home: &Home) -> PathBuf {
        home.path(self.name())
    }

    fn command(self, home: &Home) -> Command {
        let mut command = home.command(Path::new(self.name()));
        match self {
            Self::Restic => command.env("RESTIC_PASSWORD", "x").env("RESTIC_REPOSITORY", self.repository(home)),
            // Its repository is not encrypted, as ours; restic's cannot be otherwise.
            Self::Borg => {
                command.env("BORG_REPO", self.repository(home)).env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes")
            }
        };
        command
    }

    pub(super) fn init(self, home: &Home) -> Result<()> {
        let mut command = self.command(home);
        match self {
            // The first version that compresses.
            Self::Restic => command.args(["init", "--repository-version", "2"]),
            Self::Borg => command.args(["init", "-e", "none"]),
        };
        lab::finish(command, b"")?.ok().map(drop)
    }

    /// Stores a file or folder as the version `n`.
    pub(super) fn store(self, home: &Home, path: &Path, n: u64) -> Result<Cost> {
        let mut command = self.command(home);
        match self {
            Self::Restic => command.args(["backup", "--quiet"]).arg(path),
            Self::Borg => command.args(["create", "--compression", "zstd,1", &format!("::v{n}")]).arg(path),
        };
        cost(command)
    }
}

/// Installs what is not there, from Debian.
pub(super) fn install(names: &[(&str, &str)]) -> Result<()> {
    let is_there = |program: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    };
    let missing: Vec<&str> =
        names.iter().filter(|(program, _)| !is_there(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    say(&format!("  installing {} with apt-get", missing.join(", ")));
    let mut command = Command::new("apt-get");
    command.args(["install", "--yes", "--no-install-recommends"]).args(&missing);
    let installed = lab::finish(command, b"").and_then(Ran::ok);
    installed.map(drop).map_err(|Failure(why)| {
        let packages = missing.join(" ");
        Failure(format!("cannot install {packages}: run `apt-get update && apt-get install {packages}` as root\n{why}"))
    })
}

/// Restic, borg and b3sum.
pub(super) fn install_all() -> Result<()> {
    install(&[("restic", "restic"), ("borg", "borgbackup"), ("b3sum", "b3sum")])
}

/// Bytes that the file system gave to a file, or to all below a folder.
pub(super) fn on_disk(path: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let meta = path.symlink_metadata().during(format!("look at {}", path.display()))?;
    let mut total = meta.blocks() * 512;
    if meta.is_dir() {
        for entry in std::fs::read_dir(path).during(format!("read {}", path.display()))? {
            total += on_disk(&entry.during(format!("read {}", path.display()))?.path())?;
        }
    }
    Ok(total)
}
