//! The empty-data guard: a marker outside etcd's data says which member this host is, and the kubelet does not start when the marker is
//! there and the data is not.
//!
//! Without it a volume that fails to mount boots a new, empty, healthy looking cluster on a founder: its manifest still says so.

use quorate_plan::{MemberId, observation::MemberMark};

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
    Ok(durable::write_json(
        &work.paths.state("etcd-member.json"),
        &mark,
    )?)
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
