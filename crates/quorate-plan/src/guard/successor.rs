//! What follows a removal that leaves two voters. Two are no resting place: they survive no loss, and need both to go on.

use crate::{
    MemberId, NodeName, Observation, change::Change, plan::Departure, quorum::Quorum,
    refusal::Refusal, seen::Missing,
};

/// The number of voters that is no resting place.
const NO_RESTING_PLACE: usize = 2;

/// Refuses to leave two voters where nothing follows at once, what follows is not ready for it, or it could come first.
pub(super) fn judge(
    seen: &Observation,
    change: &Change,
    leaving: MemberId,
    next: Option<&NodeName>,
    quorum: &Quorum,
) -> Result<(), Refusal> {
    let was_voter = quorum
        .members
        .get(&leaving)
        .is_some_and(|member| !member.learner);
    if !was_voter || quorum.voter_count() != NO_RESTING_PLACE + 1 {
        return Ok(());
    }
    let refuse = |lacks: String| {
        Err(Refusal::NoSuccessor {
            change: change.to_string(),
            lacks,
        })
    };
    let Some(next) = next else {
        return refuse("no host joins or leaves after it".into());
    };
    if is_voter(seen, quorum, next, leaving) || leaves_itself(seen, quorum, next, leaving) {
        return Ok(());
    }
    // Whoever planned to remove it first saw it sick or dead. It is well again, and a healthy one goes after somebody came.
    if quorum.healthy.contains(&leaving) {
        return Err(Refusal::PlanDeparted {
            departure: Box::new(Departure {
                stage: format!("Join {next} before {leaving} leaves, which is healthy"),
                step: None,
            }),
        });
    }
    match readiness(seen, next) {
        Ok(None) => Ok(()),
        Ok(Some(lacks)) => refuse(format!("{next} {lacks}")),
        Err(missing) => Err(missing.into()),
    }
}

/// It is a voter besides the one that leaves: it leaves next, down to one.
fn is_voter(seen: &Observation, quorum: &Quorum, next: &NodeName, leaving: MemberId) -> bool {
    quorum.voters().any(|(id, member)| {
        *id != leaving && crate::health::host_of(seen, *id, member).as_ref() == Some(next)
    })
}

/// The host that joins next is the very one whose member leaves: what it carries now is of no use, and where it does not answer nothing is
/// lost, since its member did not count.
fn leaves_itself(seen: &Observation, quorum: &Quorum, next: &NodeName, leaving: MemberId) -> bool {
    quorum
        .members
        .get(&leaving)
        .is_some_and(|member| crate::health::host_of(seen, leaving, member).as_ref() == Some(next))
}

/// What a host still lacks to join within seconds. `None`: nothing.
fn readiness(seen: &Observation, next: &NodeName) -> Result<Option<&'static str>, Missing> {
    let facts = seen.host(next)?;
    Ok(if facts.mark.get()?.is_none() {
        Some("is not prepared")
    } else if facts.components.get()?.is_none() {
        Some("has no components")
    } else if facts.images.get()?.is_empty() {
        Some("has no images")
    } else if facts.rehearsed.get()?.is_none() {
        Some("was not compared with the masters")
    } else if facts.pki.get()?.certificates.is_empty() {
        Some("has no certificates")
    } else {
        None
    })
}
