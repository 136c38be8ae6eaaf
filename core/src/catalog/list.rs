//! Lists of what is in the catalog, by pages.
//!
//! Invariant: memory is bounded by the page, never by the catalog. Topics come in the order of their paths, each before
//! those below it; datasets in the order of topics and then of names. What is deleted, and what lies in a deleted topic,
//! is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use crate::api::request::Paging;
use crate::catalog::record::{self, ParkedFigures, corrupt, number};
use crate::catalog::resolve::{self, ResolveError, topic_by_path, topic_path};
use crate::catalog::{content, keys, log};
use crate::id::{DatasetId, ManifestId, OpId, TopicId, UserId, VersionId};
use crate::limits;
use crate::model::{Dataset, Reference, Topic, TopicPath, Version, VersionStatus};
use crate::op::{Class, Resource, Role};
use crate::port::{CatalogRead, Order, StoreError, Table};
use crate::time::Timestamp;
use crate::wire::message::{CatalogEntry, EntryVersion, FindQuery, OpKey};

/// A page, and how many there are in all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed<T> {
    /// The page.
    pub items: Vec<T>,
    /// In all.
    pub total: u64,
}

/// A topic in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicItem {
    /// `topic/sub`.
    pub path: String,
    /// The topic.
    pub topic: Topic,
    /// Datasets in it, without those of the topics below.
    pub n_datasets: u64,
}

/// A dataset in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetItem {
    /// `topic/sub/dataset`.
    pub path: String,
    /// The dataset.
    pub dataset: Dataset,
    /// Its latest version.
    pub latest: Option<Version>,
    /// Whether all content of the latest version is here.
    pub is_here: bool,
}

/// A version in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionItem {
    /// `topic/sub/dataset`.
    pub path: String,
    /// The version.
    pub version: Version,
    /// Whether all its content is here.
    pub is_here: bool,
}

/// Numbers of what is in the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Topics.
    pub n_topics: u64,
    /// Datasets.
    pub n_datasets: u64,
    /// Versions.
    pub n_versions: u64,
    /// Operations.
    pub n_ops: u64,
    /// Operations that wait for others or for their time.
    pub n_parked: u64,
}

/// A right on a topic or one above it: resource, user, role, end.
pub type Member = (Resource, UserId, Role, Option<Timestamp>);

/// Some versions of a long list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Missing {
    /// The versions.
    pub versions: Vec<Version>,
    /// Where to go on; `None` at the end of the catalog. A page may be empty and yet have others after it.
    pub next: Option<VersionId>,
}

/// The part of a long list that a page shows.
struct Window {
    begin: u64,
    end: u64,
    seen: u64,
}

impl Window {
    fn new(paging: Paging) -> Self {
        let begin = u64::from(paging.offset);
        Self { begin, end: begin + u64::from(paging.limit.min(limits::MAX_PAGE)), seen: 0 }
    }

    /// Counts one; returns whether it is on the page.
    const fn takes(&mut self) -> bool {
        let i = self.seen;
        self.seen += 1;
        self.begin <= i && i < self.end
    }

    /// Whether any of the next `n` is on the page.
    const fn meets(&self, n: u64) -> bool {
        self.seen < self.end && self.seen.saturating_add(n) > self.begin
    }
}

type VisitTopic<'a> = dyn FnMut(&str, TopicId) -> Result<(), StoreError> + 'a;
type VisitName<'a> = dyn FnMut(&str, OpId) -> Result<ControlFlow<()>, StoreError> + 'a;
type VisitDataset<'a> = dyn FnMut(&str, DatasetId) -> Result<ControlFlow<()>, StoreError> + 'a;

/// Name and position in a key of `TopicNames` or `DatasetNames`.
fn name_in(key: &[u8]) -> Result<(&str, OpKey), StoreError> {
    let bad = || corrupt("the key of a name");
    let at = keys::position_of(key).ok_or_else(bad)?;
    let name = key.get(32..key.len() - keys::POSITION_LEN - 1).ok_or_else(bad)?;
    Ok((std::str::from_utf8(name).map_err(|_| bad())?, at))
}

