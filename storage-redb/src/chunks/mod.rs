//! The chunk store in segment files with a redb index.

mod format;
mod store;
#[cfg(test)]
mod tests;

pub use store::SegmentStore;
