//! The bytes of a segment file and of an index entry. Stability: format version 1, and 2 where it is sealed, described
//! in `docs/format.md`.
//!
//! All numbers are little-endian. Every decoder here takes any bytes and answers with a value or says that they are
//! none; none of them allocates.

use bib_core::chunk::Codec;
use bib_core::id::ChunkId;
use bib_core::limits::MAX_CHUNK_LEN;

use crate::crypto::{Cipher, RecordPlace, SEALED_OVERHEAD, SegmentSeal};

/// Bytes of a segment header.
pub const SEGMENT_HEADER_LEN: usize = 64;
/// Bytes of a record header.
pub const RECORD_HEADER_LEN: usize = 56;
/// Bytes of an index entry.
pub const LOCATION_LEN: usize = 25;
/// Where in a segment header the bytes begin that are zero in a plain one.
pub const SEAL_OFFSET: usize = 32;
/// What a record begins with.
pub const RECORD_MAGIC: [u8; 4] = *b"bibc";

const SEGMENT_MAGIC: [u8; 7] = *b"bibsegm";
const SEGMENT_VERSION: u8 = 1;
/// Of segments with a seal.
const SEALED_VERSION: u8 = 2;

/// What a chunk is called in the store: its id, or in a sealed store a keyed hash of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key([u8; 32]);

impl Key {
    /// The key with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key of a chunk in a plain store, or in a plain segment.
    pub const fn plain(id: &ChunkId) -> Self {
        Self(*id.as_bytes())
    }

    /// The chunk that a key of a plain segment stands for.
    pub const fn plain_id(&self) -> ChunkId {
        ChunkId::from_bytes(self.0)
    }
}

/// The first bytes of a segment file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Its number, also in its name.
    pub number: u64,
    /// The store it belongs to.
    pub store: [u8; 16],
    /// What its key follows from; `None` for a plain one.
    pub seal: Option<SegmentSeal>,
}

/// What bytes are that should be a segment header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderBytes {
    /// A header.
    Header(SegmentHeader),
    /// The header of a format that this program does not know.
    Newer(u8),
    /// Anything else: cut short, damaged, of another program.
    Damaged,
}

impl SegmentHeader {
    /// The bytes of the header.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_LEN] {
        let mut out = [0; SEGMENT_HEADER_LEN];
        out[..7].copy_from_slice(&SEGMENT_MAGIC);
        out[7] = if self.seal.is_some() { SEALED_VERSION } else { SEGMENT_VERSION };
        out[8..16].copy_from_slice(&self.number.to_le_bytes());
        out[16..32].copy_from_slice(&self.store);
        // Zero in a plain one.
        if let Some(seal) = &self.seal {
            out[32..48].copy_from_slice(&seal.salt);
            out[48..52].copy_from_slice(&seal.key_id.to_le_bytes());
            out[52..60].copy_from_slice(&seal.check);
        }
        let crc = crc32c::crc32c(&out[..60]);
        out[60..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the first bytes of a file.
    pub fn decode(bytes: &[u8]) -> HeaderBytes {
        let Some(bytes) = bytes.first_chunk::<SEGMENT_HEADER_LEN>() else { return HeaderBytes::Damaged };
        if bytes[..7] != SEGMENT_MAGIC || crc32c::crc32c(&bytes[..60]) != u32_at(bytes, 60) {
            return HeaderBytes::Damaged;
        }
        if ![SEGMENT_VERSION, SEALED_VERSION].contains(&bytes[7]) {
            return HeaderBytes::Newer(bytes[7]);
        }
        let (mut store, mut salt, mut check) = ([0; 16], [0; 16], [0; 8]);
        store.copy_from_slice(&bytes[16..32]);
        salt.copy_from_slice(&bytes[32..48]);
        check.copy_from_slice(&bytes[52..60]);
        let seal = SegmentSeal { salt, key_id: u32_at(bytes, 48), check };
        if bytes[7] == SEALED_VERSION && seal.key_id == 0 {
            return HeaderBytes::Damaged;
        }
        let seal = (bytes[7] == SEALED_VERSION).then_some(seal);
        HeaderBytes::Header(Self { number: u64_at(bytes, 8), store, seal })
    }
}

/// What the stored bytes of a record are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordCodec {
    /// The chunk, so encoded.
    Chunk(Codec),
    /// The place in a file outside of the store where its raw bytes lie.
    Reference,
}

impl RecordCodec {
    /// Its number on disk. Those of a [`Codec`] are the same, so that no later one may have number 2.
    pub const fn number(self) -> u8 {
        match self {
            Self::Chunk(codec) => codec as u8,
            Self::Reference => 2,
        }
    }

    /// What has this number on disk.
    pub const fn from_number(number: u8) -> Option<Self> {
        match (number, Codec::from_u8(number)) {
            (2, _) => Some(Self::Reference),
            (_, Some(codec)) => Some(Self::Chunk(codec)),
            (_, None) => None,
        }
    }
}

/// What stands before the bytes of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// The chunk.
    pub key: Key,
    /// Its raw bytes.
    pub raw_len: u32,
    /// The bytes that follow.
    pub stored_len: u32,
    /// How they are encoded.
    pub codec: RecordCodec,
    /// How they are sealed; `None` in a plain segment.
    pub cipher: Option<Cipher>,
}

