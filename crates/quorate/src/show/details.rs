//! What `plan -v` says about a step beyond its name: every setting it would make.

use quorate_plan::{
    Ensure, HostEnsure, Plan, Step, kubeadm::ClusterSettings, step::InfraEnsure, step::Network,
};

use crate::console::{Paint, Style};

/// Lines about one step.
pub fn of(step: &Step) -> Vec<String> {
    let mut lines = match &step.ensure {
        Ensure::Infra(InfraEnsure::Machine { address, .. }) => vec![format!("address {address}")],
        Ensure::Infra(InfraEnsure::MachineOff { node }) => {
            vec![format!(
                "`quorate local destroy {node}` removes it with its disks"
            )]
        }
        Ensure::Infra(
            InfraEnsure::Target { instance, .. } | InfraEnsure::TargetGone { instance, .. },
        ) => vec![format!("instance {instance}, asked of AWS by this machine")],
        Ensure::Host(ensure) => host(ensure),
    };
    if let Some(handover) = &step.handover {
        lines.push(format!("given by {}, sealed", handover.from()));
    }
    lines
}

fn host(ensure: &HostEnsure) -> Vec<String> {
    match ensure {
        HostEnsure::Prepared {
            mark,
            sysctls,
            hosts_file,
        } => {
            let mut lines = vec![format!(
                "mark: cluster {}, node {}",
                mark.cluster, mark.node
            )];
            lines.extend(
                sysctls
                    .iter()
                    .map(|(name, value)| format!("{name} = {value}")),
            );
            lines.extend(
                hosts_file
                    .iter()
                    .map(|(name, address)| format!("/etc/hosts: {address} {name}")),
            );
            lines
        }
        HostEnsure::EtcdVolume { device, .. } => {
            let mut lines = vec![
                "ext4 with the label quorate-etcd, only where nothing is".to_owned(),
                "mounted on /var/lib/quorate/etcd, its folder `data` on /var/lib/etcd".to_owned(),
            ];
            let others = device.names().iter().skip(1);
            lines.extend(others.map(|name| format!("where there is no such device: {name}")));
            lines
        }
        HostEnsure::Bundle { id } => vec![format!("bundle {id}")],
        HostEnsure::Components {
            runtime, packages, ..
        } => {
            let mut lines = vec![
                format!("sandbox image {}", runtime.pause_image),
                format!("cgroup {:?}", runtime.kind.cgroup).to_lowercase(),
            ];
            lines.extend(packages.iter().flat_map(|packages| {
                [
                    format!("from {}", packages.repository),
                    format!("which the key in {} signs", packages.key_file),
                ]
            }));
            lines
        }
        HostEnsure::Images { images, .. } => images.iter().cloned().collect(),
        HostEnsure::Balancer { listen, .. } => vec![format!("listens on {listen}")],
        HostEnsure::Backend { address, .. } => vec![format!("forwards to {address}")],
        HostEnsure::EtcdMember { founders, node, .. } => {
            let mut lines = vec![format!("peers reach it at {}", node.peer_url())];
            lines.extend(
                founders
                    .iter()
                    .map(|peer| format!("initial cluster: {}={}", peer.name, peer.peer_url())),
            );
            lines
        }
        HostEnsure::Learner { joiner } => vec![format!("peers reach it at {}", joiner.peer_url())],
        HostEnsure::Network {
            network: Network::Flannel { pods, image },
        } => vec![format!("pods {pods}"), image.clone()],
        HostEnsure::Network {
            network: Network::Manifest { digest, .. },
        } => vec![format!("sha256 {digest}")],
        HostEnsure::SharedAddress { peers, port, .. } => vec![
            format!("port {port} is redirected to this host's balancer"),
            format!("keepalived among {} hosts", peers.len()),
        ],
        HostEnsure::Keepalived {}
        | HostEnsure::SharedAddressPeerGone { .. }
        | HostEnsure::SharedAddressGone {}
        | HostEnsure::Authority { .. }
        | HostEnsure::Certificates { .. }
        | HostEnsure::ControlPlane { .. }
        | HostEnsure::Kubelet { .. }
        | HostEnsure::Serving { .. }
        | HostEnsure::ClusterConfig { .. }
        | HostEnsure::ClusterDns { .. }
        | HostEnsure::Registered { .. }
        | HostEnsure::Guarded {}
        | HostEnsure::FoundingOver {}
        | HostEnsure::Voter { .. }
        | HostEnsure::Worker { .. }
        | HostEnsure::Rehearsed { .. }
        | HostEnsure::BackendGone { .. }
        | HostEnsure::ControlPlaneGone { .. }
        | HostEnsure::MemberGone { .. }
        | HostEnsure::NodeGone { .. }
        | HostEnsure::EndpointGone { .. }
        | HostEnsure::UploadedCertsGone {}
        | HostEnsure::ServingCertificateKept { .. }
        | HostEnsure::Configuration { .. }
        | HostEnsure::ClusterInfo { .. }
        | HostEnsure::ProxyConfig { .. }
        | HostEnsure::DnsSpread {}
        | HostEnsure::TokensGone {} => Vec::new(),
        HostEnsure::BackedUp { .. } | HostEnsure::BackupAside {} => {
            vec!["in /var/lib/quorate/conversion".to_owned()]
        }
        HostEnsure::OldAddress {
            rule: Some(rule), ..
        } => {
            let inside: Vec<&str> = rule.inside.iter().map(String::as_str).collect();
            vec![format!("the cluster is {}", inside.join(", "))]
        }
        HostEnsure::OldAddress { rule: None, .. } => Vec::new(),
        HostEnsure::BackupOffHost { .. } => {
            vec!["sealed on the host with age; `quorate backup show` opens it".to_owned()]
        }
        HostEnsure::ServingCertificate { settings, .. } => {
            let names: Vec<&str> = settings.sans.iter().map(String::as_str).collect();
            vec![format!("names {}", names.join(", "))]
        }
        HostEnsure::ConfigurationKept { .. } | HostEnsure::KubeconfigsKept { .. } => {
            vec!["from /var/lib/quorate/conversion".to_owned()]
        }
        HostEnsure::Proxy { .. } => vec!["its pod is made anew; the node's rules stay".to_owned()],
        HostEnsure::Kubeconfigs { old, .. } => {
            let old: Vec<&str> = old.iter().map(String::as_str).collect();
            vec![format!("away from {}", old.join(", "))]
        }
        HostEnsure::LeaderMoved { to, .. } => {
            let to: Vec<&str> = to.iter().map(|peer| peer.name.as_str()).collect();
            vec![format!("to one of {}", to.join(", "))]
        }
        HostEnsure::FoundingAside { .. } => vec![
            "moved aside: etcd's data, certificate authorities, static pod manifests".to_owned(),
            "ended: the kubelet and every container".to_owned(),
        ],
        HostEnsure::Reset { .. } => vec![
            "kubeadm reset without touching etcd's membership".to_owned(),
            "moved aside: etcd's data, certificate authorities, static pod manifests".to_owned(),
            "deleted: kubeconfigs, the kubelet's and the pod network's state".to_owned(),
        ],
    }
}

