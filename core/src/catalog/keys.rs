//! Where each record of the catalog is: the layout of keys. Part of the format, described in `docs/format.md`.
//!
//! Numbers are big endian, so that the order of keys is the order of numbers.

use crate::id::{DatasetId, ManifestId, OpId, TopicId, UserId, VersionId};
use crate::model::Name;
use crate::op::{Class, Resource};
use crate::port::Table;
use crate::time::Timestamp;
use crate::wire::message::OpKey;

/// Bytes of a position (lamport, id) in a key.
pub const POSITION_LEN: usize = 40;

const fn class_byte(class: Class) -> u8 {
    match class {
        Class::Access => 0,
        Class::Content => 1,
    }
}

/// What all keys of one log in `OpOrder` and `Heads` begin with.
pub fn log_prefix(topic: &TopicId, class: Class) -> Vec<u8> {
    let mut key = topic.as_bytes().to_vec();
    key.push(class_byte(class));
    key
}

fn position(mut key: Vec<u8>, (lamport, id): OpKey) -> Vec<u8> {
    key.extend_from_slice(&lamport.to_be_bytes());
    key.extend_from_slice(id.as_bytes());
    key
}

/// The position at the end of a key of `OpOrder`, `TopicNames`, `DatasetNames` or `VersionOrder`.
pub fn position_of(key: &[u8]) -> Option<OpKey> {
    let (lamport, id) = key.last_chunk::<POSITION_LEN>()?.split_at(8);
    Some((u64::from_be_bytes(lamport.try_into().ok()?), OpId::from_slice(id)?))
}

/// `OpOrder`: an operation in its log; the value is empty.
pub fn op_order(topic: &TopicId, class: Class, at: OpKey) -> Vec<u8> {
    position(log_prefix(topic, class), at)
}

/// `Heads`: an operation that no other one of its log names as parent; the value is empty.
pub fn head(topic: &TopicId, class: Class, id: &OpId) -> Vec<u8> {
    let mut key = log_prefix(topic, class);
    key.extend_from_slice(id.as_bytes());
    key
}

/// `Meta`: number and sum of the operations of a log.
pub fn log_figures(topic: &TopicId, class: Class) -> Vec<u8> {
    [b"log".as_slice(), &log_prefix(topic, class)].concat()
}

/// What the keys of the figures of both logs of a topic begin with.
pub fn logs_of(topic: &TopicId) -> Vec<u8> {
    [b"log".as_slice(), topic.as_bytes()].concat()
}

/// What the keys of the figures of all logs begin with.
pub fn logs_prefix() -> Vec<u8> {
    b"log".to_vec()
}

/// `Meta`: the topics of a tree; the value is empty.
pub fn tree_member(root: &TopicId, topic: &TopicId) -> Vec<u8> {
    [b"tree".as_slice(), root.as_bytes(), topic.as_bytes()].concat()
}

/// What the keys of all topics of all trees begin with.
pub fn trees_prefix() -> Vec<u8> {
    b"tree".to_vec()
}

/// What the keys of all topics of a tree begin with.
pub fn tree_prefix(root: &TopicId) -> Vec<u8> {
    [b"tree".as_slice(), root.as_bytes()].concat()
}

/// `Meta`: number of access operations of a tree of topics.
pub fn tree_revision(root: &TopicId) -> Vec<u8> {
    [b"trev".as_slice(), root.as_bytes()].concat()
}

/// `Meta`: number of datasets of a topic, tombstones left out.
pub fn dataset_count(topic: &TopicId) -> Vec<u8> {
    [b"nds".as_slice(), topic.as_bytes()].concat()
}

/// Whether a key of `Meta` is about this node alone, and not about the operations it holds.
pub fn is_local(key: &[u8]) -> bool {
    [GRACE_CLOCK, KEPT, b"work", b"use"].iter().any(|prefix| key.starts_with(prefix))
}

/// `Meta`: the clock of periods of grace.
pub const GRACE_CLOCK: &[u8] = b"grace";

/// `Meta`: what work that the node does by itself remembers.
pub fn worker(name: &str) -> Vec<u8> {
    [b"work".as_slice(), name.as_bytes()].concat()
}

/// `Meta`: bytes of content that is here and counts in the quota of a topic (8, big endian); absent for 0.
pub fn topic_bytes(topic: &TopicId) -> Vec<u8> {
    [b"uset".as_slice(), topic.as_bytes()].concat()
}

/// `Meta`: bytes of content that is here and counts in the quota of a user (8, big endian); absent for 0.
pub fn user_bytes(user: &UserId) -> Vec<u8> {
    [b"useu".as_slice(), user.as_bytes()].concat()
}

