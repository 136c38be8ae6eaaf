//! The peer-to-peer network: connections to other nodes, streams on them, and gossip.
//!
//! [`Net`] is driven by [`Net::next`] and by nothing else; between two calls only connections that stand are served, by
//! tasks of their own. Everything that happens comes out as a [`NetEvent`], and everything that can be asked is a plain
//! method that does not wait.
//!
//! Invariants: a [`NodeId`] in an event is one whose key the connection has proved. `Connected` and `Disconnected` of a
//! node alternate, and its streams and gossip lie between them. What peers can fill is bounded in `core::limits`.
//!
//! Deliberately absent: when to dial whom, what is said on streams, what a gossip message means.

mod frames;
mod limits;
mod streams;
mod swarm;
#[cfg(test)]
mod tests;
mod traffic;
mod transport;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_executor::Executor;
use bib_core::id::NodeId;
use bib_core::key::SecretKey;
use bib_core::limits::{MAX_ADDRESSES_PER_PEER, MAX_AGENT_CHARS, MAX_GOSSIP_LEN, PING_FAILURES_TO_CLOSE};
use futures::StreamExt;
pub use libp2p::Multiaddr;
use libp2p::core::ConnectedPoint;
use libp2p::core::transport::ListenerId;
use libp2p::gossipsub::{self, IdentTopic, MessageAcceptance, MessageId};
use libp2p::identity::Keypair;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, ListenError, Swarm, SwarmEvent};
use libp2p::{PeerId, identify, ping};
use zeroize::Zeroize;

pub use frames::{FrameError, FrameReader, FrameStream, FrameWriter};
pub use limits::Refusal;
pub use streams::{OpenError, OpenId, Protocol};
pub use traffic::Bytes;
pub use transport::Security;

use streams::StreamEvent;
use swarm::{Behaviour, BehaviourEvent, OnlyBibTopics};
use traffic::Traffic;

/// What stands before the key in the bytes of a peer id.
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// Largest block that the allocator keeps for its next use, in bytes: a frame with an average chunk, several times over.
const ALLOCATOR_KEEPS: usize = 1 << 20;

/// How the network of a node is set up.
#[derive(Debug, Clone)]
pub struct NetConfig {
    /// The identity; its public half is the node's id.
    pub identity: SecretKey,
    /// Where to listen. An unspecified address means all interfaces, port 0 any free port.
    pub listen: Vec<Multiaddr>,
    /// The encryption to offer.
    pub security: Security,
    /// What the node calls itself, as `bibd/0.1.0`.
    pub agent: String,
    /// Most connections at a time, both directions together.
    pub max_connections: usize,
}

/// Why the network did not start, or a command was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// The identity is of no use.
    #[error("the identity cannot be used on the network: {0}")]
    Identity(String),
    /// A setting is of no use.
    #[error("the network cannot be set up: {0}")]
    Settings(String),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The address.
        address: Multiaddr,
        /// Why not.
        reason: String,
    },
    /// The gossip topic is not one of bib.
    #[error("`{0}` is not a gossip topic of bib")]
    NotATopic(String),
}

/// Names one [`Net::dial`]; its answer carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DialId(ConnectionId);

/// Why a dial came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DialFailure {
    /// Another node answered than the one that was asked for.
    #[error("another node answered: {0}")]
    WrongNode(NodeId),
    /// The address is our own.
    #[error("the address is this node's own")]
    Ourselves,
    /// The address is of a kind that this node cannot dial.
    #[error("addresses of this kind cannot be dialed; expected /ip4/…/tcp/… or /ip6/…/tcp/…")]
    Unsupported,
    /// The node, or one of our own limits, does not let the connection be.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Nobody answered, or the connection broke before it stood.
    #[error("{0}")]
    Unreachable(String),
}

/// Which side dialed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// This node did.
    Outbound,
    /// The other one did.
    Inbound,
}

/// Names a gossip message on its way, for [`Net::report`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GossipId {
    id: MessageId,
    from: PeerId,
}

/// What to do with a gossip message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Passed on to others.
    Accept,
    /// Dropped; who sent it did nothing wrong.
    Ignore,
    /// Dropped, and held against who sent it.
    Reject,
}

/// What became of a published message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Published {
    /// On its way to at least one peer.
    Sent,
    /// Nobody who is connected has subscribed to the topic.
    NoPeers,
    /// The same bytes went over the topic a moment ago.
    Duplicate,
    /// All peers are behind with what they already have to take.
    Busy,
    /// Longer than [`MAX_GOSSIP_LEN`].
    TooLong,
}

