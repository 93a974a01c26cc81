//! What a host tells of itself: the same report that `quorate node serve` gives on a real one. Start at [`World::report`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use quorate_plan::{
    Missing, NodeName, Seen,
    observation::{
        ApiView, EndpointAnswer, EndpointSight, EtcdData, EtcdView, HostFacts, HostReport, Machine,
        Member, Power, Unit, Workload,
    },
};

use super::{
    BINARY, World,
    etcd::EtcdCluster,
    foreign::conversion_of_api,
    kube::Kube,
    machine::{Machine as Host, Pod},
};

impl World {
    /// A look at one host, over a channel that works.
    pub fn report(&self, node: &NodeName) -> Seen<HostReport> {
        let machine = self.machine(node);
        match (machine.power, machine.provided) {
            (Power::Running, _) if machine.unreachable => {
                Seen::Unknown(Missing::no_answer(format!("host {node}"), "no route to it"))
            }
            (Power::Running, _) if !machine.answers() => Seen::Unknown(Missing::not_yet(
                format!("host {node}"),
                "nobody listens on its SSH port",
            )),
            (Power::Running, _) => Seen::now(self.host_report(node)),
            (Power::Absent, _) => Seen::now(HostReport {
                facts: HostFacts::blank(node),
                etcd: Seen::now(None),
                api: Seen::now(None),
            }),
            (Power::Off, true) => Seen::Unknown(Missing::not_looked(format!(
                "host {node}, whose machine is switched off,"
            ))),
            (Power::Frozen, true) => Seen::Unknown(Missing::not_looked(format!(
                "host {node}, whose machine is frozen,"
            ))),
            (Power::Off | Power::Frozen, false) => {
                Seen::Unknown(Missing::not_yet(format!("host {node}"), "no route to it"))
            }
        }
    }

    pub(super) fn host_report(&self, node: &NodeName) -> HostReport {
        HostReport {
            facts: self.facts(node),
            etcd: self.etcd_view(node),
            api: self.api_view(node),
        }
    }

    fn facts(&self, node: &NodeName) -> HostFacts {
        let machine = self.machine(node);
        let disk = &machine.disk;
        HostFacts {
            machine: Seen::now(self.hardware(node, machine)),
            booting: Seen::now(machine.memory.boot.is_some()),
            mark: Seen::now(disk.mark.clone()),
            fencing: Seen::now(self.fencing(node)),
            sysctls: Seen::now(disk.sysctls.clone()),
            hosts_file: Seen::now(disk.hosts_file.clone()),
            bundles: Seen::now(disk.bundles.clone()),
            components: Seen::now(disk.components.clone()),
            images: Seen::now(disk.images.clone()),
            units: Seen::now(units(machine)),
            pki: Seen::now(disk.pki.clone()),
            manifests: Seen::now(disk.manifests.clone()),
            rehearsed: Seen::now(disk.rehearsed.clone()),
            kubeconfigs: Seen::now(disk.kubeconfigs.clone()),
            etcd_data: Seen::now(EtcdData {
                wal: disk.etcd.is_some(),
                marker: disk.marker.clone(),
            }),
            etcd_volume: Seen::now(super::volume::told(machine)),
            founding: Seen::now(disk.founding.clone()),
            balancer: Seen::now(disk.balancer.clone().map(|mut balancer| {
                balancer.up = self.up(node);
                balancer.active = machine.active("quorate-lb");
                balancer
            })),
            endpoint: Seen::now(Some(self.endpoint_sight(node))),
            dns: Seen::now(self.dns.map(|dns| self.dns_sight(node, dns))),
            listening: Seen::now(listening(machine)),
            conversion: Seen::now(self.conversion_of(node)),
            old_address: Seen::now(disk.foreign.old_address.clone()),
            sharing: Seen::now(self.sharing(node)),
        }
    }

    fn hardware(&self, node: &NodeName, machine: &Host) -> Machine {
        let hardware = &machine.hardware;
        let kind = hardware.kind;
        Machine {
            machine_id: format!("id-{node}"),
            boot_id: format!("boot-{}", machine.boots),
            hostname: node.to_string(),
            arch: hardware.arch.clone(),
            os: "debian 12".into(),
            kernel: "6.1.0".into(),
            systemd: hardware.systemd,
            cpus: hardware.cpus,
            memory_bytes: hardware.memory_bytes,
            disk_free_bytes: hardware.disk_free_bytes,
            cgroup: kind.cgroup,
            oom_score_adjustable: kind.oom_score_adjustable,
            swap: kind.swap,
            clock_ms: self.now_ms.saturating_add_signed(hardware.clock_off_ms),
            addresses: [machine.address].into(),
            binary: BINARY.into(),
        }
    }

