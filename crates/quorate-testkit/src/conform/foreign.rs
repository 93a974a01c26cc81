//! The cluster that somebody else made, as a plan that converts it tells of it. Start at [`founded_by_its_owner`].

use std::{collections::BTreeSet, time::Duration};

use quorate_plan::{
    Ensure, Goal, HostEnsure, Intent, NodeName, Place, Plan, Spec, intent::Landmark,
    refusal::RefusalCode, spec::BalancerSpec,
};

use super::imagine::{planned, settings};
use crate::World;

/// Whether the plan is one of a cluster that somebody else made.
pub(super) fn converts(intent: &Intent) -> bool {
    match intent.goal {
        Goal::Convert { .. } => true,
        // What it leads back to only an earlier run tells.
        Goal::Unconvert
        | Goal::RetireOldAddress { .. }
        | Goal::KeepOldAddress
        | Goal::Converge
        | Goal::Replace { .. }
        | Goal::Remove { .. }
        | Goal::Repair => false,
    }
}

/// The file as its owner would have written it: the one master, which others call by what they like.
pub(super) fn owners_file(intent: &Intent, approved: &Plan) -> Spec {
    let mut spec = intent.spec.clone();
    let original = original(intent, approved);
    spec.control_plane.retain(|node, _| *node == original);
    spec.balancer = BalancerSpec::External;
    spec.hosts_file = false;
    spec
}

/// The master that was there first: what is kept, served and configured there tells. Where nothing of that is left to do it is the first.
fn original(intent: &Intent, approved: &Plan) -> NodeName {
    let of = approved
        .steps()
        .find_map(|step| match (&step.ensure, &step.on) {
            (
                Ensure::Host(
                    HostEnsure::BackedUp { master: true, .. }
                    | HostEnsure::BackupOffHost { .. }
                    | HostEnsure::ServingCertificate { .. }
                    | HostEnsure::Configuration { .. },
                ),
                Place::Host(node),
            ) => Some(node.clone()),
            _ => None,
        });
    let first = || intent.spec.control_plane.keys().next().cloned();
    of.or_else(first).expect("a cluster has a master")
}

/// Whether a host has a step of its own in the plan.
fn asked(approved: &Plan, node: &NodeName) -> bool {
    approved
        .steps()
        .any(|step| step.on == Place::Host(node.clone()))
}

/// The cluster of one master becomes its owner's, with the configuration, the names and the addresses that the plan tells of.
///
/// # Errors
/// When such a cluster is not converted by any plan.
pub(super) fn founded_by_its_owner(
    world: &mut World,
    intent: &Intent,
    approved: &Plan,
) -> Result<(), String> {
    world.somebody_elses();
    // What the file calls the API nobody knew before.
    world.resolves.clear();
    world.know(&intent.spec);
    let original = original(intent, approved);
    if intent.spec.balancer == BalancerSpec::Dns {
        world.resolves = [world.machine(&original).address].into();
    }
    // It is accepted by name that they are away, when they are.
    for accepted in &intent.accepted {
        if accepted.risk == RefusalCode::WorkerAway && !asked(approved, &accepted.node) {
            world.power_off(&accepted.node);
        }
    }
    world.settle();
    let Some(settings) = settings(approved) else {
        return Ok(());
    };
    if let Some(adopted) = settings.adopted.as_deref() {
        world.was_made_with(&original, adopted);
    }
    // Its certificate has the names that no file and no configuration would have given it.
    let whole = Intent {
        goal: Goal::Convert {
            pause_after: Some(Landmark::Certificate),
        },
        ..intent.clone()
    };
    let plan = planned(&whole, world)?;
    let given = plan.steps().find_map(|step| match &step.ensure {
        Ensure::Host(HostEnsure::ServingCertificate { settings, .. }) => Some(&settings.sans),
        _ => None,
    });
    let none = BTreeSet::new();
    let given = given.unwrap_or(&none);
    let more: Vec<String> = settings.sans.difference(given).cloned().collect();
    let machine = world.machine_mut(&original);
    if let Some(serving) = machine.disk.pki.certificates.get_mut("pki/apiserver.crt") {
        serving.sans.extend(more);
    }
    Ok(())
}

/// Nobody came by the old address for as long as was asked, where the plan refuses others there from then on: no journal tells of time.
pub(super) fn stay_away(world: &mut World, approved: &Plan) {
    for step in approved.steps() {
        if let (
            Ensure::Host(HostEnsure::OldAddress {
                rule: Some(rule), ..
            }),
            Place::Host(node),
        ) = (&step.ensure, &step.on)
            && rule.refuse
            && let Some(now) = &mut world.machine_mut(node).disk.foreign.old_address
        {
            now.over = Duration::from_secs(rule.remember_s);
            now.callers.clear();
        }
    }
}
