//! Operations, signatures, hashes and manifest pages.

use std::collections::{BTreeMap, BTreeSet};

use bib_core::chunk::Chunk;
use bib_core::chunker::ChunkerParams;
use bib_core::hash::{hash, hash_in_context};
use bib_core::id::{ChunkId, ContentId, DatasetId, ManifestId, OpId, TopicId, VersionId};
use bib_core::key::{Purpose, SecretKey, signed_bytes};
use bib_core::model::manifest::{ChunkRef, Column, Entry, EntryKind, ManifestKind, Page, PageList, PageRef, Root};
use bib_core::model::{ContentFormat, DatasetPath, Name, Visibility};
use bib_core::op::operation::{FieldChanges, NewVersion, OperationError};
use bib_core::op::{Body, Operation, Resource, Role, Unsigned};

use crate::{Case, TIME, check, named, variants};

variants!(Body: CreateTopic SetVisibility ArchiveTopic RestoreTopic DeleteTopic Grant Revoke TransferOwnership ReplaceKey
    UpdateTopic CreateDataset UpdateDataset ArchiveDataset RestoreDataset DeleteDataset PublishVersion WithdrawVersion);
variants!(Page: Root Index Entries Chunks);

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn fields() -> FieldChanges {
    FieldChanges {
        description: Some("Station records".to_owned()),
        tags: Some(BTreeSet::from(["daily".to_owned(), "noaa".to_owned()])),
        metadata: Some(BTreeMap::from([("region".to_owned(), "Größe".to_owned())])),
        schema: Some(None),
    }
}

fn bodies() -> Vec<Body> {
    let user = SecretKey::from_seed([2; 32]).user_id();
    let (topic, dataset) = (TopicId::from_bytes([7; 32]), DatasetId::from_bytes([3; 32]));
    let on_topic = Resource::Topic(topic);
    let version = NewVersion {
        dataset,
        semver: semver::Version::parse("1.2.3-rc.1").unwrap(),
        previous: Some(VersionId::from_bytes([4; 32])),
        message: "first".to_owned(),
        manifest: ManifestId::from_bytes([5; 32]),
        content: ContentId::from_bytes([6; 32]),
        size: 121_417,
        n_files: 1,
        format: ContentFormat::Csv,
        schema: Some("CREATE TABLE t (a INTEGER)".to_owned()),
        row_count: Some(2_922),
        license: Some("CC0-1.0".to_owned()),
        source_url: Some("https://www.ncei.noaa.gov/".to_owned()),
    };
    let least = NewVersion {
        semver: semver::Version::new(0, 1, 0),
        previous: None,
        message: String::new(),
        schema: None,
        row_count: None,
        license: None,
        source_url: None,
        ..version.clone()
    };
    vec![
        Body::CreateTopic { parent: None, name: name("wetter"), visibility: Visibility::Public, fields: fields() },
        Body::CreateTopic {
            parent: Some(topic),
            name: name("größe"),
            visibility: Visibility::Public,
            fields: FieldChanges::default(),
        },
        Body::SetVisibility { visibility: Visibility::Public },
        Body::ArchiveTopic,
        Body::RestoreTopic,
        Body::DeleteTopic { force: true },
        Body::Grant { resource: on_topic, user, role: Role::Contributor, expires_at: Some(TIME) },
        Body::Grant { resource: Resource::Dataset(dataset), user, role: Role::Owner, expires_at: None },
        Body::Revoke { resource: on_topic, user, keep_below: true },
        Body::TransferOwnership { resource: on_topic, to: user, leave: false },
        Body::ReplaceKey { new: user },
        Body::UpdateTopic(fields()),
        Body::CreateDataset { name: name("temps"), fields: FieldChanges::default() },
        Body::UpdateDataset { dataset, fields: fields() },
        Body::ArchiveDataset { dataset },
        Body::RestoreDataset { dataset },
        Body::DeleteDataset { dataset },
        Body::PublishVersion(version),
        Body::PublishVersion(least),
        Body::WithdrawVersion { dataset, version: VersionId::from_bytes([4; 32]) },
    ]
}

