//! What a path or a reference means here.
//!
//! A name means the one that holds it: the oldest by position, tombstones left out. Any one is meant by `name~` and the
//! beginning of its id. What was deleted, and what lies in a deleted topic, is not found by name.

use std::ops::ControlFlow;

use crate::catalog::{keys, record};
use crate::id::{DatasetId, OpId, TopicId, VersionId};
use crate::limits;
use crate::model::name::Segment;
use crate::model::{Dataset, DatasetStatus, Reference, Topic, TopicPath, TopicStatus, Version, VersionSelector};
use crate::port::{CatalogRead, Order, StoreError, Table};

/// Why a path or reference means nothing here, or not one thing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// No topic has the path.
    #[error("there is no topic `{path}`")]
    NoTopic {
        /// The path, as far as it leads to what is not there.
        path: TopicPath,
    },
    /// The topic has no such dataset.
    #[error("there is no dataset `{dataset}` in `{topic}`")]
    NoDataset {
        /// Path of the topic.
        topic: String,
        /// What was asked for in it.
        dataset: Segment,
    },
    /// The dataset has no version yet, or none that counts any more.
    #[error("`{dataset}` has no version yet")]
    NoVersions {
        /// Path of the dataset.
        dataset: String,
    },
    /// The dataset has versions, but not this one.
    #[error("`{dataset}` has no version `{version}`")]
    NoVersion {
        /// Path of the dataset.
        dataset: String,
        /// What was asked for.
        version: VersionSelector,
        /// Number of the latest one.
        latest: Option<semver::Version>,
    },
    /// The beginning of an id fits several.
    #[error("`{text}` can mean {}", .candidates.join(" or "))]
    Ambiguous {
        /// What was asked for.
        text: String,
        /// What it can mean, in a form that means one thing; the first of them.
        candidates: Vec<String>,
    },
    /// The catalog cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ResolveError {
    /// Whether there is no such thing, so that making it is a way on.
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::NoTopic { .. } | Self::NoDataset { .. } | Self::NoVersions { .. } | Self::NoVersion { .. })
    }
}

