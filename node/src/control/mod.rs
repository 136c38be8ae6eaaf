//! The control socket: how users of this machine reach the node.
//!
//! Deliberately absent: what the calls do, which is the business of the services.

pub(crate) mod dispatch;
pub mod listener;
pub(crate) mod session;

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use async_channel::{Receiver, Sender};
use async_io::Timer;
use bib_core::api::{ErrorCode, Event, Failure, ServerFrame, UploadPart};
use bib_core::id::UserId;
use bib_core::limits::MAX_WAITING_PARTS;
use futures::future::{Either, select};

use crate::credits::Permit;

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Caller {
    /// The user who proved to be it.
    pub user: Option<UserId>,
    /// The user of the calling process, where the system tells.
    pub uid: Option<u32>,
    /// Whether they may change and stop the node.
    pub operator: bool,
}

/// A frame on its way to the client, with the memory that it holds.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) frame: ServerFrame,
    pub(crate) permit: Option<Rc<Permit>>,
}

/// A part of an upload, with the memory that it holds.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) part: UploadPart,
    pub(crate) permit: Permit,
}

/// Where a call takes the parts of its upload from.
///
/// It begins shut: who sends the parts keeps them out of memory until the call opens it. So those that wait for their
/// turn take no memory from the one whose turn it is.
#[derive(Debug)]
pub(crate) struct Uploads {
    parts: Receiver<Incoming>,
    gate: Receiver<Infallible>,
}

/// Where the parts of an upload are handed in.
#[derive(Debug, Clone)]
pub(crate) struct Feed {
    parts: Sender<Incoming>,
    gate: Sender<Infallible>,
}

/// Both ends of an upload.
pub(crate) fn uploads() -> (Feed, Uploads) {
    let (sender, parts) = async_channel::bounded(MAX_WAITING_PARTS);
    let (opened, gate) = async_channel::bounded(1);
    (Feed { parts: sender, gate: opened }, Uploads { parts, gate })
}

impl Uploads {
    /// From now on parts are taken.
    pub(crate) fn open(&self) {
        self.gate.close();
    }

    /// No part is taken; those that come fall.
    pub(crate) fn refuse(&self) {
        self.parts.close();
        self.gate.close();
    }

    /// The parts that came.
    pub(crate) const fn parts(&self) -> &Receiver<Incoming> {
        &self.parts
    }
}

impl Feed {
    /// Whether parts may still be of use.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.parts.is_closed()
    }

    /// Whether the call takes parts, or has ended.
    pub(crate) fn is_open(&self) -> bool {
        self.gate.is_closed()
    }

    /// Whether nothing waits for the call.
    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Waits until the call takes parts, or has ended.
    pub(crate) async fn opened(&self) {
        self.gate.closed().await;
    }

    /// Hands in a part. A call that has ended lets it fall.
    pub(crate) async fn send(&self, incoming: Incoming) {
        // The result of the call says why nothing is taken any more.
        let _ = self.parts.send(incoming).await;
    }
}

/// Where a call puts what it yields. It waits while the caller does not take it.
#[derive(Debug, Clone)]
pub(crate) enum Output {
    /// A call of a session.
    Session { id: u32, frames: Sender<Outgoing> },
    /// A call of the program that holds the node.
    Local(Sender<Event>),
}

impl Output {
    /// Yields an event, with the memory that it holds.
    pub(crate) async fn send(&self, event: Event, permit: Option<Rc<Permit>>) -> Result<(), Failure> {
        let sent = match self {
            Self::Session { id, frames } => {
                let frame = ServerFrame::Item { id: *id, event: Box::new(event) };
                frames.send(Outgoing { frame, permit }).await.is_ok()
            }
            Self::Local(events) => events.send(event).await.is_ok(),
        };
        if sent { Ok(()) } else { Err(Failure::new(ErrorCode::Cancelled, "the caller went away")) }
    }

    pub(crate) async fn event(&self, event: Event) -> Result<(), Failure> {
        self.send(event, None).await
    }

    /// Yields an event that the next one of its kind makes superfluous: it is left out when the caller is slow.
    pub(crate) fn try_event(&self, event: Event) {
        // Full or gone: both need nothing.
        match self {
            Self::Session { id, frames } => {
                // The last places are for what must arrive.
                if frames.len() * 2 < frames.capacity().unwrap_or(usize::MAX) {
                    let frame = ServerFrame::Item { id: *id, event: Box::new(event) };
                    let _ = frames.try_send(Outgoing { frame, permit: None });
                }
            }
            Self::Local(events) => {
                let _ = events.try_send(event);
            }
        }
    }
}

/// The result of a future, or `None` when it took too long.
pub(crate) async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    match select(pin!(future), pin!(Timer::after(limit))).await {
        Either::Left((value, _)) => Some(value),
        Either::Right(_) => None,
    }
}
