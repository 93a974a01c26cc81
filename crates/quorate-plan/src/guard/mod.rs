//! Guards: one file per change. A guard projects the cluster after the change and judges that; what nobody saw, it refuses. Start at
//! [`permit`].

mod found;
mod member;
mod remaining;
mod successor;
mod target;
mod versions;

pub(crate) use found::restartable;
pub(crate) use member::like_the_masters;
pub use remaining::{DISK_FREE_MIN, FSYNC_P99_MS_MAX, QUOTA_PERCENT_MAX, RAFT_LAG_MAX};
pub use target::permit_infra;

use std::{collections::BTreeSet, time::Duration};

use crate::{
    NodeName, Observation,
    change::{Change, Permit},
    intent::Acceptance,
    kubeadm::Peer,
    observation::{EtcdVolume, VolumeContent},
    quorum::Quorum,
    refusal::Refusal,
    seen::Missing,
};

/// Oldest sighting a guard believes. A run looks again before every stage, which takes seconds; a minute allows for a slow host and
/// not for a plan that lay around.
pub const EVIDENCE_AGE_MAX: Duration = Duration::from_secs(60);

/// Permits one change for what was observed, or refuses it with numbers. `accepted` is consulted for refusals that can be accepted: see
/// [`crate::refusal::RefusalCode::acceptable`]. Those about the quorum never can.
///
/// # Errors
/// The first refusal.
pub fn permit(
    seen: &Observation,
    change: &Change,
    accepted: &BTreeSet<Acceptance>,
) -> Result<Permit, Refusal> {
    match change {
        Change::Found { nodes } => found::judge(seen, nodes)?,
        Change::AddVoter { node } => member::judge_add(seen, node, &quorum(seen)?, accepted)?,
        Change::RemoveMember { id, next } => {
            let quorum = quorum(seen)?;
            member::judge_remove(seen, change, *id, &quorum, accepted)?;
            successor::judge(seen, change, *id, next.as_ref(), &quorum)?;
        }
        Change::Interrupt { node } => member::judge_interrupt(seen, change, node, &quorum(seen)?)?,
    }
    Ok(Permit::new(change.clone()))
}

/// Whether a change that is planned would be refused as the members are now, whatever its host still lacks: known before the first host is
/// prepared for it.
///
/// # Errors
/// As [`permit`], but for what earlier steps of a plan see to.
pub(crate) fn foresee(
    seen: &Observation,
    change: &Change,
    accepted: &BTreeSet<Acceptance>,
) -> Result<(), Refusal> {
    match change {
        Change::Found { nodes } => found::judge(seen, nodes),
        Change::AddVoter { node } => member::foresee_add(seen, node, &quorum(seen)?, accepted),
        Change::RemoveMember { id, .. } => {
            member::judge_remove(seen, change, *id, &quorum(seen)?, accepted)
        }
        Change::Interrupt { node } => member::judge_interrupt(seen, change, node, &quorum(seen)?),
    }
}

/// What promoting the learner of `joiner` needs beyond the permit for adding it: a sighting of the learner alive.
///
/// # Errors
/// [`Refusal::Missing`] when it was not seen alive.
pub(crate) fn promotable(seen: &Observation, joiner: &Peer) -> Result<(), Refusal> {
    member::judge_promotion(seen, joiner, &quorum(seen)?)
}

/// What resetting the host of `node` needs: a quorum that does not list it as a member.
///
/// # Errors
/// [`Refusal::StillMember`]; [`Refusal::Missing`] when no quorum tells.
pub(crate) fn resettable(seen: &Observation, node: &Peer) -> Result<(), Refusal> {
    match quorum(seen)?.by_peer_url(&node.peer_url()) {
        Some((member, _)) => Err(Refusal::StillMember {
            node: node.name.clone(),
            member,
        }),
        None => Ok(()),
    }
}

/// What taking over a volume that was made in an earlier life of a host needs: that the member whose data may be on it has left. What lies there
/// is moved aside, which is no way to treat the data of somebody who is counted on, or the last copy of a cluster that does not run.
///
/// # Errors
/// [`Refusal::StillMember`]; [`Refusal::NotBlank`] where no etcd runs that could tell; [`Refusal::Missing`] when it was not seen.
pub(crate) fn volume_of_nobody(seen: &Observation, node: &Peer) -> Result<(), Refusal> {
    match seen.host(&node.name)?.etcd_volume.get()? {
        Some(EtcdVolume {
            content: VolumeContent::Earlier,
            ..
        }) => {}
        Some(_) | None => return Ok(()),
    }
    let quorum = match quorum(seen) {
        Ok(quorum) => quorum,
        Err(_) => {
            return Err(Refusal::NotBlank {
                node: node.name.clone(),
                found: EARLIER_VOLUME.into(),
            });
        }
    };
    // By its name too: a machine that was made anew may have another address.
    let listed = quorum.members.iter().find(|(_, member)| {
        member.peer_urls.contains(&node.peer_url()) || member.name == node.name.as_str()
    });
    match listed {
        Some((member, _)) => Err(Refusal::StillMember {
            node: node.name.clone(),
            member: *member,
        }),
        None => Ok(()),
    }
}

/// What a host carries whose volume was made in an earlier life of it.
pub(crate) const EARLIER_VOLUME: &str =
    "etcd's volume of an earlier machine, on which a member's data may lie";

/// What sending traffic to a master needs: somebody who saw its apiserver ready. The balancer asks for itself as well, but one that has no
/// other backend sends to whom it knows.
///
/// # Errors
/// [`Refusal::Missing`] when it was not seen ready, or too long ago.
pub(crate) fn serves(seen: &Observation, backend: &Peer) -> Result<(), Refusal> {
    serves_at(seen, &backend.name)
}

fn serves_at(seen: &Observation, node: &NodeName) -> Result<(), Refusal> {
    let what = || format!("the apiserver of {node}");
    let view = match seen.api.get(node) {
        Some(view) => view.within(EVIDENCE_AGE_MAX)?,
        None => return Err(Missing::not_looked(what()).into()),
    };
    match view {
        Some(api) if api.readyz.ready => Ok(()),
        Some(_) => Err(Missing::no_answer(what(), "it is not ready").into()),
        None => Err(Missing::no_answer(what(), "none runs there").into()),
    }
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
