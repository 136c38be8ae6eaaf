//! `bib admin backup` and `bib admin restore`: snapshots of the node, and nodes made from them.
//!
//! A backup opens with a passphrase or with the key of a user. A user's key is used here: `bibd` gets only the key of the
//! backup that was in its box.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use argh::{ArgsInfo, FromArgs};
use bib_core::api::event::BackupMade;
use bib_core::api::request::Secret;
use bib_core::api::{ErrorCode, Event, Request};
use bib_core::backup::{BackupHeader, Slot, Snapshot};
use bib_core::encode::decode;
use bib_core::id::UserId;
use bib_core::limits::{MAX_BACKUP_HEADER_LEN, MAX_PASSPHRASE_LEN};
use bib_core::time::Timestamp;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::long;
use crate::client::Client;
use crate::commands::print_table;
use crate::error::{CliError, Result};
use crate::keys::{self, Need, Signer};
use crate::progress::Bar;
use crate::render::human;
use crate::render::table::{Align, Table};
use crate::{Context, daemon};

/// Name of the header in a backup.
const HEADER: &str = "backup.bib";
/// Bytes of a block of a backup in one file, whose first one says what the first entry is.
const BLOCK: usize = 512;

/// make a snapshot of the node, in a folder or in one file
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "backup",
    help_triggers("-h", "--help"),
    example = "{command_name} --to /backup/bib --passphrase-file ~/.config/bib/backup.txt\n\
    {command_name} --to /backup/bib --user u7q5…\n\
    {command_name} --to /media/stick/bib.tar --passphrase-file backup.txt\n\
    {command_name} list\n\
    {command_name} verify /backup/bib",
    note = "In a folder each snapshot adds what is new; a file is made anew each time. Everything is encrypted.\n\
    The passphrase and the users are those who can open a new backup; the node itself goes on without them.",
    note = "A snapshot holds the catalog, all content that is here whole, the node's key and its settings."
)]
pub(crate) struct BackupArgs {
    /// the folder, or the file when it ends in .tar or .bibbackup; otherwise `backup.to` of bibd
    #[argh(option, arg_name = "path")]
    to: Option<PathBuf>,

    /// a file whose first line is the passphrase
    #[argh(option, arg_name = "file")]
    passphrase_file: Option<PathBuf>,

    /// a user whose key opens a new backup; may be repeated
    #[argh(option, arg_name = "user")]
    user: Vec<UserId>,

    #[argh(subcommand)]
    command: Option<BackupCommand>,
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
    example = "{command_name}\n{command_name} /backup/bib"
)]
struct ListArgs {
    /// the folder or file; otherwise `backup.to` of bibd
    #[argh(positional)]
    backup: Option<PathBuf>,

    /// a file whose first line is the passphrase, for the backup of another node
    #[argh(option, arg_name = "file")]
    passphrase_file: Option<PathBuf>,
}

/// read all of a backup again, and say which snapshots are whole
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "verify",
    help_triggers("-h", "--help"),
    example = "{command_name}\n{command_name} /backup/bib --snapshot 1795530245000000"
)]
struct VerifyArgs {
    /// the folder or file; otherwise `backup.to` of bibd
    #[argh(positional)]
    backup: Option<PathBuf>,

    /// a file whose first line is the passphrase, for the backup of another node
    #[argh(option, arg_name = "file")]
    passphrase_file: Option<PathBuf>,

    /// only this snapshot, as `list` names it
    #[argh(option, arg_name = "snapshot")]
    snapshot: Option<i64>,
}

/// make a node from a backup, in a data directory that no node uses
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "restore",
    help_triggers("-h", "--help"),
    example = "{command_name} /backup/bib --data-dir /srv/bib\n\
    {command_name} /backup/bib --data-dir /srv/bib --force\n\
    {command_name} bib.tar --passphrase-file backup.txt --to 2026-11-24T14:00:00Z",
    note = "Opens with your key where the backup was made for you, else with a passphrase.",
    note = "The node has the same identity as before: do not run both.",
    note = "With --to it knows only what had been said by then; peers that know more tell it again."
)]
pub(crate) struct RestoreArgs {
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

