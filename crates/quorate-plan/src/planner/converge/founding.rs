//! Founding all masters, or the first: its stages, and what becomes of one that was interrupted. Start at [`Begun::of`].
//!
//! A founder that still has what it began with goes on with it: static members wait for each other. One whose disk is gone does not, since it
//! may have voted: with a majority of the others it is removed and joins like anybody else. Without one nothing was served yet, if nobody
//! carries a member's marker yet: then what is left is moved aside and the founding begins again, once.

use std::collections::BTreeSet;

use super::Convergence;
use crate::{
    NodeName, Observation, Refusal,
    change::Change,
    guard::{permit, restartable},
    kubeadm::Peer,
    observation::Founding,
    planner::{Draft, leaving::Leaver},
    quorum::{Quorum, needed},
    seen::Missing,
    step::{Handover, HostEnsure, Reason, Step},
};

/// A founding, and how far its founders can go on with it.
#[derive(Debug, Default)]
pub(super) struct Begun {
    /// The founding. `None`: there is a cluster, or none is to be founded.
    pub(super) founding: Option<Founding>,
    /// Founders that were made anew after others had begun to write.
    pub(super) late: BTreeSet<NodeName>,
    /// Those of them that carry nothing: what etcd lists of them never was, or is gone.
    pub(super) blank: BTreeSet<NodeName>,
    /// Founders whose data is moved aside, so that it begins again.
    pub(super) again: BTreeSet<NodeName>,
}

impl Begun {
    /// Judges the founding that is in progress, or is to begin.
    ///
    /// # Errors
    /// [`Refusal::FoundingFailed`] when it began again before; [`Missing`] when a founder was not seen.
    pub(super) fn of(seen: &Observation, founding: Option<Founding>) -> Result<Self, Refusal> {
        let Some(mut founding) = founding else {
            return Ok(Self::default());
        };
        let mut noted = BTreeSet::new();
        let mut with_data = BTreeSet::new();
        for node in &founding.nodes {
            let facts = seen.host(node)?;
            if facts.founding.get()?.is_some() {
                noted.insert(node.clone());
            }
            if facts.etcd_data.get()?.wal {
                with_data.insert(node.clone());
            }
        }
        let late: BTreeSet<NodeName> = if noted.is_disjoint(&with_data) {
            // Nobody wrote anything: whoever has no note yet gets it.
            BTreeSet::new()
        } else {
            founding.nodes.difference(&noted).cloned().collect()
        };
        let decides = match Quorum::of(seen) {
            Ok(quorum) => quorum.is_some(),
            Err(_) => false,
        };
        if decides || noted.len() >= needed(founding.nodes.len()) || late.is_empty() {
            return Ok(Self {
                founding: Some(founding),
                blank: late.difference(&with_data).cloned().collect(),
                late,
                again: BTreeSet::new(),
            });
        }
        restartable(seen, &founding.nodes)?;
        // Whoever has data was not begun again before; another, which was just moved aside, may tell of it already.
        founding.restarts = Founding::RESTARTS_MAX;
        Ok(Self {
            founding: Some(founding),
            again: noted,
            ..Self::default()
        })
    }
}

