//! `quorate infra`: Terraform plans and applies the machines of a cluster, and what that would cost the control plane is judged before. Start at
//! [`plan`] and [`apply`]; how Terraform is run is in [`crate::terraform`].

use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::Command as Process,
    time::Duration,
};

use clap::{Args, Subcommand};
use quorate_exec::observe;
use quorate_infra::{
    Finding, Severity, TerraformPlan,
    terraform::{self as judge, Cluster},
};
use quorate_plan::{ClusterName, Observation};
use serde::Serialize;

use super::carry_out::somebody_to_ask;
use crate::{
    args::{FileArgument, Output, OutputArgument},
    cluster::{ClusterFile, Configured},
    console::{Console, Style},
    exit::Exit,
    failure::Failure,
    reach::Reach,
    saved_infra::{Members, SavedInfra, same},
    show::{self, counted, duration, infra::Report, json, lint},
    terraform::{
        self,
        drive::{Ended, Heard, Patience, drive},
        stream::{Counts, Said},
        tool::Tool,
    },
};

/// Planning changes nothing: without a word for so long it hangs, and is ended.
const PLANNING: Patience = Patience::Until {
    silent: Duration::from_secs(600),
    grace: Duration::from_secs(60),
};

/// Applying is never ended by us. Terraform tells every ten seconds what it waits for, so silence is worth a word.
const APPLYING: Patience = Patience::Forever {
    tell: Duration::from_secs(60),
};

/// Terraform makes the machines of a cluster, when that costs the control plane nothing.
///
/// For cluster files with `provider: { kind: terraform }`. Your own `terraform` or `tofu` (or what QUORATE_TERRAFORM names; from 1.6 on, before
/// 2.0) runs where the configuration is, with your backend, workspace, variables and credentials, after `terraform init`.
#[derive(Debug, Subcommand)]
#[command(before_help = "\
Examples:
  quorate infra plan -f demo.yaml
  quorate infra plan -f demo.yaml --out machines.plan
  quorate infra apply machines.plan")]
pub enum Command {
    /// Show what Terraform would do to the machines, and what that would cost the control plane. Nothing is done.
    ///
    /// The plan is judged as by `quorate lint terraform`, with a look at the cluster that runs: a machine that goes must be one that etcd has let
    /// go of, one that stops must be one that the quorum guard can spare, and two masters at once are refused. What cannot be seen is refused.
    /// Exit code 3: refused.
    Plan(PlanArguments),
    /// Let Terraform do it, after asking once.
    ///
    /// What is applied is exactly the plan that was shown. Right before, the cluster is looked at again. Ctrl-C asks Terraform once to end, and waits for
    /// it: what is on its way is Terraform's to end. It is never killed, because only it knows what it has begun.
    Apply(ApplyArguments),
}

/// `infra plan`.
#[derive(Debug, Args)]
pub struct PlanArguments {
    #[command(flatten)]
    file: FileArgument,
    /// Save the plan, for `quorate infra apply SAVED`. Sensitive values may be in it: only you can read the file.
    #[arg(long, value_name = "SAVED")]
    out: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgument,
}

/// `infra apply`.
#[derive(Debug, Args)]
pub struct ApplyArguments {
    /// A saved plan, with the cluster file it is for. It is applied only to the cluster that was seen when it was saved, and removed then.
    #[arg(value_name = "SAVED")]
    saved: Option<PathBuf>,
    #[command(flatten)]
    file: FileArgument,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    output: OutputArgument,
}

#[derive(Serialize)]
struct Applied<'a> {
    cluster: Option<&'a ClusterName>,
    applied: bool,
    #[serde(flatten)]
    counts: Counts,
}

/// Runs it.
///
/// # Errors
/// When something is refused, could not be seen, or was not done.
pub async fn run(
    command: &Command,
    console: &mut Console,
    reach: &impl Reach,
) -> Result<(), Failure> {
    match command {
        Command::Plan(arguments) => plan(arguments, console, reach).await,
        Command::Apply(arguments) => apply(arguments, console, reach).await,
    }
}

