//! The network between nodes in one process, over real sockets of the loopback interface. Everything waits for events.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use async_executor::Executor;
use async_io::{Async, Timer};
use bib_core::id::NodeId;
use bib_core::key::SecretKey;
use bib_core::limits::{MAX_GOSSIP_LEN, MAX_PEER_FRAME, MAX_PENDING_CONNECTIONS, MAX_STREAMS_PER_PEER};
use bib_core::wire::gossip;
use bib_node::net::{
    DialFailure, Direction, FrameError, FrameStream, GossipId, Multiaddr, Net, NetConfig, NetError, NetEvent,
    OpenError, Protocol, Published, Security, Verdict,
};
use futures::future::{Either, join, join_all, select, select_all};
use futures::{AsyncReadExt, AsyncWriteExt, FutureExt};

/// A test that hangs is ended by this; no test waits for it to pass.
const HANG: Duration = Duration::from_secs(60);

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

fn config(seed: u8) -> NetConfig {
    NetConfig {
        identity: key(seed),
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        security: Security::Auto,
        agent: format!("bibd/test-{seed}"),
        max_connections: 100,
    }
}

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

/// Drives the networks until one of their events gives a result.
async fn drive<T>(nets: &mut [&mut Net], mut done: impl FnMut(usize, NetEvent) -> Option<T>) -> T {
    loop {
        let (event, who, _) = select_all(nets.iter_mut().map(|net| net.next().boxed_local())).await;
        if let Some(result) = done(who, event) {
            return result;
        }
    }
}

/// Does some work while the networks are driven, as a node drives its own.
async fn during<T>(nets: &mut [&mut Net], work: impl Future<Output = T>) -> T {
    let work = std::pin::pin!(work);
    let rest = std::pin::pin!(drive(nets, |_, _| None::<()>));
    match select(work, rest).await {
        Either::Left((result, _)) => result,
        Either::Right(((), _)) => unreachable!("driving never ends"),
    }
}

async fn listening(net: &mut Net) -> Multiaddr {
    drive(&mut [net], |_, event| match event {
        NetEvent::Listening { address } => Some(address),
        _ => None,
    })
    .await
}

fn net(seed: u8, executor: &Arc<Executor<'static>>) -> Net {
    Net::start(config(seed), executor.clone()).unwrap()
}

/// Two networks, the second connected to the first.
async fn pair(executor: &Arc<Executor<'static>>) -> (Net, Net) {
    let (mut a, mut b) = (net(1, executor), net(2, executor));
    connect(&mut b, &mut a).await;
    (a, b)
}

/// Connects `from` to `to`.
async fn connect(from: &mut Net, to: &mut Net) {
    let known = to.addresses().next().cloned();
    let address = match known {
        Some(address) => address,
        None => listening(to).await,
    };
    let (there, here) = (to.node(), from.node());
    from.dial(at(address, there));
    let mut missing = 2;
    drive(&mut [from, to], |who, event| match event {
        NetEvent::Connected { node, direction, .. } => {
            let expected = [(there, Direction::Outbound), (here, Direction::Inbound)][who];
            assert_eq!((node, direction), expected);
            missing -= 1;
            (missing == 0).then_some(())
        }
        NetEvent::DialFailed { error, .. } => panic!("{error}"),
        _ => None,
    })
    .await;
}

/// An address at which only one node may answer.
fn at(address: Multiaddr, node: NodeId) -> Multiaddr {
    format!("{address}/p2p/{node}").parse().unwrap()
}

/// Opens a stream from `from` to `to`; the end of `from` first.
async fn stream(from: &mut Net, to: &mut Net, protocol: Protocol) -> (FrameStream, FrameStream) {
    let asked = from.open(&to.node(), protocol);
    let (mut opened, mut inbound) = (None, None);
    drive(&mut [from, to], |_, event| {
        match event {
            NetEvent::Opened { id, stream, .. } if id == asked => opened = Some(stream),
            NetEvent::Inbound { protocol: came, stream, .. } if came == protocol => inbound = Some(stream),
            NetEvent::OpenFailed { error, .. } => panic!("{error}"),
            _ => {}
        }
        if opened.is_some() && inbound.is_some() { opened.take().zip(inbound.take()) } else { None }
    })
    .await
}

