//! The index of the chunk store: where each durable chunk lies, and up to where the segments are indexed.
//!
//! Ids are random, so that each new entry falls on a page of its own, and that page is written anew with all pages above
//! it: with a million chunks that would be 5 KiB an entry. New entries are therefore appended to the table `recent`, some
//! 60 bytes each, are held in memory, and go to their places in `chunks` all together, when there are
//! [`MAX_RECENT_ENTRIES`](bib_core::limits::MAX_RECENT_ENTRIES) of them.
//!
//! Invariant: entries, tail and figures change in one commit, so that they always belong together. An entry in `recent`
//! counts before the one with the same key in `chunks`; whoever removes entries brings all to their places first.
//! All keys of an index are of one kind: ids of chunks in that of a plain store, keyed hashes in that of a sealed one,
//! also for chunks that lie in segments that were written before the store was sealed.
//!
//! Deliberately absent: knowledge of segment files.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex};

use bib_core::port::StoreError;
use bib_core::time::Timestamp;
use redb::{
    ReadOnlyTable, ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition, TableError, WriteTransaction,
};

use super::format::{Key, LOCATION_LEN, Location};
use crate::crypto::{self, Keyring, check_keys, record_checks};
use crate::database::{Store, guarded, lock, redb_error};
use crate::disk::Disk;

/// Name of the index in the folder.
pub(super) const INDEX: &str = "index.redb";

/// Version of the format of a sealed index.
const SEALED: u64 = 3;
/// Version of the format of a plain one. Version 1 had no table `recent` and is otherwise the same.
const PLAIN: u64 = 2;
/// Entries that are held in memory while a plain index becomes a sealed one.
const STEP_LEN: u64 = 65_536;
/// Entries in one value of `recent`: they fit one page of the database.
const PACK: usize = 64;
const KEY_LEN: usize = 32;
const ENTRY_LEN: usize = KEY_LEN + LOCATION_LEN;
const CHUNKS: TableDefinition<'_, &[u8; 32], &[u8; LOCATION_LEN]> = TableDefinition::new("chunks");
const RECENT: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("recent");
/// When a segment was first known, in microseconds since 1970.
const SEGMENTS: TableDefinition<'_, u64, i64> = TableDefinition::new("segments");
/// Chunks whose records are not what was written.
const DAMAGED: TableDefinition<'_, &[u8; KEY_LEN], ()> = TableDefinition::new("damaged");
const STATE: TableDefinition<'_, &str, u64> = TableDefinition::new("state");
const STORE_ID: TableDefinition<'_, &str, &[u8; 16]> = TableDefinition::new("store");

/// What the index says beside its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct State {
    /// Segment and length up to which every whole record is indexed; `None` before the first flush.
    pub(super) tail: Option<(u64, u64)>,
    pub(super) n_chunks: u64,
    pub(super) stored_bytes: u64,
    pub(super) raw_bytes: u64,
    pub(super) referenced_bytes: u64,
    /// Segments with a lower number are plain, though the store is sealed.
    pub(super) sealed_from: u64,
    /// Bytes in the segments that no entry names and that were not given back, as far as is known.
    pub(super) dead_bytes: u64,
}

impl State {
    /// Counts a record that an entry names.
    pub(super) fn count(&mut self, location: &Location) {
        self.n_chunks += 1;
        self.stored_bytes += location.record_len();
        self.raw_bytes += u64::from(location.raw_len);
        if location.is_reference() {
            self.referenced_bytes += u64::from(location.raw_len);
        }
    }

    /// Counts a record that no entry names any more.
    pub(super) fn discount(&mut self, location: &Location) {
        self.n_chunks = self.n_chunks.saturating_sub(1);
        self.stored_bytes = self.stored_bytes.saturating_sub(location.record_len());
        self.raw_bytes = self.raw_bytes.saturating_sub(u64::from(location.raw_len));
        if location.is_reference() {
            self.referenced_bytes = self.referenced_bytes.saturating_sub(u64::from(location.raw_len));
        }
        self.dead_bytes += location.record_len();
    }
}

fn failed(error: impl Into<redb::Error>) -> StoreError {
    redb_error(INDEX, error)
}

/// An entry as it is written, key first.
type Entry = [u8; ENTRY_LEN];

