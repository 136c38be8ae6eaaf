//! Makes a manifest in one pass over the files, in memory that does not grow with them.
//!
//! What is cut goes to a sink at once: chunks of content, and pages as soon as they are full. A page ends where the
//! hash of an item says so, hence pages of two versions are the same where their items are. A file of at least
//! [`LARGE_FILE`] bytes begins and ends at a cut, so that its chunks are the same in every version and dataset.
//!
//! Deliberately absent: reading files and storing chunks.

use serde::Serialize;

use super::{ChunkRef, Column, Entry, EntryKind, ManifestKind, Page, PageList, PageRef, Root};
use crate::chunk::RawChunk;
use crate::chunker::{Chunker, ChunkerParams};
use crate::encode::encode;
use crate::hash::{Hasher, hash};
use crate::id::{ContentId, ManifestId};
use crate::limits::{MAX_PAGE_DEPTH, MAX_PAGE_LEN};
use crate::model::DatasetPath;

/// A file of at least so many bytes has chunks of its own; so many bytes of each file are held until that is known.
pub const LARGE_FILE: usize = 256 << 10;
/// A page with fewer bytes than this is not ended by the hash of an item, in bytes.
const MIN_PAGE: usize = 16 << 10;
/// A page ends before it has more bytes than this; leaves room for what stands around the items, in bytes.
const FULL_PAGE: usize = MAX_PAGE_LEN - (8 << 10);
/// After [`MIN_PAGE`], one item in so many ends a page.
const CUT_ONE_IN: u32 = 512;
/// Most bytes that each of the two lists may take in the root page; together they fit well.
const MAX_LIST_IN_ROOT: usize = 96 << 10;

/// What the builder hands to the sink.
#[derive(Debug)]
pub enum Piece {
    /// Bytes of the version.
    Content(RawChunk),
    /// A page of the manifest.
    Page(RawChunk),
}

/// Why files do not make a manifest, or `E` of the sink.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError<E> {
    /// Entries did not come in the order of their paths' bytes.
    #[error("`{0}` comes after a path that sorts behind it")]
    OutOfOrder(DatasetPath),
    /// A path came twice.
    #[error("`{0}` comes twice")]
    Twice(DatasetPath),
    /// A path leads through a file or an empty folder.
    #[error("`{0}` lies below a file, or below a folder said to be empty")]
    Below(DatasetPath),
    /// Bytes came before a file.
    #[error("bytes came that belong to no file")]
    NoFile,
    /// A version of the kind `file` has exactly one file.
    #[error("a version of one file has exactly one file")]
    NotOneFile,
    /// There are more entries than a manifest can name.
    #[error("there are too many files for one version")]
    TooMany,
    /// The sink failed.
    #[error(transparent)]
    Sink(E),
}

/// What was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The root page.
    pub manifest: ManifestId,
    /// Hash of the one file, else the manifest.
    pub content: ContentId,
    /// Bytes of all files.
    pub size: u64,
    /// Files.
    pub n_files: u64,
    /// Chunks of content.
    pub n_chunks: u64,
}

struct OpenFile {
    path: DatasetPath,
    kind: EntryKind,
    offset: u64,
    hasher: Hasher,
    size: u64,
    /// The first bytes, while it is not known whether the file is large.
    held: Vec<u8>,
    large: bool,
}

/// See the module.
pub struct Builder {
    kind: ManifestKind,
    params: ChunkerParams,
    chunker: Chunker,
    file: Option<OpenFile>,
    /// Paths of entries that are textual beginnings of the last one: only below these can a path collide.
    beginnings: Vec<String>,
    last: Option<String>,
    entries: Pages<Entry>,
    chunks: Pages<ChunkRef>,
    size: u64,
    n_files: u64,
    content: Option<ContentId>,
}

