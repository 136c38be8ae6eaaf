//! Nodes that fetch from and serve to each other over a [`Net`], with stores that take their time: the two transfer
//! machines against each other in virtual time.
//!
//! After every step the bounds of every machine are asserted. A node can be told to lie, to fall silent or to crash; a
//! crash keeps of its store what was flushed, and nothing else of it.
//!
//! Deliberately absent: operations, rights beyond yes and no, and real streams: a message is a frame.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Duration;

use bib_core::chunk::{Chunk, Codec};
use bib_core::chunker::ChunkerParams;
use bib_core::hash::{Hasher, hash};
use bib_core::id::{ChunkId, ManifestId, NodeId, VersionId};
use bib_core::limits;
use bib_core::machine::transfer::StoreFailed;
use bib_core::machine::transfer::fetch::Fetch;
use bib_core::machine::transfer::have;
use bib_core::machine::transfer::outcome::{
    Event as FetchEvent, FetchConfig, FetchError, FetchStats, PutError, StoreRequest as FetchStore, Wanted,
};
use bib_core::machine::transfer::serve::{Access, Event as ServeEvent, Serve, ServeConfig, StoreRequest as ServeStore};
use bib_core::model::DatasetPath;
use bib_core::model::manifest::builder::{Builder, Piece};
use bib_core::model::manifest::reader::{Cursor, root};
use bib_core::model::manifest::{EntryKind, ManifestKind};
use bib_core::port::{ChunkStore, StoreError};
use bib_core::time::Instant;
use bib_core::wire::message::{ChunkData, DataRequest, DataResponse, Envelope, Refusal, RefusalCode};

use crate::memory::MemoryChunkStore;
use crate::net::{Link, Net};
use crate::rng::Rng;

/// A version that was made for a simulation.
#[derive(Debug, Clone)]
pub struct Version {
    /// Its id.
    pub id: VersionId,
    /// Its manifest.
    pub manifest: ManifestId,
    /// Bytes of its files.
    pub size: u64,
    /// Chunks of content, in the order of the stream, doubles included.
    pub chunks: Vec<(ChunkId, u32)>,
    /// Pages of its manifest.
    pub pages: BTreeSet<ChunkId>,
    /// Hash of its stream.
    pub stream: [u8; 32],
}

impl Version {
    /// Chunks of content, each once.
    pub fn distinct(&self) -> BTreeSet<ChunkId> {
        self.chunks.iter().map(|(id, _)| *id).collect()
    }
}

/// Small chunks, so that few bytes make many of them.
pub const SMALL_CHUNKS: ChunkerParams = ChunkerParams { min: 1_024, avg: 2_048, max: 4_096, normalisation: 1 };

/// Builds a version of these files (names ascending) into a store and makes it durable.
///
/// # Panics
/// When the names are not paths in order.
pub fn publish(
    store: &MemoryChunkStore,
    params: ChunkerParams,
    files: impl IntoIterator<Item = (String, Vec<u8>)>,
) -> Version {
    let (mut pages, mut chunks, mut stream) = (BTreeSet::new(), Vec::new(), Hasher::new());
    let mut sink = |piece: Piece| {
        let chunk = match piece {
            Piece::Content(chunk) => {
                chunks.push((chunk.id(), chunk.len()));
                chunk
            }
            Piece::Page(chunk) => {
                pages.insert(chunk.id());
                chunk
            }
        };
        store.put(&chunk.compress()).expect("a store in memory has room");
        Ok::<_, Infallible>(())
    };
    let mut builder = Builder::new(ManifestKind::Tree, params);
    for (name, bytes) in files {
        let path = DatasetPath::new(&name).expect("the simulation names files well");
        builder.begin(path, EntryKind::File, &mut sink).expect("the simulation names files in order");
        builder.push(&bytes, &mut sink).expect("a file was begun");
        stream.update(&bytes);
    }
    let built = builder.finish(None, &mut sink).expect("a tree may have any files");
    store.flush().expect("a store in memory takes all");
    let id = VersionId::from_bytes(hash(built.manifest.as_bytes()));
    Version { id, manifest: built.manifest, size: built.size, chunks, pages, stream: stream.finish() }
}

