//! Guards: one file per change. A guard projects the cluster after the change and judges that; what nobody saw, it refuses. Start at
//! [`permit`].

mod found;
mod member;

use std::{collections::BTreeSet, time::Duration};

use crate::{
    Observation,
    change::{Change, Permit},
    intent::Acceptance,
    kubeadm::Peer,
    quorum::Quorum,
    refusal::Refusal,
    seen::Missing,
};

/// Oldest sighting a guard believes. A run looks again before every stage, which takes seconds; a minute allows for a slow host and
/// not for a plan that lay around.
pub const EVIDENCE_AGE_MAX: Duration = Duration::from_secs(60);

/// Permits one change for what was observed, or refuses it with numbers. `accepted` is consulted for refusals that can be accepted;
/// none of those given here can: they are all about quorum.
///
/// # Errors
/// The first refusal.
pub fn permit(
    seen: &Observation,
    change: &Change,
    _accepted: &BTreeSet<Acceptance>,
) -> Result<Permit, Refusal> {
    match change {
        Change::Found { nodes } => found::judge(seen, nodes)?,
        Change::AddVoter { node } => member::judge_add(seen, node, &quorum(seen)?)?,
        Change::RemoveMember { id, .. } => member::judge_remove(change, *id, &quorum(seen)?)?,
        Change::Interrupt { node } => member::judge_interrupt(seen, change, node, &quorum(seen)?)?,
    }
    Ok(Permit::new(change.clone()))
}

/// What promoting the learner of `joiner` needs beyond the permit for adding it: a sighting of the learner alive.
///
/// # Errors
/// [`Refusal::Missing`] when it was not seen alive.
pub(crate) fn promotable(seen: &Observation, joiner: &Peer) -> Result<(), Refusal> {
    member::judge_promotion(seen, joiner, &quorum(seen)?)
}

/// The quorum as the witnesses tell it, none of them older than [`EVIDENCE_AGE_MAX`].
fn quorum(seen: &Observation) -> Result<Quorum, Missing> {
    let mut fresh = Observation::default();
    for (node, view) in &seen.etcd {
        let view = match view.within(EVIDENCE_AGE_MAX) {
            Ok(_) => view.clone(),
            Err(missing) => crate::Seen::Unknown(missing),
        };
        fresh.etcd.insert(node.clone(), view);
    }
    Quorum::of(&fresh)?.ok_or_else(|| Missing::not_looked("a running etcd"))
}
