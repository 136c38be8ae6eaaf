//! `/noise` of libp2p: the handshake `Noise_XX_25519_ChaChaPoly_SHA256` in which both sides send their identity and its
//! signature over the key that the handshake proves, then records of at most 65,519 bytes.
//!
//! The handshake is that of `snow`, the ciphers are those of `ring`; what is here is how bytes become records. libp2p's
//! own records take as much CPU time but keep some 200 KiB for each connection that was ever busy; here records are
//! sealed and opened where they lie, and a connection with nothing to say holds no buffers.
//!
//! Invariants: nothing of a record is given out before its tag was checked; a nonce is used once, and a connection ends
//! before its counter could wrap. Deliberately absent: extensions, early data, rekeying; libp2p has none of them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bib_core::limits::SECURE_UNSENT;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::PeerId;
use libp2p::identity::{Keypair, PublicKey};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, RingResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState};
use x25519_dalek::{X25519_BASEPOINT_BYTES, x25519};
use zeroize::{Zeroize, Zeroizing};

use crate::net::NetError;

/// The name under which both sides agree on it.
pub(crate) const PROTOCOL: &str = "/noise";
const PATTERN: &str = "Noise_XX_25519_ChaChaPoly_SHA256";
/// What the identity signs before the static key.
const SIGNED_PREFIX: &[u8] = b"noise-libp2p-static-key:";

/// Bytes of a record's length.
const LENGTH_LEN: usize = 2;
const TAG_LEN: usize = 16;
/// Most plaintext in one record: with its tag as much as its length can say.
const MAX_PLAIN: usize = u16::MAX as usize - TAG_LEN;
/// Longest handshake message that is taken; an honest one has about 250 bytes.
const MAX_HANDSHAKE: usize = 4 << 10;
/// A buffer longer than this is given back when little was sent from it.
const KEPT_BUFFER: usize = 4 << 10;

/// The static key of this process and what proves that it is the node's.
#[derive(Clone)]
pub(crate) struct Noise {
    secret: Zeroizing<[u8; 32]>,
    /// The payload of our handshake message.
    proof: Vec<u8>,
}

impl Noise {
    pub(crate) fn new(identity: &Keypair) -> Result<Self, NetError> {
        let wrong = |error: &dyn std::fmt::Display| NetError::Identity(error.to_string());
        let mut secret = Zeroizing::new([0; 32]);
        SystemRandom::new().fill(&mut *secret).map_err(|_| wrong(&"no random numbers"))?;
        let public = x25519(*secret, X25519_BASEPOINT_BYTES);
        let signature = identity.sign(&[SIGNED_PREFIX, &public].concat()).map_err(|error| wrong(&error))?;
        Ok(Self { secret, proof: payload(&identity.public().encode_protobuf(), &signature) })
    }

    fn builder(&self) -> io::Result<Builder<'_>> {
        let pattern = PATTERN.parse().map_err(broken)?;
        Builder::with_resolver(pattern, Box::new(Primitives)).local_private_key(&*self.secret).map_err(broken)
    }

    /// The handshake of the side that listened.
    pub(crate) async fn accept<C: AsyncRead + AsyncWrite + Unpin>(&self, mut io: C) -> io::Result<(PeerId, Sealed<C>)> {
        let mut state = self.builder()?.build_responder().map_err(broken)?;
        if !receive(&mut state, &mut io).await?.is_empty() {
            return Err(broken("the first message says something before it can be kept secret"));
        }
        send(&mut state, &mut io, &self.proof).await?;
        let theirs = receive(&mut state, &mut io).await?;
        finish(state, io, &theirs)
    }

    /// The handshake of the side that dialed.
    pub(crate) async fn connect<C: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut io: C,
    ) -> io::Result<(PeerId, Sealed<C>)> {
        let mut state = self.builder()?.build_initiator().map_err(broken)?;
        send(&mut state, &mut io, &[]).await?;
        let theirs = receive(&mut state, &mut io).await?;
        send(&mut state, &mut io, &self.proof).await?;
        finish(state, io, &theirs)
    }
}

fn broken(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the Noise handshake failed: {error}"))
}

/// The fields `identity_key = 1` and `identity_sig = 2` of a protobuf message.
fn payload(key: &[u8], signature: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + signature.len() + 4);
    for (field, bytes) in [(1, key), (2, signature)] {
        debug_assert!(bytes.len() < 0x80, "keys and signatures of Ed25519 have lengths of one byte");
        out.extend([field << 3 | 2, bytes.len() as u8]);
        out.extend(bytes);
    }
    out
}

