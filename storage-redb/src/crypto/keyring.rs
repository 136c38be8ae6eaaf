//! The keys of a node's stores.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use bib_core::id::ChunkId;
use bib_core::port::StoreError;
use ring::hkdf;
use ring::rand::SystemRandom;
use zeroize::Zeroizing;

use super::cipher::{Cipher, SEALED_OVERHEAD, SealKey, derive_secret};

/// The bytes of a key; overwritten when dropped.
pub type KeyBytes = Zeroizing<[u8; 32]>;

/// Bytes that sealing adds to a value of the catalog: cipher and key id before what [`SEALED_OVERHEAD`] counts.
pub const VALUE_OVERHEAD: usize = VALUE_HEAD + SEALED_OVERHEAD;
const VALUE_HEAD: usize = 5;

/// Why keys make no keyring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyringError {
    /// There is no data key.
    #[error("there is no data key")]
    Empty,
    /// The number is none, is taken by another key, or is lower than one that is in use.
    #[error("a data key cannot have the number {0}")]
    BadId(u32),
}

struct DataKeys {
    /// By number. The highest one seals what is written.
    keys: BTreeMap<u32, KeyBytes>,
    /// What seals values of the catalog, by the number of its data key.
    values: BTreeMap<u32, SealKey>,
}

/// All that seals and opens the stores of one node. The two stores share one.
pub struct Keyring {
    data: RwLock<DataKeys>,
    /// Keys of the index: a keyed hash of the chunk id.
    chunk_ids: KeyBytes,
    index_check: KeyBytes,
    /// What stands for names in keys of the catalog.
    names: KeyBytes,
    names_check: KeyBytes,
    cipher: Cipher,
    random: SystemRandom,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyring").field("cipher", &self.cipher).field("newest", &self.newest()).finish_non_exhaustive()
    }
}

/// What separates the uses of one key.
fn derived(key: &[u8; 32], context: &[u8]) -> KeyBytes {
    derive_secret(&hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(key), &[context])
}

fn value_key(key: &[u8; 32]) -> SealKey {
    SealKey::derive(&hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(key), b"bib catalog value/1")
}

impl Keyring {
    /// A keyring of random keys of 32 bytes: the data keys by number, from 1 on, of which the highest seals what is
    /// written; the one that hides chunk ids in the index; and the one that hides names in keys of the catalog. The last
    /// two stay for the life of the stores. Measures which cipher is the faster one here.
    ///
    /// # Errors
    /// [`KeyringError`] when there is no data key or one has the number 0.
    pub fn new(
        data_keys: BTreeMap<u32, KeyBytes>,
        index_key: &[u8; 32],
        catalog_key: &[u8; 32],
    ) -> Result<Self, KeyringError> {
        if data_keys.is_empty() {
            return Err(KeyringError::Empty);
        }
        if data_keys.contains_key(&0) {
            return Err(KeyringError::BadId(0));
        }
        let values = data_keys.iter().map(|(id, key)| (*id, value_key(key))).collect();
        Ok(Self {
            data: RwLock::new(DataKeys { keys: data_keys, values }),
            chunk_ids: derived(index_key, b"bib chunk ids/1"),
            index_check: derived(index_key, b"bib index check/1"),
            names: derived(catalog_key, b"bib names/1"),
            names_check: derived(catalog_key, b"bib names check/1"),
            cipher: Cipher::fastest(),
            random: SystemRandom::new(),
        })
    }

    /// The same with a cipher of the caller's choice.
    #[must_use]
    pub fn with_cipher(self, cipher: Cipher) -> Self {
        Self { cipher, ..self }
    }

    /// The cipher that seals what is written; what was sealed with the other one is read as well.
    pub const fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// Number of the data key that seals what is written.
    pub fn newest(&self) -> u32 {
        let data = self.data.read().unwrap_or_else(PoisonError::into_inner);
        data.keys.last_key_value().map_or(0, |(id, _)| *id)
    }

    /// Adds a data key, which seals what is written from now on. Nothing that is stored is rewritten. The caller has
    /// made it durable where the keys are kept, else what it seals is lost with the process.
    ///
    /// # Errors
    /// [`KeyringError::BadId`] unless the number is higher than all others.
    pub fn add_data_key(&self, id: u32, key: KeyBytes) -> Result<(), KeyringError> {
        let mut data = self.data.write().unwrap_or_else(PoisonError::into_inner);
        if data.keys.last_key_value().is_none_or(|(last, _)| id <= *last) {
            return Err(KeyringError::BadId(id));
        }
        data.values.insert(id, value_key(&key));
        data.keys.insert(id, key);
        Ok(())
    }

