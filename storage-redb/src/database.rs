//! A redb database in a file of a [`Disk`]: how it is made, opened, written and, after a failure, opened again.
//!
//! Invariant: a database with its name in the folder is whole, because it is made under another name and renamed when
//! its first commit is durable; and every commit is made so that an open after a power cut reads a few pages only.
//!
//! After a failure redb refuses everything until it is opened again. What follows depends on what failed: a read, or a
//! write for which there was no room, leaves the file as the last commit left it, so it is opened again for writing.
//! After a failed sync nobody knows which pages the system still has to write, so it is opened again for reading only,
//! with all that redb itself wants to write kept in memory.
//!
//! Deliberately absent: checking all pages at open. A damaged page is found when it is read, and redb may panic then;
//! the panic ends here as [`StoreError::Corrupt`], and its message is one line in the log.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, RwLock, RwLockReadGuard};

use bib_core::port::StoreError;
use redb::{Database, ReadTransaction, ReadableDatabase, WriteTransaction};

use crate::disk::{Disk, DiskFile};

/// A lock that a panicking holder left is still good: every change under it is a whole step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn write_error(error: io::Error) -> StoreError {
    if no_space(&error) {
        StoreError::Full(format!("the file system has no free bytes ({error})"))
    } else {
        error.into()
    }
}

fn no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What an error of redb means for who uses the store.
pub(crate) fn redb_error(name: &str, error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        // This kind is how redb says that the file is none of its own.
        redb::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            StoreError::Corrupt(format!("{name} is no database"))
        }
        redb::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            StoreError::Corrupt(format!("{name} ends too early"))
        }
        redb::Error::Io(error) => write_error(error),
        redb::Error::DatabaseAlreadyOpen => StoreError::Locked(name.to_owned()),
        redb::Error::UpgradeRequired(version) => StoreError::Unsupported(format!("{name} has file format {version}")),
        error @ (redb::Error::PreviousIo | redb::Error::DatabaseClosed) => StoreError::Io(io::Error::other(error)),
        error => StoreError::Corrupt(format!("{name}: {error}")),
    }
}