/// Files of noise, some of it repeated, some of it compressible.
pub fn some_files(rng: &mut Rng, n_files: usize, n_bytes: usize) -> Vec<(String, Vec<u8>)> {
    let repeated = noise(rng, 20_000);
    (0..n_files)
        .map(|n| {
            let mut bytes = noise(rng, n_bytes / n_files.max(1) / 2);
            while bytes.len() < n_bytes / n_files.max(1) {
                match rng.below(3) {
                    0 => bytes.extend_from_slice(&repeated),
                    1 => bytes.extend(format!("station,{n},{}\n", rng.below(100)).repeat(40).bytes()),
                    _ => bytes.extend(noise(rng, 5_000)),
                }
            }
            bytes.truncate(n_bytes / n_files.max(1));
            (format!("dir{:03}/file-{n:06}", n / 100), bytes)
        })
        .collect()
}

/// So many bytes of noise.
pub fn noise(rng: &mut Rng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    bytes
}

/// How a node answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nature {
    /// As it should.
    Honest,
    /// With flipped bits under the right name.
    WrongBytes,
    /// With another chunk than was asked.
    WrongChunk,
    /// With a length that is not true.
    WrongLength,
    /// With a frame that unpacks to far more than it says.
    Bomb,
    /// With chunks that were not asked, beside those that were.
    Unasked,
    /// With the same chunk again and again.
    Repeating,
    /// It says to have everything and then never has anything.
    EmptyHanded,
    /// It never says that an answer is over.
    NeverEnding,
    /// It says that the answer is over before it has begun.
    EndingAtOnce,
    /// Not at all.
    Silent,
    /// With answers to requests that were never made.
    Inventing,
    /// With any frame to any request.
    Raving,
}

/// All ways to lie or to be useless.
pub const BAD_NATURES: [Nature; 12] = [
    Nature::WrongBytes,
    Nature::WrongChunk,
    Nature::WrongLength,
    Nature::Bomb,
    Nature::Unasked,
    Nature::Repeating,
    Nature::EmptyHanded,
    Nature::NeverEnding,
    Nature::EndingAtOnce,
    Nature::Silent,
    Nature::Inventing,
    Nature::Raving,
];

/// What travels, with the number of the stream on which it does: each fetch has streams of its own.
#[derive(Debug, Clone)]
pub enum Message {
    /// A request.
    Request(u64, Envelope<DataRequest>),
    /// An answer.
    Response(u64, Envelope<DataResponse>),
}

#[derive(Debug)]
enum Job {
    Fetch(FetchStore),
    Serve { peer: usize, stream: u64, request: ServeStore },
    Sent { peer: usize, stream: u64, cost: usize },
}

/// How a fetch ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Everything is here.
    Done(FetchStats),
    /// Not everything is here.
    Failed(FetchError, FetchStats),
}

struct Node {
    store: MemoryChunkStore,
    nature: Nature,
    is_up: bool,
    /// Whether the catalog says that all content is here.
    is_complete: bool,
    /// What the catalog says to others.
    is_open: bool,
    /// By peer, the last stream that it opened.
    serves: BTreeMap<usize, (u64, Serve)>,
    /// Fetches begun here, and so the number of their streams.
    stream: u64,
    fetch: Option<(Fetch, Version, FetchConfig)>,
    events: Vec<FetchEvent>,
    end: Option<End>,
    /// Restarts of the node; jobs of an earlier life are dropped.
    life: u32,
}

