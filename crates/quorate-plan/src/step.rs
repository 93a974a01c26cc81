//! One step: an end state, on one machine, and why. Acting is idempotent and belongs to `quorate-node` (`ensure/`, one file per variant)
//! or to the provider; whether the end state stands is decided here, in [`crate::standing`], one file per noun.
//!
//! No step holds a secret: what must not be seen travels as [`crate::Sealed`], named by the step's [`Handover`].

mod text;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    MemberId, NodeName,
    kubeadm::{ClusterSettings, Peer, RuntimeSettings},
    observation::{EndpointName, Founding, HostMark, OldAddressRule},
    spec::{EtcdDevice, Packages},
};

/// An end state on one machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Where it is acted on.
    pub on: Place,
    /// What shall stand.
    pub ensure: Ensure,
    /// What another host must give it, sealed.
    pub handover: Option<Handover>,
    /// Why it is in the plan.
    pub because: Reason,
}

/// Where a step is acted on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Place {
    /// The operator's machine.
    Operator,
    /// A machine of the cluster.
    Host(NodeName),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => f.pad("this machine"),
            Self::Host(node) => node.fmt(f),
        }
    }
}

/// What shall stand.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ensure {
    /// On a host, by the `quorate` binary there.
    Host(HostEnsure),
    /// By the provider, from the operator's machine.
    Infra(InfraEnsure),
}

/// What the provider shall make stand.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum InfraEnsure {
    /// The machine exists, runs and answers SSH.
    Machine {
        /// Which.
        node: NodeName,
        /// Its address.
        address: IpAddr,
    },
    /// The machine is off; its disks are kept, until somebody destroys it.
    MachineOff {
        /// Which.
        node: NodeName,
    },
    /// The cloud's balancer sends traffic to that master: its target is registered and healthy.
    Target {
        /// The master.
        node: NodeName,
        /// Its instance.
        instance: String,
    },
    /// The cloud's balancer has no such target any more: it was taken out, and what was open had its time to end.
    TargetGone {
        /// The master.
        node: NodeName,
        /// Its instance.
        instance: String,
    },
}

impl InfraEnsure {
    /// The machine it is about.
    pub fn node(&self) -> &NodeName {
        match self {
            Self::Machine { node, .. }
            | Self::MachineOff { node }
            | Self::Target { node, .. }
            | Self::TargetGone { node, .. } => node,
        }
    }

    /// Whether it is about a target of the cloud's balancer, and not about a machine.
    pub fn is_about_target(&self) -> bool {
        match self {
            Self::Target { .. } | Self::TargetGone { .. } => true,
            Self::Machine { .. } | Self::MachineOff { .. } => false,
        }
    }
}

