//! A real node and a peer that is played by the test: what the node answers, and what it does about those who lie.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../control/client.rs"]
#[allow(dead_code, reason = "shared with the tests of the control socket")]
mod client;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_io::Timer;
use bib_core::api::{Event, Request, UploadPart};
use bib_core::chunk::{Chunk, Codec};
use bib_core::chunker::ChunkerParams;
use bib_core::encode::{Versioned, decode, encode};
use bib_core::hash::hash;
use bib_core::id::{ChunkId, ContentId, ManifestId, NodeId, OpId, TopicId, VersionId};
use bib_core::key::SecretKey;
use bib_core::limits::{CLOCK_SKEW, MAX_INBOUND_CATALOG_STREAMS, MAX_SYNC_REQUEST_LEN};
use bib_core::model::manifest::builder::{Builder, Built, Piece};
use bib_core::model::manifest::{EntryKind, ManifestKind, reader};
use bib_core::model::{ContentFormat, DatasetPath, Reference, Visibility};
use bib_core::op::operation::{FieldChanges, NewVersion};
use bib_core::op::{Body, Operation, Unsigned};
use bib_core::time::Timestamp;
use bib_core::wire::gossip::{GLOBAL, GossipBody, GossipMessage, topic_name};
use bib_core::wire::message::{
    ChunkData, DataRequest, DataResponse, DiscoveryRequest, DiscoveryResponse, Envelope, NodeMode, RefusalCode,
    SyncRequest, SyncResponse,
};
use bib_node::Spawner;
use bib_node::net::{FrameReader, FrameStream, FrameWriter, Net, NetConfig, NetEvent, Protocol, Published, Security};
use client::{Client, TestNode, user};
use futures::future::{Either, select};
use serde_bytes::ByteBuf;

/// Longer than anything takes that is waited for, so that a test that would hang fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// The peer that the test plays.
struct Played {
    net: Net,
    node: NodeId,
    /// Streams on which the node asks for content, opened while something else was done.
    asked: Vec<FrameStream>,
}

type Stream = (FrameReader, FrameWriter);

impl Played {
    /// Connects to a node.
    async fn connect(spawner: &Spawner, node: &TestNode) -> Self {
        Self::connect_as(user(99), spawner, node).await
    }

    async fn connect_as(identity: SecretKey, spawner: &Spawner, node: &TestNode) -> Self {
        let config = NetConfig {
            identity,
            listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
            security: Security::Auto,
            agent: "test".to_owned(),
            max_connections: 10,
        };
        let mut net = Net::start(config, spawner.shared()).unwrap();
        net.dial(address(node).parse().unwrap());
        loop {
            if let NetEvent::Connected { node, .. } = net.next().await {
                return Self { net, node, asked: Vec::new() };
            }
        }
    }

    async fn open(&mut self, protocol: Protocol) -> Stream {
        let wanted = self.net.open(&self.node, protocol);
        loop {
            match self.net.next().await {
                NetEvent::Opened { id, stream, .. } if id == wanted => return stream.split(),
                NetEvent::OpenFailed { id, error, .. } if id == wanted => panic!("{error}"),
                _ => {}
            }
        }
    }

    /// Does some work while the network is driven.
    async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let Self { net, asked, .. } = self;
        let driving = async {
            loop {
                if let NetEvent::Inbound { protocol: Protocol::Data, stream, .. } = net.next().await {
                    asked.push(stream);
                }
            }
        };
        match select(pin!(work), pin!(driving)).await {
            Either::Left((value, _)) => value,
            Either::Right((never, _)) => never,
        }
    }

    async fn asks<Q, R>(&mut self, stream: &mut Stream, req: u64, body: Q) -> R
    where
        Envelope<Q>: Versioned,
        Envelope<R>: Versioned,
    {
        let (reader, writer) = stream;
        let frame = encode(&Envelope { req, body });
        let answer = self.during(async {
            writer.write(&frame).await.unwrap();
            reader.read().await.unwrap().expect("an answer comes")
        });
        let answer: Envelope<R> = decode(&answer.await).unwrap();
        assert_eq!(answer.req, req);
        answer.body
    }

    /// Sends a message when the node has subscribed to the topic.
    async fn gossips(&mut self, topic: &str, bytes: &[u8]) {
        self.net.subscribe(topic).unwrap();
        loop {
            match self.net.publish(topic, bytes.to_vec()).unwrap() {
                Published::Sent => return,
                Published::NoPeers => {}
                other => panic!("{other:?}"),
            }
            // A subscription is no event of its own; the next one of any kind, or a moment, may have brought it.
            let next = pin!(self.net.next());
            select(next, pin!(Timer::after(Duration::from_millis(20)))).await;
        }
    }
}

