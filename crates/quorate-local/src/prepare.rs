//! What a host is given before its first boot: its identity, its keys, and the unit by which it prepares itself.
//! Begin at [`lay_out`]. Everything is plain files in the host's upper directory; nothing is mounted.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::error::{During, Result};
use crate::names::HostName;
use crate::spec::{HostSpec, Uplink};
use crate::store;
use crate::subnet::Subnet;

/// Where a host keeps what is ours.
const INSIDE: &str = "usr/local/lib/quorate-local";

/// Settings of the whole kernel, not of a namespace, that services write when they start and check what they wrote.
/// A host gets files of its own in their place: the service is content, and the machine stays as it is.
const PRIVATE_SETTINGS: &[&str] = &[
    "kernel/keys/root_maxbytes",
    "kernel/keys/root_maxkeys",
    "kernel/panic",
    "kernel/panic_on_oops",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
];

/// The release of the running kernel.
pub(crate) fn kernel_release() -> Result<String> {
    let names =
        nix::sys::utsname::uname().during("ask for the name of", Path::new("the kernel"))?;
    Ok(names.release().to_string_lossy().into_owned())
}

/// Writes a host's own files into `upper`, whose SSH host key is there already (see [`crate::ssh`]).
pub(crate) fn lay_out(
    upper: &Path,
    spec: &HostSpec,
    subnet: Subnet,
    uplink: Uplink,
    keys: &[String],
) -> Result<()> {
    let tree = Tree { top: upper };
    tree.dir("", 0o755)?;
    tree.file("etc/hostname", &format!("{}\n", spec.name), 0o644)?;
    tree.file("etc/hosts", &hosts_file(&spec.name, spec.address), 0o644)?;
    tree.file("etc/machine-id", &machine_id()?, 0o444)?;
    tree.file("etc/resolv.conf", &resolv_conf(subnet, uplink)?, 0o644)?;
    tree.dir("root", 0o700)?;
    tree.dir("root/.ssh", 0o700)?;
    tree.file(
        "root/.ssh/authorized_keys",
        &keys
            .iter()
            .map(|key| format!("{}\n", key.trim()))
            .collect::<String>(),
        0o600,
    )?;
    tree.file("etc/ssh/sshd_config.d/50-quorate-local.conf", SSHD, 0o644)?;
    tree.file(
        &format!("{INSIDE}/prepare"),
        &script(spec.address, subnet),
        0o755,
    )?;
    tree.file("etc/systemd/system/quorate-local.service", UNIT, 0o644)?;
    tree.dir("etc/systemd/system/sysinit.target.wants", 0o755)?;
    let link = upper.join("etc/systemd/system/sysinit.target.wants/quorate-local.service");
    store::remove_file(&link)?;
    std::os::unix::fs::symlink("../quorate-local.service", &link).during("create", &link)
}

/// Makes the directory of kernel modules for the running kernel: programs refuse to look for a module without it, and
/// an empty one keeps a host from loading modules into the machine. Before every boot, as the kernel may have changed.
pub(crate) fn modules_dir(upper: &Path) -> Result<()> {
    Tree { top: upper }.dir(&format!("usr/lib/modules/{}", kernel_release()?), 0o755)
}

/// A file tree with exact modes, whatever the umask.
struct Tree<'a> {
    top: &'a Path,
}

impl Tree<'_> {
    fn dir(&self, path: &str, mode: u32) -> Result<()> {
        let mut at = PathBuf::from(self.top);
        for part in Path::new(path).components() {
            at.push(part);
            if !at.exists() {
                store::public_dir(&at)?;
                fs::set_permissions(&at, fs::Permissions::from_mode(0o755))
                    .during("set the mode of", &at)?;
            }
        }
        store::public_dir(&at)?;
        fs::set_permissions(&at, fs::Permissions::from_mode(mode)).during("set the mode of", &at)
    }

    fn file(&self, path: &str, content: &str, mode: u32) -> Result<()> {
        if let Some(parent) = Path::new(path).parent().and_then(Path::to_str)
            && !self.top.join(parent).exists()
        {
            self.dir(parent, 0o755)?;
        }
        store::write(&self.top.join(path), content.as_bytes(), mode)
    }
}

fn hosts_file(name: &HostName, address: Ipv4Addr) -> String {
    format!("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n{address} {name}\n")
}

fn machine_id() -> Result<String> {
    let source = Path::new("/proc/sys/kernel/random/uuid");
    let uuid = fs::read_to_string(source).during("read", source)?;
    Ok(format!("{}\n", uuid.trim().replace('-', "")))
}

/// The machine's name servers for hosts that can reach them. Others get the machine itself, where nothing answers:
/// a refusal at once is better than a timeout, and programs that demand a name server have one.
fn resolv_conf(subnet: Subnet, uplink: Uplink) -> Result<String> {
    let nowhere = format!("nameserver {}\n", subnet.gateway());
    if uplink == Uplink::None {
        return Ok(nowhere);
    }
    let machine = store::read_optional(Path::new("/etc/resolv.conf"))?.unwrap_or_default();
    let usable = usable_resolvers(&machine);
    Ok(if usable.is_empty() { nowhere } else { usable })
}

