//! `bib admin keys`.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use bib_core::api::event::ShareText;
use bib_core::api::{Event, Request};
use bib_core::id::UserId;
use bib_core::share::{Share, ShareLine};
use zeroize::Zeroizing;

use crate::home::Home;
use crate::model_node::{ModelNode, keys_figures};
use crate::snapshot;

/// Three shares of five, of which three are needed.
pub(crate) fn lines() -> Vec<String> {
    let fixture = include_str!("../../../core/fixtures/shares.txt");
    fixture.lines().take(3).map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
}

fn share(line: &str) -> Share {
    match ShareLine::parse(line).unwrap() {
        ShareLine::Plain(share) => share,
        ShareLine::Sealed(_) => panic!("a plain share"),
    }
}

fn user_of(home: &Home) -> UserId {
    home.bib(["key", "show", "--json"]).ok().json()["user"].as_str().unwrap().parse().unwrap()
}

fn sealed_to(user: &UserId, line: &str) -> String {
    share(line).seal_to(user, Zeroizing::new([7; 32])).unwrap().to_text()
}

/// A node that hands out the first shares of the fixture, sealed to whom it is told.
fn node_with_shares(node: &ModelNode) {
    node.hook(|request| match request {
        Request::KeysSplit { to, .. } => {
            let event = |(index, line): (u8, String)| {
                let user = to.get(usize::from(index) - 1).copied();
                let text = user.map_or_else(|| line.clone(), |user| sealed_to(&user, &line));
                Event::Share { index, user, text: ShareText::new(&text) }
            };
            Some(Ok((1..).zip(lines()).map(event).collect()))
        }
        _ => None,
    });
}

/// `bib` beside a `bibd` that notes its line and its stdin, and answers as it is told.
pub(crate) fn with_bibd(home: &Home, script: &str) -> PathBuf {
    let bin = home.path("bin");
    std::fs::create_dir_all(&bin).unwrap();
    // Another process writes the programs: one that this process has open for writing, or a child that it forks at the
    // wrong moment, cannot be run.
    let mut shell = std::process::Command::new("/bin/sh");
    shell.args(["-c", "cp \"$1\" bib && cat > bibd && chmod 755 bibd", "sh", env!("CARGO_BIN_EXE_bib")]);
    shell.current_dir(&bin).stdin(std::process::Stdio::piped());
    let noted = home.path("noted").display().to_string();
    let script = format!("#!/bin/sh\necho \"$@\" > {noted}\ncat >> {noted}\n{script}\n");
    home.finish(shell, script.as_bytes()).ok();
    bin.join("bib")
}

fn recover(home: &Home, bib: &PathBuf, args: &[&str], stdin: &str) -> crate::home::Ran {
    let like = home.command(["admin", "keys", "recover"].iter().chain(args));
    let mut command = std::process::Command::new(bib);
    command.args(like.get_args()).env_clear();
    command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(home.path("work")).stdin(std::process::Stdio::piped());
    home.finish(command, stdin.as_bytes())
}

pub(crate) const ANSWER: &str =
    "echo 'node   12D3new'; echo 'before 12D3old'; echo 'wrong  4'; echo 'share 4 is not genuine' >&2";

#[test]
fn keys_are_shown_for_people_and_machines() {
    let (home, node) = Home::with_node();
    snapshot::check("admin-keys-status", &home.bib(["admin", "keys", "status"]).ok().stdout);
    let value = home.bib(["admin", "keys", "status", "--json"]).ok().json();
    assert_eq!((&value["generation"], &value["shares"]["threshold"]), (&2.into(), &3.into()));
    assert_eq!(value["data_keys"].as_array().unwrap().len(), 2);
    node.hook(|request| match request {
        Request::KeysStatus => {
            let mut figures = keys_figures();
            figures.split = None;
            Some(Ok(vec![Event::Keys(Box::new(figures))]))
        }
        _ => None,
    });
    let ran = home.bib(["admin", "keys", "status"]).ok();
    assert!(ran.stdout.contains("if identity.pem is lost, so is the data"), "{ran:?}");
}

#[test]
fn status_of_an_encrypted_node_says_what_the_disk_shows_and_who_could_restore_it() {
    let (home, node) = Home::with_node();
    assert_eq!(home.bib(["status", "--json"]).ok().json()["encrypted"], false);
    node.hook(|request| match request {
        Request::Status => {
            let mut status = crate::model_node::status();
            status.keys = Some(keys_figures());
            Some(Ok(vec![Event::Status(Box::new(status))]))
        }
        _ => None,
    });
    let ran = home.bib(["status"]).ok();
    assert!(ran.stdout.contains("sealed with AES-256-GCM, key of keys 2"), "{ran:?}");
    assert!(ran.stdout.contains("shares: 3 of 5, set 6120736574203031"), "{ran:?}");
    let value = home.bib(["status", "--json"]).ok().json();
    assert_eq!((&value["encrypted"], &value["keys"]["shares"]["total"]), (&true.into(), &5.into()));
}

