//! Whether what is written still describes the tree: `docs/architecture.md` names every folder with sources and nothing
//! that is not there, and the data has the hashes that its provenance states.

use std::collections::BTreeMap;
use std::path::Path;

use bib_benches::failure::During;
use bib_benches::{Failure, Result};

use crate::plain_blake3;
use crate::process::root;

const DATA: &str = "data/noaa";
const PAGE: &str = "docs/architecture.md";
/// The rooms, whose folders must be named.
const ROOMS: [&str; 8] = ["core", "storage-redb", "usage", "node", "cli", "sim", "benches", "xtask"];
/// What a text in code style ends with when it means a path.
const PATHS_END_WITH: [&str; 4] = ["/", ".rs", ".md", ".toml"];

/// Compares the pages with the tree.
pub fn check() -> Result<()> {
    code_map()?;
    provenance()
}

fn provenance() -> Result<()> {
    eprintln!("── the hashes of {DATA}");
    let page = root().join(DATA).join("PROVENANCE.md");
    let page = std::fs::read_to_string(&page).during(format!("read {}", page.display()))?;
    let stated: BTreeMap<&str, &str> =
        page.lines().filter_map(|line| line.trim().split_once("  ")).map(|(hash, name)| (name, hash)).collect();
    let dir = std::fs::read_dir(root().join(DATA)).during(format!("read {DATA}"))?;
    for entry in dir {
        let path = entry.during(format!("read {DATA}"))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name == "PROVENANCE.md" {
            continue;
        }
        let hash = plain_blake3::hex(&std::fs::read(&path).during(format!("read {}", path.display()))?);
        if stated.get(name.as_str()) != Some(&hash.as_str()) {
            return Err(Failure(format!("{DATA}/PROVENANCE.md should state `{hash}  {name}`")));
        }
    }
    Ok(())
}

fn code_map() -> Result<()> {
    eprintln!("── the code map of {PAGE}");
    let page = std::fs::read_to_string(root().join(PAGE)).during(format!("read {PAGE}"))?;
    let mut named = 0;
    for path in paths(&page) {
        if !exists(path)? {
            return Err(Failure(format!("{PAGE} names `{path}`, which is not there")));
        }
        named += 1;
    }
    for room in ROOMS {
        for folder in folders(&root().join(room), Path::new(room))? {
            if !page.contains(&format!("`{folder}/`")) {
                return Err(Failure(format!("{PAGE} does not name `{folder}/`: say there what it is")));
            }
        }
    }
    eprintln!("   {named} paths named, all there");
    Ok(())
}

/// A path may be named from the root, or from a room; a file also by its name alone.
fn exists(path: &str) -> Result<bool> {
    let below = |dir: &str| root().join(dir).join(path).exists();
    if below("") || ROOMS.iter().any(|room| below(room) || below(&format!("{room}/src"))) {
        return Ok(true);
    }
    if path.contains('/') {
        return Ok(false);
    }
    ROOMS.iter().try_fold(false, |found, room| Ok(found || holds(&root().join(room), path)?))
}

/// Whether a file of this name lies somewhere below a folder.
fn holds(dir: &Path, name: &str) -> Result<bool> {
    for entry in std::fs::read_dir(dir).during(format!("read {}", dir.display()))? {
        let entry = entry.during(format!("read {}", dir.display()))?;
        let is_dir = entry.file_type().during("look at a file")?.is_dir();
        if entry.file_name() == name || is_dir && holds(&entry.path(), name)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Texts in code style that mean a path.
fn paths(page: &str) -> impl Iterator<Item = &str> {
    let code = page.split('`').skip(1).step_by(2);
    code.filter(|text| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
        PATHS_END_WITH.iter().any(|end| text.ends_with(end)) && !text.starts_with('/') && text.chars().all(plain)
    })
}

/// Folders below one that hold sources, as paths from the root.
fn folders(dir: &Path, name: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut has_sources = false;
    for entry in std::fs::read_dir(dir).during(format!("read {}", dir.display()))? {
        let entry = entry.during(format!("read {}", dir.display()))?;
        let kind = entry.file_type().during("look at a file")?;
        if kind.is_dir() {
            found.extend(folders(&entry.path(), &name.join(entry.file_name()))?);
        }
        has_sources |= kind.is_file() && entry.path().extension().is_some_and(|extension| extension == "rs");
    }
    if has_sources {
        found.push(name.display().to_string());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_from_other_code() {
        let page =
            "`core/src/op/` and `apply.rs`, but not `/bib/sync/1.0.0/`, `Command`, `a b.rs`, `<x>/`; `docs/format.md`";
        assert_eq!(paths(page).collect::<Vec<_>>(), ["core/src/op/", "apply.rs", "docs/format.md"]);
    }
}
