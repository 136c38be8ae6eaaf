//! One session on the control socket: frames in, calls started, frames out.
//!
//! Invariant: what a client sends is bounded before it is read, and what it does not take stops the call that makes it.
//! A frame that has no meaning ends the session with one answer and one line in the log. When the session ends, its
//! calls end.
//!
//! Parts of an upload wait for their call within the memory of the sessions; when that is used up, nothing more is read
//! of the session, so that a client that sends faster than the disk takes is slowed. Of a session whose uploads all
//! wait for their turn, nothing large is read: it would take the memory from those whose turn it is. Whoever leaves
//! meanwhile is noticed; a cancellation is when what was sent before it can be read.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use async_channel::{Receiver, Sender};
use async_io::{Async, Timer};
use bib_core::api::{API_VERSION, ClientFrame, ErrorCode, Failure, Request, ServerFrame, UploadPart, auth_bytes};
use bib_core::encode::{decode, encode};
use bib_core::key::{Purpose, verify};
use bib_core::limits::{
    CONTROL_STALL, GONE_CHECK, LOGIN, MAX_CALLS_PER_SESSION, MAX_CONTROL_FRAME, MAX_FRAME_UNCOUNTED, SESSION_IDLE,
};
use bib_core::wire::frame;
use futures::future::{Either, select, select_all};
use futures::io::BufReader;
use futures::{AsyncReadExt, AsyncWriteExt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Caller, Feed, Incoming, Outgoing, Output, dispatch, uploads, within};
use crate::credits::Permit;
use crate::node::Context;

/// Frames that wait for the client to take them; the calls wait when there are more.
const QUEUE: usize = 8;
/// Bytes that are read at once, so that small frames cost few calls of the system.
const READ_BUFFER: usize = 16 << 10;
/// What a part of an upload costs beside its bytes, in bytes.
const PART_COST: usize = 128;

/// Why a session ends before its client ends it.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    /// The client broke the contract, or may not go on.
    #[error("{0}")]
    Refused(Failure),
    /// The client is gone.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The client does not read or write, and others wait for its memory.
    #[error("the client stalled while others waited")]
    Stalled,
}

fn refused(code: ErrorCode, message: impl Into<String>) -> SessionError {
    SessionError::Refused(Failure::new(code, message))
}

/// Serves a client until one side ends it.
pub(crate) async fn run(ctx: Rc<Context>, stream: Async<UnixStream>, uid: Option<u32>) {
    let stream = Rc::new(stream);
    let (frames, outgoing) = async_channel::bounded(QUEUE);
    let writer = ctx.spawner.spawn("control writer", write_all(stream.clone(), outgoing, ctx.clone()));
    let mut input = BufReader::with_capacity(READ_BUFFER, &*stream);
    let (ended, call_ended) = async_channel::bounded(1);
    let mut session = Session {
        ctx: ctx.clone(),
        stream: stream.clone(),
        frames: frames.clone(),
        calls: Rc::default(),
        ended,
        call_ended,
        caller: Caller { user: None, uid, operator: false },
        is_in_frame: Cell::new(false),
    };
    let result = {
        let serving = pin!(session.serve(&mut input));
        // When nothing can be written any more, nothing needs to be read.
        match select(serving, pin!(frames_closed(&frames))).await {
            Either::Left((result, _)) => result,
            Either::Right(_) => Ok(()),
        }
    };
    session.calls.borrow_mut().clear();
    match result {
        Ok(()) => {}
        Err(SessionError::Refused(failure)) => {
            let (level, unsaid) = match failure.code {
                // That the node stops is not the client's doing.
                ErrorCode::Cancelled => (log::Level::Debug, 0),
                _ => ctx.refusals.warning(ctx.clock.now()),
            };
            log::log!(
                level, code:% = failure.code, why = failure.message.as_str(), uid = user_name(uid).as_str(),
                unsaid = unsaid; "a control session was refused"
            );
            let last = frames.send(Outgoing { frame: ServerFrame::Failed { id: 0, failure }, permit: None });
            // The client may be gone, or not read.
            let _ = within(CONTROL_STALL, last).await;
        }
        Err(SessionError::Io(error)) => log::debug!(error:% = error; "a control session broke"),
        Err(error @ SessionError::Stalled) => {
            let (level, unsaid) = ctx.refusals.warning(ctx.clock.now());
            log::log!(
                level, why:% = error, uid = user_name(uid).as_str(), unsaid = unsaid; "a control session was ended"
            );
        }
    }
    drop((session, frames));
    // A client that does not take the rest does not keep the place of another.
    let _ = within(ctx.patience.of(CONTROL_STALL), writer).await;
}

