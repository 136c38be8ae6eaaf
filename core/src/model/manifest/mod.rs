//! A manifest: the files of a version and the ordered chunks of each, as a hash tree of pages.
//!
//! The content of a version is one stream of bytes: its files one after another, in the order of their paths' bytes.
//! Chunks cut that stream; a large file begins with a fresh chunk, neighbouring small files share chunks. An entry
//! names its file by the offset in the stream, so that an entry stays small and a range of a file is found by one
//! search in the chunk lists.
//!
//! Every page is at most 256 KiB and is stored and sent like a chunk, under its hash; the id of the root page is the
//! [`ManifestId`](crate::id::ManifestId). A page is trusted because a page above it, and the root because a signed
//! operation, names its hash.
//!
//! Stability: format version 1, described in `docs/format.md`.

pub mod builder;
pub mod reader;

use serde::{Deserialize, Serialize};

use crate::chunker::ChunkerParams;
use crate::encode::Versioned;
use crate::id::{ChunkId, ContentId};
use crate::limits::MAX_PAGE_LEN;
use crate::model::DatasetPath;

/// Whether a version is one file or a tree of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ManifestKind {
    /// One file; `get` writes it where it is told.
    File,
    /// Files below a folder; `get` writes them below where it is told.
    Tree,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    /// A file.
    File,
    /// A file that its owner may execute.
    Executable,
    /// A folder with nothing in it; others are implied by the paths.
    EmptyDir,
}

/// One file (or empty folder) of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where it is, relative to the root of the version.
    pub path: DatasetPath,
    /// What it is.
    pub kind: EntryKind,
    /// Its bytes.
    pub size: u64,
    /// Plain BLAKE3 of its bytes.
    pub content: ContentId,
    /// Where its first byte is in the stream of the version.
    pub offset: u64,
}

/// One chunk of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkRef {
    /// Its id.
    pub id: ChunkId,
    /// Its raw bytes.
    pub len: u32,
}

/// A page below: what it is called and what lies in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageRef {
    /// Its hash.
    pub id: ChunkId,
    /// Its encoded bytes.
    pub len: u32,
    /// Entries or chunks in all leaves below it.
    pub count: u64,
    /// Bytes of the stream that the chunks below it cover; 0 above entries.
    pub bytes: u64,
    /// Path of the first entry below it; empty above chunks.
    pub first: String,
}

/// A list that is in the page itself while it is short, else a tree of pages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PageList<T> {
    /// The items.
    Inline(Vec<T>),
    /// Pages of items (`depth` 0) or of pages (`depth` > 0, counted from the leaves).
    Pages {
        /// Levels of index pages between these pages and the leaves.
        depth: u8,
        /// In order.
        pages: Vec<PageRef>,
    },
}

/// A column of tabular content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type, as SQL calls it.
    pub sql_type: String,
    /// Whether it has empty cells.
    pub nullable: bool,
}

/// The root page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// File or tree.
    pub kind: ManifestKind,
    /// How the stream was cut.
    pub chunker: ChunkerParams,
    /// Entries.
    pub n_entries: u64,
    /// Chunks.
    pub n_chunks: u64,
    /// Bytes of the stream.
    pub size: u64,
    /// The entries, in the order of their paths' bytes.
    pub entries: PageList<Entry>,
    /// The chunks, in the order of the stream.
    pub chunks: PageList<ChunkRef>,
    /// Columns, where the content is a table and they are known.
    pub columns: Option<Vec<Column>>,
}

/// A page of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Page {
    /// The root.
    Root(Root),
    /// Pages of the level below.
    Index(Vec<PageRef>),
    /// A run of entries.
    Entries(Vec<Entry>),
    /// A run of chunks.
    Chunks(Vec<ChunkRef>),
}

impl Versioned for Page {
    const WHAT: &'static str = "manifest page";
    const MAX_LEN: usize = MAX_PAGE_LEN;
}