/// The ids under a name, oldest first, at most [`limits::MAX_CANDIDATES`] that fit `fits`.
fn named(
    read: &dyn CatalogRead,
    table: Table,
    prefix: &[u8],
    mut fits: impl FnMut(&OpId) -> bool,
) -> Result<Vec<OpId>, StoreError> {
    let mut found = Vec::new();
    record::visit_prefix(read, table, prefix, Order::Ascending, &mut |key, _| {
        let (_, id) = keys::position_of(key).ok_or_else(|| record::corrupt("the key of a name"))?;
        if fits(&id) {
            found.push(id);
        }
        Ok(if found.len() < limits::MAX_CANDIDATES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    Ok(found)
}

/// Whether the text of an id begins with `wanted`; `letter` is the one before it. Without making the text, since there
/// may be many to look at.
fn begins_with(id: &OpId, letter: u8, wanted: &str) -> bool {
    let Some((first, rest)) = wanted.as_bytes().split_first() else { return true };
    let bit = |n: usize| id.as_bytes().get(n / 8).is_some_and(|byte| byte >> (7 - n % 8) & 1 == 1);
    let digit = |i: usize| (0..5).fold(0, |digit, b| digit << 1 | u8::from(bit(i * 5 + b)));
    let value = |c: u8| match c {
        b'a'..=b'z' => Some(c - b'a'),
        b'2'..=b'7' => Some(c - b'2' + 26),
        _ => None,
    };
    *first == letter && rest.len() <= 52 && rest.iter().enumerate().all(|(i, c)| value(*c) == Some(digit(i)))
}

/// The one that a segment means among those of its name. `show` is the text of an id, which begins with `letter`.
fn choose(
    read: &dyn CatalogRead,
    table: Table,
    prefix: &[u8],
    segment: &Segment,
    (letter, show): (u8, &dyn Fn(&OpId) -> String),
) -> Result<Option<OpId>, ResolveError> {
    let Some(wanted) = &segment.id_prefix else {
        // The first of a name holds it.
        let first = record::keys_after(read, table, prefix, None, 1)?;
        return Ok(first.first().and_then(|key| keys::position_of(key)).map(|(_, id)| id));
    };
    let found = named(read, table, prefix, |id| begins_with(id, letter, wanted))?;
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(*one)),
        several => Err(ResolveError::Ambiguous {
            text: segment.to_string(),
            candidates: several.iter().map(|id| format!("{}~{}", segment.name, show(id))).collect(),
        }),
    }
}

/// The topic that a path leads to.
///
/// # Errors
/// [`ResolveError::NoTopic`], [`ResolveError::Ambiguous`], [`ResolveError::Store`].
pub fn topic_by_path(read: &dyn CatalogRead, path: &TopicPath) -> Result<Topic, ResolveError> {
    let mut at: Option<Topic> = None;
    for (i, segment) in path.names.iter().enumerate() {
        let above = at.as_ref().map(|topic| topic.id);
        let prefix = keys::topic_name_prefix(above.as_ref(), &segment.name);
        let show = |id: &OpId| TopicId::from(*id).to_string();
        let Some(id) = choose(read, Table::TopicNames, &prefix, segment, (b't', &show))? else {
            return Err(ResolveError::NoTopic { path: TopicPath { names: path.names[..=i].to_vec() } });
        };
        at = Some(record::topic(read, &id.into())?.ok_or_else(|| record::corrupt("a topic"))?);
    }
    at.ok_or_else(|| ResolveError::NoTopic { path: path.clone() })
}

/// A segment of a path as it is shown: with the beginning of the id where the name is held by another.
pub fn shown_name(name: &crate::model::Name, is_taken: bool, short_id: impl FnOnce() -> String) -> String {
    if is_taken { format!("{name}~{}", short_id()) } else { name.to_string() }
}

/// The path of a topic, as `topic/sub`; `None` when it, or one above it, is not in the catalog or deleted.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn topic_path(read: &dyn CatalogRead, id: &TopicId) -> Result<Option<String>, StoreError> {
    let mut names = Vec::new();
    let mut at = Some(*id);
    while let Some(id) = at {
        let Some(topic) = record::topic(read, &id)? else { return Ok(None) };
        if topic.status == TopicStatus::Deleted || names.len() > limits::MAX_TOPIC_DEPTH {
            return Ok(None);
        }
        names.push(shown_name(&topic.name, topic.name_taken, || topic.id.short()));
        at = topic.parent;
    }
    names.reverse();
    Ok(Some(names.join("/")))
}

/// The path of a dataset, as `topic/sub/dataset`; `None` when it or a topic above it is deleted.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn dataset_path(read: &dyn CatalogRead, dataset: &Dataset) -> Result<Option<String>, StoreError> {
    if dataset.status == DatasetStatus::Deleted {
        return Ok(None);
    }
    let topic = topic_path(read, &dataset.topic)?;
    Ok(topic.map(|topic| format!("{topic}/{}", shown_name(&dataset.name, dataset.name_taken, || dataset.id.short()))))
}

/// The dataset that a reference means, with its path; version and path in it are ignored.
///
/// # Errors
/// [`ResolveError`] unless it means one dataset.
pub fn dataset(read: &dyn CatalogRead, reference: &Reference) -> Result<(String, Dataset), ResolveError> {
    let topic = topic_by_path(read, &reference.topic)?;
    let prefix = keys::dataset_name_prefix(&topic.id, &reference.dataset.name);
    let show = |id: &OpId| DatasetId::from(*id).to_string();
    let missing = || ResolveError::NoDataset { topic: reference.topic.to_string(), dataset: reference.dataset.clone() };
    let id = choose(read, Table::DatasetNames, &prefix, &reference.dataset, (b'd', &show))?.ok_or_else(missing)?;
    let dataset = record::dataset(read, &id.into())?.ok_or_else(|| record::corrupt("a dataset"))?;
    let path = dataset_path(read, &dataset)?.ok_or_else(missing)?;
    Ok((path, dataset))
}

