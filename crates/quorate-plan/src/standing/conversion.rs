//! End states of a conversion and of its way back. What counts is what is served, connected and signed, not what a file says.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{Differences, api};
use crate::{
    NodeName, Observation,
    kubeadm::{ClusterSettings, Peer},
    observation::{
        ApiConversion, ApiView, EndpointName, HostConversion, HostFacts, KeptObjects,
        OldAddressRule,
    },
    seen::Missing,
};

/// A lease is renewed every ten seconds; a node is lost after forty without it. Clocks of two hosts may differ by five.
const LEASE_AGE_MAX: Duration = Duration::from_secs(40);

/// Where the notes say that a cluster was made by somebody else.
pub const ADOPTED: &str = "adopted";

/// Kubeconfigs of a master's own components, which lead to its own apiserver.
const OWN_COMPONENTS: [&str; 2] = [
    "/etc/kubernetes/controller-manager.conf",
    "/etc/kubernetes/scheduler.conf",
];
const KUBELET: &str = "/etc/kubernetes/kubelet.conf";

impl HostFacts {
    /// What a conversion has to know of this host.
    ///
    /// # Errors
    /// [`Missing`] when it was not seen, or nobody asked.
    pub fn conversion(&self) -> Result<&HostConversion, Missing> {
        let asked = self.conversion.get()?.as_deref();
        asked.ok_or_else(|| Missing::not_looked("what a conversion has to know of a host"))
    }
}

impl ApiView {
    /// What a conversion has to know of the cluster.
    ///
    /// # Errors
    /// As [`HostFacts::conversion`].
    pub fn conversion(&self) -> Result<&ApiConversion, Missing> {
        let asked = self.conversion.get()?.as_deref();
        asked.ok_or_else(|| Missing::not_looked("what a conversion has to know of the cluster"))
    }
}

/// The addresses behind a server as that host sees it: its own, or what the endpoint's name resolves to there.
///
/// # Errors
/// [`Missing`] when the name was not looked up.
pub fn addresses_of(
    via: &EndpointName,
    facts: &HostFacts,
) -> Result<BTreeSet<SocketAddr>, Missing> {
    if let Ok(address) = via.host.parse::<IpAddr>() {
        return Ok([SocketAddr::new(address, via.port)].into());
    }
    let sight = facts.endpoint.get()?.as_ref();
    let sight = sight.ok_or_else(|| Missing::not_looked("what the endpoint's name resolves to"))?;
    let addresses = sight.resolves.iter();
    Ok(addresses
        .map(|address| SocketAddr::new(*address, via.port))
        .collect())
}

pub(super) fn backed_up(
    found: &mut Differences,
    facts: &HostFacts,
    master: bool,
) -> Result<(), Missing> {
    match facts.conversion()?.backup.get()? {
        None => found.note("what is changed", "kept", "nothing kept"),
        Some(backup) if master && backup.snapshot.is_none() => {
            found.note("etcd's snapshot", "kept", "none");
        }
        Some(backup) if master && backup.objects.is_none() => {
            found.note("the cluster's configuration", "kept", "not kept");
        }
        Some(_) => {}
    }
    Ok(())
}

pub(super) fn backup_off_host(found: &mut Differences, facts: &HostFacts) -> Result<(), Missing> {
    if facts.conversion()?.off_host.get()?.is_none() {
        found.note(
            "the backup",
            "on an operator's machine",
            "on this host alone",
        );
    }
    Ok(())
}

pub(super) fn serving_certificate(
    found: &mut Differences,
    facts: &HostFacts,
    settings: &ClusterSettings,
    node: &Peer,
) -> Result<(), Missing> {
    const FILE: &str = "pki/apiserver.crt";
    let own = [node.name.to_string(), node.address.to_string()];
    match facts.pki.get()?.certificates.get(FILE) {
        None => found.note(FILE, "issued", "missing"),
        Some(certificate) => {
            for san in settings.sans.iter().chain(&own) {
                if !certificate.sans.contains(san) {
                    found.note(FILE, format_args!("valid for {san}"), "not in its names");
                }
            }
        }
    }
    served_as_it_lies(found, facts.conversion()?)
}

