//! etcd as this host's own member tells it.

use std::{collections::BTreeMap, time::Instant};

use quorate_etcd::{Client, EtcdError};
use quorate_plan::{
    MemberId, Missing, Seen,
    observation::{EtcdView, Manifest, Member},
};

use super::{PATIENCE, heard::Heard, metrics, no_answer};
use crate::{clients, paths::Paths, shown};

pub(super) async fn look(
    paths: &Paths,
    manifests: &Seen<BTreeMap<String, Manifest>>,
    heard: &Heard,
) -> Seen<Option<EtcdView>> {
    let manifests = match manifests.get() {
        Ok(manifests) if manifests.contains_key("etcd") => manifests,
        Ok(_) => return Seen::now(None),
        Err(missing) => return Seen::Unknown(missing),
    };
    let client = match clients::etcd(paths, clients::LOCAL_ETCD) {
        Ok(client) => client,
        Err(err) => {
            let why = shown::line(&shown::chain(&err));
            return Seen::Unknown(Missing::no_answer("etcd", why));
        }
    };
    match counted(&client, manifests, heard).await {
        Ok(view) => Seen::now(Some(view)),
        Err(err) => Seen::Unknown(no_answer("etcd", &err)),
    }
}

/// What the member at the other end tells, and what it counts.
pub(crate) async fn counted(
    client: &Client,
    manifests: &BTreeMap<String, Manifest>,
    heard: &Heard,
) -> Result<EtcdView, EtcdError> {
    let (view, metrics) = tokio::join!(view(client), metrics::look(manifests));
    let view = view?;
    let leads = view.leader == Some(view.member);
    let term = leads.then_some(view.raft_term);
    Ok(EtcdView {
        fsync_p99_ms: metrics.fsync_p99_ms,
        active_peers: heard.active(term, &metrics.peers, Instant::now()),
        ..view
    })
}

/// What the member at the other end tells; not what it counts.
///
/// # Errors
/// When it does not tell about itself. A list or an alarm that it does not tell of only shows in the view.
pub(crate) async fn view(client: &Client) -> Result<EtcdView, EtcdError> {
    let (status, agreed, own, alarms) = tokio::join!(
        client.status(PATIENCE),
        client.members(true, PATIENCE),
        client.members(false, PATIENCE),
        client.alarms(PATIENCE),
    );
    let status = status?;
    let linearizable = agreed.is_ok();
    // A learner tells neither; a member cut off tells what it believes.
    let members = agreed.or(own).unwrap_or_default();
    Ok(EtcdView {
        cluster_id: status.cluster_id.to_string(),
        member: MemberId(status.member_id.0),
        version: shown::line(&status.version),
        leader: status.leader.map(|id| MemberId(id.0)),
        raft_term: status.raft_term,
        raft_index: status.raft_index,
        raft_applied: status.raft_applied_index,
        db_bytes: status.db_size,
        db_in_use_bytes: status.db_size_in_use,
        db_quota_bytes: status.db_size_quota,
        fsync_p99_ms: Seen::Unknown(Missing::not_looked("etcd's metrics")),
        active_peers: Seen::Unknown(Missing::not_looked("etcd's metrics")),
        linearizable,
        members: members
            .into_iter()
            .map(|member| {
                let urls = |urls: Vec<String>| urls.iter().map(|url| shown::line(url)).collect();
                let facts = Member {
                    name: shown::line(&member.name),
                    peer_urls: urls(member.peer_urls),
                    client_urls: urls(member.client_urls),
                    learner: member.is_learner,
                };
                (MemberId(member.id.0), facts)
            })
            .collect(),
        alarms: alarms
            .unwrap_or_default()
            .into_iter()
            .map(|alarm| (alarm.kind.to_string(), MemberId(alarm.member.0)))
            .collect(),
        errors: status.errors.iter().map(|err| shown::line(err)).collect(),
    })
}
