//! Machines that a run makes, on this machine. Needs root and what local hosts need.

use std::{net::IpAddr, panic::AssertUnwindSafe, path::Path};

use futures_util::FutureExt as _;

use quorate_exec::{Control, Infra as _, LocalMachines, Machines, SshHosts, SshSettings, World};
use quorate_local::Local;
use quorate_plan::{InfraEnsure, Intent, NodeName, Seen, observation::Power};

/// One control plane host and one balancer of local hosts.
fn intent(cluster: &str) -> Intent {
    let machine = |address: &str| {
        serde_json::json!({
            "address": address, "zone": null,
            "ssh": {"user": "root", "port": 22, "identity": null, "sudo": false},
        })
    };
    let json = serde_json::json!({
        "spec": {
            "name": cluster, "kubernetes": "1.35.4",
            "endpoint": {"host": "api.internal", "port": 6443},
            "balancer": {"quorate": {"hosts": {"lb-1": machine("172.31.41.5")}}},
            "hostsFile": true,
            "controlPlane": {"cp-1": machine("172.31.41.11")},
            "bringUp": "together", "workers": {},
            "network": {"cni": "flannel", "pods": "10.244.0.0/16", "services": "10.96.0.0/12"},
            "provider": {"local": {"subnet": "172.31.41.0/24"}}, "bundle": null,
        },
        "bundle": {"id": "b".repeat(64), "kubernetes": "1.35.4", "images": {}},
        "binary": "q", "goal": "converge", "accepted": [], "retired": {},
    });
    serde_json::from_value(json).expect("an intent")
}

fn power(seen: &Seen<quorate_plan::observation::InfraView>) -> Power {
    match seen {
        Seen::Known { value, .. } => value.power,
        Seen::Unknown(missing) => panic!("{missing}"),
    }
}

async fn on_host(control: &Control, way: &quorate_exec::Way, script: &str) -> String {
    let access = way.look().expect("the host exists");
    let args = control.shell(&access, script).expect("arguments");
    let output = tokio::process::Command::new(&control.program)
        .args(args)
        .output()
        .await
        .expect("ssh runs");
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

#[tokio::test]
async fn machines_are_made_once_and_found_again() {
    let local = Local::from_env(None).expect("a state directory");
    if let Err(error) = local.check() {
        assert!(std::env::var_os("CI").is_none(), "{error}");
        eprintln!("SKIPPED: {error}");
        return;
    }
    let dir = tempfile::Builder::new()
        .prefix("qx")
        .tempdir_in("/tmp")
        .expect("a directory");
    let bundle = dir.path().join("bundle");
    std::fs::create_dir(&bundle).expect("made");
    std::fs::write(bundle.join("manifest.json"), "{}").expect("written");
    let intent = intent("execdev");
    // Whatever it finds, nothing of it stays behind.
    let end = AssertUnwindSafe(whole_life(&local, &intent, dir.path()))
        .catch_unwind()
        .await;
    local
        .destroy(&"execdev".parse().expect("a name"))
        .await
        .expect("destroyed");
    if let Err(panic) = end {
        std::panic::resume_unwind(panic);
    }
}

async fn whole_life(local: &Local, intent: &Intent, dir: &Path) {
    let machines = || {
        LocalMachines::new(local.clone(), intent, Some(&dir.join("bundle"))).expect("local hosts")
    };
    let made = machines();
    let ways = made.ways();
    let made = Machines::Local(Box::new(made));
    let [cp, lb]: [NodeName; 2] = ["cp-1", "lb-1"].map(|name| name.parse().expect("a name"));
    for seen in made.observe().await.values() {
        assert_eq!(power(seen), Power::Absent);
    }
    assert!(
        ways[&cp].look().is_err(),
        "there is no key before there is a host"
    );
    let mut lines = Vec::new();
    let ensure = |node: &NodeName, last: u8| InfraEnsure::Machine {
        node: node.clone(),
        address: IpAddr::from([172, 31, 41, last]),
    };
    let (first, second) = (ensure(&cp, 11), ensure(&lb, 5));
    let mut ignored = |_| {};
    let mut heard = |line| lines.push(line);
    let (a, b) = futures_util::future::join(
        made.ensure(&first, &mut heard),
        made.ensure(&second, &mut ignored),
    )
    .await;
    a.expect("cp-1 is made");
    b.expect("lb-1 is made");
    assert!(lines.iter().any(|line| line == "booting"), "{lines:?}");

    // Another command finds them, and asking again changes nothing.
    let found = machines();
    let before = found.observe().await;
    assert_eq!(
        (power(&before[&cp]), power(&before[&lb])),
        (Power::Running, Power::Running)
    );
    found.ensure(&first, &mut |_| {}).await.expect("it stands");

    let control = Control::new(dir.join("c"));
    control.prepare().expect("a directory of ours");
    let id = "b".repeat(64);
    let told = on_host(
        &control,
        &ways[&cp],
        &format!("hostname; cat /var/lib/quorate/bundles/{id}/manifest.json; stat -f -c %T /var/lib/containerd"),
    )
    .await;
    let told: Vec<&str> = told.lines().collect();
    assert_eq!(told[0], "cp-1");
    assert!(told[1].starts_with("{}"), "{told:?}");
    assert!(!told.concat().contains("overlay"), "{told:?}");
    let told = on_host(
        &control,
        &ways[&lb],
        "ls /var/lib/quorate/bundles 2>&1 | wc -l",
    )
    .await;
    assert_eq!(
        told, "1",
        "a balancer has no bundle: the one line is an error"
    );

    // Off is seen, and a run starts it again with what it had.
    let cluster = local
        .open(&"execdev".parse().expect("a name"))
        .expect("there");
    let host = "cp-1".parse().expect("a name");
    on_host(&control, &ways[&cp], "echo kept > /root/kept; sync").await;
    cluster.power_off(&host).await.expect("off");
    let off = found.observe().await;
    assert_eq!(power(&off[&cp]), Power::Off);
    let world = World::new(
        SshHosts::new(
            SshSettings {
                control: control.clone(),
                binary: quorate_exec::NodeBinary::open(Path::new("/proc/self/exe"))
                    .expect("this program"),
                backups: None,
                bundle: None,
                look: quorate_exec::look_for(intent),
                etcd_devices: quorate_exec::etcd_devices(intent),
            },
            ways.clone(),
        )
        .expect("hosts"),
        found,
    );
    let seen = quorate_exec::observe(&world, intent).await;
    let why = seen.host(&cp).expect_err("it is off").to_string();
    assert_eq!(
        why,
        "host cp-1, whose machine is switched off, was not looked at"
    );
    world.hosts.close(true).await;
    world
        .infra
        .ensure(&first, &mut |_| {})
        .await
        .expect("it runs again");
    assert_eq!(
        on_host(&control, &ways[&cp], "cat /root/kept").await,
        "kept"
    );
    world.hosts.close(true).await;
}
