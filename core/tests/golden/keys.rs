//! Keys of the catalog: what they are decides where a record is found and in which order.

use bib_core::catalog::keys;
use bib_core::id::{DatasetId, ManifestId, OpId, TopicId, UserId, VersionId};
use bib_core::op::{Class, Resource};
use bib_core::port::TABLES;

use crate::vocabulary::name;
use crate::{Case, TIME, check};

#[test]
fn keys_of_the_catalog() {
    let (topic, dataset) = (TopicId::from_bytes([1; 32]), DatasetId::from_bytes([2; 32]));
    let (id, user) = (OpId::from_bytes([3; 32]), UserId::from_bytes([4; 32]));
    let at = (300, id);
    let number = semver::Version::parse("1.2.3-rc.1+b").unwrap();
    let cases = [
        Case::plain("op_order.access", keys::op_order(&topic, Class::Access, at)),
        Case::plain("op_order.content", keys::op_order(&topic, Class::Content, at)),
        Case::plain("head", keys::head(&topic, Class::Content, &id)),
        Case::plain("log_figures", keys::log_figures(&topic, Class::Access)),
        Case::plain("tree_member", keys::tree_member(&topic, &topic)),
        Case::plain("tree_revision", keys::tree_revision(&topic)),
        Case::plain("dataset_count", keys::dataset_count(&topic)),
        Case::plain("grace_clock", keys::GRACE_CLOCK.to_vec()),
        Case::plain("worker", keys::worker("gc")),
        Case::plain("topic_bytes", keys::topic_bytes(&topic)),
        Case::plain("user_bytes", keys::user_bytes(&user)),
        Case::plain("charged", keys::CHARGED.to_vec()),
        Case::plain("kept", keys::kept(&ManifestId::from_bytes([5; 32]))),
        Case::plain("op_by_author", keys::op_by_author(&topic, &user, at)),
        Case::plain("op_about", keys::op_about(&id, at)),
        Case::plain("op_frontier", keys::op_frontier(&id)),
        Case::plain("parked", keys::parked(&topic, &id)),
        Case::plain("waits_for", keys::waits_for(&id, &id)),
        Case::plain("parked_figures", keys::parked_figures(&topic)),
        Case::plain("parked_until", keys::parked_until(TIME, &id)),
        Case::plain("parked_since", keys::parked_since(TIME, &id)),
        Case::plain("topic_name.root", keys::topic_name(None, &name("wetter"), at)),
        Case::plain("topic_name.below", keys::topic_name(Some(&topic), &name("größe"), at)),
        Case::plain("dataset_name", keys::dataset_name(&topic, &name("temps"), at)),
        Case::plain("version_order", keys::version_order(&dataset, at)),
        Case::plain("version_number.pre", keys::version_number(&dataset, &number, at)),
        Case::plain("version_number.release", keys::version_number(&dataset, &semver::Version::new(1, 2, 3), at)),
        Case::plain("grant.topic", keys::grant(&Resource::Topic(topic), &user)),
        Case::plain("grant.dataset", keys::grant(&Resource::Dataset(dataset), &user)),
        Case::plain("field", keys::field(&id, 7)),
        Case::plain("pin", keys::pin(&ManifestId::from_bytes([5; 32]))),
        Case::plain("transfer", keys::transfer(&VersionId::from_bytes([6; 32]))),
    ];
    check("keys", &cases);
}

#[test]
fn tables_of_the_catalog() {
    let tables: Vec<Case> = TABLES
        .iter()
        .enumerate()
        .map(|(number, (_, name))| Case::plain(format!("{number:02}"), name.as_bytes().to_vec()))
        .collect();
    check("tables", &tables);
}
