//! What is asked for: [`ClusterSpec`] and [`HostSpec`]. Plain values, checked before anything is made.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::names::{BridgeName, ClusterName, HostName};
use crate::subnet::Subnet;

/// A cluster of local hosts: a name, a network, and whether it reaches beyond the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterSpec {
    /// Its name, unlike every other on the machine.
    pub name: ClusterName,
    /// Its network; `None` takes the first free one of 172.30.0.0/24 to 172.30.255.0/24.
    pub subnet: Option<Subnet>,
    /// Its bridge; `None` takes the first free one of `qr0`, `qr1` and so on.
    pub bridge: Option<BridgeName>,
    /// Whether its hosts reach beyond the machine.
    pub uplink: Uplink,
}

impl ClusterSpec {
    /// A cluster that chooses its own network and reaches nothing beyond the machine.
    pub fn new(name: ClusterName) -> ClusterSpec {
        ClusterSpec {
            name,
            subnet: None,
            bridge: None,
            uplink: Uplink::None,
        }
    }
}

/// Whether hosts reach beyond the machine they run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Uplink {
    /// They reach each other and the machine, nothing else; the machine forwards nothing for them.
    #[default]
    None,
    /// The machine forwards for them behind its own address. Needs `net.ipv4.ip_forward`, which is a
    /// [change](crate::Change) of the machine; a firewall on the machine that drops forwarded packets still does.
    Nat,
}

impl Uplink {
    /// `none` or `nat`.
    pub fn as_str(self) -> &'static str {
        match self {
            Uplink::None => "none",
            Uplink::Nat => "nat",
        }
    }
}

/// A host: a booted Debian of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSpec {
    /// Its name and hostname.
    pub name: HostName,
    /// Its address, inside of the cluster's subnet.
    pub address: Ipv4Addr,
    /// The most processor time it may use, in thousandths of a processor; `None` is no limit.
    pub cpu_millis: Option<u32>,
    /// The most memory its processes and their page cache may use, in bytes; `None` is no limit.
    pub memory_bytes: Option<u64>,
    /// Public keys, one line each, that may log in as root besides the cluster's own.
    pub authorized_keys: Vec<String>,
    /// Directories and files of the machine it sees.
    pub binds: Vec<Bind>,
    /// Paths inside that lie on a plain directory of the machine instead of the overlay: what makes overlays of its
    /// own (an image store) cannot lie on one. They live as long as the host.
    pub data_dirs: Vec<PathBuf>,
    /// Directories of the machine laid over the base image, the first on top, below what the host writes. They must
    /// not change while a host runs on them.
    pub layers: Vec<PathBuf>,
}

impl HostSpec {
    /// A host with neither limits nor binds.
    pub fn new(name: HostName, address: Ipv4Addr) -> HostSpec {
        HostSpec {
            name,
            address,
            cpu_millis: None,
            memory_bytes: None,
            authorized_keys: Vec::new(),
            binds: Vec::new(),
            data_dirs: Vec::new(),
            layers: Vec::new(),
        }
    }

    /// Refuses what cannot be made, whatever the cluster.
    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |problem: String| {
            Err(Error::Spec {
                host: self.name.clone(),
                problem,
            })
        };
        // Less, and the kernel's smallest quota of 1 ms per 100 ms period is not reached.
        if self.cpu_millis.is_some_and(|cpu| cpu < 10) {
            return refuse("a limit below 10 thousandths of a processor".to_owned());
        }
        // A booting Debian needs about half of this.
        if self.memory_bytes.is_some_and(|memory| memory < 128 << 20) {
            return refuse(
                "a limit below 128 MiB of memory, less than Debian needs to boot".to_owned(),
            );
        }
        for key in &self.authorized_keys {
            if key.trim().is_empty() || key.chars().any(char::is_control) {
                return refuse("an authorized key has to be one line of text".to_owned());
            }
        }
        let mut inside = BTreeSet::new();
        for path in self.binds.iter().map(|b| &b.inside).chain(&self.data_dirs) {
            check_path(path)?;
            if path == Path::new("/") || !inside.insert(path) {
                return refuse(format!("{} is bound twice or is the root", path.display()));
            }
        }
        for path in self.binds.iter().map(|b| &b.machine).chain(&self.layers) {
            check_path(path)?;
            if !path.exists() {
                return refuse(format!("{} does not exist on this machine", path.display()));
            }
        }
        let mut names = BTreeSet::new();
        if !self
            .data_dirs
            .iter()
            .all(|dir| names.insert(data_dir_name(dir)))
        {
            return refuse(
                "two data directories whose names differ only in `/` and `-`".to_owned(),
            );
        }
        Ok(())
    }

    /// The first setting in which `other` differs.
    pub(crate) fn difference(&self, other: &HostSpec) -> Option<&'static str> {
        let HostSpec {
            name,
            address,
            cpu_millis,
            memory_bytes,
            authorized_keys,
            binds,
            data_dirs,
            layers,
        } = self;
        [
            ("name", *name == other.name),
            ("address", *address == other.address),
            ("processor limit", *cpu_millis == other.cpu_millis),
            ("memory limit", *memory_bytes == other.memory_bytes),
            (
                "set of authorized keys",
                *authorized_keys == other.authorized_keys,
            ),
            ("set of binds", *binds == other.binds),
            ("set of data directories", *data_dirs == other.data_dirs),
            ("set of layers", *layers == other.layers),
        ]
        .into_iter()
        .find_map(|(what, same)| (!same).then_some(what))
    }
}

