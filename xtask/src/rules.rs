//! Rules about the tree itself that no compiler checks: which crates the default build has, under which licences, and
//! that each vendor stays in its room.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bib_benches::failure::During;
use bib_benches::{Failure, Result};
use serde_json::Value;

use crate::process::{cargo, output};

/// Crates in the default build of `bibd` and `bib` for Linux; raised on purpose, in the commit that needs it.
const MAX_CRATES: usize = 330;

/// What a crate of the default build must not be.
const BANNED: [&str; 4] = ["tokio", "async-std", "openssl-sys", "native-tls"];

/// Crates that appear in one room only, with the room.
const VENDORS: [(&str, &str); 2] = [("redb", "bib-storage-redb"), ("libp2p", "bib-node")];

/// Licences whose texts allow what the project's own allow.
const LICENCES: [&str; 13] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Packages that ship; the others only test or measure.
const SHIPPED: [&str; 5] = ["bib-core", "bib-storage-redb", "bib-usage", "bib-node", "bib-cli"];

/// A crate with what its manifest says.
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// An SPDX expression.
    pub licence: String,
    /// Who wrote it, where it says so; else where it is kept.
    pub authors: String,
    /// Where its sources lie.
    pub dir: PathBuf,
    dependencies: BTreeSet<String>,
}

/// The crates of others that are in the programs for a platform, by name and version.
pub fn of_others(triple: &str) -> Result<Vec<Package>> {
    let metadata = metadata(triple)?;
    let mut packages = packages(&metadata)?;
    let shipped = reachable(&metadata, &packages)?;
    packages.retain(|id, package| shipped.contains(id) && !SHIPPED.contains(&package.name.as_str()));
    let mut packages: Vec<Package> = packages.into_values().collect();
    packages.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    Ok(packages)
}

fn metadata(triple: &str) -> Result<Value> {
    let text = output(cargo().args(["metadata", "--locked", "--format-version", "1", "--filter-platform", triple]))?;
    serde_json::from_str(&text).during("cargo metadata")
}

/// Checks all rules.
pub fn check() -> Result<()> {
    eprintln!("── dependency rules");
    let n_crates = n_crates()?;
    eprintln!("   {n_crates} crates in the default build, none banned, all licences allowed");
    Ok(())
}

/// How many crates the default build has, if all rules hold.
pub fn n_crates() -> Result<usize> {
    let metadata = metadata(&host()?)?;
    let packages = packages(&metadata)?;
    let shipped = reachable(&metadata, &packages)?;
    let names: BTreeSet<&str> = shipped.iter().map(|id| packages[id].name.as_str()).collect();
    if let Some(banned) = BANNED.iter().find(|banned| names.contains(*banned)) {
        return Err(Failure(format!("`{banned}` is in the default build: `cargo tree -i {banned}` says why")));
    }
    for (vendor, room) in VENDORS {
        for package in packages.values().filter(|package| SHIPPED.contains(&package.name.as_str())) {
            if package.name != room && package.dependencies.contains(vendor) {
                return Err(Failure(format!("`{vendor}` belongs to {room}, but {} depends on it", package.name)));
            }
        }
    }
    for id in &shipped {
        let package = &packages[id];
        if !licence_is_allowed(&package.licence) {
            return Err(Failure(format!("{} {} has the licence `{}`", package.name, package.version, package.licence)));
        }
    }
    if shipped.len() > MAX_CRATES {
        return Err(Failure(format!("the default build has {} crates, {MAX_CRATES} are allowed", shipped.len())));
    }
    Ok(shipped.len())
}

fn host() -> Result<String> {
    let text = output(std::process::Command::new("rustc").arg("-vV"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("host: "));
    line.map(str::to_owned).ok_or_else(|| Failure("rustc does not name its host".to_owned()))
}

fn packages(metadata: &Value) -> Result<BTreeMap<String, Package>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = metadata["packages"].as_array().ok_or("cargo metadata names no packages")?;
    let package = |value: &Value| {
        let normal = |dependency: &&Value| dependency["kind"].is_null();
        let authors: Vec<&str> = value["authors"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let dependencies = value["dependencies"].as_array().into_iter().flatten().filter(normal);
        Package {
            name: text(&value["name"]),
            version: text(&value["version"]),
            licence: text(&value["license"]),
            authors: if authors.is_empty() { text(&value["repository"]) } else { authors.join(", ") },
            dir: Path::new(&text(&value["manifest_path"])).parent().map(Path::to_owned).unwrap_or_default(),
            dependencies: dependencies.map(|dependency| text(&dependency["name"])).collect(),
        }
    };
    Ok(list.iter().map(|value| (text(&value["id"]), package(value))).collect())
}

/// Packages that the shipped ones link for this platform, themselves included.
fn reachable(metadata: &Value, packages: &BTreeMap<String, Package>) -> Result<BTreeSet<String>> {
    let nodes = metadata["resolve"]["nodes"].as_array().ok_or("cargo metadata resolves nothing")?;
    let edges: BTreeMap<&str, &Value> = nodes.iter().filter_map(|node| Some((node["id"].as_str()?, node))).collect();
    let roots = packages.iter().filter(|(_, package)| SHIPPED.contains(&package.name.as_str()));
    let mut open: Vec<String> = roots.map(|(id, _)| id.clone()).collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        if seen.insert(id.clone()) {
            let deps = edges.get(id.as_str()).and_then(|node| node["deps"].as_array()).into_iter().flatten();
            let linked = |dep: &&Value| {
                dep["dep_kinds"].as_array().into_iter().flatten().any(|kind| kind["kind"].as_str() != Some("dev"))
            };
            open.extend(deps.filter(linked).filter_map(|dep| dep["pkg"].as_str().map(str::to_owned)));
        }
    }
    Ok(seen)
}

/// Whether one alternative of an SPDX expression consists of allowed licences only.
fn licence_is_allowed(expression: &str) -> bool {
    let flat = expression.replace(['(', ')'], " ").replace('/', " OR ");
    flat.split(" OR ").any(|alternative| alternative.split(" AND ").all(|licence| LICENCES.contains(&licence.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licence_expressions_need_one_allowed_alternative() {
        assert!(licence_is_allowed("MIT OR Apache-2.0"));
        assert!(licence_is_allowed("GPL-3.0 OR MIT"));
        assert!(licence_is_allowed("MIT/Apache-2.0"));
        assert!(licence_is_allowed("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(!licence_is_allowed("GPL-3.0"));
        assert!(!licence_is_allowed(""));
    }
}
