//! Reading what is stored, to find damage before somebody needs the bytes, and to have them fetched again.

use std::rc::Rc;
use std::time::{Duration, Instant};

use bib_core::api::Failure;
use bib_core::api::care::Scrubbed;
use bib_core::api::event::Progress;
use bib_core::catalog::record::WorkerNote;
use bib_core::encode::{Versioned, decode, encode};
use bib_core::limits::{SCRUB_NOTE, SCRUB_STEP};
use bib_core::port::ScrubCursor;
use bib_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::collect::{Tell, report_damage};
use super::{Care, Pace, remember};
use crate::node::Context;
use crate::runtime::timestamp;
use crate::service::store_failure;

/// Where a scrub stands is noted at least this often, while it runs.
const NOTE_AFTER: Duration = Duration::from_secs(600);

/// How much is read, and from where.
#[derive(Debug, Clone)]
pub(crate) struct How {
    /// Bytes to read; `None` = all that is stored, from its beginning.
    pub(crate) bytes: Option<u64>,
    pub(crate) from: Option<ScrubCursor>,
    pub(crate) pace: Pace,
    /// Of the note that is made before it is done.
    pub(crate) last_run: Timestamp,
}

/// Where a scrub goes on, as it is noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    segment: u64,
    offset: u64,
}

impl Versioned for Position {
    const WHAT: &'static str = "position of a scrub";
    const MAX_LEN: usize = 64;
}

/// The place that a note names.
pub(crate) fn position_of(note: &WorkerNote) -> Option<ScrubCursor> {
    let Position { segment, offset } = decode(note.position.as_ref()?).ok()?;
    Some(ScrubCursor { segment, offset })
}

fn note(at: Option<&ScrubCursor>, done: &Scrubbed, last_run: Timestamp) -> WorkerNote {
    let position = at.map(|at| ByteBuf::from(encode(&Position { segment: at.segment, offset: at.offset })));
    let figures = [("chunks", done.chunks), ("checked_bytes", done.bytes), ("damaged", done.damaged)];
    let figures = figures.map(|(name, figure)| (name.to_owned(), figure)).to_vec();
    WorkerNote { last_run, position, figures }
}

/// Reads and checks what is stored.
///
/// # Errors
/// [`Failure`] when the store cannot be read, or another care is under way.
pub(crate) async fn scrub(ctx: &Rc<Context>, how: How, tell: &Tell<'_>) -> Result<Scrubbed, Failure> {
    let _running = Care::begin(ctx, "scrub")?;
    let stats = ctx.store.blocking("figures", |stores| stores.chunks().stats()).await;
    let total = how.bytes.unwrap_or(stats.map_err(|error| store_failure(&error))?.stored_bytes);
    let mut done = Scrubbed::default();
    let (mut at, mut wrapped) = (how.from, how.from.is_none());
    let (mut noted_at, mut noted_bytes) = (Instant::now(), 0);
    loop {
        let began = Instant::now();
        let from = at;
        let step = ctx.store.blocking("scrub", move |stores| stores.chunks().scrub_step(from, SCRUB_STEP)).await;
        let step = step.map_err(|error| store_failure(&error))?;
        done.chunks += step.chunks;
        done.bytes += step.bytes;
        done.damaged += step.damaged;
        at = step.next;
        ctx.workers.update("scrub", |worker| {
            "reading what is stored".clone_into(&mut worker.state);
            worker.progress = Some((done.bytes, Some(total)));
        });
        tell(Progress { done: done.bytes, total: Some(total), ..Progress::default() });
        // From its end it goes on at the beginning, once.
        let is_over = at.is_none() && std::mem::replace(&mut wrapped, true);
        if is_over || how.bytes.is_some_and(|bytes| done.bytes >= bytes) {
            break;
        }
        if noted_at.elapsed() >= NOTE_AFTER || done.bytes - noted_bytes >= SCRUB_NOTE {
            remember(ctx, "scrub", note(at.as_ref(), &done, how.last_run)).await?;
            (noted_at, noted_bytes) = (Instant::now(), done.bytes);
        }
        how.pace.rest(ctx, began).await;
    }
    if done.damaged > 0 {
        done.hurt = report_damage(ctx, done.damaged, how.pace).await?;
    }
    remember(ctx, "scrub", note(at.as_ref(), &done, timestamp())).await?;
    log::info!(chunks = done.chunks, bytes = done.bytes, damaged = done.damaged; "stored chunks were checked");
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_of_a_scrub_reads_back_from_its_note() {
        for (segment, offset) in [(0, 0), (127, 128), (u64::MAX, 1 << 40)] {
            let at = ScrubCursor { segment, offset };
            let note = note(Some(&at), &Scrubbed::default(), Timestamp(0));
            let read = position_of(&note).unwrap();
            assert_eq!((read.segment, read.offset), (segment, offset));
        }
        assert!(position_of(&note(None, &Scrubbed::default(), Timestamp(0))).is_none());
    }
}
