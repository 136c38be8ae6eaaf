//! The composition root: opens each room, wires them, says in the log what it did, and stops them again.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use async_channel::Receiver;
use async_executor::Task;
use async_io::Timer;
use bib_core::api::{ErrorCode, Event, Failure, Request, UploadPart};
use bib_core::id::{NodeId, TopicId, UserId};
use bib_core::key::SecretKey;
use bib_core::limits::{ACCEPT_PAUSE, DRAIN, MAX_ORDERS, MAX_OVER_QUOTA, MAX_SESSIONS, STORE_STOP};
use bib_core::port::StoreError;
use bib_storage_redb::DataDirLock;
use futures::future::{Either, select};

use crate::background::{self, Workers};
use crate::care::Care;
use crate::catalog_sync::{self, Input};
use crate::config::{Budget, Config, Sources};
use crate::control::listener::{Listener, SocketError};
use crate::control::{self, Caller, Feed, Incoming, Output, dispatch, session, within};
use crate::credits::Credits;
use crate::event_loop::EventLoop;
use crate::fetch::Fetches;
use crate::identity::{self, IdentityError};
use crate::logging::Seldom;
use crate::mailbox::Mailbox;
use crate::net::{Net, NetConfig, NetError};
use crate::network::Network;
use crate::runtime::{Clock, Patience, Pool, Shutdown, Signal, Spawner, timestamp};
use crate::service::admin;
use crate::service::keys::Keys;
use crate::space::Allowed;
use crate::store::{Store, StoreThread};
use crate::systemd::{self, Manager};
use crate::vault::{Vault, VaultError};

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The data directory cannot be made.
    #[error("cannot make the data directory `{}`: {source}", path.display())]
    DataDir {
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The identity cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The keys of what is stored cannot be used.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// What is stored is encrypted and the configuration says that it is not.
    #[error("what this node stores is encrypted, and `crypto.enabled` is false")]
    Encrypted,
    /// What is stored is encrypted and its keys are lost.
    #[error("what this node stores is encrypted, and its keys `{}` are absent", .0.display())]
    KeysLost(PathBuf),
    /// What is stored was encrypted, and something plain is in its place.
    #[error("`{}` is not encrypted, and that of this node was: it is of another node, or older", .0.display())]
    PlainStore(PathBuf),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The network cannot be used.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The control socket cannot be used.
    #[error(transparent)]
    Socket(#[from] SocketError),
}

impl NodeError {
    /// What to do next.
    pub fn hint(&self) -> String {
        match self {
            Self::DataDir { .. } => {
                "choose another one with `--data-dir <folder>`, or make it for this user".to_owned()
            }
            Self::Identity(error) => error.hint(),
            Self::Vault(error) => error.hint(),
            Self::Encrypted => {
                "set `crypto.enabled = true`; encryption is not turned off again: for a plain node make \
                                a new one and fetch its data there"
                    .to_owned()
            }
            Self::KeysLost(_) => {
                "put a copy of that file in its place (`store.keys.copy` beside it is one); shares of \
                                   the key do not replace it"
                    .to_owned()
            }
            Self::PlainStore(_) => {
                "put this node's own file back, or `bib admin restore` a backup; to take what is there over all the \
                 same, and encrypt it, remove `keys/sealed`"
                    .to_owned()
            }
            Self::Socket(error) => error.hint(),
            Self::Net(_) => "choose other addresses with `--listen <multiaddr>`; port 0 takes any free one".to_owned(),
            Self::Store(StoreError::Full(_)) => "free space on the disk (`df -h` shows where)".to_owned(),
            Self::Store(StoreError::Io(_)) => {
                "check who may write in the data directory, and the disk (`dmesg` may say more)".to_owned()
            }
            Self::Store(StoreError::Sealed(_)) => {
                "look at `crypto.enabled`, and whether keys/store.keys belongs to this data".to_owned()
            }
            // Their own texts say it.
            Self::Store(_) => "the rest of the data directory is untouched".to_owned(),
        }
    }
}

/// What all parts of a node share.
pub(crate) struct Context {
    pub(crate) id: NodeId,
    pub(crate) clock: Clock,
    pub(crate) patience: Patience,
    pub(crate) budget: Budget,
    pub(crate) data_dir: PathBuf,
    pub(crate) sources: Option<Sources>,
    pub(crate) manager: Manager,
    pub(crate) spawner: Spawner,
    pub(crate) pool: Pool,
    pub(crate) store: Store,
    /// Its keys, when it is encrypted.
    pub(crate) keys: Option<Arc<Keys>>,
    pub(crate) network: Network,
    pub(crate) fetches: Fetches,
    /// What waits for the machines of the catalog.
    pub(crate) mailbox: Mailbox<Input>,
    /// That there may be something to fetch.
    pub(crate) replicate: Signal,
    pub(crate) workers: Workers,
    /// Whether operations of peers are not taken, since the disk is all but full.
    pub(crate) refuses_operations: Cell<bool>,
    /// Topics of which content is not fetched since a quota is used up, and why.
    over_quota: RefCell<BTreeMap<TopicId, String>>,
    /// Places for work at backups; a count.
    pub(crate) backup_credits: Credits,
    /// Care of the store that is under way.
    pub(crate) care: Care,
    /// That space may be short.
    pub(crate) pressed: Signal,
    /// That the share of what is checked each day may have changed.
    pub(crate) scrub: Signal,
    /// Content between control sessions and the store.
    pub(crate) session_credits: Credits,
    /// Places for ingests; a count.
    pub(crate) ingest_credits: Credits,
    /// Chunks on their way from peers.
    pub(crate) fetch_credits: Credits,
    /// Chunks on their way to peers.
    pub(crate) serve_credits: Credits,
    /// Large frames about the catalog that come from peers.
    pub(crate) peer_credits: Credits,
    pub(crate) shutdown: Shutdown,
    halt: Shutdown,
    config: RefCell<Rc<Config>>,
    uid: u32,
    /// What is said of clients that break the contract, and of those for whom there is no room.
    pub(crate) refusals: Seldom,
    turned_away: Seldom,
    n_sessions: Cell<usize>,
    session_ended: Signal,
    _lock: DataDirLock,
}

impl Context {
    pub(crate) fn config(&self) -> Rc<Config> {
        self.config.borrow().clone()
    }

    pub(crate) fn set_config(&self, config: Config) {
        *self.config.borrow_mut() = Rc::new(config);
    }

    pub(crate) fn allowed(&self) -> Allowed {
        let config = self.config.borrow();
        Allowed { max_bytes: config.max_bytes, min_free: config.min_free }
    }

    /// Content of a topic is not fetched since a quota is used up.
    pub(crate) fn note_over_quota(&self, topic: TopicId, why: String) {
        let mut over = self.over_quota.borrow_mut();
        if over.len() < MAX_OVER_QUOTA {
            over.insert(topic, why);
        }
    }

    /// It is looked again what may be fetched.
    pub(crate) fn forget_over_quota(&self) {
        self.over_quota.borrow_mut().clear();
    }

    /// Why content is not fetched that a full node should have, as far as quotas are why.
    pub(crate) fn over_quota(&self) -> Vec<String> {
        self.over_quota.borrow().values().map(|why| format!("not all content is fetched: {why}")).collect()
    }

    /// Whether the next user would be turned away.
    pub(crate) fn is_crowded(&self) -> bool {
        self.n_sessions.get() >= MAX_SESSIONS
    }

    /// How long the node has run.
    pub(crate) fn uptime(&self) -> Duration {
        Duration::from_micros(self.clock.now().0)
    }

    /// Whether users or peers move content, which work that nobody waits for makes way for.
    pub(crate) fn is_busy(&self) -> bool {
        [&self.session_credits, &self.ingest_credits, &self.fetch_credits, &self.serve_credits]
            .into_iter()
            .any(Credits::is_lent)
    }

    /// Whether somebody may change and stop the node.
    pub(crate) fn is_operator(&self, user: Option<&UserId>, uid: Option<u32>) -> bool {
        uid.is_some_and(|uid| uid == 0 || uid == self.uid)
            || user.is_some_and(|user| self.config.borrow().admins.contains(user))
    }
}

/// Makes a node.
#[derive(Debug, Clone)]
pub struct NodeBuilder {
    config: Config,
    sources: Option<Sources>,
    manager: Manager,
    patience: Patience,
}

impl NodeBuilder {
    /// A node with a configuration.
    pub fn new(config: Config) -> Self {
        Self { config, sources: None, manager: Manager::default(), patience: Patience::default() }
    }

    /// Has it wait for others as long as the test wants.
    #[doc(hidden)]
    #[must_use]
    pub fn patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    /// Where [`Handle::reload`] reads the configuration again.
    #[must_use]
    pub fn reload_from(self, sources: Sources) -> Self {
        Self { sources: Some(sources), ..self }
    }

    /// Who is told how the node is, when it runs as a service; nobody by default.
    #[must_use]
    pub fn manager(self, manager: Manager) -> Self {
        Self { manager, ..self }
    }

    /// Opens everything and begins to work on an executor. The node runs while the executor does, until it is stopped.
    ///
    /// # Errors
    /// [`NodeError`] naming what cannot be used; then nothing is left behind.
    pub fn start(self, spawner: &Spawner) -> Result<Node, NodeError> {
        let Self { config, sources, manager, patience } = self;
        let clock = Clock::default();
        let data_dir = config.data_dir.clone();
        let fail = |source| NodeError::DataDir { path: data_dir.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&data_dir).map_err(fail)?;
        let lock = DataDirLock::take(&data_dir)?;
        let key = identity::load_or_make(&data_dir)?;
        let id = key.node_id();
        log::info!(node:% = id, name = config.name.as_str(), data:% = data_dir.display(); "identity");

        let budget = Budget::of(config.memory);
        let pool = Pool::new(budget.pool_threads);
        let opening = manager.opening("opening the stores");
        let keys = keys(&data_dir, config.encrypt, &key, &budget)?;
        let keyring = keys.as_ref().map(|keys| keys.keyring.clone());
        let (store, store_thread) = Store::open(&data_dir, &budget, pool.clone(), keyring)?;
        drop(opening);
        if let Some(keys) = &keys {
            keys.vault.mend_copy();
            keys.vault.note_sealed();
        }
        let figures = store.stores().chunks().stats()?;
        log::info!(chunks = figures.n_chunks, stored_bytes = figures.stored_bytes; "store");

        let uid = rustix::process::geteuid().as_raw();
        let listener = Listener::bind(&config.socket, uid)?;
        let agent = concat!("bibd/", env!("CARGO_PKG_VERSION")).to_owned();
        let net_config = NetConfig {
            identity: key,
            listen: config.listen.clone(),
            security: config.security,
            agent,
            max_connections: budget.max_peers,
        };
        let net = Net::start(net_config, spawner.shared())?;
        log::info!(max_peers = budget.max_peers, memory = config.memory; "network");

        let (orders, received_orders) = async_channel::bounded(MAX_ORDERS);
        let ctx = Rc::new(Context {
            id,
            clock,
            patience,
            budget,
            data_dir,
            sources,
            manager,
            spawner: spawner.clone(),
            pool,
            store,
            keys: keys.map(Arc::new),
            network: Network::new(orders),
            fetches: Fetches::default(),
            mailbox: Mailbox::new(budget.mailbox_bytes),
            replicate: Signal::default(),
            workers: Workers::default(),
            refuses_operations: Cell::new(false),
            over_quota: RefCell::default(),
            care: Care::default(),
            pressed: Signal::default(),
            scrub: Signal::default(),
            session_credits: Credits::new(budget.session_bytes),
            ingest_credits: Credits::new(budget.n_ingests),
            backup_credits: Credits::new(1),
            fetch_credits: Credits::new(budget.fetch_bytes),
            serve_credits: Credits::new(budget.serve_bytes),
            peer_credits: Credits::new(budget.peer_bytes),
            shutdown: Shutdown::new(),
            halt: Shutdown::new(),
            config: RefCell::new(Rc::new(config)),
            uid,
            refusals: Seldom::default(),
            turned_away: Seldom::default(),
            n_sessions: Cell::new(0),
            session_ended: Signal::default(),
            _lock: lock,
        });
        let mut tasks = background::start(&ctx);
        tasks.extend([
            spawner.spawn("network", EventLoop::new(ctx.clone(), net, received_orders).run()),
            spawner.spawn("catalog", catalog_sync::run(ctx.clone())),
        ]);
        let socket = listener.path().to_owned();
        let control = spawner.spawn("control", accept(ctx.clone(), listener));
        if ctx.manager.is_there() {
            tasks.push(spawner.spawn("manager", systemd::report(ctx.clone())));
        }
        Ok(Node { ctx, socket, tasks, control, store_thread })
    }
}

/// The keys of what is stored, if it is encrypted. They are made, and on the disk, before the first byte is.
pub(crate) fn keys(
    data_dir: &Path,
    encrypt: bool,
    identity: &SecretKey,
    budget: &Budget,
) -> Result<Option<Keys>, NodeError> {
    if !encrypt {
        // Keys that sealed nothing are left by a start that found no space to seal what was there.
        return match Vault::is_in(data_dir) && Store::is_sealed(data_dir, budget)? {
            true => Err(NodeError::Encrypted),
            false => Ok(None),
        };
    }
    let vault = match Vault::open(data_dir, identity)? {
        Some(vault) => vault,
        // New keys beside a store that needs others would only hide what is wrong.
        None if Vault::has_copy(data_dir) || Store::is_sealed(data_dir, budget)? => {
            return Err(NodeError::KeysLost(Vault::path_in(data_dir)));
        }
        None => {
            let vault = Vault::create(data_dir, identity, timestamp())?;
            log::info!("keys for what is stored were made");
            vault
        }
    };
    if vault.has_sealed()
        && let Some(plain) = Store::plain_in(data_dir, budget)
    {
        return Err(NodeError::PlainStore(plain));
    }
    let keyring = Arc::new(vault.keyring()?);
    let figures = vault.figures();
    log::info!(
        cipher:? = keyring.cipher(), generation = figures.generation, data_keys = figures.data_keys.len();
        "what is stored is encrypted"
    );
    if figures.split.is_none_or(|split| split.is_stale) {
        log::warn!("nobody has shares of the key: if identity.pem is lost, so is the data; `bib admin keys split`");
    }
    Ok(Some(Keys { vault, keyring }))
}

/// A running node.
pub struct Node {
    ctx: Rc<Context>,
    socket: PathBuf,
    tasks: Vec<Task<Option<()>>>,
    control: Task<Option<()>>,
    store_thread: StoreThread,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("id", &self.ctx.id).finish_non_exhaustive()
    }
}

