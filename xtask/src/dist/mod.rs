//! `cargo xtask dist`: what people install, made so that the same sources and programs give the same bytes.
//!
//! Invariant: nothing depends on the machine that runs this, on the time, or on who runs it.

pub mod build;
pub mod check;
mod contents;
pub mod date;
mod deb;
mod elf;
mod notices;
mod oci;
mod settings;
mod tarball;
pub mod target;
pub mod toolchain;
mod tree;
pub mod unit;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use argh::FromArgs;
use bib_benches::failure::During;
use bib_benches::{Failure, Result, same, show};

use build::Profile;
use date::Date;
use target::Target;
use toolchain::{Purpose, Toolchain, Versions};
use tree::Tree;

/// Version of bib.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// How often this version was packaged anew.
const REVISION: &str = "1";

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
    /// only these kinds: deb, tar, oci, with commas between
    #[argh(option, default = "Kinds::all()")]
    only: Kinds,
    /// make packages of the binaries in `<folder>/<triple>/` instead of building them
    #[argh(option)]
    binaries: Option<PathBuf>,
    /// first fetch the compilers that are missing, to the build folder
    #[argh(switch)]
    set_up: bool,
    /// with --set-up: take the newest compilers and write cross/debian.lock anew
    #[argh(switch)]
    update_lock: bool,
    /// with --set-up: take Debian's packages from here instead of the mirror that apt uses
    #[argh(option, arg_name = "address")]
    mirror: Option<String>,
    /// build once more, in another folder, and compare
    #[argh(switch)]
    twice: bool,
    /// then install, run, upgrade and purge them in a tree of Debian, as root
    #[argh(switch)]
    check: bool,
}

/// Kinds of packages.
pub struct Kinds(Vec<String>);

impl Kinds {
    const ALL: [&str; 3] = ["deb", "tar", "oci"];

    fn all() -> Self {
        Self(Self::ALL.map(str::to_owned).to_vec())
    }

    /// One of them.
    pub fn only(kind: &str) -> Self {
        Self(vec![kind.to_owned()])
    }

    /// Whether it was asked for.
    pub fn has(&self, kind: &str) -> bool {
        self.0.iter().any(|asked| asked == kind)
    }
}

impl FromStr for Kinds {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self> {
        let kinds: Vec<String> = text.split(',').map(str::to_owned).collect();
        match kinds.iter().find(|kind| !Self::ALL.contains(&kind.as_str())) {
            None => Ok(Self(kinds)),
            Some(kind) => Err(Failure(format!("`{kind}` is none of {}", Self::ALL.join(", ")))),
        }
    }
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

