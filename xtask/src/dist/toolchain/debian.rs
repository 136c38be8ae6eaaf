//! The compiler for machines that rustup cannot serve: packages of Debian, unpacked to a folder and run with the
//! libraries that came along. apt checks the signatures of the archive, `cross/debian.lock` names the very packages.
//!
//! Nothing of the machine's own apt is touched: lists, cache and settings are in the build folder. Only the address of
//! the mirror is taken from it.

use std::path::{Path, PathBuf};
use std::process::Command;

use bib_benches::failure::During;
use bib_benches::{Failure, Result};
use sha2::{Digest, Sha256};

use super::{Purpose, hex, make_whole, tag};
use crate::process::{output, root, step};

/// The release of Debian whose packages are taken.
const SUITE: &str = "trixie";
/// Who signs it.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The library of the compiler carries the compiler's version in its name; the package that needs it has none.
const NEEDS_VERSIONED: (&str, &str) = ("libstd-rust-web-", "libstd-rust-web-dev");
/// What the locked packages are for.
const HEADER: &str =
    "# The compiler for machines without rustup: packages of Debian 13 (trixie), component main, for an amd64 host.
# `cargo xtask dist --set-up --update-lock` writes this file anew. A line: package, architecture, version, SHA-256.
";

/// Which packages are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Versions {
    /// Those of the lock file, or none.
    Locked,
    /// Those of the lock file, and what the archive has now where these are gone: good for tests, not for what ships.
    LockedOrCurrent,
    /// What the archive has now; the lock file is written anew.
    Update,
}

/// One line of the lock file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Package {
    name: String,
    architecture: String,
    version: String,
    sha256: String,
}

/// The folder with the compiler, if it was fetched; for tests, one of other versions does too.
pub fn find(dir: &Path, purpose: Purpose) -> Result<Option<PathBuf>> {
    let good = match purpose {
        Purpose::Ships => vec![locked(dir)?],
        Purpose::Tests => vec![locked(dir)?, current(dir)],
    };
    Ok(good.into_iter().find(|prefix| prefix.is_dir()))
}

/// The compiler in a folder.
pub fn rustc(prefix: &Path) -> PathBuf {
    prefix.join("rustc")
}

/// Fetches the compiler if it is not there.
pub fn set_up(dir: &Path, versions: Versions, mirror: Option<&str>) -> Result<()> {
    let whole = locked(dir)?;
    if whole.is_dir() && versions != Versions::Update {
        return Ok(());
    }
    if std::env::consts::ARCH != "x86_64" {
        return Err(Failure(format!(
            "the locked compiler is one for amd64, this machine is {}\nhint: use rustup: `rustup target add <triple>`",
            std::env::consts::ARCH
        )));
    }
    let packages = parse(&read_lock()?)?;
    let apt = Apt::new(dir, mirror)?;
    apt.update()?;
    match versions {
        Versions::Update => {
            let packages = apt.current(&packages)?;
            let text: String = packages.iter().map(line).collect();
            let text = format!("{HEADER}{text}");
            let whole = folder(dir, &text);
            make_whole(&whole, |new| apt.unpack(&packages, new, &whole))?;
            let path = lock_file();
            std::fs::write(&path, text).during(path.display())
        }
        Versions::Locked => make_whole(&whole, |new| apt.unpack(&packages, new, &whole)),
        Versions::LockedOrCurrent => {
            let Err(why) = make_whole(&whole, |new| apt.unpack(&packages, new, &whole)) else { return Ok(()) };
            eprintln!("   {why}\n   the newest packages are taken instead");
            let packages = apt.current(&packages)?;
            make_whole(&current(dir), |new| apt.unpack(&packages, new, &current(dir)))
        }
    }
}

fn locked(dir: &Path) -> Result<PathBuf> {
    Ok(folder(dir, &read_lock()?))
}

/// The folder of what a lock file names.
fn folder(dir: &Path, lock: &str) -> PathBuf {
    dir.join(format!("rust-{}", tag(lock)))
}

fn current(dir: &Path) -> PathBuf {
    dir.join("rust-current")
}

fn lock_file() -> PathBuf {
    root().join("cross/debian.lock")
}

fn read_lock() -> Result<String> {
    let path = lock_file();
    std::fs::read_to_string(&path).during(path.display())
}

fn parse(text: &str) -> Result<Vec<Package>> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
            [name, architecture, version, sha256] if sha256.len() == 64 => Ok(Package {
                name: name.to_owned(),
                architecture: architecture.to_owned(),
                version: version.to_owned(),
                sha256: sha256.to_owned(),
            }),
            _ => Err(Failure(format!("cross/debian.lock: `{line}` is not package, architecture, version, SHA-256"))),
        })
        .collect()
}

