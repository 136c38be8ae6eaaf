//! `bibd`, the daemon of bib: arguments, configuration, log, run.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use argh::{ArgsInfo, FromArgs};
use bib_node::config::{Config, Sources, Surroundings, Value, layer};
use bib_node::offline::{self, Streams, Verb};
use bib_node::systemd::{self, Manager};
use bib_node::{NodeBuilder, Spawner, logging, signals};
use bib_usage::{Program, Section, Shell};

/// bibd keeps datasets and shares them with other nodes. `bib` talks to it.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    help_triggers("-h", "--help"),
    example = "{command_name}\n\
    {command_name} --data-dir /srv/bib --listen /ip4/0.0.0.0/tcp/4001\n\
    {command_name} --peer /ip4/192.168.1.20/tcp/4001 --log-level debug\n\
    {command_name} identity --data-dir /srv/bib",
    note = "Settings come from /etc/bib/bibd.toml, $XDG_CONFIG_HOME/bib/bibd.toml (or --config),\n\
    BIBD_* variables and flags, the later ones winning. `bibd --settings` explains them all.",
    note = "SIGHUP reads the configuration again; SIGTERM stops after draining. Started by systemd with Type=notify, bibd\n\
    tells it when it answers, reloads and stops, and that it is alive; in the journal, lines have their priority.",
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
    /// print the completions for a shell: bash, zsh or fish
    #[argh(option, arg_name = "shell")]
    completions: Option<Shell>,
    /// print a manual page, for `man`: bibd or bibd.toml
    #[argh(option, arg_name = "page")]
    man: Option<Page>,
    #[argh(subcommand)]
    verb: Option<Verb>,
}

/// A manual page.
#[derive(Debug, Clone, Copy)]
enum Page {
    Program,
    Settings,
}

impl FromStr for Page {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "bibd" => Ok(Self::Program),
            "bibd.toml" => Ok(Self::Settings),
            _ => Err(format!("`{text}` is none of bibd, bibd.toml")),
        }
    }
}

/// What no declaration says of the program.
const OF_PROGRAM: [Section<'_>; 4] = [
    (
        "SIGNALS",
        &[
            (
                "SIGTERM, SIGINT",
                "No new sessions; what users began is ended, at most 30 s. A second one stops it at once.",
            ),
            ("SIGHUP", "The settings are read again, all or nothing. Those marked (restart) wait for the next start."),
        ],
    ),
    (
        "EXIT STATUS",
        &[
            ("0", "It was stopped, or what was asked for is done."),
            ("1", "The node does not start; stderr says why, and what to do."),
            ("2", "The settings or the line are wrong."),
        ],
    ),
    (
        "FILES",
        &[
            ("/etc/bib/bibd.toml", "Settings of the machine: bibd.toml(5)."),
            (
                "/var/lib/bib",
                "Data of the service, and of a node that root runs. `identity.pem` in it is the node's key.",
            ),
            ("/run/bib/bibd.sock", "The socket for `bib`; members of the group bib reach that of the service."),
            ("~/.local/share/bib", "Data of a node that another user runs."),
        ],
    ),
    ("SEE ALSO", &[("bib(1), bibd.toml(5)", "The command line, and the settings.")]),
];

/// What the file of the built-in settings does not say of itself.
const OF_SETTINGS: [Section<'_>; 1] = [(
    "SEE ALSO",
    &[("bibd(8), bib(1)", "`bib config show --daemon --origin` shows what is in force, and from where.")],
)];

/// What is asked for that needs no data directory and no settings.
fn about_itself(args: &Args) -> Option<String> {
    let version = env!("CARGO_PKG_VERSION");
    let about = "node of bib, which keeps and shares versioned datasets";
    let program = || Program { name: "bibd", version, about, globals: &[], info: Args::get_args_info() };
    if args.version {
        return Some(format!("bibd {version}\n"));
    }
    if args.settings {
        return Some(layer::DEFAULTS.to_owned());
    }
    if let Some(shell) = args.completions {
        return Some(bib_usage::completions(&program(), shell));
    }
    args.man.map(|page| match page {
        Page::Program => bib_usage::page(&program(), 8, &OF_PROGRAM),
        Page::Settings => {
            bib_usage::settings_page("bibd.toml", "settings of bibd", version, layer::DEFAULTS, &OF_SETTINGS)
        }
    })
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

fn main() -> ExitCode {
    let mut args: Args = argh::from_env();
    if let Some(text) = about_itself(&args) {
        // Whoever stops reading has seen enough.
        let _ = std::io::stdout().write_all(text.as_bytes());
        return ExitCode::SUCCESS;
    }
    let sources = sources(&mut args);
    // What the node writes is its own business.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    if systemd::is_journal(sources.around.var("JOURNAL_STREAM"), std::io::stderr()) {
        logging::write_to_journal();
    }
    let config = match sources.load() {
        Ok(config) => config,
        Err(error) => {
            Manager::of(&sources.around, std::process::id()).failed(&error);
            return fail(&error, &error.hint(), 2);
        }
    };
    logging::init(&config);
    if let Some(verb) = &args.verb {
        return without_node(verb, &config);
    }
    run(config, sources)
}

fn run(config: Config, sources: Sources) -> ExitCode {
    const NO_SIGNALS: &str = "this system does not let bibd hear signals";
    let manager = Manager::of(&sources.around, std::process::id());
    let spawner = Spawner::new();
    let mut signals = match signals::take() {
        Ok(signals) => signals,
        Err(error) => return fail(&error, NO_SIGNALS, 1),
    };
    match NodeBuilder::new(config).reload_from(sources).manager(manager.clone()).start(&spawner) {
        Ok(node) => {
            if let Err(error) = signals::take_all(&mut signals) {
                return fail(&error, NO_SIGNALS, 1);
            }
            spawner.spawn("signals", signals::obey(signals, node.handle())).detach();
            spawner.block_on(node.run());
            ExitCode::SUCCESS
        }
        Err(error) => {
            manager.failed(&error);
            fail(&error, &error.hint(), 1)
        }
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
    let said = format!("bibd: {error}\nhint: {hint}");
    for line in said.lines() {
        eprintln!("{}{line}", logging::priority(log::Level::Error));
    }
    ExitCode::from(code)
}
