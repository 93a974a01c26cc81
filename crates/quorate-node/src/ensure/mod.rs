//! What shall stand on a host, made to stand: one file for each end state. Start at [`act`].
//!
//! Every action looks first and changes only what differs; it may be killed at any point and asked for again. Files are staged beside
//! their place and renamed into it, keys before the certificates that name them.

mod authority;
mod backed_up;
mod backend;
mod backend_gone;
mod backup_aside;
mod backup_off_host;
mod balancer;
mod bundle;
mod certificates;
mod cluster_config;
mod cluster_dns;
mod cluster_info;
mod components;
mod config_map;
mod configuration;
mod control_plane;
mod control_plane_gone;
mod dns_spread;
mod endpoint_gone;
mod etcd_member;
mod etcd_volume;
mod first_start;
mod founding_aside;
mod founding_over;
mod guarded;
mod images;
mod keepalived;
mod kubeconfigs;
mod kubelet;
mod leader_moved;
mod learner;
mod member_gone;
mod members;
mod network;
mod node_gone;
mod old_address;
mod packages;
mod prepared;
mod proxy;
mod registered;
mod rehearsed;
mod reset;
mod serving;
mod serving_certificate;
mod tokens_gone;
mod uploaded_certs_gone;
mod voter;
#[cfg(test)]
mod with_etcd;
mod worker;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use quorate_kube::{Client, FieldManager, PatchKind};
use quorate_plan::{
    Admitted, Change, Claim, HostEnsure, NodeName, Observation, Sealed, change::Permit,
    kubeadm::Peer, observation::Receipt, refusal::Refusal,
};
use serde_json::json;
use tokio::{sync::mpsc::UnboundedSender, time::sleep};

use crate::{
    clients, command::Tools, error::ActionError, paths::Paths, seal::Identity, shared_address,
    shown,
};

pub(crate) use backend::BALANCER_CA;

/// How often a condition that is waited for is looked at. Long enough to cost nothing, short beside what is waited for.
const POLL: Duration = Duration::from_millis(100);

/// How long a condition is waited for in silence.
const NEWS_AFTER: Duration = Duration::from_secs(3);

/// How often it is told after that what is waited for.
const NEWS_EVERY: Duration = Duration::from_secs(10);

/// How long a tool may take that only reads and writes files here. They take well below a second on an idle machine.
pub(crate) const TOOL_WITHIN: Duration = Duration::from_secs(60);

/// How long one answer of etcd or the API may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The port of an apiserver, which never moves.
const APISERVER_PORT: u16 = 6443;

/// Everything an action has at hand.
pub(crate) struct Work<'a> {
    /// Where things lie.
    pub(crate) paths: &'a Paths,
    /// This host.
    pub(crate) node: &'a NodeName,
    /// What the operator's machine saw, with this host's own fresh look in it.
    pub(crate) seen: &'a Observation,
    /// The operation in force, which this action belongs to.
    pub(crate) claim: &'a Claim,
    /// Tools, under the host lock.
    pub(crate) tools: &'a Tools,
    /// Opens what was sealed to this session.
    pub(crate) identity: &'a Identity,
    /// What was sealed to this session.
    pub(crate) sealed: Vec<Sealed>,
    /// What the operator's machine has of this host's backup.
    pub(crate) receipt: Option<Receipt>,
    /// News for whoever waits.
    pub(crate) progress: &'a Progress,
    /// How long it may take in all.
    pub(crate) patience: Duration,
}

/// Where news of an action goes. Nobody need be listening any more.
#[derive(Clone, Debug)]
pub(crate) struct Progress(pub(crate) UnboundedSender<String>);

impl Progress {
    /// One line.
    pub(crate) fn say(&self, line: impl AsRef<str>) {
        let _ = self.0.send(shown::line(line.as_ref()));
    }
}