fn entry(key: &Key, location: &Location) -> Entry {
    let mut entry = [0; ENTRY_LEN];
    entry[..KEY_LEN].copy_from_slice(key.as_bytes());
    entry[KEY_LEN..].copy_from_slice(&location.encode());
    entry
}

/// The two parts of an entry.
fn parts(entry: &Entry) -> (&[u8; KEY_LEN], &[u8; LOCATION_LEN]) {
    let (key, value) = entry.split_at(KEY_LEN);
    (key.try_into().expect("the first part has this length"), value.try_into().expect("the rest has this length"))
}

fn by_key(one: &Entry, other: &Entry) -> Ordering {
    one[..KEY_LEN].cmp(&other[..KEY_LEN])
}

/// Two runs in the order of their keys as one; of two entries with one key the newer one.
fn merged<'a>(old: &'a [Entry], new: &'a [Entry]) -> impl Iterator<Item = &'a Entry> {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    std::iter::from_fn(move || match (old.peek(), new.peek()) {
        (Some(before), Some(after)) => match by_key(before, after) {
            Ordering::Less => old.next(),
            Ordering::Equal => {
                old.next();
                new.next()
            }
            Ordering::Greater => new.next(),
        },
        (Some(_), None) => old.next(),
        (None, _) => new.next(),
    })
}

/// What `recent` holds, in the order of the keys.
fn load(read: &ReadTransaction) -> Result<Vec<Entry>, StoreError> {
    let table = match read.open_table(RECENT) {
        // An index of version 1.
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        table => table.map_err(failed)?,
    };
    let mut all = Vec::new();
    for row in table.iter().map_err(failed)? {
        let (_, pack) = row.map_err(failed)?;
        let (entries, rest) = pack.value().as_chunks::<ENTRY_LEN>();
        if !rest.is_empty() {
            return Err(StoreError::Corrupt(format!("{INDEX}: recent entries have no meaning")));
        }
        all.extend_from_slice(entries);
    }
    // Stable, so that the newest of a key is the last one.
    all.sort_by(by_key);
    all.dedup_by(|after, before| {
        let same = by_key(after, before) == Ordering::Equal;
        if same {
            *before = *after;
        }
        same
    });
    Ok(all)
}

/// A view of the durable chunks. Holding one keeps the file from reusing the pages it shows.
pub(super) struct Snapshot {
    recent: Arc<Vec<Entry>>,
    chunks: ReadOnlyTable<&'static [u8; KEY_LEN], &'static [u8; LOCATION_LEN]>,
}

fn location(value: &[u8]) -> Result<Location, StoreError> {
    let bad = || StoreError::Corrupt(format!("{INDEX}: the entry of a chunk has no meaning"));
    Location::decode(value).ok_or_else(bad)
}

impl Snapshot {
    pub(super) fn get(&self, key: &Key) -> Result<Option<Location>, StoreError> {
        if let Some(entry) = self.recent(key.as_bytes()) {
            return location(parts(entry).1).map(Some);
        }
        guarded(INDEX, || match self.chunks.get(key.as_bytes()).map_err(failed)? {
            None => Ok(None),
            Some(value) => location(value.value()).map(Some),
        })
    }

    fn recent(&self, key: &[u8; KEY_LEN]) -> Option<&Entry> {
        let at = self.recent.binary_search_by(|entry| entry[..KEY_LEN].cmp(key)).ok()?;
        self.recent.get(at)
    }

    /// At most `n` entries behind `after`, in the order of their keys.
    pub(super) fn page(&self, after: Option<[u8; KEY_LEN]>, n: usize) -> Result<Vec<(Key, Location)>, StoreError> {
        let is_before = |entry: &Entry| after.is_some_and(|after| entry[..KEY_LEN] <= after[..]);
        let recent = &self.recent[self.recent.partition_point(is_before)..];
        let old = guarded(INDEX, || {
            let from = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let entries = self.chunks.range::<&[u8; KEY_LEN]>((from, Bound::Unbounded)).map_err(failed)?;
            let entries = entries.take(n).map(|row| {
                let (key, value) = row.map_err(failed)?;
                let mut entry = [0; ENTRY_LEN];
                entry[..KEY_LEN].copy_from_slice(key.value());
                entry[KEY_LEN..].copy_from_slice(value.value());
                Ok(entry)
            });
            entries.collect::<Result<Vec<Entry>, StoreError>>()
        })?;
        let page = merged(&old, &recent[..recent.len().min(n)]).take(n).map(|entry| {
            let (key, value) = parts(entry);
            location(value).map(|location| (Key::from_bytes(*key), location))
        });
        page.collect()
    }

