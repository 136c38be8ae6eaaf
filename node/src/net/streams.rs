//! Streams of the bib protocols, as a behaviour of libp2p.
//!
//! [`Streams::open`] asks for a stream to a connected peer and is answered by exactly one event with its token. Streams
//! that peers open arrive as events; any number that arrive together all arrive. Both directions count against
//! [`MAX_STREAMS_PER_PEER`]: an open above it fails, an inbound stream above it is reset. So is one above
//! [`MAX_INBOUND_CATALOG_STREAMS`] of its protocol.
//!
//! Deliberately absent: requests and answers. What is said on a stream is the business of the machines.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::fmt;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};

use bib_core::limits::{MAX_INBOUND_CATALOG_STREAMS, MAX_STREAMS_PER_PEER, STREAM_NEGOTIATION};
use bib_core::wire::message::{DATA, DISCOVERY, SYNC};
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    NotifyHandler, StreamUpgradeError, SubstreamProtocol, ToSwarm,
};
use libp2p::{PeerId, Stream, StreamProtocol};

use super::frames::FrameStream;
use super::traffic::{Bytes, Traffic};

/// A protocol of bib between two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// Catalog search and announcements.
    Discovery,
    /// Exchange of operations.
    Sync,
    /// Manifests and chunks.
    Data,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Discovery, Self::Sync, Self::Data];

    /// Its name on the wire, with its version.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Discovery => DISCOVERY,
            Self::Sync => SYNC,
            Self::Data => DATA,
        }
    }
}

impl AsRef<str> for Protocol {
    fn as_ref(&self) -> &str {
        self.name()
    }
}

/// Names one request to open a stream; its answer carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpenId(u64);

/// Why a stream was not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no connection to the node, or it ended meanwhile.
    #[error("not connected to the node")]
    NotConnected,
    /// As many streams as allowed are open with this node.
    #[error("{MAX_STREAMS_PER_PEER} streams are open with the node already")]
    TooManyStreams,
    /// The node does not speak the protocol.
    #[error("the node does not speak the protocol")]
    Unsupported,
    /// The node did not answer in time.
    #[error("the node did not answer in time")]
    TimedOut,
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Broken(String),
}

/// What happened with streams.
#[derive(Debug)]
pub(crate) enum StreamEvent {
    Inbound { peer: PeerId, protocol: Protocol, stream: FrameStream },
    Opened { id: OpenId, peer: PeerId, protocol: Protocol, stream: FrameStream },
    OpenFailed { id: OpenId, peer: PeerId, protocol: Protocol, error: OpenError },
}

/// What all streams of a peer share.
#[derive(Debug, Default)]
struct Shared {
    open: AtomicU32,
    /// Of them those that the peer opened, by protocol.
    inbound: [AtomicU32; Protocol::ALL.len()],
    traffic: Traffic,
}

/// The right to one stream with a peer; given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    peer: Arc<Shared>,
    total: Arc<Traffic>,
    inbound: Option<Protocol>,
}

impl Slot {
    fn take(peer: &Arc<Shared>, total: &Arc<Traffic>) -> Option<Self> {
        let one_more = |open| (open < MAX_STREAMS_PER_PEER).then_some(open + 1);
        peer.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Self { peer: peer.clone(), total: total.clone(), inbound: None })
    }

    /// For a stream that the peer opened.
    fn take_inbound(peer: &Arc<Shared>, total: &Arc<Traffic>, protocol: Protocol) -> Option<Self> {
        let mut slot = Self::take(peer, total)?;
        let most = if protocol == Protocol::Data { MAX_STREAMS_PER_PEER } else { MAX_INBOUND_CATALOG_STREAMS };
        let one_more = |open| (open < most).then_some(open + 1);
        peer.inbound[protocol as usize].fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        slot.inbound = Some(protocol);
        Some(slot)
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.peer.traffic.sent(bytes);
        self.total.sent(bytes);
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.peer.traffic.received(bytes);
        self.total.received(bytes);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.peer.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(protocol) = self.inbound {
            self.peer.inbound[protocol as usize].fetch_sub(1, Ordering::Relaxed);
        }
    }
}

struct Peer {
    shared: Arc<Shared>,
    connections: Vec<ConnectionId>,
}

