//! Guards, gates and planners that take something for what it is not.

use std::{collections::BTreeMap, time::Duration};

use quorate_plan::{
    Change, Ensure, HostEnsure, Intent, MemberId, NodeName, Observation, Planning, Seen,
    kubeadm::Peer,
    observation::{EtcdData, EtcdView, Sightings},
    plan,
};

use super::{
    Bounds, Bug, Decisions, Fault, Pace, change_steps, edited, gate_seeing, move_stage, of,
    permit_seeing, procedure, undisturbed, with,
};

/// What decides, each over an observation that was doctored in the same way.
macro_rules! seeing {
    ($doctor:expr) => {
        Decisions {
            plan: |intent, seen| {
                let mut seen = seen.clone();
                $doctor(&mut seen);
                plan(intent, &seen)
            },
            permit: |seen, change, intent| permit_seeing(seen, change, intent, $doctor),
            gate: |request, fencing, seen| gate_seeing(request, fencing, seen, $doctor),
            ..Decisions::default()
        }
    };
}

pub(super) const BUGS: &[Bug] = &[
    Bug {
        name: "one-look-is-death",
        does: "takes a host that it does not reach for dead, whatever its peers say",
        decisions: || seeing!(silence_is_death),
        procedure: procedure::replace_healthy,
        bounds: || with(Fault::Hide),
    },
    Bug {
        name: "ignores-alarms",
        does: "adds members while etcd raises an alarm",
        decisions: || seeing!(without_alarms),
        procedure: procedure::one_to_three,
        bounds: || with(Fault::Alarm),
    },
    Bug {
        name: "counts-learners",
        does: "takes learners for voters",
        decisions: || seeing!(learners_vote),
        procedure: procedure::one_to_three,
        bounds: undisturbed,
    },
    Bug {
        name: "healthy-instead-of-voters",
        does: "asks for a majority of the healthy members instead of one of all voters",
        decisions: || seeing!(only_the_healthy),
        procedure: procedure::degraded,
        bounds: undisturbed,
    },
    Bug {
        name: "two-learners-at-once",
        does: "adds the second learner before the first one was promoted, past guards that do not see learners of others",
        decisions: || Decisions {
            plan: two_learners,
            permit: |seen, change, intent| {
                let own = own_of(change);
                permit_seeing(seen, change, intent, |seen| {
                    without_other_learners(seen, &own)
                })
            },
            gate: |request, fencing, seen| {
                let own = request.change.as_ref().map(own_of).unwrap_or_default();
                gate_seeing(request, fencing, seen, |seen| {
                    without_other_learners(seen, &own)
                })
            },
            ..Decisions::default()
        },
        procedure: procedure::one_to_three,
        bounds: undisturbed,
    },
    Bug {
        name: "founds-beside",
        does: "founds a new cluster on a host that should have joined the one that runs",
        decisions: || Decisions {
            plan: |intent, seen| edited(intent, seen, found_beside),
            permit: |_, _, _| Ok(()),
            gate: |request, fencing, seen| {
                let founds = matches!(request.change, Some(Change::Found { .. }));
                gate_seeing(request, fencing, seen, |seen| {
                    if founds {
                        everything_is_blank(seen);
                    }
                })
            },
            ..Decisions::default()
        },
        procedure: procedure::one_to_three,
        bounds: undisturbed,
    },
    Bug {
        name: "acts-outranked",
        does: "lets an operator act whose token was outranked",
        decisions: || Decisions {
            gate: |request, fencing, seen| {
                let mut fencing = fencing.clone();
                fencing.highest = request.fence;
                if let Some(claim) = &mut fencing.claim {
                    claim.fence = request.fence;
                }
                gate_seeing(request, &fencing, seen, |_| {})
            },
            ..Decisions::default()
        },
        procedure: procedure::one_to_three,
        bounds: || {
            Bounds::none()
                .runs(1, 1)
                .faults(1, &[(Fault::Sleep, 1)])
                .pace(Pace::Both)
        },
    },
];