/// See the module.
pub struct Swarm {
    /// The clock.
    pub now: Instant,
    /// The network.
    pub net: Net<Message>,
    /// Longest time that a store takes for anything.
    pub store_time: Duration,
    /// Capacities of the serving side.
    pub serve_config: ServeConfig,
    rng: Rng,
    nodes: Vec<Node>,
    jobs: BTreeMap<(Instant, u64), (usize, u32, Job)>,
    n_jobs: u64,
    /// How often a node was asked for a chunk.
    asked: BTreeMap<(usize, ChunkId), u32>,
    /// Chunks and pages that a fetching node put into its store, by node.
    puts: BTreeMap<(usize, ChunkId), u32>,
    /// How often a fetching node hashed something that was not what it should be.
    refused: BTreeMap<usize, u32>,
    peak_bytes: usize,
    steps: u64,
}

fn refusal(code: RefusalCode) -> DataResponse {
    DataResponse::Refused(Refusal { code, message: "no".to_owned() })
}

/// The id of a node by its number.
pub fn node_id(node: usize) -> NodeId {
    NodeId::from_bytes(hash(&(node as u64).to_le_bytes()))
}

impl Swarm {
    /// So many nodes with empty stores, joined by equal links.
    pub fn new(seed: u64, n_nodes: usize, link: Link) -> Self {
        let nodes = (0..n_nodes).map(|_| Node {
            store: MemoryChunkStore::new(),
            nature: Nature::Honest,
            is_up: true,
            is_complete: true,
            is_open: true,
            serves: BTreeMap::new(),
            stream: 0,
            fetch: None,
            events: Vec::new(),
            end: None,
            life: 0,
        });
        Self {
            now: Instant(1),
            net: Net::new(seed, link),
            store_time: Duration::from_millis(2),
            serve_config: ServeConfig::default(),
            rng: Rng::new(seed ^ 0x5757_a3a3),
            nodes: nodes.collect(),
            jobs: BTreeMap::new(),
            n_jobs: 0,
            asked: BTreeMap::new(),
            puts: BTreeMap::new(),
            refused: BTreeMap::new(),
            peak_bytes: 0,
            steps: 0,
        }
    }

    /// The store of a node.
    pub fn store(&self, node: usize) -> &MemoryChunkStore {
        &self.nodes[node].store
    }

    /// Copies a version, or the chunks of it for which `has` says so by place in manifest order, to another node.
    pub fn give(&mut self, from: usize, to: usize, version: &Version, has: impl Fn(usize) -> bool) {
        let held = version.chunks.iter().enumerate().filter(|(at, _)| has(*at)).map(|(_, (id, _))| *id);
        for id in held.chain(version.pages.iter().copied()) {
            let chunk = self.nodes[from].store.get(&id).expect("memory is readable").expect("the giver holds it");
            self.nodes[to].store.put(&chunk).expect("there is room");
        }
        self.nodes[to].store.flush().expect("memory is writable");
        let held: BTreeSet<ChunkId> = self.nodes[to].store.ids().into_iter().collect();
        self.nodes[to].is_complete = version.chunks.iter().all(|(id, _)| held.contains(id));
    }

    /// Makes a node lie.
    pub fn set_nature(&mut self, node: usize, nature: Nature) {
        self.nodes[node].nature = nature;
    }

    /// Makes the catalog of a node refuse everybody, or nobody.
    pub fn set_open(&mut self, node: usize, is_open: bool) {
        self.nodes[node].is_open = is_open;
    }

    /// Begins a fetch at a node, without providers yet.
    pub fn fetch(&mut self, node: usize, version: &Version, wanted: Wanted, config: FetchConfig) {
        let fetch = Fetch::new(self.now, version.id, version.manifest, wanted, config);
        self.nodes[node].fetch = Some((fetch, version.clone(), config));
        self.nodes[node].end = None;
        self.nodes[node].stream += 1;
        self.nodes[node].is_complete = false;
        self.drain_fetch(node);
    }

    /// Names a provider to the fetch of a node.
    pub fn add_provider(&mut self, node: usize, provider: usize) {
        if let Some((fetch, ..)) = &mut self.nodes[node].fetch {
            fetch.handle_provider_added(self.now, node_id(provider), 0);
        }
        self.drain_fetch(node);
    }

