//! A session with a node on its control socket. Calls of a session follow one another; only an upload runs beside
//! the answers of its call, with a thread that reads them.
//!
//! Every frame is bounded before it is read. A call that the command gives up is cancelled at the node.

use std::io::{BufReader, BufWriter, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bib_core::api::event::{Progress, Staged};
use bib_core::api::{
    API_VERSION, ClientFrame, ErrorCode, Event, Failure, Request, ServerFrame, UploadPart, auth_bytes, socket,
};
use bib_core::encode::{Versioned, decode, encode};
use bib_core::id::NodeId;
use bib_core::key::Purpose;
use bib_core::limits::MAX_CONTROL_FRAME;
use bib_core::wire::frame;

use crate::Context;
use crate::error::{CliError, Result};
use crate::keys::{self, Need, Signer};

/// How much longer than the node the command waits, so that the node's own answer to a timeout arrives.
const GRACE: Duration = Duration::from_secs(2);
/// Bytes gathered before they are handed to the socket: many small files; a full data frame passes by uncopied.
const WRITE_BUFFER: usize = 64 << 10;
/// Id of frames about the session instead of a call.
const SESSION: u32 = 0;

/// A session.
#[derive(Debug)]
pub(crate) struct Client {
    reader: BufReader<UnixStream>,
    writer: BufWriter<UnixStream>,
    next_id: u32,
    node: NodeId,
    /// Deadline of short calls.
    timeout: Duration,
    /// Deadline of long calls, when the user set one.
    long_timeout: Option<Duration>,
}

impl Client {
    /// Opens a session with the node that the configuration names; logs in when `need` and the keys allow it.
    pub(crate) fn open(ctx: &Context, need: Need) -> Result<Self> {
        let signer = keys::signer(ctx, need)?;
        Self::open_as(ctx, signer.as_ref())
    }

    /// Opens a session in the name of a signer, or anonymously.
    pub(crate) fn open_as(ctx: &Context, signer: Option<&Signer>) -> Result<Self> {
        let (stream, path) = connect(ctx)?;
        ctx.ui.detail(&format!("connected to {}", path.display()));
        let clone = stream.try_clone().map_err(|error| CliError::io("use the socket", &path, &error))?;
        let mut client = Self {
            reader: BufReader::new(clone),
            writer: BufWriter::with_capacity(WRITE_BUFFER, stream),
            next_id: 1,
            node: NodeId::from_bytes([0; 32]),
            timeout: ctx.config.timeout(),
            long_timeout: ctx.globals.timeout,
        };
        client.set_timeout(Some(client.timeout))?;
        client.greet(signer)?;
        Ok(client)
    }

    /// Opens a session for something that only an operator of the node may do. Mostly the user of the process is one,
    /// so a passphrase is asked for only when the node does not know the caller for one.
    pub(crate) fn open_as_operator(ctx: &Context) -> Result<Self> {
        let mut client = Self::open(ctx, Need::IfReady)?;
        let known = client.one(Request::WhoAmI, |event| match event {
            Event::WhoAmI { user, operator, .. } => Some(user.is_some() || operator),
            _ => None,
        })?;
        if known { Ok(client) } else { Self::open(ctx, Need::Wanted) }
    }

    fn greet(&mut self, signer: Option<&Signer>) -> Result<()> {
        let (node, nonce) = match self.exchange(&ClientFrame::Hello { api: API_VERSION })? {
            ServerFrame::Hello { api: API_VERSION, node, nonce, .. } => (node, nonce),
            ServerFrame::Hello { api, version, .. } => {
                return Err(CliError::new(
                    ErrorCode::Unsupported,
                    format!("the node (bibd {version}) speaks version {api} of the control contract, this bib speaks {API_VERSION}"),
                )
                .hint("install the same version of bib and bibd, then restart bibd"));
            }
            ServerFrame::Failed { failure, .. } => return Err(failure.into()),
            _ => return Err(unexpected("to the greeting")),
        };
        self.node = node;
        let auth = match signer {
            None => None,
            Some(signer) => Some((signer.user_id(), signer.sign(Purpose::Auth, &auth_bytes(&nonce, &node))?)),
        };
        match self.exchange(&ClientFrame::Auth(auth))? {
            ServerFrame::Ready => Ok(()),
            ServerFrame::Failed { failure, .. } => Err(failure.into()),
            _ => Err(unexpected("to the login")),
        }
    }

    /// A step of the greeting. A node that has no room says so and hangs up, maybe before the step is written.
    fn exchange(&mut self, frame: &ClientFrame) -> Result<ServerFrame> {
        let sent = self.send(frame).and_then(|()| self.flush());
        match (sent, self.receive()) {
            (Ok(()), answer) => answer,
            (Err(_), Ok(ServerFrame::Failed { failure, .. })) => Err(failure.into()),
            (Err(error), _) => Err(error),
        }
    }

    /// The node at the other end.
    pub(crate) const fn node(&self) -> NodeId {
        self.node
    }

    fn set_timeout(&self, timeout: Option<Duration>) -> Result<()> {
        self.reader
            .get_ref()
            .set_read_timeout(timeout.map(|timeout| timeout + GRACE))
            .map_err(|error| CliError::new(ErrorCode::Internal, format!("the socket takes no timeout: {error}")))
    }

    fn send(&mut self, frame: &ClientFrame) -> Result<()> {
        send(&mut self.writer, frame)
    }

    fn flush(&mut self) -> Result<()> {
        self.writer.flush().map_err(|error| lost(&error))
    }

    fn receive(&mut self) -> Result<ServerFrame> {
        receive(&mut self.reader)
    }

    fn begin(&mut self, request: Request, deadline: Option<Duration>) -> Result<u32> {
        let id = self.next_id;
        // Ids are never reused within a session, so that what is left of a given-up call is recognised.
        self.next_id =
            id.checked_add(1).ok_or_else(|| CliError::new(ErrorCode::Internal, "too many calls in one session"))?;
        self.set_timeout(deadline)?;
        let deadline_ms = deadline.map_or(0, |deadline| u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX));
        let request_id = u64::from_be_bytes(keys::random()?);
        self.send(&ClientFrame::Call { id, request_id, deadline_ms, request: Box::new(request) })?;
        self.flush()?;
        Ok(id)
    }

    /// Begins a call that is answered soon.
    pub(crate) fn call(&mut self, request: Request) -> Result<Call<'_>> {
        let id = self.begin(request, Some(self.timeout))?;
        Ok(Call { client: self, id, done: false })
    }

    /// Begins a call that may take as long as moving its bytes does.
    pub(crate) fn long_call(&mut self, request: Request) -> Result<Call<'_>> {
        let id = self.begin(request, self.long_timeout)?;
        Ok(Call { client: self, id, done: false })
    }

    /// Makes a call whose answer is one event.
    pub(crate) fn one<T>(&mut self, request: Request, pick: impl Fn(Event) -> Option<T>) -> Result<T> {
        let mut call = self.call(request)?;
        let mut answer = None;
        while let Some(event) = call.next()? {
            answer = answer.or(pick(event));
        }
        answer.ok_or_else(|| unexpected("to a request"))
    }

    /// As [`Client::one`], with `None` when there is no such thing.
    pub(crate) fn find_one<T>(&mut self, request: Request, pick: impl Fn(Event) -> Option<T>) -> Result<Option<T>> {
        match self.one(request, pick) {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if error.code() == Some(ErrorCode::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a call whose answer is only that it was done.
    pub(crate) fn done(&mut self, request: Request) -> Result<()> {
        let mut call = self.call(request)?;
        while call.next()?.is_some() {}
        Ok(())
    }

    /// Uploads content: `feed` sends the parts while answers are read beside it.
    ///
    /// When `feed` fails, the node is told to forget the call, and the error of `feed` is returned. When the node
    /// fails, `feed` is stopped at its next part, and the error of the node is returned.
    pub(crate) fn ingest(
        &mut self,
        request: Request,
        feed: impl FnOnce(&mut Uploader<'_>) -> Result<()>,
        mut on_event: impl FnMut(IngestEvent) + Send,
    ) -> Result<Staged> {
        let id = self.begin(request, self.long_timeout)?;
        let (reader, writer) = (&mut self.reader, &mut self.writer);
        std::thread::scope(|scope| {
            let answers = scope.spawn(move || {
                let result = read_ingest(reader, id, &mut on_event);
                if result.is_err() {
                    // The feeding side may be waiting for room in the socket, which nobody makes any more.
                    let _ = reader.get_ref().shutdown(Shutdown::Both);
                }
                result
            });
            let mut uploader = Uploader { writer, id };
            let fed = feed(&mut uploader).and_then(|()| uploader.finish());
            if let Err(error) = &fed
                && error.code() != Some(ErrorCode::Unreachable)
            {
                // A node that has other uploads to take first may not read; it sees the end of the session.
                let _ = uploader.writer.get_ref().set_write_timeout(Some(GRACE));
                let _ = send(uploader.writer, &ClientFrame::Cancel { id }).and_then(|()| uploader.flush());
                // Also ends the reading thread.
                let _ = uploader.writer.get_ref().shutdown(Shutdown::Both);
            }
            let answered = answers.join().expect("the reading thread does not panic");
            match (fed, answered) {
                (Ok(()), answered) => answered,
                // A broken socket is the consequence of what the node said last.
                (Err(error), Err(said)) if error.code() == Some(ErrorCode::Unreachable) => Err(said),
                (Err(error), _) => Err(error),
            }
        })
    }
}

/// A call under way.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    client: &'a mut Client,
    id: u32,
    done: bool,
}

impl Call<'_> {
    /// The next event; `None` when the call is done.
    pub(crate) fn next(&mut self) -> Result<Option<Event>> {
        loop {
            match self.client.receive()? {
                ServerFrame::Item { id, event } if id == self.id => return Ok(Some(*event)),
                ServerFrame::End { id } if id == self.id => {
                    self.done = true;
                    return Ok(None);
                }
                ServerFrame::Failed { id, failure } if id == self.id || id == SESSION => {
                    self.done = true;
                    return Err(failure.into());
                }
                // What is left of a call that was given up.
                ServerFrame::Item { .. } | ServerFrame::End { .. } | ServerFrame::Failed { .. } => {}
                ServerFrame::Hello { .. } | ServerFrame::Ready => return Err(unexpected("in the middle of a session")),
            }
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if !self.done {
            // The session may be gone, then so is the call.
            let _ = self.client.send(&ClientFrame::Cancel { id: self.id }).and_then(|()| self.client.flush());
        }
    }
}

/// What is heard during an upload.
#[derive(Debug)]
pub(crate) enum IngestEvent {
    /// How far the node is.
    Progress(Progress),
    /// Something worth knowing.
    Warning(String),
}

/// Sends the parts of an ingest.
#[derive(Debug)]
pub(crate) struct Uploader<'a> {
    writer: &'a mut BufWriter<UnixStream>,
    id: u32,
}

impl Uploader<'_> {
    /// The socket, to see whether the node is still there.
    pub(crate) fn socket(&self) -> Result<UnixStream> {
        self.writer.get_ref().try_clone().map_err(|error| lost(&error))
    }

    /// Sends a part.
    pub(crate) fn part(&mut self, part: UploadPart) -> Result<()> {
        send(self.writer, &ClientFrame::Upload { id: self.id, part })
    }

    fn finish(&mut self) -> Result<()> {
        self.part(UploadPart::End)?;
        self.flush()
    }

    fn flush(&mut self) -> Result<()> {
        self.writer.flush().map_err(|error| lost(&error))
    }
}

