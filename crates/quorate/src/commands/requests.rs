//! `quorate requests`: what is to be handed to the hosts next, for whoever does that himself: the Ansible collection.

use std::{collections::BTreeMap, path::PathBuf};

use clap::Args;
use quorate_exec::carried::{self, open};
use quorate_plan::{
    Ensure, HostEnsure, Intent, NodeName, Place, Step, event::Verdict, standing::Difference,
    wire::Carried,
};
use serde::Serialize;

use super::{
    carry_out::arrived,
    plan::{refused, say_rest},
};
use crate::{
    args::{AcceptArgument, FileArgument, GoalArgument},
    cluster::ClusterFile,
    console::Console,
    exit::Exit,
    failure::Failure,
    fence_file::FenceFile,
    reach::{Reach, wanted},
    show::{self, json},
};

/// Say what is to be handed to the hosts next, as JSON. Nothing is done.
///
/// With a fence: the next step of each host of the next stage, to be given to `quorate node run` there within a minute, once. Then ask again,
/// until no step is left. Without a fence: all open steps, and how each host differs from them, to be looked at and not handed over.
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  quorate lock take -f demo.yaml --out demo.fence
  quorate requests demo.fence | jq '.hosts[\"cp-1\"][0].carried'
  quorate requests -f demo.yaml | jq '.hosts | map_values(map(.what))'
  quorate requests --convert -f demo.yaml    all open steps of a conversion")]
pub struct Arguments {
    /// The fence, as `quorate lock take` wrote it.
    #[arg(value_name = "FENCE", conflicts_with_all = ["accept", "convert"])]
    fence: Option<PathBuf>,
    #[command(flatten)]
    file: FileArgument,
    #[command(flatten)]
    goal: GoalArgument,
    #[command(flatten)]
    accept: AcceptArgument,
}

#[derive(Serialize)]
struct Requests<'a> {
    cluster: String,
    /// Steps left, these among them.
    left: usize,
    /// By host, in order.
    hosts: BTreeMap<&'a NodeName, Vec<Asked<'a>>>,
    /// What is the provider's: `quorate provide` has it done.
    provider: Vec<Provider<'a>>,
}

#[derive(Serialize)]
struct Provider<'a> {
    stage: &'a str,
    what: String,
    because: String,
    differences: Vec<Difference>,
}

#[derive(Serialize)]
struct Asked<'a> {
    stage: &'a str,
    /// Whose it is in the Ansible collection.
    role: &'static str,
    what: String,
    because: String,
    differences: Vec<Difference>,
    /// Hash of the binary that answers it there.
    binary: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    carried: Option<&'a Carried>,
}

/// Runs it.
///
/// # Errors
/// When something is refused or was not seen.
pub async fn run(
    arguments: &Arguments,
    console: &mut Console,
    reach: &impl Reach,
) -> Result<(), Failure> {
    match &arguments.fence {
        Some(fence) => next(&FenceFile::read(fence)?, console, reach).await,
        None => foreseen(arguments, console, reach).await,
    }
}

async fn next(held: &FenceFile, console: &mut Console, reach: &impl Reach) -> Result<(), Failure> {
    let cluster = held.cluster(reach.directories()?)?;
    let intent = &held.claim.intent;
    let world = reach.world(&cluster, intent).await?;
    let round = carried::next(&world, &held.claim)
        .await
        .map_err(|verdict| ended(verdict, console))?;
    let stage = round.as_ref().map_or("", |round| &round.stage.title);
    let mut hosts: BTreeMap<&NodeName, Vec<Asked<'_>>> = BTreeMap::new();
    for asked in round.iter().flat_map(|round| &round.asked) {
        hosts.entry(&asked.on).or_default().push(Asked {
            carried: Some(&asked.carried),
            ..told(stage, &asked.step, asked.differences.clone(), intent)
        });
    }
    let provider = round
        .iter()
        .flat_map(|round| &round.provider)
        .map(|open| of_provider(stage, &open.step, open.differences.clone()))
        .collect();
    let requests = Requests {
        cluster: intent.spec.name.to_string(),
        left: round.as_ref().map_or(0, |round| round.left),
        hosts,
        provider,
    };
    console.data(&json::text("Requests", &requests))
}

async fn foreseen(
    arguments: &Arguments,
    console: &mut Console,
    reach: &impl Reach,
) -> Result<(), Failure> {
    let cluster = ClusterFile::read(&arguments.file.file, reach.directories()?, console)?;
    cluster.say_warnings(console);
    let intent = wanted(
        &cluster,
        arguments.goal.goal(),
        &arguments.accept.accept,
        reach,
    )
    .await?;
    let world = reach.world(&cluster, &intent).await?;
    let considered = arrived(&intent, &world, console).await?;
    let (planning, seen) = (&considered.planning, &considered.seen);
    say_rest(planning, console);
    if let Some(failure) = refused(planning) {
        cluster.hint_at_trust(seen, console);
        return Err(failure);
    }
    let mut hosts: BTreeMap<&NodeName, Vec<Asked<'_>>> = BTreeMap::new();
    let mut provider = Vec::new();
    for stage in &planning.plan.stages {
        for step in &stage.steps {
            let differences = open(step, seen);
            match &step.on {
                Place::Host(node) => hosts.entry(node).or_default().push(told(
                    &stage.title,
                    step,
                    differences,
                    &intent,
                )),
                Place::Operator => provider.push(of_provider(&stage.title, step, differences)),
            }
        }
    }
    let requests = Requests {
        cluster: intent.spec.name.to_string(),
        left: planning.plan.len(),
        hosts,
        provider,
    };
    console.data(&json::text("Requests", &requests))
}

