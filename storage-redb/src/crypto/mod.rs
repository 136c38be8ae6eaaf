//! Encryption at rest: the keys of a node's stores, and how bytes are sealed with them.
//!
//! Invariant: no sealed bytes are shown before their tag was checked, and a key that is not the one that sealed is told
//! from damage by a check value, so that a start with wrong keys is refused and changes nothing.
//!
//! Deliberately absent: where the keys come from and how they are kept; ciphers and key derivation themselves, which
//! are those of `ring` and BLAKE3; knowledge of files and tables.

mod check;
mod cipher;
mod keyring;
mod segment;

pub(crate) use check::{check_keys, record_checks};
pub use cipher::{Cipher, SEALED_OVERHEAD};
pub use keyring::{KeyBytes, Keyring, KeyringError, VALUE_OVERHEAD};
pub use segment::{RecordPlace, SegmentKey, SegmentSeal};

use bib_core::port::StoreError;

/// The error for keys that are absent or wrong.
pub(crate) fn refused(what: impl std::fmt::Display) -> StoreError {
    StoreError::Sealed(what.to_string())
}
