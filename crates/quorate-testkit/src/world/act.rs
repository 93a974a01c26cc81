//! Acting: a request passes [`quorate_plan::admit()`] with a fresh look of the host's own, then its effect obeys the rules. Start at
//! [`World::apply`].

use std::collections::{BTreeMap, BTreeSet};

use quorate_plan::{
    Admitted, HostEnsure, NodeName, Observation, Refusal, Request, admit,
    kubeadm::{ClusterSettings, Peer},
    observation::{
        Balancer, Certificate, Components, Fencing, Founding, KubeadmConfig, MemberMark, Package,
    },
    spec::Packages,
    standing::{Difference, differences},
    step::Network,
    wire::Outcome,
};

use super::{
    World,
    gate::{Contents, cluster_ca},
    leave::{control_plane_manifests, etcd_manifest},
};

/// kubeadm's leaves live a year, in seconds.
const CERTIFICATE_SECONDS: i64 = 365 * 86_400;

/// What lets requests in: [`gate`], or that with a bug in it.
pub type Gate = fn(Request, &Fencing, &Observation) -> Result<Admitted, ActError>;

/// A host's gate: its fence has to be this operation's, and [`admit`] has to pass.
///
/// # Errors
/// What the host says.
pub fn gate(request: Request, fencing: &Fencing, seen: &Observation) -> Result<Admitted, ActError> {
    let in_force = fencing.claim.as_ref().map(|claim| claim.fence);
    if request.fence >= fencing.highest && in_force != Some(request.fence) {
        return Err(failed(format!(
            "expected token {} to be granted on this host",
            request.fence
        )));
    }
    Ok(admit(request, fencing, seen)?)
}

/// A request that passed the gate of its host.
#[derive(Debug)]
pub struct Accepted {
    admitted: Admitted,
    changed: Vec<Difference>,
}

impl Accepted {
    /// What is to be made stand.
    pub fn ensure(&self) -> &HostEnsure {
        &self.admitted.ensure
    }

    /// What differs from it. Empty: nothing will be done.
    pub fn changed(&self) -> &[Difference] {
        &self.changed
    }
}

/// Why a host did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActError {
    /// The fence or a guard said no.
    Refused(Box<Refusal>),
    /// It did something, and what it waits for is not there yet: asking again is right.
    NotYet(String),
    /// It failed.
    Failed(String),
    /// The machine does not run.
    Gone,
}

impl From<Refusal> for ActError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

pub(super) fn failed(what: impl Into<String>) -> ActError {
    ActError::Failed(what.into())
}

pub(super) fn not_yet(what: impl Into<String>) -> ActError {
    ActError::NotYet(what.into())
}

impl World {
    /// One request, as the host that it is for treats it: accepted, then carried out as far as it goes now.
    ///
    /// # Errors
    /// What the host says. After [`ActError::NotYet`] and [`ActError::Failed`] a part of the effect may have been made.
    pub fn apply(&mut self, node: &NodeName, request: &Request) -> Result<Outcome, ActError> {
        let accepted = self.accept(node, request)?;
        self.carry_out(node, &accepted)
    }

    /// The gate: the operation has to be the one in force here, the host has to be the cluster's, and [`admit`] has to pass with a fresh
    /// look of the host's own put into the testimony. It is passed once; a higher fence stops the next action, never the running one.
    ///
    /// # Errors
    /// What the host says.
    pub fn accept(&self, node: &NodeName, request: &Request) -> Result<Accepted, ActError> {
        self.accept_by(node, request.clone(), gate)
    }

    /// The same, where something else stands in for [`gate`]: one with a bug in it.
    ///
    /// # Errors
    /// As [`World::accept`].
    pub fn accept_by(
        &self,
        node: &NodeName,
        mut request: Request,
        gate: Gate,
    ) -> Result<Accepted, ActError> {
        let machine = self.machine(node);
        if !machine.answers() {
            return Err(ActError::Gone);
        }
        // A reset ends with the mark's going: asked for once more, it has nothing left to do.
        let marked = machine.disk.mark.is_some()
            || matches!(
                request.ensure,
                HostEnsure::Prepared { .. } | HostEnsure::Reset { .. }
            );
        // What admission judges is the testimony with the host's own look in it.
        let mut seen = std::mem::take(&mut request.testimony);
        seen.record(node, quorate_plan::Seen::now(self.host_report(node)));
        let admitted = gate(request, &self.fencing(node), &seen)?;
        if !marked {
            return Err(failed("expected a host that carries a cluster's mark"));
        }
        // What cannot be told is no reason not to act: acting is idempotent.
        let changed = differences(&admitted.ensure, node, &seen)
            .unwrap_or_else(|missing| vec![Difference(missing.to_string())]);
        Ok(Accepted { admitted, changed })
    }

