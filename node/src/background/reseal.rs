//! Seals what was stored before the node was encrypted, a segment at a time.

use std::rc::Rc;
use std::time::Instant;

use async_io::Timer;
use bib_core::api::Failure;
use futures::FutureExt;
use futures::future::LocalBoxFuture;

use super::{Next, Worker};
use crate::node::Context;
use crate::service::store_failure;

/// Seals what was stored before the node was encrypted.
pub(super) struct Reseal;

impl Worker for Reseal {
    fn name(&self) -> &'static str {
        "reseal"
    }

    fn work<'a>(&'a mut self, ctx: &'a Rc<Context>) -> LocalBoxFuture<'a, Result<Next, Failure>> {
        async move {
            let mut n_segments = 0;
            while ctx.store.stores().has_plain_segments() {
                let begun = Instant::now();
                let step = ctx.store.blocking("seal a segment", |stores| stores.reseal_step()).await;
                let Some(step) = step.map_err(|error| store_failure(&error))? else { break };
                if step.segment.is_some() {
                    n_segments += 1;
                    let total = n_segments + step.n_left;
                    ctx.workers.update(self.name(), |worker| {
                        worker.state = format!("sealing, {} segments left", step.n_left);
                        worker.progress = Some((n_segments, Some(total)));
                    });
                }
                // Half of the time is for others.
                Timer::after(begun.elapsed()).await;
            }
            if n_segments > 0 {
                log::info!(segments = n_segments; "all that is stored is encrypted now");
            }
            Ok(Next::WhenTold)
        }
        .boxed_local()
    }

    fn told<'a>(&'a mut self, _: &'a Rc<Context>) -> LocalBoxFuture<'a, ()> {
        // What is written after the start is sealed.
        std::future::pending().boxed_local()
    }
}
