//! `cargo xtask demo`: one real dataset all the way between three nodes, narrated with what was measured. The same story
//! is told with nodes under emulation.

use std::path::Path;
use std::time::{Duration, Instant};

use bib_benches::failure::During;
use bib_benches::lab::{Home, Lab, Node, Programs, until};
use bib_benches::show::{bytes, percent, time};
use bib_benches::{Failure, Result, generate, same};
use serde_json::Value;

use crate::plain_blake3;
use crate::process::{cargo, root, step, target_dir};

/// By then a peer on the same machine must have seen what was published.
const DISCOVERED_WITHIN: Duration = Duration::from_secs(2);
/// No step of the demo takes longer.
const PATIENCE: Duration = Duration::from_secs(120);
/// The row that the second version of the generated file has more.
const NEW_ROW: &str = "S9999,2026-06-15T12:00:00Z,21.5,40,1013.2,3.1,0\n";

/// Who plays, and how much is moved.
#[derive(Debug)]
pub struct Cast {
    /// The programs of the three nodes.
    pub programs: [Programs; 3],
    /// Bytes of the generated file that gets a second version.
    pub csv_len: u64,
    /// Bytes of the generated file whose fetch is interrupted: no compression shortens it, so what is sent is what
    /// counts.
    pub noise_len: u64,
    /// Within which a peer must have seen what was published.
    pub discovered_within: Duration,
}

/// Runs it.
pub fn run(release: bool) -> Result<()> {
    let start = Instant::now();
    println!("bib demo: three nodes on this machine, one real dataset, no Internet\n");
    let programs = build(release)?;
    let programs = [programs.clone(), programs.clone(), programs];
    tell(&Cast { programs, csv_len: 32 << 20, noise_len: 192 << 20, discovered_within: DISCOVERED_WITHIN })?;
    println!("\nThe temporary folder is removed. All of it took {:.1} s.", start.elapsed().as_secs_f64());
    println!("README.md shows the same by hand.");
    Ok(())
}

/// Tells the story to its end.
pub fn tell(cast: &Cast) -> Result<()> {
    let lab = Lab::new(cast.programs[0].clone())?;
    let mut story = Story::begin(&lab, cast)?;
    story.meet()?;
    story.publish_and_discover()?;
    story.fetch_and_verify()?;
    story.second_version()?;
    story.one_row_in_the_middle()?;
    story.killed_half_way()?;
    story.stop()
}

/// Builds both programs.
pub fn build(release: bool) -> Result<Programs> {
    title("Build bibd and bib");
    let start = Instant::now();
    let mut command = cargo();
    command.args(["build", "--locked", "--quiet", "-p", "bib-node", "-p", "bib-cli"]);
    if release {
        command.arg("--release");
    }
    step("cargo build", &mut command)?;
    let programs = Programs::in_dir(&target_dir()?.join(if release { "release" } else { "debug" }))?;
    told(&format!("built in {:.1} s", start.elapsed().as_secs_f64()));
    Ok(programs)
}

struct Story<'c> {
    cast: &'c Cast,
    homes: [Home; 3],
    nodes: [Option<Node>; 3],
}

impl<'c> Story<'c> {
    fn begin(lab: &Lab, cast: &'c Cast) -> Result<Self> {
        title("Start three nodes, each with its own folders, key and port");
        let home = |n: usize| lab.home_with(&(n + 1).to_string(), cast.programs[n].clone());
        let homes = [home(0)?, home(1)?, home(2)?];
        let mut nodes = [None, None, None];
        for (n, home) in homes.iter().enumerate() {
            let node = home.start()?;
            let usage = node.usage()?;
            told(&format!(
                "node {}: {} answered {} after its start, {} resident",
                n + 1,
                short(node.id()),
                time(node.cold_start()),
                bytes(usage.rss)
            ));
            nodes[n] = Some(node);
        }
        Ok(Self { cast, homes, nodes })
    }

    fn meet(&self) -> Result<()> {
        title("Connect nodes 2 and 3 to node 1");
        let address = address(&self.homes[0])?;
        for home in &self.homes[1..] {
            let start = Instant::now();
            home.bib(["peer", "connect", &address])?;
            told(&format!("bib peer connect {} took {}", cut(&address, 48), time(start.elapsed())));
        }
        Ok(())
    }