    /// Tells the fetch of a node that a provider is not connected any more.
    pub fn lose_provider(&mut self, node: usize, provider: usize) {
        if let Some((fetch, ..)) = &mut self.nodes[node].fetch {
            fetch.handle_provider_lost(self.now, &node_id(provider));
        }
        self.drain_fetch(node);
    }

    /// The stream of a fetch to a provider breaks, with all that is on its way.
    pub fn break_stream(&mut self, node: usize, provider: usize) {
        self.net.cut(node, provider);
        self.net.heal(node, provider);
        self.nodes[provider].serves.remove(&node);
        if let Some((fetch, ..)) = &mut self.nodes[node].fetch {
            fetch.handle_stream_lost(self.now, &node_id(provider));
        }
        self.drain_fetch(node);
    }

    /// A provider sends what no decoder understands.
    pub fn send_garbage(&mut self, node: usize, provider: usize) {
        if let Some((fetch, ..)) = &mut self.nodes[node].fetch {
            fetch.handle_garbage(self.now, &node_id(provider));
        }
        self.drain_fetch(node);
    }

    /// Cancels the fetch of a node.
    pub fn cancel(&mut self, node: usize) {
        if let Some((fetch, ..)) = &mut self.nodes[node].fetch {
            fetch.cancel(self.now);
        }
        self.drain_fetch(node);
    }

    /// A node loses power: its machines and what its store had not flushed.
    pub fn crash(&mut self, node: usize) {
        self.net.crash(node);
        let node = &mut self.nodes[node];
        node.store.crash();
        node.serves.clear();
        node.fetch = None;
        node.is_up = false;
        node.life += 1;
    }

    /// A node that crashed is there again.
    pub fn restart(&mut self, node: usize) {
        self.nodes[node].is_up = true;
    }

    /// Events of the fetch of a node so far.
    pub fn events(&self, node: usize) -> &[FetchEvent] {
        &self.nodes[node].events
    }

    /// How the fetch of a node ended, if it has.
    pub fn end(&self, node: usize) -> Option<&End> {
        self.nodes[node].end.as_ref()
    }

    /// The fetch of a node, while it goes on or after it ended.
    pub fn machine(&self, node: usize) -> Option<&Fetch> {
        self.nodes[node].fetch.as_ref().map(|(fetch, ..)| fetch)
    }

    /// How often a node was asked for each chunk or page that it was asked for.
    pub fn asked_of(&self, node: usize) -> BTreeMap<ChunkId, u32> {
        self.asked.iter().filter(|((asked, _), _)| *asked == node).map(|((_, id), n)| (*id, *n)).collect()
    }

    /// How often the store of a node took each chunk or page.
    pub fn puts_at(&self, node: usize) -> BTreeMap<ChunkId, u32> {
        self.puts.iter().filter(|((at, _), _)| *at == node).map(|((_, id), n)| (*id, *n)).collect()
    }

    /// How often the store of a node refused what came.
    pub fn refused_at(&self, node: usize) -> u32 {
        self.refused.get(&node).copied().unwrap_or(0)
    }

    /// Forgets all counts.
    pub fn forget_counts(&mut self) {
        self.asked.clear();
        self.puts.clear();
        self.refused.clear();
    }

    /// Most bytes that a fetch had in flight or in verification.
    pub const fn peak_bytes(&self) -> usize {
        self.peak_bytes
    }

    /// Steps so far.
    pub const fn steps(&self) -> u64 {
        self.steps
    }

    /// Does the next thing that happens anywhere, and moves the clock there. False when nothing ever happens again.
    pub fn step(&mut self) -> bool {
        let fetches = self.nodes.iter().enumerate().filter_map(|(node, state)| {
            let (fetch, ..) = state.fetch.as_ref()?;
            Some((fetch.poll_timeout()?.0, node, None))
        });
        let serves = self.nodes.iter().enumerate().flat_map(|(node, state)| {
            state.serves.iter().filter_map(move |(peer, (_, serve))| Some((serve.poll_timeout()?.0, node, Some(*peer))))
        });
        let timer = fetches.chain(serves).min();
        let job = self.jobs.first_key_value().map(|(&(at, _), _)| at);
        let arrival = self.net.next_at();
        let Some(next) = [timer.map(|(at, ..)| at), job, arrival].into_iter().flatten().min() else { return false };
        self.steps += 1;
        self.now = self.now.max(next);
        if arrival == Some(next) {
            self.deliver();
        } else if job == Some(next) {
            self.work();
        } else if let Some((_, node, peer)) = timer {
            self.wake(node, peer);
        }
        true
    }

