//! End states that a ready apiserver tells of.

use super::Differences;
use crate::{
    Observation,
    kubeadm::{ClusterSettings, Peer},
    observation::ApiView,
    seen::Missing,
    step::Network,
};

/// The API's view, or a note that there is no API yet.
pub(super) fn view<'a>(
    found: &mut Differences,
    seen: &'a Observation,
) -> Result<Option<&'a ApiView>, Missing> {
    let view = seen.api()?;
    if view.is_none() {
        found.note("API", "serving", "not there yet");
    }
    Ok(view)
}

pub(super) fn cluster_config(
    found: &mut Differences,
    settings: &ClusterSettings,
    seen: &Observation,
) -> Result<(), Missing> {
    let Some(api) = view(found, seen)? else {
        return Ok(());
    };
    match api.kubeadm.get()? {
        None => found.note("kubeadm-config", "uploaded", "missing"),
        Some(config) => {
            found.equal(
                "kubeadm-config: controlPlaneEndpoint",
                &settings.endpoint.to_string(),
                &config.endpoint,
            );
            found.equal(
                "kubeadm-config: kubernetesVersion",
                &settings.kubernetes,
                &config.kubernetes,
            );
        }
    }
    match api.cluster_info.get()? {
        None => found.note("cluster-info", "published", "missing"),
        Some(server) => found.equal(
            "cluster-info",
            &format!("https://{}", settings.endpoint),
            server,
        ),
    }
    workload(found, api, "kube-system/kube-proxy")
}

pub(super) fn cluster_dns(found: &mut Differences, seen: &Observation) -> Result<(), Missing> {
    match view(found, seen)? {
        Some(api) => workload(found, api, "kube-system/coredns"),
        None => Ok(()),
    }
}

fn workload(found: &mut Differences, api: &ApiView, name: &str) -> Result<(), Missing> {
    if !api.workloads.get()?.contains_key(name) {
        found.note(name, "there", "missing");
    }
    Ok(())
}

pub(super) fn registered(
    found: &mut Differences,
    node: &Peer,
    seen: &Observation,
) -> Result<(), Missing> {
    let Some(api) = view(found, seen)? else {
        return Ok(());
    };
    match api.nodes.get()?.get(&node.name) {
        None => found.note(format_args!("node {}", node.name), "registered", "missing"),
        Some(object) => {
            if !object.control_plane {
                found.note(
                    format_args!("node {}", node.name),
                    "labelled as control plane",
                    "not labelled",
                );
            }
            // A cluster of one master may have its taint taken away by hand; that is its user's business.
            if !object.tainted && !object.control_plane {
                found.note(format_args!("node {}", node.name), "tainted", "not tainted");
            }
        }
    }
    Ok(())
}

pub(super) fn network(
    found: &mut Differences,
    network: &Network,
    seen: &Observation,
) -> Result<(), Missing> {
    let Some(api) = view(found, seen)? else {
        return Ok(());
    };
    let wanted = network.digest();
    match api
        .notes
        .get()?
        .as_ref()
        .and_then(|notes| notes.get("network"))
    {
        None => found.note("pod network", "applied", "none noted"),
        Some(noted) => found.equal("pod network", &wanted, noted),
    }
    match network {
        Network::Flannel { .. } => {
            workload(found, api, "kube-flannel/kube-flannel-ds")?;
        }
        // What a user's own manifest contains is the user's business.
        Network::Manifest { .. } => {}
    }
    Ok(())
}

pub(super) fn worker(
    found: &mut Differences,
    node: &Peer,
    seen: &Observation,
) -> Result<(), Missing> {
    let Some(api) = view(found, seen)? else {
        return Ok(());
    };
    if !api.nodes.get()?.contains_key(&node.name) {
        found.note(format_args!("node {}", node.name), "registered", "missing");
    }
    Ok(())
}

pub(super) fn tokens_gone(found: &mut Differences, seen: &Observation) -> Result<(), Missing> {
    let Some(api) = view(found, seen)? else {
        return Ok(());
    };
    for id in api.tokens.get()? {
        found.note(format_args!("bootstrap token {id}"), "deleted", "there");
    }
    Ok(())
}
