//! The store: the catalog and the chunk store, and the one thread that carries out commands.
//!
//! Invariant: a command is answered only after the commit that holds it is on the disk, and content is on the disk
//! before the catalog says that it is here. Commands that wait together are committed together.
//!
//! Its queue has 256 places; whoever comes when it is full waits. Reads run on the pool, each on a snapshot of its
//! own. After a failed commit the store takes no more writes, and says why.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_channel::{Receiver, Sender};
use bib_core::api::event::OpContext;
use bib_core::api::request::ContextFor;
use bib_core::apply::Reducer;
use bib_core::catalog::access::AccessCache;
use bib_core::catalog::context::{ContextError, op_context};
use bib_core::chunk::{Chunk, ChunkError};
use bib_core::command::{Applied, Command, Origin};
use bib_core::limits::COLLECT_STEP;
use bib_core::machine::collect::hidden::each_pin;
use bib_core::port::{Catalog, CatalogRead, CatalogTxn, ChunkStore, KeyRange, Lease, Order, StoreError, Table, Visit};
use bib_core::wire::message::ChunkData;
use bib_storage_redb::chunks::Resealed;
use bib_storage_redb::crypto::Keyring;
use bib_storage_redb::{Bounds, Disk, Folder, RedbCatalog, SegmentStore};
use futures::channel::oneshot;

use crate::config::Budget;
use crate::runtime::{Pool, timestamp};

/// Pieces of work that wait for the store thread; chunks among them are counted by whoever fetches.
const QUEUE: usize = 256;
/// Pieces of work that are done before the commands among them are committed.
const MAX_ROUND: usize = 64;
/// Commits of which the machines of the catalog have not heard yet. When there are more, they look at all of it again.
const MAX_NEWS: usize = 64;
/// Name of the folder of the chunk store in the data directory.
pub(crate) const SEGMENTS: &str = "segments";

/// Name of the catalog in the data directory.
const CATALOG: &str = "catalog.redb";
/// The index of the chunk store, among the segments.
const INDEX: &str = "index.redb";
/// Name of the file that says that the catalog was lost: what is in the chunk store may be in use then, and nobody knows.
const LOST: &str = "catalog.lost";

/// Whether a data directory has lost the catalog of what it stores, so that nothing may be given up.
pub fn has_lost_catalog(data_dir: &Path) -> bool {
    data_dir.join(LOST).exists()
}

fn has_segments(data_dir: &Path) -> bool {
    let files = std::fs::read_dir(data_dir.join(SEGMENTS)).into_iter().flatten().flatten();
    files.into_iter().any(|file| file.path().extension().is_some_and(|end| end == "seg"))
}

/// Whether the catalog says of any content that all of it is here.
fn names_content_here(catalog: &RedbCatalog) -> Result<bool, StoreError> {
    let read = catalog.begin_read()?;
    let mut after = None;
    loop {
        let (mut n, mut is_here) = (0, false);
        each_pin(read.as_ref(), after, &mut |manifest, pin| {
            (n, after) = (n + 1, Some(manifest));
            is_here |= pin.is_here;
        })?;
        if is_here || n < COLLECT_STEP {
            return Ok(is_here);
        }
    }
}

fn note_lost_catalog(data_dir: &Path) -> Result<(), StoreError> {
    let text = "The catalog of this data directory was absent while content was there. Nothing is given up while this file is\n\
                here. Put catalog.redb back, or restore a backup; or remove this file if the content is not wanted.\n";
    let mut file = std::fs::File::create(data_dir.join(LOST))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::File::open(data_dir)?.sync_all()?;
    Ok(())
}

