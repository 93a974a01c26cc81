//! What happens by itself. Start at [`World::tick`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use quorate_plan::{
    MemberId, NodeName,
    observation::{Manifest, Node},
    quorum::needed,
};

use super::{
    World,
    etcd::{ClusterId, EtcdCluster, HEALTH_TICKS, RaftMember, entries, id_of},
    machine::{Boot, EtcdDisk, Pod},
};

/// More ticks than anything here takes: a world that has not come to rest by then never does.
const TICKS_MAX: usize = 200;

impl World {
    /// Everything goes on by one notch. Says whether anything changed.
    ///
    /// Later links of the chain from kubelet to node come first, so that each takes a tick of its own, as they do on real hosts.
    pub fn tick(&mut self) -> bool {
        let before = self.in_motion();
        self.boots();
        self.nodes();
        self.apiservers();
        self.replicate();
        self.publish();
        self.elect();
        self.start_etcds();
        self.kubelets();
        self.in_motion() != before
    }

    /// All that a tick can change: comparing it is cheaper than comparing everything.
    fn in_motion(&self) -> impl PartialEq + use<> {
        let machines: Vec<_> = self.machines.values().cloned().collect();
        (machines, self.clusters.clone())
    }

    /// Ticks until nothing changes any more.
    ///
    /// # Panics
    /// When it never comes to rest: a bug of these rules.
    pub fn settle(&mut self) {
        for _ in 0..TICKS_MAX {
            if !self.tick() {
                return;
            }
        }
        panic!("the world did not come to rest within {TICKS_MAX} ticks");
    }

    /// Machines get up: first they answer, then their units run.
    fn boots(&mut self) {
        let booting: Vec<NodeName> = self
            .machines
            .iter()
            .filter(|(_, machine)| machine.on() && machine.memory.boot.is_some())
            .map(|(node, _)| node.clone())
            .collect();
        for node in booting {
            let boot = &mut self.machine_mut(&node).memory.boot;
            *boot = match *boot {
                Some(Boot { silent, starting }) if silent > 0 => Some(Boot {
                    silent: silent - 1,
                    starting,
                }),
                Some(Boot { starting, .. }) if starting > 0 => Some(Boot {
                    silent: 0,
                    starting: starting - 1,
                }),
                Some(_) | None => None,
            };
        }
    }

    /// Kubelets start the static pods of manifests, and end those whose manifest is gone. Pods outlive their kubelet.
    fn kubelets(&mut self) {
        for machine in self.machines.values_mut() {
            if !machine.active("kubelet") || !machine.active("containerd") {
                continue;
            }
            let pods: BTreeMap<String, Pod> = machine
                .disk
                .manifests
                .keys()
                .map(|name| {
                    let pod = match (name.as_str(), machine.memory.pods.get(name)) {
                        ("etcd" | "kube-apiserver", Some(pod)) => pod.clone(),
                        ("etcd" | "kube-apiserver", None) => Pod::Starting,
                        // What depends on nothing else answers at once.
                        _ => Pod::Serving,
                    };
                    (name.clone(), pod)
                })
                .collect();
            if pods != machine.memory.pods {
                Arc::make_mut(machine).memory.pods = pods;
            }
        }
    }

    /// etcd processes that have no data yet find out what they are; the others go on with what their data says.
    fn start_etcds(&mut self) {
        let nodes: Vec<NodeName> = self.machines.keys().cloned().collect();
        for node in nodes {
            let machine = self.machine(&node);
            if !machine.on() || !machine.memory.pods.contains_key("etcd") {
                continue;
            }
            let Some(manifest) = machine.disk.manifests.get("etcd").cloned() else {
                continue;
            };
            let started = match machine.disk.etcd.clone() {
                Some(disk) => self.restarts(&node, &disk),
                None => self.bootstrap(&node, &manifest),
            };
            let was = &self.machine(&node).memory.pods["etcd"];
            let is = match started {
                Err(words) => Pod::Crashing(words),
                Ok(()) if matches!(was, Pod::Crashing(_)) => Pod::Starting,
                Ok(()) => continue,
            };
            if is != *was {
                let pods = &mut self.machine_mut(&node).memory.pods;
                pods.insert("etcd".into(), is);
            }
        }
    }

    /// A member with data: whoever was removed is told so by its peers, and its data is of no use any more.
    fn restarts(&self, node: &NodeName, disk: &EtcdDisk) -> Result<(), String> {
        let cluster = &self.clusters[&disk.cluster];
        let told = self
            .participants(disk.cluster)
            .iter()
            .any(|(host, _)| self.peers(node, host));
        if cluster.removed.contains(&disk.member) && told {
            Err("the member has been permanently removed from the cluster".into())
        } else {
            Ok(())
        }
    }

    fn bootstrap(&mut self, node: &NodeName, manifest: &Manifest) -> Result<(), String> {
        let machine = self.machine(node);
        if machine.disk.pki.authority.is_none() {
            return Err("open /etc/kubernetes/pki/etcd/ca.crt: no such file".into());
        }
        let own_url = format!("https://{}:2380", machine.address);
        let initial = manifest.flag("initial-cluster").unwrap_or_default();
        let disk = if manifest.flag("initial-cluster-state") == Some("existing") {
            self.joins(node, &own_url, initial)?
        } else {
            self.founds(node, &own_url, initial)?
        };
        self.machine_mut(node).disk.etcd = Some(disk);
        Ok(())
    }

