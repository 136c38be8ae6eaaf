//! Taking content in: files that a client sends become chunks and a manifest, read once, in memory that does not grow
//! with them.
//!
//! Invariant: the answer says that the content is durable and kept for the operation that will name it. What was stored
//! of an ingest that ended early is nobody's, and does no harm.
//!
//! Content may also stay in the files it comes from: it is read and sent all the same, which proves that the caller may
//! read it, and the chunk store keeps places instead of bytes.
//!
//! An ingest is worked at in short steps on the pool, so that a client that stalls holds no thread.

use std::time::Instant;

use async_channel::Receiver;
use bib_core::api::event::{Progress, Staged};
use bib_core::api::{ErrorCode, Event, Failure, UploadPart};
use bib_core::catalog::record;
use bib_core::chunk::RawChunk;
use bib_core::chunker::ChunkerParams;
use bib_core::command::Command;
use bib_core::id::{DatasetId, TopicId};
use bib_core::limits::{CONTENT_STEP, CONTROL_STALL, FLUSH_INTERVAL, SPACE_CHECK};
use bib_core::model::manifest::builder::{BuildError, Builder, Built, Piece};
use bib_core::model::manifest::{EntryKind, ManifestKind, reader};
use bib_core::model::{DatasetPath, ReferenceError};
use bib_core::port::StoreError;

use super::in_place::{FilesInPlace, InPlaceError};
use super::{require_user, store_failure};
use crate::control::{Caller, Incoming, Output, Uploads, within};
use crate::node::Context;
use crate::quota::{self, Whose};
use crate::space::Disk;
use crate::store::Stores;

