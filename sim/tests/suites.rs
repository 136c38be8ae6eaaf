//! Every implementation of the ports against the conformance suites.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::cell::RefCell;
use std::sync::Arc;

use bib_core::chunk::Chunk;
use bib_core::id::ChunkId;
use bib_core::port::{
    Catalog, CatalogRead, CatalogTxn, ChunkStore, ChunkStoreStats, Lease, Rebuilt, Reclaimed, ScrubCursor, ScrubStep,
    StoreError, SweepCursor, SweepRules, SweepStep,
};
use bib_sim::disk::FaultyDisk;
use bib_sim::memory::{MemoryCatalog, MemoryChunkStore};
use bib_sim::suite::{CatalogBed, ChunkStoreBed, catalog, chunk_store};
use bib_storage_redb::crypto::KeyBytes;
use bib_storage_redb::{Bounds, Disk, Folder, Keyring, RedbCatalog, SegmentStore};
use tempfile::TempDir;

const CACHE: usize = 256 << 10;
/// So little that nearly every chunk makes room.
const SMALL: Bounds =
    Bounds { segment_len: 20_000, unindexed_bytes: 9_000, unindexed_chunks: 7, recent_entries: 5, reclaim_records: 6 };

/// A store that the bed keeps a hand on.
struct Shared<S>(Arc<S>);

impl Catalog for Shared<MemoryCatalog> {
    fn begin_read(&self) -> Result<Box<dyn CatalogRead + '_>, StoreError> {
        self.0.begin_read()
    }

    fn write(&self, work: &mut dyn FnMut(&mut dyn CatalogTxn) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.0.write(work)
    }
}

impl ChunkStore for Shared<MemoryChunkStore> {
    fn has(&self, id: &ChunkId) -> Result<bool, StoreError> {
        self.0.has(id)
    }

    fn get(&self, id: &ChunkId) -> Result<Option<Chunk>, StoreError> {
        self.0.get(id)
    }

    fn put(&self, chunk: &Chunk) -> Result<bool, StoreError> {
        self.0.put(chunk)
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.0.flush()
    }

    fn stats(&self) -> Result<ChunkStoreStats, StoreError> {
        self.0.stats()
    }

    fn lease(&self) -> Lease {
        self.0.lease()
    }

    fn begin_gc(&self, filter_bytes: usize, seed: u64) -> Result<(), StoreError> {
        self.0.begin_gc(filter_bytes, seed)
    }

    fn mark(&self, id: &ChunkId) {
        self.0.mark(id);
    }

    fn sweep_step(&self, rules: &SweepRules, after: Option<SweepCursor>) -> Result<SweepStep, StoreError> {
        self.0.sweep_step(rules, after)
    }

    fn reclaim_step(&self) -> Result<Option<Reclaimed>, StoreError> {
        self.0.reclaim_step()
    }

    fn end_gc(&self) {
        self.0.end_gc();
    }

    fn scrub_step(&self, after: Option<ScrubCursor>, max_bytes: u64) -> Result<ScrubStep, StoreError> {
        self.0.scrub_step(after, max_bytes)
    }

    fn is_damaged(&self, id: &ChunkId) -> Result<bool, StoreError> {
        self.0.is_damaged(id)
    }

    fn rebuild(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Rebuilt, StoreError> {
        self.0.rebuild(progress)
    }
}

#[derive(Default)]
struct Memory {
    catalog: RefCell<Arc<MemoryCatalog>>,
    chunks: RefCell<Arc<MemoryChunkStore>>,
}

impl CatalogBed for Memory {
    fn make(&self) -> Box<dyn Catalog> {
        self.catalog.replace(Arc::default());
        Box::new(Shared(self.catalog.borrow().clone()))
    }

    fn reopen(&self, _: Box<dyn Catalog>) -> Box<dyn Catalog> {
        let restarted = Arc::new(self.catalog.borrow().restarted());
        self.catalog.replace(restarted);
        Box::new(Shared(self.catalog.borrow().clone()))
    }

    fn fail_next_commit(&self, _: &dyn Catalog) -> bool {
        self.catalog.borrow().fail_after(0);
        true
    }
}

impl ChunkStoreBed for Memory {
    fn make(&self) -> Box<dyn ChunkStore> {
        self.chunks.replace(Arc::default());
        Box::new(Shared(self.chunks.borrow().clone()))
    }

    fn reopen(&self, _: Box<dyn ChunkStore>) -> Box<dyn ChunkStore> {
        self.chunks.borrow().crash();
        Box::new(Shared(self.chunks.borrow().clone()))
    }

    fn fail_next_flush(&self, _: &dyn ChunkStore) -> bool {
        self.chunks.borrow().fail();
        true
    }
}

fn open_chunks(disk: impl Disk + 'static, bounds: Bounds, keyring: Option<Arc<Keyring>>) -> Box<dyn ChunkStore> {
    Box::new(SegmentStore::open_with(Box::new(disk), CACHE, [1; 16], bounds, keyring).unwrap())
}

fn keyring() -> Arc<Keyring> {
    let data_keys = [(1, KeyBytes::new([1; 32])), (2, KeyBytes::new([2; 32]))];
    Arc::new(Keyring::new(data_keys.into(), &[3; 32], &[4; 32]).unwrap())
}

/// The stores in a folder of the system, sealed where there are keys.
struct InFolder(RefCell<TempDir>, Option<Arc<Keyring>>);

impl InFolder {
    fn new(keyring: Option<Arc<Keyring>>) -> Self {
        Self(RefCell::new(tempfile::tempdir().unwrap()), keyring)
    }

