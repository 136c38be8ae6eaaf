//! The chunk store in segment files with a redb index.

pub mod format;
mod index;
mod recovery;
mod reference;
#[cfg(test)]
mod sealed_tests;
mod segments;
mod store;
#[cfg(test)]
mod tests;

pub use store::{Bounds, Resealed, SegmentStore};
