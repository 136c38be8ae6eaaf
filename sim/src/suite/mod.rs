//! What every implementation of a port must do, as checks that panic where one does not.
//!
//! An implementation is tested through a bed, which makes an empty store, opens one again as after a restart, and, where
//! it can, lets the next write fail. A test of the implementation calls each check of [`catalog::CHECKS`] or
//! [`chunk_store::CHECKS`] with its bed.

pub mod catalog;
pub mod chunk_store;

pub use catalog::CatalogBed;
pub use chunk_store::ChunkStoreBed;

/// A named check over beds of one kind.
pub type Check<Bed> = (&'static str, fn(&Bed));
