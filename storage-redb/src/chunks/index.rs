//! The index of the chunk store: where each durable chunk lies, and up to where the segments are indexed.
//!
//! Ids are random, so that each new entry falls on a page of its own, and that page is written anew with all pages above
//! it: with a million chunks that would be 5 KiB an entry. New entries are therefore appended to the table `recent`, some
//! 60 bytes each, are held in memory, and go to their places in `chunks` all together, when there are
//! [`MAX_RECENT_ENTRIES`](bib_core::limits::MAX_RECENT_ENTRIES) of them.
//!
//! Invariant: entries, tail and figures change in one commit, so that they always belong together. An entry in `recent`
//! counts before the one with the same key in `chunks`; whoever removes entries or walks over them settles them first.
//!
//! Deliberately absent: knowledge of segment files.

use std::cmp::Ordering;
use std::sync::{Arc, Mutex};

use bib_core::id::ChunkId;
use bib_core::port::StoreError;
use redb::{
    ReadOnlyTable, ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition, TableError, WriteTransaction,
};

use super::format::{LOCATION_LEN, Location};
use crate::database::{Store, guarded, lock, redb_error};
use crate::disk::Disk;

/// Name of the index in the folder.
pub(super) const INDEX: &str = "index.redb";

/// Version of the index format. Version 1 had no table `recent` and is otherwise the same.
const VERSION: u64 = 2;
/// Entries in one value of `recent`: they fit one page of the database.
const PACK: usize = 64;
const KEY_LEN: usize = 32;
const ENTRY_LEN: usize = KEY_LEN + LOCATION_LEN;
const CHUNKS: TableDefinition<'_, &[u8; 32], &[u8; LOCATION_LEN]> = TableDefinition::new("chunks");
const RECENT: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("recent");
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
}

fn failed(error: impl Into<redb::Error>) -> StoreError {
    redb_error(INDEX, error)
}

/// An entry as it is written, key first.
type Entry = [u8; ENTRY_LEN];

fn entry(id: &ChunkId, location: &Location) -> Entry {
    let mut entry = [0; ENTRY_LEN];
    entry[..KEY_LEN].copy_from_slice(id.as_bytes());
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

impl Snapshot {
    pub(super) fn get(&self, id: &ChunkId) -> Result<Option<Location>, StoreError> {
        let decoded = |value: &[u8]| {
            Location::decode(value)
                .map(Some)
                .ok_or_else(|| StoreError::Corrupt(format!("{INDEX}: the entry of chunk {id} has no meaning")))
        };
        if let Ok(at) = self.recent.binary_search_by(|entry| entry[..KEY_LEN].cmp(id.as_bytes())) {
            return decoded(parts(&self.recent[at]).1);
        }
        guarded(INDEX, || match self.chunks.get(id.as_bytes()).map_err(failed)? {
            None => Ok(None),
            Some(value) => decoded(value.value()),
        })
    }
}

/// See the module.
pub(super) struct Index {
    store: Store,
    max_recent: usize,
    /// What the table `recent` holds.
    recent: Mutex<Arc<Vec<Entry>>>,
}

impl Index {
    /// Opens the index; if there is none, it is made for the store `new`. `max_recent` entries wait for their places.
    pub(super) fn open(
        disk: &dyn Disk,
        cache_bytes: usize,
        new: [u8; 16],
        max_recent: usize,
    ) -> Result<Self, StoreError> {
        let store = Store::open(disk, INDEX, cache_bytes, |txn| {
            txn.open_table(STORE_ID).map_err(failed)?.insert("id", &new).map_err(failed)?;
            txn.open_table(STATE).map_err(failed)?.insert("version", VERSION).map_err(failed)?;
            txn.open_table(RECENT).map_err(failed)?;
            txn.open_table(CHUNKS).map_err(failed).map(drop)
        })?;
        let read = store.read()?;
        let recent = guarded(INDEX, || load(&read))?;
        drop(read);
        Ok(Self { store, max_recent, recent: Mutex::new(Arc::new(recent)) })
    }

    /// The id of the store and its state.
    pub(super) fn state(&self) -> Result<([u8; 16], State), StoreError> {
        let read = self.store.read()?;
        guarded(INDEX, || {
            let state = match read.open_table(STATE) {
                Err(TableError::TableDoesNotExist(_)) => {
                    return Err(StoreError::Corrupt(format!("{INDEX} is a database of something else")));
                }
                state => state.map_err(failed)?,
            };
            let figure = |key: &str| state.get(key).map(|value| value.map(|value| value.value())).map_err(failed);
            let version = figure("version")?.unwrap_or_default();
            if !(1..=VERSION).contains(&version) {
                return Err(StoreError::Unsupported(format!(
                    "{INDEX} has version {version}, this program knows {VERSION}; use the newer program"
                )));
            }
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

    /// Adds entries and sets the state, durably.
    pub(super) fn commit<'a>(
        &self,
        entries: impl Iterator<Item = (&'a ChunkId, &'a Location)>,
        state: &State,
    ) -> Result<(), StoreError> {
        let mut new: Vec<Entry> = entries.map(|(id, location)| entry(id, location)).collect();
        new.sort_unstable_by(by_key);
        let old = lock(&self.recent).clone();
        let settle = old.len() + new.len() > self.max_recent;
        self.store.write(|txn| {
            guarded(INDEX, || {
                if settle {
                    let mut chunks = txn.open_table(CHUNKS).map_err(failed)?;
                    for entry in merged(&old, &new) {
                        let (key, value) = parts(entry);
                        chunks.insert(key, value).map_err(failed)?;
                    }
                    txn.delete_table(RECENT).map_err(failed)?;
                } else {
                    append(txn, &new)?;
                }
                let mut figures = txn.open_table(STATE).map_err(failed)?;
                let tail = state.tail.map_or([None, None], |(segment, len)| [Some(segment), Some(len)]);
                let [segment, len] = tail;
                for (key, value) in [
                    ("version", Some(VERSION)),
                    ("n_chunks", Some(state.n_chunks)),
                    ("tail_segment", segment),
                    ("tail_len", len),
                    ("stored_bytes", Some(state.stored_bytes)),
                    ("raw_bytes", Some(state.raw_bytes)),
                    ("referenced_bytes", Some(state.referenced_bytes)),
                ] {
                    if let Some(value) = value {
                        figures.insert(key, value).map_err(failed)?;
                    }
                }
                Ok(())
            })
        })?;
        let now = if settle { Vec::new() } else { merged(&old, &new).copied().collect() };
        *lock(&self.recent) = Arc::new(now);
        Ok(())
    }

    /// Whether an earlier failure ended writing until the next start.
    pub(super) fn is_read_only(&self) -> bool {
        self.store.is_read_only()
    }
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
