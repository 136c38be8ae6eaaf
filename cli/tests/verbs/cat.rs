//! `bib cat`.

use bib_core::api::{Event, Request};
use bib_core::hash::hash;
use bib_core::id::ContentId;
use bib_core::model::DatasetPath;
use bib_core::model::manifest::{Entry, EntryKind};

use crate::home::Home;

#[test]
fn bytes_and_ranges_go_to_stdout_unchanged() {
    let (home, _node) = Home::with_topic();
    let bytes: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    home.write("f.bin", &bytes);
    home.bib(["publish", "f.bin", "weather/f"]).ok();
    assert_eq!(home.bib(["cat", "weather/f"]).ok().out, bytes);
    assert_eq!(home.bib(["cat", "--range", "5-9", "weather/f"]).ok().out, &bytes[5..10]);
    assert_eq!(home.bib(["cat", "--range=1199990-", "weather/f"]).ok().out, &bytes[1_199_990..]);
    assert_eq!(home.bib(["get", "weather/f", "-o", "-"]).ok().out, bytes);
    home.bib(["cat", "weather/nothing"]).fails(3);
}

#[test]
fn bytes_that_are_not_those_of_the_version_are_an_integrity_error() {
    let (home, node) = Home::with_topic();
    node.hook(|request| match request {
        Request::Read { .. } => {
            let entry = Entry {
                path: DatasetPath::new("f").unwrap(),
                kind: EntryKind::File,
                size: 4,
                content: ContentId::from_bytes(hash(b"good")),
                offset: 0,
            };
            Some(Ok(vec![Event::Entry(entry), Event::Data(serde_bytes::ByteBuf::from(b"evil".as_slice()))]))
        }
        _ => None,
    });
    home.bib(["cat", "weather/f"]).fails(6);
}
