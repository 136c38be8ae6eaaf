//! `bib admin`: care of the node.

pub(crate) mod backup;
pub(crate) mod keys;

use std::ffi::OsString;
use std::path::PathBuf;

use argh::{ArgsInfo, FromArgs};
use bib_core::api::care::Rebuilt;
use bib_core::api::{ErrorCode, Event, Request};
use bib_core::time::Timestamp;

use crate::Context;
use crate::client::Client;
use crate::commands::print_table;
use crate::daemon;
use crate::error::{CliError, Result};
use crate::keys::Need;
use crate::progress::Bar;
use crate::render::table::{Align, Table};
use crate::render::{human, json};

/// take care of the node
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "admin", help_triggers("-h", "--help"))]
pub(crate) struct AdminArgs {
    #[argh(subcommand)]
    command: AdminCommand,
}

#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
enum AdminCommand {
    Backup(backup::BackupArgs),
    Restore(backup::RestoreArgs),
    Gc(GcArgs),
    Scrub(ScrubArgs),
    Rebuild(RebuildArgs),
    Workers(WorkersArgs),
    Keys(keys::KeysArgs),
    Shutdown(ShutdownArgs),
}

/// give back the space of what no version and no pin needs any more
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "gc",
    help_triggers("-h", "--help"),
    example = "{command_name} --dry-run\n{command_name} --min-age 0s"
)]
struct GcArgs {
    /// only show what would go
    #[argh(switch)]
    dry_run: bool,

    /// how old released content must be, such as 12h or 0s; as configured if not given
    #[argh(option, arg_name = "time")]
    min_age: Option<String>,
}

/// read and check everything that the node stores
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "scrub", help_triggers("-h", "--help"), example = "{command_name}\n{command_name} --json")]
struct ScrubArgs {}

/// make the index of the chunk store anew from its segments
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "rebuild",
    help_triggers("-h", "--help"),
    example = "{command_name}\n{command_name} --offline --data-dir /srv/bib"
)]
struct RebuildArgs {
    /// while no node runs: for one that does not start with the index it has
    #[argh(switch)]
    offline: bool,

    /// the data directory of the node, with --offline
    #[argh(option, arg_name = "folder")]
    data_dir: Option<PathBuf>,
}

/// list what the node does by itself
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "workers", help_triggers("-h", "--help"), example = "{command_name}\n{command_name} --json")]
struct WorkersArgs {}

/// stop the node after it has ended what it is doing
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "shutdown", help_triggers("-h", "--help"), example = "{command_name}\n{command_name} --yes")]
struct ShutdownArgs {}

pub(crate) fn run(ctx: &Context, args: &AdminArgs) -> Result<()> {
    match &args.command {
        AdminCommand::Backup(args) => backup::run(ctx, args),
        AdminCommand::Restore(args) => backup::restore(ctx, args),
        AdminCommand::Gc(args) => gc(ctx, args),
        AdminCommand::Scrub(_) => scrub(ctx),
        AdminCommand::Rebuild(args) => rebuild(ctx, args),
        AdminCommand::Workers(_) => workers(ctx),
        AdminCommand::Keys(args) => keys::run(ctx, args),
        AdminCommand::Shutdown(_) => shutdown(ctx),
    }
}

fn shutdown(ctx: &Context) -> Result<()> {
    let mut client = Client::open_as_operator(ctx)?;
    if !ctx.globals.yes && !ctx.ui.confirm("Stop the node?")? {
        return Err(
            CliError::new(ErrorCode::Cancelled, "the node was not stopped").hint("answer with y, or say `--yes`")
        );
    }
    client.done(Request::Shutdown)?;
    if ctx.ui.is_json() {
        return ctx.ui.json(&serde_json::json!({ "stopping": true }));
    }
    ctx.ui.note("the node is stopping");
    Ok(())
}

