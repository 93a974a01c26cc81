//! The old address of a cluster that was converted is closed to all but the cluster, once nobody else came that way for a stated time; and
//! opened again. Start at [`retire`]; why it can be no more than that is in `docs/design/0005-conversion.md`.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use super::{
    Draft,
    convert::{Foreign, census},
    preflight,
};
use crate::{
    Intent, NodeName, Observation, Planning, Refusal,
    kubeadm::Peer,
    observation::{Caller, HostFacts, OldAddress, OldAddressRule},
    seen::Missing,
    spec::{BalancerSpec, Role},
    step::{HostEnsure, Reason},
};

/// First everybody who comes by the old address is remembered, then, when nobody did for `quiet_for_s` seconds, others are refused there.
/// In between there is nothing to do.
pub(super) fn retire(intent: &Intent, seen: &Observation, quiet_for_s: u64) -> Planning {
    let mut draft = Draft {
        refused: preflight::held(intent, seen),
        ..Draft::default()
    };
    if draft.refused.is_empty()
        && let Err(refusal) = draft_retirement(intent, seen, quiet_for_s, &mut draft)
    {
        draft.refuse(refusal);
    }
    draft.finish()
}

/// Everybody may come by the old address again.
pub(super) fn keep(intent: &Intent, seen: &Observation) -> Planning {
    let mut draft = Draft {
        refused: preflight::held(intent, seen),
        ..Draft::default()
    };
    if draft.refused.is_empty()
        && let Err(missing) = draft_opening(intent, seen, &mut draft)
    {
        draft.refuse(missing.into());
    }
    draft.finish()
}

fn draft_opening(intent: &Intent, seen: &Observation, draft: &mut Draft) -> Result<(), Missing> {
    let mut steps = Vec::new();
    for node in intent.spec.control_plane.keys() {
        if seen.host(node)?.old_address.get()?.is_some() {
            steps.push(on(intent, node, None, Reason::TakenBack));
        }
    }
    let title = "Let everybody come by the old address";
    draft.stage(seen, title, None, steps);
    Ok(())
}

fn draft_retirement(
    intent: &Intent,
    seen: &Observation,
    quiet_for_s: u64,
    draft: &mut Draft,
) -> Result<(), Refusal> {
    told_apart(intent)?;
    let mut foreign = Foreign::of(intent, seen)?;
    if !foreign.voters.iter().eq(intent.spec.control_plane.keys()) {
        return Err(not_now(
            "a conversion that is not done",
            format!(
                "{} of {} masters vote",
                foreign.voters.len(),
                intent.spec.control_plane.len()
            ),
            "`quorate convert` first: until everybody has moved the old address is needed",
        ));
    }
    let (original, facts) = converted(intent, seen)?;
    (foreign.original, foreign.facts) = (original.clone(), facts);
    every_node_is_named(&foreign)?;
    let rule = OldAddressRule {
        address: match original.address {
            IpAddr::V4(address) => address,
            IpAddr::V6(_) => {
                return Err(Missing::not_looked("an IPv4 address of the master").into());
            }
        },
        inside: inside(&foreign, draft)?,
        remember_s: quiet_for_s,
        refuse: false,
    };
    let closed = OldAddressRule {
        refuse: true,
        ..rule.clone()
    };
    let now = facts.old_address.get()?.as_ref();
    // Once it is closed, whoever still tries gets nowhere, and is told where the run ends.
    if !now.is_some_and(|now| now.rule.refuse) {
        for refusal in census::refusals(&foreign)? {
            draft.refuse(refusal);
        }
    }
    let step = |rule| vec![on(intent, &original.name, Some(rule), Reason::Converts)];
    let first = match now {
        Some(now) if now.rule.refuse => Some(("Refuse others at the old address", closed)),
        Some(now) if now.rule == rule && now.loaded => {
            came(now, &original, intent, draft);
            let quiet = now.over >= Duration::from_secs(quiet_for_s);
            quiet.then_some(("Refuse others at the old address", closed))
        }
        Some(_) | None => Some(("Remember who comes by the old address", rule)),
    };
    if let Some((title, rule)) = first {
        draft.stage(seen, title, None, step(rule));
    }
    Ok(())
}

/// Whoever came while it was watched is as good as whoever is there now.
fn came(now: &OldAddress, original: &Peer, intent: &Intent, draft: &mut Draft) {
    let to = std::net::SocketAddr::new(original.address, 6443);
    let callers: BTreeSet<Caller> = now
        .callers
        .iter()
        .map(|from| Caller {
            to,
            from: *from,
            process: Some(format!("somebody, within {} s,", now.rule.remember_s)),
        })
        .collect();
    if callers.is_empty() {
        return;
    }
    let node = original.name.clone();
    let refusal = Refusal::OldAddressInUse {
        node,
        callers,
        name: None,
    };
    if !refusal.accepted(&intent.accepted) {
        draft.refuse(refusal);
    }
}

