//! The node's end of the control socket, played by the test: it keeps topics, datasets, versions and bytes in memory,
//! checks every signature and that operations follow one another, and can be told to misbehave.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use bib_core::api::care::{Collected, Pinned, Rebuilt, Scrubbed, Space, Verified, Worker};
use bib_core::api::event::{
    BackupMade, ConfigValue, Fetched, KeysFigures, OpContext, Peer, Progress, SplitFigures, Staged, Status,
};
use bib_core::api::{ClientFrame, ErrorCode, Event, Failure, Request, ServerFrame, UploadPart, auth_bytes};
use bib_core::backup::Snapshot;
use bib_core::catalog::record::Kept;
use bib_core::encode::{decode, encode};
use bib_core::hash::hash;
use bib_core::id::{ContentId, DatasetId, ManifestId, NodeId, OpId, TopicId, UserId};
use bib_core::key::{Purpose, verify};
use bib_core::model::dataset::DatasetStatus;
use bib_core::model::manifest::{Entry, EntryKind, ManifestKind};
use bib_core::model::topic::TopicStatus;
use bib_core::model::version::VersionStatus;
use bib_core::model::{Dataset, DatasetPath, Reference, Topic, Version, VersionSelector};
use bib_core::op::{Body, Operation, Resource, Role};
use bib_core::port::ChunkStoreStats;
use bib_core::share::SetId;
use bib_core::time::Timestamp;
use bib_core::wire::message::{CatalogEntry, EntryVersion, NodeMode};

/// What an answer is.
pub(crate) type Answer = Result<Vec<Event>, Failure>;
type Hook = Box<dyn Fn(&Request) -> Option<Answer> + Send>;
type Content = Vec<(Entry, Vec<u8>)>;

/// What the node holds and has seen.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) topics: BTreeMap<String, Topic>,
    pub(crate) datasets: BTreeMap<String, Dataset>,
    /// In the order of publication.
    pub(crate) versions: Vec<(String, Version)>,
    pub(crate) contents: BTreeMap<ManifestId, Content>,
    /// Where files lie whose bytes stay there, by their paths in the version.
    pub(crate) places: BTreeMap<String, Vec<u8>>,
    pub(crate) ops: Vec<Operation>,
    pub(crate) pins: Vec<Pinned>,
    pub(crate) requests: Vec<Request>,
    pub(crate) users: Vec<Option<UserId>>,
    /// Answers first, if it wants to.
    pub(crate) hook: Option<Hook>,
    /// Ends the session when this many bytes of an upload have come.
    pub(crate) hang_up_after: Option<usize>,
    /// Runs when the first bytes of an upload have come.
    pub(crate) on_first_bytes: Option<Box<dyn FnOnce() + Send>>,
}

/// A running node.
pub(crate) struct ModelNode {
    world: Arc<Mutex<World>>,
}

pub(crate) const NODE: NodeId = NodeId::from_bytes([7; 32]);
const NONCE: [u8; 32] = [9; 32];

impl ModelNode {
    /// Listens on a socket until the test ends.
    pub(crate) fn start(socket: &Path) -> Self {
        std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
        let listener = UnixListener::bind(socket).unwrap();
        let world = Arc::new(Mutex::new(World::default()));
        let shared = Arc::clone(&world);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, world) = (stream.unwrap(), Arc::clone(&shared));
                // A session that ends in the middle is the caller's business.
                std::thread::spawn(move || serve(stream, &world));
            }
        });
        Self { world }
    }

    /// What it holds.
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// Answers some requests otherwise than it would.
    pub(crate) fn hook(&self, hook: impl Fn(&Request) -> Option<Answer> + Send + 'static) {
        self.world().hook = Some(Box::new(hook));
    }
}

fn read_frame(stream: &mut UnixStream) -> Option<ClientFrame> {
    let mut len = [0; 4];
    stream.read_exact(&mut len).ok()?;
    let mut bytes = vec![0; u32::from_be_bytes(len) as usize];
    stream.read_exact(&mut bytes).ok()?;
    Some(decode(&bytes).unwrap())
}

fn write_frame(stream: &mut UnixStream, frame: &ServerFrame) -> Option<()> {
    let bytes = encode(frame);
    stream.write_all(&(bytes.len() as u32).to_be_bytes()).ok()?;
    stream.write_all(&bytes).ok()
}

