//! What the machine must have: Debian packages and toolchains. Missing packages are named before they are installed.

use std::process::Command;

use anyhow::{Result, bail};

use crate::progress::Progress;

/// A Debian package and the program whose presence shows it.
struct Package {
    name: &'static str,
    shows: &'static str,
    why: &'static str,
}

/// Everything that local hosts, the bundle and their tests call.
const PACKAGES: &[Package] = &[
    Package {
        name: "debootstrap",
        shows: "debootstrap",
        why: "makes the system of local hosts",
    },
    Package {
        name: "systemd-container",
        shows: "systemd-nspawn",
        why: "boots local hosts",
    },
    Package {
        name: "nftables",
        shows: "nft",
        why: "cuts and mends traffic; part of kube-proxy's image",
    },
    Package {
        name: "iptables",
        shows: "iptables",
        why: "part of kube-proxy's and Flannel's images",
    },
    Package {
        name: "iproute2",
        shows: "ip",
        why: "bridges and addresses",
    },
    Package {
        name: "conntrack",
        shows: "conntrack",
        why: "part of kube-proxy's image",
    },
    Package {
        name: "openssh-client",
        shows: "ssh",
        why: "the way to every host",
    },
    Package {
        name: "openssh-server",
        shows: "sshd",
        why: "tests of host keys on loopback",
    },
    Package {
        name: "gcc",
        shows: "gcc",
        why: "builds Flannel and the pause program",
    },
];

/// What an environment can and cannot run.
#[derive(Debug)]
pub struct Machine {
    /// Missing packages, by name.
    pub missing: Vec<&'static str>,
    /// Runs as root.
    pub root: bool,
    /// `go` is there.
    pub go: bool,
}

impl Machine {
    /// Looks at this machine.
    pub fn look() -> Self {
        Self {
            missing: PACKAGES
                .iter()
                .filter(|package| !on_path(package.shows))
                .map(|package| package.name)
                .collect(),
            root: effective_root(),
            go: on_path("go"),
        }
    }

    /// Why real hosts cannot be made here. `None`: they can.
    pub fn obstacle(&self) -> Option<String> {
        if !self.root {
            Some("local hosts need root".into())
        } else if !self.go {
            Some("`go` is not on the PATH: the bundle is built from Go modules".into())
        } else if !self.missing.is_empty() {
            Some(format!(
                "Debian packages are missing: {}",
                self.missing.join(" ")
            ))
        } else {
            None
        }
    }
}

/// Says what will be installed and installs it.
///
/// # Errors
/// With `install` off when something is missing; otherwise when installing fails.
pub fn ensure_packages(progress: &mut Progress, install: bool) -> Result<()> {
    let machine = Machine::look();
    if machine.missing.is_empty() {
        progress.skip("Debian packages", "all there");
        return Ok(());
    }
    eprintln!("Debian packages that are missing:");
    for package in PACKAGES
        .iter()
        .filter(|package| machine.missing.contains(&package.name))
    {
        eprintln!("    {:<18} {}", package.name, package.why);
    }
    let line = format!(
        "apt-get install -y --no-install-recommends {}",
        machine.missing.join(" ")
    );
    if !install {
        bail!("packages are missing and --no-install was given; install them with: {line}");
    }
    if !machine.root {
        bail!("packages are missing and installing them needs root; run: sudo {line}");
    }
    // An update first: on a fresh machine the lists are empty or old.
    let script = format!("apt-get update -q && DEBIAN_FRONTEND=noninteractive {line}");
    progress.run("Debian packages", Command::new("sh").args(["-c", &script]))
}

/// Whether a program is on the PATH, or where Debian keeps administrators' programs.
pub fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|directory| directory.join(program).is_file())
}

fn effective_root() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status
                .lines()
                .find(|line| line.starts_with("Uid:"))?
                .to_owned();
            Some(line.split_whitespace().nth(2)? == "0")
        })
        .unwrap_or(false)
}
