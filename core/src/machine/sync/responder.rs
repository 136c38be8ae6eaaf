//! The side that answers. What it says follows from the catalog alone; its only memory is how much each peer asks.

use super::ranges::{Log, Ranges, Span, fingerprint};
use crate::catalog::log::{self, Figures};
use crate::command::OpOutcome;
use crate::id::{NodeId, OpId};
use crate::limits;
use crate::machine::bucket::PeerBuckets;
use crate::op::{Class, Operation};
use crate::port::{CatalogRead, StoreError};
use crate::time::{Instant, Timestamp};
use crate::wire::message::{Bounded, Envelope, Range, RangeState, Refusal, RefusalCode, SyncRequest, SyncResponse};

/// How synchronisation of a topic stands, for the answer to `Status`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicSync {
    /// Whether one is running.
    pub in_progress: bool,
    /// When the last one ended.
    pub last_sync: Option<Timestamp>,
    /// Why the last one failed, if it did.
    pub last_error: Option<String>,
}

/// What to do about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyncAnswer {
    /// Send this.
    Respond(Envelope<SyncResponse>),
    /// Apply these operations as the peer's, then send what [`pushed`] makes of the outcomes.
    Apply {
        /// Number of the request.
        req: u64,
        /// Checked as far as they can be alone.
        ops: Vec<Operation>,
        /// Refused already.
        rejected: Vec<(OpId, String)>,
    },
}

/// Answers requests on [`SYNC`](crate::wire::message::SYNC).
#[derive(Debug)]
pub struct Responder {
    buckets: PeerBuckets,
}

impl Default for Responder {
    fn default() -> Self {
        Self::new()
    }
}

impl Responder {
    /// A responder that grants each peer the rate of [`limits`].
    pub fn new() -> Self {
        Self { buckets: PeerBuckets::of_requests() }
    }

    /// Answers one request of a peer. `status` is asked for the answer to `Status` only.
    ///
    /// # Errors
    /// [`StoreError`] when the catalog cannot be read; the peer is then best told [`RefusalCode::Internal`].
    pub fn handle_request(
        &mut self,
        now: Instant,
        read: &dyn CatalogRead,
        peer: NodeId,
        request: Envelope<SyncRequest>,
        status: &dyn Fn(&crate::id::TopicId) -> TopicSync,
    ) -> Result<SyncAnswer, StoreError> {
        let Envelope { req, body } = request;
        let respond = |body| Ok(SyncAnswer::Respond(Envelope { req, body }));
        if !self.buckets.take(now, peer) {
            return respond(refused(RefusalCode::RateLimited, "too many requests"));
        }
        if let Err(error) = body.check() {
            return respond(refused(RefusalCode::Invalid, &error.to_string()));
        }
        respond(match body {
            SyncRequest::Summary { topic, class } => {
                let figures = log::figures(read, &topic, class)?;
                SyncResponse::Summary {
                    heads: log::heads(read, &topic, class, limits::MAX_ITEMS_PER_MESSAGE)?,
                    count: figures.count,
                    sum: figures.fingerprint(),
                }
            }
            SyncRequest::Reconcile { topic, class, ranges } => {
                let (ranges, n_visited) = reconcile(read, Log { topic, class }, &ranges)?;
                let further = u32::try_from(n_visited / limits::SYNC_KEYS_PER_REQUEST).unwrap_or(u32::MAX);
                self.buckets.drain(now, peer, further);
                SyncResponse::Ranges(ranges)
            }
            SyncRequest::GetOps { ids } => {
                let ops = log::load(read, &ids, limits::SYNC_OPS_BYTES)?;
                SyncResponse::Ops(ops.into_iter().map(serde_bytes::ByteBuf::from).collect())
            }
            SyncRequest::PushOps { ops: encoded } => {
                let (mut ops, mut rejected) = (Vec::with_capacity(encoded.len()), Vec::new());
                for bytes in encoded {
                    match Operation::decode(&bytes) {
                        Ok(op) => ops.push(op),
                        Err(_) => {
                            rejected.push((OpId::from_bytes(crate::hash::hash(&bytes)), "forged".to_owned()));
                        }
                    }
                }
                // A signature costs about as much as reading some dozens of keys.
                self.buckets.drain(now, peer, u32::try_from(ops.len() / 16).unwrap_or(u32::MAX));
                return Ok(SyncAnswer::Apply { req, ops, rejected });
            }
            SyncRequest::Status { topic } => {
                let TopicSync { in_progress, last_sync, last_error } = status(&topic);
                let count = |class| log::figures(read, &topic, class).map(|figures| figures.count);
                let synced = count(Class::Access)? + count(Class::Content)?;
                SyncResponse::Status { in_progress, last_sync, last_error, pending: log::parked(read, &topic)?, synced }
            }
        })
    }
}

