//! The walk of a fetch over its manifest: page by page, a few pages ahead, never the whole of it.
//!
//! Invariant: a page in view is in one of the states of [`PageState`], each cursor waits for at most one page, and no
//! more than one page for each cursor is in memory. A page is brought by three steps that the fetch does for the walk:
//! looked up or loaded from the store, asked of a provider where it is missing, stored and then loaded.
//!
//! Deliberately absent: the chunks themselves.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::ops::Range;

use super::outcome::Wanted;
use crate::id::{ChunkId, ManifestId};
use crate::limits;
use crate::model::manifest::reader::{Cursor, Listed, ReadError, root};
use crate::model::manifest::{self, ChunkRef};

/// Pages of chunks that are fetched ahead: one usually names a thousand chunks, so there is time enough.
const CHUNK_PAGES_AHEAD: usize = 2;

#[derive(Debug)]
enum PageState {
    /// The store is asked whether it holds it.
    LookedUp,
    /// It is on its way from the store.
    Loading,
    /// The store does not hold it: to be fetched.
    Fetched,
    /// The store holds it, and it is not needed yet.
    Here,
    /// Its bytes, for the cursor that waits for it.
    Loaded(Vec<u8>),
}

#[derive(Debug)]
struct PageInView {
    state: PageState,
    /// Its bytes, where a page above says so.
    len: Option<u32>,
}

/// What the walk needs done for a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PageWant {
    /// Ask the store whether it holds it; answered by [`Walk::page_looked_up`].
    LookUp(ChunkId),
    /// Load it from the store; answered by [`Walk::page_loaded`].
    Load(ChunkId),
    /// Bring it into the store; answered by [`Walk::page_stored`].
    Fetch(ChunkId, Option<u32>),
}

/// A chunk on the walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) chunk: ChunkRef,
    /// Place in manifest order.
    pub(super) index: u64,
    /// Where it begins in the stream.
    pub(super) offset: u64,
    /// How many of its bytes are wanted.
    pub(super) wanted: u64,
}

/// The next step of the walk over the chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// A chunk that is wanted.
    Chunk(Found),
    /// A page is on its way.
    Wait,
    /// There are no more.
    End,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Walk {
    manifest: ManifestId,
    wants_entries: bool,
    wants_chunks: bool,
    /// What is left of the wanted ranges, ascending and apart; `None` = everything.
    ranges: Option<VecDeque<Range<u64>>>,
    has_root: bool,
    n_chunks: u64,
    wanted_bytes: u64,
    entries: Option<Cursor<manifest::Entry>>,
    chunks: Option<Cursor<ChunkRef>>,
    pages: BTreeMap<ChunkId, PageInView>,
    wants: VecDeque<PageWant>,
}

fn merged(mut ranges: Vec<Range<u64>>) -> VecDeque<Range<u64>> {
    ranges.retain(|range| range.start < range.end);
    ranges.sort_unstable_by_key(|range| range.start);
    let mut merged: VecDeque<Range<u64>> = VecDeque::new();
    for range in ranges {
        match merged.back_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push_back(range),
        }
    }
    merged
}

impl Walk {
    pub(super) fn new(manifest: ManifestId, wanted: Wanted) -> Self {
        let (wants_entries, wants_chunks, ranges) = match wanted {
            Wanted::All => (true, true, None),
            Wanted::Entries => (true, false, None),
            Wanted::Ranges(ranges) => (false, true, Some(merged(ranges))),
        };
        let mut walk = Self {
            manifest,
            wants_entries,
            wants_chunks,
            ranges,
            has_root: false,
            n_chunks: 0,
            wanted_bytes: 0,
            entries: None,
            chunks: None,
            pages: BTreeMap::new(),
            wants: VecDeque::new(),
        };
        walk.need(manifest.into(), None);
        walk
    }

    /// Whether the fetch wants content, and so who holds which chunk.
    pub(super) const fn wants_chunks(&self) -> bool {
        self.wants_chunks
    }

