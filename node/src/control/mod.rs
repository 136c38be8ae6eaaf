//! The control socket: how users of this machine reach the node.
//!
//! Deliberately absent: what the calls do, which is the business of the services.

pub(crate) mod dispatch;
pub mod listener;
pub(crate) mod session;

use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use async_channel::Sender;
use async_io::Timer;
use bib_core::api::{ErrorCode, Event, Failure, ServerFrame, UploadPart};
use bib_core::id::UserId;
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
