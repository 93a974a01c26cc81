//! Acting: a request passes [`quorate_plan::admit()`] with a fresh look of the host's own, then its effect obeys the rules. Start at
//! [`World::apply`].

use std::collections::{BTreeMap, BTreeSet};

use quorate_plan::{
    Admitted, HostEnsure, NodeName, Refusal, Request, admit,
    kubeadm::{ClusterSettings, Peer},
    observation::{
        Balancer, Certificate, Components, Fencing, Founding, KubeadmConfig, Manifest, MemberMark,
    },
    standing::differences,
    step::Network,
    wire::Outcome,
};

use super::{
    World,
    gate::{Contents, cluster_ca},
};

/// kubeadm's leaves live a year, in seconds.
const CERTIFICATE_SECONDS: i64 = 365 * 86_400;

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

fn not_yet(what: impl Into<String>) -> ActError {
    ActError::NotYet(what.into())
}

impl World {
    /// One request, as the host that it is for treats it.
    ///
    /// # Errors
    /// What the host says. After [`ActError::NotYet`] and [`ActError::Failed`] a part of the effect may have been made.
    pub fn apply(&mut self, node: &NodeName, request: &Request) -> Result<Outcome, ActError> {
        let fencing = self.fencing(node);
        self.apply_fenced(node, request, &fencing)
    }

    /// The same for a request that was admitted when the host's fence was `fencing`, and is tried again: a higher fence stops the next
    /// action, never the running one.
    ///
    /// # Errors
    /// As [`World::apply`].
    pub fn apply_fenced(
        &mut self,
        node: &NodeName,
        request: &Request,
        fencing: &Fencing,
    ) -> Result<Outcome, ActError> {
        if !self.machine(node).on() {
            return Err(ActError::Gone);
        }
        let report = self.host_report(node);
        let mut seen = request.testimony.clone();
        seen.record(node, quorate_plan::Seen::now(report));
        let admitted = admit(request.clone(), fencing, &seen)?;
        let changed = differences(&admitted.ensure, node, &seen)
            .map_err(|missing| not_yet(missing.to_string()))?;
        if !changed.is_empty() {
            self.act(node, admitted)?;
        }
        Ok(Outcome {
            changed,
            report: self.host_report(node),
        })
    }

