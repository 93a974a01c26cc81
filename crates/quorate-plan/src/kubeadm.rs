//! kubeadm's configuration, rendered. Files of `kubeadm.k8s.io/v1beta4`, never flags: the same text on every machine, shown by `plan -v`,
//! compared by tests. Start at [`ClusterSettings::init_configuration`].
//!
//! Secrets are not in it: a bootstrap token comes sealed and is put in by the host, see [`ClusterSettings::join_configuration`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::IpAddr,
};

use serde::{Deserialize, Serialize};

use crate::{
    ClusterName, NodeName,
    adopted::Adopted,
    observation::{Cgroup, EndpointName, MachineKind},
    spec::Packages,
};

/// A control plane host or worker by name and address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// Node name, host name and etcd member name.
    pub name: NodeName,
    /// The address the cluster reaches it at.
    pub address: IpAddr,
}

impl Peer {
    /// Where etcd's peers reach it.
    pub fn peer_url(&self) -> String {
        format!("https://{}:2380", self.address)
    }

    /// Where etcd's clients reach it.
    pub fn client_url(&self) -> String {
        format!("https://{}:2379", self.address)
    }
}

/// How containerd and the kubelet are set up on a machine of this kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeSettings {
    /// The image of the sandbox of every pod.
    pub pause_image: String,
    /// The machine.
    pub kind: MachineKind,
}

impl RuntimeSettings {
    /// What a host records as [`crate::observation::Components::configuration`] when it was set up like this.
    pub fn digest(&self, packages: Option<&Packages>) -> String {
        match packages {
            None => crate::step::digest(self),
            Some(packages) => crate::step::digest(&(self, packages)),
        }
    }
}

/// What every host's kubeadm configuration is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSettings {
    /// The cluster's name.
    pub cluster: ClusterName,
    /// Kubernetes version, without `v`.
    pub kubernetes: String,
    /// `controlPlaneEndpoint`.
    pub endpoint: EndpointName,
    /// Names and addresses the API is asked for: the endpoint, its balancers, every control plane host.
    pub sans: BTreeSet<String>,
    /// Pod network.
    pub pods: String,
    /// Service network.
    pub services: String,
    /// Image references by role, as in [`crate::intent::BundleRef::images`].
    pub images: BTreeMap<String, String>,
    /// What the machines are like: settings of the kubelet are the same on all of them.
    pub kind: MachineKind,
    /// What somebody else made the cluster with, as the base of everything but the endpoint and the names. `None`: Quorate made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted: Option<Box<Adopted>>,
}

/// Repository and tag of a reference; the tag is empty when there is none.
fn split_image(reference: &str) -> (&str, &str) {
    match reference.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (reference, ""),
    }
}

impl ClusterSettings {
    /// What a host records as [`crate::observation::Rehearsal::settings`] when it rehearsed with these.
    pub fn digest(&self) -> String {
        crate::step::digest(self)
    }

    fn image(&self, role: &str) -> &str {
        self.images.get(role).map_or("", String::as_str)
    }

    /// Where kubeadm takes kube-apiserver and its like from: what all of them have in common.
    fn image_repository(&self) -> &str {
        split_image(self.image("kube-apiserver"))
            .0
            .rsplit_once('/')
            .map_or("", |(repository, _)| repository)
    }

    fn imaged(&self, out: &mut String, indent: &str, role: &str) {
        let (repository, tag) = split_image(self.image(role));
        let parent = repository.rsplit_once('/').map_or("", |(parent, _)| parent);
        writeln!(
            out,
            "{indent}imageRepository: {parent}\n{indent}imageTag: \"{tag}\""
        )
        .expect("a String takes everything");
    }

    /// The `InitConfiguration` and `ClusterConfiguration` of one control plane host, with the kubelet's and kube-proxy's configuration.
    ///
    /// Only what differs from kubeadm's defaults on purpose is in it: each line has its reason here.
    pub fn init_configuration(&self, node: &Peer) -> String {
        let mut out = String::new();
        let Peer { name, address } = node;
        // The address is given: left out, kubeadm takes the one of the default route.
        write!(
            out,
            "apiVersion: kubeadm.k8s.io/v1beta4\nkind: InitConfiguration\n\
             localAPIEndpoint:\n  advertiseAddress: \"{address}\"\n  bindPort: 6443\n\
             nodeRegistration:\n  name: {name}\n  criSocket: unix:///run/containerd/containerd.sock\n  imagePullPolicy: IfNotPresent\n  \
             kubeletExtraArgs:\n  - name: node-ip\n    value: \"{address}\"\n\
             ---\n"
        )
        .expect("a String takes everything");
        out.push_str(&self.cluster_configuration());
        out.push_str("---\n");
        out.push_str(&self.kubelet_configuration());
        out.push_str("---\n");
        out.push_str(&self.proxy_configuration());
        out
    }

