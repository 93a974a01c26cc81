//! Members that stay: a change of membership leans on them, so they are judged one by one. The one that leaves may be as sick as it likes.

use std::collections::BTreeSet;

use super::versions::{self, Doing};
use crate::{
    MemberId, NodeName, Observation,
    health::host_of,
    intent::Acceptance,
    observation::{EtcdView, HostFacts},
    quorum::Quorum,
    refusal::Refusal,
};

/// Entries of the log a member may be behind. etcd itself refuses to take writes from one that is 5000 behind in applying
/// (`maxGapBetweenApplyAndCommitIndex`); below that the looks at two members simply lie apart in time.
pub const RAFT_LAG_MAX: u64 = 5000;

/// Percent of its quota a database may have. A join sends every byte of it over, and at the quota no write is taken any more.
pub const QUOTA_PERCENT_MAX: u64 = 90;

/// Free space of a member's disk, in bytes: a snapshot for a joiner is as large as the database may get by default.
pub const DISK_FREE_MIN: u64 = 2 << 30;

/// The time in which nearly every sync of the log has to end, in milliseconds. etcd's advice is 10; above half an election timeout of
/// 1000 a leader may lose its followers over one slow write.
pub const FSYNC_P99_MS_MAX: u64 = 500;

/// Judges every voter but `leaving`, as far as it was seen: whether enough of them are healthy at all is judged elsewhere.
pub(super) fn judge(
    seen: &Observation,
    quorum: &Quorum,
    leaving: Option<MemberId>,
    doing: Doing,
    accepted: &BTreeSet<Acceptance>,
) -> Result<(), Refusal> {
    let views: Vec<&EtcdView> = seen
        .etcd
        .values()
        .filter_map(|view| view.get().ok()?.as_ref())
        .collect();
    for view in &views {
        for (alarm, member) in &view.alarms {
            // An alarm of nobody in particular (its ID is zero) is everybody's.
            if Some(*member) != leaving {
                return Err(Refusal::AlarmRaised {
                    alarm: alarm.clone(),
                    member: *member,
                });
            }
        }
    }
    let index_max = views
        .iter()
        .filter(|view| quorum.healthy.contains(&view.member))
        .map(|view| view.raft_index)
        .max()
        .unwrap_or_default();
    for view in views {
        let id = view.member;
        let Some(member) = quorum.members.get(&id) else {
            continue;
        };
        if Some(id) == leaving || member.learner {
            continue;
        }
        let Some(node) = host_of(seen, id, member) else {
            continue;
        };
        let facts = seen.host(&node).ok();
        for refusal in findings(&node, view, facts, index_max, doing) {
            if !refusal.accepted(accepted) {
                return Err(refusal);
            }
        }
    }
    Ok(())
}

fn findings(
    node: &NodeName,
    view: &EtcdView,
    facts: Option<&HostFacts>,
    index_max: u64,
    doing: Doing,
) -> Vec<Refusal> {
    let mut found = Vec::new();
    let node = || node.clone();
    let behind = index_max.saturating_sub(view.raft_applied);
    if behind > RAFT_LAG_MAX {
        found.push(Refusal::RaftLags {
            node: node(),
            behind,
            allowed: RAFT_LAG_MAX,
        });
    }
    let (bytes, quota) = (view.db_bytes, view.db_quota_bytes);
    if quota > 0 && bytes >= quota / 100 * QUOTA_PERCENT_MAX {
        found.push(Refusal::NearQuota {
            node: node(),
            bytes,
            quota,
            percent_max: QUOTA_PERCENT_MAX,
        });
    }
    if let Some(Ok(machine)) = facts.map(|facts| facts.machine.get())
        && machine.disk_free_bytes < DISK_FREE_MIN
    {
        found.push(Refusal::DiskFull {
            node: node(),
            free: machine.disk_free_bytes,
            needed: DISK_FREE_MIN,
        });
    }
    // Without its metrics nothing is known about the disk; that alone stops nobody from mending a cluster.
    if let Ok(p99_ms) = view.fsync_p99_ms.get()
        && *p99_ms > FSYNC_P99_MS_MAX
    {
        found.push(Refusal::DiskSlow {
            node: node(),
            p99_ms: *p99_ms,
            allowed_ms: FSYNC_P99_MS_MAX,
        });
    }
    if let Some(why) = versions::known_bad("etcd", &view.version, doing) {
        found.push(Refusal::KnownBadVersion {
            node: node(),
            component: "etcd".into(),
            version: view.version.clone(),
            why: why.into(),
        });
    }
    found
}
