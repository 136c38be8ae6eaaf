//! Packages of Debian, written without its tools: an `ar` archive of a version, a tree of control files and a tree of
//! what is installed.

use std::fmt::Write;

use bib_benches::Result;

use super::date::Date;
use super::tree::{Tree, gzip, xz};

/// What is said of a package besides its files.
#[derive(Debug)]
pub struct Control<'a> {
    /// Architecture as Debian names it.
    pub architecture: &'a str,
    /// Version with the revision of the packaging.
    pub version: &'a str,
    /// The other fields, as `packaging/debian/control` has them.
    pub fields: &'a str,
    /// Scripts that run when it is installed and removed, with their names.
    pub scripts: &'a [(&'a str, Vec<u8>)],
}

/// The bytes of a package.
pub fn package(control: &Control<'_>, files: &Tree, date: Date) -> Result<Vec<u8>> {
    let mut meta = Tree::default();
    meta.file("control", 0o644, fields(control, files));
    let mut settings = String::new();
    for path in files.files().filter(|path| path.starts_with("etc/")) {
        let _ = writeln!(settings, "/{path}");
    }
    meta.file("conffiles", 0o644, settings);
    for (name, script) in control.scripts {
        meta.file(name, 0o755, script.as_slice());
    }
    let mut archive = b"!<arch>\n".to_vec();
    member(&mut archive, "debian-binary", b"2.0\n", date);
    member(&mut archive, "control.tar.gz", &gzip(&with_root(&meta, date)?)?, date);
    // A third smaller than what gzip makes of it, and read by every dpkg.
    member(&mut archive, "data.tar.xz", &xz(&with_root(files, date)?)?, date);
    Ok(archive)
}

/// The name, version and size come first; what is the same for all architectures follows.
fn fields(control: &Control<'_>, files: &Tree) -> String {
    let Control { architecture, version, fields, .. } = control;
    let size = files.installed_kib();
    format!(
        "Package: bib\nVersion: {version}\nArchitecture: {architecture}\nInstalled-Size: {size}\n{}\n",
        fields.trim()
    )
}

/// A tree with `./` for the folder that all of it is in.
fn with_root(tree: &Tree, date: Date) -> Result<Vec<u8>> {
    let mut root = Tree::default();
    root.folder("", 0o755, 0);
    let mut archive = root.tar(".", date)?;
    // Two empty blocks end an archive.
    archive.truncate(512);
    archive.extend(tree.tar("./", date)?);
    Ok(archive)
}

/// Adds a member with its header of fixed columns, to an even length.
fn member(archive: &mut Vec<u8>, name: &str, bytes: &[u8], date: Date) {
    archive.extend(format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", date.0, 0, 0, "100644", bytes.len()).bytes());
    archive.extend(bytes);
    archive.extend(vec![b'\n'; bytes.len() % 2]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Vec<u8> {
        let mut files = Tree::default();
        files.file("usr/bin/bib", 0o755, vec![7; 1500]);
        files.file("etc/bib/bibd.toml", 0o644, "# none\n");
        let scripts = [("postinst", b"#!/bin/sh\n".to_vec())];
        let control =
            Control { architecture: "arm64", version: "1.2.3-1", fields: "Section: net\n", scripts: &scripts };
        package(&control, &files, Date(1_795_663_330)).unwrap()
    }

    #[test]
    fn package_has_three_members_and_is_the_same_twice() {
        let package = example();
        assert_eq!(package, example());
        assert!(package.starts_with(
            b"!<arch>\ndebian-binary   1795663330  0     0     100644  4         `\n2.0\ncontrol.tar.gz  "
        ));
        assert_eq!(package.len() % 2, 0);
    }

    #[test]
    fn tools_of_debian_read_it_where_they_are() {
        let file = std::env::temp_dir().join(format!("bib-deb-{}.deb", std::process::id()));
        std::fs::write(&file, example()).unwrap();
        let said = std::process::Command::new("dpkg-deb").arg("--info").arg(&file).output();
        let listed = std::process::Command::new("dpkg-deb").arg("--contents").arg(&file).output();
        std::fs::remove_file(&file).unwrap();
        let (Ok(said), Ok(listed)) = (said, listed) else { return };
        let (said, listed) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&listed.stdout));
        for part in
            ["Package: bib", "Version: 1.2.3-1", "Architecture: arm64", "Installed-Size: 7", "postinst", "conffiles"]
        {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(listed.lines().next().unwrap().ends_with(" ./"), "{listed}");
        assert!(listed.contains("-rwxr-xr-x root/root") || listed.contains("-rwxr-xr-x 0/0"), "{listed}");
    }
}