    /// `--initial-cluster-state=existing` without data: the member list of a peer decides.
    fn joins(&mut self, node: &NodeName, own_url: &str, initial: &str) -> Result<EtcdDisk, String> {
        let listed = entries(initial);
        let asked = self.machines.keys().find_map(|host| {
            let (cluster, _) = self.participant(host)?;
            let url = format!("https://{}:2380", self.machine(host).address);
            let known = url != own_url && listed.iter().any(|(_, listed)| *listed == url);
            (known && self.peers(node, host)).then_some(cluster)
        });
        let id = asked.ok_or("cannot fetch cluster info from peer urls")?;
        let cluster = self.clusters.get_mut(&id).expect("somebody takes part");
        if cluster.members.len() != listed.len() {
            return Err("error validating peerURLs: member count is unequal".into());
        }
        let (member, found) = cluster
            .by_peer_url(own_url)
            .ok_or("error validating peerURLs: unmatched member while checking PeerURLs")?;
        if found.confirmed > 0 {
            // The leader remembers what it had confirmed and says so with its first heartbeat.
            return Err("tocommit is out of range [lastIndex(0)]".into());
        }
        if found.client_url.is_some() && !found.learner {
            cluster.amnesiacs.insert(member);
        }
        Ok(EtcdDisk {
            cluster: id,
            member,
            index: 0,
        })
    }

    /// A new cluster of static members. Each computes the same IDs for itself; the first one that starts brings the cluster into being.
    fn founds(
        &mut self,
        node: &NodeName,
        own_url: &str,
        initial: &str,
    ) -> Result<EtcdDisk, String> {
        let id = ClusterId(id_of(initial));
        let member = |url: &str| MemberId(id_of(&format!("{id} {url}")));
        let own = member(own_url);
        let reached = self
            .participants(id)
            .iter()
            .any(|(host, _)| self.peers(node, host));
        let cluster = self.clusters.entry(id).or_insert_with(|| EtcdCluster {
            members: entries(initial)
                .into_iter()
                .map(|(name, url)| {
                    let founder = RaftMember {
                        name,
                        peer_url: url.clone(),
                        client_url: None,
                        learner: false,
                        confirmed: 0,
                        connected: 0,
                    };
                    (member(&url), founder)
                })
                .collect(),
            ..EtcdCluster::default()
        });
        let started_before = cluster
            .members
            .get(&own)
            .is_some_and(|member| member.client_url.is_some());
        if started_before && reached {
            return Err("member has already been bootstrapped".into());
        }
        if cluster.removed.contains(&own) && reached {
            return Err("the member has been permanently removed from the cluster".into());
        }
        if started_before {
            cluster.amnesiacs.insert(own);
        }
        Ok(EtcdDisk {
            cluster: id,
            member: own,
            index: 0,
        })
    }

    /// A leader stays while it has a quorum; the longest log wins otherwise.
    fn elect(&mut self) {
        let ids: Vec<ClusterId> = self.clusters.keys().copied().collect();
        for id in ids {
            let cluster = &self.clusters[&id];
            let mut candidates: Vec<(u64, MemberId)> = self
                .participants(id)
                .iter()
                .filter(|(host, member)| {
                    !cluster.members[member].learner && self.quorum_at(id, host)
                })
                .filter_map(|(host, member)| {
                    Some((self.machine(host).disk.etcd.as_ref()?.index, *member))
                })
                .collect();
            candidates.sort_by_key(|(index, member)| (std::cmp::Reverse(*index), *member));
            let stays = cluster
                .leader
                .is_some_and(|leader| candidates.iter().any(|(_, member)| *member == leader));
            if stays {
                continue;
            }
            let next = candidates.first().map(|(_, member)| *member);
            let cluster = self.clusters.get_mut(&id).expect("listed above");
            cluster.leader = None;
            if let Some(next) = next {
                cluster.led_by(next);
                cluster.served = true;
            }
        }
    }

    /// Members that reach the leader copy its log.
    fn replicate(&mut self) {
        let ids: Vec<ClusterId> = self.clusters.keys().copied().collect();
        for id in ids {
            let index = self.clusters[&id].index;
            let mut connected = BTreeSet::new();
            for host in self.followers(id) {
                let Some(disk) = &self.machine(&host).disk.etcd else {
                    continue;
                };
                connected.insert(disk.member);
                if disk.index != index
                    && let Some(disk) = &mut self.machine_mut(&host).disk.etcd
                {
                    disk.index = index;
                }
            }
            let cluster = self.clusters.get_mut(&id).expect("listed above");
            for (member, found) in &mut cluster.members {
                if connected.contains(member) {
                    found.confirmed = index;
                    found.connected = (found.connected + 1).min(HEALTH_TICKS);
                } else {
                    found.connected = 0;
                }
            }
        }
    }

