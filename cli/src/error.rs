//! What a command fails with: a word with an exit code, a sentence, and always a hint with the next thing to type.

use std::io;
use std::path::Path;

use bib_core::api::{ErrorCode, Failure};

pub(crate) type Result<T, E = CliError> = std::result::Result<T, E>;

/// Why a command ends early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CliError {
    /// Something failed, here or at the node.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// The user asked for help, which is the output.
    #[error("help was asked for")]
    Help(String),
    /// Nobody reads the output any more; not an error of the command.
    #[error("the reader of the output went away")]
    BrokenPipe,
}

impl CliError {
    /// A failure with a code and a sentence.
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::Failure(Failure::new(code, message))
    }

    /// A request that is wrong as typed.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Invalid, message)
    }

    /// The error with what to type next; a hint that is there already stays.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        match self {
            Self::Failure(failure) if failure.hint.is_none() => Self::Failure(failure.hinted(hint)),
            other => other,
        }
    }

    /// The code, unless it is no failure.
    pub(crate) const fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Failure(failure) => Some(failure.code),
            Self::Help(_) | Self::BrokenPipe => None,
        }
    }

    /// What the system said of a file.
    pub(crate) fn io(doing: &str, path: impl AsRef<Path>, error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        let (code, hint) = match error.kind() {
            Kind::NotFound => (ErrorCode::NotFound, "check the path with `ls -l`"),
            Kind::PermissionDenied => (ErrorCode::Denied, "check who may read and write it with `ls -l`"),
            Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => {
                (ErrorCode::Quota, "free some space (`df -h` shows where) and try again")
            }
            Kind::AlreadyExists => (ErrorCode::Exists, "choose another path"),
            Kind::NotADirectory | Kind::IsADirectory | Kind::InvalidInput | Kind::InvalidFilename => {
                (ErrorCode::Invalid, "check the path with `ls -l`")
            }
            _ => (ErrorCode::Internal, "check the file system (`dmesg` may say more) and try again"),
        };
        Self::new(code, format!("cannot {doing} `{}`: {}", path.as_ref().display(), plain(error))).hint(hint)
    }
}

/// The sentence of the system without its number.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error") {
        Some(end) => text[..end].to_lowercase(),
        None => text,
    }
}

/// What to type next when whoever failed did not say.
pub(crate) const fn default_hint(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Exists => "choose another name, or look at what is there with `bib find`",
        ErrorCode::Conflict => "somebody else was faster; look with `bib dataset show` and try again",
        ErrorCode::Precondition => "`bib status` shows the state of the node",
        ErrorCode::Archived => "choose another topic; `bib topic list` shows them",
        ErrorCode::LastOwner => "`bib topic show` lists the members",
        ErrorCode::Quota => "free space on the node's disk; `bib status` shows what is used",
        ErrorCode::RateLimited | ErrorCode::Busy => "wait a moment and try again",
        ErrorCode::LimitExceeded => "ask for less at once, for instance with `--limit`",
        ErrorCode::Cancelled => "run the command again; what was stored is not sent twice",
        ErrorCode::NoProvider => {
            "connect a node that has it: `bib peer connect <address>`; `bib peer list` shows who is there"
        }
        ErrorCode::Invalid => "`bib help` lists the commands and what they take",
        ErrorCode::Unsupported => "compare `bib version` with the version in `bib status`",
        ErrorCode::NotFound => "look for it with `bib find` or `bib topic list`",
        ErrorCode::Unreachable => "start the node with `bibd`, or name one with `--node unix:/path`",
        ErrorCode::Unauthenticated => "make a key with `bib key new`, or name yours with `--key`",
        ErrorCode::Denied => "`bib whoami` shows who you are, `bib topic show` who may do what",
        ErrorCode::Integrity => {
            "fetch again; if it stays, the copy of this node is damaged: connect another one with `bib peer connect <address>`"
        }
        ErrorCode::Timeout => "try again with a longer `--timeout`, for instance `--timeout 5m`",
        ErrorCode::Internal => "the log of bibd says more; `bib status` shows whether it still works",
        _ => "`bib status` shows the state of the node",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_hint_is_not_replaced() {
        let error = CliError::invalid("no").hint("first").hint("second");
        assert!(matches!(error, CliError::Failure(Failure { hint: Some(hint), .. }) if hint == "first"));
    }

    #[test]
    fn errors_of_the_system_have_codes_hints_and_no_numbers() {
        let error = io::Error::from_raw_os_error(2);
        let CliError::Failure(failure) = CliError::io("read", "/x", &error) else { panic!("a failure") };
        assert_eq!(failure.code, ErrorCode::NotFound);
        assert_eq!(failure.message, "cannot read `/x`: no such file or directory");
        assert!(failure.hint.is_some());
    }
}
