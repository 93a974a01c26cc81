//! Planners that leave something out.

use quorate_plan::{HostEnsure, Place, plan};

use super::{
    Bounds, Bug, Fault, Pace, change_steps, drains, drop_steps, edited, of, planner, procedure,
    removes, resets, undisturbed, with,
};
use crate::fixture::node;

pub(super) const BUGS: &[Bug] = &[
    Bug {
        name: "forgets-to-drain",
        does: "ends an apiserver while the balancer still sends to it",
        decisions: || planner(|intent, seen| edited(intent, seen, |plan| drop_steps(plan, drains))),
        procedure: procedure::replace_healthy,
        bounds: undisturbed,
    },
    Bug {
        name: "removes-the-leader",
        does: "removes the member that leads, without moving leadership",
        decisions: || {
            planner(|intent, seen| {
                edited(intent, seen, |plan| {
                    drop_steps(plan, |ensure| {
                        matches!(ensure, HostEnsure::LeaderMoved { .. })
                    });
                })
            })
        },
        procedure: procedure::replace_leader,
        bounds: undisturbed,
    },
    Bug {
        name: "forgets-a-learner",
        does: "repairs everything but the learner that a failed join left",
        decisions: || {
            planner(|intent, seen| {
                edited(intent, seen, |plan| {
                    drop_steps(plan, |ensure| removes(ensure) || resets(ensure));
                })
            })
        },
        procedure: procedure::repair,
        bounds: undisturbed,
    },
    Bug {
        name: "stops-at-two",
        does: "is content with the second of three masters",
        decisions: || {
            planner(|intent, seen| {
                edited(intent, seen, |plan| {
                    plan.stages.retain(|stage| {
                        !stage.title.contains("Join cp-3")
                            && !stage.steps.iter().all(|step| {
                                matches!(of(step), Some(HostEnsure::Backend { backend, .. })
                                    if backend.name == node("cp-3"))
                            })
                    });
                    for stage in &mut plan.stages {
                        stage
                            .steps
                            .retain(|step| step.on != Place::Host(node("cp-3")));
                    }
                })
            })
        },
        procedure: procedure::one_to_three,
        bounds: undisturbed,
    },
    Bug {
        name: "forgets-the-guard",
        does: "leaves a joiner without the guard against an emptied data directory",
        decisions: || {
            planner(|intent, seen| {
                edited(intent, seen, |plan| {
                    drop_steps(plan, |ensure| matches!(ensure, HostEnsure::Guarded {}));
                })
            })
        },
        procedure: procedure::one_to_three,
        bounds: || {
            Bounds::none()
                .runs(1, 0)
                .faults(2, &[(Fault::PowerCut, 1), (Fault::LoseData, 1)])
                .pace(Pace::Strides)
        },
    },
    Bug {
        name: "forgets-the-node",
        does: "leaves the Node object of a removed master in the cluster",
        decisions: || {
            planner(|intent, seen| {
                edited(intent, seen, |plan| {
                    drop_steps(plan, |ensure| matches!(ensure, HostEnsure::NodeGone { .. }));
                })
            })
        },
        procedure: procedure::replace_dead,
        bounds: undisturbed,
    },
    Bug {
        name: "forgets-the-endpoint",
        does: "leaves a dead address in the `kubernetes` service",
        decisions: || {
            planner(|intent, seen| {
                edited(intent, seen, |plan| {
                    drop_steps(plan, |ensure| {
                        matches!(ensure, HostEnsure::EndpointGone { .. })
                    });
                })
            })
        },
        procedure: procedure::repair,
        bounds: undisturbed,
    },
    Bug {
        name: "forgets-the-tokens",
        does: "leaves bootstrap tokens in the cluster",
        decisions: || {
            planner(|intent, seen| {
                edited(intent, seen, |plan| {
                    drop_steps(plan, |ensure| matches!(ensure, HostEnsure::TokensGone {}));
                })
            })
        },
        procedure: procedure::repair,
        bounds: undisturbed,
    },
    Bug {
        name: "swallows-refusals",
        does: "takes a refusal for having nothing to do",
        decisions: || {
            planner(|intent, seen| {
                let mut planning = plan(intent, seen);
                planning.refused.clear();
                planning
            })
        },
        procedure: procedure::one_to_three,
        bounds: || with(Fault::Alarm),
    },
    Bug {
        name: "does-not-wait",
        does: "takes waiting for a verdict for having nothing to do",
        decisions: || {
            planner(|intent, seen| {
                let mut planning = plan(intent, seen);
                planning.waiting.clear();
                planning
            })
        },
        procedure: procedure::replace_healthy,
        bounds: || with(Fault::Cut),
    },
    Bug {
        name: "hands-nothing-over",
        does: "does not hand the certificate authorities to a joiner",
        decisions: || {
            planner(|intent, seen| {
                edited(intent, seen, |plan| {
                    change_steps(plan, |step| {
                        if matches!(of(step), Some(HostEnsure::Authority { .. })) {
                            step.handover = None;
                        }
                    });
                })
            })
        },
        procedure: procedure::one_to_three,
        bounds: undisturbed,
    },
    Bug {
        name: "skips-the-certificates",
        does: "starts a joiner without certificates",
        decisions: || {
            planner(|intent, seen| {
                edited(intent, seen, |plan| {
                    drop_steps(plan, |ensure| {
                        matches!(ensure, HostEnsure::Certificates { .. })
                    });
                })
            })
        },
        procedure: procedure::one_to_three,
        bounds: undisturbed,
    },
    Bug {
        name: "skips-the-kubelet",
        does: "adds a learner whose kubelet nobody starts",
        decisions: || {
            planner(|intent, seen| {
                edited(intent, seen, |plan| {
                    drop_steps(plan, |ensure| matches!(ensure, HostEnsure::Kubelet { .. }));
                })
            })
        },
        procedure: procedure::one_to_three,
        bounds: undisturbed,
    },
    Bug {
        name: "skips-registering",
        does: "leaves a joiner without the label of a control plane",
        decisions: || {
            planner(|intent, seen| {
                edited(intent, seen, |plan| {
                    drop_steps(plan, |ensure| {
                        matches!(ensure, HostEnsure::Registered { .. })
                    });
                })
            })
        },
        procedure: procedure::one_to_three,
        bounds: undisturbed,
    },
];