    /// the data directory; otherwise the one of bibd's configuration
    #[argh(option, arg_name = "folder")]
    data_dir: Option<PathBuf>,

    /// a file whose first line is the passphrase
    #[argh(option, arg_name = "file")]
    passphrase_file: Option<PathBuf>,
}

pub(crate) fn run(ctx: &Context, args: &BackupArgs) -> Result<()> {
    match &args.command {
        None => make(ctx, args),
        Some(BackupCommand::List(list)) => self::list(ctx, list),
        Some(BackupCommand::Verify(verify)) => self::verify(ctx, verify),
    }
}

/// A path as the node takes it.
fn full(path: Option<&Path>) -> Result<Option<String>> {
    let Some(path) = path else { return Ok(None) };
    let full = std::path::absolute(path).map_err(|error| CliError::io("name", path, &error))?;
    let text = full.into_os_string().into_string().map_err(|_| {
        CliError::invalid(format!("`{}` is not UTF-8", path.display())).hint("choose another name for the backup")
    })?;
    Ok(Some(text))
}

/// The first line of a file.
fn read_passphrase(path: &Path) -> Result<Secret> {
    let mut text = Zeroizing::new(String::new());
    let read = File::open(path).and_then(|file| file.take(MAX_PASSPHRASE_LEN as u64 + 2).read_to_string(&mut text));
    read.map_err(|error| CliError::io("read", path, &error))?;
    match text.lines().next() {
        Some(line) if !line.is_empty() && line.len() <= MAX_PASSPHRASE_LEN => Ok(Secret(line.to_owned())),
        _ => Err(CliError::invalid(format!("`{}` has no passphrase in its first line", path.display()))
            .hint("write one of 1 to 4,096 bytes into it, and let nobody else read the file")),
    }
}

fn passphrase(path: Option<&Path>) -> Result<Option<Secret>> {
    path.map(read_passphrase).transpose()
}

fn snapshot(snapshot: &Snapshot) -> Value {
    json!({
        "snapshot": snapshot.time.0,
        "time": snapshot.time.to_string(),
        "node": snapshot.node.to_string(),
        "operations": snapshot.n_ops,
        "contents": snapshot.n_manifests,
        "content_bytes": snapshot.content_bytes,
        "incomplete": snapshot.n_incomplete,
        "encrypted_node": snapshot.is_encrypted,
    })
}

fn make(ctx: &Context, args: &BackupArgs) -> Result<()> {
    let to = full(args.to.as_deref())?;
    let passphrase = passphrase(args.passphrase_file.as_deref())?;
    let request = Request::Backup { to, passphrase, users: args.user.clone() };
    let made = long(ctx, "backing up", request, |event| match event {
        Event::BackupMade(made) => Some(made),
        _ => None,
    })?;
    let BackupMade { to, snapshot: of, new_bytes, stored_bytes, removed, freed_bytes } = *made;
    if ctx.ui.is_json() {
        let mut value = snapshot(&of);
        value["to"] = json!(to);
        value["new_bytes"] = json!(new_bytes);
        value["stored_bytes"] = json!(stored_bytes);
        value["removed"] = json!(removed);
        value["freed_bytes"] = json!(freed_bytes);
        return ctx.ui.json(&value);
    }
    ctx.ui.line(&of.time.0.to_string())?;
    ctx.ui.note(&format!(
        "{to}: {} in {}, {} new, {} written",
        human::size(of.content_bytes),
        human::n(of.n_manifests, "content"),
        human::size(new_bytes),
        human::size(stored_bytes)
    ));
    if of.n_incomplete > 0 {
        ctx.ui.warn(&format!(
            "{} not whole on this node and left out; `bib dataset verify --repair` may mend them",
            human::n(of.n_incomplete, "content")
        ));
    }
    if removed > 0 {
        ctx.ui.note(&format!("{} gone, {} given back", human::n(removed, "old snapshot"), human::size(freed_bytes)));
    }
    Ok(())
}

