//! Static pod manifests: image, flags and mounts of the first container.

use std::{collections::BTreeMap, fs, path::Path};

use quorate_plan::observation::Manifest;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{
    durable::{self, FileError},
    paths::Paths,
};

pub(super) fn look(paths: &Paths) -> Result<BTreeMap<String, Manifest>, FileError> {
    let folder = paths.kubernetes("manifests");
    let entries = match fs::read_dir(&folder) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        result => result.map_err(FileError::new("read", &folder))?,
    };
    let mut found = BTreeMap::new();
    for entry in entries {
        let path = entry.map_err(FileError::new("read", &folder))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        // The kubelet passes over names that begin with a dot too.
        let Some(name) = name
            .filter(|name| !name.starts_with('.'))
            .and_then(|name| name.strip_suffix(".yaml"))
        else {
            continue;
        };
        if let Some(text) = durable::read_text(&path)? {
            let mut manifest = parse(&path, &text)?;
            look_at_files(paths, &mut manifest)?;
            found.insert(name.to_owned(), manifest);
        }
    }
    Ok(found)
}

/// Looks what the files are that a manifest names, on this host and now.
pub(super) fn look_at_files(paths: &Paths, manifest: &mut Manifest) -> Result<(), FileError> {
    for (path, sum) in &mut manifest.files {
        let place = paths.at(path.as_str());
        *sum = if place.is_dir() {
            "a folder".into()
        } else {
            match durable::read(&place)? {
                Some(bytes) => super::hex(&Sha256::digest(&*Zeroizing::new(bytes))),
                None => "missing".into(),
            }
        };
    }
    Ok(())
}

/// Where kubeadm itself puts what differs from host to host: certificates, and the kubeconfigs of the components.
const ISSUED: [&str; 3] = [
    "/etc/kubernetes/pki/",
    "/etc/kubernetes/controller-manager.conf",
    "/etc/kubernetes/scheduler.conf",
];

/// The file of the host that a flag names, through the mounts. `None`: it names none, one that is issued, or one that is written.
fn named_file(flag: &str, mounts: &[(String, String)]) -> Option<String> {
    let (name, value) = flag.split_once('=')?;
    let written = ["log", "dir"].iter().any(|word| name.contains(word));
    if written || !value.starts_with('/') {
        return None;
    }
    let below = |mount: &str| {
        let rest = value.strip_prefix(mount)?;
        (rest.is_empty() || rest.starts_with('/')).then_some(rest)
    };
    let found = mounts.iter().filter_map(|(inside, outside)| {
        Some((inside.len(), format!("{outside}{}", below(inside)?)))
    });
    let (_, path) = found.max()?;
    (!ISSUED.iter().any(|issued| path.starts_with(issued))).then_some(path)
}

/// Reads a manifest's text; `path` is for the message. What its files are nobody has looked at then.
pub(crate) fn parse(path: &Path, text: &str) -> Result<Manifest, FileError> {
    let pod: Pod = serde_saphyr::from_str(text)
        .map_err(|err| FileError::senseless(path, crate::shown::line(&err.to_string())))?;
    let container = pod
        .spec
        .containers
        .into_iter()
        .next()
        .ok_or_else(|| FileError::senseless(path, "it has no container"))?;
    let flags: Vec<String> = container
        .command
        .into_iter()
        .chain(container.args)
        .filter(|word| word.starts_with("--"))
        .collect();
    let outside = |mount: &Mount| {
        let volume = pod.spec.volumes.iter().find(|one| one.name == mount.name)?;
        let host_path = volume.host_path.as_ref()?;
        let trimmed = |path: &str| path.trim_end_matches('/').to_owned();
        Some((trimmed(&mount.mount_path), trimmed(&host_path.path)))
    };
    let through: Vec<_> = container.volume_mounts.iter().filter_map(outside).collect();
    let files = flags
        .iter()
        .filter_map(|flag| Some((named_file(flag, &through)?, String::new())))
        .collect();
    let mounts = pod
        .spec
        .volumes
        .into_iter()
        .filter_map(|volume| Some(volume.host_path?.path))
        .collect();
    Ok(Manifest {
        image: container.image,
        flags,
        mounts,
        files,
    })
}

