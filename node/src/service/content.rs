//! The content of versions: bringing it here, listing and reading it. What is not here is fetched first.

use std::ops::Range;
use std::rc::Rc;

use bib_core::api::event::Fetched;
use bib_core::api::{ErrorCode, Event, Failure};
use bib_core::catalog::record;
use bib_core::command::Command;
use bib_core::id::ChunkId;
use bib_core::limits::{CONTENT_STEP, MAX_CHUNK_LEN, MAX_WANTED_RANGES};
use bib_core::machine::transfer::outcome::{AskOrder, FetchStats, StallReason, Wanted};
use bib_core::model::{PathPatterns, Reference, Version, VersionStatus};

use super::{catalog, store_failure};
use crate::content::{ContentError, Part, Reader};
use crate::control::Output;
use crate::fetch::{Handle, Update, of_stall};
use crate::node::Context;

impl From<ContentError> for Failure {
    fn from(error: ContentError) -> Self {
        let failure = |code| Self::new(code, error.to_string());
        match &error {
            ContentError::Missing(_) => failure(ErrorCode::NoProvider),
            ContentError::Wrong(_) => failure(ErrorCode::Integrity),
            ContentError::NoPath(_) => failure(ErrorCode::NotFound).hinted("`bib ls <reference>` lists the paths"),
            ContentError::IsFolder(_) | ContentError::SeveralFiles(_) => failure(ErrorCode::Invalid)
                .hinted("name one file: `<reference>:<path>`; `bib ls <reference>` lists them"),
            ContentError::Store(error) => store_failure(error),
        }
    }
}

type Result<T, E = Failure> = std::result::Result<T, E>;

/// Brings what a reader lacks: first the list of files, when only some are wanted, then what they consist of.
struct Source<'a> {
    ctx: &'a Rc<Context>,
    version: &'a Version,
    part: Part,
    stage: Stage,
}

enum Stage {
    /// Nothing was fetched.
    Begin,
    /// The list of files comes.
    Entries(Handle),
    /// What is wanted comes.
    Content(Handle),
    /// All that was wanted came.
    End,
}

impl<'a> Source<'a> {
    const fn new(ctx: &'a Rc<Context>, version: &'a Version, part: Part) -> Self {
        Self { ctx, version, part, stage: Stage::Begin }
    }

    async fn fetch(&self, wanted: Wanted, order: AskOrder) -> Result<Handle> {
        let has_peers = self.ctx.network.view.borrow().connected().next().is_some();
        if !has_peers {
            return Err(self.stalled(StallReason::NoProvider).await);
        }
        Ok(self.ctx.fetches.start(self.ctx, self.version, wanted, order))
    }

    /// Waits until more is here than was when a chunk was missing.
    async fn bring(&mut self, missing: ChunkId, out: &Output) -> Result<()> {
        match std::mem::replace(&mut self.stage, Stage::End) {
            Stage::Begin => {
                self.lost().await?;
                self.stage = match &self.part {
                    // All of it: whoever fetches it already is joined.
                    Part::Files(None, patterns) if patterns.is_all() => {
                        Stage::Content(self.fetch(Wanted::All, AskOrder::Sequential).await?)
                    }
                    _ => Stage::Entries(self.fetch(Wanted::Entries, AskOrder::Sequential).await?),
                };
                Ok(())
            }
            Stage::Entries(mut handle) => {
                self.stage = match self.wait(&mut handle, out).await? {
                    None => Stage::Entries(handle),
                    Some(_) => match self.ranges().await? {
                        None => Stage::End,
                        Some(ranges) => Stage::Content(self.fetch(Wanted::Ranges(ranges), AskOrder::Sequential).await?),
                    },
                };
                Ok(())
            }
            Stage::Content(mut handle) => {
                if self.wait(&mut handle, out).await?.is_none() {
                    self.stage = Stage::Content(handle);
                }
                Ok(())
            }
            Stage::End => Err(Failure::new(
                ErrorCode::Integrity,
                format!("chunk {} was fetched and is not here", missing.short()),
            )),
        }
    }