/// What shall stand on a host. The names are nouns; each has a file in `standing/` here and in `ensure/` of `quorate-node`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HostEnsure {
    /// The host carries the cluster's mark, kernel settings and managed lines of `/etc/hosts`.
    Prepared {
        /// The mark.
        mark: HostMark,
        /// Kernel settings by name; a setting with a number may be higher than this.
        sysctls: BTreeMap<String, String>,
        /// Managed lines of `/etc/hosts`. Empty where the user owns name resolution.
        hosts_file: BTreeMap<String, IpAddr>,
    },
    /// etcd's data has a block device to itself: it carries a file system of Quorate's, of which `/var/lib/etcd` is a folder, now and at every
    /// boot. What lay on it of an earlier life of this host is moved aside.
    EtcdVolume {
        /// This host.
        node: Peer,
        /// The device.
        device: EtcdDevice,
    },
    /// The bundle lies on the host, every file with its hash.
    Bundle {
        /// The bundle's ID.
        id: String,
    },
    /// containerd runs; kubelet, kubeadm, kubectl and the CNI plugins are installed.
    Components {
        /// The bundle they come from.
        bundle: String,
        /// How containerd and the kubelet are set up here.
        runtime: RuntimeSettings,
        /// The packages that they come from instead: of the bundle is only what those lack.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        packages: Option<Packages>,
    },
    /// containerd has these images.
    Images {
        /// The bundle they come from.
        bundle: String,
        /// References.
        images: BTreeSet<String>,
    },
    /// The balancer runs here.
    Balancer {
        /// Where it listens.
        listen: SocketAddr,
        /// Hash of the `quorate` binary it shall run.
        binary: String,
    },
    /// keepalived is installed: the distribution's.
    Keepalived {},
    /// The CA set is complete here: cluster, front proxy, etcd, service accounts. Made here, or another host's.
    Authority {
        /// The founding it is made for.
        founding: Option<Founding>,
        /// Whose it is. `None`: made here.
        of: Option<NodeName>,
    },
    /// Serving and client certificates and kubeconfigs, from the CA set that lies here.
    Certificates {
        /// The cluster.
        settings: ClusterSettings,
        /// This host.
        node: Peer,
    },
    /// etcd's static pod manifest. What it starts as follows from `founders`.
    EtcdMember {
        /// The cluster.
        settings: ClusterSettings,
        /// This host.
        node: Peer,
        /// The static `initial-cluster` of a founding. Empty: joins the existing cluster as the learner that was added for it.
        founders: BTreeSet<Peer>,
    },
    /// What a founding that failed left on this host is moved aside: nothing of the cluster runs, etcd's data, certificates and keys are out
    /// of the way. The host's mark stays, and the note of the founding says that it is begun again.
    FoundingAside {
        /// The founding, as it is begun again.
        founding: Founding,
    },
    /// Static pod manifests of apiserver, controller manager and scheduler.
    ControlPlane {
        /// The cluster.
        settings: ClusterSettings,
        /// This host.
        node: Peer,
    },
    /// The kubelet runs with its configuration.
    Kubelet {
        /// The cluster.
        settings: ClusterSettings,
        /// This host.
        node: Peer,
    },
    /// etcd and the apiserver of this host serve: its own `/readyz` says ok.
    Serving {
        /// This host.
        node: Peer,
    },
    /// This balancer forwards to that apiserver.
    Backend {
        /// The control plane host.
        backend: Peer,
        /// Its apiserver.
        address: SocketAddr,
    },
    /// This host has its part in the address that masters share: keepalived may hold it here while the balancer here serves, and what comes for
    /// it is redirected to that balancer. Somebody holds it.
    SharedAddress {
        /// This host.
        node: Peer,
        /// The address.
        address: IpAddr,
        /// The endpoint's port.
        port: u16,
        /// Hosts that it has to know for its peers, itself aside. It may know more.
        peers: BTreeSet<Peer>,
    },
    /// What kubeadm keeps in the cluster: its configuration, the rules of joining, `cluster-info` and kube-proxy.
    ClusterConfig {
        /// The cluster.
        settings: ClusterSettings,
        /// This host.
        node: Peer,
    },
    /// CoreDNS is installed. It comes after the pod network: pods that are placed while only one node is ready all share its fate.
    ClusterDns {
        /// The cluster.
        settings: ClusterSettings,
        /// This host.
        node: Peer,
    },
    /// The Node object carries label and taint, and the kubelet rotates its own certificate.
    Registered {
        /// The cluster.
        settings: ClusterSettings,
        /// This host.
        node: Peer,
    },
    /// The empty-data guard: a marker outside etcd's data, and a kubelet that does not start when the data is gone.
    Guarded {},
    /// No founding is in progress here: a majority of the founders votes, and whoever of them does not joins like anybody else.
    FoundingOver {},
    /// A learner was added for that host, by this voter.
    Learner {
        /// The host that joins.
        joiner: Peer,
    },
    /// The joiner's learner was promoted, by this voter.
    Voter {
        /// The host that joins.
        joiner: Peer,
    },
    /// The pod network is applied and its pods are ready on every node.
    Network {
        /// Which.
        network: Network,
    },
    /// This host is a worker of the cluster.
    Worker {
        /// The cluster.
        settings: ClusterSettings,
        /// This host.
        node: Peer,
    },
    /// No bootstrap token that Quorate made is left in the cluster.
    TokensGone {},
    /// kubeadm rendered this host's static pod manifests into a folder of their own, as it would for a join, to be compared with the
    /// running masters' before anything is added for it.
    Rehearsed {
        /// The cluster.
        settings: ClusterSettings,
        /// This host.
        node: Peer,
    },
    /// Another member leads etcd than this host's, which hands leadership over itself.
    LeaderMoved {
        /// This host's member.
        member: MemberId,
        /// Who may take over: whichever of these is a healthy voter.
        to: BTreeSet<Peer>,
    },
    /// This balancer no longer knows that apiserver: new connections went elsewhere, open ones were given time to end.
    BackendGone {
        /// The control plane host.
        backend: NodeName,
    },
    /// keepalived here does not know that host any more.
    SharedAddressPeerGone {
        /// Which.
        peer: NodeName,
    },
    /// This host has no part in the shared address any more: another one holds it, and nothing redirects or balances here.
    SharedAddressGone {},
    /// Apiserver, controller manager and scheduler of this host have ended, by their manifests being moved aside; its etcd still runs.
    ControlPlaneGone {
        /// This host's member, which leaves.
        member: MemberId,
    },
    /// etcd does not list that member; removed by this voter, which stays.
    MemberGone {
        /// Its ID.
        member: MemberId,
        /// Where its peers reached it, for people.
        peer_urls: BTreeSet<String>,
    },
    /// There is no such Node object.
    NodeGone {
        /// Which.
        node: NodeName,
    },
    /// The `kubernetes` service does not list these addresses: their apiservers ended without saying so.
    EndpointGone {
        /// Which.
        addresses: BTreeSet<IpAddr>,
    },
    /// Nothing of the cluster runs or is configured on this host. etcd's data and the certificate authorities were moved aside by renaming
    /// them, never deleted; membership was not touched. The host's mark goes last.
    Reset {
        /// This host.
        node: Peer,
    },
    /// There is no Secret `kubeadm-certs`.
    UploadedCertsGone {},
    /// What a conversion changes on this host was kept, and on a master etcd's snapshot, verified, and what the cluster keeps. The note of it
    /// is written last.
    BackedUp {
        /// This host.
        node: Peer,
        /// It is a master.
        master: bool,
    },
    /// What was kept on this host is also on an operator's machine, sealed there by this host. Both agree on every byte of it.
    BackupOffHost {
        /// This host.
        node: Peer,
    },
    /// This host's apiserver serves a certificate with all names. Nothing was restarted.
    ServingCertificate {
        /// The cluster.
        settings: ClusterSettings,
        /// This host.
        node: Peer,
    },
    /// This host's apiserver serves the certificate that was kept.
    ServingCertificateKept {
        /// This host.
        node: Peer,
    },
    /// `kubeadm-config` names the endpoint and all names; whoever joins is told so.
    Configuration {
        /// The cluster.
        settings: ClusterSettings,
        /// This host.
        node: Peer,
    },
    /// `kubeadm-config` is as it was kept on this host.
    ConfigurationKept {
        /// This host.
        node: Peer,
    },
    /// `cluster-info` leads there, and every bootstrap token's signature of it verifies.
    ClusterInfo {
        /// The server, as `https://NAME:PORT`.
        server: String,
    },
    /// kube-proxy's kubeconfig in the cluster leads there.
    ProxyConfig {
        /// The server.
        server: String,
    },
    /// kube-proxy of that node began with that server, is connected there and healthy. Its pod is made anew for it.
    Proxy {
        /// Which node.
        node: NodeName,
        /// The server that its kubeconfig names.
        server: String,
        /// Where to. `None`: wherever its kubeconfig leads, which is a name that nobody else knows.
        via: Option<EndpointName>,
    },
    /// Every kubeconfig of this host that leads to an old server leads to the endpoint. A worker's kubelet was restarted, is connected to the
    /// endpoint and renews its lease.
    Kubeconfigs {
        /// This host.
        node: Peer,
        /// The endpoint.
        endpoint: EndpointName,
        /// Servers that are left.
        old: BTreeSet<String>,
        /// It is a master: its own components stay with its own apiserver.
        master: bool,
    },
    /// Every kubeconfig of this host leads to where it did when it was kept.
    KubeconfigsKept {
        /// This host.
        node: Peer,
        /// It is a master.
        master: bool,
    },
    /// Ready pods of cluster DNS are on two nodes at least, where two are wanted.
    DnsSpread {},
    /// What was kept before a conversion is moved aside.
    BackupAside {},
    /// The rule for who comes by this master's address from before there was an endpoint. It outlives a boot.
    OldAddress {
        /// This host.
        node: Peer,
        /// The rule. `None`: there is none, everybody may.
        rule: Option<OldAddressRule>,
    },
}

