//! Boots an image and holds it to what it promises: it is found in the network, answers, serves what is published on it
//! to another node, and loses nothing of that when its power is cut.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use bib_benches::failure::During;
use bib_benches::lab::{Home, Lab, Running, finish, until};
use bib_benches::{Failure, Result, generate, same, show};
use serde_json::Value;

use super::Boot;
use super::machine::{Hardware, Machine};
use super::plan::Luks;
use crate::demo;
use crate::process::{output, root};

/// An emulated boot takes one or two minutes, on a busy machine more.
const BOOTS_WITHIN: Duration = Duration::from_secs(1_200);
/// Everything else that is awaited.
const PATIENCE: Duration = Duration::from_secs(300);
/// Bytes of a file that no compression shortens: its bytes are found on a disk that is not encrypted.
const MARK_LEN: u64 = 1 << 20;
/// Bytes of the file whose publication is cut off.
const NOISE_LEN: u64 = 96 << 20;
/// Bytes that reach the card before its power is cut.
const CUT_AFTER: u64 = 24 << 20;
/// What is typed where a passphrase is asked for.
const PASSPHRASE: &str = "four words are enough";

/// Runs all of it.
pub fn run(args: &Boot) -> Result<()> {
    Hardware::check()?;
    let lab = Lab::new(demo::build(false)?)?;
    let home = lab.home("here")?;
    let mut bench = Bench::new(args, &lab, home)?;
    let mut machine = bench.boot("First boot: host key, data partition")?;
    let tunnel = bench.tunnel(&machine)?;
    bench.publish()?;
    let node = bench.home.start()?;
    bench.fetch(&machine)?;
    bench.figures(&machine)?;
    bench.idle(&mut machine)?;
    bench.cut_in_the_middle(machine)?;
    drop(tunnel);
    bench.look_at_the_card()?;

    let machine = bench.boot("Second boot, after the power was cut")?;
    let _tunnel = bench.tunnel(&machine)?;
    bench.all_is_there(&machine)?;
    title("Switch it off");
    bench.ssh(&machine, &["systemctl", "poweroff"]).or_else(|failure| {
        // The connection may end before the answer.
        if failure.0.contains("closed by remote host") { Ok(String::new()) } else { Err(failure) }
    })?;
    machine.off(PATIENCE)?;
    told("it is off");
    node.stop()?;
    println!("\nAll of it holds.");
    Ok(())
}

struct Bench {
    home: Home,
    hardware: Hardware,
    identity: PathBuf,
    known_hosts: PathBuf,
    socket: PathBuf,
    luks: Option<Luks>,
    idle: Duration,
    boots: u32,
    id: Option<String>,
}

impl Bench {
    fn new(args: &Boot, lab: &Lab, home: Home) -> Result<Self> {
        title("Write the image to a card");
        let disk = lab.path("card");
        output(Command::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(&args.image).arg(&disk))?;
        let card = std::fs::File::options().write(true).open(&disk).during("open the card")?;
        let len = card.metadata().during("look at the card")?.len();
        if args.card.0 <= len + (256 << 20) {
            return Err(Failure(format!("the image has {}: take a larger --card", show::bytes(len))));
        }
        card.set_len(args.card.0).during("make the card larger")?;
        told(&format!("{} of {}", show::bytes(len), show::bytes(args.card.0)));
        let stick = match args.luks {
            Some(Luks::Usb) => Some(stick(&lab.path("stick"))?),
            _ => None,
        };
        let dir = lab.path("board");
        std::fs::create_dir(&dir).during("make a folder")?;
        Ok(Self {
            home,
            hardware: Hardware { disk, stick, memory: args.memory.0, dir },
            identity: args.identity.canonicalize().during(format!("find {}", args.identity.display()))?,
            known_hosts: lab.path("known_hosts"),
            socket: lab.path("board.sock"),
            luks: args.luks,
            idle: Duration::from_secs(args.idle * 60),
            boots: 0,
            id: None,
        })
    }