    /// The `ClusterConfiguration` alone: the same on every host.
    pub fn cluster_configuration(&self) -> String {
        if let Some(adopted) = &self.adopted {
            let endpoint = self.endpoint.to_string();
            return adopted.cluster_configuration(&endpoint, &self.kubernetes, &self.sans);
        }
        let mut out = String::new();
        let Self {
            cluster,
            kubernetes,
            endpoint,
            pods,
            services,
            ..
        } = self;
        write!(
            out,
            "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nclusterName: {cluster}\n\
             kubernetesVersion: v{kubernetes}\ncontrolPlaneEndpoint: \"{endpoint}\"\nimageRepository: {}\n\
             networking:\n  podSubnet: \"{pods}\"\n  serviceSubnet: \"{services}\"\n",
            self.image_repository()
        )
        .expect("a String takes everything");
        // P-256 instead of RSA: certificates of a host are made in a tenth of the time.
        out.push_str("encryptionAlgorithm: ECDSA-P256\n");
        out.push_str("apiServer:\n  certSANs:\n");
        for san in &self.sans {
            writeln!(out, "  - \"{san}\"").expect("a String takes everything");
        }
        out.push_str("etcd:\n  local:\n");
        self.imaged(&mut out, "    ", "etcd");
        out.push_str("dns:\n");
        self.imaged(&mut out, "  ", "coredns");
        out
    }

    /// The kubelet's configuration.
    pub fn kubelet_configuration(&self) -> String {
        if let Some(text) = self
            .adopted
            .as_ref()
            .and_then(|adopted| adopted.kubelet_configuration())
        {
            return text;
        }
        let mut out =
            String::from("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n");
        match self.kind.cgroup {
            // The kubelet of 1.35 refuses cgroup v1 unless told not to, and systemd's driver needs v2 in nested machines.
            Cgroup::V1 => out.push_str("cgroupDriver: cgroupfs\nfailCgroupV1: false\n"),
            Cgroup::V2 => out.push_str("cgroupDriver: systemd\n"),
        }
        if self.kind.swap {
            out.push_str("failSwapOn: false\n");
        }
        if self.kind.shared_disk {
            // The kubelet's own limits are shares of the disk, 10 % and 15 %: of a large disk that others fill, dozens of gigabytes are
            // left when it takes its node out of use. Images are not in any registry to be pulled from again: none is removed.
            out.push_str(
                "evictionHard:\n  imagefs.available: 1Gi\n  memory.available: 100Mi\n  nodefs.available: 1Gi\n  \
                 nodefs.inodesFree: \"1000\"\nimageGCHighThresholdPercent: 100\n",
            );
        }
        out
    }

    /// kube-proxy's configuration.
    pub fn proxy_configuration(&self) -> String {
        // nftables: iptables mode is on its way out upstream. Connection tracking limits belong to the machine, and where it cannot
        // raise OOM priorities it cannot write them either.
        let mut out = String::from(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\n",
        );
        if !self.kind.oom_score_adjustable {
            out.push_str("conntrack:\n  maxPerCore: 0\n");
        }
        out
    }

    /// A worker's `JoinConfiguration`. `token` and `ca_hash` are put in by the host they were sealed to, into a file only root can read.
    pub fn join_configuration(&self, node: &Peer, token: &str, ca_hash: &str) -> String {
        let Peer { name, address } = node;
        format!(
            "apiVersion: kubeadm.k8s.io/v1beta4\nkind: JoinConfiguration\n\
             discovery:\n  bootstrapToken:\n    apiServerEndpoint: \"{}\"\n    token: \"{token}\"\n    caCertHashes:\n    - \"{ca_hash}\"\n\
             nodeRegistration:\n  name: {name}\n  criSocket: unix:///run/containerd/containerd.sock\n  imagePullPolicy: IfNotPresent\n  \
             kubeletExtraArgs:\n  - name: node-ip\n    value: \"{address}\"\n",
            self.endpoint
        )
    }

    /// The address of the cluster's DNS: the tenth of the service network, by kubeadm's own rule. `None` for a network too small for it.
    pub fn dns_address(&self) -> Option<IpAddr> {
        dns_address(&self.services)
    }
}

/// The tenth address of a service network, where kubeadm puts the cluster's DNS.
pub fn dns_address(services: &str) -> Option<IpAddr> {
    let (base, length) = services.split_once('/')?;
    let (base, length) = (
        base.parse::<std::net::Ipv4Addr>().ok()?,
        length.parse::<u32>().ok()?,
    );
    (length <= 28).then(|| IpAddr::V4((u32::from(base) + 10).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_with_and_without_ports() {
        assert_eq!(
            split_image("quorate.local/etcd:3.6.16-0"),
            ("quorate.local/etcd", "3.6.16-0")
        );
        assert_eq!(split_image("mirror:5000/etcd"), ("mirror:5000/etcd", ""));
    }

    #[test]
    fn dns_is_the_tenth_address() {
        assert_eq!(
            dns_address("10.96.0.0/12"),
            Some("10.96.0.10".parse().unwrap())
        );
        assert_eq!(dns_address("10.96.0.0/29"), None);
    }
}
