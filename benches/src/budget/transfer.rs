//! One large file: published, fetched, and what that costs on both sides; beside other programs in the same run.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bib_core::limits::DEFAULT_CHUNK_AVG;

use super::{Bench, GIB, per_gib, rate, say};
use crate::failure::{During, Failure, Result};
use crate::lab::{self, Home, Io, Lab, Node, Running, Usage, until};
use crate::show::{bytes, percent};
use crate::{generate, same};

/// No step takes longer.
const PATIENCE: Duration = Duration::from_secs(600);
/// The smallest ceiling that a node accepts.
pub(super) const MEMORY: &str = "limits.memory = \"32MiB\"";
/// The program to compare with, and its version: pinned, so that runs can be compared.
const SENDME: (&str, &str) = ("sendme", "0.37.1");
/// Rounds of a comparison: what a machine gives at one moment is chance.
const ROUNDS: usize = 3;
/// The row that a second version has more.
pub(super) const NEW_ROW: &str = "S9999,2026-06-15T12:00:00Z,21.5,40,1013.2,3.1,0\n";

/// A node with its home, and its figures at the last look.
pub(super) struct Measured {
    pub(super) home: Home,
    pub(super) node: Node,
    usage: Usage,
    io: Io,
    figures: Figures,
}

/// Figures of `bib status`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Figures {
    pub(super) fsyncs: u64,
    pub(super) stored: u64,
    pub(super) received: u64,
    pub(super) sent: u64,
}

/// What a node did between two looks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spent {
    pub(super) cpu: Duration,
    pub(super) peak_rss: u64,
    pub(super) to_device: u64,
    pub(super) figures: Figures,
}

impl Measured {
    pub(super) fn start(lab: &Lab, name: &str) -> Result<Self> {
        let home = lab.home(name)?;
        home.configure(MEMORY)?;
        Self::over(home)
    }

    /// The node of a home, as it is configured there.
    pub(super) fn over(home: Home) -> Result<Self> {
        let node = home.start()?;
        let mut measured = Self { usage: Usage::default(), io: Io::default(), figures: Figures::default(), home, node };
        measured.spent()?;
        Ok(measured)
    }

    fn figures(&self) -> Result<Figures> {
        let status = self.home.json(["status"])?;
        let figure = |name: &str| status[name].as_u64().ok_or_else(|| Failure(format!("no figure `{name}`")));
        Ok(Figures {
            fsyncs: figure("fsyncs")?,
            stored: figure("stored_bytes")?,
            received: figure("wire_received")?,
            sent: figure("wire_sent")?,
        })
    }

    /// What the node did since the last look; the peak of its memory begins again.
    pub(super) fn spent(&mut self) -> Result<Spent> {
        let (usage, io) = (self.node.usage()?, self.node.io()?);
        let figures = self.figures()?;
        let spent = Spent {
            cpu: usage.cpu().saturating_sub(self.usage.cpu()),
            peak_rss: usage.peak_rss,
            to_device: io.to_device.saturating_sub(self.io.to_device),
            figures: Figures {
                fsyncs: figures.fsyncs.saturating_sub(self.figures.fsyncs),
                stored: figures.stored.saturating_sub(self.figures.stored),
                received: figures.received.saturating_sub(self.figures.received),
                sent: figures.sent.saturating_sub(self.figures.sent),
            },
        };
        (self.usage, self.io, self.figures) = (self.node.usage()?, io, figures);
        lab::reset_peak_rss(self.node.pid())?;
        Ok(spent)
    }
}

/// What a publication and a fetch took.
pub(super) struct Moved {
    pub(super) size: u64,
    pub(super) files: u64,
    pub(super) publish: Step,
    pub(super) fetch: Step,
}

/// One of the two.
pub(super) struct Step {
    pub(super) elapsed: Duration,
    /// `bib` itself.
    pub(super) cli: Usage,
    /// The node that publishes or serves.
    pub(super) one: Spent,
    /// The node that fetches.
    pub(super) two: Option<Spent>,
}

impl Step {
    /// CPU time of everything together.
    pub(super) fn cpu(&self) -> Duration {
        self.cli.cpu() + self.one.cpu + self.two.map_or(Duration::ZERO, |two| two.cpu)
    }
}

/// Publishes a path on one node and fetches it on another that first hears of it then.
pub(super) fn move_path(lab: &Lab, path: &Path, reference: &str) -> Result<(Moved, Measured, Measured)> {
    let mut one = Measured::start(lab, "one")?;
    one.home.bib(["key", "new"])?;
    one.home.bib(["topic", "create", "t"])?;
    let (moved, two) = move_from(lab, &mut one, path, reference)?;
    Ok((moved, one, two))
}