/// The value of a flag of a manifest among others.
pub(crate) fn flag_of<'a>(
    manifests: &'a BTreeMap<String, Manifest>,
    name: &str,
    flag: &str,
) -> Option<&'a str> {
    manifests.get(name)?.flag(flag)
}

#[derive(Deserialize)]
struct Pod {
    spec: Spec,
}

#[derive(Deserialize)]
struct Spec {
    #[serde(default)]
    containers: Vec<Container>,
    #[serde(default)]
    volumes: Vec<Volume>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    #[serde(default)]
    image: String,
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    volume_mounts: Vec<Mount>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mount {
    name: String,
    mount_path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Volume {
    #[serde(default)]
    name: String,
    host_path: Option<HostPath>,
}

#[derive(Deserialize)]
struct HostPath {
    path: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    const ETCD: &str = "apiVersion: v1
kind: Pod
metadata:
  name: etcd
spec:
  containers:
  - command:
    - etcd
    - --name=cp-1
    - --data-dir=/data
    image: quorate.local/etcd:3.6.6-0
    volumeMounts:
    - mountPath: /data
      name: d
  hostNetwork: true
  volumes:
  - hostPath:
      path: /data
      type: DirectoryOrCreate
    name: d
  - emptyDir: {}
    name: e
status: {}
";

    #[test]
    fn files_that_somebody_wrote_for_it() {
        let machine = testing::machine();
        let text = "spec:
  containers:
  - command:
    - kube-apiserver
    - --audit-policy-file=/audit/policy.yaml
    - --audit-log-path=/audit/log
    - --encryption-provider-config=/etc/kubernetes/encryption.yaml
    - --tls-cert-file=/etc/kubernetes/pki/apiserver.crt
    - --kubelet-preferred-address-types=InternalIP
    - --oidc-ca-file=/nowhere/ca.crt
    volumeMounts:
    - { name: a, mountPath: /audit }
    - { name: e, mountPath: /etc/kubernetes/encryption.yaml }
    - { name: p, mountPath: /etc/kubernetes/pki }
  volumes:
  - { name: a, hostPath: { path: /srv/audit/ } }
  - { name: e, hostPath: { path: /etc/kubernetes/encryption.yaml } }
  - { name: p, hostPath: { path: /etc/kubernetes/pki } }
";
        machine.write("/etc/kubernetes/manifests/kube-apiserver.yaml", text);
        machine.write("/srv/audit/policy.yaml", "kind: Policy");
        let seen = || {
            look(&machine.paths).unwrap()["kube-apiserver"]
                .files
                .clone()
        };
        let files = seen();
        let paths: Vec<&str> = files.keys().map(String::as_str).collect();
        assert_eq!(
            paths,
            ["/etc/kubernetes/encryption.yaml", "/srv/audit/policy.yaml"]
        );
        assert_eq!(files["/etc/kubernetes/encryption.yaml"], "missing");
        assert_eq!(files["/srv/audit/policy.yaml"].len(), 64);
        machine.write("/srv/audit/policy.yaml", "kind: Other");
        assert_ne!(seen(), files, "another file");
    }

    #[test]
    fn flags_and_mounts() {
        let machine = testing::machine();
        assert!(look(&machine.paths).unwrap().is_empty());
        machine.write("/etc/kubernetes/manifests/etcd.yaml", ETCD);
        machine.write("/etc/kubernetes/manifests/.x.yaml", "not YAML: [");
        machine.write("/etc/kubernetes/manifests/README", "");
        let seen = look(&machine.paths).unwrap();
        let etcd = &seen["etcd"];
        assert_eq!(seen.len(), 1);
        assert_eq!(etcd.image, "quorate.local/etcd:3.6.6-0");
        assert_eq!(etcd.flag("name"), Some("cp-1"));
        assert_eq!(flag_of(&seen, "etcd", "data-dir"), Some("/data"));
        assert_eq!(etcd.mounts, ["/data".to_owned()].into());
        machine.write("/etc/kubernetes/manifests/x.yaml", "not YAML: [");
        assert!(look(&machine.paths).is_err());
    }
}
