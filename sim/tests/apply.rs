//! The one door: what the catalog says follows from the set of operations, in every order of arrival, and is what a
//! naive model says.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bib_core::api::request::{ContextFor, Paging};
use bib_core::catalog::record::{Charge, Kept};
use bib_core::catalog::resolve::{self, ResolveError};
use bib_core::catalog::{content, list, log, record};
use bib_core::command::{Applied, Command, OpOutcome, Origin, Refused};
use bib_core::id::{DatasetId, ManifestId, OpId, TopicId, VersionId};
use bib_core::limits;
use bib_core::model::{Dataset, DatasetStatus, Name, Topic, TopicStatus, Version, Visibility};
use bib_core::op::operation::{FieldChanges, NewVersion};
use bib_core::op::{Body, Class, Operation, Resource, Role};
use bib_core::port::Table;
use bib_core::time::Timestamp;
use bib_core::wire::message::FindQuery;
use bib_sim::node::{CatalogNode, PEER, new_version, nothing, sign, user};
use bib_sim::reference::catalog::Model;
use bib_sim::rng::Rng;

const NOW: Timestamp = Timestamp(1_800_000_000_000_000);
const HOUR: Duration = Duration::from_secs(3_600);
const EXPIRE: Command = Command::Expire { min_age: limits::RELEASED_FOR };
/// Without grace.
const NOW_OR_NEVER: Command = Command::Expire { min_age: Duration::ZERO };
const ALL: Paging = Paging { limit: 1_000, offset: 0 };

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn create_topic(text: &str, parent: Option<TopicId>) -> Body {
    let fields = FieldChanges::default();
    Body::CreateTopic { parent, name: name(text), visibility: Visibility::Public, fields }
}

fn create_dataset(text: &str) -> Body {
    Body::CreateDataset { name: name(text), fields: FieldChanges::default() }
}

fn publish(dataset: DatasetId, number: &str) -> Body {
    let manifest = ManifestId::from_bytes(bib_core::hash::hash(number.as_bytes()));
    Body::PublishVersion(new_version(dataset, number.parse().unwrap(), manifest))
}

fn describe(dataset: DatasetId, text: &str) -> Body {
    let fields = FieldChanges { description: Some(text.to_owned()), ..FieldChanges::default() };
    Body::UpdateDataset { dataset, fields }
}

fn grant(topic: TopicId, to: u8, role: Role) -> Body {
    Body::Grant { resource: Resource::Topic(topic), user: user(to), role, expires_at: None }
}

fn revoke(topic: TopicId, from: u8) -> Body {
    Body::Revoke { resource: Resource::Topic(topic), user: user(from), keep_below: false }
}

fn wanted(topic: TopicId, body: &Body) -> ContextFor {
    match body.class() {
        Class::Content => ContextFor::Content(topic),
        _ if body.is_removal() => ContextFor::Removal(topic),
        _ => ContextFor::Access(topic),
    }
}

/// A node with what a story needs.
#[derive(Default)]
struct Story(CatalogNode);

impl Story {
    /// A root topic `weather` of user 1.
    fn begin() -> (Self, TopicId) {
        let mut story = Self::default();
        let op = sign(1, None, nothing(), NOW, create_topic("weather", None));
        assert_eq!(story.submit(&op), OpOutcome::New);
        (story, op.topic())
    }

    /// The same catalog, elsewhere.
    fn fork(&self) -> Self {
        let mut other = Self::default();
        other.learn(self);
        other
    }

    fn make(&mut self, by: u8, topic: TopicId, body: Body) -> Operation {
        let context = self.0.context(wanted(topic, &body)).unwrap();
        let in_topic = (!matches!(body, Body::CreateTopic { .. })).then_some(topic);
        sign(by, in_topic, context, NOW, body)
    }

    fn submit(&mut self, op: &Operation) -> OpOutcome {
        self.0.take(std::slice::from_ref(op), Origin::User, NOW).outcomes[0].clone()
    }

    fn hear(&mut self, op: &Operation) -> OpOutcome {
        self.0.take(std::slice::from_ref(op), PEER, NOW).outcomes[0].clone()
    }

    /// Does something as a user of this node.
    fn act(&mut self, by: u8, topic: TopicId, body: Body) -> Operation {
        let op = self.make(by, topic, body);
        assert_eq!(self.submit(&op), OpOutcome::New, "{:?}", op.body);
        op
    }

    fn refused(&mut self, by: u8, topic: TopicId, body: Body) -> Refused {
        let op = self.make(by, topic, body);
        let before = self.0.dump();
        let OpOutcome::Refused(refused) = self.submit(&op) else { panic!("not refused: {:?}", op.body) };
        assert_eq!(self.0.dump(), before, "what is refused changes nothing");
        refused
    }

    fn dataset(&mut self, by: u8, topic: TopicId, text: &str) -> DatasetId {
        self.act(by, topic, create_dataset(text)).id().into()
    }

    fn learn(&mut self, other: &Self) {
        let mut ops: Vec<Operation> = other.0.ops.values().cloned().collect();
        ops.sort_by_key(Operation::position);
        self.0.take(&ops, PEER, NOW);
    }

    fn view_dataset(&self, id: DatasetId) -> Option<Dataset> {
        record::dataset(&*self.0.read(), &id).unwrap()
    }

    fn view_version(&self, id: OpId) -> Option<Version> {
        record::version(&*self.0.read(), &VersionId::from(id)).unwrap()
    }

    fn view_topic(&self, id: TopicId) -> Topic {
        record::topic(&*self.0.read(), &id).unwrap().unwrap()
    }

    fn paths(&self) -> Vec<String> {
        let listed = list::datasets(&*self.0.read(), None, ALL).unwrap();
        assert_eq!(listed.total, listed.items.len() as u64);
        listed.items.into_iter().map(|item| item.path).collect()
    }
}

/// Both learn of each other, and must then say the same.
fn meet(a: &mut Story, b: &mut Story) {
    let before = a.fork();
    a.learn(b);
    b.learn(&before);
    b.learn(a);
    assert_eq!(a.0.dump(), b.0.dump());
}

#[test]
fn what_is_published_can_be_named_and_listed() {
    let (mut story, topic) = Story::begin();
    let dataset = story.dataset(1, topic, "temps");
    let first = story.act(1, topic, publish(dataset, "1.0.0"));
    let second = story.act(1, topic, publish(dataset, "1.1.0"));
    let pre = story.act(1, topic, publish(dataset, "2.0.0-rc.1"));
    let read = story.0.read();
    let version = |text: &str| resolve::version(&*read, &text.parse().unwrap()).unwrap().1.id.into();
    let by_id = VersionId::from(pre.id()).short();
    let named: Vec<OpId> =
        ["weather/temps", "weather/temps@1.0.0", "weather/temps@1", "weather/temps@1.0", "weather/temps@2"]
            .into_iter()
            .map(version)
            .collect();
    assert_eq!(named, [second.id(), first.id(), second.id(), first.id(), pre.id()]);
    assert_eq!(version(&format!("weather/temps@{by_id}")), pre.id());
    let found =
        list::find(&*read, &FindQuery { text: Some("TEM".to_owned()), limit: 10, ..FindQuery::default() }).unwrap();
    assert_eq!((found.total, found.items[0].path.as_str()), (1, "weather/temps"));
    let versions = list::versions(&*read, &"weather/temps".parse().unwrap(), ALL).unwrap();
    let order: Vec<OpId> = versions.items.iter().map(|item| item.version.id.into()).collect();
    assert_eq!((versions.total, order), (3, vec![pre.id(), second.id(), first.id()]));
}

