//! `quorate lb`: the balancer. `run` is what the unit on a balancer host starts; the others ask a running one.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use quorate_lb::admin::{self, Request, Response, Status};

use crate::{
    args::{Output, OutputArgument},
    console::{Console, Style},
    exit::Exit,
    failure::Failure,
    show::{harmless, json, size, table::Table},
};

/// The balancer: run it, or ask a running one on this machine.
#[derive(Debug, Subcommand)]
#[command(before_help = "\
Examples:
  quorate lb run --config /etc/quorate/lb.json
  quorate lb unit > /etc/systemd/system/quorate-lb.service
  quorate lb status
  quorate lb drain cp-2                     no new connections to cp-2; established ones are kept")]
pub enum Command {
    /// Run a balancer until SIGTERM. SIGHUP reads its configuration again.
    Run(RunArguments),
    /// Print the systemd unit that runs a balancer.
    Unit(UnitArguments),
    /// Show backends and counts.
    Status(StatusArguments),
    /// Send a backend no new connections. Established ones are kept.
    Drain(DrainArguments),
    /// End a drain.
    Undrain(BackendArguments),
    /// Read the configuration again; connections stay.
    Reload(SocketArgument),
    /// Replace the process by the program now at its path; connections stay.
    Upgrade(SocketArgument),
}

/// Its configuration.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
}

/// What the unit runs.
#[derive(Debug, Args)]
pub struct UnitArguments {
    /// The program; this one when it is not given.
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/quorate/lb.json")]
    config: PathBuf,
}

/// Which balancer.
#[derive(Debug, Args)]
pub struct SocketArgument {
    /// Its admin socket.
    #[arg(long, value_name = "PATH", default_value = "/run/quorate/lb.sock")]
    socket: PathBuf,
}

/// Which balancer, and how to write it.
#[derive(Debug, Args)]
pub struct StatusArguments {
    #[command(flatten)]
    socket: SocketArgument,
    #[command(flatten)]
    output: OutputArgument,
}

/// Which backend.
#[derive(Debug, Args)]
pub struct DrainArguments {
    /// The backend.
    backend: String,
    /// Even when nothing that is up would be left.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    socket: SocketArgument,
}

/// Which backend.
#[derive(Debug, Args)]
pub struct BackendArguments {
    /// The backend.
    backend: String,
    #[command(flatten)]
    socket: SocketArgument,
}

/// Runs it. [`Command::Run`] wants a current-thread runtime of its own.
///
/// # Errors
/// When the balancer ends other than by being asked, does not answer, or refuses.
pub async fn run(command: &Command, console: &mut Console) -> Result<(), Failure> {
    let (socket, request) = match command {
        Command::Run(arguments) => return serve(arguments).await,
        Command::Unit(arguments) => return unit(arguments, console),
        Command::Status(arguments) => return status(arguments, console).await,
        Command::Drain(arguments) => (
            &arguments.socket,
            Request::Drain {
                backend: arguments.backend.clone(),
                force: arguments.force,
            },
        ),
        Command::Undrain(arguments) => (
            &arguments.socket,
            Request::Undrain {
                backend: arguments.backend.clone(),
            },
        ),
        Command::Reload(socket) => (socket, Request::Reload),
        Command::Upgrade(socket) => (socket, Request::Upgrade),
    };
    match ask(socket, &request).await? {
        Response::Done { note } => {
            console.say(harmless(&note));
            Ok(())
        }
        Response::Refused { why } => Err(Failure::new(Exit::Refused, harmless(&why))),
        Response::Status(_) => Err(strange()),
    }
}

fn unit(arguments: &UnitArguments, console: &mut Console) -> Result<(), Failure> {
    let program = match &arguments.program {
        Some(program) => program.clone(),
        None => std::env::current_exe().map_err(|error| {
            Failure::doing(Exit::Unexpected, "could not find our own binary", &error)
        })?,
    };
    // A unit names absolute paths.
    let absolute = |path: &std::path::Path| {
        std::path::absolute(path).map_err(|error| {
            Failure::doing(Exit::Unexpected, "there is no working directory", &error)
        })
    };
    let text = quorate_lb::unit(&absolute(&program)?, &absolute(&arguments.config)?)
        .map_err(|error| Failure::from_error(Exit::Usage, &error))?;
    console.data(&text)
}

fn strange() -> Failure {
    Failure::new(Exit::Unexpected, "the balancer answered something else")
}

async fn ask(socket: &SocketArgument, request: &Request) -> Result<Response, Failure> {
    admin::request(&socket.socket, request)
        .await
        .map_err(|error| Failure::from_error(Exit::Unseen, &error))
}

async fn serve(arguments: &RunArguments) -> Result<(), Failure> {
    let shutdown = quorate_lb::terminated()
        .map_err(|error| Failure::doing(Exit::Unexpected, "could not listen to signals", &error))?;
    quorate_lb::run(&arguments.config, shutdown)
        .await
        .map_err(|error| {
            let exit = match &error {
                quorate_lb::RunError::Config(_) => Exit::Usage,
                _ => Exit::Unexpected,
            };
            Failure::from_error(exit, &error)
        })
}

async fn status(arguments: &StatusArguments, console: &mut Console) -> Result<(), Failure> {
    let status = match ask(&arguments.socket, &Request::Status).await? {
        Response::Status(status) => status,
        Response::Refused { why } => return Err(Failure::new(Exit::Refused, harmless(&why))),
        Response::Done { .. } => return Err(strange()),
    };
    match arguments.output.output {
        Output::Json => console.data(&json::text("BalancerStatus", status.as_ref())),
        Output::Text => {
            let text = text(&status, console);
            console.data(&text)
        }
    }
}

fn text(status: &Status, console: &Console) -> String {
    let paint = console.paint_out();
    let mut out = format!(
        "{} on {}: {} of at most {} connections, {} to and {} from backends\n",
        paint.paint(Style::Bold, "quorate lb"),
        status.listen,
        status.connections,
        status.connections_max,
        size(status.totals.bytes_up),
        size(status.totals.bytes_down),
    );
    if !status.accepting {
        out += &format!(
            "{}\n",
            paint.paint(Style::Warn, "it accepts no connections")
        );
    }
    if status.fail_open {
        out += &format!(
            "{}\n",
            paint.paint(
                Style::Bad,
                "no backend is ready: connections go to all of them"
            )
        );
    }
    let mut table = Table::new([
        "BACKEND",
        "ADDRESS",
        "STATE",
        "CONNECTIONS",
        "RTT",
        "READYZ",
        "WHY",
    ]);
    for backend in &status.backends {
        let mut state = format!("{:?}", backend.state).to_lowercase();
        if backend.drained {
            state += ", drained";
        }
        if backend.leaving {
            state += ", leaving";
        }
        table.row([
            harmless(&backend.name),
            backend.address.to_string(),
            state,
            backend.connections.to_string(),
            backend
                .rtt_us
                .map_or_else(|| "-".to_owned(), |us| format!("{us} us")),
            backend
                .readyz
                .as_ref()
                .map_or_else(|| "-".to_owned(), |readyz| readyz.code.to_string()),
            backend
                .error
                .as_deref()
                .map_or_else(|| "-".to_owned(), |why| harmless(why).replace('\n', " ")),
        ]);
    }
    out + &table.text(console.columns())
}
