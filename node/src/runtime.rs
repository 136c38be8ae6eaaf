//! Where code runs: one thread with all asynchronous work, and a small pool of threads for work that waits for a disk
//! or computes for long.
//!
//! Invariant: a panic ends the task or the job it happens in, is logged as an error, and nothing else. The pool has at
//! most [`POOL_THREADS`] threads and 64 waiting jobs; whoever comes then waits.
//!
//! Deliberately absent: timers, which `async-io` has, and anything that knows what the tasks do.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_channel::{Receiver, Sender};
use async_executor::{Executor, LocalExecutor, Task};
use async_io::Timer;
use bib_core::time::{Instant, Timestamp};
use futures::FutureExt;
use futures::channel::oneshot;

/// Threads of the pool: reading of files and chunks, hashing and compressing of what is published.
pub const POOL_THREADS: usize = 4;
/// Jobs that wait for a thread of the pool.
const POOL_QUEUE: usize = 64;
/// Stack of a thread of the pool, in bytes: what runs there recurses nowhere.
const POOL_STACK: usize = 512 << 10;

/// Starts tasks on the executor thread. Cheap to clone.
#[derive(Clone)]
pub struct Spawner {
    local: Rc<LocalExecutor<'static>>,
    shared: Arc<Executor<'static>>,
}

impl std::fmt::Debug for Spawner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spawner").finish_non_exhaustive()
    }
}

impl Default for Spawner {
    fn default() -> Self {
        Self::new()
    }
}

impl Spawner {
    /// An executor without tasks.
    pub fn new() -> Self {
        Self { local: Rc::new(LocalExecutor::new()), shared: Arc::new(Executor::new()) }
    }

    /// Starts a task. The task ends when the handle is dropped; [`Task::detach`] lets it run on. Yields `None` when
    /// the task panicked.
    pub fn spawn<T: 'static>(&self, name: &'static str, future: impl Future<Output = T> + 'static) -> Task<Option<T>> {
        self.local.spawn(caught(name, future))
    }

    /// The executor for futures that may move between threads, which these never do: libraries ask for it.
    pub fn shared(&self) -> Arc<Executor<'static>> {
        self.shared.clone()
    }

    /// Runs all tasks on this thread until `future` is done.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        async_io::block_on(self.local.run(self.shared.run(future)))
    }
}

async fn caught<T>(name: &'static str, future: impl Future<Output = T>) -> Option<T> {
    match AssertUnwindSafe(future).catch_unwind().await {
        Ok(value) => Some(value),
        Err(panic) => {
            log::error!(task = name, panic = panic_text(&*panic); "a task panicked");
            None
        }
    }
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}

type Job = Box<dyn FnOnce() + Send>;

/// A job of the pool that ended without a result: it panicked, or the node stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the work ended without a result")]
pub struct JobLost;

/// The pool of threads for work that blocks. Cheap to clone. Its threads end when the last handle is dropped.
#[derive(Clone)]
pub struct Pool {
    jobs: Sender<Job>,
    queue: Receiver<Job>,
    n_threads: Arc<Mutex<usize>>,
    max_threads: usize,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool of at most `max_threads` threads, and of [`POOL_THREADS`] in any case. Each is started when there is a
    /// job for it.
    pub fn new(max_threads: usize) -> Self {
        let (jobs, queue) = async_channel::bounded(POOL_QUEUE);
        Self { jobs, queue, n_threads: Arc::default(), max_threads: max_threads.clamp(1, POOL_THREADS) }
    }

    /// Runs a job on a thread of the pool. A job that was begun is ended even if nobody waits for it any more.
    ///
    /// # Errors
    /// [`JobLost`] when the job panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        name: &'static str,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JobLost> {
        let (answer, result) = oneshot::channel();
        let job: Job = Box::new(move || match std::panic::catch_unwind(AssertUnwindSafe(job)) {
            // Whoever asked may have gone away.
            Ok(value) => drop(answer.send(value)),
            Err(panic) => log::error!(job = name, panic = panic_text(&*panic); "a job panicked"),
        });
        self.jobs.send(job).await.map_err(|_| JobLost)?;
        self.start_thread();
        result.await.map_err(|_| JobLost)
    }

    /// Starts another thread if jobs wait and there may be one.
    fn start_thread(&self) {
        let mut n_threads = self.n_threads.lock().unwrap_or_else(PoisonError::into_inner);
        if self.queue.is_empty() || *n_threads == self.max_threads {
            return;
        }
        let queue = self.queue.clone();
        let name = format!("bib-pool-{}", *n_threads + 1);
        let started = std::thread::Builder::new().name(name).stack_size(POOL_STACK).spawn(move || {
            while let Ok(job) = queue.recv_blocking() {
                job();
            }
        });
        match started {
            Ok(_) => *n_threads += 1,
            Err(error) if *n_threads > 0 => {
                log::warn!(error:% = error; "no more threads can be started; work goes on with fewer");
            }
            Err(error) => {
                log::error!(error:% = error; "no thread can be started for work that blocks");
                // Nobody would ever run what waits: let the callers know.
                self.queue.close();
            }
        }
    }
}

