//! What sealing costs: CPU seconds for each GiB that is put, made durable and read again, plain and with both ciphers.
//! `cargo run --release -p bib-storage-redb --example sealed_cost -- [MiB] [folder]`

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement for people")]

use std::path::PathBuf;
use std::sync::Arc;

use bib_core::chunk::Chunk;
use bib_core::port::ChunkStore;
use bib_storage_redb::crypto::KeyBytes;
use bib_storage_redb::{Bounds, Cipher, Folder, Keyring, SegmentStore};

const CHUNK: usize = 64 << 10;

/// CPU seconds of this process so far, those of the system for it included.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // In hundredths on every Linux that this runs on.
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// Noise of which no two chunks are equal.
fn chunk(i: u64, noise: &[u8]) -> Chunk {
    let mut bytes = noise.to_vec();
    bytes[..8].copy_from_slice(&i.to_le_bytes());
    Chunk::from_raw(bytes)
}

fn main() {
    let mut args = std::env::args().skip(1);
    let mib: u64 = args.next().map_or(512, |text| text.parse().unwrap());
    let folder = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let n = (mib << 20) / CHUNK as u64;
    let mut noise = vec![0; CHUNK];
    for (i, block) in noise.chunks_mut(32).enumerate() {
        block.copy_from_slice(&bib_core::hash::hash(&i.to_le_bytes()));
    }
    // What making and hashing the chunks takes is no part of the store.
    let begin = cpu();
    let made: usize = (0..n).map(|i| chunk(i, &noise).encoded().len()).sum();
    let making = cpu() - begin;
    let gib = made as f64 / f64::from(1 << 30);
    println!("fastest here: {:?}; CPU seconds per GiB of chunks of {CHUNK} bytes", Cipher::fastest());
    for cipher in [None, Some(Cipher::Aes256Gcm), Some(Cipher::ChaCha20Poly1305)] {
        let path = folder.join(format!("bib-sealed-cost-{}", std::process::id()));
        let keyring = cipher.map(|cipher| {
            let keys = [(1, KeyBytes::new([1; 32]))].into();
            Arc::new(Keyring::new(keys, &[2; 32], &[3; 32]).unwrap().with_cipher(cipher))
        });
        let disk = Box::new(Folder::new(path.clone()).unwrap());
        let store = SegmentStore::open_with(disk, 1 << 20, [1; 16], Bounds::default(), keyring).unwrap();
        let begin = cpu();
        let ids: Vec<_> = (0..n)
            .map(|i| {
                let chunk = chunk(i, &noise);
                store.put(&chunk).unwrap();
                chunk.id()
            })
            .collect();
        store.flush().unwrap();
        let put = cpu() - begin - making;
        let begin = cpu();
        for id in &ids {
            store.get(id).unwrap().unwrap();
        }
        let get = cpu() - begin;
        let name = cipher.map_or("plain".to_owned(), |cipher| format!("{cipher:?}"));
        println!("{name:<18} put {:5.2}  get {:5.2}", put / gib, get / gib);
        drop(store);
        std::fs::remove_dir_all(path).unwrap();
    }
}
