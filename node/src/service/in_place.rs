//! Files whose bytes stay where they are when they are published: which ones may, which chunks lie in them, and how much
//! of a version does.
//!
//! Invariant: what is named as a file is believed only as far as it can be checked here: it is opened without following
//! a link, is a regular file outside of the data directory, and who names it can see it.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bib_core::api::request::LocalFile;
use bib_core::api::{ErrorCode, Event, Failure};
use bib_core::chunk::Chunk;
use bib_core::limits::{MAX_FILES_IN_PLACE, MAX_LOCAL_FILES, MAX_SCANNED};
use bib_core::model::Reference;
use bib_core::model::manifest::reader::{self, Cursor};
use bib_core::place::{FilePlace, is_plain_path};
use bib_core::port::StoreError;
use bib_storage_redb::outside;

use super::{catalog, require_user, store_failure};
use crate::content::ContentError;
use crate::control::{Caller, Output};
use crate::node::Context;

/// Why the bytes of a file may not stay in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum InPlaceError {
    /// The node cannot read it, or the caller cannot see it: the one is not told from the other.
    #[error("the node cannot read `{0}`")]
    Unreadable(String),
    /// It belongs to the node.
    #[error("`{0}` lies in the data directory of the node")]
    OfTheNode(String),
}

impl From<InPlaceError> for Failure {
    fn from(error: InPlaceError) -> Self {
        let message = error.to_string();
        match error {
            InPlaceError::Unreadable(_) => Self::new(ErrorCode::Precondition, message).hinted(
                "let the user that runs bibd read the file and enter the folders above it, or publish without `--reference`",
            ),
            InPlaceError::OfTheNode(_) => Self::new(ErrorCode::Invalid, message).hinted("publish a file of your own"),
        }
    }
}

/// Opens a file whose bytes are to stay in it, and says which one it is: its file system and inode.
fn check(data_dir: &Path, path: &[u8]) -> Result<(u64, u64), InPlaceError> {
    let shown = || String::from_utf8_lossy(path).into_owned();
    let local = Path::new(OsStr::from_bytes(path));
    let unreadable = |_| InPlaceError::Unreadable(shown());
    if !is_plain_path(path) {
        return Err(InPlaceError::Unreadable(shown()));
    }
    let metadata = outside::open(path).and_then(|file| file.metadata()).map_err(unreadable)?;
    let real = local.canonicalize().map_err(unreadable)?;
    if real != local {
        return Err(InPlaceError::Unreadable(shown()));
    }
    let data_dir = data_dir.canonicalize().map_err(unreadable)?;
    if real.starts_with(data_dir) {
        Err(InPlaceError::OfTheNode(shown()))
    } else {
        Ok((metadata.dev(), metadata.ino()))
    }
}

pub(crate) async fn may_reference(ctx: &Context, caller: &Caller, files: Vec<LocalFile>) -> Result<(), Failure> {
    require_user(caller, "publishing")?;
    if files.len() > MAX_LOCAL_FILES {
        return Err(Failure::new(ErrorCode::LimitExceeded, "these are too many files for one request")
            .hinted("install the same version of bib and bibd"));
    }
    let data_dir = ctx.data_dir.clone();
    let checked = ctx.store.blocking("look at files", move |_| {
        let check_one = |file: &LocalFile| {
            let same = check(&data_dir, &file.path)? == (file.device, file.inode);
            if same { Ok(()) } else { Err(InPlaceError::Unreadable(String::from_utf8_lossy(&file.path).into_owned())) }
        };
        Ok::<_, StoreError>(files.iter().try_for_each(check_one))
    });
    Ok(checked.await.map_err(|error| store_failure(&error))??)
}

/// The files of an ingest whose bytes stay in place, while chunks may still be cut in them.
pub(crate) struct FilesInPlace {
    data_dir: PathBuf,
    files: VecDeque<InPlace>,
    /// Bytes of the stream that were cut.
    cut: u64,
}

struct InPlace {
    /// First byte of the file in the stream.
    begin: u64,
    /// Its end, once it is known.
    end: Option<u64>,
    path: Vec<u8>,
}

impl FilesInPlace {
    pub(crate) const fn new(data_dir: PathBuf) -> Self {
        Self { data_dir, files: VecDeque::new(), cut: 0 }
    }

    /// The file that begins at `begin` of the stream lies at a path.
    pub(crate) fn begin(&mut self, begin: u64, path: Vec<u8>) -> Result<(), InPlaceError> {
        check(&self.data_dir, &path)?;
        if self.files.len() >= MAX_FILES_IN_PLACE {
            self.files.pop_front();
        }
        self.files.push_back(InPlace { begin, end: None, path });
        Ok(())
    }

    /// The file begun last ends at `end` of the stream.
    pub(crate) fn end(&mut self, end: u64) {
        if let Some(file) = self.files.back_mut() {
            file.end.get_or_insert(end);
        }
    }

