//! A running node.

use std::fs::OpenOptions;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::control::greet;
use super::figures::{self, Io, Usage};
use super::home::Home;
use super::process::Running;
use super::until;
use crate::failure::{During, Failure, Result};

/// A node that has not answered by then will not.
const PATIENCE: Duration = Duration::from_secs(30);

/// A node of a home; killed when it is dropped.
#[derive(Debug)]
pub struct Node {
    running: Running,
    id: String,
    cold_start: Duration,
    log: std::path::PathBuf,
}

impl Node {
    /// Starts the node of a home and waits until it answers.
    pub(super) fn start(home: &Home) -> Result<Self> {
        let log = OpenOptions::new().create(true).append(true).open(home.log()).during("open the log of a node")?;
        let mut command = home.bibd();
        command.stdout(Stdio::null()).stderr(log);
        let start = Instant::now();
        let mut running = Running::start(&mut command)?;
        let socket = home.socket();
        let answer = until("a node that answers", PATIENCE, || {
            if let Some((status, _)) = running.ended(Duration::ZERO)? {
                return Err(Failure(format!("bibd ended ({status})")));
            }
            greet(&socket)
        });
        let cold_start = start.elapsed();
        match answer {
            Ok(id) => Ok(Self { running, id, cold_start, log: home.log() }),
            Err(Failure(text)) => Err(Failure(format!("{text}\n{}", tail(&home.log())))),
        }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// From its start to its first answer.
    pub const fn cold_start(&self) -> Duration {
        self.cold_start
    }

    /// The number of its process.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// What it cost until now.
    ///
    /// # Errors
    /// When it has ended.
    pub fn usage(&self) -> Result<Usage> {
        figures::usage(self.pid())
    }

    /// What it moved until now.
    ///
    /// # Errors
    /// When it has ended.
    pub fn io(&self) -> Result<Io> {
        figures::io(self.pid())
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).ok_or("a process without a number")?;
        kill_process(pid, signal).during("send a signal to a node")
    }

    /// Kills it at once, as a power cut would end the process.
    pub fn kill(mut self) {
        self.kill_now();
    }

    /// As [`Node::kill`], for one that is started again in its place.
    pub fn kill_now(&mut self) {
        self.running.kill();
    }

    /// Asks it to stop and waits for its end.
    ///
    /// # Errors
    /// When it does not end within the time that a drain may take and some more.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.ended(Duration::from_secs(35))
    }

    /// Waits for an end that something else causes.
    ///
    /// # Errors
    /// When it does not come in time.
    pub fn ended(&mut self, within: Duration) -> Result<ExitStatus> {
        match self.running.ended(within)? {
            Some((status, _)) => Ok(status),
            None => Err(Failure(format!("the node still runs after {} s\n{}", within.as_secs(), self.log_tail()))),
        }
    }
}

fn tail(log: &std::path::Path) -> String {
    let text = std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
