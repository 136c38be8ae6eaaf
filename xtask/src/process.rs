//! Running other programs and reading what they cost.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bib_benches::failure::During;
use bib_benches::{Failure, Result};

/// The root of the workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned()
}

/// Where cargo builds: above the folder of this program.
pub fn target_dir() -> Result<PathBuf> {
    let program = std::env::current_exe().during("find the own program")?;
    let dir = program.parent().and_then(Path::parent).ok_or("this program lies in no folder")?;
    Ok(dir.to_owned())
}

/// The cargo that runs this program.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Whether a program is in PATH.
pub fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Runs a step with its output shown.
pub fn step(name: &str, command: &mut Command) -> Result<()> {
    eprintln!("── {name}");
    let status = command.stdin(Stdio::null()).status().during(name)?;
    if status.success() { Ok(()) } else { Err(Failure(format!("{name} failed ({status})"))) }
}

/// Runs a command and returns its standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let out = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().during(&shown)?;
    if !out.status.success() {
        return Err(Failure(format!("{shown} failed ({})", out.status)));
    }
    String::from_utf8(out.stdout).during(shown)
}
