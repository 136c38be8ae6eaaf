//! Which chunk or page to ask of which provider.
//!
//! Invariant: each piece in view is in one of four states. MISSING: asked of nobody. IN FLIGHT: asked of one provider,
//! or of two when the first one is slow and the second has nothing better to do, or overdue at both. VERIFYING: it has
//! come and the store is checking it. HAVE: it has left the picker. The pieces that may be asked (missing, or overdue
//! wherever they were asked) are exactly those in `free`, and `bytes` is the sum over what is in verification or was
//! asked and is not overdue.
//!
//! What is overdue at one provider still counts as asked of it: it may come late and is welcome then, but it is not
//! asked of that provider twice. Providers are known here by small numbers, their slots.
//!
//! Deliberately absent: requests, clocks that run out and what becomes of a provider that lies; see `provider`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::have::Have;
use super::outcome::AskOrder;
use crate::id::ChunkId;
use crate::time::Instant;

/// What a piece is; pages come first, because chunks are known by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A page of the manifest.
    Page,
    /// A chunk of content.
    Chunk,
}

#[derive(Debug, Clone, Copy)]
struct Ask {
    slot: usize,
    at: Instant,
    overdue: bool,
}

#[derive(Debug, Clone)]
struct Piece {
    kind: Kind,
    /// Chunks: place in manifest order. Pages: in the order they became known.
    index: u64,
    len: usize,
    asks: [Option<Ask>; 2],
    verifying: bool,
    /// One bit for each slot that said not to have it.
    lacks: u64,
}

impl Piece {
    fn asks(&self) -> impl Iterator<Item = &Ask> {
        self.asks.iter().flatten()
    }

    fn is_free(&self) -> bool {
        !self.verifying && self.asks().all(|ask| ask.overdue)
    }

    fn may_come_from(&self, slot: usize, have: &Have) -> bool {
        let lacks = self.lacks >> slot & 1 == 1;
        // Of pages a provider says nothing beforehand.
        !lacks && (self.kind == Kind::Page || have.may_have(self.index))
    }
}

#[derive(Debug, Clone, Default)]
struct Slot {
    is_active: bool,
    have: Have,
    /// Asked here and not overdue.
    bytes: usize,
}

/// What became of a piece that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It is wanted: to be verified.
    Verify,
    /// It is here already, or there is no room for it.
    Surplus,
}

/// What a slot may take from slower ones.
#[derive(Debug, Default)]
pub(super) struct TakeOver {
    /// Pieces of one kind, now asked of this slot too.
    pub(super) picked: Option<(Kind, Vec<ChunkId>)>,
    /// When there will be more.
    pub(super) next: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Picker {
    order: AskOrder,
    capacity_bytes: usize,
    pieces: BTreeMap<ChunkId, Piece>,
    free: BTreeMap<(Kind, u64), ChunkId>,
    slots: Vec<Slot>,
    bytes: usize,
}

impl Picker {
    pub(super) const fn new(order: AskOrder, capacity_bytes: usize) -> Self {
        Self { order, capacity_bytes, pieces: BTreeMap::new(), free: BTreeMap::new(), slots: Vec::new(), bytes: 0 }
    }

    /// Pieces in view.
    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Bytes in verification, or asked and not overdue.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Pieces that may be asked of somebody.
    pub(super) fn n_free(&self) -> usize {
        self.free.len()
    }

    /// Makes room for a provider.
    pub(super) fn add_slot(&mut self) -> usize {
        self.slots.push(Slot::default());
        self.slots.len() - 1
    }

    /// Whether a provider is used now; rarity and shares count these.
    pub(super) fn set_active(&mut self, slot: usize, is_active: bool) {
        self.slots[slot].is_active = is_active;
    }

    /// What a provider holds, as it says.
    pub(super) fn set_have(&mut self, slot: usize, have: Have) {
        self.slots[slot].have = have;
    }

    /// What a provider said it holds.
    pub(super) fn have(&self, slot: usize) -> &Have {
        &self.slots[slot].have
    }

    /// Forgets bitmaps that do not belong to a manifest of so many chunks.
    pub(super) fn check_haves(&mut self, n_chunks: u64) {
        for slot in &mut self.slots {
            slot.have = std::mem::take(&mut slot.have).checked(n_chunks);
        }
    }