/// Why a chunk from a peer was not stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PutError {
    /// It is not what it is said to be.
    #[error(transparent)]
    Bad(#[from] ChunkError),
    /// The store could not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Who waits for a command.
struct Waiter {
    answer: oneshot::Sender<Result<Applied, StoreError>>,
    /// Keeps the chunks that the command is about until it is committed, even if nobody waits for that any more.
    _lease: Option<Lease>,
}

impl Waiter {
    fn tell(self, result: Result<Applied, StoreError>) {
        // Whoever asked may have gone away; what was asked is done all the same.
        drop(self.answer.send(result));
    }
}

enum Work {
    Command { command: Command, waiter: Waiter },
    Put { data: ChunkData, answer: oneshot::Sender<Result<bool, PutError>> },
    Flush { answer: oneshot::Sender<Result<(), StoreError>> },
}

struct Shared {
    catalog: RedbCatalog,
    chunks: SegmentStore,
    access: Mutex<AccessCache>,
    read_only: Mutex<Option<String>>,
    missed_news: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is under the locks of this file is whole at every moment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Names a chunk store that is made.
pub(crate) fn new_seed() -> std::io::Result<[u8; 16]> {
    let mut seed = [0; 16];
    getrandom::fill(&mut seed)?;
    Ok(seed)
}

fn stopped() -> StoreError {
    StoreError::Io(std::io::Error::other("the store has stopped"))
}

/// A handle of the store. Cheap to clone; the thread ends when the last one is dropped.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    queue: Sender<Work>,
    pool: Pool,
    news: Receiver<Arc<Applied>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

/// Waits for the end of the store thread.
#[derive(Debug)]
pub struct StoreThread(std::thread::JoinHandle<()>);

impl StoreThread {
    /// Waits until the thread has ended what it was given, after [`Store::close`].
    pub fn join(self) {
        if self.0.join().is_err() {
            log::error!("the store thread panicked");
        }
    }
}

impl Store {
    /// Whether the stores in a data directory, as far as there are any, open with keys only.
    ///
    /// # Errors
    /// [`StoreError`] when one of them cannot be used for another reason.
    pub fn is_sealed(data_dir: &Path, budget: &Budget) -> Result<bool, StoreError> {
        let sealed = |opened: Result<(), StoreError>| match opened {
            Ok(()) => Ok(false),
            Err(StoreError::Sealed(_)) => Ok(true),
            Err(error) => Err(error),
        };
        let folder = Folder::new(data_dir.to_owned())?;
        let has_catalog = folder.list()?.iter().any(|name| name == "catalog.redb");
        if has_catalog && sealed(RedbCatalog::open(&folder, budget.catalog_cache).map(drop))? {
            return Ok(true);
        }
        let segments = data_dir.join(SEGMENTS);
        if !segments.is_dir() {
            return Ok(false);
        }
        sealed(SegmentStore::open(Box::new(Folder::new(segments)?), budget.index_cache, new_seed()?).map(drop))
    }

    /// The catalog or the index in a data directory, where one is there that opens without keys.
    pub fn plain_in(data_dir: &Path, budget: &Budget) -> Option<PathBuf> {
        let (catalog, segments) = (data_dir.join(CATALOG), data_dir.join(SEGMENTS));
        let index = segments.join(INDEX);
        // What does not open at all is looked at when it is opened for good.
        let opened = || RedbCatalog::open(&Folder::new(data_dir.to_owned())?, budget.catalog_cache);
        if catalog.exists() && opened().is_ok() {
            return Some(catalog);
        }
        if !index.exists() {
            return None;
        }
        let looked = || SegmentStore::has_plain_index(&Folder::new(segments)?, budget.index_cache);
        looked().unwrap_or(false).then_some(index)
    }

    /// Opens the store in a data directory, which is locked for this process, and starts its thread. It is encrypted
    /// where there is a keyring.
    ///
    /// # Errors
    /// [`StoreError`] when one of its files cannot be used.
    pub fn open(
        data_dir: &Path,
        budget: &Budget,
        pool: Pool,
        keyring: Option<Arc<Keyring>>,
    ) -> Result<(Self, StoreThread), StoreError> {
        let folder = Folder::new(data_dir.to_owned())?;
        // Noted first: a catalog that was made anew does not show it any more.
        let is_lost = !data_dir.join(CATALOG).exists() && has_segments(data_dir);
        if is_lost {
            note_lost_catalog(data_dir)?;
        }
        let had_catalog = data_dir.join(CATALOG).exists();
        let catalog = RedbCatalog::open_with(&folder, budget.catalog_cache, keyring.clone())?;
        let is_empty = !has_segments(data_dir) && !data_dir.join(SEGMENTS).join(INDEX).exists();
        if had_catalog && is_empty && names_content_here(&catalog)? {
            return Err(StoreError::Corrupt(format!(
                "`{}` is empty, and the catalog says that content is here: mount it, or put it back. If it is lost, \
                 `bib admin rebuild --offline` begins without it, and peers give the content again",
                data_dir.join(SEGMENTS).display()
            )));
        }
        let seed = new_seed()?;
        let segments = Folder::new(data_dir.join(SEGMENTS))?;
        let chunks = SegmentStore::open_with(Box::new(segments), budget.index_cache, seed, Bounds::default(), keyring)?;
        if is_lost && chunks.stats()?.n_chunks == 0 {
            std::fs::remove_file(data_dir.join(LOST))?;
        } else if is_lost {
            log::error!(
                hint = "put catalog.redb back, or `bib admin restore` a backup";
                "catalog.redb is absent and there is content: the node begins without what it knew, and gives nothing up"
            );
        }
        let shared = Arc::new(Shared {
            catalog,
            chunks,
            access: Mutex::new(AccessCache::new(budget.access_bytes)),
            read_only: Mutex::new(None),
            missed_news: AtomicBool::new(false),
        });
        let (queue, work) = async_channel::bounded(QUEUE);
        let (tell, news) = async_channel::bounded(MAX_NEWS);
        let thread = {
            let (shared, reducer) = (shared.clone(), Reducer::new(budget.access_bytes));
            let mut writer = Writer { shared, reducer, tell };
            std::thread::Builder::new().name("bib-store".to_owned()).spawn(move || writer.run(&work))?
        };
        Ok((Self { shared, queue, pool, news }, StoreThread(thread)))
    }

    /// Carries out a command; returns when it is on the disk. Nothing is taken back when the caller stops waiting.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be made durable; then nothing of it was done.
    pub async fn apply(&self, command: Command) -> Result<Applied, StoreError> {
        self.ask(|answer| Work::Command { command, waiter: Waiter { answer, _lease: None } }).await?
    }

    /// As [`Store::apply`], of a command that names chunks which a lease has kept until then.
    ///
    /// # Errors
    /// As of [`Store::apply`].
    pub async fn apply_leased(&self, command: Command, lease: Lease) -> Result<Applied, StoreError> {
        self.ask(|answer| Work::Command { command, waiter: Waiter { answer, _lease: Some(lease) } }).await?
    }

    /// Verifies a chunk that a peer sent, and stores it; returns whether it was new. Not durable before a flush.
    ///
    /// # Errors
    /// [`PutError`] when it is not the chunk or cannot be stored.
    pub async fn put(&self, data: ChunkData) -> Result<bool, PutError> {
        self.ask(|answer| Work::Put { data, answer }).await?
    }

    /// Makes all chunks durable that were put before.
    ///
    /// # Errors
    /// [`StoreError`] when they cannot be.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.ask(|answer| Work::Flush { answer }).await?
    }

    async fn ask<T>(&self, work: impl FnOnce(oneshot::Sender<T>) -> Work) -> Result<T, StoreError> {
        let (answer, result) = oneshot::channel();
        self.queue.send(work(answer)).await.map_err(|_| stopped())?;
        result.await.map_err(|_| stopped())
    }

    /// Reads the catalog on a thread of the pool.
    ///
    /// # Errors
    /// The error of `read`, or [`StoreError`] when there is no snapshot.
    pub async fn read<T, E>(&self, read: impl FnOnce(&dyn CatalogRead) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        self.blocking("catalog read", move |store| {
            let snapshot = store.catalog().begin_read()?;
            read(snapshot.as_ref())
        })
        .await
    }

    /// Works with the stores on a thread of the pool.
    ///
    /// # Errors
    /// The error of `work`, or [`StoreError`] when it panicked.
    pub async fn blocking<T, E>(
        &self,
        name: &'static str,
        work: impl FnOnce(&Stores) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let stores = self.stores();
        let lost = |error| StoreError::Io(std::io::Error::other(error));
        self.pool.run(name, move || work(&stores)).await.map_err(lost)?
    }

    /// Parents and time for a new operation.
    ///
    /// # Errors
    /// [`ContextError`] when the topic is not known.
    pub async fn op_context(&self, wanted: ContextFor) -> Result<OpContext, ContextError> {
        let shared = self.shared.clone();
        self.read(move |read| op_context(read, &mut lock(&shared.access), wanted)).await
    }

    /// The stores themselves, for a thread that may wait.
    pub fn stores(&self) -> Stores {
        Stores(self.shared.clone())
    }

    /// Takes no more work; the thread ends when it has done what waits.
    pub fn close(&self) {
        self.queue.close();
    }

    /// Why no writes are taken, if so.
    pub fn read_only(&self) -> Option<String> {
        lock(&self.shared.read_only).clone()
    }

    /// What was committed other than for peers, for one reader.
    pub fn news(&self) -> Receiver<Arc<Applied>> {
        self.news.clone()
    }

    /// Whether some news was left out since this was asked last, because too much came at once.
    pub fn missed_news(&self) -> bool {
        self.shared.missed_news.swap(false, Ordering::Relaxed)
    }
}

/// The stores, for a thread that may wait. Cheap to clone.
#[derive(Clone)]
pub struct Stores(Arc<Shared>);

impl std::fmt::Debug for Stores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stores").finish_non_exhaustive()
    }
}

