//! What the door costs: the work for an operation is counted in keys read and written, and does not grow with what is
//! there already.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::cell::Cell;

use bib_core::api::event::OpContext;
use bib_core::api::request::Paging;
use bib_core::apply::Reducer;
use bib_core::catalog::list;
use bib_core::command::{Applied, Command};
use bib_core::hash::hash;
use bib_core::id::{DatasetId, ManifestId, TopicId};
use bib_core::model::{Name, Visibility};
use bib_core::op::operation::{FieldChanges, NewVersion};
use bib_core::op::{Body, Operation, Resource, Role};
use bib_core::port::{Catalog, CatalogRead, CatalogTxn, KeyRange, Order, StoreError, Table, Visit};
use bib_core::time::Timestamp;
use bib_core::wire::message::FindQuery;
use bib_sim::memory::MemoryCatalog;
use bib_sim::node::{PEER, new_version, nothing, sign, user};

const NOW: Timestamp = Timestamp(1_800_000_000_000_000);

/// Counts the keys that are read and written.
struct Counted<T> {
    inner: T,
    n: Cell<u64>,
}

impl<T> Counted<T> {
    fn add(&self) {
        self.n.set(self.n.get() + 1);
    }
}

impl CatalogRead for Counted<&mut dyn CatalogTxn> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.add();
        self.inner.get(table, key)
    }

    fn scan(&self, table: Table, range: KeyRange<'_>, order: Order, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.add();
        self.inner.scan(table, range, order, &mut |key, value| {
            self.add();
            visit(key, value)
        })
    }

    fn len(&self, table: Table) -> Result<u64, StoreError> {
        self.inner.len(table)
    }
}

impl CatalogTxn for Counted<&mut dyn CatalogTxn> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.add();
        self.inner.put(table, key, value)
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), StoreError> {
        self.add();
        self.inner.remove(table, key)
    }
}

impl CatalogRead for Counted<Box<dyn CatalogRead + '_>> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.add();
        self.inner.get(table, key)
    }

    fn scan(&self, table: Table, range: KeyRange<'_>, order: Order, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        self.inner.scan(table, range, order, &mut |key, value| {
            self.add();
            visit(key, value)
        })
    }

    fn len(&self, table: Table) -> Result<u64, StoreError> {
        self.inner.len(table)
    }
}

#[derive(Default)]
struct Node {
    catalog: MemoryCatalog,
    reducer: Option<Reducer>,
}

impl Node {
    /// Takes operations from a peer, all at once; returns what it did and how many keys were touched.
    fn take(&mut self, ops: &[Operation]) -> (Applied, u64) {
        let reducer = self.reducer.get_or_insert_with(|| Reducer::new(4 << 20));
        let command = Command::Apply { ops: ops.to_vec(), origin: PEER };
        let mut done = (Applied::default(), 0);
        let work = &mut |txn: &mut dyn CatalogTxn| {
            let mut counted = Counted { inner: txn, n: Cell::new(0) };
            let applied = reducer.apply(&mut counted, &command, NOW)?;
            done = (applied, counted.n.get());
            Ok(())
        };
        self.catalog.write(work).unwrap();
        done
    }
}

fn after(parents: &[&Operation]) -> OpContext {
    let mut ids: Vec<_> = parents.iter().map(|op| op.id()).collect();
    ids.sort_unstable();
    let lamport = 1 + parents.iter().map(|op| op.lamport).max().unwrap_or(0);
    OpContext { parents: ids, lamport, ..nothing() }
}

fn root() -> Operation {
    let (parent, visibility, fields) = (None, Visibility::Public, FieldChanges::default());
    sign(1, None, nothing(), NOW, Body::CreateTopic { parent, name: Name::new("weather").unwrap(), visibility, fields })
}

fn create(topic: TopicId, after: OpContext, name: &str) -> Operation {
    let fields = FieldChanges { description: Some(format!("About {name}")), ..FieldChanges::default() };
    sign(1, Some(topic), after, NOW, Body::CreateDataset { name: Name::new(name).unwrap(), fields })
}

fn publish(by: u8, topic: TopicId, after: OpContext, dataset: DatasetId, n: u64) -> Operation {
    let manifest = ManifestId::from_bytes(hash(&n.to_be_bytes()));
    let version = NewVersion {
        message: "more of the same".to_owned(),
        ..new_version(dataset, semver::Version::new(1, 0, n), manifest)
    };
    sign(by, Some(topic), after, NOW, Body::PublishVersion(version))
}

