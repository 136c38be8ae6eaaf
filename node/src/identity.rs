//! The key that names the node: `identity.pem` in the data directory, an Ed25519 key in PKCS#8, for its owner alone.
//!
//! Invariant: a file with that name is whole, because it is written under another name, synced and renamed. A file
//! that others may read is refused: whoever has read it can pass for this node.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bib_core::key::SecretKey;
use data_encoding::BASE64;
use zeroize::Zeroizing;

/// Name of the file in the data directory.
const NAME: &str = "identity.pem";
const UNFINISHED: &str = "identity.pem.new";
/// What stands before the 32 bytes of an Ed25519 seed in PKCS#8, version 1.
const PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";
/// Bytes that are read of a key file: ten times what one has.
const MAX_LEN: u64 = 1_200;

/// Why the node has no identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The file cannot be read or made.
    #[error("cannot {doing} `{}`: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others may read it.
    #[error("the key `{}` may be read by others (mode {mode:04o})", path.display())]
    TooWide {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is no Ed25519 key.
    #[error("`{}` is not an Ed25519 key: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
}

impl IdentityError {
    /// What to do next.
    pub fn hint(&self) -> String {
        match self {
            Self::Io { .. } => {
                "check the data directory with `ls -l`; it must belong to the user that runs bibd".to_owned()
            }
            Self::TooWide { path, .. } => format!(
                "if nobody can have read it: `chmod 600 {0}`; else move it away, and the node gets a new identity (what is \
                 encrypted then opens only with shares of its key)",
                path.display()
            ),
            Self::Damaged { path, .. } => format!(
                "put a copy of the key in its place; without one, move `{}` away and keep it: the node then gets a new \
                 identity, and what is encrypted opens only with shares of its key (`bib admin keys recover`)",
                path.display()
            ),
        }
    }
}

/// The identity that is there.
///
/// # Errors
/// [`IdentityError`] when there is none, or it cannot be used.
pub fn load(data_dir: &Path) -> Result<SecretKey, IdentityError> {
    let path = data_dir.join(NAME);
    match File::open(&path) {
        Ok(file) => read(file, path),
        Err(source) => Err(IdentityError::Io { doing: "read", path, source }),
    }
}

/// Reads the identity of the node that has a data directory, or makes one. The directory must be locked for this
/// process.
///
/// # Errors
/// [`IdentityError`] when there is a file that cannot be used, or none can be made.
pub fn load_or_make(data_dir: &Path) -> Result<SecretKey, IdentityError> {
    let path = data_dir.join(NAME);
    match File::open(&path) {
        Ok(file) => read(file, path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(data_dir, path),
        Err(source) => Err(IdentityError::Io { doing: "read", path, source }),
    }
}

fn read(file: File, path: PathBuf) -> Result<SecretKey, IdentityError> {
    let mut text = Zeroizing::new(String::new());
    let metadata = match file.metadata() {
        Ok(metadata) => metadata,
        Err(source) => return Err(IdentityError::Io { doing: "read", path, source }),
    };
    if !metadata.is_file() {
        return Err(IdentityError::Damaged { path, reason: "it is not a file" });
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(IdentityError::TooWide { path, mode: metadata.mode() & 0o7777 });
    }
    match file.take(MAX_LEN).read_to_string(&mut text) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(IdentityError::Damaged { path, reason: "it is not text" });
        }
        Err(source) => return Err(IdentityError::Io { doing: "read", path, source }),
    }
    decode(&text).map_err(|reason| IdentityError::Damaged { path, reason })
}

fn decode(text: &str) -> Result<SecretKey, &'static str> {
    let body = text.trim().strip_prefix(BEGIN).ok_or("it does not begin as a private key in PEM")?;
    let body = body.strip_suffix(END).ok_or("it ends too early")?;
    let compact: Zeroizing<String> = Zeroizing::new(body.chars().filter(|c| !c.is_ascii_whitespace()).collect());
    let der = Zeroizing::new(BASE64.decode(compact.as_bytes()).map_err(|_| "its body is not base64")?);
    let seed = der.strip_prefix(&PKCS8).ok_or("it is a key of another kind")?;
    let seed: [u8; 32] = seed.try_into().map_err(|_| "it has not the length of a key")?;
    Ok(SecretKey::from_seed(seed))
}

fn encode(key: &SecretKey) -> Zeroizing<String> {
    let der = Zeroizing::new([PKCS8.as_slice(), key.seed()].concat());
    Zeroizing::new(format!("{BEGIN}\n{}\n{END}\n", *Zeroizing::new(BASE64.encode(&der))))
}

fn make(data_dir: &Path, path: PathBuf) -> Result<SecretKey, IdentityError> {
    let mut seed = Zeroizing::new([0; 32]);
    let made = getrandom::fill(seed.as_mut_slice()).map_err(io::Error::from);
    let key = SecretKey::from_seed(*seed);
    match made.and_then(|()| write(data_dir, &path, &encode(&key))) {
        Ok(()) => Ok(key),
        Err(source) => Err(IdentityError::Io { doing: "make", path, source }),
    }
}

fn write(data_dir: &Path, path: &Path, text: &str) -> io::Result<()> {
    let unfinished = data_dir.join(UNFINISHED);
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&unfinished, path)?;
    File::open(data_dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn identity_is_made_once_and_for_the_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let made = load_or_make(dir.path()).unwrap();
        let file = dir.path().join(NAME);
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(load_or_make(dir.path()).unwrap().node_id(), made.node_id());
        assert!(std::fs::read_to_string(&file).unwrap().starts_with(BEGIN));
        let other = tempfile::tempdir().unwrap();
        assert_ne!(load_or_make(other.path()).unwrap().node_id(), made.node_id());
    }

    #[test]
    fn what_an_interrupted_start_left_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(UNFINISHED), "half").unwrap();
        load_or_make(dir.path()).unwrap();
        assert!(!dir.path().join(UNFINISHED).exists());
    }

    #[test]
    fn key_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        load_or_make(dir.path()).unwrap();
        for mode in [0o640, 0o604, 0o620] {
            std::fs::set_permissions(dir.path().join(NAME), PermissionsExt::from_mode(mode)).unwrap();
            let refused = load_or_make(dir.path()).unwrap_err();
            assert!(matches!(refused, IdentityError::TooWide { mode: found, .. } if found == mode), "{refused}");
            assert!(refused.hint().contains("chmod 600"));
        }
    }

    #[test]
    fn damaged_keys_are_named_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let whole = load_or_make(dir.path()).map(|key| encode(&key)).unwrap();
        let file = dir.path().join(NAME);
        let other_kind = whole.replace("MC4CAQAwBQYDK2Vw", "MC4CAQAwBQYDK2Vu");
        let damaged: [&[u8]; 6] =
            [b"", b"\xff\xfe", b"hello", &whole.as_bytes()[..60], other_kind.as_bytes(), &[b'x'; 5_000]];
        for bytes in damaged {
            std::fs::write(&file, bytes).unwrap();
            let refused = load_or_make(dir.path()).unwrap_err();
            assert!(matches!(refused, IdentityError::Damaged { .. }), "{refused}");
            assert_eq!(std::fs::read(&file).unwrap(), bytes);
        }
    }

    #[test]
    fn key_is_what_other_programs_write() {
        // The example of RFC 8410, section 10.3.
        let text = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
        let key = decode(text).unwrap();
        assert_eq!(key.public_bytes()[..4], [0x19, 0xbf, 0x44, 0x09]);
        assert_eq!(*encode(&key), text);
    }
}
