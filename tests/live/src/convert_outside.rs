//! Somebody else's single master is converted all the way where the endpoint is out of Quorate's hands: behind a balancer of its owner's, and by
//! records of DNS alone. The owner leads users to the new masters once they serve. Then the first master loses power.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Result;
use quorate_testkit::conform::Happened;

use crate::{
    bare::Bare,
    bring_up::healthy,
    conversion::{Before, MASTERS, STRAGGLER, endpoint, new_kubeconfig, old_kubeconfig},
    convert_ways::{LB, cluster_file, leads_to, server, trusted},
    foreign::{Foreign, MASTER, Shape, WORKERS},
    judge::Api,
    load::Load,
    nlb::{balancer_of_its_owner, lead},
    stage::{Stage, said},
};

const NAME: &str = "live-outside";
const SUBNET: &str = "172.31.77.0/24";

/// A kubelet whose master died notices that within 45 s (HTTP/2's pings), and goes through the records then.
const WORKERS_BACK: Duration = Duration::from_secs(180);

/// Where the endpoint is, and how its owner leads users to masters.
struct Outside<'a> {
    /// As the cluster file calls it.
    kind: &'static str,
    hosts: &'a Bare,
    /// Leads users to these.
    lead_to: fn(&Bare, &[&str]) -> Result<()>,
    /// Where users are led before the conversion: a balancer that looks at `/readyz` may know the new masters by then.
    before: &'static [&'static str],
    /// How a conversion ends before its owner has led users to the new masters.
    ends_with: i32,
    /// The address at which the endpoint answers while the first master has no power.
    answers: SocketAddr,
}

/// Runs it.
pub fn run(stage: &mut Stage) -> Result<()> {
    {
        let foreign = Foreign::make(stage, NAME, SUBNET, &Shape::default())?;
        let hosts = &foreign.hosts;
        let ca = hosts.run(MASTER, "cat /etc/kubernetes/pki/ca.crt")?;
        balancer_of_its_owner(stage, hosts, LB, &ca)?;
        leads_to(hosts, NAME, &[LB])?;
        let outside = Outside {
            kind: "external",
            hosts,
            lead_to: |hosts, masters| {
                let servers = masters
                    .iter()
                    .map(|master| Ok(((*master).to_owned(), server(hosts, master)?)))
                    .collect::<Result<BTreeMap<_, _>>>()?;
                lead(hosts, LB, &servers)
            },
            before: &MASTERS,
            ends_with: 0,
            answers: server(hosts, LB)?,
        };
        all_the_way(stage, &foreign, &outside)?;
    }
    stage.succeed(&["local", "destroy", "--cluster", NAME, "--yes"])?;
    stage.tell(NAME, Happened::AllDestroyed);
    let pinned = format!("state/quorate/clusters/{NAME}/known_hosts");
    fs::remove_file(stage.directory.join(pinned))?;

    let foreign = Foreign::make(stage, NAME, SUBNET, &Shape::default())?;
    let hosts = &foreign.hosts;
    let outside = Outside {
        kind: "dns",
        hosts,
        lead_to: |hosts, masters| leads_to(hosts, NAME, masters),
        before: &[MASTER],
        ends_with: 10,
        answers: server(hosts, "cp-2")?,
    };
    all_the_way(stage, &foreign, &outside)
}

fn all_the_way(stage: &mut Stage, foreign: &Foreign, outside: &Outside<'_>) -> Result<()> {
    let (kind, hosts) = (outside.kind, outside.hosts);
    (outside.lead_to)(hosts, outside.before)?;
    let file = &cluster_file(stage, hosts, NAME, kind)?;
    trusted(stage, hosts, file)?;
    let old = old_kubeconfig(stage, hosts)?;
    let before = Before::look(foreign)?;
    let at_old = Load::start_at(&old, None, "quorate-live-old")?;
    let converts = format!("{kind}: conversion, at the old address");
    let part = [(converts.as_str(), at_old.now())];
    let accepted = ["convert", "--accept", STRAGGLER, "--yes", "-f", file];
    let converted = stage.quorate(&accepted)?;
    let ended = converted.status.code();
    stage.check_eq(
        &format!("{kind}: it is converted"),
        &ended,
        &Some(outside.ends_with),
    );
    if outside.before != MASTERS {
        let words = said(&converted);
        stage.check(
            &format!("{kind}: the masters to which nobody is led yet are named"),
            MASTERS[1..].iter().all(|master| words.contains(master)),
        );
        (outside.lead_to)(hosts, &MASTERS)?;
    }

    healthy(stage, file, Duration::from_secs(120))?;
    let address = outside.answers.ip().to_string();
    let api = Api::of(stage, file, Some((&endpoint(NAME), &address)))?;
    api.whole(stage, hosts, &MASTERS, &WORKERS)?;
    before.unharmed(stage, foreign)?;
    for verb in [&accepted[..], &["apply", "--yes", "-f", file]] {
        let again = stage.succeed(verb)?;
        stage.check(
            &format!("{kind}: `{}` has nothing to do", verb[0]),
            said(&again).to_lowercase().contains("nothing to do"),
        );
    }
    at_old.finish_unharmed(stage, &part)?;

    let new = new_kubeconfig(stage, &old, file)?;
    let load = Load::start_at(&new, Some(outside.answers), "quorate-live-lost")?;
    let loses = format!("{kind}: the first master loses power");
    let lost = [(loses.as_str(), load.now())];
    hosts.power_off(MASTER)?;
    let began = Instant::now();
    stage.wait(
        &format!("{kind}: the first master is missed by the others"),
        Duration::from_secs(120),
        |stage| api.ready(stage).is_ok_and(|ready| !ready.contains(MASTER)),
    );
    let others: BTreeSet<String> = MASTERS[1..]
        .iter()
        .chain(&WORKERS)
        .map(|host| (*host).to_owned())
        .collect();
    stage.wait(
        &format!("{kind}: and everybody else is Ready"),
        WORKERS_BACK.saturating_sub(began.elapsed()),
        |stage| api.ready(stage).is_ok_and(|ready| ready == others),
    );
    let status = stage.quorate(&["status", "-f", file])?;
    stage.check_eq(
        &format!("{kind}: `quorate status` tells of the loss"),
        &(status.status.code(), said(&status).contains(MASTER)),
        &(Some(10), true),
    );
    load.finish(stage, &lost)
}
