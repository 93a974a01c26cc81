//! `quorate journal`: what runs did, from their journals on this machine. No decision reads them.

use std::time::Duration;

use clap::{Args, Subcommand};
use quorate_exec::{
    Journal,
    journal::{Entry, Recording},
};
use quorate_plan::{Event, event::Verdict};
use serde::Serialize;

use crate::{
    args::{FileArgument, Output, OutputArgument},
    cluster::ClusterFile,
    console::{Console, Paint, Style},
    exit::Exit,
    failure::Failure,
    reach::Reach,
    reference,
    show::{
        counted, duration, harmless, json,
        plan::{what_of, where_of},
        refusal,
        table::Table,
    },
};

/// What runs did: their journals on this machine.
#[derive(Debug, Subcommand)]
#[command(before_help = "\
Examples:
  quorate journal list
  quorate journal show                       the last run, line by line
  quorate journal show -v                    with what its steps told while they went
  quorate journal explain                    why the last run ended as it did")]
pub enum Command {
    /// List the runs of a cluster, the oldest first.
    List(ListArguments),
    /// Show a run, line by line.
    Show(ShowArguments),
    /// Say how a run ended, why, and what to do next.
    Explain(RunArguments),
}

/// Which cluster, and how to write it.
#[derive(Debug, Args)]
pub struct ListArguments {
    #[command(flatten)]
    file: FileArgument,
    #[command(flatten)]
    output: OutputArgument,
}

/// Which run.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// The run's ID, or the beginning of it. Default: the last one.
    run: Option<String>,
    #[command(flatten)]
    file: FileArgument,
}

/// Which run, and how to write it.
#[derive(Debug, Args)]
pub struct ShowArguments {
    #[command(flatten)]
    which: RunArguments,
    /// Also what steps told while they went.
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    output: OutputArgument,
}

#[derive(Serialize)]
struct Runs {
    items: Vec<RunItem>,
}

#[derive(Serialize)]
struct RunItem {
    id: String,
    verb: String,
    operator: String,
    ended: String,
}

#[derive(Serialize)]
struct Entries<'a> {
    run: &'a str,
    torn: bool,
    items: &'a [Entry],
}

/// Runs it.
///
/// # Errors
/// When there is no such run, or its journal is damaged.
pub fn run(command: &Command, console: &mut Console, reach: &impl Reach) -> Result<(), Failure> {
    match command {
        Command::List(arguments) => list(arguments, console, reach),
        Command::Show(arguments) => show(arguments, console, reach),
        Command::Explain(arguments) => explain(arguments, console, reach),
    }
}

fn list(
    arguments: &ListArguments,
    console: &mut Console,
    reach: &impl Reach,
) -> Result<(), Failure> {
    let cluster = ClusterFile::read(&arguments.file.file, reach.directories()?, console)?;
    let runs = cluster.state().runs();
    let mut items = Vec::new();
    for run in Journal::list(&runs).map_err(|error| failed(&error))? {
        items.push(match Journal::read(&runs, &run.id) {
            Ok(recording) => {
                let (verb, operator) = begun(&recording);
                RunItem {
                    id: run.id,
                    verb,
                    operator,
                    ended: ended(&recording),
                }
            }
            // One damaged journal does not hide the others.
            Err(error) => RunItem {
                id: run.id,
                verb: "-".into(),
                operator: "-".into(),
                ended: error.to_string(),
            },
        });
    }
    match arguments.output.output {
        Output::Json => console.data(&json::text("RunList", &Runs { items })),
        Output::Text if items.is_empty() => {
            console.say(format!(
                "No run of `{}` was made from this machine.",
                cluster.spec.name
            ));
            Ok(())
        }
        Output::Text => {
            let mut table = Table::new(["RUN", "VERB", "BY", "ENDED"]);
            for item in items {
                table.row([item.id, item.verb, item.operator, item.ended]);
            }
            console.data(&table.text(console.columns()))
        }
    }
}

