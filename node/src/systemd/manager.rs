//! What the service manager is told.

use std::io;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_io::Timer;

use super::opening::Opening;
use crate::config::Surroundings;

/// How long a message waits for a manager that does not read. The event loop sends some of them.
const PATIENCE: Duration = Duration::from_secs(1);
/// Characters of a status line, which people read in one line of a terminal or two.
const MAX_STATUS_LEN: usize = 240;

/// The service manager that started this process, or nobody. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Manager(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    address: SocketAddr,
    /// After how long a silence the process is killed.
    watchdog: Option<Duration>,
    status: Mutex<Status>,
}

/// What people see of the node in `systemctl status`.
#[derive(Debug, Default)]
struct Status {
    /// What it does.
    serving: String,
    /// Why it goes on with another configuration than the one on the disk.
    refused: Option<String>,
}

impl Status {
    fn text(&self) -> String {
        match &self.refused {
            None => self.serving.clone(),
            Some(why) => format!("{}; the configuration is wrong and was not taken: {why}", self.serving),
        }
    }
}

/// A text as a line of the protocol can hold it.
fn line(text: &str) -> String {
    let shown: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_STATUS_LEN).collect();
    format!("STATUS={shown}")
}

/// The address that a value of `NOTIFY_SOCKET` means: a path, or with `@` in front a name without a file.
fn address(socket: &str) -> io::Result<SocketAddr> {
    match socket.strip_prefix('@') {
        Some(name) => nameless(name),
        None if socket.starts_with('/') => SocketAddr::from_pathname(socket),
        None => Err(io::Error::new(io::ErrorKind::Unsupported, "neither a path nor an abstract name")),
    }
}

#[cfg(target_os = "linux")]
fn nameless(name: &str) -> io::Result<SocketAddr> {
    use std::os::linux::net::SocketAddrExt;
    SocketAddr::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn nameless(_: &str) -> io::Result<SocketAddr> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no abstract names"))
}

/// After how long a silence the manager kills this process, if it does.
fn watchdog(around: &Surroundings, pid: u32) -> Option<Duration> {
    let is_ours = around.var("WATCHDOG_PID").is_none_or(|ours| ours.parse() == Ok(pid));
    let period = around.var("WATCHDOG_USEC")?.parse().ok().map(Duration::from_micros)?;
    (is_ours && !period.is_zero()).then_some(period)
}

/// The clock by which the manager knows which of two messages is the later one, in microseconds.
fn monotonic() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let (seconds, nanoseconds) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    seconds.unwrap_or_default() * 1_000_000 + nanoseconds.unwrap_or_default() / 1_000
}

impl Manager {
    /// The one that the environment of the process `pid` names.
    pub fn of(around: &Surroundings, pid: u32) -> Self {
        let Some(socket) = around.var("NOTIFY_SOCKET") else { return Self::default() };
        match address(socket) {
            Ok(address) => {
                let watchdog = watchdog(around, pid);
                Self(Some(Arc::new(Inner { address, watchdog, status: Mutex::default() })))
            }
            Err(error) => {
                log::warn!(socket = socket, error:% = error; "the service manager cannot be told anything");
                Self::default()
            }
        }
    }

    /// Whether there is one.
    pub(crate) const fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// The node does something that may take long, until the value is dropped. It is given the time for it as long as
    /// it gets on.
    pub(crate) fn opening(&self, what: &'static str) -> Opening {
        Opening::new(self, what)
    }

    /// Why the process does not start.
    pub fn failed(&self, error: &dyn std::error::Error) {
        self.send(&[&line(&error.to_string())]);
    }

    /// The node answers.
    pub(crate) fn ready(&self, serving: String) {
        let status = self.change(|status| status.serving = serving);
        self.send(&["READY=1", &line(&status)]);
    }

    /// What the node does has changed.
    pub(crate) fn serving(&self, serving: String) {
        let status = self.change(|status| status.serving = serving);
        self.send(&[&line(&status)]);
    }

    /// The configuration is being read again.
    pub(crate) fn reloading(&self) {
        if self.is_there() {
            self.send(&["RELOADING=1", &format!("MONOTONIC_USEC={}", monotonic())]);
        }
    }

    /// It was read, and taken unless there is a reason why not.
    pub(crate) fn reloaded(&self, refused: Option<String>) {
        let status = self.change(|status| status.refused = refused);
        self.send(&["READY=1", &line(&status)]);
    }

    /// The node takes no more work and ends what is begun.
    pub(crate) fn stopping(&self) {
        self.send(&["STOPPING=1", "STATUS=ending what users began"]);
    }

