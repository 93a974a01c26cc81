//! An operator's process: the runner's loop, one action at a time. Start at [`Rules::actions_of`].
//!
//! What the runner does at once or in a fixed order is one action here; wherever something else may happen in between there are two.
//! Time is not counted: looks may be as old as it takes for anything within the bounds to have happened since, and waiting ends when
//! nothing goes on by itself any more.

use std::sync::{Arc, atomic::Ordering};

use quorate_plan::{Operator, refusal::RefusalCode};

use super::{
    Pace,
    engine::{Answer, Asked, Deed, Judged, Outcome, Planned, Sight},
    judge,
    rules::Rules,
    state::{Action, Broken, Fault, Hosts, InHand, NOBODY, OPERATORS, Op, Phase, State},
};

/// Who an operator is in its run of that number.
pub(super) fn identity(op: usize, run: u8) -> Operator {
    let user = ["ada", "bob"][op];
    Operator {
        user: user.into(),
        machine: format!("{user}'s laptop"),
        pid: 100 * (op as u32 + 1) + u32::from(run),
        run: format!("{user}-{run}"),
    }
}

impl Rules {
    /// What an operator may do, and what may happen to it.
    pub(super) fn actions_of(&self, state: &State, op: usize, actions: &mut Vec<Action>) {
        let own = &state.operators[op];
        let may = |fault| self.may(state, fault);
        match own.phase {
            Phase::Away => {
                if own.run < self.bounds.runs[op] {
                    for &intent in &self.wants[op] {
                        actions.push(Action::Begin { op, intent });
                    }
                }
                return;
            }
            Phase::Approved | Phase::Claiming { .. } | Phase::Looking | Phase::Acting
                if self.bounds.pace == Pace::Strides => {}
            Phase::Approved => actions.push(Action::Fence { op }),
            Phase::Claiming { .. } => actions.push(Action::Claim { op }),
            Phase::Looking => {
                actions.push(Action::Look { op });
                actions.push(Action::GiveUp { op });
            }
            Phase::Acting => {
                actions.push(Action::Look { op });
                let lanes = self.engine.lanes(own.stage);
                for (slot, turns) in lanes.turns.iter().enumerate() {
                    let next = usize::from(own.stood[slot]);
                    if next < turns.len() && !own.made.has(slot) && state.tasks[slot].task == 0 {
                        actions.push(Action::Ask { op, slot });
                    }
                }
                actions.push(Action::GiveUp { op });
            }
        }
        if matches!(own.phase, Phase::Looking | Phase::Acting) {
            for fault in [Fault::StaleLook, Fault::Silence] {
                if may(fault) {
                    for &slot in &self.masters {
                        actions.push(Action::BadLook { op, slot, fault });
                    }
                }
            }
        }
        for fault in [Fault::Kill, Fault::Sleep] {
            if may(fault) {
                actions.push(Action::Befalls { op, fault });
            }
        }
        if self.bounds.pace != Pace::Steps {
            actions.push(Action::Stride { op });
        }
    }

    /// Looks, plans, and approves what was planned. Where there is nothing to do or something is refused no run begins.
    pub(super) fn begin(&self, state: &State, op: usize, intent: u8) -> Option<State> {
        let planned = self.considered(state.world, intent);
        if !planned.planning.refused.is_empty() {
            return None;
        }
        let mut next = state.clone();
        if planned.planning.plan.is_empty() && !planned.planning.waiting.is_empty() {
            return None;
        }
        if planned.planning.plan.is_empty() {
            // Nothing is begun; but to say so must be right.
            next.broken = judge::done(self, state.world, intent);
            return next.broken.is_some().then_some(next);
        }
        if !planned.findings.is_empty() {
            next.broken = Some(Broken::Lint);
        }
        next.operators[op] = Op {
            phase: Phase::Approved,
            run: state.operators[op].run + 1,
            intent,
            approved: planned.plan,
            ..Op::default()
        };
        Some(next)
    }

    /// What is planned for the operator to approve: who does not answer is looked at for a while when that decides something.
    pub(super) fn considered(&self, world: u32, intent: u8) -> Arc<Planned> {
        let once = self.engine.seen_by(intent, world, Hosts::default());
        let planned = self.engine.planned(intent, &once);
        let planning = &planned.planning;
        let waits =
            planning.plan.is_empty() && planning.refused.is_empty() && !planning.waiting.is_empty();
        if waits {
            let sight = self.engine.seen_by(intent, world, Hosts::ALL);
            return self.engine.planned(intent, &sight);
        }
        planned
    }

