//! Backups of small nodes: made, read, restored, damaged.

use std::fs;
use std::ops::Bound;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bib_core::catalog::record::Kept;
use bib_core::chunker::ChunkerParams;
use bib_core::command::{Command, Origin};
use bib_core::hash::hash;
use bib_core::id::{ManifestId, NodeId};
use bib_core::key::SecretKey;
use bib_core::model::manifest::builder::{Builder, Piece};
use bib_core::model::manifest::{EntryKind, ManifestKind};
use bib_core::model::{DatasetPath, Visibility};
use bib_core::op::operation::{FieldChanges, NewVersion};
use bib_core::op::{Body, Operation, Unsigned};
use bib_core::port::{Order, StoreError, TABLES, Table};
use bib_core::time::Timestamp;

use super::collect::collect;
use super::error::BackupError;
use super::make::{Made, Source, make, prune};
use super::repository::{Place, Repository, Unlock};
use super::restore::{Restore, Restored, restore};
use super::verify::{Verified, scrub};
use crate::config::Budget;
use crate::config::budget::MIN_MEMORY;
use crate::identity;
use crate::runtime::{Pool, Spawner, timestamp};
use crate::store::{Store, Stores};

const PASSPHRASE: &str = "correct horse";

/// Noise, so that nothing shrinks.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let all: Vec<u8> = (0..len as u64 / 32 + 1).flat_map(|i| hash(&(seed << 32 | i).to_le_bytes())).collect();
    all[..len].to_vec()
}

fn topic(name: &str, time: Timestamp) -> Operation {
    let key = SecretKey::from_seed(hash(name.as_bytes()));
    let body = Body::CreateTopic {
        parent: None,
        name: name.parse().unwrap(),
        visibility: Visibility::Public,
        fields: FieldChanges::default(),
    };
    let (parents, keeps) = (Vec::new(), Vec::new());
    Unsigned { topic: None, author: key.user_id(), lamport: 1, time, parents, keeps, body }.sign(&key).unwrap()
}

/// The operations by which whoever made the topic `first` publishes some content in it.
fn published(manifest: ManifestId, time: Timestamp) -> [Operation; 2] {
    let key = SecretKey::from_seed(hash(b"first"));
    let of = topic("first", time).id();
    let sign = |parents, lamport, body| {
        let (topic, keeps) = (Some(of.into()), Vec::new());
        Unsigned { topic, author: key.user_id(), lamport, time, parents, keeps, body }.sign(&key).unwrap()
    };
    let fields = FieldChanges::default();
    let create = sign(vec![of], 2, Body::CreateDataset { name: "d".parse().unwrap(), fields });
    let version = NewVersion {
        dataset: create.id().into(),
        semver: "1.0.0".parse().unwrap(),
        previous: None,
        message: String::new(),
        manifest,
        content: bib_core::id::ContentId::from_bytes([2; 32]),
        size: 50_000,
        n_files: 1,
        format: bib_core::model::ContentFormat::Binary,
        schema: None,
        row_count: None,
        license: None,
        source_url: None,
    };
    let publish = sign(vec![create.id()], 3, Body::PublishVersion(version));
    [create, publish]
}

/// Works with the store of a data directory.
fn with<T>(data_dir: &Path, work: impl FnOnce(&Store, &Spawner) -> T) -> T {
    let (store, thread) = Store::open(data_dir, &Budget::of(MIN_MEMORY), Pool::new(1), None).unwrap();
    let result = work(&store, &Spawner::new());
    store.close();
    thread.join();
    result
}

/// Reads all of it, then looks at one snapshot.
fn verify(backup: &Repository, time: Timestamp) -> Result<Verified, BackupError> {
    let stop = AtomicBool::new(false);
    scrub(backup, &mut |_| {}, &stop)?;
    super::verify::verify(backup, time, &mut |_| {}, &stop)
}

