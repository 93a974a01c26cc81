//! `quorate drill`: a real failure, under load, measured, with a verdict.

use std::{fs, path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use quorate_drill::{Drill, DrillError, Fault, Report, Target};
use quorate_kube::Kubeconfig;
use quorate_plan::{ClusterName, NodeName, spec::Provider};

use super::{kubeconfig, local};
use crate::{
    args::{FileArgument, Output, OutputArgument},
    cluster::ClusterFile,
    console::{Console, Style},
    exit::Exit,
    failure::Failure,
    reach::{self, Reach as _, Ssh},
    state::Directories,
};

/// Drills: a real failure, under load, measured, with a verdict.
#[derive(Debug, Subcommand)]
#[command(before_help = "\
Examples:
  quorate drill run power-loss                        the host that leads etcd stops abruptly
  quorate drill run freeze --target follower
  quorate drill run power-loss --report drill.json")]
pub enum Command {
    /// Strike one master under load, mend it, and report what that cost.
    Run(RunArguments),
}

/// What is done, and to whom.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// The failure.
    #[arg(value_enum)]
    fault: FaultChoice,
    /// Who is struck: `leader` (of etcd), `follower`, or a master by name.
    #[arg(long, value_name = "WHO", default_value = "leader")]
    target: String,
    /// Seconds of load before the failure.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    before: u64,
    /// Seconds that the host stays away at least.
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    away: u64,
    /// Drill this cluster although its hosts carry no disposable mark.
    #[arg(long, value_name = "NAME")]
    cluster: Option<ClusterName>,
    /// Also write the report as JSON.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[command(flatten)]
    file: FileArgument,
    #[command(flatten)]
    output: OutputArgument,
}

/// A failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FaultChoice {
    /// Every process ends at once and the network is gone; the disk cache of this machine is kept.
    PowerLoss,
    /// Every process stops; the kernel underneath goes on acknowledging.
    Freeze,
}

/// Runs it.
///
/// # Errors
/// When the drill could not run, or a rule did not hold.
pub async fn run(command: &Command, console: &mut Console) -> Result<(), Failure> {
    let Command::Run(arguments) = command;
    let cluster = ClusterFile::read(&arguments.file.file, Directories::of_process()?, console)?;
    let named = named(arguments, &cluster)?;
    match cluster.spec.provider {
        Provider::Local { .. } => {}
        Provider::Ssh | Provider::Terraform { .. } => {
            return Err(Failure::new(
                Exit::Refused,
                "quorate cannot take power from hosts that it did not make",
            )
            .hint("drills run on local hosts: `provider: { kind: local }`"));
        }
    }
    let faults = reach::local()?
        .open(&local::name_of(&cluster)?)
        .map_err(|error| Failure::from_error(Exit::Usage, &error))?;
    let intent = cluster.intent_for_looking()?;
    let world = Ssh.world(&cluster, &intent).await?;
    let text = kubeconfig::fetch(&cluster).await?;
    let folder = cluster.path.parent().unwrap_or(&cluster.path);
    let kubeconfig = Kubeconfig::parse(&text, folder)
        .map_err(|error| Failure::from_error(Exit::Unexpected, &error))?;
    let drill = Drill {
        fault: match arguments.fault {
            FaultChoice::PowerLoss => Fault::PowerLoss,
            FaultChoice::Freeze => Fault::Freeze,
        },
        target: target(&arguments.target)?,
        before: Duration::from_secs(arguments.before),
        away: Duration::from_secs(arguments.away),
        named,
        namespace: format!("quorate-drill-{}", std::process::id()),
    };
    let paint = console.paint_err();
    let voice = console.voice();
    let mut tell =
        |line: String| voice.say(format!("{} {line}", paint.paint(Style::Dim, "drill:")));
    let report = quorate_drill::run(
        &drill,
        &intent,
        &world,
        &faults,
        &kubeconfig,
        None,
        &mut tell,
    )
    .await
    .map_err(failed)?;
    write(arguments, &report, console)
}

/// Whether the operator named the cluster; another name is a mistake.
fn named(arguments: &RunArguments, cluster: &ClusterFile) -> Result<bool, Failure> {
    match &arguments.cluster {
        None => Ok(false),
        Some(name) if *name == cluster.spec.name => Ok(true),
        Some(name) => Err(Failure::usage(format!(
            "the cluster file is of `{}`, not of `{name}`",
            cluster.spec.name
        ))),
    }
}

fn target(who: &str) -> Result<Target, Failure> {
    match who {
        "leader" => Ok(Target::Leader),
        "follower" => Ok(Target::Follower),
        name => match name.parse::<NodeName>() {
            Ok(node) => Ok(Target::Node(node)),
            Err(error) => Err(Failure::from_error(Exit::Usage, &error)),
        },
    }
}

fn failed(error: DrillError) -> Failure {
    let exit = match &error {
        DrillError::NotDisposable { .. } | DrillError::NotHealthy { .. } => Exit::Refused,
        DrillError::NoTarget { .. } => Exit::Usage,
        DrillError::Fault(_) => Exit::StepFailed,
        DrillError::Api { .. } => Exit::Unseen,
        DrillError::NotWhole { .. } => Exit::InvariantBroken,
    };
    Failure::from_error(exit, &error)
}

fn write(arguments: &RunArguments, report: &Report, console: &mut Console) -> Result<(), Failure> {
    let mut json = serde_json::to_string_pretty(report).expect("a report is plain data");
    json.push('\n');
    if let Some(path) = &arguments.report {
        fs::write(path, &json).map_err(|error| {
            let doing = format!("could not write the report `{}`", path.display());
            Failure::doing(Exit::Usage, doing, &error)
        })?;
    }
    match arguments.output.output {
        Output::Json => console.data(&json)?,
        Output::Text => console.data(&report.text())?,
    }
    if report.passed() {
        Ok(())
    } else {
        Err(Failure::new(
            Exit::InvariantBroken,
            "a rule of the drill did not hold",
        ))
    }
}