fn run(test: impl AsyncFnOnce(&Spawner)) {
    let spawner = Spawner::new();
    spawner.block_on(async {
        let hang = pin!(Timer::after(PATIENCE));
        if let Either::Right(_) = select(pin!(test(&spawner)), hang).await {
            panic!("nothing happened any more");
        }
    });
}

fn address(node: &TestNode) -> String {
    let mut client = node.connect();
    client.open(None);
    loop {
        let answer = client.call(Request::Status).unwrap();
        let [Event::Status(status)] = &answer[..] else { panic!("{answer:?}") };
        if let Some(address) = status.addresses.first() {
            return address.clone();
        }
    }
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp(i64::try_from(since.as_micros()).unwrap())
}

fn topic(key: &SecretKey, name: &str) -> Operation {
    let fields = FieldChanges::default();
    let body = Body::CreateTopic { parent: None, name: name.parse().unwrap(), visibility: Visibility::Public, fields };
    sign(key, None, &[], body)
}

fn sign(key: &SecretKey, topic: Option<TopicId>, after: &[&Operation], body: Body) -> Operation {
    let parents: Vec<OpId> = after.iter().map(|op| op.id()).collect();
    let lamport = 1 + after.iter().map(|op| op.lamport).max().unwrap_or(0);
    let time = now();
    Unsigned { topic, author: key.user_id(), lamport, time, parents, keeps: Vec::new(), body }.sign(key).unwrap()
}

fn submit(client: &mut Client, ops: &[&Operation]) {
    let ops = ops.iter().map(|op| ByteBuf::from(op.bytes())).collect();
    client.call(Request::OpSubmit { ops }).unwrap();
}

fn version_of(dataset: &Operation, manifest: ManifestId, content: ContentId, (size, n_files): (u64, u64)) -> Body {
    Body::PublishVersion(NewVersion {
        dataset: dataset.id().into(),
        semver: "1.0.0".parse().unwrap(),
        previous: None,
        message: String::new(),
        manifest,
        content,
        size,
        n_files,
        format: ContentFormat::Binary,
        schema: None,
        row_count: None,
        license: None,
        source_url: None,
    })
}

/// Publishes bytes as the version 1.0.0 of `t/d`; its id and manifest.
fn publish(node: &TestNode, key: &SecretKey, bytes: &[u8]) -> (VersionId, ManifestId) {
    let mut client = node.session(key);
    let ingest = client.begin(Request::Ingest { dataset: None, kind: ManifestKind::File, expected: None }, 0);
    client.upload(ingest, UploadPart::Entry { path: "f".to_owned(), kind: EntryKind::File });
    client.upload(ingest, UploadPart::Data(ByteBuf::from(bytes)));
    client.upload(ingest, UploadPart::End);
    let events = client.result(ingest).unwrap();
    let [Event::Staged(staged)] = &events[..] else { panic!("{events:?}") };
    let root = topic(key, "t");
    let dataset = Body::CreateDataset { name: "d".parse().unwrap(), fields: FieldChanges::default() };
    let dataset = sign(key, Some(root.id().into()), &[&root], dataset);
    let version = version_of(&dataset, staged.manifest, staged.content, (staged.size, staged.n_files));
    let version = sign(key, Some(root.id().into()), &[&dataset], version);
    submit(&mut client, &[&root, &dataset, &version]);
    (version.id().into(), staged.manifest)
}

#[test]
fn node_says_what_it_is_and_holds() {
    let node = TestNode::start("");
    let root = topic(&user(1), "weather");
    submit(&mut node.session(&user(1)), &[&root]);
    run(async |spawner| {
        let mut peer = Played::connect(spawner, &node).await;
        let mut stream = peer.open(Protocol::Discovery).await;
        let DiscoveryResponse::PeerInfo(info) = peer.asks(&mut stream, 1, DiscoveryRequest::PeerInfo).await else {
            panic!("an answer to the question");
        };
        assert_eq!((info.node, info.mode), (peer.node, NodeMode::Full));
        assert_eq!(info.protocols, Protocol::ALL.map(|protocol| protocol.name().to_owned()));
        let list = DiscoveryRequest::ListTopics { after: None, limit: 10 };
        let DiscoveryResponse::Topics { topics, more: false } = peer.asks(&mut stream, 2, list).await else {
            panic!("an answer to the question");
        };
        assert_eq!(topics.iter().map(|topic| topic.id).collect::<Vec<_>>(), [root.id().into()]);

        let mut stream = peer.open(Protocol::Sync).await;
        let get = SyncRequest::GetOps { ids: vec![root.id(), OpId::from_bytes([0; 32])] };
        let SyncResponse::Ops(ops) = peer.asks(&mut stream, 1, get).await else { panic!("an answer") };
        assert_eq!(ops, [ByteBuf::from(root.bytes())]);
    });
}

