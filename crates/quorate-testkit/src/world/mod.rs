//! The world: machines, what lies on their disks, what runs on them, and the etcd clusters they make up. Start at [`World`].
//!
//! Everything coarse is coarse on purpose: time passes in ticks ([`World::tick`]), a log is its length, a certificate its names. What is
//! exact is what decisions are made of: who is a member, who votes, whose data lies where, and which rule etcd or kubeadm refuses by.

pub mod act;
pub mod etcd;
pub mod fault;
pub mod foreign;
mod found;
pub mod gate;
pub mod kube;
mod leave;
pub mod machine;
pub mod nlb;
mod report;
mod sharing;
mod tick;
pub mod volume;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use quorate_plan::{
    Intent, NodeName, Observation, Seen,
    observation::{EndpointName, InfraView, Power, Sightings},
    spec::{BalancerSpec, Spec},
};

pub use act::ActError;
pub use etcd::{ClusterId, EtcdCluster};
pub use machine::{Disk, Hardware, Machine};
pub use nlb::Nlb;
pub use volume::Volume;

/// The hash of the `quorate` binary that runs on every host here.
pub const BINARY: &str = "b1";

/// What every clock shows at the beginning: 2027-01-15, in milliseconds since 1970.
pub const CLOCK_MS: u64 = 1_800_000_000_000;

/// Where a balancer stands that somebody else runs.
pub const USERS_BALANCER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 250));

/// Everything outside the operator's machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// Every machine of the cluster file, made or not. Worlds share the machines in which they do not differ.
    pub machines: BTreeMap<NodeName, Arc<Machine>>,
    /// etcd clusters that were ever started, by ID. More than one that has a leader is a split brain.
    pub clusters: BTreeMap<ClusterId, EtcdCluster>,
    /// The endpoint that hosts resolve and ask.
    pub endpoint: EndpointName,
    /// The cluster's DNS that hosts ask.
    pub dns: Option<IpAddr>,
    /// What the endpoint's name resolves to without Quorate's doing. Empty: it does not.
    pub resolves: BTreeSet<IpAddr>,
    /// The balancer that somebody else runs leads to the ready apiservers.
    pub users_balancer: bool,
    /// The cloud's balancer, where there is one.
    pub nlb: Option<Nlb>,
    /// True time, in milliseconds since 1970; machines' clocks differ from it by [`Hardware::clock_off_ms`].
    pub now_ms: u64,
    /// Certificate authority sets made so far: no two are the same.
    pub authorities: u32,
    /// Somebody else made the cluster, see [`World::somebody_elses`]; only then hosts tell what a conversion has to know.
    pub foreign: bool,
}

impl World {
    /// The world before anything was done: machines of a local provider are not made yet, others run and carry nothing.
    pub fn new(spec: &Spec) -> Self {
        let mut world = Self {
            machines: BTreeMap::new(),
            clusters: BTreeMap::new(),
            endpoint: spec.endpoint.clone(),
            dns: quorate_plan::kubeadm::dns_address(&spec.network.services),
            resolves: BTreeSet::new(),
            users_balancer: true,
            nlb: None,
            now_ms: CLOCK_MS,
            authorities: 0,
            foreign: false,
        };
        world.know(spec);
        world
    }

    /// Takes in machines of a cluster file that were not known before, as a user does who adds a line to it. They are like those that are
    /// there: the machines of a cluster are all of one kind.
    pub fn know(&mut self, spec: &Spec) {
        let kind = self.machines.values().next().map(|one| one.hardware.kind);
        for (node, machine, _) in spec.machines() {
            self.machines.entry(node.clone()).or_insert_with(|| {
                let mut new = Machine {
                    volume: machine.etcd_device.as_ref().map(|_| Volume::default()),
                    ..Machine::new(node, machine.address, spec.local())
                };
                if let Some(kind) = kind {
                    new.hardware.kind = kind;
                }
                Arc::new(new)
            });
        }
        self.know_nlb(spec);
        if !spec.hosts_file {
            self.resolves = match spec.balancer {
                // Whoever owns the name gives it a record when there is a master.
                BalancerSpec::Dns => self.resolves.clone(),
                BalancerSpec::Quorate { .. }
                | BalancerSpec::Shared { .. }
                | BalancerSpec::External
                | BalancerSpec::Nlb { .. } => {
                    [spec.endpoint_address().unwrap_or(USERS_BALANCER)].into()
                }
            };
        }
    }

    /// A machine.
    ///
    /// # Panics
    /// When no cluster file named it: tests name machines that exist.
    pub fn machine(&self, node: &NodeName) -> &Machine {
        self.machines
            .get(node)
            .unwrap_or_else(|| panic!("no machine {node} in this world"))
    }

    /// A machine, to change it.
    ///
    /// # Panics
    /// As [`World::machine`].
    pub fn machine_mut(&mut self, node: &NodeName) -> &mut Machine {
        let machine = self.machines.get_mut(node);
        Arc::make_mut(machine.unwrap_or_else(|| panic!("no machine {node} in this world")))
    }

    /// The machine at that address.
    pub fn at(&self, address: IpAddr) -> Option<(&NodeName, &Machine)> {
        self.machines
            .iter()
            .find(|(_, machine)| machine.address == address)
            .map(|(node, machine)| (node, machine.as_ref()))
    }

    /// What the provider tells of its machines.
    pub fn infra(&self) -> BTreeMap<NodeName, Seen<InfraView>> {
        self.machines
            .iter()
            .filter(|(_, machine)| machine.provided)
            .map(|(node, machine)| {
                let view = InfraView {
                    power: machine.power,
                    kind: machine.hardware.kind,
                };
                (node.clone(), Seen::now(view))
            })
            .collect()
    }

    /// A look at everything, as the operator's machine takes it when every channel works, after it looked for half a minute.
    pub fn observe(&self, intent: &Intent) -> Observation {
        let mut seen = Observation {
            infra: self.infra(),
            targets: self.targets(),
            ..Observation::default()
        };
        for (node, ..) in intent.machines() {
            let report = self.report(node);
            seen.sightings.insert(node.clone(), watched(&report));
            seen.record(node, report);
        }
        seen
    }

    /// The provider makes or starts a machine.
    pub fn provide(&mut self, node: &NodeName) {
        match self.machine(node).power {
            Power::Absent => self.machine_mut(node).power = Power::Running,
            Power::Off => self.power_on(node),
            Power::Frozen => self.thaw(node),
            Power::Running => {}
        }
    }

    /// Two hosts can send each other packets.
    pub fn connected(&self, a: &NodeName, b: &NodeName) -> bool {
        let alone = |node| {
            let machine = self.machine(node);
            machine.isolated || machine.power != Power::Running
        };
        if a == b {
            self.machine(a).power == Power::Running
        } else {
            !alone(a) && !alone(b)
        }
    }
}

/// Half a minute of looks that all ended like the last one.
fn watched(report: &Seen<quorate_plan::observation::HostReport>) -> Sightings {
    let answered = match report {
        Seen::Known { .. } => true,
        Seen::Unknown(_) => false,
    };
    let mut sightings = Sightings::default();
    for _ in 0..7 {
        sightings.look(answered, Duration::from_secs(5));
    }
    sightings
}
