//! What `replace`, `remove` and `repair` have in common: their arguments, and the way from a goal to its end. Start at [`run`].

use clap::Args;
use quorate_exec::{Hosts, Infra, World};
use quorate_plan::Intent;

use super::{
    carry_out::{Carried, arrived, carry_out, somebody_to_ask},
    plan::{self, How},
};
use crate::{
    args::{AcceptArgument, FileArgument, Output},
    cluster::ClusterFile,
    console::Console,
    failure::Failure,
    reach::Reach,
};

/// Which cluster, and how it is done.
#[derive(Debug, Args)]
pub(super) struct VerbArguments {
    #[command(flatten)]
    pub(super) file: FileArgument,
    /// Show the plan and do nothing.
    #[arg(short = 'n', long)]
    plan_only: bool,
    #[command(flatten)]
    how: How,
    /// Do not ask.
    #[arg(long, conflicts_with = "plan_only")]
    yes: bool,
    #[command(flatten)]
    pub(super) accept: AcceptArgument,
}

impl VerbArguments {
    /// What can be said before anything is looked at.
    ///
    /// # Errors
    /// When what was asked for makes no sense, or there is nobody to ask.
    pub(super) fn check(&self, verb: &str, console: &Console) -> Result<(), Failure> {
        if self.plan_only {
            return Ok(());
        }
        let how = &self.how;
        if how.out.is_some() || how.verbose || how.output.output == Output::Json {
            return Err(
                Failure::usage("--out, --verbose and --output say how a plan is written")
                    .hint("with --plan-only it is written, and nothing is done"),
            );
        }
        let instead = format!("quorate {verb} --plan-only");
        somebody_to_ask(self.yes, verb, &instead, console)
    }
}

/// Plans for the goal of `intent`, and shows that or carries it out.
///
/// # Errors
/// When it was refused or not done, or the cluster is not healthy afterwards.
pub(super) async fn run<H: Hosts, I: Infra>(
    arguments: &VerbArguments,
    cluster: &ClusterFile,
    intent: &Intent,
    world: &World<H, I>,
    console: &mut Console,
    reach: &impl Reach,
) -> Result<(), Failure> {
    let considered = arrived(intent, world, console).await?;
    if arguments.plan_only {
        return plan::show(cluster, intent, &considered, &arguments.how, console, reach).await;
    }
    let carried = Carried {
        cluster,
        intent,
        yes: arguments.yes,
    };
    carry_out(&carried, world, considered, console, reach).await
}
