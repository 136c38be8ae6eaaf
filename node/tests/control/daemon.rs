//! The program `bibd`: arguments and signals.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use bib_core::api::{API_VERSION, ClientFrame};
use bib_core::encode::encode;
use rustix::process::{Pid, Signal, kill_process};

fn bibd(dir: &Path) -> Command {
    bibd_at(dir, &dir.join("data"), &dir.join("bibd.sock"))
}

fn bibd_at(home: &Path, data: &Path, socket: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bibd"));
    command
        .env_clear()
        .env("HOME", home)
        .arg("--data-dir")
        .arg(data)
        .arg("--socket")
        .arg(socket)
        .args(["--listen", "/ip4/127.0.0.1/tcp/0"])
        .stderr(Stdio::piped());
    command
}

/// A running `bibd` whose log is read.
struct Daemon {
    child: Child,
    log: BufReader<std::process::ChildStderr>,
}

impl Daemon {
    fn start(dir: &Path) -> Self {
        let mut child = bibd(dir).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut daemon = Self { child, log };
        daemon.says("listening for users");
        daemon
    }

    /// Reads the log up to a line that has a text.
    fn says(&mut self, text: &str) -> String {
        let mut line = String::new();
        while self.log.read_line(&mut line).unwrap() > 0 {
            if line.contains(text) {
                return line;
            }
            line.clear();
        }
        panic!("the log ends without `{text}`");
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for its end, which must come by itself.
    fn ended(mut self) -> (ExitStatus, String) {
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap(), rest)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It has mostly ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn fails(command: &mut Command) -> (Option<i32>, String) {
    let out = command.output().unwrap();
    (out.status.code(), String::from_utf8(out.stderr).unwrap())
}

#[test]
fn arguments_that_make_no_sense_name_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let (code, said) = fails(bibd(dir.path()).args(["--log-level", "loud"]));
    assert_eq!(code, Some(2));
    assert!(said.contains("flag --log-level: log.level: `loud` is none of"), "{said}");
    let (code, said) = fails(bibd(dir.path()).args(["--peer", "nowhere"]));
    assert_eq!(code, Some(2));
    assert!(said.contains("flag --peer") && said.contains("hint: "), "{said}");
    let (code, said) = fails(bibd(dir.path()).env("BIBD_NODE__MODE", "proxy"));
    assert_eq!(code, Some(2));
    assert!(said.contains("environment BIBD_NODE__MODE") && said.contains("not in this build"), "{said}");
    assert!(!dir.path().join("data").exists(), "nothing was touched");
}

#[test]
fn help_version_and_settings_are_printed() {
    let says = |args: &str| {
        let out = Command::new(env!("CARGO_BIN_EXE_bibd")).args(args.split(' ')).output().unwrap();
        assert!(out.status.success());
        String::from_utf8(out.stdout).unwrap()
    };
    assert!(says("--help").contains("--data-dir"));
    assert_eq!(says("--version"), concat!("bibd ", env!("CARGO_PKG_VERSION"), "\n"));
    assert!(says("--settings").contains("max_bytes = \"auto\""));
    assert!(says("--man bibd").contains(".SS bibd keys recover\n"));
    assert!(says("--man bibd.toml").contains("\\fBstorage.max_bytes\\fR = \"auto\"\n"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(says(&format!("--completions {shell}")).contains("data-dir"), "{shell}");
    }
}

#[test]
fn second_node_on_the_same_folder_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let first = Daemon::start(dir.path());
    let path = |name: &str| dir.path().join(name);
    let (code, said) = fails(&mut bibd_at(dir.path(), &path("data"), &path("other.sock")));
    assert_eq!(code, Some(1));
    assert!(said.contains("belongs to a node that is running"), "{said}");
    let (code, said) = fails(&mut bibd_at(dir.path(), &path("other"), &path("bibd.sock")));
    assert_eq!(code, Some(1));
    assert!(said.contains("another bibd answers on the socket"), "{said}");
    first.signal(Signal::TERM);
    assert!(first.ended().0.success());
}

#[test]
fn asked_twice_it_stops_without_waiting_for_anybody() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path());
    // A user in the middle of an upload would be waited for.
    let mut client = crate::client::Client::over(UnixStream::connect(dir.path().join("bibd.sock")).unwrap());
    client.open(Some(&crate::client::user(1)));
    client.begin_ingest();
    assert_eq!(client.call(bib_core::api::Request::Ping), Ok(Vec::new()));
    daemon.signal(Signal::TERM);
    daemon.says("stopping");
    assert_eq!(client.fails(bib_core::api::Request::Ping), bib_core::api::ErrorCode::Cancelled, "nothing new is begun");
    daemon.signal(Signal::INT);
    let (status, said) = daemon.ended();
    assert!(status.success() && said.contains("stopping at once"), "{said}");
}

#[test]
fn user_who_never_says_anything_does_not_hold_up_a_stop() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    let mut silent = UnixStream::connect(dir.path().join("bibd.sock")).unwrap();
    let mut idle = UnixStream::connect(dir.path().join("bibd.sock")).unwrap();
    let hello = encode(&ClientFrame::Hello { api: API_VERSION });
    std::io::Write::write_all(&mut idle, &[&(hello.len() as u32).to_be_bytes(), hello.as_slice()].concat()).unwrap();
    daemon.signal(Signal::TERM);
    assert!(daemon.ended().0.success());
    let mut rest = Vec::new();
    // Whether by an end or a reset, the session is over.
    let _ = silent.read_to_end(&mut rest);
}

#[test]
fn killed_daemon_is_there_again_on_the_same_socket() {
    let dir = tempfile::tempdir().unwrap();
    let mut id = String::new();
    for _ in 0..3 {
        let mut child = bibd(dir.path()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut daemon = Daemon { child, log };
        let line = daemon.says("identity node=");
        let found = line.split("node=").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().to_owned();
        assert!(id.is_empty() || id == found, "the identity stays");
        id = found;
        daemon.says("listening for users");
        daemon.signal(Signal::KILL);
        assert!(!daemon.ended().0.success());
        assert!(dir.path().join("bibd.sock").exists());
    }
    let daemon = Daemon::start(dir.path());
    daemon.signal(Signal::TERM);
    assert!(daemon.ended().0.success());
}

#[test]
fn commands_without_a_node_take_the_data_directory_and_refuse_one_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let identity = |data: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bibd"));
        command.env_clear().env("HOME", dir.path()).args(["identity", "--data-dir"]).arg(data);
        command.output().unwrap()
    };
    let absent = identity(&data);
    assert_eq!(absent.status.code(), Some(3));
    let said = String::from_utf8(absent.stderr).unwrap();
    assert!(said.starts_with("bibd: there is no data directory") && said.contains("\nhint: "), "{said}");
    std::fs::create_dir(&data).unwrap();
    let before = identity(&data);
    assert!(before.status.success(), "{before:?}");
    let daemon = Daemon::start(dir.path());
    let refused = identity(&data);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("belongs to a node that is running"), "{said}");
    assert!(!Path::new("/proc/locks").exists() || said.contains(&format!("(process {})", daemon.child.id())), "{said}");
    daemon.signal(Signal::TERM);
    assert!(daemon.ended().0.success());
    assert_eq!(identity(&data).stdout, before.stdout);
}
