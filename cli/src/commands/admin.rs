//! `bib admin`: care of the node.

use argh::{ArgsInfo, FromArgs};
use bib_core::api::{ErrorCode, Request};
use serde_json::json;

use crate::Context;
use crate::client::Client;
use crate::error::{CliError, Result};

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
    Shutdown(ShutdownArgs),
}

/// stop the node after it has ended what it is doing
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "shutdown", help_triggers("-h", "--help"), example = "{command_name}\n{command_name} --yes")]
struct ShutdownArgs {}

pub(crate) fn run(ctx: &Context, args: &AdminArgs) -> Result<()> {
    match &args.command {
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
        return ctx.ui.json(&json!({ "stopping": true }));
    }
    ctx.ui.note("the node is stopping");
    Ok(())
}