/// The answer to `PushOps` once the operations are applied. `ops` and `outcomes` are in the same order.
pub fn pushed(
    req: u64,
    ops: &[OpId],
    outcomes: &[OpOutcome],
    mut rejected: Vec<(OpId, String)>,
) -> Envelope<SyncResponse> {
    let mut accepted = 0;
    for (id, outcome) in ops.iter().zip(outcomes) {
        match outcome {
            OpOutcome::Refused(why) => rejected.push((*id, why.word().to_owned())),
            OpOutcome::Undone => {}
            OpOutcome::New | OpOutcome::Known | OpOutcome::Parked { .. } => accepted += 1,
        }
    }
    Envelope { req, body: SyncResponse::Pushed { accepted, rejected } }
}

fn refused(code: RefusalCode, message: &str) -> SyncResponse {
    SyncResponse::Refused(Refusal { code, message: message.chars().take(200).collect() })
}

/// What this side knows of the ranges, and how many keys it took to tell. An answer that would be too large ends early:
/// the asker asks again for what lies behind its last bound.
pub(super) fn reconcile(read: &dyn CatalogRead, log: Log, ranges: &[Range]) -> Result<(Vec<Range>, u64), StoreError> {
    let mut n_visited = 0;
    let mut compared: Vec<(Span, &Range, Figures)> = Vec::with_capacity(ranges.len());
    let mut lower = None;
    for range in ranges {
        let span = (lower, range.upper);
        let figures = match &range.state {
            Some(RangeState::Fingerprint { .. }) => log.figures(read, span)?,
            _ => Figures::default(),
        };
        n_visited += figures.count;
        compared.push((span, range, figures));
        lower = range.upper;
    }
    let to_cut = compared.iter().filter(|(_, range, figures)| is_to_cut(range, figures)).count();
    // Each one that is not cut, and each gap, takes a range.
    let others = (compared.len() - to_cut).min(limits::MAX_RANGES_PER_MESSAGE / 2) + 1;
    let pieces = ((limits::MAX_RANGES_PER_MESSAGE - others) / to_cut.max(1)).clamp(2, limits::SYNC_ANSWER_SPLIT);
    let mut answer = Ranges::default();
    for (span, range, figures) in compared {
        if answer.room() < pieces {
            break;
        }
        let equal = match &range.state {
            None => true,
            Some(RangeState::Ids { answer, .. }) => !answer,
            Some(RangeState::Fingerprint { count, sum }) => *count == figures.count && *sum == figures.fingerprint(),
        };
        if equal {
            answer.skip(span.1);
        } else if figures.count == 0 && matches!(range.state, Some(RangeState::Fingerprint { .. })) {
            answer.push(fingerprint(span.1, &figures));
        } else if is_to_cut(range, &figures) {
            n_visited += figures.count;
            log.cut(read, span, figures.count, pieces)?.into_iter().for_each(|piece| answer.push(piece));
        } else {
            if answer.id_room() == 0 {
                break;
            }
            let (ids, upper) = log.keys(read, span, answer.id_room())?;
            n_visited += ids.len() as u64;
            answer.push(Range { upper, state: Some(RangeState::Ids { ids, answer: false }) });
            if upper != span.1 {
                break;
            }
        }
    }
    Ok((answer.finish(), n_visited))
}

/// Whether a range differs and is too large to list. One who holds nothing of it is shown the list at once.
fn is_to_cut(range: &Range, own: &Figures) -> bool {
    match &range.state {
        Some(RangeState::Fingerprint { count, sum }) => {
            own.count > limits::SYNC_LEAF && *count > 0 && !(*count == own.count && *sum == own.fingerprint())
        }
        _ => false,
    }
}
