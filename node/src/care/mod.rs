//! Care of what is stored. The rules of it are `core::machine::collect`'s; the store does the work on its files.

pub(crate) mod verify;
