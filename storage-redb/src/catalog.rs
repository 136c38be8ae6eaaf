//! The catalog in redb: one redb table per table of the port.
//!
//! Invariant: the file `catalog.redb` holds a format version and all tables from its first commit on; a newer version
//! is refused before an entry is read or written. With a [`Keyring`] the catalog is sealed, all of it: one that was
//! plain is made anew beside the old one, and takes its name when it is whole. Keys that are not those that it was
//! sealed with are refused before anything is changed.
//!
//! Deliberately absent: any knowledge of keys and values; turning encryption off.

use std::cell::OnceCell;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bib_core::port::{Catalog, CatalogRead, CatalogTxn, KeyRange, Order, StoreError, TABLES, Table, Visit};
use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction};

use crate::crypto::{self, Keyring, check_keys, record_checks};
use crate::database::{Store, guarded, redb_error};
use crate::disk::Disk;
use sealed::Sealing;

/// Name of the file in the folder.
const NAME: &str = "catalog.redb";
/// Version of the format: 1 of a plain catalog, 2 of a sealed one.
const VERSION: u64 = 2;
const PLAIN: u64 = 1;
const FORMAT: TableDefinition<'_, &str, u64> = TableDefinition::new("format");

/// Bytes of entries that are sealed in one commit while a plain catalog becomes a sealed one.
const STEP_BYTES: usize = 1 << 20;

mod sealed;
#[cfg(test)]
mod sealed_tests;
#[cfg(test)]
mod tests;

type Bytes = &'static [u8];

/// The catalog in a file `catalog.redb`. See the module.
pub struct RedbCatalog {
    store: Store,
    keyring: Option<Arc<Keyring>>,
    /// The newest data key whose check value is in the file.
    noted: AtomicU32,
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

fn make_tables(txn: &WriteTransaction, keyring: Option<&Keyring>) -> Result<(), StoreError> {
    let version = if keyring.is_some() { VERSION } else { PLAIN };
    txn.open_table(FORMAT).map_err(failed)?.insert("version", version).map_err(failed)?;
    for index in 0..TABLES.len() {
        txn.open_table(definition(index)).map_err(failed)?;
    }
    keyring.map_or(Ok(()), |keyring| record_checks(txn, NAME, keyring))
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
        let expected = TABLES.len() + usize::from(version > PLAIN);
        Ok((version, read.list_tables().map_err(failed)?.count() > expected))
    })
}

impl RedbCatalog {
    /// Opens the catalog in a folder, or makes it there, plain. `cache_bytes` bounds the memory that redb keeps pages
    /// in; 1 to 4 MiB are enough for a board.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another handle has it, [`StoreError::Unsupported`] when a newer program wrote it,
    /// [`StoreError::Sealed`] when it is encrypted, [`StoreError::Corrupt`] when it is none or damaged,
    /// [`StoreError::Full`] or [`StoreError::Io`] when it cannot be read or made.
    pub fn open(disk: &dyn Disk, cache_bytes: usize) -> Result<Self, StoreError> {
        Self::open_with(disk, cache_bytes, None)
    }

    /// The same, sealed where there is a keyring. A plain catalog is sealed first, for which there must be as much space
    /// as it takes; killed meanwhile, it is as before.
    ///
    /// # Errors
    /// As [`RedbCatalog::open`]; [`StoreError::Sealed`] also when the keys are not those that it was sealed with.
    pub fn open_with(disk: &dyn Disk, cache_bytes: usize, keyring: Option<Arc<Keyring>>) -> Result<Self, StoreError> {
        Self::open_file(disk, cache_bytes, keyring).map_err(|error| match error {
            StoreError::Corrupt(why) => StoreError::Corrupt(format!(
                "{why}; put a copy of {NAME} in its place, or make the node anew from a backup with `bib admin \
                 restore`; keep the damaged file"
            )),
            StoreError::Locked(name) => StoreError::Locked(format!("{name}; stop the node that has it open")),
            error => error,
        })
    }

