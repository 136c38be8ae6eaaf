//! Finds the whole records in a part of a segment that the index does not know.
//!
//! Invariant: a record is shown only if it is whole by its checksum, and, once something in front of it was not, only
//! if its bytes have the hash that it names as well, or open with the key of the segment: bytes inside a torn record may
//! look like another one. A sealed record is shown only where the key of its segment is at hand.
//!
//! A power cut keeps any part of what was not yet synced, so whole records may lie behind a torn one. Memory is bounded
//! by one record and one window of the search.

use bib_core::chunk::Chunk;
use bib_core::port::StoreError;

use super::format::{RECORD_HEADER_LEN, RECORD_MAGIC, RecordCodec, RecordHeader};
use super::reference;
use crate::crypto::SegmentKey;
use crate::disk::{Disk, DiskFile};

/// Bytes that the search for the next record looks at in one step.
const WINDOW: usize = 64 << 10;

/// Shows each whole record from `from` to the end of the file to `found`, with its offset; returns the end of the last
/// one, or `from` if there is none. Without its key no record of a sealed segment is shown.
pub(super) fn records(
    disk: &dyn Disk,
    file: &dyn DiskFile,
    key: Option<&SegmentKey>,
    from: u64,
    found: &mut dyn FnMut(RecordHeader, u64) -> Result<(), StoreError>,
) -> Result<u64, StoreError> {
    let len = file.len()?;
    let (mut at, mut end, mut torn) = (from, from, false);
    while let Some(start) = if torn { search(file, at, len)? } else { Some(at) } {
        match record(disk, file, key, start, len, torn)? {
            Some(header) => {
                if header.cipher.is_some() == key.is_some() {
                    found(header, start)?;
                }
                at = start + header.record_len();
                end = at;
            }
            None if start >= len => break,
            None => (at, torn) = (start + 1, true),
        }
    }
    Ok(end)
}

/// The record at `start` if it is whole.
fn record(
    disk: &dyn Disk,
    file: &dyn DiskFile,
    key: Option<&SegmentKey>,
    start: u64,
    len: u64,
    verify: bool,
) -> Result<Option<RecordHeader>, StoreError> {
    let mut head = [0; RECORD_HEADER_LEN];
    if len.saturating_sub(start) < head.len() as u64 {
        return Ok(None);
    }
    file.read_exact_at(&mut head, start)?;
    let Some(header) = RecordHeader::decode(&head) else { return Ok(None) };
    if len - start < header.record_len() {
        return Ok(None);
    }
    let mut payload = vec![0; header.stored_len as usize];
    file.read_exact_at(&mut payload, start + head.len() as u64)?;
    let whole = RecordHeader::checksum_holds(&head, &payload)
        && (!verify
            || match (header.cipher, key, header.codec) {
                (Some(cipher), Some(key), _) => key.open(&header.place(cipher, start), payload).is_some(),
                (Some(_), None, _) => true,
                (None, _, RecordCodec::Chunk(codec)) => {
                    Chunk::verify(header.key.plain_id(), header.raw_len, codec, payload).is_ok()
                }
                (None, _, RecordCodec::Reference) => {
                    reference::may_hold(disk, header.key.plain_id(), header.raw_len, &payload)
                }
            });
    Ok(whole.then_some(header))
}

/// The next place, from `at` on, where a record may begin.
fn search(file: &dyn DiskFile, mut at: u64, len: u64) -> Result<Option<u64>, StoreError> {
    let mut window = vec![0; WINDOW];
    while len.saturating_sub(at) >= RECORD_HEADER_LEN as u64 {
        let held = (len - at).min(WINDOW as u64) as usize;
        file.read_exact_at(&mut window[..held], at)?;
        // A hole, most likely: this is faster than to look at each place.
        if window[..held].iter().all(|byte| *byte == 0) {
            at += held as u64;
            continue;
        }
        if let Some(found) = window[..held].windows(RECORD_MAGIC.len()).position(|bytes| bytes == RECORD_MAGIC) {
            return Ok(Some(at + found as u64));
        }
        // The last bytes may be the beginning of what is searched.
        at += (held - (RECORD_MAGIC.len() - 1)) as u64;
    }
    Ok(None)
}
