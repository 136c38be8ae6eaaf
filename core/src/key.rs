//! Ed25519 keys and signatures, separated by purpose.
//!
//! A signature covers `"bib/<purpose>/1" || 0x00 || bytes`, so that one made for a login can never be replayed as one
//! of an operation. Verification is strict: weak keys and malleable signatures are refused.

use std::fmt;

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::id::{NodeId, UserId};

/// What a signature is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Purpose {
    /// An operation of the catalog.
    Op,
    /// A login on the control socket.
    Auth,
}

impl Purpose {
    fn prefix(self) -> &'static [u8] {
        match self {
            Self::Op => b"bib/op/1\0",
            Self::Auth => b"bib/auth/1\0",
        }
    }
}

/// The bytes that a signature for `purpose` covers; for signers outside this process, such as an agent.
pub fn signed_bytes(purpose: Purpose, bytes: &[u8]) -> Vec<u8> {
    [purpose.prefix(), bytes].concat()
}

/// An Ed25519 signature, 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", data_encoding::HEXLOWER.encode(&self.0[..6]))
    }
}

impl Serialize for Signature {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_bytes::Bytes::new(&self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = <&serde_bytes::Bytes>::deserialize(deserializer)?;
        <[u8; 64]>::try_from(bytes.as_ref())
            .map(Self)
            .map_err(|_| serde::de::Error::invalid_length(bytes.len(), &"a signature of 64 bytes"))
    }
}

/// A signature that does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not match the key")]
pub struct BadSignature;

/// An Ed25519 secret key; wiped from memory when dropped, never shown.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SecretKey([u8; 32]);

impl SecretKey {
    /// The key that the 32-byte seed stands for. The seed must come from a random source of the operating system.
    pub const fn from_seed(seed: [u8; 32]) -> Self {
        Self(seed)
    }

    /// The seed, for writing a key file.
    pub const fn seed(&self) -> &[u8; 32] {
        &self.0
    }

    fn signing_key(&self) -> SigningKey {
        SigningKey::from_bytes(&self.0)
    }

    /// The public half.
    pub fn public_bytes(&self) -> [u8; 32] {
        self.signing_key().verifying_key().to_bytes()
    }

    /// The public half as a user.
    pub fn user_id(&self) -> UserId {
        UserId::from_bytes(self.public_bytes())
    }

    /// The public half as a node.
    pub fn node_id(&self) -> NodeId {
        NodeId::from_bytes(self.public_bytes())
    }

    /// The secret half in the form of X25519, for boxes that only this key opens.
    pub(crate) fn x25519(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.signing_key().to_scalar_bytes())
    }

    /// Signs `bytes` for a purpose.
    pub fn sign(&self, purpose: Purpose, bytes: &[u8]) -> Signature {
        Signature(self.signing_key().sign(&signed_bytes(purpose, bytes)).to_bytes())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.user_id().short())
    }
}

/// The X25519 form of an Ed25519 public key; `None` when it is no key that somebody can have.
pub(crate) fn x25519_public(public: &[u8; 32]) -> Option<[u8; 32]> {
    let key = VerifyingKey::from_bytes(public).ok().filter(|key| !key.is_weak())?;
    Some(key.to_montgomery().to_bytes())
}

/// Checks a signature for a purpose.
///
/// # Errors
/// [`BadSignature`] when the key is not a valid or a weak point, or the signature is of other bytes, another purpose
/// or another key.
pub fn verify(user: &UserId, purpose: Purpose, bytes: &[u8], signature: &Signature) -> Result<(), BadSignature> {
    let key = VerifyingKey::from_bytes(user.as_bytes()).map_err(|_| BadSignature)?;
    let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
    key.verify_strict(&signed_bytes(purpose, bytes), &signature).map_err(|_| BadSignature)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signature_holds_for_its_key_purpose_and_bytes_only() {
        let (key, other) = (SecretKey::from_seed([1; 32]), SecretKey::from_seed([2; 32]));
        let signature = key.sign(Purpose::Op, b"hello");
        assert_eq!(verify(&key.user_id(), Purpose::Op, b"hello", &signature), Ok(()));
        assert_eq!(verify(&key.user_id(), Purpose::Auth, b"hello", &signature), Err(BadSignature));
        assert_eq!(verify(&key.user_id(), Purpose::Op, b"hellO", &signature), Err(BadSignature));
        assert_eq!(verify(&other.user_id(), Purpose::Op, b"hello", &signature), Err(BadSignature));
        assert_eq!(verify(&UserId::from_bytes([0; 32]), Purpose::Op, b"hello", &signature), Err(BadSignature));
    }

    #[test]
    fn secret_is_not_shown_by_debug() {
        let shown = format!("{:?}", SecretKey::from_seed([7; 32]));
        assert!(!shown.contains("7, 7"), "{shown}");
    }
}
