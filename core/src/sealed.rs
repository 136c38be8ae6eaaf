//! Secrets at rest: a box that only one key opens, and keys wrapped by another key.
//!
//! A box is closed with what everybody knows of its owner, an Ed25519 public key (a node or a user): an ephemeral X25519
//! key meets the owner's in X25519 form, HKDF-SHA256 makes of it a key and a nonce that serve once, and AES-256-GCM
//! closes the box. The header is authenticated and stays readable. All of it is composed from crates that are kept
//! for that; what is random comes as an argument.

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit};
use hkdf::Hkdf;
use sha2::Sha256;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::key::{SecretKey, x25519_public};

/// Bytes of a secret key of AES-256.
pub const KEY_LEN: usize = 32;
/// Bytes that a box is longer than what is in it: the ephemeral public key and the tag.
pub const BOX_OVERHEAD: usize = 32 + TAG_LEN;
/// Bytes of a wrapped key: nonce, key, tag.
pub const WRAPPED_LEN: usize = NONCE_LEN + KEY_LEN + TAG_LEN;

const NONCE_LEN: usize = 12;
const TAG_LEN: usize = 16;

/// A box or wrapped key that does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// Nobody has the secret half of such a key.
    #[error("the key cannot be sealed to")]
    WeakKey,
    /// Closed for another key or with another header, or changed.
    #[error("it was sealed to another key, or was changed")]
    Closed,
}

/// What becomes a key and a nonce: what both sides know, bound to both of their keys.
fn derive(shared: &[u8], ephemeral: &PublicKey, owner: &PublicKey, info: &str) -> Zeroizing<[u8; KEY_LEN + NONCE_LEN]> {
    let salt = [*ephemeral.as_bytes(), *owner.as_bytes()].concat();
    let mut okm = Zeroizing::new([0; KEY_LEN + NONCE_LEN]);
    Hkdf::<Sha256>::new(Some(&salt), shared)
        .expand(info.as_bytes(), okm.as_mut_slice())
        .expect("HKDF-SHA256 yields up to 8,160 bytes");
    okm
}

fn cipher(okm: &[u8; KEY_LEN + NONCE_LEN]) -> (Aes256Gcm, [u8; NONCE_LEN]) {
    let (key, nonce) = okm.split_at(KEY_LEN);
    let cipher = Aes256Gcm::new_from_slice(key).expect("the key has 32 bytes");
    (cipher, nonce.try_into().expect("the rest has 12 bytes"))
}

/// Whether a box can be closed for the owner of an Ed25519 public key.
///
/// # Errors
/// [`SealError::WeakKey`] when the public key is none that somebody can have.
pub fn check_recipient(to: &[u8; 32]) -> Result<(), SealError> {
    x25519_public(to).map(drop).ok_or(SealError::WeakKey)
}

/// Closes a box for the owner of an Ed25519 public key. `ephemeral` is 32 random bytes, never used twice.
///
/// # Errors
/// [`SealError::WeakKey`] when the public key is none that somebody can have.
pub fn seal(
    to: &[u8; 32],
    info: &'static str,
    header: &[u8],
    secret: &[u8],
    ephemeral: Zeroizing<[u8; 32]>,
) -> Result<Vec<u8>, SealError> {
    let owner = PublicKey::from(x25519_public(to).ok_or(SealError::WeakKey)?);
    let ephemeral = StaticSecret::from(*ephemeral);
    let public = PublicKey::from(&ephemeral);
    let shared = ephemeral.diffie_hellman(&owner);
    if !shared.was_contributory() {
        return Err(SealError::WeakKey);
    }
    let (cipher, nonce) = cipher(&derive(shared.as_bytes(), &public, &owner, info));
    let payload = Payload { msg: secret, aad: header };
    let closed = cipher.encrypt((&nonce).into(), payload).expect("what is sealed is far below 64 GiB");
    Ok([public.as_bytes().as_slice(), &closed].concat())
}

/// Opens a box with the owner's key.
///
/// # Errors
/// [`SealError::Closed`] when it is not for this key, for another use, or not as it was closed.
pub fn open(
    key: &SecretKey,
    info: &'static str,
    header: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let (ephemeral, closed) = sealed.split_first_chunk::<32>().ok_or(SealError::Closed)?;
    let ephemeral = PublicKey::from(*ephemeral);
    let secret = StaticSecret::from(*key.x25519());
    let shared = secret.diffie_hellman(&ephemeral);
    if !shared.was_contributory() {
        return Err(SealError::Closed);
    }
    let (cipher, nonce) = cipher(&derive(shared.as_bytes(), &ephemeral, &PublicKey::from(&secret), info));
    let opened = cipher.decrypt((&nonce).into(), Payload { msg: closed, aad: header });
    opened.map(Zeroizing::new).map_err(|_| SealError::Closed)
}

