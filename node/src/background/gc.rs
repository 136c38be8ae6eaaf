//! Gives back the space of what nothing names: once a day, and when space is short.

use std::rc::Rc;
use std::time::Duration;

use bib_core::api::{ErrorCode, Failure};
use bib_core::catalog::record::WorkerNote;
use bib_core::time::{Instant, Timestamp};
use futures::FutureExt;
use futures::future::LocalBoxFuture;

use super::schedule::{next_at, wait_for};
use super::{Next, Worker};
use crate::care::collect::{How, collect, usage};
use crate::care::{Pace, note, remember};
use crate::node::Context;
use crate::runtime::timestamp;

/// Where space stays short although everything was given back, it is looked again after this.
const PRESSED_PAUSE: Duration = Duration::from_secs(600);
/// What is in use cannot be known, mostly: somebody has to mend it, and a walk over everything is not for nothing.
const DAMAGED_PAUSE: Duration = Duration::from_secs(6 * 3_600);
/// Another care is under way: it is looked again after this.
const BUSY_PAUSE: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Gc {
    /// When it last ran, by its note; absent before that was read.
    last_run: Option<Timestamp>,
    pressed_at: Option<Instant>,
}

impl Gc {
    async fn last_run(&mut self, ctx: &Context) -> Result<Timestamp, Failure> {
        // A collection that a user asked for counts as well.
        if let Some(noted) = note(ctx, "gc").await? {
            ctx.workers.update("gc", |worker| {
                worker.last_run = Some(noted.last_run);
                worker.figures.clone_from(&noted.figures);
            });
            self.last_run = Some(noted.last_run);
            return Ok(noted.last_run);
        }
        // A new node has nothing to collect; from now on days count.
        let now = timestamp();
        remember(ctx, "gc", WorkerNote { last_run: now, ..WorkerNote::default() }).await?;
        Ok(now)
    }

    async fn look(&mut self, ctx: &Rc<Context>) -> Result<Next, Failure> {
        let last_run = self.last_run(ctx).await?;
        let config = ctx.config();
        let now = timestamp();
        let next = next_at(Some(last_run), config.gc_at, now, ctx.uptime());
        let usage = usage(ctx).await?;
        let rested = self.pressed_at.is_none_or(|at| ctx.clock.now().saturating_duration_since(at) >= PRESSED_PAUSE);
        let is_pressed = usage.is_pressed() && rested;
        ctx.workers.update("gc", |worker| worker.next_run = Some(next));
        if now < next && !is_pressed {
            return Ok(Next::Within(wait_for(next, now)));
        }
        if is_pressed {
            self.pressed_at = Some(ctx.clock.now());
            log::info!(used = usage.used, quota = usage.quota; "space is short");
        }
        let min_age = usage.min_age(config.gc_min_age);
        let how = How { dry_run: false, min_age, sweep_age: min_age, pace: Pace::ByItself };
        match collect(ctx, how, &|_| {}).await {
            // What did not fit may fit now.
            Ok(_) if is_pressed => ctx.replicate.notify(),
            Ok(_) => {}
            Err(failure) if failure.code == ErrorCode::Busy => return Ok(Next::Within(BUSY_PAUSE)),
            Err(failure) => return Err(failure),
        }
        let now = timestamp();
        let next = next_at(Some(now), config.gc_at, now, ctx.uptime());
        ctx.workers.update("gc", |worker| worker.next_run = Some(next));
        Ok(Next::Within(wait_for(next, now)))
    }
}

impl Worker for Gc {
    fn name(&self) -> &'static str {
        "gc"
    }

    fn work<'a>(&'a mut self, ctx: &'a Rc<Context>) -> LocalBoxFuture<'a, Result<Next, Failure>> {
        self.look(ctx).boxed_local()
    }

    fn pause_after_failure(&self) -> Duration {
        DAMAGED_PAUSE
    }

    fn told<'a>(&'a mut self, ctx: &'a Rc<Context>) -> LocalBoxFuture<'a, ()> {
        ctx.pressed.wait().boxed_local()
    }
}