impl Stores {
    /// The catalog, to read.
    pub fn catalog(&self) -> &dyn Catalog {
        &self.0.catalog
    }

    /// Whether chunks may lie in plain segments that were written before the store was encrypted.
    pub fn has_plain_segments(&self) -> bool {
        self.0.chunks.has_plain_segments()
    }

    /// Seals one of them; `None` when there are no more.
    ///
    /// # Errors
    /// As [`SegmentStore::reseal_step`].
    pub fn reseal_step(&self) -> Result<Option<Resealed>, StoreError> {
        self.0.chunks.reseal_step()
    }

    /// The chunk store.
    pub fn chunks(&self) -> &dyn ChunkStore {
        &self.0.chunks
    }
}

/// What runs on the store thread.
struct Writer {
    shared: Arc<Shared>,
    reducer: Reducer,
    tell: Sender<Arc<Applied>>,
}

type Waiting = (Command, Waiter);

impl Writer {
    fn run(&mut self, work: &Receiver<Work>) {
        while let Ok(first) = work.recv_blocking() {
            // A panic ends what was under way; those who wait for it are told by their channels.
            let round = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.round(first, work)));
            if let Err(panic) = round {
                log::error!(panic = crate::runtime::panic_text(&*panic); "the store thread panicked and goes on");
                self.forget();
            }
        }
        if let Err(error) = self.flush() {
            log::warn!(error:% = error; "what was stored last may be fetched or sent again");
        }
    }

    /// Does what waits, and commits the commands in it together.
    fn round(&mut self, first: Work, work: &Receiver<Work>) {
        let mut group: Vec<Waiting> = Vec::new();
        let waiting = std::iter::from_fn(|| work.try_recv().ok()).take(MAX_ROUND);
        for one in std::iter::once(first).chain(waiting) {
            match one {
                Work::Command { command, waiter } => group.push((command, waiter)),
                // Whoever asked may have gone away; what was asked is done all the same.
                Work::Put { data, answer } => drop(answer.send(self.put(data))),
                Work::Flush { answer } => drop(answer.send(self.flush())),
            }
        }
        self.commit(group);
    }

    fn forget(&mut self) {
        self.reducer.forget();
        lock(&self.shared.access).forget();
    }

    fn put(&self, data: ChunkData) -> Result<bool, PutError> {
        let chunk = Chunk::verify(data.id, data.len, data.codec, data.bytes)?;
        self.shared.chunks.put(&chunk).map_err(|error| PutError::Store(self.noted(error)))
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.shared.chunks.flush().map_err(|error| self.noted(error))
    }

    fn commit(&mut self, group: Vec<Waiting>) {
        if group.is_empty() {
            return;
        }
        let says_content_is_here = |command: &Command| {
            matches!(command, Command::Stage(_) | Command::ContentHere(_) | Command::Fetched { .. })
        };
        if group.iter().any(|(command, _)| says_content_is_here(command))
            && let Err(error) = self.flush()
        {
            // The others do not need it; those that do have failed.
            let (failed, rest): (Vec<_>, Vec<_>) =
                group.into_iter().partition(|(command, _)| says_content_is_here(command));
            for (_, waiter) in failed {
                waiter.tell(Err(copy(&error)));
            }
            return self.commit(rest);
        }
        match self.commit_once(&group) {
            Ok(applied) => {
                for ((command, waiter), applied) in group.into_iter().zip(applied) {
                    self.answer(&command, waiter, applied);
                }
            }
            Err(error) if group.len() > 1 && matches!(error, StoreError::Corrupt(_)) => {
                // One of them met a damaged page: the others need not fail with it.
                for (command, waiter) in group {
                    match self.commit_once(&[(&command, ())]) {
                        Ok(mut applied) => self.answer(&command, waiter, applied.pop().unwrap_or_default()),
                        Err(error) => waiter.tell(Err(self.noted(error))),
                    }
                }
            }
            Err(error) => {
                let error = self.noted(error);
                for (_, waiter) in group {
                    waiter.tell(Err(copy(&error)));
                }
            }
        }
    }

    fn answer(&self, command: &Command, waiter: Waiter, applied: Applied) {
        let is_for_peer = matches!(command, Command::Apply { origin: Origin::Peer(_), .. });
        let is_news = !applied.new.is_empty() || !applied.versions.is_empty();
        if is_news && !is_for_peer {
            let told = self.tell.try_send(Arc::new(applied.clone()));
            if told.is_err() {
                self.shared.missed_news.store(true, Ordering::Relaxed);
            }
        }
        waiter.tell(Ok(applied));
    }

    fn commit_once<A>(&mut self, group: &[(impl std::borrow::Borrow<Command>, A)]) -> Result<Vec<Applied>, StoreError> {
        let (now, reducer) = (timestamp(), &mut self.reducer);
        let mut applied = Vec::with_capacity(group.len());
        let mut changes = false;
        let result = self.shared.catalog.write(&mut |txn| {
            applied.clear();
            let mut watched = Watched { txn, changes: false };
            for (command, _) in group {
                applied.push(reducer.apply(&mut watched, command.borrow(), now)?);
            }
            changes = watched.changes;
            // A commit that changes nothing would write some ten pages all the same: it is undone instead.
            if changes { Ok(()) } else { Err(stopped()) }
        });
        let done = applied.len() == group.len();
        let result = if done && !changes { Ok(()) } else { result };
        match result {
            Ok(()) => Ok(applied),
            Err(error) => {
                self.forget();
                Err(error)
            }
        }
    }

    /// Finds out whether an error has closed a store for writing.
    fn noted(&self, error: StoreError) -> StoreError {
        let closed =
            match &error {
                StoreError::ReadOnly(why) => Some(why.clone()),
                StoreError::Full(_) => None,
                // A store that is closed says so to the next one who writes.
                _ => [self.shared.catalog.write(&mut |_| Ok(())), self.shared.chunks.flush()].into_iter().find_map(
                    |probe| match probe {
                        Err(StoreError::ReadOnly(why)) => Some(why),
                        _ => None,
                    },
                ),
            };
        log::error!(error:% = error; "the store could not do what it was asked");
        if let Some(why) = closed {
            let mut read_only = lock(&self.shared.read_only);
            if read_only.is_none() {
                log::error!(why = why.as_str(); "the store takes no more writes until bibd is started again");
                *read_only = Some(why);
            }
        }
        error
    }
}