#[test]
fn what_is_not_there_or_means_several_things_is_told_with_what_helps() {
    let (mut story, topic) = Story::begin();
    let dataset = story.dataset(1, topic, "temps");
    let mut elsewhere = story.fork();
    let describe = |text: &str| FieldChanges { description: Some(text.to_owned()), ..FieldChanges::default() };
    let others: Vec<Operation> = (0..3)
        .map(|i| {
            elsewhere.make(1, topic, Body::CreateDataset { name: name("temps"), fields: describe(&i.to_string()) })
        })
        .collect();
    others.iter().for_each(|op| assert_eq!(story.hear(op), OpOutcome::New));
    let dataset_error =
        |story: &Story, text: &str| resolve::dataset(&*story.0.read(), &text.parse().unwrap()).unwrap_err();
    let version_error =
        |story: &Story, text: &str| resolve::version(&*story.0.read(), &text.parse().unwrap()).unwrap_err();
    assert_eq!(dataset_error(&story, "wether/x").to_string(), "there is no topic `wether`");
    assert_eq!(dataset_error(&story, "weather/daily/x").to_string(), "there is no topic `weather/daily`");
    assert_eq!(dataset_error(&story, "weather/x").to_string(), "there is no dataset `x` in `weather`");
    let ResolveError::Ambiguous { text, candidates } = dataset_error(&story, "weather/temps~d") else { panic!() };
    assert_eq!((text.as_str(), candidates.len()), ("temps~d", 4));
    for candidate in &candidates {
        let meant = format!("weather/{candidate}").parse().unwrap();
        assert!(resolve::dataset(&*story.0.read(), &meant).is_ok(), "a candidate means one thing");
    }
    assert_eq!(version_error(&story, "weather/temps").to_string(), "`weather/temps` has no version yet");
    story.act(1, topic, publish(dataset, "1.0.0"));
    let error = version_error(&story, "weather/temps@2");
    assert!(error.is_not_found());
    assert!(matches!(error, ResolveError::NoVersion { latest: Some(latest), .. } if latest.to_string() == "1.0.0"));
    assert!(story.0.context(ContextFor::Content(TopicId::from_bytes([9; 32]))).is_err());
}

#[test]
fn log_of_a_topic_is_listed_newest_first_by_pages() {
    let (mut story, topic) = Story::begin();
    let dataset = story.dataset(1, topic, "temps");
    for i in 0..4 {
        story.act(1, topic, publish(dataset, &format!("1.0.{i}")));
        story.act(1, topic, grant(topic, 2 + i, Role::Reader));
    }
    let mut expected: Vec<&Operation> = story.0.ops.values().collect();
    expected.sort_by_key(|op| std::cmp::Reverse(op.position()));
    let expected: Vec<OpId> = expected.into_iter().map(Operation::id).collect();
    let pages = [0, 4, 8, 12].map(|offset| list::ops(&*story.0.read(), &topic, Paging { limit: 4, offset }).unwrap());
    assert!(pages.iter().all(|page| page.total == 10));
    assert_eq!(pages.into_iter().flat_map(|page| page.items).collect::<Vec<_>>(), expected);
}

#[test]
fn user_is_refused_what_the_present_state_does_not_allow() {
    let (mut story, topic) = Story::begin();
    let dataset = story.dataset(1, topic, "temps");
    story.act(1, topic, publish(dataset, "1.0.0"));
    assert!(matches!(story.refused(1, topic, create_dataset("temps")), Refused::Exists(_)));
    assert!(matches!(story.refused(1, topic, publish(dataset, "1.0.0")), Refused::Exists(_)));
    assert!(matches!(story.refused(2, topic, publish(dataset, "1.0.1")), Refused::Denied(_)));
    assert!(matches!(story.refused(1, topic, revoke(topic, 1)), Refused::LastOwner(_)));
    assert!(matches!(story.refused(1, topic, Body::RestoreTopic), Refused::Precondition(_)));
    let sub = story.act(1, topic, create_topic("daily", Some(topic))).topic();
    let fields = FieldChanges { description: Some("again".to_owned()), ..FieldChanges::default() };
    let again = Body::CreateTopic { parent: Some(topic), name: name("daily"), visibility: Visibility::Public, fields };
    assert!(matches!(story.refused(1, topic, again), Refused::Exists(_)));
    assert!(matches!(story.refused(1, topic, Body::DeleteTopic { force: false }), Refused::Precondition(_)));
    story.act(1, sub, Body::DeleteTopic { force: false });
    story.act(1, topic, Body::ArchiveDataset { dataset });
    assert!(matches!(story.refused(1, topic, publish(dataset, "1.0.1")), Refused::Archived(_)));
    story.act(1, topic, Body::ArchiveTopic);
    assert!(matches!(story.refused(1, topic, Body::RestoreDataset { dataset }), Refused::Archived(_)));
    story.act(1, topic, Body::RestoreTopic);
    story.act(1, topic, Body::RestoreDataset { dataset });
    assert_eq!(story.view_dataset(dataset).unwrap().status, DatasetStatus::Active);
    let context = story.0.context(ContextFor::Content(topic)).unwrap();
    let late = sign(1, Some(topic), context, NOW.saturating_add(limits::CLOCK_SKEW * 2), create_dataset("late"));
    assert_eq!(story.submit(&late), OpOutcome::Refused(Refused::Clock));
}

#[test]
fn operations_of_a_user_are_taken_together_or_not_at_all() {
    let (mut story, topic) = Story::begin();
    let good = story.make(1, topic, create_dataset("temps"));
    let context = story.0.context(ContextFor::Access(topic)).unwrap();
    let bad = sign(2, Some(topic), context, NOW, Body::ArchiveTopic);
    let before = story.0.dump();
    let applied = story.0.take(&[good.clone(), bad, good.clone()], Origin::User, NOW);
    assert!(matches!(
        applied.outcomes[..],
        [OpOutcome::Undone, OpOutcome::Refused(Refused::Denied(_)), OpOutcome::Undone]
    ));
    assert_eq!((applied.new, applied.versions), (vec![], vec![]));
    assert_eq!(story.0.dump(), before);
    assert_eq!(story.submit(&good), OpOutcome::New);
    assert_eq!(story.submit(&good), OpOutcome::Known);
}