fn list(ctx: &Context, args: &ListArgs) -> Result<()> {
    let (at, passphrase) = (full(args.backup.as_deref())?, passphrase(args.passphrase_file.as_deref())?);
    let mut client = Client::open_as_operator(ctx)?;
    let mut call = client.long_call(Request::Backups { at, passphrase })?;
    let mut table = Table::new(&[
        ("SNAPSHOT", Align::Name),
        ("TIME", Align::Left),
        ("OPERATIONS", Align::Right),
        ("CONTENTS", Align::Right),
        ("BYTES", Align::Right),
        ("NOT WHOLE", Align::Right),
    ]);
    while let Some(event) = call.next()? {
        let Event::Snapshot(of) = event else { continue };
        if ctx.ui.is_json() {
            ctx.ui.json(&snapshot(&of))?;
            continue;
        }
        table.row(vec![
            of.time.0.to_string(),
            human::minute(of.time),
            human::count(of.n_ops),
            human::count(of.n_manifests),
            human::size(of.content_bytes),
            human::count(of.n_incomplete),
        ]);
    }
    if ctx.ui.is_json() { Ok(()) } else { print_table(ctx, &table) }
}

fn verify(ctx: &Context, args: &VerifyArgs) -> Result<()> {
    let (at, passphrase) = (full(args.backup.as_deref())?, passphrase(args.passphrase_file.as_deref())?);
    let mut client = Client::open_as_operator(ctx)?;
    let mut bar = Bar::new(ctx.ui, "reading", None);
    let mut call =
        client.long_call(Request::BackupVerify { at, passphrase, snapshot: args.snapshot.map(Timestamp) })?;
    while let Some(event) = call.next()? {
        match event {
            Event::Progress(progress) => bar.update(&progress),
            Event::SnapshotVerified { time, bytes, fault } => {
                bar.clear();
                if ctx.ui.is_json() {
                    ctx.ui.json(
                        &json!({ "snapshot": time.0, "bytes": bytes, "whole": fault.is_none(), "fault": fault }),
                    )?;
                } else if let Some(fault) = fault {
                    ctx.ui.line(&format!("{} {}: {fault}", time.0, human::minute(time)))?;
                } else {
                    ctx.ui.line(&format!("{} {}: whole, {}", time.0, human::minute(time), human::size(bytes)))?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// The header of a backup.
fn read_header(backup: &Path) -> Result<BackupHeader> {
    let is_folder = backup.is_dir();
    let path = if is_folder { backup.join(HEADER) } else { backup.to_owned() };
    let mut bytes = Vec::new();
    let read =
        File::open(&path).and_then(|file| file.take((MAX_BACKUP_HEADER_LEN + BLOCK) as u64).read_to_end(&mut bytes));
    read.map_err(|error| CliError::io("read", &path, &error))?;
    let header = if is_folder { Some(bytes.as_slice()) } else { first_entry(&bytes) };
    let header = header.and_then(|bytes| decode::<BackupHeader>(bytes).ok()).filter(BackupHeader::is_plausible);
    header.ok_or_else(|| {
        CliError::invalid(format!("`{}` is no backup, or one of a newer bib", backup.display()))
            .hint("name the folder or file that `bib admin backup` made")
    })
}

/// The bytes of the first entry of a backup in one file.
fn first_entry(bytes: &[u8]) -> Option<&[u8]> {
    let (head, rest) = bytes.split_at_checked(BLOCK)?;
    let digits = std::str::from_utf8(head.get(124..136)?).ok()?.trim_matches(['\0', ' ']);
    let len = usize::from_str_radix(digits, 8).ok()?;
    if head.starts_with(HEADER.as_bytes()) { rest.get(..len) } else { None }
}

/// What opens the backup, as `bibd restore` reads it.
fn secret(ctx: &Context, args: &RestoreArgs, header: &BackupHeader) -> Result<Zeroizing<Vec<u8>>> {
    if let Some(path) = &args.passphrase_file {
        let Secret(text) = &read_passphrase(path)?;
        return Ok(Zeroizing::new(format!("passphrase {text}\n").into_bytes()));
    }
    let users: Vec<&UserId> = header
        .slots
        .iter()
        .filter_map(|slot| match slot {
            Slot::User { user, .. } => Some(user),
            _ => None,
        })
        .collect();
    let is_for_me = keys::locate(ctx)?.is_some_and(|located| users.contains(&located.user()));
    if is_for_me {
        let signer = keys::signer(ctx, Need::Wanted)?;
        let Some(Signer::Key(key)) = &signer else {
            return Err(CliError::new(ErrorCode::Unsupported, "an agent opens no backup")
                .hint("name the file of your key with `--key`"));
        };
        let opened = header.open_by_key(key).ok_or_else(|| {
            CliError::new(ErrorCode::Integrity, "the backup was made for you, and its box does not open")
                .hint("try `--passphrase-file <file>`, or a copy of the backup")
        })?;
        let digits: String = opened.iter().map(|byte| format!("{byte:02x}")).collect();
        return Ok(Zeroizing::new(format!("key {digits}\n").into_bytes()));
    }
    if !header.slots.iter().any(|slot| matches!(slot, Slot::Passphrase { .. })) {
        let users: Vec<String> = users.iter().map(|user| user.to_string()).collect();
        return Err(CliError::new(ErrorCode::Denied, "your key does not open the backup")
            .hint(format!("name the key of one of these users with `--key`: {}", users.join(", "))));
    }
    if !ctx.ui.can_ask() {
        return Err(CliError::new(
            ErrorCode::Unauthenticated,
            "there is no terminal to ask for the passphrase of the backup",
        )
        .hint("name a file with `--passphrase-file <file>`, or your key with `--key`"));
    }
    let text = keys::ask_passphrase("Passphrase of the backup: ")?;
    Ok(Zeroizing::new(format!("passphrase {}\n", text.as_str()).into_bytes()))
}

pub(crate) fn restore(ctx: &Context, args: &RestoreArgs) -> Result<()> {
    let header = read_header(&args.backup)?;
    let secret = secret(ctx, args, &header)?;
    let mut line: Vec<OsString> = vec!["restore".into(), args.backup.clone().into_os_string()];
    if let Some(snapshot) = args.snapshot {
        line.extend(["--snapshot".into(), snapshot.to_string().into()]);
    }
    if let Some(to) = args.to {
        line.extend(["--to".into(), to.to_string().into()]);
    }
    if args.force {
        line.push("--force".into());
    }
    if args.partial {
        line.push("--partial".into());
    }
    if let Some(data_dir) = &args.data_dir {
        line.extend(["--data-dir".into(), data_dir.clone().into_os_string()]);
    }
    let mut result = serde_json::Map::new();
    daemon::run(ctx, &line, &secret, |text| {
        let (name, value) = text.split_once(' ').unwrap_or((text, ""));
        let value = value.trim();
        let value = value.parse::<u64>().map_or_else(|_| json!(value), |number| json!(number));
        if !ctx.ui.is_json() {
            ctx.ui.line(text)?;
        }
        match result.get_mut(name) {
            Some(Value::Array(all)) => all.push(value),
            _ if name == "missing" => _ = result.insert(name.to_owned(), json!([value])),
            _ => _ = result.insert(name.to_owned(), value),
        }
        Ok(())
    })?;
    if ctx.ui.is_json() {
        return ctx.ui.json(&Value::Object(result));
    }
    ctx.ui.note("start bibd with this data directory; the node has the identity that it had");
    Ok(())
}
