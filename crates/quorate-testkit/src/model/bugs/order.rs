//! Planners that do something too early, too late, or together with something else.

use quorate_plan::{Change, HostEnsure, Intent, Observation, Plan, Planning, Stage, Step};

use super::{
    Bug, Decisions, adds, drains, edited, gate_seeing, has, move_stage, of, planner, procedure,
    removes, resets, starts_etcd, undisturbed,
};
use crate::fixture::node;

pub(super) const BUGS: &[Bug] = &[
    Bug {
        name: "removes-first",
        does: "removes a healthy master before its replacement has joined, as if it were dead",
        decisions: || {
            planner(|intent, seen| {
                edited(intent, seen, |plan| {
                    let joins = plan
                        .stages
                        .iter()
                        .position(|stage| stage.steps.iter().filter_map(of).any(adds));
                    let Some(joins) = joins else { return };
                    let (mut leaving, rest): (Vec<Stage>, Vec<Stage>) =
                        plan.stages.split_off(joins).into_iter().partition(|stage| {
                            matches!(stage.change, Some(Change::RemoveMember { .. }))
                        });
                    for stage in &mut leaving {
                        if let Some(Change::RemoveMember { next, .. }) = &mut stage.change {
                            *next = Some(node("cp-4"));
                        }
                    }
                    plan.stages.extend(leaving);
                    plan.stages.extend(rest);
                })
            })
        },
        procedure: procedure::replace_healthy,
        bounds: undisturbed,
    },
    Bug {
        name: "drains-too-late",
        does: "ends an apiserver first and drains it afterwards",
        decisions: || {
            planner(|intent, seen| {
                edited(intent, seen, |plan| {
                    move_stage(
                        plan,
                        |ensure| matches!(ensure, HostEnsure::ControlPlaneGone { .. }),
                        drains,
                    );
                })
            })
        },
        procedure: procedure::five_to_three,
        bounds: undisturbed,
    },
    Bug {
        name: "moves-leadership-too-late",
        does: "moves leadership away from a member after it was removed",
        decisions: || planner(leadership_last),
        procedure: procedure::replace_leader,
        bounds: undisturbed,
    },
    Bug {
        name: "two-removals-at-once",
        does: "takes two members out in one stage, on the permit for the first",
        decisions: || Decisions {
            plan: |intent, seen| edited(intent, seen, two_at_once),
            // Its gate takes a permit for one member for a permit for its neighbour.
            gate: |mut request, fencing, seen| {
                if let (
                    HostEnsure::MemberGone { member, .. },
                    Some(Change::RemoveMember { id, .. }),
                ) = (&request.ensure, &mut request.change)
                {
                    *id = *member;
                }
                gate_seeing(request, fencing, seen, |_| {})
            },
            ..Decisions::default()
        },
        procedure: procedure::five_to_three,
        bounds: undisturbed,
    },
    Bug {
        name: "traffic-too-early",
        does: "adds a backend to the balancer before its etcd was started",
        decisions: || {
            planner(|intent, seen| {
                edited(intent, seen, |plan| {
                    move_stage(
                        plan,
                        |ensure| matches!(ensure, HostEnsure::Backend { .. }),
                        starts_etcd,
                    );
                })
            })
        },
        procedure: procedure::one_to_three,
        bounds: undisturbed,
    },
    Bug {
        name: "promotes-too-early",
        does: "promotes a learner before its etcd was started",
        decisions: || {
            planner(|intent, seen| {
                edited(intent, seen, |plan| {
                    move_stage(
                        plan,
                        |ensure| matches!(ensure, HostEnsure::Voter { .. }),
                        starts_etcd,
                    );
                })
            })
        },
        procedure: procedure::one_to_three,
        bounds: undisturbed,
    },
    Bug {
        name: "resets-before-removal",
        does: "resets a host while its member still votes, past a gate that does not ask",
        decisions: || Decisions {
            plan: |intent, seen| edited(intent, seen, |plan| move_stage(plan, resets, removes)),
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
        procedure: procedure::five_to_three,
        bounds: undisturbed,
    },
];

/// Leadership is moved in the stage after the removal.
fn leadership_last(intent: &Intent, seen: &Observation) -> Planning {
    edited(intent, seen, |plan| {
        let mut moved: Vec<Step> = Vec::new();
        for stage in &mut plan.stages {
            let (leads, rest) = std::mem::take(&mut stage.steps)
                .into_iter()
                .partition(|step| matches!(of(step), Some(HostEnsure::LeaderMoved { .. })));
            stage.steps = rest;
            moved.extend::<Vec<Step>>(leads);
        }
        let removal = plan
            .stages
            .iter()
            .position(|stage| stage.steps.iter().filter_map(of).any(removes));
        if let Some(removal) = removal {
            let change = plan.stages[removal].change.clone();
            plan.stages.insert(
                removal + 1,
                Stage {
                    title: "Move leadership".into(),
                    change,
                    steps: moved,
                },
            );
        }
    })
}

/// The second removal, put into the stage of the first.
fn two_at_once(plan: &mut Plan) {
    let removals: Vec<usize> = (0..plan.stages.len())
        .filter(|stage| has(plan, *stage, removes))
        .collect();
    if let [first, second, ..] = removals[..] {
        let steps = std::mem::take(&mut plan.stages[second].steps);
        plan.stages[first].steps.extend(steps);
    }
}
