//! A world behind the runner's seams, in virtual time. Start at [`Shared`]; an operator's run gets its own [`MemoryHosts`] and
//! [`MemoryInfra`] from [`Shared::operator`].
//!
//! Time is tokio's: in a test with paused time nothing here takes any, and everything happens in the same order every time. A host goes
//! on with the action in its hands when the operator is gone, as real ones do; [`script`] says what goes wrong and when.

mod hosts;
pub mod script;

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, time::Duration};

use quorate_exec::World as Seams;
use quorate_plan::{
    NodeName, Operator, Request,
    observation::{Fencing, HostReport},
    wire::Outcome,
};
use tokio::time::Instant;

pub use hosts::{MemoryHosts, MemoryInfra, OperatorHandle};
pub use script::{Fault, Script};

use crate::{
    World,
    invariant::{early_backends, violations},
    world::{ActError, CLOCK_MS},
};

/// One notch of [`World::tick`].
pub const TICK: Duration = Duration::from_millis(500);

/// How long a host waits for what an action needs before it says that it failed.
const ACTION_MAX: Duration = Duration::from_secs(120);

/// A world that operators share, and what goes on in it.
#[derive(Clone, Debug)]
pub struct Shared(Rc<RefCell<Inner>>);

#[derive(Debug)]
struct Inner {
    world: World,
    since: Instant,
    /// Ticks that have passed.
    ticks: u32,
    /// Nothing changes by itself any more.
    at_rest: bool,
    /// What hosts have in hand.
    jobs: BTreeMap<NodeName, Job>,
    /// Ends of jobs, until somebody asks.
    ends: BTreeMap<u64, Result<Outcome, ActError>>,
    jobs_begun: u64,
    /// Effects asked for so far, by any operator.
    effects: u64,
    /// Hosts that do not answer the operator until then.
    unreachable: BTreeMap<NodeName, Instant>,
    /// Hosts whose looks are old until then.
    stale: BTreeMap<NodeName, Stale>,
    /// What will happen to the world, by time.
    due: BTreeMap<(Instant, u64), Due>,
    dues: u64,
    violations: Vec<String>,
    log: Vec<String>,
}

#[derive(Debug)]
struct Job {
    number: u64,
    request: Request,
    /// The fence when it was admitted: a later one stops the next action, not this one.
    fencing: Fencing,
    begun: Instant,
    /// Ticks until it is tried first.
    wait: u32,
}

#[derive(Debug)]
struct Stale {
    report: HostReport,
    taken: Instant,
    until: Instant,
}

/// Something that ends by itself.
#[derive(Debug)]
enum Due {
    PowerOn(NodeName),
    Rejoin(NodeName),
    Thaw(NodeName),
}

impl Shared {
    /// Shares a world. Its time begins now.
    pub fn new(world: World) -> Self {
        Self(Rc::new(RefCell::new(Inner {
            world,
            since: Instant::now(),
            ticks: 0,
            at_rest: false,
            jobs: BTreeMap::new(),
            ends: BTreeMap::new(),
            jobs_begun: 0,
            effects: 0,
            unreachable: BTreeMap::new(),
            stale: BTreeMap::new(),
            due: BTreeMap::new(),
            dues: 0,
            violations: Vec::new(),
            log: Vec::new(),
        })))
    }

    /// The seams for one operator's run, and the handle by which a test watches it.
    pub fn operator(
        &self,
        operator: Operator,
        script: Script,
    ) -> (Seams<MemoryHosts, MemoryInfra>, OperatorHandle) {
        hosts::operator(self.clone(), operator, script)
    }

    /// A copy of the world as it is now.
    pub fn world(&self) -> World {
        self.now().world.clone()
    }

