//! Components from packages: what differs on a host, and what a step says of it.

mod seeing;

use std::collections::BTreeMap;

use quorate_plan::{
    HostEnsure, Observation, Seen,
    kubeadm::RuntimeSettings,
    observation::{Cgroup, Components, MachineKind, Package, Unit},
    spec::Packages,
    standing::differences,
};
use seeing::{blank, node};

const VERSION: &str = "1.35.4-1.1";

fn packages() -> Packages {
    Packages {
        repository: "https://packages.example.org/deb/".into(),
        key_file: "kubernetes.asc".into(),
        key: "the key".into(),
        version: VERSION.into(),
    }
}

fn runtime() -> RuntimeSettings {
    RuntimeSettings {
        pause_image: "quorate.local/pause:3.10.1".into(),
        kind: MachineKind {
            cgroup: Cgroup::V2,
            oom_score_adjustable: true,
            swap: false,
            shared_disk: false,
        },
    }
}

fn wanted(packages: Option<Packages>) -> HostEnsure {
    HostEnsure::Components {
        bundle: "b".into(),
        runtime: runtime(),
        packages,
    }
}

/// What dpkg says of kubelet on a host whose other packages are right.
fn with_kubelet(kubelet: Option<(&str, bool)>) -> Components {
    let package = |version: &str, held| Package {
        version: version.to_owned(),
        held,
    };
    let mut there: BTreeMap<String, Package> = ["kubeadm", "kubectl"]
        .map(|name| (name.to_owned(), package(VERSION, true)))
        .into();
    there.extend(kubelet.map(|(version, held)| ("kubelet".to_owned(), package(version, held))));
    Components {
        bundle: "b".into(),
        differing: [].into(),
        configuration: runtime().digest(Some(&packages())),
        packages: Some(there),
    }
}

fn differing(wanted: &HostEnsure, components: Option<Components>) -> Vec<String> {
    let mut facts = blank("a");
    facts.components = Seen::now(components);
    let containerd = Unit {
        active: true,
        enabled: true,
        state: "active/running".into(),
    };
    facts.units = Seen::now([("containerd".to_owned(), containerd)].into());
    let mut seen = Observation::default();
    seen.hosts.insert(node("a"), Seen::now(facts));
    differences(wanted, &node("a"), &seen)
        .expect("everything was looked at")
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn what_differs_is_said_in_dpkgs_words() {
    let from_packages = wanted(Some(packages()));
    let nothing: Vec<String> = Vec::new();
    assert_eq!(
        differing(&from_packages, Some(with_kubelet(Some((VERSION, true))))),
        nothing
    );
    for (components, expected) in [
        (
            None,
            "components: expected packages at 1.35.4-1.1, seen none",
        ),
        (
            Some(with_kubelet(None)),
            "package kubelet: expected 1.35.4-1.1, seen not installed",
        ),
        (
            Some(with_kubelet(Some((VERSION, false)))),
            "package kubelet: expected held, seen not held",
        ),
        (
            Some(with_kubelet(Some(("1.35.5-1.1", true)))),
            "package kubelet: expected 1.35.4-1.1, seen 1.35.5-1.1",
        ),
    ] {
        assert_eq!(differing(&from_packages, components), [expected]);
    }
}

#[test]
fn another_source_or_another_repository_differs() {
    let there = || Some(with_kubelet(Some((VERSION, true))));
    let of_a_bundle = differing(&wanted(None), there()).join("\n");
    assert!(
        of_a_bundle.contains("components' source: expected the bundle, seen packages"),
        "{of_a_bundle}"
    );
    let elsewhere = Packages {
        repository: "https://mirror.example.org/deb/".into(),
        ..packages()
    };
    let moved = differing(&wanted(Some(elsewhere)), there());
    assert!(
        moved.len() == 1 && moved[0].starts_with("runtime configuration"),
        "{moved:?}"
    );
}

/// A step of a bundle is written as before there were packages, and what was written then is read.
#[test]
fn a_step_of_a_bundle_says_nothing_of_packages() {
    let json = serde_json::to_string(&wanted(None)).expect("plain data");
    assert!(!json.contains("packages"), "{json}");
    let read: HostEnsure = serde_json::from_str(&json).expect("what was written");
    assert_eq!(read, wanted(None));
    assert_eq!(
        wanted(Some(packages())).to_string(),
        "containerd runs; packages of kubelet, kubeadm and kubectl are installed and held at 1.35.4-1.1"
    );
}
