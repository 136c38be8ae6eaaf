//! Which removals count: the order in which they are confirmed, and what that makes of everything else.

use std::collections::{BTreeMap, BTreeSet};

use super::causal::OpSet;
use super::judge::View;
use super::{AccessLog, Denial, Idx, Verdict};
use crate::id::{OpId, TopicId, UserId};
use crate::op::operation::{Resource, Role};

/// So many undecided removals are weighed against each other at once, lowest position first. The work grows with the
/// square of this.
const MAX_WEIGHED: usize = 32;

/// The verdicts, and the decisions from which they follow.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    /// The operations that are looked at, closed under "and what it knew"; `None` is everything.
    pub(super) scope: Option<OpSet>,
    /// Those that count.
    pub(super) valid: OpSet,
    /// What is not in the scope is denied.
    pub(super) verdicts: Vec<Verdict>,
    /// Removals that count, and the role with which each was made.
    pub(super) confirmed: BTreeMap<Idx, Option<Role>>,
    /// Removals that threatened a confirmed one, and that one.
    pub(super) lost: BTreeMap<Idx, Idx>,
    /// Removals that would leave the root without an owner.
    pub(super) vetoed: BTreeSet<Idx>,
}

impl State {
    pub(super) fn is_valid(&self, i: Idx) -> bool {
        self.valid.has(i)
    }

    pub(super) fn is_in_scope(&self, i: Idx) -> bool {
        self.scope.as_ref().is_none_or(|scope| scope.has(i))
    }

    pub(super) fn set(&mut self, i: Idx, verdict: Verdict) {
        self.verdicts[i] = verdict;
        self.valid.set(i, verdict.is_valid());
    }

    /// Only what counts, without why the rest does not: that takes much less memory.
    pub(super) fn without_reasons(self) -> Self {
        let Self { scope, valid, confirmed, .. } = self;
        Self { scope, valid, confirmed, ..Self::default() }
    }
}

impl AccessLog {
    /// Judges everything.
    pub(super) fn resolve(&self) -> State {
        self.resolve_in(None)
    }

    /// Judges these operations as if there were no others: they have to be closed under "and what it knew".
    pub(super) fn resolve_in(&self, scope: Option<OpSet>) -> State {
        let mut vetoed = BTreeSet::new();
        loop {
            let state = self.confirm_all(&vetoed, scope.clone());
            if self.has_owner(&state) {
                return state;
            }
            match self.last_that_ended_an_owner(&state) {
                Some(i) => vetoed.insert(i),
                // No root yet.
                None => return state,
            };
        }
    }

    fn confirm_all(&self, vetoed: &BTreeSet<Idx>, scope: Option<OpSet>) -> State {
        let mut state = State { vetoed: vetoed.clone(), scope, ..State::default() };
        self.judge_all(&mut state);
        let takings = || self.takings.iter().copied().filter(|i| state.is_in_scope(*i));
        let has_concurrent: BTreeSet<Idx> = takings().filter(|i| self.has_concurrent(&state, *i)).collect();
        let knows = |a: Idx, b: Idx| self.nodes[b].past.has(a);
        let is_rival = |a: &Idx| takings().any(|b| *a != b && !knows(*a, b) && !knows(b, *a));
        let has_rival: BTreeSet<Idx> = has_concurrent.iter().copied().filter(is_rival).collect();
        loop {
            let undecided = self.takings.iter().filter(|i| state.is_valid(**i) && !state.confirmed.contains_key(i));
            let undecided: Vec<Idx> = undecided.copied().take(MAX_WEIGHED).collect();
            let Some(first) = undecided.first() else { return state };
            if !has_concurrent.contains(first) {
                // Everything else is before or after it, so that it changes no verdict.
                let strength = self.strength(&state, *first);
                state.confirmed.insert(*first, strength);
                continue;
            }
            // One that every other removal knows, or that knows every other, has no part in the conflict before or after
            // it.
            let conflict: Vec<Idx> = undecided.iter().copied().take_while(|i| has_rival.contains(i)).collect();
            let (next, losers) =
                if conflict.is_empty() { (*first, Vec::new()) } else { self.choose(&state, &conflict) };
            let strength = self.strength(&state, next);
            state.confirmed.insert(next, strength);
            state.lost.extend(losers.into_iter().map(|loser| (loser, next)));
            self.judge_all(&mut state);
        }
    }

