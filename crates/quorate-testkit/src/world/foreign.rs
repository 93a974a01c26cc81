//! A cluster that somebody else made, and the effects of the end states by which it is converted, or led back. Start at
//! [`World::somebody_elses`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use quorate_plan::{
    Missing, NodeName, Seen,
    adopted::Adopted,
    kubeadm::ClusterSettings,
    observation::{
        ApiConversion, Backup, Caller, Certificate, HostConversion, KeptObjects, KubeadmConfig,
        OldAddress, Receipt, Snapshot, Stored,
    },
    standing::{ADOPTED, to_leave},
    step::HostEnsure,
};

use super::{
    World,
    act::{ActError, failed, not_yet},
    kube::Kube,
};

/// The pod network that somebody else installed.
const FLANNEL: &str = "kube-flannel/kube-flannel-ds";

/// Kubeconfigs of a master's own components.
const OWN_COMPONENTS: [&str; 2] = ["controller-manager.conf", "scheduler.conf"];

/// Where kubeconfigs lie.
const FOLDER: &str = "/etc/kubernetes/";

/// What lies on a disk for a conversion's sake, and who uses the old address there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct ForeignDisk {
    /// What was kept.
    pub backup: Option<Backup>,
    /// What left the host of it.
    pub off_host: Option<Receipt>,
    /// The rule for who comes by the old address, and what came of it.
    pub old_address: Option<OldAddress>,
    /// The serving certificate among it.
    pub serving: Option<Certificate>,
    /// Programs of somebody's on this host that are connected to the old address.
    pub stragglers: BTreeSet<String>,
}

/// What a cluster keeps that only a conversion looks at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct ForeignKube {
    /// What its owner calls the API, when it has a name: its hosts know that for the master's address.
    pub name: Option<String>,
    /// The server in kube-proxy's ConfigMap.
    pub proxy: Option<String>,
    /// The server that each kube-proxy has read.
    pub proxies: BTreeMap<NodeName, String>,
    /// Nodes on which cluster DNS runs.
    pub dns_nodes: BTreeSet<NodeName>,
    /// Objects of somebody's that hold the old address.
    pub stored: BTreeSet<Stored>,
    /// The DaemonSets of its pod network.
    pub networks: BTreeSet<String>,
}

/// A certificate by its names: the same names are the same certificate.
fn digest(certificate: &Certificate) -> String {
    let names: Vec<&str> = certificate.sans.iter().map(String::as_str).collect();
    names.join(" ")
}

/// What kubeadm stores when it is given that configuration: where certificates are it fills in.
fn configuration(settings: &ClusterSettings, made_with: &Adopted) -> Adopted {
    let text = settings.cluster_configuration() + "certificatesDir: /etc/kubernetes/pki\n";
    Adopted {
        // Nobody changes what kubelets are configured with.
        kubelet: made_with.kubelet.clone(),
        ..Adopted::read(&text, None).expect("what we render is kubeadm's")
    }
}

/// What an owner writes who leaves most of it to kubeadm.
fn plain(kubernetes: &str) -> Adopted {
    let text = format!(
        "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nkubernetesVersion: v{kubernetes}\n\
         networking:\n  podSubnet: 10.244.0.0/16\n  serviceSubnet: 10.96.0.0/12\n"
    );
    Adopted::read(&text, None).expect("it is kubeadm's")
}

impl World {
    /// The cluster of one master that runs becomes one that somebody else made with `kubeadm init`, addressed by the master's own address:
    /// nothing on any host or in the cluster tells of Quorate.
    ///
    /// # Panics
    /// When no master serves.
    pub fn somebody_elses(&mut self) {
        let ready = self.ready();
        let master = ready.first().expect("a master that serves").clone();
        let server = format!("https://{}:6443", self.machine(&master).address);
        self.foreign = true;
        let nodes: Vec<NodeName> = self.machines.keys().cloned().collect();
        for node in &nodes {
            let machine = self.machine_mut(node);
            let disk = &mut machine.disk;
            disk.mark = None;
            disk.components = None;
            disk.founding = None;
            disk.marker = None;
            disk.bundles.clear();
            disk.images.clear();
            disk.sysctls.clear();
            disk.hosts_file.clear();
            for own in disk.kubeconfigs.values_mut() {
                own.clone_from(&server);
            }
            if let Some(serving) = disk.pki.certificates.get_mut("pki/apiserver.crt") {
                let own = [master.to_string(), machine.address.to_string()];
                serving.sans = own.into();
            }
        }
        let kubernetes = self.machine(&master).disk.kubernetes.clone();
        let kube = self.kube_mut(&master).expect("it serves");
        kube.notes = None;
        kube.workloads.insert(FLANNEL.into());
        kube.cluster_info = Some(server.clone());
        kube.kubeadm = Some(KubeadmConfig {
            adopted: Some(Box::new(plain(&kubernetes))),
            kubernetes,
            endpoint: String::new(),
        });
        kube.foreign = ForeignKube {
            name: None,
            proxy: Some(server.clone()),
            proxies: kube
                .nodes
                .keys()
                .map(|node| (node.clone(), server.clone()))
                .collect(),
            dns_nodes: [master].into(),
            stored: BTreeSet::new(),
            networks: [FLANNEL.to_owned()].into(),
        };
    }

