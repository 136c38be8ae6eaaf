//! `bib ls`: the files of a version. Printed as they come, so a version of any size can be listed.

use argh::{ArgsInfo, FromArgs};
use bib_core::api::{Event, Request};
use bib_core::model::manifest::EntryKind;

use crate::Context;
use crate::client::Client;
use crate::commands::reference;
use crate::error::Result;
use crate::keys::Need;
use crate::render::{human, json};
use crate::ui::printable;

/// list the files of a version
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "ls",
    help_triggers("-h", "--help"),
    example = "{command_name} weather/daily/temps\n{command_name} -l weather/daily/temps@1.2.0:2024"
)]
pub(crate) struct LsArgs {
    /// the version, and the folder if not everything
    #[argh(positional)]
    reference: String,

    /// also what each is, its size and the beginning of its content id
    #[argh(switch, short = 'l')]
    long: bool,
}

pub(crate) fn run(ctx: &Context, args: &LsArgs) -> Result<()> {
    let reference = reference(&args.reference)?;
    let mut client = Client::open(ctx, Need::IfReady)?;
    let mut call = client.long_call(Request::Entries { reference })?;
    while let Some(event) = call.next()? {
        let Event::Entry(entry) = event else { continue };
        if ctx.ui.is_json() {
            ctx.ui.json(&json::entry(&entry))?;
            continue;
        }
        let (mark, slash) = match entry.kind {
            EntryKind::File => ("-", ""),
            EntryKind::Executable => ("x", ""),
            EntryKind::EmptyDir => ("d", "/"),
        };
        // One entry is one line.
        let path = printable(entry.path.as_str()).replace('\n', "\u{fffd}");
        if args.long {
            let size = human::size(entry.size);
            ctx.ui.line(&format!("{mark}  {size:>10}  {}  {path}{slash}", entry.content.short()))?;
        } else {
            ctx.ui.line(&format!("{path}{slash}"))?;
        }
    }
    Ok(())
}
