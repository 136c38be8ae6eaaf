//! A node in a thread, and a client that speaks frames by hand.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use bib_core::api::{
    API_VERSION, ClientFrame, ErrorCode, Event, Failure, Request, ServerFrame, UploadPart, auth_bytes,
};
use bib_core::encode::{decode, encode};
use bib_core::key::{Purpose, SecretKey};
use bib_core::model::manifest::{EntryKind, ManifestKind};
use bib_node::config::{Config, Layers, Surroundings};
use bib_node::runtime::Patience;
use bib_node::{NodeBuilder, Spawner};

/// A node that works in a thread of this process until it is dropped.
pub(crate) struct TestNode {
    socket: PathBuf,
    /// How long it waits for others.
    pub(crate) patience: Patience,
    thread: Option<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

/// Longer than anything takes that is waited for, so that a test that would hang fails.
const PATIENCE: Duration = Duration::from_secs(60);

impl TestNode {
    pub(crate) fn start(settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s").join("bibd.sock");
        let mut layers = Layers::built_in();
        let fixed = format!(
            "storage.data_dir = {:?}\ncontrol.socket = {socket:?}\np2p.listen = ['/ip4/127.0.0.1/tcp/0']\n",
            dir.path().join("data")
        );
        layers.add_file(&fixed, "fixed").unwrap();
        layers.add_file(settings, "settings").unwrap();
        let config = Config::resolve(&layers, &Surroundings::default()).unwrap();
        let (started, starts) = std::sync::mpsc::channel();
        let patience = Patience::default();
        let given = patience.clone();
        let thread = std::thread::spawn(move || {
            let spawner = Spawner::new();
            let node = NodeBuilder::new(config).patience(given).start(&spawner).unwrap();
            started.send(()).unwrap();
            spawner.block_on(node.run());
        });
        starts.recv_timeout(PATIENCE).unwrap();
        Self { socket, patience, thread: Some(thread), _dir: dir }
    }

    pub(crate) fn connect(&self) -> Client {
        Client::over(UnixStream::connect(&self.socket).unwrap())
    }

    /// A session of a user.
    pub(crate) fn session(&self, key: &SecretKey) -> Client {
        let mut client = self.connect();
        client.open(Some(key));
        client
    }

    /// The node answers, whatever was done to it.
    pub(crate) fn is_well(&self) {
        let mut client = self.connect();
        client.open(None);
        assert_eq!(client.call(Request::Ping), Ok(Vec::new()));
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        let mut client = self.connect();
        client.open(None);
        let stopped = client.call(Request::Shutdown);
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            stopped.unwrap();
            ended.unwrap().unwrap();
            assert!(!self.socket.exists(), "a node that stops takes its socket away");
        }
    }
}

pub(crate) fn user(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

/// One end of a session.
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    next_id: u32,
}

impl Client {
    pub(crate) fn over(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, next_id: 1 }
    }

    pub(crate) fn send(&mut self, frame: &ClientFrame) {
        self.send_bytes(&encode(frame)).unwrap();
    }

    /// Sends bytes as a frame.
    pub(crate) fn send_bytes(&mut self, payload: &[u8]) -> io::Result<()> {
        self.stream.write_all(&(payload.len() as u32).to_be_bytes())?;
        self.stream.write_all(payload)
    }

    /// The next frame; `None` when the node has ended the session.
    pub(crate) fn receive(&mut self) -> Option<ServerFrame> {
        let mut len = [0; 4];
        match self.stream.read_exact(&mut len) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
                return None;
            }
            Err(error) => panic!("nothing comes: {error}"),
        }
        let mut payload = vec![0; u32::from_be_bytes(len) as usize];
        self.stream.read_exact(&mut payload).unwrap();
        Some(decode(&payload).unwrap())
    }

    /// The failure that ends the session, and its end.
    pub(crate) fn refused(mut self) -> Failure {
        let failure = loop {
            match self.receive() {
                Some(ServerFrame::Failed { id: 0, failure }) => break failure,
                Some(_) => {}
                None => panic!("the session ended without a word"),
            }
        };
        assert_eq!(self.receive(), None, "nothing follows");
        failure
    }

    pub(crate) fn open(&mut self, key: Option<&SecretKey>) {
        self.send(&ClientFrame::Hello { api: API_VERSION });
        let Some(ServerFrame::Hello { node, nonce, .. }) = self.receive() else { panic!("a greeting is answered") };
        let auth = key.map(|key| (key.user_id(), key.sign(Purpose::Auth, &auth_bytes(&nonce, &node))));
        self.send(&ClientFrame::Auth(auth));
        assert_eq!(self.receive(), Some(ServerFrame::Ready));
    }

    /// Begins a call; returns its number.
    pub(crate) fn begin(&mut self, request: Request, deadline_ms: u32) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        self.send(&ClientFrame::Call { id, request_id: u64::from(id), deadline_ms, request: Box::new(request) });
        id
    }

    /// Begins an ingest of one file, of which nothing is sent yet.
    pub(crate) fn begin_ingest(&mut self) -> u32 {
        self.begin(Request::Ingest { dataset: None, kind: ManifestKind::File, expected: None }, 0)
    }

    pub(crate) fn upload(&mut self, id: u32, part: UploadPart) {
        self.send(&ClientFrame::Upload { id, part });
    }

    pub(crate) fn upload_file(&mut self, id: u32, bytes: &[u8]) {
        self.upload(id, UploadPart::Entry { path: "f".to_owned(), kind: EntryKind::File });
        for piece in bytes.chunks(100_000) {
            self.upload(id, UploadPart::Data(serde_bytes::ByteBuf::from(piece)));
        }
        self.upload(id, UploadPart::End);
    }

    /// What a call yields, without reports of progress.
    pub(crate) fn result(&mut self, call: u32) -> Result<Vec<Event>, Failure> {
        let mut events = Vec::new();
        loop {
            match self.receive().expect("the session goes on") {
                ServerFrame::Item { id, event } if id == call => match *event {
                    Event::Progress(_) => {}
                    event => events.push(event),
                },
                ServerFrame::End { id } if id == call => return Ok(events),
                ServerFrame::Failed { id, failure } if id == call => return Err(failure),
                ServerFrame::Failed { id: 0, failure } => panic!("the session failed: {failure}"),
                _ => {}
            }
        }
    }

    pub(crate) fn call(&mut self, request: Request) -> Result<Vec<Event>, Failure> {
        let id = self.begin(request, 0);
        self.result(id)
    }

    pub(crate) fn fails(&mut self, request: Request) -> ErrorCode {
        self.call(request).unwrap_err().code
    }
}
