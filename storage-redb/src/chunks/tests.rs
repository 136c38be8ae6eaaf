use std::fs;
use std::path::Path;

use bib_core::chunk::Chunk;
use bib_core::hash::hash;
use bib_core::port::{ChunkStore, ChunkStoreStats, StoreError};

use super::format::{Key, RECORD_HEADER_LEN, RecordCodec, RecordHeader, SEGMENT_HEADER_LEN};
use super::{Bounds, SegmentStore};
use crate::disk::Folder;

const FIRST: &str = "0000000000.seg";
const SECOND: &str = "0000000001.seg";

fn open(path: &Path) -> Result<SegmentStore, StoreError> {
    SegmentStore::open(Box::new(Folder::new(path.to_owned()).unwrap()), 1 << 20, [7; 16])
}

fn chunk(seed: u64, len: usize) -> Chunk {
    let noise: Vec<u8> = (0..len as u64 / 32 + 1).flat_map(|i| hash(&(seed << 32 | i).to_le_bytes())).collect();
    Chunk::from_raw(noise[..len].to_vec())
}

fn chunks(n: u64) -> Vec<Chunk> {
    (0..n).map(|i| chunk(i, 1 + i as usize * 5_000)).collect()
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

fn segments(path: &Path) -> Vec<String> {
    let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".seg")).collect();
    names.sort();
    names
}

/// A store of `n` flushed chunks, closed.
fn filled(n: u64) -> (tempfile::TempDir, Vec<Chunk>) {
    let folder = tempfile::tempdir().unwrap();
    let chunks = chunks(n);
    let store = open(folder.path()).unwrap();
    put_all(&store, &chunks);
    store.flush().unwrap();
    (folder, chunks)
}