/// The key and the signature of a peer's payload; fields that are unknown here are passed over.
fn parse_payload(mut bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut key, mut signature) = (&[][..], &[][..]);
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        // Only fields with a length belong to the message.
        let len = usize::try_from(if tag & 7 == 2 { varint(&mut bytes)? } else { return None }).ok()?;
        let (value, rest) = bytes.split_at_checked(len)?;
        bytes = rest;
        match tag >> 3 {
            1 => key = value,
            2 => signature = value,
            _ => {}
        }
    }
    Some((key, signature))
}

fn varint(bytes: &mut &[u8]) -> Option<u32> {
    let mut value = 0;
    for shift in [0, 7, 14, 21] {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u32::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

async fn send(state: &mut HandshakeState, io: &mut (impl AsyncWrite + Unpin), payload: &[u8]) -> io::Result<()> {
    let mut message = [0; LENGTH_LEN + 512];
    let len = state.write_message(payload, &mut message[LENGTH_LEN..]).map_err(broken)?;
    message[..LENGTH_LEN].copy_from_slice(&(len as u16).to_be_bytes());
    io.write_all(&message[..LENGTH_LEN + len]).await?;
    io.flush().await
}

async fn receive(state: &mut HandshakeState, io: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut len = [0; LENGTH_LEN];
    io.read_exact(&mut len).await?;
    let len = usize::from(u16::from_be_bytes(len));
    if len > MAX_HANDSHAKE {
        return Err(broken("a message is too long"));
    }
    let (mut message, mut payload) = (vec![0; len], vec![0; len]);
    io.read_exact(&mut message).await?;
    let len = state.read_message(&message, &mut payload).map_err(broken)?;
    payload.truncate(len);
    Ok(payload)
}

/// Checks who the peer is and begins with records.
fn finish<C>(mut state: HandshakeState, io: C, theirs: &[u8]) -> io::Result<(PeerId, Sealed<C>)> {
    let (key, signature) = parse_payload(theirs).ok_or_else(|| broken("the peer does not say who it is"))?;
    let identity = PublicKey::try_decode_protobuf(key).map_err(broken)?;
    let proved = state.get_remote_static().ok_or_else(|| broken("a key is missing"))?;
    if !identity.verify(&[SIGNED_PREFIX, proved].concat(), signature) {
        return Err(broken("the peer does not prove who it is"));
    }
    if !state.is_handshake_finished() {
        return Err(broken("a message is missing"));
    }
    let is_initiator = state.is_initiator();
    let (mut first, mut second) = state.dangerously_get_raw_split();
    let (ours, other) = if is_initiator { (&first, &second) } else { (&second, &first) };
    let sealed = Sealed::new(io, Key::new(ours), Key::new(other));
    first.zeroize();
    second.zeroize();
    Ok((identity.to_peer_id(), sealed))
}

/// The primitives of the handshake: those of ring, and X25519 with keys that are used more than once.
struct Primitives;

impl CryptoResolver for Primitives {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        RingResolver.resolve_rng()
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519).then(|| Box::new(X25519::default()) as Box<dyn Dh>)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        RingResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        RingResolver.resolve_cipher(choice)
    }
}

#[derive(Default)]
struct X25519 {
    secret: Zeroizing<[u8; 32]>,
    public: [u8; 32],
}

impl X25519 {
    fn publish(&mut self) {
        self.public = x25519(*self.secret, X25519_BASEPOINT_BYTES);
    }
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, secret: &[u8]) {
        self.secret.copy_from_slice(secret);
        self.publish();
    }

    fn generate(&mut self, random: &mut dyn Random) -> Result<(), snow::Error> {
        random.try_fill_bytes(&mut *self.secret)?;
        self.publish();
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &*self.secret
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let public = public.get(..32).and_then(|bytes| bytes.try_into().ok()).ok_or(snow::Error::Dh)?;
        let shared = Zeroizing::new(x25519(*self.secret, public));
        out.get_mut(..32).ok_or(snow::Error::Dh)?.copy_from_slice(&*shared);
        Ok(())
    }
}

/// The key of one direction and the number of its next record.
struct Key {
    key: LessSafeKey,
    next: u64,
}

