//! Vocabulary, operations, access rules, ports and pure machines of bib.
//!
//! Everything here is a value or a function of its arguments: no IO, no clock, no randomness, no environment. `now`
//! and `seed` are arguments, so that a simulation replays to the byte.

pub mod api;
pub mod apply;
pub mod backup;
pub mod catalog;
pub mod chunk;
pub mod chunker;
pub mod command;
pub mod encode;
pub mod hash;
pub mod id;
pub mod key;
pub mod limits;
pub mod machine;
pub mod model;
pub mod op;
pub mod place;
pub mod port;
pub mod sealed;
pub mod share;
pub mod time;
pub mod wire;
