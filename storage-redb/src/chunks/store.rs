//! The chunk store: append-only segments, and an index that names where each chunk lies.
//!
//! Invariant: the index never names bytes that are not durable. A flush syncs the segment first, then, if its name is
//! new, the folder, and commits the index entries, together with the length of the segment up to which they hold, last.
//! A segment that is full is synced before the next one begins. Chunks that are not in the index yet are served through
//! a map in memory, which is bounded: when it is full, the next `put` flushes.
//!
//! After any cut the index describes a prefix of what was written. At open the records behind it that are whole are
//! taken over, so that a killed process loses nothing and a power cut only what had not reached the medium; a torn one
//! is cut off. There are at most
//! [`MAX_UNINDEXED_BYTES`](limits::MAX_UNINDEXED_BYTES) to look at, however large the store is. If the index itself is
//! absent, all segments are read and it is made again.
//!
//! What a failure does: a write for which there is no space leaves everything as it was, and the store goes on when
//! there is some. After a failed sync nobody knows what is on the medium: the store takes no more writes until the next
//! start, which reads it.
//!
//! With a [`Keyring`] every record is sealed after it was compressed, with a key of its segment, and the index knows it
//! by a keyed hash only. A store that was plain before keeps its plain segments until
//! [`reseal_step`](SegmentStore::reseal_step) has written their chunks again. Keys that are wrong or absent are refused
//! at open, before anything is changed: they are no damage.
//!
//! Deliberately absent: overwriting, a segment grows, is full, and is later only read; time, who puts chunks calls
//! `flush` at the latest after [`FLUSH_INTERVAL`](limits::FLUSH_INTERVAL).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LockResult, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bib_core::chunk::{Chunk, RawChunk};
use bib_core::encode::{decode, encode};
use bib_core::id::ChunkId;
use bib_core::limits;
use bib_core::place::FilePlace;
use bib_core::port::{
    ChunkStore, ChunkStoreStats, Lease, Rebuilt, Reclaimed, ScrubCursor, ScrubStep, StoreError, SweepCursor,
    SweepRules, SweepStep,
};

use super::collect::Collecting;
use super::format::{
    HeaderBytes, Key, Location, RECORD_HEADER_LEN, RecordCodec, RecordHeader, SEGMENT_HEADER_LEN, SegmentHeader,
};
use super::index::{INDEX, Index, Snapshot, State};
use super::recovery;
use super::reference;
use super::scrub::Scrubbing;
use super::segments::{self, Found, OpenSegments, segment_name, segment_number};
use crate::crypto::{self, Keyring, SEALED_OVERHEAD, SegmentKey, SegmentSeal};
use crate::database::{lock, write_error};
use crate::disk::{Disk, DiskFile, Meter, Unreadable};

mod reseal;

pub use reseal::Resealed;

/// Payloads up to this many bytes are copied behind their header, so that a record is one write; longer ones are
/// written by themselves, which is cheaper than the copy.
const MAX_COPIED: usize = 16 << 10;

/// What a store may hold before it makes room. The default is what [`limits`] says; tests take less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// A segment takes no more records when it is as long as this, in bytes.
    pub segment_len: u64,
    /// Bytes of chunks that are not yet in the index.
    pub unindexed_bytes: u64,
    /// Chunks that are not yet in the index.
    pub unindexed_chunks: usize,
    /// Entries of the index that wait for their places in it.
    pub recent_entries: usize,
    /// Records whose places are held while space is given back.
    pub reclaim_records: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            segment_len: limits::SEGMENT_LEN,
            unindexed_bytes: limits::MAX_UNINDEXED_BYTES,
            unindexed_chunks: limits::MAX_UNINDEXED_CHUNKS,
            recent_entries: limits::MAX_RECENT_ENTRIES,
            reclaim_records: limits::RECLAIM_RECORDS,
        }
    }
}

/// The segment being written.
struct Tail {
    number: u64,
    file: Arc<dyn DiskFile>,
    len: u64,
    /// The number of the data key, and the key; `None` of a plain one.
    key: Option<(u32, Arc<SegmentKey>)>,
}

pub(super) struct Writer {
    /// `None`: the next record begins a segment.
    tail: Option<Tail>,
    /// Number of the next segment.
    next: u64,
    /// Whether the folder must be synced before the index may name the segment.
    new_name: bool,
    pub(super) unindexed_bytes: u64,
    pub(super) figures: State,
    /// The figures as the index has them.
    pub(super) committed: State,
    pub(super) n_segments: u64,
    pub(super) failed: Option<String>,
}

/// What the writer would say, for as long as it is held.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    stats: ChunkStoreStats,
    sealed_from: u64,
}

impl Standing {
    pub(super) fn of(store: &SegmentStore, writer: &Writer) -> Result<Self, StoreError> {
        Ok(Self { stats: store.stats_of(writer)?, sealed_from: writer.figures.sealed_from })
    }
}

