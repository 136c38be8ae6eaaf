//! What a node does with its peers, so that all come to hold the same operations: compares catalogs, tells of changes,
//! subscribes to gossip, remembers peers and dials the configured ones.
//!
//! With each peer, on connecting and every [`limits::SYNC_INTERVAL`]: one `PeerInfo`; where the fingerprints of the whole
//! catalogs are equal, that is all. Else the peer's topics are listed page by page beside this node's own; those whose
//! heads differ are reconciled (the event [`DiscoveryEvent::Sync`]), and those that the peer does not list are announced
//! to it, deleted ones included, so that also a deletion arrives. Changes made here, or brought by reconciliation, are
//! announced to the other peers a moment later; changes that gossip brought are gossip's to spread.
//!
//! Invariant: whatever gossip loses, two connected honest nodes come to hold the same operations.
//!
//! Deliberately absent: the reconciliation itself ([`sync`](super::sync)), the checks of gossip
//! ([`gossip`](super::gossip)), connections.
//!
//! Doors: `handle_*`, then [`Discovery::poll_transmit`], [`Discovery::poll_event`], [`Discovery::poll_timeout`], then
//! [`Discovery::handle_timeout`]. Those that read the catalog take it as argument: the state after the commit.

mod answer;
mod peers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::time::Duration;

use peers::{PeerBook, backoff};

use crate::api::event::Peer;
use crate::catalog::log::{self, Figures};
use crate::id::{NodeId, TopicId};
use crate::limits;
use crate::machine::bucket::PeerBuckets;
use crate::machine::gossip::gossip_topic_of;
use crate::machine::sync::{SyncEvent, TopicSync};
use crate::op::{Class, Operation};
use crate::port::{CatalogRead, StoreError};
use crate::time::{Instant, Timestamp};
use crate::wire::gossip::{GLOBAL, topic_name};
use crate::wire::message::{
    Bounded, DiscoveryRequest, DiscoveryResponse, Envelope, PeerInfo, Refusal, RefusalCode, TopicSummary,
};

/// How new operations came here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewsFrom {
    /// From a user of this node.
    Local,
    /// By gossip.
    Gossip,
    /// By reconciliation with a peer, whoever began it.
    Sync(NodeId),
}

/// What the node has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiscoveryEvent {
    /// Reconcile a topic with a peer; what its [`SyncEvent`]s say comes back by [`Discovery::handle_sync_event`].
    Sync {
        /// With whom.
        peer: NodeId,
        /// The topic.
        topic: TopicId,
        /// The topic above, where known.
        parent: Option<TopicId>,
    },
    /// Subscribe to a gossip topic.
    Subscribe(String),
    /// End a subscription.
    Unsubscribe(String),
    /// Dial an address.
    Dial {
        /// As in the configuration.
        address: String,
    },
    /// A peer does what an honest one never does: end the connection and do not dial it for a while.
    Misbehaved {
        /// Which.
        peer: NodeId,
        /// What it did.
        reason: String,
    },
}

/// Topics whose heads this node looks up for one request of a peer; more count as further requests.
const HEADS_PER_TOKEN: u32 = 32;

/// A reconciliation that was asked for.
#[derive(Debug, Clone, Copy, Default)]
struct Outstanding {
    /// The peer listed it and nothing of it was here.
    is_unknown: bool,
    /// Heads that the peer told of meanwhile: where they are not reached, it is reconciled again.
    again: Option<[u8; 32]>,
}

#[derive(Debug)]
enum Ask {
    Info,
    List { after: Option<TopicId> },
    Announce(Vec<TopicId>),
}

/// What is under way with a connected peer.
#[derive(Debug)]
struct Link {
    /// The request that is not answered, and until when it should be.
    asked: Option<(u64, Instant, Ask)>,
    /// The page of its topics to ask for next.
    listing: Option<Option<TopicId>>,
    /// When to compare catalogs next.
    due: Instant,
    /// Comparisons that failed in a row.
    n_failures: u32,
    /// No request before then.
    not_before: Instant,
    outstanding: BTreeMap<TopicId, Outstanding>,
    to_announce: BTreeSet<TopicId>,
    announce_at: Instant,
    is_barred: bool,
}

impl Link {
    fn new(due: Instant) -> Self {
        Self {
            asked: None,
            listing: None,
            due,
            n_failures: 0,
            not_before: Instant::default(),
            outstanding: BTreeMap::new(),
            to_announce: BTreeSet::new(),
            announce_at: Instant::default(),
            is_barred: false,
        }
    }

