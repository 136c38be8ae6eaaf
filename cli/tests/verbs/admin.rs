//! `bib admin`.

use bib_core::api::Request;

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
