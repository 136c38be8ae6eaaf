//! What can be asked of the node, one use case a file. Each has one error type and one translation of it into the code,
//! the sentence and the hint that the caller gets.

pub(crate) mod access;
pub(crate) mod admin;
pub(crate) mod backup;
pub(crate) mod care;
pub(crate) mod catalog;
pub(crate) mod content;
pub(crate) mod in_place;
pub(crate) mod keys;
pub(crate) mod peers;
pub(crate) mod publish;
pub(crate) mod status;

use bib_core::api::{ErrorCode, Failure};
use bib_core::port::StoreError;

use crate::control::Caller;

/// What a caller is told when the store has failed. Inner texts stay in the log, unless they say what to do.
pub(crate) fn store_failure(error: &StoreError) -> Failure {
    match error {
        StoreError::Full(why) => Failure::new(ErrorCode::Quota, format!("the node's disk is full: {why}"))
            .hinted("free space on the node's disk; `bib status` shows what is used"),
        StoreError::ReadOnly(why) => {
            Failure::new(ErrorCode::Precondition, format!("the node takes no more writes since one failed: {why}"))
                .hinted("check the disk (`dmesg` may say more), then start bibd again")
        }
        StoreError::Corrupt(why) => Failure::new(ErrorCode::Integrity, format!("the node's store is damaged: {why}")),
        StoreError::Changed { path, .. } => {
            Failure::new(ErrorCode::Precondition, format!("the content is not here: {error}")).hinted(format!(
                "put `{path}` back as it was, publish it again, or fetch the bytes from peers: \
                 `bib dataset verify --repair <reference>`"
            ))
        }
        error => {
            log::error!(error:% = error; "the store failed");
            Failure::new(ErrorCode::Internal, "the node's store failed")
        }
    }
}

/// Whether a caller has proved to be somebody, whoever it is.
pub(crate) fn require_user(caller: &Caller, what: &str) -> Result<(), Failure> {
    if caller.user.is_some() {
        return Ok(());
    }
    Err(Failure::new(ErrorCode::Unauthenticated, format!("{what} takes a user with a key"))
        .hinted("make a key with `bib key new`, or name yours with `--key`"))
}

/// Whether a caller may change and stop the node.
pub(crate) fn require_operator(caller: &Caller, what: &str) -> Result<(), Failure> {
    if caller.operator {
        return Ok(());
    }
    let code = if caller.user.is_some() { ErrorCode::Denied } else { ErrorCode::Unauthenticated };
    Err(Failure::new(code, format!("only an operator of this node may {what}")).hinted(
        "run the command as the user that runs bibd or as root, or add your user to `access.admins` in bibd.toml",
    ))
}
