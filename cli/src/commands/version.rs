//! `bib version`.

use argh::{ArgsInfo, FromArgs};
use bib_core::api::API_VERSION;
use serde_json::json;

use crate::Context;
use crate::error::Result;

/// show the version of this program
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "version", help_triggers("-h", "--help"), example = "{command_name}")]
pub(crate) struct VersionArgs {}

pub(crate) fn run(ctx: &Context, _args: &VersionArgs) -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    if ctx.ui.is_json() {
        return ctx.ui.json(&json!({ "version": version, "control_api": API_VERSION }));
    }
    ctx.ui.line(&format!("bib {version}"))
}