fn served_as_it_lies(found: &mut Differences, own: &HostConversion) -> Result<(), Missing> {
    match (own.serving.get()?, own.served.get()?) {
        (Some(file), Some(served)) if file == served => {}
        (_, None) => found.note("apiserver", "serving", "none here"),
        (_, Some(_)) => found.note("served certificate", "the one on disk", "another"),
    }
    Ok(())
}

pub(super) fn serving_certificate_kept(
    found: &mut Differences,
    facts: &HostFacts,
) -> Result<(), Missing> {
    let own = facts.conversion()?;
    let Some(kept) = own.backup.get()?.as_ref().and_then(|b| b.serving.as_ref()) else {
        return Ok(());
    };
    if own.serving.get()?.as_ref() != Some(kept) {
        found.note("pki/apiserver.crt", "the one that was kept", "another");
    }
    served_as_it_lies(found, own)
}

pub(super) fn configuration(
    found: &mut Differences,
    settings: &ClusterSettings,
    seen: &Observation,
) -> Result<(), Missing> {
    let Some(api) = api::view(found, seen)? else {
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
            let sans = config.adopted.as_ref().map(|adopted| adopted.sans());
            for san in settings.sans.difference(&sans.unwrap_or_default()) {
                found.note("kubeadm-config: certSANs", san, "not among them");
            }
        }
    }
    let notes = api.notes.get()?;
    if notes
        .as_ref()
        .is_none_or(|notes| !notes.contains_key(ADOPTED))
    {
        found.note("note in the cluster", ADOPTED, "none");
    }
    Ok(())
}

fn kept(facts: &HostFacts) -> Result<Option<&KeptObjects>, Missing> {
    let backup = facts.conversion()?.backup.get()?.as_ref();
    Ok(backup.and_then(|backup| backup.objects.as_ref()))
}

pub(super) fn configuration_kept(
    found: &mut Differences,
    facts: &HostFacts,
    seen: &Observation,
) -> Result<(), Missing> {
    let Some(kept) = kept(facts)? else {
        return Ok(());
    };
    let Some(api) = api::view(found, seen)? else {
        return Ok(());
    };
    match api.kubeadm.get()? {
        None => found.note("kubeadm-config", "as it was", "missing"),
        Some(config) => {
            let now = config.adopted.as_ref().map(|adopted| &adopted.cluster);
            if now != Some(&kept.adopted.cluster) {
                found.note("kubeadm-config", "as it was", "another");
            }
        }
    }
    let notes = api.notes.get()?;
    if notes
        .as_ref()
        .is_some_and(|notes| notes.contains_key(ADOPTED))
    {
        found.note("note in the cluster", "none", ADOPTED);
    }
    Ok(())
}

pub(super) fn cluster_info(
    found: &mut Differences,
    server: &String,
    seen: &Observation,
) -> Result<(), Missing> {
    let Some(api) = api::view(found, seen)? else {
        return Ok(());
    };
    match api.cluster_info.get()? {
        None => found.note("cluster-info", "published", "missing"),
        Some(now) => found.equal("cluster-info", server, now),
    }
    for token in api.conversion()?.unsigned.get()? {
        found.note(
            format_args!("cluster-info for token {token}"),
            "signed",
            "not, or for another text",
        );
    }
    Ok(())
}

pub(super) fn proxy_config(
    found: &mut Differences,
    server: &String,
    seen: &Observation,
) -> Result<(), Missing> {
    let Some(api) = api::view(found, seen)? else {
        return Ok(());
    };
    match api.conversion()?.proxy.get()? {
        None => found.note("ConfigMap kube-proxy", "there", "missing"),
        Some(now) => found.equal("kube-proxy's kubeconfig", server, now),
    }
    Ok(())
}

