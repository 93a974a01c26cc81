//! `quorate repair`: what was begun and not finished is taken back, what was left behind is cleared away.

use clap::Args;
use quorate_plan::Goal;

use super::verb;
use crate::{
    cluster::ClusterFile,
    console::Console,
    failure::Failure,
    reach::{Reach, wanted},
};

/// Clear away what failed joins and lost hosts left behind.
///
/// A learner that never became a voter, a member whose host is gone, a node without a host, an address of the `kubernetes` service that
/// nobody answers at, a backend that is no master, join tokens and uploaded certificates. Nothing joins: `apply` does that. The plan is
/// shown, and asked for once.
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  quorate repair -f demo.yaml
  quorate repair -n                         the plan alone
  quorate repair -n -o json | jq '.planning.plan.stages[].title'")]
pub struct Arguments {
    #[command(flatten)]
    verb: verb::VerbArguments,
}

/// Runs it.
///
/// # Errors
/// When it was refused or not done, or the cluster is not healthy afterwards.
pub async fn run(
    arguments: &Arguments,
    console: &mut Console,
    reach: &impl Reach,
) -> Result<(), Failure> {
    let verb = &arguments.verb;
    verb.check("repair", console)?;
    let cluster = ClusterFile::read(&verb.file.file, reach.directories()?, console)?;
    cluster.say_warnings(console);
    let intent = wanted(&cluster, Goal::Repair, &verb.accept.accept, reach).await?;
    let world = reach.world(&cluster, &intent).await?;
    verb::run(verb, &cluster, &intent, &world, console, reach).await
}
