//! Developer verbs: `cargo xtask <verb>`. They need nothing but Rust and a C compiler.

mod demo;
mod dist;
mod drift;
mod emulate;
mod image;
mod plain_blake3;
mod process;
mod rules;
mod size;
mod supervise;
mod symbols;
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
    Demo(Demo),
    Test(Test),
    Verify(Verify),
    Fix(Fix),
    Budget(Budget),
    Sim(Sim),
    Size(Size),
    Fuzz(Fuzz),
    Dist(dist::Dist),
    Emulate(emulate::Emulate),
    Image(image::Image),
    Boot(image::Boot),
}

/// Takes one real dataset all the way between three nodes, and says what it measured.
#[derive(FromArgs)]
#[argh(subcommand, name = "demo")]
struct Demo {
    /// build what ships instead of what is quick to build
    #[argh(switch)]
    release: bool,
}

/// Everything that must hold, as CI runs it.
#[derive(FromArgs)]
#[argh(subcommand, name = "test")]
struct Test {
    /// leave out what runs on boards under emulation, which takes a Debian
    #[argh(switch)]
    without_boards: bool,
}

/// Format, lints, docs, dependency rules and a few seconds of each fuzz target; writes nothing to the sources.
#[derive(FromArgs)]
#[argh(subcommand, name = "verify")]
struct Verify {}

/// Formats the sources and applies what the lints can mend.
#[derive(FromArgs)]
#[argh(subcommand, name = "fix")]
struct Fix {}

/// Measures the numbers that the README shows, on release builds; takes some minutes and some GiB in the folder for
/// temporary files.
#[derive(FromArgs)]
#[argh(subcommand, name = "budget")]
struct Budget {
    /// measure only these, by name; `list` names all
    #[argh(positional)]
    only: Vec<String>,
}

/// Runs the simulation.
#[derive(FromArgs)]
#[argh(subcommand, name = "sim")]
struct Sim {
    /// how many seeds (default 200)
    #[argh(option, default = "200")]
    seeds: u64,
    /// only this seed
    #[argh(option)]
    seed: Option<u64>,
    /// power cuts under the stores instead, with so many survivors of each step (a run of the tests has six or fewer)
    #[argh(option)]
    cuts: Option<u64>,
}

/// Sizes of the release binaries and the crates in the tree.
#[derive(FromArgs)]
#[argh(subcommand, name = "size")]
struct Size {
    /// also the ten crates that each binary has most of; builds everything once more, with symbols
    #[argh(switch)]
    crates: bool,
    /// of the static programs for this target instead: arm64, armhf or amd64; may be repeated
    #[argh(option)]
    target: Vec<dist::target::Target>,
}

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
    let starts_nodes =
        matches!(args.verb, Verb::Demo(_) | Verb::Budget(_) | Verb::Emulate(_) | Verb::Test(_) | Verb::Boot(_));
    if starts_nodes && !supervise::is_supervised() {
        return supervise::supervise().unwrap_or_else(failed);
    }
    if starts_nodes {
        supervise::clean_up_after_supervisor();
    }
    let result = match args.verb {
        Verb::Demo(args) => demo::run(args.release),
        Verb::Test(args) => test(&args),
        Verb::Verify(_) => verify::run(),
        Verb::Fix(_) => verify::fix(),
        Verb::Budget(args) => verify::budget(&args.only),
        Verb::Sim(Sim { cuts: Some(survivors), .. }) => verify::cuts(survivors),
        Verb::Sim(args) => verify::sim(args.seeds, args.seed),
        Verb::Size(args) => size::run(args.crates, &args.target),
        Verb::Dist(args) => dist::run(&args),
        Verb::Emulate(args) => emulate::run(&args),
        Verb::Image(args) => image::image(&args),
        Verb::Boot(args) => image::boot(&args),
        Verb::Fuzz(args) => verify::fuzz(args.seconds, args.target.as_deref()),
    };
    result.map_or_else(failed, |()| ExitCode::SUCCESS)
}

fn test(args: &Test) -> bib_benches::Result<()> {
    verify::run()?;
    verify::tests()?;
    if args.without_boards { Ok(()) } else { emulate::all(&emulate::BOARDS) }
}

fn failed(failure: bib_benches::Failure) -> ExitCode {
    eprintln!("xtask: {failure}");
    ExitCode::FAILURE
}
