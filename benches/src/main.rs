//! `bib-bench`: the measurements that `cargo xtask budget` runs on release builds.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a developer's program: this is its output")]

use std::path::PathBuf;
use std::process::ExitCode;

use bib_benches::budget::{self, Bench};
use bib_benches::lab::Programs;

/// Measures the numbers that the README shows.
#[derive(argh::FromArgs)]
struct Args {
    /// the folder with bib and bibd
    #[argh(option)]
    programs: PathBuf,
    /// where other programs are installed for comparison
    #[argh(option)]
    tools: PathBuf,
    /// crates in the default build, counted by the caller
    #[argh(option)]
    crates: Option<u64>,
    /// measure only these; `list` names all
    #[argh(positional)]
    only: Vec<String>,
}

fn main() -> ExitCode {
    let args: Args = argh::from_env();
    if args.only.iter().any(|name| name == "list") {
        for (name, about, _) in budget::ALL {
            println!("{name:<15} {about}");
        }
        return ExitCode::SUCCESS;
    }
    let bench = Programs::in_dir(&args.programs).map(|programs| Bench::new(programs, args.tools, args.crates));
    match bench.and_then(|mut bench| bench.run(&args.only)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bib-bench: {failure}");
            ExitCode::FAILURE
        }
    }
}
