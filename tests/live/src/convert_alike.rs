//! A converted cluster is the one that `quorate apply` makes: somebody else's single master becomes three; then the same hosts, blank again,
//! become such a cluster from nothing, and what the two have in common is compared. In what they may differ is [`EXCEPTIONS`].

use std::{collections::BTreeSet, fs, time::Duration};

use anyhow::{Context, Result};
use quorate_testkit::conform::Happened;

use crate::{
    bare::Bare,
    bring_up::healthy,
    conversion::{MASTERS, api, cluster_file, endpoint, trusted},
    foreign::{BLANK, Foreign, MASTER, Shape, WORKERS},
    host_state::{self, Exception, OF_ITS_TIME},
    judge::same,
    stage::Stage,
};

const NAME: &str = "live-alike";
const SUBNET: &str = "172.31.72.0/24";

/// Hosts that their owner installed.
const OWNERS: &[&str] = &[MASTER, WORKERS[0], WORKERS[1]];

/// The owner's cluster has a name and keys as Quorate's have. kubeadm's own name, and RSA, are in the other cases.
const CLUSTER: &str = "clusterName: live-alike\nencryptionAlgorithm: ECDSA-P256\n";

/// What its owner installed is left as it is.
const fn owners(begin: &'static str) -> Exception {
    Exception {
        on: OWNERS,
        begin,
        why: "its owner installed containerd and the kubelet, and set the host up for them",
    }
}

/// What was there before is kept for the way back.
const fn kept(begin: &'static str) -> Exception {
    Exception {
        on: OWNERS,
        begin,
        why: "kept for the way back",
    }
}

const fn scheduled(begin: &'static str) -> Exception {
    Exception {
        on: &[],
        begin,
        why: "on which nodes cluster DNS runs is the scheduler's choice",
    }
}

/// In what a converted cluster may differ from one that Quorate made.
const EXCEPTIONS: &[Exception] = &[
    owners("file /etc/containerd/config.toml"),
    owners("file /etc/systemd/system/containerd.service"),
    owners("file /etc/systemd/system/kubelet.service"),
    owners("file /etc/sysctl.d/90-"),
    owners("line /etc/sysctl.d/90-"),
    owners("file /var/lib/quorate/components.json"),
    owners("file /var/lib/quorate/bundle"),
    owners("line /etc/default/kubelet "),
    owners("line /var/lib/kubelet/kubeadm-flags.env "),
    owners("line /var/lib/kubelet/config.yaml 1 containerRuntimeEndpoint: "),
    owners("file /var/lib/kubelet/instance-config.yaml"),
    owners("file /root/kubeadm.yaml"),
    owners("file /root/.kube/config"),
    Exception {
        on: &WORKERS,
        begin: "image quorate.local/",
        why: "its owner imported all images on every host",
    },
    kept("file /var/lib/quorate/conversion/"),
    scheduled("runs /coredns"),
    scheduled("flag /coredns "),
    Exception {
        on: &[],
        begin: "line /var/lib/kubelet/config.yaml 1 failSwapOn: ",
        why: "the cluster's owner lets kubelets run beside swap, and who joins gets that, too",
    },
    Exception {
        on: &[MASTER],
        begin: "flag etcd --initial-cluster-state=new",
        why: "only what was founded with others has a state; etcd reads it at its first start alone",
    },
    Exception {
        on: &[MASTER],
        begin: "line /etc/kubernetes/manifests/etcd.yaml 1     - --initial-cluster-state=new",
        why: "only what was founded with others has a state; etcd reads it at its first start alone",
    },
    Exception {
        on: &MASTERS,
        begin: "file /var/lib/quorate/founding.json",
        why: "only what was founded has a founding",
    },
];

