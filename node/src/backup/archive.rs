//! A backup in one file: a tar archive whose entries are the files of the folder, written from front to back.
//!
//! Segments are appended one after the other, so each can be an entry whose header is written when the next one begins.
//! The index of the chunk store is no part of it: it is made in a folder of its own, and made again from the segments
//! when the archive is read. Invariant: what was written is not changed; an archive is read only as a whole.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bib_core::limits::MAX_ARCHIVE_ENTRIES;
use bib_storage_redb::disk::DiskFile;
use bib_storage_redb::{Disk, Folder};

/// Bytes of a block of tar: headers are one, and entries fill whole ones.
const BLOCK: u64 = 512;
const SEGMENTS: &str = "segments/";
const SEGMENT: &str = ".seg";

struct State {
    /// First byte and length of each entry.
    entries: BTreeMap<String, (u64, u64)>,
    /// Where the next header goes.
    end: u64,
    /// The entry that is being written.
    current: Option<String>,
}

struct Shared {
    file: File,
    writable: bool,
    state: Mutex<State>,
}

/// The archive, as the folder of a chunk store. Cheap to clone.
#[derive(Clone)]
pub(super) struct Archive {
    shared: Arc<Shared>,
    scratch: Arc<Folder>,
}

fn refused(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("an archive is written once: {what}"))
}

fn rounded(len: u64) -> u64 {
    len.next_multiple_of(BLOCK)
}

fn header(name: &str, len: u64) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_size(len);
    header.set_mode(0o600);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    Ok(header)
}

impl Archive {
    /// An archive that is begun in an empty file. `scratch` takes the index.
    pub(super) fn create(file: File, scratch: Folder) -> Self {
        let state = State { entries: BTreeMap::new(), end: 0, current: None };
        Self { shared: Arc::new(Shared { file, writable: true, state: Mutex::new(state) }), scratch: Arc::new(scratch) }
    }

