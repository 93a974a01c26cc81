//! `quorate apply`: the cluster becomes what its file says. Shows the plan, asks once, does it, and says how the cluster is afterwards.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use quorate_exec::{
    Journal, Recorder, Stop, StopSignal, World, consider, identity, observe, run as run_plan,
};
use quorate_plan::{
    Ensure, Event, Goal, HostEnsure, Intent, Observation, Plan, Planning,
    assessment::{Health, assess},
    event::Verdict,
    plan::Waiting,
};
use tokio::time::Instant;

use super::plan::{refused, say_changes_here, say_rest};
use crate::{
    args::{AcceptArgument, FileArgument},
    cluster::ClusterFile,
    console::{Console, Style},
    exit::Exit,
    failure::Failure,
    reach::Reach,
    saved::{self, SavedPlan},
    show::{
        self, assessment,
        bundle::Parts,
        counted, duration,
        progress::{Between, Progress},
    },
};

/// Make the cluster what its file says.
///
/// Shows the plan, asks once, does it step by step, and prints how the cluster is afterwards. Running it again goes on from what is
/// there. Ctrl-C once stops at the next safe point and says what is left; twice stops at once.
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  quorate apply -f demo.yaml
  quorate apply --yes                       in scripts: do not ask
  quorate apply demo.plan                   a plan saved by `quorate plan --out demo.plan`
  quorate apply --accept clock-differs=cp-2")]
pub struct Arguments {
    /// A saved plan, with the cluster it is for. It is applied only if planning afresh yields the same.
    #[arg(value_name = "PLAN", conflicts_with = "accept")]
    plan: Option<PathBuf>,
    #[command(flatten)]
    file: FileArgument,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    accept: AcceptArgument,
}

/// Runs it.
///
/// # Errors
/// When it was not done, or the cluster is not healthy afterwards.
pub async fn run(
    arguments: &Arguments,
    console: &mut Console,
    reach: &impl Reach,
) -> Result<(), Failure> {
    // Asked for before anything is looked at: whoever forgot --yes in a script should not have to wait for it.
    if !arguments.yes && !console.terminal.stdin {
        return Err(Failure::usage(
            "apply asks before it does anything, and there is no terminal to ask on",
        )
        .hint("say --yes in scripts; `quorate plan` shows what it would do"));
    }
    let saved = arguments.plan.as_deref().map(SavedPlan::read).transpose()?;
    let (cluster, intent) = match &saved {
        Some(saved) => (saved.cluster(reach.directories()?)?, saved.intent.clone()),
        None => {
            let cluster = ClusterFile::read(&arguments.file.file, reach.directories()?, console)?;
            cluster.say_warnings(console);
            let intent = cluster.intent(Goal::Converge, &arguments.accept.accept)?;
            (cluster, intent)
        }
    };
    let world = reach.world(&cluster, &intent).await?;
    let (mut seen, mut planning, mut waited) = arrived(&intent, &world, console).await?;
    if let Some(saved) = &saved
        && refused(&planning).is_none()
    {
        same(&saved.plan, &planning.plan, console)?;
    }
    let name = console
        .paint_err()
        .paint(Style::Bold, &intent.spec.name)
        .to_string();
    let mut acted = false;
    loop {
        if !planning.plan.is_empty() {
            let paint = console.paint_err();
            console.ask(show::plan::text(&planning.plan, &seen, false, paint));
            console.say(format!("\n{name}: {}", show::plan::size(&planning.plan)));
            say_changes_here(&planning.plan, &cluster, console, reach).await?;
        }
        say_rest(&planning, console);
        if let Some(failure) = refused(&planning) {
            cluster.hint_at_trust(&seen, console);
            return Err(failure);
        }
        if planning.plan.is_empty() && planning.waiting.is_empty() {
            console.say(format!("{name}: nothing to do"));
            if waited {
                seen = tokio::select! {
                    seen = settled(&intent, &world, console) => seen,
                    Ok(()) = tokio::signal::ctrl_c() => return Err(Failure::silent(Exit::Interrupted)),
                };
            }
            return verdict(&intent, &seen, console);
        }
        if !planning.plan.is_empty()
            && !arguments.yes
            && !console.confirm("Do this", "yes", "say --yes in scripts")?
        {
            return Err(Failure::usage(if acted {
                "nothing more was done"
            } else {
                "nothing was done"
            }));
        }
        whole_components(&cluster, &planning.plan, console)?;
        acted = true;
        let outcome = drive(&cluster, &intent, &world, &planning.plan, console).await?;
        let goes_on = match &outcome.verdict {
            Verdict::More => true,
            Verdict::Done => !planning.waiting.is_empty(),
            Verdict::Refused { .. }
            | Verdict::Failed { .. }
            | Verdict::Unseen { .. }
            | Verdict::Stopped { .. } => false,
        };
        if !goes_on {
            return tokio::select! {
                ended = end(outcome, &cluster, &intent, &world, console) => ended,
                Ok(()) = tokio::signal::ctrl_c() => Err(Failure::silent(Exit::Interrupted)),
            };
        }
        // What had to happen first has happened: what else is needed can be seen now, and is approved like the rest.
        // Where the run has just seen that more is needed, waiting for a cluster that is whole would be in vain.
        if outcome.verdict == Verdict::Done {
            let _whole = tokio::select! {
                seen = settled(&intent, &world, console) => seen,
                Ok(()) = tokio::signal::ctrl_c() => return Err(Failure::silent(Exit::Interrupted)),
            };
        }
        (seen, planning, waited) = arrived(&intent, &world, console).await?;
    }
}