    fn publish_and_discover(&self) -> Result<()> {
        let [one, two, _] = &self.homes;
        title("Node 1: make a key and a topic, publish data/noaa");
        let key = one.json(["key", "new"])?;
        told(&format!("bib key new: {}", text(&key, "user")));
        one.bib(["topic", "create", "weather", "--description", "Observations of weather stations"])?;
        told("bib topic create weather");
        let data = root().join("data/noaa");
        let version = one.json(["publish", &path_text(&data)?, "weather/noaa", "-m", "as received"])?;
        let acknowledged = Instant::now();
        told(&format!(
            "bib publish data/noaa weather/noaa: {} in {} files, durable after {}",
            bytes(number(&version, "size")),
            number(&version, "files"),
            seconds(&version)
        ));
        told(&format!("{} has the content id {}", text(&version, "reference"), text(&version, "content")));

        title("Node 2 discovers it");
        let seen = until("node 2 lists weather/noaa", PATIENCE, || listed(two, "weather/noaa@1.0.0"))?;
        let took = acknowledged.elapsed();
        told(&format!("bib dataset show on node 2 names {} {} after the publication", seen, time(took)));
        let limit = self.cast.discovered_within;
        if took > limit {
            return Err(Failure(format!("it should take at most {} s", limit.as_secs())));
        }
        Ok(())
    }

    fn fetch_and_verify(&self) -> Result<()> {
        let three = &self.homes[2];
        title("Node 3 fetches it");
        until("node 3 lists weather/noaa", PATIENCE, || listed(three, "weather/noaa@1.0.0"))?;
        let got = three.json(["get", "weather/noaa", "-o", "noaa"])?;
        told(&format!(
            "bib get weather/noaa: {} in {} files, {}; {} came over the wire",
            bytes(number(&got, "size")),
            number(&got, "files"),
            seconds(&got),
            bytes(three.figure("wire_received")?)
        ));

        title("Verify it with another implementation of BLAKE3, and byte by byte");
        for entry in three.bib(["ls", "weather/noaa", "--json"])?.json_lines()? {
            let path = text(&entry, "path");
            let fetched = read(&three.work("noaa").join(path))?;
            let hash = plain_blake3::hex(&fetched);
            if hash != text(&entry, "content") || fetched != read(&root().join("data/noaa").join(path))? {
                return Err(Failure(format!("{path} is not what was published: {hash}")));
            }
            told(&format!("{} {path}: the same", cut(&hash, 16)));
        }
        Ok(())
    }

    fn second_version(&self) -> Result<()> {
        let [one, _, three] = &self.homes;
        title("Node 1 publishes a second version: one more day at the end of a file");
        let folder = one.work("noaa");
        std::fs::create_dir_all(&folder).during("make a folder")?;
        for name in ["daily.csv", "hourly-normals.csv", "PROVENANCE.md"] {
            let mut content = read(&root().join("data/noaa").join(name))?;
            if name == "daily.csv" {
                content.extend_from_slice(b"Seattle,2016-01-01,0,8.9,2.8,3.1,sun\n");
            }
            std::fs::write(folder.join(name), content).during(name)?;
        }
        let before = three.figure("wire_received")?;
        let version = one.json(["publish", "noaa", "weather/noaa", "-m", "one more day"])?;
        told(&format!(
            "{}: {} of {} are new",
            text(&version, "reference"),
            bytes(number(&version, "new_bytes")),
            bytes(number(&version, "size"))
        ));
        until("node 3 lists the second version", PATIENCE, || listed(three, "weather/noaa@1.0.1"))?;
        three.bib(["get", "weather/noaa@1.0.1", "-o", "noaa-2"])?;
        let sent = three.figure("wire_received")? - before;
        let size = number(&version, "size");
        told(&format!("node 3 has it too; {} were sent, {}", bytes(sent), percent(sent, size)));
        same::file(&three.work("noaa-2/daily.csv"), &folder.join("daily.csv"))
    }

    fn one_row_in_the_middle(&self) -> Result<()> {
        let [one, _, three] = &self.homes;
        title(&format!("The same with a file of {}: one row more in its middle", bytes(self.cast.csv_len)));
        generate::csv(&one.work("first.csv"), self.cast.csv_len, 1, None)?;
        generate::csv(&one.work("second.csv"), self.cast.csv_len, 1, Some(NEW_ROW))?;
        let mut before = three.figure("wire_received")?;
        for (file, number_of_version) in [("first.csv", "1.0.0"), ("second.csv", "1.0.1")] {
            let version = one.json(["publish", file, "weather/stations"])?;
            let reference = format!("weather/stations@{number_of_version}");
            until("node 3 lists it", PATIENCE, || listed(three, &reference))?;
            let out = three.work(file);
            three.bib(["get", &reference, "-o", &path_text(&out)?])?;
            same::file(&out, &one.work(file))?;
            let now = three.figure("wire_received")?;
            let size = number(&version, "size");
            told(&format!(
                "{reference}: {}, {} new on node 1, {} sent to node 3, {}",
                bytes(size),
                bytes(number(&version, "new_bytes")),
                bytes(now - before),
                percent(now - before, size)
            ));
            before = now;
        }
        Ok(())
    }

