//! Runs the fuzz targets on their corpus: `bib-fuzz --seconds 3 [--target NAME] [--seed N]`, or one input again:
//! `bib-fuzz --target NAME --replay FILE`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use bib_sim::fuzz::{self, Target};

/// Runs the fuzz targets.
#[derive(argh::FromArgs)]
struct Args {
    /// seconds for each target
    #[argh(option, default = "3")]
    seconds: u64,
    /// only this target
    #[argh(option)]
    target: Option<String>,
    /// seed of the mutations
    #[argh(option, default = "1")]
    seed: u64,
    /// feed this one file instead
    #[argh(option)]
    replay: Option<PathBuf>,
    /// write the valid inputs of the corpus again and stop
    #[argh(switch)]
    bless: bool,
}

#[cfg(feature = "node")]
fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match bib_node::config::check_text(text) {
        Ok(config) => {
            // What is shown of it is a configuration with the same meaning.
            let shown: String =
                config.settings.iter().map(|setting| format!("{} = {}\n", setting.key, setting.value)).collect();
            let again = bib_node::config::check_text(&shown).expect("what is in force can be written down");
            assert!(config.changes(&again).is_empty(), "{shown}");
        }
        Err(error) => assert!(!error.to_string().is_empty() && !error.hint().is_empty()),
    }
}

fn targets() -> Vec<Target> {
    #[cfg(feature = "node")]
    let node =
        [Target { name: "config", run: config }, Target { name: "store_keys", run: bib_node::vault::check_bytes }];
    #[cfg(not(feature = "node"))]
    let node: [Target; 0] = [];
    fuzz::TARGETS.into_iter().chain(node).collect()
}

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "a developer's program: this is its output")]
fn main() -> ExitCode {
    let args: Args = argh::from_env();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let scratch = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/fuzz");
    if args.bless
        && let Err(error) = fuzz::corpus::write(&corpus)
    {
        eprintln!("bib-fuzz: {error}");
        return ExitCode::FAILURE;
    }
    if args.bless {
        return ExitCode::SUCCESS;
    }
    let wanted = |target: &Target| args.target.as_deref().is_none_or(|name| name == target.name);
    let targets: Vec<Target> = targets().into_iter().filter(wanted).collect();
    if targets.is_empty() {
        eprintln!("bib-fuzz: no such target");
        return ExitCode::FAILURE;
    }
    for target in targets {
        let result = match &args.replay {
            Some(path) => std::fs::read(path).map(|input| {
                (target.run)(&input);
                1
            }),
            None => fuzz::run(target, &corpus, &scratch, args.seed, Duration::from_secs(args.seconds)),
        };
        match result {
            Ok(n_inputs) => println!("   {:<20} {n_inputs} inputs", target.name),
            Err(error) => {
                eprintln!("bib-fuzz: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
