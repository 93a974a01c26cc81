//! `quorate local`: local hosts by hand. They are real machines: they can lose power, freeze and be cut off.

use std::{collections::BTreeSet, os::unix::process::CommandExt as _, process};

use clap::{Args, Subcommand};
use quorate_local::{Cluster, Cut, HostName, HostStatus, Local, Side};
use quorate_plan::spec::Provider;
use serde::Serialize;

use crate::{
    args::{FileArgument, Output, OutputArgument},
    cluster::ClusterFile,
    console::Console,
    exit::Exit,
    failure::Failure,
    known::Known,
    reach,
    show::{counted, json, table::Table},
    state::Directories,
};

/// Local hosts by hand: look, log in, take power away, freeze, cut traffic.
#[derive(Debug, Subcommand)]
#[command(before_help = "\
Examples:
  quorate local list
  quorate local ssh cp-1 -- journalctl -u kubelet -n 50
  quorate local power-off cp-2              an abrupt stop; the disk cache of this machine is kept
  quorate local cut cp-1 cp-2               no packet passes between the two
  quorate local mend                        every cut ends
  quorate local destroy cp-4                one host, with its disks, that left the cluster")]
pub enum Command {
    /// List all local hosts of this machine.
    List(OutputArgument),
    /// Log in to a host, or run a command there.
    Ssh(SshArguments),
    /// Pull a host's plug: every process and its network are gone at once. The disk cache of this machine is kept.
    PowerOff(HostArguments),
    /// Power a host on, with the disks it had.
    PowerOn(HostArguments),
    /// Stop every process of a host where it is.
    Freeze(HostArguments),
    /// Let a frozen host go on.
    Thaw(HostArguments),
    /// Cut traffic: of a host with all others, or between two.
    Cut(CutArguments),
    /// End cuts: all, those of a host, or those between two.
    Mend(MendArguments),
    /// Remove hosts with their disks: one, or all of a cluster. Also what is left of half-made or half-removed ones.
    ///
    /// A host that left the cluster file is stopped and kept until this.
    Destroy(DestroyArguments),
}

/// Which host, and what to run.
#[derive(Debug, Args)]
pub struct SshArguments {
    /// The host.
    host: HostName,
    /// What to run there. Default: a shell.
    #[arg(last = true)]
    command: Vec<String>,
    #[command(flatten)]
    file: FileArgument,
}

/// Which host.
#[derive(Debug, Args)]
pub struct HostArguments {
    /// The host.
    host: HostName,
    #[command(flatten)]
    file: FileArgument,
}

/// What is cut.
#[derive(Debug, Args)]
pub struct CutArguments {
    /// A host.
    host: HostName,
    /// The other end: a host, or `outside` for this machine. Default: all other hosts.
    other: Option<Side>,
    /// Only what HOST sends is cut.
    #[arg(long, requires = "other")]
    one_way: bool,
    /// With all other hosts, also this machine.
    #[arg(long, conflicts_with = "other")]
    outside: bool,
    #[command(flatten)]
    file: FileArgument,
}

/// What is mended.
#[derive(Debug, Args)]
pub struct MendArguments {
    /// A host. Default: all cuts end.
    host: Option<HostName>,
    /// The other end: a host, or `outside`.
    #[arg(requires = "host")]
    other: Option<Side>,
    #[command(flatten)]
    file: FileArgument,
}

