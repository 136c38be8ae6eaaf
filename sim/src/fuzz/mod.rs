//! Fuzz targets: one for each decoder of bytes from outside, and the driver that feeds them.
//!
//! A target takes any bytes and must neither panic nor hang, and what it accepts must encode to the same value again.
//! The driver mutates a checked-in corpus with a seeded generator, so a failure replays from its seed; each target has
//! the plain signature `fn(&[u8])`, so that a coverage-guided fuzzer can drive it as well.

pub mod corpus;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bib_core::api::{ClientFrame, ServerFrame};
use bib_core::backup::{BackupHeader, Entries, Snapshot, SnapshotFile, entry};
use bib_core::chunk::{Chunk, Codec};
use bib_core::encode::{Versioned, decode, encode};
use bib_core::id::{ChunkId, NodeId, UserId};
use bib_core::key::SecretKey;
use bib_core::limits::MAX_SHARES;
use bib_core::model::Reference;
use bib_core::model::manifest::Page;
use bib_core::op::Operation;
use bib_core::place::FilePlace;
use bib_core::port::{ChunkStore, StoreError};
use bib_core::share::{self, ShareLine, combine};
use bib_core::wire::gossip::{self, GossipMessage};
use bib_core::wire::message::{
    Bounded, DataRequest, DataResponse, DiscoveryRequest, DiscoveryResponse, Envelope, SyncRequest, SyncResponse,
};

use bib_storage_redb::chunks::format::{HeaderBytes, Location, RECORD_HEADER_LEN, RecordHeader, SegmentHeader};
use bib_storage_redb::crypto::KeyBytes;
use bib_storage_redb::{Bounds, Disk, Keyring, SegmentStore};

use crate::disk::FaultyDisk;
use crate::rng::Rng;

/// A decoder under test.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Name of the target and of its corpus folder.
    pub name: &'static str,
    /// Feeds bytes to the decoder.
    pub run: fn(&[u8]),
}

/// The targets that need neither node nor network.
pub const TARGETS: [Target; 22] = [
    Target { name: "operation", run: operation },
    Target { name: "manifest_page", run: round_trip::<Page> },
    Target { name: "chunk", run: chunk },
    Target { name: "text", run: text },
    Target { name: "share", run: share },
    Target { name: "gossip", run: gossip_message },
    Target { name: "discovery_request", run: message::<DiscoveryRequest> },
    Target { name: "discovery_response", run: message::<DiscoveryResponse> },
    Target { name: "sync_request", run: message::<SyncRequest> },
    Target { name: "sync_response", run: message::<SyncResponse> },
    Target { name: "data_request", run: message::<DataRequest> },
    Target { name: "data_response", run: message::<DataResponse> },
    Target { name: "client_frame", run: round_trip::<ClientFrame> },
    Target { name: "server_frame", run: round_trip::<ServerFrame> },
    Target { name: "segment_format", run: segment_format },
    Target { name: "segment_file", run: segment_file },
    Target { name: "sealed_segment", run: sealed_segment },
    Target { name: "sealed_value", run: sealed_value },
    Target { name: "file_place", run: round_trip::<FilePlace> },
    Target { name: "backup_header", run: backup_header },
    Target { name: "snapshot_file", run: snapshot_file },
    Target { name: "catalog_entries", run: catalog_entries },
];

fn round_trip<T: Versioned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(value) = decode::<T>(bytes) {
        let again = decode::<T>(&encode(&value)).expect("what was encoded decodes");
        assert_eq!(again, value, "a value must survive its encoding");
    }
}

fn message<B>(bytes: &[u8])
where
    Envelope<B>: Versioned + PartialEq + std::fmt::Debug,
    B: Bounded,
{
    round_trip::<Envelope<B>>(bytes);
    if let Ok(envelope) = decode::<Envelope<B>>(bytes) {
        // Refusing is fine; it must only come back.
        let _ = envelope.body.check();
    }
}

/// A header asks for no more work and memory than it may, whatever it says.
fn backup_header(bytes: &[u8]) {
    round_trip::<BackupHeader>(bytes);
    let Some(header) = decode::<BackupHeader>(bytes).ok().filter(BackupHeader::is_plausible) else { return };
    let opened = header.open_by_passphrase(|kdf| {
        assert!(kdf.is_bounded(), "what is plausible is bounded");
        Ok::<_, ()>(zeroize::Zeroizing::new([0; 32]))
    });
    assert!(opened.is_ok());
    header.open_by_key(&SecretKey::from_seed([1; 32]));
}

fn snapshot_file(bytes: &[u8]) {
    round_trip::<SnapshotFile>(bytes);
    round_trip::<Snapshot>(bytes);
}

