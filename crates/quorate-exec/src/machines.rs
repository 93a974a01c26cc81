//! Where the machines come from: somebody else made them, or they are local hosts on this machine. Start at [`Machines`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    time::Duration,
};

use quorate_local::{Bind, Cluster, ClusterSpec, HostSpec, Local, Opening, Transport};
use quorate_plan::{
    InfraEnsure, Intent, Missing, NodeName, Seen,
    observation::{Cgroup, InfraView, MachineKind, Power, Target},
    ports::{self, Feature, Party, Protocol},
    spec::{Provider, Role},
};
use tokio::sync::OnceCell;

use crate::{
    hostile,
    nlb::Nlb,
    seam::{Infra, InfraError},
    ssh::{SshAccess, Way},
};

/// How long a local host may take to boot: one or two seconds on an idle machine.
const BOOT_MAX: Duration = Duration::from_secs(300);

/// What makes the machines of a cluster.
#[derive(Debug)]
pub enum Machines {
    /// Somebody else: they are there.
    Given,
    /// Somebody else, with a Network Load Balancer before them whose targets are ours.
    BehindNlb(Box<Nlb>),
    /// This machine. Boxed: it is much larger than nothing.
    Local(Box<LocalMachines>),
}

impl Infra for Machines {
    async fn observe(&self) -> BTreeMap<NodeName, Seen<InfraView>> {
        match self {
            Self::Given | Self::BehindNlb(_) => BTreeMap::new(),
            Self::Local(local) => local.observe().await,
        }
    }

    async fn targets(&self) -> BTreeMap<NodeName, Seen<Target>> {
        match self {
            Self::Given | Self::Local(_) => BTreeMap::new(),
            Self::BehindNlb(nlb) => nlb.targets().await,
        }
    }

    async fn ensure(
        &self,
        what: &InfraEnsure,
        progress: &mut dyn FnMut(String),
    ) -> Result<(), InfraError> {
        match self {
            Self::Given => Err(given(what)),
            Self::BehindNlb(nlb) => nlb.ensure(what).await,
            Self::Local(local) => local.ensure(what, progress).await,
        }
    }
}

/// Nobody here makes what is given.
pub(crate) fn given(what: &InfraEnsure) -> InfraError {
    InfraError {
        what: format!("making {}", what.node()),
        detail: "expected a provider that makes machines, seen one that is given them".into(),
    }
}

/// Local hosts for a cluster.
#[derive(Debug)]
pub struct LocalMachines {
    local: Local,
    cluster: ClusterSpec,
    wanted: BTreeMap<NodeName, (IpAddr, Role)>,
    endpoint_port: u16,
    shared_address: Option<IpAddr>,
    kind: MachineKind,
    bundle: Option<Bind>,
    /// Made, or found, once in a run, however many hosts wait for it.
    made: OnceCell<Cluster>,
}

impl LocalMachines {
    /// The local hosts that `intent` names, below the state directory `local`. They see the bundle in `bundle`, an absolute path, as if it
    /// had been copied there. Nothing is made yet.
    ///
    /// # Errors
    /// When the cluster file's provider is not `local`, or this machine cannot be read.
    pub fn new(local: Local, intent: &Intent, bundle: Option<&Path>) -> Result<Self, InfraError> {
        let bad = |detail: String| InfraError {
            what: "local hosts".into(),
            detail,
        };
        let Provider::Local { subnet } = &intent.spec.provider else {
            return Err(bad("expected the provider `local`, seen another".into()));
        };
        let name = intent.spec.name.as_str();
        let mut cluster = ClusterSpec::new(name.parse().map_err(|error| bad(chain(&error)))?);
        cluster.subnet = Some(subnet.parse().map_err(|error| bad(chain(&error)))?);
        let inside = format!("/var/lib/quorate/bundles/{}", intent.bundle.id);
        Ok(Self {
            local,
            cluster,
            wanted: intent
                .machines()
                .map(|(node, machine, role)| {
                    let role = role.unwrap_or(Role::ControlPlane);
                    (node.clone(), (machine.address, role))
                })
                .collect(),
            endpoint_port: intent.spec.endpoint.port,
            shared_address: intent.spec.shared_address(),
            kind: kind_of_this_machine().map_err(|error| bad(chain(&error)))?,
            bundle: bundle.map(|dir| Bind::read_only(dir, inside)),
            made: OnceCell::new(),
        })
    }

