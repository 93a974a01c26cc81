//! One master is replaced and nothing else is changed: by another host ([`by_another`]), or by the same one made anew ([`in_place`]).

use std::collections::BTreeSet;

use super::{
    Draft,
    converge::{Convergence, situation},
    leaving::{Leaver, carries_mark, carries_member},
    preflight,
    remove::{odd_end, putting_in_place},
};
use crate::{
    Intent, MemberId, NodeName, Observation, Planning, Refusal, health::member_of,
    observation::Power, seen::Seen, step::Reason,
};

/// `with` comes, then `node` goes; first goes who is gone already.
pub(super) fn by_another(
    intent: &Intent,
    seen: &Observation,
    node: &NodeName,
    with: &NodeName,
) -> Planning {
    let mut draft = Draft::default();
    if let Err(refusal) = draft_exchange(intent, seen, node, with, &mut draft) {
        draft.refuse(refusal);
    }
    draft.finish()
}

fn draft_exchange(
    intent: &Intent,
    seen: &Observation,
    node: &NodeName,
    with: &NodeName,
    draft: &mut Draft,
) -> Result<(), Refusal> {
    let spec = &intent.spec;
    if spec.machine(node).is_some() {
        return Err(Refusal::StillWanted {
            node: node.clone(),
            edit: putting_in_place(spec, node, with),
        });
    }
    if !spec.control_plane.contains_key(with) {
        return Err(Refusal::NotWanted {
            node: with.clone(),
            edit: format!("put `name: {with}` with its address into controlPlane.hosts"),
        });
    }
    let only: BTreeSet<NodeName> = [with.clone()].into();
    let convergence = Convergence::of_running(intent, seen, only, Reason::Replaced)?;
    if is_held(intent, seen, with, draft) {
        return Ok(());
    }
    if starts(&convergence, draft, with) {
        return Ok(());
    }
    for refusal in preflight::refusals_of(intent, seen, |host| host == with) {
        draft.refuse(refusal);
    }
    fitting_bundle(intent)?;
    let quorum = convergence.quorum()?;
    let first = convergence.remover(&[node.clone(), with.clone()].into())?;
    situation::one_authority(seen, &first, [with], [])?;
    let leaves = member_of(intent, &quorum, node).map(|id| (id, &quorum.members[&id]));
    let joins = !convergence.voters.contains(with);
    let votes = leaves.is_some_and(|(_, member)| !member.learner);
    let end = quorum.voter_count() + usize::from(joins) - usize::from(votes);
    odd_end(intent, &quorum, end)?;
    let leavers = match leaves {
        Some((id, member)) => {
            let leaver = Leaver::of_member(intent, seen, &quorum, id, member, draft)?;
            leaver.into_iter().collect()
        }
        None => {
            let left = convergence.left_behind(&quorum, &[]).into_iter();
            left.filter(|leaver| leaver.node.as_ref() == Some(node))
                .collect()
        }
    };
    if draft.unsettled {
        return Ok(());
    }
    convergence.machines(draft);
    convergence.hosts(draft);
    convergence.exchange(draft, &first, vec![with.clone()], leavers)
}

/// `member` goes, its host is reset when it answers, and joins again under the same name and address.
pub(super) fn in_place(
    intent: &Intent,
    seen: &Observation,
    node: &NodeName,
    member: Option<MemberId>,
) -> Planning {
    let mut draft = Draft::default();
    if let Err(refusal) = draft_in_place(intent, seen, node, member, &mut draft) {
        draft.refuse(refusal);
    }
    draft.finish()
}

