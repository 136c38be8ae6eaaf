//! Where bytes of a chunk lie that stay in a file of their owner instead of the store.
//!
//! Invariant: a path is absolute and says what it means: no part of it is empty, `.` or `..`. Whether the file is there,
//! and holds the bytes, is asked anew at each read.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::encode::Versioned;
use crate::limits::{MAX_FILE_PLACE_LEN, MAX_LOCAL_PATH_LEN};

/// A place in a file of this machine. Stability: payload of a record of the chunk store, described in `docs/format.md`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Encoded", into = "Encoded")]
pub struct FilePlace {
    path: Vec<u8>,
    offset: u64,
}

#[derive(Serialize, Deserialize)]
struct Encoded {
    path: ByteBuf,
    offset: u64,
}

impl From<FilePlace> for Encoded {
    fn from(FilePlace { path, offset }: FilePlace) -> Self {
        Self { path: ByteBuf::from(path), offset }
    }
}

impl TryFrom<Encoded> for FilePlace {
    type Error = &'static str;

    fn try_from(Encoded { path, offset }: Encoded) -> Result<Self, Self::Error> {
        Self::new(path.into_vec(), offset).ok_or("the path is not absolute, is too long or has detours")
    }
}

impl Versioned for FilePlace {
    const WHAT: &'static str = "place in a file";
    const MAX_LEN: usize = MAX_FILE_PLACE_LEN;
}

/// Whether bytes are an absolute path without detours that is not too long.
pub fn is_plain_path(path: &[u8]) -> bool {
    let Some(parts) = path.strip_prefix(b"/") else { return false };
    path.len() <= MAX_LOCAL_PATH_LEN
        && !path.contains(&0)
        && parts.split(|byte| *byte == b'/').all(|part| !matches!(part, b"" | b"." | b".."))
}

impl FilePlace {
    /// The place, unless the path is not [plain](is_plain_path).
    pub fn new(path: Vec<u8>, offset: u64) -> Option<Self> {
        is_plain_path(&path).then_some(Self { path, offset })
    }

    /// The path, in bytes as the system has it.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// First byte in the file.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// The path for people.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::{decode, encode};

    #[test]
    fn places_come_back_and_paths_with_detours_do_not() {
        let place = FilePlace::new(b"/data/temps\xff.csv".to_vec(), 1 << 40).unwrap();
        assert_eq!(decode(&encode(&place)), Ok(place));
        let detours: [&[u8]; 10] = [b"", b"/", b"a", b"a/b", b"//a", b"/a/", b"/a//b", b"/a/../b", b"/./a", b"/a\0b"];
        for path in detours {
            assert_eq!(FilePlace::new(path.to_vec(), 0), None, "{path:?}");
            let hostile = FilePlace { path: path.to_vec(), offset: 0 };
            assert!(decode::<FilePlace>(&encode(&hostile)).is_err(), "{path:?}");
        }
    }

    #[test]
    fn place_is_bounded() {
        let longest = [b"/".as_slice(), &vec![b'x'; MAX_LOCAL_PATH_LEN - 1]].concat();
        let place = FilePlace::new(longest.clone(), u64::MAX).unwrap();
        assert_eq!(decode(&encode(&place)), Ok(place));
        let longer = [longest.as_slice(), b"x"].concat();
        assert_eq!(FilePlace::new(longer.clone(), 0), None);
        assert!(decode::<FilePlace>(&encode(&FilePlace { path: longer, offset: 0 })).is_err());
    }
}