fn show(
    arguments: &ShowArguments,
    console: &mut Console,
    reach: &impl Reach,
) -> Result<(), Failure> {
    let (id, recording) = recording(&arguments.which, console, reach)?;
    match arguments.output.output {
        Output::Json => console.data(&json::text(
            "Journal",
            &Entries {
                run: &id,
                torn: recording.torn,
                items: &recording.entries,
            },
        )),
        Output::Text => {
            let paint = console.paint_out();
            let begin = recording.entries.first().map_or(0, |entry| entry.at);
            let mut out = format!("{}\n", paint.paint(Style::Bold, format!("run {id}")));
            for entry in &recording.entries {
                if matches!(entry.event, Event::StepProgress { .. }) && !arguments.verbose {
                    continue;
                }
                let since = Duration::from_millis(entry.at.saturating_sub(begin));
                out += &format!("{:>9}  {}\n", duration(since), line(&entry.event, paint));
            }
            if recording.torn {
                out += "the last line was cut off: whoever wrote it did not live to end it\n";
            }
            console.data(&out)
        }
    }
}

fn explain(
    arguments: &RunArguments,
    console: &mut Console,
    reach: &impl Reach,
) -> Result<(), Failure> {
    let (id, recording) = recording(arguments, console, reach)?;
    let paint = console.paint_out();
    let (verb, operator) = begun(&recording);
    let stood = recording
        .entries
        .iter()
        .filter(|entry| matches!(entry.event, Event::StepStands { .. }))
        .count();
    let mut out = format!("run {id}: `{verb}` by {operator}\n");
    let took = match (recording.entries.first(), recording.entries.last()) {
        (Some(first), Some(last)) => Duration::from_millis(last.at.saturating_sub(first.at)),
        _ => Duration::ZERO,
    };
    out += &format!(
        "{} stood when it ended, after {}.\n\n",
        counted(stood, "step"),
        duration(took)
    );
    match verdict(&recording) {
        None => {
            out += "It did not end: the process or the machine went away in the middle. Hosts finish the action they are at.\n";
            let open: Vec<String> = open_steps(&recording);
            if !open.is_empty() {
                out += &format!("In flight: {}\n", open.join("; "));
            }
            out += "\nRun the same command again: it goes on from what is there.\n";
        }
        Some(Verdict::Done) => out += "Everything stands.\n",
        Some(Verdict::More) => {
            out += "All that was approved stands. More was needed than could be seen before.\n";
        }
        Some(Verdict::Refused { refusals }) => {
            out += "A guard said no. Nothing was done after it.\n";
            out += &refusal::all(refusals, paint);
            if let Some(first) = refusals.first() {
                out += &format!("\n{}", reference::runbook(first.code()));
            }
        }
        Some(Verdict::Failed { step, error }) => {
            out += &format!(
                "It failed at {}: {}\n{}\n\nWhat was done before it stands. Mend the cause and run the same command again.\n",
                where_of(step),
                what_of(step),
                harmless(error)
            );
        }
        Some(Verdict::Unseen { missing }) => {
            out += "It could not be seen whether it is done:\n";
            for one in missing {
                out += &format!("  {}\n", harmless(one));
            }
        }
        Some(Verdict::Stopped { left }) => {
            out += &format!(
                "It was asked to stop; {} left. Run the same command again to go on.\n",
                counted(*left, "step")
            );
        }
    }
    console.data(&out)
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::from_error(Exit::Unexpected, error)
}

/// The run that was asked for, and what its journal holds.
fn recording(
    arguments: &RunArguments,
    console: &mut Console,
    reach: &impl Reach,
) -> Result<(String, Recording), Failure> {
    let cluster = ClusterFile::read(&arguments.file.file, reach.directories()?, console)?;
    let runs = cluster.state().runs();
    let all = Journal::list(&runs).map_err(|error| failed(&error))?;
    let found = match &arguments.run {
        None => all.last(),
        Some(given) => {
            let matching: Vec<_> = all.iter().filter(|run| run.id.starts_with(given)).collect();
            match matching.as_slice() {
                [only] => Some(*only),
                [] => None,
                several => {
                    return Err(Failure::usage(format!(
                        "{} runs begin with `{}`",
                        several.len(),
                        quorate_exec::hostile::line(given)
                    ))
                    .hint("give more of it; `quorate journal list` shows all"));
                }
            }
        }
    };
    let Some(run) = found else {
        let what = match &arguments.run {
            Some(given) => format!("there is no run `{}`", quorate_exec::hostile::line(given)),
            None => format!(
                "no run of `{}` was made from this machine",
                cluster.spec.name
            ),
        };
        return Err(Failure::usage(what).hint("`quorate journal list` shows all runs"));
    };
    let recording = Journal::read(&runs, &run.id).map_err(|error| failed(&error))?;
    Ok((run.id.clone(), recording))
}

