//! Textual forms of ids, references and roles.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use bib_core::id::{ChunkId, ContentId, DatasetId, ManifestId, NodeId, OpId, TopicId, UserId, VersionId};
use bib_core::key::SecretKey;
use bib_core::model::{ContentFormat, Reference};
use bib_core::op::Role;

use crate::fixture;

fn shown<T: Display + FromStr + PartialEq + Debug>(name: &str, value: &T) -> (String, String) {
    let text = value.to_string();
    assert!(text.parse::<T>().is_ok_and(|read| read == *value), "{name}: {text} reads back");
    (name.to_owned(), text)
}

#[test]
fn textual_forms() {
    let bytes: [u8; 32] = std::array::from_fn(|i| (i * 7) as u8);
    let key = SecretKey::from_seed([1; 32]);
    let mut lines = vec![
        shown("UserId", &UserId::from_bytes(bytes)),
        shown("TopicId", &TopicId::from_bytes(bytes)),
        shown("DatasetId", &DatasetId::from_bytes(bytes)),
        shown("VersionId", &VersionId::from_bytes(bytes)),
        shown("OpId", &OpId::from_bytes(bytes)),
        shown("ContentId", &ContentId::from_bytes(bytes)),
        shown("ChunkId", &ChunkId::from_bytes(bytes)),
        shown("ManifestId", &ManifestId::from_bytes(bytes)),
        shown("NodeId", &NodeId::from_bytes(bytes)),
        shown("SecretKey.user_id", &key.user_id()),
        shown("SecretKey.node_id", &key.node_id()),
        ("UserId.short".to_owned(), UserId::from_bytes(bytes).short()),
        ("ChunkId.short".to_owned(), ChunkId::from_bytes(bytes).short()),
        ("NodeId.short".to_owned(), NodeId::from_bytes(bytes).short()),
    ];
    let references = [
        "a/b",
        "weather/daily/temps@1.2.0:stations/de berlin.csv",
        "weather/daily@latest",
        "weather/daily@1.2",
        "a~tabcdefg/b~dabcdefg@vabcdefgh",
        "größe/é:ü",
    ];
    for (i, text) in references.iter().enumerate() {
        lines.push(shown(&format!("Reference.{i}"), &text.parse::<Reference>().unwrap()));
    }
    for role in [Role::Reader, Role::Contributor, Role::Admin, Role::Owner] {
        lines.push(shown(&format!("Role.{role:?}"), &role));
    }
    let formats = ["csv", "tsv", "jsonl", "json", "parquet", "text", "binary", "tree"];
    for format in formats {
        lines.push(shown(&format!("ContentFormat.{format}"), &format.parse::<ContentFormat>().unwrap()));
    }
    assert_eq!(fixture("text", &lines), lines, "{}", crate::ADVICE);
}
