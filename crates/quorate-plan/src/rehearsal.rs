//! A joiner's manifests, as kubeadm would write them, against those of the running masters. Start at [`compare`].
//!
//! A joiner without the masters' encryption or OIDC flags serves wrong answers the moment it starts, so it is compared before anything is
//! added for it. What may differ from host to host is in one table, [`PER_HOST`]; everything else is a difference.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use crate::{
    NodeName, Observation,
    observation::{HostFacts, Manifest},
    seen::Missing,
};

/// Static pods that kubeadm writes. Others are somebody else's.
pub const FILES: [&str; 4] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
];

/// How a flag may differ from host to host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PerHost {
    /// It contains the host's own name or address; with those taken out it is the same everywhere.
    Own,
    /// It says how a member once started, which etcd ignores ever after.
    Start,
}

/// Flags that differ from host to host by rule: file, flag, and how. All others are the same on every master.
pub const PER_HOST: [(&str, &str, PerHost); 8] = [
    ("kube-apiserver", "advertise-address", PerHost::Own),
    ("etcd", "name", PerHost::Own),
    ("etcd", "advertise-client-urls", PerHost::Own),
    ("etcd", "initial-advertise-peer-urls", PerHost::Start),
    ("etcd", "listen-client-urls", PerHost::Own),
    ("etcd", "listen-peer-urls", PerHost::Own),
    ("etcd", "initial-cluster", PerHost::Start),
    ("etcd", "initial-cluster-state", PerHost::Start),
];

/// Folders that kubeadm mounts where the host has them: they hold the distribution's own certificates.
pub const SYSTEM_MOUNTS: [&str; 5] = [
    "/etc/ca-certificates",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/certs",
    "/usr/local/share/ca-certificates",
    "/usr/share/ca-certificates",
];

/// One thing in which a joiner would differ from every master.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestDifference {
    /// The manifest, without `.yaml`.
    pub file: String,
    /// What of it: `--audit-log-path`, `image`, `mount /etc/kubernetes/enc`.
    pub what: String,
    /// What the joiner would run with.
    pub joiner: String,
    /// What the masters run with: more than one where they differ among themselves.
    pub masters: BTreeSet<String>,
}

impl fmt::Display for ManifestDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let masters: Vec<&str> = self.masters.iter().map(String::as_str).collect();
        write!(
            f,
            "{}.yaml: {}: {} on the joiner, {} on the masters",
            self.file,
            self.what,
            self.joiner,
            masters.join(" or ")
        )
    }
}

/// All differences between what `joiner` would run with and what the masters that serve run with. Where masters differ among themselves
/// the joiner has to be like one of them.
///
/// # Errors
/// [`Missing`] when there was no rehearsal, it was not seen, or no master's manifests were.
pub fn compare(
    seen: &Observation,
    joiner: &NodeName,
) -> Result<BTreeSet<ManifestDifference>, Missing> {
    let facts = seen.host(joiner)?;
    let Some(rehearsal) = facts.rehearsed.get()? else {
        return Err(Missing::not_looked(format!(
            "what {joiner} would run with, which is rehearsed first,"
        )));
    };
    let mut masters = Vec::new();
    for (node, view) in &seen.etcd {
        let takes_part = matches!(view.get(), Ok(Some(view)) if view.linearizable);
        if node != joiner
            && takes_part
            && let Ok(host) = seen.host(node)
        {
            masters.push(Settings::of(node, host, host.manifests.get()?)?);
        }
    }
    if masters.is_empty() {
        return Err(Missing::not_looked("the manifests of a running master"));
    }
    let own = Settings::of(joiner, facts, &rehearsal.manifests)?;
    let mut keys: BTreeSet<&Key> = own.0.keys().collect();
    keys.extend(masters.iter().flat_map(|master| master.0.keys()));
    let mut found = BTreeSet::new();
    for key in keys {
        let values: BTreeSet<String> = masters.iter().map(|master| master.value(key)).collect();
        let value = own.value(key);
        if !values.contains(&value) {
            found.insert(ManifestDifference {
                file: key.0.clone(),
                what: key.1.clone(),
                joiner: value,
                masters: values,
            });
        }
    }
    Ok(found)
}

/// File and what of it.
type Key = (String, String);

/// What one host runs with, with its own name and address taken out where they may be.
struct Settings(BTreeMap<Key, String>);

impl Settings {
    fn of(
        node: &NodeName,
        facts: &HostFacts,
        manifests: &BTreeMap<String, Manifest>,
    ) -> Result<Self, Missing> {
        let addresses = &facts.machine.get()?.addresses;
        let mut settings: BTreeMap<Key, Vec<String>> = BTreeMap::new();
        for file in FILES {
            let Some(manifest) = manifests.get(file) else {
                continue;
            };
            let mut note = |what: String, value: String| {
                settings
                    .entry((file.to_owned(), what))
                    .or_default()
                    .push(value);
            };
            note("image".into(), manifest.image.clone());
            for flag in &manifest.flags {
                let (name, value) = flag.split_once('=').unwrap_or((flag, "set"));
                let name = name.trim_start_matches("--");
                match per_host(file, name) {
                    None => note(format!("--{name}"), value.to_owned()),
                    Some(PerHost::Own) => {
                        let mut value = value.replace(node.as_str(), "(its name)");
                        for address in addresses {
                            value = value.replace(&address.to_string(), "(its address)");
                        }
                        note(format!("--{name}"), value);
                    }
                    Some(PerHost::Start) => {}
                }
            }
            for mount in &manifest.mounts {
                if !SYSTEM_MOUNTS.contains(&mount.as_str()) {
                    note(format!("mount {mount}"), "there".into());
                }
            }
            for (path, sum) in &manifest.files {
                note(format!("file {path}"), sum.clone());
            }
        }
        Ok(Self(
            settings
                .into_iter()
                .map(|(key, values)| (key, values.join(" and ")))
                .collect(),
        ))
    }

    fn value(&self, key: &Key) -> String {
        self.0.get(key).cloned().unwrap_or_else(|| "nothing".into())
    }
}

fn per_host(file: &str, flag: &str) -> Option<PerHost> {
    PER_HOST
        .iter()
        .find(|(in_file, name, _)| (*in_file, *name) == (file, flag))
        .map(|(.., how)| *how)
}
