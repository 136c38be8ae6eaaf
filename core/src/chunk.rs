//! A chunk: verified bytes, in the encoding in which they are stored and sent.
//!
//! A [`Chunk`] can only be made by hashing: from raw bytes, or from encoded bytes that decode to what the id says. So
//! a chunk store that takes `Chunk`s never holds unverified bytes, and bytes are compressed once, where they are
//! published, and travel and rest in that form.

use std::cell::RefCell;
use std::io;

use serde::{Deserialize, Serialize};

use crate::hash::hash;
use crate::id::ChunkId;
use crate::limits::MAX_CHUNK_LEN;

/// How the bytes of a chunk are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Codec {
    /// As they are.
    None = 0,
    /// One zstd frame.
    Zstd = 1,
}

impl Codec {
    /// The codec with this number on disk.
    pub const fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::None),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Why bytes are not the chunk they are said to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkError {
    /// The hash of the bytes is another.
    #[error("chunk {expected} has the hash {found}")]
    WrongHash {
        /// The id asked for.
        expected: ChunkId,
        /// The id of the bytes.
        found: ChunkId,
    },
    /// Longer than any chunk may be, or than it said.
    #[error("chunk {id} has {len} bytes, at most {max} are accepted")]
    TooLong {
        /// The id asked for.
        id: ChunkId,
        /// The length said or found, in bytes.
        len: u64,
        /// The bound, in bytes.
        max: u64,
    },
    /// The encoded bytes do not decode.
    #[error("chunk {id} does not decode: {reason}")]
    Undecodable {
        /// The id asked for.
        id: ChunkId,
        /// What the decoder said.
        reason: String,
    },
}

/// Raw bytes with the hash that was made of them: known by its id before it is worth compressing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawChunk {
    id: ChunkId,
    bytes: Vec<u8>,
}

impl RawChunk {
    /// Hashes raw bytes.
    ///
    /// # Panics
    /// If there are more than [`MAX_CHUNK_LEN`].
    pub fn new(bytes: Vec<u8>) -> Self {
        assert!(bytes.len() <= MAX_CHUNK_LEN, "a chunker never cuts more than the maximum");
        Self { id: ChunkId::from_bytes(hash(&bytes)), bytes }
    }

    /// The id.
    pub const fn id(&self) -> ChunkId {
        self.id
    }

    /// Length of the raw bytes.
    pub fn len(&self) -> u32 {
        self.bytes.len() as u32
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The raw bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The chunk, compressed where that saves at least 5 %.
    pub fn compress(self) -> Chunk {
        Chunk::from_hashed(self.id, self.bytes)
    }
}

/// Verified bytes with their id. See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    id: ChunkId,
    len: u32,
    codec: Codec,
    bytes: Vec<u8>,
    /// Whether nobody has tried to compress it yet.
    untried: bool,
}

/// Raw bytes below this many are not worth a compressor's set-up and frame header, in bytes.
const MIN_COMPRESSED_LEN: usize = 128;
/// Only this many bytes are tried first; if they do not shrink, the rest is not tried, in bytes.
const PROBE_LEN: usize = 16 * 1024;
/// zstd level: higher ones cost more and save nothing on the measured tables.
const ZSTD_LEVEL: i32 = 1;

// A context costs some 10 µs to make and as much to let go, which is more than a small chunk takes; one a thread is kept.
thread_local! {
    static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

fn compress(raw: &[u8]) -> io::Result<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|kept| {
        let made = kept.take().map_or_else(|| zstd::bulk::Compressor::new(ZSTD_LEVEL), Ok)?;
        kept.insert(made).compress(raw)
    })
}

fn saves_enough(raw: usize, encoded: usize) -> bool {
    encoded <= raw - raw / 20
}

impl Chunk {
    /// Hashes raw bytes, and compresses them where that saves at least 5 %.
    ///
    /// # Panics
    /// If `raw` is longer than [`MAX_CHUNK_LEN`].
    pub fn from_raw(raw: Vec<u8>) -> Self {
        RawChunk::new(raw).compress()
    }

