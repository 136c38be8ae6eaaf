//! Keeps the catalog the same as that of the peers: the machines of discovery, reconciliation and gossip with streams,
//! the store and the network around them.
//!
//! The machines read the catalog, so they work on a thread of the pool: what came for them meanwhile is handed to them
//! together, with one snapshot that holds all commits they are told of.
//!
//! Invariant: each new operation is told to them once, with where it came from.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use async_channel::Sender;
use async_executor::Task;
use async_io::Timer;
use bib_core::command::{Applied, Command, OpOutcome, Origin};
use bib_core::encode::{decode, encode};
use bib_core::id::{NodeId, OpId, TopicId};
use bib_core::limits::{
    BAN_DURATION, FRAME_DEADLINE, MAX_CATALOG_FRAME, MAX_DISCOVERY_REQUEST_LEN, MAX_SYNC_REQUEST_LEN, STREAM_IDLE,
};
use bib_core::machine::discovery::{Discovery, DiscoveryEvent, NewsFrom};
use bib_core::machine::gossip::{self, Accepted, GossipGate};
use bib_core::machine::sync::{Initiator, Responder, SyncAnswer, SyncConfig, SyncEvent, SyncToken, pushed};
use bib_core::op::Operation;
use bib_core::port::{CatalogRead, StoreError};
use bib_core::time::{Instant, Timestamp};
use bib_core::wire::message::{
    DiscoveryRequest, DiscoveryResponse, Envelope, NodeMode, PeerInfo, Refusal, RefusalCode, SyncRequest, SyncResponse,
};
use futures::channel::oneshot;

use crate::control::within;
use crate::mailbox::Weighted;
use crate::net::{FrameError, FrameStream, GossipId, Protocol, Verdict};
use crate::network::Order;
use crate::node::Context;
use crate::space::{self, Disk};

/// Requests of this node to one peer that wait for their stream.
const REQUESTS: usize = 256;

/// What happens.
#[derive(Debug)]
pub(crate) enum Input {
    Started,
    Connected {
        peer: NodeId,
        dialled: Option<String>,
    },
    Disconnected {
        peer: NodeId,
    },
    DialFailed {
        address: String,
    },
    Configured(Vec<String>),
    Discovery {
        peer: NodeId,
        request: Envelope<DiscoveryRequest>,
        answer: oneshot::Sender<Vec<u8>>,
    },
    Sync {
        peer: NodeId,
        request: Envelope<SyncRequest>,
        answer: oneshot::Sender<Vec<u8>>,
    },
    DiscoveryAnswer {
        peer: NodeId,
        response: Envelope<DiscoveryResponse>,
    },
    SyncAnswer {
        peer: NodeId,
        response: Envelope<SyncResponse>,
    },
    Closed {
        peer: NodeId,
        protocol: Protocol,
    },
    Gossip {
        topic: String,
        bytes: Vec<u8>,
        source: NodeId,
        from: NodeId,
        id: GossipId,
    },
    Applied {
        of: Applying,
        applied: Option<Applied>,
    },
    /// Operations of a user of this node.
    News(Arc<Applied>),
    /// Some news was lost.
    Missed,
    /// It is time.
    Timeout,
}

impl Weighted for Input {
    fn weight(&self) -> usize {
        match self {
            Self::Gossip { bytes, .. } => bytes.len(),
            Self::Sync { request, .. } => match &request.body {
                SyncRequest::PushOps { ops } => ops.iter().map(|op| op.len()).sum(),
                _ => 1_024,
            },
            Self::SyncAnswer { response, .. } => match &response.body {
                SyncResponse::Ops(ops) => ops.iter().map(|op| op.len()).sum(),
                _ => 16 << 10,
            },
            Self::DiscoveryAnswer { .. } => 64 << 10,
            _ => 256,
        }
    }
}

