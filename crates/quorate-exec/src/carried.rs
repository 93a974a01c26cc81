//! Requests that somebody else carries to the hosts, as configuration management does: what is next of an intent, ready to be handed over.
//! Start at [`next`]. What is next and no host's, which is what a cloud's balancer is asked for, is done from here: [`provide`].
//!
//! One step of each host of a stage, since the next one of a host begins only once somebody saw this one stand. Everything that makes a run
//! safe is here as well: the plan is made afresh, the stage is permitted, the host has the fence, what others give is sealed to it. What the
//! time on the way makes of the testimony, the host knows by the ticket it issued.

use std::time::Duration;

use futures_util::future::join_all;
use quorate_plan::{
    Claim, Ensure, Event, HostEnsure, NodeName, Observation, Place, Planning, Refusal, Request,
    Sealed, Stage, Standing, Step, admit, admit::Recipient, event::Verdict, observation::Fencing,
    permit, plan, plan::Waiting, standing::Difference, wire::Carried,
};
use tokio::time::{Instant, sleep};

use crate::{
    fence::Held,
    hostile,
    observe::{Sight, arriving_max},
    pace,
    run::{act_on, is_final, refused},
    seam::{HostError, Hosts, Infra, World},
};

/// What is to be handed over next.
#[derive(Clone, Debug)]
pub struct Round {
    /// The stage, as planned now.
    pub stage: Stage,
    /// Steps left, those of this round among them.
    pub left: usize,
    /// The first open step of each host of the stage.
    pub asked: Vec<Asked>,
    /// The same of what is the provider's: [`provide`] does that.
    pub provider: Vec<Open>,
}

/// A step that does not stand.
#[derive(Clone, Debug)]
pub struct Open {
    /// The step.
    pub step: Step,
    /// What differs from its end state now, as far as that can be seen from here.
    pub differences: Vec<Difference>,
}

/// One step of one host.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The host.
    pub on: NodeName,
    /// The step.
    pub step: Step,
    /// What differs from its end state now, as far as that can be seen from here.
    pub differences: Vec<Difference>,
    /// What to hand over.
    pub carried: Carried,
}

/// The next round of the operation that `claim` holds the fence for; `None` when nothing is left to do.
///
/// Waits for a bounded time for what passes by itself: a host that boots, a control plane that restarts after what was just done.
///
/// # Errors
/// Why there is none.
pub async fn next<H: Hosts, I: Infra>(
    world: &World<H, I>,
    claim: &Claim,
) -> Result<Option<Round>, Verdict> {
    let intent = &claim.intent;
    let Some((
        Next {
            stage,
            left,
            firsts,
        },
        sight,
    )) = open_stage(world, claim).await?
    else {
        return Ok(None);
    };
    let held = Held::again(claim.clone());
    let mut provider = Vec::new();
    let mut by_host = Vec::new();
    for (node, step) in firsts {
        match &step.ensure {
            Ensure::Host(ensure) => by_host.push((node, ensure.clone(), step)),
            Ensure::Infra(_) => provider.push(of_provider(step)?),
        }
    }
    let tickets = join_all(
        by_host
            .iter()
            .map(|(node, ensure, step)| ticket(&world.hosts, &held, node, ensure, step)),
    )
    .await;
    // Tickets are older than testimony; and what a guard is to believe should not have waited for them.
    let mut sight = match stage.change {
        Some(_) => Sight::look(world, intent).await,
        None => sight,
    };
    let seen = sight.now();
    let mut asked = Vec::new();
    for ((node, ensure, step), ticket) in by_host.into_iter().zip(tickets) {
        let (ticket, sealed) = ticket.map_err(|error| verdict(&step, error))?;
        asked.push(Asked {
            differences: open(&step, seen),
            carried: Carried {
                ticket,
                request: request(claim, &stage, &ensure, sealed, seen),
            },
            on: node,
            step,
        });
    }
    let provider = provider
        .into_iter()
        .map(|step| Open {
            differences: open(&step, seen),
            step,
        })
        .collect();
    Ok(Some(Round {
        stage,
        left,
        asked,
        provider,
    }))
}

