//! Whether two files, or two trees, are the same byte by byte.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::failure::{During, Failure, Result};

/// Compares two files.
///
/// # Errors
/// When they differ or one cannot be read.
pub fn file(one: &Path, other: &Path) -> Result<()> {
    let open = |path: &Path| File::open(path).during(format!("open {}", path.display()));
    let (mut a, mut b) = (open(one)?, open(other)?);
    let (mut x, mut y) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut offset = 0;
    loop {
        let (n, m) = (fill(&mut a, &mut x).during(one.display())?, fill(&mut b, &mut y).during(other.display())?);
        if x[..n] != y[..m] {
            let at = offset + x[..n].iter().zip(&y[..m]).take_while(|(p, q)| p == q).count();
            return Err(Failure(format!("{} and {} differ at byte {at}", one.display(), other.display())));
        }
        if n < x.len() {
            return Ok(());
        }
        offset += n;
    }
}

fn fill(file: &mut File, buf: &mut [u8]) -> std::io::Result<usize> {
    let mut n = 0;
    while n < buf.len() {
        match file.read(&mut buf[n..])? {
            0 => break,
            read => n += read,
        }
    }
    Ok(n)
}

/// Compares two trees: names, bytes, whether files may be executed, empty folders. Links and special files are left
/// out, as in a version.
///
/// # Errors
/// When they differ or something cannot be read.
pub fn tree(one: &Path, other: &Path) -> Result<()> {
    let (ours, theirs) = (names(one)?, names(other)?);
    if ours != theirs {
        return Err(Failure(format!("{} holds {ours:?}, {} holds {theirs:?}", one.display(), other.display())));
    }
    for name in ours {
        let (one, other) = (one.join(&name), other.join(&name));
        if one.is_dir() {
            tree(&one, &other)?;
            continue;
        }
        file(&one, &other)?;
        let executable = |path: &Path| path.metadata().map(|meta| meta.permissions().mode() & 0o100 != 0);
        if executable(&one).during(one.display())? != executable(&other).during(other.display())? {
            return Err(Failure(format!("only one of {} and {} may be executed", one.display(), other.display())));
        }
    }
    Ok(())
}

fn names(dir: &Path) -> Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).during(format!("read {}", dir.display()))? {
        let entry = entry.during(format!("read {}", dir.display()))?;
        let kind = entry.file_type().during(format!("look at {}", entry.path().display()))?;
        if kind.is_dir() || kind.is_file() {
            names.push(entry.file_name());
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_differ_by_a_byte_a_name_and_an_empty_folder() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        for side in [&a, &b] {
            std::fs::create_dir_all(side.join("sub")).unwrap();
            std::fs::write(side.join("sub/file"), vec![7; 3 << 20]).unwrap();
        }
        tree(&a, &b).unwrap();
        std::fs::create_dir(b.join("empty")).unwrap();
        assert!(tree(&a, &b).unwrap_err().to_string().contains("empty"));
        std::fs::create_dir(a.join("empty")).unwrap();
        let mut changed = vec![7; 3 << 20];
        changed[(2 << 20) + 5] = 8;
        std::fs::write(b.join("sub/file"), changed).unwrap();
        assert!(tree(&a, &b).unwrap_err().to_string().ends_with("differ at byte 2097157"));
        std::fs::write(b.join("sub/file"), vec![7; 2 << 20]).unwrap();
        assert!(tree(&a, &b).is_err());
    }
}
