//! The address that masters share: who holds it, and whether everybody could.

use std::{collections::BTreeSet, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::Judge;
use crate::{Intent, NodeName, Observation, Seen};

/// A shared address, and who was seen to hold it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SharedAddress {
    /// The address.
    pub address: IpAddr,
    /// The masters that hold it: one, unless they do not hear each other.
    pub holders: BTreeSet<NodeName>,
}

/// `None`: the masters share no address.
pub(super) fn held(intent: &Intent, seen: &Observation) -> Option<SharedAddress> {
    let address = intent.spec.shared_address()?;
    // One that the file does not name any more may still hold it.
    let holds = |node: &&NodeName| {
        let facts = seen.host(node);
        facts.is_ok_and(|facts| match &facts.sharing {
            Seen::Known { value, .. } => value.share.as_ref().is_some_and(|share| share.holds),
            Seen::Unknown(_) => false,
        })
    };
    let holders = seen.hosts.keys().filter(holds).cloned().collect();
    Some(SharedAddress { address, holders })
}

/// Several masters could hold it: they take part in it, and their balancers lead on.
pub(super) fn several(intent: &Intent, seen: &Observation) -> bool {
    let could = |node: &&NodeName| {
        seen.host(node).is_ok_and(|facts| {
            let shares = match &facts.sharing {
                Seen::Known { value, .. } => value.share.as_ref().is_some_and(|share| share.active),
                Seen::Unknown(_) => false,
            };
            let leads = facts.balancer.get().is_ok_and(|balancer| {
                balancer
                    .as_ref()
                    .is_some_and(|balancer| balancer.active && !balancer.up.is_empty())
            });
            shares && leads
        })
    };
    intent.spec.control_plane.keys().filter(could).count() > 1
}

impl Judge<'_> {
    pub(super) fn shared_address(&mut self) {
        let Some(shared) = held(self.intent, self.seen) else {
            return;
        };
        let address = shared.address;
        let mut all_seen = true;
        for node in self.intent.spec.control_plane.keys() {
            let sharing = match self.seen.host(node).and_then(|facts| facts.sharing.get()) {
                Ok(sharing) => sharing,
                // The host itself is in the list of the unseen already.
                Err(missing) => {
                    all_seen = false;
                    if self.seen.host(node).is_ok() {
                        self.unseen.push(missing);
                    }
                    continue;
                }
            };
            let Some(share) = &sharing.share else {
                self.problem(node, format!("expected a part in {address}, seen none"));
                continue;
            };
            for (what, is) in [
                ("configuration as written, seen changed", share.intact),
                ("to run, seen stopped", share.active),
            ] {
                if !is {
                    self.problem(node, format!("keepalived: expected {what}"));
                }
            }
            if !share.redirects {
                self.problem(
                    node,
                    format!("{address}: expected to be redirected to the balancer, seen not to"),
                );
            }
            let strangers = share.peers.keys();
            let strangers =
                strangers.filter(|peer| !self.intent.spec.control_plane.contains_key(*peer));
            for peer in strangers {
                self.problems.push(super::Problem {
                    on: node.to_string(),
                    what: format!("keepalived: peer {peer} is none of the file's masters"),
                });
            }
        }
        let holders: Vec<&str> = shared.holders.iter().map(NodeName::as_str).collect();
        match holders.as_slice() {
            [_] => {}
            [] if all_seen => {
                self.problem("endpoint", format!("{address}: no master holds it"));
            }
            // Whoever holds it may be one that was not seen.
            [] => {}
            several => {
                let several = several.join(" and ");
                self.problem(
                    "endpoint",
                    format!("{address}: held by {several}: they do not hear each other"),
                );
            }
        }
    }
}