fn serve(mut stream: UnixStream, world: &Mutex<World>) -> Option<()> {
    let ClientFrame::Hello { api } = read_frame(&mut stream)? else { panic!("a session begins with hello") };
    let hello = ServerFrame::Hello { api, version: "0.1.0".to_owned(), node: NODE, nonce: NONCE };
    write_frame(&mut stream, &hello)?;
    let ClientFrame::Auth(auth) = read_frame(&mut stream)? else { panic!("then comes auth") };
    if let Some((user, signature)) = &auth {
        assert_eq!(verify(user, Purpose::Auth, &auth_bytes(&NONCE, &NODE), signature), Ok(()));
    }
    let user = auth.map(|(user, _)| user);
    world.lock().unwrap().users.push(user);
    write_frame(&mut stream, &ServerFrame::Ready)?;
    loop {
        let (id, request) = match read_frame(&mut stream)? {
            ClientFrame::Call { id, request, .. } => (id, *request),
            ClientFrame::Cancel { .. } => continue,
            other => panic!("unexpected {other:?}"),
        };
        world.lock().unwrap().requests.push(request.clone());
        let refused = {
            let world = world.lock().unwrap();
            world.hook.as_ref().and_then(|hook| hook(&request)).filter(Result::is_err)
        };
        let uploaded = match (&request, &refused) {
            (Request::Ingest { .. } | Request::IngestInPlace { .. }, None) => Some(receive(&mut stream, id, world)?),
            _ => None,
        };
        let answer = refused.unwrap_or_else(|| {
            let mut world = world.lock().unwrap();
            world
                .hook
                .as_ref()
                .and_then(|hook| hook(&request))
                .unwrap_or_else(|| world.answer(&request, user, uploaded))
        });
        match answer {
            Ok(events) => {
                for event in events {
                    write_frame(&mut stream, &ServerFrame::Item { id, event: Box::new(event) })?;
                }
                write_frame(&mut stream, &ServerFrame::End { id })?;
            }
            Err(failure) => write_frame(&mut stream, &ServerFrame::Failed { id, failure })?,
        }
    }
}

fn receive(stream: &mut UnixStream, call: u32, world: &Mutex<World>) -> Option<Content> {
    let mut files: Vec<(String, EntryKind, Vec<u8>)> = Vec::new();
    let mut total = 0;
    loop {
        match read_frame(stream)? {
            ClientFrame::Upload { id, part } if id == call => match part {
                UploadPart::Entry { path, kind } => {
                    assert!(files.last().is_none_or(|(last, ..)| *last < path), "entries come in order: {path}");
                    files.push((path, kind, Vec::new()));
                }
                UploadPart::Data(bytes) => {
                    total += bytes.len();
                    if let Some(run) = world.lock().unwrap().on_first_bytes.take() {
                        run();
                    }
                    files.last_mut().unwrap().2.extend_from_slice(&bytes);
                    if world.lock().unwrap().hang_up_after.is_some_and(|limit| total >= limit) {
                        return None;
                    }
                }
                UploadPart::End => break,
                UploadPart::InPlace(place) => {
                    let (path, _, bytes) = files.last().unwrap();
                    assert!(bytes.is_empty(), "a place comes before the bytes");
                    world.lock().unwrap().places.insert(path.clone(), place.into_vec());
                }
            },
            ClientFrame::Cancel { id } if id == call => return None,
            other => panic!("unexpected {other:?}"),
        }
        let progress = Progress { done: total as u64, ..Progress::default() };
        write_frame(stream, &ServerFrame::Item { id: call, event: Box::new(Event::Progress(progress)) })?;
    }
    let mut offset = 0;
    let entries = files.into_iter().map(|(path, kind, bytes)| {
        let entry = Entry {
            path: DatasetPath::new(&path).unwrap(),
            kind,
            size: bytes.len() as u64,
            content: ContentId::from_bytes(hash(&bytes)),
            offset,
        };
        offset += entry.size;
        (entry, bytes)
    });
    Some(entries.collect())
}

fn not_found(what: &str) -> Failure {
    Failure::new(ErrorCode::NotFound, format!("there is no {what}"))
}

