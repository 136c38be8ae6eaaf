//! What a collection of garbage marks, against a naive reference, on random catalogs that change between its steps.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bib_core::api::request::ContextFor;
use bib_core::catalog::record::{self, Kept, Pin};
use bib_core::chunker::ChunkerParams;
use bib_core::command::{Command, OpOutcome, Origin};
use bib_core::encode::{decode, encode};
use bib_core::hash::hash;
use bib_core::id::{ChunkId, DatasetId, ManifestId, OpId, TopicId, VersionId};
use bib_core::machine::collect::check::Check;
use bib_core::machine::collect::hidden::Hidden;
use bib_core::machine::collect::mark::{Figures, Loaded, MarkError, Marker};
use bib_core::model::manifest::{ChunkRef, ManifestKind, Page, PageList, PageRef, Root};
use bib_core::model::{Dataset, DatasetStatus, Name, Topic, TopicStatus, Visibility};
use bib_core::op::operation::FieldChanges;
use bib_core::op::{Body, Class, Operation};
use bib_core::port::{Catalog, CatalogTxn, StoreError, Table};
use bib_core::time::Timestamp;
use bib_sim::node::{CatalogNode, PEER, new_version, nothing, sign};
use bib_sim::rng::Rng;

const NOW: Timestamp = Timestamp(1_800_000_000_000_000);
const ENOUGH: u64 = 1 << 20;

/// A chunk store as far as a collection sees it: from `begin_gc` on, what is put or found counts as marked.
#[derive(Default)]
struct Store {
    chunks: BTreeMap<ChunkId, Vec<u8>>,
    damaged: BTreeSet<ChunkId>,
    /// What fetches noted that are under way.
    leased: BTreeSet<ChunkId>,
    marked: Option<BTreeSet<ChunkId>>,
}

impl Store {
    fn begin_gc(&mut self) {
        self.marked = Some(self.leased.clone());
    }

    /// Finds a chunk or puts it; `true` if it was there.
    fn put(&mut self, id: ChunkId, bytes: &[u8]) -> bool {
        if let Some(marked) = &mut self.marked {
            marked.insert(id);
        }
        self.chunks.insert(id, bytes.to_vec()).is_some()
    }

    fn load(&self, id: &ChunkId) -> Loaded {
        match self.chunks.get(id) {
            _ if self.damaged.contains(id) => Loaded::Damaged,
            Some(bytes) => Loaded::Here(bytes.clone()),
            None => Loaded::Absent,
        }
    }
}

/// Content somewhere: its pages and chunks, what is above before what is below, the root first.
#[derive(Clone)]
struct Content {
    manifest: ManifestId,
    pieces: Vec<(ChunkId, Vec<u8>)>,
}

fn page(page: &Page) -> (ChunkId, Vec<u8>) {
    let bytes = encode(page);
    (ChunkId::from_bytes(hash(&bytes)), bytes)
}

fn refer(id: ChunkId) -> PageRef {
    PageRef { id, len: 1, count: 1, bytes: 1, first: String::new() }
}

fn root_of(chunks: PageList<ChunkRef>) -> Page {
    let entries = PageList::Inline(Vec::new());
    let chunker = ChunkerParams::default();
    Page::Root(Root {
        kind: ManifestKind::Tree,
        chunker,
        n_entries: 0,
        n_chunks: 0,
        size: 0,
        entries,
        chunks,
        columns: None,
    })
}

