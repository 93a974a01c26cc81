//! The base image every host lies on: a Debian 12 made by debootstrap, once per machine, read-only ever after.
//! Begin at [`Base`]; [`apt`] finds the mirror, [`debootstrap`] knows that program.
//!
//! Debian 12, because its systemd (252) still boots on cgroup v1; later ones refuse.

pub(crate) mod apt;
mod debootstrap;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{During, Error, Result};
use crate::{requirements, store};

pub use debootstrap::Phase;

/// Raised when a base made before differs from one made now in anything but what [`inputs`] lists.
const RECIPE: u32 = 1;

const SUITE: &str = "bookworm";

/// What a host holds beyond Debian's minimal base: an init system, SSH, the tools of a machine that runs containers,
/// and Python for those who configure it with Ansible.
const PACKAGES: &[&str] = &[
    "ca-certificates",
    "conntrack",
    "curl",
    "dbus",
    "e2fsprogs",
    "ethtool",
    "iproute2",
    "iptables",
    "iputils-ping",
    "keepalived",
    "kmod",
    "nftables",
    "openssh-server",
    "procps",
    "python3",
    "runc",
    "socat",
    "sudo",
    "systemd",
    "systemd-sysv",
];

/// Units that would touch the machine (trace and debug file systems, kernel modules), wait for a login nobody makes,
/// or wake up in the middle of a measurement.
const MASKED: &[&str] = &[
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "console-getty.service",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty.target",
    "modprobe@.service",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
];

/// What differs from machine to machine or from host to host, and what only costs room.
const REMOVED: &[&str] = &[
    "etc/hostname",
    "etc/machine-id",
    "etc/resolv.conf",
    "var/lib/dbus/machine-id",
    "var/log/bootstrap.log",
    "var/log/dpkg.log",
    "var/log/alternatives.log",
];

/// A finished base image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    path: PathBuf,
    facts: BaseFacts,
}

/// What a base image says of itself, in its `base.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseFacts {
    /// The first 12 hex digits of the SHA-256 of what it was made from: recipe, suite, architecture, packages.
    pub id: String,
    /// Debian's version, as in its `/etc/debian_version`.
    pub debian: String,
    /// The packages asked for (not those they brought with them).
    pub packages: Vec<String>,
}

/// How far the base image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseProgress {
    /// What is being done.
    pub phase: Phase,
    /// How much of the whole is done, 0 to 100; never goes back.
    pub percent: u8,
    /// What is in hand, to be read after the phase: a package, mostly. May be empty.
    pub item: String,
}

impl Base {
    /// The base image in the directory `path`, which [`ensure`] made.
    pub(crate) fn at(path: &Path) -> Result<Base> {
        let not = |why: String| Error::NotABase {
            path: path.to_owned(),
            why,
        };
        let facts: BaseFacts = store::read_json(&path.join("base.json"))?
            .ok_or_else(|| not("it holds no base.json, which is written last".to_owned()))?;
        if !path.join("rootfs/usr").is_dir() {
            return Err(not("it holds no rootfs/usr".to_owned()));
        }
        Ok(Base {
            path: path.to_owned(),
            facts,
        })
    }

    /// The directory of the image.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The root of its file system.
    pub fn rootfs(&self) -> PathBuf {
        self.path.join("rootfs")
    }

    /// What it says of itself.
    pub fn facts(&self) -> &BaseFacts {
        &self.facts
    }
}

/// Everything a base image follows from, as text: two machines with equal inputs may share one.
fn inputs() -> String {
    let arch = std::env::consts::ARCH;
    let (packages, masked, removed) = (PACKAGES.join(","), MASKED.join(","), REMOVED.join(","));
    format!(
        "recipe {RECIPE}\nsuite {SUITE}\narch {arch}\npackages {packages}\nmasked {masked}\nremoved {removed}\n"
    )
}

