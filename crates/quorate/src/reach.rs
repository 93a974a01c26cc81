//! How a command reaches a cluster: the seam that lets scripts run against a cluster in memory. For processes it is [`Ssh`].

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use quorate_exec::{
    Control, Hosts, Infra, LocalMachines, Machines, Nlb, SshAccess, SshHosts, SshSettings, Way,
    World, etcd_devices, look_for,
};
use quorate_local::Local;
use quorate_plan::{
    Acceptance, Goal, Intent, NodeName,
    spec::{Machine, Provider},
};

use crate::{
    cluster::{self, ClusterFile},
    exit::Exit,
    failure::Failure,
    state::Directories,
    terraform::tool,
};

/// A way to a cluster.
#[allow(
    async_fn_in_trait,
    reason = "driven on one task; no adapter has to be Send"
)]
pub trait Reach {
    /// Its hosts.
    type Hosts: Hosts;
    /// The machines under them.
    type Infra: Infra;

    /// Where things are kept on this machine.
    ///
    /// # Errors
    /// When there is no home directory.
    fn directories(&self) -> Result<Directories, Failure> {
        Directories::of_process()
    }

    /// The program that makes machines where a configuration of Terraform says which.
    ///
    /// # Errors
    /// When there is none.
    fn terraform(&self) -> Result<PathBuf, Failure> {
        tool::program()
    }

    /// What making the machines of a cluster would change on this machine beyond what is the cluster's own, one line each.
    ///
    /// # Errors
    /// When its settings cannot be read.
    async fn changes_here(&self, _cluster: &ClusterFile) -> Result<Vec<String>, Failure> {
        Ok(Vec::new())
    }

    /// Masters that run and that the cluster file does not name, as the provider of the machines tells: more than this operator may know of.
    ///
    /// # Errors
    /// When the provider does not tell.
    async fn inventory(
        &self,
        _cluster: &ClusterFile,
    ) -> Result<BTreeMap<NodeName, Machine>, Failure> {
        Ok(BTreeMap::new())
    }

    /// The world of a cluster. Nothing is asked of any host yet.
    ///
    /// # Errors
    /// When the way cannot be set up on this machine.
    async fn world(
        &self,
        cluster: &ClusterFile,
        intent: &Intent,
    ) -> Result<World<Self::Hosts, Self::Infra>, Failure>;
}

/// Real hosts over the user's `ssh`.
#[derive(Clone, Copy, Debug)]
pub struct Ssh;

/// What is wanted of a cluster, with the masters that left its file: those that this operator knows, and those that its provider does.
///
/// # Errors
/// As [`ClusterFile::intent`], and when the provider does not tell.
pub async fn wanted(
    cluster: &ClusterFile,
    goal: Goal,
    accepted: &[Acceptance],
    reach: &impl Reach,
) -> Result<Intent, Failure> {
    let mut intent = cluster.intent(goal, accepted)?;
    for (node, machine) in reach.inventory(cluster).await? {
        intent.retired.entry(node).or_insert(machine);
    }
    Ok(intent)
}

impl Reach for Ssh {
    type Hosts = SshHosts;
    type Infra = Machines;

    async fn changes_here(&self, cluster: &ClusterFile) -> Result<Vec<String>, Failure> {
        match cluster.spec.provider {
            Provider::Ssh | Provider::Terraform { .. } => Ok(Vec::new()),
            Provider::Local { .. } => {
                let usage =
                    |error: quorate_local::BadName| Failure::from_error(Exit::Usage, &error);
                let name = cluster.spec.name.as_str().parse().map_err(usage)?;
                let changes = local()?
                    .machine_changes(&quorate_local::ClusterSpec::new(name))
                    .await
                    .map_err(|error| Failure::from_error(Exit::Unexpected, &error))?;
                Ok(changes.iter().map(ToString::to_string).collect())
            }
        }
    }

    async fn inventory(
        &self,
        cluster: &ClusterFile,
    ) -> Result<BTreeMap<NodeName, Machine>, Failure> {
        match cluster.spec.provider {
            Provider::Local { .. } => running_locally(cluster).await,
            Provider::Ssh | Provider::Terraform { .. } => Ok(BTreeMap::new()),
        }
    }