/// A tree of pages over chunks of a small pool, so that contents share chunks and pages.
fn content(rng: &mut Rng) -> Content {
    let mut level: Vec<Vec<(ChunkId, Vec<u8>)>> = (0..1 + rng.below(4))
        .map(|_| {
            let mut first = rng.below(400);
            let chunks: Vec<(ChunkId, Vec<u8>)> = (0..1 + rng.below(4))
                .map(|_| {
                    first += 1;
                    let bytes = first.to_be_bytes().to_vec();
                    (ChunkId::from_bytes(hash(&bytes)), bytes)
                })
                .collect();
            let refs = chunks.iter().map(|(id, _)| ChunkRef { id: *id, len: 8 }).collect();
            std::iter::once(page(&Page::Chunks(refs))).chain(chunks).collect()
        })
        .collect();
    let mut depth = 0;
    while level.len() > 2 || (depth < 2 && rng.chance(1, 2)) {
        level = level
            .chunks(2)
            .map(|below| {
                let refs = below.iter().map(|pieces| refer(pieces[0].0)).collect();
                std::iter::once(page(&Page::Index(refs))).chain(below.concat()).collect()
            })
            .collect();
        depth += 1;
    }
    let pages = level.iter().map(|pieces| refer(pieces[0].0)).collect();
    let root = page(&root_of(PageList::Pages { depth, pages }));
    Content { manifest: ManifestId::from(root.0), pieces: std::iter::once(root).chain(level.concat()).collect() }
}

