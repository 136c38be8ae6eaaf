//! What differs on a terminal: hidden passphrases, questions, colours, progress, tables that fit. The terminal is
//! made by `script`; where that is not installed, these tests are left out.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use bib_core::api::event::Progress;
use bib_core::api::{Event, Request};

use crate::admin_keys::{ANSWER, lines, with_bibd};
use crate::home::Home;

struct Terminal {
    child: Child,
    keyboard: ChildStdin,
    screen: ChildStdout,
    seen: String,
}

impl Terminal {
    /// Runs a line on a terminal; `None` when there is no `script` to make one.
    fn run(home: &Home, line: &str) -> Option<Self> {
        Self::run_program(home, Path::new(env!("CARGO_BIN_EXE_bib")), line)
    }

    /// As [`Terminal::run`], of a copy of the program.
    fn run_program(home: &Home, program: &Path, line: &str) -> Option<Self> {
        let bib = home.command([""; 0]);
        let mut command = Command::new("script");
        command.args(["-qefc", &format!("{} {line}", program.display()), "/dev/null"]);
        command.env_clear().envs(bib.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(home.path("work")).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        match command.spawn() {
            Ok(mut child) => {
                let (keyboard, screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
                Some(Self { child, keyboard, screen, seen: String::new() })
            }
            Err(error) => {
                eprintln!("no terminal can be made, the test is left out: {error}");
                None
            }
        }
    }

    /// Waits until the screen has shown a text.
    #[track_caller]
    fn wait_for(&mut self, text: &str) {
        let mut byte = [0];
        while !self.seen.contains(text) {
            assert_eq!(self.screen.read(&mut byte).unwrap(), 1, "it ended without `{text}`: {}", self.seen);
            self.seen.push(char::from(byte[0]));
        }
    }

    fn type_in(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    /// Waits for the end: exit code and everything that was shown.
    fn end(mut self) -> (Option<i32>, String) {
        let mut rest = Vec::new();
        self.screen.read_to_end(&mut rest).unwrap();
        self.seen.push_str(&String::from_utf8_lossy(&rest));
        (self.child.wait().unwrap().code(), self.seen)
    }
}

#[test]
fn passphrase_is_asked_for_and_never_shown() {
    let (home, node) = Home::with_node();
    let key = home.path("work/k");
    let Some(mut terminal) = Terminal::run(&home, "key new --passphrase --out k") else { return };
    terminal.wait_for("New passphrase: ");
    terminal.type_in("hidden wordd\x7f\r");
    terminal.wait_for("again: ");
    terminal.type_in("hidden word\r");
    let (code, screen) = terminal.end();
    assert_eq!(code, Some(0), "{screen}");
    assert!(!screen.contains("hidden"), "{screen}");
    assert!(key.exists());

    let mut terminal = Terminal::run(&home, "topic create mine --key k").unwrap();
    terminal.wait_for("Passphrase of k: ");
    terminal.type_in("hidden word\r");
    assert_eq!(terminal.end().0, Some(0));
    assert!(node.world().topics.contains_key("mine"));
}

#[test]
fn interrupted_question_makes_nothing() {
    let home = Home::new();
    let Some(mut terminal) = Terminal::run(&home, "key new --passphrase") else { return };
    terminal.wait_for("New passphrase: ");
    terminal.type_in("half\x03");
    let (code, screen) = terminal.end();
    assert_eq!(code, Some(1), "{screen}");
    assert!(!home.path(".config/bib/user.key").exists());
}

#[test]
fn questions_are_asked_and_no_is_the_default() {
    let (home, node) = Home::with_node();
    for (answer, stopped) in [("\r", false), ("y\r", true)] {
        let Some(mut terminal) = Terminal::run(&home, "admin shutdown") else { return };
        terminal.wait_for("[y/N] ");
        terminal.type_in(answer);
        let (code, screen) = terminal.end();
        assert_eq!(code, Some(i32::from(!stopped)), "{screen}");
        assert_eq!(node.world().requests.contains(&Request::Shutdown), stopped);
    }
}

#[test]
fn progress_and_colours_are_for_terminals_that_want_them() {
    let (home, node) = Home::with_topic();
    home.write("f.csv", "x");
    home.bib(["publish", "f.csv", "weather/f"]).ok();
    node.hook(|request| match request {
        Request::Read { .. } => {
            let progress = Progress { done: 50, total: Some(100), providers: 2, ..Progress::default() };
            Some(Ok(vec![Event::Progress(progress), Event::Data(serde_bytes::ByteBuf::from(b"bytes".as_slice()))]))
        }
        _ => None,
    });
    let Some(terminal) = Terminal::run(&home, "cat weather/f") else { return };
    let (_, screen) = terminal.end();
    assert!(screen.contains("fetching  [============            ]  50 B of 100 B"), "{screen:?}");
    assert!(screen.ends_with("\r\x1b[Kbytes"), "the line is taken away before the bytes: {screen:?}");
    let (_, screen) = Terminal::run(&home, "cat -q weather/f").unwrap().end();
    assert_eq!(screen, "bytes");
    let (_, screen) = Terminal::run(&home, "status --node unix:/nothing").unwrap().end();
    assert!(screen.contains("\x1b[1;31merror:\x1b[0m"), "{screen:?}");
    let (_, screen) = Terminal::run(&home, "status --node unix:/nothing --no-color").unwrap().end();
    assert!(screen.starts_with("error:"), "{screen:?}");
}

#[test]
fn tables_fit_the_terminal() {
    let (home, _node) = Home::with_node();
    home.bib(["topic", "create", "weather", "--description", &"long ".repeat(100)]).ok();
    let Some(terminal) = Terminal::run(&home, "topic list --no-color") else { return };
    let (_, screen) = terminal.end();
    // A terminal without a size counts as one of 80 columns.
    assert!(screen.lines().all(|line| line.chars().count() <= 80), "{screen}");
    assert!(screen.contains('…'), "{screen}");
}

#[test]
fn shares_are_asked_for_one_by_one_and_a_mistyped_one_again() {
    let home = Home::new();
    let bib = with_bibd(&home, ANSWER);
    let lines = lines();
    let Some(mut terminal) = Terminal::run_program(&home, &bib, "admin keys recover --data-dir d") else { return };
    terminal.wait_for("first share: ");
    terminal.type_in(&format!("{}\r", lines[0]));
    terminal.wait_for("2 are missing: ");
    terminal.type_in(&format!("{}\r", lines[1].replacen("-a", "-b", 1)));
    terminal.wait_for("in group 1; try again");
    terminal.type_in(&format!("{}\r", lines[0]));
    terminal.wait_for("share 1 is there twice; give another one");
    terminal.type_in(&format!("{}\r", lines[1].to_uppercase()));
    terminal.wait_for("last share: ");
    terminal.type_in(&format!("{}\r", lines[2]));
    terminal.wait_for("12D3new");
    assert_eq!(terminal.end().0, Some(0));
    let noted = std::fs::read_to_string(home.path("noted")).unwrap();
    assert_eq!(noted, format!("keys recover --data-dir d\n{}\n", lines.join("\n")));
}

#[test]
fn end_of_typing_before_there_are_enough_shares_restores_nothing() {
    let home = Home::new();
    let bib = with_bibd(&home, ANSWER);
    let Some(mut terminal) = Terminal::run_program(&home, &bib, "admin keys recover") else { return };
    terminal.wait_for("first share: ");
    terminal.type_in("\x04");
    assert_eq!(terminal.end().0, Some(1));
    assert!(!home.path("noted").exists());
}
