//! The index of the chunk store: where each durable chunk lies, and up to where the segments are indexed.
//!
//! Invariant: entries, tail and figures change in one commit, so that they always belong together.
//!
//! Deliberately absent: knowledge of segment files.

use bib_core::id::ChunkId;
use bib_core::port::StoreError;
use redb::{ReadOnlyTable, ReadableTableMetadata, TableDefinition, TableError};

use super::format::{LOCATION_LEN, Location};
use crate::database::{Store, guarded, redb_error};
use crate::disk::Disk;

/// Name of the index in the folder.
pub(super) const INDEX: &str = "index.redb";

/// Version of the index format.
const VERSION: u64 = 1;
const CHUNKS: TableDefinition<'_, &[u8; 32], &[u8; LOCATION_LEN]> = TableDefinition::new("chunks");
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

/// A view of the durable chunks. Holding one keeps the file from reusing the pages it shows.
pub(super) struct Snapshot(ReadOnlyTable<&'static [u8; 32], &'static [u8; LOCATION_LEN]>);

impl Snapshot {
    pub(super) fn get(&self, id: &ChunkId) -> Result<Option<Location>, StoreError> {
        guarded(INDEX, || match self.0.get(id.as_bytes()).map_err(failed)? {
            None => Ok(None),
            Some(value) => Location::decode(value.value())
                .map(Some)
                .ok_or_else(|| StoreError::Corrupt(format!("{INDEX}: the entry of chunk {id} has no meaning"))),
        })
    }
}

/// See the module.
pub(super) struct Index {
    store: Store,
}

impl Index {
    /// Opens the index; if there is none, it is made for the store `new`.
    pub(super) fn open(disk: &dyn Disk, cache_bytes: usize, new: [u8; 16]) -> Result<Self, StoreError> {
        let store = Store::open(disk, INDEX, cache_bytes, |txn| {
            txn.open_table(STORE_ID).map_err(failed)?.insert("id", &new).map_err(failed)?;
            txn.open_table(STATE).map_err(failed)?.insert("version", VERSION).map_err(failed)?;
            txn.open_table(CHUNKS).map_err(failed).map(drop)
        })?;
        Ok(Self { store })
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
            if version != VERSION {
                return Err(StoreError::Unsupported(format!(
                    "{INDEX} has version {version}, this program knows {VERSION}; use the newer program"
                )));
            }
            let id = read.open_table(STORE_ID).map_err(failed)?.get("id").map_err(failed)?.map(|id| *id.value());
            let id = id.ok_or_else(|| StoreError::Corrupt(format!("{INDEX} names no store")))?;
            let state = State {
                tail: figure("tail_segment")?.zip(figure("tail_len")?),
                n_chunks: read.open_table(CHUNKS).map_err(failed)?.len().map_err(failed)?,
                stored_bytes: figure("stored_bytes")?.unwrap_or_default(),
                raw_bytes: figure("raw_bytes")?.unwrap_or_default(),
                referenced_bytes: figure("referenced_bytes")?.unwrap_or_default(),
            };
            Ok((id, state))
        })
    }

    pub(super) fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let read = self.store.read()?;
        guarded(INDEX, || read.open_table(CHUNKS).map(Snapshot).map_err(failed))
    }

    /// Adds entries and sets the state, durably. The number of chunks follows from the entries.
    pub(super) fn commit<'a>(
        &self,
        entries: impl Iterator<Item = (&'a ChunkId, &'a Location)>,
        state: &State,
    ) -> Result<(), StoreError> {
        self.store.write(|txn| {
            guarded(INDEX, || {
                let mut table = txn.open_table(CHUNKS).map_err(failed)?;
                for (id, location) in entries {
                    table.insert(id.as_bytes(), &location.encode()).map_err(failed)?;
                }
                let mut figures = txn.open_table(STATE).map_err(failed)?;
                let tail = state.tail.map_or([None, None], |(segment, len)| [Some(segment), Some(len)]);
                let [segment, len] = tail;
                for (key, value) in [
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
        })
    }

    /// Whether an earlier failure ended writing until the next start.
    pub(super) fn is_read_only(&self) -> bool {
        self.store.is_read_only()
    }
}