    /// Goes on with what was accepted; after [`ActError::NotYet`] it is asked again.
    ///
    /// # Errors
    /// As [`World::apply`].
    pub fn carry_out(&mut self, node: &NodeName, accepted: &Accepted) -> Result<Outcome, ActError> {
        if !self.machine(node).on() {
            return Err(ActError::Gone);
        }
        if !accepted.changed.is_empty() {
            self.act(node, &accepted.admitted)?;
        }
        Ok(Outcome {
            changed: accepted.changed.clone(),
            report: self.host_report(node),
        })
    }

    fn act(&mut self, node: &NodeName, admitted: &Admitted) -> Result<(), ActError> {
        let given = self.open(node, &admitted.sealed)?;
        match admitted.ensure.clone() {
            HostEnsure::Prepared {
                mark,
                sysctls,
                hosts_file,
            } => {
                let disk = &mut self.machine_mut(node).disk;
                disk.mark = Some(mark);
                disk.sysctls.extend(sysctls);
                disk.hosts_file.extend(hosts_file);
            }
            HostEnsure::EtcdVolume { .. } => self.etcd_volume(node)?,
            HostEnsure::Bundle { id } => {
                self.machine_mut(node).disk.bundles.insert(id);
            }
            HostEnsure::Components {
                bundle,
                runtime,
                packages,
            } => {
                let machine = self.machine_mut(node);
                if !machine.disk.bundles.contains(&bundle) {
                    return Err(failed(format!("bundle {bundle} is not on the host")));
                }
                machine.disk.components = Some(Components {
                    bundle,
                    differing: BTreeSet::new(),
                    configuration: runtime.digest(packages.as_ref()),
                    packages: packages.map(|packages| {
                        let version = packages.version;
                        let held = Package {
                            version,
                            held: true,
                        };
                        Packages::NAMES
                            .map(|name| (name.to_owned(), held.clone()))
                            .into()
                    }),
                });
                machine.enable("containerd");
            }
            HostEnsure::Images { images, .. } => {
                let machine = self.machine_mut(node);
                if !machine.active("containerd") {
                    return Err(failed("containerd does not run"));
                }
                machine.disk.images.extend(images);
            }
            HostEnsure::Balancer { listen, binary } => {
                let machine = self.machine_mut(node);
                let old = machine.disk.balancer.take();
                machine.disk.balancer = Some(Balancer {
                    listen,
                    binary,
                    backends: old
                        .as_ref()
                        .map(|old| old.backends.clone())
                        .unwrap_or_default(),
                    cluster_ca: old.and_then(|old| old.cluster_ca),
                    up: BTreeSet::new(),
                    active: false,
                });
                machine.enable("quorate-lb");
            }
            sharing @ (HostEnsure::Keepalived {}
            | HostEnsure::SharedAddress { .. }
            | HostEnsure::SharedAddressPeerGone { .. }
            | HostEnsure::SharedAddressGone {}) => self.shares(node, &sharing)?,
            HostEnsure::Authority { founding, of } => self.authority(node, founding, of, given)?,
            HostEnsure::FoundingAside { founding } => self.founding_aside(node, &founding)?,
            HostEnsure::Certificates {
                settings,
                node: peer,
            } => {
                self.certificates(node, &settings, &peer)?;
            }
            HostEnsure::EtcdMember {
                settings,
                node: peer,
                founders,
            } => self.etcd_manifest(node, &settings, &peer, &founders)?,
            HostEnsure::ControlPlane {
                settings,
                node: peer,
            } => self.control_plane(node, &settings, &peer)?,
            HostEnsure::Kubelet { settings, .. } => self.kubelet(node, &settings)?,
            HostEnsure::Serving { .. } => {
                self.api_ready(node)
                    .ok_or_else(|| not_yet("etcd and the apiserver do not serve yet"))?;
            }
            HostEnsure::Backend { backend, address } => {
                let ca = match given {
                    Some(Contents::ClusterCa { ca }) => Some(ca),
                    Some(_) | None => None,
                };
                self.backend(node, backend, address, ca)?;
            }
            HostEnsure::ClusterConfig { settings, .. } => self.cluster_config(node, &settings)?,
            HostEnsure::ClusterDns { .. } => {
                let kube = self.own_kube(node)?;
                kube.workloads.insert("kube-system/coredns".into());
            }
            HostEnsure::Registered { node: peer, .. } => {
                let kube = self.own_kube(node)?;
                let object = kube
                    .nodes
                    .get_mut(&peer.name)
                    .ok_or_else(|| not_yet("the kubelet has not registered its node yet"))?;
                object.control_plane = true;
                object.tainted = true;
            }
            HostEnsure::Guarded {} => self.guard(node)?,
            HostEnsure::FoundingOver {} => self.founding_over(node)?,
            HostEnsure::Learner { joiner } => self.learner(node, &joiner)?,
            HostEnsure::Voter { joiner } => self.voter(node, &joiner)?,
            HostEnsure::Network { network } => self.network(node, &network)?,
            HostEnsure::Worker {
                settings,
                node: peer,
            } => self.worker(node, &settings, &peer, given)?,
            HostEnsure::TokensGone {} => self.own_kube(node)?.tokens.clear(),
            leaving @ (HostEnsure::Rehearsed { .. }
            | HostEnsure::LeaderMoved { .. }
            | HostEnsure::BackendGone { .. }
            | HostEnsure::ControlPlaneGone { .. }
            | HostEnsure::MemberGone { .. }
            | HostEnsure::NodeGone { .. }
            | HostEnsure::EndpointGone { .. }
            | HostEnsure::Reset { .. }
            | HostEnsure::UploadedCertsGone {}) => self.leaves(node, &leaving)?,
            converting @ (HostEnsure::BackedUp { .. }
            | HostEnsure::BackupOffHost { .. }
            | HostEnsure::ServingCertificate { .. }
            | HostEnsure::ServingCertificateKept { .. }
            | HostEnsure::Configuration { .. }
            | HostEnsure::ConfigurationKept { .. }
            | HostEnsure::ClusterInfo { .. }
            | HostEnsure::ProxyConfig { .. }
            | HostEnsure::Proxy { .. }
            | HostEnsure::Kubeconfigs { .. }
            | HostEnsure::KubeconfigsKept { .. }
            | HostEnsure::DnsSpread {}
            | HostEnsure::OldAddress { .. }
            | HostEnsure::BackupAside {}) => self.converts(node, &converting)?,
        }
        Ok(())
    }

