//! On a real block device: a loop device over a file, in a mount namespace of its own, systemd's part done by a script.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::PathBuf,
    process::{Command as Process, Stdio},
};

use quorate_plan::{Claim, NodeName, Observation, Seen, observation::Look};

use super::*;
use crate::{
    command::Tools,
    ensure::Progress,
    seal::Identity,
    testing::{self, Machine},
};

/// Set for the run of a test that is in a namespace of its own.
const INSIDE: &str = "QUORATE_TEST_IN_NAMESPACE";

const DEVICE: &str = "/dev/disk/by-id/etcd";

/// Reads the mount units as systemd would, below the test's root, and notes what it was asked.
const SYSTEMCTL: &str = r#"#!/bin/sh
root=$(dirname "$(dirname "$0")")
units=$root/etc/systemd/system
echo "$*" >> "$root/asked"
verb=$1
shift
value() { sed -n "s/^$1=//p" "$units/$2"; }
for unit in "$@"; do
  case $verb in
  start)
    where=$root$(value Where "$unit")
    mountpoint -q "$where" && continue
    mkdir -p "$where"
    what=$(value What "$unit")
    # Without udev nobody makes links by UUID.
    case $what in /dev/disk/by-uuid/*) what=/dev/disk/by-id/etcd ;; esac
    mount -t "$(value Type "$unit")" -o "$(value Options "$unit")" "$(readlink -f "$root$what")" "$where" || exit 1 ;;
  stop) umount "$root$(value Where "$unit")" || exit 1 ;;
  enable)
    mkdir -p "$units/multi-user.target.wants"
    ln -sf "../$unit" "$units/multi-user.target.wants/$unit" ;;
  esac
done
"#;

/// Whether this run is one in a namespace of its own. Otherwise one is started, of the test of that name, and it has to end well.
fn is_inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: {test}: only root has loop devices and mount namespaces");
        return false;
    }
    let name = format!("ensure::etcd_volume::tests::{test}");
    let status = Process::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(
        status.success(),
        "{test} in a namespace of its own: {status}"
    );
    false
}

/// A host with a disk for etcd.
struct Host {
    machine: Machine,
    tools: Tools,
    /// Detached when this is dropped.
    device: PathBuf,
    _folder: tempfile::TempDir,
}

impl Drop for Host {
    fn drop(&mut self) {
        for place in [facts::ETCD_DATA, TOP] {
            let _ = Process::new("umount")
                .arg(self.machine.paths.at(place))
                .stderr(Stdio::null())
                .status();
        }
        let _ = Process::new("losetup").arg("-d").arg(&self.device).status();
    }
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("disk");
        fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        let out = Process::new("losetup")
            .args(["--find", "--show"])
            .arg(&image)
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        let device = PathBuf::from(String::from_utf8(out.stdout).unwrap().trim());
        let mut host = Self {
            machine: testing::machine(),
            tools: Tools::default(),
            device,
            _folder: folder,
        };
        host.fit();
        host
    }

    /// Puts the disk and the tools into the machine.
    fn fit(&mut self) {
        let link = self.machine.paths.at(DEVICE);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(&self.device, link).unwrap();
        self.machine.write("/bin/systemctl", SYSTEMCTL);
        let bin = self.machine.paths.at("/bin");
        fs::set_permissions(bin.join("systemctl"), fs::Permissions::from_mode(0o755)).unwrap();
        self.tools.first = Some(bin);
        self.belongs_to("demo", "cp-1");
    }

    fn belongs_to(&self, cluster: &str, node: &str) {
        let mark =
            format!("{{\"cluster\":\"{cluster}\",\"node\":\"{node}\",\"disposable\":false}}");
        self.machine.write("/var/lib/quorate/mark.json", mark);
    }

    /// The machine goes, and another one gets its disk.
    fn made_anew(&mut self) {
        for place in [facts::ETCD_DATA, TOP] {
            self.run("umount", &[self.machine.paths.at(place).to_str().unwrap()]);
        }
        self.machine = testing::machine();
        self.fit();
    }

    fn run(&self, program: &str, args: &[&str]) {
        let out = Process::new(program)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{program}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
    }

    fn on_device(&self, program: &str, args: &[&str]) {
        let device = self.device.to_str().unwrap();
        let args: Vec<&str> = args.iter().copied().chain([device]).collect();
        self.run(program, &args);
    }

    async fn sees(&self) -> EtcdVolume {
        sight(
            &self.machine.paths,
            &self.tools,
            &EtcdDevice::named(DEVICE),
            TOOL_WITHIN,
        )
        .await
        .unwrap()
    }

    /// What a host does that is asked: a look of its own, and the action.
    async fn ensure(&self) -> Result<(), ActionError> {
        let paths = &self.machine.paths;
        let node: NodeName = "cp-1".parse().unwrap();
        let device = EtcdDevice::named(DEVICE);
        let look = Look {
            cluster: "demo".parse().unwrap(),
            endpoint: None,
            dns: None,
            etcd_device: Some(device.clone()),
            conversion: None,
        };
        let mut report = facts::report(paths, &look, "00", &facts::Heard::default()).await;
        // The look has tools of its own, which know no other systemctl.
        report.facts.etcd_volume = Seen::now(Some(self.sees().await));
        let mut seen = Observation::default();
        seen.record(&node, Seen::now(report));
        let intent = testing::intent();
        let claim = Claim {
            fence: quorate_plan::Fence(1),
            operator: quorate_plan::Operator {
                user: "ann".into(),
                machine: "desk".into(),
                pid: 1,
                run: "r".into(),
            },
            since: 0,
            intent,
        };
        let work = Work {
            paths,
            node: &node,
            seen: &seen,
            claim: &claim,
            tools: &self.tools,
            identity: &Identity::generate(),
            sealed: Vec::new(),
            receipt: None,
            progress: &Progress(tokio::sync::mpsc::unbounded_channel().0),
            patience: Duration::ZERO,
        };
        let peer = Peer {
            name: node.clone(),
            address: [10, 0, 0, 1].into(),
        };
        ensure(&work, &peer, &device).await
    }

    /// Refused, twice, for what has these words, with every byte of the disk as it was.
    async fn refuses(&self, words: &str) {
        let before = fs::read(&self.device).unwrap();
        for _ in 0..2 {
            let err = self.ensure().await.unwrap_err();
            assert!(matches!(err, ActionError::Refused(_)), "{err}");
            assert!(err.to_string().contains(words), "{err}");
        }
        assert!(
            fs::read(&self.device).unwrap() == before,
            "{words}: the disk was changed"
        );
        assert!(!self.machine.paths.unit(UNITS[0]).exists());
    }
}

fn in_place(volume: &EtcdVolume) -> bool {
    matches!(&volume.content, VolumeContent::InPlace { own: Some(own) } if own.lasts)
}

#[tokio::test]
async fn an_empty_disk_is_formatted_once_and_mounted_for_good() {
    if !is_inside("an_empty_disk_is_formatted_once_and_mounted_for_good") {
        return;
    }
    let host = Host::new();
    assert_eq!(host.sees().await.content, VolumeContent::Blank);
    host.ensure().await.unwrap();
    let first = host.sees().await;
    assert!(in_place(&first), "{first:?}");
    let data = host.machine.paths.at(facts::ETCD_DATA);
    assert!(
        fs::read_dir(&data).unwrap().next().is_none(),
        "no lost+found where etcd's data goes"
    );
    let mode = fs::metadata(&data).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);

    let note = host.machine.read("/var/lib/quorate/etcd-volume.json");
    host.machine
        .write("/var/lib/etcd/member/wal/0.wal", "of this member");
    host.ensure().await.unwrap();
    assert_eq!(host.sees().await, first);
    assert_eq!(host.machine.read("/var/lib/quorate/etcd-volume.json"), note);
    assert_eq!(
        host.machine
            .read("/var/lib/quorate/etcd/data/member/wal/0.wal"),
        "of this member"
    );

    // Somebody takes it out of what is mounted at boot.
    let link = host
        .machine
        .paths
        .unit("multi-user.target.wants")
        .join(UNITS[0]);
    fs::remove_file(&link).unwrap();
    assert!(!in_place(&host.sees().await));
    host.ensure().await.unwrap();
    assert!(in_place(&host.sees().await));

    // A boot that did not mount it: its own data is there again, nothing is moved or hidden.
    for place in [facts::ETCD_DATA, TOP] {
        host.run("umount", &[host.machine.paths.at(place).to_str().unwrap()]);
    }
    assert_eq!(host.sees().await.content, VolumeContent::Made);
    for _ in 0..2 {
        host.ensure().await.unwrap();
        assert_eq!(
            host.machine.read("/var/lib/etcd/member/wal/0.wal"),
            "of this member"
        );
    }
}

#[tokio::test]
async fn what_was_broken_off_goes_on() {
    if !is_inside("what_was_broken_off_goes_on") {
        return;
    }
    let host = Host::new();
    // After the note, before the file system; then after that.
    host.machine.write(
        "/var/lib/quorate/etcd-volume.json",
        "{\"uuid\":\"never made\"}",
    );
    assert_eq!(host.sees().await.content, VolumeContent::Blank);
    let uuid = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
    host.on_device("mkfs.ext4", &["-q", "-L", LABEL, "-U", uuid]);
    let note = format!("{{\"uuid\":\"{uuid}\"}}");
    host.machine
        .write("/var/lib/quorate/etcd-volume.json", &note);
    assert_eq!(host.sees().await.content, VolumeContent::Made);
    // Then with one of the two mounts.
    let [(top, text), ..] = lasting(uuid);
    write_unit(&host.machine.paths, top, &text).unwrap();
    host.run(
        host.machine.paths.at("/bin/systemctl").to_str().unwrap(),
        &["start", top],
    );
    for _ in 0..2 {
        host.ensure().await.unwrap();
        assert!(in_place(&host.sees().await));
    }
    assert!(
        host.machine
            .read("/etc/systemd/system/var-lib-quorate-etcd.mount")
            .contains(uuid),
        "it was not made anew"
    );
}

#[tokio::test]
async fn what_anybody_could_want_back_is_refused() {
    if !is_inside("what_anybody_could_want_back_is_refused") {
        return;
    }
    let host = Host::new();
    host.on_device("mkfs.ext4", &["-q", "-L", "photos"]);
    host.refuses("ext4 with the label `photos`").await;
    // With its magic wiped nobody knows it any more, and its bytes are there.
    host.on_device("wipefs", &["-q", "--all"]);
    host.refuses("bytes of something that nothing here knows")
        .await;
    host.run(
        "dd",
        &[
            "if=/dev/zero",
            &format!("of={}", host.device.display()),
            "bs=1M",
            "status=none",
            "count=64",
        ],
    );
    // A partition table, with one partition of Linux.
    let mut table = [0; 512];
    table[446..462].copy_from_slice(&[0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0, 1, 0]);
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    fs::write(&host.device, table).unwrap();
    host.refuses("dos").await;
    host.run(
        "dd",
        &[
            "if=/dev/zero",
            &format!("of={}", host.device.display()),
            "bs=1M",
            "status=none",
            "count=64",
        ],
    );
    // A blank one, over a member's data.
    host.machine.write("/var/lib/etcd/member/wal/0.wal", "x");
    host.refuses("a mount would hide").await;
    assert_eq!(host.machine.read("/var/lib/etcd/member/wal/0.wal"), "x");
}

#[tokio::test]
async fn the_disk_of_an_earlier_machine_is_taken_over_with_its_data_aside() {
    if !is_inside("the_disk_of_an_earlier_machine_is_taken_over_with_its_data_aside") {
        return;
    }
    let mut host = Host::new();
    host.ensure().await.unwrap();
    host.machine
        .write("/var/lib/etcd/member/wal/0.wal", "of the old member");
    host.made_anew();
    assert_eq!(host.sees().await.content, VolumeContent::Earlier);
    for _ in 0..2 {
        host.ensure().await.unwrap();
        assert!(in_place(&host.sees().await));
        assert!(
            fs::read_dir(host.machine.paths.at(facts::ETCD_DATA))
                .unwrap()
                .next()
                .is_none()
        );
        let aside = host
            .machine
            .paths
            .at("/var/lib/quorate/etcd/.quorate-aside");
        let kept: Vec<PathBuf> = fs::read_dir(aside)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        let [kept] = kept.as_slice() else {
            panic!("{kept:?}");
        };
        assert_eq!(
            fs::read_to_string(kept.join("data/member/wal/0.wal")).unwrap(),
            "of the old member"
        );
    }

    // The same disk in another cluster's machine, or another host's.
    for (cluster, node) in [("prod", "cp-1"), ("demo", "cp-2")] {
        host.made_anew();
        host.belongs_to(cluster, node);
        for _ in 0..2 {
            let err = host.ensure().await.unwrap_err();
            assert!(matches!(err, ActionError::Refused(_)), "{err}");
            assert!(
                err.to_string().contains("the disk of demo as cp-1"),
                "{err}"
            );
            assert!(!host.machine.paths.unit(UNITS[0]).exists());
            assert_eq!(
                host.sees().await.content,
                VolumeContent::Earlier,
                "not left mounted"
            );
        }
        // So that there is something to take from the next.
        host.belongs_to("demo", "cp-1");
        host.ensure().await.unwrap();
    }
}

#[tokio::test]
async fn what_somebody_mounted_himself_is_left_as_it_is() {
    if !is_inside("what_somebody_mounted_himself_is_left_as_it_is") {
        return;
    }
    let host = Host::new();
    host.on_device("mkfs.ext4", &["-q"]);
    let top = host.machine.paths.at("/mnt/etcd");
    let data = host.machine.paths.at(facts::ETCD_DATA);
    fs::create_dir_all(&top).unwrap();
    host.run(
        "mount",
        &[host.device.to_str().unwrap(), top.to_str().unwrap()],
    );
    // Not compared byte by byte: its own kernel writes to it.
    let err = host.ensure().await.unwrap_err();
    assert!(err.to_string().contains("mounted on"), "{err}");
    fs::create_dir_all(top.join("data")).unwrap();
    fs::create_dir_all(&data).unwrap();
    host.run(
        "mount",
        &[
            "--bind",
            top.join("data").to_str().unwrap(),
            data.to_str().unwrap(),
        ],
    );
    for _ in 0..2 {
        assert_eq!(
            host.sees().await.content,
            VolumeContent::InPlace { own: None }
        );
        host.ensure().await.unwrap();
    }
    assert!(
        !host.machine.paths.at("/asked").exists(),
        "systemd was asked for nothing"
    );
    host.run("umount", &[data.to_str().unwrap()]);
    host.run("umount", &[top.to_str().unwrap()]);
}
