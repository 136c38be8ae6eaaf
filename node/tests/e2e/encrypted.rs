//! Encryption at rest: what is on the disk, who can read it, and getting it back with shares of the key.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bib_benches::failure::During;
use bib_benches::generate::{self, Rng};
use bib_benches::lab::{Home, Running, until};
use bib_benches::{Failure, Result, same};

use crate::world::{One, PATIENCE, Two, address, ensure, get, lab, publish, refused, sees, text, write};

const ENCRYPTED: &str = "crypto.enabled = true";
/// Words that stand in names, descriptions, messages and paths, and nowhere else.
const WORDS: [&str; 4] = ["canarytopic", "canarydescription", "canarymessage", "canarypath"];

/// All files below a folder.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).during("list the data directory")? {
        let path = entry.during("list the data directory")?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

/// The bytes of all files of the stores: of the catalog and the chunk store.
fn stored(home: &Home) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let of_stores = |path: &PathBuf| path.extension().is_some_and(|ext| ext == "redb" || ext == "seg");
    let files = files(&home.data_dir())?.into_iter().filter(of_stores);
    files.map(|path| Ok((path.clone(), fs::read(&path).during("read a file of the stores")?))).collect()
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    // The first byte is looked for by itself: a window at each offset takes a debug build minutes.
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == what[0]) {
        if rest[at..].starts_with(what) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

/// Publishes a topic, a file of bytes that do not compress, and one of text; returns what must not be found.
fn publish_canaries(home: &Home) -> Result<Vec<Vec<u8>>> {
    let [topic, description, message, path] = WORDS;
    home.bib(["topic", "create", topic, "--description", description])?;
    let noise = home.work("tree/noise.bin");
    fs::create_dir_all(home.work("tree")).during("make a folder")?;
    generate::noise(&noise, 3 << 20, 7)?;
    write(home, &format!("tree/{path}.txt"), format!("{description}\n").repeat(3))?;
    let reference = format!("{topic}/temps");
    home.bib(["publish", "tree", &reference, "-m", message])?;
    let bytes = fs::read(&noise).during("read the noise")?;
    let samples = bytes.chunks(64 << 10).map(|part| part[part.len() / 2..][..16].to_vec());
    let version = home.json(["dataset", "show", &reference])?;
    // The hash that names known content says as much as the content.
    let chunk = blake3::hash(&fs::read(home.work(format!("tree/{path}.txt"))).during("read the text")?);
    let names = WORDS.iter().map(|word| word.as_bytes().to_vec());
    ensure(version.is_object(), || format!("{version}"))?;
    Ok(names.chain(samples).chain([chunk.as_bytes()[..16].to_vec()]).collect())
}

/// What of it is in any file of the data directory.
fn found(home: &Home, canaries: &[Vec<u8>]) -> Result<Vec<String>> {
    let files: Vec<Vec<u8>> = files(&home.data_dir())?
        .iter()
        .map(|path| fs::read(path).during("read a file of the data directory"))
        .collect::<Result<_>>()?;
    let hits = canaries.iter().filter(|canary| files.iter().any(|bytes| contains(bytes, canary)));
    Ok(hits.map(|canary| String::from_utf8_lossy(canary).into_owned()).collect())
}

fn split(home: &Home, folder: &str) -> Result<Vec<PathBuf>> {
    home.bib(["admin", "keys", "split", "-o", folder])?;
    Ok((1..=5).map(|index| home.work(format!("{folder}/share-{index}.txt"))).collect())
}

fn generation(home: &Home) -> Result<u64> {
    let keys = home.json(["admin", "keys", "status"])?;
    keys["generation"].as_u64().ok_or_else(|| Failure(format!("no generation: {keys}")))
}

/// Starts a node that must not start; returns what it said.
fn does_not_start(home: &Home) -> Result<String> {
    let ran = bib_benches::lab::finish(home.bibd(), b"")?;
    ensure(ran.code == Some(1) && ran.stderr.contains("hint: "), || format!("a refusal was expected: {ran:?}"))?;
    Ok(ran.stderr)
}

#[test]
fn nothing_that_was_published_can_be_read_on_the_disk() -> Result<()> {
    let plain = One::start()?;
    let canaries = publish_canaries(&plain.home)?;
    let seen = found(&plain.home, &canaries)?;
    ensure(seen.len() > canaries.len() / 2, || format!("the search sees what is plain: {seen:?}"))?;

    let sealed = One::configured(ENCRYPTED)?;
    let canaries = publish_canaries(&sealed.home)?;
    sealed.home.bib(["get", &format!("{}/temps", WORDS[0]), "-o", "out"])?;
    same::tree(&sealed.home.work("tree"), &sealed.home.work("out"))?;
    let home = &sealed.home;
    ensure(sealed.node.stop()?.success(), || "it stops".to_owned())?;
    let seen = found(home, &canaries)?;
    ensure(seen.is_empty(), || format!("readable on the disk: {seen:?}"))
}

#[test]
fn node_that_has_data_seals_it_when_it_is_told_to_and_survives_being_killed_meanwhile() -> Result<()> {
    let mut one = One::start()?;
    let canaries = publish_canaries(&one.home)?;
    let large = one.home.work("large.bin");
    generate::noise(&large, 80 << 20, 9)?;
    publish(&one.home, &large, "t/large")?;
    ensure(one.node.stop()?.success(), || "it stops".to_owned())?;
    one.home.configure(ENCRYPTED)?;
    one.node = one.home.start()?;
    // Some segments are sealed, some not.
    one.node.kill();
    one.node = one.home.start()?;
    same::file(&large, &get(&one.home, "t/large", "meanwhile.bin")?)?;
    until("all is sealed", PATIENCE, || {
        let status = one.home.json(["status"])?;
        Ok((status["keys"]["partly_plain"] == false).then_some(()))
    })?;
    same::file(&large, &get(&one.home, "t/large", "out.bin")?)?;
    one.home.bib(["get", &format!("{}/temps", WORDS[0]), "-o", "out"])?;
    same::tree(&one.home.work("tree"), &one.home.work("out"))?;
    let home = &one.home;
    ensure(one.node.stop()?.success(), || "it stops".to_owned())?;
    let seen = found(home, &canaries)?;
    ensure(seen.is_empty(), || format!("readable on the disk: {seen:?}"))
}

#[test]
fn sealing_what_is_stored_leaves_the_space_that_is_to_stay_free() -> Result<()> {
    let mut one = One::start()?;
    let file = write(&one.home, "f", "content")?;
    publish(&one.home, &file, "t/f")?;
    ensure(one.node.stop()?.success(), || "it stops".to_owned())?;
    one.home.configure(&format!("{ENCRYPTED}\nstorage.min_free = \"1000000GiB\""))?;
    one.node = one.home.start()?;
    until("it says what it lacks", PATIENCE, || {
        Ok(fs::read_to_string(one.home.log()).during("read the log")?.contains("no space to seal").then_some(()))
    })?;
    let status = one.home.json(["status"])?;
    ensure(status["keys"]["partly_plain"] == true, || status.to_string())?;
    same::file(&file, &get(&one.home, "t/f", "meanwhile")?)?;
    ensure(one.node.stop()?.success(), || "it stops".to_owned())?;
    one.home.configure(ENCRYPTED)?;
    one.node = one.home.start()?;
    until("all is sealed", PATIENCE, || {
        let status = one.home.json(["status"])?;
        Ok((status["keys"]["partly_plain"] == false).then_some(()))
    })
}

#[test]
fn encrypted_and_plain_nodes_exchange_content_as_all_do() -> Result<()> {
    let one = One::configured(ENCRYPTED)?;
    let b = one.lab.home("b")?;
    let _node = b.start()?;
    let file = one.home.work("large.bin");
    generate::noise(&file, 5 << 20, 3)?;
    publish(&one.home, &file, "t/large")?;
    b.bib(["peer", "connect", &address(&one.home)?])?;
    sees(&b, "t/large")?;
    same::file(&file, &get(&b, "t/large", "out.bin")?)?;

    // And the other way round: a sealed node keeps what it fetches sealed.
    let Two { a, b: _b, node_a: _a, node_b: _node_b, .. } = &Two::start()?;
    let fetcher = lab()?;
    let c = fetcher.home("c")?;
    c.configure(ENCRYPTED)?;
    let node_c = c.start()?;
    let file = a.work("other.bin");
    generate::noise(&file, 2 << 20, 4)?;
    publish(a, &file, "t/other")?;
    c.bib(["peer", "connect", &address(a)?])?;
    sees(&c, "t/other")?;
    same::file(&file, &get(&c, "t/other", "out.bin")?)?;
    ensure(node_c.stop()?.success(), || "it stops".to_owned())?;
    let sample = fs::read(&file).during("read the file")?[1 << 20..][..16].to_vec();
    ensure(found(&c, &[sample])?.is_empty(), || "what was fetched lies readable on the disk".to_owned())
}

#[test]
fn other_identity_and_keys_that_are_absent_or_switched_off_are_refused_and_change_nothing() -> Result<()> {
    let one = One::configured(ENCRYPTED)?;
    let file = write(&one.home, "f", "content")?;
    publish(&one.home, &file, "t/f")?;
    let home = &one.home;
    ensure(one.node.stop()?.success(), || "it stops".to_owned())?;
    let (before, keys, identity) =
        (stored(home)?, home.data_dir().join("keys/store.keys"), home.data_dir().join("identity.pem"));

    let aside = home.work("identity.aside");
    fs::rename(&identity, &aside).during("move the identity away")?;
    let said = does_not_start(home)?;
    ensure(said.contains("are sealed to the node") && said.contains("bib admin keys recover"), || said.clone())?;
    fs::rename(&aside, &identity).during("put the identity back")?;

    home.configure("crypto.enabled = false")?;
    let said = does_not_start(home)?;
    ensure(said.contains("set `crypto.enabled = true`"), || said.clone())?;
    home.configure(ENCRYPTED)?;

    let (aside, copy) = (home.work("keys.aside"), home.data_dir().join("keys/store.keys.copy"));
    fs::rename(&keys, &aside).during("move the keys away")?;
    let said = does_not_start(home)?;
    ensure(said.contains("store.keys.copy"), || said.clone())?;
    let copied = fs::read(&copy).during("read the copy")?;
    fs::remove_file(&copy).during("remove the copy")?;
    let said = does_not_start(home)?;
    ensure(said.contains("its keys") && said.contains("are absent"), || said.clone())?;
    ensure(!keys.exists(), || "new keys were made over a store that needs others".to_owned())?;
    home.configure("crypto.enabled = false")?;
    does_not_start(home)?;
    home.configure(ENCRYPTED)?;

    // Keys that are sealed to this very node, and are others.
    let other = one.lab.home("other")?;
    other.configure(ENCRYPTED)?;
    fs::create_dir_all(other.data_dir()).during("make a data directory")?;
    fs::copy(&identity, other.data_dir().join("identity.pem")).during("copy the identity")?;
    ensure(other.start()?.stop()?.success(), || "it stops".to_owned())?;
    fs::copy(other.data_dir().join("keys/store.keys"), &keys).during("put other keys in place")?;
    let said = does_not_start(home)?;
    ensure(said.contains("whether keys/store.keys belongs to this data"), || said.clone())?;
    ensure(!copy.exists(), || "keys that open nothing are copied over those that may".to_owned())?;
    fs::rename(&aside, &keys).during("put the keys back")?;

    ensure(fs::read(&keys).during("read the keys")? == copied, || "the copy is one".to_owned())?;

    // Opening a database notes in its header that it is open; what it says is looked at below.
    let same = stored(home)?
        .into_iter()
        .all(|(path, bytes)| path.extension().is_some_and(|ext| ext == "redb") || before.get(&path) == Some(&bytes));
    ensure(same && stored(home)?.len() == before.len(), || "a refused start changed the stores".to_owned())?;
    let _node = home.start()?;
    same::file(&file, &get(home, "t/f", "out")?)
}

#[test]
fn plain_catalog_or_index_in_the_place_of_a_sealed_one_is_refused() -> Result<()> {
    let mut one = One::configured(ENCRYPTED)?;
    let file = write(&one.home, "f", "content")?;
    publish(&one.home, &file, "t/f")?;
    ensure(one.node.stop()?.success(), || "it stops".to_owned())?;
    let other = One::start()?;
    let plain = &other.home;
    publish(plain, &write(plain, "g", "other content")?, "t/g")?;
    ensure(other.node.stop()?.success(), || "it stops".to_owned())?;
    for name in ["catalog.redb", "segments/index.redb"] {
        let (own, aside) = (one.home.data_dir().join(name), one.home.work("aside"));
        fs::rename(&own, &aside).during("move a file away")?;
        fs::copy(plain.data_dir().join(name), &own).during("put another one in place")?;
        // It is no other one after the first attempt.
        for _ in 0..2 {
            let said = does_not_start(&one.home)?;
            let is_named = said.contains(name) && said.contains("is not encrypted");
            ensure(is_named && said.contains("keys/sealed"), || said.clone())?;
        }
        fs::rename(&aside, &own).during("put it back")?;
    }
    one.node = one.home.start()?;
    same::file(&file, &get(&one.home, "t/f", "out")?)
}

#[test]
fn keys_that_have_sealed_nothing_do_not_hold_up_a_plain_node() -> Result<()> {
    let mut one = One::start()?;
    let file = write(&one.home, "f", "content")?;
    publish(&one.home, &file, "t/f")?;
    ensure(one.node.stop()?.success(), || "it stops".to_owned())?;
    // What a start leaves that has made keys and found no space to seal the catalog.
    let other = One::configured(ENCRYPTED)?;
    copy(&other.home.data_dir().join("keys"), &one.home.data_dir().join("keys"))?;
    one.node = one.home.start()?;
    same::file(&file, &get(&one.home, "t/f", "out")?)
}

#[test]
fn three_shares_restore_a_node_on_another_machine() -> Result<()> {
    let one = One::configured(ENCRYPTED)?;
    let file = one.home.work("large.bin");
    generate::noise(&file, 3 << 20, 5)?;
    publish(&one.home, &file, "t/large")?;
    let shares = split(&one.home, "shares")?;
    ensure(one.node.stop()?.success(), || "it stops".to_owned())?;

    // What a copy of the disk has, without the identity.
    let b = one.lab.home("b")?;
    b.configure(ENCRYPTED)?;
    copy(&one.home.data_dir(), &b.data_dir())?;
    fs::remove_file(b.data_dir().join("identity.pem")).during("leave the identity behind")?;
    let said = does_not_start(&b)?;
    ensure(said.contains("are sealed to the node"), || said.clone())?;
    let data_dir = b.data_dir();
    let recover = |shares: &[&PathBuf]| {
        let mut line = vec!["admin", "keys", "recover", "--data-dir", text(&data_dir)?];
        for share in shares {
            line.push(text(share)?);
        }
        b.run(line)
    };

    let two = recover(&[&shares[0], &shares[3]])?;
    refused(&two, 1)?;
    ensure(two.stderr.contains("2 of the 3 shares"), || format!("{two:?}"))?;

    let line = fs::read_to_string(&shares[1]).during("read a share")?;
    let mistyped = write(&b, "mistyped.txt", line.replacen("bibshare1-a", "bibshare1-b", 1))?;
    let corrupt = recover(&[&shares[0], &mistyped, &shares[3]])?;
    refused(&corrupt, 6)?;
    ensure(corrupt.stderr.contains("mistyped.txt`, line 3") && corrupt.stderr.contains("in group 1"), || {
        format!("{corrupt:?}")
    })?;

    let before = stored(&b)?;
    recover(&[&shares[4], &shares[0], &shares[3]])?.ok()?;
    ensure(stored(&b)? == before, || "restoring the keys writes no data".to_owned())?;
    let node = b.start()?;
    same::file(&file, &get(&b, "t/large", "out.bin")?)?;
    ensure(node.id() != one_id(&one.home)?, || "the restored node has an identity of its own".to_owned())?;
    // While it runs, nothing can be restored.
    let running = recover(&[&shares[4], &shares[0], &shares[3]])?;
    refused(&running, 1)?;
    ensure(running.stderr.contains("belongs to a node that is running"), || format!("{running:?}"))?;

    // New keys: the old shares are worth nothing, and are said to be.
    b.bib(["admin", "keys", "rotate"])?;
    let status = b.json(["status"])?;
    ensure(status["keys"]["shares"]["stale"] == true, || format!("{status}"))?;
    ensure(node.stop()?.success(), || "it stops".to_owned())?;
    let stale = recover(&[&shares[4], &shares[0], &shares[3]])?;
    refused(&stale, 6)?;
    ensure(stale.stderr.contains("renewed after they were made"), || format!("{stale:?}"))?;
    let _node = b.start()?;
    same::file(&file, &get(&b, "t/large", "out2.bin")?)
}

/// The node that a data directory was made by.
fn one_id(home: &Home) -> Result<String> {
    let mut command = home.bibd();
    command.arg("identity");
    Ok(bib_benches::lab::finish(command, b"")?.ok()?.stdout.trim().to_owned())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).during("make a folder")?;
    for path in files(from)? {
        let relative = path.strip_prefix(from).map_err(|error| Failure(error.to_string()))?;
        let target = to.join(relative);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).during("make a folder")?;
        }
        fs::copy(&path, &target).during("copy a file")?;
    }
    Ok(())
}

