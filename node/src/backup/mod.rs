//! Backups of a node, and nodes made from them.
//!
//! A backup is a folder, or one file with the same in it: a header that says who can open it, a sealed chunk store, and a
//! sealed file for each snapshot. Invariant: a snapshot has its name only when everything it consists of is durable and
//! was read back; a node made from one has its name only when every byte of it was compared with what the snapshot
//! says.
//!
//! Everything here waits for disks, and runs on a thread of its own.

mod archive;
mod collect;
mod content;
mod error;
mod make;
mod repository;
mod restore;
#[cfg(test)]
mod tests;
mod verify;

pub(crate) use collect::collect;
pub(crate) use error::BackupError;
pub(crate) use make::{Made, Source, make, prune};
pub(crate) use repository::{Place, Repository, Unlock, read_header, with_sound_index};
pub(crate) use restore::{Restore, restore};
pub(crate) use verify::{scrub, verify};
