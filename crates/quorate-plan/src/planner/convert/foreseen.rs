//! What will come up later in a conversion, as far as it can be told before: what would stop it ([`fixes`]), and what is different from an
//! ordinary cluster and taken care of ([`notes`]).

use std::collections::BTreeSet;

use super::{Foreign, adoption::Note, obstacles};
use crate::{Refusal, seen::Missing};

/// Certificates are worth a word below this many days.
const DAYS_LEFT_FEW: i64 = 30;

/// Where kubeadm puts etcd's data.
const ETCD_DATA: &str = "/var/lib/etcd";

/// Where containerd listens, as kubeadm and its users write it.
const SOCKETS: [&str; 2] = [
    "unix:///run/containerd/containerd.sock",
    "unix:///var/run/containerd/containerd.sock",
];

/// Flags that kubeadm itself writes, by manifest, with the component's name in a ClusterConfiguration. A joiner is compared with the running
/// masters anyway before it is added; this is so that the operator hears of it before anything is begun.
const KUBEADMS: [(&str, &str, &[&str]); 3] = [
    (
        "kube-apiserver",
        "apiServer",
        &[
            "advertise-address",
            "allow-privileged",
            "authorization-mode",
            "client-ca-file",
            "enable-admission-plugins",
            "enable-bootstrap-token-auth",
            "etcd-cafile",
            "etcd-certfile",
            "etcd-keyfile",
            "etcd-servers",
            "feature-gates",
            "kubelet-client-certificate",
            "kubelet-client-key",
            "kubelet-preferred-address-types",
            "proxy-client-cert-file",
            "proxy-client-key-file",
            "requestheader-allowed-names",
            "requestheader-client-ca-file",
            "requestheader-extra-headers-prefix",
            "requestheader-group-headers",
            "requestheader-username-headers",
            "secure-port",
            "service-account-issuer",
            "service-account-key-file",
            "service-account-signing-key-file",
            "service-cluster-ip-range",
            "tls-cert-file",
            "tls-private-key-file",
        ],
    ),
    (
        "kube-controller-manager",
        "controllerManager",
        &[
            "allocate-node-cidrs",
            "authentication-kubeconfig",
            "authorization-kubeconfig",
            "bind-address",
            "client-ca-file",
            "cluster-cidr",
            "cluster-name",
            "cluster-signing-cert-file",
            "cluster-signing-key-file",
            "controllers",
            "feature-gates",
            "kubeconfig",
            "leader-elect",
            "node-cidr-mask-size",
            "requestheader-client-ca-file",
            "root-ca-file",
            "service-account-private-key-file",
            "service-cluster-ip-range",
            "use-service-account-credentials",
        ],
    ),
    (
        "kube-scheduler",
        "scheduler",
        &[
            "authentication-kubeconfig",
            "authorization-kubeconfig",
            "bind-address",
            "feature-gates",
            "kubeconfig",
            "leader-elect",
        ],
    ),
];

/// What would be refused before the first master joins: a manifest that somebody edited and kubeadm knows nothing of.
///
/// # Errors
/// [`Missing`] when the manifests were not seen; what the cluster was made with, when that is not kubeadm's.
pub(super) fn fixes(foreign: &Foreign<'_>) -> Result<Vec<Refusal>, Refusal> {
    let adopted = foreign.adopted()?;
    let manifests = foreign.facts.manifests.get()?;
    let mut found = Vec::new();
    for (file, component, usual) in KUBEADMS {
        let Some(manifest) = manifests.get(file) else {
            continue;
        };
        let told = adopted.extra_arguments(component);
        let names = manifest.flags.iter().filter_map(|flag| {
            let flag = flag.strip_prefix("--")?;
            Some(flag.split_once('=').map_or(flag, |(name, _)| name))
        });
        let edited: BTreeSet<String> = names
            .filter(|name| !usual.contains(name) && !told.contains(*name))
            .map(|name| format!("--{name}"))
            .collect();
        if !edited.is_empty() {
            let edited: Vec<String> = edited.into_iter().collect();
            found.push(Refusal::NotConvertible {
                what: format!("{file}.yaml on {}", foreign.original.name),
                seen: format!("written there by hand: {}", edited.join(", ")),
                way: format!(
                    "new masters are made from kubeadm-config and would run without: write them into {component}.extraArgs of the ConfigMap kube-system/kubeadm-config, with their files in {component}.extraVolumes"
                ),
                mendable: true,
            });
        }
    }
    Ok(found)
}

