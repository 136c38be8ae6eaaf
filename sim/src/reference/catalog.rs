//! The catalog, as `bib_core::apply` makes it, worked out from the whole set of operations at once.
//!
//! Rights on single datasets beyond the creator's are left out: stories for this model give none.

use std::collections::{BTreeMap, BTreeSet};

use bib_core::catalog::keys;
use bib_core::catalog::record::{Grants, Pin};
use bib_core::encode::encode;
use bib_core::id::{DatasetId, ManifestId, OpId, TopicId, UserId, VersionId};
use bib_core::model::{Dataset, DatasetStatus, Name, Topic, TopicStatus, Version, VersionStatus, Visibility};
use bib_core::op::operation::FieldChanges;
use bib_core::op::rules::allows;
use bib_core::op::{Body, Class, Operation, Resource, Role, Verb};
use bib_core::port::Table;
use bib_core::time::Timestamp;

use super::access::{History, Judgement, Seen, removed_user};
use crate::node::Records;

/// A set of operations that is closed under "and its parents".
#[derive(Debug, Clone, Default)]
pub struct Model {
    ops: BTreeMap<OpId, Operation>,
    access: History,
}

/// Tables that follow from the operations, as the model writes them.
pub const MODELLED: [Table; 11] = [
    Table::Ops,
    Table::Topics,
    Table::TopicNames,
    Table::Datasets,
    Table::DatasetNames,
    Table::Versions,
    Table::VersionOrder,
    Table::VersionNumbers,
    Table::Grants,
    Table::Fields,
    Table::Pins,
];

type Held = BTreeSet<(Role, Option<Timestamp>)>;
type Written = BTreeMap<Table, BTreeMap<Vec<u8>, Vec<u8>>>;

fn dataset_of(op: &Operation) -> Option<DatasetId> {
    match &op.body {
        Body::CreateDataset { .. } => Some(op.id().into()),
        Body::UpdateDataset { dataset, .. }
        | Body::ArchiveDataset { dataset }
        | Body::RestoreDataset { dataset }
        | Body::DeleteDataset { dataset }
        | Body::WithdrawVersion { dataset, .. } => Some(*dataset),
        Body::PublishVersion(version) => Some(version.dataset),
        _ => None,
    }
}

fn verb(op: &Operation) -> Verb {
    match &op.body {
        Body::UpdateTopic(_) => Verb::UpdateTopic,
        Body::CreateDataset { .. } => Verb::CreateDataset,
        Body::UpdateDataset { .. } => Verb::UpdateDataset,
        Body::ArchiveDataset { .. } => Verb::ArchiveDataset,
        Body::RestoreDataset { .. } => Verb::RestoreDataset,
        Body::DeleteDataset { .. } => Verb::DeleteDataset,
        Body::WithdrawVersion { .. } => Verb::WithdrawVersion,
        Body::PublishVersion(_) => Verb::PublishVersion,
        other => unreachable!("{} is no content", other.kind()),
    }
}

impl Model {
    /// The set with one operation more, whose parents are in it.
    pub fn insert(&mut self, op: Operation) {
        if op.class() == Class::Access {
            self.access.insert(op.clone());
        }
        self.ops.insert(op.id(), op);
    }

    /// Whether the topic of an operation is in its past, what it names comes before it, and what is known of the rights
    /// on that is known to it.
    pub fn is_well_formed(&self, op: &Operation) -> bool {
        let dataset = dataset_of(op).map(OpId::from).filter(|id| *id != op.id());
        let version = match &op.body {
            Body::PublishVersion(new) => new.previous,
            Body::WithdrawVersion { version, .. } => Some(*version),
            _ => None,
        };
        let comes_before = |id: &OpId| self.ops[id].lamport < op.lamport;
        let past = self.known_to(op);
        let above = match &op.body {
            Body::CreateTopic { parent, .. } => *parent,
            _ => Some(op.topic()),
        };
        let knows_topic = above.is_none_or(|topic| past.contains(&topic.into()));
        knows_topic
            && dataset.iter().all(|id| comes_before(id) && self.known_to(&self.ops[id]).is_subset(&past))
            && version.iter().all(|id| comes_before(&(*id).into()))
    }

    /// Whether an operation of the right form may be in a log that holds its parents.
    pub fn admits(&self, op: &Operation) -> bool {
        if op.class() == Class::Access {
            return self.access.admits(op);
        }
        let mut alone = History::default();
        let past = self.known_to(op);
        past.iter().for_each(|id| alone.insert(self.ops[id].clone()));
        self.may(&alone, &alone.judge(), &past, op)
    }

    fn reach(&self, ids: &[OpId]) -> Seen {
        let mut seen = Seen::new();
        let mut open = ids.to_vec();
        while let Some(id) = open.pop() {
            if let Some(op) = self.ops.get(&id)
                && seen.insert(id)
            {
                open.extend(&op.parents);
            }
        }
        seen
    }

