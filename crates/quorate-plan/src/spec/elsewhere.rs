//! Keys of other tools, so that a message can name ours.

/// What people call things elsewhere.
pub(super) const ELSEWHERE: &[(&str, &str)] = &[
    ("masters", "controlPlane"),
    ("controlplanes", "controlPlane"),
    ("nodes", "workers"),
    ("version", "kubernetes"),
    ("kubernetesVersion", "kubernetes"),
    ("k8s", "kubernetes"),
    ("clusterName", "name"),
    ("loadBalancer", "endpoint.balancer"),
    ("controlPlaneEndpoint", "endpoint.host"),
    ("podSubnet", "network.pods"),
    ("podCIDR", "network.pods"),
    ("serviceSubnet", "network.services"),
    ("serviceCIDR", "network.services"),
    ("plugin", "cni"),
    ("ip", "address"),
    ("hostname", "name"),
    ("sshUser", "user"),
    ("sshPort", "port"),
    ("key", "identity"),
    ("keyFile", "identity"),
    ("privateKey", "identity"),
    ("replicas", "count"),
    ("type", "kind"),
];
