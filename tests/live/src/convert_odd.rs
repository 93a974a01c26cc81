//! A cluster that was made long ago and changed by hand since: its endpoint is its master's address, etcd's peer URL is loopback, kubeadm's
//! configuration is of the older API, the apiserver has an audit policy and encrypts, a flag was edited by hand, and somebody inside goes on
//! with the old address. What has to be mended first is said, mended as it is said, and the rest is converted; one join fails half way.

use std::time::Duration;

use anyhow::{Context, Result};
use quorate_testkit::conform::Happened;
use serde_json::Value;

use crate::{
    bare::Bare,
    bring_up::healthy,
    conversion::{Before, MASTERS, api, cluster_file, refused, trusted},
    foreign::{Foreign, MASTER, Shape, WORKERS},
    judge::{ETCDCTL, members},
    killed,
    stage::{Stage, said},
    workload::in_pod,
};

const NAME: &str = "live-odd";
const SUBNET: &str = "172.31.71.0/24";
/// Who is known to hold the old address.
const STRAGGLER: &str = "old-address-in-use=w-2";

/// And so is what it reads it from.
const STORED: &str = "old-address-stored=cp-1";

const ADDRESS: &str = "172.31.71.11";

/// Files of the apiserver's that its owner wrote.
const FILES: [&str; 2] = ["audit-policy.yaml", "encryption.yaml"];

const BEFORE: &str = "
mkdir -p /etc/kubernetes /var/log/kubernetes
cat >/etc/kubernetes/audit-policy.yaml <<'END'
apiVersion: audit.k8s.io/v1
kind: Policy
rules: [{ level: Metadata, resources: [{ group: '', resources: [secrets] }] }]
END
cat >/etc/kubernetes/encryption.yaml <<END
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - aescbc: { keys: [{ name: one, secret: $(head -c 32 /dev/urandom | base64) }] }
  - identity: {}
END
chmod 600 /etc/kubernetes/encryption.yaml
";

/// Of kubeadm's API that is written.
const API_SERVER: &str = "apiServer:
  extraArgs:
  - { name: audit-policy-file, value: /etc/kubernetes/audit-policy.yaml }
  - { name: audit-log-path, value: /var/log/kubernetes/audit.log }
  - { name: encryption-provider-config, value: /etc/kubernetes/encryption.yaml }
  extraVolumes:
  - { name: audit-policy, hostPath: /etc/kubernetes/audit-policy.yaml, mountPath: /etc/kubernetes/audit-policy.yaml, readOnly: true, pathType: File }
  - { name: audit-log, hostPath: /var/log/kubernetes, mountPath: /var/log/kubernetes, pathType: DirectoryOrCreate }
  - { name: encryption, hostPath: /etc/kubernetes/encryption.yaml, mountPath: /etc/kubernetes/encryption.yaml, readOnly: true, pathType: File }
";

const ETCD: &str = "    extraArgs:
    - { name: initial-advertise-peer-urls, value: 'https://127.0.0.1:2380' }
    - { name: initial-cluster, value: 'cp-1=https://127.0.0.1:2380' }
";

/// The same in words of the older API, as a kubeadm of that time kept them.
const OLDER: &str = "apiVersion: kubeadm.k8s.io/v1beta3
kind: ClusterConfiguration
clusterName: kubernetes
certificatesDir: /etc/kubernetes/pki
controlPlaneEndpoint: 172.31.71.11:6443
kubernetesVersion: v1.35.4
imageRepository: quorate.local
apiServer:
  timeoutForControlPlane: 4m0s
  extraArgs:
    audit-policy-file: /etc/kubernetes/audit-policy.yaml
    audit-log-path: /var/log/kubernetes/audit.log
    encryption-provider-config: /etc/kubernetes/encryption.yaml
  extraVolumes:
  - { name: audit-policy, hostPath: /etc/kubernetes/audit-policy.yaml, mountPath: /etc/kubernetes/audit-policy.yaml, readOnly: true, pathType: File }
  - { name: audit-log, hostPath: /var/log/kubernetes, mountPath: /var/log/kubernetes, pathType: DirectoryOrCreate }
  - { name: encryption, hostPath: /etc/kubernetes/encryption.yaml, mountPath: /etc/kubernetes/encryption.yaml, readOnly: true, pathType: File }
controllerManager: {}
scheduler: {}
dns: { imageTag: v1.13.1 }
etcd:
  local:
    dataDir: /var/lib/etcd
    imageTag: 3.6.16-0
    extraArgs:
      initial-advertise-peer-urls: https://127.0.0.1:2380
      initial-cluster: cp-1=https://127.0.0.1:2380
networking: { dnsDomain: cluster.local, podSubnet: 10.244.0.0/16, serviceSubnet: 10.96.0.0/12 }
";

