//! `bibd` as a service: a test plays the service manager, and its journal.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Nothing that is awaited takes longer on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The manager's side of one service.
struct Played {
    dir: tempfile::TempDir,
    socket: UnixDatagram,
    child: Option<Child>,
}

impl Played {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { dir, socket, child: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bibd"));
        command.env_clear().env("HOME", self.dir.path()).env("NOTIFY_SOCKET", self.path("notify"));
        command.arg("--data-dir").arg(self.path("data")).arg("--socket").arg(self.path("bibd.sock"));
        command.args(["--listen", "/ip4/127.0.0.1/tcp/0"]).stderr(Stdio::null());
        command
    }

    fn start(&mut self, command: &mut Command) {
        self.child = Some(command.spawn().unwrap());
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.as_ref().unwrap().id();
        kill_process(Pid::from_raw(i32::try_from(id).unwrap()).unwrap(), signal).unwrap();
    }

    /// The next message.
    fn hears(&self) -> String {
        let mut buf = [0; 4096];
        let n = self.socket.recv(&mut buf).unwrap();
        String::from_utf8(buf[..n].to_vec()).unwrap()
    }

    /// All messages up to one with this line, that one last.
    fn hears_until(&self, line: &str) -> Vec<String> {
        let mut heard = Vec::new();
        while !heard.last().is_some_and(|last: &String| last.lines().any(|said| said == line)) {
            heard.push(self.hears());
        }
        heard
    }

    fn ended_well(&mut self) {
        assert!(self.child.as_mut().unwrap().wait().unwrap().success());
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It has mostly ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn manager_hears_when_the_node_answers_reloads_and_stops() {
    let mut played = Played::new();
    let settings = played.path("bibd.toml");
    std::fs::write(&settings, "node.name = 'attic'").unwrap();
    played.start(played.command().arg("--config").arg(&settings));

    let opening = played.hears();
    assert_eq!(opening, "EXTEND_TIMEOUT_USEC=60000000\nSTATUS=opening the stores");
    let serving = "STATUS=serving 0 datasets in 0 topics";
    // On a slow disk it asks for more time once more.
    assert_eq!(played.hears_until("READY=1").pop(), Some(format!("READY=1\n{serving}")));
    UnixStream::connect(played.path("bibd.sock")).unwrap();

    std::fs::write(&settings, "node.nome = 'attic'").unwrap();
    played.signal(Signal::HUP);
    let reloading = played.hears();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    let reloaded = played.hears();
    assert!(reloaded.starts_with(&format!("READY=1\n{serving}; the configuration is wrong")), "{reloaded}");
    assert!(reloaded.contains("bibd.toml:1: there is no setting `node.nome`"), "{reloaded}");

    std::fs::write(&settings, "node.name = 'cellar'").unwrap();
    played.signal(Signal::HUP);
    assert!(played.hears().starts_with("RELOADING=1\n"));
    assert_eq!(played.hears(), format!("READY=1\n{serving}"));

    played.signal(Signal::TERM);
    assert!(played.hears().starts_with("STOPPING=1\n"));
    played.ended_well();
}

#[test]
fn watchdog_hears_from_a_node_that_it_waits_for_and_from_no_other() {
    for (whose, is_ours) in [(None, true), (Some("1"), false)] {
        let mut played = Played::new();
        let mut command = played.command();
        command.env("WATCHDOG_USEC", "2000").envs(whose.map(|pid| ("WATCHDOG_PID", pid)));
        played.start(&mut command);
        if is_ours {
            played.hears_until("WATCHDOG=1");
            played.hears_until("WATCHDOG=1");
        } else {
            played.hears_until("READY=1");
        }
        played.signal(Signal::TERM);
        let heard = played.hears_until("STOPPING=1");
        assert!(is_ours || !heard.iter().any(|said| said.contains("WATCHDOG")), "{heard:?}");
        played.ended_well();
    }
}

#[test]
fn manager_hears_why_a_node_does_not_start() {
    let played = Played::new();
    std::fs::write(played.path("bibd.sock"), "in the way").unwrap();
    assert_eq!(played.command().status().unwrap().code(), Some(1));
    played.hears_until("STATUS=opening the stores");
    let why = played.hears();
    assert!(why.starts_with("STATUS=`") && why.ends_with("is there and is not a socket"), "{why}");

    assert_eq!(played.command().args(["--peer", "nowhere"]).status().unwrap().code(), Some(2));
    let why = played.hears();
    assert!(why.starts_with("STATUS=flag --peer: p2p.peers: `nowhere` is not a multiaddr"), "{why}");
}

#[test]
fn start_that_is_not_wanted_any_more_ends_at_once() {
    let mut played = Played::new();
    // Who starts at the same socket holds the folder: this start waits for it.
    let folder = File::open(played.dir.path()).unwrap();
    folder.lock().unwrap();
    played.start(&mut played.command());
    played.hears_until("STATUS=opening the stores");
    played.signal(Signal::TERM);
    let status = played.child.as_mut().unwrap().wait().unwrap();
    assert_eq!(status.signal(), Some(Signal::TERM.as_raw()));
}

/// What a `bibd` that does not start writes to a file that is the journal, or another one.
fn written(dir: &Path, is_journal: bool, args: &[&str]) -> String {
    let path = dir.join("log");
    let log = File::create(&path).unwrap();
    let data = log.metadata().unwrap();
    let inode = data.ino() + u64::from(!is_journal);
    let mut command = Command::new(env!("CARGO_BIN_EXE_bibd"));
    command.env_clear().env("HOME", dir).env("JOURNAL_STREAM", format!("{}:{inode}", data.dev()));
    command.arg("--data-dir").arg(dir.join("data")).args(args).stderr(log);
    assert!(!command.status().unwrap().success());
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn lines_for_the_journal_begin_with_their_priority_and_have_no_time() {
    let dir = tempfile::tempdir().unwrap();
    let in_the_way = dir.path().join("in the way");
    std::fs::write(&in_the_way, "").unwrap();
    let socket = ["--socket", in_the_way.to_str().unwrap()];
    let text = written(dir.path(), true, &socket);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.iter().any(|line| line.starts_with("<6>INFO  identity node=")), "{text}");
    let n = lines.len();
    assert!(lines[n - 2].starts_with("<3>bibd: `") && lines[n - 1].starts_with("<3>hint: "), "{text}");
    assert!(written(dir.path(), true, &["identity", "--data-dir", "/nowhere"]).starts_with("<3>bibd: there is no "));

    let json = ["--config", "log.toml"].map(|arg| if arg == "log.toml" { dir.path().join(arg) } else { arg.into() });
    std::fs::write(&json[1], "log.format = 'json'").unwrap();
    let json = json.each_ref().map(|arg| arg.to_str().unwrap());
    let text = written(dir.path(), true, &[socket, json].concat());
    assert!(text.starts_with("<6>{\"time\":\"") && text.contains("\"message\":\"identity\""), "{text}");
}

#[test]
fn lines_for_others_are_as_ever() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("in the way"), "").unwrap();
    let text = written(dir.path(), false, &["--socket", dir.path().join("in the way").to_str().unwrap()]);
    assert!(text.starts_with("20") && text.contains("Z INFO  identity") && text.contains("\nbibd: `"), "{text}");
    assert!(!text.contains("\n<"), "{text}");
}
