//! What the node does by itself. Every such work is a [`Worker`] with a file of its own, runs in a task of its own, and is
//! listed by `bib admin workers`.
//!
//! Invariant: a worker that fails says why, waits and goes on; none ends before the node.

mod backup;
mod expire;
mod gc;
mod replicate;
mod reseal;
mod schedule;
mod scrub;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use async_executor::Task;
use bib_core::api::{Failure, care};
use bib_core::limits::MAX_FETCH_PAUSE;
use futures::future::LocalBoxFuture;

use crate::control::within;
use crate::node::Context;
use crate::runtime::timestamp;

/// When a worker has work again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// After this time, or earlier when it is told.
    Within(Duration),
    /// When it is told.
    WhenTold,
}

/// Work that a node does by itself.
pub(crate) trait Worker {
    /// Its name, for people.
    fn name(&self) -> &'static str;

    /// Does what there is to do.
    fn work<'a>(&'a mut self, ctx: &'a Rc<Context>) -> LocalBoxFuture<'a, Result<Next, Failure>>;

    /// How long it waits when it did not get on, unless it is told.
    fn pause_after_failure(&self) -> Duration {
        MAX_FETCH_PAUSE
    }

    /// Waits until somebody tells it to look.
    fn told<'a>(&'a mut self, ctx: &'a Rc<Context>) -> LocalBoxFuture<'a, ()>;
}

/// What the workers do now, by name.
#[derive(Debug, Default)]
pub(crate) struct Workers(RefCell<BTreeMap<&'static str, care::Worker>>);

impl Workers {
    /// Changes what is known of one.
    pub(crate) fn update(&self, name: &'static str, change: impl FnOnce(&mut care::Worker)) {
        let mut workers = self.0.borrow_mut();
        let worker = workers.entry(name).or_insert_with(|| care::Worker {
            name: name.to_owned(),
            state: IDLE.to_owned(),
            last_run: None,
            next_run: None,
            progress: None,
            figures: Vec::new(),
        });
        change(worker);
    }

    fn set(&self, name: &'static str, state: impl Into<String>) {
        self.update(name, |worker| worker.state = state.into());
    }

    /// What one did has come to an end.
    pub(crate) fn rest(&self, name: &'static str) {
        if let Some(worker) = self.0.borrow_mut().get_mut(name) {
            IDLE.clone_into(&mut worker.state);
            worker.progress = None;
        }
    }

    /// Names and states.
    pub(crate) fn list(&self) -> Vec<(String, String)> {
        self.0.borrow().values().map(|worker| (worker.name.clone(), worker.state.clone())).collect()
    }

    /// All that is known.
    pub(crate) fn all(&self) -> Vec<care::Worker> {
        self.0.borrow().values().cloned().collect()
    }

    /// A figure of the last run of a worker.
    pub(crate) fn figure(&self, worker: &str, figure: &str) -> Option<u64> {
        let workers = self.0.borrow();
        let figures = workers.get(worker).into_iter().flat_map(|worker| &worker.figures);
        figures.filter(|(name, _)| name == figure).map(|(_, value)| *value).next()
    }
}

/// The state of a worker that waits.
const IDLE: &str = "idle";

/// Begins all of it.
pub(crate) fn start(ctx: &Rc<Context>) -> Vec<Task<Option<()>>> {
    let workers: [Box<dyn Worker>; 6] = [
        Box::new(expire::Expire),
        Box::new(replicate::Replicate::default()),
        Box::new(reseal::Reseal),
        Box::new(gc::Gc::default()),
        Box::new(scrub::Scrub),
        Box::new(backup::Backup),
    ];
    workers.into_iter().map(|worker| ctx.spawner.spawn(worker.name(), run(ctx.clone(), worker))).collect()
}

async fn run(ctx: Rc<Context>, mut worker: Box<dyn Worker>) {
    let name = worker.name();
    loop {
        let (next, state) = match worker.work(&ctx).await {
            Ok(next) => (next, IDLE.to_owned()),
            Err(failure) => {
                log::warn!(worker = name, why = failure.message.as_str(); "background work does not get on");
                (Next::Within(worker.pause_after_failure()), failure.message)
            }
        };
        let next_run = match next {
            Next::Within(pause) => Some(timestamp().saturating_add(pause)),
            Next::WhenTold => None,
        };
        ctx.workers.update(name, |worker| {
            worker.state = state;
            worker.progress = None;
            // Those that keep a calendar say both themselves.
            if !schedule::KEEPS_CALENDAR.contains(&name) {
                (worker.last_run, worker.next_run) = (Some(timestamp()), next_run);
            }
        });
        match next {
            Next::Within(pause) => drop(within(pause, worker.told(&ctx)).await),
            Next::WhenTold => worker.told(&ctx).await,
        }
    }
}
