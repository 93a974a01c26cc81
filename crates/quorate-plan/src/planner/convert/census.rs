//! Who still uses the old address. Start at [`refusals`].
//!
//! It is told by original destination, on the host where a connection begins: on the master, traffic through the `kubernetes` Service looks
//! like traffic to its own address.

use std::collections::{BTreeMap, BTreeSet};

use super::Foreign;
use crate::{
    NodeName, Refusal,
    observation::{Caller, HostFacts},
    seen::Missing,
    spec::Role,
    standing::addresses_of,
};

/// A master's own components, which stay with its own apiserver. The kernel keeps 15 bytes of a process's name.
const OWN: [&str; 4] = [
    "kubelet",
    "kube-apiserver",
    "kube-controller",
    "kube-scheduler",
];

/// Everybody who is connected to the old address and has another way, by the host that saw them; those that were accepted are left out.
///
/// # Errors
/// [`Missing`] when a host could not tell.
pub(in crate::planner) fn refusals(foreign: &Foreign<'_>) -> Result<Vec<Refusal>, Missing> {
    let mut found = Vec::new();
    for (node, callers) in callers(foreign)? {
        let refusal = Refusal::OldAddressInUse { node, callers };
        if !refusal.accepted(&foreign.intent.accepted) {
            found.push(refusal);
        }
    }
    Ok(found)
}

fn callers(foreign: &Foreign<'_>) -> Result<BTreeMap<NodeName, BTreeSet<Caller>>, Missing> {
    let mut found = BTreeMap::new();
    for (node, _, role) in foreign.intent.spec.machines() {
        match role {
            // It leads there: that is what it is for.
            Role::Balancer => continue,
            Role::ControlPlane if *node != foreign.original.name => continue,
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
    let callers = facts.conversion()?.callers.get()?;
    let counted = callers.iter().filter(|caller| {
        caller.to.ip() == old && !ways.contains(&caller.to) && !elsewhere(caller) && !own(caller)
    });
    Ok(counted.cloned().collect())
}