#[test]
fn rotate_makes_both_keys_unless_one_is_named() {
    let (home, node) = Home::with_node();
    for (args, kek, data) in [
        (&[][..], true, true),
        (&["--kek"], true, false),
        (&["--data"], false, true),
        (&["--kek", "--data"], true, true),
    ] {
        home.bib(["admin", "keys", "rotate"].iter().chain(args)).ok();
        assert_eq!(node.world().requests.last(), Some(&Request::KeysRotate { kek, data }), "{args:?}");
    }
    node.hook(|request| match request {
        Request::KeysRotate { .. } => {
            let mut figures = keys_figures();
            figures.split.as_mut().unwrap().is_stale = true;
            Some(Ok(vec![Event::Keys(Box::new(figures))]))
        }
        _ => None,
    });
    let ran = home.bib(["admin", "keys", "rotate"]).ok();
    assert!(ran.stderr.contains("open nothing any more"), "{ran:?}");
}

#[test]
fn shares_are_written_for_the_owner_alone_and_never_over_others() {
    let (home, node) = Home::with_node();
    node_with_shares(&node);
    let ran = home.bib(["admin", "keys", "split", "-o", "shares"]).ok();
    assert_eq!(ran.stdout, "shares/share-1.txt\nshares/share-2.txt\nshares/share-3.txt\n");
    assert_eq!(node.world().requests.last(), Some(&Request::KeysSplit { threshold: 3, total: 5, to: Vec::new() }));
    let text = String::from_utf8(home.read("shares/share-2.txt")).unwrap();
    assert!(text.starts_with("# share 2 of 5 of the key of the node 12D3"), "{text}");
    assert_eq!(text.lines().last(), Some(&*lines()[1]));
    let mode = |name: &str| std::fs::metadata(home.path("work").join(name)).unwrap().mode() & 0o777;
    assert_eq!((mode("shares"), mode("shares/share-1.txt")), (0o700, 0o600));

    let n_requests = node.world().requests.len();
    let ran = home.bib(["admin", "keys", "split", "-o", "shares"]).fails(1);
    assert!(ran.stderr.contains("older shares may still be needed"), "{ran:?}");
    assert_eq!(node.world().requests.len(), n_requests, "no shares are made that cannot be written");
}

#[test]
fn shares_are_printed_with_what_they_are_of() {
    let (home, node) = Home::with_node();
    node_with_shares(&node);
    let ran = home.bib(["admin", "keys", "split", "--threshold", "2", "--shares", "3"]).ok();
    assert_eq!(node.world().requests.last(), Some(&Request::KeysSplit { threshold: 2, total: 3, to: Vec::new() }));
    let printed: Vec<&str> = ran.stdout.lines().filter(|line| line.starts_with("bibshare1-")).collect();
    assert_eq!(printed, lines());
    assert!(ran.stdout.contains("any 2 of them restore it"), "{ran:?}");
    let values = home.bib(["admin", "keys", "split", "--json"]).ok().json_lines();
    assert_eq!(values[2]["share"], lines()[2]);
    assert_eq!(values[0]["user"], serde_json::Value::Null);
}

#[test]
fn share_for_a_user_opens_with_that_user_s_key_only() {
    let (home, node) = Home::with_node();
    node_with_shares(&node);
    home.bib(["key", "new", "--out", "bob"]).ok();
    let (ann, bob) = (user_of(&home), home.bib(["key", "show", "--key", "bob", "--json"]).ok().json());
    let bob: UserId = bob["user"].as_str().unwrap().parse().unwrap();
    let users = [ann, bob, bob].map(|user| user.to_string());
    let to = users.iter().flat_map(|user| ["--to", user]);
    home.bib(["admin", "keys", "split", "-o", "s"].into_iter().chain(to)).ok();
    let asked = Request::KeysSplit { threshold: 3, total: 3, to: vec![ann, bob, bob] };
    assert_eq!(node.world().requests.last(), Some(&asked));

    let opened = home.bib(["admin", "keys", "open", "s/share-1.txt"]).ok();
    assert_eq!(opened.stdout.trim_end(), lines()[0]);
    let refused = home.bib(["admin", "keys", "open", "s/share-2.txt"]).fails(5);
    assert!(refused.stderr.contains(&format!("sealed to the user {bob}")), "{refused:?}");
    let opened = home.bib(["admin", "keys", "open", "s/share-2.txt", "--key", "bob"]).ok();
    assert_eq!(opened.stdout.trim_end(), lines()[1]);
    home.write("empty", "# nothing\n");
    home.bib(["admin", "keys", "open", "empty"]).fails(3);
    let refused = home.bib(["admin", "keys", "split", "--to", "ann"]).fails(2);
    assert!(refused.stderr.contains("bib whoami"), "{refused:?}");
}

