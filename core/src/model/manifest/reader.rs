//! Reads a manifest page by page, in memory that does not grow with it.
//!
//! A [`Cursor`] walks over the entries or the chunks. A page that the source does not have is reported as
//! [`ReadError::Missing`] and leaves the cursor where it is, so that whoever drives it can fetch the page and go on.
//! Whatever a page says is checked against the page above it; a page that lies ends the walk with an error.
//!
//! Deliberately absent: where pages come from.

use super::{ChunkRef, Entry, Page, PageList, PageRef, Root};
use crate::encode::{DecodeError, decode};
use crate::id::{ChunkId, ManifestId};
use crate::limits::{MAX_CHUNK_LEN, MAX_PAGE_DEPTH, MAX_PAGE_LEN};
use crate::model::DatasetPath;

/// Why a manifest cannot be read further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError<E> {
    /// The source does not have a page.
    #[error("page {0} of the manifest is not here")]
    Missing(ChunkId),
    /// A page is no page.
    #[error("page {id} of the manifest does not decode: {source}")]
    Decode {
        /// The page.
        id: ChunkId,
        /// Why not.
        source: DecodeError,
    },
    /// A page is not what the pages above say of it.
    #[error("page {id} of the manifest is wrong: {reason}")]
    Wrong {
        /// The page.
        id: ChunkId,
        /// What is wrong.
        reason: &'static str,
    },
    /// The source failed.
    #[error(transparent)]
    Source(E),
}

/// Loads and checks the root page. `source` gives the raw bytes of a page, verified against its id.
///
/// # Errors
/// [`ReadError`] when it is missing or wrong, or the source fails.
pub fn root<E>(
    manifest: ManifestId,
    mut source: impl FnMut(&ChunkId) -> Result<Option<Vec<u8>>, E>,
) -> Result<Root, ReadError<E>> {
    let id = ChunkId::from(manifest);
    let Page::Root(root) = load(&id, &mut source)? else {
        return Err(ReadError::Wrong { id, reason: "it is not a root page" });
    };
    if !root.chunker.is_valid() {
        return Err(ReadError::Wrong { id, reason: "its chunker cannot be used" });
    }
    let (entries, _) = totals(&root.entries);
    let (chunks, bytes) = totals(&root.chunks);
    let right = entries == Some(root.n_entries) && chunks == Some(root.n_chunks) && bytes == Some(root.size);
    if right { Ok(root) } else { Err(ReadError::Wrong { id, reason: "its lists are not as long as it says" }) }
}

/// The entry of a path, if there is one.
///
/// # Errors
/// [`ReadError`] when a page on the way is missing or wrong, or the source fails.
pub fn find<E>(
    root: &Root,
    path: &DatasetPath,
    mut source: impl FnMut(&ChunkId) -> Result<Option<Vec<u8>>, E>,
) -> Result<Option<Entry>, ReadError<E>> {
    let mut cursor = Cursor::entries(root);
    cursor.seek_path(path.as_str(), &mut source)?;
    Ok(cursor.next(&mut source)?.filter(|entry| entry.path == *path))
}

fn load<E>(
    id: &ChunkId,
    source: &mut impl FnMut(&ChunkId) -> Result<Option<Vec<u8>>, E>,
) -> Result<Page, ReadError<E>> {
    let bytes = source(id).map_err(ReadError::Source)?.ok_or(ReadError::Missing(*id))?;
    decode(&bytes).map_err(|source| ReadError::Decode { id: *id, source })
}

/// Items of the leaves and bytes of the stream that a list says to have; `None` when no list can have them.
fn totals<T: Listed>(list: &PageList<T>) -> (Option<u64>, Option<u64>) {
    match list {
        PageList::Inline(items) => (Some(items.len() as u64), sum(items.iter().map(Listed::bytes))),
        PageList::Pages { pages, .. } => {
            (sum(pages.iter().map(|page| page.count)), sum(pages.iter().map(|page| page.bytes)))
        }
    }
}

fn sum(mut numbers: impl Iterator<Item = u64>) -> Option<u64> {
    numbers.try_fold(0u64, u64::checked_add)
}

