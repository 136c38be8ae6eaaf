//! Ports: what the machines and `apply` need of a store. Synchronous, plain types, because the callers decide on which
//! thread they wait. Each implementation passes the conformance suite in `bib_sim::suite`.

use std::any::Any;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::time::Duration;

use crate::chunk::{Chunk, RawChunk};
use crate::id::ChunkId;
use crate::place::FilePlace;
use crate::time::Timestamp;

/// Why a store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The disk is full, or the quota used up. Nothing was lost; free space and try again.
    #[error("no space left in the store: {0}")]
    Full(String),
    /// What is stored is not what was written.
    #[error("the store is damaged: {0}")]
    Corrupt(String),
    /// Written by a newer program.
    #[error("the store has a format this program does not know: {0}")]
    Unsupported(String),
    /// Another process uses the store.
    #[error("the store is in use by another process: {0}")]
    Locked(String),
    /// An earlier failure closed the store for writing until the node is started again.
    #[error("the store is read-only after a failed write: {0}")]
    ReadOnly(String),
    /// A file outside of the store, in which bytes of a chunk were left, does not hold them now. Nothing in the store is
    /// damaged; the chunk counts as not held until it is put, or the file is as it was.
    #[error("the file `{path}` no longer holds what was published from it: {why}")]
    Changed {
        /// The file.
        path: String,
        /// What was found instead.
        why: String,
    },
    /// What is stored is encrypted and the keys for it are absent or wrong. Nothing was changed.
    #[error("the store is encrypted: {0}")]
    Sealed(String),
    /// The operating system refused.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// The tables of the catalog. Names and numbers are part of the format: append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Table {
    /// Settings of the catalog itself.
    Meta,
    /// Operations by id.
    Ops,
    /// Operations by (topic, class, lamport, id).
    OpOrder,
    /// Last operations by (topic, class, id).
    Heads,
    /// Operations that wait for their parents.
    Parked,
    /// Topics by id.
    Topics,
    /// Topics by (parent, name, lamport, id).
    TopicNames,
    /// Datasets by id.
    Datasets,
    /// Datasets by (topic, name, lamport, id).
    DatasetNames,
    /// Versions by id.
    Versions,
    /// Versions by (dataset, lamport, id).
    VersionOrder,
    /// Grants in force by (resource, user).
    Grants,
    /// What is needed to merge field changes: winning position by (entity, field).
    Fields,
    /// Roots that keep chunks: manifests that versions name, staged ones and those held complete, by manifest id.
    Pins,
    /// Transfers by version.
    Transfers,
    /// Peers by id.
    Peers,
    /// Bans and allows by subject.
    Bans,
    /// Content operations by author and by what they are about, and what they know of the access log.
    OpIndex,
    /// Versions by (dataset, number, lamport, id).
    VersionNumbers,
}

/// All tables, in the order of their numbers.
pub const TABLES: [(Table, &str); 19] = [
    (Table::Meta, "meta"),
    (Table::Ops, "ops"),
    (Table::OpOrder, "op_order"),
    (Table::Heads, "heads"),
    (Table::Parked, "parked"),
    (Table::Topics, "topics"),
    (Table::TopicNames, "topic_names"),
    (Table::Datasets, "datasets"),
    (Table::DatasetNames, "dataset_names"),
    (Table::Versions, "versions"),
    (Table::VersionOrder, "version_order"),
    (Table::Grants, "grants"),
    (Table::Fields, "fields"),
    (Table::Pins, "pins"),
    (Table::Transfers, "transfers"),
    (Table::Peers, "peers"),
    (Table::Bans, "bans"),
    (Table::OpIndex, "op_index"),
    (Table::VersionNumbers, "version_numbers"),
];

/// A range of keys.
pub type KeyRange<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// What a scan shows keys and values to.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Direction of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// From the lowest key.
    Ascending,
    /// From the highest key.
    Descending,
}

/// A consistent view of the catalog.
pub trait CatalogRead {
    /// The value of a key.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Shows keys and values of a range until `visit` breaks.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    fn scan(&self, table: Table, range: KeyRange<'_>, order: Order, visit: &mut Visit<'_>) -> Result<(), StoreError>;

    /// Number of keys in a table; cheap.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    fn len(&self, table: Table) -> Result<u64, StoreError>;
}

/// A view that takes changes; they become durable and visible together, or not at all.
pub trait CatalogTxn: CatalogRead {
    /// Sets the value of a key.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be written.
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError>;

    /// Removes a key; an absent one is no error.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be written.
    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError>;
}