/// The same from a node that is there.
pub(super) fn move_from(lab: &Lab, one: &mut Measured, path: &Path, reference: &str) -> Result<(Moved, Measured)> {
    one.spent()?;
    let published = one.home.bib(["publish", text(path)?, reference, "--json"])?;
    let version = published.json()?;
    let publish = Step { elapsed: published.elapsed, cli: published.usage, one: one.spent()?, two: None };

    let mut two = Measured::start(lab, "two")?;
    let address = address(&one.home)?;
    one.spent()?;
    two.spent()?;
    // From the moment when the second node can know of it: a full node begins by itself.
    let start = Instant::now();
    two.home.bib(["peer", "connect", &address])?;
    until("the second node lists the version", PATIENCE, || {
        Ok((two.home.run(["dataset", "show", reference])?.code == Some(0)).then_some(()))
    })?;
    let got = two.home.bib(["get", reference, "-o", "out", "--quiet"])?;
    let elapsed = start.elapsed();
    let fetch = Step { elapsed, cli: got.usage, one: one.spent()?, two: Some(two.spent()?) };
    let size = version["size"].as_u64().unwrap_or(0);
    let files = version["files"].as_u64().unwrap_or(0);
    Ok((Moved { size, files, publish, fetch }, two))
}

/// An address of a node on loopback.
pub(super) fn address(home: &Home) -> Result<String> {
    let status = home.json(["status"])?;
    let addresses = status["addresses"].as_array().into_iter().flatten().filter_map(|address| address.as_str());
    let loopback = addresses.into_iter().find(|address| address.starts_with("/ip4/127.0.0.1/tcp/"));
    loopback.map(str::to_owned).ok_or_else(|| Failure(format!("no address on loopback: {status}")))
}

pub(super) fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Failure(format!("{} is not UTF-8", path.display())))
}

/// The rows of the table about a publication and a fetch.
pub(super) fn report(bench: &mut Bench, what: &str, moved: &Moved) {
    let Moved { size, publish, fetch, .. } = moved;
    let size = *size;
    bench.row(
        &format!("publish {what}"),
        "",
        format!(
            "{:.0} MiB/s, {:.2} CPU-s/GiB (bibd {:.2}, bib {:.2})",
            rate(size, publish.elapsed),
            per_gib(publish.cpu(), size),
            per_gib(publish.one.cpu, size),
            per_gib(publish.cli.cpu(), size)
        ),
    );
    let two = fetch.two.unwrap_or(fetch.one);
    bench.row(
        &format!("fetch {what}, both ends, stored and written out"),
        "≤ 2 CPU-s/GiB",
        format!(
            "{:.0} MiB/s, {:.2} CPU-s/GiB (sender {:.2}, receiver {:.2}, bib {:.2})",
            rate(size, fetch.elapsed),
            per_gib(fetch.cpu(), size),
            per_gib(fetch.one.cpu, size),
            per_gib(two.cpu, size),
            per_gib(fetch.cli.cpu(), size)
        ),
    );
    bench.row(
        &format!("peak memory, {what}"),
        "≤ 32 MiB",
        format!(
            "publisher {}, sender {}, receiver {}, bib publish {}, bib get {}",
            bytes(publish.one.peak_rss),
            bytes(fetch.one.peak_rss),
            bytes(two.peak_rss),
            bytes(publish.cli.peak_rss),
            bytes(fetch.cli.peak_rss)
        ),
    );
    bench.row(
        &format!("wire bytes / payload, {what}"),
        "",
        format!(
            "{:.3} ({} for {})",
            two.figures.received as f64 / size as f64,
            bytes(two.figures.received),
            bytes(size)
        ),
    );
    bench.row(
        &format!("device bytes / payload, {what}"),
        "≤ 1.05",
        format!(
            "publish {:.3} (store takes {}), fetch {:.3}",
            publish.one.to_device as f64 / size as f64,
            bytes(publish.one.figures.stored),
            two.to_device as f64 / size as f64
        ),
    );
    bench.row(
        &format!("fsyncs, {what}"),
        "≤ 1 per 16 MiB",
        format!(
            "publish {} ({}), fetch {} ({})",
            publish.one.figures.fsyncs,
            each(size, publish.one.figures.fsyncs),
            two.figures.fsyncs,
            each(size, two.figures.fsyncs)
        ),
    );
}

fn each(size: u64, n: u64) -> String {
    format!("one per {}", bytes(size / n.max(1)))
}