impl Work<'_> {
    /// Opens the secret of that type that was sealed to this session.
    fn open<S: crate::seal::Secret>(&self) -> Result<S, ActionError> {
        Ok(crate::seal::open(self.identity, &self.sealed)?)
    }

    /// Tries until it succeeds, or cannot any more.
    async fn retry<F: Future<Output = Result<(), Attempt>>>(
        &self,
        what: &str,
        attempt: impl Fn() -> F,
    ) -> Result<(), ActionError> {
        self.wait(what, || async {
            match attempt().await {
                Err(Attempt::Again(seen)) => Err(seen),
                Err(Attempt::Final(err)) => Ok(Err(err)),
                Ok(()) => Ok(Ok(())),
            }
        })
        .await?
    }

    /// Looks until `look` finds what is waited for. `look` says what it saw instead.
    pub(crate) async fn wait<T, F: Future<Output = Result<T, String>>>(
        &self,
        what: &str,
        look: impl Fn() -> F,
    ) -> Result<T, ActionError> {
        self.wait_for(what, self.patience, look).await
    }

    /// As [`Self::wait`], for at most `within`.
    async fn wait_for<T, F: Future<Output = Result<T, String>>>(
        &self,
        what: &str,
        within: Duration,
        look: impl Fn() -> F,
    ) -> Result<T, ActionError> {
        let started = Instant::now();
        let within = within.min(self.patience);
        let mut tells = started + NEWS_AFTER;
        loop {
            match look().await {
                Ok(found) => return Ok(found),
                Err(seen) if started.elapsed() >= within => {
                    return Err(ActionError::Late {
                        what: what.to_owned(),
                        waited_s: started.elapsed().as_secs(),
                        seen,
                    });
                }
                Err(seen) => {
                    if Instant::now() >= tells {
                        self.progress.say(format!("waiting for {what}: {seen}"));
                        tells = Instant::now() + NEWS_EVERY;
                    }
                    sleep(POLL).await;
                }
            }
        }
    }
}

/// Why something did not come about at one attempt.
enum Attempt {
    /// It may pass by itself; this is what was seen.
    Again(String),
    /// It will not.
    Final(ActionError),
}

/// This host's apiserver.
fn apiserver(node: &Peer) -> SocketAddr {
    SocketAddr::new(node.address, APISERVER_PORT)
}

/// A client for this host's apiserver, as the administrator.
fn own_api(work: &Work<'_>) -> Result<Client, ActionError> {
    let manifests = work.seen.host(work.node)?.manifests.get()?;
    let address = clients::apiserver_address(manifests).ok_or_else(|| {
        ActionError::unexpected(
            "an apiserver on this host",
            "no kube-apiserver.yaml with an --advertise-address",
            "run `quorate status` to see which hosts are masters",
        )
    })?;
    clients::api(work.paths, "admin.conf", address)
}

/// Writes one of Quorate's notes in the cluster. Each has an owner of its own, so that they do not undo each other.
async fn note(client: &Client, key: &str, value: &str) -> Result<(), ActionError> {
    let map = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": "quorate", "namespace": "kube-system" },
        "data": { key: value },
    });
    let manager = FieldManager {
        name: &format!("quorate-{key}"),
        force: true,
    };
    let path = "/api/v1/namespaces/kube-system/configmaps/quorate";
    client
        .patch(path, PatchKind::Apply(manager), &map, ANSWER_WITHIN)
        .await
        .map_err(ActionError::kube("writing Quorate's notes"))?;
    Ok(())
}

/// Takes the permit for adding `joiner` as a voter.
fn permit_to_add(
    permit: Option<Permit>,
    joiner: &NodeName,
    action: &str,
) -> Result<Permit, ActionError> {
    permit
        .filter(|permit| matches!(permit.change(), Change::AddVoter { node } if node == joiner))
        .ok_or_else(|| unpermitted(action))
}

fn unpermitted(action: &str) -> ActionError {
    Refusal::Unpermitted {
        action: action.to_owned(),
    }
    .into()
}