/// A node with a topic for each name, and some content for each number.
struct Fixture {
    dir: tempfile::TempDir,
    node: NodeId,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("data")).unwrap();
        let node = identity::load_or_make(&dir.path().join("data")).unwrap().node_id();
        Self { dir, node }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn data(&self) -> PathBuf {
        self.path("data")
    }

    fn secret(&self) -> SecretKey {
        identity::load_or_make(&self.data()).unwrap()
    }

    fn add_topic(&self, name: &str, time: Timestamp) {
        with(&self.data(), |store, spawner| {
            let command = Command::Apply { ops: vec![topic(name, time)], origin: Origin::Peer(self.node) };
            spawner.block_on(store.apply(command)).unwrap();
        });
    }

    fn add_content(&self, seed: u64, len: usize) -> ManifestId {
        with(&self.data(), |store, spawner| {
            let stores = store.stores();
            let mut put = |piece: Piece| {
                let (Piece::Content(chunk) | Piece::Page(chunk)) = piece;
                stores.chunks().put(&chunk.compress()).map(drop)
            };
            let mut builder = Builder::new(ManifestKind::File, ChunkerParams::with_average(16 << 10));
            builder.begin::<StoreError>(DatasetPath::new("f").unwrap(), EntryKind::File, &mut put).unwrap();
            builder.push(&noise(seed, len), &mut put).unwrap();
            let manifest = builder.finish(None, &mut put).unwrap().manifest;
            spawner.block_on(store.apply(Command::Stage(manifest))).unwrap();
            manifest
        })
    }

    fn create(&self, name: &str) -> Repository {
        let place = Place::of(&self.path(name));
        Repository::create(&place, self.node, Some(PASSPHRASE), &[], timestamp()).unwrap()
    }

    fn open(&self, name: &str) -> Result<Repository, BackupError> {
        self.open_with(name, &Unlock::Passphrase(PASSPHRASE))
    }

    fn open_with(&self, name: &str, unlock: &Unlock<'_>) -> Result<Repository, BackupError> {
        Repository::open(&Place::of(&self.path(name)), unlock, &self.path("scratch"))
    }

    fn back_up(&self, backup: &mut Repository) -> Made {
        self.try_back_up(backup, timestamp()).unwrap()
    }

    fn try_back_up(&self, backup: &mut Repository, now: Timestamp) -> Result<Made, BackupError> {
        with(&self.data(), |store, _| {
            let stores = store.stores();
            let data_dir = self.data();
            let source = source(&stores, &data_dir, self.node);
            make(&source, backup, now, &mut |_| {}, &AtomicBool::new(false))
        })
    }

    fn restore(
        &self,
        backup: &Repository,
        name: &str,
        change: impl FnOnce(&mut Restore<'_>),
    ) -> Result<Restored, BackupError> {
        let (data_dir, budget) = (self.path(name), Budget::of(MIN_MEMORY));
        let now = timestamp();
        let mut wanted = Restore {
            data_dir: &data_dir,
            snapshot: None,
            to: None,
            force: false,
            partial: false,
            now,
            budget: &budget,
        };
        change(&mut wanted);
        restore(backup, &wanted, &mut |_| {}, &AtomicBool::new(false))
    }
}

fn source<'a>(stores: &'a Stores, data_dir: &'a Path, node: NodeId) -> Source<'a> {
    let settings = "node.name = \"attic\"\n".to_owned();
    Source { catalog: stores.catalog(), chunks: stores.chunks(), data_dir, node, settings }
}

type Tables = Vec<(String, Vec<(Vec<u8>, Vec<u8>)>)>;

/// All that a node holds: its tables, entry by entry.
fn tables(data_dir: &Path) -> Tables {
    with(data_dir, |store, _| {
        let stores = store.stores();
        let read = stores.catalog().begin_read().unwrap();
        let table = |(table, name): &(Table, &str)| {
            let mut entries = Vec::new();
            read.scan(*table, (Bound::Unbounded, Bound::Unbounded), Order::Ascending, &mut |key, value| {
                entries.push((key.to_vec(), value.to_vec()));
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
            ((*name).to_owned(), entries)
        };
        TABLES.iter().map(table).collect()
    })
}

/// The bytes of a file that a node holds.
fn content(data_dir: &Path, manifest: ManifestId) -> Vec<u8> {
    with(data_dir, |store, _| {
        let mut bytes = Vec::new();
        let stores = store.stores();
        super::content::read_file(stores.chunks(), manifest, "f", &mut |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })
        .unwrap();
        bytes
    })
}

fn n_chunks(data_dir: &Path) -> u64 {
    with(data_dir, |store, _| store.stores().chunks().stats().unwrap().n_chunks)
}

fn message<T: std::fmt::Debug>(result: Result<T, BackupError>) -> String {
    let failure = bib_core::api::Failure::from(result.unwrap_err());
    assert!(failure.hint.is_some(), "{failure}");
    failure.message
}

#[test]
fn restored_node_is_the_same_record_by_record_from_a_folder_and_from_a_file() {
    let fixture = Fixture::new();
    for name in ["weather", "soil", "rivers"] {
        fixture.add_topic(name, timestamp());
    }
    let (one, two) = (fixture.add_content(1, 300_000), fixture.add_content(2, 5_000));
    for (name, restored) in [("folder", "from-folder"), ("file.tar", "from-file")] {
        let made = {
            let mut backup = fixture.create(name);
            fixture.back_up(&mut backup)
        };
        assert_eq!((made.snapshot.n_manifests, made.snapshot.content_bytes), (2, 305_000));
        let backup = fixture.open(name).unwrap();
        let verified = verify(&backup, made.snapshot.time).unwrap();
        assert_eq!(verified.manifests, 2);
        let done = fixture.restore(&backup, restored, |_| {}).unwrap();
        assert_eq!((done.n_ops, done.content_bytes, done.moved), (3, 305_000, None));
        let restored = fixture.path(restored);
        assert!(tables(&restored) == tables(&fixture.data()));
        assert_eq!(n_chunks(&restored), n_chunks(&fixture.data()));
        assert_eq!(content(&restored, one), noise(1, 300_000));
        assert_eq!(content(&restored, two), noise(2, 5_000));
        let identity = |dir: &Path| fs::read(dir.join("identity.pem")).unwrap();
        assert_eq!(identity(&restored), identity(&fixture.data()));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&restored), mode(&restored.join("identity.pem"))), (0o700, 0o600));
    }
}

