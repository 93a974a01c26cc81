//! Who is connected to whom. Start at [`look`].
//!
//! Sockets of the host itself are read with their processes; what pods and other machines do is told by the kernel's connection tracking, by
//! the destination that was meant before any translation: on a master, what came through a Service arrives like what was meant for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use quorate_plan::{Missing, Seen, observation::Caller};

use super::{flows, no_answer};
use crate::{
    durable::{self, FileError},
    paths::Paths,
    shown,
};

/// The processes whose connections are told.
const TOLD: [&str; 2] = ["kubelet", "kube-proxy"];

/// The state of an established connection in `/proc/net/tcp`.
const ESTABLISHED: &str = "01";

/// Connections of those who are told, by process.
type Connections = BTreeMap<String, BTreeSet<SocketAddr>>;

pub(super) async fn look(
    paths: &Paths,
    watched: &BTreeSet<SocketAddr>,
) -> (Seen<Connections>, Seen<BTreeSet<Caller>>) {
    let (paths, watched) = (paths.clone(), watched.clone());
    tokio::task::spawn_blocking(move || {
        let (connections, mut callers) = match sockets(&paths, &watched) {
            Ok(found) => found,
            Err(err) => {
                let missing = no_answer("connections", &err);
                return (Seen::Unknown(missing.clone()), Seen::Unknown(missing));
            }
        };
        let callers = match flows::established(&paths) {
            Ok(flows) => {
                let own = super::machine::addresses();
                let others = flows
                    .into_iter()
                    .filter(|flow| watched.contains(&flow.to) && !own.contains(&flow.from));
                callers.extend(others.map(|flow| Caller {
                    to: flow.to,
                    from: flow.from,
                    process: None,
                }));
                Seen::now(callers)
            }
            Err(err) => Seen::Unknown(Missing::no_answer(
                "connections by original destination",
                shown::line(&err.to_string()),
            )),
        };
        (Seen::now(connections), callers)
    })
    .await
    .expect("reading files does not panic")
}

fn sockets(
    paths: &Paths,
    watched: &BTreeSet<SocketAddr>,
) -> Result<(Connections, BTreeSet<Caller>), FileError> {
    let established = established(paths)?;
    let is_watched = |socket: &Socket| watched.contains(&socket.remote);
    let any_watched = established.values().any(is_watched);
    let mut connections = Connections::new();
    let mut callers = BTreeSet::new();
    let mut owned = BTreeSet::new();
    let own = std::process::id().to_string();
    for process in processes(paths)? {
        let is_self = process.ends_with(&own);
        let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
        let name = name.trim_end();
        let told = TOLD.contains(&name);
        if told {
            connections.entry(name.to_owned()).or_default();
        }
        if !told && !any_watched {
            continue;
        }
        for (inode, socket) in inodes(&process)
            .into_iter()
            .filter_map(|inode| Some((inode, established.get(&inode)?)))
        {
            if told && !socket.remote.ip().is_loopback() {
                let own = connections.entry(name.to_owned()).or_default();
                own.insert(socket.remote);
            }
            // Whoever looks asks the apiserver, too.
            if is_watched(socket) && owned.insert(inode) && !is_self {
                callers.insert(Caller {
                    to: socket.remote,
                    from: socket.local.ip(),
                    process: Some(shown::line(name)),
                });
            }
        }
    }
    // One that was closed while processes were looked at is over: short ones of whoever looks are, each time.
    let still = if any_watched {
        self::established(paths)?
    } else {
        BTreeMap::new()
    };
    for (inode, socket) in &established {
        // Its process ended meanwhile, or hides.
        if is_watched(socket) && !owned.contains(inode) && still.contains_key(inode) {
            callers.insert(Caller {
                to: socket.remote,
                from: socket.local.ip(),
                process: Some("unknown process".into()),
            });
        }
    }
    Ok((connections, callers))
}

struct Socket {
    local: SocketAddr,
    remote: SocketAddr,
}

/// Inode and ends of an established connection.
fn socket(line: &str) -> Option<(u64, Socket)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    if *words.get(3)? != ESTABLISHED {
        return None;
    }
    let socket = Socket {
        local: end(words.get(1)?)?,
        remote: end(words.get(2)?)?,
    };
    Some((words.get(9)?.parse().ok()?, socket))
}

