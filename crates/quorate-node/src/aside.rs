//! Moving things out of the way instead of deleting them: one folder for each action, private to root, which nothing here ever empties.
//! Start at [`Aside::open`].
//!
//! Everything is renamed within its file system, so that it is in one place or the other and nothing is copied. What lies on another file
//! system than Quorate's state, or is a mount point itself, stays on its own in a folder with a dot before its name.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::{
    durable::{self, FileError},
    paths::Paths,
    utc,
};

/// Below Quorate's state.
const FOLDER: &str = "aside";

/// On other file systems than that.
const ELSEWHERE: &str = ".quorate-aside";

/// A folder for what one action moves aside. It is made when the first thing goes into it.
pub(crate) struct Aside<'a> {
    paths: &'a Paths,
    /// The moment at which the action began, in UTC: the name of the folder.
    name: String,
}

impl<'a> Aside<'a> {
    /// A new one, called by the time.
    pub(crate) fn new(paths: &'a Paths) -> Self {
        Self::open(paths, utc::stamp(utc::now()))
    }

    /// The one of that name, so that an action that was broken off goes on where it was.
    pub(crate) fn open(paths: &'a Paths, name: String) -> Self {
        Self { paths, name }
    }

    /// Takes a file or folder of the machine out of its place. Says where it is now; `None`: there was nothing.
    pub(crate) fn take(&self, absolute: &str) -> Result<Option<PathBuf>, FileError> {
        let from = self.paths.at(absolute);
        let there = match fs::symlink_metadata(&from) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result.map_err(FileError::new("look at", &from))?,
        };
        let parent = from.parent().expect("what is moved aside lies in a folder");
        if there.is_dir() && device(&from)? != device(parent)? {
            return self.take_from_mount(&from);
        }
        let ours = self.paths.state("");
        fs::create_dir_all(&ours).map_err(FileError::new("make the folder", &ours))?;
        let into = if device(parent)? == device(&ours)? {
            let inside = absolute.trim_start_matches('/');
            private(self.paths.state(FOLDER))?
                .join(&self.name)
                .join(inside)
        } else {
            let name = from.file_name().expect("it has a name");
            private(parent.join(ELSEWHERE))?.join(&self.name).join(name)
        };
        shift(&from, &free(into))
    }

    /// A mount point stays; what is in it moves, within it.
    fn take_from_mount(&self, from: &Path) -> Result<Option<PathBuf>, FileError> {
        let into = from.join(ELSEWHERE).join(&self.name);
        let mut moved = None;
        for name in names(from)? {
            // What every ext4 has at its top, and what we have put there.
            if name != "lost+found" && name != ELSEWHERE {
                private(from.join(ELSEWHERE))?;
                shift(&from.join(&name), &free(into.join(&name)))?;
                moved = Some(into.clone());
            }
        }
        Ok(moved)
    }
}

/// Whatever is below it, only root comes this far.
fn private(folder: PathBuf) -> Result<PathBuf, FileError> {
    durable::private_folder(&folder)?;
    Ok(folder)
}

fn device(path: &Path) -> Result<u64, FileError> {
    let meta = fs::metadata(path).map_err(FileError::new("look at", path))?;
    Ok(meta.dev())
}

fn names(folder: &Path) -> Result<Vec<std::ffi::OsString>, FileError> {
    fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
        .map_err(FileError::new("read", folder))
}

/// A place that nothing is at. An action that was broken off and asked again may have moved a thing of that name before.
fn free(wanted: PathBuf) -> PathBuf {
    let name = wanted.file_name().expect("it has a name").to_os_string();
    let mut place = wanted.clone();
    let mut times = 1;
    while fs::symlink_metadata(&place).is_ok() {
        times += 1;
        let mut numbered = name.clone();
        numbered.push(format!(".{times}"));
        place = wanted.with_file_name(numbered);
    }
    place
}

/// Renames and makes both ends last.
fn shift(from: &Path, to: &Path) -> Result<Option<PathBuf>, FileError> {
    let folder = to.parent().expect("it lies in a folder");
    durable::private_folder(folder)?;
    rename(from, to)?;
    durable::sync_folder(folder)?;
    durable::sync_folder(from.parent().expect("it lies in a folder"))?;
    Ok(Some(to.to_owned()))
}

/// An overlay does not rename folders that a lower layer has too: those are made anew, and what is in them is moved.
fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    match fs::rename(from, to) {
        Err(err) if err.kind() == io::ErrorKind::CrossesDevices && from.is_dir() => {
            let meta = fs::metadata(from).map_err(FileError::new("look at", from))?;
            fs::create_dir(to)
                .and_then(|()| fs::set_permissions(to, meta.permissions()))
                .map_err(FileError::new("make the folder", to))?;
            for name in names(from)? {
                rename(&from.join(&name), &to.join(&name))?;
            }
            durable::sync_folder(to)?;
            fs::remove_dir(from).map_err(FileError::new("remove", from))
        }
        result => result.map_err(FileError::new("move aside", from)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::testing;

    #[test]
    fn what_is_moved_aside_is_whole_and_roots_alone() {
        let machine = testing::machine();
        machine.write("/etc/kubernetes/pki/ca.key", "key");
        machine.write("/etc/kubernetes/admin.conf", "conf");
        let aside = Aside::open(&machine.paths, "2024-02-29-23-59-59".into());
        assert_eq!(aside.take("/etc/nothing").unwrap(), None);
        assert!(!machine.paths.state("aside").exists(), "nothing to keep");

        let place = aside.take("/etc/kubernetes").unwrap().unwrap();
        let inside = "/var/lib/quorate/aside/2024-02-29-23-59-59/etc/kubernetes";
        assert_eq!(place, machine.paths.at(inside));
        assert!(!machine.paths.at("/etc/kubernetes").exists());
        assert_eq!(machine.read(&format!("{inside}/pki/ca.key")), "key");
        let mode = |path: &str| {
            let meta = fs::metadata(machine.paths.at(path)).unwrap();
            meta.permissions().mode() & 0o777
        };
        assert_eq!(mode("/var/lib/quorate/aside"), 0o700);
        assert_eq!(aside.take("/etc/kubernetes").unwrap(), None, "once");
    }

    /// Broken off, something made the file again, asked again.
    #[test]
    fn nothing_that_is_aside_is_overwritten() {
        let machine = testing::machine();
        let aside = Aside::open(&machine.paths, "t".into());
        for n in ["1", "2", "3"] {
            machine.write("/etc/kubernetes/admin.conf", n);
            aside.take("/etc/kubernetes/admin.conf").unwrap().unwrap();
        }
        let folder = "/var/lib/quorate/aside/t/etc/kubernetes";
        for (name, text) in [("", "1"), (".2", "2"), (".3", "3")] {
            assert_eq!(machine.read(&format!("{folder}/admin.conf{name}")), text);
        }
    }

    #[test]
    fn a_mount_point_stays_and_keeps_what_was_in_it() {
        let machine = testing::machine();
        for path in ["member/wal/0.wal", "lost+found/x"] {
            machine.write(&format!("/var/lib/etcd/{path}"), path);
        }
        let data = machine.paths.at("/var/lib/etcd");
        let aside = Aside::open(&machine.paths, "t".into());
        let place = aside.take_from_mount(&data).unwrap().unwrap();
        assert_eq!(place, data.join(".quorate-aside/t"));
        assert!(place.join("member/wal/0.wal").exists());
        assert!(data.join("lost+found/x").exists());
        assert!(!data.join("member").exists());
        assert_eq!(aside.take_from_mount(&data).unwrap(), None);
    }
}
