//! Backups: what opens one, what a snapshot says of itself, and how the entries of the catalog follow one another in it.
//!
//! A backup is a chunk store of its own, sealed with keys that all follow from one random key. The header says who can
//! open that key: who knows a passphrase, the owner of a user's key, the node itself. A snapshot is a version like any
//! other, a tree whose manifest and chunks lie in that store: a file for each table of the catalog, and what else makes a
//! node. So a snapshot costs what is new in it, and is whole by itself.
//!
//! Deliberately absent: deriving keys from passphrases, reading and writing; what is random comes as an argument.

use serde::{Deserialize, Serialize};
use serde_bytes::{ByteArray, ByteBuf};
use zeroize::Zeroizing;

use crate::encode::Versioned;
use crate::hash::hash_in_context;
use crate::id::{ManifestId, NodeId, UserId};
use crate::key::SecretKey;
use crate::limits::{
    MAX_BACKUP_HEADER_LEN, MAX_BACKUP_KDF_MEMORY, MAX_BACKUP_KDF_PASSES, MAX_BACKUP_SLOTS, MAX_CATALOG_KEY_LEN,
    MAX_CATALOG_VALUE_LEN, MAX_SNAPSHOT_LEN,
};
use crate::sealed::{self, KEY_LEN, SealError, WRAPPED_LEN};
use crate::time::Timestamp;

/// The key from which all keys of a backup follow.
pub type BackupKey = Zeroizing<[u8; KEY_LEN]>;

/// What the boxes of a backup are for.
const INFO: &str = "bib/backup/1";

/// How a passphrase becomes a key: Argon2id, version 0x13.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kdf {
    /// Memory, in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
    /// Random.
    pub salt: ByteArray<16>,
}

impl Kdf {
    /// Whether it asks for no more than this program gives.
    pub const fn is_bounded(&self) -> bool {
        self.memory_kib >= 8
            && self.memory_kib <= MAX_BACKUP_KDF_MEMORY
            && self.passes >= 1
            && self.passes <= MAX_BACKUP_KDF_PASSES
            && self.lanes == 1
    }
}

/// One way to open a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Slot {
    /// By a passphrase.
    Passphrase {
        /// How it becomes a key.
        kdf: Kdf,
        /// The key of the backup, wrapped by that key.
        wrapped: ByteArray<WRAPPED_LEN>,
    },
    /// By the key of a user.
    User {
        /// Who.
        user: UserId,
        /// The key of the backup in a box.
        sealed: ByteBuf,
    },
    /// By the identity of a node: it goes on with its backup without being told.
    Node {
        /// Which.
        node: NodeId,
        /// The key of the backup in a box.
        sealed: ByteBuf,
    },
}

/// The header of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupHeader {
    /// Tells backups apart; also the id of its chunk store.
    pub id: [u8; 16],
    /// When it was begun.
    pub created: Timestamp,
    /// Ways to open it, each by itself.
    pub slots: Vec<Slot>,
}

impl Versioned for BackupHeader {
    const WHAT: &'static str = "header of a backup";
    const MAX_LEN: usize = MAX_BACKUP_HEADER_LEN;
}

impl BackupHeader {
    /// What everything that opens this backup is bound to.
    fn bound(id: &[u8; 16]) -> Vec<u8> {
        [INFO.as_bytes(), id.as_slice()].concat()
    }

    /// Whether it says nothing that no program writes.
    pub fn is_plausible(&self) -> bool {
        self.slots.len() <= MAX_BACKUP_SLOTS
            && self.slots.iter().all(|slot| match slot {
                Slot::Passphrase { kdf, .. } => kdf.is_bounded(),
                Slot::User { sealed, .. } | Slot::Node { sealed, .. } => sealed.len() == KEY_LEN + sealed::BOX_OVERHEAD,
            })
    }

    /// Adds a way to open it by a passphrase that became the key `derived`.
    pub fn add_passphrase(&mut self, key: &BackupKey, kdf: Kdf, derived: &[u8; KEY_LEN], nonce: [u8; 12]) {
        let wrapped = ByteArray::new(sealed::wrap(derived, &Self::bound(&self.id), key, nonce));
        self.slots.push(Slot::Passphrase { kdf, wrapped });
    }