#[test]
fn second_snapshot_costs_what_is_new_and_the_first_one_stays_whole() {
    let fixture = Fixture::new();
    fixture.add_topic("weather", timestamp());
    let one = fixture.add_content(1, 2_000_000);
    let mut backup = fixture.create("backup");
    let first = fixture.back_up(&mut backup);
    assert!(first.stored_bytes > 2_000_000);
    fixture.add_topic("soil", timestamp());
    let two = fixture.add_content(2, 100_000);
    let second = fixture.back_up(&mut backup);
    assert!((100_000..200_000).contains(&second.stored_bytes), "{second:?}");
    let third = fixture.back_up(&mut backup);
    assert!(third.stored_bytes < 20_000, "{third:?}");
    assert_eq!(backup.times().unwrap().len(), 3);
    for (snapshot, n_ops) in [(&first, 1), (&second, 2), (&third, 2)] {
        let time = snapshot.snapshot.time;
        verify(&backup, time).unwrap();
        let name = format!("restored-{}", time.0);
        let done = fixture.restore(&backup, &name, |wanted| wanted.snapshot = Some(time)).unwrap();
        assert_eq!(done.n_ops, n_ops);
        assert_eq!(content(&fixture.path(&name), one), noise(1, 2_000_000));
        if n_ops == 2 {
            assert_eq!(content(&fixture.path(&name), two), noise(2, 100_000));
        }
    }
}

#[test]
fn backup_opens_by_passphrase_user_and_node_and_by_nobody_else() {
    let fixture = Fixture::new();
    fixture.add_topic("weather", timestamp());
    let user = SecretKey::from_seed([5; 32]);
    let place = Place::of(&fixture.path("backup"));
    let users = [user.user_id()];
    let mut backup = Repository::create(&place, fixture.node, Some(PASSPHRASE), &users, timestamp()).unwrap();
    fixture.back_up(&mut backup);
    drop(backup);
    for unlock in [Unlock::Passphrase(PASSPHRASE), Unlock::Secret(&user), Unlock::Secret(&fixture.secret())] {
        fixture.open_with("backup", &unlock).unwrap();
    }
    let stranger = SecretKey::from_seed([6; 32]);
    for unlock in [Unlock::Passphrase("wrong"), Unlock::Secret(&stranger)] {
        let refused = message(fixture.open_with("backup", &unlock));
        assert!(refused.contains("does not open"), "{refused}");
    }
    let wrong_key = bib_core::backup::BackupKey::new([1; 32]);
    assert!(fixture.open_with("backup", &Unlock::Key(&wrong_key)).is_err());
    let refused = message(Repository::create(&Place::of(&fixture.path("new")), fixture.node, None, &[], timestamp()));
    assert!(refused.contains("takes a passphrase or users"), "{refused}");
    assert!(!fixture.path("new").exists());
}

