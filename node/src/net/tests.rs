//! Against peers that are not ours: libp2p's own encryption and muxer, and gossip that breaks the rules.

use std::sync::Arc;
use std::time::Duration;

use async_executor::Executor;
use async_io::Timer;
use bib_core::wire::gossip::GLOBAL;
use futures::future::{Either, select};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Boxed;
use libp2p::core::upgrade::Version;
use libp2p::gossipsub::{ConfigBuilder, Message, MessageAuthenticity, ValidationMode};
use libp2p::swarm::{self, NetworkBehaviour};
use libp2p::{Transport, noise, yamux};

use super::*;

/// A test that hangs is ended by this; no test waits for it to pass.
const HANG: Duration = Duration::from_secs(60);

fn run(test: impl AsyncFnOnce(Arc<Executor<'static>>)) {
    let executor = Arc::new(Executor::new());
    async_io::block_on(executor.clone().run(async {
        let test = std::pin::pin!(test(executor.clone()));
        let hang = std::pin::pin!(Timer::after(HANG));
        if let Either::Right(_) = select(test, hang).await {
            panic!("nothing happened any more");
        }
    }));
}

fn net(executor: &Arc<Executor<'static>>) -> Net {
    let config = NetConfig {
        identity: SecretKey::from_seed([1; 32]),
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        security: Security::Auto,
        agent: "bibd/test".to_owned(),
        max_connections: 10,
    };
    Net::start(config, executor.clone()).unwrap()
}

/// The stack that other programs have, apart from the socket.
fn stock(identity: &Keypair) -> Boxed<(PeerId, StreamMuxerBox)> {
    transport::bare(Arc::default())
        .upgrade(Version::V1)
        .authenticate(noise::Config::new(identity).unwrap())
        .multiplex(yamux::Config::default())
        .boxed()
}

/// Another program with one behaviour.
fn other<B: NetworkBehaviour>(executor: &Arc<Executor<'static>>, make: impl FnOnce(&Keypair) -> B) -> Swarm<B> {
    let identity = Keypair::ed25519_from_bytes([2; 32]).unwrap();
    let (peer, executor) = (identity.public().to_peer_id(), executor.clone());
    let spawn = move |task| executor.spawn(task).detach();
    Swarm::new(stock(&identity), make(&identity), peer, swarm::Config::with_executor(spawn))
}

/// Drives both until an event of one of them gives a result.
async fn drive<B: NetworkBehaviour, T>(
    net: &mut Net,
    other: &mut Swarm<B>,
    mut ours: impl FnMut(NetEvent) -> Option<T>,
    mut theirs: impl FnMut(&mut Swarm<B>, SwarmEvent<B::ToSwarm>) -> Option<T>,
) -> T {
    loop {
        let event = {
            let (net, other) = (std::pin::pin!(net.next()), other.select_next_some());
            match select(net, other).await {
                Either::Left((event, _)) => Either::Left(event),
                Either::Right((event, _)) => Either::Right(event),
            }
        };
        let result = match event {
            Either::Left(event) => ours(event),
            Either::Right(event) => theirs(other, event),
        };
        if let Some(result) = result {
            return result;
        }
    }
}

async fn listening(net: &mut Net) -> Multiaddr {
    loop {
        if let NetEvent::Listening { address } = net.next().await {
            return address;
        }
    }
}

#[derive(NetworkBehaviour)]
struct Stock {
    ping: ping::Behaviour,
    identify: identify::Behaviour,
}

fn stock_behaviour(identity: &Keypair) -> Stock {
    Stock {
        ping: ping::Behaviour::new(ping::Config::new()),
        identify: identify::Behaviour::new(
            identify::Config::new("/other/1".to_owned(), identity.public())
                .with_agent_version("other\u{7}/2".repeat(100)),
        ),
    }
}

/// Both sides have measured a round trip and told who they are.
async fn get_acquainted(net: &mut Net, other: &mut Swarm<Stock>) {
    let (mut rtt, mut agent) = ([false; 2], [None, None]);
    let seen = std::cell::RefCell::new((&mut rtt, &mut agent));
    let done = || {
        let seen = seen.borrow();
        (*seen.0 == [true; 2] && seen.1.iter().all(Option::is_some)).then_some(())
    };
    let ours = |event| {
        match event {
            NetEvent::Rtt { .. } => seen.borrow_mut().0[0] = true,
            NetEvent::Identified { agent, .. } => seen.borrow_mut().1[0] = Some(agent),
            NetEvent::DialFailed { error, .. } => panic!("{error}"),
            _ => {}
        }
        done()
    };
    let theirs = |_: &mut Swarm<Stock>, event| {
        match event {
            SwarmEvent::Behaviour(StockEvent::Ping(ping)) => seen.borrow_mut().0[1] = ping.result.is_ok(),
            SwarmEvent::Behaviour(StockEvent::Identify(identify::Event::Received { info, .. })) => {
                seen.borrow_mut().1[1] = Some(info.agent_version);
            }
            SwarmEvent::OutgoingConnectionError { error, .. } => panic!("{error}"),
            _ => {}
        }
        done()
    };
    drive(net, other, ours, theirs).await;
    let [theirs, ours] = agent.map(Option::unwrap);
    assert_eq!(ours, "bibd/test");
    assert_eq!(theirs.chars().count(), MAX_AGENT_CHARS);
    assert!(theirs.starts_with("other/2other/2"), "{theirs}");
}

#[test]
fn other_programs_connect_with_noise_and_yamux_of_libp2p() {
    run(async |executor| {
        let mut net = net(&executor);
        let mut other = other(&executor, stock_behaviour);
        other.dial(listening(&mut net).await).unwrap();
        get_acquainted(&mut net, &mut other).await;
    });
}

#[test]
fn other_programs_are_dialed_with_noise_and_yamux_of_libp2p() {
    run(async |executor| {
        let mut net = net(&executor);
        let mut other = other(&executor, stock_behaviour);
        other.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        let address = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = other.select_next_some().await {
                break address;
            }
        };
        net.dial(address);
        get_acquainted(&mut net, &mut other).await;
    });
}