/// The number of a cipher on disk.
const fn cipher_number(cipher: Option<Cipher>) -> u8 {
    match cipher {
        None => 0,
        Some(cipher) => cipher as u8,
    }
}

/// The cipher, or none, with this number on disk.
fn cipher_from(number: u8) -> Option<Option<Cipher>> {
    if number == 0 { Some(None) } else { Cipher::from_u8(number).map(Some) }
}

/// Whether so many bytes may be stored for so many raw ones.
fn is_bounded(raw_len: u32, stored_len: u32, cipher: Option<Cipher>) -> bool {
    let overhead = if cipher.is_some() { SEALED_OVERHEAD } else { 0 };
    raw_len as usize <= MAX_CHUNK_LEN && (overhead..=MAX_CHUNK_LEN + overhead).contains(&(stored_len as usize))
}

impl RecordHeader {
    /// Header with the checksum over itself and the payload.
    pub fn encode(&self, payload: &[u8]) -> [u8; RECORD_HEADER_LEN] {
        let mut out = [0; RECORD_HEADER_LEN];
        out[..4].copy_from_slice(&RECORD_MAGIC);
        out[4..36].copy_from_slice(self.key.as_bytes());
        out[36..40].copy_from_slice(&self.raw_len.to_le_bytes());
        out[40..44].copy_from_slice(&self.stored_len.to_le_bytes());
        out[44] = self.codec.number();
        out[45] = cipher_number(self.cipher);
        // 46..52 is zero: room for flags.
        let crc = crc32c::crc32c_append(crc32c::crc32c(&out[..52]), payload);
        out[52..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header; says nothing of the payload.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<RECORD_HEADER_LEN>()?;
        let header = Self {
            key: Key(*bytes[4..].first_chunk()?),
            raw_len: u32_at(bytes, 36),
            stored_len: u32_at(bytes, 40),
            codec: RecordCodec::from_number(bytes[44])?,
            cipher: cipher_from(bytes[45])?,
        };
        let bounded = is_bounded(header.raw_len, header.stored_len, header.cipher);
        (bytes[..4] == RECORD_MAGIC && bounded && bytes[46..52] == [0; 6]).then_some(header)
    }

    /// Whether the checksum in `header` holds for its first bytes and the payload.
    pub fn checksum_holds(header: &[u8; RECORD_HEADER_LEN], payload: &[u8]) -> bool {
        u32_at(header, 52) == crc32c::crc32c_append(crc32c::crc32c(&header[..52]), payload)
    }

    /// What is sealed with the bytes of the record, if it begins at `offset`.
    pub const fn place(&self, cipher: Cipher, offset: u64) -> RecordPlace {
        let Self { key, raw_len, codec, .. } = self;
        RecordPlace { stored_key: key.0, raw_len: *raw_len, codec: codec.number(), cipher, offset }
    }

    /// Bytes of header and payload.
    pub const fn record_len(&self) -> u64 {
        RECORD_HEADER_LEN as u64 + self.stored_len as u64
    }
}

impl Location {
    /// Whether the bytes of the chunk lie outside of the store.
    pub const fn is_reference(&self) -> bool {
        matches!(self.codec, RecordCodec::Reference)
    }
}

/// Where a chunk lies: the value of an index entry, whose key is a [`Key`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// Number of the segment.
    pub segment: u64,
    /// First byte of the record in the segment.
    pub offset: u64,
    /// Raw bytes of the chunk.
    pub raw_len: u32,
    /// Bytes as they are stored.
    pub stored_len: u32,
    /// How they are encoded.
    pub codec: RecordCodec,
    /// How they are sealed; `None` in a plain segment.
    pub cipher: Option<Cipher>,
}

impl Location {
    /// The bytes of the entry.
    pub fn encode(&self) -> [u8; LOCATION_LEN] {
        let mut out = [0; LOCATION_LEN];
        out[..8].copy_from_slice(&self.segment.to_le_bytes());
        out[8..16].copy_from_slice(&self.offset.to_le_bytes());
        out[16..20].copy_from_slice(&self.raw_len.to_le_bytes());
        out[20..24].copy_from_slice(&self.stored_len.to_le_bytes());
        out[24] = self.codec.number() | cipher_number(self.cipher) << 4;
        out
    }

    /// Reads an entry; `None` for one that no store writes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LOCATION_LEN] = bytes.try_into().ok()?;
        let location = Self {
            segment: u64_at(bytes, 0),
            offset: u64_at(bytes, 8),
            raw_len: u32_at(bytes, 16),
            stored_len: u32_at(bytes, 20),
            codec: RecordCodec::from_number(bytes[24] & 0xf)?,
            cipher: cipher_from(bytes[24] >> 4)?,
        };
        let bounded = is_bounded(location.raw_len, location.stored_len, location.cipher);
        (bounded && location.offset <= u64::MAX / 2).then_some(location)
    }

    /// The header of the record that lies there.
    pub const fn header(&self, key: Key) -> RecordHeader {
        let Self { raw_len, stored_len, codec, cipher, .. } = *self;
        RecordHeader { key, raw_len, stored_len, codec, cipher }
    }

    /// Bytes of header and payload.
    pub const fn record_len(&self) -> u64 {
        RECORD_HEADER_LEN as u64 + self.stored_len as u64
    }

    /// First byte of the payload in the segment.
    pub const fn payload_offset(&self) -> u64 {
        self.offset + RECORD_HEADER_LEN as u64
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