    /// Goes on until the fetch of a node has ended.
    ///
    /// # Panics
    /// When that takes a day, or so many steps that something must go round in circles.
    pub fn run(&mut self, node: usize) -> End {
        self.run_until(|swarm| swarm.end(node).is_some());
        self.end(node).cloned().expect("it has just ended")
    }

    /// Goes on until something holds.
    ///
    /// # Panics
    /// As [`Swarm::run`].
    pub fn run_until(&mut self, holds: impl Fn(&Self) -> bool) {
        let (deadline, last) = (self.now + Duration::from_secs(86_400), self.steps + 2_000_000);
        while !holds(self) {
            let goes_on = self.step();
            assert!(
                goes_on && self.now < deadline && self.steps < last,
                "stuck at {:?}: {}",
                self.now,
                self.describe()
            );
        }
    }

    fn describe(&self) -> String {
        let fetches = self.nodes.iter().filter_map(|node| node.fetch.as_ref());
        let told: Vec<String> = fetches
            .map(|(fetch, ..)| format!("{:?} {:?} {:?}", fetch.load(), fetch.progress(), fetch.poll_timeout()))
            .collect();
        format!("{} steps, {}", self.steps, told.join("; "))
    }

    fn deliver(&mut self) {
        let Some(delivery) = self.net.deliver(self.now) else { return };
        let (from, to) = (delivery.from, delivery.to);
        if !self.nodes[to].is_up {
            return;
        }
        match delivery.message {
            Message::Request(stream, request) => {
                if let DataRequest::GetChunks { ids, .. } | DataRequest::GetManifest { pages: ids, .. } = &request.body
                {
                    ids.iter().for_each(|id| *self.asked.entry((to, *id)).or_default() += 1);
                }
                if self.nodes[to].nature == Nature::Silent {
                    return;
                }
                let (now, config) = (self.now, self.serve_config);
                let (open, serve) =
                    self.nodes[to].serves.entry(from).or_insert_with(|| (stream, Serve::new(now, config)));
                match stream.cmp(open) {
                    Ordering::Less => return,
                    Ordering::Equal => {}
                    Ordering::Greater => (*open, *serve) = (stream, Serve::new(now, config)),
                }
                serve.handle_request(now, request);
                self.drain_serve(to, from);
            }
            Message::Response(stream, response) => {
                let is_current = stream == self.nodes[to].stream;
                if let Some((fetch, ..)) = self.nodes[to].fetch.as_mut().filter(|_| is_current) {
                    fetch.handle_response(self.now, &node_id(from), response);
                }
                self.drain_fetch(to);
            }
        }
    }

    fn wake(&mut self, node: usize, peer: Option<usize>) {
        match peer {
            Some(peer) => {
                if let Some((_, serve)) = self.nodes[node].serves.get_mut(&peer) {
                    serve.handle_timeout(self.now);
                }
                self.drain_serve(node, peer);
            }
            None => {
                let Some((fetch, ..)) = &mut self.nodes[node].fetch else { return };
                fetch.handle_timeout(self.now);
                let again = fetch.poll_timeout();
                assert!(again.is_none_or(|(at, _)| at > self.now), "woken for nothing: {again:?}");
                self.drain_fetch(node);
            }
        }
    }

    fn later(&mut self, node: usize, at: Instant, job: Job) {
        let life = self.nodes[node].life;
        self.jobs.insert((at, self.n_jobs), (node, life, job));
        self.n_jobs += 1;
    }

