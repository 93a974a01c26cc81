//! The command line. Each command's own arguments are beside it, in [`crate::commands`].

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use quorate_plan::{Goal, intent::Landmark};

use crate::{cluster::BackupPlace, commands, console::ColourChoice, exit::Exit, failure::Failure};

/// Highly available kubeadm control planes, over the tools you already run.
#[derive(Debug, Parser)]
#[command(
    name = "quorate",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    before_help = "\
Examples:
  quorate init demo.yaml                a commented cluster file to start from
  quorate plan -f demo.yaml             what would be done, and why
  quorate apply -f demo.yaml            do it, after asking once
  quorate status -f demo.yaml           what the cluster is like, and what it survives
  quorate explain would-lose-quorum     more about a refusal or a mistake"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// When to colour: auto, always or never. NO_COLOR and CLICOLOR_FORCE are heeded.
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "WHEN",
        default_value_t,
        hide_possible_values = true,
        help_heading = "Global options"
    )]
    pub color: ColourChoice,
    /// What to log on stderr, as `warn` or `quorate_exec=debug`.
    #[arg(
        long,
        global = true,
        value_name = "FILTER",
        env = "QUORATE_LOG",
        default_value = "warn",
        help_heading = "Global options"
    )]
    pub log: String,
}

/// A command.
#[derive(Debug, Subcommand)]
#[expect(
    missing_docs,
    reason = "the help of a command is written at its arguments"
)]
pub enum Command {
    Init(commands::init::Arguments),
    Plan(commands::plan::Arguments),
    Apply(commands::apply::Arguments),
    Adopt(commands::adopt::Arguments),
    Convert(commands::convert::Arguments),
    Replace(commands::replace::Arguments),
    Remove(commands::remove::Arguments),
    Repair(commands::repair::Arguments),
    Status(commands::status::Arguments),
    Kubeconfig(commands::kubeconfig::Arguments),
    Destroy(commands::destroy::Arguments),
    Trust(commands::trust::Arguments),
    #[command(subcommand)]
    Backup(commands::backup::Command),
    #[command(subcommand)]
    Bundle(commands::bundle::Command),
    #[command(subcommand)]
    Local(commands::local::Command),
    #[command(subcommand)]
    Lb(commands::lb::Command),
    #[command(subcommand)]
    Drill(commands::drill::Command),
    #[command(subcommand)]
    Lint(commands::lint::Command),
    #[command(subcommand)]
    Infra(commands::infra::Command),
    #[command(subcommand)]
    Journal(commands::journal::Command),
    #[command(subcommand)]
    Lock(commands::lock::Command),
    Requests(commands::requests::Arguments),
    Provide(commands::provide::Arguments),
    Hosts(commands::hosts::Arguments),
    Explain(commands::explain::Arguments),
    Schema(commands::schema::Arguments),
    Completion(commands::completion::Arguments),
    Version(commands::version::Arguments),
    #[command(subcommand, hide = true)]
    Node(commands::node::Command),
}

/// Which cluster.
#[derive(Clone, Debug, Args)]
pub struct FileArgument {
    /// The cluster file.
    #[arg(
        short,
        long,
        value_name = "FILE",
        env = "QUORATE_FILE",
        default_value = "cluster.yaml"
    )]
    pub file: PathBuf,
}

/// How data is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs: one object with `apiVersion` and `kind`. Keys are added, never renamed.
    Json,
}

/// How data is written.
#[derive(Clone, Copy, Debug, Args)]
pub struct OutputArgument {
    /// How to write it: text for people, json for programs.
    #[arg(
        short,
        long,
        value_enum,
        value_name = "FORMAT",
        default_value_t,
        hide_possible_values = true
    )]
    pub output: Output,
}

/// Risks that are accepted.
#[derive(Clone, Debug, Default, Args)]
pub struct AcceptArgument {
    /// Accept one risk for one node, as in `clock-differs=cp-2`. May be repeated; there is no general force.
    #[arg(long, value_name = "RISK=NODE")]
    pub accept: Vec<quorate_plan::Acceptance>,
}

/// Where a backup goes that leaves its host.
#[derive(Clone, Debug, Default, Args)]
pub struct BackupArgument {
    /// Where the backup goes on this machine, sealed. Default: a folder among what is kept of the cluster here.
    #[arg(long, value_name = "DIR", conflicts_with = "undo")]
    backup: Option<PathBuf>,
    /// Whom the backup is sealed to, an age recipient `age1…`. May be repeated. Default: an identity that is made on this machine once.
    #[arg(long, value_name = "RECIPIENT", conflicts_with = "undo")]
    backup_recipient: Vec<String>,
}

impl BackupArgument {
    /// # Errors
    /// When nobody could open what is sealed to that recipient.
    pub fn place(&self) -> Result<BackupPlace, Failure> {
        for recipient in &self.backup_recipient {
            quorate_node::check_backup_recipient(recipient)
                .map_err(|error| Failure::from_error(Exit::Usage, &error))?;
        }
        let absolute = |folder: &PathBuf| {
            std::path::absolute(folder).map_err(|error| {
                Failure::doing(Exit::Unexpected, "there is no working directory", &error)
            })
        };
        Ok(BackupPlace {
            folder: self.backup.as_ref().map(absolute).transpose()?,
            recipients: self.backup_recipient.clone(),
        })
    }
}

/// What requests are to lead to.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct GoalArgument {
    /// Convert a cluster that somebody else made with one master, as `quorate convert` does.
    #[arg(long)]
    convert: bool,
    /// Take a conversion back. Only while one master votes.
    #[arg(long, requires = "convert", conflicts_with = "pause_after")]
    undo: bool,
    /// Stop the conversion when this is reached: backup, certificate, configuration, cluster-info, kube-proxy or kubeconfigs.
    #[arg(long, requires = "convert", value_name = "LANDMARK")]
    pause_after: Option<Landmark>,
}

impl GoalArgument {
    /// As a goal.
    pub fn goal(&self) -> Goal {
        match (self.convert, self.undo) {
            (false, _) => Goal::Converge,
            (true, true) => Goal::Unconvert,
            (true, false) => Goal::Convert {
                pause_after: self.pause_after,
            },
        }
    }
}
