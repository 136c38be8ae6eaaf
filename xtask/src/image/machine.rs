//! An emulated board: a disk, a network behind this machine, a serial console, and counters of its disk.
//!
//! Invariant: it is gone when it is dropped. Killing it is cutting its power: what it had not flushed is lost as far as
//! its guest believed it written; the file of its disk keeps what the guest handed over.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use bib_benches::failure::During;
use bib_benches::lab::{Running, until};
use bib_benches::{Failure, Result};
use serde_json::{Value, json};

use super::console::Console;

/// Firmware for UEFI, in Debian's package qemu-efi-aarch64.
const FIRMWARE: &str = "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd";
/// How long the control socket of the emulator may take to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// What the machine is made of.
#[derive(Debug)]
pub struct Hardware {
    /// The card.
    pub disk: PathBuf,
    /// A USB stick, or none.
    pub stick: Option<PathBuf>,
    /// Bytes of memory.
    pub memory: u64,
    /// A folder for the control socket and the log.
    pub dir: PathBuf,
}

impl Hardware {
    /// Says what is missing.
    pub fn check() -> Result<()> {
        if !Path::new(FIRMWARE).is_file() {
            return Err(Failure(format!("{FIRMWARE} is not there: apt-get install qemu-system-arm qemu-efi-aarch64")));
        }
        Ok(())
    }

    /// Switches it on.
    pub fn start(&self) -> Result<Machine> {
        let (ssh, p2p) = (free_port()?, free_port()?);
        let control = self.dir.join("qmp");
        // One that was killed leaves its socket.
        let _ = std::fs::remove_file(&control);
        let mut command = Command::new("qemu-system-aarch64");
        command.args(["-M", "virt", "-cpu", "cortex-a72", "-smp", "2", "-nodefaults", "-nographic", "-no-reboot"]);
        command.args(["-accel", "tcg,thread=multi", "-m", &format!("{}M", self.memory >> 20), "-bios", FIRMWARE]);
        command.args(["-serial", "stdio", "-qmp", &format!("unix:{},server=on,wait=off", control.display())]);
        command.args(["-drive", &format!("if=none,id=card,format=raw,file={}", self.disk.display())]);
        command.args(["-device", "virtio-blk-pci,drive=card", "-device", "virtio-rng-pci"]);
        let forward = format!("user,id=lan,hostfwd=tcp:127.0.0.1:{ssh}-:22,hostfwd=tcp:127.0.0.1:{p2p}-:4001");
        command.args(["-netdev", &forward, "-device", "virtio-net-pci,netdev=lan,romfile="]);
        if let Some(stick) = &self.stick {
            command.args(["-drive", &format!("if=none,id=stick,format=raw,file={}", stick.display())]);
            command.args(["-device", "qemu-xhci", "-device", "usb-storage,drive=stick"]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let start = Instant::now();
        let mut qemu = Running::start(&mut command)
            .map_err(|failure| Failure(format!("{failure}; apt-get install qemu-system-arm")))?;
        let keyboard = qemu.child().stdin.take().ok_or("no keyboard")?;
        let mut serial = qemu.child().stdout.take().ok_or("no console")?;
        let mut log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("console.log"))
            .during("open the log of the console")?;
        let (send, pieces) = channel();
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(n @ 1..) = serial.read(&mut piece) {
                // The log is for people who look for a failure.
                let _ = log.write_all(&piece[..n]);
                if send.send(piece[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        let control = until("the emulator answers", ANSWERS_WITHIN, || {
            let Ok(stream) = UnixStream::connect(&control) else { return Ok(None) };
            Control::greet(stream).map(Some)
        })?;
        Ok(Machine { qemu, keyboard, pieces, console: Console::default(), control, start, ssh, p2p })
    }
}

/// A running machine.
#[derive(Debug)]
pub struct Machine {
    qemu: Running,
    keyboard: ChildStdin,
    pieces: Receiver<Vec<u8>>,
    console: Console,
    control: Control,
    /// When it was switched on.
    pub start: Instant,
    /// The port here that leads to its SSH.
    pub ssh: u16,
    /// The port here that leads to its node.
    pub p2p: u16,
}

impl Machine {
    /// Waits until one of these words is on the console; returns which, and what came before.
    pub fn hear(&mut self, words: &[&str], within: Duration) -> Result<(usize, String)> {
        let deadline = Instant::now() + within;
        loop {
            // The first in the order of the list: a machine that failed also says so.
            for (n, words) in words.iter().enumerate() {
                if let Some(before) = self.console.pass(words) {
                    return Ok((n, before));
                }
            }
            match self.pieces.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(piece) => self.console.push(&piece),
                Err(RecvTimeoutError::Timeout) => {
                    let tail = self.console.tail();
                    return Err(Failure(format!("{words:?} did not come within {} s:\n{tail}", within.as_secs())));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure(format!("the machine ended before {words:?}:\n{}", self.console.tail())));
                }
            }
        }
    }

    /// Types a line on the console.
    pub fn type_line(&mut self, line: &str) -> Result<()> {
        self.keyboard.write_all(format!("{line}\n").as_bytes()).during("type on the console")
    }

    /// Number and bytes of all writes to the card.
    pub fn writes(&mut self) -> Result<(u64, u64)> {
        let answer = self.control.ask("query-blockstats")?;
        let card = answer.as_array().into_iter().flatten().find(|disk| disk["device"] == "card").ok_or("no card")?;
        let figure = |name: &str| card["stats"][name].as_u64().ok_or_else(|| Failure(format!("no {name}")));
        Ok((figure("wr_operations")?, figure("wr_bytes")?))
    }

    /// Lets it run; a failure if it ends in this time.
    pub fn leave_alone(&mut self, time: Duration) -> Result<()> {
        match self.qemu.ended(time)? {
            None => Ok(()),
            Some((status, _)) => Err(Failure(format!("the machine ended ({status}):\n{}", self.console.tail()))),
        }
    }

    /// Cuts the power.
    pub fn cut(mut self) {
        self.qemu.kill();
    }

    /// Waits until it has switched itself off.
    pub fn off(mut self, within: Duration) -> Result<()> {
        match self.qemu.ended(within)? {
            Some((status, _)) if status.success() => Ok(()),
            other => Err(Failure(format!("it did not switch itself off: {other:?}"))),
        }
    }
}

/// The control socket of the emulator.
#[derive(Debug)]
struct Control {
    lines: BufReader<UnixStream>,
}

impl Control {
    fn greet(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(ANSWERS_WITHIN)).during("bound an answer")?;
        let mut control = Self { lines: BufReader::new(stream) };
        control.read()?;
        control.ask("qmp_capabilities")?;
        Ok(control)
    }

    fn ask(&mut self, what: &str) -> Result<Value> {
        let question = json!({ "execute": what }).to_string() + "\n";
        self.lines.get_mut().write_all(question.as_bytes()).during("ask the emulator")?;
        loop {
            let answer = self.read()?;
            // Events come between.
            if answer.get("event").is_none() {
                return answer.get("return").cloned().ok_or_else(|| Failure(format!("{what}: {answer}")));
            }
        }
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.lines.read_line(&mut line).during("hear from the emulator")?;
        serde_json::from_str(&line).during("what the emulator says")
    }
}

/// A port that nobody has at the moment.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").during("find a port")?;
    Ok(listener.local_addr().during("find a port")?.port())
}