    /// Chunks in the manifest, once the root page is here.
    pub(super) fn n_chunks(&self) -> Option<u64> {
        self.has_root.then_some(self.n_chunks)
    }

    /// Bytes of content that are wanted, once the root page is here.
    pub(super) fn wanted_bytes(&self) -> Option<u64> {
        self.has_root.then_some(self.wanted_bytes)
    }

    /// Pages in view.
    pub(super) fn n_pages(&self) -> usize {
        self.pages.len()
    }

    /// Where the walk over the chunks stands in the stream.
    pub(super) fn offset(&self) -> u64 {
        match &self.chunks {
            Some(cursor) => cursor.offset(),
            None if self.has_root => u64::MAX,
            None => 0,
        }
    }

    /// Whether both walks have come to their ends.
    pub(super) fn is_finished(&self) -> bool {
        self.has_root && self.entries.is_none() && self.chunks.is_none()
    }

    /// What is to be done for pages.
    pub(super) fn poll_want(&mut self) -> Option<PageWant> {
        self.wants.pop_front()
    }

    /// A cursor waits for this page.
    fn need(&mut self, id: ChunkId, len: Option<u32>) {
        need(&mut self.pages, &mut self.wants, id, len);
    }

    /// The store has said whether it holds a page.
    pub(super) fn page_looked_up(&mut self, id: ChunkId, is_here: bool) {
        let Some(page) = self.pages.get_mut(&id) else { return };
        if matches!(page.state, PageState::LookedUp) {
            page.state = if is_here { PageState::Here } else { PageState::Fetched };
            if !is_here {
                self.wants.push_back(PageWant::Fetch(id, page.len));
            }
        }
    }

    /// The store has loaded a page, or does not hold it.
    pub(super) fn page_loaded(&mut self, id: ChunkId, bytes: Option<Vec<u8>>) {
        let Some(page) = self.pages.get_mut(&id) else { return };
        if matches!(page.state, PageState::Loading) {
            let is_missing = bytes.is_none();
            page.state = bytes.map_or(PageState::Fetched, PageState::Loaded);
            if is_missing {
                self.wants.push_back(PageWant::Fetch(id, page.len));
            }
        }
    }

    /// A page was fetched and is in the store.
    pub(super) fn page_stored(&mut self, id: &ChunkId) {
        if let Some(page) = self.pages.get_mut(id)
            && matches!(page.state, PageState::Fetched)
        {
            page.state = PageState::Here;
        }
    }

