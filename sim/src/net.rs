//! A network in virtual time: messages between numbered nodes, late, lost, doubled, out of order or cut off, all by a
//! seed.
//!
//! The driver of a simulation owns the clock. It sends with the time it is, asks [`Net::next_at`] when something
//! arrives, moves its clock there and takes what has arrived with [`Net::deliver`]. Two runs with one seed and the same
//! calls are equal to the byte, which [`Net::trace`] tells in one number.
//!
//! Deliberately absent: connections, and what a message means.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bib_core::time::Instant;

use crate::rng::Rng;

/// How messages travel in one direction between two nodes. The default is a good cable: 1 ms, nothing goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Shortest time that a message is on its way.
    pub min_latency: Duration,
    /// Longest time that a message is on its way, its own length aside.
    pub max_latency: Duration,
    /// Messages of a thousand that are lost.
    pub lost_per_mille: u32,
    /// Messages of a thousand that arrive twice.
    pub doubled_per_mille: u32,
    /// Whether a message may overtake one sent before it.
    pub reorders: bool,
    /// Bytes a second that the link carries; `None` = any number at once.
    pub bytes_per_second: Option<u64>,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            min_latency: Duration::from_millis(1),
            max_latency: Duration::from_millis(1),
            lost_per_mille: 0,
            doubled_per_mille: 0,
            reorders: false,
            bytes_per_second: None,
        }
    }
}

impl Link {
    /// A link that does everything wrong now and then.
    pub fn bad() -> Self {
        Self {
            min_latency: Duration::from_millis(1),
            max_latency: Duration::from_millis(400),
            lost_per_mille: 30,
            doubled_per_mille: 30,
            reorders: true,
            bytes_per_second: None,
        }
    }
}

/// A message that has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery<M> {
    /// When.
    pub at: Instant,
    /// Who sent it.
    pub from: usize,
    /// Who gets it.
    pub to: usize,
    /// What it is.
    pub message: M,
}

/// Figures of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NetStats {
    /// Messages given to [`Net::send`].
    pub sent: u64,
    /// Bytes of these.
    pub sent_bytes: u64,
    /// Messages that arrived, doubles included.
    pub delivered: u64,
    /// Messages lost by a link, a cut or a crash.
    pub lost: u64,
    /// Messages doubled.
    pub doubled: u64,
}

#[derive(Debug, Clone, Default)]
struct Wire {
    /// When the last message sent has left, and when the last in order arrives.
    busy_until: Instant,
    last_arrival: Instant,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Net<M> {
    rng: Rng,
    default: Link,
    links: BTreeMap<(usize, usize), Link>,
    wires: BTreeMap<(usize, usize), Wire>,
    cuts: BTreeSet<(usize, usize)>,
    /// By arrival, then by the order of sending.
    queue: BTreeMap<(Instant, u64), (usize, usize, M)>,
    next: u64,
    stats: NetStats,
    trace: u64,
}

impl<M: Clone> Net<M> {
    /// A network in which every link is `default` until [`Net::set_link`] says else.
    pub fn new(seed: u64, default: Link) -> Self {
        Self {
            rng: Rng::new(seed),
            default,
            links: BTreeMap::new(),
            wires: BTreeMap::new(),
            cuts: BTreeSet::new(),
            queue: BTreeMap::new(),
            next: 0,
            stats: NetStats::default(),
            trace: 0xcbf2_9ce4_8422_2325,
        }
    }

    /// Changes the link from one node to another, in this direction.
    pub fn set_link(&mut self, from: usize, to: usize, link: Link) {
        self.links.insert((from, to), link);
    }

    /// Changes the link between two nodes, in both directions.
    pub fn set_links(&mut self, a: usize, b: usize, link: Link) {
        self.set_link(a, b, link);
        self.set_link(b, a, link);
    }

    /// Cuts two nodes off from each other: what is on its way, or sent before [`Net::heal`], is lost.
    pub fn cut(&mut self, a: usize, b: usize) {
        self.cuts.extend([(a, b), (b, a)]);
        self.lose(|from, to| (from, to) == (a, b) || (from, to) == (b, a));
    }

    /// Cuts every link between the nodes of a group and all others among `n_nodes`.
    pub fn partition(&mut self, group: &[usize], n_nodes: usize) {
        for &inside in group {
            for outside in (0..n_nodes).filter(|node| !group.contains(node)) {
                self.cut(inside, outside);
            }
        }
    }

    /// Ends a cut.
    pub fn heal(&mut self, a: usize, b: usize) {
        self.cuts.remove(&(a, b));
        self.cuts.remove(&(b, a));
    }

    /// Ends all cuts.
    pub fn heal_all(&mut self) {
        self.cuts.clear();
    }

    /// Whether two nodes are cut off from each other.
    pub fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cuts.contains(&(a, b))
    }

    /// A node stops: what is on its way to or from it is lost.
    pub fn crash(&mut self, node: usize) {
        self.lose(|from, to| from == node || to == node);
    }

    fn lose(&mut self, matches: impl Fn(usize, usize) -> bool) {
        let before = self.queue.len();
        self.queue.retain(|_, (from, to, _)| !matches(*from, *to));
        self.stats.lost += (before - self.queue.len()) as u64;
    }

    /// Puts a message on its way, its length unimportant.
    pub fn send(&mut self, now: Instant, from: usize, to: usize, message: M) {
        self.send_sized(now, from, to, message, 0);
    }

