//! Somebody else's single master is converted with every kind of endpoint but Quorate's own: a balancer of its owner's and records of DNS up to the
//! census and back, and all the way with a Network Load Balancer, which is a stand-in for AWS's (see [`crate::nlb`]). Then the first master loses power.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    time::Duration,
};

use anyhow::Result;
use quorate_testkit::conform::Happened;

use crate::{
    bare::Bare,
    bring_up::healthy,
    conversion::{Before, MASTERS, STRAGGLER, api, endpoint, kept, pinned},
    foreign::{Foreign, MASTER, Shape, WORKERS},
    judge::{members, same},
    load::Load,
    nlb::{Account, BALANCER, GROUP, Nlb, balancer_of_its_owner, lead},
    stage::{Stage, said, tail},
};

const NAME: &str = "live-ways";
const SUBNET: &str = "172.31.78.0/24";

/// This machine on the hosts' bridge.
const HERE: Ipv4Addr = Ipv4Addr::new(172, 31, 78, 1);

/// The host of the balancer, which is its owner's.
pub const LB: &str = "lb-1";

/// Runs it.
pub fn run(stage: &mut Stage) -> Result<()> {
    let foreign = Foreign::make(stage, NAME, SUBNET, &Shape::default())?;
    let hosts = &foreign.hosts;
    let ca = hosts.run(MASTER, "cat /etc/kubernetes/pki/ca.crt")?;
    balancer_of_its_owner(stage, hosts, LB, &ca)?;
    let old = stage.directory.join("old.conf");
    fs::write(&old, hosts.run(MASTER, "cat /etc/kubernetes/admin.conf")?)?;
    let before = Before::look(&foreign)?;
    let at_old = Load::start_at(&old, None, "quorate-live-old")?;
    let was = kept(&foreign)?;

    let external = at_old.now();
    its_owners_balancer(stage, &foreign, &was)?;
    let dns = at_old.now();
    records_alone(stage, &foreign, &was)?;
    let nlb = at_old.now();
    let parts = [
        ("there and back behind its owner's balancer", external),
        ("there and back by records of DNS", dns),
        ("behind AWS's balancer, at the old address", nlb),
    ];
    network_load_balancer(stage, &foreign, &before, at_old, &parts)
}

/// A balancer that Quorate changes nothing of leads nowhere, and then to the master.
fn its_owners_balancer(stage: &mut Stage, foreign: &Foreign, was: &BTreeSet<String>) -> Result<()> {
    let hosts = &foreign.hosts;
    let file = &cluster_file(stage, hosts, NAME, "external")?;
    leads_to(hosts, NAME, &[LB])?;
    trusted(stage, hosts, file)?;
    pause(stage, file, "backup")?;
    let words = refused(stage, file)?;
    told(
        stage,
        "a balancer that leads nowhere is refused",
        &words,
        &["endpoint-silent"],
    );
    same(stage, "and nobody was led anywhere", &kept(foreign)?, was);
    lead(
        hosts,
        LB,
        &[(MASTER.to_owned(), server(hosts, MASTER)?)].into(),
    )?;
    pause(stage, file, "kubeconfigs")?;
    let words = refused(stage, file)?;
    let here = HERE.to_string();
    told(
        stage,
        "who uses the old address is named",
        &words,
        &["old-address-in-use", &here],
    );
    let balancer = format!("{} to ", hosts.address(LB)?);
    stage.check(
        "and the balancer is not taken for one of them",
        !words.contains(&balancer),
    );
    back(stage, foreign, file, was)
}