/// Looks and plans, when hosts that are on their way have come, or are not expected any more. Says as well whether it waited for any.
async fn arrived<H: quorate_exec::Hosts, I: quorate_exec::Infra>(
    intent: &Intent,
    world: &World<H, I>,
    console: &mut Console,
) -> Result<(Observation, Planning, bool), Failure> {
    let mut waited = false;
    let paint = console.paint_err();
    let mut tell = |waiting: &[Waiting], at_most: Duration| {
        waited = true;
        for line in show::refusal::waiting(waiting, paint).lines() {
            console.say(format!("{line} (at most {})", duration(at_most)));
        }
    };
    let (seen, planning) = tokio::select! {
        considered = consider(world, intent, &mut tell) => considered,
        Ok(()) = tokio::signal::ctrl_c() => return Err(Failure::silent(Exit::Interrupted)),
    };
    Ok((seen, planning, waited))
}

/// How long the cluster may take to become whole after the last step: pods start, nodes report, leaders are elected.
const SETTLE_MAX: Duration = Duration::from_secs(180);

/// Looks until the cluster is healthy, and for a bounded time; says what it waits for. Returns the last look.
async fn settled<H: quorate_exec::Hosts, I: quorate_exec::Infra>(
    intent: &Intent,
    world: &World<H, I>,
    console: &mut Console,
) -> Observation {
    let began = Instant::now();
    let mut said = String::new();
    loop {
        let seen = observe(world, intent).await;
        let judged = assess(intent, &seen);
        if judged.health == Health::Healthy || began.elapsed() > SETTLE_MAX {
            return seen;
        }
        let first = judged
            .problems
            .first()
            .map(|problem| format!("{}: {}", problem.on, problem.what))
            .or_else(|| judged.unseen.first().map(ToString::to_string))
            .unwrap_or_default();
        if first != said {
            console.say(format!("waiting: {}", show::harmless(&first)));
            said = first;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Lines of difference that are shown: more say nothing more.
const DIFFERENCES_MAX: usize = 16;

/// A saved plan is what was approved: planning afresh has to yield it.
fn same(saved: &Plan, fresh: &Plan, console: &mut Console) -> Result<(), Failure> {
    let difference = saved::difference(saved, fresh);
    if difference.is_empty() {
        return Ok(());
    }
    console.say("The cluster is not as it was when the plan was saved:");
    for line in difference.iter().take(DIFFERENCES_MAX) {
        let style = if line.starts_with('-') {
            Style::Bad
        } else {
            Style::Good
        };
        console.say(format!("  {}", console.paint_err().paint(style, line)));
    }
    let left = difference.len().saturating_sub(DIFFERENCES_MAX);
    if left > 0 {
        console.say(format!("  … and {left} more"));
    }
    Err(Failure::new(
        Exit::Refused,
        "planning afresh yields another plan than the saved one",
    )
    .hint("look at it and save it again: `quorate plan --out FILE`"))
}

/// Components that are to be brought to hosts are what their manifest says: every host would find out, after it was changed for them.
///
/// # Errors
/// When they are not: nothing was done yet.
fn whole_components(cluster: &ClusterFile, plan: &Plan, console: &Console) -> Result<(), Failure> {
    let brought = plan
        .stages
        .iter()
        .flat_map(|stage| &stage.steps)
        .any(|step| matches!(step.ensure, Ensure::Host(HostEnsure::Bundle { .. })));
    if !brought {
        return Ok(());
    }
    let path = cluster.bundle_path();
    let mut parts = Parts::new(console);
    let compared = quorate_bundle::verify(&path, &mut |progress| parts.count(&progress));
    parts.end();
    let differences = compared.map_err(|error| Failure::from_error(Exit::Usage, &error))?;
    if differences.is_empty() {
        return Ok(());
    }
    let mut failure = Failure::usage(format!(
        "the components in `{}` are not what their manifest says: nothing was done",
        path.display()
    ));
    failure.causes = differences
        .iter()
        .take(DIFFERENCES_MAX)
        .map(ToString::to_string)
        .collect();
    Err(failure.hint(format!(
        "`quorate bundle verify {}` shows all; build or fetch them again: files that are right are kept",
        path.display()
    )))
}

/// How a run ended.
struct Outcome {
    verdict: Verdict,
    run: String,
    /// What stopped it was the operator, not a journal that could not be written.
    interrupted: bool,
}

/// Runs a plan: journal, progress, and Ctrl-C.
async fn drive<H: quorate_exec::Hosts, I: quorate_exec::Infra>(
    cluster: &ClusterFile,
    intent: &Intent,
    world: &World<H, I>,
    plan: &Plan,
    console: &mut Console,
) -> Result<Outcome, Failure> {
    let state = cluster.state();
    state.make()?;
    let run = identity::new_run_id();
    let journal = Journal::open(&state.runs(), &run)
        .map_err(|error| Failure::from_error(Exit::Unexpected, &error))?;
    let stop = StopSignal::new();
    let mut recorder = Recorder::new(journal, stop.clone());
    let mut progress = Progress::new(console, plan.stages.len());
    let operator = identity::operator(&run);
    let interrupt = tokio::spawn(interrupted(stop.clone(), progress.voice()));
    let mut emit = |event: Event| {
        recorder.record(&event);
        progress.show(&event);
    };
    let verdict = run_plan(plan, intent, world, &operator, &stop, &mut emit).await;
    interrupt.abort();
    progress.end();
    let took = duration(progress.elapsed());
    if progress.steps() > 0 {
        console.say(format!("{} in {took}", counted(progress.steps(), "step")));
    }
    if let Some(error) = recorder.error() {
        console.failure(&Failure::from_error(Exit::Unexpected, error));
    }
    Ok(Outcome {
        verdict,
        run,
        interrupted: recorder.error().is_none(),
    })
}

/// Ctrl-C: once to stop where the cluster may rest, twice to stop at once.
async fn interrupted(stop: StopSignal, voice: Between) {
    let mut before = false;
    while tokio::signal::ctrl_c().await.is_ok() {
        if before {
            voice.say("Stopping now. Hosts finish the action they are at.");
            stop.ask(Stop::Now);
        } else {
            voice.say("Stopping at the next safe point. Ctrl-C again stops at once.");
            stop.ask(Stop::AtSafePoint);
        }
        before = true;
    }
}

/// Says how it ended, and judges the cluster.
async fn end<H: quorate_exec::Hosts, I: quorate_exec::Infra>(
    outcome: Outcome,
    cluster: &ClusterFile,
    intent: &Intent,
    world: &World<H, I>,
    console: &mut Console,
) -> Result<(), Failure> {
    let paint = console.paint_err();
    let again = format!(
        "run the same command again to go on; `quorate journal explain {}`",
        outcome.run
    );
    match outcome.verdict {
        Verdict::Done | Verdict::More => {
            let seen = settled(intent, world, console).await;
            verdict(intent, &seen, console)
        }
        Verdict::Refused { refusals } => {
            console.ask(show::refusal::all(&refusals, paint));
            Err(Failure::silent(Exit::Refused).hint(format!(
                "what was done before it stands; `quorate status -f {}`",
                cluster.path.display()
            )))
        }
        Verdict::Failed { step, error } => Err(Failure::new(
            Exit::StepFailed,
            format!(
                "{}: {}: {}",
                show::plan::where_of(&step),
                show::plan::what_of(&step),
                show::harmless(&error)
            ),
        )
        .hint(again)),
        Verdict::Unseen { missing } => {
            let mut failure = Failure::new(Exit::Unseen, "it could not be seen whether it is done");
            failure.causes = missing.iter().map(|one| show::harmless(one)).collect();
            Err(failure.hint(again))
        }
        Verdict::Stopped { left } => {
            let exit = if outcome.interrupted {
                Exit::Interrupted
            } else {
                Exit::Unexpected
            };
            Err(Failure::new(exit, format!("stopped, {} left", counted(left, "step"))).hint(again))
        }
    }
}

/// The cluster as it is now, and the exit code that says so.
fn verdict(intent: &Intent, seen: &Observation, console: &mut Console) -> Result<(), Failure> {
    let judged = assess(intent, seen);
    let paint = console.paint_out();
    console.data(&assessment::verdict(intent, &judged, paint))?;
    console.data(&assessment::trouble(&judged, paint))?;
    match assessment::exit(judged.health) {
        Exit::Done => Ok(()),
        exit => Err(Failure::silent(exit)),
    }
}
