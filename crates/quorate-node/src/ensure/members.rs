//! What all changes of etcd's members have in common: the list that a quorum agrees on comes first, and what passes by itself is waited
//! for. Start at [`agreed`].

use quorate_etcd::{Client, EtcdError, Member};

use super::{ANSWER_WITHIN, Attempt};
use crate::{error::ActionError, shown};

/// The members as a quorum agrees on them now.
pub(super) async fn agreed(client: &Client) -> Result<Vec<Member>, Attempt> {
    client
        .members(true, ANSWER_WITHIN)
        .await
        .map_err(|err| judge("the member list", err))
}

/// The member its peers reach at `url`.
pub(super) fn by_peer_url<'a>(members: &'a [Member], url: &str) -> Option<&'a Member> {
    members
        .iter()
        .find(|member| member.peer_urls.iter().any(|there| there == url))
}

/// What passes by itself is waited for: leaders are elected, learners catch up, and a member that has just started is not connected
/// "for 5 s" yet. The list is read again before anything is asked a second time, so an answer that got lost does no harm.
pub(super) fn judge(doing: &str, err: EtcdError) -> Attempt {
    match err {
        EtcdError::LearnerNotReady
        | EtcdError::NotALearner
        | EtcdError::MemberNotFound
        | EtcdError::NotLeader
        | EtcdError::BadTransferee
        | EtcdError::LeaderChanged
        | EtcdError::UnhealthyCluster
        | EtcdError::NoLeader { .. }
        | EtcdError::Deadline { .. }
        | EtcdError::Broken { .. }
        | EtcdError::Unreachable { .. } => Attempt::Again(shown::line(&shown::chain(&err))),
        _ => Attempt::Final(ActionError::etcd(doing)(err)),
    }
}
