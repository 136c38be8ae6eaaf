//! Reading a backup again: all chunks once, in the order in which they lie, then whether each snapshot has all of its own.

use std::sync::atomic::{AtomicBool, Ordering};

use bib_core::backup::{CATALOG_FOLDER, Entries, IDENTITY_FILE, INCOMPLETE_FILE, KEYS_FILE, SETTINGS_FILE, Snapshot};
use bib_core::catalog::record::Pin;
use bib_core::encode::decode;
use bib_core::id::{ChunkId, ManifestId};
use bib_core::model::manifest::reader::{self, Cursor, ReadError};
use bib_core::port::{ChunkStore, ScrubStep, StoreError, TABLES};
use bib_core::time::Timestamp;

use super::content;
use super::error::BackupError;
use super::repository::Repository;

type Result<T, E = BackupError> = std::result::Result<T, E>;

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Verified {
    pub(crate) files: u64,
    pub(crate) manifests: u64,
    pub(crate) bytes: u64,
}

/// Whether a snapshot may have a file of this name.
fn is_known(path: &str) -> bool {
    let table = path.strip_prefix(CATALOG_FOLDER);
    [IDENTITY_FILE, INCOMPLETE_FILE, KEYS_FILE, SETTINGS_FILE].contains(&path)
        || table.is_some_and(|table| TABLES.iter().any(|(_, name)| *name == table))
}

/// Names of the files of a snapshot, all of which this program knows.
pub(super) fn files(chunks: &dyn ChunkStore, snapshot: &Snapshot) -> Result<Vec<String>> {
    let mut names = Vec::new();
    content::entries(chunks, snapshot.manifest, &mut |entry| {
        if !is_known(entry.path.as_str()) {
            return Err(BackupError::Unsupported(format!("the file `{}` of the snapshot", entry.path)));
        }
        names.push(entry.path.as_str().to_owned());
        Ok(())
    })?;
    Ok(names)
}

/// Reads everything that is stored. What is damaged counts as absent from then on, and the next snapshot stores it anew.
///
/// # Errors
/// [`BackupError`] when the store cannot be read.
pub(crate) fn scrub(backup: &Repository, progress: &mut dyn FnMut(u64), stop: &AtomicBool) -> Result<ScrubStep> {
    let (mut all, mut after) = (ScrubStep::default(), None);
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(BackupError::Stopped);
        }
        let step = backup.chunks().scrub_step(after, SCRUB_STEP)?;
        all.chunks += step.chunks;
        all.bytes += step.bytes;
        all.damaged += step.damaged;
        progress(all.bytes);
        after = step.next;
        if after.is_none() {
            return Ok(all);
        }
    }
}

/// Bytes of chunks that are read before it is looked whether to go on.
const SCRUB_STEP: u64 = 8 << 20;

/// Looks whether the snapshot of a moment is whole, after a [`scrub`]: its files, and all content that its pins say to be here.
///
/// # Errors
/// [`BackupError::Damaged`] naming what is not as it was written.
pub(crate) fn verify(
    backup: &Repository,
    time: Timestamp,
    progress: &mut dyn FnMut(u64),
    stop: &AtomicBool,
) -> Result<Verified> {
    let snapshot = backup.snapshot(time)?;
    let chunks = backup.chunks();
    let left_out = content::incomplete(chunks, snapshot.manifest)?;
    let mut verified = Verified::default();
    for name in files(chunks, &snapshot)? {
        let is_pins = name.strip_prefix(CATALOG_FOLDER) == Some("pins");
        let mut entries = Entries::new();
        content::read_file(chunks, snapshot.manifest, &name, &mut |piece| {
            verified.bytes += piece.len() as u64;
            progress(verified.bytes);
            if !is_pins {
                return Ok(());
            }
            entries.push(piece);
            while let Some((key, value)) = entries.next().map_err(|error| BackupError::Damaged(error.to_string()))? {
                let Some(manifest) = ManifestId::from_slice(key) else { continue };
                let pin: Pin = decode(value).map_err(|error| BackupError::Damaged(format!("a pin: {error}")))?;
                if content::is_whole(&pin) && !left_out.contains(&manifest) {
                    verified.bytes += whole(chunks, manifest, stop)?;
                    verified.manifests += 1;
                    progress(verified.bytes);
                }
            }
            Ok(())
        })?;
        entries.finish().map_err(|error| BackupError::Damaged(format!("`{name}`: {error}")))?;
        verified.files += 1;
    }
    if verified.manifests == snapshot.n_manifests {
        Ok(verified)
    } else {
        Err(BackupError::Damaged(format!("it has {} manifests of {}", verified.manifests, snapshot.n_manifests)))
    }
}

/// Looks for everything that a manifest consists of; returns its bytes.
fn whole(chunks: &dyn ChunkStore, manifest: ManifestId, stop: &AtomicBool) -> Result<u64> {
    let read = || {
        let mut source = |id: &ChunkId| Ok::<_, StoreError>(chunks.get(id)?.map(bib_core::chunk::Chunk::into_raw));
        let root = reader::root(manifest, &mut source)?;
        let mut entries = Cursor::entries(&root);
        while entries.next(&mut source)?.is_some() {}
        let mut list = Cursor::chunks(&root);
        while let Some(chunk) = list.next(&mut source)? {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            if !chunks.has(&chunk.id).map_err(ReadError::Source)? {
                return Err(ReadError::Missing(chunk.id));
            }
        }
        Ok(Some(root.size))
    };
    match read() {
        Ok(size) => size.ok_or(BackupError::Stopped),
        Err(ReadError::Source(error)) => Err(error.into()),
        Err(error) => Err(BackupError::Damaged(format!("manifest {manifest}: {error}"))),
    }
}