/// Makes the end state stand.
///
/// # Errors
/// See [`ActionError`].
pub(crate) async fn act(work: &mut Work<'_>, admitted: Admitted) -> Result<(), ActionError> {
    let action = admitted.ensure.to_string();
    let permit = admitted.permit;
    work.sealed = admitted.sealed;
    let work = &*work;
    match &admitted.ensure {
        HostEnsure::Prepared {
            mark,
            sysctls,
            hosts_file,
        } => prepared::ensure(work, mark, sysctls, hosts_file).await,
        HostEnsure::EtcdVolume { node, device } => etcd_volume::ensure(work, node, device).await,
        HostEnsure::Bundle { id } => bundle::ensure(work, id).await,
        HostEnsure::Components {
            bundle,
            runtime,
            packages,
        } => components::ensure(work, bundle, runtime, packages.as_ref()).await,
        HostEnsure::Images { bundle, images } => images::ensure(work, bundle, images).await,
        HostEnsure::Balancer { listen, binary } => balancer::ensure(work, *listen, binary).await,
        HostEnsure::Keepalived {} => keepalived::ensure(work).await,
        HostEnsure::SharedAddress {
            node,
            address,
            port,
            peers,
        } => shared_address::set(work, node, *address, *port, peers).await,
        HostEnsure::SharedAddressPeerGone { peer } => shared_address::forget(work, peer).await,
        HostEnsure::SharedAddressGone {} => shared_address::leave(work).await,
        HostEnsure::Authority { founding, of } => {
            authority::ensure(work, founding.as_ref(), of.as_ref()).await
        }
        HostEnsure::Certificates { settings, node } => {
            certificates::ensure(work, settings, node).await
        }
        HostEnsure::EtcdMember {
            settings,
            node,
            founders,
        } => {
            let permit = permit.ok_or_else(|| unpermitted(&action))?;
            etcd_member::ensure(work, permit, settings, node, founders).await
        }
        HostEnsure::FoundingAside { founding } => {
            let permit = permit.ok_or_else(|| unpermitted(&action))?;
            founding_aside::ensure(work, permit, founding).await
        }
        HostEnsure::ControlPlane { settings, node } => {
            control_plane::ensure(work, settings, node).await
        }
        HostEnsure::Kubelet { settings, node } => kubelet::ensure(work, settings, node).await,
        HostEnsure::Serving { node } => serving::ensure(work, node).await,
        HostEnsure::Backend { backend, address } => backend::ensure(work, backend, *address).await,
        HostEnsure::ClusterConfig { settings, node } => {
            cluster_config::ensure(work, settings, node).await
        }
        HostEnsure::ClusterDns { settings, node } => {
            cluster_dns::ensure(work, settings, node).await
        }
        HostEnsure::Registered { node, .. } => registered::ensure(work, node).await,
        HostEnsure::Guarded {} => guarded::ensure(work).await,
        HostEnsure::FoundingOver {} => founding_over::ensure(work).await,
        HostEnsure::Learner { joiner } => {
            let permit = permit_to_add(permit, &joiner.name, &action)?;
            learner::ensure(work, permit, joiner).await
        }
        HostEnsure::Voter { joiner } => {
            let permit = permit_to_add(permit, &joiner.name, &action)?;
            voter::ensure(work, permit, joiner).await
        }
        HostEnsure::Network { network } => network::ensure(work, network).await,
        HostEnsure::Worker { settings, node } => worker::ensure(work, settings, node).await,
        HostEnsure::TokensGone {} => tokens_gone::ensure(work).await,
        HostEnsure::Rehearsed { settings, node } => rehearsed::ensure(work, settings, node).await,
        HostEnsure::LeaderMoved { member, to } => {
            let permit = permit.ok_or_else(|| unpermitted(&action))?;
            leader_moved::ensure(work, permit, *member, to).await
        }
        HostEnsure::BackendGone { backend } => backend_gone::ensure(work, backend).await,
        HostEnsure::ControlPlaneGone { member } => {
            let permit = permit.ok_or_else(|| unpermitted(&action))?;
            control_plane_gone::ensure(work, permit, *member).await
        }
        HostEnsure::MemberGone { member, peer_urls } => {
            let permit = permit.ok_or_else(|| unpermitted(&action))?;
            member_gone::ensure(work, permit, *member, peer_urls).await
        }
        HostEnsure::NodeGone { node } => node_gone::ensure(work, node).await,
        HostEnsure::EndpointGone { addresses } => endpoint_gone::ensure(work, addresses).await,
        HostEnsure::Reset { node } => reset::ensure(work, node).await,
        HostEnsure::UploadedCertsGone {} => uploaded_certs_gone::ensure(work).await,
        HostEnsure::BackedUp { master, .. } => backed_up::ensure(work, *master).await,
        HostEnsure::BackupOffHost { .. } => backup_off_host::ensure(work),
        HostEnsure::ServingCertificate { settings, node } => {
            serving_certificate::ensure(work, settings, node).await
        }
        HostEnsure::ServingCertificateKept { node } => serving_certificate::keep(work, node).await,
        HostEnsure::Configuration { settings, node } => {
            configuration::ensure(work, settings, node).await
        }
        HostEnsure::ConfigurationKept { .. } => configuration::keep(work).await,
        HostEnsure::ClusterInfo { server } => cluster_info::ensure(work, server).await,
        HostEnsure::ProxyConfig { server } => cluster_info::proxy(work, server).await,
        HostEnsure::Proxy { node, .. } => proxy::ensure(work, node).await,
        HostEnsure::Kubeconfigs {
            node,
            endpoint,
            old,
            master,
        } => kubeconfigs::ensure(work, node, endpoint, old, *master).await,
        HostEnsure::KubeconfigsKept { node, master } => {
            kubeconfigs::keep(work, node, *master).await
        }
        HostEnsure::DnsSpread {} => dns_spread::ensure(work).await,
        HostEnsure::BackupAside {} => backup_aside::ensure(work),
        HostEnsure::OldAddress { rule, .. } => old_address::ensure(work, rule.as_ref()).await,
    }
}