/// Where chunks lie: those that are not in the index yet, and the index as it was after the last flush.
#[derive(Default)]
pub(super) struct View {
    pub(super) unindexed: BTreeMap<Key, Location>,
    /// Made when it is first needed after a flush, so that a `put` or `has` costs one descent of the tree.
    pub(super) indexed: Option<Snapshot>,
    /// Chunks that were read and are not what was written: not held, so that they are fetched or put again. What is not
    /// noted here for want of room is reported at each read. The index has the same set, as of its last commit.
    pub(super) damaged: BTreeSet<Key>,
    /// Chunks that are just leaving the index.
    pub(super) condemned: BTreeSet<Key>,
    /// Chunks whose file outside of the store did not hold them when it was last read; looked at again before each
    /// answer, since the file may be put back. Bounded in the same way.
    pub(super) changed: BTreeSet<Key>,
}

impl View {
    fn is_lost(&self, key: &Key) -> bool {
        self.damaged.contains(key) || self.condemned.contains(key)
    }

    /// Where the last record of a chunk lies, damaged or not.
    fn entry(&mut self, store: &SegmentStore, key: &Key) -> Result<Option<Location>, StoreError> {
        if let Some(location) = self.unindexed.get(key) {
            return Ok(Some(*location));
        }
        self.indexed = None;
        self.indexed.insert(store.index().snapshot()?).get(key)
    }
}

/// What the stored bytes of a record turned out to be.
pub(super) enum Payload {
    /// The bytes of the chunk, as far as its key can say.
    Whole(Vec<u8>),
    /// Why they are none.
    Damaged(&'static str),
}

/// Chunks in segments below one folder. See the module.
pub struct SegmentStore {
    pub(super) bounds: Bounds,
    pub(super) cache_bytes: usize,
    pub(super) disk: Meter<Box<dyn Disk>>,
    pub(super) store: [u8; 16],
    pub(super) writer: Mutex<Writer>,
    // Before the index, which can only then end what the snapshot holds.
    view: RwLock<View>,
    pub(super) index: RwLock<Arc<Index>>,
    pub(super) open: OpenSegments,
    pub(super) keyring: Option<Arc<Keyring>>,
    pub(super) collecting: Collecting,
    pub(super) scrubbing: Mutex<Scrubbing>,
    /// Present while the writer is held for long, so that nobody waits for figures. Nothing else is
    /// locked while it is.
    pub(super) standing: Mutex<Option<Standing>>,
}

/// A lock that a panicking holder left is still good: every change under it is a whole step.
pub(super) fn unpoisoned<T>(guard: LockResult<T>) -> T {
    guard.unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for SegmentStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentStore").finish_non_exhaustive()
    }
}

fn advised(error: StoreError) -> StoreError {
    match error {
        StoreError::Corrupt(why) => StoreError::Corrupt(format!(
            "{why}; with the node stopped, `bib admin rebuild --offline` makes {INDEX} anew from the segments that are there"
        )),
        StoreError::Locked(name) => StoreError::Locked(format!("{name}; stop the node that has it open")),
        error => error,
    }
}

impl SegmentStore {
    /// Opens the store in a folder, or makes it there, plain. `cache_bytes` bounds the memory that the index keeps pages in;
    /// `seed` names a new store.
    ///
    /// # Errors
    /// [`StoreError`] when it is damaged, of a newer format, or cannot be read or written.
    pub fn open(disk: Box<dyn Disk>, cache_bytes: usize, seed: [u8; 16]) -> Result<Self, StoreError> {
        Self::open_bounded(disk, cache_bytes, seed, Bounds::default())
    }

    /// The same with other bounds.
    ///
    /// # Errors
    /// As [`SegmentStore::open`].
    pub fn open_bounded(
        disk: Box<dyn Disk>,
        cache_bytes: usize,
        seed: [u8; 16],
        bounds: Bounds,
    ) -> Result<Self, StoreError> {
        Self::open_with(disk, cache_bytes, seed, bounds, None)
    }

