//! `bib config`: what is configured, and where it comes from.

use argh::{ArgsInfo, FromArgs};
use bib_core::api::{Event, Request};
use serde_json::json;

use crate::Context;
use crate::client::Client;
use crate::commands::print_table;
use crate::config;
use crate::error::Result;
use crate::render::table::{Align, Table};

/// show the configuration
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "config", help_triggers("-h", "--help"))]
pub(crate) struct ConfigArgs {
    #[argh(subcommand)]
    command: ConfigCommand,
}

#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
enum ConfigCommand {
    Show(ShowArgs),
    Path(PathArgs),
}

/// show the values in force
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "show",
    help_triggers("-h", "--help"),
    example = "{command_name} --origin\n{command_name} --daemon --origin"
)]
struct ShowArgs {
    /// also where each value comes from
    #[argh(switch)]
    origin: bool,

    /// those of the node instead of those of bib
    #[argh(switch)]
    daemon: bool,
}

/// show which files are read, the later ones winning
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "path", help_triggers("-h", "--help"), example = "{command_name}")]
struct PathArgs {}

pub(crate) fn run(ctx: &Context, args: ConfigArgs) -> Result<()> {
    match args.command {
        ConfigCommand::Show(args) => show(ctx, &args),
        ConfigCommand::Path(_) => path(ctx),
    }
}

struct Row {
    key: String,
    /// As TOML.
    value: String,
    origin: String,
}

fn show(ctx: &Context, args: &ShowArgs) -> Result<()> {
    let mut rows = Vec::new();
    if args.daemon {
        let mut client = Client::open_as_operator(ctx)?;
        let mut call = client.call(Request::Config)?;
        while let Some(event) = call.next()? {
            if let Event::ConfigValue(value) = event {
                rows.push(Row { key: value.key, value: value.value, origin: value.origin });
            }
        }
    } else {
        rows.extend(ctx.config.settings().iter().map(|setting| Row {
            key: setting.key.to_owned(),
            value: toml::Value::from(setting.value.as_str()).to_string(),
            origin: setting.origin.clone(),
        }));
    }
    if ctx.ui.is_json() {
        for row in rows {
            ctx.ui.json(&json!({ "key": row.key, "value": plain(&row.value), "origin": row.origin }))?;
        }
        return Ok(());
    }
    if !args.origin {
        for row in rows {
            ctx.ui.line(&format!("{} = {}", row.key, row.value))?;
        }
        return Ok(());
    }
    let mut table = Table::new(&[("KEY", Align::Name), ("VALUE", Align::Name), ("ORIGIN", Align::Left)]);
    for row in rows {
        table.row(vec![row.key, row.value, row.origin]);
    }
    print_table(ctx, &table)
}

/// A value that is written as TOML.
fn plain(value: &str) -> serde_json::Value {
    let parsed = toml::from_str::<toml::Table>(&format!("value = {value}")).ok();
    let parsed = parsed.and_then(|table| serde_json::to_value(table.get("value")?).ok());
    parsed.unwrap_or_else(|| value.into())
}

fn path(ctx: &Context) -> Result<()> {
    for path in config::files(&ctx.globals, &ctx.environment) {
        let exists = path.exists();
        if ctx.ui.is_json() {
            ctx.ui.json(&json!({ "file": path, "exists": exists }))?;
        } else {
            ctx.ui.line(&format!("{}{}", path.display(), if exists { "" } else { " (not there)" }))?;
        }
    }
    Ok(())
}
