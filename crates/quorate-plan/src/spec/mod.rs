//! What the cluster shall be: the cluster file, parsed, checked and resolved. Start at [`Spec`]; the text is read in [`parse`].
//!
//! A `Spec` is whole: names and addresses that the file leaves to Quorate are filled in, by rules that depend on nothing but the file.

mod check;
mod device;
mod elsewhere;
mod endpoint;
mod findings;
mod hosts;
mod inventory;
mod nets;
mod network;
mod packages;
pub mod parse;
mod raw;
mod read;
mod yaml;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ClusterName, NodeName, kubeadm::Peer, observation::EndpointName};

pub use device::EtcdDevice;
pub use inventory::{Inventory, Listed, TargetGroup};
pub use packages::Packages;
pub use parse::{parse, parse_with};
pub use raw::schema;

/// The cluster as it shall be.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// The cluster's name.
    pub name: ClusterName,
    /// Kubernetes version, without `v`.
    pub kubernetes: String,
    /// The stable name of the API.
    pub endpoint: EndpointName,
    /// What stands behind the endpoint.
    pub balancer: BalancerSpec,
    /// Whether Quorate writes the endpoint's name into `/etc/hosts` of the machines.
    pub hosts_file: bool,
    /// Control plane hosts, by name.
    pub control_plane: BTreeMap<NodeName, Machine>,
    /// Whether a new cluster is founded on all masters at once, or on the first, which the others join.
    pub bring_up: BringUp,
    /// Workers, by name.
    pub workers: BTreeMap<NodeName, Machine>,
    /// Networks.
    pub network: NetworkSpec,
    /// Where the machines come from.
    pub provider: Provider,
    /// The bundle's directory, as the file gives it, relative to the file. `None`: the standard place.
    pub bundle: Option<String>,
    /// Kubernetes' programs come from packages, with what runs in pods from the bundle. `None`: all of it comes from the bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packages: Option<Packages>,
}

/// What stands behind the endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BalancerSpec {
    /// `quorate lb` on hosts of its own.
    Quorate {
        /// The balancer hosts, by name.
        hosts: BTreeMap<NodeName, Machine>,
    },
    /// `quorate lb` on the masters, behind an address that they share: keepalived holds it on one of them.
    Shared {
        /// The address. No machine has it for itself.
        address: IpAddr,
    },
    /// Somebody else's balancer: Quorate changes nothing there, and says who has to be registered.
    External,
    /// Nothing: the name has an address record for every master. Quorate changes no record, and says which have to change.
    Dns,
    /// A Network Load Balancer at AWS that Terraform made: Quorate registers the masters and takes them out.
    Nlb {
        /// ARN of the group that they are registered in.
        target_group: String,
        /// Instances by master, of those too that are to leave.
        instances: BTreeMap<NodeName, String>,
    },
}

/// A machine of the cluster and the way to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// The address the cluster and the operator reach it at.
    pub address: IpAddr,
    /// Failure zone, where the file names one.
    pub zone: Option<String>,
    /// The block device that etcd has to itself. `None`: etcd's data lies with everything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd_device: Option<EtcdDevice>,
    /// The way in.
    pub ssh: Ssh,
}

/// The way into a machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ssh {
    /// User.
    pub user: String,
    /// TCP port.
    pub port: u16,
    /// Private key file on the operator's machine. `None`: the agent and the user's own configuration decide.
    pub identity: Option<String>,
    /// Whether `sudo -n` is needed to become root.
    pub sudo: bool,
}

/// How a new cluster comes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum BringUp {
    /// All masters found etcd together: the fastest, and only where every host is known to be blank.
    Together,
    /// The first master founds, the others join one by one.
    OneByOne,
}

/// Networks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkSpec {
    /// The pod network's plugin.
    pub cni: Cni,
    /// Addresses of pods.
    pub pods: String,
    /// Addresses of services.
    pub services: String,
}

/// The pod network's plugin.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Cni {
    /// Flannel with VXLAN, pinned by the bundle.
    Flannel,
    /// None: somebody else installs one; nodes are not expected to become Ready.
    None,
    /// The user's own manifest.
    Manifest {
        /// The file, as the cluster file names it.
        file: String,
        /// Its text, read by the command line.
        text: String,
    },
}

