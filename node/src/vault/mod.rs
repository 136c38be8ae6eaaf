//! The keys of an encrypted node: `keys/store.keys` in the data directory, mode 0600.
//!
//! A random key of keys (KEK) wraps all others: the data keys, of which the newest seals what is written, the key that
//! hides chunk ids in the index, and the one that hides names in the catalog. The KEK is sealed to the node's identity,
//! and can be shared out to people. A new KEK wraps the same keys again: nothing that is stored is rewritten.
//!
//! Invariant: the file is whole at every moment, because it is written under another name, synced and renamed; a file
//! that cannot be used is refused and never overwritten; a key is in the file, on the disk, before it seals anything. A
//! copy lies beside it, for people to put in its place; nothing here does so by itself.
//! The KEK is in memory only while something is done with it.
//!
//! Deliberately absent: what the keys seal, which is the business of the stores.

mod format;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bib_core::id::NodeId;
use bib_core::key::SecretKey;
use bib_core::limits::{MAX_DATA_KEYS, MAX_VAULT_LEN};
use bib_core::sealed::{self, KEY_LEN, WRAPPED_LEN};
use bib_core::share::{self, CombineError, CryptoRng, Scheme, SetId, Share};
use bib_core::time::Timestamp;
use bib_storage_redb::crypto::Keyring;
use data_encoding::HEXLOWER;
use serde_bytes::ByteArray;
use zeroize::Zeroizing;

use format::{Body, CATALOG_KEY_HEADER, DataKey, FormatError, INDEX_KEY_HEADER, Kek, Split, Whole, data_key_header};

/// Folder of the file in the data directory.
const FOLDER: &str = "keys";
const NAME: &str = "store.keys";
/// The same bytes once more: cards lose a block now and then, and these 500 bytes are worth all others.
const COPY: &str = "store.keys.copy";
/// Says that catalog and index are sealed; another file, since the keys are not written for it.
const SEALED: &str = "sealed";
const SEALED_TEXT: &str = "The catalog and the index of this node are encrypted. While this file is here, bibd takes no plain one in their place.\n";
const UNFINISHED: &str = "store.keys.new";
/// What the box of the KEK is for.
const INFO: &str = "bib/keys/1";

/// Why the keys of a node cannot be used or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// The file cannot be read or written.
    #[error("cannot {doing} `{}`: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others may read it.
    #[error("the keys `{}` may be read by others (mode {mode:04o})", path.display())]
    TooWide {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is not what it should be.
    #[error("`{}` cannot be used: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Written by a newer program.
    #[error("`{}` has version {version}, this bibd reads version 1", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u8,
    },
    /// Sealed to another node.
    #[error("the keys `{}` are sealed to the node {owner}, and this node is {node}", path.display())]
    OtherNode {
        /// The file.
        path: PathBuf,
        /// Whose they are.
        owner: NodeId,
        /// Who this is.
        node: NodeId,
    },
    /// There is none.
    #[error("there are no keys `{}`", path.display())]
    Absent {
        /// Where they should be.
        path: PathBuf,
    },
    /// There are as many data keys as there can be.
    #[error("there are {MAX_DATA_KEYS} data keys, which is the most")]
    TooMany,
    /// The shares do not make the key.
    #[error("{source}{}", note.as_deref().map(|note| format!("; {note}")).unwrap_or_default())]
    Shares {
        /// What is wrong with them.
        source: CombineError,
        /// What that may come from.
        note: Option<String>,
    },
    /// A user's key cannot be sealed to.
    #[error("the user {0} has a key that cannot be sealed to")]
    WeakUser(String),
}

impl VaultError {
    /// What to do next.
    pub fn hint(&self) -> String {
        match self {
            Self::Io { .. } => {
                "check the data directory with `ls -l`; it must belong to the user that runs bibd".to_owned()
            }
            Self::TooWide { path, .. } => format!(
                "`chmod 600 {}`; if others can have read it together with identity.pem, make new keys with \
                 `bib admin keys rotate` afterwards",
                path.display()
            ),
            Self::Damaged { path, .. } => format!(
                "put its copy in its place: `cp -p {0}.copy {0}`; without it nothing can read the data of this node",
                path.display()
            ),
            Self::Unsupported { .. } => "install the bibd that wrote it, or a newer one".to_owned(),
            Self::OtherNode { .. } => {
                "put the identity.pem of that node back, or bring the shares of the key together: \
                                       `bib admin keys recover`"
                    .to_owned()
            }
            Self::Absent { .. } => "name the data directory of an encrypted node with `--data-dir <folder>`".to_owned(),
            Self::TooMany => "the newest one goes on to serve; there is no need for another".to_owned(),
            Self::Shares { source: CombineError::Missing { .. }, .. } => {
                "bring more shares of the same set together".to_owned()
            }
            Self::Shares { .. } => "each share says in its first line of which set and node it is; \
                                    `bib admin keys status` shows the set made last"
                .to_owned(),
            Self::WeakUser(_) => "check the id: `bib whoami` shows it to its user".to_owned(),
        }
    }
}

