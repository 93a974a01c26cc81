//! Whether a step's end state stands: the precheck before acting, the check after, and what the planner uses to leave a step out. Start
//! at [`Step::standing`]; what a noun demands of a host is in [`host`], of etcd in [`etcd`], of the API in
//! [`api`], what shall be gone in [`leaving`], what a conversion brings in [`conversion`], of etcd's own disk in
//! [`etcd_volume`], of the address that masters share in [`sharing`], and of the cloud's balancer in [`target`].

mod api;
mod conversion;
mod etcd;
mod etcd_volume;
mod host;
mod leaving;
mod sharing;
mod target;

pub(crate) use conversion::literal;
pub use conversion::{ADOPTED, addresses_of, to_leave};
pub use host::initial_cluster;

use serde::{Deserialize, Serialize};

use crate::{
    NodeName, Observation,
    observation::{HostFacts, Power},
    seen::Missing,
    step::{Ensure, HostEnsure, InfraEnsure, Place, Step},
};

/// What shows that an end state stands, as a sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Evidence(pub String);

/// One thing that differs from an end state: `net.ipv4.ip_forward: expected 1, seen 0`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Difference(pub String);

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether an end state stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Standing {
    /// It stands.
    Done(Evidence),
    /// It does not.
    Open(Vec<Difference>),
    /// Nobody can say.
    Unknown(Missing),
}

impl Step {
    /// Whether this step's end state stands in what was seen.
    pub fn standing(&self, seen: &Observation) -> Standing {
        let differences = match (&self.ensure, &self.on) {
            (Ensure::Infra(infra), _) => infra_differences(infra, seen),
            (Ensure::Host(ensure), Place::Host(node)) => differences(ensure, node, seen),
            (Ensure::Host(_), Place::Operator) => {
                unreachable!("the planner puts host steps on hosts")
            }
        };
        match differences {
            Ok(none) if none.is_empty() => Standing::Done(Evidence(self.ensure.to_string())),
            Ok(some) => Standing::Open(some),
            Err(missing) => Standing::Unknown(missing),
        }
    }
}

/// What differs, on `node`, from what `ensure` wants. Empty: it stands.
///
/// # Errors
/// [`Missing`] when what decides it was not seen.
pub fn differences(
    ensure: &HostEnsure,
    node: &NodeName,
    seen: &Observation,
) -> Result<Vec<Difference>, Missing> {
    let facts = seen.host(node)?;
    let mut found = Differences::default();
    match ensure {
        HostEnsure::Prepared {
            mark,
            sysctls,
            hosts_file,
        } => {
            host::prepared(&mut found, facts, mark, sysctls, hosts_file)?;
        }
        HostEnsure::EtcdVolume { node, device } => {
            etcd_volume::etcd_volume(&mut found, facts, node, device)?;
        }
        HostEnsure::Bundle { id } => host::bundle(&mut found, facts, id)?,
        HostEnsure::Components {
            bundle,
            runtime,
            packages,
        } => {
            host::components(&mut found, facts, bundle, runtime, packages.as_ref())?;
        }
        HostEnsure::Images { images, .. } => host::images(&mut found, facts, images)?,
        HostEnsure::Balancer { listen, binary } => {
            host::balancer(&mut found, facts, *listen, binary)?;
        }
        HostEnsure::Backend { backend, address } => {
            host::backend(&mut found, facts, backend, *address)?;
        }
        HostEnsure::Keepalived {} => sharing::keepalived(&mut found, facts)?,
        HostEnsure::SharedAddress {
            node,
            address,
            port,
            peers,
        } => {
            sharing::shared_address(&mut found, facts, node, *address, *port, peers)?;
        }
        HostEnsure::SharedAddressPeerGone { peer } => {
            sharing::peer_gone(&mut found, facts, peer)?;
        }
        HostEnsure::SharedAddressGone {} => sharing::gone(&mut found, facts)?,
        HostEnsure::Authority { founding, of } => {
            let other = of.as_ref().map(|other| seen.host(other)).transpose()?;
            host::authority(&mut found, facts, founding.as_ref(), other)?;
        }
        HostEnsure::FoundingAside { founding } => {
            host::founding_aside(&mut found, facts, founding)?;
        }
        HostEnsure::Certificates { settings, node } => {
            host::certificates(&mut found, facts, settings, node)?;
        }
        HostEnsure::EtcdMember { node, founders, .. } => {
            host::etcd_member(&mut found, facts, node, founders)?;
        }
        HostEnsure::ControlPlane { settings, .. } => {
            host::control_plane(&mut found, facts, settings)?;
        }
        HostEnsure::Kubelet { .. } => host::kubelet(&mut found, facts)?,
        HostEnsure::Guarded {} => {
            host::guarded(&mut found, facts, seen.etcd_at(node).ok().flatten())?
        }
        HostEnsure::FoundingOver {} => host::founding_over(&mut found, facts)?,
        HostEnsure::Serving { .. } => etcd::serving(&mut found, node, seen),
        HostEnsure::Learner { joiner } => etcd::learner(&mut found, joiner, seen)?,
        HostEnsure::Voter { joiner } => etcd::voter(&mut found, joiner, seen)?,
        HostEnsure::ClusterConfig { settings, .. } => {
            api::cluster_config(&mut found, settings, seen)?;
        }
        HostEnsure::ClusterDns { .. } => api::cluster_dns(&mut found, seen)?,
        HostEnsure::Registered { node, .. } => api::registered(&mut found, node, seen)?,
        HostEnsure::Network { network } => api::network(&mut found, network, seen)?,
        HostEnsure::Worker { node, .. } => {
            host::kubelet(&mut found, facts)?;
            api::worker(&mut found, node, seen)?;
        }
        HostEnsure::TokensGone {} => api::tokens_gone(&mut found, seen)?,
        HostEnsure::Rehearsed { settings, .. } => {
            leaving::rehearsed(&mut found, facts, settings)?;
        }
        HostEnsure::LeaderMoved { member, .. } => {
            leaving::leader_moved(&mut found, *member, seen)?;
        }
        HostEnsure::BackendGone { backend } => {
            leaving::backend_gone(&mut found, facts, backend)?;
        }
        HostEnsure::ControlPlaneGone { .. } => leaving::control_plane_gone(&mut found, facts)?,
        HostEnsure::MemberGone { member, .. } => {
            leaving::member_gone(&mut found, *member, seen)?;
        }
        HostEnsure::NodeGone { node } => leaving::node_gone(&mut found, node, seen)?,
        HostEnsure::EndpointGone { addresses } => {
            leaving::endpoint_gone(&mut found, addresses, seen)?;
        }
        HostEnsure::Reset { .. } => leaving::reset(&mut found, facts)?,
        HostEnsure::UploadedCertsGone {} => leaving::uploaded_certs_gone(&mut found, seen)?,
        HostEnsure::BackedUp { master, .. } => {
            conversion::backed_up(&mut found, facts, *master)?;
        }
        HostEnsure::BackupOffHost { .. } => conversion::backup_off_host(&mut found, facts)?,
        HostEnsure::ServingCertificate { settings, node } => {
            conversion::serving_certificate(&mut found, facts, settings, node)?;
        }
        HostEnsure::ServingCertificateKept { .. } => {
            conversion::serving_certificate_kept(&mut found, facts)?;
        }
        HostEnsure::Configuration { settings, .. } => {
            conversion::configuration(&mut found, settings, seen)?;
        }
        HostEnsure::ConfigurationKept { .. } => {
            conversion::configuration_kept(&mut found, facts, seen)?;
        }
        HostEnsure::ClusterInfo { server } => {
            conversion::cluster_info(&mut found, server, seen)?;
        }
        HostEnsure::ProxyConfig { server } => {
            conversion::proxy_config(&mut found, server, seen)?;
        }
        HostEnsure::Proxy { node, server, via } => {
            conversion::proxy(&mut found, node, server, via.as_ref(), seen)?;
        }
        HostEnsure::Kubeconfigs {
            node,
            endpoint,
            old,
            master,
        } => {
            conversion::kubeconfigs(&mut found, facts, node, endpoint, old, *master, seen)?;
        }
        HostEnsure::KubeconfigsKept { node, master } => {
            conversion::kubeconfigs_kept(&mut found, facts, node, *master, seen)?;
        }
        HostEnsure::DnsSpread {} => conversion::dns_spread(&mut found, seen)?,
        HostEnsure::BackupAside {} => conversion::backup_aside(&mut found, facts)?,
        HostEnsure::OldAddress { rule, .. } => {
            conversion::old_address(&mut found, facts, rule.as_ref())?;
        }
    }
    Ok(found.0)
}

