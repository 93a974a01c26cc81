//! `quorate lock`: which operation is in force on the hosts, how to end one whose operator is gone, and how to hold one over several
//! commands.

use std::{collections::BTreeMap, time::Duration};

use clap::{Args, Subcommand};
use quorate_exec::{Hosts as _, identity, observe};
use quorate_plan::{NodeName, Observation, observation::Fencing};
use serde::Serialize;

use super::take;
use crate::{
    args::{FileArgument, Output, OutputArgument},
    cluster::ClusterFile,
    console::Console,
    exit::Exit,
    failure::Failure,
    reach::Reach,
    show::{counted, duration, harmless, json, table::Table},
};

/// Which operation is in force on the hosts.
#[derive(Debug, Subcommand)]
#[command(before_help = "\
Examples:
  quorate lock show
  quorate lock break                         after making sure that its operator is gone
  quorate lock take --out demo.fence         for requests that Ansible hands over
  quorate lock take --convert --out demo.fence")]
pub enum Command {
    /// Show the operation in force: who, which verb, on which hosts, connected or not.
    Show(ShowArguments),
    /// End an operation whose operator is gone. What was done stands; `apply` goes on from there.
    Break(BreakArguments),
    /// Take the fence for making a cluster what its file says, or for converting one, and keep it in a file.
    ///
    /// For requests that somebody else hands to the hosts, as the Ansible collection does: `quorate requests FILE` says what is next.
    /// Nothing is taken where there is nothing to do. The hosts keep the operation, so that `quorate apply` can finish it.
    Take(take::TakeArguments),
    /// Give a fence back that was kept in a file: the operation is over.
    ///
    /// When it is not over, keep it: any operator's machine can finish it, and no other verb begins meanwhile.
    Release(take::ReleaseArguments),
}

/// Which cluster.
#[derive(Debug, Args)]
pub struct ShowArguments {
    #[command(flatten)]
    file: FileArgument,
    #[command(flatten)]
    output: OutputArgument,
}

/// Which cluster.
#[derive(Debug, Args)]
pub struct BreakArguments {
    #[command(flatten)]
    file: FileArgument,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

#[derive(Serialize)]
struct Locks<'a> {
    cluster: String,
    hosts: BTreeMap<&'a NodeName, Result<&'a Fencing, String>>,
}

/// Runs it.
///
/// # Errors
/// When a host could not be seen, or does not do what it is asked.
pub async fn run(
    command: &Command,
    console: &mut Console,
    reach: &impl Reach,
) -> Result<(), Failure> {
    match command {
        Command::Show(arguments) => show(arguments, console, reach).await,
        Command::Break(arguments) => break_it(arguments, console, reach).await,
        Command::Take(arguments) => take::take(arguments, console, reach).await,
        Command::Release(arguments) => take::release(arguments, console, reach).await,
    }
}

/// What each host says of its fence.
fn fences(seen: &Observation) -> BTreeMap<&NodeName, Result<&Fencing, String>> {
    seen.hosts
        .keys()
        .map(|node| {
            let fencing = seen
                .host(node)
                .and_then(|facts| facts.fencing.get())
                .map_err(|missing| harmless(&missing.to_string()));
            (node, fencing)
        })
        .collect()
}

