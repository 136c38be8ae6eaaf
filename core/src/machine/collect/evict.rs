//! What is given up where space is short, and in which order.
//!
//! First what no manifest names, once it is an hour old; then released content, the same; then content that was fetched
//! here and that only withdrawn versions name, the one unused for longest first. Never what a user keeps, what is
//! staged, what was published at this node, or what an active version names: there a node that is full stops taking more.

use std::collections::BinaryHeap;
use std::time::Duration;

use crate::catalog::record::Pin;
use crate::id::ManifestId;
use crate::limits::{MAX_EVICTED, PRESSED_AGE};
use crate::time::Timestamp;

/// How much of a store is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that it takes.
    pub used: u64,
    /// Bytes that it may take.
    pub quota: u64,
}

impl Usage {
    /// Whether space is short: nine tenths are used.
    pub const fn is_pressed(&self) -> bool {
        self.used > self.quota / 10 * 9
    }

    /// Bytes to give back until it is short no more: eight and a half tenths are used then, so that it does not begin
    /// again at once.
    pub const fn to_free(&self) -> u64 {
        if self.is_pressed() { self.used - self.quota / 20 * 17 } else { 0 }
    }

    /// How long what nothing names is kept.
    pub fn min_age(&self, usual: Duration) -> Duration {
        if self.is_pressed() { usual.min(PRESSED_AGE) } else { usual }
    }
}

/// Content that may be given up; ordered by when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    used_at: Option<Timestamp>,
    manifest: ManifestId,
}

/// The contents that may be given up and were unused for longest, out of any number of pins.
#[derive(Debug, Default)]
pub struct Candidates {
    /// The one used last is on top, and goes when there are too many.
    oldest: BinaryHeap<Candidate>,
}

impl Candidates {
    /// Looks at a pin.
    pub fn see(&mut self, manifest: ManifestId, pin: &Pin) {
        if pin.is_evictable() {
            self.oldest.push(Candidate { used_at: pin.used_at, manifest });
            if self.oldest.len() > MAX_EVICTED {
                self.oldest.pop();
            }
        }
    }

    /// As many as have `to_free` bytes, by what `size` says of each, the one unused for longest first; the sizes count
    /// what they share with others, so that a few more may be due later.
    ///
    /// # Errors
    /// The first error of `size`.
    pub fn choose<E>(
        self,
        to_free: u64,
        mut size: impl FnMut(&ManifestId) -> Result<u64, E>,
    ) -> Result<Vec<ManifestId>, E> {
        let (mut chosen, mut bytes) = (Vec::new(), 0u64);
        for Candidate { manifest, .. } in self.oldest.into_sorted_vec() {
            if bytes >= to_free {
                break;
            }
            bytes = bytes.saturating_add(size(&manifest)?);
            chosen.push(manifest);
        }
        Ok(chosen)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const fn id(n: u8) -> ManifestId {
        ManifestId::from_bytes([n; 32])
    }

    fn cached(used_at: Option<i64>) -> Pin {
        let used_at = used_at.map(Timestamp);
        Pin { is_here: true, n_versions: 1, n_withdrawn: 1, used_at, ..Pin::default() }
    }

    fn choose(pins: &[(ManifestId, Pin)], to_free: u64) -> Vec<ManifestId> {
        let mut candidates = Candidates::default();
        pins.iter().for_each(|(manifest, pin)| candidates.see(*manifest, pin));
        candidates.choose(to_free, |_| Ok::<_, Infallible>(10)).unwrap()
    }

    #[test]
    fn what_was_unused_for_longest_goes_first_and_no_more_than_is_needed() {
        let pins =
            [(id(1), cached(Some(30))), (id(2), cached(None)), (id(3), cached(Some(10))), (id(4), cached(Some(20)))];
        assert_eq!(choose(&pins, 0), []);
        assert_eq!(choose(&pins, 1), [id(2)]);
        assert_eq!(choose(&pins, 25), [id(2), id(3), id(4)]);
        assert_eq!(choose(&pins, u64::MAX), [id(2), id(3), id(4), id(1)]);
    }

    #[test]
    fn what_is_wanted_is_no_candidate() {
        let pins = [
            (id(1), Pin { is_kept: true, ..cached(None) }),
            (id(2), Pin { is_own: true, ..cached(None) }),
            (id(3), Pin { staged_until: Some(Timestamp(9)), ..cached(None) }),
            (id(4), Pin { n_versions: 2, ..cached(None) }),
            (id(5), Pin { n_versions: 0, n_withdrawn: 0, ..cached(None) }),
        ];
        assert_eq!(choose(&pins, u64::MAX), []);
    }

    #[test]
    fn memory_is_bounded_and_keeps_the_oldest() {
        let many = 3 * MAX_EVICTED as i64;
        let pins: Vec<_> = (0..many)
            .map(|n| (ManifestId::from_bytes(crate::hash::hash(&n.to_be_bytes())), cached(Some(n * 7 % many))))
            .collect();
        let chosen = choose(&pins, u64::MAX);
        assert_eq!(chosen.len(), MAX_EVICTED);
        let used = |id: &ManifestId| pins.iter().find(|(known, _)| known == id).unwrap().1.used_at;
        assert_eq!(used(chosen.last().unwrap()), Some(Timestamp(MAX_EVICTED as i64 - 1)));
    }

    #[test]
    fn space_is_short_at_nine_tenths_and_enough_is_given_back_at_once() {
        let usage = |used| Usage { used, quota: 1_000 };
        assert_eq!((usage(900).is_pressed(), usage(900).to_free()), (false, 0));
        assert_eq!((usage(901).is_pressed(), usage(901).to_free()), (true, 51));
        let week = Duration::from_secs(7 * 86_400);
        assert_eq!((usage(1).min_age(week), usage(950).min_age(week)), (week, PRESSED_AGE));
        assert_eq!(usage(950).min_age(Duration::ZERO), Duration::ZERO);
        let empty = Usage { used: 0, quota: 0 };
        assert!(!empty.is_pressed() && empty.to_free() == 0);
    }
}