impl Builder {
    /// A builder of a version without files yet.
    ///
    /// # Panics
    /// If the chunker's parameters are not valid.
    pub fn new(kind: ManifestKind, params: ChunkerParams) -> Self {
        Self {
            kind,
            params,
            chunker: Chunker::new(params),
            file: None,
            beginnings: Vec::new(),
            last: None,
            entries: Pages::new(),
            chunks: Pages::new(),
            size: 0,
            n_files: 0,
            content: None,
        }
    }

    /// Bytes of all files so far.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Files so far.
    pub const fn n_files(&self) -> u64 {
        self.n_files
    }

    /// Ends the file before and begins one, or names an empty folder.
    ///
    /// # Errors
    /// [`BuildError`] when the path cannot come here, or the sink fails.
    pub fn begin<E>(
        &mut self,
        path: DatasetPath,
        kind: EntryKind,
        mut sink: impl FnMut(Piece) -> Result<(), E>,
    ) -> Result<(), BuildError<E>> {
        self.end_file(&mut sink)?;
        self.check_place(&path)?;
        if self.kind == ManifestKind::File && (self.n_files > 0 || kind == EntryKind::EmptyDir) {
            return Err(BuildError::NotOneFile);
        }
        if kind == EntryKind::EmptyDir {
            let nothing = ContentId::from_bytes(hash(&[]));
            return self.add_entry(Entry { path, kind, size: 0, content: nothing, offset: self.size }, &mut sink);
        }
        self.n_files += 1;
        self.file = Some(OpenFile {
            path,
            kind,
            offset: self.size,
            hasher: Hasher::new(),
            size: 0,
            held: Vec::new(),
            large: false,
        });
        Ok(())
    }

    /// Adds bytes to the file begun last.
    ///
    /// # Errors
    /// [`BuildError`] when there is no file, or the sink fails.
    pub fn push<E>(&mut self, bytes: &[u8], mut sink: impl FnMut(Piece) -> Result<(), E>) -> Result<(), BuildError<E>> {
        let file = self.file.as_mut().ok_or(BuildError::NoFile)?;
        file.hasher.update(bytes);
        file.size += bytes.len() as u64;
        self.size += bytes.len() as u64;
        if file.large {
            return self.cut(bytes, &mut sink);
        }
        file.held.extend_from_slice(bytes);
        if file.held.len() < LARGE_FILE {
            return Ok(());
        }
        file.large = true;
        let held = std::mem::take(&mut file.held);
        self.cut_here(&mut sink)?;
        self.cut(&held, &mut sink)
    }

    /// Ends the last file and writes the root page.
    ///
    /// # Errors
    /// [`BuildError`] when a version of one file has none, or the sink fails.
    pub fn finish<E>(
        mut self,
        columns: Option<Vec<Column>>,
        mut sink: impl FnMut(Piece) -> Result<(), E>,
    ) -> Result<Built, BuildError<E>> {
        self.end_file(&mut sink)?;
        if self.kind == ManifestKind::File && self.n_files != 1 {
            return Err(BuildError::NotOneFile);
        }
        self.cut_here(&mut sink)?;
        let (n_entries, n_chunks) = (self.entries.count, self.chunks.count);
        let root = Page::Root(Root {
            kind: self.kind,
            chunker: self.params,
            n_entries,
            n_chunks,
            size: self.size,
            entries: self.entries.finish(&mut sink)?,
            chunks: self.chunks.finish(&mut sink)?,
            columns,
        });
        let page = RawChunk::new(encode(&root));
        let manifest = ManifestId::from(page.id());
        sink(Piece::Page(page)).map_err(BuildError::Sink)?;
        let content = match self.kind {
            ManifestKind::File => self.content.unwrap_or(manifest.into()),
            ManifestKind::Tree => manifest.into(),
        };
        Ok(Built { manifest, content, size: self.size, n_files: self.n_files, n_chunks })
    }

