//! `quorate completion`: what a shell needs to complete commands.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::{args::Cli, console::Console, failure::Failure};

/// Print a completion script for a shell.
#[derive(Debug, Args)]
#[command(
    before_help = "Examples:\n  quorate completion bash > /etc/bash_completion.d/quorate\n  \
                         quorate completion zsh > ~/.zfunc/_quorate"
)]
pub struct Arguments {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// Runs it.
///
/// # Errors
/// When stdout cannot be written.
pub fn run(arguments: &Arguments, console: &mut Console) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "quorate", &mut script);
    console.data(&String::from_utf8_lossy(&script))
}