    /// An archive that is there.
    ///
    /// # Errors
    /// When it cannot be read, or is none.
    pub(super) fn open(file: File, scratch: Folder) -> io::Result<Self> {
        let len = file.metadata()?.len();
        let mut entries = BTreeMap::new();
        let mut reader = &file;
        reader.seek(SeekFrom::Start(0))?;
        let mut archive = tar::Archive::new(reader);
        for entry in archive.entries_with_seek()? {
            let entry = entry?;
            let name = String::from_utf8(entry.path_bytes().into_owned()).map_err(io::Error::other)?;
            let (at, size) = (entry.raw_file_position(), entry.size());
            let is_whole = at.checked_add(size).is_some_and(|end| end <= len);
            if entry.header().entry_type() != tar::EntryType::Regular || !is_whole {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the entry `{name}` is cut off")));
            }
            if entries.len() >= MAX_ARCHIVE_ENTRIES || entries.insert(name, (at, size)).is_some() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "its entries are too many, or come twice"));
            }
        }
        let state = State { entries, end: len, current: None };
        let shared = Shared { file, writable: false, state: Mutex::new(state) };
        Ok(Self { shared: Arc::new(shared), scratch: Arc::new(scratch) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    /// Names that begin with `prefix`.
    pub(super) fn names(&self, prefix: &str) -> Vec<String> {
        self.state().entries.keys().filter(|name| name.starts_with(prefix)).cloned().collect()
    }

    /// The bytes of a short entry.
    pub(super) fn read(&self, name: &str, max: usize) -> io::Result<Vec<u8>> {
        let (at, len) = *self.state().entries.get(name).ok_or(io::ErrorKind::NotFound)?;
        let len = usize::try_from(len).ok().filter(|len| *len <= max);
        let len = len.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is longer than any"))?;
        let mut bytes = vec![0; len];
        self.shared.file.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }

    /// Adds a whole entry.
    pub(super) fn add(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let at = self.shared.begin(&mut state, name)?;
        self.shared.file.write_all_at(bytes, at)?;
        state.entries.insert(name.to_owned(), (at, bytes.len() as u64));
        self.shared.end(&mut state)
    }

    /// Ends the archive, durably.
    pub(super) fn finish(&self) -> io::Result<()> {
        let mut state = self.state();
        self.shared.end(&mut state)?;
        self.shared.file.write_all_at(&[0; 2 * BLOCK as usize], state.end)?;
        self.shared.file.sync_all()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // It is whole between any two of its changes.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an entry after ending the one before it; returns where its bytes go.
    fn begin(&self, state: &mut State, name: &str) -> io::Result<u64> {
        if !self.writable || state.entries.contains_key(name) {
            return Err(refused(name));
        }
        self.end(state)?;
        let at = state.end + BLOCK;
        state.entries.insert(name.to_owned(), (at, 0));
        state.current = Some(name.to_owned());
        Ok(at)
    }

    /// Writes the header of the entry begun last, and what fills its last block.
    fn end(&self, state: &mut State) -> io::Result<()> {
        let Some(name) = state.current.take() else { return Ok(()) };
        let (at, len) = state.entries[&name];
        self.file.write_all_at(header(&name, len)?.as_bytes(), at - BLOCK)?;
        let filled = rounded(len);
        let rest = vec![0; usize::try_from(filled - len).unwrap_or_default()];
        self.file.write_all_at(&rest, at + len)?;
        state.end = at + filled;
        Ok(())
    }
}

/// A segment in the archive.
struct Entry {
    shared: Arc<Shared>,
    name: String,
}

impl Entry {
    fn place(&self) -> io::Result<(u64, u64)> {
        self.shared.state().entries.get(&self.name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn writing<'a>(&self, state: &'a mut State) -> io::Result<&'a mut (u64, u64)> {
        if state.current.as_ref() != Some(&self.name) {
            return Err(refused(&self.name));
        }
        state.entries.get_mut(&self.name).ok_or_else(|| refused(&self.name))
    }
}

impl DiskFile for Entry {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let (at, len) = self.place()?;
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > len) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{} ends before", self.name)));
        }
        self.shared.file.read_exact_at(buf, at + offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.shared.state();
        let (at, len) = self.writing(&mut state)?;
        self.shared.file.write_all_at(bytes, *at + offset)?;
        *len = (*len).max(offset + bytes.len() as u64);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        if self.shared.writable { self.shared.file.sync_data() } else { Ok(()) }
    }

    fn settle(&self) -> io::Result<()> {
        self.sync()
    }

    fn len(&self) -> io::Result<u64> {
        self.place().map(|(_, len)| len)
    }

    fn set_len(&self, new: u64) -> io::Result<()> {
        let mut state = self.shared.state();
        let (_, len) = self.writing(&mut state)?;
        *len = new;
        Ok(())
    }

    fn try_lock(&self) -> io::Result<bool> {
        Ok(true)
    }

    fn punch(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Err(refused(&self.name))
    }

    fn allocated(&self) -> io::Result<u64> {
        self.len()
    }
}

impl Disk for Archive {
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        if !name.ends_with(SEGMENT) {
            return self.scratch.open(name, create);
        }
        let name = format!("{SEGMENTS}{name}");
        let mut state = self.state();
        if !state.entries.contains_key(&name) {
            if !create {
                return Err(io::ErrorKind::NotFound.into());
            }
            self.shared.begin(&mut state, &name)?;
        }
        Ok(Arc::new(Entry { shared: self.shared.clone(), name }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = self.scratch.list()?;
        names.extend(self.names(SEGMENTS).iter().filter_map(|name| name.strip_prefix(SEGMENTS)).map(str::to_owned));
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        if from.ends_with(SEGMENT) || to.ends_with(SEGMENT) {
            return Err(refused(from));
        }
        self.scratch.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        if name.ends_with(SEGMENT) { Err(refused(name)) } else { self.scratch.remove(name) }
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.scratch.sync_folder()
    }
}

/// Reads the header of a backup in a file without more of it.
pub(super) fn first_entry(path: &Path, name: &str, max: usize) -> io::Result<Vec<u8>> {
    let mut archive = tar::Archive::new(File::open(path)?);
    let first = archive.entries()?.next().ok_or(io::ErrorKind::UnexpectedEof)??;
    if first.path_bytes().as_ref() != name.as_bytes() || first.size() > max as u64 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it does not begin as a backup does"));
    }
    let mut bytes = Vec::new();
    first.take(max as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}