fn corrupt(result: Result<SegmentStore, StoreError>) -> String {
    match result {
        Err(StoreError::Corrupt(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_chunk_is_stored_once_and_readable_before_it_is_durable() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    let chunks = chunks(10);
    put_all(&store, &chunks);
    assert_held(&store, &chunks);
    assert!(!store.put(&chunks[3]).unwrap());
    store.flush().unwrap();
    assert!(!store.put(&chunks[3]).unwrap());
    let stats = store.stats().unwrap();
    assert_eq!((stats.n_chunks, stats.n_segments), (10, 1));
    let file_len = fs::metadata(folder.path().join(FIRST)).unwrap().len();
    assert_eq!(stats.stored_bytes + SEGMENT_HEADER_LEN as u64, file_len);
}

#[test]
fn killed_process_loses_no_chunk_that_was_put() {
    let (folder, mut expected) = filled(10);
    let store = open(folder.path()).unwrap();
    let unflushed: Vec<Chunk> = (100..120).map(|i| chunk(i, 40_000)).collect();
    put_all(&store, &unflushed);
    // Closing flushes nothing.
    drop(store);
    expected.extend(unflushed);
    for _ in 0..2 {
        let store = open(folder.path()).unwrap();
        assert_held(&store, &expected);
        assert_eq!(store.stats().unwrap().n_chunks, 30);
    }
}

#[test]
fn segment_left_in_order_is_continued_and_opening_adds_no_file() {
    let (folder, mut expected) = filled(3);
    for i in 0..5 {
        let store = open(folder.path()).unwrap();
        assert_held(&store, &expected);
        expected.push(chunk(50 + i, 1_000));
        put_all(&store, &expected[3 + i as usize..]);
        store.flush().unwrap();
        drop(store);
        drop(open(folder.path()).unwrap());
        assert_eq!(segments(folder.path()), [FIRST]);
    }
}

#[test]
fn torn_record_is_cut_off_and_its_segment_not_continued() {
    let (folder, expected) = filled(3);
    let path = folder.path().join(FIRST);
    let whole = fs::read(&path).unwrap();
    let torn = RecordHeader {
        key: Key::plain(&chunk(9, 100).id()),
        raw_len: 100,
        stored_len: 100,
        codec: RecordCodec::Chunk(chunk(9, 100).codec()),
        cipher: None,
    };
    fs::write(&path, [whole.as_slice(), &torn.encode(&[1; 100]), &[1; 60]].concat()).unwrap();
    let store = open(folder.path()).unwrap();
    assert_held(&store, &expected);
    assert!(!store.has(&torn.key.plain_id()).unwrap());
    assert_eq!(fs::read(&path).unwrap(), whole);
    put_all(&store, &[chunk(9, 100)]);
    store.flush().unwrap();
    assert_eq!(segments(folder.path()), [FIRST, SECOND]);
}

#[test]
fn behind_a_torn_record_a_whole_one_counts_only_if_its_bytes_have_its_hash() {
    let (folder, _) = filled(3);
    let path = folder.path().join(FIRST);
    let (torn, honest, forged) = (chunk(20, 5_000), chunk(21, 3_000), chunk(22, 3_000));
    let header = |chunk: &Chunk| RecordHeader {
        key: Key::plain(&chunk.id()),
        raw_len: chunk.len(),
        stored_len: chunk.encoded().len() as u32,
        codec: RecordCodec::Chunk(chunk.codec()),
        cipher: None,
    };
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend(header(&torn).encode(torn.encoded()));
    bytes.extend(&torn.encoded()[..100]);
    // A record with a good checksum and another chunk's name, as the bytes of the torn chunk might contain.
    bytes.extend(header(&forged).encode(honest.encoded()));
    bytes.extend(honest.encoded());
    bytes.extend(header(&honest).encode(honest.encoded()));
    bytes.extend(honest.encoded());
    fs::write(&path, bytes).unwrap();
    let store = open(folder.path()).unwrap();
    assert_eq!(store.get(&honest.id()).unwrap(), Some(honest));
    assert!(!store.has(&torn.id()).unwrap() && !store.has(&forged.id()).unwrap());
}

#[test]
fn absent_index_is_made_again_from_the_segments_even_if_one_is_damaged() {
    let (folder, mut expected) = filled(12);
    let path = folder.path().join(FIRST);
    let mut bytes = fs::read(&path).unwrap();
    // In the chunk of 20,001 bytes, behind those of 1, 5,001, 10,001 and 15,001.
    bytes[SEGMENT_HEADER_LEN + 5 * RECORD_HEADER_LEN + 30_004 + 9_000] ^= 1;
    // The header of the segment as well.
    bytes[20] ^= 1;
    fs::write(&path, bytes).unwrap();
    fs::remove_file(folder.path().join("index.redb")).unwrap();
    let lost = expected.remove(4);
    for _ in 0..2 {
        let store = open(folder.path()).unwrap();
        assert_held(&store, &expected);
        assert!(!store.has(&lost.id()).unwrap());
        assert_eq!(store.stats().unwrap().n_chunks, 11);
    }
    let store = open(folder.path()).unwrap();
    put_all(&store, &[lost]);
    store.flush().unwrap();
}

#[test]
fn flipped_byte_is_found_and_named() {
    let (folder, chunks) = filled(12);
    let path = folder.path().join(FIRST);
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    let store = open(folder.path()).unwrap();
    let refused = store.get(&chunks[11].id());
    assert!(matches!(&refused, Err(StoreError::Corrupt(place)) if place.contains(FIRST)), "{refused:?}");
    assert_held(&store, &chunks[..11]);
}

#[test]
fn absent_short_or_foreign_segment_is_named_with_what_to_do() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 3] = [
        ("is absent", |path| fs::remove_file(path).unwrap()),
        ("has 5000 bytes", |path| fs::OpenOptions::new().write(true).open(path).unwrap().set_len(5_000).unwrap()),
        ("another store", |path| {
            let other = tempfile::tempdir().unwrap();
            let disk = Box::new(Folder::new(other.path().to_owned()).unwrap());
            let store = SegmentStore::open(disk, 1 << 20, [8; 16]).unwrap();
            put_all(&store, &chunks(8));
            fs::copy(other.path().join(FIRST), path).unwrap();
        }),
    ];
    for (what, damage) in damages {
        let (folder, _) = filled(5);
        damage(&folder.path().join(FIRST));
        let why = corrupt(open(folder.path()));
        assert!(why.contains(what) && why.contains(FIRST) && why.contains("bib admin rebuild"), "{why}");
    }
}

#[test]
fn garbage_index_is_named_and_left_as_it_was_and_moving_it_away_helps() {
    let garbage: [Vec<u8>; 4] =
        [Vec::new(), vec![0x5a], b"SQLite format 3\0".repeat(4_000), hash(b"noise").repeat(2_000)];
    for bytes in garbage {
        let (folder, chunks) = filled(4);
        let path = folder.path().join("index.redb");
        fs::write(&path, &bytes).unwrap();
        let why = corrupt(open(folder.path()));
        assert!(why.contains("index.redb") && why.contains("bib admin rebuild"), "{why}");
        assert_eq!(fs::read(&path).unwrap(), bytes);
        fs::rename(&path, folder.path().join("index.redb.damaged")).unwrap();
        assert_held(&open(folder.path()).unwrap(), &chunks);
    }
}

#[test]
fn damage_anywhere_in_the_index_never_ends_the_process() {
    let (folder, _) = filled(40);
    let whole = fs::read(folder.path().join("index.redb")).unwrap();
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let mut refused = 0;
    for seed in 0..60_u64 {
        let noise = hash(&seed.to_le_bytes());
        let reach = if seed % 2 == 0 { used } else { 4_096 };
        let at = u32::from_le_bytes(noise[..4].try_into().unwrap()) as usize % reach;
        let mut bytes = whole.clone();
        for (byte, noise) in bytes[at..].iter_mut().zip(&noise[..1 + seed as usize % 32]) {
            *byte ^= noise | 1;
        }
        fs::write(folder.path().join("index.redb"), &bytes).unwrap();
        let worked = open(folder.path()).and_then(|store| {
            for chunk in chunks(40) {
                store.get(&chunk.id())?;
            }
            store.put(&chunk(1_000 + seed, 100))?;
            store.flush()
        });
        refused += u32::from(worked.is_err());
    }
    assert!(refused > 0, "none of the damage was found");
}

#[test]
fn garbage_among_the_segments_is_left_alone() {
    let (folder, chunks) = filled(4);
    let garbage = hash(b"garbage").repeat(1_000);
    for name in ["0000000007.seg", "notes.txt", "7.seg", "18446744073709551615.seg"] {
        fs::write(folder.path().join(name), &garbage).unwrap();
    }
    let store = open(folder.path()).unwrap();
    assert_held(&store, &chunks);
    put_all(&store, &[chunk(77, 1_000)]);
    store.flush().unwrap();
    drop(store);
    assert_held(&open(folder.path()).unwrap(), &[chunk(77, 1_000)]);
    for name in ["0000000007.seg", "notes.txt", "7.seg", "18446744073709551615.seg"] {
        assert_eq!(fs::read(folder.path().join(name)).unwrap(), garbage);
    }
}

#[test]
fn segment_of_a_newer_format_is_refused() {
    let (folder, _) = filled(2);
    let mut header = fs::read(folder.path().join(FIRST)).unwrap()[..SEGMENT_HEADER_LEN].to_vec();
    header[7] = 3;
    let crc = crc32c::crc32c(&header[..60]);
    header[60..].copy_from_slice(&crc.to_le_bytes());
    fs::write(folder.path().join(SECOND), header).unwrap();
    let refused = open(folder.path());
    assert!(matches!(&refused, Err(StoreError::Unsupported(why)) if why.contains(SECOND)), "{refused:?}");
}

#[test]
fn flush_of_nothing_writes_and_syncs_nothing() {
    let (folder, _) = filled(2);
    let store = open(folder.path()).unwrap();
    let before = store.stats().unwrap();
    for _ in 0..10 {
        store.flush().unwrap();
    }
    assert_eq!(store.stats().unwrap(), before);
}

#[test]
fn damaged_chunk_can_be_put_again_and_stays_whole() {
    let (folder, chunks) = filled(4);
    let path = folder.path().join(FIRST);
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let last = chunks.last().unwrap();
    let store = open(folder.path()).unwrap();
    let before = store.stats().unwrap();
    assert!(matches!(store.get(&last.id()), Err(StoreError::Corrupt(_))));
    assert!(!store.has(&last.id()).unwrap(), "what is known to be damaged is not held");
    assert_eq!(store.get(&last.id()).unwrap(), None);
    assert!(store.put(last).unwrap());
    assert_held(&store, &chunks);
    store.flush().unwrap();
    assert_held(&store, &chunks);
    assert!(!store.put(last).unwrap());
    let after = store.stats().unwrap();
    assert_eq!((after.n_chunks, after.raw_bytes), (before.n_chunks, before.raw_bytes));
    drop(store);
    let store = open(folder.path()).unwrap();
    assert_held(&store, &chunks);
    assert_eq!(store.stats().unwrap().n_chunks, before.n_chunks);
}

#[test]
fn chunks_are_found_before_and_after_their_entries_come_to_their_places() {
    let folder = tempfile::tempdir().unwrap();
    let bounds = Bounds { recent_entries: 7, ..Bounds::default() };
    let open = || {
        SegmentStore::open_bounded(Box::new(Folder::new(folder.path().to_owned()).unwrap()), 1 << 20, [7; 16], bounds)
    };
    let expected: Vec<Chunk> = (0..40).map(|i| chunk(i, 500)).collect();
    for n in (0..expected.len()).step_by(3) {
        let store = open().unwrap();
        assert_held(&store, &expected[..n]);
        assert!(expected[n..].iter().all(|chunk| !store.has(&chunk.id()).unwrap()));
        assert_eq!(store.stats().unwrap().n_chunks, n as u64);
        put_all(&store, &expected[n..expected.len().min(n + 3)]);
        store.flush().unwrap();
        assert_held(&store, &expected[..expected.len().min(n + 3)]);
    }
    assert_held(&open().unwrap(), &expected);
}

#[test]
fn chunk_put_again_in_place_of_a_damaged_one_is_found_where_it_lies_now() {
    let folder = tempfile::tempdir().unwrap();
    let bounds = Bounds { recent_entries: 4, ..Bounds::default() };
    let open = || {
        SegmentStore::open_bounded(Box::new(Folder::new(folder.path().to_owned()).unwrap()), 1 << 20, [7; 16], bounds)
    };
    let chunks: Vec<Chunk> = (0..3).map(|i| chunk(i, 1_000)).collect();
    {
        let store = open().unwrap();
        put_all(&store, &chunks);
        store.flush().unwrap();
    }
    let path = folder.path().join(FIRST);
    let mut bytes = fs::read(&path).unwrap();
    bytes[SEGMENT_HEADER_LEN + RECORD_HEADER_LEN + 10] ^= 1;
    fs::write(&path, bytes).unwrap();
    let store = open().unwrap();
    assert!(matches!(store.get(&chunks[0].id()), Err(StoreError::Corrupt(_))));
    assert!(store.put(&chunks[0]).unwrap());
    store.flush().unwrap();
    drop(store);
    // Once while both entries wait, once when they have come to their place.
    for more in 10..13 {
        let store = open().unwrap();
        assert_held(&store, &chunks);
        assert!(store.put(&chunk(more, 100)).unwrap());
        store.flush().unwrap();
        assert_held(&store, &chunks);
    }
}

#[test]
fn figures_are_told_while_an_index_is_made_anew() {
    let (folder, chunks) = filled(8);
    let store = open(folder.path()).unwrap();
    let before = store.stats().unwrap();
    let mut n_told = 0;
    std::thread::scope(|scope| {
        let rebuilt = store.rebuild(&mut |_, _| {
            let (tell, told) = std::sync::mpsc::channel();
            let store = &store;
            scope.spawn(move || tell.send((store.stats(), store.has_plain_segments())));
            let (stats, has_plain) = told.recv_timeout(std::time::Duration::from_secs(60)).expect("nobody waits");
            // It begins with a sync.
            let stats = ChunkStoreStats { fsyncs: before.fsyncs, ..stats.unwrap() };
            assert_eq!((stats, has_plain), (before, false));
            n_told += 1;
        });
        assert_eq!(rebuilt.unwrap().chunks, 8);
    });
    assert!(n_told > 1);
    put_all(&store, &[chunk(100, 5_000)]);
    assert_eq!(store.stats().unwrap().n_chunks, 9);
    assert_held(&store, &chunks);
}