/// For whom operations are applied.
#[derive(Debug)]
pub(crate) enum Applying {
    /// A reconciliation that this node drives.
    Sync { peer: NodeId, token: SyncToken },
    /// A peer that pushes them.
    Push { peer: NodeId, req: u64, ids: Vec<OpId>, rejected: Vec<(OpId, String)>, answer: oneshot::Sender<Vec<u8>> },
    /// A message of gossip.
    Gossip { topic: TopicId, source: NodeId, from: NodeId, id: GossipId },
}

impl Applying {
    const fn peer(&self) -> NodeId {
        match self {
            Self::Sync { peer, .. } | Self::Push { peer, .. } => *peer,
            Self::Gossip { from, .. } => *from,
        }
    }
}

/// What is to be done.
enum Output {
    Ask {
        peer: NodeId,
        protocol: Protocol,
        frame: Vec<u8>,
    },
    Apply {
        ops: Vec<Operation>,
        of: Applying,
    },
    Network(Order),
    /// Versions came that the node may want to fetch.
    Versions,
    /// How a peer takes part.
    Mode {
        peer: NodeId,
        mode: NodeMode,
    },
    Refused(Vec<(String, u64)>),
}

/// The machines.
struct Machines {
    discovery: Discovery,
    gate: GossipGate,
    responder: Responder,
    initiators: BTreeMap<NodeId, Initiator>,
    outputs: Vec<Output>,
    had_gossip: bool,
}

type Step = Result<(), StoreError>;

impl Machines {
    fn new(me: NodeId, configured: &[String]) -> Self {
        Self {
            discovery: Discovery::new(me, configured),
            gate: GossipGate::default(),
            responder: Responder::new(),
            initiators: BTreeMap::new(),
            outputs: Vec::new(),
            had_gossip: false,
        }
    }

    /// Takes everything in, in order, and says what is to be done.
    fn step(
        &mut self,
        inputs: Vec<Input>,
        (now, clock): (Instant, Timestamp),
        read: &dyn CatalogRead,
        me: &PeerInfo,
    ) -> Vec<Output> {
        for input in inputs {
            let done = self.take(input, (now, clock), read, me).and_then(|()| self.drain((now, clock), read));
            if let Err(error) = done {
                log::error!(error:% = error; "the catalog cannot be read for a peer");
            }
        }
        if std::mem::take(&mut self.had_gossip) {
            self.outputs.push(Output::Refused(self.gate.refused()));
        }
        std::mem::take(&mut self.outputs)
    }