#[test]
fn nothing_that_is_backed_up_can_be_read_in_the_files() {
    let fixture = Fixture::new();
    fixture.add_topic("secretname", timestamp());
    let secret = b"a line that nobody else may read; ".repeat(2_000);
    with(&fixture.data(), |store, spawner| {
        let chunk = bib_core::chunk::Chunk::from_raw(secret[..1_000].to_vec());
        store.stores().chunks().put(&chunk).unwrap();
        spawner.block_on(store.flush()).unwrap();
    });
    for name in ["folder", "file.tar"] {
        let mut backup = fixture.create(name);
        fixture.back_up(&mut backup);
        drop(backup);
        let mut all = Vec::new();
        let mut waiting = vec![fixture.path(name)];
        while let Some(path) = waiting.pop() {
            if path.is_dir() {
                waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            } else {
                all.extend(fs::read(&path).unwrap());
            }
        }
        for plain in [b"secretname".as_slice(), b"PRIVATE KEY", b"attic", PASSPHRASE.as_bytes()] {
            assert!(!all.windows(plain.len()).any(|window| window == plain), "{name}");
        }
    }
}

#[test]
fn node_is_made_only_where_none_is_unless_told_and_what_was_there_is_moved_aside() {
    let fixture = Fixture::new();
    fixture.add_topic("weather", timestamp());
    let mut backup = fixture.create("backup");
    fixture.back_up(&mut backup);
    fixture.add_topic("later", timestamp());
    let before = tables(&fixture.data());
    let refused = message(fixture.restore(&backup, "data", |_| {}));
    assert!(refused.contains("is not empty"), "{refused}");
    assert!(tables(&fixture.data()) == before);
    let done = fixture.restore(&backup, "data", |wanted| wanted.force = true).unwrap();
    let moved = done.moved.unwrap();
    assert!(tables(&moved) == before);
    assert_eq!(done.n_ops, 1);
    // A node that runs is left alone.
    let running = bib_storage_redb::DataDirLock::take(&fixture.data()).unwrap();
    let refused = fixture.restore(&backup, "data", |wanted| wanted.force = true);
    assert!(matches!(refused, Err(BackupError::Store(StoreError::Locked(_)))), "{refused:?}");
    drop(running);
    // An empty folder is as good as none; what an earlier attempt left is cleared, what is somebody else's is not.
    fs::create_dir(fixture.path("empty")).unwrap();
    fs::create_dir(fixture.path("empty.restoring")).unwrap();
    fs::write(fixture.path("empty.restoring/precious"), "x").unwrap();
    let refused = message(fixture.restore(&backup, "empty", |_| {}));
    assert!(refused.contains("empty.restoring"), "{refused}");
    fs::write(fixture.path("empty.restoring/restoring"), "").unwrap();
    fixture.restore(&backup, "empty", |_| {}).unwrap();
    assert!(!fixture.path("empty.restoring").exists() && !fixture.path("empty/precious").exists());
    assert!(!fixture.path("empty/restoring").exists());
}

#[test]
fn node_can_be_made_as_it_was_at_a_moment() {
    let fixture = Fixture::new();
    let start = timestamp().saturating_sub(Duration::from_secs(10_000));
    let at = |seconds| start.saturating_add(Duration::from_secs(seconds));
    fixture.add_topic("first", at(100));
    let mut backup = fixture.create("backup");
    fixture.try_back_up(&mut backup, at(150)).unwrap();
    fixture.add_topic("second", at(200));
    fixture.add_topic("third", at(300));
    fixture.try_back_up(&mut backup, at(350)).unwrap();
    let topics =
        |name: &str| tables(&fixture.path(name)).into_iter().find(|(name, _)| name == "topics").unwrap().1.len();
    for (to, n_topics) in [(99, 0), (100, 1), (250, 2), (300, 3), (9_000, 3)] {
        let name = format!("to-{to}");
        let done = fixture.restore(&backup, &name, |wanted| wanted.to = Some(at(to))).unwrap();
        assert_eq!((done.n_ops, topics(&name)), (n_topics, n_topics as usize), "{to}");
        assert_eq!(done.snapshot.time, if to <= 150 { at(150) } else { at(350) });
        assert!(!fixture.path(&name).join("replay-before").exists());
    }
}

