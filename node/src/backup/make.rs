//! Making a snapshot of a running node.
//!
//! Everything is read on one view of the catalog, beside whatever the node does. Content that is given up meanwhile was
//! not wanted any more when that was decided; the snapshot says of it that it is not whole.

use std::ops::{Bound, ControlFlow};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bib_core::backup::{CATALOG_FOLDER, IDENTITY_FILE, INCOMPLETE_FILE, KEYS_FILE, SETTINGS_FILE, Snapshot, entry};
use bib_core::chunker::ChunkerParams;
use bib_core::id::NodeId;
use bib_core::limits::{BACKUP_CHUNK_AVG, MAX_VAULT_LEN};
use bib_core::model::DatasetPath;
use bib_core::model::manifest::builder::{BuildError, Builder};
use bib_core::model::manifest::{EntryKind, ManifestKind};
use bib_core::port::{Catalog, CatalogRead, ChunkStore, Order, TABLES, Table};
use bib_core::time::Timestamp;
use zeroize::Zeroizing;

use super::content::Copier;
use super::error::BackupError;
use super::repository::Repository;

type Result<T, E = BackupError> = std::result::Result<T, E>;

/// A node whose snapshot is made.
pub(crate) struct Source<'a> {
    pub(crate) catalog: &'a dyn Catalog,
    pub(crate) chunks: &'a dyn ChunkStore,
    pub(crate) data_dir: &'a Path,
    pub(crate) node: NodeId,
    /// The settings in force, for people.
    pub(crate) settings: String,
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Made {
    pub(crate) snapshot: Snapshot,
    /// Bytes that the backup did not hold before, and what they take.
    pub(crate) new_bytes: u64,
    pub(crate) stored_bytes: u64,
}

fn built(error: BuildError<BackupError>) -> BackupError {
    match error {
        BuildError::Sink(error) => error,
        error => BackupError::Damaged(error.to_string()),
    }
}

/// The tree of a snapshot, while its files are written.
struct Tree<'a, 'b> {
    builder: Builder,
    copier: &'b mut Copier<'a>,
}

impl Tree<'_, '_> {
    fn begin(&mut self, path: &str) -> Result<()> {
        let path = DatasetPath::new(path).expect("the files of a snapshot have plain names");
        self.builder.begin(path, EntryKind::File, |piece| self.copier.piece(piece)).map_err(built)
    }

    fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.builder.push(bytes, |piece| self.copier.piece(piece)).map_err(built)
    }

    fn file(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        self.begin(path)?;
        self.push(bytes)
    }

    fn table(&mut self, read: &dyn CatalogRead, table: Table, name: &str) -> Result<()> {
        self.begin(&format!("{CATALOG_FOLDER}{name}"))?;
        entries_of(read, table, &mut |bytes| self.push(bytes))
    }
}

/// Shows the entries of a table as they stand in a snapshot.
pub(super) fn entries_of(
    read: &dyn CatalogRead,
    table: Table,
    show: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut failed = None;
    read.scan(table, (Bound::Unbounded, Bound::Unbounded), Order::Ascending, &mut |key, value| {
        let shown = entry(key, value).map_err(|error| BackupError::Damaged(error.to_string()));
        match shown.and_then(|bytes| show(&bytes)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    failed.map_or(Ok(()), Err)
}

/// The tables in the order of their files.
pub(super) fn tables() -> Vec<(Table, &'static str)> {
    let mut tables = TABLES.to_vec();
    tables.sort_by_key(|(_, name)| *name);
    tables
}

/// A file of the data directory; `None` when there is none.
fn file_of(data_dir: &Path, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let path = data_dir.join(name);
    match std::fs::read(&path) {
        Ok(bytes) if bytes.len() <= MAX_VAULT_LEN => Ok(Some(Zeroizing::new(bytes))),
        Ok(_) => Err(BackupError::Damaged(format!("`{}` is longer than any that is written", path.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(BackupError::io("read", &path)(error)),
    }
}

/// Adds a snapshot to a backup.
///
/// # Errors
/// [`BackupError`] when it cannot be made; then the backup is as before, and what was copied is not copied again.
pub(crate) fn make(
    source: &Source<'_>,
    backup: &mut Repository,
    now: Timestamp,
    progress: &mut dyn FnMut(u64),
    stop: &AtomicBool,
) -> Result<Made> {
    let mut time = now;
    let taken = backup.times()?;
    while taken.contains(&time) {
        time.0 += 1;
    }
    let stored_before = backup.chunks().stats()?.stored_bytes;
    let read = source.catalog.begin_read()?;
    let mut copier = Copier::new(backup.chunks(), stop);
    let pinned = copier.pinned(true, read.as_ref(), source.chunks, &std::collections::BTreeSet::new(), progress)?;
    let builder = Builder::new(ManifestKind::Tree, ChunkerParams::with_average(BACKUP_CHUNK_AVG));
    let mut tree = Tree { builder, copier: &mut copier };
    for (table, name) in tables() {
        tree.table(read.as_ref(), table, name)?;
    }
    let identity = file_of(source.data_dir, IDENTITY_FILE)?;
    tree.file(IDENTITY_FILE, identity.as_ref().map_or(&[], |bytes| bytes.as_slice()))?;
    tree.begin(INCOMPLETE_FILE)?;
    for manifest in &pinned.incomplete {
        tree.push(manifest.as_bytes())?;
    }
    let keys = file_of(source.data_dir, KEYS_FILE)?;
    if let Some(keys) = &keys {
        tree.file(KEYS_FILE, keys)?;
    }
    tree.file(SETTINGS_FILE, source.settings.as_bytes())?;
    let Tree { builder, copier: of_tree } = tree;
    let whole = builder.finish(None, |piece| of_tree.piece(piece)).map_err(built)?;
    copier.settle()?;
    let new_bytes = copier.new_bytes;
    let snapshot = Snapshot {
        node: source.node,
        time,
        manifest: whole.manifest,
        size: whole.size,
        n_ops: read.len(Table::Ops)?,
        n_manifests: pinned.n_manifests,
        content_bytes: pinned.bytes,
        n_incomplete: pinned.incomplete.len() as u64,
        is_encrypted: keys.is_some(),
    };
    drop(read);
    let stored_bytes = backup.chunks().stats()?.stored_bytes.saturating_sub(stored_before);
    backup.add_snapshot(&snapshot)?;
    Ok(Made { snapshot, new_bytes, stored_bytes })
}

/// Takes away the snapshots that are older than `keep_for`, except for the newest `keep`. Returns which.
///
/// # Errors
/// [`BackupError`] when one cannot be removed.
pub(crate) fn prune(backup: &Repository, keep: usize, keep_for: Duration, now: Timestamp) -> Result<Vec<Timestamp>> {
    let times = backup.times()?;
    let oldest = now.saturating_sub(keep_for);
    let n_others = times.len().saturating_sub(keep);
    let old: Vec<Timestamp> = times.into_iter().take(n_others).filter(|time| *time < oldest).collect();
    for time in &old {
        backup.remove_snapshot(*time)?;
    }
    Ok(old)
}
