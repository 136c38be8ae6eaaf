//! One collection of garbage: what waited out its time is forgotten, what is in use is marked, the rest leaves the index,
//! and its space is given back.
//!
//! Invariant: nothing is swept unless the walk over everything in use came to its end. A collection that ends early, by
//! an error or since nobody waits for it any more, leaves the store as it was but for what it has swept already.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bib_core::api::care::Collected;
use bib_core::api::event::Progress;
use bib_core::api::{ErrorCode, Failure};
use bib_core::catalog::keys;
use bib_core::catalog::record::{self, GraceClock, WorkerNote};
use bib_core::chunk::Chunk;
use bib_core::command::Command;
use bib_core::id::{ChunkId, ManifestId};
use bib_core::limits::{COLLECT_PAGES, COLLECT_STEP, PRESSED_AGE, SWEEP_CHUNKS};
use bib_core::machine::collect::check::Check;
use bib_core::machine::collect::evict::{Candidates, Usage};
use bib_core::machine::collect::hidden::{Hidden, each_pin};
use bib_core::machine::collect::mark::{Figures, Loaded, MarkError, Marker};
use bib_core::model::manifest::reader;
use bib_core::port::{CatalogRead, Reclaim, StoreError, SweepRules, Table};

use super::{Care, Pace, names_of, remember, seed};
use crate::node::Context;
use crate::runtime::timestamp;
use crate::service::store_failure;
use crate::space::Disk;
use crate::store::{Stores, has_lost_catalog};

/// How a collection is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct How {
    /// Only look.
    pub(crate) dry_run: bool,
    /// How old released content has to be.
    pub(crate) min_age: Duration,
    /// How old chunks have to be that no manifest names.
    pub(crate) sweep_age: Duration,
    pub(crate) pace: Pace,
}

/// Who is told how far it is.
pub(crate) type Tell<'a> = dyn Fn(Progress) + 'a;

/// Ends the collection of the store, however it ends.
struct Begun(Stores);

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.chunks().end_gc();
    }
}

/// Ends the times that have run out, and finds content that nobody can see any more.
async fn release(ctx: &Context, how: &How) -> Result<(), Failure> {
    // What is found hidden may be named by a version that came meanwhile: whoever gives no grace looks again, and then only
    // for what is seen.
    let looks = if how.min_age < PRESSED_AGE { 2 } else { 1 };
    for look in 0..looks {
        let n_versions =
            ctx.store.read(|read| read.len(Table::Versions)).await.map_err(|error| store_failure(&error))?;
        let mut walk = Hidden::new(n_versions, seed()?);
        loop {
            let began = Instant::now();
            let (next, mut found) = ctx
                .store
                .read(move |read| {
                    let mut walk = walk;
                    let found = walk.step(read)?;
                    Ok::<_, StoreError>((walk, found))
                })
                .await
                .map_err(|error| store_failure(&error))?;
            walk = next;
            let is_last = found.is_last;
            if look > 0 {
                found.hidden.clear();
            }
            if !found.hidden.is_empty() || !found.shown.is_empty() {
                let command = Command::Release { hidden: found.hidden, shown: found.shown };
                ctx.store.apply(command).await.map_err(|error| store_failure(&error))?;
            }
            how.pace.rest(ctx, began).await;
            if is_last {
                break;
            }
        }
    }
    let command = Command::Expire { min_age: how.min_age };
    ctx.store.apply(command).await.map(drop).map_err(|error| store_failure(&error))
}

fn load(stores: &Stores, id: &ChunkId) -> Result<Loaded, StoreError> {
    match stores.chunks().get(id) {
        Ok(Some(chunk)) => Ok(Loaded::Here(chunk.into_raw())),
        Ok(None) if stores.chunks().is_damaged(id)? => Ok(Loaded::Damaged),
        Ok(None) => Ok(Loaded::Absent),
        Err(StoreError::Corrupt(_) | StoreError::Changed { .. }) => Ok(Loaded::Damaged),
        Err(error) => Err(error),
    }
}

/// Pages that the walk over one manifest may read: every one of them is a chunk that is here.
pub(super) fn max_pages(n_chunks: u64) -> u64 {
    n_chunks.saturating_mul(2).saturating_add(1_024)
}

/// Looks whether the catalog is what was signed, before something is given up that it does not name.
async fn believe(ctx: &Context, how: &How) -> Result<(), Failure> {
    let mut check = Check::default();
    loop {
        let began = Instant::now();
        let step = move |read: &dyn CatalogRead| {
            let mut check = check;
            let is_last = check.step(read)?;
            Ok::<_, StoreError>((check, is_last))
        };
        let (next, is_last) = match ctx.store.read(step).await {
            Err(StoreError::Corrupt(why)) => {
                log::error!(why = why.as_str(); "no space is given back: the catalog is not what was signed");
                let message = format!("no space is given back: {why}");
                let hint =
                    "make the node anew from a backup with `bib admin restore`, or put a copy of catalog.redb back";
                return Err(Failure::new(ErrorCode::Integrity, message).hinted(hint));
            }
            step => step.map_err(|error| store_failure(&error))?,
        };
        if is_last {
            return Ok(());
        }
        check = next;
        how.pace.rest(ctx, began).await;
    }
}

