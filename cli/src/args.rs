//! What the user typed, as plain data: the low level. Global flags may stand anywhere on the line; everything else is
//! declared in the `commands`, and that declaration also drives the help, the completions and the splitting here.
//! Nothing is opened or looked up in this module.

use std::path::PathBuf;
use std::time::Duration;

use argh::{ArgsInfo, CommandInfoWithArgs, FlagInfoKind, FromArgs};
use bib_usage::{Flag as GlobalFlag, Program};

use crate::commands::{
    admin, cat, completions, config, dataset, find, get, key, ls, man, peer, publish, status, topic, version, whoami,
};
use crate::error::{CliError, Result};

/// bib publishes, finds, copies and verifies versioned datasets, alone or peer to peer.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(
    help_triggers("-h", "--help"),
    example = "{command_name} key new\n\
    {command_name} topic create weather --description \"Observations of weather stations\"\n\
    {command_name} publish temps.csv weather/temps -m \"first year\"\n\
    {command_name} get weather/temps -o temps.csv"
)]
pub(crate) struct Bib {
    #[argh(subcommand)]
    pub(crate) command: Command,
}

#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
pub(crate) enum Command {
    Key(key::KeyArgs),
    Whoami(whoami::WhoamiArgs),
    Status(status::StatusArgs),
    Topic(topic::TopicArgs),
    Publish(publish::PublishArgs),
    Dataset(dataset::DatasetArgs),
    Ls(ls::LsArgs),
    Cat(cat::CatArgs),
    Get(get::GetArgs),
    Find(find::FindArgs),
    Peer(peer::PeerArgs),
    Config(config::ConfigArgs),
    Admin(admin::AdminArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
    Version(version::VersionArgs),
}

/// Flags that every command takes.
pub(crate) const GLOBAL_FLAGS: [GlobalFlag; 9] = [
    GlobalFlag { long: "--config", short: None, value: Some("file"), help: "read this configuration file" },
    GlobalFlag {
        long: "--node",
        short: None,
        value: Some("address"),
        help: "the node to ask: unix:/path/to/bibd.sock",
    },
    GlobalFlag { long: "--key", short: None, value: Some("key"), help: "the key to sign with: a file, or agent:" },
    GlobalFlag { long: "--json", short: None, value: None, help: "print JSON, one value a line" },
    GlobalFlag { long: "--quiet", short: Some('q'), value: None, help: "no remarks and no progress" },
    GlobalFlag { long: "--verbose", short: Some('v'), value: None, help: "say more" },
    GlobalFlag { long: "--no-color", short: None, value: None, help: "no colours" },
    GlobalFlag { long: "--timeout", short: None, value: Some("time"), help: "give up after this, such as 30s or 5m" },
    GlobalFlag { long: "--yes", short: None, value: None, help: "answer questions with yes" },
];

/// The program as its completions and its manual page show it.
pub(crate) fn program() -> Program<'static> {
    Program {
        name: "bib",
        version: env!("CARGO_PKG_VERSION"),
        about: "publish, find and fetch versioned datasets",
        globals: &GLOBAL_FLAGS,
        info: Bib::get_args_info(),
    }
}

/// The values of the global flags.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Globals {
    pub(crate) config: Option<PathBuf>,
    pub(crate) node: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    pub(crate) verbose: bool,
    pub(crate) no_color: bool,
    pub(crate) timeout: Option<Duration>,
    pub(crate) yes: bool,
}

impl Globals {
    fn set(&mut self, flag: &GlobalFlag, value: Option<String>) -> Result<()> {
        let value = value.unwrap_or_default();
        match flag.long {
            "--config" => self.config = Some(PathBuf::from(value)),
            "--node" => self.node = Some(value),
            "--key" => self.key = Some(value),
            "--json" => self.json = true,
            "--quiet" => self.quiet = true,
            "--verbose" => self.verbose = true,
            "--no-color" => self.no_color = true,
            "--timeout" => {
                self.timeout =
                    Some(parse_duration(&value).map_err(|reason| CliError::invalid(format!("--timeout: {reason}")))?);
            }
            _ => self.yes = true,
        }
        Ok(())
    }
}

/// Takes the global flags out of a line, wherever they stand before `--`. What remains is for the command parser;
/// `--flag=value` is split in two for it. A value that looks like a flag stays the value of the flag before it.
///
/// The globals are returned also when the line is wrong, so that the error is shown in the form that was asked for.
pub(crate) fn split(args: Vec<String>) -> (Globals, Result<Vec<String>>) {
    let mut globals = Globals::default();
    let rest = split_into(args, &mut globals);
    (globals, rest)
}

