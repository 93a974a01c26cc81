//! Running an approved plan: look, plan afresh, permit, act, look until it stands, repeat. Start at [`run`].
//!
//! Nothing is undone and nothing is remembered: what is left to do follows from what is seen. A stage that fails ends the run when the
//! steps in flight have ended.

use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

use quorate_plan::{
    Event, Intent, Observation, Operator, Plan, Planning, Quorum, Refusal, Stage, Standing, Step,
    event::Verdict,
    permit, plan,
    plan::{Departure, Waiting},
    quorum,
    refusal::RefusalCode,
};
use tokio::time::{Instant, sleep};

use crate::{
    fence::{self, Held},
    hostile,
    observe::{Sight, arriving_max},
    pace,
    seam::{Hosts, Infra, World},
    stage::act,
    stop::{Stop, StopSignal},
};

/// Acts on `approved` until nothing is left of it, and says how that ended. The same is told as events, the effects each before and after.
///
/// It goes on as long as planning afresh yields the rest of what was approved, and ends with [`Verdict::More`] when all of that stands and
/// more is needed. The fence is given back when everything stands, or when
/// nothing was done; otherwise the operation stays in force on its hosts, so that any operator's machine can finish it and no other verb
/// begins meanwhile.
pub async fn run<H: Hosts, I: Infra>(
    approved: &Plan,
    intent: &Intent,
    world: &World<H, I>,
    operator: &Operator,
    stop: &StopSignal,
    emit: &mut dyn FnMut(Event),
) -> Verdict {
    run_planned(plan, approved, intent, world, operator, stop, emit).await
}

/// What plans: a parameter only so that tests can have a plan of three steps.
type Planner = fn(&Intent, &Observation) -> Planning;

async fn run_planned<H: Hosts, I: Infra>(
    planner: Planner,
    approved: &Plan,
    intent: &Intent,
    world: &World<H, I>,
    operator: &Operator,
    stop: &StopSignal,
    emit: &mut dyn FnMut(Event),
) -> Verdict {
    let run = Run {
        planner,
        approved,
        intent,
        world,
        stop,
        emit: RefCell::new(emit),
        acted: Cell::new(false),
        tries: RefCell::default(),
    };
    run.tell(Event::Started {
        operator: operator.clone(),
        intent: Box::new(intent.clone()),
        plan: approved.clone(),
    });
    let mut held = None;
    let verdict = run.to_the_end(operator, &mut held).await;
    if let Some(held) = held
        && (matches!(verdict, Verdict::Done | Verdict::More) || !run.acted.get())
    {
        for error in held.release(&world.hosts).await {
            tracing::warn!(%error, "could not give the fence back");
        }
    }
    if let Verdict::Refused { refusals } = &verdict {
        for refusal in refusals {
            run.tell(Event::Refused {
                refusal: refusal.clone(),
            });
        }
    }
    run.tell(Event::Ended {
        verdict: verdict.clone(),
    });
    verdict
}

/// Acts on one stage, of a run that somebody else goes on with: see [`crate::carried`].
pub(crate) async fn act_on<H: Hosts, I: Infra>(
    stage: &Stage,
    sight: Sight,
    intent: &Intent,
    world: &World<H, I>,
    held: &Held,
    emit: &mut dyn FnMut(Event),
) -> Result<(), Verdict> {
    let approved = Plan {
        stages: vec![stage.clone()],
    };
    let stop = StopSignal::new();
    let run = Run {
        planner: plan,
        approved: &approved,
        intent,
        world,
        stop: &stop,
        emit: RefCell::new(emit),
        acted: Cell::new(false),
        tries: RefCell::default(),
    };
    act(&run, held, stage, &RefCell::new(sight)).await
}

/// A run in progress.
pub(crate) struct Run<'a, H, I> {
    planner: Planner,
    pub(crate) approved: &'a Plan,
    pub(crate) intent: &'a Intent,
    pub(crate) world: &'a World<H, I>,
    pub(crate) stop: &'a StopSignal,
    emit: RefCell<&'a mut dyn FnMut(Event)>,
    /// An effect was made: from then on the world may need a moment before it looks like a plan again.
    pub(crate) acted: Cell<bool>,
    /// How often each step was acted on.
    pub(crate) tries: RefCell<Vec<(Step, u32)>>,
}

/// What comes next.
struct Next {
    stage: Stage,
    sight: Sight,
    left: usize,
}