    fn take(
        &mut self,
        input: Input,
        (now, clock): (Instant, Timestamp),
        read: &dyn CatalogRead,
        me: &PeerInfo,
    ) -> Step {
        match input {
            Input::Started | Input::Missed => self.discovery.handle_started(now, read),
            Input::Connected { peer, dialled } => {
                self.initiators.entry(peer).or_insert_with(|| Initiator::new(SyncConfig::default()));
                self.discovery.handle_connected(now, clock, read, peer, dialled.as_deref())
            }
            Input::Disconnected { peer } => {
                self.initiators.remove(&peer);
                self.discovery.handle_disconnected(now, clock, peer);
                Ok(())
            }
            Input::DialFailed { address } => {
                self.discovery.handle_dial_failed(now, &address);
                Ok(())
            }
            Input::Configured(addresses) => {
                self.discovery.handle_configured(now, &addresses);
                Ok(())
            }
            Input::Discovery { peer, request, answer } => {
                let req = request.req;
                let response = self.discovery.handle_request(now, read, peer, request, me);
                let response = response
                    .unwrap_or_else(|error| Envelope { req, body: DiscoveryResponse::Refused(internal(&error)) });
                // The peer may have left.
                let _ = answer.send(encode(&response));
                Ok(())
            }
            Input::Sync { peer, request, answer } => {
                let req = request.req;
                let discovery = &self.discovery;
                let status = |topic: &TopicId| discovery.topic_sync(topic);
                match self.responder.handle_request(now, read, peer, request, &status) {
                    Ok(SyncAnswer::Respond(response)) => drop(answer.send(encode(&response))),
                    Ok(SyncAnswer::Apply { req, ops, rejected }) => {
                        let ids = ops.iter().map(Operation::id).collect();
                        let of = Applying::Push { peer, req, ids, rejected, answer };
                        self.outputs.push(Output::Apply { ops, of });
                    }
                    Err(error) => {
                        let body = SyncResponse::Refused(internal(&error));
                        drop(answer.send(encode(&Envelope { req, body })));
                    }
                }
                Ok(())
            }
            Input::DiscoveryAnswer { peer, response } => {
                if let DiscoveryResponse::PeerInfo(info) = &response.body {
                    self.outputs.push(Output::Mode { peer, mode: info.mode });
                }
                self.discovery.handle_response(now, read, peer, response)
            }
            Input::SyncAnswer { peer, response } => match self.initiators.get_mut(&peer) {
                Some(initiator) => initiator.handle_response(now, read, response),
                None => Ok(()),
            },
            Input::Closed { peer, protocol: Protocol::Discovery } => {
                self.discovery.handle_closed(now, peer);
                Ok(())
            }
            Input::Closed { peer, .. } => {
                if let Some(initiator) = self.initiators.get_mut(&peer) {
                    initiator.handle_closed();
                }
                Ok(())
            }
            Input::Gossip { topic, bytes, source, from, id } => {
                self.had_gossip = true;
                match self.gate.handle_message(now, clock, read, source, (&topic, &bytes))? {
                    gossip::Verdict::Accept(Accepted::Ops { topic, ops }) => {
                        self.outputs.push(Output::Apply { ops, of: Applying::Gossip { topic, source, from, id } });
                    }
                    gossip::Verdict::Accept(Accepted::Heads { topic, unknown }) => {
                        if !unknown.is_empty() {
                            self.discovery.handle_heads(topic, &[from, source]);
                        }
                        self.report(id, Verdict::Accept);
                    }
                    gossip::Verdict::Reject(why) => {
                        log::debug!(author:% = source, from:% = from, why = why.word(); "gossip is rejected");
                        self.report(id, Verdict::Reject);
                    }
                    gossip::Verdict::Ignore(why) => {
                        log::debug!(author:% = source, from:% = from, why = why.word(); "gossip is ignored");
                        self.report(id, Verdict::Ignore);
                    }
                }
                Ok(())
            }
            Input::Applied { of, applied } => self.applied(of, applied, (now, clock), read),
            Input::News(applied) => {
                for (topic, bytes) in self.gate.tell(now, clock, &applied.new) {
                    self.outputs.push(Output::Network(Order::Publish { topic, bytes }));
                }
                self.new_ops(now, read, NewsFrom::Local, &applied)
            }
            Input::Timeout => self.timeout(now, read),
        }
    }

    fn report(&mut self, id: GossipId, verdict: Verdict) {
        self.outputs.push(Output::Network(Order::Report { id, verdict }));
    }

    fn new_ops(&mut self, now: Instant, read: &dyn CatalogRead, from: NewsFrom, applied: &Applied) -> Step {
        if !applied.versions.is_empty() {
            self.outputs.push(Output::Versions);
        }
        if applied.new.is_empty() { Ok(()) } else { self.discovery.handle_new_ops(now, read, from, &applied.new) }
    }