#[test]
fn content_of_public_versions_is_served_in_pieces_that_verify() {
    let node = TestNode::start("");
    let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let (version, manifest) = publish(&node, &user(1), &bytes);
    run(async |spawner| {
        let mut peer = Played::connect(spawner, &node).await;
        let mut stream = peer.open(Protocol::Data).await;
        let manifest_of = DataRequest::GetManifest { version, pages: Vec::new() };
        let page = chunks(&mut peer, &mut stream, 1, manifest_of).await.unwrap().remove(0);
        assert_eq!(ManifestId::from(page.id()), manifest);
        let raw = page.into_raw();
        let root = reader::root(manifest, |_| Ok::<_, Infallible>(Some(raw.clone()))).unwrap();
        let mut cursor = reader::Cursor::chunks(&root);
        let mut ids: Vec<ChunkId> = Vec::new();
        while let Some(chunk) = cursor.next(&mut |_: &ChunkId| Ok::<_, Infallible>(None)).unwrap() {
            ids.push(chunk.id);
        }
        let got =
            chunks(&mut peer, &mut stream, 2, DataRequest::GetChunks { version, ids: ids.clone() }).await.unwrap();
        let stream_bytes: Vec<u8> =
            ids.iter().flat_map(|id| got.iter().find(|chunk| chunk.id() == *id).cloned().unwrap().into_raw()).collect();
        assert!(stream_bytes == bytes);

        let unknown = DataRequest::GetChunks { version: VersionId::from_bytes([0; 32]), ids };
        assert_eq!(chunks(&mut peer, &mut stream, 3, unknown).await.unwrap_err(), RefusalCode::NotFound);
    });
}

/// Asks for chunks or pages; all that come are verified.
async fn chunks(
    peer: &mut Played,
    (reader, writer): &mut Stream,
    req: u64,
    body: DataRequest,
) -> Result<Vec<Chunk>, RefusalCode> {
    let frame = encode(&Envelope { req, body });
    peer.during(async {
        writer.write(&frame).await.unwrap();
        let mut chunks = Vec::new();
        loop {
            let answer: Envelope<DataResponse> = decode(&reader.read().await.unwrap().unwrap()).unwrap();
            assert_eq!(answer.req, req);
            match answer.body {
                DataResponse::Chunk(data) => {
                    chunks.push(Chunk::verify(data.id, data.len, data.codec, data.bytes).unwrap());
                }
                DataResponse::End => return Ok(chunks),
                DataResponse::Refused(refusal) => return Err(refusal.code),
                other => panic!("{other:?}"),
            }
        }
    })
    .await
}

#[test]
fn garbage_ends_its_stream_and_nothing_else() {
    let node = TestNode::start("");
    run(async |spawner| {
        let mut peer = Played::connect(spawner, &node).await;
        for protocol in Protocol::ALL {
            for garbage in [&b""[..], b"\xff", &[1; 3_000]] {
                let (mut reader, mut writer) = peer.open(protocol).await;
                let ended = peer.during(async {
                    writer.write(garbage).await.unwrap();
                    reader.read().await
                });
                assert!(!matches!(ended.await, Ok(Some(_))), "{protocol:?}");
            }
        }
        let mut stream = peer.open(Protocol::Discovery).await;
        let info: DiscoveryResponse = peer.asks(&mut stream, 1, DiscoveryRequest::PeerInfo).await;
        assert!(matches!(info, DiscoveryResponse::PeerInfo(_)));
    });
    node.is_well();
}