async fn mark(ctx: &Context, how: &How, n_chunks: u64, tell: &Tell<'_>) -> Result<Figures, Failure> {
    let mut marker = Marker::new(max_pages(n_chunks));
    if how.dry_run {
        let clock = |read: &dyn CatalogRead| record::get::<GraceClock>(read, Table::Meta, keys::GRACE_CLOCK);
        let clock = ctx.store.read(clock).await.map_err(|error| store_failure(&error))?;
        let steady = clock.map_or_else(timestamp, |clock| clock.at(timestamp()).steady);
        marker = marker.as_if(steady, how.min_age);
    }
    loop {
        let began = Instant::now();
        let (next, stepped) = ctx
            .store
            .blocking("mark", move |stores| {
                let mut marker = marker;
                let read = stores.catalog().begin_read()?;
                let stepped = marker.step(
                    read.as_ref(),
                    &mut |id| load(stores, id),
                    &mut |_, chunk| stores.chunks().mark(&chunk.id),
                    COLLECT_PAGES,
                );
                Ok::<_, StoreError>((marker, stepped))
            })
            .await
            .map_err(|error| store_failure(&error))?;
        marker = next;
        match stepped {
            Ok(true) => return Ok(marker.figures()),
            Ok(false) => {}
            Err(error) => return Err(aborted(ctx, error).await),
        }
        ctx.workers.update("gc", |worker| {
            "marking what is in use".clone_into(&mut worker.state);
            worker.progress = Some((marker.figures().n_marks, None));
        });
        tell(Progress { files: marker.figures().n_pins, ..Progress::default() });
        how.pace.rest(ctx, began).await;
    }
}

/// A walk that cannot know what is in use: says whom it hurts, and has it fetched again.
async fn aborted(ctx: &Context, error: MarkError) -> Failure {
    let manifest = match &error {
        MarkError::Store(error) => return store_failure(error),
        MarkError::Damaged { manifest, .. } | MarkError::Lost { manifest, .. } | MarkError::Wrong { manifest, .. } => {
            *manifest
        }
        _ => return Failure::new(ErrorCode::Integrity, error.to_string()),
    };
    let names =
        names_of(ctx, BTreeSet::from([manifest])).await.unwrap_or_else(|_| vec![format!("manifest {manifest}")]);
    let named = names.join(", ");
    log::error!(hurt = named.as_str(), why:% = error; "no space is given back: what is in use cannot be known");
    if ctx.store.apply(Command::ContentLost(manifest)).await.is_ok() {
        ctx.replicate.notify();
    }
    let message = format!("no space is given back: {error}, which hurts {named}");
    let hint = names.first().map_or_else(String::new, |name| {
        format!("`bib dataset verify {name} --repair` fetches it from peers; or delete or unpin what cannot be mended")
    });
    Failure::new(ErrorCode::Integrity, message).hinted(hint)
}

/// One collection, without regard to whether space is short.
async fn once(ctx: &Context, how: &How, tell: &Tell<'_>) -> Result<Collected, Failure> {
    if !how.dry_run && has_lost_catalog(&ctx.data_dir) {
        let message = "no space is given back: the catalog of this node was lost, so what is in use cannot be known";
        let hint = format!(
            "put catalog.redb back or `bib admin restore` a backup; if the content is not wanted: remove `{}`",
            ctx.data_dir.join("catalog.lost").display()
        );
        return Err(Failure::new(ErrorCode::Precondition, message).hinted(hint));
    }
    believe(ctx, how).await?;
    if !how.dry_run {
        release(ctx, how).await?;
    }
    let stores = ctx.store.stores();
    let before = ctx.store.blocking("figures", |stores| stores.chunks().stats()).await;
    let before = before.map_err(|error| store_failure(&error))?;
    let number = seed()?;
    stores.chunks().begin_gc(ctx.budget.gc_filter, number).map_err(|error| store_failure(&error))?;
    let begun = Begun(stores);
    let figures = mark(ctx, how, before.n_chunks, tell).await?;
    let mut collected = Collected { dry_run: how.dry_run, ..Collected::default() };
    let (mut after, mut seen) = (None, 0u64);
    loop {
        let began = Instant::now();
        let rules = SweepRules {
            number,
            now: timestamp(),
            min_age: how.sweep_age,
            dry_run: how.dry_run,
            max_chunks: SWEEP_CHUNKS,
        };
        let step = ctx
            .store
            .blocking("sweep", move |stores| stores.chunks().sweep_step(&rules, after))
            .await
            .map_err(|error| store_failure(&error))?;
        seen += step.seen;
        collected.dead_chunks += step.dead_chunks;
        collected.dead_bytes += step.dead_bytes;
        collected.young_chunks += step.young_chunks;
        collected.young_bytes += step.young_bytes;
        after = step.next;
        ctx.workers.update("gc", |worker| {
            "sweeping".clone_into(&mut worker.state);
            worker.progress = Some((seen, Some(before.n_chunks)));
        });
        if after.is_none() {
            break;
        }
        how.pace.rest(ctx, began).await;
    }
    collected.live_chunks = before.n_chunks.saturating_sub(collected.dead_chunks + collected.young_chunks);
    collected.live_bytes = before.stored_bytes.saturating_sub(collected.dead_bytes + collected.young_bytes);
    if !how.dry_run {
        reclaim(ctx, how, &mut collected, tell).await?;
    }
    drop(begun);
    note(ctx, &collected, &figures, before.stored_bytes, before.raw_bytes).await?;
    Ok(collected)
}