/// Says when to stop. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shutdown {
    begun: Receiver<()>,
    /// Closing it is the signal.
    trigger: Sender<()>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// A token that was not triggered.
    pub fn new() -> Self {
        let (trigger, begun) = async_channel::bounded(1);
        Self { begun, trigger }
    }

    /// Asks everybody to stop; returns whether this was the first time.
    pub fn trigger(&self) -> bool {
        self.trigger.close()
    }

    /// Whether it was triggered.
    pub fn is_triggered(&self) -> bool {
        self.trigger.is_closed()
    }

    /// Waits until it is triggered.
    pub async fn wait(&self) {
        // Nothing is ever sent: receiving ends when the channel is closed.
        let _ = self.begun.recv().await;
    }
}

/// Tells one waiting task that there is something to look at. Telling twice before it looks counts once.
#[derive(Debug, Clone)]
pub(crate) struct Signal {
    tell: Sender<()>,
    told: Receiver<()>,
}

impl Default for Signal {
    fn default() -> Self {
        let (tell, told) = async_channel::bounded(1);
        Self { tell, told }
    }
}

impl Signal {
    pub(crate) fn notify(&self) {
        // Full means that it was told already.
        let _ = self.tell.try_send(());
    }

    pub(crate) async fn wait(&self) {
        // This handle keeps the other end.
        let _ = self.told.recv().await;
    }
}

/// The clocks of the node; the machines get them as arguments.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: std::time::Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self { start: std::time::Instant::now() }
    }
}

impl Clock {
    /// Time since the node started, on a clock that never steps.
    pub fn now(&self) -> Instant {
        Instant(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// The time of day in UTC.
    pub fn timestamp(&self) -> Timestamp {
        timestamp()
    }

    /// Waits until an instant of [`Clock::now`]; forever when there is none.
    pub async fn sleep_until(&self, instant: Option<Instant>) {
        match instant {
            None => std::future::pending().await,
            Some(instant) => {
                let left = instant.saturating_duration_since(self.now());
                if left > Duration::ZERO {
                    Timer::after(left).await;
                }
            }
        }
    }
}

/// How long a node waits for others: as long as its bounds say. Tests have it wait for a part of that.
#[derive(Debug, Clone)]
pub struct Patience(Arc<AtomicU32>);

impl Default for Patience {
    fn default() -> Self {
        Self(Arc::new(AtomicU32::new(1)))
    }
}

impl Patience {
    /// From now on waits that begin are so many times shorter.
    pub fn divide(&self, by: u32) {
        self.0.store(by.max(1), Ordering::Relaxed);
    }

    /// How long to wait.
    pub(crate) fn of(&self, bound: Duration) -> Duration {
        bound / self.0.load(Ordering::Relaxed)
    }
}

/// The time of day in UTC.
pub(crate) fn timestamp() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_its_task_only() {
        let spawner = Spawner::new();
        let broken = spawner.spawn("broken", async { panic!("on purpose") });
        let whole = spawner.spawn("whole", async { 7 });
        let (broken, whole) = spawner.block_on(async { (broken.await, whole.await) });
        assert_eq!((broken, whole), (None::<()>, Some(7)));
    }

    #[test]
    fn a_panic_ends_its_job_only_and_the_pool_stays_within_its_bound() {
        let (spawner, pool) = (Spawner::new(), Pool::new(2));
        spawner.block_on(async {
            assert_eq!(pool.run("broken", || panic!("on purpose")).await, Err::<(), _>(JobLost));
            let jobs = (0..200).map(|i| pool.run("whole", move || i));
            let results: Vec<_> = futures::future::join_all(jobs).await;
            assert!(results.iter().enumerate().all(|(i, result)| *result == Ok(i)));
        });
        assert!((1..=2).contains(&*pool.n_threads.lock().unwrap()));
    }

    #[test]
    fn everybody_hears_of_the_stop_once_it_is_triggered() {
        let (spawner, shutdown) = (Spawner::new(), Shutdown::new());
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let shutdown = shutdown.clone();
                spawner.spawn("waits", async move { shutdown.wait().await })
            })
            .collect();
        assert!(!shutdown.is_triggered());
        assert!(shutdown.trigger());
        assert!(!shutdown.trigger(), "only the first call triggers");
        spawner.block_on(async {
            for task in waiting {
                assert_eq!(task.await, Some(()));
            }
            shutdown.wait().await;
        });
    }
}