/// An item of a list that is cut into pages.
pub trait Listed: Clone {
    /// The items of a leaf page, if it is one of this list.
    fn of_page(page: Page) -> Option<Vec<Self>>;
    /// Bytes of the stream that the item covers.
    fn bytes(&self) -> u64;
    /// Whether an item may follow another.
    fn may_follow(&self, before: &Self) -> bool;
    /// Whether the item lies within the stream of a version.
    fn fits(&self, size: u64) -> bool;
}

impl Listed for Entry {
    fn of_page(page: Page) -> Option<Vec<Self>> {
        match page {
            Page::Entries(entries) => Some(entries),
            _ => None,
        }
    }

    fn bytes(&self) -> u64 {
        0
    }

    fn may_follow(&self, before: &Self) -> bool {
        // Together with `fits` this makes the entries a partition of the stream, so that none can claim bytes twice.
        before.path < self.path && before.offset.checked_add(before.size) == Some(self.offset)
    }

    fn fits(&self, size: u64) -> bool {
        self.offset.checked_add(self.size).is_some_and(|end| end <= size)
    }
}

impl Listed for ChunkRef {
    fn of_page(page: Page) -> Option<Vec<Self>> {
        match page {
            Page::Chunks(chunks) => Some(chunks),
            _ => None,
        }
    }

    fn bytes(&self) -> u64 {
        u64::from(self.len)
    }

    fn may_follow(&self, _: &Self) -> bool {
        true
    }

    fn fits(&self, _: u64) -> bool {
        (1..=MAX_CHUNK_LEN).contains(&(self.len as usize))
    }
}

/// References of one level that are still to be followed.
#[derive(Debug, Clone)]
struct Level {
    refs: std::vec::IntoIter<PageRef>,
    /// Levels between the pages named here and the leaves.
    depth: u8,
}

/// A walk over the entries or chunks of a manifest.
#[derive(Debug, Clone)]
pub struct Cursor<T> {
    manifest_size: u64,
    levels: Vec<Level>,
    leaf: std::vec::IntoIter<T>,
    last: Option<T>,
    /// Where the next chunk begins in the stream.
    offset: u64,
    /// Items before the next one, as far as the pages say so.
    index: u64,
}

impl Cursor<Entry> {
    /// A walk over the entries, in the order of their paths' bytes.
    pub fn entries(root: &Root) -> Self {
        Self::new(&root.entries, root.size)
    }

    /// Moves forward to the first entry whose path is not before `path`.
    ///
    /// # Errors
    /// As [`Cursor::next`].
    pub fn seek_path<E>(
        &mut self,
        path: &str,
        source: &mut impl FnMut(&ChunkId) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<(), ReadError<E>> {
        loop {
            // What a reference does not begin after is in it or behind it.
            if let Some(level) = self.levels.last_mut()
                && self.leaf.len() == 0
            {
                let passed = |refs: &[PageRef]| refs.get(1).is_some_and(|next| next.first.as_str() <= path);
                while passed(level.refs.as_slice()) {
                    let page = level.refs.next();
                    self.index = self.index.saturating_add(page.map_or(0, |page| page.count));
                    self.last = None;
                }
            }
            match self.peek(source)? {
                Some(entry) if entry.path.as_str() < path => {
                    self.leaf.next();
                    self.index = self.index.saturating_add(1);
                    self.last = Some(entry);
                }
                _ => return Ok(()),
            }
        }
    }
}

impl Cursor<ChunkRef> {
    /// A walk over the chunks, in the order of the stream.
    pub fn chunks(root: &Root) -> Self {
        Self::new(&root.chunks, root.size)
    }

