//! What a bundle is made of: each component's Go packages and the files and images they become.
//! Start at [`components`]; versions are not here but in the `go.mod` of each component's folder.

use crate::manifest::{BundlePath, ImageRole, Role};
use crate::version::{KubeadmTags, KubernetesVersion};

/// One folder of sources, built by one `go build`.
#[derive(Debug, Clone)]
pub(crate) struct Component {
    /// Its folder under the sources; `NAME-1.35` is preferred where it exists.
    pub(crate) name: &'static str,
    /// The module whose version is the component's; `None` for sources that are in the folder itself.
    pub(crate) module: Option<&'static str>,
    /// The version where there is no module to ask.
    pub(crate) version: Option<String>,
    /// Build tags, separated by spaces.
    pub(crate) tags: &'static str,
    /// Variables the linker sets.
    pub(crate) stamps: Vec<Stamp>,
    /// What is built.
    pub(crate) programs: Vec<Program>,
    /// The images made of them.
    pub(crate) images: Vec<ImageRecipe>,
    /// Text files copied from the folder, with the references of images put in.
    pub(crate) addons: Vec<Addon>,
    /// Constants of the module's source that this program's own table must agree with.
    pub(crate) constants: Option<Constants>,
}

/// A variable the linker sets to a text.
#[derive(Debug, Clone)]
pub(crate) struct Stamp {
    pub(crate) variable: String,
    pub(crate) value: StampValue,
}

/// The text of a [`Stamp`].
#[derive(Debug, Clone)]
pub(crate) enum StampValue {
    /// This text.
    Is(String),
    /// The component's version.
    Version,
}

/// A main package.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// Its import path, or a folder below the component's starting with `./`.
    pub(crate) package: &'static str,
    /// The name of the executable, as `go build` chooses it.
    pub(crate) name: &'static str,
    /// Where it goes in the bundle; `None` when it is only part of an image.
    pub(crate) place: Option<(Role, &'static str)>,
}

/// An image of one component's programs.
#[derive(Debug, Clone)]
pub(crate) struct ImageRecipe {
    pub(crate) role: ImageRole,
    pub(crate) tag: Tag,
    /// Program name and its path in the image; the first is the entry point.
    pub(crate) programs: Vec<(&'static str, &'static str)>,
    /// Whether it needs the packet filter tools beside.
    pub(crate) network: bool,
}

/// The tag of an image.
#[derive(Debug, Clone)]
pub(crate) enum Tag {
    /// The component's version as it is, `v1.35.4`.
    Version,
    /// Without the `v` and with kubeadm's revision: `3.6.16-0`.
    Etcd,
}

/// A text of Kubernetes objects.
#[derive(Debug, Clone)]
pub(crate) struct Addon {
    /// Its file name in the component's folder and under `manifests/`.
    pub(crate) file: &'static str,
    /// The image whose reference stands in for `${IMAGE}`.
    pub(crate) image: ImageRole,
}

/// String constants in one file of the module, with the value this program has for each.
#[derive(Debug, Clone)]
pub(crate) struct Constants {
    pub(crate) file: &'static str,
    pub(crate) values: Vec<(&'static str, &'static str)>,
}

impl Component {
    /// The version of an image tag.
    pub(crate) fn tag(&self, recipe: &ImageRecipe, version: &str) -> String {
        match recipe.tag {
            Tag::Version => version.to_owned(),
            Tag::Etcd => format!("{}-0", version.trim_start_matches('v')),
        }
    }

    /// Every path of the bundle this component fills.
    pub(crate) fn paths(&self) -> Vec<BundlePath> {
        let programs = self
            .programs
            .iter()
            .filter_map(|program| program.place.map(|(_, folder)| path(folder, program.name)));
        let images = self.images.iter().map(|image| image.role.path());
        let addons = self
            .addons
            .iter()
            .map(|addon| path("manifests", addon.file));
        programs.chain(images).chain(addons).collect()
    }
}

/// A path of two names this program chose.
pub(crate) fn path(folder: &str, name: &str) -> BundlePath {
    format!("{folder}/{name}")
        .parse()
        .expect("component names are plain")
}

const BIN: Option<(Role, &str)> = Some((Role::Binary, "bin"));
const CNI: Option<(Role, &str)> = Some((Role::CniPlugin, "cni"));

/// Every component of a bundle, in the order they are built: what is quick first, so that a missing tool shows early.
pub(crate) fn components(
    kubernetes: KubernetesVersion,
    tags: &'static KubeadmTags,
) -> Vec<Component> {
    vec![
        pause(tags),
        cni(),
        cni_flannel(),
        etcd(),
        containerd(),
        flannel(),
        coredns(),
        kube(kubernetes, tags),
    ]
}

