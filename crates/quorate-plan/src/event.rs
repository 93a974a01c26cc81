//! What a run tells: one enum serves the journal, the progress display, metrics and the report. No decision reads it.

use serde::{Deserialize, Serialize};

use crate::{
    change::Change,
    intent::{Fence, Intent, Operator},
    plan::Plan,
    refusal::Refusal,
    standing::Evidence,
    step::Step,
};

/// One thing that happened in a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "event")]
pub enum Event {
    /// A run began, with an approved plan.
    Started {
        /// Who.
        operator: Operator,
        /// What is wanted.
        intent: Box<Intent>,
        /// What was approved.
        plan: Plan,
    },
    /// The fence was taken on every host that will be acted on.
    Fenced {
        /// The token.
        fence: Fence,
    },
    /// A stage was permitted and begins.
    StageStarted {
        /// Its place in the approved plan, from 1.
        number: usize,
        /// Its title.
        title: String,
        /// Its change.
        change: Option<Change>,
    },
    /// An effect is about to be made.
    StepStarted {
        /// The step.
        step: Box<Step>,
    },
    /// News of a step that takes long: a line from the host or the provider, escaped and capped.
    StepProgress {
        /// The step.
        step: Box<Step>,
        /// What is going on.
        line: String,
    },
    /// An effect was made, and the end state stands.
    StepStands {
        /// The step.
        step: Box<Step>,
        /// What shows it.
        evidence: Evidence,
        /// How long it took, in milliseconds.
        took_ms: u64,
    },
    /// An effect failed, or its end state did not stand in time.
    StepFailed {
        /// The step.
        step: Box<Step>,
        /// What was expected and what was seen.
        error: String,
    },
    /// Nothing can be acted on just now, and it may pass by itself.
    Waiting {
        /// What is waited for, or what is in the way.
        what: String,
        /// How long it is given in all, in seconds.
        at_most_s: u64,
    },
    /// The run stops: a guard said no.
    Refused {
        /// Why.
        refusal: Refusal,
    },
    /// The run ended.
    Ended {
        /// How.
        verdict: Verdict,
    },
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// Everything stands.
    Done,
    /// All that was approved stands, and planning afresh yields more: what could not be seen before. It has to be approved as well.
    More,
    /// A guard said no. Nothing was done after it.
    Refused {
        /// Why.
        refusals: Vec<Refusal>,
    },
    /// A step failed.
    Failed {
        /// The step.
        step: Box<Step>,
        /// What was expected and what was seen.
        error: String,
    },
    /// It could not be seen whether it is done.
    Unseen {
        /// What was missing.
        missing: Vec<String>,
    },
    /// The operator asked to stop; what is left is in the plan that planning afresh yields.
    Stopped {
        /// Steps left.
        left: usize,
    },
}
