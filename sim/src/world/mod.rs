//! A world of whole nodes in virtual time: the one door and a catalog that survives crashes, the machines of discovery,
//! reconciliation, gossip and transfer, and a chunk store that keeps what was flushed, on a network that cuts and loses.
//! Half of the worlds run on the real stores over disks that lose and tear what was not synced.
//!
//! Users publish at random nodes while links break, groups are cut off and nodes crash. When that is over, every node
//! has to come to hold the same operations, the same view of them and the content of all active versions, and nothing
//! that was acknowledged may be missing. A run is a function of its seed: [`Report::trace`] tells two runs apart.
//!
//! Deliberately absent: sockets and frames; a stream here delivers in order or ends.

mod log;
mod node;
mod people;
mod stores;
mod wires;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bib_core::catalog::{keys, list};
use bib_core::id::OpId;
use bib_core::port::Table;
use bib_core::time::{Instant, Timestamp};

use crate::rng::Rng;
use node::SimNode;
use wires::{Happening, Wires};

/// The time of day at which worlds begin.
const DAWN: Timestamp = Timestamp(1_800_000_000_000_000);

/// What a world is like. [`WorldConfig::of_seed`] draws one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorldConfig {
    /// Seed of everything that is left to chance.
    pub seed: u64,
    /// Nodes.
    pub n_nodes: usize,
    /// What users do in all.
    pub n_actions: usize,
    /// Gossip messages of a thousand that a link loses.
    pub gossip_lost_per_mille: u32,
    /// How long nodes run before users begin.
    pub warm_up: Duration,
    /// How long users are at work.
    pub busy: Duration,
    /// Groups cut off in that time.
    pub n_cuts: usize,
    /// Crashes in that time.
    pub n_crashes: usize,
    /// How far the clock of one node is ahead, in seconds; others are at most two seconds off.
    pub wrong_clock_s: i64,
    /// Whether nodes keep everything in the real stores on disks that lose what was not synced, or in memory.
    pub on_disk: bool,
}

impl WorldConfig {
    /// A world drawn by a seed.
    pub fn of_seed(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0xb1b0_0000_0000_0001);
        Self {
            seed,
            n_nodes: 3 + rng.below(5) as usize,
            n_actions: 20 + rng.below(60) as usize,
            gossip_lost_per_mille: [0, 30, 100, 400, 1_000][rng.below(5) as usize],
            warm_up: Duration::from_millis(rng.below(20_000)),
            busy: Duration::from_secs(30 + rng.below(200)),
            n_cuts: rng.below(4) as usize,
            n_crashes: rng.below(5) as usize,
            wrong_clock_s: if rng.chance(1, 5) { rng.below(1_800) as i64 - 900 } else { 0 },
            on_disk: rng.chance(1, 2),
        }
    }

    /// A world in which nothing goes wrong.
    pub const fn calm(seed: u64, n_nodes: usize, n_actions: usize) -> Self {
        let (warm_up, busy) = (Duration::from_secs(15), Duration::from_secs(60));
        Self {
            seed,
            n_nodes,
            n_actions,
            gossip_lost_per_mille: 0,
            warm_up,
            busy,
            n_cuts: 0,
            n_crashes: 0,
            wrong_clock_s: 0,
            on_disk: false,
        }
    }
}

/// What a run was like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// A number over everything that was delivered and every record at the end: equal for equal runs.
    pub trace: u64,
    /// Operations that all nodes hold in the end.
    pub n_ops: usize,
    /// Versions whose content all nodes hold in the end.
    pub n_versions: usize,
    /// Fetches that brought a version to a node.
    pub n_fetches: u64,
    /// Time from the commit of an operation at its node to the commit at each other one, ascending.
    pub latencies: Vec<Duration>,
    /// Time from the end of the last fault until all nodes were equal.
    pub settled_after: Duration,
    /// Bytes of requests and answers of discovery and reconciliation, and of gossip.
    pub bytes: u64,
    /// Gossip messages refused, over all nodes, by reason.
    pub gossip_refused: BTreeMap<String, u64>,
}

impl Report {
    /// The latency that so many percent of the cases stay below; zero without cases.
    pub fn latency(&self, percent: usize) -> Duration {
        let at = (self.latencies.len() * percent / 100).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(at).copied().unwrap_or_default()
    }
}

/// Runs a world to its end.
///
/// # Errors
/// A sentence about what did not hold.
pub fn run(config: WorldConfig) -> Result<Report, String> {
    log::begin();
    let mut world = World::new(config);
    let report = world.run();
    let errors = log::end();
    match errors.first() {
        Some(error) => Err(format!("an error was logged: {error}")),
        None => report,
    }
}

/// When, by a node's commits, an operation was there.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    first: Option<Instant>,
    elsewhere: Vec<Duration>,
}

/// What is noted during a run.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// Acknowledged operations and where.
    pub(crate) seen: BTreeMap<OpId, Seen>,
    /// Operations acknowledged to users.
    pub(crate) acknowledged: BTreeSet<OpId>,
    pub(crate) n_fetches: u64,
    /// What must never happen among honest nodes.
    pub(crate) broken: Option<String>,
}

