//! The parts put together: workers that forward, a pool that judges, watches that look. Start at
//! [`Balancer::start`]; for a whole process see [`crate::run()`].

mod resources;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use crate::admin::{Status, Totals};
use crate::backend::{Backend, Lease, RouteTable, Routes};
use crate::config::{Config, ConfigError};
use crate::handover::Inherited;
use crate::health::Rules;
use crate::link::Target;
use crate::pool::{DrainError, MemberId, Pool, Standing};
use crate::probe::watch;
use crate::tls::{self, Trust};
use crate::worker::{Adopted, Command, Mailbox, Shared};
use resources::{bind, connections_max, worker_count, workers};

/// How long to wait for a backend to be up before the first client is accepted. Clients wait in the
/// backlog meanwhile; without this the first ones would go to backends nobody has judged.
const FIRST_LOOK_MAX: Duration = Duration::from_secs(1);

/// Why the balancer did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration names something unusable.
    #[error("cannot use the configuration")]
    Config(#[source] ConfigError),
    /// The listening address is not to be had.
    #[error("cannot listen on {address}; see who does with `ss -ltnp`")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        err: io::Error,
    },
    /// No thread, no epoll.
    #[error("cannot start a worker")]
    Worker(#[source] io::Error),
    /// More backends than can be told apart while removed ones still end.
    #[error(
        "{wanted} more backends, but only {free} places are free while removed backends end their connections; try again later"
    )]
    Full {
        /// Backends to add.
        wanted: usize,
        /// Places free.
        free: usize,
    },
}

/// What a reload changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Backends that are new.
    pub added: Vec<String>,
    /// Backends that are gone from the configuration; their connections end in their own time.
    pub removed: Vec<String>,
    /// Backends that stay, with their state and connections.
    pub kept: Vec<String>,
    /// What else there is to say.
    pub notes: Vec<String>,
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |names: &[String]| {
            if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            }
        };
        write!(
            f,
            "backends added: {}; removed: {}; kept: {}",
            list(&self.added),
            list(&self.removed),
            list(&self.kept)
        )?;
        self.notes.iter().try_for_each(|note| write!(f, "; {note}"))
    }
}

/// A running balancer. Dropping it resets every connection; [`Balancer::stop`] is gentler.
pub struct Balancer {
    source: PathBuf,
    shared: Arc<Shared>,
    pool: Arc<Pool>,
    mailboxes: Arc<Vec<Arc<Mailbox>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    control: Mutex<Control>,
    started: Instant,
    accepting: AtomicBool,
    reloads: AtomicU64,
}

struct Control {
    config: Config,
    address: SocketAddr,
    members: BTreeMap<String, Live>,
    /// Bits of the backends alive, leaving ones included.
    places: Arc<Mutex<u64>>,
    leaving: JoinSet<()>,
}

struct Live {
    id: MemberId,
    backend: Arc<Backend>,
    watch: Option<AbortHandle>,
}