fn infra_differences(ensure: &InfraEnsure, seen: &Observation) -> Result<Vec<Difference>, Missing> {
    let mut found = Differences::default();
    let node = ensure.node();
    match ensure {
        InfraEnsure::Machine { .. } | InfraEnsure::MachineOff { .. } => {}
        InfraEnsure::Target { instance, .. } => {
            target::registered(&mut found, node, instance, seen.target(node)?);
            return Ok(found.0);
        }
        InfraEnsure::TargetGone { instance, .. } => {
            target::gone(&mut found, node, instance, seen.target(node)?);
            return Ok(found.0);
        }
    }
    let view = match seen.infra.get(node) {
        Some(view) => view.get()?,
        None => return Err(Missing::not_looked(format!("the machine of {node}"))),
    };
    match (ensure, view.power) {
        (InfraEnsure::Machine { .. }, Power::Running)
        | (InfraEnsure::MachineOff { .. }, Power::Off | Power::Absent) => {}
        (InfraEnsure::Machine { .. }, Power::Absent) => {
            found.note("machine", "running", "not made yet");
        }
        (InfraEnsure::Machine { .. }, Power::Off) => found.note("machine", "running", "off"),
        (InfraEnsure::Machine { .. }, Power::Frozen) => found.note("machine", "running", "frozen"),
        (InfraEnsure::MachineOff { .. }, Power::Running) => found.note("machine", "off", "running"),
        (InfraEnsure::MachineOff { .. }, Power::Frozen) => found.note("machine", "off", "frozen"),
        (InfraEnsure::Target { .. } | InfraEnsure::TargetGone { .. }, _) => {
            unreachable!("a target's power is nobody's business, and was not asked about")
        }
    }
    Ok(found.0)
}

/// Collects differences.
#[derive(Debug, Default)]
struct Differences(Vec<Difference>);

impl Differences {
    fn note(
        &mut self,
        what: impl std::fmt::Display,
        expected: impl std::fmt::Display,
        seen: impl std::fmt::Display,
    ) {
        self.0.push(Difference(format!(
            "{what}: expected {expected}, seen {seen}"
        )));
    }

    fn equal<T: PartialEq + std::fmt::Display>(&mut self, what: &str, expected: &T, seen: &T) {
        if expected != seen {
            self.note(what, expected, seen);
        }
    }

    fn unit(&mut self, facts: &HostFacts, name: &str) -> Result<(), Missing> {
        match facts.units.get()?.get(name) {
            Some(unit) if unit.active => {}
            Some(unit) => self.note(format_args!("unit {name}"), "active", &unit.state),
            None => self.note(format_args!("unit {name}"), "active", "not installed"),
        }
        Ok(())
    }
}
