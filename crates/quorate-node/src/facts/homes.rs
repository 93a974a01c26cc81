//! People's kubeconfigs on this host, told by where they lead and never changed. They are other people's files, read by root: a link is not
//! followed, what is no file is not opened, and what cannot be understood is told as that.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};

use super::pki;
use crate::{durable::FileError, paths::Paths, shown};

/// Where people live.
const HOMES: &str = "/home";
/// Where kubectl looks, below a home.
const CONFIG: &str = ".kube/config";
/// Largest kubeconfig that is read, in bytes.
const BYTES_MAX: u64 = 1 << 20;
/// Homes beyond these are not looked into.
const HOMES_MAX: usize = 1000;

/// Kubeconfigs by path with the servers they name; `None` for one that cannot be understood.
pub(super) fn look(paths: &Paths) -> Result<BTreeMap<String, Option<BTreeSet<String>>>, FileError> {
    let homes = paths.at(HOMES);
    let entries = match fs::read_dir(&homes) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        result => result.map_err(FileError::new("read", &homes))?,
    };
    let mut found = BTreeMap::new();
    for entry in entries.take(HOMES_MAX) {
        let name = entry.map_err(FileError::new("read", &homes))?.file_name();
        let path = homes.join(&name).join(CONFIG);
        let shown = shown::line(&format!("{HOMES}/{}/{CONFIG}", name.to_string_lossy()));
        match text(&path) {
            Ok(text) => drop(found.insert(shown, pki::servers_of(&text))),
            Err(error) if is_absent(&error) => {}
            Err(_) => drop(found.insert(shown, None)),
        }
    }
    Ok(found)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn text(path: &Path) -> io::Result<String> {
    // Not to wait for whoever would write into a pipe.
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(O_NOFOLLOW | O_NONBLOCK)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut text = String::new();
    let read = file.take(BYTES_MAX + 1).read_to_string(&mut text)?;
    if read as u64 > BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::testing;

    #[test]
    fn peoples_kubeconfigs_are_told_and_traps_are_not_stepped_into() {
        let machine = testing::machine();
        assert_eq!(look(&machine.paths).unwrap(), BTreeMap::new());
        machine.write(
            "/home/ann/.kube/config",
            "clusters:\n- name: a\n  cluster: { server: \"https://10.0.0.11:6443\" }\nusers: []\n",
        );
        machine.write("/home/bob/notes", "no kubeconfig here");
        machine.write("/home/eve/.kube/config", "secret: [");
        machine.write("/root/secret", "clusters: []");
        for home in ["mal", "pip"] {
            fs::create_dir_all(machine.paths.at(format!("/home/{home}/.kube"))).unwrap();
        }
        let link = machine.paths.at("/home/mal/.kube/config");
        symlink(machine.paths.at("/root/secret"), link).unwrap();
        let pipe = machine.paths.at("/home/pip/.kube/config");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let found = look(&machine.paths).unwrap();
        let ann: BTreeSet<String> = ["https://10.0.0.11:6443".to_owned()].into();
        let of = |home: &str| format!("/home/{home}/.kube/config");
        let expected = [
            (of("ann"), Some(ann)),
            (of("eve"), None),
            (of("mal"), None),
            (of("pip"), None),
        ];
        assert_eq!(found, expected.into());
    }
}
