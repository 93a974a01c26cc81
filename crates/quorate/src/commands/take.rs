//! `quorate lock take` and `release`: a fence over several commands, for whoever hands requests to the hosts himself.

use std::path::PathBuf;

use clap::Args;
use quorate_exec::{HostError, Hosts as _, fence, identity, observe};
use quorate_plan::{Goal, spec::Provider};
use serde::Serialize;

use super::{
    carry_out::{arrived, begun, end_left_over, reached, whole_components},
    convert::{say_where_the_backup_goes, say_where_the_way_back_ends},
    plan::{refused, say_rest, say_to_register},
};
use crate::{
    args::{AcceptArgument, BackupArgument, FileArgument, GoalArgument, Output, OutputArgument},
    cluster::{BackupPlace, ClusterFile},
    console::Console,
    exit::Exit,
    failure::Failure,
    fence_file::FenceFile,
    reach::{Reach, wanted},
    show::{self, counted, json},
};

/// For which cluster, and where it is kept.
#[derive(Debug, Args)]
pub struct TakeArguments {
    #[command(flatten)]
    file: FileArgument,
    /// Where to keep it.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    goal: GoalArgument,
    #[command(flatten)]
    backup: BackupArgument,
    #[command(flatten)]
    accept: AcceptArgument,
    #[command(flatten)]
    output: OutputArgument,
}

/// Which one.
#[derive(Debug, Args)]
pub struct ReleaseArguments {
    /// The fence, as `quorate lock take` wrote it.
    #[arg(value_name = "FENCE")]
    fence: PathBuf,
}

#[derive(Serialize)]
struct Taken {
    cluster: String,
    /// Steps to do. None: nothing was taken.
    steps: usize,
    /// The token.
    fence: Option<u64>,
}

/// Takes it.
///
/// # Errors
/// When something is refused or was not seen, or a host does not take the fence.
pub(super) async fn take(
    arguments: &TakeArguments,
    console: &mut Console,
    reach: &impl Reach,
) -> Result<(), Failure> {
    let mut cluster = ClusterFile::read(&arguments.file.file, reach.directories()?, console)?;
    cluster.backup = arguments.backup.place()?;
    let goal = arguments.goal.goal();
    if cluster.backup != BackupPlace::default() && !matches!(goal, Goal::Convert { .. }) {
        let message = "--backup and --backup-recipient are for conversions: expected --convert";
        return Err(Failure::usage(message));
    }
    cluster.say_warnings(console);
    if let Provider::Local { .. } = cluster.spec.provider {
        return Err(Failure::new(
            Exit::Refused,
            "local hosts are made by `quorate apply` alone",
        )
        .hint("requests are for hosts that somebody has: `provider: { kind: ssh }`"));
    }
    let intent = wanted(&cluster, goal, &arguments.accept.accept, reach).await?;
    let world = reach.world(&cluster, &intent).await?;
    let considered = arrived(&intent, &world, console).await?;
    let (planning, seen) = (&considered.planning, &considered.seen);
    say_to_register(&planning.plan, &intent.spec, console);
    say_rest(planning, console);
    if let Some(failure) = refused(planning) {
        cluster.hint_at_trust(seen, console);
        return Err(failure);
    }
    let token = if planning.plan.is_empty() {
        // As `apply` does, where somebody's run was killed when everything stood.
        end_left_over(&intent, &world, seen).await;
        reached(&cluster, &intent, seen, console)?;
        None
    } else {
        if let Goal::Convert { .. } = intent.goal {
            say_where_the_backup_goes(&cluster, console);
        }
        say_where_the_way_back_ends(&intent.goal, console);
        whole_components(&cluster, &planning.plan, console)?;
        begun(&cluster, &intent)?;
        let operator = identity::operator(&identity::new_run_id());
        let held = fence::take(&world.hosts, seen, &intent, &planning.plan, &operator)
            .await
            .map_err(|refusals| {
                console.ask(show::refusal::all(&refusals, console.paint_err()));
                Failure::silent(Exit::Refused)
            })?;
        if let Err(failure) = FenceFile::new(&cluster, held.claim()).write(&arguments.out) {
            for error in held.release(&world.hosts).await {
                console.warn(show::harmless(&error.to_string()));
            }
            return Err(failure);
        }
        Some(held.fence())
    };
    let taken = Taken {
        cluster: intent.spec.name.to_string(),
        steps: planning.plan.len(),
        fence: token.map(|fence| fence.0),
    };
    match arguments.output.output {
        Output::Json => console.data(&json::text("Taken", &taken)),
        Output::Text => match token {
            Some(fence) => {
                console.say(format!(
                    "Token {fence} is held for {}. Next: `quorate requests {}`",
                    counted(taken.steps, "step"),
                    arguments.out.display()
                ));
                Ok(())
            }
            None => {
                console.say(format!(
                    "{}: nothing to do, so no fence was taken",
                    taken.cluster
                ));
                Ok(())
            }
        },
    }
}

/// Gives it back.
///
/// # Errors
/// When the file is no fence, or a host goes on naming it.
pub(super) async fn release(
    arguments: &ReleaseArguments,
    console: &mut Console,
    reach: &impl Reach,
) -> Result<(), Failure> {
    let held = FenceFile::read(&arguments.fence)?;
    let cluster = held.cluster(reach.directories()?)?;
    let intent = &held.claim.intent;
    let world = reach.world(&cluster, intent).await?;
    let mut left = 0;
    for (node, ..) in intent.machines() {
        match world.hosts.release(node, held.claim.fence).await {
            Ok(()) => {}
            // Who went on in the meantime has it, and it is not ours any more.
            Err(error @ HostError::Refused { .. }) => {
                console.warn(format!("{node}: {}", show::harmless(&error.to_string())));
            }
            Err(error) => {
                left += 1;
                console.failure(&Failure::from_error(Exit::StepFailed, &error));
            }
        }
    }
    let seen = observe(&world, intent).await;
    reached(&cluster, intent, &seen, console)?;
    if left > 0 {
        let message = format!("it is still in force on {}", counted(left, "host"));
        return Err(Failure::new(Exit::StepFailed, message)
            .hint("it is in nobody's way who wants the same; `quorate lock break` ends it"));
    }
    Ok(())
}
