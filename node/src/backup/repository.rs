//! A backup as it lies on a disk: header, chunk store, snapshots.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use argon2::{Algorithm, Argon2, Params, Version};
use bib_core::backup::{BackupHeader, BackupKey, Kdf, Slot, Snapshot, SnapshotFile, StoreKeys};
use bib_core::encode::{DecodeError, decode, encode};
use bib_core::id::{NodeId, UserId};
use bib_core::key::SecretKey;
use bib_core::limits::{BACKUP_KDF_MEMORY, BACKUP_KDF_PASSES, MAX_BACKUP_HEADER_LEN, MAX_SNAPSHOT_LEN};
use bib_core::port::StoreError;
use bib_core::time::Timestamp;
use bib_storage_redb::crypto::Keyring;
use bib_storage_redb::{Bounds, Folder, SegmentStore};
use serde_bytes::{ByteArray, ByteBuf};
use zeroize::Zeroizing;

use super::archive::{Archive, first_entry};
use super::error::BackupError;

const HEADER: &str = "backup.bib";
const SEGMENTS: &str = "segments";
const SNAPSHOTS: &str = "snapshots";
/// The index of the chunk store, and what it is called once it is found damaged.
const INDEX: &str = "index.redb";
const INDEX_DAMAGED: &str = "index.redb.damaged";
/// Says that a folder is for the index of an archive, and may be removed.
const SCRATCH_MARK: &str = "scratch";
const SNAPSHOT: &str = ".snap";
const UNFINISHED: &str = ".new";
/// Names that are archives; any other one is a folder.
const ARCHIVES: [&str; 2] = [".tar", ".bibbackup"];
/// What seals snapshots instead of a table of the catalog.
const SNAPSHOT_TABLE: u8 = 0xf0;
/// Memory for pages of the index.
const INDEX_CACHE: usize = 2 << 20;

type Result<T, E = BackupError> = std::result::Result<T, E>;

/// Where a backup is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A folder, to which each snapshot adds what is new.
    Folder(PathBuf),
    /// One file with one snapshot.
    File(PathBuf),
}

impl Place {
    /// What a path means: what is there, or else what its name says.
    pub(crate) fn of(path: &Path) -> Self {
        let named = path.to_str().is_some_and(|path| ARCHIVES.iter().any(|end| path.ends_with(end)));
        match path.metadata() {
            Ok(metadata) if metadata.is_dir() => Self::Folder(path.to_owned()),
            Ok(_) => Self::File(path.to_owned()),
            Err(_) if named => Self::File(path.to_owned()),
            Err(_) => Self::Folder(path.to_owned()),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Folder(path) | Self::File(path) => path,
        }
    }
}

/// What opens a backup.
pub(crate) enum Unlock<'a> {
    /// A passphrase.
    Passphrase(&'a str),
    /// The identity of a node, or the key of a user.
    Secret(&'a SecretKey),
    /// The key itself, taken out of its box elsewhere.
    Key(&'a BackupKey),
}

impl Unlock<'_> {
    const fn name(&self) -> &'static str {
        match self {
            Self::Passphrase(_) => "this passphrase",
            Self::Secret(_) => "the identity of this node",
            Self::Key(_) => "this key",
        }
    }
}

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(bytes.as_mut_slice())
        .map_err(|error| BackupError::io("read", Path::new("random numbers"))(error.into()))?;
    Ok(bytes)
}

/// The key that a passphrase becomes.
fn derive(passphrase: &str, kdf: &Kdf) -> Result<BackupKey> {
    let bad = |error: argon2::Error| BackupError::Damaged(format!("its passphrase slot: {error}"));
    let params = Params::new(kdf.memory_kib, kdf.passes, kdf.lanes, Some(32)).map_err(bad)?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), kdf.salt.as_slice(), key.as_mut_slice())
        .map_err(bad)?;
    Ok(key)
}

fn keyring(key: &BackupKey) -> Arc<Keyring> {
    let keys = StoreKeys::of(key);
    let keyring = Keyring::new([(1, keys.data)].into(), &keys.index, &keys.names);
    Arc::new(keyring.expect("one data key with the number 1 makes a keyring"))
}

/// What the backup is kept in.
enum Kept {
    Folder(PathBuf),
    Archive {
        archive: Archive,
        /// While it is written: its name until it is whole.
        part: Option<PathBuf>,
        path: PathBuf,
        _scratch: Scratch,
    },
}