/// Does what is next and the provider's, of the operation that `claim` holds the fence for, and waits until it stands: targets of a cloud's
/// balancer, which take minutes. Says how many steps that were; none, where hosts have to act before.
///
/// It is a run's own way to act on a stage: nothing is asked of the cloud but what the guard lets pass and the hosts confirm right before.
///
/// # Errors
/// Why it does not stand.
pub async fn provide<H: Hosts, I: Infra>(
    world: &World<H, I>,
    claim: &Claim,
    emit: &mut dyn FnMut(Event),
) -> Result<usize, Verdict> {
    let Some((next, mut sight)) = open_stage(world, claim).await? else {
        return Ok(0);
    };
    let mut steps = Vec::new();
    for (_, step) in next.firsts {
        if let Ensure::Infra(_) = step.ensure {
            steps.push(of_provider(step)?);
        }
    }
    let stage = Stage {
        steps,
        ..next.stage
    };
    if stage.steps.is_empty() {
        return Ok(0);
    }
    let held = Held::again(claim.clone());
    held.on_masters(&world.hosts, sight.now())
        .await
        .map_err(|refusal| refused(vec![refusal]))?;
    act_on(&stage, sight, &claim.intent, world, &held, emit).await?;
    Ok(stage.steps.len())
}

/// A step, if it is one that needs nothing but a provider's answer. Machines are made by a run, which sees them boot.
fn of_provider(step: Step) -> Result<Step, Verdict> {
    match &step.ensure {
        Ensure::Infra(infra) if !infra.is_about_target() => Err(failed(
            &step,
            "machines are made and switched off by `quorate apply` alone".into(),
        )),
        Ensure::Infra(_) | Ensure::Host(_) => Ok(step),
    }
}

/// What differs from the end state of a step, as far as that can be seen. Not to see it is a difference.
pub fn open(step: &Step, seen: &Observation) -> Vec<Difference> {
    match step.standing(seen) {
        Standing::Done(_) => Vec::new(),
        Standing::Open(differences) => differences,
        Standing::Unknown(missing) => vec![Difference(missing.to_string())],
    }
}

/// Makes a host ready for one request: the fence there, its ticket, what others seal to that.
async fn ticket<H: Hosts>(
    hosts: &H,
    held: &Held,
    node: &NodeName,
    ensure: &HostEnsure,
    step: &Step,
) -> Result<(Recipient, Vec<Sealed>), HostError> {
    held.on(hosts, node).await?;
    let ticket = hosts.ticket(node, ensure).await?;
    let mut sealed = Vec::new();
    if let Some(handover) = &step.handover {
        held.on(hosts, handover.from()).await?;
        sealed.push(hosts.seal(held.fence(), handover, &ticket).await?);
    }
    Ok((ticket, sealed))
}

/// Looks and plans until there is a stage that may be acted on, nothing is left, or it is clear that neither will be.
async fn open_stage<H: Hosts, I: Infra>(
    world: &World<H, I>,
    claim: &Claim,
) -> Result<Option<(Next, Sight)>, Verdict> {
    let since = Instant::now();
    let mut pause = pace::LOOK_PAUSE_MIN;
    loop {
        let mut sight = Sight::look(world, &claim.intent).await;
        let trouble = match judge(claim, sight.now()) {
            Ok(None) => return Ok(None),
            Ok(Some(next)) => return Ok(Some((next, sight))),
            Err(trouble) => trouble,
        };
        // The round before may have been an effect a moment ago.
        let patience = match &trouble {
            Trouble::Refused(refusals) if refusals.iter().any(is_final) => Duration::ZERO,
            Trouble::Refused(_) => pace::SETTLING_MAX,
            Trouble::Waiting(_) => arriving_max(sight.now()).max(pace::SETTLING_MAX),
        };
        if since.elapsed() >= patience {
            return Err(match trouble {
                Trouble::Refused(refusals) => refused(refusals),
                Trouble::Waiting(waiting) => Verdict::Unseen {
                    missing: waiting.iter().map(Waiting::to_string).collect(),
                },
            });
        }
        sleep(pause).await;
        pause = pace::longer(pause);
    }
}

