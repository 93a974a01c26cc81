//! The kubeconfigs of this host lead to the endpoint, or to where they did when they were kept. Only the server is replaced: certificates,
//! mode and owner stay. A worker's kubelet begins anew; its pods do not notice.

use std::collections::{BTreeMap, BTreeSet};

use quorate_plan::{NodeName, kubeadm::Peer, observation::EndpointName, standing::to_leave};

use super::{ANSWER_WITHIN, TOOL_WITHIN, Work};
use crate::{
    clients, command::Command, error::ActionError, facts, paths::Paths, servers, shown, utc,
};

pub(super) async fn ensure(
    work: &Work<'_>,
    node: &Peer,
    endpoint: &EndpointName,
    old: &BTreeSet<String>,
    master: bool,
) -> Result<(), ActionError> {
    let server = format!("https://{endpoint}");
    lead(work.paths, node, &server, old, master)?;
    if master {
        return Ok(());
    }
    begin_anew(work, &node.name).await
}

fn lead(
    paths: &Paths,
    node: &Peer,
    server: &str,
    old: &BTreeSet<String>,
    master: bool,
) -> Result<(), ActionError> {
    let own = master.then_some(node);
    for (path, there) in facts::kubeconfigs(paths)? {
        let leave = to_leave(&path, &there, old, own);
        servers::lead(&paths.at(&path), |now| {
            let leaves = leave.iter().any(|old| *old == now);
            leaves.then(|| server.to_owned())
        })?;
    }
    Ok(())
}

/// Every kubeconfig leads where it did. Its other parts may have been renewed meanwhile and are left as they are.
pub(super) async fn keep(work: &Work<'_>, node: &Peer, master: bool) -> Result<(), ActionError> {
    let Some(backup) = facts::backup(work.paths)? else {
        return Ok(());
    };
    lead_back(work.paths, &backup.kubeconfigs)?;
    if master {
        return Ok(());
    }
    begin_anew(work, &node.name).await
}

fn lead_back(paths: &Paths, kept: &BTreeMap<String, BTreeSet<String>>) -> Result<(), ActionError> {
    let now = facts::kubeconfigs(paths)?;
    for (path, was) in kept {
        let Some(is) = now.get(path).filter(|is| *is != was) else {
            continue;
        };
        let (new, old): (Vec<_>, Vec<_>) =
            (is.difference(was).collect(), was.difference(is).collect());
        let ([_, ..], [old]) = (&new[..], &old[..]) else {
            return Err(ActionError::unexpected(
                format!("one server of {path} to put back"),
                format!("{} are gone from it", old.len()),
                "put it back by hand from what was kept in /var/lib/quorate/conversion/files",
            ));
        };
        servers::lead(&paths.at(path), |server| {
            let is_new = new.iter().any(|new| *new == server);
            is_new.then(|| (*old).clone())
        })?;
    }
    Ok(())
}

/// The kubelet reads its kubeconfig when it starts. It has arrived when it has renewed its node's lease since.
async fn begin_anew(work: &Work<'_>, node: &NodeName) -> Result<(), ActionError> {
    work.progress.say("restarting the kubelet");
    let began = utc::now_ms();
    let restart = ["restart", "kubelet.service"];
    work.tools
        .run(Command::new("systemctl", TOOL_WITHIN).args(restart))
        .await?;
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node}");
    work.wait("the kubelet to renew its node's lease", || async {
        let renewed = async {
            let client = clients::through_endpoint(work.paths, work.tools, "kubelet.conf").await?;
            let lease = client
                .get(&path, ANSWER_WITHIN)
                .await
                .map_err(ActionError::kube("reading the node's lease"))?;
            Ok::<_, ActionError>(lease["spec"]["renewTime"].as_str().and_then(utc::parse_ms))
        };
        match renewed.await {
            // By this host's own clock, which is the one that wrote it.
            Ok(Some(at)) if at >= began => Ok(()),
            Ok(Some(_)) => Err("it was renewed before the kubelet began anew".into()),
            Ok(None) => Err("there is none".into()),
            Err(err) => Err(shown::line(&shown::chain(&err))),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    const OLD: &str = "https://10.0.0.11:6443";
    const NEW: &str = "https://api.demo.internal:6443";

    fn conf(server: &str) -> String {
        format!("clusters:\n- name: a\n  cluster:\n    server: {server}\nusers: null\n")
    }

    #[test]
    fn a_masters_components_stay_with_their_own_apiserver() {
        let machine = testing::machine();
        let files = [
            "admin",
            "super-admin",
            "kubelet",
            "controller-manager",
            "scheduler",
        ];
        for name in files {
            machine.write(&format!("/etc/kubernetes/{name}.conf"), conf(OLD));
        }
        machine.write("/root/.kube/config", conf(OLD));
        let node = Peer {
            name: "cp-1".parse().unwrap(),
            address: "10.0.0.11".parse().unwrap(),
        };
        let kept = facts::kubeconfigs(&machine.paths).unwrap();
        let old = [OLD.to_owned()].into();
        let there = || {
            let found = facts::kubeconfigs(&machine.paths).unwrap().into_iter();
            let new = found.filter(|(_, servers)| servers.contains(NEW));
            new.map(|(path, _)| path).collect::<Vec<_>>()
        };
        for _ in 0..2 {
            lead(&machine.paths, &node, NEW, &old, true).unwrap();
            assert_eq!(
                there(),
                [
                    "/etc/kubernetes/admin.conf",
                    "/etc/kubernetes/super-admin.conf",
                    "/root/.kube/config"
                ]
            );
        }
        for _ in 0..2 {
            lead_back(&machine.paths, &kept).unwrap();
            assert_eq!(facts::kubeconfigs(&machine.paths).unwrap(), kept);
        }
    }

    #[test]
    fn a_worker_leaves_with_all_it_has_and_others_clusters_are_left_alone() {
        let machine = testing::machine();
        let node = Peer {
            name: "w-1".parse().unwrap(),
            address: "10.0.0.101".parse().unwrap(),
        };
        machine.write("/etc/kubernetes/kubelet.conf", conf(OLD));
        machine.write("/root/.kube/config", conf("https://other.example:6443"));
        lead(&machine.paths, &node, NEW, &[OLD.to_owned()].into(), false).unwrap();
        assert_eq!(machine.read("/etc/kubernetes/kubelet.conf"), conf(NEW));
        assert_eq!(
            machine.read("/root/.kube/config"),
            conf("https://other.example:6443")
        );
    }

    #[test]
    fn what_cannot_be_told_apart_is_left_to_people() {
        let machine = testing::machine();
        machine.write("/etc/kubernetes/admin.conf", conf(NEW));
        let two = [OLD, "https://b:6443"].map(str::to_owned).into();
        let kept = [("/etc/kubernetes/admin.conf".to_owned(), two)].into();
        assert!(lead_back(&machine.paths, &kept).is_err());
        assert_eq!(machine.read("/etc/kubernetes/admin.conf"), conf(NEW));
    }
}
