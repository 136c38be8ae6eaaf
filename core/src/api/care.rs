//! What a node tells about the care it takes of its store.

use serde::{Deserialize, Serialize};

use crate::catalog::record::Kept;
use crate::id::ManifestId;
use crate::model::DatasetPath;
use crate::time::Timestamp;

/// Work that a node does by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// Its name.
    pub name: String,
    /// What it does now, or why it does not get on.
    pub state: String,
    /// When it last came to an end.
    pub last_run: Option<Timestamp>,
    /// When it begins next; `None` when it is told.
    pub next_run: Option<Timestamp>,
    /// How far it is: done, and in all where that is known.
    pub progress: Option<(u64, Option<u64>)>,
    /// What its last run came to, by name.
    pub figures: Vec<(String, u64)>,
}

/// A file that is not whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hurt {
    /// Its path; `None` for the list of files itself.
    pub path: Option<DatasetPath>,
    /// Chunks of it that are damaged.
    pub damaged: u64,
    /// Chunks of it that are not here.
    pub missing: u64,
}

/// What a check of a version came to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Verified {
    /// The version: `topic/dataset@1.2.0`.
    pub reference: String,
    /// Bytes of content that were read.
    pub bytes: u64,
    /// Chunks and pages that were read.
    pub chunks: u64,
    /// Files that are not whole.
    pub hurt_files: u64,
    /// Chunks and pages that are damaged.
    pub damaged: u64,
    /// Chunks and pages that are not here.
    pub missing: u64,
    /// Bytes that were fetched to mend it.
    pub fetched: u64,
}

/// Content that a user of the node keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinned {
    /// Root page of the manifest.
    pub manifest: ManifestId,
    /// How it is called, and since when it is kept.
    pub kept: Kept,
    /// Whether all of it is here.
    pub here: bool,
}

/// What a collection of garbage found and did. Bytes are those on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Collected {
    /// Whether it only looked.
    pub dry_run: bool,
    /// Chunks that are in use.
    pub live_chunks: u64,
    /// Their bytes.
    pub live_bytes: u64,
    /// Chunks that nothing names, too young to go.
    pub young_chunks: u64,
    /// Their bytes.
    pub young_bytes: u64,
    /// Chunks that nothing names and that went, or would.
    pub dead_chunks: u64,
    /// Their bytes.
    pub dead_bytes: u64,
    /// Bytes that whole files gave back.
    pub unlinked_bytes: u64,
    /// Bytes that holes in files gave back.
    pub punched_bytes: u64,
    /// Bytes that files gave back which were written anew.
    pub rewritten_bytes: u64,
    /// Bytes that were written for it.
    pub written_bytes: u64,
    /// Contents of withdrawn versions that were given up because space is short.
    pub evicted: u64,
}

/// What a look at stored bytes came to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Scrubbed {
    /// Chunks that were read.
    pub chunks: u64,
    /// Their bytes on the disk.
    pub bytes: u64,
    /// How many of them are damaged.
    pub damaged: u64,
    /// What they hurt: versions as far as there are any, else manifests.
    pub hurt: Vec<String>,
}

/// What an index made anew has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rebuilt {
    /// Chunks.
    pub chunks: u64,
    /// Their bytes on the disk.
    pub bytes: u64,
    /// Chunks that the index before named and that are whole in no segment.
    pub lost: u64,
}

/// What uses the space of a store, as the last collection counted it. Content that several share counts once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Space {
    /// When it was counted; `None` before the first collection, when the five that follow are 0.
    pub counted_at: Option<Timestamp>,
    /// Bytes of versions.
    pub live_bytes: u64,
    /// Bytes of what is pinned or waits for its operation, and no version names.
    pub kept_bytes: u64,
    /// Bytes of what is kept for a while after its versions went.
    pub released_bytes: u64,
    /// Bytes of what nothing names and is not yet given back.
    pub unreferenced_bytes: u64,
    /// Bytes on the disk that chunks left behind, to be given back.
    pub dead_bytes: u64,
    /// Bytes of the index.
    pub index_bytes: u64,
    /// Bytes of the catalog.
    pub catalog_bytes: u64,
    /// Bytes that the chunk store may take.
    pub quota_bytes: u64,
    /// Bytes that may still be stored.
    pub remaining_bytes: u64,
    /// Chunks that are damaged.
    pub damaged_chunks: u64,
}
