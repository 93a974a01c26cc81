//! One member leaves that the file no longer names, and nothing else is changed.

use std::collections::BTreeSet;

use super::{Draft, converge::Convergence, leaving::Leaver};
use crate::{
    Intent, NodeName, Observation, Planning, Refusal,
    health::member_of,
    quorum::Quorum,
    spec::{Provider, Spec},
    step::Reason,
};

pub(super) fn plan(intent: &Intent, seen: &Observation, node: &NodeName) -> Planning {
    let mut draft = Draft::default();
    if let Err(refusal) = draft_removal(intent, seen, node, &mut draft) {
        draft.refuse(refusal);
    }
    draft.finish()
}

fn draft_removal(
    intent: &Intent,
    seen: &Observation,
    node: &NodeName,
    draft: &mut Draft,
) -> Result<(), Refusal> {
    if intent.spec.machine(node).is_some() {
        return Err(Refusal::StillWanted {
            node: node.clone(),
            edit: taking_out(&intent.spec, node),
        });
    }
    let convergence = Convergence::of_running(intent, seen, BTreeSet::new(), Reason::Unwanted)?;
    let quorum = convergence.quorum()?;
    let first = convergence.remover(&[node.clone()].into())?;
    let member = member_of(intent, &quorum, node).map(|id| (id, &quorum.members[&id]));
    let leavers = match member {
        Some((id, member)) => {
            if !member.learner {
                odd_end(intent, &quorum, quorum.voter_count() - 1)?;
            }
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
    convergence.exchange(draft, &first, Vec::new(), leavers)
}

/// No verb but the one that follows the file ends at any number; none ends at an even one.
///
/// # Errors
/// [`Refusal::EvenVoters`].
pub(super) fn odd_end(intent: &Intent, quorum: &Quorum, voters: usize) -> Result<(), Refusal> {
    if !voters.is_multiple_of(2) {
        return Ok(());
    }
    let wanted = intent.spec.control_plane.len();
    Err(Refusal::EvenVoters {
        voters,
        instead: format!(
            "the cluster has {} voters and the file names {wanted}: `quorate apply` brings it there in one go",
            quorum.voter_count()
        ),
    })
}

/// The edit that takes a node out of the file.
pub(super) fn taking_out(spec: &Spec, node: &NodeName) -> String {
    let masters = spec.control_plane.len();
    if !spec.control_plane.contains_key(node) {
        return format!("it is no master there: take `{node}` out of its list first");
    }
    let fewer = masters.saturating_sub(2).max(1);
    let leave: Vec<String> = spec
        .control_plane
        .keys()
        .skip(fewer)
        .map(NodeName::to_string)
        .collect();
    if counted(spec) && leave.contains(&node.to_string()) {
        format!(
            "change `controlPlane: {{ count: {masters} }}` to `count: {fewer}`, which takes out {}",
            leave.join(" and ")
        )
    } else if counted(spec) {
        format!(
            "name the masters instead of counting them, without it and another one or with one in its place: `controlPlane: {{ hosts: [{{ name: {} }}, …] }}`",
            spec.control_plane
                .keys()
                .find(|other| *other != node)
                .unwrap_or(node)
        )
    } else {
        format!(
            "take the entry `name: {node}` out of controlPlane.hosts, and another with it or one in its place: {} masters would be an even number",
            masters - 1
        )
    }
}

/// The edit that puts one host in another's place.
pub(super) fn putting_in_place(spec: &Spec, node: &NodeName, with: &NodeName) -> String {
    if counted(spec) {
        let others = spec.control_plane.keys().filter(|other| *other != node);
        let names: Vec<String> = others
            .chain([with])
            .map(|name| format!("{{ name: {name} }}"))
            .collect();
        format!(
            "name the masters instead of counting them: `controlPlane: {{ hosts: [{}] }}`",
            names.join(", ")
        )
    } else {
        format!(
            "in controlPlane.hosts replace the entry `name: {node}` by one of `name: {with}`, with its address"
        )
    }
}

/// Its masters are as a count makes them. A file may name just these one by one; then the way to a count is its own edit.
fn counted(spec: &Spec) -> bool {
    let local = match &spec.provider {
        Provider::Local { .. } => true,
        Provider::Ssh | Provider::Terraform { .. } => false,
    };
    let numbered = (1..)
        .zip(spec.control_plane.keys())
        .all(|(number, node)| node.as_str() == format!("cp-{number}"));
    local && numbered
}
