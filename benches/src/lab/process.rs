//! Processes that do not outlive the lab, and what they did and cost.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::Value;

use super::alive;
use super::figures::{self, Io, Usage};
use crate::failure::{During, Failure, Result};

/// A command that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often the memory of a command is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to stdout, as it is.
    pub out: Vec<u8>,
    /// The same as text.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
    /// From its start to its end.
    pub elapsed: Duration,
    /// What it cost.
    pub usage: Usage,
    /// What it moved.
    pub io: Io,
}

impl Ran {
    /// Itself, if it ended well.
    ///
    /// # Errors
    /// When it did not, with all it said.
    pub fn ok(self) -> Result<Self> {
        if self.code == Some(0) { Ok(self) } else { Err(Failure(format!("a command failed: {self:#?}"))) }
    }

    /// Stdout as one JSON value.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).during(format!("{self:#?}"))
    }

    /// Stdout as lines of JSON.
    ///
    /// # Errors
    /// When a line is none.
    pub fn json_lines(&self) -> Result<Vec<Value>> {
        self.stdout.lines().map(|line| serde_json::from_str(line).during(line)).collect()
    }
}

/// A process that is killed when it is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    pidfd: OwnedFd,
}

impl Running {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        let child = command.spawn().during(format!("start {}", command.get_program().display()))?;
        alive().pids.insert(child.id());
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or("a process without a number")?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).during("open a process")?;
        Ok(Self { child, pidfd })
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process, for its pipes.
    pub const fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits for its end, at most for `within`; `None` when it still runs.
    ///
    /// # Errors
    /// When the kernel cannot say.
    pub fn ended(&mut self, within: Duration) -> Result<Option<(ExitStatus, Usage)>> {
        Ok(self.end(within)?.map(|(status, usage, _)| (status, usage)))
    }

    fn end(&mut self, within: Duration) -> Result<Option<(ExitStatus, Usage, Io)>> {
        let timeout = Timespec {
            tv_sec: i64::try_from(within.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: within.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        if poll(&mut fds, Some(&timeout)).during("wait for a process")? == 0 {
            return Ok(None);
        }
        // It is gone but not yet forgotten.
        let (usage, io) = (figures::usage(self.pid()).unwrap_or_default(), figures::io(self.pid()).unwrap_or_default());
        let status = self.child.wait().during("wait for a process")?;
        alive().pids.remove(&self.child.id());
        Ok(Some((status, usage, io)))
    }

    /// Waits for its end and looks at its memory on the way: the kernel forgets the peak of what has ended.
    fn watch(&mut self, start: Instant) -> Result<Option<(ExitStatus, Usage, Io)>> {
        let mut peak_rss = 0;
        while start.elapsed() < PATIENCE {
            peak_rss = peak_rss.max(figures::usage(self.pid()).map_or(0, |usage| usage.peak_rss));
            if let Some((status, usage, io)) = self.end(LOOK_AGAIN)? {
                return Ok(Some((status, Usage { peak_rss, ..usage }, io)));
            }
        }
        Ok(None)
    }

    /// Kills it at once, as a power cut would, and waits for its end.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        alive().pids.remove(&self.child.id());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a command to its end.
///
/// # Errors
/// When it cannot be started or hangs.
pub fn finish(command: Command, stdin: &[u8]) -> Result<Ran> {
    feed(command, |pipe| pipe.write_all(stdin))
}

/// The same with something on stdin that need not be in memory as a whole.
///
/// # Errors
/// When it cannot be started or hangs.
pub fn feed(mut command: Command, write: impl FnOnce(&mut ChildStdin) -> std::io::Result<()> + Send) -> Result<Ran> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let start = Instant::now();
    let mut running = Running::start(&mut command)?;
    let child = running.child();
    let (mut out, mut err, input) = (child.stdout.take(), child.stderr.take(), child.stdin.take());
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let ended = std::thread::scope(|scope| {
        scope.spawn(|| out.as_mut().map(|pipe| pipe.read_to_end(&mut stdout)));
        scope.spawn(|| err.as_mut().map(|pipe| pipe.read_to_end(&mut stderr)));
        // A command that fails early does not read it all.
        scope.spawn(|| input.map(|mut pipe| write(&mut pipe)));
        let ended = running.watch(start);
        running.kill();
        ended
    })?;
    let elapsed = start.elapsed();
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    let Some((status, usage, io)) = ended else {
        return Err(Failure(format!("{command:?} did not end within {} s: {stderr}", PATIENCE.as_secs())));
    };
    let text = String::from_utf8_lossy(&stdout).into_owned();
    Ok(Ran { code: status.code(), out: stdout, stdout: text, stderr, elapsed, usage, io })
}