/// The name leads to the master itself, where the old address leads, too.
fn records_alone(stage: &mut Stage, foreign: &Foreign, was: &BTreeSet<String>) -> Result<()> {
    let hosts = &foreign.hosts;
    let file = &cluster_file(stage, hosts, NAME, "dns")?;
    stage.tell(NAME, Happened::ByHand);
    leads_to(hosts, NAME, &[MASTER, "cp-2"])?;
    let words = refused(stage, file)?;
    let too_early = hosts.address("cp-2")?.to_string();
    told(
        stage,
        "a record of a master that is not there yet is refused",
        &words,
        &["endpoint-records", &too_early],
    );
    same(stage, "and nobody was led anywhere", &kept(foreign)?, was);
    leads_to(hosts, NAME, &[MASTER])?;
    let begun = begun(foreign)?;
    pause(stage, file, "kubeconfigs")?;
    let words = refused(stage, file)?;
    let here = HERE.to_string();
    told(
        stage,
        "who is connected is named, and that nobody can tell by which name",
        &words,
        &["old-address-in-use", &here, &endpoint(NAME)],
    );
    let led = self::begun(foreign)?;
    stage.check(
        "every kubelet of a worker and every kube-proxy began anew, though the address is the same",
        led.is_disjoint(&begun) && led.len() == begun.len(),
    );
    back(stage, foreign, file, was)?;
    stage.check(
        "and on the way back",
        self::begun(foreign)?.is_disjoint(&led),
    );
    Ok(())
}

/// All the way.
fn network_load_balancer(
    stage: &mut Stage,
    foreign: &Foreign,
    before: &Before,
    at_old: Load,
    parts: &[(&str, crate::load::Moment)],
) -> Result<()> {
    let hosts = &foreign.hosts;
    lead(hosts, LB, &BTreeMap::new())?;
    leads_to(hosts, NAME, &[LB])?;
    let old = stage.directory.join("old.conf");
    let instances: BTreeMap<String, SocketAddr> = MASTERS
        .iter()
        .map(|master| Ok((instance(master), server(hosts, master)?)))
        .collect::<Result<_>>()?;
    let account = Account {
        group: GROUP.to_owned(),
        behind: None,
    };
    let nlb = Nlb::start(NAME, HERE, LB, instances, account)?;
    let file = &terraforms_file(stage, hosts, nlb.address)?;
    let balancer = server(hosts, LB)?;

    stage.succeed(&[
        "convert",
        "--pause-after",
        "certificate",
        "--yes",
        "-f",
        file,
    ])?;
    let only_one: BTreeMap<String, &str> = [(instance(MASTER), "healthy")].into();
    stage.check_eq("the one master is registered", &nlb.targets(), &only_one);
    let new = stage.directory.join("new.conf");
    fs::copy(&old, &new)?;
    let path = new.display().to_string();
    stage.succeed(&["kubeconfig", "rewrite", &path, "-f", file])?;
    let at_new = Load::start_at(&new, Some(balancer), "quorate-live-new")?;
    let part_new = [("behind AWS's balancer, at the new address", at_new.now())];
    stage.succeed(&["convert", "--accept", STRAGGLER, "--yes", "-f", file])?;

    healthy(stage, file, Duration::from_secs(120))?;
    let api = api(stage, hosts, file, NAME)?;
    api.whole(stage, hosts, &MASTERS, &WORKERS)?;
    before.unharmed(stage, foreign)?;
    let all: BTreeMap<String, &str> = MASTERS
        .iter()
        .map(|master| (instance(master), "healthy"))
        .collect();
    stage.check_eq(
        "every master is registered and healthy",
        &nlb.targets(),
        &all,
    );
    let asked: Vec<String> = MASTERS
        .iter()
        .map(|master| format!("RegisterTargets {}", instance(master)))
        .collect();
    stage.check_eq("each was asked for once, as it came", &nlb.asked(), &asked);
    for verb in [vec!["convert", "--accept", STRAGGLER], vec!["apply"]] {
        let again = stage.succeed(&[verb.as_slice(), &["--yes", "-f", file]].concat())?;
        stage.check(
            &format!("`{}` has nothing to do", verb[0]),
            said(&again).to_lowercase().contains("nothing to do"),
        );
    }
    at_old.finish_unharmed(stage, parts)?;
    at_new.finish_unharmed(stage, &part_new)?;

    let load = Load::start_at(&new, Some(balancer), "quorate-live-lost")?;
    let lost = [("the first master lost", load.now())];
    hosts.power_off(MASTER)?;
    api.misses(stage, MASTER);
    stage.check_eq(
        "the balancer does not take it for healthy",
        &nlb.targets().get(&instance(MASTER)),
        &Some(&"unhealthy"),
    );
    let status = stage.quorate(&["status", "-f", file])?;
    stage.check_eq("`quorate status` says so", &status.status.code(), &Some(10));
    told(stage, "by its target", &said(&status), &[&instance(MASTER)]);
    let workers: BTreeSet<String> = WORKERS.map(str::to_owned).into();
    stage.check(
        "and the workers are Ready",
        api.ready(stage)?.is_superset(&workers),
    );
    load.finish(stage, &lost)?;
    stage.check_eq(
        "nothing went wrong behind the stand-in",
        &nlb.trouble(),
        &None,
    );
    Ok(())
}

