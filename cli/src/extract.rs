//! Writes what is fetched below one folder.
//!
//! Invariants: nothing is written outside the folder, as every step is relative to an open folder and follows no
//! link; a file appears under its name only when all its bytes have the hash that its entry says, and replaces what
//! was there at once; what is left of a file that was given up is removed.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bib_core::api::ErrorCode;
use bib_core::hash::Hasher;
use bib_core::id::ContentId;
use bib_core::model::DatasetPath;
use bib_core::model::manifest::{Entry, EntryKind};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{CliError, Result};
use crate::keys;

const OPEN_DIR: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const CREATE: OFlags =
    OFlags::RDWR.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Writes files below a folder.
#[derive(Debug)]
pub(crate) struct Extractor {
    root: OwnedFd,
    shown: PathBuf,
    /// Open folders from the root to where the last file went, with their names.
    open: Vec<(String, OwnedFd)>,
    current: Option<Current>,
    n_files: u64,
}

/// The file that is being written.
#[derive(Debug)]
struct Current {
    temp: TempFile,
    name: String,
    shown: String,
    hasher: Hasher,
    written: u64,
    size: u64,
    content: ContentId,
}

/// A file under a temporary name, removed unless it was renamed.
#[derive(Debug)]
struct TempFile {
    dir: OwnedFd,
    name: String,
    file: File,
    renamed: bool,
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.renamed {
            // It may be gone with its folder.
            let _ = rustix::fs::unlinkat(&self.dir, self.name.as_str(), AtFlags::empty());
        }
    }
}

impl Extractor {
    /// Makes the folder if there is none. A link at its end is followed, as the user named it.
    pub(crate) fn create(root: &Path) -> Result<Self> {
        let root = if root.as_os_str().is_empty() { Path::new(".") } else { root };
        std::fs::create_dir_all(root).map_err(|error| CliError::io("make the folder", root, &error))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(root, flags, Mode::empty())
            .map_err(|error| CliError::io("open the folder", root, &error.into()))?;
        Ok(Self { root: dir, shown: root.to_owned(), open: Vec::new(), current: None, n_files: 0 })
    }

    /// Begins an entry, after ending the one before it. `path` is where it goes below the folder.
    pub(crate) fn begin(&mut self, path: &str, entry: &Entry) -> Result<()> {
        self.end_file()?;
        // Checked again, whatever the node said.
        let path = DatasetPath::new(path).map_err(|error| {
            CliError::new(ErrorCode::Integrity, error.to_string()).hint("the version has a path that cannot be written")
        })?;
        let (folders, name) = match path.as_str().rsplit_once('/') {
            Some((folders, name)) => (Some(folders), name),
            None => (None, path.as_str()),
        };
        if entry.kind == EntryKind::EmptyDir {
            return self.enter(Some(path.as_str()));
        }
        self.enter(folders)?;
        let dir = self.open.last().map_or(&self.root, |(_, dir)| dir);
        let shown = self.shown.join(path.as_str()).display().to_string();
        let fail = |error: Errno| CliError::io("write", &shown, &error.into());
        let dir = rustix::io::fcntl_dupfd_cloexec(dir, 0).map_err(fail)?;
        let mode = if entry.kind == EntryKind::Executable { 0o777 } else { 0o666 };
        let temp_name = format!(".bib-{:016x}.part", u64::from_be_bytes(keys::random()?));
        let file = rustix::fs::openat(&dir, temp_name.as_str(), CREATE, Mode::from_raw_mode(mode)).map_err(fail)?;
        self.current = Some(Current {
            temp: TempFile { dir, name: temp_name, file: File::from(file), renamed: false },
            name: name.to_owned(),
            shown,
            hasher: Hasher::new(),
            written: 0,
            size: entry.size,
            content: entry.content,
        });
        Ok(())
    }

    /// Adds bytes to the file begun last.
    pub(crate) fn data(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(current) = &mut self.current else {
            return Err(CliError::new(ErrorCode::Internal, "the node sent bytes of no file"));
        };
        current.written = current.written.saturating_add(bytes.len() as u64);
        if current.written > current.size {
            return Err(current.damaged());
        }
        current.hasher.update(bytes);
        current.temp.file.write_all(bytes).map_err(|error| CliError::io("write", &current.shown, &error))
    }

