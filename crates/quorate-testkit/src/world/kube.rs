//! The rules of kubeadm's control plane: when an apiserver is ready, who reaches it, and what it keeps. Start at [`World::api_ready`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use quorate_plan::{
    NodeName,
    kubeadm::Peer,
    observation::{KubeadmConfig, Node, Readyz},
};

use super::{
    ClusterId, World,
    act::{ActError, failed},
    foreign::ForeignKube,
};

/// What Kubernetes keeps in etcd.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Kube {
    /// Node objects.
    pub nodes: BTreeMap<NodeName, Node>,
    /// The `kubeadm-config` ConfigMap.
    pub kubeadm: Option<KubeadmConfig>,
    /// The server in `cluster-info`.
    pub cluster_info: Option<String>,
    /// DaemonSets and Deployments.
    pub workloads: BTreeSet<String>,
    /// Quorate's notes.
    pub notes: Option<BTreeMap<String, String>>,
    /// Bootstrap tokens that Quorate made.
    pub tokens: BTreeSet<String>,
    /// How many were ever made: no two are the same.
    pub tokens_made: u32,
    /// Addresses of the `kubernetes` service.
    pub endpoints: BTreeSet<IpAddr>,
    /// Addresses among them whose apiservers ended without a word, and that nobody takes out.
    pub stale_endpoints: BTreeSet<IpAddr>,
    /// Since when a node's kubelet has not renewed its lease, in milliseconds of [`World::now_ms`]. Not in it: it does all the time.
    pub silent_since: BTreeMap<NodeName, u64>,
    /// The Secret `kubeadm-certs` is there.
    pub uploaded_certs: bool,
    /// What only a conversion is about.
    pub foreign: ForeignKube,
}

impl Kube {
    /// Node objects as an apiserver tells them at that time.
    pub fn nodes(&self, now_ms: u64) -> BTreeMap<NodeName, Node> {
        let mut nodes = self.nodes.clone();
        for (node, object) in &mut nodes {
            let since = self.silent_since.get(node).copied().unwrap_or(now_ms);
            object.heartbeat = Some(Duration::from_millis(now_ms.saturating_sub(since)));
        }
        nodes
    }
}

impl World {
    /// The cluster that this host's apiserver serves, when its `/readyz` says ok: it runs, and its own etcd is a started voter with a
    /// quorum.
    pub fn api_ready(&self, node: &NodeName) -> Option<ClusterId> {
        let machine = self.machine(node);
        if !machine.serves("kube-apiserver") {
            return None;
        }
        self.etcd_client(node).ok().map(|(cluster, _)| cluster)
    }

    /// Hosts whose apiservers are ready.
    pub fn ready(&self) -> BTreeSet<NodeName> {
        self.machines
            .keys()
            .filter(|node| self.api_ready(node).is_some())
            .cloned()
            .collect()
    }

    /// What a ready apiserver on that host writes to.
    pub fn kube_mut(&mut self, node: &NodeName) -> Option<&mut Kube> {
        let id = self.api_ready(node)?;
        let cluster = self.clusters.get_mut(&id)?;
        cluster.index += 1;
        Some(&mut cluster.kube)
    }

    /// An apiserver's answer to `/readyz`. `None`: nobody listens.
    pub fn readyz(&self, node: &NodeName) -> Option<Readyz> {
        if !self.machine(node).serves("kube-apiserver") {
            return None;
        }
        Some(match self.api_ready(node) {
            Some(_) => Readyz {
                ready: true,
                status: 200,
                failing: BTreeSet::new(),
            },
            None => Readyz {
                ready: false,
                status: 500,
                failing: ["etcd".to_owned()].into(),
            },
        })
    }

