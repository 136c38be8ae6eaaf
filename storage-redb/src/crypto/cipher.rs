//! The two ciphers, and which one is faster here.

use std::time::{Duration, Instant};

use bib_core::port::StoreError;
use ring::aead::{AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf;
use ring::rand::{SecureRandom, SystemRandom};

/// Bytes that sealing adds: the nonce before and the tag behind the ciphertext.
pub const SEALED_OVERHEAD: usize = NONCE_LEN + TAG_LEN;

const TAG_LEN: usize = 16;

/// How bytes are sealed. The numbers are those on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Cipher {
    /// AES-256 in Galois/counter mode.
    Aes256Gcm = 1,
    /// ChaCha20 with Poly1305.
    ChaCha20Poly1305 = 2,
}

impl Cipher {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Aes256Gcm, Self::ChaCha20Poly1305];

    /// The cipher with this number on disk.
    pub const fn from_u8(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Aes256Gcm),
            2 => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }

    pub(super) fn algorithm(self) -> &'static Algorithm {
        match self {
            Self::Aes256Gcm => &AES_256_GCM,
            Self::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        }
    }

    /// The one that seals more bytes a second on this machine: some have no instructions for AES. Takes well below a
    /// millisecond where one has, a few where not.
    pub fn fastest() -> Self {
        let taken = Self::ALL.map(|cipher| (cipher.time(), cipher));
        // Of equals the first, which is the one with instructions of its own.
        taken.into_iter().min_by_key(|(time, _)| *time).map_or(Self::Aes256Gcm, |(_, cipher)| cipher)
    }

    /// The shortest time that sealing 64 KiB takes.
    fn time(self) -> Duration {
        const LEN: usize = 64 << 10;
        const ROUNDS: u8 = 4;
        let Ok(key) = UnboundKey::new(self.algorithm(), &[0; 32]).map(LessSafeKey::new) else { return Duration::MAX };
        let mut bytes = vec![0; LEN];
        let times = (0..ROUNDS).map(|_| {
            let begin = Instant::now();
            // Of zeroes under a key that seals nothing else; the result is thrown away.
            let sealed =
                key.seal_in_place_separate_tag(Nonce::assume_unique_for_key([0; 12]), Aad::empty(), &mut bytes);
            if sealed.is_ok() { begin.elapsed() } else { Duration::MAX }
        });
        times.min().unwrap_or(Duration::MAX)
    }
}

/// A key for each cipher, derived from one secret.
pub(super) struct SealKey([LessSafeKey; 2]);

impl SealKey {
    /// Derives the keys. The context says what they are for.
    pub(super) fn derive(prk: &hkdf::Prk, context: &[u8]) -> Self {
        Self(Cipher::ALL.map(|cipher| {
            let info = [b"bib seal/1".as_slice(), &[cipher as u8], context];
            let okm = prk.expand(&info, cipher.algorithm()).expect("a key is shorter than what one expansion gives");
            LessSafeKey::new(okm.into())
        }))
    }

    fn of(&self, cipher: Cipher) -> &LessSafeKey {
        &self.0[cipher as usize - 1]
    }

    /// Appends nonce, ciphertext and tag of `plain` to `out`.
    pub(super) fn seal(
        &self,
        cipher: Cipher,
        random: &SystemRandom,
        aad: &[u8],
        plain: &[&[u8]],
        out: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        let failed = |_| StoreError::Io(std::io::Error::other("the system gives no random bytes"));
        let mut nonce = [0; NONCE_LEN];
        random.fill(&mut nonce).map_err(failed)?;
        out.reserve(plain.iter().map(|part| part.len()).sum::<usize>() + SEALED_OVERHEAD);
        out.extend_from_slice(&nonce);
        let begin = out.len();
        for part in plain {
            out.extend_from_slice(part);
        }
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.of(cipher).seal_in_place_separate_tag(nonce, Aad::from(aad), &mut out[begin..]);
        let tag = tag.expect("what is sealed is far shorter than a cipher's bound");
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// The bytes that were sealed; `None` if they were not, not so, or not with this key.
    pub(super) fn open(&self, cipher: Cipher, aad: &[u8], mut sealed: Vec<u8>) -> Option<Vec<u8>> {
        let nonce = Nonce::assume_unique_for_key(*sealed.first_chunk::<NONCE_LEN>()?);
        let len = self.of(cipher).open_within(nonce, Aad::from(aad), &mut sealed, NONCE_LEN..).ok()?.len();
        sealed.truncate(len);
        Some(sealed)
    }
}

/// Bytes of a secret that is not a cipher's key.
pub(super) struct Secret;

impl hkdf::KeyType for Secret {
    fn len(&self) -> usize {
        32
    }
}

/// A secret derived from another one.
pub(super) fn derive_secret(prk: &hkdf::Prk, context: &[&[u8]]) -> zeroize::Zeroizing<[u8; 32]> {
    let mut out = zeroize::Zeroizing::new([0; 32]);
    let okm = prk.expand(context, Secret).expect("32 bytes are less than what one expansion gives");
    okm.fill(out.as_mut()).expect("as long as what was asked for");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> SealKey {
        SealKey::derive(&hkdf::Salt::new(hkdf::HKDF_SHA256, &[1; 16]).extract(&[seed; 32]), b"test")
    }

    fn seal(cipher: Cipher, aad: &[u8], plain: &[&[u8]]) -> Vec<u8> {
        let mut out = b"head".to_vec();
        key(1).seal(cipher, &SystemRandom::new(), aad, plain, &mut out).unwrap();
        out.split_off(4)
    }

    #[test]
    fn sealed_bytes_open_with_their_key_cipher_and_context_only() {
        for cipher in Cipher::ALL {
            let other = Cipher::ALL[cipher as usize % 2];
            let sealed = seal(cipher, b"aad", &[b"one, ", b"two"]);
            assert_eq!(sealed.len(), 8 + SEALED_OVERHEAD);
            assert_eq!(key(1).open(cipher, b"aad", sealed.clone()).unwrap(), b"one, two");
            assert_eq!(key(2).open(cipher, b"aad", sealed.clone()), None);
            assert_eq!(key(1).open(other, b"aad", sealed.clone()), None);
            assert_eq!(key(1).open(cipher, b"bad", sealed.clone()), None);
            for at in 0..sealed.len() {
                let mut flipped = sealed.clone();
                flipped[at] ^= 1;
                assert_eq!(key(1).open(cipher, b"aad", flipped), None, "byte {at}");
                assert_eq!(key(1).open(cipher, b"aad", sealed[..at].to_vec()), None, "cut at {at}");
            }
            assert_ne!(seal(cipher, b"aad", &[b"one, two"]), sealed, "each sealing has a nonce of its own");
        }
    }

    #[test]
    fn no_bytes_are_sealed_as_well() {
        let sealed = seal(Cipher::Aes256Gcm, b"", &[]);
        assert_eq!(key(1).open(Cipher::Aes256Gcm, b"", sealed), Some(Vec::new()));
    }

    #[test]
    fn numbers_of_ciphers_read_back() {
        for number in 0..=u8::MAX {
            assert_eq!(Cipher::from_u8(number).map_or(number, |cipher| cipher as u8), number);
        }
        assert!(Cipher::ALL.contains(&Cipher::fastest()));
    }
}
