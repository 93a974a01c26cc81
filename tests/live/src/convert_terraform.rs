//! From a Terraform repository with a single master to three masters, as the guide goes: the repository as it was, with a cluster that somebody
//! made on its machines; then it adopts the module, and the guide's commands convert the cluster. Terraform is the real one, AWS is played by two
//! stand-ins: moto, which makes machines that are nowhere, and [`crate::nlb`], which knows how targets are. The hosts have the machines' addresses.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::{
    adopted::Repository,
    bare::Bare,
    bring_up::healthy,
    conversion::{Before, new_kubeconfig},
    disks::Disk,
    foreign::{Foreign, Names, Shape},
    judge::Api,
    load::{Load, Moment},
    nlb::{Account, Nlb, balancer_of_its_owner},
    pages::{self, Reading},
    ssh_serial::{admit, operators_key},
    stage::{Stage, said, tail},
};

const CASE: &str = "convert-terraform";

/// Of the hosts. The cluster is called as the guide calls it.
const NAME: &str = "live-terraform";
const SUBNET: &str = "172.31.80.0/24";

/// This machine on the hosts' bridge.
const HERE: Ipv4Addr = Ipv4Addr::new(172, 31, 80, 1);

/// The balancer's host, in a quarter of the network where Terraform makes nothing.
const LB: (&str, u8) = ("lb-1", 201);

/// As the guide's repository calls its machines.
const MASTER: &str = "k8s-master";
const WORKER: &str = "k8s-worker";
const MASTERS: [&str; 3] = [MASTER, "cp-2", "cp-3"];

/// Who may log in to every machine, in the guide's cluster file.
const USER: &str = "admin";

/// The machines of the repository as it was.
#[derive(Deserialize)]
struct Was {
    master: Ipv4Addr,
    worker: Ipv4Addr,
}

/// The repository that adopted the module.
#[derive(Deserialize)]
struct Adopted {
    cluster: Told,
    directory: PathBuf,
    terraform: PathBuf,
    environment: BTreeMap<String, String>,
    /// moto's port on the loopback address.
    aws: u16,
}

/// Of the output that Quorate reads.
#[derive(Deserialize)]
struct Told {
    endpoint: Endpoint,
    masters: Vec<Machine>,
    workers: Vec<Machine>,
}

impl Told {
    fn instance(&self, master: &str) -> Result<&str> {
        let mut masters = self.masters.iter();
        let found = masters.find(|machine| machine.name == master);
        Ok(&found.context("Terraform made it")?.instance_id)
    }
}

#[derive(Deserialize)]
struct Endpoint {
    host: String,
    balancer: Balancer,
}

#[derive(Deserialize)]
struct Balancer {
    arn: String,
    target_group_arn: String,
}

#[derive(Deserialize)]
struct Machine {
    name: String,
    instance_id: String,
    address: Ipv4Addr,
    etcd_volume_id: Option<String>,
}

/// When all is done.
#[derive(Deserialize)]
struct Is {
    targets: BTreeSet<String>,
    changes: BTreeMap<String, Vec<String>>,
}