/// Shares as they were made last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SplitFigures {
    /// Their set.
    pub set: SetId,
    /// How many there are and are needed.
    pub scheme: Scheme,
    /// When.
    pub time: Timestamp,
    /// Whether the KEK is another one since, so that they open nothing.
    pub is_stale: bool,
}

/// What may be known of the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figures {
    /// Which KEK it is, the first being 1.
    pub generation: u32,
    /// Tells KEKs apart.
    pub fingerprint: String,
    /// Number and time of each data key; the last one seals what is written.
    pub data_keys: Vec<(u32, Timestamp)>,
    /// The shares made last.
    pub split: Option<SplitFigures>,
}

/// What came of bringing shares together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The node that the keys were sealed to.
    pub before: NodeId,
    /// Numbers of shares that were wrong, and not needed.
    pub wrong: Vec<u8>,
}

/// The keys of this node.
pub struct Vault {
    data_dir: PathBuf,
    identity: SecretKey,
    body: Mutex<Body>,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vault").field("data_dir", &self.data_dir).finish_non_exhaustive()
    }
}

/// Where the keys of a data directory are.
fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(FOLDER).join(NAME)
}

fn random<const N: usize>() -> io::Result<Zeroizing<[u8; N]>> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(bytes.as_mut_slice())?;
    Ok(bytes)
}

/// What cannot be tried again: the system has no random numbers.
fn no_random(data_dir: &Path, source: io::Error) -> VaultError {
    VaultError::Io { doing: "make random keys for", path: path(data_dir), source }
}

/// A new key, wrapped.
fn new_key(kek: &Kek, header: &[u8]) -> io::Result<ByteArray<WRAPPED_LEN>> {
    rewrapped(kek, header, &*random()?)
}

fn rewrapped(kek: &Kek, header: &[u8], key: &[u8; KEY_LEN]) -> io::Result<ByteArray<WRAPPED_LEN>> {
    Ok(ByteArray::new(sealed::wrap(kek, header, key, *random()?)))
}

impl Vault {
    /// Opens the keys of a data directory, which is locked for this process; `None` when it has none.
    ///
    /// # Errors
    /// [`VaultError`] when there is a file that cannot be used. It is left as it is.
    pub fn open(data_dir: &Path, identity: &SecretKey) -> Result<Option<Self>, VaultError> {
        let Some(whole) = read(data_dir)? else { return Ok(None) };
        let (node, owner) = (identity.node_id(), whole.body.owner);
        if owner != node {
            return Err(VaultError::OtherNode { path: path(data_dir), owner, node });
        }
        let vault =
            Self { data_dir: data_dir.to_owned(), identity: identity.clone(), body: Mutex::new(whole.body.clone()) };
        let kek = vault.kek(&whole.body)?;
        if !whole.is_genuine(&kek) {
            return Err(vault.damaged("it was changed by somebody who has not the key"));
        }
        Ok(Some(vault))
    }

    /// Makes keys for a data directory that has none, and puts them on the disk.
    ///
    /// # Errors
    /// [`VaultError::Io`] when they cannot be made durable.
    pub fn create(data_dir: &Path, identity: &SecretKey, now: Timestamp) -> Result<Self, VaultError> {
        let kek: Kek = random().map_err(|error| no_random(data_dir, error))?;
        let body = || {
            io::Result::Ok(Body {
                generation: 1,
                fingerprint: format::fingerprint(&kek),
                owner: identity.node_id(),
                sealed_kek: seal_kek(&kek, 1, &identity.node_id())?,
                data_keys: vec![DataKey { id: 1, created: now, wrapped: new_key(&kek, &data_key_header(1))? }],
                index_key: new_key(&kek, INDEX_KEY_HEADER)?,
                catalog_key: new_key(&kek, CATALOG_KEY_HEADER)?,
                split: None,
            })
        };
        let body = body().map_err(|error| no_random(data_dir, error))?;
        write(data_dir, &body.encode(&kek))?;
        Ok(Self { data_dir: data_dir.to_owned(), identity: identity.clone(), body: Mutex::new(body) })
    }

