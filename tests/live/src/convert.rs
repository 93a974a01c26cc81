//! Somebody else's single master becomes three, under load at its old and its new address; then the one that was there first loses power.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    bare::Bare,
    bring_up::healthy,
    foreign::{BLANK, Foreign, MASTER, Shape, WORKERS},
    judge::{Api, listings, members, same},
    load::Load,
    stage::{Stage, said, tail},
    workload::Workload,
};

const NAME: &str = "live-convert";
const SUBNET: &str = "172.31.69.0/24";
pub const MASTERS: [&str; 3] = [MASTER, "cp-2", "cp-3"];

/// The old address is used from this machine, and that is known.
pub const STRAGGLER: &str = "old-address-in-use=cp-1";

/// Runs it.
pub fn run(stage: &mut Stage) -> Result<()> {
    let foreign = Foreign::make(stage, NAME, SUBNET, &Shape::default())?;
    let hosts = &foreign.hosts;
    let workload = Workload::start(stage, &foreign)?;
    let balancer = SocketAddr::new(hosts.address("lb-1")?.into(), 6443);
    let file = &cluster_file(stage, hosts, NAME)?;
    trusted(stage, hosts, file)?;
    ready(stage, hosts, file)?;

    let old = stage.directory.join("old.conf");
    fs::write(&old, hosts.run(MASTER, "cat /etc/kubernetes/admin.conf")?)?;
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
    let api = api(stage, hosts, file, NAME)?;
    let new = stage.directory.join("new.conf");
    fs::copy(&old, &new)?;
    let path = new.display().to_string();
    stage.succeed(&["kubeconfig", "rewrite", &path, "-f", file])?;
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
    stage.wait(
        "the first master is missed by the others",
        Duration::from_secs(120),
        |stage| api.ready(stage).is_ok_and(|ready| !ready.contains(MASTER)),
    );
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

/// Nobody joins while somebody uses the old address who was not accepted by name.
pub fn census(stage: &mut Stage, hosts: &Bare, file: &str, subnet: &str) -> Result<()> {
    let refused = stage.quorate(&["convert", "--yes", "-f", file])?;
    stage.check_eq(
        "nobody joins while somebody uses the old address",
        &refused.status.code(),
        &Some(3),
    );
    let words = said(&refused);
    let operator = format!("{}.1", subnet.trim_end_matches(".0/24"));
    let named = words.contains("old-address-in-use") && words.contains(&operator);
    stage.check("who does is named by address", named);
    if !named {
        stage.say(&tail(&words, 40));
    }
    stage.check_eq(
        "and there is still one member, says etcdctl",
        &members(hosts, MASTER)?.len(),
        &1,
    );
    Ok(())
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

/// Pins the hosts' keys.
pub fn trusted(stage: &mut Stage, hosts: &Bare, file: &str) -> Result<()> {
    let prints = names()
        .iter()
        .map(|host| hosts.fingerprint(host))
        .collect::<Result<Vec<_>>>()?;
    let mut trust = vec!["trust", "-f", file];
    for print in &prints {
        trust.extend(["--expect", print]);
    }
    stage.succeed(&trust)?;
    Ok(())
}

/// What the cluster was before it was converted.
pub struct Before {
    pods: BTreeMap<String, (String, u64)>,
    ready: BTreeMap<String, String>,
    for_joining: BTreeSet<String>,
}

impl Before {
    pub fn look(foreign: &Foreign) -> Result<Self> {
        Ok(Self {
            pods: pods(foreign)?,
            ready: ready_since(foreign)?,
            for_joining: for_joining(foreign)?,
        })
    }

    /// Every node that was there was Ready all the time, and pods are the same ones but for those that are made anew on purpose.
    pub fn unharmed(&self, stage: &mut Stage, foreign: &Foreign) -> Result<()> {
        let ready: BTreeMap<String, String> = ready_since(foreign)?
            .into_iter()
            .filter(|(node, _)| self.ready.contains_key(node))
            .collect();
        stage.check_eq("every node was Ready all the time", &ready, &self.ready);
        let now = pods(foreign)?;
        let mut gone = BTreeSet::new();
        let mut restarted = BTreeSet::new();
        for (uid, (name, restarts)) in &self.pods {
            match now.get(uid) {
                None if name.starts_with("kube-proxy-") || name.starts_with("coredns-") => {}
                None => drop(gone.insert(name)),
                Some((_, now)) if now != restarts => drop(restarted.insert(name)),
                Some(_) => {}
            }
        }
        stage.check_eq(
            "no pod went but kube-proxy's and cluster DNS's",
            &gone,
            &BTreeSet::new(),
        );
        stage.check_eq("no container was restarted", &restarted, &BTreeSet::new());
        stage.check_eq(
            "Secrets for joining are those of its owner",
            &for_joining(foreign)?,
            &self.for_joining,
        );
        Ok(())
    }
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

/// What the API of such a cluster is to be called.
pub fn endpoint(name: &str) -> String {
    format!("api.{name}.internal")
}

/// The API behind the endpoint, which this machine does not resolve.
pub fn api(stage: &mut Stage, hosts: &Bare, file: &str, name: &str) -> Result<Api> {
    let address = hosts.address("lb-1")?.to_string();
    Api::of(stage, file, Some((&endpoint(name), &address)))
}

fn names() -> Vec<&'static str> {
    let blank = BLANK.iter().map(|(host, _)| *host);
    [MASTER].into_iter().chain(WORKERS).chain(blank).collect()
}

/// The file of the cluster as it shall be: three masters behind a balancer, under the name that [`endpoint`] tells.
pub fn cluster_file(stage: &Stage, hosts: &Bare, name: &str) -> Result<String> {
    let line = |host: &str| -> Result<String> {
        let (address, key) = (hosts.address(host)?, hosts.identity(host)?);
        Ok(format!(
            "  - {{ name: {host}, address: {address}, identity: {} }}\n",
            key.display()
        ))
    };
    let mut text = format!(
        "apiVersion: quorate/v1\nname: {name}\nkubernetes: {}\n\
         endpoint:\n  host: {}\n  hostsFile: managed\n  balancer: {{ kind: quorate, hosts: [{{ name: lb-1, address: {}, identity: {} }}] }}\n",
        stage.kubernetes(),
        endpoint(name),
        hosts.address("lb-1")?,
        hosts.identity("lb-1")?.display()
    );
    text += "controlPlane:\n  hosts:\n";
    for host in MASTERS {
        text += &line(host)?;
    }
    text += "workers:\n  hosts:\n";
    for host in WORKERS {
        text += &line(host)?;
    }
    text += &format!(
        "network: {{ cni: none }}\nprovider: {{ kind: ssh, user: root }}\ncomponents: {{ source: bundle, path: {} }}\n",
        stage.bundle.display()
    );
    let file = stage.directory.join(format!("{name}.yaml"));
    fs::write(&file, text)?;
    Ok(file.display().to_string())
}

/// Pods by UID, with their names and how often their containers were restarted; but for those that a conversion makes anew.
fn pods(foreign: &Foreign) -> Result<BTreeMap<String, (String, u64)>> {
    let list = json(foreign, "get pods -A")?;
    let mut found = BTreeMap::new();
    for pod in list["items"].as_array().context("kubectl lists pods")? {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let statuses = pod["status"]["containerStatuses"].as_array();
        let restarts = statuses
            .into_iter()
            .flatten()
            .filter_map(|status| status["restartCount"].as_u64())
            .sum();
        let name = text(&pod["metadata"]["name"]);
        found.insert(text(&pod["metadata"]["uid"]), (name, restarts));
    }
    Ok(found)
}

/// Bootstrap tokens and the certificates' Secret, by name.
fn for_joining(foreign: &Foreign) -> Result<BTreeSet<String>> {
    let names = foreign.on_master("kubectl -n kube-system get secrets -o name")?;
    let joins = |name: &&str| name.contains("bootstrap-token") || name.contains("kubeadm-certs");
    Ok(names.lines().filter(joins).map(str::to_owned).collect())
}

/// Nodes with the time since when they are Ready.
fn ready_since(foreign: &Foreign) -> Result<BTreeMap<String, String>> {
    let list = json(foreign, "get nodes")?;
    let mut found = BTreeMap::new();
    for node in list["items"].as_array().context("kubectl lists nodes")? {
        let conditions = node["status"]["conditions"].as_array();
        let since = conditions
            .into_iter()
            .flatten()
            .find(|one| one["type"] == "Ready" && one["status"] == "True")
            .and_then(|one| one["lastTransitionTime"].as_str());
        let name = node["metadata"]["name"].as_str().unwrap_or_default();
        found.insert(name.to_owned(), since.unwrap_or("not Ready").to_owned());
    }
    Ok(found)
}

fn json(foreign: &Foreign, arguments: &str) -> Result<Value> {
    let text = foreign.on_master(&format!("kubectl {arguments} -o json"))?;
    serde_json::from_str(&text).context("kubectl prints JSON")
}
