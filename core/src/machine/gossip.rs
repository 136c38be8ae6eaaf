//! Gossip: which messages of others are taken and passed on, and what of this node's own changes is told.
//!
//! A message goes through the checks from the cheapest to the dearest: size, rate of its author, replay, encoding,
//! freshness, whether it is about its topic, signatures. What is accepted is applied; what `apply` says of the authors'
//! rights comes back by [`GossipGate::handle_applied`], and decides whether the message is passed on.
//!
//! Invariant: nothing is passed on that an honest node would have refused. What an honest node may pass on without
//! knowing better, such as a message that is old by this clock, is ignored and not held against who passed it on.
//!
//! Deliberately absent: the mesh. Gossip is a hint; what it loses, [`discovery`](super::discovery) finds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::catalog::log;
use crate::command::{OpOutcome, Refused};
use crate::encode::{DecodeError, decode, encode};
use crate::hash::hash;
use crate::id::{NodeId, OpId, TopicId};
use crate::limits;
use crate::machine::bucket::{PeerBuckets, TokenBucket};
use crate::op::operation::OperationError;
use crate::op::{Body, Operation};
use crate::port::{CatalogRead, StoreError};
use crate::time::{Instant, Timestamp};
use crate::wire::gossip::{GLOBAL, GossipBody, GossipMessage, topic_name, topic_of_name};

/// Why a message is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GossipRefusal {
    /// Longer than a message may be.
    TooLarge,
    /// Not a message.
    Malformed,
    /// Of a version that this node does not know.
    Unsupported,
    /// Not of now.
    Stale,
    /// Seen before.
    Replay,
    /// Not about the topic it was sent on.
    Misplaced,
    /// An operation in it is not signed by its author or breaks a rule.
    Forged,
    /// Its author sends too many.
    RateLimited,
    /// The author of an operation had no right to it.
    Unauthorised,
}

impl GossipRefusal {
    /// All, in the order of their words in `bib status`.
    pub const ALL: [Self; 9] = [
        Self::Forged,
        Self::Malformed,
        Self::Misplaced,
        Self::RateLimited,
        Self::Replay,
        Self::Stale,
        Self::TooLarge,
        Self::Unauthorised,
        Self::Unsupported,
    ];

    /// The reason as a stable word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::Unsupported => "unsupported",
            Self::Stale => "stale",
            Self::Replay => "replay",
            Self::Misplaced => "misplaced",
            Self::Forged => "forged",
            Self::RateLimited => "rate_limited",
            Self::Unauthorised => "unauthorised",
        }
    }

    /// Whether who passed it on should have known better.
    const fn is_fault_of_the_mesh(self) -> bool {
        matches!(self, Self::TooLarge | Self::Malformed | Self::Misplaced | Self::Forged | Self::Unauthorised)
    }
}

/// What a message holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// Apply these as the peer's, and report with [`GossipGate::handle_applied`].
    Ops {
        /// The topic that they are about, or the new root topic.
        topic: TopicId,
        /// Signed; not empty.
        ops: Vec<Operation>,
    },
    /// Heads of a topic.
    Heads {
        /// The topic.
        topic: TopicId,
        /// Those that are not here: reconcile the topic with who knows them. May be empty.
        unknown: Vec<OpId>,
    },
}

/// What to do with a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Take it; pass it on, operations once they are applied.
    Accept(Accepted),
    /// Do not pass it on, and hold it against who did.
    Reject(GossipRefusal),
    /// Do not pass it on.
    Ignore(GossipRefusal),
}

/// Decides about gossip. One for a node.
#[derive(Debug)]
pub struct GossipGate {
    /// Short hashes of messages seen, and in order of arrival with the time.
    seen: BTreeSet<[u8; 16]>,
    order: VecDeque<(Timestamp, [u8; 16])>,
    max_seen: usize,
    authors: PeerBuckets,
    own: TokenBucket,
    accepted: u64,
    refused: BTreeMap<GossipRefusal, u64>,
}

impl Default for GossipGate {
    fn default() -> Self {
        Self::new(limits::MAX_REPLAY_ENTRIES)
    }
}

impl GossipGate {
    /// A gate that remembers so many messages against replay.
    pub fn new(max_seen: usize) -> Self {
        let author = TokenBucket::new(limits::GOSSIP_PER_SECOND, limits::GOSSIP_BURST);
        Self {
            seen: BTreeSet::new(),
            order: VecDeque::new(),
            max_seen,
            authors: PeerBuckets::new(author, limits::MAX_RATED_PEERS),
            own: TokenBucket::new(limits::OWN_GOSSIP_PER_SECOND, limits::OWN_GOSSIP_BURST),
            accepted: 0,
            refused: BTreeMap::new(),
        }
    }

