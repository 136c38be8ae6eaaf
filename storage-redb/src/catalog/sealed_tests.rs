use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::{Bound, ControlFlow};
use std::path::Path;
use std::sync::Arc;

use bib_core::catalog::keys;
use bib_core::hash::hash;
use bib_core::id::{DatasetId, ManifestId, OpId, TopicId};
use bib_core::limits::MAX_SORTED_NAMES;
use bib_core::port::{Catalog, CatalogRead, CatalogTxn, KeyRange, Order, StoreError, TABLES, Table};
use redb::ReadableTable;
use zeroize::Zeroizing;

use super::{NAME, RedbCatalog, definition};
use crate::crypto::{Cipher, Keyring};
use crate::database::Store;
use crate::disk::Folder;

const CACHE: usize = 1 << 20;

fn keyring(data: &[u8], names: u8) -> Option<Arc<Keyring>> {
    let keys = data.iter().zip(1..).map(|(byte, id)| (id, Zeroizing::new([*byte; 32]))).collect();
    Some(Arc::new(Keyring::new(keys, &[100; 32], &[names; 32]).unwrap()))
}

fn open(path: &Path, keyring: Option<Arc<Keyring>>) -> Result<RedbCatalog, StoreError> {
    RedbCatalog::open_with(&Folder::new(path.to_owned()).unwrap(), CACHE, keyring)
}

type Model = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

fn put_all(catalog: &RedbCatalog, model: &Model) {
    let work =
        &mut |txn: &mut dyn CatalogTxn| model.iter().try_for_each(|((table, key), value)| txn.put(*table, key, value));
    catalog.write(work).unwrap();
}

fn shown(read: &dyn CatalogRead, table: Table, range: KeyRange<'_>, order: Order, most: usize) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    read.scan(table, range, order, &mut |key, _| {
        found.push(key.to_vec());
        if found.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })
    .unwrap();
    found
}

fn assert_is(catalog: &RedbCatalog, model: &Model) {
    let read = catalog.begin_read().unwrap();
    for ((table, key), value) in model {
        assert_eq!(read.get(*table, key).unwrap().as_ref(), Some(value), "{table:?}");
    }
    for (table, _) in TABLES {
        let expected: Vec<_> = model.iter().filter(|((of, _), _)| *of == table).collect();
        assert_eq!(read.len(table).unwrap(), expected.len() as u64);
        let mut entries = expected.iter();
        read.scan(table, (Bound::Unbounded, Bound::Unbounded), Order::Ascending, &mut |key, value| {
            let ((_, expected), expected_value) = entries.next().unwrap();
            assert_eq!((key, value), (expected.as_slice(), expected_value.as_slice()), "{table:?}");
            ControlFlow::Continue(())
        })
        .unwrap();
        assert!(entries.next().is_none(), "{table:?}");
    }
}

fn at(seed: u64) -> (u64, OpId) {
    (seed % 7, OpId::from_bytes(hash(&seed.to_le_bytes())))
}

fn name(seed: u64) -> bib_core::model::Name {
    format!("harvest{}", seed % 40).parse().unwrap()
}

/// Something in every table, with names and text that can be looked for in the file.
fn model(n: u64) -> Model {
    let mut model = Model::new();
    for i in 0..n {
        let topic = TopicId::from_bytes(hash(&(i % 3).to_le_bytes()));
        let dataset = DatasetId::from_bytes(hash(&(i % 2).to_le_bytes()));
        let manifest = ManifestId::from_bytes(hash(format!("manifest {i}").as_bytes()));
        let number = format!("{}.{}.1-prerelease{}", i % 4, i % 5, i % 3).parse().unwrap();
        let text = format!("confidential {i}").into_bytes();
        model.insert((Table::TopicNames, keys::topic_name(Some(&topic), &name(i), at(i))), Vec::new());
        model.insert((Table::DatasetNames, keys::dataset_name(&topic, &name(i), at(i))), Vec::new());
        model.insert((Table::VersionNumbers, keys::version_number(&dataset, &number, at(i))), vec![0]);
        model.insert((Table::Pins, keys::pin(&manifest)), text.clone());
        model.insert((Table::Meta, keys::kept(&manifest)), text.clone());
        model.insert((Table::Meta, keys::dataset_count(&topic)), vec![1; 8]);
        model.insert((Table::Ops, hash(&i.to_le_bytes()).to_vec()), text.repeat(1 + i as usize % 50));
    }
    model
}

