//! Garbage, wrong files and wrong keys: one clear error each, and the node goes on.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use bib_benches::failure::During;
use bib_benches::generate::{self, Rng};
use bib_benches::lab::{Home, Ran, finish};
use bib_benches::{Failure, Result, same};

use crate::world::{One, PATIENCE, Two, address, ensure, get, publish, sees, write};

/// Garbage of several kinds, the same for the same seed.
fn garbage(seed: u64) -> Vec<Vec<u8>> {
    let mut rng = Rng::new(seed);
    let mut noise = |len| {
        let mut bytes = vec![0; len];
        rng.fill(&mut bytes);
        bytes
    };
    vec![
        Vec::new(),
        vec![0],
        vec![0; 4_096],
        vec![0xff; 4_096],
        noise(1),
        noise(100),
        noise(100_000),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        // A frame of nothing, one that promises too much, one that is cut off.
        vec![0, 0, 0, 0],
        vec![0x7f, 0xff, 0xff, 0xff, 1, 2, 3],
        [vec![0, 0, 4, 0], noise(100)].concat(),
        [vec![0, 0, 0, 64], noise(64)].concat(),
        // The beginning of what a peer would say, then noise.
        [b"\x13/multistream/1.0.0\n".to_vec(), noise(1_000)].concat(),
        [b"\x13/multistream/1.0.0\n\x07/noise\n".to_vec(), noise(1_000)].concat(),
    ]
}

/// Reads until the other side closes or the time is over.
fn drain(stream: &mut impl Read) {
    let mut buf = [0; 4_096];
    while matches!(stream.read(&mut buf), Ok(1..)) {}
}

fn log(home: &Home) -> Result<String> {
    std::fs::read_to_string(home.log()).during("read the log")
}

/// The log tells of no panic.
fn calm(home: &Home) -> Result<()> {
    let log = log(home)?;
    ensure(!log.contains("panicked"), || log)
}

/// Runs `bibd` of a home, which must not come up.
fn does_not_start(home: &Home) -> Result<Ran> {
    let mut command = home.bibd();
    command.stdin(Stdio::null());
    let ran = finish(command, b"")?;
    let sound =
        ran.code.is_some_and(|code| code != 0) && ran.stderr.contains("hint") && !ran.stderr.contains("panicked");
    if sound { Ok(ran) } else { Err(Failure(format!("an error with a hint was expected: {ran:#?}"))) }
}

#[test]
fn garbage_on_the_control_socket_harms_nobody_else() -> Result<()> {
    let one = One::start()?;
    let socket = one.home.socket();
    for bytes in garbage(1) {
        let mut stream = UnixStream::connect(&socket).during("connect")?;
        stream.set_read_timeout(Some(Duration::from_millis(200))).during("set a timeout")?;
        // The node may hang up in the middle.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        drain(&mut stream);
    }
    // Some that only sit there.
    let idle: Vec<_> = (0..20).map(|_| UnixStream::connect(&socket)).collect();
    one.home.bib(["status"])?;
    drop(idle);
    one.home.bib(["status"])?;
    calm(&one.home)
}

#[test]
fn more_sessions_than_the_node_takes_are_turned_away_and_the_next_is_served() -> Result<()> {
    let one = One::start()?;
    let many: Vec<_> = (0..200).filter_map(|_| UnixStream::connect(one.home.socket()).ok()).collect();
    // While they are there, an answer may be `busy`; it has to be an answer.
    let ran = one.home.run(["status", "--timeout", "5s"])?;
    ensure(ran.code.is_some_and(|code| code != 70), || format!("{ran:#?}"))?;
    drop(many);
    bib_benches::lab::until("the node serves again", PATIENCE, || {
        Ok((one.home.run(["status"])?.code == Some(0)).then_some(()))
    })?;
    calm(&one.home)
}

#[test]
fn garbage_on_the_peer_port_harms_nobody_else() -> Result<()> {
    let two = Two::start()?;
    let listens = address(&two.a)?;
    let port = listens.split('/').nth(4).and_then(|port| port.parse::<u16>().ok()).ok_or("an address has a port")?;
    for bytes in garbage(2) {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).during("connect")?;
        stream.set_read_timeout(Some(Duration::from_millis(200))).during("set a timeout")?;
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        drain(&mut stream);
    }
    let _idle: Vec<_> = (0..20).map(|_| TcpStream::connect(("127.0.0.1", port))).collect();
    let file = write(&two.a, "f", "after the garbage")?;
    publish(&two.a, &file, "t/f")?;
    sees(&two.b, "t/f@1.0.0")?;
    same::file(&file, &get(&two.b, "t/f", "out")?)?;
    calm(&two.a)
}

