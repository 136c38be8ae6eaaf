//! Reads what is published: a file, a tree or stdin, in the order of the paths' bytes.
//!
//! Invariants: nothing outside the tree is ever opened (every step is relative to an open folder and follows no
//! link); one folder's listing per level is in memory; a file that changes while it is read is an error. Symlinks and
//! special files are skipped and named.

use std::cmp::Ordering;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use bib_core::api::request::LocalFile;
use bib_core::api::{ErrorCode, UploadPart};
use bib_core::limits::CONTROL_DATA_LEN;
use bib_core::model::DatasetPath;
use bib_core::model::manifest::{EntryKind, ManifestKind};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use serde_bytes::ByteBuf;

use crate::error::{CliError, Result};

/// Never follows a link, never waits for the other end of a fifo.
const OPEN_FILE: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);
const OPEN_DIR: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// What is published.
#[derive(Debug)]
pub(crate) enum Source {
    /// What comes on stdin, under this name.
    Stdin {
        /// Name of the one file.
        name: String,
    },
    /// One file.
    File {
        /// Where it is.
        path: PathBuf,
        /// Its name in the version.
        name: String,
    },
    /// A folder.
    Tree {
        /// Where it is.
        path: PathBuf,
    },
}

/// What a first look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Measured {
    pub(crate) bytes: u64,
    pub(crate) files: u64,
    pub(crate) empty_dirs: u64,
}