async fn plan(
    arguments: &PlanArguments,
    console: &mut Console,
    reach: &impl Reach,
) -> Result<(), Failure> {
    let configured = Configured::read(&arguments.file.file, console)?;
    let tool = Tool::find(reach.terraform()?, &configured.directory)?;
    let made = make(&tool, console, reach).await?;
    let look = look(&configured, &made.read, console, reach).await?;
    let findings = &look.findings;
    print(&tool, &made, &look, findings, |report| {
        match arguments.output.output {
            Output::Json => console.data(&json::text("InfraPlan", report)),
            Output::Text => {
                let paint = console.paint_out();
                console.data(&show::infra::text(report, paint))
            }
        }
    })?;
    look.say_in_force(console);
    refused(findings)?;
    if let Some(out) = &arguments.out {
        if made.nothing {
            console.warn("there is nothing to do, so no plan was saved");
        } else {
            let cluster = look.cluster.as_ref();
            SavedInfra::new(&configured, cluster, &look.members, tool.made(), &made.plan)
                .write(out)?;
            console.say(format!(
                "Saved. Next: `quorate infra apply {}`",
                out.display()
            ));
        }
    }
    Ok(())
}

async fn apply(
    arguments: &ApplyArguments,
    console: &mut Console,
    reach: &impl Reach,
) -> Result<(), Failure> {
    somebody_to_ask(arguments.yes, "infra apply", "quorate infra plan", console)?;
    let saved = arguments
        .saved
        .as_deref()
        .map(SavedInfra::read)
        .transpose()?;
    let file = saved
        .as_ref()
        .map_or(&arguments.file.file, |saved| &saved.cluster_file);
    let configured = Configured::read(file, console)?;
    let tool = Tool::find(reach.terraform()?, &configured.directory)?;
    let made = match &saved {
        None => make(&tool, console, reach).await?,
        Some(saved) => {
            let plan = saved.plan(&configured)?;
            if saved.terraform.version != tool.version {
                return Err(Failure::new(
                    Exit::Refused,
                    format!(
                        "the plan was made with version {}, {tool} is {}",
                        quorate_exec::hostile::line(&saved.terraform.version),
                        tool.version
                    ),
                )
                .hint("plan again: `quorate infra plan --out FILE`"));
            }
            Made::of_saved(plan, &tool, reach)?
        }
    };
    let first = look(&configured, &made.read, console, reach).await?;
    if let Some(saved) = &saved {
        saved.fits(first.cluster.as_ref(), &first.members)?;
    }
    let paint = console.paint_err();
    print(&tool, &made, &first, &first.findings, |report| {
        console.ask(show::infra::text(report, paint));
        Ok(())
    })?;
    refused(&first.findings)?;
    let report = |applied: bool, counts: Counts| Applied {
        cluster: first.cluster.as_ref(),
        applied,
        counts,
    };
    if made.nothing {
        return match arguments.output.output {
            Output::Json => {
                console.data(&json::text("InfraApply", &report(false, Counts::default())))
            }
            Output::Text => Ok(()),
        };
    }
    if !arguments.yes && !console.confirm("Do this", "yes", "say --yes in scripts")? {
        return Err(Failure::usage("nothing was done"));
    }
    // Whoever read the plan took a while, and the cluster did not wait.
    let again = look(&configured, &made.read, console, reach).await?;
    same(&first.members, &again.members)?;
    if again.findings != first.findings {
        let report = lint::Report::new("the plan, with the cluster as it is now", &again.findings);
        console.ask(lint::text(&report, paint));
        refused(&again.findings)?;
    }
    again.at_rest()?;
    let counts = carry_out(&tool, &made, arguments.saved.as_deref(), console, reach).await?;
    match arguments.output.output {
        Output::Json => console.data(&json::text("InfraApply", &report(true, counts)))?,
        Output::Text => console.say(format!(
            "Terraform made {}, changed {} and ended {}",
            counted(
                usize::try_from(counts.add).unwrap_or(usize::MAX),
                "resource"
            ),
            counts.change,
            counts.remove
        )),
    }
    console.say(format!(
        "Next: `quorate plan -f {}` shows what that means for the cluster",
        configured.path.display()
    ));
    Ok(())
}

/// A plan of Terraform's: its own file, what is in it, and whether that is nothing.
struct Made {
    plan: Vec<u8>,
    read: TerraformPlan,
    nothing: bool,
}

impl Made {
    /// One that was saved.
    fn of_saved(plan: Vec<u8>, tool: &Tool, reach: &impl Reach) -> Result<Self, Failure> {
        let private = reach.directories()?.private()?;
        let file = private.path().join("plan");
        write(&file, &plan)?;
        let read = read(tool, &file)?;
        Ok(Self {
            plan,
            read,
            nothing: false,
        })
    }
}

