//! Everything that can go wrong with local hosts. Begin at [`Error`]; every variant says what was expected, what was
//! seen and, where there is one, the next command.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::names::{BadName, BridgeName, ClusterName, HostName};
use crate::requirements::MissingPackage;
use crate::status::Power;
use crate::subnet::{BadSubnet, Subnet};

/// A failure to make, drive or remove local hosts.
///
/// Text that came from a program or a host's console is shortened and has its control characters escaped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Namespaces, cgroups and packet rules belong to root.
    #[error(
        "local hosts need root: this process runs as user {uid}; run the same command with sudo"
    )]
    NotRoot {
        /// The effective user of this process.
        uid: u32,
    },
    /// Programs of the machine that are not there.
    #[error("{}", missing_text(.packages))]
    Missing {
        /// The Debian packages to install, with the file each was looked for by.
        packages: Vec<MissingPackage>,
    },
    /// The kernel or the file system under the state directory cannot carry an overlay.
    #[error("no overlay file system for {}: {why}", .path.display())]
    NoOverlay {
        /// The state directory.
        path: PathBuf,
        /// What is in the way, and what helps.
        why: &'static str,
    },
    /// The kernel's cgroups are not mounted in a way known here.
    #[error("no usable cgroups at /sys/fs/cgroup: {why}")]
    NoCgroups {
        /// What was seen.
        why: String,
    },
    /// Not enough room in the state directory.
    #[error("{} has {} MiB free, {} MiB are needed to {what}; free some, or choose another directory with QUORATE_LOCAL_DIR",
        .path.display(), .free_bytes >> 20, .needed_bytes >> 20)]
    DiskTooSmall {
        /// The state directory.
        path: PathBuf,
        /// What the room is for.
        what: &'static str,
        /// Free for root, in bytes.
        free_bytes: u64,
        /// Needed, in bytes.
        needed_bytes: u64,
    },
    /// Not enough memory for one more host.
    #[error("{} MiB of memory are available, {} MiB are needed to start host `{host}`; power off others first",
        .available_bytes >> 20, .needed_bytes >> 20)]
    MemoryTooSmall {
        /// The host that was to start.
        host: HostName,
        /// `MemAvailable` of the machine, in bytes.
        available_bytes: u64,
        /// Needed, in bytes.
        needed_bytes: u64,
    },
    /// A name breaks its rule.
    #[error(transparent)]
    Name(#[from] BadName),
    /// A subnet breaks its rule.
    #[error(transparent)]
    Subnet(#[from] BadSubnet),
    /// A path that cannot be handed on to `mount` and `systemd-nspawn`.
    #[error("cannot use the path `{}`: {rule}", .path.display())]
    Path {
        /// The path as given.
        path: PathBuf,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// A specification that contradicts itself or its cluster.
    #[error("host `{host}`: {problem}")]
    Spec {
        /// The host specified.
        host: HostName,
        /// What is wrong.
        problem: String,
    },
    /// Another state directory on this machine has a cluster of that name.
    #[error("the name `{name}` is taken: a cluster of that name has its state in {}", .root.display())]
    NameTaken {
        /// The name asked for.
        name: ClusterName,
        /// The state directory of the one that has it.
        root: PathBuf,
    },
    /// The bridge belongs to somebody else.
    #[error("the bridge name `{bridge}` is taken by {by}")]
    BridgeTaken {
        /// The bridge asked for.
        bridge: BridgeName,
        /// Who has it.
        by: String,
    },
    /// The subnet overlaps something of this machine.
    #[error("the subnet {subnet} is taken: it overlaps {by}")]
    SubnetTaken {
        /// The subnet asked for.
        subnet: Subnet,
        /// The route, interface or cluster it overlaps.
        by: String,
    },
    /// Every subnet or bridge that could be chosen is in use.
    #[error("no free {what} is left on this machine; destroy a cluster, or choose one yourself")]
    NoneFree {
        /// "subnet" or "bridge name".
        what: &'static str,
    },
    /// A host's address is not one of its cluster's.
    #[error("{address} is no address for a host in {subnet}: expected {} to {}", .subnet.host(2), .subnet.host(254))]
    AddressOutside {
        /// The address asked for.
        address: Ipv4Addr,
        /// The cluster's subnet.
        subnet: Subnet,
    },
    /// Another host has the address.
    #[error("{address} is the address of host `{by}`")]
    AddressTaken {
        /// The address asked for.
        address: Ipv4Addr,
        /// The host that has it.
        by: HostName,
    },
    /// A cluster of that name exists and is another.
    #[error("cluster `{name}` exists with another {what}; destroy it first or choose another name")]
    ClusterDiffers {
        /// The cluster.
        name: ClusterName,
        /// The setting in which they differ, with both values.
        what: String,
    },
    /// A host of that name exists and is another.
    #[error("host `{name}` exists with another {what}; destroy it first or choose another name")]
    HostDiffers {
        /// The host.
        name: HostName,
        /// The setting in which they differ.
        what: &'static str,
    },
    /// There is no such cluster in this state directory.
    #[error("there is no cluster `{name}` in {}", .root.display())]
    NoSuchCluster {
        /// The name asked for.
        name: ClusterName,
        /// The state directory looked in.
        root: PathBuf,
    },
    /// There is no such host in the cluster.
    #[error("there is no host `{host}` in cluster `{cluster}`")]
    NoSuchHost {
        /// The name asked for.
        host: HostName,
        /// The cluster looked in.
        cluster: ClusterName,
    },
    /// The host is not in the state the action needs.
    #[error("host `{host}` is {power}, expected it to be {expected}")]
    WrongPower {
        /// The host.
        host: HostName,
        /// What it is.
        power: Power,
        /// What the action needs.
        expected: &'static str,
    },
    /// The base image a cluster was made on is gone.
    #[error("the base image at {} is gone, and the hosts of this cluster lie on it; destroy the cluster and make it again", .path.display())]
    BaseGone {
        /// Where it was.
        path: PathBuf,
    },
    /// What lies at the place of a base image is not one.
    #[error("{} is not a base image: {why}", .path.display())]
    NotABase {
        /// The directory.
        path: PathBuf,
        /// What was expected there.
        why: String,
    },
    /// A mirror that cannot be used.
    #[error("cannot use this Debian mirror: {rule}")]
    Mirror {
        /// The rule it breaks. The address itself may hold a password and is not repeated.
        rule: &'static str,
    },
    /// debootstrap did not finish.
    #[error("debootstrap failed ({status}); its last words:\n{tail}")]
    Debootstrap {
        /// Its exit status.
        status: String,
        /// The end of its output.
        tail: String,
    },
    /// A program of the machine failed.
    #[error("`{command}` failed ({status}): {said}")]
    Program {
        /// The command line.
        command: String,
        /// Its exit status.
        status: String,
        /// What it wrote to stderr.
        said: String,
    },
    /// A host did not start.
    #[error("host `{host}` did not start; the end of its console:\n{console}")]
    NotStarted {
        /// The host.
        host: HostName,
        /// The end of its console.
        console: String,
    },
    /// A host did not answer by SSH in time.
    #[error(
        "host `{host}` did not answer by SSH within {waited:?}: {last}; the end of its console:\n{console}"
    )]
    NotBooted {
        /// The host.
        host: HostName,
        /// How long was waited.
        waited: Duration,
        /// What the last attempt met.
        last: String,
        /// The end of its console.
        console: String,
    },
    /// Processes of a host outlived their SIGKILL, or a cgroup its processes.
    #[error(
        "{what} of host `{host}` did not go away within {waited:?}; run the same command again"
    )]
    Lingering {
        /// The host.
        host: HostName,
        /// What was still there.
        what: String,
        /// How long was waited.
        waited: Duration,
    },
    /// Something is mounted inside a directory that was to be removed.
    #[error("{} is a mount point inside what was to be removed; unmount it and run the same command again", .at.display())]
    Mounted {
        /// The mount point.
        at: PathBuf,
    },
    /// A state file does not hold what it should.
    #[error("cannot understand the state file {}", .path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What the parser met.
        #[source]
        source: serde_json::Error,
    },
    /// A kernel setting did not take.
    #[error("{what} is {seen} after {wanted} was written to it")]
    Setting {
        /// The setting.
        what: String,
        /// What was written.
        wanted: String,
        /// What was read back.
        seen: String,
    },
    /// The file system or the kernel refused.
    #[error("failed to {doing} {}", .path.display())]
    Io {
        /// The verb.
        doing: &'static str,
        /// The path.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}

/// `std::result::Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn missing_text(packages: &[MissingPackage]) -> String {
    let files: Vec<_> = packages.iter().map(|m| m.file).collect();
    let names: Vec<_> = packages.iter().map(|m| m.package).collect();
    format!(
        "not found on this machine: {}; run `apt-get install {}`",
        files.join(", "),
        names.join(" ")
    )
}