impl Notes {
    pub(crate) fn broken(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    pub(crate) fn committed(&mut self, now: Instant, id: OpId) {
        let seen = self.seen.entry(id).or_default();
        match seen.first {
            None => seen.first = Some(now),
            Some(first) => seen.elsewhere.push(now.saturating_duration_since(first)),
        }
    }
}

struct World {
    config: WorldConfig,
    rng: Rng,
    now: Instant,
    nodes: Vec<SimNode>,
    wires: Wires,
    notes: Notes,
}

/// Longest time that nodes may need to become equal once nothing goes wrong any more: a redial, a round of comparisons
/// for each hop, and time for the content.
const SETTLE: Duration = Duration::from_secs(3_600);

/// A machine that wants to be woken again so often at the same moment would keep a real node's processor busy.
const MAX_TURNS: u32 = 1_000;

impl World {
    fn new(config: WorldConfig) -> Self {
        let mut rng = Rng::new(config.seed);
        let mut wires = Wires::new(rng.next_u64(), config.gossip_lost_per_mille);
        // A tree, so that all can reach all, and some more.
        let mut edges: BTreeSet<(usize, usize)> = BTreeSet::new();
        for node in 1..config.n_nodes {
            edges.insert((rng.below(node as u64) as usize, node));
        }
        for _ in 0..config.n_nodes {
            let (a, b) = (rng.below(config.n_nodes as u64) as usize, rng.below(config.n_nodes as u64) as usize);
            if a != b {
                edges.insert((a.min(b), a.max(b)));
            }
        }
        let nodes = (0..config.n_nodes).map(|at| {
            let dials: Vec<usize> = edges.iter().filter(|(_, b)| *b == at).map(|(a, _)| *a).collect();
            let skew = rng.below(4_000_000) as i64 - 2_000_000;
            let wrong = if at == 0 { config.wrong_clock_s * 1_000_000 } else { 0 };
            SimNode::new(at, dials, skew + wrong, config.on_disk)
        });
        let nodes = nodes.collect();
        let busy = config.busy.as_micros() as u64;
        for n in 0..config.n_actions {
            let at = Instant(1_000_000 + rng.below(busy)) + config.warm_up;
            wires.later(at, Happening::Action(n));
        }
        for _ in 0..config.n_cuts {
            let at = Instant(2_000_000 + rng.below(busy)) + config.warm_up;
            let group = (0..config.n_nodes).filter(|_| rng.chance(1, 2)).collect();
            wires.later(at, Happening::Cut(group));
        }
        for _ in 0..config.n_crashes {
            let at = Instant(2_000_000 + rng.below(busy)) + config.warm_up;
            wires.later(at, Happening::Crash(rng.below(config.n_nodes as u64) as usize));
        }
        for node in 0..config.n_nodes {
            wires.later(Instant(rng.below(1_000_000)), Happening::Start(node));
        }
        Self { config, rng, now: Instant(1), nodes, wires, notes: Notes::default() }
    }

    fn run(&mut self) -> Result<Report, String> {
        // Faults are over at the latest then: each cut heals and each crashed node starts again within a minute.
        let calm = Instant(7_000_000) + self.config.warm_up + self.config.busy + Duration::from_secs(60);
        self.run_until(calm)?;
        let deadline = calm + SETTLE;
        while !self.is_settled() {
            if self.now >= deadline {
                return Err(self.describe_difference());
            }
            self.run_until(self.now + Duration::from_secs(5))?;
        }
        self.check(calm)
    }

    fn run_until(&mut self, end: Instant) -> Result<(), String> {
        let mut n_turns = 0;
        loop {
            let timers = self.nodes.iter().filter_map(SimNode::next_at).map(|(at, _)| at);
            let Some(at) = timers.chain(self.wires.next_at()).min().filter(|at| *at <= end) else { break };
            n_turns = if at > self.now { 0 } else { n_turns + 1 };
            if n_turns > MAX_TURNS {
                let timers: Vec<_> = self.nodes.iter().map(SimNode::next_at).collect();
                return Err(format!("at {} ms time stands still: {timers:?}", self.now.0 / 1_000));
            }
            self.now = self.now.max(at);
            while let Some(happening) = self.wires.due(self.now) {
                self.happen(happening);
            }
            for node in &mut self.nodes {
                if node.next_at().is_some_and(|(at, _)| at <= self.now) {
                    node.handle_timeout(self.now, &mut self.wires, &mut self.notes);
                }
            }
            if let Some(broken) = self.notes.broken.take() {
                return Err(format!("at {} ms: {broken}", self.now.0 / 1_000));
            }
        }
        self.now = self.now.max(end);
        Ok(())
    }