/// `n` versions of one dataset and as many datasets, each operation following the one before it.
fn line(n: u64) -> Vec<Operation> {
    let root = root();
    let topic = root.topic();
    let first = create(topic, after(&[&root]), "first");
    let dataset = first.id().into();
    let mut ops = vec![root, first];
    for i in 0..n {
        let last = &ops[ops.len() - 1];
        ops.push(publish(1, topic, after(&[last]), dataset, i));
        let last = &ops[ops.len() - 1];
        ops.push(create(topic, after(&[last]), &format!("d{i:06}")));
    }
    ops
}

/// Keys touched for each batch of 256.
fn costs(node: &mut Node, ops: &[Operation]) -> Vec<u64> {
    ops.chunks(256).map(|ops| node.take(ops).1).collect()
}

#[test]
fn an_operation_costs_the_same_however_many_there_are() {
    let costs = costs(&mut Node::default(), &line(1_500));
    let (early, late) = (costs[1], costs[costs.len() - 2]);
    assert!(late * 10 <= early * 11, "{early} keys for 256 operations at first, {late} later");
    assert!(late <= 256 * 60, "{late} keys for 256 operations");
}

#[test]
fn content_before_removals_costs_no_more_when_it_comes_after_them() {
    let mut ops = line(500);
    let root = ops[0].clone();
    let topic = root.topic();
    let mut access = vec![root];
    // Now and then somebody comes, publishes, and goes.
    let n_people = 20;
    for n in 0..n_people {
        let by = 2 + n;
        let (resource, user) = (Resource::Topic(topic), user(by));
        let give = Body::Grant { resource, user, role: Role::Contributor, expires_at: None };
        let granted = sign(1, Some(topic), after(&[access.last().unwrap()]), NOW, give);
        let at = ops.len() - 1 - usize::from(n) * 40;
        let mut context = after(&[&ops[at], &granted]);
        context.lamport = 1 + ops[at].lamport.max(granted.lamport);
        let version = publish(by, topic, context, ops[1].id().into(), 10_000 + u64::from(n));
        let take = Body::Revoke { resource, user, keep_below: false };
        let removal = OpContext { keeps: vec![version.id()], ..after(&[&granted]) };
        let removal = sign(1, Some(topic), removal, NOW, take);
        access.extend([granted, removal]);
        ops.push(version);
    }
    ops.remove(0);
    ops.sort_by_key(Operation::position);
    let mut node = Node::default();
    let first = node.take(&access);
    assert_eq!(first.0.new.len(), access.len());
    let (applied, cost) = node.take(&ops);
    assert_eq!(applied.new.len(), ops.len());
    assert_eq!(applied.versions.len(), 500 + usize::from(n_people), "what the removals keep counts");
    assert!(cost <= ops.len() as u64 * 80, "{cost} keys for {} operations", ops.len());
}

#[test]
fn a_page_costs_what_is_on_it() {
    let mut node = Node::default();
    node.take(&line(1_500));
    let read = Counted { inner: node.catalog.begin_read().unwrap(), n: Cell::new(0) };
    let cost_of = |ask: &dyn Fn(&dyn CatalogRead) -> u64| {
        read.n.set(0);
        assert_eq!(ask(&read), 1_501);
        read.n.replace(0)
    };
    let page = |offset| Paging { limit: 50, offset };
    let first = cost_of(&|read| list::datasets(read, None, page(0)).unwrap().total);
    assert!(first <= 50 * 5, "{first}");
    let last = cost_of(&|read| list::datasets(read, None, page(1_450)).unwrap().total);
    assert!(last <= 1_500 + 50 * 5, "{last}");
    let found = cost_of(&|read| list::find(read, &FindQuery { limit: 50, ..FindQuery::default() }).unwrap().total);
    assert!(found <= 1_500 + 50 * 5, "{found}");
    // One dataset after the other is looked at, and forgotten.
    let text = |text: &str| FindQuery { text: Some(text.to_owned()), limit: 50, ..FindQuery::default() };
    let searched = cost_of(&|read| list::find(read, &text("ABOUT")).unwrap().total);
    assert!(searched <= 1_500 * 3 + 50 * 5, "{searched}");
}
