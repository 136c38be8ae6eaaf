//! Garbage collection: what nobody marked leaves the index, and then its space is given back.
//!
//! Invariant: bytes are given up only where no durable entry of the index names them. A sweep commits the removal first; a
//! hole is punched, and a file removed, only below the segment up to which the index holds, where no record can be that an
//! entry to come will name; a segment is removed after a rewriting only when the new places of its records are durable. So
//! a cut at any step leaves garbage at worst, and the next collection finds it.
//!
//! A chunk that is put or found while a collection goes on, or while a lease is out, is noted in the same moment in which
//! it is looked up, so that it is either noted before the last look of the sweep or not found any more.
//!
//! Memory: the marks, the time of each segment, the places of [`RECLAIM_RECORDS`](limits::RECLAIM_RECORDS) records, also
//! where a segment has more.
//! Deliberately absent: what is in use, which the catalog knows, and time.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::io;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bib_core::limits;
use bib_core::port::{Lease, Reclaim, Reclaimed, ScrubCursor, StoreError, SweepCursor, SweepRules, SweepStep};
use bib_core::time::Timestamp;

use super::filter::Filter;
use super::format::{Key, Location, SEGMENT_HEADER_LEN};
use super::scrub::{Record, place};
use super::segments::{self, Found, header, segment_name, segment_number};
use super::store::{Payload, SegmentStore, unpoisoned};
use crate::database::{lock, write_error};
use crate::disk::{Disk, DiskFile};

/// Unit in which file systems give space back, in bytes. Where it is larger, less is given back.
const BLOCK: u64 = 4_096;

/// The last segment is ended early when at least this part of the length of a full one is of no use.
const TAIL_PART: u64 = 64;

/// What is noted of chunks that are put or found.
#[derive(Debug, Default)]
struct Notes {
    /// Of the collection that goes on: also what was marked.
    marked: Option<Arc<Filter>>,
    /// Of leases, the oldest first.
    leases: VecDeque<Arc<Filter>>,
}

impl Notes {
    /// Forgets the notes of leases that have ended. The oldest ones first: one that is older may still note into a newer
    /// one.
    fn forget(&mut self) {
        while self.leases.front().is_some_and(|filter| Arc::strong_count(filter) == 1) {
            self.leases.pop_front();
        }
    }
}

/// See [`Notes`].
#[derive(Debug, Default)]
pub(super) struct Noted(RwLock<Notes>);

impl Noted {
    fn read(&self) -> RwLockReadGuard<'_, Notes> {
        unpoisoned(self.0.read())
    }

    fn write(&self) -> RwLockWriteGuard<'_, Notes> {
        unpoisoned(self.0.write())
    }

    /// Notes a chunk that somebody may build on.
    pub(super) fn note(&self, key: &Key) {
        let notes = self.read();
        for filter in notes.marked.iter().chain(notes.leases.back()) {
            filter.insert(key);
        }
    }

    /// Notes it for the collection alone.
    fn mark(&self, key: &Key) {
        if let Some(marked) = &self.read().marked {
            marked.insert(key);
        }
    }

    /// A lease; the notes are kept as long as it, or one that is older, lives.
    fn lease(&self, seed: u64) -> Lease {
        let mut notes = self.write();
        notes.forget();
        let wants_new = notes.leases.back().is_none_or(|newest| newest.is_full());
        if wants_new && notes.leases.len() < limits::MAX_LEASE_FILTERS {
            notes.leases.push_back(Arc::new(Filter::new(limits::LEASE_FILTER_BYTES, seed)));
        }
        Lease::new(notes.leases.back().expect("made above if there was none").clone())
    }
}

/// A collection that goes on.
#[derive(Debug)]
struct Collection {
    /// What its sweeps have to name.
    number: u64,
    marked: Arc<Filter>,
    /// Notes of the leases that were out when it began, kept though the leases end.
    kept: Vec<Arc<Filter>>,
    /// When each segment was first known.
    segments: BTreeMap<u64, Timestamp>,
    space: Option<Space>,
}

impl Collection {
    fn keeps(&self, key: &Key) -> bool {
        self.marked.contains(key) || self.kept.iter().any(|filter| filter.contains(key))
    }
}

/// A record in use: first byte, length, chunk.
type Used = (u64, u64, Key);

