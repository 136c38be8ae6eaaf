//! `bibd rebuild`: a new index of the chunk store, for a node that does not start with the one it has.

use std::path::Path;

use argh::{ArgsInfo, FromArgs};
use bib_core::api::{ErrorCode, Failure};
use bib_core::port::{ChunkStore, ChunkStoreStats, StoreError};
use bib_storage_redb::{Folder, SegmentStore};

use super::{Idle, Streams, identity};
use crate::config::Budget;
use crate::identity::load_or_make;
use crate::service::store_failure;
use crate::store::{SEGMENTS, new_seed};

/// The index, and where it waits until there is a new one. The store leaves names that begin like it alone.
const INDEX: &str = "index.redb";
const ASIDE: &str = "index.redb.aside";

/// make the index of the chunk store anew from its segments
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "rebuild",
    help_triggers("-h", "--help"),
    example = "{command_name} --data-dir /srv/bib",
    note = "Prints how many chunks of how many bytes the new index names. When that fails, the old one is back in its place.\n\
    A node that runs does the same with `bib admin rebuild`; what writes waits for it, what reads does not."
)]
pub struct RebuildArgs {
    /// where everything is kept
    #[argh(option, arg_name = "folder")]
    pub(super) data_dir: Option<String>,
}

pub(super) fn run(idle: &Idle, (encrypt, budget): (bool, &Budget), streams: &mut Streams<'_>) -> Result<(), Failure> {
    let dir = idle.dir().join(SEGMENTS);
    // A node that has lost its segments begins without them.
    if !dir.exists() && idle.dir().join("catalog.redb").is_file() {
        std::fs::create_dir(&dir).map_err(|error| refused(&dir, &error))?;
    }
    if !dir.is_dir() {
        let message = format!("`{}` has no chunk store", idle.dir().display());
        return Err(
            Failure::new(ErrorCode::NotFound, message).hinted("name the data directory with `--data-dir <folder>`")
        );
    }
    let key = load_or_make(idle.dir()).map_err(|error| identity::failure(&error))?;
    // As the node would open it.
    let keys = crate::node::keys(idle.dir(), encrypt, &key, budget)
        .map_err(|error| Failure::new(ErrorCode::Precondition, error.to_string()).hinted(error.hint()))?;
    let keyring = keys.map(|keys| keys.keyring.clone());
    let (index, aside) = (dir.join(INDEX), dir.join(ASIDE));
    // One that was set aside by an attempt that was killed is the better one only while there is no other.
    if index.exists() {
        std::fs::rename(&index, &aside).map_err(|error| refused(&index, &error))?;
    }
    let made = Folder::new(dir).map_err(StoreError::from).and_then(|folder| {
        let seed = new_seed()?;
        let store = SegmentStore::open_with(Box::new(folder), budget.index_cache, seed, Default::default(), keyring)?;
        store.flush()?;
        store.stats()
    });
    match made {
        Ok(ChunkStoreStats { n_chunks, stored_bytes, .. }) => {
            if aside.exists() {
                std::fs::remove_file(&aside).map_err(|error| refused(&aside, &error))?;
            }
            streams.line(&format!("chunks {n_chunks}"))?;
            streams.line(&format!("bytes {stored_bytes}"))
        }
        Err(error) => {
            if aside.exists() {
                std::fs::rename(&aside, &index).map_err(|error| refused(&aside, &error))?;
                streams.note("the old index is back in its place");
            }
            Err(store_failure(&error))
        }
    }
}

fn refused(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(ErrorCode::Denied, format!("`{}` cannot be moved: {error}", path.display()))
        .hinted("run this as the user that runs bibd; `ls -l` shows who may write there")
}

#[cfg(test)]
mod tests {
    use bib_core::chunk::Chunk;

    use super::*;
    use crate::config::budget::MIN_MEMORY;

    fn rebuild(dir: &Path) -> Result<String, Failure> {
        let idle = Idle::take(dir)?;
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams { input: &mut &b""[..], out: &mut out, err: &mut err };
        run(&idle, (false, &Budget::of(MIN_MEMORY)), &mut streams)?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn open(dir: &Path) -> Result<SegmentStore, StoreError> {
        SegmentStore::open(Box::new(Folder::new(dir.join(SEGMENTS)).unwrap()), 1 << 20, [1; 16])
    }

    #[test]
    fn index_that_is_garbage_is_made_anew_and_names_everything() {
        let dir = tempfile::tempdir().unwrap();
        let chunks: Vec<Chunk> = (0..20u8).map(|n| Chunk::from_raw(vec![n; 5_000])).collect();
        {
            let store = open(dir.path()).unwrap();
            chunks.iter().for_each(|chunk| assert!(store.put(chunk).unwrap()));
            store.flush().unwrap();
        }
        std::fs::write(dir.path().join(SEGMENTS).join(INDEX), [7; 40_000]).unwrap();
        assert!(open(dir.path()).is_err());
        assert!(rebuild(dir.path()).unwrap().starts_with("chunks 20\nbytes "));
        let store = open(dir.path()).unwrap();
        assert!(chunks.iter().all(|chunk| store.get(&chunk.id()).unwrap().is_some()));
        assert!(!dir.path().join(SEGMENTS).join(ASIDE).exists());
    }

    #[test]
    fn directory_without_a_chunk_store_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(rebuild(dir.path()).unwrap_err().code, ErrorCode::NotFound);
        assert!(!dir.path().join(SEGMENTS).exists());
    }
}
