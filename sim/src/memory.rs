//! The catalog and the chunk store in memory: what a store must do, in the fewest words. The reference of the
//! conformance suites.
//!
//! A snapshot shares the maps of the catalog until the next write to a table copies that one. A chunk is held in two
//! maps, that of the durable ones and that of those that a crash would lose.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bib_core::chunk::Chunk;
use bib_core::id::ChunkId;
use bib_core::port::{
    Catalog, CatalogRead, CatalogTxn, ChunkStore, ChunkStoreStats, KeyRange, Lease, Order, Rebuilt, Reclaimed,
    ScrubCursor, ScrubStep, StoreError, SweepCursor, SweepRules, SweepStep, Table, Visit,
};
use bib_core::time::Timestamp;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Debug, Clone, Default)]
struct Tables(BTreeMap<Table, Arc<Map>>);

impl CatalogRead for Tables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.get(&table).and_then(|map| map.get(key)).cloned())
    }

    fn scan(&self, table: Table, range: KeyRange<'_>, order: Order, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let Some(map) = self.0.get(&table).filter(|_| !is_empty(range)) else { return Ok(()) };
        let mut found = map.range::<[u8], _>(range);
        loop {
            let next = match order {
                Order::Ascending => found.next(),
                Order::Descending => found.next_back(),
            };
            match next {
                Some((key, value)) if visit(key, value).is_continue() => {}
                _ => return Ok(()),
            }
        }
    }

    fn len(&self, table: Table) -> Result<u64, StoreError> {
        Ok(self.0.get(&table).map_or(0, |map| map.len() as u64))
    }
}

/// A map panics when a range ends before it begins; a catalog shows nothing.
fn is_empty((lower, upper): KeyRange<'_>) -> bool {
    use std::ops::Bound::{Excluded, Included, Unbounded};
    match (lower, upper) {
        (Unbounded, _) | (_, Unbounded) => false,
        (Included(lower), Included(upper)) => lower > upper,
        (Included(lower) | Excluded(lower), Included(upper) | Excluded(upper)) => lower >= upper,
    }
}

/// A catalog that lives as long as its value.
#[derive(Debug, Default)]
pub struct MemoryCatalog(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    tables: Tables,
    commits: u64,
    commits_until_failure: Option<u64>,
    read_only: bool,
}

impl MemoryCatalog {
    /// An empty catalog.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic inside a transaction leaves it half done, as a crash would; only tests see it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits so far.
    pub fn commits(&self) -> u64 {
        self.state().commits
    }

    /// Lets the commit after `commits` others fail, as a full disk does; the catalog is read-only from then on.
    pub fn fail_after(&self, commits: u64) {
        self.state().commits_until_failure = Some(commits);
    }

    /// What is committed, as the catalog of a node that starts again.
    pub fn restarted(&self) -> Self {
        Self(Mutex::new(State { tables: self.state().tables.clone(), ..State::default() }))
    }

    /// All keys and values of a table.
    pub fn dump(&self, table: Table) -> Vec<(Vec<u8>, Vec<u8>)> {
        let state = self.state();
        state
            .tables
            .0
            .get(&table)
            .map_or_else(Vec::new, |map| map.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}

impl Catalog for MemoryCatalog {
    fn begin_read(&self) -> Result<Box<dyn CatalogRead + '_>, StoreError> {
        Ok(Box::new(self.state().tables.clone()))
    }

    fn write(&self, work: &mut dyn FnMut(&mut dyn CatalogTxn) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let mut state = self.state();
        if state.read_only {
            return Err(StoreError::ReadOnly("an earlier commit failed".to_owned()));
        }
        let State { tables, commits, commits_until_failure, read_only } = &mut *state;
        let mut txn = Txn { tables, undo: Vec::new() };
        let done = work(&mut txn);
        if done.is_err() || *commits_until_failure == Some(0) {
            txn.roll_back();
        }
        done?;
        if *commits_until_failure == Some(0) {
            *read_only = true;
            return Err(StoreError::Full("the simulated disk".to_owned()));
        }
        *commits += 1;
        *commits_until_failure = commits_until_failure.map(|left| left - 1);
        Ok(())
    }
}

struct Txn<'a> {
    tables: &'a mut Tables,
    undo: Vec<(Table, Vec<u8>, Option<Vec<u8>>)>,
}

impl Txn<'_> {
    fn set(&mut self, table: Table, key: &[u8], value: Option<&[u8]>) {
        let map = Arc::make_mut(self.tables.0.entry(table).or_default());
        let before = match value {
            Some(value) => map.insert(key.to_vec(), value.to_vec()),
            None => map.remove(key),
        };
        self.undo.push((table, key.to_vec(), before));
    }

    fn roll_back(mut self) {
        while let Some((table, key, before)) = self.undo.pop() {
            self.set(table, &key, before.as_deref());
            self.undo.pop();
        }
    }
}

