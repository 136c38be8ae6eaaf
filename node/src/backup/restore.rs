//! Making a node from a snapshot.
//!
//! Invariant: the data directory has its name only when everything in it is durable and was compared with the snapshot. It
//! is made beside that name; what is left of an attempt that ended early is cleared by the next one. What was there
//! before is moved aside, never removed.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::ops::{Bound, ControlFlow};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bib_core::apply::Reducer;
use bib_core::backup::{CATALOG_FOLDER, Entries, IDENTITY_FILE, KEYS_FILE, SETTINGS_FILE, Snapshot};
use bib_core::catalog::record::{self, Kept, Pin};
use bib_core::catalog::{keys, list, log, resolve};
use bib_core::command::{Command, Origin};
use bib_core::encode::encode;
use bib_core::hash::Hasher;
use bib_core::id::{ManifestId, NodeId, OpId};
use bib_core::limits::{MAX_VAULT_LEN, RESTORE_COMMIT_BYTES};
use bib_core::op::Operation;
use bib_core::port::{Catalog, CatalogRead, ChunkStore, Order, Table};
use bib_core::time::Timestamp;
use bib_storage_redb::crypto::Keyring;
use bib_storage_redb::{Bounds, DataDirLock, Folder, RedbCatalog, SegmentStore};

use super::content::{self, Copier};
use super::error::BackupError;
use super::make::{entries_of, tables};
use super::repository::Repository;
use super::verify::files;
use crate::config::Budget;
use crate::identity;
use crate::vault::Vault;

type Result<T, E = BackupError> = std::result::Result<T, E>;

/// Name of the folder of the chunk store in the data directory.
const SEGMENTS: &str = "segments";
/// Says that a folder is a node in the making.
const MARKER: &str = "restoring";
/// The file that says who has a data directory.
const LOCK: &str = "lock";
/// Catalogs that serve while operations are replayed, and go again.
const BEFORE: &str = "replay-before";
const IN_ORDER: &str = "replay-order";
/// Operations, and other entries, that one step of a replay looks at.
const STEP: usize = 256;

/// What to make of which snapshot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Restore<'a> {
    /// Where the node is to be.
    pub(crate) data_dir: &'a Path,
    /// The snapshot; the newest, or that for `to`, when none is named.
    pub(crate) snapshot: Option<Timestamp>,
    /// Only what had been said by then.
    pub(crate) to: Option<Timestamp>,
    /// Whether what is there is moved aside.
    pub(crate) force: bool,
    /// Whether a node is made though some content cannot be read.
    pub(crate) partial: bool,
    pub(crate) now: Timestamp,
    pub(crate) budget: &'a Budget,
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Restored {
    pub(crate) snapshot: Snapshot,
    pub(crate) n_ops: u64,
    pub(crate) content_bytes: u64,
    /// The versions, or else the manifests, of which not all content is there.
    pub(crate) missing: Vec<String>,
    /// Where what was there before is now.
    pub(crate) moved: Option<PathBuf>,
}

/// The name of the folder beside another one.
fn beside(path: &Path, end: &str) -> Result<PathBuf> {
    let bad = |reason| BackupError::BadPlace { path: path.to_owned(), reason };
    let mut name = path.file_name().ok_or_else(|| bad("it has no name"))?.to_owned();
    name.push(end);
    Ok(path.with_file_name(name))
}

fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(BackupError::io("write", path))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(BackupError::io("write", path))
}

fn make_folder(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(BackupError::io("make", path))
}

/// Names in a folder; `None` when there is no folder.
fn names(path: &Path) -> Result<Option<Vec<String>>> {
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries.map_err(BackupError::io("read", path))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(BackupError::io("read", path))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    Ok(Some(names))
}

/// Which snapshot is meant.
fn choose(backup: &Repository, restore: &Restore<'_>) -> Result<Timestamp> {
    let times = backup.times()?;
    if let Some(wanted) = restore.snapshot {
        return if times.contains(&wanted) { Ok(wanted) } else { Err(BackupError::NoSnapshot(Some(wanted))) };
    }
    // The first one that was made afterwards knows all that had been said by then.
    let after = restore.to.and_then(|to| times.iter().find(|time| **time >= to));
    after.or(times.last()).copied().ok_or(BackupError::NoSnapshot(None))
}