    fn open_file(disk: &dyn Disk, cache_bytes: usize, keyring: Option<Arc<Keyring>>) -> Result<Self, StoreError> {
        let sealed = keyring.as_deref();
        let mut store = Store::open(disk, NAME, cache_bytes, |txn| make_tables(txn, sealed))?;
        let (version, complete) = format_of(&store)?;
        if version > VERSION {
            return Err(StoreError::Unsupported(format!(
                "{NAME} has version {version}, this program knows {VERSION}; use the newer program"
            )));
        }
        match sealed {
            None if version != PLAIN => {
                return Err(crypto::refused(format!(
                    "{NAME} can be opened with its keys only; set `crypto.enabled = true`. Encryption is not turned \
                     off again: for a plain node make a new one and fetch or restore its data there"
                )));
            }
            Some(keyring) if version == PLAIN => {
                store = Self::reseal(disk, cache_bytes, &store, keyring)?;
            }
            Some(keyring) => {
                let has_new_keys = check_keys(&store, NAME, keyring)?;
                if has_new_keys || !complete {
                    store.write(|txn| make_tables(txn, sealed))?;
                }
            }
            None if !complete => store.write(|txn| make_tables(txn, None))?,
            None => {}
        }
        let noted = AtomicU32::new(sealed.map_or(0, Keyring::newest));
        Ok(Self { store, keyring, noted })
    }

    /// Makes a sealed catalog of a plain one, and puts it in its place.
    fn reseal(disk: &dyn Disk, cache_bytes: usize, plain: &Store, keyring: &Keyring) -> Result<Store, StoreError> {
        log::info!(file = NAME; "the catalog is encrypted");
        let read = plain.read()?;
        Store::make_in_steps(disk, NAME, cache_bytes, |new| {
            new.write(|txn| make_tables(txn, Some(keyring)))?;
            for index in 0..TABLES.len() {
                let old = guarded(NAME, || match read.open_table(definition(index)) {
                    Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
                    table => table.map(Some).map_err(failed),
                })?;
                let Some(old) = old else { continue };
                let mut after = None;
                while let Some(last) = seal_step(new, &old, index, keyring, after.as_deref())? {
                    after = Some(last);
                }
            }
            Ok(())
        })
    }

    /// How a table is sealed.
    fn sealing(&self, table: Table) -> Result<Option<Sealing<'_>>, StoreError> {
        let number = index(table)? as u8;
        Ok(self.keyring.as_deref().map(|keyring| Sealing { keyring, table, number }))
    }
}

/// Seals some entries of a table that lie behind `after` into the new catalog; the last of them, if there were any.
fn seal_step(
    new: &Store,
    old: &ReadOnlyTable<Bytes, Bytes>,
    index: usize,
    keyring: &Keyring,
    after: Option<&[u8]>,
) -> Result<Option<Vec<u8>>, StoreError> {
    let sealing = Sealing { keyring, table: TABLES[index].0, number: index as u8 };
    let (mut entries, mut bytes, mut last, mut failure) = (Vec::new(), 0, None, None);
    let range = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
    scan(old, range, Order::Ascending, &mut |key, value| match sealing.seal(key, value) {
        Ok(entry) => {
            bytes += entry.0.len() + entry.1.len();
            entries.push(entry);
            last = Some(key.to_vec());
            if bytes < STEP_BYTES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        }
        Err(error) => {
            failure = Some(error);
            ControlFlow::Break(())
        }
    })?;
    if let Some(error) = failure {
        return Err(error);
    }
    if !entries.is_empty() {
        new.write(|txn| {
            guarded(NAME, || {
                let mut table = txn.open_table(definition(index)).map_err(failed)?;
                for (key, value) in &entries {
                    table.insert(key.as_slice(), value.as_slice()).map_err(failed)?;
                }
                Ok(())
            })
        })?;
    }
    Ok(last)
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
            let entry = entry.transpose().map_err(failed)?;
            // In a damaged page an entry may claim bytes beyond it: that shows here, not at the visitor's.
            if let Some((key, value)) = &entry {
                let _ = (key.value(), value.value());
            }
            Ok(entry)
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

struct Snapshot<'c> {
    catalog: &'c RedbCatalog,
    tables: Lazy<ReadOnlyTable<Bytes, Bytes>>,
    txn: ReadTransaction,
}

