//! Bringing content here: fetching machines with streams and the chunk store around them.
//!
//! Invariant: for one version and the same part of it there is one machine, shared by all who want it; it ends when the
//! last of them goes. The catalog says that content is here only after the machine has everything in the store.
//!
//! What all machines together have in flight is bounded: a fetch that finds no room waits for another to end.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::{Rc, Weak};

use async_channel::{Receiver, Sender};
use async_io::Timer;
use bib_core::api::event::Progress;
use bib_core::api::{ErrorCode, Failure};
use bib_core::catalog::record::Charge;
use bib_core::chunk::Chunk;
use bib_core::command::Command;
use bib_core::encode::{decode, encode};
use bib_core::id::{ManifestId, NodeId, VersionId};
use bib_core::limits::{DATA_FRAME_STALL, FETCH_BYTES_IN_FLIGHT};
use bib_core::machine::transfer::StoreFailed;
use bib_core::machine::transfer::fetch::Fetch;
use bib_core::machine::transfer::outcome::{
    AskOrder, Event, FetchConfig, FetchError, FetchStats, PutError, StallReason, StoreRequest, Wanted,
};
use bib_core::model::Version;
use bib_core::port::StoreError;
use bib_core::wire::message::{DataRequest, DataResponse, Envelope};
use futures::future::{Either, LocalBoxFuture, select};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};

use crate::net::{FrameStream, Protocol};
use crate::node::Context;
use crate::quota;
use crate::service::{publish, store_failure};
use crate::store;

/// Frames of one fetch that wait for the machine.
const INBOX: usize = 4;
/// Requests to one provider that wait for its stream.
const REQUESTS: usize = 64;

/// What is known of a fetch, for those who want it.
#[derive(Debug, Default)]
struct State {
    progress: Option<Progress>,
    stalled: Option<StallReason>,
    /// Counts what happened.
    serial: u64,
    result: Option<Result<FetchStats, Failure>>,
    waiting: Vec<Sender<()>>,
    n_handles: usize,
}

#[derive(Debug)]
struct Running {
    version: VersionId,
    manifest: ManifestId,
    wanted: Wanted,
    /// Whose quotas it counts in, when all of it comes.
    charge: Charge,
    state: RefCell<State>,
    /// Tells the machine of peers, and that nobody wants it any more.
    inbox: Sender<Input>,
}

impl Running {
    fn update(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.borrow_mut();
        change(&mut state);
        state.serial += 1;
        // A full one wakes its reader anyway; a closed one has none.
        state.waiting.retain(|waiting| !waiting.is_closed());
        for waiting in &state.waiting {
            let _ = waiting.try_send(());
        }
    }
}

/// News of a fetch.
#[derive(Debug)]
pub(crate) enum Update {
    /// More is here.
    Progress(Progress),
    /// Nothing moves, for a reason that the caller may not want to wait for.
    Stalled(StallReason),
    /// All that is wanted is here.
    Done(FetchStats),
    /// It ended without everything.
    Failed(Failure),
}

/// The interest of one caller in a fetch.
#[derive(Debug)]
pub(crate) struct Handle {
    running: Rc<Running>,
    woken: Receiver<()>,
    seen: u64,
}

impl Handle {
    fn of(running: Rc<Running>) -> Self {
        let (wake, woken) = async_channel::bounded(1);
        let mut state = running.state.borrow_mut();
        state.waiting.push(wake);
        state.n_handles += 1;
        drop(state);
        Self { running, woken, seen: 0 }
    }