    fn check_place<E>(&mut self, path: &DatasetPath) -> Result<(), BuildError<E>> {
        let text = path.as_str();
        match self.last.as_deref() {
            Some(last) if last == text => return Err(BuildError::Twice(path.clone())),
            Some(last) if last > text => return Err(BuildError::OutOfOrder(path.clone())),
            _ => {}
        }
        while self.beginnings.last().is_some_and(|beginning| !text.starts_with(beginning.as_str())) {
            self.beginnings.pop();
        }
        if self.beginnings.iter().any(|beginning| text.as_bytes().get(beginning.len()) == Some(&b'/')) {
            return Err(BuildError::Below(path.clone()));
        }
        self.beginnings.push(text.to_owned());
        self.last = Some(text.to_owned());
        Ok(())
    }

    fn end_file<E>(&mut self, sink: &mut impl FnMut(Piece) -> Result<(), E>) -> Result<(), BuildError<E>> {
        let Some(file) = self.file.take() else { return Ok(()) };
        if file.large {
            self.cut_here(sink)?;
        } else {
            self.cut(&file.held, sink)?;
        }
        let content = ContentId::from_bytes(file.hasher.finish());
        self.content = Some(content);
        let OpenFile { path, kind, size, offset, .. } = file;
        self.add_entry(Entry { path, kind, size, content, offset }, sink)
    }

    fn add_entry<E>(
        &mut self,
        entry: Entry,
        sink: &mut impl FnMut(Piece) -> Result<(), E>,
    ) -> Result<(), BuildError<E>> {
        let key = hash(entry.path.as_str().as_bytes());
        self.entries.push(entry, &key, sink)
    }

    fn cut<E>(&mut self, bytes: &[u8], sink: &mut impl FnMut(Piece) -> Result<(), E>) -> Result<(), BuildError<E>> {
        let mut cut = Vec::new();
        self.chunker.push(bytes, |chunk| cut.push(chunk));
        self.add_chunks(cut, sink)
    }

    fn cut_here<E>(&mut self, sink: &mut impl FnMut(Piece) -> Result<(), E>) -> Result<(), BuildError<E>> {
        let mut cut = Vec::new();
        self.chunker.finish(|chunk| cut.push(chunk));
        self.add_chunks(cut, sink)
    }

    fn add_chunks<E>(
        &mut self,
        cut: Vec<Vec<u8>>,
        sink: &mut impl FnMut(Piece) -> Result<(), E>,
    ) -> Result<(), BuildError<E>> {
        for bytes in cut {
            let chunk = RawChunk::new(bytes);
            let (id, len) = (chunk.id(), chunk.len());
            sink(Piece::Content(chunk)).map_err(BuildError::Sink)?;
            self.chunks.push(ChunkRef { id, len }, id.as_bytes(), sink)?;
        }
        Ok(())
    }
}

/// An item of a list that is cut into pages.
trait Item: Serialize + Sized {
    fn page(items: Vec<Self>) -> Page;
    /// Bytes of the stream that the item covers.
    fn bytes(&self) -> u64;
    fn path(&self) -> &str;
    /// Items in the leaves that the item stands for.
    fn count(&self) -> u64 {
        1
    }
}

impl Item for Entry {
    fn page(items: Vec<Self>) -> Page {
        Page::Entries(items)
    }
    fn bytes(&self) -> u64 {
        0
    }
    fn path(&self) -> &str {
        self.path.as_str()
    }
}

impl Item for ChunkRef {
    fn page(items: Vec<Self>) -> Page {
        Page::Chunks(items)
    }
    fn bytes(&self) -> u64 {
        u64::from(self.len)
    }
    fn path(&self) -> &str {
        ""
    }
}

impl Item for PageRef {
    fn page(items: Vec<Self>) -> Page {
        Page::Index(items)
    }
    fn bytes(&self) -> u64 {
        self.bytes
    }
    fn path(&self) -> &str {
        &self.first
    }
    fn count(&self) -> u64 {
        self.count
    }
}

/// One level of a list: the page that is being filled.
struct Level<T> {
    items: Vec<T>,
    len: usize,
}

impl<T: Item> Level<T> {
    const fn new() -> Self {
        Self { items: Vec::new(), len: 0 }
    }

