//! What a conversion cannot carry over, or would break: each by name, with what was seen and what to do about it. Start at [`all`].

use std::collections::BTreeSet;

use super::Foreign;
use crate::{
    Intent, Observation, Refusal, observation::Manifest, quorum::Quorum, rehearsal::FILES,
    seen::Missing, spec::Cni,
};

fn obstacle(what: impl Into<String>, seen: impl Into<String>, way: impl Into<String>) -> Refusal {
    Refusal::NotConvertible {
        what: what.into(),
        seen: seen.into(),
        way: way.into(),
        mendable: true,
    }
}

/// One that nobody can do anything about.
fn never(what: impl Into<String>, seen: impl Into<String>, way: impl Into<String>) -> Refusal {
    Refusal::NotConvertible {
        what: what.into(),
        seen: seen.into(),
        way: way.into(),
        mendable: false,
    }
}

/// Without a member on the master there is nothing to join.
///
/// # Errors
/// [`Refusal::NotConvertible`].
pub(super) fn external_etcd(seen: &Observation) -> Result<(), Refusal> {
    let Ok(Some(api)) = seen.api() else {
        return Ok(());
    };
    let Ok(Some(config)) = api.kubeadm.get() else {
        return Ok(());
    };
    match config.adopted.as_deref() {
        Some(adopted) if adopted.external_etcd() => {
            let mut found = adopted.obstacles().into_iter();
            let one = found.find(|one| one.field == "etcd.external");
            let (seen, way) = one.map(|one| (one.seen, one.way)).unwrap_or_default();
            Err(never("kubeadm-config: etcd.external", seen, way))
        }
        Some(_) | None => Ok(()),
    }
}

/// The one member has to be where new members will look for it.
///
/// # Errors
/// [`Refusal::NotConvertible`].
pub(super) fn peer_urls(
    intent: &Intent,
    seen: &Observation,
    quorum: &Quorum,
) -> Result<(), Refusal> {
    let [(id, member)] = quorum.members.iter().collect::<Vec<_>>()[..] else {
        return Ok(());
    };
    let witness = intent
        .spec
        .peers()
        .into_iter()
        .find(|peer| matches!(seen.etcd_at(&peer.name), Ok(Some(view)) if view.member == *id));
    let Some(peer) = witness else {
        return Ok(());
    };
    let wanted = peer.peer_url();
    if member.peer_urls.iter().eq([&wanted]) {
        return Ok(());
    }
    let urls: Vec<&str> = member.peer_urls.iter().map(String::as_str).collect();
    Err(obstacle(
        format!("peer URL of etcd's member {id}"),
        urls.join(", "),
        format!(
            "nobody could join it: on {} run `etcdctl member update {id} --peer-urls={wanted}`, which interrupts nothing; leave etcd's manifest as it is",
            peer.name
        ),
    ))
}

/// All there are.
///
/// # Errors
/// [`Missing`] when something that decides it was not seen; what the cluster was made with, when that is not kubeadm's.
pub(super) fn all(foreign: &Foreign<'_>) -> Result<Vec<Refusal>, Refusal> {
    let mut found = Vec::new();
    begun_by_us(foreign, &mut found)?;
    for one in foreign.adopted()?.obstacles() {
        let what = format!("kubeadm-config: {}", one.field);
        found.push(Refusal::NotConvertible {
            what,
            seen: one.seen,
            way: one.way,
            mendable: one.mendable,
        });
    }
    versions(foreign, &mut found)?;
    certificates(foreign, &mut found)?;
    expiring(foreign, &mut found)?;
    blocked(foreign, &mut found)?;
    nodes(foreign, &mut found)?;
    proxy(foreign, &mut found)?;
    shared_address(foreign, &mut found)?;
    unknowns(foreign, &mut found)?;
    match foreign.intent.spec.network.cni {
        Cni::None => {}
        Cni::Flannel | Cni::Manifest { .. } => found.push(obstacle(
            "network.cni of the cluster file",
            "a pod network to install",
            "the cluster has its own: write `cni: none`",
        )),
    }
    Ok(found)
}

/// More than one voter is the end of a conversion that this tool began, or somebody else's cluster of several masters.
fn begun_by_us(foreign: &Foreign<'_>, found: &mut Vec<Refusal>) -> Result<(), Missing> {
    if foreign.voters.len() > 1 && foreign.kept()?.is_none() {
        found.push(obstacle(
            "etcd",
            format!(
                "{} voters, and no conversion was begun",
                foreign.voters.len()
            ),
            "it has several masters already: `quorate apply` brings it to its file",
        ));
    }
    Ok(())
}

