use std::fs;
use std::path::Path;
use std::sync::Arc;

use bib_core::chunk::{Chunk, RawChunk};
use bib_core::hash::hash;
use bib_core::place::FilePlace;
use bib_core::port::{ChunkStore, StoreError};
use zeroize::Zeroizing;

use super::format::{HeaderBytes, RECORD_HEADER_LEN, RecordHeader, SEGMENT_HEADER_LEN, SegmentHeader};
use super::{Bounds, SegmentStore};
use crate::crypto::{Cipher, Keyring};
use crate::disk::Folder;

const FIRST: &str = "0000000000.seg";
const SECOND: &str = "0000000001.seg";

fn keys(data: &[u8], index: u8) -> Keyring {
    let keys = data.iter().zip(1..).map(|(byte, id)| (id, Zeroizing::new([*byte; 32]))).collect();
    Keyring::new(keys, &[index; 32], &[101; 32]).unwrap()
}

fn keyring() -> Option<Arc<Keyring>> {
    Some(Arc::new(keys(&[1, 2], 100)))
}

fn open_small(path: &Path, keyring: Option<Arc<Keyring>>, segment_len: u64) -> Result<SegmentStore, StoreError> {
    let bounds = Bounds { segment_len, ..Bounds::default() };
    SegmentStore::open_with(Box::new(Folder::new(path.to_owned()).unwrap()), 1 << 20, [7; 16], bounds, keyring)
}

fn open(path: &Path, keyring: Option<Arc<Keyring>>) -> Result<SegmentStore, StoreError> {
    open_small(path, keyring, 64 << 20)
}

/// Noise, and text that can be looked for.
fn chunks(n: u64) -> Vec<Chunk> {
    let noise = |i: u64| (0..i * 20 + 3).flat_map(|part| hash(&(i << 32 | part).to_le_bytes())).collect();
    let text = |i: u64| format!("confidential {i}, {:?}", hash(&i.to_le_bytes())).into_bytes();
    (0..n).map(|i| Chunk::from_raw(if i % 2 == 0 { noise(i) } else { text(i) })).collect()
}

fn put_all(store: &SegmentStore, chunks: &[Chunk]) {
    for chunk in chunks {
        assert!(store.put(chunk).unwrap());
    }
}

fn assert_held(store: &SegmentStore, chunks: &[Chunk]) {
    for chunk in chunks {
        assert_eq!(store.get(&chunk.id()).unwrap().as_ref(), Some(chunk));
    }
}

fn filled(keyring: Option<Arc<Keyring>>, n: u64) -> (tempfile::TempDir, Vec<Chunk>) {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), keyring).unwrap();
    put_all(&store, &chunks(n));
    store.flush().unwrap();
    drop(store);
    (folder, chunks(n))
}

