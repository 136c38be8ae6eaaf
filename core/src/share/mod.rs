//! Shares of a secret key: any `threshold` of `total` people together have it, fewer know nothing of it.
//!
//! Shamir's scheme over GF(2^8) with the polynomial 0x11B, byte by byte, by a crate that is kept for that; this module
//! is the form of a share and what may be combined. A share says nothing of the secret but its own part, so what a
//! combination is worth is found out by whoever can check the secret.
//!
//! A share is a line that can be typed: small or capital letters and digits in groups, `0` read as `o` and `8` as `b`.
//! Its check names a share that was mistyped or damaged, and mostly the group, before anything is combined.

mod text;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use vsss_rs::{Gf256, IdentifierGf256, Polynomial, ReadableShareSet};
use zeroize::Zeroizing;

pub use rand_core::CryptoRng;
pub use text::{ShareError, ShareLine, lines};

use crate::id::UserId;
use crate::key::SecretKey;
use crate::limits::{MAX_SHARES, MIN_THRESHOLD};
use crate::sealed::{BOX_OVERHEAD, KEY_LEN, SealError, open, seal};

/// What boxes of shares are for.
const INFO: &str = "bib/share/1";
/// Bytes of the secret of a sealed share.
const SEALED_LEN: usize = KEY_LEN + BOX_OVERHEAD;

/// Names the shares that were made together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SetId(pub [u8; 8]);

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SetId({self})")
    }
}

/// How many shares there are and how many of them are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheme {
    threshold: u8,
    total: u8,
}

impl Scheme {
    /// A scheme; `None` unless `2 <= threshold <= total <= 16`.
    pub fn new(threshold: u8, total: u8) -> Option<Self> {
        (MIN_THRESHOLD <= threshold && threshold <= total && total <= MAX_SHARES).then_some(Self { threshold, total })
    }

    /// Shares that are needed.
    pub const fn threshold(self) -> u8 {
        self.threshold
    }

    /// Shares that there are.
    pub const fn total(self) -> u8 {
        self.total
    }
}

/// What everybody may know of a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShareName {
    /// Its set.
    pub set: SetId,
    /// Its number, from 1.
    pub index: u8,
    /// How many there are and are needed.
    pub scheme: Scheme,
}

impl ShareName {
    fn bytes(self) -> [u8; 11] {
        let mut bytes = [0; 11];
        bytes[..8].copy_from_slice(&self.set.0);
        bytes[8..].copy_from_slice(&[self.index, self.scheme.threshold, self.scheme.total]);
        bytes
    }

    fn from_bytes(bytes: &[u8; 11]) -> Option<Self> {
        let (set, [index, threshold, total]) = bytes.split_first_chunk::<8>().and_then(|(set, rest)| {
            let rest: [u8; 3] = rest.try_into().ok()?;
            Some((*set, rest))
        })?;
        let scheme = Scheme::new(threshold, total)?;
        (1..=total).contains(&index).then_some(Self { set: SetId(set), index, scheme })
    }
}

/// A share. It is a secret: whoever has enough of them has the key.
#[derive(Clone, PartialEq, Eq)]
pub struct Share {
    name: ShareName,
    value: Zeroizing<[u8; KEY_LEN]>,
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A share that one user can open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedShare {
    name: ShareName,
    user: UserId,
    sealed: [u8; SEALED_LEN],
}

impl Share {
    /// Which one it is.
    pub const fn name(&self) -> ShareName {
        self.name
    }

    /// Closes the share for a user. `ephemeral` is 32 random bytes, never used twice.
    ///
    /// # Errors
    /// [`SealError::WeakKey`] when nobody can have the user's key.
    pub fn seal_to(&self, user: &UserId, ephemeral: Zeroizing<[u8; 32]>) -> Result<SealedShare, SealError> {
        let sealed = seal(user.as_bytes(), INFO, &sealed_header(self.name, user), self.value.as_slice(), ephemeral)?;
        let sealed = sealed.try_into().expect("a box is longer than what is in it by a constant");
        Ok(SealedShare { name: self.name, user: *user, sealed })
    }
}

impl SealedShare {
    /// Which one it is.
    pub const fn name(&self) -> ShareName {
        self.name
    }

    /// Who can open it.
    pub const fn user(&self) -> &UserId {
        &self.user
    }

    /// Opens it with the user's key.
    ///
    /// # Errors
    /// [`SealError::Closed`] when the key is another one, or the share was changed on purpose.
    pub fn open(&self, key: &SecretKey) -> Result<Share, SealError> {
        let opened = open(key, INFO, &sealed_header(self.name, &self.user), &self.sealed)?;
        let mut value = Zeroizing::new([0; KEY_LEN]);
        if opened.len() != value.len() {
            return Err(SealError::Closed);
        }
        value.copy_from_slice(&opened);
        Ok(Share { name: self.name, value })
    }
}

fn sealed_header(name: ShareName, user: &UserId) -> Vec<u8> {
    [name.bytes().as_slice(), user.as_bytes()].concat()
}

/// Why shares cannot be combined.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CombineError {
    /// Too few.
    #[error("{have} of the {need} shares that are needed are there")]
    Missing {
        /// Different ones that are there.
        have: u8,
        /// That are needed.
        need: u8,
    },
    /// Of different sets.
    #[error("the shares are of different sets: {first} and {other}")]
    Mixed {
        /// One set.
        first: SetId,
        /// Another one.
        other: SetId,
    },
    /// One of them twice.
    #[error("share {index} is there twice")]
    Twice {
        /// Its number.
        index: u8,
    },
    /// They belong together and make a key, which is not the one that is wanted.
    #[error("the shares of the set {set} are whole, but do not make the key that is wanted")]
    WrongKey {
        /// The set.
        set: SetId,
    },
    /// They are of one set and do not agree on how many are needed, or twice the same number has another value.
    #[error("the shares of the set {set} contradict each other at share {index}: one of them was changed on purpose")]
    Contradiction {
        /// The set.
        set: SetId,
        /// The share.
        index: u8,
    },
}