/// Adds what was being done, and to which path, to an I/O error.
pub(crate) trait During<T> {
    fn during(self, doing: &'static str, path: &Path) -> Result<T>;
}

impl<T> During<T> for std::io::Result<T> {
    fn during(self, doing: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| told(doing, path, source, nix::unistd::geteuid().as_raw()))
    }
}

/// What was denied to somebody who is not root was denied for that: the path says less.
fn told(doing: &'static str, path: &Path, source: std::io::Error, uid: u32) -> Error {
    if source.kind() == std::io::ErrorKind::PermissionDenied && uid != 0 {
        return Error::NotRoot { uid };
    }
    Error::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}

impl<T> During<T> for nix::Result<T> {
    fn during(self, doing: &'static str, path: &Path) -> Result<T> {
        self.map_err(std::io::Error::from).during(doing, path)
    }
}

/// The end of foreign text, at most `limit` bytes of it, with every control character but the line end escaped.
pub(crate) fn tail(text: &[u8], limit: usize) -> String {
    let end = &text[text.len().saturating_sub(limit)..];
    let mut shown = String::with_capacity(end.len());
    for c in String::from_utf8_lossy(end).chars() {
        match c {
            '\n' => shown.push('\n'),
            '\r' => {}
            c if c.is_control() => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_shortened_and_escaped() {
        assert_eq!(
            tail(b"one\r\ntwo\x1b[31m\x07\n", 100),
            "one\ntwo\\u{1b}[31m\\u{7}"
        );
        assert_eq!(tail(&[b'x'; 5000], 10), "xxxxxxxxxx");
        assert_eq!(tail(&[0xff, b'a'], 10), "\u{fffd}a");
    }

    #[test]
    fn what_is_denied_to_others_needs_root() {
        let denied = |uid| {
            let source = std::io::ErrorKind::PermissionDenied.into();
            told("read", Path::new("/x"), source, uid).to_string()
        };
        assert!(denied(1000).starts_with("local hosts need root: this process runs as user 1000"));
        assert_eq!(denied(0), "failed to read /x");
    }

    #[test]
    fn missing_programs_come_with_the_command_that_installs_them() {
        let err = Error::Missing {
            packages: vec![
                MissingPackage {
                    package: "systemd-container",
                    file: "systemd-nspawn",
                },
                MissingPackage {
                    package: "nftables",
                    file: "nft",
                },
            ],
        };
        assert_eq!(
            err.to_string(),
            "not found on this machine: systemd-nspawn, nft; run `apt-get install systemd-container nftables`"
        );
    }
}
