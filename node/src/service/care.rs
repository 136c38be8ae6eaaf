//! Care of the store, as users ask for it: what the node does by itself, checking versions, keeping content.

use std::rc::Rc;
use std::time::Duration;

use bib_core::api::care::{Hurt, Pinned, Verified};
use bib_core::api::event::Progress;
use bib_core::api::request::Paging;
use bib_core::api::{ErrorCode, Event, Failure};
use bib_core::catalog::content;
use bib_core::catalog::list::VersionItem;
use bib_core::catalog::record::Kept;
use bib_core::command::Command;
use bib_core::id::ManifestId;
use bib_core::limits::{CONTENT_STEP, DEFAULT_PAGE, MAX_CHUNK_LEN, MAX_KEPT, MAX_PAGE};
use bib_core::machine::transfer::outcome::{AskOrder, Wanted};
use bib_core::model::Reference;
use bib_core::port::StoreError;

use super::{catalog, require_operator, require_user, store_failure};
use crate::care::verify::{Figures, Verifier};
use crate::care::{Pace, collect, rebuild, scrub};
use crate::control::{Caller, Output};
use crate::fetch::{Update, of_stall};
use crate::node::Context;
use crate::runtime::timestamp;

type Result<T, E = Failure> = std::result::Result<T, E>;

pub(crate) async fn workers(ctx: &Context, out: &Output) -> Result<()> {
    for worker in ctx.workers.all() {
        out.event(Event::Worker(worker)).await?;
    }
    Ok(())
}

pub(crate) async fn gc(
    ctx: &Rc<Context>,
    caller: &Caller,
    (dry_run, min_age_s): (bool, Option<u64>),
    out: &Output,
) -> Result<()> {
    require_operator(caller, "give back its space")?;
    let min_age = min_age_s.map_or(ctx.config().gc_min_age, Duration::from_secs);
    let how = collect::How { dry_run, min_age, sweep_age: min_age, pace: Pace::Asked };
    let collected = collect::collect(ctx, how, &|progress| out.try_event(Event::Progress(progress))).await?;
    out.event(Event::Collected(collected)).await
}

pub(crate) async fn scrub(ctx: &Rc<Context>, caller: &Caller, out: &Output) -> Result<()> {
    require_operator(caller, "have it read all that it stores")?;
    let last_run = timestamp();
    let how = scrub::How { bytes: None, from: None, pace: Pace::Asked, last_run };
    let scrubbed = scrub::scrub(ctx, how, &|progress| out.try_event(Event::Progress(progress))).await?;
    out.event(Event::Scrubbed(scrubbed)).await
}

pub(crate) async fn rebuild(ctx: &Rc<Context>, caller: &Caller, out: &Output) -> Result<()> {
    require_operator(caller, "make its index anew")?;
    let rebuilt = rebuild::rebuild(ctx, &|progress| out.try_event(Event::Progress(progress))).await?;
    out.event(Event::Rebuilt(rebuilt)).await
}

/// Reads all of a version; tells of files that are not whole when `tells` says so.
async fn check(ctx: &Context, item: &VersionItem, tells: bool, out: &Output) -> Result<Figures> {
    let _permit = ctx.session_credits.borrow(MAX_CHUNK_LEN + CONTENT_STEP).await;
    let mut verifier = Verifier::new(ctx.store.stores(), item.version.manifest);
    while !verifier.is_done() {
        let (next, hurt) = ctx
            .store
            .blocking("verify", move |_| {
                let mut verifier = verifier;
                let hurt = verifier.step(CONTENT_STEP as u64)?;
                Ok::<_, StoreError>((verifier, hurt))
            })
            .await
            .map_err(|error| store_failure(&error))?;
        verifier = next;
        for hurt in hurt {
            if tells {
                out.event(Event::Hurt(hurt)).await?;
            } else {
                let Hurt { path, damaged, missing } = hurt;
                let path = path.map_or_else(|| "the list of files".to_owned(), |path| path.to_string());
                log::debug!(path = path.as_str(), damaged = damaged, missing = missing; "not whole");
            }
        }
        let figures = verifier.figures();
        let total = Some(item.version.size);
        out.try_event(Event::Progress(Progress { done: figures.bytes, total, ..Progress::default() }));
    }
    Ok(verifier.figures())
}

fn not_whole(reference: &str, figures: &Figures) -> Failure {
    let Figures { hurt_files, damaged, missing, .. } = *figures;
    Failure::new(
        ErrorCode::Integrity,
        format!("{reference} is not whole: {damaged} chunks are damaged and {missing} missing, in {hurt_files} files"),
    )
}

