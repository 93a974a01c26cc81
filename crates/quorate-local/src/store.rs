//! Files that must be whole or absent: written beside their place, synced, renamed. And the locks that keep two
//! commands apart.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{During, Error, Result};

/// Makes a directory and those above it; those it makes are for root alone.
pub(crate) fn private_dir(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .during("create", path)
}

/// Makes a directory and those above it, readable by all: inside of a host's file system.
pub(crate) fn public_dir(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .during("create", path)
}

/// Replaces the file at `path`: a reader finds the old content or the new, also after a loss of power.
pub(crate) fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let beside = beside(path, "new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&beside)
        .during("create", &beside)?;
    // The mode given to open passes the umask, and a file left by a crash keeps the one it had.
    file.set_permissions(Permissions::from_mode(mode))
        .during("set the mode of", &beside)?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .during("write", &beside)?;
    fs::rename(&beside, path).during("rename into place", path)?;
    let parent = path.parent().unwrap_or(Path::new("."));
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .during("sync", parent)
}

/// Writes a value as JSON, readable by root alone.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|source| Error::State {
        path: path.to_owned(),
        source,
    })?;
    text.push(b'\n');
    write(path, &text, 0o600)
}

/// Reads a value written by [`write_json`]; a file that is not there is `None`.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match fs::read(path) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.during("read", path)?,
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|source| Error::State {
            path: path.to_owned(),
            source,
        })
}

/// A file's content; one that is not there is `None`.
pub(crate) fn read_optional(path: &Path) -> Result<Option<String>> {
    match fs::read(path) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(None),
        other => Ok(Some(
            String::from_utf8_lossy(&other.during("read", path)?).into_owned(),
        )),
    }
}

/// Names of the entries of a directory, sorted; none when it is not there.
pub(crate) fn entries(dir: &Path) -> Result<Vec<String>> {
    let listing = match fs::read_dir(dir) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.during("list", dir)?,
    };
    let mut names = Vec::new();
    for entry in listing {
        names.push(
            entry
                .during("list", dir)?
                .file_name()
                .to_string_lossy()
                .into_owned(),
        );
    }
    names.sort();
    Ok(names)
}

/// Removes a directory with all its content, also when it is not there; refuses when something is mounted in it.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    if let Some(at) = mounted_below(path)? {
        return Err(Error::Mounted { at });
    }
    match fs::remove_dir_all(path) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.during("remove", path),
    }
}

/// Removes a file, also when it is not there.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.during("remove", path),
    }
}

fn mounted_below(path: &Path) -> Result<Option<PathBuf>> {
    let table = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(table).during("read", table)?;
    let mounted = text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from);
    Ok(mounted.into_iter().find(|at| at.starts_with(path)))
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let name = path
        .file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default();
    path.with_file_name(format!(".{name}.{ending}"))
}

/// A lock between processes and threads, released when dropped or when the process ends in any way.
///
/// The file stays behind on purpose: removing it would let two holders lock two different files of one name.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held for its lock, which goes with it")] File);

impl Lock {
    /// Waits for the lock and keeps everybody else out.
    pub(crate) fn exclusive(path: &Path) -> Result<Lock> {
        let file = Lock::open(path)?;
        file.lock().during("lock", path)?;
        Ok(Lock(file))
    }

    /// Waits for the lock and keeps those out who want it alone.
    pub(crate) fn shared(path: &Path) -> Result<Lock> {
        let file = Lock::open(path)?;
        file.lock_shared().during("lock", path)?;
        Ok(Lock(file))
    }

    /// Takes the lock if nobody holds it.
    pub(crate) fn try_exclusive(path: &Path) -> Result<Option<Lock>> {
        let file = Lock::open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock(file))),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(err)) => Err(err).during("lock", path),
        }
    }

    fn open(path: &Path) -> Result<File> {
        if let Some(parent) = path.parent() {
            private_dir(parent)?;
        }
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)
            .during("open", path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_left_half_written_is_never_read() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("state.json");
        write_json(&path, &vec![1, 2]).expect("written");
        fs::write(beside(&path, "new"), b"[3,").expect("a crash's leftover");
        assert_eq!(read_json::<Vec<u8>>(&path).expect("read"), Some(vec![1, 2]));
        write_json(&path, &vec![4]).expect("written over the leftover");
        assert_eq!(read_json::<Vec<u8>>(&path).expect("read"), Some(vec![4]));
        assert_eq!(entries(dir.path()).expect("listed"), ["state.json"]);
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn an_absent_file_is_none_and_a_broken_one_an_error_naming_it() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("state.json");
        assert_eq!(read_json::<u8>(&path).expect("read"), None);
        fs::write(&path, b"{").expect("written");
        let err = read_json::<u8>(&path).expect_err("broken");
        assert_eq!(
            err.to_string(),
            format!("cannot understand the state file {}", path.display())
        );
    }

    #[test]
    fn locks_keep_out_and_let_in_again() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("locks/a");
        let held = Lock::exclusive(&path).expect("free");
        assert!(Lock::try_exclusive(&path).expect("no I/O error").is_none());
        drop(held);
        let _one = Lock::shared(&path).expect("free");
        let _two = Lock::shared(&path).expect("shared");
        assert!(Lock::try_exclusive(&path).expect("no I/O error").is_none());
    }
}
