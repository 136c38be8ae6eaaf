//! Help of every command: what people read first.

use crate::home::Home;
use crate::snapshot;

const COMMANDS: [&str; 33] = [
    "",
    "key",
    "key new",
    "key show",
    "whoami",
    "status",
    "topic",
    "topic create",
    "topic list",
    "topic show",
    "topic archive",
    "topic restore",
    "topic delete",
    "publish",
    "dataset",
    "dataset list",
    "dataset show",
    "dataset versions",
    "dataset archive",
    "dataset restore",
    "dataset delete",
    "dataset withdraw",
    "ls",
    "cat",
    "get",
    "find",
    "peer",
    "peer list",
    "peer connect",
    "peer disconnect",
    "config",
    "config show",
    "config path",
];

#[test]
fn help_of_every_command_is_as_recorded() {
    let home = Home::new();
    for command in COMMANDS.iter().chain(&["admin", "admin shutdown", "admin keys"]).chain(&[
        "admin keys status",
        "admin keys rotate",
        "admin keys split",
        "admin keys open",
        "admin keys recover",
        "completions",
        "man",
        "version",
    ]) {
        let words: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        let ran = home.bib(&words).ok();
        assert_eq!(ran.stderr, "");
        let name = if command.is_empty() { "bib".to_owned() } else { command.replace(' ', "-") };
        snapshot::check(&format!("help/{name}"), &ran.stdout);
        let longest =
            ran.stdout.lines().filter(|line| !line.starts_with("Usage")).map(|line| line.chars().count()).max();
        assert!(longest <= Some(100), "{command}: a line of the help is too long");
        let has_sub_commands = ran.stdout.contains("\nCommands:");
        assert!(has_sub_commands || ran.stdout.contains("\nExamples:"), "{command} has no example");
    }
}

#[test]
fn bare_bib_and_the_word_help_print_help() {
    let home = Home::new();
    let help = home.bib(["--help"]).ok().stdout;
    assert_eq!(home.bib::<&str>([]).ok().stdout, help);
    assert_eq!(home.bib(["help"]).ok().stdout, help);
    assert_eq!(home.bib(["-q"]).ok().stdout, help);
    assert_eq!(home.bib(["help", "topic", "list"]).ok().stdout, home.bib(["topic", "list", "-h"]).ok().stdout);
}

#[test]
fn version_is_printed_by_command_and_flag() {
    let home = Home::new();
    let version = home.bib(["version"]).ok().stdout;
    assert_eq!(version, format!("bib {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(home.bib(["--version"]).ok().stdout, version);
    assert_eq!(home.bib(["version", "--json"]).ok().json()["version"], env!("CARGO_PKG_VERSION"));
}
