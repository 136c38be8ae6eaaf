//! Names, paths and references: what people type, checked once where it enters.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use unicode_normalization::{UnicodeNormalization, is_nfc};

use crate::limits::{MAX_DATASET_PATH_LEN, MAX_NAME_CHARS, MAX_REFERENCE_LEN, MAX_TOPIC_DEPTH};

/// Why a text is not a name, path or reference. The message says what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// A name is empty, too long, or has a character that names do not have.
    #[error("`{name}` is not a name: {reason}")]
    Name {
        /// The refused text, shortened.
        name: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// A path inside a dataset is empty, absolute, too long or would lead out of it.
    #[error("`{path}` is not a path inside a dataset: {reason}")]
    Path {
        /// The refused text, shortened.
        path: String,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// A reference has no dataset, too many topics or an unreadable version.
    #[error("`{text}` is not a reference: {reason}; expected topic/dataset[@version][:path]")]
    Reference {
        /// The refused text, shortened.
        text: String,
        /// The rule it breaks.
        reason: &'static str,
    },
}

fn shorten(text: &str) -> String {
    text.chars().take(120).collect()
}

/// A name of a topic or dataset: 1–64 characters in NFC, letters, digits, `_`, `-`, `.`, not beginning with `.` or `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// Checks a text; what is typed in another normal form is brought to NFC.
    ///
    /// # Errors
    /// [`ReferenceError::Name`] with the rule that is broken.
    pub fn new(text: &str) -> Result<Self, ReferenceError> {
        let refuse = |reason| Err(ReferenceError::Name { name: shorten(text), reason });
        // Bounded before normalisation, which may lengthen a text several times.
        if text.len() > MAX_NAME_CHARS * 16 {
            return refuse("names have at most 64 characters");
        }
        let name: String = if is_nfc(text) { text.to_owned() } else { text.nfc().collect() };
        match name.chars().next() {
            None => return refuse("a name has at least one character"),
            Some('.' | '-') => return refuse("names do not begin with `.` or `-`"),
            Some(_) => {}
        }
        if name.chars().count() > MAX_NAME_CHARS {
            return refuse("names have at most 64 characters");
        }
        if !name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.') || is_mark(c)) {
            return refuse("names have letters, digits, `_`, `-` and `.` only");
        }
        Ok(Self(name))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Combining marks that NFC leaves uncombined belong to the letter before them.
fn is_mark(c: char) -> bool {
    unicode_normalization::char::is_combining_mark(c)
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Name {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let name = Self::new(&text)?;
        // What arrives encoded must be canonical, else one name would have two encodings.
        if name.0 != text {
            return Err(ReferenceError::Name { name: shorten(&text), reason: "names are in normal form NFC" });
        }
        Ok(name)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl FromStr for Name {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

/// One or more names from a root topic downwards, joined by `/`. A last name may carry `~shortid`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicPath {
    /// From the root topic downwards; never empty, at most eight.
    pub names: Vec<Segment>,
}

/// A name and, where it is ambiguous, the beginning of the id that is meant: `name~shortid`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Segment {
    /// The name.
    pub name: Name,
    /// Prefix of the id's text, with its letter, when given.
    pub id_prefix: Option<String>,
}

impl Segment {
    fn parse(text: &str) -> Result<Self, ReferenceError> {
        let (name, id) = match text.split_once('~') {
            None => (text, None),
            Some((name, id)) => (name, Some(id)),
        };
        if let Some(id) = id
            && (id.is_empty() || id.len() > 53 || !id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()))
        {
            return Err(ReferenceError::Name {
                name: shorten(text),
                reason: "after `~` stands the beginning of an id in lower case",
            });
        }
        Ok(Self { name: Name::new(name)?, id_prefix: id.map(str::to_owned) })
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.id_prefix {
            None => write!(f, "{}", self.name),
            Some(id) => write!(f, "{}~{id}", self.name),
        }
    }
}

impl FromStr for TopicPath {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = |reason| Err(ReferenceError::Reference { text: shorten(text), reason });
        if text.len() > MAX_REFERENCE_LEN {
            return refuse("it is longer than 2,048 bytes");
        }
        let names = text.split('/').map(Segment::parse).collect::<Result<Vec<_>, _>>()?;
        if names.len() > MAX_TOPIC_DEPTH {
            return refuse("topics are nested at most 8 deep");
        }
        Ok(Self { names })
    }
}

impl fmt::Display for TopicPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, name) in self.names.iter().enumerate() {
            if i > 0 {
                f.write_str("/")?;
            }
            write!(f, "{name}")?;
        }
        Ok(())
    }
}

/// Which version of a dataset is meant.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum VersionSelector {
    /// The highest active release.
    #[default]
    Latest,
    /// This one, or the lowest of its id where several claim it.
    Exact(semver::Version),
    /// The highest active one with this major and, if given, minor number.
    Prefix(u64, Option<u64>),
    /// The one whose id begins with this text, with its `v`.
    Id(String),
}

