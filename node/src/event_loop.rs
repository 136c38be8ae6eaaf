//! Drives the connections: the one place that owns the network. What happens on it is told to the view, to tasks for
//! streams, and to who asked for it.
//!
//! Invariant: nothing here waits for anything but the next event, so that a slow disk, peer or user never stops the
//! connections.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use async_channel::Receiver;
use bib_core::id::NodeId;
use bib_core::limits::{DIAL_RETRY, MAX_DIAL_RETRY, MAX_OPENING_STREAMS};
use bib_core::time::Instant;
use futures::FutureExt;
use futures::channel::oneshot;

use crate::net::{DialFailure, DialId, FrameStream, Multiaddr, Net, NetEvent, OpenError, OpenId, Protocol, Verdict};
use crate::network::Order;
use crate::node::Context;
use crate::runtime::timestamp;
use crate::serve;

/// A node to stay connected to.
struct Wanted {
    node: Option<NodeId>,
    dial: Option<DialId>,
    retry_at: Instant,
    pause: Duration,
}

type Opening = BTreeMap<OpenId, oneshot::Sender<Result<FrameStream, OpenError>>>;

pub(crate) struct EventLoop {
    ctx: Rc<Context>,
    net: Net,
    orders: Receiver<Order>,
    wanted: BTreeMap<Multiaddr, Wanted>,
    dials: BTreeMap<DialId, Vec<oneshot::Sender<Result<NodeId, DialFailure>>>>,
    opening: Opening,
    bans: BTreeMap<NodeId, Instant>,
}

impl EventLoop {
    pub(crate) fn new(ctx: Rc<Context>, net: Net, orders: Receiver<Order>) -> Self {
        let mut this = Self {
            ctx,
            net,
            orders,
            wanted: BTreeMap::new(),
            dials: BTreeMap::new(),
            opening: BTreeMap::new(),
            bans: BTreeMap::new(),
        };
        let peers = this.ctx.config().peers.clone();
        this.stay_connected(peers);
        this
    }

    /// Runs until the task is dropped.
    pub(crate) async fn run(mut self) {
        loop {
            let (timeout, why) = self.next_timeout();
            let (orders, clock) = (self.orders.clone(), self.ctx.clock);
            futures::select_biased! {
                order = orders.recv().fuse() => match order {
                    Ok(order) => self.obey(order),
                    Err(_) => return,
                },
                event = self.net.next().fuse() => self.take(event),
                () = clock.sleep_until(timeout).fuse() => {
                    log::trace!(why = why; "woken");
                    self.handle_timeout();
                }
            }
        }
    }

    fn next_timeout(&self) -> (Option<Instant>, &'static str) {
        let dial = self.wanted.values().filter(|wanted| wanted.is_away()).map(|wanted| (wanted.retry_at, "dial"));
        let ban = self.bans.values().map(|end| (*end, "end of a ban"));
        match dial.chain(ban).min() {
            Some((at, why)) => (Some(at), why),
            None => (None, "nothing"),
        }
    }

    fn handle_timeout(&mut self) {
        let now = self.ctx.clock.now();
        for (address, wanted) in &mut self.wanted {
            if wanted.is_away() && wanted.retry_at <= now {
                wanted.dial = Some(self.net.dial(address.clone()));
            }
        }
        let over: Vec<NodeId> = self.bans.iter().filter(|(_, end)| **end <= now).map(|(node, _)| *node).collect();
        for node in over {
            self.bans.remove(&node);
            self.net.unban(&node);
            log::info!(peer:% = node; "the ban of a peer is over");
        }
    }

    fn stay_connected(&mut self, peers: Vec<Multiaddr>) {
        let now = self.ctx.clock.now();
        self.wanted.retain(|address, _| peers.contains(address));
        for address in peers {
            let fresh = Wanted { node: None, dial: None, retry_at: now, pause: DIAL_RETRY };
            self.wanted.entry(address).or_insert(fresh);
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Connect { address, answer } => {
                let dial = self.net.dial(address);
                self.dials.entry(dial).or_default().push(answer);
            }
            Order::Disconnect { node } => self.net.disconnect(&node),
            Order::Open { node, protocol, answer } => {
                if self.opening.len() >= MAX_OPENING_STREAMS {
                    // Whoever asked may have gone away.
                    let _ = answer.send(Err(OpenError::TooManyStreams));
                    return;
                }
                let id = self.net.open(&node, protocol);
                self.opening.insert(id, answer);
            }
            Order::Ban { node, duration } => {
                log::warn!(peer:% = node, seconds = duration.as_secs(); "a peer is banned");
                self.bans.insert(node, self.ctx.clock.now() + duration);
                self.net.ban(&node);
            }
            Order::Peers(peers) => self.stay_connected(peers),
        }
    }

