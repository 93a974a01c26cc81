//! `quorate node`: what the operator's machine starts on hosts. Nobody types it.

use std::io::Write as _;

use clap::Subcommand;
use quorate_node::Paths;
use quorate_plan::wire::{Answer, Carried, FRAME_BYTES_MAX, GREETING};
use tokio::io::AsyncReadExt as _;

use crate::{cluster::own_binary, console::Console, exit::Exit, failure::Failure, show};

/// What the operator's machine starts on hosts.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answer an operator's machine on stdin and stdout until they close.
    Serve,
    /// Answer one request that configuration management brings: JSON on stdin, JSON on stdout, progress on stderr.
    Run,
    /// Give what was kept before a conversion, sealed: the greeting line, then its parts on stdout.
    Backup {
        /// An age recipient. May be repeated.
        #[arg(long, value_name = "RECIPIENT", required = true)]
        to: Vec<String>,
    },
}

/// Runs it.
///
/// # Errors
/// When the channel was of no use any more, or what came is no request.
pub async fn run(command: &Command, console: &mut Console) -> Result<(), Failure> {
    match command {
        Command::Serve => {
            let (input, output) = (tokio::io::stdin(), tokio::io::stdout());
            quorate_node::serve(input, output, Paths::host())
                .await
                .map_err(|error| Failure::from_error(Exit::Unexpected, &error))
        }
        Command::Run => answer_one(console).await,
        Command::Backup { to } => give_backup(to),
    }
}

/// Nothing else runs in this process, so that it may block while it reads and seals.
fn give_backup(to: &[String]) -> Result<(), Failure> {
    let failed =
        |error: &(dyn std::error::Error + 'static)| Failure::from_error(Exit::Unexpected, error);
    let own = own_binary()?;
    let mut out = std::io::stdout().lock();
    let greeted = writeln!(out, "{GREETING} {}", own.hash()).and_then(|()| out.flush());
    greeted.map_err(|error| failed(&error))?;
    quorate_node::send_backup(&Paths::host(), to, out).map_err(|error| failed(&error))
}

async fn answer_one(console: &mut Console) -> Result<(), Failure> {
    let mut text = Vec::new();
    tokio::io::stdin()
        .take(u64::from(FRAME_BYTES_MAX))
        .read_to_end(&mut text)
        .await
        .map_err(|error| Failure::doing(Exit::Usage, "could not read the request", &error))?;
    let carried: Carried = serde_json::from_slice(&text).map_err(|error| {
        Failure::doing(Exit::Usage, "that is no request of this quorate", &error)
    })?;
    let mut progress = |line: String| console.say(line);
    let answer = quorate_node::run(carried, Paths::host(), &mut progress)
        .await
        .map_err(|error| Failure::from_error(Exit::Unexpected, &error))?;
    // For people: the refusal itself is in the answer, as data.
    if let Answer::Refused(refusal) = &answer {
        console.say(show::harmless(&refusal.to_string()));
    }
    let mut text = serde_json::to_string(&answer).expect("an answer is plain data");
    text.push('\n');
    console.data(&text)
}
