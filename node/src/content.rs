//! Reads the files of a version from the chunk store, in steps, in memory of one chunk and one page of each list.
//!
//! A chunk or page that is not here is reported and leaves the reader where it is, so that whoever drives it can fetch
//! it and go on.
//!
//! Deliberately absent: fetching, and where the bytes go.

use bib_core::api::Event;
use bib_core::chunk::Chunk;
use bib_core::id::{ChunkId, ManifestId};
use bib_core::limits::CONTROL_DATA_LEN;
use bib_core::model::manifest::reader::{self, Cursor, ReadError};
use bib_core::model::manifest::{ChunkRef, Entry, EntryKind, Root};
use bib_core::model::{DatasetPath, PathPatterns};
use bib_core::port::StoreError;
use serde_bytes::ByteBuf;

use crate::store::Stores;

/// Why content cannot be read further.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ContentError {
    /// A chunk or page is not here.
    #[error("chunk {0} is not here")]
    Missing(ChunkId),
    /// What is here makes no sense.
    #[error("the manifest is wrong: {0}")]
    Wrong(String),
    /// There is nothing under the path.
    #[error("there is nothing at `{0}` in the version")]
    NoPath(DatasetPath),
    /// One file is to be read, and the path is not one.
    #[error("`{0}` is a folder")]
    IsFolder(DatasetPath),
    /// One file is to be read, and there are several.
    #[error("the version has {0} files")]
    SeveralFiles(u64),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<ReadError<StoreError>> for ContentError {
    fn from(error: ReadError<StoreError>) -> Self {
        match error {
            ReadError::Missing(id) => Self::Missing(id),
            ReadError::Source(error) => Self::Store(error),
            error => Self::Wrong(error.to_string()),
        }
    }
}

/// What of a version is read.
#[derive(Debug, Clone)]
pub(crate) enum Part {
    /// The entries at or below a path.
    Entries(Option<DatasetPath>),
    /// Entries and bytes of the files at or below a path that match.
    Files(Option<DatasetPath>, PathPatterns),
    /// Some bytes of one file.
    File { path: Option<DatasetPath>, offset: u64, len: Option<u64> },
}

