//! One member's own state, and its upkeep: status, alarms, leadership, hashes, defragmentation.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::wire;
use crate::{Client, ClusterId, EtcdError, MemberId};

/// What one member says about itself. It answers alone: a member cut off from the others still does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The member that answered.
    pub member_id: MemberId,
    /// The cluster it believes to be in.
    pub cluster_id: ClusterId,
    /// The revision of its key-value store.
    pub revision: i64,
    /// Its version, such as `3.6.16`.
    pub version: String,
    /// The version its data is stored as, such as `3.6.0`; empty before 3.6.
    pub storage_version: String,
    /// The database file, in bytes.
    pub db_size: u64,
    /// What of it is in use, in bytes; the rest is freed by [`Client::defragment`].
    pub db_size_in_use: u64,
    /// The size at which it stops writing, in bytes; 0 before 3.6.
    pub db_size_quota: u64,
    /// The leader it follows; `None` when it has none.
    pub leader: Option<MemberId>,
    /// Up to where it knows the log to be agreed upon.
    pub raft_index: u64,
    /// Up to where it has applied the log.
    pub raft_applied_index: u64,
    /// The election term it is in.
    pub raft_term: u64,
    /// Its complaints: `etcdserver: no leader` and the alarms that ring.
    pub errors: Vec<String>,
    /// Whether it has no vote.
    pub is_learner: bool,
}

impl Status {
    /// Whether the member that answered is the leader.
    pub fn is_leader(&self) -> bool {
        self.leader == Some(self.member_id)
    }
}

/// What an alarm is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum AlarmKind {
    /// The member's database reached its quota: the cluster takes no writes but deletes.
    NoSpace,
    /// The member's data differs from the others'.
    Corrupt,
    /// One that this version does not know.
    Unknown(i32),
}

impl AlarmKind {
    fn number(self) -> i32 {
        match self {
            AlarmKind::NoSpace => 1,
            AlarmKind::Corrupt => 2,
            AlarmKind::Unknown(n) => n,
        }
    }
}

impl fmt::Display for AlarmKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AlarmKind::NoSpace => f.write_str("NOSPACE"),
            AlarmKind::Corrupt => f.write_str("CORRUPT"),
            AlarmKind::Unknown(n) => write!(f, "alarm {n}"),
        }
    }
}

/// An alarm that rings for the whole cluster until it is disarmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Alarm {
    /// The member it is about.
    pub member: MemberId,
    /// What it is about.
    pub kind: AlarmKind,
}

/// A hash of the key-value store up to a revision. Two members that give different hashes for the same `hash_revision` and
/// `compact_revision` hold different data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashKv {
    /// The hash.
    pub hash: u32,
    /// Up to which revision it was taken; 0 before 3.6.
    pub hash_revision: i64,
    /// From which revision on history is kept; hashes are comparable only where this is equal. -1 when nothing was ever compacted.
    pub compact_revision: i64,
    /// The store's revision when it was taken.
    pub revision: i64,
}

fn bytes(n: i64) -> u64 {
    u64::try_from(n).unwrap_or_default()
}

impl Client {
    /// What the member says about itself. Needs no quorum; a learner answers too.
    ///
    /// # Errors
    /// See [`EtcdError`].
    pub async fn status(&self, within: Duration) -> Result<Status, EtcdError> {
        const CALL: &str = "/etcdserverpb.Maintenance/Status";
        let s: wire::StatusResponse = self.unary(CALL, wire::Empty {}, within).await?;
        let header = s
            .header
            .ok_or_else(|| self.malformed(CALL, "it has no header"))?;
        Ok(Status {
            member_id: MemberId(header.member_id),
            cluster_id: ClusterId(header.cluster_id),
            revision: header.revision,
            version: s.version,
            storage_version: s.storage_version,
            db_size: bytes(s.db_size),
            db_size_in_use: bytes(s.db_size_in_use),
            db_size_quota: bytes(s.db_size_quota),
            leader: (s.leader != 0).then_some(MemberId(s.leader)),
            raft_index: s.raft_index,
            raft_applied_index: s.raft_applied_index,
            raft_term: s.raft_term,
            errors: s.errors,
            is_learner: s.is_learner,
        })
    }

    /// Hands leadership to the voter `target`. Only the leader does this.
    ///
    /// # Errors
    /// [`EtcdError::NotLeader`] from any other member, [`EtcdError::BadTransferee`] for a target without a vote; see [`EtcdError`].
    pub async fn move_leader(&self, target: MemberId, within: Duration) -> Result<(), EtcdError> {
        let _: wire::HeaderOnly = self
            .unary(
                "/etcdserverpb.Maintenance/MoveLeader",
                wire::MemberIdRequest { id: target.0 },
                within,
            )
            .await?;
        Ok(())
    }

    /// The alarms that ring, in order.
    ///
    /// # Errors
    /// See [`EtcdError`].
    pub async fn alarms(&self, within: Duration) -> Result<Vec<Alarm>, EtcdError> {
        self.alarm(wire::AlarmRequest::default(), within).await
    }

    /// Ends an alarm. For `NoSpace`, make room first: compact and defragment.
    ///
    /// # Errors
    /// See [`EtcdError`].
    pub async fn alarm_disarm(&self, alarm: Alarm, within: Duration) -> Result<(), EtcdError> {
        let request = wire::AlarmRequest {
            action: 2,
            member_id: alarm.member.0,
            alarm: alarm.kind.number(),
        };
        self.alarm(request, within).await.map(|_| ())
    }

    async fn alarm(
        &self,
        request: wire::AlarmRequest,
        within: Duration,
    ) -> Result<Vec<Alarm>, EtcdError> {
        let answer: wire::AlarmResponse = self
            .unary("/etcdserverpb.Maintenance/Alarm", request, within)
            .await?;
        let kind = |n| match n {
            1 => AlarmKind::NoSpace,
            2 => AlarmKind::Corrupt,
            n => AlarmKind::Unknown(n),
        };
        let mut alarms: Vec<Alarm> = answer
            .alarms
            .iter()
            .map(|a| Alarm {
                member: MemberId(a.member_id),
                kind: kind(a.alarm),
            })
            .collect();
        alarms.sort();
        Ok(alarms)
    }

    /// Hashes this member's store up to `revision`, or up to its latest for 0.
    ///
    /// # Errors
    /// See [`EtcdError`].
    pub async fn hash_kv(&self, revision: i64, within: Duration) -> Result<HashKv, EtcdError> {
        let answer: wire::HashKvResponse = self
            .unary(
                "/etcdserverpb.Maintenance/HashKV",
                wire::HashKvRequest { revision },
                within,
            )
            .await?;
        Ok(HashKv {
            hash: answer.hash,
            hash_revision: answer.hash_revision,
            compact_revision: answer.compact_revision,
            revision: answer.header.map_or(0, |h| h.revision),
        })
    }

    /// Rewrites this member's database without its holes. The member answers nothing else meanwhile: never two members at once.
    ///
    /// # Errors
    /// See [`EtcdError`]. The member goes on defragmenting when the deadline has passed.
    pub async fn defragment(&self, within: Duration) -> Result<(), EtcdError> {
        let _: wire::HeaderOnly = self
            .unary(
                "/etcdserverpb.Maintenance/Defragment",
                wire::Empty {},
                within,
            )
            .await?;
        Ok(())
    }
}