    /// Each with its name.
    pub fn named(&self) -> [(&'static str, &Path); 2] {
        [("bibd", &self.bibd), ("bib", &self.bib)]
    }
}

/// The name of the package for Debian.
pub fn deb_name(target: Target) -> String {
    format!("bib_{VERSION}-{REVISION}_{target}.deb")
}

/// The folder that the tarball unpacks to.
pub fn tarball_folder(target: Target) -> String {
    format!("bib-{VERSION}-{}", target.triple())
}

/// The name of the tarball.
pub fn tarball_name(target: Target) -> String {
    format!("{}.tar.gz", tarball_folder(target))
}

/// The name of the image with all architectures.
pub fn oci_name() -> String {
    format!("bib-{VERSION}-oci.tar")
}

/// Makes what was asked for.
pub fn run(args: &Dist) -> Result<()> {
    if !args.set_up && (args.update_lock || args.mirror.is_some()) {
        return Err(Failure("`--update-lock` and `--mirror` say what `--set-up` fetches: add it".to_owned()));
    }
    if args.twice && args.binaries.is_some() {
        return Err(Failure("with `--binaries` nothing is built, so `--twice` has nothing to compare".to_owned()));
    }
    if args.check {
        check::tools(&args.only)?;
    }
    if args.set_up {
        let versions = if args.update_lock { Versions::Update } else { Versions::Locked };
        toolchain::set_up(versions, args.mirror.as_deref())?;
    }
    let mut targets = if args.all { Target::ALL.to_vec() } else { args.target.clone() };
    targets.sort();
    targets.dedup();
    if targets.is_empty() {
        if args.set_up {
            return Ok(());
        }
        return Err(Failure("name a target, such as `--target arm64`, or `--all`".to_owned()));
    }
    let built = targets.iter().map(|target| Ok((*target, binaries(args, *target)?))).collect::<Result<Vec<_>>>()?;
    for (target, binaries) in &built {
        elf::read(&binaries.bib, *target)?;
        elf::read(&binaries.bibd, *target)?;
    }
    pack(&args.out, &built, &args.only)?;
    if args.check { check::run(&args.out, &targets, &args.only) } else { Ok(()) }
}

/// Makes packages of programs, in a folder.
pub fn pack(dir: &Path, built: &[(Target, Binaries)], kinds: &Kinds) -> Result<()> {
    let out = Out { dir, date: date::of_sources()? };
    std::fs::create_dir_all(out.dir).during(format!("make {}", out.dir.display()))?;
    let shared = if kinds.has("deb") || kinds.has("tar") { contents::shared(out.date)? } else { Tree::default() };
    let mut daemons = Vec::new();
    for (target, binaries) in built {
        let target = *target;
        let (bib, bibd) = (elf::read(&binaries.bib, target)?, elf::read(&binaries.bibd, target)?);
        if kinds.has("deb") || kinds.has("tar") {
            let files = contents::of_target(&shared, target, &bib, &bibd)?;
            if kinds.has("deb") {
                out.write(&deb_name(target), &deb(&files, target, out.date)?)?;
            }
            if kinds.has("tar") {
                let archive = tarball::archive(&tarball_folder(target), &files, out.date)?;
                out.write(&tarball_name(target), &archive)?;
            }
        }
        daemons.push((target, bibd));
    }
    if kinds.has("oci") {
        let image = oci::Image { version: VERSION, date: out.date, roots: oci::Roots::of_this_machine()? };
        out.write(&oci_name(), &oci::archive(&image, &daemons)?)?;
    }
    out.sums()
}

fn binaries(args: &Dist, target: Target) -> Result<Binaries> {
    if let Some(folder) = &args.binaries {
        return Ok(Binaries::in_folder(&folder.join(target.triple())));
    }
    let toolchain = Toolchain::find(&[target], Purpose::Ships)?;
    let built = build::binaries(&toolchain, target, Profile::Release)?;
    if args.twice {
        let again = build::binaries_in(&toolchain, target, Profile::Release, &toolchain::dir()?.join("again"))?;
        same::file(&again.bib, &built.bib)?;
        same::file(&again.bibd, &built.bibd)?;
        eprintln!("   built twice for {target}: the same bytes");
    }
    Ok(built)
}

/// The package for Debian, with what only Debian asks for.
fn deb(files: &Tree, target: Target, date: Date) -> Result<Vec<u8>> {
    let mut files = files.clone();
    let version = format!("{VERSION}-{REVISION}");
    let fields = contents::source("packaging/debian/control")?;
    let maintainer = fields.lines().find_map(|line| line.strip_prefix("Maintainer: ")).unwrap_or_default();
    let changelog = format!(
        "bib ({version}) unstable; urgency=medium\n\n  * What changed is in /usr/share/doc/bib/changelog.gz.\n\n -- {maintainer}  {}\n",
        date.rfc2822()
    );
    files.file("usr/share/doc/bib/changelog.Debian.gz", 0o644, tree::gzip(changelog.as_bytes())?);
    files.file("usr/share/doc/bib/copyright", 0o644, contents::source("packaging/debian/copyright")?);
    files.file("usr/share/lintian/overrides/bib", 0o644, contents::source("packaging/debian/lintian-overrides")?);
    let script = |name| Ok((name, contents::source(&format!("packaging/debian/{name}"))?.into_bytes()));
    let scripts = ["postinst", "postrm", "prerm"].into_iter().map(script).collect::<Result<Vec<_>>>()?;
    let control = deb::Control { architecture: target.debian(), version: &version, fields: &fields, scripts: &scripts };
    deb::package(&control, &files, date)
}

/// Where packages go.
struct Out<'a> {
    dir: &'a Path,
    date: Date,
}

impl Out<'_> {
    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.dir.join(name);
        std::fs::write(&path, bytes).during(format!("write {}", path.display()))?;
        println!("{:<52} {:>10}", path.display().to_string(), show::bytes(bytes.len() as u64));
        Ok(())
    }

    /// The hashes of all packages that are there, also of earlier runs.
    fn sums(&self) -> Result<()> {
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(self.dir).during(format!("read {}", self.dir.display()))? {
            let path = entry.during(format!("read {}", self.dir.display()))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_file() && (name.starts_with("bib-") || name.starts_with("bib_")) {
                paths.push(path);
            }
        }
        paths.sort();
        let lines = paths.iter().map(|path| oci::sum_line(path)).collect::<Result<String>>()?;
        let path = self.dir.join("SHA256SUMS");
        std::fs::write(&path, lines).during(format!("write {}", path.display()))
    }
}