fn line(package: &Package) -> String {
    format!("{} {} {} {}\n", package.name, package.architecture, package.version, package.sha256)
}

/// An apt of its own.
struct Apt {
    dir: PathBuf,
    config: PathBuf,
}

impl Apt {
    fn new(dir: &Path, mirror: Option<&str>) -> Result<Self> {
        let mirror = match mirror {
            Some(mirror) => mirror.to_owned(),
            None => {
                let form = "$(COMPONENT) $(ORIGIN) $(LABEL) $(REPO_URI)";
                let mut asked = Command::new("apt-get");
                asked.args(["indextargets", "--format", form, "Created-By: Packages"]);
                let shown = output(&mut asked).map_err(|_| not_debian())?;
                mirror_in(&shown).ok_or_else(not_debian)?.to_owned()
            }
        };
        if !Path::new(KEYRING).is_file() {
            return Err(Failure(format!("{KEYRING} is not there\nhint: `apt-get install debian-archive-keyring`")));
        }
        let dir = dir.join("apt");
        for part in ["state/lists/partial", "cache/archives/partial"] {
            std::fs::create_dir_all(dir.join(part)).during("make the folders of apt")?;
        }
        let config = dir.join("apt.conf");
        std::fs::write(dir.join("state/status"), "").during("write the settings of apt")?;
        std::fs::write(dir.join("sources.list"), sources(&mirror)).during("write the settings of apt")?;
        std::fs::write(&config, settings(&dir)).during("write the settings of apt")?;
        Ok(Self { dir, config })
    }

    fn run(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.config).env("LC_ALL", "C");
        command
    }

    fn update(&self) -> Result<()> {
        step("Debian's list of packages", self.run("apt-get").args(["--quiet=2", "update"])).map_err(|failure| {
            Failure(format!("{failure}\nhint: the mirror did not answer; `--mirror <address>` names another one"))
        })
    }

    /// The same packages as the archive has them now.
    fn current(&self, packages: &[Package]) -> Result<Vec<Package>> {
        let mut current = Vec::new();
        for package in packages {
            let mut name = package.name.clone();
            let (prefix, owner) = NEEDS_VERSIONED;
            if name.starts_with(prefix) && name != owner {
                let shown = output(self.run("apt-cache").args(["depends", &format!("{owner}:amd64")]))?;
                let needed = shown.split_whitespace().find(|word| word.starts_with(prefix) && *word != owner);
                if let Some(needed) = needed {
                    name = needed.to_owned();
                }
            }
            let shown = output(self.run("apt-cache").args([
                "show",
                "--no-all-versions",
                &asked(&name, &package.architecture),
            ]))?;
            let field = |key: &str| {
                let found = shown.lines().find_map(|line| line.strip_prefix(key));
                found.map(|value| value.trim().to_owned()).ok_or_else(|| Failure(format!("apt does not know {name}")))
            };
            let (version, sha256) = (field("Version:")?, field("SHA256:")?);
            current.push(Package { name, architecture: package.architecture.clone(), version, sha256 });
        }
        Ok(current)
    }

    /// Fetches packages, checks them, and unpacks them to `new`, which will be called `prefix`.
    fn unpack(&self, packages: &[Package], new: &Path, prefix: &Path) -> Result<()> {
        let debs = self.dir.join("debs");
        std::fs::create_dir_all(&debs).during("make a folder for packages")?;
        let mut download = self.run("apt-get");
        download.current_dir(&debs).args(["--quiet=2", "download"]);
        download.args(packages.iter().map(|p| format!("{}={}", asked(&p.name, &p.architecture), p.version)));
        step(&format!("{} packages of Debian {SUITE}", packages.len()), &mut download).map_err(|failure| {
            Failure(format!(
                "{failure}\nhint: if the mirror does not answer, `--mirror <address>` names another; if it has newer versions only, \
                 `cargo xtask dist --set-up --update-lock` takes them"
            ))
        })?;
        for package in packages {
            let file = debs.join(file_name(package));
            let bytes = std::fs::read(&file).during(file.display())?;
            let sha256 = hex(&Sha256::digest(&bytes));
            if sha256 != package.sha256 {
                // apt would take it for whole again.
                std::fs::remove_file(&file).during(file.display())?;
                return Err(Failure(format!(
                    "{} has the SHA-256 {sha256}, not the locked one; it is removed\nhint: try again to fetch it anew",
                    file.display()
                )));
            }
            step_quietly("dpkg-deb", Command::new("dpkg-deb").arg("-x").arg(&file).arg(new))?;
        }
        let wrapper = new.join("rustc");
        std::fs::write(&wrapper, script(prefix)).during(wrapper.display())?;
        std::fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .during(wrapper.display())?;
        std::fs::remove_dir_all(&debs).during("remove the fetched packages")
    }
}