    fn from_hashed(id: ChunkId, raw: Vec<u8>) -> Self {
        let len = raw.len() as u32;
        if raw.len() >= MIN_COMPRESSED_LEN {
            let probe = &raw[..raw.len().min(PROBE_LEN)];
            let promising =
                raw.len() <= PROBE_LEN || compress(probe).is_ok_and(|out| saves_enough(probe.len(), out.len()));
            if promising
                && let Ok(encoded) = compress(&raw)
                && saves_enough(raw.len(), encoded.len())
            {
                return Self { id, len, codec: Codec::Zstd, bytes: encoded, untried: false };
            }
        }
        Self { id, len, codec: Codec::None, bytes: raw, untried: false }
    }

    /// Accepts encoded bytes that decode to the chunk `id` of `len` bytes.
    ///
    /// # Errors
    /// [`ChunkError`] when they do not.
    pub fn verify(id: ChunkId, len: u32, codec: Codec, bytes: Vec<u8>) -> Result<Self, ChunkError> {
        if len as usize > MAX_CHUNK_LEN || bytes.len() > MAX_CHUNK_LEN {
            let len = u64::from(len).max(bytes.len() as u64);
            return Err(ChunkError::TooLong { id, len, max: MAX_CHUNK_LEN as u64 });
        }
        let found = match codec {
            Codec::None if bytes.len() == len as usize => hash(&bytes),
            Codec::None => {
                return Err(ChunkError::TooLong { id, len: bytes.len() as u64, max: u64::from(len) });
            }
            Codec::Zstd => hash(&decompress(id, len, &bytes)?),
        };
        if found != *id.as_bytes() {
            return Err(ChunkError::WrongHash { expected: id, found: ChunkId::from_bytes(found) });
        }
        Ok(Self { id, len, codec, bytes, untried: false })
    }

    /// Accepts raw bytes that were never looked at for how well they compress; [`Chunk::packed`] does it.
    ///
    /// # Errors
    /// [`ChunkError`] when they are not the chunk.
    pub fn verify_raw(id: ChunkId, len: u32, bytes: Vec<u8>) -> Result<Self, ChunkError> {
        Ok(Self { untried: true, ..Self::verify(id, len, Codec::None, bytes)? })
    }

    /// The chunk as it is sent: compressed where that saves at least 5 %. Costs nothing where it was tried before.
    pub fn packed(self) -> Self {
        if self.untried { Self::from_hashed(self.id, self.bytes) } else { self }
    }

    /// The id.
    pub const fn id(&self) -> ChunkId {
        self.id
    }

    /// Length of the raw bytes.
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Whether there are no bytes; such a chunk is never stored.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How [`Chunk::encoded`] is encoded.
    pub const fn codec(&self) -> Codec {
        self.codec
    }

    /// The bytes as stored and sent.
    pub fn encoded(&self) -> &[u8] {
        &self.bytes
    }

    /// Gives up the encoded bytes.
    pub fn into_encoded(self) -> Vec<u8> {
        self.bytes
    }

    /// The raw bytes.
    pub fn into_raw(self) -> Vec<u8> {
        match self.codec {
            Codec::None => self.bytes,
            Codec::Zstd => {
                decompress(self.id, self.len, &self.bytes).expect("a chunk is made only of bytes that decode")
            }
        }
    }
}

/// The chunk that encoded bytes stand for, if they decode to `len` bytes: for who finds bytes without a name.
pub fn identify(len: u32, codec: Codec, bytes: &[u8]) -> Option<ChunkId> {
    if len as usize > MAX_CHUNK_LEN || bytes.len() > MAX_CHUNK_LEN {
        return None;
    }
    let hash = match codec {
        Codec::None => (bytes.len() == len as usize).then(|| hash(bytes))?,
        Codec::Zstd => hash(&decompress(ChunkId::from_bytes([0; 32]), len, bytes).ok()?),
    };
    Some(ChunkId::from_bytes(hash))
}