    /// Shows all entries, in no order.
    pub(super) fn each(&self, show: &mut dyn FnMut(Key, Location)) -> Result<(), StoreError> {
        for entry in self.recent.iter() {
            let (key, value) = parts(entry);
            show(Key::from_bytes(*key), location(value)?);
        }
        guarded(INDEX, || {
            for entry in self.chunks.iter().map_err(failed)? {
                let (key, value) = entry.map_err(failed)?;
                if self.recent(key.value()).is_none() {
                    show(Key::from_bytes(*key.value()), location(value.value())?);
                }
            }
            Ok(())
        })
    }
}

/// The tables of a new index.
fn make(txn: &WriteTransaction, id: [u8; 16], keyring: Option<&Keyring>, sealed_from: u64) -> Result<(), StoreError> {
    txn.open_table(STORE_ID).map_err(failed)?.insert("id", &id).map_err(failed)?;
    txn.open_table(RECENT).map_err(failed)?;
    txn.open_table(CHUNKS).map_err(failed)?;
    let mut state = txn.open_table(STATE).map_err(failed)?;
    let Some(keyring) = keyring else {
        return state.insert("version", PLAIN).map_err(failed).map(drop);
    };
    state.insert("version", SEALED).map_err(failed)?;
    state.insert("sealed_from", sealed_from).map_err(failed)?;
    record_checks(txn, INDEX, keyring)
}

/// See the module.
pub(super) struct Index {
    store: Store,
    max_recent: usize,
    /// What the table `recent` holds.
    recent: Mutex<Arc<Vec<Entry>>>,
    is_sealed: bool,
}

impl Index {
    /// Opens the index; if there is none, it is made for the store `new`. `max_recent` entries wait for their places.
    /// `next` is a number that no segment has, from which on all are sealed when the store becomes a sealed one, and
    /// `plain_below` the same for one whose index is made again.
    pub(super) fn open(
        disk: &dyn Disk,
        cache_bytes: usize,
        new: [u8; 16],
        max_recent: usize,
        keyring: Option<&Keyring>,
        (next, plain_below): (u64, u64),
    ) -> Result<Self, StoreError> {
        let store = Store::open(disk, INDEX, cache_bytes, |txn| make(txn, new, keyring, plain_below))?;
        let version = version(&store)?;
        let is_sealed = version == SEALED;
        let Some(keyring) = keyring else {
            if is_sealed {
                return Err(crypto::refused(format!(
                    "{INDEX} can be opened with its keys only; set `crypto.enabled = true`. Encryption is not turned \
                     off again: for a plain node make a new one and fetch or restore its data there"
                )));
            }
            return Self::over(store, max_recent, false);
        };
        if !is_sealed {
            return Self::over(store, max_recent, false)?.reseal(disk, cache_bytes, keyring, next);
        }
        if check_keys(&store, INDEX, keyring)? {
            store.write(|txn| record_checks(txn, INDEX, keyring))?;
        }
        Self::over(store, max_recent, true)
    }

    fn over(store: Store, max_recent: usize, is_sealed: bool) -> Result<Self, StoreError> {
        let read = store.read()?;
        let recent = guarded(INDEX, || load(&read))?;
        drop(read);
        Ok(Self { store, max_recent, recent: Mutex::new(Arc::new(recent)), is_sealed })
    }