#[test]
fn node_that_is_not_encrypted_says_so() {
    let (home, _node) = Home::with_node();
    let ran = home.bib(["admin", "keys", "split"]).fails(1);
    assert!(ran.stderr.contains("not encrypted") && ran.stdout.is_empty(), "{ran:?}");
}

#[test]
fn recovery_hands_opened_shares_to_bibd_and_says_what_it_did() {
    let home = Home::new();
    home.bib(["key", "new"]).ok();
    let bib = with_bibd(&home, ANSWER);
    let lines = lines();
    home.write("one", format!("# of ann\n{}\n", lines[0].to_uppercase()));
    home.write("two", format!("\n{}\n{}", sealed_to(&user_of(&home), &lines[1]), lines[2].replace('-', " ")));
    let ran = recover(&home, &bib, &["--data-dir", "/srv/bib", "one", "two"], "").ok();
    assert_eq!(ran.stdout, "the keys are sealed to the node 12D3new now; before, to 12D3old\n");
    assert!(ran.stderr.contains("share 4 is not genuine"), "{ran:?}");
    let noted = std::fs::read_to_string(home.path("noted")).unwrap();
    assert_eq!(noted, format!("keys recover --data-dir /srv/bib\n{}\n", lines.join("\n")));
    let value = recover(&home, &bib, &["--json"], &lines.join("\n")).ok().json();
    assert_eq!(value, serde_json::json!({ "node": "12D3new", "before": "12D3old", "wrong_shares": [4] }));
    assert!(std::fs::read_to_string(home.path("noted")).unwrap().starts_with("keys recover\n"));
}

#[test]
fn shares_that_do_not_suffice_do_not_reach_bibd() {
    let home = Home::new();
    let bib = with_bibd(&home, ANSWER);
    let lines = lines();
    let refused = |args: &[&str], stdin: &str, code| {
        let ran = recover(&home, &bib, args, stdin).fails(code);
        assert!(!home.path("noted").exists());
        ran.stderr
    };
    let said = refused(&[], &lines[..2].join("\n"), 1);
    assert!(said.contains("2 of the 3 shares that are needed are there"), "{said}");
    let said = refused(&[], &[&*lines[0], &lines[1], &lines[0]].join("\n"), 6);
    assert!(said.contains("share 1 is there twice"), "{said}");
    let mistyped = lines[2].replacen("-a", "-b", 1);
    home.write("mistyped", format!("# of eve\n{mistyped}\n"));
    home.write("whole", format!("{}\n{}\n", lines[0], lines[1]));
    let said = refused(&["whole", "mistyped"], "", 6);
    assert!(said.contains("`mistyped`, line 2: its check does not fit") && said.contains("in group 1"), "{said}");
    refused(&["absent"], "", 3);
    home.write("long", "#".repeat(100_000));
    refused(&["long"], "", 2);
}

#[test]
fn failure_of_bibd_is_passed_on() {
    let home = Home::new();
    let bib =
        with_bibd(&home, "echo 'bibd: /srv belongs to a node that is running' >&2; echo 'hint: stop it' >&2; exit 1");
    let ran = recover(&home, &bib, &[], &lines().join("\n")).fails(1);
    assert!(ran.stderr.contains("belongs to a node that is running") && ran.stderr.contains("stop it"), "{ran:?}");
    std::fs::remove_file(home.path("bin/bibd")).unwrap();
    let mut path_less = std::process::Command::new(&bib);
    path_less
        .args(["admin", "keys", "recover", "s"])
        .env_clear()
        .env("HOME", home.path(""))
        .env("PATH", "/nonexistent");
    path_less.current_dir(home.path("work")).stdin(std::process::Stdio::null());
    home.write("s", lines().join("\n"));
    let ran = home.finish(path_less, b"").fails(3);
    assert!(ran.stderr.contains("no `bibd` beside `bib`"), "{ran:?}");
}