#[test]
fn half_frames_hold_few_streams_and_others_are_answered() {
    let node = TestNode::start("");
    run(async |spawner| {
        let mut peer = Played::connect(spawner, &node).await;
        // A frame that is longer than any request ends its stream at the header.
        let (mut reader, mut writer) = peer.open(Protocol::Sync).await;
        let ended = peer.during(async {
            // The node may close the stream before all is written.
            let _ = writer.write(&vec![0; 1 << 20]).await;
            reader.read().await
        });
        assert!(!matches!(ended.await, Ok(Some(_))));
        drop((reader, writer));

        let mut streams = Vec::new();
        for _ in 0..20 {
            streams.push(peer.open(Protocol::Sync).await);
        }
        let half = vec![0; MAX_SYNC_REQUEST_LEN];
        let (told, ends) = async_channel::unbounded();
        for (mut reader, mut writer) in streams {
            let (half, told) = (half.clone(), told.clone());
            let task = async move {
                let writing = pin!(async {
                    // All but the last byte. The node may close the stream before.
                    let _ = writer.write_part(half.len(), &half[1..]).await;
                    std::future::pending::<()>().await;
                });
                select(writing, pin!(reader.read())).await;
                let _ = told.send(()).await;
            };
            spawner.spawn("half", task).detach();
        }
        for _ in MAX_INBOUND_CATALOG_STREAMS..20 {
            peer.during(ends.recv()).await.unwrap();
        }
        assert!(ends.is_empty(), "those that the peer may have are still open");
        let mut honest = Played::connect_as(user(98), spawner, &node).await;
        let mut stream = honest.open(Protocol::Discovery).await;
        let info: DiscoveryResponse = honest.asks(&mut stream, 1, DiscoveryRequest::PeerInfo).await;
        assert!(matches!(info, DiscoveryResponse::PeerInfo(_)));
    });
    node.is_well();
}

fn message(body: GossipBody, sent_at: Timestamp) -> Vec<u8> {
    encode(&GossipMessage { sent_at, body })
}

#[test]
fn gossip_is_taken_when_it_is_good_and_counted_when_it_is_not() {
    let node = TestNode::start("");
    let (owner, stranger) = (user(1), user(2));
    let root = topic(&owner, "weather");
    run(async |spawner| {
        let mut peer = Played::connect(spawner, &node).await;
        let good = message(GossipBody::NewRoot(ByteBuf::from(root.bytes())), now());
        peer.gossips(GLOBAL, &good).await;
        let mut client = node.connect();
        client.open(None);
        while client.call(Request::TopicGet("weather".parse().unwrap())).is_err() {
            peer.during(Timer::after(Duration::from_millis(10))).await;
        }

        let mut forged = topic(&owner, "forged").bytes().to_vec();
        *forged.last_mut().unwrap() ^= 1;
        peer.gossips(GLOBAL, &message(GossipBody::NewRoot(ByteBuf::from(forged)), now())).await;
        peer.gossips(GLOBAL, &[1, 0, 200]).await;
        let old = now().saturating_sub(2 * CLOCK_SKEW);
        let late = topic(&owner, "late");
        peer.gossips(GLOBAL, &message(GossipBody::NewRoot(ByteBuf::from(late.bytes())), old)).await;
        let dataset = Body::CreateDataset { name: "d".parse().unwrap(), fields: FieldChanges::default() };
        let dataset = sign(&stranger, Some(root.id().into()), &[&root], dataset);
        let theirs = message(GossipBody::Ops(vec![ByteBuf::from(dataset.bytes())]), now());
        peer.gossips(&topic_name(&root.id().into()), &theirs).await;

        let expected = ["forged", "malformed", "stale", "unauthorised"];
        loop {
            let answer = client.call(Request::Status).unwrap();
            let [Event::Status(status)] = &answer[..] else { panic!("{answer:?}") };
            let refused: Vec<&str> =
                status.gossip_refused.iter().filter(|(_, n)| *n > 0).map(|(reason, _)| reason.as_str()).collect();
            if refused == expected {
                assert_eq!(status.n_topics, 1, "none of them changed anything");
                break;
            }
            assert!(refused.iter().all(|reason| expected.contains(reason)), "{refused:?}");
            peer.during(Timer::after(Duration::from_millis(10))).await;
        }
    });
    node.is_well();
}

/// A version `t/d` that a peer tells of and may have.
struct Offer {
    /// The topic, the dataset and the version.
    ops: Vec<ByteBuf>,
    chunks_of_it: Vec<Chunk>,
    built: Built,
}

