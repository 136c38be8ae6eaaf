//! Seals what was stored before the node was encrypted, a segment at a time.

use std::rc::Rc;
use std::time::Instant;

use async_io::Timer;
use bib_core::api::Failure;
use bib_core::limits::{MAX_FETCH_PAUSE, SEGMENT_LEN};
use futures::FutureExt;
use futures::future::LocalBoxFuture;

use super::{Next, Worker};
use crate::node::Context;
use crate::service::store_failure;
use crate::space::Disk;

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
                let (data_dir, allowed) = (ctx.data_dir.clone(), ctx.allowed());
                let look = ctx.store.blocking("disk space", move |stores| Disk::look(stores, &data_dir)).await;
                let free = look.map_err(|error| store_failure(&error))?.free;
                // The new segment is written before the old one goes.
                if free < allowed.min_free.saturating_add(SEGMENT_LEN) {
                    log::warn!(
                        free = free, min_free = allowed.min_free, for_a_segment = SEGMENT_LEN;
                        "there is no space to seal what was stored before: it stays as it is until there is"
                    );
                    ctx.workers.update(self.name(), |worker| "waiting for space".clone_into(&mut worker.state));
                    return Ok(Next::Within(MAX_FETCH_PAUSE));
                }
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
