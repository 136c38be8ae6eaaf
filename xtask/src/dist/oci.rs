//! A container image in the layout of the Open Container Initiative, as one archive, for several architectures: the
//! daemon, the roots of the web's certificates, and the folders it writes to.

use std::path::Path;

use bib_benches::failure::During;
use bib_benches::{Failure, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::date::Date;
use super::target::Target;
use super::tree::{Tree, gzip};

/// User and group that the node runs as: the number that others use for images without root.
const USER: u32 = 65_532;
/// Where Debian's `ca-certificates` puts all roots in one file.
const ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Where Debian's package keeps them, one a file.
const PUBLIC_ROOTS: &str = "/usr/share/ca-certificates/mozilla";

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Roots of certificates, and where they come from.
#[derive(Debug)]
pub struct Roots {
    /// All of them as PEM.
    pub pem: Vec<u8>,
    /// The version of the package that has them.
    pub version: String,
}

impl Roots {
    /// Those that the package of this machine's system brings; not what its owner trusts besides.
    pub fn of_this_machine() -> Result<Self> {
        let pem = public(Path::new(PUBLIC_ROOTS)).map_err(|failure| {
            Failure(format!("{failure}\nhint: `apt-get install ca-certificates` brings the roots that the image holds"))
        })?;
        let mut query = std::process::Command::new("dpkg-query");
        let said = query.args(["-W", "-f", "${Version}", "ca-certificates"]).output();
        // Other systems have the file by other means, and say so.
        let version = match said {
            Ok(said) if said.status.success() => String::from_utf8_lossy(&said.stdout).trim().to_owned(),
            _ => "of the machine that made the image".to_owned(),
        };
        Ok(Self { pem, version })
    }
}

/// All certificates in a folder, in the order of their names.
fn public(dir: &Path) -> Result<Vec<u8>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).during(dir.display())? {
        paths.push(entry.during(dir.display())?.path());
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "crt"));
    paths.sort();
    let mut pem = Vec::new();
    for path in paths {
        pem.extend(std::fs::read(&path).during(path.display())?.trim_ascii());
        pem.push(b'\n');
    }
    if pem.is_empty() { Err(Failure(format!("{} holds no certificates", dir.display()))) } else { Ok(pem) }
}

/// What all architectures share.
#[derive(Debug)]
pub struct Image<'a> {
    /// Version of bib.
    pub version: &'a str,
    /// Of the sources.
    pub date: Date,
    /// Roots of certificates.
    pub roots: Roots,
}

/// The layout as an archive, of the daemon for each target.
pub fn archive(image: &Image<'_>, daemons: &[(Target, Vec<u8>)]) -> Result<Vec<u8>> {
    let mut layout = Tree::default();
    layout.file("oci-layout", 0o644, json!({ "imageLayoutVersion": "1.0.0" }).to_string());
    let mut manifests = Vec::new();
    for (target, daemon) in daemons {
        let mut manifest = manifest(image, *target, daemon, &mut layout)?;
        let (architecture, variant) = target.oci();
        manifest["platform"] = json!({ "architecture": architecture, "os": "linux" });
        if let Some(variant) = variant {
            manifest["platform"]["variant"] = variant.into();
        }
        manifests.push(manifest);
    }
    let annotations = annotations(image);
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests, "annotations": annotations });
    let mut named = vec![name(blob(&mut layout, INDEX, index.to_string().as_bytes()), image.version)];
    for ((target, _), manifest) in daemons.iter().zip(manifests) {
        named.push(name(manifest, &format!("{}-{target}", image.version)));
    }
    let top = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": named });
    layout.file("index.json", 0o644, top.to_string());
    layout.tar("", image.date)
}

/// Adds the layer, configuration and manifest of one architecture, and returns what names the manifest.
fn manifest(image: &Image<'_>, target: Target, daemon: &[u8], layout: &mut Tree) -> Result<Value> {
    let layer = files(&image.roots, daemon).tar("", image.date)?;
    let diff = format!("sha256:{}", sha256(&layer));
    let layer = blob(layout, LAYER, &gzip(&layer)?);
    let (architecture, variant) = target.oci();
    let labels = annotations(image);
    let mut config = json!({
        "created": image.date.rfc3339(),
        "architecture": architecture,
        "os": "linux",
        "config": {
            "User": format!("{USER}:{USER}"),
            "ExposedPorts": { "4001/tcp": {} },
            // Above the file of settings that may be mounted: these are the folders that the image has.
            "Env": ["BIBD_STORAGE__DATA_DIR=/var/lib/bib", "BIBD_CONTROL__SOCKET=/run/bib/bibd.sock"],
            "Entrypoint": ["/usr/bin/bibd"],
            "Volumes": { "/var/lib/bib": {} },
            "WorkingDir": "/var/lib/bib",
            "Labels": labels,
            "StopSignal": "SIGTERM",
        },
        "rootfs": { "type": "layers", "diff_ids": [diff] },
        "history": [{ "created": image.date.rfc3339(), "created_by": "cargo xtask dist" }],
    });
    if let Some(variant) = variant {
        config["variant"] = variant.into();
    }
    let config = blob(layout, CONFIG, config.to_string().as_bytes());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config,
        "layers": [layer],
        "annotations": annotations(image),
    });
    Ok(blob(layout, MANIFEST, manifest.to_string().as_bytes()))
}