pub(super) fn proxy(
    found: &mut Differences,
    node: &NodeName,
    server: &String,
    via: Option<&EndpointName>,
    seen: &Observation,
) -> Result<(), Missing> {
    let facts = seen.host(node)?;
    let own = facts.conversion()?;
    match own.proxy_healthy.get()? {
        Some(true) => {}
        Some(false) => found.note("kube-proxy", "healthy", "not"),
        None => found.note("kube-proxy", "running", "not"),
    }
    // Where the old and the new way lead to the same address, and where the way is a name that nobody looks up, a connection says nothing.
    const BEGAN: &str = "kube-proxy began with";
    match own.began_with.get()?.get("kube-proxy") {
        Some(Some(began)) if began.iter().eq([server]) => {}
        Some(Some(began)) => found.note(BEGAN, server, list(began)),
        Some(None) => found.note(BEGAN, server, "what was changed since"),
        None => found.note(BEGAN, server, "nothing"),
    }
    connected(found, "kube-proxy", via, facts)
}

fn connected(
    found: &mut Differences,
    process: &str,
    via: Option<&EndpointName>,
    facts: &HostFacts,
) -> Result<(), Missing> {
    let none = BTreeSet::new();
    let connections = facts.conversion()?.connections.get()?;
    let to = connections.get(process).unwrap_or(&none);
    let is_there = match via {
        Some(via) => !addresses_of(via, facts)?.is_disjoint(to),
        None => !to.is_empty(),
    };
    if !is_there {
        let to: Vec<String> = to.iter().map(SocketAddr::to_string).collect();
        let wanted = via.map_or("to an apiserver".to_owned(), |via| format!("to {via}"));
        let seen = if to.is_empty() {
            "to nobody".to_owned()
        } else {
            format!("to {}", to.join(", "))
        };
        found.note(format_args!("{process}'s connection"), wanted, seen);
    }
    Ok(())
}

/// The kubelet renews the lease of its node.
fn alive(found: &mut Differences, node: &NodeName, seen: &Observation) -> Result<(), Missing> {
    let Some(api) = api::view(found, seen)? else {
        return Ok(());
    };
    match api.nodes.get()?.get(node) {
        None => found.note(format_args!("node {node}"), "registered", "missing"),
        Some(object) => {
            if !object.ready {
                found.note(format_args!("node {node}"), "ready", &object.reason);
            }
            match object.heartbeat {
                Some(age) if age <= LEASE_AGE_MAX => {}
                Some(age) => found.note(
                    format_args!("lease of {node}"),
                    "renewed",
                    format_args!("{} s old", age.as_secs()),
                ),
                None => found.note(format_args!("lease of {node}"), "renewed", "none"),
            }
        }
    }
    Ok(())
}

/// The old servers that a kubeconfig of a host has to leave.
pub fn to_leave<'a>(
    path: &str,
    servers: &'a BTreeSet<String>,
    old: &'a BTreeSet<String>,
    own: Option<&Peer>,
) -> Vec<&'a String> {
    let itself = own.map(|peer| format!("https://{}:6443", peer.address));
    let stays = |server: &String| match &itself {
        Some(itself) if path == KUBELET => server == itself,
        Some(_) => OWN_COMPONENTS.contains(&path),
        None => false,
    };
    servers
        .intersection(old)
        .filter(|server| !stays(server))
        .collect()
}

pub(super) fn kubeconfigs(
    found: &mut Differences,
    facts: &HostFacts,
    node: &Peer,
    endpoint: &EndpointName,
    old: &BTreeSet<String>,
    master: bool,
    seen: &Observation,
) -> Result<(), Missing> {
    let own = master.then_some(node);
    for (path, servers) in facts.conversion()?.kubeconfigs.get()? {
        for server in to_leave(path, servers, old, own) {
            found.note(path, format_args!("https://{endpoint}"), server);
        }
    }
    if master {
        return Ok(());
    }
    let own = facts.conversion()?;
    let was = own.backup.get()?.as_ref();
    let was = was.map(|backup| backup.kubeconfigs.get(KUBELET));
    if was.is_some_and(|was| was != own.kubeconfigs.get().ok().and_then(|now| now.get(KUBELET))) {
        kubelet_began_anew(found, own)?;
    }
    connected(found, "kubelet", Some(endpoint), facts)?;
    let ways = addresses_of(endpoint, facts)?;
    let connections = facts.conversion()?.connections.get()?;
    for to in connections.get("kubelet").into_iter().flatten() {
        if old.contains(&format!("https://{to}")) && !ways.contains(to) {
            found.note("kubelet's connections", "none to the old address", to);
        }
    }
    alive(found, &node.name, seen)
}

