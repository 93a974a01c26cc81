//! What the production code decides in a world. Start at [`Decisions`].

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use quorate_plan::{
    Change, Ensure, Fence, Intent, Observation, Place, Plan, Planning, Refusal, Request, Sealed,
    Standing, Step,
    guard::permit,
    lint::{Finding, lint},
    plan,
    refusal::RefusalCode,
};

use super::{Engine, Sight};
use crate::{
    walk::aged,
    world::{
        ActError,
        act::{Accepted, Gate, gate},
    },
};

/// What decides: the production code, or that with a bug seeded into it.
pub struct Decisions {
    /// The planner.
    pub plan: fn(&Intent, &Observation) -> Planning,
    /// The guard in the runner.
    pub permit: fn(&Observation, &Change, &Intent) -> Result<(), Refusal>,
    /// The gate on the host.
    pub gate: Gate,
    /// The second opinion on a plan before it is approved.
    pub lint: fn(&Plan, &Observation) -> Vec<Finding>,
}

impl fmt::Debug for Decisions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Decisions")
    }
}

impl Default for Decisions {
    /// Production's.
    fn default() -> Self {
        Self {
            plan,
            permit: |seen, change, intent| permit(seen, change, &intent.accepted).map(|_permit| ()),
            gate,
            lint,
        }
    }
}

/// A planning, and its plan by number.
#[derive(Debug)]
pub(in crate::model) struct Planned {
    pub(in crate::model) planning: Planning,
    pub(in crate::model) plan: u32,
    pub(in crate::model) findings: Vec<Finding>,
}

/// What the runner makes of a fresh look.
#[derive(Clone, Debug)]
pub(in crate::model) enum Judged {
    /// Nothing is left to do.
    Nothing,
    /// This stage comes next, and is permitted.
    Stage(u32),
    /// All that was approved stands, and more is needed.
    More,
    /// Nothing can be done just now; the code of the first reason, unless it only waits.
    Trouble(Option<RefusalCode>),
}

/// A stage in the lanes in which its steps queue: one for each host.
#[derive(Debug)]
pub(in crate::model) struct Lanes {
    /// The stage's title.
    pub(in crate::model) title: String,
    /// Numbers of [`Turn`]s by host.
    pub(in crate::model) turns: Vec<Vec<u32>>,
}

/// One step and the change of its stage.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(in crate::model) struct Turn {
    pub(in crate::model) step: Step,
    pub(in crate::model) change: Option<Change>,
}

/// What a host was asked and has accepted: it carries it out whatever happens meanwhile.
#[derive(Debug)]
pub(in crate::model) struct Task {
    pub(in crate::model) accepted: Accepted,
    pub(in crate::model) turn: u32,
}

/// What a host says to a request.
#[derive(Clone, Debug)]
pub(in crate::model) enum Answer {
    /// It is at it.
    Task(u32),
    /// The fence or a guard said no.
    Refused(RefusalCode),
    /// It failed.
    Failed,
    /// The machine does not run.
    Silent,
}

/// How far a host gets with a task now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model) enum Carried {
    /// It is done.
    Done,
    /// It waits for something.
    NotYet,
    /// It failed.
    Failed,
}

/// What an operator asks of a host.
#[derive(Debug)]
pub(in crate::model) struct Asked {
    pub(in crate::model) turn: u32,
    pub(in crate::model) fence: u64,
    pub(in crate::model) sight: Sight,
    /// What was sealed for it, by number; 0 when nothing was.
    pub(in crate::model) sealed: u32,
}

impl Engine {
    /// What planning yields.
    pub(in crate::model) fn planned(&self, intent: u8, sight: &Sight) -> Arc<Planned> {
        self.planned.get((intent, *sight), || {
            let seen = self.observation(sight);
            let planning = (self.decisions.plan)(&self.intents[usize::from(intent)], &seen);
            Arc::new(Planned {
                plan: self.plans.put(Arc::new(planning.plan.clone())),
                findings: (self.decisions.lint)(&planning.plan, &seen),
                planning,
            })
        })
    }

    /// What the runner makes of a look: as its `judge` does.
    pub(in crate::model) fn judged(&self, intent: u8, approved: u32, sight: &Sight) -> Judged {
        self.judged.get((intent, approved, *sight), || {
            let planned = self.planned(intent, sight);
            let planning = &planned.planning;
            if let Some(refusal) = planning.refused.first() {
                return Judged::Trouble(Some(refusal.code()));
            }
            let seen = self.observation(sight);
            let stands = |step: &Step| matches!(step.standing(&seen), Standing::Done(_));
            let approved = self.plans.get(approved);
            if planning.plan.rest_of(&approved).is_err() {
                return if !approved.is_empty() && approved.steps().all(stands) {
                    Judged::More
                } else {
                    Judged::Trouble(Some(RefusalCode::PlanDeparted))
                };
            }
            let mut stages = planning.plan.stages.iter();
            let Some(stage) = stages.find(|stage| !stage.steps.iter().all(stands)) else {
                return if planning.waiting.is_empty() {
                    Judged::Nothing
                } else {
                    Judged::Trouble(None)
                };
            };
            if let Some(change) = &stage.change {
                let intent = &self.intents[usize::from(intent)];
                if let Err(refusal) = (self.decisions.permit)(&seen, change, intent) {
                    return Judged::Trouble(Some(refusal.code()));
                }
            }
            Judged::Stage(self.stages.put(Arc::new(stage.clone())))
        })
    }

