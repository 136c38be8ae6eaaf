//! Builds static programs for another machine, so that the same sources and the same compiler give the same bytes: no
//! path of the machine that builds is in them.

use std::path::{Path, PathBuf};
use std::process::Command;

use bib_benches::Result;
use bib_benches::failure::During;

use super::Binaries;
use super::target::Target;
use super::toolchain::{self, Rust, Toolchain};
use crate::process::{root, step};

/// How much is optimised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// What ships.
    Release,
    /// What tests run under emulation: built quickly, but not so slow that an emulator makes it useless.
    Emulated,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Emulated => "emulated",
        }
    }
}

/// Builds `bibd` and `bib`.
pub fn binaries(toolchain: &Toolchain, target: Target, profile: Profile) -> Result<Binaries> {
    binaries_in(toolchain, target, profile, &build_dir()?)
}

/// Builds them in a folder of their own.
pub fn binaries_in(toolchain: &Toolchain, target: Target, profile: Profile, dir: &Path) -> Result<Binaries> {
    let mut command = programs(toolchain, target, profile, dir)?;
    step(&format!("bibd and bib for {}", target.triple()), &mut command)?;
    Ok(Binaries::in_folder(&dir.join(target.triple()).join(profile.name())))
}

/// What builds them.
pub fn programs(toolchain: &Toolchain, target: Target, profile: Profile, dir: &Path) -> Result<Command> {
    let mut command = cargo(toolchain, "zigbuild", target, profile, dir)?;
    command.args(["--quiet", "-p", "bib-node", "-p", "bib-cli"]);
    Ok(command)
}

/// The folder that cargo builds in: other flags than those of the usual one would build that anew each time.
pub fn build_dir() -> Result<PathBuf> {
    Ok(toolchain::dir()?.join("build"))
}

/// A verb of cargo-zigbuild for a target.
pub fn cargo(toolchain: &Toolchain, verb: &str, target: Target, profile: Profile, dir: &Path) -> Result<Command> {
    let zig = toolchain.zig();
    let mut command = Command::new(&zig.build);
    command.current_dir(root()).args([verb, "--locked", "--target", target.triple(), "--profile", profile.name()]);
    // Of the flags of the environment none counts: they would be in the bytes.
    for (name, _) in std::env::vars_os() {
        if is_flag(&name.to_string_lossy()) {
            command.env_remove(name);
        }
    }
    command.env("CARGO_TARGET_DIR", dir).env("CARGO_ZIGBUILD_CACHE_DIR", toolchain::dir()?.join("zig-cache"));
    if let Some(zig) = &zig.zig {
        command.env("CARGO_ZIGBUILD_ZIG_PATH", zig);
    }
    if let Some(rustc) = toolchain.rustc() {
        command.env("RUSTC", rustc);
        // The standard library is built from its source with the stable compiler.
        command.env("RUSTC_BOOTSTRAP", "1").arg("-Zbuild-std=std,panic_abort,test");
    }
    let paths = Paths::of(toolchain.rust(), dir)?;
    command.env("CARGO_ENCODED_RUSTFLAGS", paths.rust_flags(toolchain.rust(), target).join("\x1f"));
    command.env(format!("CFLAGS_{}", target.triple().replace('-', "_")), paths.c_flags().join(" "));
    Ok(command)
}

/// Whether a variable of the environment changes what compilers make.
fn is_flag(name: &str) -> bool {
    const NAMES: [&str; 6] = ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_INCREMENTAL", "CC", "AR"];
    const BEGIN: [&str; 9] = [
        "CARGO_PROFILE_",
        "CARGO_BUILD_",
        "CARGO_TARGET_",
        "CARGO_UNSTABLE_",
        "CFLAGS",
        "CXXFLAGS",
        "CC_",
        "AR_",
        "TARGET_",
    ];
    NAMES.contains(&name) || BEGIN.iter().any(|begin| name.starts_with(begin))
}

/// Folders of this machine, each with the name that stands for it in the programs.
struct Paths(Vec<(PathBuf, &'static str)>);

impl Paths {
    fn of(rust: &Rust, dir: &Path) -> Result<Self> {
        let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
        let home = home.ok_or("there is no home folder; set CARGO_HOME")?;
        // Later ones win: the build folder may lie in the sources, and the compiler in the build folder.
        let mut paths = vec![(root(), "bib"), (dir.to_owned(), "build"), (home, "cargo")];
        match rust {
            Rust::Installed { sysroot } => paths.push((sysroot.clone(), "rust")),
            // Debian's source is reached by a link, and either path may be the one that shows.
            Rust::Source { prefix } => {
                let source = prefix.join("usr/lib/rustlib/src/rust");
                paths.push((source.canonicalize().during(source.display())?, "rust"));
                paths.push((source, "rust"));
            }
        }
        Ok(Self(paths))
    }

    fn rust_flags(&self, rust: &Rust, target: Target) -> Vec<String> {
        let mut flags: Vec<String> =
            self.0.iter().map(|(path, name)| format!("--remap-path-prefix={}={name}", path.display())).collect();
        if matches!(rust, Rust::Source { .. }) {
            // Start files and libc come from zig: Debian has none for musl.
            flags.push("-Clink-self-contained=no".to_owned());
        }
        if target == Target::Arm64 {
            // The processor of a Raspberry Pi 3 computes wrong addresses in rare sequences, which linkers can avoid.
            flags.push("-Clink-arg=-Wl,--fix-cortex-a53-843419".to_owned());
        }
        flags
    }

    fn c_flags(&self) -> Vec<String> {
        self.0.iter().map(|(path, name)| format!("-ffile-prefix-map={}={name}", path.display())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_the_environment_are_told_from_where_things_are() {
        for flag in
            ["RUSTFLAGS", "CARGO_PROFILE_RELEASE_LTO", "CFLAGS_aarch64-unknown-linux-musl", "CC", "CARGO_TARGET_DIR"]
        {
            assert!(is_flag(flag), "{flag}");
        }
        for place in ["PATH", "HOME", "CARGO_HOME", "CARGO", "HTTPS_PROXY", "CARGO_HTTP_CAINFO", "RUSTUP_HOME"] {
            assert!(!is_flag(place), "{place}");
        }
    }
}
