//! The folder that the stores live in, as a port: the real one here, one with faults in the simulation.
//!
//! Invariant of every implementation: what was written before a [`DiskFile::sync`] that succeeded survives a power cut,
//! and so does the name of a file once [`Disk::sync_folder`] succeeded after it was made, renamed or removed. A write
//! changes no byte outside of it, also when it is torn. Nothing is promised of anything else. Every error names its
//! file.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Advice, FallocateFlags};
use rustix::io::Errno;

/// An open file. Positions and lengths in bytes.
#[allow(clippy::len_without_is_empty, reason = "a segment is never asked whether it is empty")]
pub trait DiskFile: Send + Sync {
    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when the file ends before; others as the system says.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// As the system says; then any part may have been written.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes bytes and length durable.
    ///
    /// # Errors
    /// As the system says; then nothing is known of what is durable.
    fn sync(&self) -> io::Result<()>;

    /// Syncs, and makes what is read afterwards what the medium holds. After a sync that failed a system may show bytes
    /// that it never wrote, and forget that it did not; a store that is opened must not build on them.
    ///
    /// # Errors
    /// As for [`DiskFile::sync`].
    fn settle(&self) -> io::Result<()>;

    /// Its length.
    ///
    /// # Errors
    /// As the system says.
    fn len(&self) -> io::Result<u64>;

    /// Cuts it off, or extends it with zeroes.
    ///
    /// # Errors
    /// As the system says.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Gives the space of a part back, which then reads as zeroes; the length stays.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] where files have no holes; others as the system says.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Bytes that it takes of the file system.
    ///
    /// # Errors
    /// As the system says.
    fn allocated(&self) -> io::Result<u64>;

    /// Takes the file for this handle alone, until it is dropped; `false` if another handle has taken it.
    ///
    /// # Errors
    /// As the system says.
    fn try_lock(&self) -> io::Result<bool>;
}

/// A folder of files.
pub trait Disk: Send + Sync {
    /// Opens a file for reading and writing; makes it if `create`.
    ///
    /// # Errors
    /// As the system says.
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>>;

    /// Names of all files, in order.
    ///
    /// # Errors
    /// As the system says.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Gives a file another name, in place of the file that has it. Handles of it stay good.
    ///
    /// # Errors
    /// As the system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// As the system says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes the names of the files durable.
    ///
    /// # Errors
    /// As the system says.
    fn sync_folder(&self) -> io::Result<()>;

    /// Fills `buf` from a regular file outside of the folder; a link as the last part of its path is not followed.
    ///
    /// # Errors
    /// As the system says; [`io::ErrorKind::Unsupported`] where there is nothing outside.
    fn read_outside(&self, _path: &[u8], _buf: &mut [u8], _offset: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// The medium does not give bytes back, as behind a bad sector: what was there is lost, and the rest is not.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(pub String);

impl Unreadable {
    /// Whether an error is one.
    pub fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Self>())
    }
}

/// A folder of the operating system.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
}

/// An error with the path of what it is about.
fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn sync_path(path: &Path) -> io::Result<()> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(|error| named(path, &error))
}

impl Folder {
    /// The folder at a path; made if absent, together with those above it, so that a power cut does not lose it.
    ///
    /// # Errors
    /// When it can be neither found nor made.
    pub fn new(path: PathBuf) -> io::Result<Self> {
        let absent: Vec<&Path> = path.ancestors().take_while(|folder| !folder.exists()).collect();
        std::fs::create_dir_all(&path).map_err(|error| named(&path, &error))?;
        for made in absent {
            let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty());
            sync_path(parent.unwrap_or(Path::new(".")))?;
        }
        Ok(Self { path })
    }
}

/// A file of the operating system.
struct FolderFile {
    file: File,
    path: PathBuf,
}

impl FolderFile {
    fn named<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|error| named(&self.path, &error))
    }
}

impl DiskFile for FolderFile {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset).map_err(|error| {
            let is_medium = error.raw_os_error() == Some(Errno::IO.raw_os_error());
            let error = named(&self.path, &error);
            if is_medium { io::Error::other(Unreadable(error.to_string())) } else { error }
        })
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.named(self.file.write_all_at(bytes, offset))
    }

    fn sync(&self) -> io::Result<()> {
        self.named(self.file.sync_data())
    }

    fn settle(&self) -> io::Result<()> {
        self.sync()?;
        // Only clean pages are dropped, so that nothing is lost where the sync told less than the truth.
        self.named(rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed).map_err(io::Error::from))
    }

    fn len(&self) -> io::Result<u64> {
        self.named(self.file.metadata().map(|metadata| metadata.len()))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.named(self.file.set_len(len))
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.named(rustix::fs::fallocate(&self.file, flags, offset, len).map_err(|error| match error {
            Errno::OPNOTSUPP | Errno::NOSYS => io::Error::new(io::ErrorKind::Unsupported, error),
            error => error.into(),
        }))
    }

    fn allocated(&self) -> io::Result<u64> {
        // The unit of this figure is always 512 bytes.
        self.named(self.file.metadata().map(|metadata| metadata.blocks() * 512))
    }

    fn try_lock(&self) -> io::Result<bool> {
        match self.file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => self.named(Err(error)),
        }
    }
}