type Hook = Box<dyn Fn(&PanicHookInfo<'_>) + Send + Sync>;

thread_local! {
    /// Whether this thread is in a guarded step.
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
    /// Where the last panic of a guarded step was.
    static PANICKED_AT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// A hook that keeps the panics of guarded steps from being printed with a trace, and leaves others to `previous`.
fn without_guarded(previous: Hook) -> Hook {
    Box::new(move |panic| {
        if IS_GUARDED.get() {
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            PANICKED_AT.with_borrow_mut(|at| *at = place);
        } else {
            previous(panic);
        }
    })
}

/// Runs a step of redb; a panic in it is damage of the file.
pub(crate) fn guarded<T>(name: &str, step: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    static HOOKED: Once = Once::new();
    HOOKED.call_once(|| set_hook(without_guarded(take_hook())));
    let outer = IS_GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(step));
    IS_GUARDED.set(outer);
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        let text = text.unwrap_or("a page has no meaning");
        let place = PANICKED_AT.take();
        log::error!(file = name, why = text, at = place.as_str(); "a page of the database is damaged");
        Err(StoreError::Corrupt(format!("{name}: {text}")))
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Severity {
    /// The file is as the last commit left it.
    Passing,
    /// Nobody knows what is in the file until the next start.
    Lasting,
}

/// The worst failure of one opened file.
#[derive(Debug, Default)]
struct Faults(Mutex<Option<(Severity, String)>>);

impl Faults {
    fn note(&self, severity: Severity, error: impl std::fmt::Display) {
        let mut worst = lock(&self.0);
        if worst.as_ref().is_none_or(|(known, _)| *known < severity) {
            *worst = Some((severity, error.to_string()));
        }
    }

    fn worst(&self) -> Option<(Severity, String)> {
        lock(&self.0).clone()
    }
}

const BLOCK: usize = 4096;

/// What redb wrote to a file that must not change.
#[derive(Debug, Default)]
struct Overlay {
    blocks: BTreeMap<u64, Box<[u8; BLOCK]>>,
    len: Option<u64>,
}

struct Backend {
    file: Arc<dyn DiskFile>,
    faults: Arc<Faults>,
    overlay: Option<Mutex<Overlay>>,
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backend").finish_non_exhaustive()
    }
}

impl Backend {
    fn noted<T>(&self, result: io::Result<T>, severity: Severity) -> io::Result<T> {
        result.inspect_err(|error| self.faults.note(if no_space(error) { Severity::Passing } else { severity }, error))
    }

    /// A block as the overlay or the file has it, zeroes behind its end.
    fn block(&self, overlay: &Overlay, number: u64) -> io::Result<Box<[u8; BLOCK]>> {
        if let Some(block) = overlay.blocks.get(&number) {
            return Ok(block.clone());
        }
        let mut block = Box::new([0; BLOCK]);
        let start = number * BLOCK as u64;
        let held = self.file.len()?.saturating_sub(start).min(BLOCK as u64) as usize;
        self.file.read_exact_at(&mut block[..held], start)?;
        Ok(block)
    }
}

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        if let Some(len) = self.overlay.as_ref().and_then(|overlay| lock(overlay).len) {
            return Ok(len);
        }
        self.noted(self.file.len(), Severity::Passing)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let Some(overlay) = &self.overlay else {
            return self.noted(self.file.read_exact_at(out, offset), Severity::Passing);
        };
        let overlay = lock(overlay);
        let mut done = 0;
        while done < out.len() {
            let at = offset + done as u64;
            let (number, within) = (at / BLOCK as u64, (at % BLOCK as u64) as usize);
            let step = (BLOCK - within).min(out.len() - done);
            let block = self.noted(self.block(&overlay, number), Severity::Passing)?;
            out[done..done + step].copy_from_slice(&block[within..within + step]);
            done += step;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        match &self.overlay {
            None => self.noted(self.file.set_len(len), Severity::Lasting),
            Some(overlay) => {
                lock(overlay).len = Some(len);
                Ok(())
            }
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.overlay.is_some() {
            return Ok(());
        }
        // Even for want of room: what the system could not write it may have forgotten.
        self.file.sync().inspect_err(|error| self.faults.note(Severity::Lasting, error))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let Some(overlay) = &self.overlay else {
            return self.noted(self.file.write_all_at(data, offset), Severity::Lasting);
        };
        let mut overlay = lock(overlay);
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let (number, within) = (at / BLOCK as u64, (at % BLOCK as u64) as usize);
            let step = (BLOCK - within).min(data.len() - done);
            let mut block = self.noted(self.block(&overlay, number), Severity::Passing)?;
            block[within..within + step].copy_from_slice(&data[done..done + step]);
            overlay.blocks.insert(number, block);
            done += step;
        }
        Ok(())
    }
}

struct Opened {
    database: Database,
    faults: Arc<Faults>,
}

/// One database file. Readers never wait for a writer; one writer at a time.
pub(crate) struct Store {
    name: &'static str,
    file: Arc<dyn DiskFile>,
    cache_bytes: usize,
    /// `None` when it could not be opened again after a failure.
    current: RwLock<Option<Opened>>,
    /// Held by the one who writes; why nobody may.
    writer: Mutex<Option<String>>,
}

impl Store {
    /// Opens the database with a name. If there is none, it is made with what `first` puts into it.
    pub(crate) fn open(
        disk: &dyn Disk,
        name: &'static str,
        cache_bytes: usize,
        first: impl FnOnce(&WriteTransaction) -> Result<(), StoreError>,
    ) -> Result<Self, StoreError> {
        if !disk.list()?.iter().any(|file| file == name) {
            return Self::make(disk, name, cache_bytes, first);
        }
        let file = locked(disk, name, false)?;
        if file.len()? == 0 {
            return Err(StoreError::Corrupt(format!("{name} is empty")));
        }
        // Who renamed it may have been killed before it synced the folder.
        disk.sync_folder().map_err(write_error)?;
        Self::over(name, file, cache_bytes)
    }

