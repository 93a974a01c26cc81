//! etcd's static pod manifest. A founder starts with all founders as its static cluster; a joiner with the members there are at this
//! moment, of which its learner must be one, and fetches the cluster's data at once.

use std::collections::BTreeSet;

use quorate_plan::{
    Change, NodeName, Refusal,
    change::Permit,
    kubeadm::{ClusterSettings, Peer},
    standing::initial_cluster,
};
use tokio::time::timeout;

use super::{
    ANSWER_WITHIN, TOOL_WITHIN, Work, control_plane::rendered_nothing, first_start, unpermitted,
};
use crate::{
    clients,
    durable::{self, FileError},
    error::ActionError,
    facts,
    kubeadm::{Extra, Kubeadm},
    paths::Paths,
    shown,
};

pub(super) async fn ensure(
    work: &Work<'_>,
    permit: Permit,
    settings: &ClusterSettings,
    node: &Peer,
    founders: &BTreeSet<Peer>,
) -> Result<(), ActionError> {
    check_permit(&permit, node, founders)?;
    let start = if founders.is_empty() {
        joiner(work, node).await?
    } else {
        founder(work, founders)?
    };
    let Some(start) = start else {
        return Ok(());
    };
    let extra = Extra::default();
    let kubeadm = Kubeadm::new(work.paths, work.tools, settings, node, &extra, TOOL_WITHIN)?;
    let rendered = kubeadm.manifests(&["etcd", "local"]).await?;
    let text = rendered
        .get("etcd")
        .ok_or_else(|| rendered_nothing("etcd"))?;
    let text = with_flag(text, "initial-cluster", &start.cluster);
    let text = with_flag(&text, "initial-cluster-state", start.state);
    // What kubeadm does besides writing the manifest.
    durable::private_folder(&work.paths.at(facts::ETCD_DATA))?;
    let path = work.paths.manifest("etcd");
    durable::write_if_different(&path, text.as_bytes(), 0o600)?;
    if founders.is_empty() {
        first_start::ensure(work, &facts::parse_manifest(&path, &text)?).await?;
    }
    Ok(())
}

/// The permit is for this very start.
fn check_permit(
    permit: &Permit,
    node: &Peer,
    founders: &BTreeSet<Peer>,
) -> Result<(), ActionError> {
    let covered = match permit.change() {
        Change::Found { nodes } => {
            let named: BTreeSet<&NodeName> = founders.iter().map(|peer| &peer.name).collect();
            founders.contains(node) && named.into_iter().eq(nodes)
        }
        Change::AddVoter { node: joiner } => founders.is_empty() && *joiner == node.name,
        Change::RemoveMember { .. } | Change::Interrupt { .. } => false,
    };
    if covered {
        Ok(())
    } else {
        Err(unpermitted(&format!("start etcd on {}", node.name)))
    }
}

/// How etcd starts.
#[derive(Debug, PartialEq, Eq)]
struct Start {
    cluster: String,
    state: &'static str,
}

/// `None`: the manifest that lies here has what is wanted, or etcd has data and no longer reads such flags.
fn founder(work: &Work<'_>, founders: &BTreeSet<Peer>) -> Result<Option<Start>, ActionError> {
    let own = facts::founding(work.paths)?.filter(|founding| {
        let names: BTreeSet<&NodeName> = founders.iter().map(|peer| &peer.name).collect();
        !founding.done && names.into_iter().eq(&founding.nodes)
    });
    let data = facts::has_wal(work.paths, facts::ETCD_DATA);
    let marked = facts::member_mark(work.paths)?.is_some();
    if own.is_none() || marked {
        let found = if marked {
            "the marker of an etcd member"
        } else if data {
            "etcd data"
        } else {
            "no founding of these hosts in progress"
        };
        return Err(Refusal::NotBlank {
            node: work.node.clone(),
            found: found.to_owned(),
        }
        .into());
    }
    if data && work.paths.manifest("etcd").exists() {
        return Ok(None);
    }
    Ok(Some(Start {
        cluster: initial_cluster(founders),
        state: "new",
    }))
}

