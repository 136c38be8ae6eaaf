//! Reading the files of a snapshot, and copying what manifests consist of from one chunk store to another.
//!
//! Invariant: what was copied is durable and was read back before it counts.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};

use bib_core::backup::INCOMPLETE_FILE;
use bib_core::catalog::record::Pin;
use bib_core::chunk::Chunk;
use bib_core::encode::decode;
use bib_core::hash::Hasher;
use bib_core::id::{ChunkId, ManifestId};
use bib_core::limits::{BACKUP_PINS, BACKUP_UNVERIFIED, BACKUP_UNVERIFIED_BYTES, MAX_INCOMPLETE};
use bib_core::model::DatasetPath;
use bib_core::model::manifest::builder::Piece;
use bib_core::model::manifest::reader::{self, Cursor, ReadError};
use bib_core::model::manifest::{ChunkRef, Entry};
use bib_core::port::{CatalogRead, ChunkStore, Order, StoreError, Table};

use super::error::BackupError;

type Result<T, E = BackupError> = std::result::Result<T, E>;

fn unreadable(error: ReadError<StoreError>) -> BackupError {
    match error {
        ReadError::Source(error) => error.into(),
        error => BackupError::Damaged(error.to_string()),
    }
}

fn page(chunks: &dyn ChunkStore, id: &ChunkId) -> Result<Option<Vec<u8>>, StoreError> {
    Ok(chunks.get(id)?.map(Chunk::into_raw))
}

/// The files of a tree, in order.
pub(super) fn entries(
    chunks: &dyn ChunkStore,
    manifest: ManifestId,
    show: &mut dyn FnMut(Entry) -> Result<()>,
) -> Result<()> {
    let mut source = |id: &ChunkId| page(chunks, id);
    let root = reader::root(manifest, &mut source).map_err(unreadable)?;
    let mut cursor = Cursor::entries(&root);
    while let Some(entry) = cursor.next(&mut source).map_err(unreadable)? {
        show(entry)?;
    }
    Ok(())
}