async fn reclaim(ctx: &Context, how: &How, collected: &mut Collected, tell: &Tell<'_>) -> Result<(), Failure> {
    let total = collected.dead_bytes;
    let mut freed = 0u64;
    loop {
        let began = Instant::now();
        let step = ctx.store.blocking("reclaim", |stores| stores.chunks().reclaim_step()).await;
        let Some(step) = step.map_err(|error| store_failure(&error))? else { return Ok(()) };
        freed += step.freed_bytes;
        collected.written_bytes += step.written_bytes;
        match step.action {
            Reclaim::Unlinked => collected.unlinked_bytes += step.freed_bytes,
            Reclaim::Punched => collected.punched_bytes += step.freed_bytes,
            Reclaim::Rewritten => collected.rewritten_bytes += step.freed_bytes,
        }
        ctx.workers.update("gc", |worker| {
            "giving space back".clone_into(&mut worker.state);
            worker.progress = Some((freed, Some(total.max(freed))));
        });
        tell(Progress { done: freed, total: Some(total.max(freed)), ..Progress::default() });
        how.pace.rest(ctx, began).await;
    }
}

/// Remembers what a collection came to, for `bib status`.
async fn note(ctx: &Context, collected: &Collected, figures: &Figures, stored: u64, raw: u64) -> Result<(), Failure> {
    if collected.dry_run {
        return Ok(());
    }
    // What a manifest says is not compressed.
    let on_disk = |bytes: u64| {
        let scaled = u128::from(bytes) * u128::from(stored) / u128::from(raw.max(1));
        u64::try_from(scaled).unwrap_or(u64::MAX).min(collected.live_bytes)
    };
    let (kept, released) = (on_disk(figures.kept_bytes), on_disk(figures.released_bytes));
    let named = [
        ("live_bytes", collected.live_bytes.saturating_sub(kept).saturating_sub(released)),
        ("kept_bytes", kept),
        ("released_bytes", released),
        ("unreferenced_bytes", collected.young_bytes),
        ("given_back_bytes", collected.unlinked_bytes + collected.punched_bytes + collected.rewritten_bytes),
        ("chunks", collected.live_chunks),
        ("evicted", collected.evicted),
    ];
    let figures = named.map(|(name, figure)| (name.to_owned(), figure)).to_vec();
    remember(ctx, "gc", WorkerNote { last_run: timestamp(), position: None, figures }).await
}

/// How full the store is.
pub(crate) async fn usage(ctx: &Context) -> Result<Usage, Failure> {
    let (data_dir, allowed) = (ctx.data_dir.clone(), ctx.allowed());
    let look = ctx.store.blocking("disk space", move |stores| Disk::look(stores, &data_dir)).await;
    let disk = look.map_err(|error| store_failure(&error))?;
    Ok(disk.usage(&allowed))
}

/// Content to give up so that `to_free` bytes come free.
async fn choose(ctx: &Context, to_free: u64) -> Result<Vec<ManifestId>, Failure> {
    let work = move |stores: &Stores| {
        let read = stores.catalog().begin_read()?;
        let (mut candidates, mut after) = (Candidates::default(), None);
        loop {
            let mut n = 0;
            each_pin(read.as_ref(), after, &mut |manifest, pin| {
                n += 1;
                after = Some(manifest);
                candidates.see(manifest, &pin);
            })?;
            if n < COLLECT_STEP {
                break;
            }
        }
        candidates.choose(to_free, |manifest| {
            let page = |id: &ChunkId| Ok::<_, StoreError>(stores.chunks().get(id)?.map(Chunk::into_raw));
            // Of what cannot be read nobody knows how much it is.
            Ok(reader::root(*manifest, page).map_or(0, |root| root.size))
        })
    };
    ctx.store.blocking("choose", work).await.map_err(|error: StoreError| store_failure(&error))
}