/// How its owner writes it.
const UPLOAD: &str = "kubectl -n kube-system create configmap kubeadm-config --from-file=ClusterConfiguration=/root/older.yaml \
                      --dry-run=client -o yaml | kubectl replace -f -";

/// Somebody inside the cluster who holds the old address.
const LEGACY: &str = "
apiVersion: v1
kind: Pod
metadata: { name: legacy, namespace: default }
spec:
  nodeName: w-2
  containers:
  - { name: pause, image: quorate.local/pause:3.10.1, volumeMounts: [{ name: old, mountPath: /var/run/secrets/old }] }
  volumes: [{ name: old, secret: { secretName: legacy-kubeconfig } }]
";

/// Runs it.
pub fn run(stage: &mut Stage) -> Result<()> {
    let shape = Shape {
        cluster: format!("controlPlaneEndpoint: {ADDRESS}:6443\n{API_SERVER}"),
        etcd: ETCD.into(),
        before: BEFORE.into(),
        after: format!(
            "kubectl create secret generic legacy-kubeconfig --from-file=config=/etc/kubernetes/admin.conf
             kubectl apply -f - <<'END'{LEGACY}END
             sed -i 's/^    - kube-scheduler$/&\\n    - --profiling=false/' /etc/kubernetes/manifests/kube-scheduler.yaml
             cat >/root/older.yaml <<'END'\n{OLDER}END\n{UPLOAD}"
        ),
        ..Shape::default()
    };
    let foreign = Foreign::make(stage, NAME, SUBNET, &shape)?;
    let hosts = &foreign.hosts;
    legacy_client(stage, &foreign)?;
    let file = &cluster_file(stage, hosts, NAME)?;
    trusted(stage, hosts, file)?;
    mended_as_it_is_said(stage, &foreign, file)?;
    // The kubelet reads a manifest that somebody edited when it comes round, and makes the pod anew.
    stage.wait(
        "the scheduler runs as its manifest was edited",
        Duration::from_secs(120),
        |_| {
            foreign.on_master(SCHEDULER).is_ok_and(|pod| {
                pod.contains("--profiling=false") && pod.trim_end().ends_with("True")
            })
        },
    );
    let before = Before::look(&foreign)?;

    like_the_master_first(stage, &foreign, file)?;
    let legacy = legacy(&foreign)?;
    let words = refused(stage, file, &["old-address-in-use"])?;
    stage.check(
        &format!("the pod with the old address is named by its own, {legacy}"),
        words.contains(&legacy),
    );

    stage.check(
        "and so is the Secret that it reads, by its key alone",
        words.contains("Secret default/legacy-kubeconfig, key config: "),
    );

    let verb = [
        "convert", "--accept", STRAGGLER, "--accept", STORED, "--yes", "-f", file,
    ];
    killed::when_learner(stage, hosts, &verb)?;
    hosts.run(
        "cp-2",
        "for n in $(seq 100); do pgrep '^quorate-' >/dev/null || break; sleep 0.2; done; kubeadm reset -f >/dev/null 2>&1",
    )?;
    stage.tell(NAME, Happened::ByHand);
    let left = members(hosts, MASTER)?;
    stage.check_eq(
        "`kubeadm reset` of the broken joiner leaves its member, says etcdctl",
        &left.iter().filter(|member| member.learner).count(),
        &1,
    );
    stage.succeed(&["repair", "--yes", "-f", file])?;
    stage.check_eq(
        "`quorate repair` takes it back",
        &members(hosts, MASTER)?.len(),
        &1,
    );
    stage.succeed(&verb)?;

    healthy(stage, file, Duration::from_secs(120))?;
    let api = api(stage, hosts, file, NAME)?;
    api.whole(stage, hosts, &MASTERS, &WORKERS)?;
    before.unharmed(stage, &foreign)?;
    encrypted_alike(stage, hosts)?;
    let applied = stage.succeed(&["apply", "--yes", "-f", file])?;
    stage.check(
        "`apply` has nothing to do",
        said(&applied).to_lowercase().contains("nothing to do"),
    );
    stage.check(
        "the straggler never had to begin anew",
        hosts.holds("w-2", "systemctl is-active --quiet legacy"),
    );
    Ok(())
}