fn split_into(args: Vec<String>, globals: &mut Globals) -> Result<Vec<String>> {
    let mut info = Bib::get_args_info();
    let mut rest = Vec::new();
    let mut error = None;
    // The command parser takes `-` for a flag unless it stands behind `--`, so that is where it goes, with what
    // follows it to keep the order.
    let mut behind = Vec::new();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        if arg == "--" {
            behind.extend(args);
            break;
        }
        if arg == "-" || (!behind.is_empty() && !arg.starts_with('-')) {
            behind.push(arg);
            continue;
        }
        if !arg.starts_with('-') {
            if let Some(position) = info.commands.iter().position(|command| command.name == arg) {
                info = info.commands.swap_remove(position).command;
            }
            rest.push(arg);
            continue;
        }
        let (name, mut value) = match arg.split_once('=') {
            Some((name, value)) if arg.starts_with("--") => (name.to_owned(), Some(value.to_owned())),
            _ => (arg, None),
        };
        let short =
            name.strip_prefix('-').filter(|rest| rest.chars().count() == 1).and_then(|rest| rest.chars().next());
        // A flag of the command itself comes first, so that a command may use a letter for something else.
        let own = info.flags.iter().find(|flag| flag.long == name || (short.is_some() && flag.short == short));
        if let Some(own) = own {
            let takes_value = matches!(own.kind, FlagInfoKind::Option { .. });
            rest.push(name);
            if takes_value && value.is_none() {
                value = args.next();
            }
            rest.extend(value);
            continue;
        }
        match GLOBAL_FLAGS.iter().find(|flag| flag.long == name || (short.is_some() && flag.short == short)) {
            None => {
                rest.push(name);
                rest.extend(value);
            }
            Some(flag) => {
                if flag.value.is_some() && value.is_none() {
                    value = args.next();
                }
                let set = match (flag.value, &value) {
                    (Some(what), None) => Err(CliError::invalid(format!("{} needs a value: <{what}>", flag.long))),
                    (None, Some(_)) => Err(CliError::invalid(format!("{} takes no value", flag.long))),
                    _ => globals.set(flag, value),
                };
                // The first error is shown, but after the whole line was read: `--json` may come later.
                error = error.or(set.err());
            }
        }
    }
    if !behind.is_empty() {
        rest.push("--".to_owned());
        rest.extend(behind);
    }
    match error {
        None => Ok(rest),
        Some(error) => Err(error.hint("`bib --help` lists the global flags")),
    }
}

/// Parses what [`split`] left.
pub(crate) fn parse(mut rest: Vec<String>) -> Result<Command> {
    match rest.first().map(String::as_str) {
        None => rest.push("--help".to_owned()),
        Some("--version" | "-V") => rest = vec!["version".to_owned()],
        Some("help") => {
            rest.remove(0);
            rest.push("--help".to_owned());
        }
        Some(_) => {}
    }
    let args: Vec<&str> = rest.iter().map(String::as_str).collect();
    Bib::from_args(&["bib"], &args).map(|bib| bib.command).map_err(|exit| match exit.status {
        Ok(()) => CliError::Help(with_global_flags(exit.output, rest.len() == 1)),
        Err(()) => {
            let message = exit.output.trim();
            let message = message.strip_prefix("Error parsing ").unwrap_or(message);
            let (name, info) = command_of(&rest);
            let hint = match message.strip_prefix("Unrecognized argument: ").and_then(|typed| closest(typed, &info)) {
                Some(meant) => format!("did you mean `{meant}`? `{name} --help` shows how"),
                None => format!("`{name} --help` shows how"),
            };
            CliError::invalid(lower_first(message)).hint(hint)
        }
    })
}

/// The longest prefix of the line that names a command.
fn command_of(rest: &[String]) -> (String, CommandInfoWithArgs) {
    let mut info = Bib::get_args_info();
    let mut name = "bib".to_owned();
    for arg in rest {
        let Some(position) = info.commands.iter().position(|command| command.name == arg) else { break };
        info = info.commands.swap_remove(position).command;
        name = format!("{name} {arg}");
    }
    (name, info)
}

/// The sub-command or flag that is at most two letters away from what was typed.
fn closest(typed: &str, info: &CommandInfoWithArgs) -> Option<String> {
    let known = info.commands.iter().map(|command| command.name).chain(info.flags.iter().map(|flag| flag.long));
    let known = known.chain(GLOBAL_FLAGS.iter().map(|flag| flag.long));
    // Longer than any name: not worth comparing.
    let typed = Some(typed).filter(|typed| typed.len() <= 32)?;
    let (distance, name) = known.map(|name| (distance(typed, name), name)).min()?;
    (distance <= 2 && distance < name.trim_start_matches('-').len() / 2 + 1).then(|| name.to_owned())
}

