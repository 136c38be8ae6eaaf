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
