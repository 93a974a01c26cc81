//! A conversion that is not let go on, and the way back from there, under load: a process on a worker holds the old address and a Secret
//! stores it. Everything leads to the endpoint by then, nobody has joined; then everything leads where it did.

use anyhow::Result;

use crate::{
    bare::Bare,
    conversion::{
        Before, alone, balancer, cluster_file, endpoint, kept, new_kubeconfig, nothing_to_undo,
        old_kubeconfig, refused, trusted,
    },
    foreign::{Foreign, MASTER, Shape, WORKERS},
    judge::same,
    load::Load,
    stage::{Stage, tail},
};

const NAME: &str = "live-census";
const SUBNET: &str = "172.31.77.0/24";
const ADDRESS: &str = "172.31.77.11";
/// This machine, as the hosts see it. What runs here no host can know.
const OPERATOR: &str = "172.31.77.1";

/// Where the process runs that holds the old address, with that host's address.
const HOLDS_ON: (&str, &str) = (WORKERS[1], "172.31.77.102");

/// It is kubectl under another name: a watch that ends when its connection does.
const HOLD: &str = "cp /usr/local/bin/kubectl /root/legacy-agent
systemd-run --quiet --unit=legacy /root/legacy-agent --kubeconfig /root/legacy.conf get pods -A -w";

const STORE: &str =
    "kubectl create secret generic legacy-kubeconfig --from-file=config=/etc/kubernetes/admin.conf";

/// What is made anew: its pods, and nothing else.
const PROXY: [&str; 1] = ["kube-proxy-"];

/// Runs it.
pub fn run(stage: &mut Stage) -> Result<()> {
    let shape = Shape {
        after: STORE.into(),
        ..Shape::default()
    };
    let foreign = Foreign::make(stage, NAME, SUBNET, &shape)?;
    let hosts = &foreign.hosts;
    let file = &cluster_file(stage, hosts, NAME)?;
    trusted(stage, hosts, file)?;
    let admin = hosts.run(MASTER, "cat /etc/kubernetes/admin.conf")?;
    hosts.run(
        HOLDS_ON.0,
        &format!("umask 077; cat >/root/legacy.conf <<'END'\n{admin}END\n{HOLD}"),
    )?;

    let old = old_kubeconfig(stage, hosts)?;
    let at_old = Load::start_at(&old, None, "quorate-live-old")?;
    let before = Before::look(&foreign)?;
    let was = kept(&foreign)?;
    let there = at_old.now();
    stage.succeed(&[
        "convert",
        "--pause-after",
        "certificate",
        "--yes",
        "-f",
        file,
    ])?;
    let new = new_kubeconfig(stage, &old, file)?;
    let at_new = Load::start_at(&new, Some(balancer(hosts)?), "quorate-live-new")?;
    let part_new = [("led to the endpoint, at the new address", at_new.now())];
    let words = refused(stage, file, &["old-address-in-use", "old-address-stored"])?;
    named(stage, &words);
    leads_to(stage, hosts, &hosts.address("lb-1")?.to_string(), ADDRESS);
    led(stage, &foreign, &format!("https://{}:6443", endpoint(NAME)))?;
    alone(stage, hosts)?;
    before.unharmed_but(stage, &foreign, &PROXY)?;
    at_new.finish_unharmed(stage, &part_new)?;

    let back = at_old.now();
    stage.succeed(&["convert", "--undo", "--yes", "-f", file])?;
    let what = "taken back, kubeconfigs and all else of the hosts and the cluster are byte for byte what they were";
    same(stage, what, &kept(&foreign)?, &was);
    leads_to(stage, hosts, ADDRESS, &hosts.address("lb-1")?.to_string());
    alone(stage, hosts)?;
    before.unharmed_but(stage, &foreign, &PROXY)?;
    nothing_to_undo(stage, file)?;
    stage.check(
        "the straggler never had to begin anew",
        hosts.holds(HOLDS_ON.0, "systemctl is-active --quiet legacy"),
    );
    at_old.finish_unfailed(
        stage,
        &[
            ("led to the endpoint, at the old address", there),
            ("led back", back),
        ],
    )
}

/// Each is named by what was seen of it: a process where one was, an object by its key, and what runs elsewhere by its address alone.
fn named(stage: &mut Stage, words: &str) {
    let (host, from) = HOLDS_ON;
    for (who, line) in [
        (
            "the process is named with its host and its address",
            format!(
                "seen on {host}: 1 still connected to the old address: legacy-agent at {from} to {ADDRESS}:6443"
            ),
        ),
        (
            "and the Secret by its key",
            format!("Secret default/legacy-kubeconfig, key config: {ADDRESS}:6443"),
        ),
        (
            "and this machine by its address, with no process that nobody saw",
            format!("still connected to the old address: {OPERATOR} to {ADDRESS}:6443"),
        ),
    ] {
        let found = words.contains(&line);
        stage.check(who, found);
        if !found {
            stage.say(&format!("expected `{line}` in\n{}", tail(words, 40)));
        }
    }
}

/// The kubelet and kube-proxy of each worker are connected to one address and not to the other, says ss.
fn leads_to(stage: &mut Stage, hosts: &Bare, address: &str, other: &str) {
    for worker in WORKERS {
        let connected = |address: &str, process: &str| {
            format!("ss -Htnp dst {address}:6443 | grep -q '\"{process}\"'")
        };
        for process in ["kubelet", "kube-proxy"] {
            let (leads, left) = (connected(address, process), connected(other, process));
            stage.check(
                &format!("{worker}'s {process} is connected to {address} and no longer to {other}"),
                hosts.holds(worker, &leads) && !hosts.holds(worker, &left),
            );
        }
    }
}

/// Whoever asks the cluster where its API is, or has a kubeconfig on a worker, is told this server.
fn led(stage: &mut Stage, foreign: &Foreign, server: &str) -> Result<()> {
    let asked = "
kubectl -n kube-public get configmap cluster-info -o jsonpath='{.data.kubeconfig}'
kubectl -n kube-system get configmap kube-proxy -o jsonpath='{.data.kubeconfig\\.conf}'";
    let mut told = vec![foreign.on_master(asked)?];
    for worker in WORKERS {
        told.push(
            foreign
                .hosts
                .run(worker, "cat /etc/kubernetes/kubelet.conf")?,
        );
    }
    let servers: Vec<&str> = told
        .iter()
        .flat_map(|text| text.lines())
        .filter_map(|line| line.trim().strip_prefix("server: "))
        .collect();
    stage.check_eq(
        "cluster-info, kube-proxy and the workers' kubelets are led to the endpoint",
        &servers,
        &vec![server; 4],
    );
    Ok(())
}
