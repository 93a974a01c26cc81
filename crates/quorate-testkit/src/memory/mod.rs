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
    Ensure, Fence, HostEnsure, NodeName, Operator, Request,
    guard::EVIDENCE_AGE_MAX,
    observation::{HostReport, Power},
    wire::Outcome,
};
use tokio::time::Instant;

pub use hosts::{MemoryHosts, MemoryInfra, OperatorHandle};
pub use script::{Fault, Script};

use crate::{
    World,
    invariant::{has_quorum, new_backends, violations},
    world::{
        ActError,
        act::{Accepted, gate},
    },
};

/// One notch of [`World::tick`].
pub const TICK: Duration = Duration::from_millis(500);

/// A world that operators share, and what goes on in it.
#[derive(Clone, Debug)]
pub struct Shared(Rc<RefCell<Inner>>);

#[derive(Debug)]
struct Inner {
    world: World,
    since: Instant,
    /// The world's time then.
    since_ms: u64,
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
    /// When each apiserver was last seen ready.
    ready_at: BTreeMap<NodeName, Instant>,
    /// What will happen to the world, by time.
    due: BTreeMap<(Instant, u64), Due>,
    dues: u64,
    violations: Vec<String>,
    log: Vec<String>,
}

#[derive(Debug)]
struct Job {
    number: u64,
    /// `None` once it was put to the gate.
    request: Option<Request>,
    fence: Fence,
    action: String,
    /// `None` until it passed the gate.
    accepted: Option<Accepted>,
    begun: Instant,
    /// Ticks until the host looks at it.
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
    Mend(NodeName),
}

impl Shared {
    /// Shares a world. Its time begins now.
    pub fn new(world: World) -> Self {
        let since = Instant::now();
        let ready = world.ready().into_iter();
        Self(Rc::new(RefCell::new(Inner {
            since_ms: world.now_ms,
            ready_at: ready.map(|node| (node, since)).collect(),
            world,
            since,
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

    /// A machine is cut off from everybody for that long.
    pub fn cut(&self, node: &NodeName, time: Duration) {
        let mut inner = self.now();
        inner.at_rest = false;
        inner.world.cut(node);
        inner.later(time, Due::Mend(node.clone()));
    }

    /// Waits until faults have passed, hosts have finished what they have in hand and the world has come to rest.
    pub async fn rest(&self) {
        loop {
            {
                let inner = self.now();
                let troubled = !inner.due.is_empty()
                    || !inner.unreachable.is_empty()
                    || !inner.stale.is_empty();
                if inner.at_rest && inner.jobs.is_empty() && !troubled {
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
            self.world.now_ms = self.since_ms + elapsed;
            self.fall_due(at);
            // Whoever is reached again may be ready at once, and a host sees it in the moment it acts.
            for node in self.world.ready() {
                self.ready_at.insert(node, at);
            }
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
                Due::Mend(node) => self.world.mend(&node),
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
            // A frozen host is not gone: its action goes on when it does.
            if self.world.machine(&node).power == Power::Frozen {
                continue;
            }
            let job = self.jobs.get_mut(&node).expect("listed above");
            if job.wait > 0 {
                job.wait -= 1;
                continue;
            }
            let mut job = self.jobs.remove(&node).expect("listed above");
            match self.work_on(&node, &mut job, at) {
                Some(end) => {
                    self.ends.insert(job.number, end);
                }
                None => {
                    self.jobs.insert(node, job);
                }
            }
            self.at_rest = false;
            self.judge();
        }
    }

    fn work_on(
        &mut self,
        node: &NodeName,
        job: &mut Job,
        at: Instant,
    ) -> Option<Result<Outcome, ActError>> {
        if let Some(request) = job.request.take() {
            match self.world.accept_by(node, request, gate) {
                Ok(accepted) => job.accepted = Some(accepted),
                Err(error) => return Some(Err(error)),
            }
            if job.fence < self.world.machine(node).disk.fence {
                self.violations
                    .push(format!("{node} acts for an outranked token"));
            }
        }
        let accepted = job.accepted.as_ref().expect("it was accepted above");
        if let HostEnsure::ControlPlaneGone { .. } = accepted.ensure()
            && self.world.is_target(node)
        {
            self.violations
                .push(format!("{node} stops while the balancer still sends to it"));
        }
        let quorum_before = has_quorum(&self.world);
        let before =
            matches!(accepted.ensure(), HostEnsure::Backend { .. }).then(|| self.world.clone());
        let end = self.world.carry_out(node, accepted);
        if quorum_before && !has_quorum(&self.world) {
            self.violations
                .push(format!("`{}` on {node} cost the quorum", accepted.ensure()));
        }
        if let Some(before) = before {
            self.judge_backends(&before, at);
        }
        let patience = Ensure::Host(accepted.ensure().clone()).patience();
        match end {
            Err(ActError::NotYet(_)) if at < job.begun + patience => None,
            Err(ActError::NotYet(what)) => Some(Err(ActError::Failed(what))),
            end => Some(end),
        }
    }

    fn judge_backends(&mut self, before: &World, at: Instant) {
        for (balancer, backend) in new_backends(before, &self.world) {
            // It may have failed just now; what counts is that somebody can have seen it ready.
            let ready = self.ready_at.get(&backend);
            if ready.is_none_or(|ready| at > *ready + EVIDENCE_AGE_MAX) {
                self.violations.push(format!(
                    "{balancer} forwards to {backend}, which was not ready"
                ));
            }
        }
    }

    fn register(&mut self, node: &NodeName) {
        let ready = self.ready_at.get(node);
        if ready.is_none_or(|ready| Instant::now() > *ready + EVIDENCE_AGE_MAX) {
            self.violations
                .push(format!("target {node} was registered and was not ready"));
        }
        self.world.register(node);
    }

    /// Judged when it is asked for: what fails on the call's way nobody can have seen.
    fn judge_leaving_target(&mut self, node: &NodeName) {
        let mut healthy = self.world.healthy_targets();
        healthy.remove(node);
        if healthy.is_empty() {
            self.violations
                .push(format!("no target is healthy without {node}"));
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
            fence: request.fence,
            action: request.ensure.to_string(),
            request: Some(request),
            accepted: None,
            begun: Instant::now(),
            wait: 1,
        };
        self.jobs.insert(node.clone(), job);
        self.jobs_begun
    }

    fn silent(&self, node: &NodeName) -> bool {
        self.unreachable.contains_key(node) || !self.world.machine(node).answers()
    }
}