/// Entries are the same however their bytes are cut, and are written as they were read.
fn catalog_entries(bytes: &[u8]) {
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let (mut entries, mut all) = (Entries::new(), Vec::new());
        for piece in pieces {
            entries.push(piece);
            loop {
                match entries.next() {
                    Ok(Some((key, value))) => all.extend(entry(key, value).expect("what was read can be written")),
                    Ok(None) => break,
                    Err(error) => return (all, Err(error)),
                }
            }
        }
        (all, entries.finish())
    };
    let (whole, ended) = read(&mut std::iter::once(bytes));
    assert!(bytes.starts_with(&whole) && (ended.is_err() || whole.len() == bytes.len()));
    let (cut, _) = read(&mut bytes.chunks(3));
    assert_eq!(cut, whole);
}

fn operation(bytes: &[u8]) {
    let checked = Operation::decode(bytes);
    if let Ok(operation) = Operation::decode_trusted(bytes) {
        assert_eq!(operation.bytes(), bytes, "an operation has one encoding");
    } else {
        assert!(checked.is_err(), "a checked operation is also a well-formed one");
    }
}

fn gossip_message(bytes: &[u8]) {
    round_trip::<GossipMessage>(bytes);
    if let Ok(name) = std::str::from_utf8(bytes)
        && let Some(topic) = gossip::topic_of_name(name)
    {
        assert_eq!(gossip::topic_name(&topic), name);
    }
}

fn chunk(bytes: &[u8]) {
    let Some((head, payload)) = bytes.split_at_checked(5) else { return };
    let Some(codec) = Codec::from_u8(head[0]) else { return };
    let len = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
    // The id is never right by chance: what counts is that hostile payloads are refused within bounds.
    assert!(Chunk::verify(ChunkId::from_bytes([0; 32]), len, codec, payload.to_vec()).is_err());
}

fn segment_format(bytes: &[u8]) {
    if let HeaderBytes::Header(header) = SegmentHeader::decode(bytes) {
        assert_eq!(SegmentHeader::decode(&header.encode()), HeaderBytes::Header(header));
    }
    if let Some(header) = RecordHeader::decode(bytes) {
        let payload = &bytes[RECORD_HEADER_LEN..];
        assert_eq!(RecordHeader::decode(&header.encode(payload)), Some(header));
        assert!(RecordHeader::checksum_holds(&header.encode(payload), payload));
    }
    if let Some(location) = Location::decode(bytes) {
        assert_eq!(location.encode().as_slice(), bytes, "an index entry has one encoding");
    }
}

/// A store of which only this segment is left must open or refuse, and then work.
fn segment_file(bytes: &[u8]) {
    let disk = FaultyDisk::new();
    let file = disk.open("0000000000.seg", true).expect("a disk without faults");
    file.write_all_at(bytes, 0).expect("a disk without faults");
    let chunk = Chunk::from_raw(b"work goes on".to_vec());
    let Ok(store) = SegmentStore::open(Box::new(disk.clone()), 64 << 10, [1; 16]) else { return };
    store.put(&chunk).expect("an open store takes chunks");
    store.flush().expect("an open store takes chunks");
    let n_chunks = store.stats().expect("an open store has figures").n_chunks;
    drop(store);
    let store = SegmentStore::open(Box::new(disk), 64 << 10, [1; 16]).expect("what opened opens again");
    assert_eq!(store.stats().expect("an open store has figures").n_chunks, n_chunks);
    assert_eq!(store.get(&chunk.id()).expect("readable"), Some(chunk));
}

/// The keys under which the sealed inputs of the corpus are.
fn keyring() -> Arc<Keyring> {
    static MADE: OnceLock<Arc<Keyring>> = OnceLock::new();
    let make = || Keyring::new([(1, KeyBytes::new([1; 32]))].into(), &[2; 32], &[3; 32]);
    MADE.get_or_init(|| Arc::new(make().expect("there is a data key"))).clone()
}

fn sealed_store(disk: &FaultyDisk) -> Result<SegmentStore, StoreError> {
    SegmentStore::open_with(Box::new(disk.clone()), 64 << 10, [1; 16], Bounds::default(), Some(keyring()))
}

/// The same with keys: plain, sealed or anything, the store opens or refuses, and then works.
fn sealed_segment(bytes: &[u8]) {
    let disk = FaultyDisk::new();
    let file = disk.open("0000000000.seg", true).expect("a disk without faults");
    file.write_all_at(bytes, 0).expect("a disk without faults");
    let chunk = Chunk::from_raw(b"work goes on".to_vec());
    let Ok(store) = sealed_store(&disk) else { return };
    store.put(&chunk).expect("an open store takes chunks");
    store.flush().expect("an open store takes chunks");
    while store.reseal_step().expect("a plain segment is sealed, whatever is in it").is_some() {}
    drop(store);
    let store = sealed_store(&disk).expect("what opened opens again");
    assert_eq!(store.get(&chunk.id()).expect("readable"), Some(chunk));
    drop(store);
    let plain = SegmentStore::open(Box::new(disk), 64 << 10, [1; 16]);
    assert!(matches!(plain, Err(StoreError::Sealed(_))), "a sealed store is refused without keys");
}

/// Where the value of the corpus is sealed, and the value.
const SEALED_AT: (u8, &[u8]) = (7, b"key");
const SEALED_VALUE: &[u8] = b"a value of the catalog";