    /// Makes an index with the keys of a sealed store, and puts it in the place of this one.
    fn reseal(self, disk: &dyn Disk, cache_bytes: usize, keyring: &Keyring, next: u64) -> Result<Self, StoreError> {
        let (id, state) = self.state()?;
        log::info!(chunks = state.n_chunks; "the chunk store is encrypted: what it has will be written again");
        let old = self.snapshot()?;
        let sealed_from = next.max(state.tail.map_or(0, |(number, _)| number + 1));
        let state = State { sealed_from, ..state };
        let store = Store::make_in_steps(disk, INDEX, cache_bytes, |store| {
            store.write(|txn| make(txn, id, Some(keyring), sealed_from))?;
            // Keys are spread evenly, so that each part of their range has about as many entries.
            let n_steps = state.n_chunks * 4 / (STEP_LEN * 3) + 1;
            for step in 0..n_steps {
                let mut entries = Vec::new();
                old.each(&mut |key, location| {
                    let key = Key::from_bytes(keyring.chunk_key(&key.plain_id()));
                    let place = u32::from_be_bytes(*key.as_bytes().first_chunk().expect("a key is longer"));
                    if (u64::from(place) * n_steps) >> 32 == step {
                        entries.push(entry(&key, &location));
                    }
                })?;
                // In their order they fill one page after the other.
                entries.sort_unstable_by(by_key);
                store.write(|txn| {
                    guarded(INDEX, || {
                        put_entries(txn, entries.iter())?;
                        put_state(txn, &state, SEALED)
                    })
                })?;
            }
            let damaged = self.damaged()?;
            let damaged = damaged.iter().map(|key| Key::from_bytes(keyring.chunk_key(&key.plain_id()))).collect();
            store.write(|txn| {
                guarded(INDEX, || {
                    put_damaged(txn, &damaged)?;
                    put_segments(txn, &BTreeMap::new(), &self.segments()?)
                })
            })
        })?;
        Self::over(store, self.max_recent, true)
    }

    /// The id of the store and its state.
    pub(super) fn state(&self) -> Result<([u8; 16], State), StoreError> {
        let read = self.store.read()?;
        guarded(INDEX, || {
            let state = read.open_table(STATE).map_err(failed)?;
            let figure = |key: &str| state.get(key).map(|value| value.map(|value| value.value())).map_err(failed);
            let id = read.open_table(STORE_ID).map_err(failed)?.get("id").map_err(failed)?.map(|id| *id.value());
            let id = id.ok_or_else(|| StoreError::Corrupt(format!("{INDEX} names no store")))?;
            let state = State {
                tail: figure("tail_segment")?.zip(figure("tail_len")?),
                n_chunks: match figure("n_chunks")? {
                    Some(n_chunks) => n_chunks,
                    // Version 1 counted its entries.
                    None => read.open_table(CHUNKS).map_err(failed)?.len().map_err(failed)?,
                },
                stored_bytes: figure("stored_bytes")?.unwrap_or_default(),
                raw_bytes: figure("raw_bytes")?.unwrap_or_default(),
                referenced_bytes: figure("referenced_bytes")?.unwrap_or_default(),
                sealed_from: figure("sealed_from")?.unwrap_or_default(),
                dead_bytes: figure("dead_bytes")?.unwrap_or_default(),
            };
            Ok((id, state))
        })
    }

    pub(super) fn snapshot(&self) -> Result<Snapshot, StoreError> {
        // Held until the view of the database is taken: entries that go to their places in between are in both.
        let recent = lock(&self.recent);
        let read = self.store.read()?;
        let chunks = guarded(INDEX, || read.open_table(CHUNKS).map_err(failed))?;
        Ok(Snapshot { recent: recent.clone(), chunks })
    }