/// Runs it.
pub fn run(stage: &mut Stage) -> Result<()> {
    let mut repository = Repository::begin(SUBNET)?;
    let was: Was = repository.step(stage, "the repository as it was is applied")?;
    let names = Names {
        master: (MASTER, last(was.master)),
        workers: vec![(WORKER, last(was.worker))],
        blank: vec![LB],
    };
    let foreign = Foreign::make_of(stage, NAME, SUBNET, names, &Shape::default())?;
    let hosts = &foreign.hosts;
    let ca = hosts.run(MASTER, "cat /etc/kubernetes/pki/ca.crt")?;
    balancer_of_its_owner(stage, hosts, LB.0, &ca)?;
    let old = stage.directory.join("old.conf");
    fs::write(&old, hosts.run(MASTER, "cat /etc/kubernetes/admin.conf")?)?;
    let before = Before::look(&foreign)?;
    let at_old = Load::start_at(&old, None, "quorate-live-old")?;
    let adopts = at_old.now();

    repository.go_on()?;
    let adopted: Adopted = repository.step(
        stage,
        "the repository adopts the module, as the guide shows it",
    )?;
    let told = &adopted.cluster;
    let _disks = new_machines(stage, hosts, told, &was)?;
    let key = reached(stage, hosts, &told.endpoint.host)?;

    let servers: BTreeMap<String, SocketAddr> = told
        .masters
        .iter()
        .map(|machine| (machine.instance_id.clone(), api_of(machine.address)))
        .collect();
    let moto = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), adopted.aws);
    let account = Account {
        group: told.endpoint.balancer.target_group_arn.clone(),
        behind: Some(moto),
    };
    let nlb = Nlb::start(NAME, HERE, LB.0, servers, account)?;
    surroundings(stage, &adopted, nlb.address);
    let file = &finished_file(stage, &adopted, &key)?;

    let lb = hosts.address(LB.0)?;
    let (load, converts) = the_guides_way(stage, &adopted, lb, &old, file, (at_old, adopts))?;

    let lb = lb.to_string();
    healthy(stage, file, Duration::from_secs(120))?;
    let api = Api::of(stage, file, Some((&told.endpoint.host, &lb)))?;
    api.whole(stage, hosts, &MASTERS, &[WORKER])?;
    before.unharmed(stage, &foreign)?;
    on_their_disks(
        stage,
        hosts,
        told,
        "etcd's data lies on the disk that is its own",
    );
    registered(stage, told, &nlb)?;
    nothing_left(stage, &mut repository, file, told, (nlb.address, moto))?;

    let boots = load.now();
    hosts.power_off("cp-2")?;
    hosts.power_on("cp-2")?;
    healthy(stage, file, Duration::from_secs(120))?;
    on_their_disks(stage, hosts, told, "and still does after cp-2 lost power");
    let lost = load.now();
    hosts.power_off(MASTER)?;
    api.misses(stage, MASTER);
    stage.check_eq(
        "the balancer does not take it for healthy",
        &nlb.targets().get(told.instance(MASTER)?),
        &Some(&"unhealthy"),
    );
    stage.check(
        "and the worker is Ready",
        api.ready(stage)?.contains(WORKER),
    );
    let parts = [
        ("conversion, at the new address", converts),
        ("a new master lost power and came back", boots),
        ("the first master lost", lost),
    ];
    load.finish(stage, &parts)?;
    stage.check_eq(
        "nothing went wrong behind the stand-in",
        &nlb.trouble(),
        &None,
    );
    Ok(())
}

/// The old machines are where they were, and the new ones come up, blank, with the disks that Terraform attached.
fn new_machines(stage: &mut Stage, hosts: &Bare, told: &Told, was: &Was) -> Result<Vec<Disk>> {
    let places = |machines: &[Machine]| -> BTreeMap<String, Ipv4Addr> {
        let old = machines.iter().filter(|one| one.etcd_volume_id.is_none());
        old.map(|one| (one.name.clone(), one.address)).collect()
    };
    stage.check_eq(
        "the machines that were there are where they were, and have no new volume",
        &(places(&told.masters), places(&told.workers)),
        &(
            [(MASTER.to_owned(), was.master)].into(),
            [(WORKER.to_owned(), was.worker)].into(),
        ),
    );
    let mut disks = Vec::new();
    for machine in &told.masters {
        if let Some(volume) = &machine.etcd_volume_id {
            hosts.grow(&machine.name, last(machine.address))?;
            let disk = Disk::attach(stage, hosts, &machine.name, &nvme(volume))?;
            disks.push(disk);
        }
    }
    Ok(disks)
}

/// Every master is a target, and the balancer is as it should be.
fn registered(stage: &mut Stage, told: &Told, nlb: &Nlb) -> Result<()> {
    let instances = MASTERS
        .iter()
        .map(|name| told.instance(name))
        .collect::<Result<Vec<_>>>()?;
    let asked: Vec<String> = instances
        .iter()
        .map(|instance| format!("RegisterTargets {instance}"))
        .collect();
    stage.check_eq("each was asked for once, as it came", &nlb.asked(), &asked);
    let all: BTreeMap<String, &str> = instances
        .into_iter()
        .map(|instance| (instance.to_owned(), "healthy"))
        .collect();
    stage.check_eq(
        "every master is registered and healthy",
        &nlb.targets(),
        &all,
    );
    let lint = stage.quorate(&["lint", "nlb", &told.endpoint.balancer.arn])?;
    stage.check_eq(
        "`quorate lint nlb` finds nothing wrong with the balancer",
        &lint.status.code(),
        &Some(0),
    );
    if !lint.status.success() {
        stage.say(&tail(&said(&lint), 40));
    }
    Ok(())
}