    fn applied(
        &mut self,
        of: Applying,
        applied: Option<Applied>,
        (now, _): (Instant, Timestamp),
        read: &dyn CatalogRead,
    ) -> Step {
        match (of, applied) {
            (Applying::Sync { peer, token }, Some(applied)) => {
                if let Some(initiator) = self.initiators.get_mut(&peer) {
                    initiator.handle_applied(now, read, token, &applied.outcomes)?;
                }
                self.new_ops(now, read, NewsFrom::Sync(peer), &applied)
            }
            (Applying::Sync { peer, token }, None) => {
                if let Some(initiator) = self.initiators.get_mut(&peer) {
                    initiator.handle_not_applied(token);
                }
                Ok(())
            }
            (Applying::Push { peer, req, ids, rejected, answer }, Some(applied)) => {
                // The peer may have left.
                let _ = answer.send(encode(&pushed(req, &ids, &applied.outcomes, rejected)));
                self.new_ops(now, read, NewsFrom::Sync(peer), &applied)
            }
            (Applying::Push { req, answer, .. }, None) => {
                let message = "the store takes no operations".to_owned();
                let body = SyncResponse::Refused(Refusal { code: RefusalCode::Internal, message });
                let _ = answer.send(encode(&Envelope { req, body }));
                Ok(())
            }
            (Applying::Gossip { topic, source, from, id }, Some(applied)) => {
                log::debug!(author:% = source, from:% = from, outcomes:? = applied.outcomes; "gossip is applied");
                self.had_gossip = true;
                let verdict = match self.gate.handle_applied(&applied.outcomes) {
                    Ok(()) => Verdict::Accept,
                    Err(_) => Verdict::Reject,
                };
                self.report(id, verdict);
                let waits =
                    |outcome: &OpOutcome| matches!(outcome, OpOutcome::Parked { missing } if !missing.is_empty());
                self.new_ops(now, read, NewsFrom::Gossip, &applied)?;
                if applied.outcomes.iter().any(waits) {
                    self.discovery.handle_heads(topic, &[from, source]);
                }
                Ok(())
            }
            (Applying::Gossip { id, .. }, None) => {
                self.report(id, Verdict::Ignore);
                Ok(())
            }
        }
    }

    /// Hands what the machines say to one another, and the rest out.
    fn drain(&mut self, (now, clock): (Instant, Timestamp), read: &dyn CatalogRead) -> Step {
        loop {
            let mut idle = true;
            while let Some(event) = self.discovery.poll_event() {
                idle = false;
                self.discovery_event(now, read, event)?;
            }
            let mut events: Vec<(NodeId, SyncEvent)> = Vec::new();
            for (peer, initiator) in &mut self.initiators {
                while let Some(request) = initiator.poll_transmit() {
                    let frame = encode(&request);
                    self.outputs.push(Output::Ask { peer: *peer, protocol: Protocol::Sync, frame });
                }
                events.extend(std::iter::from_fn(|| initiator.poll_event()).map(|event| (*peer, event)));
            }
            for (peer, event) in events {
                idle = false;
                self.discovery.handle_sync_event(now, clock, read, peer, &event)?;
                if let SyncEvent::Take { token, ops } = event {
                    self.outputs.push(Output::Apply { ops, of: Applying::Sync { peer, token } });
                }
            }
            while let Some((peer, request)) = self.discovery.poll_transmit() {
                let frame = encode(&request);
                self.outputs.push(Output::Ask { peer, protocol: Protocol::Discovery, frame });
            }
            if idle {
                return Ok(());
            }
        }
    }

    fn discovery_event(&mut self, now: Instant, read: &dyn CatalogRead, event: DiscoveryEvent) -> Step {
        let order = match event {
            DiscoveryEvent::Sync { peer, topic, parent } => {
                return match self.initiators.get_mut(&peer) {
                    Some(initiator) => initiator.handle_want(now, read, topic, parent),
                    None => Ok(()),
                };
            }
            DiscoveryEvent::Subscribe(topic) => Order::Subscribe(topic),
            DiscoveryEvent::Unsubscribe(topic) => Order::Unsubscribe(topic),
            DiscoveryEvent::Dial { address } => Order::Dial { address },
            DiscoveryEvent::Misbehaved { peer, reason } => {
                log::warn!(peer:% = peer, why = reason.as_str(); "a peer misbehaves");
                Order::Ban { node: peer, duration: BAN_DURATION }
            }
        };
        self.outputs.push(Output::Network(order));
        Ok(())
    }

    fn timeout(&mut self, now: Instant, read: &dyn CatalogRead) -> Step {
        if self.discovery.poll_timeout().is_some_and(|(at, _)| at <= now) {
            self.discovery.handle_timeout(now, read)?;
        }
        for initiator in self.initiators.values_mut() {
            if initiator.poll_timeout().is_some_and(|(at, _)| at <= now) {
                initiator.handle_timeout(now, read)?;
            }
        }
        Ok(())
    }

