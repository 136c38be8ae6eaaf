//! Why a backup was not made or used, and what a person is told of it.

use std::io;
use std::path::{Path, PathBuf};

use bib_core::api::{ErrorCode, Failure};
use bib_core::port::StoreError;
use bib_core::time::Timestamp;

/// Why a backup was not made or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum BackupError {
    /// A file cannot be read or written.
    #[error("cannot {doing} `{}`: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is none.
    #[error("there is no backup `{}`", .0.display())]
    Absent(PathBuf),
    /// What is there is something else.
    #[error("`{}` is no backup: {reason}", path.display())]
    NoBackup {
        /// Where.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Written by a newer program.
    #[error("`{0}` was written by a newer program")]
    Unsupported(String),
    /// Neither passphrase nor key opens it.
    #[error("{0} does not open the backup")]
    Closed(&'static str),
    /// A new backup that nobody could open but the node.
    #[error("a new backup takes a passphrase or users who can open it")]
    NoWayIn,
    /// A user's key cannot be sealed to.
    #[error("a user has a key that cannot be sealed to")]
    WeakUser,
    /// A backup of another node is there.
    #[error("`{}` is the backup of another node", .0.display())]
    OtherNode(PathBuf),
    /// Where a file is to be made, one is.
    #[error("`{}` is there already", .0.display())]
    Exists(PathBuf),
    /// A place inside of what is backed up, or that is none.
    #[error("`{}` is no place for a backup: {reason}", path.display())]
    BadPlace {
        /// Where.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// No node can be made there.
    #[error("no node can be made in `{}`: {reason}", path.display())]
    BadTarget {
        /// Where.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// A folder of somebody else has a name that is needed for a while.
    #[error("`{}` is in the way", .0.display())]
    InTheWay(PathBuf),
    /// There is no such snapshot.
    #[error("the backup has no snapshot {}", .0.map_or_else(|| "yet".to_owned(), |time| time.0.to_string()))]
    NoSnapshot(Option<Timestamp>),
    /// What is stored is not what was written.
    #[error("the backup is damaged: {0}")]
    Damaged(String),
    /// Too much of the node's content is not what it should be.
    #[error("the content of more than {0} versions is not whole: the store of the node needs care first")]
    TooDamaged(usize),
    /// The node is to be made where one is.
    #[error("`{}` is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// What was made is not what the snapshot says.
    #[error("what was restored differs from the backup: {0}")]
    Differs(String),
    /// Somebody said to stop.
    #[error("it was stopped")]
    Stopped,
    /// A store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl BackupError {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }

    fn code(&self) -> ErrorCode {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => ErrorCode::Quota,
            Self::Io { .. } => ErrorCode::Precondition,
            Self::Absent(_) | Self::NoSnapshot(_) => ErrorCode::NotFound,
            Self::NoBackup { .. } | Self::NoWayIn | Self::WeakUser => ErrorCode::Invalid,
            Self::BadPlace { .. } | Self::BadTarget { .. } => ErrorCode::Invalid,
            Self::Unsupported(_) => ErrorCode::Unsupported,
            Self::Closed(_) => ErrorCode::Denied,
            Self::OtherNode(_) | Self::NotEmpty(_) | Self::InTheWay(_) => ErrorCode::Precondition,
            Self::Exists(_) => ErrorCode::Exists,
            Self::Damaged(_) | Self::TooDamaged(_) | Self::Differs(_) => ErrorCode::Integrity,
            Self::Stopped => ErrorCode::Cancelled,
            Self::Store(StoreError::Full(_)) => ErrorCode::Quota,
            Self::Store(StoreError::Corrupt(_) | StoreError::Sealed(_)) => ErrorCode::Integrity,
            Self::Store(StoreError::Locked(_)) => ErrorCode::Busy,
            Self::Store(StoreError::Unsupported(_)) => ErrorCode::Unsupported,
            Self::Store(_) => ErrorCode::Precondition,
        }
    }

    fn hint(&self) -> &'static str {
        match self {
            Self::Io { .. } => "check that the user that runs bibd may write there, and that there is room",
            Self::Absent(_) => {
                "name the folder or file of a backup; a new one is made with `bib admin backup --to <folder>`"
            }
            Self::NoBackup { .. } => "name the folder or file that `bib admin backup` made",
            Self::Unsupported(_) => "install the bib that wrote it, or a newer one",
            Self::Closed(_) => "try again with `--passphrase-file <file>`, or with `--key` of a user it was made for",
            Self::NoWayIn => {
                "add `--passphrase-file <file>` or `--user <id>`: else it could be opened only by this node"
            }
            Self::WeakUser => "check the id: `bib whoami` shows it to its user",
            Self::OtherNode(_) => "choose another folder with `--to`",
            Self::Exists(_) => "choose another name: a backup in one file is made anew each time",
            Self::BadPlace { .. } => "choose a folder on another disk, by its full path",
            Self::BadTarget { .. } => "name another folder with `--data-dir`, such as one in it",
            Self::InTheWay(_) => "move it away, or choose another name for the backup",
            Self::NoSnapshot(_) => "`bib admin backup list` shows what is there",
            Self::Damaged(_) | Self::Store(StoreError::Corrupt(_) | StoreError::Sealed(_)) => {
                "try an earlier snapshot, which `bib admin backup verify` says are whole, or `restore --partial`. Check the disk"
            }
            Self::TooDamaged(_) => "repair it with `bib dataset verify --repair`, or check the disk",
            Self::NotEmpty(_) => "choose another `--data-dir`, or add `--force`, which moves what is there aside",
            Self::Differs(_) => "check the disk, then restore again",
            Self::Stopped => "begin again; what was stored is not copied twice",
            Self::Store(StoreError::Full(_)) => "give the disk of the backup more room",
            Self::Store(StoreError::Locked(_)) => "wait until the other backup or restore has ended",
            Self::Store(_) => "check the disk (`dmesg` may say more)",
        }
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        Self::new(error.code(), error.to_string()).hinted(error.hint())
    }
}
