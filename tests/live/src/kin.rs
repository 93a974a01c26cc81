//! A cluster that was founded together, not by `kubeadm init`, is one of kubeadm's own all the same: its stock commands join hosts to it,
//! renew its certificates, plan its upgrade and take hosts away again, and what they write is what Quorate wrote.
//!
//! One worker is the spare host: `kubeadm reset` takes it out, and it comes back as a worker and as a control plane host, by kubeadm alone.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result};
use quorate_testkit::conform::Happened;

use crate::{
    bare::Bare,
    bring_up::healthy,
    judge::{Api, voters},
    stage::Stage,
};

const NAME: &str = "live-kin";
const SUBNET: &str = "172.31.65.0/24";
const ENDPOINT: &str = "api.live-kin.internal:6443";
const MASTERS: [&str; 3] = ["cp-1", "cp-2", "cp-3"];
const SPARE: &str = "w-2";

/// What kubeadm's preflight does not like about hosts in namespaces: the kernel's configuration cannot be read there.
pub const IGNORED: &str = "--ignore-preflight-errors=SystemVerification";

/// Runs it.
pub fn run(stage: &mut Stage) -> Result<()> {
    let file = stage.local_cluster(NAME, SUBNET, 3, 2)?;
    listed_first(stage, &file)?;
    stage.succeed(&["apply", "--yes", "-f", &file])?;
    let hosts = Bare::open(NAME)?;
    let api = Api::of(stage, &file, None)?;
    api.whole(stage, &hosts, &MASTERS, &["w-1", SPARE])?;
    // A worker of the file is going to be a master by kubeadm's own hands, and the file's rules keep workers away from etcd.
    hosts.open_all()?;
    let kin = Kin { file, hosts, api };
    kin.configuration(stage)?;
    kin.worker(stage)?;
    kin.control_plane(stage)?;
    kin.back(stage)?;
    kin.certificates(stage)?;
    kin.upgrade(stage)?;
    kin.reboot(stage)
}

/// What local hosts change on this machine is listed before it is made, and only what they would change.
fn listed_first(stage: &mut Stage, file: &str) -> Result<()> {
    const SETTING: &str = "fs.inotify.max_user_instances";
    let now = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_instances")?;
    let changes = now.trim().parse::<u64>()? < 8192;
    let plan = crate::stage::said(&stage.quorate(&["plan", "-f", file])?);
    stage.check_eq(
        "a plan lists what would change on this machine",
        &plan.contains(SETTING),
        &changes,
    );
    Ok(())
}

struct Kin {
    file: String,
    hosts: Bare,
    api: Api,
}

impl Kin {
    /// Runs a command on a host, as a check: the case goes on to see more.
    fn works(&self, stage: &mut Stage, host: &str, what: &str, script: &str) -> Option<String> {
        let said = self.hosts.run(host, script);
        stage.check(&format!("{what} on {host}"), said.is_ok());
        match said {
            Ok(said) => Some(said),
            Err(error) => {
                stage.say(&crate::stage::tail(&format!("{error:#}"), 30));
                None
            }
        }
    }

    /// What kubeadm keeps in the cluster for later commands.
    fn configuration(&self, stage: &mut Stage) -> Result<()> {
        let config = self.api.kubectl(
            stage,
            &[
                "-n",
                "kube-system",
                "get",
                "configmap",
                "kubeadm-config",
                "-o",
                "jsonpath={.data.ClusterConfiguration}",
            ],
        )?;
        for words in [
            "kind: ClusterConfiguration",
            "controlPlaneEndpoint: api.live-kin.internal:6443",
            "kubernetesVersion: v1.35.4",
            "podSubnet: 10.244.0.0/16",
            "serviceSubnet: 10.96.0.0/12",
        ] {
            stage.check(
                &format!("kubeadm-config says {words}"),
                config.contains(words),
            );
        }
        if let Some(images) = self.works(
            stage,
            "cp-1",
            "`kubeadm config images list` with the cluster's own configuration",
            "kubectl --kubeconfig /etc/kubernetes/admin.conf -n kube-system get cm kubeadm-config \
             -o 'jsonpath={.data.ClusterConfiguration}' >/tmp/cluster.yaml; kubeadm config images list --config /tmp/cluster.yaml",
        ) {
            let there = self.hosts.run("cp-1", "ctr -n k8s.io images ls -q")?;
            let missing: Vec<&str> = images
                .lines()
                .filter(|image| !there.lines().any(|one| one == *image))
                .collect();
            stage.check_eq(
                "every image that kubeadm would use is on the master",
                &missing,
                &Vec::new(),
            );
        }
        Ok(())
    }

