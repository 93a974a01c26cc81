//! A way through the model as a story that a person can read: one numbered line for each action. Start at [`Rules::story`].

use std::fmt::Write as _;

use quorate_plan::{Ensure, Place, Planning, Step};

use super::{
    Action, Broken, Fault, Rules, State,
    engine::{Carried, Judged},
    operator::identity,
    state::{Hosts, Phase},
};

impl Rules {
    /// A way, as [`super::check`] gives it. What an action of several is made of stands below it.
    pub fn story(&self, way: &[(State, Option<Action>)]) -> String {
        let mut out = String::new();
        let mut number = 0;
        for (at, (state, action)) in way.iter().enumerate() {
            let Some(action) = action else { continue };
            number += 1;
            let after = &way[at + 1].0;
            match action {
                Action::Stride { op } => {
                    let told = format!("{} goes on alone:", user(*op));
                    line(&mut out, number, &told);
                    let mut from = state.clone();
                    for (action, to) in self.strides(state, *op) {
                        let told = self.tell(&from, action, &to);
                        writeln!(out, "      {told}").expect("a String takes everything");
                        from = to;
                    }
                }
                other => line(&mut out, number, &self.tell(state, *other, after)),
            }
        }
        if let Some((last, _)) = way.last() {
            if last.broken == Some(Broken::Lint) {
                self.tell_findings(&mut out, last);
            }
            match last.broken {
                Some(broken) => writeln!(out, "    => {}", broken.text()),
                None => writeln!(out, "{}", self.quiet_story(last)),
            }
            .expect("a String takes everything");
        }
        out
    }

    /// What the lint finds in the plan that was just to be approved.
    fn tell_findings(&self, out: &mut String, state: &State) {
        let approved = |own: &&super::state::Op| own.phase == Phase::Approved;
        for own in state.operators.iter().filter(approved) {
            let planned = self.considered(state.world, own.intent);
            for finding in &planned.findings {
                writeln!(out, "      {finding}").expect("a String takes everything");
            }
            for stage in &planned.planning.plan.stages {
                writeln!(out, "      | {}", stage.title).expect("a String takes everything");
                for step in &stage.steps {
                    let step = crate::render::step(step);
                    writeln!(out, "      |    {step}").expect("a String takes everything");
                }
            }
        }
    }

    /// What happens from here when faults have stopped.
    fn quiet_story(&self, state: &State) -> String {
        let mut out = String::from("    => from here faults stop, and:\n");
        let (way, end) = self.quiet_way(state);
        let mut from: Option<State> = None;
        for (action, to) in way {
            let told = match (action, &from) {
                (Some(action), Some(from)) => self.tell(from, action, &to),
                _ => "power and network are back, nobody is at it".into(),
            };
            writeln!(out, "      {told}").expect("a String takes everything");
            from = Some(to);
        }
        if let Some(last) = from.filter(|_| end == Some(Broken::NoEnd)) {
            let (_, intent) = self.successor(&last);
            let Planning {
                waiting, refused, ..
            } = &self.considered(last.world, intent).planning;
            let told = refused.iter().map(ToString::to_string);
            for text in told.chain(waiting.iter().map(|waiting| format!("it waits: {waiting}"))) {
                writeln!(out, "      {text}").expect("a String takes everything");
            }
        }
        write!(out, "    => {}", end.map_or("all is well", Broken::text))
            .expect("a String takes everything");
        out
    }

    fn step(&self, turn: u32) -> String {
        let turn = self.engine.turn(turn);
        let Step { on, ensure, .. } = &turn.step;
        match (on, ensure) {
            (Place::Host(node), Ensure::Host(ensure)) => format!("{node}: {ensure}"),
            (on, ensure) => format!("{on}: {ensure}"),
        }
    }

