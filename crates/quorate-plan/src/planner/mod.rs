//! From what is wanted and what was seen to what is done. One file per goal ([`converge`], [`replace`], [`remove`], [`repair`], [`convert`], [`unconvert`], [`old_address`]) over shared
//! stages: a host's way in is in [`converge`], its way out in [`leaving`], and the order of both in [`exchange`]. Start at [`plan`].

mod arriving;
mod converge;
mod convert;
mod exchange;
mod leaving;
mod old_address;
mod preflight;
mod records;
mod remove;
mod repair;
mod replace;
mod unconvert;

pub use convert::adoption;

use std::collections::BTreeSet;

use crate::{
    Intent, NodeName, Observation,
    change::Change,
    intent::Goal,
    plan::{Plan, Planning, Stage, Waiting},
    refusal::Refusal,
    standing::Standing,
    step::{Ensure, Handover, HostEnsure, InfraEnsure, Place, Step},
};

/// Plans. It never fails: it waits or refuses.
///
/// A planner lists every stage that leads from nothing to the goal, in order; [`Step::standing`] then leaves out what stands already.
/// That is why, after any prefix of a plan, planning again gives exactly the rest.
pub fn plan(intent: &Intent, seen: &Observation) -> Planning {
    let mut planning = match &intent.goal {
        Goal::Converge => converge::plan(intent, seen),
        Goal::Replace { node, with, member } => match with {
            Some(with) => replace::by_another(intent, seen, node, with),
            None => replace::in_place(intent, seen, node, *member),
        },
        Goal::Remove { node } => remove::plan(intent, seen, node),
        Goal::Repair => repair::plan(intent, seen),
        Goal::Convert { pause_after } => convert::plan(intent, seen, *pause_after),
        Goal::Unconvert => unconvert::plan(intent, seen),
        Goal::RetireOldAddress { quiet_for_s } => old_address::retire(intent, seen, *quiet_for_s),
        Goal::KeepOldAddress => old_address::keep(intent, seen),
    };
    arriving::wait_for_hosts(intent, seen, &mut planning);
    planning
}

/// Collects the stages of a planning, leaving out what stands.
#[derive(Debug, Default)]
struct Draft {
    planning_stages: Vec<Stage>,
    waiting: Vec<Waiting>,
    refused: Vec<Refusal>,
    /// Hosts that a stage of this draft takes out of the cluster: what stands of them now will not when its turn comes.
    unmade: BTreeSet<NodeName>,
    /// It is not known yet how somebody leaves: nothing is begun before it is.
    unsettled: bool,
}

impl Draft {
    /// Adds what is open of a stage.
    ///
    /// What cannot be told now stays in the plan when something before it is still open, since that may be what makes it visible;
    /// otherwise nobody can say whether to act, and that is a refusal.
    fn stage(&mut self, seen: &Observation, title: &str, change: Option<Change>, steps: Vec<Step>) {
        let mut kept: Vec<Step> = Vec::new();
        for step in steps {
            if self.may_fall(&step) {
                kept.push(step);
                continue;
            }
            match step.standing(seen) {
                Standing::Done(_) => {}
                Standing::Open(_) => kept.push(step),
                Standing::Unknown(_) if !self.planning_stages.is_empty() || !kept.is_empty() => {
                    kept.push(step)
                }
                Standing::Unknown(missing) => self.refuse(missing.into()),
            }
        }
        if !kept.is_empty() {
            self.planning_stages.push(Stage {
                title: title.into(),
                change,
                steps: kept,
            });
        }
    }

    /// Whether a step that stands now may not when its turn comes.
    fn may_fall(&self, step: &Step) -> bool {
        let about = match (&step.ensure, &step.on) {
            // Leadership may come back as long as the member is there. It is planned no longer than that.
            (Ensure::Host(HostEnsure::LeaderMoved { .. }), _) => return true,
            (Ensure::Host(HostEnsure::Learner { joiner } | HostEnsure::Voter { joiner }), _) => {
                &joiner.name
            }
            (Ensure::Host(HostEnsure::Backend { backend, .. }), Place::Host(on)) => {
                return self.unmade.contains(&backend.name) || self.unmade.contains(on);
            }
            (Ensure::Infra(InfraEnsure::Target { node, .. }), _) => node,
            (Ensure::Host(HostEnsure::SharedAddressPeerGone { peer }), on) => {
                return self.tells_of(on, peer);
            }
            (Ensure::Host(_), Place::Host(node)) => node,
            (Ensure::Host(_), Place::Operator) | (Ensure::Infra(_), _) => return false,
        };
        self.unmade.contains(about)
    }

    /// A stage before makes that host listen to `peer`.
    fn tells_of(&self, on: &Place, peer: &NodeName) -> bool {
        let mut steps = self.planning_stages.iter().flat_map(|stage| &stage.steps);
        steps.any(|step| match &step.ensure {
            Ensure::Host(HostEnsure::SharedAddress { peers, .. }) => {
                step.on == *on && peers.iter().any(|known| known.name == *peer)
            }
            Ensure::Host(_) | Ensure::Infra(_) => false,
        })
    }

    /// A stage before makes it stand.
    fn plans(&self, step: &Step) -> bool {
        let mut steps = self.planning_stages.iter().flat_map(|stage| &stage.steps);
        steps.any(|planned| planned.ensure == step.ensure && planned.on == step.on)
    }

    fn wait(&mut self, on: &NodeName, what: String) {
        let waiting = Waiting {
            on: Place::Host(on.clone()),
            what,
        };
        if !self.waiting.contains(&waiting) {
            self.waiting.push(waiting);
        }
    }

    /// Adds a step that follows from another one in this plan, whether or not it stands now.
    fn follow_up(&mut self, title: &str, step: Step) {
        self.planning_stages.push(Stage {
            title: title.into(),
            change: None,
            steps: vec![step],
        });
    }

    fn hands_over_tokens(&self) -> bool {
        self.planning_stages
            .iter()
            .flat_map(|stage| &stage.steps)
            .any(|step| matches!(step.handover, Some(Handover::JoinToken { .. })))
    }

    fn refuse(&mut self, refusal: Refusal) {
        if !self.refused.contains(&refusal) {
            self.refused.push(refusal);
        }
    }

    /// Nothing is begun while something is refused, or while it is not known how somebody leaves.
    fn finish(mut self) -> Planning {
        if !self.refused.is_empty() || self.unsettled {
            self.planning_stages.clear();
        }
        Planning {
            plan: Plan {
                stages: self.planning_stages,
            },
            waiting: self.waiting,
            refused: self.refused,
        }
    }
}
