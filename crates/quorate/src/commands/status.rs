//! `quorate status`: what the cluster is like, what it survives, and what could not be seen.

use clap::Args;
use quorate_exec::observe;
use quorate_plan::assessment::assess;

use crate::{
    args::{FileArgument, Output, OutputArgument},
    cluster::ClusterFile,
    console::Console,
    exit::Exit,
    failure::Failure,
    reach::Reach,
    show::{assessment, json},
};

/// Show what the cluster is like, what it survives, and what could not be seen.
///
/// The exit code says it too: 0 healthy, 10 degraded, 11 quorum lost, 12 no cluster yet, 5 could not be seen.
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  quorate status -f demo.yaml
  quorate status -o json | jq .assessment.health")]
pub struct Arguments {
    #[command(flatten)]
    file: FileArgument,
    #[command(flatten)]
    output: OutputArgument,
}

/// Runs it.
///
/// # Errors
/// When the cluster is not healthy, after it was printed.
pub async fn run(
    arguments: &Arguments,
    console: &mut Console,
    reach: &impl Reach,
) -> Result<(), Failure> {
    let cluster = ClusterFile::read(&arguments.file.file, reach.directories()?, console)?;
    let intent = cluster.intent_for_looking()?;
    let world = reach.world(&cluster, &intent).await?;
    let seen = observe(&world, &intent).await;
    let judged = assess(&intent, &seen);
    match arguments.output.output {
        Output::Json => console.data(&json::text(
            "Status",
            &assessment::Status {
                cluster: intent.spec.name.to_string(),
                endpoint: intent.spec.endpoint.to_string(),
                assessment: &judged,
                observation: &seen,
            },
        ))?,
        Output::Text => {
            let paint = console.paint_out();
            console.data(&assessment::text(
                &intent,
                &seen,
                &judged,
                paint,
                console.columns(),
            ))?;
        }
    }
    cluster.hint_at_trust(&seen, console);
    match assessment::exit(judged.health) {
        Exit::Done => Ok(()),
        exit => Err(Failure::silent(exit)),
    }
}