    /// Waits for news.
    pub(crate) async fn next(&mut self) -> Update {
        loop {
            {
                let state = self.running.state.borrow();
                match &state.result {
                    Some(Ok(stats)) => return Update::Done(stats.clone()),
                    Some(Err(failure)) => return Update::Failed(failure.clone()),
                    None if state.serial > self.seen => {
                        self.seen = state.serial;
                        if let Some(reason) = state.stalled {
                            return Update::Stalled(reason);
                        }
                        if let Some(progress) = state.progress {
                            return Update::Progress(progress);
                        }
                    }
                    None => {}
                }
            }
            // The state keeps the other end.
            let _ = self.woken.recv().await;
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.running.state.borrow_mut();
        state.n_handles -= 1;
        if state.n_handles == 0 && state.result.is_none() {
            // A full inbox means that the machine is busy: it looks after each input.
            let _ = self.running.inbox.try_send(Input::Unwanted);
        }
    }
}

/// All fetches of the node.
#[derive(Debug, Default)]
pub(crate) struct Fetches {
    running: RefCell<Vec<Weak<Running>>>,
}

impl Fetches {
    /// Fetches a part of a version, or joins who does it already.
    pub(crate) fn start(&self, ctx: &Rc<Context>, version: &Version, wanted: Wanted, order: AskOrder) -> Handle {
        let mut all = self.running.borrow_mut();
        all.retain(|running| running.strong_count() > 0);
        let same = all.iter().filter_map(Weak::upgrade).find(|running| {
            let open = running.state.borrow().result.is_none() && running.state.borrow().n_handles > 0;
            open && running.manifest == version.manifest && running.wanted == wanted
        });
        if let Some(running) = same {
            return Handle::of(running);
        }
        let (inbox, inputs) = async_channel::bounded(INBOX);
        let running = Rc::new(Running {
            version: version.id,
            manifest: version.manifest,
            wanted,
            charge: Charge::of(version.topic, version.created_by, version.size),
            state: RefCell::default(),
            inbox,
        });
        all.push(Rc::downgrade(&running));
        drop(all);
        let handle = Handle::of(running.clone());
        let driver = Driver::run(ctx.clone(), running, inputs, order);
        ctx.spawner.spawn("fetch", driver).detach();
        handle
    }

    fn each(&self, tell: impl Fn(&Running)) {
        self.running.borrow().iter().filter_map(Weak::upgrade).for_each(|running| tell(&running));
    }

    /// A peer can be asked from now on.
    pub(crate) fn peer_is_here(&self, ctx: &Rc<Context>, node: NodeId) {
        self.each(|running| tell(ctx, running, Input::Here(node)));
    }

    /// A peer cannot be asked any more.
    pub(crate) fn peer_is_gone(&self, ctx: &Rc<Context>, node: NodeId) {
        self.each(|running| tell(ctx, running, Input::Gone(node)));
    }
}

/// Tells a machine something that must not be lost, without waiting for it.
fn tell(ctx: &Rc<Context>, running: &Running, input: Input) {
    let inbox = running.inbox.clone();
    ctx.spawner
        .spawn("fetch news", async move {
            // The machine may have ended.
            let _ = inbox.send(input).await;
        })
        .detach();
}

#[derive(Debug)]
enum Input {
    Here(NodeId),
    Gone(NodeId),
    Unwanted,
    /// A stream to a provider is open, or not.
    Opened(NodeId, Option<FrameStream>),
    Response(NodeId, u64, Envelope<DataResponse>),
    /// A stream ended or broke.
    Lost(NodeId, u64),
    /// What came over a stream is no response.
    Garbage(NodeId, u64),
    Lookup(u64, Result<Vec<bool>, StoreFailed>),
    Page(u64, Result<Option<Vec<u8>>, StoreFailed>),
    Put(u64, Result<(), PutError>),
    Flushed(u64, Result<(), StoreFailed>),
    Room(Result<u64, Failure>),
}

/// The stream to a provider.
struct Stream {
    /// Distinguishes it from earlier ones to the same node.
    number: u64,
    requests: Sender<Envelope<DataRequest>>,
    /// Dropping them ends the stream.
    _tasks: Vec<async_executor::Task<Option<()>>>,
}

enum Link {
    /// Being opened, with what waits for it.
    Opening(Vec<Envelope<DataRequest>>),
    Open(Stream),
}

struct Driver {
    ctx: Rc<Context>,
    running: Rc<Running>,
    fetch: Fetch,
    links: BTreeMap<NodeId, Link>,
    n_streams: u64,
    /// Why it was ended from here.
    ended_by: Option<Failure>,
    /// Look at the disk again when so many bytes were received.
    look_at: u64,
    looking: bool,
}

type Work = FuturesUnordered<LocalBoxFuture<'static, Input>>;

impl Driver {
    async fn run(ctx: Rc<Context>, running: Rc<Running>, inputs: Receiver<Input>, order: AskOrder) {
        let result = Self::fetched(&ctx, &running, &inputs, order).await;
        running.update(|state| state.result = Some(result));
    }

