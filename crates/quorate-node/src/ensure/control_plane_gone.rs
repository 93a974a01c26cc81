//! Apiserver, controller manager and scheduler of this host have ended, because their manifests were moved aside. etcd goes on: it leaves
//! the cluster as a member, not as a process.

use quorate_plan::{Change, MemberId, change::Permit};

use super::{Work, unpermitted};
use crate::{aside::Aside, containers, error::ActionError, facts, shown};

/// In the order they go: the apiserver first, so that nothing new comes in while the others hand over what they lead.
const COMPONENTS: [(&str, u16); 3] = [
    ("kube-apiserver", 6443),
    ("kube-controller-manager", 10257),
    ("kube-scheduler", 10259),
];

pub(super) async fn ensure(
    work: &Work<'_>,
    permit: Permit,
    member: MemberId,
) -> Result<(), ActionError> {
    check_permit(&permit, member)?;
    let aside = Aside::new(work.paths);
    for (name, _) in COMPONENTS {
        let manifest = format!("/etc/kubernetes/manifests/{name}.yaml");
        if let Some(place) = aside.take(&manifest)? {
            work.progress
                .say(format!("{name}.yaml lies in {}", place.display()));
        }
    }
    if !kubelet_runs(work)? {
        // Nobody else would end them.
        for (name, _) in COMPONENTS {
            for id in containers::of(work.tools, name).await? {
                containers::end(work.tools, &id).await?;
            }
        }
    }
    work.wait("the control plane of this host to end", || async {
        let listening = facts::listening(work.paths).map_err(|err| shown::chain(&err))?;
        let left: Vec<&str> = COMPONENTS
            .into_iter()
            .filter(|(name, port)| {
                // The kernel keeps 15 bytes of a process's name.
                let is_it = |process: &String| name.starts_with(process.as_str());
                listening.get(port).is_some_and(is_it)
            })
            .map(|(name, _)| name)
            .collect();
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("still running: {}", left.join(", ")))
        }
    })
    .await
}

fn check_permit(permit: &Permit, member: MemberId) -> Result<(), ActionError> {
    match permit.change() {
        Change::RemoveMember { id, .. } if *id == member => Ok(()),
        Change::RemoveMember { .. }
        | Change::Found { .. }
        | Change::AddVoter { .. }
        | Change::Interrupt { .. } => Err(unpermitted("end this host's control plane")),
    }
}

fn kubelet_runs(work: &Work<'_>) -> Result<bool, ActionError> {
    let units = work.seen.host(work.node)?.units.get()?;
    Ok(units.get("kubelet").is_some_and(|unit| unit.active))
}
