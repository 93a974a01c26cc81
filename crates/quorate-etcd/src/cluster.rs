//! Who is a member, and changing that. The rules etcd applies are on each method; their texts are in `docs/design/etcd-rules.md`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::wire;
use crate::{Client, EtcdError, MemberId};

/// One member as the cluster records it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its identity.
    pub id: MemberId,
    /// Its name. Empty until it has started for the first time and published itself.
    pub name: String,
    /// Where other members reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it. Empty until it has started for the first time.
    pub client_urls: Vec<String>,
    /// Whether it only receives the log and has no vote.
    pub is_learner: bool,
}

impl Member {
    /// Whether it ever started and published itself. Says nothing about now.
    pub fn has_started(&self) -> bool {
        !self.name.is_empty()
    }
}

impl From<wire::Member> for Member {
    fn from(m: wire::Member) -> Self {
        Member {
            id: MemberId(m.id),
            name: m.name,
            peer_urls: m.peer_urls,
            client_urls: m.client_urls,
            is_learner: m.is_learner,
        }
    }
}

fn members(list: Vec<wire::Member>) -> Vec<Member> {
    let mut list: Vec<Member> = list.into_iter().map(Member::from).collect();
    list.sort_by_key(|m| m.id);
    list
}

impl Client {
    /// All members, by id.
    ///
    /// `linearizable`: the list a quorum agrees on; without a quorum it ends as [`EtcdError::Deadline`] or [`EtcdError::NoLeader`].
    /// Otherwise what this member believes, which may be old. A learner answers neither.
    ///
    /// # Errors
    /// See [`EtcdError`].
    pub async fn members(
        &self,
        linearizable: bool,
        within: Duration,
    ) -> Result<Vec<Member>, EtcdError> {
        let answer: wire::MembersResponse = self
            .unary(
                "/etcdserverpb.Cluster/MemberList",
                wire::MemberListRequest { linearizable },
                within,
            )
            .await?;
        Ok(members(answer.members))
    }

    /// Adds a member without a vote that will be reachable at `peer_url`, and returns it as recorded.
    ///
    /// etcd 3.6.16 refuses, in this order: [`EtcdError::UnhealthyCluster`] unless the member asked is the only voter or has been
    /// connected for 5 s to a majority of the voters plus one more that is down; [`EtcdError::MemberNotFound`] when the same URL was
    /// added and removed within this second; [`EtcdError::PeerUrlExists`]; [`EtcdError::TooManyLearners`] when there is a learner.
    ///
    /// # Errors
    /// See [`EtcdError`].
    pub async fn member_add_learner(
        &self,
        peer_url: &str,
        within: Duration,
    ) -> Result<Member, EtcdError> {
        const CALL: &str = "/etcdserverpb.Cluster/MemberAdd";
        let request = wire::MemberAddRequest {
            peer_urls: vec![peer_url.to_owned()],
            is_learner: true,
        };
        let answer: wire::MemberAddResponse = self.unary(CALL, request, within).await?;
        answer
            .member
            .map(Member::from)
            .ok_or_else(|| self.malformed(CALL, "it names no member"))
    }

    /// Gives a learner its vote and returns the members after it. There is no way back but removing it.
    ///
    /// etcd 3.6.16 refuses with [`EtcdError::MemberNotFound`], [`EtcdError::LearnerNotReady`] below 90 % of the leader's log,
    /// [`EtcdError::NotEnoughStarted`] and [`EtcdError::NotALearner`]. It does **not** ask whether the learner lives: look at its
    /// own [`Client::status`] first, for a dead one among two voters takes the quorum with it.
    ///
    /// # Errors
    /// See [`EtcdError`].
    pub async fn member_promote(
        &self,
        id: MemberId,
        within: Duration,
    ) -> Result<Vec<Member>, EtcdError> {
        let answer: wire::MembersResponse = self
            .unary(
                "/etcdserverpb.Cluster/MemberPromote",
                wire::MemberIdRequest { id: id.0 },
                within,
            )
            .await?;
        Ok(members(answer.members))
    }

    /// Removes a member for good and returns the members after it. Its process ends with status 1, now or when it is next started.
    ///
    /// etcd 3.6.16 removes learners and voters without a connection unasked, as long as there is a quorum to agree. It refuses
    /// a connected voter with [`EtcdError::UnhealthyCluster`] when too few of the others have been connected for 5 s, the last one
    /// with [`EtcdError::NotEnoughStarted`], and one that is none with [`EtcdError::MemberNotFound`].
    ///
    /// # Errors
    /// See [`EtcdError`].
    pub async fn member_remove(
        &self,
        id: MemberId,
        within: Duration,
    ) -> Result<Vec<Member>, EtcdError> {
        let answer: wire::MembersResponse = self
            .unary(
                "/etcdserverpb.Cluster/MemberRemove",
                wire::MemberIdRequest { id: id.0 },
                within,
            )
            .await?;
        Ok(members(answer.members))
    }

    /// Replaces a member's peer URLs; its id stays.
    ///
    /// # Errors
    /// [`EtcdError::MemberNotFound`]; [`EtcdError::PeerUrlExists`] when another member has one of them; see [`EtcdError`].
    pub async fn member_update(
        &self,
        id: MemberId,
        peer_urls: &[String],
        within: Duration,
    ) -> Result<(), EtcdError> {
        let request = wire::MemberUpdateRequest {
            id: id.0,
            peer_urls: peer_urls.to_vec(),
        };
        let _: wire::HeaderOnly = self
            .unary("/etcdserverpb.Cluster/MemberUpdate", request, within)
            .await?;
        Ok(())
    }
}
