//! `bib man`: the manual page, made from the same declarations as the parser and the help.

use argh::{ArgsInfo, FromArgs};
use bib_usage::Section;

use crate::error::Result;
use crate::{Context, args};

/// print the manual page, for `man`
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    subcommand,
    name = "man",
    help_triggers("-h", "--help"),
    example = "{command_name} | man -l -\n\
    {command_name} > ~/.local/share/man/man1/bib.1"
)]
pub(crate) struct ManArgs {}

/// What no declaration says.
const MORE: [Section<'_>; 4] = [
    (
        "EXIT STATUS",
        &[
            ("0", "Done."),
            ("1", "Refused by the state of things: it exists, a conflict, a quota, busy, and so on."),
            ("2", "The request is wrong as typed."),
            ("3", "Not found."),
            ("4", "No node answers on the socket."),
            ("5", "Not allowed."),
            ("6", "Bytes are not what they should be."),
            ("7", "It took too long."),
            ("70", "A defect of the program."),
        ],
    ),
    (
        "ENVIRONMENT",
        &[(
            "BIB_TABLE__KEY",
            "A setting: `BIB_NODE__DEFAULT` is `node.default`. `bib config show --origin` shows all of them.",
        )],
    ),
    (
        "FILES",
        &[
            ("/etc/bib/bib.toml", "Settings for all users."),
            ("~/.config/bib/bib.toml", "Settings of the user."),
            ("~/.config/bib/user.key", "The key that the user signs with. Nobody can make it again: keep a copy."),
            ("/run/bib/bibd.sock", "The socket of the node that runs as a service; members of the group bib reach it."),
        ],
    ),
    ("SEE ALSO", &[("bibd(8), bibd.toml(5)", "The node and its settings.")]),
];

pub(crate) fn run(ctx: &Context, _args: &ManArgs) -> Result<()> {
    ctx.ui.line(bib_usage::page(&args::program(), 1, &MORE).trim_end())
}