impl<H: Hosts, I: Infra> Run<'_, H, I> {
    pub(crate) fn tell(&self, event: Event) {
        (self.emit.borrow_mut())(event);
    }

    async fn to_the_end(&self, operator: &Operator, held: &mut Option<Held>) -> Verdict {
        let mut shown = 0;
        let began = Instant::now();
        let mut pause = pace::LOOK_PAUSE_MIN;
        let mut told: Option<Instant> = None;
        loop {
            let Next {
                stage,
                mut sight,
                left,
            } = match self.next().await {
                Ok(Some(next)) => next,
                Ok(None) => return Verdict::Done,
                Err(verdict) => return verdict,
            };
            if self.stops_at(sight.now()) {
                return Verdict::Stopped { left };
            }
            let Some(held) = held else {
                let seen = sight.now();
                match fence::take(
                    &self.world.hosts,
                    seen,
                    self.intent,
                    self.approved,
                    operator,
                )
                .await
                {
                    Ok(taken) => {
                        self.tell(Event::Fenced {
                            fence: taken.fence(),
                        });
                        *held = Some(taken);
                    }
                    // A host that boots has a machine that runs, and answers in a moment.
                    Err(refusals)
                        if refusals.iter().all(is_missing)
                            && began.elapsed() < pace::FENCE_MAX
                            && self.stop.asked() == Stop::No =>
                    {
                        if began.elapsed() >= pace::NEWS_AFTER
                            && told.is_none_or(|told| told.elapsed() >= pace::EXCUSE_EVERY)
                        {
                            told = Some(Instant::now());
                            self.tell(Event::Waiting {
                                what: hostile::line(
                                    &refusals.first().map(Refusal::to_string).unwrap_or_default(),
                                ),
                                at_most_s: pace::FENCE_MAX.as_secs(),
                            });
                        }
                        sleep(pause).await;
                        pause = pace::longer(pause);
                    }
                    Err(refusals) => return refused(refusals),
                }
                // What was seen before the fence was taken may be another operator's last act away from the truth: look again.
                continue;
            };
            let number = self.number(&stage);
            if number > shown {
                shown = number;
                self.tell(Event::StageStarted {
                    number,
                    title: stage.title.clone(),
                    change: stage.change.clone(),
                });
            }
            let sight = RefCell::new(sight);
            let end = tokio::select! {
                biased;
                end = act(self, held, &stage, &sight) => end,
                () = self.stop.reached(Stop::Now) => return Verdict::Stopped { left },
            };
            if let Err(verdict) = end {
                return verdict;
            }
        }
    }

    /// Looks and plans until there is a stage that may be acted on, nothing is left, or it is clear that neither will be.
    ///
    /// Right after an effect a host may restart what answers for it: what would be a refusal or a departure then gets a bounded time to
    /// pass before it is one.
    async fn next(&self) -> Result<Option<Next>, Verdict> {
        let since = Instant::now();
        let mut pause = pace::LOOK_PAUSE_MIN;
        let mut told: Option<(String, Instant)> = None;
        loop {
            let mut sight = Sight::look(self.world, self.intent).await;
            let trouble = match self.judge(sight.now()) {
                Ok(None) => return Ok(None),
                Ok(Some((stage, left))) => return Ok(Some(Next { stage, sight, left })),
                Err(trouble) => trouble,
            };
            let patience = trouble.patience(self.acted.get());
            if since.elapsed() >= patience || self.stop.asked() >= Stop::BeforeNextEffect {
                return Err(trouble.verdict());
            }
            let what = trouble.text();
            let news = told
                .as_ref()
                .is_none_or(|(before, at)| *before != what || at.elapsed() >= pace::EXCUSE_EVERY);
            // What passes within moments is nobody's news.
            if news && since.elapsed() >= pace::NEWS_AFTER {
                self.tell(Event::Waiting {
                    what: hostile::line(&what),
                    at_most_s: patience.as_secs(),
                });
                told = Some((what, Instant::now()));
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = self.stop.reached(Stop::BeforeNextEffect) => {}
            }
            pause = pace::longer(pause);
        }
    }

    /// The first stage of a fresh plan, permitted, and how many steps are left.
    fn judge(&self, seen: &Observation) -> Result<Option<(Stage, usize)>, Trouble> {
        let Planning {
            plan,
            waiting,
            refused,
        } = (self.planner)(self.intent, seen);
        if !refused.is_empty() {
            return Err(Trouble::Refused(refused));
        }
        if let Err(departure) = plan.rest_of(self.approved) {
            return Err(if self.approved_stands(seen) {
                Trouble::More(plan)
            } else {
                Trouble::Departed(departure)
            });
        }
        let left = plan.len();
        // A plan holds what may fall before its turn comes, too: as long as all of a stage stands, there is nothing to act on in it.
        let open = |stage: &Stage| {
            let stands = |step: &Step| matches!(step.standing(seen), Standing::Done(_));
            !stage.steps.iter().all(stands)
        };
        let Some(stage) = plan.stages.into_iter().find(open) else {
            return if waiting.is_empty() {
                Ok(None)
            } else {
                Err(Trouble::Waiting(waiting, arriving_max(seen)))
            };
        };
        if let Some(change) = &stage.change {
            // Hosts earn their own permit from a fresh look; this one is so that nothing begins that they would refuse.
            let _permitted = permit(seen, change, &self.intent.accepted)
                .map_err(|refusal| Trouble::Refused(vec![refusal]))?;
        }
        Ok(Some((stage, left)))
    }

    /// Whether nothing is left of what was approved.
    fn approved_stands(&self, seen: &Observation) -> bool {
        let stands = |step: &Step| match step.standing(seen) {
            Standing::Done(_) => true,
            Standing::Open(_) | Standing::Unknown(_) => false,
        };
        !self.approved.is_empty() && self.approved.steps().all(stands)
    }

    /// Whether to stop here, between two steps that do not belong together.
    pub(crate) fn stops_at(&self, seen: &Observation) -> bool {
        match self.stop.asked() {
            Stop::No => false,
            Stop::AtSafePoint => !self.acted.get() || may_rest(seen),
            Stop::BeforeNextEffect | Stop::Now => true,
        }
    }

    /// The stage's place in the approved plan, from 1.
    fn number(&self, stage: &Stage) -> usize {
        let place = self.approved.stages.iter().position(|old| {
            old.title == stage.title
                && old.change == stage.change
                && stage.steps.iter().all(|step| old.steps.contains(step))
        });
        1 + place.expect("the plan is the rest of the approved one, so its stages are in it")
    }
}

