//! `bib admin keys`: the keys of an encrypted node. Shares that are sealed to the user are opened here, with the user's
//! key, which no node ever has.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use argh::{ArgsInfo, FromArgs};
use bib_core::api::event::{KeysFigures, SplitFigures};
use bib_core::api::{ErrorCode, Event, Request};
use bib_core::id::UserId;
use bib_core::limits::{MAX_SHARES_TEXT, MIN_THRESHOLD};
use bib_core::share::{self, CombineError, SealedShare, Share, ShareError, ShareLine, ShareName};
use serde_json::json;
use zeroize::Zeroizing;

use crate::Context;
use crate::client::Client;
use crate::commands::print_fields;
use crate::daemon;
use crate::error::{CliError, Result};
use crate::keys::{Signer, required_signer};
use crate::render::human::minute;
use crate::render::json;

/// the keys of an encrypted node: renew them, share them out, recover a node
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "keys", help_triggers("-h", "--help"))]
pub(crate) struct KeysArgs {
    #[argh(subcommand)]
    command: KeysCommand,
}

#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
enum KeysCommand {
    Status(StatusArgs),
    Rotate(RotateArgs),
    Split(SplitArgs),
    Open(OpenArgs),
    Recover(RecoverArgs),
}

/// show which keys there are and who could restore them
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "status", help_triggers("-h", "--help"), example = "{command_name}")]
struct StatusArgs {}

/// make new keys; nothing that is stored is written again
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "rotate",
    help_triggers("-h", "--help"),
    example = "{command_name}\n{command_name} --data",
    note = "Without a flag both are made. After a new key of keys, split it again: shares of the old one\n\
    open nothing any more."
)]
struct RotateArgs {
    /// a new key of keys, for instance when somebody who has a share left
    #[argh(switch)]
    kek: bool,

    /// a new data key, for what is stored from now on
    #[argh(switch)]
    data: bool,
}

/// make shares of the key of keys, of which some together restore the node
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "split",
    help_triggers("-h", "--help"),
    example = "{command_name} -o shares\n{command_name} --threshold 2 --shares 3\n\
    {command_name} --threshold 2 --to <ann> --to <bob> --to <eve> -o shares",
    note = "Each share is a line to print or to store; whoever has enough of them can read all that the\n\
    node has stored. A share that is made for a user (--to, the u... of `bib whoami`) opens with that\n\
    user's key only. Older sets stay good until there is a new key: `bib admin keys rotate --kek`."
)]
struct SplitArgs {
    /// shares that are needed to restore the node (3)
    #[argh(option, default = "3", arg_name = "number")]
    threshold: u8,

    /// shares that are made, at most 16 (5, or one for each user)
    #[argh(option, arg_name = "number")]
    shares: Option<u8>,

    /// seal a share to this user; once for each share
    #[argh(option, arg_name = "user")]
    to: Vec<String>,

    /// write a file for each share into this folder
    #[argh(option, short = 'o', arg_name = "folder")]
    out: Option<PathBuf>,
}

/// open a share that is sealed to you, to hand it to whoever recovers the node
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "open",
    help_triggers("-h", "--help"),
    example = "{command_name} share-2.txt\n{command_name} share-2.txt --key ~/.config/bib/user.key"
)]
struct OpenArgs {
    /// the file of the share, or - for stdin
    #[argh(positional)]
    file: PathBuf,
}

/// restore the keys from shares, for the node of a data directory that is not running
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "recover",
    help_triggers("-h", "--help"),
    example = "{command_name} --data-dir /srv/bib\n{command_name} --data-dir /srv/bib share-1.txt share-4.txt share-5.txt",
    note = "Asks for the shares one by one, or reads them from files or stdin, one a line. The data\n\
    directory must have its `keys/store.keys`; without identity.pem it gets a new identity."
)]
struct RecoverArgs {
    /// files with shares
    #[argh(positional)]
    files: Vec<PathBuf>,

    /// the data directory; otherwise the one of bibd's configuration
    #[argh(option, arg_name = "folder")]
    data_dir: Option<PathBuf>,
}

pub(crate) fn run(ctx: &Context, args: &KeysArgs) -> Result<()> {
    match &args.command {
        KeysCommand::Status(_) => status(ctx),
        KeysCommand::Rotate(args) => rotate(ctx, args),
        KeysCommand::Split(args) => split(ctx, args),
        KeysCommand::Open(args) => open(ctx, args),
        KeysCommand::Recover(args) => recover(ctx, args),
    }
}