/// What of the segments can be given back.
#[derive(Debug)]
struct Space {
    /// Segments that hold something that is not in use, with the records that are, in order.
    todo: VecDeque<(u64, u64)>,
    /// Records in use of the segments that come next.
    window: BTreeMap<u64, Vec<Used>>,
    /// Whether there was no room for copies.
    is_full: bool,
    /// Whether the index knows of all that was given back.
    is_noted: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Collecting {
    pub(super) noted: Noted,
    collection: std::sync::Mutex<Option<Collection>>,
    /// Files have no holes here.
    no_holes: std::sync::atomic::AtomicBool,
}

fn none_goes_on() -> StoreError {
    StoreError::Io(io::Error::other("no collection goes on"))
}

/// The header of a segment, as a thing in use.
const HEADER: (u64, u64) = (0, SEGMENT_HEADER_LEN as u64);

/// Bytes of the blocks of a segment in which something is in use, and the holes between them, behind `before` and up to
/// `len`. `before` and `live` are first byte and length of what is in use, in order.
fn holes(before: (u64, u64), live: impl IntoIterator<Item = (u64, u64)>, len: u64) -> (u64, Vec<(u64, u64)>) {
    let (mut used, mut holes) = (0, Vec::new());
    let mut end = before.0 / BLOCK;
    for (from, record_len) in std::iter::once(before).chain(live) {
        let (first, last) = (from / BLOCK, (from + record_len).div_ceil(BLOCK));
        if first > end {
            holes.push((end * BLOCK, (first - end) * BLOCK));
        }
        used += last.saturating_sub(first.max(end));
        end = end.max(last);
    }
    if len > end * BLOCK {
        holes.push((end * BLOCK, len - end * BLOCK));
    }
    (used * BLOCK, holes)
}

impl SegmentStore {
    pub(super) fn begin_collection(&self, filter_bytes: usize, seed: u64) -> Result<(), StoreError> {
        let mut collection = lock(&self.collecting.collection);
        if collection.is_some() {
            return Err(StoreError::Locked("another collection goes on".to_owned()));
        }
        let marked = Arc::new(Filter::new(filter_bytes, seed));
        let mut notes = self.collecting.noted.write();
        notes.forget();
        notes.marked = Some(marked.clone());
        let kept = notes.leases.iter().cloned().collect();
        *collection = Some(Collection { number: seed, marked, kept, segments: BTreeMap::new(), space: None });
        Ok(())
    }

    pub(super) fn end_collection(&self) {
        let mut collection = lock(&self.collecting.collection);
        self.collecting.noted.write().marked = None;
        *collection = None;
    }

    /// Does something while no collection goes on, and none begins.
    pub(super) fn without_collection<T>(&self, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let collection = lock(&self.collecting.collection);
        if collection.is_some() {
            return Err(StoreError::Locked("a collection goes on".to_owned()));
        }
        work()
    }

    pub(super) fn mark_chunk(&self, key: &Key) {
        self.collecting.noted.mark(key);
    }

    pub(super) fn new_lease(&self) -> Lease {
        // Each store has another one, and it is known to nobody.
        let seed = u64::from_le_bytes(*self.store.first_chunk().expect("16 bytes are more than 8"));
        self.collecting.noted.lease(seed)
    }