    /// Where the keys of a data directory are.
    pub fn path_in(data_dir: &Path) -> PathBuf {
        path(data_dir)
    }

    /// Whether a data directory has keys, usable or not.
    pub fn is_in(data_dir: &Path) -> bool {
        path(data_dir).symlink_metadata().is_ok()
    }

    /// Whether a data directory has a copy of keys.
    pub fn has_copy(data_dir: &Path) -> bool {
        data_dir.join(FOLDER).join(COPY).symlink_metadata().is_ok()
    }

    /// Makes the copy the same as the file, after a crash between the two or on a medium that lost it. For when the keys
    /// have opened the stores: before, the copy may be the better one.
    pub fn mend_copy(&self) {
        let body = self.body();
        let mended = self.kek(&body).map(|kek| {
            let bytes = body.encode(&kek);
            if std::fs::read(self.data_dir.join(FOLDER).join(COPY)).ok().as_ref() != Some(&bytes) {
                write_copy(&self.data_dir, &bytes);
            }
        });
        if let Err(error) = mended {
            log::warn!(error:% = error; "the copy of the keys was not looked at");
        }
    }

    /// Notes that catalog and index are sealed with these keys, so that a plain one in their place is somebody else's.
    pub fn note_sealed(&self) {
        let note = self.data_dir.join(FOLDER).join(SEALED);
        if note.exists() {
            return;
        }
        let written = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&note)?;
            file.write_all(SEALED_TEXT.as_bytes())?;
            file.sync_all()?;
            File::open(self.data_dir.join(FOLDER))?.sync_all()
        };
        if let Err(error) = written() {
            log::warn!(error:% = error; "it could not be noted that the stores are sealed");
        }
    }

    /// Whether catalog and index were sealed when they were opened last.
    pub fn has_sealed(&self) -> bool {
        self.data_dir.join(FOLDER).join(SEALED).exists()
    }

    fn body(&self) -> MutexGuard<'_, Body> {
        // It is replaced as a whole.
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn damaged(&self, reason: &str) -> VaultError {
        VaultError::Damaged { path: path(&self.data_dir), reason: reason.to_owned() }
    }

    fn kek(&self, body: &Body) -> Result<Kek, VaultError> {
        let header = Body::kek_header(body.generation, &body.fingerprint, &body.owner);
        let opened = sealed::open(&self.identity, INFO, &header, body.sealed_kek.as_slice())
            .map_err(|_| self.damaged("its key does not open with the identity of this node"))?;
        let mut kek = Zeroizing::new([0; KEY_LEN]);
        if opened.len() != kek.len() {
            return Err(self.damaged("its key has another length"));
        }
        kek.copy_from_slice(&opened);
        if format::fingerprint(&kek) != body.fingerprint {
            return Err(self.damaged("its key is another one than it says"));
        }
        Ok(kek)
    }

    fn unwrapped(&self, kek: &Kek, header: &[u8], wrapped: &[u8; WRAPPED_LEN]) -> Result<Kek, VaultError> {
        sealed::unwrap(kek, header, wrapped).map_err(|_| self.damaged("one of its keys does not open"))
    }

    /// What may be known of the keys.
    pub fn figures(&self) -> Figures {
        let body = self.body();
        let figures = |split: Split| SplitFigures {
            set: split.set,
            scheme: split.scheme,
            time: split.time,
            is_stale: split.generation != body.generation,
        };
        Figures {
            generation: body.generation,
            fingerprint: HEXLOWER.encode(&body.fingerprint),
            data_keys: body.data_keys.iter().map(|key| (key.id, key.created)).collect(),
            split: body.split.map(figures),
        }
    }

    /// The keys, for the stores.
    ///
    /// # Errors
    /// [`VaultError::Damaged`] when one of them does not open.
    pub fn keyring(&self) -> Result<Keyring, VaultError> {
        let body = self.body();
        let kek = self.kek(&body)?;
        let data_keys = body.data_keys.iter().map(|key| {
            let opened = self.unwrapped(&kek, &data_key_header(key.id), &key.wrapped)?;
            Ok((key.id, opened))
        });
        let data_keys = data_keys.collect::<Result<BTreeMap<_, _>, VaultError>>()?;
        let index = self.unwrapped(&kek, INDEX_KEY_HEADER, &body.index_key)?;
        let catalog = self.unwrapped(&kek, CATALOG_KEY_HEADER, &body.catalog_key)?;
        Keyring::new(data_keys, &index, &catalog).map_err(|error| self.damaged(&error.to_string()))
    }

    /// Puts a new state on the disk, then takes it.
    fn replace(&self, body: &mut MutexGuard<'_, Body>, next: Body, kek: &Kek) -> Result<(), VaultError> {
        write(&self.data_dir, &next.encode(kek))?;
        **body = next;
        Ok(())
    }

    /// Makes a new KEK and wraps the keys with it; shares of the old one open nothing any more. Returns its generation.
    ///
    /// # Errors
    /// [`VaultError`] when the new state cannot be made durable; then the old one holds.
    pub fn rotate_kek(&self) -> Result<u32, VaultError> {
        let mut body = self.body();
        let (old, new): (Kek, Kek) = (self.kek(&body)?, random().map_err(|error| no_random(&self.data_dir, error))?);
        let again = |header: &[u8], wrapped: &[u8; WRAPPED_LEN]| {
            let key = self.unwrapped(&old, header, wrapped)?;
            rewrapped(&new, header, &key).map_err(|error| no_random(&self.data_dir, error))
        };
        let generation = body.generation.saturating_add(1);
        let mut next = body.clone();
        for key in &mut next.data_keys {
            key.wrapped = again(&data_key_header(key.id), &key.wrapped)?;
        }
        next.index_key = again(INDEX_KEY_HEADER, &body.index_key)?;
        next.catalog_key = again(CATALOG_KEY_HEADER, &body.catalog_key)?;
        next.generation = generation;
        next.fingerprint = format::fingerprint(&new);
        next.sealed_kek = seal_kek(&new, generation, &body.owner).map_err(|error| no_random(&self.data_dir, error))?;
        self.replace(&mut body, next, &new)?;
        Ok(generation)
    }

    /// Makes a new data key, which seals what the stores write from now on; returns its number.
    ///
    /// # Errors
    /// [`VaultError`] when it cannot be made durable; then the stores know nothing of it.
    pub fn rotate_data_key(&self, keyring: &Keyring, now: Timestamp) -> Result<u32, VaultError> {
        let mut body = self.body();
        let kek = self.kek(&body)?;
        let mut next = body.clone();
        let id = next.data_keys.last().and_then(|last| last.id.checked_add(1)).ok_or(VaultError::TooMany)?;
        if next.data_keys.len() >= MAX_DATA_KEYS {
            return Err(VaultError::TooMany);
        }
        let key: Kek = random().map_err(|error| no_random(&self.data_dir, error))?;
        let header = data_key_header(id);
        let wrapped = rewrapped(&kek, &header, &key).map_err(|error| no_random(&self.data_dir, error))?;
        next.data_keys.push(DataKey { id, created: now, wrapped });
        self.replace(&mut body, next, &kek)?;
        keyring.add_data_key(id, key).map_err(|error| self.damaged(&error.to_string()))?;
        Ok(id)
    }

    /// Shares the KEK out, and notes that and when.
    ///
    /// # Errors
    /// [`VaultError`] when the note cannot be made durable; then there are no shares.
    pub fn split(&self, scheme: Scheme, now: Timestamp, rng: &mut impl CryptoRng) -> Result<Vec<Share>, VaultError> {
        let mut body = self.body();
        let kek = self.kek(&body)?;
        let set = SetId(*random().map_err(|error| no_random(&self.data_dir, error))?);
        let shares = share::split(&kek, scheme, set, rng);
        let mut next = body.clone();
        next.split = Some(Split { set, scheme, time: now, generation: body.generation });
        self.replace(&mut body, next, &kek)?;
        Ok(shares)
    }

    /// Seals the KEK that shares make to another identity. The data directory is locked for this process.
    ///
    /// # Errors
    /// [`VaultError`] when there are no keys, the shares do not make theirs, or the new state cannot be made durable;
    /// then the file is as before.
    pub fn recover(data_dir: &Path, shares: &[Share], identity: &SecretKey) -> Result<Recovered, VaultError> {
        let whole = read(data_dir)?.ok_or_else(|| VaultError::Absent { path: path(data_dir) })?;
        let is_right = |key: &[u8; KEY_LEN]| format::fingerprint(key) == whole.body.fingerprint;
        let combined = share::combine_checked(shares, is_right).map_err(|source| {
            let note = match (&source, whole.body.split) {
                (CombineError::WrongKey { set }, Some(split)) if split.set != *set => Some(format!(
                    "the set made last is {}: these shares are of an older key or of another node",
                    split.set
                )),
                (CombineError::WrongKey { .. }, Some(split)) if split.generation != whole.body.generation => {
                    Some("the key was renewed after they were made".to_owned())
                }
                (CombineError::WrongKey { .. }, Some(_)) => {
                    Some("one of them was changed on purpose: with another one beside them it can be named".to_owned())
                }
                (CombineError::WrongKey { .. }, None) => Some("no shares were made of the key of this node".to_owned()),
                _ => None,
            };
            VaultError::Shares { source, note }
        })?;
        let kek = combined.key;
        if !whole.is_genuine(&kek) {
            let reason = "it was changed by somebody who has not the key".to_owned();
            return Err(VaultError::Damaged { path: path(data_dir), reason });
        }
        let before = whole.body.owner;
        let owner = identity.node_id();
        let sealed_kek = seal_kek(&kek, whole.body.generation, &owner).map_err(|error| no_random(data_dir, error))?;
        let next = Body { owner, sealed_kek, ..whole.body };
        write(data_dir, &next.encode(&kek))?;
        Ok(Recovered { before, wrong: combined.wrong })
    }
}

