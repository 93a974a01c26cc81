//! What hosts reach beyond the machine, in a network of the test's own: it starts itself again in a network namespace
//! that stands for the machine, joined to another one that stands for the world. So no setting of the real machine is
//! changed, and no packet leaves it.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use quorate_local::{Cluster, ClusterSpec, HostSpec, Uplink};

use crate::rig::{BOOT, Rig, host, said, setting, sh};

const INSIDE: &str = "QUORATE_LIVE_UPLINK";

/// A view of the kernel that fits the new network namespace, with the same cgroups.
const ENTER: &str = "mkdir \"$SCRATCH/cgroup\"
mount --rbind /sys/fs/cgroup \"$SCRATCH/cgroup\"
mount -t sysfs sysfs /sys
mount --rbind \"$SCRATCH/cgroup\" /sys/fs/cgroup
ip link set lo up";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_hosts_with_an_uplink_reach_the_world() {
    if std::env::var_os(INSIDE).is_some() {
        return scenario().await;
    }
    let Some(rig) = Rig::new().await else { return };
    rig.again(
        "uplink::only_hosts_with_an_uplink_reach_the_world",
        INSIDE,
        &["--net"],
        ENTER,
    )
    .await;
}

/// A network beyond the machine, with a server that tells each client its address.
struct World {
    namespace: Child,
    server: Child,
}

impl World {
    fn new(rig: &Rig) -> World {
        let namespace = Command::new("unshare")
            .args(["--net", "sleep", "600"])
            .spawn()
            .expect("a namespace");
        let pid = namespace.id().to_string();
        let own = std::fs::read_link("/proc/self/ns/net").expect("our namespace");
        let start = Instant::now();
        while std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|theirs| theirs == own) {
            assert!(start.elapsed() < BOOT, "unshare did not unshare");
            std::thread::sleep(Duration::from_millis(5));
        }
        let run = |line: &str| {
            let words: Vec<_> = line.split(' ').collect();
            let status = Command::new(words[0])
                .args(&words[1..])
                .status()
                .expect(words[0]);
            assert!(status.success(), "{line}: {status}");
        };
        run(&format!(
            "ip link add world type veth peer name machine netns {pid}"
        ));
        run("ip address add 198.51.100.1/24 dev world");
        run("ip link set world up");
        run(&format!(
            "nsenter --target {pid} --net ip address add 198.51.100.2/24 dev machine"
        ));
        run(&format!(
            "nsenter --target {pid} --net ip link set machine up"
        ));
        let server = Command::new("nsenter")
            .args(["--target", &pid, "--net", "chroot"])
            .arg(rig.base.rootfs())
            .args([
                "socat",
                "TCP4-LISTEN:8080,reuseaddr,fork",
                "SYSTEM:echo $SOCAT_PEERADDR",
            ])
            .stdin(Stdio::null())
            .spawn()
            .expect("a server");
        while !said(
            "nsenter",
            &["--target", &pid, "--net", "cat", "/proc/net/tcp"],
        )
        .contains(":1F90 ")
        {
            assert!(start.elapsed() < BOOT, "the server does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        World { namespace, server }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The kernel takes the cable away some time after the namespace's end; whoever compares next must not see it.
        let _ = Command::new("ip")
            .args(["link", "delete", "world"])
            .status();
        for child in [&mut self.server, &mut self.namespace] {
            child.kill().and_then(|()| child.wait()).expect("killed");
        }
    }
}

async fn booted(rig: &Rig, name: &str, uplink: Uplink) -> Cluster {
    let spec = ClusterSpec {
        uplink,
        ..rig.spec(name)
    };
    let cluster = rig.local.create(&rig.base, &spec).await.expect("a cluster");
    let host = HostSpec::new(host("cp-1"), cluster.subnet().host(11));
    cluster.create_host(&host).await.expect("a host");
    cluster.power_on(&host.name).await.expect("power");
    cluster
        .booted(&host.name, BOOT)
        .await
        .expect("an answer by SSH");
    cluster
}

async fn scenario() {
    let Some(rig) = Rig::new().await else {
        panic!("the outer test had a rig")
    };
    let world = World::new(&rig);
    let asked =
        "socat -u TCP4:198.51.100.2:8080,connect-timeout=2 - 2>/dev/null || echo unreachable";
    let cp1 = host("cp-1");
    assert_eq!(setting("net.ipv4.ip_forward"), "0");

    let closed = booted(&rig, "closed", Uplink::None).await;
    assert_eq!(setting("net.ipv4.ip_forward"), "0");
    let spec = ClusterSpec {
        uplink: Uplink::Nat,
        ..rig.spec("open")
    };
    let planned = rig.local.machine_changes(&spec).await.expect("planned");
    let planned: Vec<_> = planned
        .iter()
        .map(|c| format!("{}: {} -> {}", c.what, c.from, c.to))
        .collect();
    assert_eq!(planned, ["net.ipv4.ip_forward: 0 -> 1"]);
    let open = booted(&rig, "open", Uplink::Nat).await;
    assert_eq!(setting("net.ipv4.ip_forward"), "1");

    // The world sees the machine, not the host. And a machine that forwards does not do so for everybody.
    assert_eq!(sh(&open, &cp1, asked).await, "198.51.100.1");
    assert_eq!(sh(&closed, &cp1, asked).await, "unreachable");

    assert_eq!(open.destroy().await.expect("destroyed").restored, []);
    let last = closed.destroy().await.expect("destroyed").restored;
    assert_eq!(
        last.iter().map(|c| c.what.to_string()).collect::<Vec<_>>(),
        ["net.ipv4.ip_forward"]
    );
    assert_eq!(setting("net.ipv4.ip_forward"), "0");
    drop(world);
    rig.assert_untouched();
}
