//! What the rest of the node knows of the network, and how it asks for more: the other end is the event loop, which
//! alone drives the connections.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use async_channel::Sender;
use bib_core::api::event;
use bib_core::id::NodeId;
use bib_core::limits::MAX_KNOWN_PEERS;
use bib_core::time::Timestamp;
use bib_core::wire::message::NodeMode;
use futures::channel::oneshot;

use crate::net::{DialFailure, FrameStream, GossipId, Multiaddr, OpenError, Protocol, Verdict};

/// The event loop has ended, as the node stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the network of the node has stopped")]
pub(crate) struct Stopped;

/// What the event loop is asked to do.
#[derive(Debug)]
pub(crate) enum Order {
    /// Connect to an address; answered when the session stands.
    Connect { address: Multiaddr, answer: oneshot::Sender<Result<NodeId, DialFailure>> },
    /// End all sessions with a node.
    Disconnect { node: NodeId },
    /// Open a stream.
    Open { node: NodeId, protocol: Protocol, answer: oneshot::Sender<Result<FrameStream, OpenError>> },
    /// Refuse a node for a while.
    Ban { node: NodeId, duration: Duration },
    /// Dial the address of a static peer; what comes of it is told to the machines of the catalog.
    Dial { address: String },
    /// Take part in a gossip topic.
    Subscribe(String),
    /// Take no part in it any longer.
    Unsubscribe(String),
    /// Send a message to those who take part in a gossip topic.
    Publish { topic: String, bytes: Vec<u8> },
    /// What to do with a gossip message.
    Report { id: GossipId, verdict: Verdict },
}

/// What is known of a peer.
#[derive(Debug, Clone, Default)]
pub(crate) struct PeerView {
    pub(crate) addresses: Vec<String>,
    pub(crate) is_connected: bool,
    pub(crate) agent: Option<String>,
    pub(crate) mode: Option<NodeMode>,
    pub(crate) rtt: Option<Duration>,
    pub(crate) last_seen: Option<Timestamp>,
    /// Bad chunks that it sent since the start.
    pub(crate) bad_chunks: u32,
}

/// What the event loop and the streams tell.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// Where this node listens.
    pub(crate) addresses: Vec<Multiaddr>,
    /// Peers that are connected or were.
    pub(crate) peers: BTreeMap<NodeId, PeerView>,
    /// Bytes of frames of `/bib/data`.
    pub(crate) wire_received: u64,
    pub(crate) wire_sent: u64,
    /// Gossip messages that were refused, by reason.
    pub(crate) gossip_refused: Vec<(String, u64)>,
}

impl View {
    /// The peer with an id; the one that was away for longest makes room for it.
    pub(crate) fn peer(&mut self, node: NodeId) -> &mut PeerView {
        if self.peers.len() >= MAX_KNOWN_PEERS && !self.peers.contains_key(&node) {
            let away = self.peers.iter().filter(|(_, peer)| !peer.is_connected);
            let oldest = away.min_by_key(|(_, peer)| peer.last_seen).map(|(node, _)| *node);
            if let Some(oldest) = oldest {
                self.peers.remove(&oldest);
            }
        }
        self.peers.entry(node).or_default()
    }

    /// The peers with which a session is open.
    pub(crate) fn connected(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.peers.iter().filter(|(_, peer)| peer.is_connected).map(|(node, _)| *node)
    }
}

/// A handle of the network. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    orders: Sender<Order>,
    pub(crate) view: Rc<RefCell<View>>,
}

impl Network {
    pub(crate) fn new(orders: Sender<Order>) -> Self {
        Self { orders, view: Rc::default() }
    }

    async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Result<T, Stopped> {
        let (answer, result) = oneshot::channel();
        self.orders.send(order(answer)).await.map_err(|_| Stopped)?;
        result.await.map_err(|_| Stopped)
    }

    pub(crate) async fn tell(&self, order: Order) {
        // Without an event loop there is nothing left to be done.
        let _ = self.orders.send(order).await;
    }

    pub(crate) async fn connect(&self, address: Multiaddr) -> Result<Result<NodeId, DialFailure>, Stopped> {
        self.ask(|answer| Order::Connect { address, answer }).await
    }

    pub(crate) async fn disconnect(&self, node: NodeId) {
        self.tell(Order::Disconnect { node }).await;
    }

    pub(crate) async fn open(
        &self,
        node: NodeId,
        protocol: Protocol,
    ) -> Result<Result<FrameStream, OpenError>, Stopped> {
        self.ask(|answer| Order::Open { node, protocol, answer }).await
    }

    pub(crate) async fn ban(&self, node: NodeId, duration: Duration) {
        self.tell(Order::Ban { node, duration }).await;
    }

    /// A peer as callers see it.
    pub(crate) fn peer(&self, node: NodeId) -> Option<event::Peer> {
        self.view.borrow().peers.get(&node).map(|peer| shown(node, peer))
    }

    /// All peers, connected ones first.
    pub(crate) fn peers(&self) -> Vec<event::Peer> {
        let view = self.view.borrow();
        let mut peers: Vec<_> = view.peers.iter().map(|(node, peer)| shown(*node, peer)).collect();
        peers.sort_by_key(|peer| !peer.connected);
        peers
    }
}

fn shown(node: NodeId, peer: &PeerView) -> event::Peer {
    event::Peer {
        node,
        addresses: peer.addresses.clone(),
        connected: peer.is_connected,
        agent: peer.agent.clone(),
        mode: peer.mode,
        rtt_us: peer.rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
        last_seen: peer.last_seen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_that_were_away_for_longest_are_forgotten_first() {
        let mut view = View::default();
        let node =
            |i: usize| NodeId::from_bytes(std::array::from_fn(|at| if at < 8 { i.to_le_bytes()[at] } else { 0 }));
        for i in 0..MAX_KNOWN_PEERS {
            let peer = view.peer(node(i));
            peer.is_connected = i == 0;
            peer.last_seen = Some(Timestamp(i as i64));
        }
        view.peer(node(MAX_KNOWN_PEERS));
        assert_eq!(view.peers.len(), MAX_KNOWN_PEERS);
        assert!(view.peers.contains_key(&node(0)), "a connected one is never forgotten");
        assert!(!view.peers.contains_key(&node(1)));
        assert_eq!(view.connected().collect::<Vec<_>>(), [node(0)]);
    }
}