    /// `kubeadm reset`, and the Node object deleted, as kubeadm's documentation says.
    fn take_out(&self, stage: &mut Stage) -> Result<()> {
        self.works(
            stage,
            SPARE,
            "`kubeadm reset`",
            "kubeadm reset -f 2>&1; rm -f /etc/cni/net.d/*; ip link del cni0 2>/dev/null || true; ip link del flannel.1 2>/dev/null || true",
        );
        self.api.kubectl(stage, &["delete", "node", SPARE])?;
        Ok(())
    }

    /// The command that kubeadm prints for joining.
    fn join_command(&self, stage: &mut Stage) -> Result<String> {
        let printed = self
            .works(
                stage,
                "cp-1",
                "`kubeadm token create --print-join-command`",
                "kubeadm token create --print-join-command 2>/dev/null",
            )
            .context("there is a command to join with")?;
        stage.check(
            "kubeadm names the endpoint, not a master",
            printed.contains(&format!("kubeadm join {ENDPOINT}")),
        );
        // An administrator's own setting: these hosts have no default route that the kubelet could take their address from.
        let address = self.hosts.address(SPARE)?;
        self.hosts.run(
            SPARE,
            &format!("echo 'KUBELET_EXTRA_ARGS=--node-ip={address}' >/etc/default/kubelet"),
        )?;
        Ok(printed.trim().to_owned())
    }

    fn worker(&self, stage: &mut Stage) -> Result<()> {
        self.take_out(stage)?;
        let join = self.join_command(stage)?;
        self.works(
            stage,
            SPARE,
            "stock `kubeadm join` of a worker",
            &format!("{join} --node-name {SPARE} {IGNORED} 2>&1"),
        );
        self.ready(
            stage,
            "the worker that kubeadm joined is Ready",
            &["w-1", SPARE],
        );
        self.take_out(stage)
    }

    fn ready(&self, stage: &mut Stage, what: &str, workers: &[&str]) {
        let wanted: BTreeSet<String> = [&MASTERS[..], workers]
            .concat()
            .iter()
            .map(|name| (*name).to_owned())
            .collect();
        stage.wait(what, Duration::from_secs(120), |stage| {
            self.api.ready(stage).is_ok_and(|ready| ready == wanted)
        });
    }

    fn control_plane(&self, stage: &mut Stage) -> Result<()> {
        let join = self.join_command(stage)?;
        let key = self
            .works(
                stage,
                "cp-1",
                "`kubeadm init phase upload-certs`",
                "kubeadm init phase upload-certs --upload-certs 2>/dev/null | tail -n 1",
            )
            .context("there is a certificate key")?;
        self.hosts.run(
            SPARE,
            "for image in /var/lib/quorate/bundles/*/images/*.tar; do ctr -n k8s.io images import $image >/dev/null; done",
        )?;
        let address = self.hosts.address(SPARE)?;
        self.works(
            stage,
            SPARE,
            "stock `kubeadm join --control-plane`",
            &format!(
                "{join} --control-plane --certificate-key {} --apiserver-advertise-address {address} --node-name {SPARE} {IGNORED} 2>&1",
                key.trim()
            ),
        );
        let four: BTreeSet<String> = ["cp-1", "cp-2", "cp-3", SPARE].map(str::to_owned).into();
        stage.wait(
            "etcd has a fourth voter, says etcdctl",
            Duration::from_secs(60),
            |_| voters(&self.hosts, "cp-1").is_ok_and(|seen| seen == four),
        );
        self.ready(
            stage,
            "the master that kubeadm joined is Ready",
            &["w-1", SPARE],
        );
        for name in [
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "etcd",
        ] {
            self.alike(stage, name)?;
        }
        self.take_out(stage)?;
        let three: BTreeSet<String> = MASTERS.map(str::to_owned).into();
        stage.wait(
            "`kubeadm reset` took it out of etcd",
            Duration::from_secs(60),
            |_| voters(&self.hosts, "cp-1").is_ok_and(|seen| seen == three),
        );
        Ok(())
    }

    /// The static pod that kubeadm wrote is the one that Quorate wrote, but for what is the host's own.
    fn alike(&self, stage: &mut Stage, name: &str) -> Result<()> {
        let manifest = |host: &str| -> Result<BTreeSet<String>> {
            let text = self
                .hosts
                .run(host, &format!("cat /etc/kubernetes/manifests/{name}.yaml"))?;
            let address = self.hosts.address(host)?.to_string();
            Ok(text
                .lines()
                .filter(|line| !line.contains("--initial-cluster"))
                .map(|line| {
                    line.replace(&address, "ADDRESS")
                        .replace(&format!("name={host}"), "name=NAME")
                })
                .collect())
        };
        let (ours, theirs) = (manifest("cp-1")?, manifest(SPARE)?);
        crate::judge::same(
            stage,
            &format!("kubeadm writes the same {name}.yaml as Quorate"),
            &ours,
            &theirs,
        );
        Ok(())
    }

