//! Serving and client certificates and kubeconfigs, issued by kubeadm from the CA set that lies here.
//!
//! They are issued into a folder of their own; only what is missing, or lacks a name, takes its place. What is right is kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use quorate_plan::{
    kubeadm::{ClusterSettings, Peer},
    observation::Certificate,
};

use super::{TOOL_WITHIN, Work};
use crate::{
    durable::{self, FileError},
    error::ActionError,
    facts::{self, LEAVES},
    kubeadm::{Extra, Kubeadm},
    paths::Paths,
    seal::CA_FILES,
    utc,
};

/// Where certificates are issued: on the file system they will lie on.
fn staging(paths: &Paths) -> PathBuf {
    paths.kubernetes(".quorate-certificates")
}

/// Kubeconfigs of every control plane host.
const KUBECONFIGS: [(&str, &str); 4] = [
    ("admin", "admin.conf"),
    ("kubelet", "kubelet.conf"),
    ("controller-manager", "controller-manager.conf"),
    ("scheduler", "scheduler.conf"),
];

/// The one that needs no rule in the cluster: the first of its rules is made with it.
const SUPER_ADMIN: (&str, &str) = ("super-admin", "super-admin.conf");

pub(super) async fn ensure(
    work: &Work<'_>,
    settings: &ClusterSettings,
    node: &Peer,
) -> Result<(), ActionError> {
    if facts::authority_digest(work.paths)?.is_none() {
        return Err(ActionError::unexpected(
            "a whole CA set on this host",
            "there is none",
            "run `quorate apply` again",
        ));
    }
    leaves(work, settings, node).await?;
    kubeconfigs(work, settings, node).await
}

async fn leaves(
    work: &Work<'_>,
    settings: &ClusterSettings,
    node: &Peer,
) -> Result<(), ActionError> {
    let paths = work.paths;
    let wanted = names(settings, node);
    let now = i64::try_from(utc::now()).unwrap_or(i64::MAX);
    let mut wrong = Vec::new();
    for leaf in LEAVES {
        if !is_right(paths, leaf, &wanted, now)? {
            wrong.push(leaf);
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let staging = staging(paths);
    durable::remove_folder(&staging)?;
    durable::private_folder(&staging.join("etcd"))?;
    durable::private_folder(&staging)?;
    for name in CA_FILES {
        let (from, to) = (paths.pki(name), staging.join(name));
        fs::hard_link(&from, &to).map_err(FileError::new("link", &to))?;
    }
    let extra = Extra {
        certificates: Some(&staging),
        ..Extra::default()
    };
    Kubeadm::new(paths, work.tools, settings, node, &extra, TOOL_WITHIN)?
        .phase(&["certs", "all"])
        .await?;
    for leaf in wrong {
        // The running apiserver and etcd read both again by themselves, and keep the old pair while the two do not fit.
        for end in ["key", "crt"] {
            let name = format!("{leaf}.{end}");
            durable::rename(&staging.join(&name), &paths.pki(&name))?;
        }
        work.progress.say(format!("issued {leaf}.crt"));
    }
    Ok(durable::remove_folder(&staging)?)
}

/// The names each certificate must be valid for, where kubeadm's own could be too few.
fn names(settings: &ClusterSettings, node: &Peer) -> BTreeMap<&'static str, BTreeSet<String>> {
    let own = [node.name.to_string(), node.address.to_string()];
    let local: BTreeSet<String> = own.iter().cloned().collect();
    [
        (
            "apiserver",
            settings.sans.iter().cloned().chain(own).collect(),
        ),
        ("etcd/server", local.clone()),
        ("etcd/peer", local),
    ]
    .into()
}

fn is_right(
    paths: &Paths,
    leaf: &str,
    names: &BTreeMap<&str, BTreeSet<String>>,
    now: i64,
) -> Result<bool, FileError> {
    let Some(certificate) = facts::read_certificate(&paths.pki(&format!("{leaf}.crt")))? else {
        return Ok(false);
    };
    let none = BTreeSet::new();
    let wanted = names.get(leaf).unwrap_or(&none);
    let pem = durable::read(&paths.pki(&format!("{leaf}.crt")))?.unwrap_or_default();
    Ok(paths.pki(&format!("{leaf}.key")).exists()
        && holds(&certificate, wanted, now)
        && issued_here(paths, &pem, authority_of(leaf))?)
}

/// The CA that issues a leaf, by kubeadm's rule.
fn authority_of(leaf: &str) -> &'static str {
    match leaf {
        "apiserver-etcd-client" => "etcd/ca.crt",
        "front-proxy-client" => "front-proxy-ca.crt",
        leaf if leaf.starts_with("etcd/") => "etcd/ca.crt",
        _ => "ca.crt",
    }
}