    /// Whether there is an index that opens without keys. It is not changed, and the segments are not looked at.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be used.
    pub fn has_plain_index(disk: &dyn Disk, cache_bytes: usize) -> Result<bool, StoreError> {
        if !disk.list()?.iter().any(|name| name == INDEX) {
            return Ok(false);
        }
        match Index::open(disk, cache_bytes, [0; 16], limits::MAX_RECENT_ENTRIES, None, (0, 0)) {
            Ok(_) => Ok(true),
            Err(StoreError::Sealed(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The same, sealed where there is a keyring. When a plain store is opened with one for the first time, its index is
    /// made anew with keyed hashes, for which there must be as much space as it takes; killed meanwhile, it is as before.
    ///
    /// # Errors
    /// As [`SegmentStore::open`]; [`StoreError::Sealed`] when there are no keys for a sealed store, or other ones than
    /// those that it was sealed with.
    pub fn open_with(
        disk: Box<dyn Disk>,
        cache_bytes: usize,
        seed: [u8; 16],
        bounds: Bounds,
        keyring: Option<Arc<Keyring>>,
    ) -> Result<Self, StoreError> {
        let disk = Meter::new(disk);
        let names = disk.list()?;
        let numbers: Vec<u64> = names.iter().filter_map(|name| segment_number(name)).collect();
        let made_by_us = |name: &String| segment_number(name).is_some() || name.starts_with(INDEX);
        for name in names.iter().filter(|name| !made_by_us(name)) {
            log::warn!(file = name.as_str(); "a file in the chunk store that is not of it is left alone");
        }
        let rebuild = !names.iter().any(|name| name == INDEX) && !numbers.is_empty();
        let (mut seed, mut plain_below) = (seed, 0);
        if rebuild {
            let found = headers(&disk, &numbers, keyring.as_deref())?;
            (seed, plain_below) = (found.store.unwrap_or(seed), found.plain_below);
            log::warn!(segments = numbers.len(); "the index of the chunk store is absent and is made from the segments");
        }
        let next = numbers.iter().max().map_or(0, |last| last + 1);
        let places = (next, plain_below);
        let index = Index::open(&disk, cache_bytes, seed, bounds.recent_entries, keyring.as_deref(), places);
        let index = index.map_err(advised)?;
        let (store, figures) = index.state().map_err(advised)?;
        let next = next.max(figures.tail.map_or(0, |(number, _)| number + 1)).max(figures.sealed_from);
        let n_segments = numbers.len() as u64;
        let writer = Writer {
            tail: None,
            next,
            new_name: false,
            unindexed_bytes: 0,
            figures,
            committed: figures,
            n_segments,
            failed: None,
        };
        let view = View { damaged: index.damaged().map_err(advised)?, ..View::default() };
        let opened = Self {
            bounds,
            cache_bytes,
            disk,
            store,
            writer: Mutex::new(writer),
            view: RwLock::new(view),
            index: RwLock::new(Arc::new(index)),
            open: OpenSegments::default(),
            keyring,
            collecting: Collecting::default(),
            scrubbing: Mutex::default(),
            standing: Mutex::default(),
        };
        opened.recover(&mut lock(&opened.writer), &numbers).map_err(advised)?;
        Ok(opened)
    }

    /// The index that is in force.
    pub(super) fn index(&self) -> Arc<Index> {
        unpoisoned(self.index.read()).clone()
    }

    /// What a chunk is called in this store.
    pub(super) fn key(&self, id: &ChunkId) -> Key {
        match &self.keyring {
            None => Key::plain(id),
            Some(keyring) => Key::from_bytes(keyring.chunk_key(id)),
        }
    }

    /// The key in the index of a record that was found in a segment.
    pub(super) fn key_of_record(&self, header: &RecordHeader) -> Key {
        if header.cipher.is_some() { header.key } else { self.key(&header.key.plain_id()) }
    }

    /// The key of a segment with a seal, if it has one.
    pub(super) fn segment_key(
        &self,
        number: u64,
        seal: Option<&SegmentSeal>,
    ) -> Result<Option<Arc<SegmentKey>>, StoreError> {
        let Some(seal) = seal else { return Ok(None) };
        let keyring = self.keyring.as_deref().ok_or_else(|| no_keys(number))?;
        keyring.segment_key(seal, &self.store, number).map(Arc::new).map(Some)
    }

    pub(super) fn view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn view_mut(&self) -> RwLockWriteGuard<'_, View> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what the segments hold behind the index.
    fn recover(&self, writer: &mut Writer, numbers: &[u64]) -> Result<(), StoreError> {
        let indexed = writer.figures.tail;
        if let Some((number, len)) = indexed {
            self.check_tail(number, len)?;
        }
        let mut n_found = 0_u64;
        for &number in numbers.iter().filter(|number| indexed.is_none_or(|(tail, _)| **number >= tail)) {
            let name = segment_name(number);
            let Some(file) = segments::open(&self.disk, number)? else { continue };
            // After a kill the bytes are in the memory of the system, after a failed sync they only seem to be.
            file.settle().map_err(write_error)?;
            let from = indexed.filter(|(tail, _)| *tail == number).map_or(SEGMENT_HEADER_LEN as u64, |(_, len)| len);
            let mut seal = None;
            let ours = match segments::header(file.as_ref(), number, self.store)? {
                Found::Expected(found) => {
                    seal = found;
                    true
                }
                Found::Torn => true,
                Found::Other(_) => {
                    log::warn!(file = name.as_str(); "a segment of another store is left alone");
                    continue;
                }
                Found::Newer(version) => return Err(segments::newer(number, version)),
                Found::Damaged => {
                    log::warn!(file = name.as_str(); "the header of a segment is damaged; its records are still read");
                    false
                }
            };
            let len = file.len()?;
            let key = self.segment_key(number, seal.as_ref())?;
            let end = recovery::records(&self.disk, file.as_ref(), key.as_deref(), from, &mut |header, offset| {
                n_found += u64::from(self.adopt(writer, number, &header, offset)?);
                Ok(())
            })?;
            let in_index = indexed.is_some_and(|(tail, _)| tail == number);
            if ours && !in_index && end == SEGMENT_HEADER_LEN as u64 {
                self.disk.remove(&name).map_err(write_error)?;
                writer.n_segments -= 1;
            } else if ours && end < len && numbers.last() == Some(&number) {
                file.set_len(end).map_err(write_error)?;
            } else if ours
                && in_index
                && from == len
                && numbers.last() == Some(&number)
                && seal.is_some() == self.keyring.is_some()
            {
                // Only a segment that was left in order is continued: behind a torn record another one may lie that a
                // write would only half cover.
                writer.tail = Some(Tail { number, file, len, key: seal.map(|seal| seal.key_id).zip(key) });
            }
        }
        if n_found > 0 {
            log::info!(chunks = n_found; "chunks that were stored and not yet indexed are taken over");
            match self.flush_locked(writer) {
                // They are served and indexed with the next flush for which there is space.
                Err(StoreError::Full(why)) => log::warn!(error = why.as_str(); "no space to index stored chunks"),
                flushed => flushed?,
            }
        }
        Ok(())
    }

    /// Whether the segment up to which the index holds is there.
    fn check_tail(&self, number: u64, len: u64) -> Result<(), StoreError> {
        let name = segment_name(number);
        let damaged = |what: &str| StoreError::Corrupt(format!("segment {name}, which the index names, {what}"));
        let file = match self.disk.open(&name, false) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(damaged("is absent")),
            file => file?,
        };
        let held = file.len()?;
        if held < len {
            return Err(damaged(&format!("has {held} bytes, the index knows of {len}")));
        }
        match segments::header(file.as_ref(), number, self.store)? {
            Found::Other(_) => Err(damaged("is of another store")),
            _ => Ok(()),
        }
    }

    /// Takes over one record that the index may not know; returns whether it did not.
    fn adopt(&self, writer: &mut Writer, number: u64, header: &RecordHeader, offset: u64) -> Result<bool, StoreError> {
        // The last reference counts, and none beside the bytes themselves.
        let header = &RecordHeader { key: self.key_of_record(header), ..*header };
        let held = self.locate(&header.key)?;
        let new = held.is_none_or(|held| held.is_reference());
        if new {
            self.make_room(writer)?;
            // The name of the segment is durable since the index was opened.
            self.add(writer, (number, offset), header, held)?;
        } else {
            writer.figures.dead_bytes += header.record_len();
        }
        writer.figures.tail = Some((number, offset + header.record_len()));
        Ok(new)
    }

    /// Notes a record that lies in a segment, in place of `replaced`.
    fn add(
        &self,
        writer: &mut Writer,
        (segment, offset): (u64, u64),
        header: &RecordHeader,
        replaced: Option<Location>,
    ) -> Result<(), StoreError> {
        let RecordHeader { key, raw_len, stored_len, codec, cipher } = *header;
        let mut view = self.view_mut();
        // A damaged one is not held, and was counted all the same.
        let replaced =
            if replaced.is_none() && view.damaged.contains(&key) { view.entry(self, &key)? } else { replaced };
        let location = Location { segment, offset, raw_len, stored_len, codec, cipher };
        view.damaged.remove(&key);
        view.changed.remove(&key);
        view.unindexed.insert(key, location);
        writer.unindexed_bytes += header.record_len();
        writer.figures.count(&location);
        if let Some(replaced) = replaced {
            writer.figures.discount(&replaced);
        }
        Ok(())
    }

    /// Where a chunk lies that is held; whoever asks may build on the answer, which is noted.
    pub(super) fn locate(&self, key: &Key) -> Result<Option<Location>, StoreError> {
        self.find_and(key, |store| store.collecting.noted.note(key))
    }

    /// Where a chunk lies that is held, for who does not build on it.
    pub(super) fn find(&self, key: &Key) -> Result<Option<Location>, StoreError> {
        self.find_and(key, |_| ())
    }

    /// Looks a chunk up, after something that happens in the same moment.
    fn find_and(&self, key: &Key, before: impl Fn(&Self)) -> Result<Option<Location>, StoreError> {
        {
            let view = self.view();
            before(self);
            if view.is_lost(key) {
                return Ok(None);
            }
            if let Some(location) = view.unindexed.get(key) {
                return Ok(Some(*location));
            }
            // A snapshot ends when a failure makes the index open its file again; another one is then taken.
            if let Some(Ok(found)) = view.indexed.as_ref().map(|indexed| indexed.get(key)) {
                return Ok(found);
            }
        }
        let mut view = self.view_mut();
        before(self);
        if view.is_lost(key) { Ok(None) } else { view.entry(self, key) }
    }

    /// Notes durably that the record of a chunk is damaged: the chunk is not held until it is put again.
    pub(super) fn note_damaged(&self, key: &Key, location: &Location) -> Result<(), StoreError> {
        // Entries change only under this lock: it may have been put again meanwhile.
        let mut writer = lock(&self.writer);
        if self.find(key)? != Some(*location) {
            return Ok(());
        }
        {
            let mut view = self.view_mut();
            if view.damaged.len() >= limits::MAX_DAMAGED {
                return Ok(());
            }
            view.damaged.insert(*key);
            view.indexed = None;
        }
        if writer.failed.is_some() {
            return Ok(());
        }
        let (damaged, committed) = (self.view().damaged.clone(), writer.committed);
        // Where there is no room for it, the next commit says it; until then this process knows it.
        match self.index().commit(std::iter::empty(), &[], &damaged, &committed) {
            Err(StoreError::Full(_)) => Ok(()),
            noted => self.close_if_failed(&mut writer, noted),
        }
    }

    /// Takes no more writes when the index does not any more; else it is as it was before.
    pub(super) fn close_if_failed<T>(&self, writer: &mut Writer, done: Result<T, StoreError>) -> Result<T, StoreError> {
        done.inspect_err(|error| {
            if self.index().is_read_only() {
                writer.failed = Some(error.to_string());
            }
        })
    }

    /// Removes entries from the index, durably. Their records are then of no use.
    pub(super) fn remove_entries(&self, writer: &mut Writer, dead: &[(Key, Location)]) -> Result<(), StoreError> {
        let (mut committed, mut figures) = (writer.committed, writer.figures);
        for (_, location) in dead {
            committed.discount(location);
            figures.discount(location);
        }
        let mut damaged = self.view().damaged.clone();
        for (key, _) in dead {
            damaged.remove(key);
        }
        let keys: Vec<Key> = dead.iter().map(|(key, _)| *key).collect();
        let removed = self.index().commit(std::iter::empty(), &keys, &damaged, &committed);
        self.close_if_failed(writer, removed)?;
        (writer.committed, writer.figures) = (committed, figures);
        Ok(())
    }

    /// Flushes when no more may wait.
    fn make_room(&self, writer: &mut Writer) -> Result<(), StoreError> {
        let n_unindexed = self.view().unindexed.len();
        if n_unindexed >= self.bounds.unindexed_chunks || writer.unindexed_bytes >= self.bounds.unindexed_bytes {
            self.flush_locked(writer)?;
        }
        Ok(())
    }

    pub(super) fn flush_locked(&self, writer: &mut Writer) -> Result<(), StoreError> {
        if let Some(reason) = &writer.failed {
            return Err(StoreError::ReadOnly(reason.clone()));
        }
        let entries: Vec<(Key, Location)> = {
            let mut view = self.view_mut();
            // The commit can then use the pages again that it shows.
            view.indexed = None;
            view.unindexed.iter().map(|(key, location)| (*key, *location)).collect()
        };
        if entries.is_empty() {
            return Ok(());
        }
        self.sync(writer)?;
        let entries = entries.iter().map(|(key, location)| (key, location));
        let damaged = self.view().damaged.clone();
        let committed = self.index().commit(entries, &[], &damaged, &writer.figures);
        self.close_if_failed(writer, committed)?;
        writer.committed = writer.figures;
        writer.unindexed_bytes = 0;
        let mut view = self.view_mut();
        view.unindexed.clear();
        view.indexed = None;
        Ok(())
    }

    /// Makes the segment being written durable, and the names of all.
    pub(super) fn sync(&self, writer: &mut Writer) -> Result<(), StoreError> {
        self.sync_bytes(writer)?;
        if writer.new_name {
            let synced = self.disk.sync_folder();
            self.synced(writer, synced)?;
        }
        writer.new_name = false;
        Ok(())
    }

    /// Makes the bytes of the segment being written durable.
    fn sync_bytes(&self, writer: &mut Writer) -> Result<(), StoreError> {
        let synced = match &writer.tail {
            Some(tail) => tail.file.sync(),
            None => Ok(()),
        };
        self.synced(writer, synced)
    }

    fn synced(&self, writer: &mut Writer, synced: std::io::Result<()>) -> Result<(), StoreError> {
        synced.map_err(|error| {
            log::error!(error:% = error; "a sync failed; the chunk store takes no more writes until the next start");
            let why = error.to_string();
            writer.failed = Some(why.clone());
            // Also when the cause was a lack of space: trying again would not help.
            StoreError::ReadOnly(why)
        })
    }

    /// The segment that takes the next `len` bytes.
    fn tail_for<'a>(&self, writer: &'a mut Writer, len: u64) -> Result<&'a mut Tail, StoreError> {
        let data_key = self.keyring.as_deref().map(Keyring::newest);
        let ends =
            |tail: &Tail| tail.len + len > self.bounds.segment_len || tail.key.as_ref().map(|(id, _)| *id) != data_key;
        if writer.tail.as_ref().is_some_and(ends) {
            // A flush that would be due in the middle of the next segment comes now: it is the same sync.
            if writer.unindexed_bytes + self.bounds.segment_len > self.bounds.unindexed_bytes {
                self.flush_locked(writer)?;
            } else {
                // Its name is needed when the index names it, not before.
                self.sync_bytes(writer)?;
            }
            writer.tail = None;
        }
        if writer.tail.is_none() {
            // All earlier segments are durable, so that a sync of this one is enough for all that wait.
            let number = writer.next;
            let seal = self.keyring.as_deref().map(|keyring| keyring.new_segment(&self.store, number)).transpose()?;
            let key = seal.map(|seal| seal.key_id).zip(self.segment_key(number, seal.as_ref())?);
            let file = segments::create(&self.disk, SegmentHeader { number, store: self.store, seal })?;
            writer.tail = Some(Tail { number, file, len: SEGMENT_HEADER_LEN as u64, key });
            writer.next += 1;
            writer.n_segments += 1;
            writer.new_name = true;
        }
        Ok(writer.tail.as_mut().expect("made above if there was none"))
    }
}

/// The error that a record is not what was written.
fn damaged(id: &ChunkId, location: &Location, what: &dyn std::fmt::Display) -> StoreError {
    let place = format!("{} at {}", segment_name(location.segment), location.offset);
    StoreError::Corrupt(format!("chunk {id} in {place}: {what}"))
}

/// Whether an error says that bytes that should be in a file are not there, or cannot be read from the medium any more.
pub(super) fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::UnexpectedEof) || Unreadable::is(error)
}

