//! The runner's mechanics against hosts that hold nothing but the marks of what was done to them. Time is virtual.

mod acting;
mod fencing;
mod stopping;

use std::collections::{BTreeMap, BTreeSet};

use quorate_plan::{
    Change, Claim, ClusterName, Ensure, Fence, Goal, Handover, HostEnsure, InfraEnsure, MemberId,
    Missing, NodeName, Place, Reason, Request, Sealed, Seen, Spec, Standing,
    admit::Recipient,
    intent::BundleRef,
    observation::{
        Cgroup, EndpointName, EtcdView, Fencing, HostFacts, HostReport, InfraView, MachineKind,
        Power, Target,
    },
    spec::{BalancerSpec, BringUp, Cni, Machine, NetworkSpec, Provider, Ssh},
    wire::Outcome,
};

use super::*;
use crate::{
    journal::{Journal, Recorder, Store},
    seam::{HostError, InfraError, Ticket},
};

fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

fn intent() -> Intent {
    let machine = |last: u8| Machine {
        address: [10, 0, 0, last].into(),
        zone: None,
        etcd_device: None,
        ssh: Ssh {
            user: "root".into(),
            port: 22,
            identity: None,
            sudo: false,
        },
    };
    let name: ClusterName = "demo".parse().unwrap();
    Intent {
        spec: Spec {
            name,
            kubernetes: "1.35.4".into(),
            endpoint: EndpointName {
                host: "api.demo".into(),
                port: 6443,
            },
            balancer: BalancerSpec::External,
            hosts_file: false,
            control_plane: (1..=3)
                .map(|n| (node(&format!("cp-{n}")), machine(n)))
                .collect(),
            bring_up: BringUp::Together,
            workers: BTreeMap::new(),
            network: NetworkSpec {
                cni: Cni::None,
                pods: "10.244.0.0/16".into(),
                services: "10.96.0.0/12".into(),
            },
            provider: Provider::Ssh,
            bundle: None,
            packages: None,
        },
        bundle: BundleRef {
            id: "b".into(),
            kubernetes: "1.35.4".into(),
            images: BTreeMap::new(),
        },
        binary: "q".into(),
        goal: Goal::Converge,
        accepted: BTreeSet::new(),
        retired: BTreeMap::new(),
    }
}

fn operator() -> Operator {
    crate::identity::operator("r1")
}

/// A step whose end state is that the host has the bundle of that name.
fn step(on: &str, id: &str) -> Step {
    Step {
        on: Place::Host(node(on)),
        ensure: Ensure::Host(HostEnsure::Bundle { id: id.into() }),
        handover: None,
        because: Reason::Prerequisite,
    }
}

fn machine_step(name: &str) -> Step {
    Step {
        on: Place::Operator,
        ensure: Ensure::Infra(InfraEnsure::Machine {
            node: node(name),
            address: [10, 0, 0, 1].into(),
        }),
        handover: None,
        because: Reason::Wanted,
    }
}

fn stage(title: &str, steps: Vec<Step>) -> Stage {
    Stage {
        title: title.into(),
        change: None,
        steps,
    }
}

fn plan_of(stages: Vec<Stage>) -> Plan {
    Plan { stages }
}

/// What is open of a plan, in the manner of the real planner: what nobody can say refuses everything.
fn rest(whole: &Plan, seen: &Observation) -> Planning {
    let mut plan = Plan::default();
    let mut refused = Vec::new();
    for stage in &whole.stages {
        let steps: Vec<Step> = stage
            .steps
            .iter()
            .filter(|step| match step.standing(seen) {
                Standing::Done(_) => false,
                Standing::Open(_) => true,
                Standing::Unknown(missing) => {
                    refused.push(Refusal::Missing { missing });
                    false
                }
            })
            .cloned()
            .collect();
        if !steps.is_empty() {
            plan.stages.push(Stage {
                steps,
                ..stage.clone()
            });
        }
    }
    if !refused.is_empty() {
        plan = Plan::default();
    }
    Planning {
        plan,
        waiting: Vec::new(),
        refused,
    }
}

thread_local! {
    /// What [`planned`] plans: each test has a thread of its own.
    static WHOLE: RefCell<Plan> = RefCell::default();
}

fn planned(_intent: &Intent, seen: &Observation) -> Planning {
    WHOLE.with_borrow(|whole| rest(whole, seen))
}

/// What happens to the nth request (from 1) of a kind to a host.
type Fault = Box<dyn Fn(&Fake, &NodeName, &HostEnsure, u32) -> Option<HostError>>;

struct Fake {
    facts: RefCell<BTreeMap<NodeName, HostFacts>>,
    power: RefCell<BTreeMap<NodeName, Power>>,
    /// Hosts that answer nothing.
    silent: RefCell<BTreeSet<NodeName>>,
    /// Runs that hear from a host later than others.
    far: RefCell<BTreeSet<(String, NodeName)>>,
    /// Hosts that answer run etcd.
    etcd_runs: Cell<bool>,
    asked: RefCell<BTreeMap<String, u32>>,
    log: RefCell<Vec<String>>,
    fault: RefCell<Option<Fault>>,
}

