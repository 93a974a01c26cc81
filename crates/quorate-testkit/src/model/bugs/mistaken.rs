//! Planners that do it to the wrong one, or to too many.

use quorate_plan::{
    Change, Ensure, HostEnsure, Intent, NodeName, Observation, Place, Plan, Stage, Step,
    kubeadm::Peer, plan, step::Reason,
};

use super::{
    Bug, Decisions, change_steps, drains, edited, gate_seeing, of, permit_seeing, planner,
    procedure, undisturbed,
};

pub(super) const BUGS: &[Bug] = &[
    Bug {
        name: "names-by-prefix",
        does: "finds the member to remove by a part of its name",
        decisions: || Decisions {
            plan: |intent, seen| edited(intent, seen, |plan| by_prefix(plan, seen)),
            ..Decisions::default()
        },
        procedure: procedure::replace_healthy,
        bounds: undisturbed,
    },
    Bug {
        name: "permits-at-even-counts",
        does: "goes on removing when the number of the file is reached, down to two",
        decisions: || Decisions {
            plan: |intent, seen| plan(&with_one_master_less(intent), seen),
            // Its guards are content as long as somebody is named who comes next.
            permit: |seen, change, intent| {
                permit_seeing(seen, &with_a_successor(change, seen), intent, |_| {})
            },
            gate: |mut request, fencing, seen| {
                request.change = request.change.map(|change| with_a_successor(&change, seen));
                gate_seeing(request, fencing, seen, |_| {})
            },
            ..Decisions::default()
        },
        procedure: procedure::five_to_three,
        bounds: undisturbed,
    },
    Bug {
        name: "resets-the-wrong-host",
        does: "resets a master that stays, past a gate that does not ask",
        decisions: || Decisions {
            plan: |intent, seen| edited(intent, seen, |plan| reset_another(intent, plan)),
            gate: |request, fencing, seen| {
                let resets = matches!(request.ensure, HostEnsure::Reset { .. });
                gate_seeing(request, fencing, seen, |seen| {
                    if resets {
                        super::senses::without_members(seen);
                    }
                })
            },
            ..Decisions::default()
        },
        procedure: procedure::replace_healthy,
        bounds: undisturbed,
    },
    Bug {
        name: "ends-the-wrong-control-plane",
        does: "ends the control plane of a master that stays",
        decisions: || {
            planner(|intent, seen| {
                edited(intent, seen, |plan| {
                    change_steps(plan, |step| {
                        let Place::Host(on) = &step.on else { return };
                        if let Some(HostEnsure::ControlPlaneGone { .. }) = of(step)
                            && let Some(other) = another(intent, on)
                        {
                            step.on = Place::Host(other.name);
                        }
                    });
                })
            })
        },
        procedure: procedure::replace_healthy,
        bounds: undisturbed,
    },
    Bug {
        name: "drains-everything",
        does: "takes every master out of the balancer, not only the one that leaves",
        decisions: || planner(|intent, seen| edited(intent, seen, |plan| drain_all(intent, plan))),
        procedure: procedure::replace_healthy,
        bounds: undisturbed,
    },
    Bug {
        name: "repairs-the-living",
        does: "takes a master that lives for one that was left behind",
        decisions: || {
            planner(|intent, seen| edited(intent, seen, |plan| remove_the_living(plan, seen)))
        },
        procedure: procedure::repair,
        bounds: undisturbed,
    },
    Bug {
        name: "never-satisfied",
        does: "always finds one more thing to do",
        decisions: || planner(|intent, seen| edited(intent, seen, |plan| one_more(intent, plan))),
        procedure: procedure::one_to_three,
        bounds: undisturbed,
    },
];

/// The first member whose name begins like that of the one that leaves.
fn by_prefix(plan: &mut Plan, seen: &Observation) {
    let views = seen
        .etcd
        .values()
        .filter_map(|view| view.get().ok()?.as_ref());
    let Some(members) = views
        .filter(|view| view.linearizable)
        .map(|view| &view.members)
        .next()
    else {
        return;
    };
    let found = members
        .iter()
        .find(|(_, member)| member.name.starts_with("cp-"));
    let Some((found, member)) = found else { return };
    for stage in &mut plan.stages {
        if let Some(Change::RemoveMember { id, .. }) = &mut stage.change {
            *id = *found;
        }
        for step in &mut stage.steps {
            match &mut step.ensure {
                Ensure::Host(HostEnsure::MemberGone {
                    member: gone,
                    peer_urls,
                }) => {
                    *gone = *found;
                    peer_urls.clone_from(&member.peer_urls);
                }
                Ensure::Host(HostEnsure::ControlPlaneGone { member: gone }) => *gone = *found,
                Ensure::Host(HostEnsure::LeaderMoved { member: gone, .. }) => *gone = *found,
                Ensure::Host(_) | Ensure::Infra(_) => {}
            }
        }
    }
}