    /// What it was made with is this; where that names an endpoint, everybody on its hosts calls the master by it.
    ///
    /// # Panics
    /// When that master does not serve.
    pub fn was_made_with(&mut self, master: &NodeName, adopted: &Adopted) {
        let kubernetes = self.machine(master).disk.kubernetes.clone();
        let kube = self.kube_mut(master).expect("it serves");
        let endpoint = adopted.text(&["controlPlaneEndpoint"]);
        let endpoint = endpoint.unwrap_or_default();
        kube.kubeadm = Some(KubeadmConfig {
            kubernetes,
            endpoint: endpoint.clone(),
            adopted: Some(Box::new(adopted.clone())),
        });
        let Some((name, _)) = endpoint.rsplit_once(':') else {
            return;
        };
        let server = format!("https://{endpoint}");
        kube.foreign.name = Some(name.to_owned());
        kube.cluster_info = Some(server.clone());
        kube.foreign.proxy = Some(server.clone());
        for read in kube.foreign.proxies.values_mut() {
            read.clone_from(&server);
        }
        let nodes: Vec<NodeName> = self.machines.keys().cloned().collect();
        for node in nodes {
            let files = self.machine_mut(&node).disk.kubeconfigs.iter_mut();
            // A master's own components speak to their own apiserver.
            for (_, own) in files.filter(|(file, _)| !OWN_COMPONENTS.contains(&file.as_str())) {
                own.clone_from(&server);
            }
        }
    }

    /// What the addresses of a server are, as that host sees it.
    fn reached(&self, node: &NodeName, server: &str) -> Option<SocketAddr> {
        let (host, port) = server.strip_prefix("https://")?.rsplit_once(':')?;
        let address = match host.parse() {
            Ok(address) => address,
            Err(_) if host == self.endpoint.host => self.tried_first(node)?,
            Err(_) if self.calls_it(host) => self.first()?,
            Err(_) => return None,
        };
        Some(SocketAddr::new(address, port.parse().ok()?))
    }

    /// Whether that is what the cluster's owner calls its master.
    fn calls_it(&self, host: &str) -> bool {
        let mut names = (self.clusters.values()).map(|cluster| &cluster.kube.foreign.name);
        names.any(|name| name.as_deref() == Some(host))
    }

    /// The address of the master that was there first.
    fn first(&self) -> Option<IpAddr> {
        let first = self.machines.values().find(|machine| {
            let etcd = machine.disk.manifests.get("etcd");
            etcd.is_some_and(|etcd| etcd.flag("initial-cluster-state") == Some("new"))
        });
        first.map(|machine| machine.address)
    }

    /// The master whose own address a server is, when it serves.
    pub(super) fn master_at(&self, node: &NodeName, server: &str) -> Option<NodeName> {
        if !self.foreign {
            return None;
        }
        let (master, _) = self.at(self.reached(node, server)?.ip())?;
        self.api_ready(master).map(|_| master.clone())
    }

    fn kubeconfigs(&self, node: &NodeName) -> BTreeMap<String, BTreeSet<String>> {
        let files = self.machine(node).disk.kubeconfigs.iter();
        files
            .map(|(name, server)| (format!("{FOLDER}{name}"), [server.clone()].into()))
            .collect()
    }

