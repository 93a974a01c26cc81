//! Hosts on cgroup v2, on a machine that has v1: this test starts itself again in a mount namespace in which only the
//! v2 hierarchy is mounted. Controllers are missing there, as the machine uses them with v1; everything else is as it is
//! on a machine with v2.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use quorate_local::Power;

use crate::rig::{BOOT, Rig, others_have_clusters, processes, sh};

/// Where a machine with v1 mounts v2 beside it.
const UNIFIED: &str = "/sys/fs/cgroup/unified";

const INSIDE: &str = "QUORATE_LIVE_UNIFIED";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_run_on_cgroup_v2() {
    if std::env::var_os(INSIDE).is_some() {
        return scenario().await;
    }
    let Some(rig) = Rig::new().await else { return };
    if !Path::new(UNIFIED).is_dir() {
        eprintln!("note: this machine has cgroup v2 alone, so all other tests run on it");
        return;
    }
    let before = passed_on();
    let enter = "mount -t cgroup2 cgroup2 /sys/fs/cgroup";
    rig.again("unified::hosts_run_on_cgroup_v2", INSIDE, &[], enter)
        .await;
    // The last destroy stops passing controllers on. With others' clusters on the machine, which use this hierarchy
    // too, the directory all clusters share is still there and holds on to them; they do not need them.
    for controller in passed_on().difference(&before) {
        assert!(others_have_clusters(), "`{controller}` is still passed on");
        for dir in ["quorate-local", ""] {
            let file = Path::new(UNIFIED).join(dir).join("cgroup.subtree_control");
            match std::fs::write(&file, format!("-{controller}")) {
                Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
                    panic!("{}: {err}", file.display())
                }
                _ => {}
            }
        }
    }
    assert_eq!(passed_on(), before);
}

/// The controllers the root passes on.
fn passed_on() -> BTreeSet<String> {
    let file = Path::new(UNIFIED).join("cgroup.subtree_control");
    let text = std::fs::read_to_string(&file).expect("controllers");
    text.split_whitespace().map(str::to_owned).collect()
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
    // Beside the first process there may be one that it has just forked, and that goes to a unit of its own.
    let start = std::time::Instant::now();
    loop {
        let members = sh(&cluster, one, "cat /sys/fs/cgroup/init.scope/cgroup.procs").await;
        if members == "1" {
            break;
        }
        assert!(
            start.elapsed() < BOOT && members.lines().next() == Some("1"),
            "the host sees its own cgroup as the root: {members}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

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
