//! `bibd`, the daemon of bib: arguments, configuration, log, run.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use argh::FromArgs;
use bib_node::config::{Config, Sources, Surroundings, Value, layer};
use bib_node::offline::{self, Streams, Verb};
use bib_node::{NodeBuilder, Spawner, logging, signals};

/// bibd keeps datasets and shares them with other nodes. `bib` talks to it.
#[derive(FromArgs, Debug)]
#[argh(
    help_triggers("-h", "--help"),
    example = "{command_name}\n\
    {command_name} --data-dir /srv/bib --listen /ip4/0.0.0.0/tcp/4001\n\
    {command_name} --peer /ip4/192.168.1.20/tcp/4001 --log-level debug\n\
    {command_name} identity --data-dir /srv/bib",
    note = "Settings come from /etc/bib/bibd.toml, $XDG_CONFIG_HOME/bib/bibd.toml (or --config),\n\
    BIBD_* variables and flags, the later ones winning. `bibd --settings` explains them all.",
    note = "SIGHUP reads the configuration again; SIGTERM stops after draining.",
    note = "With a command it does that with the data directory, while no node runs on it, and ends."
)]
struct Args {
    /// read this configuration file instead of the user's
    #[argh(option, arg_name = "file")]
    config: Option<PathBuf>,
    /// where everything is kept
    #[argh(option, arg_name = "folder")]
    data_dir: Option<String>,
    /// listen for other nodes here; may be repeated
    #[argh(option, arg_name = "multiaddr")]
    listen: Vec<String>,
    /// listen for bib here
    #[argh(option, arg_name = "path")]
    socket: Option<String>,
    /// stay connected to this node; may be repeated
    #[argh(option, arg_name = "multiaddr")]
    peer: Vec<String>,
    /// error, warn, info, debug or trace
    #[argh(option, arg_name = "level")]
    log_level: Option<String>,
    /// print all settings with what they mean
    #[argh(switch)]
    settings: bool,
    /// print the version
    #[argh(switch)]
    version: bool,
    #[argh(subcommand)]
    verb: Option<Verb>,
}

fn sources(args: &mut Args) -> Sources {
    let vars =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let host_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let around = Surroundings { vars: vars.collect(), uid: rustix::process::geteuid().as_raw(), host_name };
    let text = |flag, key, value: Option<String>| value.map(|value| (flag, key, Value::Text(value)));
    let list = |flag, key, values: Vec<String>| (!values.is_empty()).then_some((flag, key, Value::List(values)));
    let of_verb = args.verb.as_ref().and_then(Verb::data_dir).map(str::to_owned);
    let flags = [
        text("--data-dir", "storage.data_dir", of_verb.or(args.data_dir.take())),
        list("--listen", "p2p.listen", std::mem::take(&mut args.listen)),
        text("--socket", "control.socket", args.socket.take()),
        list("--peer", "p2p.peers", std::mem::take(&mut args.peer)),
        text("--log-level", "log.level", args.log_level.take()),
    ];
    Sources { file: args.config.take(), flags: flags.into_iter().flatten().collect(), around }
}

#[allow(clippy::print_stdout, reason = "what was asked for is the output")]
fn main() -> ExitCode {
    let mut args: Args = argh::from_env();
    if args.version || args.settings {
        print!("{}", if args.version { concat!("bibd ", env!("CARGO_PKG_VERSION"), "\n") } else { layer::DEFAULTS });
        return ExitCode::SUCCESS;
    }
    let sources = sources(&mut args);
    // What the node writes is its own business.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let config = match sources.load() {
        Ok(config) => config,
        Err(error) => return fail(&error, &error.hint(), 2),
    };
    logging::init(&config);
    if let Some(verb) = &args.verb {
        return without_node(verb, &config);
    }
    let spawner = Spawner::new();
    let signals = match signals::take() {
        Ok(signals) => signals,
        Err(error) => return fail(&error, "this system does not let bibd hear signals", 1),
    };
    match NodeBuilder::new(config).reload_from(sources).start(&spawner) {
        Ok(node) => {
            spawner.spawn("signals", signals::obey(signals, node.handle())).detach();
            spawner.block_on(node.run());
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error, &error.hint(), 1),
    }
}

fn without_node(verb: &Verb, config: &Config) -> ExitCode {
    let mut out = std::io::stdout().lock();
    let mut streams = Streams { input: &mut std::io::stdin().lock(), out: &mut out, err: &mut std::io::stderr() };
    let done = offline::run(verb, config, &mut streams);
    // Whoever does not read the result has what was done all the same.
    let _ = out.flush();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let hint = failure.hint.as_deref().unwrap_or("`bibd --help` shows how");
            fail(&failure, hint, failure.code.exit_code())
        }
    }
}

#[allow(clippy::print_stderr, reason = "why the daemon does not start is for whoever started it")]
fn fail(error: &dyn std::error::Error, hint: &str, code: u8) -> ExitCode {
    eprintln!("bibd: {error}\nhint: {hint}");
    ExitCode::from(code)
}
