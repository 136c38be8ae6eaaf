//! The control contract between a node and its users: frames, requests, events, errors. One contract for callers in
//! the same process, on the local socket and, later, over TLS.

pub mod care;
pub mod error;
pub mod event;
pub mod request;
pub mod socket;

pub use error::{ErrorCode, Failure};
pub use event::Event;
pub use request::Request;

use serde::{Deserialize, Serialize};

use crate::encode::Versioned;
use crate::id::{NodeId, UserId};
use crate::key::Signature;
use crate::limits::MAX_CONTROL_FRAME;

/// Version of the control contract. A client and a node with different ones refuse each other with a hint.
pub const API_VERSION: u16 = 2;

/// Frames from a client. The first is `Hello`, the second `Auth`; then calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientFrame {
    /// Opens the session.
    Hello {
        /// Version of the contract that the client speaks.
        api: u16,
    },
    /// Proves who calls: a signature for [`Purpose::Auth`](crate::key::Purpose::Auth) over [`auth_bytes`]. `None`
    /// keeps the session anonymous: it may read what is public.
    Auth(Option<(UserId, Signature)>),
    /// Begins a call.
    Call {
        /// Number of the call, unique among those in flight in the session.
        id: u32,
        /// Stands in the logs of both sides.
        request_id: u64,
        /// Milliseconds after which the node gives up; 0 = none.
        deadline_ms: u32,
        /// What is asked.
        request: Box<Request>,
    },
    /// Goes on with what a call uploads.
    Upload {
        /// The call.
        id: u32,
        /// The next piece.
        part: UploadPart,
    },
    /// Ends a call early; what is acknowledged stays.
    Cancel {
        /// The call.
        id: u32,
    },
}

/// A piece of an ingest. Files come in the order of their paths' bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UploadPart {
    /// Begins a file (and ends the one before) or names an empty folder.
    Entry {
        /// Its path in the version.
        path: String,
        /// What it is.
        kind: crate::model::manifest::EntryKind,
    },
    /// Bytes of the file begun last.
    Data(serde_bytes::ByteBuf),
    /// Everything was sent.
    End,
    /// Before the first bytes of a file: it lies at this absolute path, and its bytes are to stay there.
    InPlace(serde_bytes::ByteBuf),
}

/// Frames from a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServerFrame {
    /// Answers `Hello`.
    Hello {
        /// Version of the contract that the node speaks.
        api: u16,
        /// Program version, for people.
        version: String,
        /// The node.
        node: NodeId,
        /// To be signed by `Auth`.
        nonce: [u8; 32],
    },
    /// Answers `Auth`.
    Ready,
    /// Something a call yields.
    Item {
        /// The call.
        id: u32,
        /// What.
        event: Box<Event>,
    },
    /// A call is done; nothing follows for it.
    End {
        /// The call.
        id: u32,
    },
    /// A call failed (or, with id 0, the session); nothing follows for it.
    Failed {
        /// The call.
        id: u32,
        /// Why.
        failure: Failure,
    },
}

impl Versioned for ClientFrame {
    const WHAT: &'static str = "control request";
    const MAX_LEN: usize = MAX_CONTROL_FRAME;
}

impl Versioned for ServerFrame {
    const WHAT: &'static str = "control answer";
    const MAX_LEN: usize = MAX_CONTROL_FRAME;
}

/// What a client signs to prove who it is: the node's nonce and id, so that a signature serves one session only.
pub fn auth_bytes(nonce: &[u8; 32], node: &NodeId) -> Vec<u8> {
    [nonce.as_slice(), node.as_bytes()].concat()
}