/// Encrypts a key under another one. `nonce` is random: no key wraps near the 2^32 keys at which random ones would meet.
pub fn wrap(under: &[u8; KEY_LEN], header: &[u8], key: &[u8; KEY_LEN], nonce: [u8; NONCE_LEN]) -> [u8; WRAPPED_LEN] {
    let cipher = Aes256Gcm::new(under.into());
    let closed = cipher.encrypt((&nonce).into(), Payload { msg: key, aad: header }).expect("a key is short");
    let mut wrapped = [0; WRAPPED_LEN];
    wrapped[..NONCE_LEN].copy_from_slice(&nonce);
    wrapped[NONCE_LEN..].copy_from_slice(&closed);
    wrapped
}

/// Decrypts a wrapped key.
///
/// # Errors
/// [`SealError::Closed`] when it was wrapped under another key or with another header, or was changed.
pub fn unwrap(
    under: &[u8; KEY_LEN],
    header: &[u8],
    wrapped: &[u8; WRAPPED_LEN],
) -> Result<Zeroizing<[u8; KEY_LEN]>, SealError> {
    let (nonce, closed) = wrapped.split_first_chunk::<NONCE_LEN>().ok_or(SealError::Closed)?;
    let cipher = Aes256Gcm::new(under.into());
    let opened = cipher.decrypt(nonce.into(), Payload { msg: closed, aad: header }).map_err(|_| SealError::Closed)?;
    let opened = Zeroizing::new(opened);
    let mut key = Zeroizing::new([0; KEY_LEN]);
    key.copy_from_slice(&opened);
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "bib/test/1";

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed([seed; 32])
    }

    fn sealed() -> Vec<u8> {
        seal(&key(1).public_bytes(), INFO, b"header", b"secret", Zeroizing::new([9; 32])).unwrap()
    }

    #[test]
    fn box_opens_for_its_owner_use_and_header_only() {
        let sealed = sealed();
        assert_eq!(sealed.len(), b"secret".len() + BOX_OVERHEAD);
        assert_eq!(open(&key(1), INFO, b"header", &sealed).unwrap().as_slice(), b"secret");
        assert_eq!(open(&key(2), INFO, b"header", &sealed), Err(SealError::Closed));
        assert_eq!(open(&key(1), "bib/other/1", b"header", &sealed), Err(SealError::Closed));
        assert_eq!(open(&key(1), INFO, b"Header", &sealed), Err(SealError::Closed));
    }

    #[test]
    fn box_that_was_changed_anywhere_stays_closed() {
        let sealed = sealed();
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(open(&key(1), INFO, b"header", &changed), Err(SealError::Closed), "byte {at}");
            assert_eq!(open(&key(1), INFO, b"header", &sealed[..at]), Err(SealError::Closed), "cut at {at}");
        }
    }

    #[test]
    fn keys_that_nobody_has_are_not_sealed_to() {
        let mut small_order = [0; 32];
        small_order[0] = 1;
        for weak in [[0; 32], small_order, [2; 32]] {
            let refused = seal(&weak, INFO, b"", b"secret", Zeroizing::new([9; 32]));
            assert_eq!(refused, Err(SealError::WeakKey), "{weak:?}");
            assert_eq!(check_recipient(&weak), Err(SealError::WeakKey), "{weak:?}");
        }
        // A box whose ephemeral key leaves the owner no say.
        let mut forged = sealed();
        forged[..32].fill(0);
        assert_eq!(open(&key(1), INFO, b"header", &forged), Err(SealError::Closed));
    }

    #[test]
    fn both_forms_of_a_key_belong_together() {
        for seed in 0..20 {
            let public = x25519_public(&key(seed).public_bytes()).unwrap();
            assert_eq!(PublicKey::from(&StaticSecret::from(*key(seed).x25519())).as_bytes(), &public);
        }
    }

    #[test]
    fn wrapped_key_opens_under_its_key_and_header_only() {
        let wrapped = wrap(&[1; 32], b"data 1", &[7; 32], [3; 12]);
        assert_eq!(*unwrap(&[1; 32], b"data 1", &wrapped).unwrap(), [7; 32]);
        assert!(!wrapped.windows(8).any(|window| window == [7; 8]));
        assert_eq!(unwrap(&[2; 32], b"data 1", &wrapped), Err(SealError::Closed));
        assert_eq!(unwrap(&[1; 32], b"data 2", &wrapped), Err(SealError::Closed));
        let mut changed = wrapped;
        changed[20] ^= 1;
        assert_eq!(unwrap(&[1; 32], b"data 1", &changed), Err(SealError::Closed));
    }
}
