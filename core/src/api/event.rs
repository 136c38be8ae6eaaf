//! What a node answers.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::api::care::{Collected, Hurt, Pinned, Rebuilt, Scrubbed, Space, Verified, Worker};
use crate::backup::Snapshot;
use crate::id::{ContentId, ManifestId, NodeId, OpId, TopicId, UserId};
use crate::model::manifest::Entry;
use crate::model::{Dataset, Topic, Version};
use crate::op::{Resource, Role};
use crate::port::ChunkStoreStats;
use crate::share::SetId;
use crate::time::Timestamp;
use crate::wire::message::{CatalogEntry, NodeMode};

/// Figures of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Program version.
    pub version: String,
    /// How it takes part.
    pub mode: NodeMode,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Addresses it listens on, with its id.
    pub addresses: Vec<String>,
    /// Peers connected.
    pub n_peers: u32,
    /// Topics held.
    pub n_topics: u64,
    /// Datasets held.
    pub n_datasets: u64,
    /// Versions held.
    pub n_versions: u64,
    /// Operations held.
    pub n_ops: u64,
    /// Operations that wait for their parents.
    pub n_parked: u64,
    /// The chunk store.
    pub chunks: ChunkStoreStats,
    /// Where the data is.
    pub data_dir: String,
    /// Bytes free on its file system.
    pub free_bytes: u64,
    /// Configured ceiling, in bytes.
    pub memory_limit: u64,
    /// Resident memory now, in bytes; 0 where the system does not say.
    pub rss_bytes: u64,
    /// Names of the threads.
    pub threads: Vec<String>,
    /// Names of the background workers, and what each does now.
    pub workers: Vec<(String, String)>,
    /// Bytes of chunks and pages received from peers since the start, as they crossed the wire.
    pub wire_received: u64,
    /// Bytes of chunks and pages sent to peers since the start, as they crossed the wire.
    pub wire_sent: u64,
    /// Gossip messages refused since the start, by reason.
    pub gossip_refused: Vec<(String, u64)>,
    /// Why the store takes no more writes, if so.
    pub read_only: Option<String>,
    /// The keys, when what is stored is encrypted.
    pub keys: Option<KeysFigures>,
    /// What uses the space.
    pub space: Space,
    /// Why the node does less than it should, a sentence each.
    pub degraded: Vec<String>,
}

/// What may be known of the keys of an encrypted node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysFigures {
    /// What seals what is written.
    pub cipher: String,
    /// Which key of keys it is, the first being 1.
    pub generation: u32,
    /// Tells keys of keys apart.
    pub fingerprint: String,
    /// Number and time of each data key; the last one seals what is written.
    pub data_keys: Vec<(u32, Timestamp)>,
    /// The shares made last.
    pub split: Option<SplitFigures>,
    /// Whether segments that were written before the node was encrypted are still plain.
    pub is_partly_plain: bool,
}

/// Shares of a key of keys, as they were made last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitFigures {
    /// Their set.
    pub set: SetId,
    /// How many are needed.
    pub threshold: u8,
    /// How many there are.
    pub total: u8,
    /// When they were made.
    pub time: Timestamp,
    /// Whether the key of keys is another one since, so that they open nothing.
    pub is_stale: bool,
}

/// The line of a share: a secret. Overwritten when dropped, never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct ShareText(String);

impl ShareText {
    /// Takes a line.
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The line.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ShareText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShareText(\u{2026})")
    }
}

/// A peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its id.
    pub node: NodeId,
    /// Where it is, or was last.
    pub addresses: Vec<String>,
    /// Whether a session is open.
    pub connected: bool,
    /// What it runs, once known.
    pub agent: Option<String>,
    /// How it takes part, once known.
    pub mode: Option<NodeMode>,
    /// Round trip, in microseconds, once measured.
    pub rtt_us: Option<u64>,
    /// When it was seen last.
    pub last_seen: Option<Timestamp>,
}

/// How far a long call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes done.
    pub done: u64,
    /// Bytes in all, when known.
    pub total: Option<u64>,
    /// Files done.
    pub files: u64,
    /// Bytes that were here before and were not moved again.
    pub reused: u64,
    /// Providers in use.
    pub providers: u32,
}

/// Something that the caller should know and that stopped nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// A sentence.
    pub message: String,
}

/// What a new operation needs of those before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpContext {
    /// Its parents, ascending.
    pub parents: Vec<OpId>,
    /// Its `keeps`, for a removal.
    pub keeps: Vec<OpId>,
    /// Its lamport number.
    pub lamport: u64,
    /// Earliest time it may carry.
    pub not_before: Timestamp,
}

/// Content that is stored and waits for the operation that names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// Root page of the manifest.
    pub manifest: ManifestId,
    /// Hash of the one file, else the manifest.
    pub content: ContentId,
    /// Bytes of all files.
    pub size: u64,
    /// Files.
    pub n_files: u64,
    /// Chunks.
    pub n_chunks: u64,
    /// Bytes of content that the store did not hold before.
    pub new_bytes: u64,
    /// Bytes that were written for them.
    pub stored_bytes: u64,
    /// Bytes of content that stay in files outside of the store, whether they were there before or not.
    pub referenced_bytes: u64,
}

