//! The chunk store in segment files with a redb index.

pub mod format;
mod index;
mod recovery;
mod reference;
mod segments;
mod store;
#[cfg(test)]
mod sealed_tests;
#[cfg(test)]
mod tests;

pub use store::{Bounds, Resealed, SegmentStore};
