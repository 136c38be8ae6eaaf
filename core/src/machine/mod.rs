//! Pure machines: what a node does with others, without sockets, disks and clocks.
//!
//! Every machine has the same doors, and its file begins with them in this order: `handle_<input>(now, …)`, then
//! `poll_transmit`, `poll_store`, `poll_event`, `poll_timeout`, then `handle_timeout(now)`. After each input its outputs
//! are drained until they are empty. An output that needs an answer carries a token; the answer comes back through a
//! `handle_…` with that token. Maps are ordered, so that a seed replays to the byte; capacities are arguments, from
//! [`limits`](crate::limits). `poll_timeout` names, beside the instant, why the machine wants to be woken.

pub mod bucket;
pub mod collect;
pub mod discovery;
pub mod gossip;
pub mod sync;
pub mod transfer;