#[test]
fn two_nodes_connect_know_each_other_and_speak() {
    run(async |executor| {
        let (mut a, mut b) = pair(&executor).await;
        let (ours, theirs) = stream(&mut b, &mut a, Protocol::Data).await;
        let (_, mut out) = ours.split();
        let (mut inward, _) = theirs.split();
        out.write(b"hello").await.unwrap();
        out.write(b"").await.unwrap();
        out.close().await.unwrap();
        assert_eq!(inward.read().await.unwrap().as_deref(), Some(&b"hello"[..]));
        assert_eq!(inward.read().await.unwrap().as_deref(), Some(&b""[..]));
        assert_eq!(inward.read().await.unwrap(), None);
        let seen: Vec<_> = a.peers().collect();
        assert_eq!(seen.len(), 1);
        assert_eq!((seen[0].node, seen[0].direction), (key(2).node_id(), Direction::Inbound));
        assert_eq!(seen[0].bytes.received, 4 + 5 + 4);
        assert_eq!(b.stats().streams.sent, 4 + 5 + 4);
        assert!(b.stats().total.sent > 4 + 5 + 4);
    });
}

#[test]
fn another_node_than_the_one_asked_for_is_refused() {
    run(async |executor| {
        let (mut a, mut b) = (net(1, &executor), net(2, &executor));
        let dial = b.dial(at(listening(&mut a).await, key(3).node_id()));
        let error = drive(&mut [&mut b, &mut a], |who, event| match event {
            NetEvent::DialFailed { dial: failed, error, .. } if failed == dial => Some(error),
            NetEvent::Connected { .. } if who == 0 => panic!("connected to the wrong node"),
            _ => None,
        })
        .await;
        assert_eq!(error, DialFailure::WrongNode(key(1).node_id()));
        assert_eq!(b.peers().count(), 0);
    });
}

#[test]
fn stream_with_a_node_that_is_not_connected_fails() {
    run(async |executor| {
        let mut a = net(1, &executor);
        let asked = a.open(&key(9).node_id(), Protocol::Sync);
        let error = drive(&mut [&mut a], |_, event| match event {
            NetEvent::OpenFailed { id, error, .. } if id == asked => Some(error),
            _ => None,
        })
        .await;
        assert_eq!(error, OpenError::NotConnected);
    });
}

#[test]
fn stream_above_the_bound_fails_and_all_below_arrive_together() {
    run(async |executor| {
        let (mut a, mut b) = pair(&executor).await;
        let half = MAX_STREAMS_PER_PEER as usize / 2;
        let protocols = Protocol::ALL.into_iter().chain(std::iter::repeat(Protocol::Data));
        for protocol in protocols.take(half) {
            a.open(&b.node(), protocol);
            b.open(&a.node(), protocol);
        }
        let mut held = Vec::new();
        let (mut inbound, mut opened) = (0, 0);
        drive(&mut [&mut a, &mut b], |_, event| {
            match event {
                NetEvent::Inbound { stream, .. } => {
                    inbound += 1;
                    held.push(stream);
                }
                NetEvent::Opened { stream, .. } => {
                    opened += 1;
                    held.push(stream);
                }
                NetEvent::OpenFailed { error, .. } => panic!("{error}"),
                _ => {}
            }
            (inbound == 2 * half && opened == 2 * half).then_some(())
        })
        .await;
        let one_more = a.open(&b.node(), Protocol::Data);
        let error = drive(&mut [&mut a, &mut b], |_, event| match event {
            NetEvent::OpenFailed { id, error, .. } if id == one_more => Some(error),
            _ => None,
        })
        .await;
        assert_eq!(error, OpenError::TooManyStreams);
        held.clear();
        stream(&mut a, &mut b, Protocol::Data).await;
    });
}

