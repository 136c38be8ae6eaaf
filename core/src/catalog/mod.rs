//! The catalog as it lies in the tables of a store.

pub mod keys;
pub mod log;