/// Content that is here now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// The version.
    pub version: Version,
    /// Bytes of content.
    pub size: u64,
    /// Bytes of content that came from peers.
    pub received: u64,
    /// Bytes on the wire for them.
    pub wire_bytes: u64,
    /// Bytes that were here before.
    pub reused: u64,
    /// Who sent how many bytes of content.
    pub providers: Vec<(NodeId, u64)>,
}

/// A snapshot that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupMade {
    /// The folder or file.
    pub to: String,
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Bytes in it that the backup did not hold before.
    pub new_bytes: u64,
    /// Bytes that were written for them.
    pub stored_bytes: u64,
    /// Old snapshots that went.
    pub removed: u64,
    /// Bytes that were given back for them.
    pub freed_bytes: u64,
}

/// A value of the configuration and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigValue {
    /// Its dotted key.
    pub key: String,
    /// Its value as TOML; secrets are replaced by `…`.
    pub value: String,
    /// `built-in`, a file with line, an environment variable or a flag.
    pub origin: String,
}

/// Something that a call yields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// Answers `Status`.
    Status(Box<Status>),
    /// Answers `WhoAmI`.
    WhoAmI {
        /// The authenticated user, if any.
        user: Option<UserId>,
        /// User of the calling process by the operating system, where known.
        uid: Option<u32>,
        /// Whether the user is an operator of this node.
        operator: bool,
    },
    /// Answers `OpContext`.
    OpContext(OpContext),
    /// Answers `OpSubmit`: durable.
    Submitted {
        /// In the order of the request.
        ids: Vec<OpId>,
    },
    /// An operation, encoded.
    Operation(serde_bytes::ByteBuf),
    /// A topic with its path.
    Topic {
        /// `topic/sub`.
        path: String,
        /// The topic.
        topic: Box<Topic>,
        /// Datasets in it.
        n_datasets: u64,
    },
    /// Grants in force.
    Members {
        /// Of which topic.
        topic: TopicId,
        /// Resource, user, role, end.
        grants: Vec<(Resource, UserId, Role, Option<Timestamp>)>,
    },
    /// A dataset with its path.
    Dataset {
        /// `topic/sub/dataset`.
        path: String,
        /// The dataset.
        dataset: Box<Dataset>,
        /// Its latest version.
        latest: Option<Box<Version>>,
        /// Whether all content of the latest version is here.
        here: bool,
    },
    /// A version.
    Version {
        /// `topic/sub/dataset`.
        path: String,
        /// The version.
        version: Box<Version>,
        /// Whether all its content is here.
        here: bool,
    },
    /// An entry of the catalog.
    Found(CatalogEntry),
    /// How many there are in all.
    Total(u64),
    /// How far a long call is.
    Progress(Progress),
    /// Something worth knowing.
    Warning(Warning),
    /// Answers `Ingest`.
    Staged(Staged),
    /// Answers `Fetch`.
    Fetched(Box<Fetched>),
    /// A file or empty folder.
    Entry(Entry),
    /// Bytes of the file named last.
    Data(serde_bytes::ByteBuf),
    /// A peer.
    Peer(Peer),
    /// A value of the configuration.
    ConfigValue(ConfigValue),
    /// Answers `Referenced`.
    Referenced {
        /// Bytes of chunks that lie outside of the store.
        bytes: u64,
    },
    /// Where the bytes of the file named last were when they were published. The caller opens it with its own rights, and
    /// believes it as little as the node does.
    Original {
        /// An absolute path, in bytes as the system has it.
        path: serde_bytes::ByteBuf,
    },
    /// What the node does by itself.
    Worker(Worker),
    /// A file that is not whole.
    Hurt(Hurt),
    /// Answers `Verify`.
    Verified(Verified),
    /// Content that is kept.
    Pinned(Pinned),
    /// Answers `KeysStatus` and `KeysRotate`.
    Keys(Box<KeysFigures>),
    /// One of the shares that `KeysSplit` made.
    Share {
        /// Its number.
        index: u8,
        /// For whom it is sealed, if it is.
        user: Option<UserId>,
        /// Its line.
        text: ShareText,
    },
    /// Answers `Gc`.
    Collected(Collected),
    /// Answers `Scrub`.
    Scrubbed(Scrubbed),
    /// Answers `Rebuild`.
    Rebuilt(Rebuilt),
    /// Answers `Backup`.
    BackupMade(Box<BackupMade>),
    /// A snapshot.
    Snapshot(Box<Snapshot>),
    /// What came of reading a snapshot.
    SnapshotVerified {
        /// Which.
        time: Timestamp,
        /// Bytes of files and content in it.
        bytes: u64,
        /// What is wrong with it; `None` = it is whole.
        fault: Option<String>,
    },
}