/// A point of a polynomial: where, and its value there.
type Point = (IdentifierGf256, IdentifierGf256);

const fn element(byte: u8) -> IdentifierGf256 {
    IdentifierGf256(Gf256(byte))
}

/// Splits a key into shares.
pub fn split(secret: &[u8; KEY_LEN], scheme: Scheme, set: SetId, rng: &mut impl CryptoRng) -> Vec<Share> {
    let threshold = usize::from(scheme.threshold);
    let share = |index| Share { name: ShareName { set, index, scheme }, value: Zeroizing::new([0; KEY_LEN]) };
    let mut shares: Vec<Share> = (1..=scheme.total).map(share).collect();
    let mut polynomial: [Point; MAX_SHARES as usize] = Polynomial::<Point>::create(threshold);
    for (at, byte) in secret.iter().enumerate() {
        Polynomial::<Point>::fill(&mut polynomial, &element(*byte), &mut *rng, threshold)
            .expect("there is room for 16 coefficients, and a threshold is not more");
        for share in &mut shares {
            share.value[at] = polynomial.evaluate(&element(share.name.index), threshold).0.0;
        }
    }
    shares
}

/// Finds out whether shares belong together, and are enough; returns how many are needed.
///
/// # Errors
/// [`CombineError`] naming what is wrong first.
pub fn check(shares: &[Share]) -> Result<Scheme, CombineError> {
    let Some(first) = shares.first() else {
        return Err(CombineError::Missing { have: 0, need: MIN_THRESHOLD });
    };
    let mut seen: BTreeMap<u8, &Share> = BTreeMap::new();
    for share in shares {
        let ShareName { set, index, scheme } = share.name;
        if set != first.name.set {
            return Err(CombineError::Mixed { first: first.name.set, other: set });
        }
        if scheme != first.name.scheme {
            return Err(CombineError::Contradiction { set, index });
        }
        match seen.insert(index, share) {
            Some(other) if other == share => return Err(CombineError::Twice { index }),
            Some(_) => return Err(CombineError::Contradiction { set, index }),
            None => {}
        }
    }
    let (have, need) = (u8::try_from(seen.len()).unwrap_or(u8::MAX), first.name.scheme.threshold);
    if have < need { Err(CombineError::Missing { have, need }) } else { Ok(first.name.scheme) }
}

/// The key that shares of one set make. Shares with a wrong value make another key: check it.
///
/// # Errors
/// [`CombineError`] when they do not belong together or are too few.
pub fn combine(shares: &[Share]) -> Result<Zeroizing<[u8; KEY_LEN]>, CombineError> {
    let scheme = check(shares)?;
    let shares = &shares[..usize::from(scheme.threshold)];
    let mut key = Zeroizing::new([0; KEY_LEN]);
    for (at, byte) in key.iter_mut().enumerate() {
        let points = shares.iter().map(|share| (element(share.name.index), element(share.value[at])));
        let points: Vec<Point> = points.collect();
        *byte = points.combine().expect("there are two at least, their numbers differ, and none is zero").0.0;
    }
    Ok(key)
}

/// A key that was recognised.
pub struct Combined {
    /// The key.
    pub key: Zeroizing<[u8; KEY_LEN]>,
    /// Numbers of the shares that have a wrong value and were not needed.
    pub wrong: Vec<u8>,
}

impl fmt::Debug for Combined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Combined").field("wrong", &self.wrong).finish_non_exhaustive()
    }
}

/// As [`combine`], where the right key can be told. With more shares than are needed, wrong ones are found and passed
/// over.
///
/// # Errors
/// [`CombineError`] when the shares do not belong together, are too few, or make no right key.
pub fn combine_checked(shares: &[Share], is_right: impl Fn(&[u8; KEY_LEN]) -> bool) -> Result<Combined, CombineError> {
    let scheme = check(shares)?;
    let makes = |chosen: &[Share]| combine(chosen).ok().filter(|key| is_right(key));
    // At most 2^16 choices, as there are at most 16 shares.
    let choices = (1_u32..1 << shares.len()).filter(|choice| choice.count_ones() == u32::from(scheme.threshold));
    for choice in choices {
        let chosen: Vec<Share> =
            (0..).zip(shares).filter(|(at, _)| choice & (1 << at) != 0).map(|(_, share)| share.clone()).collect();
        let Some(key) = makes(&chosen) else { continue };
        let is_wrong = |other: &&Share| {
            let mut tried = chosen.clone();
            tried[0] = (*other).clone();
            makes(&tried).is_none()
        };
        let others = shares.iter().filter(|share| !chosen.contains(share));
        return Ok(Combined { key, wrong: others.filter(is_wrong).map(|share| share.name.index).collect() });
    }
    Err(CombineError::WrongKey { set: shares[0].name.set })
}