#[test]
fn second_node_on_the_same_data_is_refused_and_the_first_goes_on() -> Result<()> {
    let one = One::start()?;
    let ran = does_not_start(&one.home)?;
    let dir = one.home.data_dir();
    ensure(ran.stderr.contains(&dir.display().to_string()), || {
        format!("it does not name {}: {ran:#?}", dir.display())
    })?;
    one.home.bib(["status"]).map(|_| ())
}

#[test]
fn node_key_that_others_may_read_or_that_is_garbage_is_refused() -> Result<()> {
    let one = One::start()?;
    one.node.stop()?;
    let key = one.home.data_dir().join("identity.pem");
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).during("chmod")?;
    let ran = does_not_start(&one.home)?;
    ensure(ran.stderr.contains("identity.pem"), || format!("{ran:#?}"))?;
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).during("chmod")?;
    let id = one.home.start()?;
    let name = id.id().to_owned();
    id.stop()?;
    let again = one.home.start()?;
    ensure(again.id() == name, || "the node has another id after a restart".to_owned())?;
    again.stop()?;

    std::fs::write(&key, "garbage").during("write")?;
    does_not_start(&one.home)?;
    let kept = std::fs::read(&key).during("read")?;
    ensure(kept == b"garbage", || "the file was replaced".to_owned())
}

#[test]
fn user_key_that_others_may_read_is_refused() -> Result<()> {
    let one = One::start()?;
    let key = one.home.path("config/bib/user.key");
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).during("chmod")?;
    write(&one.home, "f", "x")?;
    let ran = one.home.run(["publish", "f", "t/f"])?;
    ensure(ran.code == Some(5) || ran.code == Some(2), || format!("{ran:#?}"))?;
    ensure(ran.stderr.contains("chmod 600"), || format!("{ran:#?}"))
}

#[test]
fn catalog_of_garbage_is_one_error_and_stays_as_it_is() -> Result<()> {
    let one = One::start()?;
    one.node.stop()?;
    let catalog = one.home.data_dir().join("catalog.redb");
    let garbage = vec![0x5a; 1 << 20];
    std::fs::write(&catalog, &garbage).during("write")?;
    does_not_start(&one.home)?;
    let kept = std::fs::read(&catalog).during("read")?;
    ensure(kept == garbage, || "the file was changed".to_owned())
}

#[test]
fn strangers_in_the_data_directory_are_left_alone() -> Result<()> {
    let one = One::start()?;
    let file = write(&one.home, "f", "content")?;
    publish(&one.home, &file, "t/f")?;
    one.node.stop()?;
    let data = one.home.data_dir();
    let strangers = [data.join("notes.txt"), data.join("segments/notes.txt"), data.join("segments/.tmp")];
    for stranger in &strangers {
        std::fs::write(stranger, "garbage").during("write")?;
    }
    let _node = one.home.start()?;
    same::file(&file, &get(&one.home, "t/f", "out")?)?;
    for stranger in &strangers {
        ensure(std::fs::read(stranger).during("read")? == b"garbage", || format!("{}", stranger.display()))?;
    }
    calm(&one.home)
}

/// Files below `segments`, the largest first.
fn segments(home: &Home) -> Result<Vec<PathBuf>> {
    let dir = home.data_dir().join("segments");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&dir).during(format!("read {}", dir.display()))? {
        let entry = entry.during("read a folder")?;
        found.push((entry.metadata().during("look at a file")?.len(), entry.path()));
    }
    found.sort();
    Ok(found.into_iter().rev().map(|(_, path)| path).collect())
}

#[test]
fn damaged_chunk_is_never_given_out_and_comes_again_from_a_peer() -> Result<()> {
    let mut two = Two::start()?;
    let file = two.a.work("noise.bin");
    generate::noise(&file, 4 << 20, 6)?;
    publish(&two.a, &file, "t/noise")?;
    sees(&two.b, "t/noise@1.0.0")?;
    get(&two.b, "t/noise", "out")?;
    two.node_a.stop()?;
    let segment = segments(&two.a)?.into_iter().next().ok_or("there is a segment")?;
    let mut bytes = std::fs::read(&segment).during("read a segment")?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&segment, bytes).during("write a segment")?;

    two.node_a = two.a.start()?;
    let ran = two.a.run(["get", "t/noise", "-o", "damaged", "--timeout", "20s"])?;
    if ran.code == Some(0) {
        // It may have asked the other node already.
        same::file(&file, &two.a.work("damaged"))?;
    } else {
        ensure(!two.a.work("damaged").exists(), || "damaged bytes were written out".to_owned())?;
        ensure(ran.stderr.contains("hint"), || format!("{ran:#?}"))?;
    }
    // The whole copy of the other node still is one.
    same::file(&file, &get(&two.b, "t/noise", "again")?)?;
    calm(&two.a)
}

