//! End states that a host's own facts decide.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use super::Differences;
use crate::{
    kubeadm::{ClusterSettings, Peer, RuntimeSettings},
    observation::{EtcdView, Founding, HostFacts, HostMark, Package},
    seen::Missing,
    spec::Packages,
};

pub(super) fn prepared(
    found: &mut Differences,
    facts: &HostFacts,
    mark: &HostMark,
    sysctls: &BTreeMap<String, String>,
    hosts_file: &BTreeMap<String, IpAddr>,
) -> Result<(), Missing> {
    match facts.mark.get()? {
        Some(seen) if seen == mark => {}
        Some(seen) => found.note(
            "mark",
            format_args!("{} as {}", mark.cluster, mark.node),
            format_args!("{} as {}", seen.cluster, seen.node),
        ),
        None => found.note(
            "mark",
            format_args!("{} as {}", mark.cluster, mark.node),
            "none",
        ),
    }
    let seen = facts.sysctls.get()?;
    for (name, wanted) in sysctls {
        match seen.get(name) {
            Some(value) if at_least(value, wanted) => {}
            Some(value) => found.note(name, wanted, value),
            None => found.note(name, wanted, "nothing"),
        }
    }
    let seen = facts.hosts_file.get()?;
    for (name, wanted) in hosts_file {
        match seen.get(name) {
            Some(address) if address == wanted => {}
            Some(address) => found.note(format_args!("/etc/hosts: {name}"), wanted, address),
            None => found.note(format_args!("/etc/hosts: {name}"), wanted, "nothing"),
        }
    }
    Ok(())
}

/// A limit that is already higher is left alone.
fn at_least(seen: &str, wanted: &str) -> bool {
    match (seen.parse::<u64>(), wanted.parse::<u64>()) {
        (Ok(seen), Ok(wanted)) => seen >= wanted,
        _ => seen == wanted,
    }
}

pub(super) fn bundle(found: &mut Differences, facts: &HostFacts, id: &str) -> Result<(), Missing> {
    if !facts.bundles.get()?.contains(id) {
        found.note("bundle", crate::step::short(id), "not on the host");
    }
    Ok(())
}

pub(super) fn components(
    found: &mut Differences,
    facts: &HostFacts,
    bundle: &str,
    runtime: &RuntimeSettings,
    packages: Option<&Packages>,
) -> Result<(), Missing> {
    match facts.components.get()? {
        None => match packages {
            None => found.note("components", "installed", "none"),
            Some(packages) => found.note(
                "components",
                format_args!("packages at {}", packages.version),
                "none",
            ),
        },
        Some(components) => {
            found.equal("components' bundle", &bundle, &components.bundle.as_str());
            found.equal(
                "runtime configuration",
                &runtime.digest(packages),
                &components.configuration,
            );
            match (packages, &components.packages) {
                (None, None) => {}
                (Some(packages), Some(seen)) => held(found, packages, seen),
                (Some(_), None) => found.note("components' source", "packages", "the bundle"),
                (None, Some(_)) => found.note("components' source", "the bundle", "packages"),
            }
            for file in &components.differing {
                found.note(file, "as installed", "changed or missing");
            }
        }
    }
    found.unit(facts, "containerd")
}

fn held(found: &mut Differences, wanted: &Packages, seen: &BTreeMap<String, Package>) {
    for name in Packages::NAMES {
        match seen.get(name) {
            None => found.note(
                format_args!("package {name}"),
                &wanted.version,
                "not installed",
            ),
            Some(package) => {
                found.equal(
                    &format!("package {name}"),
                    &wanted.version,
                    &package.version,
                );
                if !package.held {
                    found.note(format_args!("package {name}"), "held", "not held");
                }
            }
        }
    }
}

pub(super) fn images(
    found: &mut Differences,
    facts: &HostFacts,
    images: &BTreeSet<String>,
) -> Result<(), Missing> {
    for image in images.difference(facts.images.get()?) {
        found.note(format_args!("image {image}"), "present", "missing");
    }
    Ok(())
}

