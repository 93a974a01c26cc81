//! The fence: one token higher than any that was seen, acknowledged by every host that will be acted on and by a majority of the old and
//! the new masters. Start at [`take`].
//!
//! The token lives on the hosts only. A host that has not acknowledged it is not acted on; a machine that is made in the run acknowledges
//! it before its first action, see [`Held::on`].

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use futures_util::future::join_all;
use quorate_plan::{
    Claim, Ensure, Fence, Intent, Missing, NodeName, Observation, Operator, Place, Plan, Refusal,
    Seen, health, observation::Power, quorum,
};

use crate::{
    identity,
    seam::{HostError, Hosts},
};

/// The fence, taken.
#[derive(Debug)]
pub struct Held {
    claim: Claim,
    acknowledged: RefCell<BTreeSet<NodeName>>,
}

impl Held {
    /// Held by another process of the same run, which ended: hosts that acknowledged it do so again.
    pub fn again(claim: Claim) -> Self {
        Self {
            claim,
            acknowledged: RefCell::default(),
        }
    }

    /// What hosts are told.
    pub fn claim(&self) -> &Claim {
        &self.claim
    }

    /// The token.
    pub fn fence(&self) -> Fence {
        self.claim.fence
    }

    /// Hosts that acknowledged it so far.
    pub fn acknowledged(&self) -> BTreeSet<NodeName> {
        self.acknowledged.borrow().clone()
    }

    /// Takes it on one more host, where that was not done yet.
    ///
    /// # Errors
    /// When the host refuses or does not answer: then it must not be acted on.
    pub async fn on<H: Hosts>(&self, hosts: &H, node: &NodeName) -> Result<(), HostError> {
        if self.acknowledged.borrow().contains(node) {
            return Ok(());
        }
        let fencing = hosts.claim(node, &self.claim).await?;
        if fencing.highest != self.claim.fence {
            return Err(HostError::Failed {
                node: node.clone(),
                error: format!(
                    "it was claimed with token {} and says its highest is {}",
                    self.claim.fence, fencing.highest
                ),
            });
        }
        self.acknowledged.borrow_mut().insert(node.clone());
        Ok(())
    }

    /// Takes it on those hosts that [`Held::confirm`] asks, as far as they answer.
    ///
    /// # Errors
    /// When one of them says that somebody took over.
    pub async fn on_masters<H: Hosts>(&self, hosts: &H, seen: &Observation) -> Result<(), Refusal> {
        let nodes = self.claim.intent.machines().map(|(node, ..)| node);
        let masters = nodes.filter(|node| self.has_a_say(node, seen));
        let answers = join_all(masters.map(|node| self.on(hosts, node))).await;
        for error in answers.into_iter().filter_map(Result::err) {
            match error {
                HostError::Refused { .. } => return Err(refusal(error)),
                HostError::Busy { .. }
                | HostError::Failed { .. }
                | HostError::Unreachable { .. } => {}
            }
        }
        Ok(())
    }

    /// Asks again whether it is still in force, right before an effect where no host can say: at a cloud. A majority of the masters of the
    /// cluster file has to say so, and none of them or of those that still run etcd may say otherwise. A host that was reset is left alone.
    ///
    /// # Errors
    /// [`Refusal::Fenced`] and the like when somebody took over; [`Refusal::Missing`] when too few answer.
    pub async fn confirm<H: Hosts>(&self, hosts: &H, seen: &Observation) -> Result<(), Refusal> {
        let nodes = self.acknowledged();
        let masters = &self.claim.intent.spec.control_plane;
        let answers = nodes
            .iter()
            .filter(|node| self.has_a_say(node, seen))
            .map(async |node| (node, hosts.claim(node, &self.claim).await));
        let mut confirmed = 0;
        for (node, answer) in join_all(answers).await {
            match answer {
                Ok(fencing) if fencing.highest == self.claim.fence => {
                    confirmed += usize::from(masters.contains_key(node));
                }
                Ok(_) => {}
                Err(error @ HostError::Refused { .. }) => return Err(refusal(error)),
                Err(
                    HostError::Busy { .. }
                    | HostError::Failed { .. }
                    | HostError::Unreachable { .. },
                ) => {}
            }
        }
        let needed = quorum::needed(masters.len());
        if confirmed < needed {
            return Err(Missing::no_answer(
                "the fence, right before the cloud is asked for something,",
                format!(
                    "{confirmed} of {} masters confirm it, {needed} needed",
                    masters.len()
                ),
            )
            .into());
        }
        Ok(())
    }

    fn has_a_say(&self, node: &NodeName, seen: &Observation) -> bool {
        self.claim.intent.spec.control_plane.contains_key(node)
            || matches!(seen.etcd_at(node), Ok(Some(_)))
    }

