//! `quorate apply`: the cluster becomes what its file says. Shows the plan, asks once, does it, and says how the cluster is afterwards.

use std::path::PathBuf;

use clap::Args;
use quorate_plan::{Goal, Plan};

use super::{
    carry_out::{Carried, DIFFERENCES_MAX, arrived, carry_out, somebody_to_ask},
    plan::refused,
};
use crate::{
    args::{AcceptArgument, FileArgument},
    cluster::ClusterFile,
    console::{Console, Style},
    exit::Exit,
    failure::Failure,
    reach::{Reach, wanted},
    saved::{self, SavedPlan},
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
    somebody_to_ask(arguments.yes, "apply", "quorate plan", console)?;
    let saved = arguments.plan.as_deref().map(SavedPlan::read).transpose()?;
    let (cluster, intent) = match &saved {
        Some(saved) => (saved.cluster(reach.directories()?)?, saved.intent.clone()),
        None => {
            let cluster = ClusterFile::read(&arguments.file.file, reach.directories()?, console)?;
            cluster.say_warnings(console);
            let accepted = &arguments.accept.accept;
            let intent = wanted(&cluster, Goal::Converge, accepted, reach).await?;
            (cluster, intent)
        }
    };
    let world = reach.world(&cluster, &intent).await?;
    let considered = arrived(&intent, &world, console).await?;
    if let Some(saved) = &saved
        && refused(&considered.planning).is_none()
    {
        same(&saved.plan, &considered.planning.plan, console)?;
    }
    let carried = Carried {
        cluster: &cluster,
        intent: &intent,
        yes: arguments.yes,
    };
    carry_out(&carried, &world, considered, console, reach).await
}

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
