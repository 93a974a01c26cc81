//! `cargo xtask bench replace`: dead masters of one cluster are replaced by hand, with kubeadm and etcdctl as their documentation has it, and
//! by Quorate, in turn. What is timed begins with the removal of the dead member, and ends when there are three voters and the successor, a
//! booted host with its images, answers `/readyz`.

use std::{fs, path::Path, process::Command, time::Instant};

use anyhow::{Context, Result, bail};
use quorate_testkit::conform::Happened;

use crate::{
    Case, bench_convert, bench_orchestrate,
    judge::{ETCDCTL, leader, members, voters},
    kin::IGNORED,
    masters::Masters,
    stage::Stage,
};

const NAME: &str = "bench-replace";

/// Replacements of each kind, when `QUORATE_ROUNDS` says nothing else.
const ROUNDS: usize = 5;

/// The host that takes a dead master's place by hand.
const SPARE: &str = "spare";

/// Settings of a host that kubeadm can join, below its root.
const SETTINGS: &[&str] = &[
    "etc/containerd",
    "etc/systemd/system",
    "etc/sysctl.d",
    "etc/hosts",
];

/// Where the parts of a bundle go.
const INSTALLED: &[(&str, &str)] = &[
    ("bin", "usr/local/bin"),
    ("cni", "opt/cni/bin"),
    ("images", "root/images"),
];

/// What `cargo xtask bench` runs: figures, not checks, although what is measured is checked as well.
pub const BENCHES: &[Case] = &[
    Case {
        name: NAME,
        full: true,
        budget_s: 1800,
        kubernetes: None,
        about: "a dead master replaced by hand, with kubeadm, and by Quorate, in turn",
        run: replace,
    },
    Case {
        name: bench_orchestrate::NAME,
        full: true,
        budget_s: 1800,
        kubernetes: None,
        about: "three masters by quorate apply and by plays, with Ansible's connections and with Mitogen's",
        run: bench_orchestrate::run,
    },
    Case {
        name: bench_convert::NAME,
        full: true,
        budget_s: 1800,
        kubernetes: None,
        about: "a single master becomes three under load: gaps, failed requests, and what each stage took",
        run: bench_convert::run,
    },
];

/// Repetitions, as `cargo xtask bench` was told.
pub fn rounds(otherwise: usize) -> Result<usize> {
    match std::env::var("QUORATE_ROUNDS") {
        Ok(text) => text.parse().context("QUORATE_ROUNDS is a number"),
        Err(_) => Ok(otherwise),
    }
}

/// Runs it.
fn replace(stage: &mut Stage) -> Result<()> {
    let rounds = rounds(ROUNDS)?;
    let bench = Bench {
        masters: Masters::begin(stage, NAME, "172.31.68.0/24")?,
    };
    bench.make_spare(stage)?;
    let mut there = ["cp-1", "cp-2", "cp-3"].map(str::to_owned).to_vec();
    let mut names = (4..).map(|number| format!("cp-{number}"));
    let (mut by_hand, mut by_quorate) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        for hand in [true, false] {
            let next = names.next().context("there is a name")?;
            let dead = bench.strike(stage, &mut there, &next)?;
            if hand {
                stage.tell(NAME, Happened::ByHand);
                by_hand.push(bench.by_hand(stage, &there, &dead)?);
                bench.take_spare_back(stage, &there)?;
                bench.masters.replace(stage, &dead, &next)?;
            } else {
                bench.masters.replace(stage, &dead, &next)?;
                by_quorate.push(bench.masters.exchange_s(stage)?);
            }
            let names: Vec<&str> = there.iter().map(String::as_str).collect();
            bench.masters.judge(stage, &names)?;
            stage.succeed(&[
                "local",
                "destroy",
                &dead,
                "--yes",
                "-f",
                bench.masters.file(),
            ])?;
        }
    }
    let load = fs::read_to_string("/proc/loadavg")?;
    println!(
        "a dead master replaced, from its removal to a serving successor, {rounds} of each kind in turn"
    );
    println!("load average of this machine: {}", load.trim());
    let (hand, quorate) = (Figures::of(by_hand), Figures::of(by_quorate));
    println!("by hand  {hand}");
    println!(
        "quorate  {quorate}   {:.2}x by hand",
        quorate.median / hand.median
    );
    Ok(())
}

struct Bench {
    masters: Masters,
}