#[test]
fn known_operations_change_nothing() {
    let (mut story, topic) = Story::begin();
    let dataset = story.dataset(1, topic, "temps");
    let version = story.act(1, topic, publish(dataset, "1.0.0"));
    let before = story.0.dump();
    let ops: Vec<Operation> = story.0.ops.values().cloned().collect();
    let applied = story.0.take(&ops, PEER, NOW);
    assert!(applied.outcomes.iter().all(|outcome| *outcome == OpOutcome::Known));
    assert_eq!((applied.new, applied.versions), (vec![], vec![]));
    assert_eq!(story.hear(&version), OpOutcome::Known);
    assert_eq!(story.0.dump(), before);
}

#[test]
fn owners_who_revoke_each_other_leave_the_same_content_everywhere() {
    let (mut a, topic) = Story::begin();
    a.act(1, topic, grant(topic, 2, Role::Owner));
    a.act(1, topic, grant(topic, 3, Role::Owner));
    let mut b = a.fork();
    a.act(3, topic, revoke(topic, 2));
    let by_three = a.dataset(3, topic, "three");
    b.act(2, topic, revoke(topic, 3));
    let by_two = b.dataset(2, topic, "two");
    let version = b.act(2, topic, publish(by_two, "1.0.0"));
    meet(&mut a, &mut b);
    for node in [&a, &b] {
        assert_eq!(node.view_dataset(by_three), None, "the right of user 2 is older");
        assert_eq!(node.paths(), ["weather/two"]);
        assert!(node.view_version(version.id()).is_some());
    }
}

#[test]
fn backdated_content_of_a_removed_user_is_void_and_what_they_had_done_stays() {
    let (mut story, topic) = Story::begin();
    story.act(1, topic, grant(topic, 2, Role::Contributor));
    let seen = story.dataset(2, topic, "seen");
    let backdated = story.make(2, topic, create_dataset("backdated"));
    let mut elsewhere = story.fork();
    story.act(1, topic, revoke(topic, 2));
    let unseen = elsewhere.act(2, topic, publish(seen, "1.0.0"));
    let other = elsewhere.act(1, topic, publish(seen, "2.0.0"));
    assert_eq!(story.hear(&backdated), OpOutcome::New, "it is in the log, since others may rest on it");
    assert_eq!(story.view_dataset(backdated.id().into()), None);
    meet(&mut story, &mut elsewhere);
    elsewhere.hear(&backdated);
    for node in [&story, &elsewhere] {
        assert_eq!(node.paths(), ["weather/seen"]);
        assert_eq!(node.view_version(unseen.id()), None);
        assert!(node.view_version(other.id()).is_some(), "another user's version stays");
        let read = node.0.read();
        assert_eq!(log::op_bytes(&*read, &unseen.id()).unwrap().unwrap().0, log::OpStatus::Void);
    }
    assert!(matches!(story.refused(2, topic, create_dataset("more")), Refused::Denied(_)));
}

#[test]
fn what_rests_on_void_content_has_no_effect() {
    let (mut story, topic) = Story::begin();
    story.act(1, topic, grant(topic, 2, Role::Contributor));
    let mut elsewhere = story.fork();
    story.act(1, topic, revoke(topic, 2));
    let dataset = elsewhere.dataset(2, topic, "void");
    let version = elsewhere.act(1, topic, publish(dataset, "1.0.0"));
    assert!(elsewhere.view_version(version.id()).is_some());
    meet(&mut story, &mut elsewhere);
    assert_eq!((elsewhere.view_dataset(dataset), elsewhere.view_version(version.id())), (None, None));
    assert_eq!(elsewhere.paths(), [""; 0]);
}

#[test]
fn content_that_a_removal_keeps_counts_when_it_comes_after_the_removal() {
    let (mut story, topic) = Story::begin();
    story.act(1, topic, grant(topic, 2, Role::Contributor));
    let dataset = story.dataset(2, topic, "temps");
    let version = story.act(2, topic, publish(dataset, "1.0.0"));
    story.act(1, topic, revoke(topic, 2));
    let mut late = Story::default();
    let mut ops: Vec<Operation> = story.0.ops.values().cloned().collect();
    // All access operations, then content: as a node does that syncs the access log alone first.
    ops.sort_by_key(|op| (op.class(), op.position()));
    let applied: Vec<Applied> = ops.iter().map(|op| late.0.take(std::slice::from_ref(op), PEER, NOW)).collect();
    assert!(late.view_version(version.id()).is_some());
    assert_eq!(applied.last().unwrap().versions, [VersionId::from(version.id())], "it counts from then on");
    assert_eq!(late.0.dump(), story.0.dump());
}

#[test]
fn a_right_on_one_dataset_is_for_that_one_alone() {
    let (mut story, topic) = Story::begin();
    let (dataset, other) = (story.dataset(1, topic, "temps"), story.dataset(1, topic, "winds"));
    let resource = Resource::Dataset(dataset);
    let give = Body::Grant { resource, user: user(2), role: Role::Contributor, expires_at: None };
    story.act(1, topic, give);
    let mut elsewhere = story.fork();
    story.act(2, topic, publish(dataset, "1.0.0"));
    assert!(matches!(story.refused(2, topic, publish(other, "1.0.0")), Refused::Denied(_)));
    assert!(matches!(story.refused(2, topic, Body::DeleteDataset { dataset }), Refused::Denied(_)));
    story.act(1, topic, Body::Revoke { resource, user: user(2), keep_below: false });
    assert!(matches!(story.refused(2, topic, publish(dataset, "1.0.1")), Refused::Denied(_)));
    let unseen = elsewhere.act(2, topic, publish(dataset, "2.0.0"));
    meet(&mut story, &mut elsewhere);
    assert_eq!(story.view_version(unseen.id()), None);
    assert_eq!(story.view_dataset(dataset).unwrap().version_count, 1);
}

#[test]
fn a_topic_keeps_its_last_owner() {
    let (mut a, topic) = Story::begin();
    a.act(1, topic, grant(topic, 2, Role::Owner));
    let mut b = a.fork();
    let first = a.act(1, topic, revoke(topic, 1));
    let second = b.act(2, topic, revoke(topic, 2));
    meet(&mut a, &mut b);
    let last = if first.position() > second.position() { 1 } else { 2 };
    let members = list::members(&*a.0.read(), &topic, 10).unwrap();
    assert_eq!(members, [(Resource::Topic(topic), user(last), Role::Owner, None)]);
    assert!(matches!(a.refused(last, topic, revoke(topic, last)), Refused::LastOwner(_)));
}

#[test]
fn datasets_of_one_name_are_told_apart_and_the_oldest_holds_it() {
    let (mut a, topic) = Story::begin();
    a.act(1, topic, grant(topic, 2, Role::Contributor));
    let mut b = a.fork();
    let one = a.dataset(1, topic, "temps");
    let two = b.dataset(2, topic, "temps");
    meet(&mut a, &mut b);
    let (holder, other) = if one < two { (one, two) } else { (two, one) };
    assert_eq!(a.paths(), ["weather/temps".to_owned(), format!("weather/temps~{}", other.short())]);
    let id_of = |story: &Story, text: &str| resolve::dataset(&*story.0.read(), &text.parse().unwrap()).unwrap().1.id;
    assert_eq!(id_of(&a, "weather/temps"), holder);
    assert_eq!(id_of(&a, &format!("weather/temps~{}", other.short())), other);
    assert_eq!(a.view_dataset(other).map(|dataset| dataset.name_taken), Some(true));
    a.act(1, topic, Body::DeleteDataset { dataset: holder });
    assert_eq!(id_of(&a, "weather/temps"), other, "a tombstone holds no name");
    assert_eq!(a.paths(), ["weather/temps"]);
}