impl CatalogRead for Txn<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.tables.get(table, key)
    }

    fn scan(&self, table: Table, range: KeyRange<'_>, order: Order, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.tables.scan(table, range, order, visit)
    }

    fn len(&self, table: Table) -> Result<u64, StoreError> {
        self.tables.len(table)
    }
}

impl CatalogTxn for Txn<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.set(table, key, Some(value));
        Ok(())
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        self.set(table, key, None);
        Ok(())
    }
}

/// A chunk store that lives as long as its value.
#[derive(Debug, Default)]
pub struct MemoryChunkStore(Mutex<Chunks>);

#[derive(Debug, Default)]
struct Chunks {
    durable: BTreeMap<ChunkId, Chunk>,
    pending: BTreeMap<ChunkId, Chunk>,
    /// Encoded bytes that fit in; `None` = any number.
    capacity: Option<u64>,
    stored_bytes: u64,
    raw_bytes: u64,
    flushes: u64,
    read_only: bool,
    /// When each chunk was first seen by a sweep.
    known: BTreeMap<ChunkId, Timestamp>,
    /// Chunks that a collection keeps, while one goes on.
    marked: Option<BTreeSet<ChunkId>>,
    /// The number of that collection.
    collection: u64,
    /// What was put or found while leases are out; it is for all of them together.
    leased: BTreeSet<ChunkId>,
    leases: Weak<()>,
}

impl Chunks {
    fn find(&self, id: &ChunkId) -> Option<&Chunk> {
        self.pending.get(id).or_else(|| self.durable.get(id))
    }

    /// Notes that somebody may build on a chunk.
    fn note(&mut self, id: &ChunkId) {
        if let Some(marked) = &mut self.marked {
            marked.insert(*id);
        }
        if self.leases.strong_count() > 0 {
            self.leased.insert(*id);
        }
    }

    fn recount(&mut self) {
        let all = || self.durable.values().chain(self.pending.values());
        self.stored_bytes = all().map(|chunk| chunk.encoded().len() as u64).sum();
        self.raw_bytes = all().map(|chunk| u64::from(chunk.len())).sum();
    }
}

impl MemoryChunkStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store that is full at so many encoded bytes.
    pub fn with_capacity(bytes: u64) -> Self {
        Self(Mutex::new(Chunks { capacity: Some(bytes), ..Chunks::default() }))
    }

    fn chunks(&self) -> MutexGuard<'_, Chunks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes how many encoded bytes fit in.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.chunks().capacity = bytes;
    }

    /// Loses what was not made durable, as a power cut does, and starts again.
    pub fn crash(&self) {
        let mut chunks = self.chunks();
        chunks.pending.clear();
        chunks.read_only = false;
        chunks.recount();
    }

    /// Closes the store for writing, as a failed write does.
    pub fn fail(&self) {
        self.chunks().read_only = true;
    }

    /// Ids of all chunks held, ascending.
    pub fn ids(&self) -> Vec<ChunkId> {
        let chunks = self.chunks();
        let mut ids: Vec<ChunkId> = chunks.durable.keys().chain(chunks.pending.keys()).copied().collect();
        ids.sort_unstable();
        ids
    }

    /// Ids of the chunks that a crash keeps, ascending.
    pub fn durable_ids(&self) -> Vec<ChunkId> {
        self.chunks().durable.keys().copied().collect()
    }

    /// Forgets a chunk, as a collection of garbage does; returns whether it was held.
    pub fn remove(&self, id: &ChunkId) -> bool {
        let mut chunks = self.chunks();
        let held = chunks.pending.remove(id).is_some() | chunks.durable.remove(id).is_some();
        chunks.recount();
        held
    }
}

impl ChunkStore for MemoryChunkStore {
    fn has(&self, id: &ChunkId) -> Result<bool, StoreError> {
        let mut chunks = self.chunks();
        chunks.note(id);
        Ok(chunks.find(id).is_some())
    }

    fn get(&self, id: &ChunkId) -> Result<Option<Chunk>, StoreError> {
        Ok(self.chunks().find(id).cloned())
    }

    fn put(&self, chunk: &Chunk) -> Result<bool, StoreError> {
        let mut chunks = self.chunks();
        if chunks.read_only {
            return Err(StoreError::ReadOnly("an earlier write failed".to_owned()));
        }
        chunks.note(&chunk.id());
        if chunks.find(&chunk.id()).is_some() {
            return Ok(false);
        }
        let stored_bytes = chunks.stored_bytes + chunk.encoded().len() as u64;
        if chunks.capacity.is_some_and(|capacity| stored_bytes > capacity) {
            return Err(StoreError::Full("the simulated disk".to_owned()));
        }
        chunks.stored_bytes = stored_bytes;
        chunks.raw_bytes += u64::from(chunk.len());
        chunks.pending.insert(chunk.id(), chunk.clone());
        Ok(true)
    }