/// Which host, or which cluster.
#[derive(Debug, Args)]
pub struct DestroyArguments {
    /// The host. Default: all of the cluster.
    host: Option<HostName>,
    /// The cluster, by name instead of by file.
    #[arg(long, value_name = "NAME")]
    cluster: Option<quorate_local::ClusterName>,
    #[command(flatten)]
    file: FileArgument,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

#[derive(Serialize)]
struct Hosts {
    items: Vec<HostStatus>,
}

/// Runs it.
///
/// # Errors
/// When the machine refuses, or there is no such cluster or host.
pub async fn run(command: &Command, console: &mut Console) -> Result<(), Failure> {
    let local = reach::local()?;
    match command {
        Command::List(arguments) => list(&local, arguments, console).await,
        Command::Ssh(arguments) => {
            let cluster = open(&local, &arguments.file, console)?;
            ssh(&cluster, arguments)
        }
        Command::PowerOff(arguments) => {
            let cluster = open(&local, &arguments.file, console)?;
            cluster.power_off(&arguments.host).await.map_err(failed)?;
            console.say(format!("{} is off", arguments.host));
            Ok(())
        }
        Command::PowerOn(arguments) => {
            let cluster = open(&local, &arguments.file, console)?;
            cluster.power_on(&arguments.host).await.map_err(failed)?;
            console.say(format!("{} is on", arguments.host));
            Ok(())
        }
        Command::Freeze(arguments) => {
            let cluster = open(&local, &arguments.file, console)?;
            cluster.freeze(&arguments.host).await.map_err(failed)?;
            console.say(format!("{} is frozen", arguments.host));
            Ok(())
        }
        Command::Thaw(arguments) => {
            let cluster = open(&local, &arguments.file, console)?;
            cluster.thaw(&arguments.host).await.map_err(failed)?;
            console.say(format!("{} goes on", arguments.host));
            Ok(())
        }
        Command::Cut(arguments) => {
            cut(&open(&local, &arguments.file, console)?, arguments, console).await
        }
        Command::Mend(arguments) => {
            mend(&open(&local, &arguments.file, console)?, arguments, console).await
        }
        Command::Destroy(arguments) => {
            let directories = Directories::of_process()?;
            let (name, wanted) = match &arguments.cluster {
                Some(name) => (name.clone(), false),
                None => {
                    let file = &arguments.file.file;
                    let cluster = ClusterFile::read(file, directories.clone(), console)?;
                    let wanted = |host: &HostName| {
                        let mut machines = cluster.spec.machines();
                        machines.any(|(node, ..)| node.as_str() == host.as_str())
                    };
                    (
                        name_of(&cluster)?,
                        arguments.host.as_ref().is_some_and(wanted),
                    )
                }
            };
            match &arguments.host {
                None => destroy(&local, &name, &directories, arguments.yes, console).await,
                Some(host) => {
                    if wanted {
                        console.warn(format!(
                            "the cluster file names {host}: to the cluster this is the loss of a machine, and `quorate apply` makes a blank one in its place"
                        ));
                    }
                    let cluster = local.open(&name).map_err(failed)?;
                    destroy_host(&cluster, host, arguments.yes, console).await
                }
            }
        }
    }
}

/// Removes one host, after its name was typed.
async fn destroy_host(
    cluster: &Cluster,
    host: &HostName,
    yes: bool,
    console: &mut Console,
) -> Result<(), Failure> {
    // One that is not there is a mistake of whoever typed the name.
    cluster.spec(host).map_err(failed)?;
    if !yes {
        console.say(format!(
            "The local host {host} of `{}` and everything on its disks will be gone.",
            cluster.name()
        ));
        if !console.confirm("Destroy it", host.as_str(), "say --yes in scripts")? {
            return Err(Failure::usage("nothing was destroyed"));
        }
    }
    cluster.destroy_host(host).await.map_err(failed)?;
    console.say(format!("{host} is gone."));
    Ok(())
}

/// The name local hosts know a cluster by.
///
/// # Errors
/// When its hosts are not local.
pub(super) fn name_of(cluster: &ClusterFile) -> Result<quorate_local::ClusterName, Failure> {
    match cluster.spec.provider {
        Provider::Local { .. } => cluster
            .spec
            .name
            .as_str()
            .parse()
            .map_err(|error: quorate_local::BadName| Failure::from_error(Exit::Usage, &error)),
        Provider::Ssh | Provider::Terraform { .. } => Err(Failure::usage(format!(
            "the hosts of `{}` are not local ones",
            cluster.spec.name
        ))
        .hint("this is for `provider: { kind: local }`")),
    }
}

/// The cluster of a file.
fn open(local: &Local, file: &FileArgument, console: &mut Console) -> Result<Cluster, Failure> {
    let cluster = ClusterFile::read(&file.file, Directories::of_process()?, console)?;
    local.open(&name_of(&cluster)?).map_err(failed)
}

fn failed(error: quorate_local::Error) -> Failure {
    let exit = match &error {
        // The machine is in the way: nothing was begun.
        quorate_local::Error::NotRoot { .. } | quorate_local::Error::Missing { .. } => {
            Exit::Unexpected
        }
        _ => Exit::StepFailed,
    };
    Failure::from_error(exit, &error)
}

async fn list(
    local: &Local,
    arguments: &OutputArgument,
    console: &mut Console,
) -> Result<(), Failure> {
    let items = local.list().await.map_err(failed)?;
    match arguments.output {
        Output::Json => console.data(&json::text("LocalHostList", &Hosts { items })),
        Output::Text if items.is_empty() => {
            console.say("There are no local hosts.");
            Ok(())
        }
        Output::Text => {
            let mut table = Table::new(["CLUSTER", "HOST", "ADDRESS", "POWER", "CUTS"]);
            for host in items {
                let cuts: Vec<String> = host
                    .cuts
                    .iter()
                    .map(|cut| format!("{} -> {}", cut.from, cut.to))
                    .collect();
                table.row([
                    host.cluster.to_string(),
                    host.name.to_string(),
                    host.address.to_string(),
                    host.power.to_string(),
                    if cuts.is_empty() {
                        "-".to_owned()
                    } else {
                        cuts.join(", ")
                    },
                ]);
            }
            console.data(&table.text(console.columns()))
        }
    }
}

/// Becomes `ssh`: the terminal is its own, and so is the exit code.
fn ssh(cluster: &Cluster, arguments: &SshArguments) -> Result<(), Failure> {
    let access = cluster.ssh(&arguments.host).map_err(failed)?;
    let error = process::Command::new("ssh")
        .args(access.arguments())
        .args(&arguments.command)
        .exec();
    Err(
        Failure::doing(Exit::Unexpected, "could not start `ssh`", &error)
            .hint("install the OpenSSH client"),
    )
}

async fn cut(
    cluster: &Cluster,
    arguments: &CutArguments,
    console: &mut Console,
) -> Result<(), Failure> {
    let cuts: BTreeSet<Cut> = match &arguments.other {
        Some(other) if arguments.one_way => {
            BTreeSet::from([Cut::one_way(arguments.host.clone(), other.clone())])
        }
        Some(other) => Cut::both_ways(arguments.host.clone(), other.clone()).into(),
        None => cluster
            .isolation(&arguments.host, arguments.outside)
            .await
            .map_err(failed)?,
    };
    cluster.cut(cuts.clone()).await.map_err(failed)?;
    for cut in cuts {
        console.say(format!("cut: {} -> {}", cut.from, cut.to));
    }
    Ok(())
}

async fn mend(
    cluster: &Cluster,
    arguments: &MendArguments,
    console: &mut Console,
) -> Result<(), Failure> {
    let in_force = cluster.cuts().await.map_err(failed)?;
    let ended: Vec<Cut> = in_force
        .into_iter()
        .filter(|cut| match (&arguments.host, &arguments.other) {
            (None, _) => true,
            (Some(host), None) => cut.concerns(host),
            (Some(host), Some(other)) => {
                let host = Side::Host(host.clone());
                [(&cut.from, &cut.to), (&cut.to, &cut.from)].contains(&(&host, other))
            }
        })
        .collect();
    let n = ended.len();
    cluster.mend(ended).await.map_err(failed)?;
    console.say(format!("{} ended", counted(n, "cut")));
    Ok(())
}

/// Removes a cluster's hosts, after its name was typed.
///
/// # Errors
/// When the name was not typed, or something could not be removed: calling it again goes on.
pub(super) async fn destroy(
    local: &Local,
    name: &quorate_local::ClusterName,
    directories: &Directories,
    yes: bool,
    console: &mut Console,
) -> Result<(), Failure> {
    if !yes {
        console.say(format!(
            "The local hosts of `{name}` and everything on their disks will be gone."
        ));
        if !console.confirm("Destroy them", name.as_str(), "say --yes in scripts")? {
            return Err(Failure::usage("nothing was destroyed"));
        }
    }
    let destroyed = local.destroy(name).await.map_err(failed)?;
    if let Ok(name) = name.as_str().parse() {
        Known::forget(&directories.cluster(&name))?;
    }
    if destroyed.existed {
        console.say(format!("The local hosts of `{name}` are gone."));
    } else {
        console.say(format!("There was nothing of `{name}`."));
    }
    for change in destroyed.restored {
        console.say(format!(
            "put back: {} is {} again",
            change.what, change.from
        ));
    }
    for change in destroyed.left {
        console.warn(format!(
            "{} is left as somebody else has set it since; it was {} before the first cluster",
            change.what, change.from
        ));
    }
    Ok(())
}
