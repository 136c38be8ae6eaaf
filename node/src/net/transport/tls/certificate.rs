//! The certificate that carries a node's identity in TLS, as libp2p lays it down: a fresh key signs itself, and an
//! extension holds the node's key and its signature over the fresh one.
//!
//! Invariant: [`Certificate::read`] gives a peer id only for a certificate whose own signature and whose extension's
//! signature hold. Its encoding is read strictly: definite lengths, nothing behind the end, nothing critical unknown.
//!
//! Deliberately absent: RSA, chains, names, and the period of validity. A certificate lives as long as a process; what
//! it says of dates proves nothing, and boards without a clock must connect as well.

use libp2p::PeerId;
use libp2p::identity::{Keypair, PublicKey};
use ring::rand::SystemRandom;
use ring::signature::{
    self, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey, VerificationAlgorithm,
};
use rustls::SignatureScheme;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

/// What the identity signs before the fresh key.
const SIGNED_PREFIX: &[u8] = b"libp2p-tls-handshake:";
/// Longest certificate that is looked at, in bytes; ours has about 350.
const MAX_CERTIFICATE_LEN: usize = 4 << 10;

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT_ID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const ISSUER_ID: u8 = 0x81;
const SUBJECT_ID: u8 = 0x82;
const EXTENSIONS: u8 = 0xa3;

/// 1.3.6.1.4.1.53594.1.1, the extension of libp2p.
const LIBP2P: &[u8] = &[0x2b, 6, 1, 4, 1, 0x83, 0xa2, 0x5a, 1, 1];
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
const P384: &[u8] = &[0x2b, 0x81, 4, 0, 0x22];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const ECDSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];

/// What is wrong with a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CertificateError {
    /// Its bytes are not a certificate.
    #[error("not a certificate: {0}")]
    Malformed(&'static str),
    /// Its kind of key or signature is not one of ours.
    #[error("a key or signature of an unknown kind")]
    UnknownAlgorithm,
    /// It has no identity.
    #[error("without the extension of libp2p")]
    NoIdentity,
    /// A signature does not hold.
    #[error("a signature does not hold: {0}")]
    BadSignature(&'static str),
}

/// Could not make a certificate: no random numbers, or the identity cannot sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no certificate can be made")]
pub(crate) struct NoCertificate;

/// A fresh certificate for `identity`, and the key that belongs to it.
pub(crate) fn generate(
    identity: &Keypair,
) -> Result<(CertificateDer<'static>, PrivatePkcs8KeyDer<'static>), NoCertificate> {
    let random = SystemRandom::new();
    let alg = &ECDSA_P256_SHA256_ASN1_SIGNING;
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(alg, &random).map_err(|_| NoCertificate)?;
    let key = EcdsaKeyPair::from_pkcs8(alg, pkcs8.as_ref(), &random).map_err(|_| NoCertificate)?;

    let point = [&[0], key.public_key().as_ref()].concat();
    let kind = der(SEQUENCE, &[&der(OBJECT_ID, &[EC_PUBLIC_KEY]), &der(OBJECT_ID, &[P256])]);
    let public = der(SEQUENCE, &[&kind, &der(BIT_STRING, &[&point])]);
    let claim = identity.sign(&[SIGNED_PREFIX, &public].concat()).map_err(|_| NoCertificate)?;
    let proof =
        der(SEQUENCE, &[&der(OCTET_STRING, &[&identity.public().encode_protobuf()]), &der(OCTET_STRING, &[&claim])]);
    let critical = der(BOOLEAN, &[&[0xff]]);
    let extension = der(SEQUENCE, &[&der(OBJECT_ID, &[LIBP2P]), &critical, &der(OCTET_STRING, &[&proof])]);

    let algorithm = der(SEQUENCE, &[&der(OBJECT_ID, &[ECDSA_SHA256])]);
    let nobody = der(SEQUENCE, &[]);
    let always = der(SEQUENCE, &[&der(UTC_TIME, &[b"750101000000Z"]), &der(GENERALIZED_TIME, &[b"40960101000000Z"])]);
    let body = der(
        SEQUENCE,
        &[
            &der(VERSION, &[&der(INTEGER, &[&[2]])]),
            // A number is asked for and told apart by nobody: the key is fresh.
            &der(INTEGER, &[&[1]]),
            &algorithm,
            &nobody,
            &always,
            &nobody,
            &public,
            &der(EXTENSIONS, &[&der(SEQUENCE, &[&extension])]),
        ],
    );
    let own = key.sign(&random, &body).map_err(|_| NoCertificate)?;
    let certificate = der(SEQUENCE, &[&body, &algorithm, &der(BIT_STRING, &[&[0], own.as_ref()])]);
    Ok((certificate.into(), pkcs8.as_ref().to_vec().into()))
}

/// A value with its tag and length.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let len = content.len();
    let mut out = vec![tag];
    match len {
        0..=0x7f => out.push(len as u8),
        0x80..=0xff => out.extend([0x81, len as u8]),
        _ => {
            debug_assert!(len <= 0xffff, "certificates are short");
            out.extend([0x82, (len >> 8) as u8, len as u8]);
        }
    }
    out.extend(content);
    out
}

