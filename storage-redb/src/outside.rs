//! Files outside of the store, in which bytes of chunks were left: only ever read, and never believed; who reads compares
//! with a hash.
//!
//! Invariant: nothing but a regular file is read, a link as the last part of a path is not followed, and no open waits
//! for the other end of a fifo.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

const FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// Opens a regular file to read it.
///
/// # Errors
/// As the system says; a link and what is no regular file are errors too.
pub fn open(path: &[u8]) -> io::Result<File> {
    let file = rustix::fs::open(Path::new(OsStr::from_bytes(path)), FLAGS, Mode::empty());
    let file = match file {
        Err(rustix::io::Errno::LOOP) => return Err(io::Error::other("it is a symlink")),
        file => File::from(file?),
    };
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file")) }
}

/// Fills `buf` from `offset` of the file at `path`.
///
/// # Errors
/// As [`open`]; [`io::ErrorKind::UnexpectedEof`] when the file ends before.
pub fn read_exact_at(path: &[u8], buf: &mut [u8], offset: u64) -> io::Result<()> {
    open(path)?.read_exact_at(buf, offset)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_regular_files_are_read_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).into_os_string().into_encoded_bytes();
        std::fs::write(dir.path().join("file"), b"0123456789").unwrap();
        symlink("file", dir.path().join("link")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, dir.path().join("pipe"), rustix::fs::FileType::Fifo, Mode::RUSR, 0)
            .unwrap();
        let mut buf = [0; 4];
        read_exact_at(&at("file"), &mut buf, 3).unwrap();
        assert_eq!(&buf, b"3456");
        assert_eq!(read_exact_at(&at("file"), &mut buf, 7).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(read_exact_at(&at("file"), &mut buf, u64::MAX).is_err());
        for other in ["link", "pipe", "absent", "."] {
            assert!(read_exact_at(&at(other), &mut buf, 0).is_err(), "{other}");
        }
        assert!(read_exact_at(b"/dev/zero", &mut buf, 0).is_err());
    }
}