/// kubeadm's configuration, which is the same on every master.
pub fn kubeadm(plan: &Plan, paint: Paint) -> String {
    let Some(settings) = plan.steps().find_map(settings) else {
        return String::new();
    };
    let mut out = format!(
        "{}\n",
        paint.paint(Style::Bold, "kubeadm's configuration, on every master")
    );
    let documents = [
        settings.cluster_configuration(),
        settings.kubelet_configuration(),
        settings.proxy_configuration(),
    ];
    for (i, document) in documents.iter().enumerate() {
        if i > 0 {
            out += "    ---\n";
        }
        for line in document.lines() {
            out += &format!("    {line}\n");
        }
    }
    out
}

fn settings(step: &Step) -> Option<&ClusterSettings> {
    match &step.ensure {
        Ensure::Host(
            HostEnsure::Certificates { settings, .. }
            | HostEnsure::ControlPlane { settings, .. }
            | HostEnsure::Rehearsed { settings, .. }
            | HostEnsure::ServingCertificate { settings, .. }
            | HostEnsure::Configuration { settings, .. }
            | HostEnsure::ClusterConfig { settings, .. }
            | HostEnsure::ClusterDns { settings, .. },
        ) => Some(settings),
        Ensure::Host(_) | Ensure::Infra(_) => None,
    }
}