/// A pod network.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Network {
    /// Flannel, from the bundle's manifest.
    Flannel {
        /// The pod network.
        pods: String,
        /// Flannel's image.
        image: String,
    },
    /// The user's own manifest.
    Manifest {
        /// SHA-256 of the text, hex.
        digest: String,
        /// The text.
        text: String,
    },
}

impl Network {
    /// What the cluster's notes say once this network was applied.
    pub fn digest(&self) -> String {
        digest(self)
    }
}

/// What one host gives another, sealed to the receiver: the operator's machine carries ciphertext only.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Handover {
    /// The CA set with its private keys, to a control plane host.
    CaSet {
        /// Who gives it.
        from: NodeName,
    },
    /// The cluster CA's certificate, to a balancer.
    ClusterCa {
        /// Who gives it.
        from: NodeName,
    },
    /// A bootstrap token of 15 minutes, made for one worker, with the CA's hash.
    JoinToken {
        /// Who makes it.
        from: NodeName,
    },
}

impl Handover {
    /// Who gives it.
    pub fn from(&self) -> &NodeName {
        match self {
            Self::CaSet { from } | Self::ClusterCa { from } | Self::JoinToken { from } => from,
        }
    }
}

/// Why a step is in a plan.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// The cluster file names the host and it does not exist, or does not run.
    Wanted,
    /// Every later step on this host needs it.
    Prerequisite,
    /// The host is one of those that start the cluster.
    Founds,
    /// The founding failed before the cluster served anybody, and is begun again, once.
    FoundsAgain,
    /// The host joins the control plane.
    Joins,
    /// Its own `/readyz` is ok, or will be after the steps before.
    Ready,
    /// The cluster does not have it yet.
    ClusterLacks,
    /// The cluster file names the worker and it is not in the cluster.
    WorkerWanted,
    /// It has served its purpose.
    NoLongerNeeded,
    /// The host's data must never be replaced by an empty cluster.
    Protects,
    /// A joiner that differs from its peers would serve wrong answers the moment it starts.
    Compares,
    /// The cluster file no longer names the member.
    Unwanted,
    /// The operator named it to be replaced.
    Replaced,
    /// It is dead, by the verdict of several witnesses: see [`crate::health`].
    Dead,
    /// Nobody told the way to its host, so it leaves the cluster without being reset.
    Unreached,
    /// An operator accepted by name that nobody can say whether it is dead.
    Accepted,
    /// It has left the cluster, or never quite came.
    LeftBehind,
    /// Everybody is to reach the cluster at the endpoint.
    Converts,
    /// What is changed can be put back.
    Keeps,
    /// The conversion is taken back.
    TakenBack,
}

