//! `bib dataset verify`: reads all of a version at the node and says which files are not whole.

use argh::{ArgsInfo, FromArgs};
use bib_core::api::{ErrorCode, Event, Request};

use crate::Context;
use crate::client::Client;
use crate::commands::{print_table, reference};
use crate::error::{CliError, Result};
use crate::keys::Need;
use crate::progress::Bar;
use crate::render::human::{count, n, size};
use crate::render::json;
use crate::render::table::{Align, Table};

/// read and check all content of a version at the node
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "verify",
    help_triggers("-h", "--help"),
    example = "{command_name} weather/daily/temps\n{command_name} weather/daily/temps@1.2.0 --repair"
)]
pub(crate) struct VerifyArgs {
    /// the dataset, and the version if not the latest
    #[argh(positional)]
    reference: String,

    /// fetch what is damaged or missing from peers
    #[argh(switch)]
    repair: bool,
}

pub(crate) fn run(ctx: &Context, args: &VerifyArgs) -> Result<()> {
    let reference = reference(&args.reference)?;
    let mut client = Client::open(ctx, Need::IfReady)?;
    let mut bar = Bar::new(ctx.ui, "checking", None);
    let mut table = Table::new(&[("FILE", Align::Name), ("DAMAGED", Align::Right), ("MISSING", Align::Right)]);
    let mut verified = None;
    let mut call = client.long_call(Request::Verify { reference, repair: args.repair })?;
    let failed = loop {
        match call.next() {
            Ok(Some(Event::Progress(progress))) => bar.update(&progress),
            Ok(Some(Event::Hurt(hurt))) if ctx.ui.is_json() => ctx.ui.json(&json::hurt(&hurt))?,
            Ok(Some(Event::Hurt(hurt))) => table.row(vec![
                hurt.path.map_or_else(|| "(the list of files)".to_owned(), |path| path.to_string()),
                count(hurt.damaged),
                count(hurt.missing),
            ]),
            Ok(Some(Event::Verified(done))) => verified = Some(done),
            Ok(Some(_)) => {}
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    bar.clear();
    if !table.is_empty() {
        print_table(ctx, &table)?;
    }
    if let Some(error) = failed {
        return Err(error);
    }
    let verified =
        verified.ok_or_else(|| CliError::new(ErrorCode::Internal, "the node did not say what the check came to"))?;
    if ctx.ui.is_json() {
        return ctx.ui.json(&json::verified(&verified));
    }
    let fetched = if verified.fetched > 0 {
        format!(", mended with {} from peers", size(verified.fetched))
    } else {
        String::new()
    };
    ctx.ui.line(&format!(
        "{}: {} in {} are right{fetched}",
        verified.reference,
        size(verified.bytes),
        n(verified.chunks, "chunk")
    ))
}
