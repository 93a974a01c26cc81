//! `quorate remove`: a master that the file no longer names leaves the cluster, and nothing else is changed.

use clap::Args;
use quorate_plan::{Goal, NodeName};

use super::{edit, verb};
use crate::{
    cluster::ClusterFile,
    console::Console,
    failure::Failure,
    reach::{Reach, wanted},
};

/// Take a master out of the cluster that the file no longer names.
///
/// The file says what the cluster shall be: while it still names the master nothing is done, and the edit is printed. Then leadership moves
/// away from it, balancers drain it, its member and node are removed, and the host is reset; its etcd data is moved aside, not deleted.
/// `apply` does the same together with whatever else the file asks for. The plan is shown, and asked for once.
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  quorate remove cp-5 -f demo.yaml
  quorate remove cp-5 -n                    the plan alone")]
pub struct Arguments {
    /// The master.
    node: NodeName,
    #[command(flatten)]
    verb: verb::VerbArguments,
}

/// Runs it.
///
/// # Errors
/// When the file still names it, when it was refused or not done, or the cluster is not healthy afterwards.
pub async fn run(
    arguments: &Arguments,
    console: &mut Console,
    reach: &impl Reach,
) -> Result<(), Failure> {
    let (node, verb) = (&arguments.node, &arguments.verb);
    verb.check("remove", console)?;
    let cluster = ClusterFile::read(&verb.file.file, reach.directories()?, console)?;
    cluster.say_warnings(console);
    if cluster.spec.machine(node).is_some() {
        return Err(edit::still_wanted(&cluster, node)?);
    }
    let goal = Goal::Remove { node: node.clone() };
    let intent = wanted(&cluster, goal, &verb.accept.accept, reach).await?;
    let world = reach.world(&cluster, &intent).await?;
    verb::run(verb, &cluster, &intent, &world, console, reach).await
}
