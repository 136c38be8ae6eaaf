//! The verbs, one file each: its arguments with their help, and what it does.

pub(crate) mod admin;
pub(crate) mod cat;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod dataset;
pub(crate) mod find;
pub(crate) mod get;
pub(crate) mod key;
mod lifecycle;
pub(crate) mod ls;
pub(crate) mod man;
pub(crate) mod peer;
mod pins;
pub(crate) mod publish;
pub(crate) mod status;
pub(crate) mod topic;
mod verify;
pub(crate) mod version;
pub(crate) mod whoami;

use bib_core::api::request::Paging;
use bib_core::limits::DEFAULT_PAGE;
use bib_core::model::{Reference, TopicPath};

use crate::Context;
use crate::args::Command;
use crate::error::{CliError, Result};
use crate::render::human;
use crate::render::table::Table;

/// Does what was asked for.
pub(crate) fn run(ctx: &Context, command: Command) -> Result<()> {
    match command {
        Command::Key(args) => key::run(ctx, args),
        Command::Whoami(args) => whoami::run(ctx, &args),
        Command::Status(args) => status::run(ctx, &args),
        Command::Topic(args) => topic::run(ctx, args),
        Command::Publish(args) => publish::run(ctx, &args),
        Command::Dataset(args) => dataset::run(ctx, args),
        Command::Ls(args) => ls::run(ctx, &args),
        Command::Cat(args) => cat::run(ctx, &args),
        Command::Get(args) => get::run(ctx, &args),
        Command::Find(args) => find::run(ctx, args),
        Command::Peer(args) => peer::run(ctx, args),
        Command::Config(args) => config::run(ctx, args),
        Command::Admin(args) => admin::run(ctx, &args),
        Command::Completions(args) => completions::run(ctx, &args),
        Command::Man(args) => man::run(ctx, &args),
        Command::Version(args) => version::run(ctx, &args),
    }
}

/// Items of a list unless `--limit` says otherwise.
pub(crate) const fn default_limit() -> u32 {
    DEFAULT_PAGE
}

/// The value of `--limit`.
pub(crate) fn limit(text: &str) -> std::result::Result<u32, String> {
    match text.parse() {
        Ok(0) => Err("nothing would be listed; the least is 1".to_owned()),
        Ok(limit) => Ok(limit),
        Err(_) => Err(format!("`{text}` is no number of things to list, such as 20")),
    }
}

fn reference(text: &str) -> Result<Reference> {
    text.parse().map_err(|error: bib_core::model::ReferenceError| {
        CliError::invalid(error.to_string()).hint("a reference looks like weather/daily/temps@1.2.0:2024/january.csv")
    })
}

fn topic_path(text: &str) -> Result<TopicPath> {
    text.parse().map_err(|error: bib_core::model::ReferenceError| {
        CliError::invalid(error.to_string()).hint("a topic looks like weather or weather/daily")
    })
}

/// Prints a table, and how to see the rest when there is more.
fn print_page(
    ctx: &Context,
    table: &Table,
    paging: Paging,
    shown: usize,
    total: Option<u64>,
    nothing: &str,
) -> Result<()> {
    if table.is_empty() {
        match total {
            Some(total) if total > 0 && paging.offset > 0 => {
                ctx.ui.note(&format!(
                    "nothing at --offset {}: there are {} in all",
                    paging.offset,
                    human::count(total)
                ));
            }
            _ => ctx.ui.note(nothing),
        }
        return Ok(());
    }
    print_table(ctx, table)?;
    let end = u64::from(paging.offset) + shown as u64;
    if let Some(total) = total
        && total > end
    {
        ctx.ui.note(&format!("{end} of {}; the next ones: --offset {end}", human::count(total)));
    }
    Ok(())
}

fn print_table(ctx: &Context, table: &Table) -> Result<()> {
    for (i, line) in table.lines(ctx.ui.width()).iter().enumerate() {
        ctx.ui.line(&if i == 0 { ctx.ui.bold(line) } else { line.clone() })?;
    }
    Ok(())
}

/// Prints names and values below each other; what has no value is left out.
fn print_fields(ctx: &Context, fields: &[(&str, Option<String>)]) -> Result<()> {
    let shown: Vec<(&str, &String)> = fields
        .iter()
        .filter_map(|(name, value)| Some((*name, value.as_ref().filter(|value| !value.is_empty())?)))
        .collect();
    let widest = shown.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in shown {
        let indented = crate::ui::printable(value).replace('\n', &format!("\n{}", " ".repeat(widest + 2)));
        ctx.ui.line(&format!("{}{}  {indented}", ctx.ui.bold(name), " ".repeat(widest - name.len())))?;
    }
    Ok(())
}
