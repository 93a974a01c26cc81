//! Hardware, system, identity, kernel settings.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use nix::{ifaddrs::getifaddrs, sys::statvfs::statvfs};
use quorate_plan::observation::{Cgroup, Machine};

use crate::{
    durable::{self, FileError},
    paths::Paths,
};

/// Kernel settings that are always looked at; those that Quorate set are looked at too.
const SYSCTLS: [&str; 4] = [
    "net.ipv4.ip_forward",
    "net.bridge.bridge-nf-call-iptables",
    "fs.inotify.max_user_instances",
    "fs.inotify.max_user_watches",
];

/// Where Quorate's kernel settings are kept over boots.
pub(crate) const SYSCTL_FILE: &str = "/etc/sysctl.d/90-quorate.conf";

/// CAP_SYS_RESOURCE: without it OOM scores cannot be lowered and limits not raised.
const CAP_SYS_RESOURCE: u32 = 24;

pub(super) fn look(paths: &Paths, binary: &str) -> Result<Machine, FileError> {
    let machine_id = word(paths, "/etc/machine-id")?;
    let status = text(paths, "/proc/self/status")?;
    let meminfo = text(paths, "/proc/meminfo")?;
    let os = text(paths, "/etc/os-release")?;
    let cgroup = if paths.at("/sys/fs/cgroup/cgroup.controllers").exists() {
        Cgroup::V2
    } else {
        Cgroup::V1
    };
    Ok(Machine {
        machine_id,
        boot_id: word(paths, "/proc/sys/kernel/random/boot_id")?,
        hostname: word(paths, "/proc/sys/kernel/hostname")?,
        arch: std::env::consts::ARCH.to_owned(),
        os: os_name(&os),
        kernel: word(paths, "/proc/sys/kernel/osrelease")?,
        systemd: systemd(paths),
        cpus: std::thread::available_parallelism()
            .map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
        memory_bytes: memory(&meminfo),
        disk_free_bytes: free(&paths.at("/var/lib"))?,
        cgroup,
        oom_score_adjustable: has_capability(&status, CAP_SYS_RESOURCE),
        swap: text(paths, "/proc/swaps")?.lines().count() > 1,
        clock_ms: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
        addresses: addresses(),
        binary: binary.to_owned(),
    })
}

pub(super) fn sysctls(paths: &Paths) -> Result<BTreeMap<String, String>, FileError> {
    let kept = durable::read_text(&paths.at(SYSCTL_FILE))?.unwrap_or_default();
    let own = parse_sysctls(&kept);
    let names: BTreeSet<&str> = SYSCTLS
        .into_iter()
        .chain(own.keys().map(String::as_str))
        .collect();
    let mut seen = BTreeMap::new();
    for name in names {
        if let Some(value) = sysctl(paths, name)? {
            seen.insert(name.to_owned(), value);
        }
    }
    Ok(seen)
}

/// The value of a kernel setting; `None` when this kernel has no such setting.
pub(crate) fn sysctl(paths: &Paths, name: &str) -> Result<Option<String>, FileError> {
    let value = durable::read_text(&sysctl_path(paths, name))?;
    Ok(value.map(|value| value.split_whitespace().collect::<Vec<_>>().join(" ")))
}

/// Where a kernel setting is read and written.
pub(crate) fn sysctl_path(paths: &Paths, name: &str) -> std::path::PathBuf {
    paths.at("/proc/sys").join(name.replace('.', "/"))
}

/// The settings in the text of a sysctl.d file.
pub(crate) fn parse_sysctls(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with(['#', ';']))
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .collect()
}

fn text(paths: &Paths, path: &'static str) -> Result<String, FileError> {
    let path = paths.at(path);
    durable::read_text(&path)?
        .ok_or_else(|| FileError::new("read", &path)(std::io::ErrorKind::NotFound.into()))
}

fn word(paths: &Paths, path: &'static str) -> Result<String, FileError> {
    Ok(crate::shown::line(&text(paths, path)?))
}

fn os_name(release: &str) -> String {
    let field = |name: &str| {
        release
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .map(|value| value.trim_matches(['"', '\'']))
            .unwrap_or_default()
    };
    crate::shown::line(&format!("{} {}", field("ID"), field("VERSION_ID")))
}