    /// What this host's own, ready apiserver writes to.
    pub(super) fn own_kube(&mut self, node: &NodeName) -> Result<&mut super::kube::Kube, ActError> {
        self.kube_mut(node)
            .ok_or_else(|| not_yet("the apiserver of this host is not ready"))
    }

    fn authority(
        &mut self,
        node: &NodeName,
        founding: Option<Founding>,
        of: Option<NodeName>,
        given: Option<Contents>,
    ) -> Result<(), ActError> {
        let number = self.authorities + 1;
        let disk = &mut self.machine_mut(node).disk;
        // The note comes first: a CA set without it would be somebody else's to the next look.
        if let Some(founding) = founding {
            match &disk.founding {
                Some(old) if old.nodes != founding.nodes => {
                    return Err(failed("another founding is noted here"));
                }
                Some(_) => {}
                None => disk.founding = Some(founding),
            }
        }
        let authority = match (of, given) {
            (None, _) => match disk.pki.authority.clone() {
                Some(authority) => authority,
                None => {
                    self.authorities = number;
                    format!("authority {number}")
                }
            },
            (Some(_), Some(Contents::CaSet { authority })) => authority,
            (Some(of), _) => return Err(failed(format!("the CA set of {of} was not handed over"))),
        };
        let pki = &mut self.machine_mut(node).disk.pki;
        if pki.authority.as_ref().is_some_and(|own| *own != authority) {
            return Err(failed("another CA set lies here"));
        }
        pki.cluster_ca = Some(cluster_ca(&authority));
        pki.authority = Some(authority);
        Ok(())
    }

