//! `bib publish`.

use std::io::Write;
use std::os::unix::fs::symlink;

use bib_core::api::{ErrorCode, Failure, Request};
use bib_core::model::ContentFormat;
use bib_core::model::manifest::EntryKind;

use crate::home::Home;
use crate::model_node::ModelNode;

fn n_ingests(node: &ModelNode) -> usize {
    node.world().requests.iter().filter(|request| matches!(request, Request::Ingest { .. })).count()
}

#[test]
fn file_becomes_the_first_version_and_changes_count_up() {
    let (home, node) = Home::with_topic();
    home.write("temps.csv", "a,b\n1,2\n");
    let ran = home.bib(["publish", "temps.csv", "weather/temps", "-m", "first", "--license", "CC0-1.0"]).ok();
    assert_eq!(ran.stdout, "weather/temps@1.0.0\n");
    assert!(ran.stderr.contains("8 B in 1 file, 8 B new"), "{ran:?}");
    home.write("temps.csv", "a,b\n1,3\n");
    assert_eq!(home.bib(["publish", "temps.csv", "weather/temps"]).ok().stdout, "weather/temps@1.0.1\n");
    home.write("temps.csv", "a,b\n1,4\n");
    let value = home.bib(["publish", "temps.csv", "weather/temps", "--bump", "minor", "--json"]).ok().json();
    assert_eq!(value["reference"], "weather/temps@1.1.0");
    assert_eq!(value["unchanged"], false);
    home.write("temps.csv", "a,b\n1,5\n");
    home.bib(["publish", "temps.csv", "weather/temps", "--version", "3.0.0-rc.1"]).ok();

    let world = node.world();
    let (_, first) = &world.versions[0];
    assert_eq!((first.message.as_str(), first.license.as_deref()), ("first", Some("CC0-1.0")));
    assert_eq!(first.format, ContentFormat::Csv);
    assert_eq!(first.content.as_bytes(), &bib_core::hash::hash(b"a,b\n1,2\n"));
    assert_eq!(world.versions[1].1.previous, Some(first.id));
    assert_eq!(world.versions[3].1.semver.to_string(), "3.0.0-rc.1");
    assert_eq!(value["version_id"], world.versions[2].1.id.to_string());
}

#[test]
fn unchanged_input_makes_no_version_unless_forced() {
    let (home, node) = Home::with_topic();
    home.write("f.csv", "x");
    home.bib(["publish", "f.csv", "weather/f"]).ok();
    let ran = home.bib(["publish", "f.csv", "weather/f"]).ok();
    assert_eq!(ran.stdout, "weather/f@1.0.0\n");
    assert!(ran.stderr.starts_with("unchanged"), "{ran:?}");
    assert_eq!(home.bib(["publish", "f.csv", "weather/f", "--json"]).ok().json()["unchanged"], true);
    assert_eq!(node.world().versions.len(), 1);
    home.bib(["publish", "f.csv", "weather/f", "--force"]).ok();
    assert_eq!(node.world().versions.len(), 2);
}

#[test]
fn tree_keeps_names_bits_and_empty_folders_and_names_what_it_skips() {
    let (home, node) = Home::with_topic();
    home.write("t/größe ü.csv", "x");
    home.write("t/a.b", "");
    home.write("t/a/c", "y".repeat(700_000));
    std::fs::create_dir(home.path("work/t/empty")).unwrap();
    symlink("/etc/passwd", home.path("work/t/link")).unwrap();
    let ran = home.bib(["publish", "t", "weather/tree"]).ok();
    assert!(ran.stderr.contains("warning: skipped symlink link\n"), "{ran:?}");
    let world = node.world();
    let content = &world.contents[&world.versions[0].1.manifest];
    let entries: Vec<(&str, EntryKind)> = content.iter().map(|(entry, _)| (entry.path.as_str(), entry.kind)).collect();
    assert_eq!(
        entries,
        [
            ("a.b", EntryKind::File),
            ("a/c", EntryKind::File),
            ("empty", EntryKind::EmptyDir),
            ("größe ü.csv", EntryKind::File)
        ]
    );
    assert_eq!(content[1].1.len(), 700_000);
    assert_eq!(world.versions[0].1.format, ContentFormat::Tree);
    assert_eq!(world.versions[0].1.n_files, 3);
}