/// Controls a node from elsewhere on its thread. Cheap to clone.
#[derive(Clone)]
pub struct Handle(Rc<Context>);

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Handle").field(&self.0.id).finish()
    }
}

impl Handle {
    /// The node's id.
    pub fn id(&self) -> NodeId {
        self.0.id
    }

    /// Asks the node to stop after draining; returns whether this was the first time.
    pub fn shutdown(&self) -> bool {
        self.0.shutdown.trigger()
    }

    /// Asks the node to stop without draining. What was acknowledged is on the disk already.
    pub fn halt(&self) {
        self.0.shutdown.trigger();
        self.0.halt.trigger();
    }

    /// Reads the configuration again, all of it or nothing.
    pub async fn reload(&self) {
        admin::reload(&self.0).await;
    }

    /// Calls the node as its operator, or as a user whose identity the caller answers for.
    pub fn call(&self, user: Option<UserId>, request: Request) -> Call {
        let (events, received) = async_channel::bounded(4);
        let (feed, uploads) = control::uploads();
        let ctx = self.0.clone();
        let caller = Caller { user, uid: Some(self.0.uid), operator: true };
        let task = self.0.spawner.spawn("call", async move {
            let out = Output::Local(events);
            dispatch::call(&ctx, caller, request, uploads, &out).await
        });
        Call { ctx: self.0.clone(), events: received, feed, task: Some(task) }
    }
}

