//! One operator's run as the command line makes it: look, plan, lint, run. Start at [`apply`].

use quorate_exec::{StopSignal, World as Seams, consider, run};
use quorate_plan::{Event, Intent, Operator, Plan, Planning, event::Verdict, lint::lint};

use crate::{
    memory::{MemoryHosts, MemoryInfra, Script, Shared},
    render,
};

/// How an operator's run went.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its end; `None` when a fault killed the process.
    pub verdict: Option<Verdict>,
    /// The plan that was approved.
    pub approved: Plan,
    /// What it told.
    pub events: Vec<Event>,
    /// Effects it asked for.
    pub effects: u64,
}

impl Run {
    /// In one line.
    pub fn text(&self) -> String {
        match &self.verdict {
            Some(verdict) => render::verdict(verdict),
            None => "killed".into(),
        }
    }

    fn ended(verdict: Verdict) -> Self {
        Self {
            verdict: Some(verdict),
            approved: Plan::default(),
            events: Vec::new(),
            effects: 0,
        }
    }
}

/// Looks and plans, and approves whatever was planned.
///
/// # Errors
/// The refusal, as the end of a run that did not begin.
///
/// # Panics
/// When the lint finds something in the plan: always a bug of the planner.
pub async fn approve(
    seams: &Seams<MemoryHosts, MemoryInfra>,
    intent: &Intent,
) -> Result<Plan, Verdict> {
    let (seen, planning) = consider(seams, intent, &mut |_, _| {}).await;
    let Planning {
        plan,
        waiting,
        refused,
    } = planning;
    if !refused.is_empty() {
        return Err(Verdict::Refused { refusals: refused });
    }
    if plan.is_empty() && !waiting.is_empty() {
        let missing = waiting.iter().map(ToString::to_string).collect();
        return Err(Verdict::Unseen { missing });
    }
    let findings = lint(&plan, &seen);
    assert!(
        findings.is_empty(),
        "the lint finds {findings:?} in\n{}",
        render::plan(&plan)
    );
    Ok(plan)
}

/// Looks, plans, approves whatever was planned, and runs it.
pub async fn apply(shared: &Shared, intent: &Intent, operator: Operator, script: Script) -> Run {
    let (seams, handle) = shared.operator(operator.clone(), script);
    let approved = match approve(&seams, intent).await {
        Ok(approved) => approved,
        Err(verdict) => return Run::ended(verdict),
    };
    let stop = StopSignal::new();
    let mut events = Vec::new();
    let mut emit = |event| events.push(event);
    let verdict = tokio::select! {
        biased;
        () = handle.killed() => None,
        verdict = run(&approved, intent, &seams, &operator, &stop, &mut emit) => Some(verdict),
    };
    if verdict.is_some() {
        handle.kill();
    }
    Run {
        verdict,
        approved,
        events,
        effects: handle.effects(),
    }
}

/// New runs of new operators, the first of them number `first`, until one ends as done, as refused, or `runs_max` have ended: what people
/// do after a tool was killed. A plan that starts machines is followed by one that goes on.
pub async fn apply_until_done(
    shared: &Shared,
    intent: &Intent,
    first: u32,
    runs_max: u32,
) -> Vec<Run> {
    let mut runs = Vec::new();
    for number in first..first + runs_max {
        let operator = crate::fixture::operator(number);
        let run = apply(shared, intent, operator, Script::none()).await;
        let more = !matches!(run.verdict, Some(Verdict::Done)) || !run.approved.is_empty();
        runs.push(run);
        if !more {
            break;
        }
    }
    runs
}
