//! `bib dataset`.

use bib_core::api::care::{Hurt, Verified};
use bib_core::api::{ErrorCode, Event, Failure, Request};
use bib_core::model::{DatasetPath, VersionStatus};

use crate::home::Home;
use crate::snapshot::{self, masked};

#[test]
fn datasets_and_versions_are_listed_and_shown() {
    let (home, _node) = Home::with_topic();
    home.write("temps.csv", "a,b\n1,2\n");
    home.bib(["publish", "temps.csv", "weather/temps", "-m", "first", "--tag", "noaa"]).ok();
    home.write("temps.csv", "a,b\n1,2\n3,4\n");
    home.bib(["publish", "temps.csv", "weather/temps", "-m", "more\nrows", "--source", "https://example.org"]).ok();
    snapshot::check("dataset-list", &masked(&home.bib(["dataset", "list"]).ok().stdout));
    let shown = home.bib(["dataset", "show", "weather/temps"]).ok().stdout;
    assert!(shown.contains("1.0.1") && shown.contains("https://example.org"), "{shown}");
    let old = home.bib(["dataset", "show", "weather/temps@1.0.0", "--json"]).ok().json();
    assert_eq!(old["version"]["version"], "1.0.0");
    assert_eq!(old["version"]["message"], "first");
    assert_eq!(old["versions"], 2);
    let versions = home.bib(["dataset", "versions", "weather/temps", "--json"]).ok().json_lines();
    assert_eq!(
        versions.iter().map(|version| version["version"].as_str().unwrap()).collect::<Vec<_>>(),
        ["1.0.1", "1.0.0"]
    );
    let table = home.bib(["dataset", "versions", "weather/temps"]).ok().stdout;
    assert_eq!(table.lines().count(), 3, "a message of two lines stays in its row: {table}");
    home.bib(["dataset", "show", "weather/nothing"]).fails(3);
}

#[test]
fn nothing_to_list_says_what_to_do_on_stderr_only() {
    let (home, _node) = Home::with_node();
    let ran = home.bib(["dataset", "list"]).ok();
    assert_eq!(ran.stdout, "");
    assert!(ran.stderr.contains("bib publish"), "{ran:?}");
    assert_eq!(home.bib(["dataset", "list", "-q"]).ok().stderr, "");
}

#[test]
fn dataset_is_archived_and_restored_and_deleted_when_the_user_says_so() {
    let (home, node) = Home::with_topic();
    home.write("temps.csv", "a,b\n1,2\n");
    home.bib(["publish", "temps.csv", "weather/temps"]).ok();
    let status = || home.bib(["dataset", "show", "weather/temps", "--json"]).ok().json()["status"].clone();
    assert!(home.bib(["dataset", "archive", "weather/temps"]).ok().stderr.contains("restore"));
    assert_eq!(status(), "archived");
    let n_ops = node.world().ops.len();
    home.bib(["dataset", "archive", "weather/temps"]).ok();
    assert_eq!(node.world().ops.len(), n_ops, "what is so already is not said again");
    assert_eq!(home.bib(["dataset", "restore", "weather/temps", "--json"]).ok().json()["status"], "active");
    assert_eq!(status(), "active");
    let asked = home.bib(["dataset", "delete", "weather/temps"]).fails(1);
    assert!(asked.stderr.contains("--yes"), "{asked:?}");
    assert_eq!(status(), "active");
    home.bib(["dataset", "delete", "weather/temps", "--yes"]).ok();
    home.bib(["dataset", "show", "weather/temps"]).fails(3);
    home.bib(["dataset", "delete", "weather/temps", "--yes"]).fails(3);
    home.bib(["dataset", "delete", "weather/temps@1.0.0", "--yes"]).fails(2);
}

#[test]
fn version_is_withdrawn_by_its_number_only() {
    let (home, node) = Home::with_topic();
    home.write("temps.csv", "a,b\n1,2\n");
    home.bib(["publish", "temps.csv", "weather/temps"]).ok();
    let vague = home.bib(["dataset", "withdraw", "weather/temps"]).fails(2);
    assert!(vague.stderr.contains("@1.2.0"), "{vague:?}");
    home.bib(["dataset", "withdraw", "weather/temps@1.0.0"]).ok();
    assert_eq!(node.world().versions[0].1.status, VersionStatus::Withdrawn);
    let listed = home.bib(["dataset", "versions", "weather/temps"]).ok().stdout;
    assert!(listed.contains("1.0.0 withdrawn"), "{listed}");
}

#[test]
fn content_is_pinned_and_listed_and_unpinned_as_it_is_listed() {
    let (home, node) = Home::with_topic();
    home.write("temps.csv", "a,b\n1,2\n");
    home.bib(["publish", "temps.csv", "weather/temps"]).ok();
    assert!(home.bib(["dataset", "pins"]).ok().stderr.contains("bib dataset pin"));
    assert!(home.bib(["dataset", "pin", "weather/temps"]).ok().stdout.contains("weather/temps@1.0.0 is kept"));
    let listed = home.bib(["dataset", "pins", "--json"]).ok().json();
    assert_eq!(listed["reference"], "weather/temps@1.0.0");
    assert!(home.bib(["dataset", "pins"]).ok().stdout.contains("weather/temps@1.0.0"));
    // Even when the dataset is gone.
    home.bib(["dataset", "delete", "weather/temps", "--yes"]).ok();
    home.bib(["dataset", "unpin", "weather/temps@1.0.0"]).ok();
    assert!(node.world().pins.is_empty());
    home.bib(["dataset", "unpin", "weather/temps@1.0.0"]).fails(3);
}

#[test]
fn check_of_a_version_names_the_files_that_are_not_whole() {
    let (home, node) = Home::with_topic();
    home.write("temps.csv", "a,b\n1,2\n");
    home.bib(["publish", "temps.csv", "weather/temps"]).ok();
    let right = home.bib(["dataset", "verify", "weather/temps"]).ok();
    assert_eq!(right.stdout, "weather/temps@1.0.0: 8 B in 2 chunks are right\n");
    assert_eq!(home.bib(["dataset", "verify", "weather/temps", "--json"]).ok().json()["damaged"], 0);
    node.hook(|request| match request {
        Request::Verify { repair: true, .. } => Some(Ok(vec![
            Event::Hurt(Hurt { path: Some(DatasetPath::new("a\u{1b}b.csv").unwrap()), damaged: 1, missing: 2 }),
            Event::Hurt(Hurt { path: None, damaged: 1, missing: 0 }),
            Event::Verified(Verified {
                reference: "weather/temps@1.0.0".to_owned(),
                fetched: 2_048,
                ..Verified::default()
            }),
        ])),
        Request::Verify { .. } => Some(Err(Failure::new(ErrorCode::Integrity, "not whole").hinted("`--repair`"))),
        _ => None,
    });
    let ran = home.bib(["dataset", "verify", "weather/temps"]).fails(6);
    assert!(ran.stderr.contains("--repair"), "{ran:?}");
    let ran = home.bib(["dataset", "verify", "weather/temps", "--repair"]).ok();
    assert!(ran.stdout.contains("(the list of files)") && ran.stdout.contains("mended with 2.0 KiB"), "{ran:?}");
    assert!(!ran.stdout.contains('\u{1b}'), "{ran:?}");
}
