//! The bytes of `keys/store.keys`.
//!
//! Stability: a format on disk; version 1 stays readable, see `docs/format.md`. Bytes 0 to 7 and the checksum at the end
//! stay in all versions, so that a newer file is told from a damaged one.

use bib_core::encode::decode_exact;
use bib_core::hash::{hash, hash_in_context};
use bib_core::id::NodeId;
use bib_core::limits::{MAX_DATA_KEYS, MAX_VAULT_LEN};
use bib_core::sealed::{BOX_OVERHEAD, KEY_LEN, WRAPPED_LEN};
use bib_core::share::{Scheme, SetId};
use bib_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;

const MAGIC: &[u8; 7] = b"bibkeys";
const VERSION: u8 = 1;
const HEAD_LEN: usize = MAGIC.len() + 1;
const TAG_LEN: usize = 32;
const CHECKSUM_LEN: usize = 16;
const TAG_CONTEXT: &str = "bib 2026 tag of store.keys";
const FINGERPRINT_CONTEXT: &str = "bib 2026 fingerprint of a key of keys";

/// The key of keys; overwritten when dropped.
pub(super) type Kek = zeroize::Zeroizing<[u8; KEY_LEN]>;

/// Says which key of keys it is, and nothing of it.
pub(super) type Fingerprint = [u8; 16];

/// The fingerprint of a key of keys.
pub(super) fn fingerprint(kek: &[u8; KEY_LEN]) -> Fingerprint {
    *hash_in_context(FINGERPRINT_CONTEXT, kek).first_chunk().expect("half of 32 bytes")
}

/// A data key as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DataKey {
    pub(super) id: u32,
    pub(super) created: Timestamp,
    pub(super) wrapped: ByteArray<WRAPPED_LEN>,
}

/// What is known of the shares made last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Split {
    pub(super) set: SetId,
    pub(super) scheme: Scheme,
    pub(super) time: Timestamp,
    /// Generation of the key of keys that was split.
    pub(super) generation: u32,
}

/// All that the file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Body {
    /// How many keys of keys there were, this one included.
    pub(super) generation: u32,
    pub(super) fingerprint: Fingerprint,
    /// The node that the key of keys is sealed to.
    pub(super) owner: NodeId,
    pub(super) sealed_kek: ByteArray<{ KEY_LEN + BOX_OVERHEAD }>,
    /// Ascending; the last one seals what is written.
    pub(super) data_keys: Vec<DataKey>,
    pub(super) index_key: ByteArray<WRAPPED_LEN>,
    pub(super) catalog_key: ByteArray<WRAPPED_LEN>,
    pub(super) split: Option<Split>,
}

/// Why bytes are not such a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FormatError {
    #[error("it is not a file of keys")]
    Foreign,
    #[error("its checksum does not fit: it is cut short or damaged")]
    Damaged,
    #[error("it has version {0}, this bibd reads version 1")]
    Unsupported(u8),
}

/// A file that is whole; whether it is genuine says [`Whole::is_genuine`].
#[derive(Debug, Clone)]
pub(super) struct Whole {
    pub(super) body: Body,
    tagged: Vec<u8>,
    tag: [u8; TAG_LEN],
}

impl Whole {
    /// Whether who wrote it had the key of keys.
    pub(super) fn is_genuine(&self, kek: &[u8; KEY_LEN]) -> bool {
        // Comparing hashes of this type takes the same time wherever they differ.
        tag(kek, &self.tagged) == blake3::Hash::from_bytes(self.tag)
    }
}

fn tag(kek: &[u8; KEY_LEN], bytes: &[u8]) -> blake3::Hash {
    let key = zeroize::Zeroizing::new(hash_in_context(TAG_CONTEXT, kek));
    blake3::keyed_hash(&key, bytes)
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    *hash(bytes).first_chunk().expect("half of 32 bytes")
}

impl Body {
    /// The bytes of the file, tagged with the key of keys.
    pub(super) fn encode(&self, kek: &[u8; KEY_LEN]) -> Vec<u8> {
        let mut bytes = [MAGIC.as_slice(), &[VERSION]].concat();
        bytes.extend(postcard::to_stdvec(self).expect("postcard encodes to memory every type that derives Serialize"));
        let tag = tag(kek, &bytes);
        bytes.extend_from_slice(tag.as_bytes());
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        bytes
    }

    /// Reads the bytes of a file.
    pub(super) fn decode(bytes: &[u8]) -> Result<Whole, FormatError> {
        let (magic, rest) = bytes.split_first_chunk().ok_or(FormatError::Foreign)?;
        if magic != MAGIC {
            return Err(FormatError::Foreign);
        }
        let version = *rest.first().ok_or(FormatError::Damaged)?;
        if bytes.len() > MAX_VAULT_LEN {
            return Err(FormatError::Damaged);
        }
        let (checked, sum) = bytes.split_last_chunk::<CHECKSUM_LEN>().ok_or(FormatError::Damaged)?;
        if checksum(checked) != *sum {
            return Err(FormatError::Damaged);
        }
        if version != VERSION {
            return Err(FormatError::Unsupported(version));
        }
        let (tagged, tag) = checked.split_last_chunk::<TAG_LEN>().ok_or(FormatError::Damaged)?;
        let body = tagged.get(HEAD_LEN..).ok_or(FormatError::Damaged)?;
        let body: Self = decode_exact("file of keys", body).map_err(|_| FormatError::Damaged)?;
        if !body.is_possible() {
            return Err(FormatError::Damaged);
        }
        Ok(Whole { body, tagged: tagged.to_vec(), tag: *tag })
    }

    fn is_possible(&self) -> bool {
        let ids = self.data_keys.iter().map(|key| key.id);
        let ascend = ids.clone().zip(ids.skip(1)).all(|(one, next)| one < next);
        let first = self.data_keys.first().is_some_and(|key| key.id > 0);
        let split = self.split.is_none_or(|split| {
            Scheme::new(split.scheme.threshold(), split.scheme.total()).is_some() && split.generation <= self.generation
        });
        ascend && first && self.data_keys.len() <= MAX_DATA_KEYS && self.generation > 0 && split
    }

    /// What is bound to the box of the key of keys.
    pub(super) fn kek_header(generation: u32, fingerprint: &Fingerprint, owner: &NodeId) -> Vec<u8> {
        [MAGIC.as_slice(), &[VERSION], &generation.to_le_bytes(), fingerprint, owner.as_bytes()].concat()
    }
}

/// What is bound to a data key.
pub(super) fn data_key_header(id: u32) -> Vec<u8> {
    [b"bib/keys/1 data".as_slice(), &id.to_le_bytes()].concat()
}

/// What is bound to the key that hides chunk ids in the index.
pub(super) const INDEX_KEY_HEADER: &[u8] = b"bib/keys/1 index";
/// What is bound to the key that hides names in the catalog.
pub(super) const CATALOG_KEY_HEADER: &[u8] = b"bib/keys/1 catalog";
