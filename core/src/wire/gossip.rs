//! Gossip: small messages on `/bib/global` and `/bib/topics/<id>`. Gossip is a hint for speed; what it loses,
//! reconciliation finds.
//!
//! Stability: version 1.

use serde::{Deserialize, Serialize};

use crate::encode::Versioned;
use crate::id::{OpId, TopicId};
use crate::limits::MAX_GOSSIP_LEN;
use crate::op::Class;
use crate::time::Timestamp;

/// The gossip topic on which new root topics are announced.
pub const GLOBAL: &str = "/bib/global";
const TOPIC_PREFIX: &str = "/bib/topics/";

/// The gossip topic of a catalog topic.
pub fn topic_name(topic: &TopicId) -> String {
    format!("{TOPIC_PREFIX}{topic}")
}

/// The catalog topic that a gossip topic is of; `None` for any other name.
pub fn topic_of_name(name: &str) -> Option<TopicId> {
    name.strip_prefix(TOPIC_PREFIX)?.parse().ok()
}

/// A gossip message. `sent_at` bounds replay; the message id is the hash of the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GossipMessage {
    /// The sender's clock.
    pub sent_at: Timestamp,
    /// What is said.
    pub body: GossipBody,
}

/// What a gossip message says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GossipBody {
    /// On `/bib/global`: a new root topic, its encoded `CreateTopic`.
    NewRoot(serde_bytes::ByteBuf),
    /// On a topic: new operations, encoded, parents before children.
    Ops(Vec<serde_bytes::ByteBuf>),
    /// On a topic: its heads, when the operations are too large to gossip.
    Heads(Vec<(Class, OpId)>),
}

impl Versioned for GossipMessage {
    const WHAT: &'static str = "gossip message";
    const MAX_LEN: usize = MAX_GOSSIP_LEN;
}