fn figures(client: &mut Client, request: Request) -> Result<Box<KeysFigures>> {
    client.one(request, |event| match event {
        Event::Keys(figures) => Some(figures),
        _ => None,
    })
}

fn print(ctx: &Context, keys: &KeysFigures) -> Result<()> {
    if ctx.ui.is_json() {
        return ctx.ui.json(&json::keys(keys));
    }
    let data_keys = keys.data_keys.last().map(|(id, created)| {
        let older = match keys.data_keys.len() {
            1 => String::new(),
            n => format!(", {} older", n - 1),
        };
        format!("number {id} of {}{older}", minute(*created))
    });
    print_fields(
        ctx,
        &[
            ("cipher", Some(keys.cipher.clone())),
            ("key of keys", Some(format!("generation {}, {}", keys.generation, keys.fingerprint))),
            ("data key", data_keys),
            ("shares", Some(shares(keys.split.as_ref()))),
        ],
    )
}

/// Who could restore the keys, in a line.
pub(crate) fn shares(split: Option<&SplitFigures>) -> String {
    match split {
        None => "none: if identity.pem is lost, so is the data; `bib admin keys split`".to_owned(),
        Some(SplitFigures { is_stale: true, .. }) => {
            "of an older key, they open nothing: `bib admin keys split` makes new ones".to_owned()
        }
        Some(split) => {
            format!("{} of {}, set {} of {}", split.threshold, split.total, split.set, minute(split.time))
        }
    }
}

fn status(ctx: &Context) -> Result<()> {
    let mut client = Client::open_as_operator(ctx)?;
    let keys = figures(&mut client, Request::KeysStatus)?;
    print(ctx, &keys)
}

fn rotate(ctx: &Context, args: &RotateArgs) -> Result<()> {
    let both = !args.kek && !args.data;
    let request = Request::KeysRotate { kek: args.kek || both, data: args.data || both };
    let mut client = Client::open_as_operator(ctx)?;
    let keys = figures(&mut client, request)?;
    print(ctx, &keys)?;
    if keys.split.is_some_and(|split| split.is_stale) {
        ctx.ui.note("shares that were made before open nothing any more; `bib admin keys split` makes new ones");
    }
    Ok(())
}

/// Names of the files of shares.
fn file_name(index: u8) -> String {
    format!("share-{index}.txt")
}

fn split(ctx: &Context, args: &SplitArgs) -> Result<()> {
    let to = args.to.iter().map(|text| text.parse::<UserId>());
    let to: Vec<UserId> = to.collect::<Result<_, _>>().map_err(|error| {
        CliError::invalid(error.to_string()).hint("each user finds theirs with `bib whoami`: 53 letters from u")
    })?;
    let total = match args.shares {
        Some(total) => total,
        None if to.is_empty() => 5,
        None => u8::try_from(to.len()).unwrap_or(u8::MAX),
    };
    if let Some(folder) = &args.out {
        // Before there are shares that could be written nowhere.
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| CliError::io("make the folder", folder, &error))?;
        let taken = (1..=total).map(|index| folder.join(file_name(index))).find(|path| path.exists());
        if let Some(taken) = taken {
            return Err(CliError::new(ErrorCode::Exists, format!("there is a share `{}` already", taken.display()))
                .hint("choose another folder: older shares may still be needed"));
        }
    }
    let mut client = Client::open_as_operator(ctx)?;
    let node = client.node();
    let mut call = client.call(Request::KeysSplit { threshold: args.threshold, total, to })?;
    let mut n_written = 0;
    while let Some(event) = call.next()? {
        let Event::Share { index, user, text } = event else { continue };
        let read = ShareLine::parse(text.as_str())
            .map_err(|error| CliError::new(ErrorCode::Integrity, format!("the node sent no share: {error}")))?;
        let set = read.name().set;
        let remarks = format!(
            "# share {index} of {total} of the key of the node {node}; any {} of them restore it\n\
             # set {set}{}; to restore: bib admin keys recover\n",
            args.threshold,
            user.map(|user| format!(", for the user {user} only")).unwrap_or_default(),
        );
        n_written += 1;
        if let Some(folder) = &args.out {
            let path = folder.join(file_name(index));
            write(&path, &Zeroizing::new(format!("{remarks}{}\n", text.as_str())))?;
            if ctx.ui.is_json() {
                let user = user.map(|user| user.to_string());
                ctx.ui.json(&json!({ "index": index, "set": set.to_string(), "user": user, "file": path }))?;
            } else {
                ctx.ui.line(&path.display().to_string())?;
            }
        } else if ctx.ui.is_json() {
            let user = user.map(|user| user.to_string());
            ctx.ui.json(&json!({ "index": index, "set": set.to_string(), "user": user, "share": text.as_str() }))?;
        } else {
            ctx.ui.line(&format!("{remarks}{}\n", text.as_str()))?;
        }
    }
    ctx.ui.note(&format!(
        "{n_written} shares, {} restore the node. Give them to different people or places, and none to the place of \
         the node itself",
        args.threshold
    ));
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    let fail = |error| CliError::io("write the share", path, &error);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(fail)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(fail)
}