/// Makes a long call as an operator and shows how far it is; yields what answers it.
fn long<T>(ctx: &Context, verb: &'static str, request: Request, pick: impl Fn(Event) -> Option<T>) -> Result<T> {
    let mut client = Client::open_as_operator(ctx)?;
    let mut bar = Bar::new(ctx.ui, verb, None);
    let (mut call, mut answer) = (client.long_call(request)?, None);
    while let Some(event) = call.next()? {
        match event {
            Event::Progress(progress) => bar.update(&progress),
            event => answer = answer.or(pick(event)),
        }
    }
    answer.ok_or_else(|| CliError::new(ErrorCode::Internal, "the node did not say what it came to"))
}

fn gc(ctx: &Context, args: &GcArgs) -> Result<()> {
    let min_age_s = args.min_age.as_deref().map(age).transpose()?;
    let request = Request::Gc { dry_run: args.dry_run, min_age_s };
    let collected = long(ctx, "collecting", request, |event| match event {
        Event::Collected(collected) => Some(collected),
        _ => None,
    })?;
    if ctx.ui.is_json() {
        return ctx.ui.json(&json::collected(&collected));
    }
    let mut table = Table::new(&[("CONTENT", Align::Left), ("CHUNKS", Align::Right), ("ON DISK", Align::Right)]);
    let gone = if collected.dry_run { "would go" } else { "gone" };
    for (name, chunks, bytes) in [
        ("in use", collected.live_chunks, collected.live_bytes),
        ("unreferenced, too young", collected.young_chunks, collected.young_bytes),
        (gone, collected.dead_chunks, collected.dead_bytes),
    ] {
        table.row(vec![name.to_owned(), human::count(chunks), human::size(bytes)]);
    }
    print_table(ctx, &table)?;
    if collected.evicted > 0 {
        ctx.ui.note(&format!(
            "space is short: {} of withdrawn versions given up",
            human::n(collected.evicted, "content")
        ));
    }
    if !collected.dry_run {
        let freed = collected.unlinked_bytes + collected.punched_bytes + collected.rewritten_bytes;
        ctx.ui.line(&format!(
            "{} given back: {} by files that went, {} by holes, {} by files written anew ({} written)",
            human::size(freed),
            human::size(collected.unlinked_bytes),
            human::size(collected.punched_bytes),
            human::size(collected.rewritten_bytes),
            human::size(collected.written_bytes)
        ))?;
    }
    Ok(())
}

/// Reads an age such as `7d`, in seconds.
fn age(text: &str) -> Result<u64> {
    let refuse = || {
        CliError::invalid(format!("`{text}` is not an age of at most 3650d"))
            .hint("write for instance 7d, 12h, 30m or 0s")
    };
    let unit = match text.bytes().last() {
        Some(b'd') => 86_400,
        Some(b'h') => 3_600,
        Some(b'm') => 60,
        Some(b's') => 1,
        _ => return Err(refuse()),
    };
    let digits = text.get(..text.len() - 1).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let seconds = digits.and_then(|digits| digits.parse::<u64>().ok()).and_then(|number| number.checked_mul(unit));
    seconds.filter(|seconds| *seconds <= 3_650 * 86_400).ok_or_else(refuse)
}

fn scrub(ctx: &Context) -> Result<()> {
    let scrubbed = long(ctx, "checking", Request::Scrub, |event| match event {
        Event::Scrubbed(scrubbed) => Some(scrubbed),
        _ => None,
    })?;
    if ctx.ui.is_json() {
        ctx.ui.json(&json::scrubbed(&scrubbed))?;
    } else {
        for hurt in &scrubbed.hurt {
            ctx.ui.line(&crate::ui::printable(hurt))?;
        }
    }
    if scrubbed.damaged > 0 {
        let message = format!("{} of {} are damaged", scrubbed.damaged, human::n(scrubbed.chunks, "chunk"));
        return Err(CliError::new(ErrorCode::Integrity, message)
            .hint("they are fetched again from peers; `bib dataset verify <reference> --repair` does it at once"));
    }
    if ctx.ui.is_json() {
        return Ok(());
    }
    let (chunks, bytes) = (human::n(scrubbed.chunks, "chunk"), human::size(scrubbed.bytes));
    ctx.ui.line(&format!("{chunks} of {bytes} are right"))
}

