//! Which removals count: the order in which they are confirmed, and what that makes of everything else.

use std::collections::{BTreeMap, BTreeSet};

use super::judge::View;
use super::{AccessLog, Denial, Idx, Verdict};
use crate::id::{OpId, UserId};
use crate::op::operation::{Resource, Role};

/// So many undecided removals are weighed against each other at once, lowest position first. The work grows with the
/// square of this.
const MAX_WEIGHED: usize = 32;

/// The verdicts, and the decisions from which they follow.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
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
        self.verdicts[i].is_valid()
    }
}

impl AccessLog {
    /// Judges everything.
    pub(super) fn resolve(&self) -> State {
        let mut vetoed = BTreeSet::new();
        loop {
            let state = self.confirm_all(&vetoed);
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

    fn confirm_all(&self, vetoed: &BTreeSet<Idx>) -> State {
        let mut state = State { vetoed: vetoed.clone(), ..State::default() };
        self.judge_all(&mut state);
        let has_concurrent: BTreeSet<Idx> = self.takings.iter().copied().filter(|i| self.has_concurrent(*i)).collect();
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
            // One that everything knows, or that knows everything, has no part in the conflict before or after it.
            let conflict: Vec<Idx> = undecided.iter().copied().take_while(|i| has_concurrent.contains(i)).collect();
            let (next, losers) = self.choose(&state, &conflict);
            let strength = self.strength(&state, next);
            state.confirmed.insert(next, strength);
            state.lost.extend(losers.into_iter().map(|loser| (loser, next)));
            self.judge_all(&mut state);
        }
    }

    fn judge_all(&self, state: &mut State) {
        state.verdicts = vec![Verdict::Valid; self.nodes.len()];
        for i in self.order.values() {
            state.verdicts[*i] = self.judge(state, *i);
        }
    }

    fn has_concurrent(&self, i: Idx) -> bool {
        let node = &self.nodes[i];
        let knowing = self.nodes.iter().filter(|other| other.past.has(node.place)).count();
        node.past.len() + knowing + 1 < self.nodes.len()
    }

    /// The removal to be confirmed next, and those that threaten it.
    fn choose(&self, state: &State, undecided: &[Idx]) -> (Idx, Vec<Idx>) {
        let n = undecided.len();
        let knows = |a: usize, b: usize| self.nodes[undecided[b]].past.has(self.nodes[undecided[a]].place);
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
        self.root.is_none() || self.has_owner_in(state, &View::of(&self.chains.all()))
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
            without.verdicts[*i] = Verdict::Denied(Denial::LastOwner(self.nodes[*i].op.topic()));
            self.n_ownerships(&without, &taking.user) > self.n_ownerships(state, &taking.user)
        };
        self.takings.iter().rev().copied().filter(|i| state.is_valid(*i)).find(ended_owner)
    }

    /// Permanent ownerships of the root that a user holds.
    fn n_ownerships(&self, state: &State, user: &UserId) -> usize {
        self.n_ownerships_in(state, &View::of(&self.chains.all()), user)
    }

    fn n_ownerships_in(&self, state: &State, view: &View<'_>, user: &UserId) -> usize {
        let rights = self.rights(state, view, user).into_iter();
        let root = self.root.map(Resource::Topic);
        rights
            .filter(|held| Some(held.resource) == root && held.role == Role::Owner && held.expires_at.is_none())
            .count()
    }
}