    /// Where the next chunk begins in the stream.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Moves forward to the chunk that holds the byte at `offset` of the stream.
    ///
    /// # Errors
    /// As [`Cursor::next`].
    pub fn seek_offset<E>(
        &mut self,
        offset: u64,
        source: &mut impl FnMut(&ChunkId) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<(), ReadError<E>> {
        loop {
            if self.leaf.len() == 0
                && let Some(level) = self.levels.last_mut()
            {
                while let Some(page) = level.refs.as_slice().first()
                    && self.offset.saturating_add(page.bytes) <= offset
                {
                    self.offset = self.offset.saturating_add(page.bytes);
                    self.index = self.index.saturating_add(page.count);
                    level.refs.next();
                }
                if level.refs.len() == 0 {
                    self.levels.pop();
                    continue;
                }
            }
            // One page at most is opened here before its references are looked at again.
            match self.step(source)? {
                Step::Item(chunk) if self.offset.saturating_add(chunk.bytes()) <= offset => {
                    self.offset = self.offset.saturating_add(chunk.bytes());
                    self.index = self.index.saturating_add(1);
                    self.leaf.next();
                }
                Step::Descended => {}
                Step::Item(_) | Step::End => return Ok(()),
            }
        }
    }
}

enum Step<T> {
    Item(T),
    Descended,
    End,
}

impl<T: Listed> Cursor<T> {
    fn new(list: &PageList<T>, manifest_size: u64) -> Self {
        let (levels, leaf) = match list {
            PageList::Inline(items) => (Vec::new(), items.clone()),
            PageList::Pages { depth, pages } => {
                (vec![Level { refs: pages.clone().into_iter(), depth: *depth }], Vec::new())
            }
        };
        Self { manifest_size, levels, leaf: leaf.into_iter(), last: None, offset: 0, index: 0 }
    }

    /// Place of the next item in the list, counted from 0.
    pub const fn index(&self) -> u64 {
        self.index
    }

    /// The pages that are opened next, as far as the open ones name them, the very next first: for fetching ahead.
    pub fn ahead(&self) -> impl Iterator<Item = &PageRef> {
        self.levels.iter().rev().flat_map(|level| level.refs.as_slice())
    }