/// The nearest folder that is there, by its real path, and what of a path is not there.
fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let there = path.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
    let Some((above, real)) = there else { return path };
    path.strip_prefix(above).map_or_else(|_| path.clone(), |rest| real.join(rest))
}

/// Whether a node can be made in a folder: it gets its name by a rename from beside it, and the backup stays where it is.
fn check_target(backup: &Path, data_dir: &Path) -> Result<()> {
    let bad = |reason| Err(BackupError::BadTarget { path: data_dir.to_owned(), reason });
    let (backup, target) = (real(backup), real(data_dir));
    if target.starts_with(&backup) || backup.starts_with(&target) {
        return bad("it and the backup lie in each other");
    }
    let Some(above) = target.parent() else { return bad("it is the root of all folders") };
    let device = |path: &Path| path.metadata().ok().map(|metadata| metadata.dev());
    match (device(&target), device(above)) {
        (Some(own), Some(of_above)) if own != of_above => bad("it is a mount point"),
        _ => Ok(()),
    }
}

/// A data directory in the making.
struct Making {
    path: PathBuf,
    _lock: DataDirLock,
}

impl Making {
    /// Begins one beside its final name.
    fn begin(data_dir: &Path) -> Result<Self> {
        let path = beside(data_dir, ".restoring")?;
        make_folder(&path)?;
        let lock = DataDirLock::take(&path)?;
        let there = names(&path)?.unwrap_or_default();
        let others = || there.iter().filter(|name| *name != LOCK && *name != MARKER);
        if others().next().is_some() && !there.iter().any(|name| name == MARKER) {
            return Err(BackupError::NotEmpty(path));
        }
        for name in others() {
            let path = path.join(name);
            let is_folder = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
            let removed = if is_folder { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.map_err(BackupError::io("clear", &path))?;
        }
        if !there.iter().any(|name| name == MARKER) {
            write_new(&path.join(MARKER), b"")?;
        }
        Ok(Self { path, _lock: lock })
    }

    fn folder(&self, name: &str) -> Result<Folder> {
        let path = self.path.join(name);
        make_folder(&path)?;
        Folder::new(path.clone()).map_err(BackupError::io("make", &path))
    }

    /// A catalog that goes again.
    fn passing(&self, name: &str, budget: &Budget) -> Result<RedbCatalog> {
        Ok(RedbCatalog::open(&self.folder(name)?, budget.catalog_cache)?)
    }

    fn remove(&self, name: &str) -> Result<()> {
        let path = self.path.join(name);
        std::fs::remove_dir_all(&path).map_err(BackupError::io("clear", &path))
    }

    /// Gives it its name. Returns where what had that name is now.
    fn finish(self, data_dir: &Path, now: Timestamp) -> Result<Option<PathBuf>> {
        sync(&self.path)?;
        let rename = |from: &Path, to: &Path| std::fs::rename(from, to).map_err(BackupError::io("rename", from));
        let there = names(data_dir)?;
        let moved = match &there {
            Some(names) if names.iter().any(|name| name != LOCK) => {
                let aside = beside(data_dir, &format!(".before-{}", now.0))?;
                rename(data_dir, &aside)?;
                Some(aside)
            }
            Some(names) => {
                for name in names {
                    let path = data_dir.join(name);
                    std::fs::remove_file(&path).map_err(BackupError::io("clear", &path))?;
                }
                None
            }
            None => None,
        };
        rename(&self.path, data_dir)?;
        sync(parent(data_dir))?;
        let marker = data_dir.join(MARKER);
        std::fs::remove_file(&marker).map_err(BackupError::io("clear", &marker))?;
        sync(data_dir)?;
        Ok(moved)
    }
}

/// Makes a node from a snapshot. Nothing is done when the data directory has something in it, unless told so.
///
/// # Errors
/// [`BackupError`] naming what cannot be used; then the data directory is as it was.
pub(crate) fn restore(
    backup: &Repository,
    restore: &Restore<'_>,
    progress: &mut dyn FnMut(u64),
    stop: &AtomicBool,
) -> Result<Restored> {
    check_target(backup.path(), restore.data_dir)?;
    let snapshot = backup.snapshot(choose(backup, restore)?)?;
    let chunks = backup.chunks();
    let files = files(chunks, &snapshot)?;
    let there = names(restore.data_dir)?;
    let _node = there.is_some().then(|| DataDirLock::take(restore.data_dir)).transpose()?;
    if there.is_some_and(|names| names.iter().any(|name| name != LOCK)) && !restore.force {
        return Err(BackupError::NotEmpty(restore.data_dir.to_owned()));
    }
    make_folder(parent(restore.data_dir))?;
    let making = Making::begin(restore.data_dir)?;
    let keyring = keys(chunks, &snapshot, &making)?;
    let mut left_out = content::incomplete(chunks, snapshot.manifest)?;

    let folder = Folder::new(making.path.clone()).map_err(BackupError::io("make", &making.path))?;
    let catalog = RedbCatalog::open_with(&folder, restore.budget.catalog_cache, keyring.clone())?;
    match restore.to {
        None => {
            fill(&catalog, chunks, &snapshot, &files)?;
            compare(&catalog, chunks, &snapshot, &files)?;
        }
        Some(to) => {
            let before = making.passing(BEFORE, restore.budget)?;
            fill(&before, chunks, &snapshot, &files)?;
            compare(&before, chunks, &snapshot, &files)?;
            let order = making.passing(IN_ORDER, restore.budget)?;
            replay(&before, &order, &catalog, to, restore, snapshot.node)?;
            drop((before, order));
            making.remove(BEFORE)?;
            making.remove(IN_ORDER)?;
        }
    }

    let mut seed = [0; 16];
    getrandom::fill(&mut seed).map_err(|error| BackupError::io("read", Path::new("random numbers"))(error.into()))?;
    let (disk, bounds) = (Box::new(making.folder(SEGMENTS)?), Bounds::default());
    let store = SegmentStore::open_with(disk, restore.budget.index_cache, seed, bounds, keyring)?;
    let mut copier = Copier::new(&store, stop);
    let read = catalog.begin_read()?;
    let pinned = copier.pinned(false, read.as_ref(), chunks, &left_out, progress)?;
    copier.settle()?;
    if let Some(manifest) = pinned.incomplete.first().filter(|_| !restore.partial) {
        return Err(BackupError::Damaged(format!("the content of manifest {manifest} is not whole")));
    }
    let n_found = pinned.n_manifests + pinned.incomplete.len() as u64;
    if restore.to.is_none() && n_found != snapshot.n_manifests {
        let (found, said) = (n_found, snapshot.n_manifests);
        return Err(BackupError::Differs(format!("{found} manifests of {said}")));
    }
    let n_ops = read.len(Table::Ops)?;
    left_out.extend(pinned.incomplete);
    let missing = named(read.as_ref(), &left_out)?;
    drop(read);
    lose(&catalog, &left_out, restore)?;
    drop((store, catalog));
    let moved = making.finish(restore.data_dir, restore.now)?;
    Ok(Restored { snapshot, n_ops, content_bytes: pinned.bytes, missing, moved })
}

/// The versions that have one of some manifests, and the manifests that no version has.
fn named(read: &dyn CatalogRead, manifests: &BTreeSet<ManifestId>) -> Result<Vec<String>> {
    let (mut names, mut unnamed, mut after) = (Vec::new(), manifests.clone(), None);
    while !manifests.is_empty() {
        let found = list::versions_of_manifests(read, after.as_ref(), manifests)?;
        for version in found.versions {
            unnamed.remove(&version.manifest);
            let dataset = record::dataset(read, &version.dataset)?;
            let path = dataset.map(|dataset| resolve::dataset_path(read, &dataset)).transpose()?.flatten();
            names.push(format!("{}@{}", path.unwrap_or_else(|| version.dataset.to_string()), version.semver));
        }
        match found.next {
            None => break,
            next => after = next,
        }
    }
    names.extend(unnamed.iter().map(|id| format!("manifest {id}")));
    Ok(names)
}

/// Writes what makes the node this node, and opens its keys.
fn keys(chunks: &dyn ChunkStore, snapshot: &Snapshot, making: &Making) -> Result<Option<Arc<Keyring>>> {
    let file = |name: &str| content::read_short(chunks, snapshot.manifest, name, MAX_VAULT_LEN);
    let absent = |name: &str| BackupError::Damaged(format!("the snapshot has no `{name}`"));
    let identity = file(IDENTITY_FILE)?.ok_or_else(|| absent(IDENTITY_FILE))?;
    write_new(&making.path.join(IDENTITY_FILE), &identity)?;
    let key = identity::load_or_make(&making.path).map_err(|error| BackupError::Damaged(error.to_string()))?;
    if key.node_id() != snapshot.node {
        return Err(BackupError::Damaged("the identity in it is of another node".to_owned()));
    }
    if let Some(settings) = file(SETTINGS_FILE)? {
        write_new(&making.path.join(format!("restored-{SETTINGS_FILE}")), &settings)?;
    }
    if !snapshot.is_encrypted {
        return Ok(None);
    }
    let sealed = file(KEYS_FILE)?.ok_or_else(|| absent(KEYS_FILE))?;
    let path = making.path.join(KEYS_FILE);
    make_folder(parent(&path))?;
    write_new(&path, &sealed)?;
    sync(parent(&path))?;
    let damaged = |error: &dyn std::fmt::Display| BackupError::Damaged(error.to_string());
    let vault = Vault::open(&making.path, &key).map_err(|error| damaged(&error))?.ok_or_else(|| absent(KEYS_FILE))?;
    Ok(Some(Arc::new(vault.keyring().map_err(|error| damaged(&error))?)))
}

/// The tables of a snapshot that this program knows, with the names of their files.
fn tables_of(files: &[String]) -> impl Iterator<Item = (Table, String)> + '_ {
    let named = tables().into_iter().map(|(table, name)| (table, format!("{CATALOG_FOLDER}{name}")));
    named.filter(|(_, name)| files.contains(name))
}

