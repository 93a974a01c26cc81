//! Acting on a target of the cloud's balancer. No host is there that would know the token or judge the request, so this machine does both
//! right before it asks: a fresh look passes the guard, the hosts confirm the fence, and what the cloud says by then passes it again. Start at [`InHand::move_target`].

use std::time::Duration;

use quorate_plan::{
    Evidence, InfraEnsure, Refusal, Standing, Step, permit_infra, refusal::RefusalCode,
};
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    hostile,
    observe::Sight,
    pace,
    seam::{Hosts, Infra},
    stage::{Failure, InHand},
};

impl<H: Hosts, I: Infra> InHand<'_, '_, H, I> {
    /// Asks the cloud once that has been permitted.
    pub(crate) async fn move_target(
        &self,
        step: &Step,
        what: &InfraEnsure,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let began = Instant::now();
        let mut told: Option<Instant> = None;
        loop {
            let refusal = match self.permitted(what).await {
                Ok(()) => break,
                Err(refusal) => refusal,
            };
            // What was not seen, or is not healthy just now, may be in a moment.
            let may_pass = matches!(
                refusal.code(),
                RefusalCode::Missing | RefusalCode::LastTarget
            );
            if !may_pass || began.elapsed() >= pace::TARGET_UNSURE_MAX || Instant::now() >= deadline
            {
                return Err(Failure::Refused(refusal));
            }
            if told.is_none_or(|told| told.elapsed() >= pace::EXCUSE_EVERY) {
                told = Some(Instant::now());
                self.progress(step, &format!("looking again: {refusal}"));
            }
            sleep(pace::TARGET_LOOK_PAUSE).await;
        }
        let mut progress = |line: String| self.progress(step, &line);
        let asked = timeout_at(deadline, self.run.world.infra.ensure(what, &mut progress)).await;
        match asked {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(Failure::Failed(hostile::text(&error.to_string()))),
            Err(_) => return Err(Failure::Failed(self.late(step, "no answer of the cloud"))),
        }
        self.look_at(step).await;
        Ok(())
    }

    /// Confirming the fence may wait for hosts that do not answer, and their targets turn unhealthy meanwhile: what the cloud says is looked at
    /// once more after it, which is one question.
    async fn permitted(&self, what: &InfraEnsure) -> Result<(), Refusal> {
        self.look_at_everything(Duration::ZERO).await;
        let seen = self.sight.borrow_mut().now().clone();
        permit_infra(&seen, what)?;
        self.held.confirm(&self.run.world.hosts, &seen).await?;
        let targets = Sight::look_at_targets(self.run.world).await;
        let mut sight = self.sight.borrow_mut();
        sight.take_in_targets(targets);
        permit_infra(sight.now(), what)
    }

    /// Looks until it shows, and tells what it sees: it takes minutes.
    pub(crate) async fn look_until_target_stands(
        &self,
        step: &Step,
        what: &InfraEnsure,
        deadline: Instant,
    ) -> Result<Evidence, Failure> {
        let began = deadline - step.ensure.patience();
        let mut told: Option<(String, Instant)> = None;
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
                return Err(self.overdue(step, what, began));
            }
            let news = told
                .as_ref()
                .is_none_or(|(before, at)| *before != seen || at.elapsed() >= pace::EXCUSE_EVERY);
            if news {
                let line = format!(
                    "{seen}, for {} s of at most {}",
                    began.elapsed().as_secs(),
                    step.ensure.patience().as_secs()
                );
                self.progress(step, &line);
                told = Some((seen, Instant::now()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            sleep(pace::TARGET_LOOK_PAUSE.min(left)).await;
            self.look_at(step).await;
        }
    }

    /// A target that is seen, and is not what it should be after all that time, is a refusal of the balancer's.
    fn overdue(&self, step: &Step, what: &InfraEnsure, began: Instant) -> Failure {
        let seen = self.sight.borrow_mut().now().target(what.node()).cloned();
        match (what, seen) {
            (InfraEnsure::Target { node, instance }, Ok(target)) => {
                Failure::Refused(Refusal::TargetUnhealthy {
                    node: node.clone(),
                    instance: instance.clone(),
                    seen: target.to_string(),
                    waited_s: began.elapsed().as_secs(),
                })
            }
            (InfraEnsure::Target { .. }, Err(missing)) => Failure::Refused(missing.into()),
            (_, Ok(target)) => Failure::Failed(self.late(step, &target.to_string())),
            (_, Err(missing)) => Failure::Refused(missing.into()),
        }
    }
}