/// Every chunk that is reachable over pages that are here, worked out by recursion.
fn reachable(store: &Store, id: ChunkId, into: &mut BTreeSet<ChunkId>) {
    let Some(bytes) = store.chunks.get(&id) else { return };
    into.insert(id);
    match decode::<Page>(bytes) {
        Ok(Page::Root(root)) => {
            if let PageList::Pages { pages, .. } = root.chunks {
                pages.iter().for_each(|page| reachable(store, page.id, into));
            }
        }
        Ok(Page::Index(pages)) => pages.iter().for_each(|page| reachable(store, page.id, into)),
        Ok(Page::Chunks(chunks)) => {
            into.extend(chunks.iter().map(|chunk| chunk.id).filter(|id| store.chunks.contains_key(id)));
        }
        _ => {}
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

struct World {
    node: CatalogNode,
    store: Store,
    topics: Vec<TopicId>,
    datasets: Vec<(TopicId, DatasetId)>,
    versions: Vec<(TopicId, DatasetId, VersionId)>,
    contents: Vec<Content>,
    /// Fetches under way: what is still to come.
    fetches: Vec<Content>,
    n: u64,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            node: CatalogNode::default(),
            store: Store::default(),
            topics: Vec::new(),
            datasets: Vec::new(),
            versions: Vec::new(),
            contents: Vec::new(),
            fetches: Vec::new(),
            n: 0,
        };
        world.topic();
        world
    }

    fn run(&mut self, command: &Command) {
        self.node.run(command, NOW).unwrap();
    }

    fn act(&mut self, topic: Option<TopicId>, body: Body) -> Option<Operation> {
        let context = match topic {
            None => nothing(),
            Some(topic) if body.class() == Class::Content => self.node.context(ContextFor::Content(topic)).ok()?,
            Some(topic) => self.node.context(ContextFor::Access(topic)).ok()?,
        };
        let op = sign(1, topic, context, NOW, body);
        let taken = self.node.take(std::slice::from_ref(&op), Origin::User, NOW);
        (taken.outcomes[0] == OpOutcome::New).then_some(op)
    }

    fn fresh(&mut self) -> String {
        self.n += 1;
        format!("n{}", self.n)
    }

    fn topic(&mut self) -> TopicId {
        let name = name(&self.fresh());
        let fields = FieldChanges::default();
        let op = self.act(None, Body::CreateTopic { parent: None, name, visibility: Visibility::Public, fields });
        let topic = op.unwrap().topic();
        self.topics.push(topic);
        topic
    }

    fn dataset(&mut self, topic: TopicId) {
        let name = name(&self.fresh());
        let made = self.act(Some(topic), Body::CreateDataset { name, fields: FieldChanges::default() });
        self.datasets.extend(made.map(|op| (topic, op.id().into())));
    }

    fn publish(&mut self, (topic, dataset): (TopicId, DatasetId), manifest: ManifestId) {
        self.n += 1;
        let version = new_version(dataset, semver::Version::new(self.n, 0, 0), manifest);
        let made = self.act(Some(topic), Body::PublishVersion(version));
        self.versions.extend(made.map(|op| (topic, dataset, op.id().into())));
    }

    fn any<T: Copy>(rng: &mut Rng, of: &[T]) -> Option<T> {
        of.get(rng.below(of.len() as u64) as usize).copied()
    }

    fn content(&mut self, rng: &mut Rng) -> Content {
        if rng.chance(1, 3) && !self.contents.is_empty() {
            return self.contents[rng.below(self.contents.len() as u64) as usize].clone();
        }
        let content = content(rng);
        self.contents.push(content.clone());
        content
    }

    /// Something that users, peers or the node do.
    fn anything(&mut self, rng: &mut Rng) {
        match rng.below(12) {
            0 => drop(self.topic()),
            1 => {
                let topic = Self::any(rng, &self.topics).unwrap();
                self.dataset(topic);
            }
            2..=4 => {
                let Some(dataset) = Self::any(rng, &self.datasets) else { return };
                let content = self.content(rng);
                for (id, bytes) in &content.pieces {
                    self.store.put(*id, bytes);
                }
                self.run(&Command::Stage(content.manifest));
                if rng.chance(3, 4) {
                    self.publish(dataset, content.manifest);
                }
            }
            5 => {
                let Some(dataset) = Self::any(rng, &self.datasets) else { return };
                let content = self.content(rng);
                self.publish(dataset, content.manifest);
                self.fetches.push(content);
            }
            6 | 7 => {
                // A fetch gets on by a few chunks, under its lease.
                let Some(i) = (!self.fetches.is_empty()).then(|| rng.below(self.fetches.len() as u64) as usize) else {
                    return;
                };
                for _ in 0..1 + rng.below(8) {
                    let Content { manifest, pieces: left } = &mut self.fetches[i];
                    if left.is_empty() {
                        let here = Command::ContentHere(*manifest);
                        self.run(&here);
                        self.fetches.swap_remove(i);
                        if self.fetches.is_empty() {
                            self.store.leased.clear();
                        }
                        return;
                    }
                    let (id, bytes) = left.remove(0);
                    self.store.put(id, &bytes);
                    self.store.leased.insert(id);
                }
            }
            8 | 9 if rng.chance(1, 2) => {
                let Some((topic, dataset)) = Self::any(rng, &self.datasets) else { return };
                self.act(Some(topic), Body::DeleteDataset { dataset });
            }
            8 | 9 => {
                let Some((topic, dataset, version)) = Self::any(rng, &self.versions) else { return };
                self.act(Some(topic), Body::WithdrawVersion { dataset, version });
                let read = self.node.read();
                let found = record::version(&*read, &version).unwrap();
                drop(read);
                if let Some(version) = found
                    && rng.chance(1, 2)
                {
                    self.run(&Command::Evict(vec![version.manifest]));
                }
            }
            10 => {
                if rng.chance(1, 2) {
                    self.run(&Command::Expire { min_age: Duration::ZERO });
                } else if let Some(topic) = Self::any(rng, &self.topics)
                    && self.topics.len() > 1
                {
                    self.act(Some(topic), Body::DeleteTopic { force: true });
                }
            }
            _ => {
                let Some(content) = self.contents.last() else { return };
                let manifest = content.manifest;
                let kept =
                    Kept { version: VersionId::from_bytes([1; 32]), reference: "x".to_owned(), size: 1, since: NOW };
                self.run(&Command::Keep { manifest, kept: rng.chance(2, 3).then_some(kept) });
            }
        }
    }

    /// Pins that keep their chunks, and whether all of theirs is here.
    fn roots(&self) -> BTreeMap<ManifestId, bool> {
        let pins = self.node.catalog.dump(Table::Pins);
        let pins = pins.into_iter().map(|(key, value)| (ManifestId::from_slice(&key).unwrap(), value));
        let read = |value: Vec<u8>| decode::<record::Pin>(&value).unwrap();
        pins.map(|(id, value)| (id, read(value)))
            .filter(|(_, pin)| pin.is_root())
            .map(|(id, pin)| (id, pin.is_here))
            .collect()
    }

    fn all_of(&self, manifest: &ManifestId) -> BTreeSet<ChunkId> {
        let mut all = BTreeSet::new();
        reachable(&self.store, ChunkId::from(*manifest), &mut all);
        all
    }

    /// One step of a walk.
    fn step(&mut self, marker: &mut Marker, pages: u64) -> Result<bool, MarkError> {
        let mut marked = self.store.marked.take().unwrap();
        let read = self.node.read();
        let mut load = |id: &ChunkId| Ok(self.store.load(id));
        let done = marker.step(&*read, &mut load, &mut |_, chunk| _ = marked.insert(chunk.id), pages);
        drop(read);
        self.store.marked = Some(marked);
        done
    }

    fn mark_all(&mut self) -> Result<Figures, MarkError> {
        self.store.begin_gc();
        let mut marker = Marker::new(ENOUGH);
        while !self.step(&mut marker, 3)? {}
        Ok(marker.figures())
    }
}