    /// Makes a database, in place of the one that has its name.
    pub(crate) fn make(
        disk: &dyn Disk,
        name: &'static str,
        cache_bytes: usize,
        first: impl FnOnce(&WriteTransaction) -> Result<(), StoreError>,
    ) -> Result<Self, StoreError> {
        Self::make_in_steps(disk, name, cache_bytes, |store| store.write(first))
    }

    /// The same with any number of commits, so that what is put into it does not have to be in memory. Nothing is left
    /// of it when they fail.
    pub(crate) fn make_in_steps(
        disk: &dyn Disk,
        name: &'static str,
        cache_bytes: usize,
        fill: impl FnOnce(&Self) -> Result<(), StoreError>,
    ) -> Result<Self, StoreError> {
        let unfinished = format!("{name}.new");
        let is_left = disk.list()?.contains(&unfinished);
        if is_left {
            disk.remove(&unfinished)?;
        }
        let file = locked(disk, &unfinished, true)?;
        if is_left {
            // Else a power cut may keep the renaming and forget that another file had the name before.
            disk.sync_folder().map_err(write_error)?;
        }
        let store = Self::over(name, file, cache_bytes)?;
        if let Err(error) = fill(&store) {
            drop(store);
            // The space that it took is wanted; one that stays is removed by the next attempt.
            let _ = disk.remove(&unfinished);
            return Err(error);
        }
        disk.rename(&unfinished, name).map_err(write_error)?;
        disk.sync_folder().map_err(write_error)?;
        Ok(store)
    }

    fn over(name: &'static str, file: Arc<dyn DiskFile>, cache_bytes: usize) -> Result<Self, StoreError> {
        let opened = open_file(name, &file, cache_bytes, false)?;
        Ok(Self { name, file, cache_bytes, current: RwLock::new(Some(opened)), writer: Mutex::new(None) })
    }

    fn current(&self) -> RwLockReadGuard<'_, Option<Opened>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self) -> Option<(Severity, String)> {
        match self.current().as_ref() {
            Some(opened) => opened.faults.worst(),
            None => Some((Severity::Passing, "it could not be opened again".to_owned())),
        }
    }

    /// Opens the file again if a failure has closed it.
    fn recover(&self, writer: &mut Option<String>) -> Result<(), StoreError> {
        let Some((severity, why)) = self.fault() else { return Ok(()) };
        if severity == Severity::Lasting && writer.is_none() {
            log::error!(file = self.name, error = why.as_str(); "a write failed; no more are made until the next start");
            *writer = Some(why);
        }
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        // Closed first: two databases over one file would not see each other's pages.
        let _ = close(self.name, &mut current);
        *current = Some(open_file(self.name, &self.file, self.cache_bytes, writer.is_some())?);
        Ok(())
    }

    /// Bytes that the file takes of the file system.
    pub(crate) fn allocated(&self) -> Result<u64, StoreError> {
        Ok(self.file.allocated()?)
    }

    /// Whether an earlier failure ended writing until the next start.
    pub(crate) fn is_read_only(&self) -> bool {
        lock(&self.writer).is_some()
    }

    /// A snapshot.
    pub(crate) fn read(&self) -> Result<ReadTransaction, StoreError> {
        if self.fault().is_some() {
            self.recover(&mut lock(&self.writer))?;
        }
        let current = self.current();
        let Some(opened) = current.as_ref() else {
            return Err(StoreError::Corrupt(format!("{} could not be opened again", self.name)));
        };
        guarded(self.name, || opened.database.begin_read().map_err(|error| redb_error(self.name, error)))
    }

    /// Runs `work` and commits what it did durably, or undoes it.
    pub(crate) fn write<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut writer = lock(&self.writer);
        self.recover(&mut writer)?;
        if let Some(why) = &*writer {
            return Err(StoreError::ReadOnly(why.clone()));
        }
        let result = self.write_once(work);
        if result.is_err()
            && let Err(error) = self.recover(&mut writer)
        {
            log::error!(file = self.name, error:% = error; "the database could not be opened again");
        }
        match (result, &*writer) {
            // Space would not help any more.
            (Err(StoreError::Full(_)), Some(why)) => Err(StoreError::ReadOnly(why.clone())),
            (result, _) => result,
        }
    }

    fn write_once<T>(&self, work: impl FnOnce(&WriteTransaction) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let current = self.current();
        let Some(opened) = current.as_ref() else {
            return Err(StoreError::Corrupt(format!("{} could not be opened again", self.name)));
        };
        let txn = guarded(self.name, || {
            let mut txn = opened.database.begin_write().map_err(|error| redb_error(self.name, error))?;
            txn.set_quick_repair(true);
            Ok(txn)
        })?;
        let value = match work(&txn) {
            Ok(value) => value,
            Err(error) => {
                // An error of the undoing is noted by the backend.
                let _ = guarded(self.name, || txn.abort().map_err(|error| redb_error(self.name, error)));
                return Err(error);
            }
        };
        let committed = guarded(self.name, || txn.commit().map_err(|error| redb_error(self.name, error)));
        committed.map(|()| value).inspect_err(|error| {
            // A commit that failed without an error of the file leaves a database that must not be written either.
            if opened.faults.worst().is_none() {
                opened.faults.note(Severity::Lasting, error);
            }
        })
    }
}