/// `Meta`: content that was here before quotas counted has been charged.
pub const CHARGED: &[u8] = b"usec";

/// `Meta`: content that a user of this node keeps.
pub fn kept(manifest: &ManifestId) -> Vec<u8> {
    [KEPT, manifest.as_bytes().as_slice()].concat()
}

/// What the keys of all content that users of this node keep begin with.
pub const KEPT: &[u8] = b"kept";

/// `OpIndex`: a content operation by its author; the value is empty.
pub fn op_by_author(topic: &TopicId, author: &UserId, at: OpKey) -> Vec<u8> {
    position(ops_by_author(topic, author), at)
}

/// What the keys of all content operations of a user in a topic begin with.
pub fn ops_by_author(topic: &TopicId, author: &UserId) -> Vec<u8> {
    [b"a".as_slice(), topic.as_bytes(), author.as_bytes()].concat()
}

/// `OpIndex`: a content operation by the topic or dataset it is about; the value is empty.
pub fn op_about(entity: &OpId, at: OpKey) -> Vec<u8> {
    position(ops_about(entity), at)
}

/// What the keys of all content operations about a topic or dataset begin with.
pub fn ops_about(entity: &OpId) -> Vec<u8> {
    [b"s".as_slice(), entity.as_bytes()].concat()
}

/// `OpIndex`: the last access operations that a content operation knows of, where they are not just its parents; the
/// value is their ids.
pub fn op_frontier(id: &OpId) -> Vec<u8> {
    [b"f".as_slice(), id.as_bytes()].concat()
}

/// `Parked`: an operation that waits.
pub fn parked(topic: &TopicId, id: &OpId) -> Vec<u8> {
    [b"o".as_slice(), topic.as_bytes(), id.as_bytes()].concat()
}

/// What the keys of all operations of a topic that wait begin with.
pub fn parked_prefix(topic: &TopicId) -> Vec<u8> {
    [b"o".as_slice(), topic.as_bytes()].concat()
}

/// `Parked`: one of those that an operation waits for; the value is the topic of the one that waits.
pub fn waits_for(missing: &OpId, parked: &OpId) -> Vec<u8> {
    [b"w".as_slice(), missing.as_bytes(), parked.as_bytes()].concat()
}

/// What the keys of all operations that wait for one begin with.
pub fn waits_prefix(missing: &OpId) -> Vec<u8> {
    [b"w".as_slice(), missing.as_bytes()].concat()
}

/// `Parked`: number and bytes of the operations of a topic that wait.
pub fn parked_figures(topic: &TopicId) -> Vec<u8> {
    [b"f".as_slice(), topic.as_bytes()].concat()
}

/// `Parked`: number and bytes of all operations that wait.
pub const PARKED_TOTAL: &[u8] = b"n";

/// `Parked`: when an operation that waits has to be looked at again; the value is its topic.
pub fn parked_until(time: Timestamp, id: &OpId) -> Vec<u8> {
    [b"t".as_slice(), &time_bytes(time), id.as_bytes()].concat()
}

/// What lies before the keys of all operations that are to be looked at again after a time.
pub fn parked_after(time: Timestamp) -> Vec<u8> {
    [b"t".as_slice(), &time_bytes(Timestamp(time.0.saturating_add(1)))].concat()
}

/// `Parked`: since when an operation waits; the value is its topic.
pub fn parked_since(time: Timestamp, id: &OpId) -> Vec<u8> {
    [b"e".as_slice(), &time_bytes(time), id.as_bytes()].concat()
}

/// The operation in a key of [`waits_for`], [`parked_until`] or [`parked_since`].
pub fn parked_id(key: &[u8]) -> Option<OpId> {
    OpId::from_slice(key.last_chunk::<32>()?)
}

