//! One node of a world: what survives a crash (catalog, flushed chunks) and what does not (everything else), and the
//! glue that a real node's event loop is: inputs go into a machine, outputs are drained until all are quiet.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bib_core::api::event::OpContext;
use bib_core::api::request::ContextFor;
use bib_core::apply::Reducer;
use bib_core::catalog::context::op_context;
use bib_core::catalog::{content, list, record, resolve};
use bib_core::chunk::Chunk;
use bib_core::command::{Applied, Command, Origin};
use bib_core::encode::{Versioned, decode, encode};
use bib_core::hash::hash;
use bib_core::id::{ManifestId, NodeId, OpId, TopicId, VersionId};
use bib_core::key::SecretKey;
use bib_core::machine::discovery::{Discovery, DiscoveryEvent, NewsFrom};
use bib_core::machine::gossip::{Accepted, GossipGate, Verdict};
use bib_core::machine::sync::{Initiator, Responder, SyncAnswer, SyncConfig, SyncEvent, SyncToken, pushed};
use bib_core::machine::transfer::fetch::Fetch;
use bib_core::machine::transfer::outcome::{self, FetchConfig, PutError, StoreRequest, Wanted};
use bib_core::machine::transfer::serve::{self, Access, Serve, ServeConfig};
use bib_core::machine::transfer::{StoreFailed, have};
use bib_core::op::Operation;
use bib_core::port::{Catalog, ChunkStore};
use bib_core::time::{Instant, Timestamp};
use bib_core::wire::message::{NodeMode, PeerInfo};

use super::stores::Stores;
use super::wires::{Frame, Happening, Message, Wires};
use super::{DAWN, Notes};

/// Access operations that the reducers keep: few, so that what they forget has to be read again.
const CACHED_BYTES: usize = 200 << 10;
/// How long a node without a fetch waits before it looks again for content that is missing.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// How often what waits for its time is looked at.
const EXPIRE: Duration = Duration::from_secs(60);

pub(super) fn node_id(at: usize) -> NodeId {
    SecretKey::from_seed([100 + at as u8; 32]).node_id()
}

fn address(at: usize) -> String {
    format!("/sim/{at}/p2p/{}", node_id(at))
}

/// What a command was for.
#[derive(Debug)]
enum After {
    User,
    Gossip { topic: String, about: TopicId, author: NodeId, from: usize, bytes: Vec<u8> },
    Sync { peer: usize, token: SyncToken },
    Push { peer: usize, connection: u64, req: u64, ids: Vec<OpId>, rejected: Vec<(OpId, String)> },
    Content,
}

/// A connection.
#[derive(Debug)]
struct Peer {
    number: u64,
    initiator: Initiator,
}

/// A fetch under way.
#[derive(Debug)]
struct Fetching {
    number: u64,
    manifest: ManifestId,
    fetch: Fetch,
}

/// What a crash takes.
#[derive(Debug)]
struct Running {
    reducer: Reducer,
    queue: VecDeque<(Command, After)>,
    discovery: Discovery,
    gate: GossipGate,
    responder: Responder,
    peers: BTreeMap<usize, Peer>,
    subscribed: BTreeSet<String>,
    /// Gossip that the mesh has brought before.
    heard: BTreeSet<[u8; 32]>,
    fetching: Option<Fetching>,
    next_fetch: u64,
    look_after: Option<VersionId>,
    look_at: Instant,
    expire_at: Instant,
    /// Streams of peers that fetch here, by peer and the number of its fetch.
    serving: BTreeMap<(usize, u64), Serve>,
}

/// See the module.
pub(super) struct SimNode {
    at: usize,
    dials: Vec<String>,
    /// How far its clock is off, in microseconds.
    skew: i64,
    pub(super) stores: Stores,
    boot: u64,
    running: Option<Running>,
}

fn store<T>(result: Result<T, bib_core::port::StoreError>) -> T {
    result.expect("the stores can be read and written")
}

impl SimNode {
    pub(super) fn new(at: usize, dials: Vec<usize>, skew: i64, on_disk: bool) -> Self {
        Self {
            at,
            dials: dials.into_iter().map(address).collect(),
            skew,
            stores: Stores::new(on_disk),
            boot: 0,
            running: None,
        }
    }

