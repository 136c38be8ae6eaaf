//! Reads and checks a share of what is stored each day, so that all of it is read within weeks.

use std::rc::Rc;
use std::time::Duration;

use bib_core::api::{ErrorCode, Failure};
use bib_core::catalog::record::WorkerNote;
use futures::FutureExt;
use futures::future::LocalBoxFuture;

use super::schedule::{AFTER_START, wait_for};
use super::{Next, Worker};
use crate::care::scrub::{How, position_of, scrub};
use crate::care::{Pace, note, remember};
use crate::node::Context;
use crate::runtime::timestamp;
use crate::service::store_failure;

const DAY: Duration = Duration::from_secs(86_400);
/// Another care is under way: it is looked again after this.
const BUSY_PAUSE: Duration = Duration::from_secs(60);

pub(super) struct Scrub;

impl Scrub {
    async fn look(ctx: &Rc<Context>) -> Result<Next, Failure> {
        let now = timestamp();
        let noted = match note(ctx, "scrub").await? {
            Some(noted) => noted,
            None => {
                // What a new node stores is fresh; from now on days count.
                let noted = WorkerNote { last_run: now, ..WorkerNote::default() };
                remember(ctx, "scrub", noted.clone()).await?;
                noted
            }
        };
        ctx.workers.update("scrub", |worker| {
            worker.last_run = Some(noted.last_run);
            worker.figures.clone_from(&noted.figures);
        });
        let share = ctx.config().scrub_share;
        if share == 0 {
            ctx.workers.update("scrub", |worker| worker.next_run = None);
            return Ok(Next::WhenTold);
        }
        // A run that lies ahead of the clock says nothing.
        let due = noted.last_run.saturating_add(DAY);
        let soon = now.saturating_add(AFTER_START.saturating_sub(ctx.uptime()));
        let next = if noted.last_run > now { soon } else { due.max(soon) };
        ctx.workers.update("scrub", |worker| worker.next_run = Some(next));
        if now < next {
            return Ok(Next::Within(wait_for(next, now)));
        }
        let stats = ctx.store.blocking("figures", |stores| stores.chunks().stats()).await;
        let stored = stats.map_err(|error| store_failure(&error))?.stored_bytes;
        let bytes = u64::try_from(u128::from(stored) * u128::from(share) / 1_000).unwrap_or(u64::MAX);
        let how = How { bytes: Some(bytes), from: position_of(&noted), pace: Pace::ByItself, last_run: noted.last_run };
        match scrub(ctx, how, &|_| {}).await {
            Ok(_) => Ok(Next::Within(Duration::ZERO)),
            Err(failure) if failure.code == ErrorCode::Busy => Ok(Next::Within(BUSY_PAUSE)),
            Err(failure) => Err(failure),
        }
    }
}

impl Worker for Scrub {
    fn name(&self) -> &'static str {
        "scrub"
    }

    fn work<'a>(&'a mut self, ctx: &'a Rc<Context>) -> LocalBoxFuture<'a, Result<Next, Failure>> {
        Self::look(ctx).boxed_local()
    }

    fn told<'a>(&'a mut self, ctx: &'a Rc<Context>) -> LocalBoxFuture<'a, ()> {
        ctx.scrub.wait().boxed_local()
    }
}