/// Closing writes what makes the next open quick; on a damaged file that may panic.
fn close(name: &str, current: &mut Option<Opened>) -> Result<(), StoreError> {
    guarded(name, || {
        drop(current.take());
        Ok(())
    })
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Err(error) = close(self.name, self.current.get_mut().unwrap_or_else(PoisonError::into_inner)) {
            log::error!(file = self.name, error:% = error; "the database could not be closed");
        }
    }
}

fn locked(disk: &dyn Disk, name: &str, create: bool) -> Result<Arc<dyn DiskFile>, StoreError> {
    let file = disk.open(name, create).map_err(write_error)?;
    if file.try_lock()? { Ok(file) } else { Err(StoreError::Locked(name.to_owned())) }
}

fn open_file(
    name: &'static str,
    file: &Arc<dyn DiskFile>,
    cache_bytes: usize,
    frozen: bool,
) -> Result<Opened, StoreError> {
    let faults = Arc::new(Faults::default());
    let overlay = frozen.then(Mutex::default);
    let backend = Backend { file: file.clone(), faults: faults.clone(), overlay };
    let database = guarded(name, || {
        redb::Builder::new()
            .set_cache_size(cache_bytes)
            .create_with_backend(backend)
            .map_err(|error| redb_error(name, error))
    })?;
    Ok(Opened { database, faults })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn panics_of_guarded_steps_are_not_printed_and_others_are() {
        let (here, printed) = (std::thread::current().id(), Arc::new(AtomicUsize::new(0)));
        let (count, previous) = (printed.clone(), take_hook());
        // Other tests of this process keep their messages.
        set_hook(without_guarded(Box::new(move |panic| {
            if std::thread::current().id() == here {
                count.fetch_add(1, Ordering::Relaxed);
            } else {
                previous(panic);
            }
        })));
        let damaged = guarded("x.redb", || {
            // A step in a step does not end the silence.
            guarded("x.redb", || Ok(())).unwrap();
            panic!("page 7 has no meaning")
        });
        let Err(StoreError::Corrupt(why)) = damaged.map(|(): ()| ()) else { panic!("it is damage") };
        assert_eq!((why.as_str(), printed.load(Ordering::Relaxed)), ("x.redb: page 7 has no meaning", 0));
        assert!(catch_unwind(|| panic!("a bug")).is_err());
        assert_eq!(printed.load(Ordering::Relaxed), 1, "what nobody expects is printed");
    }
}
