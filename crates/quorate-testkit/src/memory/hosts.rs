//! The adapters of the runner's seams. Start at [`operator`].

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    time::Duration,
};

use quorate_exec::{HostError, Hosts, Infra, InfraError, Ticket, World as Seams};
use quorate_plan::{
    Claim, Fence, Handover, HostEnsure, InfraEnsure, Missing, NodeName, Operator, Request, Sealed,
    Seen,
    admit::Recipient,
    observation::{Fencing, HostReport, InfraView, Power, Target},
    wire::Outcome,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use super::{Due, Fault, Inner, Script, Shared, Stale, TICK};
use crate::{invariant::violations, world::ActError};

/// One way over the network.
const LATENCY: Duration = Duration::from_millis(20);

/// How long the provider takes to make or start a machine.
const MACHINE: Duration = Duration::from_secs(2);

/// How long a host that does not answer is waited for.
const SILENCE: Duration = Duration::from_secs(5);

/// One operator's process, seen from outside.
#[derive(Clone, Debug)]
pub struct OperatorHandle(Rc<Process>);

#[derive(Debug)]
struct Process {
    shared: Shared,
    operator: Operator,
    /// As whom it claimed hosts.
    claims_as: RefCell<Operator>,
    script: RefCell<Script>,
    effects: Cell<u64>,
    dead: Cell<bool>,
    ended: Notify,
    asleep: Cell<bool>,
    fell_asleep: Notify,
    woken: Notify,
}

/// The hosts, as one operator reaches them.
#[derive(Debug)]
pub struct MemoryHosts(Rc<Process>);

/// The provider, as one operator reaches it.
#[derive(Debug)]
pub struct MemoryInfra(Rc<Process>);

pub(super) fn operator(
    shared: Shared,
    operator: Operator,
    script: Script,
) -> (Seams<MemoryHosts, MemoryInfra>, OperatorHandle) {
    let process = Rc::new(Process {
        shared,
        claims_as: RefCell::new(operator.clone()),
        operator,
        script: RefCell::new(script),
        effects: Cell::new(0),
        dead: Cell::new(false),
        ended: Notify::new(),
        asleep: Cell::new(false),
        fell_asleep: Notify::new(),
        woken: Notify::new(),
    });
    let seams = Seams::new(MemoryHosts(process.clone()), MemoryInfra(process.clone()));
    (seams, OperatorHandle(process))
}

impl OperatorHandle {
    /// Waits until a fault killed the process: whoever drives its run drops it then.
    pub async fn killed(&self) {
        while !self.0.dead.get() {
            self.0.ended.notified().await;
        }
    }

    /// Waits until a fault put the operator's machine to sleep.
    pub async fn asleep(&self) {
        while !self.0.asleep.get() {
            self.0.fell_asleep.notified().await;
        }
    }

    /// Wakes the operator's machine.
    pub fn wake(&self) {
        self.0.asleep.set(false);
        self.0.woken.notify_waiters();
    }

    /// Effects this operator asked for.
    pub fn effects(&self) -> u64 {
        self.0.effects.get()
    }

    /// The process ends, and its channels with it.
    pub fn kill(&self) {
        self.0.die();
    }
}

/// What becomes of an effect, once its faults were looked at.
#[derive(Default)]
struct Fate {
    kill_during: bool,
    kill_after: bool,
    drop_reply: bool,
}

impl Process {
    /// Waits, as a process that may have ended meanwhile: then it never comes back.
    async fn pass(&self, time: Duration) {
        sleep(time).await;
        self.alive().await;
    }

    /// Comes back when the machine is awake, and never when the process has ended.
    async fn alive(&self) {
        while self.asleep.get() {
            self.woken.notified().await;
        }
        if self.dead.get() {
            std::future::pending::<()>().await;
        }
    }

    /// Counts an effect and lets its faults happen. Does not come back from those that end the process before the effect.
    async fn effect(&self, node: Option<&NodeName>, what: &str) -> Fate {
        self.alive().await;
        self.effects.set(self.effects.get() + 1);
        let number = self.effects.get();
        let place = node.map_or_else(|| "this machine".to_owned(), NodeName::to_string);
        let line = format!("{place}: {what}");
        let faults = self.script.borrow_mut().take(number, &line);
        {
            let mut inner = self.shared.now();
            inner.effects += 1;
            let run = &self.operator.run;
            inner.log.push(format!("{run} #{number} {line}"));
        }
        let mut fate = Fate::default();
        for fault in faults {
            self.shared.now().log.push(format!("  {fault:?}"));
            match fault {
                Fault::KillBefore => {
                    self.die();
                    std::future::pending::<()>().await;
                }
                Fault::KillDuring => fate.kill_during = true,
                Fault::KillAfter => fate.kill_after = true,
                Fault::DropReply => fate.drop_reply = true,
                Fault::Sleep => self.sleep().await,
                Fault::Silence(time) => {
                    if let Some(node) = node {
                        let until = Instant::now() + time;
                        self.shared.now().unreachable.insert(node.clone(), until);
                    }
                }
                Fault::PowerCut(..)
                | Fault::Isolate(..)
                | Fault::Freeze(..)
                | Fault::Elect(_)
                | Fault::Stale(..)
                | Fault::LoseData(_)
                | Fault::Reinstall(_) => befall(&mut self.shared.now(), fault),
            }
        }
        fate
    }

    async fn sleep(&self) {
        self.asleep.set(true);
        self.hang_up();
        self.fell_asleep.notify_waiters();
        self.alive().await;
    }

    fn die(&self) {
        self.dead.set(true);
        self.hang_up();
        self.ended.notify_waiters();
    }

    /// Hosts notice that the channel is closed.
    fn hang_up(&self) {
        let mut inner = self.shared.now();
        inner.world.hang_up(&self.claims_as.borrow());
    }

    async fn after(&self, fate: &Fate) {
        if fate.kill_after {
            self.die();
            std::future::pending::<()>().await;
        }
    }

    /// A short exchange with a host: there at once, or not at all.
    async fn exchange<T>(
        &self,
        on: &NodeName,
        what: &str,
        act: impl FnOnce(&mut Inner) -> Result<T, ActError>,
    ) -> Result<T, HostError> {
        let fate = self.effect(Some(on), what).await;
        self.pass(LATENCY).await;
        if self.shared.now().silent(on) {
            sleep(SILENCE).await;
            return Err(unreachable(on, "no answer"));
        }
        let answer = {
            let mut inner = self.shared.now();
            inner.at_rest = false;
            act(&mut inner)
        };
        if fate.kill_during {
            self.die();
            std::future::pending::<()>().await;
        }
        self.pass(LATENCY).await;
        self.after(&fate).await;
        if fate.drop_reply {
            return Err(unreachable(on, "connection reset"));
        }
        answer.map_err(|error| host_error(on, error))
    }
}

/// A fault that is about the world and not about the operator.
fn befall(inner: &mut Inner, fault: Fault) {
    inner.at_rest = false;
    match fault {
        Fault::PowerCut(node, time) => {
            inner.world.power_off(&node);
            drop_job(inner, &node);
            inner.later(time, Due::PowerOn(node));
        }
        Fault::LoseData(node) => {
            let mut after = inner.world.clone();
            after.lose_etcd_data(&node);
            if violations(&after).is_empty() {
                inner.world = after;
                inner.log.push(format!("  {node} lost its data"));
                drop_job(inner, &node);
            }
        }
        Fault::Reinstall(node) => {
            inner.world.lose_disk(&node);
            inner.world.forget_what_nobody_has();
            inner.log.push(format!("  {node} was made anew"));
            drop_job(inner, &node);
        }
        Fault::Isolate(node, time) => {
            inner.world.machine_mut(&node).isolated = true;
            inner.later(time, Due::Rejoin(node));
        }
        Fault::Freeze(node, time) => {
            inner.world.freeze(&node);
            inner.later(time, Due::Thaw(node));
        }
        Fault::Elect(node) => inner.world.elect_on(&node),
        Fault::Stale(node, time) => {
            if let Seen::Known { value: report, .. } = inner.world.report(&node) {
                let taken = Instant::now();
                let until = taken + time;
                inner.stale.insert(
                    node,
                    Stale {
                        report,
                        taken,
                        until,
                    },
                );
            }
        }
        Fault::KillBefore
        | Fault::KillDuring
        | Fault::KillAfter
        | Fault::Sleep
        | Fault::DropReply
        | Fault::Silence(_) => unreachable!("these are about the operator"),
    }
    inner.judge();
}

/// What a host had in hand ends with its power.
fn drop_job(inner: &mut Inner, node: &NodeName) {
    if let Some(job) = inner.jobs.remove(node) {
        inner.ends.insert(job.number, Err(ActError::Gone));
    }
}

impl Shared {
    /// Lets a fault of the world happen now.
    ///
    /// # Panics
    /// When it is one of the operator's: those belong into its [`Script`].
    pub fn befall(&self, fault: Fault) {
        befall(&mut self.now(), fault);
    }
}

fn unreachable(node: &NodeName, detail: &str) -> HostError {
    HostError::Unreachable {
        node: node.clone(),
        detail: detail.into(),
    }
}

fn host_error(node: &NodeName, error: ActError) -> HostError {
    let node = node.clone();
    match error {
        ActError::Refused(refusal) => HostError::Refused { node, refusal },
        ActError::NotYet(error) | ActError::Failed(error) => HostError::Failed { node, error },
        ActError::Gone => HostError::Unreachable {
            node,
            detail: "connection lost".into(),
        },
    }
}

impl Hosts for MemoryHosts {
    async fn report(&self, on: &NodeName) -> Seen<HostReport> {
        self.0.pass(LATENCY).await;
        if self.0.shared.now().silent(on) {
            sleep(SILENCE).await;
            return Seen::Unknown(Missing::not_yet(format!("host {on}"), "no answer"));
        }
        let inner = self.0.shared.now();
        match inner.stale.get(on) {
            Some(stale) => Seen::Known {
                value: stale.report.clone(),
                age: Instant::now() - stale.taken,
            },
            None => inner.world.report(on),
        }
    }

    async fn claim(&self, on: &NodeName, claim: &Claim) -> Result<Fencing, HostError> {
        self.0.claims_as.replace(claim.operator.clone());
        self.0
            .exchange(on, "claim", |inner| inner.world.claim(on, claim))
            .await
    }

    async fn release(&self, on: &NodeName, fence: Fence) -> Result<(), HostError> {
        self.0
            .exchange(on, "release", |inner| inner.world.release(on, fence))
            .await
    }

    async fn recipient(&self, on: &NodeName) -> Result<Recipient, HostError> {
        self.0
            .exchange(on, "recipient", |inner| inner.world.recipient(on))
            .await
    }

    async fn ticket(&self, on: &NodeName, _ensure: &HostEnsure) -> Result<Ticket, HostError> {
        let recipient = self
            .0
            .exchange(on, "ticket", |inner| inner.world.recipient(on))
            .await?;
        Ok(Ticket {
            recipient,
            receipt: None,
        })
    }

    async fn seal(
        &self,
        fence: Fence,
        what: &Handover,
        to: &Recipient,
    ) -> Result<Sealed, HostError> {
        self.0
            .exchange(what.from(), "seal", |inner| {
                inner.world.seal(fence, what, to)
            })
            .await
    }

    async fn ensure(
        &self,
        on: &NodeName,
        request: Request,
        progress: &mut dyn FnMut(String),
    ) -> Result<Outcome, HostError> {
        let process = &self.0;
        let fate = process.effect(Some(on), &request.ensure.to_string()).await;
        process.pass(LATENCY).await;
        if process.shared.now().silent(on) {
            sleep(SILENCE).await;
            return Err(unreachable(on, "no answer"));
        }
        let number = {
            let mut inner = process.shared.now();
            if let Some(job) = inner.jobs.get(on) {
                return Err(HostError::Busy {
                    node: on.clone(),
                    action: job.action.clone(),
                    since_ms: u64::try_from(job.begun.elapsed().as_millis()).unwrap_or(u64::MAX),
                    fence: job.fence,
                });
            }
            inner.begin(on, request)
        };
        progress("begun".into());
        if fate.kill_during {
            process.die();
            std::future::pending::<()>().await;
        }
        let end = loop {
            process.pass(TICK).await;
            let mut inner = process.shared.now();
            if inner.unreachable.contains_key(on) {
                return Err(unreachable(on, "connection lost"));
            }
            if let Some(end) = inner.ends.remove(&number) {
                break end;
            }
        };
        process.after(&fate).await;
        if fate.drop_reply {
            return Err(unreachable(on, "connection reset"));
        }
        end.map_err(|error| host_error(on, error))
    }
}

impl Infra for MemoryInfra {
    async fn observe(&self) -> BTreeMap<NodeName, Seen<InfraView>> {
        self.0.shared.now().world.infra()
    }

    async fn targets(&self) -> BTreeMap<NodeName, Seen<Target>> {
        self.0.shared.now().world.targets()
    }

    async fn ensure(
        &self,
        what: &InfraEnsure,
        _progress: &mut dyn FnMut(String),
    ) -> Result<(), InfraError> {
        let node = what.node();
        let process = &self.0;
        let effect = match what {
            InfraEnsure::Machine { .. } | InfraEnsure::MachineOff { .. } => {
                format!("machine {node}")
            }
            InfraEnsure::Target { .. } => format!("register {node}"),
            InfraEnsure::TargetGone { .. } => {
                process.shared.now().judge_leaving_target(node);
                format!("deregister {node}")
            }
        };
        let fate = process.effect(None, &effect).await;
        if fate.kill_during {
            process.die();
            std::future::pending::<()>().await;
        }
        process.pass(MACHINE).await;
        {
            let mut inner = process.shared.now();
            inner.at_rest = false;
            match what {
                InfraEnsure::Machine { .. } => {
                    inner.world.provide(node);
                    let power = inner.world.machine(node).power;
                    assert!(power == Power::Running, "the provider makes machines run");
                }
                InfraEnsure::MachineOff { .. } => inner.world.power_off(node),
                InfraEnsure::Target { .. } => inner.register(node),
                InfraEnsure::TargetGone { .. } => inner.world.deregister(node),
            }
        }
        process.after(&fate).await;
        if fate.drop_reply {
            return Err(InfraError {
                what: effect,
                detail: "the provider's answer was lost".into(),
            });
        }
        Ok(())
    }
}
