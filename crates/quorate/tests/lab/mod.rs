//! A cluster in memory and the operator's machine. Start at [`Lab::new`].

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use quorate::{cluster::ClusterFile, failure::Failure, reach::Reach, state::Directories};
use quorate_exec::World as Seams;
use quorate_plan::{
    Intent, NodeName,
    observation::Power,
    spec::{self, Machine},
};
use quorate_testkit::{
    World,
    fixture::operator,
    memory::{MemoryHosts, MemoryInfra, OperatorHandle, Script, Shared},
};
use serde_json::json;

const FILE: &str = "\
apiVersion: quorate/v1
name: demo
controlPlane: { count: 3 }
workers: { count: 1 }
endpoint: { balancer: { count: 2 } }
provider: { kind: local }
components: { source: bundle, path: bundle }
";

/// The least there is, on hosts that somebody made.
const SMALL: &str = "\
apiVersion: quorate/v1
name: small
controlPlane: { hosts: [{ name: cp-1, address: 10.0.0.11 }] }
endpoint: { host: api.example.org, balancer: { kind: external } }
network: { cni: none }
provider: { kind: ssh }
components: { source: bundle, path: bundle }
";

/// Hosts that somebody made, a balancer of ours among them.
const GIVEN: &str = "\
apiVersion: quorate/v1
name: given
kubernetes: 1.35.4
controlPlane:
  hosts: [{ name: cp-1, address: 10.0.0.11 }, { name: cp-2, address: 10.0.0.12 }, { name: cp-3, address: 10.0.0.13 }]
workers: { hosts: [{ name: w-1, address: 10.0.0.101 }] }
endpoint: { host: api.example.org, balancer: { hosts: [{ name: lb-1, address: 10.0.0.201 }, { name: lb-2, address: 10.0.0.202 }] } }
provider: { kind: ssh }
components: { source: bundle, path: bundle }
";

/// A worker behind a balancer that somebody else runs.
const EXTERNAL: &str = "\
apiVersion: quorate/v1
name: external
controlPlane: { hosts: [{ name: cp-1, address: 10.0.0.11 }] }
workers: { hosts: [{ name: w-1, address: 10.0.0.101 }] }
endpoint: { host: api.example.org, balancer: { kind: external } }
provider: { kind: ssh }
components: { source: bundle, path: bundle }
";

/// Cluster files by name.
const FILES: [(&str, &str); 4] = [
    ("demo.yaml", FILE),
    ("small.yaml", SMALL),
    ("given.yaml", GIVEN),
    ("external.yaml", EXTERNAL),
];

/// A cluster in memory and the operator's machine.
pub struct Lab {
    /// Where its files lie.
    #[allow(dead_code, reason = "stories look at it")]
    pub directory: PathBuf,
    /// The file that the world was made for.
    #[allow(dead_code, reason = "stories look at it")]
    pub file: &'static str,
    /// The world.
    pub shared: Shared,
    /// Effects there had been when the last command began.
    #[allow(dead_code, reason = "stories look at it")]
    pub effects_before: Cell<u64>,
    runs: Cell<u32>,
    /// The process of the last command. It has ended when the next one looks around.
    last: RefCell<Option<OperatorHandle>>,
    /// Masters that there are machines for.
    masters: BTreeMap<NodeName, Machine>,
}

impl Lab {
    /// Every cluster file and a bundle in `directory`, and the world before anything was done for `file`.
    pub fn new(directory: &Path, file: &'static str) -> Self {
        for (name, text) in FILES {
            fs::write(directory.join(name), text).unwrap();
        }
        write_bundle(&directory.join("bundle"));
        Self::of_files(directory, file)
    }

    /// As [`Lab::new`], with the files that lie there.
    pub fn of_files(directory: &Path, file: &'static str) -> Self {
        let (_, text) = FILES.iter().find(|(name, _)| *name == file).unwrap();
        // Machines for masters that may be named later, not made yet.
        let (spec, _) = spec::parse(&text.replace("count: 3", "count: 5"), "cluster.yaml").unwrap();
        Self {
            directory: directory.to_owned(),
            file,
            shared: Shared::new(World::new(&spec)),
            effects_before: Cell::new(0),
            runs: Cell::new(0),
            last: RefCell::new(None),
            masters: if spec.local() {
                spec.control_plane
            } else {
                BTreeMap::new()
            },
        }
    }
}

impl Reach for &Lab {
    type Hosts = MemoryHosts;
    type Infra = MemoryInfra;

    fn directories(&self) -> Result<Directories, Failure> {
        Ok(Directories::below(&self.directory))
    }

    fn terraform(&self) -> Result<PathBuf, Failure> {
        Ok(self.directory.join("terraform"))
    }

    async fn inventory(
        &self,
        cluster: &ClusterFile,
    ) -> Result<BTreeMap<NodeName, Machine>, Failure> {
        let powers = self.shared.change(|world| world.infra());
        let runs = |node: &NodeName| {
            let view = powers.get(node).and_then(|view| view.get().ok());
            view.is_some_and(|view| view.power == Power::Running)
        };
        Ok(self
            .masters
            .iter()
            .filter(|(node, _)| cluster.spec.machine(node).is_none() && runs(node))
            .map(|(node, machine)| (node.clone(), machine.clone()))
            .collect())
    }

    async fn world(
        &self,
        _cluster: &ClusterFile,
        _intent: &Intent,
    ) -> Result<Seams<MemoryHosts, MemoryInfra>, Failure> {
        self.runs.set(self.runs.get() + 1);
        let (seams, handle) = self
            .shared
            .operator(operator(self.runs.get()), Script::default());
        if let Some(ended) = self.last.replace(Some(handle)) {
            ended.kill();
        }
        Ok(seams)
    }
}

/// SHA-256 of nothing.
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A bundle as the operator's machine reads it: its manifest, and files that are what it says.
fn write_bundle(directory: &Path) {
    let images = [
        ("kube-apiserver", "v1.35.4"),
        ("kube-controller-manager", "v1.35.4"),
        ("kube-scheduler", "v1.35.4"),
        ("kube-proxy", "v1.35.4"),
        ("etcd", "3.6.6-0"),
        ("coredns", "v1.13.1"),
        ("pause", "3.10.1"),
        ("flannel", "v0.28.4"),
    ];
    let reference = |name: &str, tag: &str| format!("quorate.local/{name}:{tag}");
    let mut files: Vec<_> = images
        .iter()
        .map(|(name, tag)| {
            json!({
                "path": format!("images/{name}.tar"), "size": 0, "sha256": EMPTY, "role": "image",
                "version": tag, "source": name, "built": "fetched", "image": reference(name, tag),
            })
        })
        .collect();
    files.sort_by_key(|file| file["path"].as_str().unwrap().to_owned());
    let manifest = json!({
        "format": 1, "kubernetes": "1.35.4", "arch": "amd64", "origin": { "kind": "fetched" },
        "imageRepository": "quorate.local",
        "images": images.iter().map(|(name, tag)| ((*name).to_owned(), json!(reference(name, tag)))).collect::<serde_json::Map<_, _>>(),
        "files": files,
    });
    fs::create_dir_all(directory.join("images")).unwrap();
    for (name, _) in images {
        fs::write(directory.join(format!("images/{name}.tar")), "").unwrap();
    }
    fs::write(directory.join("manifest.json"), manifest.to_string()).unwrap();
}
