//! The behaviours of a node, composed, with their settings.

use std::sync::Arc;

use bib_core::limits::{
    GOSSIP_ENVELOPE, GOSSIP_HEARTBEAT, GOSSIP_MEMORY, GOSSIP_QUEUE, HANDSHAKE, IDENTIFY_INTERVAL, MAX_GOSSIP_LEN,
    MAX_GOSSIP_TOPICS_PER_PEER, MAX_NEGOTIATING_STREAMS, PING_INTERVAL, PING_TIMEOUT,
};
use bib_core::wire::gossip::{GLOBAL, topic_of_name};
use libp2p::gossipsub::{self, MessageAuthenticity, MessageId, TopicHash, ValidationMode};
use libp2p::identity::Keypair;
use libp2p::swarm::{self, NetworkBehaviour, Swarm};
use libp2p::{identify, ping};

use super::limits::Gate;
use super::streams::Streams;
use super::traffic::Traffic;
use super::{NetConfig, NetError, transport};

/// The family of protocols, as Identify tells it.
const PROTOCOL_VERSION: &str = "/bib/1.0.0";

/// Everything a node does on a connection. The gate is first: what it refuses, the others never see.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) gate: Gate,
    pub(crate) identify: identify::Behaviour,
    pub(crate) ping: ping::Behaviour,
    pub(crate) gossip: gossipsub::Behaviour<gossipsub::IdentityTransform, BibTopics>,
    pub(crate) streams: Streams,
}

/// Lets only the topics of bib through, and not too many of one peer.
pub(crate) type BibTopics = gossipsub::MaxCountSubscriptionFilter<OnlyBibTopics>;

/// `/bib/global` and `/bib/topics/<id>`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct OnlyBibTopics;

impl OnlyBibTopics {
    pub(crate) fn allows(topic: &str) -> bool {
        topic == GLOBAL || topic_of_name(topic).is_some()
    }
}

impl gossipsub::TopicSubscriptionFilter for OnlyBibTopics {
    fn can_subscribe(&mut self, topic: &TopicHash) -> bool {
        Self::allows(topic.as_str())
    }
}

/// The id of a gossip message: a hash over its topic and its bytes, whoever sent it.
pub(crate) fn message_id(topic: &str, data: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(topic.len() as u64).to_le_bytes());
    hasher.update(topic.as_bytes());
    hasher.update(data);
    hasher.finalize().into()
}

fn gossip(identity: &Keypair) -> Result<gossipsub::Behaviour<gossipsub::IdentityTransform, BibTopics>, NetError> {
    let config = gossipsub::ConfigBuilder::default()
        .validation_mode(ValidationMode::Strict)
        .validate_messages()
        .message_id_fn(|message| MessageId::new(&message_id(message.topic.as_str(), &message.data)))
        .max_transmit_size(MAX_GOSSIP_LEN + GOSSIP_ENVELOPE)
        .heartbeat_interval(GOSSIP_HEARTBEAT)
        .heartbeat_initial_delay(GOSSIP_HEARTBEAT)
        .duplicate_cache_time(GOSSIP_MEMORY)
        .connection_handler_queue_len(GOSSIP_QUEUE)
        .build()
        .map_err(|error| NetError::Settings(error.to_string()))?;
    let topics = gossipsub::MaxCountSubscriptionFilter {
        filter: OnlyBibTopics,
        max_subscribed_topics: MAX_GOSSIP_TOPICS_PER_PEER,
        max_subscriptions_per_request: MAX_GOSSIP_TOPICS_PER_PEER,
    };
    let author = MessageAuthenticity::Signed(identity.clone());
    gossipsub::Behaviour::new_with_subscription_filter(author, config, topics)
        .map_err(|error| NetError::Settings(error.to_owned()))
}

/// Builds the swarm of a node; nothing happens before it is polled.
pub(crate) fn build(
    config: &NetConfig,
    identity: &Keypair,
    traffic: Arc<Traffic>,
    spawn: impl swarm::Executor + Send + 'static,
) -> Result<Swarm<Behaviour>, NetError> {
    let behaviour = Behaviour {
        gate: Gate::new(config.max_connections),
        identify: identify::Behaviour::new(
            identify::Config::new(PROTOCOL_VERSION.to_owned(), identity.public())
                .with_agent_version(config.agent.clone())
                .with_interval(IDENTIFY_INTERVAL)
                .with_cache_size(0),
        ),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(PING_INTERVAL).with_timeout(PING_TIMEOUT)),
        gossip: gossip(identity)?,
        streams: Streams::new(),
    };
    let settings = swarm::Config::with_executor(spawn).with_max_negotiating_inbound_streams(MAX_NEGOTIATING_STREAMS);
    let transport = transport::build(identity, config.security, HANDSHAKE, traffic)?;
    Ok(Swarm::new(transport, behaviour, identity.public().to_peer_id(), settings))
}
