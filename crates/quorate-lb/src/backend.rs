//! What the data path knows of a backend: a record of atomics that the control side writes and every
//! worker reads, and the choice among several. Start at [`pick`].

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::config::Connections;
use crate::health::State;

/// How willingly a backend is chosen; lower first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Tier {
    /// Answers and is ready.
    Good,
    /// Late: only where nobody is good.
    Suspect,
    /// Answers, not ready: failing open begins here.
    NotReady,
    /// Nobody answers: better a wrong one than none.
    Last,
    /// Drained by request: never.
    Never,
}

impl Tier {
    pub(crate) fn of(state: State, drained: bool) -> Tier {
        match (drained, state) {
            (true, _) => Tier::Never,
            (false, State::Up) => Tier::Good,
            (false, State::Suspect) => Tier::Suspect,
            (false, State::NotReady) => Tier::NotReady,
            (false, State::Unknown | State::Closed | State::Dead) => Tier::Last,
        }
    }

    fn from_byte(byte: u8) -> Tier {
        match byte {
            0 => Tier::Good,
            1 => Tier::Suspect,
            2 => Tier::NotReady,
            3 => Tier::Last,
            _ => Tier::Never,
        }
    }

    /// Whether choosing this tier is failing open.
    pub(crate) fn is_open(self) -> bool {
        match self {
            Tier::Good | Tier::Suspect | Tier::Never => false,
            Tier::NotReady | Tier::Last => true,
        }
    }
}

/// One backend, as the data path sees it.
#[derive(Debug)]
pub(crate) struct Backend {
    pub name: String,
    pub address: SocketAddr,
    /// Its bit in a connection's set of backends already tried; unique among those alive.
    pub slot: u8,
    tier: AtomicU8,
    /// Milliseconds on the data path's clock at which its slow start began; 0 is none.
    slow_from_ms: AtomicU64,
    /// Connections and dials now.
    live: AtomicU32,
    /// Told when `live` falls to nothing.
    emptied: Notify,
    /// Connections established, ever.
    pub connections_total: AtomicU64,
    /// Dials that failed, ever.
    pub dials_failed_total: AtomicU64,
    /// Connections reset because it was dead or its drain ended, ever.
    pub resets_total: AtomicU64,
}

impl Backend {
    pub(crate) fn new(name: &str, address: SocketAddr, slot: u8) -> Backend {
        Backend {
            name: name.to_owned(),
            address,
            slot,
            tier: AtomicU8::new(Tier::Last as u8),
            slow_from_ms: AtomicU64::new(0),
            live: AtomicU32::new(0),
            emptied: Notify::new(),
            connections_total: AtomicU64::new(0),
            dials_failed_total: AtomicU64::new(0),
            resets_total: AtomicU64::new(0),
        }
    }

    pub(crate) fn tier(&self) -> Tier {
        Tier::from_byte(self.tier.load(Ordering::Relaxed))
    }

    pub(crate) fn set_tier(&self, tier: Tier) {
        self.tier.store(tier as u8, Ordering::Relaxed);
    }

    pub(crate) fn live(&self) -> u32 {
        self.live.load(Ordering::Relaxed)
    }

    /// Waits until no connection and no dial uses it.
    pub(crate) async fn emptied(&self) {
        loop {
            let notified = self.emptied.notified();
            tokio::pin!(notified);
            // Registered before the check: the last one may end between the two.
            notified.as_mut().enable();
            if self.live() == 0 {
                return;
            }
            notified.await;
        }
    }

    /// Begins a slow start at `now_ms`.
    pub(crate) fn begin_slow_start(&self, now_ms: u64) {
        self.slow_from_ms.store(now_ms.max(1), Ordering::Relaxed);
    }

