//! Time for a long start: making an index anew from all segments, or encrypting a catalog, may take hours on a card.
//!
//! The manager gives a start so much time and kills it then. Here it is asked for more as long as the thread that opens
//! the stores moves bytes, which the system counts; one that waits for a disk that never answers is left to the manager.
//! Where the system does not count, the manager is asked in any case: killing a start that works is the worse mistake.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Manager;

/// How often it is looked whether bytes were moved.
const LOOK: Duration = Duration::from_secs(10);
/// How long the manager waits for the next sign. The longest step without one is a sync of a segment, which takes a slow
/// card some seconds.
const EXTENSION: Duration = Duration::from_secs(60);

/// Where the system counts the bytes that this thread reads and writes.
fn counter() -> Option<PathBuf> {
    let own = std::fs::read_link("/proc/thread-self").ok()?;
    Some(PathBuf::from("/proc").join(own).join("io"))
}

/// Bytes read and written, of a text such as `rchar: 12`, a figure a line.
fn moved(text: &str) -> Option<u64> {
    let figure = |name| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    figure("rchar:")?.checked_add(figure("wchar:")?)
}

/// What is known of a start that goes on.
#[derive(Debug, Default)]
struct Progress {
    moved: Option<u64>,
}

impl Progress {
    /// Whether the start got on, as far as the system says.
    fn look(&mut self, now: Option<u64>) -> bool {
        let before = std::mem::replace(&mut self.moved, now);
        now.is_none() || now != before
    }

    fn status(&self, what: &str) -> String {
        match self.moved.unwrap_or(0) >> 20 {
            0 => format!("STATUS={what}"),
            mib => format!("STATUS={what}: {mib} MiB read and written"),
        }
    }
}

/// A start that may take long, until it is dropped.
#[derive(Debug)]
pub(crate) struct Opening {
    work: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Opening {
    pub(super) fn new(manager: &Manager, what: &'static str) -> Self {
        if !manager.is_there() {
            return Self { work: None };
        }
        ask(manager, &Progress::default().status(what));
        let (end, ended) = channel();
        let (manager, counter) = (manager.clone(), counter());
        let read = move || moved(&std::fs::read_to_string(counter.as_ref()?).ok()?);
        let work = move || watch(&manager, what, &ended, LOOK, read);
        // A start without it has the time that the manager gives to all.
        let thread = std::thread::Builder::new().name("bib-opening".to_owned()).spawn(work);
        Self { work: thread.ok().map(|thread| (end, thread)) }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.work.take() {
            drop(end);
            // A panic in it was printed.
            let _ = thread.join();
        }
    }
}

fn ask(manager: &Manager, status: &str) {
    manager.send(&[&format!("EXTEND_TIMEOUT_USEC={}", EXTENSION.as_micros()), status]);
}

/// Asks for more time whenever there is progress, until the other end of `ended` is gone.
fn watch(manager: &Manager, what: &str, ended: &Receiver<()>, look: Duration, read: impl Fn() -> Option<u64>) {
    let mut progress = Progress { moved: read() };
    while ended.recv_timeout(look) == Err(RecvTimeoutError::Timeout) {
        if progress.look(read()) {
            ask(manager, &progress.status(what));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::config::Surroundings;

    #[test]
    fn time_is_asked_for_while_bytes_are_moved_and_where_nobody_counts_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let vars = vec![("NOTIFY_SOCKET".to_owned(), path.to_str().unwrap().to_owned())];
        let manager = Manager::of(&Surroundings { vars, ..Surroundings::default() }, 7);
        let (end, ended) = channel();
        // At the end of what was counted the start is over.
        let counted = RefCell::new((vec![Some(0), Some(1), Some(1), Some(5 << 20), None, None].into_iter(), Some(end)));
        watch(&manager, "opening", &ended, Duration::ZERO, || {
            let (counted, end) = &mut *counted.borrow_mut();
            counted.next().unwrap_or_else(|| {
                *end = None;
                None
            })
        });
        socket.set_nonblocking(true).unwrap();
        let mut buf = [0; 200];
        let heard =
            std::iter::from_fn(|| socket.recv(&mut buf).ok().map(|n| String::from_utf8(buf[..n].to_vec()).unwrap()));
        let asked = |status: &str| format!("EXTEND_TIMEOUT_USEC=60000000\nSTATUS=opening{status}");
        let expected = ["", ": 5 MiB read and written", "", "", ""].map(asked);
        assert_eq!(heard.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn system_counts_what_this_thread_reads() {
        assert_eq!(moved("rchar: 12\nwchar: 30\nsyscr: 1\n"), Some(42));
        assert_eq!(moved("rchar: 12\n"), None);
        if cfg!(target_os = "linux") {
            let now = |counter: &PathBuf| moved(&std::fs::read_to_string(counter).unwrap()).unwrap();
            let counter = counter().unwrap();
            let before = now(&counter);
            assert!(now(&counter) > before);
            let elsewhere =
                std::thread::spawn(move || (now(&counter), std::fs::read("/proc/self/maps"), now(&counter)));
            let (before, read, after) = elsewhere.join().unwrap();
            assert!(!read.unwrap().is_empty() && before == after, "another thread counts by itself");
        }
    }
}
