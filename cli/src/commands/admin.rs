//! `bib admin`: care of the node.

pub(crate) mod keys;

use argh::{ArgsInfo, FromArgs};
use bib_core::api::{ErrorCode, Event, Request};
use bib_core::time::Timestamp;

use crate::Context;
use crate::client::Client;
use crate::commands::print_table;
use crate::error::{CliError, Result};
use crate::keys::Need;
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
    Workers(WorkersArgs),
    Keys(keys::KeysArgs),
    Shutdown(ShutdownArgs),
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

fn workers(ctx: &Context) -> Result<()> {
    let mut client = Client::open(ctx, Need::IfReady)?;
    let mut call = client.call(Request::Workers)?;
    let mut table = Table::new(&[
        ("WORKER", Align::Left),
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
