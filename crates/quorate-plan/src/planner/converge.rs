//! The cluster equals its file: bring-up, and whatever is missing from it later.

mod endpoint;
mod founding;
mod hosts;
mod sharing;
pub(super) mod situation;
mod target;

use std::collections::BTreeSet;

use super::{Draft, preflight};
use crate::{
    Intent, NodeName, Observation, Planning, Refusal, Spec,
    change::Change,
    kubeadm::{ClusterSettings, Peer},
    observation::{Founding, Power},
    plan::Waiting,
    quorum::Quorum,
    seen::{Missing, Seen},
    spec::Cni,
    step::{Ensure, Handover, HostEnsure, InfraEnsure, Network, Place, Reason, Step},
};

pub(super) fn plan(intent: &Intent, seen: &Observation) -> Planning {
    // What a held machine carries cannot be seen, and it may go on at any moment with what it was about: nothing is begun beside it.
    let mut draft = Draft {
        refused: preflight::held(intent, seen),
        ..Draft::default()
    };
    if !draft.refused.is_empty() {
        return draft.finish();
    }
    if let Some(planning) = stopped_machines(intent, seen) {
        return planning;
    }
    for refusal in preflight::refusals(intent, seen) {
        draft.refuse(refusal);
    }
    if intent.bundle.kubernetes != intent.spec.kubernetes {
        draft.refuse(Refusal::BundleVersion {
            bundle: intent.bundle.kubernetes.clone(),
            wanted: intent.spec.kubernetes.clone(),
        });
    }
    if let Err(refusal) =
        Convergence::of(intent, seen).and_then(|convergence| convergence.draft(&mut draft))
    {
        draft.refuse(refusal);
    }
    // Hosts are prepared side by side and masters depend on each other: with one of them unfit or unseen nothing is begun at all.
    draft.finish()
}

/// Machines that exist and do not run are started before anything else is said: what they carry cannot be seen.
pub(super) fn stopped_machines(intent: &Intent, seen: &Observation) -> Option<Planning> {
    let off = |node: &NodeName| match seen.infra.get(node) {
        Some(Seen::Known { value, .. }) => value.power == Power::Off,
        Some(Seen::Unknown(_)) | None => false,
    };
    let stopped: Vec<_> = intent
        .spec
        .machines()
        .filter(|(node, ..)| off(node))
        .collect();
    if stopped.is_empty() {
        return None;
    }
    let mut draft = Draft::default();
    let mut waiting = Vec::new();
    let mut steps = Vec::new();
    for (node, machine, _) in stopped {
        steps.push(Step {
            on: Place::Operator,
            ensure: Ensure::Infra(InfraEnsure::Machine {
                node: node.clone(),
                address: machine.address,
            }),
            handover: None,
            because: Reason::Wanted,
        });
        let what = format!("{node} to run: what else it needs can be seen then");
        waiting.push(Waiting {
            on: Place::Host(node.clone()),
            what,
        });
    }
    draft.stage(seen, "Start the machines", None, steps);
    let mut planning = draft.finish();
    planning.waiting = waiting;
    Some(planning)
}

/// What the plan is made of.
pub(super) struct Convergence<'a> {
    pub(super) intent: &'a Intent,
    pub(super) spec: &'a Spec,
    pub(super) seen: &'a Observation,
    pub(super) settings: ClusterSettings,
    /// Founders of a new cluster, or of one whose founding is not over.
    pub(super) founding: Option<Founding>,
    /// Founders that were made anew before it was over: they are removed and join like anybody else.
    late: BTreeSet<NodeName>,
    /// Founders whose data is moved aside, so that it begins again.
    again: BTreeSet<NodeName>,
    /// Control plane hosts that are voters by now.
    pub(super) voters: BTreeSet<NodeName>,
    /// The hosts that are made and prepared. `None`: all of the file's.
    pub(super) only: Option<BTreeSet<NodeName>>,
    /// Why a healthy member leaves.
    pub(super) leaves: Reason,
}