impl Source {
    /// Looks at what a path is. A link is followed here, as the user named it.
    pub(crate) fn at(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(|error| CliError::io("read", path, &error))?;
        if metadata.is_dir() {
            return Ok(Self::Tree { path: path.to_owned() });
        }
        if !metadata.is_file() {
            return Err(CliError::invalid(format!("`{}` is neither a file nor a folder", path.display()))
                .hint("to publish what a program writes, pipe it: `… | bib publish - <reference>`"));
        }
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| not_utf8(&path.to_string_lossy()))?;
        Ok(Self::File { path: path.to_owned(), name: checked(name.to_owned())? })
    }

    /// File or tree.
    pub(crate) const fn kind(&self) -> ManifestKind {
        match self {
            Self::Stdin { .. } | Self::File { .. } => ManifestKind::File,
            Self::Tree { .. } => ManifestKind::Tree,
        }
    }

    /// Looks at everything without reading it, so that what is wrong is said before a byte is sent.
    pub(crate) fn measure(&self, mut skipped: impl FnMut(&str)) -> Result<Option<Measured>> {
        match self {
            Self::Stdin { .. } => Ok(None),
            Self::File { path, .. } => {
                let metadata = std::fs::metadata(path).map_err(|error| CliError::io("read", path, &error))?;
                Ok(Some(Measured { bytes: metadata.len(), files: 1, empty_dirs: 0 }))
            }
            Self::Tree { path } => {
                let mut measured = Measured::default();
                walk(path, &mut |item| {
                    match item {
                        Item::File { dir, name, path } => {
                            let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
                                .map_err(|error| failed("read", path, error))?;
                            measured.bytes = measured.bytes.saturating_add(stat.st_size as u64);
                            measured.files += 1;
                        }
                        Item::EmptyDir { .. } => measured.empty_dirs += 1,
                        Item::Skipped { what, path } => skipped(&format!("skipped {what} {path}")),
                    }
                    Ok(())
                })?;
                Ok(Some(measured))
            }
        }
    }

    /// The same source by the one path that names it without links, as the node is to find it.
    pub(crate) fn in_place(self) -> Result<Self> {
        let real = |path: PathBuf| path.canonicalize().map_err(|error| CliError::io("read", &path, &error));
        Ok(match self {
            Self::Stdin { .. } => {
                return Err(CliError::invalid("what comes on stdin has no file to stay in")
                    .hint("publish a file or a folder, or leave `--reference` away"));
            }
            Self::File { path, name } => Self::File { path: real(path)?, name },
            Self::Tree { path } => Self::Tree { path: real(path)? },
        })
    }

    /// Shows the files, for the node to see whether it may leave their bytes in place.
    pub(crate) fn files(&self, show: &mut dyn FnMut(LocalFile) -> Result<()>) -> Result<()> {
        let local = |path: &Path, stat: &Stat| LocalFile {
            path: ByteBuf::from(path.as_os_str().as_bytes()),
            device: stat.st_dev,
            inode: stat.st_ino,
        };
        match self {
            Self::Stdin { .. } => Ok(()),
            Self::File { path, .. } => {
                let stat = rustix::fs::lstat(path).map_err(|error| CliError::io("read", path, &error.into()))?;
                show(local(path, &stat))
            }
            Self::Tree { path: root } => walk(root, &mut |item| match item {
                Item::File { dir, name, path } => {
                    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
                        .map_err(|error| failed("read", path, error))?;
                    show(local(&root.join(path), &stat))
                }
                Item::EmptyDir { .. } | Item::Skipped { .. } => Ok(()),
            }),
        }
    }

    /// Reads everything, in order; with `in_place`, says of each file where it lies. Stdin may be silent for long: it counts as ended when the socket to which the parts
    /// go is, and then nothing can be sent any more, not even the end.
    pub(crate) fn send(
        &self,
        socket: Option<BorrowedFd<'_>>,
        in_place: bool,
        part: &mut dyn FnMut(UploadPart) -> Result<()>,
    ) -> Result<()> {
        let place = |path: PathBuf| in_place.then(|| ByteBuf::from(path.into_os_string().into_vec()));
        match self {
            Self::Stdin { name } => {
                part(UploadPart::Entry { path: name.clone(), kind: EntryKind::File })?;
                // Read without the buffer of `std::io`, in which bytes would wait unseen by a poll.
                let stdin = rustix::stdio::stdin().try_clone_to_owned();
                let stdin = File::from(stdin.map_err(|error| CliError::io("read", Path::new("-"), &error))?);
                copy(&mut Watched { file: &stdin, socket }, CONTROL_DATA_LEN, part)
                    .map_err(|error| error.at(Path::new("-")))?;
                Ok(())
            }
            Self::File { path, name } => {
                let file = File::open(path).map_err(|error| CliError::io("read", path, &error))?;
                send_file(file, &path.to_string_lossy(), name, place(path.clone()), part)
            }
            Self::Tree { path: root } => walk(root, &mut |item| match item {
                Item::File { dir, name, path } => {
                    let file =
                        rustix::fs::openat(dir, name, OPEN_FILE, Mode::empty()).map_err(|error| match error {
                            // It was a file when the folder was listed.
                            Errno::LOOP | Errno::NOENT | Errno::NXIO => changed(path),
                            error => failed("read", path, error),
                        })?;
                    send_file(File::from(file), path, path, place(root.join(path)), part)
                }
                Item::EmptyDir { path } => part(UploadPart::Entry { path: path.to_owned(), kind: EntryKind::EmptyDir }),
                Item::Skipped { .. } => Ok(()),
            }),
        }
    }
}

fn send_file(
    file: File,
    shown: &str,
    name: &str,
    place: Option<ByteBuf>,
    part: &mut dyn FnMut(UploadPart) -> Result<()>,
) -> Result<()> {
    let before = stat(&file, shown)?;
    if FileType::from_raw_mode(before.st_mode) != FileType::RegularFile {
        return Err(changed(shown));
    }
    let executable = before.st_mode & 0o100 != 0;
    let kind = if executable { EntryKind::Executable } else { EntryKind::File };
    part(UploadPart::Entry { path: name.to_owned(), kind })?;
    if let Some(place) = place {
        part(UploadPart::InPlace(place))?;
    }
    let size = before.st_size as u64;
    // One byte more than the size, so that the end is seen without a second buffer.
    let buffer = usize::try_from(size.saturating_add(1)).unwrap_or(usize::MAX).min(CONTROL_DATA_LEN);
    let read = copy(&mut &file, buffer, part).map_err(|error| error.at(Path::new(shown)))?;
    let after = stat(&file, shown)?;
    let stamp = |stat: &Stat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
    if read != size || stamp(&before) != stamp(&after) { Err(changed(shown)) } else { Ok(()) }
}

