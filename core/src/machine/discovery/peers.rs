//! What is remembered of peers, and when configured ones are dialled.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::api::event::Peer;
use crate::id::NodeId;
use crate::limits;
use crate::time::{Instant, Timestamp};
use crate::wire::message::NodeMode;

#[derive(Debug, Clone, Default)]
struct Record {
    addresses: Vec<String>,
    is_connected: bool,
    agent: Option<String>,
    mode: Option<NodeMode>,
    rtt: Option<Duration>,
    last_seen: Option<Timestamp>,
}

/// A peer of the configuration.
#[derive(Debug, Clone)]
struct Configured {
    address: String,
    /// Who answers there, once known: from the address, or from the connection that came of it.
    node: Option<NodeId>,
    is_dialling: bool,
    /// Failures in a row.
    n_failures: u32,
    /// When to dial next.
    due: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct PeerBook {
    records: BTreeMap<NodeId, Record>,
    configured: Vec<Configured>,
}

/// The node that an address names at its end, as in `/ip4/…/tcp/…/p2p/<id>`.
fn node_of_address(address: &str) -> Option<NodeId> {
    address.rsplit_once("/p2p/")?.1.parse().ok()
}

/// A pause that doubles with each failure.
pub(super) fn backoff(n_failures: u32, longest: Duration) -> Duration {
    limits::RETRY_MIN.saturating_mul(1 << n_failures.saturating_sub(1).min(20)).min(longest)
}

impl PeerBook {
    pub(super) fn new(me: NodeId, addresses: &[String]) -> Self {
        let configured = addresses.iter().map(|address| Configured {
            address: address.clone(),
            node: node_of_address(address),
            is_dialling: false,
            n_failures: 0,
            due: Instant::default(),
        });
        Self { records: BTreeMap::new(), configured: configured.filter(|one| one.node != Some(me)).collect() }
    }

    /// Takes other addresses to be always connected to; what is known of those that stay is kept.
    pub(super) fn configure(&mut self, me: NodeId, addresses: &[String]) {
        let mut next = Self::new(me, addresses).configured;
        for one in &mut next {
            if let Some(known) = self.configured.iter().find(|known| known.address == one.address) {
                *one = known.clone();
            }
        }
        self.configured = next;
    }

    fn record(&mut self, node: NodeId) -> &mut Record {
        if self.records.len() >= limits::MAX_PEERS && !self.records.contains_key(&node) {
            let idle = self.records.iter().filter(|(_, record)| !record.is_connected);
            if let Some(oldest) = idle.min_by_key(|(_, record)| record.last_seen).map(|(node, _)| *node) {
                self.records.remove(&oldest);
            }
        }
        self.records.entry(node).or_default()
    }

    pub(super) fn connected(&mut self, clock: Timestamp, node: NodeId, dialled: Option<&str>) {
        let record = self.record(node);
        record.is_connected = true;
        record.last_seen = Some(clock);
        if let Some(address) = dialled {
            record.addresses.retain(|known| known != address);
            record.addresses.insert(0, address.to_owned());
            record.addresses.truncate(limits::MAX_PEER_ADDRESSES);
        }
        for one in &mut self.configured {
            if dialled == Some(one.address.as_str()) {
                one.node = Some(node);
            }
            if one.node == Some(node) {
                one.is_dialling = false;
                one.n_failures = 0;
            }
        }
    }

    pub(super) fn disconnected(&mut self, now: Instant, clock: Timestamp, node: NodeId) {
        let record = self.record(node);
        record.is_connected = false;
        record.last_seen = Some(clock);
        for one in self.configured.iter_mut().filter(|one| one.node == Some(node)) {
            one.due = now + limits::RETRY_MIN;
        }
    }

    pub(super) fn dial_failed(&mut self, now: Instant, address: &str) {
        for one in self.configured.iter_mut().filter(|one| one.address == address && one.is_dialling) {
            one.is_dialling = false;
            one.n_failures += 1;
            one.due = now + backoff(one.n_failures, limits::REDIAL_MAX);
        }
    }

    /// What a peer says of itself: an address it names is remembered behind those that were dialled.
    pub(super) fn told(&mut self, node: NodeId, addresses: &[String], agent: Option<&str>, mode: Option<NodeMode>) {
        let record = self.record(node);
        for address in addresses.iter().filter(|address| address.len() <= limits::MAX_REFERENCE_LEN) {
            if record.addresses.len() < limits::MAX_PEER_ADDRESSES && !record.addresses.contains(address) {
                record.addresses.push(address.clone());
            }
        }
        record.agent = agent.map(|agent| agent.chars().take(128).collect()).or_else(|| record.agent.take());
        record.mode = mode.or(record.mode);
    }