/// Shows the entries of one level with their names as they are shown in paths: the first of a name holds it.
fn visit_names(
    read: &dyn CatalogRead,
    table: Table,
    prefix: &[u8],
    short_id: fn(OpId) -> String,
    visit: &mut VisitName<'_>,
) -> Result<(), StoreError> {
    let mut holder = String::new();
    record::visit_prefix(read, table, prefix, Order::Ascending, &mut |key, _| {
        let (name, (_, id)) = name_in(key)?;
        if name == holder {
            return visit(&format!("{name}~{}", short_id(id)), id);
        }
        name.clone_into(&mut holder);
        visit(name, id)
    })
}

/// Shows the topics below one, each before those below it. At most eight levels deep, since topics are.
fn walk(
    read: &dyn CatalogRead,
    above: Option<&TopicId>,
    path: &str,
    depth: usize,
    visit: &mut VisitTopic<'_>,
) -> Result<(), StoreError> {
    if depth >= limits::MAX_TOPIC_DEPTH {
        return Ok(());
    }
    let short_id = |id: OpId| TopicId::from(id).short();
    visit_names(read, Table::TopicNames, &keys::topics_below(above), short_id, &mut |name, id| {
        let id = TopicId::from(id);
        let path = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
        visit(&path, id)?;
        walk(read, Some(&id), &path, depth + 1, visit)?;
        Ok(ControlFlow::Continue(()))
    })
}

fn visit_datasets(
    read: &dyn CatalogRead,
    (path, topic): (&str, &TopicId),
    visit: &mut VisitDataset<'_>,
) -> Result<(), StoreError> {
    let short_id = |id: OpId| DatasetId::from(id).short();
    visit_names(read, Table::DatasetNames, &keys::datasets_in(topic), short_id, &mut |name, id| {
        visit(&format!("{path}/{name}"), id.into())
    })
}

fn n_datasets(read: &dyn CatalogRead, topic: &TopicId) -> Result<u64, StoreError> {
    number(read, Table::Meta, &keys::dataset_count(topic))
}

/// The topic that a path leads to.
///
/// # Errors
/// [`ResolveError`] unless the path means one topic.
pub fn topic(read: &dyn CatalogRead, path: &TopicPath) -> Result<TopicItem, ResolveError> {
    let topic = topic_by_path(read, path)?;
    let shown = topic_path(read, &topic.id)?.unwrap_or_else(|| path.to_string());
    let n_datasets = n_datasets(read, &topic.id)?;
    Ok(TopicItem { path: shown, topic, n_datasets })
}

/// The topics below one at any depth, or all of them.
///
/// # Errors
/// [`ResolveError`] when `under` does not mean one topic, or the store cannot be read.
pub fn topics(
    read: &dyn CatalogRead,
    under: Option<&TopicPath>,
    paging: Paging,
) -> Result<Listed<TopicItem>, ResolveError> {
    let above = under.map(|path| topic(read, path)).transpose()?;
    let (mut window, mut items) = (Window::new(paging), Vec::new());
    let path = above.as_ref().map_or("", |above| above.path.as_str());
    walk(read, above.as_ref().map(|above| &above.topic.id), path, 0, &mut |path, id| {
        if window.takes() {
            let topic = record::topic(read, &id)?.ok_or_else(|| corrupt("a topic"))?;
            items.push(TopicItem { path: path.to_owned(), topic, n_datasets: n_datasets(read, &id)? });
        }
        Ok(())
    })?;
    Ok(Listed { items, total: window.seen })
}

/// The dataset that a reference means.
///
/// # Errors
/// [`ResolveError`] unless it means one.
pub fn dataset(read: &dyn CatalogRead, reference: &Reference) -> Result<DatasetItem, ResolveError> {
    let (path, dataset) = resolve::dataset(read, reference)?;
    Ok(dataset_item(read, path, dataset)?)
}

fn dataset_item(read: &dyn CatalogRead, path: String, dataset: Dataset) -> Result<DatasetItem, StoreError> {
    let latest = latest_of(read, &dataset)?;
    let is_here = match &latest {
        Some(version) => content::is_here(read, &version.manifest)?,
        None => false,
    };
    Ok(DatasetItem { path, dataset, latest, is_here })
}

fn latest_of(read: &dyn CatalogRead, dataset: &Dataset) -> Result<Option<Version>, StoreError> {
    dataset.latest.map(|id| record::version(read, &id)?.ok_or_else(|| corrupt("a version"))).transpose()
}