fn files(path: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

/// What of these stands in any file.
fn found(path: &Path, wanted: &[Vec<u8>]) -> Vec<usize> {
    let files = files(path);
    let stands = |wanted: &[u8]| {
        let at = |bytes: &Vec<u8>| bytes.windows(wanted.len()).any(|window| window == wanted);
        files.iter().any(|(_, bytes)| at(bytes))
    };
    (0..wanted.len()).filter(|i| stands(&wanted[*i])).collect()
}

/// Ids and parts of bytes of chunks.
fn secrets(chunks: &[Chunk]) -> Vec<Vec<u8>> {
    let bytes = |chunk: &Chunk| chunk.encoded()[..chunk.encoded().len().min(24)].to_vec();
    chunks.iter().flat_map(|chunk| [chunk.id().as_bytes().to_vec(), bytes(chunk)]).collect()
}

fn sealed<T>(result: Result<T, StoreError>) -> String {
    match result {
        Err(StoreError::Sealed(why)) => why,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it opened"),
    }
}

#[test]
fn chunks_and_ids_are_in_no_file_and_come_back() {
    let (plain, chunks) = filled(None, 12);
    assert_eq!(found(plain.path(), &secrets(&chunks)).len(), 24, "a plain store shows what is looked for");
    let (folder, chunks) = filled(keyring(), 12);
    assert_eq!(found(folder.path(), &secrets(&chunks)), []);
    for cipher in Cipher::ALL {
        let store = open(folder.path(), Some(Arc::new(keys(&[1, 2], 100).with_cipher(cipher)))).unwrap();
        assert_held(&store, &chunks);
        assert!(!store.put(&chunks[3]).unwrap(), "a chunk is stored once");
        let more = Chunk::from_raw(vec![cipher as u8; 5_000]);
        assert!(store.put(&more).unwrap());
        store.flush().unwrap();
        assert_held(&store, &[more]);
    }
    assert_eq!(open(folder.path(), keyring()).unwrap().stats().unwrap().n_chunks, 14);
}

#[test]
fn path_of_a_file_that_is_referred_to_is_in_no_file() {
    let outside = tempfile::tempdir().unwrap();
    let path = outside.path().join("confidential-name.csv");
    let content: Vec<u8> = (0..1_000_u64).flat_map(|i| hash(&i.to_le_bytes())).collect();
    fs::write(&path, &content).unwrap();
    let place = FilePlace::new(path.as_os_str().as_encoded_bytes().to_vec(), 0).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), keyring()).unwrap();
    let id = RawChunk::new(content.clone()).id();
    assert!(store.put_reference(RawChunk::new(content.clone()), &place).unwrap());
    drop(store);
    let store = open(folder.path(), keyring()).unwrap();
    assert_eq!(store.place(&id).unwrap(), Some(place));
    assert_eq!(store.get(&id).unwrap().unwrap().into_raw(), content);
    store.flush().unwrap();
    assert_eq!(found(folder.path(), &[b"confidential-name".to_vec(), id.as_bytes().to_vec()]), []);
}

#[test]
fn killed_process_and_absent_index_lose_no_chunk() {
    let (folder, mut expected) = filled(keyring(), 10);
    let store = open(folder.path(), keyring()).unwrap();
    let more: Vec<Chunk> = (100..110).map(|i: u64| Chunk::from_raw(i.to_le_bytes().repeat(100))).collect();
    put_all(&store, &more);
    drop(store);
    expected.extend(more);
    for round in 0..3 {
        let store = open(folder.path(), keyring()).unwrap();
        assert_held(&store, &expected);
        assert_eq!(store.stats().unwrap().n_chunks, 20);
        drop(store);
        if round == 1 {
            fs::remove_file(folder.path().join("index.redb")).unwrap();
        }
    }
}

#[test]
fn absent_and_wrong_keys_are_refused_and_nothing_is_changed_or_marked_as_damaged() {
    for without_index in [false, true] {
        let (folder, chunks) = filled(keyring(), 12);
        if without_index {
            fs::remove_file(folder.path().join("index.redb")).unwrap();
        }
        let segments =
            || files(folder.path()).into_iter().filter(|(name, _)| name.ends_with(".seg")).collect::<Vec<_>>();
        let before = segments();
        let why = sealed(open(folder.path(), None));
        assert!(why.contains("crypto.enabled"), "{why}");
        for wrong in [keys(&[1], 100), keys(&[1, 3], 100), keys(&[1, 2], 99)] {
            sealed(open(folder.path(), Some(Arc::new(wrong))));
        }
        assert!(before == segments());
        assert_eq!(folder.path().join("index.redb").exists(), !without_index, "no index is made with wrong keys");
        assert_held(&open(folder.path(), keyring()).unwrap(), &chunks);
    }
}