    /// One action in one line.
    pub(super) fn tell(&self, before: &State, action: Action, after: &State) -> String {
        let node = |slot: usize| self.engine.nodes[slot].to_string();
        let ended = |op: usize| {
            let was = before.operators[op].phase;
            was != Phase::Away && after.operators[op].phase == Phase::Away
        };
        match action {
            Action::Begin { op, intent } if after.operators[op].phase == Phase::Away => {
                let goal = &self.engine.intents[usize::from(intent)].goal;
                format!("{} plans `{goal}`: nothing to do", user(op))
            }
            Action::Begin { op, intent } => {
                let goal = &self.engine.intents[usize::from(intent)].goal;
                let plan = self.engine.plans.get(after.operators[op].approved.max(1));
                let stages = plan.stages.len();
                format!("{} plans `{goal}` and approves {stages} stages", user(op))
            }
            Action::Fence { op } if ended(op) => {
                format!(
                    "{}'s run begins and ends: {}",
                    user(op),
                    self.why(before, op)
                )
            }
            Action::Fence { op } => match after.operators[op].phase {
                Phase::Claiming { .. } => {
                    format!("{}'s run begins: it asks for the fence", user(op))
                }
                _ => format!(
                    "{}'s run begins: it takes the fence, token {}",
                    user(op),
                    after.operators[op].fence
                ),
            },
            Action::Claim { op } if ended(op) => format!("{} does not get the fence", user(op)),
            Action::Claim { op } => match after.operators[op].phase {
                Phase::Looking => {
                    format!(
                        "{} has the fence, token {}",
                        user(op),
                        after.operators[op].fence
                    )
                }
                _ => format!("one more host answers {}'s claim", user(op)),
            },
            Action::Look { op } | Action::BadLook { op, .. } => {
                let how = match action {
                    Action::BadLook {
                        slot,
                        fault: Fault::StaleLook,
                        ..
                    } => format!(", at {} as it was before", node(slot)),
                    Action::BadLook { slot, .. } => format!(", {} does not answer", node(slot)),
                    _ => String::new(),
                };
                let now = match (before.operators[op].phase, after.operators[op].phase) {
                    (_, Phase::Away) => "; nothing is left to do".into(),
                    (Phase::Looking, Phase::Acting) => {
                        let lanes = self.engine.lanes(after.operators[op].stage);
                        format!("; next is `{}`", lanes.title)
                    }
                    _ => String::new(),
                };
                format!("{} looks{how}{now}", user(op))
            }
            Action::Ask { op, slot } => {
                let own = &before.operators[op];
                let lanes = self.engine.lanes(own.stage);
                let turn = lanes.turns[slot][usize::from(own.stood[slot])];
                let end = if ended(op) {
                    "; it says no, and the run ends"
                } else {
                    ""
                };
                format!("{} asks {}{end}", user(op), self.step(turn))
            }
            Action::Work { slot } => {
                let task = before.tasks[slot].task;
                let turn = self.engine.task_of(task).turn;
                match self.engine.carry(before.world, slot, task).1 {
                    Carried::Done => format!("done on {}", self.step(turn)),
                    Carried::NotYet => format!("begun on {}", self.step(turn)),
                    Carried::Failed => format!("failed on {}", self.step(turn)),
                }
            }
            Action::Expire { slot } => {
                let turn = self.engine.task_of(before.tasks[slot].task).turn;
                format!("given up after waiting on {}", self.step(turn))
            }
            Action::GiveUp { op } => {
                format!("{} gives up: {}", user(op), self.why(before, op))
            }
            Action::Tick => "time passes".into(),
            Action::Settle => "time passes, until nothing changes any more".into(),
            Action::Befalls { op, fault } => match fault {
                Fault::Kill => format!("{}'s process is killed", user(op)),
                _ => format!("{}'s machine sleeps", user(op)),
            },
            Action::Strikes { slot, fault } => {
                let node = node(slot);
                match fault {
                    Fault::LoseReply => format!("the answer of {node} is lost"),
                    Fault::PowerCut => format!("{node} loses power"),
                    Fault::Isolate => format!("{node} is cut off from its peers"),
                    Fault::Cut => format!("{node} is cut off from everybody"),
                    Fault::Hide => format!("operators do not reach {node}; its peers do"),
                    Fault::Return => format!("{node}, which was dead, has power again"),
                    Fault::LoseData => format!("{node} boots without etcd's data"),
                    Fault::LoseDisk => format!("{node} is replaced by a blank machine"),
                    Fault::Alarm => format!("etcd on {node} raises NOSPACE"),
                    Fault::Kill | Fault::Sleep | Fault::StaleLook | Fault::Silence => {
                        unreachable!("these are about operators")
                    }
                }
            }
            Action::PowerOn { slot } => format!("{} has power again", node(slot)),
            Action::Rejoin { slot } => format!("{} is connected again", node(slot)),
            Action::Stride { op } => format!("{} goes on alone", user(op)),
        }
    }

    /// Why an operator cannot go on.
    fn why(&self, state: &State, op: usize) -> String {
        let own = &state.operators[op];
        let sight = self.engine.seen_by(own.intent, state.world, Hosts::ALL);
        if own.phase == Phase::Acting {
            let lanes = self.engine.lanes(own.stage);
            let open = lanes
                .turns
                .iter()
                .enumerate()
                .find_map(|(slot, turns)| turns.get(usize::from(own.stood[slot])).copied());
            return open.map_or_else(String::new, |turn| {
                let seen = self.engine.observation(&own.sight);
                let standing = self.engine.turn(turn).step.standing(&seen);
                format!("{} is {standing:?}", self.step(turn))
            });
        }
        match self.engine.judged(own.intent, own.approved, &sight) {
            Judged::Trouble(why) => {
                let planned = self.engine.planned(own.intent, &sight);
                match (planned.planning.refused.first(), why) {
                    (Some(refusal), _) => refusal.to_string(),
                    (None, Some(code)) => code.to_string(),
                    (None, None) => "it waits".into(),
                }
            }
            Judged::Nothing => "nothing is left to do".into(),
            Judged::More => "what was approved stands, and more is needed".into(),
            Judged::Stage(_) => match self.fence(state, op).1 {
                Some(code) => format!("the fence is not to be had ({code})"),
                None => "the fence is not to be had".into(),
            },
        }
    }
}

fn user(op: usize) -> String {
    identity(op, 0).user
}

fn line(out: &mut String, number: usize, text: &str) {
    writeln!(out, "{number:>4}. {text}").expect("a String takes everything");
}

impl Broken {
    /// What it means.
    pub fn text(self) -> &'static str {
        match self {
            Self::World => "what must hold in every world does not",
            Self::CostQuorum => "an effect took the quorum away",
            Self::BackendNotReady => "a balancer sends to a master that was never ready",
            Self::NotDrained => "a serving master was stopped while a balancer still sends to it",
            Self::LeaderRemoved => "the leader was removed while others could have led",
            Self::Unspared => "a living voter was removed that the cluster could not spare",
            Self::Outranked => "a host began something for an outranked token",
            Self::StalePermit => "the membership had changed between permit and effect",
            Self::TwoChanges => "a change began while another one was in flight",
            Self::AlarmIgnored => "voters came or went while a member that stays raised an alarm",
            Self::LostVoter => "the data of a voter was taken away",
            Self::NobodyServes => "a balancer was left without any master that serves",
            Self::Lint => "the lint finds something in the plan",
            Self::NotDone => "a run says that it is done, and the cluster is not as the file says",
            Self::NoEnd => "it comes to no end: neither done nor refused by name",
        }
    }
}