/// A call under way; dropping it ends it.
pub struct Call {
    ctx: Rc<Context>,
    events: Receiver<Event>,
    feed: Feed,
    task: Option<Task<Option<Result<(), Failure>>>>,
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call").finish_non_exhaustive()
    }
}

impl Call {
    /// The next event; `None` when the call is done.
    ///
    /// # Errors
    /// The [`Failure`] of the call.
    pub async fn next(&mut self) -> Result<Option<Event>, Failure> {
        if let Ok(event) = self.events.recv().await {
            return Ok(Some(event));
        }
        match self.task.take() {
            None => Ok(None),
            Some(task) => match task.await {
                Some(result) => result.map(|()| None),
                None => Err(Failure::new(ErrorCode::Internal, "the node failed at this call; its log says more")),
            },
        }
    }

    /// Hands in a part of an upload, when it is the turn of the call and there is memory for it. A call that has ended lets it fall.
    pub async fn upload(&self, part: UploadPart) {
        self.feed.opened().await;
        let permit = self.ctx.session_credits.borrow(session::len_of(&part)).await;
        self.feed.send(Incoming { part, permit }).await;
    }
}

impl Node {
    /// The node's id.
    pub fn id(&self) -> NodeId {
        self.ctx.id
    }

    /// Where it listens for users.
    pub fn socket(&self) -> &std::path::Path {
        &self.socket
    }