    fn flush(&self) -> Result<(), StoreError> {
        let mut chunks = self.chunks();
        if chunks.read_only {
            return Err(StoreError::ReadOnly("an earlier write failed".to_owned()));
        }
        chunks.flushes += 1;
        let mut pending = std::mem::take(&mut chunks.pending);
        chunks.durable.append(&mut pending);
        Ok(())
    }

    fn stats(&self) -> Result<ChunkStoreStats, StoreError> {
        let chunks = self.chunks();
        Ok(ChunkStoreStats {
            n_chunks: (chunks.durable.len() + chunks.pending.len()) as u64,
            stored_bytes: chunks.stored_bytes,
            raw_bytes: chunks.raw_bytes,
            n_segments: 1,
            fsyncs: chunks.flushes,
            written_bytes: chunks.stored_bytes,
            allocated_bytes: chunks.stored_bytes,
            ..ChunkStoreStats::default()
        })
    }

    fn lease(&self) -> Lease {
        let mut chunks = self.chunks();
        let lease = chunks.leases.upgrade().unwrap_or_else(|| {
            chunks.leased.clear();
            Arc::new(())
        });
        chunks.leases = Arc::downgrade(&lease);
        Lease::new(lease)
    }

    fn begin_gc(&self, _: usize, seed: u64) -> Result<(), StoreError> {
        let mut chunks = self.chunks();
        if chunks.marked.is_some() {
            return Err(StoreError::Locked("another collection goes on".to_owned()));
        }
        let kept = if chunks.leases.strong_count() > 0 { chunks.leased.clone() } else { BTreeSet::new() };
        chunks.marked = Some(kept);
        chunks.collection = seed;
        Ok(())
    }

    fn mark(&self, id: &ChunkId) {
        if let Some(marked) = &mut self.chunks().marked {
            marked.insert(*id);
        }
    }

    fn sweep_step(&self, rules: &SweepRules, after: Option<SweepCursor>) -> Result<SweepStep, StoreError> {
        let chunks = &mut *self.chunks();
        let marked = chunks
            .marked
            .as_ref()
            .filter(|_| chunks.collection == rules.number)
            .ok_or_else(|| StoreError::Io(io::Error::other("no collection goes on")))?;
        let from = after.map_or(Bound::Unbounded, |cursor| Bound::Excluded(ChunkId::from_bytes(cursor.0)));
        let mut step = SweepStep::default();
        let mut dead = Vec::new();
        for (id, chunk) in chunks.durable.range((from, Bound::Unbounded)).take(rules.max_chunks) {
            step.seen += 1;
            step.next = Some(SweepCursor(*id.as_bytes()));
            if marked.contains(id) {
                continue;
            }
            let bytes = chunk.encoded().len() as u64;
            let known = chunks.known.get(id).copied().filter(|known| *known <= rules.now).unwrap_or(rules.now);
            if !rules.dry_run {
                chunks.known.insert(*id, known);
            }
            if known.saturating_add(rules.min_age) <= rules.now {
                step.dead_chunks += 1;
                step.dead_bytes += bytes;
                dead.push(*id);
            } else {
                step.young_chunks += 1;
                step.young_bytes += bytes;
            }
        }
        if step.seen < rules.max_chunks as u64 {
            step.next = None;
        }
        if !rules.dry_run {
            for id in dead {
                chunks.durable.remove(&id);
                chunks.known.remove(&id);
            }
            chunks.recount();
        }
        Ok(step)
    }

    fn reclaim_step(&self) -> Result<Option<Reclaimed>, StoreError> {
        Ok(None)
    }

    fn end_gc(&self) {
        self.chunks().marked = None;
    }

    fn scrub_step(&self, _: Option<ScrubCursor>, _: u64) -> Result<ScrubStep, StoreError> {
        let chunks = self.chunks();
        Ok(ScrubStep { chunks: chunks.durable.len() as u64, bytes: chunks.stored_bytes, ..ScrubStep::default() })
    }

    fn is_damaged(&self, _: &ChunkId) -> Result<bool, StoreError> {
        Ok(false)
    }

    fn rebuild(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Rebuilt, StoreError> {
        let stats = self.stats()?;
        progress(stats.stored_bytes, stats.stored_bytes);
        Ok(Rebuilt { chunks: stats.n_chunks, bytes: stats.stored_bytes, lost: 0 })
    }
}

#[cfg(test)]
mod tests {
    use std::ops::{Bound, ControlFlow};

