//! Somebody else's single master becomes three, under load at its old and its new address; then the one that was there first loses power.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    bare::Bare,
    bring_up::healthy,
    conversion::{
        Before, MASTERS, STRAGGLER, api, balancer, cluster_file, names, new_kubeconfig,
        old_kubeconfig, trusted,
    },
    foreign::{Foreign, MASTER, Shape, WORKERS},
    judge::{Api, listings, same},
    load::Load,
    stage::{Stage, said},
    workload::Workload,
};

const NAME: &str = "live-convert";
const SUBNET: &str = "172.31.69.0/24";
/// Runs it.
pub fn run(stage: &mut Stage) -> Result<()> {
    let foreign = Foreign::make(stage, NAME, SUBNET, &Shape::default())?;
    let hosts = &foreign.hosts;
    let workload = Workload::start(stage, &foreign)?;
    let balancer = balancer(hosts)?;
    let file = &cluster_file(stage, hosts, NAME)?;
    trusted(stage, hosts, file)?;
    ready(stage, hosts, file)?;

    let old = old_kubeconfig(stage, hosts)?;
    let at_old = Load::start_at(&old, None, "quorate-live-old")?;
    let before = Before::look(&foreign)?;
    let part_old = [("conversion, at the old address", at_old.now())];

    stage.succeed(&[
        "convert",
        "--pause-after",
        "certificate",
        "--yes",
        "-f",
        file,
    ])?;
    off_host(stage, NAME)?;
    let api = api(stage, hosts, file, NAME)?;
    let new = new_kubeconfig(stage, &old, file)?;
    let at_new = Load::start_at(&new, Some(balancer), "quorate-live-new")?;
    let part_new = [("conversion, at the new address", at_new.now())];

    stage.succeed(&["convert", "--accept", STRAGGLER, "--yes", "-f", file])?;

    healthy(stage, file, Duration::from_secs(120))?;
    api.whole(stage, hosts, &MASTERS, &WORKERS)?;
    before.unharmed(stage, &foreign)?;
    workload.unharmed(stage)?;
    workload.reader_moves(stage, file)?;
    dns_is_spread(stage, &foreign)?;
    alike(stage, hosts)?;
    for verb in [vec!["convert", "--accept", STRAGGLER], vec!["apply"]] {
        let again = stage.succeed(&[verb.as_slice(), &["--yes", "-f", file]].concat())?;
        stage.check(
            &format!("`{}` has nothing to do", verb[0]),
            said(&again).to_lowercase().contains("nothing to do"),
        );
    }
    at_old.finish_unharmed(stage, &part_old)?;
    at_new.finish_unharmed(stage, &part_new)?;
    without_the_first(stage, &foreign, &workload, &api, &new, balancer)
}

