//! `bibd identity`: which node a data directory belongs to, before its first start too.

use argh::{ArgsInfo, FromArgs};
use bib_core::api::{ErrorCode, Failure};

use super::{Idle, Streams};
use crate::identity::{self, IdentityError};

/// show which node the data directory belongs to; a directory without a key gets one
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "identity",
    help_triggers("-h", "--help"),
    example = "{command_name} --data-dir /srv/bib",
    note = "Prints the peer id that stands at the end of the node's addresses."
)]
pub struct IdentityArgs {
    /// where everything is kept
    #[argh(option, arg_name = "folder")]
    pub(super) data_dir: Option<String>,
}

pub(super) fn run(idle: &Idle, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let key = identity::load_or_make(idle.dir()).map_err(|error| failure(&error))?;
    streams.line(&key.node_id().to_string())
}

/// What a caller is told when the identity cannot be used.
pub(super) fn failure(error: &IdentityError) -> Failure {
    let code = match error {
        IdentityError::Io { .. } | IdentityError::TooWide { .. } => ErrorCode::Denied,
        _ => ErrorCode::Integrity,
    };
    Failure::new(code, error.to_string()).hinted(error.hint())
}
