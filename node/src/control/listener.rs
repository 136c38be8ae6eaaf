//! The Unix socket that the node listens on.
//!
//! Invariant: the socket of a node that answers is never taken from it; what a dead one left is replaced. While the
//! node looks and binds it holds a lock on the folder, so that two nodes that start together do not both find the
//! socket dead.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use async_io::Async;
use bib_core::api::socket::fallback_dir;

/// Bytes that the system takes for the path of a socket.
const MAX_PATH_LEN: usize = 107;

/// Why the node cannot listen for its users.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// The system refused.
    #[error("cannot listen on the socket `{}`: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another node answers on it.
    #[error("another bibd answers on the socket `{}`", .0.display())]
    InUse(PathBuf),
    /// Something else has the name.
    #[error("`{}` is there and is not a socket", .0.display())]
    NoSocket(PathBuf),
    /// The path is too long for the system.
    #[error("the path of the socket, `{}`, has {} bytes; the system takes {MAX_PATH_LEN}", .0.display(), .0.as_os_str().len())]
    TooLong(PathBuf),
    /// Anybody could have put the folder there.
    #[error("the folder `{}` does not belong to this user alone", .0.display())]
    Foreign(PathBuf),
}

impl SocketError {
    /// What to do next.
    pub fn hint(&self) -> String {
        match self {
            Self::Io { .. } => "check the folder with `ls -ld`, or choose another one with `--socket <path>`",
            Self::InUse(_) => {
                "stop that one, or give this one its own with `--socket <path>` and `--data-dir <folder>`"
            }
            Self::NoSocket(_) => "choose another path with `--socket <path>`",
            Self::TooLong(_) => "choose a shorter path with `--socket <path>`",
            Self::Foreign(_) => "set XDG_RUNTIME_DIR for bib and bibd, or choose a path with `--socket <path>`",
        }
        .to_owned()
    }
}

/// The socket, until it is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: Async<UnixListener>,
    path: PathBuf,
    /// Device and number of the file, to remove no other one in the end.
    file: Option<(u64, u64)>,
}

impl Listener {
    /// Listens on a path, which only this user and the group of its folder can use.
    ///
    /// # Errors
    /// [`SocketError`] when it is in use or cannot be made.
    pub fn bind(path: &Path, uid: u32) -> Result<Self, SocketError> {
        if path.as_os_str().len() > MAX_PATH_LEN {
            return Err(SocketError::TooLong(path.to_owned()));
        }
        let fail = |source| SocketError::Io { path: path.to_owned(), source };
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(fail)?;
        if dir == fallback_dir(uid) {
            let metadata = std::fs::symlink_metadata(dir).map_err(fail)?;
            if !metadata.is_dir() || metadata.uid() != uid || metadata.mode() & 0o022 != 0 {
                return Err(SocketError::Foreign(dir.to_owned()));
            }
        }
        let lock = File::open(dir).map_err(fail)?;
        lock.lock().map_err(fail)?;
        remove_dead(path)?;
        let socket = Async::<UnixListener>::bind(path).map_err(fail)?;
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o660)).map_err(fail)?;
        let file = std::fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
        Ok(Self { socket, path: path.to_owned(), file })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for a client; the user of its process comes with it, where the system tells.
    pub(crate) async fn accept(&self) -> io::Result<(Async<UnixStream>, Option<u32>)> {
        let (stream, _) = self.socket.accept().await?;
        let uid = peer_uid(&stream);
        Ok((stream, uid))
    }
}

#[cfg(target_os = "linux")]
fn peer_uid(stream: &Async<UnixStream>) -> Option<u32> {
    rustix::net::sockopt::socket_peercred(stream.get_ref()).ok().map(|peer| peer.uid.as_raw())
}

#[cfg(not(target_os = "linux"))]
fn peer_uid(_: &Async<UnixStream>) -> Option<u32> {
    None
}

fn remove_dead(path: &Path) -> Result<(), SocketError> {
    let fail = |source| SocketError::Io { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fail(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(SocketError::NoSocket(path.to_owned())),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        // It refuses when nobody listens any more.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            log::info!(socket:% = path.display(); "the socket of a bibd that ended is replaced");
            std::fs::remove_file(path).map_err(fail)
        }
        Err(error) => Err(fail(error)),
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let file = std::fs::symlink_metadata(&self.path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
        if file.is_some() && file == self.file {
            // It may have been removed meanwhile, which is the same.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: u32 = 4_000_000_000;

    #[test]
    fn dead_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run").join("bibd.sock");
        let first = Listener::bind(&path, UID).unwrap();
        assert_eq!(std::fs::metadata(dir.path().join("run")).unwrap().mode() & 0o7777, 0o700);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o660);
        assert!(matches!(Listener::bind(&path, UID), Err(SocketError::InUse(_))));
        drop(first);
        assert!(!path.exists(), "it is removed in the end");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "as a killed node leaves it");
        let second = Listener::bind(&path, UID).unwrap();
        std::fs::remove_file(&path).unwrap();
        let third = Listener::bind(&path, UID).unwrap();
        drop(second);
        assert!(path.exists(), "only its own file is removed");
        drop(third);
    }

    #[test]
    fn other_files_and_long_paths_are_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bibd.sock");
        std::fs::write(&path, "mine").unwrap();
        assert!(matches!(Listener::bind(&path, UID), Err(SocketError::NoSocket(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
        let long = dir.path().join("x".repeat(120));
        assert!(matches!(Listener::bind(&long, UID), Err(SocketError::TooLong(_))));
    }
}