#[test]
fn large_content_arrives_whole() {
    run(async |executor| {
        const MIB: usize = 256;
        let (mut a, mut b) = pair(&executor).await;
        let (ours, theirs) = stream(&mut a, &mut b, Protocol::Data).await;
        let (mut reader, mut writer) = (theirs.split().0, ours.split().1);
        // Frames of many lengths, with the longest among them.
        let lens = [1 << 20, 300_001, MAX_PEER_FRAME, 1, 65_536, 128 << 10];
        let sender = executor.spawn(async move {
            let (mut hasher, mut sent, mut seed) = (blake3::Hasher::new(), 0, 0_u64);
            for len in lens.into_iter().cycle() {
                let mut payload = vec![0; len];
                for word in payload.chunks_mut(4_096) {
                    seed += 1;
                    let n = word.len().min(8);
                    word[..n].copy_from_slice(&seed.to_le_bytes()[..n]);
                }
                hasher.update(&payload);
                writer.write(&payload).await.unwrap();
                sent += len;
                if sent > MIB << 20 {
                    break;
                }
            }
            writer.close().await.unwrap();
            (hasher.finalize(), sent)
        });
        let receiver = executor.spawn(async move {
            let (mut hasher, mut received) = (blake3::Hasher::new(), 0);
            while let Some(payload) = reader.read().await.unwrap() {
                hasher.update(&payload);
                received += payload.len();
            }
            (hasher.finalize(), received)
        });
        let (sent, received) = during(&mut [&mut a, &mut b], join(sender, receiver)).await;
        assert_eq!(sent, received);
    });
}

#[test]
fn frame_longer_than_the_reader_allows_ends_the_stream() {
    run(async |executor| {
        let (mut a, mut b) = pair(&executor).await;
        let (ours, theirs) = stream(&mut a, &mut b, Protocol::Discovery).await;
        let (_, mut writer) = ours.split();
        let mut reader = theirs.split().0.with_max(100);
        let error = writer.write(&vec![0; MAX_PEER_FRAME + 1]).await.unwrap_err();
        assert!(matches!(error, FrameError::TooLong(_)), "{error}");
        writer.write(&[7; 100]).await.unwrap();
        writer.write(&[7; 101]).await.unwrap();
        assert_eq!(reader.read().await.unwrap().unwrap().len(), 100);
        let error = reader.read().await.unwrap_err();
        assert!(matches!(error, FrameError::TooLong(refused) if (refused.len, refused.max) == (101, 100)), "{error}");
    });
}

/// Waits until each network has seen that the node at the same place of `lost` is gone.
async fn both_lose(nets: [&mut Net; 2], lost: [NodeId; 2]) {
    let mut missing = 2;
    let [first, second] = nets;
    drive(&mut [first, second], |who, event| match event {
        NetEvent::Disconnected { node, .. } => {
            assert_eq!(node, lost[who]);
            missing -= 1;
            (missing == 0).then_some(())
        }
        _ => None,
    })
    .await;
}

#[test]
fn end_of_a_connection_is_seen_by_both_and_ends_its_streams() {
    run(async |executor| {
        let (mut a, mut b) = pair(&executor).await;
        let (_ours, theirs) = stream(&mut a, &mut b, Protocol::Sync).await;
        let ids = [b.node(), a.node()];
        a.disconnect(&b.node());
        both_lose([&mut a, &mut b], ids).await;
        assert!(!matches!(theirs.split().0.read().await, Ok(Some(_))));
        connect(&mut a, &mut b).await;
        // A node that ends without a word.
        drop(a);
        drive(&mut [&mut b], |_, event| matches!(event, NetEvent::Disconnected { .. }).then_some(())).await;
        assert_eq!(b.peers().count(), 0);
    });
}

#[test]
fn banned_node_is_cut_off_and_refused_until_the_ban_ends() {
    run(async |executor| {
        let (mut a, mut b) = pair(&executor).await;
        let ids = [b.node(), a.node()];
        a.ban(&b.node());
        both_lose([&mut a, &mut b], ids).await;

        let address = a.addresses().next().unwrap().clone();
        b.dial(at(address.clone(), a.node()));
        // The banned one ends its handshake and is cut off; the other one never hears of it.
        drive(&mut [&mut a, &mut b], |who, event| match event {
            NetEvent::Connected { .. } if who == 0 => panic!("a banned node got in"),
            NetEvent::Disconnected { .. } | NetEvent::DialFailed { .. } if who == 1 => Some(()),
            _ => None,
        })
        .await;
        assert_eq!(a.stats().refused_connections, 1);
        let dial = a.dial(at(b.addresses().next().unwrap().clone(), b.node()));
        let error = drive(&mut [&mut a, &mut b], |_, event| match event {
            NetEvent::DialFailed { dial: failed, error, .. } if failed == dial => Some(error),
            _ => None,
        })
        .await;
        assert!(matches!(error, DialFailure::Refused(_)), "{error}");

        a.unban(&b.node());
        connect(&mut b, &mut a).await;
    });
}

