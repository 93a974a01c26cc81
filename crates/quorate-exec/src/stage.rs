//! Acting on one stage: its places side by side, the steps of a place in order. Start at [`act`].

use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

use futures_util::future::join_all;
use quorate_plan::{
    Ensure, Event, Evidence, HostEnsure, InfraEnsure, NodeName, Place, Refusal, Request, Stage,
    Standing, Step, event::Verdict, refusal::RefusalCode,
};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    fence::Held,
    hostile,
    observe::Sight,
    pace,
    run::{Run, refused},
    seam::{HostError, Hosts, Infra},
    stop::Stop,
};

/// Acts on all steps of a stage that do not stand yet. After a failure no further step begins; those in flight are waited for.
///
/// # Errors
/// How the run ends: the first failure, by the order of the stage.
pub(crate) async fn act<H: Hosts, I: Infra>(
    run: &Run<'_, H, I>,
    held: &Held,
    stage: &Stage,
    sight: &RefCell<Sight>,
) -> Result<(), Verdict> {
    let stage_in_hand = InHand {
        run,
        held,
        stage,
        sight,
        failed: Cell::new(false),
        looking: Mutex::default(),
    };
    let mut lanes: Vec<(Place, Vec<&Step>)> = Vec::new();
    for step in &stage.steps {
        let place = lane(step);
        match lanes.iter_mut().find(|(lane, _)| *lane == place) {
            Some((_, steps)) => steps.push(step),
            None => lanes.push((place, vec![step])),
        }
    }
    let ends = join_all(
        lanes
            .iter()
            .map(|(_, steps)| stage_in_hand.act_on_lane(steps)),
    )
    .await;
    ends.into_iter().collect()
}

/// Where a step queues. A machine's maker works on several at once: each machine has a queue of its own, the one its host has later.
fn lane(step: &Step) -> Place {
    match &step.ensure {
        Ensure::Infra(infra) => Place::Host(infra.node().clone()),
        Ensure::Host(_) => step.on.clone(),
    }
}

/// Why a step did not come to stand.
pub(crate) enum Failure {
    /// The host or its guard said no.
    Refused(Refusal),
    /// Everything else, as a message.
    Failed(String),
}

/// A stage that is being acted on.
pub(crate) struct InHand<'a, 'r, H, I> {
    pub(crate) run: &'a Run<'r, H, I>,
    pub(crate) held: &'a Held,
    stage: &'a Stage,
    pub(crate) sight: &'a RefCell<Sight>,
    failed: Cell<bool>,
    /// Held while somebody is looking at everything: the others need not.
    looking: Mutex<()>,
}

impl<H: Hosts, I: Infra> InHand<'_, '_, H, I> {
    async fn act_on_lane(&self, steps: &[&Step]) -> Result<(), Verdict> {
        for step in steps {
            if self.failed.get() || self.stops() {
                return Ok(());
            }
            if let Err(verdict) = self.bring_to_stand(step).await {
                self.failed.set(true);
                return Err(verdict);
            }
        }
        Ok(())
    }

    /// Whether no further step of this stage begins. A stage that changes the quorum is finished once it began.
    fn stops(&self) -> bool {
        match self.run.stop.asked() {
            Stop::No => false,
            Stop::AtSafePoint => {
                self.stage.change.is_none() && self.run.stops_at(self.sight.borrow_mut().now())
            }
            Stop::BeforeNextEffect | Stop::Now => true,
        }
    }

    async fn bring_to_stand(&self, step: &Step) -> Result<(), Verdict> {
        let begun = Instant::now();
        if let Standing::Done(evidence) = self.standing(step) {
            self.stands(step, evidence, begun);
            return Ok(());
        }
        self.run.tell(Event::StepStarted {
            step: Box::new(step.clone()),
        });
        // The journal was just asked to remember what is about to happen: when it could not, it does not happen.
        if self.run.stop.asked() >= Stop::BeforeNextEffect {
            return Ok(());
        }
        self.run.acted.set(true);
        let failure = match self.try_again(step) {
            Ok(()) => match self.make_stand(step, begun + step.ensure.patience()).await {
                Ok(evidence) => {
                    self.stands(step, evidence, begun);
                    return Ok(());
                }
                Err(failure) => failure,
            },
            Err(failure) => failure,
        };
        let (error, verdict) = match failure {
            Failure::Refused(refusal) => (refusal.to_string(), refused(vec![refusal])),
            Failure::Failed(error) => (
                error.clone(),
                Verdict::Failed {
                    step: Box::new(step.clone()),
                    error,
                },
            ),
        };
        self.run.tell(Event::StepFailed {
            step: Box::new(step.clone()),
            error,
        });
        Err(verdict)
    }

    fn stands(&self, step: &Step, evidence: Evidence, begun: Instant) {
        self.run.tell(Event::StepStands {
            step: Box::new(step.clone()),
            evidence,
            took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        });
    }