/// Why content is not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum PublishError {
    /// A path cannot be in a version.
    #[error(transparent)]
    Path(#[from] ReferenceError),
    /// The files make no version.
    #[error(transparent)]
    Build(#[from] BuildError<StoreError>),
    /// The client ended before everything was there.
    #[error("the upload ended early")]
    Early,
    /// Nothing came for a while, and others wait for the place.
    #[error("nothing came for a minute while others waited")]
    Stalled,
    /// A file whose bytes are to stay in it changed meanwhile.
    #[error("`{0}` changed while it was read; nothing was published")]
    Changed(String),
    /// The bytes of a file may not stay in it.
    #[error(transparent)]
    InPlace(#[from] InPlaceError),
    /// A place was named where none was asked for, or behind the first bytes.
    #[error("a file was named whose bytes nobody said to leave in place")]
    NotInPlace,
    /// There is no room.
    #[error("{}", .0.message)]
    NoRoom(Failure),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Self {
        let failure = |code| Self::new(code, error.to_string());
        match error {
            PublishError::NoRoom(failure) => failure,
            PublishError::InPlace(error) => error.into(),
            PublishError::Store(StoreError::Changed { path, .. })
            | PublishError::Build(BuildError::Sink(StoreError::Changed { path, .. })) => {
                PublishError::Changed(path).into()
            }
            PublishError::Store(error) | PublishError::Build(BuildError::Sink(error)) => store_failure(&error),
            PublishError::Early => failure(ErrorCode::Cancelled),
            PublishError::Stalled => {
                failure(ErrorCode::Timeout).hinted("publish again; what was stored is not sent twice")
            }
            PublishError::Build(BuildError::TooMany) => {
                failure(ErrorCode::LimitExceeded).hinted("publish the folder in parts")
            }
            PublishError::Changed(_) => failure(ErrorCode::Conflict).hinted("publish again when nothing writes to it"),
            PublishError::NotInPlace => failure(ErrorCode::Invalid).hinted("install the same version of bib and bibd"),
            PublishError::Path(_) | PublishError::Build(_) => failure(ErrorCode::Invalid).hinted("rename the file"),
        }
    }
}

/// What is built, between two steps.
struct Ingest {
    stores: Stores,
    builder: Builder,
    figures: Figures,
    /// `None`: all bytes are stored.
    in_place: Option<FilesInPlace>,
    /// Whether a place may be named for the file begun last.
    may_name_place: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Figures {
    new_bytes: u64,
    stored_bytes: u64,
    reused: u64,
    /// Bytes that went to the disk, pages included.
    written: u64,
    referenced: u64,
}

impl Figures {
    fn put(&mut self, stores: &Stores, in_place: Option<&mut FilesInPlace>, piece: Piece) -> Result<(), StoreError> {
        let (chunk, is_content): (RawChunk, bool) = match piece {
            Piece::Content(chunk) => (chunk, true),
            Piece::Page(chunk) => (chunk, false),
        };
        let len = u64::from(chunk.len());
        let place = in_place.filter(|_| is_content).and_then(|files| files.cut(len));
        // Asked first: what is there needs no compression. Bytes are put in place of a reference.
        let is_new = if let Some(place) = place {
            let id = chunk.id();
            let is_new = stores.chunks().put_reference(chunk, &place)?;
            if is_new || stores.chunks().place(&id)?.is_some() {
                self.referenced += len;
            }
            is_new
        } else if stores.chunks().has(&chunk.id())? && stores.chunks().place(&chunk.id())?.is_none() {
            false
        } else {
            let chunk = chunk.compress();
            let is_new = stores.chunks().put(&chunk)?;
            let stored = if is_new { chunk.encoded().len() as u64 } else { 0 };
            self.written += stored;
            if is_content {
                self.stored_bytes += stored;
            }
            is_new
        };
        match (is_content, is_new) {
            (true, true) => self.new_bytes += len,
            (true, false) => self.reused += len,
            (false, _) => {}
        }
        Ok(())
    }
}

impl Ingest {
    /// Takes parts in; `true` when they are the last ones.
    fn take(&mut self, parts: Vec<UploadPart>) -> Result<bool, PublishError> {
        let Self { stores, builder, figures, in_place, may_name_place } = self;
        for part in parts {
            let ends_file = matches!(part, UploadPart::Entry { .. } | UploadPart::End);
            if let Some(files) = in_place.as_mut().filter(|_| ends_file) {
                files.end(builder.size());
            }
            let may_name = std::mem::take(may_name_place);
            let sink = |piece| figures.put(stores, in_place.as_mut(), piece);
            match part {
                UploadPart::Entry { path, kind } => {
                    builder.begin(DatasetPath::new(&path)?, kind, sink)?;
                    *may_name_place = kind != EntryKind::EmptyDir;
                }
                UploadPart::Data(bytes) => builder.push(&bytes, sink)?,
                UploadPart::End => return Ok(true),
                UploadPart::InPlace(path) => match in_place.as_mut().filter(|_| may_name) {
                    Some(files) => files.begin(builder.size(), path.into_vec())?,
                    None => return Err(PublishError::NotInPlace),
                },
            }
        }
        Ok(false)
    }

    fn finish(self) -> Result<(Built, Figures), PublishError> {
        let Self { stores, builder, mut figures, mut in_place, .. } = self;
        let built = builder.finish(None, |piece| figures.put(&stores, in_place.as_mut(), piece))?;
        Ok((built, figures))
    }

    fn progress(&self, total: Option<u64>) -> Progress {
        Progress {
            done: self.builder.size(),
            total,
            files: self.builder.n_files(),
            reused: self.figures.reused,
            providers: 0,
        }
    }
}

/// How the last version of a dataset was cut, so that this one shares what is the same.
async fn chunker_of(ctx: &Context, dataset: Option<DatasetId>) -> Result<ChunkerParams, PublishError> {
    let default = ctx.config().chunker;
    let Some(dataset) = dataset else { return Ok(default) };
    ctx.store
        .blocking("chunker", move |stores| {
            let read = stores.catalog().begin_read()?;
            let latest = record::dataset(read.as_ref(), &dataset)?.and_then(|dataset| dataset.latest);
            let version = latest.map(|id| record::version(read.as_ref(), &id)).transpose()?.flatten();
            let Some(version) = version else { return Ok(default) };
            let root = reader::root(version.manifest, |id| {
                Ok::<_, StoreError>(stores.chunks().get(id)?.map(bib_core::chunk::Chunk::into_raw))
            });
            match root {
                Ok(root) => Ok(root.chunker),
                Err(reader::ReadError::Source(error)) => Err(error.into()),
                // A version that is not here, or makes no sense, sets no example.
                Err(_) => Ok(default),
            }
        })
        .await
}

/// The topic of a dataset that is there.
async fn topic_of(ctx: &Context, dataset: Option<DatasetId>) -> Result<Option<TopicId>, PublishError> {
    let Some(dataset) = dataset else { return Ok(None) };
    let found = ctx.store.read(move |read| record::dataset(read, &dataset)).await?;
    Ok(found.map(|dataset| dataset.topic))
}

/// Looks whether so many bytes more may be stored. Returns how many may be written before the next look.
pub(crate) async fn check_room(ctx: &Context, more: u64) -> Result<u64, PublishError> {
    let (data_dir, allowed) = (ctx.data_dir.clone(), ctx.allowed());
    let mut disk = ctx.store.blocking("disk space", move |stores| Disk::look(stores, &data_dir)).await?;
    disk.unreferenced = ctx.workers.figure("gc", "unreferenced_bytes").unwrap_or(0);
    if disk.usage(&allowed).is_pressed() {
        ctx.pressed.notify();
    }
    disk.check(&allowed, more).map_err(PublishError::NoRoom)?;
    Ok(disk.room(&allowed).min(SPACE_CHECK))
}

/// Takes the next parts, as many as one step handles.
async fn next_parts(ctx: &Context, uploads: &Receiver<Incoming>) -> Result<Vec<Incoming>, PublishError> {
    let first = loop {
        match within(CONTROL_STALL, uploads.recv()).await {
            Some(Ok(part)) => break part,
            Some(Err(_)) => return Err(PublishError::Early),
            // Who has a place and does not use it gives it up when others want it.
            None if ctx.ingest_credits.is_contended() => return Err(PublishError::Stalled),
            None => {}
        }
    };
    let len = |incoming: &Incoming| match &incoming.part {
        UploadPart::Data(bytes) => bytes.len(),
        _ => 0,
    };
    let (mut total, mut parts) = (len(&first), vec![first]);
    while total < CONTENT_STEP
        && let Ok(part) = uploads.try_recv()
    {
        total += len(&part);
        parts.push(part);
    }
    Ok(parts)
}

/// What is taken in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) dataset: Option<DatasetId>,
    pub(crate) kind: ManifestKind,
    pub(crate) expected: Option<u64>,
    /// Whether bytes may stay in the files they come from.
    pub(crate) in_place: bool,
}

pub(crate) async fn ingest(
    ctx: &Context,
    caller: &Caller,
    Wanted { dataset, kind, expected, in_place }: Wanted,
    uploads: &Uploads,
    out: &Output,
) -> Result<(), Failure> {
    require_user(caller, "publishing")?;
    let topic = topic_of(ctx, dataset).await?;
    let whose = Whose { topic, user: caller.user };
    quota::check(ctx, whose, expected.unwrap_or(1), None).await?;
    // Of a dataset that is there, little may be new; at least something must fit.
    let mut may_write = check_room(ctx, 1).await?;
    let _place = ctx.ingest_credits.borrow(1).await;
    uploads.open();
    let chunker = chunker_of(ctx, dataset).await?;
    if let (None, Some(expected), false) = (dataset, expected, in_place) {
        check_room(ctx, expected).await?;
    }
    let stores = ctx.store.stores();
    // What is put or found from here on is not collected before the command that names it is committed.
    let lease = stores.chunks().lease();
    let in_place = in_place.then(|| FilesInPlace::new(ctx.data_dir.clone()));
    let builder = Builder::new(kind, chunker);
    let mut ingest = Ingest { stores, builder, figures: Figures::default(), in_place, may_name_place: false };
    let (mut flushed_at, mut looked_at) = (Instant::now(), 0);
    loop {
        let parts = next_parts(ctx, uploads.parts()).await?;
        let (parts, permits): (Vec<_>, Vec<_>) =
            parts.into_iter().map(|Incoming { part, permit }| (part, permit)).unzip();
        let (next, ended) = ctx
            .store
            .blocking("ingest", move |_| {
                let ended = ingest.take(parts)?;
                Ok::<_, PublishError>((ingest, ended))
            })
            .await?;
        ingest = next;
        drop(permits);
        if ingest.figures.written - looked_at > may_write {
            looked_at = ingest.figures.written;
            may_write = check_room(ctx, 1).await?;
            quota::check(ctx, whose, ingest.builder.size(), None).await?;
        }
        if ended {
            break;
        }
        if flushed_at.elapsed() >= FLUSH_INTERVAL {
            ctx.store.flush().await.map_err(PublishError::from)?;
            flushed_at = Instant::now();
        }
        out.try_event(Event::Progress(ingest.progress(expected)));
    }
    let (built, figures) = ctx.store.blocking("ingest", move |_| ingest.finish()).await?;
    quota::check(ctx, whose, built.size, Some(built.manifest)).await?;
    ctx.store.apply_leased(Command::Stage(built.manifest), lease).await.map_err(PublishError::from)?;
    let Built { manifest, content, size, n_files, n_chunks } = built;
    log::info!(
        manifest = manifest.short(), bytes = size, files = n_files, new_bytes = figures.new_bytes;
        "content is stored for a version"
    );
    let Figures { new_bytes, stored_bytes, referenced: referenced_bytes, .. } = figures;
    let staged = Staged { manifest, content, size, n_files, n_chunks, new_bytes, stored_bytes, referenced_bytes };
    out.event(Event::Staged(staged)).await
}
