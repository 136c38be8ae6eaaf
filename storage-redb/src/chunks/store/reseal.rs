//! Writing the chunks of a segment again, at the end of the store: sealed with the newest key, where there are keys.
//!
//! Invariant: a segment is removed when the commit of the index that names all its chunks elsewhere is durable, and not
//! before. Killed at any moment, the next step goes on: chunks that were moved are not in the way, and a segment that is
//! still there has none any more.
//!
//! Deliberately absent: when to do it, and how fast; who asks for steps waits between them.

use bib_core::chunk::{Chunk, ChunkError};
use bib_core::id::ChunkId;
use bib_core::port::StoreError;

use super::super::format::{Key, Location, RecordCodec, RecordHeader, SEGMENT_HEADER_LEN};
use super::super::index::State;
use super::super::recovery;
use super::super::segments::{self, Found, segment_name, segment_number};
use super::{Payload, SegmentStore, Writer};
use crate::database::{lock, write_error};
use crate::disk::Disk;

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resealed {
    /// The segment that was removed; `None` for the last step, which only tidies the index.
    pub segment: Option<u64>,
    /// Bytes that its chunks take now.
    pub written_bytes: u64,
    /// Plain segments that are left.
    pub n_left: u64,
}

/// Entries of the index that are looked at, or removed, together.
const MAX_REMOVED: usize = 16_384;

impl SegmentStore {
    /// Seals the chunks of one segment that was written before the store was encrypted, and removes it; `None` when
    /// there is nothing to do any more. Chunks can be put and read meanwhile. Needs as much space as the segment has
    /// live bytes.
    ///
    /// # Errors
    /// [`StoreError::Full`] when there is no space: a later step goes on. Other [`StoreError`]s when the segment cannot
    /// be read or the chunks cannot be written.
    pub fn reseal_step(&self) -> Result<Option<Resealed>, StoreError> {
        let sealed_from = lock(&self.writer).figures.sealed_from;
        if !self.has_plain_segments() {
            return Ok(None);
        }
        let names = self.disk.list()?;
        let numbers = names.iter().filter_map(|name| segment_number(name)).filter(|number| *number < sealed_from);
        let numbers: Vec<u64> = numbers.collect();
        for &number in &numbers {
            let file = match segments::open(&self.disk, number) {
                // A collection has removed it.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                file => file?,
            };
            let Some(file) = file else { continue };
            match segments::header(file.as_ref(), number, self.store)? {
                Found::Other(_) | Found::Newer(_) => {}
                // A damaged header says nothing of the records.
                Found::Expected(_) | Found::Torn | Found::Damaged => {
                    let written_bytes = self.rewrite(number)?;
                    return Ok(Some(Resealed {
                        segment: Some(number),
                        written_bytes,
                        n_left: numbers.len() as u64 - 1,
                    }));
                }
            }
        }
        self.end_reseal(sealed_from)?;
        Ok(Some(Resealed { segment: None, written_bytes: 0, n_left: 0 }))
    }

    /// Moves all chunks of a segment to the end of the store and removes it; the bytes that they take there.
    fn rewrite(&self, number: u64) -> Result<u64, StoreError> {
        let file = self.open.get(&self.disk, number)?;
        let mut written_bytes = 0;
        let from = SEGMENT_HEADER_LEN as u64;
        let key = match &self.keyring {
            None => None,
            Some(keyring) => self.open.key(&self.disk, number, self.store, keyring)?,
        };
        let (mut at, mut is_gapless) = (from, true);
        recovery::records(&self.disk, file.as_ref(), key.as_deref(), from, &mut |header, offset| {
            is_gapless &= offset == at;
            at = offset + header.record_len();
            let RecordHeader { raw_len, stored_len, codec, cipher, .. } = header;
            let location = Location { segment: number, offset, raw_len, stored_len, codec, cipher };
            written_bytes += self.move_record(&self.key_of_record(&header), &location, false)?;
            Ok(())
        })?;
        if !is_gapless || at != file.len()? {
            written_bytes += self.move_what_is_hidden(number)?;
        }
        let mut writer = self.writable()?;
        self.flush_locked(&mut writer)?;
        // The index may still name it although all that was found behind it was known before.
        let tails = [writer.figures.tail, writer.committed.tail];
        if tails.into_iter().flatten().any(|(tail, _)| tail == number) {
            self.begin_segment(&mut writer)?;
        }
        let freed = file.allocated()?;
        self.open.forget(number);
        match self.disk.remove(&segment_name(number)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            removed => {
                removed.map_err(write_error)?;
                writer.n_segments -= 1;
                writer.freed(freed);
            }
        }
        Ok(written_bytes)
    }