    async fn world(
        &self,
        cluster: &ClusterFile,
        intent: &Intent,
    ) -> Result<World<SshHosts, Machines>, Failure> {
        cluster.state().make()?;
        let bundle = Some(cluster.bundle_path()).filter(|path| path.is_dir());
        let (ways, infra) = match cluster.spec.provider {
            Provider::Local { .. } => {
                let machines = LocalMachines::new(local()?, intent, bundle.as_deref())
                    .map_err(|error| Failure::from_error(Exit::Unexpected, &error))?;
                (machines.ways(), Machines::Local(Box::new(machines)))
            }
            Provider::Ssh | Provider::Terraform { .. } => {
                let nlb = Nlb::of(&intent.spec, quorate_aws::Options::of_process())
                    .await
                    .map_err(|error| Failure::from_error(Exit::Usage, &error))?;
                let infra = match nlb {
                    Some(nlb) => Machines::BehindNlb(Box::new(nlb)),
                    None => Machines::Given,
                };
                (given_ways(cluster, intent), infra)
            }
        };
        let settings = SshSettings {
            control: Control::new(cluster.directories.sockets()),
            binary: cluster::own_binary()?,
            bundle,
            look: look_for(intent),
            etcd_devices: etcd_devices(intent),
        };
        let hosts = SshHosts::new(settings, ways)
            .map_err(|error| Failure::from_error(Exit::Unexpected, &error))?;
        Ok(World::new(hosts, infra))
    }
}

/// Local hosts of this machine.
///
/// # Errors
/// When the environment names a place that cannot be used.
pub fn local() -> Result<Local, Failure> {
    Local::from_env(None).map_err(|error| Failure::from_error(Exit::Usage, &error))
}

fn given_ways(cluster: &ClusterFile, intent: &Intent) -> BTreeMap<NodeName, Way> {
    intent
        .machines()
        .map(|(node, machine, _)| (node.clone(), given(cluster, machine).into()))
        .collect()
}

/// Local hosts that are called as Quorate calls masters, run, and are not in the file. One that is off was taken out of the cluster and
/// kept, or is a member that died: then this operator, who made it one, knows it.
async fn running_locally(cluster: &ClusterFile) -> Result<BTreeMap<NodeName, Machine>, Failure> {
    let name = cluster.spec.name.as_str();
    let name = name
        .parse()
        .map_err(|error: quorate_local::BadName| Failure::from_error(Exit::Usage, &error))?;
    let hosts = match local()?.open(&name) {
        Ok(local) => local.hosts().await,
        Err(quorate_local::Error::NoSuchCluster { .. }) => return Ok(BTreeMap::new()),
        Err(error) => Err(error),
    }
    .map_err(|error| Failure::from_error(Exit::Unseen, &error))?;
    Ok(hosts
        .into_iter()
        .filter(|host| host.power != quorate_local::Power::Off)
        .filter_map(|host| {
            let node: NodeName = host.name.as_str().parse().ok()?;
            let number = node.as_str().strip_prefix("cp-")?;
            let left = number.bytes().all(|b| b.is_ascii_digit())
                && cluster.spec.machines().all(|(named, machine, _)| {
                    *named != node && machine.address != IpAddr::V4(host.address)
                });
            let machine = Machine {
                address: host.address.into(),
                zone: None,
                etcd_device: None,
                ssh: quorate_plan::spec::Ssh {
                    user: "root".into(),
                    port: 22,
                    identity: None,
                    sudo: false,
                },
            };
            left.then_some((node, machine))
        })
        .collect())
}

/// The way into a host, to run something there besides what [`Hosts`] offers.
///
/// # Errors
/// When it is a local host that is not made yet.
pub fn access(
    cluster: &ClusterFile,
    node: &NodeName,
    machine: &Machine,
) -> Result<SshAccess, Failure> {
    match cluster.spec.provider {
        Provider::Ssh | Provider::Terraform { .. } => Ok(given(cluster, machine)),
        Provider::Local { .. } => {
            let failed = |error: quorate_local::Error| Failure::from_error(Exit::Unseen, &error);
            let name = |error: quorate_local::BadName| Failure::from_error(Exit::Usage, &error);
            let access = local()?
                .open(&cluster.spec.name.as_str().parse().map_err(name)?)
                .and_then(|local| local.ssh(&node.as_str().parse()?))
                .map_err(failed)?;
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
    }
}

/// The way into a host that somebody else made: the pinned keys first, then those the user knows anyway.
fn given(cluster: &ClusterFile, machine: &Machine) -> SshAccess {
    let ssh = &machine.ssh;
    let mut known_hosts = vec![cluster.state().known_hosts()];
    if let Ok(home) = etcetera::home_dir() {
        known_hosts.push(home.join(".ssh/known_hosts"));
    }
    SshAccess {
        address: machine.address,
        port: ssh.port,
        user: ssh.user.clone(),
        identity: ssh
            .identity
            .as_ref()
            .map(|path| cluster::beside(&cluster.path, path)),
        sudo: ssh.sudo,
        known_hosts,
        own_configuration: true,
    }
}
