//! The empty-data guard: a marker outside etcd's data says which member this host is, and the kubelet does not start when the marker is
//! there and the data is not. Ends a founding.
//!
//! Without it a volume that fails to mount boots a new, empty, healthy looking cluster on a founder: its manifest still says so.

use std::collections::BTreeSet;

use quorate_etcd::Member;
use quorate_plan::{
    MemberId,
    observation::{Founding, MemberMark},
    quorum::needed,
};

use super::{ANSWER_WITHIN, TOOL_WITHIN, Work};
use crate::{
    clients,
    command::Command,
    durable,
    error::ActionError,
    facts::{self, flag_of},
};

const DROP_IN: &str = "kubelet.service.d/20-quorate-guard.conf";

pub(super) async fn ensure(work: &Work<'_>) -> Result<(), ActionError> {
    let client = clients::etcd(work.paths, clients::LOCAL_ETCD)?;
    let (status, members) = tokio::join!(
        client.status(ANSWER_WITHIN),
        client.members(true, ANSWER_WITHIN)
    );
    let status = status.map_err(ActionError::etcd("this member's status"))?;
    let members = members.map_err(ActionError::etcd("the member list"))?;
    let voter = members
        .iter()
        .any(|member| member.id == status.member_id && !member.is_learner);
    if !voter {
        return Err(ActionError::unexpected(
            format!("member {} to be a voter", status.member_id),
            "it is not one",
            "run `quorate status` to see the members",
        ));
    }
    let founding = facts::founding(work.paths)?.filter(|founding| !founding.done);
    if let Some(founding) = &founding {
        enough_vote(founding, &members)?;
    }
    // The drop-in before the marker: whoever sees the marker may rely on both.
    let manifests = work.seen.host(work.node)?.manifests.get()?;
    let data = flag_of(manifests, "etcd", "data-dir").unwrap_or(facts::ETCD_DATA);
    let text = drop_in(data);
    durable::write_if_different(&work.paths.unit(DROP_IN), text.as_bytes(), 0o644)?;
    let reload = Command::new("systemctl", TOOL_WITHIN).arg("daemon-reload");
    work.tools.run(reload).await?;
    let mark = MemberMark {
        cluster_id: status.cluster_id.to_string(),
        member: MemberId(status.member_id.0),
    };
    durable::write_json(&work.paths.state("etcd-member.json"), &mark)?;
    if let Some(founding) = founding {
        let over = Founding {
            done: true,
            ..founding
        };
        durable::write_json(&work.paths.state("founding.json"), &over)?;
    }
    Ok(())
}

/// The kubelet starts without asking for data again: this host is to be no member of anything.
pub(super) async fn lift(work: &Work<'_>) -> Result<(), ActionError> {
    let path = work.paths.unit(DROP_IN);
    if path.exists() {
        durable::remove(&path)?;
        let reload = Command::new("systemctl", TOOL_WITHIN).arg("daemon-reload");
        work.tools.run(reload).await?;
    }
    Ok(())
}

/// A founding is over when a majority of its founders votes, not before. Whoever of them does not by then was made anew meanwhile, and joins
/// like anybody else.
fn enough_vote(founding: &Founding, members: &[Member]) -> Result<(), ActionError> {
    // A static founder is listed by its name from the beginning; where its clients find it, it tells when it starts.
    let voters: BTreeSet<&str> = members
        .iter()
        .filter(|member| !member.is_learner && !member.client_urls.is_empty())
        .map(|member| member.name.as_str())
        .collect();
    let missing: Vec<&str> = founding
        .nodes
        .iter()
        .map(|node| node.as_str())
        .filter(|node| !voters.contains(node))
        .collect();
    let needed = needed(founding.nodes.len());
    if founding.nodes.len() - missing.len() >= needed {
        return Ok(());
    }
    Err(ActionError::unexpected(
        format!("{needed} of {} founders to vote", founding.nodes.len()),
        format!("not yet: {}", missing.join(", ")),
        "run `quorate status` to see what those hosts do",
    ))
}

fn drop_in(data: &str) -> String {
    format!(
        "# Written by Quorate; changes are overwritten.\n\
         # This host is a member of etcd. With its data gone it must not start: it would found a new cluster or vote on what it forgot.\n\
         [Unit]\nRequiresMountsFor={data}\n\n\
         [Service]\n\
         ExecStartPre=/bin/sh -c 'test ! -e /var/lib/quorate/etcd-member.json || ls {data}/member/wal/*.wal >/dev/null 2>&1 || \
         {{ echo \"quorate: this host was a member of etcd and {data} holds no write-ahead log: not starting\" >&2; exit 1; }}'\n"
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_founding_ends_when_its_majority_votes() {
        let founding = Founding {
            nodes: ["cp-1", "cp-2", "cp-3"].map(|n| n.parse().unwrap()).into(),
            done: false,
            restarts: 0,
        };
        let member = |name: &str, learner, started: bool| Member {
            id: quorate_etcd::MemberId(1),
            name: name.into(),
            peer_urls: vec![],
            client_urls: started
                .then(|| "https://10.0.0.1:2379".to_owned())
                .into_iter()
                .collect(),
            is_learner: learner,
        };
        let one = || member("cp-1", false, true);
        enough_vote(&founding, &[one(), member("cp-2", false, true)]).unwrap();
        for second in [
            member("cp-2", true, true),
            member("cp-2", false, false),
            member("", false, false),
            member("cp-4", false, true),
        ] {
            let err = enough_vote(&founding, &[one(), second]).unwrap_err();
            let (expected, seen) = ("2 of 3 founders to vote", "not yet: cp-2, cp-3");
            let text = err.to_string();
            assert!(text.contains(expected) && text.contains(seen), "{text}");
        }
    }

    /// The very text that systemd would run, on folders of our own.
    #[test]
    fn the_guard_lets_only_data_or_no_member_start() {
        let machine = crate::testing::machine();
        let root = machine.paths.at("/").display().to_string();
        let text = drop_in("/var/lib/etcd");
        let script = text
            .split_once("-c '")
            .and_then(|(_, rest)| rest.split_once("'\n"))
            .unwrap()
            .0
            .replace("/var/lib/", &format!("{root}var/lib/"));
        let starts = || {
            let out = Command::new("/bin/sh")
                .args(["-c", &script])
                .output()
                .unwrap();
            (out.status.success(), String::from_utf8(out.stderr).unwrap())
        };
        assert!(starts().0, "no member");
        machine.write("/var/lib/quorate/etcd-member.json", "{}");
        let (started, said) = starts();
        assert!(!started && said.contains("no write-ahead log"), "{said}");
        std::fs::create_dir_all(machine.paths.at("/var/lib/etcd/member/wal")).unwrap();
        assert!(!starts().0, "an empty folder is no data");
        machine.write("/var/lib/etcd/member/wal/0-0.wal", "x");
        assert!(starts().0, "data");
    }
}
