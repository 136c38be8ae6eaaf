//! Developer verbs: `cargo xtask <verb>`. They need nothing but Rust and a C compiler.

mod process;
mod rules;
mod verify;

use std::process::ExitCode;

use argh::FromArgs;

/// Developer verbs of bib.
#[derive(FromArgs)]
struct Args {
    #[argh(subcommand)]
    verb: Verb,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Verb {
    Test(Test),
    Verify(Verify),
    Fix(Fix),
    Fuzz(Fuzz),
}

/// Everything that must hold, as CI runs it.
#[derive(FromArgs)]
#[argh(subcommand, name = "test")]
struct Test {}

/// Format, lints, docs, dependency rules and a few seconds of each fuzz target; writes nothing to the sources.
#[derive(FromArgs)]
#[argh(subcommand, name = "verify")]
struct Verify {}

/// Formats the sources and applies what the lints can mend.
#[derive(FromArgs)]
#[argh(subcommand, name = "fix")]
struct Fix {}

/// Runs the fuzz targets at length.
#[derive(FromArgs)]
#[argh(subcommand, name = "fuzz")]
struct Fuzz {
    /// seconds for each target (default 60)
    #[argh(option, default = "60")]
    seconds: u64,
    /// only this target
    #[argh(option)]
    target: Option<String>,
}

fn main() -> ExitCode {
    let args: Args = argh::from_env();
    let result = match args.verb {
        Verb::Test(_) => verify::run().and_then(|()| verify::tests()),
        Verb::Verify(_) => verify::run(),
        Verb::Fix(_) => verify::fix(),
        Verb::Fuzz(args) => verify::fuzz(args.seconds, args.target.as_deref()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}
