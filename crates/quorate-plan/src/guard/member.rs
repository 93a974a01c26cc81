//! Changes to a running etcd: project the members after the change, then judge them.

use std::collections::BTreeSet;

use super::{EVIDENCE_AGE_MAX, remaining, versions::Doing};
use crate::{
    MemberId, NodeName, Observation,
    change::Change,
    health::{Condition, host_of},
    intent::Acceptance,
    kubeadm::Peer,
    quorum::{Quorum, needed},
    refusal::Refusal,
    rehearsal,
    seen::Missing,
};

/// Adding a voter. Until it is promoted nothing changes for the quorum; then it counts as a voter that may fail at once.
pub(super) fn judge_add(
    seen: &Observation,
    node: &NodeName,
    quorum: &Quorum,
    accepted: &BTreeSet<Acceptance>,
) -> Result<(), Refusal> {
    let own = joining_member(seen, node, quorum)?;
    judge_adding(seen, node, own, quorum, accepted)?;
    like_the_masters(seen, node, accepted)
}

/// The joiner would run with what the masters run with.
pub(crate) fn like_the_masters(
    seen: &Observation,
    node: &NodeName,
    accepted: &BTreeSet<Acceptance>,
) -> Result<(), Refusal> {
    let differences = rehearsal::compare(seen, node)?;
    if differences.is_empty() {
        return Ok(());
    }
    let differs = Refusal::JoinerDiffers {
        node: node.clone(),
        differences,
    };
    if differs.accepted(accepted) {
        Ok(())
    } else {
        Err(differs)
    }
}

/// Adding a voter, as far as the members there are go.
pub(super) fn judge_adding(
    seen: &Observation,
    node: &NodeName,
    own: Option<MemberId>,
    quorum: &Quorum,
    accepted: &BTreeSet<Acceptance>,
) -> Result<(), Refusal> {
    in_flight(quorum, own)?;
    remaining::judge(seen, quorum, None, Doing::Adding, accepted)?;
    let counted_already = own.is_some_and(|id| {
        quorum
            .members
            .get(&id)
            .is_some_and(|member| !member.learner)
    });
    let voters = quorum.voter_count() + usize::from(!counted_already);
    let healthy = quorum.healthy.iter().filter(|id| Some(**id) != own).count();
    // With every other voter healthy one vote more can be asked for, even from one to two: the joiner is promoted only when it has
    // caught up. With one of them gone the newcomer would be needed from its first moment.
    let all_others_healthy = healthy == voters - 1;
    if !all_others_healthy && healthy < needed(voters) {
        return Err(Refusal::WouldLoseQuorum {
            change: Change::AddVoter { node: node.clone() }.to_string(),
            voters,
            healthy,
            needed: needed(voters),
        });
    }
    Ok(())
}

/// Promoting a learner. etcd asks only what the learner confirmed some time ago, and promotes a dead one: with two voters the quorum is
/// gone then. It has to be seen alive, by its own account, following the leader that the quorum follows.
pub(super) fn judge_promotion(
    seen: &Observation,
    joiner: &Peer,
    quorum: &Quorum,
) -> Result<(), Refusal> {
    let waits = quorum
        .by_peer_url(&joiner.peer_url())
        .is_some_and(|(_, member)| member.learner);
    if !waits {
        return Ok(());
    }
    let what = || format!("the learner on {}", joiner.name);
    let view = match seen.etcd.get(&joiner.name) {
        Some(view) => view.within(EVIDENCE_AGE_MAX)?,
        None => return Err(Missing::not_looked(what()).into()),
    };
    match view {
        Some(view) if view.leader.is_some() && view.leader == quorum.leader => Ok(()),
        Some(_) => Err(Missing::no_answer(what(), "it does not follow the leader").into()),
        None => Err(Missing::no_answer(what(), "no etcd runs there").into()),
    }
}