/// Reads a text that may be a secret; `-` is stdin.
fn read(path: &Path) -> Result<Zeroizing<String>> {
    let fail = |error| CliError::io("read the share", path, &error);
    let mut text = Zeroizing::new(String::with_capacity(MAX_SHARES_TEXT));
    let n_bytes = if path.as_os_str() == "-" {
        std::io::stdin().lock().take(MAX_SHARES_TEXT as u64 + 1).read_to_string(&mut text).map_err(fail)?
    } else {
        let file = fs::File::open(path).map_err(fail)?;
        file.take(MAX_SHARES_TEXT as u64 + 1).read_to_string(&mut text).map_err(fail)?
    };
    if n_bytes > MAX_SHARES_TEXT {
        return Err(CliError::invalid(format!("`{}` is too long to hold shares", path.display()))
            .hint("name the files that `bib admin keys split` wrote"));
    }
    Ok(text)
}

fn unreadable(place: &str, error: &ShareError) -> CliError {
    CliError::new(ErrorCode::Integrity, format!("{place}: {error}"))
        .hint("compare the line with the paper or file that it comes from")
}

/// Opens sealed shares with the key of the user, which is looked for when the first one comes.
struct Opener<'a> {
    ctx: &'a Context,
    signer: Option<Signer>,
}

impl<'a> Opener<'a> {
    const fn new(ctx: &'a Context) -> Self {
        Self { ctx, signer: None }
    }

    fn open(&mut self, sealed: &SealedShare) -> Result<Share> {
        if self.signer.is_none() {
            self.signer = Some(required_signer(self.ctx)?);
        }
        let of = |name: ShareName| format!("share {} is sealed to the user {}", name.index, sealed.user());
        match &self.signer {
            Some(Signer::Key(key)) if key.user_id() == *sealed.user() => sealed.open(key).map_err(|_| {
                CliError::new(ErrorCode::Integrity, format!("{}, and was changed", of(sealed.name())))
                    .hint("take another copy of it")
            }),
            Some(Signer::Agent(..)) => Err(CliError::new(
                ErrorCode::Unsupported,
                format!("{}; an SSH agent signs, and cannot open", of(sealed.name())),
            )
            .hint("name the file of the key with `--key <file>`")),
            Some(Signer::Key(key)) => Err(CliError::new(
                ErrorCode::Denied,
                format!("{}, and your key is that of {}", of(sealed.name()), key.user_id()),
            )
            .hint("name that user's key with `--key <file>`, or let the user run `bib admin keys open`")),
            None => Err(crate::keys::no_key()),
        }
    }

    fn plain(&mut self, line: ShareLine) -> Result<Share> {
        match line {
            ShareLine::Plain(share) => Ok(share),
            ShareLine::Sealed(sealed) => self.open(&sealed),
        }
    }
}

