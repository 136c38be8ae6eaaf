//! Start, stop and the signals between.

use std::process::Stdio;
use std::time::Duration;

use bib_benches::failure::During;
use bib_benches::lab::{Running, until};
use bib_benches::{Failure, Result, generate, same};
use rustix::process::Signal;

use crate::world::{One, PATIENCE, Two, ensure, get, publish, sees, write};

/// A stopping node ends its work within this.
const DRAIN: Duration = Duration::from_secs(30);

#[test]
fn node_stops_when_it_is_asked_and_is_there_again_with_everything() -> Result<()> {
    let mut one = One::start()?;
    let file = write(&one.home, "f", "content")?;
    publish(&one.home, &file, "t/f")?;
    one.home.bib(["admin", "shutdown", "--yes"])?;
    let status = one.node.ended(DRAIN)?;
    ensure(status.success(), || status.to_string())?;
    ensure(!one.home.socket().exists(), || "the socket is left behind".to_owned())?;
    one.node = one.home.start()?;
    same::file(&file, &get(&one.home, "t/f", "out")?)?;
    let status = one.node.stop()?;
    ensure(status.success(), || status.to_string())
}

#[test]
fn node_that_is_stopped_in_the_middle_of_a_publication_ends_in_time() -> Result<()> {
    let mut one = One::start()?;
    generate::noise(&one.home.work("large.bin"), 64 << 20, 1)?;
    let mut command = one.home.bib_command(["publish", "large.bin", "t/large", "--quiet"]);
    let mut publisher = Running::start(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
    until("something is stored", PATIENCE, || Ok((one.home.figure("raw_bytes")? > 0).then_some(())))?;
    one.node.signal(Signal::TERM)?;
    let status = one.node.ended(DRAIN)?;
    ensure(status.success(), || status.to_string())?;
    let (published, _) = publisher.ended(PATIENCE)?.ok_or("bib publish hangs after its node stopped")?;
    one.node = one.home.start()?;
    let known = one.home.run(["dataset", "show", "t/large"])?.code == Some(0);
    ensure(known || !published.success(), || "an acknowledged version is gone".to_owned())
}

#[test]
fn idle_sessions_do_not_hold_up_a_stop() -> Result<()> {
    let two = Two::start()?;
    let session = std::os::unix::net::UnixStream::connect(two.b.socket()).during("connect")?;
    let status = two.node_b.stop()?;
    drop(session);
    ensure(status.success(), || status.to_string())?;
    ensure(two.node_a.usage()?.rss > 0, || "the other node goes on".to_owned())
}

#[test]
fn hangup_reads_the_configuration_again_and_never_kills() -> Result<()> {
    let one = One::start()?;
    let value = |key: &str| -> Result<String> {
        let lines = one.home.bib(["config", "show", "--daemon", "--json"])?.json_lines()?;
        let found = lines.iter().find(|line| line["key"] == key).map(|line| line["value"].to_string());
        found.ok_or_else(|| Failure(format!("there is no setting {key}: {lines:?}")))
    };
    ensure(value("log.level")?.contains("info"), || "info is the default".to_owned())?;
    one.home.configure("log.level = \"debug\"")?;
    one.node.signal(Signal::HUP)?;
    until("the new level is in force", PATIENCE, || Ok(value("log.level")?.contains("debug").then_some(())))?;

    // A wrong file changes nothing.
    one.home.configure("log.level = \"loud\"")?;
    one.node.signal(Signal::HUP)?;
    until("the log names what is wrong", PATIENCE, || {
        let log = std::fs::read_to_string(one.home.log()).during("read the log")?;
        Ok(log.contains("loud").then_some(()))
    })?;
    ensure(value("log.level")?.contains("debug"), || "the old level stays".to_owned())
}

#[test]
fn peers_of_the_configuration_are_connected_again_after_either_side_restarts() -> Result<()> {
    let mut two = Two::start()?;
    let listens = crate::world::address(&two.a)?;
    let port = listens.split('/').nth(4).and_then(|port| port.parse().ok()).ok_or("an address has a port")?;
    two.b.configure(&format!("p2p.peers = [{listens:?}]"))?;
    two.node_b.stop()?;
    two.node_b = two.b.start()?;
    let file = write(&two.a, "1", "one")?;
    publish(&two.a, &file, "t/one")?;
    sees(&two.b, "t/one@1.0.0")?;

    // The other side comes back on the port it had.
    two.node_a.stop()?;
    two.a.configure_port(port, "")?;
    two.node_a = two.a.start()?;
    let file = write(&two.a, "2", "two")?;
    publish(&two.a, &file, "t/two")?;
    sees(&two.b, "t/two@1.0.0").map(|_| ())
}
