//! Where the endpoint is a name with an address record for every master and nothing in between: which records must not stand when. Whoever
//! owns the name changes them; here they are only looked at. Start at [`one_master`] and [`of_leaver`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    Intent, NodeName, Observation, Refusal, kubeadm::Peer, seen::Missing, spec::BalancerSpec,
};

/// Until another master votes the name leads to the one that is there, and to nobody else: a record of one that does not serve yet is a
/// connection that fails.
///
/// # Errors
/// [`Refusal::EndpointRecords`]; [`Missing`] when a host did not say what the name resolves to.
pub(super) fn one_master(
    intent: &Intent,
    seen: &Observation,
    original: &Peer,
    away: &BTreeSet<NodeName>,
) -> Result<(), Refusal> {
    let others = |records: &BTreeSet<IpAddr>| {
        let others = records.iter().filter(|record| **record != original.address);
        others.copied().collect()
    };
    let Peer { name, address } = original;
    let why = format!(
        "{name} ({address}) is the only master, and a connection to anybody else fails; remove these records, and add that of a new master when it serves"
    );
    refuse(intent, found(intent, seen, away, others)?, why)
}

/// A master whose record stands is not stopped: clients would go on coming to it. `due`: nothing else comes before that. A record that has to
/// go is known at once, but the only one there is has to stay until somebody else has one.
///
/// # Errors
/// As [`one_master`].
pub(super) fn of_leaver(
    intent: &Intent,
    seen: &Observation,
    leaver: &NodeName,
    addresses: &BTreeSet<IpAddr>,
    due: bool,
) -> Result<(), Refusal> {
    let its = |records: &BTreeSet<IpAddr>| {
        let may_go = due || !records.is_subset(addresses);
        let its = records.intersection(addresses).filter(|_| may_go);
        its.copied().collect()
    };
    let why = format!("{leaver} is to be stopped; remove its record first, and wait for its TTL");
    refuse(intent, found(intent, seen, &BTreeSet::new(), its)?, why)
}

/// What is wrong of the records that each host sees.
fn found(
    intent: &Intent,
    seen: &Observation,
    away: &BTreeSet<NodeName>,
    wrong: impl Fn(&BTreeSet<IpAddr>) -> BTreeSet<IpAddr>,
) -> Result<BTreeMap<NodeName, BTreeSet<IpAddr>>, Missing> {
    let mut found = BTreeMap::new();
    let spec = &intent.spec;
    if spec.balancer != BalancerSpec::Dns {
        return Ok(found);
    }
    let hosts = spec.control_plane.keys().chain(spec.workers.keys());
    for node in hosts.filter(|node| !away.contains(*node)) {
        let sight = seen.host(node)?.endpoint.get()?.as_ref();
        let what =
            || Missing::not_looked(format!("what the endpoint's name resolves to on {node}"));
        let wrong = wrong(&sight.ok_or_else(what)?.resolves);
        if !wrong.is_empty() {
            found.insert(node.clone(), wrong);
        }
    }
    Ok(found)
}

fn refuse(
    intent: &Intent,
    found: BTreeMap<NodeName, BTreeSet<IpAddr>>,
    why: String,
) -> Result<(), Refusal> {
    if found.is_empty() {
        return Ok(());
    }
    Err(Refusal::EndpointRecords {
        name: intent.spec.endpoint.host.clone(),
        records: found.values().flatten().copied().collect(),
        nodes: found.into_keys().collect(),
        why,
    })
}
