//! Which chunks of a manifest a store holds, as one bit each.
//!
//! Deliberately absent: a bitmap of a manifest that is too large for it; such a provider is asked chunk by chunk.

use crate::id::{ChunkId, ManifestId};
use crate::limits::MAX_HAVE_CHUNKS;
use crate::model::manifest::reader::{Cursor, ReadError, root};
use crate::port::{ChunkStore, StoreError};

/// What a provider holds of a version.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Have {
    /// Nothing is known.
    #[default]
    Unknown,
    /// Everything.
    All,
    /// One bit for each chunk in manifest order, lowest bit first.
    Some(Vec<u8>),
}

impl Have {
    /// What the fields of a `Have` answer mean; `n_chunks` as soon as the manifest says it.
    pub fn from_wire(complete: bool, bitmap: Vec<u8>) -> Self {
        match (complete, bitmap.len()) {
            (true, _) => Self::All,
            (false, 1..=MAX_BITMAP_LEN) => Self::Some(bitmap),
            (false, _) => Self::Unknown,
        }
    }

    /// The fields of a `Have` answer.
    pub fn into_wire(self) -> (bool, Vec<u8>) {
        match self {
            Self::All => (true, Vec::new()),
            Self::Some(bitmap) => (false, bitmap),
            Self::Unknown => (false, Vec::new()),
        }
    }

    /// Forgets a bitmap that does not belong to a manifest of so many chunks.
    #[must_use]
    pub fn checked(self, n_chunks: u64) -> Self {
        match self {
            Self::Some(bitmap) if bitmap.len() as u64 != n_chunks.div_ceil(8) => Self::Unknown,
            have => have,
        }
    }

    /// Whether the chunk at this place in manifest order may be there.
    pub fn may_have(&self, index: u64) -> bool {
        match self {
            Self::Unknown | Self::All => true,
            Self::Some(bitmap) => {
                let byte = usize::try_from(index / 8).ok().and_then(|byte| bitmap.get(byte));
                byte.is_some_and(|byte| byte >> (index % 8) & 1 == 1)
            }
        }
    }
}

const MAX_BITMAP_LEN: usize = MAX_HAVE_CHUNKS as usize / 8;

/// Looks up every chunk of a manifest; [`Have::Unknown`] when the manifest is not wholly held or too large.
///
/// Reads the pages and asks the index once for each chunk: for a thread that may wait.
///
/// # Errors
/// [`StoreError`] when the store cannot be read, or holds pages that are no manifest.
pub fn lookup(store: &dyn ChunkStore, manifest: ManifestId) -> Result<Have, StoreError> {
    let mut source = |id: &ChunkId| Ok(store.get(id)?.map(crate::chunk::Chunk::into_raw));
    let look = |source: &mut _| -> Result<Have, ReadError<StoreError>> {
        let root = root(manifest, &mut *source)?;
        if root.n_chunks > MAX_HAVE_CHUNKS {
            return Ok(Have::Unknown);
        }
        let mut bitmap = vec![0u8; root.n_chunks.div_ceil(8) as usize];
        let (mut cursor, mut index, mut all) = (Cursor::chunks(&root), 0usize, true);
        while let Some(chunk) = cursor.next(source)? {
            let has = store.has(&chunk.id).map_err(ReadError::Source)?;
            all &= has;
            // A root can say less than its pages hold; the bitmap is as long as the root says.
            if let Some(byte) = bitmap.get_mut(index / 8) {
                *byte |= u8::from(has) << (index % 8);
            }
            index += 1;
        }
        Ok(if all { Have::All } else { Have::Some(bitmap) })
    };
    match look(&mut source) {
        Ok(have) => Ok(have),
        Err(ReadError::Missing(_)) => Ok(Have::Unknown),
        Err(ReadError::Source(error)) => Err(error),
        Err(error) => Err(StoreError::Corrupt(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bitmap_that_does_not_fit_the_manifest_says_nothing() {
        let have = Have::from_wire(false, vec![0b101, 0b1]);
        assert!(have.may_have(0) && !have.may_have(1) && have.may_have(2) && have.may_have(8));
        assert!(!have.may_have(9) && !have.may_have(16) && !have.may_have(u64::MAX));
        assert_eq!(have.clone().checked(9), have);
        assert_eq!(have.clone().checked(8), Have::Unknown);
        assert_eq!(have.checked(17), Have::Unknown);
        assert_eq!(Have::from_wire(false, vec![0; MAX_BITMAP_LEN + 1]), Have::Unknown);
        assert_eq!(Have::from_wire(false, Vec::new()), Have::Unknown);
        assert_eq!(Have::from_wire(true, vec![1]).into_wire(), (true, Vec::new()));
    }
}
