//! Signed operations: what a new one has to follow, taking them, showing them. The node never signs for a user.

use bib_core::api::request::{ContextFor, Paging};
use bib_core::api::{ErrorCode, Event, Failure};
use bib_core::catalog::context::ContextError;
use bib_core::catalog::{list, log as op_log, resolve};
use bib_core::command::{Applied, Command, OpOutcome, Origin, Refused};
use bib_core::encode::DecodeError;
use bib_core::id::OpId;
use bib_core::limits::{DEFAULT_PAGE, LIST_STEP, MAX_OPS_PER_REQUEST, MAX_PAGE};
use bib_core::model::TopicPath;
use bib_core::op::operation::OperationError;
use bib_core::op::{Body, Operation};
use bib_core::port::StoreError;
use serde_bytes::ByteBuf;

use super::catalog::CatalogError;
use super::{require_user, store_failure};
use crate::control::{Caller, Output};
use crate::node::Context;
use crate::quota::{self, Whose};

/// Why an operation is not taken or shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum AccessError {
    /// It does not decode, or its signature does not hold.
    #[error("operation {index} is not a signed operation: {source}")]
    Malformed {
        /// Which of those that were sent, counted from 1.
        index: usize,
        /// What is wrong.
        source: OperationError,
    },
    /// More than are taken at once.
    #[error("{0} operations came at once, at most {MAX_OPS_PER_REQUEST} are taken")]
    TooMany(usize),
    /// It may not be taken.
    #[error("{0}")]
    Refused(Refused),
    /// It builds on operations that are not here.
    #[error("operation {0} builds on operations that this node does not have")]
    Parked(OpId),
    /// There is no such operation.
    #[error("there is no operation {0} here")]
    NoOperation(OpId),
    /// A topic is not known.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<AccessError> for Failure {
    fn from(error: AccessError) -> Self {
        let failure = |code| Self::new(code, error.to_string());
        match &error {
            AccessError::Malformed { source: OperationError::Decode(DecodeError::Unsupported { .. }), .. } => {
                failure(ErrorCode::Unsupported).hinted("install the same version of bib and bibd")
            }
            AccessError::Malformed { .. } => failure(ErrorCode::Invalid),
            AccessError::TooMany(_) => failure(ErrorCode::LimitExceeded).hinted("send fewer at once"),
            AccessError::Parked(_) => {
                failure(ErrorCode::Conflict).hinted("ask again what a new operation has to follow, and sign it anew")
            }
            AccessError::NoOperation(_) => failure(ErrorCode::NotFound),
            AccessError::Context(ContextError::Store(error)) | AccessError::Store(error) => store_failure(error),
            AccessError::Context(_) => {
                failure(ErrorCode::NotFound).hinted("`bib topic list` shows the topics that this node knows")
            }
            AccessError::Refused(refused) => of_refused(refused),
        }
    }
}

fn of_refused(refused: &Refused) -> Failure {
    let (code, hint) = match refused {
        Refused::Denied(_) => (ErrorCode::Denied, "`bib whoami` shows who you are, `bib topic show` who may do what"),
        Refused::Archived(_) => (ErrorCode::Archived, "choose another topic or dataset; `bib topic list` shows them"),
        Refused::LastOwner(_) => (ErrorCode::LastOwner, "make somebody else an owner first"),
        Refused::Exists(_) => (ErrorCode::Exists, "choose another name or number, or look at what is there"),
        Refused::NotFound(_) => (ErrorCode::NotFound, "look for it with `bib find` or `bib topic list`"),
        Refused::Precondition(_) => (ErrorCode::Precondition, "do first what is missing"),
        Refused::Clock => (ErrorCode::Precondition, "set the clocks of both machines, for instance with NTP"),
        Refused::TooLarge => (ErrorCode::LimitExceeded, "make another root topic for what is new"),
        Refused::TooManyParked => (ErrorCode::Busy, "wait until this node has synchronised the topic"),
        _ => (ErrorCode::Invalid, "install the same version of bib and bibd"),
    };
    Failure::new(code, refused.to_string()).hinted(hint)
}