impl fmt::Debug for Balancer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balancer")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl Balancer {
    /// Starts with a checked configuration; `source` is its path, for messages. Returns once clients
    /// are accepted: when the backends were looked at, a second at most.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn start(config: Config, source: &Path) -> Result<Balancer, StartError> {
        Balancer::start_with(config, source, Inherited::default()).await
    }

    /// As [`Balancer::start`], going on with what another process image left.
    pub(crate) async fn start_with(
        config: Config,
        source: &Path,
        inherited: Inherited,
    ) -> Result<Balancer, StartError> {
        let count = worker_count(&config);
        let (address, listeners) = match inherited.listeners_for(config.listen) {
            Some(listeners) => listeners,
            None => bind(config.listen, &config, count)?,
        };
        let table = Arc::new(RouteTable::new(Routes {
            backends: Vec::new(),
            settings: config.connections.clone(),
            slow_start: config.health.slow_start,
        }));
        let shared = Arc::new(Shared {
            table: Arc::clone(&table),
            active: AtomicU32::new(0),
            active_max: AtomicU32::new(connections_max(&config, count)),
            stopping: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            news: Notify::new(),
        });
        let (mailboxes, threads) = workers(&shared, count).map_err(StartError::Worker)?;
        let mailboxes = Arc::new(mailboxes);
        let told = Arc::clone(&mailboxes);
        let reset = Box::new(move |backend: &Arc<Backend>| {
            told.iter()
                .for_each(|mailbox| mailbox.send(Command::Reset(Arc::clone(backend))));
        });
        let pool = Arc::new(Pool::new(Rules::of(&config.health), table, reset));
        let empty = Config {
            backends: Vec::new(),
            ..config.clone()
        };
        let balancer = Balancer {
            source: source.to_owned(),
            shared,
            pool,
            mailboxes,
            threads: Mutex::new(threads),
            control: Mutex::new(Control {
                config: empty,
                address,
                members: BTreeMap::new(),
                places: Arc::new(Mutex::new(0)),
                leaving: JoinSet::new(),
            }),
            started: Instant::now(),
            accepting: AtomicBool::new(false),
            reloads: AtomicU64::new(0),
        };
        balancer.change(config, &inherited.standings)?;
        balancer.adopt(inherited);
        if timeout(FIRST_LOOK_MAX, balancer.pool.first_look())
            .await
            .is_err()
        {
            info!("no backend was up within a second; clients are accepted anyway");
        }
        balancer.give_listeners(listeners);
        Ok(balancer)
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where clients connect: the port is a real one even if 0 was configured.
    pub fn listen_address(&self) -> SocketAddr {
        self.control().address
    }

    /// The configuration in force.
    pub fn config(&self) -> Config {
        self.control().config.clone()
    }

    /// Takes a new configuration. Backends that stay keep their state and connections; removed ones
    /// get no new connections, and theirs end in their own time, bounded by `drain_max_ms`; the
    /// listening socket stays when its address did.
    ///
    /// # Errors
    /// [`StartError`]; then nothing has changed.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn reload(&self, config: Config) -> Result<Reloaded, StartError> {
        let moved = {
            let control = self.control();
            (config.listen != control.config.listen).then_some(control.config.listen)
        };
        let listeners = match moved {
            Some(_) => Some(bind(config.listen, &config, self.mailboxes.len())?),
            None => None,
        };
        let reloaded = self.change(config, &[])?;
        if let Some((address, listeners)) = listeners {
            self.control().address = address;
            self.mailboxes
                .iter()
                .for_each(|mailbox| mailbox.send(Command::Unlisten));
            self.give_listeners(listeners);
        }
        self.reloads.fetch_add(1, Ordering::Relaxed);
        info!(%reloaded, "configuration taken");
        Ok(reloaded)
    }

    fn change(&self, config: Config, former: &[Standing]) -> Result<Reloaded, StartError> {
        let trust = if config.backends.is_empty() {
            None
        } else {
            Some(tls::client_config(&self.source, &config.health).map_err(StartError::Config)?)
        };
        let mut control = self.control();
        let stays = |live: &Live| {
            config
                .backends
                .iter()
                .any(|b| b.name == live.backend.name && b.address == live.backend.address)
        };
        let removed: Vec<String> = control
            .members
            .iter()
            .filter(|(_, live)| !stays(live))
            .map(|(name, _)| name.clone())
            .collect();
        let new: Vec<_> = config
            .backends
            .iter()
            .filter(|b| control.members.get(&b.name).is_none_or(|live| !stays(live)))
            .collect();
        let places = Arc::clone(&control.places);
        let mut taken = places.lock().unwrap_or_else(PoisonError::into_inner);
        let free = taken.count_zeros() as usize;
        if new.len() > free {
            return Err(StartError::Full {
                wanted: new.len(),
                free,
            });
        }
        // From here nothing fails.
        let mut reloaded = Reloaded {
            removed: removed.clone(),
            ..Reloaded::default()
        };
        for name in removed {
            if let Some(live) = control.members.remove(&name) {
                self.let_go(&mut control, live, config.connections.drain_max);
            }
        }
        self.pool.set_rules(Rules::of(&config.health));
        for backend in new {
            let slot = taken.trailing_ones() as u8;
            *taken |= 1 << slot;
            let record = Arc::new(Backend::new(&backend.name, backend.address, slot));
            let standing = former.iter().find(|standing| standing.name == backend.name);
            let id = self.pool.add(Arc::clone(&record), standing);
            control.members.insert(
                backend.name.clone(),
                Live {
                    id,
                    backend: record,
                    watch: None,
                },
            );
            reloaded.added.push(backend.name.clone());
        }
        drop(taken);
        if let Some(trust) = trust {
            for live in control.members.values_mut() {
                live.watch_with(&self.pool, &trust, &config);
            }
        }
        reloaded.kept = control
            .members
            .keys()
            .filter(|name| !reloaded.added.contains(name))
            .cloned()
            .collect();
        let old = &control.config;
        if old.connections.workers != config.connections.workers {
            reloaded
                .notes
                .push("`connections.workers` changes with the next start".to_owned());
        }
        if old.admin_socket != config.admin_socket {
            reloaded
                .notes
                .push("`admin_socket` changes with the next start".to_owned());
        }
        let backends = config
            .backends
            .iter()
            .filter_map(|b| control.members.get(&b.name));
        self.shared.table.replace(Routes {
            backends: backends.map(|live| Arc::clone(&live.backend)).collect(),
            settings: config.connections.clone(),
            slow_start: config.health.slow_start,
        });
        let most = connections_max(&config, self.mailboxes.len());
        self.shared.active_max.store(most, Ordering::Relaxed);
        control.config = config;
        Ok(reloaded)
    }

    /// A backend removed: watched and kept until its connections have ended, or the time is over.
    fn let_go(&self, control: &mut Control, live: Live, drain_max: Duration) {
        self.pool.leave(live.id);
        let (pool, mailboxes) = (Arc::clone(&self.pool), Arc::clone(&self.mailboxes));
        let places = Arc::clone(&control.places);
        control.leaving.spawn(async move {
            let Live { id, backend, watch } = live;
            if timeout(drain_max, backend.emptied()).await.is_err() {
                warn!(
                    backend = backend.name,
                    connections = backend.live(),
                    "drained long enough: reset"
                );
                mailboxes
                    .iter()
                    .for_each(|mailbox| mailbox.send(Command::Reset(Arc::clone(&backend))));
                backend.emptied().await;
            }
            if let Some(watch) = watch {
                watch.abort();
            }
            pool.forget(id);
            *places.lock().unwrap_or_else(PoisonError::into_inner) &= !(1 << backend.slot);
            info!(backend = backend.name, "removed");
        });
    }

    fn give_listeners(&self, listeners: Vec<OwnedFd>) {
        for (at, listener) in listeners.into_iter().enumerate() {
            self.mailboxes[at % self.mailboxes.len()].send(Command::Listen(listener));
        }
        self.accepting.store(true, Ordering::Relaxed);
    }

    /// Hands connections another process began to the workers. They are counted here and now: a worker gets to them in its own time, and
    /// until then they are as much there as its own, to the limit, to a stop that waits for the last one, and to `status`.
    pub(crate) fn adopt(&self, inherited: Inherited) {
        let mut control = self.control();
        let mut strangers: BTreeMap<SocketAddr, Arc<Backend>> = BTreeMap::new();
        let mut shares: Vec<Vec<Adopted>> = self.mailboxes.iter().map(|_| Vec::new()).collect();
        let count = inherited.connections.len() as u32;
        self.shared.active.fetch_add(count, Ordering::SeqCst);
        for (at, connection) in inherited.connections.into_iter().enumerate() {
            let upstream = connection.upstream.map(|(socket, address)| {
                let known = control
                    .members
                    .values()
                    .find(|live| live.backend.address == address);
                let backend = match known {
                    Some(live) => Arc::clone(&live.backend),
                    // Removed while connections were left: they may end in their own time.
                    None => Arc::clone(strangers.entry(address).or_insert_with(|| {
                        Arc::new(Backend::new(
                            &address.to_string(),
                            address,
                            u64::BITS as u8 - 1,
                        ))
                    })),
                };
                (socket, Lease::new(&backend))
            });
            let (client, up, down) = (connection.client, connection.up, connection.down);
            shares[at % self.mailboxes.len()].push(Adopted {
                client,
                upstream,
                up,
                down,
            });
        }
        for (mailbox, share) in self.mailboxes.iter().zip(shares) {
            mailbox.send(Command::Adopt(share));
        }
        let drain_max = control.config.connections.drain_max;
        for backend in strangers.into_values() {
            let mailboxes = Arc::clone(&self.mailboxes);
            control.leaving.spawn(async move {
                if timeout(drain_max, backend.emptied()).await.is_err() {
                    mailboxes
                        .iter()
                        .for_each(|mailbox| mailbox.send(Command::Reset(Arc::clone(&backend))));
                }
            });
        }
        if count > 0 {
            info!(connections = count, "connections taken over");
        }
    }

    /// Sends a backend no new connections. Established ones are kept.
    ///
    /// # Errors
    /// [`DrainError`] when there is no such backend, or nothing that is up would be left and `force`
    /// is false.
    pub fn drain(&self, name: &str, force: bool) -> Result<(), DrainError> {
        self.pool.set_drained(name, true, force)
    }

    /// Ends a drain.
    ///
    /// # Errors
    /// [`DrainError::Unknown`].
    pub fn undrain(&self, name: &str) -> Result<(), DrainError> {
        self.pool.set_drained(name, false, false)
    }

    /// Everything there is to know.
    pub fn status(&self) -> Status {
        let mut totals = Totals {
            stalls: self.pool.stalls(),
            reloads: self.reloads.load(Ordering::Relaxed),
            ..Totals::default()
        };
        for mailbox in self.mailboxes.iter() {
            let counters = &mailbox.counters;
            for (total, counter) in [
                (&mut totals.accepted, &counters.accepted),
                (&mut totals.unserved, &counters.unserved),
                (&mut totals.retried, &counters.retried),
                (&mut totals.hedged, &counters.hedged),
                (&mut totals.accept_failures, &counters.accept_failures),
                (&mut totals.bytes_up, &counters.bytes_up),
                (&mut totals.bytes_down, &counters.bytes_down),
            ] {
                *total += counter.load(Ordering::Relaxed);
            }
        }
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_ms: self.started.elapsed().as_millis() as u64,
            listen: self.listen_address(),
            accepting: self.accepting.load(Ordering::Relaxed),
            fail_open: self.pool.fail_open(),
            connections: self.connections(),
            connections_max: self.shared.active_max.load(Ordering::Relaxed),
            totals,
            backends: self.pool.status(),
        }
    }

    /// Client connections now.
    pub fn connections(&self) -> u32 {
        self.shared.active.load(Ordering::Relaxed)
    }

    /// What the next process image should know of the backends.
    pub(crate) fn standings(&self) -> Vec<Standing> {
        self.pool.standings()
    }

    pub(crate) fn mailboxes(&self) -> &[Arc<Mailbox>] {
        &self.mailboxes
    }

    /// Waits for a worker to end that should not have.
    pub(crate) async fn broken(&self) {
        self.until(|shared| shared.broken.load(Ordering::SeqCst))
            .await;
    }

    async fn until(&self, condition: impl Fn(&Shared) -> bool) {
        loop {
            let notified = self.shared.news.notified();
            tokio::pin!(notified);
            // Registered before the check: the news may come between the two.
            notified.as_mut().enable();
            if condition(&self.shared) {
                return;
            }
            notified.await;
        }
    }

    /// Stops accepting, lets connections end for at most `within`, resets the rest. Returns how many
    /// those were.
    pub async fn stop(&self, within: Duration) -> u32 {
        self.accepting.store(false, Ordering::Relaxed);
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.mailboxes
            .iter()
            .for_each(|mailbox| mailbox.send(Command::Unlisten));
        let ended = self.until(|shared| shared.active.load(Ordering::SeqCst) == 0);
        let cut = match timeout(within, ended).await {
            Ok(()) => 0,
            Err(_) => self.connections(),
        };
        self.quit();
        cut
    }

    fn quit(&self) {
        let mut control = self.control();
        control.leaving.abort_all();
        control.members.values_mut().for_each(Live::unwatch);
        drop(control);
        self.mailboxes
            .iter()
            .for_each(|mailbox| mailbox.send(Command::Quit));
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A panic was already told of by its `Farewell`.
            let _ = thread.join();
        }
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.quit();
    }
}

impl Live {
    /// Watches from now on with these settings. The state is kept; the kept connection is not, so that
    /// a replaced CA counts at once.
    fn watch_with(&mut self, pool: &Arc<Pool>, trust: &Trust, config: &Config) {
        self.unwatch();
        let target = Target {
            id: self.id,
            address: self.backend.address,
            trust: trust.clone(),
            health: config.health.clone(),
        };
        self.watch = Some(tokio::spawn(watch(Arc::clone(pool), target)).abort_handle());
    }

    fn unwatch(&mut self) {
        if let Some(watch) = self.watch.take() {
            watch.abort();
        }
    }
}