#[test]
fn no_chunk_in_use_is_unmarked_whatever_happens_between_the_steps() {
    let (mut n_live, mut n_dead, mut n_during) = (0, 0, 0);
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let mut world = World::new();
        for _ in 0..rng.below(120) {
            world.anything(&mut rng);
        }
        world.run(&Command::Expire { min_age: Duration::ZERO });
        world.store.begin_gc();
        let before: BTreeMap<ManifestId, BTreeSet<ChunkId>> =
            world.roots().into_keys().map(|id| (id, world.all_of(&id))).collect();
        let mut marker = Marker::new(ENOUGH);
        let pages = 1 + rng.below(6);
        while !world.step(&mut marker, pages).unwrap() {
            for _ in 0..rng.below(3) {
                n_during += 1;
                world.anything(&mut rng);
            }
        }
        let marked = world.store.marked.take().unwrap();
        for (root, is_here) in world.roots() {
            if is_here {
                let all = world.all_of(&root);
                n_live += all.len();
                assert!(all.is_subset(&marked), "seed {seed}: {root} loses chunks");
            } else if let Some(all) = before.get(&root) {
                assert!(all.is_subset(&marked), "seed {seed}: {root}, of which some is here, loses chunks");
            }
        }
        n_dead += world.store.chunks.keys().filter(|id| !marked.contains(id)).count();
    }
    assert!(n_live > 10_000 && n_dead > 100 && n_during > 1_000, "{n_live} {n_dead} {n_during}");
}

#[test]
fn what_is_marked_at_rest_is_exactly_what_is_in_use() {
    for seed in 0..100 {
        let mut rng = Rng::new(1_000 + seed);
        let mut world = World::new();
        for _ in 0..rng.below(150) {
            world.anything(&mut rng);
        }
        world.store.leased.clear();
        let figures = world.mark_all().unwrap();
        let marked = world.store.marked.take().unwrap();
        let roots = world.roots();
        let live: BTreeSet<ChunkId> = roots.keys().flat_map(|root| world.all_of(root)).collect();
        let here: BTreeSet<ChunkId> = marked.into_iter().filter(|id| world.store.chunks.contains_key(id)).collect();
        assert!(here == live, "seed {seed}");
        assert_eq!(figures.n_pins, roots.len() as u64);
    }
}

/// A world with one version whose content is here.
fn one(content: &Content, command: Option<Command>) -> World {
    let mut world = World::new();
    let topic = world.topics[0];
    world.dataset(topic);
    for (id, bytes) in &content.pieces {
        world.store.put(*id, bytes);
    }
    command.iter().for_each(|command| world.run(command));
    world.publish(world.datasets[0], content.manifest);
    world
}

/// Content with index pages.
fn deep(seed: u64) -> Content {
    let mut rng = Rng::new(seed);
    std::iter::repeat_with(|| content(&mut rng)).find(|content| content.pieces.len() > 12).unwrap()
}

#[test]
fn damaged_page_ends_the_walk_and_names_what_it_hurts() {
    let content = deep(1);
    let mut world = one(&content, Some(Command::Stage(content.manifest)));
    let pages = content.pieces.iter().filter(|(_, bytes)| decode::<Page>(bytes).is_ok());
    let pages: Vec<ChunkId> = pages.map(|(id, _)| *id).collect();
    assert!(pages.len() > 3);
    for page in pages {
        world.store.damaged = BTreeSet::from([page]);
        let error = world.mark_all().unwrap_err();
        assert!(
            matches!(error, MarkError::Damaged { manifest, page: hurt } if (manifest, hurt) == (content.manifest, page))
        );
    }
}