impl Disk for Folder {
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.path.join(name);
        let file = OpenOptions::new().read(true).write(true).create(create).truncate(false).open(&path);
        let file = file.map_err(|error| named(&path, &error))?;
        // Chunks are read in no order that reading ahead could guess; a hint that fails costs nothing.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::Random);
        Ok(Arc::new(FolderFile { file, path }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        let entries = std::fs::read_dir(&self.path).map_err(|error| named(&self.path, &error))?;
        for entry in entries {
            let entry = entry.map_err(|error| named(&self.path, &error))?;
            if let Ok(name) = entry.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let path = self.path.join(from);
        std::fs::rename(&path, self.path.join(to)).map_err(|error| named(&path, &error))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let path = self.path.join(name);
        std::fs::remove_file(&path).map_err(|error| named(&path, &error))
    }

    fn sync_folder(&self) -> io::Result<()> {
        sync_path(&self.path)
    }

    fn read_outside(&self, path: &[u8], buf: &mut [u8], offset: u64) -> io::Result<()> {
        crate::outside::read_exact_at(path, buf, offset)
    }
}

/// What was asked of a [`Meter`] since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskFigures {
    /// Bytes handed to writes that succeeded.
    pub written_bytes: u64,
    /// Syncs of files and of the folder, failed ones included.
    pub syncs: u64,
}

#[derive(Default)]
struct Counters {
    written_bytes: AtomicU64,
    syncs: AtomicU64,
}

/// A disk that counts what is written to another one.
pub struct Meter<D> {
    disk: D,
    counters: Arc<Counters>,
}

impl<D: Disk> Meter<D> {
    /// Counts from here on.
    pub fn new(disk: D) -> Self {
        Self { disk, counters: Arc::default() }
    }

    /// The figures so far.
    pub fn figures(&self) -> DiskFigures {
        DiskFigures {
            written_bytes: self.counters.written_bytes.load(Ordering::Relaxed),
            syncs: self.counters.syncs.load(Ordering::Relaxed),
        }
    }
}

impl<D> std::fmt::Debug for Meter<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meter").finish_non_exhaustive()
    }
}

impl<D: Disk + ?Sized> Disk for Box<D> {
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        (**self).open(name, create)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        (**self).list()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        (**self).rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        (**self).remove(name)
    }

    fn sync_folder(&self) -> io::Result<()> {
        (**self).sync_folder()
    }

    fn read_outside(&self, path: &[u8], buf: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_outside(path, buf, offset)
    }
}

impl<D: Disk> Disk for Meter<D> {
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.open(name, create)?;
        Ok(Arc::new(MeteredFile { file, counters: self.counters.clone() }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        self.disk.sync_folder()
    }

    fn read_outside(&self, path: &[u8], buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.disk.read_outside(path, buf, offset)
    }
}

struct MeteredFile {
    file: Arc<dyn DiskFile>,
    counters: Arc<Counters>,
}

impl DiskFile for MeteredFile {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)?;
        self.counters.written_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        self.file.sync()
    }

    fn settle(&self) -> io::Result<()> {
        self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        self.file.settle()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.punch(offset, len)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.file.allocated()
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.file.try_lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_their_file() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Folder::new(dir.path().join("a/b")).unwrap();
        let path = dir.path().join("a/b/file").display().to_string();
        let absent = disk.open("file", false).map(drop).unwrap_err();
        assert!(absent.kind() == io::ErrorKind::NotFound && absent.to_string().contains(&path), "{absent}");
        let file = disk.open("file", true).unwrap();
        let early = file.read_exact_at(&mut [0; 4], 0).unwrap_err();
        assert!(early.kind() == io::ErrorKind::UnexpectedEof && early.to_string().contains(&path), "{early}");
        let blocked = Folder::new(dir.path().join("a/b/file/c")).unwrap_err();
        assert!(blocked.to_string().contains(&path), "{blocked}");
    }

    #[test]
    fn meter_counts_what_is_written_and_synced() {
        let dir = tempfile::tempdir().unwrap();
        let meter = Meter::new(Folder::new(dir.path().to_owned()).unwrap());
        let file = meter.open("file", true).unwrap();
        file.write_all_at(b"abc", 10).unwrap();
        file.sync().unwrap();
        file.settle().unwrap();
        meter.sync_folder().unwrap();
        assert_eq!(meter.figures(), DiskFigures { written_bytes: 3, syncs: 3 });
        assert_eq!(file.len().unwrap(), 13);
    }
}
