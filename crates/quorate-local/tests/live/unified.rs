//! Hosts on cgroup v2, on a machine that has v1: this test starts itself again in a mount namespace in which only the
//! v2 hierarchy is mounted. The controllers the machine uses with v1 are missing there; everything else is as it is
//! on a machine with v2.

use std::process::Command;
use std::time::Duration;

use quorate_local::Power;

use crate::rig::{BOOT, Rig, processes, sh};

const INSIDE: &str = "QUORATE_LIVE_UNIFIED";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_run_on_cgroup_v2() {
    if std::env::var_os(INSIDE).is_some() {
        return scenario().await;
    }
    // Only to have said why it is skipped, and to wait for its turn.
    let Some(rig) = Rig::new().await else { return };
    let script = "mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec \"$@\"";
    let status = Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
            "sh",
        ])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", "unified::hosts_run_on_cgroup_v2", "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare");
    assert!(status.success(), "{status}");
    rig.assert_untouched();
}

async fn scenario() {
    let Some(rig) = Rig::new().await else {
        panic!("the outer test had a rig")
    };
    let (cluster, hosts) = rig.cluster("v2", 2).await;
    let one = &hosts[0];
    assert!(
        sh(&cluster, one, "cat /proc/self/mountinfo")
            .await
            .contains("/sys/fs/cgroup rw,nosuid,nodev,noexec,relatime")
    );
    let members = sh(&cluster, one, "cat /sys/fs/cgroup/init.scope/cgroup.procs").await;
    assert_eq!(members, "1", "the host sees its own cgroup as the root");

    cluster.freeze(one).await.expect("frozen");
    assert_eq!(
        cluster.hosts().await.expect("listed")[0].power,
        Power::Frozen
    );
    cluster
        .booted(one, Duration::from_millis(500))
        .await
        .expect_err("frozen");
    cluster.thaw(one).await.expect("thawed");
    cluster.booted(one, BOOT).await.expect("it goes on");

    let before = cluster.hosts().await.expect("listed")[0]
        .init
        .expect("a first process");
    sh(&cluster, one, "systemctl --no-block reboot").await;
    let start = std::time::Instant::now();
    while cluster.hosts().await.expect("listed")[0]
        .init
        .is_none_or(|init| init == before)
    {
        assert!(start.elapsed() < BOOT, "it did not reboot");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.booted(one, BOOT).await.expect("booted");

    cluster.freeze(one).await.expect("frozen");
    cluster.power_off(one).await.expect("off, though frozen");
    assert_eq!(
        processes(|text| text.contains("/cp-1") && text.contains("quorate-local/live-v2")).len(),
        0
    );
    cluster.power_on(one).await.expect("on");
    cluster.booted(one, BOOT).await.expect("booted");
    cluster.destroy().await.expect("destroyed");
    rig.assert_untouched();
}
