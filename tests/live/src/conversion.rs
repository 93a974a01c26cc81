//! What the cases of conversions share: the file of the cluster as it shall be, what it was before, and how a conversion ends that nobody
//! lets go on. Start at [`cluster_file`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    bare::Bare,
    foreign::{BLANK, Foreign, MASTER, WORKERS},
    judge::{Api, members, voters},
    stage::{Stage, said, tail},
};

/// The masters there shall be, the first of them its owner's.
pub const MASTERS: [&str; 3] = [MASTER, "cp-2", "cp-3"];

/// The old address is used from this machine, and that is known.
pub const STRAGGLER: &str = "old-address-in-use=cp-1";

/// Pins the keys of all hosts.
pub fn trusted(stage: &mut Stage, hosts: &Bare, file: &str) -> Result<()> {
    pinned(stage, hosts, file, &names())
}

/// Pins the keys of these hosts.
pub fn pinned(stage: &mut Stage, hosts: &Bare, file: &str, whose: &[&str]) -> Result<()> {
    let prints = whose
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

    /// Every node that was there was Ready all the time, and pods are the same ones but for those that a conversion makes anew on purpose.
    pub fn unharmed(&self, stage: &mut Stage, foreign: &Foreign) -> Result<()> {
        self.unharmed_but(stage, foreign, &["kube-proxy-", "coredns-"])
    }

    /// As [`Before::unharmed`], with the beginnings of the names of pods that may be made anew.
    pub fn unharmed_but(&self, stage: &mut Stage, foreign: &Foreign, anew: &[&str]) -> Result<()> {
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
                None if anew.iter().any(|begin| name.starts_with(begin)) => {}
                None => drop(gone.insert(name)),
                Some((_, now)) if now != restarts => drop(restarted.insert(name)),
                Some(_) => {}
            }
        }
        stage.check_eq(
            &format!("no pod went but those of {anew:?}"),
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

/// A conversion is refused with these codes; returns what it said.
pub fn refused(stage: &mut Stage, file: &str, codes: &[&str]) -> Result<String> {
    let output = stage.quorate(&["convert", "--yes", "-f", file])?;
    let words = said(&output);
    let all = codes.iter().all(|code| words.contains(code));
    stage.check_eq(
        &format!("a conversion is refused: {}", codes.join(", ")),
        &(output.status.code(), all),
        &(Some(3), true),
    );
    if !all {
        stage.say(&tail(&words, 40));
    }
    Ok(words)
}

/// Nobody has joined the one master.
pub fn alone(stage: &mut Stage, hosts: &Bare) -> Result<()> {
    let voters = voters(hosts, MASTER)?;
    stage.check_eq(
        "there is still one member, says etcdctl",
        &(members(hosts, MASTER)?.len(), voters),
        &(1, [MASTER.to_owned()].into()),
    );
    Ok(())
}

/// There is nothing left to take back.
pub fn nothing_to_undo(stage: &mut Stage, file: &str) -> Result<()> {
    let again = stage.succeed(&["convert", "--undo", "--yes", "-f", file])?;
    stage.check(
        "there is nothing more to take back",
        said(&again).to_lowercase().contains("nothing to do"),
    );
    Ok(())
}

/// The kubeconfig of an administrator who goes on with the old address.
pub fn old_kubeconfig(stage: &Stage, hosts: &Bare) -> Result<PathBuf> {
    let path = stage.directory.join("old.conf");
    fs::write(&path, hosts.run(MASTER, "cat /etc/kubernetes/admin.conf")?)?;
    Ok(path)
}

/// The same led to the endpoint, as `quorate` does it for its owner.
pub fn new_kubeconfig(stage: &mut Stage, old: &Path, file: &str) -> Result<PathBuf> {
    let path = stage.directory.join("new.conf");
    fs::copy(old, &path)?;
    let name = path.display().to_string();
    stage.succeed(&["kubeconfig", "rewrite", &name, "-f", file])?;
    Ok(path)
}

/// Where the endpoint's balancer answers, whose name this machine does not resolve.
pub fn balancer(hosts: &Bare) -> Result<SocketAddr> {
    Ok(SocketAddr::new(hosts.address("lb-1")?.into(), 6443))
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

/// All hosts there are.
pub fn names() -> Vec<&'static str> {
    let blank = BLANK.iter().map(|(host, _)| *host);
    [MASTER].into_iter().chain(WORKERS).chain(blank).collect()
}

/// The file of the cluster as it shall be: three masters behind a balancer, under the name that [`endpoint`] tells.
pub fn cluster_file(stage: &Stage, hosts: &Bare, name: &str) -> Result<String> {
    let (address, key) = (hosts.address("lb-1")?, hosts.identity("lb-1")?);
    let balancer = format!(
        "hosts: [{{ name: lb-1, address: {address}, identity: {} }}]",
        key.display()
    );
    file_with(stage, hosts, name, &balancer, &MASTERS)
}

/// The same with these masters, behind Quorate's balancer as it is said there.
pub fn file_with(
    stage: &Stage,
    hosts: &Bare,
    name: &str,
    balancer: &str,
    masters: &[&str],
) -> Result<String> {
    let line = |host: &str| -> Result<String> {
        let (address, key) = (hosts.address(host)?, hosts.identity(host)?);
        Ok(format!(
            "  - {{ name: {host}, address: {address}, identity: {} }}\n",
            key.display()
        ))
    };
    let mut text = format!(
        "apiVersion: quorate/v1\nname: {name}\nkubernetes: {}\n\
         endpoint:\n  host: {}\n  hostsFile: managed\n  balancer: {{ kind: quorate, {balancer} }}\n",
        stage.kubernetes(),
        endpoint(name),
    );
    text += "controlPlane:\n  hosts:\n";
    for host in masters {
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

/// Everything of the hosts and the cluster that a conversion changes and its undo puts back.
pub fn kept(foreign: &Foreign) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for host in [MASTER].into_iter().chain(WORKERS) {
        all.extend(files(&foreign.hosts, host)?);
    }
    for (namespace, name, key) in [
        ("kube-system", "kubeadm-config", "ClusterConfiguration"),
        ("kube-system", "kubelet-config", "kubelet"),
        ("kube-system", "kube-proxy", "kubeconfig\\.conf"),
        ("kube-public", "cluster-info", "kubeconfig"),
    ] {
        let text = foreign.on_master(&format!(
            "kubectl -n {namespace} get configmap {name} -o jsonpath='{{.data.{key}}}'"
        ))?;
        all.extend(text.lines().map(|line| format!("{name}: {line}")));
    }
    Ok(all)
}

/// But for what kubectl remembers of an API.
fn files(hosts: &Bare, host: &str) -> Result<BTreeSet<String>> {
    let said = hosts.run(
        host,
        "for file in $(find /etc/kubernetes /root/.kube /var/lib/kubelet/config.yaml /var/lib/kubelet/kubeadm-flags.env -type f ! -path '/root/.kube/cache/*'); do
           echo $(sha256sum $file) $(stat -c '%a %U %G' $file)
         done 2>/dev/null",
    );
    Ok(said?
        .lines()
        .map(|line| format!("{host}: {line}"))
        .collect())
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