/// systemd's version, when it is PID 1: its own library carries it in its name.
fn systemd(paths: &Paths) -> Option<u32> {
    let maps = durable::read_text(&paths.at("/proc/1/maps")).ok()??;
    systemd_version(&maps)
}

fn systemd_version(maps: &str) -> Option<u32> {
    let (_, rest) = maps
        .split_once("libsystemd-shared-")
        .or_else(|| maps.split_once("libsystemd-core-"))?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn memory(meminfo: &str) -> u64 {
    let kib = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}

fn free(path: &Path) -> Result<u64, FileError> {
    let fs =
        statvfs(path).map_err(|err| FileError::new("read the free space of", path)(err.into()))?;
    Ok(fs.blocks_available() * fs.fragment_size())
}

fn has_capability(status: &str, number: u32) -> bool {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|set| set >> number & 1 == 1)
}

/// Addresses of all interfaces but the loopback. None where the kernel does not tell.
pub(crate) fn addresses() -> BTreeSet<IpAddr> {
    let Ok(interfaces) = getifaddrs() else {
        return BTreeSet::new();
    };
    interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        })
        .filter(|address| !address.is_loopback())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_machine_from_its_files() {
        let machine = testing::machine();
        for (path, text) in [
            ("/etc/machine-id", "0123456789abcdef\n"),
            (
                "/etc/os-release",
                "NAME=\"x\"\nID=debian\nVERSION_ID=\"12\"\n",
            ),
            ("/proc/self/status", "Name:\tx\nCapEff:\t0000000001000000\n"),
            ("/proc/meminfo", "MemTotal:       2048 kB\nMemFree: 1 kB\n"),
            ("/proc/swaps", "Filename Type Size\n"),
            ("/proc/sys/kernel/random/boot_id", "b\n"),
            ("/proc/sys/kernel/hostname", "cp-1\n"),
            ("/proc/sys/kernel/osrelease", "6.1\n"),
            (
                "/proc/1/maps",
                "7f /usr/lib/x86_64-linux-gnu/systemd/libsystemd-shared-252.so\n",
            ),
            ("/sys/fs/cgroup/cgroup.controllers", "cpu\n"),
            ("/var/lib/x", ""),
        ] {
            machine.write(path, text);
        }
        let seen = look(&machine.paths, "hash").unwrap();
        assert_eq!(seen.machine_id, "0123456789abcdef");
        assert_eq!(seen.os, "debian 12");
        assert_eq!(seen.systemd, Some(252));
        assert_eq!(seen.memory_bytes, 2 << 20);
        assert_eq!(seen.cgroup, Cgroup::V2);
        assert!(seen.oom_score_adjustable && !seen.swap);
        assert!(seen.disk_free_bytes > 0 && seen.cpus > 0);
        std::fs::remove_file(machine.paths.at("/proc/swaps")).unwrap();
        let err = look(&machine.paths, "hash").unwrap_err();
        assert!(err.to_string().contains("/proc/swaps"), "{err}");
    }

    #[test]
    fn settings_of_the_kernel_and_of_our_file() {
        let machine = testing::machine();
        machine.write("/proc/sys/net/ipv4/ip_forward", "1\n");
        machine.write("/proc/sys/kernel/x", "1\t2\n");
        machine.write("/proc/sys/kernel/unnamed", "1\n");
        machine.write(SYSCTL_FILE, "# ours\nkernel.x = 1 2\nkernel.gone=1\n");
        let seen = sysctls(&machine.paths).unwrap();
        let expected = [("kernel.x", "1 2"), ("net.ipv4.ip_forward", "1")];
        assert_eq!(
            seen,
            expected.map(|(n, v)| (n.to_owned(), v.to_owned())).into()
        );
    }

    #[test]
    fn capabilities() {
        assert!(has_capability("CapEff:\t0000000001000000", 24));
        assert!(!has_capability("CapEff:\t0000000000ffffff", 24));
        assert!(!has_capability("CapEff:\tzz", 24));
    }
}