impl Convergence<'_> {
    /// Founds on these founders: all, but for those that are late.
    pub(super) fn found(
        &self,
        draft: &mut Draft,
        founding: &Founding,
        founders: &BTreeSet<NodeName>,
    ) -> Result<(), Refusal> {
        let stages_before = draft.planning_stages.len();
        let founds = Change::Found {
            nodes: founding.nodes.clone(),
        };
        let change = Some(founds.clone());
        let first = founders
            .first()
            .ok_or_else(|| Missing::not_looked("a founder"))?;
        let aside = self.again.iter().map(|node| {
            let founding = founding.clone();
            let aside = HostEnsure::FoundingAside { founding };
            self.host(node, aside, Reason::FoundsAgain)
        });
        draft.stage(
            self.seen,
            "Move what the founding left aside",
            change.clone(),
            aside.collect(),
        );
        draft.unmade.extend(self.again.iter().cloned());
        let authority = |of| HostEnsure::Authority {
            founding: Some(founding.clone()),
            of,
        };
        let made = vec![self.host(first, authority(None), Reason::Founds)];
        draft.stage(
            self.seen,
            "Make the certificate authorities",
            change.clone(),
            made,
        );
        let handed = founders.iter().skip(1).map(|node| Step {
            handover: Some(Handover::CaSet {
                from: first.clone(),
            }),
            ..self.host(node, authority(Some(first.clone())), Reason::Founds)
        });
        draft.stage(
            self.seen,
            "Hand the certificate authorities over",
            change.clone(),
            handed.collect(),
        );

        let members: BTreeSet<Peer> = founding.nodes.iter().map(|node| self.peer(node)).collect();
        let mut steps = Vec::new();
        for peer in members.iter().filter(|peer| founders.contains(&peer.name)) {
            let (settings, node) = (self.settings.clone(), peer.clone());
            // The kubelet comes last: it finds all manifests at its first look.
            for ensure in [
                HostEnsure::Certificates {
                    settings: settings.clone(),
                    node: node.clone(),
                },
                HostEnsure::ControlPlane {
                    settings: settings.clone(),
                    node: node.clone(),
                },
                HostEnsure::EtcdMember {
                    settings: settings.clone(),
                    node: node.clone(),
                    founders: members.clone(),
                },
                HostEnsure::Kubelet {
                    settings,
                    node: node.clone(),
                },
                HostEnsure::Serving { node },
            ] {
                steps.push(self.host(&peer.name, ensure, Reason::Founds));
            }
        }
        draft.stage(self.seen, "Found the control plane", change, steps);
        // Judged before the first host is prepared for it: a host that is not blank is no founder, and that is known now.
        if draft.planning_stages.len() > stages_before {
            let _permitted = permit(self.seen, &founds, &self.intent.accepted)?;
        }
        Ok(())
    }

    /// A founder that was made anew: what etcd lists of it goes, and it joins.
    pub(super) fn join_late(
        &self,
        draft: &mut Draft,
        first: &NodeName,
        node: &NodeName,
    ) -> Result<(), Refusal> {
        let Ok(quorum) = self.quorum() else {
            draft.wait(
                node,
                format!("{node} was made anew: it joins when the others have founded"),
            );
            return Ok(());
        };
        if !self.voters.contains(node) {
            let joiner = std::slice::from_ref(node);
            self.rehearse(draft, joiner)?;
            self.issue(draft, first, joiner);
        }
        let listed = quorum.by_peer_url(&self.peer(node).peer_url());
        if let Some((id, member)) = listed
            && !member.learner
            && !self.voters.contains(node)
        {
            // What is listed of it never came to vote, or is gone: that its host answers makes no difference.
            let leaver = Leaver::never_started(node, self.peer(node).address, id, member);
            self.remove(draft, first, &leaver, quorum.voter_count(), Some(node), []);
            self.clear_places(draft, first, &leaver);
            draft.unmade.insert(node.clone());
        }
        let disk = self.etcd_volume(node).into_iter().collect();
        draft.stage(
            self.seen,
            &format!("Prepare the disk of {node}"),
            None,
            disk,
        );
        self.join(draft, first, node, &BTreeSet::new())
    }

    /// The empty-data guard: from then on no master comes back as a voter that forgot what it had confirmed, and no founding begins again. It ends
    /// with that, unless somebody is late, who is known for that by the founding.
    pub(super) fn guard(&self, draft: &mut Draft, nodes: &BTreeSet<NodeName>) {
        let mut steps: Vec<Step> = nodes
            .iter()
            .map(|node| self.host(node, HostEnsure::Guarded {}, Reason::Protects))
            .collect();
        if self.late.is_empty() {
            steps.extend(self.founding_over(nodes));
        }
        draft.stage(self.seen, "Guard the masters", None, steps);
    }

    pub(super) fn founding_over(&self, nodes: &BTreeSet<NodeName>) -> Vec<Step> {
        let over = |node| self.host(node, HostEnsure::FoundingOver {}, Reason::Protects);
        nodes.iter().map(over).collect()
    }
}
