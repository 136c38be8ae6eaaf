//! One process per data directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bib_core::port::StoreError;

/// Name of the file in the data directory.
const NAME: &str = "lock";

/// Holds a data directory for this process, until it is dropped or the process ends in any way.
#[derive(Debug)]
pub struct DataDirLock {
    // Closing the file gives the lock back. The file itself stays: removing it would let a process that opened it
    // before and one that makes it anew both believe that they hold the lock.
    _file: File,
}

impl DataDirLock {
    /// Takes the lock of a data directory, which must exist.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process holds it; [`StoreError::Io`] when the file can be neither opened nor
    /// made.
    pub fn take(data_dir: &Path) -> Result<Self, StoreError> {
        let path = data_dir.join(NAME);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let file = file.map_err(named)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => {
                let process = holder(&file).map_or_else(String::new, |pid| format!(" (process {pid})"));
                Err(StoreError::Locked(format!(
                    "{} belongs to a node that is running{process}; stop that node, or give this one another data directory",
                    data_dir.display()
                )))
            }
            Err(TryLockError::Error(error)) => Err(named(error).into()),
        }
    }
}

/// Bytes that are read of the system's list of locks; a machine has more locks than that only when something is wrong.
const MAX_LOCKS_LEN: u64 = 1 << 20;

/// The process that holds the lock of a file, where the system says.
fn holder(file: &File) -> Option<u32> {
    let metadata = file.metadata().ok()?;
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(File::open("/proc/locks").ok()?, MAX_LOCKS_LEN), &mut text).ok()?;
    find_holder(&text, metadata.dev(), metadata.ino())
}

/// Finds a lock in lines such as `1: FLOCK  ADVISORY  WRITE 812 fd:01:262148 0 EOF`.
fn find_holder(text: &str, dev: u64, ino: u64) -> Option<u32> {
    let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
    let place = format!("{major:02x}:{minor:02x}:{ino}");
    text.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            // Those who wait for it have an arrow in the second place.
            [_, "FLOCK", _, _, pid, found, ..] if found == place => pid.parse().ok().filter(|pid| *pid > 0),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_opener_is_refused_until_the_first_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let first = DataDirLock::take(folder.path()).unwrap();
        let refused = DataDirLock::take(folder.path()).unwrap_err();
        let named = folder.path().display().to_string();
        assert!(matches!(&refused, StoreError::Locked(why) if why.contains(&named)), "{refused}");
        drop(first);
        DataDirLock::take(folder.path()).unwrap();
    }

    #[test]
    fn holder_is_found_by_file_and_not_among_those_who_wait() {
        let (dev, ino) = (rustix::fs::makedev(0xfd, 1), 262_148);
        let held = "1: POSIX  ADVISORY  WRITE 7 fd:01:262148 0 EOF\n1: -> FLOCK  ADVISORY  WRITE 9 fd:01:262148 0 EOF\n\
                    2: FLOCK  ADVISORY  WRITE 812 fd:01:262148 0 EOF\n3: FLOCK  ADVISORY  WRITE 5 fd:01:1 0 EOF\n";
        assert_eq!(find_holder(held, dev, ino), Some(812));
        assert_eq!(find_holder(held, dev, 7), None);
        assert_eq!(find_holder("1: FLOCK  ADVISORY  WRITE 0 fd:01:262148 0 EOF", dev, ino), None);
        assert_eq!(find_holder("nonsense\n\n1:", dev, ino), None);
    }

    #[test]
    fn absent_directory_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let refused = DataDirLock::take(&folder.path().join("absent")).unwrap_err();
        assert!(matches!(&refused, StoreError::Io(why) if why.to_string().contains("absent")), "{refused}");
    }
}
