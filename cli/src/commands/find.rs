//! `bib find`: searches the catalog.

use argh::{ArgsInfo, FromArgs};
use bib_core::api::request::Paging;
use bib_core::api::{Event, Request};
use bib_core::model::ContentFormat;
use bib_core::wire::message::FindQuery;

use crate::Context;
use crate::client::Client;
use crate::commands::{default_limit, limit, print_page, topic_path};
use crate::error::Result;
use crate::keys::Need;
use crate::render::human::{minute, size};
use crate::render::json;
use crate::render::table::{Align, Table};

/// search datasets
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "find",
    help_triggers("-h", "--help"),
    example = "{command_name} temperature\n{command_name} --topic weather --format csv\n{command_name} --tag climate --json"
)]
pub(crate) struct FindArgs {
    /// words in the name, description or tags; all must be there
    #[argh(positional)]
    text: Vec<String>,

    /// only with this label
    #[argh(option, arg_name = "label")]
    tag: Option<String>,

    /// only whose latest version is csv, tsv, jsonl, json, parquet, text, binary or tree
    #[argh(option, arg_name = "format")]
    format: Option<ContentFormat>,

    /// only in this topic and below
    #[argh(option, arg_name = "topic")]
    topic: Option<String>,

    /// how many to list
    #[argh(option, arg_name = "n", default = "default_limit()", from_str_fn(limit))]
    limit: u32,

    /// how many to skip
    #[argh(option, arg_name = "n", default = "0")]
    offset: u32,
}

pub(crate) fn run(ctx: &Context, args: FindArgs) -> Result<()> {
    let topic = args.topic.as_deref().map(topic_path).transpose()?.map(|topic| topic.to_string());
    let paging = Paging { limit: args.limit, offset: args.offset };
    let query = FindQuery {
        text: (!args.text.is_empty()).then(|| args.text.join(" ")),
        topic,
        tag: args.tag,
        format: args.format,
        limit: args.limit,
        offset: args.offset,
    };
    let mut client = Client::open(ctx, Need::IfReady)?;
    let mut call = client.call(Request::Find(query))?;
    let mut table = Table::new(&[
        ("DATASET", Align::Name),
        ("VERSION", Align::Name),
        ("FORMAT", Align::Left),
        ("SIZE", Align::Right),
        ("UPDATED", Align::Left),
    ]);
    let (mut total, mut shown) = (None, 0);
    while let Some(event) = call.next()? {
        match event {
            Event::Total(n) => total = Some(n),
            Event::Found(entry) if ctx.ui.is_json() => ctx.ui.json(&json::found(&entry))?,
            Event::Found(entry) => {
                shown += 1;
                let version = entry.version.as_ref();
                table.row(vec![
                    entry.path.clone(),
                    version.map_or_else(String::new, |version| version.semver.to_string()),
                    version.map_or_else(String::new, |version| version.format.to_string()),
                    version.map_or_else(String::new, |version| size(version.size)),
                    minute(entry.updated_at),
                ]);
            }
            _ => {}
        }
    }
    if ctx.ui.is_json() {
        return Ok(());
    }
    print_page(ctx, &table, paging, shown, total, "nothing found; `bib dataset list` shows everything")
}