#[test]
fn search_shows_the_chunks_of_every_manifest_and_passes_over_what_is_damaged() {
    let content = deep(1);
    let mut world = one(&content, Some(Command::Stage(content.manifest)));
    let Ok(Page::Root(mut root)) = decode::<Page>(&content.pieces[0].1) else { panic!("a root") };
    root.n_entries = 7;
    let (twin, bytes) = page(&Page::Root(root));
    world.store.put(twin, &bytes);
    world.run(&Command::Stage(ManifestId::from(twin)));
    let find = |world: &World, wanted: ChunkId| {
        let (mut marker, mut hurt) = (Marker::search(ENOUGH), BTreeSet::new());
        let read = world.node.read();
        let mut load = |id: &ChunkId| Ok(world.store.load(id));
        let mut look = |manifest: &ManifestId, chunk: &ChunkRef| {
            if chunk.id == wanted {
                hurt.insert(*manifest);
            }
        };
        while !marker.step(&*read, &mut load, &mut look, 5).unwrap() {}
        hurt
    };
    let both = BTreeSet::from([content.manifest, ManifestId::from(twin)]);
    let last = content.pieces.last().unwrap().0;
    assert_eq!(find(&world, last), both);
    assert_eq!(find(&world, twin), BTreeSet::from([ManifestId::from(twin)]));
    let page = content.pieces[1].0;
    world.store.damaged.insert(page);
    assert_eq!(find(&world, page), both, "a damaged page hurts whoever names it");
}

#[test]
fn absent_page_is_lost_where_all_should_be_here_and_passed_over_where_it_is_being_fetched() {
    let content = deep(2);
    let page = content.pieces[1].0;
    // From others, and on its way.
    let mut world = one(&content, None);
    world.store.chunks.remove(&page);
    assert_eq!(world.mark_all().unwrap().n_partial, 1);
    world.run(&Command::ContentHere(content.manifest));
    let error = world.mark_all().unwrap_err();
    assert!(matches!(error, MarkError::Lost { page: lost, .. } if lost == page), "{error}");
    world.run(&Command::ContentLost(content.manifest));
    assert_eq!(world.mark_all().unwrap().n_partial, 1);
}

#[test]
fn absent_page_of_what_was_published_here_stops_every_collection() {
    let content = deep(2);
    let page = content.pieces[1].0;
    let mut world = one(&content, Some(Command::Stage(content.manifest)));
    world.store.chunks.remove(&page);
    for _ in 0..3 {
        // Nobody else may have what lies below the page.
        let error = world.mark_all().unwrap_err();
        assert!(matches!(error, MarkError::Lost { page: lost, .. } if lost == page), "{error}");
        world.run(&Command::ContentLost(content.manifest));
    }
}

#[test]
fn absent_page_of_what_a_user_keeps_stops_every_collection_until_they_keep_it_no_more() {
    let content = deep(2);
    let page = content.pieces[1].0;
    let mut world = one(&content, None);
    let kept = Kept { version: VersionId::from_bytes([1; 32]), reference: "x".to_owned(), size: 1, since: NOW };
    world.store.chunks.remove(&page);
    world.run(&Command::Keep { manifest: content.manifest, kept: Some(kept) });
    assert_eq!(world.mark_all().unwrap().n_partial, 1, "it is on its way");
    world.run(&Command::ContentHere(content.manifest));
    world.run(&Command::ContentLost(content.manifest));
    let error = world.mark_all().unwrap_err();
    assert!(matches!(error, MarkError::Lost { page: lost, .. } if lost == page), "{error}");
    world.run(&Command::Keep { manifest: content.manifest, kept: None });
    assert_eq!(world.mark_all().unwrap().n_partial, 1);
}

