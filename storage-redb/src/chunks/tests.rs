use std::fs;

use bib_core::chunk::Chunk;
use bib_core::hash::hash;
use bib_core::port::{ChunkStore, StoreError};

use super::SegmentStore;
use crate::disk::Folder;

fn open(path: &std::path::Path) -> Result<SegmentStore, StoreError> {
    SegmentStore::open(Box::new(Folder::new(path.to_owned()).unwrap()), 1 << 20, [7; 16])
}

fn chunk(seed: u64, len: usize) -> Chunk {
    let noise: Vec<u8> = (0..len as u64 / 32 + 1).flat_map(|i| hash(&(seed << 32 | i).to_le_bytes())).collect();
    Chunk::from_raw(noise[..len].to_vec())
}

#[test]
fn flushed_chunks_survive_a_reopen_and_unflushed_ones_are_whole_or_absent() {
    let folder = tempfile::tempdir().unwrap();
    let chunks: Vec<Chunk> = (0..20).map(|i| chunk(i, 1 + i as usize * 5_000)).collect();
    let store = open(folder.path()).unwrap();
    for chunk in &chunks[..10] {
        assert!(store.put(chunk).unwrap());
        assert!(!store.put(chunk).unwrap(), "a chunk is stored once");
    }
    store.flush().unwrap();
    for chunk in &chunks[10..] {
        store.put(chunk).unwrap();
        assert_eq!(store.get(&chunk.id()).unwrap().as_ref(), Some(chunk), "readable before it is durable");
    }
    drop(store);
    let store = open(folder.path()).unwrap();
    for chunk in &chunks[..10] {
        assert_eq!(store.get(&chunk.id()).unwrap().as_ref(), Some(chunk));
    }
    for chunk in &chunks[10..] {
        assert_eq!(store.get(&chunk.id()).unwrap(), None);
        assert!(store.put(chunk).unwrap());
    }
    store.flush().unwrap();
    assert_eq!(store.stats().unwrap().n_chunks, 20);
}

#[test]
fn a_flipped_byte_is_found_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let chunk = chunk(1, 100_000);
    let store = open(folder.path()).unwrap();
    store.put(&chunk).unwrap();
    store.flush().unwrap();
    drop(store);
    let path = folder.path().join("0000000000.seg");
    let mut bytes = fs::read(&path).unwrap();
    bytes[50_000] ^= 1;
    fs::write(&path, bytes).unwrap();
    let store = open(folder.path()).unwrap();
    let refused = store.get(&chunk.id());
    assert!(matches!(&refused, Err(StoreError::Corrupt(place)) if place.contains("0000000000.seg")), "{refused:?}");
}