    /// What a conversion has to know of a host. `None`: there is none to convert.
    pub(super) fn conversion_of(&self, node: &NodeName) -> Option<Box<HostConversion>> {
        if !self.foreign {
            return None;
        }
        let machine = self.machine(node);
        let disk = &machine.disk;
        let serving = disk.pki.certificates.get("pki/apiserver.crt").map(digest);
        let mut connections = BTreeMap::new();
        let mut callers = BTreeSet::new();
        let kubelet = disk.kubeconfigs.get("kubelet.conf");
        if let Some(server) = kubelet.filter(|_| machine.active("kubelet")) {
            let to = self.reached(node, server);
            connections.insert("kubelet".to_owned(), to.into_iter().collect());
            callers.extend(to.map(|to| ("kubelet".to_owned(), to)));
        }
        let proxies = self.clusters.values().find_map(|cluster| {
            let kube = &cluster.kube.foreign;
            kube.proxies.get(node)
        });
        if let Some(server) = proxies {
            let to = self.reached(node, server);
            connections.insert("kube-proxy".to_owned(), to.into_iter().collect());
            callers.extend(to.map(|to| ("kube-proxy".to_owned(), to)));
        }
        let old = self.first().map(|address| SocketAddr::new(address, 6443));
        for straggler in &disk.foreign.stragglers {
            callers.extend(old.map(|old| (straggler.clone(), old)));
        }
        let callers = callers
            .into_iter()
            .filter(|(_, to)| Some(*to) == old)
            .map(|(process, to)| Caller {
                to,
                from: machine.address,
                process: Some(process),
            })
            .collect();
        Some(Box::new(HostConversion {
            kubeconfigs: Seen::now(self.kubeconfigs(node)),
            homes: Seen::now(BTreeMap::new()),
            served: Seen::now(serving.clone()),
            serving: Seen::now(serving),
            leads: Seen::now(
                self.through_endpoint(node)
                    .and_then(|master| self.readyz(&master))
                    .filter(|_| disk.pki.cluster_ca.is_some()),
            ),
            proxy_healthy: Seen::now(proxies.map(|_| true)),
            connections: Seen::now(connections),
            began_with: Seen::now(
                kubelet
                    .filter(|_| machine.active("kubelet"))
                    .map(|server| ("kubelet", server))
                    .into_iter()
                    .chain(proxies.map(|server| ("kube-proxy", server)))
                    .map(|(process, server)| (process.to_owned(), Some([server.clone()].into())))
                    .collect(),
            ),
            callers: Seen::now(callers),
            backup: Seen::now(disk.foreign.backup.clone()),
            off_host: Seen::now(disk.foreign.off_host.clone()),
            kubeadm: Seen::now(Some(disk.kubernetes.clone())),
            blocked: Seen::now(BTreeMap::new()),
            data_mount: Seen::now(None),
        }))
    }

    /// The effect of an end state of a conversion, or of its way back.
    ///
    /// # Errors
    /// What the host says.
    pub(super) fn converts(
        &mut self,
        node: &NodeName,
        ensure: &HostEnsure,
    ) -> Result<(), ActError> {
        match ensure {
            HostEnsure::BackedUp { master, .. } => self.back_up(node, *master)?,
            HostEnsure::BackupOffHost { .. } => {
                let disk = &mut self.machine_mut(node).disk;
                if disk.foreign.backup.is_none() {
                    return Err(failed("nothing was kept that could leave this host"));
                }
                disk.foreign.off_host = Some(Receipt {
                    bytes: 1,
                    sha256: "00".into(),
                    recipients: ["age1memory".to_owned()].into(),
                    machine: "desk".into(),
                    file: "/backups/demo.age".into(),
                });
            }
            HostEnsure::ServingCertificate {
                settings,
                node: peer,
            } => {
                let own = [peer.name.to_string(), peer.address.to_string()];
                let serving = self.serving(node)?;
                serving.sans = settings.sans.iter().cloned().chain(own).collect();
            }
            HostEnsure::ServingCertificateKept { .. } => {
                if let Some(kept) = self.machine(node).disk.foreign.serving.clone() {
                    *self.serving(node)? = kept;
                }
            }
            HostEnsure::Configuration { settings, .. } => {
                let adopted = settings.adopted.as_deref();
                let made_with =
                    adopted.ok_or_else(|| failed("nothing says what the cluster was made with"))?;
                let kube = self.own_kube(node)?;
                kube.kubeadm = Some(KubeadmConfig {
                    kubernetes: settings.kubernetes.clone(),
                    endpoint: settings.endpoint.to_string(),
                    adopted: Some(Box::new(configuration(settings, made_with))),
                });
                let note = (ADOPTED.to_owned(), "converted".to_owned());
                kube.notes.get_or_insert_default().extend([note]);
            }
            HostEnsure::ConfigurationKept { .. } => {
                let kept = self.kept(node)?;
                let kubernetes = self.machine(node).disk.kubernetes.clone();
                let kube = self.own_kube(node)?;
                kube.kubeadm = Some(KubeadmConfig {
                    kubernetes,
                    endpoint: kept.endpoint,
                    adopted: Some(Box::new(kept.adopted)),
                });
                if let Some(notes) = &mut kube.notes {
                    notes.remove(ADOPTED);
                }
            }
            HostEnsure::ClusterInfo { server } => {
                self.own_kube(node)?.cluster_info = Some(server.clone());
            }
            HostEnsure::ProxyConfig { server } => {
                self.own_kube(node)?.foreign.proxy = Some(server.clone());
            }
            HostEnsure::Proxy { node: of, .. } => {
                let kube = &mut self.own_kube(node)?.foreign;
                let server = kube.proxy.clone();
                let server = server.ok_or_else(|| failed("there is no ConfigMap kube-proxy"))?;
                kube.proxies.insert(of.clone(), server);
            }
            HostEnsure::Kubeconfigs {
                node: peer,
                endpoint,
                old,
                master,
            } => {
                let own = master.then_some(peer);
                let disk = &mut self.machine_mut(node).disk;
                for (name, server) in &mut disk.kubeconfigs {
                    let there = [server.clone()].into();
                    if !to_leave(&format!("{FOLDER}{name}"), &there, old, own).is_empty() {
                        *server = format!("https://{endpoint}");
                    }
                }
            }
            HostEnsure::KubeconfigsKept { .. } => {
                let disk = &mut self.machine_mut(node).disk;
                let kept = disk.foreign.backup.clone().map(|backup| backup.kubeconfigs);
                for (path, servers) in kept.unwrap_or_default() {
                    let name = path.trim_start_matches(FOLDER);
                    if let (Some(now), Some(was)) =
                        (disk.kubeconfigs.get_mut(name), servers.first())
                    {
                        now.clone_from(was);
                    }
                }
            }
            HostEnsure::DnsSpread {} => {
                let kube = self.own_kube(node)?;
                let ready = kube.nodes.iter().filter(|(_, object)| object.ready);
                let two: BTreeSet<NodeName> = ready.map(|(node, _)| node.clone()).take(2).collect();
                if two.len() < 2 {
                    return Err(not_yet("there are not two ready nodes"));
                }
                kube.foreign.dns_nodes = two;
            }
            HostEnsure::OldAddress { rule, .. } => {
                self.machine_mut(node).disk.foreign.old_address =
                    rule.clone().map(|rule| OldAddress {
                        rule,
                        loaded: true,
                        callers: BTreeSet::new(),
                        over: Duration::ZERO,
                    });
            }
            HostEnsure::BackupAside {} => {
                let foreign = &mut self.machine_mut(node).disk.foreign;
                foreign.backup = None;
                foreign.off_host = None;
                foreign.serving = None;
            }
            other => unreachable!("`{other}` converts nothing"),
        }
        Ok(())
    }