    /// Gives it back on one host that is about to be of no cluster any more. Where it cannot be told it goes on naming this operation.
    pub async fn give_back<H: Hosts>(&self, hosts: &H, node: &NodeName) {
        if self.acknowledged.borrow_mut().remove(node)
            && let Err(error) = hosts.release(node, self.claim.fence).await
        {
            tracing::debug!(%error, "could not give the fence back");
        }
    }

    /// Gives it back everywhere: the operation is over. Hosts that could not be told go on naming an operation nobody is at; the next
    /// one may take over.
    pub async fn release<H: Hosts>(&self, hosts: &H) -> Vec<HostError> {
        let nodes = self.acknowledged();
        let answers = join_all(
            nodes
                .iter()
                .map(|node| hosts.release(node, self.claim.fence)),
        )
        .await;
        answers.into_iter().filter_map(Result::err).collect()
    }
}

/// Takes the fence for acting on `plan`.
///
/// An operation that somebody is at is not taken over. One that nobody is at any more can be continued by anybody who wants the same,
/// and replaced by whoever began it. Hosts judge that again when they are claimed.
///
/// # Errors
/// Why not. Hosts that had acknowledged already were told that it is over.
pub async fn take<H: Hosts>(
    hosts: &H,
    seen: &Observation,
    intent: &Intent,
    plan: &Plan,
    operator: &Operator,
) -> Result<Held, Vec<Refusal>> {
    let in_force = in_force(seen, intent, operator);
    if !in_force.is_empty() {
        return Err(in_force);
    }
    let highest = seen
        .hosts
        .values()
        .filter_map(|host| host.get().ok()?.fencing.get().ok())
        .map(|fencing| fencing.highest)
        .max()
        .unwrap_or_default();
    let held = Held {
        claim: Claim {
            fence: highest.next(),
            operator: operator.clone(),
            since: identity::now_ms() / 1000,
            intent: intent.clone(),
        },
        acknowledged: RefCell::default(),
    };
    let masters = Masters {
        named: intent.spec.control_plane.keys().cloned().collect(),
        leaving: leaving(seen, intent),
    };
    let touched = touched(plan);
    let there: BTreeSet<&NodeName> = masters
        .named
        .iter()
        .chain(&masters.leaving)
        .chain(&touched)
        .filter(|node| exists(seen, node))
        .collect();
    let refusals = unanswered(seen, &masters, &touched, &there);
    if !refusals.is_empty() {
        return Err(refusals);
    }
    let mut errors: BTreeMap<&NodeName, HostError> = BTreeMap::new();
    // The first that answers is asked alone. Of two operators who come at the same moment it has one, and the other has nothing that the
    // first one needs; asked side by side, each would be refused by who has heard of the other first.
    let mut to_ask: BTreeSet<&NodeName> = there.clone();
    for node in there.iter().filter(|node| seen.host(node).is_ok()) {
        to_ask.remove(node);
        match held.on(hosts, node).await {
            Ok(()) => break,
            Err(error @ HostError::Refused { .. }) => return Err(vec![refusal(error)]),
            Err(error) => {
                errors.insert(node, error);
            }
        }
    }
    for (node, answer) in join_all(
        to_ask
            .into_iter()
            .map(async |node| (node, held.on(hosts, node).await)),
    )
    .await
    {
        if let Err(error) = answer {
            errors.insert(node, error);
        }
    }
    let short = short_of(seen, &masters, &there, &held.acknowledged.borrow());
    let refusals: Vec<Refusal> = errors
        .into_iter()
        .filter(|(node, error)| {
            // A master that the plan does not touch may be missing while a majority is not, unless it says no. So may one that the plan
            // waits for, since it is silent: it is claimed before it is acted on.
            let needed = touched.contains(*node) && !health::is_silent(seen, node);
            needed || short.is_some() || matches!(error, HostError::Refused { .. })
        })
        .map(|(_, error)| refusal(error))
        .chain(short.clone())
        .collect();
    if refusals.is_empty() {
        Ok(held)
    } else {
        for error in held.release(hosts).await {
            tracing::warn!(%error, "could not give the fence back");
        }
        Err(refusals)
    }
}

/// Operations of others that are in force, one refusal for each.
fn in_force(seen: &Observation, intent: &Intent, operator: &Operator) -> Vec<Refusal> {
    let mut found: BTreeMap<(String, String), BTreeSet<NodeName>> = BTreeMap::new();
    for (node, host) in &seen.hosts {
        let Ok(host) = host.get() else { continue };
        let Ok(fencing) = host.fencing.get() else {
            continue;
        };
        let Some(claim) = &fencing.claim else {
            continue;
        };
        let same_run = claim.operator == *operator;
        let same_person =
            (&claim.operator.user, &claim.operator.machine) == (&operator.user, &operator.machine);
        let may_go_on = same_person || claim.intent.is_the_same_as(intent);
        if !same_run && (fencing.connected || !may_go_on) {
            found
                .entry((claim.operator.to_string(), claim.intent.goal.to_string()))
                .or_default()
                .insert(node.clone());
        }
    }
    found
        .into_iter()
        .map(|((holder, goal), hosts)| Refusal::OperationInForce {
            holder,
            goal,
            hosts,
        })
        .collect()
}