#[test]
fn connections_above_the_limit_are_refused() {
    run(async |executor| {
        let mut a = Net::start(NetConfig { max_connections: 1, ..config(1) }, executor.clone()).unwrap();
        let (mut b, mut c) = (net(2, &executor), net(3, &executor));
        connect(&mut b, &mut a).await;
        c.dial(a.addresses().next().unwrap().clone());
        drive(&mut [&mut a, &mut c, &mut b], |who, event| match event {
            NetEvent::Connected { .. } if who == 0 => panic!("one too many"),
            NetEvent::Disconnected { .. } | NetEvent::DialFailed { .. } if who == 1 => Some(()),
            _ => None,
        })
        .await;
        assert_eq!((a.stats().connections, a.stats().refused_connections), (1, 1));
    });
}

#[test]
fn nodes_that_dial_each_other_at_once_are_connected_once() {
    run(async |executor| {
        let (mut a, mut b) = (net(1, &executor), net(2, &executor));
        let (at_a, at_b) = (listening(&mut a).await, listening(&mut b).await);
        let dials = [a.dial(at(at_b, b.node())), b.dial(at(at_a, a.node()))];
        let (mut connected, mut dialed) = ([0; 2], [false; 2]);
        drive(&mut [&mut a, &mut b], |who, event| {
            match event {
                NetEvent::Connected { .. } => connected[who] += 1,
                NetEvent::Dialed { dial, .. } if dial == dials[who] => dialed[who] = true,
                // When both calls cross on the wire, each side may find the other one already there.
                NetEvent::DialFailed { dial, .. } if dial == dials[who] => dialed[who] = true,
                NetEvent::Disconnected { .. } => panic!("a connection was lost"),
                _ => {}
            }
            (dialed == [true; 2] && connected[0] > 0 && connected[1] > 0).then_some(())
        })
        .await;
        assert_eq!(connected, [1, 1]);
        stream(&mut a, &mut b, Protocol::Sync).await;
        stream(&mut b, &mut a, Protocol::Sync).await;
    });
}

#[test]
fn every_pair_of_encryption_settings_connects() {
    run(async |executor| {
        let all = [Security::Auto, Security::Noise, Security::Tls];
        for (n, (dialing, listening)) in all.iter().flat_map(|a| all.iter().map(move |b| (*a, *b))).enumerate() {
            let start = |seed, security| Net::start(NetConfig { security, ..config(seed) }, executor.clone()).unwrap();
            let (mut a, mut b) = (start(10 + n as u8, dialing), start(30 + n as u8, listening));
            connect(&mut a, &mut b).await;
            let (ours, theirs) = stream(&mut a, &mut b, Protocol::Data).await;
            let ((mut reader, _), (_, mut writer)) = (theirs.split(), ours.split());
            // More than a peer takes ahead of its reader, so both work at the same time.
            let both = join(writer.write(&[3; 500_000]), reader.read());
            let (written, read) = during(&mut [&mut a, &mut b], both).await;
            written.unwrap();
            assert!(read.unwrap().unwrap() == [3; 500_000], "{dialing:?} to {listening:?}");
        }
    });
}

#[test]
fn wildcard_listens_on_the_addresses_of_the_interfaces() {
    run(async |executor| {
        let listen = vec!["/ip4/0.0.0.0/tcp/0".parse().unwrap()];
        let mut a = Net::start(NetConfig { listen, ..config(1) }, executor.clone()).unwrap();
        let loopback = drive(&mut [&mut a], |_, event| match event {
            NetEvent::Listening { address } => address.to_string().starts_with("/ip4/127.0.0.1/").then_some(address),
            _ => None,
        })
        .await;
        let mut b = net(2, &executor);
        b.dial(at(loopback, a.node()));
        drive(&mut [&mut a, &mut b], |who, event| match event {
            NetEvent::Connected { .. } if who == 0 => Some(()),
            NetEvent::DialFailed { error, .. } => panic!("{error}"),
            _ => None,
        })
        .await;
    });
}

