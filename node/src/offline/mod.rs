//! What `bibd` does with a data directory while no node runs on it: one verb a file.
//!
//! Invariant: a verb holds the lock of the data directory from its first read to its last write, so no node starts
//! beside it and it never works beside a node. Results go to `out`, a line each; remarks go to `err`; an error is a
//! [`Failure`] with a hint. `bib` runs these verbs for its users and reads exactly that.

mod backup;
mod identity;
mod keys;
mod rebuild;
mod restore;

use std::io::{BufRead, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use argh::{ArgsInfo, FromArgs};
use bib_core::api::{ErrorCode, Failure};
use bib_core::port::StoreError;
use bib_storage_redb::DataDirLock;

use crate::config::{Budget, Config};

/// What to do instead of running a node.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
pub enum Verb {
    /// What a backup holds.
    Backup(backup::BackupArgs),
    /// Which node the directory belongs to.
    Identity(identity::IdentityArgs),
    /// The keys of an encrypted node.
    Keys(keys::KeysArgs),
    /// A new index of the chunk store.
    Rebuild(rebuild::RebuildArgs),
    /// A node from a backup.
    Restore(restore::RestoreArgs),
}

impl Verb {
    /// The data directory that the line names, if it does.
    pub fn data_dir(&self) -> Option<&str> {
        match self {
            Self::Backup(_) => None,
            Self::Identity(args) => args.data_dir.as_deref(),
            Self::Keys(args) => args.data_dir(),
            Self::Rebuild(args) => args.data_dir.as_deref(),
            Self::Restore(args) => args.data_dir.as_deref(),
        }
    }
}

/// The streams of the process.
pub struct Streams<'a> {
    /// What is piped or typed in.
    pub input: &'a mut dyn BufRead,
    /// Results.
    pub out: &'a mut dyn Write,
    /// Remarks.
    pub err: &'a mut dyn Write,
}

impl std::fmt::Debug for Streams<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams").finish_non_exhaustive()
    }
}

impl Streams<'_> {
    /// A remark.
    pub(crate) fn note(&mut self, text: &str) {
        // Nothing can be said about a stderr that does not take it.
        let _ = writeln!(self.err, "{text}");
    }

    /// A line of result.
    pub(crate) fn line(&mut self, text: &str) -> Result<(), Failure> {
        writeln!(self.out, "{text}").map_err(|error| {
            Failure::new(ErrorCode::Cancelled, format!("the result cannot be written: {error}"))
                .hinted("run the command again with its output in a place that takes it")
        })
    }
}

/// A data directory that no node uses, held by this process until it is dropped.
#[derive(Debug)]
pub(crate) struct Idle {
    dir: PathBuf,
    _lock: DataDirLock,
}

impl Idle {
    /// Takes a data directory that exists.
    fn take(dir: &Path) -> Result<Self, Failure> {
        if !dir.is_dir() {
            let message = format!("there is no data directory `{}`", dir.display());
            return Err(Failure::new(ErrorCode::NotFound, message).hinted("name it with `--data-dir <folder>`"));
        }
        check_owner(dir, rustix::process::geteuid().as_raw())?;
        match DataDirLock::take(dir) {
            Ok(lock) => Ok(Self { dir: dir.to_owned(), _lock: lock }),
            Err(StoreError::Locked(why)) => Err(Failure::new(ErrorCode::Precondition, why)
                .hinted("stop it with `bib admin shutdown`, then run this again")),
            Err(error) => Err(Failure::new(ErrorCode::Denied, error.to_string())
                .hinted("run this as the user that runs bibd; `ls -l` shows who may write there")),
        }
    }

    /// Where it is.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

/// What root writes in the directory of another user, the node of that user could not read.
fn check_owner(dir: &Path, uid: u32) -> Result<(), Failure> {
    let owner = dir.metadata().map_or(uid, |metadata| metadata.uid());
    if uid != 0 || owner == 0 {
        return Ok(());
    }
    let message = format!("`{}` belongs to the user {owner}, and this runs as root", dir.display());
    Err(Failure::new(ErrorCode::Denied, message).hinted(format!("run it as that user: `sudo -u '#{owner}' …`")))
}

/// Carries out a verb on the data directory of a configuration.
///
/// # Errors
/// [`Failure`] naming what was not done, with what to do next.
pub fn run(verb: &Verb, config: &Config, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let idle = || Idle::take(&config.data_dir);
    match verb {
        // It has nothing to do with the data directory.
        Verb::Backup(args) => backup::run(args, streams),
        Verb::Identity(_) => identity::run(&idle()?, streams),
        Verb::Keys(args) => keys::run(args, &idle()?, streams),
        Verb::Rebuild(_) => rebuild::run(&idle()?, (config.encrypt, &Budget::of(config.memory)), streams),
        // It takes the lock itself: the directory may not be there yet, or be moved aside.
        Verb::Restore(args) => restore::run(args, config, streams),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity_of(dir: &Path) -> Result<String, Failure> {
        let idle = Idle::take(dir)?;
        let (mut out, mut err) = (Vec::new(), Vec::new());
        identity::run(&idle, &mut Streams { input: &mut &b""[..], out: &mut out, err: &mut err })?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn directory_in_use_is_refused_and_the_node_named() {
        let dir = tempfile::tempdir().unwrap();
        let node = DataDirLock::take(dir.path()).unwrap();
        let refused = identity_of(dir.path()).unwrap_err();
        assert_eq!(refused.code, ErrorCode::Precondition);
        if Path::new("/proc/locks").exists() {
            assert!(refused.message.contains(&format!("(process {})", std::process::id())), "{refused}");
        }
        assert!(refused.hint.unwrap().contains("bib admin shutdown"));
        drop(node);
        identity_of(dir.path()).unwrap();
    }

    #[test]
    fn root_does_not_write_into_the_directory_of_another_user() {
        let dir = tempfile::tempdir().unwrap();
        let owner = dir.path().metadata().unwrap().uid();
        check_owner(dir.path(), owner).unwrap();
        // Only root can give a directory away; whoever else runs this test owns one that root must not touch.
        if owner == 0 {
            std::os::unix::fs::chown(dir.path(), Some(12_345), None).unwrap();
        }
        let refused = check_owner(dir.path(), 0).unwrap_err();
        assert_eq!(refused.code, ErrorCode::Denied);
        assert!(refused.hint.unwrap().contains("sudo -u '#"));
        check_owner(dir.path(), 12_345).unwrap();
    }

    #[test]
    fn absent_directory_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let absent = dir.path().join("absent");
        assert_eq!(identity_of(&absent).unwrap_err().code, ErrorCode::NotFound);
        assert!(!absent.exists());
    }

    #[test]
    fn identity_stays_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let first = identity_of(dir.path()).unwrap();
        assert!(first.starts_with("12D3Koo"), "{first}");
        assert_eq!(identity_of(dir.path()).unwrap(), first);
    }
}
