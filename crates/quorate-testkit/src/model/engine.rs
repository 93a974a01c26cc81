//! Worlds, looks and plans by number, and what the rules and the production code say about them. Start at [`Engine`]; what is decided is
//! in `decide.rs`, what is done to a world in `deeds.rs`.

mod decide;
mod deeds;

use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock},
    time::Duration,
};

use quorate_plan::{
    Intent, Missing, NodeName, Observation, Plan, Seen, Stage,
    observation::{Fencing, HostReport, Power, Sightings},
};

pub use decide::Decisions;
pub(super) use decide::{Answer, Asked, Carried, Judged, Planned, Task, Turn};
pub(super) use deeds::{Deed, Outcome};

use super::{
    canon::canonical,
    claims::Claiming,
    intern::{Interned, Memo},
    judge::Effect,
    state::{Hosts, Op, Phase},
};
use crate::{
    World,
    invariant::{has_quorum, violations},
    world::{CLOCK_MS, ClusterId, EtcdCluster, Machine},
};
use decide::Lanes;

/// Hosts that a model may have.
pub const HOSTS_MAX: usize = 7;

/// What was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sight {
    /// What each host told, by number. 0: not looked at.
    pub reports: [u32; HOSTS_MAX],
    /// Hosts that left several looks unanswered, over some time.
    pub silent: Hosts,
}

/// What a look tells of a host that did not answer: once, and for so long that every witness has noticed.
const SILENCE: [(u32, Duration); 2] = [(1, Duration::ZERO), (7, Duration::from_secs(60))];

/// Longer than anything is told to be fresh.
const MINUTE_MS: u64 = 60_000;

/// A world in numbers of its parts.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Parts {
    machines: [u32; HOSTS_MAX],
    clusters: u32,
    authorities: u32,
}

/// What every host tells: as it is told, and without the fence, on which no plan depends.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Look {
    pub(super) whole: [u32; HOSTS_MAX],
    pub(super) bare: [u32; HOSTS_MAX],
    pub(super) unanswered: Hosts,
}

/// Everything that is kept once.
#[derive(Debug)]
pub struct Engine {
    pub(super) nodes: Vec<NodeName>,
    pub(super) intents: Vec<Intent>,
    pub(super) decisions: Decisions,
    template: World,
    machines: Interned<Machine>,
    clusters: Interned<BTreeMap<ClusterId, EtcdCluster>>,
    worlds: Interned<Parts>,
    reports: Interned<Seen<HostReport>>,
    pub(super) plans: Interned<Plan>,
    stages: Interned<Stage>,
    turns: Interned<Turn>,
    sealed: Interned<String>,
    deeds: Memo<(u32, Deed), (u32, Outcome)>,
    ticks: Memo<u32, u32>,
    looks: Memo<u32, Look>,
    planned: Memo<(u8, Sight), Arc<Planned>>,
    judged: Memo<(u8, u32, Sight), Judged>,
    standing: Memo<(u32, Sight), bool>,
    lanes: Memo<u32, Arc<Lanes>>,
    tasks: RwLock<Vec<Arc<Task>>>,
    task_numbers: Memo<(u32, u32, bool), u32>,
    answers: Memo<(Sight, u8, u32, u32, u64, u32), Answer>,
    effects: Memo<(u32, u32, u32), Effect>,
    claims: Memo<(u8, u8, u8, u32, Sight, Phase), Claiming>,
    carried: Memo<(u32, u8, u32), (u32, Carried)>,
    violations: Memo<u32, bool>,
    quorums: Memo<u32, bool>,
}