type Entry = (Vec<u8>, Vec<u8>);

fn put_all(catalog: &dyn Catalog, table: Table, entries: &mut Vec<Entry>) -> Result<()> {
    catalog.write(&mut |txn| entries.iter().try_for_each(|(key, value)| txn.put(table, key, value)))?;
    entries.clear();
    Ok(())
}

/// Writes the catalog of a snapshot.
fn fill(catalog: &dyn Catalog, chunks: &dyn ChunkStore, snapshot: &Snapshot, files: &[String]) -> Result<()> {
    for (table, name) in tables_of(files) {
        let (mut entries, mut held, mut bytes) = (Entries::new(), Vec::new(), 0);
        let damaged = |error: &dyn std::fmt::Display| BackupError::Damaged(format!("`{name}`: {error}"));
        content::read_file(chunks, snapshot.manifest, &name, &mut |piece| {
            entries.push(piece);
            while let Some((key, value)) = entries.next().map_err(|error| damaged(&error))? {
                bytes += key.len() + value.len();
                held.push((key.to_vec(), value.to_vec()));
                if bytes >= RESTORE_COMMIT_BYTES {
                    put_all(catalog, table, &mut held)?;
                    bytes = 0;
                }
            }
            Ok(())
        })?;
        entries.finish().map_err(|error| damaged(&error))?;
        if !held.is_empty() {
            put_all(catalog, table, &mut held)?;
        }
    }
    Ok(())
}