    /// Judges a message that arrived on a gossip topic. `author` is who signed it on the mesh; `clock` the time of day.
    ///
    /// # Errors
    /// [`StoreError`] when the catalog cannot be read.
    pub fn handle_message(
        &mut self,
        now: Instant,
        clock: Timestamp,
        read: &dyn CatalogRead,
        author: NodeId,
        (topic, bytes): (&str, &[u8]),
    ) -> Result<Verdict, StoreError> {
        let checked = match self.check(now, clock, author, topic, bytes) {
            Ok(Accepted::Heads { topic, unknown: heads }) => {
                let mut unknown = Vec::new();
                for head in heads {
                    if !log::contains(read, &head)? {
                        unknown.push(head);
                    }
                }
                Ok(Accepted::Heads { topic, unknown })
            }
            checked => checked,
        };
        Ok(match checked {
            Ok(accepted) => {
                self.accepted += 1;
                Verdict::Accept(accepted)
            }
            Err(refusal) => self.refuse(refusal),
        })
    }

    /// Takes the outcomes of a message's operations: what to tell the mesh about it.
    pub fn handle_applied(&mut self, outcomes: &[OpOutcome]) -> Result<(), GossipRefusal> {
        // Who passed it on may have known what is not known here, so that only a lack of rights counts.
        let is_denied = |outcome: &OpOutcome| {
            matches!(outcome, OpOutcome::Refused(Refused::Denied(_) | Refused::Invalid(_) | Refused::Archived(_)))
        };
        if outcomes.iter().any(is_denied) {
            self.accepted -= 1;
            self.refuse(GossipRefusal::Unauthorised);
            return Err(GossipRefusal::Unauthorised);
        }
        Ok(())
    }

    /// The messages that tell of new operations of this node, with their gossip topics. None for what exceeds the rate:
    /// neighbours learn of it by announcement.
    pub fn tell(&mut self, now: Instant, clock: Timestamp, ops: &[Operation]) -> Vec<(String, Vec<u8>)> {
        let mut messages = messages(clock, ops);
        let fit = messages.iter().take_while(|_| self.own.take(now, 1)).count();
        messages.truncate(fit);
        for (_, bytes) in &messages {
            // So that it is not taken when somebody else sends it again.
            self.remember(clock, bytes);
        }
        messages
    }

    /// Messages taken since the start.
    pub const fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Messages refused since the start, by reason; all reasons are listed.
    pub fn refused(&self) -> Vec<(String, u64)> {
        let count = |reason| self.refused.get(&reason).copied().unwrap_or(0);
        GossipRefusal::ALL.map(|reason| (reason.word().to_owned(), count(reason))).to_vec()
    }

    fn refuse(&mut self, refusal: GossipRefusal) -> Verdict {
        *self.refused.entry(refusal).or_default() += 1;
        if refusal.is_fault_of_the_mesh() { Verdict::Reject(refusal) } else { Verdict::Ignore(refusal) }
    }

    /// Heads come back unjudged, as `unknown`.
    fn check(
        &mut self,
        now: Instant,
        clock: Timestamp,
        author: NodeId,
        topic: &str,
        bytes: &[u8],
    ) -> Result<Accepted, GossipRefusal> {
        if bytes.len() > limits::MAX_GOSSIP_LEN {
            return Err(GossipRefusal::TooLarge);
        }
        if !self.authors.take(now, author) {
            return Err(GossipRefusal::RateLimited);
        }
        if self.seen.contains(&short_hash(bytes)) {
            return Err(GossipRefusal::Replay);
        }
        let message: GossipMessage = decode(bytes).map_err(|error| match error {
            DecodeError::Unsupported { .. } => GossipRefusal::Unsupported,
            _ => GossipRefusal::Malformed,
        })?;
        let (oldest, newest) = (clock.saturating_sub(limits::CLOCK_SKEW), clock.saturating_add(limits::CLOCK_SKEW));
        if message.sent_at < oldest || message.sent_at > newest {
            return Err(GossipRefusal::Stale);
        }
        self.remember(clock, bytes);
        match message.body {
            GossipBody::NewRoot(op) => {
                let op = operation(&op)?;
                let is_root = matches!(op.body, Body::CreateTopic { parent: None, .. });
                if topic != GLOBAL || !is_root {
                    return Err(GossipRefusal::Misplaced);
                }
                Ok(Accepted::Ops { topic: op.topic(), ops: vec![op] })
            }
            GossipBody::Ops(encoded) => {
                let about = topic_of_name(topic).ok_or(GossipRefusal::Misplaced)?;
                if encoded.is_empty() {
                    return Err(GossipRefusal::Malformed);
                }
                let mut ops = Vec::with_capacity(encoded.len());
                for bytes in &encoded {
                    let op = operation(bytes)?;
                    if gossip_topic_of(&op) != Some(about) {
                        return Err(GossipRefusal::Misplaced);
                    }
                    ops.push(op);
                }
                Ok(Accepted::Ops { topic: about, ops })
            }
            GossipBody::Heads(heads) => {
                let topic = topic_of_name(topic).ok_or(GossipRefusal::Misplaced)?;
                if heads.is_empty() || heads.len() > limits::MAX_ITEMS_PER_MESSAGE {
                    return Err(GossipRefusal::Malformed);
                }
                Ok(Accepted::Heads { topic, unknown: heads.into_iter().map(|(_, head)| head).collect() })
            }
        }
    }

