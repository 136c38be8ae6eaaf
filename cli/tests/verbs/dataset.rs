//! `bib dataset`.

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
