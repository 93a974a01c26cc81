//! A plan: stages in order, each with at most one change to the cluster's quorum. What `plan` prints is what `apply` runs is what the
//! journal records. A plan holds no volatile number, so two plans can be compared: it is valid while planning afresh yields an equal one.

use serde::{Deserialize, Serialize};

use crate::{
    change::Change,
    refusal::Refusal,
    seen::Missing,
    step::{Place, Step},
};

/// What planning says: what to do, what it waits for, and what it will not do.
#[must_use = "a refusal nobody reads is not actionable"]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Planning {
    /// What to do.
    pub plan: Plan,
    /// What has to happen by itself first.
    pub waiting: Vec<Waiting>,
    /// What will not be done, with the reason.
    pub refused: Vec<Refusal>,
}

/// Something that is on its way by itself, or that another has to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// Where.
    pub on: Place,
    /// What for, as a sentence.
    pub what: String,
}

/// Stages in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// In the order they are acted on.
    pub stages: Vec<Stage>,
}

/// Steps that may be acted on side by side: those of one place in order, different places at once.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stage {
    /// What the stage is about, for people: `Found the control plane`.
    pub title: String,
    /// What it changes for the quorum. Permitted before the stage starts, and again on every host that acts.
    pub change: Option<Change>,
    /// Its steps.
    pub steps: Vec<Step>,
}

impl Plan {
    /// There is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    /// The first stage wants nothing but what comes about by itself.
    pub fn begins_with_waiting(&self) -> bool {
        self.stages
            .first()
            .is_some_and(|stage| stage.steps.iter().all(|step| step.ensure.only_waits()))
    }

    /// Number of steps.
    pub fn len(&self) -> usize {
        self.stages.iter().map(|stage| stage.steps.len()).sum()
    }

    /// All steps in order.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.stages.iter().flat_map(|stage| &stage.steps)
    }

    /// Whether this plan is the rest of `approved`: every stage of it is one of `approved`'s, in order, with no step that was not in it.
    /// Steps that stand by now have dropped out of it; anything else is a departure, named in the error.
    ///
    /// # Errors
    /// The first step or stage that was not approved.
    pub fn rest_of(&self, approved: &Plan) -> Result<(), Departure> {
        let mut left = approved.stages.iter();
        for stage in &self.stages {
            let found = left.by_ref().find(|old| {
                old.title == stage.title
                    && old.change == stage.change
                    && is_subsequence(&stage.steps, &old.steps)
            });
            if found.is_none() {
                let step = stage
                    .steps
                    .iter()
                    .find(|step| !approved.steps().any(|old| old == *step))
                    .or(stage.steps.first());
                return Err(Departure {
                    stage: stage.title.clone(),
                    step: step.cloned().map(Box::new),
                });
            }
        }
        Ok(())
    }
}

fn is_subsequence(part: &[Step], whole: &[Step]) -> bool {
    let mut left = whole.iter();
    part.iter().all(|step| left.by_ref().any(|old| old == step))
}

/// Where a fresh plan departs from the approved one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Departure {
    /// The stage's title.
    pub stage: String,
    /// The step that was not approved, or comes out of order.
    pub step: Option<Box<Step>>,
}

impl std::fmt::Display for Departure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.step {
            Some(step) => write!(f, "`{}`: on {}: {}", self.stage, step.on, step.ensure),
            None => write!(f, "`{}`", self.stage),
        }
    }
}

impl std::fmt::Display for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let on = self.on.to_string();
        if self.what.starts_with(&on) {
            f.write_str(&self.what)
        } else {
            write!(f, "{on}: {}", self.what)
        }
    }
}

/// A look that is needed before more can be said.
impl From<Missing> for Waiting {
    fn from(missing: Missing) -> Self {
        Self {
            on: Place::Operator,
            what: missing.to_string(),
        }
    }
}
