//! Who listens on which TCP port.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use crate::{
    durable::{self, FileError},
    paths::Paths,
    shown,
};

/// The state of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

pub(super) fn look(paths: &Paths) -> Result<BTreeMap<u16, String>, FileError> {
    let mut sockets = BTreeMap::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = durable::read_text(&paths.at(table))?.unwrap_or_default();
        sockets.extend(text.lines().skip(1).filter_map(listening));
    }
    let owners = owners(paths, &sockets.keys().copied().collect());
    Ok(sockets
        .into_iter()
        .map(|(inode, port)| {
            let owner = owners.get(&inode).cloned();
            (port, owner.unwrap_or_else(|| "unknown".to_owned()))
        })
        .collect())
}

/// Inode and port of a line that tells of a listening socket.
fn listening(line: &str) -> Option<(u64, u16)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (local, state, inode) = (words.get(1)?, words.get(3)?, words.get(9)?);
    if *state != LISTEN {
        return None;
    }
    let port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
    Some((inode.parse().ok()?, port))
}

/// The names of the processes that hold these sockets. Processes that end meanwhile are passed over.
fn owners(paths: &Paths, inodes: &BTreeSet<u64>) -> BTreeMap<u64, String> {
    let mut found = BTreeMap::new();
    if inodes.is_empty() {
        return found;
    }
    let Ok(processes) = fs::read_dir(paths.at("/proc")) else {
        return found;
    };
    for process in processes.flatten() {
        if found.len() == inodes.len() {
            break;
        }
        let id = process.file_name();
        if !id
            .to_str()
            .is_some_and(|id| id.bytes().all(|b| b.is_ascii_digit()))
        {
            continue;
        }
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        for descriptor in descriptors.flatten() {
            let Ok(target) = fs::read_link(descriptor.path()) else {
                continue;
            };
            let inode = target
                .to_str()
                .and_then(|t| t.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            if let Some(inode) = inode.filter(|inode| inodes.contains(inode)) {
                let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                found.insert(inode, shown::line(&name));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0 100 0 0 10 0
   1: 0100007F:0016 00000000:0000 01 00000000:00000000 00:00000000 00000000     0        0 4243 1 0 100 0 0 10 0
   2: 0100007F:0947 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4244 1 0 100 0 0 10 0
garbage
";

    #[test]
    fn ports_with_their_processes() {
        let machine = testing::machine();
        machine.write("/proc/net/tcp", TABLE);
        machine.write("/proc/17/comm", "kube-apiserver\n");
        machine.write("/proc/self/comm", "not a number\n");
        let descriptors = machine.paths.at("/proc/17/fd");
        fs::create_dir_all(&descriptors).unwrap();
        std::os::unix::fs::symlink("socket:[4242]", descriptors.join("3")).unwrap();
        std::os::unix::fs::symlink("/dev/null", descriptors.join("0")).unwrap();
        let seen = look(&machine.paths).unwrap();
        let expected = [(2375, "unknown"), (6443, "kube-apiserver")];
        assert_eq!(seen, expected.map(|(p, n)| (p, n.to_owned())).into());
    }
}
