//! Care of what is stored: space is given back while everything else goes on, damage is found, named and mended, and a
//! kill in the middle of it loses nothing.
//!
//! `BIB_E2E_GC_KILLS` (20) and `BIB_E2E_SEED` make more and other kills; a failure names its seed and round.

use std::ops::Bound;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bib_benches::failure::During;
use bib_benches::generate::{self, Rng};
use bib_benches::lab::{Home, Running, finish, until};
use bib_benches::{Failure, Result, same};
use bib_core::catalog::record::first_keys;
use bib_core::port::{Catalog, Table};
use bib_storage_redb::{Folder, RedbCatalog};

use crate::world::{One, PATIENCE, Two, address, ensure, get, publish, refused, sees, text, write};

const MIB: u64 = 1 << 20;
/// Of 90 MiB: one chunk in a hundred is taken for one in use until the next collection.
const ALMOST_ALL: u64 = 85 * MIB;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Files of the chunk store, the largest first.
fn segments(home: &Home) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(home.data_dir().join("segments")).during("list segments")? {
        let path = entry.during("list segments")?.path();
        if path.extension().is_some_and(|end| end == "seg") {
            let len = path.metadata().during("look at a segment")?.len();
            found.push((len, path));
        }
    }
    found.sort();
    Ok(found.into_iter().rev().map(|(_, path)| path).collect())
}

/// Bytes that the segments really take.
fn disk_used(home: &Home) -> Result<u64> {
    let mut used = 0;
    for path in segments(home)? {
        used += path.metadata().during("look at a segment")?.blocks() * 512;
    }
    Ok(used)
}

/// Turns one bit over in the middle of the largest segment.
fn flip_a_bit(home: &Home) -> Result<()> {
    let path = segments(home)?.into_iter().next().ok_or("there is a segment")?;
    let file = std::fs::File::options().read(true).write(true).open(&path).during("open a segment")?;
    let at = file.metadata().during("look at a segment")?.len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).during("read a segment")?;
    file.write_all_at(&[byte[0] ^ 0x10], at).during("write a segment")
}

/// Takes all versions out of the catalog of a node that does not run, as a damaged page does, and nothing else.
fn lose_versions(home: &Home) -> Result<()> {
    let folder = Folder::new(home.data_dir()).during("open the data directory")?;
    let catalog = RedbCatalog::open(&folder, 1 << 20).map_err(|error| error.to_string())?;
    let keys = || {
        let read = catalog.begin_read()?;
        first_keys(read.as_ref(), Table::Versions, (Bound::Unbounded, Bound::Unbounded), 100)
    };
    let keys = keys().map_err(|error| error.to_string())?;
    let lose = catalog.write(&mut |txn| keys.iter().try_for_each(|key| txn.remove(Table::Versions, key)));
    Ok(lose.map_err(|error| error.to_string())?)
}

fn noise(home: &Home, name: &str, len: u64, seed: u64) -> Result<PathBuf> {
    let path = home.work(name);
    generate::noise(&path, len, seed)?;
    Ok(path)
}

fn gc(home: &Home) -> Result<serde_json::Value> {
    home.json(["admin", "gc", "--min-age", "0s"])
}

#[test]
fn catalog_that_is_not_what_was_signed_changes_nothing_but_a_word() -> Result<()> {
    let mut one = One::start()?;
    publish(&one.home, &noise(&one.home, "f.bin", MIB, 5)?, "t/kept")?;
    publish(&one.home, &noise(&one.home, "g.bin", MIB, 6)?, "t/gone")?;
    one.home.bib(["dataset", "delete", "t/gone", "--yes"])?;
    one.node.stop()?;
    lose_versions(&one.home)?;
    one.node = one.home.start()?;
    for _ in 0..2 {
        let ran = one.home.run(["admin", "gc", "--min-age", "0s"])?;
        ensure(ran.code == Some(6) && ran.stderr.contains("a version is gone"), || format!("{ran:#?}"))?;
    }
    one.node.stop()?;
    // What was deleted would have gone, and is released still.
    let folder = Folder::new(one.home.data_dir()).during("open the data directory")?;
    let catalog = RedbCatalog::open(&folder, 1 << 20).map_err(|error| error.to_string())?;
    let n_pins = catalog.begin_read().and_then(|read| read.len(Table::Pins)).map_err(|error| error.to_string())?;
    ensure(n_pins == 2, || format!("{n_pins} contents are known"))
}