fn seal_kek(kek: &Kek, generation: u32, owner: &NodeId) -> io::Result<ByteArray<{ KEY_LEN + sealed::BOX_OVERHEAD }>> {
    let header = Body::kek_header(generation, &format::fingerprint(kek), owner);
    let sealed = sealed::seal(owner.as_bytes(), INFO, &header, kek.as_slice(), random()?).map_err(io::Error::other)?;
    let sealed = sealed.try_into().expect("a box is longer than what is in it by a constant");
    Ok(ByteArray::new(sealed))
}

/// Reads and checks the file; `None` when there is none.
fn read(data_dir: &Path) -> Result<Option<Whole>, VaultError> {
    let path = path(data_dir);
    let fail = |source| VaultError::Io { doing: "read", path: path.clone(), source };
    let damaged = |reason: &str| VaultError::Damaged { path: path.clone(), reason: reason.to_owned() };
    // A fifo is opened without waiting for who writes to it.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let metadata = file.metadata().map_err(fail)?;
    if !metadata.is_file() {
        return Err(damaged("it is not a file"));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(VaultError::TooWide { path, mode: metadata.mode() & 0o7777 });
    }
    let mut bytes = Vec::new();
    file.take(MAX_VAULT_LEN as u64 + 1).read_to_end(&mut bytes).map_err(fail)?;
    match Body::decode(&bytes) {
        Ok(whole) => Ok(Some(whole)),
        Err(FormatError::Unsupported(version)) => Err(VaultError::Unsupported { path, version }),
        Err(error) => Err(damaged(&error.to_string())),
    }
}