/// A certificate of a peer whose signatures hold.
pub(crate) struct Certificate<'a> {
    /// The peer.
    pub(crate) peer: PeerId,
    scheme: SignatureScheme,
    key: UnparsedPublicKey<&'a [u8]>,
}

impl<'a> Certificate<'a> {
    /// Reads and checks a certificate.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, CertificateError> {
        if bytes.len() > MAX_CERTIFICATE_LEN {
            return Err(CertificateError::Malformed("too long"));
        }
        let mut outer = Der(bytes);
        let mut certificate = Der(outer.content(SEQUENCE)?);
        outer.end()?;
        let body = certificate.whole(SEQUENCE)?;
        let algorithm = certificate.whole(SEQUENCE)?;
        let own_signature = certificate.bits()?;
        certificate.end()?;

        let mut body = Der(body.content);
        let mut version = Der(body.content(VERSION)?);
        if version.content(INTEGER)? != [2] {
            return Err(CertificateError::Malformed("not of version 3"));
        }
        version.end()?;
        body.content(INTEGER)?;
        if body.whole(SEQUENCE)?.bytes != algorithm.bytes {
            return Err(CertificateError::Malformed("two signature algorithms"));
        }
        let (_issuer, _validity, _subject) =
            (body.content(SEQUENCE)?, body.content(SEQUENCE)?, body.content(SEQUENCE)?);
        let public = body.whole(SEQUENCE)?;
        for unused in [ISSUER_ID, SUBJECT_ID] {
            if body.next_is(unused) {
                body.content(unused)?;
            }
        }
        let mut extensions = Der(body.content(EXTENSIONS)?);
        body.end()?;
        let mut list = Der(extensions.content(SEQUENCE)?);
        extensions.end()?;
        let proof = proof(&mut list)?;

        let (scheme, verification, key) = key(public.content, algorithm.content)?;
        let key = UnparsedPublicKey::new(verification, key);
        let signed = signed_body(bytes)?;
        key.verify(signed, own_signature).map_err(|_| CertificateError::BadSignature("its own"))?;

        let mut outer = Der(proof);
        let mut proof = Der(outer.content(SEQUENCE)?);
        outer.end()?;
        let (identity, claim) = (proof.content(OCTET_STRING)?, proof.content(OCTET_STRING)?);
        proof.end()?;
        let identity = PublicKey::try_decode_protobuf(identity).map_err(|_| CertificateError::UnknownAlgorithm)?;
        if !identity.verify(&[SIGNED_PREFIX, public.bytes].concat(), claim) {
            return Err(CertificateError::BadSignature("the identity's"));
        }
        Ok(Self { peer: identity.to_peer_id(), scheme, key })
    }

    /// Checks a signature that the handshake made with the certificate's key.
    pub(crate) fn verify(
        &self,
        scheme: SignatureScheme,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), CertificateError> {
        if scheme != self.scheme {
            return Err(CertificateError::UnknownAlgorithm);
        }
        self.key.verify(message, signature).map_err(|_| CertificateError::BadSignature("the handshake's"))
    }
}

/// Kinds of signature that [`Certificate::verify`] knows.
pub(crate) const SCHEMES: [SignatureScheme; 3] =
    [SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ECDSA_NISTP384_SHA384, SignatureScheme::ED25519];

/// What the certificate's own signature covers: the body with its header.
fn signed_body(bytes: &[u8]) -> Result<&[u8], CertificateError> {
    Ok(Der(Der(bytes).content(SEQUENCE)?).whole(SEQUENCE)?.bytes)
}

/// The value of the extension of libp2p.
fn proof<'a>(list: &mut Der<'a>) -> Result<&'a [u8], CertificateError> {
    let mut found = None;
    while !list.0.is_empty() {
        let mut extension = Der(list.content(SEQUENCE)?);
        let id = extension.content(OBJECT_ID)?;
        let critical = extension.next_is(BOOLEAN) && extension.content(BOOLEAN)? != [0];
        let value = extension.content(OCTET_STRING)?;
        extension.end()?;
        match (id == LIBP2P, found) {
            (true, None) => found = Some(value),
            (true, Some(_)) => return Err(CertificateError::Malformed("two identities")),
            (false, _) if critical => return Err(CertificateError::Malformed("an unknown critical extension")),
            (false, _) => {}
        }
    }
    found.ok_or(CertificateError::NoIdentity)
}

type Key<'a> = (SignatureScheme, &'static dyn VerificationAlgorithm, &'a [u8]);