    /// The ways into them. A host's key is made with it, so each way is looked up when it is first needed.
    pub fn ways(&self) -> BTreeMap<NodeName, Way> {
        self.wanted
            .keys()
            .map(|node| {
                let (local, cluster, node) =
                    (self.local.clone(), self.cluster.name.clone(), node.clone());
                let look = {
                    let node = node.clone();
                    move || {
                        let host = node.as_str().parse().map_err(|error| chain(&error))?;
                        let access = local
                            .open(&cluster)
                            .and_then(|cluster| cluster.ssh(&host))
                            .map_err(|error| chain(&error))?;
                        Ok(SshAccess {
                            address: access.address.into(),
                            port: access.port,
                            user: access.user,
                            identity: Some(access.identity_file),
                            sudo: false,
                            known_hosts: vec![access.known_hosts],
                            own_configuration: false,
                        })
                    }
                };
                (node, Way::when_needed(look))
            })
            .collect()
    }

    fn seen(&self, power: Power) -> Seen<InfraView> {
        Seen::now(InfraView {
            power,
            kind: self.kind,
        })
    }

    async fn powers(&self) -> Result<BTreeMap<String, Power>, quorate_local::Error> {
        let cluster = match self.local.open(&self.cluster.name) {
            Ok(cluster) => cluster,
            Err(quorate_local::Error::NoSuchCluster { .. }) => return Ok(BTreeMap::new()),
            Err(error) => return Err(error),
        };
        Ok(cluster
            .hosts()
            .await?
            .into_iter()
            .map(|host| {
                let power = match host.power {
                    quorate_local::Power::Running => Power::Running,
                    quorate_local::Power::Frozen => Power::Frozen,
                    quorate_local::Power::Off => Power::Off,
                };
                (host.name.to_string(), power)
            })
            .collect())
    }

    /// The cluster the hosts are made in; made once, the image they are made from as well.
    async fn cluster(
        &self,
        progress: &mut dyn FnMut(String),
    ) -> Result<&Cluster, quorate_local::Error> {
        self.made
            .get_or_try_init(async || {
                let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
                let base = self.local.base(move |at| {
                    // Nobody hears it when the run was stopped; the image is made nevertheless.
                    let _ = tell.send(at);
                });
                tokio::pin!(base);
                let base = loop {
                    tokio::select! {
                        base = &mut base => break base?,
                        Some(at) = told.recv() => progress(hostile::line(&format!(
                            "base image: {} % {:?} {}",
                            at.percent, at.phase, at.item
                        ))),
                    }
                };
                self.local.create(&base, &self.cluster).await
            })
            .await
    }

    async fn make(
        &self,
        node: &NodeName,
        address: IpAddr,
        progress: &mut dyn FnMut(String),
    ) -> Result<(), quorate_local::Error> {
        let IpAddr::V4(address) = address else {
            unreachable!("a cluster file gives local hosts addresses of their IPv4 subnet")
        };
        let host: quorate_local::HostName = node.as_str().parse()?;
        progress("waiting for the base image and the network".into());
        let cluster = self.cluster(progress).await?;
        match cluster.spec(&host) {
            // It keeps what it was made with, also when a newer bundle would be bound into a new one.
            Ok(_) => {}
            Err(quorate_local::Error::NoSuchHost { .. }) => {
                progress("making the host".into());
                cluster
                    .create_host(&self.host_spec(node, host.clone(), address))
                    .await?;
            }
            Err(error) => return Err(error),
        }
        cluster.open_only(&self.openings(cluster).await?).await?;
        progress("booting".into());
        cluster.power_on(&host).await?;
        cluster.booted(&host, BOOT_MAX).await?;
        Ok(())
    }

