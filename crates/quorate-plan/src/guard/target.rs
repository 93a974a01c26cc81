//! What registering a target and taking one out need: no host knows the cloud's balancer, so the operator's machine asks right before it acts.

use std::collections::BTreeSet;

use super::{EVIDENCE_AGE_MAX, serves_at};
use crate::{
    NodeName, Observation, observation::Target, refusal::Refusal, seen::Missing, step::InfraEnsure,
};

/// Whether the provider may be asked for that now, by what was seen just now.
///
/// A target is registered only when somebody saw its API server ready. One is taken out only while another one is healthy: a balancer without
/// a healthy target sends everybody everywhere.
///
/// # Errors
/// [`Refusal::LastTarget`]; [`Refusal::Missing`] when what decides it was not seen, or too long ago.
pub fn permit_infra(seen: &Observation, ensure: &InfraEnsure) -> Result<(), Refusal> {
    match ensure {
        InfraEnsure::Machine { .. } | InfraEnsure::MachineOff { .. } => Ok(()),
        InfraEnsure::Target { node, .. } => serves_at(seen, node),
        InfraEnsure::TargetGone { node, .. } => another_is_healthy(seen, node),
    }
}

fn another_is_healthy(seen: &Observation, node: &NodeName) -> Result<(), Refusal> {
    let mut healthy: BTreeSet<NodeName> = BTreeSet::new();
    let mut others: BTreeSet<String> = BTreeSet::new();
    let mut unseen: Option<Missing> = None;
    for (other, target) in seen.targets.iter().filter(|(other, _)| *other != node) {
        match target.within(EVIDENCE_AGE_MAX) {
            Ok(Target::Healthy) => {
                healthy.insert(other.clone());
            }
            Ok(target @ (Target::Absent | Target::Unhealthy { .. } | Target::Draining)) => {
                others.insert(format!("{other} {target}"));
            }
            Err(missing) => {
                unseen.get_or_insert(missing);
            }
        }
    }
    match (healthy.is_empty(), unseen) {
        (false, _) => Ok(()),
        (true, Some(missing)) => Err(missing.into()),
        (true, None) => Err(Refusal::LastTarget {
            node: node.clone(),
            others,
        }),
    }
}
