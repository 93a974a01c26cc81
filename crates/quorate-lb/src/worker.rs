//! One forwarding thread: an epoll loop of its own, connections of its own, nothing shared per byte.
//! Start at [`Worker::run`]. The control side talks to it through its [`Mailbox`].

mod conn;
mod dial;
mod flow;
mod freeze;
mod pipes;
mod slots;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use tokio::sync::Notify;
use tracing::warn;

use crate::backend::{Backend, Dice, RouteTable, Routes};
use crate::socket;
use conn::{Conn, Phase, Relayed};
use flow::{Ready, Tools};
pub(crate) use freeze::{Adopted, AdoptedFlow, Frozen, FrozenConnection, FrozenFlow};
pub(crate) use pipes::{PIPES_MAX, Pipe};
use slots::{Key, Slots};

/// Events taken from the kernel at once.
const EVENTS: usize = 512;

/// Clients accepted in a row before connections get their turn.
const ACCEPTS_MAX: usize = 64;

/// How long to leave clients in the backlog when descriptors ran out and none was freed here.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The mailbox's token; no key with a role makes this word.
const WAKE: Token = Token(usize::MAX);
const ROLE_CLIENT: usize = 0;
const ROLE_LISTENER: usize = 6;

/// What the control side can ask of a worker.
pub(crate) enum Command {
    /// Accept from this socket too.
    Listen(OwnedFd),
    /// Accept what waits and close every listening socket.
    Unlisten,
    /// Reset every connection on this backend.
    Reset(Arc<Backend>),
    /// Go on with connections another process began.
    Adopt(Vec<Adopted>),
    /// Say what there is, then stand still until resumed (or for ever: the process is replaced).
    Freeze {
        reply: mpsc::Sender<io::Result<Frozen>>,
        resume: mpsc::Receiver<()>,
    },
    /// Reset everything and end.
    Quit,
}

/// What one worker has counted. Its own, so that counting costs no other worker anything.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub accepted: AtomicU64,
    pub unserved: AtomicU64,
    pub retried: AtomicU64,
    pub hedged: AtomicU64,
    pub accept_failures: AtomicU64,
    pub bytes_up: AtomicU64,
    pub bytes_down: AtomicU64,
}

/// How to reach a worker.
pub(crate) struct Mailbox {
    commands: Mutex<Vec<Command>>,
    waker: Waker,
    beats: AtomicU64,
    pub counters: Counters,
}

impl Mailbox {
    /// Sends a command; the worker looks at once.
    pub(crate) fn send(&self, command: Command) {
        self.commands
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(command);
        self.knock();
    }

    /// Wakes the worker; its beats go up.
    pub(crate) fn knock(&self) {
        if let Err(err) = self.waker.wake() {
            warn!(%err, "cannot wake a worker");
        }
    }

    /// Turns of its loop so far.
    pub(crate) fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }
}

/// What all workers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub table: Arc<RouteTable>,
    /// Client connections now, over all workers.
    pub active: AtomicU32,
    /// The most there may be.
    pub active_max: AtomicU32,
    /// Whether somebody waits for `active` to fall to nothing: telling costs a system call.
    pub stopping: AtomicBool,
    /// A worker ended without being asked.
    pub broken: AtomicBool,
    /// Told of all of these.
    pub news: Notify,
}

struct Listener {
    socket: OwnedFd,
    ready: bool,
}

/// The state of one forwarding thread.
pub(crate) struct Worker {
    poll: Poll,
    mailbox: Arc<Mailbox>,
    shared: Arc<Shared>,
    listeners: Vec<Listener>,
    conns: Slots<Conn>,
    /// Connections that could go on.
    queue: VecDeque<Key>,
    tools: Tools,
    routes: Arc<Routes>,
    routes_generation: u64,
    dice: Dice,
    /// When to join a dial with another one; in order, because the delay is the same for all.
    hedges: VecDeque<(Instant, Key)>,
    /// When to give a client up.
    deadlines: VecDeque<(Instant, Key)>,
    accepts_paused_until: Option<Instant>,
    quitting: bool,
}

/// Sets the alarm when a worker's thread ends, by whatever way.
struct Farewell(Arc<Shared>, bool);

impl Drop for Farewell {
    fn drop(&mut self) {
        if !self.1 {
            self.0.broken.store(true, Ordering::SeqCst);
        }
        self.0.news.notify_waiters();
    }
}

