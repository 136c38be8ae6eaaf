//! Finds content that only versions name which nobody can see: those of deleted topics and of topics below them.
//!
//! Which versions name a manifest is not noted anywhere; so one pass over the versions notes, in a filter of bounded
//! size, which manifests are seen, and one over the pins finds the others. A manifest that the filter holds by chance
//! keeps its content until the next run, which has another seed.
//!
//! A version that comes between the two passes is not in the filter, so what is found is only noted as released (see
//! [`Command::Release`](crate::command::Command::Release)), and looked at again by another run before it is given up.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use crate::catalog::record::{Pin, corrupt, read_value};
use crate::catalog::resolve::topic_path;
use crate::id::{ManifestId, TopicId, VersionId};
use crate::limits::{COLLECT_STEP, MAX_HIDDEN_FILTER, MAX_SHOWN_TOPICS};
use crate::model::Version;
use crate::port::{CatalogRead, Order, StoreError, Table};

/// Bits of the filter for each version: one in a hundred hidden manifests waits for another run.
const BITS_PER_VERSION: u64 = 10;
const N_HASHES: u32 = 6;

/// Manifests that are seen, and some that are not.
#[derive(Debug)]
struct Filter {
    bits: Vec<u64>,
    seed: u64,
}

impl Filter {
    fn new(n_versions: u64, seed: u64) -> Self {
        let words = (n_versions.saturating_mul(BITS_PER_VERSION) / 64 + 1).min(MAX_HIDDEN_FILTER / 8);
        Self { bits: vec![0; usize::try_from(words).unwrap_or(1)], seed }
    }

    fn places(&self, id: &ManifestId) -> impl Iterator<Item = (usize, u64)> + use<> {
        let part =
            |i: usize| id.as_bytes().get(i..i + 8).and_then(|part| part.try_into().ok()).map_or(0, u64::from_be_bytes);
        // Ids are hashes; the seed decides which of them meet.
        let mix = |part: u64| (part ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31);
        let (first, second) = (mix(part(0)), mix(part(8)) | 1);
        let n_bits = self.bits.len() as u64 * 64;
        (0..N_HASHES).map(move |i| {
            let bit = first.wrapping_add(second.wrapping_mul(u64::from(i))) % n_bits;
            (usize::try_from(bit / 64).unwrap_or(0), 1 << (bit % 64))
        })
    }

    fn insert(&mut self, id: &ManifestId) {
        for (word, bit) in self.places(id) {
            if let Some(word) = self.bits.get_mut(word) {
                *word |= bit;
            }
        }
    }

    fn contains(&self, id: &ManifestId) -> bool {
        self.places(id).all(|(word, bit)| self.bits.get(word).is_some_and(|word| word & bit != 0))
    }
}

/// What a step found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// Named only by versions that nobody can see, and not yet released.
    pub hidden: Vec<ManifestId>,
    /// Released or given up, and seen again.
    pub shown: Vec<ManifestId>,
    /// Whether that was the last step.
    pub is_last: bool,
}

enum Pass {
    Versions(Option<VersionId>),
    Pins(Option<ManifestId>),
}

/// See the module.
pub struct Hidden {
    filter: Filter,
    pass: Pass,
    /// Whether users can see a topic.
    topics: BTreeMap<TopicId, bool>,
}

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hidden").finish_non_exhaustive()
    }
}

impl Hidden {
    /// A run over a catalog of about `n_versions` versions; each run has a seed of its own.
    pub fn new(n_versions: u64, seed: u64) -> Self {
        Self { filter: Filter::new(n_versions, seed), pass: Pass::Versions(None), topics: BTreeMap::new() }
    }