    fn folder(&self) -> Folder {
        Folder::new(self.0.borrow().path().to_owned()).unwrap()
    }
}

impl CatalogBed for InFolder {
    fn make(&self) -> Box<dyn Catalog> {
        self.0.replace(tempfile::tempdir().unwrap());
        Box::new(RedbCatalog::open_with(&self.folder(), CACHE, self.1.clone()).unwrap())
    }

    fn reopen(&self, catalog: Box<dyn Catalog>) -> Box<dyn Catalog> {
        drop(catalog);
        Box::new(RedbCatalog::open_with(&self.folder(), CACHE, self.1.clone()).unwrap())
    }

    fn fail_next_commit(&self, _: &dyn Catalog) -> bool {
        false
    }
}

impl ChunkStoreBed for InFolder {
    fn make(&self) -> Box<dyn ChunkStore> {
        self.0.replace(tempfile::tempdir().unwrap());
        open_chunks(self.folder(), Bounds::default(), self.1.clone())
    }

    fn reopen(&self, store: Box<dyn ChunkStore>) -> Box<dyn ChunkStore> {
        drop(store);
        open_chunks(self.folder(), Bounds::default(), self.1.clone())
    }

    fn fail_next_flush(&self, _: &dyn ChunkStore) -> bool {
        false
    }
}

/// The stores on the disk with faults; a restart is a power cut.
struct OnFaultyDisk {
    disk: RefCell<FaultyDisk>,
    bounds: Bounds,
    keyring: Option<Arc<Keyring>>,
}

impl OnFaultyDisk {
    fn new(bounds: Bounds) -> Self {
        Self { disk: RefCell::default(), bounds, keyring: None }
    }

    fn sealed(bounds: Bounds) -> Self {
        Self { keyring: Some(keyring()), ..Self::new(bounds) }
    }

    fn disk(&self) -> FaultyDisk {
        self.disk.borrow().clone()
    }

    fn restart(&self) -> FaultyDisk {
        let disk = self.disk().survivors(9);
        self.disk.replace(disk.clone());
        disk
    }

    fn fail_next_sync(&self) -> bool {
        self.disk().fail_sync(self.disk().syncs() + 1, 9);
        true
    }
}

impl CatalogBed for OnFaultyDisk {
    fn make(&self) -> Box<dyn Catalog> {
        self.disk.replace(FaultyDisk::new());
        Box::new(RedbCatalog::open_with(&self.disk(), CACHE, self.keyring.clone()).unwrap())
    }

    fn reopen(&self, catalog: Box<dyn Catalog>) -> Box<dyn Catalog> {
        let restarted = self.restart();
        drop(catalog);
        Box::new(RedbCatalog::open_with(&restarted, CACHE, self.keyring.clone()).unwrap())
    }

    fn fail_next_commit(&self, _: &dyn Catalog) -> bool {
        self.fail_next_sync()
    }
}

impl ChunkStoreBed for OnFaultyDisk {
    fn make(&self) -> Box<dyn ChunkStore> {
        self.disk.replace(FaultyDisk::new());
        open_chunks(self.disk(), self.bounds, self.keyring.clone())
    }

    fn reopen(&self, store: Box<dyn ChunkStore>) -> Box<dyn ChunkStore> {
        let restarted = self.restart();
        drop(store);
        open_chunks(restarted, self.bounds, self.keyring.clone())
    }

    fn fail_next_flush(&self, _: &dyn ChunkStore) -> bool {
        self.fail_next_sync()
    }
}

fn check_catalog(bed: &(dyn CatalogBed + 'static)) {
    for (name, check) in catalog::CHECKS {
        log(name);
        check(bed);
    }
}

fn check_chunk_store(bed: &(dyn ChunkStoreBed + 'static)) {
    for (name, check) in chunk_store::CHECKS {
        log(name);
        check(bed);
    }
}

#[allow(clippy::print_stdout, reason = "shown only for a test that failed, it names the check")]
fn log(name: &str) {
    println!("{name}");
}

#[test]
fn memory_catalog_conforms() {
    check_catalog(&Memory::default());
}

#[test]
fn memory_chunk_store_conforms() {
    check_chunk_store(&Memory::default());
}

#[test]
fn redb_catalog_conforms() {
    check_catalog(&InFolder::new(None));
}

#[test]
fn segment_store_conforms() {
    check_chunk_store(&InFolder::new(None));
}

#[test]
fn redb_catalog_on_the_faulty_disk_conforms() {
    check_catalog(&OnFaultyDisk::new(Bounds::default()));
}

#[test]
fn segment_store_on_the_faulty_disk_conforms() {
    check_chunk_store(&OnFaultyDisk::new(Bounds::default()));
}

#[test]
fn segment_store_that_is_always_full_conforms() {
    check_chunk_store(&OnFaultyDisk::new(SMALL));
}

#[test]
fn sealed_redb_catalog_conforms() {
    check_catalog(&InFolder::new(Some(keyring())));
}

#[test]
fn sealed_redb_catalog_on_the_faulty_disk_conforms() {
    check_catalog(&OnFaultyDisk::sealed(Bounds::default()));
}

#[test]
fn sealed_segment_store_conforms() {
    check_chunk_store(&InFolder::new(Some(keyring())));
}

#[test]
fn sealed_segment_store_on_the_faulty_disk_conforms() {
    check_chunk_store(&OnFaultyDisk::sealed(Bounds::default()));
}

#[test]
fn sealed_segment_store_that_is_always_full_conforms() {
    check_chunk_store(&OnFaultyDisk::sealed(SMALL));
}