    /// Goes on where pages have come, except over chunks.
    ///
    /// # Errors
    /// What is wrong with the manifest.
    pub(super) fn advance(&mut self) -> Result<(), String> {
        if !self.has_root {
            self.open_root()?;
        }
        let Some(cursor) = &mut self.entries else { return Ok(()) };
        loop {
            let next = cursor.next(&mut source(&mut self.pages));
            match next {
                Ok(Some(_)) => {}
                Ok(None) => {
                    self.entries = None;
                    return Ok(());
                }
                Err(ReadError::Missing(id)) => {
                    let ahead = limits::FETCH_PAGES_AHEAD;
                    need_ahead(&mut self.pages, &mut self.wants, id, cursor, ahead);
                    return Ok(());
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    fn open_root(&mut self) -> Result<(), String> {
        let root = match root(self.manifest, source(&mut self.pages)) {
            Ok(root) => root,
            Err(ReadError::Missing(id)) => {
                self.need(id, None);
                return Ok(());
            }
            Err(error) => return Err(error.to_string()),
        };
        self.has_root = true;
        self.n_chunks = root.n_chunks;
        self.entries = self.wants_entries.then(|| Cursor::entries(&root));
        self.chunks = self.wants_chunks.then(|| Cursor::chunks(&root));
        if let Some(ranges) = &mut self.ranges {
            ranges.retain(|range| range.start < root.size);
            ranges.iter_mut().for_each(|range| range.end = range.end.min(root.size));
        }
        let wanted = match &self.ranges {
            Some(ranges) => ranges.iter().map(|range| range.end - range.start).sum(),
            None => root.size,
        };
        self.wanted_bytes = if self.wants_chunks { wanted } else { 0 };
        Ok(())
    }

    /// The next chunk that is wanted.
    ///
    /// # Errors
    /// What is wrong with the manifest.
    pub(super) fn next_chunk(&mut self) -> Result<Next, String> {
        let Some(cursor) = &mut self.chunks else {
            return Ok(if self.has_root || !self.wants_chunks { Next::End } else { Next::Wait });
        };
        let next = step(cursor, self.ranges.as_ref(), &mut source(&mut self.pages));
        match next {
            Ok(Some((index, offset, chunk))) => {
                let end = offset.saturating_add(u64::from(chunk.len));
                let wanted =
                    self.ranges.as_mut().map_or(u64::from(chunk.len), |ranges| take_covered(ranges, offset, end));
                Ok(Next::Chunk(Found { chunk, index, offset, wanted }))
            }
            Ok(None) => {
                self.chunks = None;
                Ok(Next::End)
            }
            Err(ReadError::Missing(id)) => {
                let ahead = if self.ranges.is_some() { 1 } else { CHUNK_PAGES_AHEAD };
                need_ahead(&mut self.pages, &mut self.wants, id, cursor, ahead);
                Ok(Next::Wait)
            }
            Err(error) => Err(error.to_string()),
        }
    }
}

/// The next chunk, its place and its offset; skips what lies before the next range.
fn step(
    cursor: &mut Cursor<ChunkRef>,
    ranges: Option<&VecDeque<Range<u64>>>,
    source: &mut impl FnMut(&ChunkId) -> Result<Option<Vec<u8>>, Infallible>,
) -> Result<Option<(u64, u64, ChunkRef)>, ReadError<Infallible>> {
    if let Some(ranges) = ranges {
        let Some(range) = ranges.front() else { return Ok(None) };
        cursor.seek_offset(range.start, source)?;
    }
    let (index, offset) = (cursor.index(), cursor.offset());
    Ok(cursor.next(source)?.map(|chunk| (index, offset, chunk)))
}

/// Takes what a chunk covers away from the wanted ranges. Returns how much that is.
fn take_covered(ranges: &mut VecDeque<Range<u64>>, start: u64, end: u64) -> u64 {
    let mut covered = 0;
    while let Some(range) = ranges.front_mut()
        && range.start < end
    {
        covered += range.end.min(end).saturating_sub(range.start.max(start));
        if range.end > end {
            range.start = end;
            break;
        }
        ranges.pop_front();
    }
    covered
}

/// Gives a cursor the page it waits for, which then leaves the view.
fn source(
    pages: &mut BTreeMap<ChunkId, PageInView>,
) -> impl FnMut(&ChunkId) -> Result<Option<Vec<u8>>, Infallible> + '_ {
    |id| match pages.get(id) {
        Some(PageInView { state: PageState::Loaded(_), .. }) => {
            Ok(pages.remove(id).and_then(|page| match page.state {
                PageState::Loaded(bytes) => Some(bytes),
                _ => None,
            }))
        }
        _ => Ok(None),
    }
}

fn need(pages: &mut BTreeMap<ChunkId, PageInView>, wants: &mut VecDeque<PageWant>, id: ChunkId, len: Option<u32>) {
    let page = pages.entry(id).or_insert(PageInView { state: PageState::Here, len });
    if matches!(page.state, PageState::Here) {
        page.state = PageState::Loading;
        wants.push_back(PageWant::Load(id));
    }
}

fn need_ahead<T: Listed>(
    pages: &mut BTreeMap<ChunkId, PageInView>,
    wants: &mut VecDeque<PageWant>,
    id: ChunkId,
    cursor: &Cursor<T>,
    n_ahead: usize,
) {
    for page in cursor.ahead().take(n_ahead) {
        if page.id == id {
            need(pages, wants, id, Some(page.len));
        } else if let Entry::Vacant(place) = pages.entry(page.id) {
            place.insert(PageInView { state: PageState::LookedUp, len: Some(page.len) });
            wants.push_back(PageWant::LookUp(page.id));
        }
    }
}