impl Default for Fake {
    fn default() -> Self {
        let nodes = ["cp-1", "cp-2", "cp-3"].map(node);
        Self {
            facts: RefCell::new(
                nodes
                    .into_iter()
                    .map(|node| (node.clone(), HostFacts::blank(&node)))
                    .collect(),
            ),
            power: RefCell::default(),
            silent: RefCell::default(),
            far: RefCell::default(),
            etcd_runs: Cell::default(),
            asked: RefCell::default(),
            log: RefCell::default(),
            fault: RefCell::default(),
        }
    }
}

/// One member's account; nothing here reads it.
fn etcd_view() -> EtcdView {
    EtcdView {
        cluster_id: "c".into(),
        member: MemberId(1),
        version: "3.6.16".into(),
        leader: None,
        raft_term: 1,
        raft_index: 1,
        raft_applied: 1,
        db_bytes: 0,
        db_in_use_bytes: 0,
        db_quota_bytes: 2 << 30,
        fsync_p99_ms: Seen::now(1),
        active_peers: Seen::now(BTreeSet::new()),
        linearizable: false,
        members: BTreeMap::new(),
        alarms: BTreeSet::new(),
        errors: BTreeSet::new(),
    }
}

impl Fake {
    fn note(&self, line: String) {
        self.log.borrow_mut().push(line);
    }

    fn log(&self) -> Vec<String> {
        self.log.borrow().clone()
    }

    fn fencing(&self, on: &NodeName) -> Fencing {
        self.facts.borrow()[on].fencing.get().unwrap().clone()
    }

    fn set_fencing(&self, on: &NodeName, fencing: Fencing) {
        self.facts.borrow_mut().get_mut(on).unwrap().fencing = Seen::now(fencing);
    }

    fn give(&self, on: &NodeName, id: &str) {
        let mut facts = self.facts.borrow_mut();
        let facts = facts.get_mut(on).unwrap();
        let mut bundles = facts.bundles.get().unwrap().clone();
        bundles.insert(id.to_owned());
        facts.bundles = Seen::now(bundles);
    }

    fn take_away(&self, on: &NodeName) {
        self.facts.borrow_mut().get_mut(on).unwrap().bundles = Seen::now(BTreeSet::new());
    }

    fn answers(&self, on: &NodeName) -> Result<(), HostError> {
        if self.silent.borrow().contains(on) {
            Err(HostError::Unreachable {
                node: on.clone(),
                detail: "silent".into(),
            })
        } else {
            Ok(())
        }
    }
}

impl Hosts for &Fake {
    async fn report(&self, on: &NodeName) -> Seen<HostReport> {
        sleep(Duration::from_millis(20)).await;
        match self.answers(on) {
            Ok(()) => Seen::now(HostReport {
                facts: self.facts.borrow()[on].clone(),
                etcd: Seen::now(self.etcd_runs.get().then(etcd_view)),
                api: Seen::now(None),
            }),
            Err(error) => {
                Seen::Unknown(Missing::no_answer(format!("host {on}"), error.to_string()))
            }
        }
    }

    async fn claim(&self, on: &NodeName, claim: &Claim) -> Result<Fencing, HostError> {
        let way = (claim.operator.run.clone(), on.clone());
        let far = self.far.borrow().contains(&way);
        sleep(Duration::from_millis(if far { 80 } else { 20 })).await;
        self.answers(on)?;
        let before = self.fencing(on);
        if claim.fence <= before.highest && before.claim.as_ref() != Some(claim) {
            return Err(HostError::Refused {
                node: on.clone(),
                refusal: Box::new(Refusal::Fenced {
                    token: claim.fence,
                    highest: before.highest,
                    holder: "somebody".into(),
                }),
            });
        }
        self.note(format!("{on} claimed {}", claim.fence));
        let fencing = Fencing {
            highest: claim.fence,
            claim: Some(claim.clone()),
            connected: true,
        };
        self.set_fencing(on, fencing.clone());
        Ok(fencing)
    }

    async fn release(&self, on: &NodeName, fence: Fence) -> Result<(), HostError> {
        self.answers(on)?;
        self.note(format!("{on} released {fence}"));
        self.set_fencing(
            on,
            Fencing {
                highest: fence,
                ..Fencing::default()
            },
        );
        Ok(())
    }

    async fn recipient(&self, on: &NodeName) -> Result<Recipient, HostError> {
        self.note(format!("{on} made a recipient"));
        Ok(Recipient(format!("age1{on}")))
    }

    async fn ticket(&self, on: &NodeName, _ensure: &HostEnsure) -> Result<Ticket, HostError> {
        Ok(Ticket {
            recipient: self.recipient(on).await?,
            receipt: None,
        })
    }

