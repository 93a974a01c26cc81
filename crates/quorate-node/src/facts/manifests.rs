//! Static pod manifests: image, flags and mounts of the first container.

use std::{collections::BTreeMap, fs, path::Path};

use quorate_plan::observation::Manifest;
use serde::Deserialize;

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
            found.insert(name.to_owned(), parse(&path, &text)?);
        }
    }
    Ok(found)
}

/// Reads a manifest's text; `path` is for the message.
pub(crate) fn parse(path: &Path, text: &str) -> Result<Manifest, FileError> {
    let pod: Pod = serde_saphyr::from_str(text)
        .map_err(|err| FileError::senseless(path, crate::shown::line(&err.to_string())))?;
    let container = pod
        .spec
        .containers
        .into_iter()
        .next()
        .ok_or_else(|| FileError::senseless(path, "it has no container"))?;
    let flags = container
        .command
        .into_iter()
        .chain(container.args)
        .filter(|word| word.starts_with("--"))
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
struct Container {
    #[serde(default)]
    image: String,
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    args: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Volume {
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