    /// The next item without going past it.
    ///
    /// # Errors
    /// [`ReadError`] when a page is missing or wrong, or the source fails. The cursor stays where it is.
    pub fn peek<E>(
        &mut self,
        source: &mut impl FnMut(&ChunkId) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Option<T>, ReadError<E>> {
        loop {
            match self.step(source)? {
                Step::Item(item) => return Ok(Some(item)),
                Step::Descended => {}
                Step::End => return Ok(None),
            }
        }
    }

    /// The next item.
    ///
    /// # Errors
    /// [`ReadError`] when a page is missing or wrong, or the source fails. The cursor stays where it is.
    pub fn next<E>(
        &mut self,
        source: &mut impl FnMut(&ChunkId) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Option<T>, ReadError<E>> {
        let Some(item) = self.peek(source)? else { return Ok(None) };
        self.leaf.next();
        self.index = self.index.saturating_add(1);
        self.offset = self.offset.saturating_add(item.bytes());
        self.last = Some(item.clone());
        Ok(Some(item))
    }

    /// Shows the next item, or opens the next page.
    fn step<E>(
        &mut self,
        source: &mut impl FnMut(&ChunkId) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Step<T>, ReadError<E>> {
        if let Some(item) = self.leaf.as_slice().first() {
            return Ok(Step::Item(item.clone()));
        }
        while self.levels.last().is_some_and(|level| level.refs.len() == 0) {
            self.levels.pop();
        }
        let Some(level) = self.levels.last() else { return Ok(Step::End) };
        let depth = level.depth;
        let Some(page_ref) = level.refs.as_slice().first().cloned() else { return Ok(Step::End) };
        let id = page_ref.id;
        let wrong = |reason| Err(ReadError::Wrong { id, reason });
        if page_ref.len as usize > MAX_PAGE_LEN || depth > MAX_PAGE_DEPTH {
            return wrong("it is too large or lies too deep");
        }
        let page = load(&id, source)?;
        let (count, bytes) = if depth == 0 {
            let Some(items) = T::of_page(page) else { return wrong("it is a page of another kind") };
            if items.is_empty() {
                return wrong("it is empty");
            }
            let in_order = items.windows(2).all(|pair| pair[1].may_follow(&pair[0]))
                && self.last.as_ref().is_none_or(|last| items[0].may_follow(last));
            if !in_order || !items.iter().all(|item| item.fits(self.manifest_size)) {
                return wrong("its items are out of order or lie outside of the version");
            }
            let totals = (Some(items.len() as u64), sum(items.iter().map(Listed::bytes)));
            self.leaf = items.into_iter();
            totals
        } else {
            let Page::Index(refs) = page else { return wrong("it is a page of another kind") };
            if refs.is_empty() {
                return wrong("it is empty");
            }
            let totals = (sum(refs.iter().map(|page| page.count)), sum(refs.iter().map(|page| page.bytes)));
            self.levels.push(Level { refs: refs.into_iter(), depth: depth - 1 });
            totals
        };
        if (count, bytes) != (Some(page_ref.count), Some(page_ref.bytes)) {
            self.levels.clear();
            self.leaf = Vec::new().into_iter();
            return wrong("it has not as many items as the page above says");
        }
        let parent = self.levels.iter_mut().rev().find(|level| level.depth == depth);
        if let Some(parent) = parent {
            parent.refs.next();
        }
        Ok(Step::Descended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunker::ChunkerParams;
    use crate::model::manifest::builder::{BuildError, Builder, Piece};
    use crate::model::manifest::{EntryKind, ManifestKind};
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    type Store = BTreeMap<ChunkId, Vec<u8>>;

    fn noise(len: usize, seed: u64) -> Vec<u8> {
        let mut out: Vec<u8> = (0..len as u64 / 32 + 1)
            .flat_map(|i| crate::hash::hash(&[seed.to_le_bytes(), i.to_le_bytes()].concat()))
            .collect();
        out.truncate(len);
        out
    }

    fn path(text: &str) -> DatasetPath {
        DatasetPath::new(text).unwrap()
    }

    fn build(files: &[(String, Vec<u8>)]) -> (super::super::builder::Built, Store) {
        let mut store = Store::new();
        let mut sink = |piece: Piece| {
            let (Piece::Content(chunk) | Piece::Page(chunk)) = piece;
            assert!(!chunk.is_empty());
            store.insert(chunk.id(), chunk.bytes().to_vec());
            Ok::<_, Infallible>(())
        };
        let mut builder = Builder::new(ManifestKind::Tree, ChunkerParams::with_average(16 << 10));
        for (name, bytes) in files {
            builder.begin(path(name), EntryKind::File, &mut sink).unwrap();
            for piece in bytes.chunks(30_000) {
                builder.push(piece, &mut sink).unwrap();
            }
        }
        let built = builder.finish(None, &mut sink).unwrap();
        (built, store)
    }

    fn source(store: &Store) -> impl FnMut(&ChunkId) -> Result<Option<Vec<u8>>, Infallible> + '_ {
        |id| Ok(store.get(id).cloned())
    }

    fn stream(root: &Root, store: &Store) -> Vec<u8> {
        let (mut cursor, mut out) = (Cursor::chunks(root), Vec::new());
        while let Some(chunk) = cursor.next(&mut source(store)).unwrap() {
            out.extend_from_slice(&store[&chunk.id]);
        }
        out
    }

    fn many_files(n: usize) -> Vec<(String, Vec<u8>)> {
        (0..n)
            .map(|i| (format!("dir{:03}/file with a rather long name {i:06}.csv", i / 100), noise(i % 90, i as u64)))
            .collect()
    }

    #[test]
    fn files_come_back_from_their_manifest() {
        let files = vec![
            ("a".to_owned(), noise(1_000, 1)),
            ("empty".to_owned(), Vec::new()),
            ("large".to_owned(), noise(900_000, 2)),
            ("z/y/x".to_owned(), noise(5, 3)),
        ];
        let (built, store) = build(&files);
        let root = root(built.manifest, source(&store)).unwrap();
        let bytes = stream(&root, &store);
        for (name, content) in &files {
            let entry = find(&root, &path(name), source(&store)).unwrap().unwrap();
            let (start, end) = (entry.offset as usize, (entry.offset + entry.size) as usize);
            assert_eq!(&bytes[start..end], content, "{name}");
            assert_eq!(entry.content.as_bytes(), &crate::hash::hash(content));
        }
        assert_eq!((built.size, built.n_files), (901_005, 4));
        assert_eq!(find(&root, &path("b"), source(&store)).unwrap(), None);
        assert_eq!(find(&root, &path("zz"), source(&store)).unwrap(), None);
    }

    #[test]
    fn large_manifest_is_a_tree_of_pages_in_which_everything_is_found() {
        let files = many_files(12_000);
        let (built, store) = build(&files);
        let root = root(built.manifest, source(&store)).unwrap();
        assert!(matches!(root.entries, PageList::Pages { .. }));
        assert!(store.values().all(|bytes| bytes.len() <= MAX_PAGE_LEN));
        let (mut cursor, mut found) = (Cursor::entries(&root), Vec::new());
        while let Some(entry) = cursor.next(&mut source(&store)).unwrap() {
            found.push(entry);
        }
        assert!(found.iter().map(|entry| entry.path.as_str()).eq(files.iter().map(|(name, _)| name.as_str())));
        for i in [0, 1, 777, 5_000, 11_999] {
            let entry = find(&root, &path(&files[i].0), source(&store)).unwrap();
            assert_eq!(entry.as_ref(), Some(&found[i]), "{i}");
        }
        let mut cursor = Cursor::entries(&root);
        cursor.seek_path("dir050/", &mut source(&store)).unwrap();
        assert_eq!(cursor.next(&mut source(&store)).unwrap().unwrap().path.as_str(), files[5_000].0);
        assert!(cursor.next(&mut source(&store)).unwrap().is_some());
    }

    #[test]
    fn chunk_of_any_offset_is_found() {
        let params = ChunkerParams { min: 1_024, avg: 2_048, max: 4_096, normalisation: 1 };
        let mut store = Store::new();
        let mut sink = |piece: Piece| {
            let (Piece::Content(chunk) | Piece::Page(chunk)) = piece;
            store.insert(chunk.id(), chunk.bytes().to_vec());
            Ok::<_, Infallible>(())
        };
        let bytes = noise(12 << 20, 5);
        let mut builder = Builder::new(ManifestKind::File, params);
        builder.begin(path("f"), EntryKind::File, &mut sink).unwrap();
        builder.push(&bytes, &mut sink).unwrap();
        let built = builder.finish(None, &mut sink).unwrap();
        assert_eq!(built.content.as_bytes(), &crate::hash::hash(&bytes));
        let root = root(built.manifest, source(&store)).unwrap();
        assert!(matches!(root.chunks, PageList::Pages { .. }), "{} chunks", root.n_chunks);
        let (mut cursor, mut starts) = (Cursor::chunks(&root), Vec::new());
        while let begin = cursor.offset() as usize
            && cursor.next(&mut source(&store)).unwrap().is_some()
        {
            starts.push(begin);
        }
        for at in [0, 1, 4_096, 1_000_003, 5_555_555, bytes.len() - 1] {
            let mut cursor = Cursor::chunks(&root);
            cursor.seek_offset(at as u64, &mut source(&store)).unwrap();
            let start = cursor.offset() as usize;
            assert_eq!(cursor.index(), starts.iter().position(|begin| *begin == start).unwrap() as u64);
            let chunk = cursor.next(&mut source(&store)).unwrap().unwrap();
            let within = at - start;
            assert!(within < chunk.len as usize, "{at}");
            assert_eq!(store[&chunk.id][within], bytes[at]);
        }
        let mut cursor = Cursor::chunks(&root);
        cursor.seek_offset(bytes.len() as u64, &mut source(&store)).unwrap();
        assert_eq!(cursor.next(&mut source(&store)).unwrap(), None);
    }

    #[test]
    fn missing_page_is_named_and_the_walk_goes_on_when_it_is_there() {
        let (built, store) = build(&many_files(12_000));
        let mut here = Store::new();
        let mut n_missing = 0;
        let root = loop {
            let found = root(built.manifest, source(&here));
            match found {
                Ok(root) => break root,
                Err(ReadError::Missing(id)) => here.insert(id, store[&id].clone()),
                Err(error) => panic!("{error}"),
            };
        };
        let (mut cursor, mut n) = (Cursor::entries(&root), 0);
        loop {
            let next = cursor.next(&mut source(&here));
            match next {
                Ok(Some(_)) => n += 1,
                Ok(None) => break,
                Err(ReadError::Missing(id)) => {
                    n_missing += 1;
                    assert_eq!(cursor.ahead().next().map(|page| page.id), Some(id));
                    here.insert(id, store[&id].clone());
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(n, 12_000);
        assert!(n_missing > 3, "{n_missing}");
    }

    #[test]
    fn large_file_has_the_same_chunks_wherever_it_stands() {
        let large = noise(700_000, 9);
        let alone = build(&[("large".to_owned(), large.clone())]).1;
        let among = build(&[
            ("a".to_owned(), noise(10_000, 1)),
            ("large".to_owned(), large),
            ("z".to_owned(), noise(10_000, 2)),
        ])
        .1;
        let shared = alone.keys().filter(|id| among.contains_key(*id)).count();
        assert_eq!(shared, alone.len() - 1, "all but the root page");
    }

    #[test]
    fn small_files_share_chunks_and_a_change_keeps_most_pages() {
        let mut files = many_files(12_000);
        let (_, before) = build(&files);
        files[6_000].1 = noise(files[6_000].1.len(), 999_999);
        let (_, after) = build(&files);
        let new = after.keys().filter(|id| !before.contains_key(*id)).count();
        assert!(new <= 6, "{new} of {} pieces are new", after.len());
        assert!(after.len() < 300, "{}", after.len());
    }

    #[test]
    fn paths_that_cannot_stand_together_are_refused() {
        let refused = |paths: &[&str], kind| {
            let mut builder = Builder::new(ManifestKind::Tree, ChunkerParams::default());
            let sink = |_: Piece| Ok::<_, Infallible>(());
            paths.iter().find_map(|text| builder.begin(path(text), kind, sink).err())
        };
        assert_eq!(refused(&["a", "a b", "a/x"], EntryKind::File), Some(BuildError::Below(path("a/x"))));
        assert_eq!(refused(&["a", "a/x"], EntryKind::EmptyDir), Some(BuildError::Below(path("a/x"))));
        assert_eq!(refused(&["b", "a"], EntryKind::File), Some(BuildError::OutOfOrder(path("a"))));
        assert_eq!(refused(&["a", "a"], EntryKind::File), Some(BuildError::Twice(path("a"))));
        assert_eq!(refused(&["a", "a b/x", "a-", "a.b", "ab/c", "ab/d/e"], EntryKind::File), None);
        let sink = |_: Piece| Ok::<_, Infallible>(());
        let mut one = Builder::new(ManifestKind::File, ChunkerParams::default());
        assert_eq!(one.push(b"x", sink), Err(BuildError::NoFile));
        one.begin(path("a"), EntryKind::File, sink).unwrap();
        assert_eq!(one.begin(path("b"), EntryKind::File, sink), Err(BuildError::NotOneFile));
    }

    #[test]
    fn pages_that_lie_are_refused() {
        use crate::encode::encode;
        let (built, store) = build(&many_files(12_000));
        let good = root(built.manifest, source(&store)).unwrap();
        let walk = |root: &Root, store: &Store| {
            let mut cursor = Cursor::entries(root);
            while cursor.next(&mut source(store))?.is_some() {}
            Ok::<_, ReadError<Infallible>>(())
        };
        assert_eq!(walk(&good, &store), Ok(()));
        let PageList::Pages { pages, .. } = &good.entries else { panic!("pages") };
        let Page::Entries(entries) = decode(&store[&pages[1].id]).unwrap() else { panic!("entries") };
        let mut reversed = entries.clone();
        reversed.reverse();
        let mut outside = entries.clone();
        outside.last_mut().unwrap().size = u64::MAX;
        for page in [
            Page::Entries(reversed),
            Page::Entries(outside),
            Page::Entries(entries[1..].to_vec()),
            Page::Entries(Vec::new()),
            Page::Chunks(Vec::new()),
            Page::Index(pages.clone()),
        ] {
            let mut store = store.clone();
            store.insert(pages[1].id, encode(&page));
            assert!(matches!(walk(&good, &store), Err(ReadError::Wrong { .. })), "{page:?}");
        }
        let mut garbage = store.clone();
        garbage.insert(pages[1].id, vec![1, 2, 3]);
        assert!(matches!(walk(&good, &garbage), Err(ReadError::Decode { .. })));
        let mut counted = good;
        counted.n_entries += 1;
        let page = encode(&Page::Root(counted));
        let id = ManifestId::from_bytes(crate::hash::hash(&page));
        let mut store = store;
        store.insert(id.into(), page);
        assert!(matches!(root(id, source(&store)), Err(ReadError::Wrong { .. })));
    }
}
