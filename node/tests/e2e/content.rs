//! What is published on one node comes out byte-identical on another, whatever it is and however it is named.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};

use bib_benches::failure::During;
use bib_benches::{Result, generate, same};

use crate::world::{One, Two, ensure, get, publish, refused, sees, write};

#[test]
fn file_published_on_one_node_is_found_and_fetched_on_another() -> Result<()> {
    let two = Two::start()?;
    let file = two.a.work("temps.csv");
    generate::csv(&file, 3 << 20, 1, None)?;
    let published = publish(&two.a, &file, "t/temps")?;
    let shown = sees(&two.b, "t/temps@1.0.0")?;
    let hash = blake3::hash(&std::fs::read(&file).during("read the file")?).to_hex().to_string();
    ensure(published["content"] == hash.as_str(), || format!("{published} is not {hash}"))?;
    ensure(shown.to_string().contains(&hash), || format!("{shown} does not name {hash}"))?;
    same::file(&file, &get(&two.b, "t/temps", "out.csv")?)?;

    let found = two.b.bib(["find", "temps", "--json"])?.json_lines()?;
    ensure(found.len() == 1 && found[0]["path"] == "t/temps", || format!("{found:?}"))?;
    let listed = two.b.bib(["dataset", "list", "t", "--json"])?.json_lines()?;
    ensure(listed.len() == 1 && listed[0]["path"] == "t/temps", || format!("{listed:?}"))?;
    let topics = two.b.bib(["topic", "list", "--json"])?.json_lines()?;
    ensure(topics.len() == 1 && topics[0]["path"] == "t", || format!("{topics:?}"))?;
    let files = two.b.bib(["ls", "t/temps", "--json"])?.json_lines()?;
    ensure(files.len() == 1 && files[0]["path"] == "temps.csv", || format!("{files:?}"))
}

#[test]
fn tree_of_odd_names_empty_files_and_deep_folders_comes_out_the_same() -> Result<()> {
    let two = Two::start()?;
    let deep: String = (0..250).map(|n| format!("d{}/", n % 10)).collect();
    let names = [
        "plain.csv".to_owned(),
        "with space and 'quotes' \"two\".txt".to_owned(),
        "Ünïcödé/日本語/Ελληνικά.txt".to_owned(),
        // The same letter composed and decomposed: two names for the file system, so two for us.
        "e\u{301}.txt".to_owned(),
        "\u{e9}.txt".to_owned(),
        "-leading-dash".to_owned(),
        ".hidden/.file".to_owned(),
        "new\nline.txt".to_owned(),
        "back\\slash.txt".to_owned(),
        "😀.txt".to_owned(),
        "n".repeat(255),
        format!("{}.txt", "ü".repeat(125)),
        format!("{deep}leaf"),
    ];
    for (n, name) in names.iter().enumerate() {
        write(&two.a, &format!("tree/{name}"), format!("content {n}\n"))?;
    }
    write(&two.a, "tree/empty", "")?;
    let run = write(&two.a, "tree/run.sh", "#!/bin/sh\n")?;
    std::fs::set_permissions(&run, PermissionsExt::from_mode(0o755)).during("chmod")?;
    for dir in ["tree/empty folder", "tree/nested/empty/folder"] {
        std::fs::create_dir_all(two.a.work(dir)).during("mkdir")?;
    }
    generate::noise(&two.a.work("tree/big.bin"), 5 << 20, 3)?;

    let published = publish(&two.a, &two.a.work("tree"), "t/tree")?;
    ensure(published["files"] == names.len() as u64 + 3, || published.to_string())?;
    sees(&two.b, "t/tree@1.0.0")?;
    let out = get(&two.b, "t/tree", "out")?;
    same::tree(&two.a.work("tree"), &out)?;

    // A part of it alone.
    two.b.bib(["get", "t/tree:Ünïcödé", "-o", "part"])?;
    same::tree(&two.a.work("tree/Ünïcödé"), &two.b.work("part"))
}

