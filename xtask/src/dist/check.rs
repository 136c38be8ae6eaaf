//! Whether packages do what they are for: each is installed into a tree of Debian, looked at by the tools of those who
//! will take it, upgraded, removed and purged; its programs run there.
//!
//! Programs of another machine run under qemu. All of Debian in the tree is of this machine: scripts of packages are the
//! same for all.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bib_benches::failure::During;
use bib_benches::{Failure, Result};

use super::target::Target;
use super::{Kinds, VERSION, deb_name, oci_name, settings, tarball_folder, tarball_name, unit};
use crate::process::{is_there, output, step, target_dir};

/// What is run, with the package of Debian that has it.
const TOOLS: [(&str, &str); 11] = [
    ("bash", "bash"),
    ("dpkg-deb", "dpkg"),
    ("fish", "fish"),
    ("lintian", "lintian"),
    ("man", "man-db"),
    ("mandoc", "mandoc"),
    ("mmdebstrap", "mmdebstrap"),
    ("qemu-aarch64-static", "qemu-user-static"),
    ("systemd-analyze", "systemd"),
    ("unshare", "util-linux"),
    ("zsh", "zsh"),
];
/// The same for container images.
const IMAGE_TOOLS: [(&str, &str); 2] = [("skopeo", "skopeo"), ("umoci", "umoci")];
/// The release of Debian that packages are tried on.
const SUITE: &str = "bookworm";
/// What of a package may be left when it is purged: what dpkg notes, the user, and data.
const LEFT: [&str; 10] = [
    "/run/adduser",
    "/etc/group",
    "/etc/gshadow",
    "/etc/passwd",
    "/etc/shadow",
    "/etc/.pwd.lock",
    "/etc/subgid",
    "/etc/subuid",
    "/var/lib",
    "/var/log",
];
/// Who the image runs as.
const IMAGE_USER: &str = "65532:65532";

/// Checks the packages of these targets that lie in a folder.
pub fn run(dir: &Path, targets: &[Target], kinds: &Kinds) -> Result<()> {
    tools(kinds)?;
    let base = base()?;
    for target in targets.iter().copied() {
        for (kind, check, name) in [
            ("deb", deb as Check, deb_name(target)),
            ("tar", tarball as Check, tarball_name(target)),
            ("oci", image as Check, oci_name()),
        ] {
            if kinds.has(kind) {
                eprintln!("── {name} for {target}");
                let work = Work::new(&base, &format!("check-{kind}-{target}"))?;
                check(&work, &dir.join(&name), target).map_err(|error| Failure(format!("{name}: {error}")))?;
            }
        }
    }
    Ok(())
}

/// A look at a package of a target in a tree.
type Check = fn(&Work, &Path, Target) -> Result<()>;

/// Programs that a look at these kinds needs, each with the package of Debian that has it.
pub fn needed(kinds: &Kinds) -> Vec<(&'static str, &'static str)> {
    let images: &[_] = if kinds.has("oci") { &IMAGE_TOOLS } else { &[] };
    [&TOOLS, images].concat()
}

/// Whether the look is possible here.
pub fn tools(kinds: &Kinds) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure("packages are installed into a tree of Debian for that, which takes root".to_owned()));
    }
    let missing: BTreeSet<&str> =
        needed(kinds).iter().filter(|(tool, _)| !is_there(tool)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let missing: Vec<&str> = missing.into_iter().collect();
    Err(Failure(format!("this needs tools that are not there: apt-get install {}", missing.join(" "))))
}

/// The least of Debian, as an archive that is kept for the next time.
fn base() -> Result<PathBuf> {
    let dir = target_dir()?.join("dist");
    std::fs::create_dir_all(&dir).during(format!("make {}", dir.display()))?;
    let archive = dir.join(format!("{SUITE}.tar"));
    if archive.exists() {
        return Ok(archive);
    }
    // Beside its name first: what is only begun is not taken for whole.
    let begun = dir.join("begun.tar");
    let mirrors = output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(ORIGIN) $(CODENAME) $(REPO_URI)",
        "Created-By: Packages",
    ]))?;
    let own = mirrors.lines().find_map(|line| line.strip_prefix(&format!("Debian {SUITE} ")));
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--mode=root", "--variant=essential", "--include=adduser,systemd-standalone-sysusers"]);
    command.arg(SUITE).arg(&begun).args(own);
    step("a tree of Debian", &mut command)?;
    std::fs::rename(&begun, &archive).during(format!("rename {}", begun.display()))?;
    Ok(archive)
}

/// A tree that is thrown away.
struct Work {
    root: PathBuf,
}

