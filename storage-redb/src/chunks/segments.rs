//! The segment files: their names, how one is made, and which are held open, with their keys.

use std::io;
use std::sync::{Arc, Mutex};

use bib_core::limits::MAX_OPEN_SEGMENTS;
use bib_core::port::StoreError;

use super::format::{HeaderBytes, SEAL_OFFSET, SEGMENT_HEADER_LEN, SegmentHeader};
use crate::crypto::{Keyring, SegmentKey, SegmentSeal};
use crate::database::{lock, write_error};
use crate::disk::{Disk, DiskFile};

/// Name of a segment's file.
pub(super) fn segment_name(number: u64) -> String {
    format!("{number:010}.seg")
}

/// The number in a file name; `None` for a name that no segment has.
pub(super) fn segment_number(name: &str) -> Option<u64> {
    let number: u64 = name.strip_suffix(".seg")?.parse().ok()?;
    // A file of somebody else must not leave the store without a next number.
    (number < u64::MAX / 2 && segment_name(number) == name).then_some(number)
}

/// The file of a segment; `None` if what has its name is a folder, which is left alone.
pub(super) fn open(disk: &dyn Disk, number: u64) -> io::Result<Option<Arc<dyn DiskFile>>> {
    match disk.open(&segment_name(number), false) {
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
            log::warn!(file = segment_name(number); "a folder with the name of a segment is left alone");
            Ok(None)
        }
        file => file.map(Some),
    }
}

/// Makes a segment; its bytes and its name are not durable yet.
pub(super) fn create(disk: &dyn Disk, header: SegmentHeader) -> Result<Arc<dyn DiskFile>, StoreError> {
    let file = disk.open(&segment_name(header.number), true).map_err(write_error)?;
    // A file that an earlier attempt left for want of space is made anew.
    file.set_len(0).map_err(write_error)?;
    file.write_all_at(&header.encode(), 0).map_err(write_error)?;
    Ok(file)
}

/// What the first bytes of a segment are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// The header that is expected there, with its seal.
    Expected(Option<SegmentSeal>),
    /// Some of its bytes, and zeroes: what a power cut leaves of a header that was not durable yet.
    Torn,
    /// The header of this segment or store, and another store or segment.
    Other(SegmentHeader),
    /// The header of a format that this program does not know.
    Newer(u8),
    /// None of these.
    Damaged,
}

/// Compares the first bytes of a segment with the number and store that it should have.
pub(super) fn header(file: &dyn DiskFile, number: u64, store: [u8; 16]) -> io::Result<Found> {
    let mut bytes = [0; SEGMENT_HEADER_LEN];
    let held = file.len()?.min(bytes.len() as u64) as usize;
    file.read_exact_at(&mut bytes[..held], 0)?;
    let plain = SegmentHeader { number, store, seal: None }.encode();
    let is_part_of = |whole: &[u8]| bytes.iter().zip(whole).all(|(byte, whole)| [0, *whole].contains(byte));
    let sealed = SegmentHeader { number, store, seal: Some(SegmentSeal::default()) }.encode();
    Ok(match SegmentHeader::decode(&bytes) {
        HeaderBytes::Header(header) if (header.number, header.store) == (number, store) => Found::Expected(header.seal),
        HeaderBytes::Header(header) => Found::Other(header),
        HeaderBytes::Newer(version) => Found::Newer(version),
        // What stands behind the store in a sealed one is random.
        HeaderBytes::Damaged if is_part_of(&plain) || is_part_of(&sealed[..SEAL_OFFSET]) => Found::Torn,
        HeaderBytes::Damaged => Found::Damaged,
    })
}

pub(super) fn newer(number: u64, version: u8) -> StoreError {
    let name = segment_name(number);
    StoreError::Unsupported(format!("{name} has version {version}; use the newer program"))
}

/// An open segment, and its key if it was asked for.
#[derive(Clone)]
struct Open {
    file: Arc<dyn DiskFile>,
    key: Option<Arc<SegmentKey>>,
}

#[derive(Default)]
struct Held {
    /// Number, when last used, file; few, so that a walk over all is cheap.
    files: Vec<(u64, u64, Open)>,
    uses: u64,
}

/// Files open for reading, the longest unused closed first.
#[derive(Default)]
pub(super) struct OpenSegments(Mutex<Held>);

impl OpenSegments {
    /// The file of a segment.
    pub(super) fn get(&self, disk: &dyn Disk, number: u64) -> io::Result<Arc<dyn DiskFile>> {
        let mut held = lock(&self.0);
        held.uses += 1;
        let now = held.uses;
        if let Some((_, used, open)) = held.files.iter_mut().find(|(known, ..)| *known == number) {
            *used = now;
            return Ok(open.file.clone());
        }
        let file = disk.open(&segment_name(number), false)?;
        let idle = held.files.iter().enumerate().min_by_key(|(_, (_, used, _))| *used).map(|(at, _)| at);
        if let Some(idle) = idle.filter(|_| held.files.len() >= MAX_OPEN_SEGMENTS) {
            held.files.swap_remove(idle);
        }
        held.files.push((number, now, Open { file: file.clone(), key: None }));
        Ok(file)
    }

    /// Closes the file of a segment that is removed.
    pub(super) fn forget(&self, number: u64) {
        lock(&self.0).files.retain(|(known, ..)| *known != number);
    }

    /// The key of a sealed segment; `None` if its header is not one of it.
    pub(super) fn key(
        &self,
        disk: &dyn Disk,
        number: u64,
        store: [u8; 16],
        keyring: &Keyring,
    ) -> Result<Option<Arc<SegmentKey>>, StoreError> {
        let file = self.get(disk, number)?;
        let known =
            lock(&self.0).files.iter().find(|(known, ..)| *known == number).and_then(|(.., open)| open.key.clone());
        if known.is_some() {
            return Ok(known);
        }
        let Found::Expected(Some(seal)) = header(file.as_ref(), number, store)? else { return Ok(None) };
        let key = Arc::new(keyring.segment_key(&seal, &store, number)?);
        if let Some((.., open)) = lock(&self.0).files.iter_mut().find(|(known, ..)| *known == number) {
            open.key = Some(key.clone());
        }
        Ok(Some(key))
    }
}
