//! The node of bib as a library: `bibd` is this with arguments around it, and another program can hold a node in the
//! same way.

mod background;
mod backup;
mod care;
mod catalog_sync;
pub mod config;
mod content;
pub mod control;
mod credits;
mod event_loop;
mod fetch;
pub mod identity;
pub mod logging;
mod mailbox;
pub mod net;
mod network;
mod node;
pub mod offline;
pub mod quota;
pub mod runtime;
mod serve;
mod service;
pub mod signals;
mod space;
pub mod store;
pub mod systemd;
pub mod vault;

pub use node::{Call, Handle, Node, NodeBuilder, NodeError};
pub use runtime::Spawner;