    /// Makes the file begun last a clone of another one, which is then hashed as if it had been written. Returns whether
    /// that worked; else nothing has come yet.
    pub(crate) fn clone_from(&mut self, path: &[u8]) -> Result<bool> {
        let Some(current) = &mut self.current else {
            return Err(CliError::new(ErrorCode::Internal, "the node named the place of no file"));
        };
        if current.written > 0 || crate::clone::clone(path, &current.temp.file, current.size).is_err() {
            return Ok(false);
        }
        let fail = |error: std::io::Error| CliError::io("read", &current.shown, &error);
        let (mut hasher, mut buffer, mut at) = (Hasher::new(), vec![0; READ_AT_ONCE], 0_u64);
        loop {
            let read = current.temp.file.read_at(&mut buffer, at).map_err(fail)?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            at += read as u64;
        }
        if at != current.size || hasher.clone().finish() != *current.content.as_bytes() {
            current.temp.file.set_len(0).map_err(fail)?;
            return Ok(false);
        }
        (current.hasher, current.written) = (hasher, at);
        Ok(true)
    }

    /// Ends the file begun last: checks it and gives it its name.
    fn end_file(&mut self) -> Result<()> {
        let Some(mut current) = self.current.take() else { return Ok(()) };
        if current.written != current.size || current.hasher.finish() != *current.content.as_bytes() {
            return Err(current.damaged());
        }
        let Current { temp, name, shown, .. } = &mut current;
        let fail = |error: Errno| CliError::io("write", &*shown, &error.into());
        // What is replaced must not be lost when the power goes before the new bytes are on disk.
        let replaces = rustix::fs::statat(&temp.dir, name.as_str(), AtFlags::SYMLINK_NOFOLLOW).is_ok();
        let alone = self.n_files < SYNCED_ALONE || !SYNCS_TOGETHER;
        if replaces || alone {
            rustix::fs::fsync(&temp.file).map_err(fail)?;
        }
        rustix::fs::renameat(&temp.dir, temp.name.as_str(), &temp.dir, name.as_str()).map_err(|error| match error {
            Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST => in_the_way(shown, "folder"),
            error => fail(error),
        })?;
        temp.renamed = true;
        if alone {
            rustix::fs::fsync(&temp.dir).map_err(fail)?;
        }
        self.n_files += 1;
        Ok(())
    }

    /// Ends the last file and makes everything durable. Returns the number of files.
    pub(crate) fn finish(mut self) -> Result<u64> {
        self.end_file()?;
        if self.n_files > SYNCED_ALONE {
            sync(&self.root).map_err(|error| CliError::io("write", &self.shown, &error.into()))?;
        }
        Ok(self.n_files)
    }

    /// Opens the folders on the way, making those that are missing. Entries come in order, so the folders of the last
    /// one are mostly those of the next.
    fn enter(&mut self, folders: Option<&str>) -> Result<()> {
        let names: Vec<&str> = folders.map_or_else(Vec::new, |folders| folders.split('/').collect());
        let common = self.open.iter().zip(&names).take_while(|((open, _), name)| open == *name).count();
        self.open.truncate(common);
        for name in &names[common..] {
            let dir = self.open.last().map_or(&self.root, |(_, dir)| dir);
            let shown = || {
                let mut path = self.shown.clone();
                path.extend(self.open.iter().map(|(name, _)| name.as_str()));
                path.join(name).display().to_string()
            };
            let below = match rustix::fs::openat(dir, *name, OPEN_DIR, Mode::empty()) {
                Err(Errno::NOENT) => {
                    match rustix::fs::mkdirat(dir, *name, Mode::from_raw_mode(0o777)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(CliError::io("make the folder", shown(), &error.into())),
                    }
                    rustix::fs::openat(dir, *name, OPEN_DIR, Mode::empty())
                }
                other => other,
            };
            let below = below.map_err(|error| match error {
                Errno::LOOP | Errno::NOTDIR => {
                    let stat = rustix::fs::statat(dir, *name, AtFlags::SYMLINK_NOFOLLOW);
                    let is_link = stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
                    in_the_way(&shown(), if is_link { "symlink" } else { "file" })
                }
                error => CliError::io("open the folder", shown(), &error.into()),
            })?;
            self.open.push(((*name).to_owned(), below));
        }
        Ok(())
    }
}

