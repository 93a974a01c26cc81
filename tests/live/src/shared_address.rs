//! Somebody else's single master becomes three that balance themselves behind an address that they share, under load at both addresses.
//! Then the one that holds it loses power, comes back, and the one that holds it by then, and is made to lead etcd, is replaced by another
//! host.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    bare::Bare,
    bring_up::healthy,
    conversion::{
        Before, MASTERS, STRAGGLER, endpoint, file_with, new_kubeconfig, old_kubeconfig, pinned,
    },
    foreign::{Foreign, MASTER, Shape, WORKERS},
    judge::{Api, ETCDCTL, leader, members, voters},
    load::Load,
    stage::{Stage, said},
    workload::Workload,
};

const NAME: &str = "live-shared-address";
const SUBNET: &str = "172.31.79.0/24";
const SHARED: &str = "172.31.79.9";

/// A host with nothing on it, which takes a master's place in the end.
const SPARE: &str = "lb-1";

/// Runs it.
pub fn run(stage: &mut Stage) -> Result<()> {
    let foreign = Foreign::make(stage, NAME, SUBNET, &Shape::default())?;
    let hosts = &foreign.hosts;
    let workload = Workload::start(stage, &foreign)?;
    let shared: SocketAddr = format!("{SHARED}:6443").parse()?;
    let file = &file(stage, hosts, &MASTERS)?;
    pinned(stage, hosts, file, &[&MASTERS[..], &WORKERS[..]].concat())?;

    let old = old_kubeconfig(stage, hosts)?;
    let at_old = Load::start_at(&old, None, "quorate-live-old")?;
    let before = Before::look(&foreign)?;
    let part_old = [("conversion, at the old address", at_old.now())];
    stage.succeed(&[
        "convert",
        "--pause-after",
        "certificate",
        "--yes",
        "-f",
        file,
    ])?;
    held_by_one(stage, hosts, file, &MASTERS[..1], MASTER)?;
    let api = Api::of(stage, file, Some((&endpoint(NAME), SHARED)))?;
    let new = new_kubeconfig(stage, &old, file)?;
    let at_new = Load::start_at(&new, Some(shared), "quorate-live-new")?;
    let part_new = [("conversion, at the shared address", at_new.now())];
    stage.succeed(&["convert", "--accept", STRAGGLER, "--yes", "-f", file])?;

    healthy(stage, file, Duration::from_secs(120))?;
    api.whole(stage, hosts, &MASTERS, &WORKERS)?;
    before.unharmed(stage, &foreign)?;
    workload.unharmed(stage)?;
    workload.reader_moves(stage, file)?;
    held_by_one(stage, hosts, file, &MASTERS, MASTER)?;
    let again = stage.succeed(&["apply", "--yes", "-f", file])?;
    stage.check(
        "`apply` has nothing to do",
        said(&again).to_lowercase().contains("nothing to do"),
    );
    at_old.finish_unharmed(stage, &part_old)?;
    at_new.finish_unharmed(stage, &part_new)?;

    let load = Load::start_at(&new, Some(shared), "quorate-live-lost")?;
    let mut parts = vec![("who holds the address loses power", load.now())];
    let holder = loses_power(stage, hosts, &api, shared)?;
    workload.goes_on(stage)?;
    workload.reader_reads(stage, "without the master that held the address")?;
    parts.push(("it comes back", load.now()));
    comes_back(stage, hosts, file, &holder)?;
    leads(stage, hosts, &holder)?;
    parts.push(("who holds it is replaced", load.now()));
    replaced(stage, hosts, &holder)?;
    load.finish(stage, &parts)
}

/// The first master's plug is pulled. Says who holds the address then.
fn loses_power(stage: &mut Stage, hosts: &Bare, api: &Api, shared: SocketAddr) -> Result<String> {
    hosts.power_off(MASTER)?;
    let lost = Instant::now();
    let answers = || TcpStream::connect_timeout(&shared, Duration::from_millis(200)).is_ok();
    stage.wait(
        "another master answers at the shared address",
        Duration::from_secs(30),
        |_| answers(),
    );
    stage.say(&format!(
        "the shared address answered again after {} ms",
        lost.elapsed().as_millis()
    ));
    stage.wait(
        "the lost master is missed by the others",
        Duration::from_secs(120),
        |stage| api.ready(stage).is_ok_and(|ready| !ready.contains(MASTER)),
    );
    let others: BTreeSet<String> = MASTERS[1..].iter().map(|host| (*host).to_owned()).collect();
    let holders = holders(hosts, &MASTERS[1..])?;
    stage.check(
        &format!("one of the others holds the address: {holders:?}"),
        holders.len() == 1 && holders.is_subset(&others),
    );
    holders
        .first()
        .cloned()
        .context("somebody holds the address")
}