/// Puts bytes in place of the file, all or nothing, for the owner alone.
fn write(data_dir: &Path, bytes: &[u8]) -> Result<(), VaultError> {
    let folder = data_dir.join(FOLDER);
    let made = || {
        match DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => File::open(data_dir)?.sync_all()?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        put(&folder, NAME, bytes)
    };
    made().map_err(|source| VaultError::Io { doing: "write", path: path(data_dir), source })?;
    write_copy(data_dir, bytes);
    Ok(())
}

/// The copy follows the file; that it cannot be written stops nothing.
fn write_copy(data_dir: &Path, bytes: &[u8]) {
    if let Err(error) = put(&data_dir.join(FOLDER), COPY, bytes) {
        log::warn!(file = COPY, error:% = error; "there is no good copy of the keys");
    }
}

fn put(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let unfinished = folder.join(UNFINISHED);
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&unfinished, folder.join(name))?;
    File::open(folder)?.sync_all()
}

/// Takes bytes for the file of keys, and fails when they are accepted and mean something else when written again: for
/// fuzzing.
///
/// # Panics
/// When they do.
pub fn check_bytes(bytes: &[u8]) {
    if let Ok(whole) = Body::decode(bytes) {
        let key = [0; KEY_LEN];
        let again = Body::decode(&whole.body.encode(&key)).expect("what was encoded decodes");
        assert!(again.body == whole.body && again.is_genuine(&key), "a file of keys has one meaning");
    }
}
