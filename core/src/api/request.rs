//! What can be asked of a node. The node never holds a user's key: a change arrives as signed operations, for which
//! [`Request::OpContext`] gives the causal context.

use serde::{Deserialize, Serialize};

use crate::id::{DatasetId, OpId, TopicId, UserId};
use crate::model::manifest::ManifestKind;
use crate::model::{PathPatterns, Reference, TopicPath};
use crate::time::Timestamp;
use crate::wire::message::FindQuery;

/// A page of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paging {
    /// Most items; the node caps it.
    pub limit: u32,
    /// Items to skip.
    pub offset: u32,
}

/// What an operation will be about, so that the node can say which parents it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContextFor {
    /// An access operation of a topic.
    Access(TopicId),
    /// A content operation of a topic.
    Content(TopicId),
    /// A removal: as `Access`, with the content heads to keep.
    Removal(TopicId),
}

/// A text that no log shows.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

/// A file of this machine, as the user who names it sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalFile {
    /// Absolute, without links, in bytes as the system has it.
    pub path: serde_bytes::ByteBuf,
    /// Its file system, as `stat` has it: who cannot see the file does not know this, and learns nothing of it.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
}

/// A request. The event that answers it stands behind each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Are you there? → `End`.
    Ping,
    /// About the node → `Event::Status`.
    Status,
    /// Who am I to you? → `Event::WhoAmI`.
    WhoAmI,

    /// Parents, lamport and time for a new operation → `Event::OpContext`.
    OpContext(ContextFor),
    /// Take signed operations, all or none; answered when they are durable → `Event::Submitted`.
    OpSubmit {
        /// Encoded, parents before children.
        ops: Vec<serde_bytes::ByteBuf>,
    },
    /// One operation → `Event::Operation`.
    OpGet(OpId),
    /// Operations of a topic, newest first → `Event::Operation` each.
    OpLog {
        /// The topic.
        topic: TopicPath,
        /// Which of them.
        paging: Paging,
    },

    /// A topic by path → `Event::Topic`.
    TopicGet(TopicPath),
    /// Topics below one (or root topics) → `Event::Topic` each, then `Event::Total`.
    TopicList {
        /// Below this one; `None` = all.
        under: Option<TopicPath>,
        /// Which of them.
        paging: Paging,
    },
    /// Who may do what on a topic → `Event::Members`.
    TopicMembers(TopicPath),

    /// A dataset by reference (version and path ignored) → `Event::Dataset`.
    DatasetGet(Reference),
    /// Datasets of a topic and below, or of all → `Event::Dataset` each, then `Event::Total`.
    DatasetList {
        /// In this topic; `None` = all.
        topic: Option<TopicPath>,
        /// Which of them.
        paging: Paging,
    },
    /// Versions of a dataset, newest first → `Event::Version` each, then `Event::Total`.
    Versions {
        /// The dataset.
        reference: Reference,
        /// Which of them.
        paging: Paging,
    },
    /// The version a reference means → `Event::Version`.
    VersionGet(Reference),
    /// Search the catalog → `Event::Found` each, then `Event::Total`.
    Find(FindQuery),

    /// Store content. The client then sends `Upload` frames; progress comes back → `Event::Progress`…,
    /// `Event::Staged`. What is staged is durable and kept for a day for the operation that will name it.
    Ingest {
        /// The dataset it is for, when it exists: its last version gives the chunker.
        dataset: Option<DatasetId>,
        /// File or tree.
        kind: ManifestKind,
        /// Bytes that will come, when known; for progress and for refusing early what cannot fit.
        expected: Option<u64>,
    },
    /// Bring the content of a version here → `Event::Progress`…, `Event::Fetched`.
    Fetch {
        /// The version (and path: only that part).
        reference: Reference,
    },
    /// Entries of a version → `Event::Entry` each.
    Entries {
        /// The version (and path: only what is below).
        reference: Reference,
    },
    /// Bytes of one file of a version, fetching first what is not here → `Event::Entry`, `Event::Data`….
    Read {
        /// The version, and the path unless it has one file.
        reference: Reference,
        /// First byte.
        offset: u64,
        /// Most bytes; `None` = to the end.
        len: Option<u64>,
    },
    /// All files of a version (or below its path), fetching first what is not here → `Event::Entry`, `Event::Data`…
    /// for each in order.
    ReadAll {
        /// The version.
        reference: Reference,
        /// Of these, only the ones that match; others are neither fetched nor sent.
        paths: PathPatterns,
    },

    /// Peers → `Event::Peer` each.
    Peers,
    /// Dial an address and wait for the session → `Event::Peer`.
    Connect {
        /// A multiaddr.
        address: String,
    },
    /// End the sessions with a peer → `End`.
    Disconnect {
        /// Its peer id.
        node: crate::id::NodeId,
    },

    /// The configuration in force → `Event::ConfigValue` each.
    Config,
    /// Stop the node after draining → `End`.
    Shutdown,
    /// May the bytes of these files stay where they are when they are published? Asked before anything is uploaded; at most
    /// [`MAX_LOCAL_FILES`](crate::limits::MAX_LOCAL_FILES) → `End`.
    MayReference {
        /// The files.
        files: Vec<LocalFile>,
    },
    /// As `Ingest`, and each file may be followed by `UploadPart::InPlace`: its bytes then stay in that file, and are
    /// compared with what is uploaded → `Event::Progress`…, `Event::Staged`.
    IngestInPlace {
        /// As of `Ingest`.
        dataset: Option<DatasetId>,
        /// As of `Ingest`.
        kind: ManifestKind,
        /// As of `Ingest`, for progress only.
        expected: Option<u64>,
    },
    /// How much of a version lies in files outside of the store → `Event::Referenced`.
    Referenced {
        /// The version.
        reference: Reference,
    },
    /// As `ReadAll`, by a user of this machine: of a file that lies whole in a file outside of the store, the caller is told
    /// that place instead of its bytes → `Event::Entry`, then `Event::Original` or `Event::Data`… for each in order.
    ReadAllOrOriginals {
        /// The version.
        reference: Reference,
        /// As of `ReadAll`.
        paths: PathPatterns,
    },

    /// What the node does by itself → `Event::Worker` each.
    Workers,
    /// Read and check all content of a version → `Event::Progress`…, `Event::Hurt` for each file that is not whole,
    /// `Event::Verified`.
    Verify {
        /// The version.
        reference: Reference,
        /// Fetch what is damaged or missing from peers.
        repair: bool,
    },
    /// Keep the content of a version whatever becomes of it → `Event::Pinned`.
    Pin(Reference),
    /// Keep it no more → `Event::Pinned`.
    Unpin {
        /// A reference as it was given or is listed, or the manifest.
        what: String,
    },
    /// What is kept → `Event::Pinned` each, then `Event::Total`.
    Pins(Paging),
    /// What may be known of the keys of an encrypted node → `Event::Keys`.
    KeysStatus,
    /// Make new keys; what is stored stays as it is → `Event::Keys`.
    KeysRotate {
        /// A new key of keys, which makes shares of the old one worthless.
        kek: bool,
        /// A new data key for what is written from now on.
        data: bool,
    },
    /// Share the key of keys out → `Event::Share` each.
    KeysSplit {
        /// How many shares will be needed.
        threshold: u8,
        /// How many there will be.
        total: u8,
        /// For whom each is sealed, in order; none = all of them plain.
        to: Vec<UserId>,
    },
    /// Give back the space of what nothing names → `Event::Progress`…, `Event::Collected`.
    Gc {
        /// Only look.
        dry_run: bool,
        /// How old released and unnamed content has to be, in seconds; `None` = as configured.
        min_age_s: Option<u64>,
    },
    /// Read everything that is stored and check it → `Event::Progress`…, `Event::Scrubbed`.
    Scrub,
    /// Make the index of the chunk store anew from its segments → `Event::Progress`…, `Event::Rebuilt`.
    Rebuild,
    /// Make a snapshot of the node → `Event::Progress`…, `Event::BackupMade`.
    Backup {
        /// The folder or file; `None` = as configured.
        to: Option<String>,
        /// What opens it: of a new one, and of one that this node cannot open by itself.
        passphrase: Option<Secret>,
        /// Whose keys open a new one.
        users: Vec<UserId>,
    },
    /// The snapshots of a backup → `Event::Snapshot` each, the oldest first.
    Backups {
        /// As of `Backup`.
        at: Option<String>,
        /// As of `Backup`.
        passphrase: Option<Secret>,
    },
    /// Read a backup again → `Event::Progress`…, `Event::SnapshotVerified` each.
    BackupVerify {
        /// As of `Backup`.
        at: Option<String>,
        /// As of `Backup`.
        passphrase: Option<Secret>,
        /// Only this snapshot.
        snapshot: Option<Timestamp>,
    },
}
