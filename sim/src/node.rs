//! A node without a network: a catalog in memory and the one door to it.

use std::collections::BTreeMap;

use bib_core::api::event::OpContext;
use bib_core::api::request::ContextFor;
use bib_core::apply::Reducer;
use bib_core::catalog::access::AccessCache;
use bib_core::catalog::context::{ContextError, op_context};
use bib_core::command::{Applied, Command, Origin};
use bib_core::id::{ContentId, DatasetId, ManifestId, NodeId, OpId, TopicId, UserId};
use bib_core::key::SecretKey;
use bib_core::model::ContentFormat;
use bib_core::op::operation::NewVersion;
use bib_core::op::{Body, Operation, Unsigned};
use bib_core::port::{Catalog, CatalogRead, StoreError, Table};
use bib_core::time::Timestamp;

use crate::memory::MemoryCatalog;

/// Keys and values of a table, ascending.
pub type Records = Vec<(Vec<u8>, Vec<u8>)>;

/// Where operations of other nodes come from in tests.
pub const PEER: Origin = Origin::Peer(NodeId::from_bytes([3; 32]));

/// The key of a user of a story, by number.
pub fn key(n: u8) -> SecretKey {
    SecretKey::from_seed([n; 32])
}

/// A user of a story, by number.
pub fn user(n: u8) -> UserId {
    key(n).user_id()
}

/// A catalog in memory and its reducer.
#[derive(Debug)]
pub struct CatalogNode {
    /// The catalog.
    pub catalog: MemoryCatalog,
    reducer: Reducer,
    /// What it took, by id.
    pub ops: BTreeMap<OpId, Operation>,
}

impl Default for CatalogNode {
    fn default() -> Self {
        Self::new(4 << 20)
    }
}

impl CatalogNode {
    /// An empty node whose reducer keeps so many bytes of access operations.
    pub fn new(max_cached_bytes: usize) -> Self {
        Self { catalog: MemoryCatalog::new(), reducer: Reducer::new(max_cached_bytes), ops: BTreeMap::new() }
    }

    /// Carries out a command in a transaction of its own.
    ///
    /// # Errors
    /// [`StoreError`] of the door or of the commit.
    pub fn run(&mut self, command: &Command, now: Timestamp) -> Result<Applied, StoreError> {
        let mut applied = Applied::default();
        let (catalog, reducer) = (&self.catalog, &mut self.reducer);
        let done = catalog.write(&mut |txn| {
            applied = reducer.apply(txn, command, now)?;
            Ok(())
        });
        if let Err(error) = done {
            self.reducer.forget();
            return Err(error);
        }
        self.ops.extend(applied.new.iter().map(|op| (op.id(), op.clone())));
        Ok(applied)
    }

    /// Takes operations.
    ///
    /// # Panics
    /// When the catalog fails.
    pub fn take(&mut self, ops: &[Operation], origin: Origin, now: Timestamp) -> Applied {
        self.run(&Command::Apply { ops: ops.to_vec(), origin }, now).expect("memory holds everything")
    }

    /// What a new operation has to follow.
    ///
    /// # Errors
    /// [`ContextError`] when the topic is not known here.
    pub fn context(&mut self, wanted: ContextFor) -> Result<OpContext, ContextError> {
        let read = self.read();
        op_context(&*read, &mut AccessCache::new(4 << 20), wanted)
    }

    /// A view of the catalog.
    ///
    /// # Panics
    /// When the catalog fails.
    pub fn read(&self) -> Box<dyn CatalogRead + '_> {
        self.catalog.begin_read().expect("memory can be read")
    }

    /// What the access logs in memory take, in bytes.
    pub fn cached_bytes(&mut self) -> usize {
        self.reducer.access().bytes()
    }

    /// Loses everything that is not in the catalog.
    pub fn restart(&mut self, max_cached_bytes: usize) {
        self.catalog = self.catalog.restarted();
        self.reducer = Reducer::new(max_cached_bytes);
    }

    /// All tables.
    pub fn dump(&self) -> Vec<(Table, Records)> {
        let tables = bib_core::port::TABLES.into_iter().map(|(table, _)| table);
        tables.map(|table| (table, self.catalog.dump(table))).collect()
    }
}

/// A version of one small file, for what the operation is about and not its content.
pub fn new_version(dataset: DatasetId, semver: semver::Version, manifest: ManifestId) -> NewVersion {
    NewVersion {
        dataset,
        semver,
        previous: None,
        message: String::new(),
        manifest,
        content: ContentId::from(manifest),
        size: 1,
        n_files: 1,
        format: ContentFormat::Csv,
        schema: None,
        row_count: None,
        license: None,
        source_url: None,
    }
}

/// Signs an operation with a context.
///
/// # Panics
/// When the operation breaks a rule of form.
pub fn sign(by: u8, topic: Option<TopicId>, context: OpContext, time: Timestamp, body: Body) -> Operation {
    let OpContext { parents, keeps, lamport, not_before } = context;
    let keeps = if body.is_removal() { keeps } else { Vec::new() };
    let time = time.max(not_before);
    let unsigned = Unsigned { topic, author: user(by), lamport, time, parents, keeps, body };
    unsigned.sign(&key(by)).expect("the operation keeps the rules of form")
}

/// The context of a root topic.
pub const fn nothing() -> OpContext {
    OpContext { parents: Vec::new(), keeps: Vec::new(), lamport: 1, not_before: Timestamp(0) }
}
