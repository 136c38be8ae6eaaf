//! Every durable change of a node, as data. A command is carried out by `apply` alone.

use std::time::Duration;

use crate::catalog::record::{Charge, Kept, WorkerNote};
use crate::id::{ManifestId, NodeId, OpId, VersionId};
use crate::op::Operation;

/// Where operations come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A user of this node: held to the clock and to the present state, all or none.
    User,
    /// A peer: what cannot be taken yet is parked.
    Peer(NodeId),
}

/// A durable change.
#[derive(Debug, Clone)]
pub enum Command {
    /// Take operations, in the order given.
    Apply {
        /// The operations.
        ops: Vec<Operation>,
        /// Where they come from.
        origin: Origin,
    },
    /// Keep the chunks of a manifest that is complete here, for the operation that will name it.
    Stage(ManifestId),
    /// All chunks of a manifest are here.
    ContentHere(ManifestId),
    /// All chunks of a version were fetched, and count in the quotas of its topic and its author.
    Fetched {
        /// The manifest.
        manifest: ManifestId,
        /// What is charged.
        charge: Charge,
    },
    /// Some chunks of a manifest turned out to be missing or damaged.
    ContentLost(ManifestId),
    /// Users read content that was fetched: of what may be given up, the least used goes first.
    ContentUsed(ManifestId),
    /// Keep content whatever becomes of its versions; without `kept`, do so no more.
    Keep {
        /// What.
        manifest: ManifestId,
        /// For the list of what is kept.
        kept: Option<Kept>,
    },
    /// Note which content is named only by versions that nobody can see, such as those of deleted topics, and which is
    /// seen again.
    Release {
        /// Their grace begins.
        hidden: Vec<ManifestId>,
        /// Their grace ends, and they are kept.
        shown: Vec<ManifestId>,
    },
    /// Give up content that was fetched here and that only withdrawn versions name.
    Evict(Vec<ManifestId>),
    /// Remember where work stands that the node does by itself.
    Note {
        /// Its name.
        worker: &'static str,
        /// What to remember.
        note: WorkerNote,
    },
    /// Forget operations that waited too long for others, content staged for operations that never came, and content
    /// that was released so long ago.
    Expire {
        /// How long released content is kept.
        min_age: Duration,
    },
}

/// What became of one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpOutcome {
    /// It was new and is in its log.
    New,
    /// It was there already.
    Known,
    /// It waits for these.
    Parked {
        /// What it builds on and is not here; empty when it only waits for its time.
        missing: Vec<OpId>,
    },
    /// It can never be taken.
    Refused(Refused),
    /// It could have been taken, but another one of the same user's request was refused.
    Undone,
}

/// Why an operation is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Its author did not have the right.
    #[error("{0}")]
    Denied(String),
    /// The topic or dataset is read-only.
    #[error("{0}")]
    Archived(String),
    /// A topic would be left without an owner.
    #[error("{0}")]
    LastOwner(String),
    /// It breaks a rule that takes its parents to check.
    #[error("the operation is invalid: {0}")]
    Invalid(&'static str),
    /// The name or number is taken.
    #[error("{0}")]
    Exists(String),
    /// What it is about is not known here.
    #[error("{0}")]
    NotFound(String),
    /// Something must be done first.
    #[error("{0}")]
    Precondition(String),
    /// Its time is too far from this node's clock.
    #[error("the operation's time is more than five minutes ahead of this node's clock")]
    Clock,
    /// The tree of topics has more changes of rights than this node holds.
    #[error("the topic and those around it have more changes of rights than this node holds")]
    TooLarge,
    /// Too many operations of the topic wait already.
    #[error("too many operations of this topic wait for others")]
    TooManyParked,
}

impl Refused {
    /// The kind as a stable word.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Denied(_) => "denied",
            Self::Archived(_) => "archived",
            Self::LastOwner(_) => "last_owner",
            Self::Invalid(_) => "invalid",
            Self::Exists(_) => "exists",
            Self::NotFound(_) => "not_found",
            Self::Precondition(_) => "precondition",
            Self::Clock => "clock",
            Self::TooLarge => "too_large",
            Self::TooManyParked => "too_many_parked",
        }
    }
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// Of each operation, in the order given. A user's operations are all taken or none: then one is refused and
    /// nothing changed.
    pub outcomes: Vec<OpOutcome>,
    /// Operations that are new in their logs, parked ones that were released included, parents before children.
    pub new: Vec<Operation>,
    /// Versions that are new to the catalog.
    pub versions: Vec<VersionId>,
}