    /// The catalog may say that the content is here, which it is not.
    async fn lost(&self) -> Result<()> {
        let manifest = self.version.manifest;
        let says_here = self.ctx.store.read(move |read| bib_core::catalog::content::is_here(read, &manifest)).await;
        if says_here.map_err(|error| store_failure(&error))? {
            log::warn!(version = self.version.id.short(); "content that should be here is not; it is fetched again");
            let lost = Command::ContentLost(manifest);
            self.ctx.store.apply(lost).await.map_err(|error| store_failure(&error))?;
        }
        Ok(())
    }

    /// Why nothing more comes: that nobody has what was deleted meanwhile is no matter of peers.
    async fn stalled(&self, reason: StallReason) -> Failure {
        let id = self.version.id;
        let is_gone = self.ctx.store.read(move |read| record::version(read, &id).map(|found| found.is_none())).await;
        if is_gone.unwrap_or(false) {
            return Failure::new(
                ErrorCode::NotFound,
                "the version was deleted while it was read, and its content is gone",
            )
            .hinted("what is deleted stays for `gc.min_age` unless `bib admin gc --min-age` says less");
        }
        of_stall(reason)
    }

    /// One piece of news of a fetch; its figures when it is done.
    async fn wait(&self, handle: &mut Handle, out: &Output) -> Result<Option<FetchStats>> {
        match handle.next().await {
            Update::Progress(progress) => {
                out.try_event(Event::Progress(progress));
                Ok(None)
            }
            Update::Stalled(reason) => Err(self.stalled(reason).await),
            Update::Failed(failure) => Err(failure),
            Update::Done(stats) => Ok(Some(stats)),
        }
    }

    /// The bytes of the stream that the part consists of; `None` when it has no content.
    async fn ranges(&self) -> Result<Option<Vec<Range<u64>>>> {
        if matches!(self.part, Part::Entries(_)) {
            return Ok(None);
        }
        let (stores, manifest, part) = (self.ctx.store.stores(), self.version.manifest, self.part.clone());
        let ranges = self.ctx.store.blocking("ranges", move |_| ranges_of(stores, manifest, &part)).await?;
        Ok(Some(ranges))
    }
}

/// Bytes of the stream that the files of a part are, from a list of files that is here.
fn ranges_of(
    stores: crate::store::Stores,
    manifest: bib_core::id::ManifestId,
    part: &Part,
) -> Result<Vec<Range<u64>>, ContentError> {
    let mut reader = Reader::new(stores, manifest, Part::Entries(part.path().cloned()));
    let mut ranges: Vec<Range<u64>> = Vec::new();
    loop {
        let events = reader.step(CONTENT_STEP)?;
        if events.is_empty() {
            return Ok(ranges);
        }
        for event in events {
            let Event::Entry(entry) = event else { continue };
            let range = match part {
                Part::Files(_, patterns) if !patterns.matches(entry.path.as_str()) => continue,
                Part::File { offset, len, .. } => {
                    let begin = (*offset).min(entry.size);
                    let end = len.map_or(entry.size, |len| begin.saturating_add(len).min(entry.size));
                    entry.offset + begin..entry.offset + end
                }
                _ => entry.offset..entry.offset + entry.size,
            };
            let is_full = ranges.len() >= MAX_WANTED_RANGES;
            match ranges.last_mut() {
                // With too many ranges, what lies between two of them is fetched as well.
                Some(last) if last.end == range.start || is_full => last.end = range.end,
                _ => ranges.push(range),
            }
        }
    }
}

/// What of a version's content a reference names, and the version itself.
async fn version_of(ctx: &Context, reference: &Reference) -> Result<(Version, bool)> {
    let item = catalog::resolve_version(ctx, reference).await?;
    Ok((item.version, item.is_here))
}

