//! The signed vocabulary. What an operation says is checked here as far as it can be without knowing other
//! operations; whether its author may say it is the business of the access rules.
//!
//! Stability: format version 1. Bytes = version, postcard of [`Unsigned`], 64 bytes of signature over all before
//! them. [`OpId`] = plain BLAKE3 of all those bytes. Golden fixture in `core/fixtures`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::encode::{DecodeError, decode_exact};
use crate::hash::hash;
use crate::id::{ContentId, DatasetId, ManifestId, OpId, TopicId, UserId, VersionId};
use crate::key::{Purpose, SecretKey, Signature, verify};
use crate::limits;
use crate::model::{ContentFormat, Name, Visibility};
use crate::time::Timestamp;

const VERSION: u8 = 1;
const WHAT: &str = "operation";

/// A level of rights. Ordered: a higher role has every right of a lower one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Sees and fetches.
    Reader,
    /// Also creates datasets and publishes.
    Contributor,
    /// Also manages datasets of others, sub-topics and the roles below.
    Admin,
    /// Everything.
    Owner,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Reader => "reader",
            Self::Contributor => "contributor",
            Self::Admin => "admin",
            Self::Owner => "owner",
        })
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "reader" => Ok(Self::Reader),
            "contributor" => Ok(Self::Contributor),
            "admin" => Ok(Self::Admin),
            "owner" => Ok(Self::Owner),
            _ => Err("expected owner, admin, contributor or reader".to_owned()),
        }
    }
}

/// What a grant is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Resource {
    /// A topic and everything below it.
    Topic(TopicId),
    /// One dataset.
    Dataset(DatasetId),
}

/// Whether an operation changes who may do what, or content. The access log syncs alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Class {
    /// Changes rights; its parents are access operations only.
    Access,
    /// Changes content.
    Content,
}

/// New values for some fields of a topic or dataset; `None` leaves a field as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FieldChanges {
    /// Free text.
    pub description: Option<String>,
    /// All labels.
    pub tags: Option<BTreeSet<String>>,
    /// All free keys and values.
    pub metadata: Option<BTreeMap<String, String>>,
    /// Table definition; `Some(None)` removes it.
    pub schema: Option<Option<String>>,
}

/// What `PublishVersion` says of the version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewVersion {
    /// The dataset.
    pub dataset: DatasetId,
    /// Its number.
    pub semver: semver::Version,
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
    /// Licence of the content.
    pub license: Option<String>,
    /// Where the content came from.
    pub source_url: Option<String>,
}

/// What an operation does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// Makes a topic; its author is the first owner. Access.
    CreateTopic {
        /// The topic above; `None` makes a root topic.
        parent: Option<TopicId>,
        /// Its name.
        name: Name,
        /// Who may see it.
        visibility: Visibility,
        /// First values of the other fields.
        fields: FieldChanges,
    },
    /// Changes who may see a topic. Access.
    SetVisibility {
        /// The new value.
        visibility: Visibility,
    },
    /// Makes a topic read-only. Access.
    ArchiveTopic,
    /// Takes that back. Access.
    RestoreTopic,
    /// Leaves a tombstone. Access.
    DeleteTopic {
        /// Also when a sub-topic is active.
        force: bool,
    },
    /// Gives a role. Access.
    Grant {
        /// On what.
        resource: Resource,
        /// To whom.
        user: UserId,
        /// Which.
        role: Role,
        /// Until when, by the time of the operations it allows.
        expires_at: Option<Timestamp>,
    },
    /// Takes all roles of a user on a resource. Access.
    Revoke {
        /// On what.
        resource: Resource,
        /// From whom.
        user: UserId,
        /// Leave grants on what is below.
        keep_below: bool,
    },
    /// Makes `to` an owner; the author becomes admin, or nothing. Access.
    TransferOwnership {
        /// Of what.
        resource: Resource,
        /// To whom.
        to: UserId,
        /// The author keeps no role.
        leave: bool,
    },
    /// Passes all grants of the author in this topic tree to another key and removes the author. Access.
    ReplaceKey {
        /// The new key.
        new: UserId,
    },
    /// Changes other fields of the topic. Content.
    UpdateTopic(FieldChanges),
    /// Makes a dataset; its author is its first owner. Content.
    CreateDataset {
        /// Its name.
        name: Name,
        /// First values of the other fields.
        fields: FieldChanges,
    },
    /// Changes fields of a dataset. Content.
    UpdateDataset {
        /// Which.
        dataset: DatasetId,
        /// New values.
        fields: FieldChanges,
    },
    /// Makes a dataset read-only. Content.
    ArchiveDataset {
        /// Which.
        dataset: DatasetId,
    },
    /// Takes that back. Content.
    RestoreDataset {
        /// Which.
        dataset: DatasetId,
    },
    /// Leaves a tombstone. Content.
    DeleteDataset {
        /// Which.
        dataset: DatasetId,
    },
    /// Makes a version. Content.
    PublishVersion(NewVersion),
    /// Takes a version out of `latest`. Content.
    WithdrawVersion {
        /// Of which dataset.
        dataset: DatasetId,
        /// Which.
        version: VersionId,
    },
}