fn versions(foreign: &Foreign<'_>, found: &mut Vec<Refusal>) -> Result<(), Missing> {
    let wanted = &foreign.intent.spec.kubernetes;
    let running = &foreign.api.version;
    if running != wanted {
        found.push(Refusal::Unchangeable {
            what: "the apiserver's version".into(),
            is: running.clone(),
            wanted: wanted.clone(),
        });
    }
    match foreign.facts.conversion()?.kubeadm.get()? {
        None => found.push(obstacle(
            format!("kubeadm on {}", foreign.original.name),
            "not installed",
            format!("install kubeadm {wanted}: it issues the certificate"),
        )),
        Some(version) if minor(version) != minor(wanted) => found.push(obstacle(
            format!("kubeadm on {}", foreign.original.name),
            version.clone(),
            format!("install the version that the cluster runs, {wanted}"),
        )),
        Some(_) => {}
    }
    Ok(())
}

fn minor(version: &str) -> Option<&str> {
    let end = version.match_indices('.').nth(1).map(|(at, _)| at)?;
    version.get(..end)
}

fn certificates(foreign: &Foreign<'_>, found: &mut Vec<Refusal>) -> Result<(), Missing> {
    let pki = foreign.facts.pki.get()?;
    if pki.authority.is_none() {
        let missing: Vec<&str> = pki.missing.iter().map(String::as_str).collect();
        found.push(never(
            format!("certificate authorities of {}", foreign.original.name),
            format!("not whole: {} missing", missing.join(", ")),
            "an external authority is not supported: new masters could not be issued certificates",
        ));
    }
    let Some(server) = foreign.facts.manifests.get()?.get("kube-apiserver") else {
        return Ok(());
    };
    for (flag, usual) in [
        ("tls-cert-file", "/etc/kubernetes/pki/apiserver.crt"),
        ("tls-private-key-file", "/etc/kubernetes/pki/apiserver.key"),
        ("secure-port", "6443"),
    ] {
        if let Some(value) = unusual(server, flag, usual) {
            found.push(never(
                format!("kube-apiserver.yaml: --{flag}"),
                value,
                format!("only {usual} is supported"),
            ));
        }
    }
    let address = foreign.original.address.to_string();
    if let Some(other) = unusual(server, "advertise-address", &address) {
        found.push(obstacle(
            "kube-apiserver.yaml: --advertise-address",
            other,
            format!(
                "the cluster file says that {} is at {address}",
                foreign.original.name
            ),
        ));
    }
    Ok(())
}

fn unusual(manifest: &Manifest, flag: &str, usual: &str) -> Option<String> {
    let value = manifest.flag(flag)?;
    (value != usual).then(|| value.to_owned())
}

/// The file and the cluster mean the same hosts: one that the file leaves out would stay with the old address, and with nobody to say so.
fn nodes(foreign: &Foreign<'_>, found: &mut Vec<Refusal>) -> Result<(), Missing> {
    let nodes = foreign.api.nodes.get()?;
    let spec = &foreign.intent.spec;
    for (name, node) in nodes {
        let known = spec
            .control_plane
            .get(name)
            .or_else(|| spec.workers.get(name));
        match known {
            None => found.push(obstacle(
                format!("node {name}"),
                "in the cluster and not in the cluster file",
                "name it there, or delete the node when it is gone for good",
            )),
            Some(machine) if !node.addresses.contains(&machine.address) => found.push(obstacle(
                format!("node {name}"),
                format!("not at {}, which the cluster file says", machine.address),
                "give its internal address there",
            )),
            Some(_) => {}
        }
    }
    if !nodes.contains_key(&foreign.original.name) {
        found.push(obstacle(
            format!("node {}", foreign.original.name),
            "there is no node of that name",
            "the file has to call the master as its node is called",
        ));
    }
    Ok(())
}

fn proxy(foreign: &Foreign<'_>, found: &mut Vec<Refusal>) -> Result<(), Missing> {
    if foreign.api.conversion()?.proxy.get()?.is_none() {
        found.push(never(
            "ConfigMap kube-system/kube-proxy",
            "there is none",
            "clusters without kubeadm's kube-proxy are not supported: what stands in for it has the old address somewhere else",
        ));
    }
    Ok(())
}

