//! The joining host's learner has a vote, given by this voter.
//!
//! etcd promotes a learner that was in sync once and is dead by now, and among two voters a dead one takes the quorum with it. So the
//! learner is asked itself, every time, right before.

use std::time::Instant;

use quorate_etcd::{Client, Member, MemberId, Status};
use quorate_plan::{change::Permit, kubeadm::Peer};
use tokio::time::sleep;

use super::{
    ANSWER_WITHIN, Attempt, POLL, Work,
    members::{agreed, by_peer_url, judge},
};
use crate::{clients, error::ActionError, paths::Paths, shown};

/// A key that nobody ever writes: deleting it is an entry of the log that changes nothing.
const NOTHING: &[u8] = b"quorate/nothing";

/// The permit is spent whether the member is promoted now or was before.
pub(super) async fn ensure(
    work: &Work<'_>,
    _permit: Permit,
    joiner: &Peer,
) -> Result<(), ActionError> {
    let client = clients::etcd(work.paths, clients::LOCAL_ETCD)?;
    let url = joiner.peer_url();
    work.retry("the learner to catch up and be promoted", || {
        promote(work.paths, &client, &url)
    })
    .await
}

async fn promote(paths: &Paths, client: &Client, url: &str) -> Result<(), Attempt> {
    let members = agreed(client).await?;
    let member = by_peer_url(&members, url).ok_or_else(|| {
        Attempt::Final(ActionError::unexpected(
            format!("a learner for {url}"),
            "no such member",
            "run `quorate apply` again: the learner is added first",
        ))
    })?;
    if !member.is_learner {
        return Ok(());
    }
    if !member.has_started() {
        return Err(Attempt::Again(format!(
            "member {} ({url}) has not started",
            member.id
        )));
    }
    takes_part(paths, client, member).await?;
    match client.member_promote(member.id, ANSWER_WITHIN).await {
        // The list is read once more: it is what decides, also after an answer that got lost.
        Ok(_) => Err(Attempt::Again("promoted, not listed as a voter yet".into())),
        Err(err) => Err(judge("promoting the learner", err)),
    }
}

/// Asks the learner whether it takes part now: whether it has an entry that did not exist a moment ago.
async fn takes_part(paths: &Paths, own: &Client, learner: &Member) -> Result<(), Attempt> {
    own.delete(NOTHING, ANSWER_WITHIN)
        .await
        .map_err(|err| judge("one more entry for the learner", err))?;
    let here = own
        .status(ANSWER_WITHIN)
        .await
        .map_err(|err| judge("this member's status", err))?;
    let mut said = Vec::new();
    for url in &learner.client_urls {
        let client = clients::etcd(paths, url).map_err(Attempt::Final)?;
        match has_it(&client, &here, learner.id).await {
            Ok(()) => return Ok(()),
            Err(seen) => said.push(format!("{url}: {seen}")),
        }
    }
    let said = if said.is_empty() {
        "it tells no address".to_owned()
    } else {
        said.join("; ")
    };
    Err(Attempt::Again(shown::line(&format!(
        "learner {}: {said}",
        learner.id
    ))))
}

/// The entry is on its way: it has as long as one answer.
async fn has_it(client: &Client, here: &Status, learner: MemberId) -> Result<(), String> {
    let asked = Instant::now();
    loop {
        let seen = match client.status(ANSWER_WITHIN).await {
            Ok(there) => match follows(here, &there, learner) {
                Ok(()) => return Ok(()),
                Err(seen) => seen,
            },
            Err(err) => return Err(shown::chain(&err)),
        };
        if asked.elapsed() >= ANSWER_WITHIN {
            return Err(seen);
        }
        sleep(POLL).await;
    }
}

/// Whether `there`, by its own account, is that learner and has all that was agreed upon `here`.
///
/// That it names the leader is not enough: a learner that nobody reaches any more stands for no election and goes on naming the last one.
fn follows(here: &Status, there: &Status, learner: MemberId) -> Result<(), String> {
    let differ = |what: &str, expected: String, seen: String| {
        Err(format!("{what}: expected {expected}, seen {seen}"))
    };
    let named = |leader: Option<MemberId>| leader.map_or("none".to_owned(), |id| id.to_string());
    if there.member_id != learner {
        return differ("member", learner.to_string(), there.member_id.to_string());
    }
    if there.cluster_id != here.cluster_id {
        return differ(
            "cluster",
            here.cluster_id.to_string(),
            there.cluster_id.to_string(),
        );
    }
    if here.leader.is_none() || there.leader != here.leader {
        return differ("leader", named(here.leader), named(there.leader));
    }
    if there.raft_index < here.raft_index {
        return differ(
            "log",
            format!("up to {}", here.raft_index),
            format!("up to {}", there.raft_index),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use quorate_etcd::ClusterId;

    use super::*;

    fn status(member: u64, leader: Option<u64>, index: u64) -> Status {
        Status {
            member_id: MemberId(member),
            cluster_id: ClusterId(9),
            revision: 1,
            version: "3.6.6".into(),
            storage_version: "3.6.0".into(),
            db_size: 0,
            db_size_in_use: 0,
            db_size_quota: 0,
            leader: leader.map(MemberId),
            raft_index: index,
            raft_applied_index: index,
            raft_term: 2,
            errors: Vec::new(),
            is_learner: member == 2,
        }
    }

    #[test]
    fn a_learner_takes_part_when_it_has_what_was_agreed_upon_now() {
        let here = status(1, Some(1), 100);
        let check = |there: Status| follows(&here, &there, MemberId(2));
        assert_eq!(check(status(2, Some(1), 100)), Ok(()));
        assert_eq!(
            check(status(2, Some(1), 117)),
            Ok(()),
            "the log went on meanwhile"
        );
        // Cut off from its peers it goes on naming the leader it had.
        assert_eq!(
            check(status(2, Some(1), 99)),
            Err("log: expected up to 100, seen up to 99".into())
        );
        for leader in [None, Some(3)] {
            let seen = check(status(2, leader, 100)).unwrap_err();
            assert!(seen.starts_with("leader: expected 1, seen"), "{seen}");
        }
        // Somebody else at its address, or its namesake in another cluster.
        assert!(check(status(3, Some(1), 100)).is_err());
        let stranger = Status {
            cluster_id: ClusterId(8),
            ..status(2, Some(1), 100)
        };
        assert!(check(stranger).unwrap_err().starts_with("cluster"));
        // Nobody leads here: nothing can have been agreed upon.
        let lost = status(1, None, 100);
        assert!(follows(&lost, &status(2, None, 100), MemberId(2)).is_err());
    }
}