#[test]
fn address_in_use_or_of_another_kind_is_named_when_the_network_starts() {
    run(async |executor| {
        let mut a = net(1, &executor);
        for address in [listening(&mut a).await, "/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap()] {
            let taken = NetConfig { listen: vec![address.clone()], ..config(2) };
            match Net::start(taken, executor.clone()) {
                Err(NetError::Listen { address: named, reason }) => {
                    assert_eq!(named, address);
                    assert!(!reason.contains(": :") && !reason.contains("::"), "{reason}");
                    assert!(!reason.starts_with(':') && !reason.ends_with(':'), "{reason}");
                }
                Err(error) => panic!("{error}"),
                Ok(_) => panic!("{address} was taken twice"),
            }
        }
    });
}

#[test]
fn addresses_that_cannot_be_dialed_and_our_own_say_so() {
    run(async |executor| {
        let mut a = net(1, &executor);
        let own = listening(&mut a).await;
        let relay = format!("{own}/p2p/{}/p2p-circuit/p2p/{}", key(2).node_id(), key(3).node_id());
        let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let dead = format!("/ip4/127.0.0.1/tcp/{}", dead.port());
        for (address, expected) in [
            (relay, DialFailure::Unsupported),
            ("/dns4/localhost/tcp/4001".to_owned(), DialFailure::Unsupported),
            (own.to_string(), DialFailure::Ourselves),
            (dead, DialFailure::Unreachable(String::new())),
        ] {
            let dial = a.dial(address.parse().unwrap());
            let error = drive(&mut [&mut a], |_, event| match event {
                NetEvent::DialFailed { dial: failed, error, .. } if failed == dial => Some(error),
                _ => None,
            })
            .await;
            assert_eq!(std::mem::discriminant(&error), std::mem::discriminant(&expected), "{address}: {error}");
        }
    });
}

/// Waits until the other side has closed every one of these sockets.
async fn all_closed(sockets: Vec<Async<TcpStream>>) {
    let ends = sockets.into_iter().map(|mut socket| async move {
        let mut buf = [0; 64];
        while matches!(socket.read(&mut buf).await, Ok(1..)) {}
    });
    join_all(ends).await;
}

async fn bare(net: &Net) -> Async<TcpStream> {
    let address = net.addresses().next().unwrap().to_string();
    let port = address.rsplit('/').next().unwrap().parse().unwrap();
    Async::<TcpStream>::connect(([127, 0, 0, 1], port)).await.unwrap()
}

#[test]
fn garbage_on_the_port_does_no_harm() {
    run(async |executor| {
        let mut a = net(1, &executor);
        listening(&mut a).await;
        let mut sockets = Vec::new();
        let long = [0xff; 20_000];
        for garbage in [&b"GET / HTTP/1.1\r\n".repeat(8)[..], &[0xff; 300], &long] {
            let mut socket = bare(&a).await;
            socket.write_all(garbage).await.unwrap();
            sockets.push(socket);
        }
        // The start of an honest connection, then garbage instead of the handshake.
        for protocol in ["/noise", "/tls/1.0.0"] {
            let mut socket = bare(&a).await;
            for line in ["/multistream/1.0.0", protocol] {
                socket.write_all(&[line.len() as u8 + 1]).await.unwrap();
                socket.write_all(line.as_bytes()).await.unwrap();
                socket.write_all(b"\n").await.unwrap();
            }
            socket.write_all(&[0xff; 70_000]).await.unwrap();
            sockets.push(socket);
        }
        let n = sockets.len() as u64;
        during(&mut [&mut a], all_closed(sockets)).await;
        let mut b = net(2, &executor);
        connect(&mut b, &mut a).await;
        assert_eq!(a.stats().failed_handshakes, n);
    });
}

