//! What goes wrong before and around every command: the line, the configuration, the key, the node.

use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use bib_core::api::{ErrorCode, Failure, Request};

use crate::home::Home;
use crate::snapshot;

#[test]
fn errors_of_the_line_are_as_recorded() {
    let home = Home::new();
    let mut shown = String::new();
    for line in [
        "frob",
        "topic creat",
        "topic create",
        "publish a",
        "publish a b/c --bump huge",
        "publish . no-dataset",
        "publish missing.csv a/b",
        "publish . a/b --version 1.0.0 --bump minor",
        "publish . a/b:path",
        "publish . a/b@1.2",
        "get a/b:../../etc/passwd",
        "cat a/b --range 5-1",
        "find --format xml",
        "ls a/b/",
        "completions csh",
        "peer connect example.org",
        "peer disconnect me",
        "status --node http://x",
        "status --timeout soon",
        "status --json=yes",
        "status --node",
    ] {
        let ran = home.bib(line.split(' '));
        assert_eq!(ran.stdout, "", "{line}");
        shown.push_str(&format!("$ bib {line}\n{}[{}]\n\n", ran.stderr, ran.code));
    }
    snapshot::check("errors-line", &shown);
}

#[test]
fn errors_are_json_when_json_is_asked_for() {
    let home = Home::new();
    for line in ["status --json", "--json frob", "ls x --json", "--timeout x --json status"] {
        let ran = home.bib(line.split(' ')).fails(if line == "status --json" { 4 } else { 2 });
        let value: serde_json::Value = serde_json::from_str(&ran.stderr).unwrap();
        for field in ["code", "message", "hint"] {
            assert!(value[field].as_str().is_some_and(|text| !text.is_empty()), "{line}: {value}");
        }
    }
}

#[test]
fn argument_that_is_not_utf8_is_refused() {
    let home = Home::new();
    let ran = home.bib([std::ffi::OsStr::new("publish"), std::ffi::OsStr::from_bytes(b"a\xff")]).fails(2);
    assert!(ran.stderr.contains("is not UTF-8"), "{ran:?}");
}

#[test]
fn without_a_node_the_exit_code_is_4_and_the_hint_starts_one() {
    let home = Home::new();
    home.bib(["key", "new"]).ok();
    for line in
        ["status", "topic list", "find x", "peer list", "config show --daemon", "get a/b", "admin shutdown --yes"]
    {
        let ran = home.bib(line.split(' ')).fails(4);
        assert_eq!(
            ran.stderr,
            "error: no node answers at $HOME/run/bib/bibd.sock or /run/bib/bibd.sock\n\
             hint: start the node with `bibd`, or name one with `--node unix:/path`\n"
        );
    }
}

#[test]
fn too_widely_readable_key_is_refused() {
    let (home, _node) = Home::with_node();
    let key = home.path(".config/bib/user.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    for line in ["whoami", "key show", "topic create x", "status"] {
        let ran = home.bib(line.split(' ')).fails(5);
        assert!(ran.stderr.contains("(mode 0644)") && ran.stderr.contains("chmod 600"), "{ran:?}");
    }
}

#[test]
fn missing_key_is_asked_for_before_a_byte_is_sent() {
    let home = Home::new();
    let node = crate::model_node::ModelNode::start(&home.path("run/bib/bibd.sock"));
    home.write("f", "x");
    for line in ["publish f a/b", "topic create x", "whoami", "key show"] {
        let ran = home.bib(line.split(' ')).fails(5);
        assert!(ran.stderr.contains("make one with `bib key new`"), "{ran:?}");
    }
    assert!(node.world().requests.is_empty());
    home.bib(["status"]).ok();
    assert_eq!(node.world().users, [None], "reading needs no key");
}

#[test]
fn failures_of_the_node_keep_their_code_sentence_and_hint() {
    let (home, node) = Home::with_node();
    for (code, exit) in [
        (ErrorCode::Busy, 1),
        (ErrorCode::Unsupported, 2),
        (ErrorCode::NotFound, 3),
        (ErrorCode::Denied, 5),
        (ErrorCode::Integrity, 6),
        (ErrorCode::Timeout, 7),
        (ErrorCode::Internal, 70),
    ] {
        node.hook(move |_| Some(Err(Failure::new(code, "no\x1b[31m way"))));
        let ran = home.bib(["status"]).fails(exit);
        assert!(ran.stderr.starts_with("error: no\u{fffd}[31m way\nhint: "), "{ran:?}");
        node.hook(move |_| Some(Err(Failure::new(code, "no").hinted("do this"))));
        assert_eq!(home.bib(["status"]).fails(exit).stderr, "error: no\nhint: do this\n");
    }
}

#[test]
fn garbage_on_the_socket_is_one_clear_error() {
    for garbage in
        [b"HTTP/1.1 400 Bad Request\r\n\r\n".as_slice(), &[0, 0, 0, 3, 1, 0xff, 0xff], &[0, 0, 0, 0], &[0xff; 64], b""]
    {
        let home = Home::new();
        let path = home.path("run/socket");
        let listener = UnixListener::bind(&path).unwrap();
        let answer = garbage.to_vec();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut hello = [0; 7];
            stream.read_exact(&mut hello).unwrap();
            stream.write_all(&answer).unwrap();
        });
        let ran = home.bib(["status", "--node", &format!("unix:{}", path.display())]);
        assert!(matches!(ran.code, 2 | 4), "{garbage:?} {ran:?}");
        assert!(ran.stderr.contains("hint: "), "{ran:?}");
        server.join().unwrap();
    }
}

#[test]
fn node_that_does_not_answer_is_a_timeout() {
    let home = Home::new();
    let path = home.path("run/socket");
    let _listener = UnixListener::bind(&path).unwrap();
    let node = format!("unix:{}", path.display());
    let ran = home.bib(["status", "--node", &node, "--timeout", "1ms"]).fails(7);
    assert!(ran.stderr.contains("did not answer in time"), "{ran:?}");
}

#[test]
fn socket_path_that_is_too_long_is_explained() {
    let home = Home::new();
    let ran = home.bib(["status", "--node", &format!("unix:/{}", "x".repeat(200))]).fails(2);
    assert!(ran.stderr.contains("at most 107 bytes"), "{ran:?}");
}

#[test]
fn reader_that_goes_away_ends_the_command_quietly() {
    let home = Home::new();
    let mut command = home.command(["completions", "fish"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(0), ""));
}

#[test]
fn request_over_a_full_session_is_not_lost_in_the_next() {
    let (home, node) = Home::with_topic();
    // A single file is recognised by the first entry of a list that is then given up.
    home.write("t/a", "1");
    home.write("t/b", "2");
    home.bib(["publish", "t", "weather/t"]).ok();
    home.bib(["get", "weather/t:a", "-o", "one"]).ok();
    assert_eq!(home.read("one"), b"1");
    assert!(node.world().requests.iter().any(|request| matches!(request, Request::Entries { .. })));
}