/// Plans. Terraform's own file lies on the disk for as long as it is needed there, in a directory that is ours alone.
async fn make(tool: &Tool, console: &mut Console, reach: &impl Reach) -> Result<Made, Failure> {
    let private = reach.directories()?.private()?;
    let file = private.path().join("plan");
    // Terraform keeps the mode of a file that is there.
    write(&file, &[])?;
    console.say(format!(
        "{tool} {} plans in {}",
        tool.version,
        tool.directory().display()
    ));
    let ended = heard(tool.plan(&file), PLANNING, console).await?;
    let nothing = match ended.status.code() {
        Some(0) => true,
        Some(2) => false,
        Some(_) | None => return Err(not_planned(&ended)),
    };
    let read = read(tool, &file)?;
    let plan = fs::read(&file).map_err(|error| {
        Failure::doing(Exit::Unexpected, "could not read Terraform's plan", &error)
    })?;
    Ok(Made {
        plan,
        read,
        nothing,
    })
}

fn read(tool: &Tool, plan: &Path) -> Result<TerraformPlan, Failure> {
    TerraformPlan::parse(&tool.show(plan)?)
        .map_err(|error| Failure::from_error(Exit::Unseen, &error))
}

fn write(file: &Path, bytes: &[u8]) -> Result<(), Failure> {
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut file| file.write_all(bytes))
        .map_err(|error| {
            let doing = format!("could not write `{}`", file.display());
            Failure::doing(Exit::Unexpected, doing, &error)
        })
}

/// Applies, and counts what was done.
async fn carry_out(
    tool: &Tool,
    made: &Made,
    saved: Option<&Path>,
    console: &mut Console,
    reach: &impl Reach,
) -> Result<Counts, Failure> {
    let private = reach.directories()?.private()?;
    let file = private.path().join("plan");
    write(&file, &made.plan)?;
    let began = std::time::Instant::now();
    let ended = heard(tool.apply(&file), APPLYING, console).await;
    if let Some(saved) = saved {
        // Once it was begun it fits nothing any more, and sensitive values may be in it.
        if let Err(error) = fs::remove_file(saved) {
            console.warn(format!("could not remove `{}`: {error}", saved.display()));
        }
    }
    let ended = ended?;
    let took = duration(began.elapsed());
    if ended.status.success() {
        console.say(format!("Applied in {took}"));
        return Ok(ended.counts.unwrap_or_default());
    }
    let exit = match ended.interrupted {
        true => Exit::Interrupted,
        false => Exit::StepFailed,
    };
    let failure = Failure::new(
        exit,
        format!("Terraform did not do all of it: {}", ended.how()),
    );
    let failure = because(failure, &ended)
        .hint("what was done is in Terraform's state; `quorate infra plan` shows what is left");
    Err(match ended.interrupted {
        // Its providers end their requests, and do not always hear what came of them.
        true => failure.hint(
            "where that ends with `already exists`, it was made all the same: `terraform import` it, or remove it",
        ),
        false => failure,
    })
}

/// Runs Terraform, and says what it tells.
async fn heard(
    command: Process,
    patience: Patience,
    console: &mut Console,
) -> Result<Ended, Failure> {
    let interrupts = console.interrupts()?;
    if interrupts.heard() {
        return Err(Failure::silent(Exit::Interrupted));
    }
    let paint = console.paint_err();
    let mut tell = |heard: Heard<'_>| {
        match heard {
        Heard::Said(Said::Happens(line)) => console.say(format!("  {line}")),
        Heard::Said(Said::Other(line)) => console.say(format!("  terraform: {line}")),
        Heard::Said(Said::Wrong(trouble)) if !trouble.error => {
            console.warn(format!("terraform: {}", trouble.summary));
        }
        // Errors are told at the end, with everything else.
        Heard::Said(Said::Wrong(_) | Said::Counts(_) | Said::Nothing) => {}
        Heard::Asked => console.say(
            paint
                .paint(Style::Warn, "Terraform was asked to end, and is waited for")
                .to_string(),
        ),
        Heard::AskedAgain { process } => console.say(format!(
            "Still waiting for Terraform, process {process}. Killed, it forgets what is on its way: then somebody has to look for that by hand."
        )),
        Heard::Silence(quiet) => console.say(format!(
            "Terraform has said nothing for {}",
            duration(quiet)
        )),
    }
    };
    drive(command, patience, &interrupts, &mut tell)
        .await
        .map_err(|error| Failure::doing(Exit::Usage, "could not run Terraform", &error))
}

fn not_planned(ended: &Ended) -> Failure {
    if ended.interrupted {
        return Failure::silent(Exit::Interrupted);
    }
    if ended.silent {
        return because(Failure::new(Exit::Unseen, "Terraform said nothing any more while it planned, and was ended"), ended)
            .hint("the state's backend may not answer; a lock that it left there is lifted with `terraform force-unlock`");
    }
    because(
        Failure::new(
            Exit::Usage,
            format!("Terraform could not plan: {}", ended.how()),
        ),
        ended,
    )
}