/// Everything is as it was.
fn back(stage: &mut Stage, foreign: &Foreign, file: &str, was: &BTreeSet<String>) -> Result<()> {
    stage.check_eq(
        "there is still one member, says etcdctl",
        &members(&foreign.hosts, MASTER)?.len(),
        &1,
    );
    stage.succeed(&["convert", "--undo", "--yes", "-f", file])?;
    same(
        stage,
        "taken back, everything is as it was",
        &kept(foreign)?,
        was,
    );
    Ok(())
}

/// As far as that. A refusal at the beginning of the next run need not be waited for: whoever did something waits for what may pass.
fn pause(stage: &mut Stage, file: &str, after: &str) -> Result<()> {
    stage.succeed(&["convert", "--pause-after", after, "--yes", "-f", file])?;
    Ok(())
}

/// What a conversion says that is refused.
fn refused(stage: &mut Stage, file: &str) -> Result<String> {
    let output = stage.quorate(&["convert", "--yes", "-f", file])?;
    stage.check_eq("it is refused", &output.status.code(), &Some(3));
    Ok(said(&output))
}

fn told(stage: &mut Stage, what: &str, words: &str, parts: &[&str]) {
    let holds = parts.iter().all(|part| words.contains(part));
    stage.check(what, holds);
    if !holds {
        stage.say(&tail(words, 40));
    }
}

/// Processes of workers' kubelets, and kube-proxy's pods.
fn begun(foreign: &Foreign) -> Result<BTreeSet<String>> {
    let pods = foreign.on_master(
        "kubectl -n kube-system get pods -l k8s-app=kube-proxy -o jsonpath='{range .items[*]}{.metadata.uid}{\"\\n\"}{end}'",
    )?;
    let mut found: BTreeSet<String> = pods.lines().map(str::to_owned).collect();
    for worker in WORKERS {
        let process = foreign
            .hosts
            .run(worker, "systemctl show -p InvocationID --value kubelet")?;
        found.insert(format!("{worker} {}", process.trim()));
    }
    Ok(found)
}

/// The endpoint's name has these records, for every host that has to know it.
pub fn leads_to(hosts: &Bare, cluster: &str, to: &[&str]) -> Result<()> {
    let name = endpoint(cluster);
    let mut lines = String::new();
    for host in to {
        lines += &format!("{} {name}\n", hosts.address(host)?);
    }
    for host in MASTERS.iter().chain(&WORKERS) {
        let script = format!(
            "grep -v ' {name}$' /etc/hosts >/etc/hosts.new || true\ncat >>/etc/hosts.new <<'END'\n{lines}END\nmv /etc/hosts.new /etc/hosts"
        );
        hosts.run(host, &script)?;
    }
    Ok(())
}

pub fn server(hosts: &Bare, host: &str) -> Result<SocketAddr> {
    Ok(SocketAddr::new(hosts.address(host)?.into(), 6443))
}

/// The instance that Terraform says a master is.
fn instance(master: &str) -> String {
    format!("i-0123456789abcde{}", master.trim_start_matches("cp-"))
}

pub fn trusted(stage: &mut Stage, hosts: &Bare, file: &str) -> Result<()> {
    pinned(stage, hosts, file, &[&MASTERS[..], &WORKERS[..]].concat())
}