#[test]
fn versions_of_one_number_are_told_apart_and_the_oldest_is_meant() {
    let (mut a, topic) = Story::begin();
    let dataset = a.dataset(1, topic, "temps");
    a.act(1, topic, grant(topic, 2, Role::Contributor));
    let mut b = a.fork();
    let one = a.act(1, topic, publish(dataset, "1.0.0"));
    let two = b.act(2, topic, publish(dataset, "1.0.0"));
    meet(&mut a, &mut b);
    let (holder, other) = if one.position() < two.position() { (&one, &two) } else { (&two, &one) };
    let taken = |op: &Operation| a.view_version(op.id()).unwrap().semver_taken;
    assert_eq!((taken(holder), taken(other)), (false, true));
    let meant = resolve::version(&*a.0.read(), &"weather/temps@1.0.0".parse().unwrap()).unwrap().1.id;
    assert_eq!(meant, holder.id().into());
    assert_eq!(a.view_dataset(dataset).unwrap().latest, Some(holder.id().into()));
    let withdraw = Body::WithdrawVersion { dataset, version: holder.id().into() };
    a.act(1, topic, withdraw);
    assert_eq!(a.view_dataset(dataset).unwrap().latest, Some(other.id().into()));
    assert_eq!(a.view_dataset(dataset).unwrap().version_count, 2);
}

#[test]
fn delete_beats_an_update_and_a_version_that_did_not_know_of_it() {
    let (mut a, topic) = Story::begin();
    let dataset = a.dataset(1, topic, "temps");
    a.act(1, topic, publish(dataset, "1.0.0"));
    let mut b = a.fork();
    a.act(1, topic, Body::DeleteDataset { dataset });
    b.act(1, topic, describe(dataset, "warm"));
    let version = b.act(1, topic, publish(dataset, "2.0.0"));
    meet(&mut a, &mut b);
    let tombstone = a.view_dataset(dataset).unwrap();
    assert_eq!((tombstone.status, tombstone.description.as_str()), (DatasetStatus::Deleted, ""));
    assert_eq!((tombstone.latest, tombstone.version_count), (None, 0));
    assert_eq!(a.view_version(version.id()), None);
    assert!(a.paths().is_empty());
    assert!(matches!(a.refused(1, topic, publish(dataset, "3.0.0")), Refused::NotFound(_)));
}

#[test]
fn of_concurrent_updates_the_highest_position_wins_field_by_field() {
    let (mut a, topic) = Story::begin();
    let dataset = a.dataset(1, topic, "temps");
    let mut b = a.fork();
    let one = a.act(1, topic, describe(dataset, "a"));
    let two = b.act(1, topic, describe(dataset, "b"));
    let tags = Some(["cold".to_owned()].into());
    b.act(1, topic, Body::UpdateDataset { dataset, fields: FieldChanges { tags, ..FieldChanges::default() } });
    meet(&mut a, &mut b);
    let expected = if one.position() > two.position() { "a" } else { "b" };
    let found = a.view_dataset(dataset).unwrap();
    assert_eq!((found.description.as_str(), found.tags.len()), (expected, 1));
}

#[test]
fn a_deleted_topic_is_a_tombstone_and_hides_what_is_in_it() {
    let (mut story, topic) = Story::begin();
    let sub = story.act(1, topic, create_topic("daily", Some(topic))).topic();
    let dataset = story.dataset(1, sub, "temps");
    story.act(1, sub, publish(dataset, "1.0.0"));
    assert_eq!(story.paths(), ["weather/daily/temps"]);
    let missing = |story: &Story| list::versions_missing(&*story.0.read(), None, 10).unwrap().versions.len();
    assert_eq!(missing(&story), 1);
    story.act(1, sub, Body::DeleteTopic { force: false });
    assert_eq!(story.view_topic(sub).status, TopicStatus::Deleted);
    assert!(story.paths().is_empty());
    assert_eq!(missing(&story), 0);
    assert!(resolve::topic_by_path(&*story.0.read(), &"weather/daily".parse().unwrap()).is_err());
    let fields = FieldChanges { description: Some("a new one".to_owned()), ..FieldChanges::default() };
    let again = Body::CreateTopic { parent: Some(topic), name: name("daily"), visibility: Visibility::Public, fields };
    story.act(1, topic, again);
    assert_eq!(list::topics(&*story.0.read(), None, ALL).unwrap().total, 2);
}

/// A chain of versions, none of which the other node has.
fn chain(n: usize) -> (Story, Story, TopicId, Vec<Operation>) {
    let (mut story, topic) = Story::begin();
    let dataset = story.dataset(1, topic, "temps");
    let other = story.fork();
    let ops = (0..n).map(|i| story.act(1, topic, publish(dataset, &format!("1.0.{i}")))).collect();
    (story, other, topic, ops)
}

#[test]
fn a_parked_chain_is_released_by_its_first_operation() {
    let (story, mut other, _, ops) = chain(200);
    for op in ops[1..].iter().rev() {
        let before = ops.iter().position(|known| known == op).unwrap() - 1;
        assert_eq!(other.hear(op), OpOutcome::Parked { missing: vec![ops[before].id()] });
    }
    assert_eq!(list::counts(&*other.0.read()).unwrap().n_parked, 199);
    let applied = other.0.take(&ops[..1], PEER, NOW);
    assert_eq!(applied.new, ops, "parents before children");
    assert_eq!(applied.versions.len(), 200);
    assert_eq!(other.0.dump(), story.0.dump());
}

#[test]
fn an_operation_waits_until_the_last_of_its_parents_comes() {
    let (mut a, topic) = Story::begin();
    let base = a.dataset(1, topic, "temps");
    let mut late = a.fork();
    let mut forks: Vec<Story> = (0..4).map(|_| a.fork()).collect();
    let heads: Vec<Operation> =
        forks.iter_mut().enumerate().map(|(i, fork)| fork.act(1, topic, publish(base, &format!("1.0.{i}")))).collect();
    for fork in &forks {
        a.learn(fork);
    }
    let merge = a.act(1, topic, publish(base, "2.0.0"));
    assert!(heads.iter().all(|head| merge.parents.contains(&head.id())));
    assert!(matches!(late.hear(&merge), OpOutcome::Parked { missing } if missing.len() == 4));
    for head in heads.iter().rev() {
        assert!(late.view_version(merge.id()).is_none());
        late.hear(head);
    }
    assert!(late.view_version(merge.id()).is_some());
    assert_eq!(late.0.dump(), a.0.dump());
}