    fn boot(&mut self, heading: &str) -> Result<Machine> {
        title(heading);
        let mut machine = self.hardware.start()?;
        self.boots += 1;
        if self.luks == Some(Luks::Passphrase) {
            self.type_passphrase(&mut machine)?;
        }
        machine.hear(&["bib-appliance: "], BOOTS_WITHIN)?;
        let (_, line) = machine.hear(&["\n"], PATIENCE)?;
        told(&format!("on the console after {}: {line}", show::time(machine.start.elapsed())));
        if !line.contains("bibd active") || line.contains("address none") {
            return Err(Failure(format!("the node does not run, or has no address: {line}")));
        }
        let status = self.status(&machine)?;
        let id = status["node"].as_str().unwrap_or_default().to_owned();
        told(&format!("bib status over the network after {}: {id}", show::time(machine.start.elapsed())));
        match &self.id {
            _ if id.is_empty() => return Err(Failure(format!("a status without an id: {status}"))),
            Some(before) if *before != id => return Err(Failure(format!("it was {before}"))),
            _ => self.id = Some(id),
        }
        let failed = self.ssh(&machine, &["systemctl", "--failed", "--no-legend", "--plain"])?;
        if !failed.trim().is_empty() {
            return Err(Failure(format!("units failed:\n{failed}")));
        }
        Ok(machine)
    }

    fn type_passphrase(&self, machine: &mut Machine) -> Result<()> {
        let questions: &[(&str, &str)] = if self.boots == 1 {
            // One that is mistyped is asked for again.
            &[
                ("New passphrase for the data of this node:", PASSPHRASE),
                ("The same passphrase once more:", "something else"),
                ("New passphrase for the data of this node:", PASSPHRASE),
                ("The same passphrase once more:", PASSPHRASE),
                ("Passphrase for the data of this node:", PASSPHRASE),
            ]
        } else {
            &[
                ("Passphrase for the data of this node:", "a wrong one"),
                ("Passphrase for the data of this node:", PASSPHRASE),
            ]
        };
        for (question, answer) in questions {
            machine.hear(&[question], BOOTS_WITHIN)?;
            told(&format!("asked: {question}"));
            machine.type_line(answer)?;
        }
        Ok(())
    }

    fn ssh_command(&self, machine: &Machine) -> Command {
        let mut command = self.home.command(Path::new("ssh"));
        // The key of the host is learned at the first boot, and must be the same at the second.
        let trust = if self.boots == 1 { "accept-new" } else { "yes" };
        command.args(["-F", "none", "-o", "BatchMode=yes", "-o", &format!("StrictHostKeyChecking={trust}")]);
        command.args(["-o", &format!("UserKnownHostsFile={}", self.known_hosts.display())]);
        // The port differs from boot to boot, the machine does not.
        command
            .args(["-o", "HostKeyAlias=board", "-o", "ConnectTimeout=60", "-o", "LogLevel=ERROR", "-i"])
            .arg(&self.identity);
        command.args(["-p", &machine.ssh.to_string(), "root@127.0.0.1"]);
        command
    }

    fn ssh(&self, machine: &Machine, args: &[&str]) -> Result<String> {
        let mut command = self.ssh_command(machine);
        command.args(args);
        Ok(finish(command, b"")?.ok()?.stdout)
    }

    fn status(&self, machine: &Machine) -> Result<Value> {
        let text = self.ssh(machine, &["bib", "status", "--json"])?;
        serde_json::from_str(&text).during("the status")
    }

    /// The control socket of the board, here: as its owner would have it who does not want a key to lie on the board.
    fn tunnel(&self, machine: &Machine) -> Result<Running> {
        let _ = std::fs::remove_file(&self.socket);
        let mut command = self.ssh_command(machine);
        command.args(["-N", "-o", "ExitOnForwardFailure=yes"]);
        command.args(["-L", &format!("{}:/run/bib/bibd.sock", self.socket.display())]).stderr(Stdio::inherit());
        let mut tunnel = Running::start(&mut command)?;
        until("the socket of the board is here", PATIENCE, || match tunnel.ended(Duration::ZERO)? {
            Some((status, _)) => Err(Failure(format!("ssh -L ended ({status})"))),
            None => Ok(self.socket.exists().then_some(())),
        })?;
        Ok(tunnel)
    }

