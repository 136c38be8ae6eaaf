//! The line of text that a share is.
//!
//! Stability: shares lie on paper for years; `VERSION` 1 stays readable.
//!
//! A plain share is `bibshare1` and base32 of: version, set (8), index, threshold, total, value (32), check (6). A sealed
//! one is `bibsealed1` and base32 of: version, set, index, threshold, total, user (32), box (80), check (6). Between
//! groups of five stands a `-`, which readers pass over, as all spaces.

use data_encoding::{BASE32_NOPAD, DecodeKind};
use zeroize::Zeroizing;

use super::{SEALED_LEN, SealedShare, Share, ShareName};
use crate::hash::hash_in_context;
use crate::id::UserId;
use crate::limits::MAX_SHARE_LINE;
use crate::sealed::KEY_LEN;

const VERSION: u8 = 1;
const PLAIN: &str = "bibshare1";
const SEALED: &str = "bibsealed1";
const CHECK_CONTEXT: &str = "bib 2026 check of a share";
const CHECK_LEN: usize = 6;
const NAME_LEN: usize = 11;
/// Bytes of a plain share; a multiple of five, so that base32 ends with a whole group.
const PLAIN_LEN: usize = 1 + NAME_LEN + KEY_LEN + CHECK_LEN;
const SEALED_SHARE_LEN: usize = 1 + NAME_LEN + 32 + SEALED_LEN + CHECK_LEN;
/// Letters of a group.
const GROUP: usize = 5;
const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// Why a text is not a share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShareError {
    /// It does not begin as one.
    #[error("it is not a share: a share begins with bibshare1 or bibsealed1")]
    Foreign,
    /// It has a character that no share has.
    #[error("`{character}` in group {group} is no letter of a share: they are a to z and 2 to 7")]
    Letter {
        /// The character.
        character: char,
        /// The group in which it stands, from 1.
        group: usize,
    },
    /// Something is missing, or too much.
    #[error("it has {have} letters behind its beginning, a whole share has {need}")]
    Length {
        /// That are there.
        have: usize,
        /// That should be.
        need: usize,
    },
    /// Its check does not fit.
    #[error("its check does not fit: it is mistyped or damaged{}", match group {
        Some(group) => format!(" in group {group}"),
        None => String::new(),
    })]
    Damaged {
        /// Where, if a single letter is wrong.
        group: Option<usize>,
    },
    /// Made by a newer program.
    #[error("it is a share of version {version}, this program reads version 1")]
    Unsupported {
        /// Its version.
        version: u8,
    },
    /// Its figures cannot be.
    #[error("its numbers cannot be those of a share")]
    Impossible,
}

/// What a line is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShareLine {
    /// A share that can be combined.
    Plain(Share),
    /// A share that its user must open first.
    Sealed(SealedShare),
}

fn check_of(bytes: &[u8]) -> [u8; CHECK_LEN] {
    let hash = hash_in_context(CHECK_CONTEXT, bytes);
    hash[..CHECK_LEN].try_into().expect("a hash has more bytes")
}

fn check_holds(bytes: &[u8]) -> bool {
    bytes.split_last_chunk::<CHECK_LEN>().is_some_and(|(body, check)| *check == check_of(body))
}

fn line(prefix: &str, body: &mut Zeroizing<Vec<u8>>) -> Zeroizing<String> {
    let check = check_of(body);
    body.extend_from_slice(&check);
    let letters = Zeroizing::new(BASE32_NOPAD.encode(body).to_ascii_lowercase());
    let mut text = Zeroizing::new(String::with_capacity(MAX_SHARE_LINE));
    text.push_str(prefix);
    for group in letters.as_bytes().chunks(GROUP) {
        text.push('-');
        text.extend(group.iter().copied().map(char::from));
    }
    text
}

/// A plain line with any body.
#[cfg(test)]
pub(super) fn line_for_test(body: Vec<u8>) -> Zeroizing<String> {
    line(PLAIN, &mut Zeroizing::new(body))
}

impl Share {
    /// The line of text that it is. A secret, as the share.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut body = Zeroizing::new(Vec::with_capacity(PLAIN_LEN));
        body.push(VERSION);
        body.extend_from_slice(&self.name.bytes());
        body.extend_from_slice(self.value.as_slice());
        line(PLAIN, &mut body)
    }
}