    /// Yields when it is time for [`Manager::alive`]; never if nobody waits for it.
    pub(crate) fn ticks(&self) -> Timer {
        let period = self.0.as_ref().and_then(|inner| inner.watchdog);
        period.map_or_else(Timer::never, |period| Timer::interval(period / 2))
    }

    /// The event loop runs.
    pub(crate) fn alive(&self) {
        self.send(&["WATCHDOG=1"]);
    }

    fn change(&self, change: impl FnOnce(&mut Status)) -> String {
        let Some(inner) = &self.0 else { return String::new() };
        let mut status = inner.status.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut status);
        status.text()
    }

    /// Sends lines as one message.
    pub(super) fn send(&self, lines: &[&str]) {
        let Some(inner) = &self.0 else { return };
        if let Err(error) = send(&inner.address, &lines.join("\n")) {
            log::warn!(message = lines[0], error:% = error; "the service manager was not told something");
        }
    }
}

/// A socket of its own for each message: there are few, and the manager may have made its own anew.
fn send(address: &SocketAddr, message: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.send_to_addr(message.as_bytes(), address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(vars: &[(&str, &str)]) -> Surroundings {
        let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Surroundings { vars, ..Surroundings::default() }
    }

    /// Plays the manager: its socket, and a node's view of it.
    fn played(vars: &[(&str, &str)]) -> (tempfile::TempDir, UnixDatagram, Manager) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let vars = [&[("NOTIFY_SOCKET", path.to_str().unwrap())], vars].concat();
        (dir, socket, Manager::of(&around(&vars), 7))
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut buf = [0; 4096];
        let n = socket.recv(&mut buf).unwrap();
        String::from_utf8(buf[..n].to_vec()).unwrap()
    }

    #[test]
    fn status_says_what_is_served_and_that_the_configuration_is_wrong_until_it_is_right() {
        let (_dir, socket, manager) = played(&[]);
        manager.ready("serving 3 datasets".to_owned());
        assert_eq!(heard(&socket), "READY=1\nSTATUS=serving 3 datasets");
        manager.reloading();
        let said = heard(&socket);
        let time = said.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(time.parse::<u64>().unwrap() <= monotonic() && monotonic() > 0, "{said}");
        manager.reloaded(Some("bibd.toml:3: no\nWATCHDOG=trigger".to_owned()));
        let wrong = "the configuration is wrong and was not taken: bibd.toml:3: no WATCHDOG=trigger";
        assert_eq!(heard(&socket), format!("READY=1\nSTATUS=serving 3 datasets; {wrong}"));
        manager.serving("serving 4 datasets".to_owned());
        assert_eq!(heard(&socket), format!("STATUS=serving 4 datasets; {wrong}"));
        manager.reloaded(None);
        assert_eq!(heard(&socket), "READY=1\nSTATUS=serving 4 datasets");
        manager.reloaded(Some("x".repeat(10_000)));
        assert_eq!(heard(&socket).len(), "READY=1\nSTATUS=".len() + MAX_STATUS_LEN);
    }

    #[test]
    fn manager_without_a_file_is_told_as_well() {
        if cfg!(target_os = "linux") {
            let name = format!("bib-test-{}", std::process::id());
            let socket = UnixDatagram::bind_addr(&nameless(&name).unwrap()).unwrap();
            Manager::of(&around(&[("NOTIFY_SOCKET", &format!("@{name}"))]), 7).alive();
            assert_eq!(heard(&socket), "WATCHDOG=1");
        }
    }

    #[test]
    fn nobody_is_told_nothing_and_nobody_who_is_gone_holds_up_the_node() {
        let nobody = Manager::of(&around(&[("WATCHDOG_USEC", "1000")]), 7);
        assert!(!nobody.is_there());
        nobody.ready(String::new());
        for socket in ["notify", "@", "vsock:2:1234", &"/x".repeat(200)] {
            let manager = Manager::of(&around(&[("NOTIFY_SOCKET", socket)]), 7);
            manager.ready(String::new());
        }
        let (dir, _, manager) = played(&[]);
        drop(dir);
        assert!(manager.is_there());
        manager.alive();
    }

    #[test]
    fn watchdog_is_ours_if_it_names_nobody_else() {
        let period = |vars: &[(&str, &str)]| watchdog(&around(vars), 7);
        assert_eq!(period(&[]), None);
        assert_eq!(period(&[("WATCHDOG_USEC", "30000000")]), Some(Duration::from_secs(30)));
        assert_eq!(period(&[("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", "7")]), Some(Duration::from_secs(30)));
        for vars in
            [[("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", "8")], [("WATCHDOG_USEC", "0"), ("WATCHDOG_PID", "7")]]
        {
            assert_eq!(period(&vars), None, "{vars:?}");
        }
        assert_eq!(period(&[("WATCHDOG_USEC", "soon")]), None);
    }
}
