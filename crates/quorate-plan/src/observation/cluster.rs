//! What etcd's members and the apiservers tell, each as one witness's account.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{ApiConversion, Readyz};
use crate::{MemberId, NodeName, adopted::Adopted, seen::Seen};

/// etcd as one member tells it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EtcdView {
    /// Which cluster: etcd's cluster ID, as hex.
    pub cluster_id: String,
    /// Who is telling.
    pub member: MemberId,
    /// etcd's version.
    pub version: String,
    /// Who leads, by this member's account. `None`: it knows of no leader.
    pub leader: Option<MemberId>,
    /// Raft term.
    pub raft_term: u64,
    /// Raft index of this member's log.
    pub raft_index: u64,
    /// Raft index this member applied.
    pub raft_applied: u64,
    /// Size of the database file in bytes.
    pub db_bytes: u64,
    /// Of which in use, in bytes.
    pub db_in_use_bytes: u64,
    /// What the database may grow to before the NOSPACE alarm rings, in bytes.
    pub db_quota_bytes: u64,
    /// The time within which 99 of 100 of its write-ahead log's syncs to disk ended since it started, in milliseconds: the upper bound
    /// of a bucket of `etcd_disk_wal_fsync_duration_seconds`.
    pub fsync_p99_ms: Seen<u64>,
    /// Members that it has heard of within the last 5 s. Known to the leader alone, which every follower answers ten times a second; a host
    /// that was just begun to be looked at takes a stream for an answer, which outlives a dead peer by minutes, for the first 5 s.
    pub active_peers: Seen<BTreeSet<MemberId>>,
    /// A linearizable read was answered: this member reached a quorum just now.
    pub linearizable: bool,
    /// Members, by its account.
    pub members: BTreeMap<MemberId, Member>,
    /// Alarms raised: kind and member.
    pub alarms: BTreeSet<(String, MemberId)>,
    /// Errors it reports of itself.
    pub errors: BTreeSet<String>,
}

/// A member of etcd as the member list tells it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Its name; empty until it started once.
    pub name: String,
    /// Where its peers reach it.
    pub peer_urls: BTreeSet<String>,
    /// Where clients reach it; empty until it started once.
    pub client_urls: BTreeSet<String>,
    /// It does not vote yet.
    pub learner: bool,
}

impl Member {
    /// It started at least once: only then it has a name.
    pub fn started(&self) -> bool {
        !self.name.is_empty()
    }
}

/// The API as one apiserver tells it. What needs a ready apiserver is unknown while it is not.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiView {
    /// Its `/readyz`.
    pub readyz: Readyz,
    /// Its version, without `v`.
    pub version: String,
    /// Node objects.
    pub nodes: Seen<BTreeMap<NodeName, Node>>,
    /// Addresses of the `kubernetes` service: the apiservers that think they are alive.
    pub endpoints: Seen<BTreeSet<IpAddr>>,
    /// The `kubeadm-config` ConfigMap. `None`: not uploaded yet.
    pub kubeadm: Seen<Option<KubeadmConfig>>,
    /// The server that `cluster-info` tells joiners. `None`: not published yet.
    pub cluster_info: Seen<Option<String>>,
    /// DaemonSets and Deployments of `kube-system` and `kube-flannel`, by `namespace/name`.
    pub workloads: Seen<BTreeMap<String, Workload>>,
    /// Quorate's own notes in the cluster (ConfigMap `kube-system/quorate`): what was applied, by digest. `None`: no such notes.
    pub notes: Seen<Option<BTreeMap<String, String>>>,
    /// Bootstrap tokens that Quorate made and that are still there, by token ID.
    pub tokens: Seen<BTreeSet<String>>,
    /// There is a Secret `kube-system/kubeadm-certs`, whoever uploaded it: the certificate authorities, encrypted.
    pub uploaded_certs: Seen<bool>,
    /// What a conversion has to know of it. `None`: was not asked about.
    #[serde(default = "super::not_asked")]
    pub conversion: Seen<Option<Box<ApiConversion>>>,
}

/// A Node object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Its Ready condition is `True`.
    pub ready: bool,
    /// Why not, by the condition's message.
    pub reason: String,
    /// What its kubelet lacks, by the conditions that are `True`: `DiskPressure`, `MemoryPressure`, `PIDPressure`. Such a node can be ready,
    /// and still takes no new pods.
    #[serde(default)]
    pub pressures: BTreeSet<String>,
    /// It carries the control plane label.
    pub control_plane: bool,
    /// It carries the control plane taint.
    pub tainted: bool,
    /// The kubelet's version, without `v`.
    pub kubelet: String,
    /// Its internal addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// How long ago its kubelet last renewed the node's lease (`kube-node-lease`), by the clock of the host that looked: as wrong as two
    /// hosts' clocks differ. `None`: there is no lease.
    pub heartbeat: Option<Duration>,
}

/// What matters of the `kubeadm-config` ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KubeadmConfig {
    /// `kubernetesVersion`, without `v`.
    pub kubernetes: String,
    /// `controlPlaneEndpoint`; empty when there is none.
    pub endpoint: String,
    /// The whole ClusterConfiguration and the kubelets', of clusters that somebody else made or that are being looked at for that. `None`:
    /// Quorate made it, and renders it from the cluster file.
    #[serde(default)]
    pub adopted: Option<Box<Adopted>>,
}

/// A DaemonSet or Deployment.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// Pods wanted.
    pub wanted: u32,
    /// Pods ready.
    pub ready: u32,
}
