//! Reads all of a version and says which of its files are not whole, in memory that does not grow with it.
//!
//! Chunks are read in the order of the stream, and files in the order of their offsets, so that a bad chunk is told of
//! the files that it is part of. Where a page of the manifest itself is bad, what lies behind it cannot be known.

use bib_core::api::care::Hurt;
use bib_core::chunk::Chunk;
use bib_core::id::{ChunkId, ManifestId};
use bib_core::limits::{MAX_HURT_NAMED, MAX_HURT_PER_STEP};
use bib_core::model::manifest::reader::{self, Cursor, ReadError};
use bib_core::model::manifest::{ChunkRef, Entry, Root};
use bib_core::port::StoreError;

use crate::store::Stores;

/// How a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Good,
    Damaged,
    Missing,
}

/// What was found so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Figures {
    pub(crate) bytes: u64,
    pub(crate) chunks: u64,
    pub(crate) hurt_files: u64,
    pub(crate) damaged: u64,
    pub(crate) missing: u64,
}

impl Figures {
    /// Whether everything is here and right.
    pub(crate) const fn is_whole(&self) -> bool {
        self.damaged == 0 && self.missing == 0
    }
}

struct Open {
    root: Root,
    chunks: Option<Cursor<ChunkRef>>,
    entries: Option<Cursor<Entry>>,
}

/// See the module.
pub(crate) struct Verifier {
    stores: Stores,
    manifest: ManifestId,
    open: Option<Open>,
    is_done: bool,
    figures: Figures,
    /// The file that a bad chunk ended in, and where that file ends.
    hurt: Option<(Hurt, u64)>,
    /// What a step has found.
    found: Vec<Hurt>,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("manifest", &self.manifest).finish_non_exhaustive()
    }
}

fn read_chunk(stores: &Stores, id: &ChunkId, figures: &mut Figures) -> Result<(Health, Option<Chunk>), StoreError> {
    figures.chunks += 1;
    match stores.chunks().get(id) {
        Ok(Some(chunk)) => Ok((Health::Good, Some(chunk))),
        Ok(None) if stores.chunks().is_damaged(id)? => {
            figures.damaged += 1;
            Ok((Health::Damaged, None))
        }
        Ok(None) => {
            figures.missing += 1;
            Ok((Health::Missing, None))
        }
        Err(error @ (StoreError::Corrupt(_) | StoreError::Changed { .. })) => {
            log::warn!(chunk = id.short(), why:% = error; "a chunk is damaged");
            figures.damaged += 1;
            Ok((Health::Damaged, None))
        }
        Err(error) => Err(error),
    }
}

impl Verifier {
    pub(crate) fn new(stores: Stores, manifest: ManifestId) -> Self {
        let (figures, found) = (Figures::default(), Vec::new());
        Self { stores, manifest, open: None, is_done: false, figures, hurt: None, found }
    }

    pub(crate) const fn figures(&self) -> Figures {
        self.figures
    }

    pub(crate) const fn is_done(&self) -> bool {
        self.is_done
    }

    /// Reads on by about `max` bytes. Yields the files that are not whole.
    pub(crate) fn step(&mut self, max: u64) -> Result<Vec<Hurt>, StoreError> {
        let (stores, end) = (self.stores.clone(), self.figures.bytes.saturating_add(max));
        let mut figures = self.figures;
        let mut page_health = Health::Good;
        let mut source = |id: &ChunkId| {
            let (health, chunk) = read_chunk(&stores, id, &mut figures)?;
            page_health = health;
            Ok::<_, StoreError>(chunk.map(Chunk::into_raw))
        };
        if self.open.is_none() {
            match reader::root(self.manifest, &mut source) {
                Ok(root) => {
                    let (chunks, entries) = (Some(Cursor::chunks(&root)), Some(Cursor::entries(&root)));
                    self.open = Some(Open { root, chunks, entries });
                }
                Err(error) => {
                    self.is_done = true;
                    let hurt = of_page(error, page_health)?;
                    self.figures = figures;
                    return Ok(vec![hurt]);
                }
            }
        }
        self.figures = figures;
        while self.figures.bytes < end && !self.is_done && self.found.len() < MAX_HURT_PER_STEP {
            self.next()?;
        }
        Ok(std::mem::take(&mut self.found))
    }

