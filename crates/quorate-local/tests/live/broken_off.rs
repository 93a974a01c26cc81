//! Commands killed at any point, and a machine that was rebooted: what follows completes or removes what they left.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use quorate_local::{ClusterName, HostSpec, Local, Power};

use crate::rig::{BOOT, Rig, host, said, sh};

/// Tells this test program, started again, what to do until it is killed.
const PART: &str = "QUORATE_LIVE_PART";

/// How many times commands are killed; more find more.
const ROUNDS: &str = "QUORATE_LIVE_ROUNDS";

async fn make(local: &Local, name: &ClusterName) -> Result<(), quorate_local::Error> {
    let base = local.ready_base().expect("the parent has a base image");
    let cluster = local
        .create(&base, &quorate_local::ClusterSpec::new(name.clone()))
        .await?;
    for n in 1..=2 {
        let spec = HostSpec::new(host(&format!("cp-{n}")), cluster.subnet().host(10 + n));
        cluster.create_host(&spec).await?;
        cluster.power_on(&spec.name).await?;
    }
    Ok(())
}

/// Starts this program again for one part and kills it after a while; whether it had finished by then.
fn killed_after(delay: Duration, part: &str, rig: &Rig, name: &ClusterName) -> bool {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args([
            "--exact",
            "broken_off::a_command_killed_at_any_point_is_completed_or_undone",
            "--nocapture",
        ])
        .env(
            PART,
            format!(
                "{part} {} {} {name}",
                rig.local.root().display(),
                rig.base.path().display()
            ),
        )
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("this program again");
    std::thread::sleep(delay);
    let finished = child.try_wait().expect("waited").is_some();
    child.kill().expect("killed");
    child.wait().expect("waited");
    finished
}

async fn part(words: &str) {
    let words: Vec<_> = words.split(' ').collect();
    let local = Local::at(Path::new(words[1]))
        .expect("a path")
        .with_base(Path::new(words[2]));
    let name: ClusterName = words[3].parse().expect("a name");
    match words[0] {
        "make" => make(&local, &name).await.expect("made"),
        "destroy" => drop(local.destroy(&name).await.expect("destroyed")),
        other => panic!("no part `{other}`"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_killed_at_any_point_is_completed_or_undone() {
    if let Ok(words) = std::env::var(PART) {
        return part(&words).await;
    }
    let Some(rig) = Rig::new().await else { return };
    let name = rig.spec("killed").name;
    let (mut made, mut destroyed) = (0, 0);
    let rounds: u64 = std::env::var(ROUNDS)
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(16);
    // From before the first effect to after the last, in steps that share no factor so that no two rounds fall alike.
    for round in 0..rounds {
        let delay = Duration::from_millis(7 + round * 53 % 701);
        made += u32::from(killed_after(delay, "make", &rig, &name));
        if round % 2 == 0 {
            make(&rig.local, &name)
                .await
                .expect("completed after being broken off");
            let statuses = rig.local.list().await.expect("listed");
            assert_eq!(
                statuses.iter().map(|s| s.power).collect::<Vec<_>>(),
                [Power::Running; 2],
                "round {round}"
            );
            if round % 8 == 0 {
                let cluster = rig.local.open(&name).expect("opened");
                cluster.booted(&host("cp-2"), BOOT).await.expect("booted");
            }
        }
        destroyed += u32::from(killed_after(delay, "destroy", &rig, &name));
        rig.local
            .destroy(&name)
            .await
            .expect("destroyed after being broken off");
        assert_eq!(rig.local.unfinished().await.expect("looked"), []);
        rig.assert_untouched();
    }
    eprintln!(
        "of {rounds} rounds, {made} makings and {destroyed} removals had finished before they were killed"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_come_back_after_the_machine_was_rebooted() {
    let Some(rig) = Rig::new().await else { return };
    let (cluster, hosts) = rig.cluster("reboot", 1).await;
    sh(&cluster, &hosts[0], "echo kept > /root/file; sync").await;
    // What a reboot does: processes, interfaces, rules, cgroups and the registry's entry are gone, disks are not.
    cluster.power_off(&hosts[0]).await.expect("off");
    let bridge = cluster.bridge().to_string();
    said("ip", &["link", "delete", &bridge]);
    said(
        "nft",
        &["delete", "table", "ip", &format!("quorate_{bridge}")],
    );
    forget(cluster.name());
    let statuses = cluster.hosts().await.expect("listed without a bridge");
    assert_eq!(statuses[0].power, Power::Off);

    cluster.power_on(&hosts[0]).await.expect("on");
    cluster.booted(&hosts[0], BOOT).await.expect("booted");
    assert_eq!(sh(&cluster, &hosts[0], "cat /root/file").await, "kept");
    cluster.destroy().await.expect("destroyed");
    rig.assert_untouched();
}

/// Takes a cluster out of the machine's registry, leaving those of others and the record of changed settings.
fn forget(name: &ClusterName) {
    let dir = Path::new("/run/quorate-local");
    let lock = std::fs::File::options()
        .write(true)
        .open(dir.join("lock"))
        .expect("the registry's lock");
    lock.lock().expect("locked");
    let file = dir.join("registry.json");
    let text = std::fs::read_to_string(&file).expect("the registry");
    let mut registry: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    registry["claims"]
        .as_object_mut()
        .expect("claims")
        .remove(name.as_str())
        .expect("the claim");
    std::fs::write(&file, registry.to_string()).expect("written");
}