    fn certificates(
        &mut self,
        node: &NodeName,
        settings: &ClusterSettings,
        peer: &Peer,
    ) -> Result<(), ActError> {
        let not_after = (self.now_ms / 1000) as i64 + CERTIFICATE_SECONDS;
        let disk = &mut self.machine_mut(node).disk;
        if disk.pki.authority.is_none() {
            return Err(failed("there is no CA set to issue from"));
        }
        let own = [peer.name.to_string(), peer.address.to_string()];
        let serving: BTreeSet<String> = settings.sans.iter().chain(&own).cloned().collect();
        for leaf in [
            "pki/apiserver.crt",
            "pki/apiserver-etcd-client.crt",
            "pki/apiserver-kubelet-client.crt",
            "pki/front-proxy-client.crt",
            "pki/etcd/server.crt",
            "pki/etcd/peer.crt",
            "pki/etcd/healthcheck-client.crt",
        ] {
            let sans = if leaf == "pki/apiserver.crt" {
                serving.clone()
            } else {
                own.clone().into()
            };
            let certificate = Certificate { not_after, sans };
            disk.pki.certificates.insert(leaf.into(), certificate);
        }
        let local = format!("https://{}:6443", peer.address);
        for (name, server) in [
            ("admin.conf", format!("https://{}", settings.endpoint)),
            ("controller-manager.conf", local.clone()),
            ("scheduler.conf", local.clone()),
            ("kubelet.conf", local),
        ] {
            disk.kubeconfigs.insert(name.into(), server);
        }
        Ok(())
    }

    fn etcd_manifest(
        &mut self,
        node: &NodeName,
        settings: &ClusterSettings,
        peer: &Peer,
        founders: &BTreeSet<Peer>,
    ) -> Result<(), ActError> {
        let issued = &self.machine(node).disk.pki.certificates;
        if !issued.contains_key("pki/etcd/peer.crt") {
            return Err(failed("etcd's certificates are not issued"));
        }
        let data = self.machine(node).disk.etcd.is_some();
        let (initial, state) = if founders.is_empty() {
            let url = peer.peer_url();
            let cluster = self
                .clusters
                .values()
                .find(|cluster| cluster.leader.is_some() && cluster.by_peer_url(&url).is_some());
            let cluster =
                cluster.ok_or_else(|| failed(format!("no member for {url} was added")))?;
            let (member, own) = cluster.by_peer_url(&url).expect("found by it");
            let manifest = self.machine(node).disk.manifests.get("etcd");
            let joins = manifest
                .is_some_and(|manifest| manifest.flag("initial-cluster-state") == Some("existing"));
            match (data, joins) {
                (true, true) => return Ok(()),
                (true, false) => return Err(failed("data of another member lies here")),
                // Its log is gone: with an empty one it would vote on what it forgot.
                (false, _) if !own.learner && !own.name.is_empty() => {
                    let node = node.clone();
                    return Err(Refusal::DataLost { node, member }.into());
                }
                (false, _) => (cluster.initial_cluster_for(peer), "existing"),
            }
        } else {
            let entries: Vec<String> = founders
                .iter()
                .map(|founder| format!("{}={}", founder.name, founder.peer_url()))
                .collect();
            (entries.join(","), "new")
        };
        let manifest = etcd_manifest(settings, peer, &initial, state);
        let manifests = &mut self.machine_mut(node).disk.manifests;
        manifests.insert("etcd".into(), manifest);
        Ok(())
    }

    fn control_plane(
        &mut self,
        node: &NodeName,
        settings: &ClusterSettings,
        peer: &Peer,
    ) -> Result<(), ActError> {
        let disk = &mut self.machine_mut(node).disk;
        if !disk.pki.certificates.contains_key("pki/apiserver.crt") {
            return Err(failed("the apiserver's certificate is not issued"));
        }
        for (name, manifest) in control_plane_manifests(settings, peer) {
            // One that is there keeps what somebody wrote into it.
            let there = disk.manifests.get(&name);
            if there.is_none_or(|there| there.image != manifest.image) {
                disk.manifests.insert(name, manifest);
            }
        }
        Ok(())
    }

    fn kubelet(&mut self, node: &NodeName, settings: &ClusterSettings) -> Result<(), ActError> {
        let machine = self.machine_mut(node);
        if machine.disk.components.is_none() {
            return Err(failed("the kubelet is not installed"));
        }
        if !machine.disk.kubeconfigs.contains_key("kubelet.conf") {
            return Err(failed("there is no kubelet.conf"));
        }
        if machine.guard_holds() {
            return Err(failed("this host was a voter and its etcd data is gone"));
        }
        machine.disk.kubernetes.clone_from(&settings.kubernetes);
        machine.enable("kubelet");
        Ok(())
    }

