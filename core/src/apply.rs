//! The one door: every durable change of a node is a [`Command`], and is carried out here.
//!
//! Invariant: what the catalog says of topics, datasets, versions and rights depends on the set of operations in its
//! logs alone, never on the order in which they came. An operation is in a log when it was admitted: its parents are
//! there, it keeps the rules of form, and its author had the right by its past. Whether it counts follows from all
//! access operations together; when one of those changes that for others, the content it bears on is judged anew.
//!
//! # How an operation is taken
//! 1. What it builds on has to be here: its parents, its topic, and the dataset and versions that it names. Else it is
//!    parked, and taken when the last of them comes.
//! 2. Its time has to have come; else it is parked as well.
//! 3. Its form is checked against its parents, then its author's right. What fails is refused for good.
//! 4. It enters its log, the views change, and what waited for it is looked at.
//!
//! Operations of a user of this node are never parked. They are also held to the present state, so that a refusal says
//! what is wrong now, and they are taken together or not at all.
//!
//! Deliberately absent: signatures (an [`Operation`] has been checked), the clock (`now` is an argument), commits (the
//! caller's), and bytes of content.

mod admit;
mod grace;
mod judge;
mod overlay;
mod park;
mod present;
mod store;
mod views;

use std::collections::{BTreeMap, BTreeSet};

use crate::catalog::access::AccessCache;
use crate::catalog::{keys, log};
use crate::command::{Applied, Command, OpOutcome, Origin, Refused};
use crate::id::{TopicId, UserId};
use crate::limits;
use crate::op::Operation;
use crate::port::{CatalogTxn, StoreError, Table};
use crate::time::Timestamp;
use judge::Memory;
use overlay::Overlay;
use views::Views;

/// Carries out commands. What it remembers between them is a cache: one that was just made does the same.
#[derive(Debug)]
pub struct Reducer {
    access: AccessCache,
    memory: Memory,
}

impl Reducer {
    /// A reducer that keeps about `max_cached_bytes` of access operations in memory.
    pub fn new(max_cached_bytes: usize) -> Self {
        Self { access: AccessCache::new(max_cached_bytes), memory: Memory::default() }
    }

    /// The access logs, for questions between commands.
    pub const fn access(&mut self) -> &mut AccessCache {
        &mut self.access
    }

    /// Forgets what it knows of the catalog: due after a commit that failed.
    pub fn forget(&mut self) {
        self.access.forget();
        self.memory.forget();
    }

    /// Carries out a command. Nothing is durable before the transaction is committed; when that fails, or this does,
    /// [`Reducer::forget`] is due.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read or written, or holds something else than was written.
    pub fn apply(
        &mut self,
        txn: &mut dyn CatalogTxn,
        command: &Command,
        now: Timestamp,
    ) -> Result<Applied, StoreError> {
        match command {
            Command::Apply { ops, origin: Origin::Peer(_) } => {
                let mut work = Work::new(txn, self, now, false);
                work.release_due()?;
                let mut outcomes = Vec::with_capacity(ops.len());
                for op in ops {
                    outcomes.push(work.take(op)?);
                }
                work.finish(outcomes)
            }
            Command::Apply { ops, origin: Origin::User } => self.apply_for_user(txn, ops, now),
            Command::Stage(manifest) => grace::stage(txn, manifest, now).map(|()| Applied::default()),
            Command::ContentHere(manifest) => grace::here(txn, manifest, now).map(|()| Applied::default()),
            Command::Fetched { manifest, charge } => {
                grace::fetched(txn, manifest, *charge, now).map(|()| Applied::default())
            }
            Command::ContentLost(manifest) => grace::lost(txn, manifest).map(|()| Applied::default()),
            Command::ContentUsed(manifest) => grace::used(txn, manifest, now).map(|()| Applied::default()),
            Command::Keep { manifest, kept } => {
                grace::keep(txn, manifest, kept.as_ref(), now).map(|()| Applied::default())
            }
            Command::Release { hidden, shown } => grace::release(txn, hidden, shown, now).map(|()| Applied::default()),
            Command::Evict(manifests) => {
                manifests.iter().try_for_each(|manifest| grace::evict(txn, manifest))?;
                Ok(Applied::default())
            }
            Command::Note { worker, note } => {
                store::put(txn, Table::Meta, &keys::worker(worker), note)?;
                Ok(Applied::default())
            }
            Command::Expire { min_age } => {
                let mut work = Work::new(txn, self, now, false);
                work.release_due()?;
                work.expire_parked()?;
                let applied = work.finish(Vec::new())?;
                grace::charge_all(txn)?;
                grace::expire(txn, *min_age, now)?;
                Ok(applied)
            }
        }
    }

