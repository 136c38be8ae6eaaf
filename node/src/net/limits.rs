//! Who may connect, and how many: the first thing a connection meets.
//!
//! A connection that is not yet authenticated counts as pending; above [`MAX_PENDING_CONNECTIONS`] of a direction the
//! next one is refused at once. As soon as the peer has proved its id, a banned one is refused before any protocol,
//! then the bounds for all connections and for those of one peer hold.
//!
//! Deliberately absent: why somebody is banned and for how long; which connections to give up when there are many.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::task::{Context, Poll};

use bib_core::limits::{MAX_CONNECTIONS_PER_PEER, MAX_PENDING_CONNECTIONS};
use libp2p::PeerId;
use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::{CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, ToSwarm, dummy};

/// Why a connection was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The peer is banned.
    #[error("the node is banned here")]
    Banned,
    /// Too many connections are being set up.
    #[error("{MAX_PENDING_CONNECTIONS} connections are being set up already")]
    TooManyPending,
    /// This node has as many connections as it may.
    #[error("this node has {0} connections, as many as it may")]
    TooManyConnections(usize),
    /// The peer has as many connections as it may.
    #[error("the node has {MAX_CONNECTIONS_PER_PEER} connections with this one already")]
    TooManyOfPeer,
}

/// The behaviour; see the module.
pub(crate) struct Gate {
    max_connections: usize,
    banned: BTreeSet<PeerId>,
    pending_inbound: BTreeSet<ConnectionId>,
    pending_outbound: BTreeSet<ConnectionId>,
    established: BTreeMap<ConnectionId, PeerId>,
    to_close: Vec<PeerId>,
    refused: u64,
}

impl Gate {
    pub(crate) fn new(max_connections: usize) -> Self {
        Self {
            max_connections,
            banned: BTreeSet::new(),
            pending_inbound: BTreeSet::new(),
            pending_outbound: BTreeSet::new(),
            established: BTreeMap::new(),
            to_close: Vec::new(),
            refused: 0,
        }
    }

    /// Refuses the peer from now on, and closes its connections.
    pub(crate) fn ban(&mut self, peer: PeerId) {
        if self.banned.insert(peer) {
            self.to_close.push(peer);
        }
    }

    /// Lets the peer in again.
    pub(crate) fn unban(&mut self, peer: &PeerId) {
        self.banned.remove(peer);
    }

    /// Connections that were refused.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    /// Connections that stand.
    pub(crate) fn established(&self) -> usize {
        self.established.len()
    }

    fn refuse(&mut self, refusal: Refusal) -> ConnectionDenied {
        self.refused += 1;
        ConnectionDenied::new(refusal)
    }

    fn pending(&mut self, id: ConnectionId, direction: Endpoint) -> Result<(), ConnectionDenied> {
        let pending = match direction {
            Endpoint::Dialer => &mut self.pending_outbound,
            Endpoint::Listener => &mut self.pending_inbound,
        };
        if pending.len() >= MAX_PENDING_CONNECTIONS {
            return Err(self.refuse(Refusal::TooManyPending));
        }
        pending.insert(id);
        Ok(())
    }

    fn admit(&mut self, id: ConnectionId, peer: PeerId) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        self.no_longer_pending(id);
        let of_peer = self.established.values().filter(|known| **known == peer).count();
        let refusal = if self.banned.contains(&peer) {
            Refusal::Banned
        } else if self.established.len() >= self.max_connections {
            Refusal::TooManyConnections(self.max_connections)
        } else if of_peer >= MAX_CONNECTIONS_PER_PEER {
            Refusal::TooManyOfPeer
        } else {
            return Ok(dummy::ConnectionHandler);
        };
        Err(self.refuse(refusal))
    }

    fn no_longer_pending(&mut self, id: ConnectionId) {
        self.pending_inbound.remove(&id);
        self.pending_outbound.remove(&id);
    }
}

impl NetworkBehaviour for Gate {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.pending(id, Endpoint::Listener)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        self.admit(id, peer)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        if peer.is_some_and(|peer| self.banned.contains(&peer)) {
            return Err(self.refuse(Refusal::Banned));
        }
        self.pending(id, Endpoint::Dialer)?;
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        self.admit(id, peer)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(established) => {
                self.established.insert(established.connection_id, established.peer_id);
            }
            FromSwarm::ConnectionClosed(closed) => {
                self.established.remove(&closed.connection_id);
            }
            FromSwarm::DialFailure(failure) => self.no_longer_pending(failure.connection_id),
            FromSwarm::ListenFailure(failure) => self.no_longer_pending(failure.connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: Infallible) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, Infallible>> {
        match self.to_close.pop() {
            Some(peer_id) => Poll::Ready(ToSwarm::CloseConnection { peer_id, connection: CloseConnection::All }),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr() -> Multiaddr {
        "/ip4/127.0.0.1/tcp/1".parse().unwrap()
    }

    fn refusal(denied: ConnectionDenied) -> Refusal {
        denied.downcast().unwrap()
    }

    #[test]
    fn pending_connections_are_bounded_and_leave_room_when_they_end() {
        let mut gate = Gate::new(10);
        let ids: Vec<_> = (0..=MAX_PENDING_CONNECTIONS).map(ConnectionId::new_unchecked).collect();
        for id in &ids[1..] {
            gate.handle_pending_inbound_connection(*id, &addr(), &addr()).unwrap();
        }
        let denied = gate.handle_pending_inbound_connection(ids[0], &addr(), &addr()).unwrap_err();
        assert_eq!(refusal(denied), Refusal::TooManyPending);
        // The other direction has a bound of its own.
        gate.handle_pending_outbound_connection(ids[0], None, &[], Endpoint::Dialer).unwrap();
        gate.handle_established_inbound_connection(ids[1], PeerId::random(), &addr(), &addr()).unwrap();
        gate.handle_pending_inbound_connection(ids[0], &addr(), &addr()).unwrap();
        assert_eq!(gate.refused(), 1);
    }

    #[test]
    fn banned_peer_is_neither_let_in_nor_dialed() {
        let mut gate = Gate::new(10);
        let (peer, id) = (PeerId::random(), ConnectionId::new_unchecked(1));
        gate.ban(peer);
        let denied = gate.handle_established_inbound_connection(id, peer, &addr(), &addr()).err().unwrap();
        assert_eq!(refusal(denied), Refusal::Banned);
        let denied = gate.handle_pending_outbound_connection(id, Some(peer), &[], Endpoint::Dialer).unwrap_err();
        assert_eq!(refusal(denied), Refusal::Banned);
        gate.unban(&peer);
        gate.handle_established_inbound_connection(id, peer, &addr(), &addr()).unwrap();
    }
}