    /// Moves the chunks whose record headers are damaged, while their bytes are not: the index knows where they lie.
    fn move_what_is_hidden(&self, number: u64) -> Result<u64, StoreError> {
        self.flush_locked(&mut *self.writable()?)?;
        let snapshot = self.index().snapshot()?;
        let (mut after, mut written_bytes) = (None, 0);
        loop {
            let page = snapshot.page(after, MAX_REMOVED)?;
            let Some((last, _)) = page.last() else { return Ok(written_bytes) };
            after = Some(*last.as_bytes());
            for (key, location) in page.iter().filter(|(_, location)| location.segment == number) {
                written_bytes += self.move_record(key, location, true)?;
            }
        }
    }

    /// Moves a chunk, if this is the record that counts, and, where that is asked, if its bytes have the hash that its
    /// key is of; the bytes that it takes now.
    fn move_record(&self, key: &Key, location: &Location, verify: bool) -> Result<u64, StoreError> {
        let mut held = self.find(key)?;
        if held.is_none() {
            // A sweep that fails takes back that it gave the chunk up; one under way holds this lock.
            let _writer = self.writable()?;
            held = self.find(key)?;
        }
        if held != Some(*location) {
            return Ok(0);
        }
        let Payload::Whole(payload) = self.payload(key, location)? else { return Ok(0) };
        if let (true, RecordCodec::Chunk(codec)) = (verify, location.codec) {
            // The id is not known, but the one that the bytes have is told.
            let none = ChunkId::from_bytes([0; 32]);
            let found = match Chunk::verify(none, location.raw_len, codec, payload.clone()) {
                Err(ChunkError::WrongHash { found, .. }) => found,
                _ => return Ok(0),
            };
            if self.key(&found) != *key {
                return Ok(0);
            }
        }
        let mut writer = self.writable()?;
        // It may have been found damaged, or put in place of a reference, meanwhile.
        if self.find(key)? != Some(*location) {
            return Ok(0);
        }
        self.append(&mut writer, *key, (location.raw_len, location.codec), &payload, Some(*location))?;
        Ok(self.find(key)?.map_or(0, |moved| moved.record_len()))
    }

    /// Begins another segment, though the last one is not full; nothing may wait to be flushed.
    pub(in super::super) fn end_segment(&self, writer: &mut Writer) -> Result<(), StoreError> {
        writer.tail = None;
        self.begin_segment(writer)
    }

    /// Lets the index name the segment that takes the next record as the last one.
    fn begin_segment(&self, writer: &mut Writer) -> Result<(), StoreError> {
        let tail = self.tail_for(writer, 0)?;
        let end = (tail.number, tail.len);
        self.sync(writer)?;
        let figures = State { tail: Some(end), ..writer.figures };
        self.commit(writer, &[], figures)
    }

    /// Removes what the index still says of segments that are gone: chunks that could not be read.
    fn end_reseal(&self, sealed_from: u64) -> Result<(), StoreError> {
        let mut writer = self.writable()?;
        self.flush_locked(&mut writer)?;
        loop {
            let mut figures = writer.figures;
            let mut lost = Vec::new();
            self.index().snapshot()?.each(&mut |key, location| {
                if location.segment < sealed_from && lost.len() < MAX_REMOVED {
                    lost.push(key);
                    figures.discount(&location);
                    // Its segment is gone.
                    figures.dead_bytes = figures.dead_bytes.saturating_sub(location.record_len());
                }
            })?;
            if lost.is_empty() {
                // A segment whose name comes back after a power cut would not be looked for again.
                self.disk.sync_folder().map_err(write_error)?;
                figures.sealed_from = 0;
                return self.commit(&mut writer, &[], figures);
            }
            log::warn!(chunks = lost.len(); "chunks that could not be read are no longer held");
            self.commit(&mut writer, &lost, figures)?;
            let mut view = self.view_mut();
            view.damaged.retain(|key| !lost.contains(key));
        }
    }

    /// Removes entries from the index and sets the figures; nothing may wait to be flushed.
    fn commit(&self, writer: &mut Writer, removed: &[Key], figures: State) -> Result<(), StoreError> {
        let damaged = {
            let mut view = self.view_mut();
            view.indexed = None;
            view.damaged.iter().filter(|key| !removed.contains(key)).copied().collect()
        };
        let committed = self.index().commit(std::iter::empty(), removed, &damaged, &figures);
        self.close_if_failed(writer, committed)?;
        (writer.figures, writer.committed) = (figures, figures);
        self.view_mut().indexed = None;
        Ok(())
    }
}
