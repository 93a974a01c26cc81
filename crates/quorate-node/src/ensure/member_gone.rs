//! etcd does not list that member; removed by this voter, which stays. A member is known by its ID and its peer URLs together: an ID that
//! was misread, or a list that has changed, removes nobody.

use std::collections::BTreeSet;

use quorate_etcd::{Client, Member};
use quorate_plan::{Change, MemberId, change::Permit};

use super::{
    ANSWER_WITHIN, Attempt, Work,
    members::{agreed, judge},
    unpermitted,
};
use crate::{clients, error::ActionError};

pub(super) async fn ensure(
    work: &Work<'_>,
    permit: Permit,
    member: MemberId,
    peer_urls: &BTreeSet<String>,
) -> Result<(), ActionError> {
    let client = clients::etcd(work.paths, clients::LOCAL_ETCD)?;
    remove(work, &client, permit, member, peer_urls).await
}

/// Takes the permit: it is spent whether the member is removed now or was gone already.
pub(super) async fn remove(
    work: &Work<'_>,
    client: &Client,
    permit: Permit,
    member: MemberId,
    peer_urls: &BTreeSet<String>,
) -> Result<(), ActionError> {
    if !matches!(permit.change(), Change::RemoveMember { id, .. } if *id == member) {
        return Err(unpermitted("remove a member of etcd"));
    }
    work.retry("etcd to agree to the removal", || async {
        attempt(client, member, peer_urls).await
    })
    .await
}

async fn attempt(
    client: &Client,
    member: MemberId,
    peer_urls: &BTreeSet<String>,
) -> Result<(), Attempt> {
    let status = client
        .status(ANSWER_WITHIN)
        .await
        .map_err(|err| judge("this member's status", err))?;
    if status.member_id.0 == member.0 {
        // It would end in the middle of its own answer, and nobody could tell whether it was removed.
        return Err(Attempt::Final(ActionError::unexpected(
            format!("another member than {member} to remove it"),
            "it is this host's own",
            "plan again: a member is removed by one that stays",
        )));
    }
    let members = agreed(client).await?;
    let Some(there) = members.iter().find(|there| there.id.0 == member.0) else {
        return Ok(());
    };
    if !matches(there, peer_urls) {
        return Err(Attempt::Final(ActionError::unexpected(
            format!("member {member} at {}", list(peer_urls)),
            format!("it is at {}", there.peer_urls.join(", ")),
            "plan again, and look at `quorate status` first: the members have changed",
        )));
    }
    match client.member_remove(there.id, ANSWER_WITHIN).await {
        // Read again: it is what decides, also after an answer that got lost.
        Ok(_) => Err(Attempt::Again("removed, still listed".into())),
        Err(err) => Err(judge("removing a member", err)),
    }
}

fn matches(member: &Member, peer_urls: &BTreeSet<String>) -> bool {
    member.peer_urls.iter().collect::<BTreeSet<_>>() == peer_urls.iter().collect()
}

fn list(urls: &BTreeSet<String>) -> String {
    urls.iter().cloned().collect::<Vec<_>>().join(", ")
}