/// Decodes zstd without trusting what the frame says of its size.
fn decompress(id: ChunkId, len: u32, bytes: &[u8]) -> Result<Vec<u8>, ChunkError> {
    let raw = DECOMPRESSOR.with_borrow_mut(|kept| {
        let made = kept.take().map_or_else(zstd::bulk::Decompressor::new, Ok)?;
        kept.insert(made).decompress(bytes, len as usize)
    });
    let raw = raw.map_err(|error: io::Error| ChunkError::Undecodable { id, reason: error.to_string() })?;
    if raw.len() != len as usize {
        return Err(ChunkError::Undecodable { id, reason: format!("{} bytes instead of {len}", raw.len()) });
    }
    Ok(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressible_bytes_shrink_and_come_back() {
        let raw = b"station,date,tmax\n".repeat(4_000);
        let chunk = Chunk::from_raw(raw.clone());
        assert_eq!(chunk.codec(), Codec::Zstd);
        assert!(chunk.encoded().len() * 10 < raw.len());
        let again = Chunk::verify(chunk.id(), chunk.len(), chunk.codec(), chunk.encoded().to_vec()).unwrap();
        assert_eq!(again.into_raw(), raw);
    }

    #[test]
    fn incompressible_and_tiny_bytes_stay_raw() {
        let noise: Vec<u8> = (0..2_000u32).flat_map(|i| hash(&i.to_le_bytes())).collect();
        assert_eq!(Chunk::from_raw(noise).codec(), Codec::None);
        assert_eq!(Chunk::from_raw(b"aaaaaaaaaaaaaaaa".to_vec()).codec(), Codec::None);
    }

    #[test]
    fn bytes_that_were_left_raw_are_compressed_when_they_are_sent() {
        let raw = b"station,date,tmax\n".repeat(4_000);
        let chunk = Chunk::from_raw(raw.clone());
        let left = Chunk::verify_raw(chunk.id(), chunk.len(), raw).unwrap();
        assert_eq!(left.codec(), Codec::None);
        assert_eq!(left.packed(), chunk);
        assert_eq!(chunk.clone().packed(), chunk);
        assert!(Chunk::verify_raw(chunk.id(), 3, b"abc".to_vec()).is_err());
    }

    #[test]
    fn bytes_without_a_name_are_identified() {
        for raw in [b"abc".repeat(1_000), b"ab".to_vec(), Vec::new()] {
            let chunk = Chunk::from_raw(raw);
            assert_eq!(identify(chunk.len(), chunk.codec(), chunk.encoded()), Some(chunk.id()));
            assert_eq!(identify(chunk.len() + 1, chunk.codec(), chunk.encoded()), None);
        }
        assert_eq!(identify(u32::MAX, Codec::None, &[]), None);
        assert_eq!(identify(3, Codec::Zstd, b"abc"), None);
    }

    #[test]
    fn lies_about_a_chunk_are_refused() {
        let chunk = Chunk::from_raw(b"abc".repeat(1_000));
        let (id, len, codec, bytes) = (chunk.id(), chunk.len(), chunk.codec(), chunk.encoded().to_vec());
        let mut flipped = bytes.clone();
        *flipped.last_mut().unwrap() ^= 1;
        assert!(Chunk::verify(id, len, codec, flipped).is_err());
        assert!(Chunk::verify(id, len - 1, codec, bytes.clone()).is_err());
        assert!(Chunk::verify(id, len, Codec::None, bytes.clone()).is_err());
        assert!(Chunk::verify(id, u32::MAX, codec, bytes.clone()).is_err());
        assert!(Chunk::verify(ChunkId::from_bytes([0; 32]), len, codec, bytes).is_err());
    }

    #[test]
    fn a_bomb_is_stopped_at_its_stated_length() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
        assert!(bomb.len() < MAX_CHUNK_LEN);
        let refused = Chunk::verify(ChunkId::from_bytes([0; 32]), 1 << 20, Codec::Zstd, bomb);
        assert!(matches!(refused, Err(ChunkError::Undecodable { .. })), "{refused:?}");
    }
}