impl Part {
    pub(crate) const fn path(&self) -> Option<&DatasetPath> {
        match self {
            Self::Entries(path) | Self::Files(path, _) | Self::File { path, .. } => path.as_ref(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Nothing was read.
    Begin,
    /// At the path itself.
    At,
    /// Below the path.
    Below,
    /// Everything was read.
    End,
}

/// See the module.
pub(crate) struct Reader {
    stores: Stores,
    manifest: ManifestId,
    part: Part,
    place: Place,
    open: Option<Open>,
    n_shown: u64,
    originals: bool,
}

/// What is read once the root is here.
struct Open {
    root: Root,
    entries: Cursor<Entry>,
    chunks: Cursor<ChunkRef>,
    /// First byte in the stream of the chunk in hand, and its bytes.
    held: Option<(u64, Vec<u8>)>,
    /// What of the stream is to be shown next.
    left: std::ops::Range<u64>,
    /// Whether the place of the file is asked for before its first byte is read.
    asks_original: bool,
}

fn source(stores: &Stores) -> impl FnMut(&ChunkId) -> Result<Option<Vec<u8>>, StoreError> + '_ {
    |id| Ok(stores.chunks().get(id)?.map(Chunk::into_raw))
}

impl Reader {
    pub(crate) fn new(stores: Stores, manifest: ManifestId, part: Part) -> Self {
        Self { stores, manifest, part, place: Place::Begin, open: None, n_shown: 0, originals: false }
    }

    /// Of files that were left where they lay, tells the place instead of the bytes. Only of whole files.
    pub(crate) const fn naming_originals(mut self, originals: bool) -> Self {
        self.originals = originals;
        self
    }

    /// Yields events of about `max` bytes; none at the end. After an error that was mended it goes on where it was.
    pub(crate) fn step(&mut self, max: usize) -> Result<Vec<Event>, ContentError> {
        let (mut events, mut len) = (Vec::new(), 0);
        while len < max {
            match self.next() {
                Ok(Some(event)) => {
                    len += match &event {
                        Event::Data(bytes) => bytes.len(),
                        Event::Entry(entry) => entry.path.as_str().len() + 128,
                        Event::Original { path } => path.len(),
                        _ => 0,
                    };
                    events.push(event);
                }
                Ok(None) => break,
                // Shown with the next step, after what is in hand.
                Err(_) if !events.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(events)
    }

    fn next(&mut self) -> Result<Option<Event>, ContentError> {
        let mut source = source(&self.stores);
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                let root = reader::root(self.manifest, &mut source)?;
                let (entries, chunks) = (Cursor::entries(&root), Cursor::chunks(&root));
                self.open.insert(Open { root, entries, chunks, held: None, left: 0..0, asks_original: false })
            }
        };
        if std::mem::take(&mut open.asks_original)
            && let Some(path) = open.original(&self.stores, &mut source)?
        {
            open.left = 0..0;
            return Ok(Some(Event::Original { path }));
        }
        if open.left.start < open.left.end {
            return open.data(&mut source).map(Some);
        }
        if self.place == Place::Begin {
            match self.part.path() {
                Some(path) => open.entries.seek_path(path.as_str(), &mut source)?,
                None if matches!(self.part, Part::File { .. }) && open.root.n_entries != 1 => {
                    return Err(ContentError::SeveralFiles(open.root.n_entries));
                }
                None => {}
            }
            self.place = Place::At;
        }
        while self.place != Place::End {
            let entry = match (self.place, self.part.path()) {
                (_, None) => open.entries.next(&mut source)?,
                (Place::At, Some(path)) => {
                    let at = open.entries.peek(&mut source)?.filter(|entry| entry.path == *path);
                    self.place = Place::Below;
                    match at {
                        // Nothing lies below a file or an empty folder.
                        Some(entry) => {
                            self.place = Place::End;
                            Some(entry)
                        }
                        None => continue,
                    }
                }
                (_, Some(path)) => {
                    let below = format!("{path}/");
                    if self.n_shown == 0 {
                        open.entries.seek_path(&below, &mut source)?;
                    }
                    open.entries.next(&mut source)?.filter(|entry| entry.path.as_str().starts_with(&below))
                }
            };
            let Some(entry) = entry else {
                self.place = Place::End;
                break;
            };
            self.n_shown += 1;
            match &self.part {
                Part::Entries(_) => {}
                Part::Files(_, patterns) if !patterns.matches(entry.path.as_str()) => continue,
                Part::Files(..) => {
                    open.left = entry.offset..entry.offset + entry.size;
                    open.asks_original = self.originals && entry.size > 0;
                }
                Part::File { path: Some(path), .. } if entry.path != *path || entry.kind == EntryKind::EmptyDir => {
                    return Err(ContentError::IsFolder(path.clone()));
                }
                Part::File { offset, len, .. } => {
                    let begin = (*offset).min(entry.size);
                    let end = len.map_or(entry.size, |len| begin.saturating_add(len).min(entry.size));
                    open.left = entry.offset + begin..entry.offset + end;
                }
            }
            return Ok(Some(Event::Entry(entry)));
        }
        match self.part.path() {
            Some(path) if self.n_shown == 0 => Err(ContentError::NoPath(path.clone())),
            _ => Ok(None),
        }
    }
}

impl Open {
    /// The file that the one in hand was published from, when its first chunk lies at the beginning of one. Whether the
    /// rest does too is for the hash to say.
    fn original(
        &mut self,
        stores: &Stores,
        source: &mut impl FnMut(&ChunkId) -> Result<Option<Vec<u8>>, StoreError>,
    ) -> Result<Option<ByteBuf>, ContentError> {
        self.chunks.seek_offset(self.left.start, source)?;
        if self.chunks.offset() != self.left.start {
            return Ok(None);
        }
        let Some(chunk) = self.chunks.peek(source)? else { return Ok(None) };
        let place = stores.chunks().place(&chunk.id)?.filter(|place| place.offset() == 0);
        Ok(place.map(|place| ByteBuf::from(place.path())))
    }

    /// The next bytes of what is left.
    fn data(
        &mut self,
        source: &mut impl FnMut(&ChunkId) -> Result<Option<Vec<u8>>, StoreError>,
    ) -> Result<Event, ContentError> {
        let at = self.left.start;
        let holds = |held: &&(u64, Vec<u8>)| held.0 <= at && at < held.0 + held.1.len() as u64;
        if self.held.as_ref().filter(holds).is_none() {
            self.held = None;
            self.chunks.seek_offset(at, source)?;
            let begin = self.chunks.offset();
            let Some(chunk) = self.chunks.peek(source)? else {
                return Err(ContentError::Wrong("its chunks end before its files".to_owned()));
            };
            let bytes = source(&chunk.id)?.ok_or(ContentError::Missing(chunk.id))?;
            if bytes.len() as u64 != u64::from(chunk.len) {
                return Err(ContentError::Wrong(format!("chunk {} has another length than it says", chunk.id)));
            }
            self.held = Some((begin, bytes));
        }
        let (begin, bytes) = self.held.as_ref().expect("it is held, or was just loaded");
        let from = usize::try_from(at - begin).unwrap_or(usize::MAX);
        let left = usize::try_from(self.left.end - at).unwrap_or(usize::MAX);
        let to = bytes.len().min(from.saturating_add(left.min(CONTROL_DATA_LEN)));
        let piece = bytes.get(from..to).unwrap_or_default().to_vec();
        self.left.start += piece.len() as u64;
        Ok(Event::Data(ByteBuf::from(piece)))
    }
}

#[cfg(test)]
mod tests {
    use bib_core::chunker::ChunkerParams;
    use bib_core::model::manifest::ManifestKind;
    use bib_core::model::manifest::builder::{Builder, Piece};

    use super::*;
    use crate::config::Budget;
    use crate::config::budget::MIN_MEMORY;
    use crate::runtime::Pool;
    use crate::store::Store;

    /// A version in a store, of which some chunks can be left out.
    struct Fixture {
        store: Store,
        manifest: ManifestId,
        chunks: Vec<Chunk>,
        _dir: tempfile::TempDir,
    }

    fn path(text: &str) -> DatasetPath {
        DatasetPath::new(text).unwrap()
    }

    fn bytes_of(name: &str, len: usize) -> Vec<u8> {
        name.bytes().cycle().take(len).collect()
    }

    fn fixture(files: &[(&str, usize)], with_content: bool) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(dir.path(), &Budget::of(MIN_MEMORY), Pool::new(1), None).unwrap();
        let stores = store.stores();
        let mut chunks = Vec::new();
        let mut sink = |piece: Piece| {
            let is_page = matches!(piece, Piece::Page(_));
            let (Piece::Content(chunk) | Piece::Page(chunk)) = piece;
            let chunk = chunk.compress();
            if is_page || with_content {
                stores.chunks().put(&chunk)?;
            }
            chunks.push(chunk);
            Ok::<_, StoreError>(())
        };
        let mut builder = Builder::new(ManifestKind::Tree, ChunkerParams::with_average(16 << 10));
        for (name, len) in files {
            builder.begin(path(name), EntryKind::File, &mut sink).unwrap();
            builder.push(&bytes_of(name, *len), &mut sink).unwrap();
        }
        let manifest = builder.finish(None, &mut sink).unwrap().manifest;
        Fixture { store, manifest, chunks, _dir: dir }
    }

    const FILES: [(&str, usize); 6] =
        [("a", 300_000), ("a-b", 10), ("b/1.csv", 70_000), ("b/2.txt", 5), ("b/c/3.csv", 0), ("c", 1)];

    impl Fixture {
        fn reader(&self, part: Part) -> Reader {
            Reader::new(self.store.stores(), self.manifest, part)
        }

        /// Names and bytes of what is read, in steps of `step` bytes.
        fn read(&self, part: Part, step: usize) -> Result<Vec<(String, Vec<u8>)>, ContentError> {
            let (mut reader, mut files) = (self.reader(part), Vec::<(String, Vec<u8>)>::new());
            loop {
                let events = reader.step(step)?;
                if events.is_empty() {
                    return Ok(files);
                }
                for event in events {
                    match event {
                        Event::Entry(entry) => files.push((entry.path.to_string(), Vec::new())),
                        Event::Data(bytes) => files.last_mut().unwrap().1.extend_from_slice(&bytes),
                        other => panic!("{other:?}"),
                    }
                }
            }
        }

        fn names(&self, part: Part) -> Vec<String> {
            self.read(part, 1).unwrap().into_iter().map(|(name, _)| name).collect()
        }
    }

    #[test]
    fn files_come_whole_whatever_the_steps_are() {
        let fixture = fixture(&FILES, true);
        let expected: Vec<_> = FILES.iter().map(|(name, len)| ((*name).to_owned(), bytes_of(name, *len))).collect();
        for step in [1, 1_000, 1 << 20] {
            let read = fixture.read(Part::Files(None, PathPatterns::default()), step).unwrap();
            assert!(read == expected, "in steps of {step}");
        }
    }

    #[test]
    fn path_means_itself_and_what_is_below_it_and_no_neighbour() {
        let fixture = fixture(&FILES, true);
        assert_eq!(fixture.names(Part::Entries(Some(path("a")))), ["a"]);
        assert_eq!(fixture.names(Part::Entries(Some(path("b")))), ["b/1.csv", "b/2.txt", "b/c/3.csv"]);
        assert_eq!(fixture.names(Part::Entries(Some(path("b/c")))), ["b/c/3.csv"]);
        assert_eq!(fixture.names(Part::Entries(None)).len(), FILES.len());
        let csv = PathPatterns::new(vec!["*.csv".to_owned()]).unwrap();
        assert_eq!(fixture.names(Part::Files(Some(path("b")), csv)), ["b/1.csv", "b/c/3.csv"]);
        for absent in ["aa", "b/", "0", "zzz", "b/1.csv/x"] {
            let Ok(absent) = DatasetPath::new(absent) else { continue };
            let read = fixture.read(Part::Entries(Some(absent.clone())), 1);
            assert!(matches!(&read, Err(ContentError::NoPath(path)) if *path == absent), "{read:?}");
        }
    }

    #[test]
    fn range_of_a_file_ends_where_the_file_ends() {
        let fixture = fixture(&FILES, true);
        let range = |name: &str, offset, len| {
            let part = Part::File { path: Some(path(name)), offset, len };
            fixture.read(part, 1_000).unwrap().remove(0).1
        };
        let a = bytes_of("a", 300_000);
        assert_eq!(range("a", 0, None), a);
        assert_eq!(range("a", 100_000, Some(150_000)), a[100_000..250_000]);
        assert_eq!(range("a", 299_999, Some(u64::MAX)), a[299_999..]);
        assert_eq!(range("a", u64::MAX, None), b"");
        assert_eq!(range("b/2.txt", 1, Some(2)), b"/2");
    }

    #[test]
    fn one_file_must_be_meant() {
        let fixture = fixture(&FILES, true);
        let read = |path| fixture.read(Part::File { path, offset: 0, len: None }, 1);
        assert!(matches!(read(None), Err(ContentError::SeveralFiles(6))));
        assert!(matches!(read(Some(path("b"))), Err(ContentError::IsFolder(_))));
        assert!(matches!(read(Some(path("x"))), Err(ContentError::NoPath(_))));
    }

    #[test]
    fn reader_goes_on_where_a_chunk_was_missing() {
        let fixture = fixture(&FILES, false);
        let mut reader = fixture.reader(Part::Files(None, PathPatterns::default()));
        let (mut read, mut n_missing) = (Vec::new(), 0);
        loop {
            match reader.step(1_000) {
                Ok(events) if events.is_empty() => break,
                Ok(events) => read.extend(events.into_iter().filter_map(|event| match event {
                    Event::Data(bytes) => Some(bytes.into_vec()),
                    _ => None,
                })),
                Err(ContentError::Missing(id)) => {
                    n_missing += 1;
                    let chunk = fixture.chunks.iter().find(|chunk| chunk.id() == id).unwrap();
                    assert!(fixture.store.stores().chunks().put(chunk).unwrap(), "it was missing indeed");
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert!(n_missing > 1, "{n_missing}");
        let expected: Vec<u8> = FILES.iter().flat_map(|(name, len)| bytes_of(name, *len)).collect();
        assert!(read.concat() == expected);
    }
}