#[test]
fn new_keys_rewrite_no_data_and_serve_what_comes() -> Result<()> {
    let mut one = One::configured(ENCRYPTED)?;
    let old = one.home.work("old.bin");
    generate::noise(&old, 2 << 20, 1)?;
    publish(&one.home, &old, "t/old")?;
    let before = stored(&one.home)?;
    one.home.bib(["admin", "keys", "rotate", "--kek"])?;
    ensure(stored(&one.home)? == before, || "a new key of keys rewrote data".to_owned())?;
    ensure(generation(&one.home)? == 2, || "the generation counts".to_owned())?;
    one.home.bib(["admin", "keys", "rotate", "--data"])?;
    let unchanged = stored(&one.home)?.into_iter().all(|(path, bytes)| before.get(&path) == Some(&bytes));
    ensure(unchanged, || "a new data key rewrote data".to_owned())?;

    let new = one.home.work("new.bin");
    generate::noise(&new, 2 << 20, 2)?;
    publish(&one.home, &new, "t/new")?;
    one.node.kill();
    one.node = one.home.start()?;
    same::file(&old, &get(&one.home, "t/old", "out-old")?)?;
    same::file(&new, &get(&one.home, "t/new", "out-new")?)?;
    let keys = one.home.json(["admin", "keys", "status"])?;
    ensure(keys["data_keys"].as_array().map(Vec::len) == Some(2), || format!("{keys}"))
}

