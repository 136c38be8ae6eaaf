//! `bib get`.

use std::os::unix::fs::{PermissionsExt, symlink};

use bib_core::api::{Event, Request};
use bib_core::hash::hash;
use bib_core::id::ContentId;
use bib_core::model::DatasetPath;
use bib_core::model::manifest::{Entry, EntryKind};

use crate::home::Home;

fn with_tree() -> (Home, crate::model_node::ModelNode) {
    let (home, node) = Home::with_topic();
    home.write("t/2024/jan.csv", "january");
    home.write("t/2024/feb.csv", "february");
    home.write("t/readme", "");
    home.write("t/run.sh", "#!");
    std::fs::set_permissions(home.path("work/t/run.sh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::create_dir_all(home.path("work/t/empty")).unwrap();
    home.bib(["publish", "t", "weather/tree"]).ok();
    (home, node)
}

#[test]
fn file_is_written_under_the_name_of_the_dataset_or_where_it_is_told() {
    let (home, _node) = Home::with_topic();
    let bytes = vec![3; 500_000];
    home.write("f.csv", &bytes);
    home.bib(["publish", "f.csv", "weather/temps"]).ok();
    assert_eq!(home.bib(["get", "weather/temps"]).ok().stdout, "temps\n");
    assert_eq!(home.read("temps"), bytes);
    home.bib(["get", "weather/temps", "-o", "out/x.csv"]).ok();
    assert_eq!(home.read("out/x.csv"), bytes);
    // Into a folder it keeps its own name.
    let value = home.bib(["get", "weather/temps@1.0.0", "-o", "out", "--json"]).ok().json();
    assert_eq!(value["out"], "out/f.csv");
    assert_eq!(value["size"], 500_000);
    assert_eq!(home.read("out/f.csv"), bytes);
}

#[test]
fn tree_is_written_whole_in_part_and_by_pattern() {
    let (home, _node) = with_tree();
    let ran = home.bib(["get", "weather/tree"]).ok();
    assert_eq!(ran.stdout, "tree\n");
    assert!(ran.stderr.contains("17 B in 4 files, verified"), "{ran:?}");
    assert_eq!(home.read("tree/2024/jan.csv"), b"january");
    assert!(home.path("work/tree/empty").is_dir());
    assert_ne!(std::fs::metadata(home.path("work/tree/run.sh")).unwrap().permissions().mode() & 0o100, 0);

    home.bib(["get", "weather/tree:2024", "-o", "y"]).ok();
    assert_eq!(home.read("y/feb.csv"), b"february");
    home.bib(["get", "weather/tree:2024/jan.csv"]).ok();
    assert_eq!(home.read("jan.csv"), b"january");
    home.bib(["get", "weather/tree", "--paths", "*.sh", "--paths", "2024/f*", "-o", "some"]).ok();
    assert_eq!(home.read("some/2024/feb.csv"), b"february");
    assert!(!home.path("work/some/2024/jan.csv").exists() && !home.path("work/some/readme").exists());
    let none = home.bib(["get", "weather/tree", "--paths", "*.zip", "-o", "none"]).fails(3);
    assert!(none.stderr.contains("bib ls weather/tree@1.0.0"), "{none:?}");
}

#[test]
fn files_are_replaced_and_links_out_of_the_tree_are_not_followed() {
    let (home, _node) = with_tree();
    home.write("outside/jan.csv", "safe");
    home.write("out/readme", "old");
    symlink(home.path("work/outside"), home.path("work/out/2024")).unwrap();
    let ran = home.bib(["get", "weather/tree", "-o", "out"]).fails(1);
    assert!(ran.stderr.contains("is a symlink"), "{ran:?}");
    assert_eq!(home.read("outside/jan.csv"), b"safe");
    std::fs::remove_file(home.path("work/out/2024")).unwrap();
    home.bib(["get", "weather/tree", "-o", "out"]).ok();
    assert_eq!(home.read("out/readme"), b"");
    let names: Vec<_> =
        std::fs::read_dir(home.path("work/out")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 4, "no temporary file is left: {names:?}");
}

fn lying_entry(path: &str, content: &[u8]) -> Event {
    // A path is checked where it enters, so a lie has to be made of a right one.
    Event::Entry(Entry {
        path: DatasetPath::new(path).unwrap(),
        kind: EntryKind::File,
        size: content.len() as u64,
        content: ContentId::from_bytes(hash(content)),
        offset: 0,
    })
}

#[test]
fn lying_node_leaves_no_file() {
    for answer in [
        vec![lying_entry("a", b"good"), Event::Data(serde_bytes::ByteBuf::from(b"evil".as_slice()))],
        vec![lying_entry("a", b"good"), Event::Data(serde_bytes::ByteBuf::from(b"goo".as_slice()))],
        vec![Event::Data(serde_bytes::ByteBuf::from(b"goo".as_slice()))],
    ] {
        let (home, node) = with_tree();
        node.hook(move |request| {
            matches!(request, Request::ReadAll { .. } | Request::ReadAllOrOriginals { .. }).then(|| Ok(answer.clone()))
        });
        let ran = home.bib(["get", "weather/tree", "-o", "out"]);
        assert!(matches!(ran.code, 6 | 70), "{ran:?}");
        assert_eq!(std::fs::read_dir(home.path("work/out")).unwrap().count(), 0);
    }
}

#[test]
fn single_file_must_be_the_one_that_the_version_names() {
    let (home, node) = Home::with_topic();
    home.write("f", "real");
    home.bib(["publish", "f", "weather/f"]).ok();
    let answer = vec![lying_entry("f", b"fake"), Event::Data(serde_bytes::ByteBuf::from(b"fake".as_slice()))];
    node.hook(move |request| {
        matches!(request, Request::ReadAll { .. } | Request::ReadAllOrOriginals { .. }).then(|| Ok(answer.clone()))
    });
    home.write("out", "old");
    home.bib(["get", "weather/f", "-o", "out"]).fails(6);
    assert_eq!(home.read("out"), b"old");
}

#[test]
fn path_that_was_not_asked_for_is_refused() {
    let (home, node) = with_tree();
    let answer = vec![lying_entry("elsewhere/jan.csv", b"")];
    node.hook(move |request| {
        matches!(request, Request::ReadAll { .. } | Request::ReadAllOrOriginals { .. }).then(|| Ok(answer.clone()))
    });
    let ran = home.bib(["get", "weather/tree:2024", "-o", "out"]).fails(6);
    assert!(ran.stderr.contains("was not asked for"), "{ran:?}");
}

#[test]
fn file_is_there_whether_its_original_can_be_cloned_or_not() {
    let (home, node) = Home::with_topic();
    let bytes = "x,y\n".repeat(50_000);
    home.write("original.csv", &bytes);
    home.bib(["publish", "original.csv", "weather/f"]).ok();
    let entry = node.world().contents.values().next().unwrap()[0].0.clone();
    // The right file, one with other bytes of the same length, and none.
    home.write("other.csv", "y,x\n".repeat(50_000));
    for original in ["work/original.csv", "work/other.csv", "work/absent.csv"] {
        let path = home.path(original).into_os_string().into_encoded_bytes().into();
        let answer = vec![Event::Entry(entry.clone()), Event::Original { path }];
        node.hook(move |request| matches!(request, Request::ReadAllOrOriginals { .. }).then(|| Ok(answer.clone())));
        let value = home.bib(["get", "weather/f", "-o", "out.csv", "--json"]).ok().json();
        assert_eq!(value["size"], bytes.len() as u64);
        assert!(value["cloned_bytes"] == 0 || original == "work/original.csv", "{value}");
        assert_eq!(value["files"], 1);
        assert_eq!(std::fs::read_to_string(home.path("work/out.csv")).unwrap(), bytes);
    }
}