impl World {
    fn answer(&mut self, request: &Request, user: Option<UserId>, uploaded: Option<Content>) -> Answer {
        match request {
            Request::Status => Ok(vec![Event::Status(Box::new(status()))]),
            Request::WhoAmI => Ok(vec![Event::WhoAmI { user, uid: Some(1000), operator: true }]),
            Request::OpContext(_) => {
                let last = self.ops.last();
                Ok(vec![Event::OpContext(OpContext {
                    parents: last.map(Operation::id).into_iter().collect(),
                    keeps: Vec::new(),
                    lamport: last.map_or(1, |op| op.lamport + 1),
                    not_before: last.map_or(Timestamp(0), |op| op.time),
                })])
            }
            Request::OpSubmit { ops } => {
                let ids = ops.iter().map(|bytes| self.apply(Operation::decode(bytes).unwrap())).collect();
                Ok(vec![Event::Submitted { ids }])
            }
            Request::TopicGet(path) => {
                let path = path.to_string();
                let topic = self.topics.get(&path).ok_or_else(|| not_found("topic"))?;
                Ok(vec![self.topic(&path, topic)])
            }
            Request::TopicList { paging, .. } => {
                let all: Vec<Event> = self.topics.iter().map(|(path, topic)| self.topic(path, topic)).collect();
                Ok(page(all, paging.offset, paging.limit))
            }
            Request::TopicMembers(path) => {
                let topic = self.topics.get(&path.to_string()).ok_or_else(|| not_found("topic"))?;
                let owner = (Resource::Topic(topic.id), topic.created_by, Role::Owner, None);
                Ok(vec![Event::Members { topic: topic.id, grants: vec![owner] }])
            }
            Request::DatasetGet(reference) => {
                let path = dataset_path(reference);
                let dataset = self.datasets.get(&path).ok_or_else(|| not_found("dataset"))?;
                Ok(vec![self.dataset(&path, dataset)])
            }
            Request::DatasetList { paging, .. } => {
                let all = self.datasets.iter().map(|(path, dataset)| self.dataset(path, dataset)).collect();
                Ok(page(all, paging.offset, paging.limit))
            }
            Request::Versions { reference, paging } => {
                let path = dataset_path(reference);
                let of_it = self.versions.iter().rev().filter(|(of, _)| *of == path);
                let all = of_it.map(|(path, version)| version_event(path, version)).collect();
                Ok(page(all, paging.offset, paging.limit))
            }
            Request::VersionGet(reference) => {
                let (path, version) = self.version(reference)?;
                Ok(vec![version_event(path, version)])
            }
            Request::Find(query) => {
                let text = query.text.clone().unwrap_or_default();
                let all = self.datasets.iter().filter(|(path, _)| path.contains(&text));
                let all = all.map(|(path, dataset)| self.found(path, dataset)).collect();
                Ok(page(all, query.offset, query.limit))
            }
            Request::Ingest { kind, .. } => Ok(vec![Event::Staged(self.stage(*kind, uploaded.unwrap()))]),
            Request::IngestInPlace { kind, .. } => {
                let staged = self.stage(*kind, uploaded.unwrap());
                Ok(vec![Event::Staged(Staged { referenced_bytes: staged.size, ..staged })])
            }
            Request::Referenced { reference } => {
                let (_, version) = self.version(reference)?;
                Ok(vec![Event::Referenced { bytes: if self.places.is_empty() { 0 } else { version.size } }])
            }
            Request::Entries { reference } => {
                let (_, version) = self.version(reference)?;
                let content = below(&self.contents[&version.manifest], reference);
                // A node that has to fetch the list says how far it is.
                let progress = Event::Progress(Progress::default());
                Ok(std::iter::once(progress).chain(content.map(|(entry, _)| Event::Entry(entry.clone()))).collect())
            }
            Request::Read { reference, offset, len } => {
                let (_, version) = self.version(reference)?;
                let mut content = below(&self.contents[&version.manifest], reference);
                let (entry, bytes) = content.next().ok_or_else(|| not_found("file"))?;
                let begin = (*offset as usize).min(bytes.len());
                let end = len.map_or(bytes.len(), |len| bytes.len().min(begin + len as usize));
                Ok(file_events(entry, &bytes[begin..end]))
            }
            Request::ReadAll { reference, paths } | Request::ReadAllOrOriginals { reference, paths } => {
                let (_, version) = self.version(reference)?;
                let content = below(&self.contents[&version.manifest], reference);
                let wanted = content.filter(|(entry, _)| paths.matches(entry.path.as_str()));
                Ok(wanted.flat_map(|(entry, bytes)| file_events(entry, bytes)).collect())
            }
            Request::Fetch { reference } => {
                let (_, version) = self.version(reference)?;
                Ok(vec![Event::Fetched(Box::new(Fetched {
                    version: version.clone(),
                    size: version.size,
                    received: 0,
                    wire_bytes: 0,
                    reused: version.size,
                    providers: Vec::new(),
                }))])
            }
            Request::Peers => Ok(vec![Event::Peer(peer())]),
            Request::Connect { .. } => Ok(vec![Event::Peer(peer())]),
            Request::Config => Ok(vec![Event::ConfigValue(ConfigValue {
                key: "node.mode".to_owned(),
                value: "\"full\"".to_owned(),
                origin: "/etc/bib/bibd.toml:3".to_owned(),
            })]),
            Request::KeysStatus | Request::KeysRotate { .. } => Ok(vec![Event::Keys(Box::new(keys_figures()))]),
            Request::KeysSplit { .. } => {
                Err(Failure::new(ErrorCode::Precondition, "what this node stores is not encrypted"))
            }
            Request::Backup { to, .. } => Ok(vec![Event::BackupMade(Box::new(BackupMade {
                to: to.clone().unwrap_or_else(|| "/backup/bib".to_owned()),
                snapshot: snapshot(),
                new_bytes: 2 << 20,
                stored_bytes: 1 << 20,
                removed: 1,
                freed_bytes: 3 << 20,
            }))]),
            Request::Backups { .. } => Ok(vec![Event::Snapshot(Box::new(snapshot()))]),
            Request::BackupVerify { .. } => {
                Ok(vec![Event::SnapshotVerified { time: snapshot().time, bytes: 5 << 20, fault: None }])
            }
            Request::Ping | Request::MayReference { .. } | Request::Disconnect { .. } | Request::Shutdown => {
                Ok(Vec::new())
            }
            Request::Workers => Ok(vec![Event::Worker(Worker {
                name: "gc".to_owned(),
                state: "idle".to_owned(),
                last_run: Some(Timestamp(1_795_530_245_000_000)),
                next_run: None,
                progress: Some((1, Some(4))),
                figures: vec![("live_bytes".to_owned(), 3 << 20), ("dead_chunks".to_owned(), 1_234)],
            })]),
            Request::Gc { dry_run, .. } => Ok(vec![
                Event::Progress(Progress::default()),
                Event::Collected(Collected {
                    dry_run: *dry_run,
                    live_chunks: 1_000,
                    live_bytes: 64 << 20,
                    dead_chunks: 20,
                    dead_bytes: 3 << 20,
                    punched_bytes: 2 << 20,
                    ..Collected::default()
                }),
            ]),
            Request::Scrub => {
                Ok(vec![Event::Scrubbed(Scrubbed { chunks: 3, bytes: 4_096, damaged: 0, hurt: Vec::new() })])
            }
            Request::Rebuild => Ok(vec![Event::Rebuilt(Rebuilt { chunks: 3, bytes: 4_096, lost: 1 })]),
            Request::Verify { reference, .. } => {
                let (path, version) = self.version(reference)?;
                Ok(vec![Event::Verified(Verified {
                    reference: format!("{path}@{}", version.semver),
                    bytes: version.size,
                    chunks: 2,
                    ..Verified::default()
                })])
            }
            Request::Pin(reference) => {
                let (path, version) = self.version(reference)?;
                let kept = Kept {
                    version: version.id,
                    reference: format!("{path}@{}", version.semver),
                    size: version.size,
                    since: version.created_at,
                };
                let pinned = Pinned { manifest: version.manifest, kept, here: true };
                self.pins.push(pinned.clone());
                Ok(vec![Event::Pinned(pinned)])
            }
            Request::Unpin { what } => {
                let place = self.pins.iter().position(|pinned| pinned.kept.reference == *what);
                let place = place.ok_or_else(|| Failure::new(ErrorCode::NotFound, "not pinned"))?;
                Ok(vec![Event::Pinned(self.pins.remove(place))])
            }
            Request::Pins(_) => Ok(self.pins.iter().cloned().map(Event::Pinned).collect()),
            Request::OpGet(_) | Request::OpLog { .. } => Err(Failure::new(ErrorCode::Unsupported, "not played")),
        }
    }