    pub(super) fn rtt(&mut self, clock: Timestamp, node: NodeId, rtt: Duration) {
        let record = self.record(node);
        record.rtt = Some(rtt);
        record.last_seen = Some(clock);
    }

    /// Addresses to dial now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<String> {
        let records = &self.records;
        let is_connected = |node: &NodeId| records.get(node).is_some_and(|record| record.is_connected);
        let due = self
            .configured
            .iter_mut()
            .filter(|one| !one.is_dialling && one.due <= now && !one.node.as_ref().is_some_and(is_connected));
        due.map(|one| {
            one.is_dialling = true;
            one.address.clone()
        })
        .collect()
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        let is_connected = |node: &NodeId| self.records.get(node).is_some_and(|record| record.is_connected);
        let waiting =
            self.configured.iter().filter(|one| !one.is_dialling && !one.node.as_ref().is_some_and(is_connected));
        waiting.map(|one| one.due).min()
    }

    pub(super) fn list(&self) -> Vec<Peer> {
        let peer = |(node, record): (&NodeId, &Record)| Peer {
            node: *node,
            addresses: record.addresses.clone(),
            connected: record.is_connected,
            agent: record.agent.clone(),
            mode: record.mode,
            rtt_us: record.rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
            last_seen: record.last_seen,
        };
        self.records.iter().map(peer).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "/ip4/10.0.0.7/tcp/4001";

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    #[test]
    fn configured_peer_is_dialled_again_after_pauses_that_double_to_an_hour() {
        let mut book = PeerBook::new(node(1), &[ADDRESS.to_owned()]);
        let (mut now, mut pauses) = (Instant(0), Vec::new());
        for _ in 0..12 {
            assert_eq!(book.due(now), [ADDRESS]);
            assert_eq!(book.due(now), [""; 0], "it is dialled once at a time");
            book.dial_failed(now, ADDRESS);
            let next = book.next_due().expect("it is dialled again");
            pauses.push(next.saturating_duration_since(now).as_secs());
            now = next;
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 320, 640, 1_280, 2_560, 3_600, 3_600]);
    }

    #[test]
    fn connected_peer_is_not_dialled_until_it_goes_whoever_dialled() {
        let (known, unknown) = (format!("/dns4/a/tcp/1/p2p/{}", node(2)), ADDRESS.to_owned());
        let mut book = PeerBook::new(node(1), &[known.clone(), unknown.clone()]);
        book.connected(Timestamp(0), node(2), None);
        assert_eq!(book.due(Instant(0)), [unknown]);
        book.connected(Timestamp(0), node(3), Some(ADDRESS));
        assert_eq!(book.next_due(), None);
        book.disconnected(Instant(0), Timestamp(1), node(2));
        assert_eq!(book.next_due(), Some(Instant(5_000_000)));
        assert_eq!(book.due(Instant(5_000_000)), [known]);
    }

    #[test]
    fn own_address_in_the_configuration_is_left_out() {
        let own = format!("{ADDRESS}/p2p/{}", node(1));
        assert_eq!(PeerBook::new(node(1), &[own]).due(Instant(0)), [""; 0]);
    }

    #[test]
    fn peers_not_seen_for_longest_are_forgotten_first_and_connected_ones_never() {
        let mut book = PeerBook::default();
        let id = |n: usize| NodeId::from_bytes(std::array::from_fn(|i| (n >> (8 * (i % 4))) as u8));
        for n in 0..=limits::MAX_PEERS {
            book.connected(Timestamp(n as i64), id(n), None);
            if n != 0 {
                book.disconnected(Instant(0), Timestamp(n as i64), id(n));
            }
        }
        let list = book.list();
        assert_eq!(list.len(), limits::MAX_PEERS);
        assert!(list.iter().any(|peer| peer.node == id(0) && peer.connected));
        assert!(!list.iter().any(|peer| peer.node == id(1)));
    }

    #[test]
    fn what_a_peer_says_of_itself_is_bounded() {
        let mut book = PeerBook::default();
        let addresses: Vec<String> = (0..100).map(|n| format!("/ip4/10.0.0.{n}/tcp/1")).collect();
        book.connected(Timestamp(0), node(2), Some(ADDRESS));
        book.told(node(2), &addresses, Some(&"x".repeat(10_000)), None);
        let peer = book.list().remove(0);
        assert_eq!(peer.addresses.len(), limits::MAX_PEER_ADDRESSES);
        assert_eq!(peer.addresses[0], ADDRESS);
        assert_eq!(peer.agent.map(|agent| agent.len()), Some(128));
    }
}