    async fn fetched(
        ctx: &Rc<Context>,
        running: &Rc<Running>,
        inputs: &Receiver<Input>,
        order: AskOrder,
    ) -> Result<FetchStats, Failure> {
        let bytes_in_flight = FETCH_BYTES_IN_FLIGHT.min(ctx.budget.fetch_bytes / 2);
        let permit = {
            let unwanted = async {
                loop {
                    match inputs.recv().await {
                        Ok(Input::Unwanted) | Err(_) => return,
                        // Peers are looked at when it begins.
                        Ok(_) => {}
                    }
                }
            };
            match select(pin!(ctx.fetch_credits.borrow(bytes_in_flight)), pin!(unwanted)).await {
                Either::Left((permit, _)) => permit,
                Either::Right(_) => {
                    return Err(Failure::new(ErrorCode::Cancelled, "nobody wants the content any more"));
                }
            }
        };
        if running.wanted == Wanted::All {
            let charge = running.charge;
            quota::check(ctx, charge.into(), charge.size, Some(running.manifest)).await?;
        }
        let may_receive = publish::check_room(ctx, 1).await?;
        // What is put or found from here on is not collected before the command that names it is committed.
        let lease = ctx.store.stores().chunks().lease();
        let config = FetchConfig { bytes_in_flight, order, ..FetchConfig::default() };
        let now = ctx.clock.now();
        let fetch = Fetch::new(now, running.version, running.manifest, running.wanted.clone(), config);
        let driver = Self {
            ctx: ctx.clone(),
            running: running.clone(),
            fetch,
            links: BTreeMap::new(),
            n_streams: 0,
            ended_by: None,
            look_at: may_receive.saturating_sub(bytes_in_flight as u64),
            looking: false,
        };
        let stats = driver.drive(inputs).await?;
        drop(permit);
        if running.wanted == Wanted::All {
            let here = Command::Fetched { manifest: running.manifest, charge: running.charge };
            ctx.store.apply_leased(here, lease).await.map_err(|error| store_failure(&error))?;
        }
        Ok(stats)
    }

    async fn drive(mut self, inputs: &Receiver<Input>) -> Result<FetchStats, Failure> {
        let ctx = self.ctx.clone();
        let mut work = Work::new();
        let connected: Vec<NodeId> = ctx.network.view.borrow().connected().collect();
        for node in connected {
            self.handle(Input::Here(node));
        }
        loop {
            if let Some(result) = self.drain(&mut work) {
                return result;
            }
            if self.running.state.borrow().n_handles == 0 && self.ended_by.is_none() {
                self.end(Failure::new(ErrorCode::Cancelled, "nobody wants the content any more"));
                continue;
            }
            let timeout = self.fetch.poll_timeout().map(|(at, _)| at);
            futures::select_biased! {
                input = work.select_next_some() => self.handle(input),
                input = inputs.recv().fuse() => match input {
                    Ok(input) => self.handle(input),
                    Err(_) => self.end(Failure::new(ErrorCode::Cancelled, "the node is stopping")),
                },
                () = ctx.clock.sleep_until(timeout).fuse() => self.fetch.handle_timeout(ctx.clock.now()),
            }
        }
    }

    fn end(&mut self, why: Failure) {
        self.ended_by.get_or_insert(why);
        self.fetch.cancel(self.ctx.clock.now());
    }

    fn handle(&mut self, input: Input) {
        let now = self.ctx.clock.now();
        match input {
            Input::Here(node) => {
                let bad_chunks = self.ctx.network.view.borrow_mut().peer(node).bad_chunks;
                self.fetch.handle_provider_added(now, node, bad_chunks);
            }
            Input::Gone(node) => {
                self.links.remove(&node);
                self.fetch.handle_provider_lost(now, &node);
            }
            // It is looked at after each input.
            Input::Unwanted => {}
            Input::Opened(node, stream) => match (self.links.remove(&node), stream) {
                (Some(Link::Opening(waiting)), Some(stream)) => self.opened(node, stream, waiting),
                (Some(Link::Opening(_)), None) => self.fetch.handle_provider_lost(now, &node),
                (link, _) => {
                    self.links.extend(link.map(|link| (node, link)));
                }
            },
            Input::Response(node, number, response) if self.is_current(&node, number) => {
                self.fetch.handle_response(now, &node, response);
            }
            Input::Response(..) => {}
            Input::Lost(node, number) => {
                if self.is_current(&node, number) {
                    self.links.remove(&node);
                    self.fetch.handle_stream_lost(now, &node);
                }
            }
            Input::Garbage(node, number) => {
                if self.is_current(&node, number) {
                    self.links.remove(&node);
                    self.fetch.handle_garbage(now, &node);
                }
            }
            Input::Lookup(token, held) => self.fetch.handle_lookup(now, token, held),
            Input::Page(token, page) => self.fetch.handle_page(now, token, page),
            Input::Put(token, put) => self.fetch.handle_put(now, token, put),
            Input::Flushed(token, flushed) => self.fetch.handle_flushed(now, token, flushed),
            Input::Room(room) => {
                self.looking = false;
                match room {
                    Ok(more) => {
                        // What is in flight comes in any case.
                        let more = more.saturating_sub(self.ctx.budget.fetch_bytes as u64 / 2);
                        self.look_at = self.fetch.progress().received_bytes + more;
                    }
                    Err(failure) => self.end(failure),
                }
            }
        }
    }

