//! Local hosts as they are: booted, logged in to, unplugged, frozen, cut off and removed. Needs root and the packages
//! of `docs/reference/local-hosts.md`; says so where it cannot run. Begin at [`rig`].

mod broken_off;
mod rig;
mod unified;
mod uplink;

use std::time::{Duration, Instant, SystemTime};

use quorate_local::{ClusterSpec, Cut, Error, HostSpec, Local, Power, Side};
use rig::{BOOT, Rig, host, listen, processes, reaches, setting, sh, ssh};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_answer_by_ssh_and_leave_nothing() {
    let Some(rig) = Rig::new().await else { return };
    let spec = rig.spec("ssh");
    let planned = rig.local.machine_changes(&spec).await.expect("planned");
    let start = Instant::now();
    let (cluster, hosts) = rig.cluster("ssh", 3).await;
    eprintln!(
        "three hosts greet {:?} after the first of them was asked for",
        start.elapsed()
    );

    // What was listed is in force, and nothing is listed any more.
    for change in &planned {
        assert_eq!(setting(&change.what.to_string()), change.to, "{change}");
    }
    assert_eq!(rig.local.machine_changes(&spec).await.expect("planned"), []);
    assert_eq!(
        std::fs::metadata(cluster.dir())
            .map(|m| std::os::unix::fs::PermissionsExt::mode(&m.permissions()) & 0o777)
            .ok(),
        Some(0o700)
    );

    // Each proves who it is, and another's key is refused.
    for name in &hosts {
        let output = ssh(&cluster, name, None, "cat /etc/hostname");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout).trim(),
            name.as_str(),
            "{output:?}"
        );
    }
    let pinned = std::fs::read_to_string(cluster.ssh(&hosts[0]).expect("access").known_hosts)
        .expect("pinned keys");
    let key = |n: usize| {
        pinned
            .lines()
            .nth(n)
            .and_then(|line| line.split_once(' '))
            .expect("a pinned key")
    };
    let swapped = rig.root().join("swapped");
    std::fs::write(&swapped, format!("{} {}\n", key(0).0, key(1).1)).expect("written");
    let refused = ssh(&cluster, &hosts[0], Some(&swapped), "true");
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("Host key verification failed"),
        "{refused:?}"
    );

    // A second handle sees the same.
    let second = Local::at(rig.local.root()).expect("a path");
    let seen = second.list().await.expect("listed");
    assert_eq!(
        seen.iter()
            .map(|status| status.name.clone())
            .collect::<Vec<_>>(),
        hosts
    );
    for status in &seen {
        let init = status.init.expect("a first process");
        assert_eq!(status.power, Power::Running);
        assert!(
            init.since > SystemTime::now() - Duration::from_secs(600)
                && init.since < SystemTime::now() + Duration::from_secs(2)
        );
    }

    // The machine's kernel is not theirs to set; services that insist are content. The kernel itself takes no 77.
    for name in [
        "kernel/keys/root_maxbytes",
        "kernel/keys/root_maxkeys",
        "kernel/panic",
        "kernel/panic_on_oops",
        "vm/overcommit_memory",
        "vm/panic_on_oom",
    ] {
        let read = format!("cat /proc/sys/{name}");
        let machines = setting(&name.replace('/', "."));
        assert_eq!(sh(&cluster, &hosts[0], &read).await, machines, "{name}");
        sh(&cluster, &hosts[0], &format!("echo 77 > /proc/sys/{name}")).await;
        assert_eq!(sh(&cluster, &hosts[0], &read).await, "77", "{name}");
        assert_ne!(setting(&name.replace('/', ".")), "77", "{name}");
    }
    let open = "/proc/sys/net/ipv4/ip_forward";
    assert_eq!(
        sh(&cluster, &hosts[0], &format!("echo 1 > {open}; cat {open}")).await,
        "1"
    );
    sh(
        &cluster,
        &hosts[0],
        "! sysctl -w kernel.pid_max=99999 2>/dev/null",
    )
    .await;
    // What does not bear an overlay has a plain directory, and the machine sees it.
    let kind = sh(
        &cluster,
        &hosts[0],
        "stat -f -c %T /var/lib/containerd; touch /var/lib/containerd/there",
    )
    .await;
    assert!(!kind.contains("overlay"), "{kind}");
    let data = cluster
        .data_dir(&hosts[0], "/var/lib/containerd".as_ref())
        .expect("a data directory");
    assert!(data.join("there").exists());
    let failed = sh(
        &cluster,
        &hosts[0],
        "systemctl --failed --no-legend --plain",
    )
    .await;
    assert_eq!(failed, "", "units that failed");
    let console = cluster.console_log(&hosts[0], 8000).expect("read");
    assert!(
        console.contains("Welcome to") && !console.contains('\u{1b}'),
        "{console}"
    );

    let name = cluster.name().clone();
    let destroyed = cluster.destroy().await.expect("destroyed");
    assert!(destroyed.existed);
    rig.assert_untouched();
    assert!(
        !rig.local
            .destroy(&name)
            .await
            .expect("destroyed again")
            .existed
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_can_go_and_come_back() {
    let Some(rig) = Rig::new().await else { return };
    let (cluster, hosts) = rig.cluster("power", 2).await;
    let [one, two] = [&hosts[0], &hosts[1]];
    sh(&cluster, one, "echo kept > /root/file").await;
    let port = format!("/sys/class/net/vb-{}-11", cluster.bridge());
    assert!(std::path::Path::new(&port).exists(), "{port}");

    let start = Instant::now();
    cluster.power_off(one).await.expect("off");
    eprintln!("off after {:?}", start.elapsed());
    let of_one = format!("{}/", one);
    let mine = |text: &str| {
        text.contains("quorate-local/live-power") && format!("{text}/").contains(&of_one)
    };
    assert_eq!(processes(mine).len(), 0);
    assert!(!std::path::Path::new(&port).exists(), "{port}");
    let statuses = cluster.hosts().await.expect("listed");
    assert_eq!(
        statuses.iter().map(|s| s.power).collect::<Vec<_>>(),
        [Power::Off, Power::Running]
    );
    assert_eq!(statuses[0].init, None);
    cluster.power_off(one).await.expect("off is off");
    let refused = cluster.freeze(one).await.expect_err("it is off");
    assert_eq!(
        refused.to_string(),
        "host `cp-1` is off, expected it to be running"
    );

    // As after a making that was killed before it had pinned the host's key.
    let known = cluster.ssh(one).expect("a way in").known_hosts;
    let pinned = std::fs::read_to_string(&known).expect("pinned");
    std::fs::write(&known, "").expect("forgotten");
    cluster.power_on(one).await.expect("on");
    assert_eq!(std::fs::read_to_string(&known).expect("pinned"), pinned);
    cluster.power_on(one).await.expect("on is on");
    cluster.booted(one, BOOT).await.expect("booted");
    assert_eq!(sh(&cluster, one, "cat /root/file").await, "kept");

    // One that reboots by itself comes back, with another first process.
    let before = cluster.hosts().await.expect("listed")[1]
        .init
        .expect("a first process");
    sh(&cluster, two, "systemctl --no-block reboot").await;
    let start = Instant::now();
    while cluster.hosts().await.expect("listed")[1]
        .init
        .is_none_or(|init| init == before)
    {
        assert!(start.elapsed() < BOOT, "it did not reboot");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.booted(two, BOOT).await.expect("booted");
    // One that powers off by itself is off.
    sh(&cluster, two, "systemctl --no-block poweroff").await;
    let start = Instant::now();
    while cluster.hosts().await.expect("listed")[1].power != Power::Off {
        assert!(start.elapsed() < BOOT, "it did not power off");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.power_on(two).await.expect("on");
    cluster.booted(two, BOOT).await.expect("booted");

    // Frozen it is there and says nothing; thawed it goes on; unplugged while frozen it is gone.
    cluster.freeze(two).await.expect("frozen");
    assert_eq!(
        cluster.hosts().await.expect("listed")[1].power,
        Power::Frozen
    );
    let silent = cluster
        .booted(two, Duration::from_millis(500))
        .await
        .expect_err("frozen");
    assert!(
        matches!(&silent, Error::NotBooted { last, .. } if last.starts_with("no answer")),
        "{silent}"
    );
    cluster.thaw(two).await.expect("thawed");
    cluster.booted(two, BOOT).await.expect("it goes on");
    cluster.freeze(two).await.expect("frozen");
    cluster.power_off(two).await.expect("off");
    assert_eq!(cluster.hosts().await.expect("listed")[1].power, Power::Off);

    cluster.destroy_host(one).await.expect("destroyed");
    assert_eq!(cluster.hosts().await.expect("listed").len(), 1);
    cluster.destroy().await.expect("destroyed");
    rig.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_stop_one_direction_and_mending_ends_them() {
    let Some(rig) = Rig::new().await else { return };
    let (cluster, hosts) = rig.cluster("cuts", 2).await;
    let [one, two] = [&hosts[0], &hosts[1]];
    listen(&cluster, one).await;
    listen(&cluster, two).await;
    // Both have to know each other's Ethernet address: asking for it is traffic in both directions.
    assert!(reaches(&cluster, one, two, "warm").await && reaches(&cluster, two, one, "warm").await);

    let cut = Cut::one_way(one.clone(), two.clone());
    cluster.cut([cut.clone()]).await.expect("cut");
    assert!(
        !reaches(&cluster, one, two, "cut").await,
        "one still reaches two"
    );
    assert!(
        reaches(&cluster, two, one, "cut").await,
        "two no longer reaches one"
    );
    let seen = cluster.hosts().await.expect("listed");
    assert!(
        seen.iter().all(|status| status.cuts.iter().eq([&cut])),
        "{seen:?}"
    );
    // A host's cable stays cut while its power comes and goes.
    cluster.mend([cut.clone()]).await.expect("mended");
    assert!(
        reaches(&cluster, one, two, "mended").await,
        "one does not reach two again"
    );

    cluster
        .cut(Cut::both_ways(one.clone(), Side::Outside))
        .await
        .expect("cut");
    let unreachable = cluster
        .booted(one, Duration::from_millis(500))
        .await
        .expect_err("cut off");
    assert!(
        matches!(unreachable, Error::NotBooted { .. }),
        "{unreachable}"
    );
    assert!(
        reaches(&cluster, one, two, "outside").await,
        "hosts no longer reach each other"
    );
    cluster
        .booted(two, BOOT)
        .await
        .expect("the other is not cut off");
    cluster.power_off(one).await.expect("off");
    cluster.power_on(one).await.expect("on");
    assert_eq!(cluster.cuts().await.expect("seen").len(), 2);
    cluster.mend_all().await.expect("mended");
    cluster.booted(one, BOOT).await.expect("it answers again");

    let isolation = cluster.isolation(two, false).await.expect("planned");
    assert_eq!(isolation.len(), 2);
    let stranger = cluster
        .cut([Cut::one_way(host("nobody"), two.clone())])
        .await
        .expect_err("no such host");
    assert!(matches!(stranger, Error::NoSuchHost { .. }), "{stranger}");
    cluster.cut(isolation).await.expect("cut");
    cluster.destroy_host(two).await.expect("destroyed");
    assert!(
        cluster.cuts().await.expect("seen").is_empty(),
        "cuts outlive their host"
    );
    cluster.destroy().await.expect("destroyed");
    rig.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_collides_is_refused_by_name() {
    let Some(rig) = Rig::new().await else { return };
    let spec = rig.spec("clash");
    let cluster = rig.local.create(&rig.base, &spec).await.expect("a cluster");
    let (subnet, bridge) = (cluster.subnet(), cluster.bridge().clone());

    // Another user, with a state directory of their own.
    let other = &rig.elsewhere;
    let refused = other
        .create(&rig.base, &spec)
        .await
        .expect_err("the name is taken");
    assert!(
        matches!(&refused, Error::NameTaken { root, .. } if root == rig.local.root()),
        "{refused}"
    );
    let two = ClusterSpec {
        subnet: Some(subnet),
        ..rig.spec("clash-two")
    };
    let refused = other
        .create(&rig.base, &two)
        .await
        .expect_err("the subnet is taken");
    assert_eq!(
        refused.to_string(),
        format!(
            "the subnet {subnet} is taken: it overlaps cluster `{}`",
            spec.name
        )
    );
    let two = ClusterSpec {
        bridge: Some(bridge.clone()),
        ..rig.spec("clash-two")
    };
    let refused = other
        .create(&rig.base, &two)
        .await
        .expect_err("the bridge is taken");
    assert_eq!(
        refused.to_string(),
        format!(
            "the bridge name `{bridge}` is taken by cluster `{}`",
            spec.name
        )
    );
    let two = ClusterSpec {
        bridge: Some("lo".parse().expect("a name")),
        ..rig.spec("clash-two")
    };
    let refused = other
        .create(&rig.base, &two)
        .await
        .expect_err("the machine has it");
    assert_eq!(
        refused.to_string(),
        "the bridge name `lo` is taken by an interface of this machine"
    );
    assert!(other.clusters().expect("listed").is_empty());

    // Left to choose, it chooses others; the settings stay until the last is gone.
    let two = other
        .create(&rig.base, &rig.spec("clash-two"))
        .await
        .expect("another cluster");
    assert!(two.subnet() != subnet && *two.bridge() != bridge);
    let in_force = rig.local.changes_in_force().await.expect("read");
    assert_eq!(cluster.destroy().await.expect("destroyed").restored, []);
    for change in &in_force {
        assert_eq!(setting(&change.what.to_string()), change.to, "{change}");
    }

    // The same again is the same; something else under the same name is not.
    let again = other
        .create(&rig.base, &rig.spec("clash-two"))
        .await
        .expect("opened");
    assert_eq!(again.bridge(), two.bridge());
    let spec = HostSpec::new(host("cp-1"), two.subnet().host(11));
    two.create_host(&spec).await.expect("a host");
    two.create_host(&spec).await.expect("the same host");
    let moved = HostSpec {
        address: two.subnet().host(12),
        ..spec.clone()
    };
    assert!(matches!(
        two.create_host(&moved).await,
        Err(Error::HostDiffers {
            what: "address",
            ..
        })
    ));
    let twin = HostSpec {
        name: host("cp-2"),
        ..spec
    };
    assert!(matches!(
        two.create_host(&twin).await,
        Err(Error::AddressTaken { .. })
    ));
    two.destroy().await.expect("destroyed");
    rig.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_and_binds_hold() {
    let Some(rig) = Rig::new().await else { return };
    let cluster = rig
        .local
        .create(&rig.base, &rig.spec("limits"))
        .await
        .expect("a cluster");
    let shared = rig.root().join("shared");
    let layer = rig.root().join("layer");
    std::fs::create_dir_all(layer.join("opt")).expect("created");
    std::fs::create_dir_all(&shared).expect("created");
    std::fs::write(layer.join("opt/tool"), "from the layer").expect("written");
    std::fs::write(shared.join("word"), "shared").expect("written");
    let spec = HostSpec {
        cpu_millis: Some(500),
        memory_bytes: Some(256 << 20),
        binds: vec![
            quorate_local::Bind::read_only(&shared, "/srv/look"),
            quorate_local::Bind::writable(&shared, "/srv/write"),
        ],
        layers: vec![layer],
        ..HostSpec::new(host("cp-1"), cluster.subnet().host(11))
    };
    cluster.create_host(&spec).await.expect("a host");
    cluster.power_on(&spec.name).await.expect("on");
    cluster.booted(&spec.name, BOOT).await.expect("booted");
    assert_eq!(
        sh(&cluster, &spec.name, "cat /opt/tool").await,
        "from the layer"
    );
    assert_eq!(
        sh(&cluster, &spec.name, "cat /srv/look/word").await,
        "shared"
    );
    sh(
        &cluster,
        &spec.name,
        "! touch /srv/look/x 2>/dev/null; echo written > /srv/write/back",
    )
    .await;
    assert_eq!(
        std::fs::read_to_string(shared.join("back")).expect("read"),
        "written\n"
    );
    // As the host sees its own cgroup: the root of its view.
    let limits = sh(&cluster, &spec.name, "cd /sys/fs/cgroup; cat cpu/cpu.cfs_quota_us memory/memory.limit_in_bytes 2>/dev/null || cat cpu.max memory.max").await;
    assert!(
        ["50000\n268435456", "50000 100000\n268435456"].contains(&limits.as_str()),
        "{limits}"
    );
    cluster.destroy().await.expect("destroyed");
    rig.assert_untouched();
}