/// The catalog: ordered tables of keys and values with snapshots and one writer.
pub trait Catalog: Send + Sync {
    /// A view that later writes do not change.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    fn begin_read(&self) -> Result<Box<dyn CatalogRead + '_>, StoreError>;

    /// Runs `work` in a transaction and commits it durably; an error of `work` undoes everything.
    ///
    /// # Errors
    /// The error of `work`, or [`StoreError`] when the commit fails. After [`StoreError::Full`] the next one may work;
    /// after others the catalog may be [`StoreError::ReadOnly`] until it is opened again.
    fn write(&self, work: &mut dyn FnMut(&mut dyn CatalogTxn) -> Result<(), StoreError>) -> Result<(), StoreError>;
}

/// Figures of a chunk store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct ChunkStoreStats {
    /// Chunks held, not yet durable ones included.
    pub n_chunks: u64,
    /// Bytes they take on disk, record headers included.
    pub stored_bytes: u64,
    /// Bytes they stand for.
    pub raw_bytes: u64,
    /// Segment files.
    pub n_segments: u64,
    /// fsync calls since the store was opened, for index and folder included.
    pub fsyncs: u64,
    /// Bytes written since the store was opened, index included.
    pub written_bytes: u64,
    /// Bytes of chunks that lie in files outside of the store.
    pub referenced_bytes: u64,
    /// Chunks that are known to be damaged and were not put again.
    pub n_damaged: u64,
    /// Bytes that segments and index take of the file system.
    pub allocated_bytes: u64,
    /// Of these, bytes of records that nothing names any more and that were not given back yet.
    pub dead_bytes: u64,
    /// Bytes of the index file.
    pub index_bytes: u64,
}

/// While it lives, chunks that are put or found are noted by their store and not swept.
#[derive(Clone)]
pub struct Lease(#[allow(dead_code, reason = "it is its life that counts")] Arc<dyn Any + Send + Sync>);

impl Lease {
    /// One for a store whose notes are kept as long as `notes` is shared.
    pub fn new(notes: Arc<dyn Any + Send + Sync>) -> Self {
        Self(notes)
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").finish_non_exhaustive()
    }
}

/// What a sweep takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SweepRules {
    /// The collection that it belongs to: its seed. What was asked for another one, and comes late, must not sweep with the
    /// marks of this one.
    pub number: u64,
    /// The time now.
    pub now: Timestamp,
    /// A chunk that nothing names stays until its segment has been known for so long. What is marked stays in any case,
    /// so that a clock that jumps takes nothing that is in use.
    pub min_age: Duration,
    /// Only count.
    pub dry_run: bool,
    /// Entries of the index to look at in one step.
    pub max_chunks: usize,
}

/// Where the next step of a sweep begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SweepCursor(pub [u8; 32]);

/// What one step of a sweep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SweepStep {
    /// Where the next one begins; `None` when all was seen.
    pub next: Option<SweepCursor>,
    /// Chunks that were looked at.
    pub seen: u64,
    /// Chunks that nothing names and that left the index, or would have.
    pub dead_chunks: u64,
    /// Bytes of their records.
    pub dead_bytes: u64,
    /// Chunks that nothing names and that are too young.
    pub young_chunks: u64,
    /// Bytes of their records.
    pub young_bytes: u64,
}

/// How space was given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reclaim {
    /// The file was removed: nothing in it was in use.
    Unlinked,
    /// What is not in use in it became holes.
    Punched,
    /// What was in use was copied, and the file removed.
    Rewritten,
}

/// Space that was given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reclaimed {
    /// Number of the segment.
    pub segment: u64,
    /// How.
    pub action: Reclaim,
    /// Bytes of the file system that are free now and were not before.
    pub freed_bytes: u64,
    /// Bytes that were written for that.
    pub written_bytes: u64,
}

/// Where the next step of a scrub begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct ScrubCursor {
    /// Number of the segment.
    pub segment: u64,
    /// Byte in it.
    pub offset: u64,
}

/// What one step of a scrub did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScrubStep {
    /// Where the next one begins; `None` at the end of the store.
    pub next: Option<ScrubCursor>,
    /// Chunks that were read.
    pub chunks: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Chunks among them that turned out to be damaged.
    pub damaged: u64,
}

/// What an index made anew holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rebuilt {
    /// Chunks in it.
    pub chunks: u64,
    /// Bytes of their records.
    pub bytes: u64,
    /// Chunks that the index named before and of which no whole record was found.
    pub lost: u64,
}

/// The store of chunk bytes; also the whole memory of a fetch: what is stored is what we have.
pub trait ChunkStore: Send + Sync {
    /// Whether a chunk is held, durable or not.
    ///
    /// # Errors
    /// [`StoreError`] when the index cannot be read.
    fn has(&self, id: &ChunkId) -> Result<bool, StoreError>;

