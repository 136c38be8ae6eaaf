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