/// The user of a process, for the log.
fn user_name(uid: Option<u32>) -> String {
    uid.map_or_else(|| "unknown".to_owned(), |uid| uid.to_string())
}

async fn frames_closed(frames: &Sender<Outgoing>) {
    frames.closed().await;
}

/// Answers a client for whom there is no room.
pub(crate) async fn turn_away(stream: Async<UnixStream>, failure: Failure) {
    let frame = encode(&ServerFrame::Failed { id: 0, failure });
    // Whether it listens is its business.
    let _ = within(LOGIN, write_frame(&stream, &frame)).await;
}

struct Call {
    feed: Feed,
    /// Dropping it ends the call.
    _alive: Sender<()>,
}

type Calls = Rc<RefCell<BTreeMap<u32, Call>>>;

type Input<'a> = BufReader<&'a Async<UnixStream>>;
type Frame = (ClientFrame, Option<Permit>);

/// Why an idle session ends.
enum Idle {
    /// It keeps the place of another.
    Crowded,
    /// It is idle for so long that its client is forgotten.
    Long,
}

struct Session {
    ctx: Rc<Context>,
    stream: Rc<Async<UnixStream>>,
    frames: Sender<Outgoing>,
    calls: Calls,
    /// Whether a call has ended since somebody looked.
    ended: Sender<()>,
    call_ended: Receiver<()>,
    caller: Caller,
    /// Whether a frame has begun to come.
    is_in_frame: Cell<bool>,
}

impl Session {
    async fn serve(&mut self, input: &mut Input<'_>) -> Result<(), SessionError> {
        let shutdown = self.ctx.shutdown.clone();
        match select(pin!(shutdown.wait()), pin!(within(self.ctx.patience.of(LOGIN), self.greet(input)))).await {
            Either::Left(_) => return Err(refused(ErrorCode::Cancelled, "the node is stopping")),
            Either::Right((Some(Ok(true)), _)) => {}
            Either::Right((Some(Ok(false)), _)) => return Ok(()),
            Either::Right((Some(Err(error)), _)) => return Err(error),
            Either::Right((None, _)) => {
                return Err(refused(ErrorCode::Timeout, "the client did not say who it is in time"));
            }
        }
        while let Some(frame) = self.next_frame(input).await? {
            self.handle(frame).await?;
        }
        Ok(())
    }

    /// The next frame; `None` when the client has left.
    async fn next_frame(&self, input: &mut Input<'_>) -> Result<Option<Frame>, SessionError> {
        let reading = pin!(self.read_frame(input));
        let over = async {
            match select(pin!(self.ctx.shutdown.wait()), pin!(self.idle())).await {
                Either::Left(_) => {
                    self.calls_ended().await;
                    refused(ErrorCode::Cancelled, "the node is stopping")
                }
                Either::Right((Idle::Crowded, _)) => {
                    let failure = Failure::new(ErrorCode::Busy, "the session was idle while all places were taken");
                    SessionError::Refused(failure.hinted("open another session when there is something to do"))
                }
                Either::Right((Idle::Long, _)) => {
                    // A call that takes long is traffic enough.
                    self.calls_ended().await;
                    refused(ErrorCode::Timeout, "the session was idle for 30 minutes")
                }
            }
        };
        match select(reading, pin!(over)).await {
            Either::Left((frame, _)) => frame,
            Either::Right((error, _)) => Err(error),
        }
    }

