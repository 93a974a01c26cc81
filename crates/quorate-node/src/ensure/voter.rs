//! The joining host's learner has a vote, given by this voter.

use quorate_etcd::{Client, EtcdError};
use quorate_plan::{change::Permit, kubeadm::Peer};

use super::{ANSWER_WITHIN, Attempt, Work};
use crate::{clients, error::ActionError, shown};

pub(super) async fn ensure(
    work: &Work<'_>,
    permit: Permit,
    joiner: &Peer,
) -> Result<(), ActionError> {
    let client = clients::etcd(work.paths, clients::LOCAL_ETCD)?;
    promote(work, &client, permit, &joiner.peer_url()).await
}

/// Takes the permit: it is spent whether the member is promoted now or was before.
async fn promote(
    work: &Work<'_>,
    client: &Client,
    _permit: Permit,
    url: &str,
) -> Result<(), ActionError> {
    work.retry("the learner to catch up and be promoted", || async {
        attempt(client, url).await
    })
    .await
}

async fn attempt(client: &Client, url: &str) -> Result<(), Attempt> {
    let members = client
        .members(true, ANSWER_WITHIN)
        .await
        .map_err(|err| judge("the member list", err))?;
    let member = members
        .iter()
        .find(|member| member.peer_urls.iter().any(|there| there == url))
        .ok_or_else(|| {
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
    match client.member_promote(member.id, ANSWER_WITHIN).await {
        // The list is read once more: it is what decides, also after an answer that got lost.
        Ok(_) => Err(Attempt::Again("promoted, not listed as a voter yet".into())),
        Err(err) => Err(judge("promoting the learner", err)),
    }
}

/// What passes by itself is waited for.
fn judge(doing: &str, err: EtcdError) -> Attempt {
    match err {
        EtcdError::LearnerNotReady
        | EtcdError::NotALearner
        | EtcdError::UnhealthyCluster
        | EtcdError::NoLeader { .. }
        | EtcdError::Deadline { .. }
        | EtcdError::Broken { .. }
        | EtcdError::Unreachable { .. } => Attempt::Again(shown::line(&shown::chain(&err))),
        _ => Attempt::Final(ActionError::etcd(doing)(err)),
    }
}