impl Body {
    /// The class.
    pub const fn class(&self) -> Class {
        match self {
            Self::CreateTopic { .. }
            | Self::SetVisibility { .. }
            | Self::ArchiveTopic
            | Self::RestoreTopic
            | Self::DeleteTopic { .. }
            | Self::Grant { .. }
            | Self::Revoke { .. }
            | Self::TransferOwnership { .. }
            | Self::ReplaceKey { .. } => Class::Access,
            Self::UpdateTopic(_)
            | Self::CreateDataset { .. }
            | Self::UpdateDataset { .. }
            | Self::ArchiveDataset { .. }
            | Self::RestoreDataset { .. }
            | Self::DeleteDataset { .. }
            | Self::PublishVersion(_)
            | Self::WithdrawVersion { .. } => Class::Content,
        }
    }

    /// The kind as a word, for logs and lists.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::CreateTopic { .. } => "create-topic",
            Self::SetVisibility { .. } => "set-visibility",
            Self::ArchiveTopic => "archive-topic",
            Self::RestoreTopic => "restore-topic",
            Self::DeleteTopic { .. } => "delete-topic",
            Self::Grant { .. } => "grant",
            Self::Revoke { .. } => "revoke",
            Self::TransferOwnership { .. } => "transfer-ownership",
            Self::ReplaceKey { .. } => "replace-key",
            Self::UpdateTopic(_) => "update-topic",
            Self::CreateDataset { .. } => "create-dataset",
            Self::UpdateDataset { .. } => "update-dataset",
            Self::ArchiveDataset { .. } => "archive-dataset",
            Self::RestoreDataset { .. } => "restore-dataset",
            Self::DeleteDataset { .. } => "delete-dataset",
            Self::PublishVersion(_) => "publish-version",
            Self::WithdrawVersion { .. } => "withdraw-version",
        }
    }

    /// Whether the operation takes a right from somebody, so that `keeps` has a meaning.
    pub const fn is_removal(&self) -> bool {
        matches!(self, Self::Revoke { .. } | Self::TransferOwnership { .. } | Self::ReplaceKey { .. })
    }
}

/// An operation before its author signs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsigned {
    /// The topic whose log it joins; `None` for `CreateTopic`, whose id names the topic.
    pub topic: Option<TopicId>,
    /// Who says it.
    pub author: UserId,
    /// 1 + the highest of the parents.
    pub lamport: u64,
    /// The author's clock; not before the parents'.
    pub time: Timestamp,
    /// The operations its author had seen last, ascending: access operations of this topic and its ancestors and,
    /// for a content operation, content operations of this topic.
    pub parents: Vec<OpId>,
    /// For a removal: the content heads its author had seen, ascending. What is not reachable from them and was made
    /// by the removed user is void.
    pub keeps: Vec<OpId>,
    /// What it does.
    pub body: Body,
}