#[test]
fn an_operation_from_the_future_waits_for_its_time() {
    let (mut story, topic) = Story::begin();
    let context = story.0.context(ContextFor::Content(topic)).unwrap();
    let then = NOW.saturating_add(limits::CLOCK_SKEW * 2);
    let early = sign(1, Some(topic), context, then, create_dataset("early"));
    assert_eq!(story.hear(&early), OpOutcome::Parked { missing: vec![] });
    let ticks = |story: &mut Story, now| story.0.run(&EXPIRE, now).unwrap().new.len();
    assert_eq!(ticks(&mut story, then.saturating_sub(limits::CLOCK_SKEW * 3 / 2)), 0);
    assert_eq!(ticks(&mut story, then.saturating_sub(limits::CLOCK_SKEW)), 1);
    assert_eq!(story.paths(), ["weather/early"]);
    assert_eq!(list::counts(&*story.0.read()).unwrap().n_parked, 0);
}

#[test]
fn what_waits_too_long_is_forgotten() {
    let (_, mut other, _, ops) = chain(3);
    other.hear(&ops[2]);
    let almost = NOW.saturating_add(limits::PARKED_FOR);
    other.0.run(&EXPIRE, almost).unwrap();
    assert_eq!(list::counts(&*other.0.read()).unwrap().n_parked, 1);
    other.0.run(&EXPIRE, Timestamp(almost.0 + 1)).unwrap();
    assert_eq!(other.0.catalog.dump(Table::Parked), []);
    other.hear(&ops[0]);
    other.hear(&ops[1]);
    assert_eq!(other.hear(&ops[2]), OpOutcome::New);
}

#[test]
fn parking_is_bounded_and_invented_topics_share_one_bound() {
    let (mut story, topic) = Story::begin();
    // Large operations fill the bytes before many small ones would fill the number.
    let fields = FieldChanges { schema: Some(Some("x".repeat(limits::MAX_SCHEMA_LEN))), ..FieldChanges::default() };
    let stranger = |i: usize, topic: TopicId| {
        let unknown = OpId::from_bytes(bib_core::hash::hash(&i.to_le_bytes()));
        let context = bib_core::api::event::OpContext { parents: vec![unknown], lamport: 7, ..nothing() };
        sign(9, Some(topic), context, NOW, Body::UpdateTopic(fields.clone()))
    };
    let n_fit = limits::MAX_PARKED_BYTES / stranger(0, topic).bytes().len();
    let ops: Vec<Operation> = (0..=n_fit).map(|i| stranger(i, topic)).collect();
    let outcomes = story.0.take(&ops, PEER, NOW).outcomes;
    assert!(outcomes[..n_fit].iter().all(|outcome| matches!(outcome, OpOutcome::Parked { .. })));
    assert_eq!(outcomes[n_fit], OpOutcome::Refused(Refused::TooManyParked));
    let invented = |i: usize| TopicId::from_bytes(bib_core::hash::hash(&[i as u8, 1, 2]));
    let ops: Vec<Operation> = (0..=n_fit).map(|i| stranger(i, invented(i))).collect();
    let outcomes = story.0.take(&ops, PEER, NOW).outcomes;
    assert_eq!(outcomes.iter().filter(|outcome| matches!(outcome, OpOutcome::Refused(_))).count(), 1);
    // What is in order is taken all the same.
    story.dataset(1, topic, "temps");
    story.0.run(&EXPIRE, NOW.saturating_add(limits::PARKED_FOR * 2)).unwrap();
    assert_eq!(story.0.catalog.dump(Table::Parked), []);
}