    /// Adds a user who can open it.
    ///
    /// # Errors
    /// [`SealError::WeakKey`] when the user's key is none.
    pub fn add_user(&mut self, key: &BackupKey, user: UserId, ephemeral: Zeroizing<[u8; 32]>) -> Result<(), SealError> {
        let sealed = sealed::seal(user.as_bytes(), INFO, &Self::bound(&self.id), key.as_slice(), ephemeral)?;
        self.slots.push(Slot::User { user, sealed: ByteBuf::from(sealed) });
        Ok(())
    }

    /// Adds a node that can open it.
    ///
    /// # Errors
    /// [`SealError::WeakKey`] when the node's key is none.
    pub fn add_node(&mut self, key: &BackupKey, node: NodeId, ephemeral: Zeroizing<[u8; 32]>) -> Result<(), SealError> {
        let sealed = sealed::seal(node.as_bytes(), INFO, &Self::bound(&self.id), key.as_slice(), ephemeral)?;
        self.slots.push(Slot::Node { node, sealed: ByteBuf::from(sealed) });
        Ok(())
    }

    /// Opens it with what `derive` makes of a passphrase; `None` when that opens no slot. Errors of `derive` end it.
    ///
    /// # Errors
    /// The error of `derive`.
    pub fn open_by_passphrase<E>(
        &self,
        mut derive: impl FnMut(&Kdf) -> Result<BackupKey, E>,
    ) -> Result<Option<BackupKey>, E> {
        for slot in &self.slots {
            let Slot::Passphrase { kdf, wrapped } = slot else { continue };
            let derived = derive(kdf)?;
            if let Ok(key) = sealed::unwrap(&derived, &Self::bound(&self.id), wrapped) {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    /// Opens it with the key of a user or a node; `None` when that opens no slot.
    pub fn open_by_key(&self, secret: &SecretKey) -> Option<BackupKey> {
        let public = secret.public_bytes();
        let boxes = self.slots.iter().filter_map(|slot| match slot {
            Slot::User { user, sealed } if *user.as_bytes() == public => Some(sealed),
            Slot::Node { node, sealed } if *node.as_bytes() == public => Some(sealed),
            _ => None,
        });
        for sealed in boxes {
            let Ok(opened) = sealed::open(secret, INFO, &Self::bound(&self.id), sealed) else { continue };
            let mut key = Zeroizing::new([0; KEY_LEN]);
            if opened.len() == key.len() {
                key.copy_from_slice(&opened);
                return Some(key);
            }
        }
        None
    }
}

/// The keys of a backup's store, which all follow from one.
#[derive(Debug)]
pub struct StoreKeys {
    /// Seals chunks and snapshots.
    pub data: BackupKey,
    /// Hides ids of chunks in the index.
    pub index: BackupKey,
    /// Hides names; a backup has none.
    pub names: BackupKey,
}

impl StoreKeys {
    /// What follows from the key of a backup.
    pub fn of(key: &BackupKey) -> Self {
        let derived = |context| Zeroizing::new(hash_in_context(context, key.as_slice()));
        Self {
            data: derived("bib/backup/1 data key"),
            index: derived("bib/backup/1 index key"),
            names: derived("bib/backup/1 name key"),
        }
    }
}

/// What a snapshot says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Of which node.
    pub node: NodeId,
    /// Of which moment; also its name.
    pub time: Timestamp,
    /// The tree of its files.
    pub manifest: ManifestId,
    /// Bytes of its files.
    pub size: u64,
    /// Operations in the catalog.
    pub n_ops: u64,
    /// Manifests whose content is in it.
    pub n_manifests: u64,
    /// Bytes of content of them.
    pub content_bytes: u64,
    /// Manifests whose content was not whole when it was read.
    pub n_incomplete: u64,
    /// Whether the stores of the node are encrypted.
    pub is_encrypted: bool,
}

impl Versioned for Snapshot {
    const WHAT: &'static str = "snapshot";
    const MAX_LEN: usize = MAX_SNAPSHOT_LEN;
}

/// The file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotFile {
    /// The backup.
    pub backup: [u8; 16],
    /// The moment.
    pub time: Timestamp,
    /// The [`Snapshot`], sealed.
    pub sealed: ByteBuf,
}

impl Versioned for SnapshotFile {
    const WHAT: &'static str = "file of a snapshot";
    const MAX_LEN: usize = MAX_SNAPSHOT_LEN + 256;
}

/// What follows a table's name in the tree of a snapshot.
pub const CATALOG_FOLDER: &str = "catalog/";
/// The node's key.
pub const IDENTITY_FILE: &str = "identity.pem";
/// Ids of manifests whose content is not whole, 32 bytes each.
pub const INCOMPLETE_FILE: &str = "incomplete";
/// The keys of an encrypted node, as they lie there.
pub const KEYS_FILE: &str = "keys/store.keys";
/// The settings in force, for people.
pub const SETTINGS_FILE: &str = "settings.toml";

const ENTRY_HEAD: usize = 8;

/// Why bytes are no entries of a catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// A key or value longer than any.
    #[error("an entry is longer than any that is written")]
    TooLong,
    /// The bytes end within an entry.
    #[error("the entries end in the middle of one")]
    Cut,
}

