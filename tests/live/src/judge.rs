//! Judges that share no code with Quorate: kubectl against the API, etcdctl on a master, a listing of files. Start at [`Api`].

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{bare::Bare, stage::Stage};

/// Calls etcdctl on a control plane host, with the certificates that lie there.
pub const ETCDCTL: &str = "ETCDCTL_API=3 etcdctl --endpoints https://127.0.0.1:2379 --cacert /etc/kubernetes/pki/etcd/ca.crt \
                           --cert /etc/kubernetes/pki/etcd/server.crt --key /etc/kubernetes/pki/etcd/server.key";

/// The API through the endpoint, as an administrator reaches it from this machine.
pub struct Api {
    kubeconfig: PathBuf,
    /// Flags before the command, where this machine does not resolve the endpoint's name.
    flags: Vec<String>,
}

impl Api {
    /// The API of a cluster file, by `quorate kubeconfig`. `endpoint`: name and address, where this machine does not resolve the name.
    pub fn of(stage: &mut Stage, file: &str, endpoint: Option<(&str, &str)>) -> Result<Self> {
        let kubeconfig = stage.directory.join("kubeconfig");
        let out = kubeconfig.display().to_string();
        stage.succeed(&["kubeconfig", "-f", file, "--force", "--out", &out])?;
        let flags = endpoint.map_or(vec![], |(name, address)| {
            vec![
                "--server".into(),
                format!("https://{address}:6443"),
                "--tls-server-name".into(),
                name.into(),
            ]
        });
        Ok(Self { kubeconfig, flags })
    }

    /// Runs kubectl.
    pub fn kubectl(&self, stage: &Stage, arguments: &[&str]) -> Result<String> {
        let all: Vec<&str> = self
            .flags
            .iter()
            .map(String::as_str)
            .chain(arguments.iter().copied())
            .collect();
        stage.kubectl(&self.kubeconfig, &all)
    }

    fn json(&self, stage: &Stage, arguments: &[&str]) -> Result<Value> {
        let text = self.kubectl(stage, &[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).context("kubectl prints JSON")
    }

    /// Nodes that are Ready, by name.
    pub fn ready(&self, stage: &Stage) -> Result<BTreeSet<String>> {
        let nodes = self.json(stage, &["get", "nodes"])?;
        let nodes = nodes["items"].as_array().context("kubectl lists nodes")?;
        Ok(nodes
            .iter()
            .filter(|node| {
                let conditions = node["status"]["conditions"].as_array();
                conditions.is_some_and(|all| {
                    all.iter()
                        .any(|one| one["type"] == "Ready" && one["status"] == "True")
                })
            })
            .filter_map(|node| Some(node["metadata"]["name"].as_str()?.to_owned()))
            .collect())
    }

    /// Waits until the others miss a node that lost power.
    pub fn misses(&self, stage: &mut Stage, node: &str) {
        stage.wait(
            &format!("{node} is missed by the others"),
            Duration::from_secs(120),
            |stage| self.ready(stage).is_ok_and(|ready| !ready.contains(node)),
        );
    }

    /// Addresses behind the `kubernetes` service.
    pub fn serving(&self, stage: &Stage) -> Result<BTreeSet<String>> {
        let slice = self.json(stage, &["get", "endpointslices", "kubernetes"])?;
        let endpoints = slice["endpoints"].as_array();
        Ok(endpoints
            .into_iter()
            .flatten()
            .flat_map(|one| one["addresses"].as_array().into_iter().flatten())
            .filter_map(|address| Some(address.as_str()?.to_owned()))
            .collect())
    }

    /// Secrets that are only for joining: nothing of them is left.
    pub fn no_join_secrets(&self, stage: &mut Stage) -> Result<()> {
        let names = ["-n", "kube-system", "get", "secrets", "-o", "name"];
        let secrets = self.kubectl(stage, &names)?;
        stage.check(
            "no bootstrap token and no certificate secret is left",
            !secrets.contains("bootstrap-token") && !secrets.contains("kubeadm-certs"),
        );
        Ok(())
    }

    /// Everything there is, and nothing else: Ready nodes, started voters, addresses of the `kubernetes` service.
    pub fn whole(
        &self,
        stage: &mut Stage,
        hosts: &Bare,
        masters: &[&str],
        workers: &[&str],
    ) -> Result<()> {
        let names = |groups: &[&[&str]]| -> BTreeSet<String> {
            groups
                .concat()
                .iter()
                .map(|one| (*one).to_owned())
                .collect()
        };
        let ready = self.ready(stage)?;
        stage.check_eq(
            "all nodes are Ready, says kubectl",
            &ready,
            &names(&[masters, workers]),
        );
        let voters = voters(hosts, masters[0])?;
        stage.check_eq(
            "every master is a started voter, says etcdctl",
            &voters,
            &names(&[masters]),
        );
        let addresses = masters
            .iter()
            .map(|host| Ok(hosts.address(host)?.to_string()))
            .collect::<Result<BTreeSet<_>>>()?;
        let serving = self.serving(stage)?;
        stage.check_eq(
            "the `kubernetes` service has every master's address",
            &serving,
            &addresses,
        );
        Ok(())
    }
}

/// A member of etcd as `etcdctl member list` tells it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// In hexadecimal.
    pub id: String,
    pub started: bool,
    pub name: String,
    pub learner: bool,
}

