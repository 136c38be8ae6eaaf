//! `bib admin`.

use bib_core::api::care::Scrubbed;
use bib_core::api::{Event, Request};

use crate::home::Home;

#[test]
fn shutdown_needs_a_yes() {
    let (home, node) = Home::with_node();
    let ran = home.bib(["admin", "shutdown"]).fails(1);
    assert!(ran.stderr.contains("--yes"), "{ran:?}");
    assert!(!node.world().requests.contains(&Request::Shutdown));
    home.bib(["admin", "shutdown", "--yes"]).ok();
    assert!(node.world().requests.contains(&Request::Shutdown));
}

#[test]
fn what_the_node_does_by_itself_is_listed_with_its_figures() {
    let (home, _node) = Home::with_node();
    let shown = home.bib(["admin", "workers"]).ok().stdout;
    for part in ["gc", "2026-11-24", "when told", "25 %", "live 3.0 MiB", "dead chunks 1,234", "idle"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let value = home.bib(["admin", "workers", "--json"]).ok().json();
    assert_eq!((value["done"].as_u64(), value["figures"]["live_bytes"].as_u64()), (Some(1), Some(3 << 20)));
}

#[test]
fn collection_shows_what_went_and_what_would_go() {
    let (home, node) = Home::with_node();
    let ran = home.bib(["admin", "gc", "--min-age", "12h"]).ok();
    assert!(ran.stdout.contains("gone") && ran.stdout.contains("2.0 MiB by holes"), "{ran:?}");
    let looked = home.bib(["admin", "gc", "--dry-run"]).ok().stdout;
    assert!(looked.contains("would go") && !looked.contains("given back"), "{looked}");
    assert_eq!(home.bib(["admin", "gc", "--json"]).ok().json()["dead_bytes"], 3 << 20);
    let asked: Vec<Request> =
        node.world().requests.iter().filter(|request| matches!(request, Request::Gc { .. })).cloned().collect();
    let gc = |dry_run, min_age_s| Request::Gc { dry_run, min_age_s };
    assert_eq!(asked, [gc(false, Some(43_200)), gc(true, None), gc(false, None)]);
    for wrong in ["7", "d", "-1d", "4000d", ""] {
        home.bib(["admin", "gc", "--min-age", wrong]).fails(2);
    }
}

#[test]
fn damage_that_a_scrub_finds_is_named_and_is_an_error() {
    let (home, node) = Home::with_node();
    assert_eq!(home.bib(["admin", "scrub"]).ok().stdout, "3 chunks of 4.0 KiB are right\n");
    let hurt = || vec!["weather/temps@1.0.0".to_owned()];
    node.hook(move |request| match request {
        Request::Scrub => Some(Ok(vec![Event::Scrubbed(Scrubbed { chunks: 3, bytes: 9, damaged: 1, hurt: hurt() })])),
        _ => None,
    });
    let ran = home.bib(["admin", "scrub"]).fails(6);
    assert!(ran.stdout.contains("weather/temps@1.0.0") && ran.stderr.contains("--repair"), "{ran:?}");
    assert_eq!(home.bib(["admin", "scrub", "--json"]).fails(6).json()["damaged"], 1);
}

#[test]
fn index_that_was_made_anew_tells_of_lost_chunks() {
    let (home, _node) = Home::with_node();
    let ran = home.bib(["admin", "rebuild"]).ok();
    assert!(ran.stdout.contains("3 chunks") && ran.stderr.contains("1 chunk lost"), "{ran:?}");
    assert_eq!(home.bib(["admin", "rebuild", "--json"]).ok().json()["chunks"], 3);
}

#[test]
fn snapshots_are_made_listed_and_read_again() {
    let (home, node) = Home::with_node();
    home.write("pass.txt", "correct horse\nsecond line\n");
    let ran = home.bib(["admin", "backup", "--to", "backup", "--passphrase-file", "pass.txt"]).ok();
    assert_eq!(ran.stdout, "1795530245000000\n");
    for part in ["5.0 MiB in 7 contents", "1 old snapshot gone", "1 content not whole"] {
        assert!(ran.stderr.contains(part), "{part}: {ran:?}");
    }
    let asked = node.world().requests.iter().find_map(|request| match request {
        Request::Backup { to, passphrase, .. } => Some((to.clone(), passphrase.clone())),
        _ => None,
    });
    let (to, passphrase) = asked.unwrap();
    assert!(to.is_some_and(|to| to.starts_with('/') && to.ends_with("/backup")));
    let passphrase = passphrase.unwrap();
    assert_eq!(passphrase.0, "correct horse");
    assert!(!format!("{passphrase:?}").contains("horse"));
    assert_eq!(home.bib(["admin", "backup", "--json"]).ok().json()["content_bytes"], 5 << 20);
    let listed = home.bib(["admin", "backup", "list"]).ok().stdout;
    assert!(listed.contains("1795530245000000") && listed.contains("12,345"), "{listed}");
    assert_eq!(home.bib(["admin", "backup", "list", "--json"]).ok().json()["incomplete"], 1);
    assert!(home.bib(["admin", "backup", "verify"]).ok().stdout.contains("whole, 5.0 MiB"));
    home.write("empty.txt", "\n");
    let refused = home.bib(["admin", "backup", "--passphrase-file", "empty.txt"]).fails(2);
    assert!(refused.stderr.contains("hint"), "{refused:?}");
}

#[test]
fn restore_refuses_what_is_no_backup_before_it_asks_for_anything() {
    let (home, _node) = Home::with_node();
    home.write("file", "x".repeat(2_000));
    std::fs::create_dir_all(home.path("work/folder")).unwrap();
    home.write("liar/backup.bib", [0xff; 100]);
    for (place, code) in [("file", 2), ("liar", 2), ("folder", 3), ("absent", 3)] {
        let ran = home.bib(["admin", "restore", place, "--data-dir", "new"]).fails(code);
        assert!(ran.stderr.contains("hint"), "{ran:?}");
    }
    assert!(!home.path("work/new").exists());
}
