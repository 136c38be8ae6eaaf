//! What a process costs, as the kernel counts it.

use std::time::Duration;

use crate::failure::{During, Result};

/// Ticks of the kernel's clock for CPU time in a second: fixed for programs on every architecture that Linux has.
const TICKS: u64 = 100;

/// CPU time and memory of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// CPU time in the program.
    pub user: Duration,
    /// CPU time in the kernel for it.
    pub system: Duration,
    /// Resident memory now, in bytes; 0 once it has ended.
    pub rss: u64,
    /// Largest resident memory since its start or [`reset_peak_rss`], in bytes; 0 once it has ended.
    pub peak_rss: u64,
    /// Resident memory that is its own and not of a file, in bytes; 0 once it has ended.
    pub anonymous_rss: u64,
}

impl Usage {
    /// CPU time in all.
    pub fn cpu(&self) -> Duration {
        self.user + self.system
    }
}

/// Bytes that a process moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Io {
    /// Bytes it passed to `write` and the like, sockets included.
    pub written: u64,
    /// Bytes that it made the kernel bring to a device.
    pub to_device: u64,
    /// Bytes that it made the kernel bring from a device.
    pub from_device: u64,
}

/// CPU time and memory of a process; also of one that has ended and was not waited for.
///
/// # Errors
/// When there is no such process.
pub fn usage(pid: u32) -> Result<Usage> {
    let stat = read(pid, "stat")?;
    // The name in brackets may contain anything; fields are counted behind it, from the third on.
    let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let tick = |n: usize| fields.split(' ').nth(n - 3).and_then(|field| field.parse::<u64>().ok());
    let time = |n| tick(n).map(|ticks| Duration::from_millis(ticks * 1_000 / TICKS)).ok_or("/proc/<pid>/stat is short");
    let status = read(pid, "status")?;
    Ok(Usage {
        user: time(14)?,
        system: time(15)?,
        rss: kib(&status, "VmRSS:"),
        peak_rss: kib(&status, "VmHWM:"),
        anonymous_rss: kib(&status, "RssAnon:"),
    })
}

/// CPU time of all processes that this one started and waited for. Sums of many short ones come from differences of
/// this: the kernel rounds down what it says of each.
///
/// # Errors
/// When the kernel does not say.
pub fn children_cpu() -> Result<Duration> {
    let stat = read(std::process::id(), "stat")?;
    let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let tick = |n: usize| fields.split(' ').nth(n - 3).and_then(|field| field.parse::<u64>().ok());
    let ticks = tick(16).zip(tick(17)).map(|(user, system)| user + system).ok_or("/proc/self/stat is short")?;
    Ok(Duration::from_millis(ticks * 1_000 / TICKS))
}

/// Names of the threads of a process, ascending.
///
/// # Errors
/// When there is no such process.
pub fn threads(pid: u32) -> Result<Vec<String>> {
    let dir = format!("/proc/{pid}/task");
    let mut names = Vec::new();
    for task in std::fs::read_dir(&dir).during(format!("read {dir}"))? {
        let path = task.during(format!("read {dir}"))?.path().join("comm");
        // A thread may end while it is looked at.
        if let Ok(name) = std::fs::read_to_string(path) {
            names.push(name.trim_end().to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Bytes that a process moved since its start.
///
/// # Errors
/// When there is no such process.
pub fn io(pid: u32) -> Result<Io> {
    let text = read(pid, "io")?;
    let field = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)).and_then(|value| value.trim().parse().ok()).unwrap_or(0)
    };
    Ok(Io { written: field("wchar:"), to_device: field("write_bytes:"), from_device: field("read_bytes:") })
}

/// Lets the peak of a process begin at its memory of now.
///
/// # Errors
/// When the kernel does not allow it.
pub fn reset_peak_rss(pid: u32) -> Result<()> {
    let path = format!("/proc/{pid}/clear_refs");
    std::fs::write(&path, "5").during(format!("write {path}"))
}

fn read(pid: u32, name: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{name}");
    std::fs::read_to_string(&path).during(format!("read {path}"))
}

/// A field of `/proc/<pid>/status` in bytes.
fn kib(status: &str, name: &str) -> u64 {
    let value = status.lines().find_map(|line| line.strip_prefix(name));
    value.and_then(|value| value.trim().strip_suffix(" kB")).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_process_has_memory_threads_and_a_peak_not_below_its_memory() {
        let pid = std::process::id();
        let usage = usage(pid).unwrap();
        assert!(usage.rss > 100 << 10);
        assert!(usage.peak_rss >= usage.anonymous_rss);
        assert!(!threads(pid).unwrap().is_empty());
        io(pid).unwrap();
    }
}
