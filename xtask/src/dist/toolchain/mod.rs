//! What builds for other machines: Rust's standard library for the target, and a C compiler and linker for it.
//!
//! Rust comes from rustup, where it has the target, or from Debian's packages, which bring the library's source along.
//! C compiler and linker are zig's, used through cargo-zigbuild. What [`set_up`] fetches is locked by `cross/*.lock` and
//! lies below `target/cross`; with it, the same sources give the same programs on every machine.
//!
//! Deliberately absent: installing anything outside of the build folder.

mod debian;
mod python;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use bib_benches::failure::During;
use bib_benches::{Failure, Result};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

use super::target::Target;
use crate::process::{output, target_dir};

pub use debian::Versions;
pub use python::Zig;

/// Everything that a build for other machines needs.
#[derive(Debug)]
pub struct Toolchain {
    rust: Rust,
    zig: Zig,
}

/// Where the standard library for the target comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rust {
    /// It was built by others, and lies beside the compiler that runs this program.
    Installed {
        /// The folder of that compiler.
        sysroot: PathBuf,
    },
    /// It is built from its source, with the compiler of Debian.
    Source {
        /// The folder that Debian's packages were unpacked to.
        prefix: PathBuf,
    },
}

/// What programs are built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// People will run them: only what is locked, or what the developer installed, builds them.
    Ships,
    /// Tests will.
    Tests,
}

impl Toolchain {
    /// What is there for these targets: the locked compilers first, since only they give the same bytes everywhere.
    pub fn find(targets: &[Target], purpose: Purpose) -> Result<Self> {
        let dir = dir()?;
        let zig = python::locked(&dir)?;
        match (debian::find(&dir, purpose)?, zig) {
            (Some(prefix), Some(zig)) => Ok(Self { rust: Rust::Source { prefix }, zig }),
            (_, zig) => match (installed(targets)?, zig.or_else(python::in_path)) {
                (Some(rust), Some(zig)) => Ok(Self { rust, zig }),
                (rust, zig) => Err(Failure(missing(targets, rust.is_some(), zig.is_some()))),
            },
        }
    }

    /// Where the standard library comes from.
    pub fn rust(&self) -> &Rust {
        &self.rust
    }

    /// The compiler that it uses instead of the one that runs this program.
    pub fn rustc(&self) -> Option<PathBuf> {
        match &self.rust {
            Rust::Installed { .. } => None,
            Rust::Source { prefix } => Some(debian::rustc(prefix)),
        }
    }

    /// The C compiler and linker.
    pub fn zig(&self) -> &Zig {
        &self.zig
    }
}

/// Fetches what is missing; `versions` says which packages of Debian are taken.
pub fn set_up(versions: Versions, mirror: Option<&str>) -> Result<()> {
    let dir = dir()?;
    std::fs::create_dir_all(&dir).during(format!("make {}", dir.display()))?;
    let lock = std::fs::File::create(dir.join("lock")).during("make a lock file")?;
    // Two that fetch at once would write the same files.
    flock(&lock, FlockOperation::LockExclusive).during("lock the toolchain")?;
    python::set_up(&dir)?;
    debian::set_up(&dir, versions, mirror)
}

/// The folder of what is fetched and built for other machines.
pub fn dir() -> Result<PathBuf> {
    Ok(target_dir()?.join("cross"))
}

/// The compiler that runs this program, if it has the standard library of all targets.
fn installed(targets: &[Target]) -> Result<Option<Rust>> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    for target in targets {
        let asked = output(Command::new(&rustc).args(["--print", "target-libdir", "--target", target.triple()]));
        // Without a compiler, or for a target that it does not know: there is none installed.
        let Ok(asked) = asked else { return Ok(None) };
        let has_std = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with("libstd-");
        let entries = std::fs::read_dir(asked.trim()).into_iter().flatten().flatten();
        if !entries.into_iter().any(|entry| has_std(&entry)) {
            return Ok(None);
        }
    }
    let sysroot = output(Command::new(&rustc).args(["--print", "sysroot"]))?;
    Ok(Some(Rust::Installed { sysroot: sysroot.trim().into() }))
}

fn missing(targets: &[Target], has_rust: bool, has_zig: bool) -> String {
    let triples: Vec<&str> = targets.iter().map(|target| target.triple()).collect();
    let mut text = format!("cannot build for {}:", triples.join(", "));
    if !has_rust {
        text.push_str("\n  the standard library of Rust for it is not there");
    }
    if !has_zig {
        text.push_str("\n  cargo-zigbuild and zig, C compiler and linker, are not there");
    }
    text.push_str(
        "\nhint: `cargo xtask dist --set-up` fetches what is missing to the build folder (Debian and PyPI, 220 MB)",
    );
    text.push_str(&format!("\n      or, with rustup: `rustup target add {}`", triples.join(" ")));
    if !has_zig {
        text.push_str(" and `pip install cargo-zigbuild ziglang`");
    }
    text
}

/// Makes a folder whole or not at all: `fill` writes to another one, which then takes the name.
fn make_whole(dir: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let mut name = OsString::from(dir);
    name.push(".new");
    let new = PathBuf::from(name);
    for old in [&new, dir] {
        match std::fs::remove_dir_all(old) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure(format!("remove {}: {error}", old.display())));
            }
            _ => {}
        }
    }
    std::fs::create_dir_all(&new).during(format!("make {}", new.display()))?;
    fill(&new)?;
    std::fs::rename(&new, dir).during(format!("make {}", dir.display()))
}

/// A short name for a text, so that another text has another folder.
fn tag(text: &str) -> String {
    hex(&Sha256::digest(text))[..12].to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_with_what_to_type() {
        let text = missing(&[Target::Arm64], false, true);
        assert!(text.contains("rustup target add aarch64-unknown-linux-musl"), "{text}");
        assert!(text.contains("cargo xtask dist --set-up"), "{text}");
        assert!(!text.contains("ziglang"), "{text}");
        assert!(missing(&[Target::Armhf], true, false).contains("pip install cargo-zigbuild ziglang"));
    }

    #[test]
    fn folder_is_made_whole_or_not_at_all() {
        let dir = std::env::temp_dir().join(format!("bib-whole-{}", std::process::id()));
        assert!(make_whole(&dir, |_| Err(Failure("the line broke".to_owned()))).is_err());
        assert!(!dir.exists());
        make_whole(&dir, |new| std::fs::write(new.join("a"), "1").during("write")).unwrap();
        assert_eq!(std::fs::read(dir.join("a")).unwrap(), b"1");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
