//! `bib publish --reference`: the bytes stay in the user's file.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bib_benches::failure::During;
use bib_benches::generate::{self, Rng};
use bib_benches::lab::{Home, Running};
use bib_benches::{Result, same};
use serde_json::Value;

use crate::world::{One, PATIENCE, Two, ensure, get, refused, sees, text, write};

const LEN: u64 = 100 << 20;

fn publish_in_place(home: &Home, path: &Path, reference: &str) -> Result<Value> {
    home.json(["publish", "--reference", text(path)?, reference])
}

fn segment_bytes(home: &Home) -> Result<u64> {
    let mut total = 0;
    for entry in std::fs::read_dir(home.data_dir().join("segments")).during("list segments")? {
        let entry = entry.during("list segments")?;
        if entry.file_name().to_string_lossy().ends_with(".seg") {
            total += entry.metadata().during("look at a segment")?.len();
        }
    }
    Ok(total)
}

/// Turns one byte over, in place.
fn flip(path: &Path, at: u64) -> Result<()> {
    let file = std::fs::File::options().read(true).write(true).open(path).during("open")?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).during("read")?;
    file.write_all_at(&[!byte[0]], at).during("write")
}

#[test]
fn referenced_file_takes_no_space_and_is_refused_only_while_it_differs() -> Result<()> {
    let two = Two::start()?;
    let file = two.a.work("big.bin");
    generate::noise(&file, LEN, 11)?;
    let published = publish_in_place(&two.a, &file, "t/big")?;
    ensure(published["referenced_bytes"] == LEN, || published.to_string())?;
    let taken = segment_bytes(&two.a)?;
    ensure(taken < 1 << 20, || format!("{taken} bytes in segments"))?;
    let shown = two.a.json(["dataset", "show", "t/big"])?;
    ensure(shown["referenced_bytes"] == LEN, || shown.to_string())?;
    ensure(two.a.figure("referenced_bytes")? == LEN, || "the status says otherwise".to_owned())?;
    same::file(&file, &get(&two.a, "t/big", "out")?)?;

    flip(&file, LEN / 2)?;
    let ran = two.a.run(["get", "t/big", "-o", "changed"])?;
    refused(&ran, 1)?;
    ensure(ran.stderr.contains(text(&file)?) && ran.stderr.contains("verify --repair"), || ran.stderr.clone())?;
    // What did not change is still given.
    two.a.bib(["cat", "t/big", "--range", "0-9"])?;
    flip(&file, LEN / 2)?;
    same::file(&file, &get(&two.a, "t/big", "again")?)?;

    sees(&two.b, "t/big@1.0.0")?;
    same::file(&file, &get(&two.b, "t/big", "out")?)?;

    std::fs::create_dir(two.a.work("elsewhere")).during("mkdir")?;
    let moved = two.a.work("elsewhere/big.bin");
    std::fs::rename(&file, &moved).during("rename")?;
    refused(&two.a.run(["get", "t/big", "-o", "gone"])?, 1)?;
    // Publishing from the new place changes no version, and heals.
    let again = publish_in_place(&two.a, &moved, "t/big")?;
    ensure(again["unchanged"] == true, || again.to_string())?;
    same::file(&moved, &get(&two.a, "t/big", "healed")?)?;
    // Publishing without the switch takes the bytes in.
    two.a.bib(["publish", "elsewhere/big.bin", "t/big"])?;
    ensure(two.a.figure("referenced_bytes")? == 0, || "the bytes are not in the store".to_owned())?;
    std::fs::remove_file(&moved).during("remove")?;
    same::file(&two.b.work("out"), &get(&two.a, "t/big", "stored")?)
}

#[test]
fn tree_in_place_keeps_large_files_where_they_are_and_comes_back_whole() -> Result<()> {
    let one = One::start()?;
    std::fs::create_dir_all(one.home.work("tree")).during("mkdir")?;
    generate::noise(&one.home.work("tree/big.bin"), 5 << 20, 3)?;
    generate::csv(&one.home.work("tree/rows.csv"), 3 << 20, 4, None)?;
    for n in 0..300 {
        write(&one.home, &format!("tree/small/{n}"), format!("{n}").repeat(n))?;
    }
    write(&one.home, "tree/empty", "")?;
    let published = publish_in_place(&one.home, &one.home.work("tree"), "t/tree")?;
    let (referenced, size) = (published["referenced_bytes"].as_u64(), published["size"].as_u64());
    ensure(referenced >= Some(8 << 20) && referenced < size, || published.to_string())?;
    same::tree(&one.home.work("tree"), &get(&one.home, "t/tree", "out")?)
}