#[test]
fn byte_that_was_turned_over_is_found_wherever_it_is() {
    let fixture = Fixture::new();
    fixture.add_topic("weather", timestamp());
    fixture.add_content(1, 200_000);
    let mut backup = fixture.create("backup");
    let made = fixture.back_up(&mut backup);
    drop(backup);
    let snapshot = format!("backup/snapshots/{:020}.snap", made.snapshot.time.0);
    let segment = "backup/segments/0000000000.seg";
    let len = fs::metadata(fixture.path(segment)).unwrap().len();
    let cases =
        [(snapshot.as_str(), 40), (snapshot.as_str(), 120), (segment, 300), (segment, len / 2), (segment, len - 20)];
    for (name, at) in cases {
        // What is damaged is noted in the index: each case begins anew.
        let names =
            ["backup.bib", snapshot.strip_prefix("backup/").unwrap(), "segments/0000000000.seg", "segments/index.redb"];
        for name in names {
            let to = fixture.path("copy").join(name);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(fixture.path("backup").join(name), to).unwrap();
        }
        let path = fixture.path(&name.replacen("backup/", "copy/", 1));
        let file = fs::File::options().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        let backup = fixture.open("copy").unwrap();
        let restored = fixture.restore(&backup, "restored", |_| {});
        assert!(restored.is_err(), "{name} at {at}");
        message(restored);
        assert!(!fixture.path("restored").exists());
        let found = verify(&backup, made.snapshot.time);
        assert!(found.is_err(), "{name} at {at}");
        message(found);
    }
    let backup = fixture.open("backup").unwrap();
    verify(&backup, made.snapshot.time).unwrap();
    fixture.restore(&backup, "restored", |_| {}).unwrap();
}

#[test]
fn file_that_is_cut_anywhere_is_refused() {
    let fixture = Fixture::new();
    fixture.add_topic("weather", timestamp());
    fixture.add_content(1, 100_000);
    let mut backup = fixture.create("whole.tar");
    fixture.back_up(&mut backup);
    drop(backup);
    let bytes = fs::read(fixture.path("whole.tar")).unwrap();
    assert!(!fixture.path("whole.tar.part").exists() && !fixture.path("whole.tar.index").exists());
    for len in [0, 100, 512, 700, 2_000, 50_000, bytes.len() / 2, bytes.len() - 2_000] {
        fs::write(fixture.path("cut.tar"), &bytes[..len]).unwrap();
        let restored = fixture.open("cut.tar").and_then(|backup| fixture.restore(&backup, "restored", |_| {}));
        assert!(restored.is_err(), "cut at {len}");
        message(restored);
        assert!(!fixture.path("restored").exists() && !fixture.path("scratch").exists());
    }
}

#[test]
fn header_that_lies_is_refused_without_much_work() {
    let fixture = Fixture::new();
    fixture.add_topic("weather", timestamp());
    drop(fixture.create("backup"));
    let path = fixture.path("backup/backup.bib");
    let right = fs::read(&path).unwrap();
    let newer = [&[2], &right[1..]].concat();
    let hostile = [Vec::new(), vec![0xff; 1_000], vec![1; 100_000], right[..right.len() - 1].to_vec(), newer];
    for bytes in hostile {
        fs::write(&path, &bytes).unwrap();
        message(fixture.open("backup"));
    }
    for at in 0..right.len() {
        let mut changed = right.clone();
        changed[at] ^= 0x40;
        fs::write(&path, &changed).unwrap();
        // The other slots open as before; that of the passphrase does not, except where what was changed is not its own.
        let _ = fixture.open_with("backup", &Unlock::Secret(&SecretKey::from_seed([9; 32]))).map(drop);
    }
    assert!(message(fixture.open("absent")).contains("there is no backup"));
}

#[test]
fn content_that_is_not_whole_is_left_out_and_the_restored_node_knows() {
    let fixture = Fixture::new();
    let (good, bad) = (fixture.add_content(1, 100_000), fixture.add_content(2, 100_000));
    // The last record of the store is the root page of the second one: the one before it is content.
    let segment = fixture.data().join("segments/0000000000.seg");
    let len = fs::metadata(&segment).unwrap().len();
    fs::File::options().write(true).open(&segment).unwrap().write_all_at(b"damaged", len - 30_000).unwrap();
    let mut backup = fixture.create("backup");
    let made = fixture.back_up(&mut backup);
    assert_eq!((made.snapshot.n_manifests, made.snapshot.n_incomplete), (1, 1));
    // Also when the node has found out already.
    with(&fixture.data(), |store, spawner| {
        let version = bib_core::id::VersionId::from_bytes([1; 32]);
        let kept = Kept { version, reference: "t/d@1.0.0".to_owned(), size: 100_000, since: timestamp() };
        for command in [Command::Keep { manifest: bad, kept: Some(kept) }, Command::ContentLost(bad)] {
            spawner.block_on(store.apply(command)).unwrap();
        }
    });
    let again = fixture.back_up(&mut backup);
    assert_eq!((again.snapshot.n_manifests, again.snapshot.n_incomplete), (1, 1));
    verify(&backup, made.snapshot.time).unwrap();
    fixture.restore(&backup, "restored", |_| {}).unwrap();
    let restored = fixture.path("restored");
    assert_eq!(content(&restored, good), noise(1, 100_000));
    with(&restored, |store, spawner| {
        let is_here = |manifest| {
            let read = store.read(move |read| bib_core::catalog::content::is_here(read, &manifest));
            spawner.block_on(read).unwrap()
        };
        assert!(is_here(good) && !is_here(bad));
    });
}

