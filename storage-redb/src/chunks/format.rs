//! The bytes of a segment file. Stability: format version 1, described in `docs/format.md`.
//!
//! All numbers are little-endian. Every decoder here takes any bytes and answers with a value or `None`.

use bib_core::chunk::Codec;
use bib_core::id::ChunkId;
use bib_core::limits::MAX_CHUNK_LEN;

/// Bytes of a segment header.
pub(crate) const SEGMENT_HEADER_LEN: usize = 64;
/// Bytes of a record header.
pub(crate) const RECORD_HEADER_LEN: usize = 56;

const SEGMENT_MAGIC: [u8; 8] = *b"bibsegm\x01";
const RECORD_MAGIC: [u8; 4] = *b"bibc";

/// The first bytes of a segment file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Its number, also in its name.
    pub(crate) number: u64,
    /// The store it belongs to.
    pub(crate) store: [u8; 16],
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER_LEN] {
        let mut out = [0; SEGMENT_HEADER_LEN];
        out[..8].copy_from_slice(&SEGMENT_MAGIC);
        out[8..16].copy_from_slice(&self.number.to_le_bytes());
        out[16..32].copy_from_slice(&self.store);
        // 32..60 is zero: room for a salt and the id of a data key.
        let crc = crc32c::crc32c(&out[..60]);
        out[60..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header; `None` for anything that is none.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; SEGMENT_HEADER_LEN] = bytes.get(..SEGMENT_HEADER_LEN)?.try_into().ok()?;
        let whole = bytes[..8] == SEGMENT_MAGIC && crc32c::crc32c(&bytes[..60]) == number_u32(&bytes[60..])?;
        whole.then_some(Self { number: number_u64(&bytes[8..])?, store: bytes[16..32].try_into().ok()? })
    }
}

/// What stands before the bytes of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    /// The chunk.
    pub(crate) id: ChunkId,
    /// Its raw bytes.
    pub(crate) raw_len: u32,
    /// The bytes that follow.
    pub(crate) stored_len: u32,
    /// How they are encoded.
    pub(crate) codec: Codec,
}

impl RecordHeader {
    /// Header with the checksum over itself and the payload.
    pub(crate) fn encode(&self, payload: &[u8]) -> [u8; RECORD_HEADER_LEN] {
        let mut out = [0; RECORD_HEADER_LEN];
        out[..4].copy_from_slice(&RECORD_MAGIC);
        out[4..36].copy_from_slice(self.id.as_bytes());
        out[36..40].copy_from_slice(&self.raw_len.to_le_bytes());
        out[40..44].copy_from_slice(&self.stored_len.to_le_bytes());
        out[44] = self.codec as u8;
        // 45..52 is zero: room for flags and a key id.
        let crc = crc32c::crc32c_append(crc32c::crc32c(&out[..52]), payload);
        out[52..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header; says nothing of the payload.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; RECORD_HEADER_LEN] = bytes.get(..RECORD_HEADER_LEN)?.try_into().ok()?;
        let header = Self {
            id: ChunkId::from_slice(&bytes[4..36])?,
            raw_len: number_u32(&bytes[36..])?,
            stored_len: number_u32(&bytes[40..])?,
            codec: Codec::from_u8(bytes[44])?,
        };
        let bounded = header.raw_len as usize <= MAX_CHUNK_LEN && header.stored_len as usize <= MAX_CHUNK_LEN;
        (bytes[..4] == RECORD_MAGIC && bounded && bytes[45..52] == [0; 7]).then_some(header)
    }

    /// Whether the checksum in `header` holds for its first bytes and the payload.
    pub(crate) fn checksum_holds(header: &[u8], payload: &[u8]) -> bool {
        header.len() == RECORD_HEADER_LEN
            && number_u32(&header[52..]) == Some(crc32c::crc32c_append(crc32c::crc32c(&header[..52]), payload))
    }
}

fn number_u32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?))
}

fn number_u64(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?))
}