struct Pending {
    peer: PeerId,
    connection: ConnectionId,
    protocol: Protocol,
    slot: Slot,
}

/// The behaviour; see the module.
pub(crate) struct Streams {
    peers: BTreeMap<PeerId, Peer>,
    pending: BTreeMap<OpenId, Pending>,
    next_id: u64,
    refused: u64,
    total: Arc<Traffic>,
    out: VecDeque<ToSwarm<StreamEvent, Ask>>,
}

impl Streams {
    pub(crate) fn new() -> Self {
        Self {
            peers: BTreeMap::new(),
            pending: BTreeMap::new(),
            next_id: 0,
            refused: 0,
            total: Arc::default(),
            out: VecDeque::new(),
        }
    }

    /// Asks for a stream; the answer follows as an event.
    pub(crate) fn open(&mut self, peer: PeerId, protocol: Protocol) -> OpenId {
        let id = OpenId(self.next_id);
        self.next_id += 1;
        match self.start(id, peer, protocol) {
            Ok(pending) => {
                let handler = NotifyHandler::One(pending.connection);
                self.out.push_back(ToSwarm::NotifyHandler { peer_id: peer, handler, event: Ask { id, protocol } });
                self.pending.insert(id, pending);
            }
            Err(error) => self.failed(id, peer, protocol, error),
        }
        id
    }

    fn start(&self, _: OpenId, peer: PeerId, protocol: Protocol) -> Result<Pending, OpenError> {
        let known = self.peers.get(&peer).ok_or(OpenError::NotConnected)?;
        let connection = *known.connections.first().ok_or(OpenError::NotConnected)?;
        let slot = Slot::take(&known.shared, &self.total).ok_or(OpenError::TooManyStreams)?;
        Ok(Pending { peer, connection, protocol, slot })
    }

    fn failed(&mut self, id: OpenId, peer: PeerId, protocol: Protocol, error: OpenError) {
        self.out.push_back(ToSwarm::GenerateEvent(StreamEvent::OpenFailed { id, peer, protocol, error }));
    }

    /// Bytes on the streams of bib protocols, with all peers.
    pub(crate) fn bytes(&self) -> Bytes {
        self.total.bytes()
    }

    /// Streams that are open with a peer, and the bytes that went over its streams while it was connected.
    pub(crate) fn of_peer(&self, peer: &PeerId) -> (u32, Bytes) {
        self.peers.get(peer).map_or((0, Bytes::default()), |known| {
            (known.shared.open.load(Ordering::Relaxed), known.shared.traffic.bytes())
        })
    }

    /// Inbound streams that were reset because the peer had too many.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    fn closed(&mut self, peer: PeerId, connection: ConnectionId) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.connections.retain(|id| *id != connection);
            if known.connections.is_empty() {
                self.peers.remove(&peer);
            }
        }
        let lost: Vec<OpenId> =
            self.pending.iter().filter(|(_, pending)| pending.connection == connection).map(|(id, _)| *id).collect();
        for id in lost {
            if let Some(pending) = self.pending.remove(&id) {
                self.failed(id, pending.peer, pending.protocol, OpenError::NotConnected);
            }
        }
    }
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Handler;
    type ToSwarm = StreamEvent;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(Handler::default())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(Handler::default())
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(established) => {
                let peer = self
                    .peers
                    .entry(established.peer_id)
                    .or_insert_with(|| Peer { shared: Arc::default(), connections: Vec::new() });
                peer.connections.push(established.connection_id);
            }
            FromSwarm::ConnectionClosed(closed) => self.closed(closed.peer_id, closed.connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, _: ConnectionId, event: Told) {
        match event {
            Told::Inbound { protocol, stream } => {
                // A connection that is closing may still hand over streams.
                let Some(known) = self.peers.get(&peer) else { return };
                match Slot::take_inbound(&known.shared, &self.total, protocol) {
                    Some(slot) => {
                        let stream = FrameStream::new(stream, slot);
                        self.out.push_back(ToSwarm::GenerateEvent(StreamEvent::Inbound { peer, protocol, stream }));
                    }
                    None => self.refused += 1,
                }
            }
            Told::Opened { id, stream } => {
                if let Some(Pending { peer, protocol, slot, .. }) = self.pending.remove(&id) {
                    let stream = FrameStream::new(stream, slot);
                    self.out.push_back(ToSwarm::GenerateEvent(StreamEvent::Opened { id, peer, protocol, stream }));
                }
            }
            Told::OpenFailed { id, error } => {
                if let Some(pending) = self.pending.remove(&id) {
                    self.failed(id, pending.peer, pending.protocol, error);
                }
            }
        }
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<StreamEvent, Ask>> {
        match self.out.pop_front() {
            Some(event) => Poll::Ready(event),
            // Whatever fills the queue runs in the swarm's own poll or before the next one.
            None => Poll::Pending,
        }
    }
}