fn sealed_value(bytes: &[u8]) {
    let (table, key) = SEALED_AT;
    if let Some(value) = keyring().open_value(table, key, bytes) {
        assert_eq!(value, SEALED_VALUE, "nothing opens but what was sealed");
        assert!(keyring().open_value(table + 1, key, bytes).is_none(), "and only where it was");
    }
}

fn text(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(reference) = text.parse::<Reference>() {
        let shown = reference.to_string();
        assert_eq!(shown.parse::<Reference>().as_ref(), Ok(&reference), "{shown:?}");
    }
    if let Ok(user) = text.parse::<UserId>() {
        assert_eq!(user.to_string(), text);
    }
    if let Ok(node) = text.parse::<NodeId>() {
        assert_eq!(node.to_string(), text);
    }
}

/// Lines are shares of one set, or are refused; either way nothing but a whole set makes a key.
fn share(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut shares = Vec::new();
    // More lines than there can be shares are looked at nowhere.
    for (_, line) in share::lines(text).take(usize::from(MAX_SHARES) + 1) {
        match line {
            Ok(ShareLine::Plain(share)) => {
                let text = share.to_text();
                assert_eq!(ShareLine::parse(&text), Ok(ShareLine::Plain(share.clone())), "a share has one meaning");
                shares.push(share);
            }
            Ok(ShareLine::Sealed(sealed)) => {
                let text = sealed.to_text();
                assert_eq!(ShareLine::parse(&text), Ok(ShareLine::Sealed(sealed)), "a share has one meaning");
            }
            // Refusing is fine; it must only come back.
            Err(_) => {}
        }
    }
    if combine(&shares).is_ok() {
        assert!(shares.len() >= usize::from(shares[0].name().scheme.threshold()), "too few made a key");
    }
}

/// Longest input that the driver makes, in bytes.
const MAX_INPUT: usize = 64 << 10;

/// Feeds a target for a while; returns how many inputs it took. The input under test lies in `scratch`, so that after
/// a crash it is there to replay.
///
/// # Errors
/// When the corpus cannot be read or the scratch file not written.
///
/// # Panics
/// When the target does.
pub fn run(target: Target, corpus: &Path, scratch: &Path, seed: u64, duration: Duration) -> std::io::Result<u64> {
    let seeds = corpus_of(target, corpus)?;
    seeds.iter().for_each(|input| (target.run)(input));
    let (mut rng, start, mut n_inputs) = (Rng::new(seed), Instant::now(), seeds.len() as u64);
    while start.elapsed() < duration {
        for _ in 0..256 {
            let input = mutate(&seeds, &mut rng);
            let result = std::panic::catch_unwind(|| (target.run)(&input));
            if let Err(panic) = result {
                fs::create_dir_all(scratch)?;
                let path = scratch.join(format!("{}-{seed}", target.name));
                fs::write(&path, &input)?;
                eprintln_failure(target.name, &path);
                std::panic::resume_unwind(panic);
            }
            n_inputs += 1;
        }
    }
    Ok(n_inputs)
}

#[allow(clippy::print_stderr, reason = "the driver is a developer's program: its failure report is its output")]
fn eprintln_failure(name: &str, path: &Path) {
    eprintln!("fuzz target `{name}` failed on {}", path.display());
}

fn corpus_of(target: Target, corpus: &Path) -> std::io::Result<Vec<Vec<u8>>> {
    let folder = corpus.join(target.name);
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
        .map_err(|error| std::io::Error::new(error.kind(), format!("corpus {}: {error}", folder.display())))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    paths.sort();
    let inputs: Vec<Vec<u8>> = paths.iter().map(fs::read).collect::<Result<_, _>>()?;
    if inputs.is_empty() {
        return Err(std::io::Error::other(format!("corpus {} is empty", folder.display())));
    }
    Ok(inputs)
}

/// Bytes that sit on the edges of length fields and number encodings.
const INTERESTING: [u8; 9] = [0, 1, 2, 0x7f, 0x80, 0x81, 0xfd, 0xfe, 0xff];

fn mutate(seeds: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut input = seeds[rng.below(seeds.len() as u64) as usize].clone();
    for _ in 0..=rng.below(4) {
        let at = rng.below(input.len() as u64 + 1) as usize;
        match rng.below(7) {
            0 if at < input.len() => input[at] ^= 1 << rng.below(8),
            1 if at < input.len() => input[at] = INTERESTING[rng.below(INTERESTING.len() as u64) as usize],
            2 => input.truncate(at),
            3 => input.insert(at, rng.next_u64() as u8),
            4 if at < input.len() => drop(input.remove(at)),
            5 => {
                let other = &seeds[rng.below(seeds.len() as u64) as usize];
                let from = rng.below(other.len() as u64 + 1) as usize;
                input.splice(at.., other[from..].iter().copied());
            }
            _ => {
                let n_bytes = rng.below(16);
                input.extend((0..n_bytes).map(|_| rng.next_u64() as u8));
            }
        }
        input.truncate(MAX_INPUT);
    }
    input
}