    pub(super) fn data_key(&self, id: u32) -> Option<KeyBytes> {
        self.data.read().unwrap_or_else(PoisonError::into_inner).keys.get(&id).cloned()
    }

    pub(super) const fn random(&self) -> &SystemRandom {
        &self.random
    }

    /// The key of a chunk in the index: says nothing of the content to who has not the key.
    pub fn chunk_key(&self, id: &ChunkId) -> [u8; 32] {
        *blake3::keyed_hash(&self.chunk_ids, id.as_bytes()).as_bytes()
    }

    pub(super) fn index_check(&self, of_data_key: &[u8; 32]) -> [u8; 32] {
        *blake3::keyed_hash(&self.index_check, of_data_key).as_bytes()
    }

    /// What stands for a name in a key of the catalog.
    pub fn name_hash(&self, table: u8, head: &[u8], name: &[u8]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(&self.names);
        hasher.update(&[table]).update(&(head.len() as u64).to_le_bytes()).update(head).update(name);
        *hasher.finalize().as_bytes().first_chunk().expect("half of 32 bytes")
    }

    /// Values that say whether a keyring is the one that a store was sealed with, by what they are of. Nothing of a key
    /// follows from them.
    pub fn checks(&self) -> BTreeMap<String, [u8; 16]> {
        let half = |hash: blake3::Hash| *hash.as_bytes().first_chunk().expect("half of 32 bytes");
        let data = self.data.read().unwrap_or_else(PoisonError::into_inner);
        let of_data_keys = data.keys.iter().map(|(id, key)| {
            (format!("data key {id}"), half(blake3::keyed_hash(&derived(key, b"bib data key check/1"), b"")))
        });
        let index = half(blake3::keyed_hash(&self.index_check, b""));
        let names = half(blake3::keyed_hash(&self.names_check, b""));
        let others = [("index key".to_owned(), index), ("catalog key".to_owned(), names)];
        of_data_keys.chain(others).collect()
    }

    /// The sealed form of a value in a table under a key.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the system gives no random bytes.
    pub fn seal_value(&self, table: u8, key: &[u8], value: &[&[u8]]) -> Result<Vec<u8>, StoreError> {
        let data = self.data.read().unwrap_or_else(PoisonError::into_inner);
        let (id, seal) = data.values.last_key_value().expect("a keyring has a data key");
        let mut head = [self.cipher as u8, 0, 0, 0, 0];
        head[1..].copy_from_slice(&id.to_le_bytes());
        let mut out = Vec::with_capacity(VALUE_OVERHEAD + value.iter().map(|part| part.len()).sum::<usize>());
        out.extend_from_slice(&head);
        seal.seal(self.cipher, &self.random, &[&head, [table].as_slice(), key].concat(), value, &mut out)?;
        Ok(out)
    }