    fn act(&mut self, node: &NodeName, admitted: Admitted) -> Result<(), ActError> {
        let given = self.open(node, &admitted.sealed)?;
        match admitted.ensure {
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
            HostEnsure::Bundle { id } => {
                self.machine_mut(node).disk.bundles.insert(id);
            }
            HostEnsure::Components { bundle, runtime } => {
                let machine = self.machine_mut(node);
                if !machine.disk.bundles.contains(&bundle) {
                    return Err(failed(format!("bundle {bundle} is not on the host")));
                }
                machine.disk.components = Some(Components {
                    bundle,
                    differing: BTreeSet::new(),
                    configuration: runtime.digest(),
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
            HostEnsure::Authority { founding, of } => self.authority(node, founding, of, given)?,
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
            HostEnsure::ControlPlane { settings, .. } => self.control_plane(node, &settings)?,
            HostEnsure::Kubelet { settings, .. } => self.kubelet(node, &settings)?,
            HostEnsure::Serving { .. } => {
                return Err(not_yet("etcd and the apiserver do not serve yet"));
            }
            HostEnsure::Backend { backend, address } => {
                let balancer = &mut self.machine_mut(node).disk.balancer;
                let config = balancer
                    .as_mut()
                    .ok_or_else(|| failed("there is no balancer here"))?;
                match (&config.cluster_ca, given) {
                    (_, Some(Contents::ClusterCa { ca })) => config.cluster_ca = Some(ca),
                    (Some(_), _) => {}
                    (None, _) => return Err(failed("the cluster's CA was not handed over")),
                }
                config.backends.insert(backend.name, address);
            }
            HostEnsure::ClusterConfig { settings, .. } => self.cluster_config(node, &settings)?,
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
            HostEnsure::Learner { joiner } => {
                self.add_learner(node, &joiner.peer_url())
                    .map_err(|words| {
                        // The newest voter counts as connected after 5 s only.
                        if words.contains("unhealthy cluster") || words.contains("no leader") {
                            not_yet(words)
                        } else {
                            failed(words)
                        }
                    })?;
            }
            HostEnsure::Voter { joiner } => self.voter(node, &joiner)?,
            HostEnsure::Network { network } => self.network(node, &network)?,
            HostEnsure::Worker {
                settings,
                node: peer,
            } => self.worker(node, &settings, &peer, given)?,
            HostEnsure::TokensGone {} => self.own_kube(node)?.tokens.clear(),
        }
        Ok(())
    }

    /// What this host's own, ready apiserver writes to.
    fn own_kube(&mut self, node: &NodeName) -> Result<&mut super::kube::Kube, ActError> {
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
        let (initial, state) = if founders.is_empty() {
            let url = peer.peer_url();
            let cluster = self
                .clusters
                .values()
                .find(|cluster| cluster.leader.is_some() && cluster.by_peer_url(&url).is_some());
            let cluster =
                cluster.ok_or_else(|| failed(format!("no member for {url} was added")))?;
            (cluster.initial_cluster_for(peer), Some("existing"))
        } else {
            let entries: Vec<String> = founders
                .iter()
                .map(|founder| format!("{}={}", founder.name, founder.peer_url()))
                .collect();
            (entries.join(","), None)
        };
        let mut flags = vec![
            format!("--name={}", peer.name),
            "--data-dir=/var/lib/etcd".to_owned(),
            format!("--initial-cluster={initial}"),
        ];
        flags.extend(state.map(|state| format!("--initial-cluster-state={state}")));
        let manifest = Manifest {
            image: settings.images.get("etcd").cloned().unwrap_or_default(),
            flags,
            mounts: ["/etc/kubernetes/pki/etcd", "/var/lib/etcd"]
                .map(str::to_owned)
                .into(),
        };
        let manifests = &mut self.machine_mut(node).disk.manifests;
        manifests.insert("etcd".into(), manifest);
        Ok(())
    }

    fn control_plane(
        &mut self,
        node: &NodeName,
        settings: &ClusterSettings,
    ) -> Result<(), ActError> {
        let disk = &mut self.machine_mut(node).disk;
        if !disk.pki.certificates.contains_key("pki/apiserver.crt") {
            return Err(failed("the apiserver's certificate is not issued"));
        }
        for name in [
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
        ] {
            let manifest = Manifest {
                image: settings.images.get(name).cloned().unwrap_or_default(),
                flags: Vec::new(),
                mounts: BTreeSet::new(),
            };
            disk.manifests.insert(name.into(), manifest);
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
        });
        kube.cluster_info = Some(format!("https://{}", settings.endpoint));
        for name in ["kube-system/coredns", "kube-system/kube-proxy"] {
            kube.workloads.insert(name.into());
        }
        Ok(())
    }

    fn guard(&mut self, node: &NodeName) -> Result<(), ActError> {
        let (cluster, member) = self.etcd_client(node).map_err(not_yet)?;
        let disk = &mut self.machine_mut(node).disk;
        disk.marker = Some(MemberMark {
            cluster_id: cluster.to_string(),
            member,
        });
        if let Some(founding) = &mut disk.founding {
            founding.done = true;
        }
        Ok(())
    }

    fn voter(&mut self, node: &NodeName, joiner: &Peer) -> Result<(), ActError> {
        let (cluster, _) = self.etcd_client(node).map_err(not_yet)?;
        let (member, _) = self.clusters[&cluster]
            .by_peer_url(&joiner.peer_url())
            .ok_or_else(|| failed("no learner was added for it"))?;
        self.promote(node, member).map_err(|words| {
            if words.contains("in sync") {
                not_yet(words)
            } else {
                failed(words)
            }
        })
    }

    fn network(&mut self, node: &NodeName, network: &Network) -> Result<(), ActError> {
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
