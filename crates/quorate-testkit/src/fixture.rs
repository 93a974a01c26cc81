//! Cluster files as values, for tests. Start at [`Cluster`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use quorate_plan::{
    Goal, Intent, NodeName, Operator, Spec,
    intent::BundleRef,
    observation::EndpointName,
    spec::{BalancerSpec, BringUp, Cni, EtcdDevice, Machine, NetworkSpec, Provider, Ssh},
};

use crate::world::{BINARY, volume::DEVICE};

/// Kubernetes' version in every test.
pub const KUBERNETES: &str = "1.35.4";

/// The target group in every test.
pub const TARGET_GROUP: &str =
    "arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/demo-api/0123456789abcdef";

/// A cluster file in a few numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Control plane hosts, `cp-1` and on.
    pub masters: u8,
    /// Workers, `w-1` and on.
    pub workers: u8,
    /// Balancer hosts, `lb-1` and on. None: somebody else balances.
    pub balancers: u8,
    /// Masters balance themselves behind an address that they share, in place of balancer hosts.
    pub shared: bool,
    /// A Network Load Balancer at AWS that Terraform made, in place of balancer hosts.
    pub nlb: bool,
    /// Nothing but records of DNS, in place of a balancer.
    pub dns: bool,
    /// Founding together or one by one.
    pub bring_up: BringUp,
    /// Machines are made by Quorate.
    pub local: bool,
    /// The pod network is Flannel; otherwise somebody else's.
    pub flannel: bool,
    /// Masters' etcd has a block device to itself.
    pub volumes: bool,
    /// Masters whose place another host takes, by number: `(3, 4)` is `cp-4` instead of `cp-3`. Zeros: nobody.
    pub swaps: [(u8, u8); 2],
}

impl Default for Cluster {
    /// Three masters that found together, one balancer, no worker, on local hosts.
    fn default() -> Self {
        Self {
            masters: 3,
            workers: 0,
            balancers: 1,
            shared: false,
            nlb: false,
            dns: false,
            bring_up: BringUp::Together,
            local: true,
            flannel: true,
            volumes: false,
            swaps: [(0, 0); 2],
        }
    }
}

/// The address that masters share.
const SHARED_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));

/// A name.
///
/// # Panics
/// When it is none.
pub fn node(name: &str) -> NodeName {
    name.parse().expect("a test's node name")
}

fn machines(prefix: &str, count: u8, first: u8) -> BTreeMap<NodeName, Machine> {
    numbered(prefix, (1..=count).collect(), first)
}

fn numbered(prefix: &str, numbers: BTreeSet<u8>, first: u8) -> BTreeMap<NodeName, Machine> {
    numbers
        .into_iter()
        .map(|n| {
            let machine = Machine {
                address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, first + n - 1)),
                zone: None,
                etcd_device: None,
                ssh: Ssh {
                    user: "root".into(),
                    port: 22,
                    identity: None,
                    sudo: false,
                },
            };
            (node(&format!("{prefix}-{n}")), machine)
        })
        .collect()
}

impl Cluster {
    fn master_numbers(&self) -> BTreeSet<u8> {
        let mut numbers: BTreeSet<u8> = (1..=self.masters).collect();
        for (goes, comes) in self.swaps {
            if numbers.remove(&goes) {
                numbers.insert(comes);
            }
        }
        numbers
    }

    /// Those of the masters in the file, and of those whose place another one took.
    fn instances(&self) -> BTreeMap<NodeName, String> {
        let mut numbers = self.master_numbers();
        numbers.extend(self.swaps.iter().map(|(goes, _)| *goes));
        numbers.remove(&0);
        numbers
            .into_iter()
            .map(|n| (node(&format!("cp-{n}")), format!("i-{n:017x}")))
            .collect()
    }

    /// What an operator of it wants who had that cluster file before, and remembers its hosts.
    pub fn intent_after(&self, before: &Self) -> Intent {
        let mut intent = self.intent();
        intent.retired = before.spec().control_plane;
        intent
            .retired
            .retain(|node, _| !intent.spec.control_plane.contains_key(node));
        if let BalancerSpec::Nlb { instances, .. } = &mut intent.spec.balancer {
            instances.extend(before.instances());
        }
        intent
    }

    /// The cluster file.
    pub fn spec(&self) -> Spec {
        let mut control_plane = numbered("cp", self.master_numbers(), 11);
        for machine in control_plane.values_mut().filter(|_| self.volumes) {
            machine.etcd_device = Some(EtcdDevice::named(DEVICE));
        }
        Spec {
            name: "demo".parse().expect("a name"),
            kubernetes: KUBERNETES.into(),
            endpoint: EndpointName {
                host: "api.demo.internal".into(),
                port: 6443,
            },
            balancer: if self.nlb {
                BalancerSpec::Nlb {
                    target_group: TARGET_GROUP.into(),
                    instances: self.instances(),
                }
            } else if self.dns {
                BalancerSpec::Dns
            } else if self.shared {
                BalancerSpec::Shared {
                    address: SHARED_ADDRESS,
                }
            } else if self.balancers == 0 {
                BalancerSpec::External
            } else {
                BalancerSpec::Quorate {
                    hosts: machines("lb", self.balancers, 201),
                }
            },
            hosts_file: self.local,
            control_plane,
            bring_up: self.bring_up,
            workers: machines("w", self.workers, 101),
            network: NetworkSpec {
                cni: if self.flannel {
                    Cni::Flannel
                } else {
                    Cni::None
                },
                pods: "10.244.0.0/16".into(),
                services: "10.96.0.0/12".into(),
            },
            provider: if self.local {
                Provider::Local {
                    subnet: "10.0.0.0/24".into(),
                }
            } else {
                Provider::Ssh
            },
            bundle: None,
            packages: None,
        }
    }

    /// What an operator of it wants: that the cluster equals the file.
    pub fn intent(&self) -> Intent {
        intent(self.spec())
    }
}

/// A bundle of that Kubernetes version.
pub fn bundle(kubernetes: &str) -> BundleRef {
    let images = [
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kube-proxy",
        "etcd",
        "coredns",
        "pause",
        "flannel",
    ];
    BundleRef {
        id: "0123456789abcdef".into(),
        kubernetes: kubernetes.into(),
        images: images
            .iter()
            .map(|name| {
                let image = format!("quorate.local/{name}:v{kubernetes}");
                ((*name).to_owned(), image)
            })
            .collect(),
    }
}

/// That the cluster equals this file.
pub fn intent(spec: Spec) -> Intent {
    Intent {
        bundle: bundle(&spec.kubernetes),
        spec,
        binary: BINARY.into(),
        goal: Goal::Converge,
        accepted: BTreeSet::new(),
        retired: BTreeMap::new(),
    }
}

/// An operator's run by number.
pub fn operator(run: u32) -> Operator {
    Operator {
        user: "ada".into(),
        machine: "laptop".into(),
        pid: 1000 + run,
        run: format!("run-{run}"),
    }
}
