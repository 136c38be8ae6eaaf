//! `cargo xtask dist`: what people install, made so that the same sources give the same bytes.

mod elf;
pub mod target;
pub mod unit;

use std::path::{Path, PathBuf};

use argh::FromArgs;
use bib_benches::failure::During;
use bib_benches::{Failure, Result};

use target::Target;

/// Makes packages for boards and PCs: .deb, tarballs and a container image.
#[derive(FromArgs)]
#[argh(subcommand, name = "dist")]
pub struct Dist {
    /// arm64, armhf, amd64 or what Rust calls them; may be repeated
    #[argh(option)]
    target: Vec<Target>,
    /// every target
    #[argh(switch)]
    all: bool,
    /// where the packages go (default: dist)
    #[argh(option, default = "PathBuf::from(\"dist\")")]
    out: PathBuf,
    /// make packages of the binaries in <folder>/<triple>/ instead of building them
    #[argh(option)]
    binaries: Option<PathBuf>,
}

/// The static programs of one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// The daemon.
    pub bibd: PathBuf,
    /// The command line.
    pub bib: PathBuf,
}

impl Binaries {
    /// Those that lie in a folder.
    pub fn in_folder(dir: &Path) -> Self {
        Self { bibd: dir.join("bibd"), bib: dir.join("bib") }
    }
}

/// Makes what was asked for.
pub fn run(args: &Dist) -> Result<()> {
    let targets = if args.all { Target::ALL.to_vec() } else { args.target.clone() };
    if targets.is_empty() {
        return Err(Failure("name a target, such as `--target arm64`, or `--all`".to_owned()));
    }
    for target in targets {
        let binaries = binaries(args, target)?;
        let dir = args.out.join(target.triple());
        std::fs::create_dir_all(&dir).during(format!("make {}", dir.display()))?;
        for (name, path) in [("bib", &binaries.bib), ("bibd", &binaries.bibd)] {
            let to = dir.join(name);
            elf::read(path, target)?;
            std::fs::copy(path, &to).during(format!("copy {} to {}", path.display(), to.display()))?;
        }
    }
    Ok(())
}

fn binaries(args: &Dist, target: Target) -> Result<Binaries> {
    let folder = args.binaries.as_ref().ok_or("say with `--binaries` where the binaries are")?;
    Ok(Binaries::in_folder(&folder.join(target.triple())))
}