    fn apply(&mut self, op: Operation) -> OpId {
        let id = op.id();
        let expected: Vec<OpId> = self.ops.last().map(Operation::id).into_iter().collect();
        let is_root = matches!(op.body, Body::CreateTopic { parent: None, .. });
        assert!(is_root || op.parents == expected, "an operation follows the one before it");
        let time = op.time;
        let author = op.author;
        match op.body.clone() {
            Body::CreateTopic { parent, name, visibility, fields } => {
                let above =
                    self.topics.iter().find(|(_, topic)| Some(topic.id) == parent).map(|(path, _)| path.clone());
                let path = above.map_or_else(|| name.to_string(), |above| format!("{above}/{name}"));
                let topic = Topic {
                    id: id.into(),
                    parent,
                    name,
                    name_taken: false,
                    description: fields.description.unwrap_or_default(),
                    schema: fields.schema.flatten(),
                    visibility,
                    status: TopicStatus::Active,
                    tags: fields.tags.unwrap_or_default(),
                    metadata: BTreeMap::new(),
                    created_by: author,
                    created_at: time,
                    updated_at: time,
                };
                self.topics.insert(path, topic);
            }
            Body::CreateDataset { name, fields } => {
                let topic = self.topic_of(&op);
                let dataset = Dataset {
                    id: id.into(),
                    topic: op.topic(),
                    name: name.clone(),
                    name_taken: false,
                    description: fields.description.unwrap_or_default(),
                    status: DatasetStatus::Draft,
                    tags: fields.tags.unwrap_or_default(),
                    metadata: BTreeMap::new(),
                    schema: fields.schema.flatten(),
                    created_by: author,
                    created_at: time,
                    updated_at: time,
                    latest: None,
                    version_count: 0,
                };
                self.datasets.insert(format!("{topic}/{name}"), dataset);
            }
            Body::UpdateDataset { dataset, fields } => {
                let dataset = self.datasets.values_mut().find(|known| known.id == dataset).unwrap();
                dataset.tags = fields.tags.unwrap_or_else(BTreeSet::new);
            }
            Body::PublishVersion(new) => {
                assert!(self.contents.contains_key(&new.manifest), "what is published was staged");
                let (path, dataset) = self.datasets.iter_mut().find(|(_, known)| known.id == new.dataset).unwrap();
                dataset.latest = Some(id.into());
                dataset.version_count += 1;
                dataset.status = DatasetStatus::Active;
                let version = Version {
                    id: id.into(),
                    dataset: new.dataset,
                    topic: dataset.topic,
                    semver: new.semver,
                    semver_taken: false,
                    previous: new.previous,
                    message: new.message,
                    manifest: new.manifest,
                    content: new.content,
                    size: new.size,
                    n_files: new.n_files,
                    format: new.format,
                    schema: new.schema,
                    row_count: new.row_count,
                    license: new.license,
                    source_url: new.source_url,
                    status: VersionStatus::Active,
                    created_by: author,
                    created_at: time,
                };
                self.versions.push((path.clone(), version));
            }
            Body::ArchiveTopic => self.topic_mut(&op).status = TopicStatus::Archived,
            Body::RestoreTopic => self.topic_mut(&op).status = TopicStatus::Active,
            Body::DeleteTopic { .. } => {
                let path = self.topic_of(&op);
                self.topics.remove(&path);
            }
            Body::ArchiveDataset { dataset } => self.dataset_mut(dataset).status = DatasetStatus::Archived,
            Body::RestoreDataset { dataset } => self.dataset_mut(dataset).status = DatasetStatus::Active,
            Body::DeleteDataset { dataset } => self.datasets.retain(|_, known| known.id != dataset),
            Body::WithdrawVersion { dataset, version } => {
                let mut of_it = self.versions.iter_mut().filter(|(_, known)| known.dataset == dataset);
                let (_, withdrawn) = of_it.find(|(_, known)| known.id == version).unwrap();
                withdrawn.status = VersionStatus::Withdrawn;
            }
            other => panic!("bib does not send {}", other.kind()),
        }
        self.ops.push(op);
        id
    }

