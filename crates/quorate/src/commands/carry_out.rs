//! What all verbs that change a cluster have in common: the plan is shown, asked for once, driven, and the cluster judged by what is seen in
//! the end. Start at [`carry_out`].

use std::time::Duration;

use quorate_exec::{
    Hosts, Infra, Journal, Recorder, StopSignal, World, consider, fence, identity, observe,
    run as run_plan,
};
use quorate_plan::{
    Ensure, Event, Goal, HostEnsure, Intent, Missing, NodeName, Observation, Plan, Planning,
    Refusal,
    assessment::{Health, assess},
    event::Verdict,
    plan::Waiting,
    quorum::Quorum,
    standing::ADOPTED,
};
use tokio::time::Instant;

use super::plan::{refused, say_changes_here, say_rest, say_to_register};
use crate::{
    cluster::ClusterFile,
    console::{Console, Style},
    exit::Exit,
    failure::Failure,
    known::Known,
    reach::Reach,
    show::{self, assessment, bundle::Parts, counted, duration, progress::Progress},
};

/// Before anything is looked at: whoever forgot --yes in a script should not have to wait to be told.
///
/// # Errors
/// When there is nobody to ask.
pub(super) fn somebody_to_ask(
    yes: bool,
    verb: &str,
    instead: &str,
    console: &Console,
) -> Result<(), Failure> {
    if yes || console.terminal.stdin {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "{verb} asks before it does anything, and there is no terminal to ask on"
    ))
    .hint(format!(
        "say --yes in scripts; `{instead}` shows what it would do"
    )))
}

/// What a verb is about.
pub(super) struct Carried<'a> {
    pub(super) cluster: &'a ClusterFile,
    pub(super) intent: &'a Intent,
    /// Do not ask.
    pub(super) yes: bool,
}

/// What was seen and planned when hosts that were on their way had come.
pub(super) struct Considered {
    pub(super) seen: Observation,
    pub(super) planning: Planning,
    /// Something was waited for: what has just come may need a moment to be whole.
    waited: bool,
}

/// Looks and plans, when hosts that are on their way have come, or are not expected any more.
///
/// # Errors
/// When the operator interrupts it.
pub(super) async fn arrived<H: Hosts, I: Infra>(
    intent: &Intent,
    world: &World<H, I>,
    console: &mut Console,
) -> Result<Considered, Failure> {
    let mut waited = false;
    let interrupts = console.interrupts()?;
    let paint = console.paint_err();
    let mut tell = |waiting: &[Waiting], at_most: Duration| {
        waited = true;
        for line in show::refusal::waiting(waiting, paint).lines() {
            console.say(format!("{line} (at most {})", duration(at_most)));
        }
    };
    let (seen, planning) = tokio::select! {
        considered = consider(world, intent, &mut tell) => considered,
        () = interrupts.interrupted() => return Err(Failure::silent(Exit::Interrupted)),
    };
    Ok(Considered {
        seen,
        planning,
        waited,
    })
}

/// Shows the plan, asks once, does it, and says how the cluster is afterwards.
///
/// # Errors
/// When it was not done, or the cluster is not healthy afterwards.
pub(super) async fn carry_out<H: Hosts, I: Infra>(
    carried: &Carried<'_>,
    world: &World<H, I>,
    considered: Considered,
    console: &mut Console,
    reach: &impl Reach,
) -> Result<(), Failure> {
    let Carried {
        cluster,
        intent,
        yes,
    } = *carried;
    let Considered {
        mut seen,
        mut planning,
        mut waited,
    } = considered;
    let name = console
        .paint_err()
        .paint(Style::Bold, &intent.spec.name)
        .to_string();
    let interrupts = console.interrupts()?;
    let mut acted = false;
    loop {
        if !planning.plan.is_empty() {
            let paint = console.paint_err();
            let text = show::plan::text(&planning.plan, &intent.goal, &seen, false, paint);
            console.ask(text);
            console.say(format!("\n{name}: {}", show::plan::size(&planning.plan)));
            say_changes_here(&planning.plan, cluster, console, reach).await?;
            say_to_register(&planning.plan, &intent.spec, console);
        }
        say_rest(&planning, console);
        if let Some(failure) = refused(&planning) {
            cluster.hint_at_trust(&seen, console);
            return Err(failure);
        }
        if planning.plan.is_empty() && planning.waiting.is_empty() {
            console.say(format!("{name}: nothing to do"));
            // A run that was killed when everything stood: what it began may still be coming up, and nobody has ended it.
            let ended = end_left_over(intent, world, &seen).await;
            if let Some(words) = half_way(cluster, intent, &seen) {
                console.say(format!("{name}: {words}"));
                return reached(cluster, intent, &seen, console);
            }
            if waited || ended {
                seen = tokio::select! {
                    seen = settled(intent, world, console) => seen,
                    () = interrupts.interrupted() => return Err(Failure::silent(Exit::Interrupted)),
                };
            }
            reached(cluster, intent, &seen, console)?;
            return verdict(intent, &seen, console);
        }
        if !planning.plan.is_empty()
            && !yes
            && !console.confirm("Do this", "yes", "say --yes in scripts")?
        {
            return Err(Failure::usage(if acted {
                "nothing more was done"
            } else {
                "nothing was done"
            }));
        }
        whole_components(cluster, &planning.plan, console)?;
        begun(cluster, intent)?;
        acted = true;
        let outcome = drive(cluster, intent, world, &planning.plan, console).await?;
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
                ended = end(outcome, cluster, intent, world, console) => ended,
                () = interrupts.interrupted() => Err(Failure::silent(Exit::Interrupted)),
            };
        }
        // What had to happen first has happened: what else is needed can be seen now, and is approved like the rest.
        // Where the run has just seen that more is needed, waiting for a cluster that is whole would be in vain.
        if outcome.verdict == Verdict::Done {
            let _whole = tokio::select! {
                seen = settled(intent, world, console) => seen,
                () = interrupts.interrupted() => return Err(Failure::silent(Exit::Interrupted)),
            };
        }
        Considered {
            seen,
            planning,
            waited,
        } = arrived(intent, world, console).await?;
    }
}