async fn show(
    arguments: &ShowArguments,
    console: &mut Console,
    reach: &impl Reach,
) -> Result<(), Failure> {
    let cluster = ClusterFile::read(&arguments.file.file, reach.directories()?, console)?;
    let intent = cluster.intent_for_looking()?;
    let world = reach.world(&cluster, &intent).await?;
    let seen = observe(&world, &intent).await;
    let hosts = fences(&seen);
    let unseen = hosts.values().any(Result::is_err);
    match arguments.output.output {
        Output::Json => console.data(&json::text(
            "Lock",
            &Locks {
                cluster: intent.spec.name.to_string(),
                hosts,
            },
        ))?,
        Output::Text => {
            let mut table = Table::new(["HOST", "TOKEN", "VERB", "BY", "SINCE", "CONNECTED"]);
            for (node, fencing) in &hosts {
                let row = match fencing {
                    Ok(fencing) => {
                        let claim = fencing.claim.as_ref();
                        let dash = || "-".to_owned();
                        [
                            node.to_string(),
                            fencing.highest.to_string(),
                            claim.map_or_else(dash, |claim| claim.intent.goal.to_string()),
                            claim.map_or_else(dash, |claim| harmless(&claim.operator.to_string())),
                            claim.map_or_else(dash, |claim| ago(claim.since)),
                            claim.map_or_else(dash, |_| {
                                if fencing.connected { "yes" } else { "no" }.to_owned()
                            }),
                        ]
                    }
                    Err(missing) => [
                        node.to_string(),
                        "?".to_owned(),
                        missing.clone(),
                        String::new(),
                        String::new(),
                        String::new(),
                    ],
                };
                table.row(row);
            }
            console.data(&table.text(console.columns()))?;
        }
    }
    if unseen {
        return Err(Failure::silent(Exit::Unseen));
    }
    Ok(())
}

/// How long ago an operation began, by the clocks of whoever began it and of this machine.
fn ago(since: u64) -> String {
    let now = identity::now_ms() / 1000;
    match now.checked_sub(since) {
        Some(seconds) => format!("{} ago", duration(Duration::from_secs(seconds))),
        None => "in the future, by its operator's clock".to_owned(),
    }
}

async fn break_it(
    arguments: &BreakArguments,
    console: &mut Console,
    reach: &impl Reach,
) -> Result<(), Failure> {
    let cluster = ClusterFile::read(&arguments.file.file, reach.directories()?, console)?;
    let intent = cluster.intent_for_looking()?;
    let world = reach.world(&cluster, &intent).await?;
    let seen = observe(&world, &intent).await;
    let hosts = fences(&seen);
    let held: Vec<(&NodeName, &Fencing)> = hosts
        .iter()
        .filter_map(|(node, fencing)| Some((*node, *fencing.as_ref().ok()?)))
        .filter(|(_, fencing)| fencing.claim.is_some())
        .collect();
    for (node, fencing) in &hosts {
        if let Err(missing) = fencing {
            console.warn(format!("{node}: {missing}"));
        }
    }
    if let Some((node, fencing)) = held.iter().find(|(_, fencing)| fencing.connected) {
        let holder = fencing
            .claim
            .as_ref()
            .map_or_else(String::new, |claim| harmless(&claim.operator.to_string()));
        return Err(Failure::new(
            Exit::Refused,
            format!("{holder} is connected to {node}: the operation is going on"),
        )
        .hint("let it end, or stop it where it runs"));
    }
    let Some((_, first)) = held.first() else {
        console.say("No operation is in force on the hosts that answered.");
        return Ok(());
    };
    let claim = first.claim.as_ref().expect("only claimed hosts are held");
    let nodes: Vec<String> = held.iter().map(|(node, _)| node.to_string()).collect();
    console.say(format!(
        "`{}` by {}, begun {}, is in force on {}.",
        claim.intent.goal,
        harmless(&claim.operator.to_string()),
        ago(claim.since),
        nodes.join(", ")
    ));
    console.say("Two operators at once is how clusters die: make sure that this one is gone.");
    let name = cluster.spec.name.as_str();
    if !arguments.yes && !console.confirm("End it", name, "say --yes in scripts")? {
        return Err(Failure::usage("nothing was changed"));
    }
    let mut left = 0;
    for (node, fencing) in held {
        let Some(claim) = &fencing.claim else {
            continue;
        };
        match world.hosts.release(node, claim.fence).await {
            Ok(()) => console.say(format!("{node}: ended")),
            Err(error) => {
                left += 1;
                console.failure(&Failure::from_error(Exit::StepFailed, &error));
            }
        }
    }
    if left > 0 {
        let message = format!("it is still in force on {}", counted(left, "host"));
        return Err(Failure::new(Exit::StepFailed, message));
    }
    Ok(())
}