/// A folder for the index of an archive; removed when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn make(path: PathBuf) -> Result<(Self, Folder)> {
        // One that a kill left behind goes; a folder of somebody else does not.
        if path.join(SCRATCH_MARK).is_file() {
            std::fs::remove_dir_all(&path).map_err(BackupError::io("clear", &path))?;
        }
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(BackupError::InTheWay(path)),
            made => made.map_err(BackupError::io("make", &path))?,
        }
        let scratch = Self(path);
        let mark = scratch.0.join(SCRATCH_MARK);
        File::create_new(&mark).map_err(BackupError::io("make", &mark))?;
        let folder = Folder::new(scratch.0.clone()).map_err(BackupError::io("make", &scratch.0))?;
        Ok((scratch, folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next one.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An open backup. Its chunk store is locked for this process.
pub(crate) struct Repository {
    header: BackupHeader,
    keyring: Arc<Keyring>,
    chunks: SegmentStore,
    kept: Kept,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repository").finish_non_exhaustive()
    }
}

fn no_backup(path: &Path, reason: impl ToString) -> BackupError {
    BackupError::NoBackup { path: path.to_owned(), reason: reason.to_string() }
}

fn decode_header(path: &Path, bytes: &[u8]) -> Result<BackupHeader> {
    match decode::<BackupHeader>(bytes) {
        Ok(header) if header.is_plausible() => Ok(header),
        Ok(_) => Err(no_backup(path, "its header asks for more than any that is written")),
        Err(DecodeError::Unsupported { .. }) => Err(BackupError::Unsupported(path.display().to_string())),
        Err(error) => Err(no_backup(path, error)),
    }
}

/// Reads a short file, never more than `max` bytes of it.
fn read_short(path: &Path, max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(max as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The header of a backup.
///
/// # Errors
/// [`BackupError`] when there is none, or it cannot be used.
pub(crate) fn read_header(place: &Place) -> Result<BackupHeader> {
    let path = place.path();
    let bytes = match place {
        Place::Folder(folder) => read_short(&folder.join(HEADER), MAX_BACKUP_HEADER_LEN),
        Place::File(file) => first_entry(file, HEADER, MAX_BACKUP_HEADER_LEN),
    };
    match bytes {
        Ok(bytes) => decode_header(path, &bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(BackupError::Absent(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(BackupError::io("read", path)(error)),
        Err(error) => Err(no_backup(path, error)),
    }
}

/// Writes a file under another name, then gives it its own, durably.
fn write_whole(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let (unfinished, path) = (folder.join(format!("{name}{UNFINISHED}")), folder.join(name));
    let written = || {
        match std::fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&unfinished, &path)?;
        File::open(folder)?.sync_all()
    };
    written().map_err(BackupError::io("write", &path))
}

fn folder_with(path: &Path, name: &str) -> Result<Folder> {
    let path = path.join(name);
    DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(BackupError::io("make", &path))?;
    Folder::new(path.clone()).map_err(BackupError::io("make", &path))
}

fn snapshot_name(time: Timestamp) -> String {
    format!("{:020}{SNAPSHOT}", time.0)
}

fn snapshot_time(name: &str) -> Option<Timestamp> {
    let time = Timestamp(name.strip_suffix(SNAPSHOT)?.parse().ok()?);
    (snapshot_name(time) == name).then_some(time)
}

/// Works with a backup. When its index turns out to be damaged, or to name what is not there, it is set aside, which is
/// `told`, and the work begins again with an index that is made of the segments: they say everything that it does.
///
/// # Errors
/// [`BackupError`] of the work.
pub(crate) fn with_sound_index<T>(
    place: &Place,
    told: &mut dyn FnMut(&str),
    mut work: impl FnMut() -> Result<T>,
) -> Result<T> {
    let done = work();
    let (Err(BackupError::Store(StoreError::Corrupt(why))), Place::Folder(folder)) = (&done, place) else {
        return done;
    };
    let segments = folder.join(SEGMENTS);
    let (index, aside) = (segments.join(INDEX), segments.join(INDEX_DAMAGED));
    let is_index = why.starts_with(INDEX) || why.contains("which the index names");
    if !is_index || !index.is_file() {
        return done;
    }
    std::fs::rename(&index, &aside).map_err(BackupError::io("rename", &index))?;
    told(&format!("the index of the backup is damaged ({why}): it is `{}` now, and made anew", aside.display()));
    work()
}

impl Repository {
    /// Makes a backup that is opened by a passphrase and by users, and by the node it is of.
    ///
    /// # Errors
    /// [`BackupError`] when something is there, nobody could open it, or it cannot be made.
    pub(crate) fn create(
        place: &Place,
        node: NodeId,
        passphrase: Option<&str>,
        users: &[UserId],
        now: Timestamp,
    ) -> Result<Self> {
        if passphrase.is_none() && users.is_empty() {
            return Err(BackupError::NoWayIn);
        }
        let key: BackupKey = random()?;
        let mut header = BackupHeader { id: *random()?, created: now, slots: Vec::new() };
        if let Some(passphrase) = passphrase {
            let salt = ByteArray::new(*random()?);
            let kdf = Kdf { memory_kib: BACKUP_KDF_MEMORY, passes: BACKUP_KDF_PASSES, lanes: 1, salt };
            let derived = derive(passphrase, &kdf)?;
            header.add_passphrase(&key, kdf, &derived, *random()?);
        }
        for user in users {
            header.add_user(&key, *user, random()?).map_err(|_| BackupError::WeakUser)?;
        }
        header.add_node(&key, node, random()?).map_err(|_| BackupError::WeakUser)?;
        if !header.is_plausible() {
            return Err(BackupError::BadPlace { path: place.path().to_owned(), reason: "too many users" });
        }
        let bytes = encode(&header);
        match place {
            Place::Folder(path) => {
                DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(BackupError::io("make", path))?;
                let mut there = std::fs::read_dir(path).map_err(BackupError::io("read", path))?;
                if there.next().is_some() {
                    return Err(BackupError::Exists(path.clone()));
                }
                write_whole(path, HEADER, &bytes)?;
                Self::in_folder(path.clone(), header, &key)
            }
            Place::File(path) => {
                if path.symlink_metadata().is_ok() {
                    return Err(BackupError::Exists(path.clone()));
                }
                let beside = |end: &str| {
                    let mut name = path.as_os_str().to_owned();
                    name.push(end);
                    PathBuf::from(name)
                };
                let part = beside(".part");
                let file =
                    OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&part);
                let file = file.map_err(BackupError::io("make", &part))?;
                let (scratch, folder) = Scratch::make(beside(".index"))?;
                let archive = Archive::create(file, folder);
                archive.add(HEADER, &bytes).map_err(BackupError::io("write", &part))?;
                Self::in_archive(archive, header, &key, Some(part), path.clone(), scratch)
            }
        }
    }

    /// Opens a backup. `scratch` is a folder that may be made and is removed again, for the index of an archive.
    ///
    /// # Errors
    /// [`BackupError`] when there is none, or it does not open.
    pub(crate) fn open(place: &Place, unlock: &Unlock<'_>, scratch: &Path) -> Result<Self> {
        let header = read_header(place)?;
        let key = match unlock {
            Unlock::Passphrase(passphrase) => header.open_by_passphrase(|kdf| derive(passphrase, kdf))?,
            Unlock::Secret(secret) => header.open_by_key(secret),
            Unlock::Key(key) => Some((*key).clone()),
        };
        let key = key.ok_or(BackupError::Closed(unlock.name()))?;
        match place {
            Place::Folder(path) => Self::in_folder(path.clone(), header, &key),
            Place::File(path) => {
                let file = File::open(path).map_err(BackupError::io("read", path))?;
                let (scratch, folder) = Scratch::make(scratch.to_owned())?;
                let archive = Archive::open(file, folder).map_err(|error| no_backup(path, error))?;
                Self::in_archive(archive, header, &key, None, path.clone(), scratch)
            }
        }
    }

    fn in_folder(path: PathBuf, header: BackupHeader, key: &BackupKey) -> Result<Self> {
        folder_with(&path, SNAPSHOTS)?;
        let segments = folder_with(&path, SEGMENTS)?;
        let keyring = keyring(key);
        let bounds = Bounds::default();
        let chunks =
            SegmentStore::open_with(Box::new(segments), INDEX_CACHE, header.id, bounds, Some(keyring.clone()))?;
        Ok(Self { header, keyring, chunks, kept: Kept::Folder(path) })
    }

    fn in_archive(
        archive: Archive,
        header: BackupHeader,
        key: &BackupKey,
        part: Option<PathBuf>,
        path: PathBuf,
        scratch: Scratch,
    ) -> Result<Self> {
        let keyring = keyring(key);
        let (disk, bounds) = (Box::new(archive.clone()), Bounds::default());
        let chunks = SegmentStore::open_with(disk, INDEX_CACHE, header.id, bounds, Some(keyring.clone()))?;
        Ok(Self { header, keyring, chunks, kept: Kept::Archive { archive, part, path, _scratch: scratch } })
    }

    /// Whether it is the backup of a node. One that names no node is that of any.
    pub(crate) fn is_of(&self, wanted: NodeId) -> bool {
        let mut nodes = self.header.slots.iter().filter_map(|slot| match slot {
            Slot::Node { node, .. } => Some(*node),
            _ => None,
        });
        nodes.next().is_none_or(|first| first == wanted || nodes.any(|node| node == wanted))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        match &self.kept {
            Kept::Folder(path) | Kept::Archive { path, .. } => path,
        }
    }

    /// The chunk store.
    pub(crate) const fn chunks(&self) -> &SegmentStore {
        &self.chunks
    }

    /// What a snapshot is sealed with beside the keys.
    fn bound(&self, time: Timestamp) -> Vec<u8> {
        [self.header.id.as_slice(), &time.0.to_be_bytes()].concat()
    }

    /// Adds a snapshot, all of whose chunks are durable. An archive has its name from then on.
    ///
    /// # Errors
    /// [`BackupError`] when it cannot be written; then there is no such snapshot.
    pub(crate) fn add_snapshot(&mut self, snapshot: &Snapshot) -> Result<()> {
        let time = snapshot.time;
        let sealed = self.keyring.seal_value(SNAPSHOT_TABLE, &self.bound(time), &[&encode(snapshot)])?;
        let file = encode(&SnapshotFile { backup: self.header.id, time, sealed: ByteBuf::from(sealed) });
        let name = snapshot_name(time);
        match &mut self.kept {
            Kept::Folder(path) => write_whole(&path.join(SNAPSHOTS), &name, &file),
            Kept::Archive { part: None, path, .. } => Err(BackupError::Exists(path.clone())),
            Kept::Archive { archive, part, path, .. } => {
                let fail = || BackupError::io("write", path);
                archive.add(&format!("{SNAPSHOTS}/{name}"), &file).map_err(fail())?;
                archive.finish().map_err(fail())?;
                let Some(unfinished) = part.take() else { return Ok(()) };
                std::fs::rename(&unfinished, &*path).map_err(fail())?;
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
                File::open(folder).and_then(|folder| folder.sync_all()).map_err(fail())
            }
        }
    }

    /// Moments of all snapshots, the oldest first.
    ///
    /// # Errors
    /// [`BackupError`] when they cannot be listed.
    pub(crate) fn times(&self) -> Result<Vec<Timestamp>> {
        let mut times: Vec<Timestamp> = match &self.kept {
            Kept::Folder(path) => {
                let path = path.join(SNAPSHOTS);
                let mut times = Vec::new();
                for entry in std::fs::read_dir(&path).map_err(BackupError::io("read", &path))? {
                    let entry = entry.map_err(BackupError::io("read", &path))?;
                    times.extend(entry.file_name().to_str().and_then(snapshot_time));
                }
                times
            }
            Kept::Archive { archive, .. } => {
                let prefix = format!("{SNAPSHOTS}/");
                let names = archive.names(&prefix);
                names.iter().filter_map(|name| snapshot_time(name.strip_prefix(&prefix)?)).collect()
            }
        };
        times.sort();
        Ok(times)
    }

    /// A snapshot.
    ///
    /// # Errors
    /// [`BackupError::NoSnapshot`] when there is none of that moment, [`BackupError::Damaged`] when it is not as it was
    /// written.
    pub(crate) fn snapshot(&self, time: Timestamp) -> Result<Snapshot> {
        let name = snapshot_name(time);
        let max = MAX_SNAPSHOT_LEN + 256;
        let bytes = match &self.kept {
            Kept::Folder(path) => read_short(&path.join(SNAPSHOTS).join(&name), max),
            Kept::Archive { archive, .. } => archive.read(&format!("{SNAPSHOTS}/{name}"), max),
        };
        let bytes = match bytes {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(BackupError::NoSnapshot(Some(time)));
            }
            bytes => bytes.map_err(BackupError::io("read", Path::new(&name)))?,
        };
        let damaged = |why: &dyn std::fmt::Display| BackupError::Damaged(format!("the snapshot {name}: {why}"));
        let newer = |error: DecodeError| match error {
            DecodeError::Unsupported { .. } => BackupError::Unsupported(name.clone()),
            error => damaged(&error),
        };
        let file: SnapshotFile = decode(&bytes).map_err(newer)?;
        if file.backup != self.header.id || file.time != time {
            return Err(damaged(&"it is of another backup or moment"));
        }
        let opened = self.keyring.open_value(SNAPSHOT_TABLE, &self.bound(time), &file.sealed);
        let snapshot: Snapshot = decode(&opened.ok_or_else(|| damaged(&"it does not open"))?).map_err(newer)?;
        if snapshot.time == time { Ok(snapshot) } else { Err(damaged(&"it is of another moment")) }
    }

    /// Takes a snapshot away; its chunks stay until they are collected.
    ///
    /// # Errors
    /// [`BackupError::Io`] when it cannot be removed.
    pub(crate) fn remove_snapshot(&self, time: Timestamp) -> Result<()> {
        let Kept::Folder(path) = &self.kept else { return Ok(()) };
        let folder = path.join(SNAPSHOTS);
        let path = folder.join(snapshot_name(time));
        std::fs::remove_file(&path).map_err(BackupError::io("remove", &path))?;
        File::open(&folder).and_then(|folder| folder.sync_all()).map_err(BackupError::io("write", &folder))
    }
}

impl Drop for Repository {
    fn drop(&mut self) {
        if let Kept::Archive { part: Some(part), .. } = &self.kept {
            // It was given up before it was whole.
            let _ = std::fs::remove_file(part);
        }
    }
}
