//! The walk over everything that is in use: pin by pin, page by page, never a whole manifest in memory.
//!
//! Invariant: when the walk has ended without an error, every chunk that a pin keeps and that was here when its pin was
//! looked at was marked, by this walk or, where it came later, by the store. A page that is damaged ends the walk with an
//! error, since what lies below it cannot be known; so does a page that is not here though all of its content should be.
//! A page that is not here of content that is being fetched is passed over: a fetch stores pages before what they name.
//! Of content that was published here it is lost, however often it is looked at, until it is whole or not wanted any more;
//! so it is of content that was whole here once and that a user keeps.
//!
//! Pages that several manifests share are walked once as long as they are remembered; what is remembered is bounded.

use std::collections::{BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::time::Duration;

use crate::catalog::record::{Pin, corrupt, read_value};
use crate::encode::decode;
use crate::id::{ChunkId, ManifestId};
use crate::limits::{MARK_MEMORY, MARK_PINS, MAX_PAGE_DEPTH};
use crate::model::manifest::{ChunkRef, Page, PageList};
use crate::port::{CatalogRead, Order, StoreError, Table};
use crate::time::Timestamp;

/// A page as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loaded {
    /// Its bytes, verified against its id.
    Here(Vec<u8>),
    /// It is not here.
    Absent,
    /// It was here, and what is stored is something else.
    Damaged,
}

/// Why the walk cannot know what is in use. Nothing may be given back then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MarkError {
    /// A page is damaged.
    #[error("page {page} of manifest {manifest} is damaged")]
    Damaged {
        /// What it hurts.
        manifest: ManifestId,
        /// The page.
        page: ChunkId,
    },
    /// All of a manifest should be here, and a page is not.
    #[error("page {page} of manifest {manifest} is lost")]
    Lost {
        /// What it hurts.
        manifest: ManifestId,
        /// The page.
        page: ChunkId,
    },
    /// A page of content that is complete makes no sense.
    #[error("page {page} of manifest {manifest} makes no sense: {reason}")]
    Wrong {
        /// What it hurts.
        manifest: ManifestId,
        /// The page.
        page: ChunkId,
        /// Why not.
        reason: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How far a walk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Pins that were walked.
    pub n_pins: u64,
    /// Pages that were read.
    pub n_pages: u64,
    /// Marks that were made, a chunk counted each time it is met.
    pub n_marks: u64,
    /// Pages that were met again and not read again.
    pub n_shared: u64,
    /// Pins of which something is not here, or of which no page makes sense.
    pub n_partial: u64,
    /// Bytes of content of pins that no version names and that are kept or staged.
    pub kept_bytes: u64,
    /// Bytes of content of pins that are released.
    pub released_bytes: u64,
}

/// Why a pin keeps its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Named,
    Kept,
    Released,
}

/// What a list of ids on the way down is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Entries,
    Chunks,
}

/// Pages of one level that are still to be walked.
#[derive(Debug)]
struct Level {
    /// The page that names them; absent at the top of a list.
    page: Option<ChunkId>,
    kind: Kind,
    /// Levels between these pages and the leaves.
    depth: u8,
    pages: std::vec::IntoIter<ChunkId>,
    /// Whether everything below it was here so far.
    is_whole: bool,
}

/// A page as a chunk; its length is not noted where it is named.
const fn page_of(id: ChunkId) -> ChunkRef {
    ChunkRef { id, len: 0 }
}

/// Pages below which everything was here and marked: two generations, of which the older one is forgotten when the
/// newer one is full.
#[derive(Debug, Default)]
struct Memory {
    young: BTreeSet<ChunkId>,
    old: BTreeSet<ChunkId>,
}

impl Memory {
    fn knows(&self, page: &ChunkId) -> bool {
        self.young.contains(page) || self.old.contains(page)
    }

    fn learn(&mut self, page: ChunkId) {
        if self.young.len() >= MARK_MEMORY / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(page);
    }
}