    fn next_timeout(&self) -> Option<(Instant, &'static str)> {
        let initiators = self.initiators.values().filter_map(Initiator::poll_timeout);
        initiators.chain(self.discovery.poll_timeout()).min()
    }
}

fn internal(error: &StoreError) -> Refusal {
    log::error!(error:% = error; "the catalog cannot be read for a peer");
    Refusal { code: RefusalCode::Internal, message: "the catalog cannot be read".to_owned() }
}

enum Link {
    /// Being opened, with what waits for it.
    Opening(Vec<Vec<u8>>),
    Open {
        number: u64,
        requests: Sender<Vec<u8>>,
        _tasks: [Task<Option<()>>; 2],
    },
}

struct Driver {
    ctx: Rc<Context>,
    links: BTreeMap<(NodeId, Protocol), Link>,
    n_links: u64,
    opened: (Sender<Opened>, async_channel::Receiver<Opened>),
}

enum Opened {
    Stream { to: (NodeId, Protocol), stream: Option<FrameStream> },
    Ended { to: (NodeId, Protocol), number: u64 },
}

/// Runs until the task is dropped.
pub(crate) async fn run(ctx: Rc<Context>) {
    let configured = || -> Vec<String> { ctx.config().peers.iter().map(ToString::to_string).collect() };
    let mut machines = Machines::new(ctx.id, &configured());
    // Each link has at most one message on its way.
    let opened = async_channel::unbounded();
    let mut driver = Driver { ctx: ctx.clone(), links: BTreeMap::new(), n_links: 0, opened };
    let news = ctx.store.news();
    let mut inputs = vec![Input::Started];
    loop {
        let time = (ctx.clock.now(), ctx.clock.timestamp());
        let me = driver.me();
        let (room_dir, allowed) = (ctx.data_dir.clone(), ctx.allowed());
        let stepped = ctx
            .store
            .blocking("catalog machines", move |stores| {
                let free_bytes = Disk::look(stores, &room_dir).map_or(0, |disk| disk.room(&allowed));
                let me = PeerInfo { free_bytes, ..me };
                let read = stores.catalog().begin_read()?;
                let outputs = machines.step(inputs, time, read.as_ref(), &me);
                Ok::<_, StoreError>((machines, outputs))
            })
            .await;
        let outputs = match stepped {
            Ok((again, outputs)) => {
                machines = again;
                outputs
            }
            Err(error) => {
                log::error!(error:% = error; "synchronisation of the catalog begins anew");
                machines = Machines::new(ctx.id, &configured());
                driver.links.clear();
                inputs = vec![Input::Started];
                let connected: Vec<NodeId> = ctx.network.view.borrow().connected().collect();
                inputs.extend(connected.into_iter().map(|peer| Input::Connected { peer, dialled: None }));
                // So that a damaged catalog does not keep a processor busy.
                async_io::Timer::after(bib_core::limits::SYNC_PAUSE).await;
                continue;
            }
        };
        for output in outputs {
            driver.perform(output).await;
        }
        inputs = driver.next_inputs(&news, machines.next_timeout()).await;
    }
}

impl Driver {
    fn me(&self) -> PeerInfo {
        let addresses = self.ctx.network.view.borrow().addresses.iter().take(64).map(ToString::to_string).collect();
        PeerInfo {
            node: self.ctx.id,
            addresses,
            mode: self.ctx.config().mode,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocols: Protocol::ALL.map(|protocol| protocol.name().to_owned()).to_vec(),
            free_bytes: 0,
            catalog: [0; 16],
        }
    }