    /// A handle to control it with.
    pub fn handle(&self) -> Handle {
        Handle(self.ctx.clone())
    }

    /// Works until the node is asked to stop, drains and stops.
    pub async fn run(self) {
        self.ctx.shutdown.wait().await;
        log::info!(sessions = self.ctx.n_sessions.get(); "stopping");
        self.ctx.manager.stopping();
        // New users find no socket; those that are here may end what they began.
        self.control.cancel().await;
        let drained = async {
            while self.ctx.n_sessions.get() > 0 {
                self.ctx.session_ended.wait().await;
            }
        };
        // The rest of the time is for the store.
        match select(pin!(within(DRAIN - STORE_STOP, drained)), pin!(self.ctx.halt.wait())).await {
            Either::Left((Some(()), _)) => {}
            Either::Left((None, _)) => {
                log::warn!(sessions = self.ctx.n_sessions.get(); "work under way is given up");
            }
            Either::Right(_) => log::warn!("stopping at once"),
        }
        for task in self.tasks {
            task.cancel().await;
        }
        self.ctx.store.close();
        self.store_thread.join();
        log::info!("stopped");
    }
}

async fn accept(ctx: Rc<Context>, listener: Listener) {
    // Who reads this may ask, and stop the node: the executor runs.
    log::info!(socket:% = listener.path().display(); "listening for users");
    loop {
        let (stream, uid) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                log::warn!(error:% = error; "a user could not be let in");
                Timer::after(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if ctx.is_crowded() {
            let (level, unsaid) = ctx.turned_away.warning(ctx.clock.now());
            log::log!(level, sessions = MAX_SESSIONS, unsaid = unsaid; "a user is turned away: too many sessions");
            let failure = Failure::new(ErrorCode::Busy, format!("{MAX_SESSIONS} sessions are open, which is the most"));
            let failure = failure.hinted("wait until others have ended");
            ctx.spawner.spawn("turn away", session::turn_away(stream, failure)).detach();
            continue;
        }
        ctx.n_sessions.set(ctx.n_sessions.get() + 1);
        let ctx = ctx.clone();
        let spawner = ctx.spawner.clone();
        let task = async move {
            let _ended = Ended(ctx.clone());
            session::run(ctx, stream, uid).await;
        };
        spawner.spawn("session", task).detach();
    }
}

/// Counts a session out, however it ends.
struct Ended(Rc<Context>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.n_sessions.set(self.0.n_sessions.get() - 1);
        self.0.session_ended.notify();
    }
}