fn of_provider<'a>(stage: &'a str, step: &Step, differences: Vec<Difference>) -> Provider<'a> {
    Provider {
        stage,
        what: step.ensure.to_string(),
        because: step.because.to_string(),
        differences,
    }
}

fn told<'a>(
    stage: &'a str,
    step: &Step,
    differences: Vec<Difference>,
    intent: &'a Intent,
) -> Asked<'a> {
    Asked {
        stage,
        role: match &step.ensure {
            Ensure::Host(ensure) => role(ensure, step, intent),
            Ensure::Infra(_) => "",
        },
        what: step.ensure.to_string(),
        because: step.because.to_string(),
        differences,
        binary: &intent.binary,
        carried: None,
    }
}

/// The role of the collection that an end state belongs to.
fn role(ensure: &HostEnsure, step: &Step, intent: &Intent) -> &'static str {
    match ensure {
        HostEnsure::Prepared { .. }
        | HostEnsure::EtcdVolume { .. }
        | HostEnsure::Bundle { .. }
        | HostEnsure::Components { .. }
        | HostEnsure::Keepalived {}
        | HostEnsure::Images { .. } => "prepare",
        HostEnsure::Balancer { .. }
        | HostEnsure::Backend { .. }
        | HostEnsure::BackendGone { .. }
        | HostEnsure::SharedAddress { .. }
        | HostEnsure::SharedAddressPeerGone { .. }
        | HostEnsure::SharedAddressGone {} => "loadbalancer",
        HostEnsure::Network { .. } | HostEnsure::ClusterDns { .. } | HostEnsure::DnsSpread {} => {
            "cni"
        }
        HostEnsure::Worker { .. } => "worker",
        HostEnsure::Authority { .. }
        | HostEnsure::Certificates { .. }
        | HostEnsure::EtcdMember { .. }
        | HostEnsure::FoundingAside { .. }
        | HostEnsure::ControlPlane { .. }
        | HostEnsure::Kubelet { .. }
        | HostEnsure::Serving { .. }
        | HostEnsure::ClusterConfig { .. }
        | HostEnsure::Registered { .. }
        | HostEnsure::Guarded {}
        | HostEnsure::FoundingOver {}
        | HostEnsure::Learner { .. }
        | HostEnsure::Voter { .. }
        | HostEnsure::TokensGone {}
        | HostEnsure::Rehearsed { .. }
        | HostEnsure::LeaderMoved { .. }
        | HostEnsure::ControlPlaneGone { .. }
        | HostEnsure::MemberGone { .. }
        | HostEnsure::NodeGone { .. }
        | HostEnsure::EndpointGone { .. }
        | HostEnsure::Reset { .. }
        | HostEnsure::ServingCertificate { .. }
        | HostEnsure::ServingCertificateKept { .. }
        | HostEnsure::Configuration { .. }
        | HostEnsure::ConfigurationKept { .. }
        | HostEnsure::ClusterInfo { .. }
        | HostEnsure::ProxyConfig { .. }
        | HostEnsure::Proxy { .. }
        | HostEnsure::OldAddress { .. }
        | HostEnsure::UploadedCertsGone {} => "master",
        // A conversion's, on whichever host has something that leads to the old address.
        HostEnsure::BackedUp { .. }
        | HostEnsure::BackupOffHost { .. }
        | HostEnsure::Kubeconfigs { .. }
        | HostEnsure::KubeconfigsKept { .. }
        | HostEnsure::BackupAside {} => match &step.on {
            Place::Host(node) if intent.spec.workers.contains_key(node) => "worker",
            Place::Host(_) | Place::Operator => "master",
        },
    }
}

/// Why there is nothing to hand over, as a failure.
pub(super) fn ended(verdict: Verdict, console: &mut Console) -> Failure {
    match verdict {
        Verdict::Refused { refusals } => {
            console.ask(show::refusal::all(&refusals, console.paint_err()));
            Failure::silent(Exit::Refused)
        }
        Verdict::Unseen { missing } => {
            let mut failure = Failure::new(Exit::Unseen, "what is next could not be seen");
            failure.causes = missing.iter().map(|one| show::harmless(one)).collect();
            failure.hint("`quorate status` shows what can be seen; then run the play again")
        }
        Verdict::Failed { step, error } => Failure::new(
            Exit::StepFailed,
            format!(
                "{}: {}: {}",
                show::plan::where_of(&step),
                show::plan::what_of(&step),
                show::harmless(&error)
            ),
        ),
        Verdict::Done | Verdict::More | Verdict::Stopped { .. } => {
            unreachable!("nothing was run that could end so")
        }
    }
}
