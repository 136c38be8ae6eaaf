//! Reading everything again, to find what the medium has changed before somebody needs it.
//!
//! Records are read in the order in which they lie. What is not what was written is noted as damaged; a record whose bytes
//! are whole and whose header is not is written again, since an index could not be made from it.
//!
//! Memory: the places of [`SCRUB_RECORDS`](limits::SCRUB_RECORDS) records, which one walk over the index finds.

use std::collections::BinaryHeap;
use std::io;

use bib_core::chunk::identify;
use bib_core::encode::decode;
use bib_core::hash::hash;
use bib_core::id::ChunkId;
use bib_core::limits;
use bib_core::place::FilePlace;
use bib_core::port::{ScrubCursor, ScrubStep, StoreError};

use super::format::{Key, Location, RECORD_HEADER_LEN, RecordCodec, RecordHeader};
use super::reference;
use super::store::{Payload, SegmentStore, is_absent};
use crate::database::lock;
use crate::disk::DiskFile;

/// Records that come next, in descending order of their places.
#[derive(Debug, Default)]
pub(super) struct Scrubbing {
    next: Vec<(ScrubCursor, Key)>,
    /// Where the first of them was looked for, and whether there are more behind the last.
    from: ScrubCursor,
    has_more: bool,
}

/// What a record turned out to be.
pub(super) enum Record {
    /// What was written.
    Whole,
    /// The bytes are, and the header is not.
    BadHeader(Vec<u8>),
    /// Something else.
    Damaged,
    /// Whole, and it stands for bytes of a file that are not there.
    Changed,
}

pub(super) fn place(location: &Location) -> ScrubCursor {
    ScrubCursor { segment: location.segment, offset: location.offset }
}

impl SegmentStore {
    pub(super) fn scrub(&self, from: ScrubCursor, max_bytes: u64) -> Result<ScrubStep, StoreError> {
        let mut scrubbing = lock(&self.scrubbing);
        if scrubbing.next.is_empty() || scrubbing.from != from {
            *scrubbing = self.places_from(from)?;
        }
        let mut step = ScrubStep::default();
        while let Some((at, key)) = scrubbing.next.pop() {
            // It may have been moved, given up, or found damaged since it was looked for.
            if let Some(location) = self.find(&key)?.filter(|location| place(location) == at) {
                step.chunks += 1;
                step.bytes += location.record_len();
                step.damaged += u64::from(!self.check(&key, &location)?);
            }
            if step.bytes >= max_bytes || scrubbing.next.is_empty() {
                let is_end = scrubbing.next.is_empty() && !scrubbing.has_more;
                step.next = (!is_end).then_some(ScrubCursor { offset: at.offset + 1, ..at });
                break;
            }
        }
        scrubbing.from = step.next.unwrap_or_default();
        Ok(step)
    }

    /// The records that come next.
    fn places_from(&self, from: ScrubCursor) -> Result<Scrubbing, StoreError> {
        let mut heap: BinaryHeap<(ScrubCursor, Key)> = BinaryHeap::new();
        let mut has_more = false;
        self.index().snapshot()?.each(&mut |key, location| {
            let at = place(&location);
            if at < from || (heap.len() >= limits::SCRUB_RECORDS && heap.peek().is_some_and(|(last, _)| *last < at)) {
                has_more |= at >= from;
                return;
            }
            heap.push((at, key));
            if heap.len() > limits::SCRUB_RECORDS {
                heap.pop();
                has_more = true;
            }
        })?;
        let mut next = heap.into_sorted_vec();
        next.reverse();
        Ok(Scrubbing { next, from, has_more })
    }

    /// Reads a record and notes if it is damaged; whether it is whole.
    fn check(&self, key: &Key, location: &Location) -> Result<bool, StoreError> {
        match self.read_record(key, location)? {
            Record::Whole | Record::Changed => Ok(true),
            Record::BadHeader(payload) => {
                log::warn!(segment = location.segment, offset = location.offset; "a damaged record header is written again");
                let mut writer = self.writable()?;
                if self.find(key)? == Some(*location) {
                    let what = (location.raw_len, location.codec);
                    self.append(&mut writer, *key, what, &payload, Some(*location))?;
                }
                Ok(true)
            }
            // Given up or moved while it was read.
            Record::Damaged if self.find(key)? != Some(*location) => Ok(true),
            Record::Damaged => {
                log::error!(segment = location.segment, offset = location.offset; "a chunk is damaged");
                self.note_damaged(key, location)?;
                Ok(false)
            }
        }
    }

    /// Reads a record and says what it is.
    pub(super) fn read_record(&self, key: &Key, location: &Location) -> Result<Record, StoreError> {
        let payload = match self.payload(key, location) {
            Ok(Payload::Whole(payload)) => payload,
            Ok(Payload::Damaged(_)) => return Ok(Record::Damaged),
            Err(StoreError::Io(error)) if is_absent(&error) => return Ok(Record::Damaged),
            Err(error) => return Err(error),
        };
        let id = match location.codec {
            RecordCodec::Chunk(codec) => identify(location.raw_len, codec, &payload),
            RecordCodec::Reference => {
                let Ok(place) = decode::<FilePlace>(&payload) else { return Ok(Record::Damaged) };
                let bytes = reference::bytes(&self.disk, &place, location.raw_len);
                let id = bytes.ok().map(|bytes| ChunkId::from_bytes(hash(&bytes)));
                // Whoever reads the chunk is told of the file.
                if id.is_none_or(|id| self.key(&id) != *key) {
                    return Ok(Record::Changed);
                }
                id
            }
        };
        if id.is_none_or(|id| self.key(&id) != *key) {
            return Ok(Record::Damaged);
        }
        let file = self.open.get(&self.disk, location.segment)?;
        let is_whole = self.header_holds(file.as_ref(), key, location)?;
        Ok(if is_whole { Record::Whole } else { Record::BadHeader(payload) })
    }

    /// Whether the header of a record says what the index says, and its checksum holds.
    fn header_holds(&self, file: &dyn DiskFile, key: &Key, location: &Location) -> io::Result<bool> {
        let mut record = vec![0; RECORD_HEADER_LEN + location.stored_len as usize];
        file.read_exact_at(&mut record, location.offset)?;
        let Some((head, payload)) = record.split_first_chunk::<RECORD_HEADER_LEN>() else { return Ok(false) };
        let says_the_same = RecordHeader::decode(head)
            .is_some_and(|header| RecordHeader { key: self.key_of_record(&header), ..header } == location.header(*key));
        Ok(says_the_same && RecordHeader::checksum_holds(head, payload))
    }
}