fn with_one_master_less(intent: &Intent) -> Intent {
    let mut less = intent.clone();
    if let Some((node, machine)) = less.spec.control_plane.pop_last() {
        less.retired.insert(node, machine);
    }
    less
}

/// The change, with the leaving host itself as the one that comes next.
fn with_a_successor(change: &Change, seen: &Observation) -> Change {
    let Change::RemoveMember { id, next: None } = change else {
        return change.clone();
    };
    let leaving = seen.etcd.iter().find_map(|(node, view)| {
        let view = view.get().ok()?.as_ref()?;
        (view.member == *id).then(|| node.clone())
    });
    Change::RemoveMember {
        id: *id,
        next: leaving,
    }
}

fn reset_another(intent: &Intent, plan: &mut Plan) {
    change_steps(plan, |step| {
        let Place::Host(on) = step.on.clone() else {
            return;
        };
        if let Ensure::Host(HostEnsure::Reset { node }) = &mut step.ensure
            && let Some(other) = another(intent, &on)
        {
            step.on = Place::Host(other.name.clone());
            *node = other;
        }
    });
}

fn drain_all(intent: &Intent, plan: &mut Plan) {
    for stage in &mut plan.stages {
        let drained: Vec<Step> = stage
            .steps
            .iter()
            .filter(|step| of(step).is_some_and(drains))
            .flat_map(|step| {
                intent.spec.control_plane.keys().map(|backend| Step {
                    ensure: Ensure::Host(HostEnsure::BackendGone {
                        backend: backend.clone(),
                    }),
                    ..step.clone()
                })
            })
            .collect();
        stage.steps.extend(drained);
    }
}

/// The last of the members that live is removed too.
fn remove_the_living(plan: &mut Plan, seen: &Observation) {
    let last = seen.etcd.iter().rev().find_map(|(node, view)| {
        let view = view.get().ok()?.as_ref()?;
        let own = view.members.get(&view.member)?;
        (!own.learner).then(|| (node.clone(), view.member, own.peer_urls.clone()))
    });
    let first = plan.steps().find_map(|step| match (&step.on, of(step)) {
        (Place::Host(on), Some(HostEnsure::MemberGone { .. } | HostEnsure::TokensGone {})) => {
            Some(on.clone())
        }
        _ => None,
    });
    if let (Some((living, member, peer_urls)), Some(first)) = (last, first)
        && living != first
    {
        let removal = Stage {
            title: format!("Remove {living}"),
            change: Some(Change::RemoveMember {
                id: member,
                next: Some(living),
            }),
            steps: vec![Step {
                on: Place::Host(first),
                ensure: Ensure::Host(HostEnsure::MemberGone { member, peer_urls }),
                handover: None,
                because: Reason::LeftBehind,
            }],
        };
        plan.stages.insert(1, removal);
    }
}

/// Something that stands already.
fn one_more(intent: &Intent, plan: &mut Plan) {
    let Some((name, machine)) = intent.spec.control_plane.first_key_value() else {
        return;
    };
    let first = Peer {
        name: name.clone(),
        address: machine.address,
    };
    plan.stages.push(Stage {
        title: "Make sure".into(),
        change: None,
        steps: vec![Step {
            on: Place::Host(name.clone()),
            ensure: Ensure::Host(HostEnsure::Serving { node: first }),
            handover: None,
            because: Reason::Ready,
        }],
    });
}

/// Somebody else of the masters than the one a step is on.
fn another(intent: &Intent, than: &NodeName) -> Option<Peer> {
    let (name, machine) = intent
        .spec
        .control_plane
        .iter()
        .find(|(node, _)| *node != than)?;
    Some(Peer {
        name: name.clone(),
        address: machine.address,
    })
}