async fn joiner(work: &Work<'_>, node: &Peer) -> Result<Option<Start>, ActionError> {
    let path = work.paths.manifest("etcd");
    let running = match durable::read_text(&path)? {
        Some(text) => Some(facts::parse_manifest(&path, &text)?),
        None => None,
    };
    let joins = running
        .as_ref()
        .is_some_and(|manifest| manifest.flag("initial-cluster-state") == Some("existing"));
    let data = facts::has_wal(work.paths, facts::ETCD_DATA);
    if joins && data {
        return Ok(None);
    }
    if data {
        return Err(ActionError::unexpected(
            format!("no etcd data on {}, which joins as a new member", node.name),
            format!("data in {}", facts::ETCD_DATA),
            "move that folder aside: it belongs to a member that is not in the cluster any more",
        ));
    }
    let members = members(work).await?;
    let own = members
        .iter()
        .find(|member| member.peer_urls.iter().any(|url| *url == node.peer_url()))
        .ok_or_else(|| {
            ActionError::unexpected(
                format!("a learner for {} among etcd's members", node.peer_url()),
                names(&members),
                "run `quorate apply` again: the learner is added first",
            )
        })?;
    if own.has_started() && !own.is_learner {
        // Its log is gone: with an empty one it would vote on what it forgot.
        return Err(Refusal::DataLost {
            node: work.node.clone(),
            member: quorate_plan::MemberId(own.id.0),
        }
        .into());
    }
    forget_old_member(work.paths, &members)?;
    Ok(Some(Start {
        cluster: cluster_of(&members, node),
        state: "existing",
    }))
}

/// Every member with its peer URLs; the one that never started has no name yet and gets ours.
fn cluster_of(members: &[quorate_etcd::Member], node: &Peer) -> String {
    let url = node.peer_url();
    let mut entries = BTreeSet::new();
    for member in members {
        let own = member.peer_urls.contains(&url);
        let name = if own {
            node.name.as_str()
        } else {
            &member.name
        };
        entries.extend(member.peer_urls.iter().map(|url| format!("{name}={url}")));
    }
    entries.into_iter().collect::<Vec<_>>().join(",")
}

/// The marker of a member that is out of the cluster would keep the kubelet from starting for the new one.
fn forget_old_member(paths: &Paths, members: &[quorate_etcd::Member]) -> Result<(), FileError> {
    if let Some(mark) = facts::member_mark(paths)?
        && !members.iter().any(|member| member.id.0 == mark.member.0)
    {
        durable::remove(&paths.state("etcd-member.json"))?;
    }
    Ok(())
}

/// The members as a quorum agrees on them, from whichever member answers first.
async fn members(work: &Work<'_>) -> Result<Vec<quorate_etcd::Member>, ActionError> {
    let urls: BTreeSet<String> = work
        .seen
        .etcd
        .values()
        .filter_map(|view| view.get().ok()?.as_ref())
        .flat_map(|view| view.members.values())
        .filter(|member| !member.learner)
        .flat_map(|member| member.client_urls.iter().cloned())
        .collect();
    let mut said = Vec::new();
    for url in &urls {
        let client = clients::etcd(work.paths, url)?;
        match timeout(ANSWER_WITHIN, client.members(true, ANSWER_WITHIN)).await {
            Ok(Ok(members)) => return Ok(members),
            Ok(Err(err)) => said.push(format!("{url}: {}", shown::chain(&err))),
            Err(_) => said.push(format!("{url}: no answer")),
        }
    }
    Err(ActionError::unexpected(
        "the member list of a quorum",
        if urls.is_empty() {
            "no member's address is known".to_owned()
        } else {
            said.join("; ")
        },
        "run `quorate status` to see which members answer",
    ))
}

fn names(members: &[quorate_etcd::Member]) -> String {
    let texts: Vec<String> = members
        .iter()
        .map(|member| format!("{} ({})", member.id, member.peer_urls.join(", ")))
        .collect();
    texts.join("; ")
}

