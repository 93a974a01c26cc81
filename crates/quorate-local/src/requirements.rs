//! What the machine must have before there can be local hosts. Begin at [`missing_packages`]; [`check`] adds root,
//! the overlay file system and room.

use std::path::{Path, PathBuf};

use crate::error::{During, Error, Result};
use crate::program::PATH;

/// A Debian package that is needed and whose file was not found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MissingPackage {
    /// The package's name in Debian.
    pub package: &'static str,
    /// The program or file of it that was looked for.
    pub file: &'static str,
}

/// Every program called, with its Debian package. A name with a slash is a file, not a program.
const NEEDED: &[(&str, &str)] = &[
    ("debootstrap", "debootstrap"),
    (
        "debian-archive-keyring",
        "/usr/share/keyrings/debian-archive-keyring.gpg",
    ),
    ("systemd-container", "systemd-nspawn"),
    ("nftables", "nft"),
    ("iproute2", "ip"),
    ("openssh-client", "ssh-keygen"),
    ("util-linux", "nsenter"),
    ("util-linux", "unshare"),
    ("util-linux", "setsid"),
    ("util-linux", "flock"),
    ("mount", "mount"),
    ("findutils", "find"),
];

/// Room a base image takes while it is built, in bytes: 350 MB when done, as much again in caches before that.
pub(crate) const BASE_DISK: u64 = 1 << 30;

/// Room a host should find, in bytes: its logs, its packages and a few container images.
pub(crate) const HOST_DISK: u64 = 512 << 20;

/// Memory a host should find free when it starts, in bytes: a booted one takes about 60 MB, the work in it the rest.
pub(crate) const HOST_MEMORY: u64 = 256 << 20;

/// The Debian packages that are needed and not installed, in order of package and file; empty when all are there.
///
/// It looks for the files only: works without root.
pub fn missing_packages() -> Vec<MissingPackage> {
    missing_in(|file| match file.starts_with('/') {
        true => Path::new(file).exists(),
        false => PATH
            .split(':')
            .any(|dir| Path::new(dir).join(file).exists()),
    })
}

fn missing_in(there: impl Fn(&str) -> bool) -> Vec<MissingPackage> {
    let absent = NEEDED.iter().filter(|(_, file)| !there(file));
    let mut missing: Vec<_> = absent
        .map(|&(package, file)| MissingPackage { package, file })
        .collect();
    missing.sort();
    missing.dedup_by(|a, b| a.package == b.package);
    missing
}

/// Root alone: enough to remove what there is.
pub(crate) fn root() -> Result<()> {
    match nix::unistd::geteuid().as_raw() {
        0 => Ok(()),
        uid => Err(Error::NotRoot { uid }),
    }
}

/// Root, programs, and a file system under `dir` that can carry overlays.
pub(crate) fn check(dir: &Path) -> Result<()> {
    root()?;
    let packages = missing_packages();
    if !packages.is_empty() {
        return Err(Error::Missing { packages });
    }
    overlay(dir)
}

fn overlay(root: &Path) -> Result<()> {
    let list = Path::new("/proc/filesystems");
    let known = std::fs::read_to_string(list).during("read", list)?;
    let built_in = known
        .lines()
        .any(|line| line.split_whitespace().last() == Some("overlay"));
    // As a module it is listed only once loaded, which mounting the first overlay does.
    let release = crate::prepare::kernel_release()?;
    let module = PathBuf::from(format!("/lib/modules/{release}/kernel/fs/overlayfs"));
    if !built_in && !module.is_dir() {
        return Err(Error::NoOverlay {
            path: root.to_owned(),
            why: "this kernel has no overlayfs, neither built in nor as a module",
        });
    }
    let place = existing_ancestor(root);
    let kind = nix::sys::statfs::statfs(place)
        .during("look at the file system of", place)?
        .filesystem_type();
    if kind == nix::sys::statfs::OVERLAYFS_SUPER_MAGIC {
        let why = "the directory itself lies on an overlay; choose one on a disk or tmpfs with QUORATE_LOCAL_DIR";
        return Err(Error::NoOverlay {
            path: root.to_owned(),
            why,
        });
    }
    Ok(())
}

/// Refuses when fewer than `needed` bytes are free for root where `root` lies.
pub(crate) fn disk(root: &Path, needed: u64, what: &'static str) -> Result<()> {
    let place = existing_ancestor(root);
    let stat = nix::sys::statvfs::statvfs(place).during("look at the file system of", place)?;
    let free = stat.blocks_free().saturating_mul(stat.fragment_size());
    if free < needed {
        return Err(Error::DiskTooSmall {
            path: root.to_owned(),
            what,
            free_bytes: free,
            needed_bytes: needed,
        });
    }
    Ok(())
}

/// `MemAvailable` of the machine, in bytes; `None` when the kernel does not tell.
pub(crate) fn memory_available() -> Result<Option<u64>> {
    let path = Path::new("/proc/meminfo");
    Ok(available_in(
        &std::fs::read_to_string(path).during("read", path)?,
    ))
}

fn available_in(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

fn existing_ancestor(path: &Path) -> &Path {
    path.ancestors()
        .find(|p| p.exists())
        .unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_named_once() {
        let missing = missing_in(|file| !["nft", "nsenter", "unshare"].contains(&file));
        let names: Vec<_> = missing.iter().map(|m| m.package).collect();
        assert_eq!(names, ["nftables", "util-linux"]);
        assert!(missing_in(|_| true).is_empty());
    }

    #[test]
    fn meminfo_is_read_in_bytes() {
        assert_eq!(
            available_in("MemTotal: 9 kB\nMemAvailable:   24000 kB\n"),
            Some(24_576_000)
        );
        assert_eq!(available_in("MemTotal: 9 kB\n"), None);
    }

    #[test]
    fn room_is_judged_on_the_nearest_directory_that_exists() {
        disk(Path::new("/no/such/directory"), 1, "test").expect("the root file system has a byte");
        let err = disk(Path::new("/no/such/directory"), u64::MAX, "hold everything")
            .expect_err("too much");
        assert!(
            matches!(
                err,
                Error::DiskTooSmall {
                    needed_bytes: u64::MAX,
                    ..
                }
            ),
            "{err}"
        );
    }
}