/// All members, asked on one host.
pub fn members(hosts: &Bare, on: &str) -> Result<BTreeSet<Member>> {
    let list = hosts.run(on, &format!("{ETCDCTL} member list"))?;
    list.lines()
        .map(|line| {
            let cells: Vec<&str> = line.split(", ").collect();
            let [id, state, name, .., learner] = cells[..] else {
                anyhow::bail!("etcdctl prints `{line}`");
            };
            Ok(Member {
                id: id.to_owned(),
                started: state == "started",
                name: name.to_owned(),
                learner: learner.trim() == "true",
            })
        })
        .collect()
}

/// Started voters by name, asked on one host.
pub fn voters(hosts: &Bare, on: &str) -> Result<BTreeSet<String>> {
    Ok(members(hosts, on)?
        .into_iter()
        .filter(|member| member.started && !member.learner)
        .map(|member| member.name)
        .collect())
}

/// The master whose etcd says that it leads.
pub fn leader(hosts: &Bare, masters: &[&str]) -> Result<String> {
    for master in masters {
        let status = hosts.run(master, &format!("{ETCDCTL} endpoint status -w json"))?;
        let status: Value = serde_json::from_str(&status)?;
        let status = &status[0]["Status"];
        if status["leader"] == status["header"]["member_id"] {
            return Ok((*master).to_owned());
        }
    }
    anyhow::bail!("none of {masters:?} leads etcd")
}

/// Every file that Quorate, kubeadm or an administrator would have changed on these hosts, with its size and time.
///
/// Left out is what changes by itself: what programs keep of their own running, and the binary that is brought there to look.
pub fn listings(hosts: &Bare, on: &[&str]) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for host in on {
        let said = hosts.run(
            host,
            "find /etc /var/lib /usr/local /opt /root /home -xdev \\( \
             -path /var/lib/systemd -o -path /var/lib/sudo -o -path /var/lib/private -o -path /var/lib/dbus \
             -o -path /var/lib/kubelet/pods -o -path /var/lib/kubelet/plugins -o -path /var/lib/etcd -o -path /var/lib/quorate/bin \
             -o -path /var/lib/containerd -o -path /var/lib/cni \
             -o -name fence.json -o -name cpu_manager_state -o -name memory_manager_state -o -name ld.so.cache \\) \
             -prune -o \\( -type f -o -type l \\) -printf '%p %s %T@ %m %U\\n'",
        )?;
        all.extend(said.lines().map(|line| format!("{host}: {line}")));
    }
    Ok(all)
}

/// Checks that two listings are the same, and shows what differs when they are not.
pub fn same(stage: &mut Stage, what: &str, after: &BTreeSet<String>, before: &BTreeSet<String>) {
    stage.check(what, after == before);
    let (new, gone) = (after.difference(before), before.difference(after));
    let lines = new
        .map(|line| format!("+ {line}"))
        .chain(gone.map(|line| format!("- {line}")));
    for line in lines.take(20) {
        stage.say(&format!("        {line}"));
    }
}
