//! Leaving, and what comes before a join: the effects of the end states by which a master goes. Start at [`World::leaves`].

use std::collections::{BTreeMap, BTreeSet};

use quorate_plan::{
    MemberId, NodeName,
    kubeadm::{ClusterSettings, Peer},
    observation::{Manifest, Pki, Rehearsal},
    step::HostEnsure,
};

use super::{
    World,
    act::{ActError, failed, not_yet},
};

/// Static pods of a control plane besides etcd.
pub(super) const CONTROL_PLANE: [&str; 3] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
];

/// etcd's static pod manifest on a host.
pub(super) fn etcd_manifest(
    settings: &ClusterSettings,
    peer: &Peer,
    initial: &str,
    state: &str,
) -> Manifest {
    Manifest {
        image: settings.images.get("etcd").cloned().unwrap_or_default(),
        flags: vec![
            format!("--name={}", peer.name),
            "--data-dir=/var/lib/etcd".to_owned(),
            format!("--initial-advertise-peer-urls={}", peer.peer_url()),
            format!("--initial-cluster={initial}"),
            format!("--initial-cluster-state={state}"),
        ],
        mounts: ["/etc/kubernetes/pki/etcd", "/var/lib/etcd"]
            .map(str::to_owned)
            .into(),
        files: BTreeMap::new(),
    }
}

/// The manifests of a control plane besides etcd.
pub(super) fn control_plane_manifests(
    settings: &ClusterSettings,
    peer: &Peer,
) -> BTreeMap<String, Manifest> {
    CONTROL_PLANE
        .into_iter()
        .map(|name| {
            let flags = if name == "kube-apiserver" {
                vec![
                    format!("--advertise-address={}", peer.address),
                    format!("--service-cluster-ip-range={}", settings.services),
                ]
            } else {
                Vec::new()
            };
            let manifest = Manifest {
                image: settings.images.get(name).cloned().unwrap_or_default(),
                flags,
                mounts: BTreeSet::new(),
                files: BTreeMap::new(),
            };
            (name.to_owned(), manifest)
        })
        .collect()
}

impl World {
    /// The effect of an end state by which something leaves.
    ///
    /// # Errors
    /// What the host says.
    pub(super) fn leaves(&mut self, node: &NodeName, ensure: &HostEnsure) -> Result<(), ActError> {
        match ensure {
            HostEnsure::Rehearsed {
                settings,
                node: peer,
            } => self.rehearse(node, settings, peer),
            HostEnsure::LeaderMoved { member, to } => self.move_leader(node, *member, to),
            HostEnsure::BackendGone { backend } => {
                if let Some(balancer) = &mut self.machine_mut(node).disk.balancer {
                    balancer.backends.remove(backend);
                }
                Ok(())
            }
            HostEnsure::ControlPlaneGone { .. } => self.end_control_plane(node),
            HostEnsure::MemberGone { member, .. } => self.member_gone(node, *member),
            HostEnsure::NodeGone { node: gone } => {
                let kube = self.own_kube(node)?;
                kube.nodes.remove(gone);
                kube.silent_since.remove(gone);
                Ok(())
            }
            HostEnsure::EndpointGone { addresses } => {
                let kube = self.own_kube(node)?;
                for address in addresses {
                    kube.stale_endpoints.remove(address);
                    kube.endpoints.remove(address);
                }
                Ok(())
            }
            HostEnsure::Reset { .. } => self.reset(node),
            HostEnsure::UploadedCertsGone {} => {
                self.own_kube(node)?.uploaded_certs = false;
                Ok(())
            }
            other => unreachable!("`{other}` does not make anything leave"),
        }
    }