/// What every file of this cluster says.
fn head(stage: &Stage, name: &str) -> String {
    format!(
        "apiVersion: quorate/v1\nname: {name}\nkubernetes: {}\nnetwork: {{ cni: none }}\n\
         components: {{ source: bundle, path: {} }}\n",
        stage.kubernetes(),
        stage.bundle.display()
    )
}

/// The cluster as it shall be: three masters, and an endpoint of that kind.
pub fn cluster_file(stage: &Stage, hosts: &Bare, name: &str, kind: &str) -> Result<String> {
    let list = |names: &[&str]| -> Result<String> {
        let mut text = String::from("  hosts:\n");
        for name in names {
            text += &format!(
                "  - {{ name: {name}, address: {} }}\n",
                hosts.address(name)?
            );
        }
        Ok(text)
    };
    let text = head(stage, name)
        + &format!(
            "endpoint: {{ host: {}, balancer: {{ kind: {kind} }} }}\nprovider: {{ kind: ssh, user: root, identity: {} }}\n",
            endpoint(name),
            hosts.identity(MASTER)?.display()
        )
        + "controlPlane:\n"
        + &list(&MASTERS)?
        + "workers:\n"
        + &list(&WORKERS)?;
    let file = stage.directory.join(format!("{kind}.yaml"));
    fs::write(&file, text)?;
    Ok(file.display().to_string())
}

/// The file of a cluster whose machines Terraform made. Terraform is played by a script that says what the modules' output says, and AWS by the stand-in.
fn terraforms_file(stage: &mut Stage, hosts: &Bare, aws: SocketAddr) -> Result<String> {
    let mut zones = ["a", "b", "c"].iter().cycle();
    let mut zone = || format!("eu-central-1{}", zones.next().copied().unwrap_or("a"));
    let mut masters = Vec::new();
    for master in MASTERS {
        masters.push(serde_json::json!({
            "name": master, "instance_id": instance(master), "address": hosts.address(master)?, "zone": zone(),
            "etcd_volume_id": null, "adopted": master == MASTER, "leaving": false,
        }));
    }
    let mut workers = Vec::new();
    for worker in WORKERS {
        let instance = format!("i-0123456789abcdf{}", worker.trim_start_matches("w-"));
        workers.push(serde_json::json!({
            "name": worker, "instance_id": instance, "address": hosts.address(worker)?, "zone": zone(),
        }));
    }
    let output = serde_json::json!({
        "version": 1,
        "name": NAME,
        "endpoint": { "host": endpoint(NAME), "port": 6443, "balancer": {
            "kind": "nlb", "arn": BALANCER, "target_group_arn": GROUP,
            "dns_name": "live-api-0123456789abcdef.elb.eu-central-1.amazonaws.com", "zone_id": "Z3F0SRJ5LGBH90",
            "public": false, "addresses": {},
        } },
        "masters": masters,
        "workers": workers,
    });
    let said = stage.directory.join("said.json");
    fs::write(&said, output.to_string())?;
    let terraform = stage.directory.join("terraform");
    let script = format!(
        "#!/bin/sh\n[ \"$*\" = 'output -no-color -json quorate_cluster' ] && exec cat '{}'\nexit 1\n",
        said.display()
    );
    fs::write(&terraform, script)?;
    fs::set_permissions(&terraform, fs::Permissions::from_mode(0o755))?;
    stage.set("QUORATE_TERRAFORM", terraform.as_os_str());
    for (name, value) in [
        ("AWS_ENDPOINT_URL", format!("http://{aws}")),
        ("AWS_REGION", "eu-central-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI".to_owned()),
    ] {
        stage.set(name, OsStr::new(&value));
    }
    let text = head(stage, NAME)
        + &format!(
            "provider: {{ kind: terraform, user: root, identity: {} }}\n",
            hosts.identity(MASTER)?.display()
        );
    let file = stage.directory.join("nlb.yaml");
    fs::write(&file, text)?;
    Ok(file.display().to_string())
}
