//! `quorate plan`: what would be done, and why. Nothing is.

use std::path::PathBuf;

use clap::Args;
use quorate_plan::{
    Ensure, Goal, InfraEnsure, Intent, Plan, Planning, Spec, interruption::Expected,
    refusal::RefusalCode,
};
use serde::Serialize;

use super::carry_out::{Considered, arrived};
use crate::{
    args::{AcceptArgument, FileArgument, Output, OutputArgument},
    cluster::ClusterFile,
    console::{Console, Style},
    exit::Exit,
    failure::Failure,
    reach::{Reach, wanted},
    saved::SavedPlan,
    show::{self, json},
};

/// Show what would be done, and why. Nothing is done.
///
/// Looks at every host, plans, and prints stages in order: what each changes for etcd's quorum, and its steps by host with their
/// reasons. What `plan` prints is what `apply` does.
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  quorate plan -f demo.yaml
  quorate plan -f demo.yaml -v              with every setting
  quorate plan -f demo.yaml --out demo.plan  then: quorate apply demo.plan
  quorate plan -o json | jq '.planning.plan.stages[].title'")]
pub struct Arguments {
    #[command(flatten)]
    file: FileArgument,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    accept: AcceptArgument,
}

/// How a plan is written.
#[derive(Debug, Args)]
pub(super) struct How {
    #[command(flatten)]
    pub(super) output: OutputArgument,
    /// Save the plan, for `quorate apply FILE`.
    #[arg(long, value_name = "FILE")]
    pub(super) out: Option<PathBuf>,
    /// Show every setting that would be made.
    #[arg(short, long)]
    pub(super) verbose: bool,
}

#[derive(Serialize)]
struct Object<'a> {
    cluster: String,
    planning: &'a Planning,
    /// Of each stage, of a conversion.
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<Vec<Expected>>,
}

/// Runs it.
///
/// # Errors
/// When the cluster file is wrong or the way to the hosts cannot be set up; when something is refused or was not seen, after it was
/// printed.
pub async fn run(
    arguments: &Arguments,
    console: &mut Console,
    reach: &impl Reach,
) -> Result<(), Failure> {
    let cluster = ClusterFile::read(&arguments.file.file, reach.directories()?, console)?;
    cluster.say_warnings(console);
    let intent = wanted(&cluster, Goal::Converge, &arguments.accept.accept, reach).await?;
    let world = reach.world(&cluster, &intent).await?;
    let considered = arrived(&intent, &world, console).await?;
    show(
        &cluster,
        &intent,
        &considered,
        &arguments.how,
        console,
        reach,
    )
    .await
}

/// Prints a plan, and saves it where that was asked for.
///
/// # Errors
/// When something is refused or was not seen, after it was printed, or the plan cannot be saved.
pub(super) async fn show(
    cluster: &ClusterFile,
    intent: &Intent,
    Considered { seen, planning, .. }: &Considered,
    how: &How,
    console: &mut Console,
    reach: &impl Reach,
) -> Result<(), Failure> {
    match how.output.output {
        Output::Json => console.data(&json::text(
            "Plan",
            &Object {
                cluster: intent.spec.name.to_string(),
                planning,
                expected: show::plan::expected(&planning.plan, &intent.goal, seen),
            },
        ))?,
        Output::Text => {
            let paint = console.paint_out();
            let nothing = planning.plan.is_empty()
                && planning.refused.is_empty()
                && planning.waiting.is_empty();
            let text = if nothing {
                format!(
                    "{}: nothing to do\n",
                    paint.paint(Style::Bold, &intent.spec.name)
                )
            } else if planning.plan.is_empty() {
                String::new()
            } else {
                format!(
                    "{}\n{}: {}\n",
                    show::plan::text(&planning.plan, &intent.goal, seen, how.verbose, paint),
                    paint.paint(Style::Bold, &intent.spec.name),
                    show::plan::size(&planning.plan)
                )
            };
            console.data(&text)?;
        }
    }
    say_changes_here(&planning.plan, cluster, console, reach).await?;
    say_to_register(&planning.plan, &intent.spec, console);
    say_rest(planning, console);
    if let Some(failure) = refused(planning) {
        cluster.hint_at_trust(seen, console);
        return Err(failure);
    }
    if let Some(out) = &how.out {
        if planning.plan.is_empty() {
            console.warn("there is nothing to do, so no plan was saved");
        } else {
            SavedPlan::new(cluster, intent, &planning.plan).write(out)?;
            console.say(format!("Saved. Next: `quorate apply {}`", out.display()));
        }
    }
    Ok(())
}

/// Lists what making machines changes on this one, before anything is made.
///
/// # Errors
/// When its settings cannot be read.
pub(super) async fn say_changes_here(
    plan: &Plan,
    cluster: &ClusterFile,
    console: &mut Console,
    reach: &impl Reach,
) -> Result<(), Failure> {
    let makes = plan
        .stages
        .iter()
        .flat_map(|stage| &stage.steps)
        .any(|step| matches!(step.ensure, Ensure::Infra(InfraEnsure::Machine { .. })));
    if !makes {
        return Ok(());
    }
    let changes = reach.changes_here(cluster).await?;
    if !changes.is_empty() {
        console.say(
            "Settings of this machine change for local hosts, until the last of them is destroyed:",
        );
        for change in changes {
            console.say(format!("  {change}"));
        }
    }
    Ok(())
}

/// Says who has to be registered with a balancer that is the user's.
pub(super) fn say_to_register(plan: &Plan, spec: &Spec, console: &mut Console) {
    if let Some(line) = show::plan::to_register(plan, spec) {
        console.say(line);
    }
}

/// Says what is waited for and what is refused.
pub(super) fn say_rest(planning: &Planning, console: &mut Console) {
    let paint = console.paint_err();
    console.ask(show::refusal::waiting(&planning.waiting, paint));
    console.ask(show::refusal::all(&planning.refused, paint));
}

/// How a plan ends that is refused.
pub(super) fn refused(planning: &Planning) -> Option<Failure> {
    let unseen = |code: RefusalCode| code == RefusalCode::Missing;
    let refused = &planning.refused;
    if refused.is_empty() && planning.plan.is_empty() && !planning.waiting.is_empty() {
        // Hosts are on their way; what they need cannot be said before they tell.
        Some(
            Failure::silent(Exit::Unseen)
                .hint("run it again in a while; `quorate status` shows what can be seen"),
        )
    } else if refused.is_empty() {
        None
    } else if refused.iter().all(|refusal| unseen(refusal.code())) {
        Some(Failure::silent(Exit::Unseen))
    } else {
        Some(Failure::silent(Exit::Refused))
    }
}