    /// Puts a message of so many bytes on its way. Returns when its last byte has left, lost or not.
    pub fn send_sized(&mut self, now: Instant, from: usize, to: usize, message: M, len: usize) -> Instant {
        self.stats.sent += 1;
        self.stats.sent_bytes += len as u64;
        let link = self.links.get(&(from, to)).copied().unwrap_or(self.default);
        if self.cuts.contains(&(from, to)) || self.happens(link.lost_per_mille) {
            self.stats.lost += 1;
            return self.wires.get(&(from, to)).map_or(now, |wire| wire.busy_until.max(now));
        }
        let copies = 1 + usize::from(self.happens(link.doubled_per_mille));
        self.stats.doubled += copies as u64 - 1;
        for _ in 0..copies {
            let at = self.arrival(now, (from, to), link, len);
            self.queue.insert((at, self.next), (from, to, message.clone()));
            self.next += 1;
        }
        self.wires.get(&(from, to)).map_or(now, |wire| wire.busy_until)
    }

    fn happens(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.rng.chance(u64::from(per_mille), 1_000)
    }

    fn arrival(&mut self, now: Instant, ends: (usize, usize), link: Link, len: usize) -> Instant {
        let spread = link.max_latency.saturating_sub(link.min_latency).as_micros() as u64;
        let latency = link.min_latency + Duration::from_micros(self.rng.below(spread + 1));
        let wire = self.wires.entry(ends).or_default();
        let carried = link.bytes_per_second.map_or(0, |rate| (len as u64).saturating_mul(1_000_000) / rate.max(1));
        wire.busy_until = wire.busy_until.max(now) + Duration::from_micros(carried);
        let at = wire.busy_until + latency;
        if link.reorders {
            return at;
        }
        wire.last_arrival = wire.last_arrival.max(at);
        wire.last_arrival
    }

    /// When the next message arrives.
    pub fn next_at(&self) -> Option<Instant> {
        self.queue.first_key_value().map(|(&(at, _), _)| at)
    }

    /// Takes the next message that has arrived by `now`.
    pub fn deliver(&mut self, now: Instant) -> Option<Delivery<M>> {
        let entry = self.queue.first_entry().filter(|entry| entry.key().0 <= now)?;
        let ((at, number), (from, to, message)) = entry.remove_entry();
        self.stats.delivered += 1;
        for word in [at.0, number, from as u64, to as u64] {
            self.mix(word);
        }
        Some(Delivery { at, from, to, message })
    }

    /// Adds something of the driver to [`Net::trace`], such as a hash of what was delivered.
    pub const fn mix(&mut self, word: u64) {
        self.trace = (self.trace ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    /// A number over everything that was delivered, and when: equal for equal runs.
    pub const fn trace(&self) -> u64 {
        self.trace
    }

    /// Messages on their way.
    pub fn n_in_flight(&self) -> usize {
        self.queue.len()
    }

    /// Figures.
    pub const fn stats(&self) -> NetStats {
        self.stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(net: &mut Net<u32>) -> Vec<(u64, usize, u32)> {
        let mut out = Vec::new();
        while let Some(at) = net.next_at() {
            while let Some(delivery) = net.deliver(at) {
                out.push((delivery.at.0, delivery.to, delivery.message));
            }
        }
        out
    }

    fn busy(seed: u64) -> (Vec<(u64, usize, u32)>, u64, NetStats) {
        let mut net = Net::new(seed, Link::bad());
        for i in 0..2_000 {
            net.send(Instant(u64::from(i) * 10), 0, 1 + (i as usize % 3), i);
        }
        let out = drain(&mut net);
        (out, net.trace(), net.stats())
    }

    #[test]
    fn good_link_keeps_the_order_and_loses_nothing() {
        let mut net = Net::new(1, Link { max_latency: Duration::from_millis(50), ..Link::default() });
        for i in 0..500 {
            net.send(Instant(u64::from(i)), 0, 1, i);
        }
        let arrived = drain(&mut net);
        assert!(arrived.iter().map(|(_, _, message)| *message).eq(0..500));
        assert!(arrived.windows(2).all(|pair| pair[0].0 <= pair[1].0));
    }

    #[test]
    fn bad_link_loses_doubles_and_reorders() {
        let (arrived, _, stats) = busy(7);
        assert!(stats.lost > 0 && stats.doubled > 0, "{stats:?}");
        assert_eq!(arrived.len() as u64, stats.sent - stats.lost + stats.doubled);
        assert!(arrived.windows(2).any(|pair| pair[0].2 > pair[1].2), "nothing was overtaken");
    }

    #[test]
    fn a_seed_replays_and_another_does_not() {
        assert_eq!(busy(3), busy(3));
        assert_ne!(busy(3).1, busy(4).1);
    }

    #[test]
    fn cut_loses_what_is_on_its_way_and_heals() {
        let mut net = Net::new(1, Link::default());
        net.send(Instant(0), 0, 1, 1);
        net.partition(&[0], 3);
        net.send(Instant(0), 1, 0, 2);
        net.send(Instant(0), 1, 2, 3);
        net.heal_all();
        net.send(Instant(0), 0, 1, 4);
        net.send(Instant(0), 2, 0, 5);
        net.crash(2);
        assert_eq!(drain(&mut net), [(1_000, 1, 4)]);
        assert_eq!(net.stats().lost, 4);
    }

    #[test]
    fn narrow_link_carries_so_many_bytes_a_second() {
        let mut net = Net::new(1, Link { bytes_per_second: Some(1_000_000), ..Link::default() });
        for i in 0..10 {
            net.send_sized(Instant(0), 0, 1, i, 100_000);
        }
        assert_eq!(drain(&mut net).last().unwrap().0, 1_001_000);
    }
}
