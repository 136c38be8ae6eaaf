//! Records of the catalog.

use std::collections::{BTreeMap, BTreeSet};

use bib_core::backup::{BackupHeader, Kdf, Snapshot, SnapshotFile, StoreKeys};
use bib_core::catalog::record::{Charge, GraceClock, Grants, Kept, Parked, ParkedFigures, Pin, WorkerNote};
use bib_core::id::{ContentId, DatasetId, ManifestId, NodeId, TopicId, UserId, VersionId};
use bib_core::key::SecretKey;
use bib_core::model::{ContentFormat, Dataset, DatasetStatus, Topic, TopicStatus, Version, VersionStatus, Visibility};
use bib_core::op::Role;
use bib_core::place::FilePlace;
use bib_core::time::Timestamp;
use serde_bytes::{ByteArray, ByteBuf};
use zeroize::Zeroizing;

use crate::vocabulary::name;
use crate::{Case, TIME, check};

pub(crate) fn topic() -> Topic {
    Topic {
        id: TopicId::from_bytes([1; 32]),
        parent: Some(TopicId::from_bytes([2; 32])),
        name: name("wetter"),
        name_taken: true,
        description: "Station records".to_owned(),
        schema: Some("CREATE TABLE t (a INTEGER)".to_owned()),
        visibility: Visibility::Private,
        status: TopicStatus::Archived,
        tags: BTreeSet::from(["daily".to_owned()]),
        metadata: BTreeMap::from([("region".to_owned(), "Größe".to_owned())]),
        created_by: UserId::from_bytes([3; 32]),
        created_at: TIME,
        updated_at: TIME,
    }
}

pub(crate) fn dataset() -> Dataset {
    Dataset {
        id: DatasetId::from_bytes([1; 32]),
        topic: TopicId::from_bytes([2; 32]),
        name: name("temps"),
        name_taken: false,
        description: String::new(),
        status: DatasetStatus::Active,
        tags: BTreeSet::from(["daily".to_owned()]),
        metadata: BTreeMap::new(),
        schema: None,
        created_by: UserId::from_bytes([3; 32]),
        created_at: TIME,
        updated_at: TIME,
        latest: Some(VersionId::from_bytes([4; 32])),
        version_count: 300,
    }
}

pub(crate) fn version() -> Version {
    Version {
        id: VersionId::from_bytes([1; 32]),
        dataset: DatasetId::from_bytes([2; 32]),
        topic: TopicId::from_bytes([3; 32]),
        semver: semver::Version::parse("1.2.3-rc.1").unwrap(),
        semver_taken: true,
        previous: Some(VersionId::from_bytes([4; 32])),
        message: "first".to_owned(),
        manifest: ManifestId::from_bytes([5; 32]),
        content: ContentId::from_bytes([6; 32]),
        size: 121_417,
        n_files: 1,
        format: ContentFormat::Parquet,
        schema: None,
        row_count: Some(2_922),
        license: Some("CC0-1.0".to_owned()),
        source_url: Some("https://www.ncei.noaa.gov/".to_owned()),
        status: VersionStatus::Withdrawn,
        created_by: UserId::from_bytes([7; 32]),
        created_at: TIME,
    }
}

fn pin() -> Pin {
    Pin {
        is_here: true,
        staged_until: Some(TIME),
        n_versions: 300,
        n_withdrawn: 2,
        released_at: Some(TIME),
        is_kept: true,
        is_own: true,
        is_evicted: false,
        used_at: Some(TIME),
        charge: Some(Charge::of(TopicId::from_bytes([2; 32]), UserId::from_bytes([3; 32]), 121_417)),
    }
}

#[test]
fn pin_of_version_1_reads_as_content_that_was_published_here() {
    // `is_here`, `staged_until` = `TIME`, `n_versions` = 300.
    let old = crate::unhex("01010180adfee6cec1b006ac02");
    let read: Pin = bib_core::encode::decode(&old).unwrap();
    assert_eq!(read, Pin { n_withdrawn: 0, released_at: None, is_kept: false, used_at: None, charge: None, ..pin() });
}