#[test]
fn sealed_catalog_shows_what_a_plain_one_shows_in_the_same_order() {
    let (plain_dir, sealed_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let plain = open(plain_dir.path(), None).unwrap();
    let sealed = open(sealed_dir.path(), keyring(&[1], 101)).unwrap();
    let mut model = model(200);
    // Keys that end within their hidden part, and before it.
    for table in [Table::TopicNames, Table::VersionNumbers, Table::Pins, Table::Meta] {
        for key in [&b""[..], b"k", b"kept", b"kept!", &[7; 32], &[7; 33], &[0xff; 32], &[0xff; 80]] {
            model.insert((table, key.to_vec()), b"odd".to_vec());
        }
    }
    put_all(&plain, &model);
    put_all(&sealed, &model);
    assert_is(&sealed, &model);
    let (plain, sealed) = (plain.begin_read().unwrap(), sealed.begin_read().unwrap());
    let tables = [Table::TopicNames, Table::DatasetNames, Table::VersionNumbers, Table::Pins, Table::Meta];
    let mut n_not_empty = 0;
    for seed in 0..400_u64 {
        let noise = hash(&seed.to_le_bytes());
        let table = tables[usize::from(noise[0]) % tables.len()];
        let of_table: Vec<_> = model.keys().filter(|(of, _)| *of == table).map(|(_, key)| key).collect();
        let mut bounds = [1, 2].map(|i| {
            let key = of_table[usize::from(u16::from_le_bytes([noise[i], noise[i + 4]])) % of_table.len()].clone();
            key[..key.len().min(usize::from(noise[i + 8]) * key.len() / 200)].to_vec()
        });
        if seed % 2 == 0 {
            // All that begins with something, as lists and look-ups ask.
            bounds[1] = keys::after_prefix(&bounds[0]).unwrap_or_default();
        }
        let bound = |i: usize| match noise[16 + i] % 5 {
            0 => Bound::Unbounded,
            1 | 2 => Bound::Included(bounds[i].as_slice()),
            _ => Bound::Excluded(bounds[i].as_slice()),
        };
        let range = (bound(0), bound(1));
        let most = [usize::MAX, 1, 5][usize::from(noise[20]) % 3];
        for order in [Order::Ascending, Order::Descending] {
            let expected = shown(plain.as_ref(), table, range, order, most);
            n_not_empty += u32::from(!expected.is_empty());
            assert_eq!(shown(sealed.as_ref(), table, range, order, most), expected, "{table:?} {range:?}");
        }
    }
    assert!(n_not_empty > 250, "{n_not_empty}");
}

#[test]
fn names_of_one_topic_come_in_order_and_once_however_many_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path(), keyring(&[1], 101)).unwrap();
    let n = 2 * MAX_SORTED_NAMES as u64 + 300;
    let topic = TopicId::from_bytes([5; 32]);
    let names = (0..n).map(|i| keys::dataset_name(&topic, &format!("d{}", i * 7 % n).parse().unwrap(), at(i)));
    put_all(&catalog, &names.map(|key| ((Table::DatasetNames, key), Vec::new())).collect());
    let read = catalog.begin_read().unwrap();
    let all =
        shown(read.as_ref(), Table::DatasetNames, (Bound::Unbounded, Bound::Unbounded), Order::Ascending, usize::MAX);
    assert!(all.is_sorted() && all.len() == n as usize);
    let mut back =
        shown(read.as_ref(), Table::DatasetNames, (Bound::Unbounded, Bound::Unbounded), Order::Descending, usize::MAX);
    back.reverse();
    assert_eq!(back, all);
    let mut paged: Vec<Vec<u8>> = Vec::new();
    loop {
        let after = paged.last().map_or(Bound::Unbounded, |last| Bound::Excluded(last.as_slice()));
        let page = shown(read.as_ref(), Table::DatasetNames, (after, Bound::Unbounded), Order::Ascending, 500);
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, all);
}

/// Whether any of the bytes stand in any file of a folder.
fn is_found(path: &Path, wanted: &[Vec<u8>]) -> bool {
    fs::read_dir(path).unwrap().any(|entry| {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        wanted.iter().any(|wanted| bytes.windows(wanted.len()).any(|window| window == wanted))
    })
}

#[test]
fn names_numbers_text_and_manifests_are_in_no_file() {
    let secrets: Vec<Vec<u8>> =
        vec![b"harvest".to_vec(), b"prerelease".to_vec(), b"confidential".to_vec(), hash(b"manifest 3").to_vec()];
    let plain = tempfile::tempdir().unwrap();
    put_all(&open(plain.path(), None).unwrap(), &model(60));
    for secret in &secrets {
        assert!(is_found(plain.path(), std::slice::from_ref(secret)), "a plain catalog shows what is looked for");
    }
    let sealed = tempfile::tempdir().unwrap();
    put_all(&open(sealed.path(), keyring(&[1], 101)).unwrap(), &model(60));
    assert!(!is_found(sealed.path(), &secrets));
    // The same when it was plain before.
    drop(open(plain.path(), keyring(&[1], 101)).unwrap());
    assert!(!is_found(plain.path(), &secrets));
}

#[test]
fn plain_catalog_is_sealed_when_it_is_opened_with_keys_and_stays_so() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(2_000);
    put_all(&open(dir.path(), None).unwrap(), &model);
    for _ in 0..2 {
        let catalog = open(dir.path(), keyring(&[1], 101)).unwrap();
        assert_is(&catalog, &model);
    }
    let refused = open(dir.path(), None).unwrap_err();
    assert!(matches!(&refused, StoreError::Sealed(why) if why.contains("crypto.enabled")), "{refused}");
    assert_is(&open(dir.path(), keyring(&[1], 101)).unwrap(), &model);
    assert!(!dir.path().join("catalog.redb.new").exists());
}