/// What the behaviour asks of a connection.
#[derive(Debug)]
pub(crate) struct Ask {
    id: OpenId,
    protocol: Protocol,
}

/// What a connection tells the behaviour.
pub(crate) enum Told {
    Inbound { protocol: Protocol, stream: Stream },
    Opened { id: OpenId, stream: Stream },
    OpenFailed { id: OpenId, error: OpenError },
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inbound { protocol, .. } => write!(f, "Inbound({protocol:?})"),
            Self::Opened { id, .. } => write!(f, "Opened({id:?})"),
            Self::OpenFailed { id, error } => write!(f, "OpenFailed({id:?}, {error})"),
        }
    }
}

/// The behaviour's part of one connection. Its queues hold no more than what the connection negotiates at a time.
#[derive(Default)]
pub(crate) struct Handler {
    asked: VecDeque<Ask>,
    told: VecDeque<Told>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Ask;
    type ToBehaviour = Told;
    type InboundProtocol = Accept;
    type OutboundProtocol = Offer;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = OpenId;

    fn listen_protocol(&self) -> SubstreamProtocol<Accept> {
        SubstreamProtocol::new(Accept, ()).with_timeout(STREAM_NEGOTIATION)
    }

    fn connection_keep_alive(&self) -> bool {
        // Connections end when somebody decides so, not because nothing was said for a while.
        true
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Offer, OpenId, Told>> {
        if let Some(told) = self.told.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(told));
        }
        match self.asked.pop_front() {
            Some(Ask { id, protocol }) => Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(Offer(protocol), id).with_timeout(STREAM_NEGOTIATION),
            }),
            // The connection polls again after each event it hands over.
            None => Poll::Pending,
        }
    }

    fn on_behaviour_event(&mut self, ask: Ask) {
        self.asked.push_back(ask);
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Accept, Offer, (), OpenId>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, protocol), ..
            }) => {
                self.told.push_back(Told::Inbound { protocol, stream });
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, info: id }) => {
                self.told.push_back(Told::Opened { id, stream });
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: id, error }) => {
                let error = match error {
                    StreamUpgradeError::Timeout => OpenError::TimedOut,
                    StreamUpgradeError::NegotiationFailed => OpenError::Unsupported,
                    StreamUpgradeError::Io(error) => OpenError::Broken(error.to_string()),
                    StreamUpgradeError::Apply(never) => match never {},
                };
                self.told.push_back(Told::OpenFailed { id, error });
            }
            _ => {}
        }
    }
}

/// Takes any bib protocol on a stream that the peer opened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Accept;

impl UpgradeInfo for Accept {
    type Info = Protocol;
    type InfoIter = [Protocol; 3];

    fn protocol_info(&self) -> [Protocol; 3] {
        Protocol::ALL
    }
}

impl InboundUpgrade<Stream> for Accept {
    type Output = (Stream, Protocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: Protocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

/// Asks for one bib protocol on a stream that this node opens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Offer(Protocol);

impl UpgradeInfo for Offer {
    type Info = StreamProtocol;
    type InfoIter = [StreamProtocol; 1];

    fn protocol_info(&self) -> [StreamProtocol; 1] {
        [StreamProtocol::new(self.0.name())]
    }
}

impl OutboundUpgrade<Stream> for Offer {
    type Output = Stream;
    type Error = Infallible;
    type Future = Ready<Result<Stream, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, _: StreamProtocol) -> Self::Future {
        ready(Ok(stream))
    }
}