/// One operation of each kind, signed.
pub(crate) fn operations() -> Vec<(String, Operation)> {
    let owner = SecretKey::from_seed([1; 32]);
    let sign = |body: Body| {
        let is_root = matches!(&body, Body::CreateTopic { parent: None, .. });
        let makes_topic = matches!(&body, Body::CreateTopic { .. });
        let parents = if is_root { Vec::new() } else { vec![OpId::from_bytes([7; 32]), OpId::from_bytes([8; 32])] };
        let unsigned = Unsigned {
            topic: (!makes_topic).then_some(TopicId::from_bytes([7; 32])),
            author: owner.user_id(),
            lamport: if is_root { 1 } else { 300 },
            time: TIME,
            parents,
            keeps: if body.is_removal() { vec![OpId::from_bytes([9; 32])] } else { Vec::new() },
            body,
        };
        unsigned.sign(&owner).unwrap()
    };
    named("operation", bodies()).into_iter().map(|(name, body)| (name, sign(body))).collect()
}

#[test]
fn operations_of_each_kind() {
    let case = |(name, operation): (String, Operation)| {
        let bytes = operation.bytes().to_vec();
        let read = Box::new(move |bytes: &[u8]| match Operation::decode(bytes) {
            Ok(read) => Ok(read == operation),
            Err(OperationError::Decode(error)) => Err(error),
            Err(_) => Ok(false),
        });
        Case { name, bytes, read, is_versioned: false }
    };
    let cases: Vec<Case> = operations().into_iter().map(case).collect();
    check("operations", &cases);
    for case in cases {
        let mut newer = case.bytes.clone();
        newer[0] += 1;
        let refused = (case.read)(&newer);
        assert!(
            matches!(refused, Err(bib_core::encode::DecodeError::Unsupported { .. })),
            "{}: {refused:?}",
            case.name
        );
    }
}

#[test]
fn ids_signatures_and_hashes() {
    let key = SecretKey::from_seed([1; 32]);
    let mut cases = vec![
        Case::plain("hash", hash(b"content").to_vec()),
        Case::plain("hash_in_context", hash_in_context("bib example 2026", b"content").to_vec()),
        Case::plain("chunk.id", Chunk::from_raw(b"content".to_vec()).id().as_bytes().to_vec()),
        Case::plain("key.user", key.user_id().as_bytes().to_vec()),
        Case::plain("key.node", key.node_id().as_bytes().to_vec()),
        Case::plain("auth_bytes", bib_core::api::auth_bytes(&[1; 32], &key.node_id())),
    ];
    for (name, purpose) in [("op", Purpose::Op), ("auth", Purpose::Auth)] {
        cases.push(Case::plain(format!("signed_bytes.{name}"), signed_bytes(purpose, b"bytes")));
        cases.push(Case::plain(format!("signature.{name}"), key.sign(purpose, b"bytes").0.to_vec()));
    }
    for (name, operation) in operations() {
        cases.push(Case::plain(format!("id.{name}"), operation.id().as_bytes().to_vec()));
    }
    check("ids", &cases);
}

fn entry(path: &str, kind: EntryKind, size: u64, offset: u64) -> Entry {
    Entry { path: DatasetPath::new(path).unwrap(), kind, size, content: ContentId::from_bytes([1; 32]), offset }
}

#[test]
fn manifest_pages() {
    let page = |first: &str| PageRef {
        id: ChunkId::from_bytes([2; 32]),
        len: 4_000,
        count: 40,
        bytes: 9,
        first: first.to_owned(),
    };
    let chunk = ChunkRef { id: ChunkId::from_bytes([3; 32]), len: 262_144 };
    let entries = vec![
        entry("a/b c.csv", EntryKind::File, 100, 0),
        entry("a/run", EntryKind::Executable, 100, 100),
        entry("ü", EntryKind::EmptyDir, 0, 200),
    ];
    let root = |kind, entries, chunks, columns| {
        let chunker = ChunkerParams::with_average(256 << 10);
        Page::Root(Root { kind, chunker, n_entries: 3, n_chunks: 1, size: 200, entries, chunks, columns })
    };
    let column = Column { name: "tmax".to_owned(), sql_type: "REAL".to_owned(), nullable: true };
    let pages = vec![
        root(
            ManifestKind::File,
            PageList::Inline(entries[..1].to_vec()),
            PageList::Inline(vec![chunk]),
            Some(vec![column]),
        ),
        root(
            ManifestKind::Tree,
            PageList::Pages { depth: 1, pages: vec![page("a"), page("b")] },
            PageList::Pages { depth: 0, pages: vec![page("")] },
            None,
        ),
        Page::Index(vec![page("a"), page("m")]),
        Page::Entries(entries),
        Page::Chunks(vec![chunk; 2]),
    ];
    let cases: Vec<Case> = named("page", pages).into_iter().map(|(name, page)| Case::versioned(name, page)).collect();
    check("manifests", &cases);
}