#[test]
fn wrong_keys_are_refused_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    put_all(&open(dir.path(), keyring(&[1, 2], 101)).unwrap(), &model(50));
    for (wrong, what) in [
        (keyring(&[1, 3], 101), "data key 2 is not the one"),
        (keyring(&[1, 2], 102), "catalog key is not the one"),
        (keyring(&[1], 101), "data key 2 of catalog.redb is not among the keys"),
    ] {
        let refused = open(dir.path(), wrong).unwrap_err();
        assert!(matches!(&refused, StoreError::Sealed(why) if why.contains(what)), "{refused}");
    }
    assert!(!dir.path().join("catalog.redb.new").exists());
    assert_is(&open(dir.path(), keyring(&[1, 2], 101)).unwrap(), &model(50));
}

#[test]
fn values_of_all_data_keys_and_ciphers_are_read_and_a_new_key_is_noted() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = model(10);
    put_all(&open(dir.path(), keyring(&[1], 101)).unwrap(), &model);
    let ring = Keyring::new([(1, Zeroizing::new([1; 32]))].into(), &[100; 32], &[101; 32]).unwrap();
    let ring = Arc::new(ring.with_cipher(Cipher::ChaCha20Poly1305));
    let catalog = open(dir.path(), Some(ring.clone())).unwrap();
    ring.add_data_key(2, Zeroizing::new([2; 32])).unwrap();
    model.insert((Table::Ops, b"new".to_vec()), b"value".to_vec());
    put_all(&catalog, &[((Table::Ops, b"new".to_vec()), b"value".to_vec())].into());
    assert_is(&catalog, &model);
    drop(catalog);
    let refused = open(dir.path(), keyring(&[1], 101)).unwrap_err();
    assert!(matches!(refused, StoreError::Sealed(_)), "{refused}");
    assert_is(&open(dir.path(), keyring(&[1, 2, 3], 101)).unwrap(), &model);
}

#[test]
fn value_that_was_moved_or_changed_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let ops = TABLES.iter().position(|(table, _)| *table == Table::Ops).unwrap();
    let model: Model =
        [(b"a", b"1"), (b"b", b"2")].map(|(key, value)| ((Table::Ops, key.to_vec()), value.to_vec())).into();
    type Change = fn(&mut Vec<u8>, &[u8]);
    let changes: [Change; 4] = [
        |value, other| *value = other.to_vec(),
        |value, _| value[20] ^= 1,
        |value, _| value.truncate(value.len() - 1),
        |value, _| value.clear(),
    ];
    for change in changes {
        put_all(&open(dir.path(), keyring(&[1], 101)).unwrap(), &model);
        let store = Store::open(&Folder::new(dir.path().to_owned()).unwrap(), NAME, CACHE, |_| Ok(())).unwrap();
        store
            .write(|txn| {
                let mut table = txn.open_table(definition(ops)).unwrap();
                let [mut a, b] = [b"a", b"b"].map(|key| table.get(key.as_slice()).unwrap().unwrap().value().to_vec());
                change(&mut a, &b);
                table.insert(b"a".as_slice(), a.as_slice()).unwrap();
                Ok(())
            })
            .unwrap();
        drop(store);
        let catalog = open(dir.path(), keyring(&[1], 101)).unwrap();
        let read = catalog.begin_read().unwrap();
        let refused = read.get(Table::Ops, b"a").unwrap_err();
        assert!(matches!(&refused, StoreError::Corrupt(why) if why.contains("Ops")), "{refused}");
        assert_eq!(read.get(Table::Ops, b"b").unwrap(), Some(b"2".to_vec()));
        let all = (Bound::Unbounded, Bound::Unbounded);
        let seen = read.scan(Table::Ops, all, Order::Ascending, &mut |_, _| ControlFlow::Continue(()));
        assert!(matches!(seen, Err(StoreError::Corrupt(_))), "{seen:?}");
    }
}

#[test]
fn no_two_values_are_sealed_with_one_nonce() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path(), keyring(&[1], 101)).unwrap();
    put_all(&catalog, &model(200));
    drop(catalog);
    let store = Store::open(&Folder::new(dir.path().to_owned()).unwrap(), NAME, CACHE, |_| Ok(())).unwrap();
    let read = store.read().unwrap();
    let (mut nonces, mut n) = (BTreeSet::new(), 0);
    for index in 0..TABLES.len() {
        for entry in read.open_table(definition(index)).unwrap().iter().unwrap() {
            let (_, value) = entry.unwrap();
            nonces.insert(value.value()[5..17].to_vec());
            n += 1;
        }
    }
    assert!(n > 1_000, "{n}");
    assert_eq!(nonces.len(), n);
}