/// Shows the bytes of a file of a tree, and checks at its end that they were its own; `None` when there is none. What was
/// shown counts only then.
pub(super) fn read_file(
    chunks: &dyn ChunkStore,
    manifest: ManifestId,
    path: &str,
    show: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<Option<Entry>> {
    let mut source = |id: &ChunkId| page(chunks, id);
    let root = reader::root(manifest, &mut source).map_err(unreadable)?;
    let path = DatasetPath::new(path).map_err(|error| BackupError::Damaged(error.to_string()))?;
    let Some(entry) = reader::find(&root, &path, &mut source).map_err(unreadable)? else { return Ok(None) };
    let (mut hasher, mut at) = (Hasher::new(), entry.offset);
    let end = entry.offset.saturating_add(entry.size);
    let mut cursor = Cursor::chunks(&root);
    if at < end {
        cursor.seek_offset(at, &mut source).map_err(unreadable)?;
    }
    let short = || BackupError::Damaged(format!("`{path}` is shorter than it says"));
    while at < end {
        let begin = cursor.offset();
        let chunk = cursor.next(&mut source).map_err(unreadable)?.ok_or_else(short)?;
        let bytes = page(chunks, &chunk.id)?
            .ok_or_else(|| BackupError::Damaged(format!("chunk {} of `{path}` is missing", chunk.id)))?;
        let from = usize::try_from(at.saturating_sub(begin)).unwrap_or(usize::MAX);
        let left = usize::try_from(end - begin).unwrap_or(usize::MAX);
        let piece = bytes.get(from..left.min(bytes.len())).filter(|piece| !piece.is_empty()).ok_or_else(short)?;
        hasher.update(piece);
        show(piece)?;
        at += piece.len() as u64;
    }
    if hasher.finish() == *entry.content.as_bytes() {
        Ok(Some(entry))
    } else {
        Err(BackupError::Damaged(format!("`{path}` has other bytes than it says")))
    }
}

/// The bytes of a short file.
pub(super) fn read_short(
    chunks: &dyn ChunkStore,
    manifest: ManifestId,
    path: &str,
    max: usize,
) -> Result<Option<zeroize::Zeroizing<Vec<u8>>>> {
    let mut bytes = zeroize::Zeroizing::new(Vec::new());
    let found = read_file(chunks, manifest, path, &mut |piece| {
        if bytes.len() + piece.len() > max {
            return Err(BackupError::Damaged(format!("`{path}` is longer than any that is written")));
        }
        bytes.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(found.map(|_| bytes))
}

/// The manifests of which a snapshot says that their content is not whole.
pub(super) fn incomplete(chunks: &dyn ChunkStore, manifest: ManifestId) -> Result<BTreeSet<ManifestId>> {
    let bytes = read_short(chunks, manifest, INCOMPLETE_FILE, MAX_INCOMPLETE * 32)?.unwrap_or_default();
    let ids = bytes.chunks(32).map(|id| {
        ManifestId::from_slice(id)
            .ok_or_else(|| BackupError::Damaged("the list of what is not whole is cut".to_owned()))
    });
    ids.collect()
}

/// Whether a pin says that all of its content is here, and to be kept.
pub(super) fn is_whole(pin: &Pin) -> bool {
    pin.is_here && pin.is_root()
}

/// Shows the pins of a catalog, in pages, so that nothing of it is held while they are looked at.
pub(super) fn pins(read: &dyn CatalogRead, show: &mut dyn FnMut(ManifestId, Pin) -> Result<()>) -> Result<()> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let mut found: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        read.scan(Table::Pins, (from, Bound::Unbounded), Order::Ascending, &mut |key, value| {
            found.push((key.to_vec(), value.to_vec()));
            if found.len() < BACKUP_PINS {
                std::ops::ControlFlow::Continue(())
            } else {
                std::ops::ControlFlow::Break(())
            }
        })?;
        let Some((last, _)) = found.last() else { return Ok(()) };
        after = Some(last.clone());
        for (key, value) in found {
            // Other records of the table have longer keys.
            let Some(manifest) = ManifestId::from_slice(&key) else { continue };
            let pin = decode(&value).map_err(|error| BackupError::Damaged(format!("a pin: {error}")))?;
            show(manifest, pin)?;
        }
    }
}

/// Copies chunks, and reads back what it has written.
pub(super) struct Copier<'a> {
    to: &'a dyn ChunkStore,
    stop: &'a AtomicBool,
    unverified: Vec<ChunkId>,
    unverified_bytes: u64,
    pub(super) new_chunks: u64,
    pub(super) new_bytes: u64,
}

/// What reads of the store that is copied from say of a chunk: what is damaged or was left in a file that changed is as
/// little there as what is missing.
fn held(from: &dyn ChunkStore, id: &ChunkId) -> Result<Option<Chunk>> {
    match from.get(id) {
        // A damaged index says nothing of the chunk.
        Err(StoreError::Corrupt(why)) if !why.starts_with("index.redb") => {
            log::warn!(chunk = id.short(), why = why.as_str(); "a chunk cannot be copied");
            Ok(None)
        }
        Err(StoreError::Changed { path, why }) => {
            log::warn!(chunk = id.short(), path = path.as_str(), why = why.as_str(); "a chunk cannot be copied");
            Ok(None)
        }
        held => Ok(held?),
    }
}

impl<'a> Copier<'a> {
    pub(super) const fn new(to: &'a dyn ChunkStore, stop: &'a AtomicBool) -> Self {
        Self { to, stop, unverified: Vec::new(), unverified_bytes: 0, new_chunks: 0, new_bytes: 0 }
    }