pub(super) fn balancer(
    found: &mut Differences,
    facts: &HostFacts,
    listen: SocketAddr,
    binary: &str,
) -> Result<(), Missing> {
    match facts.balancer.get()? {
        None => found.note("balancer", format_args!("on {listen}"), "none"),
        Some(balancer) => {
            found.equal("balancer's address", &listen, &balancer.listen);
            found.equal("balancer's binary", &binary, &balancer.binary.as_str());
            if !balancer.active {
                found.note("balancer", "running", "stopped");
            }
        }
    }
    Ok(())
}

pub(super) fn backend(
    found: &mut Differences,
    facts: &HostFacts,
    backend: &Peer,
    address: SocketAddr,
) -> Result<(), Missing> {
    let Some(balancer) = facts.balancer.get()? else {
        found.note("balancer", "there", "none");
        return Ok(());
    };
    match balancer.backends.get(&backend.name) {
        Some(seen) if *seen == address => {}
        Some(seen) => found.note(format_args!("backend {}", backend.name), address, seen),
        None => found.note(format_args!("backend {}", backend.name), address, "none"),
    }
    // Without the CA the balancer could not tell an apiserver from an impostor.
    if balancer.cluster_ca.is_none() {
        found.note("balancer's CA", "the cluster's", "none");
    }
    Ok(())
}

pub(super) fn authority(
    found: &mut Differences,
    facts: &HostFacts,
    founding: Option<&Founding>,
    other: Option<&HostFacts>,
) -> Result<(), Missing> {
    let pki = facts.pki.get()?;
    for file in &pki.missing {
        found.note(file, "present", "missing");
    }
    match (&pki.authority, other) {
        (None, _) => found.note("certificate authorities", "complete", "none"),
        (Some(_), None) => {}
        (Some(own), Some(other)) => match &other.pki.get()?.authority {
            Some(theirs) => found.equal("certificate authorities", theirs, own),
            None => found.note("certificate authorities of the giver", "complete", "none"),
        },
    }
    if let Some(founding) = founding {
        match facts.founding.get()? {
            Some(seen) if seen.nodes == founding.nodes => {}
            Some(seen) => found.note(
                "founders",
                format_args!("{:?}", founding.nodes),
                format_args!("{:?}", seen.nodes),
            ),
            None => found.note(
                "founders",
                format_args!("{:?}", founding.nodes),
                "none noted",
            ),
        }
    }
    Ok(())
}

/// The note is written when everything is out of the way: from then on the founding goes on, and makes much of it again.
pub(super) fn founding_aside(
    found: &mut Differences,
    facts: &HostFacts,
    founding: &Founding,
) -> Result<(), Missing> {
    match facts.founding.get()? {
        Some(noted) if noted.nodes == founding.nodes => {
            if noted.restarts < founding.restarts {
                found.note("founding", "begun again", "failed");
            }
        }
        Some(_) | None => found.note("founding", "noted", "none of these hosts"),
    }
    Ok(())
}

/// What kubeadm issues to a control plane host, below `/etc/kubernetes`.
const LEAVES: [&str; 7] = [
    "pki/apiserver.crt",
    "pki/apiserver-etcd-client.crt",
    "pki/apiserver-kubelet-client.crt",
    "pki/front-proxy-client.crt",
    "pki/etcd/server.crt",
    "pki/etcd/peer.crt",
    "pki/etcd/healthcheck-client.crt",
];