/// Yields what a part of a version consists of; what is not here is fetched while it is read.
async fn read(ctx: &Rc<Context>, version: &Version, part: Part, originals: bool, out: &Output) -> Result<()> {
    // What is withdrawn may be given up where space is short, the least used first.
    if version.status == VersionStatus::Withdrawn {
        let used = Command::ContentUsed(version.manifest);
        ctx.store.apply(used).await.map_err(|error| store_failure(&error))?;
    }
    // The chunk in hand and what is on its way to the caller, for as long as the call lasts.
    let permit = Rc::new(ctx.session_credits.borrow(MAX_CHUNK_LEN + CONTENT_STEP).await);
    let mut reader = Reader::new(ctx.store.stores(), version.manifest, part.clone()).naming_originals(originals);
    let mut source = Source::new(ctx, version, part);
    loop {
        let (next, events) = ctx
            .store
            .blocking("read", move |_| {
                let mut reader = reader;
                let events = reader.step(CONTENT_STEP);
                Ok::<_, ContentError>((reader, events))
            })
            .await?;
        reader = next;
        match events {
            Ok(events) if events.is_empty() => return Ok(()),
            Ok(events) => {
                for event in events {
                    out.send(event, Some(permit.clone())).await?;
                }
            }
            Err(ContentError::Missing(id)) => source.bring(id, out).await?,
            Err(error) => return Err(error.into()),
        }
    }
}

pub(crate) async fn entries(ctx: &Rc<Context>, reference: Reference, out: &Output) -> Result<()> {
    let (version, _) = version_of(ctx, &reference).await?;
    read(ctx, &version, Part::Entries(reference.path), false, out).await
}

pub(crate) async fn read_file(
    ctx: &Rc<Context>,
    reference: Reference,
    (offset, len): (u64, Option<u64>),
    out: &Output,
) -> Result<()> {
    let (version, _) = version_of(ctx, &reference).await?;
    read(ctx, &version, Part::File { path: reference.path, offset, len }, false, out).await
}

pub(crate) async fn read_all(
    ctx: &Rc<Context>,
    reference: Reference,
    paths: PathPatterns,
    originals: bool,
    out: &Output,
) -> Result<()> {
    let (version, _) = version_of(ctx, &reference).await?;
    read(ctx, &version, Part::Files(reference.path, paths), originals, out).await
}

pub(crate) async fn fetch(ctx: &Rc<Context>, reference: Reference, out: &Output) -> Result<()> {
    let (version, is_here) = version_of(ctx, &reference).await?;
    let stats = if is_here && reference.path.is_none() {
        FetchStats { wanted_bytes: version.size, reused_bytes: version.size, ..FetchStats::default() }
    } else {
        bring(ctx, &version, reference.path.clone(), out).await?
    };
    let providers = stats.providers.iter().filter(|(_, stats)| stats.raw_bytes > 0);
    let fetched = Fetched {
        size: stats.wanted_bytes,
        received: stats.received_bytes,
        wire_bytes: stats.wire_bytes,
        reused: stats.reused_bytes,
        providers: providers.map(|(node, stats)| (*node, stats.raw_bytes)).collect(),
        version,
    };
    out.event(Event::Fetched(Box::new(fetched))).await
}

/// Brings a version, or what is at or below a path of it, here.
async fn bring(
    ctx: &Rc<Context>,
    version: &Version,
    path: Option<bib_core::model::DatasetPath>,
    out: &Output,
) -> Result<FetchStats> {
    let source = Source::new(ctx, version, Part::Files(path.clone(), PathPatterns::default()));
    let wanted = if path.is_none() {
        Wanted::All
    } else {
        let mut handle = ctx.fetches.start(ctx, version, Wanted::Entries, AskOrder::RarestFirst);
        while source.wait(&mut handle, out).await?.is_none() {}
        Wanted::Ranges(source.ranges().await?.unwrap_or_default())
    };
    let mut handle = ctx.fetches.start(ctx, version, wanted, AskOrder::RarestFirst);
    loop {
        if let Some(stats) = source.wait(&mut handle, out).await? {
            return Ok(stats);
        }
    }
}
