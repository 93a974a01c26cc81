//! What every host gets before the first of them is changed for the cluster's sake. Start at [`Convergence::hosts`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use super::{Convergence, situation};
use crate::{
    NodeName,
    kubeadm::RuntimeSettings,
    observation::HostMark,
    planner::{Draft, old_address, preflight},
    ports,
    spec::{Cni, Role},
    step::{HostEnsure, Reason, Step},
};

impl Convergence<'_> {
    /// All hosts, before the first of them is changed for the cluster's sake: host 3 has its images before host 2 joins.
    pub(in crate::planner) fn hosts(&self, draft: &mut Draft) {
        let hosts_file: BTreeMap<String, IpAddr> =
            match (self.spec.hosts_file, self.spec.endpoint_address()) {
                (true, Some(address)) if self.spec.endpoint.host.parse::<IpAddr>().is_err() => {
                    [(self.spec.endpoint.host.clone(), address)].into()
                }
                _ => BTreeMap::new(),
            };
        let mut steps = Vec::new();
        for (node, _, role) in self.spec.machines() {
            if !self.meant(node) {
                continue;
            }
            let mark = HostMark {
                cluster: self.spec.name.clone(),
                node: node.clone(),
                disposable: self.spec.local(),
            };
            let prepared = HostEnsure::Prepared {
                mark,
                sysctls: sysctls(role),
                hosts_file: hosts_file.clone(),
            };
            steps.push(self.host(node, prepared, Reason::Prerequisite));
            let balancer = |port| {
                let listen = SocketAddr::new([0, 0, 0, 0].into(), port);
                let binary = self.intent.binary.clone();
                self.host(
                    node,
                    HostEnsure::Balancer { listen, binary },
                    Reason::Prerequisite,
                )
            };
            if role == Role::ControlPlane && self.spec.shared_address().is_some() {
                steps.push(self.host(node, HostEnsure::Keepalived {}, Reason::Prerequisite));
                steps.push(balancer(ports::BALANCER_ON_MASTER));
            }
            match role {
                Role::Balancer => steps.push(balancer(self.spec.endpoint.port)),
                // What somebody else installed there runs a node already, and stays.
                Role::ControlPlane | Role::Worker if situation::foreign(self.seen, node) => {}
                Role::ControlPlane | Role::Worker => {
                    // First of all: it may be refused for what is on it. A founder that was made anew is still listed by now.
                    if !self.late.contains(node) {
                        steps.extend(self.etcd_volume(node));
                    }
                    self.components(&mut steps, node, role);
                }
            }
        }
        draft.stage(self.seen, "Prepare the hosts", None, steps);
        old_address::follow(self.intent, self.seen, draft);
    }

    /// A master's own disk for etcd, where the file names one; none where it was accepted by name that it cannot be had.
    pub(super) fn etcd_volume(&self, node: &NodeName) -> Option<Step> {
        let machine = self.spec.control_plane.get(node)?;
        let refused = self
            .seen
            .host(node)
            .and_then(|facts| preflight::etcd_volume(node, facts));
        if let Ok(Some(refusal)) = refused
            && refusal.accepted(&self.intent.accepted)
        {
            return None;
        }
        let volume = HostEnsure::EtcdVolume {
            node: self.peer(node),
            device: machine.etcd_device.clone()?,
        };
        Some(self.host(node, volume, Reason::Prerequisite))
    }

    fn components(&self, steps: &mut Vec<Step>, node: &NodeName, role: Role) {
        let bundle = &self.intent.bundle;
        let image = |role: &str| bundle.images.get(role).cloned().unwrap_or_default();
        let mut images: BTreeSet<String> = ["kube-proxy", "pause"].map(image).into();
        match self.spec.network.cni {
            Cni::Flannel => {
                images.insert(image("flannel"));
            }
            Cni::None | Cni::Manifest { .. } => {}
        }
        if self.settings.adopted.is_some() {
            // What its pod network is nobody told; where it is the bundle's there may be no registry that has it.
            images.extend(bundle.images.get("flannel").cloned());
        }
        // Cluster DNS may be scheduled anywhere once its first master is gone.
        images.insert(image("coredns"));
        match role {
            Role::ControlPlane => {
                images.extend(
                    [
                        "etcd",
                        "kube-apiserver",
                        "kube-controller-manager",
                        "kube-scheduler",
                    ]
                    .map(image),
                );
            }
            Role::Worker | Role::Balancer => {}
        }
        let runtime = RuntimeSettings {
            pause_image: image("pause"),
            kind: self.settings.kind,
        };
        for ensure in [
            HostEnsure::Bundle {
                id: bundle.id.clone(),
            },
            HostEnsure::Components {
                bundle: bundle.id.clone(),
                runtime,
                packages: self.spec.packages.clone(),
            },
            HostEnsure::Images {
                bundle: bundle.id.clone(),
                images,
            },
        ] {
            steps.push(self.host(node, ensure, Reason::Prerequisite));
        }
    }
}

/// Kernel settings a role needs.
fn sysctls(role: Role) -> BTreeMap<String, String> {
    let settings: &[(&str, &str)] = match role {
        // kubeadm's preflight asks for forwarding; without the limits a busy host's kubelet silently stops seeing its manifests.
        Role::ControlPlane | Role::Worker => &[
            ("net.ipv4.ip_forward", "1"),
            ("fs.inotify.max_user_instances", "8192"),
            ("fs.inotify.max_user_watches", "1048576"),
        ],
        Role::Balancer => &[],
    };
    settings
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}
