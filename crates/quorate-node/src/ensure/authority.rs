//! The CA set is complete here: made by kubeadm, or another host's, handed over sealed.
//!
//! The set is staged whole in a folder of its own, then moved file by file: a set that a crash cut in two is completed from there, never
//! mixed with a second one.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use quorate_plan::{
    NodeName,
    kubeadm::{ClusterSettings, Peer},
    observation::{Cgroup, Founding, MachineKind},
    refusal::Refusal,
};

use super::{TOOL_WITHIN, Work};
use crate::{
    durable::{self, FileError},
    error::ActionError,
    facts,
    kubeadm::{Extra, Kubeadm},
    paths::Paths,
    seal::{CA_FILES, CaSet},
};

/// Where the set is staged: on the file system it will lie on.
fn staging(paths: &Paths) -> PathBuf {
    paths.kubernetes(".quorate-authority")
}

/// A file in the staging folder: the set there is whole.
const WHOLE: &str = "whole";

pub(super) async fn ensure(
    work: &Work<'_>,
    founding: Option<&Founding>,
    of: Option<&NodeName>,
) -> Result<(), ActionError> {
    let paths = work.paths;
    // First of all: whoever looks at this host from now on sees what it is part of.
    if let Some(founding) = founding {
        note(work, founding)?;
    }
    if !staging(paths).join(WHOLE).exists() {
        match of {
            None if facts::authority_digest(paths)?.is_some() => return Ok(()),
            None => make(work).await?,
            Some(giver) => take_over(work, giver)?,
        }
    }
    install(paths)
}

fn note(work: &Work<'_>, founding: &Founding) -> Result<(), ActionError> {
    match facts::founding(work.paths)? {
        Some(there) if there.nodes == founding.nodes => Ok(()),
        Some(there) => Err(Refusal::NotBlank {
            node: work.node.clone(),
            found: format!("a founding of {:?}", there.nodes),
        }
        .into()),
        None => Ok(durable::write_json(
            &work.paths.state("founding.json"),
            founding,
        )?),
    }
}

async fn make(work: &Work<'_>) -> Result<(), ActionError> {
    let paths = work.paths;
    if let Some(there) = CA_FILES.iter().find(|name| paths.pki(name).exists()) {
        return Err(ActionError::unexpected(
            "no certificate authority on this host",
            format!("part of one: `{}`", paths.pki(there).display()),
            "move that folder aside if it belongs to no cluster any more",
        ));
    }
    let staging = staging(paths);
    durable::remove_folder(&staging)?;
    durable::private_folder(&staging)?;
    let (settings, node) = settings(work)?;
    let extra = Extra {
        certificates: Some(&staging),
        ..Extra::default()
    };
    let kubeadm = Kubeadm::new(paths, work.tools, &settings, &node, &extra, TOOL_WITHIN)?;
    for authority in ["ca", "front-proxy-ca", "etcd-ca", "sa"] {
        kubeadm.phase(&["certs", authority]).await?;
    }
    Ok(durable::write(&staging.join(WHOLE), b"", 0o600)?)
}

/// What kubeadm has to know to make a CA set, from the operation in force: little more than the version.
fn settings(work: &Work<'_>) -> Result<(ClusterSettings, Peer), ActionError> {
    let (intent, spec) = (&work.claim.intent, &work.claim.intent.spec);
    let node = spec.peer(work.node).ok_or_else(|| {
        ActionError::unexpected(
            format!("a machine `{}` in the cluster file", work.node),
            "no such machine",
            "look whether this host belongs to this cluster",
        )
    })?;
    let settings = ClusterSettings {
        cluster: spec.name.clone(),
        kubernetes: spec.kubernetes.clone(),
        endpoint: spec.endpoint.clone(),
        sans: [].into(),
        pods: spec.network.pods.clone(),
        services: spec.network.services.clone(),
        images: intent.bundle.images.clone(),
        // Nothing of it reaches a CA.
        kind: MachineKind {
            cgroup: Cgroup::V2,
            oom_score_adjustable: true,
            swap: false,
            shared_disk: false,
        },
        adopted: None,
    };
    Ok((settings, node))
}

/// Stages another host's set. What already lies here has to be part of it.
fn take_over(work: &Work<'_>, giver: &NodeName) -> Result<(), ActionError> {
    let set: CaSet = work.open()?;
    stage(work.paths, work.node, giver, &set)
}