    /// One chunk, or the end.
    fn next(&mut self) -> Result<(), StoreError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let Some(cursor) = &mut open.chunks else {
            return self.finish();
        };
        let (stores, mut figures, mut health) = (self.stores.clone(), self.figures, Health::Good);
        let begin = cursor.offset();
        let mut source = |id: &ChunkId| {
            let (found, chunk) = read_chunk(&stores, id, &mut figures)?;
            health = found;
            Ok::<_, StoreError>(chunk.map(Chunk::into_raw))
        };
        let next = cursor.next(&mut source);
        let chunk = match next {
            Ok(chunk) => chunk,
            Err(error) => {
                let hurt = of_page(error, health)?;
                self.figures = figures;
                self.found.push(hurt);
                open.chunks = None;
                return Ok(());
            }
        };
        let Some(chunk) = chunk else {
            self.figures = figures;
            open.chunks = None;
            return Ok(());
        };
        let (health, _) = read_chunk(&stores, &chunk.id, &mut figures)?;
        figures.bytes += u64::from(chunk.len);
        self.figures = figures;
        if health == Health::Good { Ok(()) } else { self.blame(begin, begin + u64::from(chunk.len), health) }
    }

    /// Names the files that have bytes of a bad chunk.
    fn blame(&mut self, begin: u64, end: u64, health: Health) -> Result<(), StoreError> {
        let count = |hurt: &mut Hurt| match health {
            Health::Damaged => hurt.damaged += 1,
            Health::Missing => hurt.missing += 1,
            Health::Good => {}
        };
        match &mut self.hurt {
            Some((hurt, file_end)) if *file_end > begin => {
                count(hurt);
                if *file_end >= end {
                    return Ok(());
                }
            }
            _ => {}
        }
        self.tell();
        let Some(Open { entries: Some(entries), .. }) = &mut self.open else { return Ok(()) };
        let (stores, mut figures, mut page_health) = (self.stores.clone(), self.figures, Health::Good);
        let mut source = |id: &ChunkId| {
            let (health, chunk) = read_chunk(&stores, id, &mut figures)?;
            page_health = health;
            Ok::<_, StoreError>(chunk.map(Chunk::into_raw))
        };
        let mut hurt: Vec<(Hurt, u64)> = Vec::new();
        let mut failed = None;
        loop {
            match entries.peek(&mut source) {
                Ok(Some(entry)) if entry.offset < end => {
                    if let Err(error) = entries.next(&mut source) {
                        failed = Some(error);
                        break;
                    }
                    let file_end = entry.offset.saturating_add(entry.size);
                    if file_end > begin && entry.size > 0 && hurt.len() >= MAX_HURT_NAMED {
                        // One chunk can be part of a million files; the rest is counted.
                        self.figures.hurt_files += 1;
                    } else if file_end > begin && entry.size > 0 {
                        let mut one = Hurt { path: Some(entry.path), damaged: 0, missing: 0 };
                        count(&mut one);
                        hurt.push((one, file_end));
                    }
                }
                Ok(_) => break,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        self.figures = Figures { hurt_files: self.figures.hurt_files, ..figures };
        // Only the last one may go on in the next chunk.
        let last = hurt.pop();
        for (one, _) in hurt {
            self.figures.hurt_files += 1;
            self.found.push(one);
        }
        self.hurt = last;
        if let Some(error) = failed {
            self.found.push(of_page(error, page_health)?);
            if let Some(open) = &mut self.open {
                open.entries = None;
            }
        }
        Ok(())
    }

    /// The file in hand has all its bad chunks.
    fn tell(&mut self) {
        if let Some((hurt, _)) = self.hurt.take() {
            self.figures.hurt_files += 1;
            self.found.push(hurt);
        }
    }

    /// All chunks were read: the pages that list the files are left.
    fn finish(&mut self) -> Result<(), StoreError> {
        self.tell();
        self.is_done = true;
        let Some(Open { root, .. }) = &self.open else { return Ok(()) };
        let mut entries = Cursor::entries(root);
        let (stores, mut figures, mut health) = (self.stores.clone(), self.figures, Health::Good);
        // Those that were read for a bad chunk are not counted again.
        let mut ignored = Figures::default();
        let mut source = |id: &ChunkId| {
            let (found, chunk) = read_chunk(&stores, id, &mut ignored)?;
            health = found;
            Ok::<_, StoreError>(chunk.map(Chunk::into_raw))
        };
        let error = loop {
            match entries.next(&mut source) {
                Ok(Some(_)) => {}
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        if let Some(error) = error
            && self.open.as_ref().is_some_and(|open| open.entries.is_some())
        {
            let hurt = of_page(error, health)?;
            (figures.damaged, figures.missing) = (figures.damaged + hurt.damaged, figures.missing + hurt.missing);
            self.found.push(hurt);
        }
        self.figures = figures;
        Ok(())
    }
}

/// What a bad page means: the list of files is not whole.
fn of_page(error: ReadError<StoreError>, health: Health) -> Result<Hurt, StoreError> {
    match (error, health) {
        (ReadError::Source(error), _) => Err(error),
        (ReadError::Missing(_), Health::Missing) => Ok(Hurt { path: None, damaged: 0, missing: 1 }),
        _ => Ok(Hurt { path: None, damaged: 1, missing: 0 }),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bib_core::chunker::ChunkerParams;
    use bib_core::model::DatasetPath;
    use bib_core::model::manifest::builder::{Builder, Piece};
    use bib_core::model::manifest::{EntryKind, ManifestKind};

    use super::*;
    use crate::config::Budget;
    use crate::config::budget::MIN_MEMORY;
    use crate::runtime::Pool;
    use crate::store::Store;

    /// Stores files but for the chunks that `skip` names by their place.
    fn store(dir: &Path, files: &[(&str, usize)], skip: &[usize]) -> (Store, ManifestId, Vec<ChunkId>) {
        let (store, _) = Store::open(dir, &Budget::of(MIN_MEMORY), Pool::new(1), None).unwrap();
        let stores = store.stores();
        let mut ids = Vec::new();
        let mut sink = |piece: Piece| {
            let (chunk, is_content) = match piece {
                Piece::Content(chunk) => (chunk, true),
                Piece::Page(chunk) => (chunk, false),
            };
            if is_content {
                ids.push(chunk.id());
            }
            if !is_content || !skip.contains(&(ids.len() - 1)) {
                stores.chunks().put(&chunk.compress())?;
            }
            Ok::<_, StoreError>(())
        };
        let mut builder = Builder::new(ManifestKind::Tree, ChunkerParams::with_average(16 << 10));
        for (n, (name, len)) in files.iter().enumerate() {
            builder.begin(DatasetPath::new(name).unwrap(), EntryKind::File, &mut sink).unwrap();
            let noise: Vec<u8> = (0..*len as u64 / 32 + 1)
                .flat_map(|i| bib_core::hash::hash(&[n as u64, i].map(u64::to_be_bytes).concat()))
                .collect();
            builder.push(&noise[..*len], &mut sink).unwrap();
        }
        let manifest = builder.finish(None, &mut sink).unwrap().manifest;
        (store, manifest, ids)
    }

    fn verify(store: &Store, manifest: ManifestId, step: u64) -> (Vec<(String, u64)>, Figures) {
        let mut verifier = Verifier::new(store.stores(), manifest);
        let mut hurt = Vec::new();
        while !verifier.is_done() {
            let step = verifier.step(step).unwrap();
            hurt.extend(
                step.into_iter()
                    .map(|hurt| (hurt.path.map_or_else(String::new, |path| path.to_string()), hurt.missing)),
            );
        }
        (hurt, verifier.figures())
    }

    const FILES: [(&str, usize); 6] =
        [("a", 5), ("b", 7), ("c/empty", 0), ("large", 600_000), ("tail/x", 20), ("tail/y", 30)];

    #[test]
    fn whole_version_hurts_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (store, manifest, ids) = store(dir.path(), &FILES, &[]);
        let (hurt, figures) = verify(&store, manifest, 1);
        assert_eq!(hurt, []);
        assert!(figures.is_whole() && figures.chunks > ids.len() as u64, "{figures:?}");
        assert_eq!(figures.bytes, FILES.iter().map(|(_, len)| *len as u64).sum::<u64>());
    }

    #[test]
    fn each_file_of_a_bad_chunk_is_named_once_with_how_many_it_lacks() {
        let dir = tempfile::tempdir().unwrap();
        let (_, _, ids) = store(dir.path(), &FILES, &[]);
        let last = ids.len() - 1;
        assert!(last > 8, "{last}");
        let dir = tempfile::tempdir().unwrap();
        let (store, manifest, _) = store(dir.path(), &FILES, &[0, 3, 4, last]);
        for step in [1, 100_000, 1 << 30] {
            let (hurt, figures) = verify(&store, manifest, step);
            let named = |name: &str, n| (name.to_owned(), n);
            assert_eq!(
                hurt,
                [named("a", 1), named("b", 1), named("large", 2), named("tail/x", 1), named("tail/y", 1)],
                "in steps of {step}"
            );
            assert_eq!((figures.hurt_files, figures.missing, figures.damaged), (5, 4, 0));
        }
    }

    #[test]
    fn version_without_its_root_is_hurt_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _, _) = store(dir.path(), &[], &[]);
        let (hurt, figures) = verify(&store, ManifestId::from_bytes([1; 32]), 1);
        assert_eq!(hurt, [(String::new(), 1)]);
        assert_eq!(figures.missing, 1);
    }
}
