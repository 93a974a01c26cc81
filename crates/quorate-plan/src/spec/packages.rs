//! Kubernetes' programs from a repository of Debian packages. Start at [`Packages`].

use serde::{Deserialize, Serialize};

use super::{
    findings::Findings,
    hosts,
    raw::{At, Components, Source},
};
use crate::diagnostic::Code;

/// Longest address of a repository, in bytes.
const REPOSITORY_BYTES_MAX: usize = 500;

/// kubelet, kubeadm and kubectl of one exact version, from a signed repository of packages.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Packages {
    /// The repository's directory, which has `InRelease` and `Packages`: `https://HOST/core:/stable:/v1.35/deb/`.
    pub repository: String,
    /// The file of the key that signs it, as the cluster file names it.
    pub key_file: String,
    /// Its text: a public key of OpenPGP in ASCII armour. Empty until the command line has read it.
    pub key: String,
    /// The packages' version, with their revision: `1.35.4-1.1`.
    pub version: String,
}

impl Packages {
    /// What is installed in that version, and held at it.
    pub const NAMES: [&'static str; 3] = ["kubeadm", "kubectl", "kubelet"];
}

/// What the file says of packages. The outer `None`: something of it is wrong, and was reported.
pub(super) fn packages(
    findings: &mut Findings<'_>,
    components: Option<&Components>,
    kubernetes: Option<&str>,
) -> Option<Option<Packages>> {
    let Some(components) = components else {
        return Some(None);
    };
    let keys = [
        ("repository", &components.repository),
        ("key", &components.key),
        ("version", &components.version),
    ];
    match components.source.as_ref().map(|at| at.value) {
        Some(Source::Packages) => {}
        // It is some word that was reported: what belongs to it nobody knows.
        None if components.written.contains("source") => return None,
        Some(Source::Bundle) | None => {
            for (key, written) in keys {
                if let Some(written) = written {
                    let why = "only `source: packages` installs from a repository";
                    hosts::no_meaning(findings, written.span.clone(), key, why);
                }
            }
            return Some(None);
        }
    }
    for (key, written) in keys {
        if written.is_none() && !components.written.contains(key) {
            let found = findings.report(
                Code::MissingKey,
                components.span.clone(),
                format!("components has no `{key}`"),
            );
            found.label = format!("`{key}` belongs here");
        }
    }
    let repository = components.repository.as_ref();
    let repository = repository.and_then(|written| repository_of(findings, written));
    let version = components.version.as_ref();
    let version = version.and_then(|written| version_of(findings, written, kubernetes));
    Some(Some(Packages {
        repository: repository?,
        key_file: components.key.as_ref()?.value.clone(),
        key: String::new(),
        version: version?,
    }))
}

/// An address that can stand in a list of apt's without changing what else stands there.
fn repository_of(findings: &mut Findings<'_>, written: &At<String>) -> Option<String> {
    let address = &written.value;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/+%".contains(&byte);
    let rest = ["https://", "http://"]
        .into_iter()
        .find_map(|scheme| address.strip_prefix(scheme));
    let fits = rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['/', ':']))
        && address.len() <= REPOSITORY_BYTES_MAX
        && address.bytes().all(plain);
    if fits {
        return Some(address.clone());
    }
    let short: String = address.chars().take(60).collect();
    let found = findings.report(
        Code::BadRepository,
        written.span.clone(),
        format!("`{short}` is not the address of a package repository"),
    );
    found.label = "expected https:// or http://, without user, question mark or space".into();
    None
}

/// The version of packages, which must be of the cluster's Kubernetes.
fn version_of(
    findings: &mut Findings<'_>,
    written: &At<String>,
    kubernetes: Option<&str>,
) -> Option<String> {
    let version = &written.value;
    // What is wrong with the version of Kubernetes was reported.
    let kubernetes = kubernetes?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".+~".contains(&byte);
    let revision = version
        .strip_prefix(kubernetes)
        .and_then(|rest| rest.strip_prefix('-'));
    if revision.is_some_and(|revision| !revision.is_empty() && revision.bytes().all(plain)) {
        return Some(version.clone());
    }
    let short: String = version.chars().take(60).collect();
    let found = findings.report(
        Code::PackageVersion,
        written.span.clone(),
        format!("`{short}` is not a version of packages of Kubernetes {kubernetes}"),
    );
    found.label = format!("expected {kubernetes} and a revision, as in {kubernetes}-1.1");
    found
        .help
        .push("`apt-cache madison kubeadm` shows which versions a repository has".into());
    None
}