    pub(crate) fn standing(&self, step: &Step) -> Standing {
        step.standing(self.sight.borrow_mut().now())
    }

    /// Counts the tries of a step: an end state that falls again and again is a fault to be told, not to be repeated for ever.
    fn try_again(&self, step: &Step) -> Result<(), Failure> {
        let mut tries = self.run.tries.borrow_mut();
        match tries.iter_mut().find(|(tried, _)| tried == step) {
            Some((_, times)) if *times >= pace::TRIES_MAX => Err(Failure::Failed(format!(
                "it stood {times} times in this run and fell again each time"
            ))),
            Some((_, times)) => {
                *times += 1;
                Ok(())
            }
            None => {
                tries.push((step.clone(), 1));
                Ok(())
            }
        }
    }

    /// One effect, then looks until it shows.
    async fn make_stand(&self, step: &Step, deadline: Instant) -> Result<Evidence, Failure> {
        match (&step.ensure, &step.on) {
            (Ensure::Infra(what), _) if what.is_about_target() => {
                self.move_target(step, what, deadline).await?;
                return self.look_until_target_stands(step, what, deadline).await;
            }
            (Ensure::Infra(what), _) => self.make_machine(step, what, deadline).await?,
            (Ensure::Host(what), Place::Host(node)) => {
                self.make_on_host(step, what, node, deadline).await?;
            }
            (Ensure::Host(_), Place::Operator) => {
                unreachable!("a planner that puts a host's action on the operator's machine")
            }
        }
        self.look_until_it_stands(step, deadline).await
    }

    async fn make_machine(
        &self,
        step: &Step,
        what: &InfraEnsure,
        deadline: Instant,
    ) -> Result<(), Failure> {
        match what {
            InfraEnsure::Machine { .. } => {}
            // While there is somebody to give it back to.
            InfraEnsure::MachineOff { node } => {
                self.held.give_back(&self.run.world.hosts, node).await
            }
            InfraEnsure::Target { .. } | InfraEnsure::TargetGone { .. } => {
                unreachable!("no machine is made of a target")
            }
        }
        let mut progress = |line: String| self.progress(step, &line);
        let made = timeout_at(deadline, self.run.world.infra.ensure(what, &mut progress)).await;
        match made {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(Failure::Failed(hostile::text(&error.to_string()))),
            Err(_) => {
                return Err(Failure::Failed(
                    self.late(step, "the provider is still at it"),
                ));
            }
        }
        self.look_at(step).await;
        Ok(())
    }

    /// Asks a host, until it did what it was asked, said no, failed, or time is up. A lost channel is not an answer: the host may be at
    /// it still, and is asked again for what is an end state and not a command.
    async fn make_on_host(
        &self,
        step: &Step,
        what: &HostEnsure,
        node: &NodeName,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let mut pause = pace::LOOK_PAUSE_MIN;
        let mut heard = Instant::now();
        let mut told: Option<(String, Instant)> = None;
        let mut unsure: Option<Instant> = None;
        loop {
            // What was missing is looked at again, however young the last look is.
            let afresh = unsure.is_some();
            let asked = timeout_at(deadline, self.ask(step, what, node, afresh)).await;
            let excuse = match asked {
                Ok(Ok(())) => return Ok(()),
                Err(_) => return Err(Failure::Failed(self.late(step, "the host is still at it"))),
                Ok(Err(HostError::Refused { refusal, .. })) => {
                    // What it could not see may be on its way: a learner that starts, an apiserver next door. Members that were asked
                    // before and after an election tell of two leaders, and those who follow another one count for nobody.
                    heard = Instant::now();
                    let since = *unsure.get_or_insert(heard);
                    let passes = matches!(
                        refusal.code(),
                        RefusalCode::Missing | RefusalCode::WouldLoseQuorum
                    );
                    if !passes || since.elapsed() >= pace::SETTLING_MAX {
                        return Err(Failure::Refused(*refusal));
                    }
                    refusal.to_string()
                }
                Ok(Err(HostError::Failed { error, .. })) => {
                    return Err(Failure::Failed(hostile::text(&error)));
                }
                Ok(Err(error @ HostError::Busy { .. })) => {
                    heard = Instant::now();
                    error.to_string()
                }
                Ok(Err(HostError::Unreachable { node, detail })) => {
                    if heard.elapsed() >= pace::SILENCE_MAX {
                        return Err(Failure::Failed(format!(
                            "{node} did not answer for {} s: {detail}; whether the action was made there is not known",
                            heard.elapsed().as_secs()
                        )));
                    }
                    format!("{node} does not answer: {detail}")
                }
            };
            if Instant::now() >= deadline {
                return Err(Failure::Failed(self.late(step, &excuse)));
            }
            let news = told.as_ref().is_none_or(|(before, at)| {
                let pause = if *before == excuse {
                    pace::EXCUSE_EVERY
                } else {
                    pace::OTHER_EXCUSE_AFTER
                };
                at.elapsed() >= pause
            });
            if news {
                self.progress(step, &format!("asking again: {excuse}"));
                told = Some((excuse, Instant::now()));
            }
            self.pause(&mut pause, deadline).await;
            self.look_at(step).await;
            if let Standing::Done(_) = self.standing(step) {
                return Ok(());
            }
        }
    }

