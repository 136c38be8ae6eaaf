//! A token bucket: so many actions at once, and so many a second after that; and one bucket for each peer.
//!
//! Counts in millionths of a token, so that no time is too short to fill it a little and nothing is rounded away.

use std::collections::BTreeMap;

use crate::id::NodeId;
use crate::limits;
use crate::time::Instant;

const MICRO: u64 = 1_000_000;

/// See the module.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    per_second: u32,
    burst: u32,
    /// Millionths of a token.
    level: u64,
    filled_at: Instant,
}

impl TokenBucket {
    /// A full bucket that gains `per_second` tokens a second and holds at most `burst`.
    pub fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second, burst, level: u64::from(burst) * MICRO, filled_at: Instant::default() }
    }

    fn fill(&mut self, now: Instant) {
        let micros = now.0.saturating_sub(self.filled_at.0);
        self.filled_at = self.filled_at.max(now);
        let gained = micros.saturating_mul(u64::from(self.per_second));
        self.level = self.level.saturating_add(gained).min(u64::from(self.burst) * MICRO);
    }

    /// Takes `n` tokens if there are as many.
    pub fn take(&mut self, now: Instant, n: u32) -> bool {
        self.fill(now);
        match self.level.checked_sub(u64::from(n) * MICRO) {
            Some(level) => {
                self.level = level;
                true
            }
            None => false,
        }
    }

    /// Takes up to `n` tokens: for work that turned out larger than it looked.
    pub fn drain(&mut self, now: Instant, n: u32) {
        self.fill(now);
        self.level = self.level.saturating_sub(u64::from(n) * MICRO);
    }

    fn is_full(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.level == u64::from(self.burst) * MICRO
    }

    /// Puts tokens back, as far as there is room.
    pub fn give_back(&mut self, n: u32) {
        self.level = self.level.saturating_add(u64::from(n) * MICRO).min(u64::from(self.burst) * MICRO);
    }

    /// When `n` tokens will be there; `None` if there is never room for as many.
    pub fn ready_at(&self, now: Instant, n: u32) -> Option<Instant> {
        let mut then = self.clone();
        then.fill(now);
        let lacking = (u64::from(n) * MICRO).saturating_sub(then.level);
        if lacking == 0 {
            return Some(now);
        }
        let can = n <= self.burst && self.per_second > 0;
        can.then(|| Instant(now.0.saturating_add(lacking.div_ceil(u64::from(self.per_second)))))
    }
}

/// A bucket for each peer. One whose bucket is full again is forgotten when there is no room; when there is none then,
/// a further peer gets nothing.
#[derive(Debug, Clone)]
pub struct PeerBuckets {
    fresh: TokenBucket,
    max_peers: usize,
    buckets: BTreeMap<NodeId, TokenBucket>,
}

impl PeerBuckets {
    /// Full buckets like `fresh` for up to `max_peers` peers.
    pub const fn new(fresh: TokenBucket, max_peers: usize) -> Self {
        Self { fresh, max_peers, buckets: BTreeMap::new() }
    }

    /// Buckets with what one peer may ask of this node.
    pub fn of_requests() -> Self {
        let fresh = TokenBucket::new(limits::PEER_REQUESTS_PER_SECOND, limits::PEER_REQUEST_BURST);
        Self::new(fresh, limits::MAX_RATED_PEERS)
    }

    /// Takes a token of a peer; false when it has none.
    pub fn take(&mut self, now: Instant, peer: NodeId) -> bool {
        if !self.buckets.contains_key(&peer) && self.buckets.len() >= self.max_peers {
            self.buckets.retain(|_, bucket| !bucket.is_full(now));
            if self.buckets.len() >= self.max_peers {
                return false;
            }
        }
        self.buckets.entry(peer).or_insert_with(|| self.fresh.clone()).take(now, 1)
    }

    /// Takes up to `n` further tokens of a peer.
    pub fn drain(&mut self, now: Instant, peer: NodeId, n: u32) {
        if let Some(bucket) = self.buckets.get_mut(&peer) {
            bucket.drain(now, n);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = MICRO;

    #[test]
    fn burst_is_followed_by_the_rate() {
        let mut bucket = TokenBucket::new(100, 200);
        assert_eq!((0..300).filter(|_| bucket.take(Instant(5), 1)).count(), 200);
        let second = (1..=1_000).filter(|milli| bucket.take(Instant(5 + milli * 1_000), 1)).count();
        assert_eq!(second, 100);
        assert_eq!((0..500).filter(|_| bucket.take(Instant(60 * SECOND), 1)).count(), 200, "it holds no more");
    }

    #[test]
    fn says_when_tokens_are_there() {
        let mut bucket = TokenBucket::new(3, 10);
        assert!(bucket.take(Instant(0), 10));
        let at = bucket.ready_at(Instant(0), 2).unwrap();
        assert!(!bucket.clone().take(Instant(at.0 - 1), 2));
        assert!(bucket.take(at, 2));
        assert_eq!(bucket.ready_at(at, 11), None);
        assert_eq!(TokenBucket::new(0, 1).ready_at(Instant(7), 1), Some(Instant(7)));
    }

    #[test]
    fn tokens_given_back_do_not_overflow_it_and_time_that_goes_back_fills_nothing() {
        let mut bucket = TokenBucket::new(1, 2);
        bucket.give_back(5);
        assert!(bucket.take(Instant(SECOND), 2));
        assert!(!bucket.take(Instant(0), 1));
        bucket.give_back(1);
        assert!(bucket.take(Instant(0), 1));
    }

    #[test]
    fn peers_do_not_take_from_each_other_and_quiet_ones_make_room() {
        let [a, b, c] = [1, 2, 3].map(|n| NodeId::from_bytes([n; 32]));
        let mut buckets = PeerBuckets::new(TokenBucket::new(10, 3), 2);
        assert!(buckets.take(Instant(0), a));
        buckets.drain(Instant(0), a, 9);
        assert!(!buckets.take(Instant(0), a));
        assert!(buckets.take(Instant(0), b));
        assert!(!buckets.take(Instant(0), c));
        assert!(buckets.take(Instant(100_000), c), "b is full again and makes room");
        assert!(buckets.take(Instant(100_000), a), "a has one again");
    }
}