impl Worker {
    /// Prepares a worker; [`Worker::run`] is for a thread of its own.
    pub(crate) fn new(shared: Arc<Shared>, seed: u64) -> io::Result<(Worker, Arc<Mailbox>)> {
        let poll = Poll::new()?;
        let mailbox = Arc::new(Mailbox {
            commands: Mutex::new(Vec::new()),
            waker: Waker::new(poll.registry(), WAKE)?,
            beats: AtomicU64::new(0),
            counters: Counters::default(),
        });
        let worker = Worker {
            poll,
            mailbox: Arc::clone(&mailbox),
            listeners: Vec::new(),
            conns: Slots::new(),
            queue: VecDeque::new(),
            tools: Tools::new(),
            routes: shared.table.current(),
            routes_generation: 0,
            dice: Dice::new(seed),
            hedges: VecDeque::new(),
            deadlines: VecDeque::new(),
            accepts_paused_until: None,
            quitting: false,
            shared,
        };
        Ok((worker, mailbox))
    }

    /// Forwards until told to quit.
    pub(crate) fn run(mut self) {
        let mut farewell = Farewell(Arc::clone(&self.shared), false);
        let mut events = Events::with_capacity(EVENTS);
        while !self.quitting {
            let timeout = self.timeout();
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                Err(err) => {
                    warn!(%err, "epoll failed: this worker ends");
                    return;
                }
            }
            self.mailbox.beats.fetch_add(1, Ordering::Relaxed);
            let mut woken = false;
            for event in &events {
                woken |= self.take(event);
            }
            if woken {
                self.commands();
            }
            self.accept();
            self.continue_queued();
            self.timers();
        }
        farewell.1 = true;
    }

    /// How long the kernel may keep us.
    fn timeout(&mut self) -> Option<Duration> {
        let may_accept =
            self.accepts_paused_until.is_none() && self.listeners.iter().any(|l| l.ready);
        if may_accept || !self.queue.is_empty() {
            return Some(Duration::ZERO);
        }
        let due = [self.next_timer(), self.accepts_paused_until]
            .into_iter()
            .flatten()
            .min()?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    /// Takes one event; true when it is the mailbox's.
    fn take(&mut self, event: &Event) -> bool {
        if event.token() == WAKE {
            return true;
        }
        let (key, role) = Key::from_word(event.token().0);
        if role == ROLE_LISTENER {
            // One flag for all: there is one listener, and for a moment two.
            self.listeners
                .iter_mut()
                .for_each(|listener| listener.ready = true);
            return false;
        }
        let Some(conn) = self.conns.get_mut(key) else {
            return false;
        };
        if role == ROLE_CLIENT {
            note(&mut conn.client_ready, event);
            match conn.phase {
                Phase::Relaying(_) => self.relay(key),
                // The client is gone; the dials are not needed.
                Phase::Dialling if conn.client_ready.failed => self.close(key, true),
                Phase::Dialling => {}
            }
            return false;
        }
        let leg = (role - 1) as u8;
        match conn.phase {
            Phase::Relaying(relaying) if relaying == leg => {
                note(&mut conn.upstream_ready, event);
                self.relay(key);
            }
            // An event of a dial given up in this very turn.
            Phase::Relaying(_) => {}
            Phase::Dialling => self.dial_event(key, leg, event),
        }
        false
    }

    fn relay(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else {
            return;
        };
        let mut moved = [0, 0];
        let relayed = conn.relay(&mut self.tools, &mut moved);
        let counters = &self.mailbox.counters;
        if moved[0] > 0 {
            counters.bytes_up.fetch_add(moved[0], Ordering::Relaxed);
        }
        if moved[1] > 0 {
            counters.bytes_down.fetch_add(moved[1], Ordering::Relaxed);
        }
        match relayed {
            Ok(Relayed::Waits) => {}
            Ok(Relayed::More) => {
                if !conn.queued {
                    conn.queued = true;
                    self.queue.push_back(key);
                }
            }
            Ok(Relayed::Finished) => self.close(key, false),
            Err(_) => self.close(key, true),
        }
    }

    /// Ends a connection: in peace, or with a reset to whoever is still there.
    fn close(&mut self, key: Key, reset: bool) {
        let Some(mut conn) = self.conns.remove(key) else {
            return;
        };
        conn.up.discard(&mut self.tools);
        conn.down.discard(&mut self.tools);
        if reset {
            socket::reset_on_close(&conn.client);
            if let Some(leg) = conn.upstream() {
                socket::reset_on_close(&leg.socket);
            }
        }
        drop(conn);
        self.accepts_paused_until = None;
        self.one_less();
    }

    fn one_less(&self) {
        let last = self.shared.active.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && self.shared.stopping.load(Ordering::SeqCst) {
            self.shared.news.notify_waiters();
        }
    }

    fn continue_queued(&mut self) {
        for _ in 0..self.queue.len() {
            let Some(key) = self.queue.pop_front() else {
                return;
            };
            if let Some(conn) = self.conns.get_mut(key) {
                conn.queued = false;
                self.relay(key);
            }
        }
    }

    fn accept(&mut self) {
        if let Some(until) = self.accepts_paused_until {
            if Instant::now() < until {
                return;
            }
            self.accepts_paused_until = None;
        }
        for at in 0..self.listeners.len() {
            for _ in 0..ACCEPTS_MAX {
                if !self.listeners[at].ready {
                    break;
                }
                // Counted before it is there, so that workers cannot pass the limit together.
                let active = self.shared.active.fetch_add(1, Ordering::SeqCst);
                if active >= self.shared.active_max.load(Ordering::Relaxed) {
                    self.one_less();
                    return self.pause_accepts();
                }
                match socket::accept(&self.listeners[at].socket) {
                    Ok(Some(client)) => self.begin(client),
                    Ok(None) => {
                        self.one_less();
                        self.listeners[at].ready = false;
                    }
                    Err(err) => {
                        self.one_less();
                        if self
                            .mailbox
                            .counters
                            .accept_failures
                            .fetch_add(1, Ordering::Relaxed)
                            == 0
                        {
                            warn!(%err, "cannot accept a client; it waits (said once, `status` counts)");
                        }
                        return self.pause_accepts();
                    }
                }
            }
        }
    }

    fn pause_accepts(&mut self) {
        self.accepts_paused_until = Some(Instant::now() + ACCEPT_PAUSE);
    }

    /// Takes a client in and looks for a backend.
    fn begin(&mut self, client: OwnedFd) {
        self.mailbox
            .counters
            .accepted
            .fetch_add(1, Ordering::Relaxed);
        let fd = client.as_raw_fd();
        let key = self.conns.insert(Conn::new(client));
        if let Err(err) = self.register(fd, key, ROLE_CLIENT) {
            warn!(%err, "cannot watch a client's socket");
            self.close(key, true);
        } else if !self.dial(key) {
            self.give_up(key);
        }
    }

    /// One registration for a socket's whole life: edge-triggered, both ways.
    fn register(&self, fd: RawFd, key: Key, role: usize) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(&mut SourceFd(&fd), Token(key.to_word(role)), interest)
    }

    fn commands(&mut self) {
        let commands = std::mem::take(
            &mut *self
                .mailbox
                .commands
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for command in commands {
            match command {
                Command::Listen(socket) => self.listen(socket),
                Command::Unlisten => {
                    // Whoever was already let in by the kernel is served, not reset.
                    self.listeners
                        .iter_mut()
                        .for_each(|listener| listener.ready = true);
                    while self.accepts_paused_until.is_none()
                        && self.listeners.iter().any(|listener| listener.ready)
                    {
                        self.accept();
                    }
                    self.listeners.clear();
                }
                Command::Reset(backend) => self.reset(&backend),
                Command::Adopt(connections) => self.adopt(connections),
                Command::Freeze { reply, resume } => self.freeze(&reply, &resume),
                Command::Quit => {
                    self.listeners.clear();
                    let keys: Vec<Key> = self.conns.iter_mut().map(|(key, _)| key).collect();
                    keys.into_iter().for_each(|key| self.close(key, true));
                    self.quitting = true;
                }
            }
        }
    }

    fn listen(&mut self, socket: OwnedFd) {
        let word = self.conns.no_key().to_word(ROLE_LISTENER);
        let fd = socket.as_raw_fd();
        match self
            .poll
            .registry()
            .register(&mut SourceFd(&fd), Token(word), Interest::READABLE)
        {
            Ok(()) => self.listeners.push(Listener {
                socket,
                ready: true,
            }),
            Err(err) => warn!(%err, "cannot watch a listening socket"),
        }
    }

    /// Resets every connection on a backend, and sends its dials elsewhere.
    fn reset(&mut self, backend: &Arc<Backend>) {
        let on = |leg: &conn::Leg| Arc::ptr_eq(leg.lease.backend(), backend);
        let mut relaying = Vec::new();
        let mut dialling = Vec::new();
        for (key, conn) in self.conns.iter_mut() {
            match conn.phase {
                Phase::Relaying(_) if conn.upstream().is_some_and(on) => relaying.push(key),
                Phase::Relaying(_) => {}
                Phase::Dialling => {
                    for leg in 0..2 {
                        if conn.legs[leg as usize].as_ref().is_some_and(on) {
                            dialling.push((key, leg));
                        }
                    }
                }
            }
        }
        backend
            .resets_total
            .fetch_add(relaying.len() as u64, Ordering::Relaxed);
        relaying.into_iter().for_each(|key| self.close(key, true));
        dialling
            .into_iter()
            .for_each(|(key, leg)| self.dial_failed(key, leg));
    }
}

fn note(ready: &mut Ready, event: &Event) {
    let closing = event.is_read_closed();
    ready.failed |= event.is_error();
    ready.closing |= closing || ready.failed;
    ready.readable |= event.is_readable() || ready.closing;
    ready.writable |= event.is_writable();
}