pub(super) fn kubeconfigs_kept(
    found: &mut Differences,
    facts: &HostFacts,
    node: &Peer,
    master: bool,
    seen: &Observation,
) -> Result<(), Missing> {
    let own = facts.conversion()?;
    let Some(backup) = own.backup.get()? else {
        return Ok(());
    };
    let now = own.kubeconfigs.get()?;
    for (path, servers) in &backup.kubeconfigs {
        // One that somebody removed meanwhile is not brought back.
        if let Some(now) = now.get(path)
            && now != servers
        {
            found.note(path, list(servers), list(now));
        }
    }
    if master {
        return Ok(());
    }
    // A kubelet that was not started anew since goes on at the endpoint, and is lost with the names that the certificate loses next.
    let was = backup.kubeconfigs.get(KUBELET).into_iter().flatten();
    let way = was.filter_map(|server| literal(server)).next();
    if let Some(way) = &way
        && addresses_of(way, facts)?
            .iter()
            .any(|to| leads_to(facts, to))
    {
        kubelet_began_anew(found, own)?;
    }
    connected(found, "kubelet", way.as_ref(), facts)?;
    alive(found, &node.name, seen)
}

/// Whether the endpoint's name leads to that address: then a connection does not tell the old way from the new one.
fn leads_to(facts: &HostFacts, to: &SocketAddr) -> bool {
    let sight = facts.endpoint.get().ok().and_then(Option::as_ref);
    sight.is_some_and(|sight| sight.resolves.contains(&to.ip()))
}

/// Its kubeconfig is what it was when the kubelet began.
fn kubelet_began_anew(found: &mut Differences, own: &HostConversion) -> Result<(), Missing> {
    if let Some(None) = own.began_with.get()?.get("kubelet") {
        found.note(
            "the kubelet",
            "begun after its kubeconfig was changed",
            "before",
        );
    }
    Ok(())
}

/// A server that is an address: a name that only the old cluster knew is not looked up for it.
pub(crate) fn literal(server: &str) -> Option<EndpointName> {
    let (host, port) = server.strip_prefix("https://")?.rsplit_once(':')?;
    host.parse::<IpAddr>().ok()?;
    Some(EndpointName {
        host: host.to_owned(),
        port: port.parse().ok()?,
    })
}

fn list(servers: &BTreeSet<String>) -> String {
    let servers: Vec<&str> = servers.iter().map(String::as_str).collect();
    servers.join(", ")
}

pub(super) fn dns_spread(found: &mut Differences, seen: &Observation) -> Result<(), Missing> {
    let Some(api) = api::view(found, seen)? else {
        return Ok(());
    };
    let own = api.conversion()?;
    let nodes = own.dns_nodes.get()?;
    if *own.dns_wanted.get()? >= 2 && nodes.len() < 2 {
        let on: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
        let seen = if on.is_empty() {
            "none ready".into()
        } else {
            on.join(", ")
        };
        found.note("ready pods of cluster DNS", "on two nodes", seen);
    }
    Ok(())
}

pub(super) fn backup_aside(found: &mut Differences, facts: &HostFacts) -> Result<(), Missing> {
    if facts.conversion()?.backup.get()?.is_some() {
        found.note("what was kept", "moved aside", "in place");
    }
    Ok(())
}

pub(super) fn old_address(
    found: &mut Differences,
    facts: &HostFacts,
    rule: Option<&OldAddressRule>,
) -> Result<(), Missing> {
    const WHAT: &str = "the rule for the old address";
    match (facts.old_address.get()?, rule) {
        (None, None) => {}
        (None, Some(_)) => found.note(WHAT, "in the kernel", "none"),
        (Some(_), None) => found.note(WHAT, "none", "there is one"),
        (Some(now), Some(rule)) => {
            if now.rule != *rule {
                found.note(WHAT, "as wanted", "another");
            }
            if !now.loaded {
                found.note(WHAT, "in the kernel", "written down alone");
            }
        }
    }
    Ok(())
}
