//! Steps and their reasons as sentences.

use std::{fmt, net::IpAddr};

use super::{Ensure, HostEnsure, InfraEnsure, Network, Reason, short};

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wanted => "the cluster file wants it and it does not run",
            Self::Prerequisite => "later steps need it",
            Self::Founds => "this host founds the cluster",
            Self::FoundsAgain => {
                "too many founders lost what they had: nothing was served yet, and the founding begins again, once"
            }
            Self::Joins => "this host joins the control plane",
            Self::Ready => "only ready apiservers get traffic",
            Self::ClusterLacks => "the cluster does not have it yet",
            Self::WorkerWanted => "the cluster file wants this worker",
            Self::NoLongerNeeded => "it has served its purpose",
            Self::Protects => "an emptied data directory must never found a new cluster",
            Self::Compares => "a joiner that differs from its peers would serve wrong answers",
            Self::Unwanted => "the cluster file no longer names it",
            Self::Replaced => "you asked for its replacement",
            Self::Dead => return crate::health::verdict_rule(f),
            Self::Unreached => {
                "no way to its host is known: it is not reset, and what runs there goes on"
            }
            Self::Accepted => "you accepted that nobody can say whether it is dead",
            Self::LeftBehind => "what has left, or never quite came, leaves nothing behind",
            Self::Converts => "everybody is to reach the cluster at the endpoint",
            Self::Keeps => "what is changed can be put back",
            Self::TakenBack => "the conversion is taken back",
        })
    }
}

impl fmt::Display for Ensure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Infra(InfraEnsure::Machine { address, .. }) => {
                write!(f, "machine at {address} runs and answers SSH")
            }
            Self::Infra(InfraEnsure::MachineOff { .. }) => {
                f.write_str("machine is off; its disks are kept")
            }
            Self::Infra(InfraEnsure::Target { node, .. }) => {
                write!(f, "target {node} is registered and healthy")
            }
            Self::Infra(InfraEnsure::TargetGone { node, .. }) => {
                write!(f, "target {node} is drained and no longer registered")
            }
            Self::Host(host) => host.fmt(f),
        }
    }
}