    /// Waits until the session has been idle for too long.
    async fn idle(&self) -> Idle {
        let mut waited = Duration::ZERO;
        while waited < SESSION_IDLE {
            Timer::after(self.ctx.patience.of(CONTROL_STALL)).await;
            waited += CONTROL_STALL;
            if self.ctx.is_crowded() && self.calls.borrow().is_empty() && !self.is_in_frame.get() {
                return Idle::Crowded;
            }
        }
        Idle::Long
    }

    /// The next frame, with the memory that it holds when it is large; `None` when the client has left.
    async fn read_frame(&self, input: &mut Input<'_>) -> Result<Option<Frame>, SessionError> {
        let mut header = [0; frame::HEADER_LEN];
        self.is_in_frame.set(false);
        let first = input.read(&mut header).await?;
        if first == 0 {
            return Ok(None);
        }
        self.is_in_frame.set(true);
        input.read_exact(&mut header[first..]).await?;
        let len = frame::payload_len(header, MAX_CONTROL_FRAME)
            .map_err(|error| refused(ErrorCode::Invalid, format!("what arrived is no control frame: {error}")))?;
        let credits = &self.ctx.session_credits;
        let permit = if len > MAX_FRAME_UNCOUNTED {
            self.unless_gone(async {
                self.turn().await;
                Some(credits.borrow(len).await)
            })
            .await?
        } else {
            None
        };
        let mut payload = vec![0; len];
        unless_stalled(&self.ctx, input.read_exact(&mut payload)).await?;
        let frame = decode(&payload)
            .map_err(|error| refused(ErrorCode::Invalid, format!("what arrived is no control frame: {error}")))?;
        Ok(Some((frame, permit)))
    }

    /// Waits while there are uploads and all of them wait for their turn.
    async fn turn(&self) {
        loop {
            let waiting: Vec<Feed> = {
                let calls = self.calls.borrow();
                let wanted = || calls.values().map(|call| &call.feed).filter(|feed| feed.is_wanted());
                if wanted().any(Feed::is_open) {
                    return;
                }
                wanted().cloned().collect()
            };
            if waiting.is_empty() {
                return;
            }
            select_all(waiting.iter().map(|feed| Box::pin(feed.opened()))).await;
        }
    }

    /// Waits for something other than the client, as long as the client is there.
    async fn unless_gone<T>(&self, step: impl Future<Output = T>) -> Result<T, SessionError> {
        let mut step = pin!(step);
        loop {
            match select(step, pin!(Timer::after(GONE_CHECK))).await {
                Either::Left((value, _)) => return Ok(value),
                Either::Right(_) if has_hung_up(&self.stream) => {
                    return Err(SessionError::Io(io::ErrorKind::BrokenPipe.into()));
                }
                Either::Right((_, again)) => step = again,
            }
        }
    }

    async fn calls_ended(&self) {
        while !self.calls.borrow().is_empty() {
            // The session keeps the other end of the channel.
            let _ = self.call_ended.recv().await;
        }
    }

    async fn send(&self, frame: ServerFrame) -> Result<(), SessionError> {
        let sent = self.frames.send(Outgoing { frame, permit: None }).await;
        sent.map_err(|_| SessionError::Io(io::ErrorKind::BrokenPipe.into()))
    }