impl SealedShare {
    /// The line of text that it is.
    pub fn to_text(&self) -> String {
        let mut body = Zeroizing::new(Vec::with_capacity(SEALED_SHARE_LEN));
        body.push(VERSION);
        body.extend_from_slice(&self.name.bytes());
        body.extend_from_slice(self.user.as_bytes());
        body.extend_from_slice(&self.sealed);
        line(SEALED, &mut body).to_string()
    }
}

impl ShareLine {
    /// Which share it is.
    pub const fn name(&self) -> ShareName {
        match self {
            Self::Plain(share) => share.name,
            Self::Sealed(share) => share.name,
        }
    }

    /// Reads a line. Case, spaces and hyphens do not matter.
    ///
    /// # Errors
    /// [`ShareError`] naming what is wrong with it, where that can be said.
    pub fn parse(text: &str) -> Result<Self, ShareError> {
        if text.len() > MAX_SHARE_LINE {
            return Err(ShareError::Foreign);
        }
        let letters = text.chars().filter(|c| !c.is_whitespace() && *c != '-').map(|c| c.to_ascii_lowercase());
        let compact: Zeroizing<String> = Zeroizing::new(letters.collect());
        let (rest, len) = match (compact.strip_prefix(PLAIN), compact.strip_prefix(SEALED)) {
            (Some(rest), _) => (rest, PLAIN_LEN),
            (_, Some(rest)) => (rest, SEALED_SHARE_LEN),
            _ => return Err(ShareError::Foreign),
        };
        let bytes = decode(rest, len)?;
        let (version, rest) = bytes.split_first().ok_or(ShareError::Impossible)?;
        if *version != VERSION {
            return Err(ShareError::Unsupported { version: *version });
        }
        let (name, rest) = rest.split_first_chunk::<NAME_LEN>().ok_or(ShareError::Impossible)?;
        let name = ShareName::from_bytes(name).ok_or(ShareError::Impossible)?;
        let body = &rest[..rest.len() - CHECK_LEN];
        if len == PLAIN_LEN {
            let mut value = Zeroizing::new([0; KEY_LEN]);
            value.copy_from_slice(body);
            return Ok(Self::Plain(Share { name, value }));
        }
        let (user, sealed) = body.split_first_chunk::<32>().ok_or(ShareError::Impossible)?;
        let sealed = sealed.try_into().map_err(|_| ShareError::Impossible)?;
        Ok(Self::Sealed(SealedShare { name, user: UserId::from_bytes(*user), sealed }))
    }
}

/// The shares in a text, each with the number of its line, from 1. Empty lines and those that begin with `#` are none.
pub fn lines(text: &str) -> impl Iterator<Item = (usize, Result<ShareLine, ShareError>)> {
    let numbered = (1..).zip(text.lines()).map(|(number, line)| (number, line.trim()));
    let shares = numbered.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    shares.map(|(number, line)| (number, ShareLine::parse(line)))
}

/// The bytes that letters stand for, if there are as many as expected and their check fits.
fn decode(text: &str, len: usize) -> Result<Zeroizing<Vec<u8>>, ShareError> {
    let mut letters = Zeroizing::new(Vec::with_capacity(text.len()));
    for (at, character) in text.chars().enumerate() {
        let letter = match character {
            '0' => b'O',
            '8' => b'B',
            'a'..='z' | '2'..='7' => u8::try_from(character).unwrap_or(b'A').to_ascii_uppercase(),
            _ => return Err(ShareError::Letter { character, group: at / GROUP + 1 }),
        };
        letters.push(letter);
    }
    // Five bytes are eight letters; both lengths are multiples of five.
    let need = len / 5 * 8;
    if letters.len() != need {
        return Err(ShareError::Length { have: letters.len(), need });
    }
    let decode = |letters: &[u8]| match BASE32_NOPAD.decode(letters) {
        Ok(bytes) => Some(Zeroizing::new(bytes)),
        Err(error) => {
            debug_assert!(!matches!(error.kind, DecodeKind::Symbol), "the letters were looked at one by one");
            None
        }
    };
    let bytes = decode(&letters).ok_or(ShareError::Impossible)?;
    if check_holds(&bytes) {
        return Ok(bytes);
    }
    // With one letter put right it may fit: that says where to look. 48 bits of check fit by chance next to never.
    for at in 0..letters.len() {
        let typed = letters[at];
        for letter in LETTERS {
            letters[at] = *letter;
            if decode(&letters).is_some_and(|bytes| check_holds(&bytes)) {
                return Err(ShareError::Damaged { group: Some(at / GROUP + 1) });
            }
        }
        letters[at] = typed;
    }
    Err(ShareError::Damaged { group: None })
}