/// A shared address that moves by its own rules would be fought for by two.
fn shared_address(foreign: &Foreign<'_>, found: &mut Vec<Refusal>) -> Result<(), Missing> {
    let manifests = foreign.facts.manifests.get()?.keys();
    let pods = manifests.map(|name| format!("static pod {name} on {}", foreign.original.name));
    let workloads = foreign.api.workloads.get()?.keys().cloned();
    if let Some(what) = pods.chain(workloads).find(|name| name.contains(KUBE_VIP)) {
        found.push(never(
            what,
            "kube-vip holds an address of the API",
            "an address that kube-vip moves is not supported: new masters would not run it, and whoever uses the address would follow it to nobody",
        ));
    }
    Ok(())
}

/// What moves an address among masters, by the name that its own pages give it.
const KUBE_VIP: &str = "kube-vip";

/// The pod network that conversions were made with, by the name that its manifest gives it.
const PROVEN_NETWORK: &str = "kube-flannel-ds";

/// A certificate that ends sooner than this many days may end in the middle of it.
pub(super) const DAYS_LEFT_MIN: i64 = 7;

/// What nobody has tried: it may go well, and whoever knows the cluster may say so by name, before it is begun with.
fn unknowns(foreign: &Foreign<'_>, found: &mut Vec<Refusal>) -> Result<(), Missing> {
    if foreign.kept()?.is_some() {
        return Ok(());
    }
    let mut unknowns = BTreeSet::new();
    let networks = foreign.api.conversion()?.networks.get()?;
    if networks.is_empty() {
        unknowns.insert("pod network: no DaemonSet that installs one was found".to_owned());
    }
    for network in networks {
        if network.rsplit('/').next() != Some(PROVEN_NETWORK) {
            unknowns.insert(format!(
                "pod network {network}: only Flannel was tried; whether it finds the API by an address of its own is for you to say"
            ));
        }
    }
    for name in foreign.facts.manifests.get()?.keys() {
        if !FILES.contains(&name.as_str()) && !name.contains(KUBE_VIP) {
            unknowns.insert(format!(
                "static pod {name} on {}: new masters do not get it",
                foreign.original.name
            ));
        }
    }
    if unknowns.is_empty() {
        return Ok(());
    }
    let refusal = Refusal::Unproven {
        node: foreign.original.name.clone(),
        unknowns,
    };
    if !refusal.accepted(&foreign.intent.accepted) {
        found.push(refusal);
    }
    Ok(())
}

/// Certificates of the master that end while it is converted. The serving one is made anew anyway.
fn expiring(foreign: &Foreign<'_>, found: &mut Vec<Refusal>) -> Result<(), Missing> {
    for (file, days) in days_left(foreign)? {
        if days < DAYS_LEFT_MIN && file != "pki/apiserver.crt" {
            found.push(obstacle(
                format!("{file} of {}", foreign.original.name),
                validity(days),
                "renew it first: `kubeadm certs renew all` there, and restart the control plane in a quiet hour",
            ));
        }
    }
    Ok(())
}

/// `ends in 3 days`.
pub(super) fn validity(days: i64) -> String {
    match days {
        ..0 => "it has ended".into(),
        0 => "it ends today".into(),
        1 => "it ends in a day".into(),
        days => format!("it ends in {days} days"),
    }
}

/// Leaf certificates of the master, with the days that each has left by the host's own clock.
pub(super) fn days_left(foreign: &Foreign<'_>) -> Result<Vec<(String, i64)>, Missing> {
    let now = (foreign.facts.machine.get()?.clock_ms / 1000) as i64;
    let certificates = &foreign.facts.pki.get()?.certificates;
    Ok(certificates
        .iter()
        .map(|(file, one)| (file.clone(), (one.not_after - now).div_euclid(86_400)))
        .collect())
}

/// Whether the masters reach each other where they will have to.
fn blocked(foreign: &Foreign<'_>, found: &mut Vec<Refusal>) -> Result<(), Missing> {
    let spec = &foreign.intent.spec;
    for node in spec.control_plane.keys() {
        let Some(asked) = foreign.seen.host(node)?.conversion.get()?.as_deref() else {
            continue;
        };
        for (address, why) in asked.blocked.get()? {
            let masters = &spec.control_plane;
            let to = masters
                .iter()
                .find(|(_, machine)| machine.address == address.ip());
            // Who votes by now is judged by the quorum.
            let Some((to, _)) = to
                .filter(|(to, _)| !foreign.voters.contains(*to) || !foreign.voters.contains(node))
            else {
                continue;
            };
            found.push(obstacle(
                format!("way from {node} to {to}, port {}", address.port()),
                why.clone(),
                "masters reach each other there: open it in the firewall or the security group (docs/reference/ports.md lists who needs which)",
            ));
        }
    }
    Ok(())
}