fn step_quietly(name: &str, command: &mut Command) -> Result<()> {
    output(command).map(drop).map_err(|failure| Failure(format!("{name}: {failure}")))
}

fn asked(name: &str, architecture: &str) -> String {
    if architecture == "all" { name.to_owned() } else { format!("{name}:{architecture}") }
}

/// What apt calls a package that it fetched.
fn file_name(package: &Package) -> String {
    format!("{}_{}_{}.deb", package.name, package.version.replace(':', "%3a"), package.architecture)
}

fn not_debian() -> Failure {
    Failure(
        "the apt of this machine names no mirror of Debian\n\
         hint: name one with `--mirror <address>`, or use rustup: `rustup target add <triple>`"
            .to_owned(),
    )
}

/// The mirror in what `apt-get indextargets` shows: that of the main archive, not that of security updates.
fn mirror_in(shown: &str) -> Option<&str> {
    shown.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (component, uri) = (words.next()?, words.next_back()?);
        let is_main = component == "main" && uri.trim_end_matches('/').ends_with("/debian");
        is_main.then_some(uri)
    })
}

fn sources(mirror: &str) -> String {
    format!("deb [signed-by={KEYRING}] {mirror} {SUITE} main\n")
}

fn settings(dir: &Path) -> String {
    let at = |name: &str| dir.join(name).display().to_string();
    format!(
        "Dir::State \"{}\";\nDir::State::status \"{}\";\nDir::Cache \"{}\";\nDir::Etc::SourceList \"{}\";\n\
         Dir::Etc::SourceParts \"/dev/null\";\nAPT::Architecture \"amd64\";\nAPT::Architectures {{ \"amd64\"; }};\n\
         APT::Sandbox::User \"\";\nAcquire::Retries \"3\";\nAcquire::Languages \"none\";\n",
        at("state"),
        at("state/status"),
        at("cache"),
        at("sources.list"),
    )
}

/// Runs the compiler with the loader and the libraries that came along.
fn script(prefix: &Path) -> String {
    let quoted = format!("'{}'", prefix.display().to_string().replace('\'', r"'\''"));
    format!(
        "#!/bin/sh\np={quoted}\nlib=$p/usr/lib/x86_64-linux-gnu\n\
         exec \"$lib/ld-linux-x86-64.so.2\" --library-path \"$lib\" --argv0 rustc \"$p/usr/bin/rustc\" --sysroot \"$p/usr\" \"$@\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirror_is_that_of_the_main_archive() {
        let shown = "main Debian Debian-Security http://a.example/debian-security/\n\
            stable X X https://b.example/tools/\nmain Debian Debian http://a.example/debian/\n";
        assert_eq!(mirror_in(shown), Some("http://a.example/debian/"));
        assert_eq!(mirror_in("main Ubuntu Ubuntu http://a.example/ubuntu/"), None);
    }

    #[test]
    fn lock_file_is_read_and_written_the_same() {
        let text = read_lock().unwrap();
        let packages = parse(&text).unwrap();
        assert!(packages.iter().any(|package| package.name == "rustc-web"));
        assert_eq!(text, format!("{HEADER}{}", packages.iter().map(line).collect::<String>()));
        for broken in ["rustc-web amd64 1.0", "a b c d", &format!("a b c {} e", "0".repeat(64))] {
            assert!(parse(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn package_is_asked_for_and_found_by_the_names_that_apt_has() {
        let package = |architecture: &str| Package {
            name: "zlib1g".to_owned(),
            architecture: architecture.to_owned(),
            version: "1:1.3".to_owned(),
            sha256: String::new(),
        };
        assert_eq!(file_name(&package("amd64")), "zlib1g_1%3a1.3_amd64.deb");
        assert_eq!(asked("zlib1g", "amd64"), "zlib1g:amd64");
        assert_eq!(asked("rust-web-src", "all"), "rust-web-src");
    }

    #[test]
    fn compiler_is_found_in_a_folder_with_any_name() {
        let script = script(Path::new("/tmp/it's here"));
        let shown = output(Command::new("sh").args(["-c", &script.replace("exec", "echo")])).unwrap();
        assert!(shown.starts_with("/tmp/it's here/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 "), "{shown}");
    }
}