    /// A stage in lanes.
    pub(in crate::model) fn lanes(&self, stage: u32) -> Arc<Lanes> {
        self.lanes.get(stage, || {
            let stage = self.stages.get(stage);
            let mut turns = vec![Vec::new(); self.nodes.len()];
            for step in &stage.steps {
                let Place::Host(node) = &step.on else {
                    panic!("a model's machines are there: `{}`", step.ensure)
                };
                let turn = Turn {
                    step: step.clone(),
                    change: stage.change.clone(),
                };
                turns[self.slot(node)].push(self.turns.put(Arc::new(turn)));
            }
            Arc::new(Lanes {
                title: stage.title.clone(),
                turns,
            })
        })
    }

    pub(in crate::model) fn turn(&self, turn: u32) -> Arc<Turn> {
        self.turns.get(turn)
    }

    /// Whether a step stands in what was seen.
    pub(in crate::model) fn stands(&self, turn: u32, sight: &Sight) -> bool {
        self.standing.get((turn, *sight), || {
            let standing = self.turn(turn).step.standing(&self.observation(sight));
            matches!(standing, Standing::Done(_))
        })
    }

    /// What a host says to a request, by a fresh look of its own put into what the operator saw.
    pub(in crate::model) fn answer(&self, world: u32, slot: usize, asked: &Asked) -> Answer {
        let look = self.look(world);
        let mut sight = asked.sight;
        sight.reports[slot] = look.bare[slot];
        let key = (
            sight,
            u8::try_from(slot).expect("few hosts"),
            asked.turn,
            look.whole[slot],
            asked.fence,
            asked.sealed,
        );
        self.answers.get(key, || {
            let turn = self.turn(asked.turn);
            let Ensure::Host(ensure) = &turn.step.ensure else {
                panic!("a model's machines are there: `{}`", turn.step.ensure)
            };
            let request = Request {
                fence: Fence(asked.fence),
                ensure: ensure.clone(),
                change: turn.change.clone(),
                sealed: match asked.sealed {
                    0 => Vec::new(),
                    number => vec![Sealed((*self.sealed.get(number)).clone())],
                },
                receipt: None,
                accepted: BTreeSet::new(),
                // Others were looked at before this host looks at itself.
                testimony: aged(self.observation(&asked.sight), Duration::from_secs(1)),
            };
            let world = self.world(world);
            match world.accept_by(&self.nodes[slot], request, self.decisions.gate) {
                Ok(accepted) => Answer::Task(self.task(accepted, asked)),
                Err(ActError::Refused(refusal)) => Answer::Refused(refusal.code()),
                Err(ActError::Failed(_) | ActError::NotYet(_)) => Answer::Failed,
                Err(ActError::Gone) => Answer::Silent,
            }
        })
    }

    fn task(&self, accepted: Accepted, asked: &Asked) -> u32 {
        let key = (asked.turn, asked.sealed, accepted.changed().is_empty());
        self.task_numbers.get(key, || {
            let mut tasks = self.tasks.write().expect("nobody panics in it");
            tasks.push(Arc::new(Task {
                accepted,
                turn: asked.turn,
            }));
            u32::try_from(tasks.len()).expect("few tasks")
        })
    }

    pub(in crate::model) fn task_of(&self, number: u32) -> Arc<Task> {
        let tasks = self.tasks.read().expect("nobody panics in it");
        tasks[number as usize - 1].clone()
    }

    /// How far a host gets with a task now, and the world afterwards.
    pub(in crate::model) fn carry(&self, number: u32, slot: usize, task: u32) -> (u32, Carried) {
        let key = (number, u8::try_from(slot).expect("few hosts"), task);
        self.carried.get(key, || {
            let mut world = self.world(number);
            let end = world.carry_out(&self.nodes[slot], &self.task_of(task).accepted);
            let carried = match end {
                Ok(_) => Carried::Done,
                Err(ActError::NotYet(_)) => Carried::NotYet,
                Err(ActError::Failed(_) | ActError::Refused(_) | ActError::Gone) => Carried::Failed,
            };
            (self.put(number, world), carried)
        })
    }
}
