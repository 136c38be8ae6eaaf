//! `bib key`.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::home::Home;

#[test]
fn new_key_is_private_shown_and_never_overwritten() {
    let home = Home::new();
    let made = home.bib(["key", "new"]).ok();
    let user = made.stdout.trim().to_owned();
    assert!(user.starts_with('u') && user.len() == 53, "{made:?}");
    let path = home.path(".config/bib/user.key");
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    let before = std::fs::read(&path).unwrap();
    let again = home.bib(["key", "new"]).fails(1);
    assert!(again.stderr.contains("there is a key at"), "{again:?}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    let shown = home.bib(["key", "show", "--json"]).ok().json();
    assert_eq!(shown["user"], user);
    assert_eq!(shown["encrypted"], false);
    assert!(shown["public_key"].as_str().unwrap().starts_with("ssh-ed25519 AAAA"));
}

#[test]
fn key_goes_where_the_configuration_folder_is() {
    let home = Home::new();
    let mut command = home.command(["key", "new"]);
    command.env("XDG_CONFIG_HOME", home.path("elsewhere"));
    home.finish(command, b"").ok();
    assert!(home.path("elsewhere/bib/user.key").exists());
    home.bib(["key", "new", "--out", "mine.key"]).ok();
    assert!(home.path("work/mine.key").exists() && home.path("work/mine.key.pub").exists());
    home.bib(["key", "show", "--key", "mine.key"]).ok();
}

#[test]
fn passphrase_protects_the_key() {
    let (home, node) = Home::with_node();
    std::fs::remove_file(home.path(".config/bib/user.key")).unwrap();
    let with = |line: &str, passphrase: &str| {
        let mut command = home.command(line.split(' '));
        command.env("BIB_PASSPHRASE", passphrase);
        home.finish(command, b"")
    };
    let user = with("key new --passphrase", "correct horse").ok().stdout;
    assert!(!std::fs::read_to_string(home.path(".config/bib/user.key")).unwrap().contains("none"));
    // Who it is can be told without opening it.
    assert_eq!(home.bib(["key", "show", "--json"]).ok().json()["user"], user.trim());
    let wrong = with("topic create x", "wrong").fails(5);
    assert!(wrong.stderr.contains("does not open"), "{wrong:?}");
    with("topic create x", "correct horse").ok();
    assert_eq!(node.world().ops.len(), 1);
    // Reading asks for nothing.
    home.bib(["topic", "list"]).ok();
    assert_eq!(node.world().users.last(), Some(&None));
}

#[test]
fn keys_of_openssh_work_in_both_directions() {
    let home = Home::new();
    let keygen = |args: &[&str]| Command::new("ssh-keygen").args(args).current_dir(home.path("work")).output();
    let Ok(made) = keygen(&["-q", "-t", "ed25519", "-N", "", "-f", "id"]) else {
        eprintln!("ssh-keygen is not installed: its half of the test is left out");
        return;
    };
    assert!(made.status.success(), "{made:?}");
    home.bib(["key", "show", "--key", "id"]).ok();
    home.bib(["key", "new", "--out", "ours"]).ok();
    let public = keygen(&["-y", "-f", "ours"]).unwrap();
    let ours = home.bib(["key", "show", "--key", "ours", "--json"]).ok().json();
    assert!(String::from_utf8_lossy(&public.stdout).starts_with(ours["public_key"].as_str().unwrap()), "{public:?}");
}

#[test]
fn files_that_are_no_keys_are_refused() {
    let home = Home::new();
    for text in [
        "",
        "hello",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
        "ssh-ed25519 nonsense",
    ] {
        home.write("k", text);
        let ran = home.bib(["whoami", "--key", "k"]).fails(2);
        assert!(ran.stderr.contains("`k` is not an OpenSSH"), "{ran:?}");
    }
    home.write("big", vec![b'a'; 1 << 20]);
    home.bib(["whoami", "--key", "big"]).fails(2);
    home.bib(["whoami", "--key", "."]).fails(2);
    let ran = home.bib(["whoami", "--key", "nothing"]).fails(3);
    assert!(ran.stderr.contains("bib key new --out nothing"), "{ran:?}");
}

#[test]
fn agent_that_is_not_there_is_explained() {
    let home = Home::new();
    let ran = home.bib(["whoami", "--key", "agent:"]).fails(5);
    assert!(ran.stderr.contains("SSH_AUTH_SOCK is not set"), "{ran:?}");
}

#[test]
fn real_agent_signs_with_a_key_that_bib_never_reads() {
    let home = Home::new();
    let Ok(agent) = Command::new("ssh-agent").args(["-s", "-a"]).arg(home.path("agent.sock")).output() else {
        eprintln!("ssh-agent is not installed: the test is left out");
        return;
    };
    let text = String::from_utf8(agent.stdout).unwrap();
    let pid = text.split("SSH_AGENT_PID=").nth(1).and_then(|rest| rest.split(';').next()).unwrap().to_owned();
    let run = || {
        let with_agent = |line: &str| {
            let mut command = home.command(line.split(' '));
            command.env("SSH_AUTH_SOCK", home.path("agent.sock"));
            home.finish(command, b"")
        };
        let node = crate::model_node::ModelNode::start(&home.path("run/bib/bibd.sock"));
        assert!(with_agent("whoami --key agent:").fails(5).stderr.contains("holds no Ed25519 key"));
        let user = home.bib(["key", "new", "--out", "id"]).ok().stdout.trim().to_owned();
        let added =
            Command::new("ssh-add").arg(home.path("work/id")).env("SSH_AUTH_SOCK", home.path("agent.sock")).output();
        assert!(added.unwrap().status.success());
        std::fs::remove_file(home.path("work/id")).unwrap();
        assert_eq!(with_agent("whoami --key agent: --json").ok().json()["user"], user);
        with_agent("topic create by-agent --key agent:").ok();
        with_agent("topic create by-public-half --key id.pub").ok();
        assert_eq!(node.world().ops[1].author.to_string(), user);
    };
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    Command::new("kill").arg(pid).status().unwrap();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn fifo_in_place_of_a_key_is_refused_at_once() {
    let home = Home::new();
    let made = Command::new("mkfifo").arg(home.path("work/fifo")).status().unwrap();
    assert!(made.success());
    let refused = home.bib(["key", "show", "--key", "fifo"]).fails(2);
    assert!(refused.stderr.contains("is not a file"), "{refused:?}");
}