#[test]
fn stdin_is_published_under_the_name_of_the_dataset() {
    let (home, node) = Home::with_topic();
    let bytes = vec![7; 600_000];
    home.bib_with_stdin(["publish", "-", "weather/stream", "--format", "csv"], &bytes).ok();
    let world = node.world();
    let content = &world.contents[&world.versions[0].1.manifest];
    assert_eq!(content[0].0.path.as_str(), "stream.csv");
    assert_eq!(content[0].1, bytes);
}

#[test]
fn everything_is_checked_before_a_byte_is_sent() {
    let (home, node) = Home::with_topic();
    home.write("f", "x");
    home.bib(["publish", "f", "weather/f"]).ok();
    let before = n_ingests(&node);
    let missing = home.bib(["publish", "f", "climate/f"]).fails(3);
    assert!(missing.stderr.contains("bib topic create climate"), "{missing:?}");
    let taken = home.bib(["publish", "f", "weather/f", "--version", "1.0.0"]).fails(1);
    assert!(taken.stderr.contains("is there already"), "{taken:?}");
    home.bib(["publish", "f", "weather/f@1.0.0"]).fails(1);
    home.bib(["publish", "f", "weather/f", "--version", "1.0.0+build"]).fails(2);
    home.bib(["publish", "f", "weather/f@2.0.0", "--version", "2.0.1"]).fails(2);
    home.bib(["publish", "f", "weather/f", "-m", &"m".repeat(5_000)]).fails(2);
    home.bib(["publish", "f", "weather/f", "--schema", "missing.sql"]).fails(3);
    std::fs::create_dir_all(home.path("work/nothing")).unwrap();
    home.bib(["publish", "nothing", "weather/n"]).fails(2);
    std::fs::create_dir_all(home.path("work/bad")).unwrap();
    let name = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff.csv".as_slice());
    std::fs::write(home.path("work/bad").join::<&std::ffi::OsStr>(name), "x").unwrap();
    let bad = home.bib(["publish", "bad", "weather/bad"]).fails(2);
    assert!(bad.stderr.contains("is not UTF-8"), "{bad:?}");
    assert_eq!(n_ingests(&node), before);
}

#[test]
fn datapackage_gives_defaults_that_flags_override() {
    let (home, node) = Home::with_topic();
    home.write(
        "t/datapackage.json",
        r#"{"name": "stations", "description": "Where they are", "licenses": [{"name": "ODbL-1.0"}],
            "sources": [{"path": "https://example.org/s"}], "keywords": ["geo", "noaa"]}"#,
    );
    assert_eq!(home.bib(["publish", "t", "weather/"]).ok().stdout, "weather/stations@1.0.0\n");
    home.write("t/more", "x");
    home.bib(["publish", "t", "weather/stations", "--license", "CC0-1.0", "--tag", "new"]).ok();
    let world = node.world();
    let dataset = &world.datasets["weather/stations"];
    assert_eq!(dataset.description, "Where they are");
    assert_eq!(dataset.tags.iter().collect::<Vec<_>>(), ["geo", "new", "noaa"]);
    assert_eq!(world.versions[0].1.license.as_deref(), Some("ODbL-1.0"));
    assert_eq!(world.versions[0].1.source_url.as_deref(), Some("https://example.org/s"));
    assert_eq!(world.versions[1].1.license.as_deref(), Some("CC0-1.0"));
}

#[test]
fn failure_of_the_node_during_an_upload_is_what_is_shown() {
    let (home, node) = Home::with_topic();
    home.write("big", vec![1; 8 << 20]);
    node.hook(|request| match request {
        Request::Ingest { .. } => {
            Some(Err(Failure::new(ErrorCode::Quota, "the disk is full").hinted("free some space")))
        }
        _ => None,
    });
    let ran = home.bib(["publish", "big", "weather/big"]).fails(1);
    assert_eq!(ran.stderr, "error: the disk is full\nhint: free some space\n");
    assert!(node.world().versions.is_empty());
}

#[test]
fn node_that_dies_during_an_upload_is_an_error_and_not_a_hang() {
    let (home, node) = Home::with_topic();
    home.write("big", vec![1; 8 << 20]);
    node.world().hang_up_after = Some(1 << 20);
    let ran = home.bib(["publish", "big", "weather/big"]).fails(4);
    assert!(ran.stderr.contains("the node ended the session"), "{ran:?}");
}

