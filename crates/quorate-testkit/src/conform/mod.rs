//! Trace conformance: whether what a journal tells is a way that the model has. Start at [`follow`].
//!
//! A journal holds what was approved and every effect before and after it. The worlds that it implies are built up effect by effect, by the
//! same rules as everywhere here: each effect has to be the next of what planning afresh yields, permitted, and admitted by its host. And
//! from the world of every prefix, whether or not the effects in flight were made, a new run has to reach the goal: that is what is left
//! when the machine that wrote the journal dies after that line.
//!
//! A journal does not tell what else happened to the machines. What only waits may therefore begin where nothing is to be waited for, and
//! between two runs machines may have lost power. Of everything else whoever did it tells, see [`Happened`].

mod foreign;
mod goal;
mod happened;
mod imagine;
mod runs;

use quorate_plan::{
    Change, Ensure, Event, Fence, HostEnsure, Intent, Observation, Place, Plan, Planning, Standing,
    Step, event::Verdict, permit, plan,
};

use crate::{World, render, walk::take, world::ActError};
use goal::Goal;

pub use happened::{Dated, Happened};
pub use imagine::imagine;
use imagine::{bring_bundle, elect_another, led_by_anybody};
pub use runs::{Found, Told, follow_runs};

/// Effects in flight of which it is tried whether they were made, each with each: the hosts of a cluster, and more than real ones have.
const IN_FLIGHT_MAX: usize = 7;

/// What a journal was found to tell.
#[derive(Clone, Debug)]
pub struct Followed {
    /// Effects that were begun.
    pub effects: usize,
    /// Prefixes from whose worlds the goal was reached.
    pub prefixes: usize,
    /// How the run ended; `None` when its journal breaks off.
    pub verdict: Option<Verdict>,
    /// What it left.
    pub left: Left,
}

/// What runs leave.
#[derive(Clone, Debug, Default)]
pub struct Left {
    /// Worlds there may be: more than one when effects were in flight. None: nothing is known.
    pub worlds: Vec<World>,
    /// What hosts may still have had in hand, and may finish when another run has begun.
    pub in_hand: Vec<Step>,
}

/// Where a journal leaves what the model has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departed {
    /// The event, from 1.
    pub event: usize,
    /// What is wrong with it.
    pub what: String,
}

impl std::fmt::Display for Departed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "event {}: {}", self.event, self.what)
    }
}

/// Follows the journal of one run. `before`: what an earlier run left; where that is nothing, a world is imagined in which the approved
/// plan is what planning yields; what hosts had in hand they may finish in that, too.
///
/// # Errors
/// The first event that no world explains.
pub fn follow(events: &[Event], before: &Left) -> Result<Followed, Departed> {
    let Some(Event::Started { intent, plan, .. }) = events.first() else {
        return Err(Departed {
            event: 1,
            what: "expected the beginning of a run".into(),
        });
    };
    let start = if before.worlds.is_empty() {
        vec![imagine(intent, plan).map_err(|what| Departed { event: 1, what })?]
    } else {
        before.worlds.clone()
    };
    let mut begins = Vec::new();
    let mut instead = None;
    for world in start {
        match imagine::begins(world, intent, plan) {
            Ok(world) => begins.push(world),
            Err(planned) => drop(instead.get_or_insert(planned)),
        }
    }
    if begins.is_empty() {
        return Err(Departed {
            event: 1,
            what: format!(
                "in no world that is known of was this planned:\n{}\nbut, in the first of them:\n{}",
                render::plan(plan),
                instead.unwrap_or_default()
            ),
        });
    }
    let mut first = None;
    for world in begins {
        match Way::new(intent, plan, world, &before.in_hand).walk(events) {
            Ok(followed) => return Ok(followed),
            Err(departed) => {
                first.get_or_insert(departed);
            }
        }
    }
    Err(first.expect("there was a world to begin in"))
}

/// One way that is followed.
struct Way<'a> {
    intent: &'a Intent,
    approved: &'a Plan,
    fence: Option<Fence>,
    /// The stage that began last, in the approved plan.
    stage: Option<usize>,
    /// The world with all effects of which it was told that they stand.
    made: World,
    /// Effects of which that was not told yet, or never will be.
    in_flight: Vec<Step>,
    /// The same, of the run before.
    in_hand: &'a [Step],
    effects: usize,
    prefixes: usize,
    goal: Goal,
}

