//! A topic: the subject that groups datasets and announcements, and the resource on which most rights are granted.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::id::{TopicId, UserId};
use crate::model::Name;
use crate::time::Timestamp;

/// Who may see a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Visibility {
    /// Everyone.
    #[default]
    Public,
    /// Those with a grant.
    Private,
}

/// Whether a topic takes changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TopicStatus {
    /// It does.
    #[default]
    Active,
    /// It is read-only.
    Archived,
    /// It is a tombstone.
    Deleted,
}

/// A topic as the operations leave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    /// Its id.
    pub id: TopicId,
    /// The topic above.
    pub parent: Option<TopicId>,
    /// Its name among its siblings.
    pub name: Name,
    /// Whether an older topic holds the same name, so that this one shows as `name~shortid`.
    pub name_taken: bool,
    /// Free text.
    pub description: String,
    /// Table definition that its datasets follow, SQL DDL.
    pub schema: Option<String>,
    /// Who may see it.
    pub visibility: Visibility,
    /// Whether it takes changes.
    pub status: TopicStatus,
    /// Labels.
    pub tags: BTreeSet<String>,
    /// Free keys and values.
    pub metadata: BTreeMap<String, String>,
    /// Its first owner.
    pub created_by: UserId,
    /// When, by the author's clock.
    pub created_at: Timestamp,
    /// Time of the last operation that changed it.
    pub updated_at: Timestamp,
}