    fn ask_store(&mut self, node: usize, job: Job) {
        let time = Duration::from_micros(self.rng.below(self.store_time.as_micros() as u64 + 1));
        self.later(node, self.now + time, job);
    }

    fn work(&mut self) {
        let Some((_, (node, life, job))) = self.jobs.pop_first() else { return };
        if life != self.nodes[node].life {
            return;
        }
        match job {
            Job::Fetch(request) => self.work_for_fetch(node, request),
            Job::Serve { peer, stream, request } => {
                let store = &self.nodes[node].store;
                let now = self.now;
                match request {
                    ServeStore::LoadChunk { token, id } => {
                        let chunk = store.get(&id).map_err(|_| StoreFailed);
                        if let Some((_, serve)) = self.nodes[node].serves.get_mut(&peer).filter(|it| it.0 == stream) {
                            serve.handle_loaded(now, token, chunk);
                        }
                    }
                    ServeStore::LookupHave { token, manifest } => {
                        let have = have::lookup(store, manifest).map_err(|_| StoreFailed);
                        if let Some((_, serve)) = self.nodes[node].serves.get_mut(&peer).filter(|it| it.0 == stream) {
                            serve.handle_have(now, token, have);
                        }
                    }
                }
                self.drain_serve(node, peer);
            }
            Job::Sent { peer, stream, cost } => {
                if let Some((_, serve)) = self.nodes[node].serves.get_mut(&peer).filter(|it| it.0 == stream) {
                    serve.handle_sent(self.now, cost);
                }
                self.drain_serve(node, peer);
            }
        }
    }

    fn work_for_fetch(&mut self, node: usize, request: FetchStore) {
        let now = self.now;
        let state = &mut self.nodes[node];
        let Some((fetch, ..)) = &mut state.fetch else { return };
        match request {
            FetchStore::Lookup { token, ids } => {
                assert!(ids.len() <= limits::MAX_LOOKUP_IDS);
                let held: Result<Vec<bool>, StoreError> = ids.iter().map(|id| state.store.has(id)).collect();
                fetch.handle_lookup(now, token, held.map_err(|_| StoreFailed));
            }
            FetchStore::LoadPage { token, id } => {
                let page = state.store.get(&id).map_err(|_| StoreFailed);
                fetch.handle_page(now, token, page.map(|page| page.map(Chunk::into_raw)));
            }
            FetchStore::Put { token, data, .. } => {
                let ChunkData { id, len, codec, bytes } = data;
                let put = match Chunk::verify(id, len, codec, bytes) {
                    Err(_) => Err(PutError::Bad),
                    Ok(chunk) => match state.store.put(&chunk) {
                        Ok(_) => Ok(()),
                        Err(StoreError::Full(_)) => Err(PutError::Full),
                        Err(_) => Err(PutError::Failed),
                    },
                };
                match put {
                    Ok(()) => *self.puts.entry((node, id)).or_default() += 1,
                    Err(PutError::Bad) => *self.refused.entry(node).or_default() += 1,
                    Err(_) => {}
                }
                fetch.handle_put(now, token, put);
            }
            FetchStore::Flush { token } => {
                let flushed = state.store.flush().map_err(|_| StoreFailed);
                fetch.handle_flushed(now, token, flushed);
            }
        }
        self.drain_fetch(node);
    }