    fn endpoint_sight(&self, node: &NodeName) -> EndpointSight {
        EndpointSight {
            resolves: self.resolved(node),
            answer: match self
                .through_endpoint(node)
                .and_then(|master| self.readyz(&master))
            {
                // Without a certificate authority to know it by it might be anybody.
                Some(_) if self.machine(node).disk.pki.cluster_ca.is_none() => {
                    EndpointAnswer::Somebody
                }
                Some(readyz) => EndpointAnswer::Apiserver(readyz),
                None => EndpointAnswer::Nobody,
            },
        }
    }

    /// Cluster DNS answers where kube-proxy runs, once CoreDNS has a ready node to run on.
    fn dns_sight(&self, node: &NodeName, dns: IpAddr) -> BTreeSet<IpAddr> {
        let machine = self.machine(node);
        let answers = machine.active("kubelet")
            && self.clusters.values().any(|cluster| {
                let kube = &cluster.kube;
                kube.workloads.contains("kube-system/coredns")
                    && kube.nodes.get(node).is_some_and(|own| own.ready)
            });
        match dns {
            // The service's own address is the first of its network, the DNS's the tenth.
            IpAddr::V4(dns) if answers => [IpAddr::V4(Ipv4Addr::from(u32::from(dns) - 9))].into(),
            _ => BTreeSet::new(),
        }
    }

    fn etcd_view(&self, node: &NodeName) -> Seen<Option<EtcdView>> {
        let machine = self.machine(node);
        if !machine.disk.manifests.contains_key("etcd") {
            return Seen::now(None);
        }
        let Some((id, member)) = self.participant(node).filter(|_| machine.serves("etcd")) else {
            let detail = match machine.memory.pods.get("etcd") {
                Some(Pod::Crashing(words)) => words.clone(),
                Some(Pod::Starting | Pod::Serving) | None => "connection refused".into(),
            };
            return Seen::Unknown(Missing::no_answer(format!("etcd on {node}"), detail));
        };
        let cluster = &self.clusters[&id];
        let index = machine.disk.etcd.as_ref().map_or(0, |disk| disk.index);
        let hardware = &machine.hardware;
        let learner = cluster.members[&member].learner;
        let reaches_leader = self
            .participants(id)
            .iter()
            .any(|(host, of)| Some(*of) == cluster.leader && self.peers(node, host));
        Seen::now(Some(EtcdView {
            cluster_id: id.to_string(),
            member,
            version: hardware.etcd_version.clone(),
            leader: cluster.leader.filter(|_| reaches_leader),
            raft_term: cluster.term,
            raft_index: index,
            raft_applied: index.saturating_sub(hardware.raft_lag),
            db_bytes: hardware.db_bytes,
            db_in_use_bytes: hardware.db_bytes / 2,
            db_quota_bytes: 2 << 30,
            fsync_p99_ms: Seen::now(hardware.fsync_p99_ms),
            active_peers: if cluster.leader == Some(member) {
                let others = self.participants(id).into_iter();
                let heard = others.filter(|(host, _)| host != node && self.peers(node, host));
                Seen::now(heard.map(|(_, member)| member).collect())
            } else {
                Seen::Unknown(Missing::unreadable(
                    "who is active",
                    "only the leader hears of everybody",
                ))
            },
            linearizable: self.etcd_client(node).is_ok(),
            // A learner does not tell the member list to clients.
            members: if learner {
                BTreeMap::new()
            } else {
                members(cluster)
            },
            alarms: cluster.alarms.clone(),
            errors: if reaches_leader {
                BTreeSet::new()
            } else {
                ["etcdserver: no leader".to_owned()].into()
            },
        }))
    }