/// What differs from an ordinary cluster and is taken care of, or is for the operator to know.
///
/// # Errors
/// [`Missing`] when something of it was not seen.
pub(super) fn notes(foreign: &Foreign<'_>) -> Result<Vec<Note>, Missing> {
    let mut notes = Vec::new();
    let mut note = |about: &str, what: String| {
        notes.push(Note {
            about: about.to_owned(),
            what,
        });
    };
    let first = &foreign.original.name;
    endpoint(foreign, &mut note)?;
    let machine = foreign.facts.machine.get()?;
    if machine.hostname != first.as_str() {
        let what = format!(
            "the node is called {first}, its host {}: it goes on as {first}",
            machine.hostname
        );
        note("names", what);
    }
    if let Some(node) = foreign.api.nodes.get()?.get(first)
        && !node.tainted
    {
        let what = format!("{first} takes ordinary pods and goes on to; new masters do not");
        note("taints", what);
    }
    for (file, days) in obstacles::days_left(foreign)? {
        let what = obstacles::validity(days);
        if file == "pki/apiserver.crt" && days < DAYS_LEFT_FEW {
            note("certificates", format!("{file}: {what}; it is made anew"));
        } else if (obstacles::DAYS_LEFT_MIN..DAYS_LEFT_FEW).contains(&days) {
            let way = "renew it soon, or upgrade, which renews it";
            note("certificates", format!("{file}: {what}; {way}"));
        }
    }
    files(foreign, &mut note)?;
    homes(foreign, &mut note)?;
    for (node, socket) in foreign.api.conversion()?.sockets.get()? {
        if !SOCKETS.contains(&socket.as_str()) {
            let what = format!(
                "annotation of {node}: {socket}; nothing of a conversion reads it, an upgrade does: write where its runtime listens now"
            );
            note("container runtime", what);
        }
    }
    Ok(notes)
}

fn endpoint(foreign: &Foreign<'_>, note: &mut impl FnMut(&str, String)) -> Result<(), Missing> {
    let before = foreign.old_endpoint()?;
    let wanted = foreign.intent.spec.endpoint.to_string();
    let host = before.rsplit_once(':').map_or(before, |(host, _)| host);
    let what = if before.is_empty() {
        return Ok(());
    } else if before == wanted {
        format!("{before} is kept: it has to lead to the balancer before anybody joins")
    } else if host == foreign.original.address.to_string() {
        format!("{before} is an address of the master's own: everybody is led to {wanted}")
    } else {
        format!("{before} goes on leading to the master; everybody is led to {wanted}")
    };
    note("endpoint", what);
    Ok(())
}

/// Kubeconfigs of people on the hosts: they are theirs to lead elsewhere.
fn homes(foreign: &Foreign<'_>, note: &mut impl FnMut(&str, String)) -> Result<(), Missing> {
    let old = foreign.old_servers()?;
    for (node, ..) in foreign.intent.spec.machines() {
        let Ok(facts) = foreign.seen.host(node) else {
            continue;
        };
        let Ok(own) = facts.conversion() else {
            continue;
        };
        let homes = match own.homes.get() {
            Ok(homes) => homes,
            Err(missing) => {
                note("people's kubeconfigs", format!("{node}: {missing}"));
                continue;
            }
        };
        for (path, servers) in homes {
            match servers {
                None => note(
                    "people's kubeconfigs",
                    format!("{path} on {node} cannot be understood: look where it leads"),
                ),
                Some(servers) if !servers.is_disjoint(&old) => note(
                    "people's kubeconfigs",
                    format!(
                        "{path} on {node} leads to the old address and is not changed: `quorate kubeconfig rewrite {path}` there does"
                    ),
                ),
                Some(_) => {}
            }
        }
    }
    Ok(())
}

fn files(foreign: &Foreign<'_>, note: &mut impl FnMut(&str, String)) -> Result<(), Missing> {
    let manifests = foreign.facts.manifests.get()?;
    if let Some(server) = manifests.get("kube-apiserver") {
        let named: Vec<&str> = server.files.keys().map(String::as_str).collect();
        if !named.is_empty() {
            let joiners = foreign.intent.spec.control_plane.keys();
            let joiners = joiners.filter(|node| !foreign.voters.contains(*node));
            let joiners: Vec<&str> = joiners.map(|node| node.as_str()).collect();
            let what = format!(
                "kube-apiserver reads {}: bring it to {} by hand before they join, it may hold keys",
                named.join(", "),
                joiners.join(", ")
            );
            note("files", what);
        }
    }
    let folder = manifests
        .get("etcd")
        .and_then(|etcd| etcd.flag("data-dir"))
        .filter(|folder| *folder != ETCD_DATA);
    if let Some(folder) = folder {
        let what = format!("it lies in {folder}, and will on new masters");
        note("etcd's data", what);
    }
    let own = foreign.facts.conversion()?;
    if let Some(mount) = own.data_mount.get()? {
        let what = format!(
            "it has a disk of its own, mounted at {mount}; on new masters it lies where you mount one, or on theirs"
        );
        note("etcd's data", what);
    }
    Ok(())
}