/// Replaces a flag of the manifest's command, or adds it after the last one.
fn with_flag(manifest: &str, name: &str, value: &str) -> String {
    let flag = |line: &str| line.trim_start().strip_prefix("- --").map(str::to_owned);
    let is_it = |line: &str| flag(line).is_some_and(|f| f.split('=').next() == Some(name));
    let lines: Vec<&str> = manifest.lines().collect();
    let at = lines.iter().position(|line| is_it(line));
    let last = lines.iter().rposition(|line| flag(line).is_some());
    let mut out = String::new();
    for (number, line) in lines.iter().enumerate() {
        let indent = &line[..line.len() - line.trim_start().len()];
        let own = format!("{indent}- --{name}={value}\n");
        if Some(number) == at {
            out.push_str(&own);
            continue;
        }
        out.push_str(line);
        out.push('\n');
        if at.is_none() && Some(number) == last {
            out.push_str(&own);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use quorate_etcd::{Member, MemberId};

    use super::*;

    const MANIFEST: &str = "/etc/kubernetes/manifests/etcd.yaml";

    const RENDERED: &str = "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - command:\n    - etcd\n    \
        - --initial-advertise-peer-urls=https://10.0.0.1:2380\n    - --initial-cluster=cp-1=https://10.0.0.1:2380\n    \
        - --name=cp-1\n    image: x\n";

    fn peer(number: u8) -> Peer {
        Peer {
            name: format!("cp-{number}").parse().unwrap(),
            address: [10, 0, 0, number].into(),
        }
    }

    fn member(number: u8, name: &str, learner: bool) -> Member {
        Member {
            id: MemberId(number.into()),
            name: name.into(),
            peer_urls: vec![peer(number).peer_url()],
            client_urls: vec![],
            is_learner: learner,
        }
    }

    #[test]
    fn flags_are_replaced_or_added_and_nothing_else() {
        let text = with_flag(RENDERED, "initial-cluster", "a=b,c=d");
        let text = with_flag(&text, "initial-cluster-state", "existing");
        let manifest = facts::parse_manifest(Path::new(MANIFEST), &text).unwrap();
        assert_eq!(manifest.flag("initial-cluster"), Some("a=b,c=d"));
        assert_eq!(manifest.flag("initial-cluster-state"), Some("existing"));
        assert_eq!(manifest.flag("name"), Some("cp-1"));
        assert_eq!(
            manifest.flag("initial-advertise-peer-urls"),
            Some("https://10.0.0.1:2380"),
            "a flag with a longer name is another flag"
        );
        assert_eq!(text.lines().count(), RENDERED.lines().count() + 1);
        assert_eq!(with_flag(&text, "initial-cluster", "a=b,c=d"), text);
    }

    #[test]
    fn a_joiner_starts_with_the_members_there_are() {
        let members = [member(1, "cp-1", false), member(2, "", true)];
        assert_eq!(
            cluster_of(&members, &peer(2)),
            "cp-1=https://10.0.0.1:2380,cp-2=https://10.0.0.2:2380"
        );
    }

    #[test]
    fn a_founder_needs_its_founding() {
        let machine = crate::testing::machine();
        let founders: BTreeSet<Peer> = [peer(1), peer(2), peer(3)].into();
        let start = |machine: &crate::testing::Machine| {
            crate::testing::with_work(machine, "cp-1", |work| founder(work, &founders))
        };
        assert!(matches!(start(&machine), Err(ActionError::Refused(_))));
        let founding = |names: &str, done: bool| {
            let names: Vec<String> = names.split(' ').map(|n| format!("\"{n}\"")).collect();
            machine.write(
                "/var/lib/quorate/founding.json",
                format!("{{\"nodes\":[{}],\"done\":{done}}}", names.join(",")),
            );
        };
        founding("cp-1 cp-2", false);
        assert!(matches!(start(&machine), Err(ActionError::Refused(_))));
        founding("cp-1 cp-2 cp-3", true);
        assert!(matches!(start(&machine), Err(ActionError::Refused(_))));
        founding("cp-1 cp-2 cp-3", false);
        let wanted = Start {
            cluster:
                "cp-1=https://10.0.0.1:2380,cp-2=https://10.0.0.2:2380,cp-3=https://10.0.0.3:2380"
                    .into(),
            state: "new",
        };
        assert_eq!(start(&machine).unwrap(), Some(wanted));
        // Interrupted after etcd began to write: it goes on by itself.
        machine.write("/var/lib/etcd/member/wal/0.wal", "x");
        machine.write("/etc/kubernetes/manifests/etcd.yaml", RENDERED);
        assert_eq!(start(&machine).unwrap(), None);
        machine.write(
            "/var/lib/quorate/etcd-member.json",
            "{\"clusterId\":\"1\",\"member\":\"2\"}",
        );
        assert!(matches!(start(&machine), Err(ActionError::Refused(_))));
    }

    #[test]
    fn only_the_marker_of_a_member_that_is_gone_is_forgotten() {
        let machine = crate::testing::machine();
        let mark = "/var/lib/quorate/etcd-member.json";
        machine.write(mark, "{\"clusterId\":\"1\",\"member\":\"2\"}");
        forget_old_member(&machine.paths, &[member(2, "cp-2", false)]).unwrap();
        assert!(machine.paths.at(mark).exists());
        forget_old_member(&machine.paths, &[member(1, "cp-1", false)]).unwrap();
        assert!(!machine.paths.at(mark).exists());
    }
}