impl<'a> Way<'a> {
    fn new(intent: &'a Intent, approved: &'a Plan, made: World, in_hand: &'a [Step]) -> Self {
        Self {
            intent,
            approved,
            fence: None,
            stage: None,
            made,
            in_flight: Vec::new(),
            in_hand,
            effects: 0,
            prefixes: 0,
            goal: Goal::default(),
        }
    }

    fn walk(mut self, events: &[Event]) -> Result<Followed, Departed> {
        let mut verdict = None;
        for (number, event) in (1..).zip(events) {
            let departed = |what| Departed {
                event: number,
                what,
            };
            if verdict.is_some() {
                return Err(departed("something is told after the end".into()));
            }
            match event {
                Event::Started { .. } if number == 1 => {}
                Event::Started { .. } => return Err(departed("a second beginning".into())),
                Event::Fenced { fence } => self.fenced(*fence).map_err(departed)?,
                Event::StageStarted {
                    number,
                    title,
                    change,
                } => self
                    .stage_started(*number, title, change.as_ref())
                    .map_err(departed)?,
                Event::StepStarted { step } => self.step_started(step).map_err(departed)?,
                Event::StepStands { step, .. } => self.step_stands(step).map_err(departed)?,
                Event::StepProgress { .. } | Event::Waiting { .. } => continue,
                Event::StepFailed { step, .. } => {
                    if !self.in_flight.contains(step) {
                        return Err(departed(format!(
                            "`{}` failed and was not begun",
                            render::step(step)
                        )));
                    }
                }
                Event::Refused { .. } => {}
                Event::Ended { verdict: ended } => {
                    self.ended(ended).map_err(departed)?;
                    verdict = Some(ended.clone());
                }
            }
            self.converges().map_err(departed)?;
            self.prefixes += 1;
        }
        // What a host has had in hand since an earlier run it may have still, and finishes now or later, unless everything stands.
        let earlier: &[Step] = match verdict {
            Some(Verdict::Done) => &[],
            _ => self.in_hand,
        };
        let in_hand = together(earlier, &self.in_flight);
        Ok(Followed {
            effects: self.effects,
            prefixes: self.prefixes,
            verdict,
            left: Left {
                worlds: self.with_and_without(&in_hand),
                in_hand,
            },
        })
    }

    fn fenced(&mut self, fence: Fence) -> Result<(), String> {
        if let Some(old) = self.fence {
            return Err(format!("token {fence} was taken while {old} was held"));
        }
        let highest = highest(&self.made);
        if fence < highest {
            return Err(format!(
                "token {fence} is lower than {highest}, seen before"
            ));
        }
        self.fence = Some(fence);
        Ok(())
    }

    fn stage_started(
        &mut self,
        number: usize,
        title: &str,
        change: Option<&Change>,
    ) -> Result<(), String> {
        if self.fence.is_none() {
            return Err("a stage began before the fence was taken".into());
        }
        let stage = number
            .checked_sub(1)
            .and_then(|at| self.approved.stages.get(at));
        let stage = stage.ok_or_else(|| format!("there is no stage {number} in the plan"))?;
        if stage.title != title || stage.change.as_ref() != change {
            return Err(format!("stage {number} is `{}` in the plan", stage.title));
        }
        if self.stage.is_some_and(|before| before >= number) {
            return Err(format!("stage {number} began after a later one"));
        }
        self.stage = Some(number);
        Ok(())
    }

    /// The world if everything in flight was made.
    fn whole(&self) -> World {
        let mut world = self.made.clone();
        for step in &self.in_flight {
            self.make(&mut world, step);
        }
        world
    }

    /// Worlds there may be: with and without each effect in flight.
    fn worlds(&self) -> Vec<World> {
        self.with_and_without(&self.in_flight)
    }

    /// Worlds there may be, with and without each of these effects. Where there are too many of them, the last ones count.
    fn with_and_without(&self, effects: &[Step]) -> Vec<World> {
        let mut worlds = vec![self.made.clone()];
        let mut tried = 0;
        for step in effects.iter().rev() {
            let known = worlds.len();
            for at in 0..known {
                let mut world = worlds[at].clone();
                self.make(&mut world, step);
                if !worlds.contains(&world) {
                    worlds.push(world);
                }
            }
            tried += usize::from(worlds.len() > known);
            if tried == IN_FLIGHT_MAX {
                break;
            }
        }
        worlds
    }