    fn remember(&mut self, clock: Timestamp, bytes: &[u8]) {
        let oldest = clock.saturating_sub(limits::REPLAY_MEMORY);
        while let Some((at, short)) = self.order.front().copied() {
            if at >= oldest && self.order.len() < self.max_seen {
                break;
            }
            self.order.pop_front();
            self.seen.remove(&short);
        }
        if self.seen.insert(short_hash(bytes)) {
            self.order.push_back((clock, short_hash(bytes)));
        }
    }
}

fn short_hash(bytes: &[u8]) -> [u8; 16] {
    let hash = hash(bytes);
    std::array::from_fn(|i| hash[i])
}

fn operation(bytes: &[u8]) -> Result<Operation, GossipRefusal> {
    Operation::decode(bytes).map_err(|error| match error {
        OperationError::Decode(DecodeError::Unsupported { .. }) => GossipRefusal::Unsupported,
        OperationError::Decode(_) => GossipRefusal::Malformed,
        _ => GossipRefusal::Forged,
    })
}

/// The topic on whose gossip topic an operation is told: that of its log, but the one above for a new sub-topic, whose
/// own nobody can be subscribed to yet. `None` = it is told on [`GLOBAL`].
pub fn gossip_topic_of(op: &Operation) -> Option<TopicId> {
    match op.body {
        Body::CreateTopic { parent, .. } => parent,
        _ => Some(op.topic()),
    }
}

/// Bytes that a message of operations needs beside them: version, time, kind, count; and each operation's length.
const MESSAGE_OVERHEAD: usize = 32;
const OP_OVERHEAD: usize = 4;

/// The messages that tell of operations, given parents before children, and keep that order within each gossip topic.
fn messages(clock: Timestamp, ops: &[Operation]) -> Vec<(String, Vec<u8>)> {
    let mut messages = Vec::new();
    let mut open: BTreeMap<TopicId, (Vec<serde_bytes::ByteBuf>, usize)> = BTreeMap::new();
    let message = |body| encode(&GossipMessage { sent_at: clock, body });
    let bytes_of = |op: &Operation| serde_bytes::ByteBuf::from(op.bytes());
    for op in ops {
        let heads = || message(GossipBody::Heads(vec![(op.class(), op.id())]));
        let Some(topic) = gossip_topic_of(op) else {
            // A root topic that does not fit is found by announcement: nobody is subscribed to its heads.
            if op.bytes().len() + MESSAGE_OVERHEAD <= limits::MAX_GOSSIP_LEN {
                messages.push((GLOBAL.to_owned(), message(GossipBody::NewRoot(bytes_of(op)))));
            }
            continue;
        };
        let len = op.bytes().len() + OP_OVERHEAD;
        let (gathered, total) = open.entry(topic).or_insert_with(|| (Vec::new(), MESSAGE_OVERHEAD));
        if *total + len > limits::MAX_GOSSIP_LEN && !gathered.is_empty() {
            messages.push((topic_name(&topic), message(GossipBody::Ops(std::mem::take(gathered)))));
            *total = MESSAGE_OVERHEAD;
        }
        if *total + len > limits::MAX_GOSSIP_LEN {
            messages.push((topic_name(&topic), heads()));
            continue;
        }
        gathered.push(bytes_of(op));
        *total += len;
    }
    for (topic, (gathered, _)) in open {
        if !gathered.is_empty() {
            messages.push((topic_name(&topic), message(GossipBody::Ops(gathered))));
        }
    }
    messages
}
