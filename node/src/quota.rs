//! How much of what is stored may be of one topic, and of one user.
//!
//! Content counts with the bytes of its files, in the topic and for the author of the first version that named it here,
//! as long as it is here: what the catalog keeps count of, so that nothing has to be added up.

use bib_core::api::{ErrorCode, Failure};
use bib_core::catalog::record::{self, Charge};
use bib_core::catalog::{content, resolve};
use bib_core::id::{ManifestId, TopicId, UserId};
use bib_core::model::PathPatterns;
use bib_core::port::{CatalogRead, StoreError};

use crate::node::Context;
use crate::service::store_failure;

/// What each topic may take whose path matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicQuota {
    /// The pattern, for people.
    pub pattern: String,
    /// The same, to match with.
    pub paths: PathPatterns,
    /// Bytes.
    pub bytes: u64,
}

impl TopicQuota {
    /// Reads `weather/** 10GiB`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let refuse = || format!("`{text}` is not a pattern of topics and a size, such as `weather/** 10GiB`");
        let (pattern, size) = text.trim().rsplit_once(char::is_whitespace).ok_or_else(refuse)?;
        let bytes = crate::config::layer::parse_size(size)?;
        let pattern = pattern.trim().to_owned();
        let paths = PathPatterns::new(vec![pattern.clone()]).map_err(|error| error.to_string())?;
        Ok(Self { pattern, paths, bytes })
    }
}

/// Whose quota something would count in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Whose {
    pub(crate) topic: Option<TopicId>,
    pub(crate) user: Option<UserId>,
}

impl From<Charge> for Whose {
    fn from(charge: Charge) -> Self {
        Self { topic: Some(charge.topic), user: Some(charge.user) }
    }
}

/// What is used of a quota, and what it is called.
struct Use {
    name: String,
    setting: &'static str,
    used: u64,
    allowed: u64,
}

fn uses(
    read: &dyn CatalogRead,
    whose: Whose,
    per_user: Option<u64>,
    per_topic: &[TopicQuota],
) -> Result<Vec<Use>, StoreError> {
    let mut uses = Vec::new();
    if let (Some(user), Some(allowed)) = (whose.user, per_user) {
        let used = content::user_bytes(read, &user)?;
        uses.push(Use { name: format!("user {}", user.short()), setting: "storage.max_bytes_per_user", used, allowed });
    }
    if let Some(topic) = whose.topic
        && !per_topic.is_empty()
        && let Some(path) = resolve::topic_path(read, &topic)?
        && let Some(quota) = per_topic.iter().find(|quota| quota.paths.matches(&path))
    {
        let used = content::topic_bytes(read, &topic)?;
        uses.push(Use { name: format!("topic {path}"), setting: "storage.topics", used, allowed: quota.bytes });
    }
    Ok(uses)
}

/// Whether so many bytes more fit into the quotas; content that counts already needs no room.
///
/// # Errors
/// [`Failure`] naming the quota that is too small, or of the store.
pub(crate) async fn check(ctx: &Context, whose: Whose, more: u64, manifest: Option<ManifestId>) -> Result<(), Failure> {
    let config = ctx.config();
    if config.max_bytes_per_user.is_none() && config.topic_quotas.is_empty() {
        return Ok(());
    }
    let (per_user, per_topic) = (config.max_bytes_per_user, config.topic_quotas.clone());
    let read = move |read: &dyn CatalogRead| {
        let counted = manifest.map(|manifest| record::pin(read, &manifest)).transpose()?;
        let is_counted = counted.is_some_and(|pin| pin.charged().is_some());
        if is_counted { Ok(Vec::new()) } else { uses(read, whose, per_user, &per_topic) }
    };
    let uses = ctx.store.read(read).await.map_err(|error: StoreError| store_failure(&error))?;
    match uses.into_iter().find(|one| one.used.saturating_add(more) > one.allowed) {
        None => Ok(()),
        Some(Use { name, setting, used, allowed }) => {
            let message = format!("{name} may take {allowed} bytes at this node and has {used}");
            let message = if more > 1 { format!("{more} bytes more do not fit: {message}") } else { message };
            Err(Failure::new(ErrorCode::Quota, message)
                .hinted(format!("delete what is not needed, or raise `{setting}` in bibd.toml")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quota_of_topics_is_a_pattern_and_a_size() {
        let quota = TopicQuota::parse("weather/**  10GiB").unwrap();
        assert_eq!((quota.pattern.as_str(), quota.bytes), ("weather/**", 10 << 30));
        assert!(quota.paths.matches("weather/daily") && !quota.paths.matches("other"));
        for wrong in ["weather", "10GiB", "", "weather/** ten"] {
            assert!(TopicQuota::parse(wrong).is_err(), "{wrong}");
        }
    }
}