/// Hosts that a plan has an effect on: those it acts on, and those that give something to another.
fn touched(plan: &Plan) -> BTreeSet<NodeName> {
    let mut nodes = BTreeSet::new();
    for step in plan.steps() {
        match (&step.on, &step.ensure) {
            (Place::Host(node), Ensure::Host(_)) => {
                nodes.insert(node.clone());
            }
            // The machine's maker needs no fence of it, and it may not be there yet.
            (Place::Host(_), Ensure::Infra(_)) | (Place::Operator, _) => {}
        }
        if let Some(handover) = &step.handover {
            nodes.insert(handover.from().clone());
        }
    }
    nodes
}

/// Whether there is a host that can acknowledge now: one that is not made yet, or is switched off, does so when it runs.
fn exists(seen: &Observation, node: &NodeName) -> bool {
    match seen.infra.get(node) {
        Some(Seen::Known { value, .. }) => match value.power {
            Power::Absent | Power::Off => false,
            Power::Frozen | Power::Running => true,
        },
        Some(Seen::Unknown(_)) | None => true,
    }
}

/// Whose majorities are needed.
struct Masters {
    /// By the cluster file.
    named: BTreeSet<NodeName>,
    /// Not by the file, and seen to run etcd: they belong to the old ones until they have left.
    leaving: BTreeSet<NodeName>,
}

fn leaving(seen: &Observation, intent: &Intent) -> BTreeSet<NodeName> {
    let runs_etcd = |node: &&NodeName| matches!(seen.etcd_at(node), Ok(Some(_)));
    let retired = intent.retired.keys();
    retired
        .filter(|node| intent.spec.machine(node).is_none())
        .filter(runs_etcd)
        .cloned()
        .collect()
}

/// What could not be had if hosts went on as silent as they were when they were looked at: then nobody is asked for anything yet.
fn unanswered(
    seen: &Observation,
    masters: &Masters,
    touched: &BTreeSet<NodeName>,
    there: &BTreeSet<&NodeName>,
) -> Vec<Refusal> {
    let silent: BTreeMap<&NodeName, Missing> = there
        .iter()
        .filter_map(|node| Some((*node, seen.host(node).err()?)))
        .collect();
    let answered: BTreeSet<NodeName> = there
        .iter()
        .filter(|node| !silent.contains_key(**node))
        .map(|node| (*node).clone())
        .collect();
    let short = short_of(seen, masters, there, &answered);
    silent
        .into_iter()
        .filter(|(node, _)| touched.contains(*node) || short.is_some())
        .map(|(_, missing)| missing.into())
        .chain(short.clone())
        .collect()
}

/// What is missing to a majority of the old masters and to one of the new ones. Masters nobody could see count as both; those whose
/// machine is known not to run count as neither: nobody can act on them until somebody starts them, and then they are claimed first.
fn short_of(
    seen: &Observation,
    masters: &Masters,
    there: &BTreeSet<&NodeName>,
    acknowledged: &BTreeSet<NodeName>,
) -> Option<Refusal> {
    let those_there = |some: &'_ BTreeSet<NodeName>| -> BTreeSet<NodeName> {
        some.iter()
            .filter(|node| there.contains(node))
            .cloned()
            .collect()
    };
    let new = those_there(&masters.named);
    let old: BTreeSet<NodeName> = new
        .union(&those_there(&masters.leaving))
        .filter(|node| match seen.etcd_at(node) {
            Ok(etcd) => etcd.is_some(),
            Err(_) => true,
        })
        .cloned()
        .collect();
    [
        ("the masters there are", new),
        ("the masters that run etcd", old),
    ]
    .into_iter()
    .find_map(|(whose, set)| {
        let have = set
            .iter()
            .filter(|node| acknowledged.contains(*node))
            .count();
        let needed = quorum::needed(set.len());
        (!set.is_empty() && have < needed).then(|| Refusal::Missing {
            missing: Missing::no_answer(
                format!("the fence on a majority of {whose}"),
                format!("{have} of {} acknowledged, {needed} needed", set.len()),
            ),
        })
    })
}

/// A host's answer to a claim as a refusal.
fn refusal(error: HostError) -> Refusal {
    match error {
        HostError::Refused { refusal, .. } => *refusal,
        other => {
            let (node, detail) = match other {
                HostError::Failed { node, error } => (node, error),
                HostError::Unreachable { node, detail } => (node, detail),
                HostError::Busy {
                    node,
                    action,
                    since_ms,
                    ..
                } => (node, format!("busy with `{action}` for {since_ms} ms")),
                HostError::Refused { .. } => unreachable!("handled above"),
            };
            Refusal::Missing {
                missing: Missing::no_answer(format!("the fence of {node}"), detail),
            }
        }
    }
}
