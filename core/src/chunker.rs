//! Content-defined chunking: where a stream of bytes is cut, so that equal stretches of two versions share chunks.
//!
//! The parameters travel in the manifest, and a new version is cut with those of the one before it.

use serde::{Deserialize, Serialize};

use crate::limits::{DEFAULT_CHUNK_AVG, MAX_CHUNK_LEN};

/// Parameters of FastCDC (Xia et al., 2020). All lengths in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkerParams {
    /// Shortest chunk but the last.
    pub min: u32,
    /// Average aimed at.
    pub avg: u32,
    /// Longest chunk.
    pub max: u32,
    /// Normalisation level, 0 to 3.
    pub normalisation: u8,
}

impl ChunkerParams {
    /// The parameters for an average chunk size: a quarter of it at least, four times at most.
    pub const fn with_average(avg: u32) -> Self {
        Self { min: avg / 4, avg, max: avg * 4, normalisation: 1 }
    }

    /// Whether the parameters can be used: even, ordered, and within what the store and the wire accept.
    pub const fn is_valid(&self) -> bool {
        let even = self.min.is_multiple_of(2) && self.avg.is_multiple_of(2) && self.max.is_multiple_of(2);
        let ordered = 1_024 <= self.min && self.min < self.avg && self.avg < self.max;
        even && ordered && self.max as usize <= MAX_CHUNK_LEN && self.normalisation <= 3
    }
}

impl Default for ChunkerParams {
    fn default() -> Self {
        Self::with_average(DEFAULT_CHUNK_AVG)
    }
}

/// Cuts one stream, pushed in pieces of any size; holds at most one longest chunk and one piece.
#[derive(Debug, Clone)]
pub struct Chunker {
    params: ChunkerParams,
    buf: Vec<u8>,
}

impl Chunker {
    /// A chunker at the start of a stream.
    ///
    /// # Panics
    /// If the parameters are not valid.
    pub fn new(params: ChunkerParams) -> Self {
        assert!(params.is_valid(), "chunker parameters are checked where they enter");
        Self { params, buf: Vec::new() }
    }

    /// Adds bytes and hands out each chunk that is now certain.
    pub fn push(&mut self, bytes: &[u8], mut emit: impl FnMut(Vec<u8>)) {
        self.buf.extend_from_slice(bytes);
        // A cut point depends on at most `max` bytes, so with that many in hand it no longer changes.
        let mut start = 0;
        while self.buf.len() - start >= self.params.max as usize {
            let len = self.next_cut(&self.buf[start..]);
            emit(self.buf[start..start + len].to_vec());
            start += len;
        }
        self.buf.drain(..start);
    }

    /// Ends the stream, hands out what is left, and is ready for another stream.
    pub fn finish(&mut self, mut emit: impl FnMut(Vec<u8>)) {
        let mut start = 0;
        while start < self.buf.len() {
            let len = self.next_cut(&self.buf[start..]);
            emit(self.buf[start..start + len].to_vec());
            start += len;
        }
        self.buf.clear();
    }

    fn next_cut(&self, bytes: &[u8]) -> usize {
        let ChunkerParams { min, avg, max, normalisation } = self.params;
        let level = match normalisation {
            0 => fastcdc::v2020::Normalization::Level0,
            1 => fastcdc::v2020::Normalization::Level1,
            2 => fastcdc::v2020::Normalization::Level2,
            _ => fastcdc::v2020::Normalization::Level3,
        };
        let window = &bytes[..bytes.len().min(max as usize)];
        let mut cutter = fastcdc::v2020::FastCDC::with_level(window, min as usize, avg as usize, max as usize, level);
        cutter.next().map_or(window.len(), |chunk| chunk.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::hash;

    fn noise(len: usize) -> Vec<u8> {
        let mut out: Vec<u8> = (0..len as u64 / 32 + 1).flat_map(|i| hash(&i.to_le_bytes())).collect();
        out.truncate(len);
        out
    }

    fn cut(bytes: &[u8], piece: usize) -> Vec<Vec<u8>> {
        let (mut chunker, mut chunks) = (Chunker::new(ChunkerParams::with_average(16 << 10)), Vec::new());
        for piece in bytes.chunks(piece) {
            chunker.push(piece, |chunk| chunks.push(chunk));
        }
        chunker.finish(|chunk| chunks.push(chunk));
        chunks
    }

    #[test]
    fn cuts_do_not_depend_on_how_the_bytes_arrive() {
        let bytes = noise(1 << 20);
        let whole = cut(&bytes, bytes.len());
        assert!(whole.len() > 30, "{}", whole.len());
        assert_eq!(whole.concat(), bytes);
        for piece in [100, 4_095, 65_536, 300_001] {
            assert_eq!(cut(&bytes, piece), whole, "pieces of {piece}");
        }
    }

    #[test]
    fn an_insertion_changes_few_chunks() {
        let bytes = noise(2 << 20);
        let mut edited = bytes.clone();
        edited.splice(1_000_000..1_000_000, *b"one more row\n");
        let old: std::collections::BTreeSet<_> = cut(&bytes, 1 << 20).into_iter().collect();
        let new = cut(&edited, 1 << 20).into_iter().filter(|chunk| !old.contains(chunk)).count();
        assert!((1..=3).contains(&new), "{new}");
    }

    #[test]
    fn nothing_gives_no_chunk_and_sizes_stay_in_bounds() {
        assert!(cut(&[], 1).is_empty());
        assert_eq!(cut(&[7], 1), [[7]]);
        let sizes: Vec<usize> = cut(&vec![0; 1 << 20], 9_999).iter().map(Vec::len).collect();
        assert!(sizes.iter().all(|&size| size <= 64 << 10), "{sizes:?}");
    }
}
