//! A version: one immutable state of a dataset.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{ContentId, DatasetId, ManifestId, TopicId, UserId, VersionId};
use crate::time::Timestamp;

/// What the bytes of a version are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ContentFormat {
    /// Comma-separated values.
    Csv,
    /// Tab-separated values.
    Tsv,
    /// JSON Lines.
    Jsonl,
    /// One JSON document.
    Json,
    /// Apache Parquet.
    Parquet,
    /// UTF-8 text.
    Text,
    /// Anything else.
    Binary,
    /// Several files.
    Tree,
}

impl ContentFormat {
    const NAMES: [(Self, &'static str); 8] = [
        (Self::Csv, "csv"),
        (Self::Tsv, "tsv"),
        (Self::Jsonl, "jsonl"),
        (Self::Json, "json"),
        (Self::Parquet, "parquet"),
        (Self::Text, "text"),
        (Self::Binary, "binary"),
        (Self::Tree, "tree"),
    ];

    /// The format that the extension of a file name stands for.
    pub fn of_file_name(name: &str) -> Self {
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension).to_ascii_lowercase();
        match extension.as_str() {
            "csv" => Self::Csv,
            "tsv" | "tab" => Self::Tsv,
            "jsonl" | "ndjson" => Self::Jsonl,
            "json" | "geojson" => Self::Json,
            "parquet" => Self::Parquet,
            "txt" | "md" | "log" => Self::Text,
            _ => Self::Binary,
        }
    }
}

impl fmt::Display for ContentFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(format, _)| format == self).map_or("binary", |(_, name)| name);
        f.pad(name)
    }
}

/// A text that names no format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a format: expected csv, tsv, jsonl, json, parquet, text, binary or tree")]
pub struct UnknownFormat(pub String);

impl FromStr for ContentFormat {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::NAMES
            .iter()
            .find(|(_, name)| *name == text)
            .map(|(format, _)| *format)
            .ok_or_else(|| UnknownFormat(text.chars().take(40).collect()))
    }
}

/// Whether `latest` may name a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum VersionStatus {
    /// It may.
    #[default]
    Active,
    /// Its author took it back; it can still be fetched by number.
    Withdrawn,
}

/// A version as its operation describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Its id.
    pub id: VersionId,
    /// The dataset it is a state of.
    pub dataset: DatasetId,
    /// The topic of the dataset.
    pub topic: TopicId,
    /// Its number.
    pub semver: semver::Version,
    /// Whether an older version holds the same number, so that this one shows as `1.2.0~shortid`.
    pub semver_taken: bool,
    /// The version it follows.
    pub previous: Option<VersionId>,
    /// What changed, in the author's words.
    pub message: String,
    /// Root page of its manifest.
    pub manifest: ManifestId,
    /// Hash of its one file, else the manifest.
    pub content: ContentId,
    /// Bytes of all its files.
    pub size: u64,
    /// Files in it.
    pub n_files: u64,
    /// What the bytes are.
    pub format: ContentFormat,
    /// Table definition, SQL DDL.
    pub schema: Option<String>,
    /// Rows, where known.
    pub row_count: Option<u64>,
    /// Licence of the content, an SPDX expression where there is one.
    pub license: Option<String>,
    /// Where the content came from.
    pub source_url: Option<String>,
    /// Whether `latest` may name it.
    pub status: VersionStatus,
    /// Who published it.
    pub created_by: UserId,
    /// When, by the author's clock.
    pub created_at: Timestamp,
}