    fn api_view(&self, node: &NodeName) -> Seen<Option<ApiView>> {
        let machine = self.machine(node);
        let Some(manifest) = machine.disk.manifests.get("kube-apiserver") else {
            return Seen::now(None);
        };
        let Some(readyz) = self.readyz(node) else {
            return Seen::Unknown(Missing::no_answer(
                format!("the API on {node}"),
                "connection refused",
            ));
        };
        let version = manifest
            .image
            .rsplit_once(":v")
            .map_or_else(String::new, |(_, version)| version.to_owned());
        let kube = self.api_ready(node).map(|id| &self.clusters[&id].kube);
        let seen = |what: &str| {
            Missing::no_answer(
                format!("{what} from the API on {node}"),
                "/readyz is not ok",
            )
        };
        Seen::now(Some(ApiView {
            readyz,
            version,
            nodes: told(kube, || seen("nodes"), |kube| kube.nodes(self.now_ms)),
            endpoints: told(kube, || seen("endpoints"), |kube| kube.endpoints.clone()),
            kubeadm: told(kube, || seen("kubeadm-config"), |kube| kube.kubeadm.clone()),
            cluster_info: told(
                kube,
                || seen("cluster-info"),
                |kube| kube.cluster_info.clone(),
            ),
            workloads: told(kube, || seen("workloads"), workloads),
            notes: told(kube, || seen("notes"), |kube| kube.notes.clone()),
            tokens: told(kube, || seen("tokens"), |kube| kube.tokens.clone()),
            uploaded_certs: told(
                kube,
                || seen("uploaded certificates"),
                |kube| kube.uploaded_certs,
            ),
            conversion: conversion_of_api(self.foreign, kube, || seen("the conversion")),
        }))
    }
}

/// What needs a ready apiserver.
fn told<T>(
    kube: Option<&Kube>,
    missing: impl Fn() -> Missing,
    read: impl Fn(&Kube) -> T,
) -> Seen<T> {
    kube.map_or_else(|| Seen::Unknown(missing()), |kube| Seen::now(read(kube)))
}

fn members(cluster: &EtcdCluster) -> BTreeMap<quorate_plan::MemberId, Member> {
    cluster
        .members
        .iter()
        .map(|(id, member)| {
            let told = Member {
                name: member.name.clone(),
                peer_urls: [member.peer_url.clone()].into(),
                client_urls: member.client_url.clone().into_iter().collect(),
                learner: member.learner,
            };
            (*id, told)
        })
        .collect()
}

fn workloads(kube: &Kube) -> BTreeMap<String, Workload> {
    let nodes = u32::try_from(kube.nodes.len()).unwrap_or(u32::MAX);
    let ready_nodes = kube.nodes.values().filter(|node| node.ready).count();
    let ready_nodes = u32::try_from(ready_nodes).unwrap_or(u32::MAX);
    kube.workloads
        .iter()
        .map(|name| {
            let workload = if name == "kube-system/coredns" {
                Workload {
                    wanted: 2,
                    ready: if ready_nodes > 0 { 2 } else { 0 },
                }
            } else {
                Workload {
                    wanted: nodes,
                    ready: ready_nodes,
                }
            };
            (name.clone(), workload)
        })
        .collect()
}

fn units(machine: &Host) -> BTreeMap<String, Unit> {
    let mut installed: BTreeSet<&str> = machine.disk.enabled.iter().map(String::as_str).collect();
    if machine.disk.components.is_some() {
        installed.extend(["containerd", "kubelet"]);
    }
    installed
        .into_iter()
        .map(|name| {
            let active = machine.active(name);
            let unit = Unit {
                active,
                enabled: machine.disk.enabled.contains(name),
                state: if active {
                    "active/running"
                } else if machine.memory.active.contains(name) {
                    "activating/auto-restart"
                } else {
                    "inactive/dead"
                }
                .into(),
            };
            (name.to_owned(), unit)
        })
        .collect()
}

fn listening(machine: &Host) -> BTreeMap<u16, String> {
    let mut ports = machine.hardware.listening.clone();
    let mut listen = |open: bool, numbers: &[u16], process: &str| {
        if open {
            ports.extend(numbers.iter().map(|port| (*port, process.to_owned())));
        }
    };
    listen(machine.serves("etcd"), &[2379, 2380], "etcd");
    listen(machine.serves("kube-apiserver"), &[6443], "kube-apiserver");
    listen(machine.active("kubelet"), &[10250], "kubelet");
    if let Some(balancer) = &machine.disk.balancer {
        listen(
            machine.active("quorate-lb"),
            &[balancer.listen.port()],
            "quorate",
        );
    }
    ports
}