/// The bytes of an entry of the catalog: lengths of key and value, four bytes each, little endian, then both.
///
/// # Errors
/// [`EntryError::TooLong`] for what no catalog holds.
pub fn entry(key: &[u8], value: &[u8]) -> Result<Vec<u8>, EntryError> {
    if key.len() > MAX_CATALOG_KEY_LEN || value.len() > MAX_CATALOG_VALUE_LEN {
        return Err(EntryError::TooLong);
    }
    let lens = [(key.len() as u32).to_le_bytes(), (value.len() as u32).to_le_bytes()].concat();
    Ok([lens.as_slice(), key, value].concat())
}

/// Key and value of an entry.
pub type Lent<'a> = (&'a [u8], &'a [u8]);

/// Reads entries from bytes that come in pieces.
#[derive(Debug, Default)]
pub struct Entries {
    held: Vec<u8>,
    at: usize,
}

impl Entries {
    /// A reader of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.held.drain(..self.at);
        self.at = 0;
        self.held.extend_from_slice(bytes);
    }

    /// The next whole entry, key and value; `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`EntryError::TooLong`] for lengths that no entry has.
    #[allow(clippy::should_implement_trait, reason = "it lends from itself")]
    pub fn next(&mut self) -> Result<Option<Lent<'_>>, EntryError> {
        let left = &self.held[self.at..];
        let Some((head, rest)) = left.split_first_chunk::<ENTRY_HEAD>() else { return Ok(None) };
        let len = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
        let (key, value) = (len(0), len(4));
        if key > MAX_CATALOG_KEY_LEN || value > MAX_CATALOG_VALUE_LEN {
            return Err(EntryError::TooLong);
        }
        if rest.len() < key + value {
            return Ok(None);
        }
        self.at += ENTRY_HEAD + key + value;
        Ok(Some((&rest[..key], &rest[key..key + value])))
    }

    /// Says that no more bytes come.
    ///
    /// # Errors
    /// [`EntryError::Cut`] when an entry is not whole.
    pub fn finish(self) -> Result<(), EntryError> {
        if self.at == self.held.len() { Ok(()) } else { Err(EntryError::Cut) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> BackupKey {
        Zeroizing::new([7; 32])
    }

    fn kdf() -> Kdf {
        Kdf { memory_kib: 19 << 10, passes: 3, lanes: 1, salt: ByteArray::new([1; 16]) }
    }

    fn secret(seed: u8) -> SecretKey {
        SecretKey::from_seed([seed; 32])
    }

    fn header() -> BackupHeader {
        let mut header = BackupHeader { id: [3; 16], created: Timestamp(0), slots: Vec::new() };
        header.add_passphrase(&key(), kdf(), &[9; 32], [2; 12]);
        header.add_user(&key(), secret(1).user_id(), Zeroizing::new([4; 32])).unwrap();
        header.add_node(&key(), secret(2).node_id(), Zeroizing::new([5; 32])).unwrap();
        header
    }

    fn by_passphrase(header: &BackupHeader, derived: u8) -> Option<BackupKey> {
        header.open_by_passphrase(|_| Ok::<_, ()>(Zeroizing::new([derived; 32]))).unwrap()
    }

    #[test]
    fn each_slot_opens_by_itself_and_no_other_key_does() {
        let header = header();
        assert!(header.is_plausible());
        assert_eq!(by_passphrase(&header, 9), Some(key()));
        assert_eq!(by_passphrase(&header, 8), None);
        assert_eq!(header.open_by_key(&secret(1)), Some(key()));
        assert_eq!(header.open_by_key(&secret(2)), Some(key()));
        assert_eq!(header.open_by_key(&secret(3)), None);
    }

    #[test]
    fn slots_of_one_backup_open_no_other() {
        let moved = BackupHeader { id: [4; 16], ..header() };
        assert_eq!(by_passphrase(&moved, 9), None);
        assert_eq!(moved.open_by_key(&secret(1)), None);
        assert_eq!(moved.open_by_key(&secret(2)), None);
    }

    #[test]
    fn header_that_asks_for_too_much_is_not_plausible() {
        let with = |slot| BackupHeader { slots: vec![slot], ..header() };
        let passphrase = |kdf| with(Slot::Passphrase { kdf, wrapped: ByteArray::new([0; WRAPPED_LEN]) });
        assert!(passphrase(kdf()).is_plausible());
        assert!(!passphrase(Kdf { memory_kib: u32::MAX, ..kdf() }).is_plausible());
        assert!(!passphrase(Kdf { memory_kib: 0, ..kdf() }).is_plausible());
        assert!(!passphrase(Kdf { passes: u32::MAX, ..kdf() }).is_plausible());
        assert!(!passphrase(Kdf { passes: 0, ..kdf() }).is_plausible());
        assert!(!passphrase(Kdf { lanes: 2, ..kdf() }).is_plausible());
        assert!(!with(Slot::User { user: secret(1).user_id(), sealed: ByteBuf::from(vec![0; 10]) }).is_plausible());
        let many = BackupHeader { slots: vec![header().slots[0].clone(); MAX_BACKUP_SLOTS + 1], ..header() };
        assert!(!many.is_plausible());
    }

    #[test]
    fn keys_of_a_store_differ_and_depend_on_the_key_alone() {
        let (one, again) = (StoreKeys::of(&key()), StoreKeys::of(&key()));
        assert_eq!((&one.data, &one.index, &one.names), (&again.data, &again.index, &again.names));
        assert!(one.data != one.index && one.index != one.names && one.data != one.names);
        assert_ne!(one.data, StoreKeys::of(&Zeroizing::new([8; 32])).data);
    }

    #[test]
    fn entries_come_back_however_their_bytes_are_cut() {
        let all: Vec<(Vec<u8>, Vec<u8>)> =
            (0..50_u8).map(|i| (vec![i; i.into()], vec![i; 3 * usize::from(i)])).collect();
        let bytes: Vec<u8> = all.iter().flat_map(|(key, value)| entry(key, value).unwrap()).collect();
        for piece in [1, 7, 100, bytes.len()] {
            let (mut entries, mut read) = (Entries::new(), Vec::new());
            for piece in bytes.chunks(piece) {
                entries.push(piece);
                while let Some((key, value)) = entries.next().unwrap() {
                    read.push((key.to_vec(), value.to_vec()));
                }
            }
            entries.finish().unwrap();
            assert_eq!(read, all);
        }
        let mut cut = Entries::new();
        cut.push(&bytes[..bytes.len() - 1]);
        while cut.next().unwrap().is_some() {}
        assert_eq!(cut.finish(), Err(EntryError::Cut));
    }

    #[test]
    fn lengths_that_no_entry_has_are_refused_before_anything_is_held_for_them() {
        let mut entries = Entries::new();
        entries.push(&[0xff; 8]);
        assert_eq!(entries.next(), Err(EntryError::TooLong));
        assert_eq!(entry(&vec![0; MAX_CATALOG_KEY_LEN + 1], b""), Err(EntryError::TooLong));
        assert_eq!(entry(b"", &vec![0; MAX_CATALOG_VALUE_LEN + 1]), Err(EntryError::TooLong));
    }
}