impl Current {
    fn damaged(&self) -> CliError {
        CliError::new(
            ErrorCode::Integrity,
            format!("the bytes of `{}` are not those that its version names; it was not written", self.name),
        )
    }
}

fn in_the_way(shown: &str, what: &str) -> CliError {
    CliError::new(ErrorCode::Conflict, format!("`{shown}` is a {what}, which is not replaced or followed"))
        .hint("move it away, or choose another place with `-o`")
}

/// Bytes of a clone that are hashed at once.
const READ_AT_ONCE: usize = 256 << 10;

/// So many files are made durable one by one. For more it is cheaper to do it for the whole file system in the end,
/// though that waits for what other programs have written too.
const SYNCED_ALONE: u64 = 32;

/// Whether one call makes everything of a file system durable; elsewhere every file is made so by itself.
const SYNCS_TOGETHER: bool = cfg!(target_os = "linux");

#[cfg(target_os = "linux")]
fn sync(root: &impl AsFd) -> Result<(), Errno> {
    rustix::fs::syncfs(root)
}

#[cfg(not(target_os = "linux"))]
fn sync(root: &impl AsFd) -> Result<(), Errno> {
    rustix::fs::fsync(root)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bib_core::hash::hash;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn entry(path: &str, kind: EntryKind, bytes: &[u8]) -> Entry {
        Entry {
            path: DatasetPath::new(path).unwrap(),
            kind,
            size: bytes.len() as u64,
            content: ContentId::from_bytes(hash(bytes)),
            offset: 0,
        }
    }

    fn file(path: &str, bytes: &[u8]) -> Entry {
        entry(path, EntryKind::File, bytes)
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn tree_is_written_with_its_bits_and_empty_folders_and_merges() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        fs::create_dir_all(out.join("a")).unwrap();
        fs::write(out.join("a/old"), "stays").unwrap();
        fs::write(out.join("a/x"), "is replaced").unwrap();
        let mut extractor = Extractor::create(&out).unwrap();
        extractor.begin("a/b/empty", &entry("a/b/empty", EntryKind::EmptyDir, b"")).unwrap();
        extractor.begin("a/b/run", &entry("a/b/run", EntryKind::Executable, b"#!")).unwrap();
        extractor.data(b"#!").unwrap();
        extractor.begin("a/x", &file("a/x", b"new")).unwrap();
        extractor.data(b"n").unwrap();
        extractor.data(b"ew").unwrap();
        extractor.begin("nothing", &file("nothing", b"")).unwrap();
        assert_eq!(extractor.finish().unwrap(), 3);
        assert_eq!(names(&out), ["a", "nothing"]);
        assert_eq!(names(&out.join("a")), ["b", "old", "x"]);
        assert_eq!(fs::read(out.join("a/x")).unwrap(), b"new");
        assert!(fs::metadata(out.join("a/b/empty")).unwrap().is_dir());
        assert_ne!(fs::metadata(out.join("a/b/run")).unwrap().permissions().mode() & 0o100, 0);
        assert_eq!(fs::metadata(out.join("a/x")).unwrap().permissions().mode() & 0o111, 0);
    }

    #[test]
    fn wrong_bytes_leave_no_file_and_keep_the_old_one() {
        for (bytes, said) in [(b"bad".as_slice(), b"good".as_slice()), (b"goo", b"good"), (b"goodies", b"good")] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("f"), "old").unwrap();
            let mut extractor = Extractor::create(dir.path()).unwrap();
            extractor.begin("f", &file("f", said)).unwrap();
            let result = extractor.data(bytes).and_then(|()| extractor.finish().map(|_| ()));
            assert_eq!(result.unwrap_err().code(), Some(ErrorCode::Integrity));
            assert_eq!(names(dir.path()), ["f"]);
            assert_eq!(fs::read(dir.path().join("f")).unwrap(), b"old");
        }
    }

    #[test]
    fn what_cannot_be_cloned_is_written_as_always() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let other = dir.path().join("other");
        fs::write(&other, "bad!").unwrap();
        let mut extractor = Extractor::create(&out).unwrap();
        // Of the same length and with other bytes, absent, and in another place after bytes have come.
        for path in [other.as_path(), Path::new("/absent")] {
            extractor.begin("f", &file("f", b"good")).unwrap();
            assert!(!extractor.clone_from(path.as_os_str().as_bytes()).unwrap());
            extractor.data(b"go").unwrap();
            assert!(!extractor.clone_from(path.as_os_str().as_bytes()).unwrap());
            extractor.data(b"od").unwrap();
        }
        extractor.finish().unwrap();
        assert_eq!(names(&out), ["f"]);
        assert_eq!(fs::read(out.join("f")).unwrap(), b"good");
    }

    /// Wherever the folder of the test lies: the file is there, cloned or not, and the original as it was.
    #[test]
    fn clone_has_the_bytes_of_its_original_and_none_of_its_future() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        let original = dir.path().join("original");
        let bytes = b"good".repeat(100_000);
        fs::write(&original, &bytes).unwrap();
        let mut extractor = Extractor::create(&dir.path().join("out")).unwrap();
        extractor.begin("f", &file("f", &bytes)).unwrap();
        if !extractor.clone_from(original.as_os_str().as_bytes()).unwrap() {
            extractor.data(&bytes).unwrap();
        }
        extractor.finish().unwrap();
        fs::write(&original, "changed").unwrap();
        assert!(fs::read(dir.path().join("out/f")).unwrap() == bytes);
    }

    #[test]
    fn file_that_was_given_up_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut extractor = Extractor::create(dir.path()).unwrap();
        extractor.begin("f", &file("f", b"good")).unwrap();
        extractor.data(b"go").unwrap();
        assert_eq!(names(dir.path()).len(), 1);
        drop(extractor);
        assert_eq!(names(dir.path()), Vec::<String>::new());
    }

    #[test]
    fn links_are_replaced_or_refused_but_never_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (out, outside) = (dir.path().join("out"), dir.path().join("outside"));
        fs::create_dir(&out).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("victim"), "safe").unwrap();
        symlink(&outside, out.join("dir")).unwrap();
        symlink(outside.join("victim"), out.join("file")).unwrap();

        let mut extractor = Extractor::create(&out).unwrap();
        let refused = extractor.begin("dir/new", &file("dir/new", b"x")).unwrap_err();
        assert_eq!(refused.code(), Some(ErrorCode::Conflict));
        assert!(refused.to_string().contains("is a symlink"), "{refused}");
        let refused = extractor.begin("dir", &entry("dir", EntryKind::EmptyDir, b"")).unwrap_err();
        assert_eq!(refused.code(), Some(ErrorCode::Conflict));

        extractor.begin("file", &file("file", b"x")).unwrap();
        extractor.data(b"x").unwrap();
        extractor.finish().unwrap();
        assert!(fs::symlink_metadata(out.join("file")).unwrap().is_file());
        assert_eq!(fs::read(outside.join("victim")).unwrap(), b"safe");
        assert_eq!(names(&outside), ["victim"]);
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let mut extractor = Extractor::create(&out).unwrap();
        for path in ["../evil", "/tmp/evil", "a/../../evil", "", "a//b", "."] {
            assert!(extractor.begin(path, &file("f", b"")).is_err(), "{path}");
        }
        drop(extractor);
        assert_eq!(names(dir.path()), ["out"]);
        assert_eq!(names(&out), Vec::<String>::new());
    }

    #[test]
    fn folder_in_the_way_of_a_file_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("f")).unwrap();
        let mut extractor = Extractor::create(dir.path()).unwrap();
        extractor.begin("f", &file("f", b"")).unwrap();
        assert_eq!(extractor.finish().unwrap_err().code(), Some(ErrorCode::Conflict));
        assert_eq!(names(dir.path()), ["f"]);
    }

    #[test]
    fn long_names_and_deep_folders_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut extractor = Extractor::create(dir.path()).unwrap();
        let long = "n".repeat(255);
        let deep = format!("{}{long}", "d/".repeat(380));
        extractor.begin(&deep, &file(&deep, b"x")).unwrap();
        extractor.data(b"x").unwrap();
        assert_eq!(extractor.finish().unwrap(), 1);
        assert_eq!(fs::read(dir.path().join(deep)).unwrap(), b"x");
    }
}