    /// The access operations that an operation knows.
    fn known_to(&self, op: &Operation) -> Seen {
        self.reach(&op.parents).into_iter().filter(|id| self.ops[id].class() == Class::Access).collect()
    }

    fn may(&self, access: &History, judgement: &Judgement, view: &Seen, op: &Operation) -> bool {
        let topic = op.topic();
        let is_creator = || {
            let id = dataset_of(op).filter(|id| OpId::from(*id) != op.id());
            id.is_some_and(|id| self.holds_creation(access, judgement, view, &op.author, &self.ops[&id.into()]))
        };
        let role = access.role(judgement, view, &op.author, topic, op.time).map(|(role, _)| role);
        let role = if is_creator() { Some(Role::Owner) } else { role };
        access.status_allows(judgement, view, topic, verb(op)) && allows(verb(op), role, false)
    }

    fn holds_creation(
        &self,
        access: &History,
        judgement: &Judgement,
        view: &Seen,
        user: &UserId,
        creation: &Operation,
    ) -> bool {
        let topic = creation.topic();
        let mut holder = creation.author;
        let mut aware = self.known_to(creation);
        let mut last = None;
        loop {
            let takes = |op: &&Operation| {
                removed_user(op) == holder
                    && view.contains(&op.id())
                    && judgement.counts(&op.id())
                    && !aware.contains(&op.id())
                    && !matches!(op.body, Body::Revoke { keep_below: true, .. })
                    && access.chain(topic).contains(&op.topic())
            };
            let takers: Vec<Operation> = access.removals().into_iter().filter(takes).cloned().collect();
            let is_move = |op: &&Operation| matches!(op.body, Body::ReplaceKey { .. });
            if !takers.iter().all(|op| is_move(&op)) {
                return false;
            }
            match takers.iter().find(is_move).filter(|op| last.is_none_or(|last| last < op.position())) {
                Some(op) => {
                    let Body::ReplaceKey { new } = op.body else { unreachable!("it is a move") };
                    holder = new;
                    aware = access.past(op);
                    aware.insert(op.id());
                    last = Some(op.position());
                }
                None => return holder == *user,
            }
        }
    }

    fn counts(&self, judgement: &Judgement, op: &Operation) -> bool {
        if op.class() == Class::Access {
            return judgement.counts(&op.id());
        }
        let past = self.known_to(op);
        if !self.may(&self.access, judgement, &past, op) {
            return false;
        }
        let mut keys = BTreeSet::from([op.author]);
        for _ in 0..self.ops.len() {
            let replaced =
                self.ops.values().filter(|op| matches!(op.body, Body::ReplaceKey { new } if keys.contains(&new)));
            let replaced: Vec<UserId> = replaced.map(|op| op.author).collect();
            keys.extend(replaced);
        }
        let mut view = past.clone();
        for removal in self.access.removals() {
            let is_unaware = !past.contains(&removal.id()) && !self.reach(&removal.keeps).contains(&op.id());
            if judgement.counts(&removal.id()) && is_unaware && keys.contains(&removed_user(removal)) {
                view.insert(removal.id());
            }
        }
        self.may(&self.access, judgement, &view, op)
    }

    /// The tables of [`MODELLED`].
    pub fn tables(&self) -> BTreeMap<Table, Records> {
        let judgement = self.access.judge();
        let valid: BTreeSet<OpId> =
            self.ops.values().filter(|op| self.counts(&judgement, op)).map(Operation::id).collect();
        let mut by_position: Vec<&Operation> = self.ops.values().collect();
        by_position.sort_by_key(|op| op.position());
        let mut written: Written = MODELLED.map(|table| (table, BTreeMap::new())).into();
        for op in &by_position {
            let status = u8::from(!valid.contains(&op.id()));
            put(&mut written, Table::Ops, op.id().as_bytes(), [&[status], op.bytes()].concat());
        }
        let valid: Vec<&Operation> = by_position.iter().copied().filter(|op| valid.contains(&op.id())).collect();
        self.write_topics(&mut written, &judgement, &by_position, &valid);
        self.write_grants(&mut written, &judgement);
        write_datasets(&mut written, &valid);
        written.into_iter().map(|(table, records)| (table, records.into_iter().collect())).collect()
    }