#[test]
fn file_that_the_node_must_not_read_is_refused_before_anything_is_sent() -> Result<()> {
    let one = One::start()?;
    let inside = one.home.data_dir().join("catalog.redb");
    refused(&one.home.run(["publish", "--reference", text(&inside)?, "t/self"])?, 2)?;
    ensure(one.home.figure("chunks")? == 0, || "something was stored".to_owned())
}

#[test]
fn publisher_in_place_killed_at_any_moment_leaves_a_store_that_works() -> Result<()> {
    let mut rng = Rng::new(5);
    let mut one = One::start()?;
    let file = one.home.work("big.bin");
    generate::noise(&file, 24 << 20, 6)?;
    for round in 0..4 {
        let reference = format!("t/d{round}");
        let mut command = one.home.bib_command(["publish", "--reference", "big.bin", &reference, "--quiet"]);
        let mut publisher = Running::start(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
        let ended = publisher.ended(Duration::from_micros(rng.below(250_000)))?;
        one.node.kill();
        let ended = if ended.is_some() { ended } else { publisher.ended(PATIENCE)? };
        let (status, _) = ended.ok_or("bib publish hangs after its node died")?;
        one.node = one.home.start()?;
        if status.success() {
            same::file(&file, &get(&one.home, &reference, "out")?)?;
        }
    }
    publish_in_place(&one.home, &file, "t/last")?;
    same::file(&file, &get(&one.home, "t/last", "out")?)?;
    let taken = segment_bytes(&one.home)?;
    ensure(taken < 1 << 20, || format!("{taken} bytes in segments"))
}

#[test]
fn bytes_of_a_file_that_is_gone_are_fetched_from_peers_when_asked_for() -> Result<()> {
    let two = Two::start()?;
    let file = two.a.work("big.bin");
    generate::noise(&file, 8 << 20, 12)?;
    publish_in_place(&two.a, &file, "t/big")?;
    sees(&two.b, "t/big@1.0.0")?;
    let copy = get(&two.b, "t/big", "out")?;
    std::fs::remove_file(&file).during("remove")?;
    let looked = two.a.run(["dataset", "verify", "t/big"])?;
    ensure(looked.code != Some(0), || format!("{looked:?}"))?;
    ensure(two.a.json(["status"])?["read_only"].is_null(), || "the store counts as damaged".to_owned())?;
    // A collection and a scrub take it for what it is.
    two.a.bib(["admin", "gc"])?;
    two.a.bib(["admin", "scrub"])?;
    two.a.bib(["dataset", "verify", "t/big", "--repair"])?;
    same::file(&copy, &get(&two.a, "t/big", "mended")?)?;
    ensure(two.a.figure("referenced_bytes")? == 0, || "what came from the peer is not stored".to_owned())?;
    two.a.bib(["admin", "rebuild"])?;
    same::file(&copy, &get(&two.a, "t/big", "again")?)
}

#[test]
fn encrypted_node_hides_where_files_lie_and_reads_them_there() -> Result<()> {
    let mut one = One::configured("[crypto]\nenabled = true\n")?;
    let file = one.home.work("secretname.bin");
    generate::noise(&file, 4 << 20, 13)?;
    publish_in_place(&one.home, &file, "t/big")?;
    same::file(&file, &get(&one.home, "t/big", "out")?)?;
    for entry in std::fs::read_dir(one.home.data_dir().join("segments")).during("list segments")? {
        let bytes = std::fs::read(entry.during("list segments")?.path()).during("read a segment")?;
        ensure(!bytes.windows(10).any(|window| window == b"secretname"), || "the path can be read".to_owned())?;
    }
    one.node.kill();
    one.node = one.home.start()?;
    one.home.bib(["admin", "rebuild"])?;
    ensure(one.home.figure("referenced_bytes")? == 4 << 20, || "the references are gone".to_owned())?;
    same::file(&file, &get(&one.home, "t/big", "again")?)
}
