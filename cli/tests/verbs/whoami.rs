//! `bib whoami`.

use crate::home::Home;
use crate::snapshot::{self, masked};

#[test]
fn whoami_says_who_the_key_makes_you_with_and_without_a_node() {
    let (home, node) = Home::with_node();
    let value = home.bib(["whoami", "--json"]).ok().json();
    assert_eq!(value["authenticated"], true);
    assert_eq!(value["operator"], true);
    assert_eq!(node.world().users[0].unwrap().to_string(), value["user"].as_str().unwrap());
    snapshot::check("whoami", &masked(&home.bib(["whoami"]).ok().stdout));

    let alone = Home::new();
    alone.bib(["key", "new"]).ok();
    assert_eq!(alone.bib(["whoami", "--json"]).ok().json()["node_reached"], false);
}
