//! Backups of running nodes, and nodes made from them.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bib_benches::failure::During;
use bib_benches::generate::{self, Rng};
use bib_benches::lab::{Home, Node, Running, finish};
use bib_benches::{Result, same};
use serde_json::Value;

use crate::world::{One, PATIENCE, ensure, get, publish, refused, text, write};

const MIB: u64 = 1 << 20;

fn back_up(one: &One, to: &Path) -> Result<Value> {
    let pass = one.home.work("pass.txt");
    one.home.json(["admin", "backup", "--to", text(to)?, "--passphrase-file", text(&pass)?])
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_default()
}

fn goes_to_folder_and_file_and_comes_back(settings: &str) -> Result<()> {
    let one = One::configured(settings)?;
    write(&one.home, "pass.txt", "correct horse\n")?;
    let (first, second) = (one.home.work("first.bin"), one.home.work("second.bin"));
    generate::noise(&first, 8 * MIB, 1)?;
    publish(&one.home, &first, "t/first")?;
    let backup = one.lab.path("backup");
    let one_snapshot = back_up(&one, &backup)?;
    ensure(number(&one_snapshot, "stored_bytes") > 8 * MIB, || one_snapshot.to_string())?;

    generate::noise(&second, 2 * MIB, 2)?;
    publish(&one.home, &second, "t/second")?;
    let two = one.home.json(["admin", "backup", "--to", text(&backup)?])?;
    let stored = number(&two, "stored_bytes");
    ensure((2 * MIB..3 * MIB).contains(&stored), || two.to_string())?;
    let file = one.lab.path("bib.tar");
    back_up(&one, &file)?;
    let pass = one.home.work("pass.txt");
    refused(&one.home.run(["admin", "backup", "--to", text(&file)?, "--passphrase-file", text(&pass)?])?, 1)?;

    let listed = one.home.bib(["admin", "backup", "list", text(&backup)?, "--json"])?.json_lines()?;
    ensure(listed.len() == 2, || format!("{listed:?}"))?;
    for place in [&backup, &file] {
        let read = one.home.bib(["admin", "backup", "verify", text(place)?, "--json"])?.json_lines()?;
        ensure(!read.is_empty() && read.iter().all(|snapshot| snapshot["whole"] == true), || format!("{read:?}"))?;
    }

    // Only one of those that are the same node runs at a time.
    let node = one.home.json(["status"])?["node"].clone();
    let One { home, node: running, lab } = one;
    running.stop()?;
    let one = OneStopped { home, lab };
    let snapshot = one_snapshot["snapshot"].to_string();
    for (name, place, more, has_second) in [
        ("from-folder", &backup, vec![], true),
        ("from-first", &backup, vec!["--snapshot", snapshot.as_str()], false),
        ("from-file", &file, vec![], true),
    ] {
        let (home, running, said) = one.restored(name, place, &more)?;
        ensure(said["node"] == node && home.json(["status"])?["node"] == node, || said.to_string())?;
        same::file(&first, &get(&home, "t/first", "out.bin")?)?;
        if has_second {
            same::file(&second, &get(&home, "t/second", "out2.bin")?)?;
        } else {
            refused(&home.run(["get", "t/second", "-o", "none"])?, 3)?;
        }
        running.stop()?;
    }
    Ok(())
}

/// A world whose first node does not run.
struct OneStopped {
    home: Home,
    lab: bib_benches::lab::Lab,
}

impl OneStopped {
    fn restored(&self, name: &str, backup: &Path, more: &[&str]) -> Result<(Home, Node, Value)> {
        let home = self.lab.home(name)?;
        home.configure("")?;
        let (data_dir, pass) = (home.data_dir(), self.home.work("pass.txt"));
        let mut args =
            vec!["admin", "restore", text(backup)?, "--data-dir", text(&data_dir)?, "--passphrase-file", text(&pass)?];
        args.extend(more);
        let said = home.json(args)?;
        if data_dir.join("keys/store.keys").exists() {
            home.configure("[crypto]\nenabled = true\n")?;
        }
        let node = home.start()?;
        Ok((home, node, said))
    }
}