#[test]
fn record_that_was_changed_moved_or_given_another_header_does_not_open() {
    let chunks = [Chunk::from_raw(vec![1; 9_000]), Chunk::from_raw(vec![2; 9_000])];
    let whole = {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path(), keyring()).unwrap();
        put_all(&store, &chunks);
        store.flush().unwrap();
        drop(store);
        files(folder.path())
    };
    let segment = whole.iter().find(|(name, _)| name == FIRST).unwrap().1.clone();
    let record = |n: usize| {
        let mut at = SEGMENT_HEADER_LEN;
        for _ in 0..n {
            at += RecordHeader::decode(&segment[at..]).unwrap().record_len() as usize;
        }
        at..at + RecordHeader::decode(&segment[at..]).unwrap().record_len() as usize
    };
    let (first, second) = (record(0), record(1));
    assert_eq!(first.len(), second.len(), "what is swapped fits");
    let mut changed: Vec<Vec<u8>> = Vec::new();
    // Every byte of the sealed part, and of the seal in the header.
    for at in (first.start + RECORD_HEADER_LEN..first.end).step_by(3).chain(32..60) {
        let mut bytes = segment.clone();
        bytes[at] ^= 1;
        changed.push(bytes);
    }
    let mut swapped = segment.clone();
    swapped[first.clone()].copy_from_slice(&segment[second.clone()]);
    swapped[second.clone()].copy_from_slice(&segment[first.clone()]);
    changed.push(swapped);
    // Another header with a good checksum: raw length, codec, cipher.
    let header = RecordHeader::decode(&segment[first.clone()]).unwrap();
    for (i, bytes) in changed.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        whole.iter().for_each(|(name, bytes)| fs::write(folder.path().join(name), bytes).unwrap());
        fs::write(folder.path().join(FIRST), bytes).unwrap();
        let read = open(folder.path(), keyring()).and_then(|store| store.get(&chunks[0].id()));
        assert!(read.is_err(), "change {i}");
    }
    for forged in [
        RecordHeader { raw_len: header.raw_len + 1, ..header },
        RecordHeader { codec: super::format::RecordCodec::Reference, ..header },
        RecordHeader { cipher: Cipher::ALL.into_iter().find(|cipher| Some(*cipher) != header.cipher), ..header },
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = segment.clone();
        let head = forged.encode(&bytes[first.start + RECORD_HEADER_LEN..first.end]);
        bytes[first.start..first.start + RECORD_HEADER_LEN].copy_from_slice(&head);
        fs::write(folder.path().join(FIRST), bytes).unwrap();
        // The index is made of the headers, so that it believes the forged one.
        let store = open(folder.path(), keyring()).unwrap();
        assert!(matches!(store.get(&chunks[0].id()), Err(StoreError::Corrupt(_))));
        assert!(!store.has(&chunks[0].id()).unwrap(), "it can be fetched again");
        assert!(store.put(&chunks[0]).unwrap());
        assert_held(&store, &chunks);
    }
}

#[test]
fn segment_under_the_name_of_another_one_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_small(folder.path(), keyring(), 3_000).unwrap();
    let noise = |i: u8| Chunk::from_raw((0..60).flat_map(|part| hash(&[i, part])).collect());
    let chunks: Vec<Chunk> = (0..3).map(noise).collect();
    put_all(&store, &chunks);
    store.flush().unwrap();
    drop(store);
    let second = fs::read(folder.path().join(SECOND)).unwrap();
    let mut renumbered = second.clone();
    renumbered[8..16].copy_from_slice(&0_u64.to_le_bytes());
    let crc = crc32c::crc32c(&renumbered[..60]);
    renumbered[60..64].copy_from_slice(&crc.to_le_bytes());
    for bytes in [second, renumbered] {
        fs::write(folder.path().join(FIRST), bytes).unwrap();
        let store = open_small(folder.path(), keyring(), 3_000).unwrap();
        // What one start found out the next one knows.
        assert!(!matches!(store.get(&chunks[0].id()), Ok(Some(_))));
    }
}

#[test]
fn behind_a_torn_record_one_counts_only_if_it_opens() {
    let (folder, chunks) = filled(keyring(), 8);
    let path = folder.path().join(FIRST);
    let mut bytes = fs::read(&path).unwrap();
    let mut at = SEGMENT_HEADER_LEN;
    let first = RecordHeader::decode(&bytes[at..]).unwrap();
    bytes[at + RECORD_HEADER_LEN + 20] ^= 1;
    at += first.record_len() as usize;
    // The second has a good checksum and does not open.
    let second = RecordHeader::decode(&bytes[at..]).unwrap();
    let payload = at + RECORD_HEADER_LEN..at + second.record_len() as usize;
    bytes[payload.start + 20] ^= 1;
    let head = second.encode(&bytes[payload]);
    bytes[at..at + RECORD_HEADER_LEN].copy_from_slice(&head);
    fs::write(&path, bytes).unwrap();
    fs::remove_file(folder.path().join("index.redb")).unwrap();
    let store = open(folder.path(), keyring()).unwrap();
    assert!(!store.has(&chunks[0].id()).unwrap() && !store.has(&chunks[1].id()).unwrap());
    assert_held(&store, &chunks[2..]);
}

