//! What is installed on a system, whatever kind of package brings it there.

use std::path::PathBuf;

use bib_benches::failure::During;
use bib_benches::{Failure, Result};

use super::date::Date;
use super::notices;
use super::settings;
use super::target::Target;
use super::tree::{Tree, gzip};
use super::unit;
use crate::process::{cargo, output, root, step, target_dir};

/// Pages that an installed system has under `/usr/share/doc/bib`.
const DOCS: [&str; 1] = ["docs/operations.md"];

/// What is the same on all systems: manual pages, completions, settings, units, docs.
pub fn shared(date: Date) -> Result<Tree> {
    let mut tree = Tree::default();
    let programs = native()?;
    let says = |name: &str, args: &[&str]| -> Result<String> {
        let said = output(std::process::Command::new(programs.join(name)).args(args))?;
        Ok(format!("{}\n", said.trim_end()))
    };
    let pages = [
        ("man1/bib.1", "bib", vec!["man"]),
        ("man8/bibd.8", "bibd", vec!["--man", "bibd"]),
        ("man5/bibd.toml.5", "bibd", vec!["--man", "bibd.toml"]),
    ];
    for (path, program, args) in pages {
        let page = dated(&says(program, &args)?, date)?;
        tree.file(&format!("usr/share/man/{path}.gz"), 0o644, gzip(page.as_bytes())?);
    }
    for program in ["bib", "bibd"] {
        for (shell, path) in [
            ("bash", format!("usr/share/bash-completion/completions/{program}")),
            ("zsh", format!("usr/share/zsh/vendor-completions/_{program}")),
            ("fish", format!("usr/share/fish/vendor_completions.d/{program}.fish")),
        ] {
            let flag = if program == "bib" { "completions" } else { "--completions" };
            tree.file(&path, 0o644, says(program, &[flag, shell])?);
        }
    }
    tree.file(unit::INSTALLED, 0o644, source(unit::SOURCE)?);
    tree.file("usr/lib/sysusers.d/bib.conf", 0o644, source("packaging/systemd/bib.conf")?);
    tree.file("etc/bib/bibd.toml", 0o644, settings::documented(&source("node/src/config/default.toml")?));
    for path in DOCS {
        let name = path.rsplit('/').next().unwrap_or(path);
        tree.file(&format!("usr/share/doc/bib/{name}.gz"), 0o644, gzip(source(path)?.as_bytes())?);
    }
    tree.file("usr/share/doc/bib/changelog.gz", 0o644, gzip(source("CHANGELOG.md")?.as_bytes())?);
    Ok(tree)
}

/// What is shared, with the programs of a target and the licences of what is in them.
pub fn of_target(shared: &Tree, target: Target, bib: &[u8], bibd: &[u8]) -> Result<Tree> {
    let mut tree = shared.clone();
    tree.file("usr/bin/bib", 0o755, bib);
    tree.file("usr/bin/bibd", 0o755, bibd);
    tree.file("usr/share/doc/bib/third-party.txt.gz", 0o644, gzip(notices::of(target)?.as_bytes())?);
    Ok(tree)
}

/// A file of the sources.
pub fn source(path: &str) -> Result<String> {
    std::fs::read_to_string(root().join(path)).during(format!("read {path}"))
}

/// The folder with programs that run on this machine, which print what is said of them.
fn native() -> Result<PathBuf> {
    let build = ["build", "--locked", "--quiet", "-p", "bib-node", "-p", "bib-cli"];
    step("programs of this machine, for manual pages and completions", cargo().args(build))?;
    Ok(target_dir()?.join("debug"))
}

/// A manual page with its date, which the program that prints it does not know.
fn dated(page: &str, date: Date) -> Result<String> {
    let (head, rest) = page.split_once('\n').unwrap_or((page, ""));
    match head.split_once(" \"\" ") {
        Some((before, after)) if head.starts_with(".TH ") => Ok(format!("{before} \"{}\" {after}\n{rest}", date.day())),
        _ => Err(Failure(format!("a manual page begins with `{head}`, which has no place for a date"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manual_page_gets_the_date_of_the_sources() {
        let page = dated(".TH \"BIB\" \"1\" \"\" \"bib 1\" \"bib\"\n.SH \"\" \n", Date(0)).unwrap();
        assert_eq!(page, ".TH \"BIB\" \"1\" \"1970-01-01\" \"bib 1\" \"bib\"\n.SH \"\" \n");
        assert!(dated(".SH NAME\n", Date(0)).is_err());
    }
}