/// Each finding of `quorate adopt` is mended in its own words, until there is none.
fn mended_as_it_is_said(stage: &mut Stage, foreign: &Foreign, file: &str) -> Result<()> {
    for _ in 0..4 {
        let looked = stage.json(&["adopt", file, "-o", "json"])?;
        if looked["verdict"] == "ready" {
            break;
        }
        let findings = looked["findings"].as_array().context("it lists findings")?;
        let mut mended = false;
        for finding in findings {
            let text = finding.to_string();
            stage.say(&format!("        {text}"));
            if let Some((_, rest)) = text.split_once("`etcdctl member update ") {
                let command = rest.split('`').next().unwrap_or_default();
                foreign
                    .hosts
                    .run(MASTER, &format!("{ETCDCTL} member update {command}"))?;
                mended = true;
            }
            if text.contains("etcd.local.extraArgs") {
                foreign.on_master(&format!(
                    "sed -i -e '/^    extraArgs:$/d' -e '/^      initial-/d' /root/older.yaml\n{UPLOAD}"
                ))?;
                mended = true;
            }
        }
        if !mended {
            break;
        }
    }
    let looked = stage.json(&["adopt", file, "-o", "json"])?;
    let findings = looked["findings"].as_array().context("it lists findings")?;
    let left: Vec<String> = findings.iter().map(Value::to_string).collect();
    stage.check(
        "mended as it was said, all that is left is the manifest that was edited by hand",
        left.len() == 1
            && left[0].contains("kube-scheduler.yaml")
            && left[0].contains("--profiling"),
    );
    Ok(())
}

/// How the scheduler was started, and whether it is ready.
const SCHEDULER: &str = r#"kubectl get pod -n kube-system kube-scheduler-cp-1 -o jsonpath='{.spec.containers[0].command} {.status.conditions[?(@.type=="Ready")].status}'"#;

/// A watch from inside a pod, with the kubeconfig that is mounted into it. It ends when its connection does.
fn legacy_client(stage: &mut Stage, foreign: &Foreign) -> Result<()> {
    stage.wait("the straggler's pod runs", Duration::from_secs(60), |_| {
        foreign
            .on_master("kubectl get pod legacy --no-headers")
            .is_ok_and(|line| line.contains("1/1"))
    });
    foreign.hosts.run(
        "w-2",
        "printf '#!/bin/sh\\nexec kubectl --kubeconfig $1/var/run/secrets/old/config get pods -A -w\\n' >/root/watch; chmod +x /root/watch",
    )?;
    in_pod(foreign, "default", "legacy", "w-2", "legacy", "/root/watch")
}

/// The address of the pod that goes on with the old one.
fn legacy(foreign: &Foreign) -> Result<String> {
    let address = foreign.on_master("kubectl get pod legacy -o jsonpath='{.status.podIP}'")?;
    Ok(address.trim().to_owned())
}

/// Before anything is changed it is said in what joiners would differ: files that they do not have, and a flag that kubeadm never heard of.
fn like_the_master_first(stage: &mut Stage, foreign: &Foreign, file: &str) -> Result<()> {
    let hosts = &foreign.hosts;
    let words = refused(stage, file, &["joiner-differs"])?;
    for name in FILES.into_iter().chain(["--profiling"]) {
        stage.check(
            &format!("{name} is named, which the joiners would not have"),
            words.contains(name),
        );
    }
    stage.check(
        "and nothing was kept yet, because nothing was changed",
        hosts.holds(MASTER, "! test -e /var/lib/quorate/conversion"),
    );
    for joiner in &MASTERS[1..] {
        hosts.run(joiner, "mkdir -p /etc/kubernetes")?;
        for name in FILES {
            let path = format!("/etc/kubernetes/{name}");
            let text = hosts.run(MASTER, &format!("cat {path}"))?;
            hosts.run(
                joiner,
                &format!("umask 077; cat >{path} <<'END'\n{text}END"),
            )?;
        }
    }
    foreign.on_master(&format!(
        "sed -i 's/^scheduler: .*/scheduler: {{ extraArgs: {{ profiling: \"false\" }} }}/' /root/older.yaml\n{UPLOAD}"
    ))?;
    stage.tell(NAME, Happened::ByHand);
    Ok(())
}

/// A Secret that the first master encrypted is read from each of the others.
fn encrypted_alike(stage: &mut Stage, hosts: &Bare) -> Result<()> {
    let stored = hosts.run(
        MASTER,
        &format!("{ETCDCTL} get /registry/secrets/default/legacy-kubeconfig | head -c 200 | tr -d '\\000'"),
    )?;
    stage.check(
        "Secrets are encrypted in etcd",
        stored.contains("k8s:enc:aescbc:v1:one"),
    );
    for joined in &MASTERS[1..] {
        let read = hosts.run(
            joined,
            "kubectl --kubeconfig /etc/kubernetes/admin.conf --server https://$(hostname -I | cut -d' ' -f1):6443 \
             get secret legacy-kubeconfig -o jsonpath='{.data.config}' | base64 -d",
        );
        stage.check(
            &format!("{joined} reads what {MASTER} encrypted"),
            read.is_ok_and(|text| text.contains(ADDRESS)),
        );
    }
    Ok(())
}