    async fn seal(
        &self,
        _fence: Fence,
        what: &Handover,
        to: &Recipient,
    ) -> Result<Sealed, HostError> {
        self.note(format!("{} sealed to {}", what.from(), to.0));
        Ok(Sealed("sealed".into()))
    }

    async fn ensure(
        &self,
        on: &NodeName,
        request: Request,
        progress: &mut dyn FnMut(String),
    ) -> Result<Outcome, HostError> {
        self.answers(on)?;
        let outcome = |fake: &Fake| Outcome {
            changed: Vec::new(),
            report: HostReport {
                facts: fake.facts.borrow()[on].clone(),
                etcd: Seen::now(None),
                api: Seen::now(None),
            },
        };
        let id = match &request.ensure {
            HostEnsure::Bundle { id } => id,
            // These hosts say that they are guarded, and never are.
            HostEnsure::Guarded {} => return Ok(outcome(self)),
            other => panic!("`{other}` is not in these tests"),
        };
        let count = {
            let mut asked = self.asked.borrow_mut();
            let count = asked.entry(format!("{on} {id}")).or_default();
            *count += 1;
            *count
        };
        let fencing = self.fencing(on);
        if fencing.highest != request.fence {
            return Err(HostError::Refused {
                node: on.clone(),
                refusal: Box::new(Refusal::Fenced {
                    token: request.fence,
                    highest: fencing.highest,
                    holder: "somebody".into(),
                }),
            });
        }
        self.note(format!("{on} begins {id}"));
        progress("half of it".into());
        sleep(Duration::from_secs(1)).await;
        let fault = self
            .fault
            .borrow()
            .as_ref()
            .and_then(|fault| fault(self, on, &request.ensure, count));
        if let Some(error) = fault {
            self.note(format!("{on} fails {id}"));
            return Err(error);
        }
        assert!(request.sealed.len() <= 1);
        self.give(on, id);
        self.note(format!("{on} ends {id}"));
        Ok(outcome(self))
    }
}

impl Infra for &Fake {
    async fn observe(&self) -> BTreeMap<NodeName, Seen<InfraView>> {
        let kind = MachineKind {
            cgroup: Cgroup::V2,
            oom_score_adjustable: true,
            swap: false,
            shared_disk: false,
        };
        self.power
            .borrow()
            .iter()
            .map(|(node, power)| {
                (
                    node.clone(),
                    Seen::now(InfraView {
                        power: *power,
                        kind,
                    }),
                )
            })
            .collect()
    }

    async fn targets(&self) -> BTreeMap<NodeName, Seen<Target>> {
        BTreeMap::new()
    }

    async fn ensure(
        &self,
        what: &InfraEnsure,
        progress: &mut dyn FnMut(String),
    ) -> Result<(), InfraError> {
        let node = match what {
            InfraEnsure::Machine { node, .. } => node,
            InfraEnsure::MachineOff { node } => {
                self.note(format!("{node} stopped"));
                self.power.borrow_mut().insert(node.clone(), Power::Off);
                return Ok(());
            }
            InfraEnsure::Target { .. } | InfraEnsure::TargetGone { .. } => {
                unreachable!("nobody balances here")
            }
        };
        progress("booting".into());
        self.note(format!("{node} booting"));
        sleep(Duration::from_secs(2)).await;
        self.note(format!("{node} booted"));
        self.power.borrow_mut().insert(node.clone(), Power::Running);
        Ok(())
    }
}

/// Runs `whole` on `fake` and returns the verdict with the events.
async fn run_on(fake: &Fake, whole: Plan) -> (Verdict, Vec<Event>) {
    run_with(fake, whole, &StopSignal::new(), &mut |_| {}).await
}

async fn run_with(
    fake: &Fake,
    whole: Plan,
    stop: &StopSignal,
    watch: &mut dyn FnMut(&Event),
) -> (Verdict, Vec<Event>) {
    WHOLE.set(whole.clone());
    let world = World::new(fake, fake);
    let mut events = Vec::new();
    let verdict = run_planned(
        planned,
        &whole,
        &intent(),
        &world,
        &operator(),
        stop,
        &mut |event| {
            watch(&event);
            events.push(event);
        },
    )
    .await;
    assert_eq!(
        events.last(),
        Some(&Event::Ended {
            verdict: verdict.clone()
        })
    );
    (verdict, events)
}

/// Events without their contents, one word each.
fn words(events: &[Event]) -> Vec<String> {
    events
        .iter()
        .map(|event| {
            let json = serde_json::to_value(event).unwrap();
            let word = json["event"].as_str().unwrap().to_owned();
            match event {
                Event::StepStarted { step }
                | Event::StepStands { step, .. }
                | Event::StepFailed { step, .. }
                | Event::StepProgress { step, .. } => format!("{word} {}", step.on),
                Event::StageStarted { number, .. } => format!("{word} {number}"),
                _ => word,
            }
        })
        .collect()
}

fn position(log: &[String], line: &str) -> usize {
    log.iter()
        .position(|l| l == line)
        .unwrap_or_else(|| panic!("no `{line}` in {log:#?}"))
}