#[test]
fn a_new_data_key_begins_a_segment_and_nothing_is_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let ring = Arc::new(keys(&[1], 100));
    let store = open(folder.path(), Some(ring.clone())).unwrap();
    let chunks = chunks(9);
    put_all(&store, &chunks[..3]);
    ring.add_data_key(2, Zeroizing::new([2; 32])).unwrap();
    put_all(&store, &chunks[3..6]);
    store.flush().unwrap();
    assert_held(&store, &chunks[..6]);
    drop(store);
    let seal = |name: &str| match SegmentHeader::decode(&fs::read(folder.path().join(name)).unwrap()) {
        HeaderBytes::Header(header) => header.seal.unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!((seal(FIRST).key_id, seal(SECOND).key_id), (1, 2));
    assert_ne!(seal(FIRST).salt, seal(SECOND).salt);
    sealed(open(folder.path(), Some(Arc::new(keys(&[1], 100)))));
    // A key that came while the node was down.
    let store = open(folder.path(), Some(Arc::new(keys(&[1, 2, 3], 100)))).unwrap();
    put_all(&store, &chunks[6..]);
    assert_held(&store, &chunks);
    assert_eq!(store.stats().unwrap().n_segments, 3);
}

fn steps(store: &SegmentStore) -> u64 {
    let mut n = 0;
    while store.reseal_step().unwrap().is_some() {
        n += 1;
    }
    n
}

#[test]
fn plain_store_is_read_with_keys_and_sealed_step_by_step() {
    let folder = tempfile::tempdir().unwrap();
    let outside = folder.path().join("outside.csv");
    let content = b"kept in its place,".repeat(500);
    fs::write(&outside, &content).unwrap();
    let path = folder.path().join("segments");
    let chunks = chunks(24);
    let store = open_small(&path, None, 4_000).unwrap();
    put_all(&store, &chunks[..20]);
    let place = FilePlace::new(outside.as_os_str().as_encoded_bytes().to_vec(), 0).unwrap();
    let referenced = RawChunk::new(content.clone()).id();
    store.put_reference(RawChunk::new(content.clone()), &place).unwrap();
    store.flush().unwrap();
    // As a kill leaves it: in no index.
    put_all(&store, &chunks[20..22]);
    let before = store.stats().unwrap();
    drop(store);
    let store = open_small(&path, keyring(), 4_000).unwrap();
    assert_held(&store, &chunks[..22]);
    assert!(!store.put(&chunks[5]).unwrap(), "what is held is known by its keyed hash");
    put_all(&store, &chunks[22..]);
    assert!(store.has_plain_segments());
    assert_eq!(steps(&store), before.n_segments + 1);
    assert!(!store.has_plain_segments() && store.reseal_step().unwrap().is_none());
    assert_held(&store, &chunks);
    assert_eq!(store.get(&referenced).unwrap().unwrap().into_raw(), content);
    let after = store.stats().unwrap();
    assert_eq!(after.n_chunks, before.n_chunks + 2);
    assert_eq!(after.referenced_bytes, before.referenced_bytes);
    drop(store);
    let mut wanted = secrets(&chunks);
    wanted.extend([referenced.as_bytes().to_vec(), b"outside.csv".to_vec()]);
    assert_eq!(found(&path, &wanted), []);
    let store = open_small(&path, keyring(), 4_000).unwrap();
    assert_held(&store, &chunks);
    let on_disk: usize =
        files(&path).iter().filter(|(name, _)| name.ends_with(".seg")).map(|(_, bytes)| bytes.len()).sum();
    let stats = store.stats().unwrap();
    drop(store);
    assert_eq!(on_disk as u64, stats.stored_bytes + stats.n_segments * SEGMENT_HEADER_LEN as u64);
    sealed(open_small(&path, None, 4_000));
}

