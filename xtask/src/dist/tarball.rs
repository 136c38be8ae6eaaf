//! An archive for systems without packages of Debian: the files as they are installed, below one folder, with what a
//! person reads first and a small script that copies them.

use bib_benches::Result;

use super::contents::source;
use super::date::Date;
use super::tree::{Tree, gzip};

/// The bytes of the archive.
pub fn archive(name: &str, files: &Tree, date: Date) -> Result<Vec<u8>> {
    let mut tree = Tree::default();
    tree.graft(name, files);
    for path in ["README.md", "LICENSE-APACHE", "LICENSE-MIT"] {
        tree.file(&format!("{name}/{path}"), 0o644, source(path)?);
    }
    tree.file(&format!("{name}/install.sh"), 0o755, source("packaging/tarball/install.sh")?);
    gzip(&tree.tar("", date)?)
}
