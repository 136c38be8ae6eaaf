//! A new index of the chunk store, made from its segments while the node runs.

use std::rc::Rc;

use bib_core::api::Failure;
use bib_core::api::care::Rebuilt;
use bib_core::api::event::Progress;
use futures::FutureExt;

use super::Care;
use super::collect::Tell;
use crate::node::Context;
use crate::service::store_failure;

/// Makes the index anew.
///
/// # Errors
/// [`Failure`] when the segments cannot be read, or another care is under way.
pub(crate) async fn rebuild(ctx: &Rc<Context>, tell: &Tell<'_>) -> Result<Rebuilt, Failure> {
    let _running = Care::begin(ctx, "rebuild")?;
    let (sender, steps) = async_channel::bounded(1);
    let work = ctx.store.blocking("rebuild", move |stores| {
        // A full channel has news enough.
        stores.chunks().rebuild(&mut |done, total| _ = sender.try_send((done, total)))
    });
    let mut work = std::pin::pin!(work.fuse());
    let done = loop {
        futures::select_biased! {
            done = work => break done,
            step = steps.recv().fuse() => match step {
                Ok((done, total)) => tell(Progress { done, total: Some(total), ..Progress::default() }),
                // Only its end is left to wait for.
                Err(_) => break work.await,
            },
        }
    };
    let done = done.map_err(|error| store_failure(&error))?;
    log::info!(chunks = done.chunks, bytes = done.bytes, lost = done.lost; "the index of the chunk store was made anew");
    Ok(Rebuilt { chunks: done.chunks, bytes: done.bytes, lost: done.lost })
}