    fn apply_for_user(
        &mut self,
        txn: &mut dyn CatalogTxn,
        ops: &[Operation],
        now: Timestamp,
    ) -> Result<Applied, StoreError> {
        let mut overlay = Overlay::new(txn);
        let mut work = Work::new(&mut overlay, self, now, true);
        let mut outcomes = Vec::with_capacity(ops.len());
        for op in ops {
            let outcome = work.take(op)?;
            let is_refused = matches!(outcome, OpOutcome::Refused(_));
            outcomes.push(outcome);
            if is_refused {
                break;
            }
            // The next one is held to the state after this one.
            work.judge_anew()?;
        }
        let roots = work.roots.clone();
        let applied = work.finish(outcomes)?;
        if matches!(applied.outcomes.last(), Some(OpOutcome::Refused(_))) {
            for root in roots {
                self.access.forget_tree(&root);
            }
            self.memory.forget();
            let mut outcomes = applied.outcomes;
            let n_before = outcomes.len() - 1;
            outcomes[..n_before].iter_mut().filter(|done| **done == OpOutcome::New).for_each(|done| {
                *done = OpOutcome::Undone;
            });
            outcomes.resize(ops.len(), OpOutcome::Undone);
            return Ok(Applied { outcomes, ..Applied::default() });
        }
        overlay.commit()?;
        Ok(applied)
    }
}

/// Whose content of a topic has to be judged anew.
#[derive(Debug, Clone)]
enum Whose {
    Everyones,
    Of(BTreeSet<UserId>),
}

/// One command under way.
struct Work<'a> {
    txn: &'a mut dyn CatalogTxn,
    access: &'a mut AccessCache,
    memory: &'a mut Memory,
    now: Timestamp,
    is_for_user: bool,
    views: Views,
    new: Vec<Operation>,
    /// Of these, what waited was looked at.
    n_released: usize,
    /// Trees that changed.
    roots: BTreeSet<TopicId>,
    /// Content to be judged anew.
    doubtful: BTreeMap<TopicId, Whose>,
}

impl<'a> Work<'a> {
    fn new(txn: &'a mut dyn CatalogTxn, reducer: &'a mut Reducer, now: Timestamp, is_for_user: bool) -> Self {
        Self {
            txn,
            access: &mut reducer.access,
            memory: &mut reducer.memory,
            now,
            is_for_user,
            views: Views::new(now),
            new: Vec::new(),
            n_released: 0,
            roots: BTreeSet::new(),
            doubtful: BTreeMap::new(),
        }
    }

    fn take(&mut self, op: &Operation) -> Result<OpOutcome, StoreError> {
        if log::contains(&*self.txn, &op.id())? {
            return Ok(OpOutcome::Known);
        }
        let missing = self.missing(op)?;
        if !missing.is_empty() {
            return if self.is_for_user {
                let why = "it follows or names operations that are not known here";
                Ok(OpOutcome::Refused(Refused::NotFound(why.to_owned())))
            } else {
                self.park(op, missing)
            };
        }
        if op.time > self.now.saturating_add(limits::CLOCK_SKEW) {
            return if self.is_for_user { Ok(OpOutcome::Refused(Refused::Clock)) } else { self.park(op, missing) };
        }
        match self.admit(op)? {
            Ok(()) => {
                self.release_waiting()?;
                Ok(OpOutcome::New)
            }
            Err(refused) => Ok(OpOutcome::Refused(refused)),
        }
    }

    fn finish(mut self, outcomes: Vec<OpOutcome>) -> Result<Applied, StoreError> {
        self.judge_anew()?;
        let versions = self.views.new_versions(&*self.txn)?;
        Ok(Applied { outcomes, new: self.new, versions })
    }
}