#[test]
fn records_of_the_catalog() {
    let topic_of = |status| Topic { status, ..topic() };
    let dataset_of = |status| Dataset { status, ..dataset() };
    // A new kind of record gets a line here.
    let cases = [
        Case::versioned("topic.active", topic_of(TopicStatus::Active)),
        Case::versioned("topic.archived", topic_of(TopicStatus::Archived)),
        Case::versioned("topic.deleted", topic_of(TopicStatus::Deleted)),
        Case::versioned("dataset.draft", dataset_of(DatasetStatus::Draft)),
        Case::versioned("dataset.active", dataset_of(DatasetStatus::Active)),
        Case::versioned("dataset.archived", dataset_of(DatasetStatus::Archived)),
        Case::versioned("dataset.deleted", dataset_of(DatasetStatus::Deleted)),
        Case::versioned("version.withdrawn", version()),
        Case::versioned("version.active", Version { status: VersionStatus::Active, ..version() }),
        Case::versioned("pin", pin()),
        Case::versioned("pin.evicted", Pin { n_versions: 1, n_withdrawn: 1, is_evicted: true, ..Pin::default() }),
        Case::versioned("grace_clock", GraceClock { system: TIME, steady: Timestamp(TIME.0 - 1_000_000) }),
        Case::versioned(
            "worker",
            WorkerNote {
                last_run: TIME,
                position: Some(ByteBuf::from(vec![1, 2])),
                figures: vec![("live_bytes".to_owned(), 300)],
            },
        ),
        Case::versioned(
            "kept",
            Kept {
                version: VersionId::from_bytes([1; 32]),
                reference: "wetter/temps@1.2.3".to_owned(),
                size: 121_417,
                since: TIME,
            },
        ),
        Case::versioned("grants", Grants(vec![(Role::Reader, Some(TIME)), (Role::Owner, None)])),
        Case::versioned(
            "parked",
            Parked { since: TIME, counted_in: TopicId::from_bytes([1; 32]), op: ByteBuf::from(vec![1, 2, 3]) },
        ),
        Case::versioned("file.place", FilePlace::new(b"/data/temps.csv".to_vec(), 300).unwrap()),
        Case::versioned("parked.figures", ParkedFigures { count: 1, bytes: 300 }),
    ];
    check("records", &cases);
}

pub(crate) fn snapshot() -> Snapshot {
    Snapshot {
        node: NodeId::from_bytes([1; 32]),
        time: TIME,
        manifest: ManifestId::from_bytes([2; 32]),
        size: 300,
        n_ops: 4,
        n_manifests: 5,
        content_bytes: 600,
        n_incomplete: 7,
        is_encrypted: true,
    }
}

#[test]
fn files_of_a_backup() {
    let key = SecretKey::from_seed([1; 32]);
    let kdf = Kdf { memory_kib: 19 << 10, passes: 3, lanes: 1, salt: ByteArray::new([1; 16]) };
    let backup_key = Zeroizing::new([7; 32]);
    let mut header = BackupHeader { id: [3; 16], created: TIME, slots: Vec::new() };
    header.add_passphrase(&backup_key, kdf, &[9; 32], [2; 12]);
    header.add_user(&backup_key, key.user_id(), Zeroizing::new([4; 32])).unwrap();
    header.add_node(&backup_key, key.node_id(), Zeroizing::new([5; 32])).unwrap();
    let file = SnapshotFile { backup: [3; 16], time: TIME, sealed: ByteBuf::from(vec![8; 20]) };
    let keys = StoreKeys::of(&backup_key);
    let entry = bib_core::backup::entry(b"key", b"value").unwrap();
    let cases = [
        Case::versioned("backup.header", header),
        Case::versioned("backup.snapshot_file", file),
        Case::versioned("backup.snapshot", snapshot()),
        Case::plain("backup.entry", entry),
        Case::plain("backup.keys", [keys.data.as_slice(), keys.index.as_slice(), keys.names.as_slice()].concat()),
    ];
    check("backups", &cases);
}
