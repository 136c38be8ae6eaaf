//! The key of one segment.

use bib_core::port::StoreError;
use ring::hkdf;
use ring::rand::{SecureRandom, SystemRandom};

use super::cipher::{Cipher, SealKey, derive_secret};
use super::{Keyring, refused};

/// What the header of a sealed segment says of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SegmentSeal {
    /// Random; makes the key of this segment another one than that of all others.
    pub salt: [u8; 16],
    /// The data key that the key is derived from.
    pub key_id: u32,
    /// Says whether a keyring is the one that the segment was sealed with.
    pub check: [u8; 8],
}

/// The key of one segment; see [`Keyring::segment_key`].
pub struct SegmentKey {
    key: SealKey,
    number: u64,
}

impl std::fmt::Debug for SegmentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentKey").field("number", &self.number).finish_non_exhaustive()
    }
}

/// What a record is, beside its bytes: sealed together with them, so that one in another place, or said to be another
/// one, does not open.
#[derive(Debug, Clone, Copy)]
pub struct RecordPlace {
    /// What the chunk is called in the store.
    pub stored_key: [u8; 32],
    /// Raw bytes of the chunk.
    pub raw_len: u32,
    /// What its stored bytes are before they are sealed, by its number on disk.
    pub codec: u8,
    /// How they are sealed.
    pub cipher: Cipher,
    /// First byte of the record in the segment.
    pub offset: u64,
}

impl SegmentKey {
    fn aad(&self, place: &RecordPlace) -> [u8; 54] {
        let mut aad = [0; 54];
        aad[..32].copy_from_slice(&place.stored_key);
        aad[32..36].copy_from_slice(&place.raw_len.to_le_bytes());
        aad[36] = place.codec;
        aad[37] = place.cipher as u8;
        aad[38..46].copy_from_slice(&self.number.to_le_bytes());
        aad[46..].copy_from_slice(&place.offset.to_le_bytes());
        aad
    }

    /// Appends the sealed form of the bytes of a chunk to `out`.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the system gives no random bytes.
    pub fn seal(
        &self,
        keyring: &Keyring,
        place: &RecordPlace,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        self.key.seal(place.cipher, keyring.random(), &self.aad(place), &[payload], out)
    }

    /// The bytes of a chunk; `None` if these are not what was sealed there.
    pub fn open(&self, place: &RecordPlace, sealed: Vec<u8>) -> Option<Vec<u8>> {
        self.key.open(place.cipher, &self.aad(place), sealed)
    }
}

/// What all that is derived for a segment depends on, beside data key and salt.
fn context(store: &[u8; 16], number: u64) -> [u8; 24] {
    let mut context = [0; 24];
    context[..16].copy_from_slice(store);
    context[16..].copy_from_slice(&number.to_le_bytes());
    context
}

impl Keyring {
    /// Salt and check value for a new segment, sealed with the newest data key.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the system gives no random bytes.
    pub fn new_segment(&self, store: &[u8; 16], number: u64) -> Result<SegmentSeal, StoreError> {
        let mut salt = [0; 16];
        let failed = |_| StoreError::Io(std::io::Error::other("the system gives no random bytes"));
        SystemRandom::new().fill(&mut salt).map_err(failed)?;
        let key_id = self.newest();
        let prk = self.segment_secret(key_id, &salt)?;
        Ok(SegmentSeal { salt, key_id, check: self.segment_check(&prk, store, number) })
    }

    /// The key of a segment.
    ///
    /// # Errors
    /// [`StoreError::Sealed`] when the keyring is not the one that the segment was sealed with.
    pub fn segment_key(&self, seal: &SegmentSeal, store: &[u8; 16], number: u64) -> Result<SegmentKey, StoreError> {
        let prk = self.segment_secret(seal.key_id, &seal.salt)?;
        if self.segment_check(&prk, store, number) != seal.check {
            return Err(refused(format!("segment {number} was sealed with other keys than those at hand")));
        }
        Ok(SegmentKey { key: SealKey::derive(&prk, &context(store, number)), number })
    }

    fn segment_secret(&self, key_id: u32, salt: &[u8; 16]) -> Result<hkdf::Prk, StoreError> {
        let key = self.data_key(key_id).ok_or_else(|| refused(format!("data key {key_id} is not among the keys")))?;
        Ok(hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(key.as_ref()))
    }

    fn segment_check(&self, prk: &hkdf::Prk, store: &[u8; 16], number: u64) -> [u8; 8] {
        let of_data_key = derive_secret(prk, &[b"bib segment check/1", &context(store, number)]);
        // The index key as well: with another one the records open, but no chunk is found.
        let check = self.index_check(&of_data_key);
        *check.first_chunk().expect("eight of 32 bytes")
    }
}
