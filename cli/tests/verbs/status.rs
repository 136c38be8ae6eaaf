//! `bib status`.

use bib_core::api::{Event, Request};

use crate::home::Home;
use crate::model_node::NODE;
use crate::snapshot;

#[test]
fn status_is_shown_for_people_and_machines() {
    let (home, _node) = Home::with_node();
    snapshot::check("status", &home.bib(["status"]).ok().stdout);
    let value = home.bib(["status", "--json"]).ok().json();
    assert_eq!(value["node"], NODE.to_string());
    assert_eq!(value["rss_bytes"], 9 << 20);
    assert_eq!(value["gossip_refused"]["replay"], 4);
}

#[test]
fn service_without_a_home_may_ask_how_the_node_is() {
    let (home, _node) = Home::with_node();
    let without = |args: &[&str]| {
        let mut command = home.command(args);
        command.env_remove("HOME");
        home.finish(command, b"")
    };
    assert_eq!(without(&["status", "--json"]).ok().json()["node"], NODE.to_string());
    let refused = without(&["topic", "create", "weather"]).fails(5);
    assert!(refused.stderr.contains("no key"), "{refused:?}");
    let refused = without(&["key", "new"]).fails(1);
    assert!(refused.stderr.contains("set HOME"), "{refused:?}");
}

#[test]
fn node_that_takes_no_writes_is_pointed_out() {
    let (home, node) = Home::with_node();
    let usual = home.bib(["status", "--json"]).ok().json();
    assert_eq!(usual["read_only"], serde_json::Value::Null);
    node.hook(|request| match request {
        Request::Status => {
            let mut status = crate::model_node::status();
            status.read_only = Some("the disk is full".to_owned());
            Some(Ok(vec![Event::Status(Box::new(status))]))
        }
        _ => None,
    });
    let ran = home.bib(["status", "-q"]).ok();
    assert_eq!(ran.stderr, "warning: the node takes no more writes: the disk is full\n");
}
