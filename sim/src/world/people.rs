//! What users do: sensible things mostly, at whatever node they are at, by what that node knows.

use std::convert::Infallible;

use bib_core::api::request::{ContextFor, Paging};
use bib_core::catalog::list;
use bib_core::chunk::RawChunk;
use bib_core::chunker::ChunkerParams;
use bib_core::id::TopicId;
use bib_core::model::manifest::builder::{Builder, Built, Piece};
use bib_core::model::manifest::{EntryKind, ManifestKind};
use bib_core::model::{ContentFormat, Dataset, DatasetPath, Name, Visibility};
use bib_core::op::operation::{FieldChanges, NewVersion};
use bib_core::op::{Body, Class, Resource, Role};
use bib_core::time::Instant;

use super::node::SimNode;
use super::wires::Wires;
use crate::node::{nothing, sign, user};
use crate::rng::Rng;

const N_USERS: u64 = 4;
const ALL: Paging = Paging { limit: 1_000, offset: 0 };

fn name(kind: &str, rng: &mut Rng) -> Name {
    // Few names, so that some are taken.
    Name::new(&format!("{kind}{}", rng.below(6))).expect("a name of letters and a digit")
}

fn fields(rng: &mut Rng) -> FieldChanges {
    let description = Some(format!("text {}", rng.below(1_000)));
    let tags = rng.chance(1, 3).then(|| [format!("tag{}", rng.below(5))].into());
    FieldChanges { description, tags, ..FieldChanges::default() }
}

fn create_topic(parent: Option<TopicId>, rng: &mut Rng) -> Body {
    let fields = FieldChanges::default();
    Body::CreateTopic { parent, name: name("topic", rng), visibility: Visibility::Public, fields }
}

/// Does the `n`th thing of a world at a node. What the node refuses does not happen.
pub(super) fn act(node: &mut SimNode, now: Instant, n: usize, rng: &mut Rng, wires: &mut Wires) {
    let by = 1 + rng.below(N_USERS) as u8;
    let (topics, datasets) = {
        let read = node.stores.catalog().begin_read().expect("the catalog can be read");
        let topics = list::topics(&*read, None, ALL).expect("the catalog reads back").items;
        let datasets = list::datasets(&*read, None, ALL).expect("the catalog reads back").items;
        (topics, datasets)
    };
    let topic = topics.get(rng.below(topics.len() as u64) as usize).map(|item| &item.topic);
    let dataset = datasets.get(rng.below(datasets.len() as u64) as usize).map(|item| &item.dataset);
    let Some(topic) = topic.filter(|_| n > 1 && !rng.chance(1, 25)) else {
        let op = sign(by, None, nothing(), node.clock(now), create_topic(None, rng));
        return node.submit(now, vec![op], wires);
    };
    // Mostly somebody who may.
    let by =
        if rng.chance(4, 5) { (1..=N_USERS as u8).find(|by| user(*by) == topic.created_by).unwrap_or(by) } else { by };
    let on = Resource::Topic(topic.id);
    let other = user(1 + rng.below(N_USERS) as u8);
    let (at, body) = match (rng.below(100), dataset) {
        (0..10, _) => (topic.id, create_topic(Some(topic.id), rng)),
        (10..25, _) => {
            let fields = fields(rng);
            (topic.id, Body::CreateDataset { name: name("data", rng), fields })
        }
        (25..60, Some(dataset)) => {
            let built = ingest(node, rng);
            node.stage(now, built.manifest, wires);
            (dataset.topic, publish(dataset, &built, rng))
        }
        (60..70, Some(dataset)) => {
            let fields = fields(rng);
            (dataset.topic, Body::UpdateDataset { dataset: dataset.id, fields })
        }
        (70..72, Some(dataset)) => (dataset.topic, Body::ArchiveDataset { dataset: dataset.id }),
        (72..74, Some(dataset)) => (dataset.topic, Body::DeleteDataset { dataset: dataset.id }),
        (74..84, _) => {
            let role = [Role::Reader, Role::Contributor, Role::Admin, Role::Owner][rng.below(4) as usize];
            (topic.id, Body::Grant { resource: on, user: other, role, expires_at: None })
        }
        (84..88, _) => (topic.id, Body::Revoke { resource: on, user: other, keep_below: rng.chance(1, 2) }),
        (88, _) => (topic.id, Body::ArchiveTopic),
        (89, _) => (topic.id, Body::DeleteTopic { force: true }),
        (90, _) if other != topic.created_by => {
            (topic.id, Body::TransferOwnership { resource: on, to: other, leave: rng.chance(1, 2) })
        }
        _ => (topic.id, Body::UpdateTopic(fields(rng))),
    };
    if matches!(&body, Body::TransferOwnership { to, .. } if *to == user(by)) {
        return;
    }
    let wanted = match body.class() {
        Class::Content => ContextFor::Content(at),
        Class::Access if body.is_removal() => ContextFor::Removal(at),
        Class::Access => ContextFor::Access(at),
    };
    let clock = node.clock(now);
    let Some(context) = node.context(wanted) else { return };
    let in_topic = (!matches!(body, Body::CreateTopic { .. })).then_some(at);
    let op = sign(by, in_topic, context, clock, body);
    node.submit(now, vec![op], wires);
}

fn publish(dataset: &Dataset, built: &Built, rng: &mut Rng) -> Body {
    let semver = semver::Version::new(1, rng.below(20), rng.below(10));
    Body::PublishVersion(NewVersion {
        dataset: dataset.id,
        semver,
        previous: None,
        message: String::new(),
        manifest: built.manifest,
        content: built.content,
        size: built.size,
        n_files: built.n_files,
        format: ContentFormat::Binary,
        schema: None,
        row_count: None,
        license: None,
        source_url: None,
    })
}

/// Stores some files, as an upload does; durable when this returns.
fn ingest(node: &SimNode, rng: &mut Rng) -> Built {
    let params = ChunkerParams::with_average(8 << 10);
    let chunks = node.stores.chunks();
    let mut sink = |piece: Piece| -> Result<(), Infallible> {
        let (Piece::Content(raw) | Piece::Page(raw)) = piece;
        chunks.put(&RawChunk::compress(raw)).expect("the store takes it");
        Ok(())
    };
    let mut builder = Builder::new(ManifestKind::Tree, params);
    for file in 0..1 + rng.below(3) {
        let path = DatasetPath::new(&format!("file{file}")).expect("a path of letters and a digit");
        let is_begun = builder.begin(path, EntryKind::File, &mut sink);
        is_begun.expect("paths come in order");
        let mut bytes = vec![0; rng.below(60_000) as usize];
        rng.fill(&mut bytes);
        builder.push(&bytes, &mut sink).expect("a file is open");
    }
    let built = builder.finish(None, &mut sink).expect("there are few files");
    chunks.flush().expect("the store can be flushed");
    built
}