/// Whether a page that is absent is lost, and not just on its way: all is here, or was published here, where the last copy
/// may be of what lies below the page. What was once here and came from others can come from them again; a user who does
/// not count on that keeps it.
const fn is_wanted_whole(pin: &Pin) -> bool {
    let was_here = pin.is_own || (pin.is_kept && pin.used_at.is_some());
    pin.is_here || (was_here && !pin.is_evicted)
}

/// What is shown the chunks that must stay: the manifest that names one, and the chunk.
pub type Mark<'a> = dyn FnMut(&ManifestId, &ChunkRef) + 'a;

/// See the module.
#[derive(Debug)]
pub struct Marker {
    /// Pins that were read and not walked.
    pins: VecDeque<ManifestId>,
    /// Where the next ones lie.
    after: Option<ManifestId>,
    has_all_pins: bool,
    /// The pin whose pages are walked, and whether all of it should be here.
    pin: Option<(ManifestId, bool)>,
    /// What its content counts as.
    class: Class,
    /// Pins count as they would be when the clock of grace says so, and released content is kept for so long.
    as_if: Option<(Timestamp, Duration)>,
    levels: Vec<Level>,
    /// Absent for a search, which shows the chunks of each manifest for itself.
    memory: Option<Memory>,
    /// Pages of the pin that were read; more than `max_pages` make no sense.
    n_pages: u64,
    max_pages: u64,
    is_partial: bool,
    figures: Figures,
}

impl Marker {
    /// A walk that has not begun. Of one manifest it reads at most `max_pages` pages: a few more than the store has
    /// chunks, so that only pages that name each other over and over again have more.
    pub fn new(max_pages: u64) -> Self {
        Self {
            pins: VecDeque::new(),
            after: None,
            has_all_pins: false,
            pin: None,
            class: Class::Named,
            as_if: None,
            levels: Vec::new(),
            memory: Some(Memory::default()),
            n_pages: 0,
            max_pages,
            is_partial: false,
            figures: Figures::default(),
        }
    }

    /// A walk that looks for something: every manifest is shown whole, and what is damaged or lost is passed over.
    pub fn search(max_pages: u64) -> Self {
        Self { memory: None, ..Self::new(max_pages) }
    }

    /// The same walk, over pins as [`Pin::expired`] would leave them.
    #[must_use]
    pub fn as_if(self, steady: Timestamp, min_age: Duration) -> Self {
        Self { as_if: Some((steady, min_age)), ..self }
    }

    fn now(&self, pin: Pin) -> Pin {
        self.as_if.map_or(pin, |(steady, min_age)| pin.expired(steady, min_age))
    }

    /// How far it is.
    pub const fn figures(&self) -> Figures {
        self.figures
    }

    /// Goes on until about `max_pages` pages were read; `true` at the end. `load` gives pages, `mark` takes every chunk
    /// that must stay.
    ///
    /// # Errors
    /// [`MarkError`]; the walk is over, and what was marked says nothing.
    pub fn step(
        &mut self,
        read: &dyn CatalogRead,
        load: &mut dyn FnMut(&ChunkId) -> Result<Loaded, StoreError>,
        mark: &mut Mark<'_>,
        max_pages: u64,
    ) -> Result<bool, MarkError> {
        let end = self.figures.n_pages.saturating_add(max_pages);
        // A pin without a page costs a look as well.
        let end_of_pins = self.figures.n_pins.saturating_add(max_pages);
        while self.figures.n_pages < end && self.figures.n_pins < end_of_pins {
            if self.pin.is_some() {
                self.walk(read, load, mark)?;
            } else if let Some(manifest) = self.pins.pop_front() {
                self.open(manifest, read, load, mark)?;
            } else if self.has_all_pins {
                return Ok(true);
            } else {
                self.read_pins(read)?;
            }
        }
        Ok(false)
    }