    fn write_topics(&self, written: &mut Written, judgement: &Judgement, all: &[&Operation], valid: &[&Operation]) {
        let mut topics = Vec::new();
        for create in all {
            let Body::CreateTopic { parent, name, visibility, fields } = &create.body else { continue };
            let id = create.topic();
            let chain = self.access.chain(id);
            let of_topic: Vec<&Operation> = valid.iter().copied().filter(|op| op.topic() == id).collect();
            let is_status = |op: &&&Operation| matches!(op.body, Body::ArchiveTopic | Body::RestoreTopic);
            let is_deleted = of_topic.iter().any(|op| matches!(op.body, Body::DeleteTopic { .. }))
                || !chain.iter().all(|topic| judgement.counts(&(*topic).into()));
            let is_archived = of_topic.iter().rfind(is_status).is_some_and(|op| op.body == Body::ArchiveTopic);
            let status = match (is_deleted, is_archived) {
                (true, _) => TopicStatus::Deleted,
                (_, true) => TopicStatus::Archived,
                _ => TopicStatus::Active,
            };
            let is_field = |op: &&&Operation| {
                matches!(
                    op.body,
                    Body::ArchiveTopic | Body::RestoreTopic | Body::DeleteTopic { .. } | Body::SetVisibility { .. }
                )
            };
            let mut topic = Topic {
                id,
                parent: *parent,
                name: name.clone(),
                name_taken: false,
                description: String::new(),
                schema: None,
                visibility: *visibility,
                status,
                tags: BTreeSet::new(),
                metadata: BTreeMap::new(),
                created_by: create.author,
                created_at: create.time,
                updated_at: of_topic.iter().filter(is_field).map(|op| op.time).fold(create.time, Timestamp::max),
            };
            assert_eq!(topic.visibility, Visibility::Public, "there is no other yet");
            if status != TopicStatus::Deleted {
                let updates = of_topic.iter().filter_map(|op| match &op.body {
                    Body::UpdateTopic(fields) => Some((*op, fields)),
                    _ => None,
                });
                let updates: Vec<(&Operation, &FieldChanges)> = updates.collect();
                let fields = merged(written, create.id(), fields, &updates);
                topic.description = fields.description.unwrap_or_default();
                topic.tags = fields.tags.unwrap_or_default();
                topic.metadata = fields.metadata.unwrap_or_default();
                topic.schema = fields.schema.flatten();
                topic.updated_at = updates.iter().map(|(op, _)| op.time).fold(topic.updated_at, Timestamp::max);
                let key = keys::topic_name(parent.as_ref(), name, create.position());
                put(written, Table::TopicNames, &key, Vec::new());
            }
            topics.push(topic);
        }
        let mut held: BTreeSet<(Option<TopicId>, Name)> = BTreeSet::new();
        for topic in &mut topics {
            let is_first = topic.status == TopicStatus::Deleted || held.insert((topic.parent, topic.name.clone()));
            topic.name_taken = !is_first;
            put(written, Table::Topics, topic.id.as_bytes(), encode(topic));
        }
    }

    fn write_grants(&self, written: &mut Written, judgement: &Judgement) {
        let everything: Seen = self.access.by_position().iter().map(|op| op.id()).collect();
        let mut grants: BTreeMap<(TopicId, UserId), Held> = BTreeMap::new();
        for user in (1..=9).map(crate::node::user) {
            for right in self.access.rights(judgement, &everything, &user) {
                grants.entry((right.topic, user)).or_default().insert((right.role, right.expires_at));
            }
        }
        for ((topic, user), held) in grants {
            let key = keys::grant(&Resource::Topic(topic), &user);
            put(written, Table::Grants, &key, encode(&Grants(held.into_iter().collect())));
        }
    }
}

fn put(written: &mut Written, table: Table, key: &[u8], value: Vec<u8>) {
    written.entry(table).or_default().insert(key.to_vec(), value);
}

fn note_field(written: &mut Written, entity: OpId, field: u8, op: &Operation) {
    let (lamport, id) = op.position();
    let value = [&lamport.to_be_bytes(), id.as_bytes().as_slice()].concat();
    put(written, Table::Fields, &keys::field(&entity, field), value);
}

/// The fields after all updates, by position.
fn merged(
    written: &mut Written,
    entity: OpId,
    first: &FieldChanges,
    updates: &[(&Operation, &FieldChanges)],
) -> FieldChanges {
    let mut fields = first.clone();
    for (op, changes) in updates {
        if changes.description.is_some() {
            fields.description.clone_from(&changes.description);
            note_field(written, entity, 0, op);
        }
        if changes.tags.is_some() {
            fields.tags.clone_from(&changes.tags);
            note_field(written, entity, 1, op);
        }
        if changes.metadata.is_some() {
            fields.metadata.clone_from(&changes.metadata);
            note_field(written, entity, 2, op);
        }
        if changes.schema.is_some() {
            fields.schema.clone_from(&changes.schema);
            note_field(written, entity, 3, op);
        }
    }
    fields
}

