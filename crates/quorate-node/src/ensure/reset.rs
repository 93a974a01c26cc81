//! Nothing of the cluster runs or is configured on this host any more. Membership is not touched: whoever is still a member is not reset.
//!
//! What cannot be had back is moved aside, never deleted: `/etc/kubernetes` with the authorities' keys, etcd's data, the marker of a member.
//! kubeadm takes away what belongs to the container runtime. Components, images and their configuration stay: they are of no cluster.
//! The mark goes last; until then the host tells that its reset was begun.

use quorate_plan::{MemberId, Missing, Observation, Quorum, kubeadm::Peer};
use serde::{Deserialize, Serialize};

use super::{TOOL_WITHIN, Work, etcd_volume, guarded};
use crate::{
    aside::Aside,
    command::Command,
    containers,
    durable::{self, FileError},
    error::ActionError,
    facts::{self, CONTAINERD, flag_of},
    hosts_file, old_address, packets,
    paths::Paths,
    shared_address, shown, utc,
};

/// What a reset that was broken off has to know when it is asked again: the manifest that says where etcd's data lies is gone by then.
const NOTE: &str = "reset.json";

/// Links that pod networks and kube-proxy make, and that no pod takes with it.
const LINKS: [&str; 4] = ["cni0", "flannel.1", "flannel-v6.1", "kube-ipvs0"];

/// State of the pod network and of the kubelet that a new life of this host must not find. It can all be made again.
const STATE: [&str; 3] = ["/var/lib/kubelet", "/var/lib/cni", "/run/flannel"];

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Note {
    /// Where etcd's data lies.
    data: String,
    /// The folder that everything goes to.
    aside: String,
}

pub(super) async fn ensure(work: &Work<'_>, node: &Peer) -> Result<(), ActionError> {
    not_a_member(work.seen, work.paths, node)?;
    let note = note(work)?;
    let aside = Aside::open(work.paths, note.aside);
    member_aside(work, &aside, &note.data).await?;
    links_end(work).await?;
    packets::clear(work.paths, work.tools).await?;
    old_address::lift(work.paths, work.tools).await?;
    if shared_address::has_part(work.paths) {
        shared_address::leave(work).await?;
    }
    take(work, &aside, "/etc/cni/net.d")?;
    for folder in STATE {
        durable::remove_folder(&work.paths.at(folder))?;
    }
    hosts_file::ensure(work.paths, &[].into())?;
    guarded::lift(work).await?;
    durable::remove(&work.paths.run(facts::REHEARSAL))?;
    // With the data out of place nobody needs to be kept from starting without it.
    for state in ["etcd-member.json", "founding.json"] {
        take(work, &aside, &format!("/var/lib/quorate/{state}"))?;
    }
    etcd_volume::forget(work.paths)?;
    durable::remove(&work.paths.state(NOTE))?;
    durable::remove(&work.paths.state("mark.json"))?;
    Ok(durable::sync_folder(&work.paths.state(""))?)
}

/// Everything that makes the host a member has ended and is moved aside: containers, `/etc/kubernetes`, etcd's data.
pub(super) async fn member_aside(
    work: &Work<'_>,
    aside: &Aside<'_>,
    data: &str,
) -> Result<(), ActionError> {
    // From here on nothing starts again, not even at a boot.
    kubelet_ends(work).await?;
    // Before kubeadm, which would delete what is in it.
    take(work, aside, "/etc/kubernetes")?;
    containers_end(work).await?;
    Ok(take(work, aside, data)?)
}

/// A voter that loses its data while it is a member is a loss for the cluster, and may come back with an empty log.
fn not_a_member(seen: &Observation, paths: &Paths, node: &Peer) -> Result<(), ActionError> {
    // That no etcd runs here says nothing about what the others count on.
    let quorum = Quorum::of(seen)?
        .ok_or_else(|| Missing::not_looked("a quorum of etcd that does not list it"))?;
    let mark = facts::member_mark(paths)?;
    let by_mark = mark.map(|mark| mark.member);
    let listed = |id: &MemberId| quorum.members.contains_key(id);
    let member = quorum
        .by_peer_url(&node.peer_url())
        .map(|(id, _)| id)
        .or_else(|| by_mark.filter(listed));
    match member {
        None => Ok(()),
        Some(id) => Err(ActionError::unexpected(
            format!("{} to be no member of etcd before it is reset", node.name),
            format!("it is member {id}"),
            "remove the member first: `quorate remove` and `quorate replace` do it in that order",
        )),
    }
}

/// Made before anything is moved.
fn note(work: &Work<'_>) -> Result<Note, ActionError> {
    let path = work.paths.state(NOTE);
    if let Some(note) = durable::read_json(&path)? {
        return Ok(note);
    }
    let manifests = work.seen.host(work.node)?.manifests.get()?;
    let data = flag_of(manifests, "etcd", "data-dir").unwrap_or(facts::ETCD_DATA);
    let note = Note {
        data: data.to_owned(),
        aside: utc::stamp(utc::now()),
    };
    durable::write_json(&path, &note)?;
    Ok(note)
}

fn take(work: &Work<'_>, aside: &Aside<'_>, absolute: &str) -> Result<(), FileError> {
    if let Some(place) = aside.take(absolute)? {
        work.progress
            .say(format!("{absolute} lies in {}", place.display()));
    }
    Ok(())
}