    /// Whether a provider has said that it holds this piece.
    pub(super) fn has_promised(&self, id: &ChunkId, slot: usize) -> bool {
        match (&self.slots[slot].have, self.pieces.get(id)) {
            (Have::All, _) => true,
            (have @ Have::Some(_), Some(piece)) => piece.kind == Kind::Chunk && have.may_have(piece.index),
            _ => false,
        }
    }

    /// Forgets what a provider said not to have.
    pub(super) fn forget_lacks(&mut self, slot: usize) {
        self.pieces.values_mut().for_each(|piece| piece.lacks &= !(1 << slot));
    }

    /// Whether a piece is in view and was asked of a slot, overdue or not.
    pub(super) fn is_asked(&self, id: &ChunkId, slot: usize) -> bool {
        self.pieces.get(id).is_some_and(|piece| piece.asks().any(|ask| ask.slot == slot))
    }

    /// Takes a piece into view: MISSING. One that is in view already stays as it is.
    pub(super) fn want(&mut self, id: ChunkId, kind: Kind, index: u64, len: usize) {
        if self.pieces.contains_key(&id) {
            return;
        }
        self.pieces.insert(id, Piece { kind, index, len, asks: [None; 2], verifying: false, lacks: 0 });
        self.free.insert((kind, index), id);
    }

    fn n_active(&self) -> usize {
        self.slots.iter().filter(|slot| slot.is_active).count().max(1)
    }

    /// Whether one more piece of this length may be asked of a slot.
    fn fits(&self, slot: usize, len: usize) -> bool {
        let (all, here) = (self.capacity_bytes, self.slots[slot].bytes);
        let in_all = self.bytes + len <= all || self.bytes == 0;
        in_all && (here + len <= all / self.n_active() || here == 0)
    }

    fn rarity(&self, piece: &Piece) -> usize {
        let may = |(at, slot): &(usize, &Slot)| slot.is_active && piece.may_come_from(*at, &slot.have);
        self.slots.iter().enumerate().filter(may).count()
    }

    /// Asks up to `max` pieces of one kind of a slot.
    pub(super) fn pick(&mut self, now: Instant, slot: usize, max: usize) -> Option<(Kind, Vec<ChunkId>)> {
        let fair = self.free.len().div_ceil(self.n_active());
        let max = max.min(fair);
        let may = |id: &ChunkId| {
            let piece = &self.pieces[id];
            let asked = piece.asks().any(|ask| ask.slot == slot);
            !asked && piece.may_come_from(slot, &self.slots[slot].have)
        };
        let mut found = self.free.iter().filter(|(_, id)| may(id)).map(|(&(kind, _), &id)| (kind, id)).peekable();
        let kind = found.peek()?.0;
        let found = found.take_while(|(other, _)| *other == kind).map(|(_, id)| id);
        let knows_rarity = self.slots.iter().any(|slot| slot.is_active && matches!(slot.have, Have::Some(_)));
        let ids: Vec<ChunkId> = if self.order == AskOrder::RarestFirst && kind == Kind::Chunk && knows_rarity {
            let mut all: Vec<(usize, u64, ChunkId)> =
                found.map(|id| (self.rarity(&self.pieces[&id]), self.pieces[&id].index, id)).collect();
            all.sort_unstable();
            all.into_iter().take(max).map(|(_, _, id)| id).collect()
        } else {
            found.take(max).collect()
        };
        self.ask(now, slot, kind, ids)
    }

    /// Asks pieces that others were asked `after` ago or longer of a slot that has nothing else to do.
    pub(super) fn take_over(&mut self, now: Instant, slot: usize, after: Duration, max: usize) -> TakeOver {
        let have = &self.slots[slot].have;
        let mut others: Vec<(Instant, Kind, ChunkId)> = Vec::new();
        for (id, piece) in &self.pieces {
            if let [Some(ask), None] | [None, Some(ask)] = piece.asks
                && !piece.verifying
                && !ask.overdue
                && ask.slot != slot
                && piece.may_come_from(slot, have)
            {
                others.push((ask.at + after, piece.kind, *id));
            }
        }
        others.sort_unstable();
        let next = others.iter().map(|(at, ..)| *at).find(|at| *at > now);
        let due = others.iter().take_while(|(at, ..)| *at <= now);
        let Some(&(_, kind, _)) = others.first().filter(|(at, ..)| *at <= now) else {
            return TakeOver { picked: None, next };
        };
        let ids = due.filter(|(_, other, _)| *other == kind).map(|(.., id)| *id).take(max).collect();
        TakeOver { picked: self.ask(now, slot, kind, ids), next }
    }