/// With what Terraform said is wrong.
fn because(mut failure: Failure, ended: &Ended) -> Failure {
    for trouble in ended.troubles.iter().filter(|trouble| trouble.error) {
        let more = match trouble.detail.trim() {
            "" => String::new(),
            detail => format!("\n{detail}"),
        };
        failure = failure.because(format!("{}{more}", trouble.summary));
    }
    if !ended.last_words.is_empty() {
        failure = failure.because(ended.last_words.clone());
    }
    failure
}

/// The cluster that runs on the machines, and what the plan would cost it.
struct Look {
    cluster: Option<ClusterName>,
    members: Members,
    findings: Vec<Finding>,
    /// Operations that are at it, each with its host.
    in_force: Vec<String>,
}

impl Look {
    fn blind(cluster: Option<ClusterName>, members: Members, plan: &TerraformPlan) -> Self {
        Self {
            cluster,
            members,
            findings: judge::lint(plan, None),
            in_force: Vec::new(),
        }
    }

    fn say_in_force(&self, console: &mut Console) {
        for operation in &self.in_force {
            console.warn(format!("an operation is in force: {operation}"));
        }
    }

    /// Nobody changes the cluster just now.
    fn at_rest(&self) -> Result<(), Failure> {
        match self.in_force.first() {
            None => Ok(()),
            Some(operation) => Err(Failure::new(
                Exit::Refused,
                format!("an operation is in force: {operation}"),
            )
            .hint("let it end first; `quorate lock show` shows it")),
        }
    }
}

/// Looks at the cluster that the state knows, and judges the plan by it. Where the state knows none, or nobody can look, whatever happens to a
/// master is refused.
async fn look(
    configured: &Configured,
    plan: &TerraformPlan,
    console: &mut Console,
    reach: &impl Reach,
) -> Result<Look, Failure> {
    let Some(output) = &plan.cluster else {
        return Ok(Look::blind(None, Members::NoCluster, plan));
    };
    let interrupts = console.interrupts()?;
    let looked = async {
        let inventory = terraform::inventory_of(output)?;
        let directories = reach.directories()?;
        let cluster =
            ClusterFile::read_with(&configured.path, directories, console, |_| Ok(inventory))?;
        let intent = cluster.intent_for_looking()?;
        let world = reach.world(&cluster, &intent).await?;
        let seen = observe(&world, &intent).await;
        cluster.hint_at_trust(&seen, console);
        let judged = judge::lint(
            plan,
            Some(Cluster {
                spec: &intent.spec,
                seen: &seen,
            }),
        );
        Ok(Look {
            cluster: Some(intent.spec.name),
            members: Members::of(&seen),
            findings: judged,
            in_force: in_force(&seen),
        })
    };
    let looked: Result<Look, Failure> = tokio::select! {
        looked = looked => looked,
        () = interrupts.interrupted() => return Err(Failure::silent(Exit::Interrupted)),
    };
    looked.or_else(|failure| {
        console.failure(&failure);
        console.warn("nobody could look at the cluster: whatever happens to a master is refused");
        Ok(Look::blind(None, Members::Unknown, plan))
    })
}

/// Operations whose operator is connected.
fn in_force(seen: &Observation) -> Vec<String> {
    seen.hosts
        .iter()
        .filter_map(|(node, facts)| {
            let fencing = facts.get().ok()?.fencing.get().ok()?;
            let claim = fencing.claim.as_ref().filter(|_| fencing.connected)?;
            let operator = &claim.operator;
            let who = format!("{}@{} on {node}", operator.user, operator.machine);
            Some(quorate_exec::hostile::line(&who))
        })
        .collect()
}

fn print(
    tool: &Tool,
    made: &Made,
    look: &Look,
    findings: &[Finding],
    with: impl FnOnce(&Report<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let subject = look
        .cluster
        .as_ref()
        .map_or("no cluster yet", |name| name.as_str());
    with(&Report {
        cluster: look.cluster.as_ref(),
        directory: tool.directory(),
        terraform: &tool.made(),
        members: &look.members,
        nothing_to_do: made.nothing,
        changes: show::infra::changes(&made.read),
        lint: lint::Report::new(subject, findings),
    })
}

/// An error that was found is a refusal.
fn refused(findings: &[Finding]) -> Result<(), Failure> {
    let errors = findings
        .iter()
        .any(|finding| finding.severity == Severity::Error);
    match errors {
        true => Err(Failure::silent(Exit::Refused)),
        false => Ok(()),
    }
}
