//! Drives the connections: the one place that owns the network. What happens on it is told to the view, to tasks for
//! streams, and to who asked for it.
//!
//! Invariant: nothing here waits for a disk, a peer or a user. Only when the machines of the catalog are behind with
//! what came is nothing more taken from the network; connections and streams that stand go on.

use std::collections::BTreeMap;
use std::rc::Rc;

use async_channel::Receiver;
use bib_core::id::NodeId;
use bib_core::limits::MAX_OPENING_STREAMS;
use bib_core::time::Instant;
use futures::channel::oneshot;
use futures::{FutureExt, StreamExt};

use crate::catalog_sync::{self, Input};
use crate::net::{DialFailure, DialId, FrameStream, Multiaddr, Net, NetEvent, OpenError, OpenId, Protocol};
use crate::network::Order;
use crate::node::Context;
use crate::runtime::timestamp;
use crate::serve;

/// Who wants to hear of a dial.
enum Dialler {
    /// A user.
    User(oneshot::Sender<Result<NodeId, DialFailure>>),
    /// The machines of the catalog, for a static peer.
    Machines(String),
}

type Opening = BTreeMap<OpenId, oneshot::Sender<Result<FrameStream, OpenError>>>;

pub(crate) struct EventLoop {
    ctx: Rc<Context>,
    net: Net,
    orders: Receiver<Order>,
    dials: BTreeMap<DialId, Dialler>,
    opening: Opening,
    bans: BTreeMap<NodeId, Instant>,
}

impl EventLoop {
    pub(crate) fn new(ctx: Rc<Context>, net: Net, orders: Receiver<Order>) -> Self {
        Self { ctx, net, orders, dials: BTreeMap::new(), opening: BTreeMap::new(), bans: BTreeMap::new() }
    }

    /// Runs until the task is dropped.
    pub(crate) async fn run(mut self) {
        let ctx = self.ctx.clone();
        let orders = self.orders.clone();
        // Here and not in a task of its own: a node whose connections nobody drives is to be started again.
        let mut ticks = ctx.manager.ticks();
        loop {
            let timeout = self.bans.values().min().copied();
            // What the machines cannot take yet stays with the network, and so with who sends it.
            let next = async {
                ctx.mailbox.has_room().await;
                self.net.next().await
            };
            futures::select_biased! {
                _ = ticks.next().fuse() => ctx.manager.alive(),
                order = orders.recv().fuse() => match order {
                    Ok(order) => self.obey(order),
                    Err(_) => return,
                },
                event = next.fuse() => self.take(event),
                () = ctx.clock.sleep_until(timeout).fuse() => self.end_bans(),
            }
        }
    }

    fn end_bans(&mut self) {
        let now = self.ctx.clock.now();
        let over: Vec<NodeId> = self.bans.iter().filter(|(_, end)| **end <= now).map(|(node, _)| *node).collect();
        for node in over {
            self.bans.remove(&node);
            self.net.unban(&node);
            log::info!(peer:% = node; "the ban of a peer is over");
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Connect { address, answer } => {
                let dial = self.net.dial(address);
                self.dials.insert(dial, Dialler::User(answer));
            }
            Order::Dial { address } => match address.parse::<Multiaddr>() {
                Ok(parsed) => {
                    let dial = self.net.dial(parsed);
                    self.dials.insert(dial, Dialler::Machines(address));
                }
                Err(_) => self.ctx.mailbox.push(Input::DialFailed { address }),
            },
            Order::Subscribe(topic) => {
                if let Err(error) = self.net.subscribe(&topic) {
                    log::warn!(topic = topic.as_str(), error:% = error; "no part can be taken in a gossip topic");
                }
            }
            Order::Unsubscribe(topic) => self.net.unsubscribe(&topic),
            Order::Publish { topic, bytes } => match self.net.publish(&topic, bytes) {
                // What gossip does not carry, announcements do.
                Ok(published) => log::debug!(topic = topic.as_str(), what:? = published; "gossip"),
                Err(error) => log::warn!(topic = topic.as_str(), error:% = error; "gossip could not be sent"),
            },
            Order::Report { id, verdict } => self.net.report(&id, verdict),
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
                ctx.mailbox.push(Input::Connected { peer: node, dialled: None });
                ctx.fetches.peer_is_here(&ctx, node);
                ctx.replicate.notify();
            }
            NetEvent::Disconnected { node, reason } => {
                log::info!(peer:% = node, why = reason.unwrap_or_default().as_str(); "disconnected");
                let mut view = ctx.network.view.borrow_mut();
                let peer = view.peer(node);
                peer.is_connected = false;
                peer.last_seen = Some(timestamp());
                drop(view);
                ctx.mailbox.push(Input::Disconnected { peer: node });
                ctx.fetches.peer_is_gone(&ctx, node);
            }
            NetEvent::Dialed { dial, node } => match self.dials.remove(&dial) {
                // Whoever asked may have gone away.
                Some(Dialler::User(answer)) => drop(answer.send(Ok(node))),
                Some(Dialler::Machines(address)) => {
                    ctx.mailbox.push(Input::Connected { peer: node, dialled: Some(address) });
                }
                None => {}
            },
            NetEvent::DialFailed { dial, error, .. } => match self.dials.remove(&dial) {
                Some(Dialler::User(answer)) => drop(answer.send(Err(error))),
                Some(Dialler::Machines(address)) => {
                    log::debug!(address = address.as_str(), why:% = error; "a static peer cannot be reached");
                    ctx.mailbox.push(Input::DialFailed { address });
                }
                None => {}
            },
            NetEvent::Identified { node, agent, addresses, .. } => {
                let mut view = ctx.network.view.borrow_mut();
                let peer = view.peer(node);
                peer.agent = Some(agent);
                if !addresses.is_empty() {
                    peer.addresses = addresses.iter().map(ToString::to_string).collect();
                }
            }
            NetEvent::Rtt { node, rtt } => ctx.network.view.borrow_mut().peer(node).rtt = Some(rtt),
            // Gossip finds its ways by itself.
            NetEvent::Subscribed { .. } => {}
            NetEvent::Gossip { topic, bytes, source, from, id } => {
                ctx.mailbox.push(Input::Gossip { topic, bytes, source, from, id });
            }
            NetEvent::Inbound { node, protocol: Protocol::Data, stream } => {
                ctx.spawner.spawn("serve", serve::run(ctx.clone(), node, stream)).detach();
            }
            NetEvent::Inbound { node, protocol, stream } => {
                ctx.spawner.spawn("answer", catalog_sync::answer(ctx.clone(), node, protocol, stream)).detach();
            }
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
}
