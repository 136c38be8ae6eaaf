//! Runs commands as root of a user namespace, in which programs of the image's architecture run as well.
//!
//! The kernel gives each user namespace its own binfmt_misc (since Linux 6.7), so nothing is registered on the machine
//! itself, nothing is mounted on it, and who runs this need not be root.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use bib_benches::failure::During;
use bib_benches::{Failure, Result};

/// Where Debian's qemu-user-static says how the kernel knows arm64 programs.
const REGISTRATION: &str = "/usr/lib/binfmt.d/qemu-aarch64.conf";
/// Where the kernel shows that it is told so already.
const REGISTERED: &str = "/proc/sys/fs/binfmt_misc/qemu-aarch64";

/// Waits until ids are mapped, then runs the command. `BINFMT` is what to register, or empty. It is the first process of
/// its own numbering: when it ends, because the command did or because its input did, everything in there is gone.
const INSIDE: &str = r#"echo mapped?; read -r _
set -e
mount -t proc proc /proc
if [ -n "$BINFMT" ]; then
    mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
    printf %s "$BINFMT" >/proc/sys/fs/binfmt_misc/register
fi
trap 'exit 130' TERM
exec 3<&0
(read -r _ <&3 || kill -TERM $$ 2>/dev/null) &
"$@" </dev/null 3<&- &
wait $!"#;

/// How arm64 programs run here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    registration: String,
}

impl Namespace {
    /// Finds out what this machine needs for arm64.
    pub fn for_arm64() -> Result<Self> {
        if cfg!(target_arch = "aarch64") || Path::new(REGISTERED).exists() {
            return Ok(Self { registration: String::new() });
        }
        let registration = std::fs::read_to_string(REGISTRATION)
            .map_err(|_| Failure(format!("{REGISTRATION} is not there: apt-get install qemu-user-static")))?;
        Ok(Self { registration: registration.trim().to_owned() })
    }

    /// Runs a command in it, with its output shown.
    pub fn run<S: AsRef<OsStr>>(&self, name: &str, env: &[(&str, &str)], args: &[S]) -> Result<()> {
        eprintln!("── {name}");
        let is_root = rustix::process::geteuid().is_root();
        let mut command = Command::new("unshare");
        command.args(["--user", "--mount", "--pid", "--fork", "--uts", "--ipc", "--kill-child"]);
        if !is_root {
            command.args(["--map-root-user", "--map-auto"]);
        }
        command.args(["sh", "-c", INSIDE, "sh"]).args(args).env("BINFMT", &self.registration);
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").envs(env.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().during("start unshare (of util-linux)")?;
        let mut out = BufReader::new(child.stdout.take().ok_or("no output of unshare")?);
        let mut line = String::new();
        out.read_line(&mut line).during("wait for the namespace")?;
        if line.is_empty() {
            return Err(Failure(format!("{name}: there is no namespace: {}", hint(is_root))));
        }
        if is_root {
            // Without an entry in /etc/subuid root has no range for newuidmap, and needs none.
            for map in ["uid_map", "gid_map"] {
                let path = format!("/proc/{}/{map}", child.id());
                std::fs::write(&path, "0 0 65536\n").during(format!("write {path}"))?;
            }
        }
        // Held open until the end, which is how the other side learns of one that comes too soon.
        let mut begin = child.stdin.take().ok_or("no input of unshare")?;
        begin.write_all(b"\n").during("begin")?;
        // What it says goes where all else goes that is said on the way.
        std::io::copy(&mut out, &mut std::io::stderr()).during("pass on what it says")?;
        let status = child.wait().during(name)?;
        drop(begin);
        if status.success() { Ok(()) } else { Err(Failure(format!("{name} failed ({status})"))) }
    }
}

fn hint(is_root: bool) -> &'static str {
    if is_root {
        "the kernel must allow user namespaces"
    } else {
        "apt-get install uidmap, and have a range in /etc/subuid and /etc/subgid"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without an architecture of its own: what a namespace needs of the kernel is not everywhere.
    fn inside(script: &str) -> std::process::Child {
        let mut command = Command::new("sh");
        // The first process is this one, and there is nothing to mount.
        let inside = INSIDE.replace("mount -t proc proc /proc", ":");
        command.args(["-c", &inside, "sh", "sh", "-c", script]).env("BINFMT", "");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn the_command_ends_as_it_likes() {
        let mut child = inside("exit 7");
        child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        // Not `wait` alone, which would close the input.
        let begin = child.stdin.take();
        assert_eq!(child.wait().unwrap().code(), Some(7));
        drop(begin);
    }

    #[test]
    fn it_ends_when_who_started_it_is_gone() {
        let mut child = inside("exec tail --pid=$PPID -f /dev/null");
        let mut begin = child.stdin.take().unwrap();
        begin.write_all(b"\n").unwrap();
        drop(begin);
        assert_eq!(child.wait().unwrap().code(), Some(130));
    }
}