/// The backup is on this machine, sealed; it can be opened, and etcd's own tool knows the snapshot in it.
fn off_host(stage: &mut Stage, name: &str) -> Result<()> {
    let state = stage.directory.join("state/quorate");
    let folder = state.join("clusters").join(name).join("backups");
    let files: Vec<PathBuf> = fs::read_dir(&folder)
        .with_context(|| format!("{} is read", folder.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    stage.check_eq("one backup is on this machine", &files.len(), &1);
    let file = files.first().context("a backup")?;
    let bytes = fs::read(file)?;
    let clear = ["PRIVATE KEY", "ustar", "/registry/"];
    let found = |text: &&&str| {
        bytes
            .windows(text.len())
            .any(|part| part == text.as_bytes())
    };
    stage.check(
        "it is an age file, and nothing of a key or of etcd can be read in it",
        bytes.starts_with(b"age-encryption.org/v1\n") && !clear.iter().any(|text| found(&text)),
    );
    let private = [file.as_path(), &state.join("backup-identity.txt")]
        .iter()
        .all(|path| fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o077 == 0));
    stage.check("only its owner reads it and the identity", private);
    let path = file.display().to_string();
    let shown = said(&stage.succeed(&["backup", "show", &path])?);
    let listed = ["etcd.snapshot", "files/etc/kubernetes/pki/ca.key"]
        .iter()
        .all(|name| shown.contains(name));
    stage.check("`quorate backup show` lists what is in it", listed);
    let into = stage.directory.join("unpacked");
    stage.succeed(&["backup", "unpack", &path, &into.display().to_string()])?;
    let status = Command::new(stage.bundle.join("bin/etcdutl"))
        .args(["snapshot", "status", "-w", "json"])
        .arg(into.join("etcd.snapshot"))
        .output()?;
    let status: Value = serde_json::from_slice(&status.stdout)
        .with_context(|| String::from_utf8_lossy(&status.stderr).into_owned())?;
    stage.check(
        &format!("etcdutl knows the snapshot in it: {status}"),
        status["totalKey"].as_u64().is_some_and(|keys| keys > 100),
    );
    fs::remove_dir_all(into)?;
    Ok(())
}

/// The master that everything began with loses power, and everything goes on.
fn without_the_first(
    stage: &mut Stage,
    foreign: &Foreign,
    workload: &Workload<'_>,
    api: &Api,
    kubeconfig: &Path,
    balancer: SocketAddr,
) -> Result<()> {
    let load = Load::start_at(kubeconfig, Some(balancer), "quorate-live-lost")?;
    let parts = [("the first master lost", load.now())];
    foreign.hosts.power_off(MASTER)?;
    let lost = Instant::now();
    let workers: BTreeSet<String> = WORKERS.map(str::to_owned).into();
    api.misses(stage, MASTER);
    stage.say(&format!(
        "missed after {:.1} s",
        lost.elapsed().as_secs_f64()
    ));
    stage.check(
        "and the workers are Ready",
        api.ready(stage)?.is_superset(&workers),
    );
    api.kubectl(
        stage,
        &["-n", "app", "scale", "deployment", "web", "--replicas=3"],
    )?;
    stage.wait(
        "a Deployment is scaled without the first master",
        Duration::from_secs(60),
        |stage| {
            let ready = [
                "-n",
                "app",
                "get",
                "deployment",
                "web",
                "-o",
                "jsonpath={.status.readyReplicas}",
            ];
            api.kubectl(stage, &ready).is_ok_and(|ready| ready == "3")
        },
    );
    workload.goes_on(stage)?;
    workload.reader_reads(stage, "without the first master")?;
    load.finish(stage, &parts)
}

/// `quorate adopt` looks, finds everything in order, and changes nothing.
fn ready(stage: &mut Stage, hosts: &Bare, file: &str) -> Result<()> {
    let all = names();
    let before = listings(hosts, &all)?;
    let looked = stage.json(&["adopt", file, "-o", "json"])?;
    stage.check_eq(
        "`quorate adopt` finds it ready",
        &looked["verdict"].as_str().unwrap_or_default(),
        &"ready",
    );
    for finding in looked["findings"].as_array().into_iter().flatten() {
        stage.say(&format!("        {finding}"));
    }
    let after = listings(hosts, &all)?;
    same(stage, "and changed no file on any host", &after, &before);
    Ok(())
}

fn dns_is_spread(stage: &mut Stage, foreign: &Foreign) -> Result<()> {
    let nodes = foreign.on_master(
        "kubectl -n kube-system get pods -l k8s-app=kube-dns --field-selector status.phase=Running \
         -o jsonpath='{range .items[*]}{.spec.nodeName}{\"\\n\"}{end}' | sort -u",
    )?;
    let nodes: Vec<&str> = nodes.lines().collect();
    stage.check(
        &format!("cluster DNS runs on several nodes: {nodes:?}"),
        nodes.len() > 1,
    );
    Ok(())
}

/// A new master's manifests are those of the one that was there, but for who and where it is, and how its etcd came into the cluster.
fn alike(stage: &mut Stage, hosts: &Bare) -> Result<()> {
    let read = |host: &str| -> Result<BTreeSet<String>> {
        let address = hosts.address(host)?.to_string();
        let text = hosts.run(
            host,
            "cd /etc/kubernetes/manifests; for file in *.yaml; do sed \"s|^|$file: |\" $file; done",
        )?;
        let own = |line: &&str| !line.contains("--initial-cluster");
        let plain = |line: &str| line.replace(&address, "ADDRESS").replace(host, "NAME");
        Ok(text.lines().filter(own).map(plain).collect())
    };
    let first = read(MASTER)?;
    for joined in &MASTERS[1..] {
        let what = format!("{joined}'s manifests are like those of {MASTER}");
        same(stage, &what, &read(joined)?, &first);
    }
    Ok(())
}