fn offer() -> Offer {
    let key = user(1);
    let noise: Vec<u8> = (0..4_000_u32).flat_map(|i| hash(&i.to_le_bytes())).collect();
    let (chunks_of_it, built) = built(&noise);
    let root = topic(&key, "t");
    let dataset = Body::CreateDataset { name: "d".parse().unwrap(), fields: FieldChanges::default() };
    let dataset = sign(&key, Some(root.id().into()), &[&root], dataset);
    let version = version_of(&dataset, built.manifest, built.content, (built.size, built.n_files));
    let version = sign(&key, Some(root.id().into()), &[&dataset], version);
    let ops = [&root, &dataset, &version].map(|op| ByteBuf::from(op.bytes())).to_vec();
    Offer { ops, chunks_of_it, built }
}

/// Chunks and pages of one file, and what was built.
fn built(bytes: &[u8]) -> (Vec<Chunk>, Built) {
    let mut chunks = Vec::new();
    let mut sink = |piece| {
        let (Piece::Content(chunk) | Piece::Page(chunk)) = piece;
        chunks.push(chunk.compress());
        Ok::<_, Infallible>(())
    };
    let mut builder = Builder::new(ManifestKind::File, ChunkerParams::with_average(4 << 10));
    builder.begin(DatasetPath::new("f").unwrap(), EntryKind::File, &mut sink).unwrap();
    builder.push(bytes, &mut sink).unwrap();
    let built = builder.finish(None, &mut sink).unwrap();
    (chunks, built)
}

/// Answers requests for data: pages as they are, content with one byte changed.
async fn lies(stream: FrameStream, chunks: Vec<Chunk>, root: ChunkId) {
    serves(stream, chunks, root, 1).await;
}

/// Answers requests for data; `change` is what it does to the first byte of content.
async fn serves(stream: FrameStream, chunks: Vec<Chunk>, root: ChunkId, change: u8) {
    let (mut reader, mut writer) = stream.split();
    while let Ok(Some(frame)) = reader.read().await {
        let Envelope { req, body } = decode::<Envelope<DataRequest>>(&frame).unwrap();
        let answers: Vec<DataResponse> = match body {
            DataRequest::Have { .. } => vec![DataResponse::Have { complete: true, bitmap: Vec::new() }],
            DataRequest::GetManifest { .. } => vec![chunk_data(&chunks, root, 0), DataResponse::End],
            DataRequest::GetChunks { ids, .. } => {
                ids.into_iter().map(|id| chunk_data(&chunks, id, change)).chain([DataResponse::End]).collect()
            }
            DataRequest::Cancel { .. } => continue,
        };
        for body in answers {
            // The node may have closed the stream.
            if writer.write(&encode(&Envelope { req, body })).await.is_err() {
                return;
            }
        }
    }
}

fn chunk_data(chunks: &[Chunk], id: ChunkId, change: u8) -> DataResponse {
    let mut bytes = chunks.iter().find(|chunk| chunk.id() == id).cloned().unwrap().into_raw();
    bytes[0] ^= change;
    DataResponse::Chunk(ChunkData { id, len: bytes.len() as u32, codec: Codec::None, bytes })
}

#[test]
fn provider_that_sends_wrong_bytes_is_banned_and_nothing_of_it_is_stored() {
    let node = TestNode::start("");
    let Offer { ops, chunks_of_it, built } = offer();
    run(async |spawner| {
        let mut peer = Played::connect(spawner, &node).await;
        let mut stream = peer.open(Protocol::Sync).await;
        let SyncResponse::Pushed { accepted: 3, .. } = peer.asks(&mut stream, 1, SyncRequest::PushOps { ops }).await
        else {
            panic!("the operations are taken");
        };
        let page = ChunkId::from(built.manifest);
        // After one bad chunk the provider is not used any more in a fetch; the next fetch finds the next one.
        let banned = Arc::new(AtomicBool::new(false));
        let users = {
            let (banned, mut client) = (banned.clone(), node.connect());
            client.open(None);
            std::thread::spawn(move || {
                let reference: Reference = "t/d".parse().unwrap();
                while !banned.load(Ordering::Relaxed) {
                    assert!(client.call(Request::Fetch { reference: reference.clone() }).is_err(), "nobody has it");
                }
            })
        };
        loop {
            // The node may have begun to fetch before it has answered.
            for stream in std::mem::take(&mut peer.asked) {
                spawner.spawn("lies", lies(stream, chunks_of_it.clone(), page)).detach();
            }
            match peer.net.next().await {
                NetEvent::Inbound { protocol: Protocol::Data, stream, .. } => peer.asked.push(stream),
                NetEvent::Disconnected { .. } => break,
                _ => {}
            }
        }
        banned.store(true, Ordering::Relaxed);
        users.join().unwrap();
        // Nor is it let in again.
        peer.net.dial(address(&node).parse().unwrap());
        loop {
            match peer.net.next().await {
                NetEvent::DialFailed { .. } | NetEvent::Disconnected { .. } => break,
                _ => {}
            }
        }
    });
    let mut client = node.connect();
    client.open(None);
    let answer = client.call(Request::Status).unwrap();
    let [Event::Status(status)] = &answer[..] else { panic!("{answer:?}") };
    assert_eq!((status.n_versions, status.n_peers), (1, 0));
    let pages = chunks_of_it.len() as u64 - built.n_chunks;
    assert!(status.chunks.n_chunks <= pages, "only pages, which were right, are stored: {:?}", status.chunks);
}