    /// Notes the asks that fit.
    fn ask(&mut self, now: Instant, slot: usize, kind: Kind, mut ids: Vec<ChunkId>) -> Option<(Kind, Vec<ChunkId>)> {
        ids.retain(|id| {
            let len = self.pieces[id].len;
            let fits = self.fits(slot, len);
            if fits {
                let ask = Some(Ask { slot, at: now, overdue: false });
                self.change(id, |piece| {
                    // Where two are overdue the older one is forgotten; what comes of it yet is late but welcome.
                    let place = match piece.asks {
                        [None, _] => 0,
                        [_, None] => 1,
                        [Some(first), Some(second)] => usize::from(second.at < first.at),
                    };
                    piece.asks[place] = ask;
                });
            }
            fits
        });
        (!ids.is_empty()).then_some((kind, ids))
    }

    /// Changes a piece and all that is summed up over it.
    fn change<R>(&mut self, id: &ChunkId, change: impl FnOnce(&mut Piece) -> R) -> Option<R> {
        let piece = self.pieces.get_mut(id)?;
        let before = piece.clone();
        let result = change(piece);
        let after = piece.clone();
        for (piece, is_added) in [(&before, false), (&after, true)] {
            let count = |sum: &mut usize| {
                *sum = if is_added { *sum + piece.len } else { *sum - piece.len };
            };
            for ask in piece.asks().filter(|ask| !ask.overdue) {
                count(&mut self.slots[ask.slot].bytes);
                count(&mut self.bytes);
            }
            if piece.verifying {
                count(&mut self.bytes);
            }
        }
        if after.is_free() {
            self.free.insert((after.kind, after.index), *id);
        } else {
            self.free.remove(&(after.kind, after.index));
        }
        Some(result)
    }

    fn drop_ask(piece: &mut Piece, slot: usize) -> Option<Ask> {
        let place = piece.asks.iter().position(|ask| ask.is_some_and(|ask| ask.slot == slot))?;
        piece.asks[place].take()
    }

    /// A piece asked of a slot has not come in time: others may be asked.
    pub(super) fn overdue(&mut self, id: &ChunkId, slot: usize) {
        self.change(id, |piece| {
            piece.asks.iter_mut().flatten().filter(|ask| ask.slot == slot).for_each(|ask| ask.overdue = true);
        });
    }

    /// A piece asked of a slot will not come from there: back to MISSING, unless it is asked elsewhere.
    pub(super) fn release(&mut self, id: &ChunkId, slot: usize) {
        self.change(id, |piece| Self::drop_ask(piece, slot));
    }

    /// A slot says not to have a piece.
    pub(super) fn lacks(&mut self, id: &ChunkId, slot: usize) {
        self.change(id, |piece| {
            piece.lacks |= 1 << slot;
            Self::drop_ask(piece, slot);
        });
    }

    /// A piece came from a slot that was asked for it once.
    pub(super) fn arrived(&mut self, id: &ChunkId, slot: usize) -> Arrival {
        let Some(piece) = self.pieces.get(id) else { return Arrival::Surplus };
        let (len, is_verifying) = (piece.len, piece.verifying);
        self.release(id, slot);
        // What comes in time goes from one sum into the other; what comes late has to fit.
        if is_verifying || !(self.bytes + len <= self.capacity_bytes || self.bytes == 0) {
            return Arrival::Surplus;
        }
        self.change(id, |piece| piece.verifying = true);
        Arrival::Verify
    }

    /// A piece in verification is not what it should be: back to MISSING, unless it is asked elsewhere too.
    pub(super) fn refused(&mut self, id: &ChunkId) {
        self.change(id, |piece| piece.verifying = false);
    }

