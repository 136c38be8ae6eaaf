//! `bib dataset pin`, `unpin` and `pins`: content that the node keeps whatever becomes of its versions.

use argh::{ArgsInfo, FromArgs};
use bib_core::api::care::Pinned;
use bib_core::api::request::Paging;
use bib_core::api::{Event, Request};

use crate::Context;
use crate::client::Client;
use crate::commands::{default_limit, limit, print_page, reference};
use crate::error::Result;
use crate::keys::Need;
use crate::render::human::{minute, size};
use crate::render::json;
use crate::render::table::{Align, Table};

/// keep the content of a version at the node, whatever becomes of the version
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "pin", help_triggers("-h", "--help"), example = "{command_name} weather/daily/temps@1.2.0")]
pub(crate) struct PinArgs {
    /// the dataset, and the version if not the latest
    #[argh(positional)]
    reference: String,
}

/// keep pinned content no longer than its versions
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "unpin", help_triggers("-h", "--help"), example = "{command_name} weather/daily/temps@1.2.0")]
pub(crate) struct UnpinArgs {
    /// as `bib dataset pins` lists it, or its manifest
    #[argh(positional)]
    reference: String,
}

/// list pinned content
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "pins", help_triggers("-h", "--help"), example = "{command_name}\n{command_name} --json")]
pub(crate) struct PinsArgs {
    /// how many to list
    #[argh(option, arg_name = "n", default = "default_limit()", from_str_fn(limit))]
    limit: u32,

    /// how many to skip
    #[argh(option, arg_name = "n", default = "0")]
    offset: u32,
}

fn pinned(event: Event) -> Option<Pinned> {
    match event {
        Event::Pinned(pinned) => Some(pinned),
        _ => None,
    }
}

pub(crate) fn pin(ctx: &Context, args: &PinArgs) -> Result<()> {
    let reference = reference(&args.reference)?;
    let done = Client::open(ctx, Need::Wanted)?.one(Request::Pin(reference), pinned)?;
    if ctx.ui.is_json() {
        return ctx.ui.json(&json::pinned(&done));
    }
    ctx.ui.line(&format!("{} is kept at this node", done.kept.reference))?;
    if !done.here {
        ctx.ui.note("not all of it is here; `bib get` fetches it");
    }
    Ok(())
}

pub(crate) fn unpin(ctx: &Context, args: &UnpinArgs) -> Result<()> {
    let done = Client::open(ctx, Need::Wanted)?.one(Request::Unpin { what: args.reference.clone() }, pinned)?;
    if ctx.ui.is_json() {
        return ctx.ui.json(&json::pinned(&done));
    }
    ctx.ui.line(&format!("{} is kept no longer than its versions", done.kept.reference))
}

pub(crate) fn list(ctx: &Context, args: &PinsArgs) -> Result<()> {
    let paging = Paging { limit: args.limit, offset: args.offset };
    let mut client = Client::open(ctx, Need::IfReady)?;
    let mut call = client.call(Request::Pins(paging))?;
    let mut table = Table::new(&[
        ("VERSION", Align::Name),
        ("SIZE", Align::Right),
        ("SINCE", Align::Left),
        ("HERE", Align::Left),
        ("MANIFEST", Align::Left),
    ]);
    let (mut total, mut shown) = (None, 0);
    while let Some(event) = call.next()? {
        match event {
            Event::Total(n) => total = Some(n),
            Event::Pinned(pinned) if ctx.ui.is_json() => ctx.ui.json(&json::pinned(&pinned))?,
            Event::Pinned(Pinned { manifest, kept, here }) => {
                shown += 1;
                let here = if here { "yes" } else { "" }.to_owned();
                table.row(vec![kept.reference, size(kept.size), minute(kept.since), here, manifest.short()]);
            }
            _ => {}
        }
    }
    if ctx.ui.is_json() {
        return Ok(());
    }
    print_page(ctx, &table, paging, shown, total, "nothing is pinned; `bib dataset pin <reference>` does it")
}