fn read_ingest(
    reader: &mut BufReader<UnixStream>,
    call: u32,
    on_event: &mut impl FnMut(IngestEvent),
) -> Result<Staged> {
    let mut staged = None;
    loop {
        match receive(reader)? {
            ServerFrame::Item { id, event } if id == call => match *event {
                Event::Progress(progress) => on_event(IngestEvent::Progress(progress)),
                Event::Warning(warning) => on_event(IngestEvent::Warning(warning.message)),
                Event::Staged(answer) => staged = Some(answer),
                _ => return Err(unexpected("to an upload")),
            },
            ServerFrame::End { id } if id == call => return staged.ok_or_else(|| unexpected("to an upload")),
            ServerFrame::Failed { id, failure } if id == call || id == SESSION => return Err(failure.into()),
            ServerFrame::Item { .. } | ServerFrame::End { .. } | ServerFrame::Failed { .. } => {}
            ServerFrame::Hello { .. } | ServerFrame::Ready => return Err(unexpected("in the middle of a session")),
        }
    }
}

fn send(writer: &mut impl Write, frame: &impl Versioned) -> Result<()> {
    let bytes = encode(frame);
    let header = frame::header(bytes.len(), MAX_CONTROL_FRAME)
        .map_err(|error| CliError::new(ErrorCode::LimitExceeded, format!("the request is too long: {error}")))?;
    writer.write_all(&header).and_then(|()| writer.write_all(&bytes)).map_err(|error| lost(&error))
}

