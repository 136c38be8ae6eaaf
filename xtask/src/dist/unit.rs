//! The unit that runs `bibd` as a service, looked at by systemd itself.
//!
//! `systemd-analyze` reads units of any tree of files and needs no systemd that runs. The package `systemd` has it.

use std::path::Path;
use std::process::{Command, Stdio};

use bib_benches::failure::During;
use bib_benches::{Failure, Result};

use crate::process::{root, target_dir};

/// The unit in the sources.
pub const SOURCE: &str = "packaging/systemd/bibd.service";
/// Where it is installed, below the root.
pub const INSTALLED: &str = "usr/lib/systemd/system/bibd.service";

/// The programs that the unit names.
const PROGRAMS: [&str; 2] = ["usr/bin/bibd", "bin/sh"];
/// The most exposure that is allowed, in tenths, as systemd counts it from 0 to 100.
const MAX_EXPOSURE: u32 = 20;

/// Looks at the unit of the sources, where systemd is there to do it.
pub fn check() -> Result<()> {
    eprintln!("── the unit of the service");
    if !is_there() {
        eprintln!("   not looked at: there is no systemd-analyze (`apt-get install systemd`)");
        return Ok(());
    }
    let path = root().join(SOURCE);
    let unit = std::fs::read_to_string(&path).during(format!("read {}", path.display()))?;
    let dir = target_dir()?.join("unit");
    lay_out(&unit, &dir)?;
    verify(&dir)?;
    eprintln!("   nothing to say; exposure {} of 100", exposure(&dir)?);
    Ok(())
}