/// A directory or file of the machine that a host sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// Where it is on the machine.
    pub machine: PathBuf,
    /// Where the host sees it.
    pub inside: PathBuf,
    /// Whether the host may write to it.
    pub writable: bool,
}

impl Bind {
    /// The host may look.
    pub fn read_only(machine: impl Into<PathBuf>, inside: impl Into<PathBuf>) -> Bind {
        Bind {
            machine: machine.into(),
            inside: inside.into(),
            writable: false,
        }
    }

    /// The host may write.
    pub fn writable(machine: impl Into<PathBuf>, inside: impl Into<PathBuf>) -> Bind {
        Bind {
            machine: machine.into(),
            inside: inside.into(),
            writable: true,
        }
    }
}

/// The name of the directory on the machine behind a data directory.
pub(crate) fn data_dir_name(inside: &Path) -> String {
    inside.to_string_lossy().trim_matches('/').replace('/', "-")
}

/// Refuses a path that `mount -o` or `--bind` would read as something else.
pub(crate) fn check_path(path: &Path) -> Result<()> {
    let refuse = |rule| {
        Err(Error::Path {
            path: path.to_owned(),
            rule,
        })
    };
    if !path.is_absolute() {
        return refuse("it has to be absolute");
    }
    if path.components().any(|c| c == Component::ParentDir) {
        return refuse("it must not hold `..`");
    }
    let Some(text) = path.to_str() else {
        return refuse("it has to be UTF-8");
    };
    if text
        .chars()
        .any(|c| c.is_control() || c.is_whitespace() || ":,\\'\"".contains(c))
    {
        return refuse(
            "it must not hold white space, control characters, quotes, `:`, `,` or `\\`",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> HostSpec {
        HostSpec::new(
            "cp-1".parse().expect("a name"),
            Ipv4Addr::new(172, 30, 7, 11),
        )
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut HostSpec), expect: &str) {
        let mut spec = host();
        change(&mut spec);
        let got = spec
            .check()
            .map(|()| "fine".to_owned())
            .unwrap_or_else(|e| e.to_string());
        assert_eq!(got, expect);
    }

    #[test]
    fn a_specification_is_checked_before_anything_is_made() {
        check(|_| {}, "fine");
        check(
            |s| s.cpu_millis = Some(9),
            "host `cp-1`: a limit below 10 thousandths of a processor",
        );
        check(
            |s| s.memory_bytes = Some(1 << 20),
            "host `cp-1`: a limit below 128 MiB of memory, less than Debian needs to boot",
        );
        check(
            |s| s.authorized_keys = vec!["ssh-ed25519 A\nssh-ed25519 B".into()],
            "host `cp-1`: an authorized key has to be one line of text",
        );
        check(
            |s| s.binds = vec![Bind::read_only("/etc", "/x"), Bind::writable("/usr", "/x")],
            "host `cp-1`: /x is bound twice or is the root",
        );
        check(
            |s| s.binds = vec![Bind::read_only("/no/such", "/x")],
            "host `cp-1`: /no/such does not exist on this machine",
        );
        check(
            |s| s.data_dirs = vec!["/a/b".into(), "/a-b".into()],
            "host `cp-1`: two data directories whose names differ only in `/` and `-`",
        );
        check(
            |s| s.layers = vec!["usr".into()],
            "cannot use the path `usr`: it has to be absolute",
        );
        check(
            |s| s.binds = vec![Bind::read_only("/etc:/usr", "/x")],
            "cannot use the path `/etc:/usr`: it must not hold white space, control characters, quotes, `:`, `,` or `\\`",
        );
        check(
            |s| s.data_dirs = vec!["/var/../etc".into()],
            "cannot use the path `/var/../etc`: it must not hold `..`",
        );
    }

    #[test]
    fn the_first_difference_is_named() {
        let mut other = host();
        assert_eq!(host().difference(&other), None);
        other.data_dirs.push("/var/lib/containerd".into());
        assert_eq!(host().difference(&other), Some("set of data directories"));
    }
}