#[test]
fn half_open_connections_are_bounded_and_leave_room_when_they_go() {
    run(async |executor| {
        let mut a = net(1, &executor);
        listening(&mut a).await;
        let mut silent = Vec::new();
        for _ in 0..MAX_PENDING_CONNECTIONS {
            silent.push(bare(&a).await);
        }
        let mut above = Vec::new();
        for _ in 0..8 {
            above.push(bare(&a).await);
        }
        during(&mut [&mut a], all_closed(above)).await;
        assert_eq!(a.stats().refused_connections, 8);
        drop(silent);
        // Those that went away are noticed in no certain order; one of the next dials gets in.
        let mut b = net(2, &executor);
        let address = at(a.addresses().next().unwrap().clone(), a.node());
        b.dial(address.clone());
        loop {
            let connected = drive(&mut [&mut a, &mut b], |who, event| match event {
                NetEvent::Connected { .. } if who == 0 => Some(true),
                NetEvent::DialFailed { .. } if who == 1 => Some(false),
                _ => None,
            })
            .await;
            if connected {
                break;
            }
            b.dial(address.clone());
        }
    });
}

/// The next gossip message that reaches one of the networks: who got it, its bytes, and its signer.
async fn heard(nets: &mut [&mut Net]) -> (usize, Vec<u8>, NodeId, GossipId) {
    drive(nets, |who, event| match event {
        NetEvent::Gossip { bytes, source, id, .. } => Some((who, bytes, source, id)),
        _ => None,
    })
    .await
}

/// Waits until `who` knows that `n` peers take part in a topic.
async fn subscribed(nets: &mut [&mut Net], who: usize, mut n: usize) {
    drive(nets, |at, event| {
        if at == who && matches!(event, NetEvent::Subscribed { .. }) {
            n -= 1;
        }
        (n == 0).then_some(())
    })
    .await;
}

#[test]
fn gossip_goes_through_nodes_that_accept_it_and_no_further_otherwise() {
    run(async |executor| {
        let (mut a, mut b, mut c) = (net(1, &executor), net(2, &executor), net(3, &executor));
        for net in [&mut a, &mut b, &mut c] {
            net.subscribe(gossip::GLOBAL).unwrap();
        }
        b.dial(listening(&mut a).await);
        b.dial(listening(&mut c).await);
        let mut nets = [&mut a, &mut b, &mut c];
        let mut known = [0; 3];
        drive(&mut nets, |who, event| {
            known[who] += usize::from(matches!(event, NetEvent::Subscribed { .. }));
            (known == [1, 2, 1]).then_some(())
        })
        .await;
        for (verdict, text) in [(Verdict::Reject, "bad"), (Verdict::Ignore, "dull"), (Verdict::Accept, "good")] {
            assert_eq!(nets[0].publish(gossip::GLOBAL, text.into()).unwrap(), Published::Sent);
            let (who, bytes, source, id) = heard(&mut nets).await;
            assert_eq!((who, &bytes[..], source), (1, text.as_bytes(), key(1).node_id()));
            nets[1].report(&id, verdict);
        }
        // Of the three only the accepted one goes on to the third node.
        let (who, bytes, source, _) = heard(&mut nets).await;
        assert_eq!((who, &bytes[..], source), (2, &b"good"[..], key(1).node_id()));
    });
}

#[test]
fn gossip_has_topics_of_bib_and_bounded_messages_only() {
    run(async |executor| {
        let mut a = net(1, &executor);
        for topic in ["", "/bib", "/bib/topics/", "/bib/topics/x", "/other"] {
            assert!(matches!(a.subscribe(topic), Err(NetError::NotATopic(_))), "{topic}");
            assert!(matches!(a.publish(topic, vec![1]), Err(NetError::NotATopic(_))), "{topic}");
        }
        let topic = gossip::topic_name(&bib_core::id::TopicId::from_bytes([1; 32]));
        a.subscribe(&topic).unwrap();
        assert_eq!(a.publish(&topic, vec![0; MAX_GOSSIP_LEN + 1]).unwrap(), Published::TooLong);
        assert_eq!(a.publish(&topic, vec![0; MAX_GOSSIP_LEN]).unwrap(), Published::NoPeers);

        let mut b = net(2, &executor);
        b.subscribe(&topic).unwrap();
        b.dial(listening(&mut a).await);
        let mut nets = [&mut a, &mut b];
        subscribed(&mut nets, 0, 1).await;
        assert_eq!(nets[0].publish(&topic, vec![9; MAX_GOSSIP_LEN]).unwrap(), Published::Sent);
        assert_eq!(heard(&mut nets).await.1, vec![9; MAX_GOSSIP_LEN]);
    });
}