    /// The run begins: it looks and plans afresh, and asks for the fence. With another operator about, hosts answer one by one.
    pub(super) fn fence(&self, state: &State, op: usize) -> (State, Option<RefusalCode>) {
        let own = state.operators[op];
        let look = self.engine.look(state.world);
        // Before it gives up it has looked for a while.
        let sight = self.engine.seen_by(own.intent, state.world, Hosts::ALL);
        let mut next = state.clone();
        match self.engine.judged(own.intent, own.approved, &sight) {
            Judged::Stage(_) => {}
            Judged::Nothing => {
                self.end(&mut next, op, true);
                return (next, None);
            }
            Judged::More => {
                self.end(&mut next, op, false);
                return (next, None);
            }
            Judged::Trouble(code) => {
                self.end(&mut next, op, false);
                return (next, code);
            }
        }
        next.operators[op].phase = Phase::Claiming {
            ok: Hosts::default(),
            refused: Hosts::default(),
            silent: Hosts::default(),
        };
        next.operators[op].sight = self.engine.sight(own.intent, look.whole, look.unanswered);
        next.operators[op].unanswered = look.unanswered;
        let alone = (0..OPERATORS).all(|other| {
            other == op
                || (next.operators[other].phase == Phase::Away
                    && next.operators[other].run >= self.bounds.runs[other])
        });
        let mut code = None;
        while alone && matches!(next.operators[op].phase, Phase::Claiming { .. }) {
            (next, code) = self.claim(&next, op);
        }
        (next, code)
    }

    /// Looks at everything. Between stages that is followed by planning afresh.
    pub(super) fn look(&self, state: &State, op: usize) -> Option<State> {
        let own = &state.operators[op];
        let sight = self.engine.seen_by(own.intent, state.world, own.unanswered);
        let unanswered = self.engine.look(state.world).unanswered;
        self.looked(state, op, sight, unanswered)
    }

    /// The same, but one host does not answer, or with what was so at the last look.
    pub(super) fn bad_look(
        &self,
        state: &State,
        op: usize,
        slot: usize,
        fault: Fault,
    ) -> Option<State> {
        let own = &state.operators[op];
        let look = self.engine.look(state.world);
        let mut sight = self.engine.seen_by(own.intent, state.world, own.unanswered);
        let mut unanswered = look.unanswered;
        let report = &mut sight.reports[slot];
        if *report == 0 {
            return None;
        }
        *report = match (fault, own.sight.reports[slot]) {
            (Fault::StaleLook, 0) => return None,
            (Fault::StaleLook, old) => old,
            _ => {
                unanswered = unanswered.with(slot);
                if own.unanswered.has(slot) {
                    sight.silent = sight.silent.with(slot);
                }
                self.engine.unseen(slot)
            }
        };
        let mut next = self.looked(state, op, sight, unanswered)?;
        next.spent[fault as usize] += 1;
        Some(next)
    }

    fn looked(&self, state: &State, op: usize, sight: Sight, unanswered: Hosts) -> Option<State> {
        let own = state.operators[op];
        let mut next = state.clone();
        next.operators[op].unanswered = unanswered;
        if own.phase == Phase::Acting {
            next.operators[op].sight = sight;
            self.advance(&mut next, op);
            return Some(next);
        }
        match self.engine.judged(own.intent, own.approved, &sight) {
            Judged::Nothing => {
                next.broken = judge::done(self, state.world, own.intent);
                self.end(&mut next, op, true);
                self.done.store(true, Ordering::Relaxed);
            }
            Judged::Stage(stage) => {
                let own = &mut next.operators[op];
                own.phase = Phase::Acting;
                own.stage = stage;
                own.sight = sight;
                self.advance(&mut next, op);
            }
            // It waits and looks again.
            Judged::More | Judged::Trouble(_) => {}
        }
        Some(next)
    }

    /// Passes over the steps that stand in what was seen. With all of them standing the runner looks and plans afresh.
    fn advance(&self, state: &mut State, op: usize) {
        let own = &mut state.operators[op];
        let lanes = self.engine.lanes(own.stage);
        let mut left = false;
        for (slot, turns) in lanes.turns.iter().enumerate() {
            while let Some(turn) = turns.get(usize::from(own.stood[slot]))
                && !state.tasks[slot].awaited_by(op)
                && self.engine.stands(*turn, &own.sight)
            {
                own.stood[slot] += 1;
                own.made = own.made.without(slot);
            }
            left |= usize::from(own.stood[slot]) < turns.len();
        }
        if !left {
            own.phase = Phase::Looking;
            own.stage = 0;
            own.stood = Default::default();
            own.made = Hosts::default();
            own.sight = Sight::default();
        }
    }

    /// A host is done with what this operator asked of it, and says so.
    pub(super) fn made(&self, state: &mut State, op: usize, slot: usize) {
        let report = self.engine.look(state.world).bare[slot];
        let own = &mut state.operators[op];
        own.made = own.made.with(slot);
        own.sight.reports[slot] = report;
        own.sight.silent = own.sight.silent.without(slot);
        own.unanswered = own.unanswered.without(slot);
        self.advance(state, op);
    }