#[test]
fn node_goes_to_a_folder_and_to_a_file_and_comes_back_from_each() -> Result<()> {
    goes_to_folder_and_file_and_comes_back("")
}

#[test]
fn encrypted_node_comes_back_encrypted() -> Result<()> {
    goes_to_folder_and_file_and_comes_back("[crypto]\nenabled = true\n")
}

#[test]
fn backup_for_a_user_opens_with_the_key_of_that_user_and_with_nothing_else() -> Result<()> {
    let one = One::start()?;
    write(&one.home, "f.csv", "a,b\n1,2\n")?;
    publish(&one.home, &one.home.work("f.csv"), "t/f")?;
    let user = one.home.json(["whoami"])?["user"].as_str().unwrap_or_default().to_owned();
    let backup = one.lab.path("backup");
    refused(&one.home.run(["admin", "backup", "--to", text(&backup)?])?, 2)?;
    one.home.bib(["admin", "backup", "--to", text(&backup)?, "--user", &user])?;
    write(&one.home, "wrong.txt", "wrong\n")?;
    let to = one.lab.path("restored");
    let wrong = one.home.work("wrong.txt");
    let restore = ["admin", "restore", text(&backup)?, "--data-dir", text(&to)?];
    let with_passphrase = one.home.run(restore.iter().copied().chain(["--passphrase-file", text(&wrong)?]))?;
    refused(&with_passphrase, 5)?;
    ensure(!to.exists(), || "something was made".to_owned())?;
    let stranger = one.lab.home("stranger")?;
    stranger.bib(["key", "new"])?;
    refused(&stranger.run(restore)?, 5)?;
    one.home.bib(restore)?;
    ensure(to.join("identity.pem").exists(), || "nothing was made".to_owned())?;
    // What is there is not written over.
    refused(&one.home.run(restore)?, 1)?;
    one.home.bib(restore.iter().copied().chain(["--force"]))?;
    let places = std::fs::read_dir(one.lab.path("")).during("list")?;
    let aside = places.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    ensure(aside.into_iter().any(|name| name.starts_with("restored.before-")), || "it was not moved aside".to_owned())
}

#[test]
fn node_makes_its_backup_by_itself_where_one_is_configured() -> Result<()> {
    let lab = crate::world::lab()?;
    let home = lab.home("a")?;
    let (backup, pass) = (lab.path("backup"), home.work("pass.txt"));
    write(&home, "pass.txt", "correct horse\n")?;
    home.configure(&format!("[backup]\nto = {:?}\npassphrase_file = {:?}\n", text(&backup)?, text(&pass)?))?;
    let _node = home.start()?;
    bib_benches::lab::until("a snapshot is there", crate::world::PATIENCE, || {
        let listed = home.run(["admin", "backup", "list", "--json"])?;
        Ok((listed.code == Some(0) && !listed.json_lines()?.is_empty()).then_some(()))
    })?;
    let workers = home.bib(["admin", "workers", "--json"])?;
    ensure(workers.stdout.contains("backup"), || workers.stdout.clone())
}