fn stat(file: &File, shown: &str) -> Result<Stat> {
    rustix::fs::fstat(file).map_err(|error| failed("read", shown, error))
}

/// A file that ends when a socket does.
struct Watched<'a> {
    file: &'a File,
    socket: Option<BorrowedFd<'a>>,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if let Some(socket) = &self.socket {
            let mut fds = [PollFd::new(self.file, PollFlags::IN), PollFd::new(socket, PollFlags::empty())];
            // Interrupted is tried again by the caller.
            poll(&mut fds, None)?;
            if fds[1].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
                return Ok(0);
            }
        }
        self.file.read(buffer)
    }
}

/// Why copying stopped: at our side or at the other.
enum CopyError {
    Read(std::io::Error),
    Sent(CliError),
}

impl CopyError {
    fn at(self, path: &Path) -> CliError {
        match self {
            Self::Read(error) => CliError::io("read", path, &error),
            Self::Sent(error) => error,
        }
    }
}

/// Sends everything that can be read, in parts of at most `buffer` bytes; returns how much it was.
fn copy(from: &mut impl Read, buffer: usize, part: &mut dyn FnMut(UploadPart) -> Result<()>) -> Result<u64, CopyError> {
    let mut total = 0u64;
    loop {
        let mut bytes = Vec::with_capacity(buffer);
        let read = from.by_ref().take(buffer as u64).read_to_end(&mut bytes).map_err(CopyError::Read)?;
        total += read as u64;
        if read > 0 {
            part(UploadPart::Data(ByteBuf::from(bytes))).map_err(CopyError::Sent)?;
        }
        // Less than asked for means that the end was seen.
        if read < buffer {
            return Ok(total);
        }
    }
}

/// What a walk meets.
enum Item<'a> {
    File { dir: BorrowedFd<'a>, name: &'a str, path: &'a str },
    EmptyDir { path: &'a str },
    Skipped { what: &'static str, path: &'a str },
}

type Visit<'a> = dyn FnMut(Item<'_>) -> Result<()> + 'a;

fn walk(root: &Path, visit: &mut Visit<'_>) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(root, flags, Mode::empty())
        .map_err(|error| CliError::io("read the folder", root, &error.into()))?;
    walk_dir(&dir, &mut String::new(), visit)
}