    /// `bib` of this machine, asking the node of the board.
    fn there(&self, args: &[&str]) -> Result<Value> {
        let node = format!("unix:{}", self.socket.display());
        self.home.json([args, &["--node", &node]].concat())
    }

    fn publish(&self) -> Result<()> {
        title("Publish on the board, with a key that stays here (ssh -L)");
        self.home.json(["key", "new"])?;
        self.there(&["topic", "create", "weather"])?;
        let data = root().join("data/noaa");
        generate::noise(&self.home.work("mark"), MARK_LEN, 7)?;
        generate::noise(&self.home.work("noise"), NOISE_LEN, 8)?;
        for (from, to) in [(data.to_str().ok_or("a path")?, "weather/noaa"), ("mark", "weather/mark")] {
            let version = self.there(&["publish", from, to])?;
            told(&format!("{}: {}", version["reference"], show::bytes(version["size"].as_u64().unwrap_or(0))));
        }
        Ok(())
    }

    fn fetch(&self, machine: &Machine) -> Result<()> {
        title("A node here connects to it and fetches what it serves");
        self.home.json(["peer", "connect", &format!("/ip4/127.0.0.1/tcp/{}", machine.p2p)])?;
        until("the dataset is listed here", PATIENCE, || {
            let ran = self.home.run(["dataset", "show", "weather/noaa@1.0.0", "--json"])?;
            Ok((ran.code == Some(0)).then_some(()))
        })?;
        let got = self.home.json(["get", "weather/noaa", "-o", "fetched"])?;
        self.same_as_published("fetched")?;
        told(&format!(
            "{} in {} s, every file the same",
            show::bytes(got["size"].as_u64().unwrap_or(0)),
            got["seconds"]
        ));
        Ok(())
    }

    fn same_as_published(&self, fetched: &str) -> Result<()> {
        for name in ["daily.csv", "hourly-normals.csv", "PROVENANCE.md"] {
            same::file(&self.home.work(fetched).join(name), &root().join("data/noaa").join(name))?;
        }
        Ok(())
    }

    fn figures(&self, machine: &Machine) -> Result<()> {
        title("What it costs");
        let memory = self.ssh(machine, &["cat", "/proc/meminfo"])?;
        for name in ["MemTotal", "MemFree", "MemAvailable"] {
            told(&format!("{name}: {}", show::bytes(kib_of(&memory, name)? << 10)));
        }
        let bibd = self.ssh(machine, &["cat", "/proc/$(systemctl show -P MainPID bibd)/status"])?;
        for name in ["VmRSS", "RssAnon", "VmHWM"] {
            told(&format!("bibd {name}: {}", show::bytes(kib_of(&bibd, name)? << 10)));
        }
        let disks = self.ssh(machine, &["df", "-m", "/", "/var/lib/bib"])?;
        disks.lines().for_each(told);
        told(self.ssh(machine, &["systemd-analyze", "time"])?.trim());
        Ok(())
    }

    fn idle(&self, machine: &mut Machine) -> Result<()> {
        title(&format!("Nobody asks it anything for {} s", self.idle.as_secs()));
        let before = machine.writes()?;
        machine.leave_alone(self.idle)?;
        let after = machine.writes()?;
        told(&format!("{} writes to the card, {}", after.0 - before.0, show::bytes(after.1 - before.1)));
        Ok(())
    }

