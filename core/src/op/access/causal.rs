//! Who knew what: the causal past of each operation, as one number per chain.
//!
//! The operations are laid out in chains, each a line in which everyone knows all before it. A past is then "the
//! first n of this chain, the first m of that one", and the question whether one operation knew another is a
//! comparison. Which operation lies in which chain depends on the order of arrival; no answer does.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Where an operation lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    chain: u32,
    at: u32,
}

/// A set of operations that is closed under "and what it knew". The past of an operation is without itself.
#[derive(Debug, Clone)]
pub(super) struct Past {
    /// (chain, how many of it), ascending; shared along a chain.
    counts: Arc<Vec<(u32, u32)>>,
    /// The operation's own chain, kept apart so that `counts` can be shared.
    own: (u32, u32),
}

const NO_CHAIN: u32 = u32::MAX;

impl Past {
    /// Whether an operation is in it.
    pub(super) fn has(&self, place: Place) -> bool {
        place.at < self.count(place.chain)
    }

    /// Whether it has something in common with `other` that is not in `known`.
    pub(super) fn meets_beyond(&self, other: &Self, known: &Self) -> bool {
        let own = std::iter::once(self.own).filter(|(chain, _)| *chain != NO_CHAIN);
        let mut counts = self.counts.iter().copied().chain(own);
        counts.any(|(chain, n)| n.min(other.count(chain)) > known.count(chain))
    }

    fn count(&self, chain: u32) -> u32 {
        if chain == self.own.0 {
            return self.own.1;
        }
        self.counts.binary_search_by_key(&chain, |(known, _)| *known).map_or(0, |i| self.counts[i].1)
    }

    /// Bytes of memory that it takes beside what it shares with others.
    pub(super) fn own_bytes(&self) -> usize {
        if Arc::strong_count(&self.counts) > 1 { 0 } else { size_of::<(u32, u32)>() * self.counts.len() }
    }

    /// The most bytes that a past can take which continues these.
    pub(super) fn most_bytes<'a>(parents: impl Iterator<Item = &'a Self>) -> usize {
        size_of::<(u32, u32)>() * parents.map(|past| past.counts.len() + 2).sum::<usize>()
    }

    /// How many operations are in it.
    pub(super) fn len(&self) -> usize {
        self.counts.iter().map(|(_, n)| *n as usize).sum::<usize>() + self.own.1 as usize
    }

    /// What `heads` and everything before them are together.
    pub(super) fn closure<'a>(heads: impl IntoIterator<Item = (Place, &'a Self)>) -> Self {
        Self { counts: Arc::new(union(heads).into_iter().collect()), own: (NO_CHAIN, 0) }
    }
}

fn union<'a>(heads: impl IntoIterator<Item = (Place, &'a Past)>) -> BTreeMap<u32, u32> {
    let mut counts = BTreeMap::<u32, u32>::new();
    let mut raise = |chain: u32, n: u32| {
        if chain != NO_CHAIN && n > 0 {
            let count = counts.entry(chain).or_default();
            *count = n.max(*count);
        }
    };
    for (place, past) in heads {
        raise(place.chain, place.at + 1);
        raise(past.own.0, past.own.1);
        past.counts.iter().for_each(|(chain, n)| raise(*chain, *n));
    }
    counts
}

/// The chains.
#[derive(Debug, Clone, Default)]
pub(super) struct Chains {
    lens: Vec<u32>,
}

impl Chains {
    /// Finds the place of a new operation with these parents, and its past.
    pub(super) fn add(&mut self, parents: &[(Place, &Past)]) -> (Place, Past) {
        // The end of a chain is prolonged; every other parent begins a branch.
        let end = parents.iter().find(|(place, _)| self.lens[place.chain as usize] == place.at + 1);
        let chain = match end {
            Some((place, _)) => place.chain,
            None => {
                self.lens.push(0);
                u32::try_from(self.lens.len() - 1).expect("memory ends before the chains do")
            }
        };
        let at = self.lens[chain as usize];
        self.lens[chain as usize] += 1;
        let counts = match (end, parents) {
            (Some((_, past)), [_]) => past.counts.clone(),
            _ => Arc::new(union(parents.iter().copied()).into_iter().filter(|(c, _)| *c != chain).collect()),
        };
        (Place { chain, at }, Past { counts, own: (chain, at) })
    }

    /// Everything.
    pub(super) fn all(&self) -> Past {
        let counts = self.lens.iter().enumerate().map(|(chain, n)| (chain as u32, *n)).collect();
        Past { counts: Arc::new(counts), own: (NO_CHAIN, 0) }
    }
}