    /// A balancer forwards to that apiserver. It verifies by the authority that was handed over, or by the one that a master has itself.
    ///
    /// # Errors
    /// When there is no balancer, or nothing to verify by.
    pub(super) fn backend(
        &mut self,
        node: &NodeName,
        backend: Peer,
        address: SocketAddr,
        ca: Option<String>,
    ) -> Result<(), ActError> {
        let disk = &mut self.machine_mut(node).disk;
        let config = disk
            .balancer
            .as_mut()
            .ok_or_else(|| failed("there is no balancer here"))?;
        let known = ca.or_else(|| config.cluster_ca.clone());
        let known = known.or_else(|| disk.pki.cluster_ca.clone());
        let known = known.ok_or_else(|| failed("the cluster's CA was not handed over"))?;
        config.cluster_ca = Some(known);
        config.backends.insert(backend.name.clone(), address);
        self.led_to(&backend.name);
        Ok(())
    }

    /// Masters that a balancer sends new connections to: configured, ready, and with the authority that it verifies by.
    pub fn up(&self, balancer: &NodeName) -> BTreeSet<NodeName> {
        let machine = self.machine(balancer);
        let Some(config) = &machine.disk.balancer else {
            return BTreeSet::new();
        };
        if !machine.active("quorate-lb") {
            return BTreeSet::new();
        }
        config
            .backends
            .keys()
            .filter(|node| {
                self.machines.contains_key(*node)
                    && self.connected(balancer, node)
                    && self.api_ready(node).is_some()
                    && self.machine(node).disk.pki.cluster_ca == config.cluster_ca
            })
            .cloned()
            .collect()
    }

    /// What the endpoint's name resolves to on that host.
    pub fn resolved(&self, node: &NodeName) -> BTreeSet<IpAddr> {
        let host = &self.endpoint.host;
        let listed = || self.machine(node).disk.hosts_file.get(host).copied();
        match host.parse().ok().or_else(listed) {
            Some(address) => [address].into(),
            None => self.resolves.clone(),
        }
    }

    /// The address that a client there comes to: the first that leads on, or the first at all.
    pub fn tried_first(&self, node: &NodeName) -> Option<IpAddr> {
        let addresses = self.resolved(node);
        let leads = |address: &&IpAddr| self.through(node, **address).is_some();
        let leads_on = addresses.iter().find(leads);
        leads_on.or(addresses.first()).copied()
    }

    /// The master that a connection from that host through the endpoint ends at.
    pub fn through_endpoint(&self, node: &NodeName) -> Option<NodeName> {
        let addresses = self.resolved(node);
        addresses
            .into_iter()
            .find_map(|address| self.through(node, address))
    }

    fn through(&self, node: &NodeName, address: IpAddr) -> Option<NodeName> {
        if let Some(holder) = self.holder(node, address) {
            let up = self.up(holder).into_iter().next();
            return up.or_else(|| self.open_way(holder));
        }
        match self.at(address) {
            Some((there, machine)) if self.connected(node, there) => {
                // A master's own port is its apiserver's, whatever balances there.
                if machine.disk.balancer.is_some() && machine.disk.sharing.share.is_none() {
                    let up = self.up(there).into_iter().next();
                    up.or_else(|| self.open_way(there))
                } else {
                    self.api_ready(there).map(|_| there.clone())
                }
            }
            Some(_) => None,
            // Somebody else's balancer: it knows every ready apiserver.
            None => match &self.nlb {
                Some(nlb) => self.through_nlb(nlb),
                None => self.ready().into_iter().find(|_| self.users_balancer),
            },
        }
    }

    /// Nobody is ready: the balancer fails open to whoever accepts a connection at all.
    fn open_way(&self, balancer: &NodeName) -> Option<NodeName> {
        let machine = self.machine(balancer);
        let config = machine.disk.balancer.as_ref()?;
        let mut backends = config.backends.keys();
        backends
            .find(|node| {
                machine.active("quorate-lb")
                    && self.machines.contains_key(*node)
                    && self.connected(balancer, node)
                    && self.readyz(node).is_some()
            })
            .cloned()
    }
}
