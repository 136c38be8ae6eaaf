//! `bibd restore`: a node from a backup.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use argh::{ArgsInfo, FromArgs};
use bib_core::api::{ErrorCode, Failure};
use bib_core::backup::BackupKey;
use bib_core::limits::MAX_PASSPHRASE_LEN;
use bib_core::time::Timestamp;
use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use super::{Streams, check_owner};
use crate::backup::{self, Place, Repository, Restore, Unlock};
use crate::config::{Budget, Config};
use crate::runtime::timestamp;

/// make the node of a backup in the data directory
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "restore",
    help_triggers("-h", "--help"),
    example = "printf 'passphrase %s\\n' \"$PASSPHRASE\" | {command_name} /backup/bib --data-dir /srv/bib",
    note = "Reads from stdin what opens the backup: a line with `passphrase` and the passphrase, or with `key` and\n\
    the key in 64 hexadecimal digits. `bib admin restore` asks for it.",
    note = "The data directory must be absent or empty; with --force what is there is moved aside. It has its name\n\
    only when everything in it was compared with the backup."
)]
pub struct RestoreArgs {
    /// the folder or file of the backup
    #[argh(positional)]
    backup: PathBuf,

    /// the snapshot, as `bib admin backup list` names it; otherwise the newest
    #[argh(option, arg_name = "snapshot")]
    snapshot: Option<i64>,

    /// only what had been said by this time, such as 2026-11-24T14:00:00Z
    #[argh(option, arg_name = "time")]
    to: Option<Timestamp>,

    /// move aside what is in the data directory
    #[argh(switch)]
    force: bool,

    /// make the node though some content of the backup is damaged; what is missing is named
    #[argh(switch)]
    partial: bool,

    /// where everything is kept
    #[argh(option, arg_name = "folder")]
    pub(super) data_dir: Option<String>,
}

/// What opens a backup.
pub(super) enum Secret {
    Passphrase(Zeroizing<String>),
    Key(BackupKey),
}

impl Secret {
    pub(super) fn unlock(&self) -> Unlock<'_> {
        match self {
            Self::Passphrase(text) => Unlock::Passphrase(text),
            Self::Key(key) => Unlock::Key(key),
        }
    }
}

pub(super) fn read_secret(streams: &mut Streams<'_>) -> Result<Secret, Failure> {
    let refuse = |message: &str| {
        Failure::new(ErrorCode::Invalid, message.to_owned())
            .hinted("give `passphrase <text>` or `key <64 hexadecimal digits>` on stdin, or use `bib admin restore`")
    };
    let mut line = Zeroizing::new(String::new());
    let mut input = std::io::Read::take(&mut *streams.input, MAX_PASSPHRASE_LEN as u64 + 64);
    std::io::BufRead::read_line(&mut input, &mut line).map_err(|_| refuse("nothing can be read from stdin"))?;
    let line = line.trim_end_matches(['\n', '\r']);
    match line.split_once(' ') {
        Some(("passphrase", text)) if !text.is_empty() => Ok(Secret::Passphrase(Zeroizing::new(text.to_owned()))),
        Some(("key", digits)) => {
            let bytes = Zeroizing::new(HEXLOWER.decode(digits.as_bytes()).unwrap_or_default());
            let mut key = Zeroizing::new([0; 32]);
            if bytes.len() != key.len() {
                return Err(refuse("the key has not 64 hexadecimal digits"));
            }
            key.copy_from_slice(&bytes);
            Ok(Secret::Key(key))
        }
        _ => Err(refuse("stdin does not say what opens the backup")),
    }
}

pub(super) fn run(args: &RestoreArgs, config: &Config, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let data_dir = &config.data_dir;
    // Whose the new directory will be: of whoever owns what is there, or the folder above.
    let owned = data_dir.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("."));
    if data_dir.is_dir() {
        check_owner(owned, rustix::process::geteuid().as_raw())?;
    }
    let place = Place::of(&args.backup);
    // Before anything is asked for.
    backup::read_header(&place)?;
    let secret = read_secret(streams)?;
    let mut scratch = data_dir.as_os_str().to_owned();
    scratch.push(".restoring-index");
    let budget = Budget::of(config.memory);
    let wanted = Restore {
        data_dir,
        snapshot: args.snapshot.map(Timestamp),
        to: args.to,
        force: args.force,
        partial: args.partial,
        now: timestamp(),
        budget: &budget,
    };
    streams.note(&format!("restoring into `{}`", data_dir.display()));
    let restored = backup::with_sound_index(&place, &mut |text| streams.note(text), || {
        let backup = Repository::open(&place, &secret.unlock(), Path::new(&scratch))?;
        backup::restore(&backup, &wanted, &mut |_| {}, &AtomicBool::new(false))
    })?;
    streams.line(&format!("node       {}", restored.snapshot.node))?;
    streams.line(&format!("snapshot   {}", restored.snapshot.time.0))?;
    streams.line(&format!("operations {}", restored.n_ops))?;
    streams.line(&format!("content    {}", restored.content_bytes))?;
    for name in &restored.missing {
        streams.line(&format!("missing    {name}"))?;
    }
    if !restored.missing.is_empty() {
        let n = restored.missing.len();
        streams.note(&format!("{n} contents are not whole; the node fetches what they lack from peers"));
    }
    if let Some(moved) = restored.moved {
        streams.line(&format!("before     {}", moved.display()))?;
    }
    Ok(())
}