    /// Hello and Auth; `false` when the client left before.
    async fn greet(&mut self, input: &mut Input<'_>) -> Result<bool, SessionError> {
        let api = match self.read_frame(input).await? {
            None => return Ok(false),
            Some((ClientFrame::Hello { api }, _)) => api,
            Some(_) => return Err(refused(ErrorCode::Invalid, "a session begins with a greeting")),
        };
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce).map_err(io::Error::from)?;
        let node = self.ctx.id;
        let version = env!("CARGO_PKG_VERSION").to_owned();
        self.send(ServerFrame::Hello { api: API_VERSION, version: version.clone(), node, nonce }).await?;
        if api != API_VERSION {
            let message =
                format!("this bibd ({version}) speaks version {API_VERSION} of the control contract, not {api}");
            let failure = Failure::new(ErrorCode::Unsupported, message);
            return Err(SessionError::Refused(failure.hinted("install the same version of bib and bibd")));
        }
        self.caller.user = match self.read_frame(input).await? {
            None => return Ok(false),
            Some((ClientFrame::Auth(None), _)) => None,
            Some((ClientFrame::Auth(Some((user, signature))), _)) => {
                verify(&user, Purpose::Auth, &auth_bytes(&nonce, &node), &signature).map_err(|_| {
                    let failure =
                        Failure::new(ErrorCode::Unauthenticated, "the login is not signed by the user it names");
                    SessionError::Refused(failure.hinted("check which key is used: `bib whoami`"))
                })?;
                Some(user)
            }
            Some(_) => return Err(refused(ErrorCode::Invalid, "after the greeting comes the login")),
        };
        self.caller.operator = self.ctx.is_operator(self.caller.user.as_ref(), self.caller.uid);
        self.send(ServerFrame::Ready).await?;
        Ok(true)
    }

    async fn handle(&mut self, (frame, permit): Frame) -> Result<(), SessionError> {
        match frame {
            ClientFrame::Hello { .. } | ClientFrame::Auth(_) => {
                Err(refused(ErrorCode::Invalid, "a session is opened once"))
            }
            ClientFrame::Call { id, request_id, deadline_ms, request } => {
                if id == 0 || self.calls.borrow().contains_key(&id) {
                    return Err(refused(ErrorCode::Invalid, format!("the number {id} is not free for a call")));
                }
                if self.calls.borrow().len() >= MAX_CALLS_PER_SESSION {
                    let failure = Failure::new(
                        ErrorCode::Busy,
                        format!("at most {MAX_CALLS_PER_SESSION} calls may be in flight in one session"),
                    );
                    let failure = failure.hinted("wait until others have ended");
                    return self.send(ServerFrame::Failed { id, failure }).await;
                }
                if self.ctx.shutdown.is_triggered() {
                    let failure = Failure::new(ErrorCode::Cancelled, "the node is stopping");
                    return self.send(ServerFrame::Failed { id, failure }).await;
                }
                self.start(id, request_id, deadline_ms, *request, permit);
                Ok(())
            }
            ClientFrame::Upload { id, part } => {
                let feed = self.calls.borrow().get(&id).map(|call| call.feed.clone());
                // A call that has ended, or takes no uploads, lets them fall.
                let Some(feed) = feed.filter(Feed::is_wanted) else { return Ok(()) };
                self.unless_gone(async {
                    // The entry before the first data may wait, so that what follows it is seen.
                    if permit.is_some() || !feed.is_empty() {
                        feed.opened().await;
                    }
                    let permit = match permit {
                        Some(permit) => permit,
                        None => self.ctx.session_credits.borrow(len_of(&part) + PART_COST).await,
                    };
                    feed.send(Incoming { part, permit }).await;
                })
                .await
            }
            ClientFrame::Cancel { id } => {
                let was_there = self.calls.borrow_mut().remove(&id).is_some();
                if was_there {
                    let failure = Failure::new(ErrorCode::Cancelled, "the call was cancelled");
                    self.send(ServerFrame::Failed { id, failure }).await?;
                }
                Ok(())
            }
        }
    }

    fn start(&self, id: u32, request_id: u64, deadline_ms: u32, request: Request, permit: Option<Permit>) {
        let (feed, uploads) = uploads();
        let (alive, cancelled) = async_channel::bounded::<()>(1);
        self.calls.borrow_mut().insert(id, Call { feed, _alive: alive });
        let (ctx, frames, caller, calls) = (self.ctx.clone(), self.frames.clone(), self.caller, self.calls.clone());
        let ended = self.ended.clone();
        let task = async move {
            let output = Output::Session { id, frames: frames.clone() };
            let call = guarded(dispatch::call(&ctx, caller, request, uploads, &output));
            let call = async {
                let result = match deadline_ms {
                    0 => call.await,
                    ms => within(Duration::from_millis(ms.into()), call).await.unwrap_or_else(|| {
                        Err(Failure::new(ErrorCode::Timeout, "the call took longer than its deadline"))
                    }),
                };
                drop(permit);
                result
            };
            let result = match select(pin!(cancelled.recv()), pin!(call)).await {
                // Cancelled: whoever did it has answered, or the session is over.
                Either::Left(_) => return,
                Either::Right((result, _)) => result,
            };
            if let Err(failure) = &result {
                log::debug!(request:% = format_args!("{request_id:016x}"), code:% = failure.code, why = failure.message.as_str(); "a call failed");
            }
            let frame = match result {
                Ok(()) => ServerFrame::End { id },
                Err(failure) => ServerFrame::Failed { id, failure },
            };
            // The client may be gone.
            let _ = frames.send(Outgoing { frame, permit: None }).await;
            // Last, so that a stopping node does not end the session before the answer is on its way.
            calls.borrow_mut().remove(&id);
            // Full means that whoever waits will look anyway.
            let _ = ended.try_send(());
        };
        self.ctx.spawner.spawn("control call", task).detach();
    }
}