#[test]
fn node_and_restore_that_are_killed_leave_nothing_half() -> Result<()> {
    let mut rng = Rng::new(11);
    let mut one = One::start()?;
    write(&one.home, "pass.txt", "correct horse\n")?;
    let file = one.home.work("big.bin");
    generate::noise(&file, 24 * MIB, 3)?;
    publish(&one.home, &file, "t/big")?;
    let (backup, pass) = (one.lab.path("backup"), one.home.work("pass.txt"));
    let (backup, pass) = (text(&backup)?, text(&pass)?);
    for _ in 0..3 {
        let mut command =
            one.home.bib_command(["admin", "backup", "--to", backup, "--passphrase-file", pass, "--quiet"]);
        let mut running = Running::start(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
        let ended = running.ended(Duration::from_micros(rng.below(600_000)))?;
        one.node.kill();
        if ended.is_none() {
            running.ended(PATIENCE)?.ok_or("bib admin backup hangs after its node died")?;
        }
        one.node = one.home.start()?;
    }
    one.home.bib(["admin", "backup", "--to", backup, "--passphrase-file", pass])?;
    let read = one.home.bib(["admin", "backup", "verify", backup, "--json"])?.json_lines()?;
    ensure(read.iter().all(|snapshot| snapshot["whole"] == true), || format!("{read:?}"))?;

    let to = one.lab.path("restored");
    let bibd = Path::new(env!("CARGO_BIN_EXE_bibd"));
    for _ in 0..3 {
        let mut command = one.home.command(bibd);
        let secret = std::fs::File::create(one.home.work("secret")).and_then(|mut file| {
            file.write_all(b"passphrase correct horse\n")?;
            std::fs::File::open(one.home.work("secret"))
        });
        command.args(["restore", backup, "--data-dir", text(&to)?]).stdin(secret.during("write the secret")?);
        let mut running = Running::start(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
        if let Some((status, _)) = running.ended(Duration::from_micros(rng.below(400_000)))? {
            ensure(status.success(), || format!("{status}"))?;
            break;
        }
        running.kill();
        // Whole or not there.
        if to.exists() {
            ensure(to.join("catalog.redb").exists(), || "half a node".to_owned())?;
            break;
        }
    }
    if !to.exists() {
        one.home.bib(["admin", "restore", backup, "--data-dir", text(&to)?, "--passphrase-file", pass])?;
    }
    ensure(to.join("catalog.redb").exists() && to.join("segments/index.redb").exists(), || "it is not whole".to_owned())
}

#[test]
fn backup_is_listed_and_verified_where_no_node_runs() -> Result<()> {
    let one = One::start()?;
    let file = one.home.work("noise.bin");
    generate::noise(&file, 2 << 20, 3)?;
    publish(&one.home, &file, "t/f")?;
    let pass = write(&one.home, "pass.txt", "correct horse\n")?;
    let node = one.home.json(["status"])?["node"].to_string();
    for name in ["backup", "backup.tar"] {
        let to = one.lab.path(name);
        let made = one.home.json(["admin", "backup", "--to", text(&to)?, "--passphrase-file", text(&pass)?])?;
        let snapshot = made["snapshot"].to_string();
        let look = |verb: &str, secret: &[u8]| {
            let mut command = one.home.bibd();
            command.args(["backup", verb]).arg(&to).stdin(Stdio::piped());
            finish(command, secret)
        };
        let listed = look("list", b"passphrase correct horse\n")?;
        let fields: Vec<&str> = listed.stdout.split_whitespace().collect();
        ensure(fields.first() == Some(&snapshot.as_str()) && fields.len() == 7, || format!("{listed:?}"))?;
        ensure(node.contains(fields[2]) && fields[4] == "1" && fields[6] == "0", || format!("{listed:?} {node}"))?;
        let verified = look("verify", b"passphrase correct horse\n")?;
        ensure(verified.code == Some(0) && verified.stdout.contains("whole"), || format!("{verified:?}"))?;
        refused(&look("list", b"passphrase wrong\n")?, 5)?;
    }
    let segment = one.lab.path("backup").join("segments/0000000000.seg");
    let mut bytes = std::fs::read(&segment).during("read a segment")?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&segment, bytes).during("damage a segment")?;
    let mut command = one.home.bibd();
    command.args(["backup", "verify"]).arg(one.lab.path("backup")).stdin(Stdio::piped());
    let ran = finish(command, b"passphrase correct horse\n")?;
    ensure(ran.code == Some(6) && ran.stderr.contains("not whole") && !ran.stdout.contains("whole,"), || {
        format!("{ran:?}")
    })
}