fn receive(reader: &mut impl Read) -> Result<ServerFrame> {
    let nonsense = |error: &dyn std::fmt::Display| {
        CliError::new(ErrorCode::Unsupported, format!("what answers is not a bibd of this version: {error}"))
            .hint("check `--node`, and that bib and bibd have the same version")
    };
    let mut header = [0; frame::HEADER_LEN];
    reader.read_exact(&mut header).map_err(|error| lost(&error))?;
    let len = frame::payload_len(header, MAX_CONTROL_FRAME).map_err(|error| nonsense(&error))?;
    let mut payload = vec![0; len];
    reader.read_exact(&mut payload).map_err(|error| lost(&error))?;
    decode(&payload).map_err(|error| nonsense(&error))
}

fn unexpected(to: &str) -> CliError {
    CliError::new(ErrorCode::Internal, format!("the node gave an unexpected answer {to}"))
        .hint("install the same version of bib and bibd, then restart bibd")
}

fn lost(error: &std::io::Error) -> CliError {
    use std::io::ErrorKind as Kind;
    match error.kind() {
        Kind::WouldBlock | Kind::TimedOut => CliError::new(ErrorCode::Timeout, "the node did not answer in time"),
        _ => CliError::new(ErrorCode::Unreachable, "the node ended the session")
            .hint("see whether bibd still runs and what its log says, then run the command again"),
    }
}