/// Runs it.
pub fn run(stage: &mut Stage) -> Result<()> {
    let shape = Shape {
        cluster: CLUSTER.into(),
        ..Shape::default()
    };
    let foreign = Foreign::make(stage, NAME, SUBNET, &shape)?;
    let hosts = &foreign.hosts;
    let file = &cluster_file(stage, hosts, NAME)?;
    trusted(stage, hosts, file)?;
    told_by_its_api(stage, hosts, file)?;
    stage.succeed(&["convert", "--yes", "-f", file])?;
    healthy(stage, file, Duration::from_secs(120))?;
    api(stage, hosts, file, NAME)?.whole(stage, hosts, &MASTERS, &WORKERS)?;

    let names: Vec<&str> = OWNERS
        .iter()
        .copied()
        .chain(BLANK.map(|(host, _)| host))
        .collect();
    let converted = host_state::taken(hosts, &names)?;
    drop(foreign);
    let applied = by_apply(stage, file, &names)?;
    host_state::same(
        stage,
        "hosts are the same, whether they were converted or `quorate apply` made them",
        &converted,
        &applied,
        &[OF_ITS_TIME, EXCEPTIONS].concat(),
    );
    Ok(())
}

/// By a kubeconfig `quorate adopt` learns who is in the cluster, and which version it has. Nobody is reached with the keys that this machine
/// offers by itself, so that it cannot be judged.
fn told_by_its_api(stage: &mut Stage, hosts: &Bare, file: &str) -> Result<()> {
    let admin = stage.directory.join("admin.conf");
    fs::write(&admin, hosts.run(MASTER, "cat /etc/kubernetes/admin.conf")?)?;
    let (admin, written) = (admin.display().to_string(), format!("{file}.via"));
    let blank = |host: &str| Ok::<_, anyhow::Error>(format!("{host}={}", hosts.address(host)?));
    let (second, third, balancer) = (blank("cp-2")?, blank("cp-3")?, blank("lb-1")?);
    let endpoint = endpoint(NAME);
    let adopted = stage.quorate(&[
        "adopt",
        &written,
        "--via",
        &admin,
        "--endpoint",
        &endpoint,
        "--join",
        &second,
        "--join",
        &third,
        "--balancer",
        &balancer,
    ])?;
    stage.check_eq(
        "`quorate adopt --via` says that nobody could be looked at",
        &adopted.status.code(),
        &Some(5),
    );
    let (by_hand, by_api) = (fs::read_to_string(file)?, fs::read_to_string(&written)?);
    let of = |text: &str| {
        let hosts = text.split("name: ").skip(1);
        let host = |rest: &str| {
            let (name, rest) = rest.split_once(", address: ")?;
            Some(format!("{name} {}", rest.split([',', ' ']).next()?))
        };
        hosts.filter_map(host).collect::<BTreeSet<String>>()
    };
    same(
        stage,
        "the file that it wrote names the hosts of the one by hand, the workers too, which nobody told it",
        &of(&by_api),
        &of(&by_hand),
    );
    let version = format!("kubernetes: {}\n", stage.kubernetes());
    stage.check("and the cluster's version", by_api.contains(&version));
    Ok(())
}

/// The same cluster on the same hosts, blank again, by `quorate apply`.
fn by_apply(stage: &mut Stage, file: &str, names: &[&str]) -> Result<BTreeSet<String>> {
    stage.succeed(&["local", "destroy", "--cluster", NAME, "--yes"])?;
    stage.tell(NAME, Happened::AllDestroyed);
    let pinned = format!("state/quorate/clusters/{NAME}/known_hosts");
    fs::remove_file(stage.directory.join(pinned))?;
    let numbers = [(MASTER, 11), (WORKERS[0], 101), (WORKERS[1], 102)];
    let hosts = Bare::make(stage, NAME, SUBNET, &[&numbers[..], &BLANK].concat())?;
    let text = fs::read_to_string(file)?;
    let key = hosts.identity(MASTER)?.display().to_string();
    anyhow::ensure!(text.contains(&key), "the hosts have another key now");
    // The owner of the other one installed Flannel, which Quorate leaves to him there.
    let flannel = text.replace("cni: none", "cni: flannel");
    anyhow::ensure!(flannel != text, "the cluster file names no network");
    fs::write(file, flannel)?;
    trusted(stage, &hosts, file)?;
    stage.succeed(&["apply", "--yes", "-f", file])?;
    healthy(stage, file, Duration::from_secs(120))?;
    api(stage, &hosts, file, NAME)?
        .whole(stage, &hosts, &MASTERS, &WORKERS)
        .context("what `quorate apply` made")?;
    host_state::taken(&hosts, names)
}