    /// The share of its turns it takes, in 1/256, at least a tenth: none would never end.
    fn share(&self, now_ms: u64, slow_start: Duration) -> u64 {
        let from = self.slow_from_ms.load(Ordering::Relaxed);
        let length = slow_start.as_millis() as u64;
        if from == 0 || length == 0 {
            return 256;
        }
        let gone = now_ms.saturating_sub(from);
        if gone >= length {
            self.slow_from_ms.store(0, Ordering::Relaxed);
            return 256;
        }
        (gone * 256 / length).max(26)
    }
}

/// A connection's (or dial's) claim on a backend; counted while it lives.
#[derive(Debug)]
pub(crate) struct Lease(Arc<Backend>);

impl Lease {
    pub(crate) fn new(backend: &Arc<Backend>) -> Lease {
        backend.live.fetch_add(1, Ordering::Relaxed);
        Lease(Arc::clone(backend))
    }

    pub(crate) fn backend(&self) -> &Arc<Backend> {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.0.live.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.emptied.notify_waiters();
        }
    }
}

/// What workers choose from: replaced whole when the configuration changes.
#[derive(Debug)]
pub(crate) struct Routes {
    pub backends: Vec<Arc<Backend>>,
    pub settings: Connections,
    pub slow_start: Duration,
}

/// The present routes. Workers look at the generation for each connection and take the lock only when
/// it moved.
#[derive(Debug)]
pub(crate) struct RouteTable {
    generation: AtomicU64,
    current: Mutex<Arc<Routes>>,
    started: Instant,
}

