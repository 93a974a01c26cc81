//! End states of targets at the cloud's balancer.

use super::Differences;
use crate::{NodeName, observation::Target};

pub(super) fn registered(
    found: &mut Differences,
    node: &NodeName,
    instance: &str,
    target: &Target,
) {
    match target {
        Target::Healthy => {}
        Target::Absent | Target::Unhealthy { .. } | Target::Draining => {
            found.note(label(node, instance), "healthy", target);
        }
    }
}

/// One that is draining still gets connections.
pub(super) fn gone(found: &mut Differences, node: &NodeName, instance: &str, target: &Target) {
    match target {
        Target::Absent => {}
        Target::Healthy | Target::Unhealthy { .. } | Target::Draining => {
            found.note(label(node, instance), "not registered", target);
        }
    }
}

fn label(node: &NodeName, instance: &str) -> String {
    format!("target {node} ({instance})")
}