#[test]
fn backup_that_is_stopped_adds_nothing_and_the_next_one_goes_on() {
    let fixture = Fixture::new();
    fixture.add_content(1, 500_000);
    let mut backup = fixture.create("backup");
    with(&fixture.data(), |store, _| {
        let (stores, data_dir) = (store.stores(), fixture.data());
        let stopped = make(
            &source(&stores, &data_dir, fixture.node),
            &mut backup,
            timestamp(),
            &mut |_| {},
            &AtomicBool::new(true),
        );
        assert!(matches!(stopped, Err(BackupError::Stopped)), "{stopped:?}");
    });
    assert!(backup.times().unwrap().is_empty());
    let made = fixture.back_up(&mut backup);
    assert_eq!(backup.times().unwrap(), [made.snapshot.time]);
    // In one file nothing is left of it.
    let file = fixture.create("file.tar");
    drop(file);
    let left: Vec<_> = fs::read_dir(fixture.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("file.tar")), "{left:?}");
}

#[test]
fn old_snapshots_go_except_for_the_newest_ones() {
    let fixture = Fixture::new();
    let now = timestamp();
    let day = |n: u64| now.saturating_sub(Duration::from_secs(n * 86_400));
    let mut backup = fixture.create("backup");
    for n in [60, 50, 40, 20, 10] {
        fixture.try_back_up(&mut backup, day(n)).unwrap();
    }
    let month = Duration::from_secs(30 * 86_400);
    assert_eq!(prune(&backup, 4, month, now).unwrap(), [day(60)]);
    assert_eq!(prune(&backup, 1, month, now).unwrap(), [day(50), day(40)]);
    assert_eq!(prune(&backup, 0, month, now).unwrap(), []);
    assert_eq!(backup.times().unwrap(), [day(20), day(10)]);
}

#[test]
fn what_only_snapshots_that_went_needed_is_collected_and_the_others_stay_whole() {
    let fixture = Fixture::new();
    let now = timestamp();
    let day = |n: u64| now.saturating_sub(Duration::from_secs(n * 86_400));
    let mut backup = fixture.create("backup");
    let kept = fixture.add_content(1, 300_000);
    fixture.try_back_up(&mut backup, day(50)).unwrap();
    let gone = fixture.add_content(2, 900_000);
    fixture.try_back_up(&mut backup, day(40)).unwrap();
    with(&fixture.data(), |store, spawner| {
        // Nobody names it and its grace is over.
        spawner.block_on(store.apply(Command::ContentLost(gone))).unwrap();
    });
    let last = fixture.try_back_up(&mut backup, day(1)).unwrap();
    let held = |backup: &Repository| bib_core::port::ChunkStore::stats(backup.chunks()).unwrap().raw_bytes;
    let before = held(&backup);
    assert_eq!(prune(&backup, 1, Duration::from_secs(30 * 86_400), now).unwrap().len(), 2);
    // Files are given back when they are full: here it shows in what the index holds.
    collect(&backup, 7, now, &AtomicBool::new(false)).unwrap();
    assert!((900_000..1_000_000).contains(&(before - held(&backup))), "{before}, then {}", held(&backup));
    verify(&backup, last.snapshot.time).unwrap();
    fixture.restore(&backup, "restored", |_| {}).unwrap();
    assert_eq!(content(&fixture.path("restored"), kept), noise(1, 300_000));
}

/// The files of a backup as version 1 wrote them, without its index, which is made anew.
const GOLDEN: [&str; 3] = ["backup.bib", "snapshots/00001795530245000000.snap", "segments/0000000000.seg"];

