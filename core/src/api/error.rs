//! The stable outward list of error codes and what a failed call carries.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What went wrong, as a word that scripts may rely on. Append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ErrorCode {
    /// The thing exists already.
    Exists,
    /// Somebody else changed the same thing at the same time.
    Conflict,
    /// Something must be done first.
    Precondition,
    /// The topic or dataset is read-only.
    Archived,
    /// A topic would lose its last owner.
    LastOwner,
    /// The disk or a quota is full.
    Quota,
    /// Too many requests.
    RateLimited,
    /// A limit of the request was reached.
    LimitExceeded,
    /// Cancelled by the caller or by the node stopping.
    Cancelled,
    /// No reachable peer holds the content.
    NoProvider,
    /// The node has no room for more work now.
    Busy,
    /// The request is wrong.
    Invalid,
    /// The request is right but this version cannot do it.
    Unsupported,
    /// There is no such thing.
    NotFound,
    /// The node does not answer.
    Unreachable,
    /// The caller did not say who they are.
    Unauthenticated,
    /// The caller may not do this.
    Denied,
    /// Stored or received bytes are not what they should be.
    Integrity,
    /// It took too long.
    Timeout,
    /// The node failed; its log says more.
    Internal,
}

impl ErrorCode {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exists => "exists",
            Self::Conflict => "conflict",
            Self::Precondition => "precondition",
            Self::Archived => "archived",
            Self::LastOwner => "last_owner",
            Self::Quota => "quota",
            Self::RateLimited => "rate_limited",
            Self::LimitExceeded => "limit_exceeded",
            Self::Cancelled => "cancelled",
            Self::NoProvider => "no_provider",
            Self::Busy => "busy",
            Self::Invalid => "invalid",
            Self::Unsupported => "unsupported",
            Self::NotFound => "not_found",
            Self::Unreachable => "unreachable",
            Self::Unauthenticated => "unauthenticated",
            Self::Denied => "denied",
            Self::Integrity => "integrity",
            Self::Timeout => "timeout",
            Self::Internal => "internal",
        }
    }

    /// The exit code of a command that fails with it.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Exists
            | Self::Conflict
            | Self::Precondition
            | Self::Archived
            | Self::LastOwner
            | Self::Quota
            | Self::RateLimited
            | Self::LimitExceeded
            | Self::Cancelled
            | Self::NoProvider
            | Self::Busy => 1,
            Self::Invalid | Self::Unsupported => 2,
            Self::NotFound => 3,
            Self::Unreachable => 4,
            Self::Unauthenticated | Self::Denied => 5,
            Self::Integrity => 6,
            Self::Timeout => 7,
            Self::Internal => 70,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Failure {
    /// The word for scripts.
    pub code: ErrorCode,
    /// A sentence for people.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// The failure with what to do next.
    pub fn hinted(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
