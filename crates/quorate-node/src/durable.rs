//! Files that survive a power loss whole: written beside their place, synced, renamed, and the folder synced too.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

/// Largest file that is read whole, in bytes. Certificates, manifests and states are below 100 KiB.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// A file or folder that could not be used. Contents are never part of the message.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} `{}`", path.display())]
pub struct FileError {
    /// What was being done, as a verb: `read`.
    pub doing: &'static str,
    /// Where.
    pub path: PathBuf,
    /// Why not.
    #[source]
    pub source: io::Error,
}

impl FileError {
    pub(crate) fn new(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
        let path = path.to_owned();
        move |source| FileError {
            doing,
            path,
            source,
        }
    }

    /// A file whose contents make no sense.
    pub(crate) fn senseless(
        path: &Path,
        why: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        FileError {
            doing: "understand",
            path: path.to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidData, why),
        }
    }
}

/// Where a file is written before it takes its place. The leading dot hides it from the kubelet's manifest folder; the name is always
/// the same, so that what a crash left behind is overwritten by the next attempt.
fn beside(path: &Path) -> PathBuf {
    let name = path
        .file_name()
        .expect("a file to write has a name")
        .to_string_lossy();
    path.with_file_name(format!(".{name}.quorate-new"))
}

/// Replaces `path` by a file with these bytes and this mode. Folders above it are made with mode 0755.
pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let folder = path.parent().expect("a file to write lies in a folder");
    fs::create_dir_all(folder).map_err(FileError::new("make the folder", folder))?;
    let new = beside(path);
    remove(&new)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&new)
        .map_err(FileError::new("create", &new))?;
    // The umask took bits from the mode given at creation.
    file.set_permissions(fs::Permissions::from_mode(mode))
        .and_then(|()| file.write_all(bytes))
        .and_then(|()| file.sync_all())
        .map_err(FileError::new("write", &new))?;
    rename(&new, path)
}

/// Like [`write()`], and says whether anything had to be changed.
pub(crate) fn write_if_different(path: &Path, bytes: &[u8], mode: u32) -> Result<bool, FileError> {
    let same_mode = fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o7777 == mode);
    if same_mode && read(path)?.as_deref() == Some(bytes) {
        return Ok(false);
    }
    write(path, bytes, mode)?;
    Ok(true)
}

/// Renames and makes it last.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(FileError::new("move into place", to))?;
    sync_folder(to.parent().expect("a file lies in a folder"))
}

/// Makes the entries of a folder last.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), FileError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(FileError::new("sync the folder", folder))
}

/// Removes a file; one that is not there is fine.
pub(crate) fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(FileError::new("remove", path)),
    }
}

/// Removes a folder with all that is in it; one that is not there is fine.
pub(crate) fn remove_folder(path: &Path) -> Result<(), FileError> {
    match fs::remove_dir_all(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(FileError::new("remove", path)),
    }
}

/// Makes a folder only root can enter.
pub(crate) fn private_folder(path: &Path) -> Result<(), FileError> {
    fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)))
        .map_err(FileError::new("make the folder", path))
}

/// The bytes of a file; `None` when there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    let file = match File::open(path) {
        Err(err)
            if matches!(
                err.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        result => result.map_err(FileError::new("read", path))?,
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(FileError::new("read", path))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(FileError::senseless(
            path,
            "it is larger than any file of its kind",
        ));
    }
    Ok(Some(bytes))
}

/// The text of a file; `None` when there is no such file. Bytes that are no text are replaced.
pub(crate) fn read_text(path: &Path) -> Result<Option<String>, FileError> {
    Ok(read(path)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// A value kept as JSON; `None` when there is no such file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, FileError> {
    let Some(bytes) = read(path)? else {
        return Ok(None);
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|err| FileError::senseless(path, err))
}

/// Keeps a value as JSON, readable by root only.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), FileError> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("what we keep has a JSON form");
    bytes.push(b'\n');
    write(path, &bytes, 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_before_the_rename_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        write(&path, b"old", 0o600).unwrap();
        // What a crash leaves: part of the new bytes beside the file.
        fs::write(beside(&path), b"ne").unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), b"old");
        write(&path, b"new", 0o600).unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), b"new");
        assert!(!beside(&path).exists());
    }

    #[test]
    fn modes_are_exact_and_changed_when_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/key");
        assert!(write_if_different(&path, b"x", 0o600).unwrap());
        assert!(!write_if_different(&path, b"x", 0o600).unwrap());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(write_if_different(&path, b"x", 0o600).unwrap());
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }

    #[test]
    fn absent_is_none_and_garbage_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        assert!(read_json::<u32>(&path).unwrap().is_none());
        fs::write(&path, b"{").unwrap();
        let err = read_json::<u32>(&path).unwrap_err();
        assert!(err.to_string().starts_with("cannot understand"), "{err}");
    }
}
