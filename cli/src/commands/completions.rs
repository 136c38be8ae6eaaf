//! `bib completions`: scripts for shells, made from the same declarations as the parser and the help.

use argh::{ArgsInfo, FromArgs};
use bib_usage::Shell;

use crate::error::Result;
use crate::{Context, args};

/// print the completions for a shell
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "completions",
    help_triggers("-h", "--help"),
    example = "{command_name} bash > ~/.local/share/bash-completion/completions/bib\n\
    {command_name} zsh > ~/.zfunc/_bib\n\
    {command_name} fish > ~/.config/fish/completions/bib.fish"
)]
pub(crate) struct CompletionsArgs {
    /// bash, zsh or fish
    #[argh(positional)]
    shell: Shell,
}

pub(crate) fn run(ctx: &Context, args: &CompletionsArgs) -> Result<()> {
    ctx.ui.line(bib_usage::completions(&args::program(), args.shell).trim_end())
}
