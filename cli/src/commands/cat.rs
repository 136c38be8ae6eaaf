//! `bib cat`: the bytes of one file to stdout.

use std::str::FromStr;

use argh::{ArgsInfo, FromArgs};
use bib_core::api::{ErrorCode, Event, Request};
use bib_core::hash::Hasher;

use crate::Context;
use crate::client::Client;
use crate::commands::reference;
use crate::error::{CliError, Result};
use crate::keys::Need;
use crate::progress::Bar;

/// print a file of a version
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "cat",
    help_triggers("-h", "--help"),
    example = "{command_name} weather/daily/temps\n\
    {command_name} weather/daily/temps@1.2.0:2024/january.csv | head\n\
    {command_name} --range 0-1023 weather/daily/temps"
)]
pub(crate) struct CatArgs {
    /// the version, and the path unless it has one file
    #[argh(positional)]
    reference: String,

    /// bytes from-to, both included and counted from 0; without `to` up to the end
    #[argh(option, arg_name = "from-to")]
    range: Option<ByteRange>,
}

/// A range of bytes: where it begins and how long it is at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByteRange {
    offset: u64,
    len: Option<u64>,
}

impl FromStr for ByteRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("`{text}` is not a range: expected for instance 0-1023 or 1024-");
        let (from, to) = text.split_once('-').ok_or_else(refuse)?;
        let offset: u64 = from.parse().map_err(|_| refuse())?;
        if to.is_empty() {
            return Ok(Self { offset, len: None });
        }
        let last: u64 = to.parse().map_err(|_| refuse())?;
        let len = last.checked_sub(offset).and_then(|len| len.checked_add(1)).ok_or_else(refuse)?;
        Ok(Self { offset, len: Some(len) })
    }
}

pub(crate) fn run(ctx: &Context, args: &CatArgs) -> Result<()> {
    let reference = reference(&args.reference)?;
    let ByteRange { offset, len } = args.range.unwrap_or(ByteRange { offset: 0, len: None });
    let mut client = Client::open(ctx, Need::IfReady)?;
    stream(ctx, &mut client, Request::Read { reference, offset, len })
}

/// Streams the one file that a request reads; when that is the whole file, its hash is checked in passing.
pub(crate) fn stream(ctx: &Context, client: &mut Client, request: Request) -> Result<()> {
    let whole = matches!(request, Request::Read { offset: 0, len: None, .. });
    let mut bar = Bar::new(ctx.ui, "fetching", None);
    let mut call = client.long_call(request)?;
    let (mut expected, mut hasher) = (None, Hasher::new());
    while let Some(event) = call.next()? {
        match event {
            Event::Progress(progress) => bar.update(&progress),
            Event::Warning(warning) => {
                bar.clear();
                ctx.ui.warn(&warning.message);
            }
            Event::Entry(entry) => expected = Some(entry.content),
            Event::Data(bytes) => {
                bar.clear();
                hasher.update(&bytes);
                ctx.ui.bytes(&bytes)?;
            }
            _ => {}
        }
    }
    ctx.ui.flush()?;
    match expected {
        Some(content) if whole && hasher.finish() != *content.as_bytes() => {
            Err(CliError::new(ErrorCode::Integrity, "the bytes that were printed are not those that the version names"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_include_both_ends() {
        assert_eq!("0-0".parse(), Ok(ByteRange { offset: 0, len: Some(1) }));
        assert_eq!("5-9".parse(), Ok(ByteRange { offset: 5, len: Some(5) }));
        assert_eq!("7-".parse(), Ok(ByteRange { offset: 7, len: None }));
        for wrong in ["", "-", "5", "-5", "9-5", "a-b", "0-18446744073709551615", "0-1-2"] {
            assert!(wrong.parse::<ByteRange>().is_err(), "{wrong}");
        }
    }
}