impl Writer {
    /// Corrects what is known of bytes that nothing names.
    pub(super) fn set_dead_bytes(&mut self, dead_bytes: u64) {
        self.figures.dead_bytes = dead_bytes;
        self.committed.dead_bytes = dead_bytes;
    }

    /// Counts bytes that were given back.
    pub(super) fn freed(&mut self, bytes: u64) {
        self.set_dead_bytes(self.figures.dead_bytes.saturating_sub(bytes));
    }
}

fn no_keys(number: u64) -> StoreError {
    crypto::refused(format!(
        "{} can be read with its keys only; set `crypto.enabled = true`, and bring the keys of this data directory",
        segment_name(number)
    ))
}

/// What the headers of all segments say.
struct Headers {
    /// The store that they belong to; `None` if none says.
    store: Option<[u8; 16]>,
    /// All plain ones have a lower number.
    plain_below: u64,
}

/// Reads the headers of all segments, before an index is made of them: the keys must be those of each.
fn headers(disk: &dyn Disk, numbers: &[u64], keyring: Option<&Keyring>) -> Result<Headers, StoreError> {
    let mut found = Headers { store: None, plain_below: 0 };
    for &number in numbers {
        let Some(file) = segments::open(disk, number)? else { continue };
        let mut bytes = [0; SEGMENT_HEADER_LEN];
        let held = file.len()?.min(bytes.len() as u64) as usize;
        file.read_exact_at(&mut bytes[..held], 0)?;
        match SegmentHeader::decode(&bytes) {
            HeaderBytes::Newer(version) => return Err(segments::newer(number, version)),
            HeaderBytes::Damaged => {}
            HeaderBytes::Header(header) => {
                let store = *found.store.get_or_insert(header.store);
                match header.seal {
                    _ if header.store != store || header.number != number => {}
                    None => found.plain_below = number + 1,
                    Some(seal) => {
                        keyring.ok_or_else(|| no_keys(number))?.segment_key(&seal, &store, number)?;
                    }
                }
            }
        }
    }
    Ok(found)
}

