//! The network between nodes in one process, over real sockets of the loopback interface. Everything waits for events.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::Arc;
use std::time::Duration;

use async_executor::Executor;
use async_io::Timer;
use bib_core::id::NodeId;
use bib_core::key::SecretKey;
use bib_node::net::{
    DialFailure, Direction, FrameStream, Multiaddr, Net, NetConfig, NetEvent, OpenError, Protocol, Security,
};
use futures::FutureExt;
use futures::future::{Either, select, select_all};

/// A test that hangs is ended by this; no test waits for it to pass.
const HANG: Duration = Duration::from_secs(120);

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
        if inbound.is_some() { opened.take().zip(inbound.take()) } else { None }
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
