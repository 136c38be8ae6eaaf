//! The node of bib as a library: `bibd` is this with arguments around it, and another program can hold a node in the
//! same way.

pub mod config;
pub mod identity;
pub mod logging;
pub mod net;
pub mod runtime;