impl SegmentStore {
    /// The bytes of a chunk as they were before they were sealed.
    pub(super) fn payload(&self, key: &Key, location: &Location) -> Result<Payload, StoreError> {
        let file = self.open.get(&self.disk, location.segment)?;
        // The hash says more than header and checksum could.
        let mut payload = vec![0; location.stored_len as usize];
        file.read_exact_at(&mut payload, location.payload_offset())?;
        let Some(cipher) = location.cipher else { return Ok(Payload::Whole(payload)) };
        let keyring = self.keyring.as_deref().ok_or_else(|| no_keys(location.segment))?;
        let Some(segment_key) = self.open.key(&self.disk, location.segment, self.store, keyring)? else {
            return Ok(Payload::Damaged("the header of its segment is damaged"));
        };
        let opened = segment_key.open(&location.header(*key).place(cipher, location.offset), payload);
        Ok(opened.map_or(Payload::Damaged("these are not the bytes that were sealed there"), Payload::Whole))
    }

    /// The chunk at a place; or why it is not there.
    fn read(&self, id: &ChunkId, key: &Key, location: &Location) -> Result<Result<Chunk, String>, StoreError> {
        let payload = match self.payload(key, location) {
            Err(StoreError::Io(error)) if is_absent(&error) => {
                return Ok(Err(error.to_string()));
            }
            Ok(Payload::Damaged(what)) => return Ok(Err(what.to_owned())),
            Ok(Payload::Whole(payload)) => payload,
            Err(error) => return Err(error),
        };
        match location.codec {
            RecordCodec::Chunk(codec) => {
                Ok(Chunk::verify(*id, location.raw_len, codec, payload).map_err(|error| error.to_string()))
            }
            RecordCodec::Reference => self.read_reference(id, location, &payload),
        }
    }