/// The sockets to try, in order.
pub(crate) fn candidates(ctx: &Context) -> Result<Vec<PathBuf>> {
    let node = ctx.config.node();
    if node == "auto" {
        let uid = rustix::process::getuid().as_raw();
        let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR");
        return Ok(vec![socket::user_socket(runtime_dir.as_deref(), uid), PathBuf::from(socket::SYSTEM_SOCKET)]);
    }
    match node.strip_prefix("unix:") {
        Some(path) if !path.is_empty() => Ok(vec![PathBuf::from(path)]),
        _ => Err(CliError::invalid(format!("`{node}` is not the address of a node"))
            .hint("write `--node unix:/path/to/bibd.sock`")),
    }
}

fn connect(ctx: &Context) -> Result<(UnixStream, PathBuf)> {
    first_that_answers(&candidates(ctx)?, check_place)
}

fn first_that_answers(candidates: &[PathBuf], check: impl Fn(&Path) -> Result<()>) -> Result<(UnixStream, PathBuf)> {
    let mut foreign = None;
    for path in candidates {
        // Whoever made that folder shall not keep others from the node of the system.
        if let Err(error) = check(path) {
            foreign = Some(error);
            continue;
        }
        match UnixStream::connect(path) {
            Ok(stream) => return Ok((stream, path.clone())),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                return Err(CliError::new(
                    ErrorCode::Denied,
                    format!("you may not use the socket `{}`", path.display()),
                )
                .hint("join the group of the node: `sudo usermod -aG bib $USER`, then log in again"));
            }
            Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {
                return Err(CliError::invalid(format!("`{}` is too long for a socket", path.display()))
                    .hint("the path of a socket has at most 107 bytes: choose a shorter one for bibd and `--node`"));
            }
            Err(_) => {}
        }
    }
    if let Some(error) = foreign {
        return Err(error);
    }
    let tried: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
    Err(Failure::new(ErrorCode::Unreachable, format!("no node answers at {}", tried.join(" or "))).into())
}

/// Anybody may make a folder in `/tmp`: a socket there is used only if nobody else can have put it there.
fn check_place(path: &Path) -> Result<()> {
    let uid = rustix::process::getuid().as_raw();
    let dir = socket::fallback_dir(uid);
    if path.parent() != Some(dir.as_path()) {
        return Ok(());
    }
    match std::fs::symlink_metadata(&dir) {
        Ok(metadata) if !metadata.is_dir() || metadata.uid() != uid || metadata.mode() & 0o022 != 0 => {
            Err(CliError::new(ErrorCode::Denied, format!("`{}` does not belong to you alone", dir.display()))
                .hint("set XDG_RUNTIME_DIR for bib and bibd, or name the socket with `--node`"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_of_somebody_else_keeps_nobody_from_another_node() {
        let dir = tempfile::tempdir().unwrap();
        let candidates = [dir.path().join("foreign"), dir.path().join("system")];
        let foreign = |path: &Path| {
            let error = CliError::new(ErrorCode::Denied, "it does not belong to you alone");
            if path.ends_with("foreign") { Err(error) } else { Ok(()) }
        };
        let error = first_that_answers(&candidates, foreign).unwrap_err();
        assert!(error.to_string().contains("belong to you"), "{error}");
        let _listener = std::os::unix::net::UnixListener::bind(&candidates[1]).unwrap();
        assert_eq!(first_that_answers(&candidates, foreign).unwrap().1, candidates[1]);
    }

    #[test]
    fn what_a_node_said_before_it_hung_up_is_heard() {
        let (mut node, stream) = UnixStream::pair().unwrap();
        send(&mut node, &ServerFrame::Failed { id: SESSION, failure: Failure::new(ErrorCode::Busy, "no room") })
            .unwrap();
        drop(node);
        let mut client = Client {
            reader: BufReader::new(stream.try_clone().unwrap()),
            writer: BufWriter::with_capacity(WRITE_BUFFER, stream),
            next_id: 1,
            node: NodeId::from_bytes([0; 32]),
            timeout: Duration::from_secs(5),
            long_timeout: None,
        };
        let CliError::Failure(failure) = client.greet(None).unwrap_err() else { panic!("a failure") };
        assert_eq!((failure.code, failure.message.as_str()), (ErrorCode::Busy, "no room"));
        assert_eq!(failure.code.exit_code(), 1);
    }
}
