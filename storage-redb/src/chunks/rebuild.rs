//! The index made anew from the segments alone, while the store is open.
//!
//! Writers wait; readers go on with the old index until the new one is whole and has its name, and whoever asks for
//! figures hears those of before. An error from then on closes the store for writing: what would be written to the old
//! index would go with it. Of a chunk with several
//! records the last whole one counts, and none that is a reference beside one with the bytes. What a collection has taken
//! out of the index and not given back yet comes back, and goes with the next one.
//!
//! Memory: [`REBUILD_BATCH`](limits::REBUILD_BATCH) entries, and one record.

use std::collections::BTreeMap;
use std::sync::Arc;

use bib_core::limits;
use bib_core::port::{Rebuilt, StoreError};

use super::format::{Key, Location, RecordHeader, SEGMENT_HEADER_LEN};
use super::index::{Index, NewIndex, State};
use super::recovery;
use super::segments::{self, Found};
use super::store::{SegmentStore, Standing, unpoisoned};
use crate::database::{lock, write_error};

/// Entries on their way into a new index.
struct Batch<'a> {
    index: &'a NewIndex<'a>,
    entries: BTreeMap<Key, Location>,
    state: State,
}

impl Batch<'_> {
    fn add(&mut self, key: Key, new: Location) -> Result<(), StoreError> {
        self.state.count(&new);
        match self.entries.get(&key) {
            Some(held) if new.is_reference() && !held.is_reference() => self.state.discount(&new),
            held => {
                if let Some(held) = held {
                    self.state.discount(held);
                }
                self.entries.insert(key, new);
            }
        }
        if self.entries.len() >= limits::REBUILD_BATCH { self.put() } else { Ok(()) }
    }

    fn put(&mut self) -> Result<(), StoreError> {
        let state = &mut self.state;
        self.index.add(&self.entries, &mut |gone| state.discount(gone))?;
        self.entries.clear();
        Ok(())
    }
}

/// The figures that are told while the writer is held for long.
struct Meanwhile<'a>(&'a SegmentStore);

impl<'a> Meanwhile<'a> {
    fn begin(store: &'a SegmentStore, standing: Standing) -> Self {
        *lock(&store.standing) = Some(standing);
        Self(store)
    }
}

impl Drop for Meanwhile<'_> {
    fn drop(&mut self) {
        *lock(&self.0.standing) = None;
    }
}

impl SegmentStore {
    pub(super) fn rebuild_index(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Rebuilt, StoreError> {
        self.without_collection(|| {
            // A scrub knows places of the old one.
            let mut scrubbing = lock(&self.scrubbing);
            let mut writer = self.writable()?;
            self.sync(&mut writer)?;
            let old = self.index();
            let segments = old.segments().unwrap_or_default();
            let before = State { dead_bytes: 0, n_chunks: 0, stored_bytes: 0, raw_bytes: 0, ..writer.figures };
            let before = State { referenced_bytes: 0, ..before };
            let (mut state, mut lost) = (before, 0);
            let keys = (self.keyring.as_deref(), before.sealed_from);
            let _figures = Meanwhile::begin(self, Standing::of(self, &writer)?);
            let mut is_filled = false;
            let (cache, recent) = (self.cache_bytes, self.bounds.recent_entries);
            let new = Index::make_anew(&self.disk, cache, self.store, recent, keys, |index| {
                let mut batch = Batch { index, entries: BTreeMap::new(), state: before };
                self.read_segments(&mut batch, progress)?;
                batch.put()?;
                state = batch.state;
                lost = lost_in(&old, index).unwrap_or_default();
                index.end(&segments, &self.view().damaged, &state)?;
                is_filled = true;
                Ok(())
            });
            let new = new.and_then(|new| Ok((new.damaged()?, new))).inspect_err(|error| {
                if is_filled {
                    log::error!(error:% = error; "the new index may have its name, and cannot be used: start the node again");
                    writer.failed = Some(error.to_string());
                }
            });
            let (damaged, new) = new?;
            let mut view = self.view_mut();
            view.indexed = None;
            view.unindexed.clear();
            view.damaged = damaged;
            *unpoisoned(self.index.write()) = Arc::new(new);
            (writer.figures, writer.committed, writer.unindexed_bytes) = (state, state, 0);
            *scrubbing = Default::default();
            log::info!(chunks = state.n_chunks, lost = lost; "the index of the chunk store was made anew");
            Ok(Rebuilt { chunks: state.n_chunks, bytes: state.stored_bytes, lost })
        })
    }

    fn read_segments(&self, batch: &mut Batch<'_>, progress: &mut dyn FnMut(u64, u64)) -> Result<(), StoreError> {
        let numbers = self.segment_numbers()?;
        let mut total = 0;
        for number in &numbers {
            total += segments::open(&self.disk, *number)?.map_or(Ok(0), |file| file.len())?;
        }
        let mut done = 0;
        for number in numbers {
            let Some(file) = segments::open(&self.disk, number)? else { continue };
            file.settle().map_err(write_error)?;
            let seal = match segments::header(file.as_ref(), number, self.store)? {
                Found::Expected(seal) => seal,
                Found::Newer(version) => return Err(segments::newer(number, version)),
                Found::Other(_) => continue,
                Found::Torn | Found::Damaged => None,
            };
            let key = self.segment_key(number, seal.as_ref())?;
            let mut found = |header: RecordHeader, offset| {
                let RecordHeader { raw_len, stored_len, codec, cipher, .. } = header;
                progress(done + offset, total);
                batch.add(
                    self.key_of_record(&header),
                    Location { segment: number, offset, raw_len, stored_len, codec, cipher },
                )
            };
            recovery::records(&self.disk, file.as_ref(), key.as_deref(), SEGMENT_HEADER_LEN as u64, &mut found)?;
            done += file.len()?;
            progress(done, total);
        }
        Ok(())
    }
}

/// Entries of an index that another one has not.
fn lost_in(old: &Index, new: &NewIndex<'_>) -> Result<u64, StoreError> {
    let old = old.snapshot()?;
    let (mut after, mut lost) = (None, 0);
    loop {
        let page = old.page(after, limits::REBUILD_BATCH)?;
        let Some((last, _)) = page.last() else { return Ok(lost) };
        after = Some(*last.as_bytes());
        lost += page.len() as u64 - new.count(page.iter().map(|(key, _)| *key))?;
    }
}