fn write_datasets(written: &mut Written, valid: &[&Operation]) {
    let mut pins = BTreeMap::new();
    let mut held: BTreeSet<(TopicId, Name)> = BTreeSet::new();
    for create in valid {
        let Body::CreateDataset { name, fields } = &create.body else { continue };
        let id = DatasetId::from(create.id());
        let about: Vec<&Operation> = valid.iter().copied().filter(|op| dataset_of(op) == Some(id)).collect();
        let deletes = || about.iter().filter(|op| matches!(op.body, Body::DeleteDataset { .. }));
        let mut dataset = Dataset {
            id,
            topic: create.topic(),
            name: name.clone(),
            name_taken: false,
            description: String::new(),
            status: DatasetStatus::Deleted,
            tags: BTreeSet::new(),
            metadata: BTreeMap::new(),
            schema: None,
            created_by: create.author,
            created_at: create.time,
            updated_at: deletes().map(|op| op.time).max().unwrap_or_default(),
            latest: None,
            version_count: 0,
        };
        if deletes().next().is_none() {
            let updates: Vec<(&Operation, &FieldChanges)> = about
                .iter()
                .filter_map(|op| match &op.body {
                    Body::UpdateDataset { fields, .. } => Some((*op, fields)),
                    _ => None,
                })
                .collect();
            let fields = merged(written, create.id(), fields, &updates);
            dataset.description = fields.description.unwrap_or_default();
            dataset.tags = fields.tags.unwrap_or_default();
            dataset.metadata = fields.metadata.unwrap_or_default();
            dataset.schema = fields.schema.flatten();
            let versions = write_versions(written, &dataset, &about, &mut pins);
            let is_status =
                |op: &&&Operation| matches!(op.body, Body::ArchiveDataset { .. } | Body::RestoreDataset { .. });
            let last = about.iter().rfind(is_status);
            if let Some(last) = last {
                note_field(written, create.id(), 4, last);
            }
            let is_archived = last.is_some_and(|op| matches!(op.body, Body::ArchiveDataset { .. }));
            dataset.status = match (is_archived, versions.is_empty()) {
                (true, _) => DatasetStatus::Archived,
                (_, true) => DatasetStatus::Draft,
                _ => DatasetStatus::Active,
            };
            dataset.version_count = versions.len() as u32;
            // The first of the highest number; releases are above all pre-releases.
            let active = versions.iter().filter(|version| version.status == VersionStatus::Active);
            let rank = |version: &&Version| (version.semver.pre.is_empty(), version.semver.clone());
            dataset.latest = active.rev().max_by_key(rank).map(|version| version.id);
            let is_there = |op: &&&Operation| match &op.body {
                Body::WithdrawVersion { version, .. } => versions.iter().any(|known| known.id == *version),
                _ => true,
            };
            dataset.updated_at = about.iter().filter(is_there).map(|op| op.time).max().unwrap_or_default();
            dataset.name_taken = !held.insert((dataset.topic, name.clone()));
            let key = keys::dataset_name(&dataset.topic, name, create.position());
            put(written, Table::DatasetNames, &key, Vec::new());
        }
        put(written, Table::Datasets, id.as_bytes(), encode(&dataset));
    }
    for (manifest, pin) in pins {
        put(written, Table::Pins, &keys::pin(&manifest), encode(&pin));
    }
}

/// By position.
fn write_versions(
    written: &mut Written,
    dataset: &Dataset,
    about: &[&Operation],
    pins: &mut BTreeMap<ManifestId, Pin>,
) -> Vec<Version> {
    let mut versions: Vec<Version> = Vec::new();
    for op in about {
        let Body::PublishVersion(new) = &op.body else { continue };
        let id = VersionId::from(op.id());
        let is_withdrawn =
            about.iter().any(|op| matches!(&op.body, Body::WithdrawVersion { version, .. } if *version == id));
        let version = Version {
            id,
            dataset: dataset.id,
            topic: dataset.topic,
            semver: new.semver.clone(),
            semver_taken: versions.iter().any(|known| known.semver == new.semver),
            previous: new.previous,
            message: new.message.clone(),
            manifest: new.manifest,
            content: new.content,
            size: new.size,
            n_files: new.n_files,
            format: new.format,
            schema: new.schema.clone(),
            row_count: new.row_count,
            license: new.license.clone(),
            source_url: new.source_url.clone(),
            status: if is_withdrawn { VersionStatus::Withdrawn } else { VersionStatus::Active },
            created_by: op.author,
            created_at: op.time,
        };
        let pin = pins.entry(new.manifest).or_default();
        pin.n_versions += 1;
        pin.n_withdrawn += u32::from(is_withdrawn);
        put(written, Table::Versions, id.as_bytes(), encode(&version));
        let order = keys::version_order(&dataset.id, op.position());
        put(written, Table::VersionOrder, &order, new.semver.to_string().into_bytes());
        let number = keys::version_number(&dataset.id, &new.semver, op.position());
        put(written, Table::VersionNumbers, &number, vec![u8::from(is_withdrawn)]);
        versions.push(version);
    }
    versions
}