/// Collects garbage; where space is short then, gives up content that may be given up, and collects again.
///
/// # Errors
/// [`Failure`] of the store, or when what is in use cannot be known.
pub(crate) async fn collect(ctx: &Rc<Context>, how: How, tell: &Tell<'_>) -> Result<Collected, Failure> {
    let _running = Care::begin(ctx, "gc")?;
    let mut all = once(ctx, &how, tell).await?;
    // Each round gives up the content unused for longest; what it shares with other content does not come free.
    loop {
        let to_free = if how.dry_run { 0 } else { usage(ctx).await?.to_free() };
        if to_free == 0 {
            break;
        }
        let given_up = choose(ctx, to_free).await?;
        if given_up.is_empty() {
            log::warn!(to_free = to_free; "space is short, and nothing more may be given up");
            break;
        }
        let n = given_up.len() as u64;
        let named = names_of(ctx, given_up.iter().copied().collect()).await?.join(", ");
        log::info!(versions = named.as_str(); "space is short: content of withdrawn versions is given up");
        ctx.store.apply(Command::Evict(given_up)).await.map_err(|error| store_failure(&error))?;
        // What was given up is as old as its segments, which may be young.
        let more = once(ctx, &How { sweep_age: Duration::ZERO, ..how }, tell).await?;
        all = Collected {
            evicted: all.evicted + n,
            dead_chunks: all.dead_chunks + more.dead_chunks,
            dead_bytes: all.dead_bytes + more.dead_bytes,
            unlinked_bytes: all.unlinked_bytes + more.unlinked_bytes,
            punched_bytes: all.punched_bytes + more.punched_bytes,
            rewritten_bytes: all.rewritten_bytes + more.rewritten_bytes,
            written_bytes: all.written_bytes + more.written_bytes,
            ..more
        };
    }
    log::info!(
        live = all.live_bytes, young = all.young_bytes, dead = all.dead_bytes, unlinked = all.unlinked_bytes,
        punched = all.punched_bytes, rewritten = all.rewritten_bytes, only_looked = all.dry_run;
        "garbage was collected"
    );
    Ok(all)
}

/// Contents that have a chunk which is damaged. The store of an encrypted node does not know its chunks by their ids, so
/// that all chunks of all contents are looked up.
async fn hurt_by_damage(ctx: &Context, pace: Pace) -> Result<BTreeSet<ManifestId>, Failure> {
    let stats = ctx.store.blocking("figures", |stores| stores.chunks().stats()).await;
    let n_chunks = stats.map_err(|error| store_failure(&error))?.n_chunks;
    let mut marker = Marker::search(max_pages(n_chunks));
    let mut hurt = BTreeSet::new();
    loop {
        let began = Instant::now();
        let (next, found, is_last) = ctx
            .store
            .blocking("search", move |stores| {
                let (mut marker, mut found, mut failed) = (marker, BTreeSet::new(), None);
                let read = stores.catalog().begin_read()?;
                let stepped = marker.step(
                    read.as_ref(),
                    &mut |id| load(stores, id),
                    &mut |manifest, chunk| match stores.chunks().is_damaged(&chunk.id) {
                        Ok(true) => _ = found.insert(*manifest),
                        Ok(false) => {}
                        Err(error) => failed = Some(error),
                    },
                    COLLECT_PAGES,
                );
                if let Some(error) = failed {
                    return Err(error);
                }
                match stepped {
                    Ok(is_last) => Ok((marker, found, is_last)),
                    Err(MarkError::Store(error)) => Err(error),
                    // A search passes over everything else.
                    Err(_) => Ok((marker, found, true)),
                }
            })
            .await
            .map_err(|error: StoreError| store_failure(&error))?;
        marker = next;
        hurt.extend(found);
        if is_last {
            return Ok(hurt);
        }
        pace.rest(ctx, began).await;
    }
}

/// Content was found damaged: says whom it hurts, and has it fetched again.
pub(super) async fn report_damage(ctx: &Context, n: u64, pace: Pace) -> Result<Vec<String>, Failure> {
    let hurt = hurt_by_damage(ctx, pace).await?;
    let names = names_of(ctx, hurt.clone()).await?;
    let named = names.join(", ");
    log::error!(chunks = n, hurt = named.as_str(); "stored chunks are damaged");
    for manifest in hurt {
        ctx.store.apply(Command::ContentLost(manifest)).await.map_err(|error| store_failure(&error))?;
    }
    // Whoever has it, gives it again.
    ctx.replicate.notify();
    Ok(names)
}
