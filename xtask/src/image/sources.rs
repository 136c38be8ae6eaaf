//! Where the packages of the image come from: what apt of this machine is told, for another suite perhaps.

use std::process::Command;

use bib_benches::{Failure, Result};

use crate::process::output;

/// What is asked of apt for each of its indexes.
const FORMAT: &str = "$(ORIGIN)|$(CODENAME)|$(REPO_URI)|$(COMPONENT)";

/// What apt of this machine has of Debian.
pub fn of_this_machine() -> Result<Vec<Source>> {
    let text = output(Command::new("apt-get").args(["indextargets", "--format", FORMAT, "Created-By: Packages"]))?;
    let sources = parse(&text);
    if sources.is_empty() {
        let hint = "apt of this machine knows no mirror of Debian; name one with `--mirror`";
        return Err(Failure(hint.to_owned()));
    }
    Ok(sources)
}

/// One line of a list of sources.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// Where.
    pub uri: String,
    /// The suite, such as `bookworm` or `bookworm-updates`.
    pub suite: String,
}

impl Source {
    /// As apt reads it.
    pub fn line(&self, components: &str) -> String {
        format!("deb {} {} {components}", self.uri, self.suite)
    }
}

/// Reads the answer of apt: each suite once, and only those of Debian itself.
pub fn parse(answer: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for line in answer.lines() {
        let fields: Vec<&str> = line.split('|').collect();
        let ["Debian", suite, uri, "main"] = fields[..] else { continue };
        let source = Source { uri: uri.to_owned(), suite: suite.to_owned() };
        if !sources.contains(&source) {
            sources.push(source);
        }
    }
    sources
}

/// The suite that the machine runs: the one that updates and security are named after.
pub fn suite(sources: &[Source]) -> Option<&str> {
    sources.iter().map(|source| source.suite.as_str()).min_by_key(|suite| suite.len())
}

/// The same mirrors for another suite.
pub fn for_suite(sources: &[Source], wanted: &str) -> Vec<Source> {
    let own = suite(sources).unwrap_or_default().to_owned();
    sources
        .iter()
        .filter_map(|source| {
            let rest = source.suite.strip_prefix(&own)?;
            Some(Source { uri: source.uri.clone(), suite: format!("{wanted}{rest}") })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "Debian|bookworm|http://mirror/debian/|main\n\
        Debian|bookworm-updates|http://mirror/debian/|main\n\
        Debian|bookworm-security|http://mirror/security/|main\n\
        Debian|bookworm|http://mirror/debian/|contrib\n\
        Debian|bookworm|http://mirror/debian/|main\n\
        Other|nodistro|https://elsewhere/|main\n";

    #[test]
    fn only_debian_itself_is_taken_and_each_suite_once() {
        let lines: Vec<String> = parse(ANSWER).iter().map(|source| source.line("main")).collect();
        assert_eq!(
            lines,
            [
                "deb http://mirror/debian/ bookworm main",
                "deb http://mirror/debian/ bookworm-updates main",
                "deb http://mirror/security/ bookworm-security main"
            ]
        );
    }

    #[test]
    fn another_suite_comes_from_the_same_mirrors() {
        let sources = parse(ANSWER);
        assert_eq!(suite(&sources), Some("bookworm"));
        let suites: Vec<String> = for_suite(&sources, "trixie").into_iter().map(|source| source.suite).collect();
        assert_eq!(suites, ["trixie", "trixie-updates", "trixie-security"]);
    }

    #[test]
    fn an_answer_without_debian_gives_nothing() {
        assert_eq!(parse("Ubuntu|noble|http://mirror/|main\n\ngarbage"), []);
    }
}
