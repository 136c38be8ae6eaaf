//! The chunk store in segment files with a redb index.

pub mod disk;
mod format;
mod store;
#[cfg(test)]
mod tests;

pub use store::SegmentStore;
