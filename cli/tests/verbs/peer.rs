//! `bib peer`.

use bib_core::api::Request;

use crate::home::Home;
use crate::snapshot::{self, masked};

#[test]
fn peers_are_listed_connected_and_disconnected() {
    let (home, node) = Home::with_node();
    snapshot::check("peer-list", &masked(&home.bib(["peer", "list"]).ok().stdout));
    snapshot::check("peer-connect", &home.bib(["peer", "connect", "/ip4/192.168.1.20/tcp/4001"]).ok().stdout);
    let peers = home.bib(["peer", "list", "--json"]).ok().json_lines();
    assert_eq!(peers[0]["connected"], true);
    home.bib(["peer", "disconnect", peers[0]["node"].as_str().unwrap()]).ok();
    assert!(matches!(node.world().requests.last(), Some(Request::Disconnect { .. })));
}
