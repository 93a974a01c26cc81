//! etcd has a learner for the joining host, added by this voter.

use quorate_etcd::{Client, EtcdError, Member};
use quorate_plan::{MemberId, Refusal, change::Permit, kubeadm::Peer};

use super::{ANSWER_WITHIN, Attempt, Work};
use crate::{clients, error::ActionError, shown};

pub(super) async fn ensure(
    work: &Work<'_>,
    permit: Permit,
    joiner: &Peer,
) -> Result<(), ActionError> {
    let client = clients::etcd(work.paths, clients::LOCAL_ETCD)?;
    add(work, &client, permit, &joiner.peer_url()).await
}

/// Takes the permit: it is spent whether the member is added now or was there already.
async fn add(
    work: &Work<'_>,
    client: &Client,
    _permit: Permit,
    url: &str,
) -> Result<(), ActionError> {
    work.retry("etcd to accept a learner", || async {
        attempt(client, url).await
    })
    .await
}

async fn attempt(client: &Client, url: &str) -> Result<(), Attempt> {
    let members = client
        .members(true, ANSWER_WITHIN)
        .await
        .map_err(|err| judge("the member list", err))?;
    if there(&members, url) {
        return Ok(());
    }
    if let Some(other) = members.iter().find(|member| member.is_learner) {
        let refusal = Refusal::LearnerPresent {
            member: MemberId(other.id.0),
            peer_urls: other.peer_urls.iter().cloned().collect(),
        };
        return Err(Attempt::Final(refusal.into()));
    }
    match client.member_add_learner(url, ANSWER_WITHIN).await {
        Ok(_) => Ok(()),
        // The list is read again before anything is asked a second time.
        Err(err) => Err(judge("adding a learner", err)),
    }
}

fn there(members: &[Member], url: &str) -> bool {
    members
        .iter()
        .any(|member| member.peer_urls.iter().any(|there| there == url))
}

/// What passes by itself is waited for; a member that has just started is not connected "for 5 s" yet.
fn judge(doing: &str, err: EtcdError) -> Attempt {
    match err {
        EtcdError::UnhealthyCluster
        | EtcdError::NoLeader { .. }
        | EtcdError::Deadline { .. }
        | EtcdError::Broken { .. }
        | EtcdError::Unreachable { .. } => Attempt::Again(shown::line(&shown::chain(&err))),
        _ => Attempt::Final(ActionError::etcd(doing)(err)),
    }
}
