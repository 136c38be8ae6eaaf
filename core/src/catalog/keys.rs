//! Where each record of the catalog is: the layout of keys. Part of the format, described in `docs/format.md`.
//!
//! Numbers are big endian, so that the order of keys is the order of numbers.

use crate::id::{DatasetId, ManifestId, OpId, TopicId, UserId, VersionId};
use crate::model::Name;
use crate::op::{Class, Resource};
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

/// `Meta`: the topics of a tree; the value is empty.
pub fn tree_member(root: &TopicId, topic: &TopicId) -> Vec<u8> {
    [b"tree".as_slice(), root.as_bytes(), topic.as_bytes()].concat()
}

/// What the keys of all topics of a tree begin with.
pub fn tree_prefix(root: &TopicId) -> Vec<u8> {
    [b"tree".as_slice(), root.as_bytes()].concat()
}

/// `Parked`: an operation that waits.
pub fn parked(topic: &TopicId, id: &OpId) -> Vec<u8> {
    [b"o".as_slice(), topic.as_bytes(), id.as_bytes()].concat()
}

/// What the keys of all operations of a topic that wait begin with.
pub fn parked_prefix(topic: &TopicId) -> Vec<u8> {
    [b"o".as_slice(), topic.as_bytes()].concat()
}

/// `Parked`: what an operation waits for; the value is the topic of the one that waits.
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

/// `VersionOrder`: a version of a dataset; the value is its number as text.
pub fn version_order(dataset: &DatasetId, at: OpKey) -> Vec<u8> {
    position(dataset.as_bytes().to_vec(), at)
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
    fn end_of_a_prefix_lies_behind_everything_in_it() {
        assert_eq!(after_prefix(&[1, 2]), Some(vec![1, 3]));
        assert_eq!(after_prefix(&[1, 255]), Some(vec![2]));
        assert_eq!(after_prefix(&[255]), None);
    }
}
