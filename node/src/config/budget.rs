//! How `limits.memory` is divided: the one place where sizes of caches, queues and buffers come from.
//!
//! Invariant: what all parts may take together, with what the program needs in any case, is at most the limit.

use bib_core::limits::{FETCH_CHUNKS_PER_PROVIDER, FETCH_PROVIDERS, MAX_CHUNK_LEN, MAX_SESSIONS};

/// The least limit that is accepted, in bytes.
pub const MIN_MEMORY: u64 = 32 << 20;
/// What the program, its libraries and its threads need without any work, in bytes.
const BASE: u64 = 12 << 20;

/// Sizes of everything that grows with work. All in bytes unless their name says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Pages that redb keeps of the catalog.
    pub catalog_cache: usize,
    /// Pages that redb keeps of the chunk index.
    pub index_cache: usize,
    /// The filter of what a collection of garbage marks. With less than a byte for each chunk it keeps some garbage until
    /// the next one.
    pub gc_filter: usize,
    /// Threads of the pool, each with a chunk or two in hand; a count.
    pub pool_threads: usize,
    /// Chunks on their way from peers or between the network and the store, over all fetches.
    pub fetch_bytes: usize,
    /// Chunks on their way to peers, over all of them.
    pub serve_bytes: usize,
    /// Content on its way between control sessions and the store, over all sessions.
    pub session_bytes: usize,
    /// What came from peers about the catalog and was not looked at.
    pub mailbox_bytes: usize,
    /// Large frames about the catalog that are being received from peers, over all of them; at least the largest one.
    pub peer_bytes: usize,
    /// Ingests at the same time, each with a chunk or two in hand; a count.
    pub n_ingests: usize,
    /// Access operations that are remembered, by the store thread and once more for reads; in bytes, for each of both.
    pub access_bytes: usize,
    /// Connections to peers; a count.
    pub max_peers: usize,
}

/// Memory of one connected peer that keeps up, in bytes: its buffers for encryption and muxing, its short frames and its
/// tasks. Its large frames are counted in `peer_bytes`. What it sends ahead of readers that wait is not counted here; the
/// muxer bounds it for each connection.
const PEER: u64 = 96 << 10;

impl Budget {
    /// Divides a limit.
    pub fn of(memory: u64) -> Self {
        let free = memory.max(MIN_MEMORY) - BASE;
        // In parts of a hundred; the rest is for what the allocator cannot give back.
        let share = |parts: u64, most: u64| (free / 100 * parts).min(most);
        let bytes = |parts, most| usize::try_from(share(parts, most)).unwrap_or(usize::MAX);
        let most_in_flight = (FETCH_PROVIDERS * FETCH_CHUNKS_PER_PROVIDER * MAX_CHUNK_LEN) as u64;
        Self {
            catalog_cache: bytes(4, 32 << 20),
            index_cache: bytes(4, 32 << 20),
            gc_filter: bytes(3, 16 << 20),
            pool_threads: usize::try_from((free / (8 << 20)).clamp(2, 4)).unwrap_or(2),
            fetch_bytes: bytes(16, most_in_flight),
            serve_bytes: bytes(11, 64 << 20),
            session_bytes: bytes(11, MAX_SESSIONS as u64 * (4 << 20)),
            mailbox_bytes: bytes(3, 8 << 20),
            peer_bytes: bytes(6, 8 << 20),
            n_ingests: usize::try_from((free / (24 << 20)).clamp(1, 8)).unwrap_or(1),
            access_bytes: bytes(4, 64 << 20) / 2,
            max_peers: usize::try_from((share(8, 400 * PEER) / PEER).max(8)).unwrap_or(8),
        }
    }
}

#[cfg(test)]
mod tests {
    use bib_core::limits::MAX_CATALOG_FRAME;

    use super::*;

    #[test]
    fn parts_never_exceed_the_limit_and_serve_the_largest_chunk() {
        for memory in [MIN_MEMORY, 64 << 20, 128 << 20, 1 << 30, 64 << 30] {
            let budget = Budget::of(memory);
            let caches = budget.catalog_cache + budget.index_cache + budget.gc_filter;
            let flows = budget.fetch_bytes + budget.serve_bytes + budget.session_bytes + budget.mailbox_bytes;
            let flows = flows + budget.peer_bytes;
            let in_hand = (budget.pool_threads + budget.n_ingests) * 2 * MAX_CHUNK_LEN;
            let counted = 2 * budget.access_bytes as u64 + budget.max_peers as u64 * PEER;
            let total = BASE + (caches + flows + in_hand) as u64 + counted;
            assert!(total <= memory, "{total} of {memory}: {budget:?}");
            assert!(budget.peer_bytes >= MAX_CATALOG_FRAME, "{budget:?}");
            assert!(budget.fetch_bytes >= 2 * MAX_CHUNK_LEN, "{budget:?}");
            assert!(budget.serve_bytes >= 2 * MAX_CHUNK_LEN, "{budget:?}");
            assert!(budget.session_bytes >= 2 * MAX_CHUNK_LEN, "{budget:?}");
        }
    }
}