    /// The value that was sealed in a table under a key; `None` if these are not the bytes of one.
    pub fn open_value(&self, table: u8, key: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (head, sealed) = sealed.split_first_chunk::<VALUE_HEAD>()?;
        let (number, id) = head.split_first()?;
        let id = u32::from_le_bytes(id.try_into().ok()?);
        let data = self.data.read().unwrap_or_else(PoisonError::into_inner);
        let aad = [head, [table].as_slice(), key].concat();
        data.values.get(&id)?.open(Cipher::from_u8(*number)?, &aad, sealed.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(ids: &[u32]) -> BTreeMap<u32, KeyBytes> {
        ids.iter().map(|id| (*id, Zeroizing::new([*id as u8; 32]))).collect()
    }

    fn keyring(ids: &[u32]) -> Keyring {
        Keyring::new(keys(ids), &[100; 32], &[101; 32]).unwrap()
    }

    #[test]
    fn keys_that_make_no_keyring_are_refused() {
        let refused = |ids: &[u32]| Keyring::new(keys(ids), &[0; 32], &[0; 32]).map(drop).unwrap_err();
        assert_eq!(refused(&[]), KeyringError::Empty);
        assert_eq!(refused(&[0, 1]), KeyringError::BadId(0));
        let keyring = keyring(&[1, 5]);
        assert_eq!(keyring.add_data_key(5, Zeroizing::new([1; 32])), Err(KeyringError::BadId(5)));
        assert_eq!(keyring.add_data_key(4, Zeroizing::new([1; 32])), Err(KeyringError::BadId(4)));
    }

    #[test]
    fn a_value_opens_only_where_it_was_sealed() {
        for cipher in Cipher::ALL {
            let keyring = keyring(&[1]).with_cipher(cipher);
            let sealed = keyring.seal_value(3, b"key", &[b"val", b"ue"]).unwrap();
            assert_eq!(sealed.len(), 5 + VALUE_OVERHEAD);
            assert_eq!(keyring.open_value(3, b"key", &sealed).unwrap(), b"value");
            assert_eq!(keyring.open_value(4, b"key", &sealed), None);
            assert_eq!(keyring.open_value(3, b"kez", &sealed), None);
            for at in 0..sealed.len() {
                let mut flipped = sealed.clone();
                flipped[at] ^= 1;
                assert_eq!(keyring.open_value(3, b"key", &flipped), None, "byte {at}");
            }
        }
    }

    #[test]
    fn a_new_data_key_seals_what_follows_and_what_was_sealed_before_still_opens() {
        let keyring = keyring(&[1]);
        let before = keyring.seal_value(0, b"k", &[b"old"]).unwrap();
        let segment = keyring.new_segment(&[7; 16], 3).unwrap();
        keyring.add_data_key(2, Zeroizing::new([9; 32])).unwrap();
        let after = keyring.seal_value(0, b"k", &[b"new"]).unwrap();
        assert_eq!((before[1], after[1], keyring.newest()), (1, 2, 2));
        assert_eq!(keyring.open_value(0, b"k", &before).unwrap(), b"old");
        assert_eq!(keyring.open_value(0, b"k", &after).unwrap(), b"new");
        assert_eq!((segment.key_id, keyring.new_segment(&[7; 16], 4).unwrap().key_id), (1, 2));
        keyring.segment_key(&segment, &[7; 16], 3).unwrap();
    }

    #[test]
    fn wrong_keys_are_told_by_the_header_of_a_segment() {
        let right = keyring(&[1, 2]);
        let seal = right.new_segment(&[7; 16], 3).unwrap();
        right.segment_key(&seal, &[7; 16], 3).unwrap();
        let mut other_data = keys(&[1, 2]);
        other_data.insert(2, Zeroizing::new([77; 32]));
        let wrong = [
            keyring(&[1]),
            Keyring::new(other_data, &[100; 32], &[101; 32]).unwrap(),
            Keyring::new(keys(&[1, 2]), &[99; 32], &[101; 32]).unwrap(),
        ];
        for wrong in wrong {
            let refused = wrong.segment_key(&seal, &[7; 16], 3).unwrap_err();
            assert!(matches!(refused, StoreError::Sealed(_)), "{refused}");
        }
        assert!(right.segment_key(&seal, &[7; 16], 4).is_err(), "the header of another segment");
        assert!(right.segment_key(&seal, &[8; 16], 3).is_err(), "the header of another store");
    }

    #[test]
    fn each_key_has_a_check_value_of_its_own() {
        let (one, other) =
            (keyring(&[1, 2]).checks(), Keyring::new(keys(&[1, 3]), &[1; 32], &[2; 32]).unwrap().checks());
        assert_eq!(one.len(), 4);
        assert_eq!(one["data key 1"], other["data key 1"]);
        assert!(one["index key"] != other["index key"] && one["catalog key"] != other["catalog key"]);
        let values: std::collections::BTreeSet<_> = one.values().collect();
        assert_eq!(values.len(), 4);
    }

    #[test]
    fn hidden_names_depend_on_key_table_and_what_is_above() {
        let keyring = keyring(&[1]);
        let hash = keyring.name_hash(1, b"above", b"name");
        assert_eq!(hash, keyring.name_hash(1, b"above", b"name"));
        assert_ne!(hash, keyring.name_hash(2, b"above", b"name"));
        assert_ne!(hash, keyring.name_hash(1, b"abov", b"ename"));
        assert_ne!(hash, Keyring::new(keys(&[1]), &[100; 32], &[102; 32]).unwrap().name_hash(1, b"above", b"name"));
    }
}
