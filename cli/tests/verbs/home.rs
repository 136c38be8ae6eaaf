//! A user with a home of their own, in which `bib` runs.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::model_node::ModelNode;

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: Vec<u8>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Fails unless it went well.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:#?}");
        self
    }

    /// Fails unless it ended with this code.
    #[track_caller]
    pub(crate) fn fails(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        assert!(self.stderr.contains("hint"), "every error has a hint: {self:#?}");
        self
    }

    /// Stdout as one JSON value.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }

    /// Stdout as lines of JSON.
    #[track_caller]
    pub(crate) fn json_lines(&self) -> Vec<serde_json::Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// A home, removed in the end.
pub(crate) struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    /// An empty one.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["run", "work", ".config"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    /// One with a key and a node.
    pub(crate) fn with_node() -> (Self, ModelNode) {
        let home = Self::new();
        home.bib(["key", "new"]).ok();
        let node = ModelNode::start(&home.path("run/bib/bibd.sock"));
        (home, node)
    }

    /// As [`Home::with_node`], with the topic `weather`.
    pub(crate) fn with_topic() -> (Self, ModelNode) {
        let (home, node) = Self::with_node();
        home.bib(["topic", "create", "weather", "--description", "Observations"]).ok();
        (home, node)
    }

    /// A path below it.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file below the folder in which commands run.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path("work").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// Reads a file below the folder in which commands run.
    #[track_caller]
    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path("work").join(name)).unwrap()
    }

    /// A command that is not started yet.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bib"));
        command.args(args).env_clear().env("HOME", self.dir.path()).env("XDG_RUNTIME_DIR", self.path("run"));
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.current_dir(self.path("work")).stdin(Stdio::null());
        command
    }

    /// Runs `bib` in the folder `work`.
    pub(crate) fn bib<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        self.finish(self.command(args), b"")
    }

    /// Runs `bib` with something on stdin.
    pub(crate) fn bib_with_stdin<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>, stdin: &[u8]) -> Ran {
        let mut command = self.command(args);
        command.stdin(Stdio::piped());
        self.finish(command, stdin)
    }

    /// Runs a command to its end.
    pub(crate) fn finish(&self, mut command: Command, stdin: &[u8]) -> Ran {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        if let Some(mut pipe) = child.stdin.take() {
            // A command that fails early does not read it all.
            let _ = pipe.write_all(stdin);
        }
        let output = child.wait_with_output().unwrap();
        let text =
            |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&self.dir.path().display().to_string(), "$HOME");
        Ran {
            code: output.status.code().expect("bib ends by itself"),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
            out: output.stdout,
        }
    }
}
