//! A conversion is taken back: everything leads again to where it did when it was kept. Planned forward, from what lies on the hosts. Start at
//! [`plan`].
//!
//! Whatever was installed for the new masters and the balancer stays: nothing of the cluster uses it any more. An address that masters share is
//! given up.

use super::{
    Draft,
    convert::{Foreign, lead_proxies},
    preflight,
};
use crate::{
    Intent, Observation, Planning, Refusal,
    quorum::Quorum,
    seen::Missing,
    standing::literal,
    step::{HostEnsure, Reason},
};

pub(super) fn plan(intent: &Intent, seen: &Observation) -> Planning {
    let mut draft = Draft {
        refused: preflight::held(intent, seen),
        ..Draft::default()
    };
    if draft.refused.is_empty()
        && let Err(refusal) = draft_way_back(intent, seen, &mut draft)
    {
        draft.refuse(refusal);
    }
    draft.finish()
}

fn draft_way_back(intent: &Intent, seen: &Observation, draft: &mut Draft) -> Result<(), Refusal> {
    one_master(seen)?;
    let foreign = Foreign::of(intent, seen)?;
    let first = foreign.original.name.clone();
    let back = |on: &_, ensure| vec![foreign.step(on, ensure, Reason::TakenBack)];
    let workers = foreign.workers()?;
    if let Some(kept) = foreign.kept()? {
        // The other way round than they came.
        let mut nodes = vec![(foreign.original.clone(), true)];
        nodes.extend(workers.iter().map(|worker| (worker.clone(), false)));
        for (node, master) in nodes.into_iter().rev() {
            let on = node.name.clone();
            let title = format!("Lead {on} back");
            let ensure = HostEnsure::KubeconfigsKept { node, master };
            draft.stage(seen, &title, None, back(&on, ensure));
        }
        if let Some(server) = &kept.proxy {
            lead_proxies(&foreign, draft, server, literal(server).as_ref())?;
        }
        if let Some(server) = &kept.cluster_info {
            let ensure = HostEnsure::ClusterInfo {
                server: server.clone(),
            };
            draft.stage(seen, "Lead joiners back", None, back(&first, ensure));
        }
        let node = foreign.original.clone();
        let ensure = HostEnsure::ConfigurationKept { node: node.clone() };
        let title = "Put kubeadm's configuration back";
        draft.stage(seen, title, None, back(&first, ensure));
        let ensure = HostEnsure::ServingCertificateKept { node };
        draft.stage(seen, "Put the certificate back", None, back(&first, ensure));
    }
    let aside = |on: &_| foreign.step(on, HostEnsure::BackupAside {}, Reason::TakenBack);
    let steps = workers.iter().map(|worker| aside(&worker.name)).collect();
    draft.stage(seen, "Move aside what was kept of the workers", None, steps);
    if foreign.intent.spec.shared_address().is_some() {
        let sharers = foreign.intent.spec.balancers().map(|(node, _)| node);
        let steps = sharers
            .filter(|node| seen.host(node).is_ok())
            .map(|node| foreign.step(node, HostEnsure::SharedAddressGone {}, Reason::TakenBack));
        draft.stage(seen, "Give up the shared address", None, steps.collect());
    }
    // The master's last: it is what the way back is known by.
    let title = "Move aside what was kept of the master";
    draft.stage(seen, title, None, vec![aside(&first)]);
    Ok(())
}

/// # Errors
/// [`Refusal::PastReturn`] when more masters vote, [`Refusal::LearnerPresent`] when one was about to.
fn one_master(seen: &Observation) -> Result<(), Refusal> {
    let quorum = Quorum::of(seen)?.ok_or_else(|| Missing::not_looked("a running etcd"))?;
    let voters = quorum.voter_count();
    if voters > 1 {
        return Err(Refusal::PastReturn { voters });
    }
    match quorum.members.iter().find(|(_, member)| member.learner) {
        Some((id, member)) => Err(Refusal::LearnerPresent {
            member: *id,
            peer_urls: member.peer_urls.clone(),
        }),
        None => Ok(()),
    }
}