/// What happened on the network.
#[derive(Debug)]
#[non_exhaustive]
pub enum NetEvent {
    /// The node can be reached here.
    Listening {
        /// The address.
        address: Multiaddr,
    },
    /// The node can no longer be reached here, because an interface went away.
    AddressGone {
        /// The address.
        address: Multiaddr,
    },
    /// A listener has a problem; `ended` when it is gone for good, else it goes on after a pause.
    ListenFailed {
        /// Its addresses, as far as known.
        addresses: Vec<Multiaddr>,
        /// What is wrong.
        reason: String,
        /// Whether it is gone.
        ended: bool,
    },
    /// The first connection to a node stands.
    Connected {
        /// The node.
        node: NodeId,
        /// Its address on this connection.
        address: Multiaddr,
        /// Which side dialed.
        direction: Direction,
    },
    /// The last connection to a node is gone.
    Disconnected {
        /// The node.
        node: NodeId,
        /// Why, when it was not closed in order.
        reason: Option<String>,
    },
    /// A dial succeeded; `Connected` precedes it unless the node was connected already.
    Dialed {
        /// Which dial.
        dial: DialId,
        /// Who answered.
        node: NodeId,
    },
    /// A dial failed.
    DialFailed {
        /// Which dial.
        dial: DialId,
        /// Who was meant, if that was said.
        node: Option<NodeId>,
        /// Why.
        error: DialFailure,
    },
    /// A node told about itself. Nothing of it is proved but the id.
    Identified {
        /// The node.
        node: NodeId,
        /// What it calls itself, shortened and printable.
        agent: String,
        /// Where it says it listens.
        addresses: Vec<Multiaddr>,
        /// The bib protocols it speaks.
        protocols: Vec<Protocol>,
    },
    /// A round trip to a node was measured.
    Rtt {
        /// The node.
        node: NodeId,
        /// How long it took.
        rtt: Duration,
    },
    /// A node takes part in a gossip topic.
    Subscribed {
        /// The node.
        node: NodeId,
        /// The topic.
        topic: String,
    },
    /// A gossip message with a valid signature came; it waits for [`Net::report`].
    Gossip {
        /// Its topic.
        topic: String,
        /// Its bytes.
        bytes: Vec<u8>,
        /// The node that signed it.
        source: NodeId,
        /// The node that passed it on.
        from: NodeId,
        /// For the report.
        id: GossipId,
    },
    /// A node opened a stream.
    Inbound {
        /// The node.
        node: NodeId,
        /// For what.
        protocol: Protocol,
        /// The stream.
        stream: FrameStream,
    },
    /// A stream that this node asked for is open.
    Opened {
        /// Which [`Net::open`].
        id: OpenId,
        /// The node.
        node: NodeId,
        /// For what.
        protocol: Protocol,
        /// The stream.
        stream: FrameStream,
    },
    /// A stream that this node asked for is not there.
    OpenFailed {
        /// Which [`Net::open`].
        id: OpenId,
        /// The node.
        node: NodeId,
        /// For what.
        protocol: Protocol,
        /// Why.
        error: OpenError,
    },
}

/// A connected node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The node.
    pub node: NodeId,
    /// Its address on the oldest connection.
    pub address: Multiaddr,
    /// Which side dialed that one.
    pub direction: Direction,
    /// Connections with it.
    pub connections: u32,
    /// What it calls itself, once known.
    pub agent: Option<String>,
    /// The last measured round trip.
    pub rtt: Option<Duration>,
    /// Streams open with it.
    pub streams: u32,
    /// Bytes over its streams since it connected.
    pub bytes: Bytes,
}

/// Counters of the network since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetStats {
    /// Bytes over all connections, as sockets saw them.
    pub total: Bytes,
    /// Bytes of frames on the streams of bib protocols.
    pub streams: Bytes,
    /// Connections that stand.
    pub connections: usize,
    /// Connections refused: banned, or above a limit.
    pub refused_connections: u64,
    /// Handshakes of others that failed or took too long.
    pub failed_handshakes: u64,
    /// Streams refused because their peer had too many.
    pub refused_streams: u64,
    /// Gossip messages that a peer was too slow to take.
    pub slow_gossip: u64,
}