    fn drain_fetch(&mut self, node: usize) {
        let Some((mut fetch, version, config)) = self.nodes[node].fetch.take() else { return };
        let stream = self.nodes[node].stream;
        while let Some(transmit) = fetch.poll_transmit() {
            let to = (0..self.nodes.len()).find(|to| node_id(*to) == transmit.to).expect("providers are nodes");
            self.net.send_sized(self.now, node, to, Message::Request(stream, transmit.message), 100);
        }
        while let Some(request) = fetch.poll_store() {
            self.ask_store(node, Job::Fetch(request));
        }
        while let Some(event) = fetch.poll_event() {
            assert!(self.nodes[node].end.is_none(), "{event:?} came after the end");
            match &event {
                FetchEvent::Done(stats) => self.nodes[node].end = Some(End::Done(stats.clone())),
                FetchEvent::Failed(error, stats) => {
                    self.nodes[node].end = Some(End::Failed(error.clone(), stats.clone()));
                }
                _ => {}
            }
            if !matches!(event, FetchEvent::Progress(_)) {
                self.nodes[node].events.push(event);
            }
        }
        let load = fetch.load();
        let requests = limits::MAX_REQUESTS_PER_STREAM * limits::MAX_FETCH_PROVIDERS;
        assert!(load.pieces <= config.window, "{load:?}");
        assert!(load.pages <= MAX_PAGES_IN_VIEW, "{load:?}");
        assert!(load.requests <= requests, "{load:?}");
        // One chunk is fetched whatever its size; until the root page is here its size is not known.
        assert!(load.bytes <= config.bytes_in_flight.max(limits::MAX_PAGE_LEN), "{load:?}");
        self.peak_bytes = self.peak_bytes.max(load.bytes);
        self.nodes[node].fetch = Some((fetch, version, config));
    }

    fn drain_serve(&mut self, node: usize, peer: usize) {
        let Some((stream, mut serve)) = self.nodes[node].serves.remove(&peer) else { return };
        loop {
            let mut is_quiet = true;
            while let Some(event) = serve.poll_event() {
                is_quiet = false;
                match event {
                    ServeEvent::Authorise { token, version } => {
                        let access = self.access(node, version);
                        serve.handle_authorised(self.now, token, access);
                    }
                    ServeEvent::Close(_) => return,
                }
            }
            while let Some(request) = serve.poll_store() {
                self.ask_store(node, Job::Serve { peer, stream, request });
            }
            while let Some(transmit) = serve.poll_transmit() {
                is_quiet = false;
                let cost = transmit.cost;
                let mut left_at = self.now;
                for response in self.disguise(node, transmit.message) {
                    let len = match &response.body {
                        DataResponse::Chunk(data) => data.bytes.len(),
                        DataResponse::Have { bitmap, .. } => bitmap.len(),
                        _ => 0,
                    };
                    left_at = self.net.send_sized(self.now, node, peer, Message::Response(stream, response), 50 + len);
                }
                self.later(node, left_at, Job::Sent { peer, stream, cost });
            }
            let bound = self.serve_config.bytes_in_flight.max(limits::MAX_CHUNK_LEN);
            let small_frames = limits::MAX_REQUESTS_PER_STREAM * (limits::MAX_CHUNKS_PER_REQUEST + 2) * 64;
            assert!(serve.bytes_in_flight() <= bound + small_frames, "{}", serve.bytes_in_flight());
            if is_quiet {
                break;
            }
        }
        self.nodes[node].serves.insert(peer, (stream, serve));
    }

    fn access(&self, node: usize, version: VersionId) -> Access {
        let state = &self.nodes[node];
        let versions = self.nodes.iter().filter_map(|node| node.fetch.as_ref()).map(|(_, version, _)| version);
        match versions.filter(|known| known.id == version).map(|known| known.manifest).next() {
            _ if !state.is_open => Access::Denied,
            Some(manifest) => {
                Access::Allowed { manifest, complete: state.is_complete || !matches!(state.nature, Nature::Honest) }
            }
            None => Access::NotFound,
        }
    }

