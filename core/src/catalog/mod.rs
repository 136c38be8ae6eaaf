//! The catalog as it lies in the tables of a store: how records are found and read. Only `apply` writes them.

pub mod access;
pub mod content;
pub mod context;
pub mod keys;
pub mod list;
pub mod log;
pub mod record;
pub mod resolve;
