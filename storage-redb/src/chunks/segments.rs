//! The segment files: their names, how one is made, and which are held open.

use std::io;
use std::sync::{Arc, Mutex};

use bib_core::limits::MAX_OPEN_SEGMENTS;
use bib_core::port::StoreError;

use super::format::{HeaderBytes, SEGMENT_HEADER_LEN, SegmentHeader};
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

/// Makes a segment; its bytes and its name are not durable yet.
pub(super) fn create(disk: &dyn Disk, header: SegmentHeader) -> Result<Arc<dyn DiskFile>, StoreError> {
    let file = disk.open(&segment_name(header.number), true).map_err(write_error)?;
    // A file that an earlier attempt left for want of space is made anew.
    file.set_len(0).map_err(write_error)?;
    file.write_all_at(&header.encode(), 0).map_err(write_error)?;
    Ok(file)
}

/// What the first bytes of a segment are, beside those that are expected there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// What is expected.
    Expected,
    /// Some of its bytes, and zeroes: what a power cut leaves of a header that was not durable yet.
    Torn,
    /// The header of this segment or store, and another store or segment.
    Other(SegmentHeader),
    /// The header of a format that this program does not know.
    Newer(u8),
    /// None of these.
    Damaged,
}

/// Compares the first bytes of a segment with the header that it should have.
pub(super) fn header(file: &dyn DiskFile, expected: SegmentHeader) -> io::Result<Found> {
    let mut bytes = [0; SEGMENT_HEADER_LEN];
    let held = file.len()?.min(bytes.len() as u64) as usize;
    file.read_exact_at(&mut bytes[..held], 0)?;
    Ok(match SegmentHeader::decode(&bytes) {
        HeaderBytes::Header(header) if header == expected => Found::Expected,
        HeaderBytes::Header(header) => Found::Other(header),
        HeaderBytes::Newer(version) => Found::Newer(version),
        HeaderBytes::Damaged if bytes.iter().zip(expected.encode()).all(|(byte, whole)| [0, whole].contains(byte)) => {
            Found::Torn
        }
        HeaderBytes::Damaged => Found::Damaged,
    })
}

pub(super) fn newer(number: u64, version: u8) -> StoreError {
    let name = segment_name(number);
    StoreError::Unsupported(format!("{name} has version {version}; use the newer program"))
}

#[derive(Default)]
struct Held {
    /// Number, when last used, file; few, so that a walk over all is cheap.
    files: Vec<(u64, u64, Arc<dyn DiskFile>)>,
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
        if let Some((_, used, file)) = held.files.iter_mut().find(|(known, ..)| *known == number) {
            *used = now;
            return Ok(file.clone());
        }
        let file = disk.open(&segment_name(number), false)?;
        let idle = held.files.iter().enumerate().min_by_key(|(_, (_, used, _))| *used).map(|(at, _)| at);
        if let Some(idle) = idle.filter(|_| held.files.len() >= MAX_OPEN_SEGMENTS) {
            held.files.swap_remove(idle);
        }
        held.files.push((number, now, file.clone()));
        Ok(file)
    }
}
