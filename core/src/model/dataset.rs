//! A dataset: a named lineage of versions.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::id::{DatasetId, TopicId, UserId, VersionId};
use crate::model::Name;
use crate::time::Timestamp;

/// Where a dataset stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum DatasetStatus {
    /// Created, no version yet.
    #[default]
    Draft,
    /// Has a version.
    Active,
    /// Read-only.
    Archived,
    /// A tombstone.
    Deleted,
}

/// A dataset as the operations leave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dataset {
    /// Its id.
    pub id: DatasetId,
    /// The topic it is in.
    pub topic: TopicId,
    /// Its name in the topic.
    pub name: Name,
    /// Whether an older dataset holds the same name, so that this one shows as `name~shortid`.
    pub name_taken: bool,
    /// Free text.
    pub description: String,
    /// Where it stands.
    pub status: DatasetStatus,
    /// Labels.
    pub tags: BTreeSet<String>,
    /// Free keys and values.
    pub metadata: BTreeMap<String, String>,
    /// Table definition, SQL DDL.
    pub schema: Option<String>,
    /// Its first owner.
    pub created_by: UserId,
    /// When, by the author's clock.
    pub created_at: Timestamp,
    /// Time of the last operation that changed it or published into it.
    pub updated_at: Timestamp,
    /// The highest active release, else the highest active version.
    pub latest: Option<VersionId>,
    /// Versions, withdrawn ones included.
    pub version_count: u32,
}