impl Work {
    fn new(base: &Path, name: &str) -> Result<Self> {
        let root = target_dir()?.join("dist").join(name);
        let work = Self { root };
        work.clear();
        std::fs::create_dir_all(&work.root).during(format!("make {}", work.root.display()))?;
        said(Command::new("tar").arg("-C").arg(&work.root).arg("-xf").arg(base))?;
        Ok(work)
    }

    fn clear(&self) {
        // What is not there needs no removing.
        let _ = std::fs::remove_dir_all(&self.root);
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn read(&self, path: &str) -> Result<String> {
        std::fs::read_to_string(self.path(path)).during(format!("read {path} in the tree"))
    }

    fn write(&self, path: &str, text: &str) -> Result<()> {
        std::fs::write(self.path(path), text).during(format!("write {path} in the tree"))
    }

    fn copy(&self, from: &Path, to: &str) -> Result<()> {
        std::fs::copy(from, self.path(to)).map(|_| ()).during(format!("copy {} into the tree", from.display()))
    }

    /// Runs a program of the tree.
    fn run(&self, line: &[&str]) -> Result<String> {
        said(in_root(&self.root, "0:0").args(line))
    }

    /// Runs a program of a target in the tree.
    fn run_program(&self, target: Target, user: &str, line: &[&str]) -> Result<String> {
        said(program(&self.root, target, user)?.args(line))
    }

    /// All that lies in the tree.
    fn paths(&self) -> Result<BTreeSet<String>> {
        Ok(self.run(&["find", "/", "-xdev"])?.lines().map(str::to_owned).collect())
    }

    /// Owner, group and rights of a path.
    fn owner(&self, path: &str) -> Result<String> {
        Ok(self.run(&["stat", "-c", "%U:%G %a", path])?.trim().to_owned())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A command whose root is a tree.
fn in_root(root: &Path, user: &str) -> Command {
    let mut command = Command::new("chroot");
    command.arg(format!("--userspec={user}")).arg(root).env_clear();
    command
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/var/lib/bib")
        .env("LC_ALL", "C.UTF-8")
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// The same for a program of another machine, which is run by qemu where it must be.
fn program(root: &Path, target: Target, user: &str) -> Result<Command> {
    let mut command = in_root(root, user);
    if std::env::consts::ARCH != target.rust_arch() {
        let qemu = Path::new("/usr/bin").join(target.qemu());
        let to = root.join("qemu");
        std::fs::copy(&qemu, &to).during(format!("copy {} (apt-get install qemu-user-static)", qemu.display()))?;
        command.arg("/qemu");
    }
    Ok(command)
}

/// Runs a command that must not fail, and returns all it said.
fn said(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let out = command.stdin(Stdio::null()).output().during(&shown)?;
    let text = [out.stdout, out.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    if out.status.success() {
        Ok(text)
    } else {
        Err(Failure(format!("{shown} failed ({}): {}", out.status, text.trim())))
    }
}

fn expect(holds: bool, what: impl Into<String>) -> Result<()> {
    if holds { Ok(()) } else { Err(Failure(what.into())) }
}

fn deb(work: &Work, package: &Path, target: Target) -> Result<()> {
    said(
        Command::new("lintian")
            .args(["--allow-root", "--fail-on=error,warning,info", "--tag-display-limit=0"])
            .arg(package),
    )
    .map_err(|error| Failure(format!("lintian: {error}")))?;
    let before = work.paths()?;
    work.run(&["dpkg", "--add-architecture", target.debian()])?;
    // On one kind of machine the older way to make a user is tried.
    if target == Target::Amd64 {
        std::fs::remove_file(work.path("usr/bin/systemd-sysusers")).during("take systemd-sysusers away")?;
    }
    work.copy(package, "bib.deb")?;
    work.run(&["dpkg", "-i", "/bib.deb"])?;
    expect(work.run(&["dpkg", "-V", "bib"])?.trim().is_empty(), "files differ from those of the package")?;
    for (path, owner) in [
        ("/usr/bin/bibd", "root:root 755"),
        ("/usr/bin/bib", "root:root 755"),
        ("/etc/bib/bibd.toml", "root:root 644"),
        ("/var/lib/bib", "bib:bib 700"),
    ] {
        let is = work.owner(path)?;
        expect(is == owner, format!("{path} is of {is}, not {owner}"))?;
    }
    let entry = work.run(&["getent", "passwd", "bib"])?;
    expect(entry.trim().ends_with(":/var/lib/bib:/usr/sbin/nologin"), format!("the user is `{}`", entry.trim()))?;
    let enabled = work.path("etc/systemd/system/multi-user.target.wants/bibd.service");
    expect(enabled.symlink_metadata().is_ok(), "the service is not enabled")?;
    programs(work, target)?;
    unit::verify(&work.root)?;
    pages(work)?;
    completions(work)?;
    let id = settings_are_understood(work, target)?;
    upgrade(work, package)?;
    purge(work, &before)?;
    let key = work.owner("/var/lib/bib/identity.pem")?;
    expect(key == "bib:bib 600", format!("the node's key {id} is of {key} after the purge"))
}

fn programs(work: &Work, target: Target) -> Result<()> {
    for name in ["bib", "bibd"] {
        let version = work.run_program(target, "0:0", &[&format!("/usr/bin/{name}"), "--version"])?;
        expect(version.trim() == format!("{name} {VERSION}"), format!("{name} says `{}`", version.trim()))?;
    }
    Ok(())
}

fn pages(work: &Work) -> Result<()> {
    for page in ["man1/bib.1.gz", "man5/bibd.toml.5.gz", "man8/bibd.8.gz"] {
        let path = work.path(&format!("usr/share/man/{page}"));
        let mut man = Command::new("man");
        // The page itself may have the word in it.
        man.env("LC_ALL", "C.UTF-8").args(["--warnings", "-l"]).arg(&path).stdout(Stdio::null());
        let warnings = said(&mut man)?;
        expect(warnings.trim().is_empty(), format!("{page}: {}", warnings.trim()))?;
        said(Command::new("mandoc").args(["-T", "lint", "-W", "warning"]).arg(&path))?;
    }
    Ok(())
}

fn completions(work: &Work) -> Result<()> {
    for name in ["bib", "bibd"] {
        for (shell, path) in [
            ("bash", format!("usr/share/bash-completion/completions/{name}")),
            ("zsh", format!("usr/share/zsh/vendor-completions/_{name}")),
            ("fish", format!("usr/share/fish/vendor_completions.d/{name}.fish")),
        ] {
            said(Command::new(shell).arg("-n").arg(work.path(&path)))?;
        }
    }
    Ok(())
}

/// Has the daemon read its settings, as they are installed and with all of them set. Returns the node's id.
fn settings_are_understood(work: &Work, target: Target) -> Result<String> {
    let documented = work.read("etc/bib/bibd.toml")?;
    let identity = ["/usr/bin/bibd", "identity", "--data-dir", "/var/lib/bib"];
    let id = work.run_program(target, "bib:bib", &identity)?;
    work.write("etc/bib/bibd.toml", &settings::with_all_set(&documented))?;
    let again = work.run_program(target, "bib:bib", &identity)?;
    expect(id == again, format!("the node was `{}` and is `{}`", id.trim(), again.trim()))?;
    work.write("etc/bib/bibd.toml", &format!("{documented}nonsense = 1\n"))?;
    let refused = work.run_program(target, "bib:bib", &identity);
    expect(refused.is_err_and(|error| error.0.contains("nonsense")), "the installed settings are not read")?;
    work.write("etc/bib/bibd.toml", &documented)?;
    Ok(id.trim().to_owned())
}

/// A newer package with other settings leaves what was edited, and a removed link of the service stays removed.
fn upgrade(work: &Work, package: &Path) -> Result<()> {
    let edited = format!("{}log.level = \"debug\"\n", work.read("etc/bib/bibd.toml")?);
    work.write("etc/bib/bibd.toml", &edited)?;
    let enabled = work.path("etc/systemd/system/multi-user.target.wants/bibd.service");
    std::fs::remove_file(&enabled).during("disable the service")?;
    let newer = work.path("newer");
    said(Command::new("dpkg-deb").arg("-R").arg(package).arg(&newer))?;
    let control = std::fs::read_to_string(newer.join("DEBIAN/control")).during("read the control file")?;
    let control = control.replace(&format!("Version: {VERSION}-"), &format!("Version: {VERSION}+newer-"));
    std::fs::write(newer.join("DEBIAN/control"), control).during("write the control file")?;
    std::fs::write(newer.join("etc/bib/bibd.toml"), "# other\n").during("write settings")?;
    said(
        Command::new("dpkg-deb").args(["--root-owner-group", "-Znone", "-b"]).arg(&newer).arg(work.path("newer.deb")),
    )?;
    work.run(&["dpkg", "--force-confdef", "--force-confold", "-i", "/newer.deb"])?;
    std::fs::remove_dir_all(&newer).during("remove a folder")?;
    expect(work.run(&["dpkg-query", "-W", "bib"])?.contains("+newer-"), "it was not upgraded")?;
    expect(work.read("etc/bib/bibd.toml")? == edited, "settings that were edited did not survive an upgrade")?;
    expect(enabled.symlink_metadata().is_err(), "a service that was disabled is enabled by an upgrade")
}

fn purge(work: &Work, before: &BTreeSet<String>) -> Result<()> {
    work.run(&["dpkg", "--remove", "bib"])?;
    expect(work.path("etc/bib/bibd.toml").exists(), "removing took the settings away")?;
    let words = work.run(&["dpkg", "--purge", "bib"])?;
    expect(words.contains("/var/lib/bib"), format!("purging does not say where the data are: {words}"))?;
    for helper in ["qemu", "bib.deb", "newer.deb"] {
        let _ = std::fs::remove_file(work.path(helper));
    }
    let after = work.paths()?;
    let left: Vec<&String> =
        after.difference(before).filter(|path| !LEFT.iter().any(|begin| path.starts_with(begin))).collect();
    expect(left.is_empty(), format!("left after a purge: {left:?}"))
}

fn tarball(work: &Work, archive: &Path, target: Target) -> Result<()> {
    said(Command::new("tar").arg("-C").arg(work.path("root")).arg("-xzf").arg(archive))?;
    let script = format!("/root/{}/install.sh", tarball_folder(target));
    work.run(&[&script])?;
    programs(work, target)?;
    work.write("etc/bib/bibd.toml", "# mine\n")?;
    work.run(&[&script])?;
    expect(work.read("etc/bib/bibd.toml")? == "# mine\n", "installing again took the settings away")?;
    let owner = work.owner("/usr/lib/systemd/system/bibd.service")?;
    expect(owner == "root:root 644", format!("the unit is of {owner}"))?;
    unit::verify(&work.root)
}

/// Has the tools of others read the image, unpacks it, and runs it as its own first process until it is told to stop.
fn image(work: &Work, archive: &Path, target: Target) -> Result<()> {
    let of_archive = format!("oci-archive:{}:{VERSION}", archive.display());
    let (architecture, variant) = target.oci();
    let mut inspect = Command::new("skopeo");
    inspect.args(["--override-os", "linux", "--override-arch", architecture]);
    if let Some(variant) = variant {
        inspect.args(["--override-variant", variant]);
    }
    let shown = said(inspect.args(["inspect", "--config", &of_archive]))?;
    let config: serde_json::Value = serde_json::from_str(&shown).during("skopeo inspect")?;
    let seen = (config["architecture"].as_str(), config["variant"].as_str(), config["config"]["User"].as_str());
    expect(seen == (Some(architecture), variant, Some(IMAGE_USER)), format!("skopeo sees {seen:?}"))?;
    said(
        Command::new("skopeo")
            .args(["copy", "--all", &of_archive])
            .arg(format!("dir:{}", work.path("copied").display())),
    )?;
    let layout = work.path("layout");
    std::fs::create_dir_all(&layout).during("make a folder")?;
    said(Command::new("tar").arg("-C").arg(&layout).arg("-xf").arg(archive))?;
    let bundle = work.path("bundle");
    let named = format!("{}:{VERSION}-{target}", layout.display());
    said(Command::new("umoci").args(["unpack", "--image", &named]).arg(&bundle))?;
    let rootfs = bundle.join("rootfs");
    let certificates =
        std::fs::read_to_string(rootfs.join("etc/ssl/certs/ca-certificates.crt")).during("read the roots")?;
    expect(certificates.contains("BEGIN CERTIFICATE"), "the image has no roots of certificates")?;
    first_process(&rootfs, target)
}

/// Runs the daemon of an image with number 1 until it listens, then stops it as an engine does.
fn first_process(rootfs: &Path, target: Target) -> Result<()> {
    let inner = program(rootfs, target, IMAGE_USER)?;
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child"]).arg(inner.get_program()).args(inner.get_args());
    command.arg("/usr/bin/bibd").env_clear().env("PATH", "/usr/bin:/usr/sbin:/bin:/sbin");
    command.env("BIBD_STORAGE__DATA_DIR", "/var/lib/bib").env("BIBD_CONTROL__SOCKET", "/run/bib/bibd.sock");
    // Whatever else this machine has on the port of bib.
    command.env("BIBD_P2P__LISTEN", "/ip4/127.0.0.1/tcp/0").stdin(Stdio::null()).stderr(Stdio::piped());
    let mut outer = command.spawn().during("run the image")?;
    let mut log = BufReader::new(outer.stderr.take().ok_or("the log of the image is not there")?);
    let mut seen = String::new();
    while !seen.contains("listening for users") && log.read_line(&mut seen).during("read the log of the image")? > 0 {}
    let children = format!("/proc/{0}/task/{0}/children", outer.id());
    let child = std::fs::read_to_string(&children).during(format!("read {children}"))?;
    let told = said(Command::new("kill").args(["-TERM", child.trim()]));
    // The log ends when the daemon has.
    std::io::Read::read_to_string(&mut log, &mut seen).during("read the log of the image")?;
    let status = outer.wait().during("wait for the image")?;
    told?;
    expect(status.success(), format!("the image ended with {status}: {seen}"))?;
    expect(rootfs.join("var/lib/bib/identity.pem").exists(), format!("the image kept nothing: {seen}"))
}