/// An address in the kernel's hexadecimal: words of four bytes in the machine's order.
fn end(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::new();
    if !address.is_ascii() {
        return None;
    }
    for at in (0..address.len()).step_by(8) {
        let word = u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let ip = match bytes.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Established connections of this host over TCP, by inode.
fn established(paths: &Paths) -> Result<BTreeMap<u64, Socket>, FileError> {
    let mut found = BTreeMap::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = durable::read_text(&paths.at(table))?.unwrap_or_default();
        found.extend(text.lines().skip(1).filter_map(socket));
    }
    Ok(found)
}

pub(super) fn processes(paths: &Paths) -> Result<Vec<std::path::PathBuf>, FileError> {
    let proc = paths.at("/proc");
    let entries = match fs::read_dir(&proc) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.map_err(FileError::new("read", &proc))?,
    };
    let is_number = |name: &std::ffi::OsStr| {
        name.to_str()
            .is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
    };
    Ok(entries
        .flatten()
        .filter(|entry| is_number(&entry.file_name()))
        .map(|entry| entry.path())
        .collect())
}

/// Sockets that a process holds. One that ends meanwhile holds none.
fn inodes(process: &std::path::Path) -> BTreeSet<u64> {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else {
        return BTreeSet::new();
    };
    descriptors
        .flatten()
        .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
        .filter_map(|target| {
            let target = target.to_str()?;
            target
                .strip_prefix("socket:[")?
                .strip_suffix(']')?
                .parse()
                .ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    // 10.0.0.12 to 10.0.0.11:6443, on a machine with its lowest byte first, and the same seen through an IPv6 socket.
    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0C00000A:C001 0B00000A:192B 01 00000000:00000000 00:00000000 00000000     0        0 4242 1 0 100 0 0 10 0
   1: 0C00000A:C002 0B00000A:192B 06 00000000:00000000 00:00000000 00000000     0        0 4243 1 0 100 0 0 10 0
   2: 0C00000A:C003 0B00000A:192B 01 00000000:00000000 00:00000000 00000000     0        0 4244 1 0 100 0 0 10 0
   3: 0100007F:C004 0100007F:192B 01 00000000:00000000 00:00000000 00000000     0        0 4245 1 0 100 0 0 10 0
garbage
";

    fn hold(machine: &testing::Machine, process: u32, name: &str, inodes: &[u64]) {
        machine.write(&format!("/proc/{process}/comm"), format!("{name}\n"));
        let descriptors = machine.paths.at(format!("/proc/{process}/fd"));
        fs::create_dir_all(&descriptors).unwrap();
        for (at, inode) in inodes.iter().enumerate() {
            let link = descriptors.join(at.to_string());
            std::os::unix::fs::symlink(format!("socket:[{inode}]"), link).unwrap();
        }
    }

    #[test]
    fn processes_with_their_connections() {
        let machine = testing::machine();
        machine.write("/proc/net/tcp", TABLE);
        hold(&machine, 17, "kubelet", &[4242, 4245]);
        hold(&machine, 18, "kube-proxy", &[]);
        let master: SocketAddr = "10.0.0.11:6443".parse().unwrap();
        let (connections, callers) = sockets(&machine.paths, &[master].into()).unwrap();
        assert_eq!(connections["kubelet"], [master].into());
        assert!(connections["kube-proxy"].is_empty());
        let named: Vec<String> = callers.iter().map(Caller::to_string).collect();
        assert_eq!(
            named,
            [
                "kubelet at 10.0.0.12 to 10.0.0.11:6443",
                "unknown process at 10.0.0.12 to 10.0.0.11:6443"
            ]
        );
        let (_, nobody) = sockets(&machine.paths, &[].into()).unwrap();
        assert!(nobody.is_empty());
        hold(&machine, std::process::id(), "quorate-11fa09c", &[4244]);
        let (_, callers) = sockets(&machine.paths, &[master].into()).unwrap();
        assert_eq!(callers.len(), 1, "whoever looks is nobody's straggler");
    }

    #[test]
    fn ends_are_read_and_garbage_is_not() {
        assert_eq!(
            end("0B00000A:192B"),
            Some("10.0.0.11:6443".parse().unwrap())
        );
        assert_eq!(
            end("0000000000000000FFFF00000B00000A:192B"),
            Some("10.0.0.11:6443".parse().unwrap())
        );
        for garbage in [
            "",
            ":",
            "0B00000A",
            "0B00:192B",
            "é0B000A:192B",
            "ZB00000A:192B",
        ] {
            assert_eq!(end(garbage), None, "{garbage}");
        }
    }
}
