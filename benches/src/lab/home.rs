//! One user and the folders of one node, with an environment of their own.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::Programs;
use super::node::Node;
use super::process::{Ran, finish};
use crate::failure::{During, Failure, Result};

/// A user with a home, a key or none, and a node or none.
#[derive(Debug)]
pub struct Home {
    programs: Programs,
    dir: PathBuf,
}

impl Home {
    pub(super) fn create(programs: Programs, dir: PathBuf) -> Result<Self> {
        for name in ["run", "work", "config/bib", "data"] {
            std::fs::create_dir_all(dir.join(name)).during(format!("make {}", dir.join(name).display()))?;
        }
        let home = Self { programs, dir };
        home.configure("")?;
        let text = format!("node.default = {:?}\n", format!("unix:{}", home.socket().display()));
        std::fs::write(home.path("config/bib/bib.toml"), text).during("write bib.toml")?;
        Ok(home)
    }

    /// A path below it.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    /// A path in the folder in which its commands run.
    pub fn work(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join("work").join(name)
    }

    /// The control socket of its node.
    pub fn socket(&self) -> PathBuf {
        self.path("run/bib/bibd.sock")
    }

    /// The data directory of its node.
    pub fn data_dir(&self) -> PathBuf {
        self.path("data/bib")
    }

    /// Where its node writes its log.
    pub fn log(&self) -> PathBuf {
        self.path("bibd.log")
    }

    /// Writes the configuration of its node: loopback only, any port, and what `more` says.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn configure(&self, more: &str) -> Result<()> {
        self.configure_port(0, more)
    }

    /// As [`Home::configure`], on a certain port.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn configure_port(&self, port: u16, more: &str) -> Result<()> {
        let path = self.path("config/bib/bibd.toml");
        // The folders are named because root's are others than those of a user.
        let text = format!(
            "p2p.listen = [\"/ip4/127.0.0.1/tcp/{port}\"]\nstorage.data_dir = {:?}\ncontrol.socket = {:?}\n{more}\n",
            self.data_dir(),
            self.socket()
        );
        std::fs::write(&path, text).during(format!("write {}", path.display()))
    }

    /// A program in its environment, not started yet.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", &self.dir).env("XDG_CONFIG_HOME", self.path("config"));
        command.env("XDG_DATA_HOME", self.path("data")).env("XDG_RUNTIME_DIR", self.path("run"));
        command.current_dir(self.path("work")).stdin(Stdio::null());
        command
    }

    /// `bibd`, not started yet.
    pub fn bibd(&self) -> Command {
        self.command(&self.programs.bibd)
    }

    /// Starts its node and waits until it answers.
    ///
    /// # Errors
    /// When it ends before or does not answer.
    pub fn start(&self) -> Result<Node> {
        Node::start(self)
    }

    /// A command of `bib`, not started yet.
    pub fn bib_command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.command(&self.programs.bib);
        command.args(args);
        command
    }

    /// Runs `bib` to its end, whatever that is.
    ///
    /// # Errors
    /// When it cannot be started or hangs.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Ran> {
        finish(self.bib_command(args), b"")
    }

    /// Runs `bib` to its end with something on stdin.
    ///
    /// # Errors
    /// When it cannot be started or hangs.
    pub fn run_with_stdin<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>, stdin: &[u8]) -> Result<Ran> {
        let mut command = self.bib_command(args);
        command.stdin(Stdio::piped());
        finish(command, stdin)
    }

    /// Runs `bib`, which must end well.
    ///
    /// # Errors
    /// When it does not.
    pub fn bib<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Ran> {
        self.run(args)?.ok()
    }

    /// Runs `bib --json`, which must end well, and returns what it printed.
    ///
    /// # Errors
    /// When it does not end well or prints something else.
    pub fn json<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Value> {
        let args: Vec<S> = args.into_iter().collect();
        let args = args.iter().map(AsRef::as_ref).chain([OsStr::new("--json")]);
        self.bib(args)?.json()
    }

    /// A figure of `bib status`.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn figure(&self, name: &str) -> Result<u64> {
        self.json(["status"])?[name].as_u64().ok_or_else(|| Failure(format!("`bib status` has no figure `{name}`")))
    }
}