/// The lines of a `resolv.conf` that mean the same in another network namespace.
fn usable_resolvers(text: &str) -> String {
    let mut kept = String::new();
    let mut servers = 0;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("nameserver"), Some(address))
                if address.parse().is_ok_and(|a: Ipv4Addr| !a.is_loopback()) =>
            {
                kept.push_str(&format!("nameserver {address}\n"));
                servers += 1;
            }
            (Some("search" | "options" | "domain"), Some(_)) => {
                kept.push_str(&format!("{}\n", line.trim()))
            }
            _ => {}
        }
    }
    if servers == 0 { String::new() } else { kept }
}

/// Keys only, and room for many connections at once: the default drops some of ten that begin together.
const SSHD: &str = "\
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication no
UseDNS no
MaxStartups 100:30:200
MaxSessions 100
";

const UNIT: &str = "\
[Unit]
Description=Prepare this local host
DefaultDependencies=no
Before=sysinit.target network-pre.target systemd-sysctl.service
Wants=network-pre.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh /usr/local/lib/quorate-local/prepare
";

fn script(address: Ipv4Addr, subnet: Subnet) -> String {
    let gateway = subnet.gateway();
    let settings = PRIVATE_SETTINGS.join(" ");
    let own = "/run/quorate-local/sys";
    let dirs = PRIVATE_SETTINGS
        .iter()
        .filter_map(|name| Some(format!("{own}/{}", name.rsplit_once('/')?.0)));
    let dirs = dirs
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect::<Vec<_>>()
        .join(" ");
    format!(
        r#"#!/bin/sh
set -u
ip -batch - <<END
link set lo up
address replace {address}/24 dev host0
link set host0 up
route replace default via {gateway}
END
# Asking for the gateway tells it where we are: who waits for us there need not ask again.
ping -c 1 -W 1 -q {gateway} >/dev/null 2>&1 &
# Containers expect mounts to spread, as on any booted machine.
mount --make-rshared /
# cgroup v1 can arrive read-only, but for what the init system manages itself.
while read -r _ _ _ _ at mode rest; do
  case "$mode $rest" in
    ro,*' - cgroup '*) mount -o remount,rw,bind "$at" ;;
  esac
done < /proc/self/mountinfo
# Settings of the whole machine: files of our own, with the machine's values.
mkdir -p {dirs}
for name in {settings}; do
  # Not by the shell's `read`: it takes one byte at a time, and these files give no second one.
  cat "/proc/sys/$name" > "{own}/$name" || continue
  mount --bind "{own}/$name" "/proc/sys/$name"
done
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_on_loopback_are_of_no_use_inside() {
        assert_eq!(
            usable_resolvers("nameserver 127.0.0.53\noptions edns0\n"),
            ""
        );
        let mixed =
            "# made by hand\nsearch example.org\nnameserver 127.0.0.1\nnameserver 192.0.2.53\n";
        assert_eq!(
            usable_resolvers(mixed),
            "search example.org\nnameserver 192.0.2.53\n"
        );
    }

    #[test]
    fn a_host_is_laid_out_with_exact_modes_and_can_be_laid_out_again() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let upper = dir.path().join("upper");
        let subnet: Subnet = "172.30.7.0/24".parse().expect("a subnet");
        let spec = HostSpec::new("cp-1".parse().expect("a name"), subnet.host(11));
        for _ in 0..2 {
            lay_out(
                &upper,
                &spec,
                subnet,
                Uplink::None,
                &["ssh-ed25519 AAAA me\n".to_owned()],
            )
            .expect("laid out");
        }
        let mode = |path: &str| {
            fs::metadata(upper.join(path))
                .expect(path)
                .permissions()
                .mode()
                & 0o7777
        };
        assert_eq!(mode(""), 0o755);
        assert_eq!(mode("etc"), 0o755);
        assert_eq!(mode("root"), 0o700);
        assert_eq!(mode("root/.ssh"), 0o700);
        assert_eq!(mode("root/.ssh/authorized_keys"), 0o600);
        let read = |path: &str| fs::read_to_string(upper.join(path)).expect(path);
        assert_eq!(read("root/.ssh/authorized_keys"), "ssh-ed25519 AAAA me\n");
        assert_eq!(read("etc/resolv.conf"), "nameserver 172.30.7.1\n");
        assert_eq!(read("etc/machine-id").trim().len(), 32);
        assert!(read("etc/hosts").ends_with("172.30.7.11 cp-1\n"));
        // Read through the link: it points at the unit.
        assert_eq!(
            read("etc/systemd/system/sysinit.target.wants/quorate-local.service"),
            UNIT
        );
    }

    #[test]
    fn the_script_is_a_script() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("prepare");
        fs::write(
            &file,
            script(
                Ipv4Addr::new(172, 30, 7, 11),
                "172.30.7.0/24".parse().expect("a subnet"),
            ),
        )
        .expect("written");
        crate::program::run("sh", [Path::new("-n"), &file]).expect("the shell can parse it");
        let text = fs::read_to_string(&file).expect("read");
        assert!(
            text.contains("\naddress replace 172.30.7.11/24 dev host0\n"),
            "{text}"
        );
        assert!(text.contains("mkdir -p /run/quorate-local/sys/kernel /run/quorate-local/sys/kernel/keys /run/quorate-local/sys/vm\n"), "{text}");
    }
}
