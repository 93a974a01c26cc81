//! Bugs that a planner, a guard or a gate could have, seeded around the production code, to see that the model finds them. Start at
//! [`all`].
//!
//! Each is a wrapper: a planner's bug edits the plan that production made, a guard's bug looks at a doctored observation. The lint, which
//! would find many of them in the plan already, is left out while the model looks, and asked apart.

mod left_out;
mod mistaken;
mod order;
mod senses;

use quorate_plan::{
    Admitted, Change, Ensure, HostEnsure, Intent, Observation, Plan, Planning, Refusal, Request,
    Step, observation::Fencing, permit, plan,
};

use super::{
    Asks, Bounds, Decisions, Fault, Pace, Procedure, Report, Rules, Search, check, procedure,
};
use crate::world::{ActError, act::gate};

/// A seeded bug.
#[derive(Clone, Copy)]
pub struct Bug {
    /// Its name.
    pub name: &'static str,
    /// What it does, as a sentence.
    pub does: &'static str,
    /// What decides with it.
    pub decisions: fn() -> Decisions,
    /// Where it shows.
    pub procedure: fn() -> Procedure,
    /// How far to look for it.
    pub bounds: fn() -> Bounds,
}

impl std::fmt::Debug for Bug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// How a bug was found.
#[derive(Debug)]
pub struct Found {
    /// The lint finds it in the plan, before anything is done.
    pub by_lint: bool,
    /// What the model says.
    pub report: Report,
}

impl Bug {
    /// Looks for it with production's rules, by the shortest way.
    pub fn look(&self) -> Found {
        let procedure = (self.procedure)();
        // What it breaks makes the better story; some break nothing, and lead nowhere.
        let mut report = self.search(&procedure, Asks::Safe);
        if report.failures.is_empty() {
            report = self.search(&procedure, Asks::Both);
        }
        let linted = Rules::new(&procedure, (self.bounds)(), (self.decisions)());
        let begun = linted.begin(&linted.first(), 0, linted.wants[0][0]);
        Found {
            by_lint: begun.is_some_and(|state| state.broken == Some(super::Broken::Lint)),
            report,
        }
    }
}

impl Bug {
    fn search(&self, procedure: &Procedure, asks: Asks) -> Report {
        let decisions = Decisions {
            lint: |_, _| Vec::new(),
            ..(self.decisions)()
        };
        let mut rules = Rules::new(procedure, (self.bounds)(), decisions);
        rules.asks = asks;
        check(rules, Search::short())
    }
}

/// Nothing goes wrong but the bug itself.
fn undisturbed() -> Bounds {
    Bounds::none().pace(Pace::Strides)
}

/// One fault of that kind.
fn with(fault: Fault) -> Bounds {
    Bounds::none()
        .runs(2, 0)
        .faults(1, &[(fault, 1)])
        .pace(Pace::Strides)
}

/// All of them.
pub fn all() -> Vec<Bug> {
    [left_out::BUGS, order::BUGS, mistaken::BUGS, senses::BUGS].concat()
}

/// Production's plan, edited.
fn edited(intent: &Intent, seen: &Observation, edit: impl FnOnce(&mut Plan)) -> Planning {
    let mut planning = plan(intent, seen);
    edit(&mut planning.plan);
    planning.plan.stages.retain(|stage| !stage.steps.is_empty());
    planning
}

/// What a step wants of a host.
fn of(step: &Step) -> Option<&HostEnsure> {
    match &step.ensure {
        Ensure::Host(ensure) => Some(ensure),
        Ensure::Infra(_) => None,
    }
}

fn has(plan: &Plan, stage: usize, wanted: impl Fn(&HostEnsure) -> bool) -> bool {
    plan.stages[stage].steps.iter().filter_map(of).any(wanted)
}

/// Takes the steps out that want this.
fn drop_steps(plan: &mut Plan, unwanted: impl Fn(&HostEnsure) -> bool) {
    for stage in &mut plan.stages {
        stage.steps.retain(|step| !of(step).is_some_and(&unwanted));
    }
}

/// Moves the first stage that has one before the first stage that has the other, when it comes after it.
fn move_stage(
    plan: &mut Plan,
    what: impl Fn(&HostEnsure) -> bool,
    before: impl Fn(&HostEnsure) -> bool,
) {
    let place = |wanted: &dyn Fn(&HostEnsure) -> bool| {
        (0..plan.stages.len()).find(|stage| has(plan, *stage, wanted))
    };
    if let (Some(from), Some(to)) = (place(&what), place(&before))
        && from > to
    {
        let stage = plan.stages.remove(from);
        plan.stages.insert(to, stage);
    }
}

/// Changes what steps want.
fn change_steps(plan: &mut Plan, mut change: impl FnMut(&mut Step)) {
    for stage in &mut plan.stages {
        for step in &mut stage.steps {
            change(step);
        }
    }
}

/// Production's guard over a doctored observation.
fn permit_seeing(
    seen: &Observation,
    change: &Change,
    intent: &Intent,
    doctor: impl FnOnce(&mut Observation),
) -> Result<(), Refusal> {
    let mut seen = seen.clone();
    doctor(&mut seen);
    permit(&seen, change, &intent.accepted).map(|_permit| ())
}

/// Production's gate over a doctored observation.
fn gate_seeing(
    request: Request,
    fencing: &Fencing,
    seen: &Observation,
    doctor: impl FnOnce(&mut Observation),
) -> Result<Admitted, ActError> {
    let mut seen = seen.clone();
    doctor(&mut seen);
    gate(request, fencing, &seen)
}

/// A planner's bug, with production's guards.
fn planner(plan: fn(&Intent, &Observation) -> Planning) -> Decisions {
    Decisions {
        plan,
        ..Decisions::default()
    }
}

fn removes(ensure: &HostEnsure) -> bool {
    matches!(ensure, HostEnsure::MemberGone { .. })
}

fn adds(ensure: &HostEnsure) -> bool {
    matches!(ensure, HostEnsure::Learner { .. })
}

fn drains(ensure: &HostEnsure) -> bool {
    matches!(ensure, HostEnsure::BackendGone { .. })
}

fn starts_etcd(ensure: &HostEnsure) -> bool {
    matches!(ensure, HostEnsure::EtcdMember { .. })
}

fn resets(ensure: &HostEnsure) -> bool {
    matches!(ensure, HostEnsure::Reset { .. })
}