    pub(super) const fn is_up(&self) -> bool {
        self.running.is_some()
    }

    pub(super) const fn is_boot(&self, boot: u64) -> bool {
        self.running.is_some() && self.boot == boot
    }

    pub(super) const fn clock(&self, now: Instant) -> Timestamp {
        Timestamp(DAWN.0 + now.0 as i64 + self.skew)
    }

    /// Nothing is under way but what a clock begins.
    pub(super) fn is_quiet(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.queue.is_empty() && running.fetching.is_none())
    }

    /// Active versions whose content is not here.
    pub(super) fn n_missing(&self) -> usize {
        let read = store(self.stores.catalog().begin_read());
        store(list::versions_missing(&*read, None, usize::MAX)).versions.len()
    }

    pub(super) fn gossip_refused(&self) -> Vec<(String, u64)> {
        self.running.as_ref().map(|running| running.gate.refused()).unwrap_or_default()
    }

    pub(super) fn start(&mut self, now: Instant, wires: &mut Wires, notes: &mut Notes) {
        self.boot += 1;
        self.running = Some(Running {
            reducer: Reducer::new(CACHED_BYTES),
            queue: VecDeque::new(),
            discovery: Discovery::new(node_id(self.at), &self.dials),
            gate: GossipGate::default(),
            responder: Responder::new(),
            peers: BTreeMap::new(),
            subscribed: BTreeSet::new(),
            heard: BTreeSet::new(),
            fetching: None,
            next_fetch: 1,
            look_after: None,
            look_at: now,
            expire_at: now + EXPIRE,
            serving: BTreeMap::new(),
        });
        self.with(now, wires, notes, |it| {
            let read = store(it.catalog.begin_read());
            store(it.run.discovery.handle_started(it.now, &*read));
        });
    }

    pub(super) fn crash(&mut self, seed: u64) {
        self.running = None;
        self.stores.crash(seed);
    }

    /// Gives an input to the machines and drains what they put out.
    fn with(&mut self, now: Instant, wires: &mut Wires, notes: &mut Notes, input: impl FnOnce(&mut Turn<'_>)) {
        let clock = self.clock(now);
        let Some(run) = &mut self.running else { return };
        let (at, boot, catalog, chunks) = (self.at, self.boot, self.stores.catalog(), self.stores.chunks());
        let mut turn = Turn { at, boot, now, clock, catalog, chunks, run, wires, notes };
        input(&mut turn);
        turn.drain();
    }

    /// When a machine wants to be woken, and why.
    pub(super) fn next_at(&self) -> Option<(Instant, &'static str)> {
        let running = self.running.as_ref()?;
        let peers = running.peers.values().filter_map(|peer| peer.initiator.poll_timeout());
        let serving = running.serving.values().filter_map(Serve::poll_timeout);
        let fetch = running.fetching.as_ref().and_then(|fetching| fetching.fetch.poll_timeout());
        let look = running.fetching.is_none().then_some((running.look_at, "content that is missing"));
        let own = look.into_iter().chain([(running.expire_at, "what waits for its time")]);
        let timers = peers.chain(serving).chain(running.discovery.poll_timeout()).chain(fetch).chain(own);
        timers.min()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, wires: &mut Wires, notes: &mut Notes) {
        self.with(now, wires, notes, |it| {
            let read = store(it.catalog.begin_read());
            let is_due = |timer: Option<(Instant, &'static str)>| timer.is_some_and(|(at, _)| at <= now);
            if is_due(it.run.discovery.poll_timeout()) {
                store(it.run.discovery.handle_timeout(now, &*read));
            }
            for peer in it.run.peers.values_mut() {
                if is_due(peer.initiator.poll_timeout()) {
                    store(peer.initiator.handle_timeout(now, &*read));
                }
            }
            for serve in it.run.serving.values_mut() {
                if is_due(serve.poll_timeout()) {
                    serve.handle_timeout(now);
                }
            }
            if it.run.expire_at <= now {
                it.run.expire_at = now + EXPIRE;
                it.queue(Command::Expire { min_age: bib_core::limits::RELEASED_FOR }, After::Content);
            }
            if let Some(fetching) = &mut it.run.fetching
                && is_due(fetching.fetch.poll_timeout())
            {
                fetching.fetch.handle_timeout(now);
            }
        });
    }

    pub(super) fn connected(
        &mut self,
        now: Instant,
        (peer, number): (usize, u64),
        dialled: Option<&str>,
        wires: &mut Wires,
        notes: &mut Notes,
    ) {
        self.with(now, wires, notes, |it| {
            if it.run.peers.get(&peer).is_some_and(|known| known.number != number) {
                it.lost(peer);
            }
            let initiator = Initiator::new(SyncConfig::default());
            it.run.peers.entry(peer).or_insert(Peer { number, initiator });
            let read = store(it.catalog.begin_read());
            store(it.run.discovery.handle_connected(now, it.clock, &*read, node_id(peer), dialled));
            if let Some(fetching) = &mut it.run.fetching {
                fetching.fetch.handle_provider_added(now, node_id(peer), 0);
            }
            it.run.look_at = it.run.look_at.min(now);
        });
    }

    pub(super) fn lost(&mut self, now: Instant, (peer, number): (usize, u64), wires: &mut Wires, notes: &mut Notes) {
        self.with(now, wires, notes, |it| {
            if it.run.peers.get(&peer).is_some_and(|known| known.number == number) {
                it.lost(peer);
            }
        });
    }

    pub(super) fn dial_failed(&mut self, now: Instant, address: &str, wires: &mut Wires, notes: &mut Notes) {
        self.with(now, wires, notes, |it| it.run.discovery.handle_dial_failed(now, address));
    }

    /// Takes what a user of this node did.
    pub(super) fn submit(&mut self, now: Instant, ops: Vec<Operation>, wires: &mut Wires) {
        self.queue(now, Command::Apply { ops, origin: Origin::User }, After::User, wires);
    }

    /// Keeps content for the operation that comes next.
    pub(super) fn stage(&mut self, now: Instant, manifest: ManifestId, wires: &mut Wires) {
        self.queue(now, Command::Stage(manifest), After::Content, wires);
    }

    fn queue(&mut self, now: Instant, command: Command, after: After, wires: &mut Wires) {
        if let Some(run) = &mut self.running {
            queue(run, (self.at, self.boot), now, command, after, wires);
        }
    }

    /// What a new operation has to follow; `None` when the node does not know.
    pub(super) fn context(&mut self, wanted: ContextFor) -> Option<OpContext> {
        let access = self.running.as_mut()?.reducer.access();
        op_context(&*store(self.stores.catalog().begin_read()), access, wanted).ok()
    }

    /// Writes what was queued, as the store thread does: together, then each is told.
    pub(super) fn commit(&mut self, now: Instant, wires: &mut Wires, notes: &mut Notes) {
        self.with(now, wires, notes, |it| {
            let commands: Vec<(Command, After)> = it.run.queue.drain(..).collect();
            let mut done = Vec::new();
            store(it.catalog.write(&mut |txn| {
                for (command, _) in &commands {
                    done.push(it.run.reducer.apply(txn, command, it.clock)?);
                }
                Ok(())
            }));
            for ((_, after), applied) in commands.into_iter().zip(done) {
                it.applied(after, &applied);
            }
        });
    }

    pub(super) fn flushed(&mut self, now: Instant, (fetch, token): (u64, u64), wires: &mut Wires, notes: &mut Notes) {
        self.with(now, wires, notes, |it| {
            let flushed = it.chunks.flush().map_err(|_| StoreFailed);
            if let Some(fetching) = it.run.fetching.as_mut().filter(|fetching| fetching.number == fetch) {
                fetching.fetch.handle_flushed(now, token, flushed);
            }
        });
    }

    pub(super) fn receive(
        &mut self,
        now: Instant,
        from: usize,
        message: Message,
        wires: &mut Wires,
        notes: &mut Notes,
    ) {
        self.with(now, wires, notes, |it| match message {
            Message::Frame { connection, frame } => {
                if it.run.peers.get(&from).is_some_and(|peer| peer.number == connection) {
                    it.frame(from, frame);
                }
            }
            Message::Gossip { topic, author, bytes } => it.gossip(from, topic, author, bytes),
        });
    }
}

fn queue(
    run: &mut Running,
    (node, boot): (usize, u64),
    now: Instant,
    command: Command,
    after: After,
    wires: &mut Wires,
) {
    if run.queue.is_empty() {
        let at = wires.soon(now, 2, 30);
        wires.later(at, Happening::Commit { node, boot });
    }
    run.queue.push_back((command, after));
}

fn open<T: Versioned>(bytes: &[u8]) -> T {
    decode(bytes).expect("an honest node sends what decodes")
}

/// One input of a node and what follows from it.
struct Turn<'a> {
    at: usize,
    boot: u64,
    now: Instant,
    clock: Timestamp,
    catalog: &'a dyn Catalog,
    chunks: &'a dyn ChunkStore,
    run: &'a mut Running,
    wires: &'a mut Wires,
    notes: &'a mut Notes,
}