/// The commands of the page, in its order. Who uses the old address moves while it pauses.
fn the_guides_way(
    stage: &mut Stage,
    adopted: &Adopted,
    lb: Ipv4Addr,
    old: &Path,
    file: &str,
    (at_old, adopts): (Load, Moment),
) -> Result<(Load, Moment)> {
    let endpoint = &adopted.cluster.endpoint.host;
    let (at_old, at_new) = (RefCell::new(Some(at_old)), RefCell::new(None));
    let after = |stage: &mut Stage, command: &str| {
        if !command.contains("--pause-after certificate") {
            return Ok(());
        }
        if let Some(load) = at_old.take() {
            let parts = [("adoption and certificate, at the old address", adopts)];
            load.finish_unharmed(stage, &parts)?;
        }
        let new = new_kubeconfig(stage, old, file)?;
        let load = Load::start_at(&new, Some(api_of(lb)), "quorate-live-new")?;
        let converts = load.now();
        at_new.replace(Some((load, converts)));
        Ok(())
    };
    let asks = format!("curl -k --resolve {endpoint}:6443:{lb} ");
    let reading = Reading {
        words: &[("curl -k ", &asks)],
        directory: &adopted.directory,
        after: &after,
    };
    pages::run(stage, CASE, &reading)?;
    at_new.take().context("the page pauses at the certificate")
}

/// Neither in the cluster nor in Terraform.
fn nothing_left(
    stage: &mut Stage,
    repository: &mut Repository,
    file: &str,
    told: &Told,
    (front, moto): (SocketAddr, SocketAddr),
) -> Result<()> {
    for (command, aws) in [
        (&["convert", "--yes", "-f", file][..], front),
        (&["apply", "--yes", "-f", file], front),
        // What Terraform's provider asks is more than the stand-in in front understands.
        (&["infra", "plan", "-f", file], moto),
    ] {
        aws_at(stage, aws);
        let again = stage.succeed(command)?;
        stage.check(
            &format!("`{}` has nothing to do", command[0]),
            said(&again).to_lowercase().contains("nothing to do"),
        );
    }
    aws_at(stage, front);
    repository.go_on()?;
    let is: Is = repository.step(stage, "Terraform plans again")?;
    stage.check_eq("and would change nothing", &is.changes, &BTreeMap::new());
    let masters = told.masters.iter();
    let instances: BTreeSet<String> = masters.map(|one| one.instance_id.clone()).collect();
    stage.check_eq(
        "in the group that it made the three are registered",
        &is.targets,
        &instances,
    );
    Ok(())
}

/// What AWS and the owner's account there would do on the machines: the key pair's user, who may become root, and the private zone's name.
fn reached(stage: &Stage, hosts: &Bare, endpoint: &str) -> Result<String> {
    let (private, public) = operators_key(stage)?;
    let line = format!("{} {endpoint}", hosts.address(LB.0)?);
    for host in MASTERS.iter().chain(&[WORKER]) {
        admit(hosts, host, USER, &public)?;
        hosts.run(host, &format!("echo '{line}' >>/etc/hosts"))?;
    }
    Ok(private)
}

/// Terraform as it was run, and AWS by way of the stand-in that knows how targets are.
fn surroundings(stage: &mut Stage, adopted: &Adopted, aws: SocketAddr) {
    for (name, value) in &adopted.environment {
        stage.set(name, OsStr::new(value));
    }
    stage.set("QUORATE_TERRAFORM", adopted.terraform.as_os_str());
    aws_at(stage, aws);
}

fn aws_at(stage: &mut Stage, address: SocketAddr) {
    let url = format!("http://{address}");
    stage.set("AWS_ENDPOINT_URL", OsStr::new(&url));
}

/// The cluster file of the guide, with what its reader adds: his key, and his components.
fn finished_file(stage: &Stage, adopted: &Adopted, key: &str) -> Result<String> {
    let path = adopted.directory.join("prod.yaml");
    let shown = fs::read_to_string(&path)?;
    let user = format!("user: {USER} }}");
    anyhow::ensure!(shown.contains(&user), "the page names another user");
    let text = shown.replace(&user, &format!("user: {USER}, identity: {key} }}"));
    let components = format!(
        "components: {{ source: bundle, path: {} }}\n",
        stage.bundle.display()
    );
    fs::write(&path, text + &components)?;
    Ok(path.display().to_string())
}

/// By which name Linux knows an EBS volume of a Nitro instance.
fn nvme(volume: &str) -> String {
    let serial = volume.replace('-', "");
    format!("/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_{serial}")
}

fn on_their_disks(stage: &mut Stage, hosts: &Bare, told: &Told, what: &str) {
    for machine in &told.masters {
        if let Some(volume) = &machine.etcd_volume_id {
            let holds = Disk::holds_etcd(hosts, &machine.name, &nvme(volume));
            stage.check(&format!("{}: {what}", machine.name), holds);
        }
    }
}

fn api_of(address: Ipv4Addr) -> SocketAddr {
    SocketAddr::new(address.into(), 6443)
}

fn last(address: Ipv4Addr) -> u8 {
    address.octets()[3]
}
