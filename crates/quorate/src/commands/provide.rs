//! `quorate provide`: what is next and no host's, for whoever hands requests to the hosts himself: targets of a cloud's balancer.

use std::path::PathBuf;

use clap::Args;
use quorate_exec::carried;
use serde::Serialize;

use super::requests::ended;
use crate::{
    args::{Output, OutputArgument},
    console::Console,
    failure::Failure,
    fence_file::FenceFile,
    reach::Reach,
    show::{counted, json, progress::Progress},
};

/// Do what is next where no host can: targets of a cloud's balancer come and go.
///
/// As a run does it, with the fence that is held: on a fresh look that passes the guard, confirmed by the hosts right before the cloud is asked.
/// It waits until it stands, which takes minutes. Nothing is done where hosts have to act before.
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  quorate lock take -f demo.yaml --out demo.fence
  quorate requests demo.fence | jq .provider
  quorate provide demo.fence")]
pub struct Arguments {
    /// The fence, as `quorate lock take` wrote it.
    #[arg(value_name = "FENCE")]
    fence: PathBuf,
    #[command(flatten)]
    output: OutputArgument,
}

#[derive(Serialize)]
struct Provided {
    cluster: String,
    /// Steps that were done.
    steps: usize,
}

/// Runs it.
///
/// # Errors
/// When it is refused, or does not come to stand.
pub async fn run(
    arguments: &Arguments,
    console: &mut Console,
    reach: &impl Reach,
) -> Result<(), Failure> {
    let held = FenceFile::read(&arguments.fence)?;
    let cluster = held.cluster(reach.directories()?)?;
    let intent = &held.claim.intent;
    let world = reach.world(&cluster, intent).await?;
    let mut progress = Progress::new(console, 1);
    let provided = carried::provide(&world, &held.claim, &mut |event| progress.show(&event)).await;
    progress.end();
    let steps = provided.map_err(|verdict| ended(verdict, console))?;
    let cluster = intent.spec.name.to_string();
    match arguments.output.output {
        Output::Json => console.data(&json::text("Provided", &Provided { cluster, steps })),
        Output::Text => {
            console.say(match steps {
                0 => format!("{cluster}: nothing is the provider's to do next"),
                _ => format!("{cluster}: {}", counted(steps, "step")),
            });
            Ok(())
        }
    }
}
