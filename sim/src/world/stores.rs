//! What a node keeps: in memory, or in the real stores on a disk whose power is cut.

use std::ops::Bound;

use bib_core::port::{Catalog, ChunkStore, Order, Table};
use bib_storage_redb::{Bounds, RedbCatalog, SegmentStore};

use crate::disk::FaultyDisk;
use crate::memory::{MemoryCatalog, MemoryChunkStore};
use crate::node::Records;

/// Small, so that a world fills segments and flushes by itself.
const BOUNDS: Bounds = Bounds {
    segment_len: 256 << 10,
    unindexed_bytes: 512 << 10,
    unindexed_chunks: 100,
    recent_entries: 300,
    reclaim_records: 1_000,
};
const CACHE: usize = 256 << 10;

/// See the module.
pub(super) enum Stores {
    Memory { catalog: MemoryCatalog, chunks: MemoryChunkStore },
    Disk { disk: FaultyDisk, catalog: RedbCatalog, chunks: Box<SegmentStore> },
}

fn open(disk: FaultyDisk) -> Stores {
    let chunks = SegmentStore::open_bounded(Box::new(disk.clone()), CACHE, [3; 16], BOUNDS);
    let chunks = chunks.expect("the chunk store opens after every power cut");
    let catalog = RedbCatalog::open(&disk, CACHE).expect("the catalog opens after every power cut");
    Stores::Disk { disk, catalog, chunks: Box::new(chunks) }
}

impl Stores {
    pub(super) fn new(on_disk: bool) -> Self {
        if on_disk {
            return open(FaultyDisk::new());
        }
        Self::Memory { catalog: MemoryCatalog::new(), chunks: MemoryChunkStore::new() }
    }

    pub(super) fn catalog(&self) -> &dyn Catalog {
        match self {
            Self::Memory { catalog, .. } => catalog,
            Self::Disk { catalog, .. } => catalog,
        }
    }

    pub(super) fn chunks(&self) -> &dyn ChunkStore {
        match self {
            Self::Memory { chunks, .. } => chunks,
            Self::Disk { chunks, .. } => chunks.as_ref(),
        }
    }

    /// Loses what was not made durable, on a disk any part of it, and opens again.
    pub(super) fn crash(&mut self, seed: u64) {
        match self {
            Self::Memory { catalog, chunks } => {
                *catalog = catalog.restarted();
                chunks.crash();
            }
            Self::Disk { disk, .. } => *self = open(disk.survivors(seed)),
        }
    }

    /// All keys and values of a table.
    pub(super) fn dump(&self, table: Table) -> Records {
        let mut records = Records::new();
        let read = self.catalog().begin_read().expect("the catalog can be read");
        let scanned = read.scan(table, (Bound::Unbounded, Bound::Unbounded), Order::Ascending, &mut |key, value| {
            records.push((key.to_vec(), value.to_vec()));
            std::ops::ControlFlow::Continue(())
        });
        scanned.expect("the catalog can be read");
        records
    }
}
