//! What every test begins with.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bib_benches::lab::{Home, Lab, Node, Programs, Ran, until};
use bib_benches::{Failure, Result};
use serde_json::Value;

/// Nothing that is awaited takes longer on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A lab with the programs of this build.
pub(crate) fn lab() -> Result<Lab> {
    let bibd = Path::new(env!("CARGO_BIN_EXE_bibd"));
    Lab::new(Programs::in_dir(bibd.parent().ok_or("bibd lies in a folder")?)?)
}

/// A node with a user who owns the topic `t`.
pub(crate) struct One {
    pub(crate) home: Home,
    pub(crate) node: Node,
    // Behind the node: the folder goes when nothing writes to it any more.
    pub(crate) lab: Lab,
}

impl One {
    pub(crate) fn start() -> Result<Self> {
        Self::configured("")
    }

    /// With more settings in `bibd.toml`.
    pub(crate) fn configured(settings: &str) -> Result<Self> {
        let lab = lab()?;
        let home = lab.home("a")?;
        home.configure(settings)?;
        let node = home.start()?;
        home.bib(["key", "new"])?;
        home.bib(["topic", "create", "t"])?;
        Ok(Self { home, node, lab })
    }
}

/// Two nodes, the second connected to the first; the first has a user who owns the topic `t`.
pub(crate) struct Two {
    pub(crate) a: Home,
    pub(crate) b: Home,
    pub(crate) node_a: Node,
    pub(crate) node_b: Node,
    _lab: Lab,
}

impl Two {
    pub(crate) fn start() -> Result<Self> {
        let One { home: a, node: node_a, lab } = One::start()?;
        let b = lab.home("b")?;
        let node_b = b.start()?;
        b.bib(["peer", "connect", &address(&a)?])?;
        Ok(Self { a, b, node_a, node_b, _lab: lab })
    }
}

/// The address of a node on loopback, with its id.
pub(crate) fn address(home: &Home) -> Result<String> {
    let status = home.json(["status"])?;
    let addresses = status["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let loopback = addresses.into_iter().find(|address| address.starts_with("/ip4/127.0.0.1/tcp/"));
    loopback.map(str::to_owned).ok_or_else(|| Failure(format!("no address on loopback: {status}")))
}

/// Waits until a node knows a version.
pub(crate) fn sees(home: &Home, reference: &str) -> Result<Value> {
    until(&format!("{reference} becomes known"), PATIENCE, || {
        let ran = home.run(["dataset", "show", reference, "--json"])?;
        match ran.code {
            Some(0) => ran.json().map(Some),
            Some(3) => Ok(None),
            _ => ran.ok().map(|_| None),
        }
    })
}

/// Publishes and returns what `bib publish --json` says.
pub(crate) fn publish(home: &Home, path: &Path, reference: &str) -> Result<Value> {
    home.json(["publish", text(path)?, reference])
}

/// Gets a version and returns where it is.
pub(crate) fn get(home: &Home, reference: &str, out: &str) -> Result<PathBuf> {
    home.bib(["get", reference, "-o", out])?;
    Ok(home.work(out))
}

/// Fails unless a command ended with this code, one sentence and a hint, and without a panic.
pub(crate) fn refused(ran: &Ran, code: i32) -> Result<()> {
    let sound = ran.code == Some(code) && ran.stderr.contains("hint") && !ran.stderr.contains("panicked");
    if sound { Ok(()) } else { Err(Failure(format!("a refusal with code {code} and a hint was expected: {ran:#?}"))) }
}

pub(crate) fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Failure(format!("{} is not UTF-8", path.display())))
}

/// Fails with a text unless something holds.
#[track_caller]
pub(crate) fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Failure(format!("{}: {}", std::panic::Location::caller(), otherwise()))) }
}

/// Writes a file below a home's work folder.
pub(crate) fn write(home: &Home, name: &str, bytes: impl AsRef<[u8]>) -> Result<PathBuf> {
    let path = home.work(name);
    let written = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&path, bytes));
    written.map_err(|error| Failure(format!("write {}: {error}", path.display())))?;
    Ok(path)
}
