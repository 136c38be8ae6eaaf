//! The chunk store: append-only segments, and an index that names where each chunk lies.
//!
//! Invariant: the index never names bytes that are not durable. A flush syncs the segment first and commits the index
//! entries, together with the length of the segment up to which they hold, second; so after any cut the index describes
//! a prefix of what was written, and what lies behind it is cut off at open. Chunks that were put and not yet flushed
//! are served from the segment through a map in memory, which is bounded: when it is full, `put` flushes.
//!
//! Deliberately absent: overwriting. A segment grows, is sealed, and is later only read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bib_core::chunk::{Chunk, Codec};
use bib_core::id::ChunkId;
use bib_core::port::{ChunkStore, ChunkStoreStats, StoreError};
use redb::{ReadableTableMetadata, TableDefinition, WriteTransaction};

use super::format::{RECORD_HEADER_LEN, RecordHeader, SEGMENT_HEADER_LEN, SegmentHeader};
use crate::database::{Store, lock, redb_error, write_error};
use crate::disk::{Disk, DiskFile};

/// A segment is sealed when it is longer, in bytes.
const SEGMENT_LEN: u64 = 64 << 20;
/// Unflushed bytes at which `put` flushes by itself.
const MAX_PENDING_BYTES: u64 = 64 << 20;
/// Unflushed chunks at which `put` flushes by itself: some MiB of memory.
const MAX_PENDING: usize = 32_768;
/// Segment files held open for reading.
const MAX_OPEN: usize = 32;
/// Name of the index in the folder.
const INDEX: &str = "index.redb";

const CHUNKS: TableDefinition<'_, &[u8; 32], &[u8; LOCATION_LEN]> = TableDefinition::new("chunks");
const STATE: TableDefinition<'_, &str, u64> = TableDefinition::new("state");
const STORE_ID: TableDefinition<'_, &str, &[u8; 16]> = TableDefinition::new("store");
/// Version of the index format.
const VERSION: u64 = 1;
const LOCATION_LEN: usize = 25;

/// Where a chunk lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Location {
    segment: u64,
    /// First byte of the record.
    offset: u64,
    raw_len: u32,
    stored_len: u32,
    codec: Codec,
}

impl Location {
    fn encode(&self) -> [u8; LOCATION_LEN] {
        let mut out = [0; LOCATION_LEN];
        out[..8].copy_from_slice(&self.segment.to_le_bytes());
        out[8..16].copy_from_slice(&self.offset.to_le_bytes());
        out[16..20].copy_from_slice(&self.raw_len.to_le_bytes());
        out[20..24].copy_from_slice(&self.stored_len.to_le_bytes());
        out[24] = self.codec as u8;
        out
    }

    fn decode(bytes: &[u8; LOCATION_LEN]) -> Option<Self> {
        let wide = |from: usize| bytes[from..from + 8].try_into().ok().map(u64::from_le_bytes);
        let narrow = |from: usize| bytes[from..from + 4].try_into().ok().map(u32::from_le_bytes);
        Some(Self {
            segment: wide(0)?,
            offset: wide(8)?,
            raw_len: narrow(16)?,
            stored_len: narrow(20)?,
            codec: Codec::from_u8(bytes[24])?,
        })
    }
}

/// The segment being written.
struct Writer {
    segment: u64,
    file: Arc<dyn DiskFile>,
    len: u64,
    pending_bytes: u64,
    stats: ChunkStoreStats,
    failed: Option<String>,
}

/// Chunks in segments below one folder. See the module.
pub struct SegmentStore {
    disk: Box<dyn Disk>,
    index: Store,
    store: [u8; 16],
    writer: Mutex<Writer>,
    pending: RwLock<BTreeMap<ChunkId, Location>>,
    open: Mutex<BTreeMap<u64, Arc<dyn DiskFile>>>,
}

impl std::fmt::Debug for SegmentStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentStore").finish_non_exhaustive()
    }
}

fn failed(error: impl Into<redb::Error>) -> StoreError {
    redb_error(INDEX, error)
}

fn segment_name(number: u64) -> String {
    format!("{number:010}.seg")
}

fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    (digits.len() == 10 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
}

