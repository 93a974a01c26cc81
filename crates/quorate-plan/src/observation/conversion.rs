//! What is looked at only while a cluster of somebody else's is taken in: who leads where, and who still uses the old way. Asked for by
//! [`super::Look::conversion`]; otherwise nobody looked.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};

use super::Readyz;
use crate::{NodeName, adopted::Adopted, seen::Seen};

/// What to look for besides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConversionLook {
    /// The masters' own addresses: whoever is connected there, and has another way, is told.
    pub watched: BTreeSet<SocketAddr>,
}

/// A host, as it matters to a conversion.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostConversion {
    /// Every kubeconfig on the host by its path, with all servers it names: those of `/etc/kubernetes` and root's.
    pub kubeconfigs: Seen<BTreeMap<String, BTreeSet<String>>>,
    /// People's kubeconfigs on the host, below `/home`, by path with the servers they name; `None` for one that cannot be understood. They are
    /// never changed.
    #[serde(default = "super::nothing_yet")]
    pub homes: Seen<BTreeMap<String, Option<BTreeSet<String>>>>,
    /// SHA-256 of the serving certificate on disk, hex. `None`: there is none.
    pub serving: Seen<Option<String>>,
    /// SHA-256 of the certificate that this host's apiserver serves, hex. `None`: there is no apiserver.
    pub served: Seen<Option<String>>,
    /// What the apiserver behind the endpoint's address says, known by the cluster's authority alone: its certificate need not have the
    /// endpoint's name yet. `None`: nobody of this cluster answers there, or there is no authority here to know it by.
    pub leads: Seen<Option<Readyz>>,
    /// kube-proxy's `/healthz` says ok. `None`: no kube-proxy runs here.
    pub proxy_healthy: Seen<Option<bool>>,
    /// Where `kubelet` and `kube-proxy` are connected to, loopback left out. Who does not run is absent.
    pub connections: Seen<BTreeMap<String, BTreeSet<SocketAddr>>>,
    /// The servers that `kubelet` and `kube-proxy` began with, by their kubeconfigs. `None`: that was changed after they began. Who does not run,
    /// or has none, is absent.
    #[serde(default = "super::nothing_yet")]
    pub began_with: Seen<BTreeMap<String, Option<BTreeSet<String>>>>,
    /// Who is connected to a watched address, by original destination.
    pub callers: Seen<BTreeSet<Caller>>,
    /// What was kept before anything was changed. `None`: nothing, or not all of it.
    pub backup: Seen<Option<Backup>>,
    /// What an operator's machine has of that, sealed. `None`: it lies on this host alone.
    #[serde(default = "super::nothing_yet")]
    pub off_host: Seen<Option<Receipt>>,
    /// Version of kubeadm here, without `v`. `None`: not installed.
    pub kubeadm: Seen<Option<String>>,
    /// etcd's ports on the masters' hosts from where not even a refusal comes: something in between drops what is sent there. With the
    /// reason, one line. A worker does not look.
    #[serde(default = "super::nothing_yet")]
    pub blocked: Seen<BTreeMap<SocketAddr, String>>,
    /// Where a filesystem is mounted that etcd's data lies in. `None`: in that of `/`, or there is none.
    #[serde(default = "super::not_asked")]
    pub data_mount: Seen<Option<String>>,
}

/// Somebody with a connection to a watched address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Caller {
    /// Where it meant to go, before any translation.
    pub to: SocketAddr,
    /// Where it comes from.
    pub from: IpAddr,
    /// The process, where it runs on the host that looked and not in a pod's network. Escaped.
    pub process: Option<String>,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.process {
            Some(process) => write!(f, "{process} at {} to {}", self.from, self.to),
            None => write!(f, "{} to {}", self.from, self.to),
        }
    }
}

/// What a host kept of itself before anything was changed, as far as it matters for the way back.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backup {
    /// etcd's snapshot, on a master.
    pub snapshot: Option<Snapshot>,
    /// Kubeconfigs by path, with the servers they named.
    pub kubeconfigs: BTreeMap<String, BTreeSet<String>>,
    /// SHA-256 of the serving certificate, hex.
    pub serving: Option<String>,
    /// What the cluster kept, on a master.
    pub objects: Option<KeptObjects>,
}

/// A sealed backup on an operator's machine. The host that gave it and the machine that has it agree on every byte.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// Its size in bytes, sealed.
    pub bytes: u64,
    /// SHA-256 of the sealed bytes, hex.
    pub sha256: String,
    /// The age recipients it is sealed to.
    pub recipients: BTreeSet<String>,
    /// The machine that has it.
    pub machine: String,
    /// The file there.
    pub file: String,
}

/// A verified snapshot of etcd.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Its size in bytes.
    pub bytes: u64,
    /// The hash that etcd put at its end, which its bytes have, hex.
    pub sha256: String,
}

/// ConfigMaps that a conversion changes, as they were.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeptObjects {
    /// `controlPlaneEndpoint` of `kubeadm-config`; empty when it had none.
    pub endpoint: String,
    /// All of it, and the kubelets' configuration: what new masters are made like.
    pub adopted: Adopted,
    /// The server in `cluster-info`. `None`: there was none.
    pub cluster_info: Option<String>,
    /// The server in kube-proxy's kubeconfig. `None`: there was none.
    pub proxy: Option<String>,
}

/// The API, as it matters to a conversion.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiConversion {
    /// Bootstrap tokens for which `cluster-info` carries no signature that verifies, by ID.
    pub unsigned: Seen<BTreeSet<String>>,
    /// The server in kube-proxy's kubeconfig. `None`: there is no such ConfigMap, so nobody runs kube-proxy as kubeadm does.
    pub proxy: Seen<Option<String>>,
    /// Nodes on which cluster DNS has a ready pod.
    pub dns_nodes: Seen<BTreeSet<NodeName>>,
    /// Pods of cluster DNS that are wanted. 0: there is no such Deployment.
    pub dns_wanted: Seen<u32>,
    /// Objects that hold the address of a master's apiserver, or what the cluster called its endpoint before. What kubeadm keeps, which a
    /// conversion leads, is left out.
    #[serde(default = "super::nothing_yet")]
    pub stored: Seen<BTreeSet<Stored>>,
    /// DaemonSets that install a pod network, by `namespace/name`: they mount a host's `/etc/cni`.
    #[serde(default = "super::nothing_yet")]
    pub networks: Seen<BTreeSet<String>>,
    /// The container runtime's socket by a node's own annotation, which kubeadm wrote when the node joined.
    #[serde(default = "super::nothing_yet")]
    pub sockets: Seen<BTreeMap<String, String>>,
}

/// An address of the API that an object of the cluster holds. Never anything else of the object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stored {
    /// `ConfigMap`, `Secret`, `DaemonSet`. Escaped, like all of it.
    pub kind: String,
    /// `namespace/name`, or the name alone.
    pub object: String,
    /// The key of its data, or what of a pod's template.
    pub key: String,
    /// The address, as it was looked for: `10.0.0.11:6443`.
    pub address: String,
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            object,
            key,
            address,
        } = self;
        write!(f, "{kind} {object}, {key}: {address}")
    }
}