#[test]
fn links_and_special_files_are_skipped_by_name_and_never_followed() -> Result<()> {
    let one = One::start()?;
    write(&one.home, "secret/key", "secret")?;
    write(&one.home, "tree/file", "content")?;
    symlink(one.home.work("secret"), one.home.work("tree/link-to-folder")).during("symlink")?;
    symlink(one.home.work("secret/key"), one.home.work("tree/link-to-file")).during("symlink")?;
    rustix::fs::mknodat(
        rustix::fs::CWD,
        one.home.work("tree/fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .during("mkfifo")?;
    let ran = one.home.bib(["publish", "tree", "t/tree"])?;
    for name in ["link-to-folder", "link-to-file", "fifo"] {
        ensure(ran.stderr.contains(name), || format!("{name} is not named: {}", ran.stderr))?;
    }
    let files = one.home.bib(["ls", "t/tree", "--json"])?.json_lines()?;
    ensure(files.len() == 1 && files[0]["path"] == "file", || format!("{files:?}"))
}

#[test]
fn names_that_are_not_text_are_refused_and_nothing_is_published() -> Result<()> {
    let one = One::start()?;
    write(&one.home, "tree/file", "content")?;
    let name = std::ffi::OsStr::from_bytes(b"tree/\xff\xfe");
    std::fs::write(one.home.work(name), "x").during("write")?;
    refused(&one.home.run(["publish", "tree", "t/tree"])?, 2)?;
    ensure(one.home.run(["dataset", "show", "t/tree"])?.code == Some(3), || "a dataset was made".to_owned())
}

#[test]
fn what_comes_on_stdin_is_a_version_like_any_other() -> Result<()> {
    let two = Two::start()?;
    let input: String = (0..200_000).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    two.a.run_with_stdin(["publish", "-", "t/stream", "--format", "jsonl"], input.as_bytes())?.ok()?;
    sees(&two.b, "t/stream@1.0.0")?;
    let ran = two.b.bib(["cat", "t/stream"])?;
    ensure(ran.out == input.as_bytes(), || format!("{} bytes of {}", ran.out.len(), input.len()))
}

#[test]
fn ranges_of_a_file_that_is_elsewhere_are_its_bytes() -> Result<()> {
    let two = Two::start()?;
    let file = two.a.work("noise.bin");
    generate::noise(&file, 4_000_003, 5)?;
    publish(&two.a, &file, "t/noise")?;
    sees(&two.b, "t/noise@1.0.0")?;
    let content = std::fs::read(&file).during("read the file")?;
    for (range, wanted) in [
        ("0-0", &content[..1]),
        ("0-1048575", &content[..1 << 20]),
        ("262143-262145", &content[262_143..=262_145]),
        ("3999999-4000002", &content[3_999_999..]),
        ("4000000-", &content[4_000_000..]),
        ("3999999-9999999", &content[3_999_999..]),
    ] {
        let ran = two.b.bib(["cat", "--range", range, "t/noise"])?;
        ensure(ran.out == wanted, || format!("{range}: {} bytes instead of {}", ran.out.len(), wanted.len()))?;
    }
    Ok(())
}

#[test]
fn thousands_of_small_files_arrive_whole() -> Result<()> {
    let two = Two::start()?;
    generate::small_files(&two.a.work("small"), 3_000, 9)?;
    let published = publish(&two.a, &two.a.work("small"), "t/small")?;
    ensure(published["files"] == 3_000, || published.to_string())?;
    sees(&two.b, "t/small@1.0.0")?;
    same::tree(&two.a.work("small"), &get(&two.b, "t/small", "out")?)
}

#[test]
fn links_in_the_output_folder_lead_nothing_out_of_it() -> Result<()> {
    let one = One::start()?;
    write(&one.home, "tree/sub/file", "new")?;
    publish(&one.home, &one.home.work("tree"), "t/tree")?;
    write(&one.home, "elsewhere/file", "old")?;
    std::fs::create_dir(one.home.work("out")).during("mkdir")?;
    symlink(one.home.work("elsewhere"), one.home.work("out/sub")).during("symlink")?;
    // Whether it refuses or replaces the link, what the link leads to stays.
    let ran = one.home.run(["get", "t/tree", "-o", "out"])?;
    ensure(!ran.stderr.contains("panicked"), || ran.stderr.clone())?;
    let kept = std::fs::read(one.home.work("elsewhere/file")).during("read")?;
    ensure(kept == b"old", || "a file outside the output folder was written".to_owned())
}