    fn take(&mut self, event: NetEvent) {
        let ctx = self.ctx.clone();
        match event {
            NetEvent::Listening { address } => {
                log::info!(address:% = address; "listening for peers");
                ctx.network.view.borrow_mut().addresses.push(address);
            }
            NetEvent::AddressGone { address } => {
                log::info!(address:% = address; "no longer listening");
                ctx.network.view.borrow_mut().addresses.retain(|known| *known != address);
            }
            NetEvent::ListenFailed { addresses, reason, ended } => {
                let address = addresses.first().map(ToString::to_string).unwrap_or_default();
                log::warn!(address = address.as_str(), why = reason.as_str(), ended = ended; "listening for peers fails");
            }
            NetEvent::Connected { node, address, direction } => {
                log::info!(peer:% = node, address:% = address, direction:? = direction; "connected");
                let mut view = ctx.network.view.borrow_mut();
                let peer = view.peer(node);
                peer.is_connected = true;
                peer.last_seen = Some(timestamp());
                peer.addresses = vec![address.to_string()];
                drop(view);
                ctx.fetches.peer_is_here(&ctx, node);
            }
            NetEvent::Disconnected { node, reason } => {
                log::info!(peer:% = node, why = reason.unwrap_or_default().as_str(); "disconnected");
                let mut view = ctx.network.view.borrow_mut();
                let peer = view.peer(node);
                peer.is_connected = false;
                peer.last_seen = Some(timestamp());
                drop(view);
                self.lost(&node);
            }
            NetEvent::Dialed { dial, node } => {
                for answer in self.dials.remove(&dial).into_iter().flatten() {
                    let _ = answer.send(Ok(node));
                }
                for wanted in self.wanted.values_mut().filter(|wanted| wanted.dial == Some(dial)) {
                    (wanted.dial, wanted.node, wanted.pause) = (None, Some(node), DIAL_RETRY);
                }
            }
            NetEvent::DialFailed { dial, error, .. } => {
                let now = ctx.clock.now();
                for (address, wanted) in self.wanted.iter_mut().filter(|(_, wanted)| wanted.dial == Some(dial)) {
                    log::debug!(address:% = address, why:% = error; "a peer cannot be reached");
                    (wanted.dial, wanted.retry_at) = (None, now + wanted.pause);
                    wanted.pause = (wanted.pause * 2).min(MAX_DIAL_RETRY);
                }
                for answer in self.dials.remove(&dial).into_iter().flatten() {
                    let _ = answer.send(Err(error.clone()));
                }
            }
            NetEvent::Identified { node, agent, addresses, .. } => {
                let mut view = ctx.network.view.borrow_mut();
                let peer = view.peer(node);
                peer.agent = Some(agent);
                if !addresses.is_empty() {
                    peer.addresses = addresses.iter().map(ToString::to_string).collect();
                }
            }
            NetEvent::Rtt { node, rtt } => ctx.network.view.borrow_mut().peer(node).rtt = Some(rtt),
            NetEvent::Gossip { id, .. } => self.net.report(&id, Verdict::Ignore),
            NetEvent::Inbound { node, protocol: Protocol::Data, stream } => {
                ctx.spawner.spawn("serve", serve::run(ctx.clone(), node, stream)).detach();
            }
            NetEvent::Inbound { .. } => {}
            NetEvent::Opened { id, stream, .. } => {
                if let Some(answer) = self.opening.remove(&id) {
                    // Dropping the stream resets it, when nobody wants it any more.
                    let _ = answer.send(Ok(stream));
                }
            }
            NetEvent::OpenFailed { id, error, .. } => {
                if let Some(answer) = self.opening.remove(&id) {
                    let _ = answer.send(Err(error));
                }
            }
        }
    }

    fn lost(&mut self, node: &NodeId) {
        let now = self.ctx.clock.now();
        for wanted in self.wanted.values_mut().filter(|wanted| wanted.node == Some(*node)) {
            (wanted.node, wanted.retry_at) = (None, now + wanted.pause);
        }
        self.ctx.fetches.peer_is_gone(&self.ctx, *node);
    }
}

impl Wanted {
    const fn is_away(&self) -> bool {
        self.node.is_none() && self.dial.is_none()
    }
}
