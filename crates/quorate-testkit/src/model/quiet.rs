//! With faults stopped, every run comes to an end: done, or refused by name. Start at [`Rules::comes_to_an_end`].
//!
//! From a state on, machines get their power back and networks heal, operators that are at work are gone, and whoever's operation is in
//! force begins anew and is let alone. That is one path, walked to its end with the same actions as all others; a world that was on the
//! way of an earlier walk is not walked from again.

use quorate_plan::refusal::RefusalCode;

use super::{
    engine::{Deed, Judged},
    intern::{Memo, quick},
    rules::Rules,
    state::{Action, Broken, FAULTS, Fault, Hosts, InHand, NOBODY, OPERATORS, Op, Phase, State},
};

/// More actions than any walk takes: one that takes more goes round in circles.
const WALK_MAX: usize = 2000;

/// The number of the first of these runs: later than all others.
const RUN_FIRST: u8 = 100;

/// Runs that may be needed: one that finishes what another began, and one more for what could not be seen before.
const RUNS_MAX: u8 = 4;

/// Ends of walks, by states on their way.
pub(super) type Ends = Memo<u64, Option<Broken>>;

impl Rules {
    /// What is wrong with the end to which everything comes from here, if there is one.
    pub(super) fn comes_to_an_end(&self, state: &State) -> Option<Broken> {
        let mut at = self.quieted(state);
        let mut way = Vec::new();
        let end = loop {
            let key = quick(&at);
            if let Some(end) = self.quiet.known(&key) {
                break end;
            }
            way.push(key);
            if way.len() > WALK_MAX {
                break Some(Broken::NoEnd);
            }
            match self.quiet_step(&at) {
                Walk::On(_, next) => {
                    if next.broken.is_some() {
                        break next.broken;
                    }
                    at = next;
                }
                Walk::End(end) => break end,
            }
        };
        for key in way {
            self.quiet.put(key, end);
        }
        end
    }

    /// The walk from here on, for people: each action with what it leads to.
    pub(super) fn quiet_way(
        &self,
        state: &State,
    ) -> (Vec<(Option<Action>, State)>, Option<Broken>) {
        let mut way = vec![(None, self.quieted(state))];
        while way.len() <= WALK_MAX {
            let (_, at) = way.last().expect("it has a beginning");
            match self.quiet_step(at) {
                Walk::On(action, next) => {
                    let broken = next.broken;
                    way.push((Some(action), next));
                    if broken.is_some() {
                        return (way, broken);
                    }
                }
                Walk::End(end) => return (way, end),
            }
        }
        (way, Some(Broken::NoEnd))
    }

    /// The same without operators, and with everything switched on and connected.
    fn quieted(&self, state: &State) -> State {
        let mut at = state.clone();
        let runs = state.operators.map(|own| own.run);
        at.world = self.engine.deed(state.world, Deed::Quiet { runs }).0;
        for in_hand in &mut at.tasks {
            if in_hand.task != 0 {
                in_hand.by = NOBODY;
                in_hand.permitted = 0;
            }
        }
        at.operators = [Op {
            run: RUN_FIRST,
            ..Op::default()
        }; OPERATORS];
        // What was lost or failed counts for what may be so in the end, by whether and not by how often.
        at.spent = [0; FAULTS];
        at.spent[Fault::LoseData as usize] = u8::from(state.lost());
        at.spent[Fault::PowerCut as usize] = u8::from(state.struck());
        at
    }

    /// Who goes on: whose operation has the highest token, or the first.
    pub(super) fn successor(&self, state: &State) -> (usize, u8) {
        let world = self.engine.world(state.world);
        let claim = world
            .machines
            .values()
            .filter_map(|machine| machine.disk.claim.as_ref())
            .max_by_key(|claim| claim.fence);
        let Some(claim) = claim else {
            return (0, self.wants[0][0]);
        };
        let op = usize::from(claim.operator.user == "bob");
        let intent = self
            .engine
            .intents
            .iter()
            .position(|intent| *intent == claim.intent);
        let intent = intent.expect("operators want what the model has");
        (op, u8::try_from(intent).expect("few intents"))
    }

    fn quiet_step(&self, state: &State) -> Walk {
        let busy = (0..self.engine.nodes.len()).find(|slot| state.tasks[*slot].task != 0);
        let acting = (0..OPERATORS).find(|op| state.operators[*op].phase != Phase::Away);
        let mut actions = Vec::new();
        actions.extend(busy.map(|slot| Action::Work { slot }));
        match acting.map(|op| (op, state.operators[op].phase)) {
            Some((op, Phase::Approved)) => actions.push(Action::Fence { op }),
            Some((op, Phase::Claiming { .. })) => actions.push(Action::Claim { op }),
            Some((op, Phase::Looking)) => actions.push(Action::Look { op }),
            Some((op, Phase::Acting)) => {
                let asks = (0..self.engine.nodes.len()).map(|slot| Action::Ask { op, slot });
                actions.extend(asks.filter(|ask| self.is_open(state, *ask)));
                actions.push(Action::Look { op });
            }
            Some((_, Phase::Away)) | None => {}
        }
        // What goes on by itself goes on before a new run begins.
        actions.push(Action::Tick);
        actions.extend(busy.map(|slot| Action::Expire { slot }));
        actions.extend(acting.map(|op| Action::GiveUp { op }));
        for action in actions {
            if let Some(next) = self.next(state, action) {
                let refused = acting.and_then(|op| self.refusal(state, action, op));
                return match refused {
                    Some(code) if is_named(code, state) => Walk::End(None),
                    Some(_) | None => Walk::On(action, next),
                };
            }
        }
        if acting.is_some() || busy.is_some() {
            return Walk::End(Some(Broken::NoEnd));
        }
        self.quiet_begin(state)
    }