impl Bench {
    /// A booted host with components and images, in no cluster.
    fn make_spare(&self, stage: &mut Stage) -> Result<()> {
        let hosts = self.masters.hosts();
        hosts.create(SPARE, 90)?;
        let (like, disk) = (hosts.disk("w-1")?, hosts.disk(SPARE)?);
        for path in SETTINGS.iter().filter(|path| like.join(path).exists()) {
            copy(&like.join(path), &disk.join(path))?;
        }
        for (part, place) in INSTALLED {
            copy(&stage.bundle.join(part), &disk.join(place))?;
        }
        hosts.power_on(SPARE)?;
        let address = hosts.address(SPARE)?;
        hosts.run(
            SPARE,
            &format!(
                "rm -rf /etc/systemd/system/kubelet.service.d/*quorate*; systemctl daemon-reload; sysctl -q --system 2>/dev/null || true
                 echo 'KUBELET_EXTRA_ARGS=--node-ip={address} --eviction-hard=imagefs.available<1Gi,memory.available<100Mi,nodefs.available<1Gi' \
                 >/etc/default/kubelet
                 systemctl enable --now containerd || {{ journalctl -u containerd -n 30 --no-pager; exit 1; }}; systemctl enable kubelet
                 for image in /root/images/*.tar; do ctr -n k8s.io images import $image >/dev/null; done"
            ),
        )?;
        stage.say("there is a spare host");
        Ok(())
    }

    /// One that does not lead dies, and everybody knows: whoever replaces it has seen it dead for a while. `next` is in the file for it.
    fn strike(&self, stage: &mut Stage, there: &mut [String], next: &str) -> Result<String> {
        let names: Vec<&str> = there.iter().map(String::as_str).collect();
        let leading = leader(self.masters.hosts(), &names)?;
        let dead = names
            .into_iter()
            .find(|one| **one != leading)
            .context("one does not lead")?
            .to_owned();
        self.masters.hosts().power_off(&dead)?;
        for one in there.iter_mut().filter(|one| **one == dead) {
            next.clone_into(one);
        }
        let names: Vec<&str> = there.iter().map(String::as_str).collect();
        self.masters.want(stage, &names)?;
        self.masters.await_verdict(stage, &dead, next);
        Ok(dead)
    }

    /// The commands that a person gives who knows them, without a moment between them. Returns seconds.
    fn by_hand(&self, stage: &mut Stage, there: &[String], dead: &str) -> Result<f64> {
        let hosts = self.masters.hosts();
        let master = self.alive(there)?;
        let id = members(hosts, master)?
            .into_iter()
            .find(|member| member.name == dead)
            .context("the dead one is a member")?
            .id;
        let address = hosts.address(SPARE)?;
        let began = Instant::now();
        let printed = hosts.run(
            master,
            &format!(
                "export KUBECONFIG=/etc/kubernetes/admin.conf
                 {ETCDCTL} member remove {id} >/dev/null
                 kubectl delete node {dead} >/dev/null
                 key=$(kubeadm init phase upload-certs --upload-certs 2>/dev/null | tail -n 1)
                 echo \"$(kubeadm token create --print-join-command 2>/dev/null) --control-plane --certificate-key $key\""
            ),
        )?;
        hosts.run(
            SPARE,
            &format!(
                "{} --apiserver-advertise-address {address} --node-name {SPARE} {IGNORED} 2>&1
                 until kubectl --kubeconfig /etc/kubernetes/admin.conf --server https://{address}:6443 get --raw /readyz >/dev/null 2>&1
                 do sleep 0.1; done",
                printed.trim()
            ),
        )?;
        let voters = voters(hosts, master)?;
        let took_s = began.elapsed().as_secs_f64();
        if voters.len() != 3 || !voters.contains(SPARE) {
            bail!("after kubeadm's join the voters are {voters:?}");
        }
        stage.say(&format!("by hand: {took_s:.1} s"));
        Ok(took_s)
    }

    /// A master that is not the one that is still to come.
    fn alive<'a>(&self, there: &'a [String]) -> Result<&'a str> {
        there
            .iter()
            .map(String::as_str)
            .find(|one| voters(self.masters.hosts(), one).is_ok())
            .context("a master answers")
    }

    /// What kubeadm joined leaves by kubeadm.
    fn take_spare_back(&self, stage: &mut Stage, there: &[String]) -> Result<()> {
        let hosts = self.masters.hosts();
        hosts.run(
            SPARE,
            "kubeadm reset -f >/dev/null 2>&1; rm -rf /etc/cni/net.d/*; ip link del cni0 2>/dev/null || true; ip link del flannel.1 2>/dev/null || true",
        )?;
        hosts.run(
            self.alive(there)?,
            &format!(
                "export KUBECONFIG=/etc/kubernetes/admin.conf; kubectl delete node {SPARE}
                 until test -z \"$(kubectl get pods -A --field-selector spec.nodeName={SPARE} -o name)\"
                 do kubectl delete pods -A --field-selector spec.nodeName={SPARE} --force --grace-period=0 2>/dev/null; done
                 kubectl -n kube-system delete secret kubeadm-certs --ignore-not-found
                 for token in $(kubeadm token list | awk 'NR > 1 {{ print $1 }}'); do kubeadm token delete $token; done"
            ),
        )?;
        stage.say("the spare host is out again");
        Ok(())
    }
}

/// Copies a file or a folder.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("it lies somewhere")?)?;
    let copied = Command::new("cp").arg("-aT").args([from, to]).status()?;
    if !copied.success() {
        bail!("{} was not copied", from.display());
    }
    Ok(())
}

/// Seconds, of several runs.
pub struct Figures {
    median: f64,
    all: Vec<f64>,
}

impl Figures {
    pub fn of(mut all: Vec<f64>) -> Self {
        all.sort_by(f64::total_cmp);
        let (low, high) = (all[(all.len() - 1) / 2], all[all.len() / 2]);
        Self {
            median: f64::midpoint(low, high),
            all,
        }
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all: Vec<String> = self.all.iter().map(|one| format!("{one:.1}")).collect();
        write!(f, "median {:.1} s of {}", self.median, all.join(", "))
    }
}
