//! Another member leads etcd. The leader hands over itself, to the voter among those named that is furthest along: until that one has all
//! of the log, nobody's writes are accepted.

use std::collections::BTreeSet;

use quorate_etcd::{Client, Member, Status};
use quorate_plan::{Change, MemberId, change::Permit, kubeadm::Peer};

use super::{
    ANSWER_WITHIN, Attempt, Work,
    members::{agreed, judge},
    unpermitted,
};
use crate::{clients, error::ActionError, shown};

pub(super) async fn ensure(
    work: &Work<'_>,
    permit: Permit,
    member: MemberId,
    to: &BTreeSet<Peer>,
) -> Result<(), ActionError> {
    let client = clients::etcd(work.paths, clients::LOCAL_ETCD)?;
    hand_over(work, &client, permit, member, to).await
}

/// Takes the permit: it is spent whether leadership is moved now or was before.
pub(super) async fn hand_over(
    work: &Work<'_>,
    client: &Client,
    permit: Permit,
    member: MemberId,
    to: &BTreeSet<Peer>,
) -> Result<(), ActionError> {
    if !matches!(permit.change(), Change::RemoveMember { id, .. } if *id == member) {
        return Err(unpermitted("move etcd's leadership"));
    }
    let urls: BTreeSet<String> = to.iter().map(Peer::peer_url).collect();
    work.retry("another member to lead etcd", || async {
        attempt(work, client, member, &urls).await
    })
    .await
}

async fn attempt(
    work: &Work<'_>,
    client: &Client,
    member: MemberId,
    urls: &BTreeSet<String>,
) -> Result<(), Attempt> {
    let status = client
        .status(ANSWER_WITHIN)
        .await
        .map_err(|err| judge("this member's status", err))?;
    if status.member_id.0 != member.0 {
        return Err(Attempt::Final(ActionError::unexpected(
            format!("to be asked on the host of member {member}"),
            format!("this one is member {}", status.member_id),
            "run `quorate status` to see which host is which member",
        )));
    }
    match status.leader {
        Some(leader) if leader != status.member_id => return Ok(()),
        Some(_) => {}
        None => return Err(Attempt::Again("there is no leader".into())),
    }
    let members = agreed(client).await?;
    let mut candidates = Vec::new();
    for there in members.iter().filter(|there| may_lead(there, urls)) {
        candidates.push((there, ask(work, there).await));
    }
    let target = furthest(&status, &candidates).ok_or_else(|| {
        let seen: Vec<String> = candidates
            .iter()
            .map(|(there, status)| match status {
                Ok(status) => format!("{} has index {}", there.name, status.raft_index),
                Err(err) => format!("{}: {err}", there.name),
            })
            .collect();
        Attempt::Again(shown::line(&format!(
            "nobody can take over: {}",
            if seen.is_empty() {
                "none of those named is a voter".to_owned()
            } else {
                seen.join("; ")
            }
        )))
    })?;
    match client.move_leader(target.id, ANSWER_WITHIN).await {
        // Read again: it is what decides, also after an answer that got lost.
        Ok(()) => Err(Attempt::Again(format!("handed over to {}", target.name))),
        Err(err) => Err(judge("moving leadership", err)),
    }
}

/// A voter that started, and is one of those named.
fn may_lead(member: &Member, urls: &BTreeSet<String>) -> bool {
    !member.is_learner
        && member.has_started()
        && member.peer_urls.iter().any(|url| urls.contains(url))
}

/// What a member says of itself: that others have heard of it is not enough.
async fn ask(work: &Work<'_>, member: &Member) -> Result<Status, String> {
    let url = member.client_urls.first().ok_or("it serves no clients")?;
    let told = clients::etcd(work.paths, url).map_err(|err| shown::chain(&err))?;
    told.status(ANSWER_WITHIN)
        .await
        .map_err(|err| shown::line(&shown::chain(&err)))
}

/// The healthy follower of ours with most of the log. `None`: there is none.
fn furthest<'a>(
    leader: &Status,
    candidates: &[(&'a Member, Result<Status, String>)],
) -> Option<&'a Member> {
    candidates
        .iter()
        .filter_map(|(member, status)| Some((*member, status.as_ref().ok()?)))
        .filter(|(member, status)| {
            status.member_id == member.id
                && status.cluster_id == leader.cluster_id
                && status.leader == Some(leader.member_id)
                && !status.is_learner
                && status.errors.is_empty()
        })
        // The lower ID where they are equal, so that it is the same one each time.
        .max_by_key(|(member, status)| (status.raft_index, std::cmp::Reverse(member.id)))
        .map(|(member, _)| member)
}
