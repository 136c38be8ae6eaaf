//! What is in the catalog: topics, datasets, versions, search. Lists are read in steps, so that a page of large records
//! is never in memory as a whole.

use bib_core::api::request::Paging;
use bib_core::api::{ErrorCode, Event, Failure};
use bib_core::catalog::list::{self, DatasetItem, Listed, TopicItem, VersionItem};
use bib_core::catalog::resolve::{self, ResolveError};
use bib_core::limits::{DEFAULT_PAGE, LIST_STEP, MAX_MEMBERS, MAX_PAGE};
use bib_core::model::{Reference, TopicPath};
use bib_core::port::{CatalogRead, StoreError};
use bib_core::wire::message::FindQuery;

use super::store_failure;
use crate::control::Output;
use crate::node::Context;

/// Why the catalog gives no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CatalogError {
    /// A path or reference means nothing, or not one thing.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
}

impl From<StoreError> for CatalogError {
    fn from(error: StoreError) -> Self {
        Self::Resolve(error.into())
    }
}

impl From<CatalogError> for Failure {
    fn from(CatalogError::Resolve(error): CatalogError) -> Self {
        let failure = |code| Self::new(code, error.to_string());
        match &error {
            ResolveError::Store(error) => store_failure(error),
            ResolveError::NoTopic { .. } => {
                failure(ErrorCode::NotFound).hinted("`bib topic list` shows the topics that this node knows")
            }
            ResolveError::NoDataset { topic, .. } => failure(ErrorCode::NotFound)
                .hinted(format!("`bib dataset list {topic}` shows what is there, `bib find` searches everywhere")),
            ResolveError::NoVersions { dataset } => {
                failure(ErrorCode::NotFound).hinted(format!("publish one: `bib publish <path> {dataset}`"))
            }
            ResolveError::NoVersion { dataset, latest, .. } => {
                let hint = match latest {
                    Some(latest) => format!("the latest is {latest}; `bib dataset versions {dataset}` shows all"),
                    None => format!("`bib dataset versions {dataset}` shows all"),
                };
                failure(ErrorCode::NotFound).hinted(hint)
            }
            ResolveError::Ambiguous { .. } => failure(ErrorCode::Invalid).hinted("write one of these instead"),
            _ => failure(ErrorCode::Internal),
        }
    }
}

type Result<T, E = Failure> = std::result::Result<T, E>;

fn topic_event(TopicItem { path, topic, n_datasets }: TopicItem) -> Event {
    Event::Topic { path, topic: Box::new(topic), n_datasets }
}

fn dataset_event(DatasetItem { path, dataset, latest, is_here }: DatasetItem) -> Event {
    Event::Dataset { path, dataset: Box::new(dataset), latest: latest.map(Box::new), here: is_here }
}

fn version_event(VersionItem { path, version, is_here }: VersionItem) -> Event {
    Event::Version { path, version: Box::new(version), here: is_here }
}

async fn one<T: Send + 'static>(
    ctx: &Context,
    out: &Output,
    read: impl FnOnce(&dyn CatalogRead) -> Result<T, ResolveError> + Send + 'static,
    event: fn(T) -> Event,
) -> Result<()> {
    let item = ctx.store.read(move |snapshot| read(snapshot).map_err(CatalogError::from)).await?;
    out.event(event(item)).await
}

/// Yields a page of a list in steps, then how many there are in all.
async fn page<T: Send + 'static, E: Into<CatalogError>>(
    ctx: &Context,
    out: &Output,
    paging: Paging,
    read: impl Fn(&dyn CatalogRead, Paging) -> Result<Listed<T>, E> + Clone + Send + 'static,
    event: fn(T) -> Event,
) -> Result<()> {
    let limit = if paging.limit == 0 { DEFAULT_PAGE } else { paging.limit.min(MAX_PAGE) };
    let mut done = 0;
    loop {
        let step = Paging { limit: (limit - done).min(LIST_STEP), offset: paging.offset.saturating_add(done) };
        let read = read.clone();
        let listed = ctx.store.read(move |snapshot| read(snapshot, step).map_err(E::into)).await?;
        let is_last = listed.items.len() < step.limit as usize;
        done += step.limit;
        for item in listed.items {
            out.event(event(item)).await?;
        }
        if is_last || done >= limit {
            return out.event(Event::Total(listed.total)).await;
        }
    }
}

pub(crate) async fn topic(ctx: &Context, path: TopicPath, out: &Output) -> Result<()> {
    one(ctx, out, move |read| list::topic(read, &path), topic_event).await
}

pub(crate) async fn topics(ctx: &Context, under: Option<TopicPath>, paging: Paging, out: &Output) -> Result<()> {
    page(ctx, out, paging, move |read, paging| list::topics(read, under.as_ref(), paging), topic_event).await
}

pub(crate) async fn members(ctx: &Context, path: TopicPath, out: &Output) -> Result<()> {
    let (topic, grants) = ctx
        .store
        .read(move |read| {
            let topic = resolve::topic_by_path(read, &path)?;
            let grants = list::members(read, &topic.id, MAX_MEMBERS)?;
            Ok::<_, CatalogError>((topic.id, grants))
        })
        .await?;
    out.event(Event::Members { topic, grants }).await
}

pub(crate) async fn dataset(ctx: &Context, reference: Reference, out: &Output) -> Result<()> {
    one(ctx, out, move |read| list::dataset(read, &reference), dataset_event).await
}

pub(crate) async fn datasets(ctx: &Context, under: Option<TopicPath>, paging: Paging, out: &Output) -> Result<()> {
    page(ctx, out, paging, move |read, paging| list::datasets(read, under.as_ref(), paging), dataset_event).await
}

pub(crate) async fn versions(ctx: &Context, reference: Reference, paging: Paging, out: &Output) -> Result<()> {
    page(ctx, out, paging, move |read, paging| list::versions(read, &reference, paging), version_event).await
}

pub(crate) async fn version(ctx: &Context, reference: Reference, out: &Output) -> Result<()> {
    one(ctx, out, move |read| list::version(read, &reference), version_event).await
}

pub(crate) async fn find(ctx: &Context, query: FindQuery, out: &Output) -> Result<()> {
    let paging = Paging { limit: query.limit, offset: query.offset };
    let read = move |read: &dyn CatalogRead, Paging { limit, offset }| {
        list::find(read, &FindQuery { limit, offset, ..query.clone() })
    };
    page::<_, StoreError>(ctx, out, paging, read, Event::Found).await
}

/// The version that a reference means, and whether all of its content is here.
pub(crate) async fn resolve_version(ctx: &Context, reference: &Reference) -> Result<VersionItem> {
    let reference = reference.clone();
    Ok(ctx.store.read(move |read| list::version(read, &reference).map_err(CatalogError::from)).await?)
}
