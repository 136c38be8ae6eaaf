//! A node as a service of systemd: what the service manager is told, and whether the log is its journal.
//!
//! Invariant: without a manager nothing here runs, and nothing that is told fails or holds up the node: a message waits
//! a second at most for a manager that is behind, and is left out then.
//!
//! Deliberately absent: sockets handed over by the manager, and libraries of systemd: the protocol is a datagram with
//! lines of text, the same for any manager that sets `NOTIFY_SOCKET`.

mod manager;
mod opening;
mod report;

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

pub use manager::Manager;
pub(crate) use report::report;

/// Whether a stream is the one that the manager connected to the journal, of which it left device and number of the file
/// in `JOURNAL_STREAM`. A stream that was redirected since is another one.
pub fn is_journal(variable: Option<&str>, stream: impl AsFd) -> bool {
    let numbers = variable.and_then(|text| text.split_once(':'));
    let numbers = numbers.and_then(|(dev, ino)| Some((dev.parse::<u64>().ok()?, ino.parse::<u64>().ok()?)));
    let own = stream.as_fd().try_clone_to_owned().and_then(|own| File::from(own).metadata());
    own.is_ok_and(|own| numbers == Some((own.dev(), own.ino())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journal_is_the_file_with_these_numbers_only() {
        let file = tempfile::tempfile().unwrap();
        let data = file.metadata().unwrap();
        let own = format!("{}:{}", data.dev(), data.ino());
        assert!(is_journal(Some(&own), &file));
        let other = format!("{}:{}", data.dev(), data.ino() + 1);
        for variable in [None, Some(""), Some(":"), Some("8:"), Some("-1:-1"), Some(other.as_str())] {
            assert!(!is_journal(variable, &file), "{variable:?}");
        }
    }
}