    /// The port matrix for these hosts. Hosts that this run does not know may be members of the cluster still: they count as masters.
    async fn openings(&self, cluster: &Cluster) -> Result<Vec<Opening>, quorate_local::Error> {
        let mut roles: BTreeMap<Ipv4Addr, Role> = BTreeMap::new();
        for host in cluster.hosts().await? {
            roles.insert(host.address, Role::ControlPlane);
        }
        for (address, role) in self.wanted.values() {
            if let IpAddr::V4(address) = address {
                roles.insert(*address, *role);
            }
        }
        let shared = match self.shared_address {
            Some(IpAddr::V4(address)) => Some(address),
            Some(IpAddr::V6(_)) | None => None,
        };
        Ok(openings(&roles, self.endpoint_port, shared))
    }

    /// As if its plug were pulled: nothing of a cluster runs on it any more.
    async fn stop(&self, node: &NodeName) -> Result<(), quorate_local::Error> {
        let host: quorate_local::HostName = node.as_str().parse()?;
        match self.local.open(&self.cluster.name)?.power_off(&host).await {
            Err(quorate_local::Error::NoSuchHost { .. }) => Ok(()),
            result => result,
        }
    }

    fn host_spec(
        &self,
        node: &NodeName,
        host: quorate_local::HostName,
        address: std::net::Ipv4Addr,
    ) -> HostSpec {
        let mut spec = HostSpec::new(host, address);
        match self.wanted.get(node).map(|(_, role)| role) {
            Some(Role::ControlPlane | Role::Worker) | None => {
                spec.binds.extend(self.bundle.clone());
                // containerd's overlays cannot lie on the host's own overlay.
                spec.data_dirs.push("/var/lib/containerd".into());
            }
            Some(Role::Balancer) => {}
        }
        spec
    }
}

impl Infra for LocalMachines {
    async fn observe(&self) -> BTreeMap<NodeName, Seen<InfraView>> {
        let powers = self.powers().await;
        self.wanted
            .keys()
            .map(|node| {
                let seen = match &powers {
                    Ok(powers) => {
                        self.seen(powers.get(node.as_str()).copied().unwrap_or(Power::Absent))
                    }
                    Err(error) => Seen::Unknown(Missing::no_answer(
                        format!("the machine of {node}"),
                        hostile::line(&chain(error)),
                    )),
                };
                (node.clone(), seen)
            })
            .collect()
    }

    async fn targets(&self) -> BTreeMap<NodeName, Seen<Target>> {
        BTreeMap::new()
    }

    async fn ensure(
        &self,
        what: &InfraEnsure,
        progress: &mut dyn FnMut(String),
    ) -> Result<(), InfraError> {
        let (doing, done) = match what {
            InfraEnsure::Machine { node, address } => {
                ("making", self.make(node, *address, progress).await)
            }
            InfraEnsure::MachineOff { node } => ("stopping", self.stop(node).await),
            InfraEnsure::Target { .. } | InfraEnsure::TargetGone { .. } => {
                return Err(InfraError {
                    what: what.node().to_string(),
                    detail: "expected a balancer of the cloud, seen local hosts".into(),
                });
            }
        };
        done.map_err(|error| InfraError {
            what: format!("{doing} local host {}", what.node()),
            detail: hostile::text(&chain(&error)),
        })
    }
}

/// The row that is about the address that masters share.
const SHARED_ADDRESS: &str = "shared-address";

/// The port matrix between hosts with these roles.
fn openings(
    roles: &BTreeMap<Ipv4Addr, Role>,
    endpoint_port: u16,
    shared: Option<Ipv4Addr>,
) -> Vec<Opening> {
    const ROLES: [Role; 3] = [Role::ControlPlane, Role::Worker, Role::Balancer];
    let of = |role: Role| -> BTreeSet<Ipv4Addr> {
        let all = roles.iter().filter(|(_, other)| **other == role);
        all.map(|(address, _)| *address).collect()
    };
    let mut features = vec![Feature::Vxlan];
    features.extend(shared.map(|_| Feature::SharedAddress));
    let mut all = Vec::new();
    for (from, to) in ROLES
        .iter()
        .flat_map(|a| ROLES.iter().map(move |b| (*a, *b)))
    {
        for row in ports::between(from, to, &features) {
            let is_shared = row.name == SHARED_ADDRESS;
            // A balancer listens where the cluster file says.
            let (first, last) = if row.to == Party::Balancer || is_shared {
                (endpoint_port, endpoint_port)
            } else {
                (row.first, row.last)
            };
            all.push(Opening {
                from: of(from),
                to: if is_shared {
                    shared.into_iter().collect()
                } else {
                    of(to)
                },
                transport: match row.protocol {
                    Protocol::Tcp => Transport::Tcp,
                    Protocol::Udp => Transport::Udp,
                    Protocol::Vrrp => Transport::Vrrp,
                },
                first,
                last,
            });
        }
    }
    all
}