/// Where Quorate's balancers are not the way, those who come by the endpoint look like those who come by the old address.
fn told_apart(intent: &Intent) -> Result<(), Refusal> {
    match &intent.spec.balancer {
        BalancerSpec::Quorate { .. } | BalancerSpec::Shared { .. } => Ok(()),
        BalancerSpec::Dns => Err(not_now(
            "no balancer, only records of DNS",
            "the endpoint's name leads to the old address itself".into(),
            "keep the old address: it is how the endpoint's clients come to that master",
        )),
        BalancerSpec::External | BalancerSpec::Nlb { .. } => Err(not_now(
            "a balancer that is not Quorate's",
            "nobody tells which addresses its connections come from".into(),
            "keep the old address; or refuse it by your own packet filter, to all but your balancer, the masters, the workers and the pods",
        )),
    }
}

/// A node that the file does not name would lose its way to the cluster.
fn every_node_is_named(foreign: &Foreign<'_>) -> Result<(), Refusal> {
    let spec = &foreign.intent.spec;
    let nodes = foreign.api.nodes.get()?.keys();
    let unnamed: Vec<String> = nodes
        .filter(|node| spec.machine(node).is_none())
        .map(ToString::to_string)
        .collect();
    if unnamed.is_empty() {
        return Ok(());
    }
    Err(not_now(
        "nodes that the cluster file does not name",
        unnamed.join(", "),
        "name them in the file, or take them out of the cluster",
    ))
}

fn not_now(what: &str, seen: String, way: &str) -> Refusal {
    Refusal::NotConvertible {
        what: format!("retiring the old address: {what}"),
        seen,
        way: way.into(),
        mendable: true,
    }
}

/// The master that was there first, which kept what was there before.
fn converted<'a>(intent: &Intent, seen: &'a Observation) -> Result<(Peer, &'a HostFacts), Refusal> {
    for node in intent.spec.control_plane.keys() {
        let facts = seen.host(node)?;
        let backup = facts.conversion()?.backup.get()?.as_ref();
        if backup.is_some_and(|backup| backup.objects.is_some())
            && let Some(peer) = intent.spec.peer(node)
        {
            return Ok((peer, facts));
        }
    }
    Err(not_now(
        "the master whose address it is",
        "no master has what was kept before a conversion".into(),
        "there is nothing to retire: that master left, or the cluster was not converted by Quorate",
    ))
}

/// The cluster: its hosts, its balancers and its pods.
fn inside(foreign: &Foreign<'_>, draft: &mut Draft) -> Result<BTreeSet<String>, Refusal> {
    let mut inside = hosts(foreign.intent);
    let adopted = foreign.adopted()?;
    match adopted.text(&["networking", "podSubnet"]) {
        Some(networks) => inside.extend(networks.split(',').map(|one| one.trim().to_owned())),
        None => {
            let refusal = Refusal::Unproven {
                node: foreign.original.name.clone(),
                unknowns: [
                    "which addresses pods have: kubeadm-config names no podSubnet. Pods whose packets reach the master with their own address would be refused there"
                        .to_owned(),
                ]
                .into(),
            };
            if !refusal.accepted(&foreign.intent.accepted) {
                draft.refuse(refusal);
            }
        }
    }
    Ok(inside)
}

fn hosts(intent: &Intent) -> BTreeSet<String> {
    let machines = intent.spec.machines();
    machines
        .map(|(_, machine, _)| machine.address.to_string())
        .collect()
}

/// Hosts that came into the file since are let through, before they are the cluster's: what their pods send through the `kubernetes` Service
/// reaches every master by its own address, so one in as many as there are masters would be refused.
pub(super) fn follow(intent: &Intent, seen: &Observation, draft: &mut Draft) {
    let mut steps = Vec::new();
    for (node, _, role) in intent.spec.machines() {
        let Role::ControlPlane = role else { continue };
        // Whether it is seen at all is for others to judge.
        let Ok(facts) = seen.host(node) else { continue };
        let now = match facts.old_address.get() {
            Ok(Some(now)) => now,
            Ok(None) => continue,
            Err(missing) => {
                draft.refuse(missing.into());
                continue;
            }
        };
        let more = hosts(intent);
        if !more.is_subset(&now.rule.inside) {
            let mut rule = now.rule.clone();
            rule.inside.extend(more);
            steps.push(on(intent, node, Some(rule), Reason::Prerequisite));
        }
    }
    let title = "Let new hosts through to the old address";
    draft.stage(seen, title, None, steps);
}

fn on(
    intent: &Intent,
    node: &NodeName,
    rule: Option<OldAddressRule>,
    because: Reason,
) -> crate::step::Step {
    let peer = intent.spec.peer(node).expect("a master of the file");
    crate::step::Step::on_host(node, HostEnsure::OldAddress { node: peer, rule }, because)
}