#[test]
fn stream_with_a_node_that_does_not_speak_bib_is_unsupported() {
    run(async |executor| {
        let mut net = net(&executor);
        let mut other = other(&executor, stock_behaviour);
        other.dial(listening(&mut net).await).unwrap();
        let node = drive(
            &mut net,
            &mut other,
            |event| match event {
                NetEvent::Connected { node, .. } => Some(node),
                _ => None,
            },
            |_, _| None,
        )
        .await;
        net.open(&node, Protocol::Data);
        let ours = |event| match event {
            NetEvent::OpenFailed { error, .. } => Some(error),
            _ => None,
        };
        assert_eq!(drive(&mut net, &mut other, ours, |_, _| None).await, OpenError::Unsupported);
    });
}

/// A peer that gossips without signatures or to topics that are not ours.
fn lawless(
    mode: ValidationMode,
    author: impl FnOnce(&Keypair) -> MessageAuthenticity,
) -> impl FnOnce(&Keypair) -> gossipsub::Behaviour {
    move |identity| {
        let config = ConfigBuilder::default().validation_mode(mode).max_transmit_size(1 << 20).build().unwrap();
        gossipsub::Behaviour::new(author(identity), config).unwrap()
    }
}

/// What of `sent` arrives at a node that subscribed to the global topic; the last of them must.
async fn arrives(
    executor: &Arc<Executor<'static>>,
    make: impl FnOnce(&Keypair) -> gossipsub::Behaviour,
    sent: Vec<Vec<u8>>,
) -> Vec<Vec<u8>> {
    let mut net = net(executor);
    net.subscribe(GLOBAL).unwrap();
    let mut other = other(executor, make);
    other.dial(listening(&mut net).await).unwrap();
    let (mut to_send, mut came, last) = (Some(sent.clone()), Vec::new(), sent.last().cloned());
    let ours = |event| match event {
        NetEvent::Gossip { bytes, .. } => {
            let is_last = last.as_ref() == Some(&bytes);
            came.push(bytes);
            is_last.then_some(())
        }
        NetEvent::Disconnected { .. } => Some(()),
        _ => None,
    };
    let theirs = |other: &mut Swarm<gossipsub::Behaviour>, event| {
        if let SwarmEvent::Behaviour(gossipsub::Event::Subscribed { .. }) = event {
            for bytes in to_send.take().into_iter().flatten() {
                other.behaviour_mut().publish(IdentTopic::new(GLOBAL), bytes).unwrap();
            }
        }
        None
    };
    drive(&mut net, &mut other, ours, theirs).await;
    came
}

