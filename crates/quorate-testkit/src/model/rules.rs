//! What may happen in a state, and what it leads to. Start at [`Rules::actions`] and [`Rules::next`].
//!
//! The world goes on by its own rules, hosts carry out what they accepted, and operators do what the runner does: look, plan afresh,
//! permit, ask for the next step of each lane, and look until it stands. What of that is a decision is the production code's; see
//! [`super::operator`].

use std::sync::atomic::AtomicBool;

use quorate_plan::{NodeName, observation::Power};

use super::{
    Asks, Bounds, Pace, Procedure,
    engine::{Carried, Decisions, Deed, Engine},
    judge,
    state::{Action, Broken, FAULTS, Fault, Hosts, InHand, NOBODY, OPERATORS, Op, Phase, State},
};

/// A procedure, its bounds, and what decides.
#[derive(Debug)]
pub struct Rules {
    /// What was computed so far.
    pub engine: Engine,
    /// What is asked of every state. Both, unless told.
    pub asks: Asks,
    pub(super) bounds: Bounds,
    /// Intents by operator.
    pub(super) wants: [Vec<u8>; OPERATORS],
    /// Hosts that faults strike.
    pub(super) masters: Vec<usize>,
    pub(super) start: u32,
    pub(super) quiet: super::quiet::Ends,
    /// Some run came to its goal.
    pub(super) done: AtomicBool,
}

impl Rules {
    /// For a procedure.
    pub fn new(procedure: &Procedure, bounds: Bounds, decisions: Decisions) -> Self {
        let engine = Engine::new(&procedure.world, procedure.intents.clone(), decisions);
        let start = engine.put(0, procedure.world.clone());
        let balances = |node: &NodeName| procedure.world.machine(node).disk.balancer.is_some();
        let masters = (0..engine.nodes.len())
            .filter(|slot| !balances(&engine.nodes[*slot]))
            .collect();
        Self {
            start,
            asks: Asks::Both,
            bounds,
            wants: procedure.wants.clone(),
            masters,
            quiet: super::quiet::Ends::default(),
            done: AtomicBool::new(false),
            engine,
        }
    }

    /// The state in which everything begins.
    pub fn first(&self) -> State {
        State {
            world: self.start,
            tasks: Default::default(),
            operators: Default::default(),
            spent: [0; FAULTS],
            broken: None,
        }
    }

    /// Nothing goes on by itself.
    pub(super) fn at_rest(&self, state: &State) -> bool {
        self.engine.tick(state.world) == state.world
    }

    pub(super) fn may(&self, state: &State, fault: Fault) -> bool {
        let all: u8 = state.spent.iter().sum();
        let kind = fault as usize;
        all < self.bounds.faults && state.spent[kind] < self.bounds.each[kind]
    }