/// Whether the cluster may be left as it is: not with more voters than one of which none may be lost.
fn may_rest(seen: &Observation) -> bool {
    match Quorum::of(seen) {
        Ok(Some(quorum)) => {
            let voters = quorum.voter_count();
            voters == 1 || quorum::tolerance(voters, voters) > 0
        }
        // No cluster yet, or nobody can say: going on would not make that better known.
        Ok(None) | Err(_) => true,
    }
}

/// Why nothing can be acted on just now.
enum Trouble {
    Refused(Vec<Refusal>),
    Departed(Departure),
    /// Everything that was approved stands; this does not.
    More(Plan),
    /// For this, and how long that is reasonable before anything was done.
    Waiting(Vec<Waiting>, Duration),
}

impl Trouble {
    /// How long it may take to pass by itself.
    fn patience(&self, acted: bool) -> Duration {
        match self {
            Self::Waiting(_, first) if acted => (*first).max(pace::SETTLING_MAX),
            Self::Waiting(_, first) => *first,
            // Machines that were just started serve after a while: nobody need be asked about that.
            Self::More(plan) if plan.begins_with_waiting() => pace::SETTLING_MAX,
            Self::More(_) => pace::UNITS_MAX,
            Self::Refused(refusals) if refusals.iter().any(is_final) => Duration::ZERO,
            Self::Refused(_) | Self::Departed(_) if acted => pace::SETTLING_MAX,
            // Before the first effect only who was not seen may appear by itself: one failed look is not an answer.
            Self::Refused(refusals) if refusals.iter().all(may_pass) => pace::FIRST_LOOK_MAX,
            Self::Refused(_) => Duration::ZERO,
            // An apiserver that is not ready for a moment between the yes and the first effect is no reason to ask again.
            Self::Departed(_) => pace::UNITS_MAX,
        }
    }

    /// In one line: the first of it.
    fn text(&self) -> String {
        match self {
            Self::Refused(refusals) => refusals.first().map(Refusal::to_string).unwrap_or_default(),
            Self::Departed(departure) => format!("more is needed: {departure}"),
            Self::More(plan) => plan
                .steps()
                .next()
                .map(|step| format!("more is needed: {}: {}", step.on, step.ensure))
                .unwrap_or_default(),
            Self::Waiting(waiting, _) => waiting
                .first()
                .map(|waiting| waiting.what.clone())
                .unwrap_or_default(),
        }
    }

    fn verdict(self) -> Verdict {
        match self {
            Self::More(_) => Verdict::More,
            Self::Refused(refusals) => refused(refusals),
            Self::Departed(departure) => refused(vec![Refusal::PlanDeparted {
                departure: Box::new(departure),
            }]),
            Self::Waiting(waiting, _) => Verdict::Unseen {
                missing: waiting
                    .into_iter()
                    .map(|waiting| waiting.to_string())
                    .collect(),
            },
        }
    }
}

/// Refusals as a verdict: nothing but missing looks is not a no.
pub(crate) fn refused(refusals: Vec<Refusal>) -> Verdict {
    if refusals.iter().all(is_missing) {
        Verdict::Unseen {
            missing: refusals.iter().map(Refusal::to_string).collect(),
        }
    } else {
        Verdict::Refused { refusals }
    }
}

fn is_missing(refusal: &Refusal) -> bool {
    refusal.code() == RefusalCode::Missing
}

/// Nobody answered once: a host, or at the endpoint; or a record of DNS is still believed somewhere.
fn may_pass(refusal: &Refusal) -> bool {
    matches!(
        refusal.code(),
        RefusalCode::Missing | RefusalCode::EndpointSilent | RefusalCode::EndpointRecords
    )
}

/// Somebody else's word, which no waiting changes.
pub(crate) fn is_final(refusal: &Refusal) -> bool {
    matches!(
        refusal.code(),
        RefusalCode::Fenced | RefusalCode::OperationInForce | RefusalCode::ForeignHost
    )
}

#[cfg(test)]
#[path = "run_tests/mod.rs"]
mod tests;
