//! Catalog in redb and chunk store in segments, plain or sealed: the only room that knows redb.

pub mod catalog;
pub mod chunks;
pub mod crypto;
mod database;
pub mod disk;
pub mod lock;
pub mod outside;

pub use catalog::RedbCatalog;
pub use chunks::{Bounds, SegmentStore};
pub use crypto::{Cipher, Keyring};
pub use disk::{Disk, Folder, Meter};
pub use lock::DataDirLock;
