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
