//! What lies between the nodes of a world: connections with ordered streams, a mesh that loses gossip, and the clock's
//! list of things to come.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bib_core::id::NodeId;
use bib_core::time::Instant;

use crate::net::{Delivery, Link, Net};
use crate::rng::Rng;

/// What travels. Bodies are the encoded messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    /// A frame on a stream of a connection.
    Frame {
        /// The connection; frames of an ended one do not arrive.
        connection: u64,
        frame: Frame,
    },
    Gossip {
        topic: String,
        author: NodeId,
        bytes: Vec<u8>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    DiscoveryRequest(Vec<u8>),
    DiscoveryResponse(Vec<u8>),
    SyncRequest(Vec<u8>),
    SyncResponse(Vec<u8>),
    /// On the stream of a fetch, by its number at the node that fetches.
    DataRequest(u64, Vec<u8>),
    DataResponse(u64, Vec<u8>),
    /// The node that fetches has closed the stream, or the other one has.
    DataClosed(u64),
    DataRefused(u64),
}

impl Frame {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::DiscoveryRequest(bytes)
            | Self::DiscoveryResponse(bytes)
            | Self::SyncRequest(bytes)
            | Self::SyncResponse(bytes)
            | Self::DataRequest(_, bytes)
            | Self::DataResponse(_, bytes) => bytes,
            Self::DataClosed(_) | Self::DataRefused(_) => &[],
        }
    }
}