/// The key of the certificate and how it signs.
fn key<'a>(public: &'a [u8], algorithm: &[u8]) -> Result<Key<'a>, CertificateError> {
    let mut public = Der(public);
    let mut kind = Der(public.content(SEQUENCE)?);
    let key = public.bits()?;
    public.end()?;
    let id = kind.content(OBJECT_ID)?;
    let curve = if kind.0.is_empty() { &[][..] } else { kind.content(OBJECT_ID)? };
    kind.end()?;
    let mut algorithm = Der(algorithm);
    let signs = algorithm.content(OBJECT_ID)?;
    algorithm.end()?;
    if (id, curve, signs) == (EC_PUBLIC_KEY, P256, ECDSA_SHA256) {
        Ok((SignatureScheme::ECDSA_NISTP256_SHA256, &signature::ECDSA_P256_SHA256_ASN1, key))
    } else if (id, curve, signs) == (EC_PUBLIC_KEY, P384, ECDSA_SHA384) {
        Ok((SignatureScheme::ECDSA_NISTP384_SHA384, &signature::ECDSA_P384_SHA384_ASN1, key))
    } else if (id, curve, signs) == (ED25519, &[], ED25519) {
        Ok((SignatureScheme::ED25519, &signature::ED25519, key))
    } else {
        Err(CertificateError::UnknownAlgorithm)
    }
}

/// What is left of an encoding.
struct Der<'a>(&'a [u8]);

/// One value: all its bytes, and those behind tag and length.
#[derive(Clone, Copy)]
struct Value<'a> {
    bytes: &'a [u8],
    content: &'a [u8],
}

impl<'a> Der<'a> {
    fn next_is(&self, tag: u8) -> bool {
        self.0.first() == Some(&tag)
    }

    /// The next value, which must have this tag.
    fn whole(&mut self, tag: u8) -> Result<Value<'a>, CertificateError> {
        let short = CertificateError::Malformed("it ends too early");
        let (header_len, len) = match *self.0 {
            [found, ..] if found != tag => return Err(CertificateError::Malformed("an unexpected value")),
            [_, len @ 0..=0x7f, ..] => (2, usize::from(len)),
            [_, 0x81, len @ 0x80..=0xff, ..] => (3, usize::from(len)),
            [_, 0x82, high @ 1..=0xff, low, ..] => (4, usize::from(high) << 8 | usize::from(low)),
            [_, 0x80..=0xff, ..] => return Err(CertificateError::Malformed("a length of another form")),
            _ => return Err(short),
        };
        let bytes = self.0.get(..header_len + len).ok_or(short)?;
        self.0 = &self.0[bytes.len()..];
        Ok(Value { bytes, content: &bytes[header_len..] })
    }

    fn content(&mut self, tag: u8) -> Result<&'a [u8], CertificateError> {
        Ok(self.whole(tag)?.content)
    }

    /// A string of bits that are whole bytes.
    fn bits(&mut self) -> Result<&'a [u8], CertificateError> {
        match self.content(BIT_STRING)? {
            [0, bytes @ ..] => Ok(bytes),
            _ => Err(CertificateError::Malformed("bits that are not whole bytes")),
        }
    }

    fn end(&self) -> Result<(), CertificateError> {
        if self.0.is_empty() { Ok(()) } else { Err(CertificateError::Malformed("something behind the end")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Keypair {
        Keypair::ed25519_from_bytes([5; 32]).unwrap()
    }

    #[test]
    fn certificate_proves_the_identity_it_was_made_for() {
        let (bytes, _) = generate(&identity()).unwrap();
        assert!(bytes.len() < 500, "{}", bytes.len());
        let certificate = Certificate::read(&bytes).ok().unwrap();
        assert_eq!(certificate.peer, identity().public().to_peer_id());
    }

    #[test]
    fn no_changed_byte_and_no_cut_goes_unnoticed() {
        let (bytes, _) = generate(&identity()).unwrap();
        for position in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.to_vec();
                changed[position] ^= 1 << bit;
                assert!(Certificate::read(&changed).is_err(), "bit {bit} of byte {position}");
            }
            assert!(Certificate::read(&bytes[..position]).is_err(), "cut at {position}");
        }
        assert!(Certificate::read(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn proof_of_another_certificate_is_refused() {
        // The identity's extension, taken over into a certificate that somebody else made.
        let (theirs, _) = generate(&identity()).unwrap();
        let (ours, _) = generate(&Keypair::ed25519_from_bytes([6; 32]).unwrap()).unwrap();
        let start = |bytes: &[u8]| bytes.windows(LIBP2P.len()).position(|part| part == LIBP2P).unwrap();
        let len = 13 + 2 + 4 + 36 + 2 + 64;
        let (from, to) = (start(&theirs), start(&ours));
        let mut forged = ours.to_vec();
        forged[to..to + len].copy_from_slice(&theirs[from..from + len]);
        assert!(Certificate::read(&forged).is_err());
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic() {
        let (bytes, _) = generate(&identity()).unwrap();
        let mut seed = 7_u64;
        let mut random = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize
        };
        for _ in 0..20_000 {
            let mut changed = bytes.to_vec();
            for _ in 0..1 + random() % 4 {
                let position = random() % changed.len();
                match random() % 3 {
                    0 => changed[position] = random() as u8,
                    1 => changed.truncate(position.max(1)),
                    _ => changed.insert(position, random() as u8),
                }
            }
            // Changes may undo each other.
            assert!(changed == bytes.to_vec() || Certificate::read(&changed).is_err());
        }
    }
}