impl Turn<'_> {
    fn queue(&mut self, command: Command, after: After) {
        queue(self.run, (self.at, self.boot), self.now, command, after, self.wires);
    }

    fn send(&mut self, to: usize, frame: Frame) {
        if let Some(peer) = self.run.peers.get(&to) {
            self.wires.send(self.now, (self.at, to, peer.number), frame);
        }
    }

    fn peer_of(&self, node: NodeId) -> Option<usize> {
        self.run.peers.keys().copied().find(|at| node_id(*at) == node)
    }

    fn lost(&mut self, peer: usize) {
        self.run.peers.remove(&peer);
        self.run.discovery.handle_disconnected(self.now, self.clock, node_id(peer));
        self.run.serving.retain(|(at, _), _| *at != peer);
        if let Some(fetching) = &mut self.run.fetching {
            fetching.fetch.handle_provider_lost(self.now, &node_id(peer));
        }
    }

    fn frame(&mut self, from: usize, frame: Frame) {
        let (now, peer) = (self.now, node_id(from));
        let read = store(self.catalog.begin_read());
        match frame {
            Frame::DiscoveryRequest(bytes) => {
                let me = PeerInfo {
                    node: node_id(self.at),
                    addresses: vec![address(self.at)],
                    mode: NodeMode::Full,
                    version: "sim".to_owned(),
                    protocols: Vec::new(),
                    free_bytes: 0,
                    catalog: [0; 16],
                };
                let response = store(self.run.discovery.handle_request(now, &*read, peer, open(&bytes), &me));
                self.send(from, Frame::DiscoveryResponse(encode(&response)));
            }
            Frame::DiscoveryResponse(bytes) => {
                store(self.run.discovery.handle_response(now, &*read, peer, open(&bytes)));
            }
            Frame::SyncRequest(bytes) => {
                let discovery = &self.run.discovery;
                let status = |topic: &TopicId| discovery.topic_sync(topic);
                match store(self.run.responder.handle_request(now, &*read, peer, open(&bytes), &status)) {
                    SyncAnswer::Respond(response) => self.send(from, Frame::SyncResponse(encode(&response))),
                    SyncAnswer::Apply { req, ops, rejected } => {
                        if !rejected.is_empty() {
                            self.notes.broken(format!("node {from} pushed forged operations"));
                        }
                        let connection = self.run.peers.get(&from).map_or(0, |peer| peer.number);
                        let ids = ops.iter().map(Operation::id).collect();
                        let after = After::Push { peer: from, connection, req, ids, rejected };
                        self.queue(Command::Apply { ops, origin: Origin::Peer(peer) }, after);
                    }
                }
            }
            Frame::SyncResponse(bytes) => {
                if let Some(peer) = self.run.peers.get_mut(&from) {
                    store(peer.initiator.handle_response(now, &*read, open(&bytes)));
                }
            }
            Frame::DataRequest(number, bytes) => {
                let serving = &mut self.run.serving;
                let serve = serving.entry((from, number)).or_insert_with(|| Serve::new(now, ServeConfig::default()));
                serve.handle_request(now, open(&bytes));
            }
            Frame::DataResponse(number, bytes) => {
                if let Some(fetching) = self.run.fetching.as_mut().filter(|fetching| fetching.number == number) {
                    fetching.fetch.handle_response(now, &peer, open(&bytes));
                }
            }
            Frame::DataClosed(number) => drop(self.run.serving.remove(&(from, number))),
            Frame::DataRefused(number) => {
                if let Some(fetching) = self.run.fetching.as_mut().filter(|fetching| fetching.number == number) {
                    fetching.fetch.handle_provider_lost(now, &peer);
                    fetching.fetch.handle_provider_added(now, peer, 0);
                }
            }
        }
    }

    fn gossip(&mut self, from: usize, topic: String, author: NodeId, bytes: Vec<u8>) {
        if !self.run.subscribed.contains(&topic) || author == node_id(self.at) || !self.run.heard.insert(hash(&bytes)) {
            return;
        }
        let read = store(self.catalog.begin_read());
        let (now, clock) = (self.now, self.clock);
        match store(self.run.gate.handle_message(now, clock, &*read, author, (&topic, &bytes))) {
            Verdict::Accept(Accepted::Ops { topic: about, ops }) => {
                let origin = Origin::Peer(author);
                self.queue(Command::Apply { ops, origin }, After::Gossip { topic, about, author, from, bytes });
            }
            Verdict::Accept(Accepted::Heads { topic: about, unknown }) => {
                if !unknown.is_empty() {
                    self.run.discovery.handle_heads(about, &[author, node_id(from)]);
                }
                self.spread(&topic, author, &bytes, Some(from));
            }
            Verdict::Reject(refusal) => self.notes.broken(format!("node {from} passed on {refusal:?} gossip")),
            Verdict::Ignore(_) => {}
        }
    }

    fn spread(&mut self, topic: &str, author: NodeId, bytes: &[u8], not_to: Option<usize>) {
        self.run.heard.insert(hash(bytes));
        for peer in self.run.peers.keys().filter(|peer| Some(**peer) != not_to) {
            self.wires.gossip(self.now, self.at, *peer, topic, author, bytes);
        }
    }

    fn applied(&mut self, after: After, applied: &Applied) {
        let (now, clock) = (self.now, self.clock);
        let read = store(self.catalog.begin_read());
        for op in &applied.new {
            self.notes.committed(now, op.id());
        }
        if !applied.versions.is_empty() {
            self.run.look_at = self.run.look_at.min(now);
        }
        let from = match &after {
            After::Sync { peer, .. } | After::Push { peer, .. } => NewsFrom::Sync(node_id(*peer)),
            After::Gossip { .. } => NewsFrom::Gossip,
            After::User | After::Content => NewsFrom::Local,
        };
        store(self.run.discovery.handle_new_ops(now, &*read, from, &applied.new));
        match after {
            After::User => {
                self.notes.acknowledged.extend(applied.new.iter().map(Operation::id));
                for (topic, bytes) in self.run.gate.tell(now, clock, &applied.new) {
                    self.spread(&topic, node_id(self.at), &bytes, None);
                }
            }
            After::Content => {}
            After::Gossip { topic, about, author, from, bytes } => {
                match self.run.gate.handle_applied(&applied.outcomes) {
                    Ok(()) => self.spread(&topic, author, &bytes, Some(from)),
                    Err(refusal) => self.notes.broken(format!("{refusal:?} gossip: {:?}", applied.outcomes)),
                }
                let is_parked = |outcome: &bib_core::command::OpOutcome| matches!(outcome, bib_core::command::OpOutcome::Parked { missing } if !missing.is_empty());
                if applied.outcomes.iter().any(is_parked) {
                    self.run.discovery.handle_heads(about, &[author, node_id(from)]);
                }
            }
            After::Sync { peer, token } => {
                if let Some(peer) = self.run.peers.get_mut(&peer) {
                    store(peer.initiator.handle_applied(now, &*read, token, &applied.outcomes));
                }
            }
            After::Push { peer, connection, req, ids, rejected } => {
                if self.run.peers.get(&peer).is_some_and(|known| known.number == connection) {
                    let response = pushed(req, &ids, &applied.outcomes, rejected);
                    self.send(peer, Frame::SyncResponse(encode(&response)));
                }
            }
        }
    }

    /// Carries out what the machines put out, until they are all quiet.
    fn drain(&mut self) {
        while self.drain_discovery() | self.drain_sync() | self.drain_fetch() | self.drain_serving() {}
    }

    fn drain_discovery(&mut self) -> bool {
        let mut moved = false;
        while let Some((to, request)) = self.run.discovery.poll_transmit() {
            moved = true;
            if let Some(to) = self.peer_of(to) {
                self.send(to, Frame::DiscoveryRequest(encode(&request)));
            }
        }
        while let Some(event) = self.run.discovery.poll_event() {
            moved = true;
            match event {
                DiscoveryEvent::Sync { peer, topic, parent } => {
                    let read = store(self.catalog.begin_read());
                    let at = self.peer_of(peer);
                    if let Some(peer) = at.and_then(|at| self.run.peers.get_mut(&at)) {
                        store(peer.initiator.handle_want(self.now, &*read, topic, parent));
                    }
                }
                DiscoveryEvent::Subscribe(topic) => drop(self.run.subscribed.insert(topic)),
                DiscoveryEvent::Unsubscribe(topic) => drop(self.run.subscribed.remove(&topic)),
                DiscoveryEvent::Dial { address } => {
                    let to = address.split('/').nth(2).and_then(|at| at.parse().ok()).expect("an address of a world");
                    let (from, boot, at) = (self.at, self.boot, self.wires.soon(self.now, 1, 100));
                    self.wires.later(at, Happening::Dialled { from, boot, to, address });
                }
                DiscoveryEvent::Misbehaved { peer, reason } => {
                    self.notes.broken(format!("node {} says of {}: {reason}", self.at, peer.short()));
                }
            }
        }
        moved
    }

    fn drain_sync(&mut self) -> bool {
        let mut moved = false;
        for at in self.run.peers.keys().copied().collect::<Vec<usize>>() {
            while let Some(request) = self.run.peers.get_mut(&at).and_then(|peer| peer.initiator.poll_transmit()) {
                moved = true;
                self.send(at, Frame::SyncRequest(encode(&request)));
            }
            while let Some(event) = self.run.peers.get_mut(&at).and_then(|peer| peer.initiator.poll_event()) {
                moved = true;
                if let SyncEvent::Take { token, ops } = event {
                    let origin = Origin::Peer(node_id(at));
                    self.queue(Command::Apply { ops, origin }, After::Sync { peer: at, token });
                    continue;
                }
                if let SyncEvent::Done { refused: 1.., topic, .. } = &event {
                    self.notes.broken(format!("operations of {topic} at node {at} are refused at {}", self.at));
                }
                let read = store(self.catalog.begin_read());
                let (now, clock) = (self.now, self.clock);
                store(self.run.discovery.handle_sync_event(now, clock, &*read, node_id(at), &event));
            }
        }
        moved
    }

    // Content.

    fn look_for_content(&mut self) {
        let read = store(self.catalog.begin_read());
        let missing = store(list::versions_missing(&*read, self.run.look_after.as_ref(), 1));
        let next = missing.versions.into_iter().next();
        self.run.look_after = next.as_ref().map(|version| version.id);
        let Some(version) = next else { return };
        let config = FetchConfig { chunks_per_provider: 2, ..FetchConfig::default() };
        let mut fetch = Fetch::new(self.now, version.id, version.manifest, Wanted::All, config);
        for peer in self.run.peers.keys() {
            fetch.handle_provider_added(self.now, node_id(*peer), 0);
        }
        let number = self.run.next_fetch;
        self.run.next_fetch += 1;
        self.run.fetching = Some(Fetching { number, manifest: version.manifest, fetch });
    }

    fn drain_fetch(&mut self) -> bool {
        if self.run.fetching.is_none() && self.run.look_at <= self.now {
            self.run.look_at = self.now + LOOK_AGAIN;
            self.look_for_content();
        }
        let Some(mut fetching) = self.run.fetching.take() else { return false };
        let (mut moved, mut ended, number) = (false, false, fetching.number);
        while let Some(transmit) = fetching.fetch.poll_transmit() {
            moved = true;
            if let Some(to) = self.peer_of(transmit.to) {
                self.send(to, Frame::DataRequest(number, encode(&transmit.message)));
            }
        }
        while let Some(request) = fetching.fetch.poll_store() {
            moved = true;
            self.store_for_fetch(&mut fetching, request);
        }
        while let Some(event) = fetching.fetch.poll_event() {
            moved = true;
            match event {
                outcome::Event::Done(_) => {
                    ended = true;
                    self.notes.n_fetches += 1;
                    self.run.look_at = self.now;
                    self.queue(Command::ContentHere(fetching.manifest), After::Content);
                }
                outcome::Event::Failed(..) => ended = true,
                outcome::Event::Stalled(_) => {
                    // Others may be there already.
                    self.run.look_at = self.now;
                    fetching.fetch.cancel(self.now);
                }
                outcome::Event::Barred { node, reason, .. } => {
                    self.notes.broken(format!("{} was barred as a provider: {reason:?}", node.short()));
                }
                outcome::Event::Ban { node, .. } => self.notes.broken(format!("{} was banned", node.short())),
                outcome::Event::Progress(_) | outcome::Event::Dropped { .. } => {}
            }
        }
        if ended {
            for peer in self.run.peers.keys().copied().collect::<Vec<usize>>() {
                self.send(peer, Frame::DataClosed(number));
            }
            // The command that says so is queued, and what is missing is looked for after it.
            self.run.look_at = self.run.look_at.max(self.now + Duration::from_millis(50));
        } else {
            self.run.fetching = Some(fetching);
        }
        moved
    }

    fn store_for_fetch(&mut self, fetching: &mut Fetching, request: StoreRequest) {
        let (now, fetch) = (self.now, &mut fetching.fetch);
        match request {
            StoreRequest::Lookup { token, ids } => {
                let held = ids.iter().map(|id| store(self.chunks.has(id))).collect();
                fetch.handle_lookup(now, token, Ok(held));
            }
            StoreRequest::LoadPage { token, id } => {
                let page = store(self.chunks.get(&id)).map(Chunk::into_raw);
                fetch.handle_page(now, token, Ok(page));
            }
            StoreRequest::Put { token, data, .. } => {
                let put = match Chunk::verify(data.id, data.len, data.codec, data.bytes) {
                    Ok(chunk) => {
                        store(self.chunks.put(&chunk));
                        Ok(())
                    }
                    Err(_) => Err(PutError::Bad),
                };
                fetch.handle_put(now, token, put);
            }
            StoreRequest::Flush { token } => {
                let (node, boot, fetch) = (self.at, self.boot, fetching.number);
                let at = self.wires.soon(now, 2, 200);
                self.wires.later(at, Happening::Flushed { node, boot, fetch, token });
            }
        }
    }

    fn drain_serving(&mut self) -> bool {
        let mut moved = false;
        for (peer, number) in self.run.serving.keys().copied().collect::<Vec<_>>() {
            let Some(mut serve) = self.run.serving.remove(&(peer, number)) else { continue };
            let mut is_open = true;
            while let Some(event) = serve.poll_event() {
                moved = true;
                match event {
                    serve::Event::Authorise { token, version } => {
                        serve.handle_authorised(self.now, token, self.authorise(&version));
                    }
                    serve::Event::Close(_) => {
                        is_open = false;
                        self.send(peer, Frame::DataRefused(number));
                    }
                }
            }
            while let Some(request) = serve.poll_store() {
                moved = true;
                match request {
                    serve::StoreRequest::LoadChunk { token, id } => {
                        serve.handle_loaded(self.now, token, Ok(store(self.chunks.get(&id))));
                    }
                    serve::StoreRequest::LookupHave { token, manifest } => {
                        let have = have::lookup(self.chunks, manifest).map_err(|_| StoreFailed);
                        serve.handle_have(self.now, token, have);
                    }
                }
            }
            while let Some(transmit) = serve.poll_transmit() {
                moved = true;
                self.send(peer, Frame::DataResponse(number, encode(&transmit.message)));
                serve.handle_sent(self.now, transmit.cost);
            }
            if is_open {
                self.run.serving.insert((peer, number), serve);
            }
        }
        moved
    }

    fn authorise(&self, version: &VersionId) -> Access {
        let read = store(self.catalog.begin_read());
        let Some(version) = store(record::version(&*read, version)) else { return Access::NotFound };
        if store(resolve::topic_path(&*read, &version.topic)).is_none() {
            return Access::NotFound;
        }
        let complete = store(content::is_here(&*read, &version.manifest));
        Access::Allowed { manifest: version.manifest, complete }
    }
}