#[test]
fn staged_content_is_kept_a_day_and_named_content_for_good() {
    let (mut story, topic) = Story::begin();
    let dataset = story.dataset(1, topic, "temps");
    let manifest = |text: &str| ManifestId::from_bytes(bib_core::hash::hash(text.as_bytes()));
    for text in ["1.0.0", "never named"] {
        story.0.run(&Command::Stage(manifest(text)), NOW).unwrap();
    }
    story.act(1, topic, publish(dataset, "1.0.0"));
    story.act(1, topic, publish(dataset, "2.0.0"));
    let missing = |story: &Story| {
        let missing = list::versions_missing(&*story.0.read(), None, 10).unwrap().versions;
        missing.into_iter().map(|version| version.semver.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(missing(&story), ["2.0.0"]);
    let is_here = |story: &Story, text: &str| content::is_here(&*story.0.read(), &manifest(text)).unwrap();
    // The clock of grace follows a clock that goes, hour by hour.
    let mut hour: u32 = 0;
    let mut wait = |story: &mut Story, days: u32| {
        for _ in 0..days * 24 {
            hour += 1;
            story.0.run(&EXPIRE, NOW.saturating_add(HOUR * hour)).unwrap();
        }
    };
    wait(&mut story, 1);
    assert!(is_here(&story, "never named"));
    wait(&mut story, 1);
    assert_eq!((is_here(&story, "1.0.0"), is_here(&story, "never named")), (true, false));
    let now = NOW.saturating_add(HOUR * 48);
    story.0.run(&Command::ContentHere(manifest("2.0.0")), now).unwrap();
    assert!(missing(&story).is_empty());
    story.0.run(&Command::ContentLost(manifest("1.0.0")), now).unwrap();
    assert_eq!(missing(&story), ["1.0.0"]);
    story.act(1, topic, Body::DeleteDataset { dataset });
    assert!(content::is_pinned(&*story.0.read(), &manifest("2.0.0")).unwrap(), "it has its grace");
    assert!(!content::is_pinned(&*story.0.read(), &manifest("1.0.0")).unwrap(), "it is not here");
    wait(&mut story, 7);
    assert!(content::is_pinned(&*story.0.read(), &manifest("2.0.0")).unwrap());
    wait(&mut story, 1);
    assert_eq!(story.0.catalog.dump(Table::Pins), [], "nothing names it any more");
}

#[test]
fn clock_that_is_set_forth_ends_no_grace_and_one_that_is_set_back_keeps_nothing_for_ever() {
    let manifest = ManifestId::from_bytes([7; 32]);
    let mut story = Story::begin().0;
    story.0.run(&Command::Stage(manifest), NOW).unwrap();
    let years = NOW.saturating_add(HOUR * 24 * 3_650);
    story.0.run(&EXPIRE, years).unwrap();
    story.0.run(&EXPIRE, NOW).unwrap();
    assert!(content::is_pinned(&*story.0.read(), &manifest).unwrap());
    for hour in 1..=25 {
        story.0.run(&EXPIRE, NOW.saturating_add(HOUR * hour)).unwrap();
    }
    assert!(!content::is_pinned(&*story.0.read(), &manifest).unwrap());
}

#[test]
fn kept_content_outlives_its_dataset_and_has_its_grace_when_it_is_kept_no_more() {
    let (mut story, topic) = Story::begin();
    let dataset = story.dataset(1, topic, "temps");
    let manifest = ManifestId::from_bytes(bib_core::hash::hash(b"1.0.0"));
    let version = story.act(1, topic, publish(dataset, "1.0.0"));
    story.0.run(&Command::ContentHere(manifest), NOW).unwrap();
    let kept = Kept { version: version.id().into(), reference: "weather/temps@1.0.0".to_owned(), size: 1, since: NOW };
    story.0.run(&Command::Keep { manifest, kept: Some(kept.clone()) }, NOW).unwrap();
    story.act(1, topic, Body::DeleteDataset { dataset });
    story.0.run(&NOW_OR_NEVER, NOW).unwrap();
    let pinned = |story: &Story| content::is_pinned(&*story.0.read(), &manifest).unwrap();
    assert!(pinned(&story));
    assert_eq!(content::kept(&*story.0.read(), None, 10).unwrap(), [(manifest, kept)]);
    story.0.run(&Command::Keep { manifest, kept: None }, NOW).unwrap();
    assert!(pinned(&story), "it has its grace");
    assert_eq!(content::kept(&*story.0.read(), None, 10).unwrap(), []);
    story.0.run(&NOW_OR_NEVER, NOW).unwrap();
    assert_eq!(story.0.catalog.dump(Table::Pins), []);
}

#[test]
fn quotas_count_what_is_here_once_and_no_more_when_it_goes() {
    let (mut story, topic) = Story::begin();
    let dataset = story.dataset(1, topic, "temps");
    let other = story.dataset(1, topic, "winds");
    let manifest = ManifestId::from_bytes(bib_core::hash::hash(b"1.0.0"));
    let used = |story: &Story| {
        let read = story.0.read();
        (content::topic_bytes(&*read, &topic).unwrap(), content::user_bytes(&*read, &user(1)).unwrap())
    };
    let sized = |dataset| match publish(dataset, "1.0.0") {
        Body::PublishVersion(new) => Body::PublishVersion(NewVersion { size: 500, ..new }),
        other => panic!("{other:?}"),
    };
    story.act(1, topic, sized(dataset));
    assert_eq!(used(&story), (0, 0), "it is not here");
    let charge = Charge::of(topic, user(1), 500);
    story.0.run(&Command::Fetched { manifest, charge }, NOW).unwrap();
    story.act(1, topic, sized(other));
    assert_eq!(used(&story), (500, 500), "the same content counts once");
    story.act(1, topic, Body::DeleteDataset { dataset });
    assert_eq!(used(&story), (500, 500));
    story.0.run(&Command::ContentLost(manifest), NOW).unwrap();
    assert_eq!(used(&story), (0, 0));
    story.0.run(&Command::ContentHere(manifest), NOW).unwrap();
    assert_eq!(used(&story), (500, 500), "it is as it was");
    story.act(1, topic, Body::DeleteDataset { dataset: other });
    assert_eq!(used(&story), (500, 500), "it has its grace");
    story.0.run(&NOW_OR_NEVER, NOW).unwrap();
    assert_eq!(used(&story), (0, 0));
    // What is staged counts when it is named.
    let third = story.dataset(1, topic, "rain");
    story.0.run(&Command::Stage(manifest), NOW).unwrap();
    assert_eq!(used(&story), (0, 0));
    story.act(1, topic, sized(third));
    assert_eq!(used(&story), (500, 500));
}

#[test]
fn only_fetched_content_of_withdrawn_versions_is_given_up_and_it_comes_back_with_a_new_version() {
    let (mut story, topic) = Story::begin();
    let dataset = story.dataset(1, topic, "temps");
    let manifest = ManifestId::from_bytes(bib_core::hash::hash(b"1.0.0"));
    let version = story.act(1, topic, publish(dataset, "1.0.0"));
    story.0.run(&Command::ContentHere(manifest), NOW).unwrap();
    let pin = |story: &Story| bib_core::catalog::record::pin(&*story.0.read(), &manifest).unwrap();
    let evict = |story: &mut Story| story.0.run(&Command::Evict(vec![manifest]), NOW).unwrap();
    evict(&mut story);
    assert!(pin(&story).is_here, "an active version names it");
    story.act(1, topic, Body::WithdrawVersion { dataset, version: version.id().into() });
    evict(&mut story);
    assert!(!pin(&story).is_here && !pin(&story).is_root());
    story.0.run(&Command::ContentHere(manifest), NOW).unwrap();
    assert!(pin(&story).is_root(), "a user fetched it again");
    evict(&mut story);
    let again = Body::PublishVersion(match publish(dataset, "1.0.0") {
        Body::PublishVersion(new) => NewVersion { semver: "1.0.1".parse().unwrap(), ..new },
        other => panic!("{other:?}"),
    });
    story.act(1, topic, again);
    assert!(pin(&story).is_root());
}

#[test]
fn content_of_topics_that_nobody_sees_is_released_and_kept_again_when_it_is_seen() {
    let (mut story, topic) = Story::begin();
    let dataset = story.dataset(1, topic, "temps");
    let manifest = ManifestId::from_bytes(bib_core::hash::hash(b"1.0.0"));
    story.act(1, topic, publish(dataset, "1.0.0"));
    story.0.run(&Command::ContentHere(manifest), NOW).unwrap();
    let (hidden, shown) = (vec![manifest], Vec::new());
    let release = Command::Release { hidden: hidden.clone(), shown: shown.clone() };
    let pin = |story: &Story| bib_core::catalog::record::pin(&*story.0.read(), &manifest).unwrap();
    story.0.run(&release, NOW).unwrap();
    story.0.run(&EXPIRE, NOW).unwrap();
    assert!(pin(&story).is_root());
    story.0.run(&Command::Release { hidden: shown.clone(), shown: hidden.clone() }, NOW).unwrap();
    story.0.run(&NOW_OR_NEVER, NOW).unwrap();
    assert!(pin(&story).is_root() && pin(&story).is_here);
    story.0.run(&release, NOW).unwrap();
    story.0.run(&NOW_OR_NEVER, NOW).unwrap();
    assert!(!pin(&story).is_root() && !pin(&story).is_here);
    story.0.run(&Command::Release { hidden: shown, shown: hidden }, NOW).unwrap();
    assert!(pin(&story).is_root(), "what comes of it is kept");
}

/// The datasets and versions that an operation names.
fn named(body: &Body) -> Vec<OpId> {
    match body {
        Body::UpdateDataset { dataset, .. }
        | Body::ArchiveDataset { dataset }
        | Body::RestoreDataset { dataset }
        | Body::DeleteDataset { dataset } => vec![(*dataset).into()],
        Body::WithdrawVersion { dataset, version } => vec![(*dataset).into(), (*version).into()],
        Body::PublishVersion(new) => new.previous.into_iter().map(OpId::from).chain([new.dataset.into()]).collect(),
        _ => Vec::new(),
    }
}

/// A context that somebody took and uses later.
struct Taken {
    topic: TopicId,
    wanted: ContextFor,
    context: bib_core::api::event::OpContext,
}

/// Makes a random history on several nodes that hear of each other now and then, some of it dated back.
struct Tale {
    rng: Rng,
    nodes: Vec<CatalogNode>,
    taken: Vec<Vec<Taken>>,
    model: Model,
    topics: Vec<TopicId>,
    datasets: Vec<(TopicId, DatasetId)>,
    versions: Vec<(DatasetId, VersionId)>,
    /// Whether rights on single datasets are given, which the model does not know.
    has_dataset_grants: bool,
    seed: u64,
}

impl Tale {
    fn new(seed: u64) -> Self {
        let (mut first, root) = Story::begin();
        for (to, role) in [(2, Role::Owner), (3, Role::Admin), (4, Role::Contributor)] {
            first.act(1, root, grant(root, to, role));
        }
        let dataset = first.dataset(4, root, "a");
        let version = first.act(4, root, publish(dataset, "1.0.0"));
        let mut model = Model::default();
        first.0.ops.values().for_each(|op| model.insert(op.clone()));
        Self {
            rng: Rng::new(seed),
            nodes: vec![first.fork().0, first.fork().0, first.0],
            taken: (0..3).map(|_| Vec::new()).collect(),
            model,
            topics: vec![root],
            datasets: vec![(root, dataset)],
            versions: vec![(dataset, version.id().into())],
            has_dataset_grants: seed % 4 == 3,
            seed,
        }
    }

    fn pick<T: Copy>(rng: &mut Rng, items: &[T]) -> T {
        items[rng.below(items.len() as u64) as usize]
    }

    /// In a topic, something that makes sense of what there is somewhere.
    fn body(&mut self) -> (TopicId, Body) {
        let rng = &mut self.rng;
        let topic = Self::pick(rng, &self.topics);
        let (of_dataset, dataset) = Self::pick(rng, &self.datasets);
        let (of_version, version) = Self::pick(rng, &self.versions);
        let of_version_topic = |of: DatasetId| self.datasets.iter().find(|(_, id)| *id == of).map(|(topic, _)| *topic);
        let other = 1 + rng.below(6) as u8;
        let role = Self::pick(rng, &[Role::Owner, Role::Admin, Role::Contributor, Role::Contributor, Role::Reader]);
        let (topic, resource) = if self.has_dataset_grants && rng.chance(1, 3) {
            (of_dataset, Resource::Dataset(dataset))
        } else {
            (topic, Resource::Topic(topic))
        };
        let text = Self::pick(rng, &["x", "y", "z"]).to_owned();
        let fields = match rng.below(4) {
            0 => FieldChanges { tags: Some([text].into()), ..FieldChanges::default() },
            1 => FieldChanges { schema: Some(rng.chance(1, 2).then_some(text)), ..FieldChanges::default() },
            2 => FieldChanges { metadata: Some([(text, String::new())].into()), ..FieldChanges::default() },
            _ => FieldChanges { description: Some(text), ..FieldChanges::default() },
        };
        match rng.below(28) {
            0..=2 => (topic, Body::CreateDataset { name: name(Self::pick(rng, &["a", "b"])), fields }),
            3..=8 => {
                let number = Self::pick(rng, &["1.0.0", "1.1.0", "2.0.0-rc.1", "2.0.0"]);
                let Body::PublishVersion(mut new) = publish(dataset, number) else { unreachable!() };
                new.previous = (of_version == dataset && rng.chance(1, 2)).then_some(version);
                (of_dataset, Body::PublishVersion(new))
            }
            9..=10 => (of_dataset, Body::UpdateDataset { dataset, fields }),
            11 => (of_dataset, Body::ArchiveDataset { dataset }),
            12 => (of_dataset, Body::RestoreDataset { dataset }),
            13 if rng.chance(1, 2) => (of_dataset, Body::DeleteDataset { dataset }),
            13 | 14 => {
                let topic = of_version_topic(of_version).unwrap_or(topic);
                (topic, Body::WithdrawVersion { dataset: of_version, version })
            }
            15 => (topic, Body::UpdateTopic(fields)),
            16..=17 => {
                let expires_at = rng.chance(1, 4).then(|| Timestamp(NOW.0 + rng.below(20) as i64));
                (topic, Body::Grant { resource, user: user(other), role, expires_at })
            }
            18..=21 => (topic, Body::Revoke { resource, user: user(other), keep_below: rng.chance(1, 3) }),
            22 => (topic, Body::TransferOwnership { resource, to: user(other), leave: rng.chance(1, 2) }),
            23 => (topic, Body::ReplaceKey { new: user(other) }),
            24 if self.topics.len() < 4 => (topic, create_topic(Self::pick(rng, &["s", "t"]), Some(topic))),
            25 => (topic, Body::ArchiveTopic),
            26 => (topic, Body::RestoreTopic),
            27 if rng.chance(1, 4) => (topic, Body::DeleteTopic { force: true }),
            _ => (topic, Body::SetVisibility { visibility: Visibility::Public }),
        }
    }

    fn step(&mut self) {
        let at = self.rng.below(3) as usize;
        if self.rng.chance(1, 6) {
            return self.hear(at);
        }
        let (topic, body) = self.body();
        let by = 1 + self.rng.below(6) as u8;
        let is_to_self = match &body {
            Body::TransferOwnership { to, .. } | Body::ReplaceKey { new: to } => *to == user(by),
            _ => false,
        };
        let wanted = wanted(topic, &body);
        let Ok(context) = self.nodes[at].context(wanted) else { return };
        if is_to_self || !named(&body).iter().all(|id| self.nodes[at].ops.contains_key(id)) {
            return;
        }
        let old = self.taken[at].iter().filter(|taken| taken.topic == topic && taken.wanted == wanted);
        let old: Vec<_> = old.map(|taken| taken.context.clone()).collect();
        self.taken[at].push(Taken { topic, wanted, context: context.clone() });
        let mut context = if self.rng.chance(1, 5) && !old.is_empty() {
            old[self.rng.below(old.len() as u64) as usize].clone()
        } else {
            context
        };
        if self.rng.chance(1, 5) {
            context.keeps.retain(|_| self.rng.chance(1, 2));
        }
        if matches!(wanted, ContextFor::Content(_)) && self.rng.chance(1, 4) {
            // One parent only, and the rest through it.
            let in_topic = self.nodes[at].ops.values().filter(|op| op.topic() == topic && op.class() == Class::Content);
            let in_topic: Vec<&Operation> = in_topic.collect();
            if !in_topic.is_empty() {
                let parent = in_topic[self.rng.below(in_topic.len() as u64) as usize];
                context.parents = vec![parent.id()];
                context.lamport = parent.lamport + 1;
                context.not_before = parent.time;
            }
        }
        let in_topic = (!matches!(body, Body::CreateTopic { .. })).then_some(topic);
        let time = Timestamp(NOW.0 + self.rng.below(20) as i64);
        let op = sign(by, in_topic, context, time, body);
        let origin = if self.rng.chance(1, 3) { Origin::User } else { PEER };
        let outcome = self.nodes[at].take(std::slice::from_ref(&op), origin, NOW).outcomes[0].clone();
        let expected = self.has_dataset_grants || self.model.admits(&op);
        match outcome {
            OpOutcome::New => {
                let expected = expected && self.model.is_well_formed(&op);
                assert!(expected, "seed {}: taken, and should not be: {:?}", self.seed, op.body);
            }
            OpOutcome::Known => return,
            OpOutcome::Refused(Refused::Invalid(why)) => {
                let is_right = self.model.is_well_formed(&op);
                assert!(!is_right, "seed {}: refused, and should not be: {why} {:?}", self.seed, op.body);
                return;
            }
            OpOutcome::Refused(why) => {
                // A user is refused more than a peer is.
                let is_free = origin == PEER && expected && !self.has_dataset_grants;
                assert!(!is_free, "seed {}: refused, and should not be: {why} {:?}", self.seed, op.body);
                return;
            }
            other => panic!("seed {}: {other:?}", self.seed),
        }
        match &op.body {
            Body::CreateTopic { .. } => self.topics.push(op.topic()),
            Body::CreateDataset { .. } => self.datasets.push((op.topic(), op.id().into())),
            Body::PublishVersion(version) => self.versions.push((version.dataset, op.id().into())),
            _ => {}
        }
        self.model.insert(op);
    }

    /// A node hears a part of what another has, in any order.
    fn hear(&mut self, at: usize) {
        let from = self.rng.below(3) as usize;
        let all = !self.rng.chance(1, 3);
        let mut ops: Vec<Operation> = self.nodes[from].ops.values().cloned().collect();
        ops.retain(|_| all || self.rng.chance(2, 3));
        self.rng.shuffle(&mut ops);
        let applied = self.nodes[at].take(&ops, PEER, NOW);
        for (op, outcome) in ops.iter().zip(applied.outcomes) {
            assert!(!matches!(outcome, OpOutcome::Refused(_)), "seed {}: {outcome:?} {:?}", self.seed, op.body);
        }
    }
}

#[test]
fn access_logs_in_memory_are_bounded_by_bytes_as_they_grow() {
    const MOST: usize = 64 << 10;
    let mut node = CatalogNode::new(MOST);
    let roots: Vec<Operation> =
        (0..6).map(|n| sign(1, None, nothing(), NOW, create_topic(&format!("tree-{n}"), None))).collect();
    assert!(node.take(&roots, PEER, NOW).outcomes.iter().all(|outcome| *outcome == OpOutcome::New));
    assert!(node.cached_bytes() > 0);
    // All are in memory, and then each grows to a third of it.
    for step in 0..12 {
        for root in &roots {
            let context = node.context(ContextFor::Access(root.topic())).unwrap();
            let op = sign(1, Some(root.topic()), context, NOW, grant(root.topic(), 2 + step, Role::Reader));
            assert_eq!(node.take(&[op], PEER, NOW).outcomes, [OpOutcome::New]);
            assert!(node.cached_bytes() <= MOST, "{}", node.cached_bytes());
        }
    }
    assert!(node.cached_bytes() > MOST / 2, "what fits stays: {}", node.cached_bytes());
}

/// Gives a new node all operations in the order given, in batches, and checks what it reports.
fn deliver(ops: &[Operation], rng: &mut Rng, seed: u64) -> CatalogNode {
    let cached = [0, 8 << 10, 4 << 20];
    let mut node = CatalogNode::new(Tale::pick(rng, &cached));
    let (mut new, mut versions) = (Vec::new(), BTreeSet::new());
    let mut rest = ops;
    while !rest.is_empty() {
        let n = 1 + rng.below(rest.len() as u64) as usize;
        let n = if rng.chance(1, 2) { n } else { 1 };
        let applied = node.take(&rest[..n], PEER, NOW);
        for (op, outcome) in rest[..n].iter().zip(applied.outcomes) {
            assert!(!matches!(outcome, OpOutcome::Refused(_)), "seed {seed}: {outcome:?} {:?}", op.body);
        }
        new.extend(applied.new);
        versions.extend(applied.versions);
        rest = &rest[n..];
        if rng.chance(1, 8) {
            node.restart(Tale::pick(rng, &cached));
        }
    }
    let mut seen = BTreeSet::new();
    for op in &new {
        assert!(op.parents.iter().all(|parent| seen.contains(parent)), "seed {seed}: parents come first");
        assert!(seen.insert(op.id()), "seed {seed}: told once");
    }
    assert_eq!(seen.len(), node.ops.len(), "seed {seed}");
    let there = node.catalog.dump(Table::Versions).into_iter().map(|(key, _)| VersionId::from_slice(&key).unwrap());
    assert!(there.into_iter().all(|id| versions.contains(&id)), "seed {seed}: every version is told of");
    node
}

fn check(seed: u64) -> (usize, usize) {
    let mut tale = Tale::new(seed);
    (0..8 + seed % 24).for_each(|_| tale.step());
    let ops: BTreeMap<OpId, Operation> =
        tale.nodes.iter().flat_map(|node| node.ops.iter().map(|(id, op)| (*id, op.clone()))).collect();
    let mut rng = Rng::new(!seed);
    let mut order: Vec<Operation> = ops.values().chain(ops.values().take(3)).cloned().collect();
    rng.shuffle(&mut order);
    let mut nodes = vec![deliver(&order, &mut rng, seed)];
    rng.shuffle(&mut order);
    nodes.push(deliver(&order, &mut rng, seed));
    order.sort_by_key(Operation::position);
    nodes.push(deliver(&order, &mut rng, seed));
    order.sort_by_key(|op| (op.class(), op.position()));
    nodes.push(deliver(&order, &mut rng, seed));
    for mut node in std::mem::take(&mut tale.nodes) {
        rng.shuffle(&mut order);
        node.take(&order, PEER, NOW);
        nodes.push(node);
    }
    let expected = if tale.has_dataset_grants { BTreeMap::new() } else { tale.model.tables() };
    for (i, node) in nodes.iter().enumerate() {
        assert_eq!(node.ops.len(), ops.len(), "seed {seed}, order {i}");
        for (table, records) in &expected {
            let found = node.catalog.dump(*table);
            assert_eq!(found, *records, "seed {seed}, order {i}, {table:?}");
        }
        assert_eq!(node.dump(), nodes[0].dump(), "seed {seed}, order {i}");
        assert_eq!(node.catalog.dump(Table::Parked), [], "seed {seed}, order {i}");
    }
    let n_void = nodes[0].catalog.dump(Table::Ops).iter().filter(|(_, value)| value[0] == 1).count();
    (ops.len(), n_void)
}

#[test]
fn random_histories_make_the_same_catalog_in_every_order_and_that_of_the_model() {
    let n_seeds: u64 = std::env::var("BIB_SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(250);
    let first: u64 = std::env::var("BIB_SIM_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let sums = (first..first + n_seeds).map(check).fold((0, 0), |sum, (n, void)| (sum.0 + n, sum.1 + void));
    assert!(sums.0 as u64 > 10 * n_seeds && sums.1 as u64 * 5 > n_seeds, "too few of {sums:?} operations are void");
}