/// Whether the CA that lies here issued it: certificates of an earlier life of this host are of no use.
pub(super) fn issued_here(paths: &Paths, pem: &[u8], ca: &str) -> Result<bool, FileError> {
    let path = paths.pki(ca);
    let authority = durable::read(&path)?.unwrap_or_default();
    facts::issued_by((&path.with_extension("leaf"), pem), (&path, &authority))
}

fn holds(certificate: &Certificate, names: &BTreeSet<String>, now: i64) -> bool {
    certificate.not_after > now && names.is_subset(&certificate.sans)
}

async fn kubeconfigs(
    work: &Work<'_>,
    settings: &ClusterSettings,
    node: &Peer,
) -> Result<(), ActionError> {
    let paths = work.paths;
    // kubeadm leaves it on the host it began on; here that is every founder.
    let founding = facts::founding(paths)?.is_some_and(|founding| !founding.done);
    let mut wrong = Vec::new();
    for (phase, name) in KUBECONFIGS
        .into_iter()
        .chain(founding.then_some(SUPER_ADMIN))
    {
        if !(points_right(&paths.kubernetes(name), name, settings)? && of_this_ca(paths, name)?) {
            wrong.push((phase, name));
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let staging = staging(paths);
    durable::remove_folder(&staging)?;
    durable::private_folder(&staging)?;
    let extra = Extra::default();
    let kubeadm = Kubeadm::new(paths, work.tools, settings, node, &extra, TOOL_WITHIN)?;
    for (phase, name) in wrong {
        kubeadm
            .phase_with(&["kubeconfig", phase], &[("--kubeconfig-dir", &staging)])
            .await?;
        durable::rename(&staging.join(name), &paths.kubernetes(name))?;
        work.progress.say(format!("wrote {name}"));
    }
    Ok(durable::remove_folder(&staging)?)
}

fn of_this_ca(paths: &Paths, name: &str) -> Result<bool, FileError> {
    match facts::kubeconfig_certificate(paths, name)? {
        Some(pem) => issued_here(paths, &pem, "ca.crt"),
        None => Ok(false),
    }
}

/// The kubelet's own is not held to a server: it leads to this host or to the endpoint, as the cluster was made.
fn points_right(path: &Path, name: &str, settings: &ClusterSettings) -> Result<bool, FileError> {
    let Some(text) = durable::read_text(path)? else {
        return Ok(false);
    };
    let server = facts::server_of(&text);
    Ok(match name {
        "admin.conf" | "super-admin.conf" => {
            server.as_deref() == Some(format!("https://{}", settings.endpoint).as_str())
        }
        _ => server.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{kubeadm::tests::settings, testing};

    #[test]
    fn a_certificate_holds_while_it_is_valid_for_every_name() {
        let certificate = Certificate {
            not_after: 100,
            sans: ["a".to_owned(), "b".to_owned()].into(),
        };
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        assert!(holds(&certificate, &names(&["a"]), 99));
        assert!(!holds(&certificate, &names(&["a"]), 100));
        assert!(!holds(&certificate, &names(&["a", "c"]), 99));
    }

    #[test]
    fn kubeconfigs_are_kept_where_they_point_right() {
        let machine = testing::machine();
        let path = machine.paths.kubernetes("admin.conf");
        let text =
            |server: &str| format!("clusters:\n- name: c\n  cluster:\n    server: {server}\n");
        assert!(!points_right(&path, "admin.conf", &settings()).unwrap());
        machine.write(
            "/etc/kubernetes/admin.conf",
            text("https://api.demo.internal:6443"),
        );
        assert!(points_right(&path, "admin.conf", &settings()).unwrap());
        machine.write("/etc/kubernetes/admin.conf", text("https://10.0.0.1:6443"));
        assert!(!points_right(&path, "admin.conf", &settings()).unwrap());
        assert!(points_right(&path, "kubelet.conf", &settings()).unwrap());
    }
}