    fn topic_mut(&mut self, op: &Operation) -> &mut Topic {
        let path = self.topic_of(op);
        self.topics.get_mut(&path).unwrap()
    }

    fn dataset_mut(&mut self, id: DatasetId) -> &mut Dataset {
        self.datasets.values_mut().find(|known| known.id == id).unwrap()
    }

    fn topic_of(&self, op: &Operation) -> String {
        let id: TopicId = op.topic();
        self.topics.iter().find(|(_, topic)| topic.id == id).map(|(path, _)| path.clone()).unwrap()
    }

    fn stage(&mut self, kind: ManifestKind, content: Content) -> Staged {
        let size = content.iter().map(|(entry, _)| entry.size).sum();
        let n_files = content.iter().filter(|(entry, _)| entry.kind != EntryKind::EmptyDir).count() as u64;
        let manifest = ManifestId::from_bytes(hash(format!("{content:?}").as_bytes()));
        let id = match kind {
            ManifestKind::File => content[0].0.content,
            ManifestKind::Tree => manifest.into(),
        };
        let new_bytes = if self.contents.contains_key(&manifest) { 0 } else { size };
        self.contents.insert(manifest, content);
        Staged {
            manifest,
            content: id,
            size,
            n_files,
            n_chunks: 1,
            new_bytes,
            stored_bytes: new_bytes,
            referenced_bytes: 0,
        }
    }

