//! Catalog in redb and chunk store in segments: the only room that knows redb.

pub mod chunks;