#[test]
fn backup_of_version_1_opens_and_a_node_comes_of_it() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/backup-v1");
    let time = Timestamp(1_795_530_245_000_000);
    if std::env::var_os("BIB_BLESS").is_some() && !golden.exists() {
        let fixture = Fixture::new();
        fixture.add_topic("weather", time);
        fixture.add_content(1, 20_000);
        let mut backup = fixture.create("backup");
        fixture.try_back_up(&mut backup, time).unwrap();
        drop(backup);
        for name in GOLDEN {
            fs::create_dir_all(golden.join(name).parent().unwrap()).unwrap();
            fs::copy(fixture.path("backup").join(name), golden.join(name)).unwrap();
        }
    }
    let fixture = Fixture::new();
    for name in GOLDEN {
        let to = fixture.path("backup").join(name);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(golden.join(name), to).unwrap();
    }
    let backup = fixture.open("backup").unwrap();
    assert_eq!(backup.times().unwrap(), [time]);
    assert_eq!(verify(&backup, time).unwrap().manifests, 1);
    let done = fixture.restore(&backup, "restored", |_| {}).unwrap();
    assert_eq!((done.n_ops, done.content_bytes), (1, 20_000));
    let topics = tables(&fixture.path("restored")).into_iter().find(|(name, _)| name == "topics").unwrap().1;
    assert_eq!(topics.len(), 1);
}

/// Turns bits over in the middle of a file.
fn damage(path: &Path) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let at = file.metadata().unwrap().len() / 2;
    let mut bytes = [0; 64];
    file.read_exact_at(&mut bytes, at).unwrap();
    file.write_all_at(&bytes.map(|byte| !byte), at).unwrap();
}

#[test]
fn index_of_a_backup_that_is_damaged_is_set_aside_and_made_anew() {
    let fixture = Fixture::new();
    let manifest = fixture.add_content(1, 300_000);
    let mut backup = fixture.create("backup");
    fixture.back_up(&mut backup);
    drop(backup);
    let index = fixture.path("backup/segments/index.redb");
    let place = Place::of(&fixture.path("backup"));
    for (name, spoilt) in [("garbage", vec![7; 40_000]), ("cut", vec![]), ("empty", vec![])] {
        match name {
            "cut" => fs::File::options().write(true).open(&index).unwrap().set_len(5_000).unwrap(),
            _ => fs::write(&index, spoilt).unwrap(),
        }
        let mut told = Vec::new();
        let done = super::with_sound_index(&place, &mut |text| told.push(text.to_owned()), || {
            fixture.restore(&fixture.open("backup")?, name, |_| {})
        });
        done.unwrap();
        assert!(told.len() == 1 && told[0].contains("index.redb.damaged"), "{name}: {told:?}");
        assert!(fixture.path("backup/segments/index.redb.damaged").is_file(), "{name}");
        assert_eq!(content(&fixture.path(name), manifest), noise(1, 300_000), "{name}");
    }
    // What is not about the index is not tried again.
    fs::remove_dir_all(fixture.path("backup/snapshots")).unwrap();
    let mut n = 0;
    let failed = super::with_sound_index(&place, &mut |text| panic!("{text}"), || {
        n += 1;
        fixture.restore(&fixture.open("backup")?, "none", |_| {})
    });
    assert!(matches!(failed, Err(BackupError::NoSnapshot(None))) && n == 1, "{failed:?}");
}

#[test]
fn of_a_damaged_backup_a_node_is_made_in_part_when_asked_and_what_it_lacks_is_named() {
    let fixture = Fixture::new();
    let (first, second) = (fixture.add_content(1, 400_000), fixture.add_content(2, 30_000));
    let mut backup = fixture.create("backup");
    fixture.back_up(&mut backup);
    drop(backup);
    // The first content fills most of the segment, its middle included.
    damage(&fixture.path("backup/segments/0000000000.seg"));
    let backup = fixture.open("backup").unwrap();
    let refused = message(fixture.restore(&backup, "restored", |_| {}));
    assert!(refused.contains("not whole"), "{refused}");
    assert!(!fixture.path("restored").exists());
    let done = fixture.restore(&backup, "restored", |wanted| wanted.partial = true).unwrap();
    let broken = [first, second].map(|manifest| done.missing.contains(&format!("manifest {manifest}")));
    assert!(done.missing.len() == 1 && broken[0] != broken[1], "{:?}", done.missing);
    let (good, bad, seed, len) = if broken[0] { (second, first, 2, 30_000) } else { (first, second, 1, 400_000) };
    let restored = fixture.path("restored");
    assert_eq!(content(&restored, good), noise(seed, len));
    // Of the other one it has what could be read, and knows that this is not all.
    assert!(n_chunks(&restored) > n_chunks(&fixture.data()) - 4);
    with(&restored, |store, spawner| {
        let read = store.read(move |read| bib_core::catalog::content::is_here(read, &bad));
        assert!(!spawner.block_on(read).unwrap());
    });
}

