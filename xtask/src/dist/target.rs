//! What bib is built for: one static binary a kind of machine, and how others name that machine.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use bib_benches::{Failure, Result};

/// A kind of machine that there are packages for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Raspberry Pi 3 and newer with a 64-bit system, and most other boards.
    Arm64,
    /// Boards with ARMv7 and a 32-bit system with hardware floats.
    Armhf,
    /// PCs and servers.
    Amd64,
}

impl Target {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Arm64, Self::Armhf, Self::Amd64];

    /// What Rust calls it.
    pub fn triple(self) -> &'static str {
        match self {
            Self::Arm64 => "aarch64-unknown-linux-musl",
            Self::Armhf => "armv7-unknown-linux-musleabihf",
            Self::Amd64 => "x86_64-unknown-linux-musl",
        }
    }

    /// What Debian calls it.
    pub fn debian(self) -> &'static str {
        match self {
            Self::Arm64 => "arm64",
            Self::Armhf => "armhf",
            Self::Amd64 => "amd64",
        }
    }

    /// What container images call it: architecture, and variant where there is one.
    pub fn oci(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Arm64 => ("arm64", Some("v8")),
            Self::Armhf => ("arm", Some("v7")),
            Self::Amd64 => ("amd64", None),
        }
    }

    /// The program that runs its binaries on another machine; Debian has it in `qemu-user-static`.
    pub fn qemu(self) -> &'static str {
        match self {
            Self::Arm64 => "qemu-aarch64-static",
            Self::Armhf => "qemu-arm-static",
            Self::Amd64 => "qemu-x86_64-static",
        }
    }

    /// What a program of Rust that runs on it says its machine is.
    pub fn rust_arch(self) -> &'static str {
        match self {
            Self::Arm64 => "aarch64",
            Self::Armhf => "arm",
            Self::Amd64 => "x86_64",
        }
    }

    /// Class (1 for 32 bit, 2 for 64 bit) and machine in the header of an ELF file.
    pub fn elf(self) -> (u8, u16) {
        match self {
            Self::Arm64 => (2, 183),
            Self::Armhf => (1, 40),
            Self::Amd64 => (2, 62),
        }
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.debian())
    }
}

impl FromStr for Target {
    type Err = Failure;

    /// Takes the name that Debian has, and that of Rust.
    fn from_str(text: &str) -> Result<Self> {
        let named = |target: &Self| [target.debian(), target.triple()].contains(&text);
        Self::ALL.into_iter().find(named).ok_or_else(|| {
            let known: Vec<String> = Self::ALL.iter().map(|t| format!("{} ({})", t.debian(), t.triple())).collect();
            Failure(format!("`{text}` is none of {}", known.join(", ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_named_as_debian_or_rust_does() {
        for target in Target::ALL {
            assert_eq!(target.debian().parse::<Target>().unwrap(), target);
            assert_eq!(target.triple().parse::<Target>().unwrap(), target);
        }
        assert!("riscv64".parse::<Target>().unwrap_err().to_string().contains("armhf"));
    }
}