    /// Adds entries, removes others and sets all else, durably. `damaged` are all chunks that are.
    pub(super) fn commit<'a>(
        &self,
        entries: impl Iterator<Item = (&'a Key, &'a Location)>,
        removed: &[Key],
        damaged: &BTreeSet<Key>,
        state: &State,
    ) -> Result<(), StoreError> {
        let mut new: Vec<Entry> = entries.map(|(key, location)| entry(key, location)).collect();
        new.sort_unstable_by(by_key);
        let old = lock(&self.recent).clone();
        let settle = old.len() + new.len() > self.max_recent || !removed.is_empty();
        self.store.write(|txn| {
            guarded(INDEX, || {
                if settle {
                    put_entries(txn, merged(&old, &new))?;
                    remove_entries(txn, removed)?;
                    txn.delete_table(RECENT).map_err(failed)?;
                } else {
                    append(txn, &new)?;
                }
                put_damaged(txn, damaged)?;
                put_state(txn, state, self.version())
            })
        })?;
        let now = if settle { Vec::new() } else { merged(&old, &new).copied().collect() };
        *lock(&self.recent) = Arc::new(now);
        Ok(())
    }

    const fn version(&self) -> u64 {
        if self.is_sealed { SEALED } else { PLAIN }
    }

    /// When each segment was first known.
    pub(super) fn segments(&self) -> Result<BTreeMap<u64, Timestamp>, StoreError> {
        let read = self.store.read()?;
        guarded(INDEX, || {
            let table = match read.open_table(SEGMENTS) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(BTreeMap::new()),
                table => table.map_err(failed)?,
            };
            let rows = table.iter().map_err(failed)?.map(|row| {
                let (number, since) = row.map_err(failed)?;
                Ok((number.value(), Timestamp(since.value())))
            });
            rows.collect()
        })
    }

    /// Changes what is known of segments into `now`.
    pub(super) fn set_segments(
        &self,
        known: &BTreeMap<u64, Timestamp>,
        now: &BTreeMap<u64, Timestamp>,
    ) -> Result<(), StoreError> {
        self.store.write(|txn| guarded(INDEX, || put_segments(txn, known, now)))
    }

    /// Chunks that are known to be damaged.
    pub(super) fn damaged(&self) -> Result<BTreeSet<Key>, StoreError> {
        let read = self.store.read()?;
        guarded(INDEX, || {
            let table = match read.open_table(DAMAGED) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(BTreeSet::new()),
                table => table.map_err(failed)?,
            };
            let rows = table.iter().map_err(failed)?;
            rows.map(|row| Ok(Key::from_bytes(*row.map_err(failed)?.0.value()))).collect()
        })
    }

    /// Bytes that the file takes.
    pub(super) fn allocated(&self) -> Result<u64, StoreError> {
        self.store.allocated()
    }

    /// Makes an index of what `fill` puts into it, and puts it in the place of the one that has the name.
    pub(super) fn make_anew(
        disk: &dyn Disk,
        cache_bytes: usize,
        id: [u8; 16],
        max_recent: usize,
        (keyring, sealed_from): (Option<&Keyring>, u64),
        fill: impl FnOnce(&NewIndex<'_>) -> Result<(), StoreError>,
    ) -> Result<Self, StoreError> {
        let is_sealed = keyring.is_some();
        let store = Store::make_in_steps(disk, INDEX, cache_bytes, |store| {
            store.write(|txn| make(txn, id, keyring, sealed_from))?;
            fill(&NewIndex { store, version: if is_sealed { SEALED } else { PLAIN } })
        })?;
        Self::over(store, max_recent, is_sealed)
    }

    /// Whether an earlier failure ended writing until the next start.
    pub(super) fn is_read_only(&self) -> bool {
        self.store.is_read_only()
    }
}

/// An index in the making.
pub(super) struct NewIndex<'a> {
    store: &'a Store,
    version: u64,
}

impl NewIndex<'_> {
    /// Adds entries in the order in which their records were written; `gone` is shown the places that do not count: of two
    /// with one key the older one, or the one that is a reference.
    pub(super) fn add(
        &self,
        entries: &BTreeMap<Key, Location>,
        gone: &mut dyn FnMut(&Location),
    ) -> Result<(), StoreError> {
        self.store.write(|txn| {
            guarded(INDEX, || {
                let mut chunks = txn.open_table(CHUNKS).map_err(failed)?;
                for (key, new) in entries {
                    let old =
                        chunks.get(key.as_bytes()).map_err(failed)?.map(|old| location(old.value())).transpose()?;
                    match old {
                        Some(old) if new.is_reference() && !old.is_reference() => {
                            gone(new);
                            continue;
                        }
                        Some(old) => gone(&old),
                        None => {}
                    }
                    chunks.insert(key.as_bytes(), &new.encode()).map_err(failed)?;
                }
                Ok(())
            })
        })
    }

    /// How many of these keys have an entry.
    pub(super) fn count(&self, keys: impl Iterator<Item = Key>) -> Result<u64, StoreError> {
        let read = self.store.read()?;
        guarded(INDEX, || {
            let chunks = read.open_table(CHUNKS).map_err(failed)?;
            let mut n = 0;
            for key in keys {
                n += u64::from(chunks.get(key.as_bytes()).map_err(failed)?.is_some());
            }
            Ok(n)
        })
    }

    /// Sets all but the entries; of `damaged`, those that have one.
    pub(super) fn end(
        &self,
        segments: &BTreeMap<u64, Timestamp>,
        damaged: &BTreeSet<Key>,
        state: &State,
    ) -> Result<(), StoreError> {
        let mut there = BTreeSet::new();
        for key in damaged {
            if self.count(std::iter::once(*key))? > 0 {
                there.insert(*key);
            }
        }
        self.store.write(|txn| {
            guarded(INDEX, || {
                put_segments(txn, &BTreeMap::new(), segments)?;
                put_damaged(txn, &there)?;
                put_state(txn, state, self.version)
            })
        })
    }
}