/// Adding a voter, foreseen: a host that is not there yet is no member.
pub(super) fn foresee_add(
    seen: &Observation,
    node: &NodeName,
    quorum: &Quorum,
    accepted: &BTreeSet<Acceptance>,
) -> Result<(), Refusal> {
    let own = joining_member(seen, node, quorum).ok().flatten();
    judge_adding(seen, node, own, quorum, accepted)
}

/// The member that stands for the joining host: matched by the peer URL that the host's own address makes.
fn joining_member(
    seen: &Observation,
    node: &NodeName,
    quorum: &Quorum,
) -> Result<Option<MemberId>, Refusal> {
    let machine = seen.host(node)?.machine.get()?;
    Ok(machine.addresses.iter().find_map(|address| {
        let url = format!("https://{address}:2380");
        quorum.by_peer_url(&url).map(|(id, _)| id)
    }))
}

/// At most one change in flight: somebody else's learner, or a member that never started, comes first.
fn in_flight(quorum: &Quorum, own: Option<MemberId>) -> Result<(), Refusal> {
    for (id, member) in &quorum.members {
        if Some(*id) == own {
            continue;
        }
        if !member.started() {
            return Err(Refusal::MemberUnstarted {
                member: *id,
                peer_urls: member.peer_urls.clone(),
            });
        }
        if member.learner {
            return Err(Refusal::LearnerPresent {
                member: *id,
                peer_urls: member.peer_urls.clone(),
            });
        }
    }
    Ok(())
}

/// Removing a member: the ones that remain are judged, and whether the one that goes is gone, or goes willingly.
pub(super) fn judge_remove(
    seen: &Observation,
    change: &Change,
    id: MemberId,
    quorum: &Quorum,
    accepted: &BTreeSet<Acceptance>,
) -> Result<(), Refusal> {
    in_flight(quorum, Some(id))?;
    let Some(member) = quorum.members.get(&id) else {
        // It is not in the list any more: there is nothing left to cost anything.
        return Ok(());
    };
    let voters = quorum.voters().filter(|(voter, _)| **voter != id).count();
    let healthy = quorum.healthy.iter().filter(|voter| **voter != id).count();
    if member.learner {
        // It never voted: nothing is projected, but the quorum has to be there to decide it.
        return judge(change, voters, healthy);
    }
    let condition = Condition::of(seen, quorum, id, member);
    if condition.may_still_run() && healthy < needed(voters) {
        return Err(Refusal::MayStillRun {
            member: id,
            seen: condition.to_string(),
            voters,
            healthy,
            needed: needed(voters),
        });
    }
    judge(change, voters, healthy)?;
    match condition {
        Condition::Healthy
        | Condition::Unstarted
        | Condition::Emptied
        | Condition::Mute { .. }
        | Condition::Sick { .. }
        | Condition::Unreached(_)
        | Condition::Dead(_) => {}
        Condition::Doubtful(accounts) => {
            let node = host_of(seen, id, member)
                .ok_or_else(|| Missing::not_looked(format!("the host of member {id}")))?;
            let doubt = Refusal::NotProvenDead {
                node,
                member: id,
                accounts: Box::new(accounts),
            };
            if !doubt.accepted(accepted) {
                return Err(doubt);
            }
        }
    }
    remaining::judge(seen, quorum, Some(id), Doing::Removing, accepted)
}

/// Stopping a voter for a while: it goes on counting as a voter.
pub(super) fn judge_interrupt(
    seen: &Observation,
    change: &Change,
    node: &NodeName,
    quorum: &Quorum,
) -> Result<(), Refusal> {
    in_flight(quorum, None)?;
    let own = seen.etcd_at(node)?.map(|view| view.member);
    let healthy = quorum.healthy.iter().filter(|id| Some(**id) != own).count();
    judge(change, quorum.voter_count(), healthy)
}

fn judge(change: &Change, voters: usize, healthy: usize) -> Result<(), Refusal> {
    let needed = needed(voters);
    if voters > 0 && healthy >= needed {
        Ok(())
    } else {
        Err(Refusal::WouldLoseQuorum {
            change: change.to_string(),
            voters,
            healthy,
            needed,
        })
    }
}