    /// Stores a chunk.
    pub(super) fn put(&mut self, chunk: &Chunk) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(BackupError::Stopped);
        }
        if self.to.put(chunk)? {
            self.unverified.push(chunk.id());
            self.unverified_bytes += chunk.encoded().len() as u64;
            self.new_chunks += 1;
            self.new_bytes += u64::from(chunk.len());
        }
        if self.unverified.len() >= BACKUP_UNVERIFIED || self.unverified_bytes >= BACKUP_UNVERIFIED_BYTES {
            self.settle()?;
        }
        Ok(())
    }

    /// Stores a piece of a tree that is being built.
    pub(super) fn piece(&mut self, piece: Piece) -> Result<()> {
        let (Piece::Content(chunk) | Piece::Page(chunk)) = piece;
        if self.to.has(&chunk.id())? { Ok(()) } else { self.put(&chunk.compress()) }
    }

    /// Makes everything durable, and reads back what is new.
    pub(super) fn settle(&mut self) -> Result<()> {
        self.to.flush()?;
        self.unverified_bytes = 0;
        for id in std::mem::take(&mut self.unverified) {
            if self.to.get(&id)?.is_none() {
                return Err(BackupError::Damaged(format!("chunk {id} was written and is not there")));
            }
        }
        Ok(())
    }

    /// Copies a page, and gives its bytes.
    fn page(&mut self, from: &dyn ChunkStore, id: &ChunkId) -> Result<Option<Vec<u8>>> {
        let Some(chunk) = held(from, id)? else { return Ok(None) };
        if !self.to.has(id)? {
            self.put(&chunk)?;
        }
        Ok(Some(chunk.into_raw()))
    }

    /// Copies what there is of what a manifest consists of; returns the bytes of its files, or `None` when not all is there.
    pub(super) fn manifest(&mut self, from: &dyn ChunkStore, manifest: ManifestId) -> Result<Option<u64>> {
        let copied = self.all_of(from, manifest);
        match copied {
            Ok(size) => Ok(size),
            Err(ReadError::Missing(_)) => Ok(None),
            Err(ReadError::Source(error)) => Err(error),
            Err(error) => {
                log::warn!(manifest = manifest.short(), why:% = error; "a manifest makes no sense and is not copied");
                Ok(None)
            }
        }
    }

    fn all_of(&mut self, from: &dyn ChunkStore, manifest: ManifestId) -> Result<Option<u64>, ReadError<BackupError>> {
        let root = reader::root(manifest, |id| self.page(from, id))?;
        let mut entries = Cursor::entries(&root);
        while entries.next(&mut |id: &ChunkId| self.page(from, id))?.is_some() {}
        let (mut chunks, mut is_whole) = (Cursor::chunks(&root), true);
        while let Some(ChunkRef { id, .. }) = chunks.next(&mut |id: &ChunkId| self.page(from, id))? {
            if self.to.has(&id).map_err(|error| ReadError::Source(error.into()))? {
                continue;
            }
            let Some(chunk) = held(from, &id).map_err(ReadError::Source)? else {
                is_whole = false;
                continue;
            };
            // What lay in a file of its owner was never compressed.
            self.put(&chunk.packed()).map_err(ReadError::Source)?;
        }
        Ok(is_whole.then_some(root.size))
    }

    /// Copies everything that the pins of a catalog say to be here, except for `left_out`, and where that is asked what is
    /// there of content that was found not to be whole: what was published here, nobody else may have.
    pub(super) fn pinned(
        &mut self,
        asks_for_broken: bool,
        read: &dyn CatalogRead,
        from: &dyn ChunkStore,
        left_out: &BTreeSet<ManifestId>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Pinned> {
        let mut copied = Pinned::default();
        pins(read, &mut |manifest, pin| {
            let is_broken = asks_for_broken && pin.is_root() && pin.is_own && !pin.is_evicted;
            if !(is_whole(&pin) || is_broken) || left_out.contains(&manifest) {
                return Ok(());
            }
            match self.manifest(from, manifest)? {
                Some(size) => {
                    copied.n_manifests += 1;
                    copied.bytes = copied.bytes.saturating_add(size);
                    progress(copied.bytes);
                }
                None if copied.incomplete.len() >= MAX_INCOMPLETE => {
                    return Err(BackupError::TooDamaged(MAX_INCOMPLETE));
                }
                None => drop(copied.incomplete.insert(manifest)),
            }
            Ok(())
        })?;
        Ok(copied)
    }
}

/// What was copied for the pins of a catalog.
#[derive(Debug, Default)]
pub(super) struct Pinned {
    pub(super) n_manifests: u64,
    pub(super) bytes: u64,
    /// Manifests that are not whole where they were copied from.
    pub(super) incomplete: BTreeSet<ManifestId>,
}
