//! Peer protocols: encode and decode only. Who sends what when is the business of the machines.
//!
//! A frame is a `u32` length, big endian, and that many bytes: an [`Envelope`](message::Envelope), which begins with
//! its version. The channel authenticates the peer; what third parties said is signed itself.

pub mod frame;
pub mod gossip;
pub mod message;