/// Bytes that a part holds.
pub(crate) fn len_of(part: &UploadPart) -> usize {
    match part {
        UploadPart::Entry { path, .. } => path.len(),
        UploadPart::Data(bytes) | UploadPart::InPlace(bytes) => bytes.len(),
        UploadPart::End => 0,
    }
}

/// A call that panics has failed; its caller is told.
async fn guarded(call: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    use futures::FutureExt;
    std::panic::AssertUnwindSafe(call).catch_unwind().await.unwrap_or_else(|panic| {
        log::error!(panic = crate::runtime::panic_text(&*panic); "a call panicked");
        Err(Failure::new(ErrorCode::Internal, "the node failed at this call; its log says more"))
    })
}

/// Waits for a step of reading or writing. It may take as long as it likes, unless others wait for memory or for a place.
async fn unless_stalled<T>(ctx: &Context, step: impl Future<Output = io::Result<T>>) -> Result<T, SessionError> {
    let mut step = pin!(step);
    loop {
        match select(step, pin!(Timer::after(ctx.patience.of(CONTROL_STALL)))).await {
            Either::Left((result, _)) => return Ok(result?),
            Either::Right(_) if ctx.session_credits.is_contended() || ctx.is_crowded() => {
                return Err(SessionError::Stalled);
            }
            Either::Right((_, again)) => step = again,
        }
    }
}

/// Whether the client has closed its end altogether; what it sent before may still be unread.
fn has_hung_up(stream: &Async<UnixStream>) -> bool {
    let mut fds = [PollFd::new(stream, PollFlags::empty())];
    let polled = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    polled.is_ok() && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}

async fn write_frame(mut stream: &Async<UnixStream>, payload: &[u8]) -> io::Result<()> {
    let header = frame::header(payload.len(), MAX_CONTROL_FRAME).map_err(io::Error::other)?;
    if payload.len() < 4_096 {
        return stream.write_all(&[&header, payload].concat()).await;
    }
    stream.write_all(&header).await?;
    stream.write_all(payload).await
}

async fn write_all(stream: Rc<Async<UnixStream>>, frames: Receiver<Outgoing>, ctx: Rc<Context>) {
    while let Ok(Outgoing { frame, permit }) = frames.recv().await {
        let payload = encode(&frame);
        drop(frame);
        let written = unless_stalled(&ctx, write_frame(&stream, &payload)).await;
        drop(permit);
        match written {
            Ok(()) => {}
            Err(SessionError::Stalled) => {
                log::warn!("a control session was ended: its client does not read while others wait");
                break;
            }
            Err(_) => break,
        }
    }
    // Whoever still makes frames learns that nobody takes them.
    frames.close();
    let _ = stream.get_ref().shutdown(std::net::Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_named_by_their_number() {
        assert_eq!([Some(0), Some(1_000), None].map(user_name), ["0", "1000", "unknown"]);
    }
}