    use super::*;

    fn put(catalog: &MemoryCatalog, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        catalog.write(&mut |txn| txn.put(Table::Meta, key, value))
    }

    #[test]
    fn snapshot_does_not_see_later_writes() {
        let catalog = MemoryCatalog::new();
        put(&catalog, b"a", b"1").unwrap();
        let before = catalog.begin_read().unwrap();
        put(&catalog, b"a", b"2").unwrap();
        assert_eq!(before.get(Table::Meta, b"a").unwrap().as_deref(), Some(b"1".as_slice()));
        assert_eq!(catalog.begin_read().unwrap().get(Table::Meta, b"a").unwrap().as_deref(), Some(b"2".as_slice()));
    }

    #[test]
    fn failed_work_changes_nothing() {
        let catalog = MemoryCatalog::new();
        put(&catalog, b"a", b"1").unwrap();
        let before = catalog.dump(Table::Meta);
        let failed = catalog.write(&mut |txn| {
            txn.put(Table::Meta, b"a", b"2")?;
            txn.put(Table::Meta, b"b", b"2")?;
            txn.put(Table::Meta, b"b", b"3")?;
            txn.remove(Table::Meta, b"a")?;
            Err(StoreError::Full("no".to_owned()))
        });
        assert!(failed.is_err());
        assert_eq!(catalog.dump(Table::Meta), before);
        put(&catalog, b"c", b"1").unwrap();
    }

    #[test]
    fn failed_commit_changes_nothing_and_ends_writing_until_the_restart() {
        let catalog = MemoryCatalog::new();
        catalog.fail_after(1);
        put(&catalog, b"a", b"1").unwrap();
        assert!(matches!(put(&catalog, b"a", b"2"), Err(StoreError::Full(_))));
        assert!(matches!(put(&catalog, b"a", b"2"), Err(StoreError::ReadOnly(_))));
        let catalog = catalog.restarted();
        assert_eq!(catalog.dump(Table::Meta), [(b"a".to_vec(), b"1".to_vec())]);
        put(&catalog, b"a", b"2").unwrap();
    }

    #[test]
    fn scan_goes_both_ways_and_an_inverted_range_is_empty() {
        let catalog = MemoryCatalog::new();
        for key in [b"a", b"b", b"c"] {
            put(&catalog, key, b"").unwrap();
        }
        let read = catalog.begin_read().unwrap();
        let keys = |range: KeyRange<'_>, order| {
            let mut keys = String::new();
            read.scan(Table::Meta, range, order, &mut |key, _| {
                keys.push(char::from(key[0]));
                if keys.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .unwrap();
            keys
        };
        assert_eq!(keys((Bound::Unbounded, Bound::Unbounded), Order::Ascending), "ab");
        assert_eq!(keys((Bound::Unbounded, Bound::Unbounded), Order::Descending), "cb");
        assert_eq!(keys((Bound::Excluded(b"a"), Bound::Unbounded), Order::Ascending), "bc");
        assert_eq!(keys((Bound::Included(b"c"), Bound::Excluded(b"a")), Order::Ascending), "");
        assert_eq!(keys((Bound::Excluded(b"a"), Bound::Excluded(b"a")), Order::Ascending), "");
    }

    #[test]
    fn crash_keeps_what_was_flushed() {
        let store = MemoryChunkStore::new();
        let (first, second) = (Chunk::from_raw(b"first".to_vec()), Chunk::from_raw(b"second".to_vec()));
        assert!(store.put(&first).unwrap());
        assert!(!store.put(&first).unwrap());
        store.flush().unwrap();
        assert!(store.put(&second).unwrap());
        assert_eq!(store.get(&second.id()).unwrap(), Some(second.clone()));
        store.crash();
        assert_eq!(store.get(&first.id()).unwrap(), Some(first.clone()));
        assert!(!store.has(&second.id()).unwrap());
        assert_eq!(store.stats().unwrap().raw_bytes, 5);
        assert_eq!(store.ids(), store.durable_ids());
        assert!(store.remove(&first.id()) && !store.remove(&first.id()));
    }

    #[test]
    fn full_store_says_so_and_keeps_what_it_has() {
        let store = MemoryChunkStore::with_capacity(6);
        let (first, second) = (Chunk::from_raw(b"first".to_vec()), Chunk::from_raw(b"second".to_vec()));
        store.put(&first).unwrap();
        assert!(matches!(store.put(&second), Err(StoreError::Full(_))));
        store.flush().unwrap();
        assert_eq!(store.durable_ids(), [first.id()]);
        store.set_capacity(None);
        store.put(&second).unwrap();
        store.fail();
        assert!(matches!(store.flush(), Err(StoreError::ReadOnly(_))));
    }
}