    /// The chunk that a reference stands for; or why the record is none.
    fn read_reference(
        &self,
        id: &ChunkId,
        location: &Location,
        payload: &[u8],
    ) -> Result<Result<Chunk, String>, StoreError> {
        match reference::read(&self.disk, *id, location.raw_len, payload) {
            Ok(chunk) => {
                let key = self.key(id);
                if self.view().changed.contains(&key) {
                    self.view_mut().changed.remove(&key);
                }
                Ok(Ok(chunk))
            }
            Err(reference::ReadError::Damaged(what)) => Ok(Err(what)),
            Err(reference::ReadError::Changed(error)) => {
                let mut view = self.view_mut();
                if view.changed.len() < self.bounds.unindexed_chunks {
                    view.changed.insert(self.key(id));
                }
                Err(error)
            }
        }
    }

    /// Appends a record, sealed where there are keys, and notes it in place of `replaced`.
    pub(super) fn append(
        &self,
        writer: &mut Writer,
        key: Key,
        (raw_len, codec): (u32, RecordCodec),
        payload: &[u8],
        replaced: Option<Location>,
    ) -> Result<(), StoreError> {
        self.make_room(writer)?;
        let cipher = self.keyring.as_deref().map(Keyring::cipher);
        let overhead = if cipher.is_some() { SEALED_OVERHEAD } else { 0 };
        let header = RecordHeader { key, raw_len, stored_len: (payload.len() + overhead) as u32, codec, cipher };
        let tail = self.tail_for(writer, header.record_len())?;
        let (number, offset) = (tail.number, tail.len);
        // A write that fails half-way leaves bytes behind the length that counts; the next one goes over them.
        let written = if let (Some(cipher), Some(keyring), Some((_, segment_key))) = (cipher, &self.keyring, &tail.key)
        {
            let mut record = Vec::with_capacity(header.record_len() as usize);
            record.resize(RECORD_HEADER_LEN, 0);
            segment_key.seal(keyring, &header.place(cipher, offset), payload, &mut record)?;
            let head = header.encode(&record[RECORD_HEADER_LEN..]);
            record[..RECORD_HEADER_LEN].copy_from_slice(&head);
            tail.file.write_all_at(&record, offset)
        } else if payload.len() <= MAX_COPIED {
            tail.file.write_all_at(&[&header.encode(payload), payload].concat(), offset)
        } else {
            let behind = offset + RECORD_HEADER_LEN as u64;
            let head = header.encode(payload);
            tail.file.write_all_at(&head, offset).and_then(|()| tail.file.write_all_at(payload, behind))
        };
        written.map_err(write_error)?;
        tail.len += header.record_len();
        writer.figures.tail = Some((number, tail.len));
        self.add(writer, (number, offset), &header, replaced)
    }

