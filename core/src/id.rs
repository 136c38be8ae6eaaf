//! Identifiers: 32 bytes each, a type of its own, one textual form.
//!
//! Entities are named by the operation that created them and shown in lower-case base32 behind a letter; content is
//! named by its BLAKE3 hash and shown in hexadecimal as `b3sum` prints it; nodes are shown as libp2p peer ids.

use std::fmt;
use std::str::FromStr;

use data_encoding::{Encoding, HEXLOWER, Specification};
use serde::{Deserialize, Serialize};

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind}: expected {expected}")]
pub struct ParseIdError {
    /// The refused text, shortened to 80 characters.
    pub text: String,
    /// Name of the identifier type.
    pub kind: &'static str,
    /// What a valid text looks like.
    pub expected: &'static str,
}

impl ParseIdError {
    fn new(text: &str, kind: &'static str, expected: &'static str) -> Self {
        Self { text: text.chars().take(80).collect(), kind, expected }
    }
}

fn base32() -> Encoding {
    let mut spec = Specification::new();
    spec.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    spec.encoding().expect("the alphabet has 32 distinct symbols")
}

macro_rules! id_common {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The bytes as an identifier, unchecked: any 32 bytes are well formed.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The identifier in a slice.
            ///
            /// Returns `None` unless the slice has exactly 32 bytes.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                Some(Self(bytes.try_into().ok()?))
            }

            /// The 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
    };
}

macro_rules! base32_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        id_common!($(#[$doc])* $name);

        impl $name {
            /// The prefix letter and the first eight characters: for people, not for machines.
            pub fn short(&self) -> String {
                self.to_string()[..9].to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), base32().encode(&self.0))
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.strip_prefix($prefix)
                    .and_then(|rest| base32().decode(rest.as_bytes()).ok())
                    .and_then(|bytes| Self::from_slice(&bytes))
                    .ok_or_else(|| {
                        ParseIdError::new(text, stringify!($name), concat!("`", $prefix, "` and 52 base32 characters"))
                    })
            }
        }
    };
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident) => {
        id_common!($(#[$doc])* $name);

        impl $name {
            /// The first twelve characters: for people, not for machines.
            pub fn short(&self) -> String {
                HEXLOWER.encode(&self.0[..6])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEXLOWER.encode(&self.0))
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                HEXLOWER
                    .decode(text.as_bytes())
                    .ok()
                    .and_then(|bytes| Self::from_slice(&bytes))
                    .ok_or_else(|| ParseIdError::new(text, stringify!($name), "64 lower-case hexadecimal characters"))
            }
        }
    };
}

base32_id!(
    /// A user: the Ed25519 public key that signs their operations.
    UserId,
    "u"
);
base32_id!(
    /// A topic: the [`OpId`] of its `CreateTopic`.
    TopicId,
    "t"
);
base32_id!(
    /// A dataset: the [`OpId`] of its `CreateDataset`.
    DatasetId,
    "d"
);
base32_id!(
    /// A version: the [`OpId`] of its `PublishVersion`.
    VersionId,
    "v"
);
base32_id!(
    /// A signed operation: the BLAKE3 hash of its encoded bytes.
    OpId,
    "o"
);
hex_id!(
    /// Content: the BLAKE3 hash of a file, or the [`ManifestId`] of a tree.
    ContentId
);
hex_id!(
    /// A chunk: the BLAKE3 hash of its uncompressed bytes.
    ChunkId
);
hex_id!(
    /// A manifest: the BLAKE3 hash of its root page.
    ManifestId
);
id_common!(
    /// A node: the Ed25519 public key of its identity; shown as a libp2p peer id.
    NodeId
);

/// What stands before an Ed25519 public key in a peer id: identity multihash of a protobuf-encoded public key.
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

impl NodeId {
    /// The last eight characters of the textual form; the first ones are the same for all nodes.
    pub fn short(&self) -> String {
        let text = self.to_string();
        text[text.len() - 8..].to_owned()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = PEER_ID_PREFIX.to_vec();
        bytes.extend_from_slice(&self.0);
        f.write_str(&bs58::encode(bytes).into_string())
    }
}

impl FromStr for NodeId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // A decoder over untrusted text: base58 is quadratic, so its input is bounded first.
        (text.len() <= 64)
            .then(|| bs58::decode(text).into_vec().ok())
            .flatten()
            .and_then(|bytes| Self::from_slice(bytes.strip_prefix(&PEER_ID_PREFIX)?))
            .ok_or_else(|| ParseIdError::new(text, "NodeId", "an Ed25519 peer id such as 12D3KooW…"))
    }
}

impl From<OpId> for TopicId {
    fn from(id: OpId) -> Self {
        Self(id.0)
    }
}
impl From<OpId> for DatasetId {
    fn from(id: OpId) -> Self {
        Self(id.0)
    }
}
impl From<OpId> for VersionId {
    fn from(id: OpId) -> Self {
        Self(id.0)
    }
}
impl From<TopicId> for OpId {
    fn from(id: TopicId) -> Self {
        Self(id.0)
    }
}
impl From<DatasetId> for OpId {
    fn from(id: DatasetId) -> Self {
        Self(id.0)
    }
}
impl From<VersionId> for OpId {
    fn from(id: VersionId) -> Self {
        Self(id.0)
    }
}
impl From<ChunkId> for ManifestId {
    fn from(id: ChunkId) -> Self {
        Self(id.0)
    }
}
impl From<ManifestId> for ChunkId {
    fn from(id: ManifestId) -> Self {
        Self(id.0)
    }
}
impl From<ManifestId> for ContentId {
    fn from(id: ManifestId) -> Self {
        Self(id.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_id_reads_back_what_it_shows() {
        let bytes = std::array::from_fn(|i| i as u8 * 7);
        let user = UserId::from_bytes(bytes);
        assert_eq!(user.to_string().parse(), Ok(user));
        assert_eq!(user.to_string().len(), 53);
        assert_eq!(user.short().len(), 9);
        let chunk = ChunkId::from_bytes(bytes);
        assert_eq!(chunk.to_string().parse(), Ok(chunk));
        let node = NodeId::from_bytes(bytes);
        assert_eq!(node.to_string().parse(), Ok(node));
        assert!(node.to_string().starts_with("12D3KooW"), "{node}");
    }

    #[test]
    fn foreign_prefix_wrong_length_and_garbage_are_refused() {
        let topic = TopicId::from_bytes([1; 32]).to_string();
        assert!(topic.parse::<UserId>().is_err());
        assert!(topic[..52].parse::<TopicId>().is_err());
        assert!(topic.to_uppercase().parse::<TopicId>().is_err());
        assert!("é".repeat(40).parse::<ChunkId>().is_err());
        assert!("1".repeat(100_000).parse::<NodeId>().is_err());
        assert!("".parse::<NodeId>().is_err());
    }
}