    fn announce(&mut self, topic: TopicId, at: Instant) {
        if self.to_announce.len() >= limits::MAX_ANNOUNCED {
            // The next comparison finds it.
            self.due = self.due.min(at + limits::COMPARE_GRACE);
            return;
        }
        self.announce_at = if self.to_announce.is_empty() { at } else { self.announce_at.min(at) };
        self.to_announce.insert(topic);
    }

    fn round_failed(&mut self, now: Instant) {
        self.listing = None;
        self.n_failures += 1;
        self.due = now + backoff(self.n_failures, limits::SYNC_INTERVAL);
    }

    fn has_room(&self) -> bool {
        self.outstanding.len() < limits::MAX_TOPICS_OUTSTANDING
    }

    /// When something is to be asked, if the peer may be asked then.
    fn next_at(&self) -> Option<(Instant, &'static str)> {
        if self.is_barred {
            return None;
        }
        if let Some((_, deadline, _)) = &self.asked {
            return Some((*deadline, "a request is unanswered"));
        }
        let listing = self.listing.filter(|_| self.has_room()).map(|_| (Instant::default(), "a page of topics"));
        let announce = (!self.to_announce.is_empty()).then_some((self.announce_at, "an announcement"));
        let compare = self.listing.is_none().then_some((self.due, "the next comparison"));
        let next = [announce, listing, compare].into_iter().flatten().min()?;
        Some((next.0.max(self.not_before), next.1))
    }
}

/// See the module.
#[derive(Debug)]
pub struct Discovery {
    me: NodeId,
    /// Fingerprint of all operations here; `None` since the last change until it is asked for.
    catalog: Option<[u8; 16]>,
    links: BTreeMap<NodeId, Link>,
    book: PeerBook,
    buckets: PeerBuckets,
    /// Gossip topics subscribed to, with a number that grows with each change.
    subscribed: BTreeMap<TopicId, u64>,
    max_subscribed: usize,
    n_changes: u64,
    last_sync: Option<Timestamp>,
    errors: BTreeMap<TopicId, String>,
    next: u64,
    transmits: VecDeque<(NodeId, Envelope<DiscoveryRequest>)>,
    events: VecDeque<DiscoveryEvent>,
}