/// Whether systemd can look at units here.
pub fn is_there() -> bool {
    let mut command = Command::new("systemd-analyze");
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// What `systemd-analyze` says, on both streams.
fn analyze(root: &Path, args: &[&str]) -> Result<String> {
    let mut command = Command::new("systemd-analyze");
    command.args(args).arg(format!("--root={}", root.display())).arg("bibd.service");
    let out = command.env("LC_ALL", "C.UTF-8").stdin(Stdio::null()).output().map_err(|error| {
        Failure(format!("systemd-analyze looks at the unit, and cannot be run: {error} (`apt-get install systemd`)"))
    })?;
    let said = [out.stdout, out.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    Ok(said)
}

/// Has systemd read the unit that is installed in a tree, with the programs that it names. Whatever is said is a failure:
/// a word that an older systemd does not know is only a warning there.
pub fn verify(root: &Path) -> Result<()> {
    // What other units say is not ours, and a tree that has only the package has none of them.
    let said = analyze(root, &["verify", "--man=no", "--generators=no", "--recursive-errors=no"])?;
    if said.trim().is_empty() { Ok(()) } else { Err(Failure(format!("systemd says of bibd.service: {}", said.trim()))) }
}

/// How much of the system the service could reach, in tenths; more than is allowed is a failure that lists all of it.
pub fn exposure(root: &Path) -> Result<u32> {
    let said = analyze(root, &["security", "--offline=true", "--no-pager"])?;
    let exposure = exposure_in(&said).ok_or_else(|| Failure(format!("systemd counts no exposure: {said}")))?;
    if exposure > MAX_EXPOSURE {
        return Err(Failure(format!("the exposure is {exposure} tenths, {MAX_EXPOSURE} are allowed:\n{said}")));
    }
    Ok(exposure)
}

/// The figure in the last line: `Overall exposure level for bibd.service: 1.5 OK`.
fn exposure_in(said: &str) -> Option<u32> {
    let (_, rest) = said.split_once("Overall exposure level for bibd.service: ")?;
    let (whole, tenth) = rest.split_whitespace().next()?.split_once('.')?;
    Some(whole.parse::<u32>().ok()? * 10 + tenth.parse::<u32>().ok().filter(|tenth| *tenth < 10)?)
}

/// Lays a unit and empty programs with the names that it asks for into a folder, for systemd to look at.
fn lay_out(unit: &str, dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let write = |name: &str, text: &str, mode: u32| {
        let path = dir.join(name);
        let made = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&path, text));
        let made = made.and_then(|()| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)));
        made.during(format!("write {}", path.display()))
    };
    write(INSTALLED, unit, 0o644)?;
    PROGRAMS.iter().try_for_each(|program| write(program, "", 0o755))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str) -> String {
        std::fs::read_to_string(root().join(name)).unwrap()
    }

    /// The value of a key of a unit.
    fn value<'a>(unit: &'a str, key: &str) -> Option<&'a str> {
        unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    }

    fn mib(text: &str) -> u64 {
        text.trim_end_matches("iB").strip_suffix('M').unwrap().parse().unwrap()
    }

    #[test]
    fn systemd_has_nothing_to_say_of_the_unit() {
        if !is_there() {
            eprintln!("not tried: there is no systemd-analyze");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let unit = read(SOURCE);
        lay_out(&unit, dir.path()).unwrap();
        verify(dir.path()).unwrap();
        assert!(exposure(dir.path()).unwrap() > 0);

        lay_out(&unit.replace("WatchdogSec=", "WatchdogSeconds="), dir.path()).unwrap();
        let failure = verify(dir.path()).unwrap_err();
        assert!(failure.0.contains("WatchdogSeconds"), "{failure}");
        lay_out(&unit.replace("CapabilityBoundingSet=", "Nice="), dir.path()).unwrap();
        let failure = exposure(dir.path()).unwrap_err();
        assert!(failure.0.contains("CapabilityBoundingSet=~CAP_SYS_ADMIN"), "{failure}");
        std::fs::remove_file(dir.path().join("usr/bin/bibd")).unwrap();
        assert!(verify(dir.path()).unwrap_err().0.contains("/usr/bin/bibd"));
    }

    #[test]
    fn memory_that_the_kernel_allows_is_twice_what_the_node_keeps_to() {
        let defaults = read("node/src/config/default.toml");
        let limit = defaults.lines().find_map(|line| line.strip_prefix("memory = ")).unwrap();
        assert_eq!(mib(value(&read(SOURCE), "MemoryMax").unwrap()), 2 * mib(limit.trim_matches('"')));
    }

    #[test]
    fn times_of_the_unit_leave_the_node_the_time_that_it_takes() {
        let limits = read("core/src/limits.rs");
        let drain =
            limits.lines().find_map(|line| line.strip_prefix("pub const DRAIN: Duration = Duration::from_secs("));
        let drain: u32 = drain.and_then(|rest| rest.strip_suffix(");")).unwrap().parse().unwrap();
        let unit = read(SOURCE);
        let seconds = |key| value(&unit, key).unwrap().parse::<u32>().unwrap();
        assert!(seconds("TimeoutStopSec") >= 2 * drain, "a slow card syncs for long");
    }

    #[test]
    fn user_of_the_unit_is_the_one_that_is_made_and_has_its_data_as_home() {
        let (unit, user) = (read(SOURCE), read("packaging/systemd/bib.conf"));
        assert_eq!((value(&unit, "User"), value(&unit, "Group")), (Some("bib"), Some("bib")));
        assert_eq!((value(&unit, "StateDirectory"), value(&unit, "RuntimeDirectory")), (Some("bib"), Some("bib")));
        assert_eq!(value(&unit, "Environment"), Some("HOME=/var/lib/bib"));
        let line = user.lines().find(|line| !line.starts_with('#')).unwrap();
        assert!(line.starts_with("u bib - ") && line.contains(" /var/lib/bib "), "{line}");
    }

    #[test]
    fn exposure_is_the_figure_of_the_last_line() {
        assert_eq!(exposure_in("x\n→ Overall exposure level for bibd.service: 1.5 OK 🙂\n"), Some(15));
        assert_eq!(exposure_in("→ Overall exposure level for bibd.service: 10.0 DANGEROUS"), Some(100));
        assert_eq!(exposure_in("Overall exposure level for bibd.service: soon"), None);
    }
}
