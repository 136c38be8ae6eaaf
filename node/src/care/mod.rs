//! Care of what is stored: space is given back, stored bytes are read and checked, the index is made anew, versions are
//! verified. The rules are those of `core::machine::collect`; the store does the work on its files.
//!
//! Invariant: one such work at a time. It runs in short steps on the pool; by itself it takes a small share of the disk,
//! and a smaller one while users or peers want something.

pub(crate) mod collect;
pub(crate) mod rebuild;
pub(crate) mod scrub;
pub(crate) mod verify;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use async_io::Timer;
use bib_core::api::{ErrorCode, Failure};
use bib_core::catalog::record::{self, WorkerNote};
use bib_core::catalog::resolve;
use bib_core::catalog::{keys, list};
use bib_core::command::Command;
use bib_core::id::ManifestId;
use bib_core::limits::MAX_HURT_VERSIONS;
use bib_core::port::{CatalogRead, StoreError, Table};

use crate::node::Context;
use crate::service::store_failure;

/// What is under way.
#[derive(Debug, Default)]
pub(crate) struct Care(Cell<Option<&'static str>>);

/// A work under way; it ends when this is dropped.
pub(crate) struct Running {
    ctx: Rc<Context>,
    name: &'static str,
}

impl Care {
    /// Begins a work.
    ///
    /// # Errors
    /// [`Failure`] when another one is under way.
    pub(crate) fn begin(ctx: &Rc<Context>, name: &'static str) -> Result<Running, Failure> {
        let running = &ctx.care.0;
        if let Some(other) = running.get() {
            let failure =
                Failure::new(ErrorCode::Busy, format!("`{other}` is under way, and {name} waits for its end"));
            return Err(failure.hinted("`bib admin workers` shows how far it is"));
        }
        running.set(Some(name));
        Ok(Running { ctx: ctx.clone(), name })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ctx.care.0.set(None);
        self.ctx.workers.rest(self.name);
    }
}

/// How much of its time a work rests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Somebody waits for it.
    Asked,
    /// Nobody does.
    ByItself,
}

impl Pace {
    /// Rests after a step, for as long as its work deserves.
    pub(crate) async fn rest(self, ctx: &Context, began: Instant) {
        let worked = began.elapsed();
        let rests = match (self, ctx.is_busy()) {
            (Self::Asked, false) => 0,
            (Self::Asked, true) => 1,
            (Self::ByItself, false) => 3,
            (Self::ByItself, true) => 15,
        };
        if rests == 0 {
            others_run().await;
        } else {
            Timer::after((worked * rests).min(Duration::from_secs(5))).await;
        }
    }
}

/// Lets others run.
async fn others_run() {
    let mut yielded = false;
    std::future::poll_fn(move |cx| {
        if std::mem::replace(&mut yielded, true) {
            return std::task::Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

/// A seed that nobody can guess.
pub(crate) fn seed() -> Result<u64, Failure> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::new(ErrorCode::Internal, format!("the system gives no random numbers: {error}")))?;
    Ok(u64::from_be_bytes(bytes))
}

/// What a worker remembered, if it ever ran.
pub(crate) async fn note(ctx: &Context, worker: &'static str) -> Result<Option<WorkerNote>, Failure> {
    let read = move |read: &dyn CatalogRead| record::get::<WorkerNote>(read, Table::Meta, &keys::worker(worker));
    ctx.store.read(read).await.map_err(|error| store_failure(&error))
}

/// Remembers where a worker stands, and shows its figures.
pub(crate) async fn remember(ctx: &Context, worker: &'static str, note: WorkerNote) -> Result<(), Failure> {
    ctx.workers.update(worker, |shown| {
        shown.last_run = Some(note.last_run);
        shown.figures.clone_from(&note.figures);
    });
    ctx.store.apply(Command::Note { worker, note }).await.map(drop).map_err(|error| store_failure(&error))
}

/// Versions that have a content among these, as people call them, at most [`MAX_HURT_VERSIONS`]; contents that no
/// version names stand for themselves.
pub(crate) async fn names_of(ctx: &Context, manifests: BTreeSet<ManifestId>) -> Result<Vec<String>, Failure> {
    let read = move |read: &dyn CatalogRead| {
        let (mut names, mut after) = (Vec::new(), None);
        let mut unnamed = manifests.clone();
        loop {
            let found = list::versions_of_manifests(read, after.as_ref(), &manifests)?;
            for version in found.versions {
                unnamed.remove(&version.manifest);
                let dataset = record::dataset(read, &version.dataset)?;
                let path = dataset.map(|dataset| resolve::dataset_path(read, &dataset)).transpose()?.flatten();
                let path = path.unwrap_or_else(|| version.dataset.to_string());
                if names.len() < MAX_HURT_VERSIONS {
                    names.push(format!("{path}@{}", version.semver));
                }
            }
            match found.next {
                None => break,
                next => after = next,
            }
        }
        names.extend(unnamed.iter().take(MAX_HURT_VERSIONS - names.len()).map(|id| format!("manifest {id}")));
        Ok::<_, StoreError>(names)
    };
    ctx.store.read(read).await.map_err(|error| store_failure(&error))
}