    fn topic(&self, path: &str, topic: &Topic) -> Event {
        let n_datasets = self.datasets.values().filter(|dataset| dataset.topic == topic.id).count() as u64;
        Event::Topic { path: path.to_owned(), topic: Box::new(topic.clone()), n_datasets }
    }

    fn dataset(&self, path: &str, dataset: &Dataset) -> Event {
        let latest = self.versions.iter().find(|(_, version)| Some(version.id) == dataset.latest);
        Event::Dataset {
            path: path.to_owned(),
            dataset: Box::new(dataset.clone()),
            latest: latest.map(|(_, version)| Box::new(version.clone())),
            here: latest.is_some(),
        }
    }

    fn found(&self, path: &str, dataset: &Dataset) -> Event {
        let latest = self.versions.iter().find(|(_, version)| Some(version.id) == dataset.latest);
        Event::Found(CatalogEntry {
            topic: dataset.topic,
            path: path.to_owned(),
            dataset: dataset.id,
            version: latest.map(|(_, version)| EntryVersion {
                id: version.id,
                semver: version.semver.clone(),
                content: version.content,
                manifest: version.manifest,
                size: version.size,
                format: version.format,
            }),
            updated_at: dataset.updated_at,
        })
    }

    fn version(&self, reference: &Reference) -> Result<(&str, &Version), Failure> {
        let path = dataset_path(reference);
        let latest = self.datasets.get(&path).and_then(|dataset| dataset.latest);
        let mut of_it = self.versions.iter().filter(|(of, _)| *of == path);
        let found = of_it.find(|(_, version)| match &reference.version {
            VersionSelector::Latest => Some(version.id) == latest,
            VersionSelector::Exact(number) => version.semver == *number,
            VersionSelector::Id(id) => version.id.to_string().starts_with(id),
            VersionSelector::Prefix(major, _) => version.semver.major == *major,
        });
        found.map(|(path, version)| (path.as_str(), version)).ok_or_else(|| not_found("version"))
    }
}

fn dataset_path(reference: &Reference) -> String {
    format!("{}/{}", reference.topic, reference.dataset)
}

