//! Chunks whose bytes were left in a file outside of the store: the record names the place, and every read is verified.
//!
//! Invariant: a file that does not hold the bytes is no damage of the store, and never an answer.

use bib_core::chunk::Chunk;
use bib_core::encode::decode;
use bib_core::id::ChunkId;
use bib_core::place::FilePlace;
use bib_core::port::StoreError;

use crate::disk::Disk;

/// Why a chunk cannot be had from its record.
pub(super) enum ReadError {
    /// The record names no place.
    Damaged(String),
    /// The file does not hold the bytes now.
    Changed(StoreError),
}

fn changed(place: &FilePlace, why: impl ToString) -> StoreError {
    StoreError::Changed { path: place.shown(), why: why.to_string() }
}

/// The bytes at a place.
pub(super) fn bytes(disk: &dyn Disk, place: &FilePlace, len: u32) -> Result<Vec<u8>, StoreError> {
    let mut bytes = vec![0; len as usize];
    match disk.read_outside(place.path(), &mut bytes, place.offset()) {
        Ok(()) => Ok(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(changed(place, "it is shorter now")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(changed(place, "it is not there any more")),
        Err(error) => Err(changed(place, error)),
    }
}

/// Whether a place holds these bytes.
pub(super) fn check(disk: &dyn Disk, place: &FilePlace, raw: &[u8]) -> Result<(), StoreError> {
    if bytes(disk, place, raw.len() as u32)? == raw { Ok(()) } else { Err(changed(place, "it has other bytes now")) }
}

/// The chunk that a record stands for, verified.
pub(super) fn read(disk: &dyn Disk, id: ChunkId, len: u32, payload: &[u8]) -> Result<Chunk, ReadError> {
    let place = decode::<FilePlace>(payload).map_err(|error| ReadError::Damaged(error.to_string()))?;
    let bytes = bytes(disk, &place, len).map_err(ReadError::Changed)?;
    Chunk::verify_raw(id, len, bytes).map_err(|_| ReadError::Changed(changed(&place, "it has other bytes now")))
}

/// Whether what looks like a record may be one: its file has the bytes, or cannot be asked, as when its disk is away. What
/// some content made up of itself names nothing by that: every read is verified.
pub(super) fn may_hold(disk: &dyn Disk, id: ChunkId, len: u32, payload: &[u8]) -> bool {
    let Ok(place) = decode::<FilePlace>(payload) else { return false };
    let mut bytes = vec![0; len as usize];
    match disk.read_outside(place.path(), &mut bytes, place.offset()) {
        Ok(()) => Chunk::verify_raw(id, len, bytes).is_ok(),
        Err(error) => error.kind() != std::io::ErrorKind::UnexpectedEof,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use bib_core::chunk::RawChunk;
    use bib_core::hash::hash;
    use bib_core::limits::MAX_LOCAL_PATH_LEN;
    use bib_core::port::ChunkStore;

    use super::super::SegmentStore;
    use super::super::format::{Key, RecordCodec, RecordHeader, SEGMENT_HEADER_LEN, SegmentHeader};
    use super::*;
    use crate::disk::Folder;

    const LEN: usize = 50_000;

    /// A store, and a file of noise beside it.
    struct Fixture {
        dir: tempfile::TempDir,
        content: Vec<u8>,
    }

    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..4 * LEN as u64 / 32).flat_map(|i| hash(&i.to_le_bytes())).collect();
        fs::write(dir.path().join("file"), &content).unwrap();
        Fixture { dir, content }
    }

    fn place_in(path: &Path, offset: u64) -> FilePlace {
        FilePlace::new(path.as_os_str().as_encoded_bytes().to_vec(), offset).unwrap()
    }

    impl Fixture {
        fn file(&self) -> PathBuf {
            self.dir.path().join("file")
        }

        fn segments(&self) -> PathBuf {
            self.dir.path().join("segments")
        }

        fn open(&self) -> SegmentStore {
            let folder = Folder::new(self.segments()).unwrap();
            SegmentStore::open(Box::new(folder), 1 << 20, [7; 16]).unwrap()
        }

        fn chunk(&self, offset: usize) -> RawChunk {
            RawChunk::new(self.content[offset..offset + LEN].to_vec())
        }

        fn put(&self, store: &SegmentStore, offset: usize) -> ChunkId {
            let chunk = self.chunk(offset);
            let id = chunk.id();
            assert!(store.put_reference(chunk, &place_in(&self.file(), offset as u64)).unwrap());
            id
        }
    }

    fn is_changed<T: std::fmt::Debug>(result: &Result<T, StoreError>) -> bool {
        matches!(result, Err(StoreError::Changed { .. }))
    }

    #[test]
    fn bytes_stay_in_their_file_and_are_held_after_a_start() {
        let fixture = fixture();
        let store = fixture.open();
        let ids: Vec<ChunkId> = (0..3).map(|n| fixture.put(&store, n * LEN)).collect();
        let check = |store: &SegmentStore| {
            for (n, id) in ids.iter().enumerate() {
                assert!(store.has(id).unwrap());
                assert_eq!(store.get(id).unwrap().unwrap().into_raw(), fixture.chunk(n * LEN).bytes());
                assert_eq!(store.place(id).unwrap(), Some(place_in(&fixture.file(), (n * LEN) as u64)));
            }
            let stats = store.stats().unwrap();
            assert_eq!((stats.n_chunks, stats.raw_bytes), (3, 3 * LEN as u64));
            assert_eq!(stats.referenced_bytes, 3 * LEN as u64);
            assert!(stats.stored_bytes < 1_000, "{stats:?}");
        };
        check(&store);
        // As a kill leaves it: in no index yet.
        drop(store);
        check(&fixture.open());
        let store = fixture.open();
        store.flush().unwrap();
        check(&store);
        drop(store);
        fs::remove_file(fixture.segments().join("index.redb")).unwrap();
        check(&fixture.open());
    }

    #[test]
    fn file_that_changed_is_refused_by_name_and_believed_again_when_it_is_as_it_was() {
        let fixture = fixture();
        let store = fixture.open();
        let (first, second) = (fixture.put(&store, 0), fixture.put(&store, LEN));
        let mut other = fixture.content.clone();
        other[LEN + 7] ^= 1;
        fs::write(fixture.file(), &other).unwrap();
        let error = store.get(&second).unwrap_err();
        assert!(error.to_string().contains(fixture.file().to_str().unwrap()), "{error}");
        assert!(!store.has(&second).unwrap());
        assert!(store.get(&first).unwrap().is_some() && store.has(&first).unwrap());
        fs::remove_file(fixture.file()).unwrap();
        assert!(is_changed(&store.get(&first)) && is_changed(&store.get(&second)));
        assert!(!store.has(&first).unwrap());
        fs::write(fixture.file(), &fixture.content[..LEN + 7]).unwrap();
        assert!(store.has(&first).unwrap() && !store.has(&second).unwrap());
        fs::write(fixture.file(), &fixture.content).unwrap();
        assert!(store.has(&second).unwrap());
        assert_eq!(store.get(&second).unwrap().unwrap().into_raw(), fixture.chunk(LEN).bytes());
    }

    #[test]
    fn bytes_that_are_put_replace_a_reference_and_no_reference_replaces_them() {
        let fixture = fixture();
        let store = fixture.open();
        let id = fixture.put(&store, 0);
        store.flush().unwrap();
        assert!(store.put(&fixture.chunk(0).compress()).unwrap());
        let check = |store: &SegmentStore| {
            assert_eq!(store.place(&id).unwrap(), None);
            assert_eq!(store.get(&id).unwrap().unwrap().into_raw(), fixture.chunk(0).bytes());
            let stats = store.stats().unwrap();
            assert_eq!((stats.n_chunks, stats.raw_bytes, stats.referenced_bytes), (1, LEN as u64, 0));
        };
        check(&store);
        assert!(!store.put_reference(fixture.chunk(0), &place_in(&fixture.file(), 0)).unwrap());
        fs::write(fixture.file(), b"something else").unwrap();
        check(&store);
        drop(store);
        check(&fixture.open());
        let store = fixture.open();
        store.flush().unwrap();
        drop(store);
        fs::remove_file(fixture.segments().join("index.redb")).unwrap();
        check(&fixture.open());
    }

    #[test]
    fn reference_moves_only_when_its_file_no_longer_holds_the_bytes() {
        let fixture = fixture();
        let store = fixture.open();
        let id = fixture.put(&store, 0);
        let moved = fixture.dir.path().join("moved");
        fs::copy(fixture.file(), &moved).unwrap();
        assert!(!store.put_reference(fixture.chunk(0), &place_in(&moved, 0)).unwrap());
        assert_eq!(store.place(&id).unwrap(), Some(place_in(&fixture.file(), 0)));
        fs::remove_file(fixture.file()).unwrap();
        assert!(store.put_reference(fixture.chunk(0), &place_in(&moved, 0)).unwrap());
        let check = |store: &SegmentStore| {
            assert_eq!(store.place(&id).unwrap(), Some(place_in(&moved, 0)));
            assert!(store.get(&id).unwrap().is_some());
            assert_eq!(store.stats().unwrap().referenced_bytes, LEN as u64);
        };
        check(&store);
        drop(store);
        check(&fixture.open());
    }

    #[test]
    fn place_that_does_not_hold_the_bytes_is_not_taken() {
        let fixture = fixture();
        let store = fixture.open();
        let link = fixture.dir.path().join("link");
        std::os::unix::fs::symlink(fixture.file(), &link).unwrap();
        let absent = fixture.dir.path().join("absent");
        for place in
            [place_in(&fixture.file(), 1), place_in(&fixture.file(), 1 << 40), place_in(&link, 0), place_in(&absent, 0)]
        {
            assert!(is_changed(&store.put_reference(fixture.chunk(0), &place)), "{place:?}");
        }
        assert!(!store.has(&fixture.chunk(0).id()).unwrap());
        assert_eq!(store.stats().unwrap().n_chunks, 0);
    }

    #[test]
    fn record_that_names_no_place_is_damage() {
        let hostile: [Vec<u8>; 4] = [
            Vec::new(),
            vec![0xff; 100],
            [vec![1, 3], b"a/b".to_vec(), vec![0]].concat(),
            [vec![1, 0x81, 0x20], vec![b'/'; MAX_LOCAL_PATH_LEN + 1], vec![0]].concat(),
        ];
        for payload in hostile {
            let fixture = fixture();
            let id = fixture.chunk(0).id();
            let stored_len = payload.len() as u32;
            let (key, codec) = (Key::plain(&id), RecordCodec::Reference);
            let header = RecordHeader { key, raw_len: LEN as u32, stored_len, codec, cipher: None };
            let segment = SegmentHeader { number: 0, store: [7; 16], seal: None }.encode();
            assert_eq!(segment.len(), SEGMENT_HEADER_LEN);
            let bytes = [segment.as_slice(), &header.encode(&payload), &payload].concat();
            fs::create_dir(fixture.segments()).unwrap();
            fs::write(fixture.segments().join("0000000000.seg"), bytes).unwrap();
            let store = fixture.open();
            let read = store.get(&id);
            assert!(matches!(read, Err(StoreError::Corrupt(_))), "{read:?}");
            assert!(!store.has(&id).unwrap());
            assert!(store.put_reference(fixture.chunk(0), &place_in(&fixture.file(), 0)).unwrap());
            assert!(store.get(&id).unwrap().is_some());
        }
    }

    #[test]
    fn record_of_a_reference_behind_a_torn_one_counts_only_if_its_file_agrees() {
        for agrees in [true, false] {
            let fixture = fixture();
            let store = fixture.open();
            let first = fixture.chunk(LEN).compress();
            store.put(&first).unwrap();
            let id = fixture.put(&store, 0);
            drop(store);
            let segment = fixture.segments().join("0000000000.seg");
            let mut bytes = fs::read(&segment).unwrap();
            bytes[SEGMENT_HEADER_LEN + 100] ^= 1;
            fs::write(&segment, bytes).unwrap();
            if !agrees {
                fs::write(fixture.file(), b"").unwrap();
            }
            let store = fixture.open();
            assert!(!store.has(&first.id()).unwrap());
            assert_eq!(store.has(&id).unwrap(), agrees);
        }
    }

    #[test]
    fn references_behind_a_hole_outlast_an_index_made_anew_while_their_file_is_away() {
        let fixture = fixture();
        let store = fixture.open();
        let first = Chunk::from_raw(fixture.content[..LEN].to_vec());
        store.put(&first).unwrap();
        let ids: Vec<ChunkId> = (1..3).map(|n| fixture.put(&store, n * LEN)).collect();
        store.flush().unwrap();
        drop(store);
        // What a collection leaves where the first record was.
        let segment = fixture.segments().join("0000000000.seg");
        let file = fs::File::options().write(true).open(segment).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &vec![0; LEN], SEGMENT_HEADER_LEN as u64).unwrap();
        let away = fixture.dir.path().join("away");
        fs::rename(fixture.file(), &away).unwrap();
        let store = fixture.open();
        assert_eq!(store.rebuild(&mut |_, _| ()).unwrap().chunks, 2);
        assert!(ids.iter().all(|id| is_changed(&store.get(id)) && !store.has(id).unwrap()));
        fs::rename(&away, fixture.file()).unwrap();
        for (n, id) in ids.iter().enumerate() {
            assert_eq!(store.get(id).unwrap().unwrap().into_raw(), fixture.chunk((n + 1) * LEN).bytes());
        }
        // What the file does not hold though it is there is no record.
        fs::write(fixture.file(), vec![1; 4 * LEN]).unwrap();
        assert_eq!(store.rebuild(&mut |_, _| ()).unwrap().chunks, 0);
    }
}