impl Discovery {
    /// The machine of a node; `configured` are the addresses of peers that it should always be connected to.
    pub fn new(me: NodeId, configured: &[String]) -> Self {
        Self {
            me,
            catalog: None,
            links: BTreeMap::new(),
            book: PeerBook::new(me, configured),
            buckets: PeerBuckets::of_requests(),
            subscribed: BTreeMap::new(),
            max_subscribed: limits::MAX_GOSSIP_TOPICS,
            n_changes: 0,
            last_sync: None,
            errors: BTreeMap::new(),
            next: 1,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Begins: reads what is here, subscribes to gossip, dials. Also when operations became new here without being told:
    /// then catalogs are compared soon, so that what was not announced is found.
    ///
    /// # Errors
    /// [`StoreError`] when the catalog cannot be read.
    pub fn handle_started(&mut self, now: Instant, read: &dyn CatalogRead) -> Result<(), StoreError> {
        self.events.push_back(DiscoveryEvent::Subscribe(GLOBAL.to_owned()));
        let mut topics = Vec::new();
        self.catalog = None;
        log::visit_logs(read, None, &mut |topic, _| {
            topics.push(topic);
            ControlFlow::Continue(())
        })?;
        // The ones changed last are the likeliest to change next.
        let mut latest: BTreeSet<(Timestamp, TopicId)> = BTreeSet::new();
        for id in topics {
            if let Some(topic) = answer::shown(read, &id)? {
                latest.insert((topic.updated_at, id));
                if latest.len() > self.max_subscribed {
                    latest.pop_first();
                }
            }
        }
        for (_, topic) in latest {
            self.subscribe(topic);
        }
        for link in self.links.values_mut() {
            link.due = link.due.min(now + limits::ANNOUNCE_DELAY);
        }
        self.dial(now);
        Ok(())
    }

    /// Takes notice of the first connection to a peer; `dialled` is the address, if this node dialled.
    pub fn handle_connected(
        &mut self,
        now: Instant,
        clock: Timestamp,
        read: &dyn CatalogRead,
        peer: NodeId,
        dialled: Option<&str>,
    ) -> Result<(), StoreError> {
        self.book.connected(clock, peer, dialled);
        let due = if self.me < peer { now } else { now + limits::COMPARE_GRACE };
        self.links.entry(peer).or_insert_with(|| Link::new(due));
        self.advance(now, read)
    }

    /// Takes notice that the last connection to a peer ended.
    pub fn handle_disconnected(&mut self, now: Instant, clock: Timestamp, peer: NodeId) {
        self.links.remove(&peer);
        self.transmits.retain(|(to, _)| *to != peer);
        self.book.disconnected(now, clock, peer);
        self.dial(now);
    }

    /// Takes notice that an address did not answer.
    pub fn handle_dial_failed(&mut self, now: Instant, address: &str) {
        self.book.dial_failed(now, address);
        self.dial(now);
    }

    /// Takes other addresses of peers that it should always be connected to, as the configuration was read again.
    pub fn handle_configured(&mut self, now: Instant, addresses: &[String]) {
        self.book.configure(self.me, addresses);
        self.dial(now);
    }

    /// Takes what a peer says of itself when it connects.
    pub fn handle_identified(&mut self, peer: NodeId, addresses: &[String], agent: &str) {
        self.book.told(peer, addresses, Some(agent), None);
    }

    /// Takes a measured round trip.
    pub fn handle_rtt(&mut self, clock: Timestamp, peer: NodeId, rtt: Duration) {
        self.book.rtt(clock, peer, rtt);
    }

    /// Answers a request of a peer. `me` is what this node says of itself; its `catalog` is filled in here.
    ///
    /// # Errors
    /// [`StoreError`] when the catalog cannot be read; the peer is then best told [`RefusalCode::Internal`].
    pub fn handle_request(
        &mut self,
        now: Instant,
        read: &dyn CatalogRead,
        peer: NodeId,
        request: Envelope<DiscoveryRequest>,
        me: &PeerInfo,
    ) -> Result<Envelope<DiscoveryResponse>, StoreError> {
        let Envelope { req, body } = request;
        let refused = |code, message: String| DiscoveryResponse::Refused(Refusal { code, message });
        let body = if !self.buckets.take(now, peer) {
            refused(RefusalCode::RateLimited, "too many requests".to_owned())
        } else if let Err(error) = body.check() {
            refused(RefusalCode::Invalid, error.to_string())
        } else {
            match body {
                DiscoveryRequest::PeerInfo => {
                    DiscoveryResponse::PeerInfo(PeerInfo { catalog: self.catalog(read)?, ..me.clone() })
                }
                DiscoveryRequest::ListTopics { after, limit } => {
                    self.buckets.drain(now, peer, limit.min(limits::MAX_ITEMS_PER_MESSAGE as u32) / HEADS_PER_TOKEN);
                    answer::topics(read, after, limit)?
                }
                DiscoveryRequest::Find(query) => {
                    // It may walk through the whole catalog.
                    self.buckets.drain(now, peer, 9);
                    answer::find(read, query)?
                }
                DiscoveryRequest::Announce(heads) => {
                    self.buckets.drain(now, peer, heads.len() as u32 / HEADS_PER_TOKEN);
                    let mut wanted = answer::differing(read, &heads)?;
                    let heads: BTreeMap<TopicId, [u8; 32]> = heads.into_iter().collect();
                    wanted.retain(|topic| self.want(peer, *topic, None, false, heads.get(topic).copied()));
                    DiscoveryResponse::Wanted(wanted)
                }
            }
        };
        Ok(Envelope { req, body })
    }

    /// Takes an answer of a peer.
    ///
    /// # Errors
    /// [`StoreError`] when the catalog cannot be read.
    pub fn handle_response(
        &mut self,
        now: Instant,
        read: &dyn CatalogRead,
        peer: NodeId,
        response: Envelope<DiscoveryResponse>,
    ) -> Result<(), StoreError> {
        let Some(link) = self.links.get_mut(&peer) else { return Ok(()) };
        let Some((_, _, ask)) = link.asked.take_if(|(req, _, _)| *req == response.req) else { return Ok(()) };
        if response.body.check().is_err() {
            self.misbehaved(peer, "an answer is too long");
            return Ok(());
        }
        match (ask, response.body) {
            (Ask::Info, DiscoveryResponse::PeerInfo(info)) => self.take_info(now, read, peer, &info)?,
            (Ask::List { after }, DiscoveryResponse::Topics { topics, more }) => {
                self.take_topics(now, read, peer, after, &topics, more)?;
            }
            (Ask::Announce(_), DiscoveryResponse::Wanted(_)) => {}
            (ask, DiscoveryResponse::Refused(refusal)) => {
                if matches!(refusal.code, RefusalCode::RateLimited | RefusalCode::Busy) {
                    link.not_before = now + limits::SYNC_PAUSE;
                    match ask {
                        Ask::Info => link.due = now,
                        Ask::List { after } => link.listing = Some(after),
                        Ask::Announce(topics) => topics.into_iter().for_each(|topic| link.announce(topic, now)),
                    }
                } else {
                    link.round_failed(now);
                }
            }
            _ => self.misbehaved(peer, "an answer to another question"),
        }
        self.advance(now, read)
    }

    /// Takes notice that the stream of this node's requests to a peer ended, or could not be opened.
    pub fn handle_closed(&mut self, now: Instant, peer: NodeId) {
        if let Some(link) = self.links.get_mut(&peer)
            && let Some((_, _, ask)) = link.asked.take()
        {
            if let Ask::Announce(topics) = ask {
                let at = now + limits::RETRY_MIN;
                topics.into_iter().for_each(|topic| link.announce(topic, at));
            }
            link.round_failed(now);
            link.not_before = now + limits::SYNC_PAUSE;
        }
    }

    /// Takes operations that are new in the logs here, as the commit left them. What of [`NewsFrom::Local`] is to be
    /// gossiped is told by [`GossipGate::tell`](super::gossip::GossipGate::tell).
    ///
    /// # Errors
    /// [`StoreError`] when the catalog cannot be read.
    pub fn handle_new_ops(
        &mut self,
        now: Instant,
        read: &dyn CatalogRead,
        from: NewsFrom,
        ops: &[Operation],
    ) -> Result<(), StoreError> {
        self.catalog = None;
        let topics: BTreeSet<TopicId> = ops.iter().map(Operation::topic).collect();
        let mut heard: BTreeSet<TopicId> = ops.iter().filter_map(gossip_topic_of).collect();
        heard.extend(&topics);
        for topic in heard {
            match answer::shown(read, &topic)? {
                Some(topic) => self.subscribe(topic.id),
                None => self.unsubscribe(topic),
            }
        }
        let not_to = match from {
            NewsFrom::Gossip => return self.advance(now, read),
            NewsFrom::Local => None,
            NewsFrom::Sync(peer) => Some(peer),
        };
        for (_, link) in self.links.iter_mut().filter(|(peer, _)| Some(**peer) != not_to) {
            topics.iter().for_each(|topic| link.announce(*topic, now + limits::ANNOUNCE_DELAY));
        }
        self.advance(now, read)
    }

    /// Reconciles a topic now, because gossip told of something that is not here or waits for others. `via` are who
    /// should know, the likeliest first; of the connected ones the first is asked, else any.
    pub fn handle_heads(&mut self, topic: TopicId, via: &[NodeId]) {
        let connected = via.iter().find(|peer| self.links.contains_key(peer)).copied();
        if let Some(peer) = connected.or_else(|| self.links.keys().next().copied()) {
            self.want(peer, topic, None, false, Some([0; 32]));
        }
    }

    /// Takes an event of the reconciliation with a peer; [`SyncEvent::Take`] does not concern it.
    ///
    /// # Errors
    /// [`StoreError`] when the catalog cannot be read.
    pub fn handle_sync_event(
        &mut self,
        now: Instant,
        clock: Timestamp,
        read: &dyn CatalogRead,
        peer: NodeId,
        event: &SyncEvent,
    ) -> Result<(), StoreError> {
        let Some(link) = self.links.get_mut(&peer) else { return Ok(()) };
        match event {
            SyncEvent::Take { .. } => {}
            SyncEvent::Done { topic, received, refused, .. } => {
                self.last_sync = Some(clock);
                self.errors.remove(topic);
                let Some(outstanding) = link.outstanding.remove(topic) else { return Ok(()) };
                let is_empty = *received == 0 && *refused == 0 && outstanding.is_unknown;
                // By a clock that is far behind, its first operation may have to wait here.
                if is_empty && log::heads(read, topic, Class::Access, 1)?.is_empty() && log::parked(read, topic)? == 0 {
                    self.misbehaved(peer, "it lists topics that it does not hold");
                } else if let Some(heads) = outstanding.again
                    && log::heads_hash(read, topic)? != heads
                {
                    self.want(peer, *topic, None, false, None);
                }
            }
            SyncEvent::Failed { topic, failure } => {
                link.outstanding.remove(topic);
                link.due = link.due.min(now + limits::RETRY_MIN);
                self.remember_error(*topic, failure.to_string());
            }
            SyncEvent::Stopped { failure } => {
                let topics = std::mem::take(&mut link.outstanding);
                link.is_barred |= failure.is_misbehaviour();
                link.round_failed(now);
                for topic in topics.into_keys() {
                    self.remember_error(topic, failure.to_string());
                }
                if failure.is_misbehaviour() {
                    self.misbehaved(peer, &failure.to_string());
                }
            }
        }
        self.advance(now, read)
    }

    /// The next request to send, and to whom.
    pub fn poll_transmit(&mut self) -> Option<(NodeId, Envelope<DiscoveryRequest>)> {
        self.transmits.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<DiscoveryEvent> {
        self.events.pop_front()
    }

    /// When to call [`Discovery::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let links = self.links.values().filter_map(Link::next_at);
        links.chain(self.book.next_due().map(|at| (at, "dialling a configured peer"))).min()
    }

    /// Does what is due.
    ///
    /// # Errors
    /// [`StoreError`] when the catalog cannot be read.
    pub fn handle_timeout(&mut self, now: Instant, read: &dyn CatalogRead) -> Result<(), StoreError> {
        let is_late = |link: &Link| link.asked.as_ref().is_some_and(|(_, deadline, _)| *deadline <= now);
        let late: Vec<NodeId> = self.links.iter().filter(|(_, link)| is_late(link)).map(|(peer, _)| *peer).collect();
        late.into_iter().for_each(|peer| self.handle_closed(now, peer));
        self.dial(now);
        self.advance(now, read)
    }

    /// What is remembered of peers.
    pub fn peers(&self) -> Vec<Peer> {
        self.book.list()
    }

    /// How synchronisation of a topic stands.
    pub fn topic_sync(&self, topic: &TopicId) -> TopicSync {
        TopicSync {
            in_progress: self.links.values().any(|link| link.outstanding.contains_key(topic)),
            last_sync: self.last_sync,
            last_error: self.errors.get(topic).cloned(),
        }
    }

    /// Topics that are being reconciled, over all peers.
    pub fn n_syncing(&self) -> usize {
        self.links.values().map(|link| link.outstanding.len()).sum()
    }

    fn misbehaved(&mut self, peer: NodeId, reason: &str) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.is_barred = true;
            link.asked = None;
            link.outstanding.clear();
        }
        self.events.push_back(DiscoveryEvent::Misbehaved { peer, reason: reason.to_owned() });
    }