/// The version that a reference means, with the path of its dataset.
///
/// # Errors
/// [`ResolveError`] unless it means one version.
pub fn version(read: &dyn CatalogRead, reference: &Reference) -> Result<(String, Version), ResolveError> {
    let (path, dataset) = dataset(read, reference)?;
    if dataset.version_count == 0 {
        return Err(ResolveError::NoVersions { dataset: path });
    }
    let found = match &reference.version {
        VersionSelector::Latest => dataset.latest,
        VersionSelector::Exact(number) => {
            let prefix = keys::version_number_prefix(&dataset.id, number);
            let first = record::keys_after(read, Table::VersionNumbers, &prefix, None, 1)?;
            first.first().and_then(|key| keys::position_of(key)).map(|(_, id)| id.into())
        }
        VersionSelector::Prefix(major, minor) => {
            let within =
                |is_release| highest_active(read, &keys::numbers_within(&dataset.id, is_release, *major, *minor));
            match within(true)? {
                None => within(false)?,
                found => found,
            }
        }
        VersionSelector::Id(wanted) => by_id(read, &path, &dataset, wanted)?,
    };
    let Some(id) = found else {
        let latest = dataset.latest.map(|id| record::version(read, &id)).transpose()?.flatten();
        let latest = latest.map(|latest| latest.semver);
        return Err(ResolveError::NoVersion { dataset: path, version: reference.version.clone(), latest });
    };
    let version = record::version(read, &id)?.ok_or_else(|| record::corrupt("a version"))?;
    Ok((path, version))
}

/// The highest active version whose key in `VersionNumbers` begins with `prefix`; of several with one number the one
/// that holds it, or the oldest active one.
pub(crate) fn highest_active(read: &dyn CatalogRead, prefix: &[u8]) -> Result<Option<VersionId>, StoreError> {
    let mut number = None;
    record::visit_prefix(read, Table::VersionNumbers, prefix, Order::Descending, &mut |key, value| {
        if value == [0] {
            number = key.len().checked_sub(keys::POSITION_LEN).map(|len| key[..len].to_vec());
        }
        Ok(if number.is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    let Some(number) = number else { return Ok(None) };
    let mut found = None;
    record::visit_prefix(read, Table::VersionNumbers, &number, Order::Ascending, &mut |key, value| {
        if value == [0] {
            found = Some(keys::position_of(key).ok_or_else(|| record::corrupt("the key of a version"))?.1);
        }
        Ok(if found.is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    Ok(found.map(VersionId::from))
}

fn by_id(
    read: &dyn CatalogRead,
    path: &str,
    dataset: &Dataset,
    wanted: &str,
) -> Result<Option<VersionId>, ResolveError> {
    let fits = |id: &OpId| begins_with(id, b'v', wanted);
    let found = named(read, Table::VersionOrder, &keys::versions_of(&dataset.id), fits)?;
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some((*one).into())),
        several => Err(ResolveError::Ambiguous {
            text: format!("{path}@{wanted}"),
            candidates: several.iter().map(|id| format!("{path}@{}", VersionId::from(*id))).collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginning_of_an_id_is_found_as_in_its_text() {
        let id = OpId::from_bytes(std::array::from_fn(|i| (i as u8).wrapping_mul(37).wrapping_add(11)));
        let text = DatasetId::from(id).to_string();
        for len in 0..=text.len() {
            assert!(begins_with(&id, b'd', &text[..len]), "{len}");
        }
        for (i, c) in text.char_indices() {
            let other = if c == 'b' { "c" } else { "b" };
            assert!(!begins_with(&id, b'd', &format!("{}{other}", &text[..i])), "{i}");
        }
        assert!(!begins_with(&id, b't', &text));
        assert!(!begins_with(&id, b'd', &format!("{text}a")));
        assert!(!begins_with(&id, b'd', "d1"));
    }
}
