//! Moving the bytes of a version: `/bib/data/1.0.0` without sockets and disks.
//!
//! [`fetch::Fetch`] gets one version from any number of providers, [`serve::Serve`] answers one stream of one peer. A fetch uses
//! one stream to each of its providers, of its own, so that the numbers of its requests are its business alone. The
//! chunk store is reached through requests: hashing and decoding happen there, off the thread that drives the machines,
//! and what it has stored is the whole memory of a fetch.
//!
//! Deliberately absent: finding providers, opening streams, rights, and writing files from chunks.

pub mod fetch;
pub mod have;
pub mod outcome;
mod picker;
mod provider;
pub mod serve;
mod walk;

/// The store could not do what it was asked; the service that drives the machine has logged why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreFailed;