/// Letters to insert, remove or replace.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

fn with_global_flags(mut help: String, top: bool) -> String {
    if top {
        help.push_str("\nGlobal options, anywhere on the line:\n");
        for flag in GLOBAL_FLAGS {
            let short = flag.short.map_or_else(String::new, |short| format!("-{short}, "));
            let value = flag.value.map_or_else(String::new, |value| format!(" <{value}>"));
            help.push_str(&format!("  {:<18}{}\n", format!("{short}{}{value}", flag.long), flag.help));
        }
    } else {
        help.push_str("\nGlobal options such as --json, --node, --key and -q: see `bib --help`.\n");
    }
    help
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

/// Reads `250ms`, `30s`, `5m`, `2h` or a plain number of seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let refuse = || format!("`{text}` is not a time: expected for instance 500ms, 30s, 5m or 2h");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| refuse())?;
    let millis = match &text[digits..] {
        "ms" => Some(number),
        "s" | "" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => return Err(refuse()),
    };
    // The control contract carries milliseconds in 32 bits.
    match millis.and_then(|millis| u32::try_from(millis).ok()) {
        Some(0) | None => Err(format!("`{text}` is not between 1ms and 1193h")),
        Some(millis) => Ok(Duration::from_millis(u64::from(millis))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn global_flags_are_taken_from_anywhere() {
        let (globals, rest) = split(words("--json topic --node unix:/x list -q --timeout=5m --limit 3"));
        assert_eq!(rest.unwrap(), words("topic list --limit 3"));
        assert!(globals.json && globals.quiet && !globals.yes);
        assert_eq!(globals.node.as_deref(), Some("unix:/x"));
        assert_eq!(globals.timeout, Some(Duration::from_secs(300)));
    }

    #[test]
    fn values_and_words_after_two_dashes_are_left_alone() {
        let (globals, rest) = split(words("publish a b/c -m --json -- --yes"));
        assert_eq!(rest.unwrap(), words("publish a b/c -m --json -- --yes"));
        assert_eq!(globals, Globals::default());
    }

    #[test]
    fn a_dash_for_stdin_keeps_its_place_among_the_other_arguments() {
        let (globals, rest) = split(words("publish - a/b -m - --json --tag x"));
        assert_eq!(rest.unwrap(), words("publish -m - --tag x -- - a/b"));
        assert!(globals.json);
    }

    #[test]
    fn an_error_in_the_line_keeps_the_form_that_was_asked_for() {
        let (globals, rest) = split(words("status --timeout never --json"));
        assert!(globals.json);
        assert!(rest.unwrap_err().to_string().contains("`never` is not a time"));
        let (_, rest) = split(words("status --node"));
        assert!(rest.unwrap_err().to_string().contains("--node needs a value"));
    }

    #[test]
    fn own_flags_of_a_command_keep_their_value_after_an_equals_sign() {
        let (_, rest) = split(words("publish a b/c --version=1.0.0 --tag=x=y"));
        assert_eq!(rest.unwrap(), words("publish a b/c --version 1.0.0 --tag x=y"));
    }

    #[test]
    fn commands_take_no_global_flag_for_themselves() {
        fn check(info: &argh::CommandInfoWithArgs) {
            for flag in info.flags {
                let taken = GLOBAL_FLAGS
                    .iter()
                    .any(|global| global.long == flag.long || (flag.short.is_some() && global.short == flag.short));
                assert!(!taken, "{} {}", info.name, flag.long);
            }
            info.commands.iter().for_each(|sub| check(&sub.command));
        }
        check(&Bib::get_args_info());
    }

    #[test]
    fn typing_mistakes_are_recognised() {
        let hint = |line: &str| match parse(words(line)) {
            Err(CliError::Failure(failure)) => failure.hint.unwrap_or_default(),
            other => panic!("{other:?}"),
        };
        assert_eq!(hint("topic creat"), "did you mean `create`? `bib topic --help` shows how");
        assert_eq!(hint("pubilsh a b/c"), "did you mean `publish`? `bib --help` shows how");
        assert_eq!(hint("publish a b/c --bmup minor"), "did you mean `--bump`? `bib publish --help` shows how");
        assert_eq!(hint("topic frobnicate"), "`bib topic --help` shows how");
        assert_eq!(hint("zz"), "`bib --help` shows how");
        assert_eq!((distance("", "abc"), distance("kitten", "sitting")), (3, 3));
    }

    #[test]
    fn durations_have_units_and_bounds() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("2"), Ok(Duration::from_secs(2)));
        for wrong in ["", "s", "0s", "1d", "-1s", "1.5s", "99999999999h"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }
}