#[test]
fn node_that_goes_while_stdin_is_silent_is_an_error_and_not_a_hang() {
    let (home, node) = Home::with_topic();
    node.world().hang_up_after = Some(1);
    let mut command = home.command(["publish", "-", "weather/stream"]);
    let (from, mut to) = std::io::pipe().unwrap();
    command.stdin(from);
    // Enough for a first part; what follows never comes, and the pipe stays open.
    let writer = std::thread::spawn(move || {
        // The command may be gone before all is written.
        let _ = to.write_all(&vec![7; 600_000]);
        to
    });
    let ran = home.finish(command, b"").fails(4);
    assert!(ran.stderr.contains("the node ended the session"), "{ran:?}");
    drop(writer.join().unwrap());
    assert!(node.world().versions.is_empty());
}

#[test]
fn file_that_changes_during_the_upload_publishes_nothing() {
    let (home, node) = Home::with_topic();
    home.write("big", vec![1; 8 << 20]);
    let file = std::fs::File::options().write(true).open(home.path("work/big")).unwrap();
    // Most of it is still to be read then: the socket holds far less.
    node.world().on_first_bytes = Some(Box::new(move || file.set_len(4 << 20).unwrap()));
    let ran = home.bib(["publish", "big", "weather/big"]).fails(1);
    assert_eq!(
        ran.stderr,
        "error: `big` changed while it was read; nothing was published\n\
         hint: publish again when nothing writes to it\n"
    );
    assert!(node.world().versions.is_empty() && node.world().contents.is_empty());
}

#[test]
fn withdrawn_numbers_are_not_used_again() {
    let (home, node) = Home::with_topic();
    for text in ["1", "2", "3"] {
        home.write("f", text);
        home.bib(["publish", "f", "weather/f"]).ok();
    }
    {
        let mut world = node.world();
        let first = world.versions[0].1.id;
        world.datasets.get_mut("weather/f").unwrap().latest = Some(first);
    }
    home.write("f", "4");
    assert_eq!(home.bib(["publish", "f", "weather/f"]).ok().stdout, "weather/f@1.0.3\n");
}

#[test]
fn bytes_stay_in_their_files_when_the_node_can_read_these() {
    let (home, node) = Home::with_topic();
    home.write("t/a.csv", "x".repeat(1_000));
    home.write("t/b/c.csv", "y");
    symlink(home.path("work/t"), home.path("work/link")).unwrap();
    let ran = home.bib(["publish", "--reference", "link", "weather/tree"]).ok();
    assert!(ran.stderr.contains("stay in their files"), "{ran:?}");
    let real = home.path("work/t").canonicalize().unwrap();
    let place = |name: &str| real.join(name).into_os_string().into_encoded_bytes();
    let world = node.world();
    assert_eq!(world.places["a.csv"], place("a.csv"));
    assert_eq!(world.places["b/c.csv"], place("b/c.csv"));
    let asked: Vec<&Request> =
        world.requests.iter().filter(|request| matches!(request, Request::MayReference { .. })).collect();
    let [Request::MayReference { files }] = asked[..] else { panic!("{asked:?}") };
    assert_eq!(files.len(), 2);
    drop(world);
    assert!(home.bib(["dataset", "show", "weather/tree"]).ok().stdout.contains("stay in files of their owner"));
}

#[test]
fn file_that_the_node_cannot_read_is_refused_before_anything_is_sent() {
    let (home, node) = Home::with_topic();
    home.write("f.csv", "x");
    node.hook(|request| match request {
        Request::MayReference { .. } => {
            Some(Err(Failure::new(ErrorCode::Precondition, "the node cannot read it").hinted("let it")))
        }
        _ => None,
    });
    let ran = home.bib(["publish", "f.csv", "weather/f", "--reference"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("hint: let it"), "{ran:?}");
    assert!(node.world().places.is_empty() && node.world().contents.is_empty());
    assert!(!node.world().requests.iter().any(|request| matches!(request, Request::IngestInPlace { .. })));
}

#[test]
fn stdin_has_no_file_to_stay_in() {
    let (home, _node) = Home::with_topic();
    let ran = home.bib(["publish", "-", "weather/f", "--reference"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.stderr.contains("hint"), "{ran:?}");
}
