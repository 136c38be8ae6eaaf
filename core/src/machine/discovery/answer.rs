//! Answers to requests on `/bib/discovery`, from the catalog alone. Deleted and private topics are not listed.

use crate::catalog::{list, log, record, resolve};
use crate::id::TopicId;
use crate::limits;
use crate::model::{Topic, Visibility};
use crate::port::{CatalogRead, StoreError};
use crate::wire::message::{DiscoveryResponse, FindQuery, TopicSummary};

/// A topic, if it is shown to everybody: neither it nor one above it is deleted, and it is public.
pub(super) fn shown(read: &dyn CatalogRead, id: &TopicId) -> Result<Option<Topic>, StoreError> {
    let Some(topic) = record::topic(read, id)? else { return Ok(None) };
    let is_shown = topic.visibility == Visibility::Public && resolve::topic_path(read, id)?.is_some();
    Ok(is_shown.then_some(topic))
}

/// A page of topics.
pub(super) fn topics(
    read: &dyn CatalogRead,
    mut after: Option<TopicId>,
    limit: u32,
) -> Result<DiscoveryResponse, StoreError> {
    let limit = (limit as usize).clamp(1, limits::MAX_ITEMS_PER_MESSAGE);
    let mut topics: Vec<TopicSummary> = Vec::new();
    loop {
        let page = log::topics(read, after.as_ref(), limits::MAX_ITEMS_PER_MESSAGE)?;
        for id in &page {
            let Some(topic) = shown(read, id)? else { continue };
            if topics.len() == limit {
                return Ok(DiscoveryResponse::Topics { topics, more: true });
            }
            let heads_hash = log::heads_hash(read, id)?;
            topics.push(TopicSummary { id: *id, parent: topic.parent, name: topic.name, heads_hash });
        }
        if page.len() < limits::MAX_ITEMS_PER_MESSAGE {
            return Ok(DiscoveryResponse::Topics { topics, more: false });
        }
        after = page.last().copied();
    }
}

/// A page of what a search finds.
pub(super) fn find(read: &dyn CatalogRead, mut query: FindQuery) -> Result<DiscoveryResponse, StoreError> {
    query.limit = query.limit.min(limits::MAX_ITEMS_PER_MESSAGE as u32);
    let found = list::find(read, &query)?;
    Ok(DiscoveryResponse::Entries { entries: found.items, total: found.total })
}

/// Those of some heads that differ here.
pub(super) fn differing(read: &dyn CatalogRead, announced: &[(TopicId, [u8; 32])]) -> Result<Vec<TopicId>, StoreError> {
    let mut differing = Vec::new();
    for (topic, heads_hash) in announced {
        if log::heads_hash(read, topic)? != *heads_hash {
            differing.push(*topic);
        }
    }
    Ok(differing)
}