/// Whatever becomes of the run, the ways to the hosts that it is about stay known.
pub(super) fn begun(cluster: &ClusterFile, intent: &Intent) -> Result<(), Failure> {
    let state = cluster.state();
    let mut known = Known::read(&state)?;
    known.begin(intent);
    known.write(&state)
}

/// The goal was reached: hosts that were reset are forgotten, and those that nobody could reset are named.
pub(super) fn reached(
    cluster: &ClusterFile,
    intent: &Intent,
    seen: &Observation,
    console: &mut Console,
) -> Result<(), Failure> {
    let state = cluster.state();
    let mut known = Known::read(&state)?;
    let before = known.clone();
    known.begin(intent);
    known.end(intent, seen);
    if known != before {
        known.write(&state)?;
    }
    for node in known
        .left()
        .filter(|node| intent.retired.contains_key(node))
    {
        console.warn(format!(
            "{node} does not answer, so it was not reset: when it is back, `quorate repair -f {}` does it",
            cluster.path.display()
        ));
    }
    Ok(())
}

/// Ends an operation that nobody is at and of which nothing is left to do, so that it is in no other operator's way. Says whether there was
/// one. A host that cannot be told goes on naming it: whoever comes next tells it.
pub(super) async fn end_left_over<H: Hosts, I: Infra>(
    intent: &Intent,
    world: &World<H, I>,
    seen: &Observation,
) -> bool {
    let left: Vec<&NodeName> = seen
        .hosts
        .iter()
        .filter(|(_, facts)| {
            facts.get().is_ok_and(|facts| match facts.fencing.get() {
                Ok(fencing) => fencing.claim.is_some() && !fencing.connected,
                Err(_) => false,
            })
        })
        .map(|(node, _)| node)
        .collect();
    if left.is_empty() {
        return false;
    }
    let operator = identity::operator(&identity::new_run_id());
    // Where it is somebody else's, it is left to them.
    if let Ok(held) = fence::take(&world.hosts, seen, intent, &Plan::default(), &operator).await {
        for node in left {
            if let Err(error) = held.on(&world.hosts, node).await {
                tracing::warn!(%error, "could not end what was left over");
            }
        }
        for error in held.release(&world.hosts).await {
            tracing::warn!(%error, "could not give the fence back");
        }
    }
    true
}

/// How long the cluster may take to become whole after the last step: pods start, nodes report, leaders are elected.
const SETTLE_MAX: Duration = Duration::from_secs(180);

