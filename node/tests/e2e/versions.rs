//! Versions of a dataset, on the node that makes them and on another.

use std::process::Stdio;

use bib_benches::failure::During;
use bib_benches::lab::Running;
use bib_benches::{Result, generate, same};

use crate::world::{One, PATIENCE, Two, ensure, get, publish, refused, sees, write};

#[test]
fn unchanged_input_makes_no_version() -> Result<()> {
    let two = Two::start()?;
    let file = write(&two.a, "f.csv", "a,b\n1,2\n")?;
    publish(&two.a, &file, "t/f")?;
    let again = publish(&two.a, &file, "t/f")?;
    ensure(again["unchanged"] == true && again["version"] == "1.0.0", || again.to_string())?;
    write(&two.a, "f.csv", "a,b\n1,3\n")?;
    let changed = publish(&two.a, &file, "t/f")?;
    ensure(changed["unchanged"] == false && changed["version"] == "1.0.1", || changed.to_string())?;
    sees(&two.b, "t/f@1.0.1")?;
    let versions = two.b.bib(["dataset", "versions", "t/f", "--json"])?.json_lines()?;
    ensure(versions.len() == 2, || format!("{versions:?}"))
}

#[test]
fn second_version_sends_only_what_is_new() -> Result<()> {
    const LEN: u64 = 16 << 20;
    let two = Two::start()?;
    let file = two.a.work("data.csv");
    generate::csv(&file, LEN, 4, None)?;
    publish(&two.a, &file, "t/data")?;
    sees(&two.b, "t/data@1.0.0")?;
    get(&two.b, "t/data@1.0.0", "first")?;
    let before = two.b.figure("wire_received")?;

    generate::csv(&file, LEN, 4, Some("S9999,2026-06-15T12:00:00Z,21.5,40,1013.2,3.1,0\n"))?;
    let published = publish(&two.a, &file, "t/data")?;
    let new = published["new_bytes"].as_u64().unwrap_or(u64::MAX);
    ensure(new <= 3 << 20, || format!("{new} bytes are new for one row"))?;
    sees(&two.b, "t/data@1.0.1")?;
    same::file(&file, &get(&two.b, "t/data@1.0.1", "second")?)?;
    let sent = two.b.figure("wire_received")? - before;
    ensure(sent <= new + (64 << 10), || format!("{sent} bytes were sent for {new} new ones"))
}

#[test]
fn versions_of_both_owners_names_and_numbers_are_refused_when_they_are_taken() -> Result<()> {
    let two = Two::start()?;
    let file = write(&two.a, "f.txt", "one")?;
    two.a.json(["publish", "f.txt", "t/f", "--version", "2.0.0"])?;
    std::fs::write(&file, "two").during("write")?;
    refused(&two.a.run(["publish", "f.txt", "t/f", "--version", "2.0.0"])?, 1)?;
    let next = two.a.json(["publish", "f.txt", "t/f", "--bump", "minor"])?;
    ensure(next["version"] == "2.1.0", || next.to_string())?;
    refused(&two.a.run(["topic", "create", "t"])?, 1)?;

    // Another user has no right in this topic.
    sees(&two.b, "t/f@2.1.0")?;
    two.b.bib(["key", "new"])?;
    write(&two.b, "mine.txt", "mine")?;
    refused(&two.b.run(["publish", "mine.txt", "t/f"])?, 5)?;
    let versions = two.a.bib(["dataset", "versions", "t/f", "--json"])?.json_lines()?;
    ensure(versions.len() == 2, || format!("{versions:?}"))
}

#[test]
fn node_that_was_away_learns_everything_when_it_comes_back() -> Result<()> {
    let mut two = Two::start()?;
    let first = write(&two.a, "1.txt", "first")?;
    publish(&two.a, &first, "t/one")?;
    sees(&two.b, "t/one@1.0.0")?;
    two.node_b.stop()?;
    let second = write(&two.a, "2.txt", "second")?;
    two.a.bib(["topic", "create", "t/below"])?;
    publish(&two.a, &second, "t/below/two")?;
    two.node_b = two.b.start()?;
    sees(&two.b, "t/one@1.0.0")?;
    two.b.bib(["peer", "connect", &crate::world::address(&two.a)?])?;
    sees(&two.b, "t/below/two@1.0.0")?;
    same::file(&second, &get(&two.b, "t/below/two", "out")?)?;
    ensure(two.node_a.usage()?.rss > 0, || "node a runs".to_owned())
}

#[test]
fn third_node_hears_of_it_through_the_second_and_fetches_from_there() -> Result<()> {
    let two = Two::start()?;
    let file = two.a.work("noise.bin");
    generate::noise(&file, 2 << 20, 8)?;
    publish(&two.a, &file, "t/noise")?;
    sees(&two.b, "t/noise@1.0.0")?;
    get(&two.b, "t/noise", "out")?;
    two.node_a.stop()?;
    let lab = crate::world::lab()?;
    let c = lab.home("c")?;
    let _node = c.start()?;
    c.bib(["peer", "connect", &crate::world::address(&two.b)?])?;
    sees(&c, "t/noise@1.0.0")?;
    same::file(&file, &get(&c, "t/noise", "out")?)
}

#[test]
fn publications_of_one_dataset_at_once_each_become_a_version() -> Result<()> {
    let one = One::start()?;
    let n_publishers = 6;
    for round in 1..=2 {
        let mut publishing = Vec::new();
        for n in 0..n_publishers {
            let name = format!("{round}-{n}");
            write(&one.home, &name, format!("content {name}"))?;
            let mut command = one.home.bib_command(["publish", &name, "t/same", "--quiet"]);
            publishing.push(Running::start(command.stdout(Stdio::null()).stderr(Stdio::piped()))?);
        }
        for mut running in publishing {
            let (status, _) = running.ended(PATIENCE)?.ok_or("bib publish hangs")?;
            ensure(status.success(), || format!("round {round}: {status}"))?;
        }
        for n in 0..round * n_publishers {
            sees(&one.home, &format!("t/same@1.0.{n}"))?;
        }
    }
    Ok(())
}
