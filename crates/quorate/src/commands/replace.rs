//! `quorate replace`: one master is replaced, by another host or by itself made anew, and nothing else is changed.

use clap::Args;
use quorate_exec::observe;
use quorate_plan::{Goal, NodeName};

use super::{edit, verb};
use crate::{
    cluster::ClusterFile,
    console::Console,
    exit::Exit,
    failure::Failure,
    reach::{Reach, wanted},
    show::harmless,
};

/// Replace a master: by another host, or by itself made anew.
///
/// A healthy master is replaced by adding first, so that one more may fail meanwhile; a dead one is removed first. The same host under the
/// same name and address can only be removed first. Its etcd data is moved aside, not deleted. The plan is shown, and asked for once.
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  quorate replace cp-2 --with cp-4          cp-4 is in the file, cp-2 no longer
  quorate replace cp-2                      the same host, installed anew
  quorate replace cp-2 -n                   the plan alone
  quorate replace cp-2 -n --out r.plan      then: quorate apply r.plan")]
pub struct Arguments {
    /// The master that goes.
    node: NodeName,
    /// The host that comes for it, which the file names. Default: the same host.
    #[arg(long, value_name = "HOST")]
    with: Option<NodeName>,
    #[command(flatten)]
    verb: verb::VerbArguments,
}

/// Runs it.
///
/// # Errors
/// When the file says otherwise, when it was refused or not done, or the cluster is not healthy afterwards.
pub async fn run(
    arguments: &Arguments,
    console: &mut Console,
    reach: &impl Reach,
) -> Result<(), Failure> {
    let verb = &arguments.verb;
    let (node, with) = (&arguments.node, arguments.with.as_ref());
    verb.check("replace", console)?;
    let cluster = ClusterFile::read(&verb.file.file, reach.directories()?, console)?;
    cluster.say_warnings(console);
    agrees(&cluster, node, with)?;
    // Which member it is shall be seen before the goal can be named.
    let accepted = &verb.accept.accept;
    let goal = |member| Goal::Replace {
        node: node.clone(),
        with: with.cloned(),
        member,
    };
    let mut intent = wanted(&cluster, goal(None), accepted, reach).await?;
    let world = reach.world(&cluster, &intent).await?;
    let seen = observe(&world, &intent).await;
    intent.goal =
        Goal::replace(&intent, node.clone(), with.cloned(), &seen).map_err(|missing| {
            Failure::new(
                Exit::Unseen,
                format!("which member of etcd {node} is was not seen"),
            )
            .because(harmless(&missing.to_string()))
            .hint(format!(
                "`quorate status -f {}` says what answers",
                cluster.path.display()
            ))
        })?;
    verb::run(verb, &cluster, &intent, &world, console, reach).await
}

/// The file says what the cluster shall be: the one that goes is not in it, the one that comes is.
fn agrees(cluster: &ClusterFile, node: &NodeName, with: Option<&NodeName>) -> Result<(), Failure> {
    let masters = &cluster.spec.control_plane;
    match with {
        None if masters.contains_key(node) => Ok(()),
        None => Err(Failure::new(
            Exit::Refused,
            format!("the cluster file names no master {node}, so it cannot be replaced by itself"),
        )
        .hint(format!(
            "to have another host in its place: `quorate replace {node} --with HOST`; to have none: `quorate remove {node}`"
        ))),
        Some(with) if with == node => Err(Failure::usage(format!(
            "{node} cannot come for itself by another name"
        ))
        .hint(format!("`quorate replace {node}` makes the same host anew"))),
        Some(with) if masters.contains_key(with) && cluster.spec.machine(node).is_none() => Ok(()),
        Some(with) => Err(edit::not_swapped(cluster, node, with)?),
    }
}