/// A file of 1 GiB that no compression shortens, and one of CSV.
pub(super) fn file(bench: &mut Bench) -> Result<()> {
    let sendme = install_sendme(bench)?;
    let inputs = Lab::new(bench.programs.clone())?;
    let noise = inputs.path("noise.bin");
    generate::noise(&noise, GIB, 1)?;
    let csv = inputs.path("data.csv");
    generate::csv(&csv, GIB, 1, None)?;
    for (path, what) in [(&noise, "1 GiB incompressible"), (&csv, "1 GiB CSV")] {
        let mut rounds = Vec::new();
        for n in 1..=ROUNDS {
            let round = round(bench, &sendme, path)?;
            say(&format!("  {what}, round {n} of {ROUNDS}: the rate is {:.2} x that of sendme", round.ratio()));
            rounds.push(round);
        }
        // As a whole, so that the figures belong together.
        rounds.sort_by(|one, other| one.ratio().total_cmp(&other.ratio()));
        let Round { moved, tcp, disk, theirs } = rounds.swap_remove(ROUNDS / 2);
        report(bench, what, &moved);
        let rates =
            |elapsed, cpu| format!("{:.0} MiB/s, {:.2} CPU-s/GiB", rate(moved.size, elapsed), per_gib(cpu, moved.size));
        bench.row(&format!("raw TCP, {what}, same round"), "", rates(tcp.elapsed, tcp.cpu));
        bench.row(
            &format!("the file copied once, synced every 16 MiB, {what}, same round"),
            "",
            rates(disk.elapsed, disk.cpu),
        );
        bench.row(
            &format!("sendme {}, {what}, same round", SENDME.1),
            "",
            format!(
                "{}, peak memory {} and {}; import {}",
                rates(theirs.elapsed, theirs.cpu),
                bytes(theirs.sender_peak),
                bytes(theirs.receiver_peak),
                rates(theirs.import_elapsed, theirs.import_cpu)
            ),
        );
        bench.row(
            &format!("rate and CPU of the fetch / those of sendme, {what}, the middle one of {ROUNDS} rounds"),
            "≥ 2 ×; –",
            format!(
                "{:.2} × the rate, {:.2} × the CPU",
                theirs.elapsed.as_secs_f64() / moved.fetch.elapsed.as_secs_f64(),
                moved.fetch.cpu().as_secs_f64() / theirs.cpu.as_secs_f64()
            ),
        );
    }
    Ok(())
}

/// The same file by every way, one after the other.
struct Round {
    moved: Moved,
    tcp: Raw,
    disk: Raw,
    theirs: Theirs,
}

impl Round {
    /// How many times the rate of sendme.
    fn ratio(&self) -> f64 {
        self.theirs.elapsed.as_secs_f64() / self.moved.fetch.elapsed.as_secs_f64()
    }
}

fn round(bench: &Bench, sendme: &Path, path: &Path) -> Result<Round> {
    let lab = Lab::new(bench.programs.clone())?;
    let (moved, _one, two) = move_path(&lab, path, "t/d")?;
    same::file(path, &two.home.work("out"))?;
    drop(two);
    drop(lab);
    Ok(Round { moved, tcp: raw_tcp(path)?, disk: raw_write(path)?, theirs: sendme_once(bench, sendme, path)? })
}

/// One row more in the middle.
pub(super) fn row(bench: &mut Bench) -> Result<()> {
    let inputs = Lab::new(bench.programs.clone())?;
    let (first, second) = (inputs.path("first.csv"), inputs.path("second.csv"));
    generate::csv(&first, GIB, 1, None)?;
    generate::csv(&second, GIB, 1, Some(NEW_ROW))?;
    let lab = Lab::new(bench.programs.clone())?;
    let (_, mut one, mut two) = move_path(&lab, &first, "t/d")?;
    let version = one.home.json(["publish", text(&second)?, "t/d"])?;
    let new = version["new_bytes"].as_u64().unwrap_or(u64::MAX);
    let stored = one.spent()?.figures.stored;
    until("the second node lists the version", PATIENCE, || {
        Ok((two.home.run(["dataset", "show", "t/d@1.0.1"])?.code == Some(0)).then_some(()))
    })?;
    two.home.bib(["get", "t/d@1.0.1", "-o", "out", "--quiet"])?;
    same::file(&second, &two.home.work("out"))?;
    let received = two.spent()?.figures.received;
    bench.row(
        "one row more in the middle of a 1 GiB CSV",
        &format!("≤ 3 average chunks ({}) new", bytes(3 * u64::from(DEFAULT_CHUNK_AVG))),
        format!("{} new, {} stored, {} sent ({})", bytes(new), bytes(stored), bytes(received), percent(received, GIB)),
    );
    Ok(())
}

/// What the machine itself takes for something.
struct Raw {
    elapsed: Duration,
    cpu: Duration,
}