/// Says that it has everything, and answers what it is then asked for with the beginning of a frame.
async fn begins(stream: FrameStream, ended: async_channel::Sender<()>) {
    let (mut reader, mut writer) = stream.split();
    let mut has_begun = false;
    while let Ok(Some(frame)) = reader.read().await {
        let Envelope { req, body } = decode::<Envelope<DataRequest>>(&frame).unwrap();
        let written = if has_begun {
            Ok(())
        } else if let DataRequest::Have { .. } = body {
            let body = DataResponse::Have { complete: true, bitmap: Vec::new() };
            writer.write(&encode(&Envelope { req, body })).await
        } else {
            has_begun = true;
            writer.write_part(10_000, &[0; 100]).await
        };
        if written.is_err() {
            break;
        }
    }
    if has_begun {
        // The test may have heard enough.
        let _ = ended.send(()).await;
    }
}

#[test]
fn provider_that_stops_in_an_answer_loses_its_stream_and_another_is_asked() {
    let node = TestNode::start("");
    let Offer { ops, chunks_of_it, built } = offer();
    run(async |spawner| {
        let mut peer = Played::connect(spawner, &node).await;
        let mut stream = peer.open(Protocol::Sync).await;
        node.patience.divide(300);
        let SyncResponse::Pushed { accepted: 3, .. } = peer.asks(&mut stream, 1, SyncRequest::PushOps { ops }).await
        else {
            panic!("the operations are taken");
        };
        let (fetched, is_here) = async_channel::bounded(1);
        let asking = {
            let mut client = node.connect();
            client.open(None);
            std::thread::spawn(move || {
                let reference: Reference = "t/d".parse().unwrap();
                let result = client.call(Request::Fetch { reference });
                fetched.send_blocking(()).unwrap();
                result.map(drop)
            })
        };
        let (told, ended) = async_channel::unbounded();
        let begin = |peer: &mut Played| {
            for stream in std::mem::take(&mut peer.asked) {
                spawner.spawn("begins", begins(stream, told.clone())).detach();
            }
        };
        loop {
            begin(&mut peer);
            match select(pin!(peer.net.next()), pin!(ended.recv())).await {
                Either::Left((NetEvent::Inbound { protocol: Protocol::Data, stream, .. }, _)) => {
                    peer.asked.push(stream);
                }
                Either::Left(_) => {}
                Either::Right(_) => break,
            }
        }
        node.patience.divide(1);
        // The one who stops is still there; it is another who answers.
        let mut honest = Played::connect_as(user(98), spawner, &node).await;
        loop {
            begin(&mut peer);
            for stream in std::mem::take(&mut honest.asked) {
                let page = ChunkId::from(built.manifest);
                spawner.spawn("serves", serves(stream, chunks_of_it.clone(), page, 0)).detach();
            }
            let (first, second) = (pin!(peer.net.next()), pin!(honest.net.next()));
            match select(select(first, second), pin!(is_here.recv())).await {
                Either::Left((Either::Left((NetEvent::Inbound { protocol: Protocol::Data, stream, .. }, _)), _)) => {
                    peer.asked.push(stream);
                }
                Either::Left((Either::Right((NetEvent::Inbound { protocol: Protocol::Data, stream, .. }, _)), _)) => {
                    honest.asked.push(stream);
                }
                Either::Left(_) => {}
                Either::Right(_) => break,
            }
        }
        assert_eq!(asking.join().unwrap(), Ok(()), "the stream was given up, and not the fetch");
    });
    node.is_well();
}
