//! The catalog in redb: one redb table per table of the port.
//!
//! Invariant: the file `catalog.redb` holds a format version and all tables from its first commit on; a newer version
//! is refused before an entry is read or written.
//!
//! Deliberately absent: any knowledge of keys and values.

use std::cell::OnceCell;
use std::ops::Bound;

use bib_core::port::{Catalog, CatalogRead, CatalogTxn, KeyRange, Order, StoreError, TABLES, Table, Visit};
use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction};

use crate::database::{Store, guarded, redb_error};
use crate::disk::Disk;

/// Name of the file in the folder.
const NAME: &str = "catalog.redb";
/// Version of the format.
const VERSION: u64 = 1;
const FORMAT: TableDefinition<'_, &str, u64> = TableDefinition::new("format");

#[cfg(test)]
mod tests;

type Bytes = &'static [u8];

/// The catalog in a file `catalog.redb`. See the module.
pub struct RedbCatalog {
    store: Store,
}

impl std::fmt::Debug for RedbCatalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedbCatalog").finish_non_exhaustive()
    }
}

fn definition(index: usize) -> TableDefinition<'static, Bytes, Bytes> {
    TableDefinition::new(TABLES[index].1)
}

fn index(table: Table) -> Result<usize, StoreError> {
    let known = TABLES.iter().position(|(known, _)| *known == table);
    known.ok_or_else(|| StoreError::Unsupported(format!("catalog table {table:?}")))
}

fn failed(error: impl Into<redb::Error>) -> StoreError {
    redb_error(NAME, error)
}

fn make_tables(txn: &WriteTransaction) -> Result<(), StoreError> {
    txn.open_table(FORMAT).map_err(failed)?.insert("version", VERSION).map_err(failed)?;
    for index in 0..TABLES.len() {
        txn.open_table(definition(index)).map_err(failed)?;
    }
    Ok(())
}

/// The version in the file, and whether it has all tables.
fn format_of(store: &Store) -> Result<(u64, bool), StoreError> {
    let read = store.read()?;
    guarded(NAME, || {
        let format = match read.open_table(FORMAT) {
            Err(redb::TableError::TableDoesNotExist(_)) => {
                return Err(StoreError::Corrupt(format!("{NAME} is a database of something else")));
            }
            format => format.map_err(failed)?,
        };
        let version = format.get("version").map_err(failed)?.map_or(0, |version| version.value());
        Ok((version, read.list_tables().map_err(failed)?.count() > TABLES.len()))
    })
}

impl RedbCatalog {
    /// Opens the catalog in a folder, or makes it there. `cache_bytes` bounds the memory that redb keeps pages in;
    /// 1 to 4 MiB are enough for a board.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another handle has it, [`StoreError::Unsupported`] when a newer program wrote it,
    /// [`StoreError::Corrupt`] when it is none or damaged, [`StoreError::Full`] or [`StoreError::Io`] when it cannot be
    /// read or made.
    pub fn open(disk: &dyn Disk, cache_bytes: usize) -> Result<Self, StoreError> {
        Self::open_file(disk, cache_bytes).map_err(|error| match error {
            StoreError::Corrupt(why) => StoreError::Corrupt(format!(
                "{why}; move {NAME} out of the data directory and put a copy from a backup in its place, or start \
                 without one and join your topics again"
            )),
            StoreError::Locked(name) => StoreError::Locked(format!("{name}; stop the node that has it open")),
            error => error,
        })
    }

    fn open_file(disk: &dyn Disk, cache_bytes: usize) -> Result<Self, StoreError> {
        let store = Store::open(disk, NAME, cache_bytes, make_tables)?;
        let (version, complete) = format_of(&store)?;
        if version > VERSION {
            return Err(StoreError::Unsupported(format!(
                "{NAME} has version {version}, this program knows {VERSION}; use the newer program"
            )));
        }
        if !complete {
            store.write(make_tables)?;
        }
        Ok(Self { store })
    }
}

/// One table that is opened when it is first asked for.
type Lazy<T> = [OnceCell<T>; TABLES.len()];

fn lazy<T>() -> Lazy<T> {
    std::array::from_fn(|_| OnceCell::new())
}

