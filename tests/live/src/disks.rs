//! Disks of hosts besides the one they boot from: loop devices of this machine. Local hosts have no udev, so that a service on the host does what
//! udev would do about that one disk, and systemd's check of file systems waits for it as it waits for a device elsewhere. Start at [`Disk::attach`].

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{
    bare::Bare,
    stage::{Stage, finish, said},
};

/// Room for etcd; nothing of it is written before somebody needs it.
const BYTES: u64 = 2 << 30;

/// `systemd-fsck@.service` without the device, which systemd does not know here. It waits like one.
const FSCK: &str = "[Unit]
Description=File system check on %f
DefaultDependencies=no
Before=shutdown.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStartPre=/bin/sh -c 'until [ -e \"%f\" ]; do sleep 0.1; done'
ExecStart=/usr/lib/systemd/systemd-fsck %f
TimeoutSec=90
";

const UNIT: &str = "[Unit]
Description=What udev does about one disk
DefaultDependencies=no
Before=shutdown.target
Conflicts=shutdown.target
[Service]
ExecStart=/bin/sh /usr/local/sbin/one-disk
[Install]
WantedBy=sysinit.target
";

/// The node, a link by the disk's name, and one by the file system on it, also when that is made later.
const SCRIPT: &str = "\
[ -b DEVICE ] || mknod -m 660 DEVICE b MAJOR MINOR
mkdir -p $(dirname NAME) /dev/disk/by-uuid
ln -sf DEVICE NAME
while :; do
  uuid=$(blkid -p -s UUID -o value DEVICE) && ln -sf DEVICE /dev/disk/by-uuid/$uuid
  sleep 0.2
done
";

/// Until it is dropped, or as long as it is mounted.
pub struct Disk {
    device: String,
}

impl Disk {
    /// Gives a host an empty disk that is known there by that name.
    pub fn attach(stage: &Stage, hosts: &Bare, host: &str, name: &str) -> Result<Self> {
        let file = stage.directory.join(format!("{host}.disk"));
        File::create(&file)?.set_len(BYTES)?;
        let found = finish(
            Command::new("losetup")
                .args(["--find", "--show"])
                .arg(&file),
        )?;
        ensure!(found.status.success(), "losetup: {}", said(&found));
        let disk = Self {
            device: said(&found).trim().to_owned(),
        };
        let number = fs::metadata(&disk.device)?.rdev();
        let script = SCRIPT
            .replace("DEVICE", &disk.device)
            .replace("NAME", name)
            .replace("MAJOR", &nix::sys::stat::major(number).to_string())
            .replace("MINOR", &nix::sys::stat::minor(number).to_string());
        for (path, text) in [
            ("/etc/systemd/system/systemd-fsck@.service", FSCK),
            ("/etc/systemd/system/one-disk.service", UNIT),
            ("/usr/local/sbin/one-disk", &script),
        ] {
            hosts
                .run(host, &format!("cat >{path} <<'END'\n{text}END"))
                .with_context(|| format!("{path} of {host}"))?;
        }
        let until = format!("until [ -b {name} ]; do sleep 0.1; done");
        hosts.run(
            host,
            &format!("systemctl daemon-reload; systemctl enable --now one-disk; timeout 20 sh -c '{until}'"),
        )?;
        Ok(disk)
    }

    /// What of this host's etcd lies on the disk that has this name there, says the host's kernel.
    pub fn holds_etcd(hosts: &Bare, host: &str, name: &str) -> bool {
        let mounted = format!("$(stat -Lc '%Hr:%Lr' {name})");
        let places = ["/var/lib/quorate/etcd", "/var/lib/etcd"];
        places.iter().all(|place| {
            hosts.holds(
                host,
                &format!("[ \"$(findmnt -rno MAJ:MIN {place})\" = \"{mounted}\" ]"),
            )
        }) && hosts.holds(host, "[ -d /var/lib/etcd/member ]")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // One that is mounted is detached when its host has gone.
        let detached = Command::new("losetup").arg("-d").arg(&self.device).status();
        if !detached.is_ok_and(|status| status.success()) {
            eprintln!("{} was not detached", self.device);
        }
    }
}
