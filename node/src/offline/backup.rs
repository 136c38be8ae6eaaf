//! `bibd backup`: what a backup holds and whether it is whole, where no node runs that could be asked.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use argh::{ArgsInfo, FromArgs};
use bib_core::api::Failure;
use bib_core::backup::Snapshot;
use bib_core::time::Timestamp;

use super::Streams;
use super::restore::{Secret, read_secret};
use crate::backup::{self, BackupError, Place, Repository};

/// look at a backup without a node
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "backup", help_triggers("-h", "--help"))]
pub struct BackupArgs {
    #[argh(subcommand)]
    command: BackupCommand,
}

#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
enum BackupCommand {
    List(ListArgs),
    Verify(VerifyArgs),
}

/// list the snapshots of a backup, the oldest first
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "list",
    help_triggers("-h", "--help"),
    example = "printf 'passphrase %s\\n' \"$PASSPHRASE\" | {command_name} /backup/bib",
    note = "Reads from stdin what opens the backup, as `bibd restore` does. Prints of each snapshot its number, its time,\n\
    its node, and how many operations, contents, bytes, and contents that are not whole are in it."
)]
struct ListArgs {
    /// the folder or file of the backup
    #[argh(positional)]
    backup: PathBuf,
}

/// read all of a backup, and say which snapshots are whole
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "verify",
    help_triggers("-h", "--help"),
    example = "printf 'passphrase %s\\n' \"$PASSPHRASE\" | {command_name} /backup/bib --snapshot 1795530245000000",
    note = "Reads from stdin what opens the backup, as `bibd restore` does. Fails when a snapshot is not whole."
)]
struct VerifyArgs {
    /// the folder or file of the backup
    #[argh(positional)]
    backup: PathBuf,

    /// only this snapshot, as `list` names it
    #[argh(option, arg_name = "snapshot")]
    snapshot: Option<i64>,
}

/// Works with the backup at a path, opened by what stdin says.
fn with<T>(
    path: &Path,
    streams: &mut Streams<'_>,
    mut work: impl FnMut(&Repository) -> Result<T, BackupError>,
) -> Result<T, Failure> {
    let place = Place::of(path);
    // Before anything is asked for.
    backup::read_header(&place)?;
    let secret: Secret = read_secret(streams)?;
    let mut scratch = path.as_os_str().to_owned();
    scratch.push(".index");
    let done = backup::with_sound_index(&place, &mut |text| streams.note(text), || {
        work(&Repository::open(&place, &secret.unlock(), Path::new(&scratch))?)
    });
    Ok(done?)
}

pub(super) fn run(args: &BackupArgs, streams: &mut Streams<'_>) -> Result<(), Failure> {
    match &args.command {
        BackupCommand::List(args) => list(args, streams),
        BackupCommand::Verify(args) => verify(args, streams),
    }
}

fn list(args: &ListArgs, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let snapshots = with(&args.backup, streams, |backup| {
        backup.times()?.into_iter().map(|time| backup.snapshot(time)).collect::<Result<Vec<_>, _>>()
    })?;
    for Snapshot { time, node, n_ops, n_manifests, content_bytes, n_incomplete, .. } in snapshots {
        streams.line(&format!("{} {time} {node} {n_ops} {n_manifests} {content_bytes} {n_incomplete}", time.0))?;
    }
    Ok(())
}

fn verify(args: &VerifyArgs, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let wanted = args.snapshot.map(Timestamp);
    let stop = AtomicBool::new(false);
    let read = with(&args.backup, streams, |backup| {
        let times: Vec<Timestamp> =
            backup.times()?.into_iter().filter(|time| wanted.is_none_or(|wanted| wanted == *time)).collect();
        if times.is_empty() {
            return Err(BackupError::NoSnapshot(wanted));
        }
        backup::scrub(backup, &mut |_| {}, &stop)?;
        Ok(times.into_iter().map(|time| (time, backup::verify(backup, time, &mut |_| {}, &stop))).collect::<Vec<_>>())
    })?;
    let n_bad = read.iter().filter(|(_, verified)| verified.is_err()).count();
    for (time, verified) in read {
        match verified {
            Ok(verified) => streams.line(&format!("{} {time} whole, {} bytes", time.0, verified.bytes))?,
            Err(fault) => streams.line(&format!("{} {time} {fault}", time.0))?,
        }
    }
    if n_bad == 0 { Ok(()) } else { Err(BackupError::Damaged(format!("{n_bad} snapshots are not whole")).into()) }
}
