//! The command line. It is a library so that scripts can run it against a cluster in memory: start at [`run`] for a process, at [`run_in`]
//! for a console and a way to clusters of your own.
//!
//! Nothing about a cluster is decided here. Commands have a file each in [`commands`]; what they print is made in [`show`]; only
//! [`console`] knows the terminal.

pub mod args;
pub mod cluster;
pub mod commands;
pub mod console;
pub mod exit;
pub mod failure;
pub mod fence_file;
pub mod interrupts;
pub mod known;
pub mod reach;
pub mod reference;
pub mod saved;
pub mod show;
pub mod state;
pub mod terraform;

use std::{ffi::OsString, process::ExitCode};

use clap::Parser as _;
use tokio::runtime;

use crate::{
    args::{Cli, Command},
    console::{ColourChoice, Console},
    exit::Exit,
    failure::Failure,
    reach::Reach,
};

/// Runs a command of this process.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut console = Console::of_process();
    let cli = match understand(arguments, &mut console) {
        Ok(cli) => cli,
        Err(exit) => return exit.into(),
    };
    let mut runtime = match cli.command {
        // Its watch over the backends wants a thread that nothing else keeps busy; forwarding has threads of its own.
        Command::Lb(commands::lb::Command::Run(_)) => runtime::Builder::new_current_thread(),
        _ => runtime::Builder::new_multi_thread(),
    };
    match runtime.enable_all().build() {
        Ok(runtime) => {
            let exit = runtime.block_on(execute(&cli, &mut console, &reach::Ssh));
            // A read of stdin that nobody needs any more would hold the end up.
            runtime.shutdown_background();
            exit.into()
        }
        Err(error) => {
            console.failure(&Failure::doing(Exit::Unexpected, "could not start", &error));
            Exit::Unexpected.into()
        }
    }
}

/// Runs a command in a console, with a way to clusters.
pub async fn run_in(
    arguments: impl IntoIterator<Item = OsString>,
    console: &mut Console,
    reach: &impl Reach,
) -> Exit {
    match understand(arguments, console) {
        Ok(cli) => execute(&cli, console, reach).await,
        Err(exit) => exit,
    }
}

fn understand(
    arguments: impl IntoIterator<Item = OsString>,
    console: &mut Console,
) -> Result<Cli, Exit> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    console.set_colour(colour_choice(&arguments));
    let cli = Cli::try_parse_from(&arguments).map_err(|error| misunderstood(&error, console))?;
    console.set_colour(cli.color);
    log(&cli.log, console);
    Ok(cli)
}

async fn execute(cli: &Cli, console: &mut Console, reach: &impl Reach) -> Exit {
    match command(&cli.command, console, reach).await {
        Ok(()) => Exit::Done,
        Err(failure) => {
            console.failure(&failure);
            failure.exit
        }
    }
}

async fn command(
    command: &Command,
    console: &mut Console,
    reach: &impl Reach,
) -> Result<(), Failure> {
    match command {
        Command::Init(arguments) => commands::init::run(arguments, console),
        Command::Plan(arguments) => commands::plan::run(arguments, console, reach).await,
        Command::Apply(arguments) => commands::apply::run(arguments, console, reach).await,
        Command::Adopt(arguments) => commands::adopt::run(arguments, console, reach).await,
        Command::Convert(arguments) => commands::convert::run(arguments, console, reach).await,
        Command::Replace(arguments) => commands::replace::run(arguments, console, reach).await,
        Command::Remove(arguments) => commands::remove::run(arguments, console, reach).await,
        Command::Repair(arguments) => commands::repair::run(arguments, console, reach).await,
        Command::Status(arguments) => commands::status::run(arguments, console, reach).await,
        Command::Kubeconfig(arguments) => commands::kubeconfig::run(arguments, console).await,
        Command::Destroy(arguments) => commands::destroy::run(arguments, console).await,
        Command::Trust(arguments) => commands::trust::run(arguments, console).await,
        Command::Bundle(command) => commands::bundle::run(command, console).await,
        Command::Local(command) => commands::local::run(command, console).await,
        Command::Lb(command) => commands::lb::run(command, console).await,
        Command::Drill(command) => commands::drill::run(command, console).await,
        Command::Node(command) => commands::node::run(command, console).await,
        Command::Lint(command) => commands::lint::run(command, console, reach).await,
        Command::Journal(command) => commands::journal::run(command, console, reach),
        Command::Lock(command) => commands::lock::run(command, console, reach).await,
        Command::Requests(arguments) => commands::requests::run(arguments, console, reach).await,
        Command::Provide(arguments) => commands::provide::run(arguments, console, reach).await,
        Command::Hosts(arguments) => commands::hosts::run(arguments, console, reach),
        Command::Explain(arguments) => commands::explain::run(arguments, console),
        Command::Schema(arguments) => commands::schema::run(arguments, console),
        Command::Completion(arguments) => commands::completion::run(arguments, console),
        Command::Version(arguments) => commands::version::run(arguments, console),
    }
}

/// What `--color` says, before the command line is understood: its own mistakes are coloured too.
fn colour_choice(arguments: &[OsString]) -> ColourChoice {
    use clap::ValueEnum as _;
    let texts: Vec<&str> = arguments.iter().filter_map(|raw| raw.to_str()).collect();
    let given = texts.iter().enumerate().find_map(|(i, text)| {
        text.strip_prefix("--color=")
            .or_else(|| (*text == "--color").then(|| texts.get(i + 1).copied())?)
    });
    given
        .and_then(|word| ColourChoice::from_str(word, false).ok())
        .unwrap_or_default()
}

/// Help and version are data; anything else is a mistake.
fn misunderstood(error: &clap::Error, console: &mut Console) -> Exit {
    let text = error.render();
    let show = |colour: bool| {
        if colour {
            text.ansi().to_string()
        } else {
            text.to_string()
        }
    };
    if error.use_stderr() {
        let text = show(console.paint_err().colour);
        console.ask(text);
        return Exit::Usage;
    }
    let text = show(console.paint_out().colour);
    match console.data(&text) {
        Ok(()) => Exit::Done,
        Err(failure) => failure.exit,
    }
}

/// Logs go to stderr, in lines without a time: journals have the times.
fn log(filter: &str, console: &mut Console) {
    let filter = match tracing_subscriber::EnvFilter::try_new(filter) {
        Ok(filter) => filter,
        Err(error) => {
            console.warn(format!(
                "the log filter `{}` is not understood: {error}",
                filter.escape_debug()
            ));
            return;
        }
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(console.paint_err().colour)
        .without_time()
        .with_target(false)
        .finish();
    // Scripts run several commands in one process: the first one's filter stays.
    let _already_set = tracing::subscriber::set_global_default(subscriber);
}