impl Engine {
    /// For a world, operators' intents and what decides.
    ///
    /// # Panics
    /// When there are more than [`HOSTS_MAX`] machines.
    pub fn new(world: &World, intents: Vec<Intent>, decisions: Decisions) -> Self {
        let nodes: Vec<NodeName> = world.machines.keys().cloned().collect();
        assert!(nodes.len() <= HOSTS_MAX, "more hosts than a model has");
        Self {
            nodes,
            intents,
            decisions,
            template: world.clone(),
            machines: Interned::default(),
            clusters: Interned::default(),
            worlds: Interned::default(),
            reports: Interned::default(),
            plans: Interned::default(),
            stages: Interned::default(),
            turns: Interned::default(),
            sealed: Interned::default(),
            deeds: Memo::default(),
            ticks: Memo::default(),
            looks: Memo::default(),
            planned: Memo::default(),
            judged: Memo::default(),
            standing: Memo::default(),
            lanes: Memo::default(),
            tasks: RwLock::default(),
            task_numbers: Memo::default(),
            answers: Memo::default(),
            effects: Memo::default(),
            claims: Memo::default(),
            carried: Memo::default(),
            violations: Memo::default(),
            quorums: Memo::default(),
        }
    }

    /// It had no power from the beginning.
    pub(super) fn is_dead(&self, node: &NodeName) -> bool {
        self.template.machine(node).power == Power::Off
    }

    /// The place of a host in sights.
    pub(super) fn slot(&self, node: &NodeName) -> usize {
        let slot = self.nodes.iter().position(|known| known == node);
        slot.unwrap_or_else(|| panic!("{node} is not in this model"))
    }

    /// The number of a world that came about from the one of number `base`, with which it shares machines.
    pub(super) fn put(&self, base: u32, mut world: World) -> u32 {
        canonical(&mut world);
        let base = (base != 0).then(|| self.worlds.get(base));
        let mut parts = Parts {
            machines: [0; HOSTS_MAX],
            clusters: 0,
            authorities: world.authorities,
        };
        for (slot, machine) in world.machines.values().enumerate() {
            let old = base.as_ref().map_or(0, |base| base.machines[slot]);
            let same = old != 0 && Arc::ptr_eq(&self.machines.get(old), machine);
            parts.machines[slot] = if same {
                old
            } else {
                self.machines.put(machine.clone())
            };
        }
        parts.clusters = self.clusters.put(Arc::new(world.clusters));
        self.worlds.put(Arc::new(parts))
    }

    /// The world of that number.
    pub fn world(&self, number: u32) -> World {
        let parts = self.worlds.get(number);
        World {
            machines: self
                .nodes
                .iter()
                .zip(parts.machines)
                .map(|(node, machine)| (node.clone(), self.machines.get(machine)))
                .collect(),
            clusters: (*self.clusters.get(parts.clusters)).clone(),
            endpoint: self.template.endpoint.clone(),
            dns: self.template.dns,
            resolves: self.template.resolves.clone(),
            users_balancer: self.template.users_balancer,
            nlb: self.template.nlb.clone(),
            now_ms: CLOCK_MS,
            authorities: parts.authorities,
            // Outside the model's bounds.
            foreign: false,
        }
    }

    /// The next world that differs, when everything goes on by itself. The same one: it is at rest.
    pub(super) fn tick(&self, number: u32) -> u32 {
        self.ticks.get(number, || {
            let mut world = self.world(number);
            while world.tick() {
                let next = self.put(number, world.clone());
                if next != number {
                    return next;
                }
            }
            // Nothing moves any more, but leases go on getting old.
            world.now_ms += MINUTE_MS;
            self.put(number, world)
        })
    }

    /// What every host tells now.
    pub(super) fn look(&self, number: u32) -> Look {
        self.looks.get(number, || {
            let world = self.world(number);
            let mut look = Look::default();
            for (slot, node) in self.nodes.iter().enumerate() {
                let mut report = world.report(node);
                look.whole[slot] = self.reports.put(Arc::new(report.clone()));
                match &mut report {
                    Seen::Known { value, .. } => {
                        value.facts.fencing = Seen::now(Fencing::default());
                    }
                    Seen::Unknown(_) => look.unanswered = look.unanswered.with(slot),
                }
                look.bare[slot] = self.reports.put(Arc::new(report));
            }
            look
        })
    }