fn below<'a>(content: &'a Content, reference: &Reference) -> impl Iterator<Item = &'a (Entry, Vec<u8>)> {
    let prefix = reference.path.as_ref().map(|path| path.as_str().to_owned());
    content.iter().filter(move |(entry, _)| {
        prefix.as_ref().is_none_or(|prefix| {
            entry
                .path
                .as_str()
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    })
}

fn version_event(path: &str, version: &Version) -> Event {
    Event::Version { path: path.to_owned(), version: Box::new(version.clone()), here: true }
}

/// A file in pieces that are not those in which it was sent.
fn file_events(entry: &Entry, bytes: &[u8]) -> Vec<Event> {
    let data = bytes.chunks(100_000).map(|piece| Event::Data(serde_bytes::ByteBuf::from(piece)));
    std::iter::once(Event::Entry(entry.clone())).chain(data).collect()
}

fn page(all: Vec<Event>, offset: u32, limit: u32) -> Vec<Event> {
    let total = all.len() as u64;
    let page = all.into_iter().skip(offset as usize).take(limit as usize);
    page.chain([Event::Total(total)]).collect()
}

fn peer() -> Peer {
    Peer {
        node: NodeId::from_bytes([8; 32]),
        addresses: vec!["/ip4/192.168.1.20/tcp/4001".to_owned()],
        connected: true,
        agent: Some("bibd/0.1.0".to_owned()),
        mode: Some(NodeMode::Full),
        rtt_us: Some(1_234),
        last_seen: Some(Timestamp(1_795_530_245_000_000)),
    }
}

fn snapshot() -> Snapshot {
    Snapshot {
        node: NODE,
        time: Timestamp(1_795_530_245_000_000),
        manifest: ManifestId::from_bytes([1; 32]),
        size: 4_096,
        n_ops: 12_345,
        n_manifests: 7,
        content_bytes: 5 << 20,
        n_incomplete: 1,
        is_encrypted: false,
    }
}

pub(crate) fn status() -> Status {
    Status {
        node: NODE,
        name: "attic".to_owned(),
        version: "0.1.0".to_owned(),
        mode: NodeMode::Full,
        uptime_s: 90_061,
        addresses: vec!["/ip4/192.168.1.10/tcp/4001".to_owned(), "/ip6/::1/tcp/4001".to_owned()],
        n_peers: 2,
        wire_received: 5 << 20,
        wire_sent: 7 << 20,
        n_topics: 3,
        n_datasets: 1_234,
        n_versions: 5_678,
        n_ops: 12_345,
        n_parked: 2,
        chunks: ChunkStoreStats {
            n_chunks: 4_096,
            stored_bytes: 300 << 20,
            raw_bytes: 1 << 30,
            n_segments: 5,
            fsyncs: 77,
            written_bytes: 301 << 20,
            referenced_bytes: 64 << 20,
            n_damaged: 1,
            allocated_bytes: 250_000,
            dead_bytes: 40_000,
            index_bytes: 60_000,
        },
        data_dir: "/var/lib/bib".to_owned(),
        free_bytes: 10 << 30,
        memory_limit: 32 << 20,
        rss_bytes: 9 << 20,
        threads: vec!["main".to_owned(), "store".to_owned()],
        workers: vec![
            ("expire".to_owned(), "idle".to_owned()),
            ("replicate".to_owned(), "fetching v4fg7s47o".to_owned()),
        ],
        gossip_refused: vec![("replay".to_owned(), 4), ("forged".to_owned(), 0)],
        read_only: None,
        keys: None,
        space: Space {
            counted_at: Some(Timestamp(1_795_530_245_000_000)),
            live_bytes: 290 << 20,
            released_bytes: 10 << 20,
            index_bytes: 1 << 20,
            catalog_bytes: 2 << 20,
            quota_bytes: 8 << 30,
            remaining_bytes: 7 << 30,
            ..Space::default()
        },
        degraded: Vec::new(),
    }
}

/// Keys after a split.
pub(crate) fn keys_figures() -> KeysFigures {
    let time = Timestamp(1_795_530_245_000_000);
    KeysFigures {
        cipher: "AES-256-GCM".to_owned(),
        generation: 2,
        fingerprint: "00112233445566778899aabbccddeeff".to_owned(),
        data_keys: vec![(1, time), (2, time)],
        split: Some(SplitFigures { set: SetId(*b"a set 01"), threshold: 3, total: 5, time, is_stale: false }),
        is_partly_plain: false,
    }
}