    /// What a node of its nature makes of an honest answer.
    fn disguise(&mut self, node: usize, honest: Envelope<DataResponse>) -> Vec<Envelope<DataResponse>> {
        let req = honest.req;
        let other = |rng: &mut Rng| {
            let chunk = Chunk::from_raw(noise(rng, 700));
            ChunkData { id: chunk.id(), len: chunk.len(), codec: chunk.codec(), bytes: chunk.into_encoded() }
        };
        let nature = self.nodes[node].nature;
        let rng = &mut self.rng;
        match (nature, honest.body) {
            (Nature::WrongBytes, DataResponse::Chunk(mut data)) => {
                if let Some(byte) = data.bytes.last_mut() {
                    *byte ^= 1;
                }
                vec![Envelope { req, body: DataResponse::Chunk(data) }]
            }
            (Nature::WrongChunk, DataResponse::Chunk(_)) => {
                vec![Envelope { req, body: DataResponse::Chunk(other(rng)) }]
            }
            (Nature::WrongLength, DataResponse::Chunk(data)) => {
                let len = data.len + 1 + rng.below(100) as u32;
                vec![Envelope { req, body: DataResponse::Chunk(ChunkData { len, ..data }) }]
            }
            (Nature::Bomb, DataResponse::Chunk(data)) => {
                let bomb = Chunk::from_raw(vec![0; limits::MAX_CHUNK_LEN]).into_encoded();
                let len = data.len.max(bomb.len() as u32);
                let data = ChunkData { id: data.id, len, codec: Codec::Zstd, bytes: bomb };
                vec![Envelope { req, body: DataResponse::Chunk(data) }]
            }
            (Nature::Unasked, DataResponse::Chunk(data)) => {
                let unasked = DataResponse::Chunk(other(rng));
                vec![Envelope { req, body: DataResponse::Chunk(data) }, Envelope { req, body: unasked }]
            }
            (Nature::Repeating, body @ DataResponse::Chunk(_)) => vec![Envelope { req, body }; 5],
            (Nature::EmptyHanded, DataResponse::Chunk(data)) => {
                vec![Envelope { req, body: DataResponse::Missing(data.id) }]
            }
            (Nature::NeverEnding, DataResponse::End) => Vec::new(),
            (Nature::EndingAtOnce, DataResponse::Chunk(_)) => vec![Envelope { req, body: DataResponse::End }],
            (Nature::Inventing, body) => {
                let invented = Envelope { req: req + 1_000_000, body: DataResponse::Chunk(other(rng)) };
                vec![Envelope { req, body }, invented]
            }
            (Nature::Raving, body) => {
                let any_req = if rng.chance(1, 3) { rng.below(req + 2) } else { req };
                let data = match &body {
                    DataResponse::Chunk(data) if rng.chance(1, 2) => data.clone(),
                    _ => other(rng),
                };
                let body = match rng.below(8) {
                    0 => DataResponse::End,
                    1 => DataResponse::Missing(data.id),
                    2 => DataResponse::Have { complete: rng.chance(1, 2), bitmap: noise(rng, 20) },
                    3 if rng.chance(1, 20) => refusal(RefusalCode::Busy),
                    4 if rng.chance(1, 20) => refusal(RefusalCode::NotFound),
                    5 => DataResponse::Chunk(data),
                    _ => body,
                };
                let n = 1 + rng.below(3) as usize;
                vec![Envelope { req: any_req, body }; n]
            }
            (_, body) => vec![Envelope { req, body }],
        }
    }

    /// Whether the store of a node has all of a version, byte for byte, and all its pages.
    ///
    /// # Panics
    /// When the manifest cannot be read to its end.
    pub fn assert_identical(&self, node: usize, version: &Version) {
        let store = &self.nodes[node].store;
        let mut source = |id: &ChunkId| store.get(id).map(|chunk| chunk.map(Chunk::into_raw));
        let root = root(version.manifest, &mut source).expect("the root page is here");
        let mut entries = Cursor::entries(&root);
        while entries.next(&mut source).expect("the pages of entries are here").is_some() {}
        let (mut chunks, mut stream) = (Cursor::chunks(&root), Hasher::new());
        while let Some(chunk) = chunks.next(&mut source).expect("the pages of chunks are here") {
            let chunk = store.get(&chunk.id).expect("memory is readable").expect("every chunk is here");
            stream.update(&chunk.into_raw());
        }
        assert_eq!(stream.finish(), version.stream);
    }
}

/// Pages that a fetch may have in view: a few ahead at each level of both trees.
const MAX_PAGES_IN_VIEW: usize = 2 * limits::FETCH_PAGES_AHEAD * (limits::MAX_PAGE_DEPTH as usize + 1) + 1;