#[test]
fn signed_gossip_arrives_and_a_message_above_the_bound_does_not() {
    run(async |executor| {
        let make = lawless(ValidationMode::Strict, |identity| MessageAuthenticity::Signed(identity.clone()));
        let good = vec![1; MAX_GOSSIP_LEN];
        assert_eq!(arrives(&executor, make, vec![good.clone()]).await, [good]);
        let make = lawless(ValidationMode::Strict, |identity| MessageAuthenticity::Signed(identity.clone()));
        // One byte more than allowed, still below what the protocol would take.
        let came = arrives(&executor, make, vec![vec![2; MAX_GOSSIP_LEN + 1], vec![3]]).await;
        assert_eq!(came, [vec![3]]);
    });
}

#[test]
fn gossip_without_a_signature_is_dropped_before_anyone_sees_it() {
    run(async |executor| {
        // The author is named but nothing is signed. That it was dropped shows in the messages after it, which the
        // same connection brings in order: there is none that the node takes from such a peer, so the peer's own
        // request for a round trip is what ends the wait.
        let mut net = net(&executor);
        net.subscribe(GLOBAL).unwrap();
        let make = |identity: &Keypair| Unsigned {
            gossip: lawless(ValidationMode::None, |identity| {
                MessageAuthenticity::Author(identity.public().to_peer_id())
            })(identity),
            ping: ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_millis(1))),
        };
        let mut other = other(&executor, make);
        other.dial(listening(&mut net).await).unwrap();
        let (mut is_sent, mut pings) = (false, 0);
        let ours = |event| {
            assert!(!matches!(event, NetEvent::Gossip { .. }), "{event:?}");
            None
        };
        let theirs = |other: &mut Swarm<Unsigned>, event| {
            match event {
                SwarmEvent::Behaviour(UnsignedEvent::Gossip(gossipsub::Event::Subscribed { .. })) => {
                    other.behaviour_mut().gossip.publish(IdentTopic::new(GLOBAL), "unsigned").unwrap();
                    is_sent = true;
                }
                SwarmEvent::Behaviour(UnsignedEvent::Ping(_)) if is_sent => pings += 1,
                _ => {}
            }
            (pings == 20).then_some(())
        };
        drive(&mut net, &mut other, ours, theirs).await;
    });
}

#[derive(NetworkBehaviour)]
struct Unsigned {
    gossip: gossipsub::Behaviour,
    ping: ping::Behaviour,
}

#[test]
fn id_of_a_message_depends_on_topic_and_bytes_alone() {
    let id = |source: Option<PeerId>, number, topic: &str, data: &[u8]| {
        let topic = IdentTopic::new(topic).hash();
        let message = Message { source, data: data.to_vec(), sequence_number: number, topic };
        swarm_message_id(&message)
    };
    let first = id(Some(PeerId::random()), Some(1), "ab", b"c");
    assert_eq!(first, id(Some(PeerId::random()), Some(2), "ab", b"c"));
    assert_ne!(first, id(None, None, "a", b"bc"));
    assert_ne!(first, id(None, None, "ab", b"d"));
}

fn swarm_message_id(message: &Message) -> [u8; 32] {
    super::swarm::message_id(message.topic.as_str(), &message.data)
}
