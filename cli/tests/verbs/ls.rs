//! `bib ls`.

use crate::home::Home;
use crate::snapshot;

#[test]
fn entries_are_listed_one_a_line() {
    let (home, _node) = Home::with_topic();
    home.write("t/a b.csv", "x");
    home.write("t/sub/new\nline", "y");
    std::fs::create_dir(home.path("work/t/empty")).unwrap();
    home.bib(["publish", "t", "weather/t"]).ok();
    assert_eq!(home.bib(["ls", "weather/t"]).ok().stdout, "a b.csv\nempty/\nsub/new\u{fffd}line\n");
    snapshot::check("ls-long", &home.bib(["ls", "-l", "weather/t"]).ok().stdout);
    assert_eq!(home.bib(["ls", "weather/t:sub"]).ok().stdout, "sub/new\u{fffd}line\n");
    let json = home.bib(["ls", "weather/t", "--json"]).ok().json_lines();
    assert_eq!(json[2]["path"], "sub/new\nline");
    assert_eq!(json[1]["kind"], "empty_dir");
}