    /// Numbers of the segments that are there.
    pub(super) fn segment_numbers(&self) -> Result<Vec<u64>, StoreError> {
        let mut numbers: Vec<u64> = self.disk.list()?.iter().filter_map(|name| segment_number(name)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Since when each segment is known; those that are new are from now on, and so is one that will be known only later:
    /// then the clock was wrong.
    fn note_segments(&self, rules: &SweepRules) -> Result<BTreeMap<u64, Timestamp>, StoreError> {
        let known = self.index().segments()?;
        let numbers = self.segment_numbers()?;
        let since = |number: &u64| known.get(number).copied().filter(|since| *since <= rules.now);
        let segments: BTreeMap<u64, Timestamp> =
            numbers.iter().map(|number| (*number, since(number).unwrap_or(rules.now))).collect();
        if !rules.dry_run && segments != known {
            let _writer = self.writable()?;
            self.index().set_segments(&known, &segments)?;
        }
        Ok(segments)
    }

    pub(super) fn sweep(&self, rules: &SweepRules, after: Option<SweepCursor>) -> Result<SweepStep, StoreError> {
        let mut collection = lock(&self.collecting.collection);
        let collection = collection.as_mut().filter(|collection| collection.number == rules.number);
        let collection = collection.ok_or_else(none_goes_on)?;
        if after.is_none() {
            collection.segments = self.note_segments(rules)?;
        }
        // Entries change only under this lock.
        let mut writer = self.writable()?;
        let is_old = |segment: u64| {
            let since = collection.segments.get(&segment).copied().unwrap_or(rules.now);
            since.saturating_add(rules.min_age) <= rules.now
        };
        let mut step = SweepStep::default();
        let mut dead: Vec<(Key, Location)> = Vec::new();
        let entries = self.index().snapshot()?.page(after.map(|cursor| cursor.0), rules.max_chunks)?;
        if entries.len() >= rules.max_chunks.max(1) {
            step.next = entries.last().map(|(key, _)| SweepCursor(*key.as_bytes()));
        }
        for (key, location) in entries {
            step.seen += 1;
            if collection.keeps(&key) {
                continue;
            }
            if is_old(location.segment) {
                dead.push((key, location));
            } else {
                step.young_chunks += 1;
                step.young_bytes += location.record_len();
            }
        }
        {
            let mut view = self.view_mut();
            // Whoever looks a chunk up from here on does not find what is given up; whoever did before has noted it.
            dead.retain(|(key, _)| !collection.keeps(key) && !view.unindexed.contains_key(key));
            if !rules.dry_run {
                view.condemned = dead.iter().map(|(key, _)| *key).collect();
                view.indexed = None;
            }
        }
        step.dead_chunks = dead.len() as u64;
        step.dead_bytes = dead.iter().map(|(_, location)| location.record_len()).sum();
        if rules.dry_run || dead.is_empty() {
            return Ok(step);
        }
        let removed = self.remove_entries(&mut writer, &dead);
        let mut view = self.view_mut();
        view.condemned = BTreeSet::new();
        view.indexed = None;
        removed?;
        for (key, _) in &dead {
            view.damaged.remove(key);
            view.changed.remove(key);
        }
        Ok(step)
    }

    pub(super) fn give_back(&self) -> Result<Option<Reclaimed>, StoreError> {
        let mut collection = lock(&self.collecting.collection);
        let collection = collection.as_mut().ok_or_else(none_goes_on)?;
        if collection.space.is_none() {
            collection.space = Some(self.find_space()?);
        }
        let space = collection.space.as_mut().expect("found above if it was not");
        while let Some((segment, n_records)) = space.todo.pop_front() {
            if n_records > self.bounds.reclaim_records as u64 {
                match self.give_back_in_parts(segment, &mut space.is_full)? {
                    None => continue,
                    reclaimed => return Ok(reclaimed),
                }
            }
            if n_records > 0 && !space.window.contains_key(&segment) {
                space.window = self.places(segment, n_records, &space.todo)?;
            }
            let live = space.window.remove(&segment).unwrap_or_default();
            match self.give_back_segment(segment, &live, &mut space.is_full) {
                Ok(None) => {}
                Ok(reclaimed) => return Ok(reclaimed),
                // Somebody else has removed it.
                Err(StoreError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        if !space.is_noted {
            self.note_figures()?;
            space.is_noted = true;
        }
        Ok(None)
    }

    /// Lets the index say what is known of bytes of no use, which else would be forgotten with the next start.
    fn note_figures(&self) -> Result<(), StoreError> {
        let mut writer = lock(&self.writer);
        let in_index = self.index().state()?.1;
        if writer.failed.is_some() || in_index == writer.committed {
            return Ok(());
        }
        let (damaged, committed) = (self.view().damaged.clone(), writer.committed);
        self.view_mut().indexed = None;
        match self.index().commit(std::iter::empty(), &[], &damaged, &committed) {
            // The next collection says it.
            Err(StoreError::Full(_)) => Ok(()),
            noted => self.close_if_failed(&mut writer, noted),
        }
    }

    /// Looks where space can be given back. Only below the segment up to which the index holds: every whole record there is
    /// in the index or of no use.
    fn find_space(&self) -> Result<Space, StoreError> {
        let mut below = self.indexed_below();
        let mut live = self.live()?;
        if self.end_tail(&live)? {
            // What was put meanwhile may lie in it.
            below = self.indexed_below();
            live = self.live()?;
        }
        let (mut todo, mut dead_bytes) = (VecDeque::new(), 0);
        for segment in self.segment_numbers()? {
            let (n, bytes) = live.get(&segment).copied().unwrap_or_default();
            let Some(file) = segments::open(&self.disk, segment)? else { continue };
            if !self.is_ours(file.as_ref(), segment)? {
                continue;
            }
            let dead = file.allocated()?.saturating_sub(bytes + SEGMENT_HEADER_LEN as u64);
            dead_bytes += dead;
            if segment < below && (n == 0 || dead > BLOCK) {
                todo.push_back((segment, n));
            }
        }
        // What needs no room comes first, and may make it.
        todo.make_contiguous().sort_by_key(|(segment, n)| (*n > 0, *segment));
        // What was counted on the way is as good as what was known at each step; this is what there is.
        lock(&self.writer).set_dead_bytes(dead_bytes);
        Ok(Space { todo, window: BTreeMap::new(), is_full: false, is_noted: false })
    }

    fn indexed_below(&self) -> u64 {
        lock(&self.writer).committed.tail.map_or(0, |(segment, _)| segment)
    }

    /// How many records of each segment are in use, and their bytes.
    fn live(&self) -> Result<BTreeMap<u64, (u64, u64)>, StoreError> {
        let mut live: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        self.index().snapshot()?.each(&mut |_, location| {
            let (n, bytes) = live.entry(location.segment).or_default();
            *n += 1;
            *bytes += location.record_len();
        })?;
        Ok(live)
    }

    /// Begins another segment if much of the last one is of no use, so that it can give space back; whether it did.
    fn end_tail(&self, live: &BTreeMap<u64, (u64, u64)>) -> Result<bool, StoreError> {
        let mut writer = lock(&self.writer);
        let Some((number, len)) = writer.committed.tail else { return Ok(false) };
        let (_, bytes) = live.get(&number).copied().unwrap_or_default();
        let dead = len.saturating_sub(bytes + SEGMENT_HEADER_LEN as u64);
        // Often it would leave many short segments.
        if writer.failed.is_some() || dead * 4 < len || dead < self.bounds.segment_len / TAIL_PART {
            return Ok(false);
        }
        match self.flush_locked(&mut writer).and_then(|()| self.end_segment(&mut writer)) {
            Ok(()) => Ok(true),
            // It gives back what it can another time.
            Err(StoreError::Full(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Places of the records in use of a segment, and of as many of those to come as may be held.
    fn places(
        &self,
        segment: u64,
        n_records: u64,
        todo: &VecDeque<(u64, u64)>,
    ) -> Result<BTreeMap<u64, Vec<Used>>, StoreError> {
        let mut room = (self.bounds.reclaim_records as u64).saturating_sub(n_records);
        let mut window = BTreeMap::from([(segment, Vec::new())]);
        for (next, n) in todo {
            if *n > room {
                break;
            }
            room -= n;
            window.insert(*next, Vec::new());
        }
        self.index().snapshot()?.each(&mut |key, location| {
            if let Some(places) = window.get_mut(&location.segment) {
                places.push((location.offset, location.record_len(), key));
            }
        })?;
        window.values_mut().for_each(|places| places.sort_unstable());
        Ok(window)
    }

    /// Whether a segment has a header of this store.
    fn is_ours(&self, file: &dyn DiskFile, number: u64) -> Result<bool, StoreError> {
        Ok(matches!(header(file, number, self.store)?, Found::Expected(_)))
    }

    fn give_back_segment(
        &self,
        segment: u64,
        live: &[Used],
        is_full: &mut bool,
    ) -> Result<Option<Reclaimed>, StoreError> {
        let Some(file) = segments::open(&self.disk, segment)? else { return Ok(None) };
        let before = file.allocated()?;
        let done = |action, freed_bytes, written_bytes| {
            lock(&self.writer).freed(freed_bytes);
            Ok(Some(Reclaimed { segment, action, freed_bytes, written_bytes }))
        };
        if live.is_empty() {
            self.unlink(segment)?;
            return done(Reclaim::Unlinked, before, 0);
        }
        let live_bytes: u64 = live.iter().map(|(_, len, _)| len).sum();
        let (used, holes) = holes(HEADER, live.iter().map(|(offset, len, _)| (*offset, *len)), file.len()?);
        let mut copy = |takes: u64| {
            // Copying wears the medium: it must free more than it writes. Small records leave many blocks half in use.
            if *is_full || live_bytes * 2 >= takes {
                return Ok(false);
            }
            let copied = self.copy_records(segment, live);
            self.is_copied(copied, is_full)
        };
        let no_holes = || self.collecting.no_holes.load(std::sync::atomic::Ordering::Relaxed);
        let had_holes = !no_holes();
        let mut is_copied = copy(if had_holes { used.min(before) } else { before })?;
        let mut after = before;
        if !is_copied && before > used {
            self.punch(file.as_ref(), &holes)?;
            after = file.allocated()?;
            // What was not known before the first hole.
            is_copied = had_holes && no_holes() && copy(before)?;
        }
        if is_copied {
            return self.remove_copied(segment, before, live_bytes).map(Some);
        }
        if after < before { done(Reclaim::Punched, before - after, 0) } else { Ok(None) }
    }

    /// Removes a segment whose records in use are elsewhere, durably.
    fn remove_copied(&self, segment: u64, allocated: u64, live_bytes: u64) -> Result<Reclaimed, StoreError> {
        self.unlink(segment)?;
        // All of it was of no use since its records were copied; the copies take a part again.
        lock(&self.writer).freed(allocated);
        let freed_bytes = allocated.saturating_sub(live_bytes);
        Ok(Reclaimed { segment, action: Reclaim::Rewritten, freed_bytes, written_bytes: live_bytes })
    }

    /// The next records in use of a segment with more of them than may be held.
    fn part(&self, segment: u64, from: u64) -> Result<Vec<Used>, StoreError> {
        let mut part = BinaryHeap::new();
        self.index().snapshot()?.each(&mut |key, location| {
            if location.segment == segment && location.offset >= from {
                part.push((location.offset, location.record_len(), key));
                if part.len() > self.bounds.reclaim_records {
                    part.pop();
                }
            }
        })?;
        Ok(part.into_sorted_vec())
    }

    /// Gives space of a segment back with more records in use than may be held, one part after the other, each found by a
    /// walk over the index.
    fn give_back_in_parts(&self, segment: u64, is_full: &mut bool) -> Result<Option<Reclaimed>, StoreError> {
        let Some(file) = segments::open(&self.disk, segment)? else { return Ok(None) };
        let (allocated, mut before, mut live_bytes) = (file.allocated()?, HEADER, 0);
        loop {
            let part = self.part(segment, before.0 + before.1)?;
            let last = part.last().map(|(offset, len, _)| (*offset, *len));
            let end = last.map_or(file.len()?, |(offset, len)| offset + len);
            live_bytes += part.iter().map(|(_, len, _)| len).sum::<u64>();
            let (_, holes) = holes(before, part.iter().map(|(offset, len, _)| (*offset, *len)), end);
            self.punch(file.as_ref(), &holes)?;
            let Some(last) = last else { break };
            before = last;
        }
        let after = file.allocated()?;
        let done = |action, freed_bytes, written_bytes| {
            lock(&self.writer).freed(freed_bytes);
            Ok(Some(Reclaimed { segment, action, freed_bytes, written_bytes }))
        };
        // Small records: hardly a block has none.
        if live_bytes * 2 < after && !*is_full {
            let mut next = 0;
            let copied = loop {
                let part = self.part(segment, next)?;
                let Some((last, ..)) = part.last() else { break Ok(true) };
                next = last + 1;
                match self.copy_records(segment, &part) {
                    Ok(true) => {}
                    other => break other,
                }
            };
            if self.is_copied(copied, is_full)? {
                return self.remove_copied(segment, allocated, live_bytes).map(Some);
            }
        }
        if after < allocated { done(Reclaim::Punched, allocated - after, 0) } else { Ok(None) }
    }

    /// Whether all was copied; where there was no room, nothing is in this collection any more.
    fn is_copied(&self, copied: Result<bool, StoreError>, is_full: &mut bool) -> Result<bool, StoreError> {
        match copied {
            Err(StoreError::Full(why)) => {
                log::warn!(why = why.as_str(); "no room to copy what is in use of segments that are mostly not");
                *is_full = true;
                Ok(false)
            }
            // If not, something in it is damaged: what is there stays for whoever can make use of it.
            copied => copied,
        }
    }

    /// Makes holes, unless files have none here.
    fn punch(&self, file: &dyn DiskFile, holes: &[(u64, u64)]) -> Result<(), StoreError> {
        let no_holes = &self.collecting.no_holes;
        if no_holes.load(std::sync::atomic::Ordering::Relaxed) || holes.is_empty() {
            return Ok(());
        }
        for (offset, len) in holes {
            match file.punch(*offset, *len) {
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                    log::info!("files have no holes here: space is given back by copying");
                    no_holes.store(true, std::sync::atomic::Ordering::Relaxed);
                    return Ok(());
                }
                punched => punched.map_err(write_error)?,
            }
        }
        file.sync().map_err(write_error)
    }

    fn unlink(&self, segment: u64) -> Result<(), StoreError> {
        self.disk.remove(&segment_name(segment)).map_err(write_error)?;
        // Not before: a reader would open it again, and its space would stay taken.
        self.open.forget(segment);
        self.disk.sync_folder().map_err(write_error)?;
        lock(&self.writer).n_segments -= 1;
        Ok(())
    }

    /// Copies a record to the end of the store if it is still in use where it was; `false` if it cannot be read.
    pub(super) fn copy_record(&self, key: &Key, at: ScrubCursor) -> Result<bool, StoreError> {
        if self.view().damaged.contains(key) {
            return Ok(false);
        }
        let held = || Ok::<_, StoreError>(self.find(key)?.filter(|location| place(location) == at));
        // Else it was moved or given up meanwhile.
        let Some(location) = held()? else { return Ok(true) };
        match self.read_record(key, &location)? {
            Record::Whole | Record::Changed | Record::BadHeader(_) => {}
            Record::Damaged => {
                self.note_damaged(key, &location)?;
                return Ok(false);
            }
        }
        let Payload::Whole(payload) = self.payload(key, &location)? else { return Ok(false) };
        let mut writer = self.writable()?;
        if held()?.is_some() {
            self.append(&mut writer, *key, (location.raw_len, location.codec), &payload, Some(location))?;
        }
        Ok(true)
    }

    /// Copies records to the end of the store, durably; `false` when one of them cannot be read as it was written.
    fn copy_records(&self, segment: u64, live: &[Used]) -> Result<bool, StoreError> {
        for (offset, _, key) in live {
            if !self.copy_record(key, ScrubCursor { segment, offset: *offset })? {
                return Ok(false);
            }
        }
        self.flush_locked(&mut lock(&self.writer))?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_whole_blocks_between_what_is_in_use() {
        assert_eq!(holes(HEADER, [], 10_000), (4_096, vec![(4_096, 5_904)]));
        assert_eq!(holes(HEADER, [(64, 4_032)], 4_096), (4_096, vec![]));
        assert_eq!(holes(HEADER, [(64, 4_033)], 4_097), (8_192, vec![]));
        assert_eq!(holes(HEADER, [(20_000, 100)], 30_000), (8_192, vec![(4_096, 12_288), (20_480, 9_520)]));
        let live = [(100, 10), (200, 10), (9_000, 8_000), (17_000, 10)];
        assert_eq!(holes(HEADER, live, 17_010), (16_384, vec![(4_096, 4_096)]));
        assert_eq!(holes((9_000, 100), [(20_000, 480)], 20_480), (8_192, vec![(12_288, 4_096)]));
    }

    #[test]
    fn no_byte_in_use_is_in_a_hole() {
        let mut seed = 1_u64;
        let mut next = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        for _ in 0..500 {
            let (mut at, mut live) = (SEGMENT_HEADER_LEN as u64, Vec::new());
            for _ in 0..next(20) {
                let len = 57 + next(20_000);
                if next(2) == 0 {
                    live.push((at, len));
                }
                at += len;
            }
            let (used, holes) = holes(HEADER, live.iter().copied(), at);
            let freed: u64 = holes.iter().map(|(_, len)| len).sum();
            assert!(used + freed >= at && used + freed < at + BLOCK);
            for (from, len) in holes {
                assert!(from >= SEGMENT_HEADER_LEN as u64 && from % BLOCK == 0);
                assert!(live.iter().all(|(start, record)| start + record <= from || *start >= from + len));
            }
        }
    }
}