impl FromStr for VersionSelector {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || {
            Err(ReferenceError::Reference {
                text: shorten(text),
                reason: "the version is neither `latest`, a number such as 1.2.0 or 1.2, nor the beginning of an id",
            })
        };
        if text == "latest" {
            return Ok(Self::Latest);
        }
        if let Some(id) = text.strip_prefix('v')
            && (4..=52).contains(&id.len())
            && id.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'))
        {
            return Ok(Self::Id(text.to_owned()));
        }
        if let Ok(version) = semver::Version::parse(text) {
            return Ok(Self::Exact(version));
        }
        let number = |part: &str| -> Option<u64> {
            (part.bytes().all(|b| b.is_ascii_digit()) && !part.is_empty()).then(|| part.parse().ok()).flatten()
        };
        match text.split_once('.') {
            None => number(text).map_or_else(refuse, |major| Ok(Self::Prefix(major, None))),
            Some((major, minor)) => match (number(major), number(minor)) {
                (Some(major), Some(minor)) => Ok(Self::Prefix(major, Some(minor))),
                _ => refuse(),
            },
        }
    }
}

impl fmt::Display for VersionSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Exact(version) => write!(f, "{version}"),
            Self::Prefix(major, None) => write!(f, "{major}"),
            Self::Prefix(major, Some(minor)) => write!(f, "{major}.{minor}"),
            Self::Id(id) => f.write_str(id),
        }
    }
}

/// A path inside a dataset: relative, UTF-8, `/` between non-empty segments, none of them `.` or `..`, ≤ 1,024 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DatasetPath(String);

impl DatasetPath {
    /// Checks a text.
    ///
    /// # Errors
    /// [`ReferenceError::Path`] with the rule that is broken.
    pub fn new(text: &str) -> Result<Self, ReferenceError> {
        let refuse = |reason| Err(ReferenceError::Path { path: shorten(text), reason });
        if text.len() > MAX_DATASET_PATH_LEN {
            return refuse("it is longer than 1,024 bytes");
        }
        if text.contains('\0') {
            return refuse("it has a zero byte");
        }
        if text.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
            return refuse("it is empty or absolute, or has an empty, `.` or `..` segment");
        }
        Ok(Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DatasetPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for DatasetPath {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text)
    }
}

impl From<DatasetPath> for String {
    fn from(path: DatasetPath) -> Self {
        path.0
    }
}

/// What a user names: `topic/sub/dataset[@version][:path/in/dataset]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// The topics above the dataset.
    pub topic: TopicPath,
    /// The dataset.
    pub dataset: Segment,
    /// The version; `latest` unless named.
    pub version: VersionSelector,
    /// A file or folder inside the dataset.
    pub path: Option<DatasetPath>,
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = |reason| Err(ReferenceError::Reference { text: shorten(text), reason });
        if text.len() > MAX_REFERENCE_LEN {
            return refuse("it is longer than 2,048 bytes");
        }
        let (head, path) = match text.split_once(':') {
            None => (text, None),
            Some((head, path)) => (head, Some(DatasetPath::new(path)?)),
        };
        let (names, version) = match head.split_once('@') {
            None => (head, VersionSelector::Latest),
            Some((names, version)) => (names, version.parse()?),
        };
        let Some((topic, dataset)) = names.rsplit_once('/') else {
            return refuse("it names no topic");
        };
        Ok(Self { topic: topic.parse()?, dataset: Segment::parse(dataset)?, version, path })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.dataset)?;
        if self.version != VersionSelector::Latest {
            write!(f, "@{}", self.version)?;
        }
        if let Some(path) = &self.path {
            write!(f, ":{path}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_read_back_what_they_show() {
        for text in [
            "weather/temps",
            "weather/daily/temps@1.2.0",
            "weather/daily/temps@1.2",
            "weather/daily/temps@3",
            "wetter/täglich/größe@vabcdefgh:2024/januar daten.csv",
            "weather~tabcdefgh/temps~dabcdefgh:a:b@c",
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), text);
        }
        assert_eq!("a/b@latest".parse::<Reference>().unwrap().to_string(), "a/b");
    }

    #[test]
    fn hostile_references_are_refused() {
        let long = format!("{}/b", "a".repeat(65));
        let deep = format!("{}d", "a/".repeat(9));
        for text in [
            "",
            "a",
            "/a",
            "a/",
            "a//b",
            "../b",
            "a/..",
            "a/.b",
            "a/-b",
            "a/b c",
            "a/b@",
            "a/b@x",
            "a/b@1.2.3.4",
            "a/b:",
            "a/b:/etc/passwd",
            "a/b:x/../y",
            "a/b:x//y",
            "a/b:x\0y",
            "a/b~",
            "a/b~T",
            &long,
            &deep,
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
        assert!("x/".repeat(5_000).parse::<Reference>().is_err());
    }

    #[test]
    fn typed_names_are_normalised_and_encoded_ones_must_be() {
        assert_eq!(Name::new("cafe\u{301}").unwrap().as_str(), "caf\u{e9}");
        assert!(Name::try_from("cafe\u{301}".to_owned()).is_err());
    }
}
