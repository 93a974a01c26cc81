//! `quorate node`: what the operator's machine starts on hosts. Nobody types it.

use clap::Subcommand;
use quorate_node::Paths;

use crate::{exit::Exit, failure::Failure};

/// What the operator's machine starts on hosts.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answer an operator's machine on stdin and stdout until they close.
    Serve,
}

/// Runs it.
///
/// # Errors
/// When the channel was of no use any more.
pub async fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Serve => {
            let (input, output) = (tokio::io::stdin(), tokio::io::stdout());
            quorate_node::serve(input, output, Paths::host())
                .await
                .map_err(|error| Failure::from_error(Exit::Unexpected, &error))
        }
    }
}