fn component(name: &'static str, module: Option<&'static str>) -> Component {
    Component {
        name,
        module,
        version: None,
        tags: "",
        stamps: Vec::new(),
        programs: Vec::new(),
        images: Vec::new(),
        addons: Vec::new(),
        constants: None,
    }
}

fn version_stamp(variable: &str) -> Vec<Stamp> {
    vec![Stamp {
        variable: variable.to_owned(),
        value: StampValue::Version,
    }]
}

fn pause(tags: &KubeadmTags) -> Component {
    Component {
        version: Some(tags.pause.to_owned()),
        stamps: version_stamp("main.version"),
        programs: vec![Program {
            package: ".",
            name: "pause",
            place: None,
        }],
        images: vec![ImageRecipe {
            role: ImageRole::Pause,
            tag: Tag::Version,
            programs: vec![("pause", "pause")],
            network: false,
        }],
        ..component("pause", None)
    }
}

fn cni() -> Component {
    macro_rules! plugins {
        ($($kind:literal / $name:literal),* $(,)?) => {
            vec![$(Program {
                package: concat!("github.com/containernetworking/plugins/plugins/", $kind, "/", $name),
                name: $name,
                place: CNI,
            }),*]
        };
    }
    Component {
        stamps: version_stamp(
            "github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion",
        ),
        programs: plugins![
            "ipam" / "dhcp",
            "ipam" / "host-local",
            "ipam" / "static",
            "main" / "bridge",
            "main" / "host-device",
            "main" / "ipvlan",
            "main" / "loopback",
            "main" / "macvlan",
            "main" / "ptp",
            "main" / "vlan",
            "meta" / "bandwidth",
            "meta" / "firewall",
            "meta" / "portmap",
            "meta" / "sbr",
            "meta" / "tuning",
            "meta" / "vrf",
        ],
        ..component("cni", Some("github.com/containernetworking/plugins"))
    }
}

fn cni_flannel() -> Component {
    Component {
        stamps: version_stamp(
            "github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion",
        ),
        programs: vec![Program {
            package: "github.com/containernetworking/plugins/plugins/meta/flannel",
            name: "flannel",
            place: CNI,
        }],
        ..component(
            "cni-flannel",
            Some("github.com/containernetworking/plugins"),
        )
    }
}

fn etcd() -> Component {
    Component {
        programs: vec![
            Program {
                package: "./etcd",
                name: "etcd",
                place: BIN,
            },
            Program {
                package: "go.etcd.io/etcd/etcdctl/v3",
                name: "etcdctl",
                place: BIN,
            },
            Program {
                package: "go.etcd.io/etcd/etcdutl/v3",
                name: "etcdutl",
                place: BIN,
            },
        ],
        images: vec![ImageRecipe {
            role: ImageRole::Etcd,
            tag: Tag::Etcd,
            programs: vec![
                ("etcd", "usr/local/bin/etcd"),
                ("etcdctl", "usr/local/bin/etcdctl"),
                ("etcdutl", "usr/local/bin/etcdutl"),
            ],
            network: false,
        }],
        ..component("etcd", Some("go.etcd.io/etcd/server/v3"))
    }
}

fn containerd() -> Component {
    Component {
        // Snapshotters that need C libraries or devices a node of ours does not have.
        tags: "no_btrfs no_devmapper no_zfs",
        stamps: version_stamp("github.com/containerd/containerd/v2/version.Version"),
        programs: vec![
            Program {
                package: "github.com/containerd/containerd/v2/cmd/containerd",
                name: "containerd",
                place: BIN,
            },
            Program {
                package: "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
                name: "containerd-shim-runc-v2",
                place: BIN,
            },
            Program {
                package: "github.com/containerd/containerd/v2/cmd/ctr",
                name: "ctr",
                place: BIN,
            },
        ],
        ..component("containerd", Some("github.com/containerd/containerd/v2"))
    }
}

fn flannel() -> Component {
    Component {
        stamps: version_stamp("github.com/flannel-io/flannel/pkg/version.Version"),
        programs: vec![Program {
            package: "github.com/flannel-io/flannel",
            name: "flannel",
            place: None,
        }],
        images: vec![ImageRecipe {
            role: ImageRole::Flannel,
            tag: Tag::Version,
            programs: vec![("flannel", "opt/bin/flanneld")],
            network: true,
        }],
        addons: vec![Addon {
            file: FLANNEL_OBJECTS,
            image: ImageRole::Flannel,
        }],
        ..component("flannel", Some("github.com/flannel-io/flannel"))
    }
}

/// The file of Flannel's Kubernetes objects.
pub(crate) const FLANNEL_OBJECTS: &str = "kube-flannel.yml";

