//! The logs of operations over a catalog in memory.

use bib_core::catalog::log::{self, Figures, OpStatus};
use bib_core::id::TopicId;
use bib_core::key::SecretKey;
use bib_core::model::Visibility;
use bib_core::op::operation::FieldChanges;
use bib_core::op::{Body, Class, Operation, Unsigned};
use bib_core::port::{Catalog, Table};
use bib_core::time::Timestamp;
use bib_sim::memory::MemoryCatalog;

fn op(topic: Option<TopicId>, parents: &[&Operation], body: Body) -> Operation {
    let key = SecretKey::from_seed([1; 32]);
    let mut ids: Vec<_> = parents.iter().map(|parent| parent.id()).collect();
    ids.sort_unstable();
    Unsigned {
        topic,
        author: key.user_id(),
        lamport: 1 + parents.iter().map(|parent| parent.lamport).max().unwrap_or(0),
        time: Timestamp(parents.len() as i64),
        parents: ids,
        keeps: Vec::new(),
        body,
    }
    .sign(&key)
    .expect("the operation keeps the rules")
}

fn create() -> Operation {
    let name = "weather".parse().expect("a valid name");
    let (parent, visibility) = (None, Visibility::Public);
    op(None, &[], Body::CreateTopic { parent, name, visibility, fields: FieldChanges::default() })
}

fn update(topic: TopicId, parents: &[&Operation], text: &str) -> Operation {
    op(topic.into(), parents, Body::UpdateTopic(FieldChanges { description: Some(text.into()), ..Default::default() }))
}

fn insert(catalog: &MemoryCatalog, op: &Operation) -> bool {
    let mut new = false;
    catalog.write(&mut |txn| log::insert(txn, op).map(|done| new = done)).expect("memory takes it");
    new
}

#[test]
fn heads_are_the_operations_that_no_other_one_of_the_log_follows() {
    let catalog = MemoryCatalog::new();
    let create = create();
    let topic = create.topic();
    let left = update(topic, &[&create], "left");
    let right = update(topic, &[&create], "right");
    let merge = update(topic, &[&left, &right], "merge");
    for op in [&create, &left, &right] {
        assert!(insert(&catalog, op));
    }
    let heads = |class| log::heads(&*catalog.begin_read().unwrap(), &topic, class, 10).unwrap();
    let mut both = vec![left.id(), right.id()];
    both.sort_unstable();
    assert_eq!(heads(Class::Content), both);
    assert!(insert(&catalog, &merge));
    assert_eq!(heads(Class::Content), [merge.id()]);
    // A content operation follows it, and it stays the head of its own log.
    assert_eq!(heads(Class::Access), [create.id()]);
}

#[test]
fn figures_count_each_operation_once_and_agree_with_the_range() {
    let catalog = MemoryCatalog::new();
    let create = create();
    let topic = create.topic();
    let mut last = create.clone();
    insert(&catalog, &create);
    for i in 0..20 {
        last = update(topic, &[&last], &i.to_string());
        assert!(insert(&catalog, &last));
        assert!(!insert(&catalog, &last));
    }
    let read = catalog.begin_read().unwrap();
    let stored = log::figures(&*read, &topic, Class::Content).unwrap();
    let keys = log::range_keys(&*read, &topic, Class::Content, (None, None), 100).unwrap();
    assert_eq!(keys.len(), 20);
    assert!(keys.is_sorted());
    let mut summed = Figures::default();
    keys.iter().for_each(|(_, id)| summed.add(id));
    assert_eq!(stored, summed);
    let half = log::range_figures(&*read, &topic, Class::Content, (Some(keys[5]), Some(keys[15]))).unwrap();
    assert_eq!(half.count, 10);
    let inverted = log::range_keys(&*read, &topic, Class::Content, (Some(keys[15]), Some(keys[5])), 100).unwrap();
    assert_eq!(inverted, []);
}

#[test]
fn hash_of_heads_differs_while_the_logs_differ() {
    let (here, there) = (MemoryCatalog::new(), MemoryCatalog::new());
    let create = create();
    let topic = create.topic();
    let other = update(topic, &[&create], "other");
    let hash = |catalog: &MemoryCatalog| log::heads_hash(&*catalog.begin_read().unwrap(), &topic).unwrap();
    insert(&here, &create);
    assert_ne!(hash(&here), hash(&there));
    insert(&there, &create);
    assert_eq!(hash(&here), hash(&there));
    insert(&there, &other);
    assert_ne!(hash(&here), hash(&there));
}

#[test]
fn operations_read_back_with_their_status_and_fit_the_given_size() {
    let catalog = MemoryCatalog::new();
    let create = create();
    let first = update(create.topic(), &[&create], "first");
    insert(&catalog, &create);
    insert(&catalog, &first);
    catalog.write(&mut |txn| log::set_status(txn, &first.id(), OpStatus::Void)).unwrap();
    let read = catalog.begin_read().unwrap();
    assert_eq!(log::op(&*read, &first.id()).unwrap(), Some((OpStatus::Void, first.clone())));
    assert_eq!(log::op(&*read, &create.id()).unwrap(), Some((OpStatus::Valid, create.clone())));
    let both = [create.id(), first.id()];
    assert_eq!(log::load(&*read, &both, usize::MAX).unwrap().len(), 2);
    assert_eq!(log::load(&*read, &both, 1).unwrap(), [create.bytes().to_vec()]);
    let unknown = update(create.topic(), &[&first], "unknown");
    assert_eq!(log::load(&*read, &[unknown.id(), first.id()], 1).unwrap(), [first.bytes().to_vec()]);
    assert!(catalog.write(&mut |txn| log::set_status(txn, &unknown.id(), OpStatus::Void)).is_err());
}

#[test]
fn topics_come_in_pages() {
    let catalog = MemoryCatalog::new();
    let ids: Vec<_> = (0..5).map(|i| TopicId::from_bytes([i; 32])).collect();
    for id in &ids {
        catalog.write(&mut |txn| txn.put(Table::Topics, id.as_bytes(), b"")).unwrap();
    }
    let read = catalog.begin_read().unwrap();
    assert_eq!(log::topics(&*read, None, 3).unwrap(), ids[..3]);
    assert_eq!(log::topics(&*read, Some(&ids[2]), 3).unwrap(), ids[3..]);
}
