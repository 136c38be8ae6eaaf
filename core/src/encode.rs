//! Versioned encodings: one leading version byte, then postcard.
//!
//! Stability: every type that implements [`Versioned`] is a format on disk or wire. A change of its fields raises
//! `VERSION`, adds a golden fixture and either migrates in [`Versioned::decode_old`] or refuses the old version.

use postcard::ser_flavors::Flavor;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why bytes could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Written by a version of the format that this program does not know.
    #[error("{what} has format version {version}, this program reads up to {known}")]
    Unsupported {
        /// The kind of value.
        what: &'static str,
        /// The version found.
        version: u8,
        /// The newest version known here.
        known: u8,
    },
    /// Not a value of the kind: cut short, too long or nonsense.
    #[error("malformed {what}: {reason}")]
    Malformed {
        /// The kind of value.
        what: &'static str,
        /// What was wrong.
        reason: String,
    },
    /// Larger than the bound for the kind.
    #[error("{what} has {len} bytes, at most {max} are accepted")]
    TooLarge {
        /// The kind of value.
        what: &'static str,
        /// The size found, in bytes.
        len: usize,
        /// The bound, in bytes.
        max: usize,
    },
}

impl DecodeError {
    /// A malformed value with a reason.
    pub fn malformed(what: &'static str, reason: impl ToString) -> Self {
        Self::Malformed { what, reason: reason.to_string() }
    }
}

/// A type with a versioned encoding.
pub trait Versioned: Serialize + DeserializeOwned {
    /// The kind of value, for error messages.
    const WHAT: &'static str;
    /// The version that [`encode`] writes.
    const VERSION: u8 = 1;
    /// The most bytes that [`decode`] looks at.
    const MAX_LEN: usize;

    /// Decodes an older version and migrates it.
    ///
    /// # Errors
    /// [`DecodeError::Unsupported`] unless the implementation knows the version.
    fn decode_old(version: u8, _bytes: &[u8]) -> Result<Self, DecodeError> {
        Err(DecodeError::Unsupported { what: Self::WHAT, version, known: Self::VERSION })
    }
}

/// Bytes that grow by whole slices: postcard's own flavour for `Extend` appends one byte at a time, which takes a
/// quarter of what serving a chunk costs.
struct Growing(Vec<u8>);

impl Flavor for Growing {
    type Output = Vec<u8>;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<Vec<u8>> {
        Ok(self.0)
    }
}

/// The version byte and the postcard bytes of `value`.
pub fn encode<T: Versioned>(value: &T) -> Vec<u8> {
    postcard::serialize_with_flavor(value, Growing(vec![T::VERSION]))
        .expect("postcard encodes to memory every type that derives Serialize")
}

/// Reads what [`encode`] wrote, of this or an older version.
///
/// # Errors
/// [`DecodeError`] when the bytes are too many, of an unknown version, malformed, or followed by others.
pub fn decode<T: Versioned>(bytes: &[u8]) -> Result<T, DecodeError> {
    if bytes.len() > T::MAX_LEN {
        return Err(DecodeError::TooLarge { what: T::WHAT, len: bytes.len(), max: T::MAX_LEN });
    }
    match bytes.split_first() {
        None => Err(DecodeError::malformed(T::WHAT, "empty")),
        Some((&version, rest)) if version == T::VERSION => decode_exact(T::WHAT, rest),
        Some((&version, rest)) => T::decode_old(version, rest),
    }
}

/// Reads one postcard value that must fill `bytes`.
///
/// # Errors
/// [`DecodeError::Malformed`] when it does not.
pub fn decode_exact<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, DecodeError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(DecodeError::malformed(what, format_args!("{} bytes too many", rest.len()))),
        Err(error) => Err(DecodeError::malformed(what, error)),
    }
}