    fn is_open(&self, state: &State, ask: Action) -> bool {
        let Action::Ask { op, slot } = ask else {
            return false;
        };
        let own = &state.operators[op];
        let lanes = self.engine.lanes(own.stage);
        usize::from(own.stood[slot]) < lanes.turns[slot].len()
            && !own.made.has(slot)
            && state.tasks[slot] == InHand::default()
    }

    fn quiet_begin(&self, state: &State) -> Walk {
        let (op, intent) = self.successor(state);
        let planned = self.considered(state.world, intent);
        if let Some(refusal) = planned.planning.refused.first() {
            let named = is_named(refusal.code(), state);
            return Walk::End((!named).then_some(Broken::NoEnd));
        }
        if planned.planning.plan.is_empty() {
            return Walk::End(match planned.planning.waiting.is_empty() {
                true => super::judge::done(self, state.world, intent),
                // It says what it waits for: as good as what was not seen, and as bad.
                false => (!is_named(RefusalCode::Missing, state)).then_some(Broken::NoEnd),
            });
        }
        if state.operators[op].run >= RUN_FIRST + RUNS_MAX {
            return Walk::End(Some(Broken::NoEnd));
        }
        match self.begin(state, op, intent) {
            Some(next) => Walk::On(Action::Begin { op, intent }, next),
            None => Walk::End(Some(Broken::NoEnd)),
        }
    }

    /// What refuses it, when an action ends a run.
    pub(super) fn refusal(&self, state: &State, action: Action, op: usize) -> Option<RefusalCode> {
        let own = &state.operators[op];
        match (action, own.phase) {
            (Action::Fence { .. }, _) => self.fence(state, op).1,
            (Action::Claim { .. }, _) => self.claim(state, op).1,
            (Action::GiveUp { .. }, Phase::Looking) => {
                let sight = self.engine.seen_by(own.intent, state.world, Hosts::ALL);
                match self.engine.judged(own.intent, own.approved, &sight) {
                    Judged::Trouble(code) => code,
                    Judged::Nothing | Judged::More | Judged::Stage(_) => None,
                }
            }
            (Action::Ask { slot, .. }, _) => self.refused(state, op, slot),
            _ => None,
        }
    }

    /// An operator goes on alone until its stage is over, or what comes before the first, or it is away.
    pub(super) fn stride(&self, state: &State, op: usize) -> Option<State> {
        self.strides(state, op).pop().map(|(_, end)| end)
    }

    /// What an operator does on its way there, and what each leads to. Empty: it does not get there alone.
    pub(super) fn strides(&self, state: &State, op: usize) -> Vec<(Action, State)> {
        let mut way: Vec<(Action, State)> = Vec::new();
        while way.len() < WALK_MAX {
            let at = way.last().map_or(state, |(_, at)| at);
            let Some((action, next)) = self
                .stride_actions(at, op)
                .into_iter()
                .find_map(|action| Some((action, self.next(at, action)?)))
            else {
                return Vec::new();
            };
            let (before, after) = (at.operators[op].phase, next.operators[op].phase);
            let arrived = match after {
                Phase::Looking => before != Phase::Looking,
                Phase::Away => true,
                Phase::Approved | Phase::Claiming { .. } | Phase::Acting => false,
            };
            let broken = next.broken.is_some();
            way.push((action, next));
            if arrived || broken {
                return way;
            }
        }
        Vec::new()
    }

    fn stride_actions(&self, at: &State, op: usize) -> Vec<Action> {
        let own = &at.operators[op];
        let mut actions = Vec::new();
        let asked = at.tasks.iter().position(|in_hand| in_hand.awaited_by(op));
        actions.extend(asked.map(|slot| Action::Work { slot }));
        match own.phase {
            Phase::Approved => actions.push(Action::Fence { op }),
            Phase::Claiming { .. } => actions.push(Action::Claim { op }),
            Phase::Looking => actions.push(Action::Look { op }),
            Phase::Acting => {
                let asks = (0..self.engine.nodes.len()).map(|slot| Action::Ask { op, slot });
                actions.extend(asks.filter(|ask| self.is_open(at, *ask)));
                actions.push(Action::Look { op });
            }
            Phase::Away => {}
        }
        actions.push(Action::Tick);
        actions
    }
}

/// Whether a refusal is an end: it says what is wrong. That something was not seen does, where somebody's data is gone for good; that the
/// plan is another one does not, since it is approved and gone on with.
fn is_named(code: RefusalCode, state: &State) -> bool {
    match code {
        RefusalCode::Missing => state.lost(),
        RefusalCode::PlanDeparted => false,
        _ => true,
    }
}

#[expect(clippy::large_enum_variant, reason = "one at a time, and never kept")]
enum Walk {
    On(Action, State),
    End(Option<Broken>),
}