    /// Adds an item; a page that is full, or ends with it, comes back as a reference.
    fn push<E>(
        &mut self,
        item: T,
        key: &[u8; 32],
        sink: &mut impl FnMut(Piece) -> Result<(), E>,
    ) -> Result<Vec<PageRef>, BuildError<E>> {
        let len = encoded_len(&item);
        let mut full = Vec::new();
        if self.len + len > FULL_PAGE {
            full.extend(self.flush(sink)?);
        }
        self.items.push(item);
        self.len += len;
        let ends = u32::from_le_bytes([key[0], key[1], key[2], key[3]]).is_multiple_of(CUT_ONE_IN);
        if ends && self.len >= MIN_PAGE {
            full.extend(self.flush(sink)?);
        }
        Ok(full)
    }

    fn flush<E>(&mut self, sink: &mut impl FnMut(Piece) -> Result<(), E>) -> Result<Option<PageRef>, BuildError<E>> {
        let Some(first) = self.items.first().map(|item| item.path().to_owned()) else { return Ok(None) };
        let items = std::mem::take(&mut self.items);
        self.len = 0;
        let count = items.iter().map(Item::count).sum();
        let bytes = items.iter().map(Item::bytes).sum();
        let page = RawChunk::new(encode(&T::page(items)));
        let page_ref = PageRef { id: page.id(), len: page.len(), count, bytes, first };
        sink(Piece::Page(page)).map_err(BuildError::Sink)?;
        Ok(Some(page_ref))
    }
}

fn encoded_len<T: Serialize>(item: &T) -> usize {
    postcard::to_extend(item, Vec::new()).map_or(MAX_PAGE_LEN, |bytes| bytes.len())
}

/// A list on its way into a tree of pages.
struct Pages<T> {
    leaf: Level<T>,
    /// Levels of index pages, the lowest first.
    index: Vec<Level<PageRef>>,
    count: u64,
}

impl<T: Item> Pages<T> {
    const fn new() -> Self {
        Self { leaf: Level::new(), index: Vec::new(), count: 0 }
    }

    fn push<E>(
        &mut self,
        item: T,
        key: &[u8; 32],
        sink: &mut impl FnMut(Piece) -> Result<(), E>,
    ) -> Result<(), BuildError<E>> {
        self.count += 1;
        for full in self.leaf.push(item, key, sink)? {
            self.push_ref(0, full, sink)?;
        }
        Ok(())
    }

    fn push_ref<E>(
        &mut self,
        level: usize,
        page: PageRef,
        sink: &mut impl FnMut(Piece) -> Result<(), E>,
    ) -> Result<(), BuildError<E>> {
        if level > usize::from(MAX_PAGE_DEPTH) {
            return Err(BuildError::TooMany);
        }
        if self.index.len() == level {
            self.index.push(Level::new());
        }
        let key = *page.id.as_bytes();
        for full in self.index[level].push(page, &key, sink)? {
            self.push_ref(level + 1, full, sink)?;
        }
        Ok(())
    }

    fn finish<E>(mut self, sink: &mut impl FnMut(Piece) -> Result<(), E>) -> Result<PageList<T>, BuildError<E>> {
        if self.index.is_empty() && self.leaf.len <= MAX_LIST_IN_ROOT {
            return Ok(PageList::Inline(self.leaf.items));
        }
        if let Some(page) = self.leaf.flush(sink)? {
            self.push_ref(0, page, sink)?;
        }
        let mut level = 0;
        loop {
            let top = level + 1 == self.index.len();
            if top && self.index[level].len <= MAX_LIST_IN_ROOT {
                let depth = u8::try_from(level).unwrap_or(u8::MAX);
                return Ok(PageList::Pages { depth, pages: std::mem::take(&mut self.index[level].items) });
            }
            if let Some(page) = self.index[level].flush(sink)? {
                self.push_ref(level + 1, page, sink)?;
            }
            level += 1;
        }
    }
}