    /// Asks a host for the next step of its lane: the fence there, what others hand over, and the end state.
    pub(super) fn ask(&self, state: &State, op: usize, slot: usize) -> Option<State> {
        let own = state.operators[op];
        let lanes = self.engine.lanes(own.stage);
        let turn = *lanes.turns[slot].get(usize::from(own.stood[slot]))?;
        let step = &self.engine.turn(turn).step;
        let mut next = state.clone();
        next.operators[op].acted = true;
        let mut sealed = 0;
        let giver = step
            .handover
            .as_ref()
            .map(|what| self.engine.slot(what.from()));
        for host in [Some(slot), giver].into_iter().flatten() {
            match self.claim_on(&mut next, op, host) {
                Outcome::Done | Outcome::Sealed(_) => {}
                Outcome::Gone => return None,
                Outcome::Refused | Outcome::Failed => {
                    self.end(&mut next, op, false);
                    return Some(next);
                }
            }
        }
        if giver.is_some() {
            let fence = own.fence;
            let (world, outcome) = self
                .engine
                .deed(next.world, Deed::Seal { slot, turn, fence });
            next.world = world;
            match outcome {
                Outcome::Sealed(number) => sealed = number,
                Outcome::Gone => return None,
                Outcome::Done | Outcome::Refused | Outcome::Failed => {
                    self.end(&mut next, op, false);
                    return Some(next);
                }
            }
        }
        let asked = Asked {
            turn,
            fence: own.fence,
            sight: own.sight,
            sealed,
        };
        match self.engine.answer(next.world, slot, &asked) {
            Answer::Task(task) => {
                next.broken = judge::accepted(self, &next, op, slot, turn);
                next.tasks[slot] = InHand {
                    task,
                    by: op as u8,
                    permitted: judge::permitted(self, next.world, turn),
                };
            }
            // It asks again when something has changed, or gives up.
            Answer::Silent | Answer::Refused(RefusalCode::Missing) => return None,
            Answer::Refused(_) | Answer::Failed => self.end(&mut next, op, false),
        }
        Some(next)
    }

    /// The code by which a host refuses what an operator asks of it now, when it does.
    pub(super) fn refused(&self, state: &State, op: usize, slot: usize) -> Option<RefusalCode> {
        let own = &state.operators[op];
        let lanes = self.engine.lanes(own.stage);
        let turn = *lanes.turns[slot].get(usize::from(own.stood[slot]))?;
        let asked = Asked {
            turn,
            fence: own.fence,
            sight: own.sight,
            sealed: 0,
        };
        match self.engine.answer(state.world, slot, &asked) {
            Answer::Refused(code) => Some(code),
            Answer::Task(_) | Answer::Failed | Answer::Silent => None,
        }
    }

    /// Takes the fence on one more host, where that was not done yet.
    fn claim_on(&self, state: &mut State, op: usize, slot: usize) -> Outcome {
        let own = state.operators[op];
        if own.acknowledged.has(slot) {
            return Outcome::Done;
        }
        let deed = Deed::Claim {
            slot,
            op,
            run: own.run,
            intent: own.intent,
            fence: own.fence,
        };
        let (world, outcome) = self.engine.deed(state.world, deed);
        state.world = world;
        if outcome == Outcome::Done {
            state.operators[op].acknowledged = own.acknowledged.with(slot);
        }
        outcome
    }

    /// Nothing goes on by itself and nothing can be done: waiting ends some time.
    pub(super) fn give_up(&self, state: &State, op: usize) -> Option<State> {
        if !self.at_rest(state) {
            return None;
        }
        let own = state.operators[op];
        // Before it gives up it has looked for a while.
        let sight = self.engine.seen_by(own.intent, state.world, Hosts::ALL);
        let judged = self.engine.judged(own.intent, own.approved, &sight);
        let stuck = match own.phase {
            Phase::Looking => matches!(judged, Judged::Trouble(_) | Judged::More),
            Phase::Acting => {
                let waits = state.tasks.iter().any(|in_hand| in_hand.awaited_by(op));
                let lanes = self.engine.lanes(own.stage);
                let goes_on = |slot: usize| {
                    usize::from(own.stood[slot]) < lanes.turns[slot].len()
                        && !own.made.has(slot)
                        && (state.tasks[slot].task != 0 || self.ask(state, op, slot).is_some())
                };
                own.sight == sight && !waits && !(0..lanes.turns.len()).any(goes_on)
            }
            Phase::Away | Phase::Approved | Phase::Claiming { .. } => false,
        };
        stuck.then(|| {
            let mut next = state.clone();
            let more = own.phase == Phase::Looking && matches!(judged, Judged::More);
            self.end(&mut next, op, more);
            next
        })
    }

    /// A fault of an operator's process.
    pub(super) fn befalls(&self, state: &State, op: usize, fault: Fault) -> Option<State> {
        let own = state.operators[op];
        let mut next = state.clone();
        next.spent[fault as usize] += 1;
        let deed = Deed::End {
            op,
            run: own.run,
            fence: own.fence,
            release: Hosts::default(),
        };
        next.world = self.engine.deed(state.world, deed).0;
        if fault == Fault::Sleep {
            // It goes on when it is its turn again. Without a channel there is nothing for a host to notice.
            return (next.world != state.world).then_some(next);
        }
        for in_hand in &mut next.tasks {
            if in_hand.awaited_by(op) {
                in_hand.by = NOBODY;
            }
        }
        next.operators[op] = Op {
            run: own.run,
            ..Op::default()
        };
        Some(next)
    }
}
