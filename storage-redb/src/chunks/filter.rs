//! A set of chunks in bounded memory that may say yes where it should say no, and never the other way (Bloom, 1970).
//!
//! Its hashes depend on a seed that nobody can know, so that nobody can choose chunks that it always takes for its own.

use std::sync::atomic::{AtomicU64, Ordering};

use super::format::Key;

/// Bits that are set for a key: best for some ten bits a key, and good from five to twenty.
const PROBES: u64 = 6;

/// See the module. Many threads may insert at the same time.
#[derive(Debug)]
pub(super) struct Filter {
    words: Box<[AtomicU64]>,
    seed: u64,
}

/// Mixes all bits of a number (the finalizer of SplitMix64, Steele et al., 2014).
const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Filter {
    /// An empty one of so many bytes, at least 64.
    pub(super) fn new(bytes: usize, seed: u64) -> Self {
        let words = (bytes / 8).max(8);
        Self { words: (0..words).map(|_| AtomicU64::new(0)).collect(), seed }
    }

    /// Word and bit of each probe.
    fn probes(&self, key: &Key) -> impl Iterator<Item = (usize, u64)> {
        let (halves, _) = key.as_bytes().as_chunks::<8>();
        let word = |at: usize| u64::from_le_bytes(halves[at]);
        let first = mix(word(0) ^ self.seed);
        let step = mix(word(1) ^ self.seed.rotate_left(32)) | 1;
        let n_bits = self.words.len() as u128 * 64;
        (0..PROBES).map(move |probe| {
            let hash = first.wrapping_add(step.wrapping_mul(probe));
            let bit = ((u128::from(hash) * n_bits) >> 64) as usize;
            (bit / 64, 1 << (bit % 64))
        })
    }

    pub(super) fn insert(&self, key: &Key) {
        for (word, bit) in self.probes(key) {
            self.words[word].fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// Whether a key was inserted, or is taken for one that was.
    pub(super) fn contains(&self, key: &Key) -> bool {
        self.probes(key).all(|(word, bit)| self.words[word].load(Ordering::Relaxed) & bit != 0)
    }

    /// Whether more than half of its bits are set, so that it begins to say yes too often.
    pub(super) fn is_full(&self) -> bool {
        let set: u64 = self.words.iter().map(|word| u64::from(word.load(Ordering::Relaxed).count_ones())).sum();
        set > self.words.len() as u64 * 32
    }
}

#[cfg(test)]
mod tests {
    use bib_core::hash::hash;

    use super::*;

    fn keys(from: u32, n: u32) -> impl Iterator<Item = Key> {
        (from..from + n).map(|i| Key::from_bytes(hash(&i.to_le_bytes())))
    }

    #[test]
    fn what_was_inserted_is_found_and_little_else() {
        let filter = Filter::new(10_000 * 10 / 8, 7);
        keys(0, 10_000).for_each(|key| filter.insert(&key));
        assert!(keys(0, 10_000).all(|key| filter.contains(&key)));
        let wrong = keys(10_000, 10_000).filter(|key| filter.contains(key)).count();
        assert!(wrong < 200, "{wrong} of 10,000");
    }

    #[test]
    fn another_seed_takes_others_for_its_own() {
        let (one, other) = (Filter::new(1_000, 1), Filter::new(1_000, 2));
        keys(0, 1_000).for_each(|key| {
            one.insert(&key);
            other.insert(&key);
        });
        let wrong = |filter: &Filter| keys(5_000, 5_000).filter(|key| filter.contains(key)).collect::<Vec<_>>();
        let (one, other) = (wrong(&one), wrong(&other));
        assert!(!one.is_empty() && one.iter().filter(|key| other.contains(key)).count() < one.len() / 2);
    }

    #[test]
    fn too_many_keys_fill_it_and_are_still_all_found() {
        let filter = Filter::new(0, 1);
        assert!(!filter.is_full());
        keys(0, 1_000).for_each(|key| filter.insert(&key));
        assert!(filter.is_full() && keys(0, 1_000).all(|key| filter.contains(&key)));
    }
}