pub(crate) async fn verify(ctx: &Rc<Context>, reference: Reference, repair: bool, out: &Output) -> Result<()> {
    let item = catalog::resolve_version(ctx, &reference).await?;
    let name = format!("{}@{}", item.path, item.version.semver);
    let mut figures = check(ctx, &item, true, out).await?;
    let mut fetched = 0;
    if !figures.is_whole() {
        let manifest = item.version.manifest;
        // The catalog says no more that it is here, so that a full node fetches it anew by itself.
        if item.is_here {
            log::warn!(version = name.as_str(), damaged = figures.damaged, missing = figures.missing; "content is not whole");
            ctx.store.apply(Command::ContentLost(manifest)).await.map_err(|error| store_failure(&error))?;
        }
        if !repair {
            ctx.replicate.notify();
            let hint = format!("`bib dataset verify {name} --repair` fetches it from peers");
            return Err(not_whole(&name, &figures).hinted(hint));
        }
        if ctx.network.view.borrow().connected().next().is_none() {
            let why = not_whole(&name, &figures).message;
            let failure = Failure::new(ErrorCode::NoProvider, format!("{why}; no peer is connected to fetch it from"));
            return Err(failure.hinted("`bib peer connect <address>`, or publish the same files again"));
        }
        let mut handle = ctx.fetches.start(ctx, &item.version, Wanted::All, AskOrder::RarestFirst);
        fetched = loop {
            match handle.next().await {
                Update::Progress(progress) => out.try_event(Event::Progress(progress)),
                Update::Stalled(reason) => return Err(of_stall(reason)),
                Update::Failed(failure) => return Err(failure),
                Update::Done(stats) => break stats.received_bytes,
            }
        };
        figures = check(ctx, &item, false, out).await?;
        if !figures.is_whole() {
            return Err(not_whole(&name, &figures).hinted("the disk may be failing: `dmesg` may say more"));
        }
        log::info!(version = name.as_str(), fetched = fetched; "content was mended");
    }
    let Figures { bytes, chunks, hurt_files, damaged, missing } = figures;
    let verified = Verified { reference: name, bytes, chunks, hurt_files, damaged, missing, fetched };
    out.event(Event::Verified(verified)).await
}

pub(crate) async fn pin(ctx: &Context, caller: &Caller, reference: Reference, out: &Output) -> Result<()> {
    require_user(caller, "pinning")?;
    let VersionItem { path, version, is_here } = catalog::resolve_version(ctx, &reference).await?;
    let manifest = version.manifest;
    let known = find(ctx, move |known, _| *known == manifest).await?;
    if known.found.is_none() && known.n >= MAX_KEPT {
        let failure =
            Failure::new(ErrorCode::LimitExceeded, format!("{MAX_KEPT} contents are pinned, which is the most"));
        return Err(failure.hinted("`bib dataset unpin <reference>` makes room; `bib dataset pins` lists them"));
    }
    let reference = format!("{path}@{}", version.semver);
    let kept = Kept { version: version.id, reference, size: version.size, since: timestamp() };
    let command = Command::Keep { manifest, kept: Some(kept.clone()) };
    ctx.store.apply(command).await.map_err(|error| store_failure(&error))?;
    log::info!(version = kept.reference.as_str(); "content is kept");
    out.event(Event::Pinned(Pinned { manifest, kept, here: is_here })).await
}

/// What a search among all that is kept found, and how much there is.
struct Known {
    found: Option<(ManifestId, Kept)>,
    n: usize,
}

async fn find(ctx: &Context, is_it: impl Fn(&ManifestId, &Kept) -> bool + Send + 'static) -> Result<Known> {
    let read = move |read: &dyn bib_core::port::CatalogRead| {
        // At most as many as a person pins, each of some hundred bytes.
        let all = content::kept(read, None, MAX_KEPT)?;
        let n = all.len();
        let found = all.into_iter().find(|(manifest, kept)| is_it(manifest, kept));
        Ok::<_, StoreError>(Known { found, n })
    };
    ctx.store.read(read).await.map_err(|error| store_failure(&error))
}

pub(crate) async fn unpin(ctx: &Context, caller: &Caller, what: String, out: &Output) -> Result<()> {
    require_user(caller, "unpinning")?;
    // As it is listed first: the version may be gone.
    let listed = what.clone();
    let mut known = find(ctx, move |manifest, kept| kept.reference == listed || manifest.to_string() == listed).await?;
    if known.found.is_none()
        && let Ok(reference) = what.parse::<Reference>()
        && let Ok(item) = catalog::resolve_version(ctx, &reference).await
    {
        known = find(ctx, move |manifest, _| *manifest == item.version.manifest).await?;
    }
    let Some((manifest, kept)) = known.found else {
        let what: String = what.chars().take(128).collect();
        let failure = Failure::new(ErrorCode::NotFound, format!("`{what}` is not pinned"));
        return Err(failure.hinted("`bib dataset pins` lists what is"));
    };
    let command = Command::Keep { manifest, kept: None };
    ctx.store.apply(command).await.map_err(|error| store_failure(&error))?;
    log::info!(version = kept.reference.as_str(); "content is kept no more");
    let here = ctx.store.read(move |read| content::is_here(read, &manifest)).await;
    let here = here.map_err(|error| store_failure(&error))?;
    out.event(Event::Pinned(Pinned { manifest, kept, here })).await
}

pub(crate) async fn pins(ctx: &Context, paging: Paging, out: &Output) -> Result<()> {
    let read = move |read: &dyn bib_core::port::CatalogRead| {
        let all = content::kept(read, None, MAX_KEPT)?;
        let total = all.len() as u64;
        let limit = if paging.limit == 0 { DEFAULT_PAGE } else { paging.limit.min(MAX_PAGE) };
        let page = all.into_iter().skip(paging.offset as usize).take(limit as usize);
        let page = page.map(|(manifest, kept)| Ok(Pinned { manifest, kept, here: content::is_here(read, &manifest)? }));
        Ok::<_, StoreError>((page.collect::<Result<Vec<_>, StoreError>>()?, total))
    };
    let (page, total) = ctx.store.read(read).await.map_err(|error| store_failure(&error))?;
    for pinned in page {
        out.event(Event::Pinned(pinned)).await?;
    }
    out.event(Event::Total(total)).await
}