fn begun(recording: &Recording) -> (String, String) {
    recording
        .entries
        .iter()
        .find_map(|entry| match &entry.event {
            Event::Started {
                operator, intent, ..
            } => Some((
                intent.goal.to_string(),
                format!("{}@{}", operator.user, operator.machine),
            )),
            _ => None,
        })
        .unwrap_or_else(|| ("-".into(), "-".into()))
}

fn verdict(recording: &Recording) -> Option<&Verdict> {
    recording
        .entries
        .iter()
        .rev()
        .find_map(|entry| match &entry.event {
            Event::Ended { verdict } => Some(verdict),
            _ => None,
        })
}

fn ended(recording: &Recording) -> String {
    match verdict(recording) {
        None => "did not end".to_owned(),
        Some(Verdict::Done) => "done".to_owned(),
        Some(Verdict::More) => "done, more needed".to_owned(),
        Some(Verdict::Refused { refusals }) => {
            let codes: Vec<String> = refusals.iter().map(|one| one.code().to_string()).collect();
            format!("refused: {}", codes.join(", "))
        }
        Some(Verdict::Failed { step, .. }) => {
            format!("failed at {}: {}", where_of(step), what_of(step))
        }
        Some(Verdict::Unseen { .. }) => "not seen".to_owned(),
        Some(Verdict::Stopped { left }) => format!("stopped, {} left", counted(*left, "step")),
    }
}

/// Steps that began and neither stood nor failed.
fn open_steps(recording: &Recording) -> Vec<String> {
    let mut open = Vec::new();
    for entry in &recording.entries {
        match &entry.event {
            Event::StepStarted { step } => open.push(step),
            Event::StepStands { step, .. } | Event::StepFailed { step, .. } => {
                open.retain(|other| other != &step);
            }
            _ => {}
        }
    }
    open.iter()
        .map(|step| format!("{}: {}", where_of(step), what_of(step)))
        .collect()
}

fn line(event: &Event, paint: Paint) -> String {
    match event {
        Event::Started {
            operator,
            intent,
            plan,
        } => format!(
            "`{}` of {} by {operator}: {}",
            intent.goal,
            intent.spec.name,
            crate::show::plan::size(plan)
        ),
        Event::Fenced { fence } => format!("fence {fence} taken"),
        Event::StageStarted { number, title, .. } => {
            paint.paint(Style::Bold, format!("stage {number}: {title}"))
        }
        Event::StepStarted { step } => format!("begins   {}: {}", where_of(step), what_of(step)),
        Event::Waiting { what, .. } => format!("waits    {}", harmless(what)),
        Event::StepProgress { step, line } => format!(
            "         {}: {}",
            where_of(step),
            harmless(line).replace('\n', " ")
        ),
        Event::StepStands {
            step,
            took_ms,
            evidence,
        } => format!(
            "{}   {}: {} ({}): {}",
            paint.paint(Style::Good, "stands"),
            where_of(step),
            what_of(step),
            duration(Duration::from_millis(*took_ms)),
            harmless(&evidence.0).replace('\n', " ")
        ),
        Event::StepFailed { step, error } => format!(
            "{}   {}: {}: {}",
            paint.paint(Style::Bad, "failed"),
            where_of(step),
            what_of(step),
            harmless(error).replace('\n', "\n             ")
        ),
        Event::Refused { refusal } => format!(
            "{} {}",
            paint.paint(Style::Bad, format!("refused[{}]:", refusal.code())),
            harmless(&refusal.to_string())
        ),
        Event::Ended { verdict } => match verdict {
            Verdict::Done => paint.paint(Style::Good, "done"),
            Verdict::More => paint.paint(Style::Good, "done; more is needed"),
            Verdict::Refused { .. } => paint.paint(Style::Bad, "ended: refused"),
            Verdict::Failed { .. } => paint.paint(Style::Bad, "ended: a step failed"),
            Verdict::Unseen { .. } => paint.paint(Style::Bad, "ended: not seen"),
            Verdict::Stopped { left } => {
                format!("ended: asked to stop, {} left", counted(*left, "step"))
            }
        },
    }
}