impl RouteTable {
    pub(crate) fn new(routes: Routes) -> RouteTable {
        RouteTable {
            generation: AtomicU64::new(1),
            current: Mutex::new(Arc::new(routes)),
            started: Instant::now(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Routes>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn replace(&self, routes: Routes) {
        *self.lock() = Arc::new(routes);
        self.generation.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn current(&self) -> Arc<Routes> {
        Arc::clone(&self.lock())
    }

    /// Milliseconds on the data path's clock.
    pub(crate) fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

/// A small generator: ties and slow starts need no more.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed | 1)
    }

    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 8
    }
}

/// Chooses a backend: the best tier present, in it the fewest connections, among equals by lot.
/// Those whose bit is in `tried` are left out; a backend in its slow start passes most of its turns.
pub(crate) fn pick<'a>(
    routes: &'a Routes,
    tried: u64,
    now_ms: u64,
    dice: &mut Dice,
) -> Option<&'a Arc<Backend>> {
    let open = |backend: &&Arc<Backend>| tried & (1 << backend.slot) == 0;
    let best = routes
        .backends
        .iter()
        .filter(open)
        .map(|backend| backend.tier())
        .min()?;
    if best == Tier::Never {
        return None;
    }
    let fewest = |dice: &mut Dice, may_pass: bool| {
        let mut chosen: Option<(&Arc<Backend>, u32)> = None;
        let mut equals = 0;
        for backend in routes
            .backends
            .iter()
            .filter(open)
            .filter(|backend| backend.tier() == best)
        {
            if may_pass && dice.roll() % 256 >= backend.share(now_ms, routes.slow_start) {
                continue;
            }
            let live = backend.live();
            match chosen {
                Some((_, least)) if live > least => {}
                Some((_, least)) if live == least => {
                    equals += 1;
                    if dice.roll().is_multiple_of(equals) {
                        chosen = Some((backend, live));
                    }
                }
                Some(_) | None => {
                    equals = 1;
                    chosen = Some((backend, live));
                }
            }
        }
        chosen.map(|(backend, _)| backend)
    };
    // When everyone passed its turn, or a tier changed under us, the turn is taken anyway.
    fewest(dice, true)
        .or_else(|| fewest(dice, false))
        .or_else(|| {
            routes
                .backends
                .iter()
                .filter(open)
                .find(|backend| backend.tier() != Tier::Never)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `up:3 suspect:0 …`: states and live connections, one backend a word; a `*` drains it.
    fn routes(words: &str) -> (Routes, Vec<Lease>) {
        let mut leases = Vec::new();
        let backends = words.split_whitespace().enumerate().map(|(slot, word)| {
            let (state, live) = word.split_once(':').expect("state:live");
            let (state, drained) = match state.strip_suffix('*') {
                Some(state) => (state, true),
                None => (state, false),
            };
            let state = match state {
                "up" => State::Up,
                "suspect" => State::Suspect,
                "notready" => State::NotReady,
                "unknown" => State::Unknown,
                "closed" => State::Closed,
                "dead" => State::Dead,
                other => panic!("no state `{other}`"),
            };
            let address = SocketAddr::from(([127, 0, 0, 1], 6443));
            let backend = Arc::new(Backend::new(&slot.to_string(), address, slot as u8));
            backend.set_tier(Tier::of(state, drained));
            let live: u32 = live.parse().expect("a number");
            leases.extend((0..live).map(|_| Lease::new(&backend)));
            backend
        });
        let backends = backends.collect();
        let slow_start = Duration::from_secs(10);
        (
            Routes {
                backends,
                settings: Connections::default(),
                slow_start,
            },
            leases,
        )
    }

    /// Which backends are ever chosen in many draws.
    fn check(words: &str, tried: u64, expected: &[&str]) {
        let (routes, _leases) = routes(words);
        let mut dice = Dice::new(0x5eed_1234_9876);
        let mut chosen: Vec<&str> = (0..400)
            .filter_map(|_| pick(&routes, tried, 0, &mut dice))
            .map(|backend| backend.name.as_str())
            .collect();
        chosen.sort_unstable();
        chosen.dedup();
        assert_eq!(chosen, expected, "{words}, tried {tried:b}");
    }

    #[test]
    fn the_best_tier_with_the_fewest_connections() {
        check("up:0 up:0 up:0", 0, &["0", "1", "2"]);
        check("up:2 up:1 up:1", 0, &["1", "2"]);
        check("up:9 suspect:0 dead:0", 0, &["0"]);
        check("suspect:5 notready:0 unknown:0", 0, &["0"]);
        check("notready:5 dead:0 closed:0", 0, &["0"]);
        check("dead:1 closed:0 unknown:0", 0, &["1", "2"]);
    }

    #[test]
    fn drained_ones_are_never_chosen() {
        check("up*:0 dead:3", 0, &["1"]);
        check("up*:0 up*:0", 0, &[]);
        check("", 0, &[]);
    }

    #[test]
    fn tried_ones_are_left_out() {
        check("up:0 up:5 dead:0", 0b001, &["1"]);
        check("up:0 up:5 dead:0", 0b011, &["2"]);
        check("up:0 up:5 dead:0", 0b111, &[]);
    }

    #[test]
    fn a_slow_start_passes_most_turns_but_not_all() {
        let (routes, _leases) = routes("up:50 up:0");
        routes.backends[1].begin_slow_start(1000);
        let mut dice = Dice::new(42);
        let mut share = |now_ms| {
            (0..1000)
                .filter(|_| pick(&routes, 0, now_ms, &mut dice).is_some_and(|b| b.slot == 1))
                .count()
        };
        let (early, middle, late) = (share(1000), share(6000), share(11_000));
        assert!((30..250).contains(&early), "{early} of 1000 at the start");
        assert!((350..650).contains(&middle), "{middle} of 1000 half way");
        assert_eq!(late, 1000);
    }

    #[test]
    fn a_slow_start_alone_takes_every_turn() {
        let (routes, _leases) = routes("up:0");
        routes.backends[0].begin_slow_start(1);
        let mut dice = Dice::new(7);
        assert!((0..1000).all(|_| pick(&routes, 0, 1, &mut dice).is_some()));
    }

    #[test]
    fn leases_count() {
        let (routes, leases) = routes("up:3");
        assert_eq!(routes.backends[0].live(), 3);
        drop(leases);
        assert_eq!(routes.backends[0].live(), 0);
    }
}
