//! Founding: only where every founder is known to carry nothing, or nothing but this very founding.

use std::collections::BTreeSet;

use super::EVIDENCE_AGE_MAX;
use crate::{
    NodeName, Observation,
    observation::{Founding, HostFacts},
    quorum::needed,
    refusal::Refusal,
    seen::Missing,
};

pub(super) fn judge(seen: &Observation, founders: &BTreeSet<NodeName>) -> Result<(), Refusal> {
    let begun = has_data_of(seen, founders)?;
    for node in founders {
        let facts = fresh(seen, node)?;
        let data = facts.etcd_data.get()?;
        if let Some(founding) = facts.founding.get()? {
            if founding.nodes == *founders && !founding.done {
                // Its own founding, interrupted: static members wait for each other, so going on is safe. Where it carries a member's
                // marker the guard against emptied data comes before anything else.
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
        // Others have data of it and this host has not even the note: it was made anew meanwhile. It does not go on with the founding,
        // whatever it carries by now; the others may.
        if begun {
            continue;
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

/// Beginning a founding again: what is left of its data is of no use, since it is that of a minority, nobody was led to it, and it was not begun
/// again before.
///
/// # Errors
/// [`Refusal::NotBlank`] where the cluster may have served, [`Refusal::FoundingFailed`] the second time, [`Refusal::WouldLoseQuorum`] where a
/// majority still has its data, [`Missing`].
pub(crate) fn restartable(
    seen: &Observation,
    founders: &BTreeSet<NodeName>,
) -> Result<(), Refusal> {
    let mut with_data = BTreeSet::new();
    let mut again = false;
    for node in founders {
        let facts = fresh(seen, node)?;
        // It comes before anybody is led to a master: without it nothing was confirmed to anybody.
        if facts.etcd_data.get()?.marker.is_some() {
            return Err(Refusal::NotBlank {
                node: node.clone(),
                found: "the marker of an etcd member, whose cluster may have served".into(),
            });
        }
        if facts.etcd_data.get()?.wal {
            with_data.insert(node.clone());
            again |=
                own(facts, founders)?.is_some_and(|own| own.restarts >= Founding::RESTARTS_MAX);
        }
    }
    if again {
        return Err(Refusal::FoundingFailed {
            nodes: founders.clone(),
            lost: founders.difference(&with_data).cloned().collect(),
        });
    }
    let needed = needed(founders.len());
    if with_data.len() >= needed {
        return Err(Refusal::WouldLoseQuorum {
            change: "moving aside what founders have".into(),
            voters: founders.len(),
            healthy: founders.len() - with_data.len(),
            needed,
        });
    }
    Ok(())
}

/// Some founder has begun to write.
fn has_data_of(seen: &Observation, founders: &BTreeSet<NodeName>) -> Result<bool, Refusal> {
    for node in founders {
        let facts = fresh(seen, node)?;
        if facts.etcd_data.get()?.wal && own(facts, founders)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The note of that founding, in progress.
fn own<'a>(
    facts: &'a HostFacts,
    founders: &BTreeSet<NodeName>,
) -> Result<Option<&'a Founding>, Missing> {
    let noted = facts.founding.get()?.as_ref();
    Ok(noted.filter(|founding| founding.nodes == *founders && !founding.done))
}

fn fresh<'a>(seen: &'a Observation, node: &NodeName) -> Result<&'a HostFacts, Missing> {
    match seen.hosts.get(node) {
        Some(facts) => facts.within(EVIDENCE_AGE_MAX),
        None => Err(Missing::not_looked(format!("host {node}"))),
    }
}

fn list(nodes: &BTreeSet<NodeName>) -> String {
    nodes
        .iter()
        .map(NodeName::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}