    /// Changes the world by hand.
    pub fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let mut inner = self.now();
        inner.at_rest = false;
        change(&mut inner.world)
    }

    /// Waits until hosts have finished what they have in hand and the world has come to rest.
    pub async fn rest(&self) {
        loop {
            {
                let inner = self.now();
                if inner.at_rest && inner.jobs.is_empty() && inner.due.is_empty() {
                    return;
                }
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// Everything that ever failed to hold.
    pub fn violations(&self) -> Vec<String> {
        self.now().violations.clone()
    }

    /// What was asked and what went wrong, in order.
    pub fn log(&self) -> Vec<String> {
        self.now().log.clone()
    }

    /// Effects asked for so far, by any operator.
    pub fn effects(&self) -> u64 {
        self.now().effects
    }

    /// The inner state, brought up to the present.
    fn now(&self) -> std::cell::RefMut<'_, Inner> {
        let mut inner = self.0.borrow_mut();
        inner.advance(Instant::now());
        inner
    }
}

impl Inner {
    fn advance(&mut self, now: Instant) {
        while self.since + TICK * (self.ticks + 1) <= now {
            self.ticks += 1;
            let at = self.since + TICK * self.ticks;
            let elapsed = u64::try_from((at - self.since).as_millis()).unwrap_or(u64::MAX);
            self.world.now_ms = CLOCK_MS + elapsed;
            self.fall_due(at);
            self.work(at);
            if !self.at_rest {
                self.at_rest = !self.world.tick();
                self.judge();
            }
        }
        self.unreachable.retain(|_, until| *until > now);
        self.stale.retain(|_, stale| stale.until > now);
    }

    fn fall_due(&mut self, at: Instant) {
        while let Some(entry) = self.due.first_entry()
            && entry.key().0 <= at
        {
            let due = entry.remove();
            self.log.push(format!("{due:?}"));
            self.at_rest = false;
            match due {
                Due::PowerOn(node) => self.world.power_on(&node),
                Due::Rejoin(node) => self.world.machine_mut(&node).isolated = false,
                Due::Thaw(node) => self.world.thaw(&node),
            }
        }
    }

    fn later(&mut self, after: Duration, due: Due) {
        self.dues += 1;
        self.due.insert((Instant::now() + after, self.dues), due);
    }

    /// Hosts go on with what they have in hand.
    fn work(&mut self, at: Instant) {
        let nodes: Vec<NodeName> = self.jobs.keys().cloned().collect();
        for node in nodes {
            let job = self.jobs.get_mut(&node).expect("listed above");
            // A frozen host is not gone: its action goes on when it does.
            if self.world.machine(&node).power == quorate_plan::observation::Power::Frozen {
                continue;
            }
            if job.wait > 0 {
                job.wait -= 1;
                continue;
            }
            let before = self.world.clone();
            let end = self.world.apply_fenced(&node, &job.request, &job.fencing);
            let end = match end {
                Err(ActError::NotYet(_)) if at < job.begun + ACTION_MAX => None,
                Err(ActError::NotYet(what)) => Some(Err(ActError::Failed(what))),
                end => Some(end),
            };
            self.at_rest = false;
            if self.world != before {
                self.violations.extend(early_backends(&before, &self.world));
                if job.request.fence < job.fencing.highest {
                    self.violations
                        .push(format!("{node} acted for an outranked token"));
                }
            }
            if let Some(end) = end {
                let job = self.jobs.remove(&node).expect("listed above");
                self.ends.insert(job.number, end);
            }
            self.judge();
        }
    }

    fn judge(&mut self) {
        for violation in violations(&self.world) {
            if !self.violations.contains(&violation) {
                self.violations.push(violation);
            }
        }
    }

    fn begin(&mut self, node: &NodeName, request: Request) -> u64 {
        self.jobs_begun += 1;
        let job = Job {
            number: self.jobs_begun,
            fencing: self.world.fencing(node),
            request,
            begun: Instant::now(),
            wait: 1,
        };
        self.jobs.insert(node.clone(), job);
        self.jobs_begun
    }

    fn silent(&self, node: &NodeName) -> bool {
        self.unreachable.contains_key(node) || !self.world.machine(node).on()
    }
}