/// What comes to pass at a time.
#[derive(Debug)]
pub(super) enum Happening {
    Start(usize),
    Crash(usize),
    Cut(Vec<usize>),
    Heal,
    Action(usize),
    Dialled {
        from: usize,
        boot: u64,
        to: usize,
        address: String,
    },
    /// A node notices that a connection is gone.
    Lost {
        node: usize,
        peer: usize,
        number: u64,
    },
    /// The store thread of a node has written what was queued.
    Commit {
        node: usize,
        boot: u64,
    },
    Flushed {
        node: usize,
        boot: u64,
        fetch: u64,
        token: u64,
    },
    Arrived(Delivery<Message>),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Wires {
    rng: Rng,
    streams: Net<Message>,
    mesh: Net<Message>,
    queue: BTreeMap<(Instant, u64), Happening>,
    next: u64,
    /// Open connections by the lower and the higher node.
    connections: BTreeMap<(usize, usize), u64>,
    cuts: BTreeSet<(usize, usize)>,
    control_bytes: u64,
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl Wires {
    pub(super) fn new(seed: u64, gossip_lost_per_mille: u32) -> Self {
        let stream = Link { max_latency: Duration::from_millis(40), ..Link::default() };
        let mesh = Link {
            max_latency: Duration::from_millis(80),
            lost_per_mille: gossip_lost_per_mille,
            doubled_per_mille: 20,
            reorders: true,
            ..Link::default()
        };
        Self {
            rng: Rng::new(seed),
            streams: Net::new(seed ^ 1, stream),
            mesh: Net::new(seed ^ 2, mesh),
            queue: BTreeMap::new(),
            next: 1,
            connections: BTreeMap::new(),
            cuts: BTreeSet::new(),
            control_bytes: 0,
        }
    }

    pub(super) fn later(&mut self, at: Instant, happening: Happening) {
        self.queue.insert((at, self.next), happening);
        self.next += 1;
    }

    /// Some time in a range of milliseconds from now.
    pub(super) fn soon(&mut self, now: Instant, shortest: u64, longest: u64) -> Instant {
        now + Duration::from_micros(shortest * 1_000 + self.rng.below((longest - shortest) * 1_000 + 1))
    }

    pub(super) fn next_at(&self) -> Option<Instant> {
        let queued = self.queue.first_key_value().map(|((at, _), _)| *at);
        [queued, self.streams.next_at(), self.mesh.next_at()].into_iter().flatten().min()
    }

    /// The next thing that has come to pass.
    pub(super) fn due(&mut self, now: Instant) -> Option<Happening> {
        if let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= now) {
            return Some(entry.remove());
        }
        while let Some(delivery) = self.streams.deliver(now) {
            if let Message::Frame { connection, frame } = &delivery.message
                && self.connections.get(&pair(delivery.from, delivery.to)) == Some(connection)
            {
                mix(&mut self.streams, frame.bytes());
                return Some(Happening::Arrived(delivery));
            }
        }
        let delivery = self.mesh.deliver(now)?;
        if let Message::Gossip { bytes, .. } = &delivery.message {
            mix(&mut self.mesh, bytes);
        }
        Some(Happening::Arrived(delivery))
    }

    pub(super) fn send(&mut self, now: Instant, (from, to, connection): (usize, usize, u64), frame: Frame) {
        let is_control = !matches!(frame, Frame::DataRequest(..) | Frame::DataResponse(..));
        self.control_bytes += if is_control { frame.bytes().len() as u64 } else { 0 };
        self.streams.send(now, from, to, Message::Frame { connection, frame });
    }

    pub(super) fn gossip(&mut self, now: Instant, from: usize, to: usize, topic: &str, author: NodeId, bytes: &[u8]) {
        self.control_bytes += bytes.len() as u64;
        let message = Message::Gossip { topic: topic.to_owned(), author, bytes: bytes.to_vec() };
        self.mesh.send(now, from, to, message);
    }

    /// Opens a connection, or returns the number of the one that is open.
    pub(super) fn connect(&mut self, a: usize, b: usize) -> u64 {
        let fresh = self.next;
        self.next += 1;
        *self.connections.entry(pair(a, b)).or_insert(fresh)
    }

    fn end(&mut self, now: Instant, (a, b): (usize, usize), notice: &[usize]) {
        let Some(number) = self.connections.remove(&pair(a, b)) else { return };
        for node in notice {
            let at = self.soon(now, 0, 8_000);
            let peer = if *node == a { b } else { a };
            self.later(at, Happening::Lost { node: *node, peer, number });
        }
    }

    /// Cuts a group off; both sides of its connections notice some seconds later.
    pub(super) fn cut(&mut self, now: Instant, group: &[usize], n_nodes: usize) {
        for &inside in group {
            for outside in (0..n_nodes).filter(|node| !group.contains(node)) {
                self.cuts.insert(pair(inside, outside));
                self.streams.cut(inside, outside);
                self.mesh.cut(inside, outside);
                self.end(now, (inside, outside), &[inside, outside]);
            }
        }
    }

    pub(super) fn heal(&mut self) {
        self.cuts.clear();
        self.streams.heal_all();
        self.mesh.heal_all();
    }

    pub(super) fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cuts.contains(&pair(a, b))
    }

    /// A node stops; its peers notice some seconds later.
    pub(super) fn crash(&mut self, now: Instant, node: usize) {
        self.streams.crash(node);
        self.mesh.crash(node);
        let peers: Vec<usize> = self
            .connections
            .keys()
            .filter_map(|(a, b)| if *a == node { Some(*b) } else { (*b == node).then_some(*a) })
            .collect();
        for peer in peers {
            self.end(now, (node, peer), &[peer]);
        }
    }

    pub(super) const fn control_bytes(&self) -> u64 {
        self.control_bytes
    }

    pub(super) fn mix(&mut self, bytes: &[u8]) {
        mix(&mut self.streams, bytes);
    }

    pub(super) const fn trace(&self) -> u64 {
        self.streams.trace() ^ self.mesh.trace().rotate_left(1)
    }
}

fn mix(net: &mut Net<Message>, bytes: &[u8]) {
    let hash = blake3::hash(bytes);
    let word = hash.as_bytes().first_chunk::<8>().expect("a hash has 32 bytes");
    net.mix(u64::from_le_bytes(*word));
}