#[test]
fn reader_whose_dataset_is_deleted_and_collected_meanwhile_hears_of_that() -> Result<()> {
    let one = One::start()?;
    publish(&one.home, &noise(&one.home, "f.bin", 64 * MIB, 8)?, "t/gone")?;
    let mut command = one.home.bib_command(["cat", "t/gone"]);
    let mut reading = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().during("run bib")?;
    let mut out = reading.stdout.take().ok_or("bib has a stdout")?;
    std::io::Read::read_exact(&mut out, &mut [0; 4_096]).during("read the beginning")?;
    one.home.bib(["dataset", "delete", "t/gone", "--yes"])?;
    gc(&one.home)?;
    let rest = std::io::copy(&mut out, &mut std::io::sink()).during("read the rest")?;
    let ended = reading.wait_with_output().during("wait for bib")?;
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    ensure(rest < 64 * MIB - 4_096, || "nothing held it up".to_owned())?;
    ensure(ended.status.code() == Some(3) && said.contains("deleted while it was read"), || said)
}

#[test]
fn deleted_dataset_gives_its_bytes_back_while_others_are_published_fetched_and_read() -> Result<()> {
    let two = Two::start()?;
    let (a, b) = (&two.a, &two.b);
    let kept: Vec<PathBuf> = (0..3).map(|n| noise(a, &format!("kept{n}.bin"), 6 * MIB, n)).collect::<Result<_>>()?;
    let gone: Vec<PathBuf> =
        (0..3).map(|n| noise(a, &format!("gone{n}.bin"), 30 * MIB, 100 + n)).collect::<Result<_>>()?;
    // In turns, so that segments have both.
    for (n, (kept, gone)) in kept.iter().zip(&gone).enumerate() {
        publish(a, gone, &format!("t/gone{n}"))?;
        publish(a, kept, &format!("t/kept{n}"))?;
    }
    let full = disk_used(a)?;
    let looked = a.json(["admin", "gc", "--dry-run", "--min-age", "0s"])?;
    ensure(looked["dead_bytes"] == 0, || format!("everything is in use: {looked}"))?;
    for n in 0..gone.len() {
        a.bib(["dataset", "delete", &format!("t/gone{n}"), "--yes"])?;
    }
    ensure(disk_used(a)? >= full, || "nothing goes before it is collected".to_owned())?;
    let graced = a.json(["admin", "gc"])?;
    ensure(graced["dead_bytes"] == 0, || format!("released content has its grace: {graced}"))?;
    let looked = a.json(["admin", "gc", "--dry-run", "--min-age", "0s"])?;
    ensure(looked["dead_bytes"].as_u64() >= Some(ALMOST_ALL), || format!("it shows what would go: {looked}"))?;

    // While it is collected, somebody publishes, somebody reads, and another node fetches.
    let fresh = noise(a, "fresh.bin", 12 * MIB, 7)?;
    let mut command = a.bib_command(["publish", "fresh.bin", "t/fresh", "--quiet"]);
    let mut publisher = Running::start(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
    let mut command = b.bib_command(["get", "t/kept0", "-o", "fetched.bin", "--quiet"]);
    sees(b, "t/kept0@1.0.0")?;
    let mut fetcher = Running::start(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
    let mut freed = 0;
    for _ in 0..3 {
        let done = gc(a)?;
        freed += done["dead_bytes"].as_u64().unwrap_or(0);
        same::file(&kept[1], &get(a, "t/kept1", "read.bin")?)?;
    }
    for (running, what) in [(&mut publisher, "publish"), (&mut fetcher, "get")] {
        let ended = running.ended(PATIENCE)?.ok_or_else(|| Failure(format!("bib {what} hangs")))?;
        ensure(ended.0.success(), || format!("bib {what} failed beside a collection: {ended:?}"))?;
    }
    ensure(freed >= ALMOST_ALL, || format!("{freed} bytes were found dead"))?;
    let last = gc(a)?;
    let left = disk_used(a)?;
    ensure(left < full + 12 * MIB + 4 * MIB - ALMOST_ALL, || format!("{left} of {full} bytes are left: {last}"))?;
    for (n, file) in kept.iter().enumerate() {
        same::file(file, &get(a, &format!("t/kept{n}"), "out.bin")?)?;
    }
    same::file(&fresh, &get(a, "t/fresh", "out.bin")?)?;
    same::file(&kept[0], &b.work("fetched.bin"))?;
    let status = a.json(["status"])?;
    ensure(status["space"]["live_bytes"].as_u64() >= Some(30 * MIB), || format!("{status}"))?;
    // Content that went can be published again.
    publish(a, &gone[0], "t/again")?;
    same::file(&gone[0], &get(a, "t/again", "out.bin")?)
}

#[test]
fn collections_without_grace_take_nothing_of_what_is_published_beside_them() -> Result<()> {
    const EACH: u64 = 40;
    let one = One::start()?;
    let n_ended = std::sync::atomic::AtomicU64::new(0);
    let people = |who: u64| -> Result<Vec<(PathBuf, String)>> {
        let files = (0..EACH).map(|n| {
            let file = noise(&one.home, &format!("f{who}-{n}"), 2_000, who * EACH + n)?;
            let name = format!("t/d{who}-{n}");
            publish(&one.home, &file, &name)?;
            Ok((file, name))
        });
        let published = files.collect();
        n_ended.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        published
    };
    let (published, n_collected) = std::thread::scope(|scope| {
        let people: Vec<_> = (0..2).map(|who| scope.spawn(move || people(who))).collect();
        let mut n_collected = 0_u64;
        while n_ended.load(std::sync::atomic::Ordering::Relaxed) < 2 {
            gc(&one.home)?;
            n_collected += 1;
        }
        let published: Result<Vec<_>> =
            people.into_iter().map(|one| one.join().map_err(|_| "the publisher panicked")?).collect();
        Ok::<_, Failure>((published?, n_collected))
    })?;
    ensure(n_collected > 2, || format!("{n_collected} collections"))?;
    for (file, name) in published.into_iter().flatten() {
        same::file(&file, &get(&one.home, &name, "out")?)?;
        std::fs::remove_file(one.home.work("out")).during("remove a file")?;
    }
    Ok(())
}

#[test]
fn pinned_content_outlives_its_dataset_and_an_unpinned_one_goes() -> Result<()> {
    let one = One::start()?;
    let file = noise(&one.home, "f.bin", 4 * MIB, 1)?;
    publish(&one.home, &file, "t/d")?;
    one.home.bib(["dataset", "pin", "t/d"])?;
    one.home.bib(["dataset", "delete", "t/d", "--yes"])?;
    let kept = gc(&one.home)?;
    ensure(kept["dead_bytes"] == 0 && kept["live_bytes"].as_u64() >= Some(4 * MIB), || format!("{kept}"))?;
    let again = publish(&one.home, &file, "t/again")?;
    ensure(again["new_bytes"] == 0, || format!("it was still here: {again}"))?;
    one.home.bib(["dataset", "delete", "t/again", "--yes"])?;
    one.home.bib(["dataset", "unpin", "t/d@1.0.0"])?;
    let gone = gc(&one.home)?;
    ensure(gone["dead_bytes"].as_u64() >= Some(4 * MIB), || format!("{gone}"))
}

#[test]
fn damaged_byte_is_named_and_mended_from_a_peer() -> Result<()> {
    let mut two = Two::start()?;
    let dir = two.a.work("tree");
    std::fs::create_dir_all(&dir).during("mkdir")?;
    generate::noise(&dir.join("large.bin"), 8 * MIB, 5)?;
    write(&two.a, "tree/small.txt", "small")?;
    publish(&two.a, &dir, "t/tree")?;
    sees(&two.b, "t/tree@1.0.0")?;
    same::tree(&dir, &get(&two.b, "t/tree", "copy")?)?;
    two.b.bib(["dataset", "verify", "t/tree"])?;
    two.node_a.kill();
    two.node_b.stop()?;
    flip_a_bit(&two.b)?;
    two.node_b = two.b.start()?;

    // Alone, it can only say what is hurt.
    let ran = two.b.run(["dataset", "verify", "t/tree"])?;
    refused(&ran, 6)?;
    ensure(ran.stdout.contains("large.bin") && !ran.stdout.contains("small.txt"), || format!("{ran:?}"))?;
    let ran = two.b.run(["get", "t/tree", "-o", "lost"])?;
    ensure(ran.code.is_some_and(|code| code != 0) && ran.stderr.contains("hint"), || format!("{ran:?}"))?;
    let ran = two.b.run(["dataset", "verify", "t/tree", "--repair"])?;
    refused(&ran, 1)?;
    ensure(ran.stderr.contains("peer"), || format!("{ran:?}"))?;
    let status = two.b.json(["status"])?;
    ensure(status["space"]["damaged_chunks"] == 1, || format!("{status}"))?;

    two.node_a = two.a.start()?;
    two.b.bib(["peer", "connect", &address(&two.a)?])?;
    two.b.bib(["dataset", "verify", "t/tree", "--repair"])?;
    same::tree(&dir, &get(&two.b, "t/tree", "mended")?)?;
    let status = two.b.json(["status"])?;
    ensure(status["space"]["damaged_chunks"] == 0, || format!("{status}"))
}

#[test]
fn scrub_finds_damage_and_the_node_mends_it_by_itself() -> Result<()> {
    let mut two = Two::start()?;
    let file = noise(&two.a, "f.bin", 8 * MIB, 6)?;
    publish(&two.a, &file, "t/f")?;
    sees(&two.b, "t/f@1.0.0")?;
    same::file(&file, &get(&two.b, "t/f", "copy.bin")?)?;
    two.node_b.stop()?;
    flip_a_bit(&two.b)?;
    two.node_b = two.b.start()?;
    two.b.bib(["peer", "connect", &address(&two.a)?])?;
    let ran = two.b.run(["admin", "scrub"])?;
    refused(&ran, 6)?;
    ensure(ran.stdout.contains("t/f@1.0.0"), || format!("{ran:?}"))?;
    until("the node has mended it", PATIENCE, || {
        let status = two.b.json(["status"])?;
        Ok((status["space"]["damaged_chunks"] == 0).then_some(()))
    })?;
    two.b.bib(["admin", "scrub"])?;
    same::file(&file, &get(&two.b, "t/f", "mended.bin")?)
}

#[test]
fn publishing_the_same_content_again_mends_what_is_damaged() -> Result<()> {
    let mut one = One::start()?;
    let file = noise(&one.home, "f.bin", 4 * MIB, 8)?;
    publish(&one.home, &file, "t/f")?;
    one.node.stop()?;
    flip_a_bit(&one.home)?;
    one.node = one.home.start()?;
    refused(&one.home.run(["admin", "scrub"])?, 6)?;
    publish(&one.home, &file, "t/same")?;
    one.home.bib(["dataset", "verify", "t/f"])?;
    one.home.bib(["admin", "scrub"])?;
    same::file(&file, &get(&one.home, "t/f", "out.bin")?)
}

#[test]
fn index_is_made_anew_while_the_node_runs() -> Result<()> {
    let one = One::start()?;
    let file = noise(&one.home, "f.bin", 8 * MIB, 9)?;
    publish(&one.home, &file, "t/f")?;
    let before = one.home.figure("chunks")?;
    let made = one.home.json(["admin", "rebuild"])?;
    ensure(made["chunks"] == before && made["lost"] == 0, || format!("{made}"))?;
    one.home.bib(["dataset", "verify", "t/f"])?;
    same::file(&file, &get(&one.home, "t/f", "out.bin")?)
}

#[test]
fn care_needs_an_operator_and_one_at_a_time_is_listed() -> Result<()> {
    let one = One::start()?;
    let workers = one.home.bib(["admin", "workers", "--json"])?.json_lines()?;
    let names: Vec<&str> = workers.iter().filter_map(|worker| worker["name"].as_str()).collect();
    ensure(["expire", "gc", "replicate", "scrub"].iter().all(|name| names.contains(name)), || format!("{names:?}"))?;
    let gc = workers.iter().find(|worker| worker["name"] == "gc").ok_or("gc is listed")?;
    ensure(gc["next_run"].is_string(), || format!("{gc}"))
}

#[test]
fn node_killed_at_any_moment_of_a_collection_loses_nothing() -> Result<()> {
    let (seed, kills) = (number("BIB_E2E_SEED", 1), number("BIB_E2E_GC_KILLS", 20));
    let mut rng = Rng::new(seed ^ 0x6c);
    let mut one = One::start()?;
    let kept: Vec<PathBuf> =
        (0..4).map(|n| noise(&one.home, &format!("k{n}.bin"), 2 * MIB, n)).collect::<Result<_>>()?;
    for (n, file) in kept.iter().enumerate() {
        publish(&one.home, file, &format!("t/k{n}"))?;
    }
    let check = |home: &Home, round: u64, file: &Path, reference: &str| {
        let done = get(home, reference, "out.bin").and_then(|out| same::file(file, &out));
        done.map_err(|Failure(text)| Failure(format!("BIB_E2E_SEED={seed}, round {round}: {text}")))
    };
    for round in 0..kills {
        // Something to collect between what stays.
        noise(&one.home, "gone.bin", 4 * MIB + rng.below(8 * MIB), 1_000 + round)?;
        let gone = format!("t/gone{round}");
        publish(&one.home, &one.home.work("gone.bin"), &gone)?;
        let fresh = noise(&one.home, "fresh.bin", MIB, 2_000 + round)?;
        publish(&one.home, &fresh, &format!("t/fresh{round}"))?;
        one.home.bib(["dataset", "delete", &gone, "--yes"])?;
        let mut command = one.home.bib_command(["admin", "gc", "--min-age", "0s", "--quiet"]);
        let mut collector = Running::start(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
        let moment = Duration::from_micros(rng.below(150_000));
        collector.ended(moment)?;
        one.node.kill();
        collector.kill();
        one.node = one.home.start()?;
        check(&one.home, round, &fresh, &format!("t/fresh{round}"))?;
        check(&one.home, round, &kept[(round % 4) as usize], &format!("t/k{}", round % 4))?;
        one.home.bib(["dataset", "delete", &format!("t/fresh{round}"), "--yes"])?;
    }
    for (n, file) in kept.iter().enumerate() {
        one.home.bib(["dataset", "verify", &format!("t/k{n}")])?;
        check(&one.home, kills, file, &format!("t/k{n}"))?;
    }
    // What the kills left is collected in the end.
    let last = gc(&one.home)?;
    let left = disk_used(&one.home)?;
    let status = one.home.json(["status"])?;
    ensure(left < 8 * MIB + 4 * MIB, || {
        format!("seed {seed}: {left} bytes are left after {kills} kills; {last}; {status}")
    })?;
    let log = std::fs::read_to_string(one.home.log()).during("read the log")?;
    ensure(!log.contains("panicked"), || log)
}

#[test]
fn user_over_the_quota_is_refused_until_something_goes() -> Result<()> {
    let one = One::configured("storage.max_bytes_per_user = \"5MiB\"")?;
    let (first, second) = (noise(&one.home, "1.bin", 3 * MIB, 1)?, noise(&one.home, "2.bin", 3 * MIB, 2)?);
    publish(&one.home, &first, "t/first")?;
    let ran = one.home.run(["publish", "2.bin", "t/second"])?;
    refused(&ran, 1)?;
    ensure(ran.stderr.contains("max_bytes_per_user"), || format!("{ran:?}"))?;
    // Also when nobody knows before how much will come.
    let bytes = std::fs::read(&second).during("read")?;
    refused(&one.home.run_with_stdin(["publish", "-", "t/second"], &bytes)?, 1)?;
    one.home.bib(["dataset", "delete", "t/first", "--yes"])?;
    refused(&one.home.run(["publish", "2.bin", "t/second"])?, 1)?;
    gc(&one.home)?;
    publish(&one.home, &second, "t/second")?;
    same::file(&second, &get(&one.home, "t/second", "out.bin")?)
}

#[test]
fn full_node_fetches_what_the_quota_of_a_topic_lets_in_and_says_what_it_leaves_out() -> Result<()> {
    let One { home: a, node: _node_a, lab } = One::start()?;
    a.bib(["topic", "create", "other"])?;
    for (n, reference) in ["t/first", "t/second", "other/third"].into_iter().enumerate() {
        publish(&a, &noise(&a, &format!("{n}.bin"), 3 * MIB, n as u64)?, reference)?;
    }
    let b = lab.home("b")?;
    b.configure(&format!("storage.topics = [\"t 5MiB\"]\np2p.peers = [{:?}]", address(&a)?))?;
    let mut node_b = b.start()?;
    let here = |reference: &str| Ok::<_, Failure>(sees(&b, reference)?["version"]["here"] == true);
    let settled = || {
        let n_here = [here("t/first@1.0.0")?, here("t/second@1.0.0")?].into_iter().filter(|here| *here).count();
        Ok((n_here == 1 && here("other/third@1.0.0")? && !b.json(["status"])?["degraded"][0].is_null()).then_some(()))
    };
    until("one of two is fetched, and the other topic", PATIENCE, settled)?;
    // What counts is remembered.
    node_b.stop()?;
    node_b = b.start()?;
    until("it is the same after a restart", PATIENCE, settled)?;
    drop(node_b);
    Ok(())
}

#[test]
fn node_that_does_not_start_with_its_index_gets_a_new_one_offline() -> Result<()> {
    let mut one = One::start()?;
    let file = noise(&one.home, "f.bin", 8 * MIB, 9)?;
    publish(&one.home, &file, "t/f")?;
    let before = one.home.figure("chunks")?;
    let dir = one.home.data_dir();
    let offline = |home: &Home| home.run(["admin", "rebuild", "--offline", "--json", "--data-dir", text(&dir)?]);
    let running = offline(&one.home)?;
    ensure(running.code == Some(1) && running.stderr.contains("shutdown"), || format!("{running:?}"))?;
    one.node.stop()?;
    std::fs::write(dir.join("segments/index.redb"), [7; 50_000]).during("break the index")?;
    let ran = finish(one.home.bibd(), b"")?;
    ensure(ran.code == Some(1) && ran.stderr.contains("rebuild --offline"), || format!("{ran:?}"))?;
    let made = offline(&one.home)?.ok()?.json()?;
    ensure(made["chunks"] == before, || format!("{made}"))?;
    one.node = one.home.start()?;
    one.home.bib(["dataset", "verify", "t/f"])?;
    same::file(&file, &get(&one.home, "t/f", "out.bin")?)
}

#[test]
fn full_node_gives_up_what_was_withdrawn_for_what_is_active() -> Result<()> {
    let One { home: a, node: _node_a, lab } = One::start()?;
    let files: Vec<PathBuf> = (0..3).map(|n| noise(&a, &format!("{n}.bin"), 24 * MIB, n)).collect::<Result<_>>()?;
    publish(&a, &files[0], "t/old")?;
    let b = lab.home("b")?;
    let settings = "storage.max_bytes = \"60MiB\"\nstorage.min_free = \"0\"";
    b.configure(&format!("{settings}\np2p.peers = [{:?}]", address(&a)?))?;
    let _node_b = b.start()?;
    let is_here = |reference: &str| {
        until(&format!("{reference} is fetched"), PATIENCE, || {
            Ok((sees(&b, reference)?["version"]["here"] == true).then_some(()))
        })
    };
    is_here("t/old@1.0.0")?;
    a.bib(["dataset", "withdraw", "t/old@1.0.0", "--yes"])?;
    until("the withdrawal is known", PATIENCE, || {
        Ok((sees(&b, "t/old@1.0.0")?["version"]["status"] == "withdrawn").then_some(()))
    })?;
    publish(&a, &files[1], "t/new")?;
    is_here("t/new@1.0.0")?;
    ensure(sees(&b, "t/old@1.0.0")?["version"]["here"] == true, || "there is room for both".to_owned())?;
    publish(&a, &files[2], "t/newer")?;
    is_here("t/newer@1.0.0")?;
    ensure(sees(&b, "t/old@1.0.0")?["version"]["here"] == false, || "it made room".to_owned())?;
    same::file(&files[1], &get(&b, "t/new", "1.out")?)?;
    same::file(&files[2], &get(&b, "t/newer", "2.out")?)
}