    fn serving(&mut self, node: &NodeName) -> Result<&mut Certificate, ActError> {
        let certificates = &mut self.machine_mut(node).disk.pki.certificates;
        certificates
            .get_mut("pki/apiserver.crt")
            .ok_or_else(|| failed("there is no serving certificate"))
    }

    fn kept(&self, node: &NodeName) -> Result<KeptObjects, ActError> {
        let backup = self.machine(node).disk.foreign.backup.clone();
        backup
            .and_then(|backup| backup.objects)
            .ok_or_else(|| failed("nothing was kept"))
    }

    fn back_up(&mut self, node: &NodeName, master: bool) -> Result<(), ActError> {
        let objects = if master {
            let kube = self.own_kube(node)?;
            let config = kube.kubeadm.clone();
            let config = config.ok_or_else(|| failed("there is no kubeadm-config"))?;
            Some(KeptObjects {
                endpoint: config.endpoint,
                adopted: *config
                    .adopted
                    .ok_or_else(|| failed("it is not kubeadm's"))?,
                cluster_info: kube.cluster_info.clone(),
                proxy: kube.foreign.proxy.clone(),
            })
        } else {
            None
        };
        let kubeconfigs = self.kubeconfigs(node);
        let disk = &mut self.machine_mut(node).disk;
        let serving = disk.pki.certificates.get("pki/apiserver.crt").cloned();
        disk.foreign.backup = Some(Backup {
            snapshot: master.then(|| Snapshot {
                bytes: 1,
                sha256: "00".into(),
            }),
            kubeconfigs,
            serving: serving.as_ref().map(digest),
            objects,
        });
        disk.foreign.serving = serving;
        Ok(())
    }
}

/// What a conversion has to know of the cluster.
pub(super) fn conversion_of_api(
    foreign: bool,
    kube: Option<&Kube>,
    missing: impl Fn() -> Missing,
) -> Seen<Option<Box<ApiConversion>>> {
    let Some(kube) = kube else {
        return Seen::Unknown(missing());
    };
    Seen::now(foreign.then(|| {
        Box::new(ApiConversion {
            unsigned: Seen::now(BTreeSet::new()),
            proxy: Seen::now(kube.foreign.proxy.clone()),
            dns_nodes: Seen::now(kube.foreign.dns_nodes.clone()),
            dns_wanted: Seen::now(2),
            stored: Seen::now(kube.foreign.stored.clone()),
            networks: Seen::now(kube.foreign.networks.clone()),
            sockets: Seen::now(BTreeMap::new()),
        })
    }))
}