/// Recursion is bounded by the longest path: every level adds at least two bytes to it.
fn walk_dir(dir: &OwnedFd, path: &mut String, visit: &mut Visit<'_>) -> Result<()> {
    let len = path.len();
    let children = list(dir, path, visit)?;
    if children.is_empty() && len > 0 {
        // It had something when the folder above was listed, and its place in the order depends on that.
        return Err(changed(path));
    }
    for child in children {
        if len > 0 {
            path.push('/');
        }
        path.push_str(&child.name);
        match child.kind {
            ChildKind::File => visit(Item::File { dir: dir.as_fd(), name: &child.name, path })?,
            ChildKind::EmptyDir => visit(Item::EmptyDir { path })?,
            ChildKind::Dir => {
                let below = open_dir(dir, &child.name, path)?;
                walk_dir(&below, path, visit)?;
            }
        }
        path.truncate(len);
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChildKind {
    File,
    EmptyDir,
    Dir,
}

struct Child {
    name: String,
    kind: ChildKind,
}

/// The order of the whole paths: a folder sorts as if its name ended with `/`, since that is what follows it in the
/// paths below; an empty one has no paths below and sorts as it is.
fn order(a: &Child, b: &Child) -> Ordering {
    fn bytes(child: &Child) -> impl Iterator<Item = u8> {
        child.name.bytes().chain((child.kind == ChildKind::Dir).then_some(b'/'))
    }
    bytes(a).cmp(bytes(b))
}

fn list(dir: &OwnedFd, path: &str, visit: &mut Visit<'_>) -> Result<Vec<Child>> {
    let shown = if path.is_empty() { "." } else { path };
    let mut children = Vec::new();
    for entry in Dir::read_from(dir).map_err(|error| failed("read the folder", shown, error))? {
        let entry = entry.map_err(|error| failed("read the folder", shown, error))?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
        let kind = kind_of(dir, name, entry.file_type())
            .map_err(|error| failed("read", &below(&name.to_string_lossy()), error))?;
        let what = match kind {
            FileType::RegularFile | FileType::Directory => {
                let name = name.to_str().map_err(|_| not_utf8(&below(&name.to_string_lossy())))?;
                let full = checked(below(name))?;
                let kind = match kind {
                    FileType::RegularFile => ChildKind::File,
                    _ if has_content(&open_dir(dir, name, &full)?, &full)? => ChildKind::Dir,
                    _ => ChildKind::EmptyDir,
                };
                children.push(Child { name: name.to_owned(), kind });
                // What an otherwise empty folder holds is not walked, but its links have to be named too.
                if kind == ChildKind::EmptyDir {
                    let name = &children[children.len() - 1].name;
                    let inner = open_dir(dir, name, &full)?;
                    if !list(&inner, &full, visit)?.is_empty() {
                        return Err(changed(&full));
                    }
                }
                continue;
            }
            FileType::Symlink => "symlink",
            FileType::Fifo => "fifo",
            FileType::Socket => "socket",
            FileType::CharacterDevice | FileType::BlockDevice => "device",
            FileType::Unknown => "special file",
        };
        visit(Item::Skipped { what, path: &below(&name.to_string_lossy()) })?;
    }
    children.sort_unstable_by(order);
    Ok(children)
}

fn kind_of(dir: &OwnedFd, name: &std::ffi::CStr, listed: FileType) -> Result<FileType, Errno> {
    if listed != FileType::Unknown {
        return Ok(listed);
    }
    // Some file systems do not say it in the listing.
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

/// Whether a folder holds a file or folder, as opposed to nothing or only what is skipped.
fn has_content(dir: &OwnedFd, path: &str) -> Result<bool> {
    for entry in Dir::read_from(dir).map_err(|error| failed("read the folder", path, error))? {
        let entry = entry.map_err(|error| failed("read the folder", path, error))?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        let kind = kind_of(dir, entry.file_name(), entry.file_type()).map_err(|error| failed("read", path, error))?;
        if matches!(kind, FileType::RegularFile | FileType::Directory) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn open_dir(dir: &OwnedFd, name: &str, path: &str) -> Result<OwnedFd> {
    rustix::fs::openat(dir, name, OPEN_DIR, Mode::empty()).map_err(|error| match error {
        Errno::LOOP | Errno::NOTDIR | Errno::NOENT => changed(path),
        error => failed("read the folder", path, error),
    })
}

fn checked(path: String) -> Result<String> {
    DatasetPath::new(&path)
        .map(String::from)
        .map_err(|error| CliError::invalid(error.to_string()).hint("rename or move the file, then publish again"))
}

fn failed(doing: &str, path: &str, error: Errno) -> CliError {
    CliError::io(doing, path, &error.into())
}

fn not_utf8(path: &str) -> CliError {
    CliError::invalid(format!("the name of `{path}` is not UTF-8")).hint("rename the file, then publish again")
}

fn changed(path: &str) -> CliError {
    CliError::new(ErrorCode::Conflict, format!("`{path}` changed while it was read; nothing was published"))
        .hint("publish again when nothing writes to it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// What a walk sends: path, kind and bytes of each entry.
    fn sent(root: &Path) -> Result<Vec<(String, EntryKind, Vec<u8>)>> {
        let mut entries: Vec<(String, EntryKind, Vec<u8>)> = Vec::new();
        Source::at(root)?.send(None, false, &mut |part| {
            match part {
                UploadPart::Entry { path, kind } => entries.push((path, kind, Vec::new())),
                UploadPart::Data(bytes) => {
                    assert!(!bytes.is_empty() && bytes.len() <= CONTROL_DATA_LEN);
                    entries.last_mut().expect("data follows an entry").2.extend_from_slice(&bytes);
                }
                UploadPart::End | UploadPart::InPlace(_) => unreachable!("sent by the uploader, or not asked for"),
            }
            Ok(())
        })?;
        Ok(entries)
    }

    fn paths(root: &Path) -> Vec<String> {
        sent(root).unwrap().into_iter().map(|(path, ..)| path).collect()
    }

    #[test]
    fn entries_come_in_the_order_of_their_whole_paths() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for file in ["a/b/c", "a.txt", "a-b", "a0", "b", "größe/ä ö.csv", "z/a", "a/b.c"] {
            fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
            fs::write(root.join(file), file).unwrap();
        }
        // An empty folder has no `/` behind its name in its path.
        fs::create_dir_all(root.join("a/e")).unwrap();
        fs::write(root.join("a/e-"), "").unwrap();
        fs::write(root.join("a/e0"), "").unwrap();
        let found = paths(root);
        let mut sorted = found.clone();
        sorted.sort();
        assert_eq!(found, sorted);
        assert_eq!(found.len(), 11);
        assert_eq!(sent(root).unwrap()[1], ("a.txt".to_owned(), EntryKind::File, b"a.txt".to_vec()));
    }

    #[test]
    fn names_of_any_kind_and_empty_things_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let long = "n".repeat(255);
        let euro = "€".repeat(85);
        for name in [long.as_str(), euro.as_str(), " leading space", "new\nline", "-rf", "Ünïcödé 🦀", "back\\slash"]
        {
            fs::write(root.join(name), name).unwrap();
        }
        fs::create_dir(root.join("empty")).unwrap();
        fs::write(root.join("nothing"), "").unwrap();
        fs::write(root.join("run.sh"), "#!").unwrap();
        fs::set_permissions(root.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        let entries = sent(root).unwrap();
        assert_eq!(entries.len(), 10);
        let kind = |name: &str| entries.iter().find(|(path, ..)| path == name).map(|(_, kind, _)| *kind);
        assert_eq!(kind("empty"), Some(EntryKind::EmptyDir));
        assert_eq!(kind("nothing"), Some(EntryKind::File));
        assert_eq!(kind("run.sh"), Some(EntryKind::Executable));
        assert_eq!(kind(&long), Some(EntryKind::File));
        assert_eq!(kind(&euro), Some(EntryKind::File));
    }

    #[test]
    fn links_and_special_files_are_skipped_and_named_once() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("sub/only-links")).unwrap();
        fs::write(root.join("sub/file"), "x").unwrap();
        symlink("..", root.join("sub/loop")).unwrap();
        symlink("/etc/passwd", root.join("sub/only-links/out")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("sock")).unwrap();
        let mut warnings = Vec::new();
        let source = Source::at(root).unwrap();
        let measured = source.measure(|text| warnings.push(text.to_owned())).unwrap();
        warnings.sort();
        assert_eq!(
            warnings,
            [
                "skipped fifo pipe",
                "skipped socket sock",
                "skipped symlink sub/loop",
                "skipped symlink sub/only-links/out"
            ]
        );
        assert_eq!(measured, Some(Measured { bytes: 1, files: 1, empty_dirs: 1 }));
        assert_eq!(paths(root), ["sub/file", "sub/only-links"]);
    }

    #[test]
    fn names_that_are_not_utf8_are_refused_with_their_place() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub").join(std::ffi::OsStr::from_bytes(b"bad\xff")), "").unwrap();
        let error = sent(dir.path()).unwrap_err();
        assert_eq!(error.to_string(), "the name of `sub/bad\u{fffd}` is not UTF-8");
        assert_eq!(error.code(), Some(ErrorCode::Invalid));
    }

    #[test]
    fn files_that_stay_in_place_are_named_by_their_one_path_before_their_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("real/sub")).unwrap();
        fs::write(root.join("real/a"), "aa").unwrap();
        fs::write(root.join("real/sub/b"), "").unwrap();
        symlink(root.join("real"), root.join("link")).unwrap();
        let source = Source::at(&root.join("link")).unwrap().in_place().unwrap();
        let mut parts = Vec::new();
        source
            .send(None, true, &mut |part| {
                parts.push(part);
                Ok(())
            })
            .unwrap();
        let place =
            |name: &str| UploadPart::InPlace(ByteBuf::from(root.join("real").join(name).into_os_string().into_vec()));
        let entry = |path: &str| UploadPart::Entry { path: path.to_owned(), kind: EntryKind::File };
        let data = UploadPart::Data(ByteBuf::from(b"aa"));
        assert_eq!(parts, [entry("a"), place("a"), data, entry("sub/b"), place("sub/b")]);
        let mut files = Vec::new();
        source
            .files(&mut |file| {
                files.push(file);
                Ok(())
            })
            .unwrap();
        let named: Vec<UploadPart> = files.iter().map(|file| UploadPart::InPlace(file.path.clone())).collect();
        assert_eq!(named, [place("a"), place("sub/b")]);
        let stat = rustix::fs::stat(root.join("real/a")).unwrap();
        assert_eq!((files[0].device, files[0].inode), (stat.st_dev, stat.st_ino));
        assert!(Source::Stdin { name: "x".to_owned() }.in_place().is_err());
    }

    /// Makes folders of one name inside each other, deeper than a path may be long.
    fn deep(root: &Path, name: &str, levels: usize) -> OwnedFd {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let mut dir = rustix::fs::open(root, flags, Mode::empty()).unwrap();
        for _ in 0..levels {
            rustix::fs::mkdirat(&dir, name, Mode::RWXU).unwrap();
            dir = rustix::fs::openat(&dir, name, flags, Mode::empty()).unwrap();
        }
        dir
    }

    #[test]
    fn trees_are_walked_as_deep_as_paths_go_and_deeper_ones_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let bottom = deep(dir.path(), "d", 510);
        drop(rustix::fs::openat(&bottom, "f", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap());
        let found = paths(dir.path());
        assert_eq!(found, ["d/".repeat(510) + "f"]);

        let dir = tempfile::tempdir().unwrap();
        let bottom = deep(dir.path(), &"x".repeat(200), 25);
        drop(rustix::fs::openat(&bottom, "f", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap());
        let error = sent(dir.path()).unwrap_err();
        assert!(error.to_string().contains("longer than 1,024 bytes"), "{error}");
    }

    #[test]
    fn file_that_changes_while_it_is_read_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        for change in ["grow", "shrink", "rewrite"] {
            fs::write(&path, vec![1; 3 * CONTROL_DATA_LEN]).unwrap();
            // An old time, so that the rewrite shows whatever the resolution of the clock is.
            let old = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
            File::options().write(true).open(&path).unwrap().set_times(old).unwrap();
            let mut parts = 0;
            let result = Source::at(&path).unwrap().send(None, false, &mut |part| {
                if matches!(part, UploadPart::Data(_)) {
                    parts += 1;
                    if parts == 1 {
                        let file = File::options().write(true).open(&path).unwrap();
                        match change {
                            "grow" => file.set_len(4 * CONTROL_DATA_LEN as u64).unwrap(),
                            "shrink" => file.set_len(2 * CONTROL_DATA_LEN as u64).unwrap(),
                            _ => std::io::Write::write_all(&mut &file, b"other").unwrap(),
                        }
                    }
                }
                Ok(())
            });
            assert_eq!(result.unwrap_err().code(), Some(ErrorCode::Conflict), "{change}");
        }
    }

    #[test]
    fn file_that_becomes_a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "a").unwrap();
        fs::write(dir.path().join("b"), "b").unwrap();
        let result = Source::at(dir.path()).unwrap().send(None, false, &mut |part| {
            if matches!(&part, UploadPart::Entry { path, .. } if path == "a") {
                fs::remove_file(dir.path().join("b")).unwrap();
                symlink("/etc/passwd", dir.path().join("b")).unwrap();
            }
            Ok(())
        });
        assert_eq!(result.unwrap_err().code(), Some(ErrorCode::Conflict));
    }
}