impl Unsigned {
    fn to_bytes(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION]).expect("postcard encodes to memory every type that derives Serialize")
    }

    /// The bytes that the author signs for [`Purpose::Op`]; for signers outside this process.
    pub fn bytes_to_sign(&self) -> Vec<u8> {
        self.to_bytes()
    }

    /// Signs with a key in this process.
    ///
    /// # Errors
    /// As [`Unsigned::with_signature`].
    pub fn sign(self, key: &SecretKey) -> Result<Operation, OperationError> {
        let signature = key.sign(Purpose::Op, &self.to_bytes());
        self.with_signature(signature)
    }

    /// Joins a signature that was made elsewhere, and checks everything that can be checked of an operation alone.
    ///
    /// # Errors
    /// [`OperationError`] with the rule that is broken.
    pub fn with_signature(self, signature: Signature) -> Result<Operation, OperationError> {
        let mut bytes = self.to_bytes();
        bytes.extend_from_slice(&signature.0);
        Operation::decode(&bytes)
    }
}

/// Why bytes are not an operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OperationError {
    /// The bytes do not decode.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The signature is not its author's.
    #[error("the operation's signature does not match its author")]
    BadSignature,
    /// A field breaks a rule.
    #[error("the operation is invalid: {0}")]
    Invalid(&'static str),
}

/// A signed operation: decoded, bounded, its signature checked. Can be made in no other way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    id: OpId,
    unsigned: Unsigned,
    bytes: Vec<u8>,
}

impl Operation {
    /// Reads and checks an operation.
    ///
    /// # Errors
    /// [`OperationError`] when it is malformed, breaks a rule or is not signed by its author.
    pub fn decode(bytes: &[u8]) -> Result<Self, OperationError> {
        let operation = Self::decode_trusted(bytes)?;
        let (signed, signature) = bytes.split_at(bytes.len() - 64);
        let signature = Signature(signature.try_into().expect("split off 64 bytes"));
        verify(&operation.unsigned.author, Purpose::Op, signed, &signature)
            .map_err(|_| OperationError::BadSignature)?;
        Ok(operation)
    }

    /// Reads an operation from a place that holds only checked ones, such as the catalog, without the cost of
    /// checking its signature again.
    ///
    /// # Errors
    /// [`OperationError`] when it is malformed or breaks a rule.
    pub fn decode_trusted(bytes: &[u8]) -> Result<Self, OperationError> {
        if bytes.len() > limits::MAX_OP_LEN {
            return Err(DecodeError::TooLarge { what: WHAT, len: bytes.len(), max: limits::MAX_OP_LEN }.into());
        }
        let (version, rest) = bytes.split_first().ok_or(DecodeError::malformed(WHAT, "empty"))?;
        if *version != VERSION {
            return Err(DecodeError::Unsupported { what: WHAT, version: *version, known: VERSION }.into());
        }
        if rest.len() < 64 {
            return Err(DecodeError::malformed(WHAT, "cut short").into());
        }
        let unsigned: Unsigned = decode_exact(WHAT, &rest[..rest.len() - 64])?;
        check(&unsigned)?;
        if unsigned.to_bytes() != bytes[..bytes.len() - 64] {
            return Err(OperationError::Invalid("it is not encoded canonically"));
        }
        Ok(Self { id: OpId::from_bytes(hash(bytes)), unsigned, bytes: bytes.to_vec() })
    }

    /// Its id.
    pub const fn id(&self) -> OpId {
        self.id
    }

    /// Its encoded bytes, signature included.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The topic whose log it belongs to; its own id for `CreateTopic`.
    pub fn topic(&self) -> TopicId {
        self.unsigned.topic.unwrap_or_else(|| self.id.into())
    }

    /// Its class.
    pub const fn class(&self) -> Class {
        self.unsigned.body.class()
    }

    /// Position in every order that bib uses: (lamport, id), a linear extension of the causal order.
    pub const fn position(&self) -> (u64, OpId) {
        (self.unsigned.lamport, self.id)
    }
}

impl std::ops::Deref for Operation {
    type Target = Unsigned;

    fn deref(&self) -> &Unsigned {
        &self.unsigned
    }
}

