//! A founding ends: its note on this host says that it is over. From then on whoever was a founder is a master like any other.

use std::collections::BTreeSet;

use quorate_etcd::Member;
use quorate_plan::{observation::Founding, quorum::needed};

use super::{ANSWER_WITHIN, Work};
use crate::{clients, durable, error::ActionError, facts};

pub(super) async fn ensure(work: &Work<'_>) -> Result<(), ActionError> {
    let Some(founding) = facts::founding(work.paths)?.filter(|founding| !founding.done) else {
        return Ok(());
    };
    let client = clients::etcd(work.paths, clients::LOCAL_ETCD)?;
    let members = client
        .members(true, ANSWER_WITHIN)
        .await
        .map_err(ActionError::etcd("the member list"))?;
    enough_vote(&founding, &members)?;
    let over = Founding {
        done: true,
        ..founding
    };
    Ok(durable::write_json(
        &work.paths.state("founding.json"),
        &over,
    )?)
}

/// A founding is over when a majority of its founders votes, not before. Whoever of them does not by then was made anew meanwhile, and joins
/// like anybody else.
fn enough_vote(founding: &Founding, members: &[Member]) -> Result<(), ActionError> {
    // A static founder is listed by its name from the beginning; where its clients find it, it tells when it starts.
    let voters: BTreeSet<&str> = members
        .iter()
        .filter(|member| !member.is_learner && !member.client_urls.is_empty())
        .map(|member| member.name.as_str())
        .collect();
    let missing: Vec<&str> = founding
        .nodes
        .iter()
        .map(|node| node.as_str())
        .filter(|node| !voters.contains(node))
        .collect();
    let needed = needed(founding.nodes.len());
    if founding.nodes.len() - missing.len() >= needed {
        return Ok(());
    }
    Err(ActionError::unexpected(
        format!("{needed} of {} founders to vote", founding.nodes.len()),
        format!("not yet: {}", missing.join(", ")),
        "run `quorate status` to see what those hosts do",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_founding_ends_when_its_majority_votes() {
        let founding = Founding {
            nodes: ["cp-1", "cp-2", "cp-3"].map(|n| n.parse().unwrap()).into(),
            done: false,
            restarts: 0,
        };
        let member = |name: &str, learner, started: bool| Member {
            id: quorate_etcd::MemberId(1),
            name: name.into(),
            peer_urls: vec![],
            client_urls: started
                .then(|| "https://10.0.0.1:2379".to_owned())
                .into_iter()
                .collect(),
            is_learner: learner,
        };
        let one = || member("cp-1", false, true);
        enough_vote(&founding, &[one(), member("cp-2", false, true)]).unwrap();
        for second in [
            member("cp-2", true, true),
            member("cp-2", false, false),
            member("", false, false),
            member("cp-4", false, true),
        ] {
            let err = enough_vote(&founding, &[one(), second]).unwrap_err();
            let (expected, seen) = ("2 of 3 founders to vote", "not yet: cp-2, cp-3");
            let text = err.to_string();
            assert!(text.contains(expected) && text.contains(seen), "{text}");
        }
    }
}
