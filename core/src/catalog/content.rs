//! What of the content is here.

use crate::catalog::record::{Kept, corrupt, keys_after};
use crate::catalog::{keys, record};
use crate::id::{ManifestId, TopicId, UserId};
use crate::port::{CatalogRead, StoreError, Table};
use crate::time::Timestamp;

/// Whether all chunks of a manifest are here, as the last command about it said.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn is_here(read: &dyn CatalogRead, manifest: &ManifestId) -> Result<bool, StoreError> {
    Ok(record::pin(read, manifest)?.is_here)
}

/// Until when a manifest is kept for an operation that has not come yet, by the clock of grace; `None` when it is not
/// staged.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn staged_until(read: &dyn CatalogRead, manifest: &ManifestId) -> Result<Option<Timestamp>, StoreError> {
    Ok(record::pin(read, manifest)?.staged_until)
}

/// Whether a manifest is a root that keeps its chunks: a version names it, or it is staged, kept, or in its grace.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn is_pinned(read: &dyn CatalogRead, manifest: &ManifestId) -> Result<bool, StoreError> {
    Ok(record::pin(read, manifest)?.is_root())
}

/// Bytes of content that is here and counts in the quota of a topic.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn topic_bytes(read: &dyn CatalogRead, topic: &TopicId) -> Result<u64, StoreError> {
    record::number(read, Table::Meta, &keys::topic_bytes(topic))
}

/// Bytes of content that is here and counts in the quota of a user.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn user_bytes(read: &dyn CatalogRead, user: &UserId) -> Result<u64, StoreError> {
    record::number(read, Table::Meta, &keys::user_bytes(user))
}

/// One page of what users of this node keep, by manifest.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn kept(
    read: &dyn CatalogRead,
    after: Option<&ManifestId>,
    limit: usize,
) -> Result<Vec<(ManifestId, Kept)>, StoreError> {
    let after = after.map(keys::kept);
    let page = keys_after(read, Table::Meta, keys::KEPT, after.as_deref(), limit)?;
    let one = |key: &Vec<u8>| {
        let manifest = key.strip_prefix(keys::KEPT).and_then(ManifestId::from_slice);
        let manifest = manifest.ok_or_else(|| corrupt("the key of kept content"))?;
        let kept = record::get(read, Table::Meta, key)?.ok_or_else(|| corrupt("kept content"))?;
        Ok((manifest, kept))
    };
    page.iter().map(one).collect()
}