impl fmt::Display for HostEnsure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prepared { .. } => {
                f.write_str("host is marked and its kernel settings and names are in place")
            }
            Self::EtcdVolume { device, .. } => {
                write!(f, "/var/lib/etcd is a folder of its own disk, {device}")
            }
            Self::Bundle { id } => write!(f, "bundle {} lies on the host", short(id)),
            Self::Components { packages: None, .. } => {
                f.write_str("containerd runs; kubelet, kubeadm and CNI plugins are installed")
            }
            Self::Components {
                packages: Some(packages),
                ..
            } => write!(
                f,
                "containerd runs; packages of kubelet, kubeadm and kubectl are installed and held at {}",
                packages.version
            ),
            Self::Images { images, .. } => write!(f, "containerd has {} images", images.len()),
            Self::Balancer { listen, .. } => write!(f, "balancer listens on {listen}"),
            Self::Keepalived {} => f.write_str("keepalived is installed"),
            Self::SharedAddress {
                node,
                address,
                peers,
                ..
            } => {
                let mut others: Vec<&str> = peers.iter().map(|peer| peer.name.as_str()).collect();
                others.retain(|name| *name != node.name.as_str());
                match others.as_slice() {
                    [] => write!(f, "{address} may be held here"),
                    _ => write!(
                        f,
                        "{address} may be held here, beside {}",
                        others.join(", ")
                    ),
                }
            }
            Self::SharedAddressPeerGone { peer } => {
                write!(f, "keepalived does not know {peer} any more")
            }
            Self::SharedAddressGone {} => {
                f.write_str("has no part in the shared address, and balances no more")
            }
            Self::Authority { of: None, .. } => {
                f.write_str("certificate authorities are made here")
            }
            Self::Authority { of: Some(node), .. } => {
                write!(f, "certificate authorities are those of {node}")
            }
            Self::Certificates { .. } => f.write_str("certificates and kubeconfigs are issued"),
            Self::EtcdMember { founders, .. } if founders.is_empty() => {
                f.write_str("etcd manifest: joins the existing members")
            }
            Self::EtcdMember { founders, .. } => {
                write!(f, "etcd manifest: founds a cluster of {}", founders.len())
            }
            Self::FoundingAside { .. } => {
                f.write_str("what the failed founding left here is moved aside")
            }
            Self::ControlPlane { .. } => {
                f.write_str("manifests of apiserver, controller manager and scheduler are in place")
            }
            Self::Kubelet { .. } => f.write_str("kubelet runs"),
            Self::Serving { .. } => f.write_str("etcd and apiserver serve: own /readyz is ok"),
            Self::Backend { backend, .. } => write!(f, "balancer forwards to {}", backend.name),
            Self::ClusterConfig { .. } => {
                f.write_str("cluster holds kubeadm's configuration and kube-proxy")
            }
            Self::ClusterDns { .. } => f.write_str("CoreDNS is installed"),
            Self::Registered { .. } => f.write_str("node is labelled and tainted as control plane"),
            Self::Guarded {} => f.write_str("empty-data guard is in place"),
            Self::FoundingOver {} => f.write_str("no founding is in progress"),
            Self::Learner { joiner } => write!(f, "etcd has a learner for {}", joiner.name),
            Self::Voter { joiner } => write!(f, "{} is a voter", joiner.name),
            Self::Network {
                network: Network::Flannel { .. },
            } => f.write_str("Flannel is applied and ready on every node"),
            Self::Network {
                network: Network::Manifest { .. },
            } => f.write_str("your pod network is applied"),
            Self::Worker { .. } => f.write_str("worker is in the cluster"),
            Self::TokensGone {} => f.write_str("no bootstrap token of ours is left"),
            Self::Rehearsed { .. } => {
                f.write_str("kubeadm's manifests are rendered aside, to be compared")
            }
            Self::LeaderMoved { .. } => f.write_str("another member leads etcd"),
            Self::BackendGone { backend } => {
                write!(f, "balancer drained {backend} and no longer knows it")
            }
            Self::ControlPlaneGone { .. } => {
                f.write_str("apiserver, controller manager and scheduler have ended")
            }
            Self::MemberGone { member, peer_urls } => {
                let urls: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
                write!(f, "etcd has no member {member} ({})", urls.join(", "))
            }
            Self::NodeGone { node } => write!(f, "there is no node {node}"),
            Self::EndpointGone { addresses } => {
                let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
                write!(f, "`kubernetes` does not lead to {}", addresses.join(", "))
            }
            Self::Reset { .. } => {
                f.write_str("host is reset; etcd data and certificate authorities are moved aside")
            }
            Self::UploadedCertsGone {} => f.write_str("no uploaded certificates are left"),
            Self::BackedUp { master: true, .. } => {
                f.write_str("etcd's snapshot and what is changed here are kept and verified")
            }
            Self::BackedUp { master: false, .. } => f.write_str("what is changed here is kept"),
            Self::BackupOffHost { .. } => {
                f.write_str("the backup is on the operator's machine as well, sealed")
            }
            Self::ServingCertificate { .. } => {
                f.write_str("apiserver serves a certificate with all names, without a restart")
            }
            Self::ServingCertificateKept { .. } => {
                f.write_str("apiserver serves the certificate that was kept")
            }
            Self::Configuration { settings, .. } => {
                write!(f, "kubeadm's configuration names {}", settings.endpoint)
            }
            Self::ConfigurationKept { .. } => {
                f.write_str("kubeadm's configuration is as it was kept")
            }
            Self::ClusterInfo { server } => {
                write!(
                    f,
                    "cluster-info leads to {server} and is signed for every token"
                )
            }
            Self::ProxyConfig { server } => write!(f, "kube-proxy's kubeconfig leads to {server}"),
            Self::Proxy {
                node,
                via: Some(via),
                ..
            } => write!(f, "kube-proxy of {node} is connected to {via} and healthy"),
            Self::Proxy {
                node, via: None, ..
            } => {
                write!(f, "kube-proxy of {node} is connected and healthy")
            }
            Self::Kubeconfigs {
                endpoint,
                master: true,
                ..
            } => write!(f, "administrators' kubeconfigs here lead to {endpoint}"),
            Self::Kubeconfigs {
                endpoint,
                master: false,
                ..
            } => write!(
                f,
                "kubeconfigs here lead to {endpoint}; kubelet is connected to it and renews its lease"
            ),
            Self::KubeconfigsKept { .. } => f.write_str("kubeconfigs here lead where they did"),
            Self::DnsSpread {} => f.write_str("cluster DNS runs on two nodes"),
            Self::OldAddress { rule: None, .. } => {
                f.write_str("everybody may come by the old address")
            }
            Self::OldAddress {
                rule: Some(rule), ..
            } if rule.refuse => write!(
                f,
                "others than the cluster are refused at {}:6443",
                rule.address
            ),
            Self::OldAddress {
                rule: Some(rule), ..
            } => write!(
                f,
                "others than the cluster who come to {}:6443 are remembered for {} s",
                rule.address, rule.remember_s
            ),
            Self::BackupAside {} => {
                f.write_str("what was kept before the conversion is moved aside")
            }
        }
    }
}