/// An error with its causes, in one text.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// What local hosts on this machine are like: they share its kernel, its control groups and its swap.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn kind_of_this_machine() -> std::io::Result<MachineKind> {
    Ok(kind(
        Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
        &fs::read_to_string("/proc/self/status")?,
        &fs::read_to_string("/proc/swaps")?,
    ))
}

fn kind(unified: bool, status: &str, swaps: &str) -> MachineKind {
    /// CAP_SYS_RESOURCE's number.
    const SYS_RESOURCE: u32 = 24;
    let effective = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok())
        .unwrap_or(0);
    MachineKind {
        cgroup: if unified { Cgroup::V2 } else { Cgroup::V1 },
        oom_score_adjustable: effective & (1 << SYS_RESOURCE) != 0,
        // The first line is a heading.
        swap: swaps.lines().count() > 1,
        shared_disk: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_hosts_have_the_port_matrix_between_them() {
        let address = |last| Ipv4Addr::new(172, 30, 7, last);
        let roles = BTreeMap::from([
            (address(10), Role::Balancer),
            (address(11), Role::ControlPlane),
            (address(12), Role::ControlPlane),
            (address(21), Role::Worker),
        ]);
        let all = openings(&roles, 443, Some(address(9)));
        let open = |from, to, port: u16| {
            all.iter().any(|opening| {
                opening.transport == Transport::Tcp
                    && opening.from.contains(&address(from))
                    && opening.to.contains(&address(to))
                    && (opening.first..=opening.last).contains(&port)
            })
        };
        for (from, to, port) in [
            (21, 10, 443),
            (11, 10, 443),
            (10, 11, 6443),
            (21, 11, 6443),
            (11, 12, 2380),
            (11, 12, 2379),
            (11, 21, 10250),
            (21, 9, 443),
            (11, 12, 7443),
        ] {
            assert!(open(from, to, port), "{from} to {to} on {port}");
        }
        for (from, to, port) in [
            (21, 10, 6443),
            (21, 11, 2379),
            (21, 11, 2380),
            (10, 11, 2379),
            (21, 11, 10250),
            (21, 11, 22),
            (11, 21, 22),
            (11, 10, 22),
            (21, 11, 2381),
        ] {
            assert!(!open(from, to, port), "{from} to {to} on {port}");
        }
        let moves = |from, all: &[Opening]| {
            all.iter().any(|opening| {
                opening.transport == Transport::Vrrp && opening.from.contains(&address(from))
            })
        };
        assert!(moves(11, &all) && !moves(21, &all) && !moves(10, &all));
        assert!(!moves(11, &openings(&roles, 443, None)));
    }

    #[test]
    fn kinds_of_machines() {
        let heading = "Filename\tType\tSize\tUsed\tPriority\n";
        assert_eq!(
            kind(false, "Name:\tx\nCapEff:\t000001fffeffffff\n", heading),
            MachineKind {
                cgroup: Cgroup::V1,
                oom_score_adjustable: false,
                swap: false,
                shared_disk: true
            }
        );
        assert_eq!(
            kind(
                true,
                "CapEff:\t000001ffffffffff\n",
                &format!("{heading}/dev/sda2 partition 1 0 -2\n")
            ),
            MachineKind {
                cgroup: Cgroup::V2,
                oom_score_adjustable: true,
                swap: true,
                shared_disk: true
            }
        );
        kind_of_this_machine().unwrap();
    }
}