impl Snapshot<'_> {
    fn table(&self, table: Table) -> Result<&ReadOnlyTable<Bytes, Bytes>, StoreError> {
        opened(&self.tables, table, |index| self.txn.open_table(definition(index)))
    }
}

impl CatalogRead for Snapshot<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        get_opened(self.table(table)?, self.catalog.sealing(table)?, key)
    }

    fn scan(&self, table: Table, range: KeyRange<'_>, order: Order, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        scan_opened(self.table(table)?, self.catalog.sealing(table)?, range, order, visit)
    }

    fn len(&self, table: Table) -> Result<u64, StoreError> {
        len(self.table(table)?)
    }
}

fn get_opened(
    table: &impl ReadableTable<Bytes, Bytes>,
    sealing: Option<Sealing<'_>>,
    key: &[u8],
) -> Result<Option<Vec<u8>>, StoreError> {
    let Some(sealing) = sealing else { return get(table, key) };
    let stored = sealing.stored_key(key);
    get(table, &stored)?.map(|sealed| sealing.open(&stored, &sealed).map(|(_, value)| value)).transpose()
}

fn scan_opened(
    table: &impl ReadableTable<Bytes, Bytes>,
    sealing: Option<Sealing<'_>>,
    range: KeyRange<'_>,
    order: Order,
    visit: &mut Visit<'_>,
) -> Result<(), StoreError> {
    match sealing {
        None => scan(table, range, order, visit),
        Some(sealing) => sealing.scan(table, range, order, visit),
    }
}

struct Change<'txn> {
    catalog: &'txn RedbCatalog,
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
        get_opened(self.table(table)?, self.catalog.sealing(table)?, key)
    }

    fn scan(&self, table: Table, range: KeyRange<'_>, order: Order, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        scan_opened(self.table(table)?, self.catalog.sealing(table)?, range, order, visit)
    }

    fn len(&self, table: Table) -> Result<u64, StoreError> {
        len(self.table(table)?)
    }
}

impl CatalogTxn for Change<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let sealed = self.catalog.sealing(table)?.map(|sealing| sealing.seal(key, value)).transpose()?;
        let (key, value) = sealed.as_ref().map_or((key, value), |(key, value)| (key, value));
        let table = self.table_mut(table)?;
        guarded(NAME, || table.insert(key, value).map(drop).map_err(failed))
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        let stored = self.catalog.sealing(table)?.map(|sealing| sealing.stored_key(key));
        let table = self.table_mut(table)?;
        guarded(NAME, || table.remove(stored.as_deref().unwrap_or(key)).map(drop).map_err(failed))
    }
}

impl Catalog for RedbCatalog {
    fn begin_read(&self) -> Result<Box<dyn CatalogRead + '_>, StoreError> {
        Ok(Box::new(Snapshot { catalog: self, tables: lazy(), txn: self.store.read()? }))
    }

    fn write(&self, work: &mut dyn FnMut(&mut dyn CatalogTxn) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let newest = self.keyring.as_deref().map_or(0, Keyring::newest);
        self.store.write(|txn| {
            if let Some(keyring) = self.keyring.as_deref().filter(|_| newest != self.noted.load(Ordering::Relaxed)) {
                // With the first values that it seals.
                record_checks(txn, NAME, keyring)?;
            }
            work(&mut Change { catalog: self, tables: lazy(), txn })
        })?;
        self.noted.store(newest, Ordering::Relaxed);
        Ok(())
    }
}