#[test]
fn nonsense_that_a_stranger_publishes_stops_no_collection() {
    let mut world = World::new();
    let topic = world.topics[0];
    world.dataset(topic);
    let not_root = page(&Page::Chunks(Vec::new()));
    let too_deep = page(&root_of(PageList::Pages { depth: 200, pages: vec![refer(not_root.0)] }));
    let other_kind = page(&root_of(PageList::Pages { depth: 1, pages: vec![refer(not_root.0)] }));
    let noise = (ChunkId::from_bytes(hash(b"noise")), b"noise".to_vec());
    for (id, bytes) in [not_root, too_deep, other_kind, noise] {
        world.store.put(id, &bytes);
        world.publish(world.datasets[0], ManifestId::from(id));
    }
    assert_eq!(world.mark_all().unwrap().n_partial, 4);
    // Of content that this node took for complete, it is a defect that must not cost a chunk.
    let wrong = ManifestId::from(ChunkId::from_bytes(hash(b"noise")));
    world.run(&Command::ContentHere(wrong));
    assert!(matches!(world.mark_all().unwrap_err(), MarkError::Wrong { manifest, .. } if manifest == wrong));
}

#[test]
fn pages_that_name_each_other_over_and_over_again_cost_a_bounded_walk() {
    // Each of four levels names all pages of the next one, and what is at the bottom is not here.
    let mut below: Vec<ChunkId> = (0..30u8).map(|n| ChunkId::from_bytes([n; 32])).collect();
    let mut world = World::new();
    for level in 0..4u64 {
        below = (0..30u64)
            .map(|n| {
                let mut refs: Vec<PageRef> = below.iter().map(|id| refer(*id)).collect();
                refs[0].count = level * 100 + n;
                let (id, bytes) = page(&Page::Index(refs));
                world.store.put(id, &bytes);
                id
            })
            .collect();
    }
    let pages = below.iter().map(|id| refer(*id)).collect();
    let (root, bytes) = page(&root_of(PageList::Pages { depth: 4, pages }));
    world.store.put(root, &bytes);
    let topic = world.topics[0];
    world.dataset(topic);
    world.publish(world.datasets[0], ManifestId::from(root));
    world.store.begin_gc();
    let most = world.store.chunks.len() as u64 + 100;
    let mut marker = Marker::new(most);
    while !world.step(&mut marker, 64).unwrap() {}
    assert!(marker.figures().n_pages <= most + 1, "{:?}", marker.figures());
}

#[test]
fn shared_pages_are_walked_once() {
    let content = deep(3);
    let mut world = one(&content, Some(Command::Stage(content.manifest)));
    let alone = world.mark_all().unwrap().n_pages;
    // The same list of chunks under another root.
    let Ok(Page::Root(mut root)) = decode::<Page>(&content.pieces[0].1) else { panic!("a root") };
    root.n_entries = 7;
    let (id, bytes) = page(&Page::Root(root));
    world.store.put(id, &bytes);
    world.run(&Command::Stage(ManifestId::from(id)));
    let figures = world.mark_all().unwrap();
    assert_eq!(figures.n_pages, alone + 1);
    assert!(figures.n_shared > 0);
}