#[test]
fn node_is_made_neither_in_its_backup_nor_around_it_nor_on_a_mount_point() {
    let fixture = Fixture::new();
    fixture.add_topic("weather", timestamp());
    fs::create_dir(fixture.path("outer")).unwrap();
    let mut backup = fixture.create("outer/backup");
    fixture.back_up(&mut backup);
    std::os::unix::fs::symlink(fixture.path("outer"), fixture.path("link")).unwrap();
    for name in ["outer/backup/node", "outer/backup", "outer", "link/backup/a/b", "/proc"] {
        let refused = fixture.restore(&backup, name, |wanted| wanted.force = true);
        assert!(matches!(refused, Err(BackupError::BadTarget { .. })), "{name}: {refused:?}");
        message(refused);
    }
    assert!(!fixture.path("outer/backup/node").exists() && !fixture.path("outer/backup/a").exists());
    fixture.restore(&backup, "outer/node", |_| {}).unwrap();
}

#[test]
fn backup_knows_whose_it_is() {
    let (fixture, other) = (Fixture::new(), Fixture::new());
    let backup = fixture.create("backup");
    assert!(backup.is_of(fixture.node) && !backup.is_of(other.node));
}

#[test]
fn folder_of_somebody_else_is_not_taken_for_the_index_of_an_archive() {
    let fixture = Fixture::new();
    fixture.add_topic("weather", timestamp());
    fs::create_dir(fixture.path("b.tar.index")).unwrap();
    fs::write(fixture.path("b.tar.index/index.redb"), "x").unwrap();
    let place = Place::of(&fixture.path("b.tar"));
    let create = || Repository::create(&place, fixture.node, Some(PASSPHRASE), &[], timestamp());
    let refused = create();
    assert!(matches!(refused, Err(BackupError::InTheWay(_))), "{refused:?}");
    message(refused);
    assert_eq!(fs::read(fixture.path("b.tar.index/index.redb")).unwrap(), b"x");
    // One that a killed backup left is.
    fs::write(fixture.path("b.tar.index/scratch"), "").unwrap();
    let mut backup = create().unwrap();
    fixture.back_up(&mut backup);
    drop(backup);
    assert!(!fixture.path("b.tar.index").exists());
    fixture.restore(&fixture.open("b.tar").unwrap(), "restored", |_| {}).unwrap();
}

#[test]
fn node_that_is_made_as_it_was_at_a_moment_keeps_what_users_keep_and_knows_what_was_published_at_it() {
    let fixture = Fixture::new();
    let start = timestamp().saturating_sub(Duration::from_secs(10_000));
    fixture.add_topic("first", start);
    let (kept, own) = (fixture.add_content(1, 50_000), fixture.add_content(2, 50_000));
    with(&fixture.data(), |store, spawner| {
        let version = bib_core::id::VersionId::from_bytes([1; 32]);
        let kept_as = Kept { version, reference: "t/d@1.0.0".to_owned(), size: 50_000, since: timestamp() };
        spawner.block_on(store.apply(Command::Keep { manifest: kept, kept: Some(kept_as) })).unwrap();
        for body in published(own, start) {
            let outcome = store.apply(Command::Apply { ops: vec![body], origin: Origin::Peer(fixture.node) });
            spawner.block_on(outcome).unwrap();
        }
    });
    let mut backup = fixture.create("backup");
    fixture.back_up(&mut backup);
    fixture.restore(&backup, "restored", |wanted| wanted.to = Some(timestamp())).unwrap();
    let restored = fixture.path("restored");
    assert_eq!(content(&restored, kept), noise(1, 50_000));
    with(&restored, |store, spawner| {
        let read = store.read(move |read| {
            let pin = |manifest| bib_core::catalog::record::pin(read, manifest);
            let key = bib_core::catalog::keys::kept(&kept);
            Ok::<_, StoreError>((pin(&kept)?, pin(&own)?, read.get(Table::Meta, &key)?))
        });
        let (kept, own, named) = spawner.block_on(read).unwrap();
        assert!(kept.is_kept && kept.is_here && named.is_some(), "{kept:?}");
        assert!(own.is_own && own.is_here && own.n_versions == 1, "{own:?}");
    });
}