    /// What may happen. Some of it may turn out to change nothing.
    pub fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_some() {
            return;
        }
        for op in 0..OPERATORS {
            self.actions_of(state, op, actions);
        }
        for (slot, in_hand) in state.tasks.iter().enumerate() {
            if in_hand.task == 0 {
                continue;
            }
            actions.push(Action::Work { slot });
            actions.push(Action::Expire { slot });
            if in_hand.by != NOBODY && self.may(state, Fault::LoseReply) {
                let fault = Fault::LoseReply;
                actions.push(Action::Strikes { slot, fault });
            }
        }
        if !self.at_rest(state) {
            actions.push(Action::Tick);
            if self.bounds.pace != Pace::Steps {
                actions.push(Action::Settle);
            }
        }
        self.strikes(state, actions);
    }

    /// What happens to hosts.
    fn strikes(&self, state: &State, actions: &mut Vec<Action>) {
        let faults = [
            Fault::PowerCut,
            Fault::Isolate,
            Fault::Cut,
            Fault::Hide,
            Fault::LoseData,
            Fault::LoseDisk,
            Fault::Alarm,
        ];
        let possible: Vec<Fault> = faults
            .into_iter()
            .filter(|fault| self.may(state, *fault))
            .collect();
        if possible.is_empty() && !state.struck() && !self.may(state, Fault::Return) {
            return;
        }
        for &slot in &self.masters {
            let (power, cut_off) = self.engine.trouble(state.world, slot);
            if power == Power::Off {
                let fault = Fault::Return;
                if !self.engine.is_dead(&self.engine.nodes[slot]) {
                    actions.push(Action::PowerOn { slot });
                } else if self.may(state, fault) {
                    actions.push(Action::Strikes { slot, fault });
                }
                continue;
            }
            if cut_off {
                actions.push(Action::Rejoin { slot });
            }
            for &fault in &possible {
                actions.push(Action::Strikes { slot, fault });
            }
        }
    }

    /// What it leads to. `None`: nothing changes.
    pub fn next(&self, state: &State, action: Action) -> Option<State> {
        let next = match action {
            Action::Begin { op, intent } => self.begin(state, op, intent),
            Action::Fence { op } => Some(self.fence(state, op).0),
            Action::Claim { op } => Some(self.claim(state, op).0),
            Action::Look { op } => self.look(state, op),
            Action::BadLook { op, slot, fault } => self.bad_look(state, op, slot, fault),
            Action::Ask { op, slot } => self.ask(state, op, slot),
            Action::GiveUp { op } => self.give_up(state, op),
            Action::Befalls { op, fault } => self.befalls(state, op, fault),
            Action::Work { slot } => self.work(state, slot),
            Action::Expire { slot } => self.expire(state, slot),
            Action::Strikes { slot, fault } => self.strike(state, slot, fault),
            Action::Tick => {
                let world = self.engine.tick(state.world);
                (world != state.world).then(|| self.in_world(state, world))
            }
            Action::Settle => {
                let mut world = state.world;
                loop {
                    match self.engine.tick(world) {
                        next if next == world => break,
                        next => world = next,
                    }
                }
                (world != state.world).then(|| self.in_world(state, world))
            }
            Action::PowerOn { slot } => Some(self.done(state, Deed::PowerOn { slot })),
            Action::Rejoin { slot } => Some(self.done(state, Deed::Rejoin { slot })),
            Action::Stride { op } => self.stride(state, op),
        }?;
        (next != *state).then_some(next)
    }

    fn done(&self, state: &State, deed: Deed) -> State {
        self.in_world(state, self.engine.deed(state.world, deed).0)
    }

    /// The same in another world, which is judged.
    pub(super) fn in_world(&self, state: &State, world: u32) -> State {
        let mut next = state.clone();
        next.world = world;
        if self.engine.violated(world) {
            next.broken.get_or_insert(Broken::World);
        }
        next
    }

    fn strike(&self, state: &State, slot: usize, fault: Fault) -> Option<State> {
        let mut next = state.clone();
        next.spent[fault as usize] += 1;
        if fault == Fault::LoseReply {
            next.tasks[slot].by = NOBODY;
            return Some(next);
        }
        next.world = self
            .engine
            .deed(state.world, Deed::Strike { slot, fault })
            .0;
        // A fault that by itself takes the data of a majority away is beyond what anybody promises.
        if next.world == state.world || self.engine.violated(next.world) {
            return None;
        }
        match fault {
            Fault::PowerCut | Fault::LoseData | Fault::LoseDisk => {
                next.tasks[slot] = InHand::default();
            }
            Fault::Kill
            | Fault::Sleep
            | Fault::LoseReply
            | Fault::StaleLook
            | Fault::Silence
            | Fault::Isolate
            | Fault::Cut
            | Fault::Hide
            | Fault::Alarm
            | Fault::Return => {}
        }
        Some(next)
    }

    fn work(&self, state: &State, slot: usize) -> Option<State> {
        let in_hand = state.tasks[slot];
        let (world, carried) = self.engine.carry(state.world, slot, in_hand.task);
        let mut next = self.in_world(state, world);
        if world != state.world {
            let broken = judge::effect(self, state, &next, slot);
            next.broken = next.broken.or(broken);
        }
        match carried {
            Carried::NotYet => return Some(next),
            Carried::Done => {
                next.tasks[slot] = InHand::default();
                if in_hand.by != NOBODY {
                    self.made(&mut next, usize::from(in_hand.by), slot);
                }
            }
            Carried::Failed => {
                next.tasks[slot] = InHand::default();
                if in_hand.by != NOBODY {
                    self.end(&mut next, usize::from(in_hand.by), false);
                }
            }
        }
        Some(next)
    }

    /// What a host waits for does not come.
    fn expire(&self, state: &State, slot: usize) -> Option<State> {
        let in_hand = state.tasks[slot];
        let stuck =
            self.engine.carry(state.world, slot, in_hand.task) == (state.world, Carried::NotYet);
        if !stuck || !self.at_rest(state) {
            return None;
        }
        let mut next = state.clone();
        next.tasks[slot] = InHand::default();
        if in_hand.by != NOBODY {
            self.end(&mut next, usize::from(in_hand.by), false);
        }
        Some(next)
    }

    /// An operator's process is over. Its claim stays on hosts where something was begun, unless everything is done.
    pub(super) fn end(&self, state: &mut State, op: usize, done: bool) {
        let ends = state.operators[op];
        let release = done || !ends.acted;
        let deed = Deed::End {
            op,
            run: ends.run,
            fence: ends.fence,
            release: if release {
                ends.acknowledged
            } else {
                Hosts::default()
            },
        };
        state.world = self.engine.deed(state.world, deed).0;
        for in_hand in &mut state.tasks {
            if in_hand.awaited_by(op) {
                in_hand.by = NOBODY;
            }
        }
        state.operators[op] = Op {
            run: ends.run,
            phase: Phase::Away,
            ..Op::default()
        };
    }
}