#[test]
fn content_of_deleted_topics_is_found_and_so_is_its_return_to_sight() {
    let mut world = World::new();
    let topic = world.topics[0];
    let mut rng = Rng::new(4);
    world.dataset(topic);
    let gone = world.topic();
    world.dataset(gone);
    let datasets = world.datasets.clone();
    let (seen, hidden, both) = (content(&mut rng), content(&mut rng), content(&mut rng));
    for (content, of) in [(&seen, &datasets[..1]), (&hidden, &datasets[1..]), (&both, &datasets[..])] {
        for dataset in of {
            world.publish(*dataset, content.manifest);
        }
        world.run(&Command::ContentHere(content.manifest));
    }
    let find = |world: &World, seed| {
        let mut walk = Hidden::new(3, seed);
        let (mut hidden, mut shown) = (Vec::new(), Vec::new());
        loop {
            let found = walk.step(&*world.node.read()).unwrap();
            hidden.extend(found.hidden);
            shown.extend(found.shown);
            if found.is_last {
                return (hidden, shown);
            }
        }
    };
    assert_eq!(find(&world, 1), (vec![], vec![]));
    world.act(Some(gone), Body::DeleteTopic { force: true }).unwrap();
    assert_eq!(find(&world, 2), (vec![hidden.manifest], vec![]));
    world.run(&Command::Release { hidden: vec![hidden.manifest], shown: vec![] });
    assert_eq!(find(&world, 3), (vec![], vec![]), "it is known");
    // The same content is published again where it is seen.
    world.publish(datasets[0], hidden.manifest);
    assert_eq!(find(&world, 4), (vec![], vec![]), "the new version has ended its release");
    world.run(&Command::Release { hidden: vec![hidden.manifest], shown: vec![] });
    assert_eq!(find(&world, 5), (vec![], vec![hidden.manifest]), "what a version that came meanwhile names is kept");
    let hear = sign(
        1,
        None,
        nothing(),
        NOW,
        Body::CreateTopic {
            parent: None,
            name: name("other"),
            visibility: Visibility::Public,
            fields: FieldChanges::default(),
        },
    );
    world.node.take(&[hear], PEER, NOW);
    assert_eq!(find(&world, 6).0, vec![]);
}

/// Goes over the whole catalog.
fn believe(world: &World) -> Result<(), StoreError> {
    let read = world.node.catalog.begin_read()?;
    let mut check = Check::default();
    while !check.step(read.as_ref())? {}
    Ok(())
}

/// Sets a record, or takes it away.
fn change(world: &World, table: Table, key: &[u8], value: Option<&[u8]>) {
    let mut work = |txn: &mut dyn CatalogTxn| match value {
        Some(value) => txn.put(table, key, value),
        None => txn.remove(table, key),
    };
    world.node.catalog.write(&mut work).unwrap();
}

fn is_doubted(world: &World) -> bool {
    matches!(believe(world), Err(StoreError::Corrupt(_)))
}

/// A record in place of another is seen, and nothing is when it is as it was.
fn doubted_with(world: &World, table: Table, key: &[u8], value: Option<&[u8]>) -> bool {
    let before = world.node.catalog.dump(table).into_iter().find(|(at, _)| at == key).unwrap().1;
    change(world, table, key, value);
    let is_doubted = is_doubted(world);
    change(world, table, key, Some(&before));
    believe(world).unwrap();
    is_doubted
}

#[test]
fn catalog_that_is_not_what_was_signed_is_not_believed() {
    let content = deep(3);
    let world = one(&content, Some(Command::Stage(content.manifest)));
    believe(&world).unwrap();
    for (key, value) in world.node.catalog.dump(Table::Ops) {
        for at in (0..value.len()).step_by(7) {
            let mut flipped = value.clone();
            flipped[at] ^= 4;
            assert!(doubted_with(&world, Table::Ops, &key, Some(&flipped)), "byte {at} of an operation");
        }
    }
    for (key, value) in world.node.catalog.dump(Table::Versions) {
        let at = value.windows(32).position(|bytes| bytes == content.manifest.as_bytes()).unwrap();
        let mut flipped = value.clone();
        flipped[at + 5] ^= 1;
        assert!(doubted_with(&world, Table::Versions, &key, Some(&flipped)));
    }
}

#[test]
fn record_that_went_without_a_trace_is_missed() {
    let content = deep(3);
    let mut world = one(&content, Some(Command::Stage(content.manifest)));
    let kept = Kept { version: VersionId::from_bytes([1; 32]), reference: "x".to_owned(), size: 1, since: NOW };
    world.run(&Command::Keep { manifest: content.manifest, kept: Some(kept) });
    // Topic, dataset, version: their operations and records, and what keeps the content.
    for (table, n) in
        [(Table::Ops, 3), (Table::Topics, 1), (Table::Datasets, 1), (Table::Versions, 1), (Table::Pins, 1)]
    {
        let rows = world.node.catalog.dump(table);
        assert_eq!(rows.len(), n, "{table:?}");
        for (key, _) in rows {
            assert!(doubted_with(&world, table, &key, None), "{table:?}");
        }
    }
    let logs = world.node.catalog.dump(Table::Meta).into_iter().filter(|(key, _)| key.starts_with(b"log"));
    assert_eq!(logs.inspect(|(key, _)| assert!(doubted_with(&world, Table::Meta, key, None))).count(), 2);
}