    fn remember_error(&mut self, topic: TopicId, error: String) {
        if self.errors.len() >= limits::MAX_ITEMS_PER_MESSAGE && !self.errors.contains_key(&topic) {
            self.errors.pop_first();
        }
        self.errors.insert(topic, error);
    }

    /// Asks for a reconciliation; false when there is no room for it.
    fn want(
        &mut self,
        peer: NodeId,
        topic: TopicId,
        parent: Option<TopicId>,
        is_unknown: bool,
        heads: Option<[u8; 32]>,
    ) -> bool {
        let Some(link) = self.links.get_mut(&peer).filter(|link| !link.is_barred) else { return false };
        if let Some(outstanding) = link.outstanding.get_mut(&topic) {
            outstanding.again = heads.or(outstanding.again);
            return true;
        }
        // A page of topics may exceed the bound once; what others tell may not.
        if !link.has_room() && heads.is_some() {
            return false;
        }
        link.outstanding.insert(topic, Outstanding { is_unknown, again: None });
        self.events.push_back(DiscoveryEvent::Sync { peer, topic, parent });
        true
    }

    fn subscribe(&mut self, topic: TopicId) {
        self.n_changes += 1;
        if self.subscribed.insert(topic, self.n_changes).is_some() {
            return;
        }
        self.events.push_back(DiscoveryEvent::Subscribe(topic_name(&topic)));
        if self.subscribed.len() > self.max_subscribed
            && let Some(quiet) = self.subscribed.iter().min_by_key(|(_, change)| **change).map(|(topic, _)| *topic)
        {
            self.unsubscribe(quiet);
        }
    }