impl SegmentStore {
    /// Opens the store in a folder, or makes it there. `cache_bytes` bounds the memory of the index; `seed` names a
    /// new store.
    ///
    /// # Errors
    /// [`StoreError`] when it is damaged, of a newer format, or cannot be read or written.
    pub fn open(disk: Box<dyn Disk>, cache_bytes: usize, seed: [u8; 16]) -> Result<Self, StoreError> {
        let index = Store::open(disk.as_ref(), INDEX, cache_bytes, |txn| {
            txn.open_table(STORE_ID).map_err(failed)?.insert("id", &seed).map_err(failed)?;
            txn.open_table(STATE).map_err(failed)?.insert("version", VERSION).map_err(failed)?;
            txn.open_table(CHUNKS).map_err(failed).map(drop)
        })?;
        let (store, tail) = read_state(&index)?;
        let segments: Vec<u64> = disk.list()?.iter().filter_map(|name| segment_number(name)).collect();
        for name in disk.list()?.iter().filter(|name| segment_number(name).is_none() && *name != INDEX) {
            log::warn!(file = name.as_str(); "a file in the chunk store that is not of it is left alone");
        }
        // What lies behind the tail was never acknowledged. A new segment is begun rather than the old one continued:
        // a torn sector at its end is then never under later bytes.
        if let Some((segment, len)) = tail {
            let file = disk.open(&segment_name(segment), false).map_err(|error| {
                StoreError::Corrupt(format!("segment {} that the index names: {error}", segment_name(segment)))
            })?;
            if file.len()? < len {
                let name = segment_name(segment);
                return Err(StoreError::Corrupt(format!("segment {name} is shorter than the index says")));
            }
            let mut header = [0; SEGMENT_HEADER_LEN];
            file.read_exact_at(&mut header, 0)?;
            if SegmentHeader::decode(&header) != Some(SegmentHeader { number: segment, store }) {
                return Err(StoreError::Corrupt(format!("segment {} is of another store", segment_name(segment))));
            }
            if file.len()? > len {
                file.set_len(len)?;
            }
        }
        let last = segments.iter().copied().max().max(tail.map(|(segment, _)| segment));
        let next = last.map_or(0, |last| last + 1);
        let mut stats = ChunkStoreStats { n_segments: segments.len() as u64 + 1, ..ChunkStoreStats::default() };
        let read = index.read()?;
        stats.n_chunks = read.open_table(CHUNKS).and_then(|table| Ok(table.len()?)).map_err(failed)?;
        let state = read.open_table(STATE).map_err(failed)?;
        let figure = |key: &str| state.get(key).map(|value| value.map_or(0, |value| value.value())).map_err(failed);
        stats.stored_bytes = figure("stored_bytes")?;
        stats.raw_bytes = figure("raw_bytes")?;
        drop((state, read));
        let (file, len) = new_segment(disk.as_ref(), next, store)?;
        let writer = Writer { segment: next, file, len, pending_bytes: 0, stats, failed: None };
        Ok(Self {
            disk,
            index,
            store,
            writer: Mutex::new(writer),
            pending: RwLock::new(BTreeMap::new()),
            open: Mutex::new(BTreeMap::new()),
        })
    }

    fn locate(&self, id: &ChunkId) -> Result<Option<Location>, StoreError> {
        let pending = self.pending.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(location) = pending.get(id) {
            return Ok(Some(*location));
        }
        // Read before the map is let go: a flush moves entries from the map to the index.
        let read = self.index.read()?;
        drop(pending);
        let table = read.open_table(CHUNKS).map_err(failed)?;
        match table.get(id.as_bytes()).map_err(failed)? {
            None => Ok(None),
            Some(value) => Location::decode(value.value())
                .map(Some)
                .ok_or_else(|| StoreError::Corrupt(format!("{INDEX}: an entry has no meaning"))),
        }
    }

    fn segment(&self, number: u64) -> Result<Arc<dyn DiskFile>, StoreError> {
        let mut open = lock(&self.open);
        if let Some(file) = open.get(&number) {
            return Ok(file.clone());
        }
        let file = self.disk.open(&segment_name(number), false)?;
        if open.len() >= MAX_OPEN {
            open.pop_first();
        }
        open.insert(number, file.clone());
        Ok(file)
    }

    fn flush_locked(&self, writer: &mut Writer) -> Result<(), StoreError> {
        if let Some(reason) = &writer.failed {
            return Err(StoreError::ReadOnly(reason.clone()));
        }
        let entries: Vec<(ChunkId, Location)> = {
            let pending = self.pending.read().unwrap_or_else(PoisonError::into_inner);
            pending.iter().map(|(id, location)| (*id, *location)).collect()
        };
        if entries.is_empty() {
            return Ok(());
        }
        let result = writer
            .file
            .sync()
            .map_err(write_error)
            .and_then(|()| self.index.write(|txn| self.commit(txn, writer, &entries)));
        if let Err(error) = result {
            // After a failed sync nobody knows what is on the disk; only a restart, which reads it, can tell.
            writer.failed = Some(error.to_string());
            return Err(error);
        }
        writer.stats.fsyncs += 3;
        writer.pending_bytes = 0;
        self.pending.write().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(())
    }

    fn commit(
        &self,
        txn: &WriteTransaction,
        writer: &Writer,
        entries: &[(ChunkId, Location)],
    ) -> Result<(), StoreError> {
        let mut table = txn.open_table(CHUNKS).map_err(failed)?;
        for (id, location) in entries {
            table.insert(id.as_bytes(), &location.encode()).map_err(failed)?;
        }
        let mut state = txn.open_table(STATE).map_err(failed)?;
        for (key, value) in [
            ("tail_segment", writer.segment),
            ("tail_len", writer.len),
            ("stored_bytes", writer.stats.stored_bytes),
            ("raw_bytes", writer.stats.raw_bytes),
        ] {
            state.insert(key, value).map_err(failed)?;
        }
        Ok(())
    }

