//! A lab of real processes: homes in which `bib` and `bibd` run as if each were a machine of its own, on loopback.
//!
//! Invariant: whatever a lab started or wrote is gone when it is dropped, or after [`abandon`].
//! Deliberately absent: retries. A condition is awaited with [`until`], which names what it waited for.

mod control;
mod figures;
mod home;
mod node;
mod process;

pub use control::greet;
pub use figures::{Io, Usage, children_cpu, io, reset_peak_rss, threads, usage};
pub use home::Home;
pub use node::Node;
pub use process::{Ran, Running, feed, finish};

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::failure::{During, Result};

/// What is alive, for [`abandon`].
static ALIVE: Mutex<Alive> = Mutex::new(Alive { pids: BTreeSet::new(), dirs: BTreeSet::new() });

#[derive(Debug)]
struct Alive {
    pids: BTreeSet<u32>,
    dirs: BTreeSet<PathBuf>,
}

fn alive() -> MutexGuard<'static, Alive> {
    ALIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills every process of every lab and removes every folder: for a program that must end now.
pub fn abandon() {
    let mut alive = alive();
    for pid in std::mem::take(&mut alive.pids) {
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    for dir in std::mem::take(&mut alive.dirs) {
        // A process that was killed just now may still write; what cannot be removed is left to the system's own.
        let _ = std::fs::remove_dir_all(&dir).or_else(|_| std::fs::remove_dir_all(&dir));
    }
}

/// Where the two programs are.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The command line.
    pub bib: PathBuf,
    /// The daemon.
    pub bibd: PathBuf,
}

impl Programs {
    /// Those in a folder of cargo, such as `target/debug`.
    ///
    /// # Errors
    /// When one of them is not there.
    pub fn in_dir(dir: &Path) -> Result<Self> {
        let program = |name: &str| {
            let path = dir.join(name);
            if path.is_file() {
                Ok(path)
            } else {
                Err(format!("{} is not there: `cargo build -p bib-node -p bib-cli`", path.display()))
            }
        };
        Ok(Self { bib: program("bib")?, bibd: program("bibd")? })
    }
}

/// A folder with homes in it, removed in the end.
#[derive(Debug)]
pub struct Lab {
    programs: Programs,
    dir: tempfile::TempDir,
}

impl Lab {
    /// An empty one in the folder for temporary files. Its path is short, because sockets have to fit below it.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(programs: Programs) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("bib-lab-").tempdir().during("make a temporary folder")?;
        alive().dirs.insert(dir.path().to_owned());
        Ok(Self { programs, dir })
    }

    /// A path in it.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A home: one user, and the folders of one node.
    ///
    /// # Errors
    /// When its folders cannot be made.
    pub fn home(&self, name: &str) -> Result<Home> {
        self.home_with(name, self.programs.clone())
    }

    /// A home with programs of its own, such as those for another machine.
    ///
    /// # Errors
    /// When its folders cannot be made.
    pub fn home_with(&self, name: &str, programs: Programs) -> Result<Home> {
        Home::create(programs, self.path(name))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        alive().dirs.remove(self.dir.path());
    }
}

/// Waits until `check` yields something, at most for `within`; then the failure names `what`.
///
/// Processes tell each other nothing about most of their states, so the condition is looked at again and again, each
/// time after a short rest.
///
/// # Errors
/// When the time is over, and when `check` fails.
pub fn until<T>(what: &str, within: Duration, mut check: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = check()? {
            return Ok(found);
        }
        if start.elapsed() > within {
            return Err(format!("waited {} s in vain: {what}", within.as_secs()).into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
