//! `quorate requests`: what is to be handed to the hosts next, for whoever does that himself: the Ansible collection.

use std::{collections::BTreeMap, path::PathBuf};

use clap::Args;
use quorate_exec::carried::{self, open};
use quorate_plan::{
    Ensure, Goal, HostEnsure, NodeName, Place, Step, event::Verdict, standing::Difference,
    wire::Carried,
};
use serde::Serialize;

use super::{
    carry_out::arrived,
    plan::{refused, say_rest},
};
use crate::{
    args::{AcceptArgument, FileArgument},
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
  quorate requests -f demo.yaml | jq '.hosts | map_values(map(.what))'")]
pub struct Arguments {
    /// The fence, as `quorate lock take` wrote it.
    #[arg(value_name = "FENCE", conflicts_with = "accept")]
    fence: Option<PathBuf>,
    #[command(flatten)]
    file: FileArgument,
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
    let mut hosts: BTreeMap<&NodeName, Vec<Asked<'_>>> = BTreeMap::new();
    for asked in round.iter().flat_map(|round| &round.asked) {
        hosts.entry(&asked.on).or_default().push(Asked {
            stage: &round
                .as_ref()
                .expect("what is asked is asked in it")
                .stage
                .title,
            carried: Some(&asked.carried),
            ..told(&asked.step, asked.differences.clone(), &intent.binary)
        });
    }
    let requests = Requests {
        cluster: intent.spec.name.to_string(),
        left: round.as_ref().map_or(0, |round| round.left),
        hosts,
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
    let intent = wanted(&cluster, Goal::Converge, &arguments.accept.accept, reach).await?;
    let world = reach.world(&cluster, &intent).await?;
    let considered = arrived(&intent, &world, console).await?;
    let (planning, seen) = (&considered.planning, &considered.seen);
    say_rest(planning, console);
    if let Some(failure) = refused(planning) {
        cluster.hint_at_trust(seen, console);
        return Err(failure);
    }
    let mut hosts: BTreeMap<&NodeName, Vec<Asked<'_>>> = BTreeMap::new();
    for stage in &planning.plan.stages {
        for step in &stage.steps {
            let Place::Host(node) = &step.on else {
                continue;
            };
            hosts.entry(node).or_default().push(Asked {
                stage: &stage.title,
                ..told(step, open(step, seen), &intent.binary)
            });
        }
    }
    let requests = Requests {
        cluster: intent.spec.name.to_string(),
        left: planning.plan.len(),
        hosts,
    };
    console.data(&json::text("Requests", &requests))
}

fn told<'a>(step: &Step, differences: Vec<Difference>, binary: &'a str) -> Asked<'a> {
    Asked {
        stage: "",
        role: match &step.ensure {
            Ensure::Host(ensure) => role(ensure),
            Ensure::Infra(_) => "",
        },
        what: step.ensure.to_string(),
        because: step.because.to_string(),
        differences,
        binary,
        carried: None,
    }
}

/// The role of the collection that an end state belongs to.
fn role(ensure: &HostEnsure) -> &'static str {
    match ensure {
        HostEnsure::Prepared { .. }
        | HostEnsure::EtcdVolume { .. }
        | HostEnsure::Bundle { .. }
        | HostEnsure::Components { .. }
        | HostEnsure::Images { .. } => "prepare",
        HostEnsure::Balancer { .. }
        | HostEnsure::Backend { .. }
        | HostEnsure::BackendGone { .. } => "loadbalancer",
        HostEnsure::Network { .. } | HostEnsure::ClusterDns { .. } => "cni",
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
        | HostEnsure::UploadedCertsGone {} => "master",
        // No play asks for these: `lock take` wants the file's cluster, and converts none.
        HostEnsure::BackedUp { .. }
        | HostEnsure::BackupOffHost { .. }
        | HostEnsure::ServingCertificate { .. }
        | HostEnsure::ServingCertificateKept { .. }
        | HostEnsure::Configuration { .. }
        | HostEnsure::ConfigurationKept { .. }
        | HostEnsure::ClusterInfo { .. }
        | HostEnsure::ProxyConfig { .. }
        | HostEnsure::Proxy { .. }
        | HostEnsure::Kubeconfigs { .. }
        | HostEnsure::KubeconfigsKept { .. }
        | HostEnsure::DnsSpread {}
        | HostEnsure::BackupAside {} => "convert",
    }
}

/// Why there is nothing to hand over, as a failure.
fn ended(verdict: Verdict, console: &mut Console) -> Failure {
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