    fn killed_half_way(&mut self) -> Result<()> {
        title("Kill node 3 with SIGKILL in the middle of a fetch, and go on");
        generate::noise(&self.homes[0].work("noise.bin"), self.cast.noise_len, 2)?;
        let received_before = self.homes[2].figure("wire_received")?;
        let stored_before = self.homes[2].figure("raw_bytes")?;
        let version = self.homes[0].json(["publish", "noise.bin", "weather/noise"])?;
        let size = number(&version, "size");
        let three = &self.homes[2];
        until("node 3 lists weather/noise", PATIENCE, || listed(three, "weather/noise@1.0.0"))?;
        let mut get = bib_benches::lab::Running::start(
            three
                .bib_command(["get", "weather/noise", "-o", "noise.bin", "--quiet"])
                .stderr(std::process::Stdio::null()),
        )?;
        let sent = until("half of it is on node 3", PATIENCE, || {
            let sent = three.figure("wire_received")?.saturating_sub(received_before);
            Ok((sent >= size / 2).then_some(sent))
        })?;
        let node = self.nodes[2].take().ok_or("node 3 runs")?;
        node.kill();
        get.kill();
        told(&format!("killed after {} of {} had arrived", bytes(sent), bytes(size)));

        let node = three.start()?;
        let cold_start = node.cold_start();
        self.nodes[2] = Some(node);
        let kept = three.figure("raw_bytes")?.saturating_sub(stored_before);
        told(&format!("node 3 answers again after {}; {} are in its store", time(cold_start), bytes(kept)));
        three.bib(["peer", "connect", &address(&self.homes[0])?])?;
        let got = three.json(["get", "weather/noise", "-o", "noise.bin"])?;
        let rest = three.figure("wire_received")?;
        told(&format!(
            "bib get again: complete after {}; {} were sent, {} of the file",
            seconds(&got),
            bytes(rest),
            percent(rest, size)
        ));
        same::file(&three.work("noise.bin"), &self.homes[0].work("noise.bin"))?;
        told("the file is the same byte by byte");
        // What is not in the store has to come, and its frames; nothing else.
        if kept == 0 || rest > size - kept + size / 50 {
            return Err(Failure(format!("{} should have been enough", bytes(size - kept))));
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        title("Stop the nodes");
        for (n, slot) in self.nodes.iter_mut().enumerate() {
            if let Some(node) = slot.take() {
                let usage = node.usage()?;
                let start = Instant::now();
                let status = node.stop()?;
                told(&format!(
                    "node {} used {:.2} CPU-s and {} at its peak; it stopped within {} ({status})",
                    n + 1,
                    usage.cpu().as_secs_f64(),
                    bytes(usage.peak_rss),
                    time(start.elapsed())
                ));
                if !status.success() {
                    return Err(Failure(format!("node {} did not stop well", n + 1)));
                }
            }
        }
        Ok(())
    }
}

/// Whether a node knows a version; its reference.
pub fn listed(home: &Home, reference: &str) -> Result<Option<String>> {
    let ran = home.run(["dataset", "show", reference, "--json"])?;
    match ran.code {
        Some(0) => Ok(Some(reference.to_owned())),
        Some(3) => Ok(None),
        _ => ran.ok().map(|_| None),
    }
}

/// An address of a node on loopback.
pub fn address(home: &Home) -> Result<String> {
    let status = home.json(["status"])?;
    let addresses = status["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let loopback = addresses.into_iter().find(|address| address.starts_with("/ip4/127.0.0.1/tcp/"));
    loopback.map(str::to_owned).ok_or_else(|| Failure(format!("no address on loopback: {status}")))
}

fn title(text: &str) {
    println!("\n▸ {text}");
}

fn told(text: &str) {
    println!("  {text}");
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).during(path.display())
}

fn path_text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| Failure(format!("{} is not UTF-8", path.display())))
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or("?")
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or(0)
}

fn seconds(value: &Value) -> String {
    time(Duration::from_secs_f64(value["seconds"].as_f64().unwrap_or(0.0)))
}

fn short(id: &str) -> &str {
    cut(id, 12)
}

fn cut(text: &str, len: usize) -> &str {
    text.get(..len).unwrap_or(text)
}
