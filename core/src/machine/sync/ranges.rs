//! Ranges of one log: cutting, listing and comparing. Both sides of a reconciliation stand on these functions.
//!
//! A range is cut into pieces of equal numbers of operations, so that the depth of a comparison is the logarithm of the
//! log, whatever its lamport numbers are. Every function reads a range once, in order.

use std::ops::ControlFlow;

use crate::catalog::log::{self, Figures};
use crate::id::{OpId, TopicId};
use crate::limits;
use crate::op::Class;
use crate::port::{CatalogRead, StoreError};
use crate::wire::message::{OpKey, Range, RangeState};

/// A range of keys: from the first one up to and without the second; `None` = the beginning, or the end.
pub(super) type Span = (Option<OpKey>, Option<OpKey>);

/// One of the two logs of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Log {
    pub(super) topic: TopicId,
    pub(super) class: Class,
}

impl Log {
    pub(super) fn figures(self, read: &dyn CatalogRead, span: Span) -> Result<Figures, StoreError> {
        log::range_figures(read, &self.topic, self.class, span)
    }

    /// Up to `limit` keys of a span, and the part of the span that they are all of.
    pub(super) fn keys(
        self,
        read: &dyn CatalogRead,
        (lower, upper): Span,
        limit: usize,
    ) -> Result<(Vec<OpKey>, Option<OpKey>), StoreError> {
        let mut keys = log::range_keys(read, &self.topic, self.class, (lower, upper), limit + 1)?;
        if keys.len() <= limit {
            return Ok((keys, upper));
        }
        let next = keys.pop().expect("there is one more than the limit");
        let end = keys.last().map_or(next, |last| bound_between(last, &next));
        Ok((keys, Some(end)))
    }

    /// Cuts a span of `count` operations into at most `pieces` of about equal numbers, with their fingerprints.
    pub(super) fn cut(
        self,
        read: &dyn CatalogRead,
        (lower, upper): Span,
        count: u64,
        pieces: usize,
    ) -> Result<Vec<Range>, StoreError> {
        let per_piece = count.div_ceil(pieces.max(1) as u64).max(1);
        let mut ranges: Vec<Range> = Vec::with_capacity(pieces);
        let (mut figures, mut last) = (Figures::default(), None::<OpKey>);
        log::visit_range(read, &self.topic, self.class, (lower, upper), &mut |key| {
            if let Some(last) = last.filter(|_| figures.count == per_piece) {
                ranges.push(fingerprint(Some(bound_between(&last, &key)), &std::mem::take(&mut figures)));
            }
            figures.add(&key.1);
            last = Some(key);
            ControlFlow::Continue(())
        })?;
        ranges.push(fingerprint(upper, &figures));
        Ok(ranges)
    }
}

/// The range up to `upper` with its figures.
pub(super) fn fingerprint(upper: Option<OpKey>, figures: &Figures) -> Range {
    Range { upper, state: Some(RangeState::Fingerprint { count: figures.count, sum: figures.fingerprint() }) }
}

/// The shortest key behind `below` and not behind `above`: few bytes on the wire.
pub(super) fn bound_between(below: &OpKey, above: &OpKey) -> OpKey {
    if below.0 != above.0 {
        return (above.0, OpId::from_bytes([0; 32]));
    }
    let (low, high) = (below.1.as_bytes(), above.1.as_bytes());
    let common = low.iter().zip(high).take_while(|(low, high)| low == high).count();
    (above.0, OpId::from_bytes(std::array::from_fn(|i| if i <= common { high[i] } else { 0 })))
}

/// Whether `upper` lies behind `lower`.
pub(super) fn is_behind(upper: Option<OpKey>, lower: Option<OpKey>) -> bool {
    match (upper, lower) {
        (None, _) => true,
        (Some(_), None) => true,
        (Some(upper), Some(lower)) => upper > lower,
    }
}

/// A message of ranges under construction: joins what there is nothing to say of, and counts against the bounds.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    ranges: Vec<Range>,
    n_ids: usize,
}

impl Ranges {
    /// Nothing to say up to `upper`.
    pub(super) fn skip(&mut self, upper: Option<OpKey>) {
        match self.ranges.last_mut().filter(|range| range.state.is_none()) {
            Some(last) => last.upper = upper,
            None => self.ranges.push(Range { upper, state: None }),
        }
    }

    pub(super) fn push(&mut self, range: Range) {
        match &range.state {
            None => return self.skip(range.upper),
            Some(RangeState::Ids { ids, .. }) => self.n_ids += ids.len(),
            Some(RangeState::Fingerprint { .. }) => {}
        }
        self.ranges.push(range);
    }

    /// Ranges that still fit; one is left for a gap.
    pub(super) fn room(&self) -> usize {
        (limits::MAX_RANGES_PER_MESSAGE - 1).saturating_sub(self.ranges.len())
    }

    /// Ids that still fit.
    pub(super) fn id_room(&self) -> usize {
        limits::MAX_RANGE_IDS.saturating_sub(self.n_ids)
    }

    pub(super) fn finish(self) -> Vec<Range> {
        self.ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(lamport: u64, bytes: &[u8]) -> OpKey {
        (lamport, OpId::from_bytes(std::array::from_fn(|i| bytes.get(i).copied().unwrap_or(0))))
    }

    #[test]
    fn bound_is_short_and_lies_between() {
        for (below, above) in [
            (key(1, &[9; 32]), key(2, &[1; 32])),
            (key(2, &[1; 32]), key(2, &[2; 32])),
            (key(2, &[7, 7, 1, 9]), key(2, &[7, 7, 2, 3])),
            (key(2, &[0; 32]), key(2, &[0, 1])),
        ] {
            let bound = bound_between(&below, &above);
            assert!(below < bound && bound <= above, "{below:?} {bound:?} {above:?}");
        }
        assert_eq!(bound_between(&key(1, &[9; 32]), &key(3, &[1; 32])), key(3, &[]));
    }

    #[test]
    fn what_there_is_nothing_to_say_of_takes_one_range() {
        let mut ranges = Ranges::default();
        ranges.skip(Some(key(1, &[])));
        ranges.skip(Some(key(2, &[])));
        ranges.push(fingerprint(Some(key(3, &[])), &Figures::default()));
        ranges.skip(None);
        let uppers: Vec<_> = ranges.finish().iter().map(|range| range.upper.map(|key| key.0)).collect();
        assert_eq!(uppers, [Some(2), Some(3), None]);
    }
}
