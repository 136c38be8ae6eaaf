//! zig and cargo-zigbuild, as PyPI has them: programs in wheels, locked by their hashes in `cross/python.lock`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bib_benches::failure::During;
use bib_benches::{Failure, Result};

use super::{make_whole, tag};
use crate::process::{root, step};

/// How cargo is made to use zig.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zig {
    /// cargo-zigbuild.
    pub build: PathBuf,
    /// zig itself, if it is not the one in PATH.
    pub zig: Option<PathBuf>,
}

/// The locked one, if it was fetched.
pub fn locked(dir: &Path) -> Result<Option<Zig>> {
    let fetched = folder(dir)?;
    let zig = Some(fetched.join("ziglang/zig"));
    Ok(fetched.is_dir().then(|| Zig { build: fetched.join("bin/cargo-zigbuild"), zig }))
}

/// The one in PATH.
pub fn in_path() -> Option<Zig> {
    let runs = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let has_zig = runs("zig", &["version"]) || runs("python3", &["-m", "ziglang", "version"]);
    let found = has_zig && runs("cargo-zigbuild", &["--version"]);
    found.then(|| Zig { build: "cargo-zigbuild".into(), zig: None })
}

/// Fetches the locked ones if they are not there.
pub fn set_up(dir: &Path) -> Result<()> {
    if locked(dir)?.is_some() {
        return Ok(());
    }
    if !Command::new("python3").args(["-m", "pip", "--version"]).output().is_ok_and(|out| out.status.success()) {
        return Err(Failure("pip is not there\nhint: `apt-get install python3-pip`".to_owned()));
    }
    make_whole(&folder(dir)?, |new| {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", "--no-deps"]);
        pip.args(["--only-binary", ":all:", "--require-hashes", "--requirement"]).arg(lock_file());
        // It warns root of what `--target` does not do.
        pip.arg("--target").arg(new).env("PIP_ROOT_USER_ACTION", "ignore");
        step("zig and cargo-zigbuild from PyPI", &mut pip)
    })
}

fn folder(dir: &Path) -> Result<PathBuf> {
    let lock = lock_file();
    let text = std::fs::read_to_string(&lock).during(lock.display())?;
    Ok(dir.join(format!("zig-{}", tag(&text))))
}

fn lock_file() -> PathBuf {
    root().join("cross/python.lock")
}
