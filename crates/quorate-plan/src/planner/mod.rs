//! From what is wanted and what was seen to what is done. One file per goal. Start at [`plan`].

mod converge;
mod preflight;

use crate::{
    Intent, Observation,
    change::Change,
    intent::Goal,
    plan::{Plan, Planning, Stage},
    refusal::Refusal,
    seen::Missing,
    standing::Standing,
    step::{Handover, Step},
};

/// Plans. It never fails: it waits or refuses.
///
/// A planner lists every stage that leads from nothing to the goal, in order; [`Step::standing`] then leaves out what stands already.
/// That is why, after any prefix of a plan, planning again gives exactly the rest.
pub fn plan(intent: &Intent, seen: &Observation) -> Planning {
    match intent.goal {
        Goal::Converge => converge::plan(intent, seen),
        Goal::Replace { .. } | Goal::Remove { .. } | Goal::Repair => {
            let mut draft = Draft::default();
            draft.refuse(Missing::not_looked("a planner for this verb").into());
            draft.finish()
        }
    }
}

/// Collects the stages of a planning, leaving out what stands.
#[derive(Debug, Default)]
struct Draft {
    planning_stages: Vec<Stage>,
    refused: Vec<Refusal>,
}

impl Draft {
    /// Adds what is open of a stage.
    ///
    /// What cannot be told now stays in the plan when something before it is still open, since that may be what makes it visible;
    /// otherwise nobody can say whether to act, and that is a refusal.
    fn stage(&mut self, seen: &Observation, title: &str, change: Option<Change>, steps: Vec<Step>) {
        let mut kept: Vec<Step> = Vec::new();
        for step in steps {
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

    fn finish(self) -> Planning {
        Planning {
            plan: Plan {
                stages: self.planning_stages,
            },
            waiting: Vec::new(),
            refused: self.refused,
        }
    }
}