fn rebuild(ctx: &Context, args: &RebuildArgs) -> Result<()> {
    let rebuilt = if args.offline { rebuild_offline(ctx, args)? } else { rebuild_online(ctx, args)? };
    if ctx.ui.is_json() {
        return ctx.ui.json(&json::rebuilt(&rebuilt));
    }
    if rebuilt.lost > 0 {
        let chunks = human::n(rebuilt.lost, "chunk");
        ctx.ui.warn(&format!("{chunks} lost; `bib dataset verify <reference> --repair` fetches them from peers"));
    }
    let (chunks, bytes) = (human::n(rebuilt.chunks, "chunk"), human::size(rebuilt.bytes));
    ctx.ui.line(&format!("the index names {chunks} of {bytes}"))
}

fn rebuild_offline(ctx: &Context, args: &RebuildArgs) -> Result<Rebuilt> {
    let mut line: Vec<OsString> = vec!["rebuild".into()];
    if let Some(dir) = &args.data_dir {
        line.extend(["--data-dir".into(), dir.clone().into_os_string()]);
    }
    let mut rebuilt = Rebuilt::default();
    daemon::run(ctx, line, b"", |line| {
        match line.split_once(' ') {
            Some(("chunks", n)) => rebuilt.chunks = n.parse().unwrap_or(0),
            Some(("bytes", n)) => rebuilt.bytes = n.parse().unwrap_or(0),
            _ => {}
        }
        Ok(())
    })?;
    Ok(rebuilt)
}

fn rebuild_online(ctx: &Context, args: &RebuildArgs) -> Result<Rebuilt> {
    if args.data_dir.is_some() {
        return Err(CliError::invalid("--data-dir is for --offline").hint("a node that runs knows its data directory"));
    }
    long(ctx, "reading segments", Request::Rebuild, |event| match event {
        Event::Rebuilt(rebuilt) => Some(rebuilt),
        _ => None,
    })
}

fn workers(ctx: &Context) -> Result<()> {
    let mut client = Client::open(ctx, Need::IfReady)?;
    let mut call = client.call(Request::Workers)?;
    let mut table = Table::new(&[
        ("WORKER", Align::Name),
        ("LAST RUN", Align::Left),
        ("NEXT RUN", Align::Left),
        ("DONE", Align::Right),
        ("FIGURES", Align::Left),
        ("STATE", Align::Left),
    ]);
    while let Some(event) = call.next()? {
        let Event::Worker(worker) = event else { continue };
        if ctx.ui.is_json() {
            ctx.ui.json(&json::worker(&worker))?;
            continue;
        }
        let time = |time: Option<Timestamp>, never: &str| time.map_or_else(|| never.to_owned(), human::minute);
        let done = match worker.progress {
            None => String::new(),
            Some((done, Some(total))) if total > 0 => {
                format!("{} %", u128::from(done.min(total)) * 100 / u128::from(total))
            }
            Some((done, _)) => human::count(done),
        };
        let figures: Vec<String> = worker.figures.iter().map(|(name, figure)| figure_of(name, *figure)).collect();
        table.row(vec![
            worker.name,
            time(worker.last_run, "never"),
            time(worker.next_run, "when told"),
            done,
            figures.join(", "),
            worker.state,
        ]);
    }
    if ctx.ui.is_json() { Ok(()) } else { print_table(ctx, &table) }
}

fn figure_of(name: &str, figure: u64) -> String {
    let words = name.replace('_', " ");
    match words.strip_suffix(" bytes") {
        Some(what) => format!("{what} {}", human::size(figure)),
        None => format!("{words} {}", human::count(figure)),
    }
}