    /// The writer, unless the store is closed for writing.
    pub(super) fn writable(&self) -> Result<MutexGuard<'_, Writer>, StoreError> {
        let writer = lock(&self.writer);
        match &writer.failed {
            Some(reason) => Err(StoreError::ReadOnly(reason.clone())),
            None => Ok(writer),
        }
    }
}

impl SegmentStore {
    fn stats_of(&self, writer: &Writer) -> Result<ChunkStoreStats, StoreError> {
        let disk = self.disk.figures();
        let index_bytes = self.index().allocated()?;
        Ok(ChunkStoreStats {
            n_chunks: writer.figures.n_chunks,
            stored_bytes: writer.figures.stored_bytes,
            raw_bytes: writer.figures.raw_bytes,
            n_segments: writer.n_segments,
            fsyncs: disk.syncs,
            written_bytes: disk.written_bytes,
            referenced_bytes: writer.figures.referenced_bytes,
            n_damaged: self.view().damaged.len() as u64,
            allocated_bytes: writer.figures.stored_bytes
                + writer.figures.dead_bytes
                + writer.n_segments * SEGMENT_HEADER_LEN as u64
                + index_bytes,
            dead_bytes: writer.figures.dead_bytes,
            index_bytes,
        })
    }

    /// Whether chunks may lie in plain segments that were written before the store was encrypted.
    pub fn has_plain_segments(&self) -> bool {
        let standing = *lock(&self.standing);
        let sealed_from =
            standing.map_or_else(|| lock(&self.writer).figures.sealed_from, |standing| standing.sealed_from);
        self.keyring.is_some() && sealed_from > 0
    }
}

