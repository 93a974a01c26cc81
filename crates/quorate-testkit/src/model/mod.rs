//! The model: every order in which operators, hosts and faults can get into each other's way, within bounds, explored to the end.
//! Start at [`check`].
//!
//! A state is the same [`crate::World`] that the simulation drives, what hosts have in hand, and how far operators' processes are.
//! Whatever is decided is decided by the production code from real observations: the plan, the rest of an approved plan, the permit, the
//! lint, whether a step stands, who gets the fence, and what a host admits. Only the runner's loop is told anew, see [`operator`]: where
//! it waits for something, anything else may happen first.
//!
//! What is modelled, what is not, and how to widen the bounds is in `docs/design/model.md`.

pub mod bugs;
mod canon;
mod claims;
pub mod engine;
mod intern;
mod judge;
mod operator;
pub mod procedure;
mod quiet;
pub mod rules;
pub mod state;
mod story;

use std::time::{Duration, Instant};

use quorate_plan::Intent;
use stateright::{Checker as _, HasDiscoveries, Property};

pub use engine::Decisions;
pub use rules::Rules;
pub use state::{Action, Broken, FAULTS, Fault, OPERATORS, State};

use crate::World;

/// What is there and what operators want.
#[derive(Clone, Debug)]
pub struct Procedure {
    /// Its name, as on the command line.
    pub name: &'static str,
    /// The world in which it begins.
    pub world: World,
    /// What anybody may want.
    pub intents: Vec<Intent>,
    /// Which of them each operator wants, by number.
    pub wants: [Vec<u8>; OPERATORS],
}

/// How far a model goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Runs that each operator may begin.
    pub runs: [u8; OPERATORS],
    /// Faults in all.
    pub faults: u8,
    /// Faults of each kind.
    pub each: [u8; FAULTS],
    /// How far an operator goes with one action.
    pub pace: Pace,
}

/// How far an operator goes with one action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As far as nothing else can come in between.
    Steps,
    /// To the end of a stage, undisturbed. What else happens does so between stages: fewer states, shorter stories.
    Strides,
    /// Either.
    Both,
}

impl Bounds {
    /// One operator, one run, nothing goes wrong.
    pub fn none() -> Self {
        Self {
            runs: [1, 0],
            faults: 0,
            each: [0; FAULTS],
            pace: Pace::Steps,
        }
    }

    /// With so many runs of the two operators.
    #[must_use]
    pub fn runs(mut self, ada: u8, bob: u8) -> Self {
        self.runs = [ada, bob];
        self
    }

    /// With at most `all` faults of these kinds, each at most that often.
    #[must_use]
    pub fn faults(mut self, all: u8, each: &[(Fault, u8)]) -> Self {
        self.faults = all;
        for (fault, times) in each {
            self.each[*fault as usize] = *times;
        }
        self
    }

    /// With that pace.
    #[must_use]
    pub fn pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }
}

impl std::fmt::Display for Bounds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [ada, bob] = self.runs;
        write!(f, "runs={ada},{bob} faults={}", self.faults)?;
        for fault in Fault::ALL {
            let times = self.each[fault as usize].min(self.faults);
            if times > 0 {
                write!(f, " {}={times}", fault.name())?;
            }
        }
        Ok(())
    }
}

impl stateright::Model for Rules {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.first()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.actions(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        self.next(state, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let safe = Property::always(SAFE, |_, state: &State| state.broken.is_none());
        let ends = Property::always(ENDS, |rules: &Self, state: &State| {
            state.broken.is_some() || rules.comes_to_an_end(state).is_none()
        });
        match self.asks {
            Asks::Both => vec![safe, ends],
            Asks::Safe => vec![safe],
        }
    }
}

/// What is asked of every state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// That what led to it was safe.
    Safe,
    /// That, and that everything comes to an end from there.
    Both,
}

const SAFE: &str = "every effect is safe";
const ENDS: &str = "with faults stopped, every run comes to an end";

/// A way from the first state on: each with what happened in it, the last with nothing.
pub type Way = Vec<(State, Option<Action>)>;

/// What came out.
#[derive(Debug)]
pub struct Report {
    /// Unique states.
    pub unique: usize,
    /// States that were met, repeats included.
    pub met: usize,
    /// The longest of the shortest ways, in actions.
    pub depth: usize,
    /// How long it took.
    pub took: Duration,
    /// Everything within the bounds was explored.
    pub exhausted: bool,
    /// Some run came to its goal.
    pub done: bool,
    /// The first way to each kind of failure.
    pub failures: Vec<(&'static str, Way)>,
    /// The same as a story.
    pub stories: Vec<String>,
    /// What was kept.
    pub sizes: String,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let end = match (self.failures.is_empty(), self.exhausted) {
            (_, true) => "everything within the bounds explored",
            (true, false) => "stopped before everything was explored",
            (false, false) => "stopped at a failure",
        };
        write!(
            f,
            "{} unique states, {} met, ways of up to {} actions, {:.1} s: {end}",
            self.unique,
            self.met,
            self.depth.saturating_sub(1),
            self.took.as_secs_f64()
        )
    }
}

/// How to explore.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// Threads. With one, the first failure is found by the shortest way.
    pub threads: usize,
    /// Stop after that time, whatever is left.
    pub time_max: Option<Duration>,
}

impl Search {
    /// With every processor there is.
    pub fn wide() -> Self {
        Self {
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            time_max: None,
        }
    }

    /// For the shortest way.
    pub fn short() -> Self {
        Self {
            threads: 1,
            time_max: None,
        }
    }
}

/// Explores everything within the bounds, or until something fails.
pub fn check(rules: Rules, search: Search) -> Report {
    let begun = Instant::now();
    let checker = stateright::Model::checker(rules)
        .threads(search.threads)
        .finish_when(HasDiscoveries::AnyFailures);
    let checker = match search.time_max {
        Some(time) => checker.timeout(time),
        None => checker,
    };
    let checker = checker.spawn_bfs().join();
    let took = begun.elapsed();
    let failures = checker
        .discoveries()
        .into_iter()
        .map(|(name, path)| (name, path.into_vec()))
        .collect::<Vec<_>>();
    Report {
        unique: checker.unique_state_count(),
        met: checker.state_count(),
        depth: checker.max_depth(),
        took,
        exhausted: failures.is_empty() && search.time_max.is_none_or(|max| took < max),
        stories: failures
            .iter()
            .map(|(_, way)| checker.model().story(way))
            .collect(),
        failures,
        done: checker
            .model()
            .done
            .load(std::sync::atomic::Ordering::Relaxed),
        sizes: checker.model().engine.sizes(),
    }
}
