//! The chunk store in segment files with a redb index.

mod collect;
#[cfg(test)]
mod collect_tests;
mod filter;
pub mod format;
mod index;
mod rebuild;
mod recovery;
mod reference;
mod scrub;
#[cfg(test)]
mod sealed_tests;
mod segments;
mod store;
#[cfg(test)]
mod tests;

pub use store::{Bounds, Resealed, SegmentStore};