    fn roll(&self, writer: &mut Writer) -> Result<(), StoreError> {
        self.flush_locked(writer)?;
        let number = writer.segment + 1;
        let (file, len) = new_segment(self.disk.as_ref(), number, self.store)?;
        (writer.segment, writer.file, writer.len) = (number, file, len);
        writer.stats.n_segments += 1;
        writer.stats.fsyncs += 1;
        Ok(())
    }
}

fn new_segment(disk: &dyn Disk, number: u64, store: [u8; 16]) -> Result<(Arc<dyn DiskFile>, u64), StoreError> {
    let file = disk.open(&segment_name(number), true).map_err(write_error)?;
    file.set_len(0).map_err(write_error)?;
    file.write_all_at(&SegmentHeader { number, store }.encode(), 0).map_err(write_error)?;
    disk.sync_folder().map_err(write_error)?;
    Ok((file, SEGMENT_HEADER_LEN as u64))
}

type Tail = Option<(u64, u64)>;

fn read_state(index: &Store) -> Result<([u8; 16], Tail), StoreError> {
    let read = index.read()?;
    let state = read.open_table(STATE).map_err(failed)?;
    let figure = |key: &str| state.get(key).map(|value| value.map(|value| value.value())).map_err(failed);
    let version = figure("version")?.unwrap_or_default();
    if version != VERSION {
        return Err(StoreError::Unsupported(format!("chunk index version {version}")));
    }
    let id = read.open_table(STORE_ID).map_err(failed)?.get("id").map_err(failed)?.map(|id| *id.value());
    let id = id.ok_or_else(|| StoreError::Corrupt(format!("{INDEX} names no store")))?;
    Ok((id, figure("tail_segment")?.zip(figure("tail_len")?)))
}

impl ChunkStore for SegmentStore {
    fn has(&self, id: &ChunkId) -> Result<bool, StoreError> {
        Ok(self.locate(id)?.is_some())
    }

    fn get(&self, id: &ChunkId) -> Result<Option<Chunk>, StoreError> {
        let Some(location) = self.locate(id)? else { return Ok(None) };
        let damaged = |what: &str| {
            let place = format!("{} at {}", segment_name(location.segment), location.offset);
            StoreError::Corrupt(format!("chunk {id} in {place}: {what}"))
        };
        let file = self.segment(location.segment)?;
        let mut record = vec![0; RECORD_HEADER_LEN + location.stored_len as usize];
        file.read_exact_at(&mut record, location.offset).map_err(|error| damaged(&error.to_string()))?;
        let payload = record.split_off(RECORD_HEADER_LEN);
        let header = RecordHeader::decode(&record).ok_or_else(|| damaged("its header has no meaning"))?;
        if header.id != *id || header.stored_len != location.stored_len {
            return Err(damaged("another chunk lies there"));
        }
        if !RecordHeader::checksum_holds(&record, &payload) {
            return Err(damaged("its checksum does not hold"));
        }
        Chunk::verify(*id, header.raw_len, header.codec, payload).map(Some).map_err(|error| damaged(&error.to_string()))
    }

    fn put(&self, chunk: &Chunk) -> Result<bool, StoreError> {
        let mut writer = lock(&self.writer);
        if let Some(reason) = &writer.failed {
            return Err(StoreError::ReadOnly(reason.clone()));
        }
        if self.locate(&chunk.id())?.is_some() {
            return Ok(false);
        }
        let payload = chunk.encoded();
        let record_len = (RECORD_HEADER_LEN + payload.len()) as u64;
        if writer.len + record_len > SEGMENT_LEN {
            self.roll(&mut writer)?;
        }
        let stored_len = payload.len() as u32;
        let header = RecordHeader { id: chunk.id(), raw_len: chunk.len(), stored_len, codec: chunk.codec() };
        let record = [&header.encode(payload), payload].concat();
        // A write that fails half-way leaves bytes behind the length that counts; the next one goes over them.
        writer.file.write_all_at(&record, writer.len).map_err(write_error)?;
        let location = Location {
            segment: writer.segment,
            offset: writer.len,
            raw_len: chunk.len(),
            stored_len,
            codec: chunk.codec(),
        };
        writer.len += record_len;
        writer.pending_bytes += record_len;
        writer.stats.n_chunks += 1;
        writer.stats.stored_bytes += record_len;
        writer.stats.raw_bytes += u64::from(chunk.len());
        writer.stats.written_bytes += record_len;
        let n_pending = {
            let mut pending = self.pending.write().unwrap_or_else(PoisonError::into_inner);
            pending.insert(chunk.id(), location);
            pending.len()
        };
        if n_pending >= MAX_PENDING || writer.pending_bytes >= MAX_PENDING_BYTES {
            self.flush_locked(&mut writer)?;
        }
        Ok(true)
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.flush_locked(&mut lock(&self.writer))
    }

    fn stats(&self) -> Result<ChunkStoreStats, StoreError> {
        Ok(lock(&self.writer).stats)
    }
}