#[test]
fn store_that_is_half_sealed_has_its_index_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let chunks = chunks(24);
    let store = open_small(folder.path(), None, 4_000).unwrap();
    put_all(&store, &chunks[..20]);
    drop(store);
    let store = open_small(folder.path(), keyring(), 4_000).unwrap();
    put_all(&store, &chunks[20..]);
    store.reseal_step().unwrap().unwrap();
    store.reseal_step().unwrap().unwrap();
    store.flush().unwrap();
    drop(store);
    fs::remove_file(folder.path().join("index.redb")).unwrap();
    sealed(open_small(folder.path(), None, 4_000));
    let store = open_small(folder.path(), keyring(), 4_000).unwrap();
    assert_held(&store, &chunks);
    assert!(steps(&store) > 1);
    assert_held(&store, &chunks);
    drop(store);
    assert_eq!(found(folder.path(), &secrets(&chunks)), []);
}

#[test]
fn chunk_that_cannot_be_sealed_again_because_it_is_damaged_is_not_held() {
    let (folder, chunks) = filled(None, 12);
    let path = folder.path().join(FIRST);
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    let store = open(folder.path(), keyring()).unwrap();
    assert_eq!(steps(&store), 2);
    assert!(!store.has(&chunks[11].id()).unwrap());
    assert_held(&store, &chunks[..11]);
    assert_eq!(store.stats().unwrap().n_chunks, 11);
    assert!(store.put(&chunks[11]).unwrap());
    assert_held(&store, &chunks);
    assert_eq!(store.stats().unwrap().n_chunks, 12);
}

#[test]
fn chunk_with_a_damaged_record_header_is_sealed_again_when_its_bytes_are_whole() {
    let (folder, chunks) = filled(None, 12);
    let path = folder.path().join(FIRST);
    let mut bytes = fs::read(&path).unwrap();
    let second = SEGMENT_HEADER_LEN + RecordHeader::decode(&bytes[SEGMENT_HEADER_LEN..]).unwrap().record_len() as usize;
    bytes[second] ^= 1;
    fs::write(&path, bytes).unwrap();
    let store = open(folder.path(), keyring()).unwrap();
    assert_eq!(steps(&store), 2);
    assert_held(&store, &chunks);
    assert_eq!(segments_of(folder.path()), [SECOND]);
}

fn segments_of(path: &Path) -> Vec<String> {
    files(path).into_iter().map(|(name, _)| name).filter(|name| name.ends_with(".seg")).collect()
}

#[test]
fn plain_segments_without_a_chunk_that_counts_are_removed_and_the_store_opens_again() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path(), None).unwrap());
    let (full, _) = filled(None, 1);
    fs::copy(full.path().join(FIRST), folder.path().join(FIRST)).unwrap();
    let store = open(folder.path(), keyring()).unwrap();
    put_all(&store, &chunks(2)[1..]);
    assert_eq!(steps(&store), 2);
    drop(store);
    let (empty, _) = filled(None, 3);
    let mut bytes = fs::read(empty.path().join(FIRST)).unwrap();
    bytes[SEGMENT_HEADER_LEN..].fill(0xff);
    fs::write(empty.path().join(FIRST), bytes).unwrap();
    for _ in 0..2 {
        let store = open(empty.path(), keyring()).unwrap();
        steps(&store);
        assert_eq!(store.stats().unwrap().n_chunks, 0);
    }
}

#[test]
fn chunks_are_read_while_they_are_moved() {
    let folder = tempfile::tempdir().unwrap();
    let chunks = chunks(60);
    let store = open_small(folder.path(), None, 20_000).unwrap();
    put_all(&store, &chunks);
    store.flush().unwrap();
    drop(store);
    let store = open_small(folder.path(), keyring(), 20_000).unwrap();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    while store.has_plain_segments() {
                        assert_held(&store, &chunks);
                    }
                })
            })
            .collect();
        assert!(steps(&store) > 3);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}