    fn judge_all(&self, state: &mut State) {
        let outside = Verdict::Denied(Denial::UnknownTopic(self.root.unwrap_or_else(|| TopicId::from_bytes([0; 32]))));
        state.verdicts = vec![outside; self.nodes.len()];
        // A removal may lie behind what it voids: until it is judged it counts.
        state.valid = self.all_in(state);
        for i in self.order.values() {
            if state.is_in_scope(*i) {
                let verdict = self.judge(state, *i);
                state.set(*i, verdict);
            }
        }
    }

    fn has_concurrent(&self, state: &State, i: Idx) -> bool {
        let nodes = self.nodes.iter().enumerate();
        let knowing = nodes.filter(|(other, node)| node.past.has(i) && state.is_in_scope(*other)).count();
        let n = state.scope.as_ref().map_or(self.nodes.len(), OpSet::len);
        self.nodes[i].past.len() + knowing + 1 < n
    }

    /// Everything that is looked at.
    pub(super) fn all_in(&self, state: &State) -> OpSet {
        state.scope.clone().unwrap_or_else(|| self.all())
    }

    /// The removal to be confirmed next, and those that threaten it.
    fn choose(&self, state: &State, undecided: &[Idx]) -> (Idx, Vec<Idx>) {
        let n = undecided.len();
        let knows = |a: usize, b: usize| self.nodes[undecided[b]].past.has(undecided[a]);
        // before[b][a]: a has to be decided before b.
        let threat: Vec<Vec<bool>> = undecided
            .iter()
            .map(|a| {
                let mut trial = State { verdicts: Vec::new(), ..state.clone() };
                trial.confirmed.insert(*a, self.strength(state, *a));
                self.judge_all(&mut trial);
                undecided.iter().map(|b| !trial.is_valid(*b)).collect()
            })
            .collect();
        let mut reach: Vec<Vec<bool>> =
            (0..n).map(|a| (0..n).map(|b| a != b && (threat[a][b] || knows(a, b))).collect()).collect();
        for via in 0..n {
            for a in 0..n {
                for b in 0..n {
                    reach[a][b] |= reach[a][via] && reach[via][b];
                }
            }
        }
        // Nothing outside its ring comes before it, nothing undecided is in its past.
        let free = |b: &usize| (0..n).all(|a| a == *b || !reach[a][*b] || reach[*b][a]);
        let minimal = |b: &usize| (0..n).all(|a| !knows(a, *b));
        let candidates = (0..n).filter(|b| free(b) && minimal(b));
        let key = |b: &usize| (self.since(state, undecided[*b]), self.nodes[undecided[*b]].op.position());
        let chosen = candidates.min_by_key(key).unwrap_or(0);
        let losers = (0..n).filter(|a| *a != chosen && threat[*a][chosen]).map(|a| undecided[a]);
        (undecided[chosen], losers.collect())
    }

    /// Position of the right by which a removal was made.
    fn since(&self, state: &State, i: Idx) -> (u64, OpId) {
        let node = &self.nodes[i];
        self.authorise(state, &View::of(&node.past), &node.op).unwrap_or_else(|_| node.op.position())
    }

    /// Whether the root has a permanent owner.
    pub(super) fn has_owner(&self, state: &State) -> bool {
        self.root.is_none() || self.has_owner_in(state, &View::of(&self.all_in(state)))
    }

    pub(super) fn has_owner_in(&self, state: &State, view: &View<'_>) -> bool {
        let mut users = self.owners.iter().chain(self.moves_to.keys());
        users.any(|user| self.n_ownerships_in(state, view, user) > 0)
    }

    fn last_that_ended_an_owner(&self, state: &State) -> Option<Idx> {
        let root = Resource::Topic(self.root?);
        let ended_owner = |i: &Idx| {
            let Some(taking) = self.nodes[*i].taking else { return false };
            if taking.resource != root || taking.moves_to.is_some() {
                return false;
            }
            // What its user would hold if it did not count.
            let mut without = state.clone();
            without.set(*i, Verdict::Denied(Denial::LastOwner(self.nodes[*i].op.topic())));
            self.n_ownerships(&without, &taking.user) > self.n_ownerships(state, &taking.user)
        };
        self.takings.iter().rev().copied().filter(|i| state.is_valid(*i)).find(ended_owner)
    }

    /// Permanent ownerships of the root that a user holds.
    fn n_ownerships(&self, state: &State, user: &UserId) -> usize {
        self.n_ownerships_in(state, &View::of(&self.all_in(state)), user)
    }

    fn n_ownerships_in(&self, state: &State, view: &View<'_>, user: &UserId) -> usize {
        let rights = self.rights(state, view, user).into_iter();
        let root = self.root.map(Resource::Topic);
        rights
            .filter(|held| Some(held.resource) == root && held.role == Role::Owner && held.expires_at.is_none())
            .count()
    }
}