    /// A chunk, verified; `None` if it is not held.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the stored bytes are not the chunk; [`StoreError::Changed`] when a file outside of the
    /// store should hold them and does not; other [`StoreError`]s when they cannot be read.
    fn get(&self, id: &ChunkId) -> Result<Option<Chunk>, StoreError>;

    /// Adds a chunk; returns whether it was new. Not durable before [`ChunkStore::flush`], which who puts chunks calls
    /// before saying that they are stored, and at the latest [`FLUSH_INTERVAL`](crate::limits::FLUSH_INTERVAL) after
    /// the first. Where too many wait, the store flushes by itself.
    ///
    /// # Errors
    /// [`StoreError::Full`] when there is no space: nothing is changed, and it works again when there is. Other
    /// [`StoreError`]s when it cannot be written.
    fn put(&self, chunk: &Chunk) -> Result<bool, StoreError>;

    /// Adds a chunk whose bytes stay where they are, in a file outside of the store, which is read to see that it holds
    /// them. Where the bytes are held already, they stay; a [`ChunkStore::put`] later replaces the reference. Returns
    /// whether something was added. A store that knows of no such files stores the bytes.
    ///
    /// # Errors
    /// [`StoreError::Changed`] when the file cannot be read or holds something else; others as for [`ChunkStore::put`].
    fn put_reference(&self, chunk: RawChunk, _place: &FilePlace) -> Result<bool, StoreError> {
        self.put(&chunk.compress())
    }

    /// Where the bytes of a chunk lie, when that is outside of the store. Says nothing of whether they are still there.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    fn place(&self, _id: &ChunkId) -> Result<Option<FilePlace>, StoreError> {
        Ok(None)
    }

    /// Makes everything that was put before durable. Costs nothing when that is so already.
    ///
    /// # Errors
    /// [`StoreError::Full`] when there is no space: what was put is still held, and the next flush may do it. Other
    /// [`StoreError`]s when it cannot, after which the store may be [`StoreError::ReadOnly`] until it is opened again.
    fn flush(&self) -> Result<(), StoreError>;

    /// Figures.
    ///
    /// # Errors
    /// [`StoreError`] when the index cannot be read.
    fn stats(&self) -> Result<ChunkStoreStats, StoreError>;

    /// Keeps everything that is put or found from now on until the lease is dropped: for whoever builds on chunks that no
    /// manifest in the catalog names yet.
    fn lease(&self) -> Lease;

    /// Begins a collection. From here on every chunk that is put or found counts as marked, and so does what was noted for
    /// the leases that are out now. `filter_bytes` bounds the memory of the marks: with less, more garbage is taken for
    /// marked, and stays until a later collection, which has another `seed`; that also is its number.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another collection goes on.
    fn begin_gc(&self, filter_bytes: usize, seed: u64) -> Result<(), StoreError>;

    /// Marks a chunk as in use. Without a collection it does nothing.
    fn mark(&self, id: &ChunkId);

    /// Takes chunks that are not marked out of the index, durably; they are not held any more. The space is given back by
    /// [`ChunkStore::reclaim_step`].
    ///
    /// # Errors
    /// [`StoreError::Full`] when there is no space for the commit: nothing is changed. Others when the index cannot be
    /// read or written, or no collection goes on.
    fn sweep_step(&self, rules: &SweepRules, after: Option<SweepCursor>) -> Result<SweepStep, StoreError>;

    /// Gives back the space of one segment, of those in which something is not in use; `None` when there is no more.
    ///
    /// # Errors
    /// [`StoreError`] when a file cannot be changed, or no collection goes on. Nothing that is in use is touched.
    fn reclaim_step(&self) -> Result<Option<Reclaimed>, StoreError>;

    /// Ends a collection.
    fn end_gc(&self);

    /// Reads and verifies chunks in the order in which they lie, some `max_bytes` of them. What is damaged is noted: it is
    /// not held any more until it is put again.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read, which is another thing than damage.
    fn scrub_step(&self, after: Option<ScrubCursor>, max_bytes: u64) -> Result<ScrubStep, StoreError>;

    /// Whether a chunk is known to be damaged.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    fn is_damaged(&self, id: &ChunkId) -> Result<bool, StoreError>;

    /// Makes the index anew from the segments alone, and puts it in the place of the old one when it is whole. Writers wait
    /// meanwhile, readers do not. `progress` is told bytes read and bytes in all.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be done; the old index stays.
    fn rebuild(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Rebuilt, StoreError>;
}
