//! Builds and signs operations. The node says what a new operation has to follow; everything that is signed is made
//! here, from what the user asked for.

use std::time::{SystemTime, UNIX_EPOCH};

use bib_core::api::event::OpContext;
use bib_core::api::request::ContextFor;
use bib_core::api::{ErrorCode, Event, Request};
use bib_core::id::{OpId, TopicId};
use bib_core::key::Purpose;
use bib_core::op::{Body, Operation, Unsigned};
use bib_core::time::Timestamp;

use crate::client::Client;
use crate::error::{CliError, Result};
use crate::keys::Signer;

/// The clock of this machine.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// A run of operations of one topic, each following the one before it.
#[derive(Debug)]
pub(crate) struct Chain<'a> {
    signer: &'a Signer,
    topic: Option<TopicId>,
    parents: Vec<OpId>,
    lamport: u64,
    time: Timestamp,
    ops: Vec<Operation>,
}

impl<'a> Chain<'a> {
    /// Follows what the node knows of the topic.
    pub(crate) fn after(
        client: &mut Client,
        signer: &'a Signer,
        topic: Option<TopicId>,
        context: ContextFor,
    ) -> Result<Self> {
        let context = client.one(Request::OpContext(context), |event| match event {
            Event::OpContext(context) => Some(context),
            _ => None,
        })?;
        let OpContext { parents, lamport, not_before, .. } = context;
        Ok(Self { signer, topic, parents, lamport, time: now().max(not_before), ops: Vec::new() })
    }

    /// Follows nothing: for a root topic.
    pub(crate) fn root(signer: &'a Signer) -> Self {
        Self { signer, topic: None, parents: Vec::new(), lamport: 1, time: now(), ops: Vec::new() }
    }

    /// Adds and signs an operation.
    pub(crate) fn push(&mut self, body: Body) -> Result<OpId> {
        let unsigned = Unsigned {
            topic: self.topic,
            author: self.signer.user_id(),
            lamport: self.lamport,
            time: self.time,
            parents: std::mem::take(&mut self.parents),
            keeps: Vec::new(),
            body,
        };
        let signature = self.signer.sign(Purpose::Op, &unsigned.bytes_to_sign())?;
        let op = unsigned.with_signature(signature).map_err(|error| {
            CliError::new(ErrorCode::Invalid, error.to_string()).hint("shorten what the message names")
        })?;
        // The next one follows this one, and through it everything that this one follows.
        self.parents = vec![op.id()];
        self.lamport = self.lamport.saturating_add(1);
        let id = op.id();
        self.ops.push(op);
        Ok(id)
    }

    /// Hands them to the node, all or none; returns when they are durable.
    pub(crate) fn submit(self, client: &mut Client) -> Result<()> {
        let ops = self.ops.iter().map(|op| serde_bytes::ByteBuf::from(op.bytes())).collect();
        let accepted = client.one(Request::OpSubmit { ops }, |event| match event {
            Event::Submitted { ids } => Some(ids),
            _ => None,
        })?;
        if accepted.iter().eq(self.ops.iter().map(Operation::id).collect::<Vec<_>>().iter()) {
            Ok(())
        } else {
            Err(CliError::new(ErrorCode::Internal, "the node acknowledged other operations than were sent"))
        }
    }
}