    /// A piece is in the store: HAVE. Returns the slots that were asked for it in vain.
    pub(super) fn stored(&mut self, id: &ChunkId) -> Vec<usize> {
        let slots = self.change(id, |piece| {
            let slots = piece.asks().map(|ask| ask.slot).collect();
            piece.verifying = false;
            piece.asks = [None; 2];
            slots
        });
        if let Some(piece) = self.pieces.remove(id) {
            self.free.remove(&(piece.kind, piece.index));
        }
        slots.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Picker {
        /// Checks the invariant of the module against the pieces, one by one.
        fn check(&self) {
            let mut bytes = 0;
            let mut slots = vec![0; self.slots.len()];
            for (id, piece) in &self.pieces {
                assert_eq!(self.free.get(&(piece.kind, piece.index)) == Some(id), piece.is_free());
                bytes += if piece.verifying { piece.len } else { 0 };
                for ask in piece.asks().filter(|ask| !ask.overdue) {
                    bytes += piece.len;
                    slots[ask.slot] += piece.len;
                }
                if let [Some(first), Some(second)] = piece.asks {
                    assert_ne!(first.slot, second.slot);
                }
            }
            assert_eq!(self.free.len(), self.pieces.values().filter(|piece| piece.is_free()).count());
            assert_eq!(self.bytes, bytes);
            assert!(self.slots.iter().map(|slot| slot.bytes).eq(slots));
        }
    }

    const T0: Instant = Instant(0);

    fn id(n: u64) -> ChunkId {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        ChunkId::from_bytes(bytes)
    }

    /// A picker of `n` chunks of 100 bytes and `n_slots` active providers.
    fn picker(n: u64, n_slots: usize, capacity: usize) -> Picker {
        let mut picker = Picker::new(AskOrder::RarestFirst, capacity);
        for slot in 0..n_slots {
            assert_eq!(picker.add_slot(), slot);
            picker.set_active(slot, true);
        }
        (0..n).for_each(|n| picker.want(id(n), Kind::Chunk, n, 100));
        picker
    }

    fn pick(picker: &mut Picker, slot: usize, max: usize) -> Vec<u64> {
        let picked = picker.pick(T0, slot, max);
        picker.check();
        picked.map_or_else(Vec::new, |(_, ids)| ids.iter().map(number).collect())
    }

    fn number(id: &ChunkId) -> u64 {
        u64::from_le_bytes(id.as_bytes()[..8].try_into().unwrap())
    }

    fn some(n: u64, has: impl Fn(u64) -> bool) -> Have {
        let mut bits = vec![0; n.div_ceil(8) as usize];
        (0..n).filter(|n| has(*n)).for_each(|n| bits[n as usize / 8] |= 1 << (n % 8));
        Have::Some(bits)
    }

    #[test]
    fn equally_rare_chunks_are_asked_in_order_and_once() {
        let mut picker = picker(10, 2, 10_000);
        assert_eq!(pick(&mut picker, 0, 4), [0, 1, 2, 3]);
        assert_eq!(pick(&mut picker, 1, 4), [4, 5, 6]);
        assert_eq!(pick(&mut picker, 0, 4), [7, 8]);
        assert_eq!(pick(&mut picker, 1, 4), [9]);
        assert_eq!(pick(&mut picker, 1, 4), []);
    }

    #[test]
    fn rarest_chunks_come_first_unless_a_reader_waits() {
        for (order, expected) in [(AskOrder::RarestFirst, [1, 3, 5]), (AskOrder::Sequential, [0, 1, 2])] {
            let mut picker = picker(9, 3, 10_000);
            picker.order = order;
            picker.set_have(0, Have::All);
            picker.set_have(1, some(9, |n| n % 2 == 0));
            picker.set_have(2, some(9, |n| n % 2 == 0));
            assert_eq!(pick(&mut picker, 0, 3), expected);
        }
    }

    #[test]
    fn provider_is_asked_only_for_what_it_may_have() {
        let mut picker = picker(9, 2, 10_000);
        picker.set_have(0, some(9, |n| n < 3));
        picker.lacks(&id(1), 0);
        assert_eq!(pick(&mut picker, 0, 9), [0, 2]);
        assert_eq!(pick(&mut picker, 1, 2), [1, 3]);
        picker.forget_lacks(0);
        picker.release(&id(1), 1);
        assert_eq!(pick(&mut picker, 0, 9), [1]);
    }

    #[test]
    fn pages_come_before_chunks_and_not_in_one_request_with_them() {
        let mut picker = picker(4, 1, 10_000);
        picker.want(id(100), Kind::Page, 0, 50);
        assert_eq!(picker.pick(T0, 0, 4), Some((Kind::Page, vec![id(100)])));
        assert_eq!(picker.pick(T0, 0, 4).unwrap().1.len(), 4);
        picker.check();
    }

    #[test]
    fn bytes_are_bounded_and_shared_but_one_chunk_always_fits() {
        let mut picker = picker(40, 2, 1_000);
        assert_eq!(pick(&mut picker, 0, 20).len(), 5, "half of the room");
        assert_eq!(pick(&mut picker, 1, 20).len(), 5);
        assert_eq!(picker.bytes(), 1_000);
        assert_eq!(picker.arrived(&id(0), 0), Arrival::Verify);
        assert_eq!(pick(&mut picker, 0, 20), [], "what is verified is still held");
        picker.stored(&id(0));
        assert_eq!(pick(&mut picker, 0, 20).len(), 1);
        let mut small = super::tests::picker(4, 2, 10);
        assert_eq!(pick(&mut small, 0, 4).len(), 1);
        assert_eq!(pick(&mut small, 1, 4).len(), 0);
    }

    #[test]
    fn chunk_that_fails_or_does_not_come_is_asked_of_another() {
        let mut picker = picker(1, 2, 10_000);
        assert_eq!(pick(&mut picker, 0, 1), [0]);
        assert_eq!(pick(&mut picker, 1, 1), []);
        picker.overdue(&id(0), 0);
        assert_eq!(picker.bytes(), 0);
        assert_eq!(pick(&mut picker, 0, 1), [], "not twice of the same");
        assert_eq!(pick(&mut picker, 1, 1), [0]);
        assert_eq!(picker.arrived(&id(0), 0), Arrival::Verify, "late but welcome");
        assert_eq!(picker.arrived(&id(0), 1), Arrival::Surplus);
        picker.refused(&id(0));
        picker.check();
        assert_eq!(pick(&mut picker, 1, 1), [0]);
        assert_eq!(picker.arrived(&id(0), 1), Arrival::Verify);
        assert_eq!(picker.stored(&id(0)), Vec::<usize>::new());
        picker.check();
        assert_eq!((picker.len(), picker.bytes(), picker.arrived(&id(0), 1)), (0, 0, Arrival::Surplus));
    }

    #[test]
    fn idle_provider_takes_over_what_another_is_slow_with_and_no_third_one_does() {
        let mut picker = picker(3, 3, 10_000);
        assert_eq!(pick(&mut picker, 0, 3).len(), 1);
        assert_eq!(pick(&mut picker, 0, 3).len(), 1);
        let after = Duration::from_secs(1);
        let early = picker.take_over(Instant(10), 1, after, 3);
        assert_eq!((early.picked, early.next), (None, Some(T0 + after)));
        let taken = picker.take_over(T0 + after, 1, after, 1);
        assert_eq!(taken.picked, Some((Kind::Chunk, vec![id(0)])));
        picker.check();
        let third = picker.take_over(Instant(u64::MAX / 2), 2, after, 3);
        assert_eq!(third.picked, Some((Kind::Chunk, vec![id(1)])));
        assert_eq!(picker.arrived(&id(0), 1), Arrival::Verify);
        assert_eq!(picker.stored(&id(0)), [0]);
        picker.check();
    }

    #[test]
    fn third_provider_is_asked_when_two_are_overdue() {
        let mut picker = picker(1, 3, 10_000);
        for slot in 0..3 {
            assert_eq!(picker.pick(Instant(slot as u64), slot, 1).map(|(_, ids)| ids.len()), Some(1));
            picker.overdue(&id(0), slot);
            picker.check();
        }
        assert!(!picker.is_asked(&id(0), 0) && picker.is_asked(&id(0), 2));
        assert_eq!(picker.arrived(&id(0), 0), Arrival::Verify);
        picker.check();
    }

    #[test]
    fn any_sequence_keeps_the_invariant() {
        let mut state = 1u64;
        let mut below = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        for _ in 0..50 {
            let n_slots = 1 + below(5) as usize;
            let mut picker = picker(30, n_slots, 100 + below(2_000) as usize);
            for slot in 0..n_slots {
                let mask = below(u64::MAX >> 33);
                picker.set_have(slot, if below(2) == 0 { Have::All } else { some(30, |n| mask >> n & 1 == 1) });
            }
            for now in 0..400 {
                let (chunk, slot) = (id(below(30)), below(n_slots as u64) as usize);
                match below(9) {
                    0 | 1 => drop(picker.pick(Instant(now), slot, 1 + below(8) as usize)),
                    2 => drop(picker.take_over(Instant(now), slot, Duration::from_micros(below(40)), 3)),
                    3 => drop(picker.arrived(&chunk, slot)),
                    4 => picker.overdue(&chunk, slot),
                    5 => picker.release(&chunk, slot),
                    6 => picker.lacks(&chunk, slot),
                    7 if below(8) == 0 => drop(picker.stored(&chunk)),
                    7 => picker.refused(&chunk),
                    _ => picker.set_active(slot, below(3) > 0),
                }
                picker.check();
                assert!(picker.bytes() <= picker.capacity_bytes.max(100));
            }
        }
    }
}