    /// Goes on by some hundred records.
    ///
    /// # Errors
    /// [`StoreError`] when the catalog cannot be read or holds something else.
    pub fn step(&mut self, read: &dyn CatalogRead) -> Result<Found, StoreError> {
        match self.pass {
            Pass::Versions(after) => {
                let next = self.versions(read, after)?;
                self.pass = next.map_or(Pass::Pins(None), |next| Pass::Versions(Some(next)));
                Ok(Found::default())
            }
            Pass::Pins(after) => {
                let mut found = Found::default();
                let next = self.pins(read, after, &mut found)?;
                found.is_last = next.is_none();
                self.pass = Pass::Pins(next);
                Ok(found)
            }
        }
    }

    fn versions(&mut self, read: &dyn CatalogRead, after: Option<VersionId>) -> Result<Option<VersionId>, StoreError> {
        let mut page: Vec<(VersionId, TopicId, ManifestId)> = Vec::new();
        each(read, Table::Versions, after.map(|id| *id.as_bytes()), &mut |value| {
            let version: Version = read_value(value)?;
            page.push((version.id, version.topic, version.manifest));
            Ok(())
        })?;
        for (_, topic, manifest) in &page {
            if self.is_shown(read, topic)? {
                self.filter.insert(manifest);
            }
        }
        Ok((page.len() >= COLLECT_STEP).then(|| page.last().map(|(id, ..)| *id)).flatten())
    }

    fn is_shown(&mut self, read: &dyn CatalogRead, topic: &TopicId) -> Result<bool, StoreError> {
        if let Some(known) = self.topics.get(topic) {
            return Ok(*known);
        }
        let is_shown = topic_path(read, topic)?.is_some();
        if self.topics.len() >= MAX_SHOWN_TOPICS {
            self.topics.clear();
        }
        self.topics.insert(*topic, is_shown);
        Ok(is_shown)
    }

    fn pins(
        &self,
        read: &dyn CatalogRead,
        after: Option<ManifestId>,
        found: &mut Found,
    ) -> Result<Option<ManifestId>, StoreError> {
        let (mut n, mut last) = (0, None);
        each_pin(read, after, &mut |manifest, pin| {
            n += 1;
            last = Some(manifest);
            if pin.n_versions > 0 {
                let is_shown = self.filter.contains(&manifest);
                let was_released = pin.released_at.is_some() || (pin.is_evicted && pin.n_withdrawn < pin.n_versions);
                if !is_shown && pin.released_at.is_none() && !pin.is_evicted {
                    found.hidden.push(manifest);
                } else if is_shown && was_released {
                    found.shown.push(manifest);
                }
            }
        })?;
        Ok(if n >= COLLECT_STEP { last } else { None })
    }
}

/// The next pins behind one, at most [`COLLECT_STEP`].
///
/// # Errors
/// [`StoreError`] when the catalog cannot be read or holds something else.
pub fn each_pin(
    read: &dyn CatalogRead,
    after: Option<ManifestId>,
    visit: &mut dyn FnMut(ManifestId, Pin),
) -> Result<(), StoreError> {
    let mut keyed = |key: &[u8], value: &[u8]| {
        let manifest = ManifestId::from_slice(key).ok_or_else(|| corrupt("the key of a pin"))?;
        visit(manifest, read_value(value)?);
        Ok(())
    };
    each_record(read, Table::Pins, after.map(|id| *id.as_bytes()), &mut keyed)
}

fn each(
    read: &dyn CatalogRead,
    table: Table,
    after: Option<[u8; 32]>,
    visit: &mut dyn FnMut(&[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    each_record(read, table, after, &mut |_, value| visit(value))
}

/// What keys and values are shown to.
type Look<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), StoreError> + 'a;

fn each_record(
    read: &dyn CatalogRead,
    table: Table,
    after: Option<[u8; 32]>,
    visit: &mut Look<'_>,
) -> Result<(), StoreError> {
    let lower = after.as_ref().map_or(Bound::Unbounded, |after| Bound::Excluded(after.as_slice()));
    let (mut n, mut failed) = (0, None);
    read.scan(table, (lower, Bound::Unbounded), Order::Ascending, &mut |key, value| {
        n += 1;
        failed = visit(key, value).err();
        if failed.is_some() || n >= COLLECT_STEP { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    failed.map_or(Ok(()), Err)
}