fn draft_in_place(
    intent: &Intent,
    seen: &Observation,
    node: &NodeName,
    member: Option<MemberId>,
    draft: &mut Draft,
) -> Result<(), Refusal> {
    let Some(machine) = intent.spec.control_plane.get(node) else {
        return Err(Refusal::NotWanted {
            node: node.clone(),
            edit: format!(
                "`quorate remove {node}` takes out what it does not name; to make it anew, name it again"
            ),
        });
    };
    let only: BTreeSet<NodeName> = [node.clone()].into();
    let mut convergence = Convergence::of_running(intent, seen, only, Reason::Replaced)?;
    if is_held(intent, seen, node, draft) {
        return Ok(());
    }
    fitting_bundle(intent)?;
    let quorum = convergence.quorum()?;
    let first = convergence.remover(&[node.clone()].into())?;
    let now = member_of(intent, &quorum, node);
    let leaving = now.filter(|now| Some(*now) == member);
    // It comes back: with its vote it is as before.
    let votes = |id: &MemberId| !quorum.members[id].learner;
    let back = now.is_some_and(|id| votes(&id));
    odd_end(intent, &quorum, quorum.voter_count() + usize::from(!back))?;
    let seen_host = seen.host(node).ok();
    match leaving {
        Some(id) => {
            let told = &quorum.members[&id];
            let Some(leaver) = Leaver::of_member(intent, seen, &quorum, id, told, draft)? else {
                return Ok(());
            };
            let voters = quorum.voter_count();
            let next = Some(node).filter(|_| leaver.votes() && voters == 3);
            convergence.remove(draft, &first, &leaver, voters, next, []);
            convergence.clear_places(draft, &first, &leaver);
            draft.unmade.insert(node.clone());
            // By its turn to join it votes no more.
            convergence.voters.remove(node);
        }
        None if now.is_none() => {
            let left = Leaver::left(Some(node.clone()), [machine.address].into());
            convergence.clear_places(draft, &first, &left);
        }
        None => {}
    }
    convergence.machines(draft);
    let resets = match seen_host {
        // Whatever it is when it answers.
        None => true,
        Some(facts) => {
            leaving.is_some()
                || (now.is_none() && carries_mark(intent, facts) && carries_member(facts)?)
        }
    };
    if seen_host.is_none() && draft.planning_stages.is_empty() {
        draft.wait(node, format!("{node} to answer: it joins when it does"));
        return Ok(());
    }
    if resets && now == leaving {
        draft.unmade.insert(node.clone());
        let title = format!("Remove {node}: reset the host");
        let reset = convergence.reset_of(node, machine.address);
        draft.stage(seen, &title, None, vec![reset]);
    }
    // What it carries of its old life is no fault of it.
    if !draft.unmade.contains(node) {
        for refusal in preflight::refusals_of(intent, seen, |host| host == node) {
            draft.refuse(refusal);
        }
        situation::one_authority(seen, &first, [node], [])?;
    }
    convergence.hosts(draft);
    let joiner = std::slice::from_ref(node);
    if leaving.is_none() {
        convergence.none_emptied(joiner)?;
    }
    if !back || leaving.is_some() {
        convergence.rehearse(draft, joiner)?;
        convergence.issue(draft, &first, joiner);
    }
    convergence.join(draft, &first, node, &BTreeSet::new())
}

/// Somebody holds the machine of the host that is to come: that is refused.
fn is_held(intent: &Intent, seen: &Observation, node: &NodeName, draft: &mut Draft) -> bool {
    for refusal in preflight::held(intent, seen) {
        if matches!(&refusal, Refusal::MachineHeld { node: held, .. } if held == node) {
            draft.refuse(refusal);
        }
    }
    !draft.refused.is_empty()
}

/// A machine that does not run is started first: what it carries can be seen then.
fn starts(convergence: &Convergence<'_>, draft: &mut Draft, node: &NodeName) -> bool {
    let off = match convergence.seen.infra.get(node) {
        Some(Seen::Known { value, .. }) => value.power == Power::Off,
        Some(Seen::Unknown(_)) | None => false,
    };
    if off {
        convergence.machines(draft);
        draft.wait(
            node,
            format!("{node} to run: what else it needs can be seen then"),
        );
    }
    off
}

/// # Errors
/// [`Refusal::BundleVersion`].
fn fitting_bundle(intent: &Intent) -> Result<(), Refusal> {
    if intent.bundle.kubernetes == intent.spec.kubernetes {
        return Ok(());
    }
    Err(Refusal::BundleVersion {
        bundle: intent.bundle.kubernetes.clone(),
        wanted: intent.spec.kubernetes.clone(),
    })
}