/// Whether a catalog is that of a snapshot, entry by entry.
fn compare(catalog: &dyn Catalog, chunks: &dyn ChunkStore, snapshot: &Snapshot, files: &[String]) -> Result<()> {
    let read = catalog.begin_read()?;
    let mut said = std::collections::BTreeMap::new();
    content::entries(chunks, snapshot.manifest, &mut |entry| {
        said.insert(entry.path.as_str().to_owned(), entry.content);
        Ok(())
    })?;
    for (table, name) in tables_of(files) {
        let mut hasher = Hasher::new();
        entries_of(read.as_ref(), table, &mut |bytes| {
            hasher.update(bytes);
            Ok(())
        })?;
        if said.get(&name).is_none_or(|content| *content.as_bytes() != hasher.finish()) {
            return Err(BackupError::Differs(format!("the table `{name}`")));
        }
    }
    Ok(())
}

/// Shows the entries of a table by pages, so that nothing of the view is held while they are worked at.
fn by_pages(catalog: &dyn Catalog, table: Table, show: &mut dyn FnMut(Vec<Entry>) -> Result<()>) -> Result<()> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let read = catalog.begin_read()?;
        let mut page: Vec<Entry> = Vec::new();
        let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        read.scan(table, (from, Bound::Unbounded), Order::Ascending, &mut |key, value| {
            page.push((key.to_vec(), value.to_vec()));
            if page.len() < STEP { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(last.clone());
        show(page)?;
    }
}

/// Carries out again what had been said by a moment, in an order in which each operation comes after what it knows of.
fn replay(
    before: &RedbCatalog,
    order: &RedbCatalog,
    catalog: &RedbCatalog,
    to: Timestamp,
    restore: &Restore<'_>,
    node: NodeId,
) -> Result<()> {
    let damaged = |error: &dyn std::fmt::Display| BackupError::Damaged(format!("an operation: {error}"));
    by_pages(before, Table::Ops, &mut |page| {
        let mut keys: Vec<Entry> = Vec::new();
        for (id, value) in page {
            let op = Operation::decode_trusted(value.get(1..).unwrap_or_default()).map_err(|error| damaged(&error))?;
            if op.time <= to {
                keys.push(([op.lamport.to_be_bytes().as_slice(), &id].concat(), Vec::new()));
            }
        }
        put_all(order, Table::OpOrder, &mut keys)
    })?;
    let mut reducer = Reducer::new(restore.budget.access_bytes);
    by_pages(order, Table::OpOrder, &mut |page| {
        let read = before.begin_read()?;
        let mut ops = Vec::new();
        for (key, _) in page {
            let id = key.get(8..).and_then(OpId::from_slice).ok_or_else(|| damaged(&"its place has no meaning"))?;
            let (_, bytes) = log::op_bytes(read.as_ref(), &id)?.ok_or_else(|| damaged(&"it is missing"))?;
            ops.push(Operation::decode(&bytes).map_err(|error| damaged(&error))?);
        }
        catalog.write(&mut |txn| {
            for op in &ops {
                // What came after something that is left out would only wait for it.
                let mut is_known = true;
                for parent in &op.parents {
                    is_known = is_known && log::contains(&*txn, parent)?;
                }
                if is_known {
                    let command = Command::Apply { ops: vec![op.clone()], origin: Origin::Peer(node) };
                    reducer.apply(txn, &command, restore.now)?;
                }
            }
            Ok(())
        })?;
        Ok(())
    })?;
    for table in [Table::Peers, Table::Bans] {
        by_pages(before, table, &mut |mut page| put_all(catalog, table, &mut page))?;
    }
    let read = before.begin_read()?;
    content::pins(read.as_ref(), &mut |manifest, pin| {
        // What users keep, they keep whatever had been said.
        let kept =
            if pin.is_kept { record::get::<Kept>(read.as_ref(), Table::Meta, &keys::kept(&manifest))? } else { None };
        let is_whole = content::is_whole(&pin);
        // Given up on purpose is not lost.
        let is_own = pin.is_own && !pin.is_evicted;
        if !is_whole && kept.is_none() && !is_own {
            return Ok(());
        }
        catalog.write(&mut |txn| {
            if let Some(kept) = &kept {
                let command = Command::Keep { manifest, kept: Some(kept.clone()) };
                reducer.apply(txn, &command, restore.now)?;
            }
            if kept.is_none() && record::pin(&*txn, &manifest)?.n_versions == 0 {
                return Ok(());
            }
            if is_whole {
                reducer.apply(txn, &Command::ContentHere(manifest), restore.now)?;
            }
            if is_own {
                // No command says it but that of a publication, which keeps what it staged for an operation to come.
                let own = Pin { is_own: true, ..record::pin(&*txn, &manifest)? };
                txn.put(Table::Pins, &keys::pin(&manifest), &encode(&own))?;
            }
            Ok(())
        })?;
        Ok(())
    })
}

/// Notes of which content not all is there.
fn lose(catalog: &RedbCatalog, manifests: &BTreeSet<ManifestId>, restore: &Restore<'_>) -> Result<()> {
    if manifests.is_empty() {
        return Ok(());
    }
    let mut reducer = Reducer::new(restore.budget.access_bytes);
    catalog.write(&mut |txn| {
        manifests
            .iter()
            .try_for_each(|manifest| reducer.apply(txn, &Command::ContentLost(*manifest), restore.now).map(drop))
    })?;
    Ok(())
}
