//! `bib find`.

use bib_core::api::Request;
use bib_core::model::ContentFormat;

use crate::home::Home;
use crate::snapshot::{self, masked};

#[test]
fn query_reaches_the_node_and_hits_are_printed() {
    let (home, node) = Home::with_topic();
    for name in ["temps", "wind"] {
        home.write("f.csv", name);
        home.bib(["publish", "f.csv", &format!("weather/{name}")]).ok();
    }
    snapshot::check("find", &masked(&home.bib(["find"]).ok().stdout));
    let hits = home.bib(["find", "wind", "--json"]).ok().json_lines();
    assert_eq!(hits.len(), 1);
    assert_eq!((&hits[0]["path"], &hits[0]["format"]), (&"weather/wind".into(), &"csv".into()));
    home.bib(["find", "two", "words", "--tag", "x", "--format", "csv", "--topic", "weather", "--limit", "3"]).ok();
    let world = node.world();
    let Some(Request::Find(query)) = world.requests.last() else { panic!("a query was sent") };
    assert_eq!(query.text.as_deref(), Some("two words"));
    assert_eq!((query.tag.as_deref(), query.topic.as_deref()), (Some("x"), Some("weather")));
    assert_eq!((query.format, query.limit), (Some(ContentFormat::Csv), 3));
}