/// Why nothing can be asked for just now.
enum Trouble {
    Refused(Vec<Refusal>),
    Waiting(Vec<Waiting>),
}

/// What is next, by a fresh plan.
struct Next {
    stage: Stage,
    left: usize,
    /// The first open step of each host of the stage.
    firsts: Vec<(NodeName, Step)>,
}

/// The first open stage of a fresh plan, of which nothing would be refused by a host that saw no more than this.
fn judge(claim: &Claim, seen: &Observation) -> Result<Option<Next>, Trouble> {
    let Planning {
        plan,
        waiting,
        refused,
    } = plan(&claim.intent, seen);
    if !refused.is_empty() {
        return Err(Trouble::Refused(refused));
    }
    let left = plan.len();
    for stage in plan.stages {
        let mut firsts: Vec<(NodeName, Step)> = Vec::new();
        for step in &stage.steps {
            let node = match (&step.on, &step.ensure) {
                (_, Ensure::Infra(infra)) => infra.node(),
                (Place::Host(node), Ensure::Host(_)) => node,
                (Place::Operator, Ensure::Host(_)) => {
                    unreachable!("a planner that puts a host's action on the operator's machine")
                }
            };
            let queued = firsts.iter().any(|(other, _)| other == node);
            if !queued && !matches!(step.standing(seen), Standing::Done(_)) {
                firsts.push((node.clone(), step.clone()));
            }
        }
        if firsts.is_empty() {
            continue;
        }
        admitted(claim, &stage, &firsts, seen)?;
        return Ok(Some(Next {
            stage,
            left,
            firsts,
        }));
    }
    if waiting.is_empty() {
        Ok(None)
    } else {
        Err(Trouble::Waiting(waiting))
    }
}

/// Each host judges again, by a look of its own. This is so that nothing is asked for that it would refuse.
fn admitted(
    claim: &Claim,
    stage: &Stage,
    firsts: &[(NodeName, Step)],
    seen: &Observation,
) -> Result<(), Trouble> {
    let fencing = Fencing {
        highest: claim.fence,
        claim: Some(claim.clone()),
        connected: false,
    };
    for (_, step) in firsts {
        match (&step.ensure, &stage.change) {
            (Ensure::Host(ensure), _) => {
                let request = request(claim, stage, ensure, Vec::new(), seen);
                let _admitted = admit(request, &fencing, seen)
                    .map_err(|refusal| Trouble::Refused(vec![refusal]))?;
            }
            (Ensure::Infra(_), Some(change)) => {
                let _permitted = permit(seen, change, &claim.intent.accepted)
                    .map_err(|refusal| Trouble::Refused(vec![refusal]))?;
            }
            (Ensure::Infra(_), None) => {}
        }
    }
    Ok(())
}

fn request(
    claim: &Claim,
    stage: &Stage,
    ensure: &HostEnsure,
    sealed: Vec<Sealed>,
    seen: &Observation,
) -> Request {
    Request {
        fence: claim.fence,
        ensure: ensure.clone(),
        change: stage.change.clone(),
        sealed,
        accepted: claim.intent.accepted.clone(),
        testimony: seen.clone(),
    }
}

fn verdict(step: &Step, error: HostError) -> Verdict {
    match error {
        HostError::Refused { refusal, .. } => refused(vec![*refusal]),
        HostError::Failed { error, .. } => failed(step, hostile::text(&error)),
        HostError::Busy { .. } | HostError::Unreachable { .. } => Verdict::Unseen {
            missing: vec![hostile::line(&error.to_string())],
        },
    }
}

fn failed(step: &Step, error: String) -> Verdict {
    Verdict::Failed {
        step: Box::new(step.clone()),
        error,
    }
}