#[test]
fn catalog_that_was_lost_comes_again_from_a_peer() -> Result<()> {
    let mut two = Two::start()?;
    let file = two.a.work("noise.bin");
    generate::noise(&file, 256 << 10, 9)?;
    publish(&two.a, &file, "t/f")?;
    sees(&two.b, "t/f@1.0.0")?;
    get(&two.b, "t/f", "out")?;
    two.node_b.stop()?;
    std::fs::remove_file(two.b.data_dir().join("catalog.redb")).during("remove the catalog")?;
    two.node_b = two.b.start()?;
    two.b.bib(["peer", "connect", &address(&two.a)?])?;
    sees(&two.b, "t/f@1.0.0")?;
    same::file(&file, &get(&two.b, "t/f", "again")?)?;
    // What else is there nobody knows, so nothing may be given up.
    let gc = two.b.run(["admin", "gc", "--min-age", "0s"])?;
    ensure(gc.code == Some(1) && gc.stderr.contains("catalog.lost"), || format!("{gc:#?}"))?;
    let status = two.b.json(["status"])?;
    ensure(status["degraded"].to_string().contains("catalog"), || status.to_string())?;
    // The chunks were here all the time; that may have been found out after the other node was asked what it has.
    let received = two.b.figure("wire_received")?;
    ensure(received < 1_024, || format!("{received} bytes came again"))
}

#[test]
fn segments_that_are_away_are_missed_before_anything_is_written_in_their_place() -> Result<()> {
    let mut one = One::start()?;
    let file = one.home.work("noise.bin");
    generate::noise(&file, 1 << 20, 7)?;
    publish(&one.home, &file, "t/noise")?;
    one.node.stop()?;
    let (segments, away) = (one.home.data_dir().join("segments"), one.home.work("away"));
    std::fs::rename(&segments, &away).during("take the segments away")?;
    for has_folder in [false, true] {
        if has_folder {
            std::fs::create_dir(&segments).during("make a mount point")?;
        }
        let Err(Failure(why)) = one.home.start() else { return Err("it starts without its segments".into()) };
        ensure(why.contains("is empty") && why.contains("rebuild --offline"), || why.clone())?;
        let n_files = std::fs::read_dir(&segments).map_or(0, Iterator::count);
        ensure(n_files == 0, || format!("{n_files} files were made"))?;
    }
    std::fs::remove_dir(&segments).during("remove the mount point")?;
    std::fs::rename(&away, &segments).during("bring the segments back")?;
    one.node = one.home.start()?;
    same::file(&file, &get(&one.home, "t/noise", "out")?)?;
    // They are lost for good.
    one.node.stop()?;
    std::fs::remove_dir_all(&segments).during("lose the segments")?;
    let mut rebuild = one.home.bibd();
    let ran = rebuild.arg("rebuild").output().during("run bibd")?;
    ensure(ran.status.success(), || format!("{ran:?}"))?;
    one.node = one.home.start()?;
    publish(&one.home, &file, "t/again").map(drop)
}

#[test]
fn index_that_was_lost_is_made_again_from_the_segments() -> Result<()> {
    let one = One::start()?;
    let file = one.home.work("noise.bin");
    generate::noise(&file, 3 << 20, 7)?;
    publish(&one.home, &file, "t/noise")?;
    one.node.stop()?;
    std::fs::remove_file(one.home.data_dir().join("segments/index.redb")).during("remove the index")?;
    let _node = one.home.start()?;
    same::file(&file, &get(&one.home, "t/noise", "out")?)
}

#[test]
fn wrong_line_of_the_configuration_is_named_with_its_place() -> Result<()> {
    let one = One::start()?;
    one.node.stop()?;
    one.home.configure("p2p.lisen = []")?;
    let ran = does_not_start(&one.home)?;
    ensure(ran.stderr.contains("bibd.toml") && ran.stderr.contains("p2p.lisen"), || format!("{ran:#?}"))
}