/// Whoever does not answer is taken for dead by every witness.
fn silence_is_death(seen: &mut Observation) {
    let silent: Vec<NodeName> = seen
        .hosts
        .iter()
        .filter(|(_, facts)| facts.get().is_err())
        .map(|(node, _)| node.clone())
        .collect();
    for node in &silent {
        let mut sightings = Sightings::default();
        for _ in 0..7 {
            sightings.look(false, Duration::from_secs(5));
        }
        seen.sightings.insert(node.clone(), sightings);
        for api in seen.api.values_mut() {
            if let Seen::Known {
                value: Some(api), ..
            } = api
                && let Seen::Known { value: nodes, .. } = &mut api.nodes
                && let Some(object) = nodes.get_mut(node)
            {
                object.heartbeat = Some(Duration::from_secs(60));
            }
        }
    }
    views(seen, |view| {
        let gone: Vec<MemberId> = view
            .members
            .iter()
            .filter(|(_, member)| silent.iter().any(|node| node.as_str() == member.name))
            .map(|(id, _)| *id)
            .collect();
        if let Seen::Known { value: active, .. } = &mut view.active_peers {
            active.retain(|id| !gone.contains(id));
        }
    });
}

/// Changes every account of etcd.
fn views(seen: &mut Observation, mut change: impl FnMut(&mut EtcdView)) {
    for view in seen.etcd.values_mut() {
        if let Seen::Known {
            value: Some(view), ..
        } = view
        {
            change(view);
        }
    }
}

fn without_alarms(seen: &mut Observation) {
    views(seen, |view| view.alarms.clear());
}

fn learners_vote(seen: &mut Observation) {
    views(seen, |view| {
        for member in view.members.values_mut() {
            member.learner = false;
        }
    });
}

/// Voters that did not answer for themselves are not counted at all.
fn only_the_healthy(seen: &mut Observation) {
    let mut answered = Vec::new();
    views(seen, |view| answered.push(view.member));
    views(seen, |view| {
        view.members
            .retain(|id, member| member.learner || answered.contains(id));
    });
}

/// Nobody is a member of anything.
pub(super) fn without_members(seen: &mut Observation) {
    views(seen, |view| view.members.clear());
}

fn everything_is_blank(seen: &mut Observation) {
    for facts in seen.hosts.values_mut() {
        if let Seen::Known { value: facts, .. } = facts {
            facts.founding = Seen::now(None);
            facts.etcd_data = Seen::now(EtcdData::default());
            facts.manifests = Seen::now(BTreeMap::new());
            facts.pki = Seen::now(quorate_plan::observation::Pki::default());
        }
    }
}

/// The joiner that a change is about.
fn own_of(change: &Change) -> String {
    match change {
        Change::AddVoter { node } => node.to_string(),
        Change::Found { .. } | Change::RemoveMember { .. } | Change::Interrupt { .. } => {
            String::new()
        }
    }
}

/// Learners other than that of the joining host are not seen.
fn without_other_learners(seen: &mut Observation, own: &str) {
    let address = seen.hosts.iter().find_map(|(node, facts)| {
        let machine = facts.get().ok()?.machine.get().ok()?;
        (node.as_str() == own).then(|| machine.addresses.first().copied())?
    });
    let url = address.map(|address| format!("https://{address}:2380"));
    views(seen, |view| {
        view.members.retain(|_, member| {
            let own = url
                .as_ref()
                .is_some_and(|url| member.peer_urls.contains(url));
            !member.learner || own
        });
    });
}

fn two_learners(intent: &Intent, seen: &Observation) -> Planning {
    edited(intent, seen, |plan| {
        let joins = |name: &'static str| move |ensure: &HostEnsure| matches!(ensure, HostEnsure::Learner { joiner } if joiner.name.as_str() == name);
        move_stage(
            plan,
            joins("cp-3"),
            |ensure| matches!(ensure, HostEnsure::Voter { joiner } if joiner.name.as_str() == "cp-2"),
        );
    })
}

/// The joiner's etcd starts as a cluster of its own.
fn found_beside(plan: &mut quorate_plan::Plan) {
    for stage in &mut plan.stages {
        let starts = stage.steps.iter().find_map(|step| match of(step) {
            Some(HostEnsure::EtcdMember { node, .. }) => Some(node.clone()),
            _ => None,
        });
        if let Some(Peer { name, .. }) = starts {
            stage.change = Some(Change::Found {
                nodes: [name].into(),
            });
        }
    }
    change_steps(plan, |step| {
        if let Ensure::Host(HostEnsure::EtcdMember { node, founders, .. }) = &mut step.ensure {
            *founders = [node.clone()].into();
        }
    });
}