    fn cluster_config(
        &mut self,
        node: &NodeName,
        settings: &ClusterSettings,
    ) -> Result<(), ActError> {
        let kube = self.own_kube(node)?;
        kube.kubeadm = Some(KubeadmConfig {
            kubernetes: settings.kubernetes.clone(),
            endpoint: settings.endpoint.to_string(),
            adopted: None,
        });
        kube.cluster_info = Some(format!("https://{}", settings.endpoint));
        kube.workloads.insert("kube-system/kube-proxy".into());
        Ok(())
    }

    fn guard(&mut self, node: &NodeName) -> Result<(), ActError> {
        let (cluster, member) = self.etcd_client(node).map_err(not_yet)?;
        let disk = &mut self.machine_mut(node).disk;
        disk.marker = Some(MemberMark {
            cluster_id: cluster.to_string(),
            member,
        });
        Ok(())
    }

    fn learner(&mut self, node: &NodeName, joiner: &Peer) -> Result<(), ActError> {
        let (cluster, _) = self.etcd_client(node).map_err(not_yet)?;
        let url = joiner.peer_url();
        if self.clusters[&cluster].by_peer_url(&url).is_some() {
            return Ok(());
        }
        match self.add_learner(node, &url) {
            Ok(_) => Ok(()),
            // The newest voter counts as connected after 5 s only.
            Err(words) if words.contains("unhealthy cluster") => Err(not_yet(words)),
            Err(words) => Err(failed(words)),
        }
    }

    fn voter(&mut self, node: &NodeName, joiner: &Peer) -> Result<(), ActError> {
        let (cluster, _) = self.etcd_client(node).map_err(not_yet)?;
        let (member, found) = self.clusters[&cluster]
            .by_peer_url(&joiner.peer_url())
            .ok_or_else(|| failed("no learner was added for it"))?;
        if !found.learner {
            return Ok(());
        }
        // etcd promotes a dead learner: between admission and this moment it may have died, so it is asked itself, now.
        let answers = self
            .participants(cluster)
            .iter()
            .any(|(host, of)| *of == member && self.peers(node, host));
        if !answers {
            return Err(not_yet("the learner does not answer"));
        }
        match self.promote(node, member) {
            Ok(()) => Ok(()),
            Err(words) if words.contains("in sync") => Err(not_yet(words)),
            Err(words) => Err(failed(words)),
        }
    }

    fn network(&mut self, node: &NodeName, network: &Network) -> Result<(), ActError> {
        // Its pods find the apiservers through kube-proxy, which finds them through the endpoint.
        if self.through_endpoint(node).is_none() {
            return Err(not_yet("kube-proxy reaches no apiserver"));
        }
        let kube = self.own_kube(node)?;
        let note = ("network".to_owned(), network.digest());
        kube.notes.get_or_insert_with(BTreeMap::new).extend([note]);
        match network {
            Network::Flannel { .. } => {
                kube.workloads.insert("kube-flannel/kube-flannel-ds".into());
            }
            Network::Manifest { .. } => {}
        }
        Ok(())
    }

    fn worker(
        &mut self,
        node: &NodeName,
        settings: &ClusterSettings,
        peer: &Peer,
        given: Option<Contents>,
    ) -> Result<(), ActError> {
        let machine = self.machine(node);
        if machine.disk.components.is_none() {
            return Err(failed("the kubelet is not installed"));
        }
        if !machine.disk.kubeconfigs.contains_key("kubelet.conf") {
            let Some(Contents::JoinToken { id, ca }) = given else {
                return Err(failed("no join token was handed over"));
            };
            let api = self
                .through_endpoint(node)
                .ok_or_else(|| not_yet("nobody answers at the endpoint"))?;
            let kube = self.api_ready(&api).map(|id| &self.clusters[&id].kube);
            if !kube.is_some_and(|kube| kube.tokens.contains(&id)) {
                return Err(failed("the join token is not known"));
            }
            let disk = &mut self.machine_mut(node).disk;
            disk.pki.cluster_ca = Some(ca);
            let server = format!("https://{}", settings.endpoint);
            disk.kubeconfigs.insert("kubelet.conf".into(), server);
        }
        let machine = self.machine_mut(node);
        machine.disk.kubernetes.clone_from(&settings.kubernetes);
        machine.enable("kubelet");
        let registered = self
            .clusters
            .values()
            .any(|cluster| cluster.kube.nodes.contains_key(&peer.name));
        if registered {
            Ok(())
        } else {
            Err(not_yet("the kubelet has not registered its node yet"))
        }
    }
}