fn coredns() -> Component {
    Component {
        programs: vec![Program {
            package: "github.com/coredns/coredns",
            name: "coredns",
            place: None,
        }],
        images: vec![ImageRecipe {
            role: ImageRole::Coredns,
            tag: Tag::Version,
            programs: vec![("coredns", "coredns")],
            network: false,
        }],
        ..component("coredns", Some("github.com/coredns/coredns"))
    }
}

fn kube(kubernetes: KubernetesVersion, tags: &'static KubeadmTags) -> Component {
    let stamps = [
        "k8s.io/component-base/version",
        "k8s.io/client-go/pkg/version",
    ]
    .into_iter()
    .flat_map(|package| {
        [
            ("gitVersion", StampValue::Version),
            ("gitMajor", StampValue::Is(kubernetes.major.to_string())),
            ("gitMinor", StampValue::Is(kubernetes.minor.to_string())),
            // A module's archive does not say which commit it is; clients then call themselves "unknown".
            ("gitCommit", StampValue::Is(String::new())),
            ("gitTreeState", StampValue::Is("archive".into())),
            // kubeadm parses it; the real time would make every build another one.
            ("buildDate", StampValue::Is("1970-01-01T00:00:00Z".into())),
        ]
        .map(|(name, value)| Stamp {
            variable: format!("{package}.{name}"),
            value,
        })
    });
    let image = |role: ImageRole, name: &'static str, at: &'static str| ImageRecipe {
        role,
        tag: Tag::Version,
        programs: vec![(name, at)],
        network: role == ImageRole::KubeProxy,
    };
    Component {
        stamps: stamps.collect(),
        programs: vec![
            Program {
                package: "k8s.io/kubernetes/cmd/kubeadm",
                name: "kubeadm",
                place: BIN,
            },
            Program {
                package: "k8s.io/kubernetes/cmd/kubelet",
                name: "kubelet",
                place: BIN,
            },
            Program {
                package: "k8s.io/kubernetes/cmd/kubectl",
                name: "kubectl",
                place: BIN,
            },
            Program {
                package: "k8s.io/kubernetes/cmd/kube-apiserver",
                name: "kube-apiserver",
                place: None,
            },
            Program {
                package: "k8s.io/kubernetes/cmd/kube-controller-manager",
                name: "kube-controller-manager",
                place: None,
            },
            Program {
                package: "k8s.io/kubernetes/cmd/kube-scheduler",
                name: "kube-scheduler",
                place: None,
            },
            Program {
                package: "k8s.io/kubernetes/cmd/kube-proxy",
                name: "kube-proxy",
                place: None,
            },
        ],
        images: vec![
            image(
                ImageRole::KubeApiserver,
                "kube-apiserver",
                "usr/local/bin/kube-apiserver",
            ),
            image(
                ImageRole::KubeControllerManager,
                "kube-controller-manager",
                "usr/local/bin/kube-controller-manager",
            ),
            image(
                ImageRole::KubeScheduler,
                "kube-scheduler",
                "usr/local/bin/kube-scheduler",
            ),
            image(
                ImageRole::KubeProxy,
                "kube-proxy",
                "usr/local/bin/kube-proxy",
            ),
        ],
        constants: Some(Constants {
            file: "cmd/kubeadm/app/constants/constants.go",
            values: vec![
                ("PauseVersion", tags.pause),
                ("CoreDNSVersion", tags.coredns),
                ("DefaultEtcdVersion", tags.etcd),
            ],
        }),
        ..component("kubernetes", Some("k8s.io/kubernetes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_image_and_path_once() {
        let version: KubernetesVersion = "1.35.4".parse().unwrap();
        let components = components(version, version.kubeadm_tags().unwrap());
        let roles: BTreeSet<ImageRole> = components
            .iter()
            .flat_map(|c| c.images.iter().map(|image| image.role))
            .collect();
        assert_eq!(roles, BTreeSet::from(ImageRole::ALL));
        let paths: Vec<BundlePath> = components.iter().flat_map(Component::paths).collect();
        let distinct: BTreeSet<&BundlePath> = paths.iter().collect();
        assert_eq!(distinct.len(), paths.len());
        for needed in [
            "bin/kubeadm",
            "bin/kubelet",
            "bin/kubectl",
            "bin/etcdutl",
            "bin/ctr",
            "cni/flannel",
            "cni/portmap",
            "images/pause.tar",
        ] {
            assert!(
                distinct.contains(&needed.parse::<BundlePath>().unwrap()),
                "{needed}"
            );
        }
    }

    #[test]
    fn every_image_holds_programs_of_its_component() {
        let version: KubernetesVersion = "1.36.3".parse().unwrap();
        for component in components(version, version.kubeadm_tags().unwrap()) {
            for (program, _) in component.images.iter().flat_map(|image| &image.programs) {
                assert!(
                    component.programs.iter().any(|p| p.name == *program),
                    "{program}"
                );
            }
        }
    }
}
