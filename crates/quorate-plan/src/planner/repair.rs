//! What was begun and not finished is taken back; what was left behind is cleared away. Nothing joins, and no member leaves that may still
//! be of use: that is what the other verbs are for.

use std::collections::BTreeSet;

use super::{
    Draft,
    converge::Convergence,
    leaving::{Leaver, carries_mark, carries_member},
    remove::odd_end,
};
use crate::{
    Intent, Observation, Planning, Refusal,
    health::{Account, Condition, kubelet_lives},
    kubeadm::Peer,
    quorum::Quorum,
    seen::Missing,
    step::{HostEnsure, Reason},
};

pub(super) fn plan(intent: &Intent, seen: &Observation) -> Planning {
    let mut draft = Draft::default();
    if let Err(refusal) = draft_repair(intent, seen, &mut draft) {
        draft.refuse(refusal);
    }
    draft.finish()
}

fn draft_repair(intent: &Intent, seen: &Observation, draft: &mut Draft) -> Result<(), Refusal> {
    let convergence = Convergence::of_running(intent, seen, BTreeSet::new(), Reason::LeftBehind)?;
    let quorum = convergence.quorum()?;
    let first = convergence.remover(&BTreeSet::new())?;
    let mut voters = quorum.voter_count();
    let mut leaving = Vec::new();
    for (id, member) in &quorum.members {
        let condition = Condition::of(seen, &quorum, *id, member);
        if !member.learner && !is_gone(intent, &condition, &member.peer_urls) {
            continue;
        }
        let leaver = if member.learner {
            // It has no vote: whether its host is dead does not matter.
            Some(Leaver::learner(intent, seen, *id, member)?)
        } else {
            voters -= 1;
            Leaver::of_member(intent, seen, &quorum, *id, member, draft)?
        };
        leaving.extend(leaver);
    }
    if voters != quorum.voter_count() {
        odd_end(intent, &quorum, voters)?;
    }
    // Learners first: they block every other change.
    leaving.sort_by_key(|leaver| leaver.votes());
    let mut left = convergence.left_behind(&quorum, &leaving);
    left.retain(|leaver| is_left(intent, seen, leaver));
    leaving.extend(left);
    let mut voters = quorum.voter_count();
    for leaver in &leaving {
        convergence.remove(draft, &first, leaver, voters, None, []);
        voters -= usize::from(leaver.votes());
    }
    for leaver in &leaving {
        convergence.clear_away(draft, &first, leaver);
    }
    unfinished(intent, &convergence, &quorum, draft)?;
    let steps = vec![
        convergence.host(&first, HostEnsure::TokensGone {}, Reason::LeftBehind),
        convergence.host(&first, HostEnsure::UploadedCertsGone {}, Reason::LeftBehind),
    ];
    draft.stage(seen, "Clear away what joins were given", None, steps);
    Ok(())
}

/// A voter that the file no longer names and that is of no use to anybody. One that the file wants is replaced, one that lives is removed by
/// the verbs for that.
fn is_gone(intent: &Intent, condition: &Condition, peer_urls: &BTreeSet<String>) -> bool {
    let named = intent
        .spec
        .peers()
        .iter()
        .any(|peer| peer_urls.contains(&peer.peer_url()));
    match condition {
        Condition::Unstarted => true,
        Condition::Emptied | Condition::Dead(_) => !named,
        Condition::Unreached(accounts) => {
            !named
                && matches!(
                    (&accounts.peers, &accounts.kubelet),
                    (Account::Gone(_), Account::Gone(_))
                )
        }
        Condition::Healthy
        | Condition::Mute { .. }
        | Condition::Sick { .. }
        | Condition::Doubtful(_) => false,
    }
}

/// A node that nobody told of and whose kubelet still renews its lease is not left behind: somebody runs there.
fn is_left(intent: &Intent, seen: &Observation, leaver: &Leaver) -> bool {
    leaver
        .node
        .as_ref()
        .is_none_or(|node| intent.retired.contains_key(node) || !kubelet_lives(seen, node))
}

/// Hosts of the file that carry a member's things and are no members: a join that was broken off, or a member that was removed and came back.
fn unfinished(
    intent: &Intent,
    convergence: &Convergence<'_>,
    quorum: &Quorum,
    draft: &mut Draft,
) -> Result<(), Missing> {
    for (node, machine) in &intent.spec.control_plane {
        let peer = Peer {
            name: node.clone(),
            address: machine.address,
        };
        let votes = quorum
            .by_peer_url(&peer.peer_url())
            .is_some_and(|(_, member)| !member.learner && member.started());
        // One that does not answer is looked at when it does.
        let Ok(facts) = convergence.seen.host(node) else {
            continue;
        };
        if !votes && carries_mark(intent, facts) && carries_member(facts)? {
            let reset = convergence.reset_of(node, machine.address);
            let title = format!("Take back the join of {node}");
            draft.stage(convergence.seen, &title, None, vec![reset]);
        }
    }
    Ok(())
}