    fn happen(&mut self, happening: Happening) {
        let (now, wires, notes) = (self.now, &mut self.wires, &mut self.notes);
        match happening {
            Happening::Start(node) => self.nodes[node].start(now, wires, notes),
            Happening::Action(n) => {
                let running: Vec<usize> = (0..self.nodes.len()).filter(|at| self.nodes[*at].is_up()).collect();
                if let Some(at) = running.get(self.rng.below(running.len() as u64) as usize) {
                    people::act(&mut self.nodes[*at], now, n, &mut self.rng, wires);
                }
            }
            Happening::Cut(group) => {
                wires.cut(now, &group, self.nodes.len());
                let heal = now + Duration::from_millis(15_000 + self.rng.below(40_000));
                wires.later(heal, Happening::Heal);
            }
            Happening::Heal => wires.heal(),
            Happening::Crash(node) if self.nodes[node].is_up() => {
                self.nodes[node].crash(self.rng.next_u64());
                wires.crash(now, node);
                wires.later(now + Duration::from_millis(100 + self.rng.below(20_000)), Happening::Start(node));
            }
            Happening::Crash(_) => {}
            Happening::Dialled { from, boot, to, address } => {
                if !self.nodes[from].is_boot(boot) {
                    return;
                }
                if !self.nodes[to].is_up() || wires.is_cut(from, to) {
                    return self.nodes[from].dial_failed(now, &address, wires, notes);
                }
                let number = wires.connect(from, to);
                self.nodes[from].connected(now, (to, number), Some(&address), wires, notes);
                self.nodes[to].connected(now, (from, number), None, wires, notes);
            }
            Happening::Lost { node, peer, number } => self.nodes[node].lost(now, (peer, number), wires, notes),
            Happening::Commit { node, boot } => {
                if self.nodes[node].is_boot(boot) {
                    self.nodes[node].commit(now, wires, notes);
                }
            }
            Happening::Flushed { node, boot, fetch, token } => {
                if self.nodes[node].is_boot(boot) {
                    self.nodes[node].flushed(now, (fetch, token), wires, notes);
                }
            }
            Happening::Arrived(delivery) => {
                if self.nodes[delivery.to].is_up() {
                    self.nodes[delivery.to].receive(now, delivery.from, delivery.message, wires, notes);
                }
            }
        }
    }

    fn is_settled(&self) -> bool {
        let first = &self.nodes[0];
        self.nodes.iter().all(|node| {
            node.is_up()
                && node.is_quiet()
                && node.stores.dump(Table::OpOrder) == first.stores.dump(Table::OpOrder)
                && node.stores.dump(Table::Parked).is_empty()
                && node.n_missing() == 0
        })
    }

    fn describe_difference(&self) -> String {
        let mut text = String::from("the nodes do not become equal:");
        for (at, node) in self.nodes.iter().enumerate() {
            let read = node.stores.catalog().begin_read().expect("the catalog can be read");
            let counts = list::counts(&*read).expect("the catalog reads back");
            text.push_str(&format!(
                " [{at}: up {}, quiet {}, {} operations, {} parked, {} versions without content]",
                node.is_up(),
                node.is_quiet(),
                counts.n_ops,
                counts.n_parked,
                node.n_missing(),
            ));
        }
        text
    }

    fn check(&mut self, calm: Instant) -> Result<Report, String> {
        let views = [
            Table::Meta,
            Table::Ops,
            Table::OpOrder,
            Table::Heads,
            Table::Topics,
            Table::TopicNames,
            Table::Datasets,
            Table::DatasetNames,
            Table::Versions,
            Table::VersionOrder,
            Table::Grants,
            Table::Fields,
        ];
        // What a node keeps, and for how long, is its own business.
        let dump = |node: &SimNode, table| {
            let mut records = node.stores.dump(table);
            records.retain(|(key, _)| table != Table::Meta || !keys::is_local(key));
            records
        };
        for table in views {
            let expected = dump(&self.nodes[0], table);
            for (at, node) in self.nodes.iter().enumerate() {
                if dump(node, table) != expected {
                    return Err(format!("nodes 0 and {at} hold the same operations and differ in the table {table:?}"));
                }
            }
            for (key, value) in expected {
                self.wires.mix(&key);
                self.wires.mix(&value);
            }
        }
        let ops = self.nodes[0].stores.dump(Table::Ops);
        let held: BTreeSet<OpId> = ops.iter().filter_map(|(key, _)| OpId::from_slice(key)).collect();
        if let Some(lost) = self.notes.acknowledged.iter().find(|id| !held.contains(id)) {
            return Err(format!("operation {lost} was acknowledged and is lost"));
        }
        let mut latencies: Vec<Duration> =
            self.notes.seen.values().flat_map(|seen| seen.elsewhere.iter().copied()).collect();
        latencies.sort_unstable();
        let mut gossip_refused = BTreeMap::new();
        for (reason, n) in self.nodes.iter().flat_map(SimNode::gossip_refused) {
            *gossip_refused.entry(reason).or_default() += n;
        }
        Ok(Report {
            trace: self.wires.trace(),
            n_ops: held.len(),
            n_versions: self.nodes[0].stores.dump(Table::Versions).len(),
            n_fetches: self.notes.n_fetches,
            latencies,
            settled_after: self.now.saturating_duration_since(calm),
            bytes: self.wires.control_bytes(),
            gossip_refused,
        })
    }
}