    fn unsubscribe(&mut self, topic: TopicId) {
        if self.subscribed.remove(&topic).is_some() {
            self.events.push_back(DiscoveryEvent::Unsubscribe(topic_name(&topic)));
        }
    }

    fn dial(&mut self, now: Instant) {
        let due = self.book.due(now);
        self.events.extend(due.into_iter().map(|address| DiscoveryEvent::Dial { address }));
    }

    fn catalog(&mut self, read: &dyn CatalogRead) -> Result<[u8; 16], StoreError> {
        if let Some(fingerprint) = self.catalog {
            return Ok(fingerprint);
        }
        let mut all = Figures::default();
        log::visit_logs(read, None, &mut |_, figures| {
            all.join(&figures);
            ControlFlow::Continue(())
        })?;
        Ok(*self.catalog.insert(all.fingerprint()))
    }

    fn take_info(
        &mut self,
        now: Instant,
        read: &dyn CatalogRead,
        peer: NodeId,
        info: &PeerInfo,
    ) -> Result<(), StoreError> {
        if info.node != peer {
            self.misbehaved(peer, "it claims to be another node");
            return Ok(());
        }
        self.book.told(peer, &info.addresses, None, Some(info.mode));
        let is_equal = info.catalog == self.catalog(read)?;
        let Some(link) = self.links.get_mut(&peer) else { return Ok(()) };
        if is_equal {
            link.n_failures = 0;
            link.due = now + limits::SYNC_INTERVAL;
        } else {
            link.listing = Some(None);
        }
        Ok(())
    }

