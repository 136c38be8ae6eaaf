//! Forgets what waited too long: operations, staged content, and released content whose grace is over.

use std::rc::Rc;

use bib_core::api::Failure;
use bib_core::command::Command;
use bib_core::limits::EXPIRE_INTERVAL;
use futures::FutureExt;
use futures::future::LocalBoxFuture;

use super::{Next, Worker};
use crate::node::Context;
use crate::service::store_failure;

/// Forgets what waited too long.
pub(super) struct Expire;

impl Worker for Expire {
    fn name(&self) -> &'static str {
        "expire"
    }

    fn work<'a>(&'a mut self, ctx: &'a Rc<Context>) -> LocalBoxFuture<'a, Result<Next, Failure>> {
        async move {
            ctx.workers.set(self.name(), "working");
            ctx.store
                .apply(Command::Expire { min_age: ctx.config().gc_min_age })
                .await
                .map_err(|error| store_failure(&error))?;
            Ok(Next::Within(EXPIRE_INTERVAL))
        }
        .boxed_local()
    }

    fn told<'a>(&'a mut self, _: &'a Rc<Context>) -> LocalBoxFuture<'a, ()> {
        std::future::pending().boxed_local()
    }
}