/// Where the machines come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Provider {
    /// Local hosts: real Debian machines in namespaces on the operator's machine.
    Local {
        /// Their network.
        subnet: String,
    },
    /// Hosts the user has.
    Ssh,
    /// Hosts that Terraform made: they are reached like those that the user has.
    Terraform {
        /// The directory of its configuration, as the file gives it, relative to the file.
        directory: String,
    },
}

/// What a machine is in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// Runs etcd and an apiserver.
    ControlPlane,
    /// Runs workloads.
    Worker,
    /// Runs the balancer.
    Balancer,
}

impl Spec {
    /// Hosts that Quorate's balancer runs on: of its own, or the masters; none where somebody else balances.
    pub fn balancers(&self) -> impl Iterator<Item = (&NodeName, &Machine)> {
        match &self.balancer {
            BalancerSpec::Quorate { hosts } => Some(hosts.iter()),
            BalancerSpec::Shared { .. } => Some(self.control_plane.iter()),
            BalancerSpec::External | BalancerSpec::Dns | BalancerSpec::Nlb { .. } => None,
        }
        .into_iter()
        .flatten()
    }

    /// Hosts that are balancers and nothing else.
    fn balancer_hosts(&self) -> impl Iterator<Item = (&NodeName, &Machine)> {
        let are_masters = self.shared_address().is_some();
        self.balancers().filter(move |_| !are_masters)
    }

    /// The address that the masters share. `None`: they share none.
    pub fn shared_address(&self) -> Option<IpAddr> {
        match self.balancer {
            BalancerSpec::Shared { address } => Some(address),
            BalancerSpec::Quorate { .. }
            | BalancerSpec::External
            | BalancerSpec::Dns
            | BalancerSpec::Nlb { .. } => None,
        }
    }

    /// The instance that is a master's target at the cloud's balancer. `None`: there is no such balancer, or nobody told.
    pub fn instance(&self, node: &NodeName) -> Option<&str> {
        match &self.balancer {
            BalancerSpec::Nlb { instances, .. } => instances.get(node).map(String::as_str),
            BalancerSpec::Quorate { .. }
            | BalancerSpec::Shared { .. }
            | BalancerSpec::External
            | BalancerSpec::Dns => None,
        }
    }

    /// Every machine with its role, balancers first, then masters, then workers: the order they are shown in.
    pub fn machines(&self) -> impl Iterator<Item = (&NodeName, &Machine, Role)> {
        self.balancer_hosts()
            .map(|(name, machine)| (name, machine, Role::Balancer))
            .chain(
                self.control_plane
                    .iter()
                    .map(|(name, machine)| (name, machine, Role::ControlPlane)),
            )
            .chain(
                self.workers
                    .iter()
                    .map(|(name, machine)| (name, machine, Role::Worker)),
            )
    }

    /// The machine of that name.
    pub fn machine(&self, node: &NodeName) -> Option<&Machine> {
        self.machines()
            .find(|(name, ..)| *name == node)
            .map(|(_, machine, _)| machine)
    }

    /// A control plane host or worker as etcd and kubeadm know it.
    pub fn peer(&self, node: &NodeName) -> Option<Peer> {
        self.machine(node).map(|machine| Peer {
            name: node.clone(),
            address: machine.address,
        })
    }

    /// Control plane hosts as etcd knows them.
    pub fn peers(&self) -> BTreeSet<Peer> {
        self.control_plane
            .iter()
            .map(|(name, machine)| Peer {
                name: name.clone(),
                address: machine.address,
            })
            .collect()
    }

    /// The apiserver of a control plane host: its port never moves.
    pub fn apiserver(machine: &Machine) -> SocketAddr {
        SocketAddr::new(machine.address, 6443)
    }

    /// The address behind the endpoint's name, where Quorate knows it: its first balancer.
    pub fn endpoint_address(&self) -> Option<IpAddr> {
        self.endpoint
            .host
            .parse()
            .ok()
            .or_else(|| self.shared_address())
            .or_else(|| self.balancers().next().map(|(_, machine)| machine.address))
    }

    /// Machines Quorate made itself.
    pub fn local(&self) -> bool {
        match self.provider {
            Provider::Local { .. } => true,
            Provider::Ssh | Provider::Terraform { .. } => false,
        }
    }
}