fn open(ctx: &Context, args: &OpenArgs) -> Result<()> {
    let text = read(&args.file)?;
    let mut opener = Opener::new(ctx);
    let mut n_shares = 0;
    for (number, line) in share::lines(&text) {
        let line = line.map_err(|error| unreadable(&format!("`{}`, line {number}", args.file.display()), &error))?;
        let share = opener.plain(line)?;
        n_shares += 1;
        if ctx.ui.is_json() {
            let name = share.name();
            ctx.ui.json(
                &json!({ "index": name.index, "set": name.set.to_string(), "share": share.to_text().as_str() }),
            )?;
        } else {
            ctx.ui.line(&share.to_text())?;
        }
    }
    if n_shares == 0 {
        return Err(CliError::new(ErrorCode::NotFound, format!("there is no share in `{}`", args.file.display()))
            .hint("name the file that `bib admin keys split` wrote"));
    }
    Ok(())
}

fn recover(ctx: &Context, args: &RecoverArgs) -> Result<()> {
    let shares = match args.files.as_slice() {
        [] if ctx.ui.can_ask() => ask(ctx)?,
        [] => collect(ctx, &[PathBuf::from("-")])?,
        files => collect(ctx, files)?,
    };
    // What bibd would say as well, and before it is started.
    share::check(&shares).map_err(|error| not_enough(&error))?;
    let mut input = Zeroizing::new(String::with_capacity(MAX_SHARES_TEXT));
    for share in &shares {
        input.push_str(&share.to_text());
        input.push('\n');
    }
    let mut line = vec!["keys".into(), "recover".into()];
    if let Some(dir) = &args.data_dir {
        line.extend(["--data-dir".into(), dir.clone().into_os_string()]);
    }
    let (mut node, mut before, mut wrong) = (String::new(), String::new(), Vec::new());
    daemon::run(ctx, line, input.as_bytes(), |line| {
        match line.split_once(' ').map(|(name, value)| (name, value.trim())) {
            Some(("node", id)) => id.clone_into(&mut node),
            Some(("before", id)) => id.clone_into(&mut before),
            Some(("wrong", index)) => wrong.extend(index.parse::<u8>()),
            _ => {}
        }
        Ok(())
    })?;
    if ctx.ui.is_json() {
        return ctx.ui.json(&json!({ "node": node, "before": before, "wrong_shares": wrong }));
    }
    ctx.ui.line(&format!("the keys are sealed to the node {node} now; before, to {before}"))?;
    ctx.ui
        .note("start bibd; afterwards make a new key and new shares: `bib admin keys rotate`, `bib admin keys split`");
    Ok(())
}

fn not_enough(error: &CombineError) -> CliError {
    let code = match error {
        CombineError::Missing { .. } => ErrorCode::Precondition,
        _ => ErrorCode::Integrity,
    };
    CliError::new(code, error.to_string()).hint("bring as many different shares of one set together as are needed")
}

/// The shares in some files.
fn collect(ctx: &Context, files: &[PathBuf]) -> Result<Vec<Share>> {
    let mut opener = Opener::new(ctx);
    let mut shares = Vec::new();
    for file in files {
        let text = read(file)?;
        for (number, line) in share::lines(&text) {
            let place = format!("`{}`, line {number}", file.display());
            shares.push(opener.plain(line.map_err(|error| unreadable(&place, &error))?)?);
        }
    }
    Ok(shares)
}

/// Asks on the terminal until there are enough.
fn ask(ctx: &Context) -> Result<Vec<Share>> {
    let mut opener = Opener::new(ctx);
    let mut shares: Vec<Share> = Vec::new();
    loop {
        let need = shares.first().map_or(MIN_THRESHOLD, |share| share.name().scheme.threshold());
        let question = match shares.len() {
            0 => "first share: ".to_owned(),
            n if n + 1 == usize::from(need) => "last share: ".to_owned(),
            n => format!("next share, {} are missing: ", usize::from(need) - n),
        };
        let Some(typed) = ctx.ui.ask(&question)? else {
            return Err(CliError::new(ErrorCode::Cancelled, "no more shares were given")
                .hint("run the command again when there are enough of them"));
        };
        let typed = typed.trim();
        if typed.is_empty() || typed.starts_with('#') {
            continue;
        }
        let share = match ShareLine::parse(typed) {
            Ok(line) => opener.plain(line)?,
            Err(error) => {
                ctx.ui.warn(&format!("{error}; try again"));
                continue;
            }
        };
        shares.push(share);
        match share::check(&shares) {
            Ok(_) => return Ok(shares),
            Err(CombineError::Missing { .. }) => {}
            Err(error) => {
                ctx.ui.warn(&format!("{error}; give another one"));
                shares.pop();
            }
        }
    }
}