    fn rehearse(
        &mut self,
        node: &NodeName,
        settings: &ClusterSettings,
        peer: &Peer,
    ) -> Result<(), ActError> {
        let machine = self.machine_mut(node);
        if machine.disk.components.is_none() {
            return Err(failed("kubeadm is not installed"));
        }
        let mut manifests = control_plane_manifests(settings, peer);
        let own = format!("{}={}", peer.name, peer.peer_url());
        manifests.insert("etcd".into(), etcd_manifest(settings, peer, &own, "new"));
        machine.disk.rehearsed = Some(Rehearsal {
            settings: settings.digest(),
            manifests,
        });
        Ok(())
    }

    /// `move-leader`: only the leader takes it, and only to a voter.
    fn move_leader(
        &mut self,
        node: &NodeName,
        member: MemberId,
        to: &BTreeSet<Peer>,
    ) -> Result<(), ActError> {
        let (id, own) = self.etcd_client(node).map_err(not_yet)?;
        if own != member {
            return Err(failed(format!("etcd here is member {own}")));
        }
        if self.clusters[&id].leader != Some(own) {
            return Ok(());
        }
        let target = self
            .participants(id)
            .into_iter()
            .filter(|(host, of)| {
                let found = &self.clusters[&id].members[of];
                !found.learner
                    && self.peers(node, host)
                    && to.iter().any(|peer| peer.peer_url() == found.peer_url)
            })
            .map(|(_, of)| of)
            .next();
        let target = target.ok_or_else(|| not_yet("none of those who may lead takes part"))?;
        let cluster = self.clusters.get_mut(&id).expect("a client has a cluster");
        cluster.led_by(target);
        Ok(())
    }

    /// The kubelet ends what has no manifest any more; a graceful end takes the apiserver out of the `kubernetes` service.
    fn end_control_plane(&mut self, node: &NodeName) -> Result<(), ActError> {
        let machine = self.machine_mut(node);
        for name in CONTROL_PLANE {
            machine.disk.manifests.remove(name);
        }
        if machine.memory.pods.contains_key("kube-apiserver") {
            return Err(not_yet("the apiserver has not ended yet"));
        }
        Ok(())
    }

    fn member_gone(&mut self, node: &NodeName, member: MemberId) -> Result<(), ActError> {
        match self.remove_member(node, member) {
            Ok(()) => Ok(()),
            Err(words) if words.contains("member not found") => Ok(()),
            // A voter counts as connected after 5 s only.
            Err(words) if words.contains("unhealthy cluster") => Err(not_yet(words)),
            Err(words) if words.contains("no leader") || words.contains("connection refused") => {
                Err(not_yet(words))
            }
            Err(words) => Err(failed(words)),
        }
    }

    /// Everything of the cluster goes from the host; data and keys are moved aside, the mark is taken off last.
    fn reset(&mut self, node: &NodeName) -> Result<(), ActError> {
        let machine = self.machine_mut(node);
        if machine.disk.mark.is_none() {
            return Err(failed(
                "expected a host that carries the cluster's mark: what lies here is somebody else's",
            ));
        }
        machine.memory.active.remove("kubelet");
        machine.disk.enabled.remove("kubelet");
        machine.memory.pods.clear();
        machine.disk.manifests.clear();
        machine.disk.kubeconfigs.clear();
        machine.disk.kubernetes.clear();
        let data = machine.disk.etcd.take();
        machine.disk.aside.extend(data);
        machine.disk.marker = None;
        machine.disk.founding = None;
        machine.disk.rehearsed = None;
        machine.disk.pki = Pki::default();
        if let Some(volume) = &mut machine.volume
            && machine.disk.volume_in_place
        {
            volume.mark = None;
        }
        machine.disk.mark = None;
        self.unshare(node);
        Ok(())
    }

    /// Somebody edits a static pod manifest of that host by hand.
    ///
    /// # Panics
    /// When there is no such manifest.
    pub fn edit_manifest(&mut self, node: &NodeName, file: &str, flag: &str) {
        let manifests = &mut self.machine_mut(node).disk.manifests;
        let manifest = manifests
            .get_mut(file)
            .unwrap_or_else(|| panic!("{node} has no {file}.yaml"));
        manifest.flags.push(flag.to_owned());
    }
}
