//! Files of a bundle's folder: written whole or not at all, one writer at a time. Start at [`Folder::lock`].

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use thiserror::Error;

use crate::digest::{Content, hash_file};
use crate::manifest::{BundlePath, FileEntry, Manifest};

/// The manifest's file name.
pub(crate) const MANIFEST: &str = "manifest.json";
/// What is finished of a bundle that is being made; becomes the manifest at the end.
pub(crate) const UNFINISHED: &str = ".unfinished.json";
/// Start of the names of scratch folders and files; those of a killed run are removed by the next.
const SCRATCH: &str = ".scratch-";
/// Where downloads lie until they are whole and verified.
pub(crate) const PARTIAL: &str = ".partial";

/// Why a bundle's folder cannot be written.
#[derive(Debug, Error)]
pub enum FolderError {
    /// It holds something else.
    #[error("{0} has files in it and is not a bundle\nhint: name an empty or a new folder")]
    NotABundle(PathBuf),
    /// Another process writes it.
    #[error("another quorate is writing the bundle {0}\nhint: wait until it has finished")]
    Busy(PathBuf),
    /// An operation failed.
    #[error("cannot {doing} {path}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        err: io::Error,
    },
}

/// Names what failed on which file.
pub(crate) fn at(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FolderError {
    let path = path.to_owned();
    move |err| FolderError::Io { doing, path, err }
}

/// A bundle's folder, locked for this process until dropped.
#[derive(Debug)]
pub(crate) struct Folder {
    dir: PathBuf,
    /// Entries of the bundle that was here, finished or not; to be reused where they fit.
    pub(crate) previous: Vec<FileEntry>,
    /// Whether the manifest that was here, if any, still stands.
    sealed: Cell<bool>,
    _lock: File,
}

impl Folder {
    /// Creates the folder if it is absent, and takes it for writing.
    ///
    /// # Errors
    /// When it holds something else than a bundle, or another process has it.
    pub(crate) fn lock(dir: &Path) -> Result<Self, FolderError> {
        fs::create_dir_all(dir).map_err(at("create", dir))?;
        let lock = File::open(dir).map_err(at("open", dir))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(FolderError::Busy(dir.to_owned())),
            Err(fs::TryLockError::Error(err)) => return Err(at("lock", dir)(err)),
        }
        let mut ours = false;
        let mut others = false;
        for entry in fs::read_dir(dir).map_err(at("list", dir))? {
            let entry = entry.map_err(at("list", dir))?;
            let name = entry.file_name();
            match name.to_str() {
                Some(MANIFEST | UNFINISHED) => ours = true,
                Some(name) if name.starts_with(SCRATCH) => {
                    let left = entry.path();
                    let folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
                    let removed = if folder {
                        fs::remove_dir_all(&left)
                    } else {
                        fs::remove_file(&left)
                    };
                    removed.map_err(at("remove", &left))?;
                }
                Some(PARTIAL) => {}
                _ => others = true,
            }
        }
        if others && !ours {
            return Err(FolderError::NotABundle(dir.to_owned()));
        }
        // What cannot be read is as good as absent: everything is then made anew.
        let read = |name: &str| fs::read(dir.join(name)).ok();
        let unfinished = read(UNFINISHED)
            .and_then(|bytes| serde_json::from_slice::<Vec<FileEntry>>(&bytes).ok());
        let finished = || {
            read(MANIFEST)
                .and_then(|bytes| Manifest::from_bytes(&bytes).ok())
                .map(|m| m.files)
        };
        let previous = unfinished.or_else(finished).unwrap_or_default();
        Ok(Self {
            dir: dir.to_owned(),
            previous,
            sealed: Cell::new(true),
            _lock: lock,
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A scratch folder on the same filesystem.
    pub(crate) fn scratch(&self) -> Result<TempDir, FolderError> {
        tempfile::Builder::new()
            .prefix(SCRATCH)
            .tempdir_in(&self.dir)
            .map_err(at("create a scratch folder in", &self.dir))
    }

    /// Whether the file of an entry is there with exactly that content.
    pub(crate) fn holds(&self, entry: &FileEntry) -> bool {
        let path = entry.path.under(&self.dir);
        let Ok(meta) = fs::symlink_metadata(&path) else {
            return false;
        };
        let fits =
            meta.is_file() && meta.len() == entry.size && (!entry.role.runs() || runnable(&meta));
        fits && hash_file(&path, &mut |_| {}).is_ok_and(|content| content.sha256 == entry.sha256)
    }

    /// Writes one file: under another name first, then renamed.
    pub(crate) fn write(
        &self,
        path: &BundlePath,
        runs: bool,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<Content>,
    ) -> Result<Content, FolderError> {
        self.unseal()?;
        let target = path.under(&self.dir);
        let parent = target
            .parent()
            .expect("a bundle path has a folder above it");
        fs::create_dir_all(parent).map_err(at("create", parent))?;
        let scratch = self.scratch()?;
        let fresh = scratch.path().join("file");
        let write = || -> io::Result<Content> {
            // 1 MiB: tar writes in small pieces, and the disk likes large ones.
            let mut out = BufWriter::with_capacity(1 << 20, File::create(&fresh)?);
            let content = fill(&mut out)?;
            out.flush()?;
            fs::set_permissions(
                &fresh,
                fs::Permissions::from_mode(if runs { 0o755 } else { 0o644 }),
            )?;
            fs::rename(&fresh, &target)?;
            Ok(content)
        };
        write().map_err(at("write", &target))
    }

    /// Takes the old manifest away before the first of its files is replaced: a folder that can be opened is whole.
    fn unseal(&self) -> Result<(), FolderError> {
        if self.sealed.get() {
            self.record(&self.previous)
        } else {
            Ok(())
        }
    }

    /// Moves a finished file of the same filesystem into place.
    pub(crate) fn take(
        &self,
        from: &Path,
        path: &BundlePath,
        runs: bool,
    ) -> Result<(), FolderError> {
        self.unseal()?;
        let target = path.under(&self.dir);
        let parent = target
            .parent()
            .expect("a bundle path has a folder above it");
        fs::create_dir_all(parent).map_err(at("create", parent))?;
        fs::set_permissions(
            from,
            fs::Permissions::from_mode(if runs { 0o755 } else { 0o644 }),
        )
        .and_then(|()| fs::rename(from, &target))
        .map_err(at("write", &target))
    }

    /// Records what is finished. From here until [`Folder::finish`] the folder is no bundle that could be opened.
    pub(crate) fn record(&self, entries: &[FileEntry]) -> Result<(), FolderError> {
        let bytes = serde_json::to_vec(entries).expect("entries serialize");
        write_whole(&self.dir.join(UNFINISHED), &bytes)?;
        self.sealed.set(false);
        remove(&self.dir.join(MANIFEST))
    }

    /// Makes the folder a bundle: removes what the last one had and this one has not, and writes the manifest last.
    /// A manifest that is already there with the same bytes is left alone.
    pub(crate) fn finish(&self, manifest: &[u8], files: &[FileEntry]) -> Result<(), FolderError> {
        for old in self
            .previous
            .iter()
            .filter(|old| !files.iter().any(|file| file.path == old.path))
        {
            remove(&old.path.under(&self.dir))?;
        }
        let partial = self.dir.join(PARTIAL);
        match fs::remove_dir_all(&partial) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => {
                return Err(at("remove", &partial)(err));
            }
            _ => {}
        }
        let path = self.dir.join(MANIFEST);
        if !fs::read(&path).is_ok_and(|old| old == manifest) {
            write_whole(&path, manifest)?;
        }
        remove(&self.dir.join(UNFINISHED))
    }
}

/// Whether a path relative to a bundle is this program's own work in progress rather than part of the bundle.
pub(crate) fn is_work(path: &Path) -> bool {
    path.to_str()
        .is_some_and(|name| name == PARTIAL || name == UNFINISHED || name.starts_with(SCRATCH))
}

/// Whether everyone may run a file.
pub(crate) fn runnable(meta: &fs::Metadata) -> bool {
    meta.permissions().mode() & 0o111 == 0o111
}

fn remove(path: &Path) -> Result<(), FolderError> {
    match fs::remove_file(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(at("remove", path)(err)),
        _ => Ok(()),
    }
}

/// Writes a small file whole: synced under another name, then renamed.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), FolderError> {
    let write = || -> io::Result<()> {
        let mut fresh = tempfile::Builder::new()
            .prefix(SCRATCH)
            .tempfile_in(path.parent().unwrap_or(Path::new(".")))?;
        fresh.write_all(bytes)?;
        fresh
            .as_file()
            .set_permissions(fs::Permissions::from_mode(0o644))?;
        fresh.as_file().sync_all()?;
        fresh.persist(path).map_err(|err| err.error)?;
        Ok(())
    };
    write().map_err(at("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Role, tests::manifest_of};

    #[test]
    fn a_folder_of_something_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "precious").unwrap();
        assert!(matches!(
            Folder::lock(dir.path()),
            Err(FolderError::NotABundle(_))
        ));
    }

    #[test]
    fn one_writer_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = Folder::lock(dir.path()).unwrap();
        assert!(matches!(
            Folder::lock(dir.path()),
            Err(FolderError::Busy(_))
        ));
        drop(first);
        Folder::lock(dir.path()).unwrap();
    }

    #[test]
    fn an_interrupted_run_is_continued_and_its_scratch_removed() {
        let dir = tempfile::tempdir().unwrap();
        let entries = manifest_of(&[("bin/a", Role::Binary, b"a")]).files;
        let folder = Folder::lock(dir.path()).unwrap();
        let kept = folder.scratch().unwrap().keep();
        folder.record(&entries).unwrap();
        drop(folder);
        let folder = Folder::lock(dir.path()).unwrap();
        assert_eq!(folder.previous, entries);
        assert!(!kept.exists());
    }

    #[test]
    fn files_no_longer_listed_go_with_the_next_manifest() {
        let dir = tempfile::tempdir().unwrap();
        let old = manifest_of(&[("bin/a", Role::Binary, b"a"), ("bin/b", Role::Binary, b"b")]);
        let folder = Folder::lock(dir.path()).unwrap();
        for entry in &old.files {
            folder
                .write(&entry.path, true, |out| {
                    out.write_all(b"x").map(|()| Content {
                        size: 1,
                        sha256: entry.sha256,
                    })
                })
                .unwrap();
        }
        folder.finish(&old.to_bytes(), &old.files).unwrap();
        drop(folder);

        let new = manifest_of(&[("bin/b", Role::Binary, b"b")]);
        let folder = Folder::lock(dir.path()).unwrap();
        folder.finish(&new.to_bytes(), &new.files).unwrap();
        assert!(!dir.path().join("bin/a").exists());
        assert!(dir.path().join("bin/b").exists());
        assert_eq!(fs::read(dir.path().join(MANIFEST)).unwrap(), new.to_bytes());
    }
}