fn opened<T>(
    tables: &Lazy<T>,
    table: Table,
    open: impl FnOnce(usize) -> Result<T, redb::TableError>,
) -> Result<&T, StoreError> {
    let index = index(table)?;
    if let Some(table) = tables[index].get() {
        return Ok(table);
    }
    let table = guarded(NAME, || open(index).map_err(failed))?;
    Ok(tables[index].get_or_init(|| table))
}

fn get(table: &impl ReadableTable<Bytes, Bytes>, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    guarded(NAME, || Ok(table.get(key).map_err(failed)?.map(|value| value.value().to_vec())))
}

/// Whether no key is in a range, so that all stores agree on what an inverted one means.
fn is_empty((low, high): &KeyRange<'_>) -> bool {
    match (low, high) {
        (Bound::Included(low), Bound::Included(high)) => low > high,
        (Bound::Included(low) | Bound::Excluded(low), Bound::Included(high) | Bound::Excluded(high)) => low >= high,
        _ => false,
    }
}

fn scan(
    table: &impl ReadableTable<Bytes, Bytes>,
    range: KeyRange<'_>,
    order: Order,
    visit: &mut Visit<'_>,
) -> Result<(), StoreError> {
    if is_empty(&range) {
        return Ok(());
    }
    let mut entries = guarded(NAME, || table.range::<&[u8]>(range).map_err(failed))?;
    loop {
        // Only the step is guarded: a panic of the visitor is its own.
        let entry = guarded(NAME, || {
            let entry = match order {
                Order::Ascending => entries.next(),
                Order::Descending => entries.next_back(),
            };
            entry.transpose().map_err(failed)
        })?;
        let Some((key, value)) = entry else { return Ok(()) };
        if visit(key.value(), value.value()).is_break() {
            return Ok(());
        }
    }
}

fn len(table: &impl ReadableTableMetadata) -> Result<u64, StoreError> {
    guarded(NAME, || table.len().map_err(failed))
}

struct Snapshot {
    tables: Lazy<ReadOnlyTable<Bytes, Bytes>>,
    txn: ReadTransaction,
}

impl Snapshot {
    fn table(&self, table: Table) -> Result<&ReadOnlyTable<Bytes, Bytes>, StoreError> {
        opened(&self.tables, table, |index| self.txn.open_table(definition(index)))
    }
}

impl CatalogRead for Snapshot {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        get(self.table(table)?, key)
    }

    fn scan(&self, table: Table, range: KeyRange<'_>, order: Order, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        scan(self.table(table)?, range, order, visit)
    }

    fn len(&self, table: Table) -> Result<u64, StoreError> {
        len(self.table(table)?)
    }
}

struct Change<'txn> {
    tables: Lazy<redb::Table<'txn, Bytes, Bytes>>,
    txn: &'txn WriteTransaction,
}

impl<'txn> Change<'txn> {
    fn table(&self, table: Table) -> Result<&redb::Table<'txn, Bytes, Bytes>, StoreError> {
        opened(&self.tables, table, |index| self.txn.open_table(definition(index)))
    }

    fn table_mut(&mut self, table: Table) -> Result<&mut redb::Table<'txn, Bytes, Bytes>, StoreError> {
        self.table(table)?;
        Ok(self.tables[index(table)?].get_mut().expect("opened by the line before"))
    }
}

impl CatalogRead for Change<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        get(self.table(table)?, key)
    }

    fn scan(&self, table: Table, range: KeyRange<'_>, order: Order, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        scan(self.table(table)?, range, order, visit)
    }

    fn len(&self, table: Table) -> Result<u64, StoreError> {
        len(self.table(table)?)
    }
}

impl CatalogTxn for Change<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let table = self.table_mut(table)?;
        guarded(NAME, || table.insert(key, value).map(drop).map_err(failed))
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        let table = self.table_mut(table)?;
        guarded(NAME, || table.remove(key).map(drop).map_err(failed))
    }
}

impl Catalog for RedbCatalog {
    fn begin_read(&self) -> Result<Box<dyn CatalogRead + '_>, StoreError> {
        Ok(Box::new(Snapshot { tables: lazy(), txn: self.store.read()? }))
    }

    fn write(&self, work: &mut dyn FnMut(&mut dyn CatalogTxn) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.store.write(|txn| work(&mut Change { tables: lazy(), txn }))
    }
}
