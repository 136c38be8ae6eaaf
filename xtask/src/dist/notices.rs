//! The licences of what is compiled into the programs, as those licences ask for: each crate with its authors, and each
//! text once, with the crates that have it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use bib_benches::Result;
use bib_benches::failure::During;

use super::target::Target;
use crate::rules::{self, Package};

const HEAD: &str = "\
Programs of others that are compiled into bib and bibd. Besides these crates they hold Rust's standard library (MIT OR
Apache-2.0) and the C library musl (MIT, https://musl.libc.org, copyright 2005-2020 Rich Felker and others).
";
/// How files with licences begin.
const NAMES: [&str; 5] = ["LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE"];
/// For crates that state this licence and bring no text.
const MIT: &str = include_str!("../../../LICENSE-MIT");

/// The notice for the programs of a target.
pub fn of(target: Target) -> Result<String> {
    let packages = rules::of_others(target.triple())?;
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut without = Vec::new();
    for package in &packages {
        let found = texts_of(&package.dir)?;
        if found.is_empty() {
            without.push(format!("{} {}", package.name, package.version));
        }
        for text in found {
            texts.entry(text).or_default().push(format!("{} {}", package.name, package.version));
        }
    }
    Ok(render(&packages, &texts, &without))
}

fn render(packages: &[Package], texts: &BTreeMap<String, Vec<String>>, without: &[String]) -> String {
    let mut notice = HEAD.to_owned();
    for package in packages {
        let _ = write!(notice, "\n{} {} ({})\n  {}\n", package.name, package.version, package.licence, package.authors);
    }
    // By the first crate that has it, so that a new release of one moves nothing.
    let mut texts: Vec<(&String, &Vec<String>)> = texts.iter().collect();
    texts.sort_by_key(|(text, crates)| (*crates, *text));
    for (text, crates) in texts {
        let _ = write!(notice, "\n{}\nThe text of {}:\n\n{}\n", "-".repeat(78), crates.join(", "), text.trim());
    }
    if !without.is_empty() {
        // Below its copyright line, which is ours.
        let (_, body) = MIT.split_once("\n\n").unwrap_or(("", MIT));
        let body = body
            .split_once("Permission is hereby")
            .map_or(body.to_owned(), |(_, rest)| format!("Permission is hereby{rest}"));
        let line = "-".repeat(78);
        let names = without.join(", ");
        let _ = write!(
            notice,
            "\n{line}\nThe MIT licence, for crates that bring no text of theirs ({names}):\n\n{}\n",
            body.trim()
        );
    }
    notice
}

/// The texts that lie in the folder of a crate, by the names of their files.
fn texts_of(dir: &Path) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).during(format!("read {}", dir.display()))? {
        let entry = entry.during(format!("read {}", dir.display()))?;
        let name = entry.file_name().to_string_lossy().to_uppercase();
        if entry.path().is_file() && NAMES.iter().any(|begin| name.starts_with(begin)) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    let text = |path| std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).replace("\r\n", "\n"));
    paths.iter().map(|path| text(path).during(format!("read {}", path.display()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_crate_is_named_and_has_a_text() {
        let notice = of(Target::Arm64).unwrap();
        for package in rules::of_others(Target::Arm64.triple()).unwrap() {
            let name = format!("{} {}", package.name, package.version);
            assert!(notice.matches(&name).count() >= 2, "{name}");
        }
        assert!(notice.contains("\nredb ") && !notice.contains("\nbib-core "));
        // What bring no text is known to be free under this one.
        assert!(notice.contains("Permission is hereby granted, free of charge"));
    }

    #[test]
    fn crates_without_a_text_are_under_the_licence_that_is_added() {
        for package in rules::of_others(Target::Arm64.triple()).unwrap() {
            let has_text = !texts_of(&package.dir).unwrap().is_empty();
            assert!(has_text || package.licence.contains("MIT"), "{} {}", package.name, package.licence);
        }
    }
}