/// Looks until the cluster is healthy, and for a bounded time; says what it waits for. Returns the last look.
async fn settled<H: Hosts, I: Infra>(
    intent: &Intent,
    world: &World<H, I>,
    console: &mut Console,
) -> Observation {
    let began = Instant::now();
    let mut said = String::new();
    loop {
        let seen = observe(world, intent).await;
        let judged = assess(intent, &seen);
        let left_over = left_over(intent, &seen);
        let in_vain = judged.problems.is_empty()
            && !judged.unseen.is_empty()
            && judged.unseen.iter().all(|one| left_over.contains(one));
        if judged.health == Health::Healthy || in_vain || began.elapsed() > SETTLE_MAX {
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

/// What cannot be seen because workers are away that a conversion passes over by their names: nobody waits for them.
fn left_over(intent: &Intent, seen: &Observation) -> Vec<Missing> {
    let accepted = |node: &&NodeName| {
        let away = Refusal::WorkerAway {
            node: (*node).clone(),
            seen: String::new(),
        };
        away.accepted(&intent.accepted)
    };
    let workers = intent.spec.workers.keys().filter(accepted);
    workers.filter_map(|node| seen.host(node).err()).collect()
}

/// Lines of difference that are shown: more say nothing more.
pub(super) const DIFFERENCES_MAX: usize = 16;

/// Components that are to be brought to hosts are what their manifest says: every host would find out, after it was changed for them.
///
/// # Errors
/// When they are not: nothing was done yet.
pub(super) fn whole_components(
    cluster: &ClusterFile,
    plan: &Plan,
    console: &Console,
) -> Result<(), Failure> {
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
async fn drive<H: Hosts, I: Infra>(
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
    let interrupts = console.interrupts()?;
    let stopping = interrupts.stopping(stop.clone(), progress.voice())?;
    let mut emit = |event: Event| {
        recorder.record(&event);
        progress.show(&event);
    };
    let verdict = run_plan(plan, intent, world, &operator, &stop, &mut emit).await;
    drop(stopping);
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

/// Says how it ended, and judges the cluster.
async fn end<H: Hosts, I: Infra>(
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
            let seen = observe(world, intent).await;
            if let Some(words) = half_way(cluster, intent, &seen) {
                console.say(words);
                return reached(cluster, intent, &seen, console);
            }
            let seen = settled(intent, world, console).await;
            reached(cluster, intent, &seen, console)?;
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

/// What there is to say where the goal is not the cluster of the file, but one of a single master on the way there or back: with the masters
/// of its file it is compared when they have joined.
fn half_way(cluster: &ClusterFile, intent: &Intent, seen: &Observation) -> Option<String> {
    let file = cluster.path.display();
    let goes_on = format!(
        "`quorate convert -f {file}` goes on, `quorate convert -f {file} --undo` takes it back"
    );
    match &intent.goal {
        Goal::Convert {
            pause_after: Some(landmark),
        } => Some(format!("paused after {landmark}: {goes_on}")),
        Goal::Unconvert => Some("taken back: everything leads to where it did before".to_owned()),
        Goal::RetireOldAddress { quiet_for_s } => {
            Some(retired(seen, &intent.goal, *quiet_for_s, &file.to_string()))
        }
        Goal::KeepOldAddress => Some("everybody may come by the old address".to_owned()),
        Goal::Repair => converting(intent, seen)
            .then(|| format!("one master votes, in a conversion that was begun: {goes_on}")),
        Goal::Convert { pause_after: None }
        | Goal::Converge
        | Goal::Replace { .. }
        | Goal::Remove { .. } => None,
    }
}

/// How far the old address is from being refused to others, and what to run then.
fn retired(seen: &Observation, goal: &Goal, quiet_for_s: u64, file: &str) -> String {
    let rules = seen.hosts.iter().filter_map(|(node, facts)| {
        let facts = facts.get().ok()?;
        Some((node, facts.old_address.get().ok()?.as_ref()?))
    });
    let mut said = Vec::new();
    for (node, now) in rules {
        let address = now.rule.address;
        let callers: Vec<String> = now.callers.iter().map(ToString::to_string).collect();
        let callers = if callers.is_empty() {
            "nobody".to_owned()
        } else {
            callers.join(", ")
        };
        said.push(if now.rule.refuse {
            format!(
                "{node}: others than the cluster are refused at {address}:6443; within {} it was tried by {callers}. `quorate convert --keep-old-endpoint -f {file}` takes it back",
                show::duration(Duration::from_secs(now.rule.remember_s))
            )
        } else {
            let left = Duration::from_secs(quiet_for_s).saturating_sub(now.over);
            format!(
                "{node}: nobody is refused at {address}:6443 yet: who comes there is remembered, so far {callers}. In {}, if nobody comes till then, run `quorate {goal} -f {file}` again",
                show::duration(left)
            )
        });
    }
    said.join("; ")
}

/// A conversion was begun, and the master that was there first is the only one that votes.
fn converting(intent: &Intent, seen: &Observation) -> bool {
    let alone = matches!(Quorum::of(seen), Ok(Some(quorum)) if quorum.voter_count() == 1);
    let begun = seen.api().is_ok_and(|api| {
        let notes = api.map(|api| api.notes.get());
        matches!(notes, Some(Ok(Some(notes))) if notes.contains_key(ADOPTED))
    });
    alone && begun && intent.spec.control_plane.len() > 1
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