/// The datasets of a topic and those below it, or all of them.
///
/// # Errors
/// [`ResolveError`] when `under` does not mean one topic, or the store cannot be read.
pub fn datasets(
    read: &dyn CatalogRead,
    under: Option<&TopicPath>,
    paging: Paging,
) -> Result<Listed<DatasetItem>, ResolveError> {
    let above = under.map(|path| topic(read, path)).transpose()?;
    let (mut window, mut items) = (Window::new(paging), Vec::new());
    let mut of_topic = |path: &str, id: TopicId| {
        let n = n_datasets(read, &id)?;
        if !window.meets(n) {
            window.seen += n;
            return Ok(());
        }
        let all = window.seen + n;
        visit_datasets(read, (path, &id), &mut |path, id| {
            if window.takes() {
                let dataset = record::dataset(read, &id)?.ok_or_else(|| corrupt("a dataset"))?;
                items.push(dataset_item(read, path.to_owned(), dataset)?);
            }
            Ok(if window.seen < window.end { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        window.seen = all;
        Ok(())
    };
    let (path, id) = above.as_ref().map_or(("", None), |above| (above.path.as_str(), Some(&above.topic.id)));
    if let Some(id) = id {
        of_topic(path, *id)?;
    }
    walk(read, id, path, 0, &mut of_topic)?;
    Ok(Listed { items, total: window.seen })
}

/// The versions of a dataset, newest first.
///
/// # Errors
/// [`ResolveError`] unless the reference means one dataset.
pub fn versions(
    read: &dyn CatalogRead,
    reference: &Reference,
    paging: Paging,
) -> Result<Listed<VersionItem>, ResolveError> {
    let (path, dataset) = resolve::dataset(read, reference)?;
    let (mut window, mut items) = (Window::new(paging), Vec::new());
    let prefix = keys::versions_of(&dataset.id);
    record::visit_prefix(read, Table::VersionOrder, &prefix, Order::Descending, &mut |key, _| {
        if window.takes() {
            let (_, id) = keys::position_of(key).ok_or_else(|| corrupt("the key of a version"))?;
            items.push(version_item(read, path.clone(), &id.into())?);
        }
        Ok(if window.seen < window.end { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    Ok(Listed { items, total: u64::from(dataset.version_count) })
}

fn version_item(read: &dyn CatalogRead, path: String, id: &VersionId) -> Result<VersionItem, StoreError> {
    let version = record::version(read, id)?.ok_or_else(|| corrupt("a version"))?;
    let is_here = content::is_here(read, &version.manifest)?;
    Ok(VersionItem { path, version, is_here })
}

/// The version that a reference means.
///
/// # Errors
/// [`ResolveError`] unless it means one.
pub fn version(read: &dyn CatalogRead, reference: &Reference) -> Result<VersionItem, ResolveError> {
    let (path, version) = resolve::version(read, reference)?;
    let is_here = content::is_here(read, &version.manifest)?;
    Ok(VersionItem { path, version, is_here })
}

/// What is asked of each dataset in a search.
struct Filter<'a> {
    words: Vec<String>,
    query: &'a FindQuery,
}

impl<'a> Filter<'a> {
    fn new(query: &'a FindQuery) -> Self {
        let text = query.text.as_deref().unwrap_or_default().to_lowercase();
        Self { words: text.split_whitespace().map(str::to_owned).collect(), query }
    }

    /// Whether every dataset of a topic that is looked at is meant.
    const fn is_all(&self) -> bool {
        self.words.is_empty() && self.query.tag.is_none() && self.query.format.is_none()
    }

    fn takes_topic(&self, path: &str) -> bool {
        let Some(prefix) = self.query.topic.as_deref().map(|text| text.trim_end_matches('/')) else { return true };
        path.strip_prefix(prefix).is_some_and(|rest| prefix.is_empty() || rest.is_empty() || rest.starts_with('/'))
    }

    fn takes(&self, read: &dyn CatalogRead, dataset: &Dataset) -> Result<bool, StoreError> {
        if self.query.tag.as_ref().is_some_and(|tag| !dataset.tags.contains(tag)) {
            return Ok(false);
        }
        if !self.words.is_empty() {
            let name = dataset.name.as_str().to_lowercase();
            let description = dataset.description.to_lowercase();
            let tags: Vec<String> = dataset.tags.iter().map(|tag| tag.to_lowercase()).collect();
            let has = |word: &String| {
                let word = word.as_str();
                name.contains(word) || description.contains(word) || tags.iter().any(|tag| tag.contains(word))
            };
            if !self.words.iter().all(has) {
                return Ok(false);
            }
        }
        let Some(format) = self.query.format else { return Ok(true) };
        Ok(latest_of(read, dataset)?.is_some_and(|latest| latest.format == format))
    }
}

/// Searches the datasets.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn find(read: &dyn CatalogRead, query: &FindQuery) -> Result<Listed<CatalogEntry>, StoreError> {
    let filter = Filter::new(query);
    let paging = Paging { limit: query.limit, offset: query.offset };
    let (mut window, mut items) = (Window::new(paging), Vec::new());
    walk(read, None, "", 0, &mut |path, topic| {
        if !filter.takes_topic(path) {
            return Ok(());
        }
        let n = n_datasets(read, &topic)?;
        if filter.is_all() && !window.meets(n) {
            window.seen += n;
            return Ok(());
        }
        visit_datasets(read, (path, &topic), &mut |path, id| {
            let is_counted_only = filter.is_all() && !window.meets(1);
            if is_counted_only {
                window.takes();
                return Ok(ControlFlow::Continue(()));
            }
            let dataset = record::dataset(read, &id)?.ok_or_else(|| corrupt("a dataset"))?;
            if filter.takes(read, &dataset)? && window.takes() {
                items.push(entry(read, path, &dataset)?);
            }
            Ok(ControlFlow::Continue(()))
        })
    })?;
    Ok(Listed { items, total: window.seen })
}

/// A dataset as search and discovery show it.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn entry(read: &dyn CatalogRead, path: &str, dataset: &Dataset) -> Result<CatalogEntry, StoreError> {
    let version = latest_of(read, dataset)?.map(|latest| EntryVersion {
        id: latest.id,
        semver: latest.semver,
        content: latest.content,
        manifest: latest.manifest,
        size: latest.size,
        format: latest.format,
    });
    Ok(CatalogEntry {
        topic: dataset.topic,
        path: path.to_owned(),
        dataset: dataset.id,
        version,
        updated_at: dataset.updated_at,
    })
}

/// The rights on a topic: those given on it, then those on the topics above it, at most `limit`. Expired ones are
/// included, since their time is told.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn members(read: &dyn CatalogRead, topic: &TopicId, limit: usize) -> Result<Vec<Member>, StoreError> {
    let (mut found, mut at) = (Vec::new(), Some(*topic));
    while let Some(id) = at {
        let resource = Resource::Topic(id);
        let prefix = keys::grants_on(&resource);
        record::visit_prefix(read, Table::Grants, &prefix, Order::Ascending, &mut |key, value| {
            let user = key.get(prefix.len()..).and_then(UserId::from_slice).ok_or_else(|| corrupt("a grant"))?;
            let grants: record::Grants = record::read_value(value)?;
            let room = limit.saturating_sub(found.len());
            found.extend(grants.0.into_iter().rev().take(room).map(|(role, end)| (resource, user, role, end)));
            Ok(if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        at = record::topic(read, &id)?.and_then(|topic| topic.parent);
    }
    Ok(found)
}

/// Numbers of what is in the catalog, without reading it.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn counts(read: &dyn CatalogRead) -> Result<Counts, StoreError> {
    let parked: ParkedFigures = record::get(read, Table::Parked, keys::PARKED_TOTAL)?.unwrap_or_default();
    Ok(Counts {
        n_topics: read.len(Table::TopicNames)?,
        n_datasets: read.len(Table::DatasetNames)?,
        n_versions: read.len(Table::Versions)?,
        n_ops: read.len(Table::Ops)?,
        n_parked: parked.count,
    })
}

/// Active versions whose content is not here, by id, at most `limit`, looking at no more than
/// [`limits::MAX_SCANNED`]: what a node that keeps everything has to fetch.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn versions_missing(
    read: &dyn CatalogRead,
    after: Option<&VersionId>,
    limit: usize,
) -> Result<Missing, StoreError> {
    let after = after.map(|id| id.as_bytes().as_slice());
    let page = record::keys_after(read, Table::Versions, &[], after, limits::MAX_SCANNED)?;
    let mut missing = Missing::default();
    let mut is_shown: BTreeMap<TopicId, bool> = BTreeMap::new();
    for key in &page {
        let id = VersionId::from_slice(key).ok_or_else(|| corrupt("the key of a version"))?;
        if missing.versions.len() == limit {
            return Ok(missing);
        }
        missing.next = Some(id);
        let version = record::version(read, &id)?.ok_or_else(|| corrupt("a version"))?;
        if version.status != VersionStatus::Active || content::is_here(read, &version.manifest)? {
            continue;
        }
        let is_shown = match is_shown.get(&version.topic) {
            Some(known) => *known,
            None => {
                let known = topic_path(read, &version.topic)?.is_some();
                is_shown.insert(version.topic, known);
                known
            }
        };
        if is_shown {
            missing.versions.push(version);
        }
    }
    if page.len() < limits::MAX_SCANNED {
        missing.next = None;
    }
    Ok(missing)
}

/// Versions whose content is one of some, by id, looking at no more than [`limits::MAX_SCANNED`] versions.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn versions_of_manifests(
    read: &dyn CatalogRead,
    after: Option<&VersionId>,
    manifests: &BTreeSet<ManifestId>,
) -> Result<Missing, StoreError> {
    let after = after.map(|id| id.as_bytes().as_slice());
    let page = record::keys_after(read, Table::Versions, &[], after, limits::MAX_SCANNED)?;
    let mut found = Missing::default();
    for key in &page {
        let id = VersionId::from_slice(key).ok_or_else(|| corrupt("the key of a version"))?;
        found.next = Some(id);
        let version = record::version(read, &id)?.ok_or_else(|| corrupt("a version"))?;
        if manifests.contains(&version.manifest) {
            found.versions.push(version);
            if found.versions.len() >= limits::REPLICATE_PAGE {
                return Ok(found);
            }
        }
    }
    if page.len() < limits::MAX_SCANNED {
        found.next = None;
    }
    Ok(found)
}

/// The operations of a topic, of both classes, newest first.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn ops(read: &dyn CatalogRead, topic: &TopicId, paging: Paging) -> Result<Listed<OpId>, StoreError> {
    let mut window = Window::new(paging);
    let mut logs = [Class::Access, Class::Content].map(|class| Backwards { class, before: None, page: Vec::new() });
    let mut items = Vec::new();
    while window.seen < window.end {
        for log in &mut logs {
            log.fill(read, topic)?;
        }
        let [access, content] = &mut logs;
        let next = if access.page.last() > content.page.last() { access.page.pop() } else { content.page.pop() };
        let Some((_, id)) = next else { break };
        if window.takes() {
            items.push(id);
        }
    }
    let mut total = 0;
    for class in [Class::Access, Class::Content] {
        total += log::figures(read, topic, class)?.count;
    }
    Ok(Listed { items, total })
}

/// A log from its end, a page at a time.
struct Backwards {
    class: Class,
    before: Option<Vec<u8>>,
    /// Ascending.
    page: Vec<OpKey>,
}

impl Backwards {
    fn fill(&mut self, read: &dyn CatalogRead, topic: &TopicId) -> Result<(), StoreError> {
        if !self.page.is_empty() {
            return Ok(());
        }
        let prefix = keys::log_prefix(topic, self.class);
        let end = self.before.take().or_else(|| keys::after_prefix(&prefix));
        let upper = end.as_deref().map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let (mut page, mut is_damaged) = (Vec::new(), false);
        read.scan(Table::OpOrder, (std::ops::Bound::Included(&prefix), upper), Order::Descending, &mut |key, _| {
            match keys::position_of(key) {
                Some(at) => page.push(at),
                None => is_damaged = true,
            }
            let is_full = is_damaged || page.len() == limits::MAX_OPS_PER_REQUEST;
            if is_full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if is_damaged {
            return Err(corrupt("a position"));
        }
        page.reverse();
        // An empty page stays so: what is before its beginning is nothing.
        self.before = Some(page.first().map_or(prefix, |at| keys::op_order(topic, self.class, *at)));
        self.page = page;
        Ok(())
    }
}