    /// Members that reach the leader tell the cluster their names and addresses, and only then answer clients.
    fn publish(&mut self) {
        let ids: Vec<ClusterId> = self.clusters.keys().copied().collect();
        for id in ids {
            for host in self.followers(id) {
                let address = self.machine(&host).address;
                let machine = self.machine_mut(&host);
                let Some(EtcdDisk { member, .. }) = machine.disk.etcd else {
                    continue;
                };
                if machine.memory.pods.get("etcd") != Some(&Pod::Starting) {
                    continue;
                }
                machine.memory.pods.insert("etcd".into(), Pod::Serving);
                let name = machine
                    .disk
                    .manifests
                    .get("etcd")
                    .and_then(|manifest| manifest.flag("name"))
                    .unwrap_or_default()
                    .to_owned();
                let cluster = self.clusters.get_mut(&id).expect("listed above");
                if let Some(member) = cluster.members.get_mut(&member) {
                    member.name = name;
                    member.client_url = Some(format!("https://{address}:2379"));
                    cluster.index += 1;
                }
            }
        }
    }

    /// Hosts of that cluster's participants that reach its leader, the leader included.
    fn followers(&self, id: ClusterId) -> Vec<NodeName> {
        let cluster = &self.clusters[&id];
        let participants = self.participants(id);
        let Some((leader, _)) = participants
            .iter()
            .find(|(_, member)| Some(*member) == cluster.leader)
        else {
            return Vec::new();
        };
        if self.voters_at(id, leader) < needed(cluster.voters().count()) {
            return Vec::new();
        }
        participants
            .iter()
            .filter(|(host, _)| self.peers(leader, host))
            .map(|(host, _)| host.clone())
            .collect()
    }

    /// An apiserver answers once it reached its own etcd; from then on it does so until it ends, well or ill.
    fn apiservers(&mut self) {
        let nodes: Vec<NodeName> = self.machines.keys().cloned().collect();
        for node in nodes {
            let machine = self.machine(&node);
            if machine.on()
                && machine.memory.pods.get("kube-apiserver") == Some(&Pod::Starting)
                && self.etcd_client(&node).is_ok()
            {
                self.machine_mut(&node)
                    .memory
                    .pods
                    .insert("kube-apiserver".into(), Pod::Serving);
            }
        }
    }

    /// Kubelets register their nodes and tell how they are; the apiservers that are alive are the service's addresses.
    fn nodes(&mut self) {
        let ready = self.ready();
        let nodes: Vec<NodeName> = self.machines.keys().cloned().collect();
        for node in &nodes {
            let machine = self.machine(node);
            let (address, version) = (machine.address, machine.disk.kubernetes.clone());
            let runs = machine.active("kubelet") && machine.active("containerd");
            let server = machine.disk.kubeconfigs.get("kubelet.conf");
            let own = format!("https://{address}:6443");
            let through = match server {
                Some(server) if runs && *server == own => {
                    ready.contains(node).then(|| node.clone())
                }
                Some(server) if runs => self
                    .master_at(node, server)
                    .or_else(|| self.through_endpoint(node)),
                _ => None,
            };
            if let Some(api) = through
                && let Some(id) = self.api_ready(&api)
            {
                let kube = &mut self.clusters.get_mut(&id).expect("it is served").kube;
                let networked = kube
                    .notes
                    .as_ref()
                    .is_some_and(|notes| notes.contains_key("network"))
                    || self.foreign;
                let object = kube.nodes.entry(node.clone()).or_insert_with(|| Node {
                    ready: false,
                    reason: String::new(),
                    pressures: BTreeSet::new(),
                    control_plane: false,
                    tainted: false,
                    kubelet: version,
                    addresses: [address].into(),
                    heartbeat: None,
                });
                kube.silent_since.remove(node);
                object.ready = networked;
                object.reason = if networked {
                    String::new()
                } else {
                    "container runtime network not ready".into()
                };
            }
        }
        let now_ms = self.now_ms;
        for api in &ready {
            let Some(id) = self.api_ready(api) else {
                continue;
            };
            let alive = |node: &NodeName| {
                self.machines
                    .get(node)
                    .is_some_and(|machine| machine.active("kubelet") && !machine.isolated)
            };
            let silent: Vec<NodeName> = self.clusters[&id]
                .kube
                .nodes
                .keys()
                .filter(|node| !alive(node))
                .cloned()
                .collect();
            let endpoints = ready
                .iter()
                .filter(|node| self.api_ready(node) == Some(id))
                .map(|node| self.machine(node).address)
                .chain(self.clusters[&id].kube.stale_endpoints.iter().copied())
                .collect();
            let kube = &mut self.clusters.get_mut(&id).expect("it is served").kube;
            for node in silent {
                kube.silent_since.entry(node.clone()).or_insert(now_ms);
                if let Some(object) = kube.nodes.get_mut(&node) {
                    object.ready = false;
                    object.reason = "Kubelet stopped posting node status.".into();
                }
            }
            kube.endpoints = endpoints;
        }
    }
}