/// The identity of the base image this program makes: a digest of [`inputs`].
pub(crate) fn id() -> String {
    let digest = Sha256::digest(inputs().as_bytes());
    digest[..6]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Finds the base image below `root`, or makes it: about two minutes and 350 MB, once.
///
/// Whoever asks while another makes it waits for that one. An interrupted build leaves a directory that the next
/// one removes.
pub(crate) fn ensure(
    root: &Path,
    mirror: Option<&str>,
    report: &mut dyn FnMut(BaseProgress),
) -> Result<Base> {
    let id = id();
    let path = root.join(format!("base-{id}"));
    if path.join("base.json").exists() {
        return Base::at(&path);
    }
    let lock_file = root.join("locks/base");
    let _lock = match store::Lock::try_exclusive(&lock_file)? {
        Some(lock) => lock,
        None => {
            report(BaseProgress {
                phase: Phase::Waiting,
                percent: 0,
                item: String::new(),
            });
            store::Lock::exclusive(&lock_file)?
        }
    };
    if path.join("base.json").exists() {
        return Base::at(&path);
    }
    requirements::disk(root, requirements::BASE_DISK, "build the base image")?;
    let partial = root.join(format!(".base-{id}.partial"));
    store::remove_tree(&partial)?;
    store::private_dir(&partial)?;
    let rootfs = partial.join("rootfs");
    let source = match mirror {
        Some(uri) => apt::Source::given(uri)?,
        None => apt::Source::of_this_machine(SUITE)?,
    };
    debootstrap::run(&source, SUITE, PACKAGES, &partial, &rootfs, report)?;
    report(BaseProgress {
        phase: Phase::Tidying,
        percent: 97,
        item: String::new(),
    });
    tidy(&rootfs)?;
    let version = rootfs.join("etc/debian_version");
    let debian = std::fs::read_to_string(&version)
        .during("read", &version)?
        .trim()
        .to_owned();
    let facts = BaseFacts {
        id,
        debian,
        packages: PACKAGES.iter().map(|&p| p.to_owned()).collect(),
    };
    store::write_json(&partial.join("base.json"), &facts)?;
    // Whatever lies at the final place has no base.json: a copy somebody broke off.
    store::remove_tree(&path)?;
    std::fs::rename(&partial, &path).during("rename into place", &path)?;
    report(BaseProgress {
        phase: Phase::Done,
        percent: 100,
        item: String::new(),
    });
    Ok(Base { path, facts })
}

fn tidy(rootfs: &Path) -> Result<()> {
    for name in REMOVED {
        store::remove_file(&rootfs.join(name))?;
    }
    for dir in [
        "var/cache/apt/archives",
        "var/lib/apt/lists",
        "var/log/journal",
    ] {
        let dir = rootfs.join(dir);
        for entry in store::entries(&dir)? {
            let entry = dir.join(entry);
            match entry.is_dir() {
                true => store::remove_tree(&entry)?,
                false => store::remove_file(&entry)?,
            }
        }
    }
    for cache in [
        "var/cache/apt/pkgcache.bin",
        "var/cache/apt/srcpkgcache.bin",
    ] {
        store::remove_file(&rootfs.join(cache))?;
    }
    // Keys made here would be the same on every host, and known to whoever can read this image.
    let ssh = rootfs.join("etc/ssh");
    for entry in store::entries(&ssh)?
        .iter()
        .filter(|name| name.starts_with("ssh_host_"))
    {
        store::remove_file(&ssh.join(entry))?;
    }
    let units = rootfs.join("etc/systemd/system");
    for unit in MASKED {
        let link = units.join(unit);
        store::remove_file(&link)?;
        std::os::unix::fs::symlink("/dev/null", &link).during("create", &link)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_follows_from_the_inputs_alone() {
        assert_eq!(id(), id());
        assert_eq!(id().len(), 12);
        assert!(inputs().contains("suite bookworm\n"), "{}", inputs());
        assert!(PACKAGES.is_sorted() && MASKED.is_sorted());
    }

    #[test]
    fn a_directory_without_its_last_file_is_no_base() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir_all(dir.path().join("rootfs/usr")).expect("created");
        let err = Base::at(dir.path()).expect_err("unfinished");
        let expect = format!(
            "{} is not a base image: it holds no base.json, which is written last",
            dir.path().display()
        );
        assert_eq!(err.to_string(), expect);
        let facts = BaseFacts {
            id: id(),
            debian: "12.0".to_owned(),
            packages: Vec::new(),
        };
        store::write_json(&dir.path().join("base.json"), &facts).expect("written");
        assert_eq!(Base::at(dir.path()).expect("finished").facts(), &facts);
    }

    #[test]
    fn tidying_removes_identities_and_can_be_repeated() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path();
        for file in [
            "etc/ssh/ssh_host_rsa_key",
            "etc/ssh/sshd_config",
            "etc/machine-id",
            "var/lib/apt/lists/x/y",
        ] {
            let file = root.join(file);
            std::fs::create_dir_all(file.parent().expect("a parent")).expect("created");
            std::fs::write(file, "x").expect("written");
        }
        std::fs::create_dir_all(root.join("etc/systemd/system")).expect("created");
        tidy(root).expect("tidied");
        tidy(root).expect("tidied again");
        assert_eq!(
            store::entries(&root.join("etc/ssh")).expect("listed"),
            ["sshd_config"]
        );
        assert!(
            !root.join("etc/machine-id").exists() && !root.join("var/lib/apt/lists/x").exists()
        );
        let masked =
            std::fs::read_link(root.join("etc/systemd/system/fstrim.timer")).expect("a link");
        assert_eq!(masked, Path::new("/dev/null"));
    }
}