impl<'a> Convergence<'a> {
    fn of(intent: &'a Intent, seen: &'a Observation) -> Result<Self, Refusal> {
        let spec = &intent.spec;
        let kind = situation::machine_kind(spec, seen)?;
        let settings = situation::settings(intent, kind, situation::adopted(spec, seen)?);
        let founding = situation::founding(intent, seen)?;
        let mut voters = situation::voters(spec, seen, founding.as_ref())?;
        situation::unchanged(spec, seen)?;
        let begun = founding::Begun::of(seen, founding)?;
        voters.retain(|node| !begun.blank.contains(node));
        if settings.adopted.is_some() && voters.len() == 1 && spec.control_plane.len() > 1 {
            // Whoever is still led to the one master would be left behind by masters that join now.
            return Err(Refusal::Unchangeable {
                what: "the number of masters".into(),
                is: "1, in a conversion that was begun".into(),
                wanted: format!(
                    "{}: `quorate convert` goes on with it",
                    spec.control_plane.len()
                ),
            });
        }
        Ok(Self {
            intent,
            spec,
            seen,
            settings,
            founding: begun.founding,
            late: begun.late,
            again: begun.again,
            voters,
            only: None,
            leaves: Reason::Unwanted,
        })
    }

    /// For a cluster that runs, of which only some hosts are to be touched.
    pub(super) fn of_running(
        intent: &'a Intent,
        seen: &'a Observation,
        only: BTreeSet<NodeName>,
        leaves: Reason,
    ) -> Result<Self, Refusal> {
        let spec = &intent.spec;
        situation::unchanged(spec, seen)?;
        Ok(Self {
            intent,
            spec,
            seen,
            settings: situation::settings(
                intent,
                situation::machine_kind(spec, seen)?,
                situation::adopted(spec, seen)?,
            ),
            founding: None,
            late: BTreeSet::new(),
            again: BTreeSet::new(),
            voters: situation::voters(spec, seen, None)?,
            only: Some(only),
            leaves,
        })
    }

    /// For a cluster that somebody else made, with settings that follow from how it was made.
    pub(super) fn of_foreign(
        intent: &'a Intent,
        seen: &'a Observation,
        settings: ClusterSettings,
        voters: BTreeSet<NodeName>,
    ) -> Self {
        Self {
            intent,
            spec: &intent.spec,
            seen,
            settings,
            founding: None,
            late: BTreeSet::new(),
            again: BTreeSet::new(),
            voters,
            only: None,
            leaves: Reason::Unwanted,
        }
    }

