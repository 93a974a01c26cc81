//! Who still uses the old address. Start at [`refusals`].
//!
//! It is told by original destination, on the host where a connection begins: on the master, traffic through the `kubernetes` Service looks
//! like traffic to its own address.

use std::collections::{BTreeMap, BTreeSet};

use super::Foreign;
use crate::{
    NodeName, Refusal,
    observation::{Caller, HostFacts, Stored},
    seen::Missing,
    spec::{BalancerSpec, Role},
    standing::addresses_of,
};

/// A master's own components, which stay with its own apiserver. The kernel keeps 15 bytes of a process's name.
const OWN: [&str; 4] = [
    "kubelet",
    "kube-apiserver",
    "kube-controller",
    "kube-scheduler",
];

/// Who is led by stages of a conversion.
const LED: [&str; 2] = ["kubelet", "kube-proxy"];

/// Everybody who is connected to the old address and has another way, by the host that saw them, and the objects of the cluster that hold it;
/// those that were accepted are left out.
///
/// # Errors
/// [`Missing`] when a host could not tell.
pub(in crate::planner) fn refusals(foreign: &Foreign<'_>) -> Result<Vec<Refusal>, Missing> {
    let mut found = Vec::new();
    for (node, callers) in callers(foreign)? {
        let name = by_records(foreign).then(|| foreign.intent.spec.endpoint.host.clone());
        let refusal = Refusal::OldAddressInUse {
            node,
            callers,
            name,
        };
        if !refusal.accepted(&foreign.intent.accepted) {
            found.push(refusal);
        }
    }
    for refusal in stored(foreign)? {
        if !refusal.accepted(&foreign.intent.accepted) {
            found.push(refusal);
        }
    }
    Ok(found)
}

/// Who is told by an object where the API is may come only once a day: nobody is connected in between.
///
/// # Errors
/// [`Missing`] when nobody asked.
pub(in crate::planner) fn stored(foreign: &Foreign<'_>) -> Result<Vec<Refusal>, Missing> {
    let node = foreign.original.name.clone();
    let stored = match foreign.api.conversion()?.stored.get() {
        Ok(stored) => stored,
        Err(missing) => {
            let unknowns = [missing.to_string()].into();
            return Ok(vec![Refusal::Unproven { node, unknowns }]);
        }
    };
    let old = foreign.old_servers()?;
    let is_old = |one: &&Stored| old.contains(&format!("https://{}", one.address));
    let stored: BTreeSet<Stored> = stored.iter().filter(is_old).cloned().collect();
    Ok(if stored.is_empty() {
        Vec::new()
    } else {
        vec![Refusal::OldAddressStored { node, stored }]
    })
}

fn callers(foreign: &Foreign<'_>) -> Result<BTreeMap<NodeName, BTreeSet<Caller>>, Missing> {
    let mut found = BTreeMap::new();
    for (node, _, role) in foreign.intent.spec.machines() {
        match role {
            // It leads there: that is what it is for.
            Role::Balancer => continue,
            Role::ControlPlane if *node != foreign.original.name => continue,
            // Its kubelet leads there, when it comes back: that it does was accepted by name.
            Role::Worker if foreign.away.contains(node) => continue,
            Role::ControlPlane | Role::Worker => {}
        }
        let facts = foreign.seen.host(node)?;
        let callers = of_host(foreign, node, facts)?;
        if !callers.is_empty() {
            found.insert(node.clone(), callers);
        }
    }
    Ok(found)
}

/// The endpoint's name leads to the master's own address.
fn by_records(foreign: &Foreign<'_>) -> bool {
    foreign.intent.spec.balancer == BalancerSpec::Dns
}

fn of_host(
    foreign: &Foreign<'_>,
    node: &NodeName,
    facts: &HostFacts,
) -> Result<BTreeSet<Caller>, Missing> {
    let spec = &foreign.intent.spec;
    let ways = addresses_of(&spec.endpoint, facts)?;
    let old = foreign.original.address;
    let elsewhere = |caller: &Caller| {
        let machines = spec.machines();
        let mut others = machines.filter(|(name, ..)| *name != node);
        // Whoever comes from another host of the cluster is told by that host, or comes through a Service.
        others.any(|(_, machine, _)| machine.address == caller.from)
    };
    let own = |caller: &Caller| {
        let process = caller.process.as_deref();
        // Quorate's own programs there: another look, or a balancer beside the apiserver.
        let is_own = |process: &str| OWN.contains(&process) || process.starts_with("quorate-");
        *node == foreign.original.name && process.is_some_and(is_own)
    };
    // Those were led, and began anew with the name: that was seen, stage by stage.
    let by_records = by_records(foreign);
    let led = |caller: &Caller| {
        let process = caller.process.as_deref();
        by_records && process.is_some_and(|process| LED.contains(&process))
    };
    // A balancer is known by its address, which the endpoint's name leads to; whoever comes through it came by the endpoint.
    let balancer = |caller: &Caller| ways.iter().any(|way| way.ip() == caller.from);
    let by_endpoint =
        |caller: &Caller| !by_records && (ways.contains(&caller.to) || balancer(caller));
    let callers = facts.conversion()?.callers.get()?;
    let counted = callers.iter().filter(|caller| {
        caller.to.ip() == old
            && !by_endpoint(caller)
            && !elsewhere(caller)
            && !own(caller)
            && !led(caller)
    });
    Ok(counted.cloned().collect())
}