    fn take_topics(
        &mut self,
        now: Instant,
        read: &dyn CatalogRead,
        peer: NodeId,
        after: Option<TopicId>,
        topics: &[TopicSummary],
        more: bool,
    ) -> Result<(), StoreError> {
        let ascending = topics.windows(2).all(|pair| pair[0].id < pair[1].id);
        let begins_behind = topics.first().is_none_or(|first| after.is_none_or(|after| after < first.id));
        let last = topics.last().map(|topic| topic.id);
        if !ascending || !begins_behind || (more && last.is_none()) {
            self.misbehaved(peer, "its list of topics is not in order");
            return Ok(());
        }
        for listed in topics {
            if log::heads_hash(read, &listed.id)? != listed.heads_hash {
                let is_unknown = log::heads(read, &listed.id, Class::Access, 1)?.is_empty();
                self.want(peer, listed.id, listed.parent, is_unknown, None);
            }
        }
        let Some(link) = self.links.get_mut(&peer) else { return Ok(()) };
        let end = last.filter(|_| more);
        let mut unlisted = topics.iter().map(|topic| topic.id).peekable();
        log::visit_logs(read, after.as_ref(), &mut |topic, _| {
            if end.is_some_and(|end| topic > end) {
                return ControlFlow::Break(());
            }
            while unlisted.next_if(|listed| *listed < topic).is_some() {}
            if unlisted.peek() != Some(&topic) {
                link.announce(topic, now);
            }
            ControlFlow::Continue(())
        })?;
        if more {
            link.listing = Some(last);
        } else {
            link.listing = None;
            link.n_failures = 0;
            link.due = now + limits::SYNC_INTERVAL;
        }
        Ok(())
    }

    /// Asks what is due, one request of each peer at a time.
    fn advance(&mut self, now: Instant, read: &dyn CatalogRead) -> Result<(), StoreError> {
        for (peer, link) in &mut self.links {
            if link.asked.is_some() || link.next_at().is_none_or(|(at, _)| at > now) {
                continue;
            }
            let (ask, body) = if !link.to_announce.is_empty() && link.announce_at <= now {
                let mut heads = Vec::new();
                while let Some(topic) = link.to_announce.pop_first() {
                    heads.push((topic, log::heads_hash(read, &topic)?));
                    if heads.len() == limits::MAX_ITEMS_PER_MESSAGE {
                        break;
                    }
                }
                let topics = heads.iter().map(|(topic, _)| *topic).collect();
                (Ask::Announce(topics), DiscoveryRequest::Announce(heads))
            } else if let Some(after) =
                link.listing.take_if(|_| link.outstanding.len() < limits::MAX_TOPICS_OUTSTANDING)
            {
                let limit = limits::MAX_ITEMS_PER_MESSAGE as u32;
                (Ask::List { after }, DiscoveryRequest::ListTopics { after, limit })
            } else {
                (Ask::Info, DiscoveryRequest::PeerInfo)
            };
            let req = self.next;
            self.next += 1;
            link.asked = Some((req, now + limits::SYNC_TIMEOUT, ask));
            self.transmits.push_back((*peer, Envelope { req, body }));
        }
        Ok(())
    }
}
