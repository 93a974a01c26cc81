//! What is left on a host that went. Start at [`judge`].

use crate::{bare::Bare, stage::Stage};

/// Nothing of the cluster is left on it, but what was moved aside.
pub fn judge(stage: &mut Stage, hosts: &Bare, host: &str) {
    for (about, condition) in [
        (
            "nothing of Kubernetes or etcd runs",
            "! pgrep -x 'etcd|kubelet|kube-apiserver|kube-controller|kube-scheduler|kube-proxy|flanneld'",
        ),
        (
            "there is no container",
            "test -z \"$(ctr -n k8s.io tasks list -q)\"",
        ),
        (
            "the kubelet does not start at boot",
            "! systemctl is-enabled -q kubelet",
        ),
        (
            "no configuration of Kubernetes is left",
            "test ! -e /etc/kubernetes",
        ),
        (
            "no data of etcd is left in place",
            "test ! -e /var/lib/etcd/member",
        ),
        (
            "it lies aside, for root alone",
            "ls -d /var/lib/quorate/aside/*/var/lib/etcd/member/wal && test $(stat -c %a /var/lib/quorate/aside) = 700",
        ),
        (
            "so do the certificate authorities' keys",
            "ls /var/lib/quorate/aside/*/etc/kubernetes/pki/ca.key",
        ),
        (
            "no mark and no marker are left",
            "test ! -e /var/lib/quorate/mark.json && test ! -e /var/lib/quorate/etcd-member.json",
        ),
        (
            "no link of the pod network is left",
            "! ip -o link show | grep -qE 'cni0|flannel|veth'",
        ),
        (
            "no packet rule of Kubernetes is left",
            "! nft list ruleset | grep -qE 'KUBE-|kube-proxy|flannel'",
        ),
        (
            "/etc/hosts names nothing of the cluster",
            "! grep -q quorate /etc/hosts",
        ),
    ] {
        stage.check(
            &format!("{host} has left: {about}"),
            hosts.holds(host, condition),
        );
    }
}