    async fn next_inputs(
        &mut self,
        news: &async_channel::Receiver<Arc<Applied>>,
        timeout: Option<(Instant, &'static str)>,
    ) -> Vec<Input> {
        let ctx = self.ctx.clone();
        let opened = self.opened.1.clone();
        loop {
            use futures::FutureExt;
            futures::select_biased! {
                opened = opened.recv().fuse() => {
                    // This side keeps the other end.
                    if let Some(input) = opened.ok().and_then(|opened| self.link_changed(opened)) {
                        return vec![input];
                    }
                }
                applied = news.recv().fuse() => {
                    let mut inputs = Vec::new();
                    if ctx.store.missed_news() {
                        inputs.push(Input::Missed);
                    }
                    inputs.extend(applied.ok().map(Input::News));
                    return inputs;
                }
                inputs = ctx.mailbox.take().fuse() => return inputs,
                () = ctx.clock.sleep_until(timeout.map(|(at, _)| at)).fuse() => {
                    log::trace!(why = timeout.map_or("nothing", |(_, why)| why); "woken");
                    return vec![Input::Timeout];
                }
            }
        }
    }

    async fn perform(&mut self, output: Output) {
        match output {
            Output::Ask { peer, protocol, frame } => self.ask((peer, protocol), frame),
            Output::Apply { ops, of } => {
                let ctx = self.ctx.clone();
                let task = async move {
                    let command = Command::Apply { ops, origin: Origin::Peer(of.peer()) };
                    // The last of the disk is for what users of this node do.
                    let applied = if space::takes_operations(&ctx).await {
                        let applied = ctx.store.apply(command).await;
                        let applied = applied.inspect_err(|error| {
                            log::error!(error:% = error; "operations of a peer could not be stored");
                        });
                        applied.ok()
                    } else {
                        None
                    };
                    ctx.mailbox.push(Input::Applied { of, applied });
                };
                self.ctx.spawner.spawn("apply for a peer", task).detach();
            }
            Output::Network(order) => self.ctx.network.tell(order).await,
            Output::Versions => self.ctx.replicate.notify(),
            Output::Mode { peer, mode } => self.ctx.network.view.borrow_mut().peer(peer).mode = Some(mode),
            Output::Refused(refused) => self.ctx.network.view.borrow_mut().gossip_refused = refused,
        }
    }

    fn ask(&mut self, to: (NodeId, Protocol), frame: Vec<u8>) {
        match self.links.get_mut(&to) {
            Some(Link::Opening(waiting)) => waiting.push(frame),
            Some(Link::Open { number, requests, .. }) => {
                // The machines have fewer requests in flight than there is room.
                if requests.try_send(frame).is_err() {
                    let ended = Opened::Ended { to, number: *number };
                    let _ = self.opened.0.try_send(ended);
                }
            }
            None => {
                self.links.insert(to, Link::Opening(vec![frame]));
                let (network, opened) = (self.ctx.network.clone(), self.opened.0.clone());
                let task = async move {
                    let stream = network.open(to.0, to.1).await;
                    if let Ok(Err(error)) = &stream {
                        log::debug!(peer:% = to.0, protocol = to.1.name(), why:% = error; "no stream to a peer");
                    }
                    let _ = opened.try_send(Opened::Stream { to, stream: stream.ok().and_then(Result::ok) });
                };
                self.ctx.spawner.spawn("open stream", task).detach();
            }
        }
    }

    /// What the machines have to know of a stream that opened, did not, or ended.
    fn link_changed(&mut self, opened: Opened) -> Option<Input> {
        match opened {
            Opened::Stream { to, stream } => match (self.links.remove(&to), stream) {
                (Some(Link::Opening(waiting)), Some(stream)) => {
                    self.open(to, stream, waiting);
                    None
                }
                (Some(Link::Opening(_)), None) => Some(Input::Closed { peer: to.0, protocol: to.1 }),
                (link, _) => {
                    self.links.extend(link.map(|link| (to, link)));
                    None
                }
            },
            Opened::Ended { to, number } => match self.links.get(&to) {
                Some(Link::Open { number: current, .. }) if *current == number => {
                    self.links.remove(&to);
                    Some(Input::Closed { peer: to.0, protocol: to.1 })
                }
                _ => None,
            },
        }
    }

    fn open(&mut self, to: (NodeId, Protocol), stream: FrameStream, waiting: Vec<Vec<u8>>) {
        self.n_links += 1;
        let number = self.n_links;
        let (reader, mut writer) = stream.split();
        let mut reader = reader.with_max(MAX_CATALOG_FRAME);
        let (requests, outgoing) = async_channel::bounded::<Vec<u8>>(REQUESTS);
        let (ctx, opened) = (self.ctx.clone(), self.opened.0.clone());
        let reading = self.ctx.spawner.spawn("answers", async move {
            let (peer, protocol) = to;
            loop {
                let read = async {
                    let Some(len) = reader.header().await? else { return Ok(None) };
                    reader.payload(len, &ctx.peer_credits, || Timer::after(FRAME_DEADLINE)).await.map(Some)
                };
                let read: Result<_, FrameError> = read.await;
                // Its memory is lent until the mailbox counts it.
                let (frame, _permit) = match read {
                    Ok(Some(lent)) => lent,
                    Ok(None) => break,
                    Err(error) => {
                        log::debug!(peer:% = peer, why:% = error; "a stream to a peer broke");
                        break;
                    }
                };
                let input = match protocol {
                    Protocol::Discovery => decode(&frame).map(|response| Input::DiscoveryAnswer { peer, response }),
                    _ => decode(&frame).map(|response| Input::SyncAnswer { peer, response }),
                };
                match input {
                    Ok(input) => ctx.mailbox.post(input).await,
                    Err(error) => {
                        log::warn!(peer:% = peer, why:% = error; "a peer sent what is no answer; its stream is closed");
                        break;
                    }
                }
            }
            let _ = opened.try_send(Opened::Ended { to, number });
        });
        let writing = self.ctx.spawner.spawn("requests", async move {
            while let Ok(frame) = outgoing.recv().await {
                if writer.write(&frame).await.is_err() {
                    // The reader hears of it.
                    return;
                }
            }
            let _ = writer.close().await;
        });
        for frame in waiting {
            let _ = requests.try_send(frame);
        }
        self.links.insert(to, Link::Open { number, requests, _tasks: [reading, writing] });
    }
}

/// Answers the requests of a peer on one of its streams, one after the other.
pub(crate) async fn answer(ctx: Rc<Context>, peer: NodeId, protocol: Protocol, stream: FrameStream) {
    let (reader, mut writer) = stream.split();
    let most = if protocol == Protocol::Discovery { MAX_DISCOVERY_REQUEST_LEN } else { MAX_SYNC_REQUEST_LEN };
    let mut reader = reader.with_max(most);
    loop {
        let read = match within(STREAM_IDLE, reader.header()).await {
            Some(Ok(Some(len))) => reader.payload(len, &ctx.peer_credits, || Timer::after(FRAME_DEADLINE)).await,
            Some(Ok(None)) | None => break,
            Some(Err(error)) => Err(error),
        };
        let (frame, permit) = match read {
            Ok(lent) => lent,
            Err(error) => {
                log::debug!(peer:% = peer, why:% = error; "a stream of a peer broke");
                return;
            }
        };
        let (answer, answered) = oneshot::channel();
        let input = match protocol {
            Protocol::Discovery => decode(&frame).map(|request| Input::Discovery { peer, request, answer }),
            _ => decode(&frame).map(|request| Input::Sync { peer, request, answer }),
        };
        match input {
            Ok(input) => ctx.mailbox.post(input).await,
            Err(error) => {
                log::warn!(peer:% = peer, why:% = error; "a peer sent what is no request; its stream is closed");
                return;
            }
        }
        // The mailbox has counted it.
        drop(permit);
        let Ok(frame) = answered.await else { return };
        match within(STREAM_IDLE, writer.write(&frame)).await {
            Some(Ok(())) => {}
            _ => return,
        }
    }
    // The peer may be gone.
    let _ = within(STREAM_IDLE, writer.close()).await;
}