    /// What kubeadm's commands left is cleared away, and Quorate takes the spare host in again.
    fn back(&self, stage: &mut Stage) -> Result<()> {
        self.hosts.run(
            "cp-1",
            "export KUBECONFIG=/etc/kubernetes/admin.conf; for token in $(kubeadm token list | awk 'NR > 1 { print $1 }'); do \
             kubeadm token delete $token; done; kubectl -n kube-system delete secret kubeadm-certs --ignore-not-found",
        )?;
        self.hosts.run(SPARE, "rm -f /etc/default/kubelet")?;
        stage.tell(NAME, Happened::ByHand);
        stage.succeed(&["apply", "--yes", "-f", &self.file])?;
        healthy(stage, &self.file, Duration::from_secs(120))?;
        self.api
            .whole(stage, &self.hosts, &MASTERS, &["w-1", SPARE])?;
        self.api.no_join_secrets(stage)
    }

    fn certificates(&self, stage: &mut Stage) -> Result<()> {
        for host in MASTERS {
            let checked = self.works(
                stage,
                host,
                "`kubeadm certs check-expiration`",
                "kubeadm certs check-expiration 2>&1",
            );
            stage.check(
                &format!("{host}: kubeadm misses no certificate"),
                checked.is_some_and(|said| !said.contains("MISSING") && said.contains("etcd-peer")),
            );
            let renewed = self.works(
                stage,
                host,
                "`kubeadm certs renew all`",
                "touch /tmp/before; sleep 0.01; kubeadm certs renew all 2>&1; \
                 test -z \"$(find /etc/kubernetes/pki -name '*.crt' ! -name ca.crt ! -name front-proxy-ca.crt ! -newer /tmp/before)\"",
            );
            stage.check(
                &format!("{host}: every certificate is a new one"),
                renewed.is_some(),
            );
        }
        stage.say("renewed by kubeadm, the cluster stays healthy");
        healthy(stage, &self.file, Duration::from_secs(60))?;
        Ok(())
    }

    fn upgrade(&self, stage: &mut Stage) -> Result<()> {
        // It runs a Job of its own to see whether pods start, and gives that 15 s: on a busy machine not always enough at the first try.
        let plan = format!("kubeadm upgrade plan v1.35.4 {IGNORED} 2>&1");
        stage.wait(
            "`kubeadm upgrade plan` to the version that runs, on cp-1",
            Duration::from_secs(120),
            |_| self.hosts.holds("cp-1", &plan),
        );
        self.works(
            stage,
            "cp-1",
            "`kubeadm upgrade apply --dry-run`",
            &format!("kubeadm upgrade apply v1.35.4 --yes --dry-run {IGNORED} 2>&1"),
        );
        for host in ["cp-2", "cp-3"] {
            self.works(
                stage,
                host,
                "`kubeadm upgrade node --dry-run`",
                &format!("kubeadm upgrade node --dry-run {IGNORED} 2>&1"),
            );
        }
        Ok(())
    }

    /// All hosts at once, by themselves.
    fn reboot(&self, stage: &mut Stage) -> Result<()> {
        let all = ["cp-1", "cp-2", "cp-3", "w-1", SPARE, "lb-1"];
        let boots = |kin: &Self| -> Vec<Option<String>> {
            // The first process' start: the kernel, and with it its boot ID, is the machine's.
            let first = "stat -c %Y /proc/1; cut -d' ' -f22 /proc/1/stat";
            all.map(|host| kin.hosts.run(host, first).ok()).into()
        };
        let before = boots(self);
        for host in all {
            self.hosts.run(host, "systemctl --no-block reboot")?;
        }
        stage.wait(
            "every host has booted again",
            Duration::from_secs(180),
            |_| {
                let now = boots(self);
                now.iter()
                    .zip(&before)
                    .all(|(now, before)| now.is_some() && now != before)
            },
        );
        for host in all {
            self.hosts.booted(host)?;
        }
        healthy(stage, &self.file, Duration::from_secs(300))?;
        self.api
            .whole(stage, &self.hosts, &MASTERS, &["w-1", SPARE])?;
        let again = stage.succeed(&["apply", "--yes", "-f", &self.file])?;
        stage.check(
            "after all that there is nothing to do",
            crate::stage::said(&again).contains("nothing to do"),
        );
        Ok(())
    }
}