type Result<T, E = Failure> = std::result::Result<T, E>;

pub(crate) async fn context(ctx: &Context, wanted: ContextFor, out: &Output) -> Result<()> {
    let context = ctx.store.op_context(wanted).await.map_err(AccessError::from)?;
    out.event(Event::OpContext(context)).await
}

pub(crate) async fn submit(ctx: &Context, caller: &Caller, ops: Vec<ByteBuf>, out: &Output) -> Result<()> {
    require_user(caller, "a change of the catalog")?;
    if ops.len() > MAX_OPS_PER_REQUEST {
        return Err(AccessError::TooMany(ops.len()).into());
    }
    // Signatures are checked where it holds nobody up.
    let ops = ctx
        .store
        .blocking("signatures", move |_| {
            let decoded = ops.iter().enumerate().map(|(i, bytes)| {
                Operation::decode(bytes).map_err(|source| AccessError::Malformed { index: i + 1, source })
            });
            decoded.collect::<Result<Vec<Operation>, AccessError>>()
        })
        .await?;
    let ids: Vec<OpId> = ops.iter().map(Operation::id).collect();
    for op in &ops {
        if let Body::PublishVersion(version) = &op.body {
            let whose = Whose { topic: Some(op.topic()), user: Some(op.author) };
            quota::check(ctx, whose, version.size, Some(version.manifest)).await?;
        }
    }
    let command = Command::Apply { ops, origin: Origin::User };
    let applied = ctx.store.apply(command).await.map_err(AccessError::from)?;
    check(&ids, &applied)?;
    log::info!(ops = ids.len(), versions = applied.versions.len(); "operations of a user are taken");
    out.event(Event::Submitted { ids }).await
}

/// All are taken, or the first that was not says why.
fn check(ids: &[OpId], applied: &Applied) -> Result<(), AccessError> {
    for outcome in &applied.outcomes {
        if let OpOutcome::Refused(refused) = outcome {
            return Err(AccessError::Refused(refused.clone()));
        }
    }
    for (id, outcome) in ids.iter().zip(&applied.outcomes) {
        match outcome {
            OpOutcome::New | OpOutcome::Known => {}
            _ => return Err(AccessError::Parked(*id)),
        }
    }
    Ok(())
}

pub(crate) async fn get(ctx: &Context, id: OpId, out: &Output) -> Result<()> {
    let found = ctx.store.read(move |read| op_log::op_bytes(read, &id).map_err(AccessError::from)).await?;
    let (_, bytes) = found.ok_or(AccessError::NoOperation(id))?;
    out.event(Event::Operation(ByteBuf::from(bytes))).await
}

pub(crate) async fn log(ctx: &Context, topic: TopicPath, paging: Paging, out: &Output) -> Result<()> {
    let limit = if paging.limit == 0 { DEFAULT_PAGE } else { paging.limit.min(MAX_PAGE) };
    let mut done = 0;
    while done < limit {
        let step = Paging { limit: (limit - done).min(LIST_STEP), offset: paging.offset.saturating_add(done) };
        let path = topic.clone();
        let ops = ctx
            .store
            .read(move |read| {
                let topic = resolve::topic_by_path(read, &path)?;
                let listed = list::ops(read, &topic.id, step)?;
                let mut ops = Vec::with_capacity(listed.items.len());
                for id in listed.items {
                    ops.extend(op_log::op_bytes(read, &id)?.map(|(_, bytes)| bytes));
                }
                Ok::<_, CatalogError>(ops)
            })
            .await?;
        let is_last = ops.len() < step.limit as usize;
        for bytes in ops {
            out.event(Event::Operation(ByteBuf::from(bytes))).await?;
        }
        if is_last {
            break;
        }
        done += step.limit;
    }
    Ok(())
}
