//! Where a node listens for its users when nobody said otherwise: one rule for both sides. The environment is an
//! argument.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// The socket of a node that runs as a service of the system.
pub const SYSTEM_SOCKET: &str = "/run/bib/bibd.sock";

/// The socket of a node that a user runs: below `$XDG_RUNTIME_DIR`, else below [`fallback_dir`].
///
/// A runtime directory that is empty or not absolute counts as unset, as its specification asks.
pub fn user_socket(xdg_runtime_dir: Option<&OsStr>, uid: u32) -> PathBuf {
    match xdg_runtime_dir.map(Path::new).filter(|dir| dir.is_absolute()) {
        Some(dir) => dir.join("bib").join("bibd.sock"),
        None => fallback_dir(uid).join("bibd.sock"),
    }
}

/// The folder for the socket of a user without a runtime directory. Everybody may write in `/tmp`, so both sides
/// must refuse this folder unless it belongs to `uid` and nobody else may write in it.
pub fn fallback_dir(uid: u32) -> PathBuf {
    PathBuf::from(format!("/tmp/bib-{uid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_directory_is_used_only_when_it_is_absolute() {
        let socket = |dir: Option<&str>| user_socket(dir.map(OsStr::new), 1000);
        assert_eq!(socket(Some("/run/user/1000")), Path::new("/run/user/1000/bib/bibd.sock"));
        for unset in [None, Some(""), Some("run")] {
            assert_eq!(socket(unset), Path::new("/tmp/bib-1000/bibd.sock"), "{unset:?}");
        }
    }
}