fn stage(paths: &Paths, node: &NodeName, giver: &NodeName, set: &CaSet) -> Result<(), ActionError> {
    for (name, bytes) in &set.files {
        if let Some(there) = durable::read(&paths.pki(name))?
            && there != bytes.as_slice()
        {
            return Err(Refusal::ForeignAuthority {
                node: node.clone(),
                other: giver.clone(),
            }
            .into());
        }
    }
    let staging = staging(paths);
    durable::remove_folder(&staging)?;
    durable::private_folder(&staging)?;
    for (name, bytes) in &set.files {
        durable::write(&staging.join(name), bytes, mode(name))?;
    }
    Ok(durable::write(&staging.join(WHOLE), b"", 0o600)?)
}

/// As kubeadm writes them.
fn mode(name: &str) -> u32 {
    if name.ends_with(".crt") { 0o644 } else { 0o600 }
}

/// Moves the staged set to its place, keys first: a certificate without its key would look like an external CA to kubeadm.
fn install(paths: &Paths) -> Result<(), ActionError> {
    let staging = staging(paths);
    for folder in [paths.pki(""), paths.pki("etcd")] {
        fs::create_dir_all(&folder)
            .and_then(|()| fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)))
            .map_err(FileError::new("make the folder", &folder))?;
    }
    for name in CA_FILES {
        let from = staging.join(name);
        if from.exists() {
            durable::rename(&from, &paths.pki(name))?;
        } else if !paths.pki(name).exists() {
            return Err(ActionError::unexpected(
                format!("`{name}` in the staged CA set"),
                "it is neither staged nor in place",
                format!(
                    "remove `{}` and run `quorate apply` again",
                    staging.display()
                ),
            ));
        }
    }
    Ok(durable::remove_folder(&staging)?)
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::testing;

    fn set(seed: &str) -> CaSet {
        let file = |name: &'static str| {
            let bytes = format!("{seed} {name}").into_bytes();
            (name, Zeroizing::new(bytes))
        };
        CaSet {
            files: CA_FILES.into_iter().map(file).collect(),
        }
    }

    fn names() -> (NodeName, NodeName) {
        ("cp-2".parse().unwrap(), "cp-1".parse().unwrap())
    }

    #[test]
    fn a_set_is_installed_whole_from_every_crash_point() {
        for moved in 0..=CA_FILES.len() {
            let machine = testing::machine();
            let (node, giver) = names();
            stage(&machine.paths, &node, &giver, &set("a")).unwrap();
            for name in &CA_FILES[..moved] {
                let to = machine.paths.pki(name);
                fs::create_dir_all(to.parent().unwrap()).unwrap();
                durable::rename(&staging(&machine.paths).join(name), &to).unwrap();
            }
            install(&machine.paths).unwrap();
            for name in CA_FILES {
                let path = machine.paths.pki(name);
                assert_eq!(fs::read_to_string(&path).unwrap(), format!("a {name}"));
                let seen = fs::metadata(&path).unwrap().permissions().mode();
                assert_eq!(seen & 0o777, mode(name), "{name}");
            }
            assert!(!staging(&machine.paths).exists());
            // The same set again is fine, another one is not.
            stage(&machine.paths, &node, &giver, &set("a")).unwrap();
            let err = stage(&machine.paths, &node, &giver, &set("b")).unwrap_err();
            assert!(matches!(err, ActionError::Refused(_)), "{err}");
        }
    }

    #[test]
    fn keys_come_before_their_certificates() {
        for (key, certificate) in [("ca.key", "ca.crt"), ("etcd/ca.key", "etcd/ca.crt")] {
            let at = |name| CA_FILES.iter().position(|file| *file == name);
            assert!(at(key) < at(certificate));
        }
    }

    #[test]
    fn half_a_staging_is_not_installed() {
        let machine = testing::machine();
        let (node, giver) = names();
        stage(&machine.paths, &node, &giver, &set("a")).unwrap();
        fs::remove_file(staging(&machine.paths).join("sa.key")).unwrap();
        let err = install(&machine.paths).unwrap_err();
        assert!(err.to_string().contains("sa.key"), "{err}");
    }
}