    fn cut_in_the_middle(&self, mut machine: Machine) -> Result<()> {
        title("Cut its power in the middle of a publication");
        let before = machine.writes()?.1;
        let node = format!("unix:{}", self.socket.display());
        let mut command = self.home.bib_command(["publish", "noise", "weather/noise", "--quiet", "--node", &node]);
        let mut publish = Running::start(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
        let written = until("part of it is on the card", PATIENCE, || {
            let written = machine.writes()?.1 - before;
            match publish.ended(Duration::ZERO)? {
                Some((status, _)) => Err(Failure(format!("it was published too soon ({status})"))),
                None => Ok((written > CUT_AFTER).then_some(written)),
            }
        })?;
        machine.cut();
        publish.kill();
        told(&format!("cut after {} had been written", show::bytes(written)));
        Ok(())
    }

    /// What a thief would find.
    fn look_at_the_card(&self) -> Result<()> {
        title("Look at the raw bytes of the card");
        let mut mark = [0; 64];
        std::fs::File::open(self.home.work("mark"))
            .and_then(|mut file| file.read_exact(&mut mark))
            .during("read the mark")?;
        let is_there = contains(&self.hardware.disk, &mark)?;
        told(if is_there { "published bytes can be read on it" } else { "published bytes cannot be read on it" });
        match (self.luks, is_there) {
            (None, true) | (Some(_), false) => Ok(()),
            (None, false) => Err(Failure("this look would not find bytes that are there".to_owned())),
            (Some(_), true) => Err(Failure("it is not encrypted".to_owned())),
        }
    }

    fn all_is_there(&self, machine: &Machine) -> Result<()> {
        title("What was acknowledged is there");
        for reference in ["weather/noaa", "weather/mark"] {
            self.there(&["dataset", "verify", reference])?;
            told(&format!("bib dataset verify {reference}: whole"));
        }
        self.there(&["get", "weather/noaa", "-o", "again"])?;
        self.same_as_published("again")?;
        let version = self.there(&["publish", "noise", "weather/noise"])?;
        told(&format!(
            "published again: {}, {} of it new",
            version["reference"],
            show::bytes(version["new_bytes"].as_u64().unwrap_or(0))
        ));
        self.home.json(["peer", "connect", &format!("/ip4/127.0.0.1/tcp/{}", machine.p2p)])?;
        until("it is listed here", PATIENCE, || {
            let ran = self.home.run(["dataset", "show", "weather/noise@1.0.0", "--json"])?;
            Ok((ran.code == Some(0)).then_some(()))
        })?;
        self.home.json(["get", "weather/noise", "-o", "noise.again"])?;
        same::file(&self.home.work("noise.again"), &self.home.work("noise"))?;
        told("fetched by the node here: the same");
        Ok(())
    }
}

/// An empty USB stick on which the board looks for its key.
fn stick(path: &Path) -> Result<PathBuf> {
    std::fs::File::create(path).and_then(|file| file.set_len(16 << 20)).during("make a stick")?;
    let mut mkfs = Command::new("mkfs.vfat");
    output(mkfs.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").args(["-n", "BIB-KEY"]).arg(path))?;
    Ok(path.to_owned())
}

/// Whether some bytes lie anywhere in a file.
fn contains(path: &Path, wanted: &[u8]) -> Result<bool> {
    let mut file = std::fs::File::open(path).during(format!("open {}", path.display()))?;
    let keep = wanted.len() - 1;
    let mut window = vec![0; (1 << 20) + keep];
    let mut held = 0;
    loop {
        let n = file.read(&mut window[held..]).during(format!("read {}", path.display()))?;
        if n == 0 {
            return Ok(false);
        }
        let end = held + n;
        if window[..end].iter().any(|byte| *byte != 0)
            && window[..end].windows(wanted.len()).any(|found| found == wanted)
        {
            return Ok(true);
        }
        held = end.min(keep);
        window.copy_within(end - held..end, 0);
    }
}

/// A line such as `MemFree:   1234 kB`.
fn kib_of(text: &str, name: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let figure = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    figure.ok_or_else(|| Failure(format!("no {name} in:\n{text}")))
}

fn title(text: &str) {
    println!("\n▸ {text}");
}

fn told(text: &str) {
    println!("  {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_found_wherever_they_lie_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut bytes = vec![0; (3 << 20) + 100];
        for at in [0, (1 << 20) - 3, (1 << 20) + 4, (2 << 20) - 1, (3 << 20) + 94] {
            bytes[at..at + 6].copy_from_slice(b"marked");
            std::fs::write(&path, &bytes).unwrap();
            assert!(contains(&path, b"marked").unwrap(), "{at}");
            bytes[at..at + 6].fill(0);
        }
        std::fs::write(&path, &bytes).unwrap();
        assert!(!contains(&path, b"marked").unwrap());
    }

    #[test]
    fn figures_of_the_kernel_are_read_by_name() {
        let text = "MemTotal:         486024 kB\nMemFree:          300000 kB\n";
        assert_eq!(kib_of(text, "MemFree").unwrap(), 300_000);
        assert!(kib_of(text, "Mem").is_err());
    }
}
