//! Who listens on which TCP port.
//!
//! The kernel is asked for listening sockets alone: its table in `/proc` costs ten milliseconds to read, since all connections of the whole
//! machine are gone through for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::fd::AsRawFd,
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

use crate::{
    durable::{self, FileError},
    paths::Paths,
    shown,
};

/// The state of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

pub(crate) fn look(paths: &Paths) -> Result<BTreeMap<u16, String>, FileError> {
    let asked = if paths.is_host() {
        ask_kernel().ok()
    } else {
        None
    };
    let sockets = match asked {
        Some(sockets) => sockets,
        // Kernels without its module, and machines in folders.
        None => read_tables(paths)?,
    };
    let owners = owners(paths, &sockets.keys().copied().collect());
    Ok(sockets
        .into_iter()
        .map(|(inode, port)| {
            let owner = owners.get(&inode).cloned();
            (port, owner.unwrap_or_else(|| "unknown".to_owned()))
        })
        .collect())
}

/// Port by inode of every listening socket.
type Sockets = BTreeMap<u64, u16>;

fn read_tables(paths: &Paths) -> Result<Sockets, FileError> {
    let mut sockets = Sockets::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = durable::read_text(&paths.at(table))?.unwrap_or_default();
        sockets.extend(text.lines().skip(1).filter_map(listening));
    }
    Ok(sockets)
}

/// `sock_diag(7)`: a dump of TCP sockets in the state LISTEN, for IPv4 and IPv6.
fn ask_kernel() -> nix::Result<Sockets> {
    let mut sockets = Sockets::new();
    for family in [family::INET, family::INET6] {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkSockDiag,
        )?;
        send(socket.as_raw_fd(), &request(family), MsgFlags::empty())?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            if !take_messages(&buffer[..length], &mut sockets)? {
                break;
            }
        }
    }
    Ok(sockets)
}

/// Address families by number.
mod family {
    pub(super) const INET: u8 = 2;
    pub(super) const INET6: u8 = 10;
}

/// Length of a netlink message's header.
const HEADER: usize = 16;
/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// A netlink header and an `inet_diag_req_v2`.
fn request(family: u8) -> Vec<u8> {
    const LENGTH: u32 = 72;
    const REQUEST_AND_DUMP: u16 = 0x301;
    const TCP: u8 = 6;
    const STATE_LISTEN: u32 = 10;
    let mut out = Vec::with_capacity(LENGTH as usize);
    out.extend_from_slice(&LENGTH.to_ne_bytes());
    out.extend_from_slice(&BY_FAMILY.to_ne_bytes());
    out.extend_from_slice(&REQUEST_AND_DUMP.to_ne_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&[family, TCP, 0, 0]);
    out.extend_from_slice(&(1u32 << STATE_LISTEN).to_ne_bytes());
    // Of any address and port.
    out.resize(LENGTH as usize, 0);
    out
}

/// Takes the sockets of one datagram; `false` when the dump is over.
fn take_messages(mut datagram: &[u8], sockets: &mut Sockets) -> nix::Result<bool> {
    while datagram.len() >= HEADER {
        let u16_at = |at: usize| u16::from_ne_bytes([datagram[at], datagram[at + 1]]);
        let length =
            u32::from_ne_bytes([datagram[0], datagram[1], datagram[2], datagram[3]]) as usize;
        if length < HEADER || length > datagram.len() {
            return Err(nix::errno::Errno::EBADMSG);
        }
        match u16_at(4) {
            DONE => return Ok(false),
            ERROR => return Err(nix::errno::Errno::EOPNOTSUPP),
            BY_FAMILY => sockets.extend(socket_of(&datagram[HEADER..length])),
            _ => {}
        }
        // Messages begin at multiples of four.
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    Ok(true)
}

/// Inode and port of an `inet_diag_msg`.
fn socket_of(message: &[u8]) -> Option<(u64, u16)> {
    let port = u16::from_be_bytes(message.get(4..6)?.try_into().ok()?);
    let inode = u32::from_ne_bytes(message.get(68..72)?.try_into().ok()?);
    Some((inode.into(), port))
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

    /// The kernel's two accounts agree about a port of ours.
    #[test]
    fn the_kernel_tells_listening_sockets() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let tables = read_tables(&Paths::host()).unwrap();
        assert!(tables.values().any(|there| *there == port));
        match ask_kernel() {
            Ok(asked) => {
                let inode = tables.iter().find(|(_, there)| **there == port).unwrap().0;
                assert_eq!(asked.get(inode), Some(&port));
            }
            Err(err) => {
                assert!(std::env::var_os("CI").is_none(), "{err}");
                eprintln!("SKIPPED: this kernel has no sock_diag for TCP: {err}");
            }
        }
    }

    #[test]
    fn damaged_answers_of_the_kernel_are_none() {
        let mut sockets = Sockets::new();
        let header = |length: u32, kind: u16| {
            let mut out = length.to_ne_bytes().to_vec();
            out.extend_from_slice(&kind.to_ne_bytes());
            out.resize(HEADER, 0);
            out
        };
        assert!(take_messages(&header(15, BY_FAMILY), &mut sockets).is_err());
        assert!(take_messages(&header(99, BY_FAMILY), &mut sockets).is_err());
        assert!(take_messages(&header(16, ERROR), &mut sockets).is_err());
        assert_eq!(
            take_messages(&header(16, BY_FAMILY), &mut sockets),
            Ok(true)
        );
        assert_eq!(take_messages(&header(16, DONE), &mut sockets), Ok(false));
        assert!(sockets.is_empty());
    }

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
