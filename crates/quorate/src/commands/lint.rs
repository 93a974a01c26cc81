//! `quorate lint`: what lies under a cluster at AWS, judged before it costs the cluster anything.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};
use quorate_aws::{Arn, Aws, Options};
use quorate_exec::observe;
use quorate_infra::{
    Finding, TerraformPlan, nlb,
    terraform::{self, Cluster},
};

use crate::{
    args::{Output, OutputArgument},
    cluster::ClusterFile,
    console::Console,
    exit::Exit,
    failure::Failure,
    reach::Reach,
    show::{json, lint},
};

/// Largest plan that is read, in bytes.
const PLAN_BYTES_MAX: u64 = 256 << 20;

/// The longest that one question to AWS may take, retries included.
const ASK_MAX: Duration = Duration::from_secs(30);

/// Judge a Terraform plan or a load balancer by what it would cost the control plane.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Judge a Terraform plan: what it destroys, replaces, stops or cuts off.
    ///
    /// Exit code 0: no error was found; 3: at least one. Every finding has a code: `quorate explain CODE`. With a cluster file the cluster is
    /// looked at, machines are known by their addresses, and the quorum guard says whether a master may stop.
    #[command(before_help = "\
Examples:
  terraform plan -out=saved.plan
  terraform show -json saved.plan | quorate lint terraform -
  quorate lint terraform plan.json -f demo.yaml")]
    Terraform(TerraformArguments),
    /// Judge a load balancer at AWS as the endpoint of a control plane.
    ///
    /// It is only looked at. Credentials are found as AWS's own tools find them; the region is that of the ARN. Exit codes as for `lint
    /// terraform`.
    #[command(before_help = "\
Examples:
  quorate lint nlb arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/net/demo-api/0123456789abcdef
  quorate lint nlb \"$(terraform output -json quorate_cluster | jq -r .endpoint.balancer.arn)\"")]
    Nlb(NlbArguments),
}

/// `lint terraform`.
#[derive(Debug, Args)]
pub struct TerraformArguments {
    /// The plan as `terraform show -json` writes it; `-` reads it from stdin.
    #[arg(value_name = "PLAN.json")]
    plan: PathBuf,
    /// The cluster file of the cluster that runs there.
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgument,
}

/// `lint nlb`.
#[derive(Debug, Args)]
pub struct NlbArguments {
    /// The load balancer's ARN.
    arn: String,
    /// Profile of AWS's own configuration.
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    #[command(flatten)]
    output: OutputArgument,
}

/// Runs it.
///
/// # Errors
/// When something is wrong, after it was printed; when it cannot be judged.
pub async fn run(
    command: &Command,
    console: &mut Console,
    reach: &impl Reach,
) -> Result<(), Failure> {
    match command {
        Command::Terraform(arguments) => terraform(arguments, console, reach).await,
        Command::Nlb(arguments) => balancer(arguments, console).await,
    }
}

async fn terraform(
    arguments: &TerraformArguments,
    console: &mut Console,
    reach: &impl Reach,
) -> Result<(), Failure> {
    let plan = TerraformPlan::parse(&read(&arguments.plan)?)
        .map_err(|error| Failure::from_error(Exit::Usage, &error))?;
    let findings = match &arguments.file {
        None => terraform::lint(&plan, None),
        Some(file) => {
            let cluster = ClusterFile::read(file, reach.directories()?, console)?;
            let intent = cluster.intent_for_looking()?;
            let world = reach.world(&cluster, &intent).await?;
            let seen = observe(&world, &intent).await;
            cluster.hint_at_trust(&seen, console);
            let cluster = Cluster {
                spec: &intent.spec,
                seen: &seen,
            };
            terraform::lint(&plan, Some(cluster))
        }
    };
    let subject = arguments.plan.display().to_string();
    finish(&subject, &findings, arguments.output, console)
}

async fn balancer(arguments: &NlbArguments, console: &mut Console) -> Result<(), Failure> {
    let arn: Arn = arguments.arn.parse().map_err(Failure::usage)?;
    let options = Options {
        profile: arguments.profile.clone(),
        region: Some(arn.region().clone()),
        ..Options::of_process()
    };
    let unseen = |error: quorate_aws::AwsError| {
        Failure::doing(
            Exit::Unseen,
            "the load balancer could not be looked at",
            &error,
        )
    };
    let aws = Aws::open(options, ASK_MAX).await.map_err(unseen)?;
    let Some(seen) = nlb::look(&aws, &arn, ASK_MAX).await.map_err(unseen)? else {
        return Err(Failure::new(
            Exit::Unseen,
            format!("there is no load balancer {arn}"),
        ));
    };
    let findings = nlb::lint(&seen);
    finish(arn.as_str(), &findings, arguments.output, console)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let doing = || format!("could not read the plan, `{}`", path.display());
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin()
            .lock()
            .take(PLAN_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path)
            .and_then(|file| file.take(PLAN_BYTES_MAX + 1).read_to_end(&mut bytes))
    };
    read.map_err(|error| Failure::doing(Exit::Usage, doing(), &error))?;
    Ok(bytes)
}

fn finish(
    subject: &str,
    findings: &[Finding],
    output: OutputArgument,
    console: &mut Console,
) -> Result<(), Failure> {
    let report = lint::Report::new(subject, findings);
    match output.output {
        Output::Json => console.data(&json::text("Lint", &report))?,
        Output::Text => {
            let paint = console.paint_out();
            console.data(&lint::text(&report, paint))?;
        }
    }
    match report.errors {
        0 => Ok(()),
        _ => Err(Failure::silent(Exit::Refused)),
    }
}