    /// What was seen, as the production code takes it. Only hosts of that intent are looked at.
    pub(super) fn observation(&self, sight: &Sight) -> Observation {
        let mut seen = Observation::default();
        for (slot, node) in self.nodes.iter().enumerate() {
            if sight.reports[slot] == 0 {
                continue;
            }
            let report = self.reports.get(sight.reports[slot]);
            let mut sightings = Sightings::default();
            match *report {
                Seen::Known { .. } => sightings.look(true, Duration::ZERO),
                Seen::Unknown(_) => {
                    let (looks, over) = SILENCE[usize::from(sight.silent.has(slot))];
                    for _ in 0..looks {
                        sightings.look(false, over / looks);
                    }
                }
            }
            seen.sightings.insert(node.clone(), sightings);
            seen.record(node, (*report).clone());
        }
        seen
    }

    /// Of a look, what an operator with that intent sees. `before`: hosts that did not answer at the look before either.
    pub(super) fn seen_by(&self, intent: u8, world: u32, before: Hosts) -> Sight {
        let look = self.look(world);
        self.sight(intent, look.bare, Hosts(look.unanswered.0 & before.0))
    }

    /// What every host tells, for an operator with that intent.
    pub(super) fn sight(&self, intent: u8, reports: [u32; HOSTS_MAX], silent: Hosts) -> Sight {
        let mut sight = Sight::default();
        for (node, ..) in self.intents[usize::from(intent)].machines() {
            let slot = self.slot(node);
            sight.reports[slot] = reports[slot];
            if silent.has(slot) {
                sight.silent = sight.silent.with(slot);
            }
        }
        sight
    }

    /// A host that does not answer.
    pub(super) fn unseen(&self, slot: usize) -> u32 {
        let what = format!("host {}", self.nodes[slot]);
        let report = Seen::Unknown(Missing::no_answer(what, "no answer"));
        self.reports.put(Arc::new(report))
    }

    /// What is wrong with a machine: its power, and whether it is cut off from anybody.
    pub(super) fn trouble(&self, world: u32, slot: usize) -> (Power, bool) {
        let machine = self.machines.get(self.worlds.get(world).machines[slot]);
        (machine.power, machine.isolated || machine.unreachable)
    }

    /// etcd clusters of a world.
    pub(super) fn etcd(&self, world: u32) -> Arc<BTreeMap<ClusterId, EtcdCluster>> {
        self.clusters.get(self.worlds.get(world).clusters)
    }

    /// A machine of a world.
    pub(super) fn machine(&self, world: u32, slot: usize) -> Arc<Machine> {
        self.machines.get(self.worlds.get(world).machines[slot])
    }

    /// What an effect was, see [`super::judge`].
    pub(super) fn effect(
        &self,
        before: u32,
        after: u32,
        task: u32,
        judge: impl FnOnce() -> Effect,
    ) -> Effect {
        self.effects.get((before, after, task), judge)
    }

    /// How far a claim is, see [`super::claims`].
    pub(super) fn claiming(&self, op: usize, own: &Op, ask: impl FnOnce() -> Claiming) -> Claiming {
        let op = u8::try_from(op).expect("few operators");
        let key = (op, own.run, own.intent, own.approved, own.sight, own.phase);
        self.claims.get(key, ask)
    }

    /// Something that must hold in every world does not.
    pub(super) fn violated(&self, world: u32) -> bool {
        self.violations
            .get(world, || !violations(&self.world(world)).is_empty())
    }

    /// Somebody can have something decided.
    pub(super) fn has_quorum(&self, world: u32) -> bool {
        self.quorums.get(world, || has_quorum(&self.world(world)))
    }

    /// What was kept so far, for people who look for what takes long.
    pub fn sizes(&self) -> String {
        format!(
            "{} worlds of {} machines and {} etcds, {} reports, {} plans, {} plannings, {} judgements, {} answers, {} effects",
            self.worlds.len(),
            self.machines.len(),
            self.clusters.len(),
            self.reports.len(),
            self.plans.len(),
            self.planned.len(),
            self.judged.len(),
            self.answers.len(),
            self.carried.len(),
        )
    }
}
