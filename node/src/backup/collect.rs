//! Giving back the space of snapshots that went.
//!
//! Invariant: what any snapshot that is left consists of is marked before anything is swept; one that cannot be read ends
//! the collection with nothing given back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bib_core::backup::{CATALOG_FOLDER, Entries};
use bib_core::catalog::record::Pin;
use bib_core::chunk::Chunk;
use bib_core::encode::decode;
use bib_core::id::{ChunkId, ManifestId};
use bib_core::limits::{BACKUP_MARKS, BACKUP_SWEEP};
use bib_core::model::manifest::reader::{self, Cursor, ReadError};
use bib_core::port::{ChunkStore, StoreError, SweepRules};
use bib_core::time::Timestamp;

use super::content;
use super::error::BackupError;
use super::repository::Repository;

type Result<T, E = BackupError> = std::result::Result<T, E>;

/// Ends the collection whatever happens.
struct Collection<'a>(&'a dyn ChunkStore);

impl Drop for Collection<'_> {
    fn drop(&mut self) {
        self.0.end_gc();
    }
}

/// Gives back what no snapshot needs; returns the bytes that the file system has more.
///
/// # Errors
/// [`BackupError`] when a snapshot cannot be read, or the store fails.
pub(crate) fn collect(backup: &Repository, seed: u64, now: Timestamp, stop: &AtomicBool) -> Result<u64> {
    let chunks = backup.chunks();
    chunks.begin_gc(BACKUP_MARKS, seed)?;
    let collection = Collection(chunks);
    for time in backup.times()? {
        let snapshot = backup.snapshot(time)?;
        mark(chunks, snapshot.manifest, stop)?;
        let left_out = content::incomplete(chunks, snapshot.manifest)?;
        let mut entries = Entries::new();
        let pins = format!("{CATALOG_FOLDER}pins");
        content::read_file(chunks, snapshot.manifest, &pins, &mut |piece| {
            entries.push(piece);
            while let Some((key, value)) = entries.next().map_err(|error| BackupError::Damaged(error.to_string()))? {
                let Some(manifest) = ManifestId::from_slice(key) else { continue };
                let pin: Pin = decode(value).map_err(|error| BackupError::Damaged(format!("a pin: {error}")))?;
                if content::is_whole(&pin) && !left_out.contains(&manifest) {
                    mark(chunks, manifest, stop)?;
                }
            }
            Ok(())
        })?;
    }
    let rules = SweepRules { number: seed, now, min_age: Duration::ZERO, dry_run: false, max_chunks: BACKUP_SWEEP };
    let mut after = None;
    loop {
        after = chunks.sweep_step(&rules, after)?.next;
        if after.is_none() {
            break;
        }
    }
    let mut freed = 0;
    while let Some(reclaimed) = chunks.reclaim_step()? {
        freed += reclaimed.freed_bytes;
        if stop.load(Ordering::Relaxed) {
            return Err(BackupError::Stopped);
        }
    }
    drop(collection);
    Ok(freed)
}

/// Marks what a manifest consists of.
fn mark(chunks: &dyn ChunkStore, manifest: ManifestId, stop: &AtomicBool) -> Result<()> {
    let marked = || {
        let mut source = |id: &ChunkId| {
            chunks.mark(id);
            Ok::<_, StoreError>(chunks.get(id)?.map(Chunk::into_raw))
        };
        let root = reader::root(manifest, &mut source)?;
        let mut entries = Cursor::entries(&root);
        while entries.next(&mut source)?.is_some() {}
        let mut list = Cursor::chunks(&root);
        while let Some(chunk) = list.next(&mut source)? {
            chunks.mark(&chunk.id);
        }
        Ok(())
    };
    if stop.load(Ordering::Relaxed) {
        return Err(BackupError::Stopped);
    }
    match marked() {
        Ok(()) => Ok(()),
        Err(ReadError::Source(error)) => Err(error.into()),
        Err(error) => Err(BackupError::Damaged(format!("manifest {manifest}: {error}"))),
    }
}
