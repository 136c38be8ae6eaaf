//! Adds a snapshot of the node to its backup, once a day, where one is configured.

use std::rc::Rc;

use bib_core::api::Failure;
use bib_core::catalog::record::WorkerNote;
use futures::FutureExt;
use futures::future::LocalBoxFuture;

use super::schedule::{next_at, wait_for};
use super::{Next, Worker};
use crate::care::{note, remember};
use crate::node::Context;
use crate::runtime::timestamp;
use crate::service::backup;

const NAME: &str = "backup";

pub(super) struct Backup;

impl Backup {
    async fn look(&mut self, ctx: &Rc<Context>) -> Result<Next, Failure> {
        let config = ctx.config();
        let now = timestamp();
        if config.backup.to.is_none() {
            ctx.workers.set(NAME, "off");
            return Ok(Next::Within(wait_for(now.saturating_add(std::time::Duration::MAX), now)));
        }
        let noted = note(ctx, NAME).await?;
        // The first one is made at once: until then there is none.
        let next = noted.map_or(now, |noted| next_at(Some(noted.last_run), config.backup.at, now, ctx.uptime()));
        ctx.workers.update(NAME, |worker| worker.next_run = Some(next));
        if now < next {
            return Ok(Next::Within(wait_for(next, now)));
        }
        ctx.workers.set(NAME, "working");
        let made = backup::by_itself(ctx).await?;
        let figures = vec![
            ("new bytes".to_owned(), made.new_bytes),
            ("stored bytes".to_owned(), made.stored_bytes),
            ("removed snapshots".to_owned(), made.removed),
        ];
        let now = timestamp();
        remember(ctx, NAME, WorkerNote { last_run: now, figures, ..WorkerNote::default() }).await?;
        let next = next_at(Some(now), config.backup.at, now, ctx.uptime());
        ctx.workers.update(NAME, |worker| worker.next_run = Some(next));
        Ok(Next::Within(wait_for(next, now)))
    }
}

impl Worker for Backup {
    fn name(&self) -> &'static str {
        NAME
    }

    fn work<'a>(&'a mut self, ctx: &'a Rc<Context>) -> LocalBoxFuture<'a, Result<Next, Failure>> {
        self.look(ctx).boxed_local()
    }

    fn told<'a>(&'a mut self, _: &'a Rc<Context>) -> LocalBoxFuture<'a, ()> {
        std::future::pending().boxed_local()
    }
}
