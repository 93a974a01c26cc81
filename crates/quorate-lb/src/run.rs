//! A whole process: the balancer, its admin socket, its signals and what systemd hears. Start at
//! [`run`].

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tracing::{error, info, warn};

use crate::admin::{Request, Response};
use crate::admin_server::{AdminSocket, Asked, SocketError};
use crate::balancer::{Balancer, StartError};
use crate::config::{Config, ConfigError};
use crate::handover::{self, HandoverError, Inherited};
use crate::systemd::{Herald, Message, watchdog};
use crate::worker::Mailbox;

/// How often systemd's status line is renewed, where no watchdog asks for more.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// How long the answer to a stop or an upgrade may take to be written.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// Why the process ended other than by being asked.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration was refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no admin socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The balancer did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// What a former process left could not be taken over.
    #[error(transparent)]
    Handover(#[from] HandoverError),
    /// Signals could not be listened to.
    #[error("cannot listen to signals")]
    Signals(#[source] io::Error),
    /// A worker ended: a bug. Its message is in the log.
    #[error(
        "a worker ended unexpectedly; the log says why. Start the balancer again and report this"
    )]
    Worker,
}

/// Resolves at the first SIGTERM or SIGINT: the usual `shutdown` of [`run`]. The signals are taken
/// from the moment of the call.
///
/// # Errors
/// When the system does not let us listen to signals.
///
/// # Panics
/// Outside a tokio runtime.
pub fn terminated() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Runs a balancer by its configuration file until `shutdown` resolves or the admin socket says stop:
/// then it stops accepting, lets connections end for `stop_max_ms`, and returns. SIGHUP reads the file
/// again.
///
/// Runs best on a current-thread runtime of its own: forwarding has its own threads, and the watch
/// over the backends wants one that nothing else keeps busy.
///
/// # Errors
/// [`RunError`]. Nothing is left running.
///
/// # Panics
/// Outside a tokio runtime with time and I/O.
pub async fn run(config_path: &Path, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
    let mut hangup = signal(SignalKind::hangup()).map_err(RunError::Signals)?;
    let config = Config::load(config_path)?;
    let inherited = Inherited::take()?;
    let admin = Arc::new(AdminSocket::open(&config.admin_socket)?);
    let balancer = Balancer::start_with(config, config_path, inherited).await?;
    let (to, mut asked) = mpsc::channel(1);
    let serving = tokio::spawn(Arc::clone(&admin).serve(to));
    info!(listen = %balancer.listen_address(), config = %config_path.display(), "balancer runs");
    let herald = Herald::new();
    herald.tell(Message::Ready(summary(&balancer)));

    let process = Process {
        config_path: config_path.to_owned(),
        balancer,
        herald,
    };
    let every = watchdog().map_or(STATUS_INTERVAL, |limit| (limit / 3).min(STATUS_INTERVAL));
    let mut tick = interval_at(Instant::now() + every, every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pulse = Pulse::of(process.balancer.mailboxes());
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            () = process.balancer.broken() => {
                serving.abort();
                return Err(RunError::Worker);
            }
            _ = hangup.recv() => match process.reload() {
                Response::Refused { why } => error!(why, "configuration not taken; the former one stays"),
                Response::Done { .. } | Response::Status(_) => {}
            },
            _ = tick.tick() => pulse.tick(&process.balancer, &process.herald),
            Some((request, reply)) = asked.recv() => {
                let stop = request == Request::Stop;
                let upgrade = request == Request::Upgrade;
                let answer = process.answer(request);
                let go_on = matches!(answer, Response::Done { .. });
                let (written, wrote) = oneshot::channel();
                let _ = reply.send((answer, Some(written)));
                if stop || upgrade {
                    // Whoever asked is to read the answer; one who does not read delays us no longer.
                    let _ = timeout(ANSWER_MAX, wrote).await;
                }
                if stop {
                    break;
                }
                if upgrade && go_on {
                    process.upgrade();
                }
            }
        }
    }
    process.stop(&mut asked, &mut pulse, &mut tick).await;
    serving.abort();
    Ok(())
}

struct Process {
    config_path: PathBuf,
    balancer: Balancer,
    herald: Herald,
}

