//! The files of a package: where each lies, its rights, its owner and its bytes.
//!
//! Invariant: a folder stands before what is in it, and the same files give the same archive, whatever they were added in
//! what order and whoever runs this.

use std::collections::BTreeMap;
use std::io::Write;

use bib_benches::Result;
use bib_benches::failure::During;
use flate2::{Compression, GzBuilder};
use lzma_rust2::{XzOptions, XzWriter};
use tar::{EntryType, Header};

use super::date::Date;

/// Files by their paths, which have no slash at the begin and none at the end.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    entries: BTreeMap<String, Entry>,
}

/// What lies at a path.
#[derive(Debug, Clone)]
struct Entry {
    mode: u32,
    /// User and group.
    owner: u32,
    /// The bytes of a file; none for a folder.
    bytes: Option<Vec<u8>>,
}

impl Tree {
    /// Adds a file of root, with the folders above it.
    pub fn file(&mut self, path: &str, mode: u32, bytes: impl Into<Vec<u8>>) {
        self.add(path, Entry { mode, owner: 0, bytes: Some(bytes.into()) });
    }

    /// Adds a folder, with those above it.
    pub fn folder(&mut self, path: &str, mode: u32, owner: u32) {
        self.add(path, Entry { mode, owner, bytes: None });
    }

    fn add(&mut self, path: &str, entry: Entry) {
        for (end, _) in path.match_indices('/') {
            let above = Entry { mode: 0o755, owner: 0, bytes: None };
            self.entries.entry(path[..end].to_owned()).or_insert(above);
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// Adds all of another tree below a folder.
    pub fn graft(&mut self, at: &str, other: &Self) {
        for (path, entry) in &other.entries {
            self.add(&format!("{at}/{path}"), entry.clone());
        }
    }

    /// Paths of the files, without folders.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().filter(|(_, entry)| entry.bytes.is_some()).map(|(path, _)| path.as_str())
    }

    /// What it takes on a disk in KiB, as Debian estimates it: files by whole KiB, one for everything else.
    pub fn installed_kib(&self) -> u64 {
        self.entries
            .values()
            .map(|entry| entry.bytes.as_ref().map_or(1, |bytes| bytes.len().div_ceil(1024) as u64))
            .sum()
    }

    /// All of it as a tar archive, each path behind a prefix.
    pub fn tar(&self, prefix: &str, date: Date) -> Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, entry) in &self.entries {
            let bytes = entry.bytes.as_deref().unwrap_or_default();
            let end = if entry.bytes.is_some() { "" } else { "/" };
            let name = format!("{prefix}{path}{end}");
            let mut header = Header::new_gnu();
            let place = &mut header.as_gnu_mut().ok_or("a header is not what was asked for")?.name;
            // Written as it is: packages of Debian begin with `./`, which the library would leave out.
            place
                .get_mut(..name.len())
                .ok_or_else(|| format!("`{name}` is too long for tar"))?
                .copy_from_slice(name.as_bytes());
            header.set_entry_type(if entry.bytes.is_some() { EntryType::Regular } else { EntryType::Directory });
            header.set_mode(entry.mode);
            header.set_uid(entry.owner.into());
            header.set_gid(entry.owner.into());
            header.set_size(bytes.len() as u64);
            header.set_mtime(date.0);
            header.set_cksum();
            archive.append(&header, bytes).during("tar")?;
        }
        archive.into_inner().during("tar")
    }
}

/// Compressed, without time and name.
pub fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    encoder.write_all(bytes).during("gzip")?;
    encoder.finish().during("gzip")
}

/// Compressed by what takes little memory to read: 8 MiB.
pub fn xz(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut writer = XzWriter::new(Vec::new(), XzOptions::with_preset(6)).during("xz")?;
    writer.write_all(bytes).during("xz")?;
    writer.finish().during("xz")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(paths: &[&str]) -> Tree {
        let mut tree = Tree::default();
        for path in paths {
            tree.file(path, 0o644, *path);
        }
        tree.folder("var/lib/bib", 0o700, 7);
        tree
    }

    #[test]
    fn entries_are_sorted_folders_first_with_fixed_times_and_owners() {
        let bytes = tree(&["usr/lib/b", "usr/lib-x", "etc/a"]).tar("./", Date(9)).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut seen = Vec::new();
        for entry in archive.entries().unwrap() {
            let header = entry.unwrap().header().clone();
            let path = String::from_utf8(header.path_bytes().into_owned()).unwrap();
            assert_eq!(header.mtime().unwrap(), 9);
            seen.push((path, header.mode().unwrap(), header.uid().unwrap(), header.gid().unwrap()));
        }
        let root = |path: &str, mode| (path.to_owned(), mode, 0, 0);
        let expected = [
            root("./etc/", 0o755),
            root("./etc/a", 0o644),
            root("./usr/", 0o755),
            root("./usr/lib/", 0o755),
            root("./usr/lib-x", 0o644),
            root("./usr/lib/b", 0o644),
            root("./var/", 0o755),
            root("./var/lib/", 0o755),
            ("./var/lib/bib/".to_owned(), 0o700, 7, 7),
        ];
        let mut sorted = expected.to_vec();
        sorted.sort_by(|a, b| a.0.trim_end_matches('/').cmp(b.0.trim_end_matches('/')));
        assert_eq!(seen, sorted);
    }

    #[test]
    fn order_of_adding_changes_no_byte() {
        let one = tree(&["a/b/c", "a/d", "e"]).tar("", Date(1)).unwrap();
        let other = tree(&["e", "a/d", "a/b/c"]).tar("", Date(1)).unwrap();
        assert_eq!(gzip(&one).unwrap(), gzip(&other).unwrap());
        assert_ne!(one, tree(&["e", "a/d", "a/b/x"]).tar("", Date(1)).unwrap());
    }

    #[test]
    fn name_that_is_too_long_is_refused() {
        assert!(tree(&[&"x".repeat(120)]).tar("./", Date(1)).unwrap_err().to_string().contains("too long"));
    }
}