pub(super) fn certificates(
    found: &mut Differences,
    facts: &HostFacts,
    settings: &ClusterSettings,
    node: &Peer,
) -> Result<(), Missing> {
    let pki = facts.pki.get()?;
    for leaf in LEAVES {
        if !pki.certificates.contains_key(leaf) {
            found.note(leaf, "issued", "missing");
        }
    }
    if let Some(serving) = pki.certificates.get("pki/apiserver.crt") {
        let own = [node.name.to_string(), node.address.to_string()];
        for san in settings.sans.iter().chain(&own) {
            if !serving.sans.contains(san) {
                found.note(
                    "pki/apiserver.crt",
                    format_args!("valid for {san}"),
                    "not in its names",
                );
            }
        }
    }
    let kubeconfigs = facts.kubeconfigs.get()?;
    for name in [
        "admin.conf",
        "controller-manager.conf",
        "scheduler.conf",
        "kubelet.conf",
    ] {
        if !kubeconfigs.contains_key(name) {
            found.note(name, "present", "missing");
        }
    }
    if let Some(server) = kubeconfigs.get("admin.conf") {
        found.equal(
            "admin.conf",
            &format!("https://{}", settings.endpoint),
            server,
        );
    }
    Ok(())
}

/// The value of `--initial-cluster` of these founders.
pub fn initial_cluster(founders: &BTreeSet<Peer>) -> String {
    let members: Vec<String> = founders
        .iter()
        .map(|peer| format!("{}={}", peer.name, peer.peer_url()))
        .collect();
    members.join(",")
}

pub(super) fn etcd_member(
    found: &mut Differences,
    facts: &HostFacts,
    node: &Peer,
    founders: &BTreeSet<Peer>,
) -> Result<(), Missing> {
    let Some(manifest) = facts.manifests.get()?.get("etcd") else {
        found.note("etcd.yaml", "present", "missing");
        return Ok(());
    };
    found.equal(
        "etcd's name",
        &node.name.as_str(),
        &manifest.flag("name").unwrap_or("none"),
    );
    if founders.is_empty() {
        found.equal(
            "etcd's initial-cluster-state",
            &"existing",
            &manifest.flag("initial-cluster-state").unwrap_or("new"),
        );
    } else {
        let wanted = initial_cluster(founders);
        found.equal(
            "etcd's initial-cluster",
            &wanted.as_str(),
            &manifest.flag("initial-cluster").unwrap_or("none"),
        );
    }
    Ok(())
}

pub(super) fn control_plane(
    found: &mut Differences,
    facts: &HostFacts,
    settings: &ClusterSettings,
) -> Result<(), Missing> {
    let manifests = facts.manifests.get()?;
    for name in [
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
    ] {
        match (manifests.get(name), settings.images.get(name)) {
            (Some(manifest), Some(image)) => found.equal(name, image, &manifest.image),
            (Some(_), None) => {}
            (None, _) => found.note(format_args!("{name}.yaml"), "present", "missing"),
        }
    }
    Ok(())
}

pub(super) fn kubelet(found: &mut Differences, facts: &HostFacts) -> Result<(), Missing> {
    if !facts.kubeconfigs.get()?.contains_key("kubelet.conf") {
        found.note("kubelet.conf", "present", "missing");
    }
    found.unit(facts, "kubelet")?;
    if let Some(unit) = facts.units.get()?.get("kubelet")
        && !unit.enabled
    {
        found.note("unit kubelet", "starts at boot", "does not");
    }
    Ok(())
}

pub(super) fn guarded(
    found: &mut Differences,
    facts: &HostFacts,
    view: Option<&EtcdView>,
) -> Result<(), Missing> {
    match (&facts.etcd_data.get()?.marker, view) {
        (None, _) => found.note("member marker", "present", "missing"),
        // While its etcd does not tell, the marker that lies there is not doubted.
        (Some(_), None) => {}
        (Some(marker), Some(view)) => {
            found.equal(
                "member marker's cluster",
                &view.cluster_id,
                &marker.cluster_id,
            );
            found.equal("member marker's member", &view.member, &marker.member);
        }
    }
    Ok(())
}

pub(super) fn founding_over(found: &mut Differences, facts: &HostFacts) -> Result<(), Missing> {
    match facts.founding.get()? {
        Some(founding) if founding.done => {}
        Some(_) => found.note("founding", "over", "in progress"),
        // Whoever joined was no founder; whoever is no member yet may become one.
        None if facts.etcd_data.get()?.marker.is_some() => {}
        None => found.note("founding", "over", "not begun"),
    }
    Ok(())
}