impl Process {
    fn answer(&self, request: Request) -> Response {
        let done = |note: String| Response::Done { note };
        let refused = |why: String| Response::Refused { why };
        match request {
            Request::Status => Response::Status(Box::new(self.balancer.status())),
            Request::Drain { backend, force } => match self.balancer.drain(&backend, force) {
                Ok(()) => done(format!(
                    "`{backend}` gets no new connections; established ones are kept"
                )),
                Err(err) => refused(err.to_string()),
            },
            Request::Undrain { backend } => match self.balancer.undrain(&backend) {
                Ok(()) => done(format!("`{backend}` gets connections again, if it is up")),
                Err(err) => refused(err.to_string()),
            },
            Request::Reload => self.reload(),
            Request::Stop => done("stopping".to_owned()),
            Request::Upgrade => match self.may_upgrade() {
                Ok(note) => done(note),
                Err(err) => refused(chain(&err)),
            },
        }
    }

    fn reload(&self) -> Response {
        self.herald.tell(Message::Reloading);
        let loaded = Config::load(&self.config_path).map_err(|err| chain(&err));
        let outcome =
            loaded.and_then(|config| self.balancer.reload(config).map_err(|err| chain(&err)));
        self.herald.tell(Message::Ready(summary(&self.balancer)));
        match outcome {
            Ok(reloaded) => Response::Done {
                note: reloaded.to_string(),
            },
            Err(why) => Response::Refused { why },
        }
    }

    /// What can be known before: after the exec it is too late to refuse.
    fn may_upgrade(&self) -> Result<String, RunError> {
        let program = handover::own_program()?;
        Config::load(&self.config_path)?;
        let connections = self.balancer.connections();
        Ok(format!(
            "replacing the process by `{}` with {connections} connections",
            program.display()
        ))
    }

    fn upgrade(&self) {
        info!("replacing the process");
        match handover::replace(&self.balancer) {
            Ok(never) => match never {},
            Err(err) => {
                error!(
                    why = chain(&err),
                    "the process was not replaced; everything goes on"
                );
            }
        }
    }

    async fn stop(
        &self,
        asked: &mut mpsc::Receiver<Asked>,
        pulse: &mut Pulse,
        tick: &mut tokio::time::Interval,
    ) {
        let within = self.balancer.config().connections.stop_max;
        info!(
            connections = self.balancer.connections(),
            within_ms = within.as_millis() as u64,
            "stopping"
        );
        self.herald.tell(Message::Stopping);
        let mut stopping = pin!(self.balancer.stop(within));
        loop {
            tokio::select! {
                cut = &mut stopping => {
                    if cut > 0 {
                        warn!(connections = cut, "stopped; these were reset");
                    }
                    return;
                }
                _ = tick.tick() => pulse.tick(&self.balancer, &self.herald),
                Some((request, reply)) = asked.recv() => {
                    let answer = match request {
                        Request::Status => Response::Status(Box::new(self.balancer.status())),
                        Request::Stop => Response::Done { note: "stopping already".to_owned() },
                        Request::Drain { .. } | Request::Undrain { .. } | Request::Reload | Request::Upgrade => {
                            Response::Refused { why: "the balancer is stopping".to_owned() }
                        }
                    };
                    let _ = reply.send((answer, None));
                }
            }
        }
    }
}

/// Whether the workers live: the watchdog is fed only while every one of them turns.
struct Pulse(Vec<u64>);

impl Pulse {
    fn of(mailboxes: &[Arc<Mailbox>]) -> Pulse {
        let beats = mailboxes.iter().map(|mailbox| mailbox.beats()).collect();
        mailboxes.iter().for_each(|mailbox| mailbox.knock());
        Pulse(beats)
    }

    fn tick(&mut self, balancer: &Balancer, herald: &Herald) {
        let last = std::mem::replace(self, Pulse::of(balancer.mailboxes()));
        let stuck = last
            .0
            .iter()
            .zip(&self.0)
            .filter(|(before, now)| before == now)
            .count();
        if stuck == 0 {
            herald.tell(Message::Alive(summary(balancer)));
        } else {
            error!(stuck, "workers do not turn; the watchdog is not fed");
        }
    }
}

/// One line for `systemctl status`.
fn summary(balancer: &Balancer) -> String {
    let status = balancer.status();
    let staying = status.backends.iter().filter(|backend| !backend.leaving);
    let (up, all) = staying.fold((0, 0), |(up, all), backend| {
        (
            up + usize::from(backend.state == crate::health::State::Up),
            all + 1,
        )
    });
    let open = if status.fail_open {
        ", failing open"
    } else {
        ""
    };
    format!(
        "{up} of {all} backends up{open}; {} connections",
        status.connections
    )
}

/// An error with its causes, in one line.
fn chain(err: &dyn std::error::Error) -> String {
    let mut shown = err.to_string();
    let mut cause = err.source();
    while let Some(err) = cause {
        shown.push_str(": ");
        shown.push_str(&err.to_string());
        cause = err.source();
    }
    shown
}