/// The version, if this program knows it.
fn version(store: &Store) -> Result<u64, StoreError> {
    let read = store.read()?;
    guarded(INDEX, || {
        let state = match read.open_table(STATE) {
            Err(TableError::TableDoesNotExist(_)) => {
                return Err(StoreError::Corrupt(format!("{INDEX} is a database of something else")));
            }
            state => state.map_err(failed)?,
        };
        let version = state.get("version").map_err(failed)?.map(|version| version.value()).unwrap_or_default();
        if (1..=SEALED).contains(&version) {
            return Ok(version);
        }
        Err(StoreError::Unsupported(format!(
            "{INDEX} has version {version}, this program knows {SEALED}; use the newer program"
        )))
    })
}

/// Puts entries in their places.
fn put_entries<'a>(txn: &WriteTransaction, entries: impl Iterator<Item = &'a Entry>) -> Result<(), StoreError> {
    let mut chunks = txn.open_table(CHUNKS).map_err(failed)?;
    for entry in entries {
        let (key, value) = parts(entry);
        chunks.insert(key, value).map_err(failed)?;
    }
    Ok(())
}

/// Removes entries from their places.
fn remove_entries(txn: &WriteTransaction, keys: &[Key]) -> Result<(), StoreError> {
    let mut chunks = txn.open_table(CHUNKS).map_err(failed)?;
    for key in keys {
        chunks.remove(key.as_bytes()).map_err(failed)?;
    }
    Ok(())
}

/// Makes the table the set that is given; most often both are empty.
fn put_damaged(txn: &WriteTransaction, damaged: &BTreeSet<Key>) -> Result<(), StoreError> {
    let mut table = txn.open_table(DAMAGED).map_err(failed)?;
    if damaged.is_empty() && table.is_empty().map_err(failed)? {
        return Ok(());
    }
    table.retain(|key, ()| damaged.contains(&Key::from_bytes(*key))).map_err(failed)?;
    for key in damaged {
        if table.get(key.as_bytes()).map_err(failed)?.is_none() {
            table.insert(key.as_bytes(), ()).map_err(failed)?;
        }
    }
    Ok(())
}

/// Changes what is known of segments from `known` into `now`.
fn put_segments(
    txn: &WriteTransaction,
    known: &BTreeMap<u64, Timestamp>,
    now: &BTreeMap<u64, Timestamp>,
) -> Result<(), StoreError> {
    let mut table = txn.open_table(SEGMENTS).map_err(failed)?;
    for number in known.keys().filter(|number| !now.contains_key(number)) {
        table.remove(number).map_err(failed)?;
    }
    for (number, since) in now.iter().filter(|(number, since)| known.get(number) != Some(since)) {
        table.insert(number, since.0).map_err(failed)?;
    }
    Ok(())
}

/// Sets what the index says beside its entries.
fn put_state(txn: &WriteTransaction, state: &State, version: u64) -> Result<(), StoreError> {
    let mut figures = txn.open_table(STATE).map_err(failed)?;
    let [segment, len] = state.tail.map_or([None, None], |(segment, len)| [Some(segment), Some(len)]);
    for (key, value) in [
        ("version", Some(version)),
        ("n_chunks", Some(state.n_chunks)),
        ("tail_segment", segment),
        ("tail_len", len),
        ("stored_bytes", Some(state.stored_bytes)),
        ("raw_bytes", Some(state.raw_bytes)),
        ("referenced_bytes", Some(state.referenced_bytes)),
        ("sealed_from", (version == SEALED).then_some(state.sealed_from)),
        ("dead_bytes", Some(state.dead_bytes)),
    ] {
        if let Some(value) = value {
            figures.insert(key, value).map_err(failed)?;
        }
    }
    Ok(())
}

/// Adds entries behind those that wait for their places.
fn append(txn: &WriteTransaction, new: &[Entry]) -> Result<(), StoreError> {
    let mut recent = txn.open_table(RECENT).map_err(failed)?;
    let last = recent.last().map_err(failed)?.map(|(number, _)| number.value());
    let first = last.map_or(0, |last| last + 1);
    for (number, pack) in (first..).zip(new.chunks(PACK)) {
        recent.insert(number, pack.as_flattened()).map_err(failed)?;
    }
    Ok(())
}
