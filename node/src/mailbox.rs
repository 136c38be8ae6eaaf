//! What waits for the machines of the catalog: a queue that is bounded by number and bytes.
//!
//! Whoever can wait posts with [`Mailbox::post`]; the event loop, which cannot, looks at [`Mailbox::is_full`] before it
//! takes the next event from the network.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use event_listener::Event;

/// Items that wait, at most.
const MAX_ITEMS: usize = 256;

/// Something that takes memory while it waits.
pub(crate) trait Weighted {
    /// Bytes that it holds beside itself.
    fn weight(&self) -> usize;
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Mailbox<T> {
    items: RefCell<VecDeque<T>>,
    bytes: Cell<usize>,
    max_bytes: usize,
    filled: Event,
    emptied: Event,
}

impl<T: Weighted> Mailbox<T> {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self { items: RefCell::default(), bytes: Cell::new(0), max_bytes, filled: Event::new(), emptied: Event::new() }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.bytes.get() >= self.max_bytes || self.items.borrow().len() >= MAX_ITEMS
    }

    /// Adds an item, whether there is room or not.
    pub(crate) fn push(&self, item: T) {
        self.bytes.set(self.bytes.get() + item.weight());
        self.items.borrow_mut().push_back(item);
        self.filled.notify(1);
    }

    /// Adds an item when there is room.
    pub(crate) async fn post(&self, item: T) {
        self.has_room().await;
        self.push(item);
    }

    /// Waits until there is room.
    pub(crate) async fn has_room(&self) {
        while self.is_full() {
            // Nothing else runs between the look and the listening: both are on one thread.
            self.emptied.listen().await;
        }
    }

    /// Waits until something is there, and takes all of it.
    pub(crate) async fn take(&self) -> Vec<T> {
        while self.items.borrow().is_empty() {
            self.filled.listen().await;
        }
        self.bytes.set(0);
        let items = self.items.borrow_mut().drain(..).collect();
        self.emptied.notify(usize::MAX);
        items
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    impl Weighted for &str {
        fn weight(&self) -> usize {
            self.len()
        }
    }

    #[test]
    fn who_posts_into_a_full_box_waits_until_it_was_taken() {
        let mailbox = Mailbox::new(4);
        assert!(mailbox.take().now_or_never().is_none());
        mailbox.push("abcd");
        assert!(mailbox.is_full());
        let mut first = Box::pin(mailbox.post("x"));
        let mut second = Box::pin(mailbox.post("y"));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        assert_eq!(mailbox.take().now_or_never(), Some(vec!["abcd"]));
        assert!(first.now_or_never().is_some() && second.now_or_never().is_some());
        assert_eq!(mailbox.take().now_or_never(), Some(vec!["x", "y"]));
    }

    #[test]
    fn number_is_bounded_as_well() {
        let mailbox = Mailbox::new(usize::MAX);
        (0..MAX_ITEMS).for_each(|_| mailbox.push(""));
        assert!(mailbox.post("one more").now_or_never().is_none());
    }
}
