//! What a program says of itself to shells and to `man`: completions and manual pages, made from the declarations of
//! its parser, which also make its help.
//!
//! Invariant: the same declarations give the same bytes; nothing is read and no time is known.
//!
//! Deliberately absent: the declarations themselves, and the writing of files.

mod completions;
mod man;

use std::str::FromStr;

use argh::CommandInfoWithArgs;

pub use completions::completions;
pub use man::{Section, page, settings_page};

/// A flag that every command of a program takes.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// `--name`.
    pub long: &'static str,
    /// Its letter, if it has one.
    pub short: Option<char>,
    /// Name of its value, if it takes one.
    pub value: Option<&'static str>,
    /// What it is for.
    pub help: &'static str,
}

/// A program with what it takes.
#[derive(Debug)]
pub struct Program<'a> {
    /// What is typed to run it.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// What it is, in a few words: the line that `apropos` shows.
    pub about: &'static str,
    /// Flags that all commands take.
    pub globals: &'a [Flag],
    /// What its parser declares.
    pub info: CommandInfoWithArgs,
}

/// A shell that there are completions for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shell {
    /// GNU bash.
    Bash,
    /// The Z shell.
    Zsh,
    /// fish.
    Fish,
}

impl FromStr for Shell {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "bash" => Ok(Self::Bash),
            "zsh" => Ok(Self::Zsh),
            "fish" => Ok(Self::Fish),
            _ => Err(format!("`{text}` is none of bash, zsh, fish")),
        }
    }
}

#[cfg(test)]
mod example {
    use argh::{ArgsInfo, FromArgs};

    use super::{Flag, Program};

    /// keeps shelves in order
    #[derive(FromArgs, ArgsInfo)]
    #[argh(help_triggers("-h", "--help"), example = "{command_name} shelf add -m \"it's new\"")]
    pub(crate) struct Tidy {
        #[argh(subcommand)]
        _verb: Verb,
    }

    #[derive(FromArgs, ArgsInfo)]
    #[argh(subcommand)]
    #[expect(dead_code, reason = "declared, never parsed")]
    enum Verb {
        Shelf(Shelf),
    }

    /// what is on shelves
    #[derive(FromArgs, ArgsInfo)]
    #[argh(subcommand, name = "shelf")]
    struct Shelf {
        #[argh(subcommand)]
        _verb: OfShelf,
    }

    #[derive(FromArgs, ArgsInfo)]
    #[argh(subcommand)]
    #[expect(dead_code, reason = "declared, never parsed")]
    enum OfShelf {
        Add(Add),
    }

    /// put books on `it`
    #[derive(FromArgs, ArgsInfo)]
    #[argh(subcommand, name = "add", note = ".first of a line, and a \\ in `it`")]
    struct Add {
        /// why
        #[argh(option, short = 'm', arg_name = "text")]
        _message: Option<String>,
        /// on this one
        #[argh(option, arg_name = "number")]
        _shelf: u32,
        /// what to put there
        #[argh(positional)]
        _book: Vec<String>,
    }

    pub(crate) fn program() -> Program<'static> {
        const GLOBALS: &[Flag] =
            &[Flag { long: "--wait", short: Some('w'), value: Some("time"), help: "wait at most so long" }];
        Program {
            name: "tidy",
            version: "1.2.3",
            about: "keeps shelves",
            globals: GLOBALS,
            info: Tidy::get_args_info(),
        }
    }
}