impl Key {
    fn new(bytes: &[u8; 32]) -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, bytes).expect("the key has the length of the cipher");
        Self { key: LessSafeKey::new(key), next: 0 }
    }

    fn nonce(&mut self) -> io::Result<Nonce> {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.next.to_le_bytes());
        self.next = self.next.checked_add(1).ok_or_else(|| io::Error::other("the connection has sent all it may"))?;
        Ok(Nonce::assume_unique_for_key(nonce))
    }

    /// Seals what lies there and gives its tag.
    fn seal(&mut self, plain: &mut [u8]) -> io::Result<[u8; TAG_LEN]> {
        let nonce = self.nonce()?;
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::empty(), plain);
        let tag = tag.map_err(|_| io::Error::other("a record cannot be sealed"))?;
        Ok(tag.as_ref().try_into().expect("the tag has the length of the cipher's"))
    }

    /// Opens a record where it lies and gives the length of what was in it.
    fn open(&mut self, record: &mut [u8]) -> io::Result<usize> {
        let nonce = self.nonce()?;
        let plain = self.key.open_in_place(nonce, Aad::empty(), record);
        let plain = plain.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a record was changed on its way"))?;
        Ok(plain.len())
    }
}

/// An encrypted connection.
pub(crate) struct Sealed<C> {
    io: C,
    ours: Key,
    theirs: Key,
    reading: Reading,
    /// Sealed records, of which `out[..sent]` are gone; behind `plain_from` the one that is being filled.
    out: Vec<u8>,
    sent: usize,
    plain_from: Option<usize>,
}

/// How far the record on its way is.
enum Reading {
    Length {
        bytes: [u8; LENGTH_LEN],
        got: usize,
    },
    Record {
        record: Vec<u8>,
        got: usize,
    },
    /// Opened, and given out up to `from`.
    Plain {
        record: Vec<u8>,
        from: usize,
        to: usize,
    },
}

const NEXT: Reading = Reading::Length { bytes: [0; LENGTH_LEN], got: 0 };

impl<C> Sealed<C> {
    fn new(io: C, ours: Key, theirs: Key) -> Self {
        Self { io, ours, theirs, reading: NEXT, out: Vec::new(), sent: 0, plain_from: None }
    }

    /// Seals the record that is being filled.
    fn seal(&mut self) -> io::Result<()> {
        let Some(from) = self.plain_from.take() else { return Ok(()) };
        let tag = self.ours.seal(&mut self.out[from..])?;
        self.out.extend(tag);
        let len = (self.out.len() - from) as u16;
        self.out[from - LENGTH_LEN..from].copy_from_slice(&len.to_be_bytes());
        Ok(())
    }
}