    /// The change of the stage that a step of the approved plan belongs to.
    fn change_of(&self, step: &Step) -> Option<&Change> {
        let stage = self
            .approved
            .stages
            .iter()
            .find(|stage| stage.steps.contains(step))?;
        stage.change.as_ref()
    }

    fn make(&self, world: &mut World, step: &Step) {
        let change = self.change_of(step).cloned();
        // A host goes on with what an earlier run handed it before this one took the fence.
        let fence = self.fence.unwrap_or_else(|| highest(world));
        // One that waits for others goes on when they are there; one that was refused or failed was not made.
        let _ = take(world, self.intent, step, change.as_ref(), fence);
        world.settle();
    }

    fn step_started(&mut self, step: &Step) -> Result<(), String> {
        let name = render::step(step);
        if self.stage.is_none() {
            return Err(format!("`{name}` began before its stage"));
        }
        if !self.approved.steps().any(|approved| approved == step) {
            return Err(format!("`{name}` was not approved"));
        }
        let before = self.before(step);
        self.passed_over(before);
        let mut why = None;
        for made in led_by_anybody(self.made.clone()) {
            self.made = made;
            match self.comes_next(step) {
                Ok(()) => {
                    self.effects += 1;
                    if !self.in_flight.contains(step) {
                        self.in_flight.push(step.clone());
                    }
                    return Ok(());
                }
                Err(error) => drop(why.get_or_insert(error)),
            }
        }
        Err(format!("`{name}`: {}", why.unwrap_or_default()))
    }

    /// Whether a step comes next where some of what is in flight was made, or nothing of it, or everything.
    fn comes_next(&self, step: &Step) -> Result<(), String> {
        let mut why = None;
        for world in [self.made.clone(), self.whole()]
            .into_iter()
            .chain(self.worlds())
        {
            match self.legal(&world, step) {
                Ok(()) => return Ok(()),
                Err(error) => drop(why.get_or_insert(error)),
            }
        }
        Err(why.unwrap_or_default())
    }