#[test]
fn shares_are_not_in_the_log_and_a_plain_node_has_none() -> Result<()> {
    let one = One::configured(ENCRYPTED)?;
    let shares = split(&one.home, "shares")?;
    let log = fs::read_to_string(one.home.log()).during("read the log")?;
    for share in &shares {
        let text = fs::read_to_string(share).during("read a share")?;
        let line = text.lines().last().unwrap_or_default();
        ensure(line.len() > 90 && !log.contains(&line[40..60]), || "a share is in the log".to_owned())?;
    }
    let plain = One::start()?;
    let ran = plain.home.run(["admin", "keys", "split"])?;
    refused(&ran, 1)?;
    ensure(ran.stderr.contains("crypto.enabled = true"), || format!("{ran:?}"))
}

#[test]
fn node_killed_while_it_makes_new_keys_has_the_old_or_the_new_ones() -> Result<()> {
    let rounds = std::env::var("BIB_E2E_ROUNDS").ok().and_then(|value| value.parse().ok()).unwrap_or(8_u64);
    let mut rng = Rng::new(std::env::var("BIB_E2E_SEED").ok().and_then(|value| value.parse().ok()).unwrap_or(1));
    let mut one = One::configured(ENCRYPTED)?;
    let file = one.home.work("f.bin");
    generate::noise(&file, 1 << 20, 1)?;
    publish(&one.home, &file, "t/f")?;
    for round in 0..rounds {
        let before = generation(&one.home)?;
        let mut command = one.home.bib_command(["admin", "keys", "rotate", "--quiet"]);
        let mut rotating = Running::start(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
        let ended = rotating.ended(Duration::from_micros(rng.below(60_000)))?;
        one.node.kill();
        let ended = match ended {
            Some(ended) => Some(ended),
            None => rotating.ended(PATIENCE)?,
        };
        let (status, _) = ended.ok_or("bib hangs after its node died")?;
        one.node = one.home.start().map_err(|Failure(why)| Failure(format!("round {round}: {why}")))?;
        let after = generation(&one.home)?;
        ensure(after == before || after == before + 1, || format!("round {round}: {before} became {after}"))?;
        ensure(after > before || !status.success(), || format!("round {round}: an acknowledged key is gone"))?;
        same::file(&file, &get(&one.home, "t/f", "out.bin")?)?;
    }
    Ok(())
}

#[test]
fn new_keys_while_something_is_published_lose_nothing() -> Result<()> {
    let mut one = One::configured(ENCRYPTED)?;
    let file = one.home.work("large.bin");
    generate::noise(&file, 48 << 20, 6)?;
    let mut command = one.home.bib_command(["publish", "large.bin", "t/large", "--quiet"]);
    let mut publishing = Running::start(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
    for n in 0..6_u64 {
        // Between two keys something is written, so that each of them seals a part.
        until("more is stored", PATIENCE, || Ok((one.home.figure("raw_bytes")? >= n * (5 << 20)).then_some(())))?;
        one.home.bib(["admin", "keys", "rotate"])?;
    }
    let (status, _) = publishing.ended(PATIENCE)?.ok_or("bib publish hangs")?;
    ensure(status.success(), || status.to_string())?;
    one.node.kill();
    one.node = one.home.start()?;
    let keys = one.home.json(["admin", "keys", "status"])?;
    ensure(keys["data_keys"].as_array().map(Vec::len) == Some(7), || format!("{keys}"))?;
    same::file(&file, &get(&one.home, "t/large", "out.bin")?)
}

#[test]
fn sealed_stores_are_collected_checked_and_indexed_anew_as_plain_ones() -> Result<()> {
    let mut one = One::configured(ENCRYPTED)?;
    let (old, kept) = (one.home.work("old.bin"), one.home.work("kept.bin"));
    generate::noise(&old, 6 << 20, 1)?;
    generate::noise(&kept, 6 << 20, 2)?;
    publish(&one.home, &old, "t/old")?;
    one.home.bib(["admin", "keys", "rotate", "--data"])?;
    publish(&one.home, &kept, "t/kept")?;
    one.home.bib(["dataset", "delete", "t/old", "--yes"])?;
    let before = one.home.figure("raw_bytes")?;
    one.home.bib(["admin", "gc", "--min-age", "0s"])?;
    let after = one.home.figure("raw_bytes")?;
    ensure(after + (5 << 20) < before, || format!("{before} became {after}"))?;
    same::file(&kept, &get(&one.home, "t/kept", "out1.bin")?)?;
    one.home.bib(["admin", "rebuild"])?;
    one.home.bib(["admin", "scrub"])?;
    same::file(&kept, &get(&one.home, "t/kept", "out2.bin")?)?;
    ensure(one.node.stop()?.success(), || "it stops".to_owned())?;

    // A byte of some record; its seal shows it.
    let segments = files(&one.home.data_dir().join("segments"))?;
    let segment = segments.iter().filter(|path| path.extension().is_some_and(|ext| ext == "seg"));
    let segment = segment.max_by_key(|path| path.metadata().map_or(0, |metadata| metadata.len()));
    let segment = segment.ok_or("there is a segment")?;
    let mut bytes = fs::read(segment).during("read a segment")?;
    let middle = bytes.len() * 3 / 4;
    bytes[middle] ^= 1;
    fs::write(segment, bytes).during("flip a bit of a segment")?;
    one.node = one.home.start()?;
    let ran = one.home.run(["dataset", "verify", "t/kept"])?;
    refused(&ran, 6)
}