/// A copy of a file beside it, synced now and then: what a store cannot do without. A fetch writes twice.
fn raw_write(path: &Path) -> Result<Raw> {
    const SYNC: u64 = 16 << 20;
    let copy = path.with_extension("copy");
    let mut from = std::fs::File::open(path).during("open the file")?;
    let before = lab::usage(std::process::id())?;
    let start = Instant::now();
    let mut to = std::fs::File::create(&copy).during("make a copy")?;
    let mut buf = vec![0; 256 << 10];
    let mut unsynced = 0;
    loop {
        let n = from.read(&mut buf).during("read the file")?;
        to.write_all(&buf[..n]).during("write the copy")?;
        unsynced += n as u64;
        if n == 0 || unsynced >= SYNC {
            to.sync_data().during("sync the copy")?;
            unsynced = 0;
        }
        if n == 0 {
            break;
        }
    }
    let raw = Raw { elapsed: start.elapsed(), cpu: lab::usage(std::process::id())?.cpu().saturating_sub(before.cpu()) };
    std::fs::remove_file(&copy).during("remove the copy")?;
    Ok(raw)
}

/// A file over a socket of loopback and into nothing: what the machine can do at most.
fn raw_tcp(path: &Path) -> Result<Raw> {
    const BUF: usize = 256 << 10;
    let listener = TcpListener::bind("127.0.0.1:0").during("listen")?;
    let address = listener.local_addr().during("listen")?;
    let mut file = std::fs::File::open(path).during("open the file")?;
    let before = lab::usage(std::process::id())?;
    let start = Instant::now();
    let sender = std::thread::spawn(move || -> Result<()> {
        let mut stream = TcpStream::connect(address).during("connect")?;
        let mut buf = vec![0; BUF];
        loop {
            match file.read(&mut buf).during("read the file")? {
                0 => return Ok(()),
                n => stream.write_all(&buf[..n]).during("send")?,
            }
        }
    });
    let (mut stream, _) = listener.accept().during("accept")?;
    let mut buf = vec![0; BUF];
    while stream.read(&mut buf).during("receive")? > 0 {}
    sender.join().map_err(|_| Failure("the sender panicked".to_owned()))??;
    let elapsed = start.elapsed();
    Ok(Raw { elapsed, cpu: lab::usage(std::process::id())?.cpu().saturating_sub(before.cpu()) })
}

struct Theirs {
    import_elapsed: Duration,
    import_cpu: Duration,
    elapsed: Duration,
    cpu: Duration,
    sender_peak: u64,
    receiver_peak: u64,
}

/// The path of sendme, installed from crates.io when it is not there.
fn install_sendme(bench: &Bench) -> Result<PathBuf> {
    let (name, version) = SENDME;
    let path = bench.tools.join("bin").join(name);
    if !path.is_file() {
        say(&format!("  installing {name} {version} from crates.io into {}", bench.tools.display()));
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(["install", name, "--locked", "--quiet", "--version", version, "--root"]).arg(&bench.tools);
        let status = command.stdin(Stdio::null()).status().during("cargo install")?;
        if !status.success() {
            return Err(Failure(format!("cargo install {name} failed ({status})")));
        }
    }
    Ok(path)
}

/// The same file with sendme, on loopback and without its relays.
fn sendme_once(bench: &Bench, sendme: &Path, path: &Path) -> Result<Theirs> {
    let lab = Lab::new(bench.programs.clone())?;
    let (from, to) = (lab.home("from")?, lab.home("to")?);
    let printed = lab.path("printed");
    let log = std::fs::File::create(&printed).during("make a file")?;
    let mut command = from.command(sendme);
    command.args(["send", "--relay", "disabled", "--ticket-type", "addresses", "--no-progress"]);
    command.args(["--magic-ipv4-addr", "127.0.0.1:0"]).arg(path).stdout(log).stderr(Stdio::null());
    let start = Instant::now();
    let sender = Running::start(&mut command)?;
    let ticket = until("sendme prints a ticket", PATIENCE, || {
        let text = std::fs::read_to_string(&printed).during("read what sendme printed")?;
        let mut words = text.split_whitespace();
        Ok(text.ends_with('\n').then(|| words.find(|word| word.starts_with("blob")).map(str::to_owned)).flatten())
    })?;
    let import_elapsed = start.elapsed();
    let imported = lab::usage(sender.pid())?;
    let mut command = to.command(sendme);
    command.args(["receive", "--relay", "disabled", "--no-progress", &ticket]);
    let ran = lab::finish(command, b"")?.ok()?;
    let served = lab::usage(sender.pid())?;
    let name = path.file_name().ok_or("the file has a name")?;
    same::file(path, &to.work(name))?;
    Ok(Theirs {
        import_elapsed,
        import_cpu: imported.cpu(),
        elapsed: ran.elapsed,
        cpu: ran.usage.cpu() + served.cpu().saturating_sub(imported.cpu()),
        sender_peak: served.peak_rss,
        receiver_peak: ran.usage.peak_rss,
    })
}
