//! A second opinion on plans. It shares no code with the planner and knows nothing of how a plan came about: it reads the steps in order
//! and says what no good plan may contain. Start at [`lint`]; it runs on every plan in every test and before every apply.

use std::collections::BTreeSet;

use crate::{
    NodeName, Observation,
    change::Change,
    plan::Plan,
    step::{Ensure, HostEnsure, Place},
};

/// What is wrong with a plan: a bug of the planner, never of the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The stage, from 1.
    pub stage: usize,
    /// What is wrong with it.
    pub what: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "stage {}: {}", self.stage, self.what)
    }
}

/// Reads a plan against what was seen.
pub fn lint(plan: &Plan, seen: &Observation) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut serving = ready_now(seen);
    let mut open_learner: Option<NodeName> = None;
    let mut previous_change: Option<&Change> = None;
    for (number, stage) in (1..).zip(&plan.stages) {
        let mut find = |what: String| {
            findings.push(Finding {
                stage: number,
                what,
            })
        };
        if stage.steps.is_empty() {
            find("has no step".into());
        }
        // A membership change that was begun ends before another one begins.
        if let (Some(node), Some(change)) = (&open_learner, &stage.change)
            && previous_change != Some(change)
        {
            find(format!("begins `{change}` while {node} is still a learner"));
        }
        let mut now_serving = BTreeSet::new();
        for step in &stage.steps {
            let Ensure::Host(ensure) = &step.ensure else {
                if step.on != Place::Operator {
                    find(format!("machine made on {}", step.on));
                }
                continue;
            };
            let Place::Host(on) = &step.on else {
                find(format!("`{ensure}` is not on a host"));
                continue;
            };
            if let Some(handover) = &step.handover
                && handover.from() == on
            {
                find(format!("{on} hands something over to itself"));
            }
            match ensure {
                HostEnsure::Serving { node } => {
                    now_serving.insert(node.name.clone());
                }
                HostEnsure::Backend { backend, .. } if !serving.contains(&backend.name) => {
                    find(format!("traffic for {} before it serves", backend.name));
                }
                HostEnsure::Learner { joiner } => {
                    if stage.change
                        != Some(Change::AddVoter {
                            node: joiner.name.clone(),
                        })
                    {
                        find(format!("learner for {} outside its change", joiner.name));
                    }
                    if let Some(other) = &open_learner {
                        find(format!("learner for {} while {other} is one", joiner.name));
                    }
                    open_learner = Some(joiner.name.clone());
                }
                HostEnsure::Voter { joiner } => {
                    if stage.change
                        != Some(Change::AddVoter {
                            node: joiner.name.clone(),
                        })
                    {
                        find(format!("promotion of {} outside its change", joiner.name));
                    }
                    open_learner = None;
                }
                HostEnsure::EtcdMember { node, founders, .. } => match &stage.change {
                    Some(Change::Found { nodes })
                        if founders.iter().map(|peer| &peer.name).eq(nodes) => {}
                    Some(Change::AddVoter { node: joiner })
                        if founders.is_empty() && *joiner == node.name => {}
                    _ => find(format!(
                        "etcd of {} outside a change that is about it",
                        node.name
                    )),
                },
                HostEnsure::Authority { of: None, .. }
                    if !matches!(stage.change, Some(Change::Found { .. })) =>
                {
                    find(format!(
                        "new certificate authorities on {on} outside a founding"
                    ));
                }
                _ => {}
            }
        }
        if let Some(Change::Found { nodes }) = &stage.change
            && let Some(view) = seen
                .etcd
                .values()
                .find_map(|view| view.get().ok().and_then(Option::as_ref))
            && view.members.values().any(|member| {
                member.started() && !nodes.iter().any(|node| node.as_str() == member.name)
            })
        {
            find("founds a cluster beside the one that runs".into());
        }
        serving.extend(now_serving);
        previous_change = stage.change.as_ref();
    }
    if let Some(node) = open_learner {
        findings.push(Finding {
            stage: plan.stages.len(),
            what: format!("ends with {node} as a learner"),
        });
    }
    findings
}

fn ready_now(seen: &Observation) -> BTreeSet<NodeName> {
    seen.api
        .iter()
        .filter(|(_, view)| matches!(view.get(), Ok(Some(view)) if view.readyz.ready))
        .map(|(node, _)| node.clone())
        .collect()
}