    /// Where the next `len` bytes of the stream lie, when they lie in one file.
    pub(crate) fn cut(&mut self, len: u64) -> Option<FilePlace> {
        let (from, to) = (self.cut, self.cut + len);
        self.cut = to;
        while self.files.front().is_some_and(|file| file.end.is_some_and(|end| end <= from)) {
            self.files.pop_front();
        }
        let file = self.files.iter().find(|file| file.begin <= from && file.end.is_none_or(|end| to <= end))?;
        FilePlace::new(file.path.clone(), from - file.begin)
    }
}

pub(crate) async fn referenced(ctx: &Context, reference: Reference, out: &Output) -> Result<(), Failure> {
    let manifest = catalog::resolve_version(ctx, &reference).await?.version.manifest;
    let (mut cursor, mut bytes) = (None, 0_u64);
    loop {
        let (next, more, n_bytes) = ctx
            .store
            .blocking("look for references", move |stores| {
                let mut source = |id: &_| Ok::<_, StoreError>(stores.chunks().get(id)?.map(Chunk::into_raw));
                let mut cursor = match cursor {
                    Some(cursor) => cursor,
                    None => Cursor::chunks(&reader::root(manifest, &mut source)?),
                };
                let (mut more, mut bytes) = (false, 0);
                for _ in 0..MAX_SCANNED {
                    let chunk = cursor.next(&mut source)?;
                    more = chunk.is_some();
                    let Some(chunk) = chunk else { break };
                    if stores.chunks().place(&chunk.id)?.is_some() {
                        bytes += u64::from(chunk.len);
                    }
                }
                Ok::<_, ContentError>((cursor, more, bytes))
            })
            .await
            .map(|(cursor, more, bytes)| (Some(cursor), more, bytes))
            .or_else(|error| match error {
                // Of what is not here, nothing lies outside.
                ContentError::Missing(_) => Ok((None, false, 0)),
                error => Err(Failure::from(error)),
            })?;
        cursor = next;
        bytes += n_bytes;
        if !more {
            return out.event(Event::Referenced { bytes }).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn place(path: &str, offset: u64) -> Option<FilePlace> {
        FilePlace::new(path.as_bytes().to_vec(), offset)
    }

    fn files() -> (tempfile::TempDir, FilesInPlace, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        fs::create_dir(&data_dir).unwrap();
        let root = dir.path().canonicalize().unwrap();
        let paths = ["a", "b", "c"].map(|name| {
            fs::write(root.join(name), name).unwrap();
            root.join(name).to_str().unwrap().to_owned()
        });
        (dir, FilesInPlace::new(data_dir), paths.to_vec())
    }

    #[test]
    fn chunk_lies_in_place_when_it_lies_in_one_file() {
        let (_dir, mut files, paths) = files();
        files.begin(0, paths[0].clone().into_bytes()).unwrap();
        assert_eq!(files.cut(60), place(&paths[0], 0));
        files.end(100);
        files.begin(100, paths[1].clone().into_bytes()).unwrap();
        assert_eq!(files.cut(40), place(&paths[0], 60));
        assert_eq!(files.cut(10), place(&paths[1], 0));
        files.end(120);
        assert_eq!(files.cut(20), None, "it reaches behind the file, where nothing is in place");
        files.begin(130, paths[2].clone().into_bytes()).unwrap();
        files.end(200);
        assert_eq!(files.cut(70), place(&paths[2], 0));
        assert_eq!(files.cut(5), None);
        assert!(files.files.is_empty());
    }

    #[test]
    fn files_that_wait_for_their_cut_are_bounded() {
        let (_dir, mut files, paths) = files();
        for n in 0..10 * MAX_FILES_IN_PLACE as u64 {
            files.begin(n, paths[0].clone().into_bytes()).unwrap();
            files.end(n + 1);
        }
        assert_eq!(files.files.len(), MAX_FILES_IN_PLACE);
        assert_eq!(files.cut(1), None);
    }

    #[test]
    fn only_plain_readable_files_outside_of_the_data_directory_may_stay() {
        let (dir, mut files, paths) = files();
        let root = dir.path().canonicalize().unwrap();
        fs::write(root.join("data/catalog.redb"), "").unwrap();
        std::os::unix::fs::symlink(&paths[0], root.join("link")).unwrap();
        std::os::unix::fs::symlink(&root, root.join("folder")).unwrap();
        let mut begin = |name: &str| files.begin(0, root.join(name).into_os_string().into_encoded_bytes());
        assert!(matches!(begin("data/catalog.redb"), Err(InPlaceError::OfTheNode(_))));
        for name in ["link", "folder/a", "absent", "data", "../x", "a/"] {
            let refused = begin(name);
            assert!(matches!(refused, Err(InPlaceError::Unreadable(_))), "{name}: {refused:?}");
        }
        assert_eq!(begin("a"), Ok(()));
        assert!(files.begin(0, b"relative".to_vec()).is_err());
    }
}