    /// Whether that host is made and prepared.
    fn meant(&self, node: &NodeName) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(node))
    }

    fn draft(&self, draft: &mut Draft) -> Result<(), Refusal> {
        self.machines(draft);
        self.hosts(draft);
        let established = match &self.founding {
            Some(founding) => {
                self.targets_told(draft);
                let founders = founding.nodes.difference(&self.late).cloned().collect();
                self.found(draft, founding, &founders)?;
                founders
            }
            None => {
                self.none_emptied(&self.voters)?;
                situation::established(self.seen, &self.voters)?
            }
        };
        let first = established
            .first()
            .cloned()
            .ok_or_else(|| Missing::not_looked("a control plane host"))?;
        situation::one_authority(
            self.seen,
            &first,
            self.spec.control_plane.keys(),
            self.spec.workers.keys(),
        )?;
        if self.founding.is_none() {
            self.serving(draft, &established);
        }
        // Before anybody is led there.
        self.guard(draft, &established);
        self.backends(draft, &first, &established);
        self.share(draft, &established);
        self.cluster(draft, &first, &established);
        let joiners: Vec<NodeName> = self
            .spec
            .control_plane
            .keys()
            .filter(|node| !established.contains(*node) && !self.late.contains(*node))
            .cloned()
            .collect();
        let leavers = match &self.founding {
            Some(_) => Vec::new(),
            None => self.strangers(draft)?,
        };
        if draft.unsettled {
            return Ok(());
        }
        self.exchange(draft, &first, joiners, leavers)?;
        for node in &self.late {
            self.join_late(draft, &first, node)?;
        }
        if !self.late.is_empty() {
            let steps = self.founding_over(&established);
            draft.stage(self.seen, "End the founding", None, steps);
        }
        self.workers(draft, &first);
        Ok(())
    }

    pub(super) fn host(&self, node: &NodeName, ensure: HostEnsure, because: Reason) -> Step {
        Step::on_host(node, ensure, because)
    }

    pub(super) fn peer(&self, node: &NodeName) -> Peer {
        self.spec
            .peer(node)
            .expect("the planner asks for machines of the spec")
    }

    pub(super) fn machines(&self, draft: &mut Draft) {
        if !self.spec.local() {
            return;
        }
        let machines = self.spec.machines().filter(|(node, ..)| self.meant(node));
        let steps = machines.map(|(node, machine, _)| Step {
            on: Place::Operator,
            ensure: Ensure::Infra(InfraEnsure::Machine {
                node: node.clone(),
                address: machine.address,
            }),
            handover: None,
            because: Reason::Wanted,
        });
        draft.stage(self.seen, "Make the machines", None, steps.collect());
    }

    /// Before traffic is sent to an apiserver that stopped serving, it serves again.
    pub(super) fn serving(&self, draft: &mut Draft, nodes: &BTreeSet<NodeName>) {
        let steps = nodes.iter().map(|node| {
            let node = self.peer(node);
            self.host(
                &node.name.clone(),
                HostEnsure::Serving { node },
                Reason::Ready,
            )
        });
        draft.stage(self.seen, "Wait for the masters", None, steps.collect());
    }

    pub(super) fn backends(&self, draft: &mut Draft, first: &NodeName, nodes: &BTreeSet<NodeName>) {
        let mut steps = Vec::new();
        for balancer in self.balancers() {
            let backends = nodes
                .iter()
                .map(|node| self.backend(balancer, first, node))
                .filter(|step| !draft.plans(step));
            steps.extend(backends);
        }
        for node in nodes {
            let target = |node, instance| InfraEnsure::Target { node, instance };
            steps.extend(self.target(node, target, Reason::Ready));
        }
        draft.stage(self.seen, "Send traffic to ready apiservers", None, steps);
    }

    fn backend(&self, balancer: &NodeName, first: &NodeName, node: &NodeName) -> Step {
        let backend = self.peer(node);
        let address = Spec::apiserver(&self.spec.control_plane[node]);
        // A master that balances has the cluster's CA itself.
        let handover = (balancer != first).then(|| Handover::ClusterCa {
            from: first.clone(),
        });
        Step {
            handover,
            ..self.host(
                balancer,
                HostEnsure::Backend { backend, address },
                Reason::Ready,
            )
        }
    }

    /// The balancer of a master that joined leads to all who serve.
    fn own_backends(&self, draft: &mut Draft, first: &NodeName, node: &NodeName) {
        // Where all hosts are gone through, every balancer has every backend by now.
        if self.spec.shared_address().is_none() || self.leaves != Reason::Replaced {
            return;
        }
        let serves = |other: &&NodeName| {
            let view = self.seen.api_at(other);
            *other != node && matches!(view, Ok(Some(view)) if view.readyz.ready)
        };
        let others = self.voters.iter().filter(serves);
        let steps = others
            .map(|other| self.backend(node, first, other))
            .filter(|step| !draft.plans(step));
        let steps = steps.collect();
        let title = format!("Let {node} balance");
        draft.stage(self.seen, &title, None, steps);
    }

    fn cluster(&self, draft: &mut Draft, first: &NodeName, nodes: &BTreeSet<NodeName>) {
        let settings = || self.settings.clone();
        let config = HostEnsure::ClusterConfig {
            settings: settings(),
            node: self.peer(first),
        };
        let steps = vec![self.host(first, config, Reason::ClusterLacks)];
        draft.stage(self.seen, "Give the cluster its configuration", None, steps);

        let registered = nodes.iter().map(|node| {
            let registered = HostEnsure::Registered {
                settings: settings(),
                node: self.peer(node),
            };
            self.host(node, registered, Reason::ClusterLacks)
        });
        draft.stage(
            self.seen,
            "Register the masters",
            None,
            registered.collect(),
        );

        let network = match &self.spec.network.cni {
            Cni::Flannel => Some(Network::Flannel {
                pods: self.spec.network.pods.clone(),
                image: self
                    .intent
                    .bundle
                    .images
                    .get("flannel")
                    .cloned()
                    .unwrap_or_default(),
            }),
            Cni::Manifest { text, .. } => Some(Network::Manifest {
                digest: crate::step::digest(text),
                text: text.clone(),
            }),
            Cni::None => None,
        };
        let title = if network.is_some() {
            "Start the pod network"
        } else {
            "Start the cluster's DNS"
        };
        let dns = HostEnsure::ClusterDns {
            settings: settings(),
            node: self.peer(first),
        };
        let steps = network
            .map(|network| HostEnsure::Network { network })
            .into_iter()
            .chain([dns])
            .map(|ensure| self.host(first, ensure, Reason::ClusterLacks))
            .collect::<Vec<_>>();
        self.endpoint_leads(draft, &steps);
        draft.stage(self.seen, title, None, steps);
    }

    /// One more master. Its stages follow each other: nothing else changes membership in between. `leavers` share the endpoint's address, and go
    /// after it came.
    pub(super) fn join(
        &self,
        draft: &mut Draft,
        first: &NodeName,
        node: &NodeName,
        leavers: &BTreeSet<Peer>,
    ) -> Result<(), Refusal> {
        let joiner = self.peer(node);
        let mut steps = Vec::new();
        // Once it votes, all that led there was done; what is left is to serve.
        if self.voters.contains(node) {
            steps.push(self.control_plane(node));
        } else {
            self.become_voter(draft, first, node)?;
        }
        steps.extend([
            self.host(
                node,
                HostEnsure::Serving {
                    node: joiner.clone(),
                },
                Reason::Joins,
            ),
            self.host(
                node,
                HostEnsure::Registered {
                    settings: self.settings.clone(),
                    node: joiner,
                },
                Reason::Joins,
            ),
            self.host(node, HostEnsure::Guarded {}, Reason::Protects),
        ]);
        let title = format!("Join {node}: serve");
        draft.stage(self.seen, &title, None, steps);
        self.backends(draft, first, &[node.clone()].into());
        self.own_backends(draft, first, node);
        self.share_as_well(draft, node, leavers);
        Ok(())
    }

    /// What the kubelet of a joiner is to run beside etcd.
    fn control_plane(&self, node: &NodeName) -> Step {
        let ensure = HostEnsure::ControlPlane {
            settings: self.settings.clone(),
            node: self.peer(node),
        };
        self.host(node, ensure, Reason::Joins)
    }

    fn become_voter(
        &self,
        draft: &mut Draft,
        first: &NodeName,
        node: &NodeName,
    ) -> Result<(), Refusal> {
        let joiner = self.peer(node);
        let member = Quorum::of(self.seen).ok().flatten();
        let is_member = member
            .as_ref()
            .is_some_and(|quorum| quorum.by_peer_url(&joiner.peer_url()).is_some());
        // What an earlier stage takes away is no obstacle.
        if !draft.unmade.contains(node) && !is_member && self.seen.host(node)?.etcd_data.get()?.wal
        {
            return Err(Refusal::NotBlank {
                node: node.clone(),
                found: "etcd data of a cluster it is not a member of".into(),
            });
        }
        let settings = || self.settings.clone();
        let change = Some(Change::AddVoter { node: node.clone() });
        let titled = |what: &str| format!("Join {node}: {what}");

        let learner = self.host(
            first,
            HostEnsure::Learner {
                joiner: joiner.clone(),
            },
            Reason::Joins,
        );
        draft.stage(
            self.seen,
            &titled("add a learner"),
            change.clone(),
            vec![learner],
        );

        let etcd = HostEnsure::EtcdMember {
            settings: settings(),
            node: joiner.clone(),
            founders: BTreeSet::new(),
        };
        let kubelet = HostEnsure::Kubelet {
            settings: settings(),
            node: joiner.clone(),
        };
        // As kubeadm does it, the apiserver starts beside the learner and becomes ready when that votes: a learner answers no apiserver.
        let steps = vec![
            self.control_plane(node),
            self.host(node, etcd, Reason::Joins),
            self.host(node, kubelet, Reason::Joins),
        ];
        draft.stage(self.seen, &titled("start etcd"), change.clone(), steps);

        let voter = self.host(
            first,
            HostEnsure::Voter {
                joiner: joiner.clone(),
            },
            Reason::Joins,
        );
        draft.stage(self.seen, &titled("promote it"), change, vec![voter]);
        Ok(())
    }

    fn workers(&self, draft: &mut Draft, first: &NodeName) {
        let steps: Vec<Step> = self
            .spec
            .workers
            .keys()
            .map(|node| {
                let worker = HostEnsure::Worker {
                    settings: self.settings.clone(),
                    node: self.peer(node),
                };
                Step {
                    handover: Some(Handover::JoinToken {
                        from: first.clone(),
                    }),
                    ..self.host(node, worker, Reason::WorkerWanted)
                }
            })
            .collect();
        self.endpoint_leads(draft, &steps);
        draft.stage(self.seen, "Join the workers", None, steps);
        let gone = self.host(first, HostEnsure::TokensGone {}, Reason::NoLongerNeeded);
        if draft.hands_over_tokens() {
            draft.follow_up("Clean up", gone);
        } else {
            draft.stage(self.seen, "Clean up", None, vec![gone]);
        }
    }
}