    fn is_current(&self, node: &NodeId, number: u64) -> bool {
        matches!(self.links.get(node), Some(Link::Open(stream)) if stream.number == number)
    }

    /// Carries out what the machine wants; the result when it has ended.
    fn drain(&mut self, work: &mut Work) -> Option<Result<FetchStats, Failure>> {
        while let Some(transmit) = self.fetch.poll_transmit() {
            self.send(transmit.to, transmit.message, work);
        }
        while let Some(request) = self.fetch.poll_store() {
            work.push(ask_store(self.ctx.clone(), request));
        }
        while let Some(event) = self.fetch.poll_event() {
            match event {
                Event::Progress(progress) => self.progressed(&progress, work),
                Event::Barred { node, reason, bad_chunks } => {
                    log::warn!(peer:% = node, why:? = reason, bad_chunks = bad_chunks; "a provider is not used any more in a fetch");
                    self.ctx.network.view.borrow_mut().peer(node).bad_chunks = bad_chunks;
                    self.links.remove(&node);
                }
                Event::Ban { node, duration } => {
                    let network = self.ctx.network.clone();
                    let ban = async move { network.ban(node, duration).await };
                    self.ctx.spawner.spawn("ban", ban).detach();
                }
                Event::Dropped { node, code } => {
                    log::debug!(peer:% = node, why:? = code; "a provider refused");
                    self.links.remove(&node);
                }
                Event::Stalled(reason) => {
                    log::debug!(version = self.running.version.short(), why:? = reason; "a fetch does not get on");
                    self.running.update(|state| state.stalled = Some(reason));
                }
                Event::Done(stats) => {
                    log::info!(
                        version = self.running.version.short(), received = stats.received_bytes,
                        reused = stats.reused_bytes, wire = stats.wire_bytes, providers = stats.providers.len();
                        "content was fetched"
                    );
                    return Some(Ok(stats));
                }
                Event::Failed(error, _) => {
                    let failure = self.ended_by.take().unwrap_or_else(|| of_fetch(&error));
                    log::info!(version = self.running.version.short(), why = failure.message.as_str(); "a fetch ended early");
                    return Some(Err(failure));
                }
            }
        }
        None
    }

    fn progressed(&mut self, progress: &bib_core::machine::transfer::outcome::Progress, work: &mut Work) {
        let shown = Progress {
            done: progress.here_bytes,
            total: progress.wanted_bytes,
            files: 0,
            reused: progress.here_bytes.saturating_sub(progress.received_bytes),
            providers: u32::try_from(progress.providers).unwrap_or(u32::MAX),
        };
        self.running.update(|state| {
            state.progress = Some(shown);
            state.stalled = None;
        });
        if progress.received_bytes >= self.look_at && !self.looking {
            self.looking = true;
            let ctx = self.ctx.clone();
            work.push(
                async move { Input::Room(publish::check_room(&ctx, 1).await.map_err(Failure::from)) }.boxed_local(),
            );
        }
    }

    fn send(&mut self, to: NodeId, message: Envelope<DataRequest>, work: &mut Work) {
        match self.links.get_mut(&to) {
            Some(Link::Open(stream)) => {
                // The machine has fewer in flight than there is room; else the stream is not read, and lost.
                if stream.requests.try_send(message).is_err() {
                    let number = stream.number;
                    work.push(async move { Input::Lost(to, number) }.boxed_local());
                }
            }
            Some(Link::Opening(waiting)) => waiting.push(message),
            None => {
                self.links.insert(to, Link::Opening(vec![message]));
                let network = self.ctx.network.clone();
                work.push(
                    async move {
                        let opened = network.open(to, Protocol::Data).await;
                        if let Ok(Err(error)) = &opened {
                            log::debug!(peer:% = to, why:% = error; "no stream to a provider");
                        }
                        Input::Opened(to, opened.ok().and_then(Result::ok))
                    }
                    .boxed_local(),
                );
            }
        }
    }

