//! Founding: only where every founder is known to carry nothing, or nothing but this very founding.

use std::collections::BTreeSet;

use super::EVIDENCE_AGE_MAX;
use crate::{NodeName, Observation, refusal::Refusal, seen::Missing};

pub(super) fn judge(seen: &Observation, founders: &BTreeSet<NodeName>) -> Result<(), Refusal> {
    for node in founders {
        let facts = match seen.hosts.get(node) {
            Some(facts) => facts.within(EVIDENCE_AGE_MAX)?,
            None => return Err(Missing::not_looked(format!("host {node}")).into()),
        };
        let data = facts.etcd_data.get()?;
        if let Some(founding) = facts.founding.get()? {
            if founding.nodes == *founders && !founding.done {
                // Its own founding, interrupted: static members wait for each other, so going on is safe. A marker would mean that
                // it was over, and the guard against emptied data comes before anything else.
                continue;
            }
            let found = format!(
                "a founding of {} ({})",
                list(&founding.nodes),
                if founding.done { "over" } else { "in progress" }
            );
            return Err(Refusal::NotBlank {
                node: node.clone(),
                found,
            });
        }
        let found = if data.marker.is_some() {
            Some("the marker of an etcd member")
        } else if data.wal {
            Some("etcd data")
        } else if facts.manifests.get()?.contains_key("etcd") {
            Some("an etcd manifest")
        } else if facts.pki.get()?.authority.is_some() {
            Some("certificate authorities")
        } else {
            None
        };
        if let Some(found) = found {
            return Err(Refusal::NotBlank {
                node: node.clone(),
                found: found.into(),
            });
        }
    }
    Ok(())
}

fn list(nodes: &BTreeSet<NodeName>) -> String {
    nodes
        .iter()
        .map(NodeName::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}