    /// Steps of the approved plan that come before this one: those of earlier stages, and of its own those on the same host.
    fn before(&self, step: &Step) -> Vec<&'a Step> {
        (self.approved.stages.iter())
            .flat_map(|stage| {
                let of_step = stage.steps.contains(step);
                let steps = stage.steps.iter().map(move |other| (other, of_step));
                let lane = steps.filter(|(other, of_step)| !of_step || other.on == step.on);
                lane.map(|(other, _)| other)
            })
            .take_while(|other| *other != step)
            .collect()
    }

    /// What was not begun when what comes after it was, or the end, stood already when its turn came: what a machine brings along, what a
    /// host finished that the run before had asked for, and that another member leads. No journal tells of elections.
    fn passed_over(&mut self, steps: Vec<&Step>) {
        for other in steps {
            if self.in_flight.contains(other) {
                continue;
            }
            match (&other.ensure, &other.on) {
                (Ensure::Host(HostEnsure::Bundle { .. }), Place::Host(node)) => {
                    bring_bundle(&mut self.made, self.intent, node);
                }
                (Ensure::Host(HostEnsure::LeaderMoved { member, .. }), _) => {
                    elect_another(&mut self.made, *member);
                }
                _ if self.in_hand.contains(other) => {
                    let mut made = self.made.clone();
                    self.make(&mut made, other);
                    self.made = made;
                }
                _ => {}
            }
        }
    }

    /// Whether a step comes next in a world: planned afresh, a part of what was approved, permitted and admitted.
    fn legal(&self, world: &World, step: &Step) -> Result<(), String> {
        let seen = world.observe(self.intent);
        if waits(step) || made_again(step, &seen) {
            return Ok(());
        }
        let Planning { plan, refused, .. } = plan(self.intent, &seen);
        if let Some(refusal) = refused.first() {
            return Err(format!("planning afresh is refused: {refusal}"));
        }
        if let Err(departure) = plan.rest_of(self.approved) {
            return Err(format!("planning afresh departs: {departure}"));
        }
        // As the runner does it: what stands already is passed over.
        let over = |step: &Step| waits(step) || matches!(step.standing(&seen), Standing::Done(_));
        let mut stages = plan.stages.iter();
        let next = stages.find(|stage| !stage.steps.iter().all(over));
        if !next.is_some_and(|stage| stage.steps.contains(step)) {
            return Err(format!(
                "it is not what comes next, which is\n{}",
                render::plan(&plan)
            ));
        }
        if let Some(change) = self.change_of(step) {
            let _permitted = permit(&seen, change, &self.intent.accepted)
                .map_err(|refusal| format!("it is not permitted: {refusal}"))?;
        }
        let mut world = world.clone();
        let change = self.change_of(step).cloned();
        let fence = self.fence.unwrap_or_default();
        match take(&mut world, self.intent, step, change.as_ref(), fence) {
            Ok(_) | Err(ActError::NotYet(_)) => Ok(()),
            Err(error) => Err(format!("its host does not do it: {error:?}")),
        }
    }

    fn step_stands(&mut self, step: &Step) -> Result<(), String> {
        let name = render::step(step);
        let begun = self.in_flight.iter().position(|begun| begun == step);
        if let (None, Ensure::Host(HostEnsure::LeaderMoved { member, .. })) = (begun, &step.ensure)
        {
            elect_another(&mut self.made, *member);
        }
        let mut world = self.whole();
        world.settle();
        let seen = world.observe(self.intent);
        if !waits(step) && !matches!(step.standing(&seen), Standing::Done(_)) {
            return Err(format!(
                "`{name}` is told to stand, and does not: {:?}",
                step.standing(&seen)
            ));
        }
        if let Some(at) = begun {
            let step = self.in_flight.remove(at);
            let mut made = self.made.clone();
            self.make(&mut made, &step);
            self.made = made;
        }
        Ok(())
    }

    fn ended(&mut self, verdict: &Verdict) -> Result<(), String> {
        match verdict {
            Verdict::Done => {
                self.passed_over(self.approved.steps().collect());
                let seen = self.whole().observe(self.intent);
                let left = plan(self.intent, &seen).plan;
                if left.steps().all(waits) {
                    Ok(())
                } else {
                    Err(format!(
                        "done, and yet there is left\n{}",
                        render::plan(&left)
                    ))
                }
            }
            Verdict::More
            | Verdict::Refused { .. }
            | Verdict::Failed { .. }
            | Verdict::Unseen { .. }
            | Verdict::Stopped { .. } => Ok(()),
        }
    }

    /// Whoever comes next reaches the goal, whether or not what is in flight was made.
    fn converges(&mut self) -> Result<(), String> {
        let whole = (!self.in_flight.is_empty()).then(|| self.whole());
        for world in [self.made.clone()].into_iter().chain(whole) {
            self.goal.reached_from(self.intent, world)?;
        }
        Ok(())
    }
}

/// The highest token that any host has seen.
fn highest(world: &World) -> Fence {
    let tokens = world.machines.values().map(|machine| machine.disk.fence);
    tokens.max().unwrap_or_default()
}

/// Steps that hosts have had in hand, the earliest first, each once.
fn together(earlier: &[Step], later: &[Step]) -> Vec<Step> {
    let earlier = earlier.iter().filter(|step| !later.contains(step));
    earlier.chain(later).cloned().collect()
}

/// Steps of the preparation that stand in the world: files on a host may have been changed by what runs there, which no journal tells of,
/// and to make them once more changes nothing of the cluster.
fn made_again(step: &Step, seen: &Observation) -> bool {
    let prepares = matches!(
        step.ensure,
        Ensure::Host(
            HostEnsure::Bundle { .. } | HostEnsure::Components { .. } | HostEnsure::Images { .. }
        )
    );
    prepares && matches!(step.standing(seen), Standing::Done(_))
}

/// Steps that only wait for what is on its way, or clear away what goes away by itself some time.
fn waits(step: &Step) -> bool {
    matches!(
        step.ensure,
        Ensure::Host(
            HostEnsure::Serving { .. }
                | HostEnsure::TokensGone {}
                | HostEnsure::EndpointGone { .. }
        )
    )
}