/// A transaction that notes whether anything was changed.
struct Watched<'a> {
    txn: &'a mut dyn CatalogTxn,
    changes: bool,
}

impl CatalogRead for Watched<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.txn.get(table, key)
    }

    fn scan(&self, table: Table, range: KeyRange<'_>, order: Order, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.txn.scan(table, range, order, visit)
    }

    fn len(&self, table: Table) -> Result<u64, StoreError> {
        self.txn.len(table)
    }
}

impl CatalogTxn for Watched<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.changes = true;
        self.txn.put(table, key, value)
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        // What is not there cannot be taken away.
        if self.txn.get(table, key)?.is_some() {
            self.changes = true;
            self.txn.remove(table, key)?;
        }
        Ok(())
    }
}

/// The same error for another one who waits.
fn copy(error: &StoreError) -> StoreError {
    match error {
        StoreError::Full(why) => StoreError::Full(why.clone()),
        StoreError::Corrupt(why) => StoreError::Corrupt(why.clone()),
        StoreError::Unsupported(why) => StoreError::Unsupported(why.clone()),
        StoreError::Locked(why) => StoreError::Locked(why.clone()),
        StoreError::ReadOnly(why) => StoreError::ReadOnly(why.clone()),
        StoreError::Changed { path, why } => StoreError::Changed { path: path.clone(), why: why.clone() },
        StoreError::Sealed(why) => StoreError::Sealed(why.clone()),
        error => StoreError::Io(std::io::Error::other(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use bib_core::api::request::Paging;
    use bib_core::catalog::{content, list};
    use bib_core::command::{OpOutcome, Refused};
    use bib_core::id::{ManifestId, NodeId};
    use bib_core::key::SecretKey;
    use bib_core::model::Visibility;
    use bib_core::op::operation::FieldChanges;
    use bib_core::op::{Body, Operation, Unsigned};
    use futures::future::join_all;

    use super::*;
    use crate::config::budget::MIN_MEMORY;
    use crate::runtime::Spawner;

    fn with_store<T>(dir: &Path, test: impl AsyncFnOnce(&Store) -> T) -> T {
        let (store, thread) = Store::open(dir, &Budget::of(MIN_MEMORY), Pool::new(2), None).unwrap();
        let result = Spawner::new().block_on(test(&store));
        store.close();
        thread.join();
        result
    }

    fn topic(name: &str, user: u8) -> Operation {
        let key = SecretKey::from_seed([user; 32]);
        let name = name.parse().unwrap();
        let fields = FieldChanges::default();
        let body = Body::CreateTopic { parent: None, name, visibility: Visibility::Public, fields };
        let (parents, keeps, time) = (Vec::new(), Vec::new(), timestamp());
        Unsigned { topic: None, author: key.user_id(), lamport: 1, time, parents, keeps, body }.sign(&key).unwrap()
    }

    fn by_user(op: Operation) -> Command {
        Command::Apply { ops: vec![op], origin: Origin::User }
    }

    fn chunk(byte: u8) -> (Chunk, ChunkData) {
        let chunk = Chunk::from_raw(vec![byte; 10_000]);
        let (id, len, codec) = (chunk.id(), chunk.len(), chunk.codec());
        let data = ChunkData { id, len, codec, bytes: chunk.encoded().to_vec() };
        (chunk, data)
    }

    #[test]
    fn commands_that_wait_together_do_not_share_their_refusals() {
        let dir = tempfile::tempdir().unwrap();
        with_store(dir.path(), async |store| {
            let names = ["a", "b", "b", "c"].into_iter().zip(1..);
            let applied = join_all(names.map(|(name, user)| store.apply(by_user(topic(name, user))))).await;
            let outcomes: Vec<_> = applied.into_iter().map(|applied| applied.unwrap().outcomes.remove(0)).collect();
            let is_new: Vec<bool> = outcomes.iter().map(|outcome| *outcome == OpOutcome::New).collect();
            assert_eq!(is_new, [true, true, false, true], "{outcomes:?}");
            assert!(matches!(outcomes[2], OpOutcome::Refused(Refused::Exists(_))), "{outcomes:?}");
        });
        with_store(dir.path(), async |store| {
            let paging = Paging { limit: 10, offset: 0 };
            let listed = store.read(move |read| list::topics(read, None, paging)).await.unwrap();
            let paths: Vec<&str> = listed.items.iter().map(|item| item.path.as_str()).collect();
            assert_eq!(paths, ["a", "b", "c"]);
        });
    }

    #[test]
    fn content_is_durable_before_the_catalog_says_that_it_is_here() {
        let dir = tempfile::tempdir().unwrap();
        with_store(dir.path(), async |store| {
            let (chunk, data) = chunk(1);
            let manifest = ManifestId::from(chunk.id());
            assert!(store.put(data.clone()).await.unwrap());
            assert!(!store.put(data).await.unwrap(), "a chunk is stored once");
            let fsyncs = || store.stores().chunks().stats().unwrap().fsyncs;
            let before = fsyncs();
            store.apply(Command::Stage(manifest)).await.unwrap();
            assert!(fsyncs() > before);
            assert!(store.read(move |read| content::is_here(read, &manifest)).await.unwrap());
        });
    }

    #[test]
    fn chunk_that_is_not_what_it_says_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        with_store(dir.path(), async |store| {
            let ((other, _), (_, data)) = (chunk(1), chunk(2));
            let lie = ChunkData { id: other.id(), ..data };
            assert!(matches!(store.put(lie).await, Err(PutError::Bad(_))));
            assert!(!store.stores().chunks().has(&other.id()).unwrap());
        });
    }

    #[test]
    fn news_is_of_what_users_did_and_says_when_some_was_left_out() {
        let dir = tempfile::tempdir().unwrap();
        with_store(dir.path(), async |store| {
            let news = store.news();
            let from_peer = Origin::Peer(NodeId::from_bytes([9; 32]));
            store.apply(Command::Apply { ops: vec![topic("peers", 1)], origin: from_peer }).await.unwrap();
            assert!(news.is_empty());
            store.apply(by_user(topic("mine", 2))).await.unwrap();
            assert_eq!(news.recv().await.unwrap().new.len(), 1);
            assert!(!store.missed_news());
            let many = (0..MAX_NEWS + 1).map(|n| store.apply(by_user(topic(&format!("t{n}"), 3))));
            assert!(join_all(many).await.iter().all(Result::is_ok));
            assert_eq!(news.len(), MAX_NEWS);
            assert!(store.missed_news());
            assert!(!store.missed_news(), "it is told once");
        });
    }

    #[test]
    fn command_that_changes_nothing_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        with_store(dir.path(), async |store| {
            let op = topic("a", 1);
            store.apply(by_user(op.clone())).await.unwrap();
            let catalog = || std::fs::read(dir.path().join("catalog.redb")).unwrap();
            let before = catalog();
            store.apply(Command::Expire { min_age: bib_core::limits::RELEASED_FOR }).await.unwrap();
            let again = store.apply(by_user(op)).await.unwrap();
            assert_eq!(again.outcomes, [OpOutcome::Known]);
            let refused = store.apply(by_user(topic("a", 2))).await.unwrap();
            assert!(matches!(refused.outcomes[..], [OpOutcome::Refused(_)]));
            assert!(catalog() == before);
            store.apply(by_user(topic("b", 2))).await.unwrap();
            assert!(catalog() != before);
        });
    }

    #[test]
    fn closed_store_does_what_waits_and_takes_no_more() {
        let dir = tempfile::tempdir().unwrap();
        with_store(dir.path(), async |store| {
            let waiting = store.apply(by_user(topic("last", 1)));
            let (applied, ()) = futures::future::join(waiting, async { store.close() }).await;
            assert_eq!(applied.unwrap().outcomes, [OpOutcome::New]);
            assert!(store.apply(by_user(topic("late", 2))).await.is_err());
        });
    }
}
