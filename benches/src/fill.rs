//! Data directories as they are after years, made in seconds: through the stores, while no node runs on them.

use std::path::Path;

use bib_core::apply::Reducer;
use bib_core::chunk::RawChunk;
use bib_core::chunker::ChunkerParams;
use bib_core::command::{Command, OpOutcome, Origin};
use bib_core::id::{DatasetId, OpId, TopicId};
use bib_core::key::SecretKey;
use bib_core::model::manifest::builder::{Builder, Built, Piece};
use bib_core::model::manifest::{EntryKind, ManifestKind};
use bib_core::model::{ContentFormat, DatasetPath, Name, Visibility};
use bib_core::op::operation::{FieldChanges, NewVersion};
use bib_core::op::{Body, Operation, Unsigned};
use bib_core::port::{Catalog, ChunkStore, StoreError};
use bib_core::time::Timestamp;
use bib_storage_redb::{Folder, RedbCatalog, SegmentStore};

use crate::failure::{During, Failure, Result};

/// Pages of each database that are kept while it is filled, in bytes.
const CACHE: usize = 64 << 20;
/// Datasets in one commit.
const AT_ONCE: usize = 500;

fn open_chunks(data_dir: &Path) -> Result<SegmentStore> {
    let folder = Folder::new(data_dir.join("segments")).during("open the segments")?;
    SegmentStore::open(Box::new(folder), CACHE, [5; 16]).during("open the chunk store")
}

/// Puts `n` chunks of 8 bytes into the chunk store of a data directory.
///
/// # Errors
/// When the store cannot be opened or written.
pub fn chunks(data_dir: &Path, n: u64) -> Result<()> {
    let store = open_chunks(data_dir)?;
    for i in 0..n {
        store.put(&RawChunk::new(i.to_le_bytes().to_vec()).compress()).during("put a chunk")?;
    }
    store.flush().during("flush the chunk store")
}

/// Puts a topic with `n` datasets into a data directory, each with one version of one small file.
///
/// # Errors
/// When a store cannot be opened or written, or an operation is refused.
pub fn datasets(data_dir: &Path, n: u64) -> Result<()> {
    let store = open_chunks(data_dir)?;
    let folder = Folder::new(data_dir.to_owned()).during("open the data directory")?;
    let catalog = RedbCatalog::open(&folder, CACHE).during("open the catalog")?;
    let mut chain = Chain { key: SecretKey::from_seed([9; 32]), topic: None, last: None, lamport: 0 };
    let name = |text: &str| Name::new(text).during("a name");
    let create = Body::CreateTopic {
        parent: None,
        name: name("filled")?,
        visibility: Visibility::Public,
        fields: FieldChanges::default(),
    };
    let topic = chain.next(create)?;
    chain.topic = Some(TopicId::from(topic.id()));
    let mut reducer = Reducer::new(4 << 20);
    apply(&catalog, &mut reducer, &[], vec![topic])?;

    let (mut staged, mut ops) = (Vec::new(), Vec::new());
    for i in 0..n {
        let built = content(&store, i)?;
        let dataset =
            chain.next(Body::CreateDataset { name: name(&format!("d{i}"))?, fields: FieldChanges::default() })?;
        let version = chain.next(Body::PublishVersion(NewVersion {
            dataset: DatasetId::from(dataset.id()),
            semver: semver::Version::new(1, 0, 0),
            previous: None,
            message: "made to be many".to_owned(),
            manifest: built.manifest,
            content: built.content,
            size: built.size,
            n_files: built.n_files,
            format: ContentFormat::Text,
            schema: None,
            row_count: None,
            license: None,
            source_url: None,
        }))?;
        staged.push(Command::Stage(built.manifest));
        ops.extend([dataset, version]);
        if staged.len() == AT_ONCE || i + 1 == n {
            store.flush().during("flush the chunk store")?;
            apply(&catalog, &mut reducer, &staged, std::mem::take(&mut ops))?;
            staged.clear();
        }
    }
    Ok(())
}

/// Operations of one author, each following the one before.
struct Chain {
    key: SecretKey,
    topic: Option<TopicId>,
    last: Option<OpId>,
    lamport: u64,
}

/// When all this was made: 2026-01-01.
const THEN: Timestamp = Timestamp(1_767_225_600_000_000);

impl Chain {
    fn next(&mut self, body: Body) -> Result<Operation> {
        self.lamport += 1;
        let unsigned = Unsigned {
            topic: self.topic,
            author: self.key.user_id(),
            lamport: self.lamport,
            time: THEN,
            parents: self.last.into_iter().collect(),
            keeps: Vec::new(),
            body,
        };
        let op = unsigned.sign(&self.key).during("sign an operation")?;
        self.last = Some(op.id());
        Ok(op)
    }
}

/// Stores a file of one line.
fn content(store: &SegmentStore, i: u64) -> Result<Built> {
    let mut builder = Builder::new(ManifestKind::File, ChunkerParams::default());
    let mut put = |piece: Piece| -> std::result::Result<(), StoreError> {
        let (Piece::Content(raw) | Piece::Page(raw)) = piece;
        store.put(&raw.compress()).map(drop)
    };
    let path = DatasetPath::new("line.txt").during("a path")?;
    builder.begin(path, EntryKind::File, &mut put).during("begin a file")?;
    builder.push(format!("line {i}\n").as_bytes(), &mut put).during("add to a file")?;
    builder.finish(None, &mut put).during("end a file")
}

/// In one transaction.
fn apply(catalog: &RedbCatalog, reducer: &mut Reducer, before: &[Command], ops: Vec<Operation>) -> Result<()> {
    let mut outcomes = Vec::new();
    let command = Command::Apply { ops, origin: Origin::User };
    let done = catalog.write(&mut |txn| {
        for command in before {
            reducer.apply(txn, command, THEN)?;
        }
        outcomes = reducer.apply(txn, &command, THEN)?.outcomes;
        Ok(())
    });
    done.during("write the catalog")?;
    match outcomes.iter().find(|outcome| **outcome != OpOutcome::New) {
        Some(other) => Err(Failure(format!("an operation is not taken: {other:?}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use bib_core::port::Table;

    use super::*;

    #[test]
    fn a_filled_directory_has_the_chunks_and_datasets_that_were_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        chunks(dir.path(), 300).unwrap();
        datasets(dir.path(), 20).unwrap();
        assert_eq!(open_chunks(dir.path()).unwrap().stats().unwrap().n_chunks, 300 + 2 * 20);
        let catalog = RedbCatalog::open(&Folder::new(dir.path().to_owned()).unwrap(), CACHE).unwrap();
        let read = catalog.begin_read().unwrap();
        for (table, n) in [(Table::Topics, 1), (Table::Datasets, 20), (Table::Versions, 20), (Table::Pins, 20)] {
            assert_eq!(read.len(table).unwrap(), n, "{table:?}");
        }
    }
}
