//! End states of what leaves: what shall be gone, and what comes before a host joins in its place.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Differences, api, sharing};
use crate::{
    MemberId, NodeName, Observation, kubeadm::ClusterSettings, observation::HostFacts,
    quorum::Quorum, seen::Missing,
};

/// Static pods of a control plane besides etcd, and the TCP port each listens on.
const CONTROL_PLANE: [(&str, u16); 3] = [
    ("kube-apiserver", 6443),
    ("kube-controller-manager", 10257),
    ("kube-scheduler", 10259),
];

pub(super) fn rehearsed(
    found: &mut Differences,
    facts: &HostFacts,
    settings: &ClusterSettings,
) -> Result<(), Missing> {
    match facts.rehearsed.get()? {
        None => found.note("rehearsal", "there", "none"),
        Some(rehearsal) => found.equal(
            "rehearsal's settings",
            &settings.digest(),
            &rehearsal.settings,
        ),
    }
    Ok(())
}

pub(super) fn leader_moved(
    found: &mut Differences,
    member: MemberId,
    seen: &Observation,
) -> Result<(), Missing> {
    match Quorum::of(seen)? {
        None => found.note("etcd", "running", "nowhere"),
        Some(quorum) => match quorum.leader {
            Some(leader) if leader == member => found.note("leader", "another", leader),
            Some(_) => {}
            None => found.note("leader", "another", "none"),
        },
    }
    Ok(())
}

pub(super) fn backend_gone(
    found: &mut Differences,
    facts: &HostFacts,
    backend: &NodeName,
) -> Result<(), Missing> {
    if let Some(balancer) = facts.balancer.get()?
        && let Some(address) = balancer.backends.get(backend)
    {
        found.note(format_args!("backend {backend}"), "none", address);
    }
    Ok(())
}

pub(super) fn control_plane_gone(
    found: &mut Differences,
    facts: &HostFacts,
) -> Result<(), Missing> {
    let manifests = facts.manifests.get()?;
    let listening = facts.listening.get()?;
    for (name, port) in CONTROL_PLANE {
        if manifests.contains_key(name) {
            found.note(format_args!("{name}.yaml"), "moved aside", "there");
        } else if listening
            .get(&port)
            // The kernel keeps 15 bytes of a process's name.
            .is_some_and(|process| name.starts_with(process.as_str()))
        {
            found.note(name, "ended", format_args!("listening on {port}"));
        }
    }
    Ok(())
}

pub(super) fn member_gone(
    found: &mut Differences,
    member: MemberId,
    seen: &Observation,
) -> Result<(), Missing> {
    match Quorum::of(seen)? {
        None => found.note("etcd", "running", "nowhere"),
        Some(quorum) if quorum.members.contains_key(&member) => {
            found.note(format_args!("member {member}"), "not in the list", "there");
        }
        Some(_) => {}
    }
    Ok(())
}

pub(super) fn node_gone(
    found: &mut Differences,
    node: &NodeName,
    seen: &Observation,
) -> Result<(), Missing> {
    let Some(api) = api::view(found, seen)? else {
        return Ok(());
    };
    if api.nodes.get()?.contains_key(node) {
        found.note(format_args!("node {node}"), "deleted", "there");
    }
    Ok(())
}

pub(super) fn endpoint_gone(
    found: &mut Differences,
    addresses: &BTreeSet<IpAddr>,
    seen: &Observation,
) -> Result<(), Missing> {
    let Some(api) = api::view(found, seen)? else {
        return Ok(());
    };
    for address in addresses.intersection(api.endpoints.get()?) {
        found.note(
            "`kubernetes` service",
            format_args!("without {address}"),
            "with it",
        );
    }
    Ok(())
}

/// What a reset takes away. Components, images and what they are configured with may stay: they are of no cluster. The mark goes last, so
/// that a reset that was broken off is known to be one.
pub(super) fn reset(found: &mut Differences, facts: &HostFacts) -> Result<(), Missing> {
    for name in facts.manifests.get()?.keys() {
        found.note(format_args!("{name}.yaml"), "moved aside", "there");
    }
    for name in facts.kubeconfigs.get()?.keys() {
        found.note(name, "deleted", "there");
    }
    if let Some(unit) = facts.units.get()?.get("kubelet")
        && (unit.active || unit.enabled)
    {
        found.note("unit kubelet", "stopped and disabled", &unit.state);
    }
    let data = facts.etcd_data.get()?;
    if data.wal {
        found.note("etcd's data", "moved aside", "in place");
    }
    if let Some(marker) = &data.marker {
        found.note("member marker", "none", marker.member);
    }
    let pki = facts.pki.get()?;
    if pki.authority.is_some() || !pki.certificates.is_empty() {
        found.note("certificates and keys", "moved aside", "in place");
    }
    if facts.founding.get()?.is_some() {
        found.note("founding", "none noted", "noted");
    }
    sharing::gone(found, facts)?;
    if let Some(mark) = facts.mark.get()? {
        found.note(
            "mark",
            "none",
            format_args!("{} as {}", mark.cluster, mark.node),
        );
    }
    Ok(())
}

pub(super) fn uploaded_certs_gone(
    found: &mut Differences,
    seen: &Observation,
) -> Result<(), Missing> {
    let Some(api) = api::view(found, seen)? else {
        return Ok(());
    };
    if *api.uploaded_certs.get()? {
        found.note("secret kubeadm-certs", "deleted", "there");
    }
    Ok(())
}
