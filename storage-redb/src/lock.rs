//! One process per data directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
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
            Err(TryLockError::WouldBlock) => Err(StoreError::Locked(format!(
                "{} belongs to a node that is running; stop that node, or give this one another data directory",
                data_dir.display()
            ))),
            Err(TryLockError::Error(error)) => Err(named(error).into()),
        }
    }
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
    fn absent_directory_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let refused = DataDirLock::take(&folder.path().join("absent")).unwrap_err();
        assert!(matches!(&refused, StoreError::Io(why) if why.to_string().contains("absent")), "{refused}");
    }
}