/// A time so that earlier ones have lower bytes.
fn time_bytes(time: Timestamp) -> [u8; 8] {
    // The sign bit turned over puts the years before 1970 first.
    (time.0.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

fn named(above: &[u8; 32], name: &Name) -> Vec<u8> {
    // A name holds no zero byte, so that no name is the beginning of another one's keys.
    [above.as_slice(), name.as_str().as_bytes(), &[0]].concat()
}

/// What the keys of all topics with a name begin with.
pub fn topic_name_prefix(parent: Option<&TopicId>, name: &Name) -> Vec<u8> {
    named(parent.map_or(&[0; 32], TopicId::as_bytes), name)
}

/// What the keys of all topics directly below one (or of all root topics) begin with.
pub fn topics_below(parent: Option<&TopicId>) -> Vec<u8> {
    parent.map_or([0; 32], |id| *id.as_bytes()).to_vec()
}

/// `TopicNames`: a topic by name; the value is empty.
pub fn topic_name(parent: Option<&TopicId>, name: &Name, at: OpKey) -> Vec<u8> {
    position(topic_name_prefix(parent, name), at)
}

/// What the keys of all datasets with a name begin with.
pub fn dataset_name_prefix(topic: &TopicId, name: &Name) -> Vec<u8> {
    named(topic.as_bytes(), name)
}

/// `DatasetNames`: a dataset by name; the value is empty.
pub fn dataset_name(topic: &TopicId, name: &Name, at: OpKey) -> Vec<u8> {
    position(dataset_name_prefix(topic, name), at)
}

/// What the keys of all datasets of a topic begin with.
pub fn datasets_in(topic: &TopicId) -> Vec<u8> {
    topic.as_bytes().to_vec()
}

/// `VersionOrder`: a version of a dataset; the value is its number as text.
pub fn version_order(dataset: &DatasetId, at: OpKey) -> Vec<u8> {
    position(dataset.as_bytes().to_vec(), at)
}

/// What the keys of all versions of a dataset in `VersionOrder` begin with.
pub fn versions_of(dataset: &DatasetId) -> Vec<u8> {
    dataset.as_bytes().to_vec()
}

/// `VersionNumbers`: a version by its number; the value is 0 while it is active, else 1. Releases come behind
/// pre-releases, so that the last key of a dataset is its highest release, where it has one.
pub fn version_number(dataset: &DatasetId, number: &semver::Version, at: OpKey) -> Vec<u8> {
    position(version_number_prefix(dataset, number), at)
}

/// What the keys of all versions of a dataset with a number begin with.
pub fn version_number_prefix(dataset: &DatasetId, number: &semver::Version) -> Vec<u8> {
    let mut key = numbers_within(dataset, number.pre.is_empty(), number.major, Some(number.minor));
    key.extend_from_slice(&number.patch.to_be_bytes());
    for part in number.pre.split('.').filter(|part| !part.is_empty()) {
        if part.bytes().all(|byte| byte.is_ascii_digit()) {
            // Of two numbers without leading zeros the longer one is the higher.
            key.push(1);
            key.extend_from_slice(&u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
            key.extend_from_slice(part.as_bytes());
        } else {
            key.push(2);
            key.extend_from_slice(part.as_bytes());
            key.push(0);
        }
    }
    key.push(0);
    key
}

/// What the keys of all releases (or pre-releases) of a dataset with a major and perhaps minor number begin with.
pub fn numbers_within(dataset: &DatasetId, is_release: bool, major: u64, minor: Option<u64>) -> Vec<u8> {
    let mut key = numbers_of(dataset, is_release);
    key.extend_from_slice(&major.to_be_bytes());
    key.extend(minor.into_iter().flat_map(u64::to_be_bytes));
    key
}

/// What the keys of all releases (or pre-releases) of a dataset in `VersionNumbers` begin with.
pub fn numbers_of(dataset: &DatasetId, is_release: bool) -> Vec<u8> {
    [dataset.as_bytes().as_slice(), &[u8::from(is_release)]].concat()
}

fn resource(resource: &Resource) -> Vec<u8> {
    let (kind, id) = match resource {
        Resource::Topic(id) => (b't', id.as_bytes()),
        Resource::Dataset(id) => (b'd', id.as_bytes()),
    };
    [[kind].as_slice(), id].concat()
}

/// `Grants`: the grants in force on a resource, by user.
pub fn grant(on: &Resource, user: &UserId) -> Vec<u8> {
    let mut key = resource(on);
    key.extend_from_slice(user.as_bytes());
    key
}

/// What the keys of all grants on a resource begin with.
pub fn grants_on(on: &Resource) -> Vec<u8> {
    resource(on)
}

/// `Fields`: position of the operation that set a field of a topic or dataset.
pub fn field(entity: &OpId, field: u8) -> Vec<u8> {
    [entity.as_bytes().as_slice(), &[field]].concat()
}

/// `Pins`: a manifest whose chunks are kept.
pub fn pin(manifest: &ManifestId) -> Vec<u8> {
    manifest.as_bytes().to_vec()
}

/// `Transfers`: what is known of bringing a version here.
pub fn transfer(version: &VersionId) -> Vec<u8> {
    version.as_bytes().to_vec()
}

/// The part of a key that says how people call things or what content is here: an encrypted catalog does not show it.
/// Where it begins and where it ends, or `None` for the end when the key stops within it, as the beginning of a key may.
/// Whether there is such a part, and where it begins, follows from the bytes before it and that there are more behind.
pub fn hidden(table: Table, key: &[u8]) -> Option<(usize, Option<usize>)> {
    let begin = match table {
        Table::TopicNames | Table::DatasetNames | Table::VersionNumbers => 32,
        Table::Meta if key.starts_with(KEPT) => KEPT.len(),
        Table::Pins => 0,
        _ => return None,
    };
    let rest = key.get(begin..).filter(|rest| !rest.is_empty())?;
    let len = match table {
        Table::TopicNames | Table::DatasetNames => rest.iter().position(|byte| *byte == 0).map(|zero| zero + 1),
        Table::VersionNumbers => number_len(rest),
        _ => Some(32).filter(|len| *len <= rest.len()),
    };
    Some((begin, len.map(|len| begin + len)))
}

/// Bytes of the number that a key of `VersionNumbers` has behind the dataset; `None` when they stop within it.
fn number_len(bytes: &[u8]) -> Option<usize> {
    let mut at = 1 + 3 * 8;
    loop {
        at += match bytes.get(at)? {
            0 => return Some(at + 1),
            1 => 3 + usize::from(u16::from_be_bytes(*bytes.get(at + 1..)?.first_chunk()?)),
            _ => 2 + bytes.get(at + 1..)?.iter().position(|byte| *byte == 0)?,
        };
    }
}

/// The first key behind all keys that begin with `prefix`; `None` when there is none.
pub fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let end = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut key = prefix[..=end].to_vec();
    key[end] += 1;
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_reads_back_from_the_end_of_a_key() {
        let at = (7, OpId::from_bytes([9; 32]));
        let key = op_order(&TopicId::from_bytes([1; 32]), Class::Content, at);
        assert_eq!(position_of(&key), Some(at));
        assert_eq!(position_of(&key[..20]), None);
    }

    #[test]
    fn keys_of_numbers_are_in_the_order_of_precedence() {
        let dataset = DatasetId::from_bytes([1; 32]);
        let key = |text: &str| version_number_prefix(&dataset, &text.parse().unwrap());
        let pre = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.9", "1.0.0-alpha.10", "1.0.0-alpha.a", "1.0.0-b"];
        let more = ["1.0.0-b-c", "1.0.1-1", "2.0.0-x", "0.9.9", "1.0.0", "1.0.10", "1.2.0", "10.0.0"];
        let keys: Vec<_> = pre.iter().chain(&more).map(|text| key(text)).collect();
        assert!(keys.is_sorted());
        for (i, a) in keys.iter().enumerate() {
            assert!(keys.iter().enumerate().all(|(j, b)| i == j || !b.starts_with(a)), "no number begins another");
        }
    }

    #[test]
    fn hidden_part_of_a_key_ends_where_the_next_part_begins() {
        let (topic, at) = (TopicId::from_bytes([1; 32]), (7, OpId::from_bytes([0; 32])));
        let name: Name = "weather".parse().unwrap();
        let mut keys = vec![(Table::TopicNames, topic_name(None, &name, at), 32, 40)];
        keys.push((Table::DatasetNames, dataset_name(&topic, &name, at), 32, 40));
        keys.push((Table::Pins, pin(&ManifestId::from_bytes([0; 32])), 0, 32));
        keys.push((Table::Meta, kept(&ManifestId::from_bytes([0; 32])), 4, 36));
        for text in ["1.2.3", "1.2.3-1.alpha.22", "256.0.1-0"] {
            let (dataset, number) = (DatasetId::from_bytes([1; 32]), text.parse().unwrap());
            let end = version_number_prefix(&dataset, &number).len();
            keys.push((Table::VersionNumbers, version_number(&dataset, &number, at), 32, end));
        }
        for (table, key, begin, end) in keys {
            for len in 0..=key.len() {
                let expected = (len > begin).then_some((begin, (len >= end).then_some(end)));
                assert_eq!(hidden(table, &key[..len]), expected, "{table:?}: {len} of {} bytes", key.len());
            }
        }
        assert_eq!(hidden(Table::Meta, &log_figures(&topic, Class::Content)), None);
        assert_eq!(hidden(Table::Ops, &[1; 32]), None);
    }

    #[test]
    fn keys_of_times_are_in_their_order() {
        let times =
            [i64::MIN, -1, 0, 1, i64::MAX].map(|time| parked_until(Timestamp(time), &OpId::from_bytes([0; 32])));
        assert!(times.is_sorted());
        assert!(parked_after(Timestamp(0)) > times[2] && parked_after(Timestamp(0)) <= times[3]);
    }

    #[test]
    fn end_of_a_prefix_lies_behind_everything_in_it() {
        assert_eq!(after_prefix(&[1, 2]), Some(vec![1, 3]));
        assert_eq!(after_prefix(&[1, 255]), Some(vec![2]));
        assert_eq!(after_prefix(&[255]), None);
    }
}