#[test]
fn what_says_that_an_operation_does_not_count_is_not_believed_alone() {
    let content = deep(3);
    let mut world = one(&content, Some(Command::Stage(content.manifest)));
    let (topic, gone) = (world.topics[0], world.datasets[0].1);
    world.dataset(topic);
    world.act(Some(topic), Body::DeleteDataset { dataset: gone }).unwrap();
    world.publish(world.datasets[1], content.manifest);
    let topic_op = OpId::from(topic);
    for (key, mut value) in world.node.catalog.dump(Table::Ops) {
        let op = Operation::decode_trusted(&value[1..]).unwrap();
        let decides = match &op.body {
            // Whether access counts follows from the access log, and that of a dead dataset's version decides nothing.
            Body::CreateTopic { .. } => op.id() != topic_op,
            Body::PublishVersion(version) => version.dataset != gone,
            _ => true,
        };
        value[0] ^= 1;
        assert_eq!(doubted_with(&world, Table::Ops, &key, Some(&value)), decides, "{:?}", op.body);
    }
}

#[test]
fn state_that_nobody_signed_is_not_believed() {
    let content = deep(3);
    let mut world = one(&content, Some(Command::Stage(content.manifest)));
    let kept = Kept { version: VersionId::from_bytes([1; 32]), reference: "x".to_owned(), size: 1, since: NOW };
    world.run(&Command::Keep { manifest: content.manifest, kept: Some(kept) });
    let pin_key = content.manifest.as_bytes().as_slice();
    let pin = record::pin(&*world.node.read(), &content.manifest).unwrap();
    assert!(pin.is_here && pin.is_kept && pin.n_versions == 1, "{pin:?}");
    for wrong in [
        Pin { n_versions: 0, ..pin },
        Pin { is_evicted: true, ..pin },
        Pin { n_withdrawn: 1, ..pin },
        Pin { is_kept: false, ..pin },
    ] {
        assert!(doubted_with(&world, Table::Pins, pin_key, Some(&encode(&wrong))), "{wrong:?}");
    }
    let (topic, dataset) = world.datasets[0];
    let found = record::dataset(&*world.node.read(), &dataset).unwrap().unwrap();
    let deleted = Dataset { status: DatasetStatus::Deleted, ..found };
    assert!(doubted_with(&world, Table::Datasets, dataset.as_bytes(), Some(&encode(&deleted))));
    let found = record::topic(&*world.node.read(), &topic).unwrap().unwrap();
    let deleted = Topic { status: TopicStatus::Deleted, ..found.clone() };
    assert!(doubted_with(&world, Table::Topics, topic.as_bytes(), Some(&encode(&deleted))));
    let moved = Topic { parent: Some(TopicId::from_bytes([7; 32])), ..found };
    assert!(doubted_with(&world, Table::Topics, topic.as_bytes(), Some(&encode(&moved))));
}

#[test]
fn catalog_is_believed_whatever_happens_between_the_steps() {
    let (mut n_ops, mut n_changed) = (0, 0);
    for seed in 0..40 {
        let mut rng = Rng::new(7_000 + seed);
        let mut world = World::new();
        for _ in 0..rng.below(60) {
            world.anything(&mut rng);
        }
        let mut check = Check::default();
        while !check.step(&*world.node.read()).unwrap_or_else(|error| panic!("seed {seed}: {error}")) {
            for _ in 0..rng.below(3) {
                n_changed += 1;
                world.anything(&mut rng);
            }
        }
        n_ops += world.node.catalog.dump(Table::Ops).len();
    }
    assert!(n_ops > 400 && n_changed > 60, "{n_ops} {n_changed}");
}
