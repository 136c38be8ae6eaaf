//! Makes a file a clone of another one, where the file system lets both share their blocks until one is written.
//!
//! Invariant: nothing of the other file is believed: whoever clones hashes what came of it.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, Stat};

/// Never follows a link, never waits for the other end of a fifo.
const OPEN: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// Whether a file is worth cloning for one of `size` bytes: anything else cannot have the same bytes.
fn may_be(stat: &Stat, size: u64) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && u64::try_from(stat.st_size) == Ok(size)
}

/// Makes `to`, which is empty, a clone of the file at `path`, if that has `size` bytes.
///
/// # Errors
/// As the system says; [`io::ErrorKind::Unsupported`] when the file is another one, or cloning is not known here.
pub(crate) fn clone(path: &[u8], to: &File, size: u64) -> io::Result<()> {
    let original = rustix::fs::open(Path::new(OsStr::from_bytes(path)), OPEN, Mode::empty())?;
    if !may_be(&rustix::fs::fstat(&original)?, size) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    share(&File::from(original), to)
}

#[cfg(target_os = "linux")]
fn share(original: &File, to: &File) -> io::Result<()> {
    Ok(rustix::fs::ioctl_ficlone(to, original)?)
}

#[cfg(not(target_os = "linux"))]
fn share(_original: &File, _to: &File) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_regular_file_of_the_same_size_is_tried() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "12345").unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let stat = |name: &str| rustix::fs::stat(at(name)).unwrap();
        assert!(may_be(&stat("file"), 5));
        assert!(!may_be(&stat("file"), 4) && !may_be(&stat("pipe"), 0) && !may_be(&stat("."), 5));
        let to = File::create_new(at("to")).unwrap();
        for name in ["link", "pipe", "absent", "."] {
            assert!(clone(at(name).as_os_str().as_bytes(), &to, 5).is_err(), "{name}");
        }
        assert!(clone(at("file").as_os_str().as_bytes(), &to, 4).is_err());
        assert_eq!(to.metadata().unwrap().len(), 0);
    }
}
