//! Quorum arithmetic, and the one place where several accounts of etcd become a judgement of who is healthy. Start at [`Quorum::of`].

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    MemberId, Observation,
    observation::{EtcdView, Member},
    seen::Missing,
};

/// etcd's voters, and which of them were seen to take part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Quorum {
    /// Which cluster.
    pub cluster_id: String,
    /// Members by ID, as the freshest account that reached a quorum has them.
    pub members: BTreeMap<MemberId, Member>,
    /// Voters that answered for themselves, follow the same leader as the majority and raise no alarm.
    pub healthy: BTreeSet<MemberId>,
    /// The leader.
    pub leader: Option<MemberId>,
}

/// Votes needed to decide among `voters`.
pub fn needed(voters: usize) -> usize {
    voters / 2 + 1
}

/// Losses that `healthy` of `voters` survive before writes stop.
pub fn tolerance(voters: usize, healthy: usize) -> usize {
    healthy.saturating_sub(needed(voters))
}

impl Quorum {
    /// Judges what every witness told. `None`: every host that was looked at is known to run no etcd.
    ///
    /// # Errors
    /// [`Missing`] when etcd runs somewhere and no member told of it after reaching a quorum, or when two witnesses tell of different
    /// clusters.
    pub fn of(seen: &Observation) -> Result<Option<Self>, Missing> {
        let mut missing = None;
        let mut views: Vec<&EtcdView> = Vec::new();
        for seen in seen.etcd.values() {
            match seen.get() {
                Ok(Some(view)) => views.push(view),
                Ok(None) => {}
                Err(why) => {
                    missing.get_or_insert(why);
                }
            }
        }
        // A member list is only worth what the quorum behind it is: a cut-off member goes on telling an old one.
        let witness = views
            .iter()
            .copied()
            .filter(|view| view.linearizable)
            .max_by_key(|view| (view.raft_term, view.raft_index));
        let Some(witness) = witness else {
            return match (views.first(), missing) {
                (Some(_), _) => Err(Missing::no_answer(
                    "a quorum of etcd",
                    format!("{} members answer, none reached a quorum", views.len()),
                )),
                (None, Some(why)) => Err(why),
                (None, None) => Ok(None),
            };
        };
        if let Some(other) = views
            .iter()
            .find(|view| view.cluster_id != witness.cluster_id)
        {
            return Err(Missing::unreadable(
                "etcd",
                format!(
                    "two clusters answer: {} and {}",
                    witness.cluster_id, other.cluster_id
                ),
            ));
        }
        let alarmed: BTreeSet<_> = witness.alarms.iter().map(|(_, id)| *id).collect();
        let healthy = views
            .iter()
            .filter(|view| {
                view.leader.is_some() && view.leader == witness.leader && view.errors.is_empty()
            })
            .map(|view| view.member)
            .filter(|id| {
                witness
                    .members
                    .get(id)
                    .is_some_and(|member| !member.learner && member.started())
                    && !alarmed.contains(id)
            })
            .collect();
        Ok(Some(Self {
            cluster_id: witness.cluster_id.clone(),
            members: witness.members.clone(),
            healthy,
            leader: witness.leader,
        }))
    }

    /// Members that vote.
    pub fn voters(&self) -> impl Iterator<Item = (&MemberId, &Member)> {
        self.members.iter().filter(|(_, member)| !member.learner)
    }

    /// Number of voters.
    pub fn voter_count(&self) -> usize {
        self.voters().count()
    }

    /// Members that do not vote yet.
    pub fn learners(&self) -> impl Iterator<Item = (&MemberId, &Member)> {
        self.members.iter().filter(|(_, member)| member.learner)
    }

    /// The member whose peers reach it at `peer_url`: members are matched by that and by ID, never by a part of a name.
    pub fn by_peer_url(&self, peer_url: &str) -> Option<(MemberId, &Member)> {
        self.members
            .iter()
            .find(|(_, member)| member.peer_urls.contains(peer_url))
            .map(|(id, member)| (*id, member))
    }

    /// Further losses that this cluster survives.
    pub fn tolerance(&self) -> usize {
        tolerance(self.voter_count(), self.healthy.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn majorities() {
        for (voters, majority, tolerated) in [(1, 1, 0), (2, 2, 0), (3, 2, 1), (4, 3, 1), (5, 3, 2)]
        {
            assert_eq!(needed(voters), majority, "{voters} voters");
            assert_eq!(tolerance(voters, voters), tolerated, "{voters} voters");
        }
        // Two of three left: writes go on, and the next loss stops them.
        assert_eq!(tolerance(3, 2), 0);
        // Quorum is counted over all voters, not over the healthy ones.
        assert_eq!(tolerance(5, 3), 0);
        assert_eq!(tolerance(5, 2), 0);
    }
}