impl Step {
    /// A step on a host to which nobody hands anything over.
    pub fn on_host(on: &NodeName, ensure: HostEnsure, because: Reason) -> Self {
        Self {
            on: Place::Host(on.clone()),
            ensure: Ensure::Host(ensure),
            handover: None,
            because,
        }
    }
}

impl Ensure {
    /// Acting on it is nothing but waiting: what it wants comes about by itself, or does not.
    pub fn only_waits(&self) -> bool {
        matches!(self, Self::Host(HostEnsure::Serving { .. }))
    }

    /// How long acting and standing may take together before the run gives up and says what it sees.
    ///
    /// Limits for a slow machine, many times what was measured on an idle one.
    pub fn patience(&self) -> Duration {
        let seconds = match self {
            Self::Infra(InfraEnsure::Machine { .. }) => 900,
            Self::Infra(InfraEnsure::MachineOff { .. }) => 60,
            // Registering takes three to five minutes; so does a target that is taken out, its delay included.
            Self::Infra(InfraEnsure::Target { .. } | InfraEnsure::TargetGone { .. }) => 600,
            Self::Host(host) => match host {
                HostEnsure::Prepared { .. }
                | HostEnsure::Guarded {}
                | HostEnsure::FoundingOver {}
                | HostEnsure::TokensGone {}
                | HostEnsure::UploadedCertsGone {}
                | HostEnsure::LeaderMoved { .. }
                | HostEnsure::MemberGone { .. }
                | HostEnsure::NodeGone { .. }
                | HostEnsure::EndpointGone { .. }
                | HostEnsure::Learner { .. } => 60,
                HostEnsure::Bundle { .. } => 1800,
                // A large disk is looked through for bad inodes at most: the tables are written later, by the kernel.
                HostEnsure::EtcdVolume { .. } => 300,
                HostEnsure::Components { .. }
                | HostEnsure::Keepalived {}
                | HostEnsure::Images { .. } => 600,
                HostEnsure::Balancer { .. }
                | HostEnsure::Backend { .. }
                | HostEnsure::Authority { .. }
                | HostEnsure::Rehearsed { .. }
                | HostEnsure::Certificates { .. } => 120,
                // Connections that are open are given a minute and a half; an apiserver takes a minute to end, the kubelet's patience
                // with it half of one.
                HostEnsure::BackendGone { .. }
                | HostEnsure::ControlPlaneGone { .. }
                | HostEnsure::FoundingAside { .. }
                | HostEnsure::Reset { .. } => 180,
                HostEnsure::EtcdMember { .. }
                | HostEnsure::ControlPlane { .. }
                | HostEnsure::Kubelet { .. } => 120,
                HostEnsure::Serving { .. } | HostEnsure::Voter { .. } => 240,
                HostEnsure::ClusterConfig { .. }
                | HostEnsure::ClusterDns { .. }
                | HostEnsure::Registered { .. }
                | HostEnsure::Worker { .. } => 240,
                HostEnsure::Network { .. } => 300,
                HostEnsure::BackedUp { .. } => 600,
                // Eight gigabytes over a line that carries three megabytes a second.
                HostEnsure::BackupOffHost { .. } => 3600,
                HostEnsure::ServingCertificate { .. }
                | HostEnsure::ServingCertificateKept { .. }
                | HostEnsure::Configuration { .. }
                | HostEnsure::ConfigurationKept { .. }
                | HostEnsure::ClusterInfo { .. }
                | HostEnsure::ProxyConfig { .. }
                | HostEnsure::OldAddress { .. }
                | HostEnsure::SharedAddress { .. }
                | HostEnsure::SharedAddressPeerGone { .. }
                | HostEnsure::SharedAddressGone {}
                | HostEnsure::BackupAside {} => 60,
                HostEnsure::Proxy { .. }
                | HostEnsure::Kubeconfigs { .. }
                | HostEnsure::KubeconfigsKept { .. }
                | HostEnsure::DnsSpread {} => 180,
            },
        };
        Duration::from_secs(seconds)
    }
}

/// SHA-256, hex, over the JSON of a value: the same value has the same text, since nothing here is unordered.
pub(crate) fn digest<T: Serialize>(value: &T) -> String {
    use sha2::Digest as _;
    let json = serde_json::to_vec(value).expect("plain data has a JSON form");
    sha2::Sha256::digest(json)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The first characters of a digest, enough to tell two apart by eye.
pub(crate) fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}