struct Known {
    address: Multiaddr,
    direction: Direction,
    connections: u32,
    agent: Option<String>,
    rtt: Option<Duration>,
    ping_failures: u32,
}

/// The network of a node; see the module.
pub struct Net {
    swarm: Swarm<Behaviour>,
    node: NodeId,
    known: BTreeMap<NodeId, Known>,
    listeners: BTreeMap<usize, (ListenerId, Multiaddr)>,
    ready: VecDeque<NetEvent>,
    traffic: Arc<Traffic>,
    failed_handshakes: u64,
    slow_gossip: u64,
}

impl Net {
    /// Sets the network up and begins to listen. The tasks of connections run on `executor`; they do not block.
    ///
    /// # Errors
    /// [`NetError::Listen`] when an address is taken or of an unknown kind, else [`NetError::Identity`] or
    /// [`NetError::Settings`].
    pub fn start(config: NetConfig, executor: Arc<Executor<'static>>) -> Result<Self, NetError> {
        settle_allocator();
        let identity = keypair(&config.identity)?;
        let traffic = Arc::<Traffic>::default();
        let spawn = move |task| executor.spawn(task).detach();
        let mut swarm = swarm::build(&config, &identity, traffic.clone(), spawn)?;
        let mut listeners = BTreeMap::new();
        for (position, address) in config.listen.iter().enumerate() {
            let id = swarm
                .listen_on(address.clone())
                .map_err(|error| NetError::Listen { address: address.clone(), reason: sentence(&error) })?;
            listeners.insert(position, (id, address.clone()));
        }
        Ok(Self {
            node: config.identity.node_id(),
            swarm,
            known: BTreeMap::new(),
            listeners,
            ready: VecDeque::new(),
            traffic,
            failed_handshakes: 0,
            slow_gossip: 0,
        })
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Drives the network until something happened. Cancel safe: an event is lost only after it was returned.
    pub async fn next(&mut self) -> NetEvent {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return event;
            }
            let event = self.swarm.select_next_some().await;
            self.take(event);
        }
    }

    /// Dials an address; with `/p2p/<node>` at its end only that node may answer. Answered by `Dialed` or `DialFailed`.
    pub fn dial(&mut self, address: Multiaddr) -> DialId {
        let peer = match address.iter().last() {
            Some(libp2p::multiaddr::Protocol::P2p(peer)) => Some(peer),
            _ => None,
        };
        let is_own = self.swarm.listeners().any(|own| address.iter().zip(own.iter()).all(|(a, b)| a == b));
        let opts = match peer {
            Some(peer) => {
                DialOpts::peer_id(peer).addresses(vec![address]).condition(PeerCondition::Disconnected).build()
            }
            None => DialOpts::unknown_peer_id().address(address).build(),
        };
        let dial = DialId(opts.connection_id());
        let node = peer.and_then(|peer| node_id(&peer));
        if let Err(error) = self.swarm.dial(opts) {
            let event = match (error, node) {
                (DialError::DialPeerConditionFalse(_), Some(node)) => NetEvent::Dialed { dial, node },
                // The swarm leaves our own addresses out of those it dials.
                (DialError::NoAddresses, node) if is_own => {
                    NetEvent::DialFailed { dial, node, error: DialFailure::Ourselves }
                }
                (error, node) => NetEvent::DialFailed { dial, node, error: dial_failure(error) },
            };
            // A dial that fails at once was never one for the swarm: it has no event of its own.
            self.ready.push_back(event);
        }
        dial
    }

    /// Closes all connections with a node, in order.
    pub fn disconnect(&mut self, node: &NodeId) {
        if let Some(peer) = peer_id(node) {
            // An error only says that there is none.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }

    /// Refuses a node from now on and closes its connections. For how long is the caller's to decide.
    pub fn ban(&mut self, node: &NodeId) {
        if let Some(peer) = peer_id(node) {
            let behaviour = self.swarm.behaviour_mut();
            behaviour.gate.ban(peer);
            behaviour.gossip.blacklist_peer(&peer);
        }
    }

    /// Ends a ban.
    pub fn unban(&mut self, node: &NodeId) {
        if let Some(peer) = peer_id(node) {
            let behaviour = self.swarm.behaviour_mut();
            behaviour.gate.unban(&peer);
            behaviour.gossip.remove_blacklisted_peer(&peer);
        }
    }

    /// Asks for a stream with a connected node. Answered by `Opened` or `OpenFailed`.
    pub fn open(&mut self, node: &NodeId, protocol: Protocol) -> OpenId {
        // Bytes that are no key cannot be connected either.
        let peer = peer_id(node).unwrap_or_else(|| *self.swarm.local_peer_id());
        self.swarm.behaviour_mut().streams.open(peer, protocol)
    }

    /// Takes part in a gossip topic.
    ///
    /// # Errors
    /// [`NetError::NotATopic`] unless it is `/bib/global` or `/bib/topics/<id>`.
    pub fn subscribe(&mut self, topic: &str) -> Result<(), NetError> {
        let subscribed = self.swarm.behaviour_mut().gossip.subscribe(&IdentTopic::new(topic));
        subscribed.map(|_| ()).map_err(|_| NetError::NotATopic(topic.to_owned()))
    }

    /// Takes no part in a gossip topic any longer.
    pub fn unsubscribe(&mut self, topic: &str) {
        self.swarm.behaviour_mut().gossip.unsubscribe(&IdentTopic::new(topic));
    }

    /// Sends a message, signed by this node, to the peers that subscribed to its topic.
    ///
    /// # Errors
    /// [`NetError::NotATopic`] as for [`Net::subscribe`].
    pub fn publish(&mut self, topic: &str, bytes: Vec<u8>) -> Result<Published, NetError> {
        if !OnlyBibTopics::allows(topic) {
            return Err(NetError::NotATopic(topic.to_owned()));
        }
        if bytes.len() > MAX_GOSSIP_LEN {
            return Ok(Published::TooLong);
        }
        use gossipsub::PublishError;
        Ok(match self.swarm.behaviour_mut().gossip.publish(IdentTopic::new(topic), bytes) {
            Ok(_) => Published::Sent,
            Err(PublishError::NoPeersSubscribedToTopic) => Published::NoPeers,
            Err(PublishError::Duplicate) => Published::Duplicate,
            Err(PublishError::AllQueuesFull(_)) => Published::Busy,
            Err(PublishError::MessageTooLarge) => Published::TooLong,
            Err(error) => return Err(NetError::Settings(error.to_string())),
        })
    }

    /// Says what to do with a gossip message; each one needs a verdict, or it goes no further.
    pub fn report(&mut self, message: &GossipId, verdict: Verdict) {
        let acceptance = match verdict {
            Verdict::Accept => MessageAcceptance::Accept,
            Verdict::Ignore => MessageAcceptance::Ignore,
            Verdict::Reject => MessageAcceptance::Reject,
        };
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        gossip.report_message_validation_result(&message.id, &message.from, acceptance);
    }

    /// Whether a connection with a node stands.
    pub fn is_connected(&self, node: &NodeId) -> bool {
        self.known.contains_key(node)
    }

    /// The connected nodes, in the order of their ids.
    pub fn peers(&self) -> impl Iterator<Item = Peer> + '_ {
        self.known.iter().map(|(node, known)| {
            let (streams, bytes) =
                peer_id(node).map_or_else(Default::default, |peer| self.swarm.behaviour().streams.of_peer(&peer));
            Peer {
                node: *node,
                address: known.address.clone(),
                direction: known.direction,
                connections: known.connections,
                agent: known.agent.clone(),
                rtt: known.rtt,
                streams,
                bytes,
            }
        })
    }

    /// Where this node can be reached.
    pub fn addresses(&self) -> impl Iterator<Item = &Multiaddr> {
        self.swarm.listeners()
    }

    /// Counters.
    pub fn stats(&self) -> NetStats {
        let behaviour = self.swarm.behaviour();
        NetStats {
            total: self.traffic.bytes(),
            streams: behaviour.streams.bytes(),
            connections: behaviour.gate.established(),
            refused_connections: behaviour.gate.refused(),
            failed_handshakes: self.failed_handshakes,
            refused_streams: behaviour.streams.refused(),
            slow_gossip: self.slow_gossip,
        }
    }

    fn take(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Streams(event)) => self.take_stream(event),
            SwarmEvent::Behaviour(BehaviourEvent::Gossip(event)) => self.take_gossip(event),
            SwarmEvent::Behaviour(BehaviourEvent::Identify(event)) => self.take_identify(event),
            SwarmEvent::Behaviour(BehaviourEvent::Ping(event)) => self.take_ping(event),
            SwarmEvent::Behaviour(BehaviourEvent::Gate(never)) => match never {},
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.established(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established, cause, .. } => {
                self.closed(peer_id, num_established, cause.map(|cause| sentence(&cause)));
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                let node = peer_id.and_then(|peer| node_id(&peer));
                let error = dial_failure(error);
                self.ready.push_back(NetEvent::DialFailed { dial: DialId(connection_id), node, error });
            }
            SwarmEvent::IncomingConnectionError { error, send_back_addr, .. } => {
                if !matches!(error, ListenError::Denied { .. }) {
                    self.failed_handshakes += 1;
                }
                log::debug!(from:% = send_back_addr, reason = sentence(&error); "a connection did not come about");
            }
            SwarmEvent::NewListenAddr { address, .. } => self.ready.push_back(NetEvent::Listening { address }),
            SwarmEvent::ExpiredListenAddr { address, .. } => self.ready.push_back(NetEvent::AddressGone { address }),
            SwarmEvent::ListenerClosed { listener_id, addresses, reason } => {
                self.listeners.retain(|_, (id, _)| *id != listener_id);
                let reason = reason.map_or_else(|error| error.to_string(), |()| "closed".to_owned());
                self.ready.push_back(NetEvent::ListenFailed { addresses, reason, ended: true });
            }
            SwarmEvent::ListenerError { listener_id, error } => {
                let at = self.listeners.values().find(|(id, _)| *id == listener_id);
                let addresses = at.map(|(_, address)| address.clone()).into_iter().collect();
                self.ready.push_back(NetEvent::ListenFailed { addresses, reason: error.to_string(), ended: false });
            }
            _ => {}
        }
    }

    fn established(&mut self, peer: PeerId, connection: ConnectionId, endpoint: &ConnectedPoint) {
        let Some(node) = node_id(&peer) else {
            // The handshake takes Ed25519 keys only, so there is no such peer.
            let _ = self.swarm.disconnect_peer_id(peer);
            return;
        };
        let direction = if endpoint.is_dialer() { Direction::Outbound } else { Direction::Inbound };
        let address = endpoint.get_remote_address().clone();
        match self.known.get_mut(&node) {
            Some(known) => known.connections += 1,
            None => {
                self.known.insert(
                    node,
                    Known {
                        address: address.clone(),
                        direction,
                        connections: 1,
                        agent: None,
                        rtt: None,
                        ping_failures: 0,
                    },
                );
                self.ready.push_back(NetEvent::Connected { node, address, direction });
            }
        }
        if direction == Direction::Outbound {
            self.ready.push_back(NetEvent::Dialed { dial: DialId(connection), node });
        }
    }

    fn closed(&mut self, peer: PeerId, left: u32, reason: Option<String>) {
        let Some(node) = node_id(&peer) else { return };
        if left > 0 {
            if let Some(known) = self.known.get_mut(&node) {
                known.connections = left;
            }
        } else if self.known.remove(&node).is_some() {
            self.ready.push_back(NetEvent::Disconnected { node, reason });
        }
    }

    fn take_stream(&mut self, event: StreamEvent) {
        let event = match event {
            StreamEvent::Inbound { peer, protocol, stream } => {
                node_id(&peer).map(|node| NetEvent::Inbound { node, protocol, stream })
            }
            StreamEvent::Opened { id, peer, protocol, stream } => {
                node_id(&peer).map(|node| NetEvent::Opened { id, node, protocol, stream })
            }
            StreamEvent::OpenFailed { id, peer, protocol, error } => {
                node_id(&peer).map(|node| NetEvent::OpenFailed { id, node, protocol, error })
            }
        };
        self.ready.extend(event);
    }

    fn take_gossip(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message { propagation_source, message_id, message } => {
                let id = GossipId { id: message_id, from: propagation_source };
                let source = message.source.and_then(|peer| node_id(&peer));
                match (source, node_id(&propagation_source)) {
                    (Some(source), Some(from)) if message.data.len() <= MAX_GOSSIP_LEN => {
                        let topic = message.topic.into_string();
                        self.ready.push_back(NetEvent::Gossip { topic, bytes: message.data, source, from, id });
                    }
                    _ => self.report(&id, Verdict::Reject),
                }
            }
            gossipsub::Event::Subscribed { peer_id, topic } => {
                if let Some(node) = node_id(&peer_id) {
                    self.ready.push_back(NetEvent::Subscribed { node, topic: topic.into_string() });
                }
            }
            gossipsub::Event::SlowPeer { peer_id, failed_messages } => {
                // What gossip loses, reconciliation finds; a peer that is slow for good fails its pings.
                self.slow_gossip += (failed_messages.priority + failed_messages.non_priority) as u64;
                log::debug!(peer:% = peer_id; "a peer takes gossip too slowly");
            }
            _ => {}
        }
    }

    fn take_identify(&mut self, event: identify::Event) {
        let identify::Event::Received { peer_id, info, .. } = event else { return };
        let Some(node) = node_id(&peer_id) else { return };
        let Some(known) = self.known.get_mut(&node) else { return };
        let agent: String = info.agent_version.chars().filter(|c| !c.is_control()).take(MAX_AGENT_CHARS).collect();
        known.agent = Some(agent.clone());
        let spoken = |protocol: &Protocol| info.protocols.iter().any(|name| name.as_ref() == protocol.name());
        self.ready.push_back(NetEvent::Identified {
            node,
            agent,
            addresses: info.listen_addrs.into_iter().take(MAX_ADDRESSES_PER_PEER).collect(),
            protocols: Protocol::ALL.into_iter().filter(spoken).collect(),
        });
    }

    fn take_ping(&mut self, event: ping::Event) {
        let Some(node) = node_id(&event.peer) else { return };
        let Some(known) = self.known.get_mut(&node) else { return };
        match event.result {
            Ok(rtt) => {
                known.ping_failures = 0;
                known.rtt = Some(rtt);
                self.ready.push_back(NetEvent::Rtt { node, rtt });
            }
            // Some other program of the libp2p family; its connection shows by itself when it is dead.
            Err(ping::Failure::Unsupported) => {}
            Err(_) => {
                known.ping_failures += 1;
                if known.ping_failures >= PING_FAILURES_TO_CLOSE {
                    self.swarm.close_connection(event.connection);
                }
            }
        }
    }
}

