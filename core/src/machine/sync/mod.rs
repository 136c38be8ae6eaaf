//! Reconciliation: two nodes compare their logs of operations and exchange what differs. The cost follows the
//! difference, not the logs.
//!
//! The side that asks is an [`Initiator`], one for each peer; the side that answers a [`Responder`], one for all peers.
//! Per topic, the access log goes before the content log, and topics go before those below them, so that what arrives
//! seldom has to wait for others. A log is compared by ranges of (lamport, id): equal fingerprints end it, different
//! ones are cut or listed. One reconciliation brings both sides to the union: the initiator takes what it lacks and
//! pushes what the peer lacks.
//!
//! Invariant: nothing is handed out that was not asked for by its id and signed by its author; memory does not grow
//! with the logs, but with the messages in flight.
//!
//! Deliberately absent: which topics, and when (that is [`discovery`](super::discovery)'s business); whether an author
//! had the right (`apply` tells); streams.

mod initiator;
mod ranges;
mod responder;

pub use initiator::{Initiator, SyncConfig, SyncEvent, SyncFailure, SyncToken};
pub use responder::{Responder, SyncAnswer, TopicSync, pushed};