async fn kubelet_ends(work: &Work<'_>) -> Result<(), ActionError> {
    if work
        .seen
        .host(work.node)?
        .units
        .get()?
        .contains_key("kubelet")
    {
        let stop = ["disable", "--now", "kubelet.service"];
        work.tools
            .run(Command::new("systemctl", TOOL_WITHIN).args(stop))
            .await?;
    }
    Ok(())
}

/// kubeadm asks the container runtime to end every pod with its network, takes away the kubelet's mounts, and only warns of what it could
/// not do: so it is looked at, and asked again.
async fn containers_end(work: &Work<'_>) -> Result<(), ActionError> {
    let units = work.seen.host(work.node)?.units.get()?;
    if !units.contains_key("containerd") || !facts::installed(work.paths, "ctr") {
        return Ok(());
    }
    // Where it does not run containers may run on.
    let start = ["start", "containerd.service"];
    work.tools
        .run(Command::new("systemctl", TOOL_WITHIN).args(start))
        .await?;
    work.wait("every container of Kubernetes to end", || async {
        let done = async {
            let reset = Command::new("kubeadm", TOOL_WITHIN)
                .args(["reset", "phase", "cleanup-node", "--cri-socket"])
                .arg(format!("unix://{CONTAINERD}"));
            work.tools.run(reset).await?;
            containers::running(work.tools).await
        };
        match done.await {
            Ok(none) if none.is_empty() => Ok(()),
            Ok(some) => Err(format!("{} still run", some.len())),
            Err(err) => Err(shown::chain(&err)),
        }
    })
    .await
}

async fn links_end(work: &Work<'_>) -> Result<(), ActionError> {
    for link in links(work.paths) {
        let delete = ["link", "delete", link];
        work.tools
            .run(Command::new("ip", TOOL_WITHIN).args(delete))
            .await?;
    }
    Ok(())
}

fn links(paths: &Paths) -> impl Iterator<Item = &'static str> {
    let there = |link: &&str| paths.at(format!("/sys/class/net/{link}")).exists();
    LINKS.into_iter().filter(there)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use quorate_plan::{
        Seen,
        observation::{EtcdView, Member},
    };

    use super::*;
    use crate::testing;

    fn peer() -> Peer {
        Peer {
            name: "cp-3".parse().unwrap(),
            address: [10, 0, 0, 3].into(),
        }
    }

    /// What a witness on another host tells: these members, by their peer address.
    fn seen(members: &[(u64, &str)]) -> Observation {
        let member = |url: &str| Member {
            name: "x".into(),
            peer_urls: [url.to_owned()].into(),
            client_urls: [].into(),
            learner: false,
        };
        let view = EtcdView {
            cluster_id: "1".into(),
            member: MemberId(1),
            version: "3.6.16".into(),
            leader: Some(MemberId(1)),
            raft_term: 1,
            raft_index: 1,
            raft_applied: 1,
            db_bytes: 0,
            db_in_use_bytes: 0,
            db_quota_bytes: 0,
            fsync_p99_ms: Seen::now(1),
            active_peers: Seen::now([].into()),
            linearizable: true,
            members: members
                .iter()
                .map(|(id, url)| (MemberId(*id), member(url)))
                .collect::<BTreeMap<_, _>>(),
            alarms: [].into(),
            errors: [].into(),
        };
        Observation {
            etcd: [("cp-1".parse().unwrap(), Seen::now(Some(view)))].into(),
            ..Observation::default()
        }
    }

    #[test]
    fn a_member_is_not_reset() {
        let machine = testing::machine();
        let one = (1, "https://10.0.0.1:2380");
        let judge = |members: &[(u64, &str)]| not_a_member(&seen(members), &machine.paths, &peer());
        judge(&[one]).unwrap();
        let err = judge(&[one, (3, "https://10.0.0.3:2380")]).unwrap_err();
        assert!(err.to_string().contains("it is member"), "{err}");
        // With another address than the file gives it, and still the member that its marker names.
        machine.write(
            "/var/lib/quorate/etcd-member.json",
            r#"{"clusterId":"1","member":"3"}"#,
        );
        judge(&[one]).unwrap();
        assert!(judge(&[one, (3, "https://192.0.2.3:2380")]).is_err());
        // Nobody tells: nobody knows.
        let nobody = Observation {
            etcd: [(
                "cp-1".parse().unwrap(),
                Seen::Unknown(quorate_plan::Missing::not_looked("etcd")),
            )]
            .into(),
            ..Observation::default()
        };
        let unknown = not_a_member(&nobody, &machine.paths, &peer());
        assert!(matches!(unknown, Err(ActionError::Refused(_))));
        // Nor does anybody where etcd is stopped here and no other was looked at.
        let stopped = Observation {
            etcd: [("cp-3".parse().unwrap(), Seen::now(None))].into(),
            ..Observation::default()
        };
        let unknown = not_a_member(&stopped, &machine.paths, &peer());
        assert!(matches!(unknown, Err(ActionError::Refused(_))));
    }

    #[test]
    fn links_that_are_there() {
        let machine = testing::machine();
        assert_eq!(links(&machine.paths).count(), 0);
        std::fs::create_dir_all(machine.paths.at("/sys/class/net/cni0")).unwrap();
        std::fs::create_dir_all(machine.paths.at("/sys/class/net/host0")).unwrap();
        assert_eq!(links(&machine.paths).collect::<Vec<_>>(), ["cni0"]);
    }
}