/// The only layer.
fn files(roots: &Roots, daemon: &[u8]) -> Tree {
    let mut files = Tree::default();
    files.file("usr/bin/bibd", 0o755, daemon);
    files.file(&ROOTS[1..], 0o644, roots.pem.as_slice());
    let line = |name: &str, id: u32, home: &str| format!("{name}:x:{id}:{id}:{name}:{home}:/sbin/nologin\n");
    files.file("etc/passwd", 0o644, line("root", 0, "/root") + &line("bib", USER, "/var/lib/bib"));
    files.file("etc/group", 0o644, format!("root:x:0:\nbib:x:{USER}:\n"));
    files.folder("root", 0o700, 0);
    files.folder("var/lib/bib", 0o700, USER);
    files.folder("run/bib", 0o750, USER);
    files.folder("tmp", 0o1777, 0);
    files
}

fn annotations(image: &Image<'_>) -> Value {
    json!({
        "org.opencontainers.image.created": image.date.rfc3339(),
        "org.opencontainers.image.title": "bibd",
        "org.opencontainers.image.description": "Node of bib, which keeps and shares versioned datasets",
        "org.opencontainers.image.version": image.version,
        "org.opencontainers.image.licenses": "Apache-2.0 OR MIT",
        "bib.ca-certificates": image.roots.version,
    })
}

/// Adds bytes under their hash, and returns what names them.
fn blob(layout: &mut Tree, media_type: &str, bytes: &[u8]) -> Value {
    let hash = sha256(bytes);
    layout.file(&format!("blobs/sha256/{hash}"), 0o644, bytes);
    json!({ "mediaType": media_type, "digest": format!("sha256:{hash}"), "size": bytes.len() })
}

/// Gives something a name in the layout.
fn name(mut descriptor: Value, name: &str) -> Value {
    descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    descriptor
}

/// The hash in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hash of a file with its name, as `sha256sum -c` reads it.
pub fn sum_line(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).during(format!("read {}", path.display()))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(format!("{}  {name}\n", sha256(&bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::io::Read;

    fn example() -> Vec<u8> {
        let roots = Roots { pem: b"roots".to_vec(), version: "1".to_owned() };
        let image = Image { version: "1.2.3", date: Date(1_795_663_330), roots };
        archive(&image, &[(Target::Arm64, b"arm".to_vec()), (Target::Amd64, b"amd".to_vec())]).unwrap()
    }

    fn unpack(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(archive).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            files.insert(path, bytes);
        }
        files
    }

    #[test]
    fn every_name_leads_to_bytes_with_that_hash_and_size() {
        let files = unpack(&example());
        let read = |descriptor: &Value| -> Vec<u8> {
            let hash = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
            let bytes = files[&format!("blobs/sha256/{hash}")].clone();
            assert_eq!((sha256(&bytes).as_str(), descriptor["size"].as_u64()), (hash, Some(bytes.len() as u64)));
            bytes
        };
        let json = |bytes: &[u8]| -> Value { serde_json::from_slice(bytes).unwrap() };
        let top = json(&files["index.json"]);
        assert_eq!(top["manifests"].as_array().unwrap().len(), 3);
        let index = json(&read(&top["manifests"][0]));
        let platforms: Vec<&str> = index["manifests"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m["platform"]["architecture"].as_str().unwrap())
            .collect();
        assert_eq!(platforms, ["arm64", "amd64"]);
        for (n, daemon) in [(0, "arm"), (1, "amd")] {
            assert_eq!(index["manifests"][n]["digest"], top["manifests"][n + 1]["digest"]);
            let manifest = json(&read(&index["manifests"][n]));
            let config = json(&read(&manifest["config"]));
            let mut layer = Vec::new();
            flate2::read::GzDecoder::new(read(&manifest["layers"][0]).as_slice()).read_to_end(&mut layer).unwrap();
            assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", sha256(&layer)));
            assert_eq!(unpack(&layer)["usr/bin/bibd"], daemon.as_bytes());
        }
    }

    #[test]
    fn image_is_the_same_twice_and_its_user_owns_the_data() {
        assert_eq!(example(), example());
        let roots = Roots { pem: Vec::new(), version: String::new() };
        let layer = files(&roots, b"").tar("", Date(0)).unwrap();
        let mut archive = tar::Archive::new(layer.as_slice());
        let owners: BTreeMap<String, (u64, u32)> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let header = entry.unwrap().header().clone();
                let path = String::from_utf8(header.path_bytes().into_owned()).unwrap();
                (path, (header.uid().unwrap(), header.mode().unwrap()))
            })
            .collect();
        assert_eq!(owners["var/lib/bib/"], (65_532, 0o700));
        assert_eq!(owners["tmp/"], (0, 0o1777));
        assert_eq!(owners["usr/bin/bibd"], (0, 0o755));
    }

    #[test]
    fn hashes_are_those_of_the_standard() {
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