/// Teaches glibc's allocator to keep blocks of the size of frames. By default it asks the kernel for each block above
/// 128 KiB and gives it back when freed, which faults every page of every frame in anew; freeing one larger block moves
/// that border. Other allocators do not notice.
fn settle_allocator() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(ALLOCATOR_KEEPS)));
}

fn keypair(identity: &SecretKey) -> Result<Keypair, NetError> {
    let mut seed = *identity.seed();
    // Wipes the copy.
    let keypair = Keypair::ed25519_from_bytes(&mut seed).map_err(|error| NetError::Identity(error.to_string()));
    seed.zeroize();
    keypair
}

/// The node that a peer id names, if its key is an Ed25519 key.
fn node_id(peer: &PeerId) -> Option<NodeId> {
    NodeId::from_slice(peer.to_bytes().strip_prefix(&PEER_ID_PREFIX)?)
}

/// The peer id of a node.
fn peer_id(node: &NodeId) -> Option<PeerId> {
    PeerId::from_bytes(&[&PEER_ID_PREFIX[..], node.as_bytes()].concat()).ok()
}

fn dial_failure(error: DialError) -> DialFailure {
    use libp2p::core::transport::TransportError;
    match error {
        DialError::WrongPeerId { obtained, .. } => match node_id(&obtained) {
            Some(node) => DialFailure::WrongNode(node),
            None => DialFailure::Unreachable("another kind of node answered".to_owned()),
        },
        DialError::LocalPeerId { .. } => DialFailure::Ourselves,
        DialError::Denied { cause } => match cause.downcast::<Refusal>() {
            Ok(refusal) => refusal.into(),
            Err(cause) => DialFailure::Unreachable(sentence(&cause)),
        },
        DialError::NoAddresses => DialFailure::Unsupported,
        DialError::Transport(mut errors) => match errors.pop() {
            Some((_, TransportError::MultiaddrNotSupported(_))) => DialFailure::Unsupported,
            Some((_, TransportError::Other(error))) => DialFailure::Unreachable(sentence(&error)),
            None => DialFailure::Unreachable("nobody answered".to_owned()),
        },
        other => DialFailure::Unreachable(sentence(&other)),
    }
}

/// An error with its causes, each said once.
fn sentence(error: &dyn std::error::Error) -> String {
    // Some errors of libp2p end with a colon, or say nothing and leave it to their cause.
    let said = |error: &dyn std::error::Error| error.to_string().trim_matches([' ', ':']).to_owned();
    let mut text = said(error);
    let mut source = error.source();
    while let Some(cause) = source {
        let said = said(cause);
        if !text.contains(&said) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&said);
        }
        source = cause.source();
    }
    text
}