    fn read_pins(&mut self, read: &dyn CatalogRead) -> Result<(), StoreError> {
        let after = self.after.map(|id| id.as_bytes().to_vec());
        let lower = after.as_deref().map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let (mut n, mut last, mut failed, as_if) = (0, None, None, self.as_if);
        read.scan(Table::Pins, (lower, std::ops::Bound::Unbounded), Order::Ascending, &mut |key, value| {
            let pin = read_value::<Pin>(value);
            match (ManifestId::from_slice(key), pin) {
                (Some(manifest), Ok(pin)) => {
                    if as_if.map_or(pin, |(steady, min_age)| pin.expired(steady, min_age)).is_root() {
                        self.pins.push_back(manifest);
                    }
                    last = Some(manifest);
                }
                (None, _) => failed = Some(corrupt("the key of a pin")),
                (_, Err(error)) => failed = Some(error),
            }
            n += 1;
            if failed.is_some() || n >= MARK_PINS { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        self.has_all_pins = n < MARK_PINS;
        self.after = last.or(self.after);
        Ok(())
    }

    fn open(
        &mut self,
        manifest: ManifestId,
        read: &dyn CatalogRead,
        load: &mut dyn FnMut(&ChunkId) -> Result<Loaded, StoreError>,
        mark: &mut Mark<'_>,
    ) -> Result<(), MarkError> {
        let pin = self.now(crate::catalog::record::pin(read, &manifest)?);
        self.figures.n_pins += 1;
        // It may have gone since it was read; what keeps it now, if anything, came later and is marked by the store.
        if !pin.is_root() {
            return Ok(());
        }
        self.pin = Some((manifest, is_wanted_whole(&pin)));
        self.class = match pin {
            Pin { released_at: Some(_), .. } => Class::Released,
            Pin { n_versions: 0, .. } => Class::Kept,
            _ => Class::Named,
        };
        self.n_pages = 0;
        self.is_partial = false;
        let id = ChunkId::from(manifest);
        mark(&manifest, &page_of(id));
        self.figures.n_marks += 1;
        let Some(page) = self.load(id, read, load)? else {
            self.close();
            return Ok(());
        };
        let Page::Root(root) = page else {
            self.wrong(id, read, "it is not a root page")?;
            self.close();
            return Ok(());
        };
        // The last one in is walked first.
        self.open_list(id, root.entries, Kind::Entries, |_| {}, read)?;
        let (mut n_marks, mut bytes) = (0, 0);
        self.open_list(
            id,
            root.chunks,
            Kind::Chunks,
            |chunk: &ChunkRef| {
                n_marks += 1;
                bytes += u64::from(chunk.len);
                mark(&manifest, chunk);
            },
            read,
        )?;
        self.figures.n_marks += n_marks;
        self.count(bytes);
        if self.levels.is_empty() {
            self.close();
        }
        Ok(())
    }

    fn open_list<T>(
        &mut self,
        root: ChunkId,
        list: PageList<T>,
        kind: Kind,
        item: impl FnMut(&T),
        read: &dyn CatalogRead,
    ) -> Result<(), MarkError> {
        match list {
            PageList::Inline(items) => items.iter().for_each(item),
            PageList::Pages { depth, .. } if depth > MAX_PAGE_DEPTH => {
                self.wrong(root, read, "its lists are too deep")?
            }
            PageList::Pages { depth, pages } => {
                let pages = pages.into_iter().map(|page| page.id).collect();
                self.push(None, kind, depth, pages);
            }
        }
        Ok(())
    }

    fn push(&mut self, page: Option<ChunkId>, kind: Kind, depth: u8, mut pages: Vec<ChunkId>) {
        // Each once: the order of the walk does not matter.
        pages.sort_unstable();
        pages.dedup();
        self.levels.push(Level { page, kind, depth, pages: pages.into_iter(), is_whole: true });
    }

    /// Walks one page of the pin.
    fn walk(
        &mut self,
        read: &dyn CatalogRead,
        load: &mut dyn FnMut(&ChunkId) -> Result<Loaded, StoreError>,
        mark: &mut Mark<'_>,
    ) -> Result<(), MarkError> {
        let Some(level) = self.levels.last_mut() else {
            self.close();
            return Ok(());
        };
        let (kind, depth) = (level.kind, level.depth);
        let Some(id) = level.pages.next() else {
            let done = self.levels.pop();
            let Some(Level { page, is_whole, .. }) = done else { return Ok(()) };
            match (page, self.levels.last_mut()) {
                (Some(page), _) if is_whole => self.learn(page),
                (_, Some(above)) if !is_whole && page.is_some() => above.is_whole = false,
                _ => {}
            }
            return Ok(());
        };
        let manifest = self.manifest();
        mark(&manifest, &page_of(id));
        self.figures.n_marks += 1;
        // What the leaves of the entries say names no chunk.
        if kind == Kind::Entries && depth == 0 {
            return Ok(());
        }
        if self.memory.as_ref().is_some_and(|memory| memory.knows(&id)) {
            self.figures.n_shared += 1;
            return Ok(());
        }
        let page = self.load(id, read, load)?;
        match page {
            Some(Page::Chunks(chunks)) if kind == Kind::Chunks && depth == 0 => {
                chunks.iter().for_each(|chunk| mark(&manifest, chunk));
                self.figures.n_marks += chunks.len() as u64;
                self.count(chunks.iter().map(|chunk| u64::from(chunk.len)).sum());
                self.learn(id);
                return Ok(());
            }
            Some(Page::Index(refs)) if depth > 0 => {
                let pages = refs.into_iter().map(|page| page.id).collect();
                self.push(Some(id), kind, depth - 1, pages);
                return Ok(());
            }
            Some(_) => self.wrong(id, read, "it is a page of another kind")?,
            None => {}
        }
        if let Some(level) = self.levels.last_mut() {
            level.is_whole = false;
        }
        Ok(())
    }

    /// A page of the pin; `None` where it is passed over.
    fn load(
        &mut self,
        id: ChunkId,
        read: &dyn CatalogRead,
        load: &mut dyn FnMut(&ChunkId) -> Result<Loaded, StoreError>,
    ) -> Result<Option<Page>, MarkError> {
        self.n_pages += 1;
        self.figures.n_pages += 1;
        if self.n_pages > self.max_pages {
            self.wrong(id, read, "its pages name each other over and over again")?;
            self.levels.clear();
            return Ok(None);
        }
        match load(&id)? {
            Loaded::Here(bytes) => match decode::<Page>(&bytes) {
                Ok(page) => Ok(Some(page)),
                Err(error) => self.wrong(id, read, &error.to_string()).map(|()| None),
            },
            Loaded::Damaged if self.memory.is_some() => Err(MarkError::Damaged { manifest: self.manifest(), page: id }),
            Loaded::Absent if self.should_be_here(read)? => {
                Err(MarkError::Lost { manifest: self.manifest(), page: id })
            }
            Loaded::Absent | Loaded::Damaged => {
                self.is_partial = true;
                Ok(None)
            }
        }
    }

    fn learn(&mut self, page: ChunkId) {
        if let Some(memory) = &mut self.memory {
            memory.learn(page);
        }
    }

    const fn count(&mut self, bytes: u64) {
        match self.class {
            Class::Named => {}
            Class::Kept => self.figures.kept_bytes = self.figures.kept_bytes.saturating_add(bytes),
            Class::Released => self.figures.released_bytes = self.figures.released_bytes.saturating_add(bytes),
        }
    }

    fn manifest(&self) -> ManifestId {
        self.pin.map_or(ManifestId::from_bytes([0; 32]), |(manifest, _)| manifest)
    }

    /// Whether all of the pin should be here, still.
    fn should_be_here(&self, read: &dyn CatalogRead) -> Result<bool, StoreError> {
        match self.pin {
            Some((manifest, true)) if self.memory.is_some() => {
                Ok(is_wanted_whole(&crate::catalog::record::pin(read, &manifest)?))
            }
            _ => Ok(false),
        }
    }

    /// A page that is what its hash says and makes no sense: whoever published it can harm only their own content.
    fn wrong(&mut self, page: ChunkId, read: &dyn CatalogRead, reason: &str) -> Result<(), MarkError> {
        if self.should_be_here(read)? {
            return Err(MarkError::Wrong { manifest: self.manifest(), page, reason: reason.to_owned() });
        }
        self.is_partial = true;
        Ok(())
    }

    fn close(&mut self) {
        self.pin = None;
        self.levels.clear();
        self.figures.n_partial += u64::from(self.is_partial);
    }
}
