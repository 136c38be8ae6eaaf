//! `bib topic`.

use bib_core::api::Request;

use crate::home::Home;
use crate::snapshot::{self, masked};

#[test]
fn topics_are_made_listed_and_shown() {
    let (home, node) = Home::with_topic();
    home.write("t.sql", "CREATE TABLE t (a INTEGER)");
    let args = ["topic", "create", "weather/daily", "--tag", "noaa", "--tag", "b", "--schema", "t.sql"];
    let made = home.bib(args).ok();
    assert_eq!(made.stdout.trim(), node.world().topics["weather/daily"].id.to_string());
    home.bib(["topic", "create", "hourly", "--parent", "weather"]).ok();
    snapshot::check("topic-list", &masked(&home.bib(["topic", "list"]).ok().stdout));
    snapshot::check("topic-show", &masked(&home.bib(["topic", "show", "weather/daily"]).ok().stdout));
    let shown = home.bib(["topic", "show", "weather/daily", "--json"]).ok().json();
    assert_eq!(shown["tags"], serde_json::json!(["b", "noaa"]));
    assert_eq!(shown["schema"], "CREATE TABLE t (a INTEGER)");
    assert_eq!(shown["members"][0]["role"], "owner");
    let listed = home.bib(["topic", "list", "--json"]).ok().json_lines();
    assert_eq!(listed.len(), 3);
    let page = home.bib(["topic", "list", "--limit", "2"]).ok();
    assert_eq!(page.stderr, "2 of 3; the next ones: --offset 2\n");
    let behind = home.bib(["topic", "list", "--offset", "9"]).ok();
    assert_eq!(behind.stderr, "nothing at --offset 9: there are 3 in all\n");
    let none = home.bib(["topic", "list", "--limit", "0"]).fails(2);
    assert!(none.stderr.contains("nothing would be listed; the least is 1"), "{none:?}");
}

#[test]
fn topic_that_is_there_or_has_no_parent_is_refused_before_signing() {
    let (home, node) = Home::with_topic();
    let ran = home.bib(["topic", "create", "weather"]).fails(1);
    assert!(ran.stderr.contains("bib topic show weather"), "{ran:?}");
    let ran = home.bib(["topic", "create", "a/b/c"]).fails(3);
    assert!(ran.stderr.contains("bib topic create a/b`"), "{ran:?}");
    home.bib(["topic", "create", "x y"]).fails(2);
    home.bib(["topic", "create", "x", "--description", &"d".repeat(5_000)]).fails(2);
    let submits = node.world().requests.iter().filter(|request| matches!(request, Request::OpSubmit { .. })).count();
    assert_eq!(submits, 1);
    home.bib(["topic", "show", "nothing"]).fails(3);
}

#[test]
fn topic_is_archived_and_restored_and_deleted_when_the_user_says_so() {
    let (home, node) = Home::with_topic();
    let status = || home.bib(["topic", "show", "weather", "--json"]).ok().json()["status"].clone();
    assert!(home.bib(["topic", "archive", "weather"]).ok().stderr.contains("restore"));
    assert_eq!(status(), "archived");
    let n_ops = node.world().ops.len();
    home.bib(["topic", "archive", "weather"]).ok();
    assert_eq!(node.world().ops.len(), n_ops, "what is so already is not said again");
    assert_eq!(home.bib(["topic", "restore", "weather", "--json"]).ok().json()["status"], "active");
    assert_eq!(status(), "active");
    let asked = home.bib(["topic", "delete", "weather"]).fails(1);
    assert!(asked.stderr.contains("--yes"), "{asked:?}");
    home.bib(["topic", "delete", "weather", "--yes"]).ok();
    home.bib(["topic", "show", "weather"]).fails(3);
    home.bib(["topic", "delete", "weather", "--yes"]).fails(3);
}