impl<C: AsyncWrite + Unpin> Sealed<C> {
    /// Seals and sends everything.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.seal()?;
        while self.sent < self.out.len() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.out[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                len => self.sent += len,
            }
        }
        // In the midst of much the buffer is of use again at once.
        if self.out.len() <= KEPT_BUFFER && self.out.capacity() > KEPT_BUFFER {
            self.out = Vec::new();
        }
        self.out.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Sealed<C> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        loop {
            match &mut this.reading {
                Reading::Length { bytes, got } if *got < LENGTH_LEN => {
                    match ready!(Pin::new(&mut this.io).poll_read(cx, &mut bytes[*got..]))? {
                        0 if *got == 0 => return Poll::Ready(Ok(0)),
                        0 => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                        len => *got += len,
                    }
                }
                Reading::Length { bytes, .. } => {
                    let len = usize::from(u16::from_be_bytes(*bytes));
                    this.reading = Reading::Record { record: vec![0; len], got: 0 };
                }
                Reading::Record { record, got } if *got < record.len() => {
                    match ready!(Pin::new(&mut this.io).poll_read(cx, &mut record[*got..]))? {
                        0 => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                        len => *got += len,
                    }
                }
                Reading::Record { record, .. } => {
                    let to = this.theirs.open(record)?;
                    this.reading = Reading::Plain { record: std::mem::take(record), from: 0, to };
                }
                Reading::Plain { from, to, .. } if from == to => this.reading = NEXT,
                Reading::Plain { record, from, to } => {
                    let len = buf.len().min(*to - *from);
                    buf[..len].copy_from_slice(&record[*from..*from + len]);
                    *from += len;
                    return Poll::Ready(Ok(len));
                }
            }
        }
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Sealed<C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.out.len() >= SECURE_UNSENT {
            ready!(this.poll_send(cx))?;
        }
        let from = match this.plain_from {
            Some(from) => from,
            None => {
                this.out.extend([0; LENGTH_LEN]);
                *this.plain_from.insert(this.out.len())
            }
        };
        let len = buf.len().min(MAX_PLAIN - (this.out.len() - from));
        this.out.extend_from_slice(&buf[..len]);
        if this.out.len() - from == MAX_PLAIN {
            this.seal()?;
        }
        Poll::Ready(Ok(len))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.io).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::future::{join, try_join};

    use super::*;

    fn identity(seed: u8) -> Keypair {
        Keypair::ed25519_from_bytes([seed; 32]).unwrap()
    }

    fn sockets() -> (async_io::Async<std::os::unix::net::UnixStream>, async_io::Async<std::os::unix::net::UnixStream>) {
        async_io::Async::<std::os::unix::net::UnixStream>::pair().unwrap()
    }

    #[test]
    fn payload_is_read_with_and_without_fields_of_others() {
        let ours = payload(&[1; 36], &[2; 64]);
        assert_eq!(parse_payload(&ours), Some((&[1; 36][..], &[2; 64][..])));
        let with_extension = [&ours[..], &[4 << 3 | 2, 3, 9, 9, 9]].concat();
        assert_eq!(parse_payload(&with_extension), parse_payload(&ours));
        for cut in 1..ours.len() {
            assert_ne!(parse_payload(&ours[..cut]), parse_payload(&ours), "{cut}");
        }
        let mut seed = 7_u64;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let mut any = with_extension.clone();
            any[(seed >> 48) as usize % ours.len()] = (seed >> 40) as u8;
            any.truncate((seed >> 32) as usize % any.len());
            // Whatever it is, it is read to its end without a panic.
            let _ = parse_payload(&any);
        }
        assert_eq!(parse_payload(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0x7f]), None);
        assert_eq!(parse_payload(&[0x08, 1]), None);
    }

    #[test]
    fn both_learn_who_the_other_one_is_and_what_it_says_arrives() {
        async_io::block_on(async {
            let (a, b) = sockets();
            let (ours, theirs) = (Noise::new(&identity(1)).unwrap(), Noise::new(&identity(2)).unwrap());
            let ((peer_of_a, mut a), (peer_of_b, mut b)) = try_join(ours.connect(a), theirs.accept(b)).await.unwrap();
            assert_eq!(peer_of_a, identity(2).public().to_peer_id());
            assert_eq!(peer_of_b, identity(1).public().to_peer_id());
            // Around the longest record, and more than is held unsent.
            for len in [0, 1, MAX_PLAIN - 1, MAX_PLAIN, MAX_PLAIN + 1, 3 * SECURE_UNSENT] {
                let sent: Vec<u8> = (0..len).map(|n| (n * 7) as u8).collect();
                let mut received = vec![0; len];
                let send = async {
                    a.write_all(&sent).await.unwrap();
                    a.flush().await.unwrap();
                };
                join(send, async { b.read_exact(&mut received).await.unwrap() }).await;
                assert!(sent == received, "{len}");
            }
            // Nothing is kept once little was said.
            a.write_all(b"bye").await.unwrap();
            a.flush().await.unwrap();
            assert!(a.out.capacity() <= KEPT_BUFFER, "{}", a.out.capacity());
            b.read_exact(&mut [0; 3]).await.unwrap();
            b.write_all(b"bye").await.unwrap();
            b.flush().await.unwrap();
            drop(b);
            let mut rest = Vec::new();
            a.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"bye");
        });
    }

    #[test]
    fn changed_records_and_foreign_keys_are_refused() {
        let (mut ours, mut theirs) = (Key::new(&[1; 32]), Key::new(&[1; 32]));
        let mut record = b"hello".to_vec();
        let tag = ours.seal(&mut record).unwrap();
        record.extend(tag);
        for position in 0..record.len() {
            let mut changed = record.clone();
            changed[position] ^= 1;
            assert!(Key::new(&[1; 32]).open(&mut changed).is_err(), "{position}");
        }
        assert!(Key::new(&[2; 32]).open(&mut record.clone()).is_err());
        assert!(theirs.open(&mut record.clone()).is_ok());
        // The same record once more is one too many.
        assert!(theirs.open(&mut record).is_err());
        theirs.next = u64::MAX;
        assert!(theirs.seal(&mut []).is_err());
    }

    #[test]
    fn identity_without_its_key_is_refused() {
        async_io::block_on(async {
            let (a, b) = sockets();
            let honest = Noise::new(&identity(1)).unwrap();
            // Another node's proof beside a key of one's own.
            let thief = Noise { proof: honest.proof.clone(), ..Noise::new(&identity(2)).unwrap() };
            let (stolen, refused) = join(thief.connect(a), honest.accept(b)).await;
            assert!(refused.is_err());
            drop(stolen);
        });
    }
}