    fn opened(&mut self, node: NodeId, stream: FrameStream, waiting: Vec<Envelope<DataRequest>>) {
        self.n_streams += 1;
        let number = self.n_streams;
        let (mut reader, mut writer) = stream.split();
        let (requests, outgoing) = async_channel::bounded::<Envelope<DataRequest>>(REQUESTS);
        let (inbox, view) = (self.running.inbox.clone(), self.ctx.network.view.clone());
        let patience = self.ctx.patience.clone();
        let reading = self.ctx.spawner.spawn("fetch reader", async move {
            loop {
                let input = match reader.read_steadily(|| Timer::after(patience.of(DATA_FRAME_STALL))).await {
                    Ok(Some(frame)) => {
                        view.borrow_mut().wire_received += frame.len() as u64;
                        match decode(&frame) {
                            Ok(response) => Input::Response(node, number, response),
                            Err(error) => {
                                log::warn!(peer:% = node, why:% = error; "a provider sent what is no data response");
                                Input::Garbage(node, number)
                            }
                        }
                    }
                    Ok(None) => Input::Lost(node, number),
                    Err(error) => {
                        log::debug!(peer:% = node, why:% = error; "the stream to a provider broke");
                        Input::Lost(node, number)
                    }
                };
                let is_last = matches!(input, Input::Lost(..) | Input::Garbage(..));
                if inbox.send(input).await.is_err() || is_last {
                    return;
                }
            }
        });
        let writing = self.ctx.spawner.spawn("fetch writer", async move {
            while let Ok(request) = outgoing.recv().await {
                if writer.write(&encode(&request)).await.is_err() {
                    // The reader hears of it.
                    return;
                }
            }
            let _ = writer.close().await;
        });
        for message in waiting {
            // There is room for all that were made while it was opened.
            let _ = requests.try_send(message);
        }
        self.links.insert(node, Link::Open(Stream { number, requests, _tasks: vec![reading, writing] }));
    }
}

fn failed(error: &StoreError) -> StoreFailed {
    log::error!(error:% = error; "the store failed a fetch");
    StoreFailed
}

fn ask_store(ctx: Rc<Context>, request: StoreRequest) -> LocalBoxFuture<'static, Input> {
    async move {
        match request {
            StoreRequest::Lookup { token, ids } => {
                let held = ctx
                    .store
                    .blocking("look up chunks", move |stores| ids.iter().map(|id| stores.chunks().has(id)).collect())
                    .await;
                Input::Lookup(token, held.map_err(|error: StoreError| failed(&error)))
            }
            StoreRequest::LoadPage { token, id } => {
                let page = ctx
                    .store
                    .blocking("load page", move |stores| Ok(stores.chunks().get(&id)?.map(Chunk::into_raw)))
                    .await;
                Input::Page(token, page.map_err(|error: StoreError| failed(&error)))
            }
            StoreRequest::Put { token, from, data } => {
                let id = data.id;
                let put = match ctx.store.put(data).await {
                    Ok(_) => Ok(()),
                    Err(store::PutError::Bad(error)) => {
                        log::warn!(peer:% = from, chunk = id.short(), why:% = error; "a peer sent a bad chunk");
                        Err(PutError::Bad)
                    }
                    Err(store::PutError::Store(StoreError::Full(_))) => Err(PutError::Full),
                    Err(_) => Err(PutError::Failed),
                };
                Input::Put(token, put)
            }
            StoreRequest::Flush { token } => {
                let flushed = ctx.store.flush().await;
                Input::Flushed(token, flushed.map_err(|error| failed(&error)))
            }
        }
    }
    .boxed_local()
}

fn of_fetch(error: &FetchError) -> Failure {
    let failure = |code| Failure::new(code, error.to_string());
    match error {
        FetchError::Cancelled => failure(ErrorCode::Cancelled),
        FetchError::Deadline => failure(ErrorCode::Timeout),
        FetchError::StoreFull => {
            failure(ErrorCode::Quota).hinted("free space on the node's disk; `bib status` shows what is used")
        }
        FetchError::BadManifest(_) => failure(ErrorCode::Integrity),
        _ => failure(ErrorCode::Internal),
    }
}

/// What a caller is told whose content does not come.
pub(crate) fn of_stall(reason: StallReason) -> Failure {
    let message = match reason {
        StallReason::NoProvider => "no peer is connected that has the content",
        StallReason::NobodyHas => "none of the connected peers has the content",
        StallReason::Silence => "the peers that have the content do not answer",
    };
    Failure::new(ErrorCode::NoProvider, message)
        .hinted("connect a node that has it: `bib peer connect <address>`; `bib peer list` shows who is there")
}