impl ChunkStore for SegmentStore {
    fn has(&self, id: &ChunkId) -> Result<bool, StoreError> {
        let key = self.key(id);
        let Some(location) = self.locate(&key)? else { return Ok(false) };
        if !location.is_reference() || !self.view().changed.contains(&key) {
            return Ok(true);
        }
        match self.get(id) {
            Ok(chunk) => Ok(chunk.is_some()),
            Err(StoreError::Changed { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn get(&self, id: &ChunkId) -> Result<Option<Chunk>, StoreError> {
        let key = self.key(id);
        let mut found = self.locate(&key)?;
        while let Some(location) = found {
            let what = match self.read(id, &key, &location)? {
                Ok(chunk) => return Ok(Some(chunk)),
                Err(what) => what,
            };
            // It may have been moved since it was looked up.
            let again = self.locate(&key)?;
            if again == Some(location) {
                self.note_damaged(&key, &location)?;
                if self.find(&key)?.is_none_or(|now| now == location) {
                    return Err(damaged(id, &location, &what));
                }
            }
            found = again;
        }
        Ok(None)
    }

    fn put(&self, chunk: &Chunk) -> Result<bool, StoreError> {
        let mut writer = self.writable()?;
        let key = self.key(&chunk.id());
        let held = self.locate(&key)?;
        if held.is_some_and(|held| !held.is_reference()) {
            return Ok(false);
        }
        let what = (chunk.len(), RecordCodec::Chunk(chunk.codec()));
        self.append(&mut writer, key, what, chunk.encoded(), held)?;
        Ok(true)
    }

    fn put_reference(&self, chunk: RawChunk, place: &FilePlace) -> Result<bool, StoreError> {
        // The file is read before others are kept from writing.
        let (id, raw_len) = (chunk.id(), chunk.len());
        let key = self.key(&id);
        match self.locate(&key)? {
            Some(held) if !held.is_reference() => return Ok(false),
            Some(_) if self.get(&id).is_ok_and(|held| held.is_some()) => return Ok(false),
            _ => reference::check(&self.disk, place, chunk.bytes())?,
        }
        let mut writer = self.writable()?;
        let held = self.locate(&key)?;
        if held.is_some_and(|held| !held.is_reference()) {
            return Ok(false);
        }
        self.append(&mut writer, key, (raw_len, RecordCodec::Reference), &encode(place), held)?;
        Ok(true)
    }

    fn place(&self, id: &ChunkId) -> Result<Option<FilePlace>, StoreError> {
        let key = self.key(id);
        let Some(location) = self.locate(&key)?.filter(Location::is_reference) else { return Ok(None) };
        match self.payload(&key, &location)? {
            Payload::Damaged(what) => Err(damaged(id, &location, &what)),
            Payload::Whole(payload) => {
                decode::<FilePlace>(&payload).map(Some).map_err(|error| damaged(id, &location, &error))
            }
        }
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.flush_locked(&mut lock(&self.writer))
    }

    fn stats(&self) -> Result<ChunkStoreStats, StoreError> {
        let standing = *lock(&self.standing);
        standing.map_or_else(|| self.stats_of(&lock(&self.writer)), |standing| Ok(standing.stats))
    }

    fn lease(&self) -> Lease {
        self.new_lease()
    }

    fn begin_gc(&self, filter_bytes: usize, seed: u64) -> Result<(), StoreError> {
        self.begin_collection(filter_bytes, seed)
    }

    fn mark(&self, id: &ChunkId) {
        self.mark_chunk(&self.key(id));
    }

    fn sweep_step(&self, rules: &SweepRules, after: Option<SweepCursor>) -> Result<SweepStep, StoreError> {
        self.sweep(rules, after)
    }

    fn reclaim_step(&self) -> Result<Option<Reclaimed>, StoreError> {
        self.give_back()
    }

    fn end_gc(&self) {
        self.end_collection();
    }

    fn scrub_step(&self, after: Option<ScrubCursor>, max_bytes: u64) -> Result<ScrubStep, StoreError> {
        self.scrub(after.unwrap_or_default(), max_bytes)
    }

    fn is_damaged(&self, id: &ChunkId) -> Result<bool, StoreError> {
        Ok(self.view().damaged.contains(&self.key(id)))
    }

    fn rebuild(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Rebuilt, StoreError> {
        self.rebuild_index(progress)
    }
}
