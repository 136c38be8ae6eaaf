//! What of the content is here.

use crate::catalog::record;
use crate::id::ManifestId;
use crate::port::{CatalogRead, StoreError};
use crate::time::Timestamp;

/// Whether all chunks of a manifest are here, as the last command about it said.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn is_here(read: &dyn CatalogRead, manifest: &ManifestId) -> Result<bool, StoreError> {
    Ok(record::pin(read, manifest)?.is_here)
}

/// Until when a manifest is kept for an operation that has not come yet; `None` when it is not staged.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn staged_until(read: &dyn CatalogRead, manifest: &ManifestId) -> Result<Option<Timestamp>, StoreError> {
    Ok(record::pin(read, manifest)?.staged_until)
}

/// Whether a manifest is a root that keeps its chunks: a version names it, it is staged, or it is held complete.
///
/// # Errors
/// [`StoreError`] when the store cannot be read or holds something else.
pub fn is_pinned(read: &dyn CatalogRead, manifest: &ManifestId) -> Result<bool, StoreError> {
    Ok(!record::pin(read, manifest)?.is_empty())
}
