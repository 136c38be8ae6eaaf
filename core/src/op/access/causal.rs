//! Who knew what: the causal past of each operation, as one bit for each operation of the log.
//!
//! The question whether one operation knew another is a look at a bit. A past has a bit for each operation that came
//! before it and none for those after, so that all pasts of a log together take the same memory in every order of
//! arrival, and whatever the branches are: see [`most_bytes`].

/// Index of an operation, by order of arrival.
pub(super) type Idx = usize;

/// Operations in one word.
const WORD: usize = u64::BITS as usize;

/// A set of operations. The past of an operation is closed under "and what it knew", and without itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct OpSet {
    /// The last one is not zero, unless something was removed.
    words: Vec<u64>,
    len: usize,
}

impl OpSet {
    /// The first `n` operations.
    pub(super) fn first(n: usize) -> Self {
        let mut words = vec![u64::MAX; n.div_ceil(WORD)];
        if let (Some(last), rest @ 1..) = (words.last_mut(), n % WORD) {
            *last = (1 << rest) - 1;
        }
        Self { words, len: n }
    }

    /// What `heads` and everything before them are together.
    pub(super) fn closure<'a>(heads: impl Iterator<Item = (Idx, &'a Self)> + Clone) -> Self {
        let n_words = heads.clone().map(|(head, _)| head / WORD + 1).max().unwrap_or(0);
        let mut words = vec![0; n_words];
        for (head, past) in heads {
            words[head / WORD] |= 1 << (head % WORD);
            words.iter_mut().zip(&past.words).for_each(|(word, more)| *word |= more);
        }
        let len = words.iter().map(|word| word.count_ones() as usize).sum();
        Self { words, len }
    }

    /// Whether an operation is in it.
    pub(super) fn has(&self, i: Idx) -> bool {
        self.words.get(i / WORD).is_some_and(|word| word & (1 << (i % WORD)) != 0)
    }

    /// Whether it has something in common with `other` that is not in `known`.
    pub(super) fn meets_beyond(&self, other: &Self, known: &Self) -> bool {
        let common = self.words.iter().zip(&other.words).map(|(a, b)| a & b);
        common.enumerate().any(|(n, word)| word & !known.words.get(n).copied().unwrap_or(0) != 0)
    }

    /// How many operations are in it.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Puts an operation in, or takes it out.
    pub(super) fn set(&mut self, i: Idx, is_in: bool) {
        if self.has(i) == is_in {
            return;
        }
        if self.words.len() <= i / WORD {
            self.words.resize(i / WORD + 1, 0);
        }
        self.words[i / WORD] ^= 1 << (i % WORD);
        self.len = if is_in { self.len + 1 } else { self.len - 1 };
    }
}

/// The most bytes that the pasts of `n` operations take together: each has a word for every 64 that came before.
pub(super) const fn most_bytes(n: usize) -> usize {
    n * (n + 2 * WORD) / (2 * u8::BITS as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_what_was_put_in_over_the_borders_of_words() {
        for n in [0, 1, 63, 64, 65, 200] {
            let all = OpSet::first(n);
            assert_eq!(all.len(), n);
            assert!((0..n).all(|i| all.has(i)) && !all.has(n), "{n}");
            let mut one_by_one = OpSet::default();
            (0..n).for_each(|i| one_by_one.set(i, true));
            assert_eq!(one_by_one, all);
        }
        let (a, b) = (OpSet::first(70), OpSet::first(3));
        let closure = OpSet::closure([(70, &a), (129, &b)].into_iter());
        assert_eq!(closure.len(), 72);
        assert!(closure.has(129) && closure.has(70) && !closure.has(71));
        assert!(closure.meets_beyond(&OpSet::first(80), &a));
        assert!(!closure.meets_beyond(&a, &a));
    }

    #[test]
    fn pasts_take_no_more_than_what_is_counted_for_them() {
        for n in [1_usize, 63, 64, 65, 1_000] {
            let taken: usize = (0..n).map(|i| size_of_val(OpSet::first(i).words.as_slice())).sum();
            assert!(taken <= most_bytes(n), "{n}: {taken}");
        }
    }
}