fn check(op: &Unsigned) -> Result<(), OperationError> {
    let require = |holds: bool, rule: &'static str| if holds { Ok(()) } else { Err(OperationError::Invalid(rule)) };
    let ascending = |ids: &[OpId]| ids.windows(2).all(|pair| pair[0] < pair[1]);
    require(op.parents.len() <= limits::MAX_OP_PARENTS, "it names more than 256 parents")?;
    require(op.keeps.len() <= limits::MAX_OP_PARENTS, "it names more than 256 keeps")?;
    require(ascending(&op.parents) && ascending(&op.keeps), "parents and keeps are not in ascending order")?;
    require(op.keeps.is_empty() || op.body.is_removal(), "only a removal has keeps")?;
    require(op.lamport >= 1, "lamport begins at 1")?;
    require(op.time.0 >= 0, "its time lies before 1970")?;
    match &op.body {
        Body::CreateTopic { parent, visibility, fields, .. } => {
            require(op.topic.is_none(), "a new topic is named by the operation itself")?;
            require(parent.is_some() || (op.parents.is_empty() && op.lamport == 1), "a root topic has no parents")?;
            require(parent.is_none() || !op.parents.is_empty(), "a sub-topic has parents")?;
            require(*visibility == Visibility::Public, "private topics are not supported by this version")?;
            check_fields(fields)?;
        }
        Body::SetVisibility { visibility } => {
            require(*visibility == Visibility::Public, "private topics are not supported by this version")?;
        }
        Body::UpdateTopic(fields) | Body::CreateDataset { fields, .. } | Body::UpdateDataset { fields, .. } => {
            check_fields(fields)?
        }
        Body::PublishVersion(version) => {
            require(version.message.len() <= limits::MAX_MESSAGE_LEN, "the message is longer than 4 KiB")?;
            let short = |text: &Option<String>, max| text.as_ref().is_none_or(|text: &String| text.len() <= max);
            require(short(&version.schema, limits::MAX_SCHEMA_LEN), "the schema is longer than 48 KiB")?;
            require(short(&version.license, limits::MAX_ATTRIBUTION_LEN), "the licence is longer than 1 KiB")?;
            require(short(&version.source_url, limits::MAX_ATTRIBUTION_LEN), "the source is longer than 1 KiB")?;
            require(version.semver.to_string().len() <= 128, "the version number is longer than 128 bytes")?;
            require(version.semver.build.is_empty(), "a version number has no build part")?;
        }
        Body::Grant { user, .. } | Body::ReplaceKey { new: user } => {
            require(*user != op.author || matches!(op.body, Body::Grant { .. }), "a key does not replace itself")?;
        }
        Body::TransferOwnership { to, .. } => require(*to != op.author, "ownership goes to another user")?,
        _ => {}
    }
    require(op.topic.is_some() || matches!(op.body, Body::CreateTopic { .. }), "it names no topic")?;
    require(!op.parents.is_empty() || matches!(op.body, Body::CreateTopic { parent: None, .. }), "it has no parents")
}

fn check_fields(fields: &FieldChanges) -> Result<(), OperationError> {
    let require = |holds: bool, rule: &'static str| if holds { Ok(()) } else { Err(OperationError::Invalid(rule)) };
    if let Some(description) = &fields.description {
        require(description.len() <= limits::MAX_DESCRIPTION_LEN, "the description is longer than 4 KiB")?;
    }
    if let Some(tags) = &fields.tags {
        require(tags.len() <= limits::MAX_TAGS, "there are more than 32 tags")?;
        let fits = |tag: &String| !tag.is_empty() && tag.len() <= limits::MAX_TAG_LEN;
        require(tags.iter().all(fits), "a tag is empty or longer than 64 bytes")?;
    }
    if let Some(metadata) = &fields.metadata {
        require(metadata.len() <= limits::MAX_METADATA_KEYS, "there are more than 64 metadata keys")?;
        let len: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
        require(len <= limits::MAX_METADATA_LEN, "the metadata is longer than 16 KiB")?;
    }
    if let Some(Some(schema)) = &fields.schema {
        require(schema.len() <= limits::MAX_SCHEMA_LEN, "the schema is longer than 48 KiB")?;
    }
    Ok(())
}