    /// One request to one host: the fence there, what others give it, and the end state. With testimony from right now if `afresh`.
    async fn ask(
        &self,
        step: &Step,
        what: &HostEnsure,
        node: &NodeName,
        afresh: bool,
    ) -> Result<(), HostError> {
        let hosts = &self.run.world.hosts;
        self.held.on(hosts, node).await?;
        let mut sealed = Vec::new();
        if let Some(handover) = &step.handover {
            self.held.on(hosts, handover.from()).await?;
            let recipient = hosts.recipient(node).await?;
            sealed.push(hosts.seal(self.held.fence(), handover, &recipient).await?);
        }
        let age_max = match what {
            _ if self.stage.change.is_some() => Some(pace::TESTIMONY_AGE_MAX),
            HostEnsure::Backend { .. } => Some(pace::READINESS_AGE_MAX),
            _ => None,
        };
        if let Some(age_max) = age_max {
            let age_max = if afresh { Duration::ZERO } else { age_max };
            self.look_at_everything(age_max).await;
        }
        let request = Request {
            fence: self.held.fence(),
            ensure: what.clone(),
            change: self.stage.change.clone(),
            sealed,
            receipt: None,
            accepted: self.run.intent.accepted.clone(),
            testimony: self.sight.borrow_mut().now().clone(),
        };
        let mut progress = |line: String| self.progress(step, &line);
        let outcome = hosts.ensure(node, request, &mut progress).await?;
        self.sight.borrow_mut().record(node, outcome.report);
        Ok(())
    }

    async fn look_until_it_stands(
        &self,
        step: &Step,
        deadline: Instant,
    ) -> Result<Evidence, Failure> {
        let mut pause = pace::LOOK_PAUSE_MIN;
        loop {
            let seen = match self.standing(step) {
                Standing::Done(evidence) => return Ok(evidence),
                Standing::Open(differences) => differences
                    .iter()
                    .map(|difference| difference.0.as_str())
                    .collect::<Vec<_>>()
                    .join("; "),
                Standing::Unknown(missing) => missing.to_string(),
            };
            if Instant::now() >= deadline {
                return Err(Failure::Failed(self.late(step, &seen)));
            }
            self.pause(&mut pause, deadline).await;
            let due = self.sight.borrow().whole_at.elapsed() >= pace::WHOLE_LOOK_EVERY;
            if due && self.looking.try_lock().is_ok() {
                self.look_at_everything(pace::WHOLE_LOOK_EVERY).await;
            } else {
                self.look_at(step).await;
            }
        }
    }

    async fn pause(&self, pause: &mut Duration, deadline: Instant) {
        sleep((*pause).min(deadline.saturating_duration_since(Instant::now()))).await;
        *pause = pace::longer(*pause);
    }

    /// Looks at the host a step is about, and at its machine when the step made that.
    pub(crate) async fn look_at(&self, step: &Step) {
        if let Ensure::Infra(infra) = &step.ensure
            && infra.is_about_target()
        {
            let targets = Sight::look_at_targets(self.run.world).await;
            self.sight.borrow_mut().take_in_targets(targets);
            return;
        }
        let (node, with_infra) = match (&step.ensure, &step.on) {
            (Ensure::Infra(infra), _) => (infra.node(), true),
            (Ensure::Host(_), Place::Host(node)) => (node, false),
            (Ensure::Host(_), Place::Operator) => return,
        };
        let glance = Sight::look_at(self.run.world, node, with_infra).await;
        self.sight.borrow_mut().take_in(glance);
    }

    /// Looks at everything, unless that was done at most `age_max` ago, by whoever.
    pub(crate) async fn look_at_everything(&self, age_max: Duration) {
        let _alone = self.looking.lock().await;
        if self.sight.borrow().whole_at.elapsed() <= age_max {
            return;
        }
        let sight = Sight::look(self.run.world, self.run.intent).await;
        self.sight.borrow_mut().merge(sight);
    }

    pub(crate) fn progress(&self, step: &Step, line: &str) {
        self.run.tell(Event::StepProgress {
            step: Box::new(step.clone()),
            line: hostile::line(line),
        });
    }

    pub(crate) fn late(&self, step: &Step, seen: &str) -> String {
        format!(
            "expected that the {} within {} s, seen: {seen}",
            step.ensure,
            step.ensure.patience().as_secs()
        )
    }
}
