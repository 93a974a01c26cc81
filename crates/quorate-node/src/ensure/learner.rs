//! etcd has a learner for the joining host, added by this voter.

use quorate_etcd::Client;
use quorate_plan::{MemberId, Refusal, change::Permit, kubeadm::Peer};

use super::{
    ANSWER_WITHIN, Attempt, Work,
    members::{agreed, by_peer_url, judge},
};
use crate::{clients, error::ActionError};

/// The permit is spent whether the member is added now or was there already.
pub(super) async fn ensure(
    work: &Work<'_>,
    _permit: Permit,
    joiner: &Peer,
) -> Result<(), ActionError> {
    let client = clients::etcd(work.paths, clients::LOCAL_ETCD)?;
    let url = joiner.peer_url();
    work.retry("etcd to accept a learner", || add(&client, &url))
        .await
}

async fn add(client: &Client, url: &str) -> Result<(), Attempt> {
    let members = agreed(client).await?;
    if by_peer_url(&members, url).is_some() {
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
        Err(err) => Err(judge("adding a learner", err)),
    }
}
