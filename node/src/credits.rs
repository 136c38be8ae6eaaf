//! Bytes of memory that are lent to work: whoever wants to hold a buffer borrows its length first and waits when there
//! is too little left.
//!
//! Invariant: what is lent never exceeds the capacity, and the first who waits is the first who gets, so that a large
//! buffer is not starved by small ones.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use futures::channel::oneshot;

struct State {
    free: usize,
    waiting: VecDeque<(usize, oneshot::Sender<Permit>)>,
}

/// A pot of bytes; clones share it.
#[derive(Clone)]
pub(crate) struct Credits {
    state: Rc<RefCell<State>>,
    capacity: usize,
}

impl std::fmt::Debug for Credits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credits").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

/// Borrowed bytes; they go back when it is dropped.
pub(crate) struct Permit {
    credits: Credits,
    bytes: usize,
}

impl std::fmt::Debug for Permit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Permit").field(&self.bytes).finish()
    }
}

impl Credits {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { state: Rc::new(RefCell::new(State { free: capacity, waiting: VecDeque::new() })), capacity }
    }

    /// Borrows bytes, after those who asked before. More than there are in all counts as all.
    pub(crate) async fn borrow(&self, bytes: usize) -> Permit {
        let bytes = bytes.min(self.capacity);
        let granted = {
            let mut state = self.state.borrow_mut();
            if state.waiting.is_empty() && state.free >= bytes {
                state.free -= bytes;
                return Permit { credits: self.clone(), bytes };
            }
            let (grant, granted) = oneshot::channel();
            state.waiting.push_back((bytes, grant));
            granted
        };
        granted.await.expect("whoever waits is served before the pot goes, which this handle keeps")
    }

    /// Whether some of it is lent.
    pub(crate) fn is_lent(&self) -> bool {
        self.state.borrow().free < self.capacity
    }

    /// Whether somebody waits.
    pub(crate) fn is_contended(&self) -> bool {
        self.state.borrow().waiting.iter().any(|(_, grant)| !grant.is_canceled())
    }

    /// Serves those who wait, as far as it goes.
    fn serve(&self) {
        loop {
            let (bytes, grant) = {
                let mut state = self.state.borrow_mut();
                let Some((bytes, grant)) = state.waiting.front() else { return };
                let bytes = if grant.is_canceled() { 0 } else { *bytes };
                if bytes > state.free {
                    return;
                }
                state.free -= bytes;
                let (_, grant) = state.waiting.pop_front().expect("looked at above");
                (bytes, grant)
            };
            // One who went away meanwhile gives the bytes back by dropping the permit.
            let _ = grant.send(Permit { credits: self.clone(), bytes });
        }
    }
}

impl Permit {
    /// Gives back all but `bytes`.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        let spare = self.bytes.saturating_sub(bytes);
        self.bytes -= spare;
        self.credits.state.borrow_mut().free += spare;
        self.credits.serve();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.credits.state.borrow_mut().free += std::mem::take(&mut self.bytes);
        self.credits.serve();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn bytes_are_lent_in_the_order_of_asking() {
        let credits = Credits::new(100);
        let first = credits.borrow(60).now_or_never().unwrap();
        let mut large = Box::pin(credits.borrow(80));
        assert!(large.as_mut().now_or_never().is_none());
        let mut small = Box::pin(credits.borrow(10));
        assert!(small.as_mut().now_or_never().is_none(), "it fits, but the large one asked before");
        assert!(credits.is_contended());
        drop(first);
        let large = large.now_or_never().unwrap();
        let small = small.now_or_never().unwrap();
        drop((large, small));
        assert!(!credits.is_contended());
        assert_eq!(credits.state.borrow().free, 100);
    }

    #[test]
    fn who_gives_up_waiting_holds_nobody_up() {
        let credits = Credits::new(100);
        let first = credits.borrow(100).now_or_never().unwrap();
        let mut gone = Box::pin(credits.borrow(100));
        assert!(gone.as_mut().now_or_never().is_none());
        let mut waits = Box::pin(credits.borrow(50));
        assert!(waits.as_mut().now_or_never().is_none());
        drop(gone);
        drop(first);
        drop(waits.now_or_never().unwrap());
        assert_eq!(credits.state.borrow().free, 100);
    }

    #[test]
    fn a_grant_that_nobody_takes_goes_back() {
        let credits = Credits::new(100);
        let first = credits.borrow(100).now_or_never().unwrap();
        let mut granted = Box::pin(credits.borrow(100));
        assert!(granted.as_mut().now_or_never().is_none());
        drop(first);
        drop(granted);
        assert_eq!(credits.state.borrow().free, 100);
    }

    #[test]
    fn what_is_given_back_early_serves_others() {
        let credits = Credits::new(100);
        let mut first = credits.borrow(100).now_or_never().unwrap();
        let mut waits = Box::pin(credits.borrow(60));
        assert!(waits.as_mut().now_or_never().is_none());
        first.shrink(40);
        drop((first, waits.now_or_never().unwrap()));
        assert_eq!(credits.state.borrow().free, 100);
    }

    #[test]
    fn more_than_there_is_counts_as_all() {
        let credits = Credits::new(100);
        let all = credits.borrow(1_000).now_or_never().unwrap();
        assert!(credits.borrow(1).now_or_never().is_none());
        drop(all);
        assert_eq!(credits.state.borrow().free, 100);
    }
}