/// It comes back, takes nothing away from who holds the address by now, and nothing is left to do.
fn comes_back(stage: &mut Stage, hosts: &Bare, file: &str, holder: &str) -> Result<()> {
    hosts.power_on(MASTER)?;
    healthy(stage, file, Duration::from_secs(180))?;
    held_by_one(stage, hosts, file, &MASTERS, holder)?;
    let again = stage.succeed(&["apply", "--yes", "-f", file])?;
    stage.check(
        "`apply` has nothing to do when it is back",
        said(&again).to_lowercase().contains("nothing to do"),
    );
    Ok(())
}

/// The one that is to leave leads etcd, too.
fn leads(stage: &mut Stage, hosts: &Bare, host: &str) -> Result<()> {
    let led = leader(hosts, &MASTERS)?;
    if led != host {
        let members = members(hosts, host)?;
        let member = members.iter().find(|member| member.name == host);
        let id = &member.context("it is a member")?.id;
        hosts.run(&led, &format!("{ETCDCTL} move-leader {id}"))?;
    }
    let now = leader(hosts, &MASTERS)?;
    stage.check_eq(&format!("{host} leads etcd"), &now.as_str(), &host);
    Ok(())
}

/// Who holds the address leaves for another host, and nothing of it stays.
fn replaced(stage: &mut Stage, hosts: &Bare, holder: &str) -> Result<()> {
    let stay: Vec<&str> = MASTERS
        .into_iter()
        .filter(|host| *host != holder)
        .chain([SPARE])
        .collect();
    let file = &file(stage, hosts, &stay)?;
    pinned(stage, hosts, file, &[SPARE])?;
    stage.succeed(&["replace", holder, "--with", SPARE, "--yes", "-f", file])?;
    healthy(stage, file, Duration::from_secs(120))?;
    let wanted: BTreeSet<String> = stay.iter().map(|host| (*host).to_owned()).collect();
    let seen = voters(hosts, stay[0])?;
    stage.check_eq("the voters are who shall be, says etcdctl", &seen, &wanted);
    let left = "pgrep -x keepalived || ss -ltn | grep -w 7443 || ip -o address | grep -w PLACE || \
                nft list tables | grep quorate || ls /etc/quorate/keepalived.conf /etc/quorate/lb.json \
                /etc/systemd/system/quorate-keepalived.service /etc/systemd/system/quorate-lb.service"
        .replace("PLACE", SHARED);
    let left = hosts.run(holder, &format!("{{ {left}; }} 2>/dev/null || true"))?;
    stage.check_eq(
        &format!("nothing of the balancer and the address is left on {holder}"),
        &left.trim(),
        &"",
    );
    let gone = hosts.address(holder)?.to_string();
    for host in &stay {
        stage.check(
            &format!("keepalived on {host} does not know {holder} any more"),
            !hosts.holds(
                host,
                &format!("grep -qw {gone} /etc/quorate/keepalived.conf"),
            ),
        );
    }
    let now = holders(hosts, &stay)?;
    stage.check_eq("one of them holds the address", &now.len(), &1);
    let now = now.first().context("somebody holds the address")?;
    held_by_one(stage, hosts, file, &stay, now)
}

/// Those who have the address, by their own kernels.
fn holders(hosts: &Bare, among: &[&str]) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for host in among {
        if hosts
            .run(host, "ip -o -4 address")?
            .contains(&format!(" {SHARED}/32 "))
        {
            found.insert((*host).to_owned());
        }
    }
    Ok(found)
}

/// The kernels and `quorate status` agree on who holds the address.
fn held_by_one(
    stage: &mut Stage,
    hosts: &Bare,
    file: &str,
    among: &[&str],
    holder: &str,
) -> Result<()> {
    stage.check_eq(
        &format!("{holder} holds the shared address"),
        &holders(hosts, among)?,
        &[holder.to_owned()].into(),
    );
    let words = said(&stage.quorate(&["status", "-f", file])?);
    let line = format!("shared address: {SHARED}, held by {holder}");
    let survives = if among.len() > 1 { "yes" } else { "no" };
    let survives = format!("survives the loss of the balancer: {survives}");
    let told = words.contains(&line) && words.contains(&survives);
    stage.check("and `quorate status` says so", told);
    if !told {
        stage.say(&words);
    }
    Ok(())
}

fn file(stage: &Stage, hosts: &Bare, masters: &[&str]) -> Result<String> {
    let balancer = format!("on: masters, address: {SHARED}");
    file_with(stage, hosts, NAME, &balancer, masters)
}
